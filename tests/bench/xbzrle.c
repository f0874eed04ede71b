/*
 * Throughput of the XBZRLE codec on one core, as bytes of pages a second and as
 * a share of memcpy over the same pages.  Prints a Markdown row per pattern and
 * variant.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/xbzrle.h"

#include <glib.h>
#include <stdio.h>
#include <string.h>

#define PAGE 4096
#define PAGES (16 * 1024 * 1024 / PAGE)
#define RUNS 9

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

/* Median GB/s of @fn over all pages. */
static double measure(void (*fn)(const void *), const void *arg)
{
    double gbps[RUNS];

    for (unsigned r = 0; r < RUNS; r++) {
        unsigned times = 0;
        gint64 start = g_get_monotonic_time(), end;

        do {
            fn(arg);
            times++;
            end = g_get_monotonic_time();
        } while (end - start < 50000);
        gbps[r] = times * (double)PAGES * PAGE / 1000 / (end - start);
    }
    qsort(gbps, RUNS, sizeof(gbps[0]), compare);
    return gbps[RUNS / 2];
}

static void do_copy(const void *arg)
{
    for (size_t i = 0; i < PAGES; i++) {
        memcpy(copy + i * PAGE, new_ram + i * PAGE, PAGE);
    }
    __asm__ volatile("" : : "r"(copy) : "memory");
}

static void do_encode(const void *arg)
{
    XbzrleEncodeFn *encode = *(XbzrleEncodeFn *const *)arg;

    for (size_t i = 0; i < PAGES; i++) {
        encoded_len[i] = encode(old_ram + i * PAGE, new_ram + i * PAGE, PAGE,
                                encoded + i * PAGE, PAGE);
    }
}

static void do_decode(const void *arg)
{
    for (size_t i = 0; i < PAGES; i++) {
        if (encoded_len[i] > 0 &&
            xbzrle_decode(encoded + i * PAGE, encoded_len[i], copy + i * PAGE,
                          PAGE) < 0) {
            abort();
        }
    }
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
    printf("| pages | variant | encode GB/s | of memcpy | decode GB/s | encoded "
           "bytes a page |\n|---|---|---|---|---|---|\n");
    for (unsigned p = 0; p < G_N_ELEMENTS(patterns); p++) {
        pattern(patterns[p]);
        double base = measure(do_copy, NULL);

        for (const XbzrleVariant *v = xbzrle_variants; v->name; v++) {
            if (!v->supported()) {
                continue;
            }
            double enc = measure(do_encode, &v->encode);
            memcpy(copy, old_ram, PAGES * PAGE);
            double dec = measure(do_decode, NULL);

            printf("| %s | %s | %.1f | %.2f | %.1f | %d |\n", patterns[p],
                   v->name, enc, enc / base, dec, encoded_len[1]);
        }
    }
    return 0;
}
