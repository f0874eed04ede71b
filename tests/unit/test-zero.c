/*
 * Zero detection: both variants find a single set bit anywhere, at any
 * alignment, and never read past the end.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "util/zero.h"

typedef bool (*IsZero)(const void *buf, size_t len);

static void check_variant(IsZero is_zero)
{
    static uint8_t buf[1100];

    for (size_t len = 0; len <= 1024; len += len < 300 ? 1 : 31) {
        for (size_t at = 0; at < 40; at += len < 80 ? 1 : 7) {
            /* What is around it does not matter. */
            memset(buf, 0xff, sizeof(buf));
            memset(buf + at, 0, len);
            g_assert_true(is_zero(buf + at, len));
            for (size_t i = 0; i < len; i++) {
                buf[at + i] = 1 << (i % 8);
                g_assert_false(is_zero(buf + at, len));
                buf[at + i] = 0;
            }
        }
    }
}

/* The buffer ends where the mapped memory ends, and begins where it begins. */
static void check_edges(IsZero is_zero)
{
    const size_t page = 4096;
    uint8_t *map = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_true(map != MAP_FAILED);
    g_assert_cmpint(mprotect(map, page, PROT_NONE), ==, 0);
    g_assert_cmpint(mprotect(map + 2 * page, page, PROT_NONE), ==, 0);
    for (size_t len = 0; len <= page; len++) {
        g_assert_true(is_zero(map + page, len));
        g_assert_true(is_zero(map + 2 * page - len, len));
    }
    munmap(map, 3 * page);
}

static void test_portable(void)
{
    check_variant(buffer_is_zero_portable);
    check_edges(buffer_is_zero_portable);
}

static void test_avx2(void)
{
    if (!buffer_is_zero_have_avx2()) {
        g_test_skip("this CPU has no AVX2");
        return;
    }
    check_variant(buffer_is_zero_avx2);
    check_edges(buffer_is_zero_avx2);
}

static void test_chosen(void)
{
    check_variant(buffer_is_zero);
    check_edges(buffer_is_zero);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/zero/portable", test_portable);
    g_test_add_func("/zero/avx2", test_avx2);
    g_test_add_func("/zero/chosen", test_chosen);
    return g_test_run();
}
