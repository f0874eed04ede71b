/*
 * A running NBD server with two drives, "a" and "b", on images of their own; for
 * g_test_add.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_NBD_FIXTURE_H
#define TESTS_NBD_FIXTURE_H

#include "block/nbd-server.h"
#include "nbd-client.h"

#define MiB (1024U * 1024)
#define IMAGE_SIZE (8 * MiB)

typedef struct {
    char *dir, *socket;
    BlockContext *block;
    NbdServer *srv; /* a test may free it and put NULL here */
    BlockBackend *blk[2];
} NbdFixture;

/* @data: the number of workers, or NULL. */
void nbd_fixture_set_up(NbdFixture *f, gconstpointer data);
void nbd_fixture_tear_down(NbdFixture *f, gconstpointer data);
NbdClient *nbd_fixture_client(NbdFixture *f, const char *name, NbdClientMode mode);

/* Bytes that follow from @seed; none is zero. */
void nbd_fill(uint8_t *buf, size_t len, guint32 seed);

/* Until @cond, which is something that takes milliseconds. */
#define WAIT_UNTIL(cond)                                                        \
    do {                                                                        \
        gint64 until_ = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;           \
        while (!(cond)) {                                                       \
            g_assert_cmpint(g_get_monotonic_time(), <, until_);                 \
            g_usleep(1000);                                                     \
        }                                                                       \
    } while (0)

#define NBD_TEST(name, fn)                                                      \
    g_test_add("/nbd/" name, NbdFixture, NULL, nbd_fixture_set_up, fn,          \
               nbd_fixture_tear_down)
#define NBD_TEST_WORKERS(name, n, fn)                                           \
    g_test_add("/nbd/" name "/workers-" #n, NbdFixture, GUINT_TO_POINTER(n),    \
               nbd_fixture_set_up, fn, nbd_fixture_tear_down)

#endif
