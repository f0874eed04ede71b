/*
 * QMP's messages; see qmp-protocol.h.  Wording and order of members (but not
 * of those that a client sends as "id") are QEMU 7.2's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qmp-protocol.h"
#include "qapi/qmp-registry.h"
#include "util/error.h"
#include <string.h>

const QmpCommand *qmp_find_command(const QmpCommand *table, const char *name)
{
    for (; table->name; table++) {
        if (strcmp(table->name, name) == 0) {
            return table;
        }
    }
    return NULL;
}

/* ---- requests ------------------------------------------------------------ */

static bool take_member(QmpRequest *request, const char *key, json_object *value,
                        GError **errp)
{
    if (strcmp(key, "execute") == 0) {
        if (!json_object_is_type(value, json_type_string)) {
            error_set(errp, "QMP input member '%s' must be a string", key);
            return false;
        }
        request->command = json_object_get_string(value);
    } else if (strcmp(key, "arguments") == 0) {
        if (!json_object_is_type(value, json_type_object)) {
            error_set(errp, "QMP input member 'arguments' must be an object");
            return false;
        }
        request->args = value;
    } else if (strcmp(key, "id") != 0) { /* exec-oob too: oob is not offered */
        error_set(errp, "QMP input member '%s' is unexpected", key);
        return false;
    }
    return true;
}

bool qmp_parse_request(json_object *value, QmpRequest *request, GError **errp)
{
    *request = (QmpRequest){ NULL };
    if (!json_object_is_type(value, json_type_object)) {
        error_set(errp, "QMP input must be a JSON object");
        return false;
    }
    request->has_id = json_object_object_get_ex(value, "id", &request->id);
    json_object_object_foreach(value, key, member) {
        if (!take_member(request, key, member, errp)) {
            return false;
        }
    }
    if (!request->command) {
        error_set(errp, "QMP input lacks member 'execute'");
        return false;
    }
    return true;
}

/* ---- replies -------------------------------------------------------------- */

json_object *qmp_greeting(json_object *version)
{
    json_object *qmp = json_object_new_object();
    json_object *greeting = json_object_new_object();

    json_object_object_add(qmp, "version", json_object_get(version));
    json_object_object_add(qmp, "capabilities", json_object_new_array());
    json_object_object_add(greeting, "QMP", qmp);
    return greeting;
}

json_object *qmp_return(json_object *value, bool has_id, json_object *id)
{
    json_object *reply = json_object_new_object();

    json_object_object_add(reply, "return", value);
    if (has_id) {
        json_object_object_add(reply, "id", json_object_get(id));
    }
    return reply;
}

/* @error is consumed. */
static json_object *error_reply(json_object *error, bool has_id, json_object *id)
{
    json_object *reply = json_object_new_object();

    if (has_id) {
        json_object_object_add(reply, "id", json_object_get(id));
    }
    json_object_object_add(reply, "error", error);
    return reply;
}

json_object *qmp_error(const GError *error, bool has_id, json_object *id)
{
    json_object *obj = json_object_new_object();

    json_object_object_add(obj, "class",
                           json_object_new_string(sidecar_error_class(error)));
    json_object_object_add(obj, "desc", json_object_new_string(error->message));
    return error_reply(obj, has_id, id);
}

json_object *qmp_relay(json_object *reply, bool has_id, json_object *id)
{
    g_autoptr(GError) err = NULL;
    json_object *error;

    if (json_object_object_get_ex(reply, "error", &error)) {
        return error_reply(json_object_get(error), has_id, id);
    }
    if (qmp_reply_error(reply, &err)) {
        return qmp_error(err, has_id, id);
    }
    return qmp_return(json_object_get(json_object_object_get(reply, "return")),
                      has_id, id);
}

/* ---- QEMU's errors ---------------------------------------------------------- */

static SidecarError code_of_class(const char *class)
{
    for (int code = SIDECAR_ERROR_COMMAND_NOT_FOUND;
         code <= SIDECAR_ERROR_NOT_SUPPORTED; code++) {
        GError error = { .domain = SIDECAR_ERROR, .code = code };

        if (g_strcmp0(sidecar_error_class(&error), class) == 0) {
            return code;
        }
    }
    return SIDECAR_ERROR_GENERIC;
}

bool qmp_reply_error(json_object *reply, GError **errp)
{
    json_object *error;

    if (!reply) {
        error_set(errp, "QEMU has ended");
        return true;
    }
    if (json_object_object_get_ex(reply, "return", NULL)) {
        return false;
    }
    error = json_object_object_get(reply, "error");
    g_set_error(errp, SIDECAR_ERROR,
                code_of_class(json_object_get_string(json_object_object_get(error, "class"))),
                "%s", json_object_get_string(json_object_object_get(error, "desc")) ?:
                      "QEMU's answer is no reply");
    return true;
}

bool qmp_error_not_found(const char *command, GError **errp)
{
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_COMMAND_NOT_FOUND,
                "The command %s has not been found", command);
    return false;
}
