/*
 * A speed limit in bytes a second.
 *
 * It only does sums: who wants to go asks how long to wait, and waits in a way
 * of its own that can be cancelled.  Work that may not wait counts as well, but
 * makes others wait for at most RATELIMIT_MAX_DEBT_NS: after a long burst of it
 * nobody is stopped for hours.  Time that was not used is good for a burst of
 * at most RATELIMIT_BURST_NS.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_UTIL_RATELIMIT_H
#define SIDECAR_UTIL_RATELIMIT_H

#include <pthread.h>
#include <stdint.h>

#define RATELIMIT_BURST_NS INT64_C(100000000)
#define RATELIMIT_MAX_DEBT_NS INT64_C(1000000000)

typedef struct RateLimit {
    pthread_mutex_t lock;
    int64_t speed;  /* bytes a second; 0: no limit */
    int64_t due_ns; /* when all that was accounted for is paid */
} RateLimit;

/* @speed < 0 is taken as 0: no limit. */
void ratelimit_init(RateLimit *rl, int64_t speed);
void ratelimit_destroy(RateLimit *rl);
void ratelimit_set_speed(RateLimit *rl, int64_t speed);

/* @bytes go at @now_ns (CLOCK_MONOTONIC, see ratelimit_now_ns), after
 * ratelimit_delay_ns had said 0.  Any thread. */
void ratelimit_account(RateLimit *rl, uint64_t bytes, int64_t now_ns);
/* The same for @bytes that did not ask.  Any thread. */
void ratelimit_account_forced(RateLimit *rl, uint64_t bytes, int64_t now_ns);
/* How long from @now_ns until the next may go; 0: now.  Any thread. */
int64_t ratelimit_delay_ns(RateLimit *rl, int64_t now_ns);

int64_t ratelimit_now_ns(void);

#endif
