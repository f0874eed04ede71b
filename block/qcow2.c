/*
 * The format `qcow2': opening and closing, and the driver's table.
 *
 * docs/qcow2.md says what is supported and how it works; block/qcow2.h which
 * file does what.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "util/error.h"

/*
 * From now on the header says so, too: nobody writes the image until
 * qemu-img check -r has been over it. Version 2 has no place for that.
 */
int qcow2_mark_corrupt(BlockNode *bs)
{
    Qcow2State *s = bs->opaque;
    uint64_t bits = GUINT64_TO_BE(s->header.incompatible | QCOW2_INCOMPAT_CORRUPT);

    if (s->version < 3 || bdrv_is_read_only(bs)) {
        return 0;
    }
    return qcow2_header_patch(bs, 72, &bits, sizeof(bits));
}

int qcow2_corrupt(BlockNode *bs, const char *fmt, ...)
{
    Qcow2State *s = bs->opaque;
    g_autofree char *text = NULL;
    va_list ap;

    if (atomic_exchange(&s->broken, true)) {
        return -EIO;
    }
    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_printerr("qemu-sidecar: '%s': the qcow2 image is corrupt: %s; %s\n",
               bs->filename, text, "it is not written any more");
    bdrv_set_corrupt(bs, text);
    if (qcow2_mark_corrupt(bs) < 0) {
        g_printerr("qemu-sidecar: '%s': could not mark it as corrupt\n",
                   bs->filename);
    }
    return -EIO;
}

static int qcow2_probe(const uint8_t *buf, size_t len)
{
    static const uint8_t magic[4] = { 'Q', 'F', 'I', 0xfb };
    uint32_t version;

    if (len < 8 || memcmp(buf, magic, 4) != 0) {
        return 0;
    }
    memcpy(&version, buf + 4, 4);
    return GUINT32_FROM_BE(version) >= 2 ? 100 : 0;
}

/* ---- opening -------------------------------------------------------------- */

static bool decode_first_cluster(BlockNode *bs, Qcow2State *s, GError **errp)
{
    int64_t length = bdrv_length(bs->file);
    size_t len = MIN(length, INT64_C(1) << QCOW2_MAX_CLUSTER_BITS);
    g_autofree uint8_t *buf = NULL;
    uint8_t head[QCOW2_HEADER_BYTES] = { 0 };
    int ret = bdrv_pread(bs->file, 0, MIN(len, sizeof(head)), head);

    if (ret == 0 && !qcow2_header_decode(head, MIN(len, sizeof(head)), length,
                                         &s->header, errp)) {
        return false;
    }
    if (ret == 0) {
        len = MIN(len, (size_t)1 << s->header.cluster_bits);
        buf = g_malloc(len);
        ret = bdrv_pread(bs->file, 0, len, buf);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not read qcow2 header");
        return false;
    }
    return qcow2_extensions_decode(&s->header, buf, len, &s->ext, errp);
}

int qcow2_header_patch(BlockNode *bs, size_t at, const void *bytes, size_t n)
{
    int ret = bdrv_pwrite(bs->file, at, n, bytes, 0);

    return ret < 0 ? ret : bdrv_flush(bs->file);
}

/* The feature bits as they are in s->header now. */
static int write_features(BlockNode *bs, Qcow2State *s)
{
    uint64_t bits[3] = {
        GUINT64_TO_BE(s->header.incompatible),
        GUINT64_TO_BE(s->header.compatible),
        GUINT64_TO_BE(s->header.autoclear),
    };

    return qcow2_header_patch(bs, 72, bits, sizeof(bits));
}

/*
 * Autoclear bits that we do not know are cleared: what they stand for is no longer
 * true then. We know bitmaps, and how to say that they are not (qcow2-bitmaps.c);
 * if they make no sense, they get the same treatment.
 */
static void choose_autoclear(BlockNode *bs, Qcow2State *s)
{
    GError *err = NULL;

    s->header.autoclear &= QCOW2_AUTOCLEAR_BITMAPS;
    if (!qcow2_bitmaps_check(bs, &err)) {
        g_printerr("qemu-sidecar: %s; QEMU will ignore them\n", err->message);
        g_error_free(err);
        s->header.autoclear = 0;
    }
}

/* What must be so before the first write. */
static bool prepare_writing(BlockNode *bs, Qcow2State *s, GError **errp)
{
    bool dirty = s->header.incompatible & QCOW2_INCOMPAT_DIRTY;
    uint64_t autoclear = s->header.autoclear;
    int ret = 0;

    if (s->header.incompatible & QCOW2_INCOMPAT_CORRUPT) {
        error_set(errp, "qcow2: Image is corrupt; cannot be opened read/write "
                  "(see qemu-img check -r all)");
        return false;
    }
    if (!qcow2_refcount_init(bs, errp)) {
        return false;
    }
    choose_autoclear(bs, s);
    if ((dirty && !qcow2_repair(bs, errp)) || !qcow2_meta_init(bs, errp)) {
        return false;
    }
    if (dirty || s->header.autoclear != autoclear) {
        s->header.incompatible &= ~(uint64_t)QCOW2_INCOMPAT_DIRTY;
        ret = write_features(bs, s);
    }
    ret = ret < 0 ? ret : qcow2_bitmaps_mark_in_use(bs);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not write the header");
    }
    return ret == 0;
}

static void free_state(Qcow2State *s)
{
    qcow2_extensions_clear(&s->ext);
    qcow2_info_free(s);
    if (s->slices) {
        qcow2_map_destroy(s);
    }
    qcow2_refcount_destroy(s);
    g_clear_pointer(&s->meta, g_hash_table_unref);
    pthread_mutex_destroy(&s->meta_lock);
    pthread_mutex_destroy(&s->alloc_lock);
    pthread_cond_destroy(&s->alloc_done);
    pthread_mutex_destroy(&s->checkpoint_lock);
}

static bool open_image(BlockNode *bs, Qcow2State *s, GError **errp)
{
    if (!decode_first_cluster(bs, s, errp)) {
        return false;
    }
    s->version = s->header.version;
    s->cluster_bits = s->header.cluster_bits;
    s->cluster_size = UINT64_C(1) << s->cluster_bits;
    s->refcount_order = s->header.refcount_order;
    s->refblock_bits = s->cluster_bits + 3 - s->refcount_order;
    s->refcount_max = s->refcount_order == 6
                          ? INT64_MAX
                          : (UINT64_C(1) << (1u << s->refcount_order)) - 1;
    bs->request_alignment = bs->file->request_alignment <= s->cluster_size
                                ? bs->file->request_alignment : 1;
    bs->memory_alignment = bs->file->memory_alignment;
    return qcow2_map_init(bs, errp) &&
           (bdrv_is_read_only(bs) || prepare_writing(bs, s, errp));
}

static bool qcow2_open(BlockNode *bs, int flags, GError **errp)
{
    Qcow2State *s = bs->opaque;

    pthread_mutex_init(&s->meta_lock, NULL);
    pthread_mutex_init(&s->alloc_lock, NULL);
    pthread_cond_init(&s->alloc_done, NULL);
    pthread_mutex_init(&s->checkpoint_lock, NULL);
    if (!open_image(bs, s, errp)) {
        g_prefix_error(errp, "Could not open '%s': ", bs->filename);
        free_state(s);
        return false;
    }
    qcow2_info_load(bs);
    return true;
}

/* The rest of the metadata: refcounts that went down, with BDRV_O_NO_FLUSH all. */
static void write_rest(BlockNode *bs, Qcow2State *s)
{
    int ret = qcow2_settle(bs);

    if (ret < 0 && !atomic_load(&s->broken)) {
        g_printerr("qemu-sidecar: '%s': could not write all metadata: %s\n",
                   bs->filename, g_strerror(-ret));
    }
    if (s->grown && !atomic_load(&s->broken)) {
        bdrv_truncate(bs->file, s->high_water, NULL);
    }
}

static void qcow2_close(BlockNode *bs)
{
    Qcow2State *s = bs->opaque;

    if (s->reftable && !bdrv_is_read_only(bs)) {
        write_rest(bs, s);
    }
    free_state(s);
}

static int64_t qcow2_length(BlockNode *bs)
{
    Qcow2State *s = bs->opaque;

    return s->header.size;
}

static const char *qcow2_backing_file(BlockNode *bs, const char **format)
{
    Qcow2State *s = bs->opaque;

    *format = s->ext.backing_format;
    return s->ext.backing_file;
}

/* Only what does not change while the image is open. */
static void qcow2_image_info(BlockNode *bs, BdrvImageInfo *info)
{
    Qcow2State *s = bs->opaque;

    info->cluster_size = s->cluster_size;
    info->compat = s->version < 3 ? "0.10" : "1.1";
    info->refcount_bits = 1u << s->refcount_order;
    info->lazy_refcounts = s->header.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
    info->dirty = s->header.incompatible & QCOW2_INCOMPAT_DIRTY;
    info->corrupt = (s->header.incompatible & QCOW2_INCOMPAT_CORRUPT) ||
                    (atomic_load(&s->broken) && !bdrv_is_read_only(bs));
    info->snapshots = s->snapshots ? g_ptr_array_ref(s->snapshots) : NULL;
    info->bitmaps = s->bitmaps ? g_ptr_array_ref(s->bitmaps) : NULL;
}

const BlockDriver bdrv_qcow2 = {
    .format_name = "qcow2",
    .instance_size = sizeof(Qcow2State),
    .probe = qcow2_probe,
    .open = qcow2_open,
    .close = qcow2_close,
    .create = qcow2_create,
    .length = qcow2_length,
    .truncate = qcow2_truncate,
    .backing_file = qcow2_backing_file,
    .change_backing_file = qcow2_change_backing_file,
    .image_info = qcow2_image_info,
    .pread = qcow2_pread,
    .pwrite = qcow2_pwrite,
    .pwrite_zeroes = qcow2_pwrite_zeroes,
    .pdiscard = qcow2_pdiscard,
    .flush = qcow2_flush,
    .write_back = true,
    .block_status = qcow2_block_status,
};
