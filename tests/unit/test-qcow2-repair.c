/*
 * Images that another program left in disorder, but not corrupt: the dirty bit
 * with refcounts in any state, and bitmaps.  Both are used, and are as qemu-img
 * wants them afterwards.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

#include "../../block/qcow2.h"
#include "qcow2-test.h"

#define SIZE (3 << 20)
#define FLAGS (BDRV_O_RDWR | BDRV_O_UNMAP)
#define INCOMPATIBLE_LOW 79
#define AUTOCLEAR_LOW 95

static char *dir;

static char *path(const char *name)
{
    return block_test_path(dir, name);
}

typedef struct {
    uint8_t *data;
    gsize len;
    uint64_t cluster;
} Image;

static Image load(const char *img)
{
    Image i;
    char *data;

    g_assert_true(g_file_get_contents(img, &data, &i.len, NULL));
    i.data = (uint8_t *)data;
    i.cluster = UINT64_C(1) << i.data[23];
    return i;
}

static void save(const char *img, const Image *i)
{
    g_unlink(img);
    g_assert_true(g_file_set_contents_full(img, (const char *)i->data, i->len, 0,
                                           0600, NULL));
}

static uint64_t get(const Image *i, uint64_t at)
{
    return qcow2_test_get64(i->data + at);
}

static void put(Image *i, uint64_t at, uint64_t value)
{
    value = GUINT64_TO_BE(value);
    memcpy(i->data + at, &value, 8);
}

static uint64_t reftable_at(const Image *i)
{
    return get(i, 48);
}

/* ---- ways to lose refcounts -------------------------------------------------------- */

static void nothing_at_all(Image *i, GRand *r)
{
}

/* The dirty bit's own business: the counts were not written. */
static void counts_are_random(Image *i, GRand *r)
{
    for (uint64_t at = reftable_at(i); get(i, at); at += 8) {
        for (uint64_t k = 0; k < i->cluster; k += g_rand_int_range(r, 1, 64)) {
            i->data[get(i, at) + k] = g_rand_int(r);
        }
    }
}

static void a_block_is_missing(Image *i, GRand *r)
{
    uint64_t n = 0;

    while (get(i, reftable_at(i) + 8 * n)) {
        n++;
    }
    put(i, reftable_at(i) + 8 * g_rand_int_range(r, 0, n), 0);
}

static void no_block_is_there(Image *i, GRand *r)
{
    memset(i->data + reftable_at(i), 0, i->cluster);
}

static void blocks_are_elsewhere(Image *i, GRand *r)
{
    const uint64_t places[] = { 512 + 8, i->len * 4, get(i, 40), reftable_at(i),
                                i->cluster * 7 };

    put(i, reftable_at(i), places[g_rand_int_range(r, 0, G_N_ELEMENTS(places))]);
}

/* The header names a block instead of the table. */
static void the_table_is_elsewhere(Image *i, GRand *r)
{
    put(i, 48, i->cluster * 2);
}

static void copied_flags_are_wrong(Image *i, GRand *r)
{
    uint64_t l1 = get(i, 40);

    for (unsigned k = 0; k < 4 && get(i, l1 + 8 * k); k++) {
        uint64_t l2 = get(i, l1 + 8 * k) & QCOW2_OFFSET_MASK;

        for (unsigned e = 0; e < i->cluster; e += 8) {
            if (get(i, l2 + e) & QCOW2_OFFSET_MASK && g_rand_boolean(r)) {
                i->data[l2 + e] ^= 0x80;
            }
        }
        if (g_rand_boolean(r)) {
            i->data[l1 + 8 * k] ^= 0x80;
        }
    }
    counts_are_random(i, r);
}

static const struct {
    const char *name;
    void (*harm)(Image *i, GRand *r);
} harms[] = {
    { "nothing", nothing_at_all },
    { "counts", counts_are_random },
    { "missing", a_block_is_missing },
    { "none", no_block_is_there },
    { "blocks", blocks_are_elsewhere },
    { "table", the_table_is_elsewhere },
    { "copied", copied_flags_are_wrong },
};

/* ---- images --------------------------------------------------------------------------- */

/* Data, zeros, holes, a snapshot, compressed clusters. */
static void make_image(const char *img, const char *options)
{
    g_autofree char *raw = path("source.raw");
    bool v2 = strstr(options, "0.10");

    g_assert_true(block_test_run("yes | head -c 200k > '%s' && truncate -s %d '%s' && "
                                 "qemu-img convert -c -f raw -O qcow2 -o '%s' "
                                 "'%s' '%s'", raw, SIZE, raw, options, raw, img));
    g_assert_true(block_test_run("qemu-io -f qcow2 -c 'write -P 1 100k 1M' "
                                 "-c 'write -P 2 2M 64k' '%s' && "
                                 "qemu-img snapshot -c one '%s' && "
                                 "qemu-io -f qcow2 -c 'write -P 3 300k 300k' "
                                 "-c 'write -z 2M 32k' '%s'", img, img, img));
    g_assert_true(v2 || block_test_run("qemu-img bitmap --add '%s' b0", img));
    g_unlink(raw);
}

static bool is_dirty(const char *img)
{
    Image i = load(img);
    bool dirty = i.data[INCOMPATIBLE_LOW] & QCOW2_INCOMPAT_DIRTY;

    g_free(i.data);
    return dirty;
}

/* As it was, and as qemu-img wants it; so is the snapshot. */
static void check_repaired(const char *img, const char *raw, const char *old)
{
    g_assert_false(is_dirty(img));
    qcow2_test_check(img, false);
    g_assert_true(block_test_run("qemu-img compare -q -f qcow2 -F raw '%s' '%s'", img,
                                 raw));
    g_assert_true(block_test_run("qemu-img convert -l one -f qcow2 -O raw '%s' '%s.s' && "
                                 "cmp '%s.s' '%s'", img, img, img, old));
}

static void write_something(const char *img)
{
    g_autoptr(BlockNode) bs = block_test_open(img, "qcow2", FLAGS);
    uint8_t buf[5000];

    memset(buf, 0x55, sizeof(buf));
    for (int64_t at = 0; at < SIZE - 5000; at += 77777) {
        g_assert_cmpint(bdrv_pwrite(bs, at, sizeof(buf), buf, 0), ==, 0);
    }
}

static void run_dirty(const char *options, size_t harm)
{
    g_autofree char *img = path("d.qcow2"), *raw = path("d.raw"), *old = path("old.raw");
    g_autoptr(GRand) r = g_rand_new_with_seed(g_test_rand_int());
    Image i;

    make_image(img, options);
    g_assert_true(block_test_run("qemu-img convert -f qcow2 -O raw '%s' '%s' && "
                                 "qemu-img convert -l one -f qcow2 -O raw '%s' '%s'", img,
                                 raw, img, old));
    i = load(img);
    i.data[INCOMPATIBLE_LOW] |= QCOW2_INCOMPAT_DIRTY;
    harms[harm].harm(&i, r);
    save(img, &i);
    bdrv_unref(block_test_open(img, "qcow2", 0)); /* only read: as it is */
    g_assert_true(is_dirty(img));

    bdrv_unref(block_test_open(img, "qcow2", FLAGS));
    check_repaired(img, raw, old);
    write_something(img);
    qcow2_test_check(img, false);
    g_assert_true(block_test_run("qemu-img convert -l one -f qcow2 -O raw '%s' '%s.s' && "
                                 "cmp '%s.s' '%s'", img, img, img, old));
    g_free(i.data);
}

static void test_dirty(gconstpointer data)
{
    static const char *const options[] = {
        "cluster_size=512", "cluster_size=512,refcount_bits=64", "cluster_size=4k",
        "cluster_size=64k,refcount_bits=8", "cluster_size=2M",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        g_test_message("%s", options[i]);
        run_dirty(options[i], GPOINTER_TO_SIZE(data));
    }
}

/* Each write of the repair fails in turn, as if the power did: the next one does it. */
static void test_repair_fails(void)
{
    g_autofree char *img = path("f.qcow2"), *raw = path("f.raw"), *old = path("fo.raw");
    g_autofree char *start = path("start.qcow2");
    bool done = false;
    Image i;

    make_image(start, "cluster_size=4k");
    g_assert_true(block_test_run("qemu-img convert -f qcow2 -O raw '%s' '%s' && "
                                 "qemu-img convert -l one -f qcow2 -O raw '%s' '%s'",
                                 start, raw, start, old));
    for (unsigned way = 0; way < 2; way++, done = false) {
        g_autoptr(GRand) r = g_rand_new_with_seed(1);

        i = load(start);
        i.data[INCOMPATIBLE_LOW] |= QCOW2_INCOMPAT_DIRTY;
        (way ? no_block_is_there : counts_are_random)(&i, r);
        for (unsigned n = 1; !done; n++) {
            g_autofree char *name = g_strdup_printf("fault:write#%u+=EIO:%s", n, img);
            BlockNode *bs;

            save(img, &i);
            bs = bdrv_open(name, "qcow2", FLAGS, NULL);
            done = bs;
            g_clear_pointer(&bs, bdrv_unref);
            g_assert_true(n > 1 || !done);
            bdrv_unref(block_test_open(img, "qcow2", FLAGS));
            check_repaired(img, raw, old);
        }
        g_free(i.data);
    }
}

/* What qemu-img can't repair we can't either. */
static void test_not_repairable(void)
{
    g_autofree char *img = path("n.qcow2");
    GError *err = NULL;
    Image i;

    make_image(img, "cluster_size=4k");
    i = load(img);
    i.data[INCOMPATIBLE_LOW] |= QCOW2_INCOMPAT_DIRTY;
    put(&i, get(&i, get(&i, 40)) & QCOW2_OFFSET_MASK, INT64_C(1) << 40);
    save(img, &i);
    g_assert_null(bdrv_open(img, "qcow2", FLAGS, &err));
    g_assert_nonnull(strstr(err->message, "dirty and could not be repaired"));
    g_clear_error(&err);
    g_free(i.data);
    i = load(img);
    g_assert_cmpint(i.data[INCOMPATIBLE_LOW], ==, QCOW2_INCOMPAT_DIRTY);
    g_free(i.data);
}

/* ---- bitmaps ----------------------------------------------------------------------------- */

static bool bitmap_is_in_use(const char *img, const char *name)
{
    return block_test_run("qemu-img info -U '%s' | tr -d '\\n ' | "
                          "grep -Eq 'flags:\\[0\\]:in-use(\\[1\\]:auto)?name:%s'", img,
                          name);
}

static void test_bitmaps(void)
{
    g_autofree char *img = path("b.qcow2");
    Image i;

    qcow2_test_create(img, "cluster_size=64k", 64 << 20);
    g_assert_true(block_test_run("qemu-img bitmap --add '%s' first && "
                                 "qemu-img bitmap --add '%s' second && "
                                 "qemu-io -f qcow2 -c 'write 1M 5M' '%s'", img, img,
                                 img));
    bdrv_unref(block_test_open(img, "qcow2", 0));
    g_assert_false(bitmap_is_in_use(img, "second"));
    write_something(img);
    /* Still there, still accounted for, and no longer believed in. */
    g_assert_true(bitmap_is_in_use(img, "first"));
    g_assert_true(bitmap_is_in_use(img, "second"));
    qcow2_test_check(img, false);
    i = load(img);
    g_assert_cmpint(i.data[AUTOCLEAR_LOW], ==, QCOW2_AUTOCLEAR_BITMAPS);
    g_free(i.data);
    write_something(img); /* a second time nothing changes */
    g_assert_true(block_test_run("qemu-img bitmap --remove '%s' first && "
                                 "qemu-img bitmap --remove '%s' second", img, img));
    write_something(img);
    qcow2_test_check(img, false);
}

/* Bits that nobody knows, and bitmaps that make no sense: cleared. */
static void test_autoclear(void)
{
    g_autofree char *img = path("a.qcow2");
    static const struct {
        unsigned at; /* of the extension's contents */
        uint64_t value;
    } t[] = { { 0, 0 }, { 8, INT64_MAX }, { 16, 77 }, { 16, INT64_C(1) << 40 },
              { 0, UINT64_C(0xffffffff00000000) } };

    qcow2_test_create(img, "cluster_size=64k", 1 << 20);
    for (size_t k = 0; k <= G_N_ELEMENTS(t); k++) {
        Image i = load(img);

        i.data[AUTOCLEAR_LOW - 1] = 0x80;
        if (k < G_N_ELEMENTS(t)) { /* behind the extensions, which end with zeros */
            unsigned at = i.data[103];

            while (get(&i, at)) {
                at += 8 + ((i.data[at + 7] + 256 * i.data[at + 6] + 7) & ~7);
            }
            put(&i, at, UINT64_C(0x2385287500000018));
            put(&i, at + 8, UINT64_C(1) << 32);
            put(&i, at + 16, 64);
            put(&i, at + 24, 65536);
            put(&i, at + 8 + t[k].at, t[k].value);
            i.data[AUTOCLEAR_LOW] = 1;
        }
        save(img, &i);
        bdrv_unref(block_test_open(img, "qcow2", 0));
        g_free(i.data);
        i = load(img);
        g_assert_cmpint(i.data[AUTOCLEAR_LOW - 1], ==, 0x80);
        g_free(i.data);
        bdrv_unref(block_test_open(img, "qcow2", FLAGS));
        i = load(img);
        g_assert_cmpint(get(&i, AUTOCLEAR_LOW - 7), ==, 0);
        g_free(i.data);
        qcow2_test_check(img, false);
        g_unlink(img);
        qcow2_test_create(img, "cluster_size=64k", 1 << 20);
    }
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = block_test_dir_new();
    for (size_t i = 0; i < G_N_ELEMENTS(harms); i++) {
        g_autofree char *name = g_strdup_printf("/qcow2/dirty/%s", harms[i].name);

        g_test_add_data_func(name, GSIZE_TO_POINTER(i), test_dirty);
    }
    g_test_add_func("/qcow2/dirty/repair-fails", test_repair_fails);
    g_test_add_func("/qcow2/dirty/not-repairable", test_not_repairable);
    g_test_add_func("/qcow2/bitmaps", test_bitmaps);
    g_test_add_func("/qcow2/autoclear", test_autoclear);
    ret = g_test_run();
    block_test_dir_remove(dir);
    return ret;
}
