/*
 * The commands of live migration: from QMP's arguments to
 * migration/migration.h and back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/migration.h"
#include "qapi/qapi-commands.h"
#include "util/error.h"
#include <string.h>

static MigrationManager *manager(Monitor *mon)
{
    return monitor_sidecar(mon)->migration;
}

/* ---- start and end ---------------------------------------------------------- */

/* What fd:NAME stands for, passed with getfd. */
static bool take_fd(Monitor *mon, const char *uri, int *fd, GError **errp)
{
    if (!g_str_has_prefix(uri, "fd:")) {
        return true;
    }
    *fd = monitor_take_fd(mon, uri + strlen("fd:"), errp);
    return *fd >= 0;
}

/* As in QEMU 7.2, inc alone copies drives too; the parameter does so only together
 * with the capability. */
static unsigned which_drives(const MigrationParameters *p, bool blk, bool inc)
{
    bool any = blk || inc || p->block;

    return any ? MIGRATION_BLK |
        (inc || p->block_incremental ? MIGRATION_INC : 0) : 0;
}

bool qmp_migrate(Monitor *mon, const char *uri, bool has_detach, bool detach,
                 bool has_blk, bool blk, bool has_inc, bool inc,
                 bool has_xbzrle, bool xbzrle, bool has_resume, bool resume,
                 GError **errp)
{
    MigrationParameters p;
    int fd = -1;

    if (has_resume && resume) {
        error_set(errp, "Cannot resume if there is no paused migration");
        return false;
    }
    migration_get_parameters(manager(mon), &p);
    if (has_xbzrle) {
        p.xbzrle = xbzrle;
        migration_set_parameters(manager(mon), &p, NULL);
    }
    return take_fd(mon, uri, &fd, errp) &&
           migration_start(manager(mon), uri, fd,
                           which_drives(&p, has_blk && blk, has_inc && inc),
                           errp);
}

bool qmp_migrate_cancel(Monitor *mon, GError **errp)
{
    migration_cancel(manager(mon));
    return true;
}

bool qmp_migrate_incoming(Monitor *mon, const char *uri, GError **errp)
{
    Sidecar *sc = monitor_sidecar(mon);
    int fd = -1;

    return take_fd(mon, uri, &fd, errp) &&
           sidecar_incoming(sc, uri, fd, errp);
}

bool qmp_stop(Monitor *mon, GError **errp)
{
    return migration_stop(manager(mon), errp);
}

bool qmp_cont(Monitor *mon, GError **errp)
{
    return migration_cont(manager(mon), errp);
}

/* ---- settings --------------------------------------------------------------- */

bool qmp_migrate_set_parameters(Monitor *mon, SidecarMigrationParameters *arg,
                                GError **errp)
{
    MigrationParameters p;

    migration_get_parameters(manager(mon), &p);
    if (arg->has_max_bandwidth) {
        p.max_bandwidth = arg->max_bandwidth;
    }
    if (arg->has_downtime_limit) {
        p.downtime_limit = arg->downtime_limit;
    }
    if (arg->has_xbzrle_cache_size) {
        p.xbzrle_cache_size = arg->xbzrle_cache_size;
    }
    if (arg->has_block_incremental) {
        p.block_incremental = arg->block_incremental;
    }
    return migration_set_parameters(manager(mon), &p, errp);
}

SidecarMigrationParameters *qmp_query_migrate_parameters(Monitor *mon,
                                                         GError **errp)
{
    SidecarMigrationParameters *out = g_new0(SidecarMigrationParameters, 1);
    MigrationParameters p;

    migration_get_parameters(manager(mon), &p);
    out->has_max_bandwidth = out->has_downtime_limit = true;
    out->has_xbzrle_cache_size = out->has_stream_format = true;
    out->has_block_incremental = true;
    out->block_incremental = p.block_incremental;
    out->max_bandwidth = p.max_bandwidth;
    out->downtime_limit = p.downtime_limit;
    out->xbzrle_cache_size = p.xbzrle_cache_size;
    out->stream_format = SIDECAR_STREAM_FORMAT_QEMU;
    return out;
}

static bool not_negative(int64_t value, GError **errp)
{
    if (value < 0) {
        error_set(errp, "Parameter 'value' expects a non-negative value");
    }
    return value >= 0;
}

bool qmp_migrate_set_speed(Monitor *mon, int64_t value, GError **errp)
{
    SidecarMigrationParameters p = {
        .has_max_bandwidth = true,
        .max_bandwidth = value,
    };

    return not_negative(value, errp) &&
           qmp_migrate_set_parameters(mon, &p, errp);
}

bool qmp_migrate_set_downtime(Monitor *mon, double value, GError **errp)
{
    SidecarMigrationParameters p = { .has_downtime_limit = true };

    if (!(value >= 0 && value <= 2000)) {
        error_set(errp, "Parameter 'downtime_limit' expects an integer in the "
                  "range of 0 to 2000 seconds");
        return false;
    }
    p.downtime_limit = value * 1000;
    return qmp_migrate_set_parameters(mon, &p, errp);
}

bool qmp_migrate_set_cachesize(Monitor *mon, int64_t value, GError **errp)
{
    SidecarMigrationParameters p = {
        .has_xbzrle_cache_size = true,
        .xbzrle_cache_size = value,
    };

    return not_negative(value, errp) &&
           qmp_migrate_set_parameters(mon, &p, errp);
}

bool qmp_migrate_set_cache_size(Monitor *mon, int64_t value, GError **errp)
{
    return qmp_migrate_set_cachesize(mon, value, errp);
}

int64_t qmp_query_migrate_cache_size(Monitor *mon, GError **errp)
{
    MigrationParameters p;

    migration_get_parameters(manager(mon), &p);
    return p.xbzrle_cache_size;
}

/* None is switched if one can't be. */
static bool set_capability(MigrationParameters *p,
                           const SidecarMigrationCapabilityStatus *c, GError **errp)
{
    switch (c->capability) {
    case SIDECAR_MIGRATION_CAPABILITY_XBZRLE:
        p->xbzrle = c->state;
        return true;
    case SIDECAR_MIGRATION_CAPABILITY_BLOCK:
        p->block = c->state;
        return true;
    case SIDECAR_MIGRATION_CAPABILITY_EVENTS:
    case SIDECAR_MIGRATION_CAPABILITY_RETURN_PATH:
        return true; /* always on */
    default:
        if (c->state) {
            error_set(errp, "The migration capability '%s' is not supported by "
                      "qemu-sidecar", SidecarMigrationCapability_str(c->capability));
        }
        return !c->state;
    }
}

bool qmp_migrate_set_capabilities(Monitor *mon,
                                  SidecarMigrationCapabilityStatusList *list,
                                  GError **errp)
{
    MigrationParameters p;

    migration_get_parameters(manager(mon), &p);
    for (; list; list = list->next) {
        if (!set_capability(&p, list->value, errp)) {
            return false;
        }
    }
    return migration_set_parameters(manager(mon), &p, errp);
}

static void prepend(SidecarMigrationCapabilityStatusList **list,
                    SidecarMigrationCapability capability, bool state)
{
    SidecarMigrationCapabilityStatusList *l =
        g_new0(SidecarMigrationCapabilityStatusList, 1);

    l->value = g_new0(SidecarMigrationCapabilityStatus, 1);
    l->value->capability = capability;
    l->value->state = state;
    l->next = *list;
    *list = l;
}

SidecarMigrationCapabilityStatusList *
qmp_query_migrate_capabilities(Monitor *mon, GError **errp)
{
    SidecarMigrationCapabilityStatusList *list = NULL;
    MigrationParameters p;

    migration_get_parameters(manager(mon), &p);
    prepend(&list, SIDECAR_MIGRATION_CAPABILITY_RETURN_PATH, true);
    prepend(&list, SIDECAR_MIGRATION_CAPABILITY_EVENTS, true);
    prepend(&list, SIDECAR_MIGRATION_CAPABILITY_BLOCK, p.block);
    prepend(&list, SIDECAR_MIGRATION_CAPABILITY_XBZRLE, p.xbzrle);
    return list;
}

/* ---- query-migrate ------------------------------------------------------------- */

static SidecarMigrationStatus status_of(MigrationStatus status)
{
    static const SidecarMigrationStatus map[] = {
        [MIGRATION_STATUS_NONE] = SIDECAR_MIGRATION_STATUS_NONE,
        [MIGRATION_STATUS_SETUP] = SIDECAR_MIGRATION_STATUS_SETUP,
        [MIGRATION_STATUS_ACTIVE] = SIDECAR_MIGRATION_STATUS_ACTIVE,
        [MIGRATION_STATUS_DEVICE] = SIDECAR_MIGRATION_STATUS_DEVICE,
        [MIGRATION_STATUS_CANCELLING] = SIDECAR_MIGRATION_STATUS_CANCELLING,
        [MIGRATION_STATUS_CANCELLED] = SIDECAR_MIGRATION_STATUS_CANCELLED,
        [MIGRATION_STATUS_COMPLETED] = SIDECAR_MIGRATION_STATUS_COMPLETED,
        [MIGRATION_STATUS_FAILED] = SIDECAR_MIGRATION_STATUS_FAILED,
    };

    return map[status];
}

static SidecarMigrationStats *ram_stats(Monitor *mon, const MigrationInfo *mi)
{
    SidecarMigrationStats *st = g_new0(SidecarMigrationStats, 1);
    const char *why, *log = guest_ram_log_kind(monitor_sidecar(mon)->ram, &why);

    if (mi->why_compare) {
        log = "compare";
        why = mi->why_compare;
    }
    *st = (SidecarMigrationStats) {
        .transferred = mi->transferred,
        .remaining = mi->ram.remaining * mi->page_size,
        .total = mi->ram.total * mi->page_size,
        .duplicate = mi->ram.duplicate,
        .skipped = mi->ram.skipped,
        .normal = mi->ram.normal,
        .normal_bytes = mi->ram.normal * mi->page_size,
        .dirty_pages_rate = mi->ram.dirty_pages_rate,
        .mbps = mi->bandwidth * 8 / 1e6,
        .dirty_sync_count = mi->ram.dirty_sync_count,
        .page_size = mi->page_size,
        .dirty_log = g_strdup(log),
        .dirty_log_reason = g_strdup(why),
    };
    return st;
}

static SidecarMigrationStats *disk_stats(const MigrationInfo *mi)
{
    SidecarMigrationStats *st = g_new0(SidecarMigrationStats, 1);
    const BlockMigStats *drives = &mi->drives;

    *st = (SidecarMigrationStats) {
        .transferred = drives->transferred,
        .remaining = drives->remaining,
        .total = drives->total,
        .duplicate = drives->duplicate,
        .skipped = drives->skipped,
        .normal = drives->normal,
        .normal_bytes = drives->normal * BLK_MIG_CHUNK,
        .mbps = mi->total_time ? drives->transferred * 8e-3 / mi->total_time : 0,
        .dirty_sync_count = drives->passes,
        .page_size = BLK_MIG_CHUNK,
    };
    return st;
}

static SidecarXbzrleCacheStats *cache_stats(const MigrationInfo *mi)
{
    SidecarXbzrleCacheStats *st = g_new0(SidecarXbzrleCacheStats, 1);
    const RamStats *ram = &mi->ram;

    *st = (SidecarXbzrleCacheStats) {
        .cache_size = mi->xbzrle_cache_size,
        .bytes = ram->xbzrle_bytes,
        .pages = ram->xbzrle_pages,
        .cache_miss = ram->cache_miss,
        .cache_miss_rate = ram->cache_lookup ?
            (double)ram->cache_miss / ram->cache_lookup : 0,
        .cache_lookup = ram->cache_lookup,
        .encoding_rate = ram->xbzrle_bytes ?
            (double)ram->xbzrle_pages * mi->page_size / ram->xbzrle_bytes : 0,
        .overflow = ram->overflow,
    };
    return st;
}

SidecarMigrationInfo *qmp_query_migrate(Monitor *mon, GError **errp)
{
    SidecarMigrationInfo *out = g_new0(SidecarMigrationInfo, 1);
    MigrationInfo mi;

    migration_query(manager(mon), &mi);
    if (mi.status == MIGRATION_STATUS_NONE) {
        return out;
    }
    out->has_status = true;
    out->status = status_of(mi.status);
    out->has_total_time = out->has_setup_time = true;
    out->total_time = mi.total_time;
    out->setup_time = mi.setup_time;
    out->error_desc = g_steal_pointer(&mi.error_desc);
    out->stall = g_steal_pointer(&mi.stall);
    out->has_downtime = mi.status == MIGRATION_STATUS_COMPLETED && !mi.incoming;
    out->downtime = mi.downtime;
    out->has_expected_downtime = mi.status == MIGRATION_STATUS_ACTIVE &&
        !mi.incoming;
    out->expected_downtime = mi.expected_downtime;
    if (!mi.incoming && monitor_sidecar(mon)->ram) {
        out->ram = ram_stats(mon, &mi);
        out->xbzrle_cache = mi.xbzrle ? cache_stats(&mi) : NULL;
    }
    if (mi.copies_drives) {
        out->disk = disk_stats(&mi);
    }
    migration_info_clear(&mi);
    return out;
}
