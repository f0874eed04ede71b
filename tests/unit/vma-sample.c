/*
 * See vma-sample.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "vma-sample.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define N_CLUSTERS(size) (((size) + VMA_CLUSTER_SIZE - 1) / VMA_CLUSTER_SIZE)

static void fill_random(uint8_t *data, uint64_t size)
{
    for (uint64_t at = 0; at < size; at += VMA_BLOCK_SIZE) {
        uint64_t n = MIN(size - at, VMA_BLOCK_SIZE);

        if (g_test_rand_int() % 2) {
            continue;
        }
        /* Some blocks differ from zero in one byte only. */
        if (g_test_rand_int() % 4 == 0) {
            data[at + g_test_rand_int_range(0, n)] = 1 + g_test_rand_int() % 255;
            continue;
        }
        for (uint64_t i = 0; i < n; i++) {
            data[at + i] = g_test_rand_int();
        }
    }
}

SampleVm *sample_vm_new(unsigned n_devices, const uint64_t *sizes, unsigned n_configs)
{
    SampleVm *vm = g_new0(SampleVm, 1);

    vm->n_devices = n_devices;
    vm->n_configs = n_configs;
    vm->digest = true;
    for (size_t i = 0; i < sizeof(vm->uuid); i++) {
        vm->uuid[i] = g_test_rand_int();
    }
    for (unsigned i = 0; i < n_devices; i++) {
        g_snprintf(vm->devices[i].name, sizeof(vm->devices[i].name), "drive%u", i);
        vm->devices[i].size = sizes[i];
        vm->devices[i].data = g_malloc0(N_CLUSTERS(sizes[i]) * VMA_CLUSTER_SIZE);
        fill_random(vm->devices[i].data, sizes[i]);
    }
    return vm;
}

void sample_vm_free(SampleVm *vm)
{
    for (unsigned i = 0; i < vm->n_devices; i++) {
        g_free(vm->devices[i].data);
    }
    g_free(vm);
}

const char *sample_vm_config(unsigned n, size_t *len)
{
    static const char text[] = "some: configuration\nwith: lines\n";

    *len = n % sizeof(text); /* 0 too */
    return text;
}

static void add_configs(const SampleVm *vm, VmaWriter *w)
{
    GError *error = NULL;

    for (unsigned i = 0; i < vm->n_configs; i++) {
        g_autofree char *name = g_strdup_printf("config%u.conf", i);
        size_t len;
        const char *data = sample_vm_config(i, &len);

        vma_writer_add_config(w, name, data, len, &error);
        g_assert_no_error(error);
    }
}

typedef struct {
    unsigned device;
    uint64_t cluster;
} Place;

static GArray *random_order(const SampleVm *vm)
{
    GArray *order = g_array_new(FALSE, FALSE, sizeof(Place));

    for (unsigned i = 0; i < vm->n_devices; i++) {
        for (uint64_t c = 0; c < N_CLUSTERS(vm->devices[i].size); c++) {
            Place p = { i, c };

            g_array_append_val(order, p);
        }
    }
    for (unsigned i = order->len; i > 1; i--) {
        unsigned j = g_test_rand_int_range(0, i);
        Place tmp = g_array_index(order, Place, i - 1);

        g_array_index(order, Place, i - 1) = g_array_index(order, Place, j);
        g_array_index(order, Place, j) = tmp;
    }
    return order;
}

/* In one of the ways that the writer knows; the bytes past the end of the
 * device are garbage, which must not matter. */
static void put(const SampleVm *vm, VmaWriter *w, const Place *p)
{
    const uint8_t *data = vm->devices[p->device].data + p->cluster * VMA_CLUSTER_SIZE;
    uint64_t left = vm->devices[p->device].size - p->cluster * VMA_CLUSTER_SIZE;
    size_t n = MIN(left, VMA_CLUSTER_SIZE);
    g_autofree uint8_t *copy = g_malloc(VMA_CLUSTER_SIZE);
    bool zero = true;
    GError *error = NULL;
    int64_t zeros, want = 0;

    for (size_t at = 0; at < n; at += VMA_BLOCK_SIZE) {
        size_t len = MIN(n - at, VMA_BLOCK_SIZE);
        bool block_zero = true;

        for (size_t i = 0; i < len && block_zero; i++) {
            block_zero = data[at + i] == 0;
        }
        want += block_zero ? len : 0;
        zero = zero && block_zero;
    }
    memset(copy, 0xee, VMA_CLUSTER_SIZE);
    memcpy(copy, data, n);
    if (zero && g_test_rand_int() % 2) {
        zeros = vma_writer_put_cluster(w, p->device + 1, p->cluster, NULL, &error);
    } else if (g_test_rand_int() % 2) {
        void *direct = vma_writer_buffer(w, &error);

        memcpy(direct, copy, VMA_CLUSTER_SIZE);
        zeros = vma_writer_put_cluster(w, p->device + 1, p->cluster, direct, &error);
    } else {
        zeros = vma_writer_put_cluster(w, p->device + 1, p->cluster, copy, &error);
        memset(copy, 0x55, VMA_CLUSTER_SIZE); /* it is ours again */
    }
    g_assert_no_error(error);
    g_assert_cmpint(zeros, ==, want);
}

GByteArray *sample_vm_archive(const SampleVm *vm)
{
    int fd = memfd_create("archive", MFD_CLOEXEC);
    int copy = dup(fd);
    GError *error = NULL;
    VmaTarget *t = vma_target_from_fd(fd, "memory", &error);
    VmaWriter *w = vma_writer_new(t, vm->uuid, 1234567890, vm->digest, &error);
    g_autoptr(GArray) order = random_order(vm);
    GByteArray *bytes = g_byte_array_new();
    off_t len;

    add_configs(vm, w);
    for (unsigned i = 0; i < vm->n_devices; i++) {
        g_assert_cmpuint(vma_writer_add_device(w, vm->devices[i].name,
                                               vm->devices[i].size, &error),
                         ==, i + 1);
    }
    for (unsigned i = 0; i < order->len; i++) {
        put(vm, w, &g_array_index(order, Place, i));
    }
    g_assert_true(vma_writer_finish(w, &error));
    g_assert_true(vma_target_commit(t, &error));
    g_assert_no_error(error);
    len = lseek(copy, 0, SEEK_END);
    g_assert_cmpint(len, ==, vma_writer_bytes(w));
    vma_writer_free(w);
    vma_target_free(t);
    g_byte_array_set_size(bytes, len);
    g_assert_cmpint(pread(copy, bytes->data, len, 0), ==, len);
    close(copy);
    return bytes;
}

/* ---- reading ---------------------------------------------------------- */

typedef struct {
    const SampleVm *vm;
    VmaReader *r;
    GHashTable *seen; /* (dev_id, 4 KiB block) announced; small archives only */
    uint8_t *images[8];
    bool header;
} Check;

static void check_header(Check *c)
{
    const SampleVm *vm = c->vm;

    g_assert_false(c->header);
    c->header = true;
    for (unsigned id = 0; id < 300; id++) {
        const VmaDeviceInfo *d = vma_reader_device(c->r, id);

        if (d) {
            g_assert_cmpuint(id, >=, 1);
            g_assert_cmpuint(id, <=, VMA_MAX_DEVICES);
            g_assert_cmpuint(d->size, >, 0);
            g_assert_null(strchr(d->name, '/'));
        }
    }
    if (!vm) {
        return;
    }
    g_assert_cmpmem(vma_reader_uuid(c->r), 16, vm->uuid, 16);
    g_assert_cmpint(vma_reader_ctime(c->r), ==, 1234567890);
    g_assert_cmpuint(vma_reader_n_configs(c->r), ==, vm->n_configs);
    for (unsigned i = 0; i < vm->n_configs; i++) {
        const VmaConfigInfo *info = vma_reader_config(c->r, i);
        size_t len;
        const char *data = sample_vm_config(i, &len);

        g_assert_cmpmem(info->data, info->len, data, len);
    }
    for (unsigned i = 0; i < vm->n_devices; i++) {
        const VmaDeviceInfo *d = vma_reader_device(c->r, i + 1);

        g_assert_cmpstr(d->name, ==, vm->devices[i].name);
        g_assert_cmpuint(d->size, ==, (vm->devices[i].size + 511) / 512 * 512);
        c->images[i] = g_malloc(d->size);
        memset(c->images[i], 0xcc, d->size);
    }
}

/* Every byte of a device is announced at most once, and none outside of it. */
static void check_place(Check *c, const VmaEvent *ev)
{
    const VmaDeviceInfo *d = vma_reader_device(c->r, ev->dev_id);

    g_assert_true(c->header);
    g_assert_nonnull(d);
    g_assert_cmpuint(ev->len, >, 0);
    g_assert_cmpuint(ev->len, <=, VMA_CLUSTER_SIZE);
    if (!d->is_vmstate) {
        g_assert_cmpuint(ev->offset, <, d->size);
        g_assert_cmpuint(ev->len, <=, d->size - ev->offset);
    }
    for (uint64_t at = ev->offset; at < ev->offset + ev->len;
         at = at / VMA_BLOCK_SIZE * VMA_BLOCK_SIZE + VMA_BLOCK_SIZE) {
        if (at % VMA_BLOCK_SIZE == 0) {
            guint64 *key = g_new(guint64, 1);

            *key = (uint64_t)ev->dev_id << 48 | at / VMA_BLOCK_SIZE;
            g_assert_true(g_hash_table_add(c->seen, key));
        }
    }
}

static void check_event(Check *c, const VmaEvent *ev)
{
    check_place(c, ev);
    if (!c->vm) {
        return;
    }
    if (ev->type == VMA_EVENT_ZERO) {
        memset(c->images[ev->dev_id - 1] + ev->offset, 0, ev->len);
    } else {
        memcpy(c->images[ev->dev_id - 1] + ev->offset, ev->data, ev->len);
    }
}

static void check_images(Check *c)
{
    VmaReaderStats st;

    vma_reader_stats(c->r, &st);
    for (unsigned i = 0; i < c->vm->n_devices; i++) {
        uint64_t size = (c->vm->devices[i].size + 511) / 512 * 512;

        g_assert_true(memcmp(c->images[i], c->vm->devices[i].data, size) == 0);
    }
    g_assert_cmpuint(st.clusters, ==, st.total_clusters);
    g_assert_cmpuint(st.digest_bytes, ==, c->vm->digest ? st.data_bytes : 0);
}

bool sample_read(const void *data, size_t len, size_t max_piece,
                       const SampleVm *vm, GError **errp)
{
    Check c = { .vm = vm, .r = vma_reader_new("test.vma") };
    uint8_t *piece = NULL;
    size_t done = 0;
    VmaEvent ev;
    bool ok;

    c.seen = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    while ((ok = vma_reader_next(c.r, &ev, errp)) && ev.type != VMA_EVENT_END) {
        if (ev.type == VMA_EVENT_MORE) {
            size_t n = max_piece ? (size_t)g_test_rand_int_range(1, max_piece + 1) : len;

            n = MIN(n, len - done);
            /* A copy of just that size: reading past it is found out. */
            g_free(piece);
            piece = g_memdup2((const uint8_t *)data + done, n);
            vma_reader_feed(c.r, piece, n);
            done += n;
        } else if (ev.type == VMA_EVENT_HEADER) {
            check_header(&c);
        } else {
            check_event(&c, &ev);
        }
    }
    if (ok && vm) {
        check_images(&c);
    }
    if (!ok) {
        /* Final, and always the same. */
        g_assert_false(vma_reader_next(c.r, &ev, NULL));
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(c.images); i++) {
        g_free(c.images[i]);
    }
    g_hash_table_destroy(c.seen);
    vma_reader_free(c.r);
    g_free(piece);
    return ok;
}

/* ---- changing archives ------------------------------------------------- */

static uint32_t be32_at(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

static void fix(uint8_t *p, size_t len, size_t md5_at)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_MD5);
    gsize n = 16;

    memset(p + md5_at, 0, 16);
    g_checksum_update(sum, p, len);
    g_checksum_get_digest(sum, p + md5_at, &n);
}

static size_t extent_len(const uint8_t *p)
{
    return 512 + (p[6] << 8 | p[7]) * (size_t)VMA_BLOCK_SIZE;
}

void sample_fix_md5(uint8_t *data, size_t len)
{
    size_t at = len >= 60 ? be32_at(data + 56) : 0;

    if (at < 12288 || at > len) {
        return;
    }
    fix(data, at, 32);
    for (; at + 512 <= len; at += extent_len(data + at)) {
        fix(data + at, 512, 24);
    }
}

size_t sample_extent_pos(const uint8_t *data, size_t len, unsigned n)
{
    size_t at = be32_at(data + 56);

    for (; n; n--) {
        at += extent_len(data + at);
        g_assert_cmpuint(at, <, len);
    }
    return at;
}
