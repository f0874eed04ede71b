/*
 * The block layer: nodes and drives.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "block/block.h"
#include "util/error.h"

static void test_raw_round_trip(void)
{
    g_autofree char *dir = g_dir_make_tmp("test-block-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "a.raw", NULL);
    g_autoptr(BlockNode) bs = NULL;
    GError *err = NULL;
    char buf[1000], back[1000];
    int64_t n;

    g_assert_true(bdrv_create(path, "raw", 1000001, NULL, NULL, &err));
    g_assert_no_error(err);
    g_assert_false(bdrv_create(path, "raw", 1, NULL, NULL, &err));
    g_clear_error(&err);
    bs = bdrv_open(path, NULL, BDRV_O_RDWR | BDRV_O_UNMAP, &err);
    g_assert_no_error(err);
    g_assert_cmpstr(bdrv_format_name(bs), ==, "raw");
    g_assert_cmpint(bdrv_length(bs), ==, 1000001);
    memset(buf, 'x', sizeof(buf));
    g_assert_cmpint(bdrv_pwrite(bs, 999001, 1000, buf, BDRV_REQ_FUA), ==, 0);
    g_assert_cmpint(bdrv_pwrite(bs, 999002, 1000, buf, 0), ==, -ENOSPC);
    g_assert_cmpint(bdrv_pread(bs, 999001, 1000, back), ==, 0);
    g_assert_cmpmem(buf, 1000, back, 1000);
    g_assert_cmpint(bdrv_pwrite_zeroes(bs, 999001, 10, 0), ==, 0);
    g_assert_cmpint(bdrv_pread(bs, 999001, 1000, back), ==, 0);
    g_assert_cmpint(back[9], ==, 0);
    g_assert_cmpint(back[10], ==, 'x');
    g_assert_cmpint(bdrv_pdiscard(bs, 0, 1000001), ==, 0);
    g_assert_cmpint(bdrv_block_status(bs, 0, 1000001, &n), ==,
                    BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED);
    g_assert_cmpint(n, >=, 999424);
    g_assert_cmpint(bdrv_flush(bs), ==, 0);
    g_unlink(path);
    g_rmdir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/raw/round-trip", test_raw_round_trip);
    return g_test_run();
}
