/*
 * Socket addresses; see include/util/socket.h.
 *
 * A listening address may stand for several real ones (a host name with IPv4
 * and IPv6 addresses, a range of ports).  As in QEMU one socket comes of it:
 * for each resolved address in turn each port of the range is tried, and the
 * error reported is that of the last attempt.  An IPv6 socket on "any" also
 * takes IPv4 unless ipv4=off was said.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/socket.h"

#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

SocketAddress *socket_address_new(SocketAddressType type)
{
    SocketAddress *addr = g_new0(SocketAddress, 1);

    addr->type = type;
    addr->ipv4 = addr->ipv6 = addr->fd = -1;
    addr->tight = true;
    return addr;
}

void socket_address_free(SocketAddress *addr)
{
    if (addr) {
        g_free(addr->host);
        g_free(addr->port);
        g_free(addr->path);
        g_free(addr);
    }
}

/* One ",key[=value]" of an inet address. */
static bool parse_inet_option(SocketAddress *addr, const char *opt,
                              GError **errp)
{
    g_auto(GStrv) kv = g_strsplit(opt, "=", 2);
    const char *value = kv[0] ? kv[1] : NULL;
    bool on = !value || g_str_equal(value, "on");
    int *flag = NULL;

    if (g_strcmp0(kv[0], "to") == 0 && value) {
        guint64 to;

        if (!g_ascii_string_to_unsigned(value, 10, 1, 65535, &to, NULL)) {
            error_set(errp, "error parsing to= argument");
            return false;
        }
        addr->to = (int)to;
        return true;
    }
    if (g_strcmp0(kv[0], "ipv4") == 0) {
        flag = &addr->ipv4;
    } else if (g_strcmp0(kv[0], "ipv6") == 0) {
        flag = &addr->ipv6;
    }
    if (!flag) {
        error_set(errp, "Invalid parameter '%s'", kv[0] ? kv[0] : "");
        return false;
    }
    if (!on && !g_str_equal(value, "off")) {
        error_set(errp, "Parameter '%s' expects 'on' or 'off'", kv[0]);
        return false;
    }
    *flag = on;
    return true;
}

static bool parse_inet(SocketAddress *addr, const char *str, GError **errp)
{
    g_auto(GStrv) parts = g_strsplit(str, ",", -1);
    const char *where = parts[0] ? parts[0] : "";
    const char *colon, *host = where, *host_end;

    if (where[0] == '[') {
        host++;
        host_end = strchr(host, ']');
        colon = host_end && host_end[1] == ':' ? host_end + 1 : NULL;
    } else {
        host_end = colon = strchr(where, ':');
    }
    if (!colon || !colon[1]) {
        error_set(errp, "error parsing address '%s'", where);
        return false;
    }
    addr->host = g_strndup(host, host_end - host);
    addr->port = g_strdup(colon + 1);
    for (size_t i = 1; parts[i]; i++) {
        if (!parse_inet_option(addr, parts[i], errp)) {
            return false;
        }
    }
    return true;
}

SocketAddress *socket_address_parse(const char *str, GError **errp)
{
    g_autoptr(SocketAddress) addr = NULL;

    if (g_str_has_prefix(str, "unix:")) {
        addr = socket_address_new(SOCKET_ADDRESS_UNIX);
        addr->path = g_strdup(str + 5);
        if (!addr->path[0]) {
            error_set(errp, "invalid Unix socket address");
            return NULL;
        }
    } else if (g_str_has_prefix(str, "fd:")) {
        guint64 fd;

        addr = socket_address_new(SOCKET_ADDRESS_FD);
        if (!g_ascii_string_to_unsigned(str + 3, 10, 0, G_MAXINT, &fd, NULL)) {
            error_set(errp, "Unable to parse FD number %s", str + 3);
            return NULL;
        }
        addr->fd = (int)fd;
    } else {
        addr = socket_address_new(SOCKET_ADDRESS_INET);
        if (!parse_inet(addr, g_str_has_prefix(str, "tcp:") ? str + 4 : str,
                        errp)) {
            return NULL;
        }
    }
    return g_steal_pointer(&addr);
}

char *socket_address_to_string(const SocketAddress *addr)
{
    switch (addr->type) {
    case SOCKET_ADDRESS_INET:
        return g_strdup_printf(strchr(addr->host, ':') ? "tcp:[%s]:%s"
                                                       : "tcp:%s:%s",
                               addr->host, addr->port);
    case SOCKET_ADDRESS_UNIX:
        return g_strdup_printf("unix:%s%s", addr->abstract ? "@" : "",
                               addr->path);
    case SOCKET_ADDRESS_FD:
        break;
    }
    return g_strdup_printf("fd:%d", addr->fd);
}

bool fd_is_socket(int fd)
{
    int type;
    socklen_t len = sizeof(type);

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0;
}

bool fd_set_nonblocking(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 &&
           fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) == 0;
}

static bool fill_unix(const SocketAddress *addr, struct sockaddr_un *un,
                      socklen_t *len, GError **errp)
{
    size_t n = strlen(addr->path), max = sizeof(un->sun_path);

    memset(un, 0, sizeof(*un));
    un->sun_family = AF_UNIX;
    if (addr->abstract) {
        max--; /* the leading NUL */
    }
    if (n > max || (!addr->abstract && n == max)) {
        error_set(errp, "UNIX socket path '%s' is too long (Path must be less "
                  "than %zu bytes)", addr->path, max);
        return false;
    }
    memcpy(un->sun_path + addr->abstract, addr->path, n);
    *len = sizeof(*un);
    if (addr->abstract && addr->tight) {
        *len = offsetof(struct sockaddr_un, sun_path) + 1 + n;
    }
    return true;
}

/* Make room for a new socket where an old one was left behind. */
static bool remove_stale_socket(const char *path, GError **errp)
{
    struct stat st;

    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && unlink(path) < 0 &&
        errno != ENOENT) {
        error_set_errno(errp, errno, "Failed to unlink socket %s", path);
        return false;
    }
    return true;
}

static int listen_unix(const SocketAddress *addr, int backlog, GError **errp)
{
    struct sockaddr_un un;
    socklen_t len;
    int fd;

    if (!fill_unix(addr, &un, &len, errp) ||
        (!addr->abstract && !remove_stale_socket(addr->path, errp))) {
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_set_errno(errp, errno, "Failed to create Unix socket");
        return -1;
    }
    if (bind(fd, (struct sockaddr *)&un, len) < 0) {
        error_set_errno(errp, errno, "Failed to bind socket to %s", addr->path);
    } else if (listen(fd, backlog) < 0) {
        error_set_errno(errp, errno, "Failed to listen on socket");
        socket_listen_cleanup(addr, fd);
    } else {
        return fd;
    }
    close(fd);
    return -1;
}

void socket_listen_cleanup(const SocketAddress *addr, int fd)
{
    struct sockaddr_un un = { 0 };
    socklen_t len = sizeof(un);
    struct stat st;

    /* The name in the file system leads to an inode of its own, so all that
     * can be told is that we were bound to this path and a socket is there. */
    if (addr->type != SOCKET_ADDRESS_UNIX || addr->abstract ||
        getsockname(fd, (struct sockaddr *)&un, &len) < 0 ||
        un.sun_family != AF_UNIX || lstat(addr->path, &st) < 0 ||
        !S_ISSOCK(st.st_mode)) {
        return;
    }
    unlink(addr->path);
}

/* The address families that ipv4= and ipv6= leave; -1: none. */
static int inet_family(const SocketAddress *addr)
{
    if (addr->ipv4 == 0 && addr->ipv6 == 0) {
        return -1;
    }
    if (addr->ipv4 == 1 && addr->ipv6 == 1) {
        return AF_UNSPEC;
    }
    if (addr->ipv6 == 1 || addr->ipv4 == 0) {
        return AF_INET6;
    }
    if (addr->ipv4 == 1 || addr->ipv6 == 0) {
        return AF_INET;
    }
    return AF_UNSPEC;
}

static struct addrinfo *resolve(const SocketAddress *addr, bool passive,
                                GError **errp)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *res = NULL;
    int family = inet_family(addr), rc;
    char *end;

    if (family < 0) {
        error_set(errp, "Cannot disable IPv4 and IPv6 at same time");
        return NULL;
    }
    if (strtoul(addr->port, &end, 10) > 65535 && !*end) {
        error_set(errp, "address resolution failed for %s:%s: port is out of "
                  "range", addr->host, addr->port);
        return NULL;
    }
    hints.ai_family = family;
    hints.ai_flags = passive ? AI_PASSIVE : AI_ADDRCONFIG;
    rc = getaddrinfo(addr->host[0] ? addr->host : NULL, addr->port, &hints,
                     &res);
    if (rc != 0) {
        error_set(errp, "address resolution failed for %s:%s: %s", addr->host,
                  addr->port, gai_strerror(rc));
        return NULL;
    }
    return res;
}

static void set_port(struct sockaddr *sa, int port)
{
    if (sa->sa_family == AF_INET) {
        ((struct sockaddr_in *)sa)->sin_port = htons(port);
    } else {
        ((struct sockaddr_in6 *)sa)->sin6_port = htons(port);
    }
}

static int get_port(const struct sockaddr *sa)
{
    return ntohs(sa->sa_family == AF_INET
                     ? ((const struct sockaddr_in *)sa)->sin_port
                     : ((const struct sockaddr_in6 *)sa)->sin6_port);
}

/* -1: *errnum says why. */
static int listen_at(const SocketAddress *addr, struct addrinfo *ai, int port,
                     int backlog, int *errnum)
{
    int one = 1, v6only = addr->ipv4 == 0;
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                    ai->ai_protocol);

    if (fd < 0) {
        *errnum = errno;
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (ai->ai_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only));
    }
    set_port(ai->ai_addr, port);
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, backlog) < 0) {
        *errnum = errno;
        close(fd);
        return -1;
    }
    return fd;
}

static int listen_inet(const SocketAddress *addr, int backlog, GError **errp)
{
    struct addrinfo *res = resolve(addr, true, errp);
    int errnum = 0;

    if (!res) {
        return -1;
    }
    for (struct addrinfo *ai = res; ai; ai = ai->ai_next) {
        int first = get_port(ai->ai_addr);
        int last = MAX(first, addr->to);

        for (int port = first; port <= last; port++) {
            int fd = listen_at(addr, ai, port, backlog, &errnum);

            if (fd >= 0) {
                freeaddrinfo(res);
                return fd;
            }
            if (errnum != EADDRINUSE) {
                break;
            }
        }
    }
    freeaddrinfo(res);
    error_set_errno(errp, errnum, addr->to ? "Failed to find an available port"
                                           : "Failed to bind socket");
    return -1;
}

static int listen_fd(const SocketAddress *addr, int backlog, GError **errp)
{
    if (!fd_is_socket(addr->fd)) {
        error_set(errp, "File descriptor '%d' is not a socket", addr->fd);
        return -1;
    }
    if (listen(addr->fd, backlog) < 0) {
        error_set_errno(errp, errno, "Failed to listen on fd socket");
        return -1;
    }
    fcntl(addr->fd, F_SETFD, FD_CLOEXEC);
    fd_set_nonblocking(addr->fd, true);
    return addr->fd;
}

int socket_listen(const SocketAddress *addr, int backlog, GError **errp)
{
    switch (addr->type) {
    case SOCKET_ADDRESS_INET:
        return listen_inet(addr, backlog, errp);
    case SOCKET_ADDRESS_UNIX:
        return listen_unix(addr, backlog, errp);
    case SOCKET_ADDRESS_FD:
        break;
    }
    return listen_fd(addr, backlog, errp);
}

/* connect() that @cancel_fd can end: 0, an errno, or ECANCELED. */
static int connect_wait(int fd, const struct sockaddr *sa, socklen_t len,
                        int cancel_fd)
{
    struct pollfd p[2] = { { .fd = fd, .events = POLLOUT },
                           { .fd = cancel_fd, .events = POLLIN } };
    int err = 0;
    socklen_t errlen = sizeof(err);

    if (connect(fd, sa, len) == 0) {
        return 0;
    }
    if (errno != EINPROGRESS && errno != EINTR) {
        /* A unix socket whose queue is full says EAGAIN and can't be waited
         * for: to the caller that is a refusal. */
        return errno;
    }
    for (;;) {
        if (poll(p, 2, -1) < 0) {
            if (errno != EINTR) {
                return errno;
            }
            continue;
        }
        if (p[1].revents) {
            return ECANCELED;
        }
        if (p[0].revents) {
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &errlen);
            return err;
        }
    }
}

/* A socket of @family connected to @sa, or -1 and *errnum. */
static int connect_to(int family, const struct sockaddr *sa, socklen_t len,
                      int cancel_fd, int *errnum)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0) {
        *errnum = errno;
        return -1;
    }
    *errnum = connect_wait(fd, sa, len, cancel_fd);
    if (*errnum) {
        close(fd);
        return -1;
    }
    fd_set_nonblocking(fd, false);
    return fd;
}

static void set_connect_error(GError **errp, int errnum, const char *what)
{
    if (errnum == ECANCELED) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED,
                    "Connecting to '%s' was cancelled", what);
    } else {
        error_set_errno(errp, errnum, "Failed to connect to '%s'", what);
    }
}

static int connect_inet(const SocketAddress *addr, int cancel_fd, GError **errp)
{
    struct addrinfo *res = resolve(addr, false, errp);
    g_autofree char *what = g_strdup_printf("%s:%s", addr->host, addr->port);
    int errnum = 0, fd = -1, one = 1;

    if (!res) {
        return -1;
    }
    for (struct addrinfo *ai = res; ai && fd < 0 && errnum != ECANCELED;
         ai = ai->ai_next) {
        fd = connect_to(ai->ai_family, ai->ai_addr, ai->ai_addrlen, cancel_fd,
                        &errnum);
    }
    freeaddrinfo(res);
    if (fd < 0) {
        set_connect_error(errp, errnum, what);
    } else if (addr->keep_alive) {
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    }
    return fd;
}

static int connect_unix(const SocketAddress *addr, int cancel_fd, GError **errp)
{
    struct sockaddr_un un;
    socklen_t len;
    int fd, errnum;

    if (!fill_unix(addr, &un, &len, errp)) {
        return -1;
    }
    fd = connect_to(AF_UNIX, (struct sockaddr *)&un, len, cancel_fd, &errnum);
    if (fd < 0) {
        set_connect_error(errp, errnum, addr->path);
    }
    return fd;
}

int socket_connect(const SocketAddress *addr, int cancel_fd, GError **errp)
{
    switch (addr->type) {
    case SOCKET_ADDRESS_INET:
        return connect_inet(addr, cancel_fd, errp);
    case SOCKET_ADDRESS_UNIX:
        return connect_unix(addr, cancel_fd, errp);
    case SOCKET_ADDRESS_FD:
        break;
    }
    if (!fd_is_socket(addr->fd)) {
        error_set(errp, "File descriptor '%d' is not a socket", addr->fd);
        return -1;
    }
    fcntl(addr->fd, F_SETFD, FD_CLOEXEC);
    return addr->fd;
}

char *socket_name(int fd, bool peer)
{
    struct sockaddr_storage ss = { 0 };
    struct sockaddr_un *un = (struct sockaddr_un *)&ss;
    socklen_t len = sizeof(ss);
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if ((peer ? getpeername : getsockname)(fd, (struct sockaddr *)&ss, &len) < 0) {
        return g_strdup("unknown");
    }
    if (ss.ss_family == AF_UNIX) {
        size_t n = len - MIN(len, offsetof(struct sockaddr_un, sun_path));

        return n && !un->sun_path[0]
                   ? g_strdup_printf("unix:@%.*s", (int)n - 1, un->sun_path + 1)
                   : g_strdup_printf("unix:%.*s", (int)n, un->sun_path);
    }
    if (getnameinfo((struct sockaddr *)&ss, len, host, sizeof(host), port,
                    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return g_strdup("unknown");
    }
    return g_strdup_printf(strchr(host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s",
                           host, port);
}
