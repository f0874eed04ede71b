/*
 * Block jobs: long work on a drive, beside the guest.
 *
 *     running ──► done          event, drive released
 *        │   └──► failed
 *        └─cancel► cancelling ──► cancelled
 *
 * A job is a thread with a state, a speed limit, a progress count and a cancel
 * flag that every wait honours.  It holds the claim of its drive from start to
 * end.  At most one a drive; the set of a VM's jobs hands out copies.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BLOCK_JOB_H
#define SIDECAR_BLOCK_JOB_H

#include "block/block.h"

typedef struct BlockJob BlockJob;
typedef struct BlockJobSet BlockJobSet;

typedef enum {
    BLOCK_JOB_RUNNING,
    BLOCK_JOB_DONE,
    BLOCK_JOB_FAILED,
    BLOCK_JOB_CANCELLED,
} BlockJobState;

typedef struct {
    char *device;
    const char *type;    /* "stream" */
    int64_t len, offset; /* bytes; offset == len at the end of a good one */
    int64_t speed;       /* bytes/s; 0: no limit */
    bool cancelling;
    BlockJobState state;
    char *error;         /* FAILED: why, in words */
} BlockJobInfo;
void block_job_info_clear(BlockJobInfo *info);

/* Called on the job's thread when it has ended and has released its drive;
 * @info is borrowed. */
typedef void BlockJobEndedFn(void *opaque, const BlockJobInfo *info);

BlockJobSet *block_job_set_new(BlockJobEndedFn *ended, void *opaque);
/* Cancels all and waits; no other one starts. */
void block_job_set_stop(BlockJobSet *set);
void block_job_set_free(BlockJobSet *set);

/* Any thread.  The array of BlockJobInfo clears its elements; free it with
 * g_array_unref. */
GArray *block_job_list(BlockJobSet *set);
/* SIDECAR_ERROR_DEVICE_NOT_ACTIVE if @device has no job. */
bool block_job_set_speed(BlockJobSet *set, const char *device, int64_t speed,
                         GError **errp);
/* Ask it to end.  DeviceNotActive, or SIDECAR_ERROR_DEVICE_IN_USE if it is being
 * cancelled already.  With @wait returns when it has ended: then not on the main
 * thread. */
bool block_job_cancel(BlockJobSet *set, const char *device, bool wait,
                      GError **errp);

/* ---- for those who write jobs ---------------------------------------------- */

typedef struct {
    const char *type;
    /* The work.  False with an error; if it was cancelled the error does not
     * matter. */
    bool (*run)(BlockJob *job, void *opaque, GError **errp);
    void (*free)(void *opaque);
} BlockJobOps;

/* Starts; the caller has claimed @blk, and the claim and @opaque are taken over,
 * also on failure. */
bool block_job_start(BlockJobSet *set, BlockBackend *blk, const BlockJobOps *ops,
                     void *opaque, int64_t len, int64_t speed, GError **errp);
/* From run: @bytes are done; waits as the speed limit wants.  False: cancelled. */
bool block_job_progress(BlockJob *job, int64_t bytes, bool counts);
bool block_job_is_cancelled(BlockJob *job);

/* ---- image streaming ---------------------------------------------------------- */

/*
 * Fill the image of @blk from its backing files, down to but without @base (a
 * file name as the image has it; NULL: all of them), and at the end let go of
 * them: the image then has no backing file, or @base.
 *
 * SIDECAR_ERROR_DEVICE_IN_USE, SIDECAR_ERROR_NOT_SUPPORTED (no medium, a format
 * without backing files, read-only).
 */
bool block_stream_start(BlockJobSet *set, BlockBackend *blk, const char *base,
                        int64_t speed, GError **errp);

/*
 * Live snapshot: put a new image of @format at @file over the one that @blk
 * runs from, which becomes its backing file.  @existing: the file is there
 * already.
 */
typedef struct {
    BlockBackend *blk;
    const char *file, *format;
    bool existing;
} BlockSnapshot;

/* Of all these drives at one instant, or of none.  Waits for requests in flight;
 * not on the main thread. */
bool block_snapshot(const BlockSnapshot *snapshots, size_t n, GError **errp);

#endif
