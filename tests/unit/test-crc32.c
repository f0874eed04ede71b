/*
 * CRC-32: known values, and the fast variant against zlib.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/crc32.h"

#include <glib.h>
#include <zlib.h>

typedef uint32_t CrcFn(uint32_t crc, const void *buf, size_t len);
static CrcFn *const variants[] = { crc32_update, crc32_update_portable };

static void test_known_values(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(variants); i++) {
        g_assert_cmphex(variants[i](0, "123456789", 9), ==, 0xcbf43926);
        g_assert_cmphex(variants[i](0, "", 0), ==, 0);
        g_assert_cmphex(variants[i](0x12345678, NULL, 0), ==, 0x12345678);
    }
}

static void test_any_length_and_alignment(void)
{
    enum { SIZE = 70000 };
    g_autofree uint8_t *buf = g_malloc(SIZE);

    for (size_t i = 0; i < SIZE; i++) {
        buf[i] = g_test_rand_int();
    }
    for (size_t len = 0; len < 600; len++) {
        size_t at = len % 67;
        uint32_t want = crc32(0, buf + at, len);

        g_assert_cmphex(crc32_update(0, buf + at, len), ==, want);
        g_assert_cmphex(crc32_update_portable(0, buf + at, len), ==, want);
    }
    g_assert_cmphex(crc32_update(0, buf + 3, SIZE - 3), ==,
                    crc32(0, buf + 3, SIZE - 3));
}

static void test_pieces_give_the_whole(void)
{
    uint8_t buf[5000];

    for (size_t i = 0; i < sizeof(buf); i++) {
        buf[i] = g_test_rand_int();
    }
    for (size_t v = 0; v < G_N_ELEMENTS(variants); v++) {
        for (int round = 0; round < 100; round++) {
            uint32_t crc = 0;
            size_t done = 0;

            while (done < sizeof(buf)) {
                size_t n = g_test_rand_int_range(0, 900);

                n = MIN(n, sizeof(buf) - done);
                crc = variants[v](crc, buf + done, n);
                done += n;
            }
            g_assert_cmphex(crc, ==, crc32(0, buf, sizeof(buf)));
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/crc32/known-values", test_known_values);
    g_test_add_func("/crc32/any-length-and-alignment", test_any_length_and_alignment);
    g_test_add_func("/crc32/pieces-give-the-whole", test_pieces_give_the_whole);
    return g_test_run();
}
