/*
 * Targets that are only written: standard output, a passed fd, a FIFO, a
 * character device.  Whatever they lead to, nothing can be taken back.
 *
 * Every wait must be cancellable, so a write must not block.  A file
 * description of our own gets O_NONBLOCK.  One that is shared with other
 * programs must not be changed: it is opened again through /proc where
 * possible, written with MSG_DONTWAIT if it is a socket, and otherwise in
 * pieces that cannot block once poll() said so.
 *
 * A FIFO without a reader blocks in open().  It is opened at the first write;
 * cancel opens its other end for a moment, which lets that open() return.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "util/error.h"

#define PIPE_BUFFER (1024 * 1024)

/* write(2) whose EPIPE brings no SIGPIPE, whatever the program does about
 * that signal: it is kept blocked, and taken off the thread if it came. */
static ssize_t write_no_sigpipe(int fd, const void *buf, size_t len)
{
    static const struct timespec at_once;
    sigset_t pipe_set, old, pending;
    bool was_pending;
    ssize_t n;
    int err;

    sigemptyset(&pipe_set);
    sigaddset(&pipe_set, SIGPIPE);
    sigpending(&pending);
    was_pending = sigismember(&pending, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_set, &old);
    n = write(fd, buf, len);
    err = errno;
    if (n < 0 && err == EPIPE && !was_pending) {
        while (sigtimedwait(&pipe_set, NULL, &at_once) < 0 && errno == EINTR) {
        }
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    errno = err;
    return n;
}

ssize_t vma_target_try_write(VmaTarget *t, const void *buf, size_t len)
{
    ssize_t n;

    do {
        if (t->is_socket) {
            n = send(t->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        } else {
            n = write_no_sigpipe(t->fd, buf, t->one_page ? MIN(len, PIPE_BUF) : len);
        }
    } while (n < 0 && errno == EINTR);
    if (n >= 0) {
        return n;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
}

int vma_target_write_stream(VmaTarget *t, const void *buf, size_t len)
{
    const char *p = buf;
    bool wait = t->one_page;

    while (len) {
        bool ready;
        ssize_t n;

        if (vma_target_is_cancelled(t)) {
            return -ECANCELED;
        }
        if (wait && !vma_target_poll(t, t->fd, POLLOUT, -1, &ready, NULL)) {
            return -ECANCELED;
        }
        n = vma_target_try_write(t, p, MIN(len, PIPE_BUFFER));
        if (n < 0) {
            return n;
        }
        p += n;
        len -= n;
        wait = n == 0 || t->one_page;
    }
    return 0;
}

void vma_target_prepare_stream(VmaTarget *t, bool own_description)
{
    struct stat st;

    if (fstat(t->fd, &st) < 0) {
        return;
    }
    t->is_socket = S_ISSOCK(st.st_mode);
    t->is_regular = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode);
    if (t->is_socket || t->is_regular) {
        return;
    }
    if (!own_description && !(fcntl(t->fd, F_GETFL) & O_NONBLOCK)) {
        g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", t->fd);
        int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);

        if (fd < 0) {
            t->one_page = true;
            return;
        }
        close(t->fd);
        t->fd = fd;
    }
    fcntl(t->fd, F_SETFL, fcntl(t->fd, F_GETFL) | O_NONBLOCK);
    if (S_ISFIFO(st.st_mode)) {
        /* Fewer switches to the reader; where it is refused, nothing is lost. */
        fcntl(t->fd, F_SETPIPE_SZ, PIPE_BUFFER);
    }
}

/* Blocks until somebody reads the FIFO or cancel lets go. */
static bool open_fifo(VmaTarget *t, GError **errp)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", t->path_fd);
    int err;

    pthread_mutex_lock(&t->lock);
    t->opening = true;
    pthread_mutex_unlock(&t->lock);
    if (!vma_target_check(t, errp)) {
        return false;
    }
    do {
        t->fd = open(path, O_WRONLY | O_CLOEXEC);
        err = errno;
    } while (t->fd < 0 && err == EINTR && !vma_target_is_cancelled(t));
    if (!vma_target_check(t, errp)) {
        return false;
    }
    if (t->fd < 0) {
        error_set_errno(errp, err, "%s: cannot open", t->name);
        return false;
    }
    vma_target_prepare_stream(t, true);
    return true;
}

static void stream_cancel(VmaTarget *t)
{
    g_autofree char *path = NULL;

    pthread_mutex_lock(&t->lock);
    if (t->path_fd >= 0 && t->opening) {
        path = g_strdup_printf("/proc/self/fd/%d", t->path_fd);
        t->unblock_fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    }
    pthread_mutex_unlock(&t->lock);
}

static bool stream_write(VmaTarget *t, const void *buf, size_t len, GError **errp)
{
    int ret;

    if (t->fd < 0 && !open_fifo(t, errp)) {
        return false;
    }
    ret = vma_target_write_stream(t, buf, len);
    if (ret < 0) {
        vma_target_error(t, -ret, errp);
    }
    return ret == 0;
}

static bool stream_commit(VmaTarget *t, GError **errp)
{
    int ret;

    if (t->fd < 0) {
        return true; /* a FIFO that nothing was written to */
    }
    if (t->is_regular && !t->no_sync && fsync(t->fd) < 0) {
        error_set_errno(errp, errno, "%s: cannot sync", t->name);
        return false;
    }
    ret = close(t->fd);
    t->fd = -1;
    if (ret < 0 && errno != EINTR) {
        error_set_errno(errp, errno, "%s: cannot close", t->name);
        return false;
    }
    return true;
}

static void stream_release(VmaTarget *t)
{
    int *const fds[] = { &t->fd, &t->path_fd, &t->unblock_fd };

    for (size_t i = 0; i < G_N_ELEMENTS(fds); i++) {
        if (*fds[i] >= 0) {
            close(*fds[i]);
        }
    }
}

static const VmaTargetOps stream_ops = {
    .write = stream_write,
    .commit = stream_commit,
    .cancel = stream_cancel,
    .release = stream_release,
};

VmaTarget *vma_target_from_fd(int fd, const char *name, GError **errp)
{
    VmaTarget *t = vma_target_new(&stream_ops, name);
    int flags = fcntl(fd, F_GETFL);

    t->fd = fd;
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY || (flags & O_PATH)) {
        error_set(errp, "%s: not open for writing", name);
        vma_target_free(t);
        return NULL;
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    vma_target_prepare_stream(t, false);
    return t;
}

VmaTarget *vma_target_open_special(const char *path, bool fifo, GError **errp)
{
    VmaTarget *t = vma_target_new(&stream_ops, path);
    int fd = open(path, fifo ? O_PATH | O_CLOEXEC
                             : O_WRONLY | O_NOCTTY | O_CLOEXEC);

    if (fd < 0) {
        error_set_errno(errp, errno, "%s: cannot open", path);
        vma_target_free(t);
        return NULL;
    }
    if (fifo) {
        t->path_fd = fd;
    } else {
        t->fd = fd;
        vma_target_prepare_stream(t, true);
    }
    return t;
}
