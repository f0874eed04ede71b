/*
 * Where monitors talk: the chardevs of QEMU's command line that the sidecar
 * serves itself.  stdio, unix and TCP sockets (listening or connecting, also
 * inherited by fd), telnet, and one side of a stdio multiplexed with the
 * guest's serial port.
 *
 * A Chardev is an endpoint; a ChardevClient is one conversation on it.  A
 * listening socket has any number of clients at once; stdio has one for ever.
 * Everything here belongs to the main thread, except chardev_client_write.
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
 * @spec is what may follow -monitor/-qmp/-serial ("stdio",
 * "unix:/p,server=on,wait=off", "tcp:127.0.0.1:4444,server",
 * "telnet:…", "fd:…") or, with @option_form, what follows -chardev
 * ("socket,id=m,path=/p,server=on,wait=off", "socket,id=m,fd=3,server=on",
 * "stdio,id=m,mux=on,signal=off").  NULL and an error in QEMU's words when it
 * can't be opened; SIDECAR_ERROR_NOT_SUPPORTED when it is a kind that the
 * sidecar leaves to QEMU (vc, pty, file, …).
 */
Chardev *chardev_new(const char *spec, bool option_form, GError **errp);
void chardev_free(Chardev *chr); /* closes clients; removes a unix socket it made */
/* wait=on: block until the first client is there, saying so on stderr as QEMU
 * does.  Before the main loop runs. */
bool chardev_wait_connected(Chardev *chr, GError **errp);
bool chardev_is_tty(const Chardev *chr); /* stdio on a terminal, telnet: echo and edit */

typedef struct {
    /* A client came (for stdio: at once, from the main loop).  The returned
     * value is @client's opaque for the other two. */
    void *(*open)(void *opaque, ChardevClient *client);
    /* Bytes, and the fds that came with them (taken over by the callee). */
    void (*input)(void *client_opaque, const char *buf, size_t len,
                  const int *fds, size_t n_fds);
    /* The client is gone or chardev_client_close was called; free what open
     * made.  No write after it. */
    void (*closed)(void *client_opaque);
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
    void (*send_break)(void *opaque); /* b, while the front end has the focus */
    void (*commit)(void *opaque);     /* s */
} ChardevMuxOps;

/* @base and @serial_fd (our end of a stream socketpair whose other end is a
 * socket chardev in QEMU; -1: there is no front end) are taken over, also on
 * failure.  When the front end's end of file comes, the monitor goes on. */
Chardev *chardev_mux_new(Chardev *base, int serial_fd, int escape,
                         const ChardevMuxOps *ops, void *opaque,
                         GError **errp);

/* Queue bytes; never blocks.  A client that reads nothing while more than 16
 * MiB wait for it is disconnected.  Any thread. */
void chardev_client_write(ChardevClient *client, const char *buf, size_t len);
/* Stop or go on calling input (back-pressure).  Main thread. */
void chardev_client_pause(ChardevClient *client, bool paused);
/* Flush what is queued, as far as the client takes it, then close. */
void chardev_client_close(ChardevClient *client);

#endif
