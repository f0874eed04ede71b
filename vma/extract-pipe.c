/*
 * The pipeline of vma extract.
 *
 *     reads, checks ──► Batch ──► queue ──► writes
 *     (caller)            ▲                   │ (thread)
 *                         └───── idle ◄───────┘
 *
 * A batch is a piece of the archive as it was read, and what is to be written
 * from it: nothing is copied between the two.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "extract.h"

#include <errno.h>
#include <pthread.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>
#include "util/error.h"

/* A piece that the second-level cache holds, so that checksum and write find
 * it there; enough of them that neither side waits for the other. */
#define BATCH_SIZE (1024 * 1024)
#define N_BATCHES 4
/* So much may gather in the page cache before its way to the disk is started. */
#define FLUSH_BEHIND (8 * 1024 * 1024)
/* What goes at once under a speed limit. */
#define LIMITED_WRITE (256 * 1024)

typedef struct {
    unsigned dev_id;
    uint64_t offset;
    uint64_t len;
    const uint8_t *data; /* NULL: zeros */
} Op;

typedef struct {
    uint8_t *buf;
    GArray *ops;
} Batch;

typedef struct {
    ExtractOutput *outputs;
    Batch batches[N_BATCHES];
    uint64_t zero_bytes;

    /* Under lock. */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    GQueue filled, idle;
    bool stop;
    GError *error; /* the thread's first */
} Pipe;

void *extract_buffer_new(size_t *len)
{
    void *buf = NULL;

    *len = BATCH_SIZE;
    if (posix_memalign(&buf, 4096, BATCH_SIZE) != 0) {
        g_error("out of memory"); /* as g_malloc does */
    }
    return buf;
}

void extract_buffer_free(void *buf)
{
    free(buf);
}

/* ---- writing ------------------------------------------------------------ */

static bool wait_for_limit(RateLimit *limit, uint64_t bytes, GError **errp)
{
    int64_t now = ratelimit_now_ns(), delay;

    while ((delay = ratelimit_delay_ns(limit, now)) > 0) {
        if (!interrupt_poll(-1, 0, MIN(delay / 1000000 + 1, 1000), errp)) {
            return false;
        }
        now = ratelimit_now_ns();
    }
    ratelimit_account(limit, bytes, now);
    return true;
}

static int write_fd(int fd, uint64_t offset, uint64_t len, const uint8_t *data)
{
    while (len) {
        ssize_t n = pwrite(fd, data, len, offset);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -ENOSPC;
        }
        data += n;
        offset += n;
        len -= n;
    }
    return 0;
}

static int write_piece(const ExtractOutput *out, uint64_t offset, uint64_t len,
                       const uint8_t *data)
{
    if (!out->node) {
        return data ? write_fd(out->fd, offset, len, data) : 0;
    }
    if (!data) {
        return bdrv_pwrite_zeroes(out->node, offset, len, BDRV_REQ_MAY_UNMAP);
    }
    return bdrv_pwrite(out->node, offset, len, data, 0);
}

/* The sync at the end has little to wait for then.  Errors come from there. */
static void start_writeback(ExtractOutput *out, uint64_t bytes)
{
    out->unsynced += bytes;
    if (out->writeback_fd >= 0 && out->unsynced >= FLUSH_BEHIND) {
        sync_file_range(out->writeback_fd, 0, 0, SYNC_FILE_RANGE_WRITE);
        out->unsynced = 0;
    }
}

static bool write_op(Pipe *p, const Op *op, GError **errp)
{
    ExtractOutput *out = &p->outputs[op->dev_id];

    for (uint64_t done = 0; done < op->len; ) {
        uint64_t n = op->len - done;
        int ret;

        if (out->limit && op->data) {
            n = MIN(n, LIMITED_WRITE);
            if (!wait_for_limit(out->limit, n, errp)) {
                return false;
            }
        }
        ret = write_piece(out, op->offset + done, n,
                          op->data ? op->data + done : NULL);
        if (ret < 0) {
            error_set_errno(errp, -ret, "%s: cannot write at 0x%" PRIx64, out->name,
                            op->offset + done);
            return false;
        }
        done += n;
        start_writeback(out, op->data ? n : 0);
    }
    return true;
}

static Batch *take_filled(Pipe *p)
{
    Batch *b;

    pthread_mutex_lock(&p->lock);
    while (!(b = g_queue_pop_head(&p->filled)) && !p->stop) {
        pthread_cond_wait(&p->cond, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return b;
}

static void *write_thread(void *opaque)
{
    Pipe *p = opaque;
    GError *error = NULL;
    Batch *b;

    while ((b = take_filled(p))) {
        for (unsigned i = 0; i < b->ops->len && !error; i++) {
            write_op(p, &g_array_index(b->ops, Op, i), &error);
        }
        pthread_mutex_lock(&p->lock);
        p->error = error;
        g_queue_push_tail(&p->idle, b);
        pthread_cond_broadcast(&p->cond);
        pthread_mutex_unlock(&p->lock);
    }
    return NULL;
}

/* ---- reading ------------------------------------------------------------ */

/* NULL: the thread failed (its error is in p->error). */
static Batch *get_idle(Pipe *p)
{
    Batch *b = NULL;

    pthread_mutex_lock(&p->lock);
    while (!p->error && !(b = g_queue_pop_head(&p->idle))) {
        pthread_cond_wait(&p->cond, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    if (b && !b->buf) {
        size_t len;

        b->buf = extract_buffer_new(&len);
        b->ops = g_array_new(FALSE, FALSE, sizeof(Op));
    }
    return b;
}

static void give_filled(Pipe *p, Batch *b)
{
    pthread_mutex_lock(&p->lock);
    g_queue_push_tail(&p->filled, b);
    pthread_cond_broadcast(&p->cond);
    pthread_mutex_unlock(&p->lock);
}

/* Make one operation of what lies side by side. */
static bool extend(GArray *ops, const VmaEvent *ev)
{
    Op *last = ops->len ? &g_array_index(ops, Op, ops->len - 1) : NULL;

    if (!last || last->dev_id != ev->dev_id ||
        last->offset + last->len != ev->offset ||
        (last->data ? last->data + last->len != ev->data : ev->data != NULL) ||
        last->len + ev->len > BDRV_REQUEST_MAX_BYTES) {
        return false;
    }
    last->len += ev->len;
    return true;
}

static void add_op(Pipe *p, GArray *ops, const VmaEvent *ev)
{
    const ExtractOutput *out = &p->outputs[ev->dev_id];
    Op op = { ev->dev_id, ev->offset, ev->len, ev->data };

    if (!ev->data) {
        p->zero_bytes += ev->len;
    }
    if ((!out->node && out->fd < 0) || (!ev->data && !out->write_zeroes)) {
        return;
    }
    if (!extend(ops, ev)) {
        g_array_append_val(ops, op);
    }
}

/* All events up to the next that is not a cluster's.  @b NULL: there can be
 * none before (nothing was fed yet). */
static bool take_events(Pipe *p, VmaReader *r, Batch *b, VmaEventType *type,
                        GError **errp)
{
    VmaEvent ev;

    for (;;) {
        if (!vma_reader_next(r, &ev, errp)) {
            return false;
        }
        if (ev.type != VMA_EVENT_DATA && ev.type != VMA_EVENT_ZERO) {
            *type = ev.type;
            return true;
        }
        add_op(p, b->ops, &ev);
    }
}

static bool read_all(Pipe *p, VmaSource *source, VmaReader *r, Progress *progress,
                     Batch *first, GError **errp)
{
    VmaEventType type;
    VmaReaderStats st;
    Batch *b = first;

    for (;;) {
        ssize_t n;

        if (!take_events(p, r, b, &type, errp)) {
            return false;
        }
        vma_reader_stats(r, &st);
        progress_update(progress, st.clusters * VMA_CLUSTER_SIZE);
        give_filled(p, b);
        if (type == VMA_EVENT_END) {
            return true;
        }
        b = get_idle(p);
        if (!b) {
            return true; /* its error is reported by the caller */
        }
        g_array_set_size(b->ops, 0);
        n = vma_source_read(source, b->buf, BATCH_SIZE, errp);
        if (n < 0) {
            return false;
        }
        vma_reader_feed(r, b->buf, n);
    }
}

static void stop(Pipe *p, GThread *thread, bool drop)
{
    Batch *b;

    pthread_mutex_lock(&p->lock);
    while (drop && (b = g_queue_pop_head(&p->filled))) {
    }
    p->stop = true;
    pthread_cond_broadcast(&p->cond);
    pthread_mutex_unlock(&p->lock);
    g_thread_join(thread);
}

static void pipe_clear(Pipe *p)
{
    for (unsigned i = 0; i < N_BATCHES; i++) {
        if (p->batches[i].ops) {
            g_array_unref(p->batches[i].ops);
        }
        extract_buffer_free(p->batches[i].buf);
    }
    g_queue_clear(&p->filled);
    g_queue_clear(&p->idle);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->cond);
}

bool extract_run(VmaSource *source, VmaReader *r, ExtractOutput *outputs,
                 Progress *progress, uint64_t *zero_bytes, GError **errp)
{
    Pipe p = { .outputs = outputs };
    GThread *thread;
    bool ok;

    pthread_mutex_init(&p.lock, NULL);
    pthread_cond_init(&p.cond, NULL);
    g_queue_init(&p.filled);
    g_queue_init(&p.idle);
    for (unsigned i = 0; i < N_BATCHES; i++) {
        g_queue_push_tail(&p.idle, &p.batches[i]);
    }
    thread = g_thread_new("vma-extract", write_thread, &p);
    /* The first batch's data lie in the caller's buffer, with the header. */
    ok = read_all(&p, source, r, progress, get_idle(&p), errp);
    stop(&p, thread, !ok);
    if (ok && p.error) {
        g_propagate_error(errp, g_steal_pointer(&p.error));
        ok = false;
    }
    g_clear_error(&p.error);
    *zero_bytes = p.zero_bytes;
    pipe_clear(&p);
    return ok;
}
