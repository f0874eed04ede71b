/*
 * HMP: block_resize, eject, change.  For QEMU's own drives the QMP commands
 * behind them are QEMU's, so that these here serve all drives.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "commands.h"
#include "qapi/qapi-commands.h"

#include <string.h>

void hmp_block_resize(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    qmp_block_resize(ctx->mon, hmp_args_str(args, "device"), NULL,
                     hmp_args_int(args, "size"), &err);
    hmp_report_error(ctx, err);
}

void hmp_eject(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    qmp_eject(ctx->mon, hmp_args_str(args, "device"), NULL, true,
              hmp_args_bool(args, "force"), &err);
    hmp_report_error(ctx, err);
}

/* "change vnc password": what QEMU's command does beside media. */
static void change_vnc(HmpContext *ctx, const HmpArgs *args)
{
    const char *arg = hmp_args_str(args, "arg");
    g_autofree char *plain =
        hmp_add_word("change vnc", hmp_args_str(args, "target"));
    g_autofree char *line = arg ? hmp_add_word(plain, arg) : g_strdup(plain);
    GError *err = NULL;
    g_autofree char *text = hmp_pass_through(ctx, line, &err);

    g_string_append(ctx->out, text ? text : "");
    hmp_report_error(ctx, err);
}

void hmp_change(HmpContext *ctx, const HmpArgs *args)
{
    const char *device = hmp_args_str(args, "device");
    const char *mode = hmp_args_str(args, "read-only-mode");
    BlockdevChangeReadOnlyMode value = BLOCKDEV_CHANGE_READ_ONLY_MODE_RETAIN;
    GError *err = NULL;

    if (!strcmp(device, "vnc")) {
        change_vnc(ctx, args);
        return;
    }
    if (mode && !strcmp(mode, "read-only")) {
        value = BLOCKDEV_CHANGE_READ_ONLY_MODE_READ_ONLY;
    } else if (mode && !strcmp(mode, "read-write")) {
        value = BLOCKDEV_CHANGE_READ_ONLY_MODE_READ_WRITE;
    } else if (mode && strcmp(mode, "retain")) {
        g_string_append_printf(ctx->out, "Error: invalid parameter value: %s\n",
                               mode);
        return;
    }
    qmp_blockdev_change_medium(ctx->mon, device, NULL,
                               hmp_args_str(args, "target"),
                               hmp_args_str(args, "arg"), true,
                               hmp_args_bool(args, "force"), true, value, &err);
    hmp_report_error(ctx, err);
}
