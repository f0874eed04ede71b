/*
 * HMP's command table.  A command that stands here is ours, also when QEMU has
 * one of that name; all others are QEMU's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "commands.h"
#include "qapi/qapi-commands.h"
#include "readline.h"

#include <string.h>

static void info_history(HmpContext *ctx, const HmpArgs *args)
{
    const char *line;

    for (unsigned i = 0; ctx->rl && (line = readline_history(ctx->rl, i)); i++) {
        g_string_append_printf(ctx->out, "%u: '%s'\n", i, line);
    }
}

/* Descriptors are a client's own, and QEMU has only one client: us. */
static void getfd(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    qmp_getfd(ctx->mon, hmp_args_str(args, "fdname"), &err);
    hmp_report_error(ctx, err);
}

static void closefd(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    qmp_closefd(ctx->mon, hmp_args_str(args, "fdname"), &err);
    hmp_report_error(ctx, err);
}

const HmpCommand hmp_info_commands[] = {
    {
        .name = "backup",
        .args_type = "",
        .params = "",
        .help = "show backup status",
        .run = hmp_info_backup,
    },
    {
        .name = "history",
        .args_type = "",
        .params = "",
        .help = "show the command line history",
        .main_thread = true,
        .run = info_history,
    },
    {
        .name = "migrate",
        .args_type = "",
        .params = "",
        .help = "show migration status",
        .run = hmp_info_migrate,
    },
    {
        .name = "migrate_cache_size",
        .args_type = "",
        .params = "",
        .help = "show the size of the XBZRLE cache",
        .run = hmp_info_migrate_cache_size,
    },
    {
        .name = "migrate_capabilities",
        .args_type = "",
        .params = "",
        .help = "show current migration capabilities",
        .run = hmp_info_migrate_capabilities,
    },
    {
        .name = "migrate_parameters",
        .args_type = "",
        .params = "",
        .help = "show current migration parameters",
        .run = hmp_info_migrate_parameters,
    },
    {
        .name = "block-jobs",
        .args_type = "",
        .params = "",
        .help = "show progress of ongoing block device operations",
        .run = hmp_info_block_jobs,
    },
    {
        .name = "block-stream",
        .args_type = "",
        .params = "",
        .help = "show the progress of image streaming",
        .run = hmp_info_block_stream,
    },
    { .name = NULL },
};

const HmpCommand hmp_commands[] = {
    {
        .name = "backup",
        .args_type = "state:-s,backupfile:F,speed:o?,devlist:B?",
        .params = "[-s] backupfile [speed [devlist]]",
        .help = "create a VM backup (use -s to save the VM state too)",
        .run = hmp_backup,
    },
    {
        .name = "backup_cancel",
        .args_type = "",
        .params = "",
        .help = "cancel the current VM backup",
        .run = hmp_backup_cancel,
    },
    {
        .name = "block_resize",
        .args_type = "device:B,size:o",
        .params = "device size",
        .help = "resize a block image",
        .run = hmp_block_resize,
    },
    {
        .name = "change",
        .args_type = "device:B,force:-f,target:F,arg:s?,read-only-mode:s?",
        .params = "device [-f] filename [format [read-only-mode]]",
        .help = "change a removable medium, optional format, use -f to force the operation",
        .run = hmp_change,
    },
    {
        .name = "closefd",
        .args_type = "fdname:s",
        .params = "closefd name",
        .help = "close a file descriptor previously passed via SCM rights",
        .run = closefd,
    },
    {
        .name = "eject",
        .args_type = "force:-f,device:B",
        .params = "[-f] device",
        .help = "eject a removable medium (use -f to force it)",
        .run = hmp_eject,
    },
    {
        .name = "getfd",
        .args_type = "fdname:s",
        .params = "getfd name",
        .help = "receive a file descriptor via SCM rights and assign it a name",
        .run = getfd,
    },
    {
        .name = "help|?",
        .args_type = "name:S?",
        .params = "[cmd]",
        .help = "show the help",
        .run = hmp_help,
    },
    {
        .name = "info",
        .args_type = "item:s?",
        .params = "[subcommand]",
        .help = "show various information about the system state",
        .run = hmp_info_help,
        .sub_table = hmp_info_commands,
    },
    {
        .name = "stop|s",
        .args_type = "",
        .params = "",
        .help = "stop emulation",
        .run = hmp_stop,
    },
    {
        .name = "cont|c",
        .args_type = "",
        .params = "",
        .help = "resume emulation",
        .run = hmp_cont,
    },
    {
        .name = "migrate",
        .args_type = "detach:-d,blk:-b,inc:-i,xbzrle:-x,uri:s",
        .params = "[-d] [-b] [-i] [-x] uri",
        .help = "migrate to URI (-d: in the background; -b: copy the drives too; -i: only what lies above the backing files; -x: XBZRLE)",
        .run = hmp_migrate,
    },
    {
        .name = "migrate_cancel",
        .args_type = "",
        .params = "",
        .help = "cancel the current VM migration",
        .run = hmp_migrate_cancel,
    },
    {
        .name = "migrate_incoming",
        .args_type = "uri:s",
        .params = "uri",
        .help = "continue an incoming migration from an -incoming defer",
        .run = hmp_migrate_incoming,
    },
    {
        .name = "migrate_set_cachesize",
        .args_type = "value:o",
        .params = "value",
        .help = "set the size of the XBZRLE cache (default unit: MiB)",
        .run = hmp_migrate_set_cachesize,
    },
    {
        .name = "migrate_set_capability",
        .args_type = "capability:s,state:b",
        .params = "capability state",
        .help = "Enable/Disable the usage of a capability for migration",
        .run = hmp_migrate_set_capability,
    },
    {
        .name = "migrate_set_parameter",
        .args_type = "parameter:s,value:s",
        .params = "parameter value",
        .help = "Set the parameter for migration",
        .run = hmp_migrate_set_parameter,
    },
    {
        .name = "migrate_set_downtime",
        .args_type = "value:s",
        .params = "value",
        .help = "set the longest time that the guest may be stopped (in seconds)",
        .run = hmp_migrate_set_downtime,
    },
    {
        .name = "migrate_set_speed",
        .args_type = "value:o",
        .params = "value",
        .help = "set the limit of bandwidth (in bytes per second, default unit: MiB)",
        .run = hmp_migrate_set_speed,
    },
    {
        .name = "block_job_cancel",
        .args_type = "force:-f,device:B",
        .params = "[-f] device",
        .help = "stop an active background block operation (use -f to abort it immediately)",
        .run = hmp_block_job_cancel,
    },
    {
        .name = "block_job_set_speed",
        .args_type = "device:B,speed:o",
        .params = "device speed",
        .help = "set maximum speed for a background block operation",
        .run = hmp_block_job_set_speed,
    },
    {
        .name = "block_stream",
        .args_type = "device:B,speed:o?,base:s?",
        .params = "device [speed [base]]",
        .help = "copy data from a backing file into a block device",
        .run = hmp_block_stream,
    },
    {
        .name = "block_stream_cancel",
        .args_type = "device:B",
        .params = "device",
        .help = "end the streaming of a block device",
        .run = hmp_block_stream_cancel,
    },
    {
        .name = "snapshot_blkdev",
        .args_type = "reuse:-n,device:B,snapshot-file:s?,format:s?",
        .params = "[-n] device [new-image-file] [format]",
        .help = "put a new image over that of a device (-n: the file is there already)",
        .run = hmp_snapshot_blkdev,
    },
    { .name = NULL },
};

bool hmp_name_matches(const char *names, const char *name)
{
    size_t len = strlen(name);

    if (strchr(name, '|')) {
        return false;
    }
    for (const char *p = names; len; p = strchr(p, '|') + 1) {
        if (!strncmp(p, name, len) && (!p[len] || p[len] == '|')) {
            return true;
        }
        if (!strchr(p, '|')) {
            break;
        }
    }
    return false;
}

const HmpCommand *hmp_find_command(const HmpCommand *table, const char *name)
{
    for (; table->name; table++) {
        if (hmp_name_matches(table->name, name)) {
            return table;
        }
    }
    return NULL;
}
