/*
 * Live backup of a VM's drives: copy-before-write, all drives at one instant.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BACKUP_BACKUP_H
#define SIDECAR_BACKUP_BACKUP_H

#include "block/block.h"

#define BACKUP_CLUSTER_SIZE 65536
#define BACKUP_BLOCK_SIZE 4096 /* of what guests' writes save */
#define BACKUP_BUFFER_DEFAULT (64 * 1024 * 1024)
#define BACKUP_SPILL_DEFAULT (INT64_C(4) * 1024 * 1024 * 1024)
#define BACKUP_STALL_DEFAULT_MS 5000

/*
 * Where a backup goes.  One static table a format, listed in
 * backup/drivers.c.  One thread at a time calls it: new, open, the registering
 * calls, dump any number of times, complete, close.  Only cancel may come from
 * any other thread at any time between new and close, more than once; it never
 * waits, and makes the call under way and all later ones but close return with
 * SIDECAR_ERROR_CANCELLED soon.
 */
typedef struct BackupDriver BackupDriver;
struct BackupDriver {
    const char *format; /* "vma" */
    size_t max_config_size;
    unsigned max_configs, max_streams;

    /* @spec as in QMP's backup-file; @fd >= 0: write to that instead (taken
     * over, also on failure).  Opens nothing and waits for nothing. */
    void *(*new)(const char *spec, int fd, const uint8_t uuid[16],
                 GError **errp);
    /* May wait, for the reader of a FIFO say.  Nothing is visible under the
     * final name before complete. */
    bool (*open)(void *opaque, GError **errp);
    bool (*register_config)(void *opaque, const char *name, const void *data,
                            size_t len, GError **errp);
    /* A stream of @size bytes; returns its id (1…254) or -1. */
    int (*register_stream)(void *opaque, const char *name, uint64_t size,
                           GError **errp);
    /* One cluster (BACKUP_CLUSTER_SIZE bytes, NULL = zeros) of a stream.
     * *zero_bytes: how much of it was zero. */
    bool (*dump)(void *opaque, int stream, uint64_t cluster, const void *buf,
                 size_t *zero_bytes, GError **errp);
    /* Everything was dumped: make it durable and give it its name. */
    bool (*complete)(void *opaque, GError **errp);
    void (*cancel)(void *opaque);
    /* Without complete before: remove everything. */
    void (*close)(void *opaque);
};

typedef enum {
    BACKUP_STATUS_NONE, /* no backup yet */
    BACKUP_STATUS_ACTIVE,
    BACKUP_STATUS_DONE,
    BACKUP_STATUS_ERROR,
    BACKUP_STATUS_CANCELLED,
} BackupStatusCode;

typedef struct {
    BackupStatusCode status;
    char *errmsg;           /* or NULL */
    uint64_t total;         /* bytes of all drives */
    uint64_t transferred;   /* of total; equals it at DONE */
    uint64_t zero_bytes;    /* of transferred */
    int64_t start_time, end_time; /* seconds since 1970; end 0 while active */
    char *backup_file;
    char uuid[37];
    bool finishing;         /* only the archive is still being written */
    int64_t speed;          /* the limit in bytes/s; 0: none */
    uint64_t guest_copied;  /* bytes that guests' writes had to keep first */
    uint64_t spilled;       /* of those, through the temporary file */
    uint64_t memory;        /* bytes for old data, the most at once */
} BackupStatus;
void backup_status_clear(BackupStatus *st);

typedef struct {
    const char *backup_file;  /* path or exec:CMD */
    int target_fd;            /* >= 0: already resolved; taken over, also on
                                 failure.  Else -1 */
    const char *format;       /* NULL: "vma" */
    const char *const *config_files; /* paths, NULL-terminated, or NULL */
    const char *devlist;      /* names separated by , ; : — NULL: every drive
                                 with a medium that is not read-only */
    int64_t speed;            /* bytes/s for the sweep, 0: no limit */
    uint64_t buffer_size;     /* memory for old data, 0: BACKUP_BUFFER_DEFAULT */
    /* When that is full because the archive is slow, what guests overwrite goes
     * to an unlinked file in @spill_dir (NULL: $TMPDIR, else /var/tmp), of at most
     * @spill_limit bytes (0: BACKUP_SPILL_DEFAULT, < 0: none). */
    const char *spill_dir;
    int64_t spill_limit;
    /* How long a guest's write waits when neither has room before the backup is
     * given up; 0: BACKUP_STALL_DEFAULT_MS. */
    unsigned stall_ms;
} BackupRequest;

/* The backups of one VM: at most one at a time, and the status of the last. */
typedef struct BackupManager BackupManager;

/* @ctx is borrowed and outlives the manager. */
BackupManager *backup_manager_new(BlockContext *ctx);
/* Cancels what runs and waits for it. */
void backup_manager_free(BackupManager *mgr);
/* Not on the main thread: reads config files, opens the archive, drains the
 * drives.  On return the instant has been taken.  The uuid as text (free with
 * g_free), or NULL. */
char *backup_start(BackupManager *mgr, const BackupRequest *req, GError **errp);
/* Returns when the job has ended and the archive is gone; also with no job.
 * Not on the main thread. */
void backup_cancel(BackupManager *mgr);
/* Any thread; @st is filled with copies (backup_status_clear). */
void backup_query(BackupManager *mgr, BackupStatus *st);

#endif
