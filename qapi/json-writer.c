/*
 * json-c values as QEMU prints them; see json.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "json.h"
#include <math.h>
#include <string.h>

typedef struct {
    GString *out;
    bool pretty;
    unsigned depth;
} Writer;

static void write_value(Writer *w, json_object *value);

static void write_unicode(GString *out, int32_t cp)
{
    if (cp > 0xffff) {
        g_string_append_printf(out, "\\u%04X\\u%04X",
                               0xd800 + ((cp - 0x10000) >> 10),
                               0xdc00 + ((cp - 0x10000) & 0x3ff));
    } else {
        g_string_append_printf(out, "\\u%04X", cp);
    }
}

static void write_character(GString *out, int32_t cp)
{
    static const char plain[] = "\"\\\b\f\n\r\t", escape[] = "\"\\bfnrt";
    const char *p = cp > 0 && cp < 0x7f ? strchr(plain, cp) : NULL;

    if (p) {
        g_string_append_c(out, '\\');
        g_string_append_c(out, escape[p - plain]);
    } else if (cp >= 0x20 && cp < 0x7f) {
        g_string_append_c(out, cp);
    } else {
        write_unicode(out, cp < 0 ? 0xfffd : cp);
    }
}

void json_write_string(GString *out, const char *str, size_t len)
{
    const char *end = str + len;

    g_string_append_c(out, '"');
    while (str < end) {
        write_character(out, mod_utf8_get(str, end - str, &str));
    }
    g_string_append_c(out, '"');
}

static void write_int(GString *out, json_object *value)
{
    int64_t n = json_object_get_int64(value);

    if (n == INT64_MAX) { /* or saturated */
        g_string_append_printf(out, "%" G_GUINT64_FORMAT,
                               json_object_get_uint64(value));
    } else {
        g_string_append_printf(out, "%" G_GINT64_FORMAT, n);
    }
}

/* QEMU prints `inf' for what was too big, which is not JSON: this reads back
 * as the same value. */
static void write_double(GString *out, double d)
{
    char buf[G_ASCII_DTOSTR_BUF_SIZE];

    if (isnan(d)) {
        g_string_append(out, "null");
    } else if (isinf(d)) {
        g_string_append(out, d < 0 ? "-1e999" : "1e999");
    } else {
        g_string_append(out, g_ascii_formatd(buf, sizeof(buf), "%.17g", d));
    }
}

static void newline(Writer *w)
{
    g_string_append(w->out, "\r\n");
    for (unsigned i = 0; i < w->depth; i++) {
        g_string_append(w->out, "    ");
    }
}

static void begin(Writer *w, char bracket)
{
    g_string_append_c(w->out, bracket);
    w->depth++;
}

static void separate(Writer *w, bool first)
{
    if (!first) {
        g_string_append(w->out, w->pretty ? "," : ", ");
    }
    if (w->pretty) {
        newline(w);
    }
}

static void end(Writer *w, char bracket)
{
    w->depth--;
    if (w->pretty) {
        newline(w);
    }
    g_string_append_c(w->out, bracket);
}

static void write_array(Writer *w, json_object *value)
{
    size_t n = json_object_array_length(value);

    begin(w, '[');
    for (size_t i = 0; i < n; i++) {
        separate(w, i == 0);
        write_value(w, json_object_array_get_idx(value, i));
    }
    end(w, ']');
}

static void write_object(Writer *w, json_object *value)
{
    struct json_object_iterator it = json_object_iter_begin(value);
    struct json_object_iterator last = json_object_iter_end(value);

    begin(w, '{');
    for (bool first = true; !json_object_iter_equal(&it, &last); first = false) {
        const char *key = json_object_iter_peek_name(&it);

        separate(w, first);
        json_write_string(w->out, key, strlen(key));
        g_string_append(w->out, ": ");
        write_value(w, json_object_iter_peek_value(&it));
        json_object_iter_next(&it);
    }
    end(w, '}');
}

static void write_value(Writer *w, json_object *value)
{
    switch (json_object_get_type(value)) {
    case json_type_null:
        g_string_append(w->out, "null");
        break;
    case json_type_boolean:
        g_string_append(w->out, json_object_get_boolean(value) ? "true" : "false");
        break;
    case json_type_int:
        write_int(w->out, value);
        break;
    case json_type_double:
        write_double(w->out, json_object_get_double(value));
        break;
    case json_type_string:
        json_write_string(w->out, json_object_get_string(value),
                          json_object_get_string_len(value));
        break;
    case json_type_array:
        write_array(w, value);
        break;
    case json_type_object:
        write_object(w, value);
        break;
    }
}

void json_write(GString *out, json_object *value, bool pretty)
{
    Writer w = { .out = out, .pretty = pretty };

    write_value(&w, value);
}
