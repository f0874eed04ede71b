/*
 * The sweep: reads everything that no guest's write has saved first.
 *
 * Drive by drive, from the front, several reads in flight.  Holes are not
 * read.  What a drive says of its holes holds for every cluster that is still
 * unclaimed when it is claimed here, however old the answer: until a cluster
 * has been claimed and saved nobody can have changed it.
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
    /* What the image last said: from where it was asked, all clusters before
     * run_end are holes, or all are (at least partly) data. */
    uint64_t run_end;
    bool run_is_zero;
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

/* Ask the image about the run that @cluster is in.  The last cluster may be
 * partial: it is a hole if its part is. */
static void look_up_run(Sweep *s, uint64_t cluster)
{
    BackupDrive *d = s->d;
    int64_t offset = cluster * BACKUP_CLUSTER_SIZE, pnum = 0;
    int ret = bdrv_block_status(d->node, offset, d->length - offset, &pnum);

    s->run_is_zero = false;
    s->run_end = cluster + 1;
    if (ret < 0 || pnum <= 0) {
        return; /* reading will tell what is wrong */
    }
    if (offset + pnum >= d->length) {
        s->run_end = d->n_clusters;
        s->run_is_zero = ret & BDRV_BLOCK_ZERO;
    } else if (!(ret & BDRV_BLOCK_ZERO)) {
        s->run_end = (offset + pnum - 1) / BACKUP_CLUSTER_SIZE + 1;
    } else if (pnum >= BACKUP_CLUSTER_SIZE) {
        s->run_end = (offset + pnum) / BACKUP_CLUSTER_SIZE;
        s->run_is_zero = true;
    }
}

/* Queue the zeros of [first, end), all claimed by us. */
static void queue_zeros(Sweep *s, uint64_t first, uint64_t end)
{
    while (first < end && !backup_job_stopped(s->job) &&
           !backup_queue_push_zeros(s->job->queue, s->d->index, first, end - first)) {
        reap_all(s);
        backup_queue_wait_zeros(s->job->queue);
    }
}

/* @first is in a run of zeros: claim what is unclaimed, queue it, return where
 * the run ends. */
static uint64_t sweep_zeros(Sweep *s, uint64_t first)
{
    BackupDrive *d = s->d;
    uint64_t start = first, c;

    for (c = first; c < s->run_end && !backup_job_stopped(s->job); c++) {
        if (bitmap_test_and_set(d->claimed, c)) {
            queue_zeros(s, start, c);
            start = c + 1;
        } else {
            backup_mark_saved(d, c);
        }
    }
    queue_zeros(s, start, c);
    return c;
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
    s->run_end = 0;
    while (!backup_job_stopped(s->job)) {
        c = bitmap_next_clear(d->claimed, c);
        if (c == d->n_clusters) {
            break;
        }
        if (c >= s->run_end) {
            look_up_run(s, c);
        }
        if (s->run_is_zero) {
            c = sweep_zeros(s, c);
        } else {
            sweep_data(s, c++);
        }
    }
    reap_all(s);
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
    for (size_t i = 0; i < job->n_drives && !backup_job_stopped(job); i++) {
        sweep_drive(&s, &job->drives[i]);
    }
    bdrv_bulk_free(s.bulk);
}
