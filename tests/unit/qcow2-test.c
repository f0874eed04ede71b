/*
 * Help for the tests of the format qcow2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2-test.h"

#include <glib/gstdio.h>

void qcow2_test_create(const char *path, const char *options, int64_t size)
{
    g_assert_true(block_test_run("qemu-img create -q -f qcow2 -o '%s' '%s' %"
                                 G_GINT64_FORMAT, options, path, size));
}

bool qcow2_test_is_sound(const char *path)
{
    /* Exit status 3: leaks and nothing else. */
    return block_test_run("qemu-img check -q -f qcow2 '%s'; s=$?; "
                          "test $s = 0 || test $s = 3", path);
}

void qcow2_test_check(const char *path, bool leaks_allowed)
{
    if (leaks_allowed ? qcow2_test_is_sound(path)
                      : block_test_run("qemu-img check -q -f qcow2 '%s'", path)) {
        return;
    }
    g_test_message("qemu-img check does not like %s", path);
    g_spawn_command_line_sync(g_strdup_printf("qemu-img check -f qcow2 '%s'",
                                              path), NULL, NULL, NULL, NULL);
    g_test_fail();
    g_abort();
}

void qcow2_test_compare(BlockNode *bs, const uint8_t *expected, int64_t size)
{
    g_autofree uint8_t *buf = g_malloc(size);

    g_assert_cmpint(bdrv_length(bs), ==, size);
    g_assert_cmpint(bdrv_pread(bs, 0, size, buf), ==, 0);
    for (int64_t i = 0; i < size; i++) {
        if (buf[i] != expected[i]) {
            g_test_message("first difference at %#" G_GINT64_MODIFIER "x", i);
            g_assert_cmphex(buf[i], ==, expected[i]);
        }
    }
}

void qcow2_test_compare_img(const char *path, const uint8_t *expected,
                            int64_t size)
{
    g_autofree char *raw = g_strdup_printf("%s.expected", path);
    GError *err = NULL;

    g_unlink(raw);
    g_file_set_contents_full(raw, (const char *)expected, size,
                             G_FILE_SET_CONTENTS_NONE, 0600, &err);
    g_assert_no_error(err);
    g_test_message("%s", path);
    g_assert_true(block_test_run("qemu-img compare -q -f qcow2 -F raw '%s' '%s'",
                                 path, raw));
    g_unlink(raw);
}
