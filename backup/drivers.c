/*
 * The formats that a backup can be written in.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "drivers.h"

const BackupDriver *const backup_drivers[] = {
    &backup_driver_vma, /* the first one is used when none is named */
    NULL,
};
