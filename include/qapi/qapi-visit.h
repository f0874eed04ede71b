/*
 * What the generated code (BUILD/qapi/qapi-*.[ch]) is made of: reading C values
 * from JSON with strict checks and QEMU's error wording, and back.
 *
 * For every type T of the schema there are
 *     qapi_input_T(in, &value, errp)   read; true on success
 *     qapi_output_T(value)             a new json_object
 *     qapi_free_T(value)               structs, alternates and lists; NULL is fine
 * Lists are singly linked, NULL is the empty one.  An optional member has a
 * has_NAME beside it, unless its type is a string, an object or `any', where
 * NULL means absent.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_QAPI_VISIT_H
#define SIDECAR_QAPI_VISIT_H

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

/* ---- enums ------------------------------------------------------------ */

typedef struct QEnumLookup {
    const char *const *array;
    int size;
} QEnumLookup;

/* The name of @value, static; "?" if it is out of range. */
const char *qapi_enum_lookup(const QEnumLookup *lookup, int value);
/* The value of @name, or -1. */
int qapi_enum_find(const QEnumLookup *lookup, const char *name);
/* The same for users' input: NULL gives @def; -1 and an error if unknown. */
int qapi_enum_parse(const QEnumLookup *lookup, const char *name, int def,
                    GError **errp);

/* ---- input ------------------------------------------------------------ */

/* One value of the input and the way to it, for messages.  Lives on the
 * stack; everything is borrowed. */
typedef struct QapiInput QapiInput;
struct QapiInput {
    const QapiInput *up; /* NULL: the arguments themselves */
    const char *name;    /* in an object, else NULL */
    size_t index;        /* in an array */
    json_object *value;
};

bool qapi_input_is_object(const QapiInput *in, GError **errp);
bool qapi_input_is_array(const QapiInput *in, size_t *n, GError **errp);
/* A mandatory member: false and an error if it is missing. */
bool qapi_input_member(const QapiInput *in, const char *name,
                       QapiInput *member, GError **errp);
/* An optional member: false if it is absent. */
bool qapi_input_optional(const QapiInput *in, const char *name,
                         QapiInput *member);
void qapi_input_element(const QapiInput *in, size_t index, QapiInput *element);
/* Fails if the object has members that are in neither list (NULL-terminated;
 * @more may be NULL). */
bool qapi_input_only(const QapiInput *in, const char *const *names,
                     const char *const *more, GError **errp);

bool qapi_input_int(const QapiInput *in, int64_t *v, GError **errp);
bool qapi_input_int8(const QapiInput *in, int8_t *v, GError **errp);
bool qapi_input_int16(const QapiInput *in, int16_t *v, GError **errp);
bool qapi_input_int32(const QapiInput *in, int32_t *v, GError **errp);
bool qapi_input_uint8(const QapiInput *in, uint8_t *v, GError **errp);
bool qapi_input_uint16(const QapiInput *in, uint16_t *v, GError **errp);
bool qapi_input_uint32(const QapiInput *in, uint32_t *v, GError **errp);
/* Negative numbers wrap, as in QEMU. */
bool qapi_input_uint64(const QapiInput *in, uint64_t *v, GError **errp);
bool qapi_input_number(const QapiInput *in, double *v, GError **errp);
bool qapi_input_bool(const QapiInput *in, bool *v, GError **errp);
bool qapi_input_str(const QapiInput *in, char **v, GError **errp);
bool qapi_input_any(const QapiInput *in, json_object **v, GError **errp);
bool qapi_input_null(const QapiInput *in, bool *v, GError **errp);
bool qapi_input_enum(const QapiInput *in, const QEnumLookup *lookup, int *v,
                     GError **errp);
/* An alternate that has no branch for the value's type: sets the error, returns
 * false. */
bool qapi_input_no_branch(const QapiInput *in, const char *alternate,
                          GError **errp);

/* ---- output ----------------------------------------------------------- */

json_object *qapi_output_int(int64_t v);
json_object *qapi_output_uint64(uint64_t v);
json_object *qapi_output_number(double v);
json_object *qapi_output_bool(bool v);
json_object *qapi_output_null(bool v);
json_object *qapi_output_str(const char *v); /* NULL: "" */
json_object *qapi_output_any(json_object *v); /* a new reference */
json_object *qapi_output_enum(const QEnumLookup *lookup, int v);
#define qapi_output_int8 qapi_output_int
#define qapi_output_int16 qapi_output_int
#define qapi_output_int32 qapi_output_int
#define qapi_output_uint8 qapi_output_int
#define qapi_output_uint16 qapi_output_int
#define qapi_output_uint32 qapi_output_int

/* ---- lists ------------------------------------------------------------ */

/* Add at the end: tail starts as the address of the list's pointer. */
#define QAPI_LIST_APPEND(tail, element)                              \
    do {                                                             \
        *(tail) = g_malloc0(sizeof(**(tail)));                       \
        (*(tail))->value = (element);                                \
        (tail) = &(*(tail))->next;                                   \
    } while (0)

#define QAPI_DECLARE_LIST(name, type)                                \
    typedef struct name name;                                        \
    struct name {                                                    \
        name *next;                                                  \
        type value;                                                  \
    };                                                               \
    void qapi_free_##name(name *list);                               \
    G_DEFINE_AUTOPTR_CLEANUP_FUNC(name, qapi_free_##name)            \
    bool qapi_input_##name(const QapiInput *in, name **list, GError **errp); \
    json_object *qapi_output_##name(const name *list);

/* @element: the ident of the element's type; @free_it(value) frees one. */
#define QAPI_DEFINE_LIST(name, element, free_it)                     \
    void qapi_free_##name(name *list)                                \
    {                                                                \
        while (list) {                                               \
            name *next = list->next;                                 \
                                                                     \
            free_it(list->value);                                    \
            g_free(list);                                            \
            list = next;                                             \
        }                                                            \
    }                                                                \
                                                                     \
    bool qapi_input_##name(const QapiInput *in, name **list, GError **errp) \
    {                                                                \
        g_autoptr(name) head = NULL;                                 \
        name **tail = &head;                                         \
        size_t n = 0;                                                \
                                                                     \
        if (!qapi_input_is_array(in, &n, errp)) {                    \
            return false;                                            \
        }                                                            \
        for (size_t i = 0; i < n; i++) {                             \
            QapiInput item;                                          \
                                                                     \
            qapi_input_element(in, i, &item);                        \
            *tail = g_new0(name, 1);                                 \
            if (!qapi_input_##element(&item, &(*tail)->value, errp)) { \
                return false;                                        \
            }                                                        \
            tail = &(*tail)->next;                                   \
        }                                                            \
        *list = g_steal_pointer(&head);                              \
        return true;                                                 \
    }                                                                \
                                                                     \
    json_object *qapi_output_##name(const name *list)                \
    {                                                                \
        json_object *array = json_object_new_array();                \
                                                                     \
        for (; list; list = list->next) {                            \
            json_object_array_add(array, qapi_output_##element(list->value)); \
        }                                                            \
        return array;                                                \
    }

#define QAPI_FREE_NOTHING(value) ((void)0)

QAPI_DECLARE_LIST(strList, char *)
QAPI_DECLARE_LIST(intList, int64_t)
QAPI_DECLARE_LIST(int8List, int8_t)
QAPI_DECLARE_LIST(int16List, int16_t)
QAPI_DECLARE_LIST(int32List, int32_t)
QAPI_DECLARE_LIST(uint8List, uint8_t)
QAPI_DECLARE_LIST(uint16List, uint16_t)
QAPI_DECLARE_LIST(uint32List, uint32_t)
QAPI_DECLARE_LIST(uint64List, uint64_t)
QAPI_DECLARE_LIST(numberList, double)
QAPI_DECLARE_LIST(boolList, bool)
QAPI_DECLARE_LIST(anyList, json_object *)

#endif
