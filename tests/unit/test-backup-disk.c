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

/* The N-th read fails, for N = 1, 2, … until none does; sweep and guest share
 * the reads between them. */
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
    g_assert_cmpuint(n, ==, 10 + 1 + 1); /* each cluster was read once */
}

/* The sweep sleeps for hours, so that it is a guest that reads cluster 5. */
static void test_unreadable_below_a_guests_write(void)
{
    TestVm *vm = test_vm_new(false);
    g_autofree char *rule = g_strdup_printf("fault:read/%d=EIO:", 5 * SECTORS + 7);
    BlockBackend *blk = test_vm_add(vm, "virtio7", 12 * CLUSTER, rule);
    BackupRequest req = test_request();

    test_fill(blk, 1);
    req.speed = 1;
    test_start(vm, &req);
    test_write_clusters(blk, 3, 6);
    test_assert_ended(vm, BACKUP_STATUS_ERROR, "device 'virtio7': reading 65536 bytes "
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

/* While the sweep sleeps, nothing is claimed and not read. */
static void test_sweep_sleeps_with_nothing_claimed(void)
{
    TestVm *vm = test_vm_new(false);
    BlockBackend *blk = test_vm_add(vm, "d0", 12 * CLUSTER, NULL);
    BackupRequest req = test_request();
    uint64_t memory;
    BackupStatus st;

    test_fill(blk, 1);
    req.speed = 1;
    test_start(vm, &req);
    do {
        g_usleep(200);
        backup_query(vm->mgr, &st);
        memory = st.memory;
        backup_status_clear(&st);
    } while (!memory); /* the sweep has begun with the first cluster */
    test_write_clusters(blk, 0, 12);
    backup_cancel(vm->mgr);
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
 * The sweep hangs in reading cluster 1.  A write to it waits for just that;
 * writes elsewhere do not.  So it is with a backup that is cancelled then,
 * except that nobody waits for the read any more but the backup itself.
 */
static void slow_read(bool cancel)
{
    TestVm *vm = test_vm_new(false);
    g_autofree char *fifo = test_vm_path(vm, "fifo");
    g_autofree char *rule = g_strdup_printf("fault:read#1/%d-%d=wait(%s):", SECTORS,
                                            2 * SECTORS - 1, fifo);
    BlockBackend *blk = test_vm_add(vm, "d0", 60 * CLUSTER, rule);
    SlowWrite w = { .blk = blk, .cluster = 1 };
    BackupRequest req = test_request();
    GThread *canceller = NULL;
    BackupStatus st;
    int fd;

    test_fill(blk, 1);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    test_start(vm, &req);
    fd = open(fifo, O_WRONLY | O_CLOEXEC); /* returns once the sweep is there */
    g_assert_cmpint(fd, >=, 0);
    w.thread = g_thread_new("write", slow_write_thread, &w);
    test_write_clusters(blk, 30, 30);
    g_assert_false(atomic_load(&w.returned));
    if (cancel) {
        canceller = g_thread_new("cancel", cancel_thread, vm->mgr);
        g_thread_join(w.thread); /* it need not wait any more */
    }
    backup_query(vm->mgr, &st);
    g_assert_cmpint(st.status, ==, BACKUP_STATUS_ACTIVE);
    backup_status_clear(&st);
    close(fd);
    if (cancel) {
        g_thread_join(canceller);
        test_assert_ended(vm, BACKUP_STATUS_CANCELLED, NULL);
    } else {
        g_thread_join(w.thread);
        test_assert_ended(vm, BACKUP_STATUS_DONE, NULL);
        mem_assert_exactly_once();
    }
    test_assert_drive_is_free(blk);
    test_vm_free(vm);
}

static void test_guest_waits_for_the_sweeps_read(void)
{
    slow_read(false);
}

static void test_cancel_while_a_read_hangs(void)
{
    slow_read(true);
}

/* Guests' writes meet in a cluster that one of them is still reading. */
static void test_guests_wait_for_a_guests_read(void)
{
    TestVm *vm = test_vm_new(false);
    g_autofree char *fifo = test_vm_path(vm, "fifo");
    g_autofree char *rule = g_strdup_printf("fault:read#1/%d-%d=wait(%s):", 20 * SECTORS,
                                            21 * SECTORS - 1, fifo);
    BlockBackend *blk = test_vm_add(vm, "d0", 60 * CLUSTER, rule);
    SlowWrite w[3] = { 0 };
    BackupRequest req = test_request();
    int fd;

    test_fill(blk, 1);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    req.speed = 1;
    test_start(vm, &req);
    for (size_t i = 0; i < G_N_ELEMENTS(w); i++) {
        w[i].blk = blk;
        w[i].cluster = 20;
        w[i].thread = g_thread_new("write", slow_write_thread, &w[i]);
    }
    fd = open(fifo, O_WRONLY | O_CLOEXEC);
    test_write_clusters(blk, 30, 30);
    for (size_t i = 0; i < G_N_ELEMENTS(w); i++) {
        g_assert_false(atomic_load(&w[i].returned));
    }
    close(fd);
    for (size_t i = 0; i < G_N_ELEMENTS(w); i++) {
        g_thread_join(w[i].thread);
    }
    backup_cancel(vm->mgr);
    test_vm_free(vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backup/disk/every-read-fails-once", test_every_read_fails_once);
    g_test_add_func("/backup/disk/unreadable-below-a-guests-write",
                    test_unreadable_below_a_guests_write);
    g_test_add_func("/backup/disk/holes-are-not-read", test_holes_are_not_read);
    g_test_add_func("/backup/disk/sweep-sleeps-with-nothing-claimed",
                    test_sweep_sleeps_with_nothing_claimed);
    g_test_add_func("/backup/disk/guest-waits-for-the-sweeps-read",
                    test_guest_waits_for_the_sweeps_read);
    g_test_add_func("/backup/disk/guests-wait-for-a-guests-read",
                    test_guests_wait_for_a_guests_read);
    g_test_add_func("/backup/disk/cancel-while-a-read-hangs", test_cancel_while_a_read_hangs);
    return g_test_run();
}
