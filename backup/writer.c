/*
 * The archive's writer: a thread of its own, so that neither a guest nor a
 * monitor ever waits for a slow archive.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "job.h"

/* One cluster; @buf NULL: zeros. */
static bool dump(BackupJob *job, BackupDrive *d, uint64_t cluster,
                 const void *buf, GError **errp)
{
    size_t len = backup_cluster_len(d, cluster), zero_bytes = 0;

    if (!job->drv->dump(job->target, d->stream, cluster, buf, &zero_bytes, errp)) {
        return false;
    }
    atomic_fetch_add_explicit(&job->transferred, len, memory_order_relaxed);
    atomic_fetch_add_explicit(&job->zero_bytes, MIN(zero_bytes, len), memory_order_relaxed);
    return true;
}

static bool dump_zeros(BackupJob *job, BackupDrive *d, uint64_t first,
                       uint64_t end, GError **errp)
{
    for (uint64_t c = first; c < end; c++) {
        if (backup_job_stopped(job) || !dump(job, d, c, NULL, errp)) {
            return false;
        }
    }
    return true;
}

static bool dump_item(BackupJob *job, const BackupItem *item, GError **errp)
{
    BackupDrive *d = &job->drives[item->drive];

    if (item->kind == BACKUP_ITEM_ZEROS) {
        return dump_zeros(job, d, item->cluster, item->cluster + item->count, errp);
    }
    return dump(job, d, item->cluster, item->buf, errp);
}

static bool drain_queue(BackupJob *job, GError **errp)
{
    GError *err = NULL;
    BackupItem item;

    while (backup_queue_pop(job->queue, &item, &err)) {
        bool ok = dump_item(job, &item, errp);

        backup_queue_done(job->queue, &item);
        if (!ok) {
            return false;
        }
    }
    if (err) {
        g_propagate_error(errp, err);
        return false;
    }
    return !backup_job_stopped(job);
}

/* What guests' writes found to be zero.  All hooks are off by now. */
static bool drain_zero_bitmap(BackupJob *job, BackupDrive *d, GError **errp)
{
    uint64_t c = 0;

    while ((c = bitmap_next_set(d->zero, c)) < d->n_clusters) {
        uint64_t end = bitmap_next_clear(d->zero, c);

        if (!dump_zeros(job, d, c, end, errp)) {
            return false;
        }
        c = end;
    }
    return true;
}

static bool write_all(BackupJob *job, GError **errp)
{
    if (!drain_queue(job, errp)) {
        return false;
    }
    for (size_t i = 0; i < job->n_drives; i++) {
        if (!drain_zero_bitmap(job, &job->drives[i], errp)) {
            return false;
        }
    }
    return job->drv->complete(job->target, errp);
}

void *backup_writer_thread(void *opaque)
{
    BackupJob *job = opaque;
    GError *err = NULL;

    if (write_all(job, &err)) {
        atomic_store(&job->completed, true);
    } else if (err) {
        backup_job_fail(job, err);
    }
    return NULL;
}
