/*
 * Bytes into JSON tokens; see json.h.
 *
 * A token that ends with its own last byte ("}", a string) is handed out with
 * it.  A number or a keyword ends where another byte begins something else:
 * that byte is not taken then, so `used' may be 0.
 *
 * A byte that fits nowhere makes a stray token of all that was collected, and
 * then bytes are thrown away up to the next one that is likely to begin
 * something sensible: a bracket, comma or colon, or a control character other
 * than tab (also FE and FF, which UTF-8 never contains).  That set is QEMU
 * 7.2's; clients that resynchronise rely on it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "json.h"
#include <string.h>

enum {
    START,
    STRING,
    STRING_ESCAPE, /* after a backslash */
    MINUS,         /* a digit must follow */
    ZERO,          /* no digit may follow */
    DIGITS,
    POINT,         /* a digit must follow */
    FRACTION,
    EXPONENT,      /* a sign or a digit must follow */
    EXPONENT_SIGN, /* a digit must follow */
    EXPONENT_DIGITS,
    KEYWORD,
    RECOVERY,
};

/* What a byte does in a state. */
typedef enum { TAKE, END, SKIP, WRONG } Action;

void json_lexer_init(JsonLexer *lexer)
{
    memset(lexer, 0, sizeof(*lexer));
    lexer->state = START;
    lexer->token = g_string_new(NULL);
}

void json_lexer_clear(JsonLexer *lexer)
{
    g_string_free(lexer->token, TRUE);
    lexer->token = NULL;
}

static bool is_digit(unsigned char c)
{
    return c >= '0' && c <= '9';
}

static bool is_exponent(unsigned char c)
{
    return c == 'e' || c == 'E';
}

static bool ends_recovery(unsigned char c)
{
    return (c < 0x20 && c != '\t') || c >= 0xfe || strchr("{}[]:,", c);
}

static JsonTokenType structural(unsigned char c)
{
    switch (c) {
    case '{': return JSON_TOKEN_LCURLY;
    case '}': return JSON_TOKEN_RCURLY;
    case '[': return JSON_TOKEN_LSQUARE;
    case ']': return JSON_TOKEN_RSQUARE;
    case ':': return JSON_TOKEN_COLON;
    case ',': return JSON_TOKEN_COMMA;
    default: return JSON_TOKEN_NONE;
    }
}

static Action in_start(JsonLexer *lexer, unsigned char c, JsonTokenType *type)
{
    *type = structural(c);
    if (*type != JSON_TOKEN_NONE) {
        return TAKE;
    }
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
        return SKIP;
    }
    if (c == '"' || c == '\'') {
        lexer->quote = c;
        lexer->state = STRING;
    } else if (c == '-') {
        lexer->state = MINUS;
    } else if (is_digit(c)) {
        lexer->state = c == '0' ? ZERO : DIGITS;
    } else if (c >= 'a' && c <= 'z') {
        lexer->state = KEYWORD;
    } else {
        return WRONG;
    }
    return TAKE;
}

static Action in_string(JsonLexer *lexer, unsigned char c, JsonTokenType *type)
{
    if (c < 0x20 || c >= 0xfe) {
        return WRONG;
    }
    if (lexer->state == STRING_ESCAPE) {
        lexer->state = STRING;
    } else if (c == '\\') {
        lexer->state = STRING_ESCAPE;
    } else if (c == (unsigned char)lexer->quote) {
        *type = JSON_TOKEN_STRING;
    }
    return TAKE;
}

/* An integer so far: become a float, or end.  QEMU takes 0e1 for 0 and a word. */
static Action after_integer(JsonLexer *lexer, unsigned char c, JsonTokenType *type)
{
    if (c == '.') {
        lexer->state = POINT;
    } else if (is_exponent(c) && lexer->state == DIGITS) {
        lexer->state = EXPONENT;
    } else {
        *type = JSON_TOKEN_INTEGER;
        return END;
    }
    return TAKE;
}

static Action in_number(JsonLexer *lexer, unsigned char c, JsonTokenType *type)
{
    bool digit = is_digit(c);

    switch (lexer->state) {
    case MINUS:
        lexer->state = c == '0' ? ZERO : DIGITS;
        return digit ? TAKE : WRONG;
    case ZERO:
        return digit ? WRONG : after_integer(lexer, c, type);
    case DIGITS:
        return digit ? TAKE : after_integer(lexer, c, type);
    case POINT:
        lexer->state = FRACTION;
        return digit ? TAKE : WRONG;
    case FRACTION:
        if (is_exponent(c)) {
            lexer->state = EXPONENT;
            return TAKE;
        }
        break;
    case EXPONENT:
        lexer->state = digit ? EXPONENT_DIGITS : EXPONENT_SIGN;
        return digit || c == '+' || c == '-' ? TAKE : WRONG;
    case EXPONENT_SIGN:
        lexer->state = EXPONENT_DIGITS;
        return digit ? TAKE : WRONG;
    default: /* EXPONENT_DIGITS */
        break;
    }
    *type = JSON_TOKEN_FLOAT;
    return digit ? TAKE : END;
}

/* *type is set when @c ends a token. */
static Action step(JsonLexer *lexer, unsigned char c, JsonTokenType *type)
{
    Action action;

    *type = JSON_TOKEN_NONE;
    switch (lexer->state) {
    case RECOVERY:
        if (!ends_recovery(c)) {
            return SKIP;
        }
        lexer->state = START;
        return in_start(lexer, c, type);
    case START:
        return in_start(lexer, c, type);
    case STRING:
    case STRING_ESCAPE:
        return in_string(lexer, c, type);
    case KEYWORD:
        *type = JSON_TOKEN_KEYWORD;
        action = c >= 'a' && c <= 'z' ? TAKE : END;
        break;
    default:
        action = in_number(lexer, c, type);
        break;
    }
    if (action != END) {
        *type = JSON_TOKEN_NONE;
    }
    return action;
}

static JsonTokenType finish(JsonLexer *lexer, JsonTokenType type)
{
    lexer->state = type == JSON_TOKEN_STRAY ? RECOVERY : START;
    lexer->done = true;
    return type;
}

JsonTokenType json_lexer_next(JsonLexer *lexer, const char *buf, size_t len,
                              size_t *used)
{
    if (lexer->done) {
        g_string_truncate(lexer->token, 0);
        lexer->done = false;
    }
    for (*used = 0; *used < len; ++*used) {
        JsonTokenType type;
        Action action = step(lexer, buf[*used], &type);

        if (action == SKIP) {
            continue;
        }
        if (action == END) {
            return finish(lexer, type);
        }
        g_string_append_c(lexer->token, buf[*used]);
        if (action == WRONG || type != JSON_TOKEN_NONE) {
            ++*used;
            return finish(lexer, action == WRONG ? JSON_TOKEN_STRAY : type);
        }
        if (lexer->token->len > JSON_MAX_TOKEN_SIZE) {
            ++*used;
            return finish(lexer, JSON_TOKEN_HUGE);
        }
    }
    return JSON_TOKEN_NONE;
}
