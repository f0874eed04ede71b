/*
 * Zero detection.
 *
 * Two kinds of buffers matter: data, where a non-zero byte is nearly always
 * among the first few, and all zeros, where everything has to be read as fast
 * as memory gives it.  So look at a few places first, then go through in
 * blocks of several vectors with one branch a block.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/zero.h"

#include <stdint.h>
#include <string.h>

static uint64_t load64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static bool short_is_zero(const uint8_t *p, size_t len)
{
    uint8_t t = 0;

    while (len--) {
        t |= *p++;
    }
    return t == 0;
}

/* True at once for most data; @len >= 8.  One after the other: each may be a
 * cache line that nobody has touched yet. */
static bool sample_is_nonzero(const uint8_t *p, size_t len)
{
    return load64(p) || load64(p + len / 2 - 4) || load64(p + len - 8);
}

bool buffer_is_zero_portable(const void *buf, size_t len)
{
    const uint8_t *p = buf, *last;

    if (len < 8) {
        return short_is_zero(p, len);
    }
    last = p + len - 8;
    if (sample_is_nonzero(p, len)) {
        return false;
    }
    for (; (size_t)(last + 8 - p) >= 64; p += 64) {
        if (load64(p) | load64(p + 8) | load64(p + 16) | load64(p + 24) |
            load64(p + 32) | load64(p + 40) | load64(p + 48) | load64(p + 56)) {
            return false;
        }
    }
    for (; p < last; p += 8) {
        if (load64(p)) {
            return false;
        }
    }
    return true; /* the last 8 bytes were in the sample */
}

#ifdef __x86_64__
#include <immintrin.h>

bool buffer_is_zero_have_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}

__attribute__((target("avx2"))) static __m256i load256(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

__attribute__((target("avx2"))) bool buffer_is_zero_avx2(const void *buf,
                                                         size_t len)
{
    const uint8_t *p = buf, *last;
    __m256i t;

    if (len < 32) {
        return buffer_is_zero_portable(buf, len);
    }
    last = p + len - 32;
    if (sample_is_nonzero(p, len)) {
        return false;
    }
    for (; (size_t)(last + 32 - p) >= 128; p += 128) {
        __m256i a = _mm256_or_si256(load256(p), load256(p + 32));
        __m256i b = _mm256_or_si256(load256(p + 64), load256(p + 96));

        t = _mm256_or_si256(a, b);
        if (!_mm256_testz_si256(t, t)) {
            return false;
        }
    }
    for (; p < last; p += 32) {
        t = load256(p);
        if (!_mm256_testz_si256(t, t)) {
            return false;
        }
    }
    t = load256(last);
    return _mm256_testz_si256(t, t);
}
#else
bool buffer_is_zero_have_avx2(void)
{
    return false;
}

bool buffer_is_zero_avx2(const void *buf, size_t len)
{
    return buffer_is_zero_portable(buf, len);
}
#endif

bool buffer_is_zero(const void *buf, size_t len)
{
    return buffer_is_zero_have_avx2() ? buffer_is_zero_avx2(buf, len)
                                      : buffer_is_zero_portable(buf, len);
}
