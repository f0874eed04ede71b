/*
 * Streaming and block jobs: done by block/ for drives of ours, passed on
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

/* ---- streams ---------------------------------------------------------------------- */

/* What only QEMU does must not be ignored. */
static bool ours_can(const BlockStreamArguments *arg, GError **errp)
{
    const char *cannot = arg->base_node ? "base-node" :
        arg->backing_file ? "backing-file" : arg->bottom ? "bottom" :
        arg->on_error && strcmp(arg->on_error, "report") ? "on-error" :
        arg->filter_node_name ? "filter-node-name" :
        arg->has_auto_finalize && !arg->auto_finalize ? "auto-finalize" :
        arg->has_auto_dismiss && !arg->auto_dismiss ? "auto-dismiss" : NULL;

    if (cannot) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "Device '%s' is served by the sidecar, which does not support "
                    "parameter '%s'", arg->device, cannot);
    }
    return !cannot;
}

bool qmp_block_stream(Monitor *mon, BlockStreamArguments *arg, GError **errp)
{
    BlockBackend *blk = own_drive(mon, arg->device, NULL);
    json_object *args;

    if (blk) {
        return ours_can(arg, errp) && block_stream_start(monitor_sidecar(mon)->jobs, blk, arg->base,
                                  arg->has_speed ? arg->speed : 0, errp);
    }
    args = json_object_new_object();
    monitor_add_string(args, "device", arg->device);
    monitor_add_string(args, "base", arg->base);
    monitor_add_string(args, "job-id", arg->job_id);
    monitor_add_int(args, "speed", arg->has_speed, arg->speed);
    monitor_add_string(args, "base-node", arg->base_node);
    monitor_add_string(args, "backing-file", arg->backing_file);
    monitor_add_string(args, "bottom", arg->bottom);
    monitor_add_string(args, "on-error", arg->on_error);
    monitor_add_string(args, "filter-node-name", arg->filter_node_name);
    monitor_add_bool(args, "auto-finalize", arg->has_auto_finalize,
                     arg->auto_finalize);
    monitor_add_bool(args, "auto-dismiss", arg->has_auto_dismiss,
                     arg->auto_dismiss);
    return monitor_pass_on(mon, "block-stream", arg->device, args, errp);
}

bool qmp_block_stream_cancel(Monitor *mon, const char *device, GError **errp)
{
    json_object *args;

    if (own_drive(mon, device, NULL)) {
        return block_job_cancel(monitor_sidecar(mon)->jobs, device, true, errp);
    }
    args = json_object_new_object();
    monitor_add_string(args, "device", device);
    return monitor_pass_on(mon, "block-job-cancel", device, args, errp);
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

/* ---- jobs ----------------------------------------------------------------------------- */

/* As QEMU 7.2 describes a job. */
static json_object *describe(const BlockJobInfo *job)
{
    json_object *o = json_object_new_object();

    monitor_add_string(o, "type", job->type);
    monitor_add_string(o, "device", job->device);
    monitor_add_int(o, "len", true, job->len);
    monitor_add_int(o, "offset", true, job->offset);
    monitor_add_int(o, "speed", true, job->speed);
    monitor_add_bool(o, "busy", true, true);
    monitor_add_bool(o, "paused", true, false);
    monitor_add_bool(o, "ready", true, false);
    monitor_add_string(o, "io-status", "ok");
    monitor_add_string(o, "status", job->cancelling ? "aborting" : "running");
    monitor_add_bool(o, "auto-finalize", true, true);
    monitor_add_bool(o, "auto-dismiss", true, true);
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
    monitor_add_string(args, "device", device);
    monitor_add_bool(args, "force", has_force, force);
    return monitor_pass_on(mon, "block-job-cancel", device, args, errp);
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
    monitor_add_string(args, "device", device);
    monitor_add_int(args, "speed", true, speed);
    return monitor_pass_on(mon, "block-job-set-speed", device, args, errp);
}
