/*
 * Writing.
 *
 * A cluster of our own (COPIED) is written in place: no lock is held meanwhile,
 * and nothing of the metadata changes. Anything else gets new clusters:
 *
 *     claim the range of guest clusters     (others who want it wait)
 *       ─► find free clusters               alloc_lock
 *       ─► write the data, and around it what the clusters had before
 *       ─► put them into the L2 slice       alloc_lock, the map
 *     release the range
 *
 * Readers see the old state until the slice has the new one; then the data is
 * there. The slice reaches the disk in a later checkpoint, behind the data. When
 * something fails the new clusters are given back and the old state stays.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Up to here clusters are put together in memory and written at once. */
#define BOUNCE_BYTES (256 * 1024)

/* ---- one at a time ------------------------------------------------------------- */

static bool is_claimed(const Qcow2State *s, uint64_t start, uint64_t end)
{
    const Qcow2Alloc *a;

    LIST_FOREACH(a, &s->allocs, next) {
        if (a->start < end && start < a->end) {
            return true;
        }
    }
    return false;
}

void qcow2_alloc_begin(Qcow2State *s, Qcow2Alloc *a, uint64_t start,
                       uint64_t end)
{
    a->start = start;
    a->end = end;
    pthread_mutex_lock(&s->alloc_lock);
    while (is_claimed(s, start, end)) {
        pthread_cond_wait(&s->alloc_done, &s->alloc_lock);
    }
    LIST_INSERT_HEAD(&s->allocs, a, next);
    pthread_mutex_unlock(&s->alloc_lock);
}

void qcow2_alloc_end(Qcow2State *s, Qcow2Alloc *a)
{
    pthread_mutex_lock(&s->alloc_lock);
    LIST_REMOVE(a, next);
    pthread_cond_broadcast(&s->alloc_done);
    pthread_mutex_unlock(&s->alloc_lock);
}

/* As qcow2_alloc_clusters, unlocked. */
static int alloc_clusters(BlockNode *bs, uint64_t want, uint64_t *offset,
                          uint64_t *got, bool *fresh)
{
    Qcow2State *s = bs->opaque;
    int ret;

    do {
        pthread_mutex_lock(&s->alloc_lock);
        ret = qcow2_alloc_clusters(bs, want, offset, got, fresh);
        pthread_mutex_unlock(&s->alloc_lock);
    } while (ret == -ENOBUFS && (ret = qcow2_reftable_grow(bs)) == 0);
    return ret;
}

static void give_back(BlockNode *bs, uint64_t offset, uint64_t bytes)
{
    Qcow2State *s = bs->opaque;

    pthread_mutex_lock(&s->alloc_lock);
    qcow2_free_clusters(bs, offset, bytes);
    pthread_mutex_unlock(&s->alloc_lock);
}

/* ---- L2 tables -------------------------------------------------------------------- */

/* What a new L2 table has in it before anybody knows of it. */
static int fill_table(BlockNode *bs, uint64_t at, uint64_t old, bool fresh)
{
    Qcow2State *s = bs->opaque;
    g_autofree uint8_t *buf = NULL;
    int ret = 0;

    if (!old && fresh) {
        return 0;
    }
    buf = g_try_malloc0(s->cluster_size);
    if (!buf) {
        return -ENOMEM;
    }
    if (old) {
        ret = qcow2_file_pread(bs, old, s->cluster_size, buf);
    }
    return ret < 0 ? ret : bdrv_pwrite(bs->file, at, s->cluster_size, buf, 0);
}

/* @old 0: it is empty; else it is a copy of one that snapshots have too. */
static int new_table(BlockNode *bs, uint64_t i, uint64_t old)
{
    Qcow2State *s = bs->opaque;
    uint64_t at, got;
    bool fresh;
    int ret = alloc_clusters(bs, 1, &at, &got, &fresh);

    if (ret < 0) {
        return ret;
    }
    ret = fill_table(bs, at, old, fresh);
    if (ret < 0) {
        give_back(bs, at, s->cluster_size);
        return ret;
    }
    qcow2_meta_add(s, at, s->cluster_size);
    pthread_mutex_lock(&s->alloc_lock);
    qcow2_map_lock(s);
    if ((s->l1[i] & QCOW2_OFFSET_MASK) == old &&
        !(s->l1[i] & QCOW2_OFLAG_COPIED)) {
        s->l1[i] = at | QCOW2_OFLAG_COPIED;
        g_hash_table_add(s->l1_dirty, GSIZE_TO_POINTER(i));
        atomic_store(&s->meta_dirty, true);
        if (old) {
            qcow2_free_later(s, old, s->cluster_size);
        }
    } else { /* another range of the same table was faster */
        qcow2_meta_remove(s, at, s->cluster_size);
        qcow2_free_clusters(bs, at, s->cluster_size);
    }
    qcow2_map_unlock(s);
    pthread_mutex_unlock(&s->alloc_lock);
    return 0;
}

int qcow2_ensure_table(BlockNode *bs, int64_t offset)
{
    Qcow2State *s = bs->opaque;
    Qcow2Shard *shard = &s->shards[block_thread_shard()];
    uint64_t i = (uint64_t)offset >> (s->cluster_bits + s->l2_bits), entry;

    pthread_mutex_lock(&shard->lock);
    entry = s->l1[i];
    pthread_mutex_unlock(&shard->lock);
    return entry & QCOW2_OFLAG_COPIED ? 0
                                      : new_table(bs, i, entry & QCOW2_OFFSET_MASK);
}

void qcow2_set_entry(Qcow2State *s, Qcow2Slice *slice, unsigned i,
                     uint64_t entry, bool keep)
{
    uint64_t old = slice->entries[i], offset = old & QCOW2_OFFSET_MASK;
    uint64_t bytes = s->cluster_size;

    slice->entries[i] = entry;
    qcow2_slice_mark_dirty(s, slice);
    if (keep) {
        return;
    }
    if (qcow2_entry_type(s, old) == QCOW2_COMPRESSED) {
        bytes = qcow2_compressed_range(s, old, &offset);
    }
    if (offset) {
        qcow2_free_later(s, offset, bytes);
    }
}

/* ---- new clusters -------------------------------------------------------------------- */

/* A write that goes to new clusters, or revives those of zero clusters. */
typedef struct {
    int64_t start, end;   /* whole clusters, of the guest */
    int64_t offset, stop; /* what the guest writes, within */
    const uint8_t *buf;
    uint64_t host;        /* of start */
    bool fresh;           /* what is there reads as zeros */
    bool revived;         /* the clusters were in the map already */
} NewClusters;

/* Does all of [from, to), within one cluster, read as zeros now? */
static int reads_as_zeros(BlockNode *bs, int64_t from, int64_t to, bool *zeros)
{
    Qcow2State *s = bs->opaque;
    Qcow2Mapping m;
    int ret = 0;

    *zeros = true;
    if (from < to && from < (int64_t)s->header.size) {
        ret = qcow2_map_lookup(bs, from, to - from, false, &m);
        *zeros = m.type == QCOW2_ZERO || m.type == QCOW2_ZERO_ALLOC ||
                 (m.type == QCOW2_UNALLOCATED &&
                  (!bs->backing || from >= bdrv_length(bs->backing)));
    }
    return ret;
}

/* What the guest has now; zeros behind the end of the image. */
static int read_guest(BlockNode *bs, int64_t from, int64_t to, uint8_t *buf)
{
    Qcow2State *s = bs->opaque;
    int64_t there = CLAMP((int64_t)s->header.size - from, 0, to - from);

    memset(buf + there, 0, to - from - there);
    return there ? qcow2_pread(bs, from, there, buf) : 0;
}

static uint8_t *alloc_bounce(BlockNode *bs, size_t bytes)
{
    void *p = NULL;

    return posix_memalign(&p, MAX(bs->memory_alignment, 4096), bytes) ? NULL : p;
}

/* [from, to) around the guest's data, in pieces. */
static int copy_part(BlockNode *bs, const NewClusters *w, int64_t from,
                     int64_t to, bool zeros)
{
    uint8_t *bounce;
    int ret = 0;

    if (from == to || (zeros && w->fresh)) {
        return 0;
    }
    if (zeros) {
        return bdrv_pwrite_zeroes(bs->file, w->host + (from - w->start),
                                  to - from, 0);
    }
    bounce = alloc_bounce(bs, MIN(to - from, BOUNCE_BYTES));
    if (!bounce) {
        return -ENOMEM;
    }
    while (from < to && ret == 0) {
        int64_t n = MIN(to - from, BOUNCE_BYTES);

        ret = read_guest(bs, from, from + n, bounce);
        ret = ret < 0 ? ret : bdrv_pwrite(bs->file, w->host + (from - w->start),
                                          n, bounce, 0);
        from += n;
    }
    free(bounce);
    return ret;
}

static int write_apart(BlockNode *bs, const NewClusters *w, bool head_zeros,
                       bool tail_zeros)
{
    int ret = copy_part(bs, w, w->start, w->offset, head_zeros);

    ret = ret < 0 ? ret : copy_part(bs, w, w->stop, w->end, tail_zeros);
    return ret < 0 ? ret : bdrv_pwrite(bs->file, w->host + (w->offset - w->start),
                                       w->stop - w->offset, w->buf, 0);
}

static int write_together(BlockNode *bs, const NewClusters *w)
{
    uint8_t *bounce = alloc_bounce(bs, w->end - w->start);
    int ret;

    if (!bounce) {
        return -ENOMEM;
    }
    ret = read_guest(bs, w->start, w->offset, bounce);
    ret = ret < 0 ? ret : read_guest(bs, w->stop, w->end,
                                     bounce + (w->stop - w->start));
    if (ret == 0) {
        memcpy(bounce + (w->offset - w->start), w->buf, w->stop - w->offset);
        ret = bdrv_pwrite(bs->file, w->host, w->end - w->start, bounce, 0);
    }
    free(bounce);
    return ret;
}

static int write_data(BlockNode *bs, const NewClusters *w)
{
    bool head, tail;
    int ret = reads_as_zeros(bs, w->start, w->offset, &head);

    ret = ret < 0 ? ret : reads_as_zeros(bs, w->stop, w->end, &tail);
    if (ret < 0) {
        return ret;
    }
    if ((w->fresh && head && tail) || w->end - w->start > BOUNCE_BYTES ||
        (w->start == w->offset && w->stop == w->end)) {
        return write_apart(bs, w, head, tail);
    }
    return write_together(bs, w);
}

/* alloc_lock and the map: taken here. */
static void link_clusters(Qcow2State *s, Qcow2Slice *slice, const NewClusters *w)
{
    pthread_mutex_lock(&s->alloc_lock);
    qcow2_map_lock(s);
    for (int64_t pos = w->start; pos < w->end; pos += s->cluster_size) {
        qcow2_set_entry(s, slice, qcow2_slice_index(s, pos),
                        (w->host + (pos - w->start)) | QCOW2_OFLAG_COPIED,
                        w->revived);
    }
    qcow2_map_unlock(s);
    pthread_mutex_unlock(&s->alloc_lock);
}

static bool in_place(const Qcow2Mapping *m)
{
    return m->type == QCOW2_NORMAL && m->copied;
}

/*
 * How far from w->start on new clusters are needed, at most to w->end; in
 * w->host those of zero clusters, if that is what there is. w->end == w->start:
 * none, the first can be written in place.
 */
static int find_run(BlockNode *bs, NewClusters *w)
{
    Qcow2State *s = bs->opaque;
    int64_t pos = w->start;
    Qcow2Mapping m;
    int ret;

    w->revived = false;
    while (pos < w->end) {
        ret = qcow2_map_lookup(bs, pos, w->end - pos, false, &m);
        if (ret < 0) {
            return ret;
        }
        if (m.type == QCOW2_ZERO_ALLOC && m.copied && pos == w->start) {
            w->revived = true;
            w->host = m.host;
            w->fresh = false;
            pos += m.bytes;
            break;
        }
        if (in_place(&m) || (m.type == QCOW2_ZERO_ALLOC && m.copied)) {
            break;
        }
        pos += m.bytes;
    }
    w->end = MIN((uint64_t)w->end, qcow2_cluster_end(s, pos));
    return 0;
}

static int write_run(BlockNode *bs, Qcow2Slice *slice, NewClusters *w)
{
    Qcow2State *s = bs->opaque;
    uint64_t got;
    int ret = 0;

    if (!w->revived) {
        ret = alloc_clusters(bs, (w->end - w->start) >> s->cluster_bits, &w->host,
                             &got, &w->fresh);
        if (ret < 0) {
            return ret;
        }
        w->end = w->start + (got << s->cluster_bits);
    }
    w->stop = MIN(w->stop, w->end);
    ret = write_data(bs, w);
    if (ret == 0) {
        link_clusters(s, slice, w);
    } else if (!w->revived) {
        give_back(bs, w->host, w->end - w->start);
    }
    return ret;
}

/* The beginning of the write that is in @w; how much in *done, which is 0 when
 * it can be done in place by now. */
static int write_new(BlockNode *bs, NewClusters *w, int64_t *done)
{
    Qcow2State *s = bs->opaque;
    Qcow2Slice *slice;
    Qcow2Alloc a;
    int ret;

    w->start = qcow2_cluster_start(s, w->offset);
    w->end = MIN(qcow2_cluster_end(s, w->stop), qcow2_slice_end(s, w->offset));
    qcow2_alloc_begin(s, &a, w->start, w->end);
    ret = qcow2_ensure_table(bs, w->offset);
    ret = ret < 0 ? ret : qcow2_slice_pin(bs, w->offset, &slice);
    if (ret == 0) {
        ret = find_run(bs, w);
        if (ret == 0 && w->end > w->start) {
            ret = write_run(bs, slice, w);
        } else {
            w->stop = w->offset;
        }
        qcow2_slice_unpin(slice);
    }
    qcow2_alloc_end(s, &a);
    *done = ret == 0 ? w->stop - w->offset : 0;
    return ret;
}

/* ---- the request ------------------------------------------------------------------------ */

static int write_in_place(BlockNode *bs, const Qcow2Mapping *m, const void *buf)
{
    Qcow2State *s = bs->opaque;
    int ret = 0;

    /* The last cluster of an image may have been cut off by who made it. */
    if (unlikely(m->host + m->bytes > (uint64_t)bdrv_length(bs->file))) {
        pthread_mutex_lock(&s->alloc_lock);
        ret = qcow2_file_extend(bs, m->host + m->bytes);
        pthread_mutex_unlock(&s->alloc_lock);
    }
    return ret < 0 ? ret : bdrv_pwrite(bs->file, m->host, m->bytes, buf, 0);
}

int qcow2_pwrite(BlockNode *bs, int64_t offset, int64_t bytes, const void *buf,
                 int flags)
{
    Qcow2State *s = bs->opaque;
    int64_t stop = offset + bytes;
    const uint8_t *p = buf;
    int ret = 0;

    if (unlikely(atomic_load_explicit(&s->broken, memory_order_relaxed))) {
        return -EIO;
    }
    if (unlikely(atomic_load_explicit(&s->want_checkpoint,
                                      memory_order_relaxed))) {
        ret = qcow2_checkpoint(bs);
    }
    while (offset < stop && ret == 0) {
        Qcow2Mapping m;
        int64_t done = 0;

        ret = qcow2_map_lookup(bs, offset, stop - offset, true, &m);
        if (ret == 0 && in_place(&m)) {
            done = m.bytes;
            ret = write_in_place(bs, &m, p);
            qcow2_io_end(s, &m);
        } else if (ret == 0) {
            NewClusters w = { .offset = offset, .stop = stop, .buf = p };

            qcow2_io_end(s, &m);
            ret = write_new(bs, &w, &done);
        }
        offset += done;
        p += done;
    }
    return ret;
}
