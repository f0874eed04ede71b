/*
 * The set of clusters against a plain array of bools.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdbool.h>

#include "../../vma/clusterset.h"

#define N 5000

static uint64_t model_first_missing(const bool *model, uint64_t end)
{
    for (uint64_t i = 0; i < end; i++) {
        if (!model[i]) {
            return i;
        }
    }
    return end;
}

/* Every cluster once, in this order, with a second try now and then. */
static void check_order(const uint32_t *order)
{
    size_t budget = VMA_CLUSTERSET_BUDGET;
    VmaClusterSet *set = vma_clusterset_new(&budget);
    bool model[N] = { false };

    for (unsigned i = 0; i < N; i++) {
        uint32_t c = order[g_test_rand_int_range(0, i + 1)];

        g_assert_cmpint(vma_clusterset_add(set, order[i]), ==, VMA_CLUSTER_ADDED);
        model[order[i]] = true;
        if (model[c]) {
            g_assert_cmpint(vma_clusterset_add(set, c), ==, VMA_CLUSTER_DUPLICATE);
        }
        g_assert_cmpuint(vma_clusterset_count(set), ==, i + 1);
        if (i % 97 == 0 || i + 1 == N) {
            uint64_t end = g_test_rand_int_range(0, N + 1);

            g_assert_cmpuint(vma_clusterset_first_missing(set, end), ==,
                             model_first_missing(model, end));
            g_assert_cmpuint(vma_clusterset_first_missing(set, N), ==,
                             model_first_missing(model, N));
        }
    }
    for (unsigned i = 0; i < N; i++) {
        g_assert_cmpint(vma_clusterset_add(set, i), ==, VMA_CLUSTER_DUPLICATE);
    }
    g_assert_cmpuint(vma_clusterset_first_missing(set, N + 1), ==, N);
    g_assert_cmpuint(vma_clusterset_first_missing(set, 1ull << 32), ==, N);
    vma_clusterset_free(set);
}

static void test_orders(void)
{
    uint32_t order[N];

    for (unsigned i = 0; i < N; i++) {
        order[i] = i;
    }
    check_order(order);
    for (unsigned i = 0; i < N; i++) {
        order[i] = N - 1 - i;
    }
    check_order(order);
    for (unsigned i = N - 1; i > 0; i--) {
        unsigned j = g_test_rand_int_range(0, i + 1);
        uint32_t tmp = order[i];

        order[i] = order[j];
        order[j] = tmp;
    }
    check_order(order);
}

static void test_ends_of_the_range(void)
{
    size_t budget = VMA_CLUSTERSET_BUDGET;
    VmaClusterSet *set = vma_clusterset_new(&budget);

    g_assert_cmpuint(vma_clusterset_first_missing(set, 0), ==, 0);
    g_assert_cmpint(vma_clusterset_add(set, UINT32_MAX), ==, VMA_CLUSTER_ADDED);
    g_assert_cmpint(vma_clusterset_add(set, UINT32_MAX), ==, VMA_CLUSTER_DUPLICATE);
    g_assert_cmpint(vma_clusterset_add(set, 0), ==, VMA_CLUSTER_ADDED);
    g_assert_cmpuint(vma_clusterset_first_missing(set, 1ull << 32), ==, 1);
    vma_clusterset_free(set);
}

/* Scattered clusters stop at the budget; those in order never get there. */
static void test_budget(void)
{
    size_t budget = 100000;
    VmaClusterSet *set = vma_clusterset_new(&budget);
    unsigned n = 0;

    while (vma_clusterset_add(set, n * 5000) == VMA_CLUSTER_ADDED) {
        n++;
    }
    g_assert_cmpuint(n, >, 100);
    g_assert_cmpuint(n, <, 1000);
    g_assert_cmpint(vma_clusterset_add(set, n * 5000), ==, VMA_CLUSTER_NO_MEMORY);
    g_assert_cmpint(vma_clusterset_add(set, 1), ==, VMA_CLUSTER_ADDED);
    vma_clusterset_free(set);

    budget = 100000;
    set = vma_clusterset_new(&budget);
    for (unsigned i = 0; i < 2000000; i++) {
        g_assert_cmpint(vma_clusterset_add(set, i), ==, VMA_CLUSTER_ADDED);
    }
    g_assert_cmpuint(vma_clusterset_first_missing(set, 2000001), ==, 2000000);
    vma_clusterset_free(set);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vma-clusterset/orders", test_orders);
    g_test_add_func("/vma-clusterset/ends", test_ends_of_the_range);
    g_test_add_func("/vma-clusterset/budget", test_budget);
    return g_test_run();
}
