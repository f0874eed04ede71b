/*
 * Tracked requests: who waits for whom.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <sched.h>
#include <stdlib.h>

#include "../../block/block-int.h"

/* One request with a thread of its own. */
typedef struct {
    RequestTracker *t;
    int64_t start, end;
    bool serialising;
    BdrvTrackedRequest req;
    _Atomic bool running;
    _Atomic bool may_end;
    GThread *thread;
} Actor;

static void *act(void *opaque)
{
    Actor *a = opaque;

    tracked_request_begin(a->t, &a->req, a->start, a->end, a->serialising);
    atomic_store(&a->running, true);
    while (!atomic_load(&a->may_end)) {
        sched_yield();
    }
    tracked_request_end(a->t, &a->req);
    return NULL;
}

static void actor_start(Actor *a, RequestTracker *t, int64_t start, int64_t end,
                        bool serialising)
{
    *a = (Actor){ .t = t, .start = start, .end = end,
                  .serialising = serialising };
    a->thread = g_thread_new("actor", act, a);
}

static void wait_until_running(Actor *a)
{
    while (!atomic_load(&a->running)) {
        sched_yield();
    }
}

static void actor_end(Actor *a)
{
    atomic_store(&a->may_end, true);
    g_thread_join(a->thread);
}

/* Until @n requests are on the ordered list, running or waiting. */
static void wait_until_ordered(RequestTracker *t, unsigned n)
{
    unsigned found;

    do {
        BdrvTrackedRequest *r;

        sched_yield();
        found = 0;
        pthread_mutex_lock(&t->lock);
        TAILQ_FOREACH (r, &t->ordered, in_order) {
            found++;
        }
        pthread_mutex_unlock(&t->lock);
    } while (found < n);
}

static RequestTracker *tracker_new(void)
{
    RequestTracker *t = block_alloc_aligned(BLOCK_CACHE_LINE, sizeof(*t));

    request_tracker_init(t);
    return t;
}

static void tracker_free(RequestTracker *t)
{
    g_assert_cmpint(t->n_serialising, ==, 0);
    g_assert_true(TAILQ_EMPTY(&t->ordered));
    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        g_assert_true(LIST_EMPTY(&t->shards[i].requests));
    }
    request_tracker_destroy(t);
    free(t);
}

static void test_ordinary(void)
{
    RequestTracker *t = tracker_new();
    BdrvTrackedRequest a, b;

    tracked_request_begin(t, &a, 0, 100, false);
    tracked_request_begin(t, &b, 50, 150, false);
    tracked_request_end(t, &a);
    tracked_request_end(t, &b);
    tracker_free(t);
}

/* A serialising one waits for what it overlaps, and holds back what comes. */
static void test_serialising(void)
{
    RequestTracker *t = tracker_new();
    Actor first, serialising, later;

    actor_start(&first, t, 0, 100, false);
    wait_until_running(&first);
    actor_start(&serialising, t, 50, 150, true);
    wait_until_ordered(t, 1);
    actor_start(&later, t, 120, 200, false);
    wait_until_ordered(t, 2);
    g_assert_false(atomic_load(&serialising.running));
    g_assert_false(atomic_load(&later.running));

    actor_end(&first);
    wait_until_running(&serialising);
    g_assert_false(atomic_load(&later.running));
    actor_end(&serialising);
    wait_until_running(&later);
    actor_end(&later);
    tracker_free(t);
}

/* What touches but does not overlap is not held up. */
static void test_neighbours(void)
{
    RequestTracker *t = tracker_new();
    BdrvTrackedRequest before, middle, after, serialising;

    tracked_request_begin(t, &before, 0, 100, false);
    tracked_request_begin(t, &serialising, 100, 200, true);
    tracked_request_begin(t, &after, 200, 300, false);
    tracked_request_begin(t, &middle, 300, 400, true);
    tracked_request_end(t, &serialising);
    tracked_request_end(t, &middle);
    tracked_request_end(t, &before);
    tracked_request_end(t, &after);
    tracker_free(t);
}

/* A request from the ordered list that outlives the serialising ones still
 * counts for the next of them. */
static void test_ordered_leftover(void)
{
    RequestTracker *t = tracker_new();
    BdrvTrackedRequest elsewhere;
    Actor leftover, serialising;

    tracked_request_begin(t, &elsewhere, 1000, 2000, true);
    actor_start(&leftover, t, 0, 100, false);
    wait_until_running(&leftover);
    tracked_request_end(t, &elsewhere);

    actor_start(&serialising, t, 0, 10, true);
    wait_until_ordered(t, 2);
    g_assert_false(atomic_load(&serialising.running));
    actor_end(&leftover);
    wait_until_running(&serialising);
    actor_end(&serialising);
    tracker_free(t);
}

#define CELLS 64
#define THREADS 4

typedef struct {
    RequestTracker *t;
    _Atomic int *inside; /* of each cell: requests, plus 1000 a serialising one */
    unsigned seed;
} Crowd;

static void crowd_request(Crowd *c, GRand *rand)
{
    int from = g_rand_int_range(rand, 0, CELLS);
    int to = g_rand_int_range(rand, from + 1, MIN(from + 8, CELLS) + 1);
    bool serialising = g_rand_int_range(rand, 0, 10) == 0;
    int weight = serialising ? 1000 : 1;
    BdrvTrackedRequest req;

    tracked_request_begin(c->t, &req, from, to, serialising);
    for (int i = from; i < to; i++) {
        int others = atomic_fetch_add(&c->inside[i], weight);

        g_assert_cmpint(others, <, serialising ? 1 : 1000);
    }
    sched_yield();
    for (int i = from; i < to; i++) {
        atomic_fetch_sub(&c->inside[i], weight);
    }
    tracked_request_end(c->t, &req);
}

static void *crowd(void *opaque)
{
    Crowd *c = opaque;
    GRand *rand = g_rand_new_with_seed(c->seed);

    for (int i = 0; i < 5000; i++) {
        crowd_request(c, rand);
    }
    g_rand_free(rand);
    return NULL;
}

/* Many threads at random: a serialising request is always alone. */
static void test_crowd(void)
{
    RequestTracker *t = tracker_new();
    _Atomic int inside[CELLS] = { 0 };
    GThread *threads[THREADS];
    Crowd c[THREADS];

    for (unsigned i = 0; i < THREADS; i++) {
        c[i] = (Crowd){ t, inside, g_test_rand_int() };
        threads[i] = g_thread_new("crowd", crowd, &c[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        g_thread_join(threads[i]);
    }
    tracker_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block-request/ordinary", test_ordinary);
    g_test_add_func("/block-request/serialising", test_serialising);
    g_test_add_func("/block-request/neighbours", test_neighbours);
    g_test_add_func("/block-request/ordered-leftover", test_ordered_leftover);
    g_test_add_func("/block-request/crowd", test_crowd);
    return g_test_run();
}
