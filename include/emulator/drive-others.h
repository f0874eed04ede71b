/*
 * Drives that the VM has beside those of the sidecar.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_DRIVE_OTHERS_H
#define SIDECAR_EMULATOR_DRIVE_OTHERS_H

#include "sidecar.h"

/* A backup of all drives has begun: says on stderr, soon, which drives that can
 * be written it lacks, if there are any.  Any thread. */
void emu_warn_of_others(Sidecar *sc);

#endif
