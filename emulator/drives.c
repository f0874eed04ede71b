/*
 * The drives of a command line: opened, and offered to QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/drives.h"
#include "cmdline-internal.h"
#include "util/error.h"

#include <errno.h>

#define SECTOR 512

/* QEMU warns too, for images that the guest may write. */
static void warn_of_probing(const EmuDrive *drive, BlockNode *node)
{
    if ((bdrv_open_flags(node) & BDRV_O_PROBED) && !bdrv_is_read_only(node)) {
        g_printerr("WARNING: Image format was not specified for '%s' and "
                   "probing guessed raw.\n"
                   "         A guest could make a raw image look like another "
                   "format, so writes to block 0 are restricted.\n"
                   "         Say format=raw to lift that.\n",
                   drive->filename);
    }
}

/*
 * A guest sees whole sectors.  QEMU 7.2 shows it the last, partial one of a raw
 * image as a whole one and lets the file grow when the guest writes to it; over
 * NBD that write would fail.  So the file gets the missing bytes, zeros, now.
 */
static bool fill_last_sector(const EmuDrive *drive, BlockNode *node,
                             GError **errp)
{
    int64_t length = bdrv_length(node), rest = length % SECTOR;

    if (bdrv_is_read_only(node) || !rest) {
        return true;
    }
    g_printerr("qemu-sidecar: '%s': %" G_GINT64_FORMAT " bytes are no multiple "
               "of %d; the last sector was filled with zeros\n",
               drive->filename, length, SECTOR);
    return bdrv_truncate(node, length + SECTOR - rest, errp);
}

/* The image is still in use where the guest comes from. */
static int waiting_flags(int flags)
{
    return (flags & ~BDRV_O_RDWR) | BDRV_O_NO_LOCK;
}

static bool open_drive(EmuCmdline *cl, EmuDrive *drive, BlockContext *ctx,
                       GError **errp)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BlockNode) node =
        bdrv_open(drive->filename, drive->format,
                  cl->incoming ? waiting_flags(drive->flags) : drive->flags,
                  &error);
    BlockBackend *blk;

    if (!node && g_error_matches(error, SIDECAR_ERROR,
                                 SIDECAR_ERROR_NOT_SUPPORTED)) {
        emu_drive_leave(cl, drive, error->message);
        return true;
    }
    if (!node) {
        g_autofree char *text =
            emu_option_text(emu_cmdline_option(cl, drive->option));

        error_set(errp, "%s: %s", text, error->message);
        return false;
    }
    if (drive->size && drive->size != (uint64_t)bdrv_length(node)) {
        emu_drive_leave(cl, drive, "its option 'size' is not the size of the image");
        return true;
    }
    warn_of_probing(drive, node);
    if (!fill_last_sector(drive, node, errp)) {
        return false;
    }
    blk = blk_new(ctx, drive->name, node, errp);
    if (!blk) {
        return false;
    }
    blk_set_removable(blk, drive->removable);
    return true;
}

bool emu_open_drives(EmuCmdline *cl, BlockContext *ctx, GError **errp)
{
    for (guint i = 0; i < cl->drives->len; i++) {
        EmuDrive *drive = g_ptr_array_index(cl->drives, i);

        if (!drive->left && !open_drive(cl, drive, ctx, errp)) {
            return false;
        }
    }
    return true;
}

bool emu_export_drives(const EmuCmdline *cl, BlockContext *ctx, NbdServer *nbd,
                       GError **errp)
{
    for (guint i = 0; i < cl->drives->len; i++) {
        const EmuDrive *drive = g_ptr_array_index(cl->drives, i);
        BlockBackend *blk = drive->left ? NULL : blk_by_name(ctx, drive->name);

        if (blk && !nbd_server_add(nbd, drive->name, blk,
                                   !(drive->flags & BDRV_O_RDWR), errp)) {
            return false;
        }
    }
    return true;
}

/* A copy of the drives would lack one whose image is not ours any more. */
static bool claim_drive(BlockBackend *blk, GError **errp)
{
    if (blk_use(blk) == BLK_MOVED) {
        error_set(errp, "Device '%s' runs from an image of QEMU's own now",
                  blk_name(blk));
        return false;
    }
    return blk_claim(blk, "migration", errp);
}

bool emu_claim_drives(BlockContext *ctx, GError **errp)
{
    g_autoptr(GPtrArray) all = blk_all(ctx);

    for (guint i = 0; i < all->len; i++) {
        if (!claim_drive(g_ptr_array_index(all, i), errp)) {
            while (i-- > 0) {
                blk_release(g_ptr_array_index(all, i));
            }
            return false;
        }
    }
    return true;
}

void emu_release_drives(BlockContext *ctx)
{
    g_autoptr(GPtrArray) all = blk_all(ctx);

    for (guint i = 0; i < all->len; i++) {
        blk_release(g_ptr_array_index(all, i));
    }
}

bool emu_inactivate_drives(BlockContext *ctx, GError **errp)
{
    g_autoptr(GPtrArray) all = blk_all(ctx);

    for (guint i = 0; i < all->len; i++) {
        BlockBackend *blk = g_ptr_array_index(all, i);
        g_autoptr(BlockNode) node = blk_get_node(blk);
        bool ok;

        if (!node) {
            continue;
        }
        blk_drained_begin(&blk, 1);
        ok = bdrv_inactivate(node, errp);
        blk_drained_end(&blk, 1);
        if (!ok) {
            return false;
        }
    }
    return true;
}

static int active_flags(const EmuCmdline *cl, BlockBackend *blk,
                        BlockNode *node)
{
    int flags = bdrv_open_flags(node);

    for (guint i = 0; cl->incoming && i < cl->drives->len; i++) {
        const EmuDrive *drive = g_ptr_array_index(cl->drives, i);

        if (!drive->left && !g_strcmp0(drive->name, blk_name(blk))) {
            flags &= ~BDRV_O_NO_LOCK;
            flags |= drive->flags & (BDRV_O_RDWR | BDRV_O_NO_LOCK);
        }
    }
    return flags;
}

bool emu_activate_drives(const EmuCmdline *cl, BlockContext *ctx, GError **errp)
{
    g_autoptr(GPtrArray) all = blk_all(ctx);

    for (guint i = 0; i < all->len; i++) {
        BlockBackend *blk = g_ptr_array_index(all, i);
        g_autoptr(BlockNode) node = blk_get_node(blk), fresh = NULL;

        if (!node) {
            continue;
        }
        blk_drained_begin(&blk, 1);
        /* its locks must go before the new ones can be had */
        if (bdrv_inactivate(node, errp)) {
            fresh = bdrv_open(bdrv_filename(node), bdrv_format_name(node),
                              active_flags(cl, blk, node), errp);
        }
        if (fresh) {
            blk_set_node(blk, fresh);
        }
        blk_drained_end(&blk, 1);
        if (!fresh) {
            return false;
        }
    }
    return true;
}

bool emu_flush_drives(BlockContext *ctx)
{
    g_autoptr(GPtrArray) all = blk_all(ctx);
    bool ok = true;

    for (guint i = 0; i < all->len; i++) {
        BlockBackend *blk = g_ptr_array_index(all, i);
        g_autoptr(BlockNode) node = blk_get_node(blk);
        int ret = node && !bdrv_is_read_only(node) ? blk_flush(blk) : 0;

        /* -ENOMEDIUM: flushed and closed when the guest went elsewhere */
        if (ret < 0 && ret != -ENOMEDIUM) {
            g_printerr("qemu-sidecar: drive '%s': writes could not be made "
                       "durable: %s\n",
                       blk_name(blk), g_strerror(-ret));
            ok = false;
        }
    }
    return ok;
}
