/*
 * Bulk reads: every request comes back once, with its own bytes or its own
 * error, whatever mixture of files it goes to.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block-test.h"

#define SIZE (3 * 1024 * 1024 + 700)
#define DEPTH 16
#define PIECE 65536

static const int kinds[] = {
    0,
    BDRV_O_NOCACHE,
    BDRV_O_NOCACHE | BDRV_O_NATIVE_AIO,
};

typedef struct {
    char *dir;
    BlockNode *bs[G_N_ELEMENTS(kinds)];
    unsigned n;
    uint8_t *data;   /* SIZE bytes: what is in every file */
    uint8_t *buffers; /* DEPTH × 2 × PIECE, aligned to 4096 */
} Fixture;

static void set_up(Fixture *f)
{
    f->dir = block_test_dir_new();
    f->n = block_test_have_direct(f->dir) ? G_N_ELEMENTS(kinds) : 1;
    f->data = g_malloc(SIZE);
    block_test_fill(f->data, SIZE, 5);
    g_assert_cmpint(posix_memalign((void **)&f->buffers, 4096, DEPTH * 2 * PIECE),
                    ==, 0);
    for (unsigned i = 0; i < f->n; i++) {
        g_autofree char *name = g_strdup_printf("%u.raw", i);
        g_autofree char *path = block_test_path(f->dir, name);

        block_test_file_new(path, SIZE, 5);
        f->bs[i] = block_test_open(path, "raw", BDRV_O_RDWR | kinds[i]);
    }
}

static void tear_down(Fixture *f)
{
    for (unsigned i = 0; i < f->n; i++) {
        bdrv_unref(f->bs[i]);
    }
    g_free(f->data);
    free(f->buffers);
    block_test_dir_remove(f->dir);
}

typedef struct {
    uint8_t *buf;
    int64_t offset, bytes;
    bool in_flight;
} Slot;

static void check_one(Fixture *f, BdrvBulk *q)
{
    void *opaque = NULL;
    int ret = bdrv_bulk_wait(q, &opaque);
    Slot *slot = opaque;

    g_assert_nonnull(slot);
    g_assert_true(slot->in_flight);
    slot->in_flight = false;
    if (slot->offset + slot->bytes > SIZE) {
        g_assert_cmpint(ret, ==, -EINVAL);
    } else {
        g_assert_cmpint(ret, ==, 0);
        g_assert_true(memcmp(slot->buf, f->data + slot->offset, slot->bytes) == 0);
    }
}

static Slot *free_slot(Slot *slots)
{
    for (unsigned i = 0; i < DEPTH; i++) {
        if (!slots[i].in_flight) {
            return &slots[i];
        }
    }
    return NULL;
}

static void fill_slot(Slot *s, uint8_t *buffer)
{
    bool odd = g_test_rand_int_range(0, 4) == 0;

    s->offset = g_test_rand_int_range(0, SIZE / PIECE + 1) * PIECE +
                (odd ? g_test_rand_int_range(0, 5000) : 0);
    s->bytes = PIECE;
    if (g_test_rand_int_range(0, 10) && s->offset + s->bytes > SIZE) {
        s->bytes = MAX(SIZE - s->offset, 0);
    }
    s->buf = buffer + (g_test_rand_int_range(0, 4) ? 0 : 3);
    s->in_flight = true;
}

static void test_mixture(void)
{
    Fixture f;
    Slot slots[DEPTH] = { 0 };
    BdrvBulk *q;
    Slot *s;

    set_up(&f);
    q = bdrv_bulk_new(DEPTH, NULL);
    for (unsigned i = 0; i < 2000; i++) {
        if ((s = free_slot(slots)) && g_test_rand_int_range(0, 10)) {
            fill_slot(s, f.buffers + (s - slots) * 2 * PIECE);
            bdrv_bulk_read(q, f.bs[i % f.n], s->offset, s->bytes, s->buf, s);
        } else if (bdrv_bulk_in_flight(q)) {
            check_one(&f, q);
        }
    }
    while (bdrv_bulk_in_flight(q)) {
        check_one(&f, q);
    }
    for (unsigned i = 0; i < DEPTH; i++) {
        g_assert_false(slots[i].in_flight);
    }
    bdrv_bulk_free(q);
    tear_down(&f);
}

/* Freed with reads in flight: it waits for them, as ASan would tell. */
static void test_free_early(void)
{
    Fixture f;

    set_up(&f);
    for (unsigned i = 0; i < f.n; i++) {
        BdrvBulk *q = bdrv_bulk_new(DEPTH, NULL);

        for (unsigned k = 0; k < DEPTH; k++) {
            bdrv_bulk_read(q, f.bs[i], k * PIECE, PIECE, f.buffers + k * PIECE,
                           NULL);
        }
        g_assert_cmpint(bdrv_bulk_in_flight(q), ==, DEPTH);
        bdrv_bulk_free(q);
    }
    bdrv_bulk_free(NULL);
    tear_down(&f);
}

static void test_errors(void)
{
    Fixture f;
    g_autofree char *path = NULL, *name = NULL;
    g_autoptr(BlockNode) bad = NULL;
    GError *err = NULL;
    BdrvBulk *q;
    void *opaque;
    int tag[2];

    g_assert_null(bdrv_bulk_new(0, &err));
    g_clear_error(&err);
    g_assert_null(bdrv_bulk_new(257, &err));
    g_clear_error(&err);

    set_up(&f);
    path = block_test_path(f.dir, "bad.raw");
    block_test_file_new(path, SIZE, 5);
    name = g_strconcat("fault:read#1=EIO:", path, NULL);
    bad = block_test_open(name, "raw", 0);
    q = bdrv_bulk_new(256, NULL);
    bdrv_bulk_read(q, bad, 0, PIECE, f.buffers, &tag[0]);
    bdrv_bulk_read(q, bad, PIECE, PIECE, f.buffers + PIECE, &tag[1]);
    g_assert_cmpint(bdrv_bulk_wait(q, &opaque), ==, -EIO);
    g_assert_true(opaque == &tag[0]);
    g_assert_cmpint(bdrv_bulk_wait(q, &opaque), ==, 0);
    g_assert_true(opaque == &tag[1]);
    bdrv_bulk_free(q);
    tear_down(&f);
}

/* The file became shorter: an error, for direct files too. */
static void test_shrunk(void)
{
    Fixture f;
    BdrvBulk *q;
    void *opaque;

    set_up(&f);
    q = bdrv_bulk_new(4, NULL);
    for (unsigned i = 0; i < f.n; i++) {
        g_assert_cmpint(truncate(bdrv_filename(f.bs[i]), PIECE + 5000), ==, 0);
        bdrv_bulk_read(q, f.bs[i], PIECE, PIECE, f.buffers, NULL);
        g_assert_cmpint(bdrv_bulk_wait(q, &opaque), ==, -EIO);
    }
    bdrv_bulk_free(q);
    tear_down(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bulk/mixture", test_mixture);
    g_test_add_func("/bulk/free-early", test_free_early);
    g_test_add_func("/bulk/errors", test_errors);
    g_test_add_func("/bulk/shrunk", test_shrunk);
    return g_test_run();
}
