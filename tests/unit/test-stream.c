/*
 * Image streaming with writers beside it: nothing older may come over what they
 * wrote.  The backing file is slow, so that writes fall into the middle of
 * copying.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../block/block-int.h"

#include "block/job.h"
#include "util/error.h"

#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE (32 * 1024 * 1024)
#define BLOCK 4096
#define BLOCKS (SIZE / BLOCK)
#define WRITERS 3

typedef struct {
    char *dir, *base, *top;
    BlockContext *ctx;
    BlockBackend *blk;
    BlockJobSet *jobs;
    uint8_t *shadow;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned ended;          /* lock */
    BlockJobState state;     /* lock; of the last one */
    char *error;             /* lock */
    _Atomic bool stop;
    _Atomic unsigned done;   /* writes */
} Fixture;

static void on_ended(void *opaque, const BlockJobInfo *info)
{
    Fixture *f = opaque;

    pthread_mutex_lock(&f->lock);
    f->ended++;
    f->state = info->state;
    g_free(f->error);
    f->error = g_strdup(info->error);
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static BlockJobState wait_ended(Fixture *f, unsigned count)
{
    BlockJobState state;

    pthread_mutex_lock(&f->lock);
    while (f->ended < count) {
        pthread_cond_wait(&f->changed, &f->lock);
    }
    state = f->state;
    pthread_mutex_unlock(&f->lock);
    return state;
}

/* A raw base of random bytes, slow to read; an empty overlay over it. */
static void set_up(Fixture *f, gconstpointer rules)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(BlockNode) top = NULL;
    g_autofree char *slow = NULL;

    memset(f, 0, sizeof(*f));
    f->dir = g_dir_make_tmp("stream-XXXXXX", NULL);
    f->base = g_build_filename(f->dir, "base.raw", NULL);
    f->top = g_build_filename(f->dir, "top.qcow2", NULL);
    f->shadow = g_malloc(SIZE);
    for (size_t i = 0; i < SIZE; i += 4) {
        guint32 r = g_test_rand_int() | 0x01010101;

        memcpy(f->shadow + i, &r, 4);
    }
    g_file_set_contents(f->base, (char *)f->shadow, SIZE, &err);
    g_assert_no_error(err);
    g_assert_true(bdrv_create(f->top, "qcow2", SIZE, f->base, "raw", &err));
    top = bdrv_open(f->top, "qcow2", BDRV_O_RDWR | BDRV_O_NO_BACKING, &err);
    g_assert_no_error(err);
    slow = g_strdup_printf("fault:%s:%s", (const char *)rules, f->base);
    top->backing = bdrv_open(slow, "raw", 0, &err);
    g_assert_no_error(err);
    f->ctx = block_context_new();
    f->blk = blk_new(f->ctx, "disk", top, NULL);
    f->jobs = block_job_set_new(on_ended, f);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
}

static void tear_down(Fixture *f, gconstpointer rules)
{
    block_job_set_free(f->jobs);
    block_context_free(f->ctx);
    g_unlink(f->base);
    g_unlink(f->top);
    g_rmdir(f->dir);
    g_free(f->dir);
    g_free(f->base);
    g_free(f->top);
    g_free(f->shadow);
    g_free(f->error);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
}

typedef struct {
    Fixture *f;
    unsigned id;
    guint32 seed;
} Writer;

/* Each writer has blocks of its own, so the shadow needs no lock. */
static void *write_all(void *opaque)
{
    Writer *w = opaque;
    g_autoptr(GRand) r = g_rand_new_with_seed(w->seed);

    while (!w->f->stop) {
        unsigned nr = g_rand_int_range(r, 0, BLOCKS / WRITERS) * WRITERS + w->id;
        uint8_t *block = w->f->shadow + (size_t)nr * BLOCK;

        memset(block, g_rand_int(r) & 0xfe, BLOCK);
        g_assert_cmpint(blk_pwrite(w->f->blk, (int64_t)nr * BLOCK, BLOCK, block,
                                   0), ==, 0);
        w->f->done++;
    }
    return NULL;
}

static void assert_content(Fixture *f)
{
    g_autofree uint8_t *got = g_malloc(SIZE);

    g_assert_cmpint(blk_pread(f->blk, 0, SIZE, got), ==, 0);
    for (size_t i = 0; i < SIZE; i += BLOCK) {
        g_assert_cmpmem(got + i, BLOCK, f->shadow + i, BLOCK);
    }
}

static void run_writers(Fixture *f, Writer w[WRITERS], pthread_t t[WRITERS])
{
    for (unsigned i = 0; i < WRITERS; i++) {
        w[i] = (Writer) { f, i, g_test_rand_int() };
        g_assert_cmpint(pthread_create(&t[i], NULL, write_all, &w[i]), ==, 0);
    }
}

static void join_writers(Fixture *f, pthread_t t[WRITERS])
{
    f->stop = true;
    for (unsigned i = 0; i < WRITERS; i++) {
        pthread_join(t[i], NULL);
    }
}

static void test_writers(Fixture *f, gconstpointer rules)
{
    g_autoptr(GError) err = NULL;
    pthread_t t[WRITERS];
    Writer w[WRITERS];

    /* first the stream: what is written before it can't be overwritten by it */
    g_assert_true(block_stream_start(f->jobs, f->blk, NULL, 0, &err));
    run_writers(f, w, t);
    g_assert_cmpint(wait_ended(f, 1), ==, BLOCK_JOB_DONE);
    join_writers(f, t);
    assert_content(f);

    g_autoptr(BlockNode) node = blk_get_node(f->blk);
    g_assert_null(node->backing);
}

/* Without cluster by cluster luck: cancelled again and again, the claim comes
 * back each time, and the backing file stays until the end. */
static void test_cancel(Fixture *f, gconstpointer rules)
{
    g_autoptr(BlockNode) node = blk_get_node(f->blk);

    for (unsigned i = 1; i <= 10; i++) {
        g_autoptr(GError) err = NULL;

        g_assert_true(block_stream_start(f->jobs, f->blk, NULL, 1024 * 1024,
                                         &err));
        g_assert_false(block_stream_start(f->jobs, f->blk, NULL, 0, &err));
        g_assert_error(err, SIDECAR_ERROR, SIDECAR_ERROR_DEVICE_IN_USE);
        g_clear_error(&err);
        g_assert_true(block_job_cancel(f->jobs, "disk", true, &err));
        g_assert_cmpint(wait_ended(f, i), ==, BLOCK_JOB_CANCELLED);
        g_assert_false(block_job_cancel(f->jobs, "disk", true, &err));
        g_assert_error(err, SIDECAR_ERROR, SIDECAR_ERROR_DEVICE_NOT_ACTIVE);
        g_assert_nonnull(node->backing);
        assert_content(f);
    }
    g_assert_true(block_stream_start(f->jobs, f->blk, NULL, 0, NULL));
    g_assert_cmpint(wait_ended(f, 11), ==, BLOCK_JOB_DONE);
    g_assert_null(node->backing);
    assert_content(f);
}

static void test_read_error(Fixture *f, gconstpointer rules)
{
    g_autoptr(BlockNode) node = blk_get_node(f->blk);

    g_assert_true(block_stream_start(f->jobs, f->blk, NULL, 0, NULL));
    g_assert_cmpint(wait_ended(f, 1), ==, BLOCK_JOB_FAILED);
    g_assert_nonnull(strstr(f->error, "Input/output error"));
    g_assert_nonnull(node->backing);
}

static void test_speed(Fixture *f, gconstpointer rules)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(GArray) list = NULL;

    g_assert_false(block_stream_start(f->jobs, f->blk, "/nowhere", 0, &err));
    g_clear_error(&err);
    g_assert_false(block_stream_start(f->jobs, f->blk, NULL, -1, &err));
    g_clear_error(&err);
    /* neither has kept the drive */
    g_assert_true(block_stream_start(f->jobs, f->blk, NULL, 1024, &err));
    list = block_job_list(f->jobs);
    g_assert_cmpint(list->len, ==, 1);
    g_assert_cmpstr(g_array_index(list, BlockJobInfo, 0).device, ==, "disk");
    g_assert_cmpint(g_array_index(list, BlockJobInfo, 0).len, ==, SIZE);
    /* at 1 KiB/s it would take an hour */
    g_assert_true(block_job_set_speed(f->jobs, "disk", 0, &err));
    g_assert_cmpint(wait_ended(f, 1), ==, BLOCK_JOB_DONE);
    g_assert_false(block_job_set_speed(f->jobs, "disk", 0, &err));
}

static int compare(const void *a, const void *b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

    return (x > y) - (x < y);
}

/* Requests that were answered while a drain waited: those in flight, and (until the
 * gate closes) a few more. */
static void check_drains(Fixture *f)
{
    unsigned during[101];

    for (size_t i = 0; i < G_N_ELEMENTS(during); i++) {
        unsigned before = f->done;

        blk_drained_begin(&f->blk, 1);
        during[i] = f->done - before;
        before = f->done;
        g_usleep(100);
        /* answered, but not counted yet */
        g_assert_cmpuint(f->done - before, <=, WRITERS);
        blk_drained_end(&f->blk, 1);
        while (!f->stop && f->done - before < 2 * WRITERS) {
            g_usleep(10);
        }
    }
    qsort(during, G_N_ELEMENTS(during), sizeof(*during), compare);
    g_assert_cmpuint(during[G_N_ELEMENTS(during) / 2], <=, 2 * WRITERS);
}

/* Writers without a pause: a drain waits for what is in flight and no more, and
 * snapshots and streams come to an end. */
static void test_hammered(Fixture *f, gconstpointer rules)
{
    char *files[4] = { NULL };
    pthread_t t[WRITERS];
    Writer w[WRITERS];
    GError *err = NULL;

    run_writers(f, w, t);
    check_drains(f);
    for (unsigned i = 0; i < G_N_ELEMENTS(files); i++) {
        files[i] = g_strdup_printf("%s/over%u.qcow2", f->dir, i);
        block_snapshot(&(BlockSnapshot){ f->blk, files[i], "qcow2", false }, 1,
                       &err);
        g_assert_no_error(err);
        g_assert_true(block_stream_start(f->jobs, f->blk, NULL, 0, &err));
        g_assert_cmpint(wait_ended(f, i + 1), ==, BLOCK_JOB_DONE);
    }
    join_writers(f, t);
    assert_content(f);
    for (unsigned i = 0; i < G_N_ELEMENTS(files); i++) {
        g_unlink(files[i]);
        g_clear_pointer(&files[i], g_free);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, rules, fn) \
    g_test_add("/stream/" name, Fixture, rules, set_up, fn, tear_down)
    ADD("writers", "read=10ms", test_writers);
    ADD("hammered", "read=0ms", test_hammered);
    ADD("cancel", "read=1ms", test_cancel);
    ADD("read-error", "read/4000-4001=EIO", test_read_error);
    ADD("speed", "read=0ms", test_speed);
    return g_test_run();
}
