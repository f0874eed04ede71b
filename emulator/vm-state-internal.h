/*
 * What emulator.c and vm-state.c share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_VM_STATE_INTERNAL_H
#define SIDECAR_EMULATOR_VM_STATE_INTERNAL_H

#include "emulator/emulator.h"

typedef struct EmuVmState EmuVmState;

EmuVmState *emu_vm_state_new(void);
void emu_vm_state_free(EmuVmState *st);
EmuVmState *emu_vm_state(Emulator *emu); /* borrowed */
/* Is this event of QEMU's a consequence of what the sidecar did by itself?
 * Main thread. */
bool emu_vm_state_hides(EmuVmState *st, json_object *event);
/* STOP and RESUME are hidden while this was called more often with true than
 * with false.  Any thread. */
void emu_vm_state_hide(EmuVmState *st, bool hide);
/* A hidden stop has worked (a hidden cont was answered): from here on the guest
 * is said to run although it does not (is said to be what it is).  Main thread,
 * like the following. */
void emu_vm_state_set_pause(EmuVmState *st, bool hidden);
/* The last STOP that was hidden, if it was not taken yet; or NULL. */
json_object *emu_vm_state_take_stop(EmuVmState *st);
/* Do replies to @command tell the run state?  Then they go through _translate;
 * QEMU's replies come in the order of commands, so each meets the right state. */
bool emu_vm_state_concerns(const char *command);
void emu_vm_state_translate(EmuVmState *st, json_object *reply);

/* emu_qmp_call with a descriptor to pass (-1: none), and with the run state
 * events that the command causes @hidden. */
json_object *emu_qmp_call_full(Emulator *emu, const char *command,
                               json_object *args, int fd, bool hidden,
                               GError **errp);
/* emu_qmp_call whose reply is not put into the user's words (own-names.c). */
json_object *emu_qmp_call_as_it_is(Emulator *emu, const char *command, GError **errp);
/* QEMU has ended: nobody waits for its events any more.  Main thread. */
void emu_vm_state_gone(EmuVmState *st);

/* What @reply (NULL: QEMU has ended) says went wrong, g_error_free; or NULL. */
GError *emu_qmp_reply_error(json_object *reply);

#endif
