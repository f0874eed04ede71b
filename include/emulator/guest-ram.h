/*
 * Guest RAM as the sidecar sees it: the shared blocks, mapped here, and a dirty
 * log for each.
 *
 *     guest_ram_open ──► (QEMU started with its descriptors and environment)
 *         ──► guest_ram_attach, when QEMU answers ──► guest_ram_dirty_log …
 *
 * Main thread, except where noted.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_GUEST_RAM_H
#define SIDECAR_EMULATOR_GUEST_RAM_H

#include "emulator/cmdline.h"
#include "emulator/dirty-log.h"

typedef struct GuestRam GuestRam;

typedef struct {
    char *id;          /* of the memory backend */
    uint64_t length;
    uint8_t *host;     /* mapped, shared, for reading and writing */
    int fd;            /* of the file that it lies in */
    bool device;       /* of a device, which may have been unplugged */
} GuestRamBlock;

/* Make or open the files of the RAM in @cl and map them.  NULL without an error
 * if @cl leaves all RAM to QEMU.  Nothing appears in any file system that the
 * user did not name.  @compare: no log of the kernel's, even if there is one. */
GuestRam *guest_ram_open(const EmuCmdline *cl, bool compare, GError **errp);
void guest_ram_free(GuestRam *ram); /* unmaps */

/* For EmuRuntime.ram_fd: @ram_opaque is the GuestRam. */
int guest_ram_child_fd(void *ram_opaque, const EmuRam *ram);
/* The descriptors that QEMU needs (duplicates, appended to @fds as int; the
 * launcher closes them here). */
void guest_ram_child_fds(GuestRam *ram, GArray *fds);
/* QEMU's environment with the agent in it (g_strfreev), or NULL: ours as it is,
 * because this kernel or this build has no page-table log. */
char **guest_ram_environ(GuestRam *ram);

/* QEMU has mapped its RAM. */
void guest_ram_attach(GuestRam *ram, pid_t pid);

/* Any thread from here on; @ram does not change any more. */
size_t guest_ram_n_blocks(const GuestRam *ram);
const GuestRamBlock *guest_ram_block(const GuestRam *ram, size_t i);
/* A log of block @i, new and so reporting every page at first.  One at a time
 * a block: two logs would take pages from each other.  @compare: not the kernel's,
 * which misses what is not written through QEMU's mapping. */
DirtyLog *guest_ram_dirty_log(GuestRam *ram, size_t i, uint32_t page_size,
                              bool compare, GError **errp);
/* "pagemap" or "compare", and for the latter why; static or borrowed. */
const char *guest_ram_log_kind(const GuestRam *ram, const char **why);

#endif
