/*
 * The log that compares, over so much memory that several threads share it:
 * exactly the pages that were written, at the edges of each share too.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/dirty-log.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES (130 * 256 + 77) /* 130 MiB and some pages: three shares at most */
#define LENGTH ((size_t)PAGE * PAGES)

typedef struct {
    uint8_t *ram;
    int fd;
    DirtyLog *log;
    Bitmap *dirty;
} Fixture;

static void set_up(Fixture *f, gconstpointer with_holes)
{
    f->fd = memfd_create("ram", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(f->fd, LENGTH), ==, 0);
    f->ram = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    g_assert_true(f->ram != MAP_FAILED);
    f->log = dirty_log_new_compare(f->ram, with_holes ? f->fd : 0, LENGTH, PAGE,
                                   NULL);
    f->dirty = bitmap_new(PAGES);
    g_assert_true(dirty_log_sync(f->log, f->dirty, NULL));
    g_assert_cmpuint(bitmap_count(f->dirty), ==, PAGES);
}

static void tear_down(Fixture *f, gconstpointer with_holes)
{
    dirty_log_free(f->log);
    bitmap_free(f->dirty);
    munmap(f->ram, LENGTH);
    close(f->fd);
}

/* Writes @pages (sorted or not, no page twice); a sync must name them and no other, and
 * have their content. */
static void write_and_sync(Fixture *f, const uint64_t *pages, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        f->ram[pages[i] * PAGE + g_test_rand_int_range(0, PAGE)]++;
    }
    bitmap_clear_range(f->dirty, 0, PAGES);
    g_assert_true(dirty_log_sync(f->log, f->dirty, NULL));
    g_assert_cmpuint(bitmap_count(f->dirty), ==, n);
    for (size_t i = 0; i < n; i++) {
        g_assert_true(bitmap_test(f->dirty, pages[i]));
        g_assert_cmpmem(f->log->view + pages[i] * PAGE, PAGE,
                        f->ram + pages[i] * PAGE, PAGE);
    }
}

static void test_pages(Fixture *f, gconstpointer with_holes)
{
    uint64_t pages[200];
    size_t n = 0;

    write_and_sync(f, NULL, 0);
    /* around each place where a share could end: halves, thirds, … */
    for (uint64_t parts = 1; parts <= 8; parts++) {
        uint64_t edge = (PAGES / parts + 63) / 64 * 64;

        write_and_sync(f, (uint64_t[]){ edge - 1 - 64 * (edge > PAGES), edge / 2 }, 2);
        if (edge + 1 < PAGES) {
            write_and_sync(f, (uint64_t[]){ edge, edge + 1 }, 2);
        }
    }
    write_and_sync(f, (uint64_t[]){ 0, PAGES - 1 }, 2);
    for (uint64_t at = 0; n < G_N_ELEMENTS(pages) && at < PAGES; n++) {
        pages[n] = at;
        at += g_test_rand_int_range(1, 300);
    }
    write_and_sync(f, pages, n);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/dirty-log-compare/file", Fixture, "", set_up, test_pages,
               tear_down);
    g_test_add("/dirty-log-compare/no-file", Fixture, NULL, set_up, test_pages,
               tear_down);
    return g_test_run();
}
