/*
 * New qcow2 images.
 *
 *     header | refcount table | refcount blocks | L1 table
 *
 * The header is written last: before that the file is no image.  When anything
 * fails the file is removed again.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "util/error.h"

/* All in clusters. */
typedef struct {
    uint64_t l1_size; /* entries */
    uint64_t l1, reftable, refblocks, total;
} Layout;

static uint64_t div_up(uint64_t n, uint64_t d)
{
    return n / d + !!(n % d);
}

/* The refcounts cover themselves too: go on until that is so. */
static void plan(Layout *l, int64_t size, const Qcow2CreateOptions *o)
{
    uint64_t cluster = UINT64_C(1) << o->cluster_bits;
    uint64_t per_block = cluster * 8 >> o->refcount_order, total;

    memset(l, 0, sizeof(*l));
    l->l1_size = div_up(size, cluster * (cluster / 8));
    l->l1 = div_up(l->l1_size * 8, cluster);
    do {
        total = l->total;
        l->refblocks = div_up(MAX(total, 1), per_block);
        l->reftable = div_up(l->refblocks * 8, cluster);
        l->total = 1 + l->reftable + l->refblocks + l->l1;
    } while (l->total != total);
}

static void fill_header(Qcow2Header *h, const Layout *l, int64_t size,
                        const Qcow2CreateOptions *o)
{
    memset(h, 0, sizeof(*h));
    h->version = o->version;
    h->cluster_bits = o->cluster_bits;
    h->size = size;
    h->l1_size = l->l1_size;
    h->reftable_offset = UINT64_C(1) << o->cluster_bits;
    h->reftable_clusters = l->reftable;
    h->l1_offset = (1 + l->reftable + l->refblocks) << o->cluster_bits;
    h->refcount_order = o->refcount_order;
    h->header_length = o->version == 2 ? QCOW2_V2_HEADER_BYTES
                                       : QCOW2_HEADER_BYTES;
}

static int write_reftable(BlockNode *file, const Layout *l,
                          const Qcow2CreateOptions *o)
{
    g_autofree uint64_t *table = g_new0(uint64_t, l->refblocks);
    uint64_t first = 1 + l->reftable;

    for (uint64_t i = 0; i < l->refblocks; i++) {
        table[i] = GUINT64_TO_BE((first + i) << o->cluster_bits);
    }
    return bdrv_pwrite(file, UINT64_C(1) << o->cluster_bits, l->refblocks * 8,
                       table, 0);
}

/* All of the first l->total refcounts are 1; they are adjacent on disk. */
static int write_refblocks(BlockNode *file, const Layout *l,
                           const Qcow2CreateOptions *o)
{
    uint64_t bytes = l->refblocks << o->cluster_bits;
    g_autofree uint8_t *blocks = g_try_malloc0(bytes);
    int ret = 0;

    if (!blocks) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < l->total; i++) {
        qcow2_refcount_put(blocks, i, o->refcount_order, 1);
    }
    for (uint64_t pos = 0; pos < bytes && ret == 0; pos += BDRV_REQUEST_MAX_BYTES) {
        ret = bdrv_pwrite(file, ((1 + l->reftable) << o->cluster_bits) + pos,
                          MIN(bytes - pos, BDRV_REQUEST_MAX_BYTES), blocks + pos,
                          0);
    }
    return ret;
}

static int write_header(BlockNode *file, Qcow2Header *h, Qcow2Extensions *ext,
                        bool *fits)
{
    size_t cluster = (size_t)1 << h->cluster_bits;
    g_autofree uint8_t *buf = g_malloc(cluster);

    *fits = qcow2_first_cluster_encode(h, ext, buf, cluster, 0);
    return *fits ? bdrv_pwrite(file, 0, cluster, buf, 0) : -EINVAL;
}

static bool write_image(BlockNode *file, int64_t size, Qcow2Extensions *ext,
                        const Qcow2CreateOptions *o, GError **errp)
{
    Layout l;
    Qcow2Header h;
    bool fits = true;
    int ret;

    plan(&l, size, o);
    fill_header(&h, &l, size, o);
    if (!bdrv_truncate(file, l.total << o->cluster_bits, errp)) {
        return false;
    }
    ret = write_refblocks(file, &l, o);
    ret = ret < 0 ? ret : write_reftable(file, &l, o);
    ret = ret < 0 ? ret : bdrv_flush(file);
    ret = ret < 0 ? ret : write_header(file, &h, ext, &fits);
    ret = ret < 0 ? ret : bdrv_flush(file);
    if (!fits) {
        error_set(errp, "'%s': the backing file's name is too long for clusters "
                  "of this size", bdrv_filename(file));
    } else if (ret < 0) {
        error_set_errno(errp, -ret, "Could not write '%s'", bdrv_filename(file));
    }
    return ret == 0;
}

static bool check_options(int64_t size, const char *backing_file,
                          const char *backing_format,
                          const Qcow2CreateOptions *o, GError **errp)
{
    Layout l;

    if (backing_file && !backing_format) {
        error_set(errp, "Backing file specified without backing format");
        return false;
    }
    if (backing_file && (!*backing_file ||
                         strlen(backing_file) > QCOW2_MAX_BACKING_NAME)) {
        error_set(errp, "Backing file name too long");
        return false;
    }
    if (backing_format && !bdrv_find_format(backing_format, errp)) {
        return false;
    }
    plan(&l, size, o);
    if (l.l1_size * 8 > QCOW2_MAX_L1_BYTES ||
        l.reftable << o->cluster_bits > QCOW2_MAX_REFTABLE_BYTES) {
        error_set(errp, "The image size is too large for file format 'qcow2' "
                  "(try using a larger cluster size)");
        return false;
    }
    return true;
}

bool qcow2_create_with(const char *filename, int64_t size,
                       const char *backing_file, const char *backing_format,
                       const Qcow2CreateOptions *opts, GError **errp)
{
    Qcow2Extensions ext = { .backing_file = (char *)backing_file,
                            .backing_format = (char *)backing_format };
    g_autoptr(BlockNode) file = NULL;
    const BlockDriver *protocol;
    const char *path;
    bool existed;

    if (size > INT64_MAX - BDRV_REQUEST_MAX_BYTES - 511) {
        error_set(errp, "'%s': %" PRId64 " bytes are too many", filename, size);
        return false;
    }
    size = (size + 511) & ~INT64_C(511); /* QEMU counts sectors */
    protocol = bdrv_find_protocol(filename, &path, errp);
    existed = bdrv_exists(filename);
    if (!protocol ||
        !check_options(size, backing_file, backing_format, opts, errp) ||
        !protocol->create(path, 0, NULL, NULL, errp)) {
        return false;
    }
    file = bdrv_open_protocol(filename, BDRV_O_RDWR, errp);
    if (!file || !write_image(file, size, &ext, opts, errp)) {
        bdrv_undo_create(filename, existed);
        return false;
    }
    return true;
}

bool qcow2_create(const char *filename, int64_t size, const char *backing_file,
                  const char *backing_format, GError **errp)
{
    static const Qcow2CreateOptions defaults = {
        .version = 3, .cluster_bits = 16, .refcount_order = 4,
    };

    return qcow2_create_with(filename, size, backing_file, backing_format,
                             &defaults, errp);
}
