/*
 * The sweep: reads everything that no guest's write has saved first.
 *
 * First it looks for the holes of all drives, and claims them: that takes
 * little time, and from then on guests' writes into them cost nothing.  (They
 * do not look for themselves: asking a file for its holes takes a lock that its
 * writers need.)  What a drive says of its holes holds for every cluster that
 * is still unclaimed when it is claimed here, however old the answer: until a
 * cluster has been claimed and saved nobody can have changed it.
 *
 * Then it reads the rest, drive by drive from the front, several reads in
 * flight.
 *
 * The sweep must not sleep while it has claimed a cluster and not read it,
 * because a guest's write may be waiting for just that one.  So room and speed
 * are asked for first, and before it waits for either, all reads are brought
 * in.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "job.h"

#include <string.h>

#define DEPTH 16

typedef struct {
    uint64_t cluster;
    void *buf;
} SweepRead;

typedef struct {
    BackupJob *job;
    BackupDrive *d;
    BdrvBulk *bulk;
    SweepRead reads[DEPTH];
    SweepRead *idle[DEPTH];
    unsigned n_idle;
} Sweep;

/* Bring in one read. */
static void reap(Sweep *s)
{
    BackupDrive *d = s->d;
    void *opaque = NULL;
    int ret = bdrv_bulk_wait(s->bulk, &opaque);
    SweepRead *r = opaque;

    if (ret < 0) {
        backup_queue_put(s->job->queue, r->buf);
        backup_read_failed(d, r->cluster, -ret);
    } else {
        size_t len = backup_cluster_len(d, r->cluster);

        memset((char *)r->buf + len, 0, BACKUP_CLUSTER_SIZE - len);
        backup_queue_push(s->job->queue, d->index, r->cluster, r->buf);
    }
    backup_mark_saved(d, r->cluster);
    s->idle[s->n_idle++] = r;
}

static void reap_all(Sweep *s)
{
    while (s->n_idle < DEPTH) {
        reap(s);
    }
}

/* A buffer, when the speed limit and the queue allow one; NULL: stopped. */
static void *get_buf(Sweep *s)
{
    BackupJob *job = s->job;

    while (!backup_job_stopped(job)) {
        int64_t delay = ratelimit_delay_ns(&job->limit, ratelimit_now_ns());
        void *buf = delay ? NULL : backup_queue_get_sweep(job->queue);

        if (buf) {
            return buf;
        }
        if (s->n_idle < DEPTH) {
            reap(s);
        } else if (delay) {
            backup_queue_sleep(job->queue, delay);
        } else {
            backup_queue_wait_sweep(job->queue);
        }
    }
    return NULL;
}

static void sweep_data(Sweep *s, uint64_t cluster)
{
    BackupDrive *d = s->d;
    size_t len = backup_cluster_len(d, cluster);
    void *buf = get_buf(s);
    SweepRead *r;

    if (!buf) {
        return;
    }
    if (bitmap_test_and_set(d->claimed, cluster)) {
        backup_queue_put(s->job->queue, buf); /* a guest was faster */
        return;
    }
    ratelimit_account(&s->job->limit, len, ratelimit_now_ns());
    r = s->idle[--s->n_idle];
    r->cluster = cluster;
    r->buf = buf;
    bdrv_bulk_read(s->bulk, d->node, (int64_t)cluster * BACKUP_CLUSTER_SIZE, len, buf, r);
    if (!s->n_idle) {
        reap(s);
    }
}

static void sweep_drive(Sweep *s, BackupDrive *d)
{
    uint64_t c = 0;

    s->d = d;
    while (!backup_job_stopped(s->job) &&
           (c = bitmap_next_clear(d->claimed, c)) < d->n_clusters) {
        sweep_data(s, c++);
    }
    reap_all(s);
}

/* ---- holes --------------------------------------------------------------- */

/* The clusters of a run of zeros at @offset: whole ones, and the last of the
 * image if its part is zero. */
static void claim_holes(BackupDrive *d, int64_t offset, int64_t bytes)
{
    uint64_t first = (offset + BACKUP_CLUSTER_SIZE - 1) / BACKUP_CLUSTER_SIZE;
    uint64_t end = offset + bytes >= d->length ? d->n_clusters
                                               : (uint64_t)(offset + bytes) / BACKUP_CLUSTER_SIZE;

    for (uint64_t c = first; c < end; c++) {
        if (!bitmap_test_and_set(d->claimed, c)) {
            bitmap_set(d->zero, c);
            backup_mark_saved(d, c);
        }
    }
}

static void find_holes(BackupDrive *d)
{
    int64_t offset = 0, pnum;

    while (offset < d->length && !backup_job_stopped(d->job)) {
        int ret = bdrv_block_status(d->node, offset, d->length - offset, &pnum);

        if (ret < 0 || pnum <= 0) {
            return; /* then it is all read, and reading will tell what is wrong */
        }
        if (ret & BDRV_BLOCK_ZERO) {
            claim_holes(d, offset, pnum);
        }
        offset += pnum;
    }
}

static void find_all_holes(BackupJob *job)
{
    for (size_t i = 0; i < job->n_drives; i++) {
        if (job->drives[i].has_holes) {
            find_holes(&job->drives[i]);
            backup_queue_push_holes(job->queue, i);
        }
    }
}

void backup_sweep(BackupJob *job)
{
    Sweep s = { .job = job };
    GError *err = NULL;

    s.bulk = bdrv_bulk_new(DEPTH, &err);
    if (!s.bulk) {
        backup_job_fail(job, err);
        return;
    }
    for (unsigned i = 0; i < DEPTH; i++) {
        s.idle[s.n_idle++] = &s.reads[i];
    }
    find_all_holes(job);
    for (size_t i = 0; i < job->n_drives && !backup_job_stopped(job); i++) {
        sweep_drive(&s, &job->drives[i]);
    }
    bdrv_bulk_free(s.bulk);
}
