/*
 * Writing qcow2 images: random operations against a shadow buffer, many threads,
 * with qemu-img as the judge.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../block/qcow2.h"
#include "qcow2-test.h"

#define FLAGS (BDRV_O_RDWR | BDRV_O_UNMAP)

static char *dir;
static unsigned rounds;

static char *path(const char *name)
{
    return block_test_path(dir, name);
}

typedef struct {
    BlockNode *bs;
    uint8_t *shadow;
    int64_t size;
    GRand *rand;
} Disk;

static void random_range(Disk *d, int64_t max, int64_t *offset, int64_t *bytes)
{
    *offset = g_rand_int_range(d->rand, 0, d->size);
    *bytes = g_rand_int_range(d->rand, 1, MIN(max, d->size - *offset) + 1);
    if (g_rand_boolean(d->rand)) { /* aligned as a guest's are */
        *offset &= ~INT64_C(4095);
        *bytes = MIN((*bytes + 4095) & ~INT64_C(4095), d->size - *offset);
    }
}

static void do_write(Disk *d, int64_t offset, int64_t bytes)
{
    block_test_fill(d->shadow + offset, bytes, g_rand_int(d->rand));
    g_assert_cmpint(bdrv_pwrite(d->bs, offset, bytes, d->shadow + offset, 0), ==, 0);
}

static void do_read(Disk *d, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    g_assert_cmpint(bdrv_pread(d->bs, offset, bytes, buf), ==, 0);
    g_assert_cmpint(memcmp(buf, d->shadow + offset, bytes), ==, 0);
}

static void do_zero(Disk *d, int64_t offset, int64_t bytes)
{
    int flags = g_rand_boolean(d->rand) ? BDRV_REQ_MAY_UNMAP : 0;

    memset(d->shadow + offset, 0, bytes);
    g_assert_cmpint(bdrv_pwrite_zeroes(d->bs, offset, bytes, flags), ==, 0);
}

/* What a discard leaves is old data or zeros: see which, cluster by cluster. */
static void do_discard(Disk *d, int64_t offset, int64_t bytes)
{
    g_assert_cmpint(bdrv_pdiscard(d->bs, offset, bytes), ==, 0);
    for (int64_t pos = offset; pos < offset + bytes; pos += 512) {
        int64_t n = MIN(512, offset + bytes - pos);
        uint8_t buf[512];

        g_assert_cmpint(bdrv_pread(d->bs, pos, n, buf), ==, 0);
        if (memcmp(buf, d->shadow + pos, n) != 0) {
            for (int64_t i = 0; i < n; i++) {
                g_assert_true(buf[i] == 0 || buf[i] == d->shadow[pos + i]);
            }
            memcpy(d->shadow + pos, buf, n);
        }
    }
}

/* How the image is opened: cache modes, and a disk with large blocks below. */
typedef struct {
    const char *name;
    int flags;
    const char *protocol;
} Mode;

static const Mode cached = { "cached", 0, "" };
static const Mode *mode = &cached;

static BlockNode *open_image(const char *img)
{
    g_autofree char *name = g_strconcat(mode->protocol, img, NULL);

    return block_test_open(name, "qcow2", FLAGS | mode->flags);
}

static void reopen(Disk *d, const char *img)
{
    bdrv_unref(d->bs);
    qcow2_test_check(img, false);
    d->bs = open_image(img);
}

static void one_operation(Disk *d, const char *img)
{
    int64_t offset, bytes;
    unsigned what = g_rand_int_range(d->rand, 0, 100);

    random_range(d, what % 7 == 0 ? 1 << 20 : 40000, &offset, &bytes);
    if (what < 45) {
        do_write(d, offset, bytes);
    } else if (what < 75) {
        do_read(d, offset, bytes);
    } else if (what < 85) {
        do_zero(d, offset, bytes);
    } else if (what < 93) {
        do_discard(d, offset, bytes);
    } else if (what < 99) {
        g_assert_cmpint(bdrv_flush(d->bs), ==, 0);
    } else if (g_rand_int_range(d->rand, 0, 4) == 0) {
        reopen(d, img);
    }
}

/* @shadow is what the image has now; taken over. */
static void random_operations(const char *img, uint8_t *shadow, int64_t size,
                              unsigned n)
{
    Disk d = { open_image(img), shadow, size,
               g_rand_new_with_seed(g_test_rand_int()) };

    while (n-- > 0) {
        one_operation(&d, img);
    }
    qcow2_test_compare(d.bs, shadow, size);
    bdrv_unref(d.bs);
    qcow2_test_check(img, false);
    qcow2_test_compare_img(img, shadow, size);
    g_rand_free(d.rand);
    g_free(shadow);
}

static void run_random(const char *options, int64_t size, unsigned n)
{
    g_autofree char *img = path("random.qcow2");

    g_test_message("%s, %" G_GINT64_FORMAT " bytes", options, size);
    qcow2_test_create(img, options, size);
    random_operations(img, g_malloc0(size), size, n);
    g_unlink(img);
}

static void test_random(void)
{
    static const char *const options[] = {
        "cluster_size=512",
        "cluster_size=512,refcount_bits=64",
        "cluster_size=1k,refcount_bits=1",
        "cluster_size=4k,compat=0.10",
        "cluster_size=4k,refcount_bits=2",
        "cluster_size=64k",
        "cluster_size=64k,compat=0.10",
        "cluster_size=64k,refcount_bits=8,lazy_refcounts=on",
        "cluster_size=2M",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        run_random(options[i], (2 << 20) + 512 * 3, rounds);
    }
}

/* The table of refcount blocks must grow. */
static void test_reftable_growth(void)
{
    run_random("cluster_size=512,refcount_bits=64", 12 << 20, rounds);
}

static void run_backing(const char *options, int64_t size, int64_t below)
{
    g_autofree char *raw = path("base.raw"), *img = path("top.qcow2");
    uint8_t *shadow = g_malloc0(size);

    block_test_file_new(raw, below, 5);
    block_test_fill(shadow, below, 5);
    g_test_message("%s", options);
    g_assert_true(block_test_run("qemu-img create -q -f qcow2 -b base.raw -F raw "
                                 "-o '%s' '%s' %" G_GINT64_FORMAT, options, img, size));
    random_operations(img, shadow, size, rounds);
    g_unlink(img);
    g_unlink(raw);
}

static void test_random_backing(void)
{
    static const char *const options[] = {
        "cluster_size=512", "cluster_size=4k,compat=0.10", "cluster_size=64k",
        "cluster_size=2M",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        run_backing(options[i], (2 << 20) + 512, (1 << 20) + 1024);
    }
}

/* An image that qemu-img filled with compressed clusters. */
static void test_random_compressed(void)
{
    int64_t size = 2 << 20;
    g_autofree char *raw = path("c.raw"), *img = path("c.qcow2");
    uint8_t *shadow = g_malloc0(size);

    block_test_fill(shadow, size, 6);
    for (int64_t i = 0; i < size; i += 2) {
        shadow[i] = 'x';
    }
    g_assert_true(g_file_set_contents_full(raw, (char *)shadow, size, 0, 0600, NULL));
    g_assert_true(block_test_run("qemu-img convert -q -c -f raw -O qcow2 '%s' '%s'",
                                 raw, img));
    random_operations(img, shadow, size, rounds);
}

/* Snapshots keep what they have while the image is written. */
static void test_random_snapshots(void)
{
    int64_t size = 2 << 20;
    g_autofree char *img = path("s.qcow2"), *old = path("old.raw");

    for (unsigned k = 0; k < 2; k++) {
        uint8_t *shadow = g_malloc0(size);

        qcow2_test_create(img, k ? "cluster_size=1k" : "cluster_size=64k", size);
        memset(shadow, 9, size / 2);
        g_assert_true(block_test_run("qemu-io -f qcow2 -c 'write -P 9 0 1M' '%s' && "
                                     "qemu-img snapshot -c one '%s' && "
                                     "qemu-img convert -f qcow2 -O raw '%s' '%s'",
                                     img, img, img, old));
        random_operations(img, shadow, size, rounds);
        g_assert_true(block_test_run("qemu-img snapshot -a one '%s' && "
                                     "qemu-img compare -f qcow2 -F raw '%s' '%s' && "
                                     "qemu-img check -f qcow2 '%s'", img, img, old,
                                     img));
        g_unlink(img);
        g_unlink(old);
    }
}

/* ---- past the page cache --------------------------------------------------------- */

static const Mode direct_modes[] = {
    { "direct", BDRV_O_NOCACHE, "" },
    { "native", BDRV_O_NOCACHE | BDRV_O_NATIVE_AIO, "" },
    { "directsync", BDRV_O_NOCACHE | BDRV_O_WRITETHROUGH, "" },
    { "native-blocks-of-4096", BDRV_O_NOCACHE | BDRV_O_NATIVE_AIO,
      "fault:align=4096:" },
};

/* Sizes that are no multiple of any block, clusters smaller than one. */
static void test_direct(gconstpointer data)
{
    unsigned saved = rounds;

    if (!block_test_have_direct(dir)) {
        g_test_skip("no O_DIRECT on the file system of the build directory");
        return;
    }
    mode = data;
    rounds = rounds / (mode->flags & BDRV_O_WRITETHROUGH ? 12 : 3); /* it takes time */
    run_random("cluster_size=512", (1 << 20) + 512 * 3, rounds);
    run_random("cluster_size=1k,refcount_bits=1", (1 << 20) + 512, rounds);
    run_random("cluster_size=64k", (2 << 20) + 512 * 7, rounds);
    run_random("cluster_size=64k,compat=0.10", (2 << 20) - 512, rounds);
    run_backing("cluster_size=64k", (2 << 20) + 512, 1234567);
    run_backing("cluster_size=512", (1 << 20) + 512, 123457);
    test_random_compressed();
    rounds = saved;
    mode = &cached;
}

/* ---- the header ------------------------------------------------------------------ */

static void grow_to(BlockNode *bs, int64_t size)
{
    GError *err = NULL;

    bdrv_truncate(bs, size, &err);
    g_assert_no_error(err);
    g_assert_cmpint(bdrv_length(bs), ==, size);
}

/* @shadow has room for both sizes. */
static void run_resize(const char *options, int64_t from, int64_t to)
{
    g_autofree char *img = path("resize.qcow2"), *raw = path("resize.raw");
    g_autofree uint8_t *shadow = g_malloc0(MAX(from, to) + (1 << 20));
    BlockNode *bs;

    g_test_message("%s %" G_GINT64_FORMAT " %" G_GINT64_FORMAT, options, from, to);
    block_test_file_new(raw, from + (1 << 20), 5); /* longer than the image */
    block_test_fill(shadow, from, 5);
    g_assert_true(block_test_run("qemu-img create -q -f qcow2 -b resize.raw -F raw "
                                 "-o '%s' '%s' %" G_GINT64_FORMAT, options, img, from));
    bs = block_test_open(img, "qcow2", FLAGS);
    memset(shadow + from - 1000, 7, 1000);
    g_assert_cmpint(bdrv_pwrite(bs, from - 1000, 1000, shadow + from - 1000, 0), ==, 0);
    if (to < from) { /* nothing of this comes back */
        grow_to(bs, to);
        grow_to(bs, from);
        memset(shadow + to, 0, from - to);
    } else {
        memset(shadow + from, 0, to - from);
        grow_to(bs, to);
        memset(shadow + to - 1000, 8, 1000);
        g_assert_cmpint(bdrv_pwrite(bs, to - 1000, 1000, shadow + to - 1000, 0), ==, 0);
    }
    qcow2_test_compare(bs, shadow, MAX(from, to));
    bdrv_unref(bs);
    qcow2_test_check(img, false);
    qcow2_test_compare_img(img, shadow, MAX(from, to));
    g_unlink(img);
    g_unlink(raw);
}

static void test_resize(void)
{
    run_resize("cluster_size=64k", 1 << 20, 2 << 20);
    run_resize("cluster_size=64k", (1 << 20) + 512, 3 << 20);
    run_resize("cluster_size=64k", 3 << 20, (1 << 20) + 1024);
    run_resize("cluster_size=512", 1 << 20, 5 << 20); /* a larger L1 table */
    run_resize("cluster_size=512", 5 << 20, 1 << 20);
    run_resize("cluster_size=4k,compat=0.10", (1 << 20) + 512, 8 << 20);
}

static void check_info(const char *img, const char *what, const char *value)
{
    g_autofree char *cmd =
        g_strdup_printf("qemu-img info -U -f qcow2 --output=json '%s' | grep -q "
                        "'\"%s\": \"%s\"'", img, what, value);

    g_assert_cmpint(block_test_run("%s", cmd), ==, *value != 0);
}

static void run_rebase(const char *options)
{
    g_autofree char *img = path("rebase.qcow2"), *a = path("a.raw");
    g_autofree char *b = path("b.raw"), *c = path("c-with-a-longer-name.qcow2");
    g_autofree uint8_t *shadow = g_malloc0(1 << 20);
    GError *err = NULL;
    BlockNode *bs;

    block_test_file_new(a, 1 << 20, 1);
    block_test_file_new(b, 1 << 20, 2);
    qcow2_test_create(c, options, 1 << 20);
    g_assert_true(block_test_run("qemu-img create -q -f qcow2 -b a.raw -F raw "
                                 "-o '%s' '%s'", options, img));
    bs = block_test_open(img, "qcow2", FLAGS);
    g_assert_cmpint(bdrv_pwrite(bs, 0, 65536, shadow, 0), ==, 0);
    bdrv_change_backing_file(bs, "b.raw", "raw", &err);
    g_assert_no_error(err);
    check_info(img, "backing-filename", "b.raw"); /* already, and the write too */
    bdrv_unref(bs);
    block_test_fill(shadow, 1 << 20, 2);
    memset(shadow, 0, 65536);
    qcow2_test_check(img, false);
    qcow2_test_compare_img(img, shadow, 1 << 20);
    if (!strstr(options, "=512")) { /* QEMU's names of features fill that */
        bs = block_test_open(img, "qcow2", FLAGS);
        bdrv_change_backing_file(bs, "c-with-a-longer-name.qcow2", "qcow2", &err);
        g_assert_no_error(err);
        bdrv_unref(bs);
        check_info(img, "backing-filename-format", "qcow2");
    }
    bs = block_test_open(img, "qcow2", FLAGS);
    bdrv_change_backing_file(bs, NULL, NULL, &err);
    g_assert_no_error(err);
    bdrv_unref(bs);
    qcow2_test_check(img, false);
    memset(shadow + 65536, 0, (1 << 20) - 65536);
    bs = block_test_open(img, "qcow2", 0);
    g_assert_null(bs->backing);
    bdrv_unref(bs);
    g_unlink(img);
    g_unlink(c);
}

static void test_rebase(void)
{
    run_rebase("cluster_size=64k");
    run_rebase("cluster_size=64k,compat=0.10");
    run_rebase("cluster_size=512");
    run_rebase("cluster_size=1k");
}

/* A crash with lazy refcounts: they are counted anew. */
static void test_dirty(void)
{
    static const char *const options[] = { "cluster_size=64k", "cluster_size=512" };

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        g_autofree char *img = path("dirty.qcow2");
        g_autofree char *o = g_strdup_printf("%s,lazy_refcounts=on", options[i]);
        uint8_t *shadow = g_malloc0(2 << 20);

        qcow2_test_create(img, o, 2 << 20);
        /* QEMU's own way to a dirty image: abort before it is closed. */
        block_test_run("qemu-io -f qcow2 -c 'write -P 3 0 300k' -c flush -c abort '%s'",
                       img);
        g_assert_false(block_test_run("qemu-img check -f qcow2 '%s'", img));
        memset(shadow, 3, 300 << 10);
        bdrv_unref(block_test_open(img, "qcow2", 0)); /* just reading: as it is */
        g_assert_false(block_test_run("qemu-img check -f qcow2 '%s'", img));
        random_operations(img, shadow, 2 << 20, rounds / 4);
        g_unlink(img);
    }
}

/* ---- threads ------------------------------------------------------------------ */

#define THREADS 8
#define BLOCK 1024 /* not a cluster: neighbours write to the same one */

typedef struct {
    Disk d;
    unsigned self, n;
    uint32_t seed;
} Worker;

/* Every thread has each eighth block for itself. */
static void *work(void *opaque)
{
    Worker *w = opaque;
    GRand *r = g_rand_new_with_seed(w->seed);
    uint8_t buf[BLOCK];

    for (unsigned i = 0; i < w->n; i++) {
        int64_t block = g_rand_int_range(r, 0, w->d.size / BLOCK / THREADS);
        int64_t at = (block * THREADS + w->self) * BLOCK;
        int ret;

        switch (g_rand_int_range(r, 0, 8)) {
        case 0:
            ret = bdrv_pwrite_zeroes(w->d.bs, at, BLOCK, BDRV_REQ_MAY_UNMAP);
            memset(w->d.shadow + at, 0, BLOCK);
            break;
        case 1: case 2: case 3:
            ret = bdrv_pread(w->d.bs, at, BLOCK, buf);
            g_assert_cmpint(memcmp(buf, w->d.shadow + at, BLOCK), ==, 0);
            break;
        case 4:
            ret = i % 8 ? 0 : bdrv_flush(w->d.bs);
            break;
        default:
            block_test_fill(w->d.shadow + at, BLOCK, g_rand_int(r));
            ret = bdrv_pwrite(w->d.bs, at, BLOCK, w->d.shadow + at, 0);
        }
        g_assert_cmpint(ret, ==, 0);
    }
    g_rand_free(r);
    return NULL;
}

static void run_threads(const char *options, int64_t size)
{
    g_autofree char *img = path("threads.qcow2");
    uint8_t *shadow = g_malloc0(size);
    GThread *threads[THREADS];
    Worker w[THREADS];
    BlockNode *bs;

    qcow2_test_create(img, options, size);
    bs = block_test_open(img, "qcow2", FLAGS);
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (Worker){ { bs, shadow, size, NULL }, i, rounds,
                         g_test_rand_int() };
        threads[i] = g_thread_new("writer", work, &w[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        g_thread_join(threads[i]);
    }
    qcow2_test_compare(bs, shadow, size);
    bdrv_unref(bs);
    qcow2_test_check(img, false);
    qcow2_test_compare_img(img, shadow, size);
    g_free(shadow);
    g_unlink(img);
}

static void test_threads(void)
{
    run_threads("cluster_size=64k", 4 << 20);
    run_threads("cluster_size=512", 2 << 20);
    run_threads("cluster_size=2k,refcount_bits=1", 2 << 20);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    rounds = g_getenv("SIDECAR_TEST_LONG") ? 10000 : 400;
    dir = block_test_dir_new();
    g_test_add_func("/qcow2/write/random", test_random);
    g_test_add_func("/qcow2/write/refcount-table-growth", test_reftable_growth);
    g_test_add_func("/qcow2/write/backing", test_random_backing);
    g_test_add_func("/qcow2/write/compressed", test_random_compressed);
    g_test_add_func("/qcow2/write/snapshots", test_random_snapshots);
    for (size_t i = 0; i < G_N_ELEMENTS(direct_modes); i++) {
        g_autofree char *name = g_strconcat("/qcow2/write/", direct_modes[i].name, NULL);

        g_test_add_data_func(name, &direct_modes[i], test_direct);
    }
    g_test_add_func("/qcow2/resize", test_resize);
    g_test_add_func("/qcow2/rebase", test_rebase);
    g_test_add_func("/qcow2/dirty", test_dirty);
    g_test_add_func("/qcow2/write/threads", test_threads);
    ret = g_test_run();
    block_test_dir_remove(dir);
    return ret;
}
