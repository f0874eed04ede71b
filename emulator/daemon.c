/*
 * -daemonize: into the background once the VM runs.
 *
 *     caller ─ fork ─ setsid ─ fork ─ the sidecar ─ fork+exec ─ QEMU
 *       │                               │
 *       └── waits on a pipe ◄───────────┘ one byte: ready; end of file: failed
 *
 * Until then stderr is the caller's, so that errors reach it.  QEMU 7.2 does
 * the same by itself; it can't be left to QEMU, because QEMU would then no
 * longer be our child.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/daemon.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

G_NORETURN static void wait_for(int fd)
{
    char byte;
    ssize_t n;

    do {
        n = read(fd, &byte, 1);
    } while (n < 0 && errno == EINTR);
    _exit(n == 1 ? 0 : 1);
}

/* -1: an error; else as fork. */
static pid_t checked_fork(GError **errp)
{
    pid_t pid = fork();

    if (pid < 0) {
        error_set_errno(errp, errno, "cannot start a process");
    }
    return pid;
}

int daemon_start(GError **errp)
{
    int fds[2];
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC)) {
        error_set_errno(errp, errno, "cannot make a pipe");
        return -1;
    }
    pid = checked_fork(errp);
    if (pid < 0) {
        close(fds[0]);
        close(fds[1]);
        return -1;
    }
    if (pid > 0) {
        close(fds[1]);
        wait_for(fds[0]);
    }
    close(fds[0]);
    setsid();
    pid = checked_fork(errp);
    if (pid > 0) {
        _exit(0);
    }
    if (pid < 0) {
        close(fds[1]);
        return -1;
    }
    signal(SIGTSTP, SIG_IGN);
    signal(SIGTTOU, SIG_IGN);
    signal(SIGTTIN, SIG_IGN);
    return fds[1];
}

void daemon_ready(int fd)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (chdir("/")) {
        g_printerr("qemu-sidecar: cannot change to /: %s\n",
                   g_strerror(errno));
    }
    for (int i = 0; i < 3 && null >= 0; i++) {
        dup2(null, i);
    }
    if (null > 2) {
        close(null);
    }
    if (write(fd, "", 1) < 0) {
        /* The caller is gone and waits no more. */
    }
    close(fd);
}
