/*
 * Flushing behind a writer; see include/migration/flush-behind.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/flush-behind.h"

#include "util/error.h"

#include <pthread.h>

struct FlushBehind {
    uint64_t unit, since; /* the writer's */
    bool started;         /* the writer's: there is a thread */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* lock: */
    GPtrArray *drives;    /* that something was written to */
    bool asked;           /* to flush, and has not done it yet */
    bool stop;
    GError *error;        /* of the first flush that failed */
};

FlushBehind *flush_behind_new(uint64_t unit)
{
    FlushBehind *fb = g_new0(FlushBehind, 1);

    fb->unit = unit;
    fb->drives = g_ptr_array_new();
    pthread_mutex_init(&fb->lock, NULL);
    pthread_cond_init(&fb->changed, NULL);
    return fb;
}

void flush_behind_free(FlushBehind *fb)
{
    if (!fb) {
        return;
    }
    if (fb->started) {
        pthread_mutex_lock(&fb->lock);
        fb->stop = true;
        pthread_cond_broadcast(&fb->changed);
        pthread_mutex_unlock(&fb->lock);
        pthread_join(fb->thread, NULL);
    }
    g_ptr_array_unref(fb->drives);
    g_clear_error(&fb->error);
    pthread_cond_destroy(&fb->changed);
    pthread_mutex_destroy(&fb->lock);
    g_free(fb);
}

/* Lock held; it is let go meanwhile.  Drives without news cost nothing. */
static void flush_all(FlushBehind *fb)
{
    g_autoptr(GPtrArray) drives = g_ptr_array_copy(fb->drives, NULL, NULL);
    GError *error = NULL;

    pthread_mutex_unlock(&fb->lock);
    for (guint i = 0; i < drives->len && !error; i++) {
        BlockBackend *blk = g_ptr_array_index(drives, i);
        int ret = blk_flush(blk);

        if (ret < 0) {
            error_set_errno(&error, -ret, "drive '%s': cannot be made durable",
                            blk_name(blk));
        }
    }
    pthread_mutex_lock(&fb->lock);
    if (error && !fb->error) {
        fb->error = error;
    } else {
        g_clear_error(&error);
    }
}

static void *flush_thread(void *opaque)
{
    FlushBehind *fb = opaque;

    pthread_mutex_lock(&fb->lock);
    while (!fb->stop) {
        if (!fb->asked) {
            pthread_cond_wait(&fb->changed, &fb->lock);
            continue;
        }
        flush_all(fb);
        fb->asked = false;
        pthread_cond_broadcast(&fb->changed);
    }
    pthread_mutex_unlock(&fb->lock);
    return NULL;
}

/* Lock held: the flush under way, if any, has ended; did all go well so far? */
static bool caught_up(FlushBehind *fb, GError **errp)
{
    while (fb->asked) {
        pthread_cond_wait(&fb->changed, &fb->lock);
    }
    if (fb->error) {
        g_propagate_error(errp, g_error_copy(fb->error));
    }
    return !fb->error;
}

/* Without a thread the writer does it. */
static void ask(FlushBehind *fb)
{
    fb->started = fb->started ||
        pthread_create(&fb->thread, NULL, flush_thread, fb) == 0;
    fb->asked = fb->started;
    if (fb->started) {
        pthread_cond_broadcast(&fb->changed);
    } else {
        flush_all(fb);
    }
}

bool flush_behind_wrote(FlushBehind *fb, BlockBackend *blk, uint64_t bytes,
                        GError **errp)
{
    bool ok = true;

    pthread_mutex_lock(&fb->lock);
    if (!g_ptr_array_find(fb->drives, blk, NULL)) {
        g_ptr_array_add(fb->drives, blk);
    }
    fb->since += bytes;
    if (fb->since >= fb->unit) {
        fb->since = 0;
        ok = caught_up(fb, errp);
        if (ok) {
            ask(fb);
        }
    }
    pthread_mutex_unlock(&fb->lock);
    return ok;
}

bool flush_behind_finish(FlushBehind *fb, GError **errp)
{
    bool ok;

    pthread_mutex_lock(&fb->lock);
    ok = caught_up(fb, errp);
    if (ok) {
        flush_all(fb);
        ok = caught_up(fb, errp);
    }
    pthread_mutex_unlock(&fb->lock);
    return ok;
}
