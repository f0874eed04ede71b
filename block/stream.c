/*
 * Image streaming: fill an image from what lies below it.
 *
 * The job goes through the image once.  What is allocated in it stays; what the
 * layers between it and the base have is copied up, a piece at a time, as one
 * serialising request: allocation is looked at again inside it, so a guest's
 * write that came first is never overwritten, and one that comes later waits
 * for the piece.
 *
 * Zeros: without a base, what reads as zeros from below need not be written,
 * because unallocated parts of an image without a backing file read as zeros.
 * With a base it is written as zeros, because the base may have other data
 * there: a layer that is shorter than the one above hides what is below its
 * end, and an explicit zero cluster hides what is below it.
 *
 * Only when all has been copied and flushed the header is changed, in one step.
 * Until then the backing files stay, whatever happens, and a later job finds
 * what this one has copied.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include "block/job.h"
#include "util/error.h"
#include "util/zero.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PIECE (1024 * 1024) /* copied at a time; a multiple of all clusters but 2 MiB */
#define SPAN (32 * PIECE)    /* looked at, at a time: not more, since what is found out
                                beyond a piece is found out again for the next one */

typedef struct {
    BlockBackend *blk;  /* borrowed */
    BlockNode *top;     /* owned */
    BlockNode *base;    /* owned, or NULL: none */
    char *base_name;    /* for the header */
    void *buf;          /* PIECE bytes */
} Stream;

/* ---- one piece ------------------------------------------------------------------ */

/*
 * What of [offset, offset + bytes), which the top image leaves open, has to be
 * in it: 1 data, 2 zeros, 0 nothing (the base decides); *pnum: how far.  Or a
 * negative errno.
 */
static int look_below(const Stream *s, int64_t offset, int64_t bytes,
                      int64_t *pnum)
{
    BlockNode *below = s->top->backing;
    int64_t length = below ? bdrv_length(below) : 0;
    int ret;

    *pnum = bytes;
    if (offset >= length) {
        return 2;
    }
    ret = bdrv_is_allocated_above(below, s->base, offset,
                                  MIN(bytes, length - offset), pnum);
    if (ret > 0) {
        ret = bdrv_block_status(below, offset, *pnum, pnum);
        ret = ret < 0 ? ret : ret & BDRV_BLOCK_ZERO ? 2 : 1;
    }
    return ret;
}

static int write_zeros(const Stream *s, int64_t offset, int64_t bytes)
{
    int ret = -ENOTSUP;

    if (!s->base) {
        return 0;
    }
    if (s->top->drv->pwrite_zeroes) {
        ret = s->top->drv->pwrite_zeroes(s->top, offset, bytes, 0);
    }
    if (ret == -ENOTSUP) {
        memset(s->buf, 0, bytes);
        ret = s->top->drv->pwrite(s->top, offset, bytes, s->buf, 0);
    }
    return ret;
}

/* Read through all layers, write into the top one. */
static int copy_data(const Stream *s, int64_t offset, int64_t bytes)
{
    int ret = s->top->drv->pread(s->top, offset, bytes, s->buf);

    if (ret < 0) {
        return ret;
    }
    if (buffer_is_zero(s->buf, bytes)) {
        return write_zeros(s, offset, bytes);
    }
    return s->top->drv->pwrite(s->top, offset, bytes, s->buf, 0);
}

/* The request is tracked, and alone in its range. */
static int copy_up_tracked(const Stream *s, int64_t offset, int64_t bytes,
                           bool *copied)
{
    int64_t end = offset + bytes, n;

    while (offset < end) {
        int ret = s->top->drv->block_status(s->top, offset, end - offset, &n);

        if (ret >= 0 && !(ret & BDRV_BLOCK_ALLOCATED)) {
            ret = look_below(s, offset, n, &n);
            if (ret == 1) {
                ret = copy_data(s, offset, n);
                *copied = true;
            } else if (ret == 2) {
                ret = write_zeros(s, offset, n);
            }
        }
        if (ret < 0) {
            return ret;
        }
        offset += n;
    }
    return 0;
}

static int copy_up(const Stream *s, int64_t offset, int64_t bytes, bool *copied)
{
    RequestTracker *tracker = &s->top->priv->tracker;
    BdrvTrackedRequest req;
    int ret;

    tracked_request_begin(tracker, &req, offset, offset + bytes, true);
    if (atomic_load(&s->top->priv->inactive)) {
        ret = -ENOMEDIUM;
    } else {
        ret = copy_up_tracked(s, offset, bytes, copied);
        atomic_store(&s->top->priv->dirty, true);
    }
    tracked_request_end(tracker, &req);
    return ret;
}

/* ---- the end ---------------------------------------------------------------------- */

/* From here on requests no longer look below (or only at the base). */
static bool drop_backing(Stream *s, GError **errp)
{
    BlockNode *old;
    bool ok;

    blk_drained_begin(&s->blk, 1);
    old = s->top->backing;
    ok = bdrv_change_backing_file(s->top, s->base_name, s->base ?
                                  bdrv_format_name(s->base) : NULL, errp);
    if (ok) {
        bdrv_set_backing(s->top, s->base ? bdrv_ref(s->base) : NULL);
    }
    blk_drained_end(&s->blk, 1);
    if (ok) {
        bdrv_unref(old);
    }
    return ok;
}

static bool io_error(Stream *s, int ret, const char *what, int64_t offset,
                     GError **errp)
{
    error_set_errno(errp, -ret, "'%s': %s at offset %" G_GINT64_FORMAT,
                    bdrv_filename(s->top), what, offset);
    return false;
}

/* Of [offset, offset + bytes), which the top image leaves open, as much as can stay so:
 * whole pieces, or up to @length; or a negative errno.  What is below does not
 * change, and what the guest writes meanwhile is not ours to copy. */
static int64_t may_stay(const Stream *s, int64_t offset, int64_t bytes, int64_t length)
{
    int64_t n;
    int ret = look_below(s, offset, bytes, &n);

    if (ret < 0) {
        return ret;
    }
    if (ret == 1 || (ret == 2 && s->base)) {
        return 0;
    }
    return offset + n == length ? n : MAX((offset + n) / PIECE * PIECE - offset, 0);
}

static bool stream_run(BlockJob *job, void *opaque, GError **errp)
{
    Stream *s = opaque;
    int64_t length = bdrv_length(s->top);

    for (int64_t offset = 0, n; offset < length; offset += n) {
        bool copied = false;
        int64_t ret = bdrv_block_status(s->top, offset, MIN(length - offset, SPAN), &n);

        if (ret >= 0 && !(ret & BDRV_BLOCK_ALLOCATED)) {
            ret = may_stay(s, offset, n, length);
            /* else to the next multiple of PIECE: whole clusters */
            n = ret > 0 ? ret : MIN(n, PIECE - offset % PIECE);
            ret = ret ? ret : copy_up(s, offset, n, &copied);
        }
        if (ret < 0) {
            return io_error(s, ret, "streaming", offset, errp);
        }
        if (!block_job_progress(job, n, copied)) {
            return false;
        }
    }
    int ret = bdrv_flush(s->top);

    if (ret < 0) {
        return io_error(s, ret, "flush", length, errp);
    }
    return drop_backing(s, errp);
}

static void stream_free(void *opaque)
{
    Stream *s = opaque;

    g_clear_pointer(&s->top, bdrv_unref);
    g_clear_pointer(&s->base, bdrv_unref);
    free(s->buf);
    g_free(s->base_name);
    g_free(s);
}

static const BlockJobOps stream_ops = {
    .type = "stream",
    .run = stream_run,
    .free = stream_free,
};

/* ---- start -------------------------------------------------------------------------- */

/* @name as the image above has it, or a path: from where we are or, as QEMU takes
 * it, from where that image is. */
static bool find_base(Stream *s, const char *name, GError **errp)
{
    g_autofree char *wanted = g_canonicalize_filename(name, NULL);

    for (BlockNode *bs = s->top; bs->backing; bs = bs->backing) {
        const char *format, *given = bs->drv->backing_file ?
            bs->drv->backing_file(bs, &format) : NULL;
        g_autofree char *path =
            g_canonicalize_filename(bdrv_path(bs->backing), NULL);
        g_autofree char *above = g_canonicalize_filename(bdrv_path(bs), NULL);
        g_autofree char *folder = g_path_get_dirname(above);
        g_autofree char *beside = g_canonicalize_filename(name, folder);

        if (!g_strcmp0(given, name) || !strcmp(path, wanted) || !strcmp(path, beside)) {
            s->base = bdrv_ref(bs->backing);
            s->base_name = g_steal_pointer(&path);
            return true;
        }
    }
    error_set(errp, "Base '%s' not found", name);
    return false;
}

static bool check(BlockBackend *blk, BlockNode *top, GError **errp)
{
    const char *why = NULL;

    if (!top) {
        why = "has no medium";
    } else if (bdrv_is_read_only(top)) {
        why = "is read-only";
    } else if (!top->drv->block_status || !top->drv->change_backing_file) {
        why = "has an image of a format without backing files";
    }
    if (why) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "Device '%s' %s", blk_name(blk), why);
    }
    return !why;
}

bool block_stream_start(BlockJobSet *set, BlockBackend *blk, const char *base,
                        int64_t speed, GError **errp)
{
    Stream *s;

    if (!blk_claim(blk, "streaming", errp)) {
        return false;
    }
    s = g_new0(Stream, 1);
    s->blk = blk;
    s->top = blk_get_node(blk);
    if (!check(blk, s->top, errp) ||
        (base && !find_base(s, base, errp))) {
        blk_release(blk);
        stream_free(s);
        return false;
    }
    s->buf = block_alloc_aligned(4096, PIECE);
    return block_job_start(set, blk, &stream_ops, s, bdrv_length(s->top), speed,
                           errp);
}
