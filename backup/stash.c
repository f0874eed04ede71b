/*
 * Room for old blocks; see stash.h.
 *
 * One lock, held for a few instructions and never while anything is copied,
 * read or written: a block of memory or a slot of the file has one owner at a
 * time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "stash.h"

#include "spill.h"
#include "sync.h"
#include "util/error.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* A BackupBlockRef: the number of a block, or of a slot with this bit. */
#define IN_FILE (UINT32_C(1) << 31)
#define MIN_BLOCKS 16

struct BackupStash {
    /* constant */
    char *memory;
    uint32_t n_blocks;
    unsigned stall_ms;

    pthread_mutex_t lock;
    pthread_cond_t room_cond;     /* somebody in line may go; stopped */
    pthread_cond_t pressure_cond; /* the sweep */
    /* guarded by lock */
    uint32_t *free_blocks; /* a stack: the last one used is warm in the caches */
    uint32_t n_free, min_free;
    BackupSpill *spill;
    uint64_t n_spilled;
    GQueue waiters;        /* of NULL: who is first may try */
    bool stopped;
};

BackupStash *backup_stash_new(uint64_t memory, const char *spill_dir,
                              int64_t spill_limit, unsigned stall_ms,
                              GError **errp)
{
    uint32_t n = CLAMP(memory / BACKUP_BLOCK_SIZE, MIN_BLOCKS, 1 << 28);
    BackupStash *s;
    /* Pages come with their first use. */
    void *p = mmap(NULL, (size_t)n * BACKUP_BLOCK_SIZE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        error_set_errno(errp, errno, "memory for the backup (%zu bytes)",
                        (size_t)n * BACKUP_BLOCK_SIZE);
        return NULL;
    }
    s = g_new0(BackupStash, 1);
    s->memory = p;
    s->n_blocks = s->n_free = s->min_free = n;
    s->stall_ms = stall_ms;
    s->free_blocks = g_new(uint32_t, n);
    for (uint32_t i = 0; i < n; i++) {
        s->free_blocks[i] = n - 1 - i;
    }
    s->spill = backup_spill_new(spill_dir, MIN(spill_limit, (int64_t)IN_FILE * BACKUP_BLOCK_SIZE));
    pthread_mutex_init(&s->lock, NULL);
    sync_cond_init(&s->room_cond);
    sync_cond_init(&s->pressure_cond);
    g_queue_init(&s->waiters);
    return s;
}

void backup_stash_free(BackupStash *s)
{
    if (!s) {
        return;
    }
    munmap(s->memory, (size_t)s->n_blocks * BACKUP_BLOCK_SIZE);
    g_free(s->free_blocks);
    backup_spill_free(s->spill);
    pthread_cond_destroy(&s->room_cond);
    pthread_cond_destroy(&s->pressure_cond);
    pthread_mutex_destroy(&s->lock);
    g_free(s);
}

void backup_stash_stop(BackupStash *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopped = true;
    pthread_cond_broadcast(&s->room_cond);
    pthread_cond_broadcast(&s->pressure_cond);
    pthread_mutex_unlock(&s->lock);
}

static void *block(BackupStash *s, BackupBlockRef ref)
{
    return s->memory + (size_t)ref * BACKUP_BLOCK_SIZE;
}

/* ---- with the lock held ------------------------------------------------ */

static bool pressure(const BackupStash *s)
{
    return s->n_free < s->n_blocks / 2;
}

static bool try_room(BackupStash *s, BackupBlockRef *ref)
{
    int64_t slot;

    if (s->n_free) {
        *ref = s->free_blocks[--s->n_free];
        s->min_free = MIN(s->min_free, s->n_free);
        if (s->n_free == s->n_blocks / 2 - 1) {
            pthread_cond_signal(&s->pressure_cond);
        }
        return true;
    }
    slot = backup_spill_take(s->spill);
    if (slot >= 0) {
        *ref = IN_FILE | (uint32_t)slot;
        return true;
    }
    return false;
}

/* Something came back, or it may be somebody else's turn. */
static void wake_waiters(BackupStash *s)
{
    if (s->waiters.length) {
        pthread_cond_broadcast(&s->room_cond);
    }
}

static void give_back(BackupStash *s, BackupBlockRef ref)
{
    if (ref & IN_FILE) {
        backup_spill_give(s->spill, ref & ~IN_FILE);
    } else {
        s->free_blocks[s->n_free++] = ref;
    }
    wake_waiters(s);
}

static bool wait_for_room(BackupStash *s, BackupBlockRef *ref)
{
    struct timespec deadline = sync_deadline(s->stall_ms * INT64_C(1000000));
    GList link = { 0 };
    bool got = false;
    int ret = 0;

    g_queue_push_tail_link(&s->waiters, &link);
    while (!s->stopped && ret == 0 && !got) {
        ret = pthread_cond_timedwait(&s->room_cond, &s->lock, &deadline);
        got = !s->stopped && s->waiters.head == &link && try_room(s, ref);
    }
    g_queue_unlink(&s->waiters, &link);
    wake_waiters(s); /* there may be room for the next one, too */
    return got;
}

/* ---- keeping and fetching ------------------------------------------------ */

static void set_stall_error(BackupStash *s, GError **errp)
{
    g_autofree char *why = backup_spill_why(s->spill);

    error_set(errp,
              "the archive is too slow: the guest waited %u.%u seconds for room "
              "(memory of %zu bytes is full; %s)",
              s->stall_ms / 1000, s->stall_ms % 1000 / 100,
              (size_t)s->n_blocks * BACKUP_BLOCK_SIZE, why);
}

static bool get_room(BackupStash *s, BackupBlockRef *ref, GError **errp)
{
    bool got;

    pthread_mutex_lock(&s->lock);
    got = !s->stopped && ((!s->waiters.length && try_room(s, ref)) || wait_for_room(s, ref));
    if (!got && !s->stopped) {
        set_stall_error(s, errp);
    }
    pthread_mutex_unlock(&s->lock);
    return got;
}

/* The slot cannot be written: the disk is full, say.  There will be no more. */
static void spill_failed(BackupStash *s, BackupBlockRef ref, int errnum)
{
    pthread_mutex_lock(&s->lock);
    backup_spill_set_broken(s->spill, errnum);
    give_back(s, ref);
    pthread_mutex_unlock(&s->lock);
}

static void count_spilled(BackupStash *s)
{
    pthread_mutex_lock(&s->lock);
    s->n_spilled++;
    pthread_mutex_unlock(&s->lock);
}

bool backup_stash_put(BackupStash *s, const void *buf, BackupBlockRef *ref,
                      GError **errp)
{
    while (get_room(s, ref, errp)) {
        int ret;

        if (!(*ref & IN_FILE)) {
            memcpy(block(s, *ref), buf, BACKUP_BLOCK_SIZE);
            return true;
        }
        ret = backup_spill_write(s->spill, *ref & ~IN_FILE, buf);
        if (ret == 0) {
            count_spilled(s);
            return true;
        }
        spill_failed(s, *ref, -ret);
    }
    return false;
}

void backup_stash_drop(BackupStash *s, BackupBlockRef ref)
{
    pthread_mutex_lock(&s->lock);
    give_back(s, ref);
    pthread_mutex_unlock(&s->lock);
}

bool backup_stash_take(BackupStash *s, BackupBlockRef ref, void *buf, GError **errp)
{
    int ret = 0;

    if (ref & IN_FILE) {
        ret = backup_spill_read(s->spill, ref & ~IN_FILE, buf);
    } else {
        memcpy(buf, block(s, ref), BACKUP_BLOCK_SIZE);
    }
    backup_stash_drop(s, ref);
    if (ret < 0) {
        error_set_errno(errp, -ret, "reading back old data from the temporary file");
    }
    return ret == 0;
}

/* ---- pressure -------------------------------------------------------------- */

bool backup_stash_pressure(BackupStash *s)
{
    bool is;

    pthread_mutex_lock(&s->lock);
    is = pressure(s);
    pthread_mutex_unlock(&s->lock);
    return is;
}

void backup_stash_wait_pressure(BackupStash *s, int64_t ns)
{
    struct timespec deadline = sync_deadline(ns);
    int ret = 0;

    pthread_mutex_lock(&s->lock);
    while (!s->stopped && !pressure(s) && ret == 0) {
        ret = pthread_cond_timedwait(&s->pressure_cond, &s->lock, &deadline);
    }
    pthread_mutex_unlock(&s->lock);
}

void backup_stash_get_stats(BackupStash *s, BackupStashStats *stats)
{
    pthread_mutex_lock(&s->lock);
    stats->memory = (uint64_t)(s->n_blocks - s->min_free) * BACKUP_BLOCK_SIZE;
    stats->spilled = s->n_spilled * BACKUP_BLOCK_SIZE;
    pthread_mutex_unlock(&s->lock);
}
