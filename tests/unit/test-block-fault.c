/*
 * The protocol `fault': each rule does what it says, to the request it says.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block-test.h"

#define SIZE 65536

typedef struct {
    char *dir, *path;
} Fixture;

static void set_up(Fixture *f)
{
    f->dir = block_test_dir_new();
    f->path = block_test_path(f->dir, "a.raw");
    block_test_file_new(f->path, SIZE, 1);
}

static void tear_down(Fixture *f)
{
    g_free(f->path);
    block_test_dir_remove(f->dir);
}

static BlockNode *open_with(Fixture *f, const char *rules)
{
    g_autofree char *name = g_strdup_printf("fault:%s:%s", rules, f->path);

    return block_test_open(name, "raw", BDRV_O_RDWR | BDRV_O_UNMAP);
}

static int read_at(BlockNode *bs, int64_t offset)
{
    char buf[512];

    return bdrv_pread(bs, offset, sizeof(buf), buf);
}

static int write_at(BlockNode *bs, int64_t offset)
{
    char buf[512] = { 1 };

    return bdrv_pwrite(bs, offset, sizeof(buf), buf, 0);
}

static void test_nth(void)
{
    Fixture f;
    g_autoptr(BlockNode) bs = NULL;

    set_up(&f);
    bs = open_with(&f, "read#2=EIO,write#3+=ENOSPC");
    g_assert_cmpint(read_at(bs, 0), ==, 0);
    g_assert_cmpint(read_at(bs, 0), ==, -EIO);
    g_assert_cmpint(read_at(bs, 0), ==, 0);
    g_assert_cmpint(write_at(bs, 0), ==, 0);
    g_assert_cmpint(write_at(bs, 0), ==, 0);
    g_assert_cmpint(write_at(bs, 0), ==, -ENOSPC);
    g_assert_cmpint(write_at(bs, 0), ==, -ENOSPC);
    tear_down(&f);
}

static void test_sectors(void)
{
    Fixture f;
    g_autoptr(BlockNode) bs = NULL;

    set_up(&f);
    bs = open_with(&f, "read/8-9=EIO,any/20=EPERM");
    g_assert_cmpint(read_at(bs, 7 * 512), ==, 0);
    g_assert_cmpint(read_at(bs, 7 * 512 + 1), ==, -EIO);
    g_assert_cmpint(read_at(bs, 9 * 512), ==, -EIO);
    g_assert_cmpint(read_at(bs, 10 * 512), ==, 0);
    g_assert_cmpint(write_at(bs, 8 * 512), ==, 0);
    g_assert_cmpint(read_at(bs, 20 * 512), ==, -EPERM);
    g_assert_cmpint(write_at(bs, 20 * 512), ==, -EPERM);
    tear_down(&f);
}

static void test_operations(void)
{
    Fixture f;
    g_autoptr(BlockNode) bs = NULL;
    int64_t n;

    set_up(&f);
    bs = open_with(&f, "zero=EINVAL,discard=ENOMEM,flush=EDQUOT,status=EAGAIN");
    g_assert_cmpint(read_at(bs, 0), ==, 0);
    g_assert_cmpint(bdrv_flush(bs), ==, 0); /* nothing written */
    g_assert_cmpint(write_at(bs, 0), ==, 0);
    g_assert_cmpint(bdrv_pwrite_zeroes(bs, 0, 512, 0), ==, -EINVAL);
    g_assert_cmpint(bdrv_pdiscard(bs, 0, 512), ==, -ENOMEM);
    g_assert_cmpint(bdrv_flush(bs), ==, -EDQUOT);
    g_assert_cmpint(bdrv_block_status(bs, 0, 512, &n), ==, -EAGAIN);
    tear_down(&f);
}

/* Faults can be stacked: the inner one sees what the outer one lets pass. */
static void test_stacked(void)
{
    Fixture f;
    g_autoptr(BlockNode) bs = NULL;
    g_autofree char *name = NULL;

    set_up(&f);
    name = g_strdup_printf("fault:read#1=EIO:fault:read#2=EPERM:file:%s", f.path);
    bs = block_test_open(name, "raw", 0);
    g_assert_cmpint(read_at(bs, 0), ==, -EIO);
    g_assert_cmpint(read_at(bs, 0), ==, 0);
    g_assert_cmpint(read_at(bs, 0), ==, -EPERM);
    g_assert_cmpint(read_at(bs, 0), ==, 0);
    tear_down(&f);
}

static void test_delay(void)
{
    Fixture f;
    g_autoptr(BlockNode) bs = NULL;
    int64_t before;

    set_up(&f);
    bs = open_with(&f, "read#2=30ms");
    g_assert_cmpint(read_at(bs, 0), ==, 0);
    before = g_get_monotonic_time();
    g_assert_cmpint(read_at(bs, 0), ==, 0);
    g_assert_cmpint(g_get_monotonic_time() - before, >=, 30000);
    tear_down(&f);
}

typedef struct {
    BlockNode *bs;
    _Atomic bool done;
} Writer;

static void *write_once(void *opaque)
{
    Writer *w = opaque;

    g_assert_cmpint(write_at(w->bs, 0), ==, 0);
    atomic_store(&w->done, true);
    return NULL;
}

/* open() for writing of a FIFO returns when the write has come to it. */
static void test_wait(void)
{
    Fixture f;
    g_autofree char *fifo = NULL, *rules = NULL;
    Writer w = { 0 };
    GThread *thread;
    int fd;

    set_up(&f);
    fifo = block_test_path(f.dir, "fifo");
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    rules = g_strdup_printf("write#1=wait(%s)", fifo);
    w.bs = open_with(&f, rules);
    thread = g_thread_new("writer", write_once, &w);
    fd = open(fifo, O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    g_assert_false(atomic_load(&w.done));
    close(fd);
    g_thread_join(thread);
    g_assert_true(atomic_load(&w.done));
    bdrv_unref(w.bs);
    tear_down(&f);
}

static void test_align(void)
{
    Fixture f;
    g_autoptr(BlockNode) bs = NULL;

    set_up(&f);
    bs = open_with(&f, "align=4096");
    g_assert_cmpint(bdrv_request_alignment(bs), ==, 4096);
    g_assert_cmpint(write_at(bs, 1), ==, 0);
    tear_down(&f);
}

static void test_nonsense(void)
{
    static const char *const bad[] = {
        "read",        "read=",      "read=EWHAT",  "reed=EIO",  "read#=EIO",
        "read#x=EIO",  "read/=EIO",  "read/1-=EIO", "=EIO",      "flush",
        "align=3",     "align=0",    "align=",      "read=5",    "read=5s",
        "read=wait()", "read=wait(", "align=131072", "read=EIO,", "read==EIO",
        "read#1++=EIO", "read/99999999999999999999=EIO",
        "read=99999999ms", "align=99999999999999999999",
    };
    Fixture f;

    set_up(&f);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *name = g_strdup_printf("fault:%s:%s", bad[i], f.path);
        GError *err = NULL;

        if (bdrv_open(name, "raw", 0, &err)) {
            g_error("accepted: %s", bad[i]);
        }
        g_assert_nonnull(err);
        g_clear_error(&err);
    }
    {
        GError *err = NULL;

        g_assert_null(bdrv_open("fault:read=EIO", "raw", 0, &err));
        g_assert_nonnull(strstr(err->message, "RULES:FILE"));
        g_clear_error(&err);
        g_assert_null(bdrv_open("fault:read=EIO:/no/such", "raw", 0, &err));
        g_clear_error(&err);
        g_assert_false(bdrv_create("fault:read=EIO", "raw", 5, NULL, NULL, &err));
        g_clear_error(&err);
    }
    tear_down(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fault/nth", test_nth);
    g_test_add_func("/fault/sectors", test_sectors);
    g_test_add_func("/fault/operations", test_operations);
    g_test_add_func("/fault/stacked", test_stacked);
    g_test_add_func("/fault/delay", test_delay);
    g_test_add_func("/fault/wait", test_wait);
    g_test_add_func("/fault/align", test_align);
    g_test_add_func("/fault/nonsense", test_nonsense);
    return g_test_run();
}
