/*
 * Tells ThreadSanitizer about GLib's locks.
 *
 * GMutex and GCond are made of futexes inside libglib, which is not built with
 * the sanitizer: it sees no order between two threads that use one, and reports
 * races that are none.  These definitions stand before libglib's in our
 * programs; they call the real ones and say what they mean.  In the same way it
 * does not see that what one thread gives to the main loop is there before the
 * main loop runs it.  In other builds this file is empty.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifdef __SANITIZE_THREAD__

/* The library's own names, not the macros that GLib may have for them. */
#include <glib.h>
#undef g_mutex_lock
#undef g_mutex_unlock
#undef g_mutex_trylock

#include <dlfcn.h>
#include <pthread.h>
#include <sanitizer/tsan_interface.h>

#define REAL(type, name) ((type)dlsym(RTLD_NEXT, #name))

typedef void MutexFn(GMutex *);
typedef gboolean TrylockFn(GMutex *);
typedef void WaitFn(GCond *, GMutex *);
typedef gboolean WaitUntilFn(GCond *, GMutex *, gint64);

void g_mutex_lock(GMutex *m)
{
    static MutexFn *real;

    if (!__atomic_load_n(&real, __ATOMIC_RELAXED)) {
        __atomic_store_n(&real, REAL(MutexFn *, g_mutex_lock), __ATOMIC_RELAXED);
    }
    __atomic_load_n(&real, __ATOMIC_RELAXED)(m);
    __tsan_acquire(m);
}

gboolean g_mutex_trylock(GMutex *m)
{
    gboolean got = REAL(TrylockFn *, g_mutex_trylock)(m);

    if (got) {
        __tsan_acquire(m);
    }
    return got;
}

void g_mutex_unlock(GMutex *m)
{
    static MutexFn *real;

    if (!__atomic_load_n(&real, __ATOMIC_RELAXED)) {
        __atomic_store_n(&real, REAL(MutexFn *, g_mutex_unlock), __ATOMIC_RELAXED);
    }
    __tsan_release(m);
    __atomic_load_n(&real, __ATOMIC_RELAXED)(m);
}

/* They leave the mutex and take it again inside the library. */
void g_cond_wait(GCond *c, GMutex *m)
{
    __tsan_release(m);
    REAL(WaitFn *, g_cond_wait)(c, m);
    __tsan_acquire(m);
}

gboolean g_cond_wait_until(GCond *c, GMutex *m, gint64 end_time)
{
    gboolean ret;

    __tsan_release(m);
    ret = REAL(WaitUntilFn *, g_cond_wait_until)(c, m, end_time);
    __tsan_acquire(m);
    return ret;
}

/* ---- what one thread gives to the main loop ------------------------------------ */

static pthread_mutex_t idle_lock = PTHREAD_MUTEX_INITIALIZER;

static gboolean idle_prepare(GSource *source, gint *timeout)
{
    *timeout = 0;
    return TRUE;
}

static gboolean idle_check(GSource *source)
{
    return TRUE;
}

static gboolean idle_dispatch(GSource *source, GSourceFunc fn, gpointer data)
{
    pthread_mutex_lock(&idle_lock); /* until whoever added it is done with it */
    pthread_mutex_unlock(&idle_lock);
    return fn(data);
}

static GSourceFuncs idle_funcs = { idle_prepare, idle_check, idle_dispatch, NULL, NULL, NULL };

guint g_idle_add_full(gint priority, GSourceFunc fn, gpointer data, GDestroyNotify notify)
{
    GSource *source;
    guint id;

    pthread_mutex_lock(&idle_lock);
    source = g_source_new(&idle_funcs, sizeof(GSource));
    g_source_set_priority(source, priority);
    g_source_set_callback(source, fn, data, notify);
    id = g_source_attach(source, NULL);
    g_source_unref(source);
    pthread_mutex_unlock(&idle_lock);
    return id;
}

guint g_idle_add(GSourceFunc fn, gpointer data)
{
    return g_idle_add_full(G_PRIORITY_DEFAULT_IDLE, fn, data, NULL);
}

gboolean g_idle_remove_by_data(gpointer data)
{
    return g_source_remove_by_funcs_user_data(&idle_funcs, data);
}

#else
typedef int tsan_glib_is_not_needed;
#endif
