/*
 * The dirty log in the kernel's page tables.
 *
 * The mapping was registered for asynchronous write protection in the process
 * that writes.  PAGEMAP_SCAN then reports the pages written since they were
 * last protected, and protects them again, in one step: a write that falls in
 * between is reported by the next scan.  A page that was never protected
 * counts as written, so the first scan reports all.
 *
 * A scan may stop before the end of its range (walk_end); it is continued.
 *
 * Discarded pages count as clean in the page tables.  Who discards sets their
 * bits in a shared bitmap, after the fact; a sync takes them.
 *
 * Seen with Linux 6.18 and QEMU 7.2.  Source of the interface: the kernel's
 * Documentation/admin-guide/mm/pagemap.rst and include/uapi/linux/fs.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/dirty-log.h"

#include "agent/uffd.h"
#include "util/error.h"

#include <string.h>
#include <sys/mman.h>

/* Debian 12's headers do not have these. */
typedef struct {
    uint64_t start, end, categories;
} PageRegion;

typedef struct {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
} PmScanArg;

_Static_assert(sizeof(PageRegion) == 24, "struct page_region");
_Static_assert(sizeof(PmScanArg) == 96, "struct pm_scan_arg");

#define PAGEMAP_SCAN_IOCTL _IOWR('f', 16, PmScanArg)
#define SCAN_WP_MATCHING (1 << 0)
#define SCAN_CHECK_WPASYNC (1 << 1)
#define CATEGORY_WRITTEN (1 << 1)

#define REGIONS 4096

typedef struct {
    DirtyLog log;
    int fd; /* /proc/PID/pagemap */
    uint64_t address, length;
    uint32_t page_size;
    uint64_t *discarded; /* borrowed; atomic words */
    PageRegion *regions;
    bool synced;
} PagemapLog;

static void mark(const PagemapLog *p, const PageRegion *r, Bitmap *dirty)
{
    uint64_t first = (r->start - p->address) / p->page_size;
    uint64_t end = (r->end - p->address + p->page_size - 1) / p->page_size;

    bitmap_set_range(dirty, first, end - first);
}

static bool scan(PagemapLog *p, Bitmap *dirty, GError **errp)
{
    uint64_t at = p->address, end = p->address + p->length;

    while (at < end) {
        PmScanArg arg = {
            .size = sizeof(arg),
            .flags = SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC,
            .start = at,
            .end = end,
            .vec = (uintptr_t)p->regions,
            .vec_len = REGIONS,
            .category_mask = CATEGORY_WRITTEN,
            .return_mask = CATEGORY_WRITTEN,
        };
        int n = ioctl(p->fd, PAGEMAP_SCAN_IOCTL, &arg);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            error_set_errno(errp, errno, "dirty log: PAGEMAP_SCAN");
            return false;
        }
        for (int i = 0; i < n; i++) {
            mark(p, &p->regions[i], dirty);
        }
        if (arg.walk_end <= at) {
            error_set(errp, "dirty log: PAGEMAP_SCAN stands still at 0x%"
                      G_GINT64_MODIFIER "x", at);
            return false;
        }
        at = arg.walk_end;
    }
    return true;
}

static void take_discarded(PagemapLog *p, Bitmap *dirty)
{
    uint64_t words = p->discarded ? (dirty->size + 63) / 64 : 0;

    for (uint64_t w = 0; w < words; w++) {
        uint64_t bits = __atomic_load_n(&p->discarded[w], __ATOMIC_SEQ_CST) ?
            __atomic_exchange_n(&p->discarded[w], 0, __ATOMIC_SEQ_CST) : 0;

        for (; bits; bits &= bits - 1) {
            uint64_t page = w * 64 + __builtin_ctzll(bits);

            if (page < dirty->size) {
                bitmap_set(dirty, page);
            }
        }
    }
}

static bool pagemap_sync(DirtyLog *log, Bitmap *dirty, GError **errp)
{
    PagemapLog *p = (PagemapLog *)log;

    take_discarded(p, dirty);
    if (!scan(p, dirty, errp)) {
        return false;
    }
    if (!p->synced) {
        /* an earlier log of this mapping may have protected it already */
        bitmap_set_range(dirty, 0, dirty->size);
        p->synced = true;
    }
    return true;
}

static void pagemap_free(DirtyLog *log)
{
    PagemapLog *p = (PagemapLog *)log;

    close(p->fd);
    g_free(p->regions);
    g_free(p);
}

static const DirtyLogOps pagemap_ops = {
    .name = "pagemap",
    .sync = pagemap_sync,
    .free = pagemap_free,
};

DirtyLog *dirty_log_new_pagemap(pid_t pid, uint64_t address, uint64_t length,
                                uint32_t page_size, uint64_t *discarded,
                                GError **errp)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/pagemap", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    PagemapLog *p;

    if (fd < 0) {
        error_set_errno(errp, errno, "dirty log: %s", path);
        return NULL;
    }
    p = g_new0(PagemapLog, 1);
    *p = (PagemapLog) {
        .log.ops = &pagemap_ops,
        .fd = fd,
        .address = address,
        .length = length,
        .page_size = page_size,
        .discarded = discarded,
        .regions = g_new(PageRegion, REGIONS),
    };
    return &p->log;
}

/* ---- the probe ------------------------------------------------------------------ */

/* Exactly the pages that are expected? */
static bool sync_gives(DirtyLog *log, Bitmap *dirty, uint64_t want,
                       GError **errp)
{
    bitmap_clear_range(dirty, 0, dirty->size);
    if (!dirty_log_sync(log, dirty, errp)) {
        return false;
    }
    for (uint64_t i = 0; i < dirty->size; i++) {
        if (bitmap_test(dirty, i) != (want >> i & 1)) {
            error_set(errp, "dirty log: this kernel reports page %d wrongly",
                      (int)i);
            return false;
        }
    }
    return true;
}

static bool probe_log(DirtyLog *log, volatile char *map, uint32_t page,
                      GError **errp)
{
    g_autoptr(Bitmap) dirty = bitmap_new(4);

    map[0] = 1;
    if (!sync_gives(log, dirty, 0xf, errp)) { /* all, the first time */
        return false;
    }
    map[page] = 2;
    map[3 * page] = 3; /* never touched before */
    return sync_gives(log, dirty, 0xa, errp) && sync_gives(log, dirty, 0, errp);
}

static bool probe_mapping(int uffd, char *map, uint32_t page, GError **errp)
{
    DirtyLog *log;
    bool ok;

    if (agent_uffd_register(uffd, map, 4 * page) < 0) {
        error_set_errno(errp, errno, "dirty log: registering shared memory");
        return false;
    }
    log = dirty_log_new_pagemap(getpid(), (uintptr_t)map, 4 * page, page, NULL,
                                errp);
    ok = log && probe_log(log, map, page, errp);
    dirty_log_free(log);
    return ok;
}

bool dirty_log_pagemap_probe(GError **errp)
{
    uint32_t page = getpagesize();
    int uffd = agent_uffd_open();
    void *map;
    bool ok;

    if (uffd < 0) {
        error_set_errno(errp, errno,
                        "dirty log: userfaultfd with WP_ASYNC (Linux 6.7)");
        return false;
    }
    map = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE,
               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        error_set_errno(errp, errno, "dirty log: mmap");
        close(uffd);
        return false;
    }
    ok = probe_mapping(uffd, map, page, errp);
    munmap(map, 4 * page);
    close(uffd);
    return ok;
}
