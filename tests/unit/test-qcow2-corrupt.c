/*
 * Corrupt qcow2 images: an error, never a crash, and never a write that makes
 * it worse.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>

#include "../../block/qcow2.h"
#include "qcow2-test.h"
#include "util/error.h"

#define SIZE (3 << 20)

static char *dir;
static unsigned rounds;

static char *path(const char *name)
{
    return block_test_path(dir, name);
}

typedef struct {
    uint8_t *data;
    gsize len;
} Image;

/* 4 KiB clusters: header, reftable, refblock, L1, then L2 and data. */
static Image make_image_with(const char *img, const char *options)
{
    Image i;
    char *data;

    qcow2_test_create(img, options, SIZE);
    g_assert_true(block_test_run("qemu-io -f qcow2 -c 'write -P 1 0 300k' "
                                 "-c 'write -z 400k 8k' '%s'", img));
    g_assert_true(g_file_get_contents(img, &data, &i.len, NULL));
    i.data = (uint8_t *)data;
    return i;
}

static Image make_image(const char *img)
{
    return make_image_with(img, "cluster_size=4k");
}

static void save(const char *img, const uint8_t *data, size_t len)
{
    g_unlink(img);
    g_assert_true(g_file_set_contents_full(img, (const char *)data, len, 0, 0600,
                                           NULL));
}

static void put(uint8_t *p, uint64_t value, unsigned bytes)
{
    while (bytes-- > 0) {
        p[bytes] = value;
        value >>= 8;
    }
}

/* Whatever happens is fine, as long as it ends. */
static void exercise(const char *img, int flags)
{
    g_autofree uint8_t *buf = g_malloc0(SIZE);
    BlockNode *bs = bdrv_open(img, "qcow2", flags | BDRV_O_NO_BACKING, NULL);
    int64_t size, n;

    if (!bs) {
        return;
    }
    size = MIN(bdrv_length(bs), SIZE);
    for (int64_t pos = 0; pos < size; pos += 65536) {
        bdrv_pread(bs, pos, MIN(65536, size - pos), buf);
        bdrv_block_status(bs, pos, size - pos, &n);
    }
    for (int64_t pos = 0; pos + 5000 < size; pos += 50000) {
        bdrv_pwrite(bs, pos, 5000, buf, 0);
    }
    bdrv_pwrite_zeroes(bs, 0, MIN(size, 20000), BDRV_REQ_MAY_UNMAP);
    bdrv_pdiscard(bs, 0, size);
    bdrv_flush(bs);
    bdrv_unref(bs);
}

static void exercise_both(const char *img)
{
    exercise(img, 0);
    exercise(img, BDRV_O_RDWR | BDRV_O_UNMAP | BDRV_O_NO_FLUSH);
}

/* ---- the header ------------------------------------------------------------- */

static const struct {
    const char *name;
    size_t at;
    unsigned bytes;
} fields[] = {
    { "version", 4, 4 },          { "backing offset", 8, 8 },
    { "backing size", 16, 4 },    { "cluster bits", 20, 4 },
    { "size", 24, 8 },            { "crypt method", 32, 4 },
    { "L1 size", 36, 4 },         { "L1 offset", 40, 8 },
    { "reftable offset", 48, 8 }, { "reftable clusters", 56, 4 },
    { "snapshots", 60, 4 },       { "snapshots offset", 64, 8 },
    { "incompatible", 72, 8 },    { "compatible", 80, 8 },
    { "autoclear", 88, 8 },       { "refcount order", 96, 4 },
    { "header length", 100, 4 },  { "compression type", 104, 1 },
    { "extension type", 112, 4 }, { "extension length", 116, 4 },
};
static const uint64_t values[] = {
    0, 1, 2, 3, 7, 8, 9, 22, 31, 32, 63, 64, 511, 512, 4096, 8192, 12288, 16384,
    0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
    0x00fffffffffffe00, 0x7fffffffffffffff, 0x8000000000000000, UINT64_MAX,
};

static void test_header_fields(void)
{
    g_autofree char *img = path("h.qcow2");
    Image i = make_image(img);

    for (size_t f = 0; f < G_N_ELEMENTS(fields); f++) {
        for (size_t v = 0; v < G_N_ELEMENTS(values); v++) {
            g_autofree uint8_t *data = g_memdup2(i.data, i.len);

            put(data + fields[f].at, values[v], fields[f].bytes);
            save(img, data, i.len);
            exercise_both(img);
        }
    }
    g_free(i.data);
}

static void refuse(const char *img, int flags, const char *why, int code)
{
    GError *err = NULL;
    BlockNode *bs = bdrv_open(img, "qcow2", flags, &err);

    g_assert_null(bs);
    g_test_message("%s", err->message);
    g_assert_nonnull(strstr(err->message, why));
    g_assert_cmpint(err->code, ==, code);
    g_clear_error(&err);
}

static void test_refused_by_name(void)
{
    static const struct {
        size_t at;
        unsigned bytes;
        uint64_t value;
        const char *why;
    } t[] = {
        { 4, 4, 4, "version 4" },
        { 32, 4, 1, "AES" },
        { 32, 4, 2, "LUKS" },
        { 72, 8, 4, "external data file" },
        { 72, 8, 16, "subclusters" },
        { 72, 8, 0x100, "incompatible feature 0x100" },
        { 104, 1, 1, "zstd" },
    };
    g_autofree char *img = path("n.qcow2");
    Image i = make_image(img);

    for (size_t k = 0; k < G_N_ELEMENTS(t); k++) {
        g_autofree uint8_t *data = g_memdup2(i.data, i.len);

        put(data + t[k].at, t[k].value, t[k].bytes);
        save(img, data, i.len);
        refuse(img, 0, t[k].why, SIDECAR_ERROR_NOT_SUPPORTED);
    }
    put(i.data + 72, 2, 8);
    save(img, i.data, i.len);
    refuse(img, BDRV_O_RDWR, "corrupt", SIDECAR_ERROR_GENERIC);
    bdrv_unref(block_test_open(img, "qcow2", 0)); /* to save what can be saved */
    g_free(i.data);
}

/* ---- entries -------------------------------------------------------------------- */

static uint64_t table_at(const Image *i, size_t field)
{
    return qcow2_test_get64(i->data + field);
}

/* Writing must not touch what is not the guest's; reading is an error or data. */
static void check_unharmed(const char *img, const Image *before, size_t from,
                           size_t to)
{
    g_autofree char *data = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(img, &data, &len, NULL));
    g_assert_cmpmem(data + from, to - from, before->data + from, to - from);
}

/* …but for the corrupt bit, which a version 3 header has by now: it is opened for
 * writing again only when qemu-img has repaired it. */
static void check_marked(const char *img, const Image *before)
{
    g_autofree char *data = NULL;
    bool v3 = before->data[7] == 3;
    gsize len;

    g_assert_true(g_file_get_contents(img, &data, &len, NULL));
    g_assert_cmpint(data[79] & QCOW2_INCOMPAT_CORRUPT, ==,
                    v3 ? QCOW2_INCOMPAT_CORRUPT : data[79] & QCOW2_INCOMPAT_CORRUPT);
    if (v3) {
        data[79] &= ~QCOW2_INCOMPAT_CORRUPT;
    }
    g_assert_cmpmem(data, len, before->data, before->len);
    if (v3) {
        refuse(img, BDRV_O_RDWR, "Image is corrupt; cannot be opened read/write",
               SIDECAR_ERROR_GENERIC);
        g_assert_true(block_test_run("qemu-img info -U --output=json '%s' | "
                                     "grep -q '\"corrupt\": true'", img));
        /* It can't repair everything. */
        if (block_test_run("qemu-img check -q -r all '%s'", img)) {
            bdrv_unref(block_test_open(img, "qcow2", BDRV_O_RDWR));
        }
    }
}

/* Whatever would write is refused, not only what met the corruption. */
static void check_refuses_writes(BlockNode *bs)
{
    uint8_t buf[4096] = { 0 };
    GError *err = NULL;

    g_assert_cmpint(bdrv_pwrite(bs, 8192, 4096, buf, 0), ==, -EIO);
    g_assert_cmpint(bdrv_pwrite(bs, 1 << 20, 4096, buf, 0), ==, -EIO);
    g_assert_cmpint(bdrv_pwrite_zeroes(bs, 8192, 4096, 0), ==, -EIO);
    g_assert_cmpint(bdrv_pdiscard(bs, 8192, 4096), ==, -EIO);
    g_assert_false(bdrv_change_backing_file(bs, "x", "raw", &err));
    g_assert_nonnull(err);
    g_clear_error(&err);
    g_assert_false(bdrv_truncate(bs, 2 * SIZE, &err));
    g_assert_nonnull(err);
    g_clear_error(&err);
}

/* An L2 entry that points to metadata, or nowhere. */
static void run_l2_entry(const char *options)
{
    g_autofree char *img = path("l2.qcow2");
    Image i = make_image_with(img, options);
    uint64_t l1 = table_at(&i, 40), l2 = table_at(&i, l1) & QCOW2_OFFSET_MASK;
    uint64_t targets[] = { 0x1000, 0x2000, l1, l2, 0x1000 + 512, 1 << 30,
                           QCOW2_OFFSET_MASK & ~UINT64_C(4095) };
    uint8_t buf[4096] = { 0 };

    for (size_t k = 0; k < G_N_ELEMENTS(targets); k++) {
        Image c = { g_memdup2(i.data, i.len), i.len };
        BlockNode *bs;

        put(c.data + l2, targets[k] | QCOW2_OFLAG_COPIED, 8);
        save(img, c.data, c.len);
        bs = block_test_open(img, "qcow2", BDRV_O_RDWR | BDRV_O_UNMAP);
        g_assert_cmpint(bdrv_pwrite(bs, 0, 4096, buf, 0), ==, -EIO);
        check_refuses_writes(bs);
        g_assert_cmpint(bdrv_pread(bs, 8192, 4096, buf), ==, 0);
        g_assert_cmpint(buf[0], ==, 1);
        memset(buf, 0, sizeof(buf));
        bdrv_unref(bs);
        check_marked(img, &c);
        g_free(c.data);
    }
    g_free(i.data);
}

static void test_l2_entry(void)
{
    run_l2_entry("cluster_size=4k");
    run_l2_entry("cluster_size=4k,compat=0.10");
}

/* Read-only nothing is written, not even that. */
static void test_read_only_is_not_marked(void)
{
    g_autofree char *img = path("ro.qcow2");
    Image i = make_image(img);
    uint64_t l2 = table_at(&i, table_at(&i, 40)) & QCOW2_OFFSET_MASK;
    uint8_t buf[4096];
    BlockNode *bs;

    put(i.data + l2, 0x1000 + 512, 8);
    save(img, i.data, i.len);
    bs = block_test_open(img, "qcow2", 0);
    g_assert_cmpint(bdrv_pread(bs, 0, 4096, buf), ==, -EIO);
    bdrv_unref(bs);
    check_unharmed(img, &i, 0, i.len);
    g_free(i.data);
}

/* Flags of an L2 table that is not there: as if there were none of them. */
static void test_l1_flags_alone(void)
{
    g_autofree char *img = path("l1.qcow2");
    uint8_t buf[4096] = { 5 }, back[4096];
    BlockNode *bs;
    Image i;

    i = make_image(img);
    put(i.data + table_at(&i, 40) + 8, QCOW2_OFLAG_COPIED, 8);
    save(img, i.data, i.len);
    bs = block_test_open(img, "qcow2", BDRV_O_RDWR);
    g_assert_cmpint(bdrv_pwrite(bs, 2 << 20, 4096, buf, 0), ==, 0);
    g_assert_cmpint(bdrv_pread(bs, 2 << 20, 4096, back), ==, 0);
    g_assert_cmpmem(buf, 4096, back, 4096);
    bdrv_unref(bs);
    qcow2_test_check(img, false);
    g_free(i.data);
}

/* Metadata on top of metadata: not opened for writing. */
static void test_overlaps(void)
{
    g_autofree char *img = path("o.qcow2");
    Image i = make_image(img);
    uint64_t l1 = table_at(&i, 40), reftable = table_at(&i, 48);
    uint64_t l2 = table_at(&i, l1) & QCOW2_OFFSET_MASK;
    uint64_t refblock = table_at(&i, reftable);
    const struct {
        uint64_t at, value;
    } t[] = {
        { l1, reftable }, { l1, refblock }, { l1, 0x1000 + 512 }, { l1, l1 },
        { l1, 1 << 30 }, { l1 + 8, l2 }, { reftable, l1 }, { reftable, l2 },
        { reftable, reftable }, { reftable + 8, refblock },
        { reftable + 8, INT64_MIN }, { reftable + 8, 1 << 30 }, { 40, refblock },
        { 48, l1 }, { 40, 0x1000 },
    };

    for (size_t k = 0; k < G_N_ELEMENTS(t); k++) {
        Image c = { g_memdup2(i.data, i.len), i.len };
        GError *err = NULL;

        put(c.data + t[k].at, t[k].value, 8);
        save(img, c.data, c.len);
        exercise(img, 0);
        g_assert_null(bdrv_open(img, "qcow2", BDRV_O_RDWR, &err));
        g_assert_nonnull(err);
        g_clear_error(&err);
        check_unharmed(img, &c, 0, c.len);
        g_free(c.data);
    }
    g_free(i.data);
}

/* Refcounts that say that metadata is free. */
static void test_refcount_zero(void)
{
    g_autofree char *img = path("r.qcow2");
    Image i = make_image(img);
    uint64_t refblock = table_at(&i, table_at(&i, 48));
    uint64_t l2 = table_at(&i, table_at(&i, 40)) & QCOW2_OFFSET_MASK;
    uint8_t buf[4096] = { 0 };
    BlockNode *bs;

    memset(i.data + refblock, 0, 4096);
    save(img, i.data, i.len);
    bs = block_test_open(img, "qcow2", BDRV_O_RDWR);
    g_assert_cmpint(bdrv_pwrite(bs, 800 << 10, 4096, buf, 0), ==, -EIO);
    bdrv_unref(bs);
    i.data[79] |= QCOW2_INCOMPAT_CORRUPT;
    check_unharmed(img, &i, 0, l2 + 4096);
    g_free(i.data);
}

/* Bytes of all metadata changed at random; the file cut off anywhere. */
static void test_random_damage(void)
{
    g_autofree char *img = path("d.qcow2");
    Image i = make_image(img);
    GRand *r = g_rand_new_with_seed(g_test_rand_int());

    for (unsigned k = 0; k < rounds; k++) {
        g_autofree uint8_t *data = g_memdup2(i.data, i.len);
        size_t len = k % 4 ? i.len : (size_t)g_rand_int_range(r, 0, i.len);

        for (int n = g_rand_int_range(r, 1, 6); n > 0; n--) {
            size_t at = g_rand_int_range(r, 0, n % 2 ? 120 : 0x5000);

            data[at] = g_rand_boolean(r) ? (int)g_rand_int(r)
                                         : data[at] ^ 1 << g_rand_int_range(r, 0, 8);
        }
        save(img, data, len);
        exercise_both(img);
    }
    g_rand_free(r);
    g_free(i.data);
}

/* Compressed data that is none. */
static void test_compressed(void)
{
    g_autofree char *raw = path("c.raw"), *img = path("c.qcow2");
    g_autofree char *text = NULL;
    GRand *r = g_rand_new_with_seed(g_test_rand_int());
    gsize len;

    g_assert_true(block_test_run("yes | head -c 1M > '%s' && qemu-img convert -c -f raw "
                                 "-O qcow2 -o cluster_size=4k '%s' '%s'", raw, raw,
                                 img));
    g_assert_true(g_file_get_contents(img, &text, &len, NULL));
    for (unsigned k = 0; k < rounds; k++) {
        g_autofree uint8_t *data = g_memdup2(text, len);

        for (int n = 0; n < 20; n++) {
            data[g_rand_int_range(r, 0x3000, len)] = g_rand_int(r);
        }
        save(img, data, len);
        exercise_both(img);
    }
    g_rand_free(r);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    rounds = g_getenv("SIDECAR_TEST_LONG") ? 5000 : 100;
    dir = block_test_dir_new();
    g_test_add_func("/qcow2/corrupt/header-fields", test_header_fields);
    g_test_add_func("/qcow2/corrupt/refused-by-name", test_refused_by_name);
    g_test_add_func("/qcow2/corrupt/l2-entry", test_l2_entry);
    g_test_add_func("/qcow2/corrupt/read-only", test_read_only_is_not_marked);
    g_test_add_func("/qcow2/corrupt/l1-flags-alone", test_l1_flags_alone);
    g_test_add_func("/qcow2/corrupt/overlaps", test_overlaps);
    g_test_add_func("/qcow2/corrupt/refcount-zero", test_refcount_zero);
    g_test_add_func("/qcow2/corrupt/random", test_random_damage);
    g_test_add_func("/qcow2/corrupt/compressed", test_compressed);
    ret = g_test_run();
    block_test_dir_remove(dir);
    return ret;
}
