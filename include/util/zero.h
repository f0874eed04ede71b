/*
 * Zero detection.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_UTIL_ZERO_H
#define SIDECAR_UTIL_ZERO_H

#include <stdbool.h>
#include <stddef.h>

/* True if all @len bytes at @buf are zero (@len 0: true).  Any alignment; any
 * thread.  Uses AVX2 where the CPU has it, chosen at the first call. */
bool buffer_is_zero(const void *buf, size_t len);

/* The variants, for tests and benchmarks. */
bool buffer_is_zero_portable(const void *buf, size_t len);
bool buffer_is_zero_avx2(const void *buf, size_t len); /* only if supported */
bool buffer_is_zero_have_avx2(void);

#endif
