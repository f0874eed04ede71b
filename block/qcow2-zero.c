/*
 * Zeroes and discards: whole clusters become zero clusters (version 3), which
 * read as zeros whatever lies below; version 2 has none, so there a cluster can
 * only be given up where nothing lies below.
 *
 * Without MAY_UNMAP a zeroed cluster keeps its place in the file (preallocated);
 * otherwise, and for a discard, that is freed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <errno.h>

#define ZEROS_BYTES (64 * 1024)

typedef enum {
    KEEP,    /* zeros, clusters stay allocated */
    UNMAP,   /* zeros, clusters are freed */
    DISCARD, /* the same */
} ZeroMode;

/* What the entry becomes. */
static uint64_t zeroed(const BlockNode *bs, const Qcow2State *s, uint64_t entry,
                       ZeroMode mode, bool *keep)
{
    Qcow2ClusterType type = qcow2_entry_type(s, entry);
    bool own = (type == QCOW2_NORMAL || type == QCOW2_ZERO_ALLOC) &&
               (entry & QCOW2_OFLAG_COPIED);

    *keep = false;
    if (type == QCOW2_UNALLOCATED && !qcow2_has_backing(bs, s)) {
        return entry;
    }
    if (s->version < 3) {
        return 0;
    }
    if (mode == KEEP && own) {
        *keep = true;
        return entry | QCOW2_OFLAG_ZERO;
    }
    return QCOW2_OFLAG_ZERO;
}

/* alloc_lock and the map are held. */
static int zero_entries(BlockNode *bs, Qcow2Slice *slice, int64_t start,
                        int64_t end, ZeroMode mode)
{
    Qcow2State *s = bs->opaque;

    for (int64_t pos = start; pos < end; pos += s->cluster_size) {
        unsigned i = qcow2_slice_index(s, pos);
        uint64_t entry;
        bool keep;

        if (qcow2_slice_is_bad(slice, i)) {
            return -EIO;
        }
        entry = zeroed(bs, s, slice->entries[i], mode, &keep);
        if (entry != slice->entries[i]) {
            qcow2_set_entry(s, slice, i, entry, keep);
        }
    }
    return 0;
}

/* Clusters of one slice, claimed. */
static int zero_in_slice(BlockNode *bs, int64_t start, int64_t end,
                         ZeroMode mode)
{
    Qcow2State *s = bs->opaque;
    Qcow2Slice *slice;
    Qcow2Mapping m;
    int ret = qcow2_map_lookup(bs, start, end - start, false, &m);

    /* Often there is nothing to do, and no table is wanted for that. */
    if (ret < 0 || (m.bytes == end - start &&
                    ((m.type == QCOW2_UNALLOCATED && !qcow2_has_backing(bs, s)) ||
                     m.type == QCOW2_ZERO))) {
        return ret;
    }
    ret = qcow2_ensure_table(bs, start);
    ret = ret < 0 ? ret : qcow2_slice_pin(bs, start, &slice);
    if (ret == 0) {
        pthread_mutex_lock(&s->alloc_lock);
        qcow2_map_lock(s);
        ret = zero_entries(bs, slice, start, end, mode);
        qcow2_map_unlock(s);
        pthread_mutex_unlock(&s->alloc_lock);
        qcow2_slice_unpin(slice);
    }
    return ret;
}

static int zero_clusters(BlockNode *bs, int64_t start, int64_t end,
                         ZeroMode mode)
{
    Qcow2State *s = bs->opaque;
    int ret = 0;

    while (start < end && ret == 0) {
        int64_t stop = MIN((uint64_t)end, qcow2_slice_end(s, start));
        Qcow2Alloc a;

        if (atomic_load(&s->want_checkpoint)) {
            ret = qcow2_checkpoint(bs);
        }
        if (ret == 0) {
            qcow2_alloc_begin(s, &a, start, stop);
            ret = zero_in_slice(bs, start, stop, mode);
            qcow2_alloc_end(s, &a);
        }
        start = stop;
    }
    return ret;
}

/* A part of one cluster: written, unless it reads as zeros. */
static int zero_part(BlockNode *bs, int64_t offset, int64_t end)
{
    static const uint8_t zeros[ZEROS_BYTES] __attribute__((aligned(4096)));
    Qcow2Mapping m;
    int ret = offset < end ? qcow2_map_lookup(bs, offset, end - offset, false, &m)
                           : 0;

    if (ret < 0 || offset >= end || m.type == QCOW2_ZERO ||
        m.type == QCOW2_ZERO_ALLOC ||
        (m.type == QCOW2_UNALLOCATED && !bs->backing)) {
        return ret;
    }
    while (offset < end && ret == 0) {
        int64_t n = MIN(end - offset, ZEROS_BYTES);

        ret = qcow2_pwrite(bs, offset, n, zeros, 0);
        offset += n;
    }
    return ret;
}

int qcow2_pwrite_zeroes(BlockNode *bs, int64_t offset, int64_t bytes, int flags)
{
    Qcow2State *s = bs->opaque;
    int64_t end = offset + bytes, first, last;
    int ret;

    if (atomic_load(&s->broken)) {
        return -EIO;
    }
    if (s->version < 3 && qcow2_has_backing(bs, s)) {
        return -ENOTSUP;
    }
    first = MIN((int64_t)qcow2_cluster_end(s, offset), end);
    /* The image's end counts as a cluster's. */
    last = end == (int64_t)s->header.size ? (int64_t)qcow2_cluster_end(s, end)
                                          : (int64_t)qcow2_cluster_start(s, end);
    if (first == end && last > first && offset < first) {
        return zero_part(bs, offset, end); /* the last cluster, not from its start */
    }
    ret = zero_part(bs, offset, first);
    if (ret == 0 && last > first) {
        ret = zero_clusters(bs, first, last,
                            flags & BDRV_REQ_MAY_UNMAP ? UNMAP : KEEP);
    }
    return ret == 0 && last < end ? zero_part(bs, MAX(last, first), end) : ret;
}

int qcow2_pdiscard(BlockNode *bs, int64_t offset, int64_t bytes)
{
    Qcow2State *s = bs->opaque;
    int64_t end = offset + bytes, first, last;

    if (atomic_load(&s->broken)) {
        return -EIO;
    }
    if (s->version < 3 && qcow2_has_backing(bs, s)) {
        return -ENOTSUP;
    }
    first = qcow2_cluster_end(s, offset);
    last = end == (int64_t)s->header.size ? (int64_t)qcow2_cluster_end(s, end)
                                          : (int64_t)qcow2_cluster_start(s, end);
    return last > first ? zero_clusters(bs, first, last, DISCARD) : 0;
}
