/*
 * The log of block/blklogwrites.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BLOCK_BLKLOGWRITES_H
#define BLOCK_BLKLOGWRITES_H

#include <stdint.h>

typedef enum {
    BLKLOG_WRITE = 1, /* followed by the data */
    BLKLOG_ZERO,
    BLKLOG_DISCARD,
    BLKLOG_FLUSH,
    BLKLOG_TRUNCATE,  /* offset is the new length */
} BlkLogType;

typedef struct {
    uint64_t type, offset, bytes;
} BlkLogRecord;

#endif
