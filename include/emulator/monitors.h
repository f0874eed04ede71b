/*
 * The chardevs of the monitors that the sidecar takes over.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_MONITORS_H
#define SIDECAR_EMULATOR_MONITORS_H

#include "emulator/cmdline.h"
#include "emulator/emulator.h"
#include "util/chardev.h"

typedef struct EmuMonitors EmuMonitors;

/* Open them all, in the order of the line, and wait where wait=on was said.
 * One that can't be ours after all is left to QEMU, with a warning in @cl. */
EmuMonitors *emu_monitors_open(EmuCmdline *cl, GError **errp);
/* QEMU's ends of shared terminals, close-on-exec: to be passed to QEMU and
 * closed here.  Borrowed array of int; the fds are the caller's to close. */
GArray *emu_monitors_child_fds(EmuMonitors *mons);
/* For EmuRuntime.shared_fd; @opaque is the EmuMonitors. */
int emu_monitors_shared_fd(void *opaque, const EmuMonitor *monitor);
/* Hand each chardev, in order, to @add, which takes it over. */
void emu_monitors_start(EmuMonitors *mons, Emulator *emu,
                        void (*add)(void *opaque, const EmuMonitor *monitor,
                                    Chardev *chr),
                        void *opaque);
/* Also closes what emu_monitors_start has not given away. */
void emu_monitors_free(EmuMonitors *mons);

#endif
