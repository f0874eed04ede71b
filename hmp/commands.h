/*
 * HMP's own commands, and what the files of hmp/ share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_HMP_COMMANDS_H
#define SIDECAR_HMP_COMMANDS_H

#include "args.h"
#include "hmp/hmp.h"

typedef struct Readline Readline;

/* One command being run. */
typedef struct HmpContext {
    Monitor *mon;
    GString *out;       /* lines end in \n; \r\n is made of them at the end */
    int64_t cpu_index;  /* QEMU's commands look at this CPU; -1: the first.
                           `cpu N' changes it. */
    const Readline *rl; /* the client's editor, for main_thread commands; NULL:
                           run by human-monitor-command */
} HmpContext;

typedef struct HmpCommand HmpCommand;
struct HmpCommand {
    const char *name;      /* with its other names: "help|?" */
    const char *args_type; /* args.h */
    const char *params;    /* for help */
    const char *help;
    bool main_thread;      /* run there (and never wait) */
    void (*run)(HmpContext *ctx, const HmpArgs *args);
    const HmpCommand *sub_table; /* `info' */
};

/* Both end with an entry without a name. */
extern const HmpCommand hmp_commands[], hmp_info_commands[];

const HmpCommand *hmp_find_command(const HmpCommand *table, const char *name);
/* Is @name one of "a|b|c"? */
bool hmp_name_matches(const char *names, const char *name);
/* Takes the command's name off *p (it ends at a space or '/'); NULL: blank. */
char *hmp_take_name(const char **p);

/* Run one line; see hmp_execute. */
bool hmp_run_line(HmpContext *ctx, const char *line, GError **errp);
/* Have QEMU run @line; its output with plain \n, g_free; or NULL. */
char *hmp_pass_through(HmpContext *ctx, const char *line, GError **errp);
/* Run @fn on the main thread and wait for it.  Not on the main thread. */
void hmp_on_main_thread(Monitor *mon, void (*fn)(void *opaque), void *opaque);
/* @out with \r\n, as monitors end their lines; g_free. */
char *hmp_with_crlf(const GString *out);
/* "Error: …" if there is one, which is freed. */
void hmp_report_error(HmpContext *ctx, GError *err);

/* help.c.  The text of QEMU's `help' (or `help info', with @prefix "info ")
 * with the commands of @ours in their places; g_free. */
char *hmp_help_merge(const char *theirs, const HmpCommand *ours,
                     const char *prefix);
/* The names in such a text, aliases apart; NULL-terminated, g_strfreev. */
char **hmp_help_names(const char *text, const char *prefix);
void hmp_help(HmpContext *ctx, const HmpArgs *args);
void hmp_info_help(HmpContext *ctx, const HmpArgs *args);

/* complete.c.  What may stand in place of the last word of @before, and in
 * *typed how many of its bytes are there; NULL-terminated, g_strfreev.  Not on
 * the main thread. */
char **hmp_complete(HmpContext *ctx, const char *before, size_t *typed);

/* backup.c */
void hmp_backup(HmpContext *ctx, const HmpArgs *args);
void hmp_backup_cancel(HmpContext *ctx, const HmpArgs *args);
void hmp_info_backup(HmpContext *ctx, const HmpArgs *args);

/* block.c */
void hmp_block_resize(HmpContext *ctx, const HmpArgs *args);
void hmp_eject(HmpContext *ctx, const HmpArgs *args);
void hmp_change(HmpContext *ctx, const HmpArgs *args);

/* migrate.c */
void hmp_migrate(HmpContext *ctx, const HmpArgs *args);
void hmp_migrate_cancel(HmpContext *ctx, const HmpArgs *args);
void hmp_migrate_incoming(HmpContext *ctx, const HmpArgs *args);
void hmp_migrate_set_speed(HmpContext *ctx, const HmpArgs *args);
void hmp_migrate_set_downtime(HmpContext *ctx, const HmpArgs *args);
void hmp_migrate_set_cachesize(HmpContext *ctx, const HmpArgs *args);
void hmp_stop(HmpContext *ctx, const HmpArgs *args);
void hmp_cont(HmpContext *ctx, const HmpArgs *args);
void hmp_info_migrate(HmpContext *ctx, const HmpArgs *args);
void hmp_info_migrate_cache_size(HmpContext *ctx, const HmpArgs *args);

/* migrate-settings.c */
void hmp_migrate_set_parameter(HmpContext *ctx, const HmpArgs *args);
void hmp_migrate_set_capability(HmpContext *ctx, const HmpArgs *args);
void hmp_info_migrate_parameters(HmpContext *ctx, const HmpArgs *args);
void hmp_info_migrate_capabilities(HmpContext *ctx, const HmpArgs *args);

/* stream.c */
void hmp_block_stream(HmpContext *ctx, const HmpArgs *args);
void hmp_block_stream_cancel(HmpContext *ctx, const HmpArgs *args);
void hmp_snapshot_blkdev(HmpContext *ctx, const HmpArgs *args);
void hmp_info_block_stream(HmpContext *ctx, const HmpArgs *args);
void hmp_block_job_cancel(HmpContext *ctx, const HmpArgs *args);
void hmp_block_job_set_speed(HmpContext *ctx, const HmpArgs *args);
void hmp_info_block_jobs(HmpContext *ctx, const HmpArgs *args);

#endif
