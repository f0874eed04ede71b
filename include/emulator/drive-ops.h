/*
 * What monitors do to drives while the VM runs, where both the sidecar and
 * QEMU have to know: size and medium.
 *
 * All of these wait for disks and for QEMU: not on the main thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_DRIVE_OPS_H
#define SIDECAR_EMULATOR_DRIVE_OPS_H

#include "sidecar.h"

/* The name of the drive of ours that a command means: @device, or the one of
 * the guest's device @id (name or path), or the one whose node in QEMU is
 * @node_name; exactly one of them is given, the others are NULL.  NULL: none of
 * ours, or not exactly one.  g_free. */
char *emu_drive_name(Sidecar *sc, const char *device, const char *id,
                     const char *node_name);

/* Grow or shrink the image and let the guest know. */
bool emu_block_resize(Sidecar *sc, const char *device, int64_t size,
                      GError **errp);

/* Take the medium out of a removable drive; @force: even if the guest has
 * locked it. */
bool emu_eject(Sidecar *sc, const char *device, bool force, GError **errp);

/* Another medium.  @format NULL: probe.  @read_only as QEMU's
 * read-only-mode: "retain" (or NULL), "read-only", "read-write". */
bool emu_change_medium(Sidecar *sc, const char *device, const char *filename,
                       const char *format, const char *read_only, bool force,
                       GError **errp);

#endif
