/*
 * Block jobs; see include/block/job.h.
 *
 * A job's thread is detached and the last to touch the job: it takes itself off
 * the set's list, after it has told the set's owner, and is gone.  Whoever waits
 * for a job waits for it to leave the list.
 *
 * Locks: BlockJobSet.lock guards the list and every job's fields but the rate
 * limit, which has its own.  It is a leaf but for that one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/job.h"

#include "util/error.h"
#include "util/ratelimit.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

struct BlockJob {
    BlockJobSet *set;
    BlockBackend *blk;   /* borrowed; lives as long as the VM */
    const BlockJobOps *ops;
    void *opaque;
    RateLimit limit;
    BlockJobInfo info;   /* set->lock; device and type never change */
};

struct BlockJobSet {
    BlockJobEndedFn *ended;
    void *opaque;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a job ended, is to be cancelled, has a new speed */
    GPtrArray *jobs;        /* lock */
    bool stopping;          /* lock */
};

void block_job_info_clear(BlockJobInfo *info)
{
    g_clear_pointer(&info->device, g_free);
    g_clear_pointer(&info->error, g_free);
}

BlockJobSet *block_job_set_new(BlockJobEndedFn *ended, void *opaque)
{
    BlockJobSet *set = g_new0(BlockJobSet, 1);
    pthread_condattr_t attr;

    set->ended = ended;
    set->opaque = opaque;
    set->jobs = g_ptr_array_new();
    pthread_mutex_init(&set->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&set->changed, &attr);
    pthread_condattr_destroy(&attr);
    return set;
}

void block_job_set_stop(BlockJobSet *set)
{
    pthread_mutex_lock(&set->lock);
    set->stopping = true;
    for (guint i = 0; i < set->jobs->len; i++) {
        BlockJob *job = g_ptr_array_index(set->jobs, i);

        job->info.cancelling = true;
    }
    pthread_cond_broadcast(&set->changed);
    while (set->jobs->len) {
        pthread_cond_wait(&set->changed, &set->lock);
    }
    pthread_mutex_unlock(&set->lock);
}

void block_job_set_free(BlockJobSet *set)
{
    if (!set) {
        return;
    }
    block_job_set_stop(set);
    pthread_mutex_destroy(&set->lock);
    pthread_cond_destroy(&set->changed);
    g_ptr_array_unref(set->jobs);
    g_free(set);
}

/* Under lock.  One that has ended and only has to tell so is not found. */
static BlockJob *find(BlockJobSet *set, const char *device)
{
    for (guint i = 0; i < set->jobs->len; i++) {
        BlockJob *job = g_ptr_array_index(set->jobs, i);

        if (job->info.state == BLOCK_JOB_RUNNING &&
            !strcmp(job->info.device, device)) {
            return job;
        }
    }
    return NULL;
}

static bool not_active(const char *device, GError **errp)
{
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_DEVICE_NOT_ACTIVE,
                "No active block job on device '%s'", device);
    return false;
}

static void clear_element(void *info)
{
    block_job_info_clear(info);
}

GArray *block_job_list(BlockJobSet *set)
{
    GArray *list = g_array_new(FALSE, FALSE, sizeof(BlockJobInfo));

    g_array_set_clear_func(list, clear_element);
    pthread_mutex_lock(&set->lock);
    for (guint i = 0; i < set->jobs->len; i++) {
        const BlockJob *job = g_ptr_array_index(set->jobs, i);
        BlockJobInfo info = job->info;

        if (info.state != BLOCK_JOB_RUNNING) {
            continue;
        }
        info.device = g_strdup(info.device);
        info.error = g_strdup(info.error);
        g_array_append_val(list, info);
    }
    pthread_mutex_unlock(&set->lock);
    return list;
}

bool block_job_set_speed(BlockJobSet *set, const char *device, int64_t speed,
                         GError **errp)
{
    BlockJob *job;

    if (speed < 0) {
        error_set(errp, "Parameter 'speed' expects a non-negative value");
        return false;
    }
    pthread_mutex_lock(&set->lock);
    job = find(set, device);
    if (job) {
        job->info.speed = speed;
        ratelimit_set_speed(&job->limit, speed);
        pthread_cond_broadcast(&set->changed);
    }
    pthread_mutex_unlock(&set->lock);
    return job ? true : not_active(device, errp);
}

bool block_job_cancel(BlockJobSet *set, const char *device, bool wait,
                      GError **errp)
{
    BlockJob *job;
    bool ok = false;

    pthread_mutex_lock(&set->lock);
    job = find(set, device);
    if (!job) {
        not_active(device, errp);
    } else if (job->info.cancelling) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_DEVICE_IN_USE,
                    "The block job on device '%s' is being cancelled already",
                    device);
    } else {
        ok = job->info.cancelling = true;
        pthread_cond_broadcast(&set->changed);
        while (wait && g_ptr_array_find(set->jobs, job, NULL)) {
            pthread_cond_wait(&set->changed, &set->lock);
        }
    }
    pthread_mutex_unlock(&set->lock);
    return ok;
}

/* ---- a job ------------------------------------------------------------------- */

static void end(BlockJob *job, bool ok, GError *error)
{
    BlockJobSet *set = job->set;
    BlockJobInfo info;

    pthread_mutex_lock(&set->lock);
    if (ok) {
        job->info.state = BLOCK_JOB_DONE;
        job->info.offset = job->info.len;
    } else if (job->info.cancelling) {
        job->info.state = BLOCK_JOB_CANCELLED;
    } else {
        job->info.state = BLOCK_JOB_FAILED;
        job->info.error = g_strdup(error ? error->message : "unknown error");
    }
    info = job->info;
    blk_release(job->blk);
    pthread_mutex_unlock(&set->lock);
    /* Who hears of the end may start the next; who waits for it is told after
     * the event. */
    set->ended(set->opaque, &info);
    pthread_mutex_lock(&set->lock);
    g_ptr_array_remove(set->jobs, job);
    pthread_cond_broadcast(&set->changed);
    pthread_mutex_unlock(&set->lock);
    block_job_info_clear(&job->info);
    ratelimit_destroy(&job->limit);
    g_free(job);
}

static void *job_thread(void *data)
{
    BlockJob *job = data;
    GError *error = NULL;
    bool ok = job->ops->run(job, job->opaque, &error);

    job->ops->free(job->opaque);
    end(job, ok, error);
    g_clear_error(&error);
    return NULL;
}

static int start_thread(BlockJob *job)
{
    pthread_attr_t attr;
    pthread_t thread;
    int err;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    err = pthread_create(&thread, &attr, job_thread, job);
    pthread_attr_destroy(&attr);
    return err;
}

bool block_job_start(BlockJobSet *set, BlockBackend *blk, const BlockJobOps *ops,
                     void *opaque, int64_t len, int64_t speed, GError **errp)
{
    BlockJob *job;
    int err;

    if (speed < 0) {
        error_set(errp, "Parameter 'speed' expects a non-negative value");
        blk_release(blk);
        ops->free(opaque);
        return false;
    }
    job = g_new0(BlockJob, 1);
    job->set = set;
    job->blk = blk;
    job->ops = ops;
    job->opaque = opaque;
    job->info.device = g_strdup(blk_name(blk));
    job->info.type = ops->type;
    job->info.len = len;
    job->info.speed = speed;
    ratelimit_init(&job->limit, speed);
    pthread_mutex_lock(&set->lock);
    g_ptr_array_add(set->jobs, job);
    err = set->stopping ? ECANCELED : start_thread(job);
    if (err) {
        g_ptr_array_remove(set->jobs, job);
    }
    pthread_mutex_unlock(&set->lock);
    if (err) {
        error_set_errno(errp, err, "cannot start a thread");
        blk_release(blk);
        ops->free(opaque);
        block_job_info_clear(&job->info);
        ratelimit_destroy(&job->limit);
        g_free(job);
    }
    return err == 0;
}

bool block_job_is_cancelled(BlockJob *job)
{
    bool cancelled;

    pthread_mutex_lock(&job->set->lock);
    cancelled = job->info.cancelling;
    pthread_mutex_unlock(&job->set->lock);
    return cancelled;
}

static struct timespec after_ns(int64_t ns)
{
    struct timespec t = { ns / 1000000000, ns % 1000000000 };

    return t;
}

bool block_job_progress(BlockJob *job, int64_t bytes, bool counts)
{
    BlockJobSet *set = job->set;
    bool cancelled;

    if (counts) {
        ratelimit_account(&job->limit, bytes, ratelimit_now_ns());
    }
    pthread_mutex_lock(&set->lock);
    job->info.offset = MIN(job->info.offset + bytes, job->info.len);
    for (;;) {
        int64_t now = ratelimit_now_ns();
        int64_t delay = ratelimit_delay_ns(&job->limit, now);
        struct timespec until = after_ns(now + delay);

        cancelled = job->info.cancelling;
        if (cancelled || delay <= 0) {
            break;
        }
        pthread_cond_timedwait(&set->changed, &set->lock, &until);
    }
    pthread_mutex_unlock(&set->lock);
    return !cancelled;
}
