/*
 * Room for old content of blocks (4 KiB) that guests have overwritten and the
 * sweep has not come to yet.
 *
 * It is kept in memory, and when that is full in an unlinked temporary file.
 * When there is no room in that either, who has something to keep waits until
 * the sweep has fetched something, in line and for a bounded time, after which
 * the backup must be given up.  When memory is half full the sweep is told
 * (pressure), so that it fetches these blocks first.
 *
 * Any thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BACKUP_STASH_H
#define SIDECAR_BACKUP_STASH_H

#include "backup/backup.h"

typedef struct BackupStash BackupStash;

/* Where a block is kept. */
typedef uint32_t BackupBlockRef;

typedef struct {
    uint64_t memory;  /* bytes, the most at once */
    uint64_t spilled; /* bytes that went into the file */
} BackupStashStats;

/* @memory in bytes; the rest as in BackupRequest, with the defaults filled in. */
BackupStash *backup_stash_new(uint64_t memory, const char *spill_dir,
                              int64_t spill_limit, unsigned stall_ms,
                              GError **errp);
/* Nobody uses it any more; blocks that are still kept are forgotten. */
void backup_stash_free(BackupStash *s);
/* The backup has failed or was cancelled: every wait ends. */
void backup_stash_stop(BackupStash *s);

/* Keep BACKUP_BLOCK_SIZE bytes.  May wait.  False with an error that says why
 * there is no room, or without one if it was stopped. */
bool backup_stash_put(BackupStash *s, const void *buf, BackupBlockRef *ref,
                      GError **errp);
/* Fetch them; @ref is used up, also on failure (of reading the file). */
bool backup_stash_take(BackupStash *s, BackupBlockRef ref, void *buf, GError **errp);
void backup_stash_drop(BackupStash *s, BackupBlockRef ref);

bool backup_stash_pressure(BackupStash *s);
/* Wait for pressure, for @ns, or until it is stopped. */
void backup_stash_wait_pressure(BackupStash *s, int64_t ns);

void backup_stash_get_stats(BackupStash *s, BackupStashStats *stats);

#endif
