/*
 * Reading in bulk: several reads in flight from one thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include "util/error.h"

typedef struct {
    BlockNode *bs;
    int64_t offset, bytes;
    void *buf, *opaque;
} BulkRead;

/* A ring of reads in the order of their coming; one thread's. */
struct BdrvBulk {
    unsigned depth, first, n;
    BulkRead reads[];
};

BdrvBulk *bdrv_bulk_new(unsigned depth, GError **errp)
{
    BdrvBulk *q;

    if (depth < 1 || depth > 256) {
        error_set(errp, "%u reads in flight: must be 1 to 256", depth);
        return NULL;
    }
    q = g_malloc0(sizeof(*q) + depth * sizeof(BulkRead));
    q->depth = depth;
    return q;
}

void bdrv_bulk_free(BdrvBulk *q)
{
    g_free(q);
}

unsigned bdrv_bulk_in_flight(const BdrvBulk *q)
{
    return q->n;
}

void bdrv_bulk_read(BdrvBulk *q, BlockNode *bs, int64_t offset, int64_t bytes,
                    void *buf, void *opaque)
{
    g_return_if_fail(q->n < q->depth);
    q->reads[(q->first + q->n++) % q->depth] =
        (BulkRead){ bs, offset, bytes, buf, opaque };
}

int bdrv_bulk_wait(BdrvBulk *q, void **opaque)
{
    BulkRead r = q->reads[q->first];

    g_return_val_if_fail(q->n > 0, -1);
    q->first = (q->first + 1) % q->depth;
    q->n--;
    *opaque = r.opaque;
    return bdrv_pread(r.bs, r.offset, r.bytes, r.buf);
}
