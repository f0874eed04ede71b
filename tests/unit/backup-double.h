/*
 * Help for tests of backups: a VM's drives on temporary files, and a
 * BackupDriver that keeps the archive in memory and does as it is told.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_BACKUP_DOUBLE_H
#define TESTS_BACKUP_DOUBLE_H

#include "../../backup/drivers.h"

#include <pthread.h>

#define MEM_MAX_STREAMS 8
#define CLUSTER ((int64_t)BACKUP_CLUSTER_SIZE)

typedef struct {
    char *name;
    uint64_t size, n_clusters;
    uint8_t *data;       /* n_clusters whole clusters */
    unsigned *n_dumped;  /* how often each came */
} MemStream;

/* There is one at a time, made by mem_reset. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    /* guarded by lock: what it is told */
    bool hold_open, hold_dump, hold_complete; /* wait there until told otherwise or cancelled */
    unsigned fail_at;        /* the N-th call fails; 0: none */
    unsigned dump_delay_us;
    /* guarded by lock: what happened */
    unsigned n_calls, n_new, n_open, n_close, n_cancel, n_complete;
    bool held;               /* waits now */
    bool cancelled;
    int fd;
    unsigned n_configs;
    char *configs;           /* NAME=DATA; … */
    unsigned n_streams;
    MemStream streams[MEM_MAX_STREAMS];
} MemBackup;

extern MemBackup mem;
extern const BackupDriver *const mem_drivers[];

void mem_reset(void); /* between backups */
void mem_set(bool *what, bool value); /* one of hold_*; wakes */
void mem_wait_held(void); /* until the backup waits in one of them */
void mem_wait_cancelled(void);
const MemStream *mem_stream(const char *name);

/* ---- drives -------------------------------------------------------------- */

typedef struct {
    char *dir;
    int flags;           /* of drives that are added */
    BlockContext *ctx;
    BackupManager *mgr;
} TestVm;

/* A manager with the double, or with the real drivers. */
TestVm *test_vm_new(bool real_drivers);
void test_vm_free(TestVm *vm); /* removes all files */
/* A drive over a new raw file; @prefix ("fault:…:") is put before its path. */
BlockBackend *test_vm_add(TestVm *vm, const char *name, uint64_t size,
                          const char *prefix);
char *test_vm_path(TestVm *vm, const char *file); /* g_free */
/* Content that is nowhere zero and different everywhere. */
void test_fill_buffer(uint8_t *data, int64_t size, unsigned seed);
void test_fill(BlockBackend *blk, unsigned seed);
uint8_t *test_read_all(BlockBackend *blk);

/* A request for the double. */
BackupRequest test_request(void);
/* It must start. */
void test_start(TestVm *vm, const BackupRequest *req);
/* Overwrite the @n clusters from @first on, one request each. */
void test_write_clusters(BlockBackend *blk, int64_t first, int64_t n);
/* Wait for the end, which must be like this; @words must be in its message,
 * NULL: there must be none. */
void test_assert_ended(TestVm *vm, BackupStatusCode status, const char *words);
/* As if there had never been a backup: no claim, and it can be written. */
void test_assert_drive_is_free(BlockBackend *blk);
/* Wait for the end; its status (clear it). */
BackupStatus test_wait_end(BackupManager *mgr);
/* Every cluster of every stream came exactly once. */
void mem_assert_exactly_once(void);
/* The stream is byte by byte as @data. */
void mem_assert_content(const char *name, const uint8_t *data, uint64_t size);

#endif
