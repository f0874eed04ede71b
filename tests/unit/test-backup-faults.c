/*
 * Backups that go wrong: the archive fails, is slow, or hangs; the drives
 * cannot be read; somebody cancels.  Whatever happens, guests' requests go on
 * and nothing is left behind.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "backup-double.h"

#include "util/error.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>

static unsigned count_fds(void)
{
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    g_dir_close(dir);
    return n;
}

/* ---- the archive fails -------------------------------------------------------- */

/* The N-th call of the driver fails, for N = 1, 2, … until none does. */
static void test_every_call_fails_once(void)
{
    TestVm *vm = test_vm_new(false);
    BlockBackend *blk = test_vm_add(vm, "d0", 12 * CLUSTER, NULL);
    BackupRequest req = test_request();
    g_autofree char *conf = test_vm_path(vm, "conf");
    const char *configs[] = { conf, NULL };
    unsigned n_fds, n_started = 0, n;
    bool done = false;

    g_assert_true(g_file_set_contents(conf, "x", -1, NULL));
    req.config_files = configs;
    test_vm_add(vm, "d1", 5 * CLUSTER, NULL);
    test_fill(blk, 1);
    n_fds = count_fds();
    for (n = 1; !done; n++) {
        g_autoptr(GError) err = NULL;
        g_autofree char *uuid = NULL;
        g_autofree char *words = g_strdup_printf("call %u fails", n);

        mem_reset();
        mem.fail_at = n;
        uuid = backup_start(vm->mgr, &req, &err);
        g_assert_true(!uuid == !!err);
        if (err) {
            g_assert_nonnull(strstr(err->message, words));
        } else {
            test_write_clusters(blk, 0, 12);
            n_started++;
        }
        if (uuid) {
            BackupStatus st = test_wait_end(vm->mgr);

            done = st.status == BACKUP_STATUS_DONE;
            if (!done) {
                g_assert_cmpint(st.status, ==, BACKUP_STATUS_ERROR);
                g_assert_nonnull(strstr(st.errmsg, words));
            }
            backup_status_clear(&st);
        }
        g_assert_cmpuint(mem.n_close, ==, mem.n_new);
        test_assert_drive_is_free(blk);
        g_assert_cmpuint(count_fds(), ==, n_fds);
    }
    /* new, open, a config, 2 streams, 17 clusters, complete */
    g_assert_cmpuint(n, ==, 1 + 1 + 1 + 1 + 2 + 17 + 1 + 1);
    g_assert_cmpuint(n_started, >=, 18);
    test_vm_free(vm);
}

/* ---- the archive hangs ---------------------------------------------------------- */

static gpointer start_in_thread(gpointer opaque)
{
    TestVm *vm = opaque;
    BackupRequest req = test_request();
    GError *err = NULL;

    g_assert_null(backup_start(vm->mgr, &req, &err));
    return err;
}

/* Opening the archive waits: guests do not, it can be seen and cancelled. */
static void test_open_hangs(void)
{
    TestVm *vm = test_vm_new(false);
    BlockBackend *blk = test_vm_add(vm, "d0", 12 * CLUSTER, NULL);
    GThread *thread;
    BackupStatus st;
    GError *err;

    mem.hold_open = true;
    thread = g_thread_new("start", start_in_thread, vm);
    mem_wait_held();
    test_write_clusters(blk, 0, 12);
    backup_query(vm->mgr, &st);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_ACTIVE);
    backup_status_clear(&st);
    backup_cancel(vm->mgr);
    err = g_thread_join(thread);
    g_assert_error(err, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED);
    g_error_free(err);
    test_assert_ended(vm, BACKUP_STATUS_CANCELLED, NULL);
    g_assert_cmpuint(mem.n_close, ==, 1);
    test_assert_drive_is_free(blk);
    test_vm_free(vm);
}

/* The archive takes nothing: all guests' writes go on, the whole drive over,
 * twice, through memory and the spill file; then it takes everything after
 * all. */
static void test_dump_hangs_and_goes_on(void)
{
    enum { N = 100 };
    TestVm *vm = test_vm_new(false);
    BlockBackend *blk = test_vm_add(vm, "d0", N * CLUSTER, NULL);
    BackupRequest req = test_request();
    g_autofree uint8_t *before = NULL;
    BackupStatus st;

    test_fill(blk, 3);
    before = test_read_all(blk);
    req.buffer_size = 16 * CLUSTER;
    req.spill_dir = vm->dir;
    mem.hold_dump = true;
    test_start(vm, &req);
    mem_wait_held();
    test_write_clusters(blk, 0, N);
    test_write_clusters(blk, 0, N);
    backup_query(vm->mgr, &st);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_ACTIVE);
    /* the sweep got at most five clusters before, guests keep twelve in memory */
    g_assert_cmpuint(st.spilled, >=, (N - 5 - 12) * CLUSTER);
    g_assert_cmpuint(st.memory, ==, 12 * CLUSTER);
    backup_status_clear(&st);
    mem_set(&mem.hold_dump, false);
    test_assert_ended(vm, BACKUP_STATUS_DONE, NULL);
    mem_assert_exactly_once();
    mem_assert_content("d0", before, N * CLUSTER);
    test_vm_free(vm);
}

/* One write over everything: it gets through in one go. */
static void test_one_large_write(void)
{
    enum { N = 100 };
    TestVm *vm = test_vm_new(false);
    BlockBackend *blk = test_vm_add(vm, "d0", N * CLUSTER, NULL);
    BackupRequest req = test_request();
    g_autofree uint8_t *before = NULL;

    test_fill(blk, 3);
    before = test_read_all(blk);
    req.buffer_size = 16 * CLUSTER;
    req.spill_dir = vm->dir;
    mem.hold_dump = true;
    test_start(vm, &req);
    g_assert_cmpint(blk_pwrite_zeroes(blk, 1, N * CLUSTER - 2, 0), ==, 0);
    mem_set(&mem.hold_dump, false);
    test_assert_ended(vm, BACKUP_STATUS_DONE, NULL);
    mem_assert_exactly_once();
    mem_assert_content("d0", before, N * CLUSTER);
    test_vm_free(vm);
}

/* The sweep sleeps for hours because of a speed limit, memory is small, and
 * there is no spill file: what the guest overwrites is saved all the same. */
static void test_speed_limit_does_not_hold_guests(void)
{
    enum { N = 60 };
    TestVm *vm = test_vm_new(false);
    BlockBackend *blk = test_vm_add(vm, "d0", N * CLUSTER, NULL);
    BackupRequest req = test_request();
    g_autofree uint8_t *before = NULL;
    unsigned n_dumped = 0;

    test_fill(blk, 3);
    before = test_read_all(blk);
    req.buffer_size = 16 * CLUSTER;
    req.spill_limit = -1;
    req.stall_ms = 30000;
    req.speed = 1;
    test_start(vm, &req);
    test_write_clusters(blk, 0, N);
    backup_cancel(vm->mgr);
    test_assert_ended(vm, BACKUP_STATUS_CANCELLED, NULL);
    for (unsigned c = 0; c < N; c++) {
        if (mem.streams[0].n_dumped[c]) {
            g_assert_cmpint(memcmp(before + c * CLUSTER, mem.streams[0].data + c * CLUSTER,
                                   CLUSTER), ==, 0);
            n_dumped++;
        }
    }
    g_assert_cmpuint(n_dumped, >=, N - 12 - 4); /* memory, queue */
    test_vm_free(vm);
}

/* No room anywhere: the backup is given up, the guest's write is not. */
static void check_gives_up(int64_t spill_limit, const char *spill_dir, const char *words)
{
    enum { N = 100 };
    TestVm *vm = test_vm_new(false);
    BlockBackend *blk = test_vm_add(vm, "d0", N * CLUSTER, NULL);
    BackupRequest req = test_request();

    test_fill(blk, 3);
    req.buffer_size = 16 * CLUSTER;
    req.spill_dir = spill_dir ? spill_dir : vm->dir;
    req.spill_limit = spill_limit;
    req.stall_ms = 50;
    mem.hold_dump = true;
    test_start(vm, &req);
    test_write_clusters(blk, 0, N);
    test_assert_ended(vm, BACKUP_STATUS_ERROR, words);
    test_assert_drive_is_free(blk);
    test_vm_free(vm);
}

static void test_no_spill_allowed(void)
{
    check_gives_up(-1, NULL, "the archive is too slow: the guest waited 0.0 seconds for room "
                   "(memory of 786432 bytes is full; no temporary file is allowed)");
}

static void test_spill_limit(void)
{
    check_gives_up(40 * CLUSTER, NULL, "its limit of 2621440 bytes is reached");
}

static void test_spill_folder_is_missing(void)
{
    check_gives_up(0, "/nonexistent/folder", "temporary file in /nonexistent/folder: No such file");
}

/* The disk with the spill file is full: as far as it went all is well, then
 * guests wait for the archive. */
static void spill_file_ends_at(int64_t bytes, bool go_on)
{
    enum { N = 60 };
    TestVm *vm = test_vm_new(false);
    BlockBackend *d0 = test_vm_add(vm, "d0", N * CLUSTER, NULL);
    BlockBackend *d1 = test_vm_add(vm, "d1", N * CLUSTER, NULL);
    g_autofree uint8_t *before0 = NULL, *before1 = NULL;
    BackupRequest req = test_request();
    struct rlimit old, small;

    test_fill(d0, 1);
    test_fill(d1, 2);
    before0 = test_read_all(d0);
    before1 = test_read_all(d1);
    req.buffer_size = 16 * CLUSTER;
    req.spill_dir = vm->dir;
    req.stall_ms = go_on ? 100000 : 50;
    mem.dump_delay_us = 2000;
    mem.hold_dump = !go_on;
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = bytes; /* the drives are smaller */
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    test_start(vm, &req);
    test_write_clusters(d0, 0, N);
    test_write_clusters(d1, 0, N);
    setrlimit(RLIMIT_FSIZE, &old);
    if (go_on) {
        test_assert_ended(vm, BACKUP_STATUS_DONE, NULL);
        mem_assert_exactly_once();
        mem_assert_content("d0", before0, N * CLUSTER);
        mem_assert_content("d1", before1, N * CLUSTER);
    } else {
        test_assert_ended(vm, BACKUP_STATUS_ERROR, "File too large");
    }
    test_assert_drive_is_free(d0);
    test_assert_drive_is_free(d1);
    test_vm_free(vm);
}

static void test_spill_disk_full_slow_archive(void)
{
    spill_file_ends_at(70 * CLUSTER, true);
}

static void test_spill_disk_full_dead_archive(void)
{
    spill_file_ends_at(70 * CLUSTER + 1000, false);
}

/* ---- cancel ------------------------------------------------------------------------ */

static void cancel_while_held(bool *hold, unsigned n_calls_before)
{
    TestVm *vm = test_vm_new(false);
    BlockBackend *blk = test_vm_add(vm, "d0", 40 * CLUSTER, NULL);
    BackupRequest req = test_request();

    test_fill(blk, 1);
    req.buffer_size = 16 * CLUSTER;
    *hold = true;
    test_start(vm, &req);
    mem_wait_held();
    backup_cancel(vm->mgr);
    g_assert_cmpuint(mem.n_close, ==, 1);
    g_assert_cmpuint(mem.n_complete, ==, 0);
    g_assert_cmpuint(mem.n_calls, >=, n_calls_before);
    test_assert_ended(vm, BACKUP_STATUS_CANCELLED, NULL);
    test_assert_drive_is_free(blk);
    backup_cancel(vm->mgr); /* nothing to cancel: no harm */
    test_assert_ended(vm, BACKUP_STATUS_CANCELLED, NULL);
    test_vm_free(vm);
}

static void test_cancel_in_dump(void)
{
    cancel_while_held(&mem.hold_dump, 4);
}

static void test_cancel_in_complete(void)
{
    cancel_while_held(&mem.hold_complete, 4 + 40);
}

/* A speed so low that the sweep sleeps all day. */
static void test_cancel_in_speed_limit(void)
{
    TestVm *vm = test_vm_new(false);
    BlockBackend *blk = test_vm_add(vm, "d0", 40 * CLUSTER, NULL);
    BackupRequest req = test_request();

    test_fill(blk, 1);
    req.speed = 1;
    test_start(vm, &req);
    test_write_clusters(blk, 10, 20); /* guests are not limited */
    backup_cancel(vm->mgr);
    test_assert_ended(vm, BACKUP_STATUS_CANCELLED, NULL);
    test_assert_drive_is_free(blk);
    test_vm_free(vm);
}

static void test_cancel_with_no_backup(void)
{
    TestVm *vm = test_vm_new(false);

    backup_cancel(vm->mgr);
    test_assert_ended(vm, BACKUP_STATUS_NONE, NULL);
    test_vm_free(vm);
}

/* The VM ends in the middle of a backup. */
static void test_manager_goes_away(void)
{
    TestVm *vm = test_vm_new(false);

    test_vm_add(vm, "d0", 40 * CLUSTER, NULL);
    mem.hold_dump = true;
    test_start(vm, &(BackupRequest){ .backup_file = "x", .target_fd = -1 });
    test_vm_free(vm);
}

/* A guest's write that waits for room is let go by a cancel. */
static gpointer write_in_thread(gpointer opaque)
{
    test_write_clusters(opaque, 0, 40);
    return NULL;
}

static void test_cancel_frees_waiting_guest(void)
{
    TestVm *vm = test_vm_new(false);
    BlockBackend *blk = test_vm_add(vm, "d0", 40 * CLUSTER, NULL);
    BackupRequest req = test_request();
    GThread *thread;
    uint64_t memory;

    test_fill(blk, 1);
    req.buffer_size = 16 * CLUSTER;
    req.spill_limit = -1;
    req.stall_ms = 1000000000;
    mem.hold_dump = true;
    test_start(vm, &req);
    thread = g_thread_new("guest", write_in_thread, blk);
    do { /* until all memory is taken */
        BackupStatus st;

        g_usleep(200);
        backup_query(vm->mgr, &st);
        memory = st.memory;
        backup_status_clear(&st);
    } while (memory < 12 * CLUSTER);
    backup_cancel(vm->mgr);
    g_thread_join(thread);
    test_assert_ended(vm, BACKUP_STATUS_CANCELLED, NULL);
    test_vm_free(vm);
}

/* A hundred backups, half of them cancelled, leave nothing open. */
static void test_nothing_leaks(void)
{
    TestVm *vm = test_vm_new(false);
    BlockBackend *blk = test_vm_add(vm, "d0", 10 * CLUSTER, NULL);
    BackupRequest req = test_request();
    unsigned n_fds = count_fds();

    req.spill_dir = vm->dir;
    for (unsigned i = 0; i < 100; i++) {
        mem_reset();
        test_start(vm, &req);
        test_write_clusters(blk, 0, 10);
        if (i % 2) {
            backup_cancel(vm->mgr);
        } else {
            test_assert_ended(vm, BACKUP_STATUS_DONE, NULL);
        }
        g_assert_cmpuint(count_fds(), ==, n_fds);
    }
    test_assert_drive_is_free(blk);
    test_vm_free(vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backup/every-call-fails-once", test_every_call_fails_once);
    g_test_add_func("/backup/hangs/open", test_open_hangs);
    g_test_add_func("/backup/hangs/dump-and-goes-on", test_dump_hangs_and_goes_on);
    g_test_add_func("/backup/hangs/one-large-write", test_one_large_write);
    g_test_add_func("/backup/speed-limit-does-not-hold-guests",
                    test_speed_limit_does_not_hold_guests);
    g_test_add_func("/backup/gives-up/no-spill-allowed", test_no_spill_allowed);
    g_test_add_func("/backup/gives-up/spill-limit", test_spill_limit);
    g_test_add_func("/backup/gives-up/spill-folder-is-missing", test_spill_folder_is_missing);
    g_test_add_func("/backup/gives-up/spill-disk-full", test_spill_disk_full_dead_archive);
    g_test_add_func("/backup/spill-disk-full", test_spill_disk_full_slow_archive);
    g_test_add_func("/backup/cancel/in-dump", test_cancel_in_dump);
    g_test_add_func("/backup/cancel/in-complete", test_cancel_in_complete);
    g_test_add_func("/backup/cancel/in-speed-limit", test_cancel_in_speed_limit);
    g_test_add_func("/backup/cancel/no-backup", test_cancel_with_no_backup);
    g_test_add_func("/backup/cancel/manager-goes-away", test_manager_goes_away);
    g_test_add_func("/backup/cancel/frees-waiting-guest", test_cancel_frees_waiting_guest);
    g_test_add_func("/backup/nothing-leaks", test_nothing_leaks);
    return g_test_run();
}
