/*
 * Signals that ask the vma command to stop.
 *
 * They are blocked in every thread but are waited for by one, which has no
 * signal handler's restrictions: it sets the flag, makes interrupt_fd readable
 * and cancels the archive that is being written.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmd.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "util/error.h"

/* Of the process, as the signals are. */
static struct {
    int fd;
    int signal; /* atomic; 0: none came */
    pthread_mutex_t lock;
    VmaTarget *target; /* under lock */
} interrupt = { .fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER };

static void *wait_for_signals(void *opaque)
{
    sigset_t *set = opaque;
    uint64_t one = 1;
    int sig;

    while (sigwait(set, &sig) != 0) {
    }
    g_atomic_int_set(&interrupt.signal, sig);
    if (write(interrupt.fd, &one, sizeof(one)) < 0) {
        _exit(128 + sig);
    }
    pthread_mutex_lock(&interrupt.lock);
    if (interrupt.target) {
        vma_target_cancel(interrupt.target);
    }
    pthread_mutex_unlock(&interrupt.lock);
    while (sigwait(set, &sig) != 0) {
    }
    _exit(128 + sig);
}

void interrupt_init(void)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
    static sigset_t set;
    struct sigaction sa;

    sigemptyset(&set);
    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++) {
        /* nohup and shells in the background ask for some to be ignored. */
        if (sigaction(signals[i], NULL, &sa) == 0 && sa.sa_handler != SIG_IGN) {
            sigaddset(&set, signals[i]);
        }
    }
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    interrupt.fd = eventfd(0, EFD_CLOEXEC);
    g_thread_unref(g_thread_new("signals", wait_for_signals, &set));
}

int interrupt_fd(void)
{
    return interrupt.fd;
}

bool interrupt_check(GError **errp)
{
    int sig = g_atomic_int_get(&interrupt.signal);

    if (!sig) {
        return true;
    }
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED,
                "interrupted: %s", g_strsignal(sig));
    return false;
}

void interrupt_set_target(VmaTarget *target)
{
    pthread_mutex_lock(&interrupt.lock);
    interrupt.target = target;
    if (target && g_atomic_int_get(&interrupt.signal)) {
        vma_target_cancel(target);
    }
    pthread_mutex_unlock(&interrupt.lock);
}

bool interrupt_poll(int fd, short events, int timeout_ms, GError **errp)
{
    struct pollfd pfd[] = {
        { .fd = interrupt.fd, .events = POLLIN },
        { .fd = fd, .events = events },
    };

    while (poll(pfd, fd < 0 ? 1 : 2, timeout_ms) < 0 && errno == EINTR) {
    }
    return interrupt_check(errp);
}
