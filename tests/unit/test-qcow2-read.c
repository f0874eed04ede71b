/*
 * Reading qcow2 images that qemu-img made, creating ones that it reads, and
 * backing chains.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../../block/qcow2.h"
#include "qcow2-test.h"
#include "util/error.h"

#define SIZE (3 * 1024 * 1024 + 512)

static char *dir;

static char *path(const char *name)
{
    return block_test_path(dir, name);
}

/* Random data with zeros in between, so that there are holes. */
static uint8_t *make_raw(const char *file, int64_t size, uint32_t seed)
{
    uint8_t *buf = g_malloc0(size);

    for (int64_t pos = 0; pos < size; pos += 128 * 1024) {
        if ((pos >> 17) % 3 != (int64_t)seed % 3) {
            block_test_fill(buf + pos, MIN(100000, size - pos), seed + pos);
        }
    }
    g_unlink(file);
    g_assert_true(g_file_set_contents_full(file, (char *)buf, size, 0, 0600, NULL));
    return buf;
}

static void convert(const char *raw, const char *img, const char *options)
{
    g_assert_true(block_test_run("qemu-img convert -q -f raw -O qcow2 %s '%s' '%s'",
                                 options, raw, img));
}

static void read_one(const char *raw, const uint8_t *data, const char *options)
{
    g_autofree char *img = path("read.qcow2");
    g_autoptr(BlockNode) bs = NULL;

    g_test_message("%s", options);
    convert(raw, img, options);
    bs = block_test_open(img, "qcow2", 0);
    qcow2_test_compare(bs, data, SIZE);
    g_unlink(img);
}

static void test_versions(void)
{
    g_autofree char *raw = path("raw");
    g_autofree uint8_t *data = make_raw(raw, SIZE, 7);

    for (unsigned bits = QCOW2_MIN_CLUSTER_BITS; bits <= QCOW2_MAX_CLUSTER_BITS;
         bits++) {
        for (unsigned compat = 0; compat < 2; compat++) {
            g_autofree char *o =
                g_strdup_printf("-o compat=%s,cluster_size=%u",
                                compat ? "1.1" : "0.10", 1u << bits);

            read_one(raw, data, o);
        }
    }
}

static void test_compressed(void)
{
    g_autofree char *raw = path("raw");
    g_autofree uint8_t *data = make_raw(raw, SIZE, 8);

    /* Something that compresses. */
    for (int64_t i = 0; i < SIZE; i += 2) {
        data[i] = 'x';
    }
    g_unlink(raw);
    g_assert_true(g_file_set_contents_full(raw, (char *)data, SIZE, 0, 0600, NULL));
    read_one(raw, data, "-c -o cluster_size=512");
    read_one(raw, data, "-c -o cluster_size=4k");
    read_one(raw, data, "-c -o cluster_size=64k");
    read_one(raw, data, "-c -o cluster_size=2M");
    read_one(raw, data, "-c -o compat=0.10");
}

static void test_status(void)
{
    g_autofree char *img = path("status.qcow2");
    g_autoptr(BlockNode) bs = NULL;
    int64_t n;

    qcow2_test_create(img, "cluster_size=64k", 1 << 20);
    g_assert_true(block_test_run("qemu-io -f qcow2 -c 'write 128k 64k' "
                                 "-c 'write -z 256k 64k' '%s'", img));
    bs = block_test_open(img, NULL, 0);
    g_assert_cmpstr(bdrv_format_name(bs), ==, "qcow2");
    g_assert_cmpint(bdrv_block_status(bs, 0, 1 << 20, &n), ==, BDRV_BLOCK_ZERO);
    g_assert_cmpint(n, ==, 128 << 10);
    g_assert_cmpint(bdrv_block_status(bs, (128 << 10) + 5, 1 << 19, &n), ==,
                    BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED);
    g_assert_cmpint(n, ==, (64 << 10) - 5);
    g_assert_cmpint(bdrv_block_status(bs, 256 << 10, 1 << 19, &n), ==,
                    BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED);
    g_assert_cmpint(n, ==, 64 << 10);
}

static void create_one(int64_t size, unsigned version, unsigned bits,
                       unsigned order)
{
    Qcow2CreateOptions o = { version, bits, order };
    g_autofree char *img = path("created.qcow2");
    g_autoptr(BlockNode) bs = NULL;
    GError *err = NULL;
    int64_t n;

    qcow2_create_with(img, size, NULL, NULL, &o, &err);
    g_assert_no_error(err);
    qcow2_test_check(img, false);
    g_assert_true(block_test_run("qemu-img info -f qcow2 '%s' | "
                                 "grep -q 'cluster_size: %u$'", img, 1u << bits));
    bs = block_test_open(img, "qcow2", 0);
    g_assert_cmpint(bdrv_length(bs), ==, size);
    if (size) {
        g_assert_cmpint(bdrv_block_status(bs, 0, size, &n), ==, BDRV_BLOCK_ZERO);
    }
    g_unlink(img);
}

static void test_create(void)
{
    for (unsigned bits = QCOW2_MIN_CLUSTER_BITS; bits <= QCOW2_MAX_CLUSTER_BITS;
         bits++) {
        create_one(INT64_C(1) << 30, 3, bits, 4);
        create_one(10 << 20, 2, bits, 4);
    }
    for (unsigned order = 0; order <= 6; order++) {
        create_one(10 << 20, 3, 12, order);
    }
    create_one(0, 3, 16, 4);
    create_one(INT64_C(1) << 44, 3, 16, 4);
}

static void test_create_refused(void)
{
    Qcow2CreateOptions o = { 3, 9, 4 };
    g_autofree char *img = path("refused.qcow2");
    GError *err = NULL;

    g_assert_false(qcow2_create_with(img, INT64_C(1) << 50, NULL, NULL, &o, &err));
    g_assert_nonnull(strstr(err->message, "too large"));
    g_clear_error(&err);
    g_assert_false(bdrv_create(img, "qcow2", 1 << 20, "base", NULL, &err));
    g_clear_error(&err);
    g_assert_false(bdrv_create(img, "qcow2", 1 << 20, "base", "bochs", &err));
    g_clear_error(&err);
    g_assert_false(g_file_test(img, G_FILE_TEST_EXISTS));
    g_assert_true(bdrv_create(img, "qcow2", 1 << 20, NULL, NULL, &err));
    g_assert_false(bdrv_create(img, "qcow2", 1 << 20, NULL, NULL, &err));
    g_clear_error(&err);
    qcow2_test_check(img, false);
}

/* ---- chains -------------------------------------------------------------- */

static void test_chain(void)
{
    g_autofree char *raw = path("base.raw"), *mid = path("mid.qcow2");
    g_autofree char *top = path("top.qcow2");
    g_autofree uint8_t *data = make_raw(raw, SIZE, 9);
    g_autoptr(BlockNode) bs = NULL;
    uint8_t *big = g_malloc0(2 * SIZE);
    GError *err = NULL;
    int64_t n;

    /* A short one in the middle, relative names. */
    bdrv_create(mid, "qcow2", 1 << 20, "base.raw", "raw", &err);
    g_assert_no_error(err);
    bdrv_create(top, "qcow2", 2 * SIZE, "mid.qcow2", "qcow2", &err);
    g_assert_no_error(err);
    g_assert_true(block_test_run("qemu-io -f qcow2 -c 'write -P 5 512k 64k' '%s' && "
                                 "qemu-io -f qcow2 -c 'write -P 6 2M 64k' '%s'",
                                 mid, top));
    memcpy(big, data, 1 << 20);
    memset(big + (512 << 10), 5, 64 << 10);
    memset(big + (2 << 20), 6, 64 << 10);
    bs = block_test_open(top, "qcow2", 0);
    qcow2_test_compare(bs, big, 2 * SIZE);
    g_assert_cmpstr(bdrv_format_name(bs->backing->backing), ==, "raw");
    g_assert_true(bdrv_is_read_only(bs->backing));

    g_assert_cmpint(bdrv_is_allocated_above(bs, bs->backing, 512 << 10, 1 << 20, &n),
                    ==, 0);
    g_assert_cmpint(bdrv_is_allocated_above(bs, bs->backing->backing, 512 << 10,
                                            1 << 20, &n), ==, 1);
    g_assert_cmpint(n, ==, 64 << 10);
    g_assert_cmpint(bdrv_is_allocated_above(bs, bs->backing->backing, 0, 1 << 20,
                                            &n), ==, 0);
    g_assert_cmpint(n, ==, 512 << 10);
    g_assert_cmpint(bdrv_is_allocated_above(bs, bs->backing->backing, 3 << 19,
                                            4096, &n), ==, 1); /* behind mid's end */
    g_free(big);
}

static void refuse(const char *img, const char *format, const char *why)
{
    GError *err = NULL;
    BlockNode *bs = bdrv_open(img, format, 0, &err);

    g_assert_null(bs);
    g_test_message("%s", err->message);
    g_assert_nonnull(strstr(err->message, why));
    g_clear_error(&err);
}

/* An end mark instead of the extension. */
static void drop_backing_format(const char *img)
{
    FILE *f = g_fopen(img, "r+b");

    g_assert_nonnull(f);
    fseek(f, QCOW2_HEADER_BYTES, SEEK_SET);
    g_assert_cmpint(fwrite("\0\0\0\0\0\0\0\0", 1, 8, f), ==, 8);
    fclose(f);
}

static void test_chain_refused(void)
{
    g_autofree char *a = path("a.qcow2"), *b = path("b.qcow2");
    GError *err = NULL;
    BlockNode *bs;

    bdrv_create(a, "qcow2", 1 << 20, "b.qcow2", "qcow2", &err);
    g_assert_no_error(err);
    refuse(a, "qcow2", "No such file");
    bdrv_create(b, "qcow2", 1 << 20, "a.qcow2", "qcow2", &err);
    g_assert_no_error(err);
    refuse(a, "qcow2", "its own backing file");
    g_unlink(b);
    g_assert_cmpint(symlink("a.qcow2", b), ==, 0);
    refuse(a, "qcow2", "its own backing file");
    g_unlink(a);
    g_unlink(b);

    bdrv_create(a, "qcow2", 1 << 20, "nbd:localhost:1", "raw", &err);
    g_assert_no_error(err);
    refuse(a, "qcow2", "not supported");
    g_unlink(a);
    bdrv_create(a, "qcow2", 1 << 20, "fault:read=EIO:b", "raw", &err);
    g_assert_no_error(err);
    refuse(a, "qcow2", "must not name");
    g_unlink(a);

    /* A raw backing file into which a guest wrote a header: what the image says
     * counts, and where it says nothing nobody guesses qcow2. */
    bdrv_create(b, "qcow2", 1 << 20, "/etc/hostname", "raw", &err);
    g_assert_no_error(err);
    bdrv_create(a, "qcow2", 1 << 20, "b.qcow2", "raw", &err);
    g_assert_no_error(err);
    bs = block_test_open(a, "qcow2", 0);
    g_assert_cmpstr(bdrv_format_name(bs->backing), ==, "raw");
    bdrv_unref(bs);
    drop_backing_format(a);
    refuse(a, "qcow2", "does not say what format");
    g_unlink(b);
    block_test_file_new(b, 1 << 20, 3);
    bdrv_unref(block_test_open(a, "qcow2", 0));
    g_unlink(a);
    g_unlink(b);
}

static void test_deep(void)
{
    g_autofree char *top = NULL;
    GError *err = NULL;

    for (unsigned i = 0; i < 202; i++) {
        g_autofree char *name = g_strdup_printf("d%u.qcow2", i);
        g_autofree char *below = g_strdup_printf("d%u.qcow2", i - 1);

        g_free(top);
        top = path(name);
        bdrv_create(top, "qcow2", 65536, i ? below : NULL, i ? "qcow2" : NULL,
                    &err);
        g_assert_no_error(err);
    }
    refuse(top, "qcow2", "more than 200 backing files");
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = block_test_dir_new();
    g_test_add_func("/qcow2/read/versions", test_versions);
    g_test_add_func("/qcow2/read/compressed", test_compressed);
    g_test_add_func("/qcow2/read/status", test_status);
    g_test_add_func("/qcow2/create", test_create);
    g_test_add_func("/qcow2/create/refused", test_create_refused);
    g_test_add_func("/qcow2/chain", test_chain);
    g_test_add_func("/qcow2/chain/refused", test_chain_refused);
    g_test_add_func("/qcow2/chain/deep", test_deep);
    ret = g_test_run();
    block_test_dir_remove(dir);
    return ret;
}
