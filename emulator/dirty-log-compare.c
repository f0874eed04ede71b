/*
 * The dirty log by comparison: for kernels without PAGEMAP_SCAN.
 *
 * The log keeps a copy of the block.  A sync reports the pages that differ from
 * it and brings the copy up to date; reported pages are then read from the copy
 * (DirtyLog.view), so the copy is always what the destination has or is about
 * to get.  It may be torn where the guest was writing; then it differs from the
 * guest's page at the next sync.  Reading the guest's page later instead would
 * not do: a page that changes and changes back between two syncs looks
 * untouched, but may have been read in between.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/dirty-log.h"

#include "util/error.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

typedef struct {
    DirtyLog log;
    const uint8_t *host;
    uint8_t *copy;
    uint64_t length;
    uint32_t page_size;
    bool synced;
} CompareLog;

static bool compare_sync(DirtyLog *log, Bitmap *dirty, GError **errp)
{
    CompareLog *c = (CompareLog *)log;

    for (uint64_t at = 0; at < c->length; at += c->page_size) {
        if (memcmp(c->copy + at, c->host + at, c->page_size)) {
            bitmap_set(dirty, at / c->page_size);
            memcpy(c->copy + at, c->host + at, c->page_size);
        }
    }
    if (!c->synced) {
        bitmap_set_range(dirty, 0, dirty->size);
        c->synced = true;
    }
    return true;
}

static void compare_free(DirtyLog *log)
{
    CompareLog *c = (CompareLog *)log;

    munmap(c->copy, c->length);
    g_free(c);
}

static const DirtyLogOps compare_ops = {
    .name = "compare",
    .sync = compare_sync,
    .free = compare_free,
};

DirtyLog *dirty_log_new_compare(const uint8_t *host, uint64_t length,
                                uint32_t page_size, GError **errp)
{
    CompareLog *c;
    void *copy = mmap(NULL, length, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (copy == MAP_FAILED) {
        error_set_errno(errp, errno, "a copy of %" G_GUINT64_FORMAT
                        " bytes of guest RAM to compare with", length);
        return NULL;
    }
    c = g_new0(CompareLog, 1);
    *c = (CompareLog) {
        .log = { &compare_ops, copy },
        .host = host,
        .copy = copy,
        .length = length,
        .page_size = page_size,
    };
    return &c->log;
}
