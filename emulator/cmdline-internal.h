/*
 * The steps of rewriting a command line; see include/emulator/cmdline.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_CMDLINE_INTERNAL_H
#define SIDECAR_EMULATOR_CMDLINE_INTERNAL_H

#include "emulator/cmdline.h"
#include "keyval.h"

/* Names of what the sidecar adds; a user's id can't start like this by
 * accident, and one that does is refused by QEMU as a duplicate. */
#define EMU_OWN_ID "qemu-sidecar-"
#define EMU_QMP_ID EMU_OWN_ID "qmp"

/* Seconds that QEMU holds requests while its connection to us is broken.  We
 * break it only to make QEMU see a new size; when we are gone QEMU is killed. */
#define EMU_RECONNECT_DELAY 30

EmuOption *emu_cmdline_option(const EmuCmdline *cl, unsigned index);
bool emu_option_is(const EmuOption *opt, const char *name);
/* Emit @first, @second (may be NULL) instead of the option. */
void emu_option_replace(EmuOption *opt, const char *first, const char *second);
/* "word arg", for messages; g_free. */
char *emu_option_text(const EmuOption *opt);
void emu_cmdline_warn(EmuCmdline *cl, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

/* drive-plan.c */
void emu_plan_drives(EmuCmdline *cl);
void emu_drive_free(void *drive);
/* The file of a -drive, if it is local: without "file:"; else NULL. */
const char *emu_local_filename(const char *file);
void emu_drive_take(EmuCmdline *cl, EmuDrive *drive, const char *nbd_socket);
/* drive-name.c: QEMU's default interface of a machine and how many units
 * sit on one of its buses (0: no limit). */
const char *emu_machine_default_if(const EmuCmdline *cl);
int emu_if_max_devs(const EmuCmdline *cl, const char *if_name);
/* What QEMU calls the main RAM of the machine, or NULL if we don't know. */
const char *emu_machine_ram_id(const EmuCmdline *cl);

/* monitor-plan.c */
bool emu_plan_monitors(EmuCmdline *cl, GError **errp);
void emu_monitor_free(void *monitor);
void emu_monitor_take(EmuCmdline *cl, EmuMonitor *monitor, int shared_fd);

/* readconfig.c: true if the file of this -readconfig has one of the words, or
 * can't be looked into; false for any other option. */
bool emu_readconfig_may(const EmuOption *opt, const char *const *words);

/* ram-plan.c: shared guest RAM (live migration), its place in the order. */
void emu_plan_ram(EmuCmdline *cl);
void emu_ram_free(void *ram);
void emu_ram_take(EmuCmdline *cl, EmuRam *ram, int fd);

#endif
