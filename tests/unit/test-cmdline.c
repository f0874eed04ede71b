/*
 * The rewriting of QEMU's command line: lines, and what becomes of them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/cmdline.h"

#include <string.h>

#define NBD "file.driver=nbd,file.server.type=unix,file.server.path=S," \
            "file.server.abstract=on,file.export="
#define RAW ",file.reconnect-delay=30,format=raw,id="
#define QMP " -chardev socket,id=qemu-sidecar-qmp,fd=7 " \
            "-mon chardev=qemu-sidecar-qmp,mode=control"
#define D(name) "-drive " NBD name RAW name
#define VC " -monitor vc:80Cx24C"

static int shared_fd(void *opaque, const EmuMonitor *monitor)
{
    return 8;
}

static const EmuRuntime runtime = {
    .nbd_socket = "S",
    .qmp_fd = 7,
    .shared_fd = shared_fd,
};

static EmuCmdline *plan(const char *line, GError **errp)
{
    g_auto(GStrv) argv = NULL;
    g_autoptr(EmuCmdline) cl = NULL;

    g_assert_true(g_shell_parse_argv(line, NULL, &argv, NULL));
    cl = emu_cmdline_parse((const char *const *)argv);
    return emu_cmdline_plan(cl, errp) ? g_steal_pointer(&cl) : NULL;
}

static char *rewrite(EmuCmdline *cl)
{
    g_auto(GStrv) argv = emu_cmdline_argv(cl, &runtime);

    return g_strjoinv(" ", argv);
}

static const struct {
    const char *line, *expected;
} lines[] = {
    /* nothing to do */
    {"q -nodefaults", "q -nodefaults" QMP},
    {"q -m 512", "q -m 512" VC QMP},
    {"q --enable-kvm -nodefaults", "q --enable-kvm -nodefaults" QMP},
    /* arguments that look like options */
    {"q -nodefaults -append '-drive file=x' -name -hda -kernel k",
     "q -nodefaults -append -drive file=x -name -hda -kernel k" QMP},
    {"q -nodefaults -newoption -hdc x", "q -nodefaults -newoption " D("ide1-hd0")
     ",index=2,media=disk" QMP},
    {"q -nodefaults -drive file=a,format=raw,size=528k",
     "q -nodefaults " D("ide0-hd0") QMP},
    {"q -nodefaults -drive", "q -nodefaults" QMP " -drive"},
    {"q -nodefaults -newoption x", "q -nodefaults -newoption x" QMP},
    /* drives */
    {"q -nodefaults -drive file=a,format=raw,if=virtio",
     "q -nodefaults " D("virtio0") ",if=virtio" QMP},
    {"q -nodefaults --drive if=virtio,file=a,,b,format=raw,werror=stop",
     "q -nodefaults " D("virtio0") ",if=virtio,werror=stop" QMP},
    {"q -nodefaults -drive file=a,id=d,if=none,cache=none,aio=native,discard=unmap",
     "q -nodefaults " D("d") ",if=none,cache=none,discard=unmap" QMP},
    {"q -nodefaults -drive file=a,readonly", "q -nodefaults " D("ide0-hd0")
     ",readonly=on" QMP},
    {"q -nodefaults -drive file=file:a,throttling.bps-total=9,file.locking=off",
     "q -nodefaults " D("ide0-hd0") ",throttling.bps-total=9" QMP},
    {"q -nodefaults -drive file=a,format=qcow2,l2-cache-size=8M,if=virtio",
     "q -nodefaults " D("virtio0") ",if=virtio" QMP},
    {"q -nodefaults a.img", "q -nodefaults " D("ide0-hd0")
     ",index=0,media=disk" QMP},
    {"q -nodefaults -hda a,b -cdrom c", "q -nodefaults " D("ide0-hd0")
     ",index=0,media=disk " D("ide1-cd0") ",index=2,media=cdrom" QMP},
    {"q -nodefaults -fda f -pflash p", "q -nodefaults " D("floppy0")
     ",if=floppy,index=0 " D("pflash0") ",if=pflash" QMP},
    /* left to QEMU */
    {"q -nodefaults -drive file=nbd:localhost:1,if=virtio",
     "q -nodefaults -drive file=nbd:localhost:1,if=virtio" QMP},
    {"q -nodefaults -drive if=ide,media=cdrom -hdd a",
     "q -nodefaults -drive if=ide,media=cdrom " D("ide1-hd1")
     ",index=3,media=disk" QMP},
    {"q -nodefaults -drive file=a,snapshot=on", "q -nodefaults -drive file=a,snapshot=on" QMP},
    {"q -nodefaults -snapshot a", "q -nodefaults -snapshot a" QMP},
    {"q -nodefaults -loadvm s a", "q -nodefaults -loadvm s a" QMP},
    {"q -nodefaults -snapshot -drive file=a,snapshot=off",
     "q -nodefaults -snapshot " D("ide0-hd0") QMP},
    {"q -nodefaults -drive file=a,format=vmdk", "q -nodefaults -drive file=a,format=vmdk" QMP},
    {"q -nodefaults -drive file=a,aio=native", "q -nodefaults -drive file=a,aio=native" QMP},
    {"q -nodefaults -hda a -hda b", "q -nodefaults " D("ide0-hd0")
     ",index=0,media=disk -hda b" QMP},
    {"q -nodefaults -drive file=a,id=1x", "q -nodefaults -drive file=a,id=1x" QMP},
    {"q -nodefaults -drive file=a,id=x/y", "q -nodefaults -drive file=a,id=x/y" QMP},
    {"q -nodefaults -drive file=a,id=x -set drive.x.cache=none",
     "q -nodefaults -drive file=a,id=x -set drive.x.cache=none" QMP},
    /* monitors */
    {"q -monitor stdio", "q" QMP},
    {"q -monitor none", "q -monitor none" QMP},
    {"q -qmp unix:/x,server=on,wait=off", "q" QMP},
    {"q -qmp-pretty tcp::4 -monitor vc", "q -monitor vc" QMP},
    {"q -chardev socket,id=m,path=/x,server=on -mon m,mode=control", "q" QMP},
    {"q -chardev pty,id=m -mon m", "q -chardev pty,id=m -mon m" QMP},
    {"q -mon m", "q -mon m" QMP},
    {"q -nographic", "q -nographic -chardev socket,id=serial0,fd=8 "
     "-serial chardev:serial0" QMP},
    {"q -nographic -serial null", "q -nographic -serial null" QMP},
    {"q -nographic -monitor none", "q -nographic -monitor none" QMP},
    {"q -nographic -device isa-serial,chardev=x",
     "q -nographic -device isa-serial,chardev=x" QMP},
    {"q -nographic -device driver=isa-serial,chardev=x",
     "q -nographic -device driver=isa-serial,chardev=x" QMP},
    {"q -nographic -device '{\"driver\":\"isa-serial\",\"chardev\":\"x\"}'",
     "q -nographic -device {\"driver\":\"isa-serial\",\"chardev\":\"x\"}" QMP},
    {"q -serial null -serial mon:stdio", "q -serial null -chardev "
     "socket,id=serial1,fd=8 -serial chardev:serial1" QMP},
    {"q -chardev stdio,id=c,mux=on -mon c -serial chardev:c",
     "q -chardev socket,id=c,fd=8 -serial chardev:c" QMP},
    {"q -chardev stdio,id=c,mux=on -mon c -device virtconsole,chardev=c",
     "q -chardev socket,id=c,fd=8 -device virtconsole,chardev=c" QMP},
    {"q -chardev stdio,id=c,mux=on -mon c -device "
     "'{\"driver\":\"virtconsole\",\"chardev\":\"c\"}'",
     "q -chardev socket,id=c,fd=8 -device "
     "{\"driver\":\"virtconsole\",\"chardev\":\"c\"}" QMP},
    {"q -chardev stdio,id=c,mux=on -mon c", "q" QMP},
    {"q -chardev stdio,id=c,mux=on -mon c -serial chardev:c -parallel chardev:c",
     "q -chardev stdio,id=c,mux=on -mon c -serial chardev:c -parallel chardev:c" QMP},
    {"q -daemonize -nodefaults -pidfile p", "q -nodefaults -pidfile p" QMP},
};

static void test_lines(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(EmuCmdline) cl = plan(lines[i].line, &error);
        g_autofree char *got = NULL;

        g_assert_no_error(error);
        got = rewrite(cl);
        g_test_message("%s", lines[i].line);
        g_assert_cmpstr(got, ==, lines[i].expected);
    }
}

/* Names as QEMU 7.2's query-block shows them. */
static const struct {
    const char *line, *names;
} names[] = {
    {"q a.img", "ide0-hd0"},
    {"q -hda a -hdb b -cdrom c -drive file=d", "ide0-hd0 ide0-hd1 ide1-cd0 ide1-hd1"},
    {"q -M q35 -hda a -hdb b -cdrom c -drive file=d", "ide0-hd0 ide1-hd0 ide2-cd0 ide3-hd0"},
    {"q -machine accel=tcg,type=pc-q35-7.2 -drive file=a,media=cdrom", "ide0-cd0"},
    {"q -M microvm -drive file=a -hdb b", "none00 none10"},
    {"q -M none -drive file=a", "none0"},
    {"q -drive if=virtio,file=a -drive if=virtio,file=b,index=5 -drive if=virtio,file=c",
     "virtio0 virtio5 virtio1"},
    {"q -drive if=none,file=a -drive if=none,file=b", "none0 none1"},
    {"q -drive if=scsi,file=a,bus=1 -drive if=scsi,file=b,index=8 -drive if=scsi,file=c,media=cdrom",
     "scsi1-hd0 scsi1-hd1 scsi0-cd0"},
    {"q -drive if=floppy,file=a -drive file=b,unit=1 -drive file=c", "floppy0 ide0-hd1 ide0-hd0"},
    {"q -drive if=virtio -drive if=virtio,file=b", "virtio1"},
    {"q -drive if=virtio,file=nbd:x -drive if=virtio,file=b", "virtio0 virtio1"},
    {"q -drive file=a,id=one -drive file=b", "one ide0-hd1"},
    {"/x/qemu-system-aarch64 -M virt -drive file=a", "virtio0"},
    {"qemu-system-aarch64 -M virt-7.2,gic-version=3 -drive file=a", "virtio0"},
    {"qemu-system-aarch64 -M cubieboard -drive file=a -drive file=b", "ide0-hd0 ide1-hd0"},
    {"qemu-system-aarch64 -M orangepi-pc -drive file=a -drive file=b", "sd00 sd10"},
    {"qemu-system-riscv64 -M virt -drive file=a -drive file=b", "none0 none1"},
    {"qemu-system-s390x -drive file=a -drive file=b", "virtio0 virtio1"},
    {"qemu-system-ppc64 -drive file=a -cdrom b", "scsi0-hd0 scsi0-cd2"},
    {"qemu-system-sparc -drive file=a", "scsi0-hd0"},
    {"qemu-system-x86_64-microvm -drive file=a", "none00"},
    {"qemu-kvm -drive file=a", "ide0-hd0"},
};

static void test_names(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(EmuCmdline) cl = plan(names[i].line, NULL);
        GString *got = g_string_new(NULL);

        for (guint k = 0; k < cl->drives->len; k++) {
            const EmuDrive *d = g_ptr_array_index(cl->drives, k);

            g_string_append_printf(got, "%s%s", k ? " " : "", d->name);
        }
        g_test_message("%s", names[i].line);
        g_assert_cmpstr(got->str, ==, names[i].names);
        g_string_free(got, TRUE);
    }
}

static const struct {
    const char *line, *error;
} refused[] = {
    {"q -monitor stdio -serial stdio", "-serial stdio: cannot use stdio by multiple character devices"},
    {"q -monitor stdio -qmp stdio", "-qmp stdio: cannot use stdio by multiple character devices"},
    {"q -nographic -chardev stdio,id=x", "-chardev stdio,id=x: cannot use stdio by multiple character devices"},
    {"q -daemonize -monitor stdio", "-monitor stdio: cannot use stdio with -daemonize"},
    {"q -daemonize -monitor none -serial stdio", "-serial stdio: cannot use stdio with -daemonize"},
    {"q -daemonize -nographic", "-nographic cannot be used with -daemonize"},
};

static void test_refused(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(EmuCmdline) cl = plan(refused[i].line, &error);

        g_assert_null(cl);
        g_assert_nonnull(error);
        g_assert_cmpstr(error->message, ==, refused[i].error);
    }
}

static const struct {
    const char *line, *part; /* of the only warning; NULL: there is none */
} warnings[] = {
    {"q -nodefaults -hda rbd:x", "'ide0-hd0' (no file) stays QEMU's own: the sidecar does not serve 'rbd:'"},
    {"q -drive file=a,snapshot=on", "snapshot=on"},
    {"q -drive file=a,format=qcow2 -loadvm s", "-loadvm is done by QEMU"},
    {"q -drive file=a,l2-cache-size=1M", "its option 'l2-cache-size'"},
    {"q -drive file=a,size=1M", "its option 'size'"},
    {"q -drive file=a,format=raw,size=x", NULL},
    {"q -drive file=a,format=raw,size=1M,offset=0", "its option 'offset'"},
    {"q -drive file=a,file.driver=http", "'http' images"},
    {"q -drive file=/dev/fdset/2,format=raw", "file descriptor sets"},
    {"q -readconfig x", "-readconfig x"},
    {"q -blockdev driver=file,filename=a,node-name=n", "-blockdev"},
    {"q -monitor pty", "monitor '-monitor pty' stays QEMU's own"},
    {"q -qmp websocket:x:1,server=on", "stays QEMU's own"},
    {"q -qmp tcp:x:1,server=on,tls-creds=t", "stays QEMU's own"},
    {"q -drive file=a,cache=bogus", NULL},
    {"q -drive file=", NULL},
    {"q -drive if=virtio", NULL},
    {"q -monitor vc -hda a", "monitor '-monitor vc'"},
};

static void test_warnings(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(warnings); i++) {
        g_autoptr(EmuCmdline) cl = plan(warnings[i].line, NULL);

        g_test_message("%s", warnings[i].line);
        g_assert_cmpuint(cl->warnings->len, ==, warnings[i].part ? 1 : 0);
        if (warnings[i].part) {
            g_assert_nonnull(strstr(g_ptr_array_index(cl->warnings, 0),
                                    warnings[i].part));
        }
    }
}

static void test_information(void)
{
    const char *const yes[] = {"q -help", "q --version", "q -M help", "q -cpu ?",
                               "q -device virtio-blk-pci,help"};
    const char *const no[] = {"q -append help", "q -name help", "q"};

    for (size_t i = 0; i < G_N_ELEMENTS(yes); i++) {
        g_autoptr(EmuCmdline) cl = plan(yes[i], NULL);

        g_assert_true(cl->only_information);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(no); i++) {
        g_autoptr(EmuCmdline) cl = plan(no[i], NULL);

        g_assert_false(cl->only_information);
    }
}

static void test_quote(void)
{
    char *const argv[] = {(char *)"q", (char *)"-append", (char *)"a b'c",
                          (char *)"", (char *)"x=1,y", NULL};
    g_autofree char *line = emu_cmdline_quote(argv);
    g_auto(GStrv) again = NULL;

    g_assert_cmpstr(line, ==, "q -append 'a b'\\''c' '' x=1,y");
    g_assert_true(g_shell_parse_argv(line, NULL, &again, NULL));
    g_assert_true(g_strv_equal((const char *const *)argv,
                               (const char *const *)again));
}

/* Nothing that a user may type makes it crash. */
static void test_rubbish(void)
{
    static const char *const bits[] = {
        "-drive", "-hda", "-mon", "-monitor", "-chardev", "-serial", "-qmp",
        "file=a", "if=", "index=-1", "index=99999999999", "unit=7", "bus=1", ",",
        "=", ",,", "id=c", "mux=on", "stdio", "mon:", "chardev:c", "none", "-",
        "--", "-echr", "", "c", "driver=", "-daemonize", "-nographic", "no",
        "media=cdrom", "if=virtio,file=b,index=3", "-device", "-set",
    };
    g_autoptr(GRand) rnd = g_rand_new_with_seed(4711);

    for (int round = 0; round < 20000; round++) {
        const char *argv[12] = {"q"};
        g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
        g_autoptr(EmuCmdline) cl = NULL;
        int n = g_rand_int_range(rnd, 0, 11);

        for (int i = 0; i < n; i++) {
            char *word = g_strconcat(
                bits[g_rand_int_range(rnd, 0, G_N_ELEMENTS(bits))],
                bits[g_rand_int_range(rnd, 0, G_N_ELEMENTS(bits))], NULL);

            g_ptr_array_add(words, word);
            argv[i + 1] = g_rand_boolean(rnd)
                              ? word
                              : bits[g_rand_int_range(rnd, 0, G_N_ELEMENTS(bits))];
        }
        cl = emu_cmdline_parse(argv);
        if (emu_cmdline_plan(cl, NULL)) {
            g_strfreev(emu_cmdline_argv(cl, &runtime));
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cmdline/lines", test_lines);
    g_test_add_func("/cmdline/drive-names", test_names);
    g_test_add_func("/cmdline/refused", test_refused);
    g_test_add_func("/cmdline/warnings", test_warnings);
    g_test_add_func("/cmdline/information", test_information);
    g_test_add_func("/cmdline/quote", test_quote);
    g_test_add_func("/cmdline/rubbish", test_rubbish);
    return g_test_run();
}
