/*
 * Makes what is written durable while more is written, so that little is left to
 * do at the end, for which a stopped guest waits.
 *
 * Whoever writes says how much.  Each UNIT of that a thread flushes; when the
 * next one is full and the disk has not got so far, the writer waits.  So at most
 * two units are in the page cache only, and a disk that is slower than the
 * network shows at the sender, as bandwidth.
 *
 * A flush that failed is remembered: the kernel tells it once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_MIGRATION_FLUSH_BEHIND_H
#define SIDECAR_MIGRATION_FLUSH_BEHIND_H

#include "block/block.h"

typedef struct FlushBehind FlushBehind;

/* @unit: bytes.  One user at a time. */
FlushBehind *flush_behind_new(uint64_t unit);
/* Waits for a flush under way. */
void flush_behind_free(FlushBehind *fb);

/* @bytes were written to @blk, which is borrowed until fb is freed.  False: an
 * earlier flush, of whichever drive, has failed. */
bool flush_behind_wrote(FlushBehind *fb, BlockBackend *blk, uint64_t bytes,
                        GError **errp);
/* Everything is durable, or false. */
bool flush_behind_finish(FlushBehind *fb, GError **errp);

#endif
