/*
 * Where an image has its metadata, and what refers to what.
 *
 * An image that is opened for writing has all its metadata noted by cluster:
 * header, L1 and L2 tables, refcount table and blocks, snapshots, bitmaps. If two of
 * them overlap, or one lies outside of the file, writing would make it worse:
 * it is refused. Later no L2 entry that points to metadata is used, and no
 * cluster of it is taken for free, whatever the refcounts say.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "util/error.h"

#define SNAPSHOT_BYTES 40

uint64_t qcow2_file_clusters(BlockNode *bs)
{
    Qcow2State *s = bs->opaque;

    return qcow2_cluster_end(s, bdrv_length(bs->file)) >> s->cluster_bits;
}

/* ---- the set of clusters -------------------------------------------------------- */

static void *key_of(uint64_t cluster)
{
    return GSIZE_TO_POINTER(cluster);
}

void qcow2_meta_add(Qcow2State *s, uint64_t offset, uint64_t bytes)
{
    pthread_mutex_lock(&s->meta_lock);
    for (uint64_t pos = 0; pos < bytes; pos += s->cluster_size) {
        g_hash_table_add(s->meta, key_of((offset + pos) >> s->cluster_bits));
    }
    pthread_mutex_unlock(&s->meta_lock);
}

void qcow2_meta_remove(Qcow2State *s, uint64_t offset, uint64_t bytes)
{
    pthread_mutex_lock(&s->meta_lock);
    for (uint64_t pos = 0; pos < bytes; pos += s->cluster_size) {
        g_hash_table_remove(s->meta, key_of((offset + pos) >> s->cluster_bits));
    }
    pthread_mutex_unlock(&s->meta_lock);
}

bool qcow2_meta_overlaps(Qcow2State *s, uint64_t offset, uint64_t bytes)
{
    bool found = false;

    pthread_mutex_lock(&s->meta_lock);
    for (uint64_t pos = 0; s->meta && pos < bytes && !found;
         pos += s->cluster_size) {
        found = g_hash_table_contains(s->meta,
                                      key_of((offset + pos) >> s->cluster_bits));
    }
    pthread_mutex_unlock(&s->meta_lock);
    return found;
}

/* ---- what is where ------------------------------------------------------------------ */

/* A visit of every table. */
typedef struct {
    BlockNode *bs;
    uint32_t *counts;   /* by cluster, all but refcounts; or NULL: fill s->meta */
    uint64_t n_clusters;
} Walk;

static bool out_of_place(Walk *w, const char *what, uint64_t offset,
                         GError **errp)
{
    error_set(errp, "'%s': the qcow2 image is corrupt: %s at %#" PRIx64
              " overlaps something or lies outside of the file (see qemu-img "
              "check)", w->bs->filename, what, offset);
    return false;
}

/* A reference to [offset, offset + bytes). @shared: others may refer to it. */
static bool visit(Walk *w, const char *what, uint64_t offset, uint64_t bytes,
                  bool shared, GError **errp)
{
    Qcow2State *s = w->bs->opaque;
    uint64_t end = offset + bytes;

    if (end < offset || end > w->n_clusters << s->cluster_bits) {
        return out_of_place(w, what, offset, errp);
    }
    for (uint64_t c = offset >> s->cluster_bits; c << s->cluster_bits < end; c++) {
        if (w->counts) {
            w->counts[c]++;
        } else if (!g_hash_table_add(s->meta, key_of(c)) && !shared) {
            return out_of_place(w, what, c << s->cluster_bits, errp);
        }
    }
    return true;
}

static uint64_t *read_table(Walk *w, uint64_t offset, uint64_t entries,
                            GError **errp)
{
    uint64_t *table = g_try_malloc(MAX(entries * 8, 8));
    int ret = !table ? -ENOMEM
              : entries ? qcow2_file_pread(w->bs, offset, entries * 8, table) : 0;

    if (ret < 0) {
        error_set_errno(errp, -ret, "'%s': could not read a table at %#" PRIx64,
                        w->bs->filename, offset);
        g_free(table);
        return NULL;
    }
    for (uint64_t i = 0; i < entries; i++) {
        table[i] = GUINT64_FROM_BE(table[i]);
    }
    return table;
}

/* Only when references are counted: what an L2 table refers to. */
static bool walk_l2(Walk *w, uint64_t offset, GError **errp)
{
    Qcow2State *s = w->bs->opaque;
    uint64_t entries = UINT64_C(1) << s->l2_bits, at, bytes;
    g_autofree uint64_t *l2 = read_table(w, offset, entries, errp);

    for (uint64_t i = 0; l2 && i < entries; i++) {
        Qcow2ClusterType type = qcow2_entry_type(s, l2[i]);

        if (type == QCOW2_UNALLOCATED || type == QCOW2_ZERO) {
            continue;
        }
        at = l2[i] & QCOW2_OFFSET_MASK;
        bytes = s->cluster_size;
        if (type == QCOW2_COMPRESSED) {
            bytes = qcow2_compressed_range(s, l2[i], &at);
        } else if (at & (s->cluster_size - 1)) {
            return out_of_place(w, "a cluster", at, errp);
        }
        if (!visit(w, "a cluster", at, bytes, true, errp)) {
            return false;
        }
    }
    return l2;
}

static bool walk_l1(Walk *w, const uint64_t *l1, uint64_t size, bool shared,
                    GError **errp)
{
    Qcow2State *s = w->bs->opaque;

    for (uint64_t i = 0; i < size; i++) {
        uint64_t at = l1[i] & QCOW2_OFFSET_MASK;

        if (!at) {
            continue;
        }
        if (at & (s->cluster_size - 1)) {
            return out_of_place(w, "an L2 table", at, errp);
        }
        if (!visit(w, "an L2 table", at, s->cluster_size, shared, errp) ||
            (w->counts && !walk_l2(w, at, errp))) {
            return false;
        }
    }
    return true;
}

/* ---- snapshots -------------------------------------------------------------------------- */

static bool walk_snapshot_l1(Walk *w, uint64_t at, uint64_t size, GError **errp)
{
    Qcow2State *s = w->bs->opaque;
    g_autofree uint64_t *l1 = NULL;

    if (at & (s->cluster_size - 1) || size > QCOW2_MAX_L1_BYTES / 8) {
        return out_of_place(w, "a snapshot's L1 table", at, errp);
    }
    if (!visit(w, "a snapshot's L1 table", at, size * 8, false, errp)) {
        return false;
    }
    l1 = read_table(w, at, size, errp);
    return l1 && walk_l1(w, l1, size, true, errp);
}

static bool walk_snapshots(Walk *w, GError **errp)
{
    Qcow2State *s = w->bs->opaque;
    uint64_t pos = s->header.snapshots_offset, start = pos;

    for (uint32_t i = 0; i < s->header.nb_snapshots; i++) {
        uint8_t head[SNAPSHOT_BYTES];
        int ret = qcow2_file_pread(w->bs, pos, sizeof(head), head);

        if (ret < 0) {
            error_set_errno(errp, -ret, "'%s': could not read the snapshots",
                            w->bs->filename);
            return false;
        }
        if (!walk_snapshot_l1(w, qcow2_get_be(head, 8), qcow2_get_be(head + 8, 4),
                              errp)) {
            return false;
        }
        pos += SNAPSHOT_BYTES + qcow2_get_be(head + 36, 4) +
               qcow2_get_be(head + 12, 2) + qcow2_get_be(head + 14, 2);
        pos = (pos + 7) & ~UINT64_C(7);
    }
    return visit(w, "the snapshot table", start, pos - start, false, errp);
}

/* ---- all of it ----------------------------------------------------------------------------- */

static bool walk_refcounts(Walk *w, GError **errp)
{
    Qcow2State *s = w->bs->opaque;

    if (!visit(w, "the refcount table", s->header.reftable_offset,
               s->reftable_size * 8, false, errp)) {
        return false;
    }
    for (uint64_t i = 0; i < s->reftable_size; i++) {
        uint64_t at = s->reftable[i];

        if (at & (s->cluster_size - 1)) {
            return out_of_place(w, "a refcount block", at, errp);
        }
        if (at && !visit(w, "a refcount block", at, s->cluster_size, false, errp)) {
            return false;
        }
    }
    return true;
}

static bool visit_bitmap(void *opaque, const char *what, uint64_t offset,
                         uint64_t bytes, GError **errp)
{
    return visit(opaque, what, offset, bytes, false, errp);
}

static bool walk_all(Walk *w, GError **errp)
{
    Qcow2State *s = w->bs->opaque;

    return visit(w, "the header", 0, s->cluster_size, false, errp) &&
           visit(w, "the L1 table", s->header.l1_offset, s->l1_size * 8, false,
                 errp) &&
           (w->counts || walk_refcounts(w, errp)) &&
           walk_l1(w, s->l1, s->l1_size, false, errp) && walk_snapshots(w, errp) &&
           qcow2_bitmaps_visit(w->bs, visit_bitmap, w, errp);
}

bool qcow2_meta_init(BlockNode *bs, GError **errp)
{
    Qcow2State *s = bs->opaque;
    Walk w = { .bs = bs, .n_clusters = qcow2_file_clusters(bs) };

    s->meta = g_hash_table_new(NULL, NULL);
    return walk_all(&w, errp);
}

bool qcow2_count_references(BlockNode *bs, uint32_t *counts, uint64_t n,
                            GError **errp)
{
    Walk w = { .bs = bs, .counts = counts, .n_clusters = n };

    return walk_all(&w, errp);
}
