/*
 * JSON as QEMU's monitor reads and writes it.
 *
 * Values are json-c's.  Its tokener is not used, because what QMP clients see
 * is fixed by QEMU's own reader: values with nothing between them, 'single
 * quotes' and \', errors that are reported and skipped in QEMU's way (so that
 * the next command is understood again), limits on size, count and depth,
 * duplicate keys refused, integers up to 2^64-1.  Verified against QEMU 7.2 by
 * tests/system/qmp-parity.py.
 *
 *     bytes ──json-lexer.c──► tokens ──json-parser.c──► json_object
 *     json_object ──json-writer.c──► ASCII text
 *
 * Strings are "modified UTF-8", as in QEMU: U+0000 is the two bytes C0 80, so
 * that a string from a client is always a whole C string.
 *
 * No I/O here, and no state outside the objects: any thread, one at a time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_QAPI_JSON_H
#define SIDECAR_QAPI_JSON_H

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

/* QEMU's limits: the text of the tokens of one value, how many, how deep. */
#define JSON_MAX_TOKEN_SIZE (64u << 20)
#define JSON_MAX_TOKEN_COUNT (2u << 20)
#define JSON_MAX_NESTING 1024u

/* ---- tokens ---------------------------------------------------------- */

typedef enum {
    JSON_TOKEN_NONE, /* all bytes taken, no token yet */
    JSON_TOKEN_LCURLY,
    JSON_TOKEN_RCURLY,
    JSON_TOKEN_LSQUARE,
    JSON_TOKEN_RSQUARE,
    JSON_TOKEN_COLON,
    JSON_TOKEN_COMMA,
    JSON_TOKEN_INTEGER,
    JSON_TOKEN_FLOAT,
    JSON_TOKEN_KEYWORD,
    JSON_TOKEN_STRING, /* with its quotes, escapes not looked at */
    JSON_TOKEN_STRAY,  /* text that begins no token */
    JSON_TOKEN_HUGE,   /* longer than JSON_MAX_TOKEN_SIZE */
} JsonTokenType;

typedef struct JsonLexer {
    int state;
    char quote;
    GString *token; /* text of the last or the unfinished token */
    bool done;      /* ->token was handed out */
} JsonLexer;

void json_lexer_init(JsonLexer *lexer);
void json_lexer_clear(JsonLexer *lexer);
/* Take bytes until a token is complete; *used says how many.  The text is
 * lexer->token until the next call. */
JsonTokenType json_lexer_next(JsonLexer *lexer, const char *buf, size_t len,
                              size_t *used);

/* ---- values ---------------------------------------------------------- */

typedef struct JsonReader JsonReader;

JsonReader *json_reader_new(void);
void json_reader_free(JsonReader *reader);

/*
 * Take bytes from @buf until a value or an error is complete.  True: there is
 * one, *used bytes went into it; *value is it (a new reference; NULL is JSON's
 * null) or *errp is set, in QEMU's words; go on with the rest.  False: all
 * @len bytes were taken and more are needed.
 */
bool json_reader_next(JsonReader *reader, const char *buf, size_t len,
                      size_t *used, json_object **value, GError **errp);
/* Is there an unfinished value? */
bool json_reader_pending(const JsonReader *reader);

/* ---- text ------------------------------------------------------------ */

/* Append @value as QEMU prints it: ASCII only; @pretty: indented, lines
 * ended by \r\n, else on one line. */
void json_write(GString *out, json_object *value, bool pretty);
/* Only the string, with quotes. */
void json_write_string(GString *out, const char *str, size_t len);

/* ---- modified UTF-8 -------------------------------------------------- */

/* The code point at the beginning of the @len > 0 bytes at @s, or -1 if there
 * is no valid one (surrogates and noncharacters are not); *next is where to go
 * on in any case. */
int32_t mod_utf8_get(const char *s, size_t len, const char **next);
/* Append @cp; false if it is no character. */
bool mod_utf8_put(GString *out, int32_t cp);

#endif
