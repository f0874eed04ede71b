/*
 * What it costs to ask which pages of 1 GiB were written: by the kernel's page
 * tables and by comparison, the first time, with nothing written, and with every
 * hundredth page written.  The peer is reading that memory once, in the same run;
 * less is better.
 *
 * The memory is registered in this process, by the agent's own functions.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../emulator/agent/uffd.h"
#include "emulator/dirty-log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define MAX_RUNS 99

static uint64_t length = UINT64_C(1) << 30;
static unsigned runs = 5;
static int fd;
static uint8_t *ram;

static double ms_since(gint64 start)
{
    return (g_get_monotonic_time() - start) / 1000.0;
}

static double read_all(void)
{
    gint64 start = g_get_monotonic_time();
    const uint64_t *p = (const uint64_t *)ram;
    uint64_t sum[4] = { 0 };

    for (uint64_t i = 0; i < length / 8; i += 4) {
        for (unsigned k = 0; k < 4; k++) {
            sum[k] ^= p[i + k];
        }
    }
    __asm__ volatile("" : : "r"(sum[0] ^ sum[1] ^ sum[2] ^ sum[3]));
    return ms_since(start);
}

static double sync_once(DirtyLog *log, Bitmap *dirty)
{
    g_autoptr(GError) err = NULL;
    gint64 start = g_get_monotonic_time();

    if (!dirty_log_sync(log, dirty, &err)) {
        fprintf(stderr, "dirty-log: %s\n", err->message);
        exit(1);
    }
    return ms_since(start);
}

static int compare(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;

    return d < 0 ? -1 : d > 0;
}

static double median(double *v, double *spread)
{
    qsort(v, runs, sizeof(v[0]), compare);
    *spread = v[runs / 2] ? (v[runs - 1] - v[0]) / v[runs / 2] * 100 : 0;
    return v[runs / 2];
}

static void row(const char *kind, const char *what, double *ours, double *peer)
{
    double s1, s2, a = median(ours, &s1), b = median(peer, &s2);

    printf("| dirty log, 1 GiB: %s, %s | %.2f ms | %.0f ms | %.3f | %.0f %%, "
           "%.0f %% |\n", kind, what, a, b, a / b, s1, s2);
    fflush(stdout);
}

/* Mapped and registered anew: no page has been protected yet. */
static void map_again(int uffd)
{
    if (ram) {
        munmap(ram, length);
    }
    ram = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (ram == MAP_FAILED ||
        (uffd >= 0 && agent_uffd_register(uffd, ram, length) < 0)) {
        perror("dirty-log: memory");
        exit(1);
    }
}

static DirtyLog *new_log(bool pagemap)
{
    g_autoptr(GError) err = NULL;
    DirtyLog *log = pagemap ?
        dirty_log_new_pagemap(getpid(), (uintptr_t)ram, length, PAGE, NULL, &err) :
        dirty_log_new_compare(ram, fd, length, PAGE, &err);

    if (!log) {
        fprintf(stderr, "dirty-log: %s\n", err->message);
        exit(1);
    }
    return log;
}

static void measure(const char *kind, int uffd)
{
    double first[MAX_RUNS], idle[MAX_RUNS], busy[MAX_RUNS], peer[MAX_RUNS];
    g_autoptr(Bitmap) dirty = bitmap_new(length / PAGE);

    for (unsigned r = 0; r < runs; r++) {
        DirtyLog *log;

        map_again(uffd);
        log = new_log(uffd >= 0);
        read_all(); /* page tables are there */
        peer[r] = read_all();
        first[r] = sync_once(log, dirty);
        idle[r] = sync_once(log, dirty);
        for (uint64_t at = 0; at < length; at += 100 * PAGE) {
            ram[at]++;
        }
        bitmap_clear_range(dirty, 0, dirty->size);
        busy[r] = sync_once(log, dirty);
        if (bitmap_count(dirty) != (length / PAGE + 99) / 100) {
            fprintf(stderr, "dirty-log: %s: wrong pages\n", kind);
            exit(1);
        }
        dirty_log_free(log);
    }
    row(kind, "first scan", first, peer);
    row(kind, "nothing written", idle, peer);
    row(kind, "1 % of the pages written", busy, peer);
}

int main(void)
{
    g_autoptr(GError) err = NULL;
    int uffd;

    fd = memfd_create("ram", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, length) < 0) {
        perror("dirty-log: memory");
        return 1;
    }
    map_again(-1);
    for (uint64_t i = 0; i < length / 8; i++) {
        ((uint64_t *)ram)[i] = i * UINT64_C(0x9e3779b97f4a7c15);
    }
    measure("compared", -1);
    if (!dirty_log_pagemap_probe(&err)) {
        fprintf(stderr, "dirty-log: no page-table log: %s\n", err->message);
        return 0;
    }
    uffd = agent_uffd_open();
    if (uffd < 0) {
        perror("dirty-log: userfaultfd");
        return 1;
    }
    measure("page tables", uffd);
    return 0;
}
