/*
 * Who gets memory for old data, who waits, and who is woken.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../backup/queue.h"

#include "util/error.h"

#include <stdatomic.h>
#include <string.h>

#define CLUSTER BACKUP_CLUSTER_SIZE
#define N_BUFFERS 64 /* of which 8 are kept to reach the spill file, and the sweep has 16 */
#define N_BOUNCE 8
#define N_SWEEP 16

static BackupQueue *new_queue(int64_t spill_limit)
{
    g_autoptr(GError) err = NULL;
    BackupQueue *q = backup_queue_new(2, N_BUFFERS * CLUSTER, NULL, spill_limit, 60000, &err);

    g_assert_no_error(err);
    return q;
}

/* As a guest's write does: cluster @c, full of its number. */
static void guest_pushes(BackupQueue *q, uint64_t c, bool spilled)
{
    g_autoptr(GError) err = NULL;
    BackupRoom room;

    g_assert_true(backup_queue_get_guest(q, &room, &err));
    g_assert_cmpint(room.slot >= 0, ==, spilled);
    memset(room.buf, (int)c, CLUSTER);
    backup_queue_push_guest(q, 0, c, &room);
}

/* As the writer does; the number of the cluster. */
static uint64_t writer_takes(BackupQueue *q)
{
    BackupItem item;
    uint8_t expect[64];

    g_assert_cmpint(backup_queue_pop(q, &item, true, NULL), ==, BACKUP_POP_ITEM);
    g_assert_cmpint(item.kind, !=, BACKUP_ITEM_HOLES);
    memset(expect, (int)item.cluster, sizeof(expect));
    g_assert_cmpint(memcmp(item.buf, expect, sizeof(expect)), ==, 0);
    g_assert_cmpint(memcmp((char *)item.buf + CLUSTER - 64, expect, sizeof(expect)), ==, 0);
    backup_queue_done(q, &item);
    return item.cluster;
}

static void test_sweep_has_a_small_share(void)
{
    BackupQueue *q = new_queue(-1);
    BackupQueueStats st;

    for (unsigned i = 0; i < N_SWEEP; i++) {
        void *buf = backup_queue_get_sweep(q);

        g_assert_nonnull(buf);
        memset(buf, (int)i, CLUSTER);
        backup_queue_push(q, 0, i, buf);
    }
    g_assert_null(backup_queue_get_sweep(q));
    for (unsigned i = N_SWEEP; i < N_BUFFERS; i++) { /* guests have all the rest */
        guest_pushes(q, i, false);
    }
    backup_queue_get_stats(q, &st);
    g_assert_cmpuint(st.memory, ==, N_BUFFERS * CLUSTER);
    for (unsigned i = 0; i < N_BUFFERS; i++) {
        g_assert_cmpuint(writer_takes(q), ==, i);
    }
    backup_queue_put(q, backup_queue_get_sweep(q));
    backup_queue_free(q);
}

/* Full memory is spilled, comes back whole after what is in memory, and while
 * anything is spilled the sweep gets nothing. */
static void test_spill(void)
{
    BackupQueue *q = new_queue(1000 * CLUSTER);
    BackupQueueStats st;
    bool seen[200] = { false };

    for (unsigned i = 0; i < 200; i++) {
        guest_pushes(q, i, i >= N_BUFFERS - N_BOUNCE);
    }
    backup_queue_get_stats(q, &st);
    g_assert_cmpuint(st.spilled, ==, 200 - (N_BUFFERS - N_BOUNCE));
    for (unsigned i = 0; i < 200; i++) {
        uint64_t c = writer_takes(q);

        g_assert_false(seen[c]);
        seen[c] = true;
        if (i < N_BUFFERS - N_BOUNCE) {
            g_assert_cmpuint(c, ==, i);
        }
        if (i < 199) {
            g_assert_null(backup_queue_get_sweep(q));
        }
    }
    backup_queue_put(q, backup_queue_get_sweep(q));
    backup_queue_free(q);
}

static void test_unused_room_comes_back(void)
{
    BackupQueue *q = new_queue(1000 * CLUSTER);
    BackupRoom room;

    for (unsigned i = 0; i < 1000; i++) {
        g_assert_true(backup_queue_get_guest(q, &room, NULL));
        g_assert_cmpint(room.slot, ==, -1);
        backup_queue_put_guest(q, &room);
    }
    for (unsigned i = 0; i < N_BUFFERS - N_BOUNCE; i++) {
        guest_pushes(q, i, false);
    }
    for (unsigned i = 0; i < 2000; i++) { /* twice the limit of the file */
        g_assert_true(backup_queue_get_guest(q, &room, NULL));
        g_assert_cmpint(room.slot, >=, 0);
        backup_queue_put_guest(q, &room);
    }
    backup_queue_free(q);
}

/* ---- waiting -------------------------------------------------------------- */

typedef struct {
    BackupQueue *q;
    uint64_t cluster;
    atomic_uint *n_waiting, *n_served;
    bool got, error;
    GThread *thread;
} Waiter;

static gpointer waiter_thread(gpointer opaque)
{
    Waiter *w = opaque;
    GError *err = NULL;
    BackupRoom room;

    atomic_fetch_add(w->n_waiting, 1);
    w->got = backup_queue_get_guest(w->q, &room, &err);
    w->error = err != NULL;
    g_clear_error(&err);
    if (w->got) {
        atomic_fetch_add(w->n_served, 1);
        memset(room.buf, (int)w->cluster, CLUSTER);
        backup_queue_push_guest(w->q, 0, w->cluster, &room);
    }
    return NULL;
}

typedef struct {
    Waiter w[4];
    atomic_uint n_waiting, n_served;
} Waiters;

/* One after the other, each given time to get in line (too little time can
 * only make a test succeed that should fail). */
static void start_waiters(Waiters *ws, BackupQueue *q)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(ws->w); i++) {
        ws->w[i].q = q;
        ws->w[i].cluster = 100 + i;
        ws->w[i].n_waiting = &ws->n_waiting;
        ws->w[i].n_served = &ws->n_served;
        ws->w[i].thread = g_thread_new("waiter", waiter_thread, &ws->w[i]);
        while (atomic_load(&ws->n_waiting) <= i) {
            g_usleep(100);
        }
        g_usleep(2000);
    }
}

static void fill(BackupQueue *q)
{
    for (unsigned i = 0; i < N_BUFFERS; i++) {
        guest_pushes(q, i, false);
    }
}

static void test_each_free_buffer_serves_one(void)
{
    BackupQueue *q = new_queue(-1);
    Waiters ws = { 0 };

    fill(q);
    start_waiters(&ws, q);
    for (unsigned i = 1; i <= G_N_ELEMENTS(ws.w); i++) {
        g_assert_cmpuint(writer_takes(q), ==, i - 1);
        while (atomic_load(&ws.n_served) < i) {
            g_usleep(100);
        }
        g_assert_cmpuint(atomic_load(&ws.n_served), ==, i);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(ws.w); i++) {
        g_thread_join(ws.w[i].thread);
        g_assert_true(ws.w[i].got);
    }
    for (unsigned i = G_N_ELEMENTS(ws.w); i < N_BUFFERS; i++) {
        writer_takes(q);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(ws.w); i++) {
        g_assert_cmpuint(writer_takes(q), >=, 100);
    }
    backup_queue_free(q);
}

static void test_stop_wakes_everybody(void)
{
    BackupQueue *q = new_queue(-1);
    Waiters ws = { 0 };
    BackupItem item;

    fill(q);
    start_waiters(&ws, q);
    backup_queue_stop(q);
    for (unsigned i = 0; i < G_N_ELEMENTS(ws.w); i++) {
        g_thread_join(ws.w[i].thread);
        g_assert_false(ws.w[i].got);
        g_assert_false(ws.w[i].error);
    }
    g_assert_cmpint(backup_queue_pop(q, &item, true, NULL), ==, BACKUP_POP_END);
    g_assert_null(backup_queue_get_sweep(q));
    backup_queue_wait_sweep(q); /* does not */
    backup_queue_sleep(q, INT64_C(3600) * 1000000000);
    backup_queue_free(q);
}

static void test_stall(void)
{
    g_autoptr(GError) err = NULL;
    BackupQueue *q = backup_queue_new(1, N_BUFFERS * CLUSTER, NULL, -1, 10, &err);
    BackupRoom room;

    fill(q);
    g_assert_false(backup_queue_get_guest(q, &room, &err));
    g_assert_error(err, SIDECAR_ERROR, SIDECAR_ERROR_GENERIC);
    backup_queue_free(q);
}

static gpointer close_thread(gpointer q)
{
    backup_queue_push_holes(q, 1);
    backup_queue_close(q);
    return NULL;
}

static void test_close(void)
{
    BackupQueue *q = new_queue(-1);
    GThread *thread;
    BackupItem item;

    g_assert_cmpint(backup_queue_pop(q, &item, false, NULL), ==, BACKUP_POP_NONE);
    guest_pushes(q, 5, false);
    thread = g_thread_new("close", close_thread, q);
    g_assert_cmpuint(writer_takes(q), ==, 5);
    g_assert_cmpint(backup_queue_pop(q, &item, true, NULL), ==, BACKUP_POP_ITEM);
    g_assert_cmpint(item.kind, ==, BACKUP_ITEM_HOLES);
    g_assert_cmpuint(item.drive, ==, 1);
    backup_queue_done(q, &item);
    g_assert_cmpint(backup_queue_pop(q, &item, true, NULL), ==, BACKUP_POP_END);
    g_thread_join(thread);
    backup_queue_free(q);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backup/queue/sweep-has-a-small-share", test_sweep_has_a_small_share);
    g_test_add_func("/backup/queue/spill", test_spill);
    g_test_add_func("/backup/queue/unused-room-comes-back", test_unused_room_comes_back);
    g_test_add_func("/backup/queue/each-free-buffer-serves-one", test_each_free_buffer_serves_one);
    g_test_add_func("/backup/queue/stop-wakes-everybody", test_stop_wakes_everybody);
    g_test_add_func("/backup/queue/stall", test_stall);
    g_test_add_func("/backup/queue/close", test_close);
    return g_test_run();
}
