/*
 * The dirty log by comparison: for kernels without PAGEMAP_SCAN.
 *
 * A page in a hole of the memory's file is not read, which would fill the hole:
 * it is zeros, so it only counts if its copy is not.  What the copy has never
 * got takes no memory either.
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
#include "util/holes.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#define THREADS_MAX 8
#define THREAD_BYTES (UINT64_C(64) << 20) /* at least so much for each */

typedef struct {
    DirtyLog log;
    const uint8_t *host;
    int fd;
    uint8_t *copy;
    Bitmap *holes; /* at this sync; NULL without a file */
    Bitmap *used;  /* pages that the copy has got */
    uint64_t length;
    uint32_t page_size;
    bool synced;
} CompareLog;

static void compare_page(CompareLog *c, uint64_t nr, Bitmap *dirty)
{
    uint64_t at = nr * c->page_size;

    if (memcmp(c->copy + at, c->host + at, c->page_size)) {
        bitmap_set(dirty, nr);
        bitmap_set(c->used, nr);
        memcpy(c->copy + at, c->host + at, c->page_size);
    }
}

/* It was data and is a hole: discarded. */
static void zero_page(CompareLog *c, uint64_t nr, Bitmap *dirty)
{
    bitmap_set(dirty, nr);
    bitmap_clear(c->used, nr);
    memset(c->copy + nr * c->page_size, 0, c->page_size);
}

/* A thread's share: whole words of the bitmaps. */
typedef struct {
    CompareLog *c;
    Bitmap *dirty;
    uint64_t first, end;
    pthread_t thread;
    bool threaded;
} Part;

static void *compare_part(void *opaque)
{
    Part *p = opaque;
    CompareLog *c = p->c;

    for (uint64_t nr = p->first; nr < p->end; nr++) {
        if (!c->holes || !bitmap_test(c->holes, nr)) {
            compare_page(c, nr, p->dirty);
        } else if (bitmap_test(c->used, nr)) {
            zero_page(c, nr, p->dirty);
        }
    }
    return NULL;
}

/* The guest may be stopped meanwhile, so it is worth some threads. */
static void compare_all(CompareLog *c, Bitmap *dirty)
{
    unsigned n = MIN(MIN(g_get_num_processors(), THREADS_MAX),
                     c->length / THREAD_BYTES + 1);
    uint64_t pages = c->used->size, share = (pages / n + 63) / 64 * 64;
    Part parts[THREADS_MAX];

    for (unsigned i = 0; i < n; i++) {
        Part *p = &parts[i];

        *p = (Part) { c, dirty, MIN(i * share, pages), MIN((i + 1) * share, pages) };
        if (i == n - 1) {
            p->end = pages;
        }
        p->threaded = i < n - 1 &&
            !pthread_create(&p->thread, NULL, compare_part, p);
        if (!p->threaded) {
            compare_part(p);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        if (parts[i].threaded) {
            pthread_join(parts[i].thread, NULL);
        }
    }
}

static bool compare_sync(DirtyLog *log, Bitmap *dirty, GError **errp)
{
    CompareLog *c = (CompareLog *)log;

    if (c->holes) {
        file_find_holes(c->fd, c->page_size, c->holes);
    }
    compare_all(c, dirty);
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
    bitmap_free(c->holes);
    bitmap_free(c->used);
    g_free(c);
}

static const DirtyLogOps compare_ops = {
    .name = "compare",
    .sync = compare_sync,
    .free = compare_free,
};

DirtyLog *dirty_log_new_compare(const uint8_t *host, int fd, uint64_t length,
                                uint32_t page_size, GError **errp)
{
    uint64_t pages = length / page_size;
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
        .fd = fd,
        .copy = copy,
        .length = length,
        .page_size = page_size,
        .used = bitmap_new(pages),
        .holes = fd > 0 ? bitmap_new(pages) : NULL,
    };
    if (!c->used) {
        error_set(errp, "no memory to track %" G_GUINT64_FORMAT " pages", pages);
        compare_free(&c->log);
        return NULL;
    }
    return &c->log;
}
