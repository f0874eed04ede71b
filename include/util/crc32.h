/*
 * CRC-32 as in zlib (reflected 0xEDB88320).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_UTIL_CRC32_H
#define SIDECAR_UTIL_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Continue @crc (0 at the start) over @len bytes; the same values as zlib's
 * crc32().  ISA-L's carry-less multiplication where the CPU has it, else zlib.
 * Any thread. */
uint32_t crc32_update(uint32_t crc, const void *buf, size_t len);
uint32_t crc32_update_portable(uint32_t crc, const void *buf, size_t len);

#endif
