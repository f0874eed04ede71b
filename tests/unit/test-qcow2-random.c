/*
 * A drive with qcow2 images through everything that can happen to one: random
 * reads, writes, zeroes, discards, flushes, snapshots, streams (to the end,
 * cancelled, to a base; requests go on meanwhile) and reopening, a hundred
 * thousand of them, against a shadow buffer, with qemu-img as the judge.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

#include "../../block/qcow2.h"
#include "block/job.h"
#include "qcow2-test.h"
#include "util/error.h"

#define SIZE ((1 << 20) + 512 * 3)
#define CHAIN_MAX 4 /* images above each other; then a stream comes first */
#define OPERATIONS 100000
#define SLOW (512 * 1024) /* a second: many requests fall into such a stream */

static char *dir;
static unsigned operations;
static bool have_direct;

typedef struct {
    uint8_t shadow[SIZE];
    GRand *rand;
    BlockContext *ctx;
    BlockBackend *blk;
    BlockJobSet *jobs;
    GPtrArray *files;  /* of the chain, the lowest first; char * */
    unsigned n_files;  /* ever made */
    int flags;
    unsigned snapshots, streams, reopened, based, cancelled;

    /* The stream under way. */
    guint kept;        /* files that the chain has left if it succeeds */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool streaming;    /* lock */
    BlockJobState state; /* lock */
} Drive;

static const Qcow2CreateOptions formats[] = {
    { 3, 16, 4 }, { 3, 9, 4 }, { 3, 9, 6 }, { 3, 10, 0 }, { 2, 12, 4 },
    { 3, 12, 1 }, { 2, 16, 4 }, { 3, 17, 3 }, { 3, 21, 4 }, { 2, 9, 4 },
};

static const char *top_of(const Drive *d)
{
    return g_ptr_array_index(d->files, d->files->len - 1);
}

static char *new_name(Drive *d)
{
    return g_strdup_printf("%s/%u.qcow2", dir, d->n_files++);
}

/* ---- opening and closing ------------------------------------------------------- */

static void on_ended(void *opaque, const BlockJobInfo *info)
{
    Drive *d = opaque;

    g_assert_cmpstr(info->error, ==, NULL);
    pthread_mutex_lock(&d->lock);
    d->streaming = false;
    d->state = info->state;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

static void open_drive(Drive *d)
{
    g_autoptr(BlockNode) bs = NULL;

    d->flags = BDRV_O_RDWR | (g_rand_boolean(d->rand) ? BDRV_O_UNMAP : 0) |
               (g_rand_int_range(d->rand, 0, 4) ? 0 : BDRV_O_NO_FLUSH);
    if (have_direct && g_rand_int_range(d->rand, 0, 8) == 0) {
        d->flags |= BDRV_O_NOCACHE | (g_rand_boolean(d->rand) ? BDRV_O_NATIVE_AIO : 0);
    }
    bs = block_test_open(top_of(d), "qcow2", d->flags);
    d->ctx = block_context_new();
    d->blk = blk_new(d->ctx, "disk", bs, NULL);
    d->jobs = block_job_set_new(on_ended, d);
}

/* A slow one gets done, too. */
static void wait_for_stream(Drive *d)
{
    block_job_set_speed(d->jobs, "disk", 0, NULL);
    pthread_mutex_lock(&d->lock);
    while (d->streaming) {
        pthread_cond_wait(&d->changed, &d->lock);
    }
    pthread_mutex_unlock(&d->lock);
}

/* A stream has ended since we looked last: what it copied is no longer needed. */
static void end_stream(Drive *d)
{
    wait_for_stream(d);
    if (d->kept != G_MAXUINT && d->state == BLOCK_JOB_DONE) {
        while (d->files->len - 1 > d->kept) {
            g_unlink(g_ptr_array_index(d->files, d->kept));
            g_ptr_array_remove_index(d->files, d->kept);
        }
    }
    d->kept = G_MAXUINT;
}

static void close_drive(Drive *d)
{
    end_stream(d);
    g_clear_pointer(&d->jobs, block_job_set_free);
    g_clear_pointer(&d->ctx, block_context_free);
}

static void reopen(Drive *d)
{
    close_drive(d);
    qcow2_test_check(top_of(d), false);
    if (g_rand_int_range(d->rand, 0, 8) == 0) {
        qcow2_test_compare_img(top_of(d), d->shadow, SIZE);
    }
    open_drive(d);
    d->reopened++;
}

/* ---- what the guest does --------------------------------------------------------- */

static void random_range(Drive *d, int64_t max, int64_t *offset, int64_t *bytes)
{
    *offset = g_rand_int_range(d->rand, 0, SIZE);
    *bytes = g_rand_int_range(d->rand, 1, MIN(max, SIZE - *offset) + 1);
    if (g_rand_boolean(d->rand)) { /* aligned as a guest's are */
        *offset &= ~INT64_C(511);
        *bytes = MIN((*bytes + 511) & ~INT64_C(511), SIZE - *offset);
    }
}

static void do_write(Drive *d, int64_t offset, int64_t bytes)
{
    int flags = g_rand_int_range(d->rand, 0, 16) ? 0 : BDRV_REQ_FUA;

    block_test_fill(d->shadow + offset, bytes, g_rand_int(d->rand));
    g_assert_cmpint(blk_pwrite(d->blk, offset, bytes, d->shadow + offset, flags),
                    ==, 0);
}

static void do_read(Drive *d, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    g_assert_cmpint(blk_pread(d->blk, offset, bytes, buf), ==, 0);
    g_assert_cmpint(memcmp(buf, d->shadow + offset, bytes), ==, 0);
}

static void do_zero(Drive *d, int64_t offset, int64_t bytes)
{
    memset(d->shadow + offset, 0, bytes);
    g_assert_cmpint(blk_pwrite_zeroes(d->blk, offset, bytes,
                                      g_rand_boolean(d->rand) ? BDRV_REQ_MAY_UNMAP
                                                              : 0), ==, 0);
}

/* Each sector is as it was or zeros. */
static void do_discard(Drive *d, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    g_assert_cmpint(blk_pdiscard(d->blk, offset, bytes), ==, 0);
    g_assert_cmpint(blk_pread(d->blk, offset, bytes, buf), ==, 0);
    for (int64_t i = 0; i < bytes; i++) {
        g_assert_true(buf[i] == 0 || buf[i] == d->shadow[offset + i]);
    }
    memcpy(d->shadow + offset, buf, bytes);
}

/* ---- what the admin does ---------------------------------------------------------- */

static void do_snapshot(Drive *d)
{
    g_autofree char *name = new_name(d);
    g_autoptr(BlockNode) under = NULL;
    bool existing = g_rand_boolean(d->rand);
    GError *err = NULL;

    end_stream(d);
    under = blk_get_node(d->blk);
    if (existing) {
        const Qcow2CreateOptions *o =
            &formats[g_rand_int_range(d->rand, 0, G_N_ELEMENTS(formats))];

        g_assert_true(qcow2_create_with(name, bdrv_length(under), top_of(d), "qcow2",
                                        o, NULL));
    }
    block_snapshot(&(BlockSnapshot){ d->blk, name, "qcow2", existing }, 1, &err);
    g_assert_no_error(err);
    g_ptr_array_add(d->files, g_steal_pointer(&name));
    d->snapshots++;
}

static void do_stream(Drive *d)
{
    const char *base = NULL;
    GError *err = NULL;

    end_stream(d);
    d->kept = 0;
    if (d->files->len > 2 && g_rand_boolean(d->rand)) {
        d->kept = g_rand_int_range(d->rand, 1, d->files->len - 1);
        base = g_ptr_array_index(d->files, d->kept - 1);
        d->based++;
    }
    d->streaming = true;
    block_stream_start(d->jobs, d->blk, base,
                       g_rand_boolean(d->rand) ? 0 : SLOW, &err);
    g_assert_no_error(err);
    d->streams++;
    /* Sometimes it is not left to itself; when it is, requests go on. */
    if (g_rand_int_range(d->rand, 0, 5) == 0) {
        d->cancelled += block_job_cancel(d->jobs, "disk", true, NULL);
    }
}

static void administer(Drive *d)
{
    unsigned what = g_rand_int_range(d->rand, 0, 10);

    if (what < 4 && d->files->len < CHAIN_MAX) {
        do_snapshot(d);
    } else if (what < 8) {
        do_stream(d);
    } else {
        reopen(d);
    }
}

static void one_operation(Drive *d)
{
    unsigned what = g_rand_int_range(d->rand, 0, 200);
    int64_t offset, bytes;

    random_range(d, what % 17 == 0 ? SIZE : 20000, &offset, &bytes);
    if (what < 95) {
        do_write(d, offset, bytes);
    } else if (what < 160) {
        do_read(d, offset, bytes);
    } else if (what < 176) {
        do_zero(d, offset, bytes);
    } else if (what < 190) {
        do_discard(d, offset, bytes);
    } else if (what < 198) {
        g_assert_cmpint(blk_flush(d->blk), ==, 0);
    } else {
        administer(d);
    }
}

/* ---- a run --------------------------------------------------------------------------- */

static void test_random(gconstpointer data)
{
    const Qcow2CreateOptions *format = data;
    Drive *d = g_new0(Drive, 1);

    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    d->rand = g_rand_new_with_seed(g_test_rand_int() + (guint32)(format - formats));
    d->files = g_ptr_array_new_with_free_func(g_free);
    d->kept = G_MAXUINT;
    g_ptr_array_add(d->files, new_name(d));
    g_assert_true(qcow2_create_with(top_of(d), SIZE, NULL, NULL, format, NULL));
    open_drive(d);
    for (unsigned n = operations / G_N_ELEMENTS(formats); n > 0; n--) {
        one_operation(d);
    }
    do_read(d, 0, SIZE);
    close_drive(d);
    for (guint i = 0; i < d->files->len; i++) {
        qcow2_test_check(g_ptr_array_index(d->files, i), false);
    }
    qcow2_test_compare_img(top_of(d), d->shadow, SIZE);
    g_test_message("%u snapshots, %u streams (%u with a base, %u cancelled), reopened "
                   "%u times", d->snapshots, d->streams, d->based, d->cancelled,
                   d->reopened);
    for (guint i = 0; i < d->files->len; i++) {
        g_unlink(g_ptr_array_index(d->files, i));
    }
    g_ptr_array_unref(d->files);
    g_rand_free(d->rand);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->changed);
    g_free(d);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    operations = g_getenv("SIDECAR_TEST_LONG") ? 10 * OPERATIONS : OPERATIONS;
    dir = block_test_dir_new();
    have_direct = block_test_have_direct(dir);
    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        g_autofree char *name = g_strdup_printf("/qcow2/random/v%u-cluster%u-refcount%u",
                                                formats[i].version,
                                                formats[i].cluster_bits,
                                                formats[i].refcount_order);

        g_test_add_data_func(name, &formats[i], test_random);
    }
    ret = g_test_run();
    block_test_dir_remove(dir);
    return ret;
}
