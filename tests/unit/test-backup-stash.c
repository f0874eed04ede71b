/*
 * Where old blocks are kept, who waits for room, and who is woken.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../backup/stash.h"

#include "util/error.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>

#define BLOCK BACKUP_BLOCK_SIZE
#define N 64 /* blocks of memory */

static BackupStash *new_stash(int64_t spill_limit, unsigned stall_ms)
{
    g_autoptr(GError) err = NULL;
    BackupStash *s = backup_stash_new(N * BLOCK, NULL, spill_limit, stall_ms, &err);

    g_assert_no_error(err);
    return s;
}

static void fill(uint8_t *buf, unsigned i)
{
    memset(buf, (int)(i * 7 + 1), BLOCK);
    memcpy(buf, &i, sizeof(i));
}

static BackupBlockRef put(BackupStash *s, unsigned i)
{
    g_autoptr(GError) err = NULL;
    uint8_t buf[BLOCK];
    BackupBlockRef ref;

    fill(buf, i);
    backup_stash_put(s, buf, &ref, &err);
    g_assert_no_error(err);
    return ref;
}

static void take(BackupStash *s, BackupBlockRef ref, unsigned i)
{
    uint8_t buf[BLOCK], expect[BLOCK];
    g_autoptr(GError) err = NULL;

    fill(expect, i);
    backup_stash_take(s, ref, buf, &err);
    g_assert_no_error(err);
    g_assert_cmpint(memcmp(buf, expect, BLOCK), ==, 0);
}

/* Memory first, then the file; what comes out is what went in; both are used
 * again, and no more than needed. */
static void test_memory_and_file(void)
{
    BackupStash *s = new_stash(N * BLOCK, 60000);
    BackupBlockRef refs[2 * N];
    BackupStashStats st;

    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 2 * N; i++) {
            refs[i] = put(s, i + round);
            backup_stash_get_stats(s, &st);
            g_assert_cmpuint(st.spilled, ==, round * N * BLOCK + (i < N ? 0 : i + 1 - N) * BLOCK);
        }
        g_assert_cmpuint(st.memory, ==, N * BLOCK);
        for (unsigned i = 0; i < 2 * N; i++) {
            unsigned j = (i * 37 + round) % (2 * N);

            if (j % 3) {
                take(s, refs[j], j + round);
            } else {
                backup_stash_drop(s, refs[j]);
            }
        }
    }
    backup_stash_free(s);
}

static void test_pressure(void)
{
    BackupStash *s = new_stash(-1, 60000);
    BackupBlockRef refs[N];

    for (unsigned i = 0; i <= N / 2; i++) {
        g_assert_false(backup_stash_pressure(s));
        refs[i] = put(s, i);
    }
    g_assert_true(backup_stash_pressure(s));
    backup_stash_wait_pressure(s, INT64_C(3600) * 1000000000); /* does not */
    take(s, refs[3], 3);
    g_assert_false(backup_stash_pressure(s));
    backup_stash_wait_pressure(s, 1000000);
    backup_stash_free(s);
}

static gpointer press(gpointer s)
{
    for (unsigned i = 0; i < N; i++) {
        put(s, i);
    }
    return NULL;
}

static void test_pressure_wakes(void)
{
    BackupStash *s = new_stash(-1, 60000);
    GThread *thread = g_thread_new("press", press, s);

    backup_stash_wait_pressure(s, INT64_C(3600) * 1000000000);
    g_thread_join(thread);
    backup_stash_free(s);
}

/* ---- waiting -------------------------------------------------------------- */

#define N_WAITERS 4

typedef struct {
    BackupStash *s;
    atomic_uint n_started, n_served;
    unsigned n_errors, n_stopped; /* after they were joined */
    GThread *threads[N_WAITERS];
} Waiters;

/* 0: got room; 1: an error; 2: stopped. */
static gpointer waiter(gpointer opaque)
{
    Waiters *ws = opaque;
    uint8_t buf[BLOCK] = { 0 };
    BackupBlockRef ref;
    GError *err = NULL;

    atomic_fetch_add(&ws->n_started, 1);
    if (backup_stash_put(ws->s, buf, &ref, &err)) {
        atomic_fetch_add(&ws->n_served, 1);
        return NULL;
    }
    if (err) {
        g_error_free(err);
        return (gpointer)1;
    }
    return (gpointer)2;
}

static void start_waiters(Waiters *ws, BackupStash *s)
{
    ws->s = s;
    for (unsigned i = 0; i < N_WAITERS; i++) {
        ws->threads[i] = g_thread_new("waiter", waiter, ws);
    }
    while (atomic_load(&ws->n_started) < N_WAITERS) {
        g_usleep(100);
    }
    g_usleep(2000); /* so that they do wait; if not, the test only shows less */
}

static void join_waiters(Waiters *ws)
{
    for (unsigned i = 0; i < N_WAITERS; i++) {
        uintptr_t how = (uintptr_t)g_thread_join(ws->threads[i]);

        ws->n_errors += how == 1;
        ws->n_stopped += how == 2;
    }
}

static void test_each_block_serves_one(void)
{
    BackupStash *s = new_stash(-1, 60000);
    BackupBlockRef refs[N];
    Waiters ws = { 0 };

    for (unsigned i = 0; i < N; i++) {
        refs[i] = put(s, i);
    }
    start_waiters(&ws, s);
    for (unsigned i = 0; i < N_WAITERS; i++) {
        g_assert_cmpuint(atomic_load(&ws.n_served), ==, i);
        take(s, refs[i], i);
        while (atomic_load(&ws.n_served) <= i) {
            g_usleep(100);
        }
    }
    join_waiters(&ws);
    g_assert_cmpuint(ws.n_served, ==, N_WAITERS);
    backup_stash_free(s);
}

static void test_stop_wakes_everybody(void)
{
    BackupStash *s = new_stash(-1, 1000000000);
    Waiters ws = { 0 };

    for (unsigned i = 0; i < N; i++) {
        put(s, i);
    }
    start_waiters(&ws, s);
    backup_stash_stop(s);
    join_waiters(&ws);
    g_assert_cmpuint(ws.n_stopped, ==, N_WAITERS);
    backup_stash_free(s);

    s = new_stash(-1, 60000);
    backup_stash_stop(s);
    backup_stash_wait_pressure(s, INT64_C(3600) * 1000000000);
    backup_stash_free(s);
}

static void test_waits_end(void)
{
    BackupStash *s = new_stash(-1, 10);
    Waiters ws = { 0 };

    for (unsigned i = 0; i < N; i++) {
        put(s, i);
    }
    start_waiters(&ws, s);
    join_waiters(&ws);
    g_assert_cmpuint(ws.n_errors, ==, N_WAITERS);
    backup_stash_free(s);
}

/* The disk below the file gets full: what was there before can still be
 * fetched, and whoever came when it happened waits for memory. */
static void test_disk_full(void)
{
    BackupStash *s = new_stash(1000 * BLOCK, 1000000);
    BackupBlockRef refs[N + 10];
    struct rlimit old, small;
    BackupStashStats st;
    Waiters ws = { 0 };

    for (unsigned i = 0; i < N + 10; i++) {
        refs[i] = put(s, i);
    }
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 10 * BLOCK + 100; /* the next slot ends beyond it */
    setrlimit(RLIMIT_FSIZE, &small);
    start_waiters(&ws, s);
    for (unsigned i = 0; i < N_WAITERS; i++) {
        take(s, refs[i], i);
    }
    join_waiters(&ws);
    setrlimit(RLIMIT_FSIZE, &old);
    g_assert_cmpuint(ws.n_served, ==, N_WAITERS);
    for (unsigned i = N_WAITERS; i < N + 10; i++) {
        take(s, refs[i], i);
    }
    backup_stash_get_stats(s, &st);
    g_assert_cmpuint(st.spilled, ==, 10 * BLOCK);
    backup_stash_free(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backup/stash/memory-and-file", test_memory_and_file);
    g_test_add_func("/backup/stash/pressure", test_pressure);
    g_test_add_func("/backup/stash/pressure-wakes", test_pressure_wakes);
    g_test_add_func("/backup/stash/each-block-serves-one", test_each_block_serves_one);
    g_test_add_func("/backup/stash/stop-wakes-everybody", test_stop_wakes_everybody);
    g_test_add_func("/backup/stash/waits-end", test_waits_end);
    g_test_add_func("/backup/stash/disk-full", test_disk_full);
    return g_test_run();
}
