/*
 * The header of a qcow2 image and the extensions behind it: from bytes and to
 * bytes.  No I/O here, so that it can be fed with anything.
 *
 * Layout and meaning: QEMU's docs/interop/qcow2.txt.  All integers are
 * big-endian.
 *
 *       0  magic, version            32  crypt_method, l1_size
 *       8  backing name: offset      40  l1_offset
 *      16  backing name: length      48  reftable_offset
 *      20  cluster_bits              56  reftable_clusters, nb_snapshots
 *      24  size                      64  snapshots_offset
 *     version 3:
 *      72  incompatible, compatible, autoclear features
 *      96  refcount_order, header_length      104  compression_type
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <inttypes.h>
#include <string.h>

#include "util/error.h"

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return GUINT32_FROM_BE(v);
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return GUINT64_FROM_BE(v);
}

static void put32(uint8_t *p, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
    v = GUINT64_TO_BE(v);
    memcpy(p, &v, sizeof(v));
}

static bool not_supported(GError **errp, const char *what)
{
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                "qcow2: %s is not supported", what);
    return false;
}

static void decode_fields(const uint8_t *buf, Qcow2Header *h)
{
    h->backing_offset = get64(buf + 8);
    h->backing_size = get32(buf + 16);
    h->cluster_bits = get32(buf + 20);
    h->size = get64(buf + 24);
    h->crypt_method = get32(buf + 32);
    h->l1_size = get32(buf + 36);
    h->l1_offset = get64(buf + 40);
    h->reftable_offset = get64(buf + 48);
    h->reftable_clusters = get32(buf + 56);
    h->nb_snapshots = get32(buf + 60);
    h->snapshots_offset = get64(buf + 64);
    h->refcount_order = 4;
    h->header_length = QCOW2_V2_HEADER_BYTES;
}

static bool decode_v3(const uint8_t *buf, size_t len, Qcow2Header *h,
                      GError **errp)
{
    if (len < QCOW2_V3_HEADER_BYTES) {
        error_set(errp, "qcow2: the header ends early");
        return false;
    }
    h->incompatible = get64(buf + 72);
    h->compatible = get64(buf + 80);
    h->autoclear = get64(buf + 88);
    h->refcount_order = get32(buf + 96);
    h->header_length = get32(buf + 100);
    if (h->header_length < QCOW2_V3_HEADER_BYTES) {
        error_set(errp, "qcow2: header length %" PRIu32 " is too short",
                  h->header_length);
        return false;
    }
    if (h->header_length > 104 && len > 104) {
        h->compression_type = buf[104];
    }
    return true;
}

static bool check_features(const Qcow2Header *h, GError **errp)
{
    uint64_t known = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT |
                     QCOW2_INCOMPAT_COMPRESSION;
    g_autofree char *unknown = NULL;

    if (h->crypt_method) {
        return not_supported(errp, h->crypt_method == 1   ? "AES encryption"
                                   : h->crypt_method == 2 ? "LUKS encryption"
                                                          : "this encryption");
    }
    if (h->incompatible & QCOW2_INCOMPAT_DATA_FILE) {
        return not_supported(errp, "an external data file");
    }
    if (h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2) {
        return not_supported(errp, "extended L2 entries (subclusters)");
    }
    if (h->incompatible & ~known) {
        unknown = g_strdup_printf("incompatible feature %#" PRIx64,
                                  h->incompatible & ~known);
        return not_supported(errp, unknown);
    }
    if (h->compression_type) {
        return not_supported(errp, h->compression_type == 1
                                       ? "compression type zstd"
                                       : "this compression type");
    }
    if (h->incompatible & QCOW2_INCOMPAT_COMPRESSION) {
        error_set(errp, "qcow2: the feature bit of the compression type is set, "
                  "but the type is zlib");
        return false;
    }
    return true;
}

/* A table of @bytes bytes at @offset: aligned, not the header, in the file. */
static bool check_table(const Qcow2Header *h, const char *what, uint64_t offset,
                        uint64_t bytes, uint64_t file_length, GError **errp)
{
    uint64_t cluster = UINT64_C(1) << h->cluster_bits;

    if (offset & (cluster - 1) || offset < cluster || offset > file_length ||
        bytes > file_length - offset) {
        error_set(errp, "qcow2: the %s can't be at offset %#" PRIx64, what,
                  offset);
        return false;
    }
    return true;
}

static bool check_l1(const Qcow2Header *h, uint64_t file_length, GError **errp)
{
    unsigned bits = 2 * h->cluster_bits - 3; /* of the bytes that an entry maps */
    uint64_t needed = (h->size >> bits) + !!(h->size & ((UINT64_C(1) << bits) - 1));

    if (h->l1_size > QCOW2_MAX_L1_BYTES / 8 || needed > h->l1_size) {
        error_set(errp, "qcow2: an L1 table of %" PRIu32 " entries does not fit "
                  "an image of %" PRIu64 " bytes", h->l1_size, h->size);
        return false;
    }
    return h->l1_size == 0 ||
           check_table(h, "L1 table", h->l1_offset, h->l1_size * UINT64_C(8),
                       file_length, errp);
}

static bool check_reftable(const Qcow2Header *h, uint64_t file_length,
                           GError **errp)
{
    uint64_t bytes = (uint64_t)h->reftable_clusters << h->cluster_bits;

    if (h->refcount_order > 6 || (h->version == 2 && h->refcount_order != 4)) {
        error_set(errp, "qcow2: refcounts can't be 2^%" PRIu32 " bits wide",
                  h->refcount_order);
        return false;
    }
    if (h->reftable_clusters == 0 || bytes > QCOW2_MAX_REFTABLE_BYTES) {
        error_set(errp, "qcow2: the refcount table can't have %" PRIu32
                  " clusters", h->reftable_clusters);
        return false;
    }
    return check_table(h, "refcount table", h->reftable_offset, bytes,
                       file_length, errp);
}

static bool check_fields(const Qcow2Header *h, uint64_t file_length,
                         GError **errp)
{
    uint64_t cluster;

    if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
        h->cluster_bits > QCOW2_MAX_CLUSTER_BITS) {
        error_set(errp, "qcow2: clusters can't be of 2^%" PRIu32 " bytes",
                  h->cluster_bits);
        return false;
    }
    cluster = UINT64_C(1) << h->cluster_bits;
    if (h->header_length > cluster || h->header_length & 7) {
        error_set(errp, "qcow2: the header can't have %" PRIu32 " bytes",
                  h->header_length);
        return false;
    }
    if (h->size > INT64_MAX - BDRV_REQUEST_MAX_BYTES) {
        error_set(errp, "qcow2: the size %" PRIu64 " is too large", h->size);
        return false;
    }
    if (h->backing_offset &&
        (h->backing_size > QCOW2_MAX_BACKING_NAME ||
         h->backing_offset < h->header_length || h->backing_offset > cluster ||
         h->backing_size > cluster - h->backing_offset)) {
        error_set(errp, "qcow2: the backing file's name can't be %" PRIu32
                  " bytes at offset %#" PRIx64, h->backing_size,
                  h->backing_offset);
        return false;
    }
    if (h->nb_snapshots > QCOW2_MAX_SNAPSHOTS) {
        error_set(errp, "qcow2: %" PRIu32 " snapshots are too many",
                  h->nb_snapshots);
        return false;
    }
    return check_l1(h, file_length, errp) &&
           check_reftable(h, file_length, errp) &&
           (!h->nb_snapshots ||
            check_table(h, "snapshot table", h->snapshots_offset,
                        h->nb_snapshots * UINT64_C(40), file_length, errp));
}

bool qcow2_header_decode(const uint8_t *buf, size_t len, uint64_t file_length,
                         Qcow2Header *h, GError **errp)
{
    g_autofree char *version = NULL;

    memset(h, 0, sizeof(*h));
    if (len < QCOW2_V2_HEADER_BYTES || get32(buf) != QCOW2_MAGIC) {
        error_set(errp, "Image is not in qcow2 format");
        return false;
    }
    h->version = get32(buf + 4);
    if (h->version != 2 && h->version != 3) {
        version = g_strdup_printf("version %" PRIu32, h->version);
        return not_supported(errp, version);
    }
    decode_fields(buf, h);
    if (h->version == 3 && !decode_v3(buf, len, h, errp)) {
        return false;
    }
    return check_features(h, errp) && check_fields(h, file_length, errp);
}

void qcow2_extensions_clear(Qcow2Extensions *ext)
{
    g_clear_pointer(&ext->backing_file, g_free);
    g_clear_pointer(&ext->backing_format, g_free);
    g_clear_pointer(&ext->others, g_byte_array_unref);
}

/* A string of an image: not empty, without a NUL inside. */
static char *get_string(const uint8_t *p, size_t len, const char *what,
                        GError **errp)
{
    if (len == 0 || memchr(p, 0, len)) {
        error_set(errp, "qcow2: the %s is no text", what);
        return NULL;
    }
    return g_strndup((const char *)p, len);
}

static bool take_extension(Qcow2Extensions *ext, uint32_t type,
                           const uint8_t *p, uint32_t len, GError **errp)
{
    static const uint8_t padding[8];

    if (type == QCOW2_EXT_BACKING_FORMAT) {
        g_free(ext->backing_format);
        ext->backing_format = get_string(p, len, "backing format", errp);
        return ext->backing_format;
    }
    g_byte_array_append(ext->others, p - 8, 8 + len);
    g_byte_array_append(ext->others, padding, -len & 7);
    return true;
}

static bool decode_list(const Qcow2Header *h, const uint8_t *buf, size_t len,
                        Qcow2Extensions *ext, GError **errp)
{
    size_t pos = h->header_length;
    size_t end = h->backing_offset ? MIN(len, h->backing_offset) : len;

    while (pos + 8 <= end) {
        uint32_t type = get32(buf + pos), n = get32(buf + pos + 4);

        if (type == QCOW2_EXT_END) {
            break;
        }
        pos += 8;
        if (n > end - pos) {
            error_set(errp, "qcow2: header extension %#" PRIx32 " at %#zx is "
                      "too large", type, pos - 8);
            return false;
        }
        if (!take_extension(ext, type, buf + pos, n, errp)) {
            return false;
        }
        pos += (n + 7) & ~UINT32_C(7);
    }
    return true;
}

bool qcow2_extensions_decode(const Qcow2Header *h, const uint8_t *buf,
                             size_t len, Qcow2Extensions *ext, GError **errp)
{
    memset(ext, 0, sizeof(*ext));
    ext->others = g_byte_array_new();
    if (h->backing_offset && h->backing_size) {
        if (h->backing_offset + h->backing_size > len) {
            error_set(errp, "qcow2: the backing file's name lies behind the end "
                      "of the file");
            return false;
        }
        ext->backing_file = get_string(buf + h->backing_offset, h->backing_size,
                                       "backing file's name", errp);
        if (!ext->backing_file) {
            return false;
        }
    }
    return decode_list(h, buf, len, ext, errp);
}

size_t qcow2_header_encode(const Qcow2Header *h, uint8_t *buf)
{
    put32(buf, QCOW2_MAGIC);
    put32(buf + 4, h->version);
    put64(buf + 8, h->backing_offset);
    put32(buf + 16, h->backing_size);
    put32(buf + 20, h->cluster_bits);
    put64(buf + 24, h->size);
    put32(buf + 32, h->crypt_method);
    put32(buf + 36, h->l1_size);
    put64(buf + 40, h->l1_offset);
    put64(buf + 48, h->reftable_offset);
    put32(buf + 56, h->reftable_clusters);
    put32(buf + 60, h->nb_snapshots);
    put64(buf + 64, h->snapshots_offset);
    if (h->version == 2) {
        return QCOW2_V2_HEADER_BYTES;
    }
    put64(buf + 72, h->incompatible);
    put64(buf + 80, h->compatible);
    put64(buf + 88, h->autoclear);
    put32(buf + 96, h->refcount_order);
    put32(buf + 100, h->header_length);
    if (h->header_length > 104) {
        buf[104] = h->compression_type;
    }
    return MIN(h->header_length, QCOW2_HEADER_BYTES);
}

/* Returns where the next one goes; 0: no room. */
static size_t encode_format(const char *format, uint8_t *buf, size_t len,
                            size_t pos)
{
    size_t n = strlen(format);

    if (pos + 8 + n + 7 > len) {
        return 0;
    }
    put32(buf + pos, QCOW2_EXT_BACKING_FORMAT);
    put32(buf + pos + 4, n);
    memcpy(buf + pos + 8, format, n);
    return pos + 8 + ((n + 7) & ~(size_t)7);
}

/* Without the others (names of features, above all) when there is no room. */
static size_t encode_others(const GByteArray *others, uint8_t *buf,
                            size_t limit, size_t pos)
{
    if (others && others->len && pos + others->len + 8 <= limit) {
        memcpy(buf + pos, others->data, others->len);
        pos += others->len;
    }
    return pos + 8 <= limit ? pos + 8 : 0; /* the end mark, zeros */
}

bool qcow2_first_cluster_encode(Qcow2Header *h, const Qcow2Extensions *ext,
                                uint8_t *buf, size_t len, size_t name_at)
{
    size_t name = ext->backing_file ? strlen(ext->backing_file) : 0;
    size_t pos = h->header_length;

    if (pos > len || name > QCOW2_MAX_BACKING_NAME || name > len) {
        return false;
    }
    memset(buf, 0, len);
    if (ext->backing_format) {
        pos = encode_format(ext->backing_format, buf, len, pos);
    }
    if (pos) {
        pos = encode_others(ext->others, buf, name_at ? name_at : len - name,
                            pos);
    }
    if (!pos || (name_at && name_at + name > len)) {
        return false;
    }
    h->backing_size = name;
    h->backing_offset = name ? (name_at ? name_at : pos) : 0;
    if (name) {
        memcpy(buf + h->backing_offset, ext->backing_file, name);
    }
    qcow2_header_encode(h, buf);
    return true;
}
