/*
 * Sockets: listening ones with any number of clients, connected ones with one,
 * and ones that connect again when the other side is gone.
 *
 * Connecting again happens in a thread of its own, because looking up a name
 * and connecting can wait; its result comes back to the main loop.  An attempt
 * outlives its chardev: it is cancelled, forgotten, and frees itself.
 *
 * A multiplexed socket takes one client at a time, the others wait in the
 * kernel's queue, as all do with QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "chardev-int.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 16

static void prepare(Chardev *chr, int fd)
{
    int one = 1;

    fd_set_nonblocking(fd, true);
    if (chr->opts->nodelay) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
}

static void add_client(Chardev *chr, int fd)
{
    prepare(chr, fd);
    chardev_add_client(chr, fd, fd, true, NULL);
}

/* ---- listening ---------------------------------------------------------- */

static void stop_accepting(Chardev *chr)
{
    if (chr->accept_source) {
        g_source_destroy(chr->accept_source);
        g_source_unref(chr->accept_source);
        chr->accept_source = NULL;
    }
}

static void start_accepting(Chardev *chr);

static gboolean accept_again_cb(gpointer data)
{
    Chardev *chr = data;

    chr->timer = 0;
    start_accepting(chr);
    return G_SOURCE_REMOVE;
}

static gboolean accept_cb(gint listen_fd, GIOCondition cond, gpointer data)
{
    Chardev *chr = data;
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

    if (fd >= 0) {
        if (chr->opts->mux) {
            stop_accepting(chr);
        }
        add_client(chr, fd);
        return chr->accept_source ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
        errno == ENOMEM) {
        /* Nothing to be had now: look again in a second, don't spin. */
        stop_accepting(chr);
        chr->timer = g_timeout_add_seconds(1, accept_again_cb, chr);
        return G_SOURCE_REMOVE;
    }
    return G_SOURCE_CONTINUE;
}

static void start_accepting(Chardev *chr)
{
    if (chr->accept_source || (chr->opts->mux && chr->clients->len)) {
        return;
    }
    chr->accept_source = g_unix_fd_source_new(chr->listen_fd, G_IO_IN);
    g_source_set_callback(chr->accept_source, G_SOURCE_FUNC(accept_cb), chr,
                          NULL);
    g_source_attach(chr->accept_source, NULL);
}

/* ---- connecting --------------------------------------------------------- */

typedef struct ConnectAttempt {
    Chardev *chr;  /* main thread; NULL: nobody wants it any more */
    SocketAddress *addr;
    GThread *thread;
    int cancel_fd; /* eventfd */
    int fd;        /* the result; -1: failed */
} ConnectAttempt;

static void schedule_reconnect(Chardev *chr);

static gboolean connected_cb(gpointer data)
{
    ConnectAttempt *a = data;

    if (a->thread) {
        g_thread_join(a->thread);
    }
    if (a->chr) {
        Chardev *chr = a->chr;

        chr->attempt = NULL;
        if (a->fd >= 0) {
            add_client(chr, a->fd);
        } else {
            schedule_reconnect(chr);
        }
    } else if (a->fd >= 0) {
        close(a->fd);
    }
    close(a->cancel_fd);
    socket_address_free(a->addr);
    g_free(a);
    return G_SOURCE_REMOVE;
}

static gpointer connect_thread(gpointer data)
{
    ConnectAttempt *a = data;

    a->fd = socket_connect(a->addr, a->cancel_fd, NULL);
    g_idle_add_full(G_PRIORITY_DEFAULT, connected_cb, a, NULL);
    return NULL;
}

static SocketAddress *copy_address(const SocketAddress *from)
{
    SocketAddress *to = socket_address_new(from->type);

    *to = *from;
    to->host = g_strdup(from->host);
    to->port = g_strdup(from->port);
    to->path = g_strdup(from->path);
    return to;
}

static gboolean reconnect_cb(gpointer data)
{
    Chardev *chr = data;
    ConnectAttempt *a = g_new0(ConnectAttempt, 1);

    chr->timer = 0;
    a->chr = chr;
    a->addr = copy_address(chr->opts->addr);
    a->cancel_fd = eventfd(0, EFD_CLOEXEC);
    a->fd = -1;
    chr->attempt = a;
    a->thread = g_thread_try_new("connect", connect_thread, a, NULL);
    if (!a->thread) {
        connected_cb(a); /* counts as a failed attempt */
    }
    return G_SOURCE_REMOVE;
}

static void schedule_reconnect(Chardev *chr)
{
    if (chr->opts->reconnect && !chr->timer && !chr->attempt) {
        chr->timer =
            g_timeout_add_seconds(chr->opts->reconnect, reconnect_cb, chr);
    }
}

/* ---- the table ----------------------------------------------------------- */

static bool socket_open(Chardev *chr, GError **errp)
{
    ChardevOptions *o = chr->opts;

    if (o->server) {
        chr->listen_fd = socket_listen(o->addr, BACKLOG, errp);
        return chr->listen_fd >= 0;
    }
    if (o->reconnect) {
        return true; /* tried from the main loop, over and over */
    }
    chr->first_fd = socket_connect(o->addr, -1, errp);
    return chr->first_fd >= 0;
}

static gboolean start_cb(gpointer data)
{
    Chardev *chr = data;
    int fd = chr->first_fd;

    chr->timer = 0;
    chr->first_fd = -1;
    add_client(chr, fd);
    return G_SOURCE_REMOVE;
}

static void socket_start(Chardev *chr)
{
    if (chr->listen_fd >= 0) {
        if (chr->first_fd < 0 || !chr->opts->mux) {
            start_accepting(chr);
        }
    } else if (chr->opts->reconnect) {
        reconnect_cb(chr);
    }
    if (chr->first_fd >= 0) {
        /* open is called from the main loop, as for those that come later */
        chr->timer = g_idle_add(start_cb, chr);
    }
}

static void socket_client_gone(Chardev *chr)
{
    if (chr->listen_fd >= 0) {
        start_accepting(chr);
    } else {
        schedule_reconnect(chr);
    }
}

static void socket_close(Chardev *chr)
{
    stop_accepting(chr);
    g_clear_handle_id(&chr->timer, g_source_remove);
    if (chr->attempt) {
        chr->attempt->chr = NULL;
        eventfd_write(chr->attempt->cancel_fd, 1);
        chr->attempt = NULL;
    }
    if (chr->first_fd >= 0) {
        close(chr->first_fd);
    }
    if (chr->listen_fd >= 0) {
        socket_listen_cleanup(chr->opts->addr, chr->listen_fd);
        close(chr->listen_fd);
    }
}

const ChardevKind chardev_kind_socket = {
    .open = socket_open,
    .start = socket_start,
    .client_gone = socket_client_gone,
    .close = socket_close,
};

Chardev *chardev_new_fd(int fd)
{
    Chardev *chr = chardev_alloc(&chardev_kind_socket);

    chr->opts = g_new0(ChardevOptions, 1);
    chr->opts->addr = socket_address_new(SOCKET_ADDRESS_FD);
    chr->opts->text = g_strdup_printf("fd:%d", fd);
    chr->first_fd = fd;
    return chr;
}

bool chardev_wait_connected(Chardev *chr, GError **errp)
{
    g_autofree char *text = NULL;
    struct pollfd p;

    if (chr->first_fd >= 0 || chr->listen_fd < 0 || !chr->opts->wait) {
        return true;
    }
    p = (struct pollfd) { .fd = chr->listen_fd, .events = POLLIN };
    text = chardev_describe(chr);
    g_printerr("qemu-sidecar: info: QEMU waiting for connection on: "
               "disconnected:%s\n", text);
    while (chr->first_fd < 0) {
        chr->first_fd = accept4(chr->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (chr->first_fd >= 0) {
            break;
        }
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            error_set_errno(errp, errno, "%s: accept failed", text);
            return false;
        }
        poll(&p, 1, -1);
    }
    return true;
}

/* "127.0.0.1:4444" with the port that was really taken. */
static char *inet_text(const Chardev *chr)
{
    g_autofree char *name = NULL;

    if (chr->listen_fd < 0) {
        return g_strdup_printf("%s:%s", chr->opts->addr->host,
                               chr->opts->addr->port);
    }
    name = socket_name(chr->listen_fd, false);
    return g_strdup(g_str_has_prefix(name, "tcp:") ? name + 4 : name);
}

char *chardev_describe(const Chardev *chr)
{
    const ChardevOptions *o = chr->opts;
    g_autofree char *inet = NULL;

    if (!o) {
        return g_strdup("mux");
    }
    if (o->is_stdio) {
        return g_strdup("stdio");
    }
    switch (o->addr->type) {
    case SOCKET_ADDRESS_UNIX:
        return g_strdup_printf("unix:%s%s%s", o->addr->path,
                               o->addr->abstract ? ",abstract=on" : "",
                               o->server ? ",server=on" : "");
    case SOCKET_ADDRESS_INET:
        inet = inet_text(chr);
        return g_strdup_printf("%s:%s%s", o->telnet ? "telnet" : "tcp", inet,
                               o->server ? ",server=on" : "");
    case SOCKET_ADDRESS_FD:
        break;
    }
    return g_strdup_printf("fd:%d%s", o->addr->fd, o->server ? ",server=on" : "");
}
