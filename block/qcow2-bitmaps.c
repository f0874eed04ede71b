/*
 * Persistent dirty bitmaps (QEMU's incremental backups keep them in an image).
 *
 * They are not kept up to date here.  An image with bitmaps may be written all
 * the same, as the format has it: each bitmap is marked as "in use" before the
 * first write, which is what a bitmap looks like whose program crashed.  So
 * nothing is lost silently: QEMU lists them as inconsistent and lets one remove
 * them, their clusters stay accounted for, and nobody takes them for true.
 *
 * Bitmaps that make no sense are left to rot: the autoclear bit is cleared, and
 * then they don't exist for anybody (their clusters are leaks).
 *
 *     extension:        number, reserved, directory's bytes, directory's offset
 *     directory entry:  table offset (8), table entries (4), flags (4), type (1),
 *                       granularity (1), name's length (2), extra data's (4),
 *                       extra data, name, padding to 8
 *     table entry:      offset of a cluster, or 0 or 1 for all zeros, all ones
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "util/error.h"

#define EXT_BITMAPS 0x23852875
#define EXT_BYTES 24
#define ENTRY_BYTES 24
/* QEMU's limits: bitmaps, a name, a table; and of ours: the whole directory. */
#define MAX_BITMAPS 65535
#define MAX_NAME 1023
#define MAX_TABLE_BYTES (64 * 1024 * 1024)
#define MAX_DIRECTORY_BYTES (64 * 1024 * 1024)
#define MAX_NAMES 400 /* bytes in a message, then no more names */

/* The extension's contents, or NULL. */
static const uint8_t *find_extension(const Qcow2State *s)
{
    const GByteArray *others = s->ext.others;

    for (guint pos = 0; others && pos + 8 <= others->len;) {
        uint64_t len = qcow2_get_be(others->data + pos + 4, 4);

        if (qcow2_get_be(others->data + pos, 4) == EXT_BITMAPS) {
            return len == EXT_BYTES ? others->data + pos + 8 : NULL;
        }
        pos += 8 + ((len + 7) & ~UINT64_C(7));
    }
    return NULL;
}

bool qcow2_has_bitmaps(const Qcow2State *s)
{
    return s->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS;
}

static bool wrong(BlockNode *bs, const char *what, uint64_t at, GError **errp)
{
    error_set(errp, "'%s': the bitmaps make no sense: %s at %#" PRIx64,
              bs->filename, what, at);
    return false;
}

/* The directory: *bytes, *offset, number.  g_free; NULL: an error. */
static uint8_t *read_directory(BlockNode *bs, uint64_t *offset, uint64_t *bytes,
                               uint32_t *n, GError **errp)
{
    Qcow2State *s = bs->opaque;
    const uint8_t *ext = find_extension(s);
    uint8_t *dir;
    int ret;

    if (!ext) {
        error_set(errp, "'%s': the bitmaps make no sense: there is no directory",
                  bs->filename);
        return NULL;
    }
    *n = qcow2_get_be(ext, 4);
    *bytes = qcow2_get_be(ext + 8, 8);
    *offset = qcow2_get_be(ext + 16, 8);
    if (*n == 0 || *n > MAX_BITMAPS || *bytes > MAX_DIRECTORY_BYTES ||
        *offset & (s->cluster_size - 1) || *offset > INT64_MAX ||
        *offset + *bytes > (uint64_t)bdrv_length(bs->file)) {
        wrong(bs, "the directory", *offset, errp);
        return NULL;
    }
    dir = g_try_malloc0(MAX(*bytes, 1));
    ret = dir ? qcow2_file_pread(bs, *offset, *bytes, dir) : -ENOMEM;
    if (ret < 0) {
        error_set_errno(errp, -ret, "'%s': could not read the bitmaps",
                        bs->filename);
        g_clear_pointer(&dir, g_free);
    }
    return dir;
}

/* The length of the entry at @p, of which @left bytes are there; 0: wrong. */
static uint64_t entry_bytes(const uint8_t *p, uint64_t left)
{
    uint64_t name, bytes;

    if (left < ENTRY_BYTES) {
        return 0;
    }
    name = qcow2_get_be(p + 18, 2);
    bytes = ENTRY_BYTES + name + qcow2_get_be(p + 20, 4);
    bytes = (bytes + 7) & ~UINT64_C(7);
    return name == 0 || name > MAX_NAME || bytes > left ? 0 : bytes;
}

/* The table of one bitmap, and its clusters. */
static bool visit_table(BlockNode *bs, const uint8_t *entry, Qcow2VisitFn *fn,
                        void *opaque, GError **errp)
{
    Qcow2State *s = bs->opaque;
    uint64_t at = qcow2_get_be(entry, 8), bytes = qcow2_get_be(entry + 8, 4) * 8;
    g_autofree uint8_t *table = NULL;
    int ret;

    if (at & (s->cluster_size - 1) || bytes > MAX_TABLE_BYTES) {
        return wrong(bs, "a table", at, errp);
    }
    if (bytes == 0) {
        return true;
    }
    if (!fn(opaque, "a bitmap's table", at, bytes, errp)) {
        return false;
    }
    table = g_try_malloc(bytes);
    ret = table ? qcow2_file_pread(bs, at, bytes, table) : -ENOMEM;
    if (ret < 0) {
        error_set_errno(errp, -ret, "'%s': could not read a bitmap", bs->filename);
        return false;
    }
    for (uint64_t i = 0; i < bytes; i += 8) {
        uint64_t cluster = qcow2_get_be(table + i, 8) & QCOW2_OFFSET_MASK;

        if (cluster & (s->cluster_size - 1)) {
            return wrong(bs, "a cluster", cluster, errp);
        }
        if (cluster && !fn(opaque, "a bitmap", cluster, s->cluster_size, errp)) {
            return false;
        }
    }
    return true;
}

bool qcow2_bitmaps_visit(BlockNode *bs, Qcow2VisitFn *fn, void *opaque,
                         GError **errp)
{
    g_autofree uint8_t *dir = NULL;
    uint64_t offset, bytes, pos = 0;
    uint32_t n;

    if (!qcow2_has_bitmaps(bs->opaque)) {
        return true;
    }
    dir = read_directory(bs, &offset, &bytes, &n, errp);
    if (!dir || !fn(opaque, "the bitmap directory", offset, bytes, errp)) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t len = entry_bytes(dir + pos, bytes - pos);

        if (len == 0) {
            return wrong(bs, "a directory entry", offset + pos, errp);
        }
        if (!visit_table(bs, dir + pos, fn, opaque, errp)) {
            return false;
        }
        pos += len;
    }
    return true;
}

static bool nothing(void *opaque, const char *what, uint64_t offset,
                    uint64_t bytes, GError **errp)
{
    Qcow2State *s = ((BlockNode *)opaque)->opaque;
    uint64_t length = qcow2_cluster_end(s, bdrv_length(((BlockNode *)opaque)->file));

    return offset >= s->cluster_size && offset <= length && bytes <= length - offset
               ? true : wrong(opaque, what, offset, errp);
}

bool qcow2_bitmaps_check(BlockNode *bs, GError **errp)
{
    return qcow2_bitmaps_visit(bs, nothing, bs, errp);
}

bool qcow2_bitmaps_list(BlockNode *bs, Qcow2BitmapFn *fn, void *opaque)
{
    g_autofree uint8_t *dir = NULL;
    uint64_t offset, bytes, pos = 0;
    uint32_t n = 0;

    if (!qcow2_has_bitmaps(bs->opaque)) {
        return true;
    }
    dir = read_directory(bs, &offset, &bytes, &n, NULL);
    for (uint32_t i = 0; dir && i < n; i++) {
        const uint8_t *entry = dir + pos;
        uint64_t len = entry_bytes(entry, bytes - pos);

        if (len == 0 ||
            !fn(opaque, (const char *)entry + ENTRY_BYTES + qcow2_get_be(entry + 20, 4),
                qcow2_get_be(entry + 18, 2), qcow2_get_be(entry + 12, 4), entry[17])) {
            return false;
        }
        pos += len;
    }
    return dir;
}

/* The names, for a message. */
static void add_name(GString *names, const uint8_t *entry)
{
    uint64_t extra = qcow2_get_be(entry + 20, 4);
    g_autofree char *name = g_strndup((const char *)entry + ENTRY_BYTES + extra,
                                      qcow2_get_be(entry + 18, 2));
    g_autofree char *printable = g_strescape(name, NULL);

    if (names->len < MAX_NAMES) {
        g_string_append_printf(names, "%s'%s'", names->len ? ", " : "", printable);
    }
}

int qcow2_bitmaps_mark_in_use(BlockNode *bs)
{
    g_autofree uint8_t *dir = NULL;
    g_autoptr(GString) names = g_string_new(NULL);
    uint64_t offset, bytes, pos = 0;
    uint32_t n;
    int ret;

    if (!qcow2_has_bitmaps(bs->opaque)) {
        return 0;
    }
    dir = read_directory(bs, &offset, &bytes, &n, NULL);
    for (uint32_t i = 0; dir && i < n; i++) {
        uint64_t len = entry_bytes(dir + pos, bytes - pos);

        if (len == 0) {
            return -EIO; /* it was checked: somebody else writes the file */
        }
        if (!(dir[pos + 15] & QCOW2_BITMAP_IN_USE)) {
            dir[pos + 15] |= QCOW2_BITMAP_IN_USE;
            add_name(names, dir + pos);
        }
        pos += len;
    }
    if (!dir || names->len == 0) {
        return dir ? 0 : -EIO;
    }
    ret = bdrv_pwrite(bs->file, offset, bytes, dir, 0);
    ret = ret < 0 ? ret : bdrv_flush(bs->file);
    if (ret == 0) {
        g_printerr("qemu-sidecar: '%s' has dirty bitmaps, which are not kept up to date: "
                   "QEMU will call them inconsistent (%s)\n", bs->filename, names->str);
    }
    return ret;
}
