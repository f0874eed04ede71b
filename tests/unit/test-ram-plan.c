/*
 * Which guest RAM is taken over, and how the command line says it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/cmdline.h"

#include <string.h>
#include <unistd.h>

#define QMP " -chardev socket,id=qemu-sidecar-qmp,fd=7 " \
            "-mon chardev=qemu-sidecar-qmp,mode=control"
#define FILE_OBJECT(id, size, rest) \
    "-object memory-backend-file,id=" id ",size=" size \
    ",mem-path=/proc/self/fd/9,share=on" rest
#define MAIN(size) " " FILE_OBJECT("pc.ram", size, \
    ",align=2M,x-use-canonical-path-for-ramblock-id=off") " -machine memory-backend=pc.ram"

static int ram_fd(void *opaque, const EmuRam *ram)
{
    return ram->path && !g_str_has_suffix(ram->path, "/") ? -1 : 9;
}

static const EmuRuntime runtime = {.nbd_socket = "S", .qmp_fd = 7,
                                   .ram_fd = ram_fd};

static const struct {
    const char *line, *expected;
    const char *left; /* part of the reason, if RAM stays QEMU's */
} lines[] = {
    {"q -nodefaults", "q -nodefaults" MAIN("134217728") QMP, NULL},
    {"q -nodefaults -m 512", "q -nodefaults -m 512" MAIN("536870912") QMP, NULL},
    {"q -nodefaults -m 512 -m 1G", "q -nodefaults -m 512 -m 1G"
     MAIN("1073741824") QMP, NULL},
    {"q -nodefaults -m size=1.5G,slots=2,maxmem=4G", "q -nodefaults -m "
     "size=1.5G,slots=2,maxmem=4G" MAIN("1610612736") QMP, NULL},
    {"q -nodefaults -m 1025k", "q -nodefaults -m 1025k" MAIN("1056768") QMP,
     NULL},
    {"q -nodefaults -M q35 -m 1", "q -nodefaults -M q35 -m 1" MAIN("1048576")
     QMP, NULL},
    {"q -nodefaults -numa node,cpus=0", "q -nodefaults -numa node,cpus=0"
     MAIN("134217728") QMP, NULL},
    /* the user's own backends */
    {"q -nodefaults -object memory-backend-memfd,id=m,size=1G,prealloc=on,"
     "hugetlb=on -machine q35,memory-backend=m", "q -nodefaults "
     FILE_OBJECT("m", "1073741824", ",prealloc=on")
     " -machine q35,memory-backend=m" QMP, NULL},
    {"q -nodefaults -object memory-backend-file,id=m,size=1G,mem-path=/h/,"
     "share=on -machine memory-backend=m", "q -nodefaults "
     FILE_OBJECT("m", "1073741824", "") " -machine memory-backend=m" QMP, NULL},
    {"q -nodefaults -object memory-backend-file,id=m,size=1G,mem-path=/f,"
     "share=on -machine memory-backend=m", "q -nodefaults -object "
     "memory-backend-file,id=m,size=1G,mem-path=/f,share=on "
     "-machine memory-backend=m" QMP, NULL},
    {"q -nodefaults -object memory-backend-memfd,id=a,size=1G -object "
     "memory-backend-memfd,id=b,size=2G -numa node,memdev=a -numa node,memdev=b",
     "q -nodefaults " FILE_OBJECT("a", "1073741824", "") " "
     FILE_OBJECT("b", "2147483648", "")
     " -numa node,memdev=a -numa node,memdev=b" QMP, NULL},
    {"q -nodefaults -object '{\"qom-type\":\"memory-backend-memfd\",\"id\":\"m\","
     "\"size\":1073741824,\"prealloc\":true,\"host-nodes\":[0,1],"
     "\"policy\":\"bind\"}' -machine memory-backend=m", "q -nodefaults "
     FILE_OBJECT("m", "1073741824", ",prealloc=on,host-nodes.0=0,"
     "host-nodes.1=1,policy=bind") " -machine memory-backend=m" QMP, NULL},
    /* that of a device, unless it is private */
    {"q -nodefaults -m 1 -object memory-backend-memfd,id=a,size=1G -device "
     "pc-dimm,memdev=a -object memory-backend-ram,id=b,size=1G -device "
     "pc-dimm,memdev=b -object memory-backend-memfd,id=c,size=1G",
     "q -nodefaults -m 1 " FILE_OBJECT("a", "1073741824", "") " -device "
     "pc-dimm,memdev=a -object memory-backend-ram,id=b,size=1G -device "
     "pc-dimm,memdev=b -object memory-backend-memfd,id=c,size=1G" MAIN("1048576")
     QMP, NULL},
    {"q -nodefaults -m 1 -object memory-backend-memfd,id=a,size=1G -device "
     "'{\"driver\":\"pc-dimm\",\"memdev\":\"a\"}'",
     "q -nodefaults -m 1 " FILE_OBJECT("a", "1073741824", "") " -device "
     "{\"driver\":\"pc-dimm\",\"memdev\":\"a\"}" MAIN("1048576") QMP, NULL},
    {"q -nodefaults -object memory-backend-memfd,id=a,size=1G -device "
     "pc-dimm,memdev=a -mem-path /h", NULL, "-mem-path"},
    {"q -nodefaults -object '{\"id\":\"m\"' -machine memory-backend=m", NULL,
     "'m' is not one of"},
    /* left alone, with the reason */
    {"q -nodefaults -object memory-backend-ram,id=m,size=1G -machine "
     "memory-backend=m", NULL, "'m': it is not a memory-backend-file or -memfd"},
    {"q -nodefaults -object '{\"qom-type\":\"memory-backend-ram\",\"id\":\"m\","
     "\"size\":1}' -machine memory-backend=m", NULL,
     "'m': it is not a memory-backend-file or -memfd"},
    {"q -nodefaults -object memory-backend-file,id=m,size=1G,mem-path=/f "
     "-machine memory-backend=m", NULL, "it is not shared"},
    {"q -nodefaults -object memory-backend-memfd,id=a,size=1G -numa "
     "node,memdev=a -numa node,memdev=b", NULL, "'b' is not one of"},
    {"q -nodefaults -object memory-backend-memfd,id=a,size=1G -object "
     "memory-backend-ram,id=b,size=1G -numa node,memdev=a -numa node,memdev=b",
     NULL, "'b': it is not"},
    {"q -nodefaults -mem-path /h", NULL, "-mem-path"},
    {"q -nodefaults -m lots", NULL, "-m is not clear"},
    {"q -nodefaults -M none", NULL, "not known"},
    {"q -nodefaults -M q35,confidential-guest-support=s", NULL, "encrypted"},
    {"q -nodefaults -readconfig f", NULL, "-readconfig"},
};

static void test_lines(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_auto(GStrv) argv = NULL, out = NULL;
        g_autoptr(EmuCmdline) cl = NULL;
        g_autofree char *got = NULL, *given = NULL, *same = NULL;

        g_test_message("%s", lines[i].line);
        g_assert_true(g_shell_parse_argv(lines[i].line, NULL, &argv, NULL));
        cl = emu_cmdline_parse((const char *const *)argv);
        g_assert_true(emu_cmdline_plan(cl, NULL));
        out = emu_cmdline_argv(cl, &runtime);
        got = g_strjoinv(" ", out);
        given = g_strjoinv(" ", argv);
        same = g_strconcat(given, QMP, NULL);
        g_assert_cmpstr(got, ==, lines[i].expected ? lines[i].expected : same);
        if (lines[i].left) {
            g_assert_nonnull(cl->ram_left);
            g_assert_nonnull(strstr(cl->ram_left, lines[i].left));
        } else {
            g_assert_null(cl->ram_left);
        }
    }
}

/* A file of -readconfig with @text: is RAM left to QEMU, is there a warning? */
static void check_readconfig(const char *text, bool left, bool warned)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp(NULL, &path, NULL);
    const char *const argv[] = {"q", "-nodefaults", "-readconfig", path, NULL};
    g_autoptr(EmuCmdline) cl = NULL;

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    cl = emu_cmdline_parse(argv);
    g_assert_true(emu_cmdline_plan(cl, NULL));
    g_assert_cmpint(cl->ram_left != NULL, ==, left);
    g_assert_cmpuint(cl->warnings->len, ==, warned ? 1 : 0);
    unlink(path);
}

static void test_readconfig(void)
{
    check_readconfig("# USB\n[device \"ehci\"]\n  driver = \"ich9-usb-ehci1\"\n",
                     false, false);
    check_readconfig("", false, false);
    check_readconfig("[drive \"d\"]\n file = \"f\"\n", false, true);
    check_readconfig("[mon \"m\"]\n chardev = \"c\"\n", false, true);
    check_readconfig("[memory]\n size = \"1G\"\n", true, false);
    check_readconfig("[ machine]\n type = \"q35\"\n", true, false);
    check_readconfig("[object \"o\"]\n", true, false);
    check_readconfig("[device \"d\"]\n driver = \"pc-dimm\"\n memdev = \"m\"\n",
                     true, false);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ram-plan/lines", test_lines);
    g_test_add_func("/ram-plan/readconfig", test_readconfig);
    return g_test_run();
}
