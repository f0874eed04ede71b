/*
 * Live snapshots: a new overlay over the image that a drive runs from.
 *
 * The overlay is made and opened without its backing file, because that one is
 * open already, with its locks; the node that the drive had becomes its
 * backing.  The drive changes over while it is drained and flushed, so the old
 * image is complete at that instant and not written any more.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include "block/job.h"
#include "util/error.h"

#include <errno.h>
#include <unistd.h>

static bool make_overlay(BlockNode *under, const char *file, const char *format,
                         GError **errp)
{
    g_autofree char *path = g_canonicalize_filename(bdrv_filename(under), NULL);

    return bdrv_create(file, format, bdrv_length(under), path,
                       bdrv_format_name(under), errp);
}

static BlockNode *open_overlay(BlockNode *under, const char *file,
                               const char *format, GError **errp)
{
    int flags = (bdrv_open_flags(under) & ~BDRV_O_PROBED) | BDRV_O_NO_BACKING;
    g_autoptr(BlockNode) bs = bdrv_open(file, format, flags, errp);

    if (!bs) {
        return NULL;
    }
    if (!bs->drv->change_backing_file) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "format '%s' has no backing files", format);
        return NULL;
    }
    if (bdrv_length(bs) != bdrv_length(under)) {
        error_set(errp, "'%s' has %" G_GINT64_FORMAT " bytes, but the drive has %"
                  G_GINT64_FORMAT, file, bdrv_length(bs), bdrv_length(under));
        return NULL;
    }
    return g_steal_pointer(&bs);
}

/* @overlay is put on; the drive is claimed. */
static bool change_over(BlockBackend *blk, BlockNode *under, BlockNode *overlay,
                        GError **errp)
{
    int ret;

    blk_drained_begin(&blk, 1);
    ret = bdrv_flush(under);
    if (ret == 0) {
        bdrv_set_backing(overlay, bdrv_ref(under));
        blk_set_node(blk, overlay);
    }
    blk_drained_end(&blk, 1);
    if (ret < 0) {
        error_set_errno(errp, -ret, "'%s': flush failed", bdrv_filename(under));
    }
    return ret == 0;
}

static bool snapshot_claimed(BlockBackend *blk, const char *file,
                             const char *format, bool existing, GError **errp)
{
    g_autoptr(BlockNode) under = blk_get_node(blk), overlay = NULL;
    bool ok;

    if (!under || bdrv_is_read_only(under)) {
        error_set(errp, "Device '%s' %s", blk_name(blk), under ?
                  "is read-only" : "has no medium");
        return false;
    }
    if (!existing && !make_overlay(under, file, format, errp)) {
        return false;
    }
    overlay = open_overlay(under, file, format, errp);
    ok = overlay && change_over(blk, under, overlay, errp);
    if (!ok && !existing) {
        unlink(file);
    }
    return ok;
}

bool block_snapshot(BlockBackend *blk, const char *file, const char *format,
                    bool existing, GError **errp)
{
    bool ok;

    if (!blk_claim(blk, "snapshot", errp)) {
        return false;
    }
    ok = snapshot_claimed(blk, file, format, existing, errp);
    blk_release(blk);
    return ok;
}
