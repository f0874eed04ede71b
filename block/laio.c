/*
 * libaio for one request at a time: aio=native in a worker thread.
 *
 * Each thread has a context of its own (made when first needed, gone with the
 * thread), so no two threads meet in the kernel's completion ring.  Contexts
 * are a limited resource of the host (fs.aio-max-nr); a thread that gets none
 * does its requests with pread and pwrite, which on an O_DIRECT file is the
 * same thing one system call cheaper.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "file.h"

#include <errno.h>
#include <libaio.h>
#include <string.h>

/* A thread's context is kept as the value of a pthread key, whose destructor
 * ends it; NO_CONTEXT once the kernel has refused one. */
static pthread_key_t context_key;
static pthread_once_t context_once = PTHREAD_ONCE_INIT;
static char no_context;
#define NO_CONTEXT ((void *)&no_context)

static void context_free(void *value)
{
    if (value != NO_CONTEXT) {
        io_destroy(value);
    }
}

static void context_key_make(void)
{
    if (pthread_key_create(&context_key, context_free)) {
        g_error("out of thread-specific keys");
    }
}

/* NULL: there is none to be had. */
static io_context_t thread_context(void)
{
    void *value;

    pthread_once(&context_once, context_key_make);
    value = pthread_getspecific(context_key);
    if (!value) {
        io_context_t made = NULL;

        value = io_setup(1, &made) == 0 ? (void *)made : NO_CONTEXT;
        pthread_setspecific(context_key, value);
    }
    return value == NO_CONTEXT ? NULL : value;
}

static ssize_t submit_and_wait(struct iocb *cb)
{
    io_context_t ctx = thread_context();
    struct io_event ev = { 0 };
    int ret;

    if (!ctx) {
        return -EAGAIN;
    }
    do {
        ret = io_submit(ctx, 1, &cb);
    } while (ret == -EINTR);
    if (ret != 1) {
        return ret < 0 ? ret : -EAGAIN;
    }
    /* Submitted: the buffer is the kernel's until the event is here. */
    do {
        ret = io_getevents(ctx, 1, 1, &ev, NULL);
    } while (ret == -EINTR || ret == 0);
    return ret < 0 ? -EIO : (ssize_t)ev.res;
}

ssize_t laio_pread(int fd, void *buf, size_t bytes, int64_t offset)
{
    struct iocb cb;

    io_prep_pread(&cb, fd, buf, bytes, offset);
    return submit_and_wait(&cb);
}

ssize_t laio_pwrite(int fd, const void *buf, size_t bytes, int64_t offset)
{
    struct iocb cb;

    io_prep_pwrite(&cb, fd, (void *)buf, bytes, offset);
    return submit_and_wait(&cb);
}
