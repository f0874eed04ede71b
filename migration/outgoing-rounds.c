/*
 * The rounds of an outgoing migration: ask the dirty logs, send what they name at
 * the speed limit, until what is left could be the end.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "outgoing.h"

#include "emulator/drives.h"

#define WINDOW_US (100 * 1000) /* over which bandwidth is measured */
#define STALL_ROUNDS 4         /* that bring nothing before we say so */
#define EARLY 16               /* share of the pause for what a round left over */
#define SHORT_ROUNDS 10        /* when the end is near; see may_shrink */
#define FILL_ROUNDS 4          /* of them, for the cache alone */
#define FEW_PAGES 64           /* sent in less time than a round takes */
#define MOST_FLUSHES 4         /* a guest that writes to its drives must get there too */
#define QUICK_FLUSH_US 5000    /* in which a guest writes little */

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

static uint64_t drives_pending(const Outgoing *o)
{
    return o->drives ? block_saver_pending(o->drives) : 0;
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

static void start_measuring(Outgoing *o)
{
    o->window_start = g_get_monotonic_time();
    o->window_base = qemu_file_position(o->f);
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

/* Can short rounds get to all that is left?  One does, or a few that fill the cache. */
static bool is_short(Outgoing *o)
{
    MigrationManager *m = o->m;
    uint64_t slice;

    pthread_mutex_lock(&m->lock);
    slice = m->bandwidth * QEMU_FILE_SLICE_US / G_USEC_PER_SEC;
    pthread_mutex_unlock(&m->lock);
    return all_pending(o) <= slice * (o->params.xbzrle ? FILL_ROUNDS : 1);
}

/*
 * What is left fits.  Is it worth another round, because the pause would be
 * shorter still?  The first one is made if it can get to all of it; further ones while they bring
 * the number of pages down, and a few if they have not got to all pages and still
 * find many that are not in the XBZRLE cache: those are long, once.  In all of a
 * migration only some, so that a guest whose writes come and go does not keep us
 * here.
 */
static bool may_shrink(Outgoing *o)
{
    uint64_t before = o->left, misses = o->misses;
    RamStats st;
    bool fills;

    if (!is_short(o)) {
        return false;
    }
    ram_saver_stats(o->saver, &st);
    o->left = st.remaining;
    o->misses = st.cache_miss;
    fills = o->cut && o->short_rounds < FILL_ROUNDS &&
        st.cache_miss - misses > FEW_PAGES;
    return st.remaining > FEW_PAGES && o->short_rounds++ < SHORT_ROUNDS &&
        (o->short_rounds == 1 || fills || st.remaining < before - before / 4);
}

/*
 * The end is near: are the drives flushed?  So that it does not take long when the
 * guest is stopped, it is done before; but it may take seconds now, in which the
 * guest writes to its memory: then another round follows.  What fails fails again.
 */
static bool flushed(Outgoing *o)
{
    gint64 start = g_get_monotonic_time();

    if (!o->flushed && o->flushes < MOST_FLUSHES) {
        emu_flush_drives(o->m->cfg.block);
        o->flushes++;
    }
    o->flushed = true;
    return g_get_monotonic_time() - start < QUICK_FLUSH_US;
}

/* As much of what is left as may be sent at once. */
static bool send_short_round(Outgoing *o, GError **errp)
{
    return send_ram(o, &o->cut, errp) && pass_on(o, errp);
}

bool outgoing_foreign_ram(Outgoing *o, GError **errp)
{
    const QemuStream *qs = &o->first->stream;
    RamPosition pos = { 0 };
    bool more = true;

    start_measuring(o);
    while (more) {
        qemu_stream_put_ram(qs, o->f, QEMU_VM_SECTION_PART);
        more = ram_loader_put_foreign_part(o->first->foreign, &pos, o->f);
        qemu_put_be64(o->f, RAM_SAVE_FLAG_EOS);
        qemu_stream_put_footer(qs, o->f);
        if (!qemu_file_ok(o->f, errp) || !pass_on(o, errp)) {
            return false;
        }
        measure(o);
    }
    return true;
}

bool outgoing_rounds(Outgoing *o, GError **errp)
{
    start_measuring(o);
    for (;;) {
        bool enough;

        if (!ask_log(o, errp)) {
            return false;
        }
        enough = o->rounds++ && fits(o);
        if (enough && flushed(o) && !may_shrink(o)) {
            return true;
        }
        o->flushed &= enough;
        if (!enough && o->drives) {
            block_saver_next_pass(o->drives);
        }
        if (!(enough ? send_short_round(o, errp) : send_round(o, errp))) {
            return false;
        }
    }
}
