/*
 * The header of an archive: everything in it is checked here, once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "reader.h"

#include <inttypes.h>
#include <string.h>
#include "util/error.h"

/* What people feed us by mistake. */
static const struct {
    const char *magic;
    size_t len;
    const char *what;
} others[] = {
    { "\x28\xb5\x2f\xfd", 4, "compressed by zstd" },
    { "\x1f\x8b", 2, "compressed by gzip" },
    { "\x89LZO", 4, "compressed by lzop" },
    { "\xfd" "7zXZ", 5, "compressed by xz" },
    { "BZh", 3, "compressed by bzip2" },
};

static void wrong_magic(const uint8_t *head, GError **errp)
{
    for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
        if (memcmp(head, others[i].magic, others[i].len) == 0) {
            error_set(errp, "not a VMA archive: it looks like one %s; "
                      "decompress it into `vma ... -'", others[i].what);
            return;
        }
    }
    error_set(errp, "not a VMA archive (wrong magic)");
}

static uint32_t be32_at(const uint8_t *p, size_t offset)
{
    uint32_t v;

    memcpy(&v, p + offset, sizeof(v));
    return GUINT32_FROM_BE(v);
}

static uint64_t be64_at(const uint8_t *p, size_t offset)
{
    uint64_t v;

    memcpy(&v, p + offset, sizeof(v));
    return GUINT64_FROM_BE(v);
}

bool vma_reader_check_head(const uint8_t *head, size_t len, size_t *size,
                           GError **errp)
{
    uint32_t version, header_size;

    if (be32_at(head, offsetof(VmaHeader, magic)) != VMA_MAGIC) {
        wrong_magic(head, errp);
        return false;
    }
    version = be32_at(head, offsetof(VmaHeader, version));
    if (version != VMA_VERSION) {
        error_set(errp, "version %" PRIu32 " is not known, only %d", version,
                  VMA_VERSION);
        return false;
    }
    header_size = be32_at(head, offsetof(VmaHeader, header_size));
    if (header_size <= sizeof(VmaHeader) || header_size > VMA_MAX_HEADER_SIZE) {
        error_set(errp, "its size of %" PRIu32 " bytes is out of range",
                  header_size);
        return false;
    }
    *size = header_size;
    return true;
}

/* The blob buffer, checked to lie inside the header. */
typedef struct {
    const uint8_t *data;
    uint32_t size;
} Blobs;

static bool find_blobs(const VmaReader *r, Blobs *blobs, GError **errp)
{
    uint32_t offset = be32_at(r->header, offsetof(VmaHeader, blob_buffer_offset));

    blobs->size = be32_at(r->header, offsetof(VmaHeader, blob_buffer_size));
    if (offset < sizeof(VmaHeader) || offset > r->want ||
        blobs->size > r->want - offset) {
        error_set(errp, "blob buffer (%" PRIu32 " bytes at %" PRIu32
                  ") is not inside the header", blobs->size, offset);
        return false;
    }
    blobs->data = r->header + offset;
    return true;
}

static bool get_blob(const Blobs *blobs, uint32_t ptr, const uint8_t **data,
                     size_t *len, GError **errp)
{
    if (ptr == 0 || ptr >= blobs->size || blobs->size - ptr < 2) {
        error_set(errp, "pointer %" PRIu32 " is not inside the blob buffer", ptr);
        return false;
    }
    *len = blobs->data[ptr] | blobs->data[ptr + 1] << 8;
    if (*len > blobs->size - ptr - 2) {
        error_set(errp, "blob at %" PRIu32 " ends outside the blob buffer", ptr);
        return false;
    }
    *data = blobs->data + ptr + 2;
    return true;
}

/* A name: NUL-terminated, and safe to use. */
static const char *get_name(const Blobs *blobs, uint32_t ptr, GError **errp)
{
    const uint8_t *data;
    const char *problem;
    size_t len;

    if (!get_blob(blobs, ptr, &data, &len, errp)) {
        return NULL;
    }
    if (len == 0 || data[len - 1] != '\0') {
        error_set(errp, "name does not end with a NUL byte");
        return NULL;
    }
    problem = vma_name_problem((const char *)data, len - 1);
    if (problem) {
        g_autofree char *shown = g_strescape((const char *)data, NULL);

        error_set(errp, "name '%.300s' %s", shown, problem);
        return NULL;
    }
    return (const char *)data;
}

static bool parse_config(VmaReader *r, const Blobs *blobs, unsigned i,
                         GHashTable *names, GError **errp)
{
    uint32_t name = be32_at(r->header, offsetof(VmaHeader, config_names) + 4 * i);
    uint32_t data = be32_at(r->header, offsetof(VmaHeader, config_data) + 4 * i);
    VmaConfigInfo info;
    const uint8_t *bytes;

    if (!name && !data) {
        return true;
    }
    if (!name || !data) {
        error_set(errp, "has no %s", name ? "data" : "name");
        return false;
    }
    info.name = get_name(blobs, name, errp);
    if (!info.name || !get_blob(blobs, data, &bytes, &info.len, errp)) {
        return false;
    }
    if (!g_hash_table_add(names, (void *)info.name)) {
        error_set(errp, "name '%s' appears twice", info.name);
        return false;
    }
    info.data = bytes;
    g_array_append_val(r->configs, info);
    return true;
}

static bool parse_device(VmaReader *r, const Blobs *blobs, unsigned i,
                         GHashTable *names, GError **errp)
{
    size_t at = offsetof(VmaHeader, dev_info) + i * sizeof(VmaDeviceInfoHeader);
    uint32_t ptr = be32_at(r->header, at + offsetof(VmaDeviceInfoHeader, devname_ptr));
    uint64_t size = be64_at(r->header, at + offsetof(VmaDeviceInfoHeader, size));
    VmaReaderDevice *dev = &r->devices[i];
    const char *name;

    if (!ptr && !size) {
        return true;
    }
    if (i == 0 || i > VMA_MAX_DEVICES) {
        error_set(errp, "only 1 to %d can be used", VMA_MAX_DEVICES);
        return false;
    }
    name = get_name(blobs, ptr, errp);
    if (!name) {
        return false;
    }
    if (size == 0 || size > VMA_MAX_DEVICE_SIZE) {
        error_set(errp, "%s: size of %" PRIu64 " bytes is out of range", name, size);
        return false;
    }
    if (!g_hash_table_add(names, (void *)name)) {
        error_set(errp, "name '%s' appears twice", name);
        return false;
    }
    dev->info.name = name;
    dev->info.size = size;
    dev->info.is_vmstate = strcmp(name, "vmstate") == 0;
    dev->seen = vma_clusterset_new(&r->budget);
    r->stats.total_clusters += vma_cluster_count(size);
    return true;
}

typedef bool ParseFn(VmaReader *r, const Blobs *blobs, unsigned i,
                     GHashTable *names, GError **errp);

/* Entry by entry; an error gets to know which one it was. */
static bool parse_table(VmaReader *r, const Blobs *blobs, unsigned n,
                        const char *what, ParseFn *parse, GError **errp)
{
    GHashTable *names = g_hash_table_new(g_str_hash, g_str_equal);
    bool ok = true;

    for (unsigned i = 0; i < n && ok; i++) {
        ok = parse(r, blobs, i, names, errp);
        if (!ok) {
            g_prefix_error(errp, "%s %u: ", what, i);
        }
    }
    g_hash_table_destroy(names);
    return ok;
}

bool vma_reader_parse_header(VmaReader *r, GError **errp)
{
    const size_t md5_at = offsetof(VmaHeader, md5sum);
    uint8_t md5[16];
    Blobs blobs;

    vma_md5(r->header, r->want, md5_at, md5);
    if (memcmp(md5, r->header + md5_at, sizeof(md5)) != 0) {
        error_set(errp, "MD5 does not match");
        return false;
    }
    memcpy(r->uuid, r->header + offsetof(VmaHeader, uuid), sizeof(r->uuid));
    r->ctime = be64_at(r->header, offsetof(VmaHeader, ctime));
    if (!find_blobs(r, &blobs, errp) ||
        !parse_table(r, &blobs, VMA_MAX_CONFIGS, "configuration", parse_config, errp) ||
        !parse_table(r, &blobs, 256, "dev_id", parse_device, errp)) {
        return false;
    }
    if (!r->configs->len && !r->stats.total_clusters) {
        error_set(errp, "neither a device nor a configuration in it");
        return false;
    }
    return true;
}
