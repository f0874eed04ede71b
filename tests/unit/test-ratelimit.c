/*
 * Speed limits, with a clock of our own.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/ratelimit.h"

#include <glib.h>

#define MS INT64_C(1000000)
#define S (1000 * MS)
#define KIB INT64_C(1024)

/* Move as much as is allowed from @now to @end; the bytes moved. */
static int64_t run(RateLimit *rl, int64_t now, int64_t end, int64_t chunk)
{
    int64_t moved = 0;

    while (now < end) {
        int64_t delay = ratelimit_delay_ns(rl, now);

        if (delay) {
            now += delay;
            continue;
        }
        ratelimit_account(rl, chunk, now);
        moved += chunk;
        now += 1000; /* the work itself */
    }
    return moved;
}

static void test_no_limit(void)
{
    RateLimit rl;

    ratelimit_init(&rl, 0);
    ratelimit_account(&rl, UINT64_MAX, 5 * S);
    ratelimit_account_forced(&rl, UINT64_MAX, 5 * S);
    g_assert_cmpint(ratelimit_delay_ns(&rl, 5 * S), ==, 0);
    ratelimit_set_speed(&rl, -7);
    ratelimit_account(&rl, UINT64_MAX, 5 * S);
    g_assert_cmpint(ratelimit_delay_ns(&rl, 5 * S), ==, 0);
    ratelimit_destroy(&rl);
}

static void test_average_is_kept(void)
{
    static const int64_t speeds[] = { 1, 1000, 65536, 1000000, INT64_C(1) << 40 };

    for (size_t i = 0; i < G_N_ELEMENTS(speeds); i++) {
        int64_t seconds = speeds[i] < 65536 ? 1000000 : 10;
        int64_t chunk = MAX(64 * KIB, speeds[i] / 1000);
        RateLimit rl;
        double ratio;

        ratelimit_init(&rl, speeds[i]);
        ratio = (double)run(&rl, 100 * S, (100 + seconds) * S, chunk) /
                ((double)speeds[i] * seconds);
        g_assert_cmpfloat(ratio, >, 0.99);
        g_assert_cmpfloat(ratio, <, 1.2); /* burst and one chunk too many */
        ratelimit_destroy(&rl);
    }
}

static void test_idleness_is_not_saved_up(void)
{
    RateLimit rl;
    int64_t moved;

    ratelimit_init(&rl, 1000 * KIB);
    ratelimit_account(&rl, 64 * KIB, 1 * S);
    moved = run(&rl, 1000 * S, 1001 * S, 64 * KIB);
    g_assert_cmpint(moved, <=, 1200 * KIB);
    ratelimit_destroy(&rl);
}

static void test_forced_work_counts_but_not_for_ever(void)
{
    RateLimit rl;

    ratelimit_init(&rl, 1000 * KIB);
    ratelimit_account_forced(&rl, 600 * KIB, 10 * S);
    g_assert_cmpint(ratelimit_delay_ns(&rl, 10 * S), ==, 500 * MS);
    ratelimit_account_forced(&rl, INT64_C(1) << 40, 10 * S);
    g_assert_cmpint(ratelimit_delay_ns(&rl, 10 * S), ==, RATELIMIT_MAX_DEBT_NS);
    ratelimit_destroy(&rl);
}

/* A chunk that takes minutes at a low speed is waited for in full, and forced
 * work does not shorten that. */
static void test_slow_speeds_are_real(void)
{
    RateLimit rl;

    ratelimit_init(&rl, 1000);
    ratelimit_account(&rl, 64000, 10 * S);
    g_assert_cmpint(ratelimit_delay_ns(&rl, 10 * S), ==, 64 * S - 100 * MS);
    ratelimit_account_forced(&rl, 64000, 10 * S);
    g_assert_cmpint(ratelimit_delay_ns(&rl, 10 * S), ==, 64 * S - 100 * MS);
    ratelimit_set_speed(&rl, 1000000);
    g_assert_cmpint(ratelimit_delay_ns(&rl, 10 * S), ==, 0);
    ratelimit_destroy(&rl);
}

static void test_clock_goes_forward(void)
{
    int64_t a = ratelimit_now_ns();

    g_assert_cmpint(ratelimit_now_ns(), >=, a);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ratelimit/no-limit", test_no_limit);
    g_test_add_func("/ratelimit/average-is-kept", test_average_is_kept);
    g_test_add_func("/ratelimit/idleness-is-not-saved-up", test_idleness_is_not_saved_up);
    g_test_add_func("/ratelimit/forced-work-counts-but-not-for-ever", test_forced_work_counts_but_not_for_ever);
    g_test_add_func("/ratelimit/slow-speeds-are-real", test_slow_speeds_are_real);
    g_test_add_func("/ratelimit/clock-goes-forward", test_clock_goes_forward);
    return g_test_run();
}
