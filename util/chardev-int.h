/*
 * What the files util/chardev*.c share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_UTIL_CHARDEV_INT_H
#define SIDECAR_UTIL_CHARDEV_INT_H

#include "util/chardev.h"
#include "util/socket.h"
#include "telnet.h"

#include <pthread.h>

#define CHARDEV_QUEUE_MAX (16 * 1024 * 1024)
#define CHARDEV_MAX_FDS 16 /* in one message, as QEMU */

/* ---- what the user asked for (chardev-opts.c) ------------------------- */

typedef struct {
    bool is_stdio;
    char *id;
    char *text; /* the spec, for messages */
    bool mux;
    bool signal;         /* stdio: C-c, C-z, C-\ make signals */
    SocketAddress *addr; /* sockets */
    bool server, wait, nodelay, telnet;
    unsigned reconnect;  /* seconds; 0: never */
} ChardevOptions;

ChardevOptions *chardev_options_parse(const char *spec, bool option_form,
                                      GError **errp);
void chardev_options_free(ChardevOptions *opts);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ChardevOptions, chardev_options_free)

/* ---- the object (chardev.c) ------------------------------------------- */

typedef struct ChardevKind {
    bool (*open)(Chardev *chr, GError **errp);
    void (*start)(Chardev *chr);          /* handlers are there */
    void (*client_gone)(Chardev *chr);    /* accept or connect again; or NULL */
    void (*close)(Chardev *chr);          /* clients are closed; or NULL */
} ChardevKind;

extern const ChardevKind chardev_kind_stdio, chardev_kind_socket,
    chardev_kind_front;

/* Main thread. */
struct Chardev {
    const ChardevKind *kind;
    ChardevOptions *opts;
    ChardevHandlers h;
    void *h_opaque;
    bool started;
    GPtrArray *clients;   /* open ones: ChardevClient, referenced */
    GPtrArray *lingering; /* closed ones that still have bytes to take */

    int first_fd, first_out; /* open before the handlers were there; -1 */
    guint timer;             /* accept, connect or start a client soon */

    /* chardev-socket.c */
    int listen_fd; /* -1: none */
    GSource *accept_source;
    struct ConnectAttempt *attempt;

    /* chardev-mux.c */
    struct MuxFront *front;
    struct ChardevMux *owned_mux; /* goes when this goes; or NULL */
};

struct ChardevClient {
    gint ref;
    /* Main thread: */
    Chardev *chr;   /* NULL once closed was called */
    Chardev *owner; /* NULL once it has stopped lingering */
    void *opaque;
    int fd_in;
    GSource *in_source;
    bool paused, closing, own_fds, telnet, in_is_socket;
    TelnetState tn;
    guint linger_timer;
    void (*drained)(void *opaque);   /* the queue has become empty; or NULL */
    void (*got_break)(void *opaque); /* telnet's; or NULL */
    void *drained_opaque;            /* of both */
    struct MuxFront *front; /* a mux front end's: no fds of its own; constant */

    pthread_mutex_t lock; /* guards the rest */
    int fd_out;  /* -1: gone */
    bool out_is_socket;
    GByteArray *queue;
    size_t queue_off; /* bytes of queue already written */
    GSource *out_source;
    bool broken;      /* write failed or queue too long; being closed */
};

Chardev *chardev_alloc(const ChardevKind *kind);
/* Make a client over the fds (-1: none, a mux front end's) and call open. */
ChardevClient *chardev_add_client(Chardev *chr, int fd_in, int fd_out,
                                  bool own_fds, struct MuxFront *front);
/* What a reader does with input: to the handlers, unless closing. */
void chardev_client_feed(ChardevClient *client, const char *buf, size_t len,
                         const int *fds, size_t n_fds);
/* chardev-mux.c: a front end writes.  Any thread. */
void chardev_mux_front_write(struct MuxFront *front, const char *buf, size_t len);
/* Its client was paused or goes on.  Main thread. */
void chardev_mux_front_paused(struct MuxFront *front);
bool chardev_mux_front_focused(const struct MuxFront *front);

/* ---- the multiplexer with any number of front ends (chardev-mux.c) ----- */

typedef struct ChardevMux ChardevMux;

/* @base is taken over; it has no handlers yet. */
ChardevMux *mux_create(Chardev *base, int escape, const ChardevMuxOps *ops,
                       void *opaque);
/* Frees @base too.  Before it: free the front ends of mux_add. */
void mux_destroy(ChardevMux *mux);
/* A front end for a monitor, to be freed by the caller.  @hold: keep what it
 * writes while it has not got the focus (HMP yes, QMP no).  NULL: too many. */
Chardev *mux_add(ChardevMux *mux, bool hold);
/* A front end for a serial port, by our end of a socketpair, taken over if
 * there is room (else false). */
bool mux_add_fd(ChardevMux *mux, int fd);
/* Who has the focus at the start; front ends are numbered as they are added. */
void mux_set_initial_focus(ChardevMux *mux, unsigned front);

#endif
