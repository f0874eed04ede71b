/*
 * Fuzz target: the sections of drives in a migration stream.  Whatever comes, the
 * image keeps its size and the one that is read-only its bytes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../unit/stream-sample.h"
#include "fuzz.h"

#include <sys/stat.h>
#include <unistd.h>

#define LENGTH (2 * BLK_MIG_CHUNK + 512)

/* A drive over a file of its own that has no name any more. */
static int add_drive(BlockContext *ctx, const char *name, int flags)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("fuzz-XXXXXX", &path, NULL);
    g_autoptr(BlockNode) node = NULL;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, LENGTH), ==, 0);
    node = bdrv_open(path, "raw", flags | BDRV_O_NO_LOCK, NULL);
    g_assert_nonnull(node);
    unlink(path);
    g_assert_nonnull(blk_new(ctx, name, node, NULL));
    return fd;
}

static void check_file(int fd, bool untouched)
{
    struct stat st;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, LENGTH);
    g_assert_true(!untouched || st.st_blocks == 0);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    BlockContext *ctx = block_context_new();
    int rw = add_drive(ctx, "d", BDRV_O_RDWR), ro = add_drive(ctx, "ro", 0);
    BlockLoader *l = block_loader_new(ctx);
    GByteArray *bytes = g_byte_array_new();
    QEMUFile *f;

    blk_new(ctx, "empty", NULL, NULL);
    g_byte_array_append(bytes, data, (guint)size);
    f = sample_file(bytes, 1000);
    while (block_loader_load(l, f, NULL)) {
    }
    block_loader_flush(l, NULL);
    block_loader_free(l);
    block_context_free(ctx);
    check_file(rw, false);
    check_file(ro, true);
    qemu_file_abandon(f);
    g_byte_array_unref(bytes);
    return 0;
}

static void put_zeros(QEMUFile *f, uint64_t offset, const char *name)
{
    qemu_put_be64(f, offset | BLK_MIG_FLAG_DEVICE_BLOCK |
                  BLK_MIG_FLAG_ZERO_BLOCK);
    qemu_put_counted_string(f, name);
}

GPtrArray *fuzz_seeds(void)
{
    GPtrArray *seeds =
        g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);
    static const char *const names[] = { "d", "ro", "empty" };

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        GByteArray *bytes = g_byte_array_new();
        QEMUFile *f = sample_file(bytes, 0);

        qemu_put_be64(f, BLK_MIG_FLAG_EOS);
        qemu_put_be64(f, 25 << BLK_MIG_SECTOR_BITS | BLK_MIG_FLAG_PROGRESS);
        put_zeros(f, 0, "d");
        qemu_put_be64(f, LENGTH | BLK_MIG_FLAG_EOS);
        put_zeros(f, 2 * BLK_MIG_CHUNK, "d");
        put_zeros(f, BLK_MIG_CHUNK, names[i]);
        qemu_put_be64(f, BLK_MIG_FLAG_EOS);
        g_assert_true(qemu_file_close(f, NULL));
        g_ptr_array_add(seeds, bytes);
    }
    return seeds;
}
