/*
 * Tracked requests: the one place where overlapping requests wait for each
 * other.
 *
 * Ordinary requests do not order each other: a guest that has two writes to
 * one sector in flight gets either.  A serialising request (a read-modify-write
 * of a partial block, a truncate, a copy-on-read) must be alone on its range:
 * it waits for all that overlap it and holds back those that come later.
 *
 * Since serialising requests are rare, ordinary ones only put themselves on
 * one of several lists with a lock each (the thread's shard), so that threads
 * do not meet.  While a serialising request exists, those that come go to one
 * list in the order of their coming instead:
 *
 *     n_serialising == 0:  begin ──► shard list ──────────► runs
 *     else:                begin ──► ordered list ─ waits ─► runs
 *
 * Invariants
 *  1. A request on a shard list never waits.
 *  2. A request on the ordered list waits only for those that overlap it, are
 *     on a shard list or before it on the ordered list, and of which at least
 *     one of the two is serialising.  By 1 and the order no cycle can arise.
 *  3. A serialising request raises n_serialising before it looks at a shard
 *     under that shard's lock; an ordinary one looks at n_serialising under its
 *     shard's lock.  So either it is seen or it sees.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include <stdlib.h>
#include <string.h>

unsigned block_thread_shard(void)
{
    static _Atomic unsigned next;
    static _Thread_local unsigned mine; /* shard + 1 */

    if (unlikely(!mine)) {
        mine = atomic_fetch_add(&next, 1) % BLOCK_SHARDS + 1;
    }
    return mine - 1;
}

void *block_alloc_aligned(size_t align, size_t size)
{
    void *p = NULL;

    if (posix_memalign(&p, MAX(align, sizeof(void *)), size)) {
        g_error("out of memory: %zu bytes", size);
    }
    return memset(p, 0, size);
}

void request_tracker_init(RequestTracker *t)
{
    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        pthread_mutex_init(&t->shards[i].lock, NULL);
        LIST_INIT(&t->shards[i].requests);
    }
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, NULL);
    TAILQ_INIT(&t->ordered);
}

void request_tracker_destroy(RequestTracker *t)
{
    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        pthread_mutex_destroy(&t->shards[i].lock);
    }
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->changed);
}

static bool overlaps(const BdrvTrackedRequest *a, const BdrvTrackedRequest *b)
{
    return a->start < b->end && b->start < a->end;
}

static bool must_wait_for_earlier(RequestTracker *t,
                                  const BdrvTrackedRequest *req)
{
    const BdrvTrackedRequest *other;

    TAILQ_FOREACH (other, &t->ordered, in_order) {
        if (other == req) {
            return false;
        }
        if ((other->serialising || req->serialising) && overlaps(other, req)) {
            return true;
        }
    }
    return false;
}

static bool overlaps_in_shard(TrackerShard *s, const BdrvTrackedRequest *req)
{
    const BdrvTrackedRequest *other;
    bool found = false;

    pthread_mutex_lock(&s->lock);
    LIST_FOREACH (other, &s->requests, in_shard) {
        if (overlaps(other, req)) {
            found = true;
            break;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return found;
}

static void wait_in_order(RequestTracker *t, BdrvTrackedRequest *req)
{
    unsigned clear = 0; /* shards that hold nothing of ours, nor will again */

    while (must_wait_for_earlier(t, req)) {
        pthread_cond_wait(&t->changed, &t->lock);
    }
    while (req->serialising && clear < BLOCK_SHARDS) {
        if (overlaps_in_shard(&t->shards[clear], req)) {
            pthread_cond_wait(&t->changed, &t->lock);
        } else {
            clear++;
        }
    }
}

static void begin_ordered(RequestTracker *t, BdrvTrackedRequest *req)
{
    req->central = true;
    pthread_mutex_lock(&t->lock);
    if (req->serialising) {
        atomic_fetch_add(&t->n_serialising, 1);
    }
    TAILQ_INSERT_TAIL(&t->ordered, req, in_order);
    wait_in_order(t, req);
    pthread_mutex_unlock(&t->lock);
}

void tracked_request_begin(RequestTracker *t, BdrvTrackedRequest *req,
                           int64_t start, int64_t end, bool serialising)
{
    req->start = start;
    req->end = end;
    req->serialising = serialising;
    req->central = false;
    req->shard = block_thread_shard();

    if (likely(!serialising)) {
        TrackerShard *s = &t->shards[req->shard];

        pthread_mutex_lock(&s->lock);
        if (likely(!atomic_load(&t->n_serialising))) {
            LIST_INSERT_HEAD(&s->requests, req, in_shard);
            pthread_mutex_unlock(&s->lock);
            return;
        }
        pthread_mutex_unlock(&s->lock);
    }
    begin_ordered(t, req);
}

static void end_ordered(RequestTracker *t, BdrvTrackedRequest *req)
{
    pthread_mutex_lock(&t->lock);
    TAILQ_REMOVE(&t->ordered, req, in_order);
    if (req->serialising) {
        atomic_fetch_sub(&t->n_serialising, 1);
    }
    if (!TAILQ_EMPTY(&t->ordered)) {
        pthread_cond_broadcast(&t->changed);
    }
    pthread_mutex_unlock(&t->lock);
}

void tracked_request_end(RequestTracker *t, BdrvTrackedRequest *req)
{
    TrackerShard *s = &t->shards[req->shard];

    if (unlikely(req->central)) {
        end_ordered(t, req);
        return;
    }
    pthread_mutex_lock(&s->lock);
    LIST_REMOVE(req, in_shard);
    pthread_mutex_unlock(&s->lock);
    if (unlikely(atomic_load(&t->n_serialising))) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->changed);
        pthread_mutex_unlock(&t->lock);
    }
}
