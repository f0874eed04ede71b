/*
 * Live backup of a VM's drives.
 *
 * What it promises
 *
 *   1. One instant.  For the drives of a backup there is one moment: every
 *      write that a guest had been told is done before it is in the archive,
 *      no write that was begun after it is, across all drives.
 *   2. Every cluster (64 KiB) of every drive is in the archive exactly once.
 *   3. No guest's request waits for the archive, however slow it is, nor for
 *      the sweep.  (One exception, bounded in time, is described below.)
 *   4. Whatever goes wrong with the backup, only the backup fails.
 *   5. Either the archive is complete, synced and has its name, or it is gone.
 *
 * Who does what
 *
 *     guest's write ─► hook (copy.c) ─► old blocks ─► stash (stash.c, spill.c)
 *                                                       │
 *     job thread ────► sweep (sweep.c) ─► clusters ◄────┘
 *                                           │
 *                                        queue (queue.c) ─► writer thread (writer.c) ─► BackupDriver
 *
 * The instant is the moment at which all drives are drained (their gates
 * closed, no request in flight) and the hooks are put on them.  From then on
 * the hook has every guest's write wait until the old content of the blocks
 * (4 KiB) it touches has been read and kept, if their cluster has not been
 * saved.  The sweep reads all clusters (64 KiB), puts the kept blocks over
 * them, and hands them to the writer.  The head of copy.c says why that is the
 * content of the instant.
 *
 * The life of a backup
 *
 *     (none) ──backup_start──► STARTING ──instant──► ACTIVE ──all saved──► FINISHING ──► DONE
 *                                 │                    │                      │
 *                                 │error               └──── error, cancel ───┴──► ERROR, CANCELLED
 *                                 ▼
 *                              as before
 *
 *   STARTING   backup_start's thread checks the request, claims the drives,
 *              opens the archive, which may take its time; no drive is touched.
 *              An error here is the command's error and leaves the status of
 *              the backup before; a cancel leaves CANCELLED.
 *   ACTIVE     hooks are on.
 *   FINISHING  all clusters are read, hooks are off; the writer writes the rest
 *              and completes the archive.
 *   the end    hooks are off, all threads but this one have ended, the archive
 *              is closed, the drives are given back; then, last, the status
 *              changes and those who wait in backup_cancel go on.
 *
 * When memory is full because the archive is slow
 *
 * What guests overwrite before the sweep comes to it is kept in memory.  When
 * half of that is taken, the sweep takes these clusters first.  When all of it
 * is, because the archive does not take them, old blocks go to an unlinked
 * temporary file.  Only when there is no room for that either (its limit is
 * reached, or the disk is full) does a guest's write wait for the sweep to
 * fetch something: in line with the others and for a bounded time, a few
 * seconds.  When there is no room by then the backup fails and says so, and the
 * guest's write goes on.
 *
 * When something fails
 *
 * backup_job_fail and backup_job_cancel are the only ways to stop a job.  The
 * first reason wins.  They set `stopped', after which the hook lets everything
 * pass; wake everything that waits for the queue or the stash; and call
 * BackupDriver.cancel, which wakes the writer.  They never wait.  The job's
 * thread then ends the backup in the same way as at the end of a good one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "drivers.h"
#include "job.h"
#include "util/error.h"

#include <unistd.h>
#include <uuid/uuid.h>

struct BackupManager {
    /* constant */
    BlockContext *ctx;
    const BackupDriver *const *drivers;

    pthread_mutex_t lock;
    pthread_cond_t idle_cond; /* busy became false */
    /* guarded by lock */
    bool busy;               /* from backup_start until the end */
    bool cancel_requested;   /* while busy: also before there is a job */
    BackupJob *job;          /* while busy, once the request has been checked */
    BackupStatus last;       /* of the backup before */
    bool has_thread;         /* to be joined before the next one is started */
    pthread_t thread;
};

void backup_status_clear(BackupStatus *st)
{
    g_free(st->errmsg);
    g_free(st->backup_file);
    *st = (BackupStatus){ 0 };
}

static void job_status(BackupJob *job, BackupStatus *st)
{
    BackupStashStats ss;

    backup_job_get_stash_stats(job, &ss);
    *st = (BackupStatus){
        .status = BACKUP_STATUS_ACTIVE,
        .total = job->total,
        .transferred = atomic_load(&job->transferred),
        .zero_bytes = atomic_load(&job->zero_bytes),
        .start_time = job->start_time,
        .backup_file = g_strdup(job->backup_file),
        .finishing = atomic_load(&job->finishing),
        .speed = job->speed,
        .guest_copied = atomic_load(&job->guest_copied),
        .spilled = ss.spilled,
        .memory = ss.memory,
    };
    /* They are counted one after the other. */
    st->zero_bytes = MIN(st->zero_bytes, st->transferred);
    uuid_unparse_lower(job->uuid, st->uuid);
}

static void job_final_status(BackupJob *job, const GError *result, BackupStatus *st)
{
    job_status(job, st);
    st->finishing = false;
    st->end_time = g_get_real_time() / G_USEC_PER_SEC;
    if (!result) {
        st->status = BACKUP_STATUS_DONE;
    } else if (g_error_matches(result, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED)) {
        st->status = BACKUP_STATUS_CANCELLED;
    } else {
        st->status = BACKUP_STATUS_ERROR;
        st->errmsg = g_strdup(result->message);
    }
}

/* Everything of @job goes, then the status changes.  @keep_last: as if it had
 * never been. */
static void end_job(BackupManager *mgr, BackupJob *job, bool keep_last)
{
    backup_job_close(job);

    pthread_mutex_lock(&mgr->lock);
    if (!keep_last) {
        backup_status_clear(&mgr->last);
        job_final_status(job, backup_job_result(job), &mgr->last);
    }
    backup_job_free(job);
    mgr->job = NULL;
    mgr->busy = false;
    pthread_cond_broadcast(&mgr->idle_cond);
    pthread_mutex_unlock(&mgr->lock);
}

static void *job_thread(void *opaque)
{
    BackupManager *mgr = opaque;
    BackupJob *job;

    pthread_mutex_lock(&mgr->lock);
    job = mgr->job;
    pthread_mutex_unlock(&mgr->lock);
    backup_job_run(job);
    end_job(mgr, job, false);
    return NULL;
}

/* ---- what others call --------------------------------------------------- */

BackupManager *backup_manager_new_with_drivers(BlockContext *ctx,
                                               const BackupDriver *const *drivers)
{
    BackupManager *mgr = g_new0(BackupManager, 1);

    mgr->ctx = ctx;
    mgr->drivers = drivers;
    pthread_mutex_init(&mgr->lock, NULL);
    pthread_cond_init(&mgr->idle_cond, NULL);
    return mgr;
}

BackupManager *backup_manager_new(BlockContext *ctx)
{
    return backup_manager_new_with_drivers(ctx, backup_drivers);
}

void backup_manager_free(BackupManager *mgr)
{
    if (!mgr) {
        return;
    }
    backup_cancel(mgr);
    if (mgr->has_thread) {
        pthread_join(mgr->thread, NULL);
    }
    backup_status_clear(&mgr->last);
    pthread_cond_destroy(&mgr->idle_cond);
    pthread_mutex_destroy(&mgr->lock);
    g_free(mgr);
}

/* Become the one backup. */
static bool become_busy(BackupManager *mgr, GError **errp)
{
    bool was_busy;

    pthread_mutex_lock(&mgr->lock);
    was_busy = mgr->busy;
    mgr->busy = true;
    if (!was_busy) {
        mgr->cancel_requested = false;
    }
    pthread_mutex_unlock(&mgr->lock);
    if (was_busy) {
        error_set(errp, "previous backup not finished");
        return false;
    }
    if (mgr->has_thread) {
        pthread_join(mgr->thread, NULL); /* it has nothing left to do */
        mgr->has_thread = false;
    }
    return true;
}

static void become_idle(BackupManager *mgr)
{
    pthread_mutex_lock(&mgr->lock);
    mgr->busy = false;
    pthread_cond_broadcast(&mgr->idle_cond);
    pthread_mutex_unlock(&mgr->lock);
}

static void publish_job(BackupManager *mgr, BackupJob *job)
{
    pthread_mutex_lock(&mgr->lock);
    mgr->job = job;
    if (mgr->cancel_requested) {
        backup_job_cancel(job);
    }
    pthread_mutex_unlock(&mgr->lock);
}

static bool start_thread(BackupManager *mgr, GError **errp)
{
    int ret = pthread_create(&mgr->thread, NULL, job_thread, mgr);

    if (ret) {
        error_set_errno(errp, ret, "a thread for the backup");
        return false;
    }
    mgr->has_thread = true;
    pthread_setname_np(mgr->thread, "backup");
    return true;
}

static void close_fd(const BackupRequest *req)
{
    if (req->target_fd >= 0) {
        close(req->target_fd);
    }
}

/* With mgr->busy ours.  On success a thread ends the job. */
static char *start(BackupManager *mgr, const BackupRequest *req, GError **errp)
{
    BackupJob *job = backup_job_new(mgr->ctx, req, mgr->drivers, errp);
    char uuid[37];

    if (!job) {
        close_fd(req);
        become_idle(mgr);
        return NULL;
    }
    uuid_unparse_lower(job->uuid, uuid);
    publish_job(mgr, job);
    if (!backup_job_start(job, req, errp)) {
        end_job(mgr, job, !backup_job_cancelled(job));
        return NULL;
    }
    if (!start_thread(mgr, errp)) {
        backup_job_cancel(job);
        backup_job_run(job); /* takes the hooks off */
        end_job(mgr, job, true);
        return NULL;
    }
    return g_strdup(uuid);
}

char *backup_start(BackupManager *mgr, const BackupRequest *req, GError **errp)
{
    if (!become_busy(mgr, errp)) {
        close_fd(req);
        return NULL;
    }
    return start(mgr, req, errp);
}

void backup_cancel(BackupManager *mgr)
{
    pthread_mutex_lock(&mgr->lock);
    if (mgr->busy) {
        mgr->cancel_requested = true;
        if (mgr->job) {
            backup_job_cancel(mgr->job);
        }
    }
    while (mgr->busy) {
        pthread_cond_wait(&mgr->idle_cond, &mgr->lock);
    }
    pthread_mutex_unlock(&mgr->lock);
}

void backup_query(BackupManager *mgr, BackupStatus *st)
{
    pthread_mutex_lock(&mgr->lock);
    if (mgr->job) {
        job_status(mgr->job, st);
    } else {
        *st = mgr->last;
        st->errmsg = g_strdup(mgr->last.errmsg);
        st->backup_file = g_strdup(mgr->last.backup_file);
    }
    pthread_mutex_unlock(&mgr->lock);
}
