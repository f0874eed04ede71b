/*
 * QEMU as a child process, from its launch to its exit.
 *
 *     new ──emu_start──► starting ──inner QMP answers──► running ─┐
 *                            └──────────── QEMU ends ─────────────┴─► exited
 *
 * "Answers" means the reply to qmp_capabilities, not the greeting: commands
 * are run by QEMU's main loop, which starts when everything on the command
 * line has been opened and the machine is built (7.2: the greeting may come
 * before that).  The same instant ends a -daemonize.
 *
 * When QEMU ends, what it still said is handled first, so that monitors see
 * its SHUTDOWN event; then every command under way is answered with NULL; then
 * the exited callback runs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/emulator.h"
#include "inner-qmp.h"
#include "launch.h"
#include "own-names.h"
#include "util/error.h"
#include "vm-state-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    EmuEventFn *fn;
    void *opaque;
} Listener;

/* A pipe on which QEMU writes, copied to our descriptor @to. */
typedef struct {
    int fd, to;
    guint source;
} Relay;

struct Emulator {
    EmuHandlers h;
    void *opaque;
    EmuChild child;
    int child_fd; /* until emu_start */
    InnerQmp *qmp;
    json_object *version;
    EmuVmState *vm_state;
    GArray *listeners; /* Listener */
    OwnNames names;
    Relay relays[2];   /* fd -1: not in use */
    guint watch;
};

/* ---- inner QMP ------------------------------------------------------ */

static void on_capabilities(void *opaque, json_object *reply)
{
    Emulator *emu = opaque;

    if (reply) {
        emu->h.running(emu->opaque);
    }
}

static void on_greeting(void *opaque, json_object *qmp)
{
    Emulator *emu = opaque;
    json_object *version;

    if (emu->version) {
        return;
    }
    json_object_object_get_ex(qmp, "version", &version);
    emu->version = json_object_get(version);
    inner_qmp_send(emu->qmp, "qmp_capabilities", NULL, NULL, 0,
                   on_capabilities, emu);
}

static void tell_listeners(Emulator *emu, json_object *event)
{
    for (guint i = 0; i < emu->listeners->len; i++) {
        Listener *l = &g_array_index(emu->listeners, Listener, i);

        l->fn(l->opaque, event);
    }
}

static void on_event(void *opaque, json_object *event)
{
    Emulator *emu = opaque;

    if (!emu_vm_state_hides(emu->vm_state, event)) {
        tell_listeners(emu, event);
    }
}

static void on_gone(void *opaque, const char *why)
{
    Emulator *emu = opaque;

    if (why) {
        g_printerr("qemu-sidecar: QEMU's QMP: %s\n", why);
    }
    emu_vm_state_gone(emu->vm_state); /* no event comes any more */
}

/* ---- replies that name what is ours --------------------------------- */

typedef struct {
    Emulator *emu;
    char *command;
    EmuQmpReplyFn *cb;
    void *opaque;
} Translation;

static void on_translatable(void *opaque, json_object *reply)
{
    Translation *t = opaque;

    if (reply) {
        own_names_translate(&t->emu->names, t->command, reply);
    }
    if (reply && emu_vm_state_concerns(t->command)) {
        emu_vm_state_translate(t->emu->vm_state, reply);
    }
    t->cb(t->opaque, reply);
    g_free(t->command);
    g_free(t);
}

void emu_set_drives(Emulator *emu, BlockContext *block, const char *nbd_socket)
{
    emu->names.block = block;
    emu->names.nbd_socket = nbd_socket;
}

void emu_qmp_send(Emulator *emu, const char *command, json_object *args,
                  const int *fds, size_t n_fds, EmuQmpReplyFn *cb,
                  void *opaque)
{
    if (own_names_concern(command) || emu_vm_state_concerns(command)) {
        Translation *t = g_new(Translation, 1);

        t->emu = emu;
        t->command = g_strdup(command);
        t->cb = cb;
        t->opaque = opaque;
        cb = on_translatable;
        opaque = t;
    }
    inner_qmp_send(emu->qmp, command, args, fds, n_fds, cb, opaque);
}

void emu_add_event_listener(Emulator *emu, EmuEventFn *fn, void *opaque)
{
    Listener l = {fn, opaque};

    g_array_append_val(emu->listeners, l);
}

EmuVmState *emu_vm_state(Emulator *emu)
{
    return emu->vm_state;
}

json_object *emu_qemu_version(Emulator *emu)
{
    return emu->version;
}

pid_t emu_pid(Emulator *emu)
{
    return emu->child.pid;
}

/* ---- output of a daemonized QEMU ------------------------------------ */

/* False: nothing more to copy now. */
static bool relay_some(Relay *r)
{
    char buf[4096];
    ssize_t n = read(r->fd, buf, sizeof(buf)), done = 0;

    if (n < 0 && errno == EINTR) {
        return true;
    }
    while (n > done) {
        ssize_t written = write(r->to, buf + done, n - done);

        if (written <= 0) {
            break;
        }
        done += written;
    }
    return n > 0;
}

static gboolean on_relay(gint fd, GIOCondition cond, void *opaque)
{
    Relay *r = opaque;

    if (relay_some(r) || !(cond & G_IO_HUP)) {
        return G_SOURCE_CONTINUE;
    }
    r->source = 0;
    return G_SOURCE_REMOVE;
}

static bool relay_open(Relay *r, int to, int *child_end, GError **errp)
{
    int p[2];

    if (pipe2(p, O_CLOEXEC)) {
        error_set_errno(errp, errno, "cannot make a pipe");
        return false;
    }
    fcntl(p[0], F_SETFL, O_NONBLOCK);
    *child_end = p[1];
    r->fd = p[0];
    r->to = to;
    r->source = g_unix_fd_add(p[0], G_IO_IN | G_IO_HUP, on_relay, r);
    return true;
}

static void relay_close(Relay *r)
{
    if (r->fd < 0) {
        return;
    }
    while (relay_some(r)) {
    }
    g_clear_handle_id(&r->source, g_source_remove);
    close(r->fd);
    r->fd = -1;
}

/* ---- start and end -------------------------------------------------- */

static void on_child_exit(GPid pid, gint status, void *opaque)
{
    Emulator *emu = opaque;

    emu->watch = 0;
    emu_launch_done(&emu->child);
    inner_qmp_drain(emu->qmp);
    emu_vm_state_gone(emu->vm_state);
    inner_qmp_end(emu->qmp);
    relay_close(&emu->relays[0]);
    relay_close(&emu->relays[1]);
    emu->h.exited(emu->opaque, status);
}

Emulator *emu_new(const EmuHandlers *handlers, void *opaque, GError **errp)
{
    static const InnerQmpHandlers qmp_handlers = {
        .greeting = on_greeting,
        .event = on_event,
        .gone = on_gone,
    };
    int sv[2];
    Emulator *emu;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv)) {
        error_set_errno(errp, errno, "cannot make a socket");
        return NULL;
    }
    emu = g_new0(Emulator, 1);
    emu->h = *handlers;
    emu->opaque = opaque;
    emu->child_fd = sv[1];
    emu->vm_state = emu_vm_state_new();
    emu->relays[0].fd = emu->relays[1].fd = -1;
    emu->listeners = g_array_new(FALSE, FALSE, sizeof(Listener));
    emu->qmp = inner_qmp_new(sv[0], &qmp_handlers, emu);
    return emu;
}

int emu_qmp_child_fd(Emulator *emu)
{
    return emu->child_fd;
}

/* stdin, stdout and stderr for a QEMU whose output is relayed. */
static bool open_relays(Emulator *emu, int std_fds[3], GError **errp)
{
    std_fds[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (std_fds[0] < 0) {
        error_set_errno(errp, errno, "cannot open /dev/null");
        return false;
    }
    return relay_open(&emu->relays[0], STDOUT_FILENO, &std_fds[1], errp) &&
           relay_open(&emu->relays[1], STDERR_FILENO, &std_fds[2], errp);
}

bool emu_start(Emulator *emu, const EmuStart *start, GError **errp)
{
    g_autofree int *fds = g_new(int, start->n_fds + 1);
    EmuLaunch launch = {
        .argv = start->argv,
        .fds = fds,
        .n_fds = start->n_fds + 1,
        .mask = start->mask,
        .std_fds = {-1, -1, -1},
        .guard = start->guard,
        .umask = start->umask,
        .environ = start->environ,
        .open_files = start->open_files,
        .before_exec = start->before_exec,
        .opaque = start->opaque,
    };
    bool ok;

    for (size_t i = 0; i < start->n_fds; i++) {
        fds[i] = start->fds[i];
    }
    fds[start->n_fds] = emu->child_fd;
    ok = (!start->relay_output || open_relays(emu, launch.std_fds, errp)) &&
         emu_launch(&launch, &emu->child, errp);
    for (size_t i = 0; i < launch.n_fds; i++) {
        close(fds[i]);
    }
    emu->child_fd = -1;
    for (int i = 0; i < 3; i++) {
        if (launch.std_fds[i] >= 0) {
            close(launch.std_fds[i]);
        }
    }
    if (ok) {
        emu->watch = g_child_watch_add(emu->child.pid, on_child_exit, emu);
    }
    return ok;
}

void emu_signal(Emulator *emu, int signum)
{
    if (emu->watch) {
        kill(emu->child.pid, signum);
    }
}

void emu_free(Emulator *emu)
{
    if (!emu) {
        return;
    }
    if (emu->child_fd >= 0) {
        close(emu->child_fd);
    }
    inner_qmp_free(emu->qmp);
    relay_close(&emu->relays[0]);
    relay_close(&emu->relays[1]);
    json_object_put(emu->version);
    emu_vm_state_free(emu->vm_state);
    g_array_unref(emu->listeners);
    g_free(emu);
}

/* ---- waiting for an answer ------------------------------------------ */

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    Emulator *hiding;   /* the command's events, until the reply; or NULL */
    bool stops;         /* hidden */
    json_object *reply; /* the value of "return", cut out of its object */
    GError *error;
} Call;

static GError *reply_error(json_object *error)
{
    static const struct {
        const char *name;
        SidecarError code;
    } classes[] = {
        {"CommandNotFound", SIDECAR_ERROR_COMMAND_NOT_FOUND},
        {"DeviceNotActive", SIDECAR_ERROR_DEVICE_NOT_ACTIVE},
        {"DeviceNotFound", SIDECAR_ERROR_DEVICE_NOT_FOUND},
    };
    json_object *value = NULL;
    SidecarError code = SIDECAR_ERROR_GENERIC;
    const char *class, *text;

    json_object_object_get_ex(error, "class", &value);
    class = value ? json_object_get_string(value) : "";
    for (size_t i = 0; i < G_N_ELEMENTS(classes); i++) {
        if (!g_strcmp0(classes[i].name, class)) {
            code = classes[i].code;
        }
    }
    value = NULL;
    json_object_object_get_ex(error, "desc", &value);
    text = value ? json_object_get_string(value) : "QEMU gave no reason";
    return g_error_new_literal(SIDECAR_ERROR, code, text);
}

GError *emu_qmp_reply_error(json_object *reply)
{
    GError *error = NULL;
    json_object *value;

    if (!reply) {
        error_set(&error, "QEMU has ended");
    } else if (json_object_object_get_ex(reply, "error", &value)) {
        error = reply_error(value);
    }
    return error;
}

/* If the guest could not be let run again, users have to know that it stopped. */
static void end_hiding(const Call *call, bool ok)
{
    EmuVmState *st = call->hiding->vm_state;
    json_object *stop;

    emu_vm_state_hide(st, false);
    emu_vm_state_set_pause(st, call->stops && ok);
    stop = call->stops ? NULL : emu_vm_state_take_stop(st);
    if (stop && !ok) {
        tell_listeners(call->hiding, stop);
    }
    json_object_put(stop);
}

/* json-c's reference counts are not atomic: the value is cut out of the reply
 * here, so that it belongs to the waiting thread alone. */
static void on_call_reply(void *opaque, json_object *reply)
{
    Call *call = opaque;
    json_object *value;

    if (call->hiding) {
        end_hiding(call, reply && !json_object_object_get_ex(reply, "error", NULL));
    }
    pthread_mutex_lock(&call->lock);
    call->error = emu_qmp_reply_error(reply);
    if (!call->error && json_object_object_get_ex(reply, "return", &value)) {
        call->reply = json_object_get(value);
        json_object_object_del(reply, "return");
    }
    call->done = true;
    pthread_cond_signal(&call->cond);
    pthread_mutex_unlock(&call->lock);
}

static void call_init(Call *call)
{
    pthread_mutex_init(&call->lock, NULL);
    pthread_cond_init(&call->cond, NULL);
}

static json_object *call_wait(Call *call, GError **errp)
{
    pthread_mutex_lock(&call->lock);
    while (!call->done) {
        pthread_cond_wait(&call->cond, &call->lock);
    }
    pthread_mutex_unlock(&call->lock);
    pthread_mutex_destroy(&call->lock);
    pthread_cond_destroy(&call->cond);
    if (call->error) {
        g_propagate_error(errp, call->error);
    }
    return call->reply;
}

json_object *emu_qmp_call_full(Emulator *emu, const char *command,
                               json_object *args, int fd, bool hidden,
                               GError **errp)
{
    Call call = {
        .hiding = hidden ? emu : NULL,
        .stops = hidden && !strcmp(command, "stop"),
    };

    call_init(&call);
    if (hidden) {
        emu_vm_state_hide(emu->vm_state, true);
    }
    emu_qmp_send(emu, command, args, &fd, fd >= 0, on_call_reply, &call);
    return call_wait(&call, errp);
}

json_object *emu_qmp_call_as_it_is(Emulator *emu, const char *command, GError **errp)
{
    Call call = { 0 };

    call_init(&call);
    inner_qmp_send(emu->qmp, command, NULL, NULL, 0, on_call_reply, &call);
    return call_wait(&call, errp);
}

json_object *emu_qmp_call(Emulator *emu, const char *command, json_object *args,
                          GError **errp)
{
    return emu_qmp_call_full(emu, command, args, -1, false, errp);
}

char *emu_hmp_call(Emulator *emu, const char *line, GError **errp)
{
    json_object *args = json_object_new_object(), *text;
    char *copy;

    json_object_object_add(args, "command-line", json_object_new_string(line));
    text = emu_qmp_call(emu, "human-monitor-command", args, errp);
    if (!text) {
        return NULL;
    }
    copy = g_strdup(json_object_get_string(text));
    json_object_put(text);
    return copy;
}
