/*
 * The drives of a command line: opened, and offered to QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_DRIVES_H
#define SIDECAR_EMULATOR_DRIVES_H

#include "block/block.h"
#include "block/nbd-server.h"
#include "emulator/cmdline.h"

/* Open every image that the sidecar takes over and make its drive in @ctx.
 * An image of a format that we can't serve is left to QEMU, with a warning in
 * @cl.  False: an image that QEMU could not open either.  Before the main loop
 * runs. */
bool emu_open_drives(EmuCmdline *cl, BlockContext *ctx, GError **errp);

/* Offer them all. */
bool emu_export_drives(const EmuCmdline *cl, BlockContext *ctx, NbdServer *nbd,
                       GError **errp);

/* For as long as a migration goes on, and while the images are away: nobody else
 * has any drive.  False, with none claimed, if somebody has. */
bool emu_claim_drives(BlockContext *ctx, GError **errp);
void emu_release_drives(BlockContext *ctx);

/*
 * The hand-over of images between two hosts.  Inactivate: flush and close every
 * image (I/O gives -ENOMEDIUM meanwhile); activate: open those that are closed,
 * or were opened for reading only because the guest was still to come, as the
 * command line says.  Not on the main thread.
 */
bool emu_inactivate_drives(BlockContext *ctx, GError **errp);
bool emu_activate_drives(const EmuCmdline *cl, BlockContext *ctx,
                         GError **errp);

/* At the end: flush everything.  What fails is said on stderr; false then. */
bool emu_flush_drives(BlockContext *ctx);

#endif
