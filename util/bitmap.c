/*
 * Bitmaps; see include/util/bitmap.h.
 *
 * Words of 64 bits; the bits of the last word past the end are never set, so
 * that counting and searching for set bits need no special case.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/bitmap.h"

#include <stdlib.h>

Bitmap *bitmap_new(uint64_t size)
{
    uint64_t n_words = size / 64 + (size % 64 != 0);
    Bitmap *b;

    if (size > BITMAP_MAX) {
        return NULL;
    }
    b = g_new0(Bitmap, 1);
    b->size = size;
    /* calloc: a large one costs address space only until its bits are used. */
    b->words = calloc(MAX(n_words, 1), sizeof(uint64_t));
    if (!b->words) {
        g_free(b);
        return NULL;
    }
    return b;
}

void bitmap_free(Bitmap *b)
{
    if (b) {
        free(b->words);
        g_free(b);
    }
}

/* The bits of word @word that lie in [first, end). */
static uint64_t range_mask(uint64_t word, uint64_t first, uint64_t end)
{
    uint64_t mask = ~UINT64_C(0);

    if (word == first / 64) {
        mask &= ~UINT64_C(0) << (first % 64);
    }
    if (word == end / 64) {
        mask &= ~(~UINT64_C(0) << (end % 64));
    }
    return mask;
}

void bitmap_set_range(Bitmap *b, uint64_t first, uint64_t n)
{
    uint64_t end = first + n;

    for (uint64_t w = first / 64; w * 64 < end; w++) {
        b->words[w] |= range_mask(w, first, end);
    }
}

void bitmap_clear_range(Bitmap *b, uint64_t first, uint64_t n)
{
    uint64_t end = first + n;

    for (uint64_t w = first / 64; w * 64 < end; w++) {
        b->words[w] &= ~range_mask(w, first, end);
    }
}

bool bitmap_all_set(const Bitmap *b, uint64_t first, uint64_t n)
{
    uint64_t end = first + n;

    for (uint64_t w = first / 64; w * 64 < end; w++) {
        uint64_t mask = range_mask(w, first, end);

        if ((b->words[w] & mask) != mask) {
            return false;
        }
    }
    return true;
}

/* The first bit at or after @from that differs from those of @flip. */
static uint64_t next(const Bitmap *b, uint64_t from, uint64_t flip)
{
    while (from < b->size) {
        uint64_t rest = (b->words[from / 64] ^ flip) >> (from % 64);

        if (rest) {
            return MIN(from + __builtin_ctzll(rest), b->size);
        }
        from = (from / 64 + 1) * 64;
    }
    return b->size;
}

uint64_t bitmap_next_set(const Bitmap *b, uint64_t from)
{
    return next(b, from, 0);
}

uint64_t bitmap_next_clear(const Bitmap *b, uint64_t from)
{
    return next(b, from, ~UINT64_C(0));
}

uint64_t bitmap_count(const Bitmap *b)
{
    uint64_t n = 0;

    for (uint64_t w = 0; w * 64 < b->size; w++) {
        n += __builtin_popcountll(b->words[w]);
    }
    return n;
}
