/*
 * query-commands and query-qmp-schema: QEMU's lists and ours as one;
 * human-monitor-command.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hmp/hmp.h"
#include "monitor-internal.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-introspect.h"
#include "util/error.h"
#include <string.h>

/* QEMU's answer to a query without arguments: an array, perhaps empty. */
static json_object *emulator_list(Monitor *mon, const char *command, GError **errp)
{
    json_object *list;

    if (!mon->set->emulator.send) {
        return json_object_new_array();
    }
    list = monitor_emulator_call(mon->set, command, NULL, NULL, 0, errp);
    if (list && !json_object_is_type(list, json_type_array)) {
        json_object_put(list);
        list = NULL;
        error_set(errp, "QEMU's answer to '%s' is no list", command);
    }
    return list;
}

static const char *name_of(json_object *entry)
{
    const char *name = json_object_get_string(json_object_object_get(entry, "name"));

    return name ? name : "";
}

/* The names of the entries; borrowed from @list. */
static GHashTable *names_of(json_object *list)
{
    GHashTable *names = g_hash_table_new(g_str_hash, g_str_equal);

    for (size_t i = 0; i < json_object_array_length(list); i++) {
        g_hash_table_add(names, (char *)name_of(json_object_array_get_idx(list, i)));
    }
    return names;
}

/* ---- query-commands ------------------------------------------------------- */

json_object *qmp_query_commands(Monitor *mon, GError **errp)
{
    json_object *list = emulator_list(mon, "query-commands", errp);
    g_autoptr(GHashTable) names = NULL;

    if (!list) {
        return NULL;
    }
    names = names_of(list);
    for (const QmpCommand *c = mon->set->commands; c->name; c++) {
        if (!g_hash_table_contains(names, c->name)) {
            json_object *entry = json_object_new_object();

            json_object_object_add(entry, "name", json_object_new_string(c->name));
            json_object_array_add(list, entry);
        }
    }
    return list;
}

/* ---- query-qmp-schema ------------------------------------------------------ */

/* Those of @from whose name is not in @but. */
static void append_entries(json_object *to, json_object *from, GHashTable *but)
{
    for (size_t i = 0; i < json_object_array_length(from); i++) {
        json_object *entry = json_object_array_get_idx(from, i);

        if (!g_hash_table_contains(but, name_of(entry))) {
            json_object_array_add(to, json_object_get(entry));
        }
    }
}

/* Names of types are numbers in QEMU's list and s0, s1, … in ours; builtin types
 * are the same in both.  So an equal name means the same type, or a command or
 * event of which ours replaces QEMU's. */
json_object *qmp_query_qmp_schema(Monitor *mon, GError **errp)
{
    json_object *theirs = emulator_list(mon, "query-qmp-schema", errp);
    json_object *ours, *merged;

    if (!theirs) {
        return NULL;
    }
    ours = json_tokener_parse(qmp_schema_json);
    merged = json_object_new_array();
    {
        g_autoptr(GHashTable) names = names_of(ours);
        g_autoptr(GHashTable) none = g_hash_table_new(g_str_hash, g_str_equal);

        append_entries(merged, ours, none);
        append_entries(merged, theirs, names);
    }
    json_object_put(ours);
    json_object_put(theirs);
    return merged;
}

/* ---- human-monitor-command --------------------------------------------------- */

char *qmp_human_monitor_command(Monitor *mon, const char *command_line,
                                bool has_cpu_index, int64_t cpu_index, GError **errp)
{
    return hmp_execute(mon, command_line, has_cpu_index ? cpu_index : -1, errp);
}
