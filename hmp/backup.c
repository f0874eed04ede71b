/*
 * HMP: backup, backup_cancel, info backup.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "commands.h"
#include "qapi/qapi-commands.h"

#include <time.h>

void hmp_backup(HmpContext *ctx, const HmpArgs *args)
{
    /* The strings are borrowed; qmp_backup changes nothing. */
    BackupArguments arg = {
        .backup_file = (char *)hmp_args_str(args, "backupfile"),
        .devlist = (char *)hmp_args_str(args, "devlist"),
        .has_speed = hmp_args_has(args, "speed"),
        .speed = hmp_args_int(args, "speed"),
        .has_state = hmp_args_bool(args, "state"),
        .state = hmp_args_bool(args, "state"),
    };
    GError *err = NULL;

    g_free(qmp_backup(ctx->mon, &arg, &err));
    hmp_report_error(ctx, err);
}

void hmp_backup_cancel(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    qmp_backup_cancel(ctx->mon, &err);
    hmp_report_error(ctx, err);
}

static void append_time(GString *out, const char *what, int64_t seconds)
{
    time_t t = (time_t)seconds;
    char text[64];
    struct tm tm;

    /* the form of ctime(3): "Sat Nov 21 08:31:00 2026" */
    if (localtime_r(&t, &tm) &&
        strftime(text, sizeof(text), "%a %b %e %H:%M:%S %Y", &tm)) {
        g_string_append_printf(out, "%s: %s\n", what, text);
    }
}

static void append_share(GString *out, const char *what, int64_t part,
                         int64_t total)
{
    int percent = total > 0 ? (int)((__int128)part * 100 / total) : 0;

    g_string_append_printf(out, "%s: %" G_GINT64_FORMAT " (%d%%)\n", what, part, percent);
}

/* The lines and their order are those that scripts written for earlier
 * implementations of these commands look for. */
void hmp_info_backup(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;
    g_autoptr(BackupInfo) info = qmp_query_backup(ctx->mon, &err);
    GString *out = ctx->out;

    if (!info || !info->has_status) {
        g_string_append(out, info ? "No backup has been started\n" : "");
        hmp_report_error(ctx, err);
        return;
    }
    g_string_append_printf(out, "Backup status: %s%s%s\n",
                           BackupState_str(info->status),
                           info->errmsg ? " - " : "",
                           info->errmsg ? info->errmsg : "");
    append_time(out, "Start time", info->start_time);
    if (info->has_end_time) {
        append_time(out, "End time", info->end_time);
    }
    g_string_append_printf(out, "Backup file: %s\nBackup uuid: %s\n"
                           "Total size: %" G_GINT64_FORMAT "\n",
                           info->backup_file, info->uuid, info->total);
    append_share(out, "Transferred bytes", info->transferred, info->total);
    append_share(out, "Zero bytes", info->zero_bytes, info->total);
    g_string_append_printf(out, "Kept for guest writes: %" G_GINT64_FORMAT
                           " (at most %" G_GINT64_FORMAT " at once in memory, %"
                           G_GINT64_FORMAT " through a file)\n", info->guest_copied,
                           info->memory, info->spilled);
    if (info->speed) {
        g_string_append_printf(out, "Speed limit: %" G_GINT64_FORMAT " bytes/s\n",
                               info->speed);
    }
    if (info->has_finishing && info->finishing) {
        g_string_append(out, "Finishing: the rest of the archive is being written\n");
    }
}
