/*
 * HMP: block_stream, block_stream_cancel, info block-stream, snapshot_blkdev.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "commands.h"
#include "qapi/qapi-commands.h"

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
