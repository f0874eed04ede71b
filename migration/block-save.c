/*
 * The saver of drives.
 *
 * A drive is a row of chunks of 1 MiB, each marked or not.  At first all are;
 * a pass sends the marked ones in ascending order.  A chunk's mark is cleared
 * first and the chunk read afterwards; the write hook marks it again when a
 * write has reached the image:
 *
 *     saver:  clear mark ── read ── send
 *     guest:            write … done ── mark
 *
 * A write that ended before the read is in what is sent.  One that ended later
 * marks the chunk after the mark was cleared, so that it is sent again.  A mark
 * made before the write would be too early: it could be cleared, and the chunk
 * read, before the data is there.  With the guest stopped no write is under way
 * and the last pass has everything.
 *
 * The hook is put on with the drive drained, before the first chunk is read, and
 * taken off by block_saver_free; between the two it is the only thing that lives
 * in the drive.  A failed attempt leaves nothing behind, and the next one begins
 * with all chunks marked.
 *
 * Chunks are read ahead of being sent, a few of them in flight (block.h, reading in
 * bulk), so that the disk and the network work at the same time.  They go out in
 * the order in which their marks were cleared, so a chunk that was marked again
 * meanwhile is sent twice, the newer content last.  What is in flight still counts
 * as pending, and the last pass begins with it.
 *
 * With `inc', a chunk that is decided by the backing file alone when its turn comes
 * first is left out.  If the guest writes to it later it is sent as any other:
 * 1 MiB, in part from the backing file.
 *
 * Memory: AHEAD chunks.
 *
 * Thread: the migration's; marks are set by the NBD workers, counters read by
 * anybody.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/block-migration.h"

#include "block/block-driver.h"
#include "util/bitmap.h"
#include "util/error.h"
#include "util/zero.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A chunk goes out in pieces, so that a low limit of bandwidth is kept. */
#define PIECE (64 * 1024)
/* Chunks of one section, so that RAM and monitors get their turn when there is
 * no limit. */
#define SECTION_CHUNKS 16
#define AHEAD 4 /* chunks in flight */

typedef _Atomic uint64_t Counter;

typedef struct {
    BlockBackend *blk; /* borrowed */
    BlockNode *node;
    BlockNode *base;   /* inc: what the other side has already; else NULL */
    int64_t length;
    Bitmap *marked;    /* also by the hook, on any thread */
    Bitmap *visited;   /* with base: chunks whose turn has come once */
    uint64_t chunk;    /* the pass goes on here */
    bool announced;    /* something of it is sent, with its length */
    bool hooked;
} SavedDrive;

/* A chunk whose mark has been cleared. */
typedef struct {
    SavedDrive *drive;
    int64_t offset, bytes;
    bool zero;         /* as the image says; it was not read */
    bool done;         /* it has been read */
    int ret;           /* with what result */
    uint8_t *buf;
} AheadChunk;

struct BlockSaver {
    SavedDrive *drives;
    size_t n;
    size_t drive;      /* the pass goes on here */
    BdrvBulk *bulk;
    AheadChunk ahead[AHEAD]; /* a ring */
    size_t first;      /* the oldest */
    Counter n_ahead;   /* written by the migration's thread */

    Counter total, transferred, duplicate, normal, skipped, passes;
};

static void count(Counter *c, uint64_t n)
{
    atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

static uint64_t get(const Counter *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

static AheadChunk *oldest(BlockSaver *s)
{
    return get(&s->n_ahead) ? &s->ahead[s->first] : NULL;
}

/* ---- watching ------------------------------------------------------------------ */

static void after_write(void *opaque, int64_t offset, int64_t bytes)
{
    SavedDrive *d = opaque;
    uint64_t first = offset / BLK_MIG_CHUNK;
    uint64_t last = (offset + bytes - 1) / BLK_MIG_CHUNK;

    bitmap_set_range(d->marked, first, last - first + 1);
}

static const BlockWriteHook hook = { .after_write = after_write };

static void watch(SavedDrive *d, bool on)
{
    blk_drained_begin(&d->blk, 1);
    blk_set_write_hook(d->blk, on ? &hook : NULL, on ? d : NULL);
    blk_drained_end(&d->blk, 1);
    d->hooked = on;
}

static bool no_memory(const BlockBackend *blk, uint64_t chunks, GError **errp)
{
    error_set(errp, "drive '%s': no memory to track its %" G_GUINT64_FORMAT
              " chunks", blk_name(blk), chunks);
    return false;
}

/* False: an error.  A drive without a medium or for reading only is none. */
static bool add_drive(BlockSaver *s, BlockBackend *blk, bool inc, GError **errp)
{
    g_autoptr(BlockNode) node = blk_get_node(blk);
    SavedDrive *d = &s->drives[s->n];
    uint64_t chunks;

    if (!node || bdrv_is_read_only(node) || !bdrv_length(node)) {
        return true;
    }
    if (strlen(blk_name(blk)) > UINT8_MAX) {
        error_set(errp, "drive '%s': its name is too long for the stream",
                  blk_name(blk));
        return false;
    }
    s->n++; /* what it has by now is freed with the others */
    chunks = (bdrv_length(node) + BLK_MIG_CHUNK - 1) / BLK_MIG_CHUNK;
    d->marked = bitmap_new(chunks);
    if (!d->marked) {
        return no_memory(blk, chunks, errp);
    }
    d->base = inc ? node->backing : NULL;
    d->visited = d->base ? bitmap_new(chunks) : NULL;
    if (d->base && !d->visited) {
        return no_memory(blk, chunks, errp);
    }
    bitmap_set_range(d->marked, 0, chunks);
    d->blk = blk;
    d->length = bdrv_length(node);
    d->node = g_steal_pointer(&node);
    count(&s->total, d->length);
    return true;
}

static bool any_base(const BlockSaver *s)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->drives[i].base) {
            return true;
        }
    }
    return false;
}

static bool make_buffers(BlockSaver *s, GError **errp)
{
    for (size_t i = 0; i < AHEAD; i++) {
        s->ahead[i].buf = aligned_alloc(4096, BLK_MIG_CHUNK);
        if (!s->ahead[i].buf) {
            error_set(errp, "no memory for %d chunks of drives", AHEAD);
            return false;
        }
    }
    s->bulk = bdrv_bulk_new(AHEAD, errp);
    return s->bulk != NULL;
}

BlockSaver *block_saver_new(BlockBackend *const *blks, size_t n, bool inc,
                            GError **errp)
{
    BlockSaver *s = g_new0(BlockSaver, 1);
    bool ok = make_buffers(s, errp);

    s->drives = g_new0(SavedDrive, n);
    for (size_t i = 0; ok && i < n; i++) {
        ok = add_drive(s, blks[i], inc, errp);
    }
    if (ok && inc && !any_base(s)) {
        error_set(errp, "no drive that can be written has a backing file: "
                  "there is nothing to leave out, migrate with -b");
        ok = false;
    }
    if (!ok) {
        block_saver_free(s);
        return NULL;
    }
    for (size_t i = 0; i < s->n; i++) {
        watch(&s->drives[i], true);
    }
    block_saver_next_pass(s);
    return s;
}

void block_saver_free(BlockSaver *s)
{
    if (!s) {
        return;
    }
    bdrv_bulk_free(s->bulk); /* before what it reads, and into what, goes */
    for (size_t i = 0; i < AHEAD; i++) {
        free(s->ahead[i].buf);
    }
    for (size_t i = 0; i < s->n; i++) {
        SavedDrive *d = &s->drives[i];

        if (d->hooked) {
            watch(d, false);
        }
        bdrv_unref(d->node);
        bitmap_free(d->marked);
        bitmap_free(d->visited);
    }
    g_free(s->drives);
    g_free(s);
}

/* ---- records ---------------------------------------------------------------------- */

static void put_head(BlockSaver *s, const SavedDrive *d, QEMUFile *f,
                     int64_t offset, unsigned flags)
{
    qemu_put_be64(f, offset | flags);
    qemu_put_counted_string(f, blk_name(d->blk));
    count(&s->transferred, 9 + strlen(blk_name(d->blk)));
}

static bool put_data(BlockSaver *s, QEMUFile *f, const uint8_t *data, bool limited,
                     GError **errp)
{
    for (size_t done = 0; done < BLK_MIG_CHUNK; done += PIECE) {
        qemu_put_buffer(f, data + done, PIECE);
        count(&s->transferred, PIECE);
        if (limited && qemu_file_rate_exceeded(f) &&
            !qemu_file_wait_slice(f, errp)) {
            return false;
        }
    }
    return true;
}

static bool drive_error(const SavedDrive *d, const char *what, int64_t offset,
                        int ret, GError **errp)
{
    error_set_errno(errp, -ret, "drive '%s': %s at byte %" G_GINT64_FORMAT,
                    blk_name(d->blk), what, offset);
    return false;
}

/* Can it be left out, because the other side has got all of it in the backing
 * file?  Not if it was sent before.  1, 0 or -errno. */
static int in_base(const SavedDrive *d, int64_t offset, int64_t bytes)
{
    if (!d->base || bitmap_test_and_set(d->visited, offset / BLK_MIG_CHUNK)) {
        return 0;
    }
    while (bytes > 0) {
        int64_t n;
        int ret = bdrv_is_allocated_above(d->node, d->base, offset, bytes, &n);

        if (ret) {
            return ret < 0 ? ret : 0;
        }
        offset += n;
        bytes -= n;
    }
    return 1;
}

/* Does the image say, without being read, that it is zeros?  As above. */
static int known_zero(const SavedDrive *d, int64_t offset, int64_t bytes)
{
    int64_t n;
    int ret = bdrv_block_status(d->node, offset, bytes, &n);

    return ret < 0 ? ret : (ret & BDRV_BLOCK_ZERO) && n >= bytes;
}

/* ---- reading ahead ------------------------------------------------------------------ */

/* A chunk whose mark has been cleared: there is room for it. */
static bool begin_chunk(BlockSaver *s, SavedDrive *d, uint64_t chunk, GError **errp)
{
    AheadChunk *c = &s->ahead[(s->first + get(&s->n_ahead)) % AHEAD];
    int ret;

    c->drive = d;
    c->offset = chunk * BLK_MIG_CHUNK;
    c->bytes = MIN(BLK_MIG_CHUNK, d->length - c->offset);
    c->ret = 0;
    ret = in_base(d, c->offset, c->bytes);
    if (ret > 0) {
        count(&s->skipped, 1);
        return true;
    }
    ret = ret ? ret : known_zero(d, c->offset, c->bytes);
    if (ret < 0) {
        return drive_error(d, "cannot be read", c->offset, ret, errp);
    }
    c->zero = c->done = ret;
    if (!c->zero) {
        bdrv_bulk_read(s->bulk, d->node, c->offset, c->bytes, c->buf, c);
    }
    d->announced = true;
    count(&s->n_ahead, 1);
    return true;
}

/* Until @c has been read. */
static void finish_chunk(BlockSaver *s, AheadChunk *c)
{
    while (!c->done) {
        void *opaque;
        int ret = bdrv_bulk_wait(s->bulk, &opaque);
        AheadChunk *other = opaque;

        other->ret = ret;
        other->done = true;
    }
}

/* The oldest one. */
static bool send_chunk(BlockSaver *s, QEMUFile *f, bool limited, GError **errp)
{
    AheadChunk *c = oldest(s);
    bool zero;

    finish_chunk(s, c);
    if (c->ret < 0) {
        return drive_error(c->drive, "cannot be read", c->offset, c->ret, errp);
    }
    zero = c->zero || buffer_is_zero(c->buf, c->bytes);
    put_head(s, c->drive, f, c->offset, BLK_MIG_FLAG_DEVICE_BLOCK |
             (zero ? BLK_MIG_FLAG_ZERO_BLOCK : 0));
    count(zero ? &s->duplicate : &s->normal, 1);
    if (!zero) {
        memset(c->buf + c->bytes, 0, BLK_MIG_CHUNK - c->bytes);
        if (!put_data(s, f, c->buf, limited, errp)) {
            return false;
        }
    }
    s->first = (s->first + 1) % AHEAD;
    atomic_fetch_sub_explicit(&s->n_ahead, 1, memory_order_relaxed);
    return qemu_file_ok(f, errp);
}

/* The end of a section whose records were of @d (NULL: it had none): with the
 * drive's length, which only we look at. */
static void put_end(const SavedDrive *d, QEMUFile *f)
{
    qemu_put_be64(f, (d ? d->length & ~BLK_MIG_FLAG_MASK : 0) |
                  BLK_MIG_FLAG_EOS);
}

/* ---- passes ------------------------------------------------------------------------ */

void block_saver_setup(BlockSaver *s, QEMUFile *f)
{
    put_end(NULL, f);
}

void block_saver_next_pass(BlockSaver *s)
{
    s->drive = 0;
    for (size_t i = 0; i < s->n; i++) {
        s->drives[i].chunk = 0;
    }
    count(&s->passes, 1);
}

/* The next marked chunk of @d in this pass, its mark cleared; false: none. */
static bool next_chunk(SavedDrive *d, uint64_t *chunk)
{
    *chunk = bitmap_next_set(d->marked, d->chunk);
    if (*chunk >= d->marked->size) {
        d->chunk = d->marked->size;
        return false;
    }
    bitmap_clear(d->marked, *chunk);
    d->chunk = *chunk + 1;
    return true;
}

/* Where the pass goes on: first a chunk of each drive, so that one of another
 * length is known early.  NULL: it is over. */
static SavedDrive *next_drive(BlockSaver *s)
{
    for (size_t i = 0; i < s->n; i++) {
        SavedDrive *d = &s->drives[i];

        if (!d->announced && d->chunk < d->marked->size) {
            return d;
        }
    }
    while (s->drive < s->n &&
           s->drives[s->drive].chunk >= s->drives[s->drive].marked->size) {
        s->drive++;
    }
    return s->drive < s->n ? &s->drives[s->drive] : NULL;
}

/* As far ahead as may be. */
static bool read_ahead(BlockSaver *s, GError **errp)
{
    SavedDrive *d;
    uint64_t chunk;

    while (get(&s->n_ahead) < AHEAD && (d = next_drive(s))) {
        if (next_chunk(d, &chunk) && !begin_chunk(s, d, chunk, errp)) {
            return false;
        }
    }
    return true;
}

/* The records of a section are of one drive. */
bool block_saver_iterate(BlockSaver *s, QEMUFile *f, bool *more, GError **errp)
{
    const SavedDrive *d = NULL;

    for (unsigned i = 0; i < SECTION_CHUNKS && !qemu_file_rate_exceeded(f); i++) {
        if (!read_ahead(s, errp)) {
            return false;
        }
        if (!oldest(s) || (d && oldest(s)->drive != d)) {
            break;
        }
        d = oldest(s)->drive;
        if (!send_chunk(s, f, true, errp)) {
            return false;
        }
    }
    put_end(d, f);
    *more = oldest(s) || next_drive(s);
    return qemu_file_ok(f, errp);
}

/* Marked, or in flight. */
static uint64_t pending_bytes(const BlockSaver *s)
{
    uint64_t chunks = get(&s->n_ahead);

    for (size_t i = 0; i < s->n; i++) {
        chunks += bitmap_count(s->drives[i].marked);
    }
    return chunks * BLK_MIG_CHUNK;
}

uint64_t block_saver_pending(const BlockSaver *s)
{
    return pending_bytes(s);
}

bool block_saver_complete(BlockSaver *s, QEMUFile *f, GError **errp)
{
    block_saver_next_pass(s);
    for (;;) {
        if (!read_ahead(s, errp)) {
            return false;
        }
        if (!oldest(s)) {
            break;
        }
        if (!send_chunk(s, f, false, errp)) {
            return false;
        }
    }
    put_end(NULL, f);
    return qemu_file_ok(f, errp);
}

void block_saver_stats(const BlockSaver *s, BlockMigStats *st)
{
    *st = (BlockMigStats) {
        .total = get(&s->total),
        .remaining = MIN(pending_bytes(s), get(&s->total)),
        .transferred = get(&s->transferred),
        .duplicate = get(&s->duplicate),
        .normal = get(&s->normal),
        .skipped = get(&s->skipped),
        .passes = get(&s->passes),
    };
}
