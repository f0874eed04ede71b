/*
 * One backup: its drives and their clusters, its threads, its end.
 * The story is told at the head of backup/backup.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BACKUP_JOB_H
#define SIDECAR_BACKUP_JOB_H

#include "backup/backup.h"
#include "queue.h"
#include "stash.h"
#include "util/bitmap.h"
#include "util/ratelimit.h"

#include <pthread.h>
#include <stdatomic.h>

/* The sweep has all the time in the world; guests may wait for what the writer
 * frees. */
#define BACKUP_SWEEP_NICE 19
#define BACKUP_WRITER_NICE 10

typedef struct BackupJob BackupJob;

/*
 * A cluster that is not saved yet and that guests have written to: the old
 * content of the blocks they have written, or are about to.
 */
typedef struct {
    GList link;          /* in job->stashed until the sweep comes; guarded by
                            job->stashed_lock */
    unsigned drive;
    uint64_t cluster;
    /* guarded by the shard's lock */
    uint16_t blocks;     /* which: a bit each */
    BackupBlockRef *refs; /* one for each bit, in their order */
} BackupStashed;

/* Some of a drive's clusters. */
typedef struct {
    pthread_mutex_t lock;
    GHashTable *stashed; /* guarded by lock: cluster → BackupStashed */
} BackupShard;

#define BACKUP_SHARDS 32

/* A drive in a backup.  The states of its clusters are at the head of copy.c. */
typedef struct {
    /* constant while the backup runs */
    BackupJob *job;
    unsigned index;       /* in job->drives */
    BlockBackend *blk;    /* claimed */
    BlockNode *node;      /* a reference */
    int64_t length;
    uint64_t n_clusters;
    int stream;           /* the driver's id */
    bool has_holes;       /* worth asking the image for them */

    Bitmap *saved;        /* any thread reads; set under the shard's lock */
    Bitmap *claimed;      /* the sweep's; set under the shard's lock */
    Bitmap *zero;         /* holes: the sweep's, then the writer's */
    BackupShard shards[BACKUP_SHARDS];
} BackupDrive;

typedef struct {
    char *name; /* as it will be in the archive */
    char *data;
    size_t len;
} BackupConfig;

struct BackupJob {
    /* constant once the job runs */
    BlockContext *ctx;          /* borrowed */
    const BackupDriver *drv;
    BackupDrive *drives;
    size_t n_drives;
    BlockBackend **blks;        /* those of drives, for draining */
    GPtrArray *configs;         /* of BackupConfig; until they are registered */
    BackupQueue *queue;
    BackupStash *stash;
    uint64_t total;
    int64_t speed;              /* the limit that was asked for */
    char *backup_file;
    uint8_t uuid[16];
    int64_t start_time;
    pthread_t writer;

    /* any thread */
    RateLimit limit;
    atomic_bool stopped;        /* failed or cancelled; never cleared */
    atomic_bool finishing;      /* everything is saved, all hooks are off */
    atomic_bool completed;      /* the archive is whole and has its name */
    atomic_uint_fast64_t transferred, zero_bytes;
    atomic_uint_fast64_t guest_copied; /* bytes kept for guests' writes */

    pthread_mutex_t stashed_lock;
    GQueue stashed;             /* of BackupStashed that the sweep has not come
                                   to, oldest first; guarded by stashed_lock */

    pthread_mutex_t lock;
    /* guarded by lock; target, queue and n_drives only where the job begins
     * and ends */
    void *target;               /* of drv; NULL before and after */
    bool cancelled;             /* before any error */
    BackupStashStats stash_stats; /* of the stash that is gone */
    GError *error;              /* the first one */
};

/* Lock order: BackupManager.lock, BackupJob.lock, BackupShard.lock, then one of
 * stashed_lock, the queue's, the stash's, the driver's own. */

/* ---- request.c --------------------------------------------------------- */

/* Check what was asked for; opens no archive, claims the drives.  NULL and an
 * error, or a job for backup_job_start. @drivers: NULL-terminated. */
BackupJob *backup_job_new(BlockContext *ctx, const BackupRequest *req,
                          const BackupDriver *const *drivers, GError **errp);

/* ---- job.c --------------------------------------------------------------- */

/* Open the archive, take the instant, start.  May wait for the archive.
 * False: the job never ran, free it. */
bool backup_job_start(BackupJob *job, const BackupRequest *req, GError **errp);
/* Run until all is saved, and the archive complete; or until it has failed or
 * was cancelled, and the archive is gone.  Afterwards only what
 * backup_job_result and the counters say is of interest. */
void backup_job_run(BackupJob *job);
/* NULL: done.  The code SIDECAR_ERROR_CANCELLED: cancelled.  Borrowed. */
const GError *backup_job_result(BackupJob *job);
bool backup_job_cancelled(BackupJob *job);
void backup_job_get_stash_stats(BackupJob *job, BackupStashStats *stats);
/* Close the archive (removed unless complete), give back the drives and all
 * large memory.  It can still be asked for its result and be cancelled. */
void backup_job_close(BackupJob *job);
void backup_job_free(BackupJob *job); /* closes */

/* Any thread; neither waits. */
void backup_job_cancel(BackupJob *job);
/* @err is taken over; only the first counts. */
void backup_job_fail(BackupJob *job, GError *err);

static inline bool backup_job_stopped(BackupJob *job)
{
    return atomic_load_explicit(&job->stopped, memory_order_relaxed);
}

/* ---- copy.c -------------------------------------------------------------- */

extern const BlockWriteHook backup_write_hook; /* its opaque: a BackupDrive */

bool backup_drive_init(BackupDrive *d, GError **errp); /* bitmaps and shards */
void backup_drive_destroy(BackupDrive *d);
/* How many bytes of a cluster are inside the image. */
size_t backup_cluster_len(const BackupDrive *d, uint64_t cluster);
/* The image can't be read. */
void backup_read_failed(BackupDrive *d, int64_t offset, size_t len, int errnum);

/* The sweep: it will save @cluster.  *have_all: guests' writes have kept all of
 * it, so that it need not be read. */
void backup_claim(BackupDrive *d, uint64_t cluster, bool *have_all);
/* The image says that @cluster is a hole, and has said so after the instant.
 * If no guest has touched it, it is one: claimed, saved, and marked in `zero'. */
void backup_claim_hole(BackupDrive *d, uint64_t cluster);
/* The sweep has read @cluster, which it claimed, into @buf: put what guests'
 * writes have kept over it, so that it becomes what it was at the instant.
 * From now on guests' writes to it pass.  False: the job has failed. */
bool backup_save(BackupDrive *d, uint64_t cluster, void *buf);

/* ---- sweep.c, writer.c --------------------------------------------------- */

/* Read everything that no guest's write has saved.  Returns when the job has
 * stopped, too. */
void backup_sweep(BackupJob *job);
/* The writer's thread: the queue and the holes, then BackupDriver.complete. */
void *backup_writer_thread(void *job);

#endif
