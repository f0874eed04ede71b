/*
 * What QEMU says about things that are the sidecar's, put into the words of
 * the user's own command line.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_OWN_NAMES_H
#define SIDECAR_EMULATOR_OWN_NAMES_H

#include "block/block.h"
#include <json-c/json.h>

typedef struct {
    BlockContext *block;    /* borrowed; NULL: nothing to translate */
    const char *nbd_socket; /* borrowed */
} OwnNames;

/* Has the reply to @command anything to translate? */
bool own_names_concern(const char *command);
/* Change the reply ({"return": …} or an error) in place.  Main thread. */
void own_names_translate(const OwnNames *names, const char *command,
                         json_object *reply);

#endif
