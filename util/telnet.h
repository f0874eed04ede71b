/*
 * The telnet protocol between a client and its bytes: pure functions.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_UTIL_TELNET_H
#define SIDECAR_UTIL_TELNET_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

typedef enum {
    TELNET_DATA,
    TELNET_CR,      /* data, last byte was CR: a NUL or LF after it belongs to it */
    TELNET_IAC,
    TELNET_OPTION,  /* after WILL, WONT, DO, DONT */
    TELNET_SB,      /* in a subnegotiation */
    TELNET_SB_IAC,
} TelnetPhase;

typedef struct {
    TelnetPhase phase;
    unsigned breaks; /* IAC BREAK seen so far */
} TelnetState;

/* What the server says first: it echoes, no go-ahead, binary both ways. */
extern const char telnet_greeting[12];

/* Take the protocol out of @len bytes at @buf, in place; how many are left. */
size_t telnet_decode(TelnetState *t, char *buf, size_t len);
/* Append @len bytes to @out, each 0xff doubled. */
void telnet_encode(GByteArray *out, const char *buf, size_t len);

#endif
