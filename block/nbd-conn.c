/*
 * NBD: one connection, from greeting to close.  Everything here but
 * nbd_conn_close_locked and _unref is done by the holder of its role; see
 * nbd-internal.h.
 *
 * Two ways to run a request.  *In hand*: the worker keeps the role, answers,
 * and takes the next request itself: no hand-over, no wake-up, the cheapest
 * there is when the data is in the page cache.  *Handed on*: the worker arms
 * the socket first, so that other workers take the next requests while this
 * one waits for the disk.  The second is chosen for what is known to wait
 * (flush, FUA, discard) and when reads (writes) of this export took longer than
 * a wake-up costs lately.  A wrong guess is mended by the watch timer, which
 * takes the role from a worker that is stuck.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "nbd-internal.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* How many rounds of the handshake a worker does before others have a turn. */
#define HANDSHAKE_ROUNDS 16

/* ---- life and death ------------------------------------------------- */

static void arm_events(NbdConn *conn, uint32_t events)
{
    NbdServer *srv = conn->srv;
    int fd = conn->fd;

    g_atomic_int_set(&conn->role, NBD_ROLE(conn->serial, NBD_ROLE_ARMED));
    /* From here on another thread may own it. */
    if (!nbd_arm_fd(srv, EPOLL_CTL_MOD, fd, events | EPOLLONESHOT, &conn->event)) {
        g_warning("nbd: epoll_ctl: %s", g_strerror(errno));
    }
}

void nbd_conn_arm(NbdConn *conn)
{
    bool stashed = conn->stash_pos < conn->stash_len;

    /* For what was received already, EPOLLIN will not come: a writable
     * socket, which is nearly always at hand, brings the event instead. */
    arm_events(conn, EPOLLIN | (stashed ? EPOLLOUT : 0));
}

void nbd_conn_abort(NbdConn *conn)
{
    shutdown(conn->fd, SHUT_RDWR);
}

static void set_up_socket(int fd)
{
    struct timeval linger = { 0, NBD_LINGER_MS * 1000 };
    int sndbuf = NBD_BUFFER_SIZE;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &linger, sizeof(linger));
    /* As much as the system allows; fewer switches to and fro in long reads. */
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf));
}

static NbdConn *conn_alloc(NbdServer *srv, int fd)
{
    NbdConn *conn = g_new0(NbdConn, 1);

    conn->event.kind = NBD_EVENT_CONN;
    conn->srv = srv;
    conn->fd = fd;
    conn->refs = 1;
    conn->role = NBD_ROLE(0, NBD_ROLE_ARMED);
    conn->link.data = conn->waiting_link.data = conn;
    conn->stash = g_malloc(NBD_STASH_SIZE);
    conn->out = g_byte_array_new();
    conn->negotiation = g_new(NbdNegotiation, 1);
    nbd_negotiate_init(conn->negotiation, &nbd_server_negotiate_ops, srv,
                       conn->out);
    pthread_mutex_init(&conn->tx_lock, NULL);
    pthread_cond_init(&conn->tx_done, NULL);
    return conn;
}

static void conn_free(NbdConn *conn)
{
    close(conn->fd);
    if (conn->negotiation) {
        nbd_negotiate_clear(conn->negotiation);
        g_free(conn->negotiation);
    }
    if (conn->buffer) {
        nbd_buffer_put(conn->srv, conn->buffer);
    }
    if (conn->exp) {
        nbd_export_unref(conn->exp);
    }
    g_byte_array_unref(conn->out);
    pthread_mutex_destroy(&conn->tx_lock);
    pthread_cond_destroy(&conn->tx_done);
    g_free(conn->tx_backlog);
    g_free(conn->stash);
    g_free(conn);
}

void nbd_conn_unref(NbdConn *conn)
{
    NbdServer *srv = conn->srv;

    if (!g_atomic_int_dec_and_test(&conn->refs)) {
        return;
    }
    pthread_mutex_lock(&srv->lock);
    g_queue_unlink(&srv->conns, &conn->link);
    pthread_cond_broadcast(&srv->changed);
    pthread_mutex_unlock(&srv->lock);
    /* nbd_server_free waits for this thread, too. */
    nbd_arm_fd(srv, EPOLL_CTL_DEL, conn->fd, 0, NULL);
    conn_free(conn);
}

/* The owner's last act.  Requests that still run keep the socket open.
 * @goodbye: the client has said so. */
static void end_conn(NbdConn *conn, bool goodbye)
{
    NbdServer *srv = conn->srv;

    pthread_mutex_lock(&srv->lock);
    conn->down = true;
    conn->deadline = 0;
    if (conn->exp) {
        conn->exp->connections--;
        if (goodbye && srv->goodbye) {
            srv->goodbye(srv->goodbye_opaque, conn->exp->name);
        }
    }
    pthread_mutex_unlock(&srv->lock);
    nbd_conn_unref(conn);
}

static void take_down(NbdConn *conn)
{
    end_conn(conn, false);
}

void nbd_conn_close_locked(NbdConn *conn, bool hard)
{
    /* In the handshake there is nothing to be answered. */
    hard |= conn->exp == NULL;
    g_atomic_int_set(&conn->closing, 1);
    shutdown(conn->fd, hard ? SHUT_RDWR : SHUT_RD);
    nbd_unpark_locked(conn);
}

/* ---- handshake ------------------------------------------------------ */

/* Send what can be sent; false: the connection is lost. */
static bool flush_out(NbdConn *conn)
{
    while (conn->out->len > 0) {
        ssize_t n = send(conn->fd, conn->out->data, conn->out->len,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0) {
            return errno == EAGAIN || errno == EINTR;
        }
        g_byte_array_remove_range(conn->out, 0, (guint)n);
    }
    return true;
}

/* Receive behind what is in the stash.  NBD_RX_REQUEST: there is more now. */
static NbdRxResult receive_more(NbdConn *conn)
{
    size_t left = conn->stash_len - conn->stash_pos;
    ssize_t n;

    memmove(conn->stash, conn->stash + conn->stash_pos, left);
    conn->stash_pos = 0;
    conn->stash_len = left;
    n = recv(conn->fd, conn->stash + left, NBD_STASH_SIZE - left, MSG_DONTWAIT);
    if (n > 0) {
        conn->stash_len += (size_t)n;
        return NBD_RX_REQUEST;
    }
    return n < 0 && (errno == EAGAIN || errno == EINTR) ? NBD_RX_AGAIN
                                                        : NBD_RX_GONE;
}

/* Negotiation is over: tie the connection to its export. */
static bool bind_export(NbdConn *conn)
{
    NbdServer *srv = conn->srv;
    NbdExport *exp = nbd_export_find(srv, conn->negotiation->name);
    bool ok;

    if (!exp) {
        return false; /* removed in this moment */
    }
    conn->session = conn->negotiation->session;
    conn->session.read_only |= exp->read_only;
    pthread_mutex_lock(&srv->lock);
    ok = !exp->removed;
    if (ok) {
        conn->exp = exp;
        conn->deadline = 0;
        exp->connections++;
    }
    pthread_mutex_unlock(&srv->lock);
    if (!ok) {
        nbd_export_unref(exp);
    }
    return ok;
}

/* Feed the negotiation.  False: close. */
static bool negotiate(NbdConn *conn, bool *hungry)
{
    size_t used;
    NbdNegotiateResult r;

    r = nbd_negotiate_feed(conn->negotiation, conn->stash + conn->stash_pos,
                           conn->stash_len - conn->stash_pos, &used, conn->out);
    conn->stash_pos += used;
    *hungry = used == 0;
    if (r == NBD_NEGOTIATE_CLOSE) {
        flush_out(conn);
        return false;
    }
    return r != NBD_NEGOTIATE_DONE || bind_export(conn);
}

/* One round; true: go on.  Otherwise the role has been given up. */
static bool handshake_round(NbdConn *conn)
{
    bool hungry;

    if (!flush_out(conn)) {
        take_down(conn);
        return false;
    }
    if (conn->out->len > 0) {
        arm_events(conn, EPOLLOUT);
        return false;
    }
    if (conn->exp) { /* all is said */
        nbd_negotiate_clear(conn->negotiation);
        g_clear_pointer(&conn->negotiation, g_free);
        conn->transmission = true;
        nbd_conn_arm(conn);
        return false;
    }
    if (!negotiate(conn, &hungry)) {
        take_down(conn);
        return false;
    }
    if (!hungry || conn->out->len > 0) {
        return true;
    }
    switch (receive_more(conn)) {
    case NBD_RX_GONE:
        take_down(conn);
        return false;
    case NBD_RX_AGAIN:
        arm_events(conn, EPOLLIN);
        return false;
    default:
        return true;
    }
}

static void handshake(NbdConn *conn)
{
    for (int i = 0; i < HANDSHAKE_ROUNDS; i++) {
        if (!handshake_round(conn)) {
            return;
        }
    }
    arm_events(conn, EPOLLIN | EPOLLOUT);
}

void nbd_conn_new(NbdServer *srv, int fd)
{
    NbdConn *conn;
    bool ok;

    set_up_socket(fd);
    conn = conn_alloc(srv, fd);
    pthread_mutex_lock(&srv->lock);
    conn->deadline = g_get_monotonic_time() + srv->handshake_us;
    /* It is writable, so a worker will come at once and send the greeting. */
    ok = !srv->stopping && srv->conns.length < NBD_MAX_CONNECTIONS &&
         nbd_arm_fd(srv, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT | EPOLLONESHOT,
                    &conn->event);
    if (ok) {
        g_queue_push_tail_link(&srv->conns, &conn->link);
        nbd_start_tick(srv);
    }
    pthread_mutex_unlock(&srv->lock);
    if (!ok) {
        conn_free(conn);
    }
}

/* ---- transmission --------------------------------------------------- */

/* Keep payload that has come so far with the connection, and leave the worker
 * another buffer. */
static bool keep_payload(NbdConn *conn, NbdBuffer **buffer)
{
    NbdBuffer *other;

    if (conn->head_have < NBD_REQUEST_SIZE) {
        return true;
    }
    other = nbd_buffer_get(conn->srv);
    if (!other) {
        return false;
    }
    conn->buffer = *buffer;
    *buffer = other;
    return true;
}

static void resume_payload(NbdConn *conn, NbdBuffer **buffer)
{
    if (conn->buffer) {
        nbd_buffer_put(conn->srv, *buffer);
        *buffer = g_steal_pointer(&conn->buffer);
    }
}

static bool may_take_long(NbdConn *conn, const NbdRequest *req)
{
    gint *pace = conn->exp->pace;

    switch (req->type) {
    case NBD_CMD_READ:
        return g_atomic_int_get(&pace[0]) > NBD_HAND_ON_NS;
    case NBD_CMD_WRITE:
        return (req->flags & NBD_CMD_FLAG_FUA) ||
               g_atomic_int_get(&pace[1]) > NBD_HAND_ON_NS;
    default:
        return true;
    }
}

/* With answers waiting to be sent, more workers would only read ahead of the
 * client, into ever more buffers, which the CPU's cache then cannot hold. */
static bool should_hand_on(NbdConn *conn, const NbdRequest *req)
{
    return may_take_long(conn, req) && !nbd_tx_is_congested(conn);
}

/* Run it with the role in hand; true: still there. */
static bool run_in_hand(NbdConn *conn, const NbdJob *job, uint8_t *buf)
{
    guint serial = ++conn->serial;

    g_atomic_int_set(&conn->role, NBD_ROLE(serial, NBD_ROLE_BUSY));
    nbd_watch_start(conn->srv);
    nbd_run(conn, job, buf);
    return g_atomic_int_compare_and_exchange(&conn->role,
                                             NBD_ROLE(serial, NBD_ROLE_BUSY),
                                             NBD_ROLE(serial, NBD_ROLE_OWNED));
}

/* The next request, or none; then the role has been given up. */
static bool next_request(NbdConn *conn, NbdBuffer **buffer, bool wait,
                         NbdJob *job)
{
    NbdRxResult r;

    while ((r = nbd_receive(conn, (*buffer)->data, wait)) == NBD_RX_PIECE) {
        nbd_run_piece(conn, &conn->job, (*buffer)->data);
        if (g_atomic_int_get(&conn->closing)) {
            break;
        }
    }
    if (g_atomic_int_get(&conn->closing) || r == NBD_RX_GONE ||
        (r == NBD_RX_AGAIN && !keep_payload(conn, buffer))) {
        take_down(conn);
        return false;
    }
    if (r == NBD_RX_AGAIN) {
        nbd_conn_arm(conn);
        return false;
    }
    *job = conn->job;
    conn->head_have = 0;
    if (job->req.type == NBD_CMD_DISC) {
        end_conn(conn, true);
        return false;
    }
    return true;
}

/* With a token: requests, until there is none or the role is gone. */
static void serve(NbdConn *conn, NbdBuffer **buffer)
{
    NbdJob job;
    bool wait = false;

    resume_payload(conn, buffer);
    while (next_request(conn, buffer, wait, &job)) {
        (*buffer)->large |= job.req.length > NBD_BUFFER_KEEP;
        if (should_hand_on(conn, &job.req)) {
            nbd_conn_arm(conn);
            nbd_run(conn, &job, (*buffer)->data);
            return;
        }
        if (!run_in_hand(conn, &job, (*buffer)->data)) {
            return;
        }
        if (nbd_tokens_scarce(conn->srv)) {
            nbd_conn_arm(conn);
            return;
        }
        wait = true;
    }
}

void nbd_conn_event(NbdConn *conn, NbdBuffer **buffer)
{
    /* Reading it pairs with arm_events, for what the last owner left. */
    gint role = g_atomic_int_get(&conn->role);

    g_return_if_fail(NBD_ROLE_OF(role) == NBD_ROLE_ARMED);
    g_atomic_int_set(&conn->role, NBD_ROLE(conn->serial, NBD_ROLE_OWNED));
    if (!conn->transmission) {
        if (g_atomic_int_get(&conn->closing)) {
            take_down(conn);
        } else {
            handshake(conn);
        }
    } else if (nbd_token_take(conn)) {
        if (g_atomic_int_get(&conn->closing)) {
            take_down(conn);
        } else {
            serve(conn, buffer);
        }
        nbd_token_release(conn);
    }
}
