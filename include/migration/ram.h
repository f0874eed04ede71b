/*
 * Guest RAM in QEMU's stream: the saver and the loader.
 *
 * The bytes are in docs/specs/qemu-stream.txt (the `ram' section).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_MIGRATION_RAM_H
#define SIDECAR_MIGRATION_RAM_H

#include "emulator/dirty-log.h"
#include "migration/qemu-file.h"

/* The low bits of the 64-bit word at the head of each record. */
enum {
    RAM_SAVE_FLAG_ZERO = 0x02,     /* a fill byte follows */
    RAM_SAVE_FLAG_MEM_SIZE = 0x04, /* the list of blocks follows */
    RAM_SAVE_FLAG_PAGE = 0x08,     /* the page follows */
    RAM_SAVE_FLAG_EOS = 0x10,      /* end of this section's records */
    RAM_SAVE_FLAG_CONTINUE = 0x20, /* same block as the record before */
    RAM_SAVE_FLAG_XBZRLE = 0x40,
};
#define RAM_SAVE_FLAG_MASK 0xfffULL
#define RAM_XBZRLE_ENCODING 1 /* the byte before an XBZRLE page's be16 length */

/*
 * A block of guest RAM.  @host: the mapping shared with QEMU, which the saver
 * reads and the loader writes; NULL for a block that QEMU keeps to itself (ROMs,
 * video memory), whose records travel as they came from QEMU.
 */
typedef struct {
    char idstr[256];
    uint64_t length; /* bytes, whole pages */
    uint8_t *host;
    DirtyLog *log;   /* saver only, borrowed; set where @host is */
    int fd;          /* of the file behind @host, borrowed, for its holes; 0: none */
} RamBlock;

/* Counters, readable from any thread while a migration runs. */
typedef struct {
    uint64_t duplicate;    /* zero pages */
    uint64_t normal;       /* whole pages */
    uint64_t skipped;      /* found unchanged when their turn came */
    uint64_t xbzrle_pages, xbzrle_bytes;
    uint64_t cache_lookup; /* pages looked for in the cache */
    uint64_t cache_miss;
    uint64_t overflow;     /* pages that XBZRLE would have made larger */
    uint64_t remaining;    /* pages marked and not yet sent */
    uint64_t total;        /* pages of all shared blocks */
    uint64_t dirty_sync_count;
    uint64_t dirty_pages_rate; /* pages a second, over the last round */
    uint64_t transferred;  /* bytes of records */
} RamStats;

typedef struct RamSaver RamSaver;

/* @blocks (@n of them) are borrowed and outlive the saver.  @page_size is that
 * of the target.  @cache_budget: bytes for XBZRLE, 0: XBZRLE is off. */
RamSaver *ram_saver_new(const RamBlock *blocks, size_t n, uint32_t page_size,
                        uint64_t cache_budget, GError **errp);
void ram_saver_free(RamSaver *s);

/* The migration thread, in this order.  Errors of the stream stick to @f. */

/* The list of blocks. */
bool ram_saver_setup(RamSaver *s, QEMUFile *f, GError **errp);
/* Send marked pages until the share of the file's rate slice is used up or
 * none is left.  *more: pages are left over. */
bool ram_saver_iterate(RamSaver *s, QEMUFile *f, bool *more, GError **errp);
/* Begin a round: ask the log.  The first round has every page. */
bool ram_saver_sync(RamSaver *s, GError **errp);
/* What sending the marked pages will take, in bytes, going by what pages took
 * in the last round. */
uint64_t ram_saver_pending(const RamSaver *s);
/* The guest is stopped: a last sync, then all that is left, without a limit.
 * The caller adds the records of other blocks and the end mark. */
bool ram_saver_complete(RamSaver *s, QEMUFile *f, GError **errp);

/* Between two calls of the above, from the migration thread. */
bool ram_saver_set_cache_budget(RamSaver *s, uint64_t budget, GError **errp);
/* Any thread. */
void ram_saver_stats(const RamSaver *s, RamStats *st);

/* ---- loading ---------------------------------------------------------------- */

typedef struct RamLoader RamLoader;

/*
 * Pages of blocks without @host are kept by the loader.  With @unknown, the list
 * of blocks in the stream may name more blocks, of @unknown bytes in all; they
 * are kept too, and whoever gets them decides.  0: every block must be known.
 */
RamLoader *ram_loader_new(const RamBlock *blocks, size_t n, uint32_t page_size,
                          uint64_t unknown, GError **errp);
void ram_loader_free(RamLoader *l);

/*
 * One section's records, up to and with the end mark.  Whatever comes in,
 * nothing outside the blocks is written, and the page that a bad record names
 * stays as it was before that record.  The list of blocks must come first and
 * name the same blocks with the same lengths, in any order.
 */
bool ram_loader_load(RamLoader *l, QEMUFile *f, GError **errp);
/* The caller has read the list of blocks itself. */
void ram_loader_skip_list(RamLoader *l);
/* Put the list of blocks as it was read, with its end mark. */
void ram_loader_put_list(RamLoader *l, QEMUFile *f);
/* Put the pages kept for blocks without host as records (no end mark); but for those
 * that are as in @known, which the other end has (NULL: nothing). */
void ram_loader_put_foreign(const RamLoader *l, const RamLoader *known, QEMUFile *f);
/* The same, as much as the file's rate slice allows, from *@pos on (begin with zeros);
 * false: that was the last of them. */
typedef struct {
    guint block;
    uint64_t page;
} RamPosition;
bool ram_loader_put_foreign_part(const RamLoader *l, RamPosition *pos, QEMUFile *f);

#endif
