/*
 * QEMU as a child process: launch, inner QMP, exit.  The only folder that
 * knows QEMU's command line and QEMU's own QMP.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_EMULATOR_H
#define SIDECAR_EMULATOR_EMULATOR_H

#include "block/block.h"
#include <glib.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/types.h>

typedef struct Emulator Emulator;

/*
 * Inner QMP.  Commands are answered by id, so any number may be under way.
 * @args is consumed and may be NULL.  @fds go along as SCM_RIGHTS and stay
 * the caller's.  @cb runs on the main thread exactly once with the whole reply
 * object ({"return": …} or {"error": …}; borrowed), or NULL when QEMU is gone.
 * json-c's reference counts are not atomic: a callback that hands the reply to
 * another thread gives it a deep copy.  Any thread.
 */
typedef void EmuQmpReplyFn(void *opaque, json_object *reply);
void emu_qmp_send(Emulator *emu, const char *command, json_object *args,
                  const int *fds, size_t n_fds, EmuQmpReplyFn *cb,
                  void *opaque);

/* The same and wait: any thread but the main one.  A new reference to the
 * value of "return", or NULL and QEMU's own error (class kept in the code,
 * wording as QEMU gave it). */
json_object *emu_qmp_call(Emulator *emu, const char *command, json_object *args,
                          GError **errp);
/* human-monitor-command; the text (g_free), or NULL. Not on the main thread. */
char *emu_hmp_call(Emulator *emu, const char *line, GError **errp);

/* QEMU's events, whole object with timestamp, borrowed, on the main thread;
 * those that the sidecar caused itself have been taken out.  @name_changed…
 * listeners are called in order of registration. */
typedef void EmuEventFn(void *opaque, json_object *event);
void emu_add_event_listener(Emulator *emu, EmuEventFn *fn, void *opaque);

/* The greeting's QMP.version object, borrowed; known once running. */
json_object *emu_qemu_version(Emulator *emu);
pid_t emu_pid(Emulator *emu);

/* ---- life: used by qemu-sidecar.c only; main thread ------------------- */

typedef struct {
    /* QEMU's main loop runs and answers: monitors may be served. */
    void (*running)(void *opaque);
    /* QEMU has ended and was waited for; no callback comes after it. */
    void (*exited)(void *opaque, int wait_status);
} EmuHandlers;

/* Not started yet; makes the inner QMP's socket. */
Emulator *emu_new(const EmuHandlers *handlers, void *opaque, GError **errp);
/* From now on replies show the drives of @block by the user's file names, not
 * as exports on @nbd_socket; both are borrowed for as long as QEMU runs. */
void emu_set_drives(Emulator *emu, BlockContext *block, const char *nbd_socket);
/* QEMU's end of it, close-on-exec here; for the command line. */
int emu_qmp_child_fd(Emulator *emu);

typedef struct {
    char *const *argv;
    const int *fds;       /* more of our fds that QEMU shall have, closed here */
    size_t n_fds;
    const sigset_t *mask; /* the signal mask to start with */
    bool relay_output;    /* stdin from /dev/null; copy stdout and stderr to
                             whatever ours are at the time (-daemonize) */
    bool guard;           /* QEMU will change its user id (-runas) */
    int umask;            /* -1: ours */
    char *const *environ; /* NULL: ours */
    const struct rlimit *open_files; /* NULL: ours */
    /* The pid is known and QEMU has not run yet. */
    void (*before_exec)(void *opaque, pid_t pid);
    void *opaque;
} EmuStart;
bool emu_start(Emulator *emu, const EmuStart *start, GError **errp);

void emu_signal(Emulator *emu, int signum);
/* Before emu_start or after the exited callback. */
void emu_free(Emulator *emu);

#endif
