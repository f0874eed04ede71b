/*
 * The formats that a backup can be written in.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BACKUP_DRIVERS_H
#define SIDECAR_BACKUP_DRIVERS_H

#include "backup/backup.h"

extern const BackupDriver backup_driver_vma; /* vma-driver.c */

extern const BackupDriver *const backup_drivers[]; /* NULL-terminated */

/* A manager that knows other formats than backup_drivers: for tests. */
BackupManager *backup_manager_new_with_drivers(BlockContext *ctx,
                                               const BackupDriver *const *drivers);

#endif
