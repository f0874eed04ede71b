/*
 * HMP: migrate and what belongs to it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "commands.h"
#include "migration/migration.h"
#include "qapi/qapi-commands.h"
#include "util/error.h"

/* Without -d the prompt comes back when the migration has ended, as in QEMU. */
static void wait_for_end(HmpContext *ctx)
{
    MigrationManager *m = monitor_sidecar(ctx->mon)->migration;
    g_autoptr(GError) err = NULL;

    if (!migration_wait(m, &err)) {
        g_string_append_printf(ctx->out, "Error: %s\n", err->message);
    }
}

void hmp_migrate(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;
    bool xbzrle = hmp_args_bool(args, "xbzrle");

    if (qmp_migrate(ctx->mon, hmp_args_str(args, "uri"), false, false,
                    true, hmp_args_bool(args, "blk"),
                    true, hmp_args_bool(args, "inc"), xbzrle, xbzrle, false, false,
                    &err) &&
        !hmp_args_bool(args, "detach")) {
        wait_for_end(ctx);
    }
    hmp_report_error(ctx, err);
}

void hmp_migrate_cancel(HmpContext *ctx, const HmpArgs *args)
{
    qmp_migrate_cancel(ctx->mon, NULL);
}

void hmp_migrate_incoming(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    qmp_migrate_incoming(ctx->mon, hmp_args_str(args, "uri"), &err);
    hmp_report_error(ctx, err);
}

void hmp_migrate_set_speed(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    qmp_migrate_set_speed(ctx->mon, hmp_args_int(args, "value"), &err);
    hmp_report_error(ctx, err);
}

void hmp_migrate_set_downtime(HmpContext *ctx, const HmpArgs *args)
{
    const char *text = hmp_args_str(args, "value");
    char *end;
    double seconds = g_ascii_strtod(text, &end);
    GError *err = NULL;

    if (!g_strcmp0(end, "ms")) {
        seconds /= 1000;
    } else if (*end && g_strcmp0(end, "s")) {
        error_set(&err, "'%s' is not a time (1.5, 1.5s, 300ms)", text);
    }
    if (!err) {
        qmp_migrate_set_downtime(ctx->mon, seconds, &err);
    }
    hmp_report_error(ctx, err);
}

void hmp_migrate_set_cachesize(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    qmp_migrate_set_cachesize(ctx->mon, hmp_args_int(args, "value"), &err);
    hmp_report_error(ctx, err);
}

void hmp_stop(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    qmp_stop(ctx->mon, &err);
    hmp_report_error(ctx, err);
}

void hmp_cont(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    qmp_cont(ctx->mon, &err);
    hmp_report_error(ctx, err);
}

/* ---- info migrate ------------------------------------------------------------- */

static void append_kbytes(GString *out, const char *what, int64_t bytes)
{
    g_string_append_printf(out, "%s: %" G_GINT64_FORMAT " kbytes\n", what,
                           bytes >> 10);
}

static void append_pages(GString *out, const char *what, int64_t pages,
                         int64_t bytes)
{
    g_string_append_printf(out, "transferred ram-%s: %" G_GINT64_FORMAT
                           " kbytes (%" G_GINT64_FORMAT " pages)\n", what,
                           bytes >> 10, pages);
}

static void info_ram(GString *out, const SidecarMigrationStats *ram)
{
    append_kbytes(out, "transferred ram", ram->transferred);
    append_kbytes(out, "remaining ram", ram->remaining);
    append_kbytes(out, "total ram", ram->total);
    append_pages(out, "duplicate", ram->duplicate, ram->duplicate);
    append_pages(out, "normal", ram->normal, ram->normal_bytes);
    g_string_append_printf(out, "skipped: %" G_GINT64_FORMAT " pages\n"
                           "throughput: %.2f mbps\n"
                           "dirty sync count: %" G_GINT64_FORMAT "\n"
                           "dirty pages rate: %" G_GINT64_FORMAT " pages\n"
                           "page size: %" G_GINT64_FORMAT " kbytes\n"
                           "dirty log: %s%s%s%s\n",
                           ram->skipped, ram->mbps, ram->dirty_sync_count,
                           ram->dirty_pages_rate, ram->page_size >> 10,
                           ram->dirty_log,
                           ram->dirty_log_reason ? " (" : "",
                           ram->dirty_log_reason ? ram->dirty_log_reason : "",
                           ram->dirty_log_reason ? ")" : "");
}

static void info_disk(GString *out, const SidecarMigrationStats *disk)
{
    append_kbytes(out, "transferred disk", disk->transferred);
    append_kbytes(out, "remaining disk", disk->remaining);
    append_kbytes(out, "total disk", disk->total);
    g_string_append_printf(out, "disk throughput: %.2f mbps\n", disk->mbps);
}

static void info_cache(GString *out, const SidecarXbzrleCacheStats *x)
{
    append_pages(out, "xbzrle", x->pages, x->bytes);
    g_string_append_printf(out, "overflow: %" G_GINT64_FORMAT " pages\n"
                           "cache-hit: %" G_GINT64_FORMAT " pages\n"
                           "cache-lookup: %" G_GINT64_FORMAT " pages\n"
                           "cache size: %" G_GINT64_FORMAT " bytes\n"
                           "cache miss rate: %.2f\n"
                           "encoding rate: %.2f\n",
                           x->overflow, x->cache_lookup - x->cache_miss,
                           x->cache_lookup, x->cache_size, x->cache_miss_rate,
                           x->encoding_rate);
}

void hmp_info_migrate(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;
    g_autoptr(SidecarMigrationInfo) info = qmp_query_migrate(ctx->mon, &err);
    GString *out = ctx->out;

    hmp_report_error(ctx, err);
    if (!info || !info->has_status) {
        return;
    }
    g_string_append_printf(out, "Migration status: %s%s%s%s\n",
                           SidecarMigrationStatus_str(info->status),
                           info->error_desc ? " (" : "",
                           info->error_desc ? info->error_desc : "",
                           info->error_desc ? ")" : "");
    g_string_append_printf(out, "total time: %" G_GINT64_FORMAT " ms\n",
                           info->total_time);
    if (info->has_expected_downtime) {
        g_string_append_printf(out, "expected downtime: %" G_GINT64_FORMAT
                               " ms\n", info->expected_downtime);
    }
    if (info->has_downtime) {
        g_string_append_printf(out, "downtime: %" G_GINT64_FORMAT " ms\n",
                               info->downtime);
    }
    g_string_append_printf(out, "setup: %" G_GINT64_FORMAT " ms\n",
                           info->setup_time);
    if (info->ram) {
        info_ram(out, info->ram);
    }
    if (info->disk) {
        info_disk(out, info->disk);
    }
    if (info->xbzrle_cache) {
        info_cache(out, info->xbzrle_cache);
    }
    if (info->stall) {
        g_string_append_printf(out, "%s\n", info->stall);
    }
}

void hmp_info_migrate_cache_size(HmpContext *ctx, const HmpArgs *args)
{
    g_string_append_printf(ctx->out, "xbzrle cache size: %" G_GINT64_FORMAT
                           " kbytes\n",
                           qmp_query_migrate_cache_size(ctx->mon, NULL) >> 10);
}
