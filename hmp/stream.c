/*
 * HMP: block_stream, block_stream_cancel, info block-stream, snapshot_blkdev, and
 * what QEMU has for jobs: block_job_cancel, block_job_set_speed, info block-jobs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "commands.h"
#include "block/job.h"
#include "qapi/qapi-commands.h"

#include <string.h>

void hmp_block_stream(HmpContext *ctx, const HmpArgs *args)
{
    /* The strings are borrowed; qmp_block_stream changes nothing. */
    BlockStreamArguments arg = {
        .device = (char *)hmp_args_str(args, "device"),
        .base = (char *)hmp_args_str(args, "base"),
        .has_speed = hmp_args_has(args, "speed"),
        .speed = hmp_args_int(args, "speed"),
    };
    GError *err = NULL;

    qmp_block_stream(ctx->mon, &arg, &err);
    hmp_report_error(ctx, err);
}

void hmp_block_stream_cancel(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    qmp_block_stream_cancel(ctx->mon, hmp_args_str(args, "device"), &err);
    hmp_report_error(ctx, err);
}

void hmp_snapshot_blkdev(HmpContext *ctx, const HmpArgs *args)
{
    /* The strings are borrowed; the command changes nothing. */
    SidecarSnapshot arg = {
        .device = (char *)hmp_args_str(args, "device"),
        .snapshot_file = (char *)hmp_args_str(args, "snapshot-file"),
        .format = (char *)hmp_args_str(args, "format"),
        .has_mode = true,
        .mode = hmp_args_bool(args, "reuse") ? SIDECAR_SNAPSHOT_MODE_EXISTING
                                             : SIDECAR_SNAPSHOT_MODE_ABSOLUTE_PATHS,
    };
    GError *err = NULL;

    if (!arg.snapshot_file) {
        g_string_append(ctx->out, "Error: Parameter 'snapshot-file' is missing\n");
        return;
    }
    qmp_blockdev_snapshot_sync(ctx->mon, &arg, &err);
    hmp_report_error(ctx, err);
}

void hmp_info_block_stream(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;
    BlockStreamInfoList *list = qmp_query_block_stream(ctx->mon, &err);

    for (const BlockStreamInfoList *l = list; l; l = l->next) {
        g_string_append_printf(ctx->out, "Streaming device %s: Completed %"
                               G_GINT64_FORMAT " of %" G_GINT64_FORMAT
                               " bytes\n", l->value->device, l->value->offset,
                               l->value->len);
    }
    if (!list && !err) {
        g_string_append(ctx->out, "No active stream\n");
    }
    qapi_free_BlockStreamInfoList(list);
    hmp_report_error(ctx, err);
}

/* ---- jobs ------------------------------------------------------------------------ */

void hmp_block_job_cancel(HmpContext *ctx, const HmpArgs *args)
{
    bool force = hmp_args_bool(args, "force");
    GError *err = NULL;

    qmp_block_job_cancel(ctx->mon, hmp_args_str(args, "device"), force, force, &err);
    hmp_report_error(ctx, err);
}

void hmp_block_job_set_speed(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    qmp_block_job_set_speed(ctx->mon, hmp_args_str(args, "device"),
                            hmp_args_int(args, "speed"), &err);
    hmp_report_error(ctx, err);
}

/* Ours behind QEMU's, in its words. */
void hmp_info_block_jobs(HmpContext *ctx, const HmpArgs *args)
{
    g_autoptr(GArray) jobs = block_job_list(monitor_sidecar(ctx->mon)->jobs);
    GError *err = NULL;
    g_autofree char *theirs = hmp_pass_through(ctx, "info block-jobs", &err);

    if (theirs && (!jobs->len || strcmp(theirs, "No active jobs\n"))) {
        g_string_append(ctx->out, theirs);
    }
    for (guint i = 0; i < jobs->len; i++) {
        const BlockJobInfo *job = &g_array_index(jobs, BlockJobInfo, i);

        g_string_append_printf(ctx->out, "Streaming device %s: Completed %"
                               G_GINT64_FORMAT " of %" G_GINT64_FORMAT " bytes, "
                               "speed limit %" G_GINT64_FORMAT " bytes/s\n",
                               job->device, job->offset, job->len, job->speed);
    }
    hmp_report_error(ctx, err);
}
