/*
 * The multiplexer: a monitor, a serial port and perhaps more on one
 * conversation (-serial mon:stdio, -chardev …,mux=on).
 *
 *      keyboard ──► base ──► escapes ──► the front end that has the focus
 *      screen   ◄── base ◄── timestamps ◄── every front end
 *
 * A front end is a monitor's (a Chardev whose client has no descriptors) or a
 * serial port's (a socket).  What the base can't take stops the serial ports,
 * which stops the guest's port; what a serial port can't take stops the base.
 * Without a client at the base, output of the serial ports is thrown away, as
 * by QEMU.
 *
 * Lock order: a front end's client, mux, the base's client.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "chardev-int.h"
#include "util/error.h"

#include <string.h>
#include <unistd.h>

#define MAX_FRONTS 8
#define HIGH_WATER 65536
#define HELD_MAX (1024 * 1024)

typedef struct MuxFront {
    ChardevMux *mux;
    unsigned index;
    bool hold;
    Chardev *chr;          /* a monitor's: freed by its user; a serial port's: ours */
    bool serial;
    ChardevClient *client; /* or NULL; borrowed from chr */
    GByteArray *held;      /* mux->lock: written without the focus */
} MuxFront;

struct ChardevMux {
    /* Main thread: */
    Chardev *base;
    const ChardevMuxOps *ops;
    void *opaque;
    MuxFront fronts[MAX_FRONTS];
    unsigned n_fronts;
    int escape; /* the key: 1 = C-a */
    bool got_escape;

    pthread_mutex_t lock; /* guards the rest; focus changes on the main thread only */
    ChardevClient *base_client; /* or NULL; referenced */
    unsigned focus;
    bool timestamps, line_start;
    gint64 timestamps_start; /* 0: with the next line */
};

/* ---- output --------------------------------------------------------------- */

static void write_timestamp(ChardevMux *mux)
{
    gint64 now = g_get_monotonic_time() / 1000, ms;
    g_autofree char *text = NULL;

    if (!mux->timestamps_start) {
        mux->timestamps_start = now;
    }
    ms = now - mux->timestamps_start;
    text = g_strdup_printf("[%02d:%02d:%02d.%03d] ", (int)(ms / 3600000),
                           (int)(ms / 60000 % 60), (int)(ms / 1000 % 60),
                           (int)(ms % 1000));
    chardev_client_write(mux->base_client, text, strlen(text));
}

/* To the screen.  Locked. */
static void write_locked(ChardevMux *mux, const char *buf, size_t len)
{
    while (len && mux->base_client) {
        const char *nl = mux->timestamps ? memchr(buf, '\n', len) : NULL;
        size_t n = nl ? (size_t)(nl - buf) + 1 : len;

        if (mux->timestamps && mux->line_start) {
            write_timestamp(mux);
        }
        chardev_client_write(mux->base_client, buf, n);
        mux->line_start = nl != NULL;
        buf += n;
        len -= n;
    }
}

void chardev_mux_front_write(MuxFront *front, const char *buf, size_t len)
{
    ChardevMux *mux = front->mux;

    pthread_mutex_lock(&mux->lock);
    if (!front->hold || mux->focus == front->index) {
        write_locked(mux, buf, len);
    } else if (front->held->len + len <= HELD_MAX) {
        g_byte_array_append(front->held, (const guint8 *)buf, (guint)len);
    }
    pthread_mutex_unlock(&mux->lock);
}

bool chardev_mux_front_focused(const MuxFront *front)
{
    return front->mux->focus == front->index;
}

static void write_text(ChardevMux *mux, const char *text)
{
    pthread_mutex_lock(&mux->lock);
    if (mux->base_client) {
        chardev_client_write(mux->base_client, text, strlen(text));
    }
    pthread_mutex_unlock(&mux->lock);
}

/* ---- flow ------------------------------------------------------------------ */

/* The base is read while the front end with the focus can take it. */
static void update_base_pause(ChardevMux *mux)
{
    MuxFront *front = &mux->fronts[mux->focus];
    bool full = false;

    if (!mux->base_client) {
        return;
    }
    if (mux->focus < mux->n_fronts && front->client) {
        full = front->serial ? chardev_client_queued(front->client) > HIGH_WATER
                             : front->client->paused;
    }
    chardev_client_pause(mux->base_client, full);
}

void chardev_mux_front_paused(MuxFront *front)
{
    update_base_pause(front->mux);
}

static void serial_drained(void *opaque)
{
    update_base_pause(opaque);
}

/* The serial ports are read while the screen takes what they say. */
static void update_serial_pause(ChardevMux *mux)
{
    bool full = mux->base_client &&
                chardev_client_queued(mux->base_client) > HIGH_WATER;

    for (unsigned i = 0; i < mux->n_fronts; i++) {
        if (mux->fronts[i].serial && mux->fronts[i].client) {
            chardev_client_pause(mux->fronts[i].client, full);
        }
    }
}

static void base_drained(void *opaque)
{
    update_serial_pause(opaque);
}

/* ---- escapes ---------------------------------------------------------------- */

/* As QEMU 7.2 words it; % stands for the escape key. */
static const char help_text[] =
    "% h    print this help\n\r"
    "% x    exit emulator\n\r"
    "% s    save disk data back to file (if -snapshot)\n\r"
    "% t    toggle console timestamps\n\r"
    "% b    send break (magic sysrq)\n\r"
    "% c    switch between console and monitor\n\r"
    "% %  sends %\n\r";

static void print_help(ChardevMux *mux)
{
    g_autoptr(GString) s = g_string_new(help_text);
    g_autofree char *key = NULL;

    if (mux->escape > 0 && mux->escape < 26) {
        key = g_strdup_printf("C-%c", mux->escape - 1 + 'a');
        g_string_prepend(s, "\n\r");
    } else {
        key = g_strdup("Escape-Char");
        g_string_prepend(s, "\n\r\n\r");
    }
    g_string_replace(s, "%", key, 0);
    if (mux->escape <= 0 || mux->escape >= 26) {
        g_autofree char *head =
            g_strdup_printf("\n\rEscape-Char set to Ascii: 0x%02x", mux->escape);

        g_string_prepend(s, head);
    }
    write_text(mux, s->str);
}

static void tell_focus(MuxFront *front, bool in)
{
    if (!front->serial && front->client && front->chr->h.focus) {
        front->chr->h.focus(front->client->opaque, in);
    }
}

static void set_focus(ChardevMux *mux, unsigned focus)
{
    MuxFront *front = &mux->fronts[focus];

    if (mux->focus < mux->n_fronts) {
        tell_focus(&mux->fronts[mux->focus], false);
    }
    pthread_mutex_lock(&mux->lock);
    mux->focus = focus;
    write_locked(mux, (const char *)front->held->data, front->held->len);
    g_byte_array_set_size(front->held, 0);
    pthread_mutex_unlock(&mux->lock);
    tell_focus(front, true);
    update_base_pause(mux);
}

static void toggle_timestamps(ChardevMux *mux)
{
    pthread_mutex_lock(&mux->lock);
    mux->timestamps = !mux->timestamps;
    mux->timestamps_start = 0;
    mux->line_start = false;
    pthread_mutex_unlock(&mux->lock);
}

static void send_break(void *opaque)
{
    ChardevMux *mux = opaque;

    if (mux->focus < mux->n_fronts && mux->fronts[mux->focus].serial &&
        mux->ops && mux->ops->send_break) {
        mux->ops->send_break(mux->opaque);
    }
}

/* The byte after C-a. */
static void escape(ChardevMux *mux, char c)
{
    switch (c) {
    case '?':
    case 'h':
        print_help(mux);
        break;
    case 'x':
        write_text(mux, "QEMU: Terminated\n\r");
        if (mux->ops && mux->ops->quit) {
            mux->ops->quit(mux->opaque);
        }
        break;
    case 's':
        if (mux->ops && mux->ops->commit) {
            mux->ops->commit(mux->opaque);
        }
        break;
    case 'b':
        send_break(mux);
        break;
    case 't':
        toggle_timestamps(mux);
        break;
    case 'c':
        if (mux->n_fronts) {
            set_focus(mux, (mux->focus + 1) % mux->n_fronts);
        }
        break;
    }
}

/* ---- the base ----------------------------------------------------------------- */

static void to_front(ChardevMux *mux, const char *buf, size_t len)
{
    MuxFront *front = &mux->fronts[mux->focus];

    if (!len || mux->focus >= mux->n_fronts || !front->client) {
        return;
    }
    if (front->serial) {
        chardev_client_write(front->client, buf, len);
        update_base_pause(mux);
    } else {
        chardev_client_feed(front->client, buf, len, NULL, 0);
    }
}

static void base_input(void *opaque, const char *buf, size_t len,
                       const int *fds, size_t n_fds)
{
    ChardevMux *mux = opaque;
    MuxFront *front = &mux->fronts[mux->focus];
    size_t start = 0;

    if (n_fds && front->client && !front->serial) {
        chardev_client_feed(front->client, NULL, 0, fds, n_fds);
    } else {
        for (size_t i = 0; i < n_fds; i++) {
            close(fds[i]);
        }
    }
    for (size_t i = 0; i < len; i++) {
        if (mux->got_escape) {
            mux->got_escape = false;
            if ((unsigned char)buf[i] == mux->escape) {
                start = i; /* sent with what follows */
                continue;
            }
            escape(mux, buf[i]);
            start = i + 1;
        } else if ((unsigned char)buf[i] == mux->escape) {
            to_front(mux, buf + start, i - start);
            mux->got_escape = true;
            start = i + 1;
        }
    }
    to_front(mux, buf + start, len - MIN(start, len));
}

static void open_front(MuxFront *front)
{
    if (!front->serial && front->chr && front->chr->started && !front->client) {
        front->client = chardev_add_client(front->chr, -1, -1, false, front);
    }
}

static void *base_open(void *opaque, ChardevClient *client)
{
    ChardevMux *mux = opaque;

    client->drained = base_drained;
    client->got_break = send_break;
    client->drained_opaque = mux;
    pthread_mutex_lock(&mux->lock);
    mux->base_client = chardev_client_ref(client);
    pthread_mutex_unlock(&mux->lock);
    for (unsigned i = 0; i < mux->n_fronts; i++) {
        open_front(&mux->fronts[i]);
    }
    return mux;
}

static void base_closed(void *opaque)
{
    ChardevMux *mux = opaque;
    ChardevClient *client;

    pthread_mutex_lock(&mux->lock);
    client = mux->base_client;
    mux->base_client = NULL;
    pthread_mutex_unlock(&mux->lock);
    chardev_client_unref(client);
    mux->got_escape = false;
    for (unsigned i = 0; i < mux->n_fronts; i++) {
        if (!mux->fronts[i].serial && mux->fronts[i].client) {
            chardev_client_close(mux->fronts[i].client);
        }
    }
    update_serial_pause(mux);
}

/* Standard input has ended (it is /dev/null, say), but what the guest says goes
 * on to standard output, as in QEMU. */
static bool base_eof(void *opaque)
{
    ChardevMux *mux = opaque;

    return mux->base->kind == &chardev_kind_stdio;
}

static const ChardevHandlers base_handlers = {
    .open = base_open,
    .input = base_input,
    .closed = base_closed,
    .eof = base_eof,
};

/* ---- a monitor's front end ------------------------------------------------------ */

static bool front_open(Chardev *chr, GError **errp)
{
    return true;
}

static gboolean front_start_cb(gpointer data)
{
    Chardev *chr = data;

    chr->timer = 0;
    if (chr->front->mux->base_client) {
        open_front(chr->front);
    }
    return G_SOURCE_REMOVE;
}

static void front_start(Chardev *chr)
{
    chr->timer = g_idle_add(front_start_cb, chr);
}

/* The monitor closed, or the base did.  There may be a new one already. */
static void front_client_gone(Chardev *chr)
{
    chr->front->client = NULL;
    front_start(chr);
}

static void front_close(Chardev *chr)
{
    g_clear_handle_id(&chr->timer, g_source_remove);
    chr->front->client = NULL;
    chr->front->chr = NULL;
    if (chr->owned_mux) {
        mux_destroy(chr->owned_mux);
    }
}

const ChardevKind chardev_kind_front = {
    .open = front_open,
    .start = front_start,
    .client_gone = front_client_gone,
    .close = front_close,
};

/* ---- a serial port's front end ---------------------------------------------------- */

static void *serial_open(void *opaque, ChardevClient *client)
{
    MuxFront *front = opaque;

    front->client = client;
    client->drained = serial_drained;
    client->drained_opaque = front->mux;
    return front;
}

static void serial_input(void *opaque, const char *buf, size_t len,
                         const int *fds, size_t n_fds)
{
    MuxFront *front = opaque;

    for (size_t i = 0; i < n_fds; i++) {
        close(fds[i]);
    }
    pthread_mutex_lock(&front->mux->lock);
    write_locked(front->mux, buf, len);
    pthread_mutex_unlock(&front->mux->lock);
    update_serial_pause(front->mux);
}

static void serial_closed(void *opaque)
{
    MuxFront *front = opaque;

    front->client = NULL;
    update_base_pause(front->mux);
}

static const ChardevHandlers serial_handlers = {
    .open = serial_open,
    .input = serial_input,
    .closed = serial_closed,
};

/* ---- the object --------------------------------------------------------------------- */

ChardevMux *mux_create(Chardev *base, int escape, const ChardevMuxOps *ops,
                       void *opaque)
{
    ChardevMux *mux = g_new0(ChardevMux, 1);

    pthread_mutex_init(&mux->lock, NULL);
    mux->base = base;
    mux->escape = escape;
    mux->ops = ops;
    mux->opaque = opaque;
    for (unsigned i = 0; i < MAX_FRONTS; i++) {
        mux->fronts[i].mux = mux;
        mux->fronts[i].index = i;
        mux->fronts[i].held = g_byte_array_new();
    }
    chardev_set_handlers(base, &base_handlers, mux);
    return mux;
}

void mux_destroy(ChardevMux *mux)
{
    for (unsigned i = 0; i < mux->n_fronts; i++) {
        if (mux->fronts[i].serial) {
            chardev_free(mux->fronts[i].chr);
        }
    }
    chardev_free(mux->base);
    for (unsigned i = 0; i < MAX_FRONTS; i++) {
        g_byte_array_unref(mux->fronts[i].held);
    }
    pthread_mutex_destroy(&mux->lock);
    g_free(mux);
}

Chardev *mux_add(ChardevMux *mux, bool hold)
{
    MuxFront *front = &mux->fronts[mux->n_fronts];

    if (mux->n_fronts == MAX_FRONTS) {
        return NULL;
    }
    front->hold = hold;
    front->chr = chardev_alloc(&chardev_kind_front);
    front->chr->front = front;
    mux->n_fronts++;
    return front->chr;
}

bool mux_add_fd(ChardevMux *mux, int fd)
{
    MuxFront *front = &mux->fronts[mux->n_fronts];

    if (mux->n_fronts == MAX_FRONTS) {
        return false;
    }
    front->serial = true;
    front->chr = chardev_new_fd(fd);
    mux->n_fronts++;
    chardev_set_handlers(front->chr, &serial_handlers, front);
    return true;
}

void mux_set_initial_focus(ChardevMux *mux, unsigned front)
{
    pthread_mutex_lock(&mux->lock);
    mux->focus = front;
    pthread_mutex_unlock(&mux->lock);
}

Chardev *chardev_mux_new(Chardev *base, int serial_fd, int escape,
                         const ChardevMuxOps *ops, void *opaque, GError **errp)
{
    ChardevMux *mux;
    Chardev *chr;

    if (serial_fd >= 0 && !fd_is_socket(serial_fd)) {
        error_set(errp, "File descriptor '%d' is not a socket", serial_fd);
        close(serial_fd);
        chardev_free(base);
        return NULL;
    }
    mux = mux_create(base, escape, ops, opaque);
    if (serial_fd >= 0) {
        mux_add_fd(mux, serial_fd);
    }
    chr = mux_add(mux, true);
    chr->owned_mux = mux;
    return chr;
}
