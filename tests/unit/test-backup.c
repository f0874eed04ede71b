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

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backup/sizes", test_sizes);
    g_test_add_func("/backup/holes", test_holes);
    return g_test_run();
}
