/*
 * The outgoing side of a live migration.
 *
 *  1. A first look: stop, device state, cont, unseen (about 2 ms).  It gives the
 *     header and the list of RAM blocks, and fails early when a device can't be
 *     migrated.
 *  2. Rounds (outgoing-rounds.c): sync the dirty logs, send what is marked, at the
 *     speed limit, until what is left fits the downtime limit at the measured
 *     bandwidth; then a few short ones, while they make it smaller.
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
#include "outgoing.h"

#include "emulator/drives.h"
#include "emulator/vm-state.h"
#include "util/error.h"

#include <string.h>

#define MEET_MS (10 * 1000)    /* the guest runs meanwhile */

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
    if (!strcmp(status, "restore-vm")) {
        /* QEMU 7.2 would abort, and the guest with it */
        error_set(errp, "the guest stands still since a loadvm failed; 'cont' or "
                  "another loadvm first");
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

    emu_flush_drives(o->m->cfg.block); /* QEMU does it when it stops: not for long, then */
    pthread_mutex_lock(&o->m->run_lock);
    ok = look(o, errp);
    pthread_mutex_unlock(&o->m->run_lock);
    return ok;
}

/* The shared block behind QEMU's @b, or -1. */
static ssize_t shared_block(const GuestRam *ram, const RamBlock *b)
{
    for (size_t i = 0; i < guest_ram_n_blocks(ram); i++) {
        if (emu_is_ram_block_of(b->idstr, guest_ram_block(ram, i)->id)) {
            return i;
        }
    }
    return -1;
}

/* What QEMU shares it leaves out of its device state: memory that was plugged in
 * later, say.  It would arrive empty. */
static bool nothing_left_out(Outgoing *o, GError **errp)
{
    g_auto(GStrv) shared = emu_vm_shared_memory(o->m->cfg.emu, errp);

    for (size_t i = 0; shared && i < o->n_blocks; i++) {
        const RamBlock *b = &o->blocks[i];

        for (char **id = shared; !b->host && *id; id++) {
            if (emu_is_ram_block_of(b->idstr, *id)) {
                error_set(errp, "memory backend '%s' is shared memory that the "
                          "sidecar does not have: it cannot be migrated", *id);
                return false;
            }
        }
    }
    return shared != NULL;
}

/* Must memory be compared, although the kernel has a log? */
static bool choose_log(Outgoing *o, bool *compare, GError **errp)
{
    MigrationManager *m = o->m;
    const char *ignored;
    char *who;

    *compare = false;
    if (strcmp(guest_ram_log_kind(m->cfg.ram, &ignored), "pagemap")) {
        return true;
    }
    if (!emu_vm_unseen_writer(m->cfg.emu, &who, errp)) {
        return false;
    }
    *compare = who != NULL;
    pthread_mutex_lock(&m->lock);
    m->why_compare = who;
    pthread_mutex_unlock(&m->lock);
    return true;
}

static size_t count_main(const GuestRam *ram)
{
    size_t n = 0;

    for (size_t i = 0; i < guest_ram_n_blocks(ram); i++) {
        n += !guest_ram_block(ram, i)->device;
    }
    return n;
}

/* QEMU's blocks, with memory and a log for those that are shared. */
static bool find_blocks(Outgoing *o, GError **errp)
{
    GuestRam *ram = o->m->cfg.ram;
    size_t found = 0;
    bool compare;

    if (!choose_log(o, &compare, errp)) {
        return false;
    }
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
        b->log = guest_ram_dirty_log(ram, at, TARGET_PAGE_SIZE, compare, errp);
        if (!b->log) {
            return false;
        }
        found += !guest_ram_block(ram, at)->device;
    }
    if (found != count_main(ram)) {
        error_set(errp, "a block of shared RAM is not in QEMU's device state");
        return false;
    }
    return nothing_left_out(o, errp);
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

/* ---- the beginning -------------------------------------------------------------- */

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
        (return_path_meet(o->back, MEET_MS, errp) && outgoing_rounds(o, errp));
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

/* What has changed in the blocks that QEMU keeps to itself, and the end of the
 * section. */
static void put_foreign_ram(Outgoing *o, const DeviceState *ds)
{
    const QemuStream *qs = &o->first->stream;

    if (return_path_promise(o->back)) {
        qemu_stream_put_ping(o->f, RETURN_PATH_WILL);
    }
    qemu_stream_put_commands(&ds->stream, o->f);
    qemu_stream_put_ram(qs, o->f, QEMU_VM_SECTION_END);
    ram_loader_put_foreign(ds->foreign, o->first->foreign, o->f);
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
    return outgoing_foreign_ram(o, errp) && outgoing_rounds(o, errp) &&
        meet(o, errp) && complete(o, errp);
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
