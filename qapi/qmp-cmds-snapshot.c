/*
 * Live snapshots: of one drive, or (transaction) of several at one instant.
 * Done by block/ for drives of ours, passed on to QEMU for its own.
 *
 * QEMU must not put an image of its own over a drive of ours: it would get the
 * guest's writes from then on, and no backup would see them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/job.h"
#include "emulator/drive-ops.h"
#include "monitor-internal.h"
#include "qapi/qapi-commands.h"
#include "util/error.h"

#include <string.h>

/* The drive of ours that is meant, or NULL. */
static BlockBackend *own_drive(Monitor *mon, const char *device, const char *node_name)
{
    Sidecar *sc = monitor_sidecar(mon);
    g_autofree char *name = emu_drive_name(sc, device, NULL, node_name);

    return name ? blk_by_name(sc->block, name) : NULL;
}

static BlockSnapshot snapshot_of(BlockBackend *blk, const SidecarSnapshot *arg)
{
    return (BlockSnapshot){
        .blk = blk,
        .file = arg->snapshot_file,
        .format = arg->format ? arg->format : "qcow2",
        .existing = arg->has_mode && arg->mode == SIDECAR_SNAPSHOT_MODE_EXISTING,
    };
}

bool qmp_blockdev_snapshot_sync(Monitor *mon, SidecarSnapshot *arg, GError **errp)
{
    BlockBackend *blk = own_drive(mon, arg->device, arg->node_name);
    BlockSnapshot snapshot;

    if (!blk) {
        return monitor_pass_on(mon, "blockdev-snapshot-sync", arg->device,
                               qapi_output_SidecarSnapshot(arg), errp);
    }
    snapshot = snapshot_of(blk, arg);
    return block_snapshot(&snapshot, 1, errp);
}

/* ---- transactions ----------------------------------------------------------------- */

typedef struct {
    Monitor *mon;
    GArray *snapshots; /* BlockSnapshot, of drives of ours */
    GPtrArray *args;   /* SidecarSnapshot, which those borrow from */
    const char *other; /* the type of an action that is QEMU's business */
} Transaction;

static const char *string_member(json_object *o, const char *key)
{
    json_object *value = NULL;

    json_object_object_get_ex(o, key, &value);
    return json_object_is_type(value, json_type_string) ?
        json_object_get_string(value) : NULL;
}

/* Is @name, a drive or a node, ours? */
static BlockBackend *drive_or_node(Monitor *mon, const char *name)
{
    BlockBackend *blk = name ? own_drive(mon, name, NULL) : NULL;

    return blk || !name ? blk : own_drive(mon, NULL, name);
}

static bool not_under_qemu(BlockBackend *blk, GError **errp)
{
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                "Device '%s' is served by the sidecar: only blockdev-snapshot-sync can "
                "put an image over it", blk_name(blk));
    return false;
}

bool qmp_blockdev_snapshot(Monitor *mon, const char *node, const char *overlay,
                           GError **errp)
{
    BlockBackend *blk = drive_or_node(mon, node);
    json_object *args;

    if (blk) {
        return not_under_qemu(blk, errp);
    }
    args = json_object_new_object();
    monitor_add_string(args, "node", node);
    monitor_add_string(args, "overlay", overlay);
    return monitor_pass_on(mon, "blockdev-snapshot", NULL, args, errp);
}

static bool look_at_snapshot(Transaction *t, json_object *data, GError **errp)
{
    BlockBackend *blk = own_drive(t->mon, string_member(data, "device"),
                                  string_member(data, "node-name"));
    const QapiInput in = { .name = "data", .value = data };
    SidecarSnapshot *arg = NULL;
    BlockSnapshot snapshot;

    if (!blk) {
        t->other = "blockdev-snapshot-sync";
        return true;
    }
    if (!qapi_input_SidecarSnapshot(&in, &arg, errp)) {
        return false;
    }
    g_ptr_array_add(t->args, arg);
    snapshot = snapshot_of(blk, arg);
    g_array_append_val(t->snapshots, snapshot);
    return true;
}

/* What is wrong with an action that is none of ours, QEMU will say. */
static bool look_at(Transaction *t, json_object *action, GError **errp)
{
    const char *type = string_member(action, "type");
    json_object *data = NULL;
    BlockBackend *blk = NULL;

    json_object_object_get_ex(action, "data", &data);
    if (!g_strcmp0(type, "blockdev-snapshot-sync")) {
        return look_at_snapshot(t, data, errp);
    }
    if (!g_strcmp0(type, "blockdev-snapshot")) {
        blk = drive_or_node(t->mon, string_member(data, "node"));
    }
    t->other = type ? type : "none";
    return blk ? not_under_qemu(blk, errp) : true;
}

static bool pass_transaction_on(Monitor *mon, const anyList *actions,
                                json_object *properties, GError **errp)
{
    json_object *args = json_object_new_object();

    json_object_object_add(args, "actions", qapi_output_anyList(actions));
    if (properties) {
        json_object_object_add(args, "properties", json_object_get(properties));
    }
    return monitor_pass_on(mon, "transaction", NULL, args, errp);
}

bool qmp_transaction(Monitor *mon, anyList *actions, json_object *properties,
                     GError **errp)
{
    g_autoptr(GArray) snapshots = g_array_new(FALSE, FALSE, sizeof(BlockSnapshot));
    g_autoptr(GPtrArray) args =
        g_ptr_array_new_with_free_func((GDestroyNotify)qapi_free_SidecarSnapshot);
    Transaction t = { .mon = mon, .snapshots = snapshots, .args = args };

    for (const anyList *l = actions; l; l = l->next) {
        if (!look_at(&t, l->value, errp)) {
            return false;
        }
    }
    if (!snapshots->len) {
        return pass_transaction_on(mon, actions, properties, errp);
    }
    if (t.other) {
        const BlockSnapshot *first = &g_array_index(snapshots, BlockSnapshot, 0);

        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "Device '%s' is served by the sidecar: its snapshot can't be in one "
                    "transaction with action '%s' of QEMU's", blk_name(first->blk),
                    t.other);
        return false;
    }
    return block_snapshot((const BlockSnapshot *)snapshots->data, snapshots->len, errp);
}
