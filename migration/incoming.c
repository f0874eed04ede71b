/*
 * The incoming side of a live migration.
 *
 * QEMU waits with -incoming defer, its drives open for reading only and without
 * locks.  The stream is read here: pages of shared RAM go straight into the
 * guest's memory, everything else is kept.  When all of it has arrived the
 * images are opened for writing (the source has closed them by then), and QEMU
 * gets a stream of its own that has all but the shared pages and the drives.
 *
 * If the stream has drives (migrate -b), the images are ours alone.  They are
 * opened for writing when the first of it comes, and are closed and opened again
 * when all is there.
 *
 * QEMU has it, stopped, before the source hears that; then, and if the source is
 * one of ours, after its word, the guest runs.  Any error before ends this VM, with
 * the images closed and the source told; the source goes on.  One case is left open:
 * a connection lost while the word of the source is waited for; the guest stays
 * here, stopped, for the admin.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration-internal.h"

#include "emulator/drives.h"
#include "emulator/vm-state.h"
#include "migration/block-migration.h"
#include "migration/return-path.h"
#include "util/error.h"

#include <string.h>

/* RAM of a machine that is not shared: ROMs, video memory. */
#define FOREIGN_MAX (UINT64_C(4) << 30)

typedef struct {
    MigrationManager *m;
    MigrationIncomingFn *done;
    void *opaque;
    GError *error; /* for done */
    ReturnPathVerdict verdict;

    QemuStream stream;
    RamLoader *loader;
    BlockLoader *drives; /* once something of a drive has come */
} Incoming;

/* ---- reading -------------------------------------------------------------------- */

static bool make_loader(Incoming *in, GError **errp)
{
    GuestRam *ram = in->m->cfg.ram;
    size_t n = 0;
    g_autofree RamBlock *blocks = g_new0(RamBlock, guest_ram_n_blocks(ram));

    for (size_t i = 0; i < guest_ram_n_blocks(ram); i++) {
        const GuestRamBlock *b = guest_ram_block(ram, i);

        if (!emu_vm_ram_block_name(in->m->cfg.emu, b->id, blocks[n].idstr,
                                   b->device ? NULL : errp)) {
            if (b->device) {
                continue; /* it was unplugged */
            }
            return false;
        }
        blocks[n].length = b->length;
        blocks[n].host = b->host;
        blocks[n].fd = b->fd;
        n++;
    }
    in->loader = ram_loader_new(blocks, n, TARGET_PAGE_SIZE, FOREIGN_MAX, errp);
    return in->loader != NULL;
}

static bool on_ram(void *opaque, QEMUFile *f, GError **errp)
{
    Incoming *in = opaque;
    MigrationManager *m = in->m;

    pthread_mutex_lock(&m->lock);
    m->transferred = qemu_file_position(f);
    pthread_mutex_unlock(&m->lock);
    return ram_loader_load(in->loader, f, errp);
}

/* The source copies its drives, so ours are not in use there, as theirs would
 * be: from now on they are written. */
static bool on_block(void *opaque, QEMUFile *f, GError **errp)
{
    Incoming *in = opaque;
    const MigrationConfig *cfg = &in->m->cfg;

    if (!in->drives) {
        if (!emu_activate_drives(cfg->cl, cfg->block, errp)) {
            return false;
        }
        in->drives = block_loader_new(cfg->block);
    }
    return block_loader_load(in->drives, f, errp);
}

/* Now, while the source still waits for its turn: at the end it would wait for
 * so long only. */
static bool on_block_end(void *opaque, GError **errp)
{
    return block_loader_flush(((Incoming *)opaque)->drives, errp);
}

/* QEMU would find it out too, but only after all of RAM has come. */
static bool same_machine(Incoming *in, const char *theirs, GError **errp)
{
    g_autofree char *ours = emu_vm_machine(in->m->cfg.emu, errp);
    bool same;

    if (!ours) {
        return false;
    }
    same = !theirs || !strcmp(theirs, ours);
    if (!same) {
        error_set(errp, "the machine of the source is '%s', here it is '%s'",
                  theirs, ours);
    }
    return same;
}

static bool on_header(void *opaque, const QemuStream *qs, GError **errp)
{
    Incoming *in = opaque;

    migration_set_status(in->m, MIGRATION_STATUS_ACTIVE);
    return same_machine(in, qs->machine, errp) && make_loader(in, errp);
}

/* The return path's, which are for us and not for QEMU, and what no stream like
 * ours can have. */
static bool open_return_path(Incoming *in, GError **errp)
{
    bool described;

    if (!migration_channel_back(in->m->channel)) {
        return true; /* the stream of a socket in a file */
    }
    if (!emu_vm_describes_state(in->m->cfg.emu, &described, errp)) {
        return false;
    }
    if (!described) {
        error_set(errp, "the source waits for an answer (capability return-path), "
                  "but nobody can tell where the stream of a machine '%s' ends",
                  in->stream.machine ? in->stream.machine : "?");
        return false;
    }
    in->stream.awaited = true;
    return_path_opened(migration_channel_back(in->m->channel));
    return true;
}

static bool on_unknown_command(QEMUFile *f, uint16_t kind, GError **errp)
{
    static const char *const names[] = {
        [MIG_CMD_POSTCOPY_ADVISE] = "postcopy-ram",
        [MIG_CMD_POSTCOPY_LISTEN] = "postcopy-ram",
        [MIG_CMD_POSTCOPY_RUN] = "postcopy-ram",
        [MIG_CMD_POSTCOPY_RAM_DISCARD] = "postcopy-ram",
        [MIG_CMD_POSTCOPY_RESUME] = "postcopy-ram",
        [MIG_CMD_PACKAGED] = "postcopy-ram",
        [MIG_CMD_RECV_BITMAP] = "postcopy-ram",
        [MIG_CMD_ENABLE_COLO] = "x-colo",
    };

    return kind >= G_N_ELEMENTS(names) || !names[kind] ||
        qemu_file_bad(f, errp, "migration stream", "command %u, of the capability "
                      "%s, which is not supported", kind, names[kind]);
}

static bool on_command(void *opaque, QEMUFile *f, uint16_t kind,
                       const uint8_t *data, size_t len, bool *keep, GError **errp)
{
    Incoming *in = opaque;
    uint32_t value;

    if (kind != MIG_CMD_OPEN_RETURN_PATH && kind != MIG_CMD_PING) {
        return on_unknown_command(f, kind, errp);
    }
    *keep = false;
    if (len != (kind == MIG_CMD_PING ? 4 : 0)) {
        return qemu_file_bad(f, errp, "migration stream",
                             "command %u with %zu bytes", kind, len);
    }
    if (kind == MIG_CMD_OPEN_RETURN_PATH) {
        return open_return_path(in, errp);
    }
    memcpy(&value, data, 4);
    return return_path_ping(migration_channel_back(in->m->channel),
                            GUINT32_FROM_BE(value), errp);
}

static const QemuStreamHandler handler = {
    .command = on_command,
    .header = on_header,
    .ram = on_ram,
    .block = on_block,
    .block_end = on_block_end,
};

/* ---- giving it to QEMU ------------------------------------------------------------- */

static void put_stream(Incoming *in, QEMUFile *f)
{
    const QemuStream *qs = &in->stream;

    qemu_stream_put_header(qs, f);
    qemu_stream_put_ram(qs, f, QEMU_VM_SECTION_START);
    ram_loader_put_list(in->loader, f);
    qemu_stream_put_footer(qs, f);
    qemu_stream_put_commands(qs, f);
    qemu_stream_put_ram(qs, f, QEMU_VM_SECTION_END);
    ram_loader_put_foreign(in->loader, NULL, f);
    qemu_put_be64(f, RAM_SAVE_FLAG_EOS);
    qemu_stream_put_footer(qs, f);
    qemu_stream_put_rest(qs, f);
}

static bool load_devices(Incoming *in, GError **errp)
{
    Emulator *emu = in->m->cfg.emu;
    int fd = emu_load_devices_begin(emu, errp);
    QEMUFile *f;

    if (fd < 0) {
        return false;
    }
    f = qemu_file_new_fd(fd, "QEMU", errp);
    if (!f) {
        return false;
    }
    put_stream(in, f);
    /* If QEMU did not like it, its own words are better than "broken pipe". */
    qemu_file_close(f, NULL);
    return emu_load_devices_end(emu, errp);
}

/* A stream cut short must be known before the images are opened: the source
 * will want them back. */
static bool is_whole(Incoming *in, QEMUFile *f, GError **errp)
{
    bool described;

    if (!emu_vm_describes_state(in->m->cfg.emu, &described, errp)) {
        return false;
    }
    if (!qemu_stream_whole(&in->stream, described)) {
        error_set(errp, "%s: the stream ends at byte %" G_GUINT64_FORMAT " in "
                  "the middle of the device state", qemu_file_name(f),
                  qemu_file_position(f));
        return false;
    }
    return true;
}

static bool receive(Incoming *in, GError **errp)
{
    MigrationManager *m = in->m;
    QEMUFile *f = migration_channel_open(m->channel, true, errp);

    if (!f || !qemu_stream_read(f, &in->stream, &handler, in, errp) ||
        !is_whole(in, f, errp)) {
        return false;
    }
    pthread_mutex_lock(&m->lock);
    m->transferred = qemu_file_position(f);
    pthread_mutex_unlock(&m->lock);
    migration_set_status(m, MIGRATION_STATUS_DEVICE);
    return migration_channel_close(m->channel, false, errp);
}

/* All of the guest is here, stopped: QEMU 7.2 takes `stop' before it loads as "do not
 * run what comes". */
static bool take_over(Incoming *in, GError **errp)
{
    MigrationManager *m = in->m;

    return return_path_still_wanted(migration_channel_back(m->channel), errp) &&
        emu_activate_drives(m->cfg.cl, m->cfg.block, errp) &&
        emu_vm_stop(m->cfg.emu, false, errp) &&
        load_devices(in, errp);
}

/* It is ours: it runs if it ran at the source and nobody wants it stopped. */
static bool let_run(Incoming *in, GError **errp)
{
    MigrationManager *m = in->m;
    bool run, ok = true;

    pthread_mutex_lock(&m->run_lock);
    migration_expect(m, false);
    pthread_mutex_lock(&m->lock);
    run = m->autostart;
    pthread_mutex_unlock(&m->lock);
    if (run && qemu_stream_runs(&in->stream)) {
        ok = emu_vm_cont(m->cfg.emu, false, errp);
    }
    pthread_mutex_unlock(&m->run_lock);
    return ok;
}

static ReturnPathVerdict receive_all(Incoming *in, GError **errp)
{
    MigrationManager *m = in->m;
    ReturnPath *back;
    ReturnPathVerdict v;

    if (!receive(in, errp)) {
        return RETURN_PATH_NO;
    }
    back = migration_channel_back(m->channel);
    v = take_over(in, errp) ? return_path_accept(back, errp) : RETURN_PATH_NO;
    if (v == RETURN_PATH_NO) {
        /* the source will want them back as soon as it knows */
        emu_inactivate_drives(m->cfg.block, NULL);
    }
    return v == RETURN_PATH_YES && !let_run(in, errp) ? RETURN_PATH_NO : v;
}

/* ---- the thread --------------------------------------------------------------------- */

static gboolean report(gpointer data)
{
    Incoming *in = data;

    if (in->verdict == RETURN_PATH_UNKNOWN) {
        g_printerr("qemu-sidecar: incoming migration: %s\n", in->error->message);
    }
    in->done(in->opaque, in->verdict == RETURN_PATH_NO ? in->error : NULL);
    g_clear_error(&in->error);
    g_free(in);
    return G_SOURCE_REMOVE;
}

static void *incoming_thread(void *opaque)
{
    Incoming *in = opaque;
    MigrationManager *m = in->m;
    GError *error = NULL;

    qemu_stream_init(&in->stream);
    in->verdict = receive_all(in, &error);
    if (in->verdict == RETURN_PATH_NO) {
        return_path_refuse(migration_channel_back(m->channel), error->message);
        migration_channel_close(m->channel, true, NULL);
    }
    in->error = error ? g_error_copy(error) : NULL;
    migration_expect(m, false);
    qemu_stream_clear(&in->stream);
    ram_loader_free(in->loader);
    block_loader_free(in->drives);
    g_idle_add(report, in);
    migration_ended(m, error);
    return NULL;
}

bool migration_incoming(MigrationManager *m, const char *uri, int fd,
                        MigrationIncomingFn *done, void *opaque, GError **errp)
{
    MigrationChannel *ch = migration_channel_new(uri, fd, errp);
    Incoming *in;

    if (!ch) {
        return false;
    }
    if (!migration_possible(m, errp) || !migration_channel_listen(ch, errp)) {
        migration_channel_unref(ch);
        return false;
    }
    migration_expect(m, true);
    in = g_new0(Incoming, 1);
    in->m = m;
    in->done = done;
    in->opaque = opaque;
    if (!migration_run(m, ch, true, incoming_thread, in, errp)) {
        migration_expect(m, false);
        g_free(in);
        return false;
    }
    return true;
}
