/*
 * HMP: backup, backup_cancel, info backup.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "commands.h"
#include "util/error.h"

#include <time.h>

/* The one place that starts a backup from HMP. */
static bool start_backup(Monitor *mon, const char *file, bool state,
                         const char *devlist, int64_t speed, GError **errp)
{
    BackupRequest req = {
        .backup_file = file,
        .target_fd = -1,
        .devlist = devlist,
        .speed = speed,
    };
    g_autofree char *uuid = NULL;

    if (state) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "saving the VM state is not supported yet");
        return false;
    }
    uuid = backup_start(monitor_sidecar(mon)->backup, &req, errp);
    return uuid != NULL;
}

void hmp_backup(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    start_backup(ctx->mon, hmp_args_str(args, "backupfile"),
                 hmp_args_bool(args, "state"), hmp_args_str(args, "devlist"),
                 hmp_args_int(args, "speed"), &err);
    hmp_report_error(ctx, err);
}

void hmp_backup_cancel(HmpContext *ctx, const HmpArgs *args)
{
    backup_cancel(monitor_sidecar(ctx->mon)->backup);
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

static void append_share(GString *out, const char *what, uint64_t part,
                         uint64_t total)
{
    unsigned __int128 percent = total ? (unsigned __int128)part * 100 / total : 0;

    g_string_append_printf(out, "%s: %" G_GUINT64_FORMAT " (%d%%)\n", what, part,
                           (int)percent);
}

/* The lines and their order are those that scripts written for earlier
 * implementations of these commands look for. */
void hmp_info_backup(HmpContext *ctx, const HmpArgs *args)
{
    static const char *const names[] = {
        [BACKUP_STATUS_ACTIVE] = "active",
        [BACKUP_STATUS_DONE] = "done",
        [BACKUP_STATUS_ERROR] = "error",
        [BACKUP_STATUS_CANCELLED] = "cancelled",
    };
    BackupStatus st = { 0 };
    GString *out = ctx->out;

    backup_query(monitor_sidecar(ctx->mon)->backup, &st);
    if (st.status == BACKUP_STATUS_NONE) {
        g_string_append(out, "No backup has been started\n");
        return;
    }
    g_string_append_printf(out, "Backup status: %s%s%s%s\n", names[st.status],
                           st.errmsg ? " - " : "", st.errmsg ? st.errmsg : "",
                           st.finishing ? " (finishing)" : "");
    append_time(out, "Start time", st.start_time);
    if (st.end_time) {
        append_time(out, "End time", st.end_time);
    }
    g_string_append_printf(out, "Backup file: %s\nBackup uuid: %s\n"
                           "Total size: %" G_GUINT64_FORMAT "\n",
                           st.backup_file ? st.backup_file : "", st.uuid, st.total);
    append_share(out, "Transferred bytes", st.transferred, st.total);
    append_share(out, "Zero bytes", st.zero_bytes, st.total);
    backup_status_clear(&st);
}
