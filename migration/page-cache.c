/*
 * The page cache; see include/migration/page-cache.h.
 *
 * Slots are numbered from 0; slot data lies at data + slot * page_size.  A slot
 * is either in the LRU list and in the table, or in the list of free slots
 * (linked through next).  Slots that were never used are not in any list: they
 * are [used, slots).
 *
 * The table is open addressing with linear probing; an entry is a slot number
 * plus one, 0 is empty.  Removal moves later entries back, so that there are no
 * tombstones and a probe ends at the first empty place.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/page-cache.h"

#include "util/error.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define NONE UINT32_MAX

typedef struct {
    uint64_t key;
    uint32_t prev, next; /* towards more and less recently used */
} Slot;

struct PageCache {
    uint32_t page_size;
    uint32_t slots, used, pages;
    uint32_t newest, oldest, free;
    uint32_t table_mask;
    Slot *slot;
    uint32_t *table;
    uint8_t *data;
};

static uint64_t data_size(const PageCache *c)
{
    return (uint64_t)c->slots * c->page_size;
}

static size_t table_size(const PageCache *c)
{
    return ((size_t)c->table_mask + 1) * sizeof(c->table[0]);
}

static void *map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static void unmap(void *p, size_t size)
{
    if (p) {
        munmap(p, size);
    }
}

PageCache *page_cache_new(uint64_t budget, uint32_t page_size, GError **errp)
{
    uint64_t slots = budget / page_size, entries = 2;
    g_autoptr(PageCache) c = NULL;

    if (!slots || slots >= NONE / 2) {
        error_set(errp, "XBZRLE cache of %" G_GUINT64_FORMAT " bytes: must be "
                  "at least one page and less than %u pages of %u bytes",
                  budget, NONE / 2, page_size);
        return NULL;
    }
    while (entries < 2 * slots) {
        entries *= 2;
    }
    c = g_new0(PageCache, 1);
    c->page_size = page_size;
    c->slots = slots;
    c->newest = c->oldest = c->free = NONE;
    c->table_mask = entries - 1;
    c->slot = map(slots * sizeof(Slot));
    c->table = map(table_size(c));
    c->data = map(data_size(c));
    if (c->data) {
        madvise(c->data, data_size(c), MADV_HUGEPAGE); /* if the kernel likes */
    }
    if (!c->slot || !c->table || !c->data) {
        error_set_errno(errp, ENOMEM, "XBZRLE cache of %" G_GUINT64_FORMAT
                        " bytes", budget);
        return NULL;
    }
    return g_steal_pointer(&c);
}

void page_cache_free(PageCache *c)
{
    if (!c) {
        return;
    }
    unmap(c->slot, c->slots * sizeof(Slot));
    unmap(c->table, table_size(c));
    unmap(c->data, data_size(c));
    g_free(c);
}

/* ---- the table ---------------------------------------------------------- */

static uint32_t home(const PageCache *c, uint64_t key)
{
    return (key * 0x9e3779b97f4a7c15ULL >> 32) & c->table_mask;
}

/* Where @key is, or the empty place where it would go. */
static uint32_t find(const PageCache *c, uint64_t key)
{
    uint32_t i = home(c, key);

    while (c->table[i] && c->slot[c->table[i] - 1].key != key) {
        i = (i + 1) & c->table_mask;
    }
    return i;
}

/* Empty place @hole; entries behind it that may not be reached any more are
 * moved into it, one after another. */
static void table_remove(PageCache *c, uint32_t hole)
{
    for (uint32_t i = (hole + 1) & c->table_mask; c->table[i];
         i = (i + 1) & c->table_mask) {
        uint32_t want = home(c, c->slot[c->table[i] - 1].key);

        if (((i - want) & c->table_mask) >= ((i - hole) & c->table_mask)) {
            c->table[hole] = c->table[i];
            hole = i;
        }
    }
    c->table[hole] = 0;
}

/* ---- the order of use ----------------------------------------------------- */

static void unlink_slot(PageCache *c, uint32_t s)
{
    Slot *slot = &c->slot[s];

    if (slot->prev == NONE) {
        c->newest = slot->next;
    } else {
        c->slot[slot->prev].next = slot->next;
    }
    if (slot->next == NONE) {
        c->oldest = slot->prev;
    } else {
        c->slot[slot->next].prev = slot->prev;
    }
}

static void link_newest(PageCache *c, uint32_t s)
{
    c->slot[s].prev = NONE;
    c->slot[s].next = c->newest;
    if (c->newest == NONE) {
        c->oldest = s;
    } else {
        c->slot[c->newest].prev = s;
    }
    c->newest = s;
}

static uint8_t *touch(PageCache *c, uint32_t s)
{
    if (c->newest != s) {
        unlink_slot(c, s);
        link_newest(c, s);
    }
    return c->data + (uint64_t)s * c->page_size;
}

/* A slot in no list: a free one, a fresh one, or that of the oldest page. */
static uint32_t take_slot(PageCache *c)
{
    uint32_t s = c->free;

    if (s != NONE) {
        c->free = c->slot[s].next;
        c->pages++;
        return s;
    }
    if (c->used < c->slots) {
        c->pages++;
        return c->used++;
    }
    s = c->oldest;
    table_remove(c, find(c, c->slot[s].key));
    unlink_slot(c, s);
    return s;
}

/* ---- the interface -------------------------------------------------------- */

uint8_t *page_cache_lookup(PageCache *c, uint64_t key)
{
    uint32_t i = find(c, key);

    return c->table[i] ? touch(c, c->table[i] - 1) : NULL;
}

uint8_t *page_cache_insert(PageCache *c, uint64_t key)
{
    uint8_t *data = page_cache_lookup(c, key);
    uint32_t s;

    if (data) {
        return data;
    }
    s = take_slot(c);
    c->slot[s].key = key;
    c->table[find(c, key)] = s + 1;
    link_newest(c, s);
    return c->data + (uint64_t)s * c->page_size;
}

void page_cache_remove(PageCache *c, uint64_t key)
{
    uint32_t i = find(c, key);
    uint32_t s;

    if (!c->table[i]) {
        return;
    }
    s = c->table[i] - 1;
    table_remove(c, i);
    unlink_slot(c, s);
    c->slot[s].next = c->free;
    c->free = s;
    c->pages--;
}

void page_cache_clear(PageCache *c)
{
    memset(c->table, 0, table_size(c));
    c->used = c->pages = 0;
    c->newest = c->oldest = c->free = NONE;
}

bool page_cache_resize(PageCache *c, uint64_t budget, GError **errp)
{
    g_autoptr(PageCache) other = NULL;
    uint32_t s = c->newest;

    if (budget / c->page_size == c->slots) {
        return true;
    }
    other = page_cache_new(budget, c->page_size, errp);
    if (!other) {
        return false;
    }
    /* Go to the oldest page that stays, then copy from there to the newest. */
    for (uint32_t n = 1; s != NONE && c->slot[s].next != NONE &&
                         n < other->slots; n++) {
        s = c->slot[s].next;
    }
    for (; s != NONE; s = c->slot[s].prev) {
        memcpy(page_cache_insert(other, c->slot[s].key),
               c->data + (uint64_t)s * c->page_size, c->page_size);
    }
    PageCache old = *c;
    *c = *other;
    *other = old;
    return true;
}

uint64_t page_cache_budget(const PageCache *c)
{
    return data_size(c);
}

uint64_t page_cache_pages(const PageCache *c)
{
    return c->pages;
}

bool page_cache_full(const PageCache *c)
{
    return c->pages == c->slots;
}
