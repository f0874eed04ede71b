/*
 * An image of ours as QEMU 7.2 describes one; see image-info.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "image-info.h"

#include <string.h>
#include <time.h>

#define NSEC UINT64_C(1000000000)

static void add_string(json_object *o, const char *key, const char *value)
{
    if (value) {
        json_object_object_add(o, key, json_object_new_string(value));
    }
}

static void add_bool(json_object *o, const char *key, bool value)
{
    json_object_object_add(o, key, json_object_new_boolean(value));
}

static void add_int(json_object *o, const char *key, int64_t value)
{
    json_object_object_add(o, key, json_object_new_int64(value));
}

/* As QEMU names it: the block layer opens what an image names as file:./NAME. */
static const char *shown_name(BlockNode *node)
{
    const char *name = bdrv_filename(node);

    if (g_str_has_prefix(name, "file:")) {
        name += strlen("file:");
        name += g_str_has_prefix(name, "./") ? 2 : 0;
    }
    return name;
}

/* QEMU counts sectors. */
static int64_t virtual_size(BlockNode *node)
{
    return (bdrv_length(node) + 511) & ~INT64_C(511);
}

static json_object *snapshot_list(const GPtrArray *snapshots)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < snapshots->len; i++) {
        const BdrvSnapshotInfo *sn = g_ptr_array_index(snapshots, i);
        json_object *o = json_object_new_object();

        add_string(o, "id", sn->id);
        add_string(o, "name", sn->name);
        add_int(o, "vm-state-size", sn->vm_state_size);
        add_int(o, "date-sec", sn->date_sec);
        add_int(o, "date-nsec", sn->date_nsec);
        add_int(o, "vm-clock-sec", sn->vm_clock_nsec / NSEC);
        add_int(o, "vm-clock-nsec", sn->vm_clock_nsec % NSEC);
        if (sn->icount != UINT64_MAX) {
            add_int(o, "icount", sn->icount);
        }
        json_object_array_add(list, o);
    }
    return list;
}

/* In QEMU's order. */
static unsigned bitmap_flags(const BdrvBitmapInfo *bm, const char *flags[2])
{
    unsigned n = 0;

    if (bm->in_use) {
        flags[n++] = "in-use";
    }
    if (bm->automatic) {
        flags[n++] = "auto";
    }
    return n;
}

static json_object *bitmap_list(const GPtrArray *bitmaps)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < bitmaps->len; i++) {
        const BdrvBitmapInfo *bm = g_ptr_array_index(bitmaps, i);
        json_object *o = json_object_new_object(), *flags = json_object_new_array();
        const char *names[2];

        for (unsigned k = 0, n = bitmap_flags(bm, names); k < n; k++) {
            json_object_array_add(flags, json_object_new_string(names[k]));
        }
        json_object_object_add(o, "flags", flags);
        add_string(o, "name", bm->name);
        add_int(o, "granularity", bm->granularity);
        json_object_array_add(list, o);
    }
    return list;
}

static json_object *format_specific(BlockNode *node, const BdrvImageInfo *info)
{
    json_object *o = json_object_new_object(), *data = json_object_new_object();

    add_string(o, "type", bdrv_format_name(node));
    json_object_object_add(o, "data", data);
    add_string(data, "compat", info->compat);
    add_string(data, "compression-type", "zlib");
    add_int(data, "refcount-bits", info->refcount_bits);
    if (strcmp(info->compat, "0.10")) {
        add_bool(data, "lazy-refcounts", info->lazy_refcounts);
        if (info->bitmaps) {
            json_object_object_add(data, "bitmaps", bitmap_list(info->bitmaps));
        }
        add_bool(data, "corrupt", info->corrupt);
        add_bool(data, "extended-l2", false);
    }
    return o;
}

void image_info_fill(json_object *image, BlockNode *node)
{
    BdrvImageInfo info;

    bdrv_get_info(node, &info);
    if (!json_object_object_get_ex(image, "virtual-size", NULL)) {
        add_int(image, "virtual-size", virtual_size(node));
    }
    add_string(image, "filename", shown_name(node));
    add_string(image, "format", bdrv_format_name(node));
    if (info.allocated >= 0) {
        add_int(image, "actual-size", info.allocated);
    }
    add_bool(image, "dirty-flag", info.dirty);
    if (info.cluster_size) {
        add_int(image, "cluster-size", info.cluster_size);
    }
    if (info.snapshots) {
        json_object_object_add(image, "snapshots", snapshot_list(info.snapshots));
    }
    if (info.compat) {
        json_object_object_add(image, "format-specific", format_specific(node, &info));
    }
    add_string(image, "backing-filename", info.backing_file);
    add_string(image, "backing-filename-format", info.backing_format);
    if (info.backing) {
        json_object *below = json_object_new_object();

        add_string(image, "full-backing-filename", shown_name(info.backing));
        image_info_fill(below, info.backing);
        json_object_object_add(image, "backing-image", below);
    }
    bdrv_image_info_clear(&info);
}

/* The node below, a reference or NULL; drops that on @node. */
static BlockNode *descend(BlockNode *node)
{
    BdrvImageInfo info;
    BlockNode *below;

    bdrv_get_info(node, &info);
    bdrv_unref(node);
    below = g_steal_pointer(&info.backing);
    bdrv_image_info_clear(&info);
    return below;
}

/* How many are below; *name: of the first. */
static unsigned chain_depth(BlockNode *node, char **name)
{
    BlockNode *below = descend(bdrv_ref(node));
    unsigned depth = 0;

    *name = below ? g_strdup(shown_name(below)) : NULL;
    while (below) {
        depth++;
        below = descend(below);
    }
    return depth;
}

void image_info_backing(json_object *inserted, BlockNode *node)
{
    g_autofree char *name = NULL;
    unsigned depth = chain_depth(node, &name);

    add_string(inserted, "backing_file", name);
    add_int(inserted, "backing_file_depth", depth);
}

/* ---- HMP ------------------------------------------------------------------------ */

void image_info_backing_line(GString *text, BlockNode *node)
{
    g_autofree char *name = NULL;
    unsigned depth = chain_depth(node, &name);

    if (name) {
        g_string_append_printf(text, "    Backing file:     %s (chain depth: %u)\r\n",
                               name, depth);
    }
}

static void append_size(GString *text, int64_t bytes)
{
    static const char *const units[] = { "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei" };
    double value = bytes;
    unsigned i = 0;

    while (value >= 1000 && i + 1 < G_N_ELEMENTS(units)) {
        value /= 1024;
        i++;
    }
    g_string_append_printf(text, "%0.3g %sB", value, units[i]);
}

static const char *truth(bool value)
{
    return value ? "true" : "false";
}

static void append_snapshot(GString *text, const BdrvSnapshotInfo *sn)
{
    g_autoptr(GString) size = g_string_new(NULL);
    g_autofree char *icount =
        sn->icount == UINT64_MAX ? g_strdup("")
                                 : g_strdup_printf("%" G_GUINT64_FORMAT, sn->icount);
    g_autofree char *clock = NULL;
    uint64_t seconds = sn->vm_clock_nsec / NSEC;
    time_t when = sn->date_sec;
    char date[32] = "";
    struct tm tm;

    append_size(size, sn->vm_state_size);
    if (localtime_r(&when, &tm)) {
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
    }
    clock = g_strdup_printf("%02d:%02d:%02d.%03d", (int)(seconds / 3600),
                            (int)(seconds / 60 % 60), (int)(seconds % 60),
                            (int)(sn->vm_clock_nsec % NSEC / 1000000));
    g_string_append_printf(text, "%-9s %-16s %8s%20s%13s%11s\r\n", sn->id, sn->name,
                           size->str, date, clock, icount);
}

static void append_snapshots(GString *text, const GPtrArray *snapshots)
{
    g_string_append_printf(text, "Snapshot list:\r\n%-10s%-17s%8s%20s%13s%11s\r\n",
                           "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
    for (guint i = 0; i < snapshots->len; i++) {
        append_snapshot(text, g_ptr_array_index(snapshots, i));
    }
}

static void append_bitmaps(GString *text, const GPtrArray *bitmaps)
{
    g_string_append(text, "    bitmaps:\r\n");
    for (guint i = 0; i < bitmaps->len; i++) {
        const BdrvBitmapInfo *bm = g_ptr_array_index(bitmaps, i);
        const char *names[2];

        g_string_append_printf(text, "        [%u]:\r\n            flags:\r\n", i);
        for (unsigned k = 0, n = bitmap_flags(bm, names); k < n; k++) {
            g_string_append_printf(text, "                [%u]: %s\r\n", k, names[k]);
        }
        g_string_append_printf(text, "            name: %s\r\n            granularity: %"
                               G_GUINT64_FORMAT "\r\n", bm->name, bm->granularity);
    }
}

static void append_specific(GString *text, const BdrvImageInfo *info)
{
    g_string_append_printf(text, "Format specific information:\r\n"
                           "    compat: %s\r\n    compression type: zlib\r\n",
                           info->compat);
    if (strcmp(info->compat, "0.10")) {
        g_string_append_printf(text, "    lazy refcounts: %s\r\n",
                               truth(info->lazy_refcounts));
        if (info->bitmaps) {
            append_bitmaps(text, info->bitmaps);
        }
    }
    g_string_append_printf(text, "    refcount bits: %u\r\n", info->refcount_bits);
    if (strcmp(info->compat, "0.10")) {
        g_string_append_printf(text, "    corrupt: %s\r\n    extended l2: false\r\n",
                               truth(info->corrupt));
    }
}

static void append_backing(GString *text, const BdrvImageInfo *info)
{
    const char *full = info->backing ? shown_name(info->backing) : NULL;

    if (info->backing_file) {
        g_string_append_printf(text, "backing file: %s", info->backing_file);
        if (full && strcmp(full, info->backing_file)) {
            g_string_append_printf(text, " (actual path: %s)", full);
        }
        g_string_append(text, "\r\n");
    }
    if (info->backing_format) {
        g_string_append_printf(text, "backing file format: %s\r\n", info->backing_format);
    }
}

void image_info_text(GString *text, BlockNode *node)
{
    BdrvImageInfo info;

    bdrv_get_info(node, &info);
    g_string_append_printf(text, "image: %s\r\nfile format: %s\r\nvirtual size: ",
                           shown_name(node), bdrv_format_name(node));
    append_size(text, virtual_size(node));
    g_string_append_printf(text, " (%" G_GINT64_FORMAT " bytes)\r\ndisk size: ",
                           virtual_size(node));
    if (info.allocated >= 0) {
        append_size(text, info.allocated);
    } else {
        g_string_append(text, "unavailable");
    }
    g_string_append(text, "\r\n");
    if (info.cluster_size) {
        g_string_append_printf(text, "cluster_size: %u\r\n", info.cluster_size);
    }
    append_backing(text, &info);
    if (info.snapshots) {
        append_snapshots(text, info.snapshots);
    }
    if (info.compat) {
        append_specific(text, &info);
    }
    if (info.backing) {
        image_info_text(text, info.backing);
    }
    bdrv_image_info_clear(&info);
}
