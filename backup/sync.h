/*
 * Condition variables that are waited for by the clock that nobody sets.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BACKUP_SYNC_H
#define SIDECAR_BACKUP_SYNC_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

static inline void sync_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

/* @ns from now. */
static inline struct timespec sync_deadline(int64_t ns)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    ts.tv_sec += ns / 1000000000;
    ts.tv_nsec += ns % 1000000000;
    if (ts.tv_nsec >= 1000000000) {
        ts.tv_sec++;
        ts.tv_nsec -= 1000000000;
    }
    return ts;
}

#endif
