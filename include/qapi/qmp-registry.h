/*
 * The table of QMP commands that the generator makes from a schema.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_QAPI_QMP_REGISTRY_H
#define SIDECAR_QAPI_QMP_REGISTRY_H

#include "qapi/monitor.h"

typedef enum {
    QMP_COROUTINE = 1 << 0,           /* on a thread of its own; may block */
    QMP_ALLOW_OOB = 1 << 1,
    QMP_ALLOW_PRECONFIG = 1 << 2,
    QMP_NO_SUCCESS_RESPONSE = 1 << 3,
} QmpCommandFlags;

typedef struct QmpCommand {
    const char *name;
    /* @args is an object, borrowed.  True and a new reference in *ret, or false
     * and an error. */
    bool (*marshal)(Monitor *mon, json_object *args, json_object **ret,
                    GError **errp);
    unsigned flags;
} QmpCommand;

/* NULL if there is none; @table ends with a NULL name. */
const QmpCommand *qmp_find_command(const QmpCommand *table, const char *name);

#endif
