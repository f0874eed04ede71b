/*
 * What QEMU calls a drive that has no id=: the interface, the bus (only where
 * a bus holds a limited number of units), "-hd" or "-cd" (ide, scsi), the unit:
 * "virtio0", "ide0-hd1", "ide1-cd0", "scsi0-hd3", "floppy0", "none0".
 *
 * Which interface a -drive without if= gets, and how many units sit on its
 * buses, depends on the machine.  x86 is compared with the real QEMU by
 * tests/system/drive-names.py; the others are from QEMU's documentation of its
 * boards.  Where this is wrong nothing breaks: the rewritten -drive carries
 * the name as its id=, so that both sides agree.
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

static const MachineFact machines[] = {
    {"pc", "ide", 0},
    {"pc-q35-*", "ide", 1},
    {"pc-*", "ide", 0},
    {"q35", "ide", 1},
    {"isapc", "ide", 0},
    {"xenfv*", "ide", 0},
    {"microvm", "none", 1},
    {"none", "none", 0},
    {"x-remote", "none", 0},
    {"s390-ccw-virtio*", "virtio", 0},
    {"pseries*", "scsi", 0},
    {"mac99", "ide", 0},
    {"g3beige", "ide", 0},
    {"malta", "ide", 0},
    {"sun4u", "ide", 0},
    {"clipper", "ide", 0},
    {"sbsa-ref", "ide", 0},
    {"versatile*", "scsi", 0},
    {"realview-*", "scsi", 0},
    {"q800", "scsi", 0},
    {"hppa", "scsi", 0},
    {"raspi*", "sd", 0},
};

static const struct {
    const char *arch;
    const char *machine; /* when the line names none */
    const char *virt_if; /* of its machine "virt" */
} targets[] = {
    {"i386", "pc", NULL},         {"x86_64", "pc", NULL},
    {"aarch64", NULL, "virtio"},  {"arm", NULL, "virtio"},
    {"loongarch64", "virt", "virtio"},
    {"riscv64", NULL, "none"},    {"riscv32", NULL, "none"},
    {"m68k", NULL, "virtio"},     {"s390x", "s390-ccw-virtio", NULL},
    {"ppc64", "pseries", NULL},   {"ppc", "g3beige", NULL},
    {"mips", "malta", NULL},      {"mips64", "malta", NULL},
    {"mipsel", "malta", NULL},    {"mips64el", "malta", NULL},
    {"sparc", NULL, NULL},        {"sparc64", "sun4u", NULL},
    {"alpha", "clipper", NULL},   {"hppa", "hppa", NULL},
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

static const MachineFact *find_machine(const char *type)
{
    for (size_t i = 0; type && i < G_N_ELEMENTS(machines); i++) {
        if (g_pattern_match_simple(machines[i].machine, type)) {
            return &machines[i];
        }
    }
    return NULL;
}

const char *emu_machine_default_if(const EmuCmdline *cl)
{
    size_t target = target_of(cl->binary);
    const char *type = cl->machine ? cl->machine : targets[target].machine;
    const MachineFact *fact = find_machine(type);

    if (fact) {
        return fact->default_if;
    }
    if (type && g_str_has_prefix(type, "virt") && targets[target].virt_if) {
        return targets[target].virt_if;
    }
    return target <= 1 ? "ide" : "none";
}

int emu_if_max_devs(const EmuCmdline *cl, const char *if_name)
{
    const char *type = cl->machine ? cl->machine
                                   : targets[target_of(cl->binary)].machine;
    const MachineFact *fact = find_machine(type);

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
