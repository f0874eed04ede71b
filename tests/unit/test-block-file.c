/*
 * The driver `file': what can go wrong with a host's file, locks that QEMU's
 * tools respect, holes, block devices.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block-test.h"
#include "util/error.h"

typedef struct {
    char *dir, *path;
} Fixture;

static void set_up(Fixture *f)
{
    f->dir = block_test_dir_new();
    f->path = block_test_path(f->dir, "a.raw");
}

static void tear_down(Fixture *f)
{
    g_free(f->path);
    block_test_dir_remove(f->dir);
}

/* bdrv_open must fail with @words in its message. */
static void open_fails(const char *filename, int flags, const char *words)
{
    GError *err = NULL;
    BlockNode *bs = bdrv_open(filename, "raw", flags, &err);

    g_assert_null(bs);
    g_assert_nonnull(err);
    if (!strstr(err->message, words) || !strstr(err->message, filename)) {
        g_error("no '%s' and '%s' in: %s", words, filename, err->message);
    }
    g_clear_error(&err);
}

/* ---- what can't be opened -------------------------------------------- */

static void test_open_errors(void)
{
    Fixture f;
    g_autofree char *fifo = NULL;

    set_up(&f);
    open_fails(f.path, 0, "No such file");
    open_fails(f.dir, 0, "not a regular file");
    open_fails("/dev/null", BDRV_O_RDWR, "not a regular file");
    fifo = block_test_path(f.dir, "fifo");
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    open_fails(fifo, 0, "not a regular file"); /* and does not wait for a peer */
    block_test_file_new(f.path, 1000, 1);
    open_fails(f.path, BDRV_O_NATIVE_AIO, "cache.direct=on");
    open_fails(f.path, BDRV_O_CREATE_EXCL, "File exists");
    if (getuid() != 0) {
        g_assert_cmpint(g_chmod(f.path, 0400), ==, 0);
        open_fails(f.path, BDRV_O_RDWR, "Permission denied");
    }
    open_fails("/proc/version", BDRV_O_NOCACHE, "O_DIRECT");
    tear_down(&f);
}

static void test_create_excl(void)
{
    Fixture f;
    BlockNode *bs;

    set_up(&f);
    bs = block_test_open(f.path, "raw", BDRV_O_RDWR | BDRV_O_CREATE_EXCL);
    g_assert_cmpint(bdrv_length(bs), ==, 0);
    bdrv_unref(bs);
    g_assert_true(g_file_test(f.path, G_FILE_TEST_EXISTS));
    tear_down(&f);
}

/* ---- shorter than it said -------------------------------------------- */

static void check_shrunk(const char *path, int flags)
{
    g_autoptr(BlockNode) bs = NULL;
    g_autofree char *buf = g_malloc(65536);
    int64_t n;

    block_test_file_new(path, 65536, 1);
    bs = block_test_open(path, "raw", flags);
    g_assert_cmpint(bdrv_pread(bs, 0, 65536, buf), ==, 0);
    g_assert_cmpint(truncate(path, 20000), ==, 0);
    g_assert_cmpint(bdrv_pread(bs, 0, 16384, buf), ==, 0);
    g_assert_cmpint(bdrv_pread(bs, 16384, 16384, buf), ==, -EIO);
    g_assert_cmpint(bdrv_pread(bs, 32768, 16384, buf), ==, -EIO);
    g_assert_cmpint(bdrv_pread(bs, 65535, 1, buf), ==, -EIO);
    /* Not a hole: nobody may take it for zeros. */
    g_assert_true(bdrv_block_status(bs, 32768, 4096, &n) & BDRV_BLOCK_DATA);
    g_assert_cmpint(bdrv_length(bs), ==, 65536);
}

static void test_shrunk(void)
{
    Fixture f;

    set_up(&f);
    check_shrunk(f.path, 0);
    if (block_test_have_direct(f.dir)) {
        check_shrunk(f.path, BDRV_O_NOCACHE);
        check_shrunk(f.path, BDRV_O_NOCACHE | BDRV_O_NATIVE_AIO);
    }
    tear_down(&f);
}

/* ---- holes ----------------------------------------------------------- */

static void test_status(void)
{
    Fixture f;
    g_autoptr(BlockNode) bs = NULL;
    char buf[4096];
    int64_t n;

    set_up(&f);
    memset(buf, 1, sizeof(buf));
    g_assert_true(bdrv_create(f.path, "raw", 1024 * 1024 + 100, NULL, NULL, NULL));
    bs = block_test_open(f.path, "raw", BDRV_O_RDWR | BDRV_O_UNMAP);
    g_assert_cmpint(bdrv_block_status(bs, 5, 1024 * 1024 + 95, &n), ==,
                    BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED);
    g_assert_cmpint(n, ==, 1024 * 1024 + 95);
    g_assert_cmpint(bdrv_pwrite(bs, 65536, 4096, buf, 0), ==, 0);
    g_assert_cmpint(bdrv_block_status(bs, 0, 1024 * 1024, &n), ==,
                    BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED);
    g_assert_cmpint(n, ==, 65536);
    g_assert_cmpint(bdrv_block_status(bs, 65536, 1024 * 1024 - 65536, &n), ==,
                    BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED);
    g_assert_cmpint(n, ==, 4096);
    g_assert_cmpint(bdrv_block_status(bs, 66000, 1000, &n), ==,
                    BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED);
    g_assert_cmpint(n, ==, 1000);
    tear_down(&f);
}

/* Which requests give space back, and which keep it. */
static void test_unmap(void)
{
    Fixture f;
    g_autofree char *buf = g_malloc0(1000001);
    BlockNode *bs;

    set_up(&f);
    block_test_file_new(f.path, 1000001, 1);
    bs = block_test_open(f.path, "raw", BDRV_O_RDWR | BDRV_O_UNMAP);
    g_assert_cmpint(bdrv_pwrite_zeroes(bs, 0, 1000001, 0), ==, 0);
    g_assert_cmpint(bdrv_allocated_size(bs), >=, 1000001);
    g_assert_cmpint(bdrv_pwrite_zeroes(bs, 0, 1000001, BDRV_REQ_MAY_UNMAP), ==, 0);
    g_assert_cmpint(bdrv_allocated_size(bs), ==, 0);
    g_assert_cmpint(bdrv_pwrite(bs, 0, 1000001, buf, 0), ==, 0);
    g_assert_cmpint(bdrv_flush(bs), ==, 0);
    g_assert_cmpint(bdrv_pdiscard(bs, 0, 1000001), ==, 0);
    g_assert_cmpint(bdrv_allocated_size(bs), ==, 0);
    bdrv_unref(bs);

    /* discard=ignore */
    block_test_file_new(f.path, 1000001, 1);
    bs = block_test_open(f.path, "raw", BDRV_O_RDWR);
    g_assert_cmpint(bdrv_pdiscard(bs, 0, 1000001), ==, 0);
    g_assert_cmpint(bdrv_allocated_size(bs), >=, 1000001);
    g_assert_cmpint(bdrv_pwrite_zeroes(bs, 0, 1000001, BDRV_REQ_MAY_UNMAP), ==, 0);
    g_assert_cmpint(bdrv_allocated_size(bs), >=, 1000001);
    bdrv_unref(bs);
    tear_down(&f);
}

/*
 * A new loop device over @path, or -1.  It goes by itself when the returned
 * descriptor and all others on it are closed, even if the test crashes.
 */
static int loop_new(const char *path, unsigned sector, char **dev)
{
    g_autofree char *command = g_strdup_printf(
        "losetup --find --show --sector-size %u '%s'", sector, path);
    int status, fd;

    *dev = NULL;
    if (getuid() != 0 ||
        !g_spawn_command_line_sync(command, dev, NULL, &status, NULL) ||
        !g_spawn_check_wait_status(status, NULL)) {
        return -1;
    }
    g_strstrip(*dev);
    fd = open(*dev, O_RDONLY | O_CLOEXEC);
    g_assert_true(block_test_run("losetup -d '%s'", *dev));
    return fd;
}

/* ---- no space -------------------------------------------------------- */

/* A full file system: the error arrives, and what was there is whole. */
static void fill_up(const char *dir)
{
    g_autofree char *path = block_test_path(dir, "full.raw");
    g_autofree char *buf = g_malloc(4 * 1024 * 1024);
    g_autofree char *back = g_malloc(1024 * 1024);
    BlockNode *bs;

    memset(buf, 'x', 4 * 1024 * 1024);
    g_assert_true(bdrv_create(path, "raw", 16 * 1024 * 1024, NULL, NULL, NULL));
    bs = block_test_open(path, "raw", BDRV_O_RDWR);
    g_assert_cmpint(bdrv_pwrite(bs, 0, 1024 * 1024, buf, 0), ==, 0);
    g_assert_cmpint(bdrv_pwrite(bs, 1024 * 1024, 4 * 1024 * 1024, buf, 0), ==,
                    -ENOSPC);
    g_assert_cmpint(bdrv_pwrite_zeroes(bs, 8 * 1024 * 1024, 8 * 1024 * 1024, 0),
                    ==, -ENOSPC);
    g_assert_cmpint(bdrv_pread(bs, 0, 1024 * 1024, back), ==, 0);
    g_assert_cmpmem(buf, 1024 * 1024, back, 1024 * 1024);
    bdrv_unref(bs);
    g_unlink(path);
}

/* What the kernel could not write is lost.  It says so once; we go on. */
static void lose_writes(const char *dir)
{
    g_autofree char *path = block_test_path(dir, "disk"), *dev = NULL;
    g_autofree char *buf = g_malloc0(8 * 1024 * 1024);
    g_autoptr(BlockNode) bs = NULL;
    int fd;

    g_assert_true(bdrv_create(path, "raw", 16 * 1024 * 1024, NULL, NULL, NULL));
    fd = loop_new(path, 512, &dev);
    if (fd < 0) {
        return;
    }
    memset(buf, 'x', 8 * 1024 * 1024);
    bs = block_test_open(dev, "raw", BDRV_O_RDWR);
    g_assert_cmpint(bdrv_pwrite(bs, 0, 8 * 1024 * 1024, buf, 0), ==, 0);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpint(bdrv_flush(bs), <, 0);
    }
    g_clear_pointer(&bs, bdrv_unref);
    close(fd);
    g_unlink(path);
}

/* Run @test in a directory on a file system of 3 MiB, in a process of its own
 * whose mounts nobody else sees. */
static void on_small_file_system(void (*test)(const char *dir))
{
    char *dir;

    if (!g_test_subprocess()) {
        g_test_trap_subprocess(NULL, 0, 0);
        g_test_trap_assert_passed();
        if (getuid() != 0) {
            g_test_skip("only root can mount a small file system");
        }
        return;
    }
    dir = block_test_dir_new();
    if (getuid() == 0 && unshare(CLONE_NEWNS) == 0) {
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
        if (mount("none", dir, "tmpfs", 0, "size=3m") == 0) {
            test(dir);
            umount2(dir, MNT_DETACH);
        }
    }
    block_test_dir_remove(dir);
}

static void test_no_space(void)
{
    on_small_file_system(fill_up);
}

static void test_lost_writes(void)
{
    on_small_file_system(lose_writes);
}

/* ---- a sync that failed ---------------------------------------------- */

/* Flush fails once; the writes wait for the next one. */
static void test_flush_again(void)
{
    Fixture f;
    g_autofree char *name = NULL;
    g_autoptr(BlockNode) bs = NULL;
    char c = 1;

    set_up(&f);
    block_test_file_new(f.path, 1000, 1);
    name = g_strconcat("fault:flush#1=EIO,flush#3=ENOSPC:", f.path, NULL);
    bs = block_test_open(name, "raw", BDRV_O_RDWR);
    g_assert_cmpint(bdrv_flush(bs), ==, 0); /* nothing to do: not even asked */
    g_assert_cmpint(bdrv_pwrite(bs, 0, 1, &c, 0), ==, 0);
    g_assert_cmpint(bdrv_flush(bs), ==, -EIO);
    g_assert_cmpint(bdrv_flush(bs), ==, 0);
    g_assert_cmpint(bdrv_flush(bs), ==, 0);
    g_assert_cmpint(bdrv_pwrite_zeroes(bs, 0, 1, 0), ==, 0);
    g_assert_cmpint(bdrv_flush(bs), ==, -ENOSPC);
    tear_down(&f);
}

/* ---- locks ----------------------------------------------------------- */

static void test_locks_between_nodes(void)
{
    Fixture f;
    BlockNode *a, *b;

    set_up(&f);
    block_test_file_new(f.path, 1000, 1);
    a = block_test_open(f.path, "raw", BDRV_O_RDWR);
    open_fails(f.path, BDRV_O_RDWR, "Failed to get \"write\" lock");
    open_fails(f.path, 0, "Failed to get shared \"write\" lock");
    b = block_test_open(f.path, "raw", BDRV_O_NO_LOCK);
    bdrv_unref(b);
    open_fails(f.path, BDRV_O_RDWR, "Is another process using the image");
    bdrv_unref(a);
    /* Readers share, and keep writers out. */
    a = block_test_open(f.path, "raw", 0);
    b = block_test_open(f.path, "raw", 0);
    open_fails(f.path, BDRV_O_RDWR, "Failed to get \"write\" lock");
    bdrv_unref(a);
    bdrv_unref(b);
    bdrv_unref(block_test_open(f.path, "raw", BDRV_O_RDWR));
    tear_down(&f);
}

static bool have_qemu_io(void)
{
    g_autofree char *found = g_find_program_in_path("qemu-io");

    return found;
}

/* QEMU's tools respect our locks ... */
static void test_locks_hold_qemu_off(void)
{
    Fixture f;
    BlockNode *bs;

    if (!have_qemu_io()) {
        g_test_skip("no qemu-io");
        return;
    }
    set_up(&f);
    block_test_file_new(f.path, 4096, 1);
    g_assert_true(block_test_run("qemu-io -f raw -c 'write 0 512' '%s'", f.path));
    bs = block_test_open(f.path, "raw", BDRV_O_RDWR);
    g_assert_false(block_test_run("qemu-io -f raw -c 'write 0 512' '%s'", f.path));
    g_assert_false(block_test_run("qemu-img convert -O raw -f raw '%s' '%s.copy'",
                                  f.path, f.path));
    bdrv_unref(bs);
    bs = block_test_open(f.path, "raw", 0);
    g_assert_false(block_test_run("qemu-io -f raw -c 'write 0 512' '%s'", f.path));
    g_assert_true(block_test_run("qemu-img convert -O raw -f raw '%s' '%s.copy'",
                                 f.path, f.path));
    bdrv_unref(bs);
    tear_down(&f);
}

/* ... and we theirs. */
static void test_locks_of_qemu(void)
{
    Fixture f;
    const char *argv[] = { "qemu-io", "-f", "raw", NULL, NULL };
    GPid pid;
    int in, out;
    char c;

    if (!have_qemu_io()) {
        g_test_skip("no qemu-io");
        return;
    }
    set_up(&f);
    block_test_file_new(f.path, 4096, 1);
    argv[3] = f.path;
    g_assert_true(g_spawn_async_with_pipes(
        NULL, (char **)argv, NULL,
        G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &pid, &in,
        &out, NULL, NULL));
    g_assert_cmpint(read(out, &c, 1), ==, 1); /* its prompt: the image is open */
    open_fails(f.path, BDRV_O_RDWR, "Failed to get shared \"write\" lock");
    bdrv_unref(block_test_open(f.path, "raw", BDRV_O_NO_LOCK));
    close(in); /* it leaves at the end of its input */
    waitpid(pid, NULL, 0);
    close(out);
    bdrv_unref(block_test_open(f.path, "raw", BDRV_O_RDWR));
    tear_down(&f);
}

/* ---- block devices --------------------------------------------------- */

static void check_blockdev(const char *dev, int flags)
{
    g_autoptr(BlockNode) bs = block_test_open(dev, "raw", flags | BDRV_O_RDWR |
                                              BDRV_O_UNMAP);
    g_autofree char *buf = g_malloc(100000), *back = g_malloc(100000);
    int64_t n;
    GError *err = NULL;

    g_assert_cmpint(bdrv_length(bs), ==, 1024 * 1024);
    for (unsigned i = 0; i < 3; i++) {
        block_test_fill(buf, 100000, i);
        g_assert_cmpint(bdrv_pwrite(bs, 100 + i, 100000, buf, BDRV_REQ_FUA), ==, 0);
        g_assert_cmpint(bdrv_pwrite_zeroes(bs, 40000, 30000,
                                           i ? BDRV_REQ_MAY_UNMAP : 0), ==, 0);
        memset(buf + 40000 - 100 - i, 0, 30000);
        g_assert_cmpint(bdrv_pread(bs, 100 + i, 100000, back), ==, 0);
        g_assert_true(memcmp(buf, back, 100000) == 0);
    }
    g_assert_true(bdrv_block_status(bs, 0, 65536, &n) & BDRV_BLOCK_DATA);
    g_assert_cmpint(bdrv_pdiscard(bs, 0, 1024 * 1024), ==, 0);
    g_assert_cmpint(bdrv_pread(bs, 100, 100000, back), ==, 0);
    g_assert_cmpint(back[0], ==, 0); /* a loop device's discards are holes */
    g_assert_cmpint(bdrv_flush(bs), ==, 0);
    g_assert_false(bdrv_truncate(bs, 2 * 1024 * 1024, &err));
    g_assert_nonnull(err);
    g_clear_error(&err);
}

static void test_blockdev(gconstpointer data)
{
    unsigned sector = GPOINTER_TO_UINT(data);
    Fixture f;
    g_autofree char *dev = NULL;
    int fd;

    set_up(&f);
    block_test_file_new(f.path, 1024 * 1024, 1);
    fd = loop_new(f.path, sector, &dev);
    if (fd >= 0) {
        check_blockdev(dev, 0);
        check_blockdev(dev, BDRV_O_NOCACHE);
        check_blockdev(dev, BDRV_O_NOCACHE | BDRV_O_NATIVE_AIO);
        close(fd);
    } else {
        g_test_skip("no loop devices for us here");
    }
    tear_down(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/file/open-errors", test_open_errors);
    g_test_add_func("/file/create-excl", test_create_excl);
    g_test_add_func("/file/shrunk", test_shrunk);
    g_test_add_func("/file/status", test_status);
    g_test_add_func("/file/unmap", test_unmap);
    g_test_add_func("/file/no-space", test_no_space);
    g_test_add_func("/file/lost-writes", test_lost_writes);
    g_test_add_func("/file/flush-again", test_flush_again);
    g_test_add_func("/file/locks/between-nodes", test_locks_between_nodes);
    g_test_add_func("/file/locks/hold-qemu-off", test_locks_hold_qemu_off);
    g_test_add_func("/file/locks/of-qemu", test_locks_of_qemu);
    g_test_add_data_func("/file/blockdev/512", GUINT_TO_POINTER(512),
                         test_blockdev);
    g_test_add_data_func("/file/blockdev/4096", GUINT_TO_POINTER(4096),
                         test_blockdev);
    return g_test_run();
}
