/*
 * Which clusters of a device have been seen.  A device may claim 2^32 of them,
 * so memory is taken only for what is there: leaves of 1,024 bits in a hash
 * table, a full one replaced by a mark.  An archive in order keeps one leaf at
 * a time; a hostile one cannot take more than the budget.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VMA_CLUSTERSET_H
#define VMA_CLUSTERSET_H

#include <glib.h>
#include <stdint.h>

typedef struct VmaClusterSet VmaClusterSet;

/* Of all leaves and table entries of one archive together, bytes: what the
 * clusters of 256 TiB of disks need at worst. */
#define VMA_CLUSTERSET_BUDGET ((size_t)1 << 30)

typedef enum {
    VMA_CLUSTER_ADDED,
    VMA_CLUSTER_DUPLICATE,
    VMA_CLUSTER_NO_MEMORY, /* the budget is spent */
} VmaClusterResult;

/* @budget is shared by several sets and outlives them. */
VmaClusterSet *vma_clusterset_new(size_t *budget);
void vma_clusterset_free(VmaClusterSet *set);
VmaClusterResult vma_clusterset_add(VmaClusterSet *set, uint32_t cluster);
/* How many were added. */
uint64_t vma_clusterset_count(const VmaClusterSet *set);
/* The first below @end that is missing, or @end. */
uint64_t vma_clusterset_first_missing(VmaClusterSet *set, uint64_t end);

#endif
