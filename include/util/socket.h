/*
 * Socket addresses: what a user writes, and the descriptors made from it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_UTIL_SOCKET_H
#define SIDECAR_UTIL_SOCKET_H

#include <glib.h>
#include <poll.h>
#include <stdbool.h>

typedef enum {
    SOCKET_ADDRESS_INET,
    SOCKET_ADDRESS_UNIX,
    SOCKET_ADDRESS_FD,
} SocketAddressType;

typedef struct SocketAddress {
    SocketAddressType type;
    char *host;      /* INET; "" means any (listening) or this host */
    char *port;      /* INET; a number or a service name */
    int to;          /* INET, listening: try port…to; 0: only port */
    int ipv4, ipv6;  /* INET; -1 not said, else a bool, as QEMU's options */
    bool keep_alive; /* INET, connecting */
    char *path;      /* UNIX; without the leading NUL of an abstract name */
    bool abstract;   /* UNIX */
    bool tight;      /* UNIX, abstract: the name ends with its last character */
    int fd;          /* FD; borrowed until listened on or connected with */
} SocketAddress;

/* All fields at their defaults (ipv4, ipv6: -1; tight: true; fd: -1). */
SocketAddress *socket_address_new(SocketAddressType type);
void socket_address_free(SocketAddress *addr);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SocketAddress, socket_address_free)

/* "tcp:HOST:PORT[,to=N][,ipv4[=on|off]][,ipv6[=on|off]]" (HOST may be empty or
 * [v6]), "unix:PATH", "fd:N".  Errors in QEMU's words where it has some. */
SocketAddress *socket_address_parse(const char *str, GError **errp);
/* The same way of writing it back ("unix:/p", "tcp:127.0.0.1:4444"); g_free. */
char *socket_address_to_string(const SocketAddress *addr);

/* A bound, listening, non-blocking, close-on-exec socket, or -1.  A unix
 * socket that lies at the path from an earlier run is replaced; any other file
 * there is not.  FD: the descriptor itself, made to listen. */
int socket_listen(const SocketAddress *addr, int backlog, GError **errp);
/* Remove the file of a listening unix socket, if @fd is still the one bound to
 * it.  Before close(fd). */
void socket_listen_cleanup(const SocketAddress *addr, int fd);

/* A connected, blocking, close-on-exec socket, or -1.  Blocks; not on the main
 * thread once that runs.  Ends early with SIDECAR_ERROR_CANCELLED when
 * @cancel_fd (-1: none) becomes readable; looking up a name can't be
 * interrupted. */
int socket_connect(const SocketAddress *addr, int cancel_fd, GError **errp);

/* "tcp:HOST:PORT" or "unix:PATH" of this end (peer: of the other); g_free. */
char *socket_name(int fd, bool peer);

/* poll, but -1 with ETIMEDOUT when @p[0] is a TCP connection from whose other end no
 * sign has come for 40 seconds of waiting, although it was due. */
int socket_poll(struct pollfd *p, nfds_t n, int ms);
void socket_set_silence(int ms); /* for tests; before there are threads */

bool fd_is_socket(int fd);
bool fd_set_nonblocking(int fd, bool on);

#endif
