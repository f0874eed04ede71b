/*
 * What QEMU calls a drive that has no id=: the interface, the bus (only where
 * a bus holds a limited number of units), "-hd" or "-cd" (ide, scsi), the unit:
 * "virtio0", "ide0-hd1", "ide1-cd0", "scsi0-hd3", "floppy0", "none0".
 *
 * Which interface a -drive without if= gets, and how many units sit on its
 * buses, depends on the machine.  The table is what QEMU 7.2 did for every
 * machine of every target of Debian 12 that could be started (all but
 * clipper, fuloong2e, sbsa-ref and xenfv, which follow their relatives);
 * tests/system/drives.py goes on comparing x86.  Where it is wrong nothing
 * breaks: the rewritten -drive carries the name as its id=, so that both sides
 * agree.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmdline-internal.h"

#include <string.h>

typedef struct {
    const char *machine; /* glob pattern of the type */
    const char *default_if;
    int units;           /* on a bus of that interface; 0: the usual number */
} MachineFact;

/* The first that fits counts.  A machine that is not here gives "none". */
static const MachineFact machines[] = {
    {"pc-q35-*", "ide", 1},
    {"q35", "ide", 1},
    {"pc", "ide", 0},
    {"pc-*", "ide", 0},
    {"isapc", "ide", 0},
    {"xenfv*", "ide", 0},
    {"microvm", "none", 1},

    {"s390-ccw-virtio*", "virtio", 0},

    {"pseries*", "scsi", 0},
    {"powernv*", "ide", 0},
    {"mac99", "ide", 0},
    {"g3beige", "ide", 0},
    {"pegasos2", "ide", 0},
    {"40p", "scsi", 0},

    {"malta", "ide", 0},
    {"boston", "ide", 0},
    {"loongson3-virt", "ide", 0},
    {"fuloong2e", "ide", 0},
    {"magnum", "scsi", 0},
    {"pica61", "scsi", 0},

    {"sbsa-ref", "ide", 0},
    {"cubieboard", "ide", 1},
    {"highbank", "ide", 1},
    {"midway", "ide", 1},
    {"xlnx-zcu102", "ide", 1},
    {"akita", "ide", 0},
    {"borzoi", "ide", 0},
    {"spitz", "ide", 0},
    {"terrier", "ide", 0},
    {"tosa", "ide", 0},
    {"versatile*", "scsi", 0},
    {"realview-eb*", "scsi", 0},
    {"orangepi-pc", "sd", 1},
    {"raspi*", "sd", 0},

    {"sun4u", "ide", 0},
    {"sun4v", "ide", 0},
    {"SS-*", "scsi", 0},
    {"SPARC*", "scsi", 0},
    {"LX", "scsi", 0},
    {"Voyager", "scsi", 0},

    {"clipper", "ide", 0},
    {"hppa", "scsi", 0},
    {"q800", "scsi", 0},
    {"r2d", "ide", 0},
};
static const MachineFact virtio_virt = {"virt*", "virtio", 0};

static const struct {
    const char *arch;
    const char *machine; /* when the line names none */
    bool virtio_virt;    /* of its machine "virt"; else that is "none" */
} targets[] = {
    {"i386", "pc", false},         {"x86_64", "pc", false},
    {"x86_64-microvm", "microvm", false},
    {"aarch64", NULL, true},       {"arm", NULL, true},
    {"loongarch64", "virt", true}, {"s390x", "s390-ccw-virtio", false},
    {"ppc64", "pseries", false},   {"ppc64le", "pseries", false},
    {"ppc", "g3beige", false},     {"mips", "malta", false},
    {"mips64", "malta", false},    {"mipsel", "malta", false},
    {"mips64el", "malta", false},  {"sparc", "SS-5", false},
    {"sparc64", "sun4u", false},   {"alpha", "clipper", false},
    {"hppa", "hppa", false},       {"riscv64", NULL, false},
    {"riscv32", NULL, false},      {"m68k", NULL, false},
    {"or1k", NULL, false},         {"xtensa", NULL, false},
    {"xtensaeb", NULL, false},
};

/* The entry of @targets that the binary's name tells, x86 if none. */
static size_t target_of(const char *binary)
{
    g_autofree char *base = g_path_get_basename(binary);
    static const char prefix[] = "qemu-system-";

    if (g_str_has_prefix(base, prefix)) {
        for (size_t i = 0; i < G_N_ELEMENTS(targets); i++) {
            if (!strcmp(base + strlen(prefix), targets[i].arch)) {
                return i;
            }
        }
    }
    return 1;
}

static const MachineFact *find_machine(const EmuCmdline *cl)
{
    size_t target = target_of(cl->binary);
    const char *type = cl->machine ? cl->machine : targets[target].machine;

    if (!type) {
        return NULL;
    }
    if (targets[target].virtio_virt &&
        g_pattern_match_simple(virtio_virt.machine, type)) {
        return &virtio_virt;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(machines); i++) {
        if (g_pattern_match_simple(machines[i].machine, type)) {
            return &machines[i];
        }
    }
    return NULL;
}

const char *emu_machine_default_if(const EmuCmdline *cl)
{
    const MachineFact *fact = find_machine(cl);

    return fact ? fact->default_if : "none";
}

int emu_if_max_devs(const EmuCmdline *cl, const char *if_name)
{
    const MachineFact *fact = find_machine(cl);

    if (fact && fact->units && !strcmp(if_name, fact->default_if)) {
        return fact->units;
    }
    if (!strcmp(if_name, "ide")) {
        return 2;
    }
    return !strcmp(if_name, "scsi") ? 7 : 0;
}

/* default-ram-id in query-machines of QEMU 7.2; machines that are not named
 * here keep their RAM to themselves. */
const char *emu_machine_ram_id(const EmuCmdline *cl)
{
    static const struct {
        const char *machine, *id;
    } ids[] = {
        {"pc", "pc.ram"},       {"pc-*", "pc.ram"}, {"q35", "pc.ram"},
        {"isapc", "pc.ram"},    {"microvm", "microvm.ram"},
        {"s390-ccw-virtio*", "s390.ram"},
        {"virt", "mach-virt.ram"}, {"virt-*", "mach-virt.ram"},
        {"pseries*", "ppc_spapr.ram"},
    };
    size_t target = target_of(cl->binary);
    const char *type = cl->machine ? cl->machine : targets[target].machine;

    /* "virt" is called otherwise on other targets */
    if (type && g_str_has_prefix(type, "virt") &&
        !g_str_has_suffix(cl->binary, "aarch64") &&
        !g_str_has_suffix(cl->binary, "arm")) {
        return NULL;
    }
    for (size_t i = 0; type && i < G_N_ELEMENTS(ids); i++) {
        if (g_pattern_match_simple(ids[i].machine, type)) {
            return ids[i].id;
        }
    }
    return NULL;
}
