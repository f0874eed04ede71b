/*
 * Commands that QEMU answers.
 *
 * The request goes to the inner monitor, under an id of our own, and the answer
 * comes back under the client's.  Where its arguments mention a name that the
 * client has given to a descriptor, three commands go together, and nothing can
 * come between them:
 *
 *     getfd NAME (with a duplicate of the descriptor)
 *     the command
 *     closefd NAME: found → not used up, ours stays; not found → ours goes too
 *
 * The client gets its answer after that of the last one, so that its next
 * command finds the names settled.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qmp-server.h"
#include "util/error.h"
#include <string.h>
#include <unistd.h>

typedef struct {
    QmpPending *pending;
    json_object *reply;
    unsigned open;    /* answers to come */
    GPtrArray *names; /* of the descriptors lent */
    unsigned checked; /* names whose closefd was answered */
} Passage;

static void send(Passage *p, const char *command, json_object *args, const int *fds,
                 size_t n_fds, EmuQmpReplyFn *cb)
{
    MonitorEmulator *emulator = &p->pending->client->common.set->emulator;

    p->open++;
    emulator->send(emulator->opaque, command, args, fds, n_fds, cb, p);
}

static void answered(Passage *p)
{
    QmpPending *pending = p->pending;
    json_object *reply = p->reply;

    if (--p->open) {
        return;
    }
    g_ptr_array_unref(p->names);
    g_free(p);
    qmp_finish(pending, reply);
}

/* QEMU may end before its last words have left it, when much was on its way to
 * others: an end that was asked for has worked. */
static bool is_quit(const QmpRequest *request, json_object *reply)
{
    return !reply && strcmp(request->command, "quit") == 0;
}

static void on_reply(void *opaque, json_object *reply)
{
    Passage *p = opaque;
    const QmpRequest *request = &p->pending->request;

    if (is_quit(request, reply)) {
        p->reply = qmp_return(json_object_new_object(), request->has_id, request->id);
    } else {
        p->reply = qmp_relay(reply, request->has_id, request->id);
    }
    answered(p);
}

static void on_lent(void *opaque, json_object *reply)
{
    answered(opaque); /* if it failed, the command will say what is missing */
}

/* Answers come in the order of the commands, hence of the names. */
static void on_checked(void *opaque, json_object *reply)
{
    Passage *p = opaque;
    const char *name = g_ptr_array_index(p->names, p->checked++);

    if (qmp_reply_error(reply, NULL)) {
        monitor_forget_fd(&p->pending->client->common, name);
    }
    answered(p);
}

static json_object *fdname_args(const char *name)
{
    json_object *args = json_object_new_object();

    json_object_object_add(args, "fdname", json_object_new_string(name));
    return args;
}

static void lend_fds(Passage *p)
{
    g_autoptr(GArray) fds = NULL;

    p->names = monitor_mentioned_fds(&p->pending->client->common,
                                     p->pending->request.args, &fds);
    for (guint i = 0; i < p->names->len; i++) {
        int fd = g_array_index(fds, int, i);

        send(p, "getfd", fdname_args(g_ptr_array_index(p->names, i)), &fd, 1, on_lent);
        close(fd);
    }
}

void qmp_pass_through(QmpPending *pending)
{
    Passage *p = g_new0(Passage, 1);
    const QmpRequest *request = &pending->request;

    p->pending = pending;
    p->open = 1; /* until all are sent */
    lend_fds(p);
    send(p, request->command, json_object_get(request->args), NULL, 0, on_reply);
    for (guint i = 0; i < p->names->len; i++) {
        send(p, "closefd", fdname_args(g_ptr_array_index(p->names, i)), NULL, 0,
             on_checked);
    }
    answered(p);
}
