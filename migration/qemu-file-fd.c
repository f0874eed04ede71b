/*
 * QEMUFile over a file descriptor: sockets, pipes, files.
 *
 * The descriptor is non-blocking and an eventfd stands beside it in every
 * poll, so that shutdown wakes whoever waits, on a pipe as on a socket.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/qemu-file.h"

#include "util/error.h"
#include "util/socket.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <fcntl.h>

typedef struct {
    int fd;
    int stop;     /* eventfd, readable once shut down */
    bool stopped; /* atomic; the same, to be seen without poll */
    char *name;
} FdFile;

static bool stopped(FdFile *ff, GError **errp)
{
    if (!__atomic_load_n(&ff->stopped, __ATOMIC_RELAXED)) {
        return false;
    }
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED, "%s: cancelled",
                ff->name);
    return true;
}

/* Until @events (or an error condition) or shutdown; not if the other end is silent. */
static bool wait_for(FdFile *ff, short events, GError **errp)
{
    struct pollfd p[2] = {
        { .fd = ff->fd, .events = events },
        { .fd = ff->stop, .events = POLLIN },
    };

    while (socket_poll(p, 2, -1) < 0) {
        if (errno != EINTR) {
            error_set_errno(errp, errno, "%s: %s", ff->name,
                            events & POLLOUT ? "write" : "read");
            return false;
        }
    }
    return !stopped(ff, errp);
}

/* send knows MSG_NOSIGNAL; what is no socket is written to (the program
 * ignores SIGPIPE). */
static ssize_t push(int fd, const void *buf, size_t len)
{
    ssize_t n = send(fd, buf, len, MSG_NOSIGNAL);

    return n < 0 && errno == ENOTSOCK ? write(fd, buf, len) : n;
}

static bool fd_write(void *opaque, const void *buf, size_t len, GError **errp)
{
    FdFile *ff = opaque;
    const char *p = buf;

    while (len) {
        if (stopped(ff, errp)) {
            return false;
        }
        ssize_t n = push(ff->fd, p, len);

        if (n >= 0) {
            p += n;
            len -= n;
        } else if (errno == EAGAIN) {
            if (!wait_for(ff, POLLOUT, errp)) {
                return false;
            }
        } else if (errno != EINTR) {
            error_set_errno(errp, errno, "%s: write", ff->name);
            return false;
        }
    }
    return true;
}

static ssize_t fd_read(void *opaque, void *buf, size_t len, GError **errp)
{
    FdFile *ff = opaque;

    while (!stopped(ff, errp)) {
        ssize_t n = read(ff->fd, buf, len);

        if (n >= 0) {
            return n;
        }
        if (errno == EAGAIN) {
            if (!wait_for(ff, POLLIN, errp)) {
                return -1;
            }
        } else if (errno != EINTR) {
            error_set_errno(errp, errno, "%s: read", ff->name);
            return -1;
        }
    }
    return -1;
}

static void fd_shutdown(void *opaque)
{
    FdFile *ff = opaque;

    __atomic_store_n(&ff->stopped, true, __ATOMIC_RELAXED);
    eventfd_write(ff->stop, 1);
    shutdown(ff->fd, SHUT_RDWR);
}

static bool fd_close(void *opaque, GError **errp)
{
    FdFile *ff = opaque;
    bool ok = close(ff->fd) == 0;

    if (!ok) {
        error_set_errno(errp, errno, "%s: close", ff->name);
    }
    close(ff->stop);
    g_free(ff->name);
    g_free(ff);
    return ok;
}

static const QEMUFileOps fd_ops = {
    .write = fd_write,
    .read = fd_read,
    .shutdown = fd_shutdown,
    .close = fd_close,
};

QEMUFile *qemu_file_new_fd(int fd, const char *name, GError **errp)
{
    FdFile *ff;
    int flags = fcntl(fd, F_GETFL);
    int stop = eventfd(0, EFD_CLOEXEC);

    if (flags < 0 || stop < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        error_set_errno(errp, errno, "%s: file descriptor %d", name, fd);
        close(fd);
        if (stop >= 0) {
            close(stop);
        }
        return NULL;
    }
    ff = g_new0(FdFile, 1);
    ff->fd = fd;
    ff->stop = stop;
    ff->name = g_strdup(name);
    return qemu_file_new(&fd_ops, ff, name);
}
