/*
 * The archive's writer: a thread of its own, so that neither a guest nor a
 * monitor ever waits for a slow archive.
 *
 * What comes through the queue goes first, because the sweep needs the buffers;
 * holes are written whenever the queue is empty, a few at a time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "job.h"

#include "util/background.h"

#define HOLES_AT_ONCE 256

typedef struct {
    BackupJob *job;
    /* Which drives' holes are known: those before n_drives in drives. */
    unsigned *drives;
    unsigned n_drives, cur_drive; /* those before cur_drive are done */
    uint64_t cur_cluster;
} Writer;

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

static bool holes_left(const Writer *w)
{
    return w->cur_drive < w->n_drives;
}

/* Some of the holes that are known. */
static bool dump_holes(Writer *w, GError **errp)
{
    BackupDrive *d = &w->job->drives[w->drives[w->cur_drive]];

    for (unsigned i = 0; i < HOLES_AT_ONCE; i++) {
        w->cur_cluster = bitmap_next_set(d->zero, w->cur_cluster);
        if (w->cur_cluster == d->n_clusters) {
            w->cur_drive++;
            w->cur_cluster = 0;
            break;
        }
        if (!dump(w->job, d, w->cur_cluster++, NULL, errp)) {
            return false;
        }
    }
    return true;
}

static bool dump_item(Writer *w, const BackupItem *item, GError **errp)
{
    BackupDrive *d = &w->job->drives[item->drive];

    if (!item->buf) {
        w->drives[w->n_drives++] = item->drive;
        return true;
    }
    return dump(w->job, d, item->cluster, item->buf, errp);
}

static bool dump_all(Writer *w, GError **errp)
{
    BackupQueue *q = w->job->queue;

    for (;;) {
        BackupItem item;
        BackupPop pop = backup_queue_pop(q, &item, !holes_left(w));
        bool ok = true;

        if (pop == BACKUP_POP_ITEM) {
            ok = dump_item(w, &item, errp);
            backup_queue_done(q, &item);
        } else if (backup_job_stopped(w->job)) {
            ok = false;
        } else if (holes_left(w)) {
            ok = dump_holes(w, errp);
        } else {
            return true;
        }
        if (!ok) {
            return false;
        }
    }
}

void *backup_writer_thread(void *opaque)
{
    BackupJob *job = opaque;
    Writer w = { .job = job, .drives = g_new(unsigned, job->n_drives) };
    GError *err = NULL;

    thread_set_background(BACKUP_WRITER_NICE);
    if (dump_all(&w, &err) && job->drv->complete(job->target, &err)) {
        atomic_store(&job->completed, true);
    } else if (err) {
        backup_job_fail(job, err);
    }
    g_free(w.drives);
    return NULL;
}
