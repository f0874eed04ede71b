/*
 * Channels of migration; see include/migration/channel.h.
 *
 * A cancelled channel has a readable eventfd, which every wait of its own looks
 * at, and its file is shut down.  @lock guards the file pointer against the one
 * other thread that may cancel.
 *
 * The way back is a second descriptor of the same socket.  After the last byte
 * the sender shuts its own direction, so that the receiver sees the end, and
 * reads: nothing but the end means yes.  A receiver that went away with bytes
 * unread makes the kernel say so (ECONNRESET).
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
    int reply_fd;        /* the socket again: the way back; -1: none */
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
    ch->listen_fd = ch->reply_fd = -1;
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

static void close_reply(MigrationChannel *ch)
{
    if (ch->reply_fd >= 0) {
        close(ch->reply_fd);
        ch->reply_fd = -1;
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
    close_reply(ch);
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

QEMUFile *migration_channel_open(MigrationChannel *ch, bool incoming,
                                 GError **errp)
{
    int fd = open_fd(ch, incoming, errp);
    QEMUFile *file;
    bool cancelled;

    if (fd >= 0 && is_socket(fd)) {
        ch->reply_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    }
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

/* ---- the way back ------------------------------------------------------------ */

#define ANSWER_MAX 500
#define ANSWER_WAIT_MS (10 * 1000) /* some receivers never close */

void migration_channel_answer(MigrationChannel *ch, const char *refusal)
{
    if (ch->reply_fd >= 0 && refusal) {
        size_t len = MIN(strlen(refusal), ANSWER_MAX);

        /* whoever does not read this sees the stream fail anyway */
        if (send(ch->reply_fd, refusal, len, MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
            shutdown(ch->reply_fd, SHUT_WR);
        }
    }
    close_reply(ch);
}

/* What can be read now: -1 with errno, 0 at the end.  @text has one byte more. */
static ssize_t read_answer(MigrationChannel *ch, char *text)
{
    ssize_t n = recv(ch->reply_fd, text, ANSWER_MAX, MSG_DONTWAIT);

    if (n > 0) {
        text[n] = '\0';
        for (char *p = text; *p; p++) {
            *p = g_ascii_isprint(*p) ? *p : ' ';
        }
        g_strchomp(text);
    }
    return n;
}

char *migration_channel_last_words(MigrationChannel *ch)
{
    char text[ANSWER_MAX + 1];

    return ch->reply_fd >= 0 && read_answer(ch, text) > 0 ? g_strdup(text)
                                                          : NULL;
}

bool migration_channel_wait_answer(MigrationChannel *ch, GError **errp)
{
    char text[ANSWER_MAX + 1];
    ssize_t n = 0;

    if (ch->reply_fd < 0) {
        return true;
    }
    shutdown(ch->reply_fd, SHUT_WR);
    if (wait_readable(ch, ch->reply_fd, ANSWER_WAIT_MS, NULL)) {
        n = read_answer(ch, text);
    }
    if (n > 0) {
        error_set(errp, "%s: the destination says: %s", ch->uri, text);
    } else if (n < 0 && errno != EAGAIN) {
        error_set_errno(errp, errno, "%s: the destination went away", ch->uri);
        n = 1;
    }
    close_reply(ch);
    return n <= 0;
}
