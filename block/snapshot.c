/*
 * Live snapshots: a new overlay over the image that a drive runs from; of
 * several drives at one instant.
 *
 * The overlay is made and opened without its backing file, because that one is
 * open already, with its locks; the node that the drive had becomes its
 * backing.  The drives change over while they are drained and flushed, so the
 * old images are complete at that instant and not written any more.  Until all
 * are flushed nothing has changed: on an error all stay as they were, and the
 * files that were made are removed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include "block/job.h"
#include "util/error.h"

#include <errno.h>

/* One drive's part. */
typedef struct {
    const BlockSnapshot *want;
    BlockNode *under;   /* owned: what the drive runs from */
    BlockNode *overlay; /* owned: what it shall run from */
    bool made;          /* the file is ours to remove… */
    bool existed;       /* …or to empty */
} Part;

static bool make_overlay(Part *p, GError **errp)
{
    g_autofree char *path = g_canonicalize_filename(bdrv_path(p->under), NULL);

    p->existed = bdrv_exists(p->want->file);
    p->made = bdrv_create(p->want->file, p->want->format, bdrv_length(p->under),
                          path, bdrv_format_name(p->under), errp);
    return p->made;
}

static bool open_overlay(Part *p, GError **errp)
{
    int flags = (bdrv_open_flags(p->under) & ~BDRV_O_PROBED) | BDRV_O_NO_BACKING;
    const char *file = p->want->file;

    p->overlay = bdrv_open(file, p->want->format, flags, errp);
    if (!p->overlay) {
        return false;
    }
    if (!p->overlay->drv->change_backing_file) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "format '%s' has no backing files", p->want->format);
        return false;
    }
    if (bdrv_length(p->overlay) != bdrv_length(p->under)) {
        error_set(errp, "'%s' has %" G_GINT64_FORMAT " bytes, but the drive has %"
                  G_GINT64_FORMAT, file, bdrv_length(p->overlay),
                  bdrv_length(p->under));
        return false;
    }
    return true;
}

static bool prepare(Part *p, GError **errp)
{
    BlockBackend *blk = p->want->blk;

    p->under = blk_get_node(blk);
    if (!p->under || bdrv_is_read_only(p->under)) {
        error_set(errp, "Device '%s' %s", blk_name(blk), p->under ?
                  "is read-only" : "has no medium");
        return false;
    }
    return (p->want->existing || make_overlay(p, errp)) && open_overlay(p, errp);
}

static void forget(Part *p, bool ok)
{
    if (p->made && !ok) {
        bdrv_undo_create(p->want->file, p->existed);
    }
    g_clear_pointer(&p->overlay, bdrv_unref);
    g_clear_pointer(&p->under, bdrv_unref);
}

/* The overlays are put on; the drives are claimed. */
static bool change_over(Part *parts, size_t n, GError **errp)
{
    g_autofree BlockBackend **blks = g_new(BlockBackend *, n);
    int ret = 0;

    for (size_t i = 0; i < n; i++) {
        blks[i] = parts[i].want->blk;
        bdrv_flush(parts[i].under); /* guests need not wait for this one */
    }
    blk_drained_begin(blks, n);
    for (size_t i = 0; i < n && ret == 0; i++) {
        ret = bdrv_flush(parts[i].under);
        if (ret < 0) {
            error_set_errno(errp, -ret, "'%s': flush failed",
                            bdrv_filename(parts[i].under));
        }
    }
    for (size_t i = 0; i < n && ret == 0; i++) {
        bdrv_set_backing(parts[i].overlay, bdrv_ref(parts[i].under));
        /* whoever opens it again with its flags wants all of it */
        parts[i].overlay->flags &= ~BDRV_O_NO_BACKING;
        blk_set_node(blks[i], parts[i].overlay);
    }
    blk_drained_end(blks, n);
    return ret == 0;
}

bool block_snapshot(const BlockSnapshot *snapshots, size_t n, GError **errp)
{
    g_autofree Part *parts = g_new0(Part, n);
    size_t claimed = 0;
    bool ok = true;

    while (ok && claimed < n) {
        parts[claimed].want = &snapshots[claimed];
        ok = blk_claim(snapshots[claimed].blk, "snapshot", errp);
        claimed += ok;
    }
    for (size_t i = 0; i < n && ok; i++) {
        ok = prepare(&parts[i], errp);
    }
    ok = ok && change_over(parts, n, errp);
    for (size_t i = 0; i < claimed; i++) {
        forget(&parts[i], ok);
        blk_release(snapshots[i].blk);
    }
    return ok;
}
