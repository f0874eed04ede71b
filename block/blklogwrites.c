/*
 * The protocol `blklogwrites': a file, and beside it a log of all that was
 * written to it, for tests that cut the power.
 *
 *     blklogwrites:LOG:FILE      LOG is a path without a colon; it is overwritten
 *
 * Each record is a head (BlkLogRecord, host endianness) and, of a write, the
 * data. A write is logged when it is done, a flush when it begins: what stands
 * before a flush in the log is what the flush made durable.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blklogwrites.h"
#include "util/error.h"

typedef struct {
    pthread_mutex_t lock;
    FILE *log; /* guarded by lock */
} LogState;

static int append(BlockNode *bs, BlkLogType type, int64_t offset, int64_t bytes,
                  const void *data)
{
    LogState *s = bs->opaque;
    BlkLogRecord r = { .type = type, .offset = offset, .bytes = bytes };
    bool ok;

    pthread_mutex_lock(&s->lock);
    ok = fwrite(&r, sizeof(r), 1, s->log) == 1 &&
         (!data || fwrite(data, bytes, 1, s->log) == 1) && fflush(s->log) == 0;
    pthread_mutex_unlock(&s->lock);
    return ok ? 0 : -EIO;
}

static int blklog_pread(BlockNode *bs, int64_t offset, int64_t bytes, void *buf)
{
    return bdrv_pread(bs->file, offset, bytes, buf);
}

static int blklog_pwrite(BlockNode *bs, int64_t offset, int64_t bytes,
                         const void *buf, int flags)
{
    int ret = bdrv_pwrite(bs->file, offset, bytes, buf, flags);

    return ret < 0 ? ret : append(bs, BLKLOG_WRITE, offset, bytes, buf);
}

static int blklog_pwrite_zeroes(BlockNode *bs, int64_t offset, int64_t bytes,
                                int flags)
{
    int ret = bdrv_pwrite_zeroes(bs->file, offset, bytes, flags);

    return ret < 0 ? ret : append(bs, BLKLOG_ZERO, offset, bytes, NULL);
}

static int blklog_pdiscard(BlockNode *bs, int64_t offset, int64_t bytes)
{
    int ret = bdrv_pdiscard(bs->file, offset, bytes);

    return ret < 0 ? ret : append(bs, BLKLOG_DISCARD, offset, bytes, NULL);
}

static int blklog_flush(BlockNode *bs)
{
    int ret = append(bs, BLKLOG_FLUSH, 0, 0, NULL);

    return ret < 0 ? ret : bdrv_flush(bs->file);
}

static bool blklog_truncate(BlockNode *bs, int64_t size, GError **errp)
{
    return bdrv_truncate(bs->file, size, errp) &&
           append(bs, BLKLOG_TRUNCATE, size, 0, NULL) == 0;
}

static void blklog_close(BlockNode *bs)
{
    LogState *s = bs->opaque;

    fclose(s->log);
    pthread_mutex_destroy(&s->lock);
}

static bool blklog_open(BlockNode *bs, int flags, GError **errp)
{
    LogState *s = bs->opaque;
    const char *colon = strchr(bs->filename, ':');
    g_autofree char *log = NULL;

    if (!colon) {
        error_set(errp, "'blklogwrites:%s': expected blklogwrites:LOG:FILE",
                  bs->filename);
        return false;
    }
    bs->file = bdrv_open_protocol(colon + 1, flags, errp);
    if (!bs->file) {
        return false;
    }
    log = g_strndup(bs->filename, colon - bs->filename);
    s->log = fopen(log, "we");
    if (!s->log) {
        error_set_errno(errp, errno, "Could not create '%s'", log);
        return false;
    }
    pthread_mutex_init(&s->lock, NULL);
    bs->request_alignment = bs->file->request_alignment;
    bs->memory_alignment = bs->file->memory_alignment;
    return true;
}

const BlockDriver bdrv_blklogwrites = {
    .format_name = "blklogwrites",
    .is_protocol = true,
    .instance_size = sizeof(LogState),
    .open = blklog_open,
    .close = blklog_close,
    .pread = blklog_pread,
    .pwrite = blklog_pwrite,
    .pwrite_zeroes = blklog_pwrite_zeroes,
    .pdiscard = blklog_pdiscard,
    .flush = blklog_flush,
    .truncate = blklog_truncate,
};
