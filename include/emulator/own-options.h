/*
 * The sidecar's own options, before the name of QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_OWN_OPTIONS_H
#define SIDECAR_EMULATOR_OWN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    bool print_command;
    bool private_ram;
    bool compare_ram;         /* written pages are found by comparing */
    unsigned workers;
    uint64_t backup_buffer;   /* bytes */
    const char *backup_spill_dir; /* of argv, or NULL */
    int64_t backup_spill;     /* bytes; -1: none; 0: the default */
} OwnOptions;

/* -1: go on with argv[*rest]…, which is not empty; else the exit status, and
 * what there is to say has been said. */
int own_options_parse(int argc, char **argv, OwnOptions *o, int *rest);

#endif
