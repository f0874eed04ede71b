/*
 * Drives in QEMU's stream: the saver and the loader of its `block' section.
 *
 * The bytes are in docs/specs/block-migration.txt.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_MIGRATION_BLOCK_MIGRATION_H
#define SIDECAR_MIGRATION_BLOCK_MIGRATION_H

#include "block/block.h"
#include "migration/qemu-file.h"

#define BLOCK_SECTION_VERSION 1

/* What one record carries, bytes; the last one of a drive is padded. */
#define BLK_MIG_CHUNK (1024 * 1024)
#define BLK_MIG_SECTOR_BITS 9

/* The low bits of the 64-bit word at the head of each record. */
enum {
    BLK_MIG_FLAG_DEVICE_BLOCK = 0x01, /* a drive's name follows, then a chunk */
    BLK_MIG_FLAG_EOS = 0x02,          /* end of this section's records */
    BLK_MIG_FLAG_PROGRESS = 0x04,     /* per cent instead of the sector */
    BLK_MIG_FLAG_ZERO_BLOCK = 0x08,   /* no chunk follows: it is zeros */
};
#define BLK_MIG_FLAG_MASK 0x1ffULL

/* Counters, readable from any thread while a migration runs. */
typedef struct {
    uint64_t total;       /* bytes of all drives that are copied */
    uint64_t remaining;   /* bytes of chunks that are marked */
    uint64_t transferred; /* bytes of records */
    uint64_t duplicate;   /* chunks of zeros */
    uint64_t normal;      /* chunks sent whole */
    uint64_t skipped;     /* chunks that the backing file has */
    uint64_t passes;
} BlockMigStats;

typedef struct BlockSaver BlockSaver;

/*
 * Begins to watch what is written to the @n drives, which the caller has
 * claimed; empty and read-only ones are left out.  @inc: of a drive with a
 * backing file only what lies above that; at least one must have such.  Not on
 * the main thread (drains).
 */
BlockSaver *block_saver_new(BlockBackend *const *blks, size_t n, bool inc,
                            GError **errp);
/* Ends the watching (drains).  NULL allowed. */
void block_saver_free(BlockSaver *s);

/* The migration thread, in this order.  Errors of the stream stick to @f; a
 * drive that can't be read is an error. */

/* The first section's records: none. */
void block_saver_setup(BlockSaver *s, QEMUFile *f);
/* One section's records of the present pass, within the file's limit.
 * *more: something is left of it. */
bool block_saver_iterate(BlockSaver *s, QEMUFile *f, bool *more, GError **errp);
/* Begin another pass over what is marked. */
void block_saver_next_pass(BlockSaver *s);
/* Bytes that all marked chunks will take. */
uint64_t block_saver_pending(const BlockSaver *s);
/* The guest is stopped: the last section's records, all that is marked, without
 * a limit. */
bool block_saver_complete(BlockSaver *s, QEMUFile *f, GError **errp);

/* Any thread. */
void block_saver_stats(const BlockSaver *s, BlockMigStats *st);

/* ---- loading ------------------------------------------------------------ */

typedef struct BlockLoader BlockLoader;

/* Into the drives of @ctx, which is borrowed. */
BlockLoader *block_loader_new(BlockContext *ctx);
void block_loader_free(BlockLoader *l);

/*
 * One section's records.  Whatever comes in, only drives that are named, that
 * may be written and inside their length.
 */
bool block_loader_load(BlockLoader *l, QEMUFile *f, GError **errp);
/* Make durable what was loaded; most of it is already. */
bool block_loader_flush(BlockLoader *l, GError **errp);

#endif
