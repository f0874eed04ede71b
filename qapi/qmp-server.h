/*
 * One QMP client and its request; see qmp-server.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_QAPI_QMP_SERVER_H
#define SIDECAR_QAPI_QMP_SERVER_H

#include "json.h"
#include "monitor-internal.h"
#include "qmp-protocol.h"

/* Where QMP is served. */
typedef struct QmpEndpoint {
    MonitorSet *set;
    bool pretty;
} QmpEndpoint;

/* Main thread. */
typedef struct QmpClient {
    Monitor common; /* first */
    bool pretty;
    bool negotiated;
    bool busy;       /* a request is under way */
    bool processing; /* process() is on the stack */
    JsonReader *reader;
    GByteArray *input;
    size_t parsed;   /* bytes of input that are done with */
} QmpClient;

#define QMP_CLIENT(mon) ((QmpClient *)(mon))

/* A request under way.  While its handler runs on a thread of its own, that
 * thread has result and error. */
typedef struct QmpPending {
    QmpClient *client;     /* referenced */
    json_object *message;
    QmpRequest request;    /* borrowed from message */
    const QmpCommand *command; /* NULL: QEMU's */
    json_object *result;
    GError *error;
} QmpPending;

/* The request has ended: send @reply (consumed; NULL: none), free @pending, go
 * on with the client's next one.  Main thread. */
void qmp_finish(QmpPending *pending, json_object *reply);
/* Send it to QEMU and its answer back.  Takes @pending over. */
void qmp_pass_through(QmpPending *pending);

#endif
