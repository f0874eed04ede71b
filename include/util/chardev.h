/*
 * Where monitors talk: the chardevs of QEMU's command line that the sidecar
 * serves itself.  stdio, unix and TCP sockets (listening or connecting, also
 * inherited by fd), telnet, and a multiplexer that puts a monitor and the
 * guest's serial port on one of these (-serial mon:stdio, -nographic).
 *
 * A Chardev is an endpoint; a ChardevClient is one conversation on it.  A
 * listening socket has any number of clients at once (one, when multiplexed);
 * stdio has one for ever.  Everything here belongs to the main thread, except
 * where it says "any thread".
 *
 * The program ignores SIGPIPE (chardev_new sees to it), as QEMU does.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_UTIL_CHARDEV_H
#define SIDECAR_UTIL_CHARDEV_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct Chardev Chardev;
typedef struct ChardevClient ChardevClient;

/*
 * @spec is what may follow -monitor/-qmp/-serial ("stdio", "mon:stdio",
 * "unix:/p,server=on,wait=off", "tcp:127.0.0.1:4444,server", "telnet:…") or,
 * with @option_form, what follows -chardev
 * ("socket,id=m,path=/p,server=on,wait=off", "socket,id=m,fd=3,server=on",
 * "stdio,id=m,mux=on,signal=off").  NULL and an error in QEMU's words when it
 * can't be opened; SIDECAR_ERROR_NOT_SUPPORTED when it is a kind that the
 * sidecar leaves to QEMU (vc, pty, file, websocket, TLS, logfile, …) or that
 * nobody knows.  A listening socket listens on return; one that connects
 * (without reconnect=) is connected.
 */
Chardev *chardev_new(const char *spec, bool option_form, GError **errp);
/* Would chardev_new take it?  Opens nothing; the errors are the same.  *id
 * (g_free) and *mux may be NULL. */
bool chardev_parse(const char *spec, bool option_form, char **id, bool *mux,
                   GError **errp);
/* A connected socket; @fd is taken over. */
Chardev *chardev_new_fd(int fd);
/* Closes the clients (what is queued is written as far as they take it within
 * a second); removes a unix socket it made. */
void chardev_free(Chardev *chr);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Chardev, chardev_free)

/* wait=on: block until the first client is there, saying so on stderr as QEMU
 * does; else returns at once.  Call it before the main loop runs and before
 * SIGINT and SIGTERM are caught, so that they end the wait. */
bool chardev_wait_connected(Chardev *chr, GError **errp);

const char *chardev_id(const Chardev *chr);     /* id=, or NULL; borrowed */
bool chardev_is_mux(const Chardev *chr);        /* mux=on or mon: was said */
bool chardev_is_tty(const Chardev *chr);        /* stdio on a terminal, telnet: echo and edit */
/* "unix:/p,server=on", "stdio", … as QEMU's `info chardev`; g_free. */
char *chardev_describe(const Chardev *chr);
/* stdio on a terminal: lines and echo by the terminal (QMP), or byte by byte
 * (HMP, and the state at the start).  Others: nothing. */
void chardev_set_echo(Chardev *chr, bool echo);

typedef struct {
    /* A client came (for stdio: at once, from the main loop).  The returned
     * value is @client's opaque for the others. */
    void *(*open)(void *opaque, ChardevClient *client);
    /* Bytes, and the fds that came with them (taken over by the callee). */
    void (*input)(void *client_opaque, const char *buf, size_t len,
                  const int *fds, size_t n_fds);
    /* The client is gone or chardev_client_close was called; free what open
     * made.  Called from the main loop or chardev_free, never from within
     * another function here. */
    void (*closed)(void *client_opaque);
    /* May be NULL.  The client will send no more but may still read
     * ("echo info status | socat - unix:mon").  Return true to keep it open
     * until chardev_client_close; false: closed comes next. */
    bool (*eof)(void *client_opaque);
    /* May be NULL.  Behind a multiplexer: this client has (has no longer) the
     * keyboard.  While it has not, what it writes is kept until it has. */
    void (*focus)(void *client_opaque, bool in);
    /* May be NULL.  All that was queued has been written. */
    void (*drained)(void *client_opaque);
} ChardevHandlers;
/* Start to accept. */
void chardev_set_handlers(Chardev *chr, const ChardevHandlers *h, void *opaque);

/*
 * A terminal shared between a monitor and a front end of QEMU's, usually the
 * guest's first serial port (-serial mon:stdio, -nographic, -chardev …,mux=on).
 * The result is a Chardev whose client is the monitor's side.  The front end
 * has the focus first; the escape key (1 = C-a) and then: h help, x quit,
 * s commit, b break, t timestamps, c change sides, escape key itself: sent on.
 * What the side without focus writes is shown all the same, as in QEMU.
 */
typedef struct {
    void (*quit)(void *opaque);       /* x; after "QEMU: Terminated" was shown */
    void (*send_break)(void *opaque); /* b (or telnet's), while the front end has the focus */
    void (*commit)(void *opaque);     /* s */
} ChardevMuxOps;

/* @ops is borrowed; it and each of its functions may be NULL.  The monitor sees
 * a client whenever @base has one; what it writes without the focus is kept
 * until it has it.  Flow is controlled both ways.
 * @base and @serial_fd (our end of a stream socketpair whose other end is a
 * socket chardev in QEMU; -1: there is no front end) are taken over, also on
 * failure; chardev_wait_connected(@base) comes before.  When the front end's end of file comes, the monitor goes on. */
Chardev *chardev_mux_new(Chardev *base, int serial_fd, int escape,
                         const ChardevMuxOps *ops, void *opaque,
                         GError **errp);

/* Queue bytes; never blocks.  A client that reads nothing while more than 16
 * MiB wait for it is disconnected.  Any thread; nothing happens once the
 * client is closed (who writes from other threads holds a reference). */
void chardev_client_write(ChardevClient *client, const char *buf, size_t len);
/* Bytes that wait to be written (behind a multiplexer: 0).  Any thread. */
size_t chardev_client_queued(ChardevClient *client);
/* Stop or go on calling input (back-pressure). */
void chardev_client_pause(ChardevClient *client, bool paused);
/* Behind a multiplexer: has it the keyboard?  Others: always. */
bool chardev_client_has_focus(const ChardevClient *client);
/* Flush what is queued, as far as the client takes it, then close. */
void chardev_client_close(ChardevClient *client);
/* Any thread. */
ChardevClient *chardev_client_ref(ChardevClient *client);
void chardev_client_unref(ChardevClient *client);

/* Give the terminal back as it was found; may be called again and again, also
 * in a signal handler.  Done by itself at exit and on fatal signals; needed
 * only before _exit. */
void chardev_stdio_restore(void);

#endif
