/*
 * Copy before write: the hook that guests' writes go through while a backup
 * runs.
 *
 * A write may change a cluster once its old content is in memory and handed
 * over; whether it is in the archive is nobody's concern here.  So the hook
 *
 *   1. looks whether all clusters of the write are saved (a test of one or two
 *      words of the bitmap: all it costs for most of the time);
 *   2. claims those that nobody has claimed, reads and hands them over;
 *   3. waits for those that somebody else is reading.
 *
 * It never waits for 3 with anything of its own undone, so no two writes wait
 * for each other.  When the job has failed or was cancelled, the hook lets
 * everything pass: then there is nothing left to protect.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "job.h"

#include "util/error.h"

#include <string.h>

size_t backup_cluster_len(const BackupDrive *d, uint64_t cluster)
{
    return MIN(d->length - (int64_t)cluster * BACKUP_CLUSTER_SIZE,
               BACKUP_CLUSTER_SIZE);
}

/* n_waiting is raised before the bit is looked at, the bit set before
 * n_waiting is looked at: one of the two sees the other. */
void backup_mark_saved(BackupDrive *d, uint64_t cluster)
{
    bitmap_set(d->saved, cluster);
    if (atomic_load(&d->n_waiting)) {
        backup_wake_all(d);
    }
}

void backup_wake_all(BackupDrive *d)
{
    pthread_mutex_lock(&d->lock);
    pthread_cond_broadcast(&d->saved_cond);
    pthread_mutex_unlock(&d->lock);
}

void backup_read_failed(BackupDrive *d, uint64_t cluster, int errnum)
{
    GError *err = NULL;

    error_set_errno(&err, errnum, "device '%s': reading %zu bytes at offset %" G_GUINT64_FORMAT,
                    blk_name(d->blk), backup_cluster_len(d, cluster),
                    cluster * BACKUP_CLUSTER_SIZE);
    backup_job_fail(d->job, err);
}

static void wait_saved(BackupDrive *d, uint64_t cluster)
{
    pthread_mutex_lock(&d->lock);
    atomic_fetch_add(&d->n_waiting, 1);
    while (!bitmap_test(d->saved, cluster) && !atomic_load(&d->job->stopped)) {
        pthread_cond_wait(&d->saved_cond, &d->lock);
    }
    atomic_fetch_sub(&d->n_waiting, 1);
    pthread_mutex_unlock(&d->lock);
}

/* Read a cluster and hand it over.  On failure the job has failed. */
static void copy_data(BackupDrive *d, uint64_t cluster)
{
    BackupJob *job = d->job;
    size_t len = backup_cluster_len(d, cluster);
    GError *err = NULL;
    BackupRoom room;
    int ret;

    if (!backup_queue_get_guest(job->queue, &room, &err)) {
        if (err) {
            backup_job_fail(job, err);
        }
        return;
    }
    ret = bdrv_pread(d->node, cluster * BACKUP_CLUSTER_SIZE, len, room.buf);
    if (ret < 0) {
        backup_queue_put_guest(job->queue, &room);
        backup_read_failed(d, cluster, -ret);
        return;
    }
    memset((char *)room.buf + len, 0, BACKUP_CLUSTER_SIZE - len);
    ratelimit_account_forced(&job->limit, len, ratelimit_now_ns());
    backup_queue_push_guest(job->queue, d->index, cluster, &room);
}

/* The caller has claimed it. */
static void copy_cluster(BackupDrive *d, uint64_t cluster)
{
    copy_data(d, cluster);
    atomic_fetch_add_explicit(&d->job->guest_copied, backup_cluster_len(d, cluster),
                              memory_order_relaxed);
    backup_mark_saved(d, cluster);
}

static void before_write(void *opaque, int64_t offset, int64_t bytes)
{
    BackupDrive *d = opaque;
    uint64_t first, end;
    bool others = false;

    if (bytes <= 0 || backup_job_stopped(d->job)) {
        return;
    }
    first = offset / BACKUP_CLUSTER_SIZE;
    end = MIN((uint64_t)(offset + bytes - 1) / BACKUP_CLUSTER_SIZE + 1, d->n_clusters);
    if (bitmap_all_set(d->saved, first, end - first)) {
        return;
    }
    for (uint64_t c = first; c < end && !backup_job_stopped(d->job); c++) {
        if (bitmap_test(d->saved, c)) {
            continue;
        }
        if (bitmap_test_and_set(d->claimed, c)) {
            others = true;
        } else {
            copy_cluster(d, c);
        }
    }
    for (uint64_t c = first; others && c < end; c++) {
        if (!bitmap_test(d->saved, c)) {
            wait_saved(d, c);
        }
    }
}

const BlockWriteHook backup_write_hook = {
    .before_write = before_write,
};
