/*
 * Old data between those who read it (the sweep, guests' writes) and the one
 * who writes it to the archive; and the memory it lies in.
 *
 *            get ──► buffer ──► push ──► [ queue ] ──► pop ──► done ─┐
 *             ▲                                                      │
 *             └──────────────────── free buffers ◄───────────────────┘
 *
 * The memory is a fixed number of buffers of one cluster.  Who may have one
 * depends on how many are free:
 *
 *     ├── bounce ──┼──────────── guests ────────────┼──── sweep ────┤
 *     0                                                          all free
 *
 * The sweep has few, and waits.  Guests have the rest but for a handful,
 * through which old data goes to the spill file once the rest is full.  When
 * there is no spill file, or no room in it, guests wait for the archive, but
 * for a bounded time, after which the backup must be given up.  The sweep also
 * waits while anything is in the spill file: it would only make it grow.
 *
 * Holes need no buffer; that they are all known is told with an item.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BACKUP_QUEUE_H
#define SIDECAR_BACKUP_QUEUE_H

#include "backup/backup.h"

typedef struct BackupQueue BackupQueue;

typedef enum {
    BACKUP_ITEM_DATA,    /* in a buffer */
    BACKUP_ITEM_HOLES,   /* none: all holes of a drive are in BackupDrive.zero now */
    BACKUP_ITEM_SPILLED, /* in the spill file */
} BackupItemKind;

typedef struct {
    BackupItemKind kind;
    unsigned drive;      /* the caller's number for it */
    uint64_t cluster;
    void *buf;           /* BACKUP_ITEM_DATA and, once loaded, SPILLED */
    int64_t slot;        /* BACKUP_ITEM_SPILLED */
} BackupItem;

/* What a guest's write got. */
typedef struct {
    void *buf;    /* BACKUP_CLUSTER_SIZE bytes, aligned to it; NULL: none */
    int64_t slot; /* >= 0: hand it over with this slot, which goes to the file */
} BackupRoom;

typedef struct {
    uint64_t memory;        /* bytes of buffers taken, the most at once */
    uint64_t spilled;       /* clusters that went through the spill file */
} BackupQueueStats;

/* Arguments as in BackupRequest, with the defaults filled in. */
BackupQueue *backup_queue_new(unsigned n_drives, uint64_t buffer_size,
                              const char *spill_dir, int64_t spill_limit,
                              unsigned stall_ms, GError **errp);
/* Nobody uses it any more. */
void backup_queue_free(BackupQueue *q);

/* The backup has failed or was cancelled: every wait ends, pop returns false.
 * Any thread. */
void backup_queue_stop(BackupQueue *q);
/* Nothing will be pushed any more: pop returns false when all is out. */
void backup_queue_close(BackupQueue *q);

/* ---- the sweep -------------------------------------------------------- */

/* Never waits; NULL: no room for the sweep now. */
void *backup_queue_get_sweep(BackupQueue *q);
/* Wait until get_sweep may work, or the queue is stopped. */
void backup_queue_wait_sweep(BackupQueue *q);
/* Sleep for @ns or until the queue is stopped. */
void backup_queue_sleep(BackupQueue *q, int64_t ns);
/* All holes of a drive are known.  Once a drive. */
void backup_queue_push_holes(BackupQueue *q, unsigned drive);

/* ---- guests' writes ---------------------------------------------------- */

/* Waits for room, first come, first served; false with an error that says why
 * there is none, or without one if the queue was stopped. */
bool backup_queue_get_guest(BackupQueue *q, BackupRoom *room, GError **errp);
/* Hand over what was read into @room. */
void backup_queue_push_guest(BackupQueue *q, unsigned drive, uint64_t cluster,
                             const BackupRoom *room);
/* Nothing was read. */
void backup_queue_put_guest(BackupQueue *q, const BackupRoom *room);

/* ---- both --------------------------------------------------------------- */

void backup_queue_push(BackupQueue *q, unsigned drive, uint64_t cluster,
                       void *buf);
void backup_queue_put(BackupQueue *q, void *buf); /* unused */

/* ---- the writer --------------------------------------------------------- */

typedef enum {
    BACKUP_POP_ITEM,
    BACKUP_POP_NONE,  /* not @wait, and there is nothing now */
    BACKUP_POP_END,   /* closed and empty, or stopped */
    BACKUP_POP_ERROR, /* the spill file cannot be read */
} BackupPop;
BackupPop backup_queue_pop(BackupQueue *q, BackupItem *item, bool wait, GError **errp);
/* It is in the archive. */
void backup_queue_done(BackupQueue *q, const BackupItem *item);

void backup_queue_get_stats(BackupQueue *q, BackupQueueStats *stats);

#endif
