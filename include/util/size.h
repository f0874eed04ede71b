/*
 * Sizes as users write them: "512", "64k", "1.5G", "0x1000".
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_UTIL_SIZE_H
#define SIDECAR_UTIL_SIZE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * As QEMU's: a decimal number with an optional fraction (then a suffix is
 * needed, "1.5" alone is refused), or a hexadecimal one; then one of B K M G T
 * P E in either case (powers of 1024), or, without a suffix, @default_suffix.
 * On return *end points behind it; with @end NULL nothing may follow.  0, or
 * -EINVAL, or -ERANGE when it is 2^64 or more.
 */
int size_parse(const char *text, char default_suffix, const char **end,
               uint64_t *bytes);

#endif
