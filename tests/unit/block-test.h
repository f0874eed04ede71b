/*
 * Help for the tests of the block layer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_BLOCK_TEST_H
#define TESTS_BLOCK_TEST_H

#include "block/block.h"

/*
 * A new directory beside the test program (the build directory is on a real
 * file system more likely than /tmp), removed with what is in it by
 * block_test_dir_remove.
 */
char *block_test_dir_new(void);
void block_test_dir_remove(char *dir); /* frees @dir too */

/* DIR/NAME, freed with the test's process at the latest. */
char *block_test_path(const char *dir, const char *name);
/* A file of @size pseudo-random bytes. */
void block_test_file_new(const char *path, int64_t size, uint32_t seed);
void block_test_fill(void *buf, size_t len, uint32_t seed);
/* Can files in @dir be opened with O_DIRECT? */
bool block_test_have_direct(const char *dir);

/* bdrv_open that must succeed. */
BlockNode *block_test_open(const char *filename, const char *format, int flags);

/* Run @command (shell); true if it exits with 0.  Its output goes nowhere. */
bool block_test_run(const char *fmt, ...) G_GNUC_PRINTF(1, 2);

#endif
