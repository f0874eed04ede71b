/*
 * Backups of drives that cannot be read, or only slowly: the protocol `fault'
 * below a real image.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "backup-double.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTORS (BACKUP_CLUSTER_SIZE / 512)

/* The N-th read fails, for N = 1, 2, … until none does; some are the sweep's,
 * some belong to guests' writes. */
static void test_every_read_fails_once(void)
{
    bool done = false;
    unsigned n;

    for (n = 1; !done; n++) {
        TestVm *vm = test_vm_new(false);
        g_autofree char *rule = g_strdup_printf("fault:read#%u=EIO:", n);
        BlockBackend *blk = test_vm_add(vm, "d0", 9 * CLUSTER + 100, rule);
        BackupRequest req = test_request();
        BackupStatus st;

        test_fill(blk, n);
        test_start(vm, &req);
        test_write_clusters(blk, 3, 6);
        st = test_wait_end(vm->mgr);
        done = st.status == BACKUP_STATUS_DONE;
        if (!done) {
            g_assert_cmpint(st.status, ==, BACKUP_STATUS_ERROR);
            g_assert_nonnull(strstr(st.errmsg, "device 'd0': reading"));
            g_assert_nonnull(strstr(st.errmsg, "Input/output error"));
            g_assert_cmpuint(mem.n_complete, ==, 0);
        }
        g_assert_cmpuint(mem.n_close, ==, 1);
        test_assert_drive_is_free(blk);
        backup_status_clear(&st);
        test_vm_free(vm);
    }
    g_assert_cmpuint(n, >, 4); /* those that the guest leaves to the sweep */
}

static void assert_active(TestVm *vm)
{
    BackupStatus st;

    backup_query(vm->mgr, &st);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_ACTIVE);
    backup_status_clear(&st);
}

/* The sweep sleeps for hours, so that it is a guest that meets the sector; a
 * small write next to it does not read it. */
static void test_unreadable_below_a_guests_write(void)
{
    TestVm *vm = test_vm_new(false);
    g_autofree char *rule = g_strdup_printf("fault:read/%d=EIO:", 5 * SECTORS + 7);
    BlockBackend *blk = test_vm_add(vm, "virtio7", 12 * CLUSTER, rule);
    g_autofree uint8_t *data = g_malloc0(8192);
    BackupRequest req = test_request();

    test_fill(blk, 1);
    req.speed = 1;
    test_start(vm, &req);
    g_assert_cmpint(blk_pwrite(blk, 5 * CLUSTER + 4096, 8, "12345678", 0), ==, 0);
    assert_active(vm);
    g_assert_cmpint(blk_pwrite(blk, 5 * CLUSTER + 4090, 4108, data, 0), ==, 0);
    test_assert_ended(vm, BACKUP_STATUS_ERROR, "device 'virtio7': reading 4096 bytes "
                      "at offset 327680: Input/output error");
    test_assert_drive_is_free(blk);
    test_vm_free(vm);
}

/* Holes are not read, by the sweep or, once it has found them, by guests'
 * writes; with a broken block status everything is read. */
static void test_holes_are_not_read(void)
{
    TestVm *vm = test_vm_new(false);
    g_autofree char *rule = g_strdup_printf("fault:read/%d-%d=EIO,read/%d=EIO:", 2 * SECTORS,
                                            9 * SECTORS - 1, 12 * SECTORS);
    BlockBackend *blk = test_vm_add(vm, "d0", 12 * CLUSTER + 100, rule);
    BackupRequest req = test_request();
    uint64_t transferred;
    BackupStatus st;

    test_write_clusters(blk, 0, 2);
    test_write_clusters(blk, 9, 3);
    req.speed = 1000000;
    test_start(vm, &req);
    do {
        g_usleep(200);
        backup_query(vm->mgr, &st);
        transferred = st.transferred;
        backup_status_clear(&st);
    } while (transferred < 7 * CLUSTER); /* the holes come first */
    test_write_clusters(blk, 2, 7);
    test_assert_ended(vm, BACKUP_STATUS_DONE, NULL);
    mem_assert_exactly_once();
    for (int64_t i = 2 * CLUSTER; i < 9 * CLUSTER; i++) {
        g_assert_cmpuint(mem.streams[0].data[i], ==, 0);
    }
    test_vm_free(vm);

    vm = test_vm_new(false);
    blk = test_vm_add(vm, "d0", 12 * CLUSTER, "fault:status=EIO:");
    req.speed = 0;
    test_start(vm, &req);
    test_write_clusters(blk, 4, 2);
    test_assert_ended(vm, BACKUP_STATUS_DONE, NULL);
    mem_assert_exactly_once();
    test_vm_free(vm);
}

typedef struct {
    BlockBackend *blk;
    int64_t cluster;
    atomic_bool returned;
    GThread *thread;
} SlowWrite;

static gpointer slow_write_thread(gpointer opaque)
{
    SlowWrite *w = opaque;

    test_write_clusters(w->blk, w->cluster, 1);
    atomic_store(&w->returned, true);
    return NULL;
}

static gpointer cancel_thread(gpointer mgr)
{
    backup_cancel(mgr);
    return NULL;
}

/*
 * The sweep hangs in reading cluster 1.  Writes do not care, not even those to
 * that cluster; what the sweep reads later is new by then, and yet the archive
 * gets the old.  A backup that is cancelled waits for the read, but nobody
 * else does.
 */
static void slow_sweep(bool cancel)
{
    TestVm *vm = test_vm_new(false);
    g_autofree char *fifo = test_vm_path(vm, "fifo");
    g_autofree char *rule = g_strdup_printf("fault:read#1/%d-%d=wait(%s):", SECTORS,
                                            2 * SECTORS - 1, fifo);
    BlockBackend *blk = test_vm_add(vm, "d0", 60 * CLUSTER, rule);
    g_autofree uint8_t *before = g_malloc(60 * CLUSTER);
    BackupRequest req = test_request();
    GThread *canceller = NULL;
    int fd;

    test_fill(blk, 1);
    test_fill_buffer(before, 60 * CLUSTER, 1);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    test_start(vm, &req);
    fd = open(fifo, O_WRONLY | O_CLOEXEC); /* returns once the sweep is there */
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(blk_pwrite(blk, CLUSTER + 5000, 4, "abcd", 0), ==, 0);
    test_write_clusters(blk, 0, 60);
    if (cancel) {
        canceller = g_thread_new("cancel", cancel_thread, vm->mgr);
        mem_wait_cancelled();
    }
    test_write_clusters(blk, 0, 60);
    assert_active(vm);
    close(fd);
    if (cancel) {
        g_thread_join(canceller);
        test_assert_ended(vm, BACKUP_STATUS_CANCELLED, NULL);
    } else {
        test_assert_ended(vm, BACKUP_STATUS_DONE, NULL);
        mem_assert_exactly_once();
        mem_assert_content("d0", before, 60 * CLUSTER);
    }
    test_assert_drive_is_free(blk);
    test_vm_free(vm);
}

static void test_guest_does_not_wait_for_the_sweeps_read(void)
{
    slow_sweep(false);
}

static void test_cancel_while_a_read_hangs(void)
{
    slow_sweep(true);
}

/* A guest's write hangs in reading what it will overwrite.  Others that touch
 * the same block go on; what the first one reads at last is new, and is thrown
 * away.  So is what it reads of a cluster that has been saved. */
static void test_guest_does_not_wait_for_a_guests_read(void)
{
    TestVm *vm = test_vm_new(false);
    g_autofree char *fifo = test_vm_path(vm, "fifo");
    g_autofree char *rule = g_strdup_printf("fault:read#1/%d-%d=wait(%s):", 20 * SECTORS,
                                            22 * SECTORS - 1, fifo);
    BlockBackend *blk = test_vm_add(vm, "d0", 60 * CLUSTER, rule);
    g_autofree uint8_t *before = g_malloc(60 * CLUSTER);
    SlowWrite w = { .blk = blk, .cluster = 20 };
    BackupRequest req = test_request();
    int fd;

    test_fill(blk, 1);
    test_fill_buffer(before, 60 * CLUSTER, 1);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    mem.hold_dump = true;
    req.buffer_size = 16 * CLUSTER; /* four for the sweep, so it does not get there */
    test_start(vm, &req);
    w.thread = g_thread_new("write", slow_write_thread, &w);
    fd = open(fifo, O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(blk_pwrite(blk, 20 * CLUSTER + 5000, 4, "abcd", 0), ==, 0);
    test_write_clusters(blk, 20, 1);
    g_assert_false(atomic_load(&w.returned));
    close(fd);
    g_thread_join(w.thread);
    mem_set(&mem.hold_dump, false);
    test_assert_ended(vm, BACKUP_STATUS_DONE, NULL);
    mem_assert_exactly_once();
    mem_assert_content("d0", before, 60 * CLUSTER);
    test_vm_free(vm);
}

/* The sweep comes to a cluster while a guest is still reading its part of it:
 * the sweep does not wait either. */
static void test_sweep_does_not_wait_for_a_guests_read(void)
{
    TestVm *vm = test_vm_new(false);
    g_autofree char *fifo = test_vm_path(vm, "fifo");
    g_autofree char *rule = g_strdup_printf("fault:read#1/%d-%d=wait(%s):", 20 * SECTORS,
                                            21 * SECTORS - 1, fifo);
    BlockBackend *blk = test_vm_add(vm, "d0", 60 * CLUSTER, rule);
    g_autofree uint8_t *before = g_malloc(60 * CLUSTER);
    SlowWrite w = { .blk = blk, .cluster = 20 };
    BackupRequest req = test_request();
    uint64_t transferred;
    BackupStatus st;
    int fd;

    test_fill(blk, 1);
    test_fill_buffer(before, 60 * CLUSTER, 1);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    mem.hold_dump = true;
    req.buffer_size = 16 * CLUSTER;
    test_start(vm, &req);
    w.thread = g_thread_new("write", slow_write_thread, &w);
    fd = open(fifo, O_WRONLY | O_CLOEXEC);
    mem_set(&mem.hold_dump, false);
    do { /* everything gets into the archive */
        g_usleep(200);
        backup_query(vm->mgr, &st);
        transferred = st.transferred;
        backup_status_clear(&st);
    } while (transferred < 60 * CLUSTER);
    g_assert_false(atomic_load(&w.returned));
    close(fd);
    g_thread_join(w.thread);
    test_assert_ended(vm, BACKUP_STATUS_DONE, NULL);
    mem_assert_exactly_once();
    mem_assert_content("d0", before, 60 * CLUSTER);
    test_vm_free(vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backup/disk/every-read-fails-once", test_every_read_fails_once);
    g_test_add_func("/backup/disk/unreadable-below-a-guests-write",
                    test_unreadable_below_a_guests_write);
    g_test_add_func("/backup/disk/holes-are-not-read", test_holes_are_not_read);
    g_test_add_func("/backup/disk/guest-does-not-wait-for-the-sweeps-read",
                    test_guest_does_not_wait_for_the_sweeps_read);
    g_test_add_func("/backup/disk/guest-does-not-wait-for-a-guests-read",
                    test_guest_does_not_wait_for_a_guests_read);
    g_test_add_func("/backup/disk/sweep-does-not-wait-for-a-guests-read",
                    test_sweep_does_not_wait_for_a_guests_read);
    g_test_add_func("/backup/disk/cancel-while-a-read-hangs", test_cancel_while_a_read_hangs);
    return g_test_run();
}
