/*
 * JSON tokens into json-c values; see json.h.
 *
 * A value is complete when its brackets are balanced (or closed once too
 * often); only then is it, or the first thing that was wrong in it, handed
 * out.  After a mistake the rest of the value is only counted, not built.  Text
 * that is no token, and the limits, end a value at once.
 *
 * Invariant: braces and brackets are counted over the tokens of the unfinished
 * value, right or wrong; the stack holds its open containers as long as there
 * is no error.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "json.h"
#include "util/error.h"
#include <errno.h>
#include <string.h>

/* What may come next in a container. */
typedef enum {
    WANT_FIRST, /* a value, or in objects a key; or the end */
    WANT_VALUE, /* in arrays */
    WANT_KEY,
    WANT_COLON,
    WANT_MEMBER, /* the value of ->key */
    WANT_SEPARATOR,
} Want;

typedef struct {
    json_object *container;
    Want want;
    char *key;
} Level;

struct JsonReader {
    JsonLexer lexer;
    int braces, brackets;
    size_t token_count, token_size;
    GArray *stack; /* of Level */
    json_object *value;
    bool have_value;
    GError *error; /* the first one */
};

/* ---- small things ----------------------------------------------------- */

static void clear_level(void *opaque)
{
    Level *level = opaque;

    json_object_put(level->container);
    g_free(level->key);
}

JsonReader *json_reader_new(void)
{
    JsonReader *reader = g_new0(JsonReader, 1);

    json_lexer_init(&reader->lexer);
    reader->stack = g_array_new(FALSE, TRUE, sizeof(Level));
    g_array_set_clear_func(reader->stack, clear_level);
    return reader;
}

static void reset(JsonReader *reader)
{
    reader->braces = reader->brackets = 0;
    reader->token_count = reader->token_size = 0;
    g_array_set_size(reader->stack, 0);
    g_clear_pointer(&reader->value, json_object_put);
    reader->have_value = false;
    g_clear_error(&reader->error);
}

void json_reader_free(JsonReader *reader)
{
    if (reader) {
        reset(reader);
        g_array_unref(reader->stack);
        json_lexer_clear(&reader->lexer);
        g_free(reader);
    }
}

bool json_reader_pending(const JsonReader *reader)
{
    return reader->token_count > 0 ||
           (!reader->lexer.done && reader->lexer.token->len > 0);
}

static void G_GNUC_PRINTF(2, 3) fail(JsonReader *reader, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    if (reader->error) {
        return;
    }
    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    error_set(&reader->error, "JSON parse error, %s", text);
    g_array_set_size(reader->stack, 0);
}

static Level *top(JsonReader *reader)
{
    return reader->stack->len
               ? &g_array_index(reader->stack, Level, reader->stack->len - 1)
               : NULL;
}

/* ---- values ----------------------------------------------------------- */

/* A value is complete: put it where it belongs.  @value is consumed. */
static void add_value(JsonReader *reader, json_object *value)
{
    Level *level = top(reader);

    if (!level) {
        reader->value = value;
        reader->have_value = true;
        return;
    }
    if (json_object_is_type(level->container, json_type_array)) {
        json_object_array_add(level->container, value);
        level->want = WANT_SEPARATOR;
    } else if (level->want != WANT_MEMBER) {
        bool is_key = json_object_is_type(value, json_type_string);

        level->key = is_key ? g_strdup(json_object_get_string(value)) : NULL;
        level->want = WANT_COLON;
        json_object_put(value);
        if (!is_key) {
            fail(reader, "key is not a string in object");
        }
    } else if (json_object_object_get_ex(level->container, level->key, NULL)) {
        json_object_put(value);
        fail(reader, "duplicate key");
    } else {
        json_object_object_add(level->container, level->key, value);
        g_clear_pointer(&level->key, g_free);
        level->want = WANT_SEPARATOR;
    }
}

static void push(JsonReader *reader, json_object *container)
{
    Level level = { .container = container, .want = WANT_FIRST };

    g_array_append_val(reader->stack, level);
}

static void pop(JsonReader *reader)
{
    json_object *value = json_object_get(top(reader)->container);

    g_array_set_size(reader->stack, reader->stack->len - 1);
    add_value(reader, value);
}

static void add_keyword(JsonReader *reader, const char *word)
{
    if (strcmp(word, "true") == 0 || strcmp(word, "false") == 0) {
        add_value(reader, json_object_new_boolean(word[0] == 't'));
    } else if (strcmp(word, "null") == 0) {
        add_value(reader, NULL);
    } else {
        fail(reader, "invalid keyword '%s'", word);
    }
}

/* An integer that fits neither int64 nor uint64 becomes a double, as in QEMU. */
static void add_number(JsonReader *reader, const char *text, bool integer)
{
    if (integer) {
        int64_t n;
        uint64_t u;

        errno = 0;
        n = g_ascii_strtoll(text, NULL, 10);
        if (errno == 0) {
            add_value(reader, json_object_new_int64(n));
            return;
        }
        errno = 0;
        u = g_ascii_strtoull(text, NULL, 10);
        if (errno == 0 && text[0] != '-') {
            add_value(reader, json_object_new_uint64(u));
            return;
        }
    }
    add_value(reader, json_object_new_double(g_ascii_strtod(text, NULL)));
}

/* ---- strings ---------------------------------------------------------- */

static int32_t hex4(const char *p, const char *end)
{
    int32_t cp = 0;

    for (int i = 0; i < 4; i++, p++) {
        int digit = p < end ? g_ascii_xdigit_value(*p) : -1;

        if (digit < 0) {
            return -1;
        }
        cp = cp << 4 | digit;
    }
    return cp;
}

/* After "\u", which is at *p - 2; @end is before the closing quote. */
static bool unescape_unicode(JsonReader *reader, GString *out, const char **p,
                             const char *end)
{
    const char *begin = *p - 2;
    int32_t cp = hex4(*p, end);

    *p += 4;
    if (cp >= 0xd800 && cp <= 0xdbff && end - *p >= 2 && (*p)[0] == '\\' &&
        (*p)[1] == 'u') {
        int32_t low = hex4(*p + 2, end);

        if (low >= 0xdc00 && low <= 0xdfff) {
            cp = 0x10000 + ((cp & 0x3ff) << 10 | (low & 0x3ff));
            *p += 6;
        } else {
            cp = -1;
        }
    }
    if (!mod_utf8_put(out, cp)) {
        /* QEMU counts the closing quote as part of a short sequence. */
        int len = MIN(*p, end + 1) - begin;

        fail(reader, "%.*s is not a valid Unicode character", len, begin);
        return false;
    }
    return true;
}

static bool unescape(JsonReader *reader, GString *out, const char **p,
                     const char *end)
{
    static const char letters[] = "\"'\\/bfnrt", plain[] = "\"'\\/\b\f\n\r\t";
    char c = *(*p)++; /* the lexer saw to it that something follows */
    const char *letter;

    if (c == 'u') {
        return unescape_unicode(reader, out, p, end);
    }
    letter = memchr(letters, c, sizeof(letters) - 1);
    if (!letter) {
        fail(reader, "invalid escape sequence in string");
        return false;
    }
    g_string_append_c(out, plain[letter - letters]);
    return true;
}

static void add_string(JsonReader *reader, const GString *token)
{
    const char *p = token->str + 1, *end = token->str + token->len - 1;
    g_autoptr(GString) out = g_string_sized_new(end - p);

    while (p < end) {
        if (*p == '\\') {
            p++;
            if (!unescape(reader, out, &p, end)) {
                return;
            }
        } else if (!mod_utf8_put(out, mod_utf8_get(p, end - p, &p))) {
            fail(reader, "invalid UTF-8 sequence in string");
            return;
        }
    }
    add_value(reader, json_object_new_string_len(out->str, out->len));
}

/* ---- grammar ---------------------------------------------------------- */

static void parse_value(JsonReader *reader, JsonTokenType type)
{
    const GString *token = reader->lexer.token;

    switch (type) {
    case JSON_TOKEN_LCURLY:
        push(reader, json_object_new_object());
        break;
    case JSON_TOKEN_LSQUARE:
        push(reader, json_object_new_array());
        break;
    case JSON_TOKEN_INTEGER:
    case JSON_TOKEN_FLOAT:
        add_number(reader, token->str, type == JSON_TOKEN_INTEGER);
        break;
    case JSON_TOKEN_KEYWORD:
        add_keyword(reader, token->str);
        break;
    case JSON_TOKEN_STRING:
        add_string(reader, token);
        break;
    default:
        fail(reader, "expecting value");
        break;
    }
}

static void parse_token(JsonReader *reader, JsonTokenType type)
{
    Level *level = top(reader);
    bool array = level && json_object_is_type(level->container, json_type_array);
    JsonTokenType last = array ? JSON_TOKEN_RSQUARE : JSON_TOKEN_RCURLY;

    if (level && level->want == WANT_COLON) {
        if (type == JSON_TOKEN_COLON) {
            level->want = WANT_MEMBER;
        } else {
            fail(reader, "missing : in object pair");
        }
    } else if (level && level->want <= WANT_FIRST && type == last) {
        pop(reader);
    } else if (level && level->want == WANT_SEPARATOR) {
        if (type == last) {
            pop(reader);
        } else if (type == JSON_TOKEN_COMMA) {
            level->want = array ? WANT_VALUE : WANT_KEY;
        } else {
            fail(reader, "expected separator in %s", array ? "list" : "dict");
        }
    } else {
        parse_value(reader, type);
    }
}

static void count_brackets(JsonReader *reader, JsonTokenType type)
{
    reader->braces += (type == JSON_TOKEN_LCURLY) - (type == JSON_TOKEN_RCURLY);
    reader->brackets += (type == JSON_TOKEN_LSQUARE) - (type == JSON_TOKEN_RSQUARE);
}

/* Stray text or a limit: the unfinished value ends here. */
static bool hopeless(JsonReader *reader, JsonTokenType type)
{
    const GString *token = reader->lexer.token;
    const char *limit = NULL;

    if (type == JSON_TOKEN_STRAY) {
        g_clear_error(&reader->error);
        /* Not all of a string of many megabytes. */
        fail(reader, "stray '%.*s'", token->len > 4096 ? 4096 : -1, token->str);
        return true;
    }
    if (type == JSON_TOKEN_HUGE ||
        reader->token_size + token->len >= JSON_MAX_TOKEN_SIZE) {
        limit = "token size";
    } else if (reader->token_count >= JSON_MAX_TOKEN_COUNT) {
        limit = "token count";
    } else if (reader->braces + reader->brackets > (int)JSON_MAX_NESTING) {
        limit = "nesting depth";
    }
    if (!limit) {
        return false;
    }
    g_clear_error(&reader->error);
    error_set(&reader->error, "JSON %s limit exceeded", limit);
    return true;
}

/* True: the value, or what is wrong with it, is complete. */
static bool take_token(JsonReader *reader, JsonTokenType type)
{
    count_brackets(reader, type);
    if (hopeless(reader, type)) {
        return true;
    }
    reader->token_count++;
    reader->token_size += reader->lexer.token->len;
    if (!reader->error) {
        parse_token(reader, type);
    }
    return reader->braces < 0 || reader->brackets < 0 ||
           (reader->braces == 0 && reader->brackets == 0);
}

bool json_reader_next(JsonReader *reader, const char *buf, size_t len,
                      size_t *used, json_object **value, GError **errp)
{
    *used = 0;
    for (;;) {
        size_t n;
        JsonTokenType type = json_lexer_next(&reader->lexer, buf + *used,
                                             len - *used, &n);

        *used += n;
        if (type == JSON_TOKEN_NONE) {
            return false;
        }
        if (take_token(reader, type)) {
            break;
        }
    }
    if (!reader->error && !reader->have_value) { /* cannot happen */
        fail(reader, "premature EOI");
    }
    if (reader->error) {
        g_propagate_error(errp, g_steal_pointer(&reader->error));
        *value = NULL;
    } else {
        *value = g_steal_pointer(&reader->value);
    }
    reset(reader);
    return true;
}
