/*
 * What the files of the block layer share and drivers may call, but others
 * may not.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BLOCK_BLOCK_INT_H
#define BLOCK_BLOCK_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "block/block-driver.h"

#define BLOCK_CACHE_LINE 64
/* Per-thread counters and lists exist this many times; power of two. */
#define BLOCK_SHARDS 16

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Which shard the calling thread uses: threads get them in turn. */
unsigned block_thread_shard(void);

/* Zeroed memory aligned to @align (power of two); free().  Aborts when there
 * is none, as g_malloc does: only for small structures of ours. */
void *block_alloc_aligned(size_t align, size_t size);

/* ---- tracked requests (request.c) ------------------------------------ */

/*
 * Lives on the stack of the thread that runs the request.  Written only by
 * that thread, before it is on a list.
 */
typedef struct BdrvTrackedRequest BdrvTrackedRequest;
struct BdrvTrackedRequest {
    int64_t start, end; /* end is exclusive */
    bool serialising;
    bool central;       /* on tracker->ordered, else on shards[shard] */
    unsigned shard;
    LIST_ENTRY(BdrvTrackedRequest) in_shard;
    TAILQ_ENTRY(BdrvTrackedRequest) in_order;
};

typedef struct {
    _Alignas(BLOCK_CACHE_LINE) pthread_mutex_t lock;
    LIST_HEAD(, BdrvTrackedRequest) requests; /* guarded by lock */
} TrackerShard;

typedef struct {
    TrackerShard shards[BLOCK_SHARDS];

    /* Changed under lock, read without. */
    _Alignas(BLOCK_CACHE_LINE) _Atomic unsigned n_serialising;

    pthread_mutex_t lock; /* before the lock of any shard */
    pthread_cond_t changed;
    TAILQ_HEAD(, BdrvTrackedRequest) ordered; /* guarded by lock */
} RequestTracker;

void request_tracker_init(RequestTracker *t);
void request_tracker_destroy(RequestTracker *t);
/* Returns once nothing that @req has to wait for overlaps it. */
void tracked_request_begin(RequestTracker *t, BdrvTrackedRequest *req,
                           int64_t start, int64_t end, bool serialising);
void tracked_request_end(RequestTracker *t, BdrvTrackedRequest *req);

/* ---- nodes (node.c, io.c) -------------------------------------------- */

typedef struct BlockNodePrivate {
    RequestTracker tracker;

    _Alignas(BLOCK_CACHE_LINE) _Atomic int64_t length;
    _Atomic bool inactive; /* after bdrv_inactivate: the driver is closed */
    _Atomic bool dirty;    /* something was written since the last flush */
    _Atomic unsigned refs;

    pthread_mutex_t flush_lock; /* one flush at a time */
    pthread_mutex_t info_lock;  /* info.c; a leaf */
    _Atomic bool corrupt_untold; /* corrupt_message is there and nobody had it */
    char *corrupt_message;      /* info_lock */
} BlockNodePrivate;

/* Of a driver: the image is corrupt.  Once. */
void bdrv_set_corrupt(BlockNode *bs, const char *message);
/* Of @bs or what is below it (which stands still): the message that was not
 * told yet, or NULL; g_free.  *fatal: of one that was writable. */
char *bdrv_take_corrupt(BlockNode *bs, bool *fatal);

/* Change bs->backing, whose backend is drained; @below is taken over, the old one
 * is the caller's. */
void bdrv_set_backing(BlockNode *bs, BlockNode *below);

/* A node of @drv that is not open yet; @flags as bdrv_open. */
BlockNode *bdrv_node_new(const BlockDriver *drv, const char *filename,
                         int flags);
/* Frees one that was never opened. */
void bdrv_node_discard(BlockNode *bs);

/* Flush whatever the flags say; the driver is open. */
int bdrv_do_flush(BlockNode *bs);

/* ---- drivers (drivers.c) --------------------------------------------- */

extern const BlockDriver bdrv_raw, bdrv_qcow2, bdrv_file, bdrv_fault,
    bdrv_blklogwrites;
/* What @filename, without its "fault:", gives its faults to; NULL: nothing. */
const char *bdrv_fault_file(const char *filename);

/* As much of a file as QEMU looks at, too. */
#define BDRV_PROBE_BYTES 512

/* The driver of a format, NULL and an error if there is none. */
const BlockDriver *bdrv_find_format(const char *format, GError **errp);
/* The protocol of "fault:…:path" or "/path", and in *path what the driver
 * gets; NULL and an error for one that is not ours. */
const BlockDriver *bdrv_find_protocol(const char *filename, const char **path,
                                      GError **errp);
/* probe.c: the format whose header @buf is: its name, with *drv NULL if there is no
 * driver for it.  Never NULL: "raw" when it is nothing else. */
const char *bdrv_probe_format(const uint8_t *buf, size_t len,
                              const BlockDriver **drv);

/* backing.c: the file on the host, below all protocols. */
const char *bdrv_path(const BlockNode *bs);
/* Open what lies below @top, which is open; attaches bs->backing. */
bool bdrv_open_backing_chain(BlockNode *top, GError **errp);

/* The protocol node alone. */
BlockNode *bdrv_open_protocol(const char *filename, int flags, GError **errp);

#endif
