/*
 * The outgoing side of a live migration.
 *
 *  1. A first look: stop, device state, cont, unseen (about 2 ms).  It gives the
 *     header and the list of RAM blocks, and fails early when a device can't be
 *     migrated.
 *  2. Rounds: sync the dirty logs, send what is marked, at the speed limit, until
 *     what is left fits the downtime limit at the measured bandwidth; then a few
 *     short ones, while they make it smaller.
 *  3. Stop; QEMU gives its device state again while all that is left of RAM is
 *     sent; then the drives are closed; then the devices, after which the other
 *     side runs.  (Stock QEMU, too, reads RAM the last time before its devices
 *     are saved: saving them does not write it.)
 *
 * Until the last byte has been accepted every error leads back: drives are
 * opened again and the guest goes on.  So does a refusal, which can only come
 * from a destination that will not run.  A failed attempt leaves nothing stale:
 * the next one has a new saver, a new cache and new logs, which report every
 * page at first.
 *
 * Thread: its own.  What others may see is under the manager's lock.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration-internal.h"

#include "emulator/drives.h"
#include "emulator/vm-state.h"
#include "util/error.h"

#include <string.h>

#define WINDOW_US (100 * 1000) /* over which bandwidth is measured */
#define STALL_ROUNDS 4         /* that bring nothing before we say so */
#define EARLY 16               /* share of the pause for what a round left over */
#define SHORT_ROUNDS 10        /* when the end is near; see may_shrink */
#define FEW_PAGES 64           /* sent in less time than a round takes */
#define MEET_MS (10 * 1000)    /* the guest runs meanwhile */

typedef struct {
    MigrationManager *m;
    QEMUFile *f;
    DeviceState *first;
    RamBlock *blocks;
    size_t n_blocks;
    RamSaver *saver;
    unsigned flags;    /* MigrationFlags */
    BlockSaver *drives; /* with -b or -i */
    unsigned params_serial;
    MigrationParameters params;
    bool claimed;      /* the drives are ours */
    bool stopped;      /* we stopped the guest */
    bool drives_away;
    bool unknown;      /* who has the guest; so it stays stopped, the drives closed */
    ReturnPath *back;  /* NULL: no way back, or no use */
    gint64 window_start;
    uint64_t window_base;
    unsigned rounds, short_rounds;
    uint64_t left;     /* pages at the last short round */
    bool cut;          /* which did not get to all of them */
    gint64 scan_us;    /* what asking the log takes at least */
} Outgoing;

/* ---- the first look ------------------------------------------------------------ */

static DeviceReader *open_reader(Emulator *emu, GError **errp)
{
    int fd = emu_save_devices_open(emu, errp);

    return fd < 0 ? NULL : device_reader_start(fd, errp);
}

/* What comes after emu_save_devices_begin. */
static DeviceState *read_devices(Emulator *emu, DeviceReader *r, GError **errp)
{
    GError *error = NULL;
    g_autoptr(DeviceState) ds = device_reader_end(r, &error);

    return emu_save_devices_end(emu, error, errp) ? g_steal_pointer(&ds) : NULL;
}

static DeviceState *ask_devices(Emulator *emu, GError **errp)
{
    DeviceReader *r = open_reader(emu, errp);

    if (!r) {
        return NULL;
    }
    emu_save_devices_begin(emu, device_reader_fd(r));
    return read_devices(emu, r, errp);
}

static void forget_kept(MigrationManager *m)
{
    g_clear_pointer(&m->kept, device_state_unref);
    g_clear_pointer(&m->kept_peripherals, g_free);
}

/*
 * The state of the stopped guest.  Having given it once QEMU 7.2 is in
 * `postmigrate' and gives it again only after the guest has run.  A guest that
 * was paused before stays so; what it had then still holds, unless somebody
 * plugged a device.
 */
static DeviceState *save_devices(Outgoing *o, GError **errp)
{
    MigrationManager *m = o->m;
    g_autofree char *status = emu_vm_status(m->cfg.emu, errp);
    g_autofree char *peripherals =
        status ? emu_vm_peripherals(m->cfg.emu, errp) : NULL;
    DeviceState *ds;

    if (!peripherals) {
        return NULL;
    }
    if (m->kept && !strcmp(status, "postmigrate") &&
        !strcmp(peripherals, m->kept_peripherals)) {
        return device_state_ref(m->kept);
    }
    forget_kept(m);
    ds = ask_devices(m->cfg.emu, errp);
    if (ds) {
        m->kept = device_state_ref(ds);
        m->kept_peripherals = g_steal_pointer(&peripherals);
    }
    return ds;
}

/* Adds what else there is to say. */
static void add_to_error(GError *error, const char *what, const char *text)
{
    char *both = g_strdup_printf("%s; %s: %s", error->message, what, text);

    g_free(error->message);
    error->message = both;
}

/* Under run_lock. */
static bool look(Outgoing *o, GError **errp)
{
    Emulator *emu = o->m->cfg.emu;
    g_autoptr(GError) stays = NULL;
    GError *error = NULL;
    bool running;

    if (!emu_vm_running(emu, &running, errp) ||
        (running && !emu_vm_stop(emu, true, errp))) {
        return false;
    }
    o->first = save_devices(o, &error);
    if (running) {
        forget_kept(o->m);
        emu_vm_cont(emu, true, &stays);
    }
    if (stays && !error) {
        error_set(&error, "the guest cannot go on after the first look");
    }
    if (stays) {
        add_to_error(error, "and the guest stays stopped", stays->message);
    }
    if (error) {
        g_propagate_error(errp, error);
    }
    return !error;
}

static bool first_look(Outgoing *o, GError **errp)
{
    bool ok;

    pthread_mutex_lock(&o->m->run_lock);
    ok = look(o, errp);
    pthread_mutex_unlock(&o->m->run_lock);
    return ok;
}

/* The shared block behind QEMU's @b, or -1. */
static ssize_t shared_block(const GuestRam *ram, const RamBlock *b)
{
    for (size_t i = 0; i < guest_ram_n_blocks(ram); i++) {
        if (migration_is_block_of(b->idstr, guest_ram_block(ram, i)->id)) {
            return i;
        }
    }
    return -1;
}

/* QEMU's blocks, with memory and a log for those that are shared. */
static bool find_blocks(Outgoing *o, GError **errp)
{
    GuestRam *ram = o->m->cfg.ram;
    size_t found = 0;

    o->n_blocks = o->first->blocks->len;
    o->blocks = g_memdup2(o->first->blocks->data,
                          o->n_blocks * sizeof(RamBlock));
    for (size_t i = 0; i < o->n_blocks; i++) {
        RamBlock *b = &o->blocks[i];
        ssize_t at = shared_block(ram, b);

        if (at < 0) {
            continue;
        }
        if (b->length != guest_ram_block(ram, at)->length) {
            error_set(errp, "RAM block \"%s\" has another length in QEMU than "
                      "here", b->idstr);
            return false;
        }
        b->host = guest_ram_block(ram, at)->host;
        b->fd = guest_ram_block(ram, at)->fd;
        b->log = guest_ram_dirty_log(ram, at, TARGET_PAGE_SIZE, errp);
        if (!b->log) {
            return false;
        }
        found++;
    }
    if (found != guest_ram_n_blocks(ram)) {
        error_set(errp, "a block of shared RAM is not in QEMU's device state");
        return false;
    }
    return true;
}

/* ---- drives ---------------------------------------------------------------------- */

/* One that QEMU kept to itself can't be copied by us. */
static bool all_drives_ours(const EmuCmdline *cl, GError **errp)
{
    for (guint i = 0; i < cl->drives->len; i++) {
        const EmuDrive *drive = g_ptr_array_index(cl->drives, i);

        if (drive->left && (drive->flags & BDRV_O_RDWR)) {
            error_set(errp, "drive '%s' is not the sidecar's and cannot be "
                      "copied: %s", drive->name, drive->left);
            return false;
        }
    }
    return true;
}

static bool make_block_saver(Outgoing *o, GError **errp)
{
    MigrationManager *m = o->m;
    g_autoptr(GPtrArray) all = NULL;

    if (!(o->flags & (MIGRATION_BLK | MIGRATION_INC))) {
        return true;
    }
    if (!all_drives_ours(m->cfg.cl, errp)) {
        return false;
    }
    all = blk_all(m->cfg.block);
    o->drives = block_saver_new((BlockBackend **)all->pdata, all->len,
                                o->flags & MIGRATION_INC, errp);
    if (!o->drives) {
        return false;
    }
    pthread_mutex_lock(&m->lock);
    m->drives = o->drives;
    m->copies_drives = true;
    pthread_mutex_unlock(&m->lock);
    return true;
}

/* Before the drives are given up to others, whatever the end was. */
static void end_block_saver(Outgoing *o)
{
    MigrationManager *m = o->m;

    if (o->drives) {
        pthread_mutex_lock(&m->lock);
        block_saver_stats(o->drives, &m->last_drives);
        m->drives = NULL;
        pthread_mutex_unlock(&m->lock);
        g_clear_pointer(&o->drives, block_saver_free);
    }
}

/* A section of what the drives' pass has left, if anything. */
static bool send_drives(Outgoing *o, bool *more, GError **errp)
{
    const QemuStream *qs = &o->first->stream;

    qemu_stream_put_block(qs, o->f, QEMU_VM_SECTION_PART);
    if (!block_saver_iterate(o->drives, o->f, more, errp)) {
        return false;
    }
    qemu_stream_put_block_footer(qs, o->f);
    return qemu_file_ok(o->f, errp);
}

static bool send_last_drives(Outgoing *o, GError **errp)
{
    const QemuStream *qs = &o->first->stream;

    if (!o->drives) {
        return true;
    }
    qemu_stream_put_block(qs, o->f, QEMU_VM_SECTION_END);
    if (!block_saver_complete(o->drives, o->f, errp)) {
        return false;
    }
    qemu_stream_put_block_footer(qs, o->f);
    return qemu_file_ok(o->f, errp);
}

static uint64_t drives_pending(const Outgoing *o)
{
    return o->drives ? block_saver_pending(o->drives) : 0;
}

/* ---- rounds ---------------------------------------------------------------------- */

static bool make_saver(Outgoing *o, GError **errp)
{
    MigrationManager *m = o->m;
    RamSaver *saver;

    migration_get_parameters(m, &o->params);
    saver = ram_saver_new(o->blocks, o->n_blocks, TARGET_PAGE_SIZE,
                          o->params.xbzrle ? o->params.xbzrle_cache_size : 0,
                          errp);
    if (!saver) {
        return false;
    }
    o->saver = saver;
    pthread_mutex_lock(&m->lock);
    m->saver = saver;
    m->file = o->f;
    qemu_file_set_rate_limit(o->f, m->params.max_bandwidth);
    pthread_mutex_unlock(&m->lock);
    return true;
}

/* A receiver must see the end of the stream before we close it, and not every machine
 * describes its state. */
static bool find_return_path(Outgoing *o, GError **errp)
{
    bool described;

    if (!emu_vm_describes_state(o->m->cfg.emu, &described, errp)) {
        return false;
    }
    o->back = described ? migration_channel_back(o->m->channel) : NULL;
    return true;
}

static bool send_setup(Outgoing *o, GError **errp)
{
    const QemuStream *qs = &o->first->stream;

    qemu_stream_put_header(qs, o->f);
    if (o->back) {
        qemu_stream_put_open_return_path(o->f);
        qemu_stream_put_ping(o->f, RETURN_PATH_ASK);
    }
    if (o->drives) {
        qemu_stream_put_block(qs, o->f, QEMU_VM_SECTION_START);
        block_saver_setup(o->drives, o->f);
        qemu_stream_put_block_footer(qs, o->f);
    }
    qemu_stream_put_ram(qs, o->f, QEMU_VM_SECTION_START);
    if (!ram_saver_setup(o->saver, o->f, errp)) {
        return false;
    }
    qemu_stream_put_footer(qs, o->f);
    return qemu_fflush(o->f, errp);
}

/* The limits may have been changed by a monitor. */
static bool follow_parameters(Outgoing *o, GError **errp)
{
    MigrationManager *m = o->m;
    uint64_t cache = o->params.xbzrle_cache_size;
    bool changed;

    pthread_mutex_lock(&m->lock);
    changed = m->params_serial != o->params_serial;
    o->params_serial = m->params_serial;
    o->params.downtime_limit = m->params.downtime_limit;
    o->params.xbzrle_cache_size = m->params.xbzrle_cache_size;
    pthread_mutex_unlock(&m->lock);
    if (!changed || !o->params.xbzrle || cache == o->params.xbzrle_cache_size) {
        return true;
    }
    if (!ram_saver_set_cache_budget(o->saver, o->params.xbzrle_cache_size,
                                    errp)) {
        return false;
    }
    pthread_mutex_lock(&m->lock);
    m->cache_size = o->params.xbzrle_cache_size;
    pthread_mutex_unlock(&m->lock);
    return true;
}

static void measure(Outgoing *o)
{
    MigrationManager *m = o->m;
    gint64 now = g_get_monotonic_time();
    uint64_t position = qemu_file_position(o->f);

    pthread_mutex_lock(&m->lock);
    m->transferred = position;
    if (now - o->window_start >= WINDOW_US || !m->bandwidth) {
        m->bandwidth = (position - o->window_base) * G_USEC_PER_SEC /
            MAX(now - o->window_start, 1);
        o->window_start = now;
        o->window_base = position;
    }
    pthread_mutex_unlock(&m->lock);
}

/* So many bytes can be sent while the guest may be stopped; but first the log is
 * asked for the last time. */
static uint64_t may_be_left(Outgoing *o)
{
    MigrationManager *m = o->m;
    double us = MAX(o->params.downtime_limit * 1000.0 - o->scan_us, 0);
    uint64_t bytes;

    pthread_mutex_lock(&m->lock);
    bytes = m->bandwidth * us / G_USEC_PER_SEC;
    pthread_mutex_unlock(&m->lock);
    return bytes;
}

/* The shortest one counts: a longer one had to wait for a processor.  The first
 * does more than the others. */
static bool ask_log(Outgoing *o, GError **errp)
{
    gint64 start = g_get_monotonic_time(), took;

    if (!ram_saver_sync(o->saver, errp)) {
        return false;
    }
    took = g_get_monotonic_time() - start;
    if (o->rounds) {
        o->scan_us = o->rounds == 1 ? took : MIN(took, o->scan_us);
    }
    return true;
}

static bool send_ram(Outgoing *o, bool *more, GError **errp)
{
    const QemuStream *qs = &o->first->stream;

    qemu_stream_put_ram(qs, o->f, QEMU_VM_SECTION_PART);
    if (!ram_saver_iterate(o->saver, o->f, more, errp)) {
        return false;
    }
    qemu_stream_put_footer(qs, o->f);
    return true;
}

static uint64_t all_pending(const Outgoing *o)
{
    return ram_saver_pending(o->saver) + drives_pending(o);
}

/* What has been written so far, at the speed limit. */
static bool pass_on(Outgoing *o, GError **errp)
{
    return qemu_file_rate_exceeded(o->f) ? qemu_file_wait_slice(o->f, errp) :
        qemu_fflush(o->f, errp);
}

/* Until nothing of the round is left, or so little of what may be left that it
 * pays to ask the log whether that could be the end: it stays marked.  The
 * drives' pass comes first: it takes longer, and memory changes meanwhile. */
static bool send_round(Outgoing *o, GError **errp)
{
    bool more = true, more_drives = o->drives != NULL;

    while (more) {
        if (more_drives ? !send_drives(o, &more_drives, errp) :
            !send_ram(o, &more, errp)) {
            return false;
        }
        if (!pass_on(o, errp)) {
            return false;
        }
        measure(o);
        if (!follow_parameters(o, errp)) {
            return false;
        }
        more = more && all_pending(o) > may_be_left(o) / EARLY;
    }
    return true;
}

/* It is the drives more than memory. */
static char *describe_drives_stall(uint64_t pending, uint64_t bandwidth)
{
    return g_strdup_printf(
        "not converging: the guest writes to its drives faster than they can be "
        "sent, %.0f MiB in the last round, at %.1f MiB/s; raise max-bandwidth "
        "or downtime-limit, or slow the guest down", pending / 1048576.0,
        bandwidth / 1048576.0);
}

/* In words, what keeps it from converging and what would help; g_free. */
static char *describe_stall(const RamStats *st, const Outgoing *o,
                            uint64_t bandwidth)
{
    double written = (double)st->dirty_pages_rate * TARGET_PAGE_SIZE;
    double miss = st->cache_lookup ?
        100.0 * st->cache_miss / st->cache_lookup : 0;
    g_autofree char *help = NULL;

    if (!o->params.xbzrle) {
        help = g_strdup("switch XBZRLE on");
    } else if (miss > 20) {
        help = g_strdup_printf("a larger XBZRLE cache would help (%.0f %% of "
                               "the pages were not in it)", miss);
    } else {
        help = g_strdup("its pages change too much for XBZRLE");
    }
    return g_strdup_printf(
        "not converging: the guest writes %.1f MiB/s of pages, %.1f MiB/s are "
        "sent; %s, or raise max-bandwidth or downtime-limit, or slow the guest "
        "down", written / 1048576, bandwidth / 1048576.0, help);
}

/* With a log that compares, on a large machine.  With a limit of 0 nothing can fit. */
static bool scan_is_too_long(const Outgoing *o)
{
    return o->params.downtime_limit &&
        o->scan_us >= o->params.downtime_limit * 1000.0;
}

static char *describe_scan_stall(const Outgoing *o)
{
    return g_strdup_printf(
        "not converging: finding the written pages for the last time takes %"
        G_GINT64_FORMAT " ms on this kernel, with the guest stopped; raise "
        "downtime-limit (%" G_GUINT64_FORMAT " ms)", o->scan_us / 1000,
        (uint64_t)o->params.downtime_limit);
}

/* After a sync: does what is left fit? */
static bool fits(Outgoing *o)
{
    MigrationManager *m = o->m;
    uint64_t pending = all_pending(o), fit = may_be_left(o);
    RamStats st;

    ram_saver_stats(o->saver, &st);
    pthread_mutex_lock(&m->lock);
    m->expected_downtime_ms = m->bandwidth ?
        (double)pending * 1000 / m->bandwidth + o->scan_us / 1000 : 0;
    g_clear_pointer(&m->stall, g_free);
    if (pending > fit && o->rounds > STALL_ROUNDS) {
        m->stall = scan_is_too_long(o) ? describe_scan_stall(o) :
            drives_pending(o) > pending / 2 ?
            describe_drives_stall(drives_pending(o), m->bandwidth) :
            describe_stall(&st, o, m->bandwidth);
    }
    pthread_mutex_unlock(&m->lock);
    return pending <= fit;
}

/*
 * What is left fits.  Is it worth another round, because the pause would be
 * shorter still?  The first one is always made; further ones while they bring
 * the number of pages down, or have not got to all of them: pages that are not
 * in the XBZRLE cache yet are long.  In all of a migration only a few, so that a
 * guest whose writes come and go does not keep us here.
 */
static bool may_shrink(Outgoing *o)
{
    uint64_t before = o->left;
    RamStats st;

    ram_saver_stats(o->saver, &st);
    o->left = st.remaining;
    return st.remaining > FEW_PAGES && o->short_rounds++ < SHORT_ROUNDS &&
        (o->short_rounds == 1 || o->cut || st.remaining < before - before / 4);
}

/* As much of what is left as may be sent at once. */
static bool send_short_round(Outgoing *o, GError **errp)
{
    return send_ram(o, &o->cut, errp) && pass_on(o, errp);
}

static bool rounds(Outgoing *o, GError **errp)
{
    o->window_start = g_get_monotonic_time();
    o->window_base = qemu_file_position(o->f);
    for (;;) {
        bool enough;

        if (!ask_log(o, errp)) {
            return false;
        }
        enough = o->rounds++ && fits(o);
        if (enough && !may_shrink(o)) {
            return true;
        }
        if (!enough && o->drives) {
            block_saver_next_pass(o->drives);
        }
        if (!(enough ? send_short_round(o, errp) : send_round(o, errp))) {
            return false;
        }
    }
}

/*
 * Before the guest is stopped for good it must be clear whether the receiver will
 * speak; whoever does has answered at the beginning.  If we had to wait, memory was
 * written meanwhile.
 */
static bool meet(Outgoing *o, GError **errp)
{
    if (!o->back || return_path_met(o->back)) {
        return true;
    }
    if (!return_path_meet(o->back, 0, errp)) {
        return false;
    }
    return return_path_met(o->back) ||
        (return_path_meet(o->back, MEET_MS, errp) && rounds(o, errp));
}

/* ---- the end ------------------------------------------------------------------- */

/* The list of blocks was sent at the start; it must still be true. */
static bool same_blocks(Outgoing *o, const DeviceState *ds, GError **errp)
{
    bool same = ds->blocks->len == o->n_blocks;

    for (size_t i = 0; same && i < o->n_blocks; i++) {
        const RamBlock *b = &g_array_index(ds->blocks, RamBlock, i);

        same = !strcmp(b->idstr, o->blocks[i].idstr) &&
            b->length == o->blocks[i].length;
    }
    if (!same) {
        error_set(errp, "the machine's RAM blocks changed during the migration");
    }
    return same;
}

/* The guest is stopped: all that is left of the drives and of shared RAM. */
static bool send_what_is_left(Outgoing *o, GError **errp)
{
    const QemuStream *qs = &o->first->stream;

    if (!send_last_drives(o, errp)) {
        return false;
    }
    qemu_stream_put_ram(qs, o->f, QEMU_VM_SECTION_PART);
    if (!ram_saver_complete(o->saver, o->f, errp)) {
        return false;
    }
    qemu_put_be64(o->f, RAM_SAVE_FLAG_EOS);
    qemu_stream_put_footer(qs, o->f);
    return qemu_fflush(o->f, errp);
}

/* The blocks that QEMU keeps to itself, and the end of the section. */
static void put_foreign_ram(Outgoing *o, const DeviceState *ds)
{
    const QemuStream *qs = &o->first->stream;

    if (return_path_promise(o->back)) {
        qemu_stream_put_ping(o->f, RETURN_PATH_WILL);
    }
    qemu_stream_put_commands(&ds->stream, o->f);
    qemu_stream_put_ram(qs, o->f, QEMU_VM_SECTION_END);
    ram_loader_put_foreign(ds->foreign, o->f);
    qemu_put_be64(o->f, RAM_SAVE_FLAG_EOS);
    qemu_stream_put_footer(qs, o->f);
}

/* QEMU gives its devices' state while the rest is sent. */
static DeviceState *send_while_saving(Outgoing *o, DeviceReader *r, GError **errp)
{
    Emulator *emu = o->m->cfg.emu;

    forget_kept(o->m);
    emu_save_devices_begin(emu, device_reader_fd(r));
    if (!send_what_is_left(o, errp)) {
        /* to its end: until QEMU 7.2 has closed it, `cont' is refused
         * ("Migration is not finalized yet") */
        device_state_unref(read_devices(emu, r, NULL));
        return NULL;
    }
    return read_devices(emu, r, errp);
}

/* From here on nobody else lets the guest run.  *reader: for its state if it ran,
 * else NULL. */
static bool stop(Outgoing *o, DeviceReader **reader, gint64 *stopped_at,
                 GError **errp)
{
    MigrationManager *m = o->m;
    bool running;

    *reader = NULL;
    if (!emu_vm_running(m->cfg.emu, &running, errp)) {
        return false;
    }
    if (running) {
        *reader = open_reader(m->cfg.emu, errp);
        if (!*reader) {
            return false;
        }
        emu_flush_drives(m->cfg.block); /* what fails now fails again */
    }
    *stopped_at = g_get_monotonic_time();
    if (running && !emu_vm_stop(m->cfg.emu, false, errp)) {
        device_reader_abandon(*reader);
        return false;
    }
    o->stopped = running;
    pthread_mutex_lock(&m->lock);
    m->finishing = true;
    pthread_mutex_unlock(&m->lock);
    return true;
}

/* Stops the guest if it runs.  What can be done before is done before. */
static DeviceState *stop_and_save(Outgoing *o, gint64 *stopped_at, GError **errp)
{
    DeviceReader *reader;
    bool ok;

    pthread_mutex_lock(&o->m->run_lock);
    ok = stop(o, &reader, stopped_at, errp);
    pthread_mutex_unlock(&o->m->run_lock);
    if (!ok) {
        return NULL;
    }
    migration_set_status(o->m, MIGRATION_STATUS_DEVICE);
    if (reader) {
        return send_while_saving(o, reader, errp);
    }
    return send_what_is_left(o, errp) ? save_devices(o, errp) : NULL;
}

static bool hand_over_drives(Outgoing *o, GError **errp)
{
    o->drives_away = true; /* some may be, also if it fails */
    return emu_inactivate_drives(o->m->cfg.block, errp);
}

/* The receiver's verdict. */
static bool is_there(Outgoing *o, GError **errp)
{
    MigrationManager *m = o->m;
    ReturnPathVerdict v =
        return_path_verdict(migration_channel_back(m->channel), errp);

    o->unknown = v == RETURN_PATH_UNKNOWN;
    pthread_mutex_lock(&m->lock);
    m->unknown = o->unknown;
    pthread_mutex_unlock(&m->lock);
    return v == RETURN_PATH_YES;
}

static bool complete(Outgoing *o, GError **errp)
{
    MigrationManager *m = o->m;
    gint64 start = 0, downtime;
    g_autoptr(DeviceState) ds = stop_and_save(o, &start, errp);

    if (!ds || !same_blocks(o, ds, errp) || !hand_over_drives(o, errp)) {
        return false;
    }
    put_foreign_ram(o, ds);
    if (o->stopped) {
        /* machines before 2.4 do not say, and are run by the other side */
        qemu_stream_set_running(&ds->stream);
    }
    qemu_stream_put_rest(&ds->stream, o->f);
    if (!qemu_fflush(o->f, errp)) {
        return false;
    }
    pthread_mutex_lock(&m->lock);
    m->transferred = qemu_file_position(o->f);
    m->file = NULL;
    pthread_mutex_unlock(&m->lock);
    if (!migration_channel_close(m->channel, false, errp)) {
        return false;
    }
    downtime = g_get_monotonic_time() - start;
    if (!is_there(o, errp)) {
        return false;
    }
    pthread_mutex_lock(&m->lock);
    m->downtime_ms = downtime / 1000;
    m->drives_away = true;
    pthread_mutex_unlock(&m->lock);
    return true;
}

/* As the guest was before, but for a stop that a user asked for meanwhile. */
static void let_run(Outgoing *o, GError **errp)
{
    MigrationManager *m = o->m;
    bool asked;

    pthread_mutex_lock(&m->run_lock);
    pthread_mutex_lock(&m->lock);
    asked = m->stop_asked;
    pthread_mutex_unlock(&m->lock);
    forget_kept(m);
    if (!asked) {
        emu_vm_cont(m->cfg.emu, false, errp);
    }
    pthread_mutex_lock(&m->lock);
    m->finishing = false;
    pthread_mutex_unlock(&m->lock);
    pthread_mutex_unlock(&m->run_lock);
}

/* Back to where we were before.  What goes wrong here is added to @error: the
 * guest then stays stopped, with its disks closed. */
static void undo(Outgoing *o, GError *error)
{
    MigrationManager *m = o->m;
    g_autoptr(GError) more = NULL;
    bool away;

    migration_channel_close(m->channel, true, NULL);
    end_block_saver(o);
    if (o->unknown ||
        (o->drives_away && !emu_activate_drives(m->cfg.cl, m->cfg.block, &more))) {
        pthread_mutex_lock(&m->lock);
        m->drives_away = true;
        pthread_mutex_unlock(&m->lock);
    } else if (o->stopped) {
        let_run(o, &more);
    }
    pthread_mutex_lock(&m->lock);
    away = m->drives_away;
    pthread_mutex_unlock(&m->lock);
    if (o->claimed && !away) {
        emu_release_drives(m->cfg.block);
    }
    if (more && error) {
        add_to_error(error, "and the guest stays stopped", more->message);
    }
}

/* ---- the thread ------------------------------------------------------------------ */

static bool migrate(Outgoing *o, GError **errp)
{
    MigrationManager *m = o->m;

    o->claimed = emu_claim_drives(m->cfg.block, errp);
    if (!o->claimed || !make_block_saver(o, errp)) {
        return false;
    }
    o->f = migration_channel_open(m->channel, false, errp);
    if (!o->f || !first_look(o, errp) || !find_blocks(o, errp) ||
        !make_saver(o, errp) || !find_return_path(o, errp) ||
        !send_setup(o, errp)) {
        return false;
    }
    pthread_mutex_lock(&m->lock);
    m->setup_us = g_get_monotonic_time() - m->start_us;
    pthread_mutex_unlock(&m->lock);
    migration_set_status(m, MIGRATION_STATUS_ACTIVE);
    return rounds(o, errp) && meet(o, errp) && complete(o, errp);
}

static void clear(Outgoing *o)
{
    MigrationManager *m = o->m;

    end_block_saver(o);
    pthread_mutex_lock(&m->lock);
    if (o->saver) {
        ram_saver_stats(o->saver, &m->last_ram);
    }
    m->saver = NULL;
    m->file = NULL;
    pthread_mutex_unlock(&m->lock);
    ram_saver_free(o->saver);
    for (size_t i = 0; i < o->n_blocks; i++) {
        dirty_log_free(o->blocks[i].log);
    }
    g_free(o->blocks);
    device_state_unref(o->first);
}

/* "Broken pipe" does not say why. */
static void add_last_words(MigrationChannel *ch, GError *error)
{
    g_autofree char *text = return_path_last_words(migration_channel_back(ch));

    if (text) {
        add_to_error(error, "the destination says", text);
    }
}

static void *outgoing_thread(void *opaque)
{
    Outgoing *o = opaque;
    MigrationManager *m = o->m;
    GError *error = NULL;

    if (!migrate(o, &error)) {
        add_last_words(m->channel, error);
        pthread_mutex_lock(&m->lock);
        m->file = NULL; /* it goes with the channel */
        pthread_mutex_unlock(&m->lock);
        undo(o, error);
    }
    clear(o);
    g_free(o);
    migration_ended(m, error);
    return NULL;
}

bool migration_start(MigrationManager *m, const char *uri, int fd,
                     unsigned flags, GError **errp)
{
    MigrationChannel *ch = migration_channel_new(uri, fd, errp);
    Outgoing *o;

    if (!ch) {
        return false;
    }
    if (!migration_possible(m, errp)) {
        migration_channel_unref(ch);
        return false;
    }
    o = g_new0(Outgoing, 1);
    o->m = m;
    o->flags = flags;
    if (!migration_run(m, ch, false, outgoing_thread, o, errp)) {
        g_free(o);
        return false;
    }
    return true;
}
