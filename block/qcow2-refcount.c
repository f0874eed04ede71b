/*
 * Refcounts.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "util/error.h"

/* ---- one refcount in a block ------------------------------------------------ */

/* Narrower than a byte: the first is in the lowest bits. */
uint64_t qcow2_refcount_get(const uint8_t *block, uint64_t i, unsigned order)
{
    uint64_t value = 0;
    unsigned bytes = 1u << order >> 3;

    if (order < 3) {
        unsigned bits = 1u << order, per_byte = 8 / bits;

        return block[i / per_byte] >> (i % per_byte * bits) & ((1u << bits) - 1);
    }
    for (unsigned k = 0; k < bytes; k++) {
        value = value << 8 | block[i * bytes + k];
    }
    return value;
}

void qcow2_refcount_put(uint8_t *block, uint64_t i, unsigned order,
                        uint64_t value)
{
    unsigned bytes = 1u << order >> 3;

    if (order < 3) {
        unsigned bits = 1u << order, per_byte = 8 / bits;
        unsigned shift = i % per_byte * bits;
        uint8_t *p = &block[i / per_byte];

        *p = (*p & ~(((1u << bits) - 1) << shift)) | value << shift;
        return;
    }
    for (unsigned k = bytes; k-- > 0; value >>= 8) {
        block[i * bytes + k] = value;
    }
}
