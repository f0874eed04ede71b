/*
 * Drives: the BlockBackend, its gate, its write hook, its counters and who
 * has claimed it.
 *
 * The gate is how all drives of a VM are brought to one instant.  A request
 * counts itself in, looks whether the gate is closed, and if so counts itself
 * out again and waits:
 *
 *      request:  in_flight++ ; closed?  ──no──► runs ─► in_flight-- ; closed? wake
 *                                └─yes─► in_flight-- ; wake ; wait until open
 *      drain:    closed++ (every drive) ; wait until in_flight is 0 (every drive)
 *
 * Both sides write first and read then, in the one order of sequentially
 * consistent atomics: either the request sees the closed gate or the drain
 * sees the request.  No lock is taken while no drain is on.  in_flight and the
 * counters exist once a shard, so that workers on several cores do not pull
 * one cache line to and fro; a request leaves by the shard it came in by, and
 * so each shard that was seen at 0 stays free of requests until the gate opens.
 *
 * The node and the hook change only while the drive is drained; a request
 * reads them without a lock after it came in.
 *
 * Lock order: blk->lock is a leaf.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "util/error.h"

typedef enum {
    ACCT_READ,
    ACCT_WRITE,
    ACCT_FLUSH,
    ACCT_UNMAP,
    ACCT_NONE,
} AcctKind;
#define ACCT_KINDS ACCT_NONE

typedef struct {
    _Alignas(2 * BLOCK_CACHE_LINE) _Atomic unsigned in_flight;
    struct {
        _Atomic uint64_t bytes, operations, time_ns, failed;
    } acct[ACCT_KINDS];
} BackendShard;

struct BlockBackend {
    BackendShard shards[BLOCK_SHARDS];

    _Alignas(BLOCK_CACHE_LINE) _Atomic unsigned closed; /* drains that are on */

    /* Written with the gate closed and under lock; read inside the gate or
     * under lock. */
    BlockNode *node; /* owned, or NULL */
    int medium_flags; /* of it, or of the last one */
    const BlockWriteHook *hook;
    void *hook_opaque;

    char *name; /* never changes */
    BlockContext *ctx; /* never changes */

    pthread_mutex_t lock;
    pthread_cond_t idle;   /* a shard's in_flight became 0 while closed */
    pthread_cond_t opened; /* closed became 0 */
    const char *owner;     /* of the claim; guarded by lock */
    bool tell_release;     /* lock */
    _Atomic bool removable;
    _Atomic BlkUse use;
};

struct BlockContext {
    GPtrArray *backends; /* main thread */
    pthread_mutex_t lock;    /* held over the calls below; no other of ours inside */
    BlockCorruptFn *corrupt; /* lock; or NULL */
    void *corrupt_opaque;    /* lock */
    BlockReleasedFn *released; /* lock; or NULL */
    void *released_opaque;     /* lock */
};

/* ---- the gate -------------------------------------------------------- */

static void gate_leave(BlockBackend *blk, BackendShard *s)
{
    if (atomic_fetch_sub(&s->in_flight, 1) == 1 &&
        unlikely(atomic_load(&blk->closed))) {
        pthread_mutex_lock(&blk->lock);
        pthread_cond_broadcast(&blk->idle);
        pthread_mutex_unlock(&blk->lock);
    }
}

static void gate_wait_open(BlockBackend *blk)
{
    pthread_mutex_lock(&blk->lock);
    while (atomic_load(&blk->closed)) {
        pthread_cond_wait(&blk->opened, &blk->lock);
    }
    pthread_mutex_unlock(&blk->lock);
}

static BackendShard *gate_enter(BlockBackend *blk)
{
    BackendShard *s = &blk->shards[block_thread_shard()];

    for (;;) {
        atomic_fetch_add(&s->in_flight, 1);
        if (likely(!atomic_load(&blk->closed))) {
            return s;
        }
        gate_leave(blk, s);
        gate_wait_open(blk);
    }
}

static void gate_wait_idle(BlockBackend *blk)
{
    pthread_mutex_lock(&blk->lock);
    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        while (atomic_load(&blk->shards[i].in_flight)) {
            pthread_cond_wait(&blk->idle, &blk->lock);
        }
    }
    pthread_mutex_unlock(&blk->lock);
}

void blk_drained_begin(BlockBackend *const *blks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        atomic_fetch_add(&blks[i]->closed, 1);
    }
    for (size_t i = 0; i < n; i++) {
        gate_wait_idle(blks[i]);
    }
}

void blk_drained_end(BlockBackend *const *blks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        BlockBackend *blk = blks[i];

        pthread_mutex_lock(&blk->lock);
        if (atomic_fetch_sub(&blk->closed, 1) == 1) {
            pthread_cond_broadcast(&blk->opened);
        }
        pthread_mutex_unlock(&blk->lock);
    }
}

/* ---- requests -------------------------------------------------------- */

typedef struct {
    BackendShard *shard;
    uint64_t start_ns;
} BlkRequest;

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* The node, or NULL for an empty drive; blk_end must follow in any case. */
static BlockNode *blk_begin(BlockBackend *blk, BlkRequest *r)
{
    r->start_ns = now_ns(); /* waiting at the gate is latency too */
    r->shard = gate_enter(blk);
    return blk->node;
}

/* A request failed, and is still inside the gate. */
static void tell_corrupt(BlockBackend *blk)
{
    BlockContext *ctx = blk->ctx;
    g_autofree char *message = NULL;
    bool fatal = false;

    if (blk->node) {
        message = bdrv_take_corrupt(blk->node, &fatal);
    }
    if (message) {
        pthread_mutex_lock(&ctx->lock);
        if (ctx->corrupt) {
            ctx->corrupt(ctx->corrupt_opaque, blk->name, message, fatal);
        }
        pthread_mutex_unlock(&ctx->lock);
    }
}

static int blk_end(BlockBackend *blk, BlkRequest *r, AcctKind kind,
                   int64_t bytes, int ret)
{
    if (kind != ACCT_NONE) {
        if (likely(ret == 0)) {
            add(&r->shard->acct[kind].bytes, bytes);
            add(&r->shard->acct[kind].operations, 1);
        } else {
            add(&r->shard->acct[kind].failed, 1);
        }
        add(&r->shard->acct[kind].time_ns, now_ns() - r->start_ns);
    }
    if (unlikely(ret == -EIO)) {
        tell_corrupt(blk);
    }
    gate_leave(blk, r->shard);
    return ret;
}

/* Would the write be refused anyway? */
static bool is_hooked(const BlockBackend *blk, BlockNode *bs, int64_t offset,
                      int64_t bytes)
{
    return unlikely(blk->hook != NULL) && bytes > 0 && offset >= 0 &&
        !bdrv_is_read_only(bs) && offset <= bdrv_length(bs) - bytes;
}

static void blk_before_write(BlockBackend *blk, BlockNode *bs, int64_t offset,
                             int64_t bytes)
{
    if (is_hooked(blk, bs, offset, bytes) && blk->hook->before_write) {
        blk->hook->before_write(blk->hook_opaque, offset, bytes);
    }
}

static void blk_after_write(BlockBackend *blk, BlockNode *bs, int64_t offset,
                            int64_t bytes)
{
    if (is_hooked(blk, bs, offset, bytes) && blk->hook->after_write) {
        blk->hook->after_write(blk->hook_opaque, offset, bytes);
    }
}

int64_t blk_length(BlockBackend *blk)
{
    g_autoptr(BlockNode) bs = blk_get_node(blk);

    return bs ? bdrv_length(bs) : -ENOMEDIUM;
}

int blk_pread(BlockBackend *blk, int64_t offset, int64_t bytes, void *buf)
{
    BlkRequest r;
    BlockNode *bs = blk_begin(blk, &r);
    int ret = likely(bs != NULL) ? bdrv_pread(bs, offset, bytes, buf)
                                 : -ENOMEDIUM;

    return blk_end(blk, &r, ACCT_READ, bytes, ret);
}

int blk_pwrite(BlockBackend *blk, int64_t offset, int64_t bytes,
               const void *buf, int flags)
{
    BlkRequest r;
    BlockNode *bs = blk_begin(blk, &r);
    int ret = -ENOMEDIUM;

    if (likely(bs != NULL)) {
        blk_before_write(blk, bs, offset, bytes);
        ret = bdrv_pwrite(bs, offset, bytes, buf, flags);
        blk_after_write(blk, bs, offset, bytes);
    }
    return blk_end(blk, &r, ACCT_WRITE, bytes, ret);
}

int blk_pwrite_zeroes(BlockBackend *blk, int64_t offset, int64_t bytes,
                      int flags)
{
    BlkRequest r;
    BlockNode *bs = blk_begin(blk, &r);
    int ret = -ENOMEDIUM;

    if (likely(bs != NULL)) {
        blk_before_write(blk, bs, offset, bytes);
        ret = bdrv_pwrite_zeroes(bs, offset, bytes, flags);
        blk_after_write(blk, bs, offset, bytes);
    }
    return blk_end(blk, &r, ACCT_WRITE, bytes, ret);
}

int blk_pdiscard(BlockBackend *blk, int64_t offset, int64_t bytes)
{
    BlkRequest r;
    BlockNode *bs = blk_begin(blk, &r);
    int ret = -ENOMEDIUM;

    if (likely(bs != NULL)) {
        /* What does not reach the image need not be saved from it. */
        bool reaches = bdrv_open_flags(bs) & BDRV_O_UNMAP;

        if (reaches) {
            blk_before_write(blk, bs, offset, bytes);
        }
        ret = bdrv_pdiscard(bs, offset, bytes);
        if (reaches) {
            blk_after_write(blk, bs, offset, bytes);
        }
    }
    return blk_end(blk, &r, ACCT_UNMAP, bytes, ret);
}

int blk_flush(BlockBackend *blk)
{
    BlkRequest r;
    BlockNode *bs = blk_begin(blk, &r);
    int ret = bs ? bdrv_flush(bs) : -ENOMEDIUM;

    return blk_end(blk, &r, ACCT_FLUSH, 0, ret);
}

int blk_block_status(BlockBackend *blk, int64_t offset, int64_t bytes,
                     int64_t *pnum)
{
    BlkRequest r;
    BlockNode *bs = blk_begin(blk, &r);
    int ret = bs ? bdrv_block_status(bs, offset, bytes, pnum) : -ENOMEDIUM;

    return blk_end(blk, &r, ACCT_NONE, 0, ret);
}

static uint64_t get(_Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void blk_get_stats(BlockBackend *blk, BlockAcctStats *stats)
{
    memset(stats, 0, sizeof(*stats));
    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        BackendShard *s = &blk->shards[i];

        stats->rd_bytes += get(&s->acct[ACCT_READ].bytes);
        stats->wr_bytes += get(&s->acct[ACCT_WRITE].bytes);
        stats->unmap_bytes += get(&s->acct[ACCT_UNMAP].bytes);
        stats->rd_operations += get(&s->acct[ACCT_READ].operations);
        stats->wr_operations += get(&s->acct[ACCT_WRITE].operations);
        stats->flush_operations += get(&s->acct[ACCT_FLUSH].operations);
        stats->unmap_operations += get(&s->acct[ACCT_UNMAP].operations);
        stats->rd_total_time_ns += get(&s->acct[ACCT_READ].time_ns);
        stats->wr_total_time_ns += get(&s->acct[ACCT_WRITE].time_ns);
        stats->flush_total_time_ns += get(&s->acct[ACCT_FLUSH].time_ns);
        stats->failed_rd_operations += get(&s->acct[ACCT_READ].failed);
        stats->failed_wr_operations += get(&s->acct[ACCT_WRITE].failed);
    }
}

/* ---- drives ---------------------------------------------------------- */

BlockContext *block_context_new(void)
{
    BlockContext *ctx = g_new0(BlockContext, 1);

    ctx->backends = g_ptr_array_new();
    pthread_mutex_init(&ctx->lock, NULL);
    return ctx;
}

static void blk_free(BlockBackend *blk)
{
    bdrv_unref(blk->node);
    pthread_mutex_destroy(&blk->lock);
    pthread_cond_destroy(&blk->idle);
    pthread_cond_destroy(&blk->opened);
    g_free(blk->name);
    free(blk);
}

void block_context_free(BlockContext *ctx)
{
    if (!ctx) {
        return;
    }
    for (guint i = 0; i < ctx->backends->len; i++) {
        blk_free(g_ptr_array_index(ctx->backends, i));
    }
    g_ptr_array_unref(ctx->backends);
    pthread_mutex_destroy(&ctx->lock);
    g_free(ctx);
}

BlockBackend *blk_by_name(BlockContext *ctx, const char *name)
{
    for (guint i = 0; i < ctx->backends->len; i++) {
        BlockBackend *blk = g_ptr_array_index(ctx->backends, i);

        if (strcmp(blk->name, name) == 0) {
            return blk;
        }
    }
    return NULL;
}

static void put_node(BlockBackend *blk, BlockNode *node)
{
    blk->node = node ? bdrv_ref(node) : NULL;
    if (node) {
        blk->medium_flags = bdrv_open_flags(node);
    }
}

BlockBackend *blk_new(BlockContext *ctx, const char *name, BlockNode *node,
                      GError **errp)
{
    BlockBackend *blk;

    if (blk_by_name(ctx, name)) {
        error_set(errp, "Device with id '%s' already exists", name);
        return NULL;
    }
    blk = block_alloc_aligned(_Alignof(BlockBackend), sizeof(*blk));
    blk->name = g_strdup(name);
    blk->ctx = ctx;
    put_node(blk, node);
    pthread_mutex_init(&blk->lock, NULL);
    pthread_cond_init(&blk->idle, NULL);
    pthread_cond_init(&blk->opened, NULL);
    g_ptr_array_add(ctx->backends, blk);
    return blk;
}

void block_context_set_corrupt_fn(BlockContext *ctx, BlockCorruptFn *fn,
                                  void *opaque)
{
    pthread_mutex_lock(&ctx->lock);
    ctx->corrupt = fn;
    ctx->corrupt_opaque = opaque;
    pthread_mutex_unlock(&ctx->lock);
}

GPtrArray *blk_all(BlockContext *ctx)
{
    GPtrArray *all = g_ptr_array_new();

    for (guint i = 0; i < ctx->backends->len; i++) {
        g_ptr_array_add(all, g_ptr_array_index(ctx->backends, i));
    }
    return all;
}

const char *blk_name(const BlockBackend *blk)
{
    return blk->name;
}

BlockNode *blk_get_node(BlockBackend *blk)
{
    BlockNode *bs;

    pthread_mutex_lock(&blk->lock);
    bs = blk->node ? bdrv_ref(blk->node) : NULL;
    pthread_mutex_unlock(&blk->lock);
    return bs;
}

void blk_set_node(BlockBackend *blk, BlockNode *node)
{
    BlockNode *old;

    g_return_if_fail(atomic_load(&blk->closed));
    pthread_mutex_lock(&blk->lock);
    old = blk->node;
    put_node(blk, node);
    pthread_mutex_unlock(&blk->lock);
    bdrv_unref(old); /* may flush: not under the lock */
}

int blk_medium_flags(BlockBackend *blk)
{
    int flags;

    pthread_mutex_lock(&blk->lock);
    flags = blk->medium_flags;
    pthread_mutex_unlock(&blk->lock);
    return flags;
}

bool blk_is_removable(const BlockBackend *blk)
{
    return atomic_load(&blk->removable);
}

void blk_set_removable(BlockBackend *blk, bool removable)
{
    atomic_store(&blk->removable, removable);
}

void blk_set_write_hook(BlockBackend *blk, const BlockWriteHook *hook,
                        void *opaque)
{
    g_return_if_fail(atomic_load(&blk->closed));
    blk->hook = hook;
    blk->hook_opaque = opaque;
}

BlkUse blk_use(const BlockBackend *blk)
{
    return atomic_load(&blk->use);
}

void blk_set_use(BlockBackend *blk, BlkUse use)
{
    atomic_store(&blk->use, use);
}

void block_context_set_released_fn(BlockContext *ctx, BlockReleasedFn *fn,
                                   void *opaque)
{
    pthread_mutex_lock(&ctx->lock);
    ctx->released = fn;
    ctx->released_opaque = opaque;
    pthread_mutex_unlock(&ctx->lock);
}

bool blk_claim_or_hear(BlockBackend *blk, const char *owner)
{
    bool ok;

    pthread_mutex_lock(&blk->lock);
    ok = !blk->owner;
    if (ok) {
        blk->owner = owner;
    } else {
        blk->tell_release = true;
    }
    pthread_mutex_unlock(&blk->lock);
    return ok;
}

bool blk_claim(BlockBackend *blk, const char *owner, GError **errp)
{
    const char *other;

    pthread_mutex_lock(&blk->lock);
    other = blk->owner;
    if (!other) {
        blk->owner = owner;
    }
    pthread_mutex_unlock(&blk->lock);
    if (other) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_DEVICE_IN_USE,
                    "Device '%s' is in use: %s", blk->name, other);
    }
    return !other;
}

static void tell_released(BlockBackend *blk)
{
    BlockContext *ctx = blk->ctx;

    pthread_mutex_lock(&ctx->lock);
    if (ctx->released) {
        ctx->released(ctx->released_opaque, blk->name);
    }
    pthread_mutex_unlock(&ctx->lock);
}

void blk_release(BlockBackend *blk)
{
    bool tell;

    pthread_mutex_lock(&blk->lock);
    blk->owner = NULL;
    tell = blk->tell_release;
    blk->tell_release = false;
    pthread_mutex_unlock(&blk->lock);
    if (tell) {
        tell_released(blk);
    }
}
