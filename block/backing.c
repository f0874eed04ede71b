/*
 * Backing files: the chain below an image.
 *
 * The name of a backing file comes from inside an image, so it is as hostile as
 * the rest of it:
 *  - only a path (or file:PATH) will do, no other protocol;
 *  - a relative one is looked for in the folder of the image that names it;
 *  - the image must say the format.  Without that a file is taken for raw if it
 *    looks like nothing else, and refused otherwise: what a guest writes into
 *    the first sector of a raw backing file must never make this program follow
 *    the name of another file;
 *  - a chain is at most BACKING_DEPTH_MAX long and does not come back to an
 *    image that is in it already;
 *  - everything but the top is opened read-only.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "util/error.h"

#define BACKING_DEPTH_MAX 200

const char *bdrv_path(const BlockNode *bs)
{
    while (bs->file) {
        bs = bs->file;
    }
    return bs->filename;
}

/* @name as @bs has it, seen from where we are. */
static char *resolve(const BlockNode *bs, const char *name)
{
    const char *path;
    g_autofree char *folder = NULL;

    if (g_str_has_prefix(name, "file:")) {
        name += strlen("file:");
    } else if (name[strcspn(name, ":/")] == ':') {
        return g_strdup(name); /* a protocol: refused by bdrv_open */
    }
    if (g_path_is_absolute(name)) {
        return g_strdup_printf("file:%s", name);
    }
    path = bdrv_path(bs);
    folder = g_path_get_dirname(path);
    return g_strdup_printf("file:%s/%s", folder, name);
}

static bool same_file(const BlockNode *a, const BlockNode *b)
{
    struct stat sa, sb;

    return stat(bdrv_path(a), &sa) == 0 && stat(bdrv_path(b), &sb) == 0 &&
           sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino &&
           (!S_ISBLK(sa.st_mode) || sa.st_rdev == sb.st_rdev);
}

/* @below is not part of the chain yet. */
static bool check_loop(const BlockNode *top, const BlockNode *below,
                       GError **errp)
{
    for (const BlockNode *bs = top; bs; bs = bs->backing) {
        if (same_file(bs, below)) {
            error_set(errp, "'%s' is its own backing file, by way of '%s'",
                      bs->filename, below->filename);
            return false;
        }
    }
    return true;
}

static BlockNode *open_below(BlockNode *bs, const char *name,
                             const char *format, GError **errp)
{
    int flags = (bs->flags & ~(BDRV_O_RDWR | BDRV_O_PROBED)) |
                BDRV_O_PLAIN_FILE | BDRV_O_NO_BACKING;
    g_autofree char *filename = resolve(bs, name);
    g_autoptr(BlockNode) below = bdrv_open(filename, format, flags, errp);

    if (below && !format && strcmp(below->drv->format_name, "raw") != 0) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "'%s' looks like %s, but the image above it does not say "
                    "what format it has (qemu-img rebase -u -F does)",
                    below->filename, below->drv->format_name);
        return NULL;
    }
    return g_steal_pointer(&below);
}

bool bdrv_open_backing_chain(BlockNode *top, GError **errp)
{
    BlockNode *bs = top;

    for (unsigned depth = 0; bs->drv->backing_file; depth++, bs = bs->backing) {
        const char *format = NULL, *name = bs->drv->backing_file(bs, &format);
        g_autoptr(BlockNode) below = NULL;

        if (!name) {
            break;
        }
        if (depth == BACKING_DEPTH_MAX) {
            error_set(errp, "'%s' has more than %d backing files",
                      top->filename, BACKING_DEPTH_MAX);
            return false;
        }
        below = open_below(bs, name, format, errp);
        if (!below || !check_loop(top, below, errp)) {
            g_prefix_error(errp, "'%s': Could not open backing file: ",
                           bs->filename);
            return false;
        }
        bs->backing = g_steal_pointer(&below);
    }
    return true;
}

int bdrv_is_allocated_above(BlockNode *top, BlockNode *base, int64_t offset,
                            int64_t bytes, int64_t *pnum)
{
    for (BlockNode *bs = top; bs && bs != base; bs = bs->backing) {
        int64_t length = bdrv_length(bs), n;
        int ret;

        if (offset >= length) {
            *pnum = bytes; /* zeros, decided here */
            return bs == top ? -EINVAL : 1;
        }
        bytes = MIN(bytes, length - offset);
        ret = bdrv_block_status(bs, offset, bytes, &n);
        if (ret < 0 || (ret & BDRV_BLOCK_ALLOCATED)) {
            *pnum = n;
            return ret < 0 ? ret : 1;
        }
        bytes = MIN(bytes, n);
    }
    *pnum = bytes;
    return 0;
}

bool bdrv_change_backing_file(BlockNode *bs, const char *file,
                              const char *format, GError **errp)
{
    BdrvTrackedRequest req;
    bool ok;

    if (bdrv_is_read_only(bs)) {
        error_set(errp, "'%s' is read-only", bs->filename);
        return false;
    }
    if (!bs->drv->change_backing_file) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "Image format driver '%s' has no backing files",
                    bs->drv->format_name);
        return false;
    }
    if (file && !format) {
        error_set(errp, "Backing file specified without backing format");
        return false;
    }
    tracked_request_begin(&bs->priv->tracker, &req, 0, INT64_MAX, true);
    if (atomic_load(&bs->priv->inactive)) {
        error_set(errp, "'%s' is inactive", bs->filename);
        ok = false;
    } else {
        ok = bs->drv->change_backing_file(bs, file, file ? format : NULL, errp);
    }
    tracked_request_end(&bs->priv->tracker, &req);
    return ok;
}
