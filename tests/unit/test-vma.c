/*
 * VMA writer and reader against each other, and the reader against everything
 * that is not an archive.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "vma-sample.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/error.h"

#define EXPECT_ERROR(error, part)                          \
    do {                                                   \
        g_assert_nonnull(error);                           \
        if (!strstr((error)->message, (part))) {           \
            g_test_message("said: %s", (error)->message);  \
            g_test_message("want: %s", (part));            \
            g_test_fail();                                 \
        }                                                  \
        g_clear_error(&(error));                           \
    } while (0)

static SampleVm *small_vm(void)
{
    const uint64_t sizes[] = { 3 * 65536 + 5000, 4096, 65536 };

    return sample_vm_new(3, sizes, 2);
}

/* ---- round trips -------------------------------------------------------- */

static void round_trip(const SampleVm *vm, size_t max_piece)
{
    g_autoptr(GByteArray) a = sample_vm_archive(vm);
    GError *error = NULL;

    g_assert_true(sample_read(a->data, a->len, max_piece, vm, &error));
    g_assert_no_error(error);
}

static void test_strange_sizes(void)
{
    static const uint64_t sizes[] = {
        1, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, 61440, 61441,
        59 * 65536, 59 * 65536 + 1, 60 * 65536 - 1, 120 * 65536,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        SampleVm *vm = sample_vm_new(1, &sizes[i], i % 3);

        vm->digest = i % 2;
        round_trip(vm, 0);
        sample_vm_free(vm);
    }
}

static void test_random_sizes(void)
{
    for (int round = 0; round < 12; round++) {
        uint64_t sizes[4];
        SampleVm *vm;

        for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
            sizes[i] = g_test_rand_int_range(1, 3 << 20);
        }
        vm = sample_vm_new(1 + round % 4, sizes, round);
        vm->digest = round % 3;
        round_trip(vm, round % 2 ? 0 : 200000);
        sample_vm_free(vm);
    }
}

static void test_byte_by_byte(void)
{
    SampleVm *vm = small_vm();

    round_trip(vm, 1);
    for (int i = 0; i < 20; i++) {
        round_trip(vm, g_test_rand_int_range(1, 9000));
    }
    sample_vm_free(vm);
}

static void test_configurations_only(void)
{
    SampleVm *vm = sample_vm_new(0, NULL, VMA_MAX_CONFIGS);
    g_autoptr(GByteArray) a = sample_vm_archive(vm);
    GError *error = NULL;

    round_trip(vm, 0);
    /* One empty extent: older readers want one. */
    g_assert_cmpuint(a->len, ==, sample_extent_pos(a->data, a->len, 0) + 512);
    g_assert_false(sample_read(a->data, a->len - 512, 0, NULL, &error));
    EXPECT_ERROR(error, "archive ends where the first extent must be");
    sample_vm_free(vm);
}

/* ---- the writer's rules -------------------------------------------------- */

typedef struct {
    VmaTarget *t;
    VmaWriter *w;
} Writing;

static Writing writing(void)
{
    static const uint8_t uuid[16] = { 1 };
    GError *error = NULL;
    Writing x;

    x.t = vma_target_from_fd(memfd_create("a", MFD_CLOEXEC), "out.vma", &error);
    x.w = vma_writer_new(x.t, uuid, 0, true, &error);
    g_assert_no_error(error);
    return x;
}

static void writing_end(Writing *x)
{
    vma_writer_free(x->w);
    vma_target_free(x->t);
}

static void test_writer_refuses_names(void)
{
    static const char *const names[] = {
        "", ".", "..", "a/b", "/a", "../x", "a\nb", "\x7f", "a\x1b",
    };
    g_autofree char *longname = g_strnfill(256, 'x');
    Writing x = writing();
    GError *error = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_assert_cmpuint(vma_writer_add_device(x.w, names[i], 512, &error), ==, 0);
        EXPECT_ERROR(error, "out.vma: the name of device");
        g_assert_false(vma_writer_add_config(x.w, names[i], "x", 1, &error));
        EXPECT_ERROR(error, "out.vma: the name of configuration");
    }
    g_assert_cmpuint(vma_writer_add_device(x.w, longname, 512, &error), ==, 0);
    EXPECT_ERROR(error, "longer than 255");
    longname[255] = '\0';
    g_assert_cmpuint(vma_writer_add_device(x.w, longname, 512, &error), ==, 1);
    g_assert_cmpuint(vma_writer_add_device(x.w, longname, 512, &error), ==, 0);
    EXPECT_ERROR(error, "two devices named");
    g_assert_true(vma_writer_add_config(x.w, "c", "x", 1, &error));
    g_assert_false(vma_writer_add_config(x.w, "c", "x", 1, &error));
    EXPECT_ERROR(error, "two configurations named c");
    writing_end(&x);
}

static void test_writer_limits(void)
{
    g_autofree char *large = g_malloc0(65536);
    Writing x = writing();
    GError *error = NULL;

    g_assert_cmpuint(vma_writer_add_device(x.w, "zero", 0, &error), ==, 0);
    EXPECT_ERROR(error, "no archive can hold 0 bytes");
    g_assert_cmpuint(vma_writer_add_device(x.w, "huge", (1ull << 48) + 1, &error), ==, 0);
    EXPECT_ERROR(error, "no archive can hold");
    g_assert_true(vma_writer_add_config(x.w, "large", large, 65535, &error));
    g_assert_false(vma_writer_add_config(x.w, "larger", large, 65536, &error));
    EXPECT_ERROR(error, "larger than 65535 bytes");
    for (unsigned i = 0; i < VMA_MAX_DEVICES; i++) {
        g_autofree char *name = g_strdup_printf("d%u", i);

        g_assert_cmpuint(vma_writer_add_device(x.w, name, 1ull << 48, &error), ==, i + 1);
    }
    g_assert_cmpuint(vma_writer_add_device(x.w, "more", 1, &error), ==, 0);
    EXPECT_ERROR(error, "more than 254 devices");
    for (unsigned i = 1; i < VMA_MAX_CONFIGS; i++) {
        g_autofree char *name = g_strdup_printf("c%u", i);

        g_assert_true(vma_writer_add_config(x.w, name, "", 0, &error));
    }
    g_assert_false(vma_writer_add_config(x.w, "more", "", 0, &error));
    EXPECT_ERROR(error, "more than 256 configurations");
    writing_end(&x);
}

static void test_writer_wants_every_cluster_once(void)
{
    Writing x = writing();
    GError *error = NULL;
    unsigned d = vma_writer_add_device(x.w, "d", 3 * 65536, &error);

    g_assert_cmpint(vma_writer_put_cluster(x.w, d, 0, NULL, &error), ==, 65536);
    g_assert_cmpint(vma_writer_put_cluster(x.w, d, 0, NULL, &error), ==, -1);
    EXPECT_ERROR(error, "device d: cluster 0 was written before");
    g_assert_cmpint(vma_writer_put_cluster(x.w, d, 3, NULL, &error), ==, -1);
    EXPECT_ERROR(error, "device d has no cluster 3");
    g_assert_cmpint(vma_writer_put_cluster(x.w, d, UINT64_MAX, NULL, &error), ==, -1);
    EXPECT_ERROR(error, "has no cluster");
    g_assert_cmpint(vma_writer_put_cluster(x.w, d + 1, 0, NULL, &error), ==, -1);
    EXPECT_ERROR(error, "no device with id 2");
    g_assert_cmpint(vma_writer_put_cluster(x.w, 0, 0, NULL, &error), ==, -1);
    EXPECT_ERROR(error, "no device with id 0");
    g_assert_cmpuint(vma_writer_add_device(x.w, "late", 512, &error), ==, 0);
    EXPECT_ERROR(error, "too late");
    g_assert_cmpint(vma_writer_put_cluster(x.w, d, 2, NULL, &error), ==, 65536);
    g_assert_false(vma_writer_finish(x.w, &error));
    EXPECT_ERROR(error, "device d: cluster 1 was never written");
    writing_end(&x);
}

static void test_writer_reports_a_failing_target(void)
{
    static const uint8_t uuid[16];
    g_autofree uint8_t *buf = g_malloc(65536);
    GError *error = NULL;
    VmaTarget *t = vma_target_open("/dev/full", &error);
    VmaWriter *w = vma_writer_new(t, uuid, 0, true, &error);
    unsigned d = vma_writer_add_device(w, "d", 1000 * 65536, &error);
    uint64_t c = 0;

    memset(buf, 1, 65536);
    while (c < 1000 && vma_writer_put_cluster(w, d, c, buf, &error) >= 0) {
        c++;
    }
    g_assert_cmpuint(c, <, 1000);
    EXPECT_ERROR(error, "/dev/full: cannot write: No space left");
    g_assert_false(vma_target_commit(t, &error));
    EXPECT_ERROR(error, "earlier write failed");
    vma_writer_free(w);
    vma_target_free(t);
}

/* ---- damaged archives ----------------------------------------------------- */

static bool is_boundary(const GByteArray *a, size_t n)
{
    size_t at = sample_extent_pos(a->data, a->len, 0);

    if (n < 64 || (n + 2 >= 12288 && n <= 12290)) {
        return true;
    }
    while (at < a->len) {
        size_t blocks = a->data[at + 6] << 8 | a->data[at + 7];

        for (size_t b = 0; b <= blocks; b++) {
            size_t edge = at + 512 + b * 4096;

            if ((n + 2 >= edge && n <= edge + 2) || (n + 2 >= at && n <= at + 2)) {
                return true;
            }
        }
        at += 512 + blocks * 4096;
    }
    return false;
}

static void test_truncated_anywhere(void)
{
    SampleVm *vm = small_vm();
    g_autoptr(GByteArray) a = sample_vm_archive(vm);
    size_t data = sample_extent_pos(a->data, a->len, 0) + 512;
    size_t digest = sample_extent_pos(a->data, a->len, 1);

    for (size_t n = 0; n < a->len; n++) {
        GError *error = NULL;

        if (n % 211 && !is_boundary(a, n)) {
            continue;
        }
        /* Without its last extent, a digest, the archive is still whole: other
         * tools write none. */
        if (n == digest) {
            g_assert_true(sample_read(a->data, n, 0, NULL, &error));
            continue;
        }
        g_assert_false(sample_read(a->data, n, n % 2 ? 5000 : 0, NULL, &error));
        EXPECT_ERROR(error, n >= data && n < digest ? "within the data" : "archive ends");
    }
    sample_vm_free(vm);
}

static void test_every_flipped_byte_is_found(void)
{
    SampleVm *vm = small_vm();
    g_autoptr(GByteArray) a = sample_vm_archive(vm);

    for (size_t n = 0; n < a->len; n += g_test_rand_int_range(1, 300)) {
        GError *error = NULL;
        uint8_t old = a->data[n];

        a->data[n] ^= 1 << g_test_rand_int_range(0, 8);
        if (sample_read(a->data, a->len, 0, NULL, &error)) {
            g_test_message("byte %zu", n);
            g_test_fail();
        }
        g_clear_error(&error);
        a->data[n] = old;
    }
    sample_vm_free(vm);
}

/* Random damage with good checksums over it: anything may come out, but only
 * within bounds (sample_read looks), and without waiting or crashing. */
static void test_random_mutations(void)
{
    SampleVm *vm = small_vm();
    g_autoptr(GByteArray) a = sample_vm_archive(vm);
    unsigned good = 0;

    for (int round = 0; round < 3000; round++) {
        g_autofree uint8_t *copy = g_memdup2(a->data, a->len);
        size_t extent = sample_extent_pos(a->data, a->len, round % 2);
        int changes = g_test_rand_int_range(1, 5);

        for (int i = 0; i < changes; i++) {
            static const uint32_t places[] = { 0, 2044, 3068, 4096, 12288 };
            size_t at = g_test_rand_int() % 3
                            ? extent + g_test_rand_int_range(0, 512)
                            : places[g_test_rand_int_range(0, 5)] +
                                  g_test_rand_int_range(0, 64);

            copy[MIN(at, a->len - 1)] = g_test_rand_int() % 2 ? g_test_rand_int() : 0xff;
        }
        sample_fix_md5(copy, a->len);
        good += sample_read(copy, a->len, round % 5 ? 0 : 3000, NULL, NULL);
    }
    g_test_message("%u of 3000 were still archives", good);
    sample_vm_free(vm);
}

static void test_noise(void)
{
    for (int round = 0; round < 300; round++) {
        size_t len = g_test_rand_int_range(0, 40000);
        g_autofree uint8_t *buf = g_malloc(len + 1);

        for (size_t i = 0; i < len; i++) {
            buf[i] = g_test_rand_int();
        }
        memcpy(buf, "VMA\0\0\0\0\1", MIN(len, 8));
        g_assert_false(sample_read(buf, len, 0, NULL, NULL));
    }
}

/* ---- each field out of range ------------------------------------------------ */

typedef struct {
    const char *what;
    int extent;     /* -1: offset is in the header */
    size_t offset;
    const char *bytes;
    size_t len;
    const char *error;
} Field;

#define BYTES(s) s, sizeof(s) - 1

static const Field fields[] = {
    { "magic", -1, 0, BYTES("VMB"), "header: not a VMA archive (wrong magic)" },
    { "zstd", -1, 0, BYTES("\x28\xb5\x2f\xfd"), "compressed by zstd" },
    { "gzip", -1, 0, BYTES("\x1f\x8b"), "compressed by gzip" },
    { "version 0", -1, 4, BYTES("\0\0\0\0"), "version 0 is not known" },
    { "version 2", -1, 4, BYTES("\0\0\0\2"), "version 2 is not known" },
    { "header size 0", -1, 56, BYTES("\0\0\0\0"), "size of 0 bytes is out of range" },
    { "header size small", -1, 56, BYTES("\0\0\x30\0"), "size of 12288 bytes is out of range" },
    { "header size huge", -1, 56, BYTES("\xff\xff\xff\xff"), "out of range" },
    { "header size long", -1, 56, BYTES("\0\1\0\0"), "extent 1 at 0x10000: not an extent" },
    { "blob offset small", -1, 48, BYTES("\0\0\x2f\xff"), "blob buffer" },
    { "blob offset past", -1, 48, BYTES("\0\0\x34\0"), "blob buffer" },
    { "blob offset wraps", -1, 48, BYTES("\xff\xff\xff\xff"), "blob buffer" },
    { "blob size past", -1, 52, BYTES("\0\0\2\1"), "blob buffer" },
    { "blob size wraps", -1, 52, BYTES("\xff\xff\xd0\0"), "blob buffer" },
    { "blob size 0", -1, 52, BYTES("\0\0\0\0"), "configuration 0: pointer 1" },
    { "blob size 2", -1, 52, BYTES("\0\0\0\2"), "configuration 0: pointer 1 is not" },
    { "config name past", -1, 2044, BYTES("\0\0\2\0"), "configuration 0: pointer 512" },
    { "config name wraps", -1, 2044, BYTES("\xff\xff\xff\xff"), "configuration 0: pointer" },
    { "config name none", -1, 2044, BYTES("\0\0\0\0"), "configuration 0: has no name" },
    { "config data none", -1, 3068, BYTES("\0\0\0\0"), "configuration 0: has no data" },
    { "config data past", -1, 3068, BYTES("\0\0\xff\xff"), "configuration 0: pointer" },
    { "config twice", -1, 2048, BYTES("\0\0\0\1"), "configuration 1: name 'config0.conf' appears twice" },
    { "config name slash", -1, 12288 + 3, BYTES("/"), "configuration 0: name '/onfig0.conf' contains a slash" },
    { "config name up", -1, 12288 + 3, BYTES("../"), "contains a slash" },
    { "config name NUL", -1, 12288 + 5, BYTES("\0"), "contains a control character" },
    { "config name no NUL", -1, 12288 + 3 + 12, BYTES("x"), "does not end with a NUL" },
    { "config name empty", -1, 12288 + 1, BYTES("\1\0\0"), "name '' is empty" },
    { "config name length 0", -1, 12288 + 1, BYTES("\0"), "does not end with a NUL" },
    { "config name length", -1, 12288 + 1, BYTES("\xff\xff"), "ends outside the blob buffer" },
    { "dev 0 used", -1, 4096, BYTES("\0\0\0\1"), "dev_id 0: only 1 to 254" },
    { "dev 0 sized", -1, 4096 + 8, BYTES("\0\0\0\0\0\0\2\0"), "dev_id 0: only 1 to 254" },
    { "dev 255 used", -1, 4096 + 255 * 32, BYTES("\0\0\0\1"), "dev_id 255: only 1 to 254" },
    { "dev no name", -1, 4096 + 32, BYTES("\0\0\0\0"), "dev_id 1: pointer 0" },
    { "dev name past", -1, 4096 + 32, BYTES("\0\1\0\0"), "dev_id 1: pointer 65536" },
    { "dev name is data", -1, 4096 + 32, BYTES("\0\0\0\2"), "dev_id 1: " },
    { "dev size 0", -1, 4096 + 32 + 8, BYTES("\0\0\0\0\0\0\0\0"), "dev_id 1: drive0: size of 0 bytes" },
    { "dev size huge", -1, 4096 + 32 + 8, BYTES("\0\1\0\0\0\0\0\1"), "is out of range" },
    { "dev size max", -1, 4096 + 32 + 8, BYTES("\xff\xff\xff\xff\xff\xff\xff\xff"), "is out of range" },
    { "dev smaller", -1, 4096 + 32 + 8, BYTES("\0\0\0\0\0\0\2\0"), "device drive0: cluster" },
    { "dev larger", -1, 4096 + 32 + 8, BYTES("\0\0\0\1\0\0\0\0"), "device drive0 lacks" },
    { "dev far", -1, 4096 + 32 + 8, BYTES("\0\1\0\0\0\0\0\0"), "device drive0 lacks 4294967292 of 4294967296 clusters" },
    { "one dev less", -1, 4096 + 32, BYTES("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), "extent 1 at 0x3200: there is no device with dev_id 1" },
    { "uuid differs", -1, 8, BYTES("differentdifferX"), "extent 1 at 0x3200: belongs to another archive" },
    { "extent magic", 0, 0, BYTES("VMAF"), "extent 1 at 0x3200: not an extent" },
    { "extent reserved", 0, 4, BYTES("\0\1"), "reserved field is not zero" },
    { "extent blocks", 0, 6, BYTES("\3\xb1"), "945 blocks, but 944 are the most" },
    { "extent blocks huge", 0, 6, BYTES("\xff\xff"), "65535 blocks" },
    { "extent blocks more", 0, 6, BYTES("\0\x2f"), "has 47 blocks, but its slots ask for 50" },
    { "extent blocks none", 0, 6, BYTES("\0\0"), "has 0 blocks, but its slots ask for" },
    { "extent uuid", 0, 8, BYTES("differentdifferX"), "belongs to another archive" },
    { "slot dev", 0, 40 + 3, BYTES("\x7b"), "there is no device with dev_id 123" },
    { "slot dev 255", 0, 40 + 3, BYTES("\xff"), "there is no device with dev_id 255" },
    { "slot cluster", 0, 40 + 4, BYTES("\0\0\0\x77"), "is past the end of the device" },
    { "slot cluster far", 0, 40 + 4, BYTES("\xff\xff\xff\xff"), "cluster 4294967295 is past the end" },
    { "slot mask more", 0, 40 + 32, BYTES("\0\1"), "has 50 blocks, but its slots ask for 51" },
    { "slot mask less", 0, 40, BYTES("\0\0"), "has 50 blocks, but its slots ask for 34" },
    { "slot mask past end", 0, 40 + 24, BYTES("\0\5"), "device drive0: cluster 3 has blocks past the end" },
    { "digest", 1, 40 + 4, BYTES("\xde\xad\xbe\xef"), "extent 1 at 0x3200: device " },
};

/* In a fixed order, so that the offsets above hold. */
static GByteArray *fixed_archive(void)
{
    static const uint8_t uuid[16] = "test of a header";
    static uint8_t buf[65536];
    int fd = memfd_create("archive", MFD_CLOEXEC), copy = dup(fd);
    GError *error = NULL;
    VmaTarget *t = vma_target_from_fd(fd, "memory", &error);
    VmaWriter *w = vma_writer_new(t, uuid, 1, true, &error);
    GByteArray *a = g_byte_array_new();

    memset(buf, 7, sizeof(buf));
    vma_writer_add_config(w, "config0.conf", "data", 4, &error);
    vma_writer_add_config(w, "config1.conf", "data", 4, &error);
    vma_writer_add_device(w, "drive0", 3 * 65536 + 4608, &error);
    vma_writer_add_device(w, "drive1", 65536, &error);
    for (unsigned i = 0; i < 4; i++) {
        g_assert_cmpint(vma_writer_put_cluster(w, 1, i, buf, &error), >=, 0);
    }
    g_assert_cmpint(vma_writer_put_cluster(w, 2, 0, NULL, &error), ==, 65536);
    g_assert_true(vma_writer_finish(w, &error) && vma_target_commit(t, &error));
    g_byte_array_set_size(a, vma_writer_bytes(w));
    g_assert_cmpint(pread(copy, a->data, a->len, 0), ==, a->len);
    close(copy);
    vma_writer_free(w);
    vma_target_free(t);
    return a;
}

static void test_each_field(void)
{
    g_autoptr(GByteArray) a = fixed_archive();

    g_assert_true(sample_read(a->data, a->len, 0, NULL, NULL));
    for (size_t i = 0; i < G_N_ELEMENTS(fields); i++) {
        const Field *f = &fields[i];
        g_autofree uint8_t *copy = g_memdup2(a->data, a->len);
        size_t base = f->extent < 0 ? 0 : sample_extent_pos(copy, a->len, f->extent);
        GError *error = NULL;

        memcpy(copy + base + f->offset, f->bytes, f->len);
        /* The changed extent's length may lead nowhere now. */
        if (f->extent < 0) {
            sample_fix_md5(copy, a->len);
        } else {
            g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_MD5);
            gsize n = 16;

            memset(copy + base + 24, 0, 16);
            g_checksum_update(sum, copy + base, 512);
            g_checksum_get_digest(sum, copy + base + 24, &n);
        }
        if (sample_read(copy, a->len, 0, NULL, &error)) {
            g_test_message("accepted: %s", f->what);
            g_test_fail();
            continue;
        }
        if (!g_str_has_prefix(error->message, "test.vma: ")) {
            g_test_message("names no archive: %s", error->message);
            g_test_fail();
        }
        EXPECT_ERROR(error, f->error);
    }
}

static void test_md5_of_headers(void)
{
    g_autoptr(GByteArray) a = fixed_archive();
    size_t extent = sample_extent_pos(a->data, a->len, 0);
    GError *error = NULL;

    a->data[extent + 24]++;
    g_assert_false(sample_read(a->data, a->len, 0, NULL, &error));
    EXPECT_ERROR(error, "extent 1 at 0x3200: MD5 of its header does not match");
    a->data[32]++;
    g_assert_false(sample_read(a->data, a->len, 0, NULL, &error));
    EXPECT_ERROR(error, "header: MD5 does not match");
}

/* A slot that is given twice, in one extent and in two. */
static void test_duplicate_cluster(void)
{
    g_autoptr(GByteArray) a = fixed_archive();
    size_t extent = sample_extent_pos(a->data, a->len, 0);
    g_autoptr(GByteArray) b = g_byte_array_new();
    GError *error = NULL;

    g_byte_array_append(b, a->data, a->len);
    g_byte_array_append(b, a->data + extent, a->len - extent);
    g_assert_false(sample_read(b->data, b->len, 0, NULL, &error));
    EXPECT_ERROR(error, "extent 3 at 0x");
    g_assert_false(sample_read(b->data, b->len, 0, NULL, &error));
    EXPECT_ERROR(error, "device drive0: cluster 0 appears twice");

    a->data[extent + 40 + 8 + 7] = 0;
    sample_fix_md5(a->data, a->len);
    g_assert_false(sample_read(a->data, a->len, 0, NULL, &error));
    EXPECT_ERROR(error, "extent 1 at 0x3200: device drive0: cluster 0 appears twice");
}

static void test_digest_extent_alone(void)
{
    g_autoptr(GByteArray) a = fixed_archive();
    size_t data = sample_extent_pos(a->data, a->len, 0);
    size_t digest = sample_extent_pos(a->data, a->len, 1);
    g_autoptr(GByteArray) b = g_byte_array_new();
    GError *error = NULL;

    g_byte_array_append(b, a->data, data);
    g_byte_array_append(b, a->data + digest, 512);
    g_byte_array_append(b, a->data + data, a->len - data);
    g_assert_false(sample_read(b->data, b->len, 0, NULL, &error));
    EXPECT_ERROR(error, "extent 1 at 0x3200: checksums that belong to no data");
}

/* A header may claim 254 devices of 256 TiB each: nothing is taken for that. */
static void test_claims_cost_nothing(void)
{
    Writing x = writing();
    GError *error = NULL;
    uint64_t n = 0;

    for (unsigned i = 0; i < VMA_MAX_DEVICES; i++) {
        g_autofree char *name = g_strdup_printf("d%u", i);

        vma_writer_add_device(x.w, name, 1ull << 48, &error);
    }
    /* Far apart, so that each takes what one can take at most. */
    for (unsigned i = 1; i <= 200; i++) {
        for (uint64_t c = 0; c < 1ull << 32; c += 1ull << 28) {
            g_assert_cmpint(vma_writer_put_cluster(x.w, i, c, NULL, &error), >=, 0);
            n++;
        }
    }
    g_assert_cmpuint(n, ==, 3200);
    writing_end(&x);
}

/* ---- the worked example of docs/specs/vma.txt -------------------------------- */

static GByteArray *example_archive(void)
{
    static uint8_t uuid[16], cluster[65536];
    int fd = memfd_create("archive", MFD_CLOEXEC), copy = dup(fd);
    GError *error = NULL;
    VmaTarget *t = vma_target_from_fd(fd, "memory", &error);
    GByteArray *a = g_byte_array_new();
    VmaWriter *w;

    for (unsigned i = 0; i < sizeof(uuid); i++) {
        uuid[i] = i * 0x11;
    }
    w = vma_writer_new(t, uuid, 1700000000, true, &error);
    vma_writer_add_config(w, "vm.conf", "name: demo\n", 11, &error);
    vma_writer_add_device(w, "vda", 65536 + 4096 + 512, &error);
    memset(cluster + 1 * 4096, 'A', 4096);
    memset(cluster + 3 * 4096, 'B', 4096);
    g_assert_cmpint(vma_writer_put_cluster(w, 1, 0, cluster, &error), ==, 14 * 4096);
    memset(cluster, 0, sizeof(cluster));
    memset(cluster + 4096, 'C', 512);
    g_assert_cmpint(vma_writer_put_cluster(w, 1, 1, cluster, &error), ==, 4096);
    g_assert_true(vma_writer_finish(w, &error) && vma_target_commit(t, &error));
    g_byte_array_set_size(a, vma_writer_bytes(w));
    g_assert_cmpint(pread(copy, a->data, a->len, 0), ==, a->len);
    close(copy);
    vma_writer_free(w);
    vma_target_free(t);
    return a;
}

/* "    00003228  00 0a …": the bytes at that offset.  How many there are. */
static unsigned check_dump_line(const char *line, const GByteArray *a)
{
    const char *p = line + strspn(line, " ");
    unsigned n = 0;
    char *end;
    guint64 at = g_ascii_strtoull(p, &end, 16);

    if (end != p + 8 || end[0] != ' ' || end[1] != ' ') {
        return 0;
    }
    for (p = end; g_ascii_isxdigit(p[strspn(p, " ")]); p = end) {
        g_assert_cmpuint(at + n, <, a->len);
        g_assert_cmphex(a->data[at + n], ==, g_ascii_strtoull(p, &end, 16));
        n++;
    }
    return n;
}

static void test_worked_example(void)
{
    g_autoptr(GByteArray) a = example_archive();
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    unsigned n = 0;

    if (!g_file_get_contents("docs/specs/vma.txt", &text, NULL, NULL)) {
        g_test_skip("not run in the source tree");
        return;
    }
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        n += check_dump_line(lines[i], a);
    }
    g_assert_cmpuint(n, >, 300);
    g_assert_true(sample_read(a->data, a->len, 0, NULL, NULL));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vma/round-trip/strange-sizes", test_strange_sizes);
    g_test_add_func("/vma/round-trip/random-sizes", test_random_sizes);
    g_test_add_func("/vma/round-trip/byte-by-byte", test_byte_by_byte);
    g_test_add_func("/vma/round-trip/configurations-only", test_configurations_only);
    g_test_add_func("/vma/writer/refuses-names", test_writer_refuses_names);
    g_test_add_func("/vma/writer/limits", test_writer_limits);
    g_test_add_func("/vma/writer/every-cluster-once", test_writer_wants_every_cluster_once);
    g_test_add_func("/vma/writer/failing-target", test_writer_reports_a_failing_target);
    g_test_add_func("/vma/reader/truncated-anywhere", test_truncated_anywhere);
    g_test_add_func("/vma/reader/flipped-bytes", test_every_flipped_byte_is_found);
    g_test_add_func("/vma/reader/random-mutations", test_random_mutations);
    g_test_add_func("/vma/reader/noise", test_noise);
    g_test_add_func("/vma/reader/each-field", test_each_field);
    g_test_add_func("/vma/reader/md5-of-headers", test_md5_of_headers);
    g_test_add_func("/vma/reader/duplicate-cluster", test_duplicate_cluster);
    g_test_add_func("/vma/reader/digest-extent-alone", test_digest_extent_alone);
    g_test_add_func("/vma/reader/claims-cost-nothing", test_claims_cost_nothing);
    g_test_add_func("/vma/worked-example", test_worked_example);
    return g_test_run();
}
