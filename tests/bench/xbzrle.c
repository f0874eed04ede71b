/*
 * Throughput of the XBZRLE codec on one core, as bytes of pages a second and as
 * a share of memcpy over the same pages.  Prints a Markdown row per pattern and
 * variant of the encoder; the decoder is the same for all.
 *
 * Two sizes: a few pages over and over, which the processor's own cache holds,
 * show what the codec takes; 16 MiB of old and of new pages, which it does not
 * hold, show what is left of that when memory has to be waited for, as in a
 * migration.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/xbzrle.h"

#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define PAGE 4096
#define PAGES ((size_t)16 * 1024 * 1024 / PAGE)
#define FEW_PAGES ((size_t)4) /* old and new ones: 32 KiB */
#define RUNS 9

typedef struct {
    XbzrleEncodeFn *encode;
    size_t pages;
} Work;

static uint8_t *old_ram, *new_ram, *copy, *encoded;
static int encoded_len[PAGES];

static void pattern(const char *name)
{
    memcpy(new_ram, old_ram, PAGES * PAGE);
    for (size_t i = 0; i < PAGES * PAGE; i++) {
        if ((!strcmp(name, "sparse") && i % 1111 < 12) ||
            (!strcmp(name, "word of 256") && i % 256 < 8) ||
            (!strcmp(name, "dense") && i % 2)) {
            new_ram[i] ^= 0x5a;
        }
    }
}

static int compare(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;

    return d < 0 ? -1 : d > 0;
}

/* Time that this thread had the processor: others do not count. */
static int64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Median GB/s of @fn over the pages of @work. */
static double measure(void (*fn)(const Work *), const Work *work)
{
    double gbps[RUNS];

    fn(work);
    for (unsigned r = 0; r < RUNS; r++) {
        unsigned times = 0;
        int64_t start = cpu_ns(), end;

        do {
            for (size_t i = 0; i < PAGES; i += work->pages) {
                fn(work);
            }
            times++;
            end = cpu_ns();
        } while (end - start < 20 * 1000 * 1000);
        gbps[r] = times * (double)PAGES * PAGE / (end - start);
    }
    qsort(gbps, RUNS, sizeof(gbps[0]), compare);
    return gbps[RUNS / 2];
}

static void do_copy(const Work *w)
{
    for (size_t i = 0; i < w->pages; i++) {
        memcpy(copy + i * PAGE, new_ram + i * PAGE, PAGE);
        __asm__ volatile("" : : "r"(copy) : "memory");
    }
}

static void do_encode(const Work *w)
{
    for (size_t i = 0; i < w->pages; i++) {
        encoded_len[i] = w->encode(old_ram + i * PAGE, new_ram + i * PAGE, PAGE,
                                   encoded + i * PAGE, PAGE);
    }
}

static void do_decode(const Work *w)
{
    for (size_t i = 0; i < w->pages; i++) {
        if (xbzrle_decode(encoded + i * PAGE, encoded_len[i], copy + i * PAGE,
                          PAGE) < 0) {
            abort();
        }
    }
}

static void row(const char *name, const XbzrleVariant *v)
{
    Work few = { v->encode, FEW_PAGES }, all = { v->encode, PAGES };
    double cached = measure(do_encode, &few), far = measure(do_encode, &all);

    printf("| %s | %s | %.1f | %.2f | %.1f | %.2f |", name, v->name, cached,
           cached / measure(do_copy, &few), far, far / measure(do_copy, &all));
    if (v != xbzrle_variants || encoded_len[1] <= 0) {
        printf(" | | %d |\n", encoded_len[1]);
        return;
    }
    memcpy(copy, old_ram, PAGES * PAGE);
    printf(" %.1f | %.1f | %d |\n", measure(do_decode, &few),
           measure(do_decode, &all), encoded_len[1]);
}

int main(void)
{
    static const char *const patterns[] = { "sparse", "word of 256", "unchanged",
                                            "dense" };

    old_ram = g_malloc(PAGES * PAGE);
    new_ram = g_malloc(PAGES * PAGE);
    copy = g_malloc0(PAGES * PAGE);
    encoded = g_malloc0(PAGES * PAGE);
    for (size_t i = 0; i < PAGES * PAGE; i++) {
        old_ram[i] = i * 2654435761u >> 13;
    }
    printf("| pages | variant | encode, GB/s | of memcpy | 16 MiB | of memcpy | "
           "decode, GB/s | 16 MiB | bytes a page |\n"
           "|---|---|---|---|---|---|---|---|---|\n");
    for (unsigned p = 0; p < G_N_ELEMENTS(patterns); p++) {
        pattern(patterns[p]);
        for (const XbzrleVariant *v = xbzrle_variants; v->name; v++) {
            if (v->supported()) {
                row(patterns[p], v);
                fflush(stdout);
            }
        }
    }
    return 0;
}
