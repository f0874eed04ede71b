/*
 * NBD: bytes between a connection's socket and memory.
 *
 * Receiving aims at one system call a request or less: one recvmsg takes the
 * header to conn->head and whatever follows to the worker's page-aligned
 * buffer.  If the request is a write, its payload then lies where O_DIRECT
 * wants it; what belongs to later requests moves to the stash, from which they
 * are served without another system call.
 *
 * Sending: one thread at a time.  Who finds another at it copies a small reply to
 * the backlog and is done; the sender sends all of the backlog in one go before it
 * stops.  So workers that finish together neither wait for each other nor make a
 * system call, and a client wake-up, each.  A large reply waits for its turn.
 *
 * A request that is only partly there stays in the connection (head, job, and
 * the buffer if it holds payload), not in a worker.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "nbd-internal.h"

#include <errno.h>
#include <sys/socket.h>

static size_t stash_left(const NbdConn *conn)
{
    return conn->stash_len - conn->stash_pos;
}

static void stash_take(NbdConn *conn, void *to, size_t len)
{
    memcpy(to, conn->stash + conn->stash_pos, len);
    conn->stash_pos += len;
}

/* A result of recv that brought nothing. */
static NbdRxResult nothing(ssize_t n)
{
    /* EINTR: a stop and continue of the process ends waits with a timeout. */
    return n < 0 && (errno == EAGAIN || errno == EINTR) ? NBD_RX_AGAIN
                                                        : NBD_RX_GONE;
}

/*
 * Complete the header; *surplus is how many bytes after it lie at @buf.
 * NBD_RX_REQUEST: it is complete.
 */
static NbdRxResult receive_head(NbdConn *conn, uint8_t *buf, bool wait,
                                size_t *surplus)
{
    size_t need = NBD_REQUEST_SIZE - conn->head_have;
    size_t now = MIN(need, stash_left(conn));
    struct iovec iov[2];
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
    ssize_t n;

    *surplus = 0;
    stash_take(conn, conn->head + conn->head_have, now);
    conn->head_have += now;
    need -= now;
    if (need == 0) {
        return NBD_RX_REQUEST;
    }
    /* The stash is empty now. */
    iov[0] = (struct iovec){ conn->head + conn->head_have, need };
    iov[1] = (struct iovec){ buf, NBD_STASH_SIZE };
    n = recvmsg(conn->fd, &msg, wait ? 0 : MSG_DONTWAIT);
    if (n <= 0) {
        return nothing(n);
    }
    if ((size_t)n < need) {
        conn->head_have += n;
        return NBD_RX_AGAIN;
    }
    conn->head_have = NBD_REQUEST_SIZE;
    *surplus = n - need;
    return NBD_RX_REQUEST;
}

/* Decode the header, and decide about a payload before it is received. */
static bool begin_job(NbdConn *conn)
{
    NbdJob *job = &conn->job;

    *job = (NbdJob){ 0 };
    if (!nbd_request_decode(conn->head, &job->req)) {
        return false;
    }
    if (job->req.type == NBD_CMD_WRITE) {
        /* A write of one piece is compared with the length by the block
         * layer; longer ones are refused before any of it is written. */
        uint64_t size = INT64_MAX;

        if (job->req.length > NBD_BUFFER_SIZE) {
            int64_t length = blk_length(conn->exp->blk);

            size = MAX(length, 0);
        }
        job->error = nbd_request_check(&job->req, &conn->session, size);
    }
    return true;
}

/* Share out what came behind the header: first payload, then the stash. */
static void place_surplus(NbdConn *conn, uint8_t *buf, size_t surplus)
{
    uint32_t payload = nbd_request_payload(&conn->job.req);
    size_t mine;

    if (surplus > 0) {
        mine = MIN(surplus, payload);
        memcpy(conn->stash, buf + mine, surplus - mine);
        conn->stash_pos = 0;
        conn->stash_len = surplus - mine;
    } else {
        mine = MIN(stash_left(conn), MIN(payload, NBD_BUFFER_SIZE));
        stash_take(conn, buf, mine);
    }
    conn->job.have = (uint32_t)mine;
}

/* How much payload the current piece has when it is complete. */
static uint32_t piece_size(const NbdJob *job)
{
    return MIN(nbd_request_payload(&job->req) - job->done, NBD_BUFFER_SIZE);
}

static NbdRxResult receive_payload(NbdConn *conn, uint8_t *buf)
{
    NbdJob *job = &conn->job;
    uint32_t size = piece_size(job);

    while (job->have < size) {
        size_t now = MIN(size - job->have, stash_left(conn));
        ssize_t n;

        if (now > 0) {
            stash_take(conn, buf + job->have, now);
            job->have += now;
            continue;
        }
        /* The client is in the middle of sending: it is worth waiting, for
         * the socket's receive timeout at most. */
        n = recv(conn->fd, buf + job->have, size - job->have, MSG_WAITALL);
        if (n <= 0) {
            return nothing(n);
        }
        job->have += n;
        if (job->have < size) {
            return NBD_RX_AGAIN; /* timeout, or the end, which comes again */
        }
    }
    return job->done + size < nbd_request_payload(&job->req) ? NBD_RX_PIECE
                                                             : NBD_RX_REQUEST;
}

NbdRxResult nbd_receive(NbdConn *conn, uint8_t *buf, bool wait)
{
    if (conn->head_have < NBD_REQUEST_SIZE) {
        size_t surplus;
        NbdRxResult r = receive_head(conn, buf, wait, &surplus);

        if (r != NBD_RX_REQUEST) {
            return r;
        }
        if (!begin_job(conn)) {
            return NBD_RX_GONE;
        }
        place_surplus(conn, buf, surplus);
    }
    return receive_payload(conn, buf);
}

/* Step over @n sent bytes; the number of iov elements that are done with. */
static int iov_advance(struct iovec *iov, int count, size_t n)
{
    int i = 0;

    while (i < count && n >= iov[i].iov_len) {
        n -= iov[i++].iov_len;
    }
    if (i < count) {
        iov[i].iov_base = (uint8_t *)iov[i].iov_base + n;
        iov[i].iov_len -= n;
    }
    return i;
}

/* By who is sending.  After a failure everything is dropped. */
static void send_all(NbdConn *conn, struct iovec *iov, int n)
{
    while (n > 0 && !conn->tx_broken) {
        struct msghdr msg = { .msg_iov = iov, .msg_iovlen = n };
        ssize_t sent = sendmsg(conn->fd, &msg, MSG_NOSIGNAL);
        int done;

        if (sent >= 0) {
            done = iov_advance(iov, n, sent);
            iov += done;
            n -= done;
        } else if (errno != EINTR) {
            conn->tx_broken = true;
            nbd_conn_abort(conn);
        }
    }
}

/* Leave the reply to the one who is sending, if there is room.  Lock held. */
static bool leave_behind(NbdConn *conn, const struct iovec *iov, int n)
{
    size_t total = 0;

    for (int i = 0; i < n; i++) {
        total += iov[i].iov_len;
    }
    if (total > NBD_BACKLOG_SIZE - conn->tx_backlog_len) {
        return false;
    }
    if (!conn->tx_backlog) {
        conn->tx_backlog = g_malloc(NBD_BACKLOG_SIZE);
    }
    for (int i = 0; i < n; i++) {
        memcpy(conn->tx_backlog + conn->tx_backlog_len, iov[i].iov_base,
               iov[i].iov_len);
        conn->tx_backlog_len += iov[i].iov_len;
    }
    return true;
}

/* Lock held; waits for whoever is sending. */
static void begin_sending(NbdConn *conn)
{
    while (conn->tx_busy) {
        g_atomic_int_inc(&conn->tx_waiters);
        pthread_cond_wait(&conn->tx_done, &conn->tx_lock);
        g_atomic_int_add(&conn->tx_waiters, -1);
    }
    conn->tx_busy = true;
}

void nbd_tx_begin(NbdConn *conn)
{
    pthread_mutex_lock(&conn->tx_lock);
    begin_sending(conn);
    pthread_mutex_unlock(&conn->tx_lock);
}

/* Send what the others have left meanwhile, in one go. */
static void send_backlog(NbdConn *conn)
{
    uint8_t *backlog = g_steal_pointer(&conn->tx_backlog);
    struct iovec iov = { backlog, conn->tx_backlog_len };

    conn->tx_backlog_len = 0;
    pthread_mutex_unlock(&conn->tx_lock);
    send_all(conn, &iov, 1);
    pthread_mutex_lock(&conn->tx_lock);
    if (conn->tx_backlog) {
        g_free(backlog);
    } else {
        conn->tx_backlog = backlog;
    }
}

void nbd_tx_end(NbdConn *conn)
{
    pthread_mutex_lock(&conn->tx_lock);
    while (conn->tx_backlog_len > 0) {
        send_backlog(conn);
    }
    conn->tx_busy = false;
    if (g_atomic_int_get(&conn->tx_waiters)) {
        pthread_cond_signal(&conn->tx_done);
    }
    pthread_mutex_unlock(&conn->tx_lock);
}

bool nbd_tx_send(NbdConn *conn, struct iovec *iov, int n)
{
    send_all(conn, iov, n);
    return !conn->tx_broken;
}

bool nbd_send(NbdConn *conn, struct iovec *iov, int n)
{
    bool ok;

    pthread_mutex_lock(&conn->tx_lock);
    if (conn->tx_busy && leave_behind(conn, iov, n)) {
        pthread_mutex_unlock(&conn->tx_lock);
        return true;
    }
    begin_sending(conn);
    pthread_mutex_unlock(&conn->tx_lock);
    ok = nbd_tx_send(conn, iov, n);
    nbd_tx_end(conn);
    return ok;
}

bool nbd_tx_is_congested(NbdConn *conn)
{
    return g_atomic_int_get(&conn->tx_waiters) > 0;
}
