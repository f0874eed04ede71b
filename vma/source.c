/*
 * An archive as the vma command reads it: a file, or a pipe that is never
 * sought.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "util/error.h"

struct VmaSource {
    int fd;
    char *name;
    bool is_file; /* reads do not wait for anybody */
};

VmaSource *vma_source_open(const char *spec, GError **errp)
{
    VmaSource *s = g_new0(VmaSource, 1);
    struct stat st;

    if (strcmp(spec, "-") == 0) {
        s->name = g_strdup("standard input");
        s->fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    } else {
        /* Not blocking: a FIFO without a writer is waited for in poll. */
        s->name = g_strdup(spec);
        s->fd = open(spec, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    }
    if (s->fd < 0 || fstat(s->fd, &st) < 0) {
        error_set_errno(errp, errno, "%s: cannot open", s->name);
        vma_source_close(s);
        return NULL;
    }
    s->is_file = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode);
    if (s->is_file) {
        posix_fadvise(s->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    }
    return s;
}

void vma_source_close(VmaSource *s)
{
    if (s) {
        if (s->fd >= 0) {
            close(s->fd);
        }
        g_free(s->name);
        g_free(s);
    }
}

const char *vma_source_name(const VmaSource *s)
{
    return s->name;
}

static ssize_t read_some(VmaSource *s, void *buf, size_t len, GError **errp)
{
    for (;;) {
        ssize_t n;

        if (s->is_file ? !interrupt_check(errp)
                       : !interrupt_poll(s->fd, POLLIN, -1, errp)) {
            return -1;
        }
        n = read(s->fd, buf, len);
        if (n >= 0) {
            return n;
        }
        if (errno != EINTR && errno != EAGAIN) {
            error_set_errno(errp, errno, "%s: cannot read", s->name);
            return -1;
        }
    }
}

ssize_t vma_source_read(VmaSource *s, void *buf, size_t len, GError **errp)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = read_some(s, (char *)buf + done, len - done, errp);

        if (n < 0) {
            return -1;
        }
        if (n == 0) {
            break;
        }
        done += n;
    }
    return done;
}

VmaReader *vma_source_read_header(VmaSource *s, void *buf, size_t len,
                                  GError **errp)
{
    VmaReader *r = vma_reader_new(s->name);
    VmaEvent ev;

    for (;;) {
        ssize_t n;

        if (!vma_reader_next(r, &ev, errp)) {
            break;
        }
        if (ev.type == VMA_EVENT_HEADER) {
            return r;
        }
        /* Whatever a pipe has, so that its writer is not waited for. */
        n = read_some(s, buf, len, errp);
        if (n < 0) {
            break;
        }
        vma_reader_feed(r, buf, n);
    }
    vma_reader_free(r);
    return NULL;
}
