/*
 * Backups into VMA archives: files, commands, pipes, and all the ways in which
 * those go wrong.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "backup-double.h"

#include "util/error.h"
#include "vma/vma.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE (30 * BACKUP_CLUSTER_SIZE + 5 * 512)

typedef struct {
    TestVm *vm;
    BlockBackend *d0, *d1;
    uint8_t *data0, *data1;
    BackupRequest req;
    char *archive;
} Fixture;

static void set_up(Fixture *f, const void *data)
{
    f->vm = test_vm_new(true);
    f->d0 = test_vm_add(f->vm, "d0", SIZE, NULL);
    f->d1 = test_vm_add(f->vm, "d1", SIZE, NULL); /* all holes */
    test_fill(f->d0, 1);
    f->data0 = test_read_all(f->d0);
    f->data1 = test_read_all(f->d1);
    f->req = test_request();
    f->archive = test_vm_path(f->vm, "archive.vma");
    f->req.backup_file = f->archive;
}

static void tear_down(Fixture *f, const void *data)
{
    test_vm_free(f->vm);
    g_free(f->data0);
    g_free(f->data1);
    g_free(f->archive);
}

static bool exists(const char *path)
{
    return g_file_test(path, G_FILE_TEST_EXISTS);
}

/* Only the two images are there, no archive and no temporary file. */
static void assert_nothing_left(Fixture *f)
{
    GDir *dir = g_dir_open(f->vm->dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_assert_true(strcmp(name, "d0") == 0 || strcmp(name, "d1") == 0);
    }
    g_dir_close(dir);
}

/* ---- what is in it ------------------------------------------------------------ */

static void check_event(Fixture *f, VmaReader *r, const VmaEvent *ev, uint8_t **out)
{
    const VmaDeviceInfo *dev = vma_reader_device(r, ev->dev_id);
    unsigned i = strcmp(dev->name, "d1") == 0;

    g_assert_cmpuint(dev->size, ==, SIZE);
    if (ev->type == VMA_EVENT_DATA) {
        memcpy(out[i] + ev->offset, ev->data, ev->len);
    } else {
        memset(out[i] + ev->offset, 0, ev->len);
    }
}

static void assert_archive_is_right(Fixture *f, const char *path)
{
    g_autofree uint8_t *out0 = g_malloc(SIZE), *out1 = g_malloc(SIZE);
    uint8_t *out[] = { out0, out1 };
    VmaReader *r = vma_reader_new(path);
    g_autofree char *data = NULL;
    g_autoptr(GError) err = NULL;
    bool fed = false;
    VmaEvent ev;
    gsize len;

    memset(out0, 7, SIZE);
    memset(out1, 7, SIZE);
    g_file_get_contents(path, &data, &len, &err);
    g_assert_no_error(err);
    do {
        vma_reader_next(r, &ev, &err);
        g_assert_no_error(err);
        if (ev.type == VMA_EVENT_MORE) {
            vma_reader_feed(r, data, fed ? 0 : len);
            fed = true;
        } else if (ev.type == VMA_EVENT_DATA || ev.type == VMA_EVENT_ZERO) {
            check_event(f, r, &ev, out);
        }
    } while (ev.type != VMA_EVENT_END);
    g_assert_cmpint(memcmp(out0, f->data0, SIZE), ==, 0);
    g_assert_cmpint(memcmp(out1, f->data1, SIZE), ==, 0);
    vma_reader_free(r);
}

static void run_and_check(Fixture *f, const char *path)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *uuid = backup_start(f->vm->mgr, &f->req, &err);
    BackupStatus st;

    g_assert_no_error(err);
    test_write_clusters(f->d0, 0, 30);
    test_write_clusters(f->d1, 0, 30);
    st = test_wait_end(f->vm->mgr);
    g_assert_cmpstr(st.errmsg, ==, NULL);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_DONE);
    g_assert_cmpuint(st.transferred, ==, 2 * SIZE);
    g_assert_cmpuint(st.zero_bytes, ==, SIZE);
    assert_archive_is_right(f, path);
    backup_status_clear(&st);
}

static void test_file(Fixture *f, const void *data)
{
    run_and_check(f, f->archive);
}

static void test_command(Fixture *f, const void *data)
{
    g_autofree char *spec = g_strdup_printf("exec:cat > '%s'", f->archive);

    f->req.backup_file = spec;
    run_and_check(f, f->archive);
}

static void test_passed_fd(Fixture *f, const void *data)
{
    f->req.target_fd = open(f->archive, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    f->req.backup_file = "/dev/fdname/x";
    run_and_check(f, f->archive);
    g_assert_cmpint(fcntl(f->req.target_fd, F_GETFD), ==, -1);
}

/* Nothing has the archive's name until all of it is there. */
static void test_name_comes_last(Fixture *f, const void *data)
{
    f->req.speed = 1;
    test_start(f->vm, &f->req);
    g_assert_false(exists(f->archive));
    backup_cancel(f->vm->mgr);
    test_assert_ended(f->vm, BACKUP_STATUS_CANCELLED, NULL);
    assert_nothing_left(f);
}

/* ---- what fails at once ---------------------------------------------------------- */

static void assert_start_fails(Fixture *f, const char *words)
{
    g_autoptr(GError) err = NULL;

    g_assert_null(backup_start(f->vm->mgr, &f->req, &err));
    g_test_message("%s", err->message);
    g_assert_nonnull(strstr(err->message, words));
    test_assert_ended(f->vm, BACKUP_STATUS_NONE, NULL);
    test_assert_drive_is_free(f->d0);
}

static void test_bad_targets(Fixture *f, const void *data)
{
    g_autofree char *content = NULL;

    g_assert_true(g_file_set_contents(f->archive, "precious", -1, NULL));
    assert_start_fails(f, "File exists");
    g_assert_true(g_file_get_contents(f->archive, &content, NULL, NULL));
    g_assert_cmpstr(content, ==, "precious");
    g_unlink(f->archive);
    f->req.backup_file = "/nonexistent/folder/archive";
    assert_start_fails(f, "No such file");
    f->req.backup_file = "exec:";
    assert_start_fails(f, "no command");
    f->req.backup_file = "read only fd";
    f->req.target_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_start_fails(f, "not open for writing");
    assert_nothing_left(f);
}

/* ---- what fails later -------------------------------------------------------------- */

static void check_fails(Fixture *f, const char *spec, const char *words)
{
    f->req.backup_file = spec;
    test_start(f->vm, &f->req);
    test_write_clusters(f->d0, 0, 30);
    test_assert_ended(f->vm, BACKUP_STATUS_ERROR, words);
    test_assert_drive_is_free(f->d0);
    test_assert_drive_is_free(f->d1);
    assert_nothing_left(f);
}

static void test_targets_that_fail(Fixture *f, const void *data)
{
    int fds[2];

    check_fails(f, "exec:exit 3", "exit status 3");
    check_fails(f, "exec:head -c 1000 > /dev/null", "exec:head");
    check_fails(f, "exec:cat > /dev/null; exit 7", "exit status 7");
    check_fails(f, "/dev/full", "No space left");
    g_assert_cmpint(pipe2(fds, O_CLOEXEC), ==, 0);
    close(fds[0]);
    f->req.target_fd = fds[1];
    check_fails(f, "passed", "reader is gone");
}

/* ---- what hangs ---------------------------------------------------------------------- */

static void check_hangs(Fixture *f, const char *spec)
{
    f->req.backup_file = spec;
    test_start(f->vm, &f->req);
    test_write_clusters(f->d0, 0, 30);
    backup_cancel(f->vm->mgr);
    test_assert_ended(f->vm, BACKUP_STATUS_CANCELLED, NULL);
    test_assert_drive_is_free(f->d0);
}

static void test_targets_that_hang(Fixture *f, const void *data)
{
    g_autofree char *fifo = test_vm_path(f->vm, "fifo");

    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    check_hangs(f, fifo);
    g_assert_true(exists(fifo)); /* it is not ours */
    check_hangs(f, "exec:exec sleep 1000");
    check_hangs(f, "exec:cat > /dev/null; exec sleep 1000");
}

int main(int argc, char **argv)
{
#define ADD(name, fn) g_test_add("/backup/vma/" name, Fixture, NULL, set_up, fn, tear_down)
    g_test_init(&argc, &argv, NULL);
    ADD("file", test_file);
    ADD("command", test_command);
    ADD("passed-fd", test_passed_fd);
    ADD("name-comes-last", test_name_comes_last);
    ADD("bad-targets", test_bad_targets);
    ADD("targets-that-fail", test_targets_that_fail);
    ADD("targets-that-hang", test_targets_that_hang);
    return g_test_run();
}
