/*
 * block_resize, eject, blockdev-change-medium: done by emulator/drive-ops.c for
 * drives of ours; passed on to QEMU, with the arguments as they came, for those
 * of its own (and for wrong arguments: the errors are QEMU's).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/drive-ops.h"
#include "monitor-internal.h"
#include "qapi/qapi-commands.h"
#include "util/error.h"

bool qmp_block_resize(Monitor *mon, const char *device, const char *node_name,
                      int64_t size, GError **errp)
{
    Sidecar *sc = monitor_sidecar(mon);
    g_autofree char *name = emu_drive_name(sc, device, NULL, node_name);
    json_object *args;

    if (name) {
        return emu_block_resize(sc, name, size, errp);
    }
    args = json_object_new_object();
    monitor_add_string(args, "device", device);
    monitor_add_string(args, "node-name", node_name);
    monitor_add_int(args, "size", true, size);
    return monitor_pass_on(mon, "block_resize", NULL, args, errp);
}

bool qmp_eject(Monitor *mon, const char *device, const char *id, bool has_force,
               bool force, GError **errp)
{
    Sidecar *sc = monitor_sidecar(mon);
    g_autofree char *name = emu_drive_name(sc, device, id, NULL);
    json_object *args;

    if (name) {
        return emu_eject(sc, name, has_force && force, errp);
    }
    args = json_object_new_object();
    monitor_add_string(args, "device", device);
    monitor_add_string(args, "id", id);
    monitor_add_bool(args, "force", has_force, force);
    return monitor_pass_on(mon, "eject", NULL, args, errp);
}

bool qmp_blockdev_change_medium(Monitor *mon, const char *device,
                                const char *id, const char *filename,
                                const char *format, bool has_force, bool force,
                                bool has_read_only_mode,
                                BlockdevChangeReadOnlyMode read_only_mode,
                                GError **errp)
{
    Sidecar *sc = monitor_sidecar(mon);
    g_autofree char *name = emu_drive_name(sc, device, id, NULL);
    const char *read_only =
        has_read_only_mode ? BlockdevChangeReadOnlyMode_str(read_only_mode)
                           : NULL;
    json_object *args;

    if (name) {
        return emu_change_medium(sc, name, filename, format, read_only,
                                 has_force && force, errp);
    }
    args = json_object_new_object();
    monitor_add_string(args, "device", device);
    monitor_add_string(args, "id", id);
    monitor_add_string(args, "filename", filename);
    monitor_add_string(args, "format", format);
    monitor_add_bool(args, "force", has_force, force);
    monitor_add_string(args, "read-only-mode", read_only);
    return monitor_pass_on(mon, "blockdev-change-medium", NULL, args, errp);
}
