/*
 * The life of one backup: start, run, end.  The story is told at the head of
 * backup/backup.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "job.h"

#include "util/background.h"
#include "util/error.h"

#include <unistd.h>

#define MAX_SWEEP_BUFFERS 64 /* a short queue stays in the CPU's caches */
#define MIN_MEMORY (16 * BACKUP_CLUSTER_SIZE)

/* ---- how it ends ------------------------------------------------------------ */

/* Lock held, the reason is known: let everyone go who waits for anything. */
static void stop_locked(BackupJob *job)
{
    atomic_store(&job->stopped, true);
    if (job->target) {
        job->drv->cancel(job->target);
    }
    if (job->queue) {
        backup_queue_stop(job->queue);
    }
    if (job->stash) {
        backup_stash_stop(job->stash);
    }
}

void backup_job_fail(BackupJob *job, GError *err)
{
    pthread_mutex_lock(&job->lock);
    if (job->error || job->cancelled) {
        g_error_free(err); /* a consequence */
    } else {
        job->error = err;
        stop_locked(job);
    }
    pthread_mutex_unlock(&job->lock);
}

void backup_job_cancel(BackupJob *job)
{
    pthread_mutex_lock(&job->lock);
    if (!job->error && !job->cancelled) {
        job->cancelled = true;
        stop_locked(job);
    }
    pthread_mutex_unlock(&job->lock);
}

bool backup_job_cancelled(BackupJob *job)
{
    bool cancelled;

    pthread_mutex_lock(&job->lock);
    cancelled = job->cancelled;
    pthread_mutex_unlock(&job->lock);
    return cancelled;
}

const GError *backup_job_result(BackupJob *job)
{
    if (atomic_load(&job->completed)) {
        return NULL;
    }
    pthread_mutex_lock(&job->lock);
    if (!job->error) {
        job->cancelled = true;
        job->error = g_error_new_literal(SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED,
                                         "the backup was cancelled");
    }
    pthread_mutex_unlock(&job->lock);
    return job->error;
}

/* ---- start ------------------------------------------------------------------- */

static bool check_cancelled(BackupJob *job, GError **errp)
{
    if (backup_job_stopped(job)) {
        g_propagate_error(errp, g_error_copy(backup_job_result(job)));
        return false;
    }
    return true;
}

static bool open_target(BackupJob *job, const BackupRequest *req, GError **errp)
{
    /* From here on the driver has the fd. */
    void *target = job->drv->new(req->backup_file, req->target_fd, job->uuid, errp);

    if (!target) {
        return false;
    }
    pthread_mutex_lock(&job->lock);
    job->target = target; /* from here on cancel reaches it */
    pthread_mutex_unlock(&job->lock);
    if (!check_cancelled(job, errp)) {
        return false;
    }
    return job->drv->open(target, errp);
}

static bool register_all(BackupJob *job, GError **errp)
{
    for (unsigned i = 0; i < job->configs->len; i++) {
        const BackupConfig *cfg = g_ptr_array_index(job->configs, i);

        if (!job->drv->register_config(job->target, cfg->name, cfg->data, cfg->len, errp)) {
            return false;
        }
    }
    for (size_t i = 0; i < job->n_drives; i++) {
        BackupDrive *d = &job->drives[i];

        d->stream = job->drv->register_stream(job->target, blk_name(d->blk), d->length, errp);
        if (d->stream < 0) {
            return false;
        }
    }
    return true;
}

/* The sweep's buffers come out of the memory that was asked for; nearly all of
 * it is for guests. */
static bool make_room(BackupJob *job, const BackupRequest *req, GError **errp)
{
    uint64_t memory = MAX(req->buffer_size ? req->buffer_size : BACKUP_BUFFER_DEFAULT,
                          MIN_MEMORY);
    unsigned n_buffers = MIN(memory / BACKUP_CLUSTER_SIZE / 4, MAX_SWEEP_BUFFERS);
    BackupQueue *queue = backup_queue_new(job->n_drives, n_buffers, errp);
    BackupStash *stash = NULL;

    if (queue) {
        stash = backup_stash_new(memory - (uint64_t)n_buffers * BACKUP_CLUSTER_SIZE,
                                 req->spill_dir,
                                 req->spill_limit ? req->spill_limit : BACKUP_SPILL_DEFAULT,
                                 req->stall_ms ? req->stall_ms : BACKUP_STALL_DEFAULT_MS, errp);
    }
    pthread_mutex_lock(&job->lock);
    job->queue = queue;
    job->stash = stash;
    pthread_mutex_unlock(&job->lock);
    return stash && check_cancelled(job, errp);
}

static bool start_writer(BackupJob *job, GError **errp)
{
    int ret = pthread_create(&job->writer, NULL, backup_writer_thread, job);

    if (ret) {
        error_set_errno(errp, ret, "a thread for the archive");
        return false;
    }
    pthread_setname_np(job->writer, "backup-writer");
    return true;
}

/* The instant: what was answered before is in the backup, what comes after is
 * not, on all drives.  Also takes the hooks off (@hook NULL). */
static void set_hooks(BackupJob *job, const BlockWriteHook *hook)
{
    blk_drained_begin(job->blks, job->n_drives);
    for (size_t i = 0; i < job->n_drives; i++) {
        blk_set_write_hook(job->blks[i], hook, hook ? &job->drives[i] : NULL);
    }
    blk_drained_end(job->blks, job->n_drives);
}

bool backup_job_start(BackupJob *job, const BackupRequest *req, GError **errp)
{
    job->start_time = g_get_real_time() / G_USEC_PER_SEC;
    if (!open_target(job, req, errp) || !register_all(job, errp) ||
        !make_room(job, req, errp) || !start_writer(job, errp)) {
        return false;
    }
    set_hooks(job, &backup_write_hook);
    return true;
}

/* ---- run ----------------------------------------------------------------------- */

void backup_job_run(BackupJob *job)
{
    thread_set_background(BACKUP_SWEEP_NICE);
    backup_sweep(job);
    /* After this no guest's write is in the hook, so everything is saved, or
     * nobody cares any more. */
    set_hooks(job, NULL);
    atomic_store(&job->finishing, !backup_job_stopped(job));
    backup_queue_close(job->queue);
    pthread_join(job->writer, NULL);
}

static void drive_clear(BackupDrive *d)
{
    bdrv_unref(d->node);
    blk_release(d->blk);
    backup_drive_destroy(d);
}

/* Taken off the job first: a late cancel must find nothing, or all of it. */
void backup_job_close(BackupJob *job)
{
    BackupQueue *queue;
    BackupStash *stash;
    size_t n_drives;
    void *target;

    pthread_mutex_lock(&job->lock);
    target = g_steal_pointer(&job->target);
    queue = g_steal_pointer(&job->queue);
    stash = g_steal_pointer(&job->stash);
    if (stash) {
        backup_stash_get_stats(stash, &job->stash_stats);
    }
    n_drives = job->n_drives;
    job->n_drives = 0;
    pthread_mutex_unlock(&job->lock);

    if (target) {
        job->drv->close(target);
    }
    for (size_t i = 0; i < n_drives; i++) {
        drive_clear(&job->drives[i]);
    }
    backup_queue_free(queue);
    backup_stash_free(stash);
}

void backup_job_get_stash_stats(BackupJob *job, BackupStashStats *stats)
{
    pthread_mutex_lock(&job->lock);
    if (job->stash) {
        backup_stash_get_stats(job->stash, &job->stash_stats);
    }
    *stats = job->stash_stats;
    pthread_mutex_unlock(&job->lock);
}

void backup_job_free(BackupJob *job)
{
    backup_job_close(job);
    g_ptr_array_unref(job->configs);
    g_clear_error(&job->error);
    ratelimit_destroy(&job->limit);
    pthread_mutex_destroy(&job->lock);
    pthread_mutex_destroy(&job->stashed_lock);
    g_free(job->drives);
    g_free(job->blks);
    g_free(job->backup_file);
    g_free(job);
}
