/*
 * Channels of migration; see include/migration/channel.h.
 *
 * A cancelled channel has a readable eventfd, which every wait of its own looks
 * at, and its file is shut down.  @lock guards the file pointer against the one
 * other thread that may cancel.
 *
 * The way back is a second descriptor of the same socket, which stays open when
 * the file is closed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/channel.h"

#include "util/error.h"
#include "util/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct MigrationChannel {
    gint refs;
    char *uri;
    SocketAddress *addr; /* tcp:, unix: */
    char *command;       /* exec: */
    int fd;              /* fd:, until it is opened */
    int listen_fd;
    ReturnPath *back;    /* over the socket again; NULL: it is none */
    int cancel_fd;       /* eventfd */
    pid_t pid;           /* of exec: */

    pthread_mutex_t lock;
    QEMUFile *file;      /* lock */
    bool cancelled;      /* lock */
};

MigrationChannel *migration_channel_new(const char *uri, int fd, GError **errp)
{
    g_autoptr(MigrationChannel) ch = g_new0(MigrationChannel, 1);

    ch->refs = 1;
    ch->uri = g_strdup(uri);
    ch->fd = fd;
    ch->listen_fd = -1;
    ch->cancel_fd = eventfd(0, EFD_CLOEXEC);
    pthread_mutex_init(&ch->lock, NULL);
    if (ch->cancel_fd < 0) {
        error_set_errno(errp, errno, "%s: eventfd", uri);
        return NULL;
    }
    if (g_str_has_prefix(uri, "exec:")) {
        ch->command = g_strdup(uri + strlen("exec:"));
    } else if (g_str_has_prefix(uri, "tcp:") || g_str_has_prefix(uri, "unix:")) {
        ch->addr = socket_address_parse(uri, errp);
        if (!ch->addr) {
            return NULL;
        }
    } else if (!g_str_has_prefix(uri, "fd:")) {
        error_set(errp, "unknown migration protocol: %s", uri);
        return NULL;
    }
    return g_steal_pointer(&ch);
}

MigrationChannel *migration_channel_ref(MigrationChannel *ch)
{
    g_atomic_int_inc(&ch->refs);
    return ch;
}

static void close_listen(MigrationChannel *ch)
{
    if (ch->listen_fd >= 0) {
        socket_listen_cleanup(ch->addr, ch->listen_fd);
        close(ch->listen_fd);
        ch->listen_fd = -1;
    }
}

void migration_channel_unref(MigrationChannel *ch)
{
    if (!ch || !g_atomic_int_dec_and_test(&ch->refs)) {
        return;
    }
    if (ch->file || ch->pid) {
        migration_channel_close(ch, true, NULL);
    }
    close_listen(ch);
    return_path_free(ch->back);
    if (ch->fd >= 0) {
        close(ch->fd);
    }
    if (ch->cancel_fd >= 0) {
        close(ch->cancel_fd);
    }
    pthread_mutex_destroy(&ch->lock);
    socket_address_free(ch->addr);
    g_free(ch->command);
    g_free(ch->uri);
    g_free(ch);
}

static bool cancelled_error(MigrationChannel *ch, GError **errp)
{
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED, "%s: cancelled",
                ch->uri);
    return false;
}

/* Until @fd is readable, or for @ms (-1: for ever), which is no error. */
static bool wait_readable(MigrationChannel *ch, int fd, int ms, GError **errp)
{
    struct pollfd p[2] = {
        { .fd = fd, .events = POLLIN },
        { .fd = ch->cancel_fd, .events = POLLIN },
    };

    while (poll(p, 2, ms) < 0) {
        if (errno != EINTR) {
            error_set_errno(errp, errno, "%s: poll", ch->uri);
            return false;
        }
    }
    return p[1].revents ? cancelled_error(ch, errp) : true;
}

/* ---- opening --------------------------------------------------------------- */

bool migration_channel_listen(MigrationChannel *ch, GError **errp)
{
    if (!ch->addr) {
        return true;
    }
    ch->listen_fd = socket_listen(ch->addr, 1, errp);
    return ch->listen_fd >= 0;
}

static int open_accept(MigrationChannel *ch, GError **errp)
{
    int fd;

    do {
        if (!wait_readable(ch, ch->listen_fd, -1, errp)) {
            return -1;
        }
        fd = accept4(ch->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    } while (fd < 0 && (errno == EAGAIN || errno == EINTR ||
                        errno == ECONNABORTED));
    if (fd < 0) {
        error_set_errno(errp, errno, "%s: accept", ch->uri);
    }
    close_listen(ch); /* there is one migration, and this is it */
    return fd;
}

/* In the child, between fork and exec. */
G_NORETURN static void run_command(const char *command, int fd, int target)
{
    sigset_t none;

    setpgid(0, 0);
    dup2(fd, target);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

/* The command reads from us (outgoing) or writes to us. */
static int open_exec(MigrationChannel *ch, bool incoming, GError **errp)
{
    int fds[2];
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        error_set_errno(errp, errno, "%s: pipe", ch->uri);
        return -1;
    }
    pid = fork();
    if (pid == 0) {
        run_command(ch->command, fds[incoming ? 1 : 0], incoming ? 1 : 0);
    }
    close(fds[incoming ? 1 : 0]);
    if (pid < 0) {
        error_set_errno(errp, errno, "%s: fork", ch->uri);
        close(fds[incoming ? 0 : 1]);
        return -1;
    }
    pthread_mutex_lock(&ch->lock);
    ch->pid = pid;
    pthread_mutex_unlock(&ch->lock);
    return fds[incoming ? 0 : 1];
}

static int open_fd(MigrationChannel *ch, bool incoming, GError **errp)
{
    int fd = ch->fd;

    if (ch->command) {
        return open_exec(ch, incoming, errp);
    }
    if (ch->addr) {
        return incoming ? open_accept(ch, errp) :
            socket_connect(ch->addr, ch->cancel_fd, errp);
    }
    if (fd < 0) {
        error_set(errp, "%s: no such file descriptor", ch->uri);
    }
    ch->fd = -1;
    return fd;
}

static bool is_socket(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

static void open_way_back(MigrationChannel *ch, int fd)
{
    int again = fd >= 0 && is_socket(fd) ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;

    if (again >= 0) {
        ch->back = return_path_new(again, ch->cancel_fd, ch->uri);
    }
}

ReturnPath *migration_channel_back(MigrationChannel *ch)
{
    return ch->back;
}

QEMUFile *migration_channel_open(MigrationChannel *ch, bool incoming,
                                 GError **errp)
{
    int fd = open_fd(ch, incoming, errp);
    QEMUFile *file;
    bool cancelled;

    open_way_back(ch, fd);
    file = fd < 0 ? NULL : qemu_file_new_fd(fd, ch->uri, errp);
    pthread_mutex_lock(&ch->lock);
    ch->file = file;
    cancelled = ch->cancelled;
    pthread_mutex_unlock(&ch->lock);
    if (file && cancelled) {
        cancelled_error(ch, errp);
        return NULL; /* closed with the channel */
    }
    return file;
}

void migration_channel_cancel(MigrationChannel *ch)
{
    pthread_mutex_lock(&ch->lock);
    ch->cancelled = true;
    eventfd_write(ch->cancel_fd, 1);
    if (ch->file) {
        qemu_file_shutdown(ch->file);
    }
    pthread_mutex_unlock(&ch->lock);
}

/* ---- closing ----------------------------------------------------------------- */

/* The command's end; killed at once with @abandon or when cancelled. */
static bool wait_command(MigrationChannel *ch, bool abandon, GError **errp)
{
    int pidfd = abandon ? -1 : syscall(SYS_pidfd_open, ch->pid, 0);
    int status = 0;

    if (abandon || (pidfd >= 0 && !wait_readable(ch, pidfd, -1, NULL))) {
        kill(-ch->pid, SIGKILL);
    }
    while (waitpid(ch->pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (pidfd >= 0) {
        close(pidfd);
    }
    ch->pid = 0;
    if (WIFSIGNALED(status)) {
        error_set(errp, "%s: the command was ended by signal %d", ch->uri,
                  WTERMSIG(status));
    } else if (WEXITSTATUS(status)) {
        error_set(errp, "%s: the command ended with status %d", ch->uri,
                  WEXITSTATUS(status));
    }
    return status == 0;
}

bool migration_channel_close(MigrationChannel *ch, bool abandon, GError **errp)
{
    GError *error = NULL, *command_error = NULL;
    QEMUFile *file;

    if (ch->file && !abandon) {
        qemu_fflush(ch->file, NULL); /* may wait, and be cancelled */
    }
    pthread_mutex_lock(&ch->lock);
    file = g_steal_pointer(&ch->file);
    pthread_mutex_unlock(&ch->lock);
    if (file && abandon) {
        qemu_file_abandon(file);
    } else if (file) {
        qemu_file_close(file, &error);
    }
    if (ch->pid && !wait_command(ch, abandon || error, &command_error)) {
        if (error) {
            g_error_free(command_error); /* we killed it */
        } else {
            error = command_error;
        }
    }
    if (error) {
        g_propagate_error(errp, error);
        return false;
    }
    return true;
}
