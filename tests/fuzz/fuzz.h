/*
 * What a fuzz target needs to be run: by libFuzzer (build with clang
 * -fsanitize=fuzzer and -DFUZZ_ENGINE, which leaves out main), by AFL (a file
 * name, or the input on stdin), or by itself:
 *
 *     fuzz-x [FILE...]                    each file, or stdin, once
 *     fuzz-x --random [ROUNDS [SEED]]     changed copies of the built-in seeds
 *
 * A target defines LLVMFuzzerTestOneInput and fuzz_seeds; it fails by a crash or
 * a sanitizer's report.  With --random, an input that crashes is what the same
 * SEED gives again; it is also left in $TMPDIR/fuzz-crash while it runs if
 * FUZZ_KEEP is set in the environment.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Valid inputs to start from: GByteArray, owned by the array. */
GPtrArray *fuzz_seeds(void);

#ifndef FUZZ_ENGINE

#define FUZZ_MAX (256 * 1024)

/* Numbers that lengths and offsets do not like. */
static uint64_t fuzz_number(GRand *rand)
{
    static const uint64_t numbers[] = {
        0, 1, 2, 3, 7, 8, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000,
        0x1fffff, 0x2000000, 0x2000001, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff,
        0x100000000, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff,
    };

    return numbers[g_rand_int_range(rand, 0, G_N_ELEMENTS(numbers))];
}

static void fuzz_change(GRand *rand, GByteArray *b, GPtrArray *seeds)
{
    guint at = b->len ? (guint)g_rand_int_range(rand, 0, (gint32)b->len) : 0;
    guint left = b->len - at, n;
    GByteArray *other;
    uint64_t v = GUINT64_TO_BE(fuzz_number(rand));

    switch (g_rand_int_range(rand, 0, 7)) {
    case 0:
        if (left > 0) {
            b->data[at] ^= (uint8_t)(1 << g_rand_int_range(rand, 0, 8));
        }
        break;
    case 1: /* the low bytes of a big-endian number */
    case 2:
        n = 1U << g_rand_int_range(rand, 0, 4);
        n = MIN(n, left); /* MIN looks at its arguments twice */
        if (n > 0) {
            memcpy(b->data + at, (uint8_t *)&v + 8 - n, n);
        }
        break;
    case 3: /* cut out */
        n = left ? (guint)g_rand_int_range(rand, 0, (gint32)MIN(left, 64) + 1) : 0;
        g_byte_array_remove_range(b, at, n);
        break;
    case 4: /* cut off */
        if (g_rand_int_range(rand, 0, 4) == 0) {
            g_byte_array_set_size(b, at);
        }
        break;
    case 5: /* the end of another */
        other = g_ptr_array_index(seeds, g_rand_int_range(rand, 0, (gint32)seeds->len));
        if (other->len > 0) {
            n = (guint)g_rand_int_range(rand, 0, (gint32)other->len);
            g_byte_array_set_size(b, at);
            g_byte_array_append(b, other->data + n, other->len - n);
        }
        break;
    default: /* twice */
        if (left > 0 && b->len < FUZZ_MAX / 2) {
            g_autofree uint8_t *copy = g_memdup2(b->data + at, left);

            g_byte_array_append(b, copy, left);
        }
        break;
    }
}

static void fuzz_random(unsigned rounds, guint32 seed)
{
    GPtrArray *seeds = fuzz_seeds();
    GRand *rand = g_rand_new_with_seed(seed);

    for (guint i = 0; i < seeds->len; i++) {
        GByteArray *s = g_ptr_array_index(seeds, i);

        LLVMFuzzerTestOneInput(s->data, s->len);
    }
    for (unsigned i = 0; i < rounds; i++) {
        GByteArray *s = g_ptr_array_index(seeds, i % seeds->len);
        GByteArray *b = g_byte_array_new();

        g_byte_array_append(b, s->data, s->len);
        for (int n = g_rand_int_range(rand, 1, 6); n > 0; n--) {
            fuzz_change(rand, b, seeds);
        }
        if (g_getenv("FUZZ_KEEP")) {
            g_autofree char *path = g_build_filename(g_get_tmp_dir(), "fuzz-crash", NULL);

            g_file_set_contents(path, (const char *)b->data, b->len, NULL);
        }
        LLVMFuzzerTestOneInput(b->data, b->len);
        g_byte_array_unref(b);
    }
    g_rand_free(rand);
    g_ptr_array_unref(seeds);
}

static bool fuzz_file(FILE *f)
{
    g_autofree uint8_t *buf = g_malloc(FUZZ_MAX);
    size_t len = f ? fread(buf, 1, FUZZ_MAX, f) : 0;

    if (f) {
        LLVMFuzzerTestOneInput(buf, len);
        fclose(f);
    }
    return f != NULL;
}

int main(int argc, char **argv)
{
    bool ok = true;

    if (argc > 1 && strcmp(argv[1], "--random") == 0) {
        fuzz_random(argc > 2 ? (unsigned)atoi(argv[2]) : 10000,
                    argc > 3 ? (guint32)atoi(argv[3]) : 1);
        return 0;
    }
    for (int i = 1; i < argc; i++) {
        ok = fuzz_file(fopen(argv[i], "rb")) && ok;
    }
    return (argc > 1 ? ok : fuzz_file(stdin)) ? 0 : 1;
}

#endif
#endif
