/*
 * Nodes: opening, references, closing, and what can be asked about an image.
 * The requests themselves are in io.c.
 *
 *     bdrv_open ─► open ──bdrv_inactivate──► inactive ─┐
 *                   └────────── last bdrv_unref ───────┴─► freed
 *
 * A node is open from the moment anyone else can see it.  drv, opaque,
 * filename, file and the alignments do not change until it is freed; length
 * changes in bdrv_truncate, which is alone on the node then.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/error.h"

BlockNode *bdrv_node_new(const BlockDriver *drv, const char *filename,
                         int flags)
{
    BlockNode *bs = g_new0(BlockNode, 1);

    bs->drv = drv;
    bs->opaque = g_malloc0(drv->instance_size);
    bs->filename = g_strdup(filename);
    bs->flags = flags;
    bs->request_alignment = 1;
    bs->memory_alignment = 1;
    bs->priv = block_alloc_aligned(BLOCK_CACHE_LINE, sizeof(*bs->priv));
    atomic_init(&bs->priv->refs, 1);
    request_tracker_init(&bs->priv->tracker);
    pthread_mutex_init(&bs->priv->flush_lock, NULL);
    pthread_mutex_init(&bs->priv->info_lock, NULL);
    return bs;
}

void bdrv_node_discard(BlockNode *bs)
{
    bdrv_unref(bs->file);
    bdrv_unref(bs->backing);
    request_tracker_destroy(&bs->priv->tracker);
    pthread_mutex_destroy(&bs->priv->flush_lock);
    pthread_mutex_destroy(&bs->priv->info_lock);
    g_free(bs->priv->corrupt_message);
    free(bs->priv);
    g_free(bs->filename);
    g_free(bs->opaque);
    g_free(bs);
}

/* Ask the driver; a format without the method has its file's. */
static int64_t driver_length(BlockNode *bs)
{
    return bs->drv->length ? bs->drv->length(bs) : bdrv_length(bs->file);
}

/* Takes @bs over: on failure it is gone. */
static BlockNode *open_node(BlockNode *bs, GError **errp)
{
    int64_t length;

    if (!bs->drv->open(bs, bs->flags, errp)) {
        bdrv_node_discard(bs);
        return NULL;
    }
    length = driver_length(bs);
    if (length < 0) {
        error_set_errno(errp, -length, "Could not get the size of '%s'",
                        bs->filename);
        bs->drv->close(bs);
        bdrv_node_discard(bs);
        return NULL;
    }
    atomic_store(&bs->priv->length, length);
    return bs;
}

BlockNode *bdrv_open_protocol(const char *filename, int flags, GError **errp)
{
    const char *path;
    const BlockDriver *drv = bdrv_find_protocol(filename, &path, errp);

    if (drv && drv != &bdrv_file && (flags & BDRV_O_PLAIN_FILE)) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "'%s': an image must not name a '%s:' file", filename,
                    drv->format_name);
        return NULL;
    }
    return drv ? open_node(bdrv_node_new(drv, path, flags), errp) : NULL;
}

/* Which driver @file's first bytes ask for; NULL and an error. */
static const BlockDriver *probe(BlockNode *file, const char *filename,
                                GError **errp)
{
    uint8_t buf[BDRV_PROBE_BYTES] = { 0 };
    int64_t len = MIN(bdrv_length(file), (int64_t)sizeof(buf));
    const BlockDriver *drv;
    const char *name;
    int ret = bdrv_pread(file, 0, len, buf);

    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not read the header of '%s'",
                        filename);
        return NULL;
    }
    name = bdrv_probe_format(buf, len, &drv);
    if (!drv) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "'%s' is an image of format '%s', which is not supported",
                    filename, name);
    }
    return drv;
}

BlockNode *bdrv_open(const char *filename, const char *format, int flags,
                     GError **errp)
{
    const BlockDriver *drv = NULL;
    g_autoptr(BlockNode) file = NULL;
    BlockNode *bs;

    flags &= ~BDRV_O_PROBED;
    if (format) {
        drv = bdrv_find_format(format, errp);
        if (!drv) {
            return NULL;
        }
    }
    file = bdrv_open_protocol(filename, flags, errp);
    if (!file) {
        return NULL;
    }
    if (!drv) {
        drv = probe(file, filename, errp);
        if (!drv) {
            return NULL;
        }
        flags |= drv == &bdrv_raw ? BDRV_O_PROBED : 0;
    }
    bs = bdrv_node_new(drv, filename, flags);
    bs->file = g_steal_pointer(&file);
    bs = open_node(bs, errp);
    if (bs && !(flags & BDRV_O_NO_BACKING) &&
        !bdrv_open_backing_chain(bs, errp)) {
        bs->flags &= ~BDRV_O_RDWR; /* nothing to flush, nothing to warn of */
        bdrv_unref(bs);
        return NULL;
    }
    return bs;
}

bool bdrv_create(const char *filename, const char *format, int64_t size,
                 const char *backing_file, const char *backing_format,
                 GError **errp)
{
    const BlockDriver *drv = bdrv_find_format(format, errp);

    if (!drv) {
        return false;
    }
    if (!drv->create) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "Format driver '%s' does not support image creation",
                    format);
        return false;
    }
    if (size < 0) {
        error_set(errp, "'%s': the size of an image cannot be %" PRId64,
                  filename, size);
        return false;
    }
    return drv->create(filename, size, backing_file, backing_format, errp);
}

/* Of the file that lies lowest, or NULL. */
static const char *lowest_path(const char *filename)
{
    const char *path = NULL;
    const BlockDriver *drv = bdrv_find_protocol(filename, &path, NULL);

    while (drv == &bdrv_fault) {
        filename = bdrv_fault_file(path);
        drv = filename ? bdrv_find_protocol(filename, &path, NULL) : NULL;
    }
    return drv ? path : NULL;
}

bool bdrv_exists(const char *filename)
{
    const char *path = lowest_path(filename);

    return path && access(path, F_OK) == 0;
}

void bdrv_undo_create(const char *filename, bool existed)
{
    const char *path = lowest_path(filename);

    if (path && (existed ? truncate(path, 0) : unlink(path)) < 0) {
        g_printerr("qemu-sidecar: '%s' cannot be %s: %s\n", path,
                   existed ? "emptied" : "removed", g_strerror(errno));
    }
}

BlockNode *bdrv_ref(BlockNode *bs)
{
    atomic_fetch_add(&bs->priv->refs, 1);
    return bs;
}

void bdrv_unref(BlockNode *bs)
{
    int ret;

    if (!bs || atomic_fetch_sub(&bs->priv->refs, 1) > 1) {
        return;
    }
    if (!atomic_load(&bs->priv->inactive)) {
        ret = bdrv_flush(bs);
        if (ret < 0) {
            g_printerr("qemu-sidecar: '%s': flush before closing: %s\n",
                       bs->filename, g_strerror(-ret));
        }
        bs->drv->close(bs);
    }
    bdrv_node_discard(bs);
}

bool bdrv_inactivate(BlockNode *bs, GError **errp)
{
    BdrvTrackedRequest req;
    int ret = 0;

    tracked_request_begin(&bs->priv->tracker, &req, 0, INT64_MAX, true);
    if (!atomic_load(&bs->priv->inactive)) {
        ret = bdrv_flush(bs);
        if (ret < 0) {
            error_set_errno(errp, -ret, "'%s': flush failed", bs->filename);
        } else {
            pthread_mutex_lock(&bs->priv->flush_lock); /* flushes aren't tracked */
            pthread_mutex_lock(&bs->priv->info_lock);
            atomic_store(&bs->priv->inactive, true);
            pthread_mutex_unlock(&bs->priv->info_lock);
            bs->drv->close(bs);
            pthread_mutex_unlock(&bs->priv->flush_lock);
        }
    }
    tracked_request_end(&bs->priv->tracker, &req);
    return ret == 0 && (!bs->file || bdrv_inactivate(bs->file, errp)) &&
           (!bs->backing || bdrv_inactivate(bs->backing, errp));
}

const char *bdrv_filename(const BlockNode *bs)
{
    return bs->filename;
}

const char *bdrv_format_name(const BlockNode *bs)
{
    return bs->drv->format_name;
}

int bdrv_open_flags(const BlockNode *bs)
{
    return bs->flags;
}

bool bdrv_is_read_only(const BlockNode *bs)
{
    return !(bs->flags & BDRV_O_RDWR);
}

int64_t bdrv_length(BlockNode *bs)
{
    return atomic_load(&bs->priv->length);
}

static int64_t driver_allocated_size(BlockNode *bs)
{
    if (atomic_load(&bs->priv->inactive)) {
        return -ENOMEDIUM;
    }
    if (bs->drv->allocated_size) {
        return bs->drv->allocated_size(bs);
    }
    return bs->file ? bdrv_allocated_size(bs->file) : -ENOTSUP;
}

int64_t bdrv_allocated_size(BlockNode *bs)
{
    BdrvTrackedRequest req;
    int64_t ret;

    /* Any byte will do: bdrv_inactivate overlaps them all. */
    tracked_request_begin(&bs->priv->tracker, &req, 0, 1, false);
    ret = driver_allocated_size(bs);
    tracked_request_end(&bs->priv->tracker, &req);
    return ret;
}

uint32_t bdrv_request_alignment(BlockNode *bs)
{
    return bs->request_alignment;
}

static bool truncate_checked(BlockNode *bs, int64_t size, GError **errp)
{
    if (atomic_load(&bs->priv->inactive)) {
        error_set(errp, "'%s' is inactive", bs->filename);
        return false;
    }
    if (!bs->drv->truncate) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "Image format driver '%s' does not support resize",
                    bs->drv->format_name);
        return false;
    }
    atomic_store(&bs->priv->dirty, true);
    if (!bs->drv->truncate(bs, size, errp)) {
        return false;
    }
    atomic_store(&bs->priv->length, size);
    return true;
}

bool bdrv_truncate(BlockNode *bs, int64_t size, GError **errp)
{
    BdrvTrackedRequest req;
    bool ok;

    if (bdrv_is_read_only(bs)) {
        error_set(errp, "'%s' is read-only", bs->filename);
        return false;
    }
    if (size < 0) {
        error_set(errp, "'%s': the size of an image cannot be %" PRId64,
                  bs->filename, size);
        return false;
    }
    tracked_request_begin(&bs->priv->tracker, &req, 0, INT64_MAX, true);
    ok = truncate_checked(bs, size, errp);
    tracked_request_end(&bs->priv->tracker, &req);
    return ok;
}
