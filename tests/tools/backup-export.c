/*
 * backup-export: an image over NBD, and backups of it on demand, without a VM;
 * for measurements.  Commands come on standard input, one a line, and each is
 * answered by one line:
 *
 *     idle SECONDS      let clients work; "WRITES SECONDS"
 *     backup TARGET     a backup, to its end; "STATUS WRITES SECONDS
 *                       GUEST-COPIED SPILLED MEMORY [MESSAGE]"
 *
 * WRITES is how many write requests of clients were answered meanwhile.  Ends
 * at the end of its input.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "backup/backup.h"
#include "block/nbd-server.h"

typedef struct {
    BlockBackend *blk;
    BackupManager *mgr;
    int64_t start_us;
    uint64_t start_writes;
} Tool;

static uint64_t writes(Tool *t)
{
    BlockAcctStats st;

    blk_get_stats(t->blk, &st);
    return st.wr_operations;
}

static void begin(Tool *t)
{
    t->start_us = g_get_monotonic_time();
    t->start_writes = writes(t);
}

static double seconds(Tool *t)
{
    return (g_get_monotonic_time() - t->start_us) / 1e6;
}

static void do_idle(Tool *t, const char *arg)
{
    begin(t);
    g_usleep(g_ascii_strtod(arg, NULL) * 1e6);
    printf("%" PRIu64 " %.6f\n", writes(t) - t->start_writes, seconds(t));
}

static void do_backup(Tool *t, const char *target)
{
    static const char *const names[] = { "none", "active", "done", "error", "cancelled" };
    BackupRequest req = { .backup_file = target, .target_fd = -1 };
    g_autoptr(GError) err = NULL;
    g_autofree char *uuid = NULL;
    BackupStatus st;

    begin(t);
    uuid = backup_start(t->mgr, &req, &err);
    if (!uuid) {
        printf("refused 0 0 0 0 0 %s\n", err->message);
        return;
    }
    backup_query(t->mgr, &st);
    while (st.status == BACKUP_STATUS_ACTIVE) {
        backup_status_clear(&st);
        g_usleep(2000);
        backup_query(t->mgr, &st);
    }
    printf("%s %" PRIu64 " %.6f %" PRIu64 " %" PRIu64 " %" PRIu64 " %s\n", names[st.status],
           writes(t) - t->start_writes, seconds(t), st.guest_copied, st.spilled, st.memory,
           st.errmsg ? st.errmsg : "");
    backup_status_clear(&st);
}

static void serve(Tool *t)
{
    char line[4096];

    while (fgets(line, sizeof(line), stdin)) {
        g_strchomp(line);
        if (g_str_has_prefix(line, "idle ")) {
            do_idle(t, line + strlen("idle "));
        } else if (g_str_has_prefix(line, "backup ")) {
            do_backup(t, line + strlen("backup "));
        } else {
            printf("unknown command\n");
        }
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    g_autoptr(BlockNode) node = NULL;
    g_autoptr(GError) err = NULL;
    BlockContext *ctx = block_context_new();
    NbdServer *srv = NULL;
    int flags = BDRV_O_RDWR | BDRV_O_UNMAP;
    Tool t = { 0 };

    if (argc != 4) {
        fprintf(stderr, "usage: backup-export SOCKET IMAGE threads|native\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(argv[3], "native") == 0) {
        flags |= BDRV_O_NOCACHE | BDRV_O_NATIVE_AIO;
    }
    node = bdrv_open(argv[2], "raw", flags, &err);
    t.blk = node ? blk_new(ctx, "d", node, &err) : NULL;
    srv = t.blk ? nbd_server_new(64, &err) : NULL;
    if (!srv || !nbd_server_add(srv, "d", t.blk, false, &err) ||
        !nbd_server_listen_unix(srv, argv[1], &err)) {
        fprintf(stderr, "backup-export: %s\n", err->message);
        return 1;
    }
    t.mgr = backup_manager_new(ctx);
    serve(&t);
    backup_manager_free(t.mgr);
    nbd_server_free(srv);
    g_clear_pointer(&node, bdrv_unref);
    block_context_free(ctx);
    return 0;
}
