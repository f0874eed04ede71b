/*
 * A bitmap of fixed size that any number of threads may use at once.
 *
 * Every operation on a bit is atomic and sequentially consistent: who sees a
 * bit set also sees what was written before it was set.  Operations on ranges
 * are atomic bit by bit, not as a whole.  Bits past the end do not exist: they
 * are never looked at and never reported.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_UTIL_BITMAP_H
#define SIDECAR_UTIL_BITMAP_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Bitmap {
    uint64_t size;            /* bits */
    _Atomic uint64_t *words;
} Bitmap;

#define BITMAP_MAX (UINT64_C(1) << 40) /* 64 PiB in clusters of 64 KiB */

/* All bits clear.  NULL if @size is more than BITMAP_MAX or there is no memory
 * for it (a size that came from outside is thus an error, not an abort).
 * @size may be 0. */
Bitmap *bitmap_new(uint64_t size);
void bitmap_free(Bitmap *b); /* NULL allowed */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Bitmap, bitmap_free)

/* @bit < size. */
static inline bool bitmap_test(const Bitmap *b, uint64_t bit)
{
    return b->words[bit / 64] >> (bit % 64) & 1;
}

/* What the bit was before. */
static inline bool bitmap_test_and_set(Bitmap *b, uint64_t bit)
{
    uint64_t mask = UINT64_C(1) << (bit % 64);

    return atomic_fetch_or(&b->words[bit / 64], mask) & mask;
}

static inline bool bitmap_test_and_clear(Bitmap *b, uint64_t bit)
{
    uint64_t mask = UINT64_C(1) << (bit % 64);

    return atomic_fetch_and(&b->words[bit / 64], ~mask) & mask;
}

static inline void bitmap_set(Bitmap *b, uint64_t bit)
{
    bitmap_test_and_set(b, bit);
}

static inline void bitmap_clear(Bitmap *b, uint64_t bit)
{
    bitmap_test_and_clear(b, bit);
}

/* [first, first + n) is inside the bitmap; n may be 0. */
void bitmap_set_range(Bitmap *b, uint64_t first, uint64_t n);
void bitmap_clear_range(Bitmap *b, uint64_t first, uint64_t n);
bool bitmap_all_set(const Bitmap *b, uint64_t first, uint64_t n);

/* The first set (clear) bit at or after @from, or the size if there is none;
 * @from may be past the end. */
uint64_t bitmap_next_set(const Bitmap *b, uint64_t from);
uint64_t bitmap_next_clear(const Bitmap *b, uint64_t from);

uint64_t bitmap_count(const Bitmap *b); /* how many are set */

#endif
