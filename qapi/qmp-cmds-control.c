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
#include "qmp-schema.h"
#include "util/error.h"

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

/* The names of the entries; borrowed from @list. */
static GHashTable *names_of(json_object *list)
{
    GHashTable *names = g_hash_table_new(g_str_hash, g_str_equal);

    for (size_t i = 0; i < json_object_array_length(list); i++) {
        g_hash_table_add(names, (char *)qmp_entry_name(json_object_array_get_idx(list, i)));
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

json_object *qmp_query_qmp_schema(Monitor *mon, GError **errp)
{
    json_object *theirs = emulator_list(mon, "query-qmp-schema", errp);
    json_object *ours, *merged;

    if (!theirs) {
        return NULL;
    }
    ours = json_tokener_parse(qmp_schema_json);
    merged = qmp_schema_merge(ours, theirs);
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
