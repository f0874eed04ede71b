/*
 * Drives: the gate, the write hook, claims, counters, swapping nodes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "block-test.h"
#include "util/error.h"

#define DRIVES 3
#define WRITERS 4

typedef struct {
    char *dir;
    BlockContext *ctx;
    BlockBackend *blk[DRIVES];
} Fixture;

/* Drives of 64 KiB, zeroed; @prefix goes before their file names. */
static void set_up(Fixture *f, const char *prefix)
{
    f->dir = block_test_dir_new();
    f->ctx = block_context_new();
    for (unsigned i = 0; i < DRIVES; i++) {
        g_autofree char *name = g_strdup_printf("virtio%u", i);
        g_autofree char *path = block_test_path(f->dir, name);
        g_autofree char *full = g_strconcat(prefix, path, NULL);
        g_autoptr(BlockNode) bs = NULL;
        GError *err = NULL;

        g_assert_true(bdrv_create(path, "raw", 65536, NULL, NULL, &err));
        bs = block_test_open(full, "raw", BDRV_O_RDWR | BDRV_O_UNMAP);
        f->blk[i] = blk_new(f->ctx, name, bs, &err);
        g_assert_no_error(err);
    }
}

static void tear_down(Fixture *f)
{
    block_context_free(f->ctx);
    block_test_dir_remove(f->dir);
}

/* ---- names and media ------------------------------------------------- */

static void test_context(void)
{
    Fixture f;
    GError *err = NULL;
    GPtrArray *all;

    set_up(&f, "");
    g_assert_true(blk_by_name(f.ctx, "virtio1") == f.blk[1]);
    g_assert_null(blk_by_name(f.ctx, "virtio9"));
    g_assert_cmpstr(blk_name(f.blk[2]), ==, "virtio2");
    g_assert_null(blk_new(f.ctx, "virtio1", NULL, &err));
    g_assert_nonnull(strstr(err->message, "virtio1"));
    g_clear_error(&err);
    all = blk_all(f.ctx);
    g_assert_cmpint(all->len, ==, DRIVES);
    for (unsigned i = 0; i < DRIVES; i++) {
        g_assert_true(g_ptr_array_index(all, i) == f.blk[i]);
    }
    g_ptr_array_unref(all);
    g_assert_false(blk_is_removable(f.blk[0]));
    blk_set_removable(f.blk[0], true);
    g_assert_true(blk_is_removable(f.blk[0]));
    tear_down(&f);
}

static void test_empty(void)
{
    BlockContext *ctx = block_context_new();
    BlockBackend *blk = blk_new(ctx, "ide1-cd0", NULL, NULL);
    int64_t n;
    char c = 0;

    g_assert_null(blk_get_node(blk));
    g_assert_cmpint(blk_length(blk), ==, -ENOMEDIUM);
    g_assert_cmpint(blk_pread(blk, 0, 1, &c), ==, -ENOMEDIUM);
    g_assert_cmpint(blk_pwrite(blk, 0, 1, &c, 0), ==, -ENOMEDIUM);
    g_assert_cmpint(blk_pwrite_zeroes(blk, 0, 1, 0), ==, -ENOMEDIUM);
    g_assert_cmpint(blk_pdiscard(blk, 0, 1), ==, -ENOMEDIUM);
    g_assert_cmpint(blk_flush(blk), ==, -ENOMEDIUM);
    g_assert_cmpint(blk_block_status(blk, 0, 1, &n), ==, -ENOMEDIUM);
    block_context_free(ctx);
    block_context_free(NULL);
}

static void test_set_node(void)
{
    Fixture f;
    BlockNode *old, *other;
    char c = 0;

    set_up(&f, "");
    old = blk_get_node(f.blk[0]);
    other = blk_get_node(f.blk[1]);
    g_assert_cmpint(blk_length(f.blk[0]), ==, 65536);
    blk_drained_begin(f.blk, 1);
    blk_set_node(f.blk[0], NULL);
    blk_drained_end(f.blk, 1);
    g_assert_cmpint(blk_pread(f.blk[0], 0, 1, &c), ==, -ENOMEDIUM);
    blk_drained_begin(f.blk, 1);
    blk_set_node(f.blk[0], other);
    blk_drained_end(f.blk, 1);
    c = 'x';
    g_assert_cmpint(blk_pwrite(f.blk[0], 5, 1, &c, 0), ==, 0);
    c = 0;
    g_assert_cmpint(blk_pread(f.blk[1], 5, 1, &c), ==, 0);
    g_assert_cmpint(c, ==, 'x');
    bdrv_unref(old);
    bdrv_unref(other);
    tear_down(&f);
}

/* ---- claims, counters ------------------------------------------------ */

static void test_claims(void)
{
    Fixture f;
    GError *err = NULL;

    set_up(&f, "");
    g_assert_true(blk_claim(f.blk[0], "backup", &err));
    g_assert_true(blk_claim(f.blk[1], "stream", &err));
    g_assert_no_error(err);
    g_assert_false(blk_claim(f.blk[0], "stream", &err));
    g_assert_error(err, SIDECAR_ERROR, SIDECAR_ERROR_DEVICE_IN_USE);
    g_assert_nonnull(strstr(err->message, "virtio0"));
    g_assert_nonnull(strstr(err->message, "backup"));
    g_clear_error(&err);
    blk_release(f.blk[0]);
    g_assert_true(blk_claim(f.blk[0], "stream", &err));
    tear_down(&f);
}

static void test_stats(void)
{
    Fixture f;
    BlockAcctStats s;
    char buf[4096] = { 0 };

    set_up(&f, "fault:read#2=EIO,write#3=ENOSPC,flush=2ms:");
    blk_get_stats(f.blk[0], &s);
    g_assert_cmpint(s.rd_operations + s.wr_operations, ==, 0);
    g_assert_cmpint(blk_pread(f.blk[0], 0, 4096, buf), ==, 0);
    g_assert_cmpint(blk_pread(f.blk[0], 0, 4096, buf), ==, -EIO);
    g_assert_cmpint(blk_pwrite(f.blk[0], 0, 100, buf, 0), ==, 0);
    g_assert_cmpint(blk_pwrite(f.blk[0], 0, 200, buf, 0), ==, 0);
    g_assert_cmpint(blk_pwrite(f.blk[0], 0, 200, buf, 0), ==, -ENOSPC);
    g_assert_cmpint(blk_pwrite_zeroes(f.blk[0], 0, 50, 0), ==, 0);
    g_assert_cmpint(blk_pdiscard(f.blk[0], 0, 8192), ==, 0);
    g_assert_cmpint(blk_flush(f.blk[0]), ==, 0);
    blk_get_stats(f.blk[0], &s);
    g_assert_cmpint(s.rd_bytes, ==, 4096);
    g_assert_cmpint(s.rd_operations, ==, 1);
    g_assert_cmpint(s.failed_rd_operations, ==, 1);
    g_assert_cmpint(s.wr_bytes, ==, 350);
    g_assert_cmpint(s.wr_operations, ==, 3);
    g_assert_cmpint(s.failed_wr_operations, ==, 1);
    g_assert_cmpint(s.unmap_bytes, ==, 8192);
    g_assert_cmpint(s.unmap_operations, ==, 1);
    g_assert_cmpint(s.flush_operations, ==, 1);
    g_assert_cmpint(s.rd_total_time_ns, >, 0);
    g_assert_cmpint(s.wr_total_time_ns, >, 0);
    g_assert_cmpint(s.flush_total_time_ns, >=, 2000000);
    blk_get_stats(f.blk[1], &s);
    g_assert_cmpint(s.rd_operations + s.wr_operations, ==, 0);
    tear_down(&f);
}

/* ---- the gate -------------------------------------------------------- */

/*
 * Writers number their writes and put number n of writer w at place w of drive
 * n % DRIVES.  So the drives together say which numbers were written.
 */
typedef struct {
    Fixture *f;
    unsigned me;
    _Atomic uint64_t issued, answered;
    _Atomic bool *stop;
} Sequencer;

static void *write_sequence(void *opaque)
{
    Sequencer *s = opaque;

    for (uint64_t n = 1; !atomic_load(s->stop); n++) {
        atomic_store(&s->issued, n);
        g_assert_cmpint(blk_pwrite(s->f->blk[n % DRIVES], s->me * 512, sizeof(n),
                                   &n, 0), ==, 0);
        atomic_store(&s->answered, n);
    }
    return NULL;
}

/* What drive @i says of writer @w. */
static uint64_t number_on(Fixture *f, unsigned i, unsigned w)
{
    g_autoptr(BlockNode) bs = blk_get_node(f->blk[i]);
    uint64_t n;

    g_assert_cmpint(bdrv_pread(bs, w * 512, sizeof(n), &n), ==, 0);
    return n;
}

/* Drained: no gap, nothing of an answered write missing, nothing moves. */
static void check_cut(Fixture *f, Sequencer *s)
{
    uint64_t answered = atomic_load(&s->answered), issued, max = 0;

    for (unsigned i = 0; i < DRIVES; i++) {
        max = MAX(max, number_on(f, i, s->me));
    }
    issued = atomic_load(&s->issued);
    g_assert_cmpint(max, >=, answered);
    g_assert_cmpint(max, <=, issued);
    for (uint64_t n = max; n > 0 && n + DRIVES > max; n--) {
        g_assert_cmpint(number_on(f, n % DRIVES, s->me), ==, n);
    }
    sched_yield();
    for (uint64_t n = max; n > 0 && n + DRIVES > max; n--) {
        g_assert_cmpint(number_on(f, n % DRIVES, s->me), ==, n);
    }
}

static void wait_for_progress(Sequencer *s, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t before = atomic_load(&s[i].answered);

        while (atomic_load(&s[i].answered) == before) {
            sched_yield();
        }
    }
}

static uint64_t count_writes(Fixture *f)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < DRIVES; i++) {
        BlockAcctStats stats;

        blk_get_stats(f->blk[i], &stats);
        n += stats.wr_operations;
    }
    return n;
}

static _Atomic uint64_t hook_calls;

static void count_hook(void *opaque, int64_t offset, int64_t bytes)
{
    g_assert_cmpint(offset % 512, ==, 0);
    g_assert_cmpint(bytes, ==, 8);
    atomic_fetch_add((_Atomic uint64_t *)opaque, 1);
}

static const BlockWriteHook counter = { .before_write = count_hook };

/* Now and then from within another drain, as a nested one must work too. */
static void drain_once(Fixture *f, Sequencer *s, unsigned round,
                       uint64_t *writes_at_hook)
{
    bool nested = round % 3 == 0;

    if (nested) {
        blk_drained_begin(&f->blk[1], 1);
    }
    blk_drained_begin(f->blk, DRIVES);
    for (unsigned w = 0; w < WRITERS; w++) {
        check_cut(f, &s[w]);
    }
    if (round % 2 == 0) { /* the hook goes in */
        *writes_at_hook = count_writes(f);
        atomic_store(&hook_calls, 0);
    } else {
        g_assert_cmpint(atomic_load(&hook_calls), ==,
                        count_writes(f) - *writes_at_hook);
    }
    for (unsigned i = 0; i < DRIVES; i++) {
        blk_set_write_hook(f->blk[i], round % 2 == 0 ? &counter : NULL,
                           &hook_calls);
    }
    if (nested) {
        blk_drained_end(&f->blk[1], 1);
        g_assert_cmpint(number_on(f, 1, 0), <=, atomic_load(&s[0].issued));
    }
    blk_drained_end(f->blk, DRIVES);
}

static void run_drains(const char *prefix, unsigned rounds)
{
    Fixture f;
    Sequencer s[WRITERS];
    GThread *threads[WRITERS];
    _Atomic bool stop = false;
    uint64_t writes_at_hook = 0;

    set_up(&f, prefix);
    for (unsigned w = 0; w < WRITERS; w++) {
        s[w] = (Sequencer){ .f = &f, .me = w, .stop = &stop };
        threads[w] = g_thread_new("sequencer", write_sequence, &s[w]);
    }
    for (unsigned round = 0; round < rounds; round++) {
        wait_for_progress(s, WRITERS);
        drain_once(&f, s, round, &writes_at_hook);
    }
    atomic_store(&stop, true);
    for (unsigned w = 0; w < WRITERS; w++) {
        g_thread_join(threads[w]);
    }
    tear_down(&f);
}

static void test_drain(void)
{
    run_drains("", 300);
}

/* Slow writes: the drain comes while they are running. */
static void test_drain_slow(void)
{
    run_drains("fault:write=1ms:", 40);
}

/* Two who drain the same drives at once, in different orders. */
static void *drain_backwards(void *opaque)
{
    Sequencer *s = opaque;
    BlockBackend *blks[DRIVES];

    for (unsigned i = 0; i < DRIVES; i++) {
        blks[i] = s->f->blk[DRIVES - 1 - i];
    }
    while (!atomic_load(s->stop)) {
        blk_drained_begin(blks, DRIVES);
        check_cut(s->f, s);
        blk_drained_end(blks, DRIVES);
    }
    return NULL;
}

static void test_drain_crossed(void)
{
    Fixture f;
    _Atomic bool stop = false, stop_drains = false;
    Sequencer writer = { .f = &f, .me = 0, .stop = &stop };
    Sequencer drainer = { .f = &f, .me = 1, .stop = &stop_drains };
    GThread *threads[2];

    set_up(&f, "");
    threads[0] = g_thread_new("writer", write_sequence, &writer);
    threads[1] = g_thread_new("drainer", drain_backwards, &drainer);
    for (unsigned i = 0; i < 200; i++) {
        blk_drained_begin(f.blk, DRIVES);
        check_cut(&f, &writer);
        blk_drained_end(f.blk, DRIVES);
    }
    atomic_store(&stop_drains, true);
    g_thread_join(threads[1]);
    atomic_store(&stop, true);
    g_thread_join(threads[0]);
    tear_down(&f);
}

/* ---- the hook -------------------------------------------------------- */

typedef struct {
    int calls;
    int64_t offset, bytes;
} LastWrite;

static void remember(void *opaque, int64_t offset, int64_t bytes)
{
    LastWrite *l = opaque;

    l->calls++;
    l->offset = offset;
    l->bytes = bytes;
}

static const BlockWriteHook rememberer = { .before_write = remember };

static void set_hook(BlockBackend *blk, const BlockWriteHook *hook, void *opaque)
{
    blk_drained_begin(&blk, 1);
    blk_set_write_hook(blk, hook, opaque);
    blk_drained_end(&blk, 1);
}

/* Before all that changes the image, and before nothing else. */
static void test_hook(void)
{
    Fixture f;
    LastWrite l = { 0 };
    char buf[100] = { 0 };

    set_up(&f, "");
    set_hook(f.blk[0], &rememberer, &l);
    blk_pread(f.blk[0], 0, 100, buf);
    blk_flush(f.blk[0]);
    g_assert_cmpint(l.calls, ==, 0);
    g_assert_cmpint(blk_pwrite(f.blk[0], 10, 100, buf, 0), ==, 0);
    g_assert_cmpint(l.calls, ==, 1);
    g_assert_cmpint(l.offset, ==, 10);
    g_assert_cmpint(l.bytes, ==, 100);
    g_assert_cmpint(blk_pwrite_zeroes(f.blk[0], 11, 101, 0), ==, 0);
    g_assert_cmpint(l.calls, ==, 2);
    g_assert_cmpint(l.offset, ==, 11);
    g_assert_cmpint(l.bytes, ==, 101);
    g_assert_cmpint(blk_pdiscard(f.blk[0], 0, 65536), ==, 0);
    g_assert_cmpint(l.calls, ==, 3);
    g_assert_cmpint(l.bytes, ==, 65536);
    /* Refused: not a word to the hook. */
    blk_pwrite(f.blk[0], 65500, 100, buf, 0);
    blk_pwrite(f.blk[0], -1, 100, buf, 0);
    blk_pwrite(f.blk[0], INT64_MAX - 3, 100, buf, 0);
    blk_pwrite_zeroes(f.blk[0], 0, 65537, 0);
    blk_pwrite(f.blk[0], 0, 0, buf, 0);
    blk_pwrite(f.blk[0], 0, -5, buf, 0);
    g_assert_cmpint(l.calls, ==, 3);
    set_hook(f.blk[0], NULL, NULL);
    blk_pwrite(f.blk[0], 10, 100, buf, 0);
    g_assert_cmpint(l.calls, ==, 3);
    tear_down(&f);
}

/* A discard that is ignored (discard=ignore) changes nothing. */
static void test_hook_ignored_discard(void)
{
    char *dir = block_test_dir_new();
    g_autofree char *path = block_test_path(dir, "a.raw");
    BlockContext *ctx = block_context_new();
    g_autoptr(BlockNode) bs = NULL;
    BlockBackend *blk;
    LastWrite l = { 0 };
    char c = 0;

    block_test_file_new(path, 65536, 0);
    bs = block_test_open(path, "raw", BDRV_O_RDWR);
    blk = blk_new(ctx, "virtio0", bs, NULL);
    set_hook(blk, &rememberer, &l);
    g_assert_cmpint(blk_pread(blk, 65535, 1, &c), ==, 0);
    g_assert_cmpint(c, !=, 0);
    g_assert_cmpint(blk_pdiscard(blk, 0, 65536), ==, 0);
    g_assert_cmpint(l.calls, ==, 0);
    c = 0;
    g_assert_cmpint(blk_pread(blk, 65535, 1, &c), ==, 0);
    g_assert_cmpint(c, !=, 0);
    block_context_free(ctx);
    g_clear_pointer(&bs, bdrv_unref);
    block_test_dir_remove(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backend/context", test_context);
    g_test_add_func("/backend/empty", test_empty);
    g_test_add_func("/backend/set-node", test_set_node);
    g_test_add_func("/backend/claims", test_claims);
    g_test_add_func("/backend/stats", test_stats);
    g_test_add_func("/backend/drain/one-instant", test_drain);
    g_test_add_func("/backend/drain/slow-writes", test_drain_slow);
    g_test_add_func("/backend/drain/crossed", test_drain_crossed);
    g_test_add_func("/backend/hook", test_hook);
    g_test_add_func("/backend/hook/ignored-discard", test_hook_ignored_discard);
    return g_test_run();
}
