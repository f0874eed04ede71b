/*
 * Reading in bulk: several reads in flight from one thread, for those who read
 * whole images.
 *
 * A read that a node can map to an aligned range of an O_DIRECT file goes to
 * the kernel at once (libaio).  Any other is announced to the kernel (readahead
 * into the page cache) and done by bdrv_bulk_wait, in the order of coming.
 *
 *     free ──bdrv_bulk_read──► submitted ──event──► free
 *                          └─► queued ──its turn in bdrv_bulk_wait──► free
 *
 * Reads sent to the kernel are not tracked requests of their node: they may lie
 * finished for as long as their owner likes, and nobody should wait for that.
 * So the owner sees to it that what it reads is not resized or inactivated
 * meanwhile, by a claim on the drive.  A read-modify-write beside it does no
 * harm, since it writes back what was there.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include <errno.h>
#include <libaio.h>

#include "util/error.h"

#define MAX_DEPTH 256
/* What is announced at once, so that not every small read costs a system call
 * for it: reads mostly come in order. */
#define AHEAD_BYTES (1024 * 1024)

typedef struct BulkRead BulkRead;
struct BulkRead {
    struct iocb cb;
    BlockNode *bs; /* borrowed */
    int64_t offset, bytes;
    void *buf, *opaque;
    STAILQ_ENTRY(BulkRead) link; /* free or queued */
};

struct BdrvBulk {
    io_context_t ctx; /* NULL: none could be had, everything is queued */
    bool ctx_tried;
    unsigned depth, n_submitted, n_queued;
    STAILQ_HEAD(, BulkRead) free, queued;
    BulkRead *reads; /* depth of them */

    const BlockNode *ahead_of; /* last announced; only ever compared */
    int64_t ahead_from, ahead_until;
};

BdrvBulk *bdrv_bulk_new(unsigned depth, GError **errp)
{
    BdrvBulk *q;

    if (depth < 1 || depth > MAX_DEPTH) {
        error_set(errp, "%u reads in flight: must be 1 to %d", depth, MAX_DEPTH);
        return NULL;
    }
    q = g_new0(BdrvBulk, 1);
    q->depth = depth;
    q->reads = g_new0(BulkRead, depth);
    STAILQ_INIT(&q->free);
    STAILQ_INIT(&q->queued);
    for (unsigned i = 0; i < depth; i++) {
        STAILQ_INSERT_TAIL(&q->free, &q->reads[i], link);
    }
    return q;
}

void bdrv_bulk_free(BdrvBulk *q)
{
    if (!q) {
        return;
    }
    if (q->ctx) {
        io_destroy(q->ctx); /* waits: the buffers are the kernel's until then */
    }
    g_free(q->reads);
    g_free(q);
}

unsigned bdrv_bulk_in_flight(const BdrvBulk *q)
{
    return q->n_submitted + q->n_queued;
}

/* Made when first needed: a context costs the host something. */
static bool have_context(BdrvBulk *q)
{
    if (!q->ctx_tried) {
        q->ctx_tried = true;
        if (io_setup(q->depth, &q->ctx) < 0) {
            q->ctx = NULL;
        }
    }
    return q->ctx;
}

static bool is_mappable(BlockNode *bs, const BulkRead *r, int *fd,
                        int64_t *fd_offset)
{
    uint64_t mask = bs->request_alignment - 1;

    return r->offset >= 0 && r->bytes > 0 &&
           r->bytes <= BDRV_REQUEST_MAX_BYTES &&
           r->offset <= bdrv_length(bs) - r->bytes &&
           (((uint64_t)r->offset | r->bytes) & mask) == 0 &&
           ((uintptr_t)r->buf & (bs->memory_alignment - 1)) == 0 &&
           bs->drv->map_direct &&
           bs->drv->map_direct(bs, r->offset, r->bytes, fd, fd_offset);
}

static bool submit(BdrvBulk *q, BulkRead *r)
{
    int64_t fd_offset;
    int fd;
    struct iocb *cb = &r->cb;

    if (!is_mappable(r->bs, r, &fd, &fd_offset) || !have_context(q)) {
        return false;
    }
    io_prep_pread(cb, fd, r->buf, r->bytes, fd_offset);
    cb->data = r;
    return io_submit(q->ctx, 1, &cb) == 1;
}

static void announce(BdrvBulk *q, const BulkRead *r)
{
    BlockNode *bs = r->bs;
    int64_t length = bdrv_length(bs);

    if (!bs->drv->will_need || r->offset < 0 || r->bytes <= 0 ||
        r->offset > length - r->bytes) {
        return;
    }
    if (bs == q->ahead_of && r->offset >= q->ahead_from &&
        r->offset + r->bytes <= q->ahead_until) {
        return;
    }
    q->ahead_of = bs;
    q->ahead_from = r->offset;
    q->ahead_until = MIN(r->offset + MAX(r->bytes, AHEAD_BYTES), length);
    bs->drv->will_need(bs, r->offset, q->ahead_until - r->offset);
}

void bdrv_bulk_read(BdrvBulk *q, BlockNode *bs, int64_t offset, int64_t bytes,
                    void *buf, void *opaque)
{
    BulkRead *r = STAILQ_FIRST(&q->free);

    g_return_if_fail(r != NULL); /* more than @depth */
    STAILQ_REMOVE_HEAD(&q->free, link);
    r->bs = bs;
    r->offset = offset;
    r->bytes = bytes;
    r->buf = buf;
    r->opaque = opaque;
    if (submit(q, r)) {
        q->n_submitted++;
        return;
    }
    announce(q, r);
    STAILQ_INSERT_TAIL(&q->queued, r, link);
    q->n_queued++;
}

/* NULL: none has finished (with @wait, only on an error of the kernel). */
static BulkRead *reap(BdrvBulk *q, bool wait, int64_t *res)
{
    struct timespec at_once = { 0 };
    struct io_event ev;
    int n;

    do {
        n = io_getevents(q->ctx, wait, 1, &ev, wait ? NULL : &at_once);
    } while (n == -EINTR || (n == 0 && wait));
    if (n != 1) {
        return NULL;
    }
    q->n_submitted--;
    *res = (int64_t)ev.res;
    return ev.data;
}

/* A read that came back short is done again by those who know why. */
static int finish_submitted(BulkRead *r, int64_t res)
{
    if (res == r->bytes) {
        return 0;
    }
    return res < 0 && res != -EAGAIN && res != -EINTR
               ? (int)res
               : bdrv_pread(r->bs, r->offset, r->bytes, r->buf);
}

int bdrv_bulk_wait(BdrvBulk *q, void **opaque)
{
    BulkRead *r = NULL;
    int64_t res = 0;
    int ret;

    g_return_val_if_fail(bdrv_bulk_in_flight(q) > 0, -EINVAL);
    if (q->n_submitted) {
        r = reap(q, q->n_queued == 0, &res);
    }
    if (r) {
        ret = finish_submitted(r, res);
    } else {
        r = STAILQ_FIRST(&q->queued);
        g_return_val_if_fail(r != NULL, -EIO);
        STAILQ_REMOVE_HEAD(&q->queued, link);
        q->n_queued--;
        ret = bdrv_pread(r->bs, r->offset, r->bytes, r->buf);
    }
    *opaque = r->opaque;
    STAILQ_INSERT_TAIL(&q->free, r, link);
    return ret;
}
