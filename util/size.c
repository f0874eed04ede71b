/*
 * Sizes as users write them; see include/util/size.h.
 *
 * Done in integers: the fraction is kept as up to 18 decimal digits, which is
 * exact for anything a person types, and multiplied by the unit in 128 bits.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/size.h"

#include <errno.h>

/* log2 of the unit that @c stands for, or -1. */
static int unit_shift(char c)
{
    switch (g_ascii_toupper(c)) {
    case 'B': return 0;
    case 'K': return 10;
    case 'M': return 20;
    case 'G': return 30;
    case 'T': return 40;
    case 'P': return 50;
    case 'E': return 60;
    }
    return -1;
}

/* The digits at *p; false: too many. */
static bool parse_digits(const char **p, unsigned base, uint64_t *value)
{
    *value = 0;
    for (int d; (d = g_ascii_xdigit_value(**p)) >= 0 && d < (int)base; ++*p) {
        if (__builtin_mul_overflow(*value, base, value) ||
            __builtin_add_overflow(*value, (uint64_t)d, value)) {
            return false;
        }
    }
    return true;
}

/* The digits after the point as *num / *denom, rounded down after 18. */
static void parse_fraction(const char **p, uint64_t *num, uint64_t *denom)
{
    *num = 0;
    for (*denom = 1; g_ascii_isdigit(**p); ++*p) {
        if (*denom < 1000000000000000000ull) {
            *num = *num * 10 + (uint64_t)(**p - '0');
            *denom *= 10;
        }
    }
}

int size_parse(const char *text, char default_suffix, const char **end,
               uint64_t *bytes)
{
    const char *p = text, *digits;
    uint64_t whole, num = 0, denom = 1;
    unsigned __int128 result;
    bool hex, fraction;
    int shift;

    while (g_ascii_isspace(*p)) {
        p++;
    }
    hex = p[0] == '0' && (p[1] == 'x' || p[1] == 'X');
    p += hex ? 2 : 0;
    digits = p;
    if (!parse_digits(&p, hex ? 16 : 10, &whole)) {
        return -ERANGE;
    }
    fraction = *p == '.' && !hex;
    if (p == digits || (*p == '.' && hex)) {
        return -EINVAL;
    }
    if (fraction) {
        p++;
        parse_fraction(&p, &num, &denom);
    }
    shift = hex ? -1 : unit_shift(*p);
    if (shift >= 0) {
        p++;
    } else {
        shift = MAX(unit_shift(default_suffix), 0);
    }
    if ((num && shift == 0) || (hex && unit_shift(*p) >= 0) ||
        (!end && *p)) {
        return -EINVAL;
    }
    result = ((unsigned __int128)whole << shift) +
             (((unsigned __int128)num << shift) + denom / 2) / denom;
    if (result > UINT64_MAX) {
        return -ERANGE;
    }
    *bytes = (uint64_t)result;
    if (end) {
        *end = p;
    }
    return 0;
}
