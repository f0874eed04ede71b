/*
 * What the QMP server (qapi/) and the HMP monitor (hmp/) share and nobody else
 * sees.
 *
 *     MonitorSet ── all of a VM; outlives every Monitor
 *       ├─ Monitor (kind QMP)   one client: its fds, its ChardevClient
 *       ├─ Monitor (kind HMP)
 *       └─ …
 *
 * A Monitor is counted: the chardev holds one reference until its client is
 * gone, each command under way holds one.  So a client may vanish in the middle
 * of a command; the command then finishes for nobody.  monitor_set_free closes
 * all clients, waits for all commands and only then returns; while it waits it
 * runs the main context, because commands wait for QEMU's answers there.
 *
 * Threads: everything belongs to the main thread except where it says "any
 * thread".  MonitorSet.lock guards the descriptors (of each monitor and the
 * fdsets) and the list of things to do on the main thread.  It is a leaf: no
 * other lock is taken and nothing is called while it is held.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_QAPI_MONITOR_INTERNAL_H
#define SIDECAR_QAPI_MONITOR_INTERNAL_H

#include "hmp/hmp.h"
#include "qapi/monitor.h"
#include <pthread.h>

typedef struct MonitorKind {
    const char *name; /* "QMP", "HMP" */
    /* The set ends: say goodbye and close the client, if it is still there
     * (that leads to the chardev's closed callback).  Main thread. */
    void (*close)(Monitor *mon);
    /* The last reference went: free the kind's own fields, then g_free(mon).
     * Main thread. */
    void (*free)(Monitor *mon);
} MonitorKind;

/* The first member of a QMP or HMP client. */
struct Monitor {
    const MonitorKind *kind;
    MonitorSet *set;
    unsigned refs;          /* main thread */
    ChardevClient *client;  /* main thread; NULL once it is gone */
    GHashTable *named_fds;  /* set->lock; char * → fd + 1: getfd */
    GArray *received_fds;   /* set->lock; int: came along, not claimed yet */
};

/* Fills a zeroed @mon, with one reference (the chardev's), and lists it. */
void monitor_init(Monitor *mon, MonitorSet *set, const MonitorKind *kind,
                  ChardevClient *client);
/* To be called from the chardev's closed callback: forgets the client, closes
 * its descriptors, drops the chardev's reference. */
void monitor_gone(Monitor *mon);
Monitor *monitor_ref(Monitor *mon);
void monitor_unref(Monitor *mon);

/* The fds of one input callback, taken over.  As in QEMU, they replace those
 * that came before and that no command claimed. */
void monitor_receive_fds(Monitor *mon, const int *fds, size_t n_fds);

/*
 * Run @work on a thread of its own, then @done on the main thread.  The monitor
 * is kept alive in between; mon->client may have become NULL when @done runs.
 */
void monitor_run(Monitor *mon, void (*work)(void *opaque),
                 void (*done)(void *opaque), void *opaque);

/* Run @fn on the main thread soon, in order of the calls.  Any thread. */
void monitor_invoke(MonitorSet *set, void (*fn)(void *opaque), void *opaque);

/* Serve @h (opaque: whatever) on @chr; the set closes @chr at its end. */
void monitor_set_add_chardev(MonitorSet *set, Chardev *chr,
                             const ChardevHandlers *h, void *opaque);

#endif
