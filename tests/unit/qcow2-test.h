/*
 * Help for the tests of the format qcow2: qemu-img as the judge.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_QCOW2_TEST_H
#define TESTS_QCOW2_TEST_H

#include "block-test.h"

/* A new image; @format as in `-o'. */
void qcow2_test_create(const char *path, const char *options, int64_t size);
/* qemu-img check: no errors; nor leaks, unless they are @leaks_allowed. */
void qcow2_test_check(const char *path, bool leaks_allowed);
bool qcow2_test_is_sound(const char *path); /* leaks allowed */
/* The whole image as @bs gives it is @expected. */
void qcow2_test_compare(BlockNode *bs, const uint8_t *expected, int64_t size);
/* …and as qemu-img reads it. */
void qcow2_test_compare_img(const char *path, const uint8_t *expected,
                            int64_t size);

static inline uint64_t qcow2_test_get64(const uint8_t *p)
{
    uint64_t v;

    __builtin_memcpy(&v, p, sizeof(v));
    return GUINT64_FROM_BE(v);
}

#endif
