/*
 * The way of clusters to the archive; see queue.h.
 *
 * Invariants (lock held): every buffer is on the free stack, in the ring, or
 * with one caller; the ring has room for all of them and an item more for each
 * drive, so that pushing never waits and never allocates.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "queue.h"

#include "sync.h"
#include "util/error.h"

#include <errno.h>
#include <stdlib.h>

struct BackupQueue {
    /* constant */
    char *memory;
    size_t ring_size;

    pthread_mutex_t lock;
    pthread_cond_t item_cond; /* the writer: an item, closed, stopped */
    pthread_cond_t free_cond; /* the sweep: a free buffer, stopped */
    /* guarded by lock */
    void **free_bufs; /* a stack: the last one used is warm in the caches */
    size_t n_free;
    BackupItem *ring;
    size_t ring_head, ring_len;
    bool closed, stopped;
};

BackupQueue *backup_queue_new(unsigned n_drives, unsigned n_buffers, GError **errp)
{
    BackupQueue *q = g_new0(BackupQueue, 1);
    void *p;
    int ret = posix_memalign(&p, BACKUP_CLUSTER_SIZE, (size_t)n_buffers * BACKUP_CLUSTER_SIZE);

    if (ret) {
        error_set_errno(errp, ret, "memory for the backup");
        g_free(q);
        return NULL;
    }
    q->memory = p;
    q->free_bufs = g_new(void *, n_buffers);
    while (q->n_free < n_buffers) {
        q->free_bufs[q->n_free] = q->memory + q->n_free * BACKUP_CLUSTER_SIZE;
        q->n_free++;
    }
    q->ring_size = (size_t)n_buffers + n_drives;
    q->ring = g_new(BackupItem, q->ring_size);
    pthread_mutex_init(&q->lock, NULL);
    sync_cond_init(&q->item_cond);
    sync_cond_init(&q->free_cond);
    return q;
}

void backup_queue_free(BackupQueue *q)
{
    if (!q) {
        return;
    }
    free(q->memory);
    g_free(q->free_bufs);
    g_free(q->ring);
    pthread_cond_destroy(&q->item_cond);
    pthread_cond_destroy(&q->free_cond);
    pthread_mutex_destroy(&q->lock);
    g_free(q);
}

void backup_queue_stop(BackupQueue *q)
{
    pthread_mutex_lock(&q->lock);
    q->stopped = true;
    pthread_cond_broadcast(&q->item_cond);
    pthread_cond_broadcast(&q->free_cond);
    pthread_mutex_unlock(&q->lock);
}

void backup_queue_close(BackupQueue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_cond_broadcast(&q->item_cond);
    pthread_mutex_unlock(&q->lock);
}

/* ---- the sweep ----------------------------------------------------------- */

void *backup_queue_get(BackupQueue *q)
{
    void *buf = NULL;

    pthread_mutex_lock(&q->lock);
    if (!q->stopped && q->n_free) {
        buf = q->free_bufs[--q->n_free];
    }
    pthread_mutex_unlock(&q->lock);
    return buf;
}

void backup_queue_wait(BackupQueue *q)
{
    pthread_mutex_lock(&q->lock);
    while (!q->stopped && !q->n_free) {
        pthread_cond_wait(&q->free_cond, &q->lock);
    }
    pthread_mutex_unlock(&q->lock);
}

void backup_queue_put(BackupQueue *q, void *buf)
{
    pthread_mutex_lock(&q->lock);
    q->free_bufs[q->n_free++] = buf;
    pthread_cond_signal(&q->free_cond);
    pthread_mutex_unlock(&q->lock);
}

void backup_queue_push(BackupQueue *q, unsigned drive, uint64_t cluster, void *buf)
{
    BackupItem item = { .drive = drive, .cluster = cluster, .buf = buf };

    pthread_mutex_lock(&q->lock);
    q->ring[(q->ring_head + q->ring_len++) % q->ring_size] = item;
    pthread_cond_signal(&q->item_cond);
    pthread_mutex_unlock(&q->lock);
}

void backup_queue_push_holes(BackupQueue *q, unsigned drive)
{
    backup_queue_push(q, drive, 0, NULL);
}

/* ---- the writer ------------------------------------------------------------ */

BackupPop backup_queue_pop(BackupQueue *q, BackupItem *item, bool wait)
{
    BackupPop pop = BACKUP_POP_NONE;

    pthread_mutex_lock(&q->lock);
    while (wait && !q->ring_len && !q->closed && !q->stopped) {
        pthread_cond_wait(&q->item_cond, &q->lock);
    }
    if (q->stopped) {
        pop = BACKUP_POP_END;
    } else if (q->ring_len) {
        *item = q->ring[q->ring_head];
        q->ring_head = (q->ring_head + 1) % q->ring_size;
        q->ring_len--;
        pop = BACKUP_POP_ITEM;
    } else if (q->closed) {
        pop = BACKUP_POP_END;
    }
    pthread_mutex_unlock(&q->lock);
    return pop;
}

void backup_queue_done(BackupQueue *q, const BackupItem *item)
{
    if (item->buf) {
        backup_queue_put(q, item->buf);
    }
}
