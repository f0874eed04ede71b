/*
 * Help for the tests of the block layer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-test.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

char *block_test_dir_new(void)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *parent = g_path_get_dirname(self);
    char *dir = g_build_filename(parent, "tmp-XXXXXX", NULL);

    g_assert_nonnull(g_mkdtemp(dir));
    return dir;
}

void block_test_dir_remove(char *dir)
{
    GDir *d = g_dir_open(dir, 0, NULL);
    const char *name;

    while (d && (name = g_dir_read_name(d))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);

        g_unlink(path);
    }
    g_clear_pointer(&d, g_dir_close);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
    g_free(dir);
}

char *block_test_path(const char *dir, const char *name)
{
    return g_build_filename(dir, name, NULL);
}

void block_test_fill(void *buf, size_t len, uint32_t seed)
{
    uint8_t *p = buf;

    for (size_t i = 0; i < len; i++) {
        seed = seed * 1664525 + 1013904223;
        p[i] = seed >> 24;
    }
}

void block_test_file_new(const char *path, int64_t size, uint32_t seed)
{
    g_autofree char *buf = g_malloc(size + 1);
    GError *err = NULL;

    block_test_fill(buf, size, seed);
    /* Not g_file_set_contents: it would wait for the disk.  This one does not
     * cut off what a longer file had. */
    g_unlink(path);
    g_file_set_contents_full(path, buf, size, G_FILE_SET_CONTENTS_NONE, 0644,
                             &err);
    g_assert_no_error(err);
}

bool block_test_have_direct(const char *dir)
{
    g_autofree char *path = block_test_path(dir, "direct");
    int fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);

    g_unlink(path);
    return fd >= 0 && close(fd) == 0;
}

BlockNode *block_test_open(const char *filename, const char *format, int flags)
{
    GError *err = NULL;
    BlockNode *bs = bdrv_open(filename, format, flags, &err);

    g_assert_no_error(err);
    g_assert_nonnull(bs);
    return bs;
}

bool block_test_run(const char *fmt, ...)
{
    g_autofree char *command = NULL;
    const char *argv[] = { "/bin/sh", "-c", NULL, NULL };
    int status = -1;
    va_list ap;

    va_start(ap, fmt);
    command = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    argv[2] = command;
    return g_spawn_sync(NULL, (char **)argv, NULL,
                        G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL,
                        NULL, NULL, NULL, NULL, &status, NULL) &&
           g_spawn_check_wait_status(status, NULL);
}
