/*
 * Copy before write: the hook that guests' writes go through while a backup
 * runs, and what it has to do with the sweep.
 *
 * A cluster (64 KiB) is saved by the sweep, and by nobody else.  Until then
 * guests may write to it all the same: before a block (4 KiB) of it is written
 * for the first time, its old content is read and kept in the stash.  When the
 * sweep has read the cluster, it puts these blocks over what it has read.
 *
 *     untouched ──hook──► some blocks kept ──hook──► more of them …
 *         │                      │
 *         └───────┬──────────────┘
 *                 ▼  the sweep: claim, read, save
 *               saved: writes pass, at the price of a look at one bit
 *
 * Keeping blocks rather than clusters means that a small write costs a small
 * read, and that an archive which is slower than the guest makes a sixteenth of
 * the data wait.
 *
 * Why what is saved is right.  Look at one block of a cluster:
 *
 *   1. A write to it starts only after its old content has been published (its
 *      bit set in BackupStashed.blocks, under the shard's lock), or after the
 *      cluster has been saved.
 *   2. So what a hook has read is old if, when it comes to publish, the block
 *      is not published and the cluster not saved: no write to it had started.
 *      Otherwise the hook throws away what it read.
 *   3. The sweep takes the published blocks and sets `saved' in one go, after
 *      its read has ended.  A block that is not published then has not been
 *      written to, so the sweep has read old content; the others are put over
 *      whatever it has read, old, new, or torn.
 *
 * So no hook waits for another, nor for the sweep, nor the sweep for a hook: a
 * guest's write waits for its own small read and, if memory and spill file are
 * full, for room.  A block may be read twice that way.
 *
 * A hole is a cluster of which the image said so when nothing of it was
 * published yet: then no write had started, and the image spoke of the old
 * content.
 *
 * When the job has failed or was cancelled, the hook lets everything pass: then
 * there is nothing left to protect.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "job.h"

#include "util/error.h"

#include <string.h>

#define BLOCKS (BACKUP_CLUSTER_SIZE / BACKUP_BLOCK_SIZE)
_Static_assert(BLOCKS == 16, "BackupStashed.blocks");

/* ---- drives ------------------------------------------------------------------ */

static void stashed_free(void *opaque)
{
    BackupStashed *e = opaque;

    g_free(e->refs);
    g_free(e);
}

bool backup_drive_init(BackupDrive *d, GError **errp)
{
    for (unsigned i = 0; i < BACKUP_SHARDS; i++) {
        pthread_mutex_init(&d->shards[i].lock, NULL);
        d->shards[i].stashed = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL,
                                                     stashed_free);
    }
    d->claimed = bitmap_new(d->n_clusters);
    d->saved = bitmap_new(d->n_clusters);
    d->zero = bitmap_new(d->n_clusters);
    if (!d->claimed || !d->saved || !d->zero) {
        error_set(errp, "Device '%s': no memory for its bitmaps", blk_name(d->blk));
        return false;
    }
    return true;
}

void backup_drive_destroy(BackupDrive *d)
{
    for (unsigned i = 0; i < BACKUP_SHARDS; i++) {
        if (d->shards[i].stashed) {
            g_hash_table_unref(d->shards[i].stashed);
            pthread_mutex_destroy(&d->shards[i].lock);
        }
    }
    bitmap_free(d->claimed);
    bitmap_free(d->saved);
    bitmap_free(d->zero);
}

size_t backup_cluster_len(const BackupDrive *d, uint64_t cluster)
{
    return MIN(d->length - (int64_t)cluster * BACKUP_CLUSTER_SIZE,
               BACKUP_CLUSTER_SIZE);
}

void backup_read_failed(BackupDrive *d, int64_t offset, size_t len, int errnum)
{
    GError *err = NULL;

    error_set_errno(&err, errnum, "device '%s': reading %zu bytes at offset %" G_GINT64_FORMAT,
                    blk_name(d->blk), len, offset);
    backup_job_fail(d->job, err);
}

/* ---- what is kept of a cluster ------------------------------------------------ */

static BackupShard *lock_shard(BackupDrive *d, uint64_t cluster)
{
    BackupShard *s = &d->shards[cluster % BACKUP_SHARDS];

    pthread_mutex_lock(&s->lock);
    return s;
}

static BackupStashed *find(BackupShard *s, uint64_t cluster)
{
    return g_hash_table_lookup(s->stashed, (void *)(uintptr_t)cluster);
}

static BackupStashed *find_or_add(BackupDrive *d, BackupShard *s, uint64_t cluster)
{
    BackupStashed *e = find(s, cluster);

    if (!e) {
        e = g_new0(BackupStashed, 1);
        e->link.data = e;
        e->drive = d->index;
        e->cluster = cluster;
        g_hash_table_insert(s->stashed, (void *)(uintptr_t)cluster, e);
        if (!bitmap_test(d->claimed, cluster)) {
            pthread_mutex_lock(&d->job->stashed_lock);
            g_queue_push_tail_link(&d->job->stashed, &e->link);
            pthread_mutex_unlock(&d->job->stashed_lock);
        }
    }
    return e;
}

static unsigned count(unsigned blocks)
{
    return __builtin_popcount(blocks);
}

static void add_ref(BackupStashed *e, unsigned block, BackupBlockRef ref)
{
    unsigned n = count(e->blocks), at = count(e->blocks & ((1u << block) - 1));

    e->refs = g_renew(BackupBlockRef, e->refs, n + 1);
    memmove(e->refs + at + 1, e->refs + at, (n - at) * sizeof(*e->refs));
    e->refs[at] = ref;
    e->blocks |= 1u << block;
}

/* Of @blocks, those that still have to be kept. */
static unsigned unpublished(BackupDrive *d, uint64_t cluster, unsigned blocks)
{
    BackupShard *s = lock_shard(d, cluster);

    if (bitmap_test(d->saved, cluster)) {
        blocks = 0;
    } else {
        BackupStashed *e = find(s, cluster);

        blocks &= e ? ~(unsigned)e->blocks : ~0u;
    }
    pthread_mutex_unlock(&s->lock);
    return blocks;
}

/* refs[i] is what was read of block @first + i.  What turns out not to be
 * needed is dropped. */
static void publish(BackupDrive *d, uint64_t cluster, unsigned first, unsigned n,
                    const BackupBlockRef *refs)
{
    BackupShard *s = lock_shard(d, cluster);
    bool saved = bitmap_test(d->saved, cluster);
    BackupStashed *e = saved ? NULL : find_or_add(d, s, cluster);

    for (unsigned i = 0; i < n; i++) {
        if (saved || (e->blocks & (1u << (first + i)))) {
            backup_stash_drop(d->job->stash, refs[i]);
        } else {
            add_ref(e, first + i, refs[i]);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- guests' writes --------------------------------------------------------------- */

/* Put @n blocks into the stash; false: the job has stopped. */
static bool stash_blocks(BackupJob *job, const char *buf, unsigned n, BackupBlockRef *refs)
{
    GError *err = NULL;

    for (unsigned i = 0; i < n; i++) {
        if (!backup_stash_put(job->stash, buf + i * BACKUP_BLOCK_SIZE, &refs[i], &err)) {
            if (err) {
                backup_job_fail(job, err);
            }
            return false; /* what was put before goes with the stash */
        }
    }
    return true;
}

/* Keep blocks [first, first + n) of a cluster. */
static void keep_run(BackupDrive *d, uint64_t cluster, unsigned first, unsigned n)
{
    _Alignas(BACKUP_BLOCK_SIZE) char buf[BACKUP_CLUSTER_SIZE];
    int64_t offset = (int64_t)cluster * BACKUP_CLUSTER_SIZE + first * BACKUP_BLOCK_SIZE;
    size_t len = MIN(d->length - offset, n * BACKUP_BLOCK_SIZE);
    BackupBlockRef refs[BLOCKS];
    int ret = bdrv_pread(d->node, offset, len, buf);

    if (ret < 0) {
        backup_read_failed(d, offset, len, -ret);
        return;
    }
    memset(buf + len, 0, n * BACKUP_BLOCK_SIZE - len);
    if (stash_blocks(d->job, buf, n, refs)) {
        ratelimit_account_forced(&d->job->limit, len, ratelimit_now_ns());
        atomic_fetch_add_explicit(&d->job->guest_copied, len, memory_order_relaxed);
        publish(d, cluster, first, n, refs);
    }
}

/* A bit for each block of @cluster that [offset, end) touches. */
static unsigned blocks_touched(uint64_t cluster, int64_t offset, int64_t end)
{
    int64_t start = (int64_t)cluster * BACKUP_CLUSTER_SIZE;
    unsigned first = offset > start ? (offset - start) / BACKUP_BLOCK_SIZE : 0;
    unsigned last = MIN(end - 1 - start, BACKUP_CLUSTER_SIZE - 1) / BACKUP_BLOCK_SIZE;

    return (2u << last) - (1u << first);
}

static void keep_blocks(BackupDrive *d, uint64_t cluster, unsigned blocks)
{
    blocks = unpublished(d, cluster, blocks);
    while (blocks && !backup_job_stopped(d->job)) {
        unsigned first = __builtin_ctz(blocks);
        unsigned n = __builtin_ctz(~(blocks >> first));

        keep_run(d, cluster, first, n);
        blocks &= ~(((1u << n) - 1) << first);
    }
}

static void before_write(void *opaque, int64_t offset, int64_t bytes)
{
    BackupDrive *d = opaque;
    int64_t end = MIN(offset + bytes, d->length);

    if (offset >= end) {
        return;
    }
    for (uint64_t c = offset / BACKUP_CLUSTER_SIZE;
         c <= (uint64_t)(end - 1) / BACKUP_CLUSTER_SIZE && !backup_job_stopped(d->job); c++) {
        if (!bitmap_test(d->saved, c)) {
            keep_blocks(d, c, blocks_touched(c, offset, end));
        }
    }
}

const BlockWriteHook backup_write_hook = {
    .before_write = before_write,
};

/* ---- the sweep --------------------------------------------------------------------- */

void backup_claim(BackupDrive *d, uint64_t cluster, bool *have_all)
{
    unsigned n = (backup_cluster_len(d, cluster) + BACKUP_BLOCK_SIZE - 1) / BACKUP_BLOCK_SIZE;
    BackupShard *s = lock_shard(d, cluster);
    BackupStashed *e = find(s, cluster);

    bitmap_set(d->claimed, cluster);
    *have_all = e && count(e->blocks) == n;
    if (e) {
        pthread_mutex_lock(&d->job->stashed_lock);
        g_queue_unlink(&d->job->stashed, &e->link);
        pthread_mutex_unlock(&d->job->stashed_lock);
    }
    pthread_mutex_unlock(&s->lock);
}

void backup_claim_hole(BackupDrive *d, uint64_t cluster)
{
    BackupShard *s = lock_shard(d, cluster);

    if (!find(s, cluster)) {
        bitmap_set(d->claimed, cluster);
        bitmap_set(d->zero, cluster);
        bitmap_set(d->saved, cluster);
    }
    pthread_mutex_unlock(&s->lock);
}

bool backup_save(BackupDrive *d, uint64_t cluster, void *buf)
{
    BackupShard *s = lock_shard(d, cluster);
    BackupStashed *e = find(s, cluster);
    GError *err = NULL;

    if (e) {
        g_hash_table_steal(s->stashed, (void *)(uintptr_t)cluster);
    }
    bitmap_set(d->saved, cluster);
    pthread_mutex_unlock(&s->lock);
    if (!e) {
        return true;
    }

    for (unsigned left = e->blocks, i = 0; left; left &= left - 1, i++) {
        char *to = (char *)buf + __builtin_ctz(left) * BACKUP_BLOCK_SIZE;

        /* All of them, so that none is left behind; the first error counts. */
        backup_stash_take(d->job->stash, e->refs[i], to, err ? NULL : &err);
    }
    stashed_free(e);
    if (err) {
        backup_job_fail(d->job, err);
        return false;
    }
    return true;
}
