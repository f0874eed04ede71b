/*
 * Inside vma/: what the kinds of archive targets share.  A kind is a file
 * (target-file.c, target-exec.c, target-stream.c) with one table of
 * operations.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VMA_TARGET_H
#define VMA_TARGET_H

#include <pthread.h>
#include <sys/types.h>
#include "vma/vma.h"

typedef struct {
    /* All of @buf, or an error. */
    bool (*write)(VmaTarget *t, const void *buf, size_t len, GError **errp);
    /* Make what was written durable and visible. */
    bool (*commit)(VmaTarget *t, GError **errp);
    /* Optional.  Any thread, once, at any time before release: wake what does
     * not listen to cancel_fd. */
    void (*cancel)(VmaTarget *t);
    /* Give back everything; if commit did not succeed, remove what exists. */
    void (*release)(VmaTarget *t);
} VmaTargetOps;

/* Set at open: ops, name, cancel_fd.  Any thread: cancelled.  The rest belongs
 * to the one thread that writes, unless said otherwise. */
struct VmaTarget {
    const VmaTargetOps *ops;
    char *name;     /* for messages */
    int cancel_fd;  /* eventfd, readable for ever once cancelled */
    int cancelled;  /* atomic */

    int fd;         /* what is written to; -1: not (or no longer) open */
    bool failed;    /* a write failed: there is nothing to commit */
    bool committed;
    bool no_sync;

    /* target-file.c */
    int dir_fd;
    char *base;     /* final name in dir_fd */
    char *temp;     /* name in dir_fd now; NULL: none (O_TMPFILE) */
    uint64_t written, flushing; /* bytes; writeback has been started up to */

    /* target-exec.c */
    pid_t pid;      /* 0: none, or already waited for */
    int pid_fd;

    /* target-stream.c */
    bool is_socket, is_regular;
    bool one_page;  /* fd may block: write what poll() promises, no more */
    int path_fd;    /* of a FIFO that is not open yet: O_PATH */
    pthread_mutex_t lock;    /* guards opening and unblock_fd */
    bool opening;
    int unblock_fd; /* read end that lets a blocked open() return */
};

VmaTarget *vma_target_new(const VmaTargetOps *ops, const char *name);
bool vma_target_is_cancelled(VmaTarget *t);
/* Sets the error if it was cancelled. */
bool vma_target_check(VmaTarget *t, GError **errp);
/* Wait until @fd has one of @events.  False: cancelled. */
bool vma_target_poll(VmaTarget *t, int fd, short events, int timeout_ms,
                     bool *ready, GError **errp);
/* The errno of a failed write; prefixed by the name. */
void vma_target_error(VmaTarget *t, int errnum, GError **errp);

/* One non-blocking attempt at fd: > 0 written, 0 would block, -errno.  Never
 * raises SIGPIPE. */
ssize_t vma_target_try_write(VmaTarget *t, const void *buf, size_t len);
/* All of it to fd, waiting where needed; 0 or -errno, -ECANCELED. */
int vma_target_write_stream(VmaTarget *t, const void *buf, size_t len);
/* Make writes to t->fd not block where that can be done without changing the
 * file description that others share. */
void vma_target_prepare_stream(VmaTarget *t, bool own_description);

VmaTarget *vma_target_open_file(const char *path, GError **errp);
VmaTarget *vma_target_open_exec(const char *spec, const char *command,
                                GError **errp);
/* @path is a FIFO or a character device. */
VmaTarget *vma_target_open_special(const char *path, bool fifo, GError **errp);

#endif
