/*
 * XBZRLE: every variant against a slow reference written here, round trips on
 * many patterns, and a decoder that is fed rubbish.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/xbzrle.h"

#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096

static uint32_t rnd(void)
{
    return g_test_rand_int();
}

/* ---- the reference: a byte at a time, from the words of the header ------- */

static void ref_length(GByteArray *out, unsigned n)
{
    uint8_t b[2] = { n & 0x7f, n >> 7 };

    if (n >= 0x80) {
        b[0] |= 0x80;
    }
    g_byte_array_append(out, b, n >= 0x80 ? 2 : 1);
}

static GByteArray *ref_encode(const uint8_t *a, const uint8_t *b, size_t len)
{
    GByteArray *out = g_byte_array_new();
    size_t pos = 0, done = 0;

    for (;;) {
        while (pos < len && a[pos] == b[pos]) {
            pos++;
        }
        if (pos == len) {
            return out;
        }
        size_t start = pos, end = pos;
        while (pos < len && pos - end <= 2) {
            if (a[pos] != b[pos]) {
                end = pos + 1;
            }
            pos++;
        }
        ref_length(out, start - done);
        ref_length(out, end - start);
        g_byte_array_append(out, b + start, end - start);
        done = pos = end;
    }
}

/* ---- patterns ------------------------------------------------------------- */

typedef struct {
    uint8_t *map, *old_page, *new_page, *dst, *page;
} Fixture;

/* Each buffer ends where an unmapped page begins: a byte too far is a crash. */
static uint8_t *guarded(Fixture *f, unsigned n)
{
    return f->map + n * 4 * PAGE + 2 * PAGE;
}

static void set_up(Fixture *f, const void *data)
{
    size_t total = 4 * 4 * PAGE;

    f->map = mmap(NULL, total, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(f->map != MAP_FAILED);
    for (unsigned n = 0; n < 4; n++) {
        g_assert_cmpint(mprotect(f->map + n * 4 * PAGE + 3 * PAGE, PAGE,
                                 PROT_NONE), ==, 0);
    }
    f->old_page = guarded(f, 0);
    f->new_page = guarded(f, 1);
    f->dst = guarded(f, 2);
    f->page = guarded(f, 3);
}

static void tear_down(Fixture *f, const void *data)
{
    munmap(f->map, 4 * 4 * PAGE);
}

static void check_one(Fixture *f, size_t len)
{
    uint8_t *a = f->old_page + PAGE - len, *b = f->new_page + PAGE - len;
    g_autoptr(GByteArray) want = ref_encode(a, b, len);

    for (const XbzrleVariant *v = xbzrle_variants; v->name; v++) {
        if (!v->supported()) {
            continue;
        }
        /* exactly enough room, at the end of what is mapped */
        if (want->len <= PAGE) {
            uint8_t *dst = f->dst + PAGE - want->len;
            uint8_t *page = f->page + PAGE - len;
            int n = v->encode(a, b, len, dst, want->len);

            g_assert_cmpint(n, ==, want->len);
            g_assert_cmpmem(dst, n, want->data, want->len);
            memcpy(page, a, len);
            g_assert_cmpint(xbzrle_decode(dst, n, page, len), >=, 0);
            g_assert_cmpmem(page, len, b, len);
        }
        if (want->len > 0) {
            size_t room = MIN(want->len - 1, PAGE);

            g_assert_cmpint(v->encode(a, b, len, f->dst + PAGE - room, room),
                            ==, -1);
        }
        /* more room than needed */
        if (want->len <= 2 * PAGE) {
            int n = v->encode(a, b, len, f->dst - PAGE, 2 * PAGE);

            g_assert_cmpint(n, ==, want->len);
            g_assert_cmpmem(f->dst - PAGE, n, want->data, want->len);
        }
    }
}

static void randomize(uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        p[i] = rnd();
    }
}

static void start_equal(Fixture *f)
{
    randomize(f->old_page, PAGE);
    memcpy(f->new_page, f->old_page, PAGE);
}

static void test_unchanged(Fixture *f, const void *data)
{
    start_equal(f);
    for (size_t len = 64; len <= PAGE; len += 64) {
        check_one(f, len);
    }
    g_assert_cmpint(xbzrle_encode(f->old_page, f->new_page, PAGE, f->dst, 0),
                    ==, 0);
}

/* One changed run of each length up to 200 bytes at each place of a page. */
static void test_single_runs(Fixture *f, const void *data)
{
    static const unsigned lens[] = { 1, 2, 3, 15, 16, 17, 63, 64, 65, 127, 128,
                                     129, 200 };

    for (unsigned l = 0; l < G_N_ELEMENTS(lens); l++) {
        for (unsigned at = 0; at + lens[l] <= 320; at++) {
            start_equal(f);
            uint8_t *b = f->new_page + PAGE - 320;
            for (unsigned i = 0; i < lens[l]; i++) {
                b[at + i] ^= 0x5a;
            }
            check_one(f, 320);
        }
    }
}

/* Two changes with every small gap between, at every place. */
static void test_gaps(Fixture *f, const void *data)
{
    start_equal(f);
    for (unsigned gap = 0; gap <= 6; gap++) {
        for (unsigned at = 0; at + gap + 2 <= 256; at++) {
            uint8_t *b = f->new_page + PAGE - 256;

            memcpy(f->new_page, f->old_page, PAGE);
            b[at] ^= 1;
            b[at + gap + 1] ^= 0x80;
            check_one(f, 256);
        }
    }
}

static void test_periodic(Fixture *f, const void *data)
{
    for (unsigned period = 1; period <= 1200; period += 1 + period / 16) {
        for (unsigned width = 1; width <= MIN(period, 80); width += 1 + width / 8) {
            start_equal(f);
            for (unsigned i = rnd() % period; i < PAGE; i++) {
                if (i % period < width) {
                    f->new_page[i] ^= 1 + rnd() % 255;
                }
            }
            check_one(f, PAGE);
        }
    }
}

static void test_random(Fixture *f, const void *data)
{
    for (unsigned round = 0; round < 3000; round++) {
        unsigned changes = 1u << (rnd() % 12);
        size_t len = 64 * (1 + rnd() % 64);

        start_equal(f);
        for (unsigned i = 0; i < changes; i++) {
            unsigned at = rnd() % PAGE;
            unsigned n = 1 + rnd() % 40;

            for (unsigned j = at; j < MIN(at + n, PAGE); j++) {
                f->new_page[j] = rnd();
            }
        }
        check_one(f, len);
    }
}

/* ---- the decoder ------------------------------------------------------------- */

static void test_decode_rubbish(Fixture *f, const void *data)
{
    g_autofree uint8_t *before = g_malloc(PAGE);

    randomize(f->page, PAGE);
    for (unsigned round = 0; round < 200000; round++) {
        size_t n = rnd() % 48, len = 64 * (1 + rnd() % 64);
        uint8_t *src = f->dst + PAGE - n, *page = f->page + PAGE - len;
        bool small = g_test_rand_bit();

        for (size_t i = 0; i < n; i++) {
            src[i] = small ? rnd() % 12 : rnd();
        }
        memcpy(before, page, len);
        if (xbzrle_decode(src, n, page, len) < 0) {
            g_assert_cmpmem(before, len, page, len);
        }
    }
}

/* Good encodings with one bit flipped, or cut at every byte. */
static void test_decode_damaged(Fixture *f, const void *data)
{
    g_autofree uint8_t *good = g_malloc(2 * PAGE);

    for (unsigned round = 0; round < 200; round++) {
        start_equal(f);
        for (unsigned i = 0; i < 20; i++) {
            f->new_page[rnd() % PAGE] ^= 1 + rnd() % 255;
        }
        int n = xbzrle_encode(f->old_page, f->new_page, PAGE, good, 2 * PAGE);
        g_assert_cmpint(n, >, 0);
        for (int cut = 0; cut <= n; cut++) {
            uint8_t *src = f->dst + PAGE - cut;

            memcpy(src, good, cut);
            if (cut) {
                src[rnd() % cut] ^= 1 << rnd() % 8;
            }
            memcpy(f->page, f->old_page, PAGE);
            if (xbzrle_decode(src, cut, f->page, PAGE) < 0) {
                g_assert_cmpmem(f->page, PAGE, f->old_page, PAGE);
            }
        }
    }
}

static void test_decode_rules(Fixture *f, const void *data)
{
    static const struct {
        const char *what;
        uint8_t src[8];
        size_t n;
        int result;
    } cases[] = {
        { "empty", { 0 }, 0, 0 },
        { "first gap empty", { 0, 1, 0xaa }, 3, 1 },
        { "later gap empty", { 0, 1, 0xaa, 0, 1, 0xbb }, 6, -1 },
        { "changed run empty", { 4, 0 }, 2, -1 },
        { "no changed run", { 4 }, 1, -1 },
        { "bytes missing", { 0, 3, 1, 2 }, 4, -1 },
        { "length goes on", { 0x80, 0x80, 1, 1 }, 4, -1 },
        { "length cut", { 0x80 }, 1, -1 },
        { "two-byte gap", { 0x80, 0x01, 1, 7 }, 4, 129 },
        { "past the page", { 0xff, 0x1f, 2, 7, 7 }, 5, -1 },
        { "up to the end", { 0xff, 0x1f, 1, 7 }, 4, 4096 },
        { "gap far past", { 0xff, 0x7f, 1, 7 }, 4, -1 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint8_t *src = f->dst + PAGE - cases[i].n;

        g_test_message("%s", cases[i].what);
        memcpy(src, cases[i].src, cases[i].n);
        g_assert_cmpint(xbzrle_decode(src, cases[i].n, f->page, PAGE), ==,
                        cases[i].result);
    }
}

static void test_page_sizes(Fixture *f, const void *data)
{
    uint8_t b = 0;

    g_assert_cmpint(xbzrle_encode(f->old_page, f->new_page, 65, &b, 1), ==, -1);
    g_assert_cmpint(xbzrle_encode(f->old_page, f->new_page, 16 * 1024, &b, 1),
                    ==, -1);
    g_assert_cmpint(xbzrle_decode(&b, 0, f->page, 16 * 1024), ==, -1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, fn) g_test_add("/xbzrle/" name, Fixture, NULL, set_up, fn, tear_down)
    ADD("unchanged", test_unchanged);
    ADD("single-runs", test_single_runs);
    ADD("gaps", test_gaps);
    ADD("periodic", test_periodic);
    ADD("random", test_random);
    ADD("decode/rubbish", test_decode_rubbish);
    ADD("decode/damaged", test_decode_damaged);
    ADD("decode/rules", test_decode_rules);
    ADD("page-sizes", test_page_sizes);
    return g_test_run();
}
