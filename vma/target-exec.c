/*
 * exec:COMMAND: the archive goes to the standard input of /bin/sh -c COMMAND,
 * which leads a process group of its own, so that cancel can end all of it.
 * The archive counts as written only when the command has read everything and
 * has ended with status 0.
 *
 *     running ──commit: end of input──► waiting ──status 0──► done
 *        │                                 │
 *        └── cancel, failure ──────────────┴──► group gets SIGTERM, later SIGKILL
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include "util/error.h"

/* How long a command may take to end after SIGTERM. */
#define TERM_TIMEOUT_MS 2000
/* How long it may take to end after it closed its input, before the message
 * does without its exit status. */
#define STATUS_TIMEOUT_MS 2000

extern char **environ;

/* Reap the command, which has ended. */
static int reap(VmaTarget *t)
{
    int status = 0;

    while (waitpid(t->pid, &status, 0) < 0 && errno == EINTR) {
    }
    t->pid = 0;
    return status;
}

static bool wait_ended(VmaTarget *t, int timeout_ms)
{
    struct pollfd pfd = { .fd = t->pid_fd, .events = POLLIN };
    int n;

    do {
        n = poll(&pfd, 1, timeout_ms);
    } while (n < 0 && errno == EINTR);
    return n > 0;
}

/* What the exit status means, for a message; NULL if it is good. */
static char *describe(int status)
{
    if (WIFSIGNALED(status)) {
        return g_strdup_printf("command was killed by signal %d (%s)",
                               WTERMSIG(status), g_strsignal(WTERMSIG(status)));
    }
    if (WEXITSTATUS(status)) {
        return g_strdup_printf("command failed with exit status %d",
                               WEXITSTATUS(status));
    }
    return NULL;
}

static void report_early_end(VmaTarget *t, GError **errp)
{
    g_autofree char *why = NULL;

    if (wait_ended(t, STATUS_TIMEOUT_MS)) {
        why = describe(reap(t));
    }
    error_set(errp, "%s: %s", t->name,
              why ? why : "command stopped reading before the end of the archive");
}

static bool exec_write(VmaTarget *t, const void *buf, size_t len, GError **errp)
{
    int ret = vma_target_write_stream(t, buf, len);

    if (ret == -EPIPE) {
        report_early_end(t, errp);
    } else if (ret < 0) {
        vma_target_error(t, -ret, errp);
    }
    return ret == 0;
}

/*
 * Close our end and wait.  A command that ends well without having read all
 * would leave a truncated archive: to see that, a read end of our own keeps
 * the pipe alive until its fill has been looked at.  (Without /proc this
 * cannot be seen and such a command is believed.)
 */
static bool exec_commit(VmaTarget *t, GError **errp)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", t->fd);
    g_autofree char *why = NULL;
    int probe = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    int unread = 0;
    bool ready;

    close(t->fd);
    t->fd = -1;
    if (!vma_target_poll(t, t->pid_fd, POLLIN, -1, &ready, errp)) {
        if (probe >= 0) {
            close(probe);
        }
        return false;
    }
    if (probe >= 0) {
        if (ioctl(probe, FIONREAD, &unread) < 0) {
            unread = 0;
        }
        close(probe);
    }
    why = describe(reap(t));
    if (!why && unread) {
        why = g_strdup("command ended before it had read the whole archive");
    }
    if (why) {
        error_set(errp, "%s: %s", t->name, why);
    }
    return !why;
}

static void exec_release(VmaTarget *t)
{
    if (t->pid > 0) {
        /* Signal before end of input, or the command might take what it has
         * for a whole archive.  The pid is not reaped, so it is still ours. */
        kill(-t->pid, SIGTERM);
        kill(-t->pid, SIGCONT);
        if (!wait_ended(t, TERM_TIMEOUT_MS)) {
            kill(-t->pid, SIGKILL);
            wait_ended(t, -1);
        }
        /* Others of the group may have stayed behind. */
        kill(-t->pid, SIGKILL);
        reap(t);
    }
    if (t->fd >= 0) {
        close(t->fd);
    }
    if (t->pid_fd >= 0) {
        close(t->pid_fd);
    }
}

static const VmaTargetOps exec_ops = {
    .write = exec_write,
    .commit = exec_commit,
    .release = exec_release,
};

static int spawn(VmaTarget *t, const char *command, int input)
{
    char *argv[] = { (char *)"sh", (char *)"-c", (char *)command, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t set;
    int ret;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP |
                                        POSIX_SPAWN_SETSIGDEF |
                                        POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setpgroup(&attr, 0);
    sigemptyset(&set);
    posix_spawnattr_setsigmask(&attr, &set);
    sigfillset(&set);
    posix_spawnattr_setsigdefault(&attr, &set);
    ret = posix_spawn(&t->pid, "/bin/sh", &actions, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return ret;
}

static bool exec_start(VmaTarget *t, const char *command, GError **errp)
{
    int fds[2], ret;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        error_set_errno(errp, errno, "%s: cannot make a pipe", t->name);
        return false;
    }
    t->fd = fds[1];
    vma_target_prepare_stream(t, true);
    ret = spawn(t, command, fds[0]);
    close(fds[0]);
    if (ret) {
        t->pid = 0;
        error_set_errno(errp, ret, "%s: cannot run /bin/sh", t->name);
        return false;
    }
    t->pid_fd = pidfd_open(t->pid, 0);
    if (t->pid_fd < 0) {
        error_set_errno(errp, errno, "%s: cannot watch the command", t->name);
        kill(-t->pid, SIGKILL);
        reap(t);
        return false;
    }
    return true;
}

VmaTarget *vma_target_open_exec(const char *spec, const char *command,
                                GError **errp)
{
    VmaTarget *t = vma_target_new(&exec_ops, spec);

    if (!*command) {
        error_set(errp, "%s: no command given", spec);
        vma_target_free(t);
        return NULL;
    }
    if (!exec_start(t, command, errp)) {
        vma_target_free(t);
        return NULL;
    }
    return t;
}
