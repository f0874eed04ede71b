/*
 * See clusterset.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "clusterset.h"

#include <string.h>

#define LEAF_BITS 1024
/* A leaf, and what the allocator and the table need beside it. */
#define LEAF_COST (sizeof(Leaf) + 48)

typedef struct {
    uint64_t bits[LEAF_BITS / 64];
    unsigned used;
} Leaf;

struct VmaClusterSet {
    GHashTable *leaves; /* number of the leaf → Leaf, or FULL */
    uint32_t last;      /* the leaf used last, so that runs need no look-up */
    Leaf *last_leaf;
    uint64_t count;
    size_t *budget;
};

static Leaf full_leaf;
#define FULL (&full_leaf)

static void free_leaf(void *leaf)
{
    if (leaf != FULL) {
        g_free(leaf);
    }
}

VmaClusterSet *vma_clusterset_new(size_t *budget)
{
    VmaClusterSet *set = g_new0(VmaClusterSet, 1);

    set->leaves = g_hash_table_new_full(NULL, NULL, NULL, free_leaf);
    set->budget = budget;
    return set;
}

void vma_clusterset_free(VmaClusterSet *set)
{
    if (set) {
        g_hash_table_destroy(set->leaves);
        g_free(set);
    }
}

static Leaf *get_leaf(VmaClusterSet *set, uint32_t number)
{
    Leaf *leaf;

    if (set->last_leaf && set->last == number) {
        return set->last_leaf;
    }
    leaf = g_hash_table_lookup(set->leaves, GUINT_TO_POINTER(number));
    if (!leaf && *set->budget >= LEAF_COST) {
        *set->budget -= LEAF_COST;
        leaf = g_new0(Leaf, 1);
        g_hash_table_insert(set->leaves, GUINT_TO_POINTER(number), leaf);
    }
    set->last = number;
    set->last_leaf = leaf;
    return leaf;
}

VmaClusterResult vma_clusterset_add(VmaClusterSet *set, uint32_t cluster)
{
    Leaf *leaf = get_leaf(set, cluster / LEAF_BITS);
    unsigned n = cluster % LEAF_BITS;
    uint64_t bit = 1ull << (n % 64);

    if (!leaf) {
        return VMA_CLUSTER_NO_MEMORY;
    }
    if (leaf == FULL || (leaf->bits[n / 64] & bit)) {
        return VMA_CLUSTER_DUPLICATE;
    }
    leaf->bits[n / 64] |= bit;
    set->count++;
    if (++leaf->used == LEAF_BITS) {
        g_hash_table_replace(set->leaves, GUINT_TO_POINTER(cluster / LEAF_BITS),
                             FULL);
        set->last_leaf = FULL;
        *set->budget += sizeof(Leaf);
    }
    return VMA_CLUSTER_ADDED;
}

uint64_t vma_clusterset_count(const VmaClusterSet *set)
{
    return set->count;
}

uint64_t vma_clusterset_first_missing(VmaClusterSet *set, uint64_t end)
{
    /* Stops at the first leaf that is not full, so it takes no longer than
     * the archive was long. */
    for (uint64_t n = 0; n * LEAF_BITS < end; n++) {
        const Leaf *leaf =
            g_hash_table_lookup(set->leaves, GUINT_TO_POINTER((guint)n));
        unsigned word = 0, bit;

        if (leaf == FULL) {
            continue;
        }
        while (leaf && word < LEAF_BITS / 64 && leaf->bits[word] == UINT64_MAX) {
            word++;
        }
        bit = leaf && word < LEAF_BITS / 64 ? __builtin_ctzll(~leaf->bits[word]) : 0;
        return MIN(n * LEAF_BITS + word * 64 + bit, end);
    }
    return end;
}
