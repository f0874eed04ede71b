/*
 * QEMUFile; see include/migration/qemu-file.h for the contract.
 *
 * One buffer serves one direction: a file is either put to or got from.  A put
 * that does not fit flushes; one larger than the buffer goes past it.
 *
 * The rate limit counts bytes put since the slice began.  The waiting is done
 * by the user of the file between two pages, never inside a put, so that the
 * last part of a migration can be sent at full speed by not asking.
 *
 * Threads: everything belongs to the file's one thread, but @limit (atomic) and
 * @stopped with its lock and condition, which shutdown and set_rate_limit use.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/qemu-file.h"

#include "util/error.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

/* Small enough that the receiver works on one while the next is filled, and that it
 * stays in the processor's cache: 16 MiB of pages through a socket take 6 ms where 1 MiB
 * takes 9 and 32 KiB takes 9. */
#define BUFFER_SIZE (128 * 1024)
#define RESERVE_MAX (64 * 1024)

struct QEMUFile {
    const QEMUFileOps *ops;
    void *opaque;
    char *name;

    GError *error;
    uint64_t position;   /* bytes put or got */
    size_t pos, fill;    /* reading: next byte, end; writing: fill only */
    uint64_t slice_base; /* position at the slice's beginning */
    gint64 slice_start;  /* monotonic µs */

    uint64_t limit;      /* atomic */

    pthread_mutex_t lock;
    pthread_cond_t wake;          /* the limit changed, or stopped */
    bool stopped;        /* lock */

    bool writing;        /* something was put; else it is read from */
    uint8_t *buf;
};

QEMUFile *qemu_file_new(const QEMUFileOps *ops, void *opaque, const char *name)
{
    QEMUFile *f = g_new0(QEMUFile, 1);
    pthread_condattr_t attr;

    f->ops = ops;
    f->opaque = opaque;
    f->name = g_strdup(name);
    f->buf = g_malloc(BUFFER_SIZE);
    f->slice_start = g_get_monotonic_time();
    pthread_mutex_init(&f->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&f->wake, &attr);
    pthread_condattr_destroy(&attr);
    return f;
}

static void file_free(QEMUFile *f)
{
    g_clear_error(&f->error);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->wake);
    g_free(f->name);
    g_free(f->buf);
    g_free(f);
}

bool qemu_file_close(QEMUFile *f, GError **errp)
{
    GError *err = NULL;
    bool ok;

    qemu_fflush(f, NULL);
    if (!f->ops->close(f->opaque, &err)) {
        qemu_file_set_error(f, err);
    }
    ok = qemu_file_ok(f, errp);
    file_free(f);
    return ok;
}

void qemu_file_abandon(QEMUFile *f)
{
    qemu_file_shutdown(f);
    f->ops->close(f->opaque, NULL);
    file_free(f);
}

void qemu_file_shutdown(QEMUFile *f)
{
    pthread_mutex_lock(&f->lock);
    f->stopped = true;
    pthread_cond_broadcast(&f->wake);
    pthread_mutex_unlock(&f->lock);
    if (f->ops->shutdown) {
        f->ops->shutdown(f->opaque);
    }
}

const char *qemu_file_name(const QEMUFile *f)
{
    return f->name;
}

const GError *qemu_file_error(const QEMUFile *f)
{
    return f->error;
}

void qemu_file_set_error(QEMUFile *f, GError *err)
{
    if (f->error) {
        g_error_free(err);
    } else {
        f->error = err;
    }
}

bool qemu_file_ok(const QEMUFile *f, GError **errp)
{
    if (f->error && errp) {
        g_propagate_error(errp, g_error_copy(f->error));
    }
    return !f->error;
}

uint64_t qemu_file_position(const QEMUFile *f)
{
    return f->position;
}

/* ---- writing ------------------------------------------------------------ */

static void transport_write(QEMUFile *f, const void *buf, size_t len)
{
    GError *err = NULL;

    if (f->error || !len) {
        return;
    }
    if (!f->ops->write) {
        error_set(&err, "%s: not open for writing", f->name);
        qemu_file_set_error(f, err);
    } else if (!f->ops->write(f->opaque, buf, len, &err)) {
        qemu_file_set_error(f, err);
    }
}

bool qemu_fflush(QEMUFile *f, GError **errp)
{
    if (f->writing) {
        transport_write(f, f->buf, f->fill);
        f->fill = 0;
    }
    return qemu_file_ok(f, errp);
}

void qemu_put_buffer(QEMUFile *f, const void *buf, size_t len)
{
    f->writing = true;
    f->position += len;
    if (!len) {
        return; /* there may be no @buf either */
    }
    if (len > BUFFER_SIZE - f->fill) {
        qemu_fflush(f, NULL);
        if (len >= BUFFER_SIZE) {
            transport_write(f, buf, len);
            return;
        }
    }
    memcpy(f->buf + f->fill, buf, len);
    f->fill += len;
}

uint8_t *qemu_put_reserve(QEMUFile *f, size_t len)
{
    g_return_val_if_fail(len <= RESERVE_MAX, f->buf);
    f->writing = true;
    if (len > BUFFER_SIZE - f->fill) {
        qemu_fflush(f, NULL);
    }
    return f->buf + f->fill;
}

void qemu_put_reserved(QEMUFile *f, size_t used)
{
    f->position += used;
    f->fill += used;
}

void qemu_put_byte(QEMUFile *f, uint8_t v)
{
    *qemu_put_reserve(f, 1) = v;
    qemu_put_reserved(f, 1);
}

void qemu_put_be16(QEMUFile *f, uint16_t v)
{
    v = GUINT16_TO_BE(v);
    memcpy(qemu_put_reserve(f, sizeof(v)), &v, sizeof(v));
    qemu_put_reserved(f, sizeof(v));
}

void qemu_put_be32(QEMUFile *f, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    memcpy(qemu_put_reserve(f, sizeof(v)), &v, sizeof(v));
    qemu_put_reserved(f, sizeof(v));
}

void qemu_put_be64(QEMUFile *f, uint64_t v)
{
    v = GUINT64_TO_BE(v);
    memcpy(qemu_put_reserve(f, sizeof(v)), &v, sizeof(v));
    qemu_put_reserved(f, sizeof(v));
}

void qemu_put_counted_string(QEMUFile *f, const char *s)
{
    size_t len = MIN(strlen(s), 255);

    qemu_put_byte(f, len);
    qemu_put_buffer(f, s, len);
}

/* ---- bandwidth ------------------------------------------------------------ */

void qemu_file_set_rate_limit(QEMUFile *f, uint64_t bytes_per_second)
{
    pthread_mutex_lock(&f->lock);
    __atomic_store_n(&f->limit, bytes_per_second, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&f->wake);
    pthread_mutex_unlock(&f->lock);
}

bool qemu_file_rate_exceeded(QEMUFile *f)
{
    uint64_t limit = __atomic_load_n(&f->limit, __ATOMIC_RELAXED);

    return limit && f->position - f->slice_base >=
        MAX(limit / (G_USEC_PER_SEC / QEMU_FILE_SLICE_US), 1);
}

/* A slice that was not used up leaves nothing over; one that was overrun (a
 * page is never cut) shortens the next by what it took too much. */
static void next_slice(QEMUFile *f, gint64 now)
{
    uint64_t limit = __atomic_load_n(&f->limit, __ATOMIC_RELAXED);
    uint64_t share = limit / (G_USEC_PER_SEC / QEMU_FILE_SLICE_US);
    uint64_t put = f->position - f->slice_base;

    f->slice_base = limit && put > share && put < 2 * share ?
        f->slice_base + share : f->position;
    f->slice_start = now;
}

bool qemu_file_wait_slice(QEMUFile *f, GError **errp)
{
    gint64 end = f->slice_start + QEMU_FILE_SLICE_US;
    uint64_t limit = __atomic_load_n(&f->limit, __ATOMIC_RELAXED);
    struct timespec until = {
        .tv_sec = end / G_USEC_PER_SEC,
        .tv_nsec = end % G_USEC_PER_SEC * 1000,
    };

    if (!qemu_fflush(f, errp)) {
        return false;
    }
    pthread_mutex_lock(&f->lock);
    while (!f->stopped && __atomic_load_n(&f->limit, __ATOMIC_RELAXED) == limit &&
           pthread_cond_timedwait(&f->wake, &f->lock, &until) == 0) {
    }
    if (f->stopped && !f->error) {
        f->error = g_error_new(SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED,
                               "%s: cancelled", f->name);
    }
    pthread_mutex_unlock(&f->lock);
    next_slice(f, g_get_monotonic_time());
    return qemu_file_ok(f, errp);
}

/* ---- reading -------------------------------------------------------------- */

/* One read of the transport into @buf: 1…len, 0 at the end, -1 and the error
 * is set. */
static ssize_t transport_read(QEMUFile *f, void *buf, size_t len)
{
    GError *err = NULL;
    ssize_t n = -1;

    if (f->error) {
        return -1;
    }
    if (!f->ops->read) {
        error_set(&err, "%s: not open for reading", f->name);
    } else {
        n = f->ops->read(f->opaque, buf, len, &err);
    }
    if (n < 0) {
        qemu_file_set_error(f, err);
    }
    return n;
}

ssize_t qemu_get_some(QEMUFile *f, void *buf, size_t len)
{
    ssize_t n = f->error ? 0 : f->fill - f->pos;

    if (!n && len >= BUFFER_SIZE / 4) {
        n = transport_read(f, buf, len);
        f->position += MAX(n, 0);
        return n;
    }
    if (!n) {
        n = transport_read(f, f->buf, BUFFER_SIZE);
        f->pos = 0;
        f->fill = MAX(n, 0);
    }
    if (n > 0) {
        n = MIN((size_t)n, len);
        memcpy(buf, f->buf + f->pos, n);
        f->pos += n;
        f->position += n;
    }
    return n;
}

bool qemu_get_buffer(QEMUFile *f, void *buf, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = qemu_get_some(f, (uint8_t *)buf + done, len - done);

        if (n <= 0) {
            GError *err = NULL;

            error_set(&err, "%s: the stream ends at byte %" G_GUINT64_FORMAT
                      " in the middle of something", f->name, f->position);
            qemu_file_set_error(f, err);
            memset(buf, 0, len);
            return false;
        }
        done += n;
    }
    return true;
}

uint8_t qemu_get_byte(QEMUFile *f)
{
    uint8_t v = 0;

    if (f->pos < f->fill && !f->error) {
        f->position++;
        return f->buf[f->pos++];
    }
    qemu_get_buffer(f, &v, 1);
    return v;
}

uint16_t qemu_get_be16(QEMUFile *f)
{
    uint16_t v = 0;

    qemu_get_buffer(f, &v, sizeof(v));
    return GUINT16_FROM_BE(v);
}

uint32_t qemu_get_be32(QEMUFile *f)
{
    uint32_t v = 0;

    qemu_get_buffer(f, &v, sizeof(v));
    return GUINT32_FROM_BE(v);
}

uint64_t qemu_get_be64(QEMUFile *f)
{
    uint64_t v = 0;

    qemu_get_buffer(f, &v, sizeof(v));
    return GUINT64_FROM_BE(v);
}

bool qemu_get_counted_string(QEMUFile *f, char s[256])
{
    size_t len = qemu_get_byte(f);

    s[len] = '\0';
    if (!qemu_get_buffer(f, s, len)) {
        s[0] = '\0';
        return false;
    }
    if (strlen(s) != len) {
        GError *err = NULL;

        error_set(&err, "%s: a name with a NUL in it before byte %"
                  G_GUINT64_FORMAT, f->name, f->position);
        qemu_file_set_error(f, err);
        return false;
    }
    return true;
}

bool qemu_file_bad(QEMUFile *f, GError **errp, const char *part,
                   const char *fmt, ...)
{
    g_autofree char *what = NULL;
    va_list ap;

    if (!qemu_file_ok(f, errp)) {
        return false;
    }
    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    error_set(errp, "%s: %s, before byte %" G_GUINT64_FORMAT ": %s",
              qemu_file_name(f), part, qemu_file_position(f), what);
    return false;
}
