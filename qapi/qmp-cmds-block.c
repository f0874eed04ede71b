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

static void add_string(json_object *args, const char *key, const char *value)
{
    if (value) {
        json_object_object_add(args, key, json_object_new_string(value));
    }
}

static void add_bool(json_object *args, const char *key, bool has, bool value)
{
    if (has) {
        json_object_object_add(args, key, json_object_new_boolean(value));
    }
}

static bool pass_on(Monitor *mon, const char *command, json_object *args,
                    GError **errp)
{
    json_object *result =
        monitor_emulator_call(mon->set, command, args, NULL, 0, errp);

    json_object_put(result);
    return result;
}

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
    add_string(args, "device", device);
    add_string(args, "node-name", node_name);
    json_object_object_add(args, "size", json_object_new_int64(size));
    return pass_on(mon, "block_resize", args, errp);
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
    add_string(args, "device", device);
    add_string(args, "id", id);
    add_bool(args, "force", has_force, force);
    return pass_on(mon, "eject", args, errp);
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
    add_string(args, "device", device);
    add_string(args, "id", id);
    add_string(args, "filename", filename);
    add_string(args, "format", format);
    add_bool(args, "force", has_force, force);
    add_string(args, "read-only-mode", read_only);
    return pass_on(mon, "blockdev-change-medium", args, errp);
}
