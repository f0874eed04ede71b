/*
 * Strictly typed values out of JSON and back; see qapi/qapi-visit.h.
 *
 * The wording of the errors is QEMU 7.2's, oddities included, because clients
 * match on it: unsigned types say "expects uint64"; range errors, enums and
 * alternates name only the last part of the path, and that of a list's element
 * is "null".
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qapi/qapi-visit.h"
#include "util/error.h"
#include <string.h>

/* ---- enums ------------------------------------------------------------ */

const char *qapi_enum_lookup(const QEnumLookup *lookup, int value)
{
    return value >= 0 && value < lookup->size ? lookup->array[value] : "?";
}

int qapi_enum_find(const QEnumLookup *lookup, const char *name)
{
    for (int i = 0; i < lookup->size; i++) {
        if (strcmp(lookup->array[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

int qapi_enum_parse(const QEnumLookup *lookup, const char *name, int def,
                    GError **errp)
{
    int value = name ? qapi_enum_find(lookup, name) : def;

    if (value < 0) {
        error_set(errp, "invalid parameter value: %s", name);
    }
    return value;
}

/* ---- where we are ----------------------------------------------------- */

static void append_path(GString *path, const QapiInput *in)
{
    if (!in || !in->up) {
        return;
    }
    append_path(path, in->up);
    if (!in->name) {
        g_string_append_printf(path, "[%zu]", in->index);
    } else {
        g_string_append_printf(path, "%s%s", path->len ? "." : "", in->name);
    }
}

/* "capabilities[0].state"; @name: a member of @in, or NULL for @in itself. */
static char *full_name(const QapiInput *in, const char *name)
{
    GString *path = g_string_new(NULL);

    append_path(path, in);
    if (name) {
        g_string_append_printf(path, "%s%s", path->len ? "." : "", name);
    }
    return g_string_free(path, FALSE);
}

static bool type_error(const QapiInput *in, const char *expected, GError **errp)
{
    g_autofree char *path = full_name(in, NULL);

    error_set(errp, "Invalid parameter type for '%s', expected: %s", path,
              expected);
    return false;
}

static const char *local_name(const QapiInput *in)
{
    return in->name ? in->name : "null";
}

bool qapi_input_no_branch(const QapiInput *in, const char *alternate,
                          GError **errp)
{
    error_set(errp, "Invalid parameter type for '%s', expected: %s",
              local_name(in), alternate);
    return false;
}

/* ---- objects and arrays ----------------------------------------------- */

bool qapi_input_is_object(const QapiInput *in, GError **errp)
{
    return json_object_is_type(in->value, json_type_object) ||
           type_error(in, "object", errp);
}

bool qapi_input_is_array(const QapiInput *in, size_t *n, GError **errp)
{
    if (!json_object_is_type(in->value, json_type_array)) {
        return type_error(in, "array", errp);
    }
    *n = json_object_array_length(in->value);
    return true;
}

bool qapi_input_optional(const QapiInput *in, const char *name,
                         QapiInput *member)
{
    *member = (QapiInput){ .up = in, .name = name };
    return json_object_object_get_ex(in->value, name, &member->value);
}

bool qapi_input_member(const QapiInput *in, const char *name,
                       QapiInput *member, GError **errp)
{
    g_autofree char *path = NULL;

    if (qapi_input_optional(in, name, member)) {
        return true;
    }
    path = full_name(in, name);
    error_set(errp, "Parameter '%s' is missing", path);
    return false;
}

void qapi_input_element(const QapiInput *in, size_t index, QapiInput *element)
{
    *element = (QapiInput){
        .up = in,
        .index = index,
        .value = json_object_array_get_idx(in->value, index),
    };
}

static bool is_in(const char *name, const char *const *names)
{
    for (; names && *names; names++) {
        if (strcmp(name, *names) == 0) {
            return true;
        }
    }
    return false;
}

bool qapi_input_only(const QapiInput *in, const char *const *names,
                     const char *const *more, GError **errp)
{
    json_object_object_foreach(in->value, key, value) {
        (void)value;
        if (!is_in(key, names) && !is_in(key, more)) {
            g_autofree char *path = full_name(in, key);

            error_set(errp, "Parameter '%s' is unexpected", path);
            return false;
        }
    }
    return true;
}

/* ---- numbers ---------------------------------------------------------- */

/* json-c's getters saturate; QEMU calls what doesn't fit a wrong type. */
static bool fits_int64(json_object *value)
{
    return json_object_is_type(value, json_type_int) &&
           (json_object_get_int64(value) != INT64_MAX ||
            json_object_get_uint64(value) == INT64_MAX);
}

bool qapi_input_int(const QapiInput *in, int64_t *v, GError **errp)
{
    if (!fits_int64(in->value)) {
        return type_error(in, "integer", errp);
    }
    *v = json_object_get_int64(in->value);
    return true;
}

static bool expects(const QapiInput *in, const char *what, GError **errp)
{
    error_set(errp, "Parameter '%s' expects %s", local_name(in), what);
    return false;
}

static bool ranged_int(const QapiInput *in, int64_t min, int64_t max,
                       const char *type, int64_t *v, GError **errp)
{
    return qapi_input_int(in, v, errp) &&
           ((*v >= min && *v <= max) || expects(in, type, errp));
}

bool qapi_input_uint64(const QapiInput *in, uint64_t *v, GError **errp)
{
    g_autofree char *path = NULL;

    if (!json_object_is_type(in->value, json_type_int)) {
        path = full_name(in, NULL);
        error_set(errp, "Parameter '%s' expects uint64", path);
        return false;
    }
    *v = fits_int64(in->value) ? (uint64_t)json_object_get_int64(in->value)
                               : json_object_get_uint64(in->value);
    return true;
}

static bool ranged_uint(const QapiInput *in, uint64_t max, const char *type,
                        uint64_t *v, GError **errp)
{
    return qapi_input_uint64(in, v, errp) &&
           (*v <= max || expects(in, type, errp));
}

#define DEFINE_INT(bits)                                                    \
    bool qapi_input_int##bits(const QapiInput *in, int##bits##_t *v,        \
                              GError **errp)                                \
    {                                                                       \
        int64_t wide = 0;                                                   \
        bool ok = ranged_int(in, INT##bits##_MIN, INT##bits##_MAX,          \
                             "int" #bits "_t", &wide, errp);                \
                                                                            \
        *v = ok ? (int##bits##_t)wide : 0;                                  \
        return ok;                                                          \
    }                                                                       \
    bool qapi_input_uint##bits(const QapiInput *in, uint##bits##_t *v,      \
                               GError **errp)                               \
    {                                                                       \
        uint64_t wide = 0;                                                  \
        bool ok = ranged_uint(in, UINT##bits##_MAX, "uint" #bits "_t",      \
                              &wide, errp);                                 \
                                                                            \
        *v = ok ? (uint##bits##_t)wide : 0;                                 \
        return ok;                                                          \
    }

DEFINE_INT(8)
DEFINE_INT(16)
DEFINE_INT(32)

bool qapi_input_number(const QapiInput *in, double *v, GError **errp)
{
    if (!json_object_is_type(in->value, json_type_double) &&
        !json_object_is_type(in->value, json_type_int)) {
        return type_error(in, "number", errp);
    }
    *v = json_object_get_double(in->value);
    return true;
}

/* ---- the rest --------------------------------------------------------- */

bool qapi_input_bool(const QapiInput *in, bool *v, GError **errp)
{
    if (!json_object_is_type(in->value, json_type_boolean)) {
        return type_error(in, "boolean", errp);
    }
    *v = json_object_get_boolean(in->value);
    return true;
}

bool qapi_input_str(const QapiInput *in, char **v, GError **errp)
{
    if (!json_object_is_type(in->value, json_type_string)) {
        return type_error(in, "string", errp);
    }
    *v = g_strdup(json_object_get_string(in->value));
    return true;
}

bool qapi_input_any(const QapiInput *in, json_object **v, GError **errp)
{
    *v = json_object_get(in->value);
    return true;
}

bool qapi_input_null(const QapiInput *in, bool *v, GError **errp)
{
    *v = true;
    return in->value == NULL || type_error(in, "null", errp);
}

bool qapi_input_enum(const QapiInput *in, const QEnumLookup *lookup, int *v,
                     GError **errp)
{
    const char *text;

    if (!json_object_is_type(in->value, json_type_string)) {
        return type_error(in, "string", errp);
    }
    text = json_object_get_string(in->value);
    *v = qapi_enum_find(lookup, text);
    if (*v < 0) {
        error_set(errp, "Parameter '%s' does not accept value '%s'",
                  local_name(in), text);
        return false;
    }
    return true;
}

json_object *qapi_output_int(int64_t v)
{
    return json_object_new_int64(v);
}

json_object *qapi_output_uint64(uint64_t v)
{
    return json_object_new_uint64(v);
}

json_object *qapi_output_number(double v)
{
    return json_object_new_double(v);
}

json_object *qapi_output_bool(bool v)
{
    return json_object_new_boolean(v);
}

json_object *qapi_output_null(bool v)
{
    return NULL;
}

json_object *qapi_output_str(const char *v)
{
    return json_object_new_string(v ? v : "");
}

json_object *qapi_output_any(json_object *v)
{
    return json_object_get(v);
}

json_object *qapi_output_enum(const QEnumLookup *lookup, int v)
{
    return json_object_new_string(qapi_enum_lookup(lookup, v));
}

QAPI_DEFINE_LIST(strList, str, g_free)
QAPI_DEFINE_LIST(intList, int, QAPI_FREE_NOTHING)
QAPI_DEFINE_LIST(int8List, int8, QAPI_FREE_NOTHING)
QAPI_DEFINE_LIST(int16List, int16, QAPI_FREE_NOTHING)
QAPI_DEFINE_LIST(int32List, int32, QAPI_FREE_NOTHING)
QAPI_DEFINE_LIST(uint8List, uint8, QAPI_FREE_NOTHING)
QAPI_DEFINE_LIST(uint16List, uint16, QAPI_FREE_NOTHING)
QAPI_DEFINE_LIST(uint32List, uint32, QAPI_FREE_NOTHING)
QAPI_DEFINE_LIST(uint64List, uint64, QAPI_FREE_NOTHING)
QAPI_DEFINE_LIST(numberList, number, QAPI_FREE_NOTHING)
QAPI_DEFINE_LIST(boolList, bool, QAPI_FREE_NOTHING)
QAPI_DEFINE_LIST(anyList, any, json_object_put)
