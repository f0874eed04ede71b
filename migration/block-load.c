/*
 * The loader of drives: records go straight into the images.
 *
 * Everything in a record is checked before the first byte is written.  A length
 * that our saver adds to the end of a section is compared with the drive's; a
 * plain QEMU sends none, and then only a drive that is too short is noticed.
 *
 * A failed load leaves the images with a part of the data: they are of no use
 * then but to be loaded again.
 *
 * What has been written is made durable meanwhile: at the end the guest is stopped,
 * and nobody else does it.
 *
 * Memory: one chunk.  Thread: the migration's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/block-migration.h"

#include "migration/flush-behind.h"
#include "util/error.h"

#include <stdlib.h>

struct BlockLoader {
    BlockContext *ctx;
    BlockBackend *last; /* drive of the last record in this section */
    FlushBehind *behind;
    uint8_t *buf;
};

#define FLUSH_EVERY (32u << 20) /* a fraction of a second on a disk */

BlockLoader *block_loader_new(BlockContext *ctx)
{
    BlockLoader *l = g_new0(BlockLoader, 1);

    l->ctx = ctx;
    l->behind = flush_behind_new(FLUSH_EVERY);
    return l;
}

void block_loader_free(BlockLoader *l)
{
    if (l) {
        flush_behind_free(l->behind);
        free(l->buf);
        g_free(l);
    }
}

#define bad(f, errp, ...) qemu_file_bad(f, errp, "block section", __VA_ARGS__)

/* Becomes l->last. */
static bool find_drive(BlockLoader *l, QEMUFile *f, const char *name,
                       GError **errp)
{
    BlockBackend *blk = blk_by_name(l->ctx, name);
    g_autoptr(BlockNode) node = blk ? blk_get_node(blk) : NULL;

    if (!node) {
        return bad(f, errp, "the source has a drive '%s', here %s", name,
                   blk ? "it has no medium" : "is none of that name");
    }
    if (bdrv_is_read_only(node)) {
        return bad(f, errp, "drive '%s' is read-only here", name);
    }
    l->last = blk;
    return true;
}

static bool put_chunk(BlockLoader *l, QEMUFile *f, int64_t offset, int64_t bytes,
                      bool zero, GError **errp)
{
    int ret;

    if (zero) {
        ret = blk_pwrite_zeroes(l->last, offset, bytes, BDRV_REQ_MAY_UNMAP);
    } else {
        if (!l->buf) {
            l->buf = aligned_alloc(4096, BLK_MIG_CHUNK);
        }
        if (!l->buf) {
            return bad(f, errp, "no memory for a chunk of a drive");
        }
        if (!qemu_get_buffer(f, l->buf, BLK_MIG_CHUNK)) {
            return qemu_file_ok(f, errp);
        }
        ret = blk_pwrite(l->last, offset, bytes, l->buf, 0);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "drive '%s': cannot be written at byte %"
                        G_GINT64_FORMAT, blk_name(l->last), offset);
        return false;
    }
    /* zeros are mostly holes, which cost next to nothing */
    return flush_behind_wrote(l->behind, l->last, zero ? 0 : bytes, errp);
}

/* After the head of a record with a chunk. */
static bool load_chunk(BlockLoader *l, QEMUFile *f, uint64_t offset, bool zero,
                       GError **errp)
{
    char name[256];
    int64_t length;

    if (!qemu_get_counted_string(f, name)) {
        return qemu_file_ok(f, errp);
    }
    if (!find_drive(l, f, name, errp)) {
        return false;
    }
    length = blk_length(l->last);
    if (offset >= (uint64_t)length) {
        return bad(f, errp, "byte %" G_GUINT64_FORMAT " of drive '%s', which "
                   "has %" G_GINT64_FORMAT " here", offset, name, length);
    }
    return put_chunk(l, f, offset, MIN(BLK_MIG_CHUNK, length - (int64_t)offset),
                     zero, errp);
}

static bool check_length(BlockLoader *l, QEMUFile *f, uint64_t length,
                         GError **errp)
{
    int64_t ours = l->last ? blk_length(l->last) : 0;

    if (!length || (l->last && length == (uint64_t)ours)) {
        return true;
    }
    return l->last ?
        bad(f, errp, "drive '%s': length mismatch: %" G_GUINT64_FORMAT " bytes "
            "at the source, %" G_GINT64_FORMAT " here", blk_name(l->last),
            length, ours) :
        bad(f, errp, "the length of a drive without a name");
}

bool block_loader_load(BlockLoader *l, QEMUFile *f, GError **errp)
{
    l->last = NULL;
    for (;;) {
        uint64_t word = qemu_get_be64(f), value = word & ~BLK_MIG_FLAG_MASK;
        unsigned flags = word & BLK_MIG_FLAG_MASK;

        if (!qemu_file_ok(f, errp)) {
            return false;
        }
        switch (flags) {
        case BLK_MIG_FLAG_DEVICE_BLOCK:
        case BLK_MIG_FLAG_DEVICE_BLOCK | BLK_MIG_FLAG_ZERO_BLOCK:
            if (!load_chunk(l, f, value, flags & BLK_MIG_FLAG_ZERO_BLOCK,
                            errp)) {
                return false;
            }
            break;
        case BLK_MIG_FLAG_PROGRESS:
            break;
        case BLK_MIG_FLAG_EOS:
            return check_length(l, f, value, errp);
        default:
            return bad(f, errp, "a record with unknown flags 0x%03x", flags);
        }
    }
}

bool block_loader_flush(BlockLoader *l, GError **errp)
{
    return flush_behind_finish(l->behind, errp);
}
