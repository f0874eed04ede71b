/*
 * NBD: from a received request to its reply.  Runs on a worker, may block in
 * the block layer (a drained drive, a backup's write hook) and in the socket
 * (a client that does not read).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "nbd-internal.h"

#include <errno.h>
#include <time.h>

#include "util/zero.h"

/* Zeros in a read are looked for in steps of this. */
#define HOLE_GRANULE (64U * 1024)
#define MAX_CHUNKS (NBD_BUFFER_SIZE / HOLE_GRANULE)
/* In one BLOCK_STATUS reply; a client that wants more asks again. */
#define MAX_EXTENTS 1024
/* CACHE is a hint: this much of it is heeded. */
#define MAX_PREFETCH (32U * 1024 * 1024)

/* ---- replies without data ------------------------------------------- */

static void reply(NbdConn *conn, const NbdRequest *req, uint32_t error)
{
    uint8_t buf[NBD_ERROR_CHUNK_MAX];
    struct iovec iov = { buf, 0 };

    if (error && conn->session.structured) {
        iov.iov_len = nbd_put_error_chunk(buf, req->cookie, error);
    } else {
        iov.iov_len = nbd_put_simple_reply(buf, req->cookie, error);
    }
    nbd_send(conn, &iov, 1);
}

/* Of an I/O function's result, 0 or a negative errno. */
static void reply_result(NbdConn *conn, const NbdRequest *req, int ret)
{
    reply(conn, req, nbd_errno(-ret));
}

/* ---- pace: how long reads and writes take, for the choice of nbd-conn.c -- */

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* A moving average over some sixteen requests, in which a single slow one (the
 * thread lost the CPU) does not weigh much.  Races lose a sample, no more. */
static void note_pace(gint *pace, uint64_t start)
{
    gint sample = (gint)MIN(now_ns() - start, 16U * NBD_HAND_ON_NS);
    gint old = g_atomic_int_get(pace);

    g_atomic_int_set(pace, old + (sample - old) / 16);
}

static int timed_pread(NbdConn *conn, uint64_t offset, uint32_t bytes, void *buf)
{
    uint64_t start = now_ns();
    int ret = blk_pread(conn->exp->blk, (int64_t)offset, bytes, buf);

    note_pace(&conn->exp->pace[0], start);
    return ret;
}

/* ---- READ ----------------------------------------------------------- */

/* The reply to (a piece of) a read as chunks: one for each run of data, one for
 * each run of zeros. */
typedef struct {
    uint8_t heads[MAX_CHUNKS][NBD_HOLE_CHUNK_SIZE];
    struct iovec iov[2 * MAX_CHUNKS];
    int n_heads, n_iov;
} ReadChunks;

static void add_chunk(ReadChunks *c, const NbdRequest *req, uint16_t flags,
                      uint64_t offset, uint8_t *data, uint32_t bytes, bool zero)
{
    uint8_t *head = c->heads[c->n_heads++];
    size_t len = zero ? nbd_put_hole_chunk(head, req->cookie, flags, offset, bytes)
                      : nbd_put_data_chunk(head, req->cookie, flags, offset, bytes);

    c->iov[c->n_iov++] = (struct iovec){ head, len };
    if (!zero) {
        c->iov[c->n_iov++] = (struct iovec){ data, bytes };
    }
}

/* A granule is cut where the offset is a multiple of it. */
static uint32_t granule_at(uint64_t offset, uint32_t left)
{
    return MIN(left, HOLE_GRANULE - (uint32_t)(offset % HOLE_GRANULE));
}

static void add_runs(ReadChunks *c, const NbdRequest *req, uint64_t offset,
                     uint8_t *buf, uint32_t bytes, bool last)
{
    uint32_t pos = 0;

    while (pos < bytes) {
        uint32_t start = pos;
        uint32_t step = granule_at(offset + pos, bytes - pos);
        bool zero = buffer_is_zero(buf + pos, step), more = true;

        for (pos += step; pos < bytes && more; pos += more ? step : 0) {
            step = granule_at(offset + pos, bytes - pos);
            more = buffer_is_zero(buf + pos, step) == zero;
        }
        add_chunk(c, req, last && pos == bytes ? NBD_REPLY_FLAG_DONE : 0,
                  offset + start, buf + start, pos - start, zero);
    }
}

static bool send_chunks(NbdConn *conn, const NbdRequest *req, uint64_t offset,
                        uint8_t *buf, uint32_t bytes, bool last)
{
    ReadChunks c;

    c.n_heads = c.n_iov = 0;
    if (req->flags & NBD_CMD_FLAG_DF) {
        add_chunk(&c, req, NBD_REPLY_FLAG_DONE, offset, buf, bytes, false);
    } else {
        add_runs(&c, req, offset, buf, bytes, last);
    }
    return nbd_send(conn, c.iov, c.n_iov);
}

static void read_structured(NbdConn *conn, const NbdRequest *req, uint8_t *buf)
{
    uint32_t done = 0, now;

    if (req->length == 0) {
        uint8_t head[NBD_CHUNK_SIZE];
        struct iovec iov = { head, sizeof(head) };

        nbd_put_chunk(head, req->cookie, NBD_REPLY_FLAG_DONE,
                      NBD_REPLY_TYPE_NONE, 0);
        nbd_send(conn, &iov, 1);
    }
    for (; done < req->length; done += now) {
        uint64_t offset = req->offset + done;
        int ret;

        now = MIN(req->length - done, NBD_BUFFER_SIZE);
        ret = timed_pread(conn, offset, now, buf);
        if (ret < 0) {
            reply_result(conn, req, ret);
            return;
        }
        if (!send_chunks(conn, req, offset, buf, now, done + now == req->length)) {
            return;
        }
    }
}

/* After the first piece of a simple reply no error can be told any more, and
 * nothing else may be sent in between. */
static void read_simple_rest(NbdConn *conn, const NbdRequest *req, uint8_t *buf,
                             uint32_t done)
{
    uint32_t now;

    for (; done < req->length; done += now) {
        struct iovec iov;

        now = MIN(req->length - done, NBD_BUFFER_SIZE);
        iov = (struct iovec){ buf, now };
        if (timed_pread(conn, req->offset + done, now, buf) < 0) {
            conn->tx_broken = true; /* we are the one who sends */
            nbd_conn_abort(conn);
            return;
        }
        if (!nbd_tx_send(conn, &iov, 1)) {
            return;
        }
    }
}

static void read_simple(NbdConn *conn, const NbdRequest *req, uint8_t *buf)
{
    uint32_t now = MIN(req->length, NBD_BUFFER_SIZE);
    uint8_t head[NBD_SIMPLE_REPLY_SIZE];
    struct iovec iov[2] = { { head, sizeof(head) }, { buf, now } };
    int ret = timed_pread(conn, req->offset, now, buf);

    if (ret < 0) {
        reply_result(conn, req, ret);
        return;
    }
    nbd_put_simple_reply(head, req->cookie, NBD_SUCCESS);
    nbd_tx_begin(conn);
    if (nbd_tx_send(conn, iov, 2)) {
        read_simple_rest(conn, req, buf, now);
    }
    nbd_tx_end(conn);
}

/* ---- WRITE ---------------------------------------------------------- */

static int write_piece(NbdConn *conn, const NbdJob *job, const uint8_t *buf,
                       int flags)
{
    uint64_t start = now_ns();
    int ret = blk_pwrite(conn->exp->blk, (int64_t)(job->req.offset + job->done),
                         job->have, buf, flags);

    note_pace(&conn->exp->pace[1], start);
    return ret;
}

void nbd_run_piece(NbdConn *conn, NbdJob *job, const uint8_t *buf)
{
    if (!job->error) {
        job->error = nbd_errno(-write_piece(conn, job, buf, 0));
    }
    job->done += job->have;
    job->have = 0;
}

static void run_write(NbdConn *conn, const NbdJob *job, const uint8_t *buf)
{
    bool fua = job->req.flags & NBD_CMD_FLAG_FUA;
    int ret;

    if (job->error) {
        reply(conn, &job->req, job->error);
        return;
    }
    /* Earlier pieces went without FUA: one flush makes all of them durable. */
    ret = write_piece(conn, job, buf, fua && !job->done ? BDRV_REQ_FUA : 0);
    if (ret == 0 && fua && job->done) {
        ret = blk_flush(conn->exp->blk);
    }
    reply_result(conn, &job->req, ret);
}

/* ---- the others ----------------------------------------------------- */

static int run_trim(NbdConn *conn, const NbdRequest *req)
{
    BlockBackend *blk = conn->exp->blk;
    int ret = blk_pdiscard(blk, (int64_t)req->offset, req->length);

    if (ret == 0 && (req->flags & NBD_CMD_FLAG_FUA)) {
        ret = blk_flush(blk);
    }
    return ret;
}

static int run_write_zeroes(NbdConn *conn, const NbdRequest *req)
{
    int flags = 0;

    flags |= req->flags & NBD_CMD_FLAG_NO_HOLE ? 0 : BDRV_REQ_MAY_UNMAP;
    flags |= req->flags & NBD_CMD_FLAG_FAST_ZERO ? BDRV_REQ_NO_FALLBACK : 0;
    flags |= req->flags & NBD_CMD_FLAG_FUA ? BDRV_REQ_FUA : 0;
    return blk_pwrite_zeroes(conn->exp->blk, (int64_t)req->offset, req->length,
                             flags);
}

/* With O_DIRECT there is no cache to read into. */
static bool has_page_cache(BlockBackend *blk)
{
    g_autoptr(BlockNode) bs = blk_get_node(blk);

    return bs && !(bdrv_open_flags(bs) & BDRV_O_NOCACHE);
}

static int run_cache(NbdConn *conn, const NbdRequest *req, uint8_t *buf)
{
    BlockBackend *blk = conn->exp->blk;
    uint32_t length = MIN(req->length, MAX_PREFETCH), done, now;
    int ret = 0;

    if (!has_page_cache(blk)) {
        return 0;
    }
    for (done = 0; done < length && ret == 0; done += now) {
        now = MIN(length - done, NBD_BUFFER_SIZE);
        ret = blk_pread(blk, (int64_t)(req->offset + done), now, buf);
    }
    return ret;
}

static uint32_t extent_flags(int status)
{
    return (status & BDRV_BLOCK_DATA ? 0 : NBD_STATE_HOLE) |
           (status & BDRV_BLOCK_ZERO ? NBD_STATE_ZERO : 0);
}

/* Fill @p with u32 length, u32 flags of each extent, neighbours of one kind
 * joined; the number of extents, or a negative errno. */
static int collect_extents(BlockBackend *blk, const NbdRequest *req, int max,
                           uint8_t *p)
{
    uint32_t done = 0;
    int n = 0;

    while (done < req->length) {
        int64_t pnum = 0;
        int status = blk_block_status(blk, (int64_t)(req->offset + done),
                                      req->length - done, &pnum);
        uint32_t flags;

        if (status < 0 || pnum <= 0) {
            /* What is known so far is an answer, too. */
            return n ? n : status < 0 ? status : -EIO;
        }
        flags = extent_flags(status);
        if (n && nbd_get32(p - 4) == flags) {
            nbd_put32(p - 8, nbd_get32(p - 8) + (uint32_t)pnum);
        } else if (n == max) {
            break;
        } else {
            nbd_put32(p, (uint32_t)pnum);
            nbd_put32(p + 4, flags);
            p += 8;
            n++;
        }
        done += (uint32_t)pnum;
    }
    return n;
}

static void run_block_status(NbdConn *conn, const NbdRequest *req, uint8_t *buf)
{
    int max = req->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : MAX_EXTENTS;
    int n = collect_extents(conn->exp->blk, req, max, buf + NBD_CHUNK_SIZE + 4);
    uint32_t bytes;
    struct iovec iov;

    if (n < 0) {
        reply_result(conn, req, n);
        return;
    }
    bytes = 4 + 8 * (uint32_t)n;
    nbd_put_chunk(buf, req->cookie, NBD_REPLY_FLAG_DONE,
                  NBD_REPLY_TYPE_BLOCK_STATUS, bytes);
    nbd_put32(buf + NBD_CHUNK_SIZE, NBD_CONTEXT_ID);
    iov = (struct iovec){ buf, NBD_CHUNK_SIZE + bytes };
    nbd_send(conn, &iov, 1);
}

/* ---- dispatch ------------------------------------------------------- */

/* The size to check against.  What goes to the block layer in one call is
 * checked there, against the length at that moment. */
static uint64_t size_for_check(NbdConn *conn, const NbdRequest *req)
{
    int64_t length;

    if (req->type == NBD_CMD_FLUSH ||
        (req->type == NBD_CMD_READ && req->length <= NBD_BUFFER_SIZE)) {
        return INT64_MAX;
    }
    length = blk_length(conn->exp->blk);
    return (uint64_t)MAX(length, 0);
}

void nbd_run(NbdConn *conn, const NbdJob *job, uint8_t *buf)
{
    const NbdRequest *req = &job->req;
    uint32_t error;

    if (req->type == NBD_CMD_WRITE) { /* checked when its header came */
        run_write(conn, job, buf);
        return;
    }
    error = nbd_request_check(req, &conn->session, size_for_check(conn, req));
    if (error) {
        reply(conn, req, error);
        return;
    }
    switch (req->type) {
    case NBD_CMD_READ:
        if (conn->session.structured) {
            read_structured(conn, req, buf);
        } else {
            read_simple(conn, req, buf);
        }
        break;
    case NBD_CMD_BLOCK_STATUS:
        run_block_status(conn, req, buf);
        break;
    case NBD_CMD_FLUSH:
        reply_result(conn, req, blk_flush(conn->exp->blk));
        break;
    case NBD_CMD_TRIM:
        reply_result(conn, req, run_trim(conn, req));
        break;
    case NBD_CMD_WRITE_ZEROES:
        reply_result(conn, req, run_write_zeroes(conn, req));
        break;
    case NBD_CMD_CACHE:
        reply_result(conn, req, run_cache(conn, req, buf));
        break;
    default: /* the check refuses others; DISC does not come here */
        reply(conn, req, NBD_EINVAL);
        break;
    }
}
