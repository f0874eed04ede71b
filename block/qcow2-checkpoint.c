/*
 * Metadata to the disk, in an order that survives a crash at any moment.
 *
 * What was changed in memory since the last checkpoint is copied at one instant
 * and written in steps; "|" is a flush of the file:
 *
 *     new refcount blocks | refcount table entries, other refcount blocks |
 *         L2 slices, L1 entries | then clusters that were given up are freed
 *
 * (Usually no new refcount block is among it: then that is one flush before the
 * L2 slices and one behind.  A new L2 table was filled, with zeros or what the
 * old one had, before anybody knew of it, so L1 needs no step of its own.)
 *
 * Invariants: at any moment, on disk,
 *  1. whatever is referred to has a refcount that is at least the number of
 *     references, and its contents (guest data, a table) were durable before;
 *  2. so a crash costs leaked clusters at most, and only writes that no flush
 *     had covered;
 *  3. a cluster that was given up is used again only when nothing durable refers
 *     to it any more, and nobody reads or writes it who found it in the map
 *     before.
 *
 * Guest requests go on meanwhile; what they change is part of the next
 * checkpoint. On failure everything is dirty again and nothing was freed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <errno.h>
#include <string.h>

/* A copy of something that has to be written. */
typedef struct {
    uint64_t offset;
    size_t bytes;
    uint8_t *data;
    void *owner;        /* Qcow2RefBlock, Qcow2Slice; or the index of an entry */
    size_t dirty_start; /* Qcow2RefBlock */
} Piece;

enum {
    NEW_BLOCKS,
    BLOCKS,
    TABLE,
    SLICES,
    L1,
    N_STEPS,
};

typedef struct {
    GArray *steps[N_STEPS]; /* of Piece */
    GArray *freed;          /* of Qcow2Range */
} Checkpoint;

static void add_piece(Checkpoint *cp, unsigned step, uint64_t offset,
                      const void *data, size_t bytes, void *owner,
                      size_t dirty_start)
{
    Piece p = { offset, bytes, g_memdup2(data, bytes), owner, dirty_start };

    g_array_append_val(cp->steps[step], p);
}

static void clear_piece(void *p)
{
    g_free(((Piece *)p)->data);
}

/* ---- the instant: alloc_lock and the map are held ----------------------------- */

static void take_refblocks(Qcow2State *s, Checkpoint *cp)
{
    Qcow2RefBlock *block;
    GHashTableIter iter;

    g_hash_table_iter_init(&iter, s->refblocks);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&block)) {
        size_t start = block->dirty_start, n = block->dirty_end - start;
        bool is_new = g_hash_table_contains(s->reftable_dirty,
                                            GSIZE_TO_POINTER(block->index));

        if (n) {
            add_piece(cp, is_new ? NEW_BLOCKS : BLOCKS,
                      s->reftable[block->index] + start, block->data + start, n,
                      block, start);
            block->writing = true;
            block->dirty_start = block->dirty_end = 0;
        }
    }
}

static void take_entries(GHashTable *dirty, const uint64_t *table, uint64_t at,
                         Checkpoint *cp, unsigned step)
{
    GHashTableIter iter;
    void *key;

    g_hash_table_iter_init(&iter, dirty);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        uint64_t i = GPOINTER_TO_SIZE(key), value = GUINT64_TO_BE(table[i]);

        add_piece(cp, step, at + i * 8, &value, 8, key, 0);
    }
    g_hash_table_remove_all(dirty);
}

static void take_slices(Qcow2State *s, Checkpoint *cp)
{
    size_t bytes = qcow2_slice_bytes(s);
    g_autofree uint64_t *disk = g_malloc(bytes);

    for (guint k = 0; s->n_dirty && k < s->slices->len; k++) {
        Qcow2Slice *slice = g_ptr_array_index(s->slices, k);

        if (!slice->dirty) {
            continue;
        }
        for (size_t i = 0; i < bytes / 8; i++) {
            disk[i] = GUINT64_TO_BE(slice->entries[i]);
        }
        add_piece(cp, SLICES, qcow2_slice_host(s, slice), disk, bytes, slice, 0);
        slice->writing = true;
        slice->dirty = false;
        s->n_dirty--;
    }
}

static void take_all(Qcow2State *s, Checkpoint *cp)
{
    pthread_mutex_lock(&s->alloc_lock);
    qcow2_map_lock(s);
    atomic_store(&s->meta_dirty, false);
    atomic_store(&s->want_checkpoint, false);
    take_refblocks(s, cp);
    take_entries(s->reftable_dirty, s->reftable, s->header.reftable_offset, cp,
                 TABLE);
    take_slices(s, cp);
    take_entries(s->l1_dirty, s->l1, s->header.l1_offset, cp, L1);
    cp->freed = s->freed;
    s->freed = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    qcow2_map_unlock(s);
    pthread_mutex_unlock(&s->alloc_lock);
}

/* ---- writing --------------------------------------------------------------------- */

static int write_step(BlockNode *bs, const Checkpoint *cp, unsigned step)
{
    const GArray *pieces = cp->steps[step];
    int ret = 0;

    for (guint i = 0; i < pieces->len && ret == 0; i++) {
        const Piece *p = &g_array_index(pieces, Piece, i);

        ret = bdrv_pwrite(bs->file, p->offset, p->bytes, p->data, 0);
    }
    return ret;
}

/* What was written before is durable when @step begins, or the one behind it. */
static int barrier(BlockNode *bs, const Checkpoint *cp, unsigned step)
{
    return cp->steps[step]->len || cp->steps[step + 1]->len ? bdrv_flush(bs->file)
                                                            : 0;
}

static int write_all(BlockNode *bs, const Checkpoint *cp)
{
    int ret = write_step(bs, cp, NEW_BLOCKS);

    ret = ret < 0 ? ret : cp->steps[TABLE]->len ? bdrv_flush(bs->file) : 0;
    ret = ret < 0 ? ret : write_step(bs, cp, TABLE);
    ret = ret < 0 ? ret : write_step(bs, cp, BLOCKS);
    ret = ret < 0 ? ret : barrier(bs, cp, SLICES);
    ret = ret < 0 ? ret : write_step(bs, cp, SLICES);
    ret = ret < 0 ? ret : write_step(bs, cp, L1);
    return ret < 0 ? ret : bdrv_flush(bs->file);
}

/* ---- the end ------------------------------------------------------------------------ */

static void done_refblocks(const GArray *pieces, bool ok)
{
    for (guint i = 0; i < pieces->len; i++) {
        const Piece *p = &g_array_index(pieces, Piece, i);
        Qcow2RefBlock *block = p->owner;

        block->writing = false;
        if (!ok) {
            qcow2_refblock_set_dirty(block, p->dirty_start,
                                     p->dirty_start + p->bytes);
        }
    }
}

static void done_entries(const GArray *pieces, GHashTable *dirty, bool ok)
{
    for (guint i = 0; !ok && i < pieces->len; i++) {
        g_hash_table_add(dirty, g_array_index(pieces, Piece, i).owner);
    }
}

static void done_slices(Qcow2State *s, const GArray *pieces, bool ok)
{
    for (guint i = 0; i < pieces->len; i++) {
        Qcow2Slice *slice = g_array_index(pieces, Piece, i).owner;

        slice->writing = false;
        if (!ok) {
            qcow2_slice_mark_dirty(s, slice);
        }
    }
}

static void done_all(Qcow2State *s, Checkpoint *cp, bool ok)
{
    pthread_mutex_lock(&s->alloc_lock);
    qcow2_map_lock(s);
    done_refblocks(cp->steps[NEW_BLOCKS], ok);
    done_refblocks(cp->steps[BLOCKS], ok);
    done_entries(cp->steps[TABLE], s->reftable_dirty, ok);
    done_slices(s, cp->steps[SLICES], ok);
    done_entries(cp->steps[L1], s->l1_dirty, ok);
    if (!ok) {
        g_array_append_vals(s->freed, cp->freed->data, cp->freed->len);
        atomic_store(&s->meta_dirty, true);
    }
    qcow2_map_unlock(s);
    pthread_mutex_unlock(&s->alloc_lock);
}

/* Whose refcount goes to zero now. */
static bool is_last_reference(BlockNode *bs, const Qcow2Range *r)
{
    Qcow2State *s = bs->opaque;
    uint64_t count;
    bool last = !((r->offset | r->bytes) & (s->cluster_size - 1));

    pthread_mutex_lock(&s->alloc_lock);
    for (uint64_t pos = 0; last && pos < r->bytes; pos += s->cluster_size) {
        last = qcow2_refcount_of(bs, r->offset + pos, &count) == 0 && count == 1;
    }
    pthread_mutex_unlock(&s->alloc_lock);
    return last;
}

/* Nothing durable refers to these any more. */
static void free_all(BlockNode *bs, const GArray *freed)
{
    Qcow2State *s = bs->opaque;

    if (freed->len == 0) {
        return;
    }
    qcow2_map_wait_io(s);
    for (guint i = 0; i < freed->len; i++) {
        const Qcow2Range *r = &g_array_index(freed, Qcow2Range, i);
        int64_t there = MIN(r->bytes, bdrv_length(bs->file) - r->offset);

        if ((bs->flags & BDRV_O_UNMAP) && is_last_reference(bs, r) && there > 0) {
            bdrv_pdiscard(bs->file, r->offset, there);
        }
        pthread_mutex_lock(&s->alloc_lock);
        qcow2_free_clusters(bs, r->offset, r->bytes);
        pthread_mutex_unlock(&s->alloc_lock);
    }
}

int qcow2_checkpoint(BlockNode *bs)
{
    Qcow2State *s = bs->opaque;
    Checkpoint cp = { 0 };
    int ret;

    if (atomic_load(&s->broken)) {
        return -EIO;
    }
    pthread_mutex_lock(&s->checkpoint_lock);
    for (unsigned i = 0; i < N_STEPS; i++) {
        cp.steps[i] = g_array_new(FALSE, FALSE, sizeof(Piece));
        g_array_set_clear_func(cp.steps[i], clear_piece);
    }
    take_all(s, &cp);
    ret = write_all(bs, &cp);
    done_all(s, &cp, ret == 0);
    if (ret == 0) {
        free_all(bs, cp.freed);
    }
    pthread_mutex_unlock(&s->checkpoint_lock);
    for (unsigned i = 0; i < N_STEPS; i++) {
        g_array_unref(cp.steps[i]);
    }
    g_array_unref(cp.freed);
    return ret;
}

int qcow2_flush(BlockNode *bs)
{
    Qcow2State *s = bs->opaque;

    return atomic_load(&s->meta_dirty) ? qcow2_checkpoint(bs)
                                       : bdrv_flush(bs->file);
}

int qcow2_settle(BlockNode *bs)
{
    Qcow2State *s = bs->opaque;
    int ret = atomic_load(&s->broken) ? -EIO : 0;

    while (atomic_load(&s->meta_dirty) && ret == 0) {
        ret = qcow2_checkpoint(bs);
    }
    return ret;
}
