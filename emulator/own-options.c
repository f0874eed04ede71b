/*
 * The sidecar's own options, before the name of QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/own-options.h"
#include "config-host.h"
#include "util/size.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS_DEFAULT 32
#define WORKERS_MAX 256
/* Less holds up guests for nothing; more can't be meant. */
#define BUFFER_MIN (UINT64_C(1) << 20)
#define BUFFER_MAX (UINT64_C(64) << 30)

static const char usage[] =
    "usage: qemu-sidecar [OPTION...] QEMU-BINARY [QEMU-OPTION...]\n"
    "Runs an unmodified QEMU and serves its drives and monitors.\n"
    "\n"
    "  --print-qemu-command     show the rewritten QEMU command and stop\n"
    "  --private-ram            leave guest RAM to QEMU alone: no live migration\n"
    "  --dirty-log=WHICH        how written pages are found: auto, or compare [auto]\n"
    "  --workers=N              disk requests that run at once (1-256) [32]\n"
    "  --backup-buffer=SIZE     memory for old data on its way into a backup [64M]\n"
    "  --backup-spill=SIZE      temporary file for what does not fit there [4G];\n"
    "                           0: none, guests wait for the archive instead\n"
    "  --backup-spill-dir=DIR   where it is made [$TMPDIR, else /var/tmp]\n"
    "  --help                   this text\n"
    "  --version                the version\n"
    "\n"
    "See qemu-sidecar(1).  Example:\n"
    "  qemu-sidecar qemu-system-x86_64 -m 512 -drive "
    "file=disk.img,format=raw,if=virtio -monitor stdio\n";

enum {
    PRINT = 256, PRIVATE_RAM, DIRTY_LOG, WORKERS, BUFFER, SPILL, SPILL_DIR, HELP, VERSION,
};

static bool parse_workers(const char *text, unsigned *number)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || value < 1 ||
        value > WORKERS_MAX) {
        fprintf(stderr, "qemu-sidecar: --workers: '%s' is not a number from 1 "
                        "to %d\n", text, WORKERS_MAX);
        return false;
    }
    *number = value;
    return true;
}

static bool parse_dirty_log(const char *text, bool *compare)
{
    *compare = !strcmp(text, "compare");
    if (!*compare && strcmp(text, "auto")) {
        fprintf(stderr, "qemu-sidecar: --dirty-log: '%s' is not auto or "
                        "compare\n", text);
        return false;
    }
    return true;
}

static bool parse_bytes(const char *option, const char *text, uint64_t min,
                        uint64_t max, uint64_t *bytes)
{
    if (size_parse(text, 'B', NULL, bytes) || *bytes < min || *bytes > max) {
        fprintf(stderr, "qemu-sidecar: --%s: '%s' is not a size from %llu to "
                        "%llu bytes\n", option, text, (unsigned long long)min,
                (unsigned long long)max);
        return false;
    }
    return true;
}

static bool parse_spill(const char *text, int64_t *limit)
{
    uint64_t bytes;

    if (!parse_bytes("backup-spill", text, 0, INT64_MAX, &bytes)) {
        return false;
    }
    *limit = bytes ? (int64_t)bytes : -1;
    return true;
}

/* -1: go on. */
static int take_option(int c, OwnOptions *o)
{
    switch (c) {
    case PRINT:
        o->print_command = true;
        return -1;
    case PRIVATE_RAM:
        o->private_ram = true;
        return -1;
    case DIRTY_LOG:
        return parse_dirty_log(optarg, &o->compare_ram) ? -1 : 1;
    case WORKERS:
        return parse_workers(optarg, &o->workers) ? -1 : 1;
    case BUFFER:
        return parse_bytes("backup-buffer", optarg, BUFFER_MIN, BUFFER_MAX,
                           &o->backup_buffer) ? -1 : 1;
    case SPILL:
        return parse_spill(optarg, &o->backup_spill) ? -1 : 1;
    case SPILL_DIR:
        o->backup_spill_dir = optarg;
        return -1;
    case HELP:
    case 'h':
        fputs(usage, stdout);
        return 0;
    case VERSION:
        puts("qemu-sidecar " CONFIG_VERSION);
        return 0;
    default:
        fputs("See qemu-sidecar --help.\n", stderr);
        return 1;
    }
}

int own_options_parse(int argc, char **argv, OwnOptions *o, int *rest)
{
    static const struct option longs[] = {
        {"print-qemu-command", no_argument, NULL, PRINT},
        {"private-ram", no_argument, NULL, PRIVATE_RAM},
        {"dirty-log", required_argument, NULL, DIRTY_LOG},
        {"workers", required_argument, NULL, WORKERS},
        {"backup-buffer", required_argument, NULL, BUFFER},
        {"backup-spill", required_argument, NULL, SPILL},
        {"backup-spill-dir", required_argument, NULL, SPILL_DIR},
        {"help", no_argument, NULL, HELP},
        {"version", no_argument, NULL, VERSION},
        {0},
    };
    int c, status = -1;

    *o = (OwnOptions){.workers = WORKERS_DEFAULT};
    /* '+': the first word that is no option is QEMU, what follows is QEMU's. */
    while (status < 0 &&
           (c = getopt_long(argc, argv, "+h", longs, NULL)) != -1) {
        status = take_option(c, o);
    }
    if (status < 0 && optind == argc) {
        fputs("qemu-sidecar: which QEMU? See qemu-sidecar --help.\n", stderr);
        status = 1;
    }
    *rest = optind;
    return status;
}
