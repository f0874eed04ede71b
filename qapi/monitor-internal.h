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

#include "qapi/monitor.h"
#include "qapi/qmp-registry.h"
#include <pthread.h>

typedef struct MonitorKind {
    const char *name; /* "QMP", "HMP" */
    /* The set ends: say goodbye and close the client, if it is still there
     * (that leads to the chardev's closed callback).  Main thread. */
    void (*close)(Monitor *mon);
    /* The last reference went: free the kind's own fields, then g_free(mon).
     * Main thread. */
    void (*free)(Monitor *mon);
    /* An event, whole and borrowed; may be NULL.  Main thread. */
    void (*event)(Monitor *mon, json_object *event);
} MonitorKind;

/* The first member of a QMP or HMP client. */
struct Monitor {
    const MonitorKind *kind;
    MonitorSet *set;
    unsigned refs;          /* main thread */
    ChardevClient *client;  /* main thread; NULL once it is gone */
    GHashTable *named_fds;  /* set->lock; char * → fd: what getfd keeps */
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

/* Serve @h (opaque: whatever) on @chr; the set frees @chr at its end. */
void monitor_set_add_chardev(MonitorSet *set, Chardev *chr,
                             const ChardevHandlers *h, void *opaque);

/* ---- the emulator behind the monitors --------------------------------- */

/* emu_* of emulator.h; a table so that tests need no QEMU. */
typedef struct MonitorEmulator {
    void (*send)(void *opaque, const char *command, json_object *args,
                 const int *fds, size_t n_fds, EmuQmpReplyFn *cb,
                 void *cb_opaque);
    json_object *(*version)(void *opaque); /* borrowed */
    void *opaque;
} MonitorEmulator;

/* May a command of QEMU's go to it now?  Any thread. */
bool monitor_may_pass(MonitorSet *set, const char *command, GError **errp);
/* As emu_qmp_call, with descriptors.  A NULL emulator knows no command.  Any
 * thread but the main one. */
json_object *monitor_emulator_call(MonitorSet *set, const char *command,
                                   json_object *args, const int *fds,
                                   size_t n_fds, GError **errp);

/* Put a member into arguments for it, if there is one. */
void monitor_add_string(json_object *args, const char *key, const char *value);
void monitor_add_int(json_object *args, const char *key, bool has, int64_t value);
void monitor_add_bool(json_object *args, const char *key, bool has, bool value);
/*
 * Leave a command to the emulator; @args is taken over, the result is dropped.
 * @device: the one that it is about; QEMU 7.2's "Cannot find device" becomes
 * DeviceNotFound with that name.  NULL: errors are passed on as they are.
 */
bool monitor_pass_on(Monitor *mon, const char *command, const char *device,
                     json_object *args, GError **errp);

/* ---- the set ----------------------------------------------------------- */

typedef struct MonitorAction MonitorAction;

struct MonitorSet {
    /* Constant: */
    Sidecar *sc;
    const QmpCommand *commands;
    MonitorEmulator emulator; /* .send NULL: there is none */
    pthread_t main_thread;

    /* Main thread: */
    GPtrArray *monitors; /* Monitor, borrowed */
    GPtrArray *chardevs; /* owned */
    GPtrArray *endpoints; /* what the chardevs' handlers get; freed by g_free */
    unsigned running;    /* commands under way, of whatever kind */
    bool closing;
    guint wakeup_source;
    int wakeup_fd;       /* constant; an eventfd: actions has something */

    pthread_mutex_t lock; /* guards the rest, and what Monitor says */
    GQueue actions;       /* of MonitorAction */
    GArray *fdset_fds;    /* of MonitorFdsetFd */
};

/* A set that serves @commands before @emulator (NULL: none). */
MonitorSet *monitor_set_new_full(Sidecar *sc, const QmpCommand *commands,
                                 const MonitorEmulator *emulator);

/* One more, one less command under way: monitor_set_free waits for them. */
void monitor_set_begin(MonitorSet *set);
void monitor_set_end(MonitorSet *set);

/* Give an event, borrowed, to every monitor now.  Main thread. */
void monitor_set_event(MonitorSet *set, json_object *event);

/* ---- descriptors (monitor-fds.c) ---------------------------------------- */

#define INHERITED (-1) /* of the command line: QEMU does not tell the number */

typedef struct {
    int64_t fdset_id;
    int64_t emulator_fd; /* its number in QEMU, as add-fd answered, or INHERITED */
    int fd;
} MonitorFdsetFd;

/* The first fd that came along and was not claimed; the others are closed.
 * -1 and QEMU's error if there is none.  Any thread. */
int monitor_claim_fd(Monitor *mon, GError **errp);
/* What a closed client leaves behind.  Main thread. */
void monitor_close_fds(Monitor *mon);
void monitor_set_close_fdsets(MonitorSet *set);
/* The names of @mon's descriptors that are mentioned anywhere in @args, each
 * with a duplicate of the fd in *fds (all to be freed, closed).  Any thread. */
GPtrArray *monitor_mentioned_fds(Monitor *mon, json_object *args, GArray **fds);
/* QEMU has used up what @mon kept under @name. */
void monitor_forget_fd(Monitor *mon, const char *name);

#endif
