/*
 * Where the bytes of an archive go.
 *
 *     vma_target_open ──► write* ──► commit ──► free        all is well
 *                           │          │
 *                           └──────────┴──► free             nothing is left
 *
 * cancel may come from any thread at any time before free.  It makes what
 * blocks, and everything after it, fail with SIDECAR_ERROR_CANCELLED; it
 * removes nothing itself: free does.
 *
 * Invariant: after a failed write nothing can be committed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "target.h"

#include <errno.h>
#include <pthread.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include "util/error.h"

VmaTarget *vma_target_new(const VmaTargetOps *ops, const char *name)
{
    VmaTarget *t = g_new0(VmaTarget, 1);

    t->ops = ops;
    t->name = g_strdup(name);
    t->fd = t->dir_fd = t->pid_fd = t->path_fd = t->unblock_fd = -1;
    t->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&t->lock, NULL);
    return t;
}

VmaTarget *vma_target_open(const char *spec, GError **errp)
{
    struct stat st;

    if (g_str_has_prefix(spec, "exec:")) {
        return vma_target_open_exec(spec, spec + strlen("exec:"), errp);
    }
    if (strcmp(spec, "-") == 0) {
        int fd = dup(STDOUT_FILENO);

        if (fd < 0) {
            error_set_errno(errp, errno, "standard output");
            return NULL;
        }
        return vma_target_from_fd(fd, "standard output", errp);
    }
    if (stat(spec, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode))) {
        return vma_target_open_special(spec, S_ISFIFO(st.st_mode), errp);
    }
    return vma_target_open_file(spec, errp);
}

bool vma_target_is_cancelled(VmaTarget *t)
{
    return g_atomic_int_get(&t->cancelled);
}

bool vma_target_check(VmaTarget *t, GError **errp)
{
    if (!vma_target_is_cancelled(t)) {
        return true;
    }
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED, "%s: cancelled",
                t->name);
    return false;
}

bool vma_target_poll(VmaTarget *t, int fd, short events, int timeout_ms,
                     bool *ready, GError **errp)
{
    struct pollfd pfd[] = {
        { .fd = fd, .events = events },
        { .fd = t->cancel_fd, .events = POLLIN },
    };
    int n;

    do {
        n = poll(pfd, 2, timeout_ms);
    } while (n < 0 && errno == EINTR);
    *ready = n > 0 && pfd[0].revents;
    return vma_target_check(t, errp);
}

void vma_target_error(VmaTarget *t, int errnum, GError **errp)
{
    if (errnum == ECANCELED) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED,
                    "%s: cancelled", t->name);
    } else if (errnum == EPIPE) {
        error_set(errp, "%s: the reader is gone", t->name);
    } else {
        error_set_errno(errp, errnum, "%s: cannot write", t->name);
    }
}

bool vma_target_write(VmaTarget *t, const void *buf, size_t len, GError **errp)
{
    if (t->failed || t->committed) {
        error_set(errp, "%s: cannot write: an earlier write failed", t->name);
        return false;
    }
    if (!vma_target_check(t, errp) || !t->ops->write(t, buf, len, errp)) {
        t->failed = true;
        return false;
    }
    return true;
}

bool vma_target_commit(VmaTarget *t, GError **errp)
{
    if (t->failed || t->committed) {
        error_set(errp, "%s: an earlier write failed", t->name);
        return false;
    }
    if (!vma_target_check(t, errp) || !t->ops->commit(t, errp)) {
        t->failed = true;
        return false;
    }
    t->committed = true;
    return true;
}

void vma_target_no_sync(VmaTarget *t)
{
    t->no_sync = true;
}

void vma_target_cancel(VmaTarget *t)
{
    uint64_t one = 1;

    if (!g_atomic_int_compare_and_exchange(&t->cancelled, 0, 1)) {
        return;
    }
    /* Cannot fail: the counter is zero, and nobody reads it. */
    while (write(t->cancel_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    if (t->ops->cancel) {
        t->ops->cancel(t);
    }
}

void vma_target_free(VmaTarget *t)
{
    if (!t) {
        return;
    }
    t->ops->release(t);
    if (t->cancel_fd >= 0) {
        close(t->cancel_fd);
    }
    pthread_mutex_destroy(&t->lock);
    g_free(t->name);
    g_free(t);
}

const char *vma_target_name(const VmaTarget *t)
{
    return t->name;
}
