/*
 * Nodes: every kind of request against a copy in memory, for buffered and
 * direct files, both ways of aio, sizes that are no multiples of anything, and
 * blocks larger than the requests.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "block-test.h"
#include "util/error.h"

typedef struct {
    const char *name;
    int flags;
    const char *prefix; /* of the file name */
    const char *format;
} Mode;

static const Mode modes[] = {
    { "buffered", 0, "", "raw" },
    { "probed", 0, "", NULL },
    { "writethrough", BDRV_O_WRITETHROUGH, "", "raw" },
    { "unsafe", BDRV_O_NO_FLUSH, "", "raw" },
    { "direct", BDRV_O_NOCACHE, "", "raw" },
    { "native", BDRV_O_NOCACHE | BDRV_O_NATIVE_AIO, "", "raw" },
    { "directsync", BDRV_O_NOCACHE | BDRV_O_WRITETHROUGH, "", "raw" },
    { "blocks-of-512", 0, "fault:align=512:", "raw" },
    { "blocks-of-4096", 0, "fault:align=4096:", "raw" },
    { "native-blocks-of-4096", BDRV_O_NOCACHE | BDRV_O_NATIVE_AIO,
      "fault:align=4096:", "raw" },
    { "blocks-of-65536", 0, "fault:align=65536:", NULL },
    { "no-zero-method", 0, "fault:zero=ENOTSUP:", "raw" },
    { "no-zero-method-blocks-of-4096", 0, "fault:zero=ENOTSUP,align=4096:",
      "raw" },
};

/* Not a multiple of 512, of 4096, of 65536; and some that are. */
static const int64_t sizes[] = {
    0, 1, 511, 512, 513, 4095, 4097, 65535, 65536, 65537, 99 * 512, 1000001,
    3 * 1024 * 1024 + 512 * 5,
};

#define MAX_SIZE (4 * 1024 * 1024)

typedef struct {
    BlockNode *bs;
    uint8_t *shadow; /* MAX_SIZE bytes, zero behind the end */
    int64_t size;
    uint8_t *buf;    /* MAX_SIZE + 4096 */
    GRand *rand;
} Run;

/* Near something that matters, most of the time. */
static int64_t random_offset(Run *r)
{
    static const int64_t marks[] = { 512, 4096, 65536, 1024 * 1024 };
    int64_t mark = marks[g_rand_int_range(r->rand, 0, 4)];
    int64_t at = g_rand_int_range(r->rand, 0, r->size + 1);

    switch (g_rand_int_range(r->rand, 0, 4)) {
    case 0:
        at = at / mark * mark;
        break;
    case 1:
        at = at / mark * mark + g_rand_int_range(r->rand, -3, 4);
        break;
    case 2:
        at = r->size - g_rand_int_range(r->rand, 0, 5000);
        break;
    default:
        break;
    }
    return CLAMP(at, 0, r->size);
}

static int64_t random_length(Run *r, int64_t offset)
{
    static const int max[] = { 20, 600, 5000, 70000, MAX_SIZE };
    int64_t n = g_rand_int_range(r->rand, 0, max[g_rand_int_range(r->rand, 0, 5)]);

    switch (g_rand_int_range(r->rand, 0, 4)) {
    case 0:
        return r->size - offset;
    case 1:
        n = n / 512 * 512;
        break;
    case 2:
        n = n / 4096 * 4096;
        break;
    default:
        break;
    }
    return MIN(n, r->size - offset);
}

/* Aligned or not. */
static uint8_t *random_buffer(Run *r)
{
    uint8_t *aligned = (uint8_t *)(((uintptr_t)r->buf + 4095) & ~4095ull);

    return aligned + (g_rand_boolean(r->rand) ? 0
                                              : g_rand_int_range(r->rand, 0, 4096));
}

static void do_read(Run *r, int64_t offset, int64_t bytes)
{
    uint8_t *buf = random_buffer(r);

    memset(buf, 0xa5, bytes + 1);
    g_assert_cmpint(bdrv_pread(r->bs, offset, bytes, buf), ==, 0);
    g_assert_true(memcmp(buf, r->shadow + offset, bytes) == 0);
    g_assert_cmpint(buf[bytes], ==, 0xa5);
}

static void do_write(Run *r, int64_t offset, int64_t bytes)
{
    uint8_t *buf = random_buffer(r);
    int flags = g_rand_int_range(r->rand, 0, 20) ? 0 : BDRV_REQ_FUA;

    flags |= g_rand_int_range(r->rand, 0, 4) ? 0 : BDRV_REQ_SERIALISING;
    block_test_fill(buf, bytes, g_rand_int(r->rand));
    memcpy(r->shadow + offset, buf, bytes);
    g_assert_cmpint(bdrv_pwrite(r->bs, offset, bytes, buf, flags), ==, 0);
    g_assert_true(memcmp(buf, r->shadow + offset, bytes) == 0);
}

static void do_zero(Run *r, int64_t offset, int64_t bytes)
{
    int flags = g_rand_int_range(r->rand, 0, 8); /* FUA, MAY_UNMAP, NO_FALLBACK */
    int ret = bdrv_pwrite_zeroes(r->bs, offset, bytes, flags);

    if (ret != -ENOTSUP || !(flags & BDRV_REQ_NO_FALLBACK)) {
        g_assert_cmpint(ret, ==, 0);
        memset(r->shadow + offset, 0, bytes);
    }
}

/* Every byte is as it was or zero afterwards; the rest is untouched. */
static void do_discard(Run *r, int64_t offset, int64_t bytes)
{
    uint8_t *buf = random_buffer(r);

    g_assert_cmpint(bdrv_pdiscard(r->bs, offset, bytes), ==, 0);
    g_assert_cmpint(bdrv_pread(r->bs, offset, bytes, buf), ==, 0);
    for (int64_t i = 0; i < bytes; i++) {
        if (buf[i] != r->shadow[offset + i]) {
            g_assert_cmpint(buf[i], ==, 0);
            r->shadow[offset + i] = 0;
        }
    }
}

static void do_status(Run *r, int64_t offset, int64_t bytes)
{
    int64_t n = -1;
    int ret = bdrv_block_status(r->bs, offset, bytes, &n);

    if (bytes == 0) {
        g_assert_cmpint(ret, ==, -EINVAL);
        return;
    }
    g_assert_cmpint(ret, >=, 0);
    g_assert_true(ret & BDRV_BLOCK_ALLOCATED);
    g_assert_cmpint(n, >=, 1);
    g_assert_cmpint(n, <=, bytes);
    for (int64_t i = 0; (ret & BDRV_BLOCK_ZERO) && i < n; i++) {
        g_assert_cmpint(r->shadow[offset + i], ==, 0);
    }
}

static void do_truncate(Run *r)
{
    int64_t size = g_rand_int_range(r->rand, 0, 8)
                       ? r->size + g_rand_int_range(r->rand, -5000, 5000)
                       : sizes[g_rand_int_range(r->rand, 0, G_N_ELEMENTS(sizes))];
    GError *err = NULL;

    size = CLAMP(size, 0, MAX_SIZE);
    bdrv_truncate(r->bs, size, &err);
    g_assert_no_error(err);
    if (size < r->size) {
        memset(r->shadow + size, 0, r->size - size);
    }
    r->size = size;
    g_assert_cmpint(bdrv_length(r->bs), ==, size);
}

static void do_something(Run *r)
{
    int64_t offset = random_offset(r);
    int64_t bytes = random_length(r, offset);

    switch (g_rand_int_range(r->rand, 0, 40)) {
    case 0 ... 14:
        do_read(r, offset, bytes);
        break;
    case 15 ... 29:
        do_write(r, offset, bytes);
        break;
    case 30 ... 32:
        do_zero(r, offset, bytes);
        break;
    case 33 ... 34:
        do_discard(r, offset, bytes);
        break;
    case 35 ... 36:
        do_status(r, offset, bytes);
        break;
    case 37:
        g_assert_cmpint(bdrv_flush(r->bs), ==, 0);
        break;
    default:
        do_truncate(r);
        break;
    }
}

static void check_file(const char *path, const Run *r)
{
    g_autofree char *data = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    g_assert_cmpint(len, ==, r->size);
    g_assert_true(memcmp(data, r->shadow, len) == 0);
}

static void run_random(const Mode *mode, const char *dir, int64_t size)
{
    g_autofree char *path = block_test_path(dir, "random.raw");
    g_autofree char *name = g_strconcat(mode->prefix, path, NULL);
    /* Every write to the disk itself takes its time. */
    int rounds = mode->flags & BDRV_O_WRITETHROUGH ? 50 : 250;
    Run r = {
        .size = size,
        .shadow = g_malloc0(MAX_SIZE),
        .buf = g_malloc(MAX_SIZE + 3 * 4096),
        .rand = g_rand_new_with_seed(g_test_rand_int()),
    };

    block_test_file_new(path, size, 7);
    if (!mode->format && size) {
        g_unlink(path); /* no accidental magic number, please */
        block_test_file_new(path, size, 8);
    }
    block_test_fill(r.shadow, size, mode->format || !size ? 7 : 8);
    r.bs = block_test_open(name, mode->format,
                     mode->flags | BDRV_O_RDWR | BDRV_O_UNMAP);
    for (int i = 0; i < rounds; i++) {
        do_something(&r);
    }
    bdrv_unref(r.bs);
    check_file(path, &r);
    g_rand_free(r.rand);
    g_free(r.shadow);
    g_free(r.buf);
}

static void test_random(gconstpointer data)
{
    const Mode *mode = data;
    char *dir = block_test_dir_new();

    if ((mode->flags & BDRV_O_NOCACHE) && !block_test_have_direct(dir)) {
        g_test_skip("no O_DIRECT on the file system of the build directory");
    } else {
        for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
            run_random(mode, dir, sizes[i]);
        }
    }
    block_test_dir_remove(dir);
}

/* ---- ranges, read-only, unknown formats ------------------------------ */

static void test_ranges(void)
{
    char *dir = block_test_dir_new();
    g_autofree char *path = block_test_path(dir, "a.raw");
    g_autoptr(BlockNode) bs = NULL;
    int64_t n;
    char c = 1;

    block_test_file_new(path, 1000, 1);
    bs = block_test_open(path, "raw", BDRV_O_RDWR);
    g_assert_cmpint(bdrv_pread(bs, 1000, 0, &c), ==, 0);
    g_assert_cmpint(bdrv_pread(bs, 1000, 1, &c), ==, -EINVAL);
    g_assert_cmpint(bdrv_pread(bs, -1, 1, &c), ==, -EINVAL);
    g_assert_cmpint(bdrv_pread(bs, 0, -1, &c), ==, -EINVAL);
    g_assert_cmpint(bdrv_pread(bs, INT64_MAX, 1, &c), ==, -EINVAL);
    g_assert_cmpint(bdrv_pread(bs, 0, BDRV_REQUEST_MAX_BYTES + 1, &c), ==,
                    -EINVAL);
    g_assert_cmpint(bdrv_pwrite(bs, 1000, 1, &c, 0), ==, -ENOSPC);
    g_assert_cmpint(bdrv_pwrite(bs, -1, 1, &c, 0), ==, -EINVAL);
    g_assert_cmpint(bdrv_pwrite(bs, 0, BDRV_REQUEST_MAX_BYTES + 1, &c, 0), ==,
                    -EINVAL);
    g_assert_cmpint(bdrv_pwrite_zeroes(bs, 1, 1000, 0), ==, -ENOSPC);
    g_assert_cmpint(bdrv_pwrite_zeroes(bs, INT64_MAX - 5, 100, 0), ==, -EINVAL);
    g_assert_cmpint(bdrv_pdiscard(bs, 1, 1000), ==, -ENOSPC);
    g_assert_cmpint(bdrv_block_status(bs, 1, 1000, &n), ==, -EINVAL);
    block_test_dir_remove(dir);
}

static void test_read_only(void)
{
    char *dir = block_test_dir_new();
    g_autofree char *path = block_test_path(dir, "a.raw");
    g_autoptr(BlockNode) bs = NULL;
    GError *err = NULL;
    char c;

    block_test_file_new(path, 1000, 1);
    g_assert_cmpint(g_chmod(path, 0400), ==, 0);
    bs = block_test_open(path, "raw", 0);
    g_assert_true(bdrv_is_read_only(bs));
    g_assert_cmpint(bdrv_pread(bs, 999, 1, &c), ==, 0);
    g_assert_cmpint(bdrv_pwrite(bs, 0, 1, &c, 0), ==, -EPERM);
    g_assert_cmpint(bdrv_pwrite_zeroes(bs, 0, 1, 0), ==, -EPERM);
    g_assert_cmpint(bdrv_pdiscard(bs, 0, 1), ==, -EPERM);
    g_assert_cmpint(bdrv_flush(bs), ==, 0);
    g_assert_false(bdrv_truncate(bs, 5, &err));
    g_assert_nonnull(strstr(err->message, "read-only"));
    g_clear_error(&err);
    block_test_dir_remove(dir);
}

static void test_names(void)
{
    char *dir = block_test_dir_new();
    g_autofree char *path = block_test_path(dir, "a.raw");
    g_autofree char *prefixed = g_strconcat("file:", path, NULL);
    GError *err = NULL;
    BlockNode *bs;

    block_test_file_new(path, 3000, 1);
    bs = block_test_open(prefixed, "raw", BDRV_O_RDWR);
    g_assert_cmpstr(bdrv_filename(bs), ==, prefixed);
    g_assert_cmpstr(bdrv_format_name(bs), ==, "raw");
    g_assert_cmpint(bdrv_open_flags(bs), ==, BDRV_O_RDWR);
    g_assert_cmpint(bdrv_request_alignment(bs), ==, 1);
    g_assert_cmpint(bdrv_allocated_size(bs), >=, 3000);
    g_assert_true(bdrv_ref(bs) == bs);
    bdrv_unref(bs);
    g_assert_cmpint(bdrv_length(bs), ==, 3000);
    bdrv_unref(bs);

    g_assert_cmpstr(bdrv_format_names()[0], ==, "raw");
    g_assert_null(bdrv_open(path, "qcow7", 0, &err));
    g_assert_error(err, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED);
    g_clear_error(&err);
    g_assert_null(bdrv_open(path, "file", 0, &err));
    g_assert_error(err, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED);
    g_clear_error(&err);
    g_assert_null(bdrv_open("nbd:localhost:10809", NULL, 0, &err));
    g_assert_error(err, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED);
    g_assert_nonnull(strstr(err->message, "'nbd'"));
    g_clear_error(&err);
    block_test_dir_remove(dir);
}

/* A name out of an image's header leads to a file and nowhere else. */
static void test_plain_file(void)
{
    char *dir = block_test_dir_new();
    g_autofree char *path = block_test_path(dir, "a.raw");
    g_autofree char *fault = g_strconcat("fault:any=EIO:", path, NULL);
    GError *err = NULL;

    block_test_file_new(path, 3000, 1);
    bdrv_unref(block_test_open(path, "raw", BDRV_O_PLAIN_FILE));
    g_assert_null(bdrv_open(fault, "raw", BDRV_O_PLAIN_FILE, &err));
    g_assert_error(err, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED);
    g_clear_error(&err);
    block_test_dir_remove(dir);
}

static void test_create(void)
{
    char *dir = block_test_dir_new();
    g_autofree char *path = block_test_path(dir, "new.raw");
    GError *err = NULL;
    BlockNode *bs;

    g_assert_true(bdrv_create(path, "raw", 1000001, NULL, NULL, &err));
    g_assert_no_error(err);
    g_assert_false(bdrv_create(path, "raw", 1, NULL, NULL, &err));
    g_assert_nonnull(strstr(err->message, "File exists"));
    g_clear_error(&err);
    bs = block_test_open(path, "raw", 0);
    g_assert_cmpint(bdrv_length(bs), ==, 1000001);
    bdrv_unref(bs);
    g_unlink(path);

    g_assert_false(bdrv_create(path, "raw", -1, NULL, NULL, &err));
    g_clear_error(&err);
    g_assert_false(bdrv_create(path, "raw", 1, "base", "raw", &err));
    g_clear_error(&err);
    /* Larger than the file system takes: nothing is left. */
    g_assert_false(bdrv_create(path, "raw", INT64_MAX, NULL, NULL, &err));
    g_assert_nonnull(err);
    g_clear_error(&err);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    block_test_dir_remove(dir);
}

static void test_inactivate(void)
{
    char *dir = block_test_dir_new();
    g_autofree char *path = block_test_path(dir, "a.raw");
    g_autoptr(BlockNode) bs = NULL;
    GError *err = NULL;
    int64_t n;
    char c = 0;

    block_test_file_new(path, 1000, 1);
    bs = block_test_open(path, "raw", BDRV_O_RDWR);
    g_assert_cmpint(bdrv_pwrite(bs, 0, 1, &c, 0), ==, 0);
    g_assert_true(bdrv_inactivate(bs, &err));
    g_assert_no_error(err);
    g_assert_true(bdrv_inactivate(bs, &err));
    g_assert_cmpint(bdrv_pread(bs, 0, 1, &c), ==, -ENOMEDIUM);
    g_assert_cmpint(bdrv_pwrite(bs, 0, 1, &c, 0), ==, -ENOMEDIUM);
    g_assert_cmpint(bdrv_pwrite_zeroes(bs, 0, 1, 0), ==, -ENOMEDIUM);
    g_assert_cmpint(bdrv_pdiscard(bs, 0, 1), ==, -ENOMEDIUM);
    g_assert_cmpint(bdrv_flush(bs), ==, -ENOMEDIUM);
    g_assert_cmpint(bdrv_block_status(bs, 0, 1, &n), ==, -ENOMEDIUM);
    g_assert_cmpint(bdrv_allocated_size(bs), ==, -ENOMEDIUM);
    g_assert_cmpint(bdrv_length(bs), ==, 1000);
    g_assert_false(bdrv_truncate(bs, 5, &err));
    g_clear_error(&err);
    /* Its locks are gone: another may have it. */
    bdrv_unref(block_test_open(path, "raw", BDRV_O_RDWR));
    block_test_dir_remove(dir);
}

/* A flush that fails keeps the hand-over from happening. */
static void test_inactivate_fails(void)
{
    char *dir = block_test_dir_new();
    g_autofree char *path = block_test_path(dir, "a.raw");
    g_autofree char *name = g_strconcat("fault:flush#1=EIO:", path, NULL);
    g_autoptr(BlockNode) bs = NULL;
    GError *err = NULL;
    char c = 0;

    block_test_file_new(path, 1000, 1);
    bs = block_test_open(name, "raw", BDRV_O_RDWR);
    g_assert_cmpint(bdrv_pwrite(bs, 0, 1, &c, 0), ==, 0);
    g_assert_false(bdrv_inactivate(bs, &err));
    g_assert_nonnull(strstr(err->message, "Input/output error"));
    g_clear_error(&err);
    g_assert_cmpint(bdrv_pread(bs, 0, 1, &c), ==, 0);
    block_test_dir_remove(dir);
}

/* ---- probing --------------------------------------------------------- */

static const struct {
    const char *format;
    size_t at, len;
    const char *bytes;
} headers[] = {
    { "qcow2", 0, 8, "QFI\xfb\0\0\0\3" },
    { "qcow", 0, 8, "QFI\xfb\0\0\0\1" },
    { "qed", 0, 4, "QED\0" },
    { "vmdk", 0, 4, "KDMV" },
    { "vmdk", 0, 42, "# Disk DescriptorFile\n\n# x\r\n \r\nversion=1\n" },
    { "vdi", 64, 4, "\x7f\x10\xda\xbe" },
    { "vhdx", 0, 8, "vhdxfile" },
    { "vpc", 0, 8, "conectix" },
    { "luks", 0, 6, "LUKS\xba\xbe" },
    { "parallels", 0, 16, "WithoutFreeSpace" },
};

static void header_image(const char *path, size_t i)
{
    char buf[2000] = { 0 };

    memcpy(buf + headers[i].at, headers[i].bytes, headers[i].len);
    g_assert_true(g_file_set_contents(path, buf, sizeof(buf), NULL));
}

static bool have_driver(const char *format)
{
    return g_strv_contains(bdrv_format_names(), format);
}

static void test_probe_others(void)
{
    char *dir = block_test_dir_new();
    g_autofree char *path = block_test_path(dir, "image");

    for (size_t i = 0; i < G_N_ELEMENTS(headers); i++) {
        GError *err = NULL;

        header_image(path, i);
        if (have_driver(headers[i].format)) {
            continue;
        }
        g_assert_null(bdrv_open(path, NULL, 0, &err));
        g_assert_error(err, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED);
        g_assert_nonnull(strstr(err->message, headers[i].format));
        g_clear_error(&err);
        bdrv_unref(block_test_open(path, "raw", 0)); /* as you say */
    }
    block_test_dir_remove(dir);
}

/* In one piece, in two, byte by byte: never a header of another format. */
static void test_probed_keeps_raw(void)
{
    char *dir = block_test_dir_new();
    g_autofree char *path = block_test_path(dir, "image");
    char zeros[1024] = { 0 }, sector[1024], back[1024];

    for (size_t i = 0; i < G_N_ELEMENTS(headers); i++) {
        size_t end = headers[i].at + headers[i].len;
        g_autoptr(BlockNode) bs = NULL;
        int ret = 0;

        memset(sector, 0, sizeof(sector));
        memcpy(sector + headers[i].at, headers[i].bytes, headers[i].len);
        g_assert_true(g_file_set_contents(path, zeros, sizeof(zeros), NULL));
        bs = block_test_open(path, NULL, BDRV_O_RDWR);
        g_assert_true(bdrv_open_flags(bs) & BDRV_O_PROBED);
        g_assert_cmpint(bdrv_pwrite(bs, 0, 1024, sector, 0), ==, -EPERM);
        g_assert_cmpint(bdrv_pwrite(bs, 0, 512, sector, 0), ==, -EPERM);
        g_assert_cmpint(bdrv_pwrite(bs, 512, 512, sector, 0), ==, 0);
        for (size_t k = headers[i].at; k < end; k++) {
            int r = bdrv_pwrite(bs, k, 1, sector + k, 0);

            g_assert_true(r == 0 || r == -EPERM);
            ret = ret ? ret : r;
        }
        g_assert_cmpint(ret, ==, -EPERM);
        g_assert_cmpint(bdrv_pread(bs, 0, 1024, back), ==, 0);
        g_assert_true(memcmp(back, sector, end) != 0);
        g_clear_pointer(&bs, bdrv_unref);
        bs = block_test_open(path, NULL, 0);
        g_assert_cmpstr(bdrv_format_name(bs), ==, "raw");
        g_clear_pointer(&bs, bdrv_unref);

        bs = block_test_open(path, "raw", BDRV_O_RDWR);
        g_assert_cmpint(bdrv_pwrite(bs, 0, 1024, sector, 0), ==, 0);
    }
    block_test_dir_remove(dir);
}

/* ---- threads --------------------------------------------------------- */

#define SLOT 100
#define SLOTS 400
#define WRITERS 4

typedef struct {
    BlockNode *bs;
    unsigned me;
    unsigned rounds;
} Writer;

/* Slots of 100 bytes lie many to a block; each has one writer. */
static void *write_slots(void *opaque)
{
    Writer *w = opaque;
    uint8_t buf[SLOT], back[SLOT];

    for (unsigned round = 0; round < w->rounds; round++) {
        for (unsigned slot = w->me; slot < SLOTS; slot += WRITERS) {
            block_test_fill(buf, SLOT, round * SLOTS + slot);
            g_assert_cmpint(bdrv_pwrite(w->bs, slot * SLOT, SLOT, buf, 0), ==, 0);
            g_assert_cmpint(bdrv_pread(w->bs, slot * SLOT, SLOT, back), ==, 0);
            g_assert_cmpmem(buf, SLOT, back, SLOT);
        }
    }
    return NULL;
}

static void run_slots(const char *path, const Mode *mode)
{
    g_autofree char *name = g_strconcat(mode->prefix, path, NULL);
    g_autoptr(BlockNode) bs = NULL;
    GThread *threads[WRITERS];
    Writer w[WRITERS];
    uint8_t buf[SLOT], back[SLOT];
    const unsigned rounds = 4;

    block_test_file_new(path, SLOTS * SLOT, 3);
    bs = block_test_open(name, "raw", mode->flags | BDRV_O_RDWR);
    for (unsigned i = 0; i < WRITERS; i++) {
        w[i] = (Writer){ bs, i, rounds };
        threads[i] = g_thread_new("writer", write_slots, &w[i]);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        g_thread_join(threads[i]);
    }
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        block_test_fill(buf, SLOT, (rounds - 1) * SLOTS + slot);
        g_assert_cmpint(bdrv_pread(bs, slot * SLOT, SLOT, back), ==, 0);
        g_assert_cmpmem(buf, SLOT, back, SLOT);
    }
}

static void test_threads(gconstpointer data)
{
    const Mode *mode = data;
    char *dir = block_test_dir_new();
    g_autofree char *path = block_test_path(dir, "slots.raw");

    if ((mode->flags & BDRV_O_NOCACHE) && !block_test_have_direct(dir)) {
        g_test_skip("no O_DIRECT on the file system of the build directory");
    } else {
        run_slots(path, mode);
    }
    block_test_dir_remove(dir);
}

typedef struct {
    BlockNode *bs;
    uint32_t seed;
    _Atomic uint64_t done; /* requests that succeeded */
} Busy;

/* Anywhere, in the image or behind it, until shut out. */
static void *keep_busy(void *opaque)
{
    Busy *b = opaque;
    GRand *rand = g_rand_new_with_seed(b->seed);
    uint8_t buf[3000] = { 1 };
    int ret = 0;

    while (ret != -ENOMEDIUM) {
        int64_t offset = g_rand_int_range(rand, 0, 20000);
        int64_t bytes = g_rand_int_range(rand, 0, sizeof(buf));
        int64_t n;

        switch (g_rand_int_range(rand, 0, 6)) {
        case 0:
            ret = bdrv_pread(b->bs, offset, bytes, buf);
            break;
        case 1:
            ret = bdrv_pwrite_zeroes(b->bs, offset, bytes, 0);
            break;
        case 2:
            ret = bdrv_block_status(b->bs, offset, bytes + 1, &n);
            ret = MIN(ret, 0);
            break;
        case 3:
            ret = bdrv_allocated_size(b->bs);
            ret = MIN(ret, 0);
            break;
        default:
            ret = bdrv_pwrite(b->bs, offset, bytes, buf, 0);
            break;
        }
        g_assert_true(ret == 0 || ret == -EINVAL || ret == -ENOSPC ||
                      ret == -ENOMEDIUM);
        b->done += ret == 0;
    }
    g_rand_free(rand);
    return NULL;
}

static void wait_until_busy(Busy *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t before = b[i].done;

        while (b[i].done < before + 3) {
            g_usleep(10);
        }
    }
}

/* No request slips behind an end that moves; after the end nobody gets in. */
static void test_resize_while_busy(gconstpointer data)
{
    const char *prefix = data;
    char *dir = block_test_dir_new();
    g_autofree char *path = block_test_path(dir, "a.raw");
    g_autofree char *name = g_strconcat(prefix, path, NULL);
    g_autoptr(BlockNode) bs = NULL;
    GThread *threads[WRITERS];
    Busy b[WRITERS];
    GError *err = NULL;
    GStatBuf st;

    block_test_file_new(path, 15000, 1);
    bs = block_test_open(name, "raw", BDRV_O_RDWR);
    for (unsigned i = 0; i < WRITERS; i++) {
        b[i] = (Busy){ .bs = bs, .seed = g_test_rand_int() };
        threads[i] = g_thread_new("busy", keep_busy, &b[i]);
    }
    for (unsigned i = 0; i < 60; i++) {
        int64_t size = g_test_rand_int_range(9000, 20000);

        wait_until_busy(b, WRITERS);
        bdrv_truncate(bs, size, &err);
        g_assert_no_error(err);
        g_assert_cmpint(g_stat(path, &st), ==, 0);
        g_assert_cmpint(st.st_size, ==, size);
    }
    wait_until_busy(b, WRITERS);
    g_assert_true(bdrv_inactivate(bs, &err));
    for (unsigned i = 0; i < WRITERS; i++) {
        g_thread_join(threads[i]);
    }
    g_assert_cmpint(g_stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, bdrv_length(bs));
    block_test_dir_remove(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_autofree char *random = g_strconcat("/block/random/", modes[i].name,
                                              NULL);
        g_autofree char *threads = g_strconcat("/block/threads/", modes[i].name,
                                               NULL);

        g_test_add_data_func(random, &modes[i], test_random);
        g_test_add_data_func(threads, &modes[i], test_threads);
    }
    g_test_add_data_func("/block/resize-while-busy", "", test_resize_while_busy);
    g_test_add_data_func("/block/resize-while-busy/blocks-of-4096",
                         "fault:align=4096:", test_resize_while_busy);
    g_test_add_func("/block/ranges", test_ranges);
    g_test_add_func("/block/read-only", test_read_only);
    g_test_add_func("/block/names", test_names);
    g_test_add_func("/block/plain-file", test_plain_file);
    g_test_add_func("/block/create", test_create);
    g_test_add_func("/block/inactivate", test_inactivate);
    g_test_add_func("/block/inactivate/flush-fails", test_inactivate_fails);
    g_test_add_func("/block/probe/others", test_probe_others);
    g_test_add_func("/block/probe/keeps-raw", test_probed_keeps_raw);
    return g_test_run();
}
