/*
 * The dirty log: which pages of guest RAM were written since it was last asked.
 *
 * A log covers one shared RAM block.  There are several kinds behind one table:
 * the page-table log of the kernel (userfaultfd and PAGEMAP_SCAN), a
 * comparison with a copy where the kernel is too old, and, in tests, one that
 * the writers feed themselves.
 *
 * What a log promises: a write that finishes after a sync began is reported by
 * that sync or by the next one, never by neither.  So whoever syncs first and
 * reads the pages afterwards misses nothing.  Memory that was discarded
 * (balloon, free page reporting) counts as written: it reads as zeros.
 *
 * A log belongs to the thread that syncs it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_DIRTY_LOG_H
#define SIDECAR_EMULATOR_DIRTY_LOG_H

#include "util/bitmap.h"

#include <sys/types.h>

typedef struct DirtyLog DirtyLog;

typedef struct {
    const char *name; /* "pagemap", "compare" */
    bool (*sync)(DirtyLog *log, Bitmap *dirty, GError **errp);
    void (*free)(DirtyLog *log);
} DirtyLogOps;

/* First member of every kind's own structure. */
struct DirtyLog {
    const DirtyLogOps *ops;
    /* Where to read reported pages: the log's own copy of the block as of the
     * sync that reported them, or NULL: guest memory itself. */
    const uint8_t *view;
};

/* Set in @dirty (a bit a page, as many as the block has) the pages written
 * since the last sync; bits that are set already stay.  The first sync of a
 * log reports every page. */
static inline bool dirty_log_sync(DirtyLog *log, Bitmap *dirty, GError **errp)
{
    return log->ops->sync(log, dirty, errp);
}

static inline void dirty_log_free(DirtyLog *log)
{
    if (log) {
        log->ops->free(log);
    }
}

/* The fallback: @host ([@length] bytes, borrowed) is compared with a copy of
 * it, page by page, at each sync.  Costs as much memory as the guest uses of
 * the block.  @fd: its file, borrowed, whose holes need no comparing; 0: none. */
DirtyLog *dirty_log_new_compare(const uint8_t *host, int fd, uint64_t length,
                                uint32_t page_size, GError **errp);

/*
 * The kernel's page-table log: userfaultfd in the process that writes (for
 * QEMU, by the preloaded agent), PAGEMAP_SCAN on /proc/PID/pagemap from here.
 * Linux 6.7 or newer.  @address and @length: the registered mapping in process
 * @pid.  @discarded: words that the agent sets bits in (a bit a page), borrowed;
 * NULL if nobody does.
 */
DirtyLog *dirty_log_new_pagemap(pid_t pid, uint64_t address, uint64_t length,
                                uint32_t page_size, uint64_t *discarded,
                                GError **errp);

/* Does this kernel have all of that, for this user?  Tried on a few pages of
 * this process; the error says what is missing. */
bool dirty_log_pagemap_probe(GError **errp);

#endif
