/*
 * UTF-8 with U+0000 as C0 80; see json.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "json.h"

static bool is_character(int32_t cp)
{
    return cp >= 0 && cp <= 0x10ffff && !(cp >= 0xd800 && cp <= 0xdfff) &&
           !(cp >= 0xfdd0 && cp <= 0xfdef) && (cp & 0xfffe) != 0xfffe;
}

/* How many bytes follow a leading byte (also those of the long forms that
 * Unicode gave up, so that they are skipped as one); -1: it leads nothing. */
static int trailing_bytes(unsigned char lead)
{
    static const unsigned char last[] = { 0x7f, 0xbf, 0xdf, 0xef, 0xf7, 0xfb, 0xfd };

    if (lead >= 0x80 && lead <= 0xbf) {
        return -1;
    }
    for (size_t i = 0; i < sizeof(last); i++) {
        if (lead <= last[i]) {
            return i ? (int)i - 1 : 0;
        }
    }
    return -1;
}

int32_t mod_utf8_get(const char *s, size_t len, const char **next)
{
    /* The smallest value that needs so many bytes. */
    static const int32_t smallest[] = { 0, 0x80, 0x800, 0x10000, 0x200000, 0x4000000 };
    const unsigned char *p = (const unsigned char *)s;
    int n = trailing_bytes(p[0]);
    int32_t cp;

    if (n <= 0) {
        *next = s + 1;
        return n < 0 ? -1 : p[0];
    }
    cp = p[0] & (0x3f >> n);
    for (int i = 1; i <= n; i++) {
        if ((size_t)i >= len || (p[i] & 0xc0) != 0x80) {
            *next = s + i;
            return -1;
        }
        cp = cp << 6 | (p[i] & 0x3f);
    }
    *next = s + n + 1;
    if (cp < smallest[n] && !(cp == 0 && n == 1)) {
        return -1;
    }
    return is_character(cp) ? cp : -1;
}

bool mod_utf8_put(GString *out, int32_t cp)
{
    if (!is_character(cp)) {
        return false;
    }
    if (cp == 0) {
        g_string_append_len(out, "\xc0\x80", 2);
    } else {
        g_string_append_unichar(out, cp);
    }
    return true;
}
