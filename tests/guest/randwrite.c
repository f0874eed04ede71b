/*
 * randwrite THREADS DRIVE: 4 KiB writes at random places, for ever and unchecked:
 * the load of a benchmark.  One operation is one write.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"

#define BLOCK 4096
#define MAX_THREADS 64

struct randwrite {
    struct job *job;
    uint64_t blocks;
    int fd;
};

struct thread {
    const struct randwrite *r;
    uint64_t random;
    pthread_t id;
};

static void *thread_main(void *opaque)
{
    struct thread *t = opaque;
    struct job *job = t->r->job;
    char *buf = io_buffer(BLOCK);

    memset(buf, 0x5a, BLOCK);
    while (!job->stop && !job->errors) {
        t->random = mix64(t->random);
        if (pwrite(t->r->fd, buf, BLOCK,
                   (t->random >> 8) % t->r->blocks * BLOCK) != BLOCK) {
            job_error(job, "write: %s", strerror(errno));
        }
        __atomic_fetch_add(&job->done, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

int randwrite_main(struct job *job, int argc, char **argv)
{
    struct randwrite r = { .job = job };
    struct thread threads[MAX_THREADS];
    int n = argc == 3 ? atoi(argv[1]) : 0;
    uint64_t size;

    if (n < 1 || n > MAX_THREADS) {
        job_error(job, "usage: randwrite THREADS DRIVE");
        return 2;
    }
    r.fd = open_drive(job, argv[2], &size);
    if (r.fd < 0) {
        return 1;
    }
    r.blocks = size / BLOCK;
    for (int i = 0; i < n; i++) {
        threads[i] = (struct thread){ .r = &r, .random = i };
        if (pthread_create(&threads[i].id, NULL, thread_main, &threads[i])) {
            job_error(job, "no thread");
            return 1; /* and the process with its threads is gone */
        }
    }
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i].id, NULL);
    }
    return 0;
}
