/*
 * Arguments of HMP commands; see args.h.  Messages are those of QEMU 7.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "args.h"

#include "util/size.h"

#include <string.h>

typedef struct {
    char *text; /* strings; NULL: a number */
    int64_t number;
} Value;

struct HmpArgs {
    GHashTable *values; /* name -> Value */
};

/* One "name:type" of an args_type, and what is being parsed. */
typedef struct {
    const char *cmd;
    char *name;
    char type;         /* '-' for flags */
    char flag;
    bool flag_string;
    bool optional;
    const char *rest;  /* of the args_type behind this argument */
    const char **line;
    GString *out;
    HmpArgs *args;
} Param;

static void value_free(gpointer data)
{
    Value *value = data;

    g_free(value->text);
    g_free(value);
}

void hmp_args_free(HmpArgs *args)
{
    if (args) {
        g_hash_table_unref(args->values);
        g_free(args);
    }
}

bool hmp_args_has(const HmpArgs *args, const char *name)
{
    return g_hash_table_contains(args->values, name);
}

const char *hmp_args_str(const HmpArgs *args, const char *name)
{
    const Value *value = g_hash_table_lookup(args->values, name);

    return value ? value->text : NULL;
}

int64_t hmp_args_int(const HmpArgs *args, const char *name)
{
    const Value *value = g_hash_table_lookup(args->values, name);

    return value ? value->number : 0;
}

bool hmp_args_bool(const HmpArgs *args, const char *name)
{
    return hmp_args_int(args, name) != 0;
}

static void put(const Param *p, char *text, int64_t number)
{
    Value *value = g_new0(Value, 1);

    value->text = text;
    value->number = number;
    g_hash_table_replace(p->args->values, g_strdup(p->name), value);
}

static void skip_spaces(const char **p)
{
    while (g_ascii_isspace(**p)) {
        (*p)++;
    }
}

/* The inside of "…"; NULL: malformed. */
static char *quoted_word(const char **p, GString *out)
{
    g_autoptr(GString) s = g_string_new(NULL);

    for ((*p)++; **p && **p != '"'; (*p)++) {
        char c = **p;

        if (c == '\\') {
            c = *++*p;
            if (!c || !strchr("nr\\'\"", c)) {
                if (out) {
                    g_string_append_printf(out, "unsupported escape code: '\\%c'\n",
                                           c ? c : ' ');
                }
                return NULL;
            }
            c = c == 'n' ? '\n' : c == 'r' ? '\r' : c;
        }
        g_string_append_c(s, c);
    }
    if (**p != '"') {
        if (out) {
            g_string_append(out, "unterminated string\n");
        }
        return NULL;
    }
    (*p)++;
    return g_string_free(g_steal_pointer(&s), FALSE);
}

char *hmp_args_word(const char **p, GString *out)
{
    const char *start;

    skip_spaces(p);
    if (!**p) {
        return NULL;
    }
    if (**p == '"') {
        return quoted_word(p, out);
    }
    for (start = *p; **p && !g_ascii_isspace(**p); (*p)++) {
    }
    return g_strndup(start, *p - start);
}

char **hmp_args_words(const char *line)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);

    for (skip_spaces(&line); *line; skip_spaces(&line)) {
        char *word = hmp_args_word(&line, NULL);

        if (!word) {
            return NULL;
        }
        g_ptr_array_add(words, word);
    }
    g_ptr_array_add(words, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&words), FALSE);
}

static bool parse_string(const Param *p)
{
    char *word = hmp_args_word(p->line, p->out);

    if (!word) {
        g_string_append_printf(p->out, "%s: %s expected\n", p->cmd,
                               p->type == 'F'   ? "filename"
                               : p->type == 'B' ? "block device name"
                                                : "string");
        return false;
    }
    put(p, word, 0);
    return true;
}

static bool parse_rest(const Param *p)
{
    if (!**p->line) {
        g_string_append_printf(p->out, "%s: string expected\n", p->cmd);
        return false;
    }
    put(p, g_strdup(*p->line), 0);
    *p->line += strlen(*p->line);
    return true;
}

static bool parse_integer(const Param *p)
{
    int64_t value;

    if (!hmp_expr_parse(p->line, &value, p->out)) {
        return false;
    }
    if (p->type == 'i' && (value < 0 || value > UINT32_MAX)) {
        g_string_append_printf(p->out, "'%s' has failed: integer is for 32-bit "
                               "values\n", p->cmd);
        return false;
    }
    if (p->type == 'M') {
        if (value < 0) {
            g_string_append(p->out, "enter a positive value\n");
            return false;
        }
        if (__builtin_mul_overflow(value, 1 << 20, &value)) {
            g_string_append(p->out, "number too large\n");
            return false;
        }
    }
    put(p, NULL, value);
    return true;
}

static bool parse_size(const Param *p)
{
    uint64_t value;

    if (size_parse(*p->line, 'M', p->line, &value) < 0 || value > INT64_MAX) {
        g_string_append(p->out, "invalid size\n");
        return false;
    }
    put(p, NULL, (int64_t)value);
    return true;
}

static bool parse_switch(const Param *p)
{
    size_t n = strcspn(*p->line, " \t\n\v\f\r");
    bool on = n == 2 && !memcmp(*p->line, "on", n);

    if (!on && !(n == 3 && !memcmp(*p->line, "off", n))) {
        g_string_append(p->out, "Expected 'on' or 'off'\n");
        return false;
    }
    *p->line += n;
    put(p, NULL, on);
    return true;
}

/* Is -@c one of the flags that may still come? */
static bool flag_follows(const char *types, char c)
{
    const char wanted[] = { ':', '-', c, '\0' };

    return c && strstr(types, wanted);
}

static bool parse_flag(const Param *p)
{
    const char *line = *p->line;
    char *word;

    if (line[0] != '-') {
        return true;
    }
    if (line[1] != p->flag) {
        if (flag_follows(p->rest, line[1])) {
            return true;
        }
        g_string_append_printf(p->out, "%s: unsupported option -%.1s\n", p->cmd,
                               line + 1);
        return false;
    }
    *p->line += 2;
    if (!p->flag_string) {
        put(p, NULL, true);
        return true;
    }
    word = hmp_args_word(p->line, p->out);
    if (!word) {
        g_string_append_printf(p->out, "%s: value expected for -%c\n", p->cmd,
                               p->flag);
        return false;
    }
    put(p, word, 0);
    return true;
}

static bool parse_param(const Param *p)
{
    skip_spaces(p->line);
    if (p->optional && !**p->line) {
        return true;
    }
    switch (p->type) {
    case 'F':
    case 'B':
    case 's':
        return parse_string(p);
    case 'S':
        return parse_rest(p);
    case 'i':
    case 'l':
    case 'M':
        return parse_integer(p);
    case 'o':
        return parse_size(p);
    case 'b':
        return parse_switch(p);
    case '-':
        return parse_flag(p);
    }
    g_string_append_printf(p->out, "%s: unknown type '%c'\n", p->cmd, p->type);
    return false;
}

/* Take the next "name:type" off *types; false: there is none. */
static bool next_param(Param *p, const char **types)
{
    const char *t = *types, *colon;

    t += *t == ',';
    colon = strchr(t, ':');
    if (!colon) {
        return false;
    }
    p->name = g_strndup(t, colon - t);
    t = colon + 1;
    p->type = *t ? *t++ : '\0';
    p->flag_string = p->optional = false;
    if (p->type == '-') {
        p->flag = *t ? *t++ : '\0';
        p->flag_string = *t == 's';
        t += p->flag_string;
    }
    if (*t == '?') {
        p->optional = true;
        t++;
    }
    *types = p->rest = t;
    return true;
}

HmpArgs *hmp_args_parse(const char *cmd, const char *args_type,
                        const char **line, GString *out)
{
    g_autoptr(HmpArgs) args = g_new0(HmpArgs, 1);
    Param p = { .cmd = cmd, .line = line, .out = out, .args = args };

    args->values = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                         value_free);
    while (next_param(&p, &args_type)) {
        bool ok = parse_param(&p);

        g_free(p.name);
        if (!ok) {
            return NULL;
        }
    }
    skip_spaces(line);
    if (**line) {
        g_string_append_printf(out, "%s: extraneous characters at the end of "
                               "line\n", cmd);
        return NULL;
    }
    return g_steal_pointer(&args);
}

char *hmp_add_word(const char *command, const char *word)
{
    g_autoptr(GString) s = g_string_new(command);

    if (*word && !word[strcspn(word, " \t\n\v\f\r\\\"'")]) {
        g_string_append_printf(s, " %s", word);
        return g_string_free(g_steal_pointer(&s), FALSE);
    }
    g_string_append(s, " \"");
    for (; *word; word++) {
        if (strchr("\\\"'", *word)) {
            g_string_append_c(s, '\\');
        }
        g_string_append_c(s, *word);
    }
    g_string_append_c(s, '"');
    return g_string_free(g_steal_pointer(&s), FALSE);
}
