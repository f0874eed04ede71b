/*
 * What the sidecar and its agent library inside QEMU share: one anonymous file,
 * inherited by QEMU, mapped by both.
 *
 *     AgentArea | AgentRange 0 | AgentRange 1 | … | discard bitmap 0 | …
 *
 * The sidecar fills in the shape of the area before QEMU starts: which file each
 * RAM block is, and where its bitmap lies.  The agent answers once a mapping of
 * that file has appeared (state, address, error) and from then on sets a bit
 * for every page that QEMU discards.  Everything else is fixed.
 *
 * This header is also compiled into the agent: it needs no library.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_AGENT_H
#define SIDECAR_EMULATOR_AGENT_H

#include <stdint.h>

#define AGENT_MAGIC 0x51534341u /* "QSCA" */
#define AGENT_VERSION 1
#define AGENT_MAX_RANGES 64

/* Environment: the number of the inherited descriptor of the area, and what
 * LD_PRELOAD was before the sidecar put the agent in front (QEMU's own children
 * get that one). */
#define AGENT_ENV_FD "QEMU_SIDECAR_AGENT_FD"
#define AGENT_ENV_PRELOAD "QEMU_SIDECAR_PRELOAD"

enum {
    AGENT_WAITING,    /* no mapping seen yet */
    AGENT_REGISTERED, /* writes are logged */
    AGENT_FAILED,     /* they are not; see error */
};

typedef struct {
    /* by the sidecar */
    uint64_t dev, ino;       /* of the file, as fstat says */
    uint64_t length;         /* bytes from offset 0 of the file */
    uint32_t page_shift;     /* of a page in the bitmap */
    uint32_t reserved;
    uint64_t bitmap_offset;  /* in the area; 64-bit words, bit 0 is page 0 */
    /* by the agent */
    uint64_t address;        /* in QEMU, valid with AGENT_REGISTERED */
    uint32_t state;          /* atomic, set last */
    int32_t error;           /* errno of AGENT_FAILED */
} AgentRange;

typedef struct {
    uint32_t magic, version;
    uint64_t size;           /* of the whole area */
    uint32_t n_ranges;
    uint32_t reserved;
    AgentRange range[];
} AgentArea;

_Static_assert(sizeof(AgentRange) == 56, "AgentRange is shared memory");
_Static_assert(sizeof(AgentArea) == 24, "AgentArea is shared memory");

/* userfaultfd and PAGEMAP_SCAN as of Linux 6.7; Debian 12's headers are older.
 * Source: the kernel's include/uapi/linux/{userfaultfd,fs}.h. */
#define AGENT_UFFD_WP_HUGETLBFS_SHMEM (1u << 12)
#define AGENT_UFFD_WP_UNPOPULATED (1u << 13)
#define AGENT_UFFD_WP_ASYNC (1u << 15)
#define AGENT_UFFD_FEATURES \
    (AGENT_UFFD_WP_HUGETLBFS_SHMEM | AGENT_UFFD_WP_UNPOPULATED | \
     AGENT_UFFD_WP_ASYNC)
#define AGENT_UFFD_USER_MODE_ONLY 1

#endif
