/*
 * The XBZRLE encoder and decoder.
 *
 * The encoder works on masks: one bit for each byte of a 64-byte piece of the
 * page, set where old and new differ.  Only how a mask is made depends on the
 * CPU (eight words, two AVX2 registers, one AVX-512 register); all that
 * follows is shared, so the variants cannot differ in output:
 *
 *     mask of differences      0 0 1 0 1 0 0 0 1 1
 *     gaps of 1 or 2 closed    0 0 1 1 1 0 0 0 1 1     needs 2 bits of each
 *                                                     neighbouring piece
 *     edges (bit ^ bit before) 0 0 1 0 0 1 0 0 1 0     every second one starts
 *                                                     a changed run
 *
 * A piece without differences and outside a run costs the comparison and one
 * branch.  Runs are emitted when they end; one that cannot fit any more ends
 * the attempt at once, so a page that cannot shrink is given up in little more
 * than the time of comparing it.
 *
 * The decoder walks the input twice: the first time to check every length,
 * the second to copy.  Bad input therefore never touches the page.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/xbzrle.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_X86 1
#else
#define HAVE_X86 0
#endif

#define PIECE 64
#define ALWAYS_INLINE inline __attribute__((always_inline))

typedef struct {
    const uint8_t *page; /* the new page */
    uint8_t *out, *end;
    uint8_t *dst;
    size_t run_start; /* of the open changed run */
    size_t run_end;   /* of the last closed one */
    size_t len;       /* of the page */
} Encoder;

static ALWAYS_INLINE uint8_t *put_length(uint8_t *p, size_t n)
{
    if (n < 0x80) {
        *p++ = n;
    } else {
        *p++ = (n & 0x7f) | 0x80;
        *p++ = n >> 7;
    }
    return p;
}

/* Copies that run over the end are cheaper than exact ones; exact where one
 * of the buffers ends too soon for that. */
static ALWAYS_INLINE void put_bytes(const Encoder *e, const uint8_t *src,
                                    size_t n)
{
    size_t room = e->end - e->out, left = e->page + e->len - src;

    if (n <= 16 && room >= 16 && left >= 16) {
        memcpy(e->out, src, 16);
    } else if (n <= 64 && room >= 64 && left >= 64) {
        memcpy(e->out, src, 64);
    } else {
        memcpy(e->out, src, n);
    }
}

/* Write the pair for the changed run [run_start, pos). */
static ALWAYS_INLINE bool emit_run(Encoder *e, size_t pos)
{
    size_t gap = e->run_start - e->run_end, run = pos - e->run_start;
    size_t head = 2 + (gap >= 0x80) + (run >= 0x80);

    if ((size_t)(e->end - e->out) < head + run) {
        return false;
    }
    e->out = put_length(e->out, gap);
    e->out = put_length(e->out, run);
    put_bytes(e, e->page + e->run_start, run);
    e->out += run;
    e->run_end = pos;
    return true;
}

typedef uint64_t MaskFn(const uint8_t *a, const uint8_t *b);

/*
 * @mask: the differences of a piece; @skip: whether the @SKIP_PIECES pieces
 * from here on have none.  Both are inlined into each variant.
 */
#define SKIP_PIECES 4
typedef bool SkipFn(const uint8_t *a, const uint8_t *b);

static ALWAYS_INLINE int encode(const uint8_t *old_page, const uint8_t *new_page,
                                size_t len, uint8_t *dst, size_t dst_len,
                                MaskFn *mask, SkipFn *skip)
{
    Encoder e = {
        .page = new_page, .out = dst, .end = dst + dst_len, .dst = dst,
        .len = len,
    };
    uint64_t before = 0; /* mask of the piece before */
    uint64_t last = 0;   /* top bit of its closed mask: in a run? */

    if (len % PIECE || len > XBZRLE_PAGE_MAX) {
        return -1;
    }
    for (size_t pos = 0; pos < len;) {
        if (!last) {
            while (pos + SKIP_PIECES * PIECE <= len &&
                   skip(old_page + pos, new_page + pos)) {
                pos += SKIP_PIECES * PIECE;
                before = 0;
            }
            if (pos == len) {
                break;
            }
        }

        uint64_t m = mask(old_page + pos, new_page + pos);
        for (;;) {
            uint64_t after = pos + PIECE < len ?
                mask(old_page + pos + PIECE, new_page + pos + PIECE) : 0;
            uint64_t l1 = m << 1 | before >> 63, l2 = m << 2 | before >> 62;
            uint64_t r1 = m >> 1 | after << 63, r2 = m >> 2 | after << 62;
            uint64_t closed = m | (l1 & r1) | (l1 & r2) | (l2 & r1);
            uint64_t edges = closed ^ (closed << 1 | last);
            uint64_t in_run = last;

            while (edges) {
                size_t at = pos + __builtin_ctzll(edges);

                edges &= edges - 1;
                if (!in_run) {
                    e.run_start = at;
                } else if (!emit_run(&e, at)) {
                    return -1;
                }
                in_run ^= 1;
            }
            last = closed >> 63;
            before = m;
            m = after;
            pos += PIECE;
            if (last && pos - e.run_start > (size_t)(e.end - e.out)) {
                return -1;
            }
            if (pos == len || (!m && !last)) {
                break;
            }
        }
    }
    if (last && !emit_run(&e, len)) {
        return -1;
    }
    return e.out - e.dst;
}

/* ---- plain words ------------------------------------------------------ */

static ALWAYS_INLINE uint64_t load64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, 8);
    return v;
}

/* A bit for each byte of @x that is not zero, lowest address in bit 0. */
static ALWAYS_INLINE uint64_t nonzero_bytes(uint64_t x)
{
    const uint64_t low7 = 0x7f7f7f7f7f7f7f7fULL;

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    x = __builtin_bswap64(x);
#endif
    x = (((x & low7) + low7) | x) & ~low7; /* 0x80 in each nonzero byte */
    return (x >> 7) * 0x0102040810204080ULL >> 56;
}

static ALWAYS_INLINE uint64_t mask_scalar(const uint8_t *a, const uint8_t *b)
{
    uint64_t m = 0;

    for (unsigned i = 0; i < 8; i++) {
        uint64_t x = load64(a + 8 * i) ^ load64(b + 8 * i);

        if (x) {
            m |= nonzero_bytes(x) << (8 * i);
        }
    }
    return m;
}

/* Whatever the smallest CPU of this architecture has for 16 bytes at once. */
typedef uint64_t Words __attribute__((vector_size(16)));

static ALWAYS_INLINE Words ne_words(const uint8_t *a, const uint8_t *b)
{
    Words x, y;

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return x ^ y;
}

static ALWAYS_INLINE bool skip_scalar(const uint8_t *a, const uint8_t *b)
{
    Words d = { 0 }, e = { 0 };

    for (unsigned i = 0; i < SKIP_PIECES * PIECE; i += 32) {
        d |= ne_words(a + i, b + i);
        e |= ne_words(a + i + 16, b + i + 16);
    }
    d |= e;
    return !(d[0] | d[1]);
}

static int encode_scalar(const uint8_t *old_page, const uint8_t *new_page,
                         size_t len, uint8_t *dst, size_t dst_len)
{
    return encode(old_page, new_page, len, dst, dst_len, mask_scalar,
                  skip_scalar);
}

static bool always(void)
{
    return true;
}

/* ---- AVX2, AVX-512 ---------------------------------------------------- */

#if HAVE_X86
#define AVX2 __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt")))
#define AVX512 \
    __attribute__((target("avx512f,avx512bw,avx2,bmi,bmi2,lzcnt,popcnt")))

AVX2 static ALWAYS_INLINE __m256i ne_avx2(const uint8_t *a, const uint8_t *b)
{
    return _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)a),
                            _mm256_loadu_si256((const __m256i *)b));
}

AVX2 static ALWAYS_INLINE uint64_t mask_avx2(const uint8_t *a, const uint8_t *b)
{
    const __m256i zero = _mm256_setzero_si256();
    uint32_t lo = _mm256_movemask_epi8(_mm256_cmpeq_epi8(ne_avx2(a, b), zero));
    uint32_t hi = _mm256_movemask_epi8(
        _mm256_cmpeq_epi8(ne_avx2(a + 32, b + 32), zero));

    return ~((uint64_t)hi << 32 | lo);
}

AVX2 static ALWAYS_INLINE bool skip_avx2(const uint8_t *a, const uint8_t *b)
{
    __m256i d = _mm256_setzero_si256();

    for (unsigned i = 0; i < SKIP_PIECES * PIECE; i += 64) {
        d = _mm256_or_si256(d, _mm256_or_si256(ne_avx2(a + i, b + i),
                                               ne_avx2(a + i + 32, b + i + 32)));
    }
    return _mm256_testz_si256(d, d);
}

AVX2 static int encode_avx2(const uint8_t *old_page, const uint8_t *new_page,
                            size_t len, uint8_t *dst, size_t dst_len)
{
    return encode(old_page, new_page, len, dst, dst_len, mask_avx2, skip_avx2);
}

static bool have_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
}

AVX512 static ALWAYS_INLINE uint64_t mask_avx512(const uint8_t *a,
                                                 const uint8_t *b)
{
    return _mm512_cmpneq_epi8_mask(_mm512_loadu_si512(a),
                                   _mm512_loadu_si512(b));
}

AVX512 static ALWAYS_INLINE bool skip_avx512(const uint8_t *a, const uint8_t *b)
{
    __m512i d = _mm512_setzero_si512();

    for (unsigned i = 0; i < SKIP_PIECES * PIECE; i += 64) {
        d = _mm512_or_si512(d, _mm512_xor_si512(_mm512_loadu_si512(a + i),
                                                _mm512_loadu_si512(b + i)));
    }
    return !_mm512_test_epi64_mask(d, d);
}

AVX512 static int encode_avx512(const uint8_t *old_page, const uint8_t *new_page,
                                size_t len, uint8_t *dst, size_t dst_len)
{
    return encode(old_page, new_page, len, dst, dst_len, mask_avx512,
                  skip_avx512);
}

static bool have_avx512(void)
{
    return have_avx2() && __builtin_cpu_supports("avx512bw");
}
#endif

const XbzrleVariant xbzrle_variants[] = {
    { "scalar", always, encode_scalar },
#if HAVE_X86
    { "avx2", have_avx2, encode_avx2 },
    { "avx512", have_avx512, encode_avx512 },
#endif
    { NULL },
};

static XbzrleEncodeFn *best_encoder(void)
{
    XbzrleEncodeFn *best = encode_scalar;

    for (const XbzrleVariant *v = xbzrle_variants; v->name; v++) {
        if (v->supported()) {
            best = v->encode;
        }
    }
    return best;
}

int xbzrle_encode(const uint8_t *old_page, const uint8_t *new_page, size_t len,
                  uint8_t *dst, size_t dst_len)
{
    static XbzrleEncodeFn *chosen; /* the same value whoever stores it first */
    XbzrleEncodeFn *fn = __atomic_load_n(&chosen, __ATOMIC_RELAXED);

    if (!fn) {
        fn = best_encoder();
        __atomic_store_n(&chosen, fn, __ATOMIC_RELAXED);
    }
    return fn(old_page, new_page, len, dst, dst_len);
}

/* ---- decoder ---------------------------------------------------------- */

/* One or two bytes of ULEB128; how many were used, 0 if they are not there or
 * claim to go on. */
static ALWAYS_INLINE size_t get_length(const uint8_t *src, size_t left,
                                       size_t *n)
{
    if (left >= 1 && src[0] < 0x80) {
        *n = src[0];
        return 1;
    }
    if (left >= 2 && src[1] < 0x80) {
        *n = (src[0] & 0x7f) | (size_t)src[1] << 7;
        return 2;
    }
    return 0;
}

/* The changed run at @src: its place in the page and where its bytes are. */
typedef struct {
    size_t at, len, bytes;
} Run;

static ALWAYS_INLINE bool get_run(const uint8_t *src, size_t src_len,
                                  size_t *pos, size_t page_pos, Run *run)
{
    size_t gap, used;

    used = get_length(src + *pos, src_len - *pos, &gap);
    if (!used) {
        return false;
    }
    *pos += used;
    used = get_length(src + *pos, src_len - *pos, &run->len);
    if (!used) {
        return false;
    }
    *pos += used;
    if (!gap && page_pos) {
        return false;
    }
    run->at = page_pos + gap;
    run->bytes = *pos;
    return true;
}

static int check(const uint8_t *src, size_t src_len, size_t page_len)
{
    size_t pos = 0, page_pos = 0;
    Run run;

    while (pos < src_len) {
        if (!get_run(src, src_len, &pos, page_pos, &run) || !run.len ||
            run.at > page_len || run.len > page_len - run.at ||
            run.len > src_len - pos) {
            return -1;
        }
        pos += run.len;
        page_pos = run.at + run.len;
    }
    return page_pos;
}

int xbzrle_decode(const uint8_t *src, size_t src_len, uint8_t *page,
                  size_t page_len)
{
    size_t pos = 0, page_pos = 0;
    int covered;
    Run run;

    if (page_len > XBZRLE_PAGE_MAX) {
        return -1;
    }
    covered = check(src, src_len, page_len);
    while (covered > 0 && pos < src_len &&
           get_run(src, src_len, &pos, page_pos, &run)) {
        memcpy(page + run.at, src + run.bytes, run.len);
        pos += run.len;
        page_pos = run.at + run.len;
    }
    return covered;
}
