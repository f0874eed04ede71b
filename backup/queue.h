/*
 * Clusters on their way from the sweep to the writer, and the buffers they lie
 * in: few, because a short queue stays in the CPU's caches.
 *
 *            get ──► buffer ──► push ──► [ queue ] ──► pop ──► done ─┐
 *             ▲                                                      │
 *             └──────────────────── free buffers ◄───────────────────┘
 *
 * Holes need no buffer; that those of a drive are all known is told with an
 * item.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BACKUP_QUEUE_H
#define SIDECAR_BACKUP_QUEUE_H

#include "backup/backup.h"

typedef struct BackupQueue BackupQueue;

typedef struct {
    unsigned drive;   /* the caller's number for it */
    uint64_t cluster;
    void *buf;        /* NULL: all holes of the drive are known now */
} BackupItem;

BackupQueue *backup_queue_new(unsigned n_drives, unsigned n_buffers, GError **errp);
/* Nobody uses it any more. */
void backup_queue_free(BackupQueue *q);

/* The backup has failed or was cancelled: every wait ends, pop returns
 * BACKUP_POP_END.  Any thread. */
void backup_queue_stop(BackupQueue *q);

/* ---- the sweep -------------------------------------------------------- */

/* BACKUP_CLUSTER_SIZE bytes, aligned to that.  Never waits; NULL: none is free. */
void *backup_queue_get(BackupQueue *q);
/* Wait until one is, or the queue is stopped. */
void backup_queue_wait(BackupQueue *q);
void backup_queue_put(BackupQueue *q, void *buf); /* unused */
void backup_queue_push(BackupQueue *q, unsigned drive, uint64_t cluster, void *buf);
/* Once a drive. */
void backup_queue_push_holes(BackupQueue *q, unsigned drive);
/* Nothing will be pushed any more. */
void backup_queue_close(BackupQueue *q);

/* ---- the writer --------------------------------------------------------- */

typedef enum {
    BACKUP_POP_ITEM,
    BACKUP_POP_NONE, /* not @wait, and there is nothing now */
    BACKUP_POP_END,  /* closed and empty, or stopped */
} BackupPop;
BackupPop backup_queue_pop(BackupQueue *q, BackupItem *item, bool wait);
/* It is in the archive. */
void backup_queue_done(BackupQueue *q, const BackupItem *item);

#endif
