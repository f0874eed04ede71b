/*
 * backup, query-backup, backup-cancel: from QMP's arguments to backup/backup.h
 * and back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/drive-others.h"
#include "qapi/qapi-commands.h"
#include "util/error.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* ---- arguments -------------------------------------------------------------- */

/* One of two spellings of an argument. */
static bool either(void *new_value, void *old_value, const char *new_name,
                   const char *old_name, void **value, GError **errp)
{
    if (new_value && old_value) {
        error_set(errp, "Parameters '%s' and '%s' are the same and can't both be given",
                  new_name, old_name);
        return false;
    }
    *value = new_value ? new_value : old_value;
    return true;
}

/* NULL-terminated; the strings are borrowed. */
static const char **config_files(const StrOrArray *arg)
{
    GPtrArray *files = g_ptr_array_new();

    if (arg && arg->type == STR_OR_ARRAY_SINGLE) {
        g_ptr_array_add(files, arg->u.single);
    } else if (arg) {
        for (const strList *l = arg->u.list; l; l = l->next) {
            g_ptr_array_add(files, l->value);
        }
    }
    g_ptr_array_add(files, NULL);
    return (const char **)g_ptr_array_free(files, FALSE);
}

static bool fdset_number(const char *text, int64_t *id, GError **errp)
{
    char *end;

    errno = 0;
    *id = g_ascii_strtoll(text, &end, 10);
    if (errno || *end || !g_ascii_isdigit(*text)) {
        error_set(errp, "'/dev/fdset/%s' does not name a set of file descriptors", text);
        return false;
    }
    return true;
}

/* The descriptor that @file stands for, or -1 in *fd for any other name. */
static bool target_fd(Monitor *mon, const char *file, int *fd, GError **errp)
{
    const char *name = file;
    int64_t id;

    *fd = -1;
    if (strcmp(file, "-") == 0) {
        error_set(errp, "Parameter 'backup-file' expects a file name or exec:COMMAND: "
                  "standard output ('-') belongs to QEMU");
        return false;
    }
    if (g_str_has_prefix(file, "/dev/fdname/")) {
        name += strlen("/dev/fdname/");
        *fd = monitor_take_fd(mon, name, errp);
        return *fd >= 0;
    }
    if (g_str_has_prefix(file, "/dev/fdset/")) {
        name += strlen("/dev/fdset/");
        if (!fdset_number(name, &id, errp)) {
            return false;
        }
        *fd = monitor_fdset_dup(mon, id, O_WRONLY, errp);
        return *fd >= 0;
    }
    return true;
}

static bool check(const BackupArguments *arg, const char *file, GError **errp)
{
    if (!file) {
        error_set(errp, "Parameter 'backup-file' is missing");
        return false;
    }
    if (arg->has_state && arg->state) {
        error_set(errp, "Parameter 'state' is not supported yet: only drives can be "
                  "backed up, not memory and devices");
        return false;
    }
    if (arg->has_speed && arg->speed < 0) {
        error_set(errp, "Parameter 'speed' expects a non-negative value");
        return false;
    }
    return true;
}

char *qmp_backup(Monitor *mon, BackupArguments *arg, GError **errp)
{
    g_autofree const char **configs = NULL;
    void *file, *config;
    Sidecar *sc = monitor_sidecar(mon);
    BackupRequest request = sc->backup_defaults;
    char *uuid;

    request.speed = arg->has_speed ? arg->speed : 0;
    if (!either(arg->backup_file, arg->backupfile, "backup-file", "backupfile", &file,
                errp) ||
        !either(arg->config_file, arg->config_filename, "config-file",
                "config-filename", &config, errp) ||
        !check(arg, file, errp) ||
        !target_fd(mon, file, &request.target_fd, errp)) {
        return NULL;
    }
    configs = config_files(config);
    request.backup_file = file;
    request.format = BackupFormat_str(arg->has_format ? arg->format : BACKUP_FORMAT_VMA);
    request.config_files = configs[0] ? configs : NULL;
    request.devlist = arg->devlist;
    uuid = backup_start(sc->backup, &request, errp);
    if (uuid && !arg->devlist) {
        emu_warn_of_others(sc);
    }
    return uuid;
}

/* ---- the rest --------------------------------------------------------------- */

static BackupState state_of(BackupStatusCode code)
{
    switch (code) {
    case BACKUP_STATUS_ACTIVE: return BACKUP_STATE_ACTIVE;
    case BACKUP_STATUS_DONE: return BACKUP_STATE_DONE;
    case BACKUP_STATUS_CANCELLED: return BACKUP_STATE_CANCELLED;
    default: return BACKUP_STATE_ERROR;
    }
}

BackupInfo *qmp_query_backup(Monitor *mon, GError **errp)
{
    BackupInfo *info = g_new0(BackupInfo, 1);
    BackupStatus st;

    backup_query(monitor_sidecar(mon)->backup, &st);
    if (st.status != BACKUP_STATUS_NONE) {
        info->has_status = true;
        info->status = state_of(st.status);
        info->errmsg = g_strdup(st.errmsg);
        info->has_total = info->has_transferred = info->has_zero_bytes = true;
        info->total = st.total;
        info->transferred = st.transferred;
        info->zero_bytes = st.zero_bytes;
        info->has_start_time = true;
        info->start_time = st.start_time;
        info->has_end_time = st.end_time != 0;
        info->end_time = st.end_time;
        info->backup_file = g_strdup(st.backup_file);
        info->uuid = g_strdup(st.uuid);
        info->has_finishing = true;
        info->finishing = st.finishing;
        info->has_speed = info->has_guest_copied = true;
        info->speed = st.speed;
        info->guest_copied = st.guest_copied;
        info->has_memory = info->has_spilled = true;
        info->memory = st.memory;
        info->spilled = st.spilled;
    }
    backup_status_clear(&st);
    return info;
}

bool qmp_backup_cancel(Monitor *mon, GError **errp)
{
    backup_cancel(monitor_sidecar(mon)->backup);
    return true;
}
