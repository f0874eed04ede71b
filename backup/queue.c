/*
 * The way of old data to the archive; see queue.h.
 *
 * One lock for all, held for a few instructions at a time and never while
 * anything is read or written.  Everything in memory goes to the archive
 * before anything in the spill file, because memory is what guests wait for.
 *
 * Invariants (lock held):
 *   1. every buffer is on the free stack, in the ring, or with one caller;
 *   2. the ring has room for all buffers and an item more for each drive, so
 *      that pushing never waits and never allocates;
 *   3. a slot of the spill file is free, with one caller, or in `spilled'.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "queue.h"

#include "spill.h"
#include "util/error.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>

#define MIN_BUFFERS 16
#define MAX_BOUNCE 16      /* buffers through which guests reach the spill file */
#define MAX_SWEEP 64       /* a short queue stays in the CPU's caches */

struct BackupQueue {
    /* constant */
    char *memory; /* n_buffers clusters */
    size_t n_buffers;
    size_t bounce;     /* guests spill when no more than this are free */
    size_t sweep_keep; /* the sweep waits when no more than this are free */
    unsigned stall_ms;
    void *load_buf;    /* the writer's, for what comes out of the spill file */

    pthread_mutex_t lock;
    pthread_cond_t item_cond;  /* the writer: an item, closed, stopped */
    pthread_cond_t guest_cond; /* guests: a free buffer or slot, stopped */
    pthread_cond_t sweep_cond; /* the sweep: room for it, stopped */
    /* guarded by lock */
    void **free_bufs; /* a stack: the last one used is warm in the caches */
    size_t n_free, min_free;
    BackupItem *ring;
    size_t ring_size, ring_head, ring_len;
    BackupSpill *spill;
    GArray *spilled; /* of BackupItem; a stack, any order will do */
    uint64_t n_spilled;
    uint64_t next_ticket, now_served; /* of guests that wait; equal: none */
    bool closed, stopped;
};

static void cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

static struct timespec deadline_in(int64_t ns)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    ts.tv_sec += ns / 1000000000;
    ts.tv_nsec += ns % 1000000000;
    if (ts.tv_nsec >= 1000000000) {
        ts.tv_sec++;
        ts.tv_nsec -= 1000000000;
    }
    return ts;
}

static bool alloc_memory(BackupQueue *q, GError **errp)
{
    size_t len = (q->n_buffers + 1) * BACKUP_CLUSTER_SIZE;
    /* Pages come with their first use; a cluster more for the alignment. */
    void *p = mmap(NULL, len + BACKUP_CLUSTER_SIZE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        error_set_errno(errp, errno, "memory for the backup (%zu bytes)", len);
        return false;
    }
    q->memory = p;
    return true;
}

BackupQueue *backup_queue_new(unsigned n_drives, uint64_t buffer_size,
                              const char *spill_dir, int64_t spill_limit,
                              unsigned stall_ms, GError **errp)
{
    BackupQueue *q = g_new0(BackupQueue, 1);
    char *first;

    q->n_buffers = CLAMP(buffer_size / BACKUP_CLUSTER_SIZE, MIN_BUFFERS, 1 << 20);
    if (!alloc_memory(q, errp)) {
        g_free(q);
        return NULL;
    }
    q->bounce = MIN(q->n_buffers / 8, MAX_BOUNCE);
    q->sweep_keep = q->n_buffers - MIN(q->n_buffers / 4, MAX_SWEEP);
    q->stall_ms = stall_ms;
    pthread_mutex_init(&q->lock, NULL);
    cond_init(&q->item_cond);
    cond_init(&q->guest_cond);
    cond_init(&q->sweep_cond);

    first = (char *)(((uintptr_t)q->memory + BACKUP_CLUSTER_SIZE - 1) &
                     ~(uintptr_t)(BACKUP_CLUSTER_SIZE - 1));
    q->free_bufs = g_new(void *, q->n_buffers);
    for (size_t i = 0; i < q->n_buffers; i++) {
        q->free_bufs[i] = first + (q->n_buffers - 1 - i) * BACKUP_CLUSTER_SIZE;
    }
    q->load_buf = first + q->n_buffers * BACKUP_CLUSTER_SIZE;
    q->n_free = q->min_free = q->n_buffers;
    q->ring_size = q->n_buffers + n_drives;
    q->ring = g_new(BackupItem, q->ring_size);
    q->spill = backup_spill_new(spill_dir, spill_limit);
    q->spilled = g_array_new(FALSE, FALSE, sizeof(BackupItem));
    return q;
}

void backup_queue_free(BackupQueue *q)
{
    if (!q) {
        return;
    }
    munmap(q->memory, (q->n_buffers + 2) * BACKUP_CLUSTER_SIZE);
    g_free(q->free_bufs);
    g_free(q->ring);
    g_array_unref(q->spilled);
    backup_spill_free(q->spill);
    pthread_cond_destroy(&q->item_cond);
    pthread_cond_destroy(&q->guest_cond);
    pthread_cond_destroy(&q->sweep_cond);
    pthread_mutex_destroy(&q->lock);
    g_free(q);
}

void backup_queue_stop(BackupQueue *q)
{
    pthread_mutex_lock(&q->lock);
    q->stopped = true;
    pthread_cond_broadcast(&q->item_cond);
    pthread_cond_broadcast(&q->guest_cond);
    pthread_cond_broadcast(&q->sweep_cond);
    pthread_mutex_unlock(&q->lock);
}

void backup_queue_close(BackupQueue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_cond_broadcast(&q->item_cond);
    pthread_mutex_unlock(&q->lock);
}

/* ---- with the lock held ------------------------------------------------ */

static void *take_buf(BackupQueue *q)
{
    q->n_free--;
    q->min_free = MIN(q->min_free, q->n_free);
    return q->free_bufs[q->n_free];
}

static bool sweep_has_room(const BackupQueue *q)
{
    return q->n_free > q->sweep_keep && backup_spill_in_use(q->spill) == 0;
}

/* A buffer or a slot came back. */
static void wake_for_room(BackupQueue *q)
{
    if (q->next_ticket != q->now_served) {
        pthread_cond_broadcast(&q->guest_cond);
    }
    if (sweep_has_room(q)) {
        pthread_cond_signal(&q->sweep_cond);
    }
}

static void give_buf(BackupQueue *q, void *buf)
{
    q->free_bufs[q->n_free++] = buf;
    wake_for_room(q);
}

static void ring_push(BackupQueue *q, const BackupItem *item)
{
    q->ring[(q->ring_head + q->ring_len++) % q->ring_size] = *item;
    pthread_cond_signal(&q->item_cond);
}

static void push_data(BackupQueue *q, unsigned drive, uint64_t cluster, void *buf)
{
    ring_push(q, &(BackupItem){ .kind = BACKUP_ITEM_DATA, .drive = drive,
                                .cluster = cluster, .buf = buf });
}

/* ---- the sweep --------------------------------------------------------- */

void *backup_queue_get_sweep(BackupQueue *q)
{
    void *buf = NULL;

    pthread_mutex_lock(&q->lock);
    if (!q->stopped && sweep_has_room(q)) {
        buf = take_buf(q);
    }
    pthread_mutex_unlock(&q->lock);
    return buf;
}

void backup_queue_wait_sweep(BackupQueue *q)
{
    pthread_mutex_lock(&q->lock);
    while (!q->stopped && !sweep_has_room(q)) {
        pthread_cond_wait(&q->sweep_cond, &q->lock);
    }
    pthread_mutex_unlock(&q->lock);
}

void backup_queue_sleep(BackupQueue *q, int64_t ns)
{
    struct timespec deadline = deadline_in(ns);
    int ret = 0;

    pthread_mutex_lock(&q->lock);
    while (!q->stopped && ret == 0) {
        ret = pthread_cond_timedwait(&q->sweep_cond, &q->lock, &deadline);
    }
    pthread_mutex_unlock(&q->lock);
}

void backup_queue_push_holes(BackupQueue *q, unsigned drive)
{
    pthread_mutex_lock(&q->lock);
    ring_push(q, &(BackupItem){ .kind = BACKUP_ITEM_HOLES, .drive = drive });
    pthread_mutex_unlock(&q->lock);
}

/* ---- guests' writes ------------------------------------------------------ */

/* Lock held. */
static bool try_room(BackupQueue *q, BackupRoom *room)
{
    if (q->n_free > q->bounce ||
        (q->n_free && backup_spill_is_broken(q->spill))) {
        room->buf = take_buf(q);
        room->slot = -1;
        return true;
    }
    if (q->n_free) {
        room->slot = backup_spill_take(q->spill);
        if (room->slot >= 0) {
            room->buf = take_buf(q);
            return true;
        }
    }
    return false;
}

static void set_stall_error(BackupQueue *q, GError **errp)
{
    g_autofree char *why = backup_spill_why(q->spill);

    error_set(errp,
              "the archive is too slow: the guest waited %u.%u seconds for room "
              "(memory of %zu bytes is full; %s)",
              q->stall_ms / 1000, q->stall_ms % 1000 / 100,
              q->n_buffers * BACKUP_CLUSTER_SIZE, why);
}

/* Lock held.  Wait in line; who gives up has made the backup fail, so nobody
 * cares that those behind it then wait in vain. */
static bool wait_for_room(BackupQueue *q, BackupRoom *room)
{
    struct timespec deadline = deadline_in(q->stall_ms * INT64_C(1000000));
    uint64_t ticket = q->next_ticket++;
    bool got = false;
    int ret = 0;

    while (!q->stopped && ret == 0 && !got) {
        ret = pthread_cond_timedwait(&q->guest_cond, &q->lock, &deadline);
        got = !q->stopped && ticket == q->now_served && try_room(q, room);
    }
    if (got) {
        q->now_served++;
        wake_for_room(q); /* there may be room for the next one, too */
    }
    return got;
}

bool backup_queue_get_guest(BackupQueue *q, BackupRoom *room, GError **errp)
{
    bool got = false;

    pthread_mutex_lock(&q->lock);
    if (!q->stopped && q->next_ticket == q->now_served) {
        got = try_room(q, room);
    }
    if (!got && !q->stopped) {
        got = wait_for_room(q, room);
        if (!got && !q->stopped) {
            set_stall_error(q, errp);
        }
    }
    pthread_mutex_unlock(&q->lock);
    return got;
}

static void push_spilled(BackupQueue *q, unsigned drive, uint64_t cluster,
                         const BackupRoom *room)
{
    BackupItem item = { .kind = BACKUP_ITEM_SPILLED, .drive = drive,
                        .cluster = cluster, .slot = room->slot };
    int ret = backup_spill_write(q->spill, room->slot, room->buf);

    pthread_mutex_lock(&q->lock);
    if (ret < 0) {
        /* The disk is full, say.  Nobody needs the bounce buffers any more
         * then, so what is in this one can wait where it is. */
        backup_spill_set_broken(q->spill, -ret);
        backup_spill_give(q->spill, room->slot);
        push_data(q, drive, cluster, room->buf);
        wake_for_room(q);
    } else {
        g_array_append_val(q->spilled, item);
        q->n_spilled++;
        pthread_cond_signal(&q->item_cond);
        give_buf(q, room->buf);
    }
    pthread_mutex_unlock(&q->lock);
}

void backup_queue_push_guest(BackupQueue *q, unsigned drive, uint64_t cluster,
                             const BackupRoom *room)
{
    if (room->slot >= 0) {
        push_spilled(q, drive, cluster, room);
    } else {
        backup_queue_push(q, drive, cluster, room->buf);
    }
}

void backup_queue_put_guest(BackupQueue *q, const BackupRoom *room)
{
    pthread_mutex_lock(&q->lock);
    if (room->slot >= 0) {
        backup_spill_give(q->spill, room->slot);
    }
    give_buf(q, room->buf);
    pthread_mutex_unlock(&q->lock);
}

/* ---- both ------------------------------------------------------------------ */

void backup_queue_push(BackupQueue *q, unsigned drive, uint64_t cluster, void *buf)
{
    pthread_mutex_lock(&q->lock);
    push_data(q, drive, cluster, buf);
    pthread_mutex_unlock(&q->lock);
}

void backup_queue_put(BackupQueue *q, void *buf)
{
    pthread_mutex_lock(&q->lock);
    give_buf(q, buf);
    pthread_mutex_unlock(&q->lock);
}

/* ---- the writer -------------------------------------------------------------- */

/* Lock held: the next item, from memory first. */
static bool take_item(BackupQueue *q, BackupItem *item)
{
    if (q->ring_len) {
        *item = q->ring[q->ring_head];
        q->ring_head = (q->ring_head + 1) % q->ring_size;
        q->ring_len--;
        return true;
    }
    if (q->spilled->len) {
        *item = g_array_index(q->spilled, BackupItem, q->spilled->len - 1);
        g_array_set_size(q->spilled, q->spilled->len - 1);
        return true;
    }
    return false;
}

static bool load(BackupQueue *q, BackupItem *item, GError **errp)
{
    int ret;

    item->buf = q->load_buf;
    ret = backup_spill_read(q->spill, item->slot, item->buf);
    if (ret < 0) {
        error_set_errno(errp, -ret, "reading back old data from the temporary file");
    }
    return ret == 0;
}

BackupPop backup_queue_pop(BackupQueue *q, BackupItem *item, bool wait, GError **errp)
{
    bool got = false, end;

    pthread_mutex_lock(&q->lock);
    while (!q->stopped && !(got = take_item(q, item)) && !q->closed && wait) {
        pthread_cond_wait(&q->item_cond, &q->lock);
    }
    end = q->stopped || (!got && q->closed);
    pthread_mutex_unlock(&q->lock);

    if (!got) {
        return end ? BACKUP_POP_END : BACKUP_POP_NONE;
    }
    return item->kind != BACKUP_ITEM_SPILLED || load(q, item, errp) ? BACKUP_POP_ITEM
                                                                    : BACKUP_POP_ERROR;
}

void backup_queue_done(BackupQueue *q, const BackupItem *item)
{
    pthread_mutex_lock(&q->lock);
    switch (item->kind) {
    case BACKUP_ITEM_DATA:
        give_buf(q, item->buf);
        break;
    case BACKUP_ITEM_SPILLED:
        backup_spill_give(q->spill, item->slot);
        wake_for_room(q);
        break;
    case BACKUP_ITEM_HOLES:
        break;
    }
    pthread_mutex_unlock(&q->lock);
}

void backup_queue_get_stats(BackupQueue *q, BackupQueueStats *stats)
{
    pthread_mutex_lock(&q->lock);
    stats->memory = (uint64_t)(q->n_buffers - q->min_free) * BACKUP_CLUSTER_SIZE;
    stats->spilled = q->n_spilled;
    pthread_mutex_unlock(&q->lock);
}
