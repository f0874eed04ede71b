/*
 * Chardevs and their clients: what all kinds have in common.
 *
 * A client's life:
 *
 *     chardev_add_client ──► open ──► input…  ──┐ end of input, and eof says no
 *                                               │ chardev_client_close
 *                                               │ write error, queue too long
 *                                               ▼
 *                          (main loop) closed ──► lingering: the rest of the
 *                                                 queue is written ──► freed
 *
 * The handlers hear of the end only from the main loop, so that they may close
 * a client from within anything.  Writes come from any thread: what the
 * descriptor doesn't take at once is queued, and a source on the main loop
 * writes it later.  A queue is bounded; a client that lets it overflow is gone.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "chardev-int.h"
#include "util/error.h"

#include <errno.h>
#include <glib-unix.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINGER_SECONDS 10
#define FREE_FLUSH_MS 1000

static void source_drop(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_source_unref(*source);
        *source = NULL;
    }
}

/* ---- clients: output -------------------------------------------------- */

ChardevClient *chardev_client_ref(ChardevClient *client)
{
    g_atomic_int_inc(&client->ref);
    return client;
}

void chardev_client_unref(ChardevClient *client)
{
    if (client && g_atomic_int_dec_and_test(&client->ref)) {
        g_byte_array_unref(client->queue);
        pthread_mutex_destroy(&client->lock);
        g_free(client);
    }
}

static ssize_t raw_write(ChardevClient *client, const void *buf, size_t len)
{
    ssize_t n;

    do {
        n = client->out_is_socket
                ? send(client->fd_out, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT)
                : write(client->fd_out, buf, len);
    } while (n < 0 && errno == EINTR);
    return n;
}

/* Write what is queued; false: the other side is gone.  Locked.  Standard output
 * may be gone (a pipe whose reader has had enough) or full while commands still
 * come in: then, as in QEMU, what can't be written is lost and no more. */
static bool flush_locked(ChardevClient *client)
{
    while (client->queue_off < client->queue->len) {
        ssize_t n = raw_write(client, client->queue->data + client->queue_off,
                              client->queue->len - client->queue_off);

        if (n < 0) {
            break;
        }
        client->queue_off += n;
    }
    if (client->queue_off < client->queue->len && errno != EAGAIN &&
        client->fd_in >= 0 && client->fd_in != client->fd_out) {
        client->queue_off = client->queue->len;
    }
    if (client->queue_off == client->queue->len) {
        g_byte_array_set_size(client->queue, 0);
        client->queue_off = 0;
        return true;
    }
    if (client->queue_off > 65536) {
        g_byte_array_remove_range(client->queue, 0, client->queue_off);
        client->queue_off = 0;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK;
}

static size_t queued_locked(const ChardevClient *client)
{
    return client->queue->len - client->queue_off;
}

size_t chardev_client_queued(ChardevClient *client)
{
    size_t n;

    pthread_mutex_lock(&client->lock);
    n = queued_locked(client);
    pthread_mutex_unlock(&client->lock);
    return n;
}

static gboolean gone_cb(gpointer data);

/* Call closed soon, from the main loop.  Any thread. */
static void schedule_drop(ChardevClient *client)
{
    g_idle_add_full(G_PRIORITY_DEFAULT, gone_cb, chardev_client_ref(client),
                    (GDestroyNotify)chardev_client_unref);
}

static void break_locked(ChardevClient *client)
{
    client->broken = true;
    g_byte_array_set_size(client->queue, 0);
    client->queue_off = 0;
    schedule_drop(client);
}

static gboolean writable_cb(gint fd, GIOCondition cond, gpointer data)
{
    ChardevClient *client = data;
    bool empty;

    pthread_mutex_lock(&client->lock);
    if (!client->broken && client->fd_out >= 0 && !flush_locked(client)) {
        break_locked(client);
    }
    empty = queued_locked(client) == 0;
    if (empty && client->out_source) {
        g_source_unref(client->out_source);
        client->out_source = NULL;
    }
    pthread_mutex_unlock(&client->lock);
    if (empty && client->drained) {
        client->drained(client->drained_opaque);
    }
    if (empty && client->chr && !client->closing && client->chr->h.drained) {
        client->chr->h.drained(client->opaque);
    }
    if (empty && !client->chr) {
        schedule_drop(client); /* had been lingering */
    }
    return empty ? G_SOURCE_REMOVE : G_SOURCE_CONTINUE;
}

static void watch_locked(ChardevClient *client)
{
    if (!client->out_source && queued_locked(client)) {
        client->out_source = g_unix_fd_source_new(client->fd_out, G_IO_OUT);
        g_source_set_callback(client->out_source, G_SOURCE_FUNC(writable_cb),
                              chardev_client_ref(client),
                              (GDestroyNotify)chardev_client_unref);
        g_source_attach(client->out_source, NULL);
    }
}

static void write_locked(ChardevClient *client, const char *buf, size_t len)
{
    bool was_empty = queued_locked(client) == 0;

    if (client->telnet) {
        telnet_encode(client->queue, buf, len);
    } else {
        g_byte_array_append(client->queue, (const guint8 *)buf, (guint)len);
    }
    if (was_empty && !flush_locked(client)) {
        break_locked(client);
        return;
    }
    watch_locked(client);
}

void chardev_client_write(ChardevClient *client, const char *buf, size_t len)
{
    pthread_mutex_lock(&client->lock);
    if (client->front && !client->broken) {
        chardev_mux_front_write(client->front, buf, len);
    } else if (client->fd_out >= 0 && !client->broken && len) {
        if (len > CHARDEV_QUEUE_MAX ||
            queued_locked(client) > CHARDEV_QUEUE_MAX - len) {
            break_locked(client);
        } else {
            write_locked(client, buf, len);
        }
    }
    pthread_mutex_unlock(&client->lock);
}

/* ---- clients: input ---------------------------------------------------- */

void chardev_client_feed(ChardevClient *client, const char *buf, size_t len,
                         const int *fds, size_t n_fds)
{
    if (client->chr && !client->closing) {
        client->chr->h.input(client->opaque, buf, len, fds, n_fds);
        return;
    }
    for (size_t i = 0; i < n_fds; i++) {
        close(fds[i]);
    }
}

/* The fds of one message, close-on-exec and blocking as QEMU makes them. */
static size_t take_fds(struct msghdr *msg, int *fds)
{
    size_t n = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t count;
        const unsigned char *data = CMSG_DATA(c);

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, data + i * sizeof(int), sizeof(fd));
            if (n == CHARDEV_MAX_FDS) {
                close(fd);
                continue;
            }
            fd_set_nonblocking(fd, false);
            fds[n++] = fd;
        }
    }
    return n;
}

static ssize_t raw_read(ChardevClient *client, char *buf, size_t size, int *fds,
                        size_t *n_fds)
{
    union {
        char space[CMSG_SPACE(sizeof(int) * CHARDEV_MAX_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec iov = { buf, size };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
                          .msg_control = &control,
                          .msg_controllen = sizeof(control) };
    ssize_t n;

    *n_fds = 0;
    if (!client->in_is_socket) {
        return read(client->fd_in, buf, size);
    }
    n = recvmsg(client->fd_in, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n >= 0) {
        *n_fds = take_fds(&msg, fds);
    }
    return n;
}

static void end_of_input(ChardevClient *client)
{
    Chardev *chr = client->chr;

    if (!client->closing && chr->h.eof && chr->h.eof(client->opaque)) {
        return;
    }
    chardev_client_close(client);
}

static void handle_bytes(ChardevClient *client, char *buf, size_t len,
                         const int *fds, size_t n_fds)
{
    if (client->telnet) {
        unsigned before = client->tn.breaks;

        len = telnet_decode(&client->tn, buf, len);
        if (client->tn.breaks != before && client->got_break) {
            client->got_break(client->drained_opaque);
        }
    }
    if (len || n_fds) {
        chardev_client_feed(client, buf, len, fds, n_fds);
    }
}

static gboolean readable_cb(gint fd, GIOCondition cond, gpointer data)
{
    ChardevClient *client = chardev_client_ref(data);
    char buf[4096];
    int fds[CHARDEV_MAX_FDS];
    size_t n_fds;
    ssize_t n = raw_read(client, buf, sizeof(buf), fds, &n_fds);
    gboolean go_on = G_SOURCE_CONTINUE;

    if (n > 0) {
        handle_bytes(client, buf, n, fds, n_fds);
    } else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK &&
                          errno != EINTR)) {
        for (size_t i = 0; n == 0 && i < n_fds; i++) {
            close(fds[i]);
        }
        source_drop(&client->in_source);
        if (n == 0) {
            end_of_input(client);
        } else {
            chardev_client_close(client);
        }
        go_on = G_SOURCE_REMOVE;
    }
    chardev_client_unref(client);
    return go_on;
}

static void start_reading(ChardevClient *client)
{
    client->in_source = g_unix_fd_source_new(client->fd_in,
                                             G_IO_IN | G_IO_HUP | G_IO_ERR);
    g_source_set_callback(client->in_source, G_SOURCE_FUNC(readable_cb),
                          chardev_client_ref(client),
                          (GDestroyNotify)chardev_client_unref);
    g_source_attach(client->in_source, NULL);
}

void chardev_client_pause(ChardevClient *client, bool paused)
{
    if (paused == client->paused) {
        return;
    }
    client->paused = paused;
    if (client->front && client->chr) {
        chardev_mux_front_paused(client->front);
    }
    if (client->fd_in < 0 || client->closing || !client->chr) {
        return;
    }
    if (paused) {
        source_drop(&client->in_source);
    } else if (!client->in_source) {
        start_reading(client);
    }
}

/* ---- clients: beginning and end ---------------------------------------- */

ChardevClient *chardev_add_client(Chardev *chr, int fd_in, int fd_out,
                                  bool own_fds, struct MuxFront *front)
{
    ChardevClient *client = g_new0(ChardevClient, 1);

    client->ref = 1; /* of chr->clients */
    client->chr = client->owner = chr;
    client->fd_in = fd_in;
    client->fd_out = fd_out;
    client->own_fds = own_fds;
    client->front = front;
    client->out_is_socket = fd_out >= 0 && fd_is_socket(fd_out);
    client->in_is_socket = fd_in >= 0 && fd_is_socket(fd_in);
    client->telnet = chr->opts && chr->opts->telnet;
    client->queue = g_byte_array_new();
    pthread_mutex_init(&client->lock, NULL);
    g_ptr_array_add(chr->clients, client);
    if (client->telnet) {
        client->telnet = false; /* these bytes are the protocol itself */
        chardev_client_write(client, telnet_greeting, sizeof(telnet_greeting));
        client->telnet = true;
    }
    if (fd_in >= 0) {
        start_reading(client);
    }
    client->opaque = chr->h.open(chr->h_opaque, client);
    return client;
}

static void close_fds(ChardevClient *client)
{
    int fd_in = client->fd_in, fd_out;

    source_drop(&client->in_source);
    pthread_mutex_lock(&client->lock);
    source_drop(&client->out_source);
    fd_out = client->fd_out;
    client->fd_out = -1;
    pthread_mutex_unlock(&client->lock);
    client->fd_in = -1;
    if (client->own_fds) {
        if (fd_in >= 0) {
            close(fd_in);
        }
        if (fd_out >= 0 && fd_out != fd_in) {
            close(fd_out);
        }
    }
}

/* The last step: lingering is over. */
static void finish(ChardevClient *client)
{
    Chardev *owner = client->owner;

    g_clear_handle_id(&client->linger_timer, g_source_remove);
    close_fds(client);
    client->owner = NULL;
    if (owner) {
        g_ptr_array_remove_fast(owner->lingering, client);
    }
}

static gboolean linger_over_cb(gpointer data)
{
    ChardevClient *client = data;

    client->linger_timer = 0;
    finish(client);
    return G_SOURCE_REMOVE;
}

/* The handlers forget the client; what is queued may still go out. */
static void detach(ChardevClient *client)
{
    Chardev *chr = client->chr;

    client->closing = true;
    source_drop(&client->in_source);
    client->drained = NULL;
    client->got_break = NULL;
    if (client->front) {
        pthread_mutex_lock(&client->lock);
        client->broken = true; /* nobody may reach the front end any more */
        pthread_mutex_unlock(&client->lock);
    }
    chr->h.closed(client->opaque);
    client->opaque = NULL;
    client->chr = NULL;
    g_ptr_array_add(chr->lingering, chardev_client_ref(client));
    g_ptr_array_remove_fast(chr->clients, client);
}

static gboolean gone_cb(gpointer data)
{
    ChardevClient *client = data;
    Chardev *chr = client->chr;

    if (chr) {
        detach(client);
        if (chr->kind->client_gone) {
            chr->kind->client_gone(chr);
        }
    }
    if (client->owner) {
        if (!chardev_client_queued(client)) {
            finish(client);
        } else if (!client->linger_timer) {
            client->linger_timer =
                g_timeout_add_seconds(LINGER_SECONDS, linger_over_cb, client);
        }
    }
    return G_SOURCE_REMOVE;
}

void chardev_client_close(ChardevClient *client)
{
    if (!client->closing && client->chr) {
        client->closing = true;
        source_drop(&client->in_source);
        schedule_drop(client);
    }
}

/* ---- chardevs ----------------------------------------------------------- */

Chardev *chardev_alloc(const ChardevKind *kind)
{
    Chardev *chr = g_new0(Chardev, 1);

    chr->kind = kind;
    chr->listen_fd = chr->first_fd = chr->first_out = -1;
    chr->clients =
        g_ptr_array_new_with_free_func((GDestroyNotify)chardev_client_unref);
    chr->lingering =
        g_ptr_array_new_with_free_func((GDestroyNotify)chardev_client_unref);
    return chr;
}

static void ignore_sigpipe(void)
{
    struct sigaction sa;

    if (sigaction(SIGPIPE, NULL, &sa) == 0 && sa.sa_handler == SIG_DFL) {
        signal(SIGPIPE, SIG_IGN);
    }
}

Chardev *chardev_new(const char *spec, bool option_form, GError **errp)
{
    g_autoptr(ChardevOptions) opts =
        chardev_options_parse(spec, option_form, errp);
    g_autoptr(Chardev) chr = NULL;

    if (!opts) {
        return NULL;
    }
    ignore_sigpipe();
    chr = chardev_alloc(opts->is_stdio ? &chardev_kind_stdio
                                       : &chardev_kind_socket);
    chr->opts = g_steal_pointer(&opts);
    return chr->kind->open(chr, errp) ? g_steal_pointer(&chr) : NULL;
}

bool chardev_parse(const char *spec, bool option_form, char **id, bool *mux,
                   GError **errp)
{
    g_autoptr(ChardevOptions) opts =
        chardev_options_parse(spec, option_form, errp);

    if (!opts) {
        return false;
    }
    if (id) {
        *id = g_steal_pointer(&opts->id);
    }
    if (mux) {
        *mux = opts->mux;
    }
    return true;
}

/* Give clients that linger a last chance to take their bytes. */
static void flush_lingering(Chardev *chr)
{
    gint64 end = g_get_monotonic_time() + FREE_FLUSH_MS * 1000;

    for (guint i = 0; i < chr->lingering->len; i++) {
        ChardevClient *client = chr->lingering->pdata[i];
        struct pollfd p = { .fd = client->fd_out, .events = POLLOUT };
        gint64 left;

        while (chardev_client_queued(client) &&
               (left = (end - g_get_monotonic_time()) / 1000) > 0 &&
               poll(&p, 1, (int)left) > 0) {
            pthread_mutex_lock(&client->lock);
            if (!flush_locked(client)) {
                g_byte_array_set_size(client->queue, 0);
                client->queue_off = 0;
            }
            pthread_mutex_unlock(&client->lock);
        }
    }
}

void chardev_free(Chardev *chr)
{
    if (!chr) {
        return;
    }
    chr->started = false;
    while (chr->clients->len) {
        detach(chr->clients->pdata[chr->clients->len - 1]);
    }
    flush_lingering(chr);
    while (chr->lingering->len) {
        finish(chr->lingering->pdata[chr->lingering->len - 1]);
    }
    if (chr->kind->close) {
        chr->kind->close(chr);
    }
    g_ptr_array_unref(chr->clients);
    g_ptr_array_unref(chr->lingering);
    chardev_options_free(chr->opts);
    g_free(chr);
}

void chardev_set_handlers(Chardev *chr, const ChardevHandlers *h, void *opaque)
{
    chr->h = *h;
    chr->h_opaque = opaque;
    chr->started = true;
    chr->kind->start(chr);
}

bool chardev_client_has_focus(const ChardevClient *client)
{
    return !client->front || chardev_mux_front_focused(client->front);
}

const char *chardev_id(const Chardev *chr)
{
    return chr->opts ? chr->opts->id : NULL;
}

bool chardev_is_mux(const Chardev *chr)
{
    return chr->opts && chr->opts->mux;
}
