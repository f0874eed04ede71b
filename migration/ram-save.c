/*
 * The RAM saver.
 *
 * Rounds: a sync of the dirty logs marks pages; iterate sends marked pages in
 * ascending order from where it was, in a circle, so that short rounds do not
 * send the same first pages for ever; clearing the mark first and reading the
 * page afterwards.
 * A page that the guest writes meanwhile may go out torn, but then the log
 * reports it at the next sync, and it is sent again.  The last sync happens
 * with the guest stopped, so the last copy of every page is whole.
 *
 * What the destination has of a page and what the XBZRLE cache has of it must
 * be the same.  Therefore a page on its way through the cache is copied once
 * out of guest memory, and that copy is what is compared, sent and kept.
 * Without XBZRLE the copy into the file's buffer is the only one.
 *
 *     zero          zero record; the cached copy, if any, becomes zeros
 *     not cached    raw record; put into the cache (in the first round only
 *                   while there is room: most pages are never written again)
 *     cached        XBZRLE record, or raw if that would not be shorter, or
 *                   nothing at all if the page turns out to be unchanged
 *
 * Thread: the migration thread; the counters are atomics.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/ram.h"

#include "migration/page-cache.h"
#include "migration/xbzrle.h"
#include "util/error.h"
#include "util/holes.h"
#include "util/zero.h"

#include <stdatomic.h>
#include <string.h>

typedef _Atomic uint64_t Counter;

struct RamSaver {
    const RamBlock *blocks;
    size_t n_blocks;
    uint32_t page_size;
    Bitmap **marked;         /* a block's pages still to be sent; NULL: not shared */
    Bitmap **holes;          /* of them, those that were never touched; or NULL */
    bool all_sent;           /* every page has been sent once */
    PageCache *cache;        /* NULL: XBZRLE is off */
    uint8_t *copy;           /* one page */

    size_t block;            /* where iterate goes on */
    uint64_t page;
    const RamBlock *last;    /* block of the record before, in this section */

    gint64 sync_time;        /* of the last sync, µs */
    /* Records since then, but for zeros: a page that is zero now may be anything
     * when it has been written again. */
    uint64_t round_bytes, round_pages;
    double bytes_per_page;   /* expected, of one that is not zero */

    Counter duplicate, normal, skipped, xbzrle_pages, xbzrle_bytes;
    Counter cache_lookup, cache_miss, overflow;
    Counter remaining, total, syncs, dirty_rate, transferred;
};

static void count(Counter *c, uint64_t n)
{
    /* one writer: no locked instruction needed */
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static uint64_t get(const Counter *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

RamSaver *ram_saver_new(const RamBlock *blocks, size_t n, uint32_t page_size,
                        uint64_t cache_budget, GError **errp)
{
    RamSaver *s = g_new0(RamSaver, 1);

    s->blocks = blocks;
    s->n_blocks = n;
    s->page_size = page_size;
    s->copy = g_malloc(page_size);
    s->bytes_per_page = page_size;
    s->marked = g_new0(Bitmap *, n);
    s->holes = g_new0(Bitmap *, n);
    for (size_t i = 0; i < n; i++) {
        uint64_t pages = blocks[i].length / page_size;

        if (!blocks[i].host) {
            continue;
        }
        s->marked[i] = bitmap_new(pages);
        /* what a log with a copy of its own holds is not what the file holds */
        if (blocks[i].fd && !blocks[i].log->view) {
            s->holes[i] = bitmap_new(pages);
        }
        if (!s->marked[i]) {
            error_set(errp, "no memory to track the %" G_GUINT64_FORMAT
                      " pages of RAM block %s", pages, blocks[i].idstr);
            ram_saver_free(s);
            return NULL;
        }
        count(&s->total, pages);
    }
    if (cache_budget && !ram_saver_set_cache_budget(s, cache_budget, errp)) {
        ram_saver_free(s);
        return NULL;
    }
    return s;
}

void ram_saver_free(RamSaver *s)
{
    if (!s) {
        return;
    }
    for (size_t i = 0; i < s->n_blocks; i++) {
        bitmap_free(s->marked[i]);
        bitmap_free(s->holes[i]);
    }
    page_cache_free(s->cache);
    g_free(s->marked);
    g_free(s->holes);
    g_free(s->copy);
    g_free(s);
}

bool ram_saver_set_cache_budget(RamSaver *s, uint64_t budget, GError **errp)
{
    if (s->cache) {
        return page_cache_resize(s->cache, budget, errp);
    }
    s->cache = page_cache_new(budget, s->page_size, errp);
    return s->cache != NULL;
}

/* ---- records --------------------------------------------------------------- */

/* The head of a record at @p; how long it is (at most 8 + 256 bytes). */
static size_t put_head(RamSaver *s, uint8_t *p, const RamBlock *b,
                       uint64_t offset, unsigned flag)
{
    bool same = b == s->last;
    uint64_t word = GUINT64_TO_BE(offset | flag |
                                  (same ? RAM_SAVE_FLAG_CONTINUE : 0));
    size_t len;

    memcpy(p, &word, 8);
    if (same) {
        return 8;
    }
    s->last = b;
    len = strlen(b->idstr);
    p[8] = len;
    memcpy(p + 9, b->idstr, len);
    return 9 + len;
}

#define HEAD_MAX (8 + 256)

static void put_done(RamSaver *s, QEMUFile *f, size_t len)
{
    qemu_put_reserved(f, len);
    count(&s->transferred, len);
}

static void put_zero(RamSaver *s, QEMUFile *f, const RamBlock *b,
                     uint64_t offset)
{
    uint8_t *p = qemu_put_reserve(f, HEAD_MAX + 1);
    size_t head = put_head(s, p, b, offset, RAM_SAVE_FLAG_ZERO);

    p[head] = 0; /* newer receivers refuse any other fill */
    put_done(s, f, head + 1);
    count(&s->duplicate, 1);
}

static void put_raw(RamSaver *s, QEMUFile *f, const RamBlock *b,
                    uint64_t offset, const uint8_t *page)
{
    uint8_t *p = qemu_put_reserve(f, HEAD_MAX + s->page_size);
    size_t head = put_head(s, p, b, offset, RAM_SAVE_FLAG_PAGE);

    memcpy(p + head, page, s->page_size);
    put_done(s, f, head + s->page_size);
    count(&s->normal, 1);
}

/* From @cached to @page, and @cached brought up to date; false if the record
 * would be as long as the page, which is then in @cached. */
static bool put_xbzrle(RamSaver *s, QEMUFile *f, const RamBlock *b,
                       uint64_t offset, uint8_t *cached, const uint8_t *page)
{
    uint8_t *p = qemu_put_reserve(f, HEAD_MAX + 3 + s->page_size);
    const RamBlock *last = s->last;
    size_t head = put_head(s, p, b, offset, RAM_SAVE_FLAG_XBZRLE);
    uint8_t *encoded = p + head + 3;
    int len = xbzrle_encode(cached, page, s->page_size, encoded,
                            s->page_size - 3);

    if (len <= 0) {
        s->last = last;
        count(len ? &s->overflow : &s->skipped, 1);
        memcpy(cached, page, len ? s->page_size : 0);
        return len == 0;
    }
    p[head] = RAM_XBZRLE_ENCODING;
    p[head + 1] = len >> 8;
    p[head + 2] = len;
    if ((uint32_t)len < s->page_size / 8) {
        xbzrle_decode(encoded, len, cached, s->page_size); /* few lines change */
    } else {
        memcpy(cached, page, s->page_size);
    }
    put_done(s, f, head + 3 + len);
    count(&s->xbzrle_pages, 1);
    count(&s->xbzrle_bytes, len);
    return true;
}

/* Where to read a block's pages; see DirtyLog.view. */
static const uint8_t *source(const RamBlock *b)
{
    return b->log->view ? b->log->view : b->host;
}

static uint64_t cache_key(const RamSaver *s, const RamBlock *b, uint64_t offset)
{
    return (uint64_t)(b - s->blocks) << 52 | offset / s->page_size;
}

/* The copy that was sent last, or NULL. */
static uint8_t *find_cached(RamSaver *s, const RamBlock *b, uint64_t offset)
{
    return s->cache ? page_cache_lookup(s->cache, cache_key(s, b, offset)) : NULL;
}

static void put_and_cache(RamSaver *s, QEMUFile *f, const RamBlock *b,
                          uint64_t offset)
{
    uint8_t *cached = page_cache_insert(s->cache, cache_key(s, b, offset));

    memcpy(cached, source(b) + offset, s->page_size);
    put_raw(s, f, b, offset, cached);
}

static void send_again(RamSaver *s, QEMUFile *f, const RamBlock *b,
                       uint64_t offset)
{
    uint8_t *cached = find_cached(s, b, offset);

    count(&s->cache_lookup, 1);
    if (!cached) {
        count(&s->cache_miss, 1);
        put_and_cache(s, f, b, offset);
        return;
    }
    memcpy(s->copy, source(b) + offset, s->page_size);
    if (!put_xbzrle(s, f, b, offset, cached, s->copy)) {
        put_raw(s, f, b, offset, cached);
    }
}

static void send_zero(RamSaver *s, QEMUFile *f, const RamBlock *b,
                      uint64_t offset)
{
    uint8_t *cached = find_cached(s, b, offset);

    if (cached) {
        memset(cached, 0, s->page_size);
    }
    put_zero(s, f, b, offset);
}

/* A page of the first round may never be written again: nobody is driven out
 * of the cache for it. */
static bool has_room(const RamSaver *s)
{
    return s->cache && !page_cache_full(s->cache);
}

static bool is_hole(const RamSaver *s, const RamBlock *b, uint64_t offset)
{
    const Bitmap *holes = s->holes[b - s->blocks];

    return !s->all_sent && holes && bitmap_test(holes, offset / s->page_size);
}

static void send_page(RamSaver *s, QEMUFile *f, const RamBlock *b,
                      uint64_t offset)
{
    uint64_t before = get(&s->transferred);

    count(&s->remaining, -1);
    if (is_hole(s, b, offset) ||
        buffer_is_zero(source(b) + offset, s->page_size)) {
        send_zero(s, f, b, offset);
        return;
    }
    if (s->cache && get(&s->syncs) > 1) {
        send_again(s, f, b, offset);
    } else if (has_room(s)) {
        put_and_cache(s, f, b, offset);
    } else {
        put_raw(s, f, b, offset, source(b) + offset);
    }
    s->round_pages++;
    s->round_bytes += get(&s->transferred) - before;
}

/* ---- rounds ---------------------------------------------------------------- */

bool ram_saver_setup(RamSaver *s, QEMUFile *f, GError **errp)
{
    uint64_t total = 0;

    for (size_t i = 0; i < s->n_blocks; i++) {
        total += s->blocks[i].length;
    }
    qemu_put_be64(f, total | RAM_SAVE_FLAG_MEM_SIZE);
    for (size_t i = 0; i < s->n_blocks; i++) {
        qemu_put_counted_string(f, s->blocks[i].idstr);
        qemu_put_be64(f, s->blocks[i].length);
    }
    qemu_put_be64(f, RAM_SAVE_FLAG_EOS);
    return qemu_file_ok(f, errp);
}

/*
 * Until every page has been sent once: what the log reports is not a hole any
 * more.  Then only written pages are marked, and holes do not matter.
 */
static bool sync_with_holes(RamSaver *s, size_t i, GError **errp)
{
    g_autoptr(Bitmap) fresh = bitmap_new(s->marked[i]->size);

    if (!fresh) {
        error_set(errp, "no memory to track the pages of RAM block %s",
                  s->blocks[i].idstr);
        return false;
    }
    if (!dirty_log_sync(s->blocks[i].log, fresh, errp)) {
        return false;
    }
    for (uint64_t nr = bitmap_next_set(fresh, 0); nr < fresh->size;
         nr = bitmap_next_set(fresh, nr + 1)) {
        bitmap_set(s->marked[i], nr);
        bitmap_clear(s->holes[i], nr);
    }
    return true;
}

/* Holes are looked for after the log was asked the first time: a write that
 * makes one of them data is then reported by the next sync. */
static bool sync_block(RamSaver *s, size_t i, GError **errp)
{
    bool first = !get(&s->syncs);

    if (!first && !s->all_sent && s->holes[i]) {
        return sync_with_holes(s, i, errp);
    }
    if (!dirty_log_sync(s->blocks[i].log, s->marked[i], errp)) {
        return false;
    }
    if (first) {
        bitmap_set_range(s->marked[i], 0, s->marked[i]->size);
    }
    if (first && s->holes[i]) {
        file_find_holes(s->blocks[i].fd, s->page_size, s->holes[i]);
    }
    return true;
}

bool ram_saver_sync(RamSaver *s, GError **errp)
{
    gint64 now = g_get_monotonic_time();
    uint64_t marked = 0, before = get(&s->remaining);

    for (size_t i = 0; i < s->n_blocks; i++) {
        if (!s->marked[i]) {
            continue;
        }
        if (!sync_block(s, i, errp)) {
            return false;
        }
        marked += bitmap_count(s->marked[i]);
    }
    if (get(&s->syncs)) {
        atomic_store(&s->dirty_rate, (marked - MIN(before, marked)) *
                     G_USEC_PER_SEC / MAX(now - s->sync_time, 1));
    }
    if (s->round_pages) { /* of the pages that it did not get to nothing new is known */
        s->bytes_per_page = (s->round_bytes + before * s->bytes_per_page) /
            (s->round_pages + before);
    }
    s->sync_time = now;
    s->round_bytes = s->round_pages = 0;
    atomic_store(&s->remaining, marked);
    count(&s->syncs, 1);
    return true;
}

uint64_t ram_saver_pending(const RamSaver *s)
{
    double per_page = s->bytes_per_page;

    /* a round that has come far tells more than the one before */
    if (s->round_pages > get(&s->remaining)) {
        per_page = (double)s->round_bytes / s->round_pages;
    }
    return get(&s->remaining) * per_page;
}

/* Go to the next marked page; false if there is none up to the end. */
static bool find_marked(RamSaver *s)
{
    for (; s->block < s->n_blocks; s->block++, s->page = 0) {
        const Bitmap *marked = s->marked[s->block];

        if (marked) {
            s->page = bitmap_next_set(marked, s->page);
            if (s->page < marked->size) {
                return true;
            }
        }
    }
    return false;
}

/* Send the next marked page, after the last one from the start; false if there
 * is none. */
static bool send_next(RamSaver *s, QEMUFile *f)
{
    if (!find_marked(s)) {
        s->all_sent = true;
        s->block = s->page = 0;
        if (!find_marked(s)) {
            return false;
        }
    }
    bitmap_clear(s->marked[s->block], s->page);
    send_page(s, f, &s->blocks[s->block], s->page * s->page_size);
    s->page++;
    return true;
}

bool ram_saver_iterate(RamSaver *s, QEMUFile *f, bool *more, GError **errp)
{
    s->last = NULL;
    *more = true;
    while (*more && !qemu_file_rate_exceeded(f) && !qemu_file_error(f)) {
        *more = send_next(s, f);
    }
    qemu_put_be64(f, RAM_SAVE_FLAG_EOS);
    return qemu_file_ok(f, errp);
}

bool ram_saver_complete(RamSaver *s, QEMUFile *f, GError **errp)
{
    if (!ram_saver_sync(s, errp)) {
        return false;
    }
    s->last = NULL;
    while (send_next(s, f) && !qemu_file_error(f)) {
    }
    return qemu_file_ok(f, errp);
}

void ram_saver_stats(const RamSaver *s, RamStats *st)
{
    *st = (RamStats) {
        .duplicate = get(&s->duplicate),
        .normal = get(&s->normal),
        .skipped = get(&s->skipped),
        .xbzrle_pages = get(&s->xbzrle_pages),
        .xbzrle_bytes = get(&s->xbzrle_bytes),
        .cache_lookup = get(&s->cache_lookup),
        .cache_miss = get(&s->cache_miss),
        .overflow = get(&s->overflow),
        .remaining = get(&s->remaining),
        .total = get(&s->total),
        .dirty_sync_count = get(&s->syncs),
        .dirty_pages_rate = get(&s->dirty_rate),
        .transferred = get(&s->transferred),
    };
}
