/*
 * Requests to a node: checks, tracking, alignment, and then the driver.
 *
 *     bdrv_pwrite ─► begin_io ─► aligned? ─► drv->pwrite
 *       any            range,       └─ no ─► bounce buffer, read-modify-write
 *                      tracking                of the partial blocks
 *
 * What a driver sees: a range inside the image whose start is a multiple of
 * request_alignment and whose end is one too, or is the end of the image;
 * memory aligned to memory_alignment.
 *
 * Invariants
 *  1. A write that needs read-modify-write is serialising over the whole
 *     blocks that it touches, so no write to the other part of such a block is
 *     lost.
 *  2. The range is checked after the request is tracked: a truncate waits for
 *     all tracked requests, so the length does not change under one.
 *  3. `dirty' is set after a write reached the driver and before the caller
 *     hears of it; bdrv_flush clears it before it flushes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Bounce buffers are at most this large; larger requests go in pieces. */
#define BOUNCE_BYTES (1024 * 1024)

typedef enum {
    IO_READ,
    IO_WRITE,
} IoKind;

static bool is_aligned(uint64_t n, uint32_t align)
{
    return (n & (align - 1)) == 0;
}

static int64_t align_down(int64_t n, uint32_t align)
{
    return n & ~(int64_t)(align - 1);
}

/* @n is at most INT64_MAX - 65536: begin_io has seen to it. */
static int64_t align_up(int64_t n, uint32_t align)
{
    return align_down(n + align - 1, align);
}

/* Whole blocks, where the end of the image counts as the end of a block. */
static bool range_is_aligned(BlockNode *bs, int64_t offset, int64_t bytes)
{
    uint32_t align = bs->request_alignment;

    return is_aligned(offset, align) &&
           (is_aligned(bytes, align) || offset + bytes == bdrv_length(bs));
}

static bool memory_is_aligned(BlockNode *bs, const void *buf)
{
    return is_aligned((uintptr_t)buf, bs->memory_alignment);
}

/* What can only be said of a tracked request; 0 or a negative errno. */
static int check_tracked(BlockNode *bs, int64_t end, IoKind kind)
{
    if (unlikely(atomic_load_explicit(&bs->priv->inactive,
                                      memory_order_relaxed))) {
        return -ENOMEDIUM;
    }
    if (unlikely(end > atomic_load_explicit(&bs->priv->length,
                                            memory_order_relaxed))) {
        return kind == IO_WRITE ? -ENOSPC : -EINVAL;
    }
    return 0;
}

/* On success the request is tracked and must be ended. */
static int begin_io(BlockNode *bs, BdrvTrackedRequest *req, IoKind kind,
                    int64_t offset, int64_t bytes, int flags)
{
    int64_t start = offset, end;
    bool serialising = flags & BDRV_REQ_SERIALISING;
    int ret;

    if (unlikely(offset < 0 || bytes < 0 ||
                 offset > INT64_MAX - 65536 - bytes)) {
        return -EINVAL;
    }
    if (kind == IO_WRITE && unlikely(bdrv_is_read_only(bs))) {
        return -EPERM;
    }
    end = offset + bytes;
    /* Also at the end of the image, which may have moved once it is tracked. */
    if (kind == IO_WRITE &&
        unlikely(!is_aligned(offset | bytes, bs->request_alignment))) {
        serialising = true;
    }
    if (serialising) {
        start = align_down(start, bs->request_alignment);
        end = align_up(end, bs->request_alignment);
    }
    tracked_request_begin(&bs->priv->tracker, req, start, end, serialising);
    ret = check_tracked(bs, offset + bytes, kind);
    if (unlikely(ret < 0)) {
        tracked_request_end(&bs->priv->tracker, req);
    }
    return ret;
}

static void end_io(BlockNode *bs, BdrvTrackedRequest *req)
{
    tracked_request_end(&bs->priv->tracker, req);
}

static void mark_dirty(BlockNode *bs)
{
    /* Read first: the line stays shared between the cores. */
    if (!atomic_load(&bs->priv->dirty)) {
        atomic_store(&bs->priv->dirty, true);
    }
}

static void *bounce_alloc(BlockNode *bs, int64_t bytes)
{
    void *p = NULL;
    size_t align = MAX(MAX(bs->memory_alignment, bs->request_alignment),
                       (uint32_t)sizeof(void *));

    return posix_memalign(&p, align, bytes) ? NULL : p;
}

/* The whole blocks that [offset, offset + bytes) touches. */
static void widen(BlockNode *bs, int64_t offset, int64_t bytes, int64_t *start,
                  int64_t *end)
{
    *start = align_down(offset, bs->request_alignment);
    *end = MIN(align_up(offset + bytes, bs->request_alignment),
               bdrv_length(bs));
}

static int pread_bounced(BlockNode *bs, int64_t offset, int64_t bytes,
                         uint8_t *buf)
{
    int64_t pos, end, stop = offset + bytes;
    uint8_t *bounce;
    int ret = 0;

    widen(bs, offset, bytes, &pos, &end);
    bounce = bounce_alloc(bs, MIN(end - pos, BOUNCE_BYTES));
    if (!bounce) {
        return -ENOMEM;
    }
    while (pos < end && ret == 0) {
        int64_t n = MIN(end - pos, BOUNCE_BYTES);
        int64_t from = MAX(pos, offset), to = MIN(pos + n, stop);

        ret = bs->drv->pread(bs, pos, n, bounce);
        if (ret == 0) {
            memcpy(buf + (from - offset), bounce + (from - pos), to - from);
        }
        pos += n;
    }
    free(bounce);
    return ret;
}

int bdrv_pread(BlockNode *bs, int64_t offset, int64_t bytes, void *buf)
{
    BdrvTrackedRequest req;
    int ret;

    if (unlikely(bytes > BDRV_REQUEST_MAX_BYTES)) {
        return -EINVAL;
    }
    ret = begin_io(bs, &req, IO_READ, offset, bytes, 0);
    if (unlikely(ret < 0 || bytes == 0)) {
        if (ret == 0) {
            end_io(bs, &req);
        }
        return ret;
    }
    if (likely(range_is_aligned(bs, offset, bytes) &&
               memory_is_aligned(bs, buf))) {
        ret = bs->drv->pread(bs, offset, bytes, buf);
    } else {
        ret = pread_bounced(bs, offset, bytes, buf);
    }
    end_io(bs, &req);
    return ret;
}

/*
 * Put into @bounce, which stands for the blocks [pos, pos + n), those partial
 * ones of them that the write of [offset, stop) does not cover.
 */
static int read_partial_blocks(BlockNode *bs, int64_t pos, int64_t n,
                               int64_t offset, int64_t stop, uint8_t *bounce)
{
    uint32_t align = bs->request_alignment;
    int64_t last = align_down(pos + n - 1, align);
    int ret = 0;

    if (pos < offset) {
        ret = bs->drv->pread(bs, pos, MIN(align, n), bounce);
    }
    if (ret == 0 && pos + n > stop && (last > pos || pos >= offset)) {
        ret = bs->drv->pread(bs, last, pos + n - last, bounce + (last - pos));
    }
    return ret;
}

static int pwrite_bounced(BlockNode *bs, int64_t offset, int64_t bytes,
                          const uint8_t *buf, int flags)
{
    int64_t pos, end, stop = offset + bytes;
    uint8_t *bounce;
    int ret = 0;

    widen(bs, offset, bytes, &pos, &end);
    bounce = bounce_alloc(bs, MIN(end - pos, BOUNCE_BYTES));
    if (!bounce) {
        return -ENOMEM;
    }
    while (pos < end && ret == 0) {
        int64_t n = MIN(end - pos, BOUNCE_BYTES);
        int64_t from = MAX(pos, offset), to = MIN(pos + n, stop);

        ret = read_partial_blocks(bs, pos, n, offset, stop, bounce);
        if (ret == 0) {
            memcpy(bounce + (from - pos), buf + (from - offset), to - from);
            ret = bs->drv->pwrite(bs, pos, n, bounce, flags);
        }
        pos += n;
    }
    free(bounce);
    return ret;
}

/* @bytes > 0; tracked.  Only FUA that the driver does itself is in @flags. */
static int pwrite_any(BlockNode *bs, int64_t offset, int64_t bytes,
                      const void *buf, int flags)
{
    if (likely(range_is_aligned(bs, offset, bytes) &&
               memory_is_aligned(bs, buf))) {
        return bs->drv->pwrite(bs, offset, bytes, buf, flags);
    }
    return pwrite_bounced(bs, offset, bytes, buf, flags);
}

/* Does this write have to be durable when it returns? */
static bool wants_fua(BlockNode *bs, int flags)
{
    return ((flags & BDRV_REQ_FUA) || (bs->flags & BDRV_O_WRITETHROUGH)) &&
           !(bs->flags & BDRV_O_NO_FLUSH);
}

int bdrv_pwrite(BlockNode *bs, int64_t offset, int64_t bytes, const void *buf,
                int flags)
{
    BdrvTrackedRequest req;
    bool fua = wants_fua(bs, flags);
    int ret;

    if (unlikely(bytes > BDRV_REQUEST_MAX_BYTES)) {
        return -EINVAL;
    }
    ret = begin_io(bs, &req, IO_WRITE, offset, bytes, flags);
    if (unlikely(ret < 0)) {
        return ret;
    }
    if (likely(bytes > 0)) {
        ret = pwrite_any(bs, offset, bytes, buf,
                         fua && bs->drv->supports_fua ? BDRV_REQ_FUA : 0);
        mark_dirty(bs);
    }
    end_io(bs, &req);
    if (fua && ret == 0 && !bs->drv->supports_fua) {
        ret = bdrv_flush(bs);
    }
    return ret;
}

/* Zeros as data: @bytes > 0, tracked. */
static int write_zero_data(BlockNode *bs, int64_t offset, int64_t bytes)
{
    int64_t size = MIN(bytes, BOUNCE_BYTES);
    uint8_t *zeros = bounce_alloc(bs, size);
    int ret = 0;

    if (!zeros) {
        return -ENOMEM;
    }
    memset(zeros, 0, size);
    while (bytes > 0 && ret == 0) {
        /* Whole blocks to the last but one piece. */
        int64_t in_block = offset & (bs->request_alignment - 1);
        int64_t n = MIN(bytes, BOUNCE_BYTES - in_block);

        ret = pwrite_any(bs, offset, n, zeros, 0);
        offset += n;
        bytes -= n;
    }
    free(zeros);
    return ret;
}

/* Whole blocks. */
static int zero_blocks(BlockNode *bs, int64_t offset, int64_t bytes, int flags)
{
    int ret = -ENOTSUP;

    if (bs->drv->pwrite_zeroes) {
        ret = bs->drv->pwrite_zeroes(bs, offset, bytes,
                                     flags & (BDRV_REQ_MAY_UNMAP |
                                              BDRV_REQ_NO_FALLBACK));
    }
    if (ret == -ENOTSUP && !(flags & BDRV_REQ_NO_FALLBACK)) {
        ret = write_zero_data(bs, offset, bytes);
    }
    return ret;
}

/* A partial block at each end is written, what lies between is zeroed. */
static int zero_any(BlockNode *bs, int64_t offset, int64_t bytes, int flags)
{
    int64_t stop = offset + bytes;
    int64_t first = MIN(align_up(offset, bs->request_alignment), stop);
    int64_t last = stop == bdrv_length(bs)
                       ? stop
                       : MAX(align_down(stop, bs->request_alignment), first);
    int ret = 0;

    if (last > first) {
        ret = zero_blocks(bs, first, last - first, flags);
    }
    if (ret == 0 && first > offset) {
        ret = write_zero_data(bs, offset, first - offset);
    }
    if (ret == 0 && stop > last) {
        ret = write_zero_data(bs, last, stop - last);
    }
    return ret;
}

int bdrv_pwrite_zeroes(BlockNode *bs, int64_t offset, int64_t bytes, int flags)
{
    BdrvTrackedRequest req;
    int ret = begin_io(bs, &req, IO_WRITE, offset, bytes, flags);

    if (ret < 0) {
        return ret;
    }
    if (!(bs->flags & BDRV_O_UNMAP)) {
        flags &= ~BDRV_REQ_MAY_UNMAP;
    }
    if (bytes > 0) {
        ret = zero_any(bs, offset, bytes, flags);
        mark_dirty(bs);
    }
    end_io(bs, &req);
    if (ret == 0 && wants_fua(bs, flags)) {
        ret = bdrv_flush(bs);
    }
    return ret;
}

int bdrv_pdiscard(BlockNode *bs, int64_t offset, int64_t bytes)
{
    BdrvTrackedRequest req;
    uint32_t align = bs->request_alignment;
    int64_t first, last;
    int ret = begin_io(bs, &req, IO_WRITE, offset, bytes, 0);

    if (ret < 0) {
        return ret;
    }
    /* Partial blocks are left alone: a discard is only a hint. */
    first = align_up(offset, align);
    last = offset + bytes == bdrv_length(bs) ? offset + bytes
                                             : align_down(offset + bytes, align);
    if ((bs->flags & BDRV_O_UNMAP) && bs->drv->pdiscard && last > first) {
        ret = bs->drv->pdiscard(bs, first, last - first);
        mark_dirty(bs);
    }
    end_io(bs, &req);
    return ret == -ENOTSUP ? 0 : ret;
}

int bdrv_do_flush(BlockNode *bs)
{
    return bs->drv->flush ? bs->drv->flush(bs)
           : bs->file     ? bdrv_flush(bs->file)
                          : 0;
}

/*
 * One flush at a time; whoever waited for one finds nothing dirty and is done
 * (or does the next for all who wait behind).
 */
int bdrv_flush(BlockNode *bs)
{
    int ret = 0;

    if (((bs->flags & BDRV_O_NO_FLUSH) && !bs->drv->write_back) ||
        bdrv_is_read_only(bs)) {
        return 0;
    }
    pthread_mutex_lock(&bs->priv->flush_lock);
    if (atomic_load(&bs->priv->inactive)) {
        ret = -ENOMEDIUM;
    } else if (atomic_exchange(&bs->priv->dirty, false)) {
        ret = bdrv_do_flush(bs);
        if (ret < 0) {
            atomic_store(&bs->priv->dirty, true);
        }
    }
    pthread_mutex_unlock(&bs->priv->flush_lock);
    return ret;
}

/* What lies below where this layer has nothing: tracked in @bs. */
static int backing_status(BlockNode *bs, int64_t offset, int64_t bytes,
                          int64_t *pnum)
{
    int64_t below = bs->backing ? bdrv_length(bs->backing) : 0;
    int ret;

    if (offset >= below) {
        *pnum = bytes;
        return BDRV_BLOCK_ZERO;
    }
    ret = bdrv_block_status(bs->backing, offset, MIN(bytes, below - offset),
                            pnum);
    return ret < 0 ? ret : ret & ~BDRV_BLOCK_ALLOCATED;
}

int bdrv_block_status(BlockNode *bs, int64_t offset, int64_t bytes,
                      int64_t *pnum)
{
    BdrvTrackedRequest req;
    int ret = bytes > 0 ? begin_io(bs, &req, IO_READ, offset, bytes, 0)
                        : -EINVAL;

    if (ret < 0) {
        return ret;
    }
    *pnum = bytes;
    ret = BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED;
    if (bs->drv->block_status) {
        ret = bs->drv->block_status(bs, offset, bytes, pnum);
    }
    if (ret >= 0 && !(ret & BDRV_BLOCK_ALLOCATED)) {
        ret = backing_status(bs, offset, *pnum, pnum);
    }
    end_io(bs, &req);
    return ret;
}
