/*
 * One attempt to migrate away, between outgoing.c and outgoing-rounds.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_MIGRATION_OUTGOING_H
#define SIDECAR_MIGRATION_OUTGOING_H

#include "migration-internal.h"

typedef struct {
    MigrationManager *m;
    QEMUFile *f;
    DeviceState *first;
    RamBlock *blocks;
    size_t n_blocks;
    RamSaver *saver;
    unsigned flags;    /* MigrationFlags */
    BlockSaver *drives; /* with -b or -i */
    unsigned params_serial;
    MigrationParameters params;
    bool claimed;      /* the drives are ours */
    bool stopped;      /* we stopped the guest */
    bool drives_away;
    bool unknown;      /* who has the guest; so it stays stopped, the drives closed */
    ReturnPath *back;  /* NULL: no way back, or no use */
    gint64 window_start;
    uint64_t window_base;
    unsigned rounds, short_rounds;
    uint64_t left;     /* pages at the last short round */
    bool cut;          /* which did not get to all of them */
    uint64_t misses;   /* of the cache, at that round */
    bool flushed;      /* the drives, since the end has been near */
    unsigned flushes;
    gint64 scan_us;    /* what asking the log takes at least */
} Outgoing;

/* Sends what the first look has shown of the blocks that QEMU keeps to itself; some
 * are large (video memory), and mostly they don't change. */
bool outgoing_foreign_ram(Outgoing *o, GError **errp);
/* Sends drives and RAM while the guest runs, until what is left fits the downtime
 * limit. */
bool outgoing_rounds(Outgoing *o, GError **errp);

#endif
