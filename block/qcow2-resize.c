/*
 * Changes of the header: another size, another backing file.
 *
 * Each is prepared completely, made durable, and then takes effect with one
 * write into the first 512 bytes of the file.  Nothing else runs on the image
 * meanwhile but flushes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "util/error.h"

#define SECTOR 512

/* ---- a larger L1 table --------------------------------------------------------- */

/* @n adjacent clusters; what is found on the way and too small is given back. */
static int alloc_adjacent(BlockNode *bs, uint64_t n, uint64_t *offset)
{
    Qcow2State *s = bs->opaque;
    g_autoptr(GArray) rest = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    uint64_t got;
    bool fresh;
    int ret;

    if (n >= UINT64_C(1) << s->refblock_bits) {
        return -EFBIG; /* they never lie across a refcount block */
    }
    for (;;) {
        Qcow2Range r;

        pthread_mutex_lock(&s->alloc_lock);
        ret = qcow2_alloc_clusters(bs, n, offset, &got, &fresh);
        pthread_mutex_unlock(&s->alloc_lock);
        if (ret == -ENOBUFS) {
            ret = qcow2_reftable_grow(bs);
            if (ret == 0) {
                continue;
            }
        }
        if (ret < 0 || got == n) {
            break;
        }
        r = (Qcow2Range){ *offset, got << s->cluster_bits };
        g_array_append_val(rest, r);
    }
    pthread_mutex_lock(&s->alloc_lock);
    for (guint i = 0; i < rest->len; i++) {
        const Qcow2Range *r = &g_array_index(rest, Qcow2Range, i);

        qcow2_free_clusters(bs, r->offset, r->bytes);
    }
    pthread_mutex_unlock(&s->alloc_lock);
    return ret;
}

static int write_l1(BlockNode *bs, uint64_t at, uint64_t bytes)
{
    Qcow2State *s = bs->opaque;
    g_autofree uint64_t *disk = g_try_malloc0(bytes);

    if (!disk) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < s->l1_size; i++) {
        disk[i] = GUINT64_TO_BE(s->l1[i]);
    }
    return bdrv_pwrite(bs->file, at, bytes, disk, 0);
}

static int switch_l1(BlockNode *bs, uint64_t at, uint32_t entries)
{
    uint8_t field[12];
    uint32_t n = GUINT32_TO_BE(entries);
    uint64_t offset = GUINT64_TO_BE(at);

    memcpy(field, &n, 4);
    memcpy(field + 4, &offset, 8);
    return qcow2_header_patch(bs, 36, field, sizeof(field));
}

/* In memory; on failure both arrays are still long enough for the old size. */
static int enlarge_arrays(Qcow2State *s, uint64_t entries)
{
    uint64_t *l1 = g_try_malloc0(entries * 8);
    Qcow2Slice ***tables = g_try_malloc0(entries * sizeof(*tables));

    if (!l1 || !tables) {
        g_free(l1);
        g_free(tables);
        return -ENOMEM;
    }
    qcow2_map_lock(s);
    memcpy(l1, s->l1, s->l1_size * 8);
    memcpy(tables, s->tables, s->l1_size * sizeof(*tables));
    g_free(s->l1);
    g_free(s->tables);
    s->l1 = l1;
    s->tables = tables;
    qcow2_map_unlock(s);
    return 0;
}

/* Nothing is dirty, so that the L1 table in memory is that on disk. */
static int grow_l1(BlockNode *bs, uint64_t entries)
{
    Qcow2State *s = bs->opaque;
    uint64_t old_at = s->header.l1_offset, old_bytes = s->l1_size * 8, at;
    uint64_t clusters = (entries * 8 + s->cluster_size - 1) >> s->cluster_bits;
    int ret;

    if (entries * 8 > QCOW2_MAX_L1_BYTES) {
        return -EFBIG;
    }
    ret = enlarge_arrays(s, entries);
    ret = ret < 0 ? ret : alloc_adjacent(bs, clusters, &at);
    if (ret < 0) {
        return ret;
    }
    ret = write_l1(bs, at, clusters << s->cluster_bits);
    ret = ret < 0 ? ret : qcow2_checkpoint(bs); /* its refcounts, too */
    pthread_mutex_lock(&s->checkpoint_lock);
    ret = ret < 0 ? ret : switch_l1(bs, at, entries);
    pthread_mutex_lock(&s->alloc_lock);
    if (ret < 0) {
        qcow2_free_clusters(bs, at, clusters << s->cluster_bits);
    } else {
        s->header.l1_offset = at;
        s->header.l1_size = s->l1_size = entries;
        qcow2_meta_add(s, at, clusters << s->cluster_bits);
        if (old_bytes) {
            qcow2_meta_remove(s, old_at, old_bytes);
            qcow2_free_clusters(bs, old_at, old_bytes);
        }
    }
    pthread_mutex_unlock(&s->alloc_lock);
    pthread_mutex_unlock(&s->checkpoint_lock);
    return ret;
}

/* ---- another size ----------------------------------------------------------------- */

static int write_zeros(BlockNode *bs, int64_t from, int64_t to)
{
    g_autofree uint8_t *zeros = NULL;
    int ret = qcow2_pwrite_zeroes(bs, from, to - from, BDRV_REQ_MAY_UNMAP);

    if (ret != -ENOTSUP) {
        return ret;
    }
    zeros = g_malloc0(1 << 20);
    for (ret = 0; from < to && ret == 0; from += 1 << 20) {
        ret = qcow2_pwrite(bs, from, MIN(to - from, 1 << 20), zeros, 0);
    }
    return ret;
}

/* What the new size shows or hides becomes zeros; s->header.size is the larger. */
static int clear_difference(BlockNode *bs, int64_t old, int64_t size)
{
    int64_t below = bs->backing ? bdrv_length(bs->backing) : 0;
    int64_t to = size > old ? MIN(size, below) : old;
    int64_t from = MIN(old, size);

    return to > from ? write_zeros(bs, from, to) : 0;
}

static int resize(BlockNode *bs, int64_t size)
{
    Qcow2State *s = bs->opaque;
    unsigned bits = s->cluster_bits + s->l2_bits;
    uint64_t entries = ((uint64_t)size >> bits) +
                       !!((uint64_t)size & ((UINT64_C(1) << bits) - 1));
    uint64_t be = GUINT64_TO_BE((uint64_t)size);
    int64_t old = s->header.size;
    int ret = qcow2_settle(bs);

    if (ret == 0 && entries > s->l1_size) {
        ret = grow_l1(bs, entries);
    }
    if (ret == 0) {
        s->header.size = MAX(old, size);
        ret = clear_difference(bs, old, size);
    }
    ret = ret < 0 ? ret : qcow2_settle(bs);
    ret = ret < 0 ? ret : qcow2_header_patch(bs, 24, &be, 8);
    s->header.size = ret < 0 ? old : size;
    return ret;
}

bool qcow2_truncate(BlockNode *bs, int64_t size, GError **errp)
{
    Qcow2State *s = bs->opaque;
    int ret;

    if (size % SECTOR || size > INT64_MAX - BDRV_REQUEST_MAX_BYTES) {
        error_set(errp, "The new size must be a multiple of %u", SECTOR);
        return false;
    }
    if (s->version < 3 && s->header.nb_snapshots) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "Can't resize a v2 image which has snapshots");
        return false;
    }
    ret = resize(bs, size);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not resize '%s'", bs->filename);
    }
    return ret == 0;
}

/* ---- another backing file ------------------------------------------------------------ */

/* Behind everything that the first cluster has now. */
static size_t free_in_first_cluster(const Qcow2State *s)
{
    size_t end = s->header.header_length + 8 + s->ext.others->len;

    if (s->ext.backing_format) {
        end += 8 + ((strlen(s->ext.backing_format) + 7) & ~(size_t)7);
    }
    end = MAX(end, s->header.backing_offset + s->header.backing_size);
    return MAX((end + 7) & ~(size_t)7, SECTOR);
}

/*
 * The first sector as it is going to be, in @buf.  In clusters of one sector
 * the name is in it, else it lies further behind, and where the old one is not.
 */
static bool encode_sector(const Qcow2State *s, Qcow2Header *h,
                          const Qcow2Extensions *ext, uint8_t *buf)
{
    Qcow2Extensions nameless = *ext;
    size_t name = ext->backing_file ? strlen(ext->backing_file) : 0;
    size_t at = free_in_first_cluster(s);

    if (s->cluster_size == SECTOR) {
        return qcow2_first_cluster_encode(h, ext, buf, SECTOR, 0);
    }
    nameless.backing_file = NULL;
    if (at + name > s->cluster_size) {
        at = SECTOR; /* no room beside the old one */
    }
    if (at + name > s->cluster_size ||
        !qcow2_first_cluster_encode(h, &nameless, buf, SECTOR, 0)) {
        return false;
    }
    h->backing_offset = name ? at : 0;
    h->backing_size = name;
    qcow2_header_encode(h, buf);
    return true;
}

static int write_name(BlockNode *bs, const Qcow2Header *h, const char *name)
{
    int ret = 0;

    if (h->backing_offset >= SECTOR) {
        ret = bdrv_pwrite(bs->file, h->backing_offset, h->backing_size, name, 0);
        ret = ret < 0 ? ret : bdrv_flush(bs->file);
    }
    return ret;
}

bool qcow2_change_backing_file(BlockNode *bs, const char *file,
                               const char *format, GError **errp)
{
    Qcow2State *s = bs->opaque;
    Qcow2Header h = s->header;
    Qcow2Extensions ext = { .backing_file = (char *)file,
                            .backing_format = (char *)format,
                            .others = s->ext.others };
    uint8_t buf[SECTOR];
    int ret;

    if (file && (!*file || strlen(file) > QCOW2_MAX_BACKING_NAME)) {
        error_set(errp, "Backing file name too long");
        return false;
    }
    if (!encode_sector(s, &h, &ext, buf)) {
        error_set(errp, "'%s': no room for the backing file's name", bs->filename);
        return false;
    }
    /* First of all what was copied from the old backing file. */
    ret = qcow2_settle(bs);
    ret = ret < 0 ? ret : bdrv_flush(bs->file);
    ret = ret < 0 ? ret : write_name(bs, &h, file);
    ret = ret < 0 ? ret : qcow2_header_patch(bs, 0, buf, sizeof(buf));
    if (ret == 0 && atomic_load(&s->broken)) {
        ret = qcow2_mark_corrupt(bs); /* found meanwhile: not overwritten */
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "'%s': could not change the backing file",
                        bs->filename);
        return false;
    }
    s->header.backing_offset = h.backing_offset;
    s->header.backing_size = h.backing_size;
    pthread_mutex_lock(&bs->priv->info_lock);
    g_free(s->ext.backing_file);
    g_free(s->ext.backing_format);
    s->ext.backing_file = g_strdup(file);
    s->ext.backing_format = g_strdup(format);
    pthread_mutex_unlock(&bs->priv->info_lock);
    return true;
}
