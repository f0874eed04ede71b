/*
 * Notices when QEMU does not use a drive of ours any more: its device was
 * unplugged, drive_del, a mirror that moved it to another image.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_DRIVE_WATCH_H
#define SIDECAR_EMULATOR_DRIVE_WATCH_H

#include "sidecar.h"

typedef struct DriveWatch DriveWatch;

/* Before QEMU runs; @sc has its drives, NBD server and emulator. */
DriveWatch *drive_watch_new(Sidecar *sc);
/* After QEMU has ended, before those three are freed. */
void drive_watch_free(DriveWatch *watch);

#endif
