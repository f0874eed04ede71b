/*
 * What an image format or protocol implements.  A driver is one static table
 * at the end of its file, listed in block/drivers.c; a missing method means
 * what its comment says.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BLOCK_BLOCK_DRIVER_H
#define SIDECAR_BLOCK_BLOCK_DRIVER_H

#include "block/block.h"

typedef struct BlockDriver BlockDriver;

struct BlockDriver {
    const char *format_name;
    bool is_protocol;     /* opened by name; a format gets bs->file opened first */
    size_t instance_size; /* of node->opaque, zeroed */

    /* 0…100: how sure it is that @buf (the first @len bytes) is its format. */
    int (*probe)(const uint8_t *buf, size_t len);
    bool (*open)(BlockNode *bs, int flags, GError **errp);
    /* After a flush; every resource goes.  Never fails. */
    void (*close)(BlockNode *bs);
    /* Missing: -ENOTSUP.  @size etc. as bdrv_create. */
    bool (*create)(const char *filename, int64_t size, const char *backing_file,
                   const char *backing_format, GError **errp);

    int64_t (*length)(BlockNode *bs);          /* missing: that of bs->file */
    int64_t (*allocated_size)(BlockNode *bs);  /* missing: that of bs->file */

    /* The range is inside the image; it starts at a multiple of
     * node->request_alignment and ends at one or at the end of the image.
     * Reads and writes are at most BDRV_REQUEST_MAX_BYTES, zeroes and discards
     * may be the whole image.  buf is aligned to node->memory_alignment.  Any
     * number of calls at once. */
    int (*pread)(BlockNode *bs, int64_t offset, int64_t bytes, void *buf);
    int (*pwrite)(BlockNode *bs, int64_t offset, int64_t bytes, const void *buf,
                  int flags);                  /* FUA: missing support is emulated by flush if !supports_fua */
    int (*pwrite_zeroes)(BlockNode *bs, int64_t offset, int64_t bytes,
                         int flags);           /* missing or -ENOTSUP: zeros are written */
    int (*pdiscard)(BlockNode *bs, int64_t offset, int64_t bytes); /* missing: nothing */
    int (*flush)(BlockNode *bs);               /* missing: flush of bs->file */
    int (*block_status)(BlockNode *bs, int64_t offset, int64_t bytes,
                        int64_t *pnum);        /* missing: all data */
    bool (*truncate)(BlockNode *bs, int64_t size, GError **errp);
    bool supports_fua;
    /* It holds back metadata until flush: that is called even with
     * BDRV_O_NO_FLUSH (flushes of bs->file do nothing then). */
    bool write_back;

    /* The name of the backing file as the image has it (borrowed), and in
     * *format its format or NULL; NULL: none.  Missing: never one. */
    const char *(*backing_file)(BlockNode *bs, const char **format);
    /* The driver's own fields of @info, without waiting.  Missing: none. */
    void (*image_info)(BlockNode *bs, BdrvImageInfo *info);
    /* As bdrv_change_backing_file.  What backing_file gives changes under
     * priv->info_lock. */
    bool (*change_backing_file)(BlockNode *bs, const char *file,
                                const char *format, GError **errp);

    /* For bdrv_bulk_*: the file descriptor and the offset in it at which the
     * aligned range can be read with O_DIRECT; false: not that simple. */
    bool (*map_direct)(BlockNode *bs, int64_t offset, int64_t bytes, int *fd,
                       int64_t *fd_offset);
    /* The range will be read soon: start to bring it into memory.  Does not
     * wait.  Missing: nothing. */
    void (*will_need)(BlockNode *bs, int64_t offset, int64_t bytes);
};

/* The parts of a node that its driver may use. */
struct BlockNode {
    const BlockDriver *drv;
    void *opaque;           /* drv->instance_size bytes, the driver's own */
    char *filename;
    int flags;              /* BdrvOpenFlags */
    BlockNode *file;        /* of a format: the protocol node; owned */
    BlockNode *backing;     /* or NULL; owned */
    uint32_t request_alignment; /* set by open; power of two, 1…65536 */
    uint32_t memory_alignment;  /* set by open; power of two */
    struct BlockNodePrivate *priv; /* block/node.c: length, locks, tracked requests, references */
};

extern const BlockDriver *const bdrv_drivers[]; /* NULL-terminated */

#endif
