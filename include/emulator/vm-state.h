/*
 * The VM's run state and device state, driven by the sidecar itself.
 *
 * What is done here for the sidecar's own purposes is not seen by anybody: the
 * STOP, RESUME and MIGRATION events that it causes are kept back.
 *
 * All functions wait for QEMU: any thread but the main one, one at a time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_VM_STATE_H
#define SIDECAR_EMULATOR_VM_STATE_H

#include "emulator/emulator.h"

/* Was the guest running just now?  During a hidden stop it is said to, here as to
 * everybody. */
bool emu_vm_running(Emulator *emu, bool *running, GError **errp);
/* The run state by QEMU's name ("paused", "postmigrate"; g_free), or NULL. */
char *emu_vm_status(Emulator *emu, GError **errp);
/* What was plugged in by name or hot: changes when a device comes or goes
 * (g_free), or NULL. */
char *emu_vm_peripherals(Emulator *emu, GError **errp);

/* The machine type with its version ("pc-q35-7.2"; g_free), or NULL. */
char *emu_vm_machine(Emulator *emu, GError **errp);

/* Does this machine type end its migration stream with a description? */
bool emu_vm_describes_state(Emulator *emu, bool *described, GError **errp);

/* Is @idstr the RAMBlock of memory backend @id?  Its name is the id, or its path with
 * older machine types; a PCI device puts its address before ("0000:00:03.0/ID"). */
bool emu_is_ram_block_of(const char *idstr, const char *id);
/* How QEMU calls the RAMBlock of memory backend @id. */
bool emu_vm_ram_block_name(Emulator *emu, const char *id, char name[256],
                           GError **errp);

/* The ids of all memory backends that QEMU maps shared, also of those that came
 * later (g_strfreev), or NULL. */
char **emu_vm_shared_memory(Emulator *emu, GError **errp);

/* Who writes to guest memory without the kernel's log seeing it, in words (g_free);
 * NULL: nobody. */
bool emu_vm_unseen_writer(Emulator *emu, char **who, GError **errp);

/* Stop the guest; disk requests in flight have ended when it returns.
 * @hidden: nobody sees the STOP, and the status stays "running"; then emu_vm_cont
 * must follow, hidden too. */
bool emu_vm_stop(Emulator *emu, bool hidden, GError **errp);
bool emu_vm_cont(Emulator *emu, bool hidden, GError **errp);

/*
 * QEMU's device-only stream of the stopped guest.  Between _open and _end QEMU's own
 * `savevm' would lack the guest's memory.  _open gives the read end of a
 * socket (or -1) and may be called while the guest runs; after _begin the stream
 * comes from there, or its end if QEMU refuses.  Read it to its end or close it,
 * then call _end in any case; that says whether QEMU thinks it complete.  @error
 * (taken over, or NULL) is what went wrong with reading: it counts, unless QEMU had
 * refused.  Meanwhile QEMU does not write guest RAM.
 */
int emu_save_devices_open(Emulator *emu, GError **errp);
void emu_save_devices_begin(Emulator *emu, int fd);
bool emu_save_devices_end(Emulator *emu, GError *error, GError **errp);

/* Load a stream into a QEMU that was started with -incoming defer: the write
 * end of a socket, or -1.  Write all, close it, then call
 * emu_load_devices_end, which waits for QEMU's verdict. */
int emu_load_devices_begin(Emulator *emu, GError **errp);
bool emu_load_devices_end(Emulator *emu, GError **errp);

#endif
