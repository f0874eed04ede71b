/*
 * Inside vma extract: the map file, the results, the pipeline.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VMA_EXTRACT_H
#define VMA_EXTRACT_H

#include "block/block.h"
#include "cmd.h"
#include "util/ratelimit.h"

/* ---- extract-map.c ------------------------------------------------------ */

/* One line of a map file: where a device goes. */
typedef struct {
    char *devname;
    bool skip;
    char *path;
    char *format;   /* NULL: raw by name, else probed */
    char *cache;    /* NULL: writeback */
    char *group;    /* of the speed limit, or NULL */
    uint64_t bps;   /* 0: no limit */
    bool write_zeroes; /* zeros must be written: the image may hold other data */
} MapEntry;

/* devname → MapEntry.  Reads up to the line `done', an empty one, or the end.
 * @path may be a FIFO: waits for its writer, until a signal comes. */
GHashTable *extract_read_map(const char *path, GError **errp);

/* ---- extract-dir.c ------------------------------------------------------  */

/* Where a device of the archive goes. */
typedef struct {
    BlockNode *node;   /* NULL: skipped, or a vmstate */
    int fd;            /* of a vmstate; else -1 */
    int writeback_fd;  /* of the image, to start its way to the disk early; or -1 */
    uint64_t unsynced; /* bytes since that was done */
    char *name;        /* for messages */
    bool write_zeroes;
    RateLimit *limit;  /* NULL: none; borrowed */
} ExtractOutput;

/*
 * The folder that the results appear in.  Without a map it has a temporary
 * name until extract_dir_commit; with one it must be there for whoever answers
 * with the map, and only what is in it can be taken back.
 */
typedef struct {
    char *final;   /* as the user gave it */
    char *base;    /* its last part */
    char *path;    /* what it is called now */
    char *temp;    /* last part of that, if temporary; else NULL */
    int parent_fd, fd;
    GPtrArray *files; /* names in it that we made */
    bool committed;
} ExtractDir;

bool extract_dir_create(ExtractDir *dir, const char *path, bool temporary,
                        GError **errp);
/* A new file in it, never through a link; -1 and an error. */
int extract_dir_new_file(ExtractDir *dir, const char *name, GError **errp);
/* Say that @name was made in it by other means. */
void extract_dir_made(ExtractDir *dir, const char *name);
/* Sync it and give it its name. */
bool extract_dir_commit(ExtractDir *dir, bool sync, GError **errp);
/* Without commit: remove it with what we made in it. */
void extract_dir_clear(ExtractDir *dir);

/* ---- extract-pipe.c ------------------------------------------------------ */

/*
 * Move everything behind the header from @source to @outputs (indexed by
 * dev_id).  The calling thread reads and checks, a second one writes.
 */
bool extract_run(VmaSource *source, VmaReader *r, ExtractOutput *outputs,
                 Progress *progress, uint64_t *zero_bytes, GError **errp);
/* The memory that vma_source_read_header may use before. */
void *extract_buffer_new(size_t *len);
void extract_buffer_free(void *buf);

#endif
