/*
 * Backups of quiet drives: what is in the archive, what the status says, and
 * what is refused.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "backup-double.h"

#include "util/error.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static BackupStatus run_backup(TestVm *vm, const BackupRequest *req)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *uuid = backup_start(vm->mgr, req, &err);

    g_assert_no_error(err);
    g_assert_nonnull(uuid);
    return test_wait_end(vm->mgr);
}

static void test_sizes(void)
{
    static const uint64_t sizes[] = { 1, 511, 512, 513, 4096, 65535, 65536, 65537,
                                      131072, 1048576 + 777, 3 * 1048576 };

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        TestVm *vm = test_vm_new(false);
        BlockBackend *blk = test_vm_add(vm, "d0", sizes[i], NULL);
        BackupRequest req = test_request();
        g_autofree uint8_t *data = NULL;
        BackupStatus st;

        req.buffer_size = 1; /* the least: buffers are used again */
        test_fill(blk, i);
        data = test_read_all(blk);
        st = run_backup(vm, &req);
        g_assert_cmpint(st.status, ==, BACKUP_STATUS_DONE);
        g_assert_null(st.errmsg);
        g_assert_cmpuint(st.total, ==, sizes[i]);
        g_assert_cmpuint(st.transferred, ==, sizes[i]);
        g_assert_cmpuint(st.zero_bytes, <, 65536);
        g_assert_false(st.finishing);
        mem_assert_exactly_once();
        mem_assert_content("d0", data, sizes[i]);
        backup_status_clear(&st);
        test_vm_free(vm);
    }
}

static void test_holes(void)
{
    enum { SIZE = 4 * 1048576 + 100 };
    TestVm *vm = test_vm_new(false);
    BlockBackend *blk = test_vm_add(vm, "d0", SIZE, NULL);
    BackupRequest req = test_request();
    g_autofree uint8_t *data = NULL;
    BackupStatus st;

    /* Data that begins and ends inside clusters, and at the very end. */
    g_assert_cmpint(blk_pwrite(blk, 1000000, 5, "12345", 0), ==, 0);
    g_assert_cmpint(blk_pwrite(blk, 2 * 65536 - 2, 4, "abcd", 0), ==, 0);
    g_assert_cmpint(blk_pwrite(blk, SIZE - 1, 1, "x", 0), ==, 0);
    data = test_read_all(blk);
    st = run_backup(vm, &req);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_DONE);
    g_assert_cmpuint(st.transferred, ==, SIZE);
    g_assert_cmpuint(st.zero_bytes, >, SIZE - 6 * 65536);
    mem_assert_exactly_once();
    mem_assert_content("d0", data, SIZE);
    backup_status_clear(&st);
    test_vm_free(vm);
}

/* ---- what is refused ------------------------------------------------------ */

/* backup_start fails like this, and nothing was opened or changed. */
static void assert_refused(TestVm *vm, const BackupRequest *req, int code,
                           const char *words)
{
    g_autoptr(GError) err = NULL;
    BackupStatus st;

    g_assert_null(backup_start(vm->mgr, req, &err));
    g_assert_error(err, SIDECAR_ERROR, code);
    if (!strstr(err->message, words)) {
        g_test_message("'%s' does not say '%s'", err->message, words);
        g_test_fail();
    }
    g_assert_cmpuint(mem.n_new, ==, 0);
    backup_query(vm->mgr, &st);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_NONE);
    g_assert_null(st.backup_file);
    backup_status_clear(&st);
}

/* Nobody has claimed it. */
static void assert_free(BlockBackend *blk)
{
    g_autoptr(GError) err = NULL;

    blk_claim(blk, "test", &err);
    g_assert_no_error(err);
    blk_release(blk);
}

static BlockBackend *add_read_only(TestVm *vm, const char *name)
{
    g_autofree char *path = test_vm_path(vm, name);
    g_autoptr(BlockNode) node = NULL;

    g_assert_true(bdrv_create(path, "raw", 65536, NULL, NULL, NULL));
    node = bdrv_open(path, "raw", 0, NULL);
    g_assert_nonnull(node);
    return blk_new(vm->ctx, name, node, NULL);
}

static void test_refused_drives(void)
{
    static const struct {
        const char *devlist;
        int code;
        const char *words;
    } cases[] = {
        { "nosuch", SIDECAR_ERROR_DEVICE_NOT_FOUND, "Device 'nosuch' not found" },
        { "d0,nosuch", SIDECAR_ERROR_DEVICE_NOT_FOUND, "Device 'nosuch' not found" },
        { "d0;ro", SIDECAR_ERROR_GENERIC, "Device 'ro' is read only" },
        { "cd", SIDECAR_ERROR_GENERIC, "Device 'cd' has no medium" },
        { "", SIDECAR_ERROR_GENERIC, "empty device list" },
        { ",;:", SIDECAR_ERROR_GENERIC, "empty device list" },
        { "d0:d1:d0", SIDECAR_ERROR_GENERIC, "'d0' is named twice" },
        { "d1,busy", SIDECAR_ERROR_DEVICE_IN_USE, "Device 'busy' is in use" },
        { "zero", SIDECAR_ERROR_GENERIC, "'zero' has a size of 0 bytes" },
    };
    TestVm *vm = test_vm_new(false);
    BlockBackend *d0 = test_vm_add(vm, "d0", 65536, NULL);
    BlockBackend *d1 = test_vm_add(vm, "d1", 65536, NULL);
    BlockBackend *busy = test_vm_add(vm, "busy", 65536, NULL);

    test_vm_add(vm, "zero", 0, NULL);
    add_read_only(vm, "ro");
    blk_new(vm->ctx, "cd", NULL, NULL);
    g_assert_true(blk_claim(busy, "stream", NULL));
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        BackupRequest req = test_request();

        req.devlist = cases[i].devlist;
        assert_refused(vm, &req, cases[i].code, cases[i].words);
        assert_free(d0);
        assert_free(d1);
    }
    blk_release(busy);
    test_vm_free(vm);
}

static void test_no_usable_drive(void)
{
    TestVm *vm = test_vm_new(false);
    BackupRequest req = test_request();

    add_read_only(vm, "ro");
    blk_new(vm->ctx, "cd", NULL, NULL);
    assert_refused(vm, &req, SIDECAR_ERROR_GENERIC, "no drive that can be backed up");
    test_vm_free(vm);
}

static void test_drives_are_chosen(void)
{
    TestVm *vm = test_vm_new(false);
    BackupRequest req = test_request();
    BackupStatus st;

    test_vm_add(vm, "d0", 65536, NULL);
    add_read_only(vm, "ro");
    blk_new(vm->ctx, "cd", NULL, NULL);
    test_vm_add(vm, "d1", 1000, NULL);
    test_vm_add(vm, "d2", 2000, NULL);
    st = run_backup(vm, &req);
    g_assert_cmpuint(st.total, ==, 65536 + 3000);
    g_assert_cmpuint(mem.n_streams, ==, 3);
    backup_status_clear(&st);

    mem_reset();
    req.devlist = " d2 ;d0,";
    st = run_backup(vm, &req);
    g_assert_cmpuint(st.total, ==, 65536 + 2000);
    g_assert_cmpstr(mem.streams[0].name, ==, "d2");
    g_assert_cmpstr(mem.streams[1].name, ==, "d0");
    backup_status_clear(&st);
    test_vm_free(vm);
}

static void test_refused_requests(void)
{
    TestVm *vm = test_vm_new(false);
    BackupRequest req = test_request();

    test_vm_add(vm, "d0", 65536, NULL);
    req.format = "tar";
    assert_refused(vm, &req, SIDECAR_ERROR_GENERIC, "unknown backup format 'tar'");
    req.format = NULL;
    req.backup_file = "-";
    assert_refused(vm, &req, SIDECAR_ERROR_GENERIC, "standard output belongs to the VM");
    req.backup_file = "";
    assert_refused(vm, &req, SIDECAR_ERROR_GENERIC, "no backup file");
    req = test_request();
    req.speed = -1;
    assert_refused(vm, &req, SIDECAR_ERROR_GENERIC, "negative");
    test_vm_free(vm);
}

/* A passed fd is closed however the request ends. */
static void test_fd_is_taken_over(void)
{
    TestVm *vm = test_vm_new(false);
    BackupRequest req = test_request();
    BackupStatus st;

    test_vm_add(vm, "d0", 65536, NULL);
    req.target_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    req.devlist = "nosuch";
    assert_refused(vm, &req, SIDECAR_ERROR_DEVICE_NOT_FOUND, "nosuch");
    g_assert_cmpint(fcntl(req.target_fd, F_GETFD), ==, -1);

    req.target_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    req.devlist = NULL;
    req.backup_file = "-"; /* only a name here */
    st = run_backup(vm, &req);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_DONE);
    g_assert_cmpint(fcntl(req.target_fd, F_GETFD), ==, -1);
    backup_status_clear(&st);
    test_vm_free(vm);
}

/* ---- configuration files ------------------------------------------------------ */

static void test_configs(void)
{
    TestVm *vm = test_vm_new(false);
    BackupRequest req = test_request();
    g_autofree char *a = test_vm_path(vm, "a.conf"), *b = test_vm_path(vm, "b");
    g_autofree char *big = test_vm_path(vm, "big"), *data = g_strnfill(1001, 'x');
    g_autofree char *none = test_vm_path(vm, "none"), *slash = g_strconcat(a, "/", NULL);
    const struct {
        const char *paths[6];
        const char *words;
    } bad[] = {
        { { none }, "none': No such file" },
        { { a, none }, "none': No such file" },
        { { "/" }, "has no file name" },
        { { "" }, "has no file name" },
        { { ".." }, "has no file name" },
        { { slash }, "has no file name" },
        { { vm->dir }, "is not a regular file" },
        { { "/dev/zero" }, "is not a regular file" },
        { { big }, "is too large (1001 bytes, at most 1000)" },
        { { a, b, a }, "there is already one named 'a.conf'" },
        { { a, b, "/proc/self/comm", "/proc/self/stat" }, "more than 3" },
    };
    const char *good[] = { a, b, NULL };
    BackupStatus st;

    test_vm_add(vm, "d0", 65536, NULL);
    g_assert_true(g_file_set_contents(a, "one", -1, NULL));
    g_assert_true(g_file_set_contents(b, "", -1, NULL));
    g_assert_true(g_file_set_contents(big, data, -1, NULL));
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        req.config_files = bad[i].paths;
        assert_refused(vm, &req, SIDECAR_ERROR_GENERIC, bad[i].words);
    }
    req.config_files = good;
    st = run_backup(vm, &req);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_DONE);
    g_assert_cmpstr(mem.configs, ==, "a.conf=one;b=;");
    backup_status_clear(&st);
    test_vm_free(vm);
}

/* A FIFO as a configuration file must not make anybody wait. */
static void test_config_fifo(void)
{
    TestVm *vm = test_vm_new(false);
    BackupRequest req = test_request();
    g_autofree char *path = test_vm_path(vm, "fifo");
    const char *paths[] = { path, NULL };

    test_vm_add(vm, "d0", 65536, NULL);
    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    req.config_files = paths;
    assert_refused(vm, &req, SIDECAR_ERROR_GENERIC, "is not a regular file");
    test_vm_free(vm);
}

/* ---- one at a time, and its status -------------------------------------------- */

static void test_second_is_refused(void)
{
    TestVm *vm = test_vm_new(false);
    BackupRequest req = test_request();
    g_autoptr(GError) err = NULL;
    g_autofree char *uuid = NULL;
    BackupStatus st;

    test_vm_add(vm, "d0", 65536, NULL);
    mem.hold_dump = true;
    uuid = backup_start(vm->mgr, &req, &err);
    g_assert_no_error(err);
    g_assert_null(backup_start(vm->mgr, &req, &err));
    g_assert_error(err, SIDECAR_ERROR, SIDECAR_ERROR_GENERIC);
    g_assert_cmpstr(err->message, ==, "previous backup not finished");
    g_assert_cmpuint(mem.n_new, ==, 1);
    mem_set(&mem.hold_dump, false);
    st = test_wait_end(vm->mgr);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_DONE);
    g_assert_cmpstr(st.uuid, ==, uuid);
    backup_status_clear(&st);
    test_vm_free(vm);
}

/* ACTIVE while sweeping, finishing once only the archive is left, DONE. */
static void test_status_tells_the_story(void)
{
    TestVm *vm = test_vm_new(false);
    BackupRequest req = test_request();
    g_autofree char *uuid = NULL;
    BackupStatus st;

    test_fill(test_vm_add(vm, "d0", 20 * 65536, NULL), 1);
    backup_query(vm->mgr, &st);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_NONE);
    backup_status_clear(&st);

    mem.hold_dump = true;
    uuid = backup_start(vm->mgr, &req, NULL);
    mem_wait_held();
    backup_query(vm->mgr, &st);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_ACTIVE);
    g_assert_cmpuint(st.transferred, ==, 0);
    g_assert_cmpuint(st.total, ==, 20 * 65536);
    g_assert_cmpstr(st.backup_file, ==, "somewhere");
    g_assert_cmpint(st.start_time, >, 1000000000);
    g_assert_cmpint(st.end_time, ==, 0);
    while (!st.finishing) { /* 20 clusters fit into memory: it will */
        backup_status_clear(&st);
        g_usleep(500);
        backup_query(vm->mgr, &st);
        g_assert_cmpint(st.status, ==, BACKUP_STATUS_ACTIVE);
    }
    backup_status_clear(&st);

    mem_set(&mem.hold_complete, true);
    mem_set(&mem.hold_dump, false);
    mem_wait_held();
    backup_query(vm->mgr, &st);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_ACTIVE);
    g_assert_true(st.finishing);
    g_assert_cmpuint(st.transferred, ==, st.total);
    backup_status_clear(&st);
    mem_set(&mem.hold_complete, false);
    st = test_wait_end(vm->mgr);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_DONE);
    g_assert_false(st.finishing);
    g_assert_cmpint(st.end_time, >=, st.start_time);
    backup_status_clear(&st);
    test_vm_free(vm);
}

/* A failed command leaves the status of the backup before. */
static void test_failed_start_keeps_status(void)
{
    TestVm *vm = test_vm_new(false);
    BackupRequest req = test_request();
    g_autoptr(GError) err = NULL;
    BackupStatus st, st2;

    test_vm_add(vm, "d0", 65536, NULL);
    st = run_backup(vm, &req);
    mem_reset();
    mem.fail_at = 2; /* open */
    g_assert_null(backup_start(vm->mgr, &req, &err));
    g_assert_error(err, SIDECAR_ERROR, SIDECAR_ERROR_GENERIC);
    g_assert_cmpuint(mem.n_close, ==, 1);
    backup_query(vm->mgr, &st2);
    g_assert_cmpint(st2.status, ==, BACKUP_STATUS_DONE);
    g_assert_cmpstr(st2.uuid, ==, st.uuid);
    backup_status_clear(&st);
    backup_status_clear(&st2);
    test_vm_free(vm);
}

/* The limit is a lower bound for the time, and holes do not count. */
static void test_speed(void)
{
    TestVm *vm = test_vm_new(false);
    BackupRequest req = test_request();
    int64_t start = g_get_monotonic_time();
    BlockBackend *blk = test_vm_add(vm, "d0", 1 << 30, NULL);
    g_autofree uint8_t *data = g_malloc(2 << 20);
    BackupStatus st;

    memset(data, 7, 2 << 20);
    g_assert_cmpint(blk_pwrite(blk, 5 << 20, 2 << 20, data, 0), ==, 0);
    req.speed = 4 << 20;
    st = run_backup(vm, &req);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_DONE);
    /* 2 MiB at 4 MiB/s, less the burst of 0.1 s and the last cluster */
    g_assert_cmpint(g_get_monotonic_time() - start, >, 350000);
    backup_status_clear(&st);
    test_vm_free(vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backup/sizes", test_sizes);
    g_test_add_func("/backup/holes", test_holes);
    g_test_add_func("/backup/refused/drives", test_refused_drives);
    g_test_add_func("/backup/refused/no-usable-drive", test_no_usable_drive);
    g_test_add_func("/backup/refused/requests", test_refused_requests);
    g_test_add_func("/backup/refused/second", test_second_is_refused);
    g_test_add_func("/backup/refused/status-is-kept", test_failed_start_keeps_status);
    g_test_add_func("/backup/drives-are-chosen", test_drives_are_chosen);
    g_test_add_func("/backup/fd-is-taken-over", test_fd_is_taken_over);
    g_test_add_func("/backup/configs", test_configs);
    g_test_add_func("/backup/config-fifo", test_config_fifo);
    g_test_add_func("/backup/status", test_status_tells_the_story);
    g_test_add_func("/backup/speed", test_speed);
    return g_test_run();
}
