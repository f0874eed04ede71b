/*
 * The sweep: saves every cluster of every drive.
 *
 * First it looks for the holes of all drives: that takes little time, and from
 * then on guests' writes into them cost nothing.
 *
 * Then it reads the rest, several reads in flight, drive by drive from the
 * front; but clusters of which guests' writes have kept blocks come first when
 * the room for those gets scarce.  In that case it does not wait for the speed
 * limit, because then guests would wait for it sooner or later.
 *
 * Past the page cache our reads and the guests' requests stand in one queue of the
 * disk.  So while guests' writes make us copy, fewer reads are in flight.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "job.h"

#include <string.h>

#define DEPTH 16
#define DEPTH_BUSY 2   /* while guests write past the page cache */
#define LOOK_EVERY 16  /* clusters between looks whether they do */

/* A cluster that is being read. */
typedef struct {
    BackupDrive *d;
    uint64_t cluster;
    void *buf;
} SweepRead;

typedef struct {
    BackupJob *job;
    BdrvBulk *bulk;
    SweepRead reads[DEPTH];
    SweepRead *idle[DEPTH];
    unsigned n_idle;
    unsigned reserve;     /* of these, so many are not to be used now */
    unsigned since_look;
    uint64_t copied;      /* job->guest_copied at the last look */
    /* From where on, in the order of the sweep, clusters may be unclaimed. */
    size_t drive;
    uint64_t cluster;
} Sweep;

/* ---- reading ------------------------------------------------------------- */

/* @buf holds the cluster as the image has it now. */
static void finish(Sweep *s, BackupDrive *d, uint64_t cluster, char *buf)
{
    size_t len = backup_cluster_len(d, cluster);

    if (!backup_save(d, cluster, buf)) {
        backup_queue_put(s->job->queue, buf);
        return;
    }
    memset(buf + len, 0, BACKUP_CLUSTER_SIZE - len);
    backup_queue_push(s->job->queue, d->index, cluster, buf);
}

/* Bring in one read. */
static void reap(Sweep *s)
{
    void *opaque = NULL;
    int ret = bdrv_bulk_wait(s->bulk, &opaque);
    SweepRead *r = opaque;

    if (ret < 0) {
        backup_queue_put(s->job->queue, r->buf);
        backup_read_failed(r->d, r->cluster * BACKUP_CLUSTER_SIZE,
                           backup_cluster_len(r->d, r->cluster), -ret);
    } else {
        finish(s, r->d, r->cluster, r->buf);
    }
    s->idle[s->n_idle++] = r;
}

/* Are guests at it? */
static void look(Sweep *s, const BackupDrive *d)
{
    uint64_t copied = atomic_load_explicit(&s->job->guest_copied, memory_order_relaxed);
    bool busy = copied != s->copied && (bdrv_open_flags(d->node) & BDRV_O_NOCACHE);

    s->reserve = busy ? DEPTH - DEPTH_BUSY : 0;
    s->copied = copied;
    s->since_look = 0;
}

static void start(Sweep *s, BackupDrive *d, uint64_t cluster, void *buf)
{
    size_t len = backup_cluster_len(d, cluster);
    bool have_all;
    SweepRead *r;

    backup_claim(d, cluster, &have_all);
    if (have_all) {
        finish(s, d, cluster, buf);
        return;
    }
    r = s->idle[--s->n_idle];
    *r = (SweepRead){ d, cluster, buf };
    bdrv_bulk_read(s->bulk, d->node, (int64_t)cluster * BACKUP_CLUSTER_SIZE, len, buf, r);
    if (++s->since_look == LOOK_EVERY) {
        look(s, d);
    }
    while (s->n_idle <= s->reserve) {
        reap(s);
    }
}

/* ---- which cluster, and when ------------------------------------------------ */

/* The cluster whose blocks have been in the stash for longest. */
static bool oldest_stashed(BackupJob *job, BackupDrive **d, uint64_t *cluster)
{
    BackupStashed *e;

    pthread_mutex_lock(&job->stashed_lock);
    e = g_queue_peek_head(&job->stashed);
    if (e) {
        *d = &job->drives[e->drive];
        *cluster = e->cluster;
    }
    pthread_mutex_unlock(&job->stashed_lock);
    return e;
}

/* The next one in the order of the sweep; false: all are claimed. */
static bool next_in_order(Sweep *s, BackupDrive **d, uint64_t *cluster)
{
    while (s->drive < s->job->n_drives) {
        *d = &s->job->drives[s->drive];
        *cluster = s->cluster = bitmap_next_clear((*d)->claimed, s->cluster);
        if (s->cluster < (*d)->n_clusters) {
            return true;
        }
        s->drive++;
        s->cluster = 0;
    }
    return false;
}

/* Neither room nor permission to read another one: bring in what is being
 * read, and only then sleep. */
static void wait(Sweep *s, int64_t delay_ns)
{
    if (s->n_idle < DEPTH) {
        reap(s);
    } else if (delay_ns) {
        backup_stash_wait_pressure(s->job->stash, delay_ns);
    } else {
        backup_queue_wait(s->job->queue);
    }
}

static void sweep(Sweep *s)
{
    BackupJob *job = s->job;
    BackupDrive *d;
    uint64_t cluster;

    while (!backup_job_stopped(job) && next_in_order(s, &d, &cluster)) {
        bool urgent = backup_stash_pressure(job->stash) && oldest_stashed(job, &d, &cluster);
        int64_t now = ratelimit_now_ns();
        int64_t delay = urgent ? 0 : ratelimit_delay_ns(&job->limit, now);
        void *buf = delay ? NULL : backup_queue_get(job->queue);

        if (!buf) {
            wait(s, delay);
            continue;
        }
        if (urgent) {
            ratelimit_account_forced(&job->limit, BACKUP_CLUSTER_SIZE, now);
        } else {
            ratelimit_account(&job->limit, BACKUP_CLUSTER_SIZE, now);
        }
        start(s, d, cluster, buf);
    }
    while (s->n_idle < DEPTH) {
        reap(s);
    }
}

/* ---- holes --------------------------------------------------------------- */

/* The clusters of a run of zeros at @offset: whole ones, and the last of the
 * image if its part is zero. */
static void claim_run(BackupDrive *d, int64_t offset, int64_t bytes)
{
    uint64_t first = (offset + BACKUP_CLUSTER_SIZE - 1) / BACKUP_CLUSTER_SIZE;
    uint64_t end = offset + bytes >= d->length ? d->n_clusters
                                               : (uint64_t)(offset + bytes) / BACKUP_CLUSTER_SIZE;

    for (uint64_t c = first; c < end; c++) {
        backup_claim_hole(d, c);
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
            claim_run(d, offset, pnum);
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
    sweep(&s);
    bdrv_bulk_free(s.bulk);
}
