/*
 * Which options QEMU has and which of them take an argument, so that the word
 * after an option is never mistaken for an option itself ("-append -drive").
 *
 * The list is the union over QEMU 2.x to 9.x and all targets; no option ever
 * changed whether it takes an argument.  tests/system/options.py compares it
 * with the QEMU on the machine.  An option that is not listed (a newer one) is
 * guessed: a next word without a leading dash is taken for its argument.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/cmdline.h"

#include <string.h>

static const char *const with_arg[] = {
    "D", "L", "M", "accel", "acpitable", "action", "add-fd", "append", "audio",
    "audiodev", "bios", "blockdev", "boot", "cdrom", "chardev", "chroot",
    "compat", "cpu", "d", "debugcon", "device", "dfilter", "display", "drive",
    "dtb", "dump-vmstate", "echr", "fda", "fdb", "fsdev", "fw_cfg", "g", "gdb",
    "global", "hda", "hdb", "hdc", "hdd", "icount", "incoming", "initrd",
    "iscsi", "k", "kernel", "loadvm", "m", "machine", "mem-path", "mon",
    "monitor", "msg", "mtdblock", "name", "net", "netdev", "nic", "numa",
    "object", "option-rom", "overcommit", "parallel", "pflash", "pidfile",
    "plugin", "prom-env", "qmp", "qmp-pretty", "qtest", "qtest-log",
    "readconfig", "rotate", "rtc", "run-with", "runas", "sandbox", "sd", "seed",
    "semihosting-config", "serial", "set", "shim", "smbios", "smp", "soundhw",
    "spice", "tb-size", "tpmdev", "trace", "usbdevice", "uuid", "vga",
    "virtfs", "vnc", "watchdog", "watchdog-action", "writeconfig", "xen-domid",
};

static const char *const without_arg[] = {
    "S", "alt-grab", "async-teardown", "audio-help", "ctrl-grab", "curses",
    "daemonize", "enable-fips", "enable-hax", "enable-kvm",
    "enable-sync-profile", "full-screen", "h", "help", "jitdump",
    "mem-prealloc", "no-acpi", "no-fd-bootchk", "no-hpet", "no-quit",
    "no-reboot", "no-shutdown", "no-user-config", "nodefaults", "nodefconfig",
    "nographic", "old-param", "one-insn-per-tb", "only-migratable", "perfmap",
    "portrait", "preconfig", "s", "sdl", "semihosting", "singlestep",
    "snapshot", "usb", "version", "win2k-hack", "xen-attach",
    "xen-domid-restrict",
};

static bool listed(const char *const *names, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(names[i], name)) {
            return true;
        }
    }
    return false;
}

int emu_option_has_arg(const char *name)
{
    if (listed(with_arg, G_N_ELEMENTS(with_arg), name)) {
        return 1;
    }
    return listed(without_arg, G_N_ELEMENTS(without_arg), name) ? 0 : -1;
}

const char **emu_option_names(void)
{
    size_t n = G_N_ELEMENTS(with_arg), m = G_N_ELEMENTS(without_arg);
    const char **names = g_new0(const char *, n + m + 1);

    memcpy(names, with_arg, n * sizeof(*names));
    memcpy(names + n, without_arg, m * sizeof(*names));
    return names;
}
