/*
 * Flushing behind a writer: meanwhile, not too far behind, and no failure is
 * forgotten.  The disk is one that waits, or fails, when it is told to.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/flush-behind.h"

#include "block-test.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define UNIT (64 * 1024)

typedef struct {
    char *dir, *fifo;
    BlockContext *ctx;
    BlockBackend *blk;
    FlushBehind *fb;
    /* a writer beside us */
    GMutex lock;
    GCond changed;
    bool returned, ok;
} Fixture;

/* @rule: of block/fault.c; "%s" in it becomes the name of a FIFO. */
static void init(Fixture *f, const char *rule)
{
    g_autofree char *path = NULL, *name = NULL;
    g_auto(GStrv) parts = g_strsplit(rule, "%s", 2);
    BlockNode *bs;

    *f = (Fixture) { .dir = block_test_dir_new(), .ctx = block_context_new() };
    f->fifo = g_build_filename(f->dir, "fifo", NULL);
    g_assert_cmpint(mkfifo(f->fifo, 0600), ==, 0);
    path = g_build_filename(f->dir, "image", NULL);
    block_test_file_new(path, 4 * UNIT, 1);
    name = g_strconcat("fault:", parts[0], parts[1] ? f->fifo : "",
                       parts[1] ? parts[1] : "", ":", path, NULL);
    bs = block_test_open(name, "raw", BDRV_O_RDWR);
    f->blk = blk_new(f->ctx, "d", bs, NULL);
    bdrv_unref(bs);
    f->fb = flush_behind_new(UNIT);
    g_mutex_init(&f->lock);
    g_cond_init(&f->changed);
}

static void clear(Fixture *f)
{
    flush_behind_free(f->fb);
    block_context_free(f->ctx);
    block_test_dir_remove(f->dir);
    g_free(f->fifo);
    g_mutex_clear(&f->lock);
    g_cond_clear(&f->changed);
}

static bool write_unit(Fixture *f, GError **errp)
{
    static const char data[UNIT] = "new";

    g_assert_cmpint(blk_pwrite(f->blk, 0, UNIT, data, 0), ==, 0);
    return flush_behind_wrote(f->fb, f->blk, UNIT, errp);
}

static void *writer(void *opaque)
{
    Fixture *f = opaque;
    bool ok = write_unit(f, NULL);

    g_mutex_lock(&f->lock);
    f->returned = true;
    f->ok = ok;
    g_cond_signal(&f->changed);
    g_mutex_unlock(&f->lock);
    return NULL;
}

static bool has_returned(Fixture *f, gint64 within_us)
{
    gint64 until = g_get_monotonic_time() + within_us;

    g_mutex_lock(&f->lock);
    while (!f->returned && g_cond_wait_until(&f->changed, &f->lock, until)) {
    }
    g_mutex_unlock(&f->lock);
    return f->returned;
}

/* One unit is being flushed, which takes as long as we like; the next one finds
 * nobody who flushes it. */
static void test_behind(void)
{
    Fixture f;
    GThread *thread;
    int fd;

    init(&f, "flush#1=wait(%s)");
    g_assert_true(write_unit(&f, NULL));
    fd = open(f.fifo, O_WRONLY); /* until it is flushed */
    g_assert_cmpint(fd, >=, 0);
    g_assert_true(flush_behind_wrote(f.fb, f.blk, UNIT - 1, NULL));
    thread = g_thread_new("writer", writer, &f);
    g_assert_false(has_returned(&f, 50 * 1000));
    close(fd);
    g_assert_true(has_returned(&f, 60 * G_USEC_PER_SEC));
    g_thread_join(thread);
    g_assert_true(f.ok);
    g_assert_true(flush_behind_finish(f.fb, NULL));
    clear(&f);
}

/* Only the first flush fails; those after it must not hide that. */
static void test_failure(void)
{
    Fixture f;

    init(&f, "flush#1=EIO");
    g_assert_true(write_unit(&f, NULL));
    for (int i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(i ? write_unit(&f, &error) : flush_behind_finish(f.fb, &error));
        g_assert_cmpstr(error->message, ==,
                        "drive 'd': cannot be made durable: Input/output error");
    }
    clear(&f);
}

/* What is less than a unit is flushed at the end. */
static void test_rest(void)
{
    g_autoptr(GError) error = NULL;
    Fixture f;

    init(&f, "flush#1=ENOSPC");
    g_assert_true(flush_behind_finish(f.fb, NULL)); /* nothing was written */
    g_assert_cmpint(blk_pwrite(f.blk, 0, 1, "x", 0), ==, 0);
    g_assert_true(flush_behind_wrote(f.fb, f.blk, 1, NULL));
    g_assert_false(flush_behind_finish(f.fb, &error));
    g_assert_nonnull(error);
    clear(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/flush-behind/meanwhile", test_behind);
    g_test_add_func("/flush-behind/failure", test_failure);
    g_test_add_func("/flush-behind/rest", test_rest);
    return g_test_run();
}
