/*
 * Bitmaps: single bits, ranges, searching, ends, and many threads at once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/bitmap.h"

static void test_single_bits(void)
{
    g_autoptr(Bitmap) b = bitmap_new(130);

    g_assert_false(bitmap_test_and_set(b, 129));
    g_assert_true(bitmap_test_and_set(b, 129));
    g_assert_true(bitmap_test(b, 129));
    g_assert_false(bitmap_test(b, 128));
    g_assert_true(bitmap_test_and_clear(b, 129));
    g_assert_false(bitmap_test_and_clear(b, 129));
    g_assert_cmpuint(bitmap_count(b), ==, 0);
}

static void test_search_at_the_ends(void)
{
    for (uint64_t size = 0; size <= 200; size++) {
        g_autoptr(Bitmap) b = bitmap_new(size);

        g_assert_cmpuint(bitmap_next_set(b, 0), ==, size);
        g_assert_cmpuint(bitmap_next_clear(b, 0), ==, 0);
        bitmap_set_range(b, 0, size);
        g_assert_cmpuint(bitmap_count(b), ==, size);
        g_assert_cmpuint(bitmap_next_clear(b, 0), ==, size);
        g_assert_cmpuint(bitmap_next_set(b, size + 77), ==, size);
        if (size) {
            g_assert_cmpuint(bitmap_next_set(b, size - 1), ==, size - 1);
            bitmap_clear(b, size - 1);
            g_assert_cmpuint(bitmap_next_clear(b, 0), ==, size - 1);
        }
    }
}

/* Every range of a small bitmap against an array of bools. */
static void test_ranges_against_a_model(void)
{
    enum { SIZE = 140 };

    for (int first = 0; first <= SIZE; first++) {
        for (int n = 0; first + n <= SIZE; n++) {
            g_autoptr(Bitmap) b = bitmap_new(SIZE);

            bitmap_set_range(b, first, n);
            g_assert_cmpuint(bitmap_count(b), ==, n);
            g_assert_true(bitmap_all_set(b, first, n));
            g_assert_cmpuint(bitmap_next_set(b, 0), ==, n ? first : SIZE);
            g_assert_cmpuint(bitmap_next_clear(b, first), ==, first + n);
            if (first + n < SIZE) {
                g_assert_false(bitmap_all_set(b, first, n + 1));
            }
            bitmap_set_range(b, 0, SIZE);
            bitmap_clear_range(b, first, n);
            g_assert_cmpuint(bitmap_count(b), ==, SIZE - n);
            g_assert_cmpuint(bitmap_next_clear(b, 0), ==, n ? first : SIZE);
        }
    }
}

static void test_impossible_size(void)
{
    g_assert_null(bitmap_new(UINT64_MAX));
    g_assert_null(bitmap_new(BITMAP_MAX + 1));
}

enum { BITS = 20000, THREADS = 4 };

static gpointer claim_bits(gpointer opaque)
{
    Bitmap *b = opaque;
    uintptr_t won = 0;

    for (int i = 0; i < BITS; i++) {
        won += !bitmap_test_and_set(b, i);
    }
    return (gpointer)won;
}

static void test_each_bit_has_one_winner(void)
{
    g_autoptr(Bitmap) b = bitmap_new(BITS);
    GThread *threads[THREADS];
    uintptr_t won = 0;

    for (int i = 0; i < THREADS; i++) {
        threads[i] = g_thread_new("claim", claim_bits, b);
    }
    for (int i = 0; i < THREADS; i++) {
        won += (uintptr_t)g_thread_join(threads[i]);
    }
    g_assert_cmpuint(won, ==, BITS);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bitmap/single-bits", test_single_bits);
    g_test_add_func("/bitmap/search-at-the-ends", test_search_at_the_ends);
    g_test_add_func("/bitmap/ranges-against-a-model", test_ranges_against_a_model);
    g_test_add_func("/bitmap/impossible-size", test_impossible_size);
    g_test_add_func("/bitmap/each-bit-has-one-winner", test_each_bit_has_one_winner);
    return g_test_run();
}
