/*
 * QEMU's schema and ours as one; see qmp-schema.h.
 *
 * Names of types are numbers in QEMU's list and s0, s1, … in ours; builtin types
 * are the same in both.  So an equal name means the same type, or a command or
 * event of which ours replaces QEMU's.  Types that only the replaced ones used
 * are left out, as QEMU leaves out what nothing reaches: some clients read
 * answers of at most 256 KiB, and QEMU's alone takes most of that.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qmp-schema.h"
#include <glib.h>
#include <stdbool.h>
#include <string.h>

typedef struct {
    GHashTable *entries; /* name → json_object; borrowed */
    GHashTable *needed;  /* names */
    GPtrArray *todo;     /* names that are needed and not followed yet */
} Merge;

const char *qmp_entry_name(json_object *entry)
{
    const char *name = json_object_get_string(json_object_object_get(entry, "name"));

    return name ? name : "";
}

static void add_entries(Merge *m, json_object *list)
{
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *entry = json_object_array_get_idx(list, i);
        const char *name = qmp_entry_name(entry);

        if (!g_hash_table_contains(m->entries, name)) {
            g_hash_table_insert(m->entries, (char *)name, entry);
        }
    }
}

static void need(Merge *m, const char *name)
{
    if (name && g_hash_table_add(m->needed, (char *)name)) {
        g_ptr_array_add(m->todo, (char *)name);
    }
}

static void need_key(Merge *m, json_object *object, const char *key)
{
    need(m, json_object_get_string(json_object_object_get(object, key)));
}

/* The types of the members (variants) of a type. */
static void need_types(Merge *m, json_object *entry, const char *key)
{
    json_object *list = json_object_object_get(entry, key);

    if (json_object_is_type(list, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(list); i++) {
            need_key(m, json_object_array_get_idx(list, i), "type");
        }
    }
}

static void follow(Merge *m, json_object *entry)
{
    need_key(m, entry, "arg-type");
    need_key(m, entry, "ret-type");
    need_key(m, entry, "element-type");
    need_types(m, entry, "members");
    need_types(m, entry, "variants");
}

static bool is_root(json_object *entry)
{
    const char *meta = json_object_get_string(json_object_object_get(entry, "meta-type"));

    return g_strcmp0(meta, "command") == 0 || g_strcmp0(meta, "event") == 0;
}

static void find_needed(Merge *m)
{
    GHashTableIter it;
    void *name, *entry;

    g_hash_table_iter_init(&it, m->entries);
    while (g_hash_table_iter_next(&it, &name, &entry)) {
        if (is_root(entry)) {
            need(m, name);
        }
    }
    while (m->todo->len) {
        name = g_ptr_array_steal_index(m->todo, m->todo->len - 1);
        entry = g_hash_table_lookup(m->entries, name);
        if (entry) {
            follow(m, entry);
        }
    }
}

/* What of @from was not replaced and is needed. */
static void take_entries(Merge *m, json_object *from, json_object *to)
{
    for (size_t i = 0; i < json_object_array_length(from); i++) {
        json_object *entry = json_object_array_get_idx(from, i);
        const char *name = qmp_entry_name(entry);

        if (g_hash_table_lookup(m->entries, name) == entry &&
            g_hash_table_contains(m->needed, name)) {
            json_object_array_add(to, json_object_get(entry));
        }
    }
}

json_object *qmp_schema_merge(json_object *ours, json_object *theirs)
{
    json_object *merged = json_object_new_array();
    Merge m = {
        .entries = g_hash_table_new(g_str_hash, g_str_equal),
        .needed = g_hash_table_new(g_str_hash, g_str_equal),
        .todo = g_ptr_array_new(),
    };

    add_entries(&m, ours);
    add_entries(&m, theirs);
    find_needed(&m);
    take_entries(&m, ours, merged);
    take_entries(&m, theirs, merged);
    g_hash_table_unref(m.entries);
    g_hash_table_unref(m.needed);
    g_ptr_array_unref(m.todo);
    return merged;
}
