/*
 * The VMA reader over any bytes.  Each input is read twice: as it is, and with
 * the MD5s of its headers made right, so that changes get past them.  Whatever
 * comes, events must lie inside of their devices.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "vma/vma.h"

static void check(bool condition)
{
    if (!condition) {
        abort();
    }
}

static void check_event(VmaReader *r, const VmaEvent *ev)
{
    const VmaDeviceInfo *d = vma_reader_device(r, ev->dev_id);
    volatile uint8_t sum = 0;

    check(d && ev->len > 0 && ev->len <= VMA_CLUSTER_SIZE);
    check(d->is_vmstate || (ev->offset < d->size && ev->len <= d->size - ev->offset));
    check((ev->type == VMA_EVENT_DATA) == (ev->data != NULL));
    for (size_t i = 0; ev->data && i < ev->len; i++) {
        sum ^= ev->data[i];
    }
}

/* In pieces of @piece bytes, each in memory of just that size. */
static void read_archive(const uint8_t *data, size_t size, size_t piece)
{
    VmaReader *r = vma_reader_new("fuzz");
    uint8_t *copy = NULL;
    size_t done = 0;
    VmaEvent ev;

    while (vma_reader_next(r, &ev, NULL) && ev.type != VMA_EVENT_END) {
        if (ev.type == VMA_EVENT_MORE) {
            size_t n = MIN(piece, size - done);

            g_free(copy);
            copy = g_memdup2(data + done, n);
            vma_reader_feed(r, copy, n);
            done += n;
        } else if (ev.type != VMA_EVENT_HEADER) {
            check_event(r, &ev);
        }
    }
    vma_reader_free(r);
    g_free(copy);
}

static void fix(uint8_t *p, size_t len, size_t md5_at)
{
    GChecksum *sum = g_checksum_new(G_CHECKSUM_MD5);
    gsize n = 16;

    memset(p + md5_at, 0, 16);
    g_checksum_update(sum, p, (gssize)len);
    g_checksum_get_digest(sum, p + md5_at, &n);
    g_checksum_free(sum);
}

/* Extent headers are found by their magic, wherever a change has put them. */
static void fix_all(uint8_t *p, size_t size)
{
    size_t header = size >= 60 ? (size_t)p[56] << 24 | p[57] << 16 | p[58] << 8 | p[59] : 0;

    if (header < 12288 || header > size) {
        return;
    }
    fix(p, header, 32);
    for (size_t at = header; at + 512 <= size; at++) {
        if (memcmp(p + at, "VMAE", 4) == 0) {
            fix(p + at, 512, 24);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = g_memdup2(data, size);
    size_t piece = size % 3 ? SIZE_MAX : 1 + size % 5000;

    read_archive(data, size, piece);
    fix_all(copy, size);
    read_archive(copy, size, piece);
    g_free(copy);
    return 0;
}

/* An archive of @n clusters in two devices, one of which may be a vmstate. */
static GByteArray *seed(unsigned n, bool digest, const char *second)
{
    static const uint8_t uuid[16] = "fuzz";
    int fd = memfd_create("seed", MFD_CLOEXEC), copy = dup(fd);
    VmaTarget *t = vma_target_from_fd(fd, "seed", NULL);
    VmaWriter *w = vma_writer_new(t, uuid, 1, digest, NULL);
    uint8_t *cluster = g_malloc0(VMA_CLUSTER_SIZE);
    GByteArray *b = g_byte_array_new();

    vma_writer_add_config(w, "a.conf", "text", 4, NULL);
    vma_writer_add_config(w, "b.conf", "", 0, NULL);
    if (n) {
        vma_writer_add_device(w, "drive-virtio0", n * VMA_CLUSTER_SIZE - 5000, NULL);
        vma_writer_add_device(w, second, n * VMA_CLUSTER_SIZE, NULL);
    }
    for (unsigned i = 0; i < n; i++) {
        cluster[i * 4096] = 1;
        vma_writer_put_cluster(w, 2, i, i % 2 ? cluster : NULL, NULL);
        vma_writer_put_cluster(w, 1, n - 1 - i, cluster, NULL);
    }
    check(vma_writer_finish(w, NULL) && vma_target_commit(t, NULL));
    g_byte_array_set_size(b, vma_writer_bytes(w));
    check(pread(copy, b->data, b->len, 0) == (ssize_t)b->len);
    vma_writer_free(w);
    vma_target_free(t);
    close(copy);
    g_free(cluster);
    return b;
}

GPtrArray *fuzz_seeds(void)
{
    GPtrArray *seeds = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);

    g_ptr_array_add(seeds, seed(0, false, ""));
    g_ptr_array_add(seeds, seed(2, true, "drive-virtio1"));
    g_ptr_array_add(seeds, seed(4, false, "vmstate"));
    return seeds;
}
