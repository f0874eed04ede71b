/*
 * What monitors do to drives while the VM runs, where both the sidecar and
 * QEMU have to know.
 *
 * Size.  QEMU reads the size of an NBD export when it connects, and refuses to
 * resize it beyond that.  So:
 *
 *     truncate the image ─► drop QEMU's connection ─► make QEMU read a sector,
 *     for which it connects again and learns the size ─► QEMU's block_resize to
 *     that size, which tells the guest
 *
 * (QEMU 7.2: it reconnects only when it has a request to send, and its NBD
 * driver takes a block_resize to the size that the export already has.)
 *
 * Medium.  The new image is opened first, so that a mistake changes nothing.
 * Then QEMU ejects (and may refuse: locked by the guest, not removable), the
 * drive gets the new image, and QEMU inserts the export again.
 *
 * A drive is claimed meanwhile: backup, streaming, resize and change refuse
 * each other.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/drive-ops.h"
#include "cmdline-internal.h"
#include "util/error.h"

#include <string.h>

#define SECTOR 512

/* ---- which drive ---------------------------------------------------- */

static const char *member(json_object *obj, const char *key)
{
    json_object *value = json_object_object_get(obj, key);

    return value ? json_object_get_string(value) : "";
}

/* A device is known by its path, or by its id: the last part of the path of a
 * device with one.  What virtio-blk-pci holds is a path below it. */
static bool is_device(const char *qdev, const char *id)
{
    g_autofree char *path = g_strconcat("/machine/peripheral/", id, NULL);

    return *qdev && (!strcmp(qdev, id) || !strcmp(qdev, path) ||
                     (g_str_has_prefix(qdev, path) &&
                      qdev[strlen(path)] == '/'));
}

static char *find_in_qemu(Sidecar *sc, const char *id, const char *node_name)
{
    json_object *list = emu_qmp_call(sc->emu, "query-block", NULL, NULL);
    char *name = NULL;

    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        json_object *block = json_object_array_get_idx(list, i);
        json_object *inserted = json_object_object_get(block, "inserted");

        if ((id && is_device(member(block, "qdev"), id)) ||
            (node_name && inserted &&
             !strcmp(member(inserted, "node-name"), node_name))) {
            g_free(name);
            name = g_strdup(member(block, "device"));
        }
    }
    json_object_put(list);
    return name;
}

static bool is_ours(Sidecar *sc, const char *name)
{
    BlockBackend *blk = blk_by_name(sc->block, name);

    return blk && blk_use(blk) == BLK_USED;
}

char *emu_drive_name(Sidecar *sc, const char *device, const char *id,
                     const char *node_name)
{
    g_autofree char *name = NULL;

    if (!sc || (device != NULL) + (id != NULL) + (node_name != NULL) != 1) {
        return NULL;
    }
    name = device ? g_strdup(device) : find_in_qemu(sc, id, node_name);
    return name && is_ours(sc, name) ? g_steal_pointer(&name) : NULL;
}

/* Claimed, or NULL. */
static BlockBackend *claim(Sidecar *sc, const char *device, const char *owner,
                           GError **errp)
{
    BlockBackend *blk = blk_by_name(sc->block, device);

    if (!blk) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_DEVICE_NOT_FOUND,
                    "Device '%s' not found", device);
        return NULL;
    }
    return blk_claim(blk, owner, errp) ? blk : NULL;
}

static json_object *device_args(const char *device)
{
    json_object *args = json_object_new_object();

    json_object_object_add(args, "device", json_object_new_string(device));
    return args;
}

static bool call(Sidecar *sc, const char *command, json_object *args,
                 GError **errp)
{
    json_object *result = emu_qmp_call(sc->emu, command, args, errp);

    json_object_put(result);
    return result;
}

/* ---- size ----------------------------------------------------------- */

static bool truncate_drained(BlockBackend *blk, BlockNode *node, int64_t size,
                             GError **errp)
{
    bool ok;

    blk_drained_begin(&blk, 1);
    ok = bdrv_truncate(node, size, errp);
    blk_drained_end(&blk, 1);
    return ok;
}

static bool show_size_to_qemu(Sidecar *sc, const char *device, int64_t size,
                              GError **errp)
{
    /* -q: qemu-io writes to QEMU's stdout otherwise. */
    g_autofree char *line =
        g_strdup_printf("qemu-io %s \"read -q 0 %d\"", device, SECTOR);
    json_object *args = device_args(device);

    nbd_server_drop_clients(sc->nbd, device);
    g_free(emu_hmp_call(sc->emu, line, NULL));
    json_object_object_add(args, "size", json_object_new_int64(size));
    return call(sc, "block_resize", args, errp);
}

/* QEMU 7.2 dies of an assertion when an image is resized that it has not got
 * yet: while it waits for a migration. */
static bool qemu_owns_disks(Sidecar *sc, GError **errp)
{
    json_object *status = emu_qmp_call(sc->emu, "query-status", NULL, errp);
    bool waits;

    if (!status) {
        return false;
    }
    waits = !strcmp(member(status, "status"), "inmigrate");
    json_object_put(status);
    if (waits) {
        error_set(errp, "the VM waits for a migration to come in");
    }
    return !waits;
}

/* What QEMU could not be told of growth is taken back: nobody has used it. */
static bool resize(Sidecar *sc, BlockBackend *blk, BlockNode *node,
                   int64_t size, GError **errp)
{
    int64_t before = bdrv_length(node);

    if (!qemu_owns_disks(sc, errp) ||
        !truncate_drained(blk, node, size, errp)) {
        return false;
    }
    if (show_size_to_qemu(sc, blk_name(blk), size, errp)) {
        return true;
    }
    if (size > before && truncate_drained(blk, node, before, NULL)) {
        nbd_server_drop_clients(sc->nbd, blk_name(blk));
    }
    return false;
}

bool emu_block_resize(Sidecar *sc, const char *device, int64_t size,
                      GError **errp)
{
    BlockBackend *blk;
    g_autoptr(BlockNode) node = NULL;
    bool ok = false;

    /* QEMU reads nothing from a drive without bytes, so it would not hear of 0. */
    if (size <= 0 || size > G_MAXINT64 - SECTOR) {
        error_set(errp, "Parameter 'size' expects a >0 size");
        return false;
    }
    blk = claim(sc, device, "resize", errp);
    if (!blk) {
        return false;
    }
    node = blk_get_node(blk);
    if (!node) {
        error_set(errp, "Device '%s' has no medium", device);
    } else {
        ok = resize(sc, blk, node, (size + SECTOR - 1) / SECTOR * SECTOR, errp);
    }
    blk_release(blk);
    return ok;
}

/* ---- medium --------------------------------------------------------- */

static void set_node(BlockBackend *blk, BlockNode *node)
{
    blk_drained_begin(&blk, 1);
    blk_set_node(blk, node);
    blk_drained_end(&blk, 1);
}

/* QEMU opens the tray and drops its connection, or refuses. */
static bool qemu_eject(Sidecar *sc, const char *device, bool force,
                       GError **errp)
{
    json_object *args = device_args(device);

    json_object_object_add(args, "force", json_object_new_boolean(force));
    return call(sc, "eject", args, errp);
}

bool emu_eject(Sidecar *sc, const char *device, bool force, GError **errp)
{
    BlockBackend *blk = claim(sc, device, "eject", errp);
    bool ok;

    if (!blk) {
        return false;
    }
    ok = qemu_eject(sc, device, force, errp);
    if (ok) {
        set_node(blk, NULL);
    }
    blk_release(blk);
    return ok;
}

/* The export as a file name that QEMU understands; g_free. */
static char *export_filename(Sidecar *sc, const char *device)
{
    json_object *server = json_object_new_object();
    json_object *file = json_object_new_object();
    json_object *raw = json_object_new_object();
    char *name;

    json_object_object_add(server, "type", json_object_new_string("unix"));
    json_object_object_add(server, "path",
                           json_object_new_string(sc->nbd_socket));
    json_object_object_add(server, "abstract", json_object_new_boolean(true));
    json_object_object_add(file, "driver", json_object_new_string("nbd"));
    json_object_object_add(file, "server", server);
    json_object_object_add(file, "export", json_object_new_string(device));
    json_object_object_add(file, "reconnect-delay",
                           json_object_new_int(EMU_RECONNECT_DELAY));
    json_object_object_add(raw, "driver", json_object_new_string("raw"));
    json_object_object_add(raw, "file", file);
    name = g_strdup_printf(
        "json:%s", json_object_to_json_string_ext(raw, JSON_C_TO_STRING_PLAIN));
    json_object_put(raw);
    return name;
}

static bool qemu_insert(Sidecar *sc, const char *device, const char *filename,
                        const char *format, const char *read_only, bool force,
                        GError **errp)
{
    json_object *args = device_args(device);

    json_object_object_add(args, "filename", json_object_new_string(filename));
    if (format) {
        json_object_object_add(args, "format", json_object_new_string(format));
    }
    if (read_only) {
        json_object_object_add(args, "read-only-mode",
                               json_object_new_string(read_only));
    }
    if (force) {
        json_object_object_add(args, "force", json_object_new_boolean(true));
    }
    return call(sc, "blockdev-change-medium", args, errp);
}

/* As the medium before, or as asked for. */
static int new_flags(BlockBackend *blk, const char *read_only)
{
    int flags = blk_medium_flags(blk) & ~BDRV_O_PROBED;

    if (!g_strcmp0(read_only, "read-write")) {
        return flags | BDRV_O_RDWR;
    }
    return g_strcmp0(read_only, "read-only") ? flags : flags & ~BDRV_O_RDWR;
}

/* Ours: offered under the drive's name, read-only or not as the image is. */
static bool insert_ours(Sidecar *sc, BlockBackend *blk, BlockNode *node,
                        const char *read_only, GError **errp)
{
    const char *device = blk_name(blk);
    g_autofree char *filename = export_filename(sc, device);

    set_node(blk, node);
    nbd_server_remove(sc->nbd, device);
    if (nbd_server_add(sc->nbd, device, blk, bdrv_is_read_only(node), errp) &&
        qemu_insert(sc, device, filename, NULL, read_only, false, errp)) {
        return true;
    }
    set_node(blk, NULL);
    return false;
}

static bool change_medium(Sidecar *sc, BlockBackend *blk, const char *filename,
                          const char *format, const char *read_only, bool force,
                          GError **errp)
{
    const char *device = blk_name(blk), *local = emu_local_filename(filename);
    g_autoptr(GError) error = NULL;
    g_autoptr(BlockNode) node = NULL;

    if (local) {
        node = bdrv_open(local, format, new_flags(blk, read_only), &error);
        if (!node && !g_error_matches(error, SIDECAR_ERROR,
                                      SIDECAR_ERROR_NOT_SUPPORTED)) {
            g_propagate_error(errp, g_steal_pointer(&error));
            return false;
        }
    }
    if (!node) {
        /* QEMU's own from now on; its command opens the image before it touches
         * the old medium. */
        if (!qemu_insert(sc, device, filename, format, read_only, force, errp)) {
            return false;
        }
        set_node(blk, NULL);
        return true;
    }
    return qemu_eject(sc, device, force, errp) &&
           insert_ours(sc, blk, node, read_only, errp);
}

bool emu_change_medium(Sidecar *sc, const char *device, const char *filename,
                       const char *format, const char *read_only, bool force,
                       GError **errp)
{
    BlockBackend *blk = claim(sc, device, "change", errp);
    bool ok;

    if (!blk) {
        return false;
    }
    ok = change_medium(sc, blk, filename, format, read_only, force, errp);
    blk_release(blk);
    return ok;
}
