/*
 * The Nth read, write or flush of a qcow2 image's file fails, for each N: the
 * request that needed it fails, what else was written is there, the image is
 * sound (leaks allowed), and goes on working if the fault was only once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

#include "../../block/qcow2.h"
#include "qcow2-test.h"

#define SIZE (512 * 1024)
#define SECTOR 512
#define FLAGS (BDRV_O_RDWR | BDRV_O_UNMAP)
#define OPERATIONS 40

static char *dir;

static char *path(const char *name)
{
    return block_test_path(dir, name);
}

typedef struct {
    uint8_t now[SIZE];       /* what the guest thinks it wrote */
    bool unsure[SIZE / SECTOR];  /* a request there failed */
    uint8_t flushed[SIZE];
    bool changed[SIZE / SECTOR]; /* since the last flush */
    bool failed;
} Guest;

static void mark(bool *sectors, int64_t offset, int64_t bytes, bool value)
{
    for (int64_t i = offset / SECTOR; i < (offset + bytes) / SECTOR; i++) {
        sectors[i] = value;
    }
}

static void guest_flush(BlockNode *bs, Guest *g)
{
    if (bdrv_flush(bs) < 0) {
        g->failed = true;
        return;
    }
    memcpy(g->flushed, g->now, SIZE);
    memcpy(g->changed, g->unsure, sizeof(g->unsure));
}

static void guest_write(BlockNode *bs, Guest *g, GRand *r)
{
    int64_t offset = g_rand_int_range(r, 0, SIZE / SECTOR) * SECTOR;
    int64_t bytes = g_rand_int_range(r, 1, MIN(64, (SIZE - offset) / SECTOR) + 1) *
                    SECTOR;
    bool zero = g_rand_int_range(r, 0, 4) == 0;
    int ret;

    block_test_fill(g->now + offset, bytes, g_rand_int(r));
    if (zero) {
        memset(g->now + offset, 0, bytes);
        ret = bdrv_pwrite_zeroes(bs, offset, bytes, BDRV_REQ_MAY_UNMAP);
    } else {
        ret = bdrv_pwrite(bs, offset, bytes, g->now + offset, 0);
    }
    mark(g->changed, offset, bytes, true);
    mark(g->unsure, offset, bytes, ret < 0);
    g->failed |= ret < 0;
}

static void guest_run(BlockNode *bs, Guest *g)
{
    GRand *r = g_rand_new_with_seed(42); /* the same each time: N counts up */
    uint8_t buf[SECTOR];

    for (unsigned i = 0; i < OPERATIONS; i++) {
        guest_write(bs, g, r);
        if (i % 6 == 5) {
            guest_flush(bs, g);
        }
        g->failed |= bdrv_pread(bs, g_rand_int_range(r, 0, SIZE / SECTOR) * SECTOR,
                                SECTOR, buf) < 0;
    }
    g_rand_free(r);
}

static void check_sectors(const char *img, const uint8_t *expected,
                          const bool *ignored)
{
    g_autoptr(BlockNode) bs = block_test_open(img, "qcow2", 0);
    g_autofree uint8_t *buf = g_malloc(SIZE);

    g_assert_cmpint(bdrv_pread(bs, 0, SIZE, buf), ==, 0);
    for (unsigned i = 0; i < SIZE / SECTOR; i++) {
        if (!ignored[i] && memcmp(buf + i * SECTOR, expected + i * SECTOR, SECTOR)) {
            g_test_message("sector %u", i);
            g_assert_not_reached();
        }
    }
}

/* False: the fault did not happen any more. */
static bool run_once(const char *start, const char *rule, unsigned n,
                     bool forever)
{
    g_autofree char *img = path("fault.qcow2");
    g_autofree char *name = g_strdup_printf("fault:%s#%u%s=EIO:%s", rule, n,
                                            forever ? "+" : "", img);
    Guest *g = g_new0(Guest, 1);
    BlockNode *bs;
    bool failed;

    g_assert_true(block_test_run("cp '%s' '%s'", start, img));
    bs = bdrv_open(name, "qcow2", FLAGS, NULL);
    failed = !bs;
    if (bs) {
        guest_run(bs, g);
        bdrv_unref(bs);
        failed = g->failed;
        check_sectors(img, forever ? g->flushed : g->now,
                      forever ? g->changed : g->unsure);
    }
    qcow2_test_check(img, true);
    g_free(g);
    return failed;
}

static void sweep(const char *options, const char *rule, bool forever)
{
    g_autofree char *start = path("start.qcow2");
    unsigned step = g_getenv("SIDECAR_TEST_LONG") ? 1 : 7, n, quiet = 0;

    qcow2_test_create(start, options, SIZE);
    for (n = 1; quiet < 3; n += step) {
        /* Reads of a slice may be repeated, so one pass is not the end. */
        quiet = run_once(start, rule, n, forever) ? 0 : quiet + 1;
    }
    g_test_message("%s %s: %u", options, rule, n);
    g_unlink(start);
}

static void test_faults(void)
{
    static const char *const options[] = { "cluster_size=512", "cluster_size=4k" };

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        sweep(options[i], "write", false);
        sweep(options[i], "write", true);
        sweep(options[i], "flush", false);
        sweep(options[i], "flush", true);
        sweep(options[i], "read", false);
    }
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = block_test_dir_new();
    g_test_add_func("/qcow2/faults", test_faults);
    ret = g_test_run();
    block_test_dir_remove(dir);
    return ret;
}
