/*
 * CRC-32: ISA-L's carry-less multiplication where the CPU has it, else zlib.
 * Both give the same values; the fallback is public so that a test can say so.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/crc32.h"

#include <isa-l/crc.h>
#include <stdbool.h>
#include <zlib.h>

/* ISA-L without its fast path is slower than zlib, so ask the CPU first. */
static inline bool have_fast_crc(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
#else
    return false;
#endif
}

uint32_t crc32_update_portable(uint32_t crc, const void *buf, size_t len)
{
    return len ? (uint32_t)crc32_z(crc, buf, len) : crc;
}

uint32_t crc32_update(uint32_t crc, const void *buf, size_t len)
{
    if (!have_fast_crc()) {
        return crc32_update_portable(crc, buf, len);
    }
    return len ? crc32_gzip_refl(crc, buf, len) : crc;
}
