/*
 * NBD: the workers, their events, and the tokens that say who may run.
 *
 * All workers wait in one epoll; every descriptor but the stop event is
 * one-shot or edge-triggered, so an event goes to one of them, and the kernel
 * prefers the one that went to sleep last.  A worker that finds itself to have
 * been the last idle one starts another, up to the bound.
 *
 * A request needs a token; there are max_workers of them and one thread more,
 * so that there is always a thread for what needs none (accept, handshake,
 * timers).  Each export brings a token of its own.  Who gets one, so that
 * drives which wait (drained, held by a backup's hook, or a client that reads
 * nothing) cannot starve the others:
 *
 *  1. an export with nothing running gets any free token, and one is reserved
 *     for each such export;
 *  2. beside other exports, one gets no more than are left free: the first
 *     that is stuck holds at most half of all, the second half of the rest, …
 *
 * A connection that gets none waits in a queue and takes no worker.  Whenever
 * tokens or exports change, tokens are given to all in the queue who may now
 * have one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "nbd-internal.h"
#include "util/error.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* ---- buffers -------------------------------------------------------- */

NbdBuffer *nbd_buffer_get(NbdServer *srv)
{
    NbdBuffer *b;

    pthread_mutex_lock(&srv->lock);
    b = srv->buffers;
    if (b) {
        srv->buffers = b->next;
    }
    pthread_mutex_unlock(&srv->lock);
    if (!b) {
        /* Only what is used of it ever takes memory. */
        void *p = mmap(NULL, NBD_BUFFER_SIZE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED) {
            return NULL;
        }
        b = g_new0(NbdBuffer, 1);
        b->data = p;
    }
    return b;
}

void nbd_buffer_put(NbdServer *srv, NbdBuffer *buffer)
{
    pthread_mutex_lock(&srv->lock);
    buffer->next = srv->buffers;
    srv->buffers = buffer;
    pthread_mutex_unlock(&srv->lock);
}

static void buffer_shrink(NbdBuffer *buffer)
{
    madvise(buffer->data, NBD_BUFFER_SIZE, MADV_DONTNEED);
    buffer->large = false;
}

static void buffers_free(NbdServer *srv)
{
    while (srv->buffers) {
        NbdBuffer *b = srv->buffers;

        srv->buffers = b->next;
        munmap(b->data, NBD_BUFFER_SIZE);
        g_free(b);
    }
}

/* ---- tokens --------------------------------------------------------- */

static bool may_run(NbdConn *conn)
{
    NbdServer *srv = conn->srv;
    NbdExport *exp = conn->exp;
    unsigned left = (unsigned)MAX(g_atomic_int_get(&srv->free), 0);

    if (g_atomic_int_get(&conn->closing)) {
        return true; /* it will only be taken down */
    }
    if (left == 0 || conn->running >= NBD_MAX_RUNNING) {
        return false;
    }
    if (exp->running == 0) {
        return true;
    }
    return left > srv->idle_exports &&
           (srv->exports->len == 1 || exp->running < left);
}

static void take_token(NbdConn *conn)
{
    NbdServer *srv = conn->srv;
    NbdExport *exp = conn->exp;

    g_atomic_int_add(&srv->free, -1);
    srv->idle_exports -= exp->running == 0 && !exp->removed;
    exp->running++;
    conn->running++;
    g_atomic_int_inc(&conn->refs);
}

bool nbd_token_take(NbdConn *conn)
{
    NbdServer *srv = conn->srv;
    bool ok;

    pthread_mutex_lock(&srv->lock);
    ok = conn->granted || may_run(conn);
    if (!ok) {
        g_atomic_int_set(&conn->role, NBD_ROLE(conn->serial, NBD_ROLE_WAITING));
        g_queue_push_tail_link(&srv->waiting, &conn->waiting_link);
    } else if (!conn->granted) {
        take_token(conn);
    }
    conn->granted = false;
    pthread_mutex_unlock(&srv->lock);
    return ok;
}

void nbd_unpark_locked(NbdConn *conn)
{
    if (NBD_ROLE_OF(g_atomic_int_get(&conn->role)) == NBD_ROLE_WAITING) {
        g_queue_unlink(&conn->srv->waiting, &conn->waiting_link);
        nbd_conn_arm(conn);
    }
}

void nbd_tokens_grant_locked(NbdServer *srv)
{
    GList *next;

    for (GList *l = srv->waiting.head; l; l = next) {
        NbdConn *conn = l->data;

        next = l->next;
        if (may_run(conn)) {
            take_token(conn);
            conn->granted = true;
            nbd_unpark_locked(conn);
        }
    }
}

void nbd_token_release(NbdConn *conn)
{
    NbdServer *srv = conn->srv;
    NbdExport *exp = conn->exp;

    pthread_mutex_lock(&srv->lock);
    conn->running--;
    exp->running--;
    srv->idle_exports += exp->running == 0 && !exp->removed;
    g_atomic_int_inc(&srv->free);
    nbd_tokens_grant_locked(srv);
    pthread_mutex_unlock(&srv->lock);
    nbd_conn_unref(conn);
}

bool nbd_tokens_scarce(NbdServer *srv)
{
    return g_atomic_int_get(&srv->free) <= g_atomic_int_get(&srv->tokens) / 2;
}

/* ---- timers --------------------------------------------------------- */

static void set_timer(int fd, unsigned ms)
{
    struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
    struct itimerspec spec = { t, t };

    timerfd_settime(fd, 0, &spec, NULL);
}

/* Without the read a periodic timer does not go on. */
static bool timer_has_come(int fd)
{
    uint64_t count;

    return read(fd, &count, sizeof(count)) > 0;
}

void nbd_start_tick(NbdServer *srv)
{
    if (!srv->ticking) {
        srv->ticking = true;
        set_timer(srv->tickfd, 1000);
    }
}

/* Once a second: handshakes that take too long; a listening socket that was
 * given a rest. */
static void tick(NbdServer *srv)
{
    gint64 now = g_get_monotonic_time();
    bool needed = false;

    pthread_mutex_lock(&srv->lock);
    for (GList *l = srv->conns.head; l; l = l->next) {
        NbdConn *conn = l->data;

        needed |= conn->deadline != 0;
        if (conn->deadline && conn->deadline <= now) {
            conn->deadline = 0;
            nbd_conn_close_locked(conn, true);
        }
    }
    if (srv->listen_paused && srv->listen_fd >= 0) {
        srv->listen_paused = false;
        nbd_arm_fd(srv, EPOLL_CTL_MOD, srv->listen_fd, EPOLLIN | EPOLLONESHOT,
                   &srv->listen_event);
    }
    if (!needed) {
        srv->ticking = false;
        set_timer(srv->tickfd, 0);
    }
    pthread_mutex_unlock(&srv->lock);
}

void nbd_watch_start(NbdServer *srv)
{
    if (G_LIKELY(g_atomic_int_get(&srv->watching))) {
        return;
    }
    pthread_mutex_lock(&srv->lock);
    if (!g_atomic_int_get(&srv->watching)) {
        g_atomic_int_set(&srv->watching, 1);
        set_timer(srv->watchfd, NBD_WATCH_MS);
    }
    pthread_mutex_unlock(&srv->lock);
}

/* Did anything go on since the last look, or is it under way? */
static bool watch_look(NbdServer *srv)
{
    bool active = false;

    for (GList *l = srv->conns.head; l; l = l->next) {
        NbdConn *conn = l->data;
        gint role = g_atomic_int_get(&conn->role);

        active |= role != conn->watched || NBD_ROLE_OF(role) == NBD_ROLE_BUSY;
    }
    return active;
}

/* Take the role from those who run the same request as at the last look; but
 * a client that does not take its answers gets no further worker. */
static void watch_take(NbdServer *srv)
{
    for (GList *l = srv->conns.head; l; l = l->next) {
        NbdConn *conn = l->data;
        gint role = g_atomic_int_get(&conn->role);

        if (role == conn->watched && NBD_ROLE_OF(role) == NBD_ROLE_BUSY &&
            !nbd_tx_is_congested(conn) &&
            g_atomic_int_compare_and_exchange(
                &conn->role, role, NBD_ROLE((guint)role >> 2, NBD_ROLE_OWNED))) {
            nbd_conn_arm(conn);
        }
        conn->watched = role;
    }
}

static void watch(NbdServer *srv)
{
    pthread_mutex_lock(&srv->lock);
    if (watch_look(srv)) {
        watch_take(srv);
    } else {
        /* Stop, then look again: who became busy before it could see
         * `watching' cleared is seen here. */
        g_atomic_int_set(&srv->watching, 0);
        if (watch_look(srv)) {
            g_atomic_int_set(&srv->watching, 1);
        } else {
            set_timer(srv->watchfd, 0);
        }
    }
    pthread_mutex_unlock(&srv->lock);
}

/* ---- threads -------------------------------------------------------- */

static gpointer worker_main(gpointer opaque);

/* Lock held. */
static bool add_worker(NbdServer *srv, GError **errp)
{
    GThread *t = g_thread_try_new("nbd-worker", worker_main, srv, errp);

    if (t) {
        g_ptr_array_add(srv->threads, t);
    }
    return t != NULL;
}

static void add_worker_if_needed(NbdServer *srv)
{
    pthread_mutex_lock(&srv->lock);
    if (!srv->stopping && g_atomic_int_get(&srv->idle) == 0 &&
        srv->threads->len <= srv->max_workers) {
        add_worker(srv, NULL); /* without it, it is only slower */
    }
    pthread_mutex_unlock(&srv->lock);
}

static void handle(NbdServer *srv, NbdEvent *event, NbdBuffer **buffer)
{
    switch (event->kind) {
    case NBD_EVENT_LISTEN:
        nbd_server_accept(srv);
        break;
    case NBD_EVENT_TICK:
        if (timer_has_come(srv->tickfd)) {
            tick(srv);
        }
        break;
    case NBD_EVENT_WATCH:
        if (timer_has_come(srv->watchfd)) {
            watch(srv);
        }
        break;
    default:
        nbd_conn_event((NbdConn *)event, buffer);
        break;
    }
}

static NbdEvent *wait_event(NbdServer *srv, NbdBuffer *buffer)
{
    struct epoll_event ev;
    int n;

    g_atomic_int_inc(&srv->idle);
    do {
        n = epoll_wait(srv->epfd, &ev, 1, buffer->large ? NBD_BUFFER_IDLE_MS : -1);
        if (n == 0) {
            buffer_shrink(buffer);
        }
    } while (n <= 0);
    if (g_atomic_int_dec_and_test(&srv->idle)) {
        add_worker_if_needed(srv);
    }
    return ev.data.ptr;
}

static gpointer worker_main(gpointer opaque)
{
    NbdServer *srv = opaque;
    NbdBuffer *buffer = nbd_buffer_get(srv);
    NbdEvent *event;
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    if (!buffer) {
        return NULL;
    }
    while ((event = wait_event(srv, buffer))->kind != NBD_EVENT_STOP) {
        handle(srv, event, &buffer);
    }
    nbd_buffer_put(srv, buffer);
    return NULL;
}

/* The thread sanitizer takes epoll_ctl for a use of the descriptor and does not
 * know that a one-shot event comes after it, so it would see a race with the
 * close by whoever gets that event. */
#ifdef __SANITIZE_THREAD__
#define rearm(...) syscall(SYS_epoll_ctl, __VA_ARGS__)
#else
#define rearm(...) epoll_ctl(__VA_ARGS__)
#endif

bool nbd_arm_fd(NbdServer *srv, int op, int fd, uint32_t events, NbdEvent *event)
{
    struct epoll_event ev = { events, { .ptr = event } };

    if (op == EPOLL_CTL_MOD) {
        return rearm(srv->epfd, op, fd, &ev) == 0;
    }
    return epoll_ctl(srv->epfd, op, fd, &ev) == 0;
}

static bool open_fds(NbdServer *srv)
{
    srv->epfd = epoll_create1(EPOLL_CLOEXEC);
    srv->stopfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    srv->tickfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    srv->watchfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    return srv->epfd >= 0 && srv->stopfd >= 0 && srv->tickfd >= 0 &&
           srv->watchfd >= 0 &&
           nbd_arm_fd(srv, EPOLL_CTL_ADD, srv->stopfd, EPOLLIN, &srv->stop_event) &&
           nbd_arm_fd(srv, EPOLL_CTL_ADD, srv->tickfd, EPOLLIN | EPOLLET,
                      &srv->tick_event) &&
           nbd_arm_fd(srv, EPOLL_CTL_ADD, srv->watchfd, EPOLLIN | EPOLLET,
                      &srv->watch_event);
}

static void close_fds(NbdServer *srv)
{
    int fds[] = { srv->epfd, srv->stopfd, srv->tickfd, srv->watchfd };

    for (size_t i = 0; i < G_N_ELEMENTS(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
}

bool nbd_workers_start(NbdServer *srv, GError **errp)
{
    bool ok;

    srv->stop_event.kind = NBD_EVENT_STOP;
    srv->tick_event.kind = NBD_EVENT_TICK;
    srv->watch_event.kind = NBD_EVENT_WATCH;
    srv->threads = g_ptr_array_new();
    if (!open_fds(srv)) {
        error_set_errno(errp, errno, "NBD server: could not start");
        nbd_workers_stop(srv);
        return false;
    }
    pthread_mutex_lock(&srv->lock);
    ok = add_worker(srv, errp);
    pthread_mutex_unlock(&srv->lock);
    if (!ok) {
        nbd_workers_stop(srv);
    }
    return ok;
}

void nbd_workers_stop(NbdServer *srv)
{
    uint64_t one = 1;

    if (srv->stopfd >= 0 && write(srv->stopfd, &one, sizeof(one)) < 0) {
        g_warning("nbd: eventfd: %s", g_strerror(errno));
    }
    for (guint i = 0; i < srv->threads->len; i++) {
        g_thread_join(g_ptr_array_index(srv->threads, i));
    }
    g_ptr_array_unref(srv->threads);
    buffers_free(srv);
    close_fds(srv);
}
