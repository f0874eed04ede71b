/*
 * Starting QEMU as a child that cannot outlive us.
 *
 * Its disks are served by this process; a QEMU without us would only see I/O
 * errors.  So when we die, for whatever reason, the kernel kills it:
 *
 *     PR_SET_PDEATHSIG, set between fork and exec.  We may have died in
 *     between: the child waits for one byte from us before it execs, and takes
 *     end of file for our death.
 *
 *     The kernel forgets PDEATHSIG when a process changes its user id, so with
 *     -runas there is a guard as well: a second child that holds a pidfd of
 *     QEMU and the read end of a pipe whose only write end is ours.  At end of
 *     file it kills what the pidfd names, which can be nobody else.
 *
 * QEMU inherits what our caller left open for it (tap devices, sockets given
 * as fd=N); everything that we opened is close-on-exec, except what is listed.
 *
 * Between fork and exec only system calls are made: other threads exist.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "launch.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void reset_signals(const sigset_t *mask)
{
    /* GLib and we ignore or catch these; QEMU expects a fresh process. */
    static const int signals[] = {SIGPIPE, SIGXFSZ, SIGCHLD,
                                  SIGINT,  SIGTERM, SIGHUP};

    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++) {
        signal(signals[i], SIG_DFL);
    }
    sigprocmask(SIG_SETMASK, mask, NULL);
}

/* In the child.  The errno of a failed exec goes through @report. */
G_NORETURN static void run_child(const EmuLaunch *l, int go, int report)
{
    char byte;
    int err;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (read(go, &byte, 1) != 1) {
        _exit(1);
    }
    for (size_t i = 0; i < l->n_fds; i++) {
        fcntl(l->fds[i], F_SETFD, 0);
    }
    for (int i = 0; i < 3; i++) {
        if (l->std_fds[i] >= 0) {
            dup2(l->std_fds[i], i);
        }
    }
    if (l->umask >= 0) {
        umask(l->umask);
    }
    if (l->open_files) {
        setrlimit(RLIMIT_NOFILE, l->open_files);
    }
    reset_signals(l->mask);
    if (l->environ) {
        environ = (char **)l->environ;
    }
    execvp(l->argv[0], l->argv);
    err = errno;
    if (write(report, &err, sizeof(err)) < 0) {
        _exit(126);
    }
    _exit(127);
}

/* In the guard: wait for our parent's end, then kill QEMU. */
G_NORETURN static void run_guard(int alive, int pidfd)
{
    char byte;
    ssize_t n;

    /* The terminal's signals are meant for QEMU, not for us. */
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    signal(SIGTSTP, SIG_IGN);
    /* Nothing of ours may stay open here: not the image locks, not sockets. */
    dup2(alive, 0);
    dup2(pidfd, 1);
    syscall(SYS_close_range, 2U, ~0U, 0);
    do {
        n = read(0, &byte, 1);
    } while (n < 0 && errno == EINTR);
    syscall(SYS_pidfd_send_signal, 1, SIGKILL, NULL, 0);
    _exit(0);
}

/* The pipe's write end stays open in this process for as long as it lives. */
static bool start_guard(EmuChild *child, GError **errp)
{
    int alive[2], pidfd = syscall(SYS_pidfd_open, child->pid, 0);

    if (pidfd < 0) {
        error_set_errno(errp, errno, "cannot watch QEMU");
        return false;
    }
    if (pipe2(alive, O_CLOEXEC)) {
        error_set_errno(errp, errno, "cannot make a pipe");
        close(pidfd);
        return false;
    }
    child->guard = fork();
    if (child->guard == 0) {
        /* dup2 below must not hit one of these by its number. */
        run_guard(fcntl(alive[0], F_DUPFD, 3), fcntl(pidfd, F_DUPFD, 3));
    }
    close(alive[0]);
    close(pidfd);
    if (child->guard < 0) {
        error_set_errno(errp, errno, "cannot start a process");
        child->guard = 0;
        close(alive[1]);
        return false;
    }
    return true;
}

static void close_pair(int fd[2])
{
    close(fd[0]);
    close(fd[1]);
}

/* Has the child got as far as exec?  False: it has not, and is waited for. */
static bool check_exec(const EmuLaunch *l, const EmuChild *child, int report,
                       GError **errp)
{
    int err;
    ssize_t n;

    do {
        n = read(report, &err, sizeof(err));
    } while (n < 0 && errno == EINTR);
    if (n != sizeof(err)) {
        return true;
    }
    waitpid(child->pid, NULL, 0);
    error_set_errno(errp, err, "cannot run '%s'", l->argv[0]);
    return false;
}

bool emu_launch(const EmuLaunch *l, EmuChild *child, GError **errp)
{
    int go[2], report[2];
    bool ok = true;

    child->guard = 0;
    if (pipe2(go, O_CLOEXEC)) {
        error_set_errno(errp, errno, "cannot make a pipe");
        return false;
    }
    if (pipe2(report, O_CLOEXEC)) {
        error_set_errno(errp, errno, "cannot make a pipe");
        close_pair(go);
        return false;
    }
    child->pid = fork();
    if (child->pid == 0) {
        close(go[1]);
        run_child(l, go[0], report[1]);
    }
    close(go[0]);
    close(report[1]);
    if (child->pid < 0) {
        error_set_errno(errp, errno, "cannot start a process");
        ok = false;
    } else if (l->guard && !start_guard(child, errp)) {
        waitpid(child->pid, NULL, close(go[1]));
        close(report[0]);
        return false;
    } else {
        if (l->before_exec) {
            l->before_exec(l->opaque, child->pid);
        }
        ok = write(go[1], "", 1) == 1 && check_exec(l, child, report[0], errp);
    }
    close(go[1]);
    close(report[0]);
    return ok;
}

void emu_launch_done(EmuChild *child)
{
    if (child->guard) {
        kill(child->guard, SIGKILL);
        waitpid(child->guard, NULL, 0);
        child->guard = 0;
    }
}
