/*
 * The block layer: images as nodes, drives as backends.
 *
 *     guest ──NBD──► BlockBackend "virtio0" ──► BlockNode (format) ──► BlockNode (protocol `file')
 *                     gate, write hook            tracked requests       pread, io_submit, …
 *                                                   └─ backing ► BlockNode …
 *
 * A BlockNode is one image (a format driver over a protocol driver, or the
 * protocol driver itself).  A BlockBackend is a drive as QEMU and the user
 * know it: it has the device's name, it may be empty, its node can be swapped
 * while it is drained, and it is where a backup puts its copy-before-write
 * hook.
 *
 * Style: blocking calls, any thread but the main one; any number of them at
 * once.  Offsets and lengths are bytes.  I/O functions return 0 or a negative
 * errno, because that is what an NBD reply carries; set-up functions return
 * bool or a pointer and set a GError.  Functions that may only be called in a
 * certain state or from one thread say so.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BLOCK_BLOCK_H
#define SIDECAR_BLOCK_BLOCK_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct BlockNode BlockNode;
typedef struct BlockBackend BlockBackend;
typedef struct BlockContext BlockContext;

/* One request moves at most this many bytes. */
#define BDRV_REQUEST_MAX_BYTES (64 * 1024 * 1024)

typedef enum {
    BDRV_O_RDWR = 1 << 0,       /* else read-only */
    BDRV_O_NOCACHE = 1 << 1,    /* O_DIRECT: cache=none, cache=directsync */
    BDRV_O_NATIVE_AIO = 1 << 2, /* aio=native; needs BDRV_O_NOCACHE */
    BDRV_O_NO_FLUSH = 1 << 3,   /* cache=unsafe: flush does nothing */
    BDRV_O_WRITETHROUGH = 1 << 4, /* cache=writethrough, directsync: every write is FUA */
    BDRV_O_UNMAP = 1 << 5,      /* discard=unmap: discards reach the file */
    BDRV_O_NO_BACKING = 1 << 6, /* do not open backing files */
    BDRV_O_CREATE_EXCL = 1 << 7, /* protocol only: create, fail if it exists */
    BDRV_O_PROBED = 1 << 8,     /* format was guessed: raw refuses writes that
                                   turn sector 0 into another format's header */
    BDRV_O_NO_LOCK = 1 << 9,    /* do not take QEMU-compatible image locks */
    BDRV_O_PLAIN_FILE = 1 << 10, /* the name came from an image: only a path (or
                                    file:path) will do, no other protocol */
} BdrvOpenFlags;

typedef enum {
    BDRV_REQ_FUA = 1 << 0,         /* durable when it returns */
    BDRV_REQ_MAY_UNMAP = 1 << 1,   /* write-zeroes may punch a hole */
    BDRV_REQ_NO_FALLBACK = 1 << 2, /* write-zeroes: -ENOTSUP rather than slow */
    BDRV_REQ_SERIALISING = 1 << 3, /* wait for, and hold back, all overlapping requests */
} BdrvRequestFlags;

/* What bdrv_block_status says of a range. */
typedef enum {
    BDRV_BLOCK_DATA = 1 << 0,      /* reads need the image */
    BDRV_BLOCK_ZERO = 1 << 1,      /* reads as zeros */
    BDRV_BLOCK_ALLOCATED = 1 << 2, /* decided in this layer, not in a backing file */
} BdrvBlockStatus;

/* ---- nodes ---------------------------------------------------------- */

/* The names of all formats, NULL-terminated, static. */
const char *const *bdrv_format_names(void);

/* Open an image.  @format NULL: probe (then *raw* gets BDRV_O_PROBED).  The
 * caller owns the returned reference. */
BlockNode *bdrv_open(const char *filename, const char *format, int flags,
                     GError **errp);

/* Create an image of @size bytes.  @format "raw" or "qcow2".  Fails if the
 * file exists, unless it is a regular one and empty: that is how management tools
 * prepare it, with the owner and label that it shall have.  @backing_file and @backing_format may be NULL (qcow2: only both;
 * the name goes into the image as it is, a relative one is relative to the
 * image). */
bool bdrv_create(const char *filename, const char *format, int64_t size,
                 const char *backing_file, const char *backing_format,
                 GError **errp);
/* Is there a file of that name?  To be asked before bdrv_create, for… */
bool bdrv_exists(const char *filename);
/* …taking that back: the file is removed, or empty again if it @existed. */
void bdrv_undo_create(const char *filename, bool existed);

BlockNode *bdrv_ref(BlockNode *bs);
/* The last one flushes and closes; errors of that flush go to stderr. */
void bdrv_unref(BlockNode *bs);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlockNode, bdrv_unref)

/* Flush, then close the image's file but keep the node (a hand-over between
 * two hosts); later I/O gives -ENOMEDIUM.  So are its backing files closed: one
 * that a snapshot put below it is still locked for writing.  False if the flush
 * failed. */
bool bdrv_inactivate(BlockNode *bs, GError **errp);

/* As the user gave it, for messages and queries; borrowed. */
const char *bdrv_filename(const BlockNode *bs);
const char *bdrv_format_name(const BlockNode *bs);
int bdrv_open_flags(const BlockNode *bs);
bool bdrv_is_read_only(const BlockNode *bs);

/* The image as the guest sees it, bytes; not rounded.  Never negative. */
int64_t bdrv_length(BlockNode *bs);
/* Bytes taken on disk, or a negative errno. */
int64_t bdrv_allocated_size(BlockNode *bs);
/* An internal snapshot, a persistent bitmap, as the image lists them. */
typedef struct {
    char *id, *name;
    uint64_t vm_state_size, vm_clock_nsec;
    uint32_t date_sec, date_nsec;
    uint64_t icount; /* UINT64_MAX: unknown */
} BdrvSnapshotInfo;
typedef struct {
    char *name;
    uint64_t granularity;
    bool in_use, automatic;
} BdrvBitmapInfo;

/* What a monitor may want to know.  Does not wait for anything; any thread. */
typedef struct {
    int64_t allocated;   /* bytes taken on disk; -1: unknown */
    uint32_t cluster_size; /* 0: no clusters */
    bool dirty;
    /* qcow2: */
    const char *compat;  /* "0.10", "1.1"; NULL: another format */
    bool lazy_refcounts, corrupt;
    unsigned refcount_bits;
    GPtrArray *snapshots; /* BdrvSnapshotInfo; a reference, or NULL: none */
    GPtrArray *bitmaps;   /* BdrvBitmapInfo; the same */
    char *backing_file, *backing_format; /* as the image has them, or NULL */
    BlockNode *backing;  /* a reference, or NULL */
} BdrvImageInfo;
void bdrv_get_info(BlockNode *bs, BdrvImageInfo *info);
void bdrv_image_info_clear(BdrvImageInfo *info);
/* What offset and length must be multiples of for the fast path (1, 512, 4096…). */
uint32_t bdrv_request_alignment(BlockNode *bs);

/* 0 <= offset, offset + bytes <= length, bytes <= BDRV_REQUEST_MAX_BYTES,
 * else -EINVAL (-ENOSPC for writes past the end).  Any alignment of offset,
 * bytes and buf is accepted.  A read-only node answers writes with -EPERM. */
int bdrv_pread(BlockNode *bs, int64_t offset, int64_t bytes, void *buf);
int bdrv_pwrite(BlockNode *bs, int64_t offset, int64_t bytes, const void *buf,
                int flags);
/* @bytes may be up to the whole image. */
int bdrv_pwrite_zeroes(BlockNode *bs, int64_t offset, int64_t bytes, int flags);
int bdrv_pdiscard(BlockNode *bs, int64_t offset, int64_t bytes);
/* All writes that had returned before the call are durable when it returns. */
int bdrv_flush(BlockNode *bs);

/* The state (BdrvBlockStatus bits) of the range at @offset and in *pnum how
 * far (1 ≤ *pnum ≤ bytes) it is the same; or a negative errno. */
int bdrv_block_status(BlockNode *bs, int64_t offset, int64_t bytes,
                      int64_t *pnum);

/*
 * Is the range at @offset decided by @top or a layer below it, but above @base
 * (NULL: by any layer)?  1, 0 or a negative errno; in *pnum how far that is so
 * (1 ≤ *pnum ≤ bytes).  What lies behind the end of a layer between @top and
 * @base reads as zeros there, so it counts as decided.  @base is in the chain.
 */
int bdrv_is_allocated_above(BlockNode *top, BlockNode *base, int64_t offset,
                            int64_t bytes, int64_t *pnum);

/*
 * Put another backing file's name and format into the image itself (@file NULL:
 * none), in one step and durable when it returns; on failure the old one is
 * still there.  bs->backing is not changed: that is the caller's, who has
 * drained the backend.
 */
bool bdrv_change_backing_file(BlockNode *bs, const char *file,
                              const char *format, GError **errp);

/* Grow or shrink; growth reads as zeros.  Caller has drained the backend. */
bool bdrv_truncate(BlockNode *bs, int64_t size, GError **errp);

/* ---- reading in bulk ------------------------------------------------ */

/* Several reads in flight from one thread: libaio for nodes opened with
 * BDRV_O_NATIVE_AIO, otherwise plain reads (with readahead advice) done by
 * the calling thread in bdrv_bulk_wait.  Owned by one thread. */
typedef struct BdrvBulk BdrvBulk;

/* @depth 1…256: how many may be in flight. */
BdrvBulk *bdrv_bulk_new(unsigned depth, GError **errp);
void bdrv_bulk_free(BdrvBulk *q); /* waits for what is in flight */
unsigned bdrv_bulk_in_flight(const BdrvBulk *q);
/* @buf stays valid until the request came back.  Never blocks for I/O; the
 * caller keeps at most @depth in flight. */
void bdrv_bulk_read(BdrvBulk *q, BlockNode *bs, int64_t offset, int64_t bytes,
                    void *buf, void *opaque);
/* Wait for one; its @opaque in *opaque, its result (0 or -errno) returned. */
int bdrv_bulk_wait(BdrvBulk *q, void **opaque);

/* ---- drives --------------------------------------------------------- */

/* The drives of one VM, in command-line order.  Main thread. */
BlockContext *block_context_new(void);
void block_context_free(BlockContext *ctx); /* closes every node */

/* What to do when an image of a drive turns out to be corrupt while it is in use:
 * called once for each image, on the thread whose request met it, inside of that
 * request; @fatal: it is not written any more.  @fn NULL: nothing; the old one is
 * not called any more when this returns. */
typedef void BlockCorruptFn(void *opaque, const char *device, const char *message,
                            bool fatal);
void block_context_set_corrupt_fn(BlockContext *ctx, BlockCorruptFn *fn,
                                  void *opaque);

/* @name: the device name ("virtio0"); unique in @ctx, else an error.
 * @node NULL: an empty drive.  Takes its own reference on @node.
 * The context owns the backend; it lives as long as the context. */
BlockBackend *blk_new(BlockContext *ctx, const char *name, BlockNode *node,
                      GError **errp);
BlockBackend *blk_by_name(BlockContext *ctx, const char *name); /* or NULL */
/* Borrowed pointers, command-line order; free the array with g_ptr_array_unref. */
GPtrArray *blk_all(BlockContext *ctx);

const char *blk_name(const BlockBackend *blk);
/* A new reference, or NULL if the drive is empty.  Any thread. */
BlockNode *blk_get_node(BlockBackend *blk);
/* Put in another node (NULL: eject).  The backend must be drained. */
void blk_set_node(BlockBackend *blk, BlockNode *node);
/* bdrv_open_flags of its node; for an empty drive, of the last one it had (0: it
 * never had one). */
int blk_medium_flags(BlockBackend *blk);
bool blk_is_removable(const BlockBackend *blk);
void blk_set_removable(BlockBackend *blk, bool removable);

/* As bdrv_*, with the gate and the write hook; -ENOMEDIUM when empty. */
int64_t blk_length(BlockBackend *blk);
int blk_pread(BlockBackend *blk, int64_t offset, int64_t bytes, void *buf);
int blk_pwrite(BlockBackend *blk, int64_t offset, int64_t bytes,
               const void *buf, int flags);
int blk_pwrite_zeroes(BlockBackend *blk, int64_t offset, int64_t bytes,
                      int flags);
int blk_pdiscard(BlockBackend *blk, int64_t offset, int64_t bytes);
int blk_flush(BlockBackend *blk);
int blk_block_status(BlockBackend *blk, int64_t offset, int64_t bytes,
                     int64_t *pnum);

/* I/O counters since the start, for query-blockstats. */
typedef struct {
    uint64_t rd_bytes, wr_bytes, unmap_bytes;
    uint64_t rd_operations, wr_operations, flush_operations, unmap_operations;
    uint64_t rd_total_time_ns, wr_total_time_ns, flush_total_time_ns;
    uint64_t failed_rd_operations, failed_wr_operations;
} BlockAcctStats;
void blk_get_stats(BlockBackend *blk, BlockAcctStats *stats);

/*
 * The write hook: called on the worker's thread, before a write, discard or
 * write-zeroes of [offset, offset + bytes) touches the image (may block), and
 * after it, also if it failed.  Either may be NULL.  The range is already clipped
 * to the image.  At most one hook on a backend.
 */
typedef struct {
    void (*before_write)(void *opaque, int64_t offset, int64_t bytes);
    void (*after_write)(void *opaque, int64_t offset, int64_t bytes);
} BlockWriteHook;

/* @hook NULL takes it off.  The backend must be drained: then no request is
 * inside the old hook and none is past it. */
void blk_set_write_hook(BlockBackend *blk, const BlockWriteHook *hook,
                        void *opaque);

/*
 * Hold back new requests of all @n backends and wait until those in flight
 * are done: what was answered before is on this side of the instant, what
 * starts after blk_drained_end on the other, across all of them.  All gates
 * are closed before any is waited for.  Nests.  Not on the main thread (it
 * waits for disks).
 */
void blk_drained_begin(BlockBackend *const *blks, size_t n);
void blk_drained_end(BlockBackend *const *blks, size_t n);

/*
 * Who has a drive: backup, streaming, resize and change refuse each other.
 * @owner is a short static word for the message ("backup").  Fails with
 * SIDECAR_ERROR_DEVICE_IN_USE.  Any thread.
 */
bool blk_claim(BlockBackend *blk, const char *owner, GError **errp);
void blk_release(BlockBackend *blk);
/* The same, but if somebody else has it: false, and when he releases it the
 * function below is called, once.  That may be on any thread, and under the lock
 * of a set of jobs: it only passes the word on.  NULL takes it off. */
bool blk_claim_or_hear(BlockBackend *blk, const char *owner);
typedef void BlockReleasedFn(void *opaque, const char *device);
void block_context_set_released_fn(BlockContext *ctx, BlockReleasedFn *fn,
                                   void *opaque);

/* A drive that the VM does not use any more (for ever; it has no node then). */
typedef enum {
    BLK_USED,
    BLK_GONE,  /* there is no such drive any more */
    BLK_MOVED, /* there is, but it runs from an image that is not ours */
} BlkUse;
BlkUse blk_use(const BlockBackend *blk);
void blk_set_use(BlockBackend *blk, BlkUse use);

#endif
