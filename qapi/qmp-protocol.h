/*
 * QMP's messages: what a request must look like, how replies are built.
 * Functions over values, without I/O or state.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_QAPI_QMP_PROTOCOL_H
#define SIDECAR_QAPI_QMP_PROTOCOL_H

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>

/* A request taken apart; members are borrowed from it. */
typedef struct QmpRequest {
    const char *command;
    json_object *args; /* NULL: none given */
    bool has_id;       /* known even when the rest is wrong */
    json_object *id;   /* NULL may be JSON's null */
} QmpRequest;

/* False and QEMU's error if @value is no request. */
bool qmp_parse_request(json_object *value, QmpRequest *request, GError **errp);

json_object *qmp_greeting(json_object *version);
/* @value is consumed, @id is not. */
json_object *qmp_return(json_object *value, bool has_id, json_object *id);
json_object *qmp_error(const GError *error, bool has_id, json_object *id);
/* A reply of QEMU's to our own request (NULL: it is gone), with another id. */
json_object *qmp_relay(json_object *reply, bool has_id, json_object *id);

/* True, and the error as a GError, if @reply (NULL: QEMU is gone) has no
 * "return". */
bool qmp_reply_error(json_object *reply, GError **errp);
bool qmp_error_not_found(const char *command, GError **errp); /* false */

#endif
