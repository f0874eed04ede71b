/*
 * Refcounts: how often each cluster of the file is referred to, and finding
 * those that nobody uses.
 *
 * The table of refcount blocks is in memory, the blocks are in a cache. A block
 * may be written to the disk at any time: counts only go up before something
 * refers to the cluster, and down after the disk knows that nothing does, so
 * that what is on disk is at worst too high (a leak).
 *
 * A new block lies in the first cluster that it counts. The table on disk learns
 * of it in the next checkpoint (reftable_dirty), after the block itself.
 *
 * Everything here runs under alloc_lock.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "util/error.h"

#define CACHE_BYTES (4 * 1024 * 1024)
#define CACHE_BLOCKS_MIN 4
#define GROW_MIN (1024 * 1024)
#define GROW_MAX (256 * 1024 * 1024)
#define REFTABLE_MASK UINT64_C(0xfffffffffffffe00)

/* ---- one refcount in a block ------------------------------------------------ */

/* Narrower than a byte: the first is in the lowest bits. */
uint64_t qcow2_refcount_get(const uint8_t *block, uint64_t i, unsigned order)
{
    uint64_t value = 0;
    unsigned bytes = 1u << order >> 3;

    if (order < 3) {
        unsigned bits = 1u << order, per_byte = 8 / bits;

        return block[i / per_byte] >> (i % per_byte * bits) & ((1u << bits) - 1);
    }
    for (unsigned k = 0; k < bytes; k++) {
        value = value << 8 | block[i * bytes + k];
    }
    return value;
}

void qcow2_refcount_put(uint8_t *block, uint64_t i, unsigned order,
                        uint64_t value)
{
    unsigned bytes = 1u << order >> 3;

    if (order < 3) {
        unsigned bits = 1u << order, per_byte = 8 / bits;
        unsigned shift = i % per_byte * bits;
        uint8_t *p = &block[i / per_byte];

        *p = (*p & ~(((1u << bits) - 1) << shift)) | value << shift;
        return;
    }
    for (unsigned k = bytes; k-- > 0; value >>= 8) {
        block[i * bytes + k] = value;
    }
}

/* ---- the cache of blocks ------------------------------------------------------ */

void qcow2_refblock_set_dirty(Qcow2RefBlock *block, size_t start, size_t end)
{
    if (block->dirty_start == block->dirty_end) {
        block->dirty_start = start;
        block->dirty_end = end;
    } else {
        block->dirty_start = MIN(block->dirty_start, start);
        block->dirty_end = MAX(block->dirty_end, end);
    }
}

static int write_block(BlockNode *bs, Qcow2RefBlock *block)
{
    Qcow2State *s = bs->opaque;
    size_t n = block->dirty_end - block->dirty_start;
    int ret = n == 0 ? 0
                     : bdrv_pwrite(bs->file,
                                   s->reftable[block->index] + block->dirty_start,
                                   n, block->data + block->dirty_start, 0);

    if (ret == 0) {
        block->dirty_start = block->dirty_end = 0;
    }
    return ret;
}

/* The one that was not used for the longest time; a dirty one is written. */
static int evict_block(BlockNode *bs)
{
    Qcow2State *s = bs->opaque;
    Qcow2RefBlock *block, *victim = NULL;
    GHashTableIter iter;
    int ret;

    g_hash_table_iter_init(&iter, s->refblocks);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&block)) {
        if (!block->writing && (!victim || block->used < victim->used)) {
            victim = block;
        }
    }
    if (!victim) {
        return 0; /* over budget until the checkpoint is done */
    }
    ret = write_block(bs, victim);
    if (ret == 0) {
        if (s->refblock_last == victim) {
            s->refblock_last = NULL;
        }
        g_hash_table_remove(s->refblocks, GSIZE_TO_POINTER(victim->index));
    }
    return ret;
}

/* Not filled, not in the cache. */
static Qcow2RefBlock *new_block(BlockNode *bs, uint64_t index)
{
    Qcow2State *s = bs->opaque;
    Qcow2RefBlock *block;

    if (g_hash_table_size(s->refblocks) >= s->refblocks_max &&
        evict_block(bs) < 0) {
        return NULL;
    }
    block = g_try_malloc0(sizeof(*block) + s->cluster_size);
    if (block) {
        block->index = index;
    }
    return block;
}

static void insert_block(Qcow2State *s, Qcow2RefBlock *block)
{
    block->used = ++s->refblock_clock;
    g_hash_table_insert(s->refblocks, GSIZE_TO_POINTER(block->index), block);
    s->refblock_last = block;
}

/* The table has it. */
static int get_block(BlockNode *bs, uint64_t index, Qcow2RefBlock **out)
{
    Qcow2State *s = bs->opaque;
    Qcow2RefBlock *block = s->refblock_last;
    int ret;

    if (!block || block->index != index) {
        block = g_hash_table_lookup(s->refblocks, GSIZE_TO_POINTER(index));
    }
    if (block) {
        block->used = ++s->refblock_clock;
        s->refblock_last = *out = block;
        return 0;
    }
    block = new_block(bs, index);
    if (!block) {
        return -EIO;
    }
    ret = qcow2_file_pread(bs, s->reftable[index], s->cluster_size, block->data);
    if (ret < 0) {
        g_free(block);
        return ret;
    }
    insert_block(s, block);
    *out = block;
    return 0;
}

/* ---- changing counts ------------------------------------------------------------- */

static void put_count(Qcow2State *s, Qcow2RefBlock *block, uint64_t i,
                      uint64_t value)
{
    uint64_t bit = i << s->refcount_order;

    qcow2_refcount_put(block->data, i, s->refcount_order, value);
    qcow2_refblock_set_dirty(block, bit / 8,
                             (bit + (1u << s->refcount_order) + 7) / 8);
    atomic_store(&s->meta_dirty, true);
}

int qcow2_refcount_of(BlockNode *bs, uint64_t offset, uint64_t *value)
{
    Qcow2State *s = bs->opaque;
    uint64_t cluster = offset >> s->cluster_bits;
    uint64_t index = cluster >> s->refblock_bits;
    Qcow2RefBlock *block;
    int ret;

    *value = 0;
    if (index >= s->reftable_size || !s->reftable[index]) {
        return 0;
    }
    ret = get_block(bs, index, &block);
    if (ret == 0) {
        *value = qcow2_refcount_get(block->data,
                                    cluster & ((UINT64_C(1) << s->refblock_bits) - 1),
                                    s->refcount_order);
    }
    return ret;
}

static int decrement(BlockNode *bs, uint64_t cluster)
{
    Qcow2State *s = bs->opaque;
    uint64_t mask = (UINT64_C(1) << s->refblock_bits) - 1, count;
    Qcow2RefBlock *block;
    int ret = qcow2_refcount_of(bs, cluster << s->cluster_bits, &count);

    if (ret < 0) {
        return ret;
    }
    if (count == 0) {
        return qcow2_corrupt(bs, "cluster %#" PRIx64 " was in use and has the "
                             "refcount 0", cluster << s->cluster_bits);
    }
    ret = get_block(bs, cluster >> s->refblock_bits, &block);
    if (ret == 0) {
        put_count(s, block, cluster & mask, count - 1);
        if (count == 1) {
            s->free_hint = MIN(s->free_hint, cluster);
        }
    }
    return ret;
}

/* An error means a leak, no more. */
void qcow2_free_clusters(BlockNode *bs, uint64_t offset, uint64_t bytes)
{
    Qcow2State *s = bs->opaque;
    uint64_t end = (offset + bytes + s->cluster_size - 1) >> s->cluster_bits;

    for (uint64_t c = offset >> s->cluster_bits; c < end; c++) {
        if (decrement(bs, c) < 0) {
            return;
        }
    }
}

void qcow2_free_later(Qcow2State *s, uint64_t offset, uint64_t bytes)
{
    Qcow2Range r = { offset, bytes };
    Qcow2Range *last = s->freed->len
                           ? &g_array_index(s->freed, Qcow2Range, s->freed->len - 1)
                           : NULL;

    if (last && last->offset + last->bytes == offset &&
        !((offset | last->offset | bytes) & (s->cluster_size - 1))) {
        last->bytes += bytes;
    } else {
        g_array_append_val(s->freed, r);
    }
    atomic_store(&s->meta_dirty, true);
}

/* ---- finding free clusters ---------------------------------------------------------- */

int qcow2_file_extend(BlockNode *bs, uint64_t end)
{
    Qcow2State *s = bs->opaque;
    uint64_t length = bdrv_length(bs->file);
    uint64_t step = CLAMP(length / 8, GROW_MIN, GROW_MAX);
    GError *err = NULL;

    if (end <= length) {
        return 0;
    }
    if (end > INT64_MAX - BDRV_REQUEST_MAX_BYTES - GROW_MAX) {
        return -EFBIG;
    }
    /* Some more, since others have to wait while it grows. */
    if (bdrv_truncate(bs->file, (end + step) & ~(uint64_t)(GROW_MIN - 1), NULL) ||
        bdrv_truncate(bs->file, end, &err)) {
        s->grown = true;
        return 0;
    }
    g_printerr("qemu-sidecar: %s\n", err->message);
    g_error_free(err);
    return -ENOSPC;
}

/* The block counts itself, as the first of its clusters. */
static int create_block(BlockNode *bs, uint64_t index)
{
    Qcow2State *s = bs->opaque;
    uint64_t offset = index << (s->refblock_bits + s->cluster_bits);
    Qcow2RefBlock *block;
    int ret;

    if (qcow2_meta_overlaps(s, offset, s->cluster_size)) {
        return qcow2_corrupt(bs, "metadata at %#" PRIx64 " has no refcount",
                             offset);
    }
    ret = qcow2_file_extend(bs, offset + s->cluster_size);
    if (ret < 0) {
        return ret;
    }
    block = new_block(bs, index);
    if (!block) {
        return -EIO;
    }
    s->reftable[index] = offset;
    g_hash_table_add(s->reftable_dirty, GSIZE_TO_POINTER(index));
    qcow2_meta_add(s, offset, s->cluster_size);
    insert_block(s, block);
    put_count(s, block, 0, 1);
    qcow2_refblock_set_dirty(block, 0, s->cluster_size);
    s->high_water = MAX(s->high_water, offset + s->cluster_size);
    return 0;
}

/* The first free cluster from the hint on, and how many there are. */
static int find_free(BlockNode *bs, uint64_t want, uint64_t *first,
                     uint64_t *got, Qcow2RefBlock **block)
{
    Qcow2State *s = bs->opaque;
    uint64_t per_block = UINT64_C(1) << s->refblock_bits, c = s->free_hint;

    for (;; c = (c | (per_block - 1)) + 1) {
        uint64_t index = c >> s->refblock_bits, i = c & (per_block - 1), n;
        int ret;

        if (index >= s->reftable_size) {
            s->free_hint = c;
            return -ENOBUFS;
        }
        ret = s->reftable[index] ? 0 : create_block(bs, index);
        ret = ret < 0 ? ret : get_block(bs, index, block);
        if (ret < 0) {
            return ret;
        }
        while (i < per_block &&
               qcow2_refcount_get((*block)->data, i, s->refcount_order)) {
            i++;
        }
        for (n = 0; n < want && i + n < per_block &&
                    !qcow2_refcount_get((*block)->data, i + n, s->refcount_order);) {
            n++;
        }
        if (n) {
            *first = index * per_block + i;
            *got = n;
            return 0;
        }
    }
}

int qcow2_alloc_clusters(BlockNode *bs, uint64_t want, uint64_t *offset,
                         uint64_t *got, bool *fresh)
{
    Qcow2State *s = bs->opaque;
    uint64_t first, bytes;
    Qcow2RefBlock *block;
    int ret = find_free(bs, want, &first, got, &block);

    if (ret < 0) {
        return ret;
    }
    *offset = first << s->cluster_bits;
    bytes = *got << s->cluster_bits;
    if (qcow2_meta_overlaps(s, *offset, bytes)) {
        return qcow2_corrupt(bs, "metadata at %#" PRIx64 " or behind has the "
                             "refcount 0", *offset);
    }
    if (*offset + bytes > QCOW2_OFFSET_MASK) {
        return -EFBIG;
    }
    ret = qcow2_file_extend(bs, *offset + bytes);
    if (ret < 0) {
        return ret;
    }
    for (uint64_t i = 0; i < *got; i++) {
        put_count(s, block, (first + i) & ((UINT64_C(1) << s->refblock_bits) - 1),
                  1);
    }
    *fresh = *offset >= s->high_water;
    s->high_water = MAX(s->high_water, *offset + bytes);
    s->free_hint = first + *got;
    return 0;
}

/* ---- a larger table ---------------------------------------------------------------------- */

typedef struct {
    uint64_t index;    /* of the first new block, and where all of it begins */
    uint64_t blocks;   /* new blocks */
    uint64_t clusters; /* of the new table */
} Growth;

static int plan_growth(const Qcow2State *s, Growth *g)
{
    uint64_t per_block = UINT64_C(1) << s->refblock_bits, entries, before;

    g->index = s->reftable_size;
    g->blocks = 1;
    do {
        before = g->blocks;
        entries = MAX(g->index + g->blocks, s->reftable_size * 3 / 2);
        g->clusters = (entries * 8 + s->cluster_size - 1) >> s->cluster_bits;
        g->blocks = (g->blocks + g->clusters + per_block - 1) / per_block;
        g->blocks = MAX(g->blocks, before);
    } while (g->blocks != before);
    return g->clusters << s->cluster_bits > QCOW2_MAX_REFTABLE_BYTES ? -EFBIG : 0;
}

static int write_new_blocks(BlockNode *bs, const Growth *g, uint64_t base,
                            uint64_t *table)
{
    Qcow2State *s = bs->opaque;
    uint64_t per_block = UINT64_C(1) << s->refblock_bits;
    uint64_t used = g->blocks + g->clusters;
    int ret = 0;

    for (uint64_t b = 0; b < g->blocks && ret == 0; b++) {
        g_autofree uint8_t *data = g_try_malloc0(s->cluster_size);

        if (!data) {
            return -ENOMEM;
        }
        for (uint64_t i = 0; i < per_block && b * per_block + i < used; i++) {
            qcow2_refcount_put(data, i, s->refcount_order, 1);
        }
        table[g->index + b] = base + (b << s->cluster_bits);
        ret = bdrv_pwrite(bs->file, table[g->index + b], s->cluster_size, data, 0);
    }
    return ret;
}

static int write_new_table(BlockNode *bs, uint64_t at, const uint64_t *table,
                           uint64_t bytes)
{
    g_autofree uint64_t *disk = g_try_malloc(bytes);

    if (!disk) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < bytes / 8; i++) {
        disk[i] = GUINT64_TO_BE(table[i]);
    }
    return bdrv_pwrite(bs->file, at, bytes, disk, 0);
}

/* The blocks that the table on disk does not know are in the new one: so they
 * must be there. */
static int write_all_blocks(BlockNode *bs)
{
    Qcow2State *s = bs->opaque;
    Qcow2RefBlock *block;
    GHashTableIter iter;
    int ret = 0;

    g_hash_table_iter_init(&iter, s->refblocks);
    while (ret == 0 && g_hash_table_iter_next(&iter, NULL, (void **)&block)) {
        ret = write_block(bs, block);
    }
    return ret;
}

static int switch_table(BlockNode *bs, uint64_t at, uint64_t clusters)
{
    Qcow2State *s = bs->opaque;
    uint8_t field[12];
    uint64_t offset = GUINT64_TO_BE(at);
    uint32_t n = GUINT32_TO_BE((uint32_t)clusters);
    int ret;

    memcpy(field, &offset, 8);
    memcpy(field + 8, &n, 4);
    ret = bdrv_flush(bs->file);
    ret = ret < 0 ? ret : qcow2_header_patch(bs, 48, field, sizeof(field));
    if (ret == 0) {
        s->header.reftable_offset = at;
        s->header.reftable_clusters = clusters;
    }
    return ret;
}

/* Both locks are held: no checkpoint writes to the old table. */
static int grow_locked(BlockNode *bs)
{
    Qcow2State *s = bs->opaque;
    uint64_t old_at = s->header.reftable_offset, at, base, bytes, used;
    uint64_t old_bytes = (uint64_t)s->header.reftable_clusters << s->cluster_bits;
    g_autofree uint64_t *table = NULL;
    Growth g;
    int ret = plan_growth(s, &g);

    if (ret < 0) {
        return ret;
    }
    base = g.index << (s->refblock_bits + s->cluster_bits);
    at = base + (g.blocks << s->cluster_bits);
    bytes = g.clusters << s->cluster_bits;
    used = (g.blocks << s->cluster_bits) + bytes;
    table = g_try_malloc0(bytes);
    if (!table) {
        return -ENOMEM;
    }
    if (qcow2_meta_overlaps(s, base, used)) {
        return qcow2_corrupt(bs, "metadata at %#" PRIx64 " or behind has no "
                             "refcount", base);
    }
    memcpy(table, s->reftable, s->reftable_size * 8);
    ret = qcow2_file_extend(bs, base + used);
    ret = ret < 0 ? ret : write_all_blocks(bs);
    ret = ret < 0 ? ret : write_new_blocks(bs, &g, base, table);
    ret = ret < 0 ? ret : write_new_table(bs, at, table, bytes);
    ret = ret < 0 ? ret : switch_table(bs, at, g.clusters);
    if (ret < 0) {
        return ret;
    }
    s->high_water = MAX(s->high_water, base + used);
    g_free(s->reftable);
    s->reftable = g_steal_pointer(&table);
    s->reftable_size = bytes / 8;
    g_hash_table_remove_all(s->reftable_dirty);
    qcow2_meta_add(s, base, used);
    qcow2_meta_remove(s, old_at, old_bytes);
    qcow2_free_clusters(bs, old_at, old_bytes);
    return 0;
}

int qcow2_reftable_grow(BlockNode *bs)
{
    Qcow2State *s = bs->opaque;
    int ret = 0;

    pthread_mutex_lock(&s->checkpoint_lock);
    pthread_mutex_lock(&s->alloc_lock);
    /* Somebody else may have done it. */
    if (s->free_hint >> s->refblock_bits >= s->reftable_size) {
        ret = grow_locked(bs);
    }
    pthread_mutex_unlock(&s->alloc_lock);
    pthread_mutex_unlock(&s->checkpoint_lock);
    return ret;
}

/* ---- counted anew --------------------------------------------------------------------------- */

int qcow2_refcounts_replace(BlockNode *bs, uint64_t first, uint64_t n,
                            const uint32_t *values)
{
    Qcow2State *s = bs->opaque;
    uint64_t mask = (UINT64_C(1) << s->refblock_bits) - 1;
    Qcow2RefBlock *block;
    int ret = 0;

    for (uint64_t c = first; c < first + n && ret == 0; c++) {
        uint64_t index = c >> s->refblock_bits;

        if (index >= s->reftable_size || !s->reftable[index]) {
            if (values[c - first]) {
                return -ENOENT; /* nothing counts it */
            }
            continue;
        }
        if (values[c - first] > s->refcount_max) {
            return -ERANGE;
        }
        ret = get_block(bs, index, &block);
        if (ret == 0 && qcow2_refcount_get(block->data, c & mask,
                                           s->refcount_order) != values[c - first]) {
            put_count(s, block, c & mask, values[c - first]);
        }
    }
    return ret;
}

/* ---- beginning and end ------------------------------------------------------------------------ */

bool qcow2_refcount_init(BlockNode *bs, GError **errp)
{
    Qcow2State *s = bs->opaque;
    uint64_t bytes = (uint64_t)s->header.reftable_clusters << s->cluster_bits;
    int ret;

    s->refblocks_max = MAX(CACHE_BYTES >> s->cluster_bits, CACHE_BLOCKS_MIN);
    s->refblocks = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    s->reftable_dirty = g_hash_table_new(NULL, NULL);
    s->freed = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    s->high_water = qcow2_cluster_end(s, bdrv_length(bs->file));
    s->reftable_size = bytes / 8;
    s->reftable = g_try_malloc(bytes);
    ret = s->reftable ? bdrv_pread(bs->file, s->header.reftable_offset, bytes,
                                   s->reftable)
                      : -ENOMEM;
    if (ret < 0) {
        error_set_errno(errp, -ret, "'%s': could not read the refcount table",
                        bs->filename);
        return false;
    }
    for (uint64_t i = 0; i < s->reftable_size; i++) {
        s->reftable[i] = GUINT64_FROM_BE(s->reftable[i]) & REFTABLE_MASK;
    }
    return true;
}

void qcow2_refcount_destroy(Qcow2State *s)
{
    g_clear_pointer(&s->refblocks, g_hash_table_unref);
    g_clear_pointer(&s->reftable_dirty, g_hash_table_unref);
    g_clear_pointer(&s->reftable, g_free);
    if (s->freed) {
        g_array_unref(s->freed);
        s->freed = NULL;
    }
}
