/*
 * The raw format: the image is the file, byte for byte.
 *
 * An image whose format was guessed (BDRV_O_PROBED) must not become one of
 * another format by what the guest writes into its first sector: such a write
 * gets -EPERM, as with QEMU.  To have that sector whole, requests are aligned to
 * 512 bytes then.
 *
 * Since a raw node has the length and the alignment of its file node, and the
 * file node is nobody else's, requests that were checked and tracked for the
 * one go straight to the driver of the other.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include <errno.h>

#include "util/error.h"

static bool raw_open(BlockNode *bs, int flags, GError **errp)
{
    bs->request_alignment = bs->file->request_alignment;
    if (flags & BDRV_O_PROBED) {
        bs->request_alignment = MAX(bs->request_alignment, BDRV_PROBE_BYTES);
    }
    bs->memory_alignment = bs->file->memory_alignment;
    return true;
}

static void raw_close(BlockNode *bs)
{
}

static bool raw_create(const char *filename, int64_t size,
                       const char *backing_file, const char *backing_format,
                       GError **errp)
{
    const char *path;
    const BlockDriver *protocol;

    if (backing_file) {
        error_set(errp, "Backing file not supported for file format 'raw'");
        return false;
    }
    protocol = bdrv_find_protocol(filename, &path, errp);
    return protocol && protocol->create(path, size, NULL, NULL, errp);
}

static int raw_pread(BlockNode *bs, int64_t offset, int64_t bytes, void *buf)
{
    return bs->file->drv->pread(bs->file, offset, bytes, buf);
}

static bool is_other_format(const void *buf, int64_t bytes)
{
    const BlockDriver *drv;

    bdrv_probe_format(buf, MIN(bytes, BDRV_PROBE_BYTES), &drv);
    return drv != &bdrv_raw;
}

static int raw_pwrite(BlockNode *bs, int64_t offset, int64_t bytes,
                      const void *buf, int flags)
{
    if (unlikely(offset == 0 && (bs->flags & BDRV_O_PROBED)) &&
        is_other_format(buf, bytes)) {
        return -EPERM;
    }
    return bs->file->drv->pwrite(bs->file, offset, bytes, buf, flags);
}

static int raw_pwrite_zeroes(BlockNode *bs, int64_t offset, int64_t bytes,
                             int flags)
{
    return bs->file->drv->pwrite_zeroes(bs->file, offset, bytes, flags);
}

static int raw_pdiscard(BlockNode *bs, int64_t offset, int64_t bytes)
{
    return bs->file->drv->pdiscard(bs->file, offset, bytes);
}

static int raw_flush(BlockNode *bs)
{
    return bs->file->drv->flush(bs->file);
}

static int raw_block_status(BlockNode *bs, int64_t offset, int64_t bytes,
                            int64_t *pnum)
{
    return bs->file->drv->block_status(bs->file, offset, bytes, pnum);
}

static bool raw_truncate(BlockNode *bs, int64_t size, GError **errp)
{
    return bdrv_truncate(bs->file, size, errp);
}

static bool raw_map_direct(BlockNode *bs, int64_t offset, int64_t bytes,
                           int *fd, int64_t *fd_offset)
{
    const BlockDriver *drv = bs->file->drv;

    return drv->map_direct &&
           drv->map_direct(bs->file, offset, bytes, fd, fd_offset);
}

static void raw_will_need(BlockNode *bs, int64_t offset, int64_t bytes)
{
    if (bs->file->drv->will_need) {
        bs->file->drv->will_need(bs->file, offset, bytes);
    }
}

const BlockDriver bdrv_raw = {
    .format_name = "raw",
    .open = raw_open,
    .close = raw_close,
    .create = raw_create,
    .pread = raw_pread,
    .pwrite = raw_pwrite,
    .pwrite_zeroes = raw_pwrite_zeroes,
    .pdiscard = raw_pdiscard,
    .flush = raw_flush,
    .block_status = raw_block_status,
    .truncate = raw_truncate,
    .supports_fua = true,
    .map_direct = raw_map_direct,
    .will_need = raw_will_need,
};
