/*
 * Two answers to query-qmp-schema as one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_QAPI_QMP_SCHEMA_H
#define SIDECAR_QAPI_QMP_SCHEMA_H

#include <json-c/json.h>

/* The name of an entry of a list of objects; "" if it has none. */
const char *qmp_entry_name(json_object *entry);

/* A new list (its entries are shared with both): all of @ours, and of @theirs
 * what ours do not replace and a command or event still needs. */
json_object *qmp_schema_merge(json_object *ours, json_object *theirs);

#endif
