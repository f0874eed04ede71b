/*
 * The one instant: backups while guests write.
 *
 * Several threads write, discard and zero on several drives, each in an order
 * of its own, with the drive and the place chosen at random.  Each keeps a log;
 * a clock that counts says when each operation began and when it had ended.  An
 * archive is right when there is a time t such that in it are, for every
 * thread and all drives together, exactly the operations that
 *
 *     had ended before t, and perhaps some that had begun, in order, and
 *     none that began after t,
 *
 * and t lies within the call of backup_start.  The content of every unit (512
 * bytes) names the operation that wrote it, so both sides can be checked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "backup-double.h"

#include "util/error.h"

#include <stdatomic.h>
#include <string.h>

#define UNIT 512
#define N_DRIVES 3
#define N_GUESTS 4
#define INITIAL 1u        /* stamps: what was there before */
#define ZERO 0u           /* all zeros */
#define BAD UINT32_MAX

static const uint64_t drive_sizes[N_DRIVES] = {
    4 * 1048576, 3 * 1048576 + 777, 2 * 1048576 + 65536 + 512,
};

typedef struct {
    uint32_t began, ended;
    unsigned drive;
    uint32_t first, n;    /* units */
    uint32_t stamp;
} Op;

typedef struct {
    struct Load *load;
    unsigned index;
    GThread *thread;
    GRand *rand;
    GArray *log;          /* of Op; guarded by load->lock */
} Guest;

typedef struct Load {
    TestVm *vm;
    BlockBackend *drives[N_DRIVES];
    Guest guests[N_GUESTS];
    atomic_uint clock;
    atomic_uint stamp;
    atomic_bool stop;
    pthread_mutex_t lock;
} Load;

static uint32_t n_units(unsigned drive)
{
    return (drive_sizes[drive] + UNIT - 1) / UNIT;
}

static size_t unit_len(unsigned drive, uint32_t unit)
{
    return MIN(UNIT, drive_sizes[drive] - (uint64_t)unit * UNIT);
}

/* ---- content ------------------------------------------------------------------ */

static void fill_unit(uint8_t *buf, size_t len, unsigned drive, uint32_t unit,
                      uint32_t stamp)
{
    uint32_t words[UNIT / 4] = { 0 };

    if (stamp != ZERO) {
        words[0] = stamp;
        words[1] = unit;
        words[2] = drive + 100;
        for (unsigned i = 3; i < G_N_ELEMENTS(words); i++) {
            words[i] = (stamp * 2654435761u) ^ (unit * 40503u) ^ (i << 24) ^ drive;
        }
    }
    memcpy(buf, words, len);
}

static uint32_t stamp_of(const uint8_t *buf, unsigned drive, uint32_t unit)
{
    size_t len = unit_len(drive, unit);
    uint8_t expect[UNIT];
    uint32_t stamp;

    memcpy(&stamp, buf, 4);
    fill_unit(expect, len, drive, unit, stamp);
    return memcmp(buf, expect, len) == 0 ? stamp : BAD;
}

/* ---- guests --------------------------------------------------------------------- */

/*
 * Who owns which units, so that nobody overwrites another's: the first half of
 * each drive belongs to all guests but the last by turns of 4 KiB (their writes
 * meet in the same clusters all the time); the second half to the last one,
 * whose requests are large and begin anywhere.
 */
static unsigned owner_of(unsigned drive, uint32_t unit)
{
    return unit < n_units(drive) / 2 ? unit / 8 % (N_GUESTS - 1) : N_GUESTS - 1;
}

static void choose_place(Guest *g, Op *op)
{
    uint32_t units, half;

    op->drive = g_rand_int_range(g->rand, 0, N_DRIVES);
    units = n_units(op->drive);
    half = units / 2;
    if (g->index == N_GUESTS - 1) {
        op->first = g_rand_int_range(g->rand, half, units);
        op->n = g_rand_int_range(g->rand, 1, 600);
        op->n = MIN(op->n, units - op->first);
    } else {
        do {
            op->first = g_rand_int_range(g->rand, 0, half);
        } while (owner_of(op->drive, op->first) != g->index);
        op->n = g_rand_int_range(g->rand, 1, 9 - op->first % 8);
        op->n = MIN(op->n, half - op->first);
    }
}

static int do_write(Guest *g, const Op *op, int64_t offset, int64_t len)
{
    g_autofree uint8_t *buf = g_malloc(op->n * UNIT);

    for (uint32_t i = 0; i < op->n; i++) {
        fill_unit(buf + i * UNIT, unit_len(op->drive, op->first + i), op->drive,
                  op->first + i, op->stamp);
    }
    return blk_pwrite(g->load->drives[op->drive], offset, len, buf, 0);
}

static void do_op(Guest *g)
{
    Load *l = g->load;
    int64_t offset, len;
    int kind = g_rand_int_range(g->rand, 0, 10);
    Op op = { 0 };
    int ret;

    choose_place(g, &op);
    offset = (int64_t)op.first * UNIT;
    len = MIN(drive_sizes[op.drive] - offset, (uint64_t)op.n * UNIT);
    op.stamp = kind < 8 ? atomic_fetch_add(&l->stamp, 1) : ZERO;
    op.began = atomic_fetch_add(&l->clock, 1);
    if (kind < 8) {
        ret = do_write(g, &op, offset, len);
    } else if (kind == 8) {
        ret = blk_pwrite_zeroes(l->drives[op.drive], offset, len, BDRV_REQ_MAY_UNMAP);
    } else {
        ret = blk_pdiscard(l->drives[op.drive], offset, len);
    }
    op.ended = atomic_fetch_add(&l->clock, 1);
    g_assert_cmpint(ret, ==, 0);
    pthread_mutex_lock(&l->lock);
    g_array_append_val(g->log, op);
    pthread_mutex_unlock(&l->lock);
}

static gpointer guest_thread(gpointer opaque)
{
    Guest *g = opaque;

    while (!atomic_load(&g->load->stop)) {
        do_op(g);
    }
    return NULL;
}

static uint32_t n_ops(Load *l, unsigned guest)
{
    uint32_t n;

    pthread_mutex_lock(&l->lock);
    n = l->guests[guest].log->len;
    pthread_mutex_unlock(&l->lock);
    return n;
}

/* Until every guest has done @n operations more. */
static void let_run(Load *l, uint32_t n)
{
    for (unsigned i = 0; i < N_GUESTS; i++) {
        uint32_t until = n_ops(l, i) + n;

        while (n_ops(l, i) < until) {
            g_usleep(200);
        }
    }
}

/* All units have content but a stretch of each drive, which is a hole. */
static uint32_t initial_stamp(unsigned drive, uint32_t unit)
{
    return unit / 128 % 5 == 2 ? ZERO : INITIAL;
}

static void fill_drive(BlockBackend *blk, unsigned drive)
{
    for (uint32_t u = 0; u < n_units(drive); u++) {
        uint8_t buf[UNIT];

        if (initial_stamp(drive, u) != ZERO) {
            fill_unit(buf, unit_len(drive, u), drive, u, INITIAL);
            g_assert_cmpint(blk_pwrite(blk, (int64_t)u * UNIT, unit_len(drive, u), buf, 0), ==, 0);
        }
    }
}

static Load *load_new(int flags)
{
    Load *l = g_new0(Load, 1);

    l->vm = test_vm_new(false);
    l->vm->flags |= flags;
    pthread_mutex_init(&l->lock, NULL);
    l->clock = 1;
    l->stamp = INITIAL + 1;
    for (unsigned i = 0; i < N_DRIVES; i++) {
        g_autofree char *name = g_strdup_printf("d%u", i);

        l->drives[i] = test_vm_add(l->vm, name, drive_sizes[i], NULL);
        fill_drive(l->drives[i], i);
    }
    for (unsigned i = 0; i < N_GUESTS; i++) {
        l->guests[i] = (Guest){ .load = l, .index = i,
                                .rand = g_rand_new_with_seed(g_test_rand_int()),
                                .log = g_array_new(FALSE, FALSE, sizeof(Op)) };
        l->guests[i].thread = g_thread_new("guest", guest_thread, &l->guests[i]);
    }
    return l;
}

static void load_stop(Load *l)
{
    atomic_store(&l->stop, true);
    for (unsigned i = 0; i < N_GUESTS; i++) {
        if (l->guests[i].thread) {
            g_thread_join(g_steal_pointer(&l->guests[i].thread));
        }
    }
}

static void load_free(Load *l)
{
    load_stop(l);
    for (unsigned i = 0; i < N_GUESTS; i++) {
        g_rand_free(l->guests[i].rand);
        g_array_unref(l->guests[i].log);
    }
    pthread_mutex_destroy(&l->lock);
    test_vm_free(l->vm);
    g_free(l);
}

/* ---- the proof ------------------------------------------------------------------- */

typedef struct {
    uint32_t *stamps[N_DRIVES];
} Picture;

static void picture_clear(Picture *p)
{
    for (unsigned d = 0; d < N_DRIVES; d++) {
        g_free(p->stamps[d]);
    }
}

static void picture_take(Picture *p, unsigned drive, const uint8_t *data)
{
    p->stamps[drive] = g_new(uint32_t, n_units(drive));
    for (uint32_t u = 0; u < n_units(drive); u++) {
        p->stamps[drive][u] = stamp_of(data + (size_t)u * UNIT, drive, u);
        g_assert_cmpuint(p->stamps[drive][u], !=, BAD);
    }
}

static void picture_initial(Picture *p)
{
    for (unsigned d = 0; d < N_DRIVES; d++) {
        p->stamps[d] = g_new(uint32_t, n_units(d));
        for (uint32_t u = 0; u < n_units(d); u++) {
            p->stamps[d][u] = initial_stamp(d, u);
        }
    }
}

typedef struct {
    uint32_t after, before; /* the instant t: after < t < before */
} Span;

/*
 * All times at which @p can have been taken as far as @g can tell: its
 * operations are played one by one on a model, and whenever the model is as
 * the picture, the instant can be between the beginning of the last operation
 * and the end of the next.
 */
static GArray *possible_times(const Guest *g, const Picture *p)
{
    GArray *spans = g_array_new(FALSE, FALSE, sizeof(Span));
    Picture model;
    uint64_t differ = 0;
    uint32_t last = 0;

    picture_initial(&model);
    for (unsigned d = 0; d < N_DRIVES; d++) {
        for (uint32_t u = 0; u < n_units(d); u++) {
            differ += owner_of(d, u) == g->index && model.stamps[d][u] != p->stamps[d][u];
        }
    }
    for (unsigned i = 0; i <= g->log->len; i++) {
        const Op *next = i < g->log->len ? &g_array_index(g->log, Op, i) : NULL;

        if (!differ) {
            Span s = { last, next ? next->ended : UINT32_MAX };

            g_array_append_val(spans, s);
        }
        for (uint32_t u = 0; next && u < next->n; u++) {
            uint32_t *m = &model.stamps[next->drive][next->first + u];
            uint32_t want = p->stamps[next->drive][next->first + u];

            differ -= *m != want;
            *m = next->stamp;
            differ += *m != want;
        }
        last = next ? next->began : last;
    }
    picture_clear(&model);
    return spans;
}

static bool allows(const GArray *spans, uint32_t t)
{
    for (unsigned i = 0; i < spans->len; i++) {
        const Span *s = &g_array_index(spans, Span, i);

        if (s->after < t && t <= s->before) {
            return true;
        }
    }
    return false;
}

/* There is a time in (@from, @to] that suits all guests. */
static void assert_one_instant(Load *l, const Picture *p, uint32_t from, uint32_t to)
{
    GArray *spans[N_GUESTS];
    bool found = false;

    pthread_mutex_lock(&l->lock);
    for (unsigned i = 0; i < N_GUESTS; i++) {
        spans[i] = possible_times(&l->guests[i], p);
        g_assert_cmpuint(spans[i]->len, >, 0);
    }
    pthread_mutex_unlock(&l->lock);
    for (uint32_t t = from + 1; t <= to && !found; t++) {
        found = true;
        for (unsigned i = 0; i < N_GUESTS && found; i++) {
            found = allows(spans[i], t);
        }
    }
    g_assert_true(found);
    for (unsigned i = 0; i < N_GUESTS; i++) {
        g_array_unref(spans[i]);
    }
}

static void assert_archive_is_right(Load *l, uint32_t from, uint32_t to)
{
    Picture p;

    mem_assert_exactly_once();
    for (unsigned d = 0; d < N_DRIVES; d++) {
        picture_take(&p, d, mem.streams[d].data);
    }
    assert_one_instant(l, &p, from, to);
    picture_clear(&p);
}

/* The drives hold what the guests wrote, to the last operation. */
static void assert_drives_are_right(Load *l)
{
    uint32_t now = atomic_load(&l->clock);
    Picture p;

    for (unsigned d = 0; d < N_DRIVES; d++) {
        g_autofree uint8_t *data = test_read_all(l->drives[d]);

        picture_take(&p, d, data);
    }
    assert_one_instant(l, &p, now - 1, now);
    picture_clear(&p);
}

/* ---- tests -------------------------------------------------------------------------- */

typedef struct {
    int64_t speed;
    uint64_t buffer_size;
    int64_t spill_limit;
    unsigned dump_delay_us;
    unsigned rounds;
    bool must_spill;
    int flags;            /* of the drives, in addition */
} Config;

static BackupStatus backup_once(Load *l, const Config *c)
{
    BackupRequest req = test_request();
    g_autoptr(GError) err = NULL;
    g_autofree char *uuid = NULL;
    uint32_t from, to;
    BackupStatus st;

    mem_reset();
    mem.dump_delay_us = c->dump_delay_us;
    req.speed = c->speed;
    req.buffer_size = c->buffer_size;
    req.spill_limit = c->spill_limit;
    req.spill_dir = l->vm->dir;
    req.stall_ms = 100000;
    from = atomic_load(&l->clock) - 1;
    uuid = backup_start(l->vm->mgr, &req, &err);
    to = atomic_load(&l->clock);
    g_assert_no_error(err);
    st = test_wait_end(l->vm->mgr);
    g_assert_cmpstr(st.errmsg, ==, NULL);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_DONE);
    g_assert_cmpuint(st.transferred, ==, st.total);
    let_run(l, 1); /* the log of what was under way is complete then */
    assert_archive_is_right(l, from, to);
    return st;
}

static void test_instant(const void *opaque)
{
    const Config *c = opaque;
    Load *l = load_new(c->flags);
    uint64_t copied = 0, spilled = 0;

    for (unsigned i = 0; i < c->rounds; i++) {
        BackupStatus st;

        let_run(l, 20);
        st = backup_once(l, c);
        copied += st.guest_copied;
        spilled += st.spilled;
        if (c->buffer_size) {
            g_assert_cmpuint(st.memory, <=, c->buffer_size);
        }
        backup_status_clear(&st);
    }
    g_assert_cmpuint(copied, >, 0);
    g_assert_cmpint(spilled > 0, ==, c->must_spill);
    load_stop(l);
    assert_drives_are_right(l);
    g_test_message("%u operations, %" G_GUINT64_FORMAT " KiB copied, %" G_GUINT64_FORMAT " KiB spilled",
                   atomic_load(&l->stamp), copied >> 10, spilled >> 10);
    load_free(l);
}

/* Cancelled and started again, a hundred times, at whatever moment. */
static void test_cancel_and_restart(void)
{
    Load *l = load_new(0);
    BackupRequest req = test_request();
    BackupStatus st;

    let_run(l, 20);
    for (unsigned i = 0; i < 100; i++) {
        g_autofree char *uuid = NULL;

        mem_reset();
        mem.dump_delay_us = 20;
        req.buffer_size = i % 2 ? 0 : 1048576;
        req.spill_dir = l->vm->dir;
        uuid = backup_start(l->vm->mgr, &req, NULL);
        g_assert_nonnull(uuid);
        g_usleep(g_test_rand_int_range(0, 10000));
        backup_cancel(l->vm->mgr);
        g_assert_cmpuint(mem.n_close, ==, 1);
        backup_query(l->vm->mgr, &st);
        g_assert_cmpstr(st.errmsg, ==, NULL);
        g_assert_cmpint(st.status, ==, mem.n_complete ? BACKUP_STATUS_DONE
                                                      : BACKUP_STATUS_CANCELLED);
        backup_status_clear(&st);
    }
    st = backup_once(l, &(Config){ 0 });
    backup_status_clear(&st);
    load_stop(l);
    assert_drives_are_right(l);
    load_free(l);
}

int main(int argc, char **argv)
{
    static const Config full_speed = { .rounds = 20 };
    static const Config limited = { .speed = 20 << 20, .rounds = 2 };
    static const Config slow_archive = { .dump_delay_us = 1500, .buffer_size = 1 << 20,
                                         .rounds = 4, .must_spill = true };
    static const Config slow_no_spill = { .dump_delay_us = 1500, .buffer_size = 1 << 20,
                                          .spill_limit = -1, .rounds = 2 };

    static const Config native = { .rounds = 6, .flags = BDRV_O_NOCACHE | BDRV_O_NATIVE_AIO };

    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/backup/instant/native-aio", &native, test_instant);
    g_test_add_data_func("/backup/instant/full-speed", &full_speed, test_instant);
    g_test_add_data_func("/backup/instant/limited-speed", &limited, test_instant);
    g_test_add_data_func("/backup/instant/slow-archive", &slow_archive, test_instant);
    g_test_add_data_func("/backup/instant/slow-archive-no-spill", &slow_no_spill, test_instant);
    g_test_add_func("/backup/cancel-and-restart", test_cancel_and_restart);
    return g_test_run();
}
