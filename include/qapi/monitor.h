/*
 * Monitors: what QMP and HMP have in common.
 *
 * A command handler is qmp_NAME(Monitor *mon, …, GError **errp), declared in
 * the generated qapi/qapi-commands.h; HMP handlers call the same functions.
 * A command marked 'coroutine': true in the schema runs on a thread of its own
 * and may block; the others run on the main thread and must not.  A client's
 * commands are answered in order: the next one starts when the last one has
 * been answered; other clients are not held up.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_QAPI_MONITOR_H
#define SIDECAR_QAPI_MONITOR_H

#include "block/job.h"
#include "sidecar.h"
#include "util/chardev.h"

typedef struct Monitor Monitor;       /* one client */
typedef struct MonitorSet MonitorSet; /* all of a VM */

MonitorSet *monitor_set_new(Sidecar *sc);
void monitor_set_free(MonitorSet *set); /* says goodbye, closes every client */

/* Serve QMP (HMP) to every client of @chr; @chr is taken over. */
void monitor_add_qmp(MonitorSet *set, Chardev *chr, bool pretty);
void monitor_add_hmp(MonitorSet *set, Chardev *chr);

Sidecar *monitor_sidecar(Monitor *mon); /* borrowed */

/* A duplicate (close-on-exec) of the fd that the client passed with getfd
 * under @name, which is used up; or of one of the right access mode out of
 * fdset @id (kept).  -1 and an error if there is none. */
int monitor_take_fd(Monitor *mon, const char *name, GError **errp);
int monitor_fdset_dup(Monitor *mon, int64_t id, int access_mode, GError **errp);

/* A descriptor of the command line's, which QEMU has inherited too, goes into
 * fdset @id: as a duplicate.  Main thread. */
void monitor_add_inherited_fd(MonitorSet *set, int64_t id, int fd);

/* Send an event of ours to every QMP client past qmp_capabilities; @data is
 * consumed, may be NULL.  Any thread. */
void monitor_emit_event(MonitorSet *set, const char *name, json_object *data);

/* Tell everybody how a job ended; borrowed.  Any thread. */
void monitor_job_ended(MonitorSet *set, const BlockJobInfo *job);

#endif
