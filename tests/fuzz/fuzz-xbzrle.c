/*
 * The XBZRLE decoder with any bytes: it stays within its buffers, leaves the page as
 * it was if it refuses, and what it accepts our encoder can say too.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fuzz.h"

#include "migration/xbzrle.h"

#define PAGE 4096

/* Buffers of their own, so that a sanitizer sees one byte too many. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree uint8_t *src = g_memdup2(data, size);
    g_autofree uint8_t *page = g_malloc(PAGE);
    g_autofree uint8_t *before = g_malloc(PAGE);
    g_autofree uint8_t *encoded = g_malloc(PAGE);
    int n;

    for (size_t i = 0; i < PAGE; i++) {
        page[i] = before[i] = (uint8_t)(i * 7 + size);
    }
    n = xbzrle_decode(src, size, page, PAGE);
    if (n < 0) {
        g_assert_cmpmem(page, PAGE, before, PAGE);
        return 0;
    }
    g_assert_cmpint(n, <=, PAGE);
    g_assert_cmpmem(page + n, PAGE - n, before + n, PAGE - n);
    n = xbzrle_encode(before, page, PAGE, encoded, PAGE);
    if (n > 0) {
        g_assert_cmpint(xbzrle_decode(encoded, (size_t)n, before, PAGE), >=, 0);
    }
    if (n >= 0) {
        g_assert_cmpmem(page, PAGE, before, PAGE);
    }
    return 0;
}

static void add_seed(GPtrArray *seeds, unsigned distance, unsigned length)
{
    uint8_t old[PAGE] = { 0 }, changed[PAGE] = { 0 }, encoded[PAGE];
    int n;

    for (size_t i = 0; i < PAGE; i += distance) {
        memset(changed + i, 0x5a, MIN(length, PAGE - i));
    }
    n = xbzrle_encode(old, changed, PAGE, encoded, PAGE);
    if (n > 0) {
        g_ptr_array_add(seeds, g_byte_array_append(g_byte_array_new(), encoded, (guint)n));
    }
}

GPtrArray *fuzz_seeds(void)
{
    GPtrArray *seeds = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);

    add_seed(seeds, 1111, 12);
    add_seed(seeds, 256, 8);
    add_seed(seeds, 64, 1);
    add_seed(seeds, PAGE, PAGE);
    add_seed(seeds, 2 * PAGE, 1);
    return seeds;
}
