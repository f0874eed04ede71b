/*
 * Streaming, snapshots, block jobs: done by block/ for drives of ours, passed on
 * to QEMU for its own.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/job.h"
#include "emulator/drive-ops.h"
#include "monitor-internal.h"
#include "qapi/qapi-commands.h"
#include "util/error.h"

#include <string.h>

/* ---- QEMU's own drives -------------------------------------------------------- */

static BlockBackend *own_drive(Monitor *mon, const char *device,
                               const char *node_name)
{
    Sidecar *sc = monitor_sidecar(mon);
    g_autofree char *name = emu_drive_name(sc, device, NULL, node_name);

    return name ? blk_by_name(sc->block, name) : NULL;
}

static void add_string(json_object *args, const char *key, const char *value)
{
    if (value) {
        json_object_object_add(args, key, json_object_new_string(value));
    }
}

static void add_int(json_object *args, const char *key, bool has, int64_t value)
{
    if (has) {
        json_object_object_add(args, key, json_object_new_int64(value));
    }
}

/* QEMU 7.2 has no class of its own for a device that is not there. */
static bool pass_on(Monitor *mon, const char *command, const char *device,
                    json_object *args, GError **errp)
{
    GError *error = NULL;
    json_object *result =
        monitor_emulator_call(mon->set, command, args, NULL, 0, &error);

    json_object_put(result);
    if (error && device && g_str_has_prefix(error->message,
                                            "Cannot find device")) {
        g_clear_error(&error);
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_DEVICE_NOT_FOUND,
                    "Device '%s' not found", device);
        return false;
    }
    if (error) {
        g_propagate_error(errp, error);
        return false;
    }
    return true;
}

/* ---- streams ---------------------------------------------------------------------- */

bool qmp_block_stream(Monitor *mon, BlockStreamArguments *arg, GError **errp)
{
    BlockBackend *blk = own_drive(mon, arg->device, NULL);
    json_object *args;

    if (blk) {
        return block_stream_start(monitor_sidecar(mon)->jobs, blk, arg->base,
                                  arg->has_speed ? arg->speed : 0, errp);
    }
    args = json_object_new_object();
    add_string(args, "device", arg->device);
    add_string(args, "base", arg->base);
    add_string(args, "job-id", arg->job_id);
    add_int(args, "speed", arg->has_speed, arg->speed);
    return pass_on(mon, "block-stream", arg->device, args, errp);
}

bool qmp_block_stream_cancel(Monitor *mon, const char *device, GError **errp)
{
    json_object *args;

    if (own_drive(mon, device, NULL)) {
        return block_job_cancel(monitor_sidecar(mon)->jobs, device, true, errp);
    }
    args = json_object_new_object();
    add_string(args, "device", device);
    return pass_on(mon, "block-job-cancel", device, args, errp);
}

BlockStreamInfoList *qmp_query_block_stream(Monitor *mon, GError **errp)
{
    g_autoptr(GArray) jobs = block_job_list(monitor_sidecar(mon)->jobs);
    BlockStreamInfoList *list = NULL, **tail = &list;

    for (guint i = 0; i < jobs->len; i++) {
        const BlockJobInfo *job = &g_array_index(jobs, BlockJobInfo, i);
        BlockStreamInfo *info = g_new0(BlockStreamInfo, 1);

        info->device = g_strdup(job->device);
        info->len = job->len;
        info->offset = job->offset;
        *tail = g_new0(BlockStreamInfoList, 1);
        (*tail)->value = info;
        tail = &(*tail)->next;
    }
    return list;
}

/* ---- snapshots ---------------------------------------------------------------------- */

bool qmp_blockdev_snapshot_sync(Monitor *mon, const char *device,
                                const char *node_name, const char *snapshot_file,
                                const char *snapshot_node_name,
                                const char *format, bool has_mode,
                                SidecarSnapshotMode mode, GError **errp)
{
    BlockBackend *blk = own_drive(mon, device, node_name);
    json_object *args;

    if (blk) {
        return block_snapshot(blk, snapshot_file, format ? format : "qcow2",
                              has_mode && mode == SIDECAR_SNAPSHOT_MODE_EXISTING,
                              errp);
    }
    args = json_object_new_object();
    add_string(args, "device", device);
    add_string(args, "node-name", node_name);
    add_string(args, "snapshot-file", snapshot_file);
    add_string(args, "snapshot-node-name", snapshot_node_name);
    add_string(args, "format", format);
    add_string(args, "mode", has_mode ? SidecarSnapshotMode_str(mode) : NULL);
    return pass_on(mon, "blockdev-snapshot-sync", device, args, errp);
}

/* ---- jobs ----------------------------------------------------------------------------- */

/* As QEMU 7.2 describes a job. */
static json_object *describe(const BlockJobInfo *job)
{
    json_object *o = json_object_new_object();

    add_string(o, "type", job->type);
    add_string(o, "device", job->device);
    add_int(o, "len", true, job->len);
    add_int(o, "offset", true, job->offset);
    add_int(o, "speed", true, job->speed);
    json_object_object_add(o, "busy", json_object_new_boolean(true));
    json_object_object_add(o, "paused", json_object_new_boolean(false));
    json_object_object_add(o, "ready", json_object_new_boolean(false));
    add_string(o, "io-status", "ok");
    add_string(o, "status", job->cancelling ? "aborting" : "running");
    json_object_object_add(o, "auto-finalize", json_object_new_boolean(true));
    json_object_object_add(o, "auto-dismiss", json_object_new_boolean(true));
    return o;
}

json_object *qmp_query_block_jobs(Monitor *mon, GError **errp)
{
    g_autoptr(GArray) jobs = block_job_list(monitor_sidecar(mon)->jobs);
    json_object *list = monitor_emulator_call(mon->set, "query-block-jobs", NULL,
                                              NULL, 0, errp);

    for (guint i = 0; list && i < jobs->len; i++) {
        json_object_array_add(list,
                              describe(&g_array_index(jobs, BlockJobInfo, i)));
    }
    return list;
}

bool qmp_block_job_cancel(Monitor *mon, const char *device, bool has_force,
                          bool force, GError **errp)
{
    json_object *args;

    if (own_drive(mon, device, NULL)) {
        return block_job_cancel(monitor_sidecar(mon)->jobs, device, false, errp);
    }
    args = json_object_new_object();
    add_string(args, "device", device);
    if (has_force) {
        json_object_object_add(args, "force", json_object_new_boolean(force));
    }
    return pass_on(mon, "block-job-cancel", device, args, errp);
}

bool qmp_block_job_set_speed(Monitor *mon, const char *device, int64_t speed,
                             GError **errp)
{
    json_object *args;

    if (own_drive(mon, device, NULL)) {
        return block_job_set_speed(monitor_sidecar(mon)->jobs, device, speed,
                                   errp);
    }
    args = json_object_new_object();
    add_string(args, "device", device);
    add_int(args, "speed", true, speed);
    return pass_on(mon, "block-job-set-speed", device, args, errp);
}
