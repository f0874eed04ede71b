/*
 * Backups as VMA archives: a BackupDriver over a VmaTarget and a VmaWriter.
 *
 *     new ──open──► target open ──► registering, dump … ──complete──► done
 *      │                                                               │
 *      └───────────────── close at any point ◄────────────────────────┘
 *
 * The lock guards only the pointer to the target and the cancel flag, so that
 * a cancel that comes before or during open is not lost.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "drivers.h"

#include "util/error.h"
#include "vma/vma.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    char *spec;
    int fd; /* -1 once the target has it */
    uint8_t uuid[16];
    VmaWriter *writer;

    pthread_mutex_t lock;
    VmaTarget *target; /* guarded by lock while others may cancel */
    bool cancelled;    /* guarded by lock */
} VmaBackup;

static void *vma_backup_new(const char *spec, int fd, const uint8_t uuid[16],
                            GError **errp)
{
    VmaBackup *b = g_new0(VmaBackup, 1);

    b->spec = g_strdup(spec);
    b->fd = fd;
    memcpy(b->uuid, uuid, sizeof(b->uuid));
    pthread_mutex_init(&b->lock, NULL);
    return b;
}

static bool vma_backup_open(void *opaque, GError **errp)
{
    VmaBackup *b = opaque;
    VmaTarget *target;
    bool cancelled;
    int fd = b->fd;

    b->fd = -1;
    target = fd >= 0 ? vma_target_from_fd(fd, b->spec, errp)
                     : vma_target_open(b->spec, errp);
    if (!target) {
        return false;
    }
    pthread_mutex_lock(&b->lock);
    b->target = target;
    cancelled = b->cancelled;
    pthread_mutex_unlock(&b->lock);
    if (cancelled) {
        vma_target_cancel(target); /* it came while nobody could hear it */
    }
    b->writer = vma_writer_new(target, b->uuid, g_get_real_time() / G_USEC_PER_SEC,
                               true, errp);
    return b->writer != NULL;
}

static bool vma_backup_register_config(void *opaque, const char *name,
                                       const void *data, size_t len, GError **errp)
{
    VmaBackup *b = opaque;

    return vma_writer_add_config(b->writer, name, data, len, errp);
}

static int vma_backup_register_stream(void *opaque, const char *name,
                                      uint64_t size, GError **errp)
{
    VmaBackup *b = opaque;
    unsigned id = vma_writer_add_device(b->writer, name, size, errp);

    return id ? (int)id : -1;
}

static bool vma_backup_dump(void *opaque, int stream, uint64_t cluster,
                            const void *buf, size_t *zero_bytes, GError **errp)
{
    VmaBackup *b = opaque;
    int64_t zeros = vma_writer_put_cluster(b->writer, stream, cluster, buf, errp);

    *zero_bytes = MAX(zeros, 0);
    return zeros >= 0;
}

static bool vma_backup_complete(void *opaque, GError **errp)
{
    VmaBackup *b = opaque;

    return vma_writer_finish(b->writer, errp) && vma_target_commit(b->target, errp);
}

static void vma_backup_cancel(void *opaque)
{
    VmaBackup *b = opaque;

    pthread_mutex_lock(&b->lock);
    b->cancelled = true;
    if (b->target) {
        vma_target_cancel(b->target);
    }
    pthread_mutex_unlock(&b->lock);
}

static void vma_backup_close(void *opaque)
{
    VmaBackup *b = opaque;

    vma_writer_free(b->writer);
    vma_target_free(b->target);
    if (b->fd >= 0) {
        close(b->fd);
    }
    pthread_mutex_destroy(&b->lock);
    g_free(b->spec);
    g_free(b);
}

const BackupDriver backup_driver_vma = {
    .format = "vma",
    .max_config_size = 65535, /* a blob's length has two bytes */
    .max_configs = VMA_MAX_CONFIGS,
    .max_streams = VMA_MAX_DEVICES,
    .new = vma_backup_new,
    .open = vma_backup_open,
    .register_config = vma_backup_register_config,
    .register_stream = vma_backup_register_stream,
    .dump = vma_backup_dump,
    .complete = vma_backup_complete,
    .cancel = vma_backup_cancel,
    .close = vma_backup_close,
};
