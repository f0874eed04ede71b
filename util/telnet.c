/*
 * Telnet (RFC 854): enough for a character-at-a-time session.  Every option
 * the client talks about is swallowed: QEMU states what it does at the start
 * and negotiates nothing, and so do we, so that no loop of answers can arise.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "telnet.h"

enum {
    SE = 240, BREAK = 243, SB = 250, WILL = 251, WONT = 252, DO = 253,
    DONT = 254, IAC = 255,
    OPT_BINARY = 0, OPT_ECHO = 1, OPT_SGA = 3,
};

const char telnet_greeting[12] = {
    (char)IAC, (char)WILL, OPT_ECHO,   (char)IAC, (char)WILL, OPT_SGA,
    (char)IAC, (char)WILL, OPT_BINARY, (char)IAC, (char)DO,   OPT_BINARY,
};

/* One byte of the protocol or of data; true: it is data. */
static bool decode_byte(TelnetState *t, unsigned char c)
{
    switch (t->phase) {
    case TELNET_CR:
        t->phase = TELNET_DATA;
        if (c == 0 || c == '\n') {
            return false;
        }
        /* fall through */
    case TELNET_DATA:
        if (c == IAC) {
            t->phase = TELNET_IAC;
            return false;
        }
        t->phase = c == '\r' ? TELNET_CR : TELNET_DATA;
        return true;
    case TELNET_IAC:
        t->phase = c == SB ? TELNET_SB
                   : c >= WILL && c <= DONT ? TELNET_OPTION : TELNET_DATA;
        t->breaks += c == BREAK;
        return c == IAC;
    case TELNET_OPTION:
        t->phase = TELNET_DATA;
        return false;
    case TELNET_SB:
        t->phase = c == IAC ? TELNET_SB_IAC : TELNET_SB;
        return false;
    case TELNET_SB_IAC:
        t->phase = c == SE ? TELNET_DATA : TELNET_SB;
        return false;
    }
    return false;
}

size_t telnet_decode(TelnetState *t, char *buf, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        if (decode_byte(t, (unsigned char)buf[i])) {
            buf[n++] = buf[i];
        }
    }
    return n;
}

void telnet_encode(GByteArray *out, const char *buf, size_t len)
{
    const guint8 *p = (const guint8 *)buf, iac = IAC;

    for (size_t i = 0; i < len; i++) {
        g_byte_array_append(out, p + i, 1);
        if (p[i] == IAC) {
            g_byte_array_append(out, &iac, 1);
        }
    }
}
