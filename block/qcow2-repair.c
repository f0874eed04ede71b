/*
 * An image whose dirty bit is set (lazy refcounts, and its user crashed) has
 * refcounts that are too low, or no blocks for them at all: they are counted from
 * the tables before the first write, as QEMU does.
 *
 * Where every refcount block that is needed is there, and no other, the counts
 * are put into them. Otherwise a new table and new blocks go behind the end of
 * the file, and the header changes over to them in one write; what the old ones
 * occupied is free then. At last the COPIED flags of the active L1 and L2 tables
 * become what the counts say.
 *
 * The dirty bit stays until all is done: after a crash it is done again.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "util/error.h"

typedef struct {
    BlockNode *bs;
    Qcow2State *s;
    uint64_t n;         /* clusters of the file */
    uint32_t *counts;   /* references to each */
    /* A new structure: in clusters, all behind @n. */
    uint64_t n_blocks, n_table;
    uint8_t *needed;    /* by index: clusters before @n want such a block */
} Repair;

static uint64_t div_up(uint64_t a, uint64_t b)
{
    return a / b + !!(a % b);
}

static uint64_t per_block(const Repair *r)
{
    return UINT64_C(1) << r->s->refblock_bits;
}

static bool count(Repair *r, GError **errp)
{
    memset(r->counts, 0, r->n * sizeof(*r->counts));
    return qcow2_count_references(r->bs, r->counts, r->n, errp);
}

/* ---- what is there ---------------------------------------------------------------- */

/* A reference to metadata of ours alone. */
static bool take(Repair *r, uint64_t offset, uint64_t bytes)
{
    Qcow2State *s = r->s;

    if (offset & (s->cluster_size - 1) || offset > r->n << s->cluster_bits ||
        bytes > (r->n << s->cluster_bits) - offset) {
        return false;
    }
    for (uint64_t c = offset >> s->cluster_bits;
         c << s->cluster_bits < offset + bytes; c++) {
        if (r->counts[c]++) {
            return false;
        }
    }
    return true;
}

/* Is the table, and are all blocks in places of their own?  They are counted. */
static bool take_refcounts(Repair *r)
{
    Qcow2State *s = r->s;

    if (!take(r, s->header.reftable_offset, s->reftable_size * 8)) {
        return false;
    }
    for (uint64_t i = 0; i < s->reftable_size; i++) {
        if (s->reftable[i] && !take(r, s->reftable[i], s->cluster_size)) {
            return false;
        }
    }
    return true;
}

/* Has each cluster that is in use a block that counts it? */
static bool all_blocks_there(const Repair *r)
{
    const Qcow2State *s = r->s;

    for (uint64_t c = 0; c < r->n; c++) {
        uint64_t i = c >> s->refblock_bits;

        if (r->counts[c] && (i >= s->reftable_size || !s->reftable[i])) {
            return false;
        }
    }
    return true;
}

/* ---- a new structure ---------------------------------------------------------------- */

static void find_needed(Repair *r)
{
    for (uint64_t c = 0; c < r->n; c++) {
        if (r->counts[c]) {
            r->needed[c >> r->s->refblock_bits] = 1;
        }
    }
}

static uint64_t total(const Repair *r)
{
    return r->n + r->n_blocks + r->n_table;
}

/* Also those of the new structure itself. */
static bool is_needed(const Repair *r, uint64_t index)
{
    return (index < div_up(r->n, per_block(r)) && r->needed[index]) ||
           (index >= r->n / per_block(r) && index * per_block(r) < total(r));
}

/* It covers itself: go on until that is so. */
static int plan(Repair *r)
{
    uint64_t before;

    r->n_table = 1;
    do {
        uint64_t indices = div_up(total(r), per_block(r)), blocks = 0;

        before = total(r);
        for (uint64_t i = 0; i < indices; i++) {
            blocks += is_needed(r, i);
        }
        r->n_blocks = MAX(r->n_blocks, blocks);
        r->n_table = div_up(indices * 8, r->s->cluster_size);
        if (r->n_table << r->s->cluster_bits > QCOW2_MAX_REFTABLE_BYTES) {
            return -EFBIG;
        }
    } while (total(r) != before);
    return 0;
}

static uint64_t count_of(const Repair *r, uint64_t cluster)
{
    return cluster < r->n ? r->counts[cluster] : cluster < total(r);
}

static int write_block(const Repair *r, uint64_t index, uint64_t at, uint8_t *buf)
{
    Qcow2State *s = r->s;

    memset(buf, 0, s->cluster_size);
    for (uint64_t i = 0; i < per_block(r); i++) {
        uint64_t value = count_of(r, index * per_block(r) + i);

        if (value > s->refcount_max) {
            return -ERANGE;
        }
        if (value) {
            qcow2_refcount_put(buf, i, s->refcount_order, value);
        }
    }
    return bdrv_pwrite(r->bs->file, at, s->cluster_size, buf, 0);
}

/* Blocks, then the table; durable. */
static int write_structure(const Repair *r, uint64_t *table_at)
{
    Qcow2State *s = r->s;
    uint64_t bytes = r->n_table << s->cluster_bits, at = r->n << s->cluster_bits;
    g_autofree uint64_t *table = g_try_malloc0(bytes);
    g_autofree uint8_t *buf = g_try_malloc(s->cluster_size);
    int ret = table && buf ? 0 : -ENOMEM;

    for (uint64_t i = 0; ret == 0 && i * per_block(r) < total(r); i++) {
        if (is_needed(r, i)) {
            table[i] = GUINT64_TO_BE(at);
            ret = write_block(r, i, at, buf);
            at += s->cluster_size;
        }
    }
    *table_at = (r->n + r->n_blocks) << s->cluster_bits;
    ret = ret < 0 ? ret : bdrv_pwrite(r->bs->file, *table_at, bytes, table, 0);
    return ret < 0 ? ret : bdrv_flush(r->bs->file);
}

static int switch_structure(Repair *r, uint64_t table_at)
{
    Qcow2State *s = r->s;
    uint64_t offset = GUINT64_TO_BE(table_at);
    uint32_t clusters = GUINT32_TO_BE((uint32_t)r->n_table);
    uint8_t field[12];
    int ret;

    memcpy(field, &offset, 8);
    memcpy(field + 8, &clusters, 4);
    ret = qcow2_header_patch(r->bs, 48, field, sizeof(field));
    if (ret == 0) {
        s->header.reftable_offset = table_at;
        s->header.reftable_clusters = r->n_table;
        qcow2_refcount_destroy(s);
    }
    return ret;
}

static bool build_anew(Repair *r, GError **errp)
{
    uint64_t table_at;
    int ret;

    /* The old structure goes. */
    if (!count(r, errp)) {
        return false;
    }
    r->needed = g_try_malloc0(div_up(r->n, per_block(r)) + 1);
    ret = r->needed ? 0 : -ENOMEM;
    if (ret == 0) {
        find_needed(r);
        ret = plan(r);
    }
    if (ret == 0 && !bdrv_truncate(r->bs->file, total(r) << r->s->cluster_bits, errp)) {
        return false;
    }
    ret = ret < 0 ? ret : write_structure(r, &table_at);
    ret = ret < 0 ? ret : switch_structure(r, table_at);
    if (ret < 0) {
        error_set_errno(errp, -ret, "'%s': could not write new refcounts",
                        r->bs->filename);
        return false;
    }
    return qcow2_refcount_init(r->bs, errp);
}

/* Behind the end of the file nothing is in use, whatever the blocks say. */
static int clear_behind(Repair *r)
{
    static const uint32_t zeros[256];
    Qcow2State *s = r->s;
    uint64_t cluster = r->n;
    int ret = 0;

    while (ret == 0 && cluster >> s->refblock_bits < s->reftable_size) {
        uint64_t end = ((cluster >> s->refblock_bits) + 1) << s->refblock_bits;
        uint64_t n = MIN(end - cluster, G_N_ELEMENTS(zeros));

        if (s->reftable[cluster >> s->refblock_bits]) {
            ret = qcow2_refcounts_replace(r->bs, cluster, n, zeros);
            cluster += n;
        } else {
            cluster = end;
        }
    }
    return ret;
}

static bool put_in_place(Repair *r, GError **errp)
{
    int ret;

    pthread_mutex_lock(&r->s->alloc_lock);
    ret = qcow2_refcounts_replace(r->bs, 0, r->n, r->counts);
    ret = ret < 0 ? ret : clear_behind(r);
    pthread_mutex_unlock(&r->s->alloc_lock);
    ret = ret < 0 ? ret : qcow2_settle(r->bs);
    if (ret < 0) {
        error_set_errno(errp, -ret, "'%s': the refcounts could not be corrected",
                        r->bs->filename);
    }
    return ret == 0;
}

/* ---- COPIED -------------------------------------------------------------------------- */

/* What @entry, which refers to clusters, must be; @l2: it is of an L2 table. */
static uint64_t corrected(const Repair *r, uint64_t entry, bool l2)
{
    uint64_t at = entry & QCOW2_OFFSET_MASK;
    bool copied;

    if (l2 && qcow2_entry_type(r->s, entry) == QCOW2_COMPRESSED) {
        copied = false;
    } else {
        copied = at && r->counts[at >> r->s->cluster_bits] == 1;
    }
    return (entry & ~QCOW2_OFLAG_COPIED) | (copied ? QCOW2_OFLAG_COPIED : 0);
}

static int correct_l2(const Repair *r, uint64_t at, uint64_t *table)
{
    size_t bytes = r->s->cluster_size;
    bool changed = false;
    int ret = qcow2_file_pread(r->bs, at, bytes, table);

    for (size_t i = 0; ret == 0 && i < bytes / 8; i++) {
        uint64_t entry = GUINT64_FROM_BE(table[i]), now = corrected(r, entry, true);

        changed |= now != entry;
        table[i] = GUINT64_TO_BE(now);
    }
    return ret == 0 && changed ? bdrv_pwrite(r->bs->file, at, bytes, table, 0) : ret;
}

static int correct_copied(const Repair *r)
{
    Qcow2State *s = r->s;
    g_autofree uint64_t *table = g_try_malloc(s->cluster_size);
    int ret = table ? 0 : -ENOMEM;

    for (uint64_t i = 0; ret == 0 && i < s->l1_size; i++) {
        uint64_t at = s->l1[i] & QCOW2_OFFSET_MASK, now = corrected(r, s->l1[i], false);
        uint64_t disk = GUINT64_TO_BE(now);

        if (at) {
            ret = correct_l2(r, at, table);
        }
        if (ret == 0 && now != s->l1[i]) {
            ret = bdrv_pwrite(r->bs->file, s->header.l1_offset + i * 8, 8, &disk, 0);
            s->l1[i] = now;
        }
    }
    return ret < 0 ? ret : bdrv_flush(r->bs->file);
}

/* --------------------------------------------------------------------------------------- */

static bool repair(Repair *r, GError **errp)
{
    int ret;

    if (!count(r, errp) ||
        !(take_refcounts(r) && all_blocks_there(r) ? put_in_place(r, errp)
                                                   : build_anew(r, errp))) {
        return false;
    }
    ret = correct_copied(r);
    if (ret < 0) {
        error_set_errno(errp, -ret, "'%s': could not correct the L2 tables",
                        r->bs->filename);
    }
    return ret == 0;
}

bool qcow2_repair(BlockNode *bs, GError **errp)
{
    Repair r = { .bs = bs, .s = bs->opaque, .n = qcow2_file_clusters(bs) };
    bool ok = false;

    r.counts = r.n < SIZE_MAX / 4 ? g_try_malloc0_n(r.n, 4) : NULL;
    if (!r.counts) {
        error_set(errp, "'%s': no memory to count references", bs->filename);
    } else {
        ok = repair(&r, errp);
    }
    if (!ok) {
        g_prefix_error(errp, "Image is dirty and could not be repaired (see qemu-img "
                       "check -r all): ");
    }
    g_free(r.counts);
    g_free(r.needed);
    return ok;
}
