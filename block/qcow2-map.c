/*
 * Guest offset to host offset: the L1 table, which is in memory, and a cache
 * of pieces (slices) of the L2 tables.
 *
 * A slice is found by its place in the guest's address space (L1 index, piece
 * of the table), so that a lookup touches two small arrays and the entry:
 *
 *     l1[i] == 0 ─────────────► nothing is allocated in this table
 *     tables[i][piece] ─► slice ─► entries
 *                └─ NULL: read it (a `slice' that is not valid stands for it)
 *
 * The map's lock is one mutex for every few threads: a reader takes its own,
 * who changes the map takes them all. So readers do not meet each other, and
 * changes, which are rare, cost a little more.
 *
 * Invariants
 *  1. A slice leaves the cache only when it is valid, clean, unpinned and no
 *     checkpoint writes it: what is on disk is what it was then.
 *  2. An entry that can't be right (not aligned, outside of the file, on top of
 *     metadata) is never used: it is marked when the slice is read.
 *  3. Who does I/O to a cluster found in the map is counted in `active' until it
 *     is done; clusters that the map gave up are not used again before all who
 *     may have found them there are gone (qcow2_map_wait_io).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "util/error.h"

#define SLICE_BITS 9 /* 512 entries, 4 KiB */
#define CACHE_BYTES (32 * 1024 * 1024)

/* ---- locks -------------------------------------------------------------- */

void qcow2_map_lock(Qcow2State *s)
{
    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        pthread_mutex_lock(&s->shards[i].lock);
    }
}

void qcow2_map_unlock(Qcow2State *s)
{
    for (unsigned i = BLOCK_SHARDS; i-- > 0;) {
        pthread_mutex_unlock(&s->shards[i].lock);
    }
}

void qcow2_io_end(Qcow2State *s, Qcow2Mapping *m)
{
    Qcow2Shard *shard = &s->shards[m->shard];

    if (m->in_io) {
        pthread_mutex_lock(&shard->lock);
        if (--shard->active[m->phase] == 0 && m->phase != s->phase) {
            pthread_cond_broadcast(&shard->idle);
        }
        pthread_mutex_unlock(&shard->lock);
        m->in_io = false;
    }
}

/* One at a time (checkpoint_lock), so the phase that is waited for only empties. */
void qcow2_map_wait_io(Qcow2State *s)
{
    unsigned old;

    qcow2_map_lock(s);
    old = s->phase;
    s->phase = !old;
    qcow2_map_unlock(s);
    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        Qcow2Shard *shard = &s->shards[i];

        pthread_mutex_lock(&shard->lock);
        while (shard->active[old] > 0) {
            pthread_cond_wait(&shard->idle, &shard->lock);
        }
        pthread_mutex_unlock(&shard->lock);
    }
}

/* ---- places -------------------------------------------------------------- */

static uint64_t l1_index(const Qcow2State *s, uint64_t offset)
{
    return offset >> (s->cluster_bits + s->l2_bits);
}

static unsigned piece_of(const Qcow2State *s, uint64_t offset)
{
    uint64_t in_table = (offset >> s->cluster_bits) &
                        ((UINT64_C(1) << s->l2_bits) - 1);

    return in_table >> s->slice_bits;
}

unsigned qcow2_slice_index(const Qcow2State *s, int64_t offset)
{
    return ((uint64_t)offset >> s->cluster_bits) & ((1u << s->slice_bits) - 1);
}

uint64_t qcow2_slice_end(const Qcow2State *s, uint64_t offset)
{
    return ((offset >> (s->cluster_bits + s->slice_bits)) + 1)
           << (s->cluster_bits + s->slice_bits);
}

size_t qcow2_slice_bytes(const Qcow2State *s)
{
    return sizeof(uint64_t) << s->slice_bits;
}

uint64_t qcow2_slice_host(const Qcow2State *s, const Qcow2Slice *slice)
{
    uint64_t table = s->l1[slice->l1_index] & QCOW2_OFFSET_MASK;

    return table ? table + slice->piece * qcow2_slice_bytes(s) : 0;
}

bool qcow2_slice_is_bad(const Qcow2Slice *slice, unsigned i)
{
    return slice->bad && (slice->bad[i / 64] >> (i % 64) & 1);
}

void qcow2_slice_mark_dirty(Qcow2State *s, Qcow2Slice *slice)
{
    if (!slice->dirty) {
        slice->dirty = true;
        if (++s->n_dirty > s->dirty_max) {
            atomic_store(&s->want_checkpoint, true);
        }
    }
    atomic_store(&s->meta_dirty, true);
}

Qcow2ClusterType qcow2_entry_type(const Qcow2State *s, uint64_t entry)
{
    if (entry & QCOW2_OFLAG_COMPRESSED) {
        return QCOW2_COMPRESSED;
    }
    if ((entry & QCOW2_OFLAG_ZERO) && s->version >= 3) {
        return entry & QCOW2_OFFSET_MASK ? QCOW2_ZERO_ALLOC : QCOW2_ZERO;
    }
    return entry & QCOW2_OFFSET_MASK ? QCOW2_NORMAL : QCOW2_UNALLOCATED;
}

/* ---- checking what was read ---------------------------------------------- */

static bool entry_is_sane(BlockNode *bs, uint64_t entry)
{
    Qcow2State *s = bs->opaque;
    uint64_t length = qcow2_cluster_end(s, bdrv_length(bs->file)), offset;
    uint64_t bytes = s->cluster_size;

    switch (qcow2_entry_type(s, entry)) {
    case QCOW2_UNALLOCATED:
    case QCOW2_ZERO:
        return true;
    case QCOW2_COMPRESSED:
        qcow2_compressed_range(s, entry, &offset);
        bytes = 1;
        break;
    default:
        offset = entry & QCOW2_OFFSET_MASK;
        if (offset & (s->cluster_size - 1)) {
            return false;
        }
    }
    return offset >= s->cluster_size && offset < length &&
           bytes <= length - offset &&
           !qcow2_meta_overlaps(s, offset, bytes);
}

static void check_slice(BlockNode *bs, Qcow2Slice *slice)
{
    Qcow2State *s = bs->opaque;
    unsigned n = 1u << s->slice_bits;

    for (unsigned i = 0; i < n; i++) {
        if (likely(entry_is_sane(bs, slice->entries[i]))) {
            continue;
        }
        if (!slice->bad) {
            slice->bad = g_new0(uint64_t, (n + 63) / 64);
        }
        slice->bad[i / 64] |= UINT64_C(1) << (i % 64);
    }
}

/* ---- the cache ------------------------------------------------------------ */

static Qcow2Slice *find_slice(const Qcow2State *s, uint64_t i, unsigned piece)
{
    return s->tables[i] ? s->tables[i][piece] : NULL;
}

static void free_slice(Qcow2Slice *slice)
{
    g_free(slice->bad);
    g_free(slice);
}

static void remove_slice(Qcow2State *s, Qcow2Slice *slice)
{
    Qcow2Slice *last = g_ptr_array_index(s->slices, s->slices->len - 1);

    s->tables[slice->l1_index][slice->piece] = NULL;
    last->at = slice->at;
    g_ptr_array_remove_index_fast(s->slices, slice->at);
    free_slice(slice);
}

static bool may_evict(const Qcow2Slice *slice)
{
    return slice->valid && !slice->dirty && !slice->writing &&
           !atomic_load(&slice->pins);
}

/* Make room for one if the budget is used up and there is something to evict:
 * twice around at most. */
static void evict_slice(Qcow2State *s)
{
    for (unsigned n = 2 * s->slices->len;
         n > 0 && s->slices->len >= s->slices_max; n--) {
        Qcow2Slice *slice;

        s->hand = (s->hand + 1) % s->slices->len;
        slice = g_ptr_array_index(s->slices, s->hand);
        if (may_evict(slice) &&
            !atomic_exchange(&slice->referenced, false)) {
            remove_slice(s, slice);
        }
    }
}

/* A slice that is not valid yet, in its place.  The map is locked. */
static Qcow2Slice *insert_slice(Qcow2State *s, uint64_t i, unsigned piece)
{
    Qcow2Slice *slice = g_malloc0(sizeof(*slice) + qcow2_slice_bytes(s));

    evict_slice(s);
    if (!s->tables[i]) {
        s->tables[i] = g_new0(Qcow2Slice *, 1u << (s->l2_bits - s->slice_bits));
    }
    slice->l1_index = i;
    slice->piece = piece;
    slice->at = s->slices->len;
    g_ptr_array_add(s->slices, slice);
    s->tables[i][piece] = slice;
    return slice;
}

/* Outside of the map's lock; the slice is ours as long as it is not valid. */
static int read_slice(BlockNode *bs, Qcow2Slice *slice, uint64_t host)
{
    Qcow2State *s = bs->opaque;
    int ret = qcow2_file_pread(bs, host, qcow2_slice_bytes(s), slice->entries);

    if (ret == 0) {
        for (unsigned i = 0; i < 1u << s->slice_bits; i++) {
            slice->entries[i] = GUINT64_FROM_BE(slice->entries[i]);
        }
        check_slice(bs, slice);
    }
    return ret;
}

static void wake_waiters(Qcow2State *s)
{
    pthread_mutex_lock(&s->load_lock);
    pthread_cond_broadcast(&s->loaded);
    pthread_mutex_unlock(&s->load_lock);
}

/* Somebody else reads it. */
static void wait_for_slice(Qcow2State *s, uint64_t i, unsigned piece)
{
    Qcow2Shard *shard = &s->shards[block_thread_shard()];
    Qcow2Slice *slice;
    bool loading;

    pthread_mutex_lock(&s->load_lock);
    pthread_mutex_lock(&shard->lock);
    slice = find_slice(s, i, piece);
    loading = slice && !slice->valid;
    pthread_mutex_unlock(&shard->lock);
    if (loading) {
        pthread_cond_wait(&s->loaded, &s->load_lock);
    }
    pthread_mutex_unlock(&s->load_lock);
}

static int check_table_offset(BlockNode *bs, uint64_t i, uint64_t table)
{
    Qcow2State *s = bs->opaque;

    if (table & (s->cluster_size - 1) || table < s->cluster_size ||
        table >= (uint64_t)bdrv_length(bs->file)) {
        return qcow2_corrupt(bs, "L1 entry %" PRIu64 " points to %#" PRIx64, i,
                             table);
    }
    return 0;
}

/* Bring a slice into the cache.  0 also if there is nothing to bring in. */
static int load_slice(BlockNode *bs, uint64_t i, unsigned piece)
{
    Qcow2State *s = bs->opaque;
    Qcow2Slice *slice;
    uint64_t table, host;
    int ret;

    qcow2_map_lock(s);
    table = s->l1[i] & QCOW2_OFFSET_MASK;
    slice = find_slice(s, i, piece);
    if (table == 0 || slice) {
        qcow2_map_unlock(s);
        if (slice) {
            wait_for_slice(s, i, piece);
        }
        return 0;
    }
    slice = insert_slice(s, i, piece);
    host = qcow2_slice_host(s, slice);
    qcow2_map_unlock(s);

    ret = check_table_offset(bs, i, table);
    if (ret == 0) {
        ret = read_slice(bs, slice, host);
    }
    qcow2_map_lock(s);
    if (ret == 0) {
        slice->valid = true;
    } else {
        remove_slice(s, slice);
    }
    qcow2_map_unlock(s);
    wake_waiters(s);
    return ret;
}

int qcow2_slice_pin(BlockNode *bs, int64_t offset, Qcow2Slice **slice)
{
    Qcow2State *s = bs->opaque;
    uint64_t i = l1_index(s, offset);
    unsigned piece = piece_of(s, offset);
    Qcow2Shard *shard = &s->shards[block_thread_shard()];
    bool found;
    int ret;

    for (;;) {
        pthread_mutex_lock(&shard->lock);
        *slice = find_slice(s, i, piece);
        found = *slice && (*slice)->valid;
        if (found) {
            atomic_fetch_add(&(*slice)->pins, 1);
        }
        pthread_mutex_unlock(&shard->lock);
        if (found) {
            return 0;
        }
        ret = load_slice(bs, i, piece);
        if (ret < 0) {
            return ret;
        }
    }
}

void qcow2_slice_unpin(Qcow2Slice *slice)
{
    atomic_fetch_sub(&slice->pins, 1);
}

/* ---- looking up ------------------------------------------------------------ */

/* Does the cluster @n further on continue the run that @m begins? */
static bool continues(const Qcow2State *s, const Qcow2Mapping *m,
                      uint64_t entry, unsigned n)
{
    uint64_t step = (uint64_t)n << s->cluster_bits;

    if (qcow2_entry_type(s, entry) != m->type) {
        return false;
    }
    switch (m->type) {
    case QCOW2_NORMAL:
    case QCOW2_ZERO_ALLOC:
        return (m->entry & QCOW2_OFFSET_MASK) + step ==
                   (entry & QCOW2_OFFSET_MASK) &&
               m->copied == !!(entry & QCOW2_OFLAG_COPIED);
    case QCOW2_COMPRESSED:
        return false;
    default:
        return true;
    }
}

static int map_in_slice(Qcow2State *s, Qcow2Slice *slice, int64_t offset,
                        int64_t bytes, Qcow2Mapping *m)
{
    unsigned first = qcow2_slice_index(s, offset), i = first;
    uint64_t in_cluster = offset & (s->cluster_size - 1);
    int64_t run = s->cluster_size - in_cluster;

    if (!atomic_load_explicit(&slice->referenced, memory_order_relaxed)) {
        atomic_store_explicit(&slice->referenced, true, memory_order_relaxed);
    }
    if (unlikely(qcow2_slice_is_bad(slice, first))) {
        return -EUCLEAN;
    }
    m->entry = slice->entries[first];
    m->type = qcow2_entry_type(s, m->entry);
    m->copied = m->entry & QCOW2_OFLAG_COPIED;
    m->host = m->entry & QCOW2_OFFSET_MASK;
    if (m->type == QCOW2_NORMAL) {
        m->host += in_cluster;
    }
    while (run < bytes && ++i < 1u << s->slice_bits &&
           !qcow2_slice_is_bad(slice, i) &&
           continues(s, m, slice->entries[i], i - first)) {
        run += s->cluster_size;
    }
    m->bytes = MIN(run, bytes);
    return 0;
}

/* The L2 table does not exist: nothing up to its end is allocated. */
static void map_no_table(const Qcow2State *s, int64_t offset, int64_t bytes,
                         Qcow2Mapping *m)
{
    uint64_t span = UINT64_C(1) << (s->cluster_bits + s->l2_bits);
    uint64_t rest = span - (offset & (span - 1));

    m->type = QCOW2_UNALLOCATED;
    m->entry = m->host = 0;
    m->copied = false;
    m->bytes = MIN((uint64_t)bytes, rest);
}

/* -EAGAIN: the slice has to be loaded. */
static int try_lookup(Qcow2State *s, int64_t offset, int64_t bytes, bool io,
                      Qcow2Mapping *m)
{
    Qcow2Shard *shard = &s->shards[m->shard];
    uint64_t i = l1_index(s, offset);
    Qcow2Slice *slice;
    int ret = 0;

    pthread_mutex_lock(&shard->lock);
    slice = find_slice(s, i, piece_of(s, offset));
    if (likely(slice && slice->valid)) {
        ret = map_in_slice(s, slice, offset, bytes, m);
    } else if (s->l1[i] & QCOW2_OFFSET_MASK) {
        ret = -EAGAIN;
    } else {
        map_no_table(s, offset, bytes, m);
    }
    if (io && ret == 0 && m->host | (m->type == QCOW2_COMPRESSED)) {
        m->in_io = true;
        m->phase = s->phase;
        shard->active[m->phase]++;
    }
    pthread_mutex_unlock(&shard->lock);
    return ret;
}

int qcow2_map_lookup(BlockNode *bs, int64_t offset, int64_t bytes, bool io,
                     Qcow2Mapping *m)
{
    Qcow2State *s = bs->opaque;
    int ret;

    m->in_io = false;
    m->shard = block_thread_shard();
    while ((ret = try_lookup(s, offset, bytes, io, m)) == -EAGAIN) {
        ret = load_slice(bs, l1_index(s, offset), piece_of(s, offset));
        if (ret < 0) {
            return ret;
        }
    }
    if (unlikely(ret == -EUCLEAN)) {
        ret = qcow2_corrupt(bs, "the L2 entry of guest offset %#" PRIx64
                            " can't be right", (uint64_t)offset);
    }
    return ret;
}

/* ---- beginning and end ------------------------------------------------------ */

static bool read_l1(BlockNode *bs, GError **errp)
{
    Qcow2State *s = bs->opaque;
    uint64_t bytes = s->l1_size * 8;
    int ret;

    s->l1 = g_try_malloc0(MAX(bytes, 8));
    s->tables = g_try_malloc0(MAX(s->l1_size, 1) * sizeof(*s->tables));
    if (!s->l1 || !s->tables) {
        error_set(errp, "'%s': no memory for an L1 table of %" PRIu64 " entries",
                  bs->filename, s->l1_size);
        return false;
    }
    ret = bytes ? bdrv_pread(bs->file, s->header.l1_offset, bytes, s->l1) : 0;
    if (ret < 0) {
        error_set_errno(errp, -ret, "'%s': could not read the L1 table",
                        bs->filename);
        return false;
    }
    for (uint64_t i = 0; i < s->l1_size; i++) {
        s->l1[i] = GUINT64_FROM_BE(s->l1[i]);
        if (!(s->l1[i] & QCOW2_OFFSET_MASK)) {
            s->l1[i] = 0; /* flags of no table: there is none */
        }
    }
    return true;
}

bool qcow2_map_init(BlockNode *bs, GError **errp)
{
    Qcow2State *s = bs->opaque;

    s->l2_bits = s->cluster_bits - 3;
    s->slice_bits = MIN(s->l2_bits, SLICE_BITS);
    s->slices_max = CACHE_BYTES / qcow2_slice_bytes(s);
    s->dirty_max = s->slices_max / 4;
    s->l1_size = s->header.l1_size;
    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        pthread_mutex_init(&s->shards[i].lock, NULL);
        pthread_cond_init(&s->shards[i].idle, NULL);
    }
    pthread_mutex_init(&s->load_lock, NULL);
    pthread_cond_init(&s->loaded, NULL);
    s->slices = g_ptr_array_new();
    s->l1_dirty = g_hash_table_new(NULL, NULL);
    return read_l1(bs, errp);
}

void qcow2_map_destroy(Qcow2State *s)
{
    for (guint i = 0; i < s->slices->len; i++) {
        free_slice(g_ptr_array_index(s->slices, i));
    }
    for (uint64_t i = 0; s->tables && i < s->l1_size; i++) {
        g_free(s->tables[i]);
    }
    g_free(s->tables);
    g_free(s->l1);
    g_ptr_array_unref(s->slices);
    g_hash_table_unref(s->l1_dirty);
    pthread_mutex_destroy(&s->load_lock);
    pthread_cond_destroy(&s->loaded);
    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        pthread_mutex_destroy(&s->shards[i].lock);
        pthread_cond_destroy(&s->shards[i].idle);
    }
}
