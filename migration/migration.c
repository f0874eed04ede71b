/*
 * Migration of a VM: what the two sides share.
 *
 *     none ──► setup ──► active ──► device ──► completed
 *                │          │          │
 *                └──────────┴──────────┴─► failed, cancelled (via cancelling)
 *
 * Status changes are made by the migration's thread, except `setup', which whoever
 * starts it makes, and `cancelling', which migration_cancel makes.  One migration at
 * a time; its thread is joined when the next one starts or the manager is freed.
 *
 * Lock order: run_lock, which whoever stops the guest or lets it run holds over
 * the call to QEMU, so that a user's stop or cont does not come between ours;
 * report_lock, which is held from a change of status until it has
 * been reported, so that events come in the order of the changes; then the
 * manager's lock, under which nothing is called but migration_channel_cancel
 * and counters.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration-internal.h"

#include "emulator/drives.h"
#include "emulator/vm-state.h"
#include "util/error.h"

#include <errno.h>
#include <string.h>

#define DEFAULT_BANDWIDTH (128 * 1024 * 1024) /* QEMU 7.2's */
#define DEFAULT_DOWNTIME 300
#define DEFAULT_CACHE (64 * 1024 * 1024)
#define DOWNTIME_MAX (2000 * 1000)

const char *migration_status_name(MigrationStatus status)
{
    static const char *const names[] = {
        [MIGRATION_STATUS_NONE] = "none",
        [MIGRATION_STATUS_SETUP] = "setup",
        [MIGRATION_STATUS_ACTIVE] = "active",
        [MIGRATION_STATUS_DEVICE] = "device",
        [MIGRATION_STATUS_CANCELLING] = "cancelling",
        [MIGRATION_STATUS_CANCELLED] = "cancelled",
        [MIGRATION_STATUS_COMPLETED] = "completed",
        [MIGRATION_STATUS_FAILED] = "failed",
    };

    return names[status];
}

void migration_info_clear(MigrationInfo *info)
{
    g_clear_pointer(&info->error_desc, g_free);
    g_clear_pointer(&info->stall, g_free);
    g_clear_pointer(&info->why_compare, g_free);
}

static bool starts_paused(const EmuCmdline *cl)
{
    for (guint i = 0; cl && i < cl->options->len; i++) {
        const EmuOption *option = g_ptr_array_index(cl->options, i);

        if (!strcmp(option->name, "S")) {
            return true;
        }
    }
    return false;
}

MigrationManager *migration_manager_new(const MigrationConfig *cfg)
{
    MigrationManager *m = g_new0(MigrationManager, 1);

    m->cfg = *cfg;
    m->params = (MigrationParameters) {
        .max_bandwidth = DEFAULT_BANDWIDTH,
        .downtime_limit = DEFAULT_DOWNTIME,
        .xbzrle_cache_size = DEFAULT_CACHE,
    };
    m->autostart = !starts_paused(cfg->cl);
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->run_lock, NULL);
    pthread_mutex_init(&m->report_lock, NULL);
    pthread_cond_init(&m->ended, NULL);
    return m;
}

static bool is_running(MigrationManager *m)
{
    bool running;

    pthread_mutex_lock(&m->lock);
    running = m->running;
    pthread_mutex_unlock(&m->lock);
    return running;
}

bool migration_is_outgoing(MigrationManager *m)
{
    bool outgoing;

    pthread_mutex_lock(&m->lock);
    outgoing = m->running && !m->incoming;
    pthread_mutex_unlock(&m->lock);
    return outgoing;
}

void migration_manager_stop(MigrationManager *m)
{
    pthread_mutex_lock(&m->lock);
    m->stopping = true;
    pthread_mutex_unlock(&m->lock);
    migration_cancel(m);
    /* the thread may wait for an answer that the main loop brings */
    while (is_running(m)) {
        g_main_context_iteration(NULL, TRUE);
    }
}

void migration_manager_free(MigrationManager *m)
{
    if (!m) {
        return;
    }
    migration_manager_stop(m);
    if (m->joinable) {
        pthread_join(m->thread, NULL);
    }
    migration_channel_unref(m->channel);
    device_state_unref(m->kept);
    g_free(m->kept_peripherals);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->run_lock);
    pthread_mutex_destroy(&m->report_lock);
    pthread_cond_destroy(&m->ended);
    g_free(m->error_desc);
    g_free(m->stall);
    g_free(m->why_compare);
    g_free(m);
}

bool migration_possible(MigrationManager *m, GError **errp)
{
    if (m->cfg.ram) {
        return true;
    }
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                "Live migration through the sidecar is off: %s",
                m->cfg.ram_left ? m->cfg.ram_left : "guest RAM is private");
    return false;
}

/* ---- status ------------------------------------------------------------------ */

static bool is_final(MigrationStatus status)
{
    return status == MIGRATION_STATUS_CANCELLED ||
        status == MIGRATION_STATUS_COMPLETED ||
        status == MIGRATION_STATUS_FAILED;
}

static void report_status(MigrationManager *m, MigrationStatus status)
{
    if (m->cfg.on_status) {
        m->cfg.on_status(m->cfg.opaque, status);
    }
}

void migration_set_status(MigrationManager *m, MigrationStatus status)
{
    bool changed = false;

    pthread_mutex_lock(&m->report_lock);
    pthread_mutex_lock(&m->lock);
    /* whoever is being cancelled stays so until the end */
    if (m->status != MIGRATION_STATUS_CANCELLING || is_final(status)) {
        changed = m->status != status;
        m->status = status;
    }
    pthread_mutex_unlock(&m->lock);
    if (changed) {
        report_status(m, status);
    }
    pthread_mutex_unlock(&m->report_lock);
}

bool migration_is_cancelled(MigrationManager *m)
{
    bool cancelled;

    pthread_mutex_lock(&m->lock);
    cancelled = m->cancelled;
    pthread_mutex_unlock(&m->lock);
    return cancelled;
}

/* Under lock.  One that was said to have ended has a few instructions left. */
static void wait_last_steps(MigrationManager *m)
{
    while (m->running && is_final(m->status)) {
        pthread_cond_wait(&m->ended, &m->lock);
    }
}

/* Under lock: everything of the last one is forgotten. */
static void reset(MigrationManager *m, MigrationChannel *ch, bool incoming)
{
    migration_channel_unref(m->channel);
    m->channel = ch;
    m->running = true;
    m->incoming = incoming;
    m->cancelled = m->finishing = m->stop_asked = m->unknown = false;
    m->start_us = g_get_monotonic_time();
    m->end_us = m->setup_us = 0;
    m->downtime_ms = m->expected_downtime_ms = 0;
    m->transferred = m->bandwidth = 0;
    m->last_ram = (RamStats) { 0 };
    m->copies_drives = false;
    m->last_drives = (BlockMigStats) { 0 };
    m->xbzrle = m->params.xbzrle;
    m->cache_size = m->params.xbzrle_cache_size;
    m->status = MIGRATION_STATUS_SETUP;
    g_clear_pointer(&m->error_desc, g_free);
    g_clear_pointer(&m->stall, g_free);
    g_clear_pointer(&m->why_compare, g_free);
}

/* Under lock: why none can begin now, or NULL. */
static const char *why_not(const MigrationManager *m)
{
    return m->running ? "There's a migration process in progress" :
        m->stopping ? "QEMU has ended" :
        m->drives_away ? "Can't migrate the vm that was paused due to previous "
                         "migration" : NULL;
}

/* Under lock, for which the new thread waits; the last one has left it for good. */
static int start_thread(MigrationManager *m, void *(*run)(void *), void *opaque)
{
    int err;

    if (m->joinable) {
        pthread_join(m->thread, NULL);
    }
    err = pthread_create(&m->thread, NULL, run, opaque);
    m->joinable = err == 0;
    return err;
}

bool migration_run(MigrationManager *m, MigrationChannel *ch, bool incoming,
                   void *(*run)(void *), void *opaque, GError **errp)
{
    GError *error = NULL;
    const char *why;
    int err = 0;

    pthread_mutex_lock(&m->report_lock);
    pthread_mutex_lock(&m->lock);
    wait_last_steps(m);
    why = why_not(m);
    if (!why) {
        reset(m, ch, incoming);
        err = start_thread(m, run, opaque);
    }
    pthread_mutex_unlock(&m->lock);
    if (!why) {
        report_status(m, MIGRATION_STATUS_SETUP);
    }
    pthread_mutex_unlock(&m->report_lock);
    if (why) {
        error_set(errp, "%s", why);
        migration_channel_unref(ch);
    } else if (err) {
        error_set_errno(&error, err, "cannot start a thread");
        g_propagate_error(errp, g_error_copy(error));
        migration_ended(m, error);
    }
    return !why && !err;
}

void migration_ended(MigrationManager *m, GError *error)
{
    bool cancelled = error && migration_is_cancelled(m);

    pthread_mutex_lock(&m->lock);
    cancelled = cancelled && !m->unknown; /* "cancelled" says that it is here */
    m->end_us = g_get_monotonic_time();
    if (error && !cancelled) {
        m->error_desc = g_strdup(error->message);
    }
    pthread_mutex_unlock(&m->lock);
    migration_set_status(m, !error ? MIGRATION_STATUS_COMPLETED :
                         cancelled ? MIGRATION_STATUS_CANCELLED :
                         MIGRATION_STATUS_FAILED);
    g_clear_error(&error);
    pthread_mutex_lock(&m->lock);
    m->running = m->finishing = false;
    pthread_cond_broadcast(&m->ended);
    pthread_mutex_unlock(&m->lock);
    g_main_context_wakeup(NULL);
}

void migration_cancel(MigrationManager *m)
{
    bool cancelling;

    pthread_mutex_lock(&m->report_lock);
    pthread_mutex_lock(&m->lock);
    cancelling = m->running && !m->cancelled && !is_final(m->status);
    if (cancelling) {
        m->cancelled = true;
        m->status = MIGRATION_STATUS_CANCELLING;
        migration_channel_cancel(m->channel);
    }
    pthread_mutex_unlock(&m->lock);
    if (cancelling) {
        report_status(m, MIGRATION_STATUS_CANCELLING);
    }
    pthread_mutex_unlock(&m->report_lock);
}

bool migration_wait(MigrationManager *m, GError **errp)
{
    bool ok;

    pthread_mutex_lock(&m->lock);
    while (m->running) {
        pthread_cond_wait(&m->ended, &m->lock);
    }
    ok = m->status == MIGRATION_STATUS_COMPLETED;
    if (!ok) {
        error_set(errp, "migration %s%s%s", migration_status_name(m->status),
                  m->error_desc ? ": " : "",
                  m->error_desc ? m->error_desc : "");
    }
    pthread_mutex_unlock(&m->lock);
    return ok;
}

/* ---- queries and parameters --------------------------------------------------- */

void migration_query(MigrationManager *m, MigrationInfo *info)
{
    gint64 now = g_get_monotonic_time();

    pthread_mutex_lock(&m->lock);
    *info = (MigrationInfo) {
        .status = m->status,
        .incoming = m->incoming,
        .error_desc = g_strdup(m->error_desc),
        .ram = m->last_ram,
        .transferred = m->transferred,
        .page_size = TARGET_PAGE_SIZE,
        .total_time = ((m->end_us ? m->end_us : now) - m->start_us) / 1000,
        .setup_time = m->setup_us / 1000,
        .downtime = m->downtime_ms,
        .expected_downtime = m->expected_downtime_ms,
        .bandwidth = m->bandwidth,
        .xbzrle = m->xbzrle,
        .xbzrle_cache_size = m->cache_size,
        .stall = g_strdup(m->stall),
        .why_compare = g_strdup(m->why_compare),
        .copies_drives = m->copies_drives,
        .drives = m->last_drives,
    };
    if (m->saver) {
        ram_saver_stats(m->saver, &info->ram);
    }
    if (m->drives) {
        block_saver_stats(m->drives, &info->drives);
    }
    pthread_mutex_unlock(&m->lock);
}

void migration_get_parameters(MigrationManager *m, MigrationParameters *p)
{
    pthread_mutex_lock(&m->lock);
    *p = m->params;
    pthread_mutex_unlock(&m->lock);
}

bool migration_set_parameters(MigrationManager *m,
                              const MigrationParameters *p, GError **errp)
{
    if (p->xbzrle_cache_size < TARGET_PAGE_SIZE ||
        p->xbzrle_cache_size / TARGET_PAGE_SIZE >= UINT32_MAX / 2) {
        error_set(errp, "Parameter 'xbzrle-cache-size' expects a memory size "
                  "of at least one page");
        return false;
    }
    if (p->downtime_limit > DOWNTIME_MAX) {
        error_set(errp, "Parameter 'downtime-limit' expects an integer in the "
                  "range of 0 to %d ms", DOWNTIME_MAX);
        return false;
    }
    pthread_mutex_lock(&m->lock);
    m->params = *p;
    m->params_serial++;
    if (m->file) {
        qemu_file_set_rate_limit(m->file, p->max_bandwidth);
    }
    pthread_mutex_unlock(&m->lock);
    return true;
}

void migration_expect(MigrationManager *m, bool expected)
{
    pthread_mutex_lock(&m->lock);
    m->expected = expected;
    pthread_mutex_unlock(&m->lock);
}

/* ---- users stop the guest and let it run ---------------------------------------- */

/* No migration runs, or starts, while they are away. */
static bool take_back_drives(MigrationManager *m, GError **errp)
{
    bool away;

    pthread_mutex_lock(&m->lock);
    away = m->drives_away;
    pthread_mutex_unlock(&m->lock);
    if (away) {
        if (!emu_activate_drives(m->cfg.cl, m->cfg.block, errp)) {
            return false;
        }
        emu_release_drives(m->cfg.block);
        pthread_mutex_lock(&m->lock);
        m->drives_away = false;
        pthread_mutex_unlock(&m->lock);
    }
    return true;
}

bool migration_cont(MigrationManager *m, GError **errp)
{
    bool finishing, expected, ok = false;

    pthread_mutex_lock(&m->run_lock);
    pthread_mutex_lock(&m->lock);
    wait_last_steps(m);
    finishing = m->finishing;
    expected = m->expected;
    m->autostart = true;
    pthread_mutex_unlock(&m->lock);
    if (expected) {
        ok = true; /* it is done when the guest has come */
    } else if (finishing) {
        error_set(errp, "Migration is not finalized yet");
    } else {
        ok = take_back_drives(m, errp) && emu_vm_cont(m->cfg.emu, false, errp);
    }
    pthread_mutex_unlock(&m->run_lock);
    return ok;
}

bool migration_stop(MigrationManager *m, GError **errp)
{
    bool expected, ok;

    pthread_mutex_lock(&m->run_lock);
    pthread_mutex_lock(&m->lock);
    m->stop_asked = m->finishing;
    m->autostart = false;
    expected = m->expected;
    pthread_mutex_unlock(&m->lock);
    ok = expected || emu_vm_stop(m->cfg.emu, false, errp);
    pthread_mutex_unlock(&m->run_lock);
    return ok;
}
