/*
 * QEMU's option arguments: "key=value,flag,key=va,,lue".
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_KEYVAL_H
#define SIDECAR_EMULATOR_KEYVAL_H

#include <glib.h>
#include <stdbool.h>

typedef struct {
    char *key;
    char *value;
} KeyvalItem;

typedef struct {
    GPtrArray *items; /* KeyvalItem, in order; a key may come twice */
} Keyval;

/* A comma in a value is written twice.  "flag" alone means flag=on, "noflag"
 * means flag=off (both deprecated in QEMU, but still taken); with
 * @implied_key a first item without '=' is that key's value. */
Keyval *keyval_parse(const char *text, const char *implied_key);
/* The same for an option that may also be JSON; broken JSON has no items. */
Keyval *keyval_parse_object(const char *text, const char *implied_key);
void keyval_free(Keyval *kv);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Keyval, keyval_free)

/* The last one counts, as in QEMU; borrowed, or NULL. */
const char *keyval_get(const Keyval *kv, const char *key);
/* Removes every @key. */
void keyval_remove(Keyval *kv, const char *key);
void keyval_set(Keyval *kv, const char *key, const char *value);
/* True if @key is there and its value is a QEMU boolean, put into *value. */
bool keyval_get_bool(const Keyval *kv, const char *key, bool *value);
/* "key=value,key=value" with commas doubled; g_free. */
char *keyval_to_string(const Keyval *kv);
/* Append @text to @out with commas doubled. */
void keyval_append_escaped(GString *out, const char *text);

#endif
