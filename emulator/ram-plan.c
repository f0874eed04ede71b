/*
 * The place where -m and -machine will be rewritten so that the guest's main
 * RAM is a shared memory-backend-file that the sidecar maps too (live
 * migration).  It comes after drives and monitors, because it adds objects and
 * never changes what those look at.  Until then RAM stays as the user has it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmdline-internal.h"

void emu_plan_ram(EmuCmdline *cl)
{
    (void)cl;
}
