/*
 * What was last sent of each page: the cache that XBZRLE encodes against.
 *
 * A true LRU with a byte budget.  Pages are found by a 64-bit key (block and
 * offset, as the user of the cache likes) through a hash table that never
 * fills beyond one half; the order of use is a doubly linked list of slot
 * numbers.  Data lies in one lazily touched mapping, so an unused budget costs
 * address space only.
 *
 * Not thread-safe: the migration thread owns a cache.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_MIGRATION_PAGE_CACHE_H
#define SIDECAR_MIGRATION_PAGE_CACHE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct PageCache PageCache;

/* @budget: bytes of page data, at least one page, less than 2^31 pages;
 * rounded down to whole pages.  @page_size: a power of two. */
PageCache *page_cache_new(uint64_t budget, uint32_t page_size, GError **errp);
void page_cache_free(PageCache *cache);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PageCache, page_cache_free)

/* The page under @key, now the most recently used one; or NULL.  Valid until
 * the next insert, remove or resize; the caller may change its bytes. */
uint8_t *page_cache_lookup(PageCache *cache, uint64_t key);

/* Room for the page under @key, as the most recently used one: its present
 * data if it was there, else that of the least recently used page, which is
 * forgotten, or a free slot.  The caller fills it. */
uint8_t *page_cache_insert(PageCache *cache, uint64_t key);

void page_cache_remove(PageCache *cache, uint64_t key);
void page_cache_clear(PageCache *cache);

/* A new budget; the most recently used pages stay.  On failure nothing has
 * changed. */
bool page_cache_resize(PageCache *cache, uint64_t budget, GError **errp);

uint64_t page_cache_budget(const PageCache *cache); /* bytes, whole pages */
uint64_t page_cache_pages(const PageCache *cache);  /* pages held now */
bool page_cache_full(const PageCache *cache); /* an insert would forget a page */

#endif
