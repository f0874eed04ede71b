/*
 * stdio: the terminal, or whatever standard input and output are.
 *
 * Non-blocking mode belongs to an open file, not to a descriptor: setting it on
 * fd 0 changes it for the shell and for everything else on the terminal.  So a
 * terminal or pipe is opened anew through /proc/self/fd, which gives an open
 * file of our own; sockets need none (MSG_DONTWAIT); only where that fails is
 * the flag set on the shared one, and taken back at the end.
 *
 * A terminal is put into the mode that QEMU uses.  It is given back
 *   - at exit (atexit) and in chardev_free,
 *   - on signals that would kill us,
 *   - on SIGTSTP, before we stop; SIGCONT takes it again, if we are then in the
 *     foreground (in the background tcsetattr would only stop us again).
 * The functions that signal handlers use touch only the static state below,
 * which describes descriptor 0 of this process, of which there is only one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "chardev-int.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

/* In a signal handler only read; written with these signals blocked or before
 * the handlers are there. */
static struct {
    volatile sig_atomic_t in_use, tty;
    struct termios found, ours;
    int flags[2];                      /* of fd 0 and 1 as found */
    volatile sig_atomic_t restore_flags[2];
    bool atexit_done;
    bool allow_signal;
    const Chardev *owner;
    struct sigaction old[NSIG];        /* before fatal_handler */
} stdio;

static const int fatal_signals[] = { SIGQUIT, SIGILL, SIGABRT, SIGBUS, SIGFPE,
                                     SIGSEGV, SIGHUP, SIGINT, SIGTERM };

void chardev_stdio_restore(void)
{
    int saved = errno;

    if (stdio.in_use) {
        if (stdio.tty) {
            tcsetattr(0, TCSANOW, &stdio.found);
        }
        for (int fd = 0; fd < 2; fd++) {
            if (stdio.restore_flags[fd]) {
                fcntl(fd, F_SETFL, stdio.flags[fd]);
            }
        }
    }
    errno = saved;
}

static void take_terminal(void)
{
    int saved = errno;

    if (stdio.in_use) {
        if (stdio.tty && tcgetpgrp(0) == getpgrp()) {
            tcsetattr(0, TCSANOW, &stdio.ours);
        }
        for (int fd = 0; fd < 2; fd++) {
            if (stdio.restore_flags[fd]) {
                fcntl(fd, F_SETFL, stdio.flags[fd] | O_NONBLOCK);
            }
        }
    }
    errno = saved;
}

/* Then what would have been done without us: a fault comes again when we
 * return, anything else is sent again. */
static void fatal_handler(int sig, siginfo_t *info, void *context)
{
    chardev_stdio_restore();
    sigaction(sig, &stdio.old[sig], NULL);
    if (info->si_code <= 0) {
        raise(sig);
    }
}

static void tstp_handler(int sig)
{
    struct sigaction dfl = { .sa_handler = SIG_DFL }, old;
    sigset_t set;
    int saved = errno;

    chardev_stdio_restore();
    sigaction(SIGTSTP, &dfl, &old);
    raise(SIGTSTP);
    sigemptyset(&set);
    sigaddset(&set, SIGTSTP);
    sigprocmask(SIG_UNBLOCK, &set, NULL); /* stops here */
    sigaction(SIGTSTP, &old, NULL);
    take_terminal();
    errno = saved;
}

static void cont_handler(int sig)
{
    take_terminal();
}

static bool is_default(int sig)
{
    struct sigaction sa;

    return sigaction(sig, NULL, &sa) == 0 && !(sa.sa_flags & SA_SIGINFO) &&
           sa.sa_handler == SIG_DFL;
}

/* Before whoever catches it now (a sanitizer, say), but not if that is us, or
 * if it is ignored, or if it asks for a clean end that somebody sees to. */
static void catch_fatal(int sig)
{
    struct sigaction sa = { .sa_sigaction = fatal_handler,
                            .sa_flags = SA_SIGINFO }, old;
    bool asks = sig == SIGHUP || sig == SIGINT || sig == SIGTERM;

    sigemptyset(&sa.sa_mask);
    if (sigaction(sig, NULL, &old) == 0 && old.sa_handler != SIG_IGN &&
        old.sa_sigaction != fatal_handler && (!asks || is_default(sig))) {
        stdio.old[sig] = old;
        sigaction(sig, &sa, NULL);
    }
}

static void catch_if_default(int sig, void (*handler)(int))
{
    struct sigaction sa = { .sa_handler = handler, .sa_flags = SA_RESTART };

    sigemptyset(&sa.sa_mask);
    if (is_default(sig)) {
        sigaction(sig, &sa, NULL);
    }
}

static void install_handlers(void)
{
    if (!stdio.atexit_done) {
        stdio.atexit_done = true;
        atexit(chardev_stdio_restore);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(fatal_signals); i++) {
        catch_fatal(fatal_signals[i]);
    }
    catch_if_default(SIGTSTP, tstp_handler);
    catch_if_default(SIGCONT, cont_handler);
}

/* A non-blocking descriptor for what @fd is open on. */
static int open_again(int fd)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    struct stat st;
    int again;

    stdio.flags[fd] = fcntl(fd, F_GETFL);
    if (fstat(fd, &st) == 0 &&
        (S_ISFIFO(st.st_mode) || (S_ISCHR(st.st_mode) && isatty(fd)))) {
        again = open(path, (fd == 0 ? O_RDONLY : O_WRONLY) | O_NONBLOCK |
                               O_NOCTTY | O_CLOEXEC);
        if (again >= 0) {
            return again;
        }
    }
    if (!fd_is_socket(fd) && !(stdio.flags[fd] & O_NONBLOCK)) {
        stdio.restore_flags[fd] = true;
        fd_set_nonblocking(fd, true);
    }
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* The mode of the terminal while it is ours, as QEMU sets it. */
static void compute_mode(bool echo)
{
    struct termios t = stdio.found;

    if (!echo) {
        t.c_iflag &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR |
                       ICRNL | IXON);
        t.c_oflag |= OPOST;
        t.c_lflag &= ~(ECHO | ECHONL | ICANON | IEXTEN);
        t.c_cflag &= ~(CSIZE | PARENB);
        t.c_cflag |= CS8;
        t.c_cc[VMIN] = 1;
        t.c_cc[VTIME] = 0;
    }
    if (!stdio.allow_signal) {
        t.c_lflag &= ~ISIG;
    }
    stdio.ours = t;
}

static void set_mode(bool echo)
{
    sigset_t all, old;

    if (stdio.tty) {
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, &old);
        compute_mode(echo);
        sigprocmask(SIG_SETMASK, &old, NULL);
        take_terminal();
    }
}

static bool stdio_open(Chardev *chr, GError **errp)
{
    if (stdio.in_use) {
        error_set(errp, "cannot use stdio by multiple character devices");
        return false;
    }
    stdio.tty = tcgetattr(0, &stdio.found) == 0;
    stdio.allow_signal = chr->opts->signal;
    stdio.restore_flags[0] = stdio.restore_flags[1] = false;
    stdio.owner = chr;
    stdio.in_use = true;
    chr->first_fd = open_again(0);
    chr->first_out = open_again(1);
    install_handlers();
    set_mode(false);
    return true;
}

static gboolean start_cb(gpointer data)
{
    Chardev *chr = data;
    int in = chr->first_fd, out = chr->first_out;

    chr->timer = 0;
    chr->first_fd = chr->first_out = -1;
    chardev_add_client(chr, in, out, true, NULL);
    return G_SOURCE_REMOVE;
}

static void stdio_start(Chardev *chr)
{
    chr->timer = g_idle_add(start_cb, chr);
}

static void stdio_close(Chardev *chr)
{
    if (stdio.owner != chr) {
        return;
    }
    g_clear_handle_id(&chr->timer, g_source_remove);
    if (chr->first_fd >= 0) {
        close(chr->first_fd);
    }
    if (chr->first_out >= 0) {
        close(chr->first_out);
    }
    chardev_stdio_restore();
    stdio.in_use = false;
    stdio.owner = NULL;
}

const ChardevKind chardev_kind_stdio = {
    .open = stdio_open,
    .start = stdio_start,
    .close = stdio_close,
};

void chardev_set_echo(Chardev *chr, bool echo)
{
    if (chr->kind == &chardev_kind_stdio) {
        set_mode(echo);
    }
}

bool chardev_is_tty(const Chardev *chr)
{
    return (chr->kind == &chardev_kind_stdio && stdio.tty) ||
           (chr->opts && chr->opts->telnet) || chr->front;
}
