/*
 * Tells ThreadSanitizer about GLib's locks.
 *
 * GMutex and GCond are made of futexes inside libglib, which is not built with
 * the sanitizer: it sees no order between two threads that use one, and reports
 * races that are none.  These definitions stand before libglib's in a test
 * program; they call the real ones and say what they mean.  In other builds
 * this file is empty.
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

#else
typedef int tsan_glib_is_not_needed;
#endif
