/*
 * Old data that found no room in memory: slots of one block (4 KiB) in an
 * unlinked temporary file.
 *
 * Slots are handed out and given back under the caller's lock (that of the
 * BackupStash); reading and writing them needs none, because a slot has one
 * owner at a time.  They are used again, so the file is as large as the most
 * that was in it at once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BACKUP_SPILL_H
#define SIDECAR_BACKUP_SPILL_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct BackupSpill BackupSpill;

/* @dir NULL: $TMPDIR, else /var/tmp.  @limit bytes; less than a block: never
 * spill.  Never fails: what goes wrong makes it unusable and is told by
 * backup_spill_why. */
BackupSpill *backup_spill_new(const char *dir, int64_t limit);
void backup_spill_free(BackupSpill *s);

/* ---- caller's lock --------------------------------------------------- */

/* A slot, or -1: the limit is reached, the file system nearly full, or the
 * file unusable. */
int64_t backup_spill_take(BackupSpill *s);
void backup_spill_give(BackupSpill *s, int64_t slot);
/* From now on there are no new slots. */
void backup_spill_set_broken(BackupSpill *s, int errnum);
bool backup_spill_is_broken(const BackupSpill *s);
/* Why take failed last, in words for a message (g_free). */
char *backup_spill_why(const BackupSpill *s);

/* ---- no lock ---------------------------------------------------------- */

/* 0 or a negative errno. */
int backup_spill_write(BackupSpill *s, int64_t slot, const void *buf);
int backup_spill_read(BackupSpill *s, int64_t slot, void *buf);

#endif
