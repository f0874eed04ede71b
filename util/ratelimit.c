/*
 * Speed limits; see include/util/ratelimit.h.
 *
 * One number says all: due_ns, the time at which everything that was accounted
 * for would have gone at the permitted speed.  It is never more than a burst behind
 * now when something is added, so that old idleness is worth nothing; work that
 * did not ask pushes it no further than a debt ahead of now.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/ratelimit.h"

#include <glib.h>
#include <time.h>

#define NS_PER_S INT64_C(1000000000)
#define COST_MAX_NS (INT64_C(365) * 24 * 3600 * NS_PER_S) /* no overflow */

void ratelimit_init(RateLimit *rl, int64_t speed)
{
    pthread_mutex_init(&rl->lock, NULL);
    rl->speed = MAX(speed, 0);
    rl->due_ns = 0;
}

void ratelimit_destroy(RateLimit *rl)
{
    pthread_mutex_destroy(&rl->lock);
}

void ratelimit_set_speed(RateLimit *rl, int64_t speed)
{
    pthread_mutex_lock(&rl->lock);
    rl->speed = MAX(speed, 0);
    rl->due_ns = 0; /* debts at the old speed are forgiven */
    pthread_mutex_unlock(&rl->lock);
}

/* When @bytes more would be paid for; the caller holds the lock. */
static int64_t due_after(const RateLimit *rl, uint64_t bytes, int64_t now_ns)
{
    double ns = (double)bytes * NS_PER_S / rl->speed;

    return MAX(rl->due_ns, now_ns - RATELIMIT_BURST_NS) +
           (int64_t)MIN(ns, (double)COST_MAX_NS);
}

void ratelimit_account(RateLimit *rl, uint64_t bytes, int64_t now_ns)
{
    pthread_mutex_lock(&rl->lock);
    if (rl->speed) {
        rl->due_ns = due_after(rl, bytes, now_ns);
    }
    pthread_mutex_unlock(&rl->lock);
}

void ratelimit_account_forced(RateLimit *rl, uint64_t bytes, int64_t now_ns)
{
    pthread_mutex_lock(&rl->lock);
    if (rl->speed) {
        int64_t due = due_after(rl, bytes, now_ns);

        rl->due_ns = MAX(rl->due_ns, MIN(due, now_ns + RATELIMIT_MAX_DEBT_NS));
    }
    pthread_mutex_unlock(&rl->lock);
}

int64_t ratelimit_delay_ns(RateLimit *rl, int64_t now_ns)
{
    int64_t delay;

    pthread_mutex_lock(&rl->lock);
    delay = rl->speed ? rl->due_ns - now_ns : 0;
    pthread_mutex_unlock(&rl->lock);
    return MAX(delay, 0);
}

int64_t ratelimit_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}
