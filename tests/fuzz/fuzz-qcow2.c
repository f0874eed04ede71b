/*
 * qcow2 images of any bytes: opened read-only, then for writing (as they are,
 * and with the dirty bit set, so that they get repaired), read, written, zeroed,
 * discarded, resized, closed; each time on a copy.  Whatever comes, memory stays
 * bounded.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zlib.h>

#include "../../block/qcow2.h"
#include "fuzz.h"

#define MEMORY_MAX (1024 * 1024) /* KiB; the tables may take some 100 MiB */
#define RANGE (1 << 20)          /* of the guest's space that is looked at */

static void check(bool condition)
{
    if (!condition) {
        abort();
    }
}

static void quiet(const char *text)
{
}

static BlockNode *open_fd(int fd, int flags)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);

    return bdrv_open(path, "qcow2", flags | BDRV_O_NO_LOCK | BDRV_O_NO_BACKING, NULL);
}

static int image_of(const uint8_t *data, size_t size)
{
    int fd = memfd_create("image", MFD_CLOEXEC);

    check(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    return fd;
}

/* ---- what is done with it ------------------------------------------------------ */

static void read_all(BlockNode *bs, uint8_t *buf)
{
    int64_t size = MIN(bdrv_length(bs), RANGE), n;

    for (int64_t pos = 0; pos < size; pos += n) {
        int ret = bdrv_block_status(bs, pos, size - pos, &n);

        n = ret < 0 ? 4096 : n;
        check(n > 0);
        n = MIN(n, size - pos);
        bdrv_pread(bs, pos, n, buf);
    }
    if (bdrv_length(bs) > RANGE) {
        bdrv_pread(bs, bdrv_length(bs) - 1000, 1000, buf);
    }
}

static void write_some(BlockNode *bs, uint8_t *buf)
{
    int64_t size = MIN(bdrv_length(bs), RANGE);

    for (int64_t pos = 0; pos + 700 < size; pos += 9999) {
        bdrv_pwrite(bs, pos, 700, buf, 0);
    }
    bdrv_flush(bs);
    bdrv_pwrite_zeroes(bs, 0, size / 3, 0);
    bdrv_pwrite_zeroes(bs, size / 3, size / 3, BDRV_REQ_MAY_UNMAP);
    bdrv_pdiscard(bs, 0, size);
    bdrv_flush(bs);
    bdrv_pwrite(bs, size / 2, size - size / 2, buf, 0);
}

static void change_header(BlockNode *bs)
{
    int64_t size = MIN(bdrv_length(bs), RANGE);

    bdrv_change_backing_file(bs, "below", "raw", NULL);
    bdrv_truncate(bs, size + 512 * 1000, NULL);
    bdrv_truncate(bs, 512, NULL);
    bdrv_change_backing_file(bs, NULL, NULL, NULL);
}

static void use_image(const uint8_t *data, size_t size, int flags, bool dirty)
{
    static uint8_t buf[RANGE];
    int fd = image_of(data, size);
    BlockNode *bs;

    if (dirty && size > 80) {
        uint8_t bits = data[79] | QCOW2_INCOMPAT_DIRTY;

        check(pwrite(fd, &bits, 1, 79) == 1);
    }
    bs = open_fd(fd, flags);
    if (bs) {
        read_all(bs, buf);
    }
    if (bs && (flags & BDRV_O_RDWR)) {
        write_some(bs, buf);
        read_all(bs, buf);
        change_header(bs);
    }
    g_clear_pointer(&bs, bdrv_unref);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rusage usage;

    g_set_printerr_handler(quiet);
    use_image(data, size, 0, false);
    use_image(data, size, BDRV_O_RDWR | BDRV_O_UNMAP, false);
    use_image(data, size, BDRV_O_RDWR, true);
    check(getrusage(RUSAGE_SELF, &usage) == 0 && usage.ru_maxrss < MEMORY_MAX);
    return 0;
}

/* ---- seeds ------------------------------------------------------------------------ */

static uint64_t get(const GByteArray *b, uint64_t at)
{
    uint64_t v;

    check(at + 8 <= b->len);
    memcpy(&v, b->data + at, 8);
    return GUINT64_FROM_BE(v);
}

static void put(GByteArray *b, uint64_t at, uint64_t v)
{
    check(at + 8 <= b->len);
    v = GUINT64_TO_BE(v);
    memcpy(b->data + at, &v, 8);
}

/* Data here and there. */
static GByteArray *plain(unsigned version, unsigned cluster_bits, unsigned order)
{
    Qcow2CreateOptions o = { version, cluster_bits, order };
    g_autofree char *path = g_build_filename(g_get_tmp_dir(), "fuzz-qcow2-seed", NULL);
    GByteArray *b = g_byte_array_new();
    BlockNode *bs;
    char *data;
    gsize len;

    unlink(path);
    check(qcow2_create_with(path, 600 * 1024, "below", "raw", &o, NULL));
    bs = bdrv_open(path, "qcow2", BDRV_O_RDWR | BDRV_O_NO_BACKING, NULL);
    check(bs);
    for (unsigned i = 0; i < 10; i++) {
        bdrv_pwrite(bs, i * 50000, 6, "abcdef", 0);
    }
    bdrv_pwrite_zeroes(bs, 100000, 30000, 0);
    bdrv_unref(bs);
    check(g_file_get_contents(path, &data, &len, NULL));
    g_byte_array_append(b, (uint8_t *)data, len);
    g_free(data);
    unlink(path);
    return b;
}

/* The first L2 entry becomes a compressed cluster, in the place that it had. */
static GByteArray *compressed(void)
{
    GByteArray *b = plain(3, 12, 4);
    uint64_t l2 = get(b, get(b, 40)) & QCOW2_OFFSET_MASK;
    uint64_t at = get(b, l2) & QCOW2_OFFSET_MASK;
    uint8_t cluster[4096] = { 1, 2, 3 };
    z_stream z = { .next_in = cluster, .avail_in = sizeof(cluster),
                   .next_out = b->data + at, .avail_out = 1024 };

    check(deflateInit2(&z, 9, Z_DEFLATED, -12, 8, 0) == Z_OK &&
          deflate(&z, Z_FINISH) == Z_STREAM_END);
    deflateEnd(&z);
    put(b, l2, QCOW2_OFLAG_COMPRESSED | UINT64_C(1) << (62 - 4) | at);
    return b;
}

/* One snapshot and one bitmap, in clusters behind the end; nobody counts them. */
static GByteArray *with_extras(void)
{
    GByteArray *b = plain(3, 12, 4);
    uint64_t end = b->len = (b->len + 4095) & ~4095, ext = 112;

    g_byte_array_set_size(b, end + 5 * 4096);
    memset(b->data + end, 0, 5 * 4096);
    b->data[63] = 1; /* snapshots */
    put(b, 64, end);
    put(b, end, end + 4096); /* its L1 table */
    put(b, end + 8, UINT64_C(1) << 32 | 1 << 16 | 1); /* one entry, id, name */
    b->data[end + 40] = b->data[end + 41] = '1';
    put(b, end + 4096, get(b, get(b, 40)) & QCOW2_OFFSET_MASK);
    while (get(b, ext)) {
        ext += 8 + ((b->data[ext + 7] + 7) & ~7);
    }
    memmove(b->data + ext + 32, b->data + ext, 512);
    put(b, ext, UINT64_C(0x2385287500000018));
    put(b, ext + 8, UINT64_C(1) << 32);
    put(b, ext + 16, 32);
    put(b, ext + 24, end + 8192); /* its directory */
    put(b, 8, get(b, 8) + 32);    /* the backing file's name */
    b->data[95] = 1;
    put(b, end + 8192, end + 3 * 4096); /* its table */
    put(b, end + 8200, UINT64_C(1) << 32);
    put(b, end + 8208, UINT64_C(0x0110000100000000));
    b->data[end + 8216] = 'b';
    put(b, end + 3 * 4096, end + 4 * 4096);
    return b;
}

GPtrArray *fuzz_seeds(void)
{
    GPtrArray *seeds = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);

    g_ptr_array_add(seeds, plain(3, 9, 4));
    g_ptr_array_add(seeds, plain(2, 12, 4));
    g_ptr_array_add(seeds, plain(3, 10, 0));
    g_ptr_array_add(seeds, compressed());
    g_ptr_array_add(seeds, with_extras());
    return seeds;
}
