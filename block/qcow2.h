/*
 * The format `qcow2', versions 2 and 3: what its files share.
 *
 *     qcow2.c             open, close, resize, the driver's table
 *     qcow2-header.c      header and extensions, bytes in and out; no I/O
 *     qcow2-map.c         guest offset to host offset: L1, the cache of L2 slices
 *     qcow2-read.c        reading, compressed clusters, block status
 *     qcow2-write.c       writing: in place, or into new clusters
 *     qcow2-zero.c        zeroes and discards
 *     qcow2-refcount.c    the cache of refcount blocks, finding free clusters
 *     qcow2-checkpoint.c  metadata to the disk, in an order that survives
 *     qcow2-check.c       what is metadata, what refers to what
 *     qcow2-repair.c      refcounts counted anew
 *     qcow2-bitmaps.c     persistent bitmaps, which are only kept
 *     qcow2-info.c        snapshots and bitmaps, as monitors list them
 *     qcow2-resize.c      another size, another backing file
 *     qcow2-create.c      new images
 *
 * docs/qcow2.md explains how they work together.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BLOCK_QCOW2_H
#define BLOCK_QCOW2_H

#include "block-int.h"

#define QCOW2_MAGIC 0x514649fb /* "QFI\xfb" */
#define QCOW2_V2_HEADER_BYTES 72
#define QCOW2_V3_HEADER_BYTES 104
#define QCOW2_HEADER_BYTES 112 /* as we write it, version 3 */

#define QCOW2_MIN_CLUSTER_BITS 9
#define QCOW2_MAX_CLUSTER_BITS 21
/* QEMU's limits too. */
#define QCOW2_MAX_L1_BYTES (32 * 1024 * 1024)
#define QCOW2_MAX_REFTABLE_BYTES (8 * 1024 * 1024)
#define QCOW2_MAX_SNAPSHOTS 65536
#define QCOW2_MAX_BACKING_NAME 1023

enum { /* incompatible features */
    QCOW2_INCOMPAT_DIRTY = 1 << 0,
    QCOW2_INCOMPAT_CORRUPT = 1 << 1,
    QCOW2_INCOMPAT_DATA_FILE = 1 << 2,
    QCOW2_INCOMPAT_COMPRESSION = 1 << 3,
    QCOW2_INCOMPAT_EXTENDED_L2 = 1 << 4,
};
#define QCOW2_COMPAT_LAZY_REFCOUNTS UINT64_C(1)
#define QCOW2_AUTOCLEAR_BITMAPS UINT64_C(1)

enum {
    QCOW2_EXT_END = 0,
    QCOW2_EXT_BACKING_FORMAT = 0xe2792aca,
};

/* L1 and L2 entries. */
#define QCOW2_OFLAG_COPIED (UINT64_C(1) << 63) /* refcount is 1: write in place */
#define QCOW2_OFLAG_COMPRESSED (UINT64_C(1) << 62)
#define QCOW2_OFLAG_ZERO UINT64_C(1) /* version 3 */
#define QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00)

/* ---- header ----------------------------------------------------------- */

typedef struct {
    uint32_t version, cluster_bits, crypt_method;
    uint64_t size;
    uint64_t backing_offset;
    uint32_t backing_size;
    uint32_t l1_size; /* entries */
    uint64_t l1_offset;
    uint64_t reftable_offset;
    uint32_t reftable_clusters;
    uint32_t nb_snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible, compatible, autoclear;
    uint32_t refcount_order;
    uint32_t header_length;
    uint8_t compression_type;
} Qcow2Header;

/* What follows the header in the first cluster. */
typedef struct {
    char *backing_file;   /* or NULL */
    char *backing_format; /* or NULL */
    GByteArray *others;   /* the other extensions as they are, each padded to 8 */
} Qcow2Extensions;

void qcow2_extensions_clear(Qcow2Extensions *ext);

/* The first @len bytes of a file of @file_length bytes.  Every field that can be
 * wrong by itself is checked, unknown features are refused by name. */
bool qcow2_header_decode(const uint8_t *buf, size_t len, uint64_t file_length,
                         Qcow2Header *h, GError **errp);
/* @buf is the first cluster, or as much of it as the file has. */
bool qcow2_extensions_decode(const Qcow2Header *h, const uint8_t *buf,
                             size_t len, Qcow2Extensions *ext, GError **errp);
/* The fixed part alone; returns its length. */
size_t qcow2_header_encode(const Qcow2Header *h, uint8_t *buf);
/*
 * Header, extensions and backing name into @buf (@len bytes, zeroed here);
 * sets h->backing_*.  The name goes to @name_at or, if that is 0, behind the
 * extensions.  False: it does not fit.
 */
bool qcow2_first_cluster_encode(Qcow2Header *h, const Qcow2Extensions *ext,
                                uint8_t *buf, size_t len, size_t name_at);

/* ---- state ------------------------------------------------------------- */

typedef enum {
    QCOW2_UNALLOCATED,
    QCOW2_ZERO,       /* reads as zeros, no cluster */
    QCOW2_ZERO_ALLOC, /* reads as zeros, has a cluster */
    QCOW2_NORMAL,
    QCOW2_COMPRESSED,
} Qcow2ClusterType;

/* A run of bytes that are mapped alike. */
typedef struct {
    Qcow2ClusterType type;
    uint64_t host;  /* NORMAL: of the first byte; ZERO_ALLOC: of its cluster */
    uint64_t entry; /* the first cluster's L2 entry */
    bool copied;    /* NORMAL, ZERO_ALLOC: may be written in place */
    int64_t bytes;
    bool in_io;     /* qcow2_io_end is owed */
    unsigned shard, phase;
} Qcow2Mapping;

/* A piece of an L2 table, by its place in the guest's address space. */
typedef struct {
    uint64_t l1_index;
    unsigned piece;  /* of the table */
    unsigned at;     /* in Qcow2State.slices */
    bool valid;      /* else it is being read */
    bool dirty;      /* differs from the disk */
    bool writing;    /* a checkpoint has a copy that is not on disk yet */
    _Atomic unsigned pins; /* goes up only under the map, either way */
    _Atomic bool referenced;
    uint64_t *bad;   /* bitmap of entries that can't be right, or NULL */
    uint64_t entries[];
} Qcow2Slice;

/*
 * One of several locks of the map: a reader takes its thread's, a writer all.
 * `active' counts the I/Os that use what they found in the map, by phase.
 */
typedef struct {
    _Alignas(BLOCK_CACHE_LINE) pthread_mutex_t lock;
    pthread_cond_t idle;
    unsigned active[2];
} Qcow2Shard;

/* A range of guest clusters whose mapping is being changed. */
typedef struct Qcow2Alloc Qcow2Alloc;
struct Qcow2Alloc {
    uint64_t start, end;
    LIST_ENTRY(Qcow2Alloc) next;
};

typedef struct {
    uint64_t index;           /* in the refcount table */
    bool writing;
    size_t dirty_start, dirty_end; /* bytes; empty: clean */
    uint64_t used;            /* for LRU */
    uint8_t data[];
} Qcow2RefBlock;

typedef struct {
    uint64_t offset;
    uint64_t bytes;
} Qcow2Range;

/* Lock order: checkpoint_lock, alloc_lock, load_lock, the map, meta_lock. */
typedef struct {
    /* Fixed once open. */
    unsigned cluster_bits, l2_bits, slice_bits; /* log2 of bytes, entries, entries */
    uint64_t cluster_size;
    unsigned refcount_order, refblock_bits;     /* log2 of bits; of entries */
    uint64_t refcount_max;
    uint32_t version;
    unsigned slices_max;    /* the budget of the L2 cache */
    unsigned dirty_max;     /* dirty slices that call for a checkpoint */
    unsigned refblocks_max; /* the budget of the refcount cache */

    /* Changed by one who has the whole image (truncate, change of the backing
     * file), under checkpoint_lock. */
    Qcow2Header header;
    Qcow2Extensions ext;

    /* Constant once the image is open. */
    GPtrArray *snapshots; /* BdrvSnapshotInfo, or NULL: none */
    GPtrArray *bitmaps;   /* BdrvBitmapInfo; the same */

    /* Guarded by the map. */
    Qcow2Shard shards[BLOCK_SHARDS];
    unsigned phase;
    uint64_t *l1;             /* host endianness */
    uint64_t l1_size;
    Qcow2Slice ***tables;     /* [l1_index] NULL or [piece] NULL or slice */
    GPtrArray *slices;        /* all of them */
    unsigned hand;            /* of the clock that finds a victim */
    unsigned n_dirty;
    GHashTable *l1_dirty;     /* indices that are not on disk yet */
    pthread_mutex_t load_lock;
    pthread_cond_t loaded;

    /* Guarded by alloc_lock. */
    pthread_mutex_t alloc_lock;
    pthread_cond_t alloc_done;
    LIST_HEAD(, Qcow2Alloc) allocs;
    uint64_t *reftable;       /* host endianness */
    uint64_t reftable_size;   /* entries */
    GHashTable *reftable_dirty; /* indices that are not on disk yet */
    GHashTable *refblocks;    /* index → Qcow2RefBlock */
    uint64_t refblock_clock;
    Qcow2RefBlock *refblock_last;
    uint64_t free_hint;       /* no free cluster lies before this one */
    uint64_t high_water;      /* bytes: behind it the file is new and all zeros */
    bool grown;               /* is longer than what is in use */
    GArray *freed;            /* Qcow2Range: no longer used by the map, but by the disk */

    pthread_mutex_t checkpoint_lock; /* one checkpoint at a time */
    _Atomic bool meta_dirty;  /* a checkpoint would have something to do */
    _Atomic bool want_checkpoint; /* too much is dirty */
    _Atomic bool broken;      /* corruption was found: no more writes */

    pthread_mutex_t meta_lock;
    GHashTable *meta;         /* numbers of the clusters that hold metadata; rw only */
} Qcow2State;

static inline uint64_t qcow2_cluster_start(const Qcow2State *s, uint64_t offset)
{
    return offset & ~(s->cluster_size - 1);
}

static inline uint64_t qcow2_cluster_end(const Qcow2State *s, uint64_t offset)
{
    return qcow2_cluster_start(s, offset + s->cluster_size - 1);
}

/* A big-endian number of so many bytes, anywhere. */
static inline uint64_t qcow2_get_be(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    while (bytes-- > 0) {
        v = v << 8 | *p++;
    }
    return v;
}

/* Is there, or could there be, something below? */
static inline bool qcow2_has_backing(const BlockNode *bs, const Qcow2State *s)
{
    return bs->backing || s->ext.backing_file;
}

/* Something on disk can't be right: say so once, on stderr and in the header,
 * and write no more.  -EIO. */
int qcow2_corrupt(BlockNode *bs, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* The header's bit for that.  Idempotent. */
int qcow2_mark_corrupt(BlockNode *bs);

/* Behind the end of the file there are zeros. */
int qcow2_file_pread(BlockNode *bs, uint64_t offset, int64_t bytes, void *buf);

/* ---- the map (qcow2-map.c) --------------------------------------------- */

bool qcow2_map_init(BlockNode *bs, GError **errp); /* header is there */
void qcow2_map_destroy(Qcow2State *s);

void qcow2_map_lock(Qcow2State *s); /* exclusive */
void qcow2_map_unlock(Qcow2State *s);

Qcow2ClusterType qcow2_entry_type(const Qcow2State *s, uint64_t entry);

/*
 * How the bytes from @offset on are mapped, at most @bytes.  0 or a negative
 * errno.  With @io the clusters found are not used for anything else until
 * qcow2_io_end.
 */
int qcow2_map_lookup(BlockNode *bs, int64_t offset, int64_t bytes, bool io,
                     Qcow2Mapping *m);
void qcow2_io_end(Qcow2State *s, Qcow2Mapping *m);
/* Wait until all I/O has ended that might use an older state of the map. */
void qcow2_map_wait_io(Qcow2State *s);

/* The slice with the entry of @offset, pinned; the L2 table exists. */
int qcow2_slice_pin(BlockNode *bs, int64_t offset, Qcow2Slice **slice);
void qcow2_slice_unpin(Qcow2Slice *slice);
/* Exclusive: where the entry of @offset is in its slice. */
unsigned qcow2_slice_index(const Qcow2State *s, int64_t offset);
bool qcow2_slice_is_bad(const Qcow2Slice *slice, unsigned i);
/* Exclusive; the slice is pinned. */
void qcow2_slice_mark_dirty(Qcow2State *s, Qcow2Slice *slice);
/* Where it is on disk; 0: nowhere.  The map is locked in either way. */
uint64_t qcow2_slice_host(const Qcow2State *s, const Qcow2Slice *slice);
size_t qcow2_slice_bytes(const Qcow2State *s);

/* ---- compressed clusters (qcow2-read.c) --------------------------------- */

/* Where a compressed cluster's bytes are, in *offset; their number. */
uint64_t qcow2_compressed_range(const Qcow2State *s, uint64_t entry,
                                uint64_t *offset);
/* The whole cluster into @out. */
int qcow2_read_compressed(BlockNode *bs, uint64_t entry, uint8_t *out);

int qcow2_pread(BlockNode *bs, int64_t offset, int64_t bytes, void *buf);
int qcow2_block_status(BlockNode *bs, int64_t offset, int64_t bytes,
                       int64_t *pnum);
/* What lies below, zeros where nothing does. */
int qcow2_read_backing(BlockNode *bs, int64_t offset, int64_t bytes, void *buf);

/* ---- refcounts (qcow2-refcount.c) ----------------------------------------- */

/* Refcount @i of a block of refcounts of 2^@order bits. */
uint64_t qcow2_refcount_get(const uint8_t *block, uint64_t i, unsigned order);
void qcow2_refcount_put(uint8_t *block, uint64_t i, unsigned order,
                        uint64_t value);

/* All below: alloc_lock is held, the image is writable. */
bool qcow2_refcount_init(BlockNode *bs, GError **errp); /* unlocked */
void qcow2_refcount_destroy(Qcow2State *s);
/*
 * Up to @want adjacent clusters, with refcount 1; how many in *got (at least
 * one), *fresh if they are known to be zeros.  -ENOBUFS: the refcount table is
 * full; unlock, qcow2_reftable_grow, try again.
 */
int qcow2_alloc_clusters(BlockNode *bs, uint64_t want, uint64_t *offset,
                         uint64_t *got, bool *fresh);
/* Clusters that nothing on disk refers to (any more): one reference less. */
void qcow2_free_clusters(BlockNode *bs, uint64_t offset, uint64_t bytes);
/* Clusters that the map gave up: free them once the disk knows of it. */
void qcow2_free_later(Qcow2State *s, uint64_t offset, uint64_t bytes);
/* The refcount of the cluster at @offset into *value. */
int qcow2_refcount_of(BlockNode *bs, uint64_t offset, uint64_t *value);
/* The file is at least so long. */
int qcow2_file_extend(BlockNode *bs, uint64_t end);
void qcow2_refblock_set_dirty(Qcow2RefBlock *block, size_t start, size_t end);
/* The refcounts [first, first + n) of clusters become what @values says. */
int qcow2_refcounts_replace(BlockNode *bs, uint64_t first, uint64_t n,
                            const uint32_t *values);
/* Unlocked. */
int qcow2_reftable_grow(BlockNode *bs);

/* ---- writing --------------------------------------------------------------- */

int qcow2_pwrite(BlockNode *bs, int64_t offset, int64_t bytes, const void *buf,
                 int flags);
int qcow2_pwrite_zeroes(BlockNode *bs, int64_t offset, int64_t bytes, int flags);
int qcow2_pdiscard(BlockNode *bs, int64_t offset, int64_t bytes);

/* Nobody else changes the mapping of [start, end), clusters, until it ends.
 * Waits; one at a time for a thread. */
void qcow2_alloc_begin(Qcow2State *s, Qcow2Alloc *a, uint64_t start,
                       uint64_t end);
void qcow2_alloc_end(Qcow2State *s, Qcow2Alloc *a);
/* There is an L2 table for @offset, and it is ours alone. */
int qcow2_ensure_table(BlockNode *bs, int64_t offset);
/* alloc_lock and the map are held: the entry takes another value, and what it
 * referred to is freed later unless @keep. */
void qcow2_set_entry(Qcow2State *s, Qcow2Slice *slice, unsigned i,
                     uint64_t entry, bool keep);
/* Where the slice with @offset ends, in the guest's address space. */
uint64_t qcow2_slice_end(const Qcow2State *s, uint64_t offset);

/* ---- order on disk (qcow2-checkpoint.c) ------------------------------------- */

/* All metadata as it is now to the disk, durable with the data before it. */
int qcow2_checkpoint(BlockNode *bs);
int qcow2_flush(BlockNode *bs);
/* Until there is nothing left to write. */
int qcow2_settle(BlockNode *bs);

/* ---- checks (qcow2-check.c) --------------------------------------------------- */

/* Find all metadata; false if any of it overlaps or lies outside of the file. */
bool qcow2_meta_init(BlockNode *bs, GError **errp);
/* Note new metadata; gone metadata. */
void qcow2_meta_add(Qcow2State *s, uint64_t offset, uint64_t bytes);
void qcow2_meta_remove(Qcow2State *s, uint64_t offset, uint64_t bytes);
bool qcow2_meta_overlaps(Qcow2State *s, uint64_t offset, uint64_t bytes);
/* Clusters of the file, begun ones too. */
uint64_t qcow2_file_clusters(BlockNode *bs);
/* Add all references to @counts, of @n clusters, but for those to refcount blocks
 * and their table. */
bool qcow2_count_references(BlockNode *bs, uint32_t *counts, uint64_t n,
                            GError **errp);

/* ---- after a crash (qcow2-repair.c) -------------------------------------------- */

/* Count all references, set the refcounts to that, and the COPIED flags.  Comes
 * after qcow2_refcount_init, before qcow2_meta_init. */
bool qcow2_repair(BlockNode *bs, GError **errp);

/* ---- bitmaps (qcow2-bitmaps.c) -------------------------------------------------- */

typedef bool Qcow2VisitFn(void *opaque, const char *what, uint64_t offset,
                          uint64_t bytes, GError **errp);

bool qcow2_has_bitmaps(const Qcow2State *s); /* that somebody believes in */
bool qcow2_bitmaps_check(BlockNode *bs, GError **errp);
/* All that the bitmaps refer to. */
bool qcow2_bitmaps_visit(BlockNode *bs, Qcow2VisitFn *fn, void *opaque,
                         GError **errp);
/* They will no longer be true: say so in the image and on stderr. */
int qcow2_bitmaps_mark_in_use(BlockNode *bs);
#define QCOW2_BITMAP_IN_USE 1
#define QCOW2_BITMAP_AUTO 2
/* Each of them, until @fn says false.  False: it did, or they make no sense. */
typedef bool Qcow2BitmapFn(void *opaque, const char *name, size_t len, unsigned flags,
                           unsigned granularity_bits);
bool qcow2_bitmaps_list(BlockNode *bs, Qcow2BitmapFn *fn, void *opaque);

/* ---- lists for the monitors (qcow2-info.c) -------------------------------------- */

void qcow2_info_load(BlockNode *bs);
void qcow2_info_free(Qcow2State *s);

/* Change bytes of the header on disk, durable when it returns. */
int qcow2_header_patch(BlockNode *bs, size_t at, const void *bytes, size_t n);

/* ---- the header changes (qcow2-resize.c) --------------------------------------- */

bool qcow2_truncate(BlockNode *bs, int64_t size, GError **errp);
bool qcow2_change_backing_file(BlockNode *bs, const char *file,
                               const char *format, GError **errp);

/* ---- create (qcow2-create.c) --------------------------------------------- */

typedef struct {
    uint32_t version;       /* 2 or 3 */
    unsigned cluster_bits;  /* 9…21 */
    unsigned refcount_order; /* 0…6; 4 in version 2 */
} Qcow2CreateOptions;

bool qcow2_create_with(const char *filename, int64_t size,
                       const char *backing_file, const char *backing_format,
                       const Qcow2CreateOptions *opts, GError **errp);
bool qcow2_create(const char *filename, int64_t size, const char *backing_file,
                  const char *backing_format, GError **errp);

#endif
