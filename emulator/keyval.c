/*
 * QEMU's option arguments: "key=value,flag,key=va,,lue".  The rules are those
 * of QemuOpts: no nesting, no errors; dots in keys mean nothing here.
 *
 * Some options take JSON as well (-device, -object, -netdev, …; management tools
 * write it).  Its nested members get QEMU's own spelling, "a.b" and "a.0".
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "keyval.h"

#include <json-c/json.h>
#include <string.h>

static void item_free(void *opaque)
{
    KeyvalItem *item = opaque;

    g_free(item->key);
    g_free(item->value);
    g_free(item);
}

static void add(Keyval *kv, char *key, char *value)
{
    KeyvalItem *item = g_new(KeyvalItem, 1);

    item->key = key;
    item->value = value;
    g_ptr_array_add(kv->items, item);
}

/* The value at @p up to a single comma; *end is set to that comma or the NUL. */
static char *take_value(const char *p, const char **end)
{
    GString *value = g_string_new(NULL);

    for (; *p; p++) {
        if (*p == ',') {
            if (p[1] != ',') {
                break;
            }
            p++;
        }
        g_string_append_c(value, *p);
    }
    *end = p;
    return g_string_free(value, FALSE);
}

Keyval *keyval_parse(const char *text, const char *implied_key)
{
    Keyval *kv = g_new0(Keyval, 1);
    const char *p = text;

    kv->items = g_ptr_array_new_with_free_func(item_free);
    while (*p) {
        size_t len = strcspn(p, "=,");

        if (p[len] == '=') {
            char *key = g_strndup(p, len);

            add(kv, key, take_value(p + len + 1, &p));
        } else if (p == text && implied_key) {
            add(kv, g_strdup(implied_key), take_value(p, &p));
        } else {
            bool off = len >= 2 && !strncmp(p, "no", 2);

            add(kv, off ? g_strndup(p + 2, len - 2) : g_strndup(p, len),
                g_strdup(off ? "off" : "on"));
            p += len;
        }
        if (*p == ',') {
            p++;
        }
    }
    return kv;
}

static void add_json(Keyval *kv, char *key, json_object *value)
{
    size_t n;

    switch (json_object_get_type(value)) {
    case json_type_object:
        json_object_object_foreach(value, name, member) {
            add_json(kv, key ? g_strdup_printf("%s.%s", key, name)
                             : g_strdup(name), member);
        }
        g_free(key);
        break;
    case json_type_array:
        n = json_object_array_length(value);
        for (size_t i = 0; i < n; i++) {
            add_json(kv, g_strdup_printf("%s.%zu", key, i),
                     json_object_array_get_idx(value, i));
        }
        g_free(key);
        break;
    case json_type_boolean:
        add(kv, key, g_strdup(json_object_get_boolean(value) ? "on" : "off"));
        break;
    default:
        add(kv, key, g_strdup(value ? json_object_get_string(value) : ""));
    }
}

Keyval *keyval_parse_object(const char *text, const char *implied_key)
{
    json_object *object;
    Keyval *kv;

    if (*text != '{') {
        return keyval_parse(text, implied_key);
    }
    kv = keyval_parse("", NULL);
    object = json_tokener_parse(text);
    if (json_object_is_type(object, json_type_object)) {
        add_json(kv, NULL, object);
    }
    json_object_put(object);
    return kv;
}

void keyval_free(Keyval *kv)
{
    if (kv) {
        g_ptr_array_unref(kv->items);
        g_free(kv);
    }
}

const char *keyval_get(const Keyval *kv, const char *key)
{
    for (guint i = kv->items->len; i-- > 0;) {
        const KeyvalItem *item = g_ptr_array_index(kv->items, i);

        if (!strcmp(item->key, key)) {
            return item->value;
        }
    }
    return NULL;
}

void keyval_remove(Keyval *kv, const char *key)
{
    for (guint i = kv->items->len; i-- > 0;) {
        const KeyvalItem *item = g_ptr_array_index(kv->items, i);

        if (!strcmp(item->key, key)) {
            g_ptr_array_remove_index(kv->items, i);
        }
    }
}

void keyval_set(Keyval *kv, const char *key, const char *value)
{
    keyval_remove(kv, key);
    add(kv, g_strdup(key), g_strdup(value));
}

bool keyval_get_bool(const Keyval *kv, const char *key, bool *value)
{
    static const char *const on[] = {"on", "yes", "true", "y", NULL};
    static const char *const off[] = {"off", "no", "false", "n", NULL};
    const char *text = keyval_get(kv, key);

    if (!text) {
        return false;
    }
    if (g_strv_contains(on, text)) {
        *value = true;
        return true;
    }
    if (g_strv_contains(off, text)) {
        *value = false;
        return true;
    }
    return false;
}

void keyval_append_escaped(GString *out, const char *text)
{
    for (; *text; text++) {
        if (*text == ',') {
            g_string_append_c(out, ',');
        }
        g_string_append_c(out, *text);
    }
}

char *keyval_to_string(const Keyval *kv)
{
    GString *out = g_string_new(NULL);

    for (guint i = 0; i < kv->items->len; i++) {
        const KeyvalItem *item = g_ptr_array_index(kv->items, i);

        g_string_append_printf(out, "%s%s=", i ? "," : "", item->key);
        keyval_append_escaped(out, item->value);
    }
    return g_string_free(out, FALSE);
}
