/*
 * What the files of the NBD server share; docs/nbd-export.md has the picture.
 *
 * A connection's receiving side belongs to one thread at a time: the holder of
 * its *role* (NbdRole).  Requests that were received run on any worker; their
 * replies are sent by one at a time (tx_busy), who also sends small replies that
 * others have left meanwhile (the backlog).
 *
 *                 event           request at hand          finished
 *      ARMED ───────────► OWNED ──────────────────► BUSY ──────────► OWNED
 *        ▲  ▲              │ │ no token               │
 *        │  └──────────────┘ └──────► WAITING ──┐     │ taken away: it lasts
 *        └──────────────────────────────────────┴─────┘
 *
 * In ARMED nobody owns it and epoll (one-shot) will give it to one worker; in
 * WAITING it stands in the queue for a token, and in BUSY its owner is working
 * on a request with the role in hand.  Only the owner takes the connection
 * down: others set `closing' and shut the socket's reading side, so that an
 * event comes to an owner who sees it.
 *
 * Lock order: NbdServer.lock, then NbdConn.tx_lock.  No lock is held over a call
 * into the block layer or over a send.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BLOCK_NBD_INTERNAL_H
#define SIDECAR_BLOCK_NBD_INTERNAL_H

#include "block/nbd-server.h"
#include "nbd-negotiate.h"
#include "nbd-proto.h"

#include <pthread.h> /* not GMutex, which the thread sanitizer does not see */
#include <sys/uio.h>

/* The buffer of a worker; longer requests go through it in pieces. */
#define NBD_BUFFER_SIZE (2U * 1024 * 1024)
/* What one receive may bring beyond the request that was asked for. */
#define NBD_STASH_SIZE (64U * 1024)
/* A buffer that was used for more than this is given back to the system, but
 * for the address, when its worker has been idle for a while. */
#define NBD_BUFFER_KEEP (128U * 1024)
#define NBD_BUFFER_IDLE_MS 10000
/* Replies that wait in one place for the thread that is sending. */
#define NBD_BACKLOG_SIZE (128U * 1024)
#define NBD_MAX_CONNECTIONS 256
/* Requests of one connection that run at once; QEMU sends at most 16. */
#define NBD_MAX_RUNNING 64
#define NBD_HANDSHAKE_SECONDS 30
/* How long a worker waits on one socket for the rest of a request, or for the
 * next one, before it gives the connection back to epoll. */
#define NBD_LINGER_MS 20
/* Reads and writes that take longer than this are handed on; see nbd-conn.c. */
#define NBD_HAND_ON_NS 30000
/* A request that keeps the role longer than one or two of these loses it. */
#define NBD_WATCH_MS 2

G_STATIC_ASSERT(NBD_MAX_OPTION + NBD_OPTION_HEADER_SIZE <= NBD_STASH_SIZE);
G_STATIC_ASSERT(NBD_MAX_UNFRAGMENTED <= NBD_BUFFER_SIZE);

typedef enum {
    NBD_EVENT_STOP,
    NBD_EVENT_LISTEN,
    NBD_EVENT_TICK,
    NBD_EVENT_WATCH,
    NBD_EVENT_CONN,
} NbdEventKind;

/* What an epoll event points to: the first field of whatever it is about. */
typedef struct {
    NbdEventKind kind;
} NbdEvent;

typedef struct NbdExport NbdExport;
typedef struct NbdConn NbdConn;

struct NbdExport {
    /* Constant. */
    char *name;
    BlockBackend *blk;
    bool read_only;
    /* Atomic. */
    gint refs;
    /* Atomic, hints only: how long a read and a write took lately, in ns. */
    gint pace[2];
    /* NbdServer.lock */
    bool removed;
    unsigned running;
    unsigned connections; /* in transmission phase, not taken down */
};

/* A page-aligned buffer, of its worker. */
typedef struct NbdBuffer {
    uint8_t *data; /* NBD_BUFFER_SIZE */
    bool large;    /* much of it has been used */
    struct NbdBuffer *next;
} NbdBuffer;

typedef enum {
    NBD_ROLE_ARMED,
    NBD_ROLE_OWNED,
    NBD_ROLE_BUSY,
    NBD_ROLE_WAITING,
} NbdRole;

/* NbdConn.role holds an NbdRole and, above it, the number of the last request
 * that ran with the role in hand: who comes back from a long one must not take
 * the BUSY of a later owner for its own. */
#define NBD_ROLE(serial, role) ((gint)((guint)(serial) << 2 | (role)))
#define NBD_ROLE_OF(value) ((NbdRole)((value) & 3))

/* A request as far as it has been received. */
typedef struct {
    NbdRequest req;
    uint32_t error; /* it will be refused with this, its payload is thrown away */
    uint32_t done;  /* payload of earlier pieces, already written */
    uint32_t have;  /* payload in the buffer: the last piece when complete */
} NbdJob;

struct NbdConn {
    NbdEvent event; /* first */
    /* Constant. */
    NbdServer *srv;
    int fd;
    /* Atomic. */
    gint refs;    /* its owner until it takes it down, and every token */
    gint role;    /* NBD_ROLE */
    gint closing; /* take no more requests */

    /* The owner of the role; it sets exp under the lock.  exp and session are
     * constant from the first request on. */
    guint serial;
    bool transmission;
    NbdExport *exp;
    NbdSession session;
    NbdNegotiation *negotiation; /* NULL in transmission phase */
    GByteArray *out;             /* handshake: not sent yet */
    uint8_t *stash; /* NBD_STASH_SIZE: received, not looked at yet */
    size_t stash_pos, stash_len;
    uint8_t head[NBD_REQUEST_SIZE];
    unsigned head_have;
    NbdJob job;        /* valid if head_have is NBD_REQUEST_SIZE */
    NbdBuffer *buffer; /* between two pieces of payload; or NULL */

    /* The thread that sends: tx_busy gives the right. */
    bool tx_broken; /* a send failed: nothing more goes out */

    pthread_mutex_t tx_lock;
    pthread_cond_t tx_done; /* tx_busy was cleared */
    bool tx_busy;
    gint tx_waiters;        /* for tx_done; atomic, so that anyone may look */
    uint8_t *tx_backlog;    /* NBD_BACKLOG_SIZE, or NULL: replies left to the */
    size_t tx_backlog_len;  /* one who sends */

    /* NbdServer.lock */
    GList link;         /* in conns */
    GList waiting_link; /* in waiting, if role is WAITING */
    bool down;          /* its owner has taken it down; requests may still run */
    unsigned running;
    bool granted;    /* has a token that its next owner takes over */
    gint64 deadline; /* monotonic µs; 0: none */
    gint watched;    /* role at the last look of the watch */
};

struct NbdServer {
    /* Constant. */
    gint64 handshake_us; /* how long a handshake may take; tests shorten it */
    int epfd, stopfd, tickfd, watchfd;
    NbdEvent stop_event, listen_event, tick_event, watch_event;

    /* Atomic. */
    gint idle;     /* threads in epoll_wait */
    gint free;     /* tokens: max_workers minus what runs; changed under lock */
    gint watching; /* the watch timer runs */
    gint tokens;   /* as max_workers */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a connection or a thread has gone */
    GPtrArray *threads; /* at most max_workers + 1: one is left for events */
    unsigned max_workers; /* tokens: those asked for, and one an export */
    bool stopping;
    GPtrArray *exports;  /* NbdExport, in order of nbd_server_add */
    unsigned idle_exports; /* those with running == 0 */
    GQueue conns;        /* NbdConn.link: all whose memory is there */
    GQueue waiting;      /* NbdConn.waiting_link */
    NbdBuffer *buffers;  /* spare ones */
    int listen_fd;       /* -1: none */
    char *socket_path;   /* to remove; NULL: abstract, or none */
    uint64_t socket_dev, socket_ino;
    bool listen_paused;  /* out of descriptors; goes on at the next tick */
    bool ticking;
    pid_t allowed_pid;
    NbdGoodbyeFn *goodbye; /* called with the lock held; or NULL */
    void *goodbye_opaque;
};

/* nbd-server.c: exports.  The caller of find gets a reference. */
NbdExport *nbd_export_find(NbdServer *srv, const char *name);
NbdExport *nbd_export_ref(NbdExport *exp);
void nbd_export_unref(NbdExport *exp);
/* What the handshake asks; opaque is the server. */
extern const NbdNegotiateOps nbd_server_negotiate_ops;
/* Accept one client, or several. */
void nbd_server_accept(NbdServer *srv);

/* nbd-worker.c: threads, events, tokens. */
bool nbd_workers_start(NbdServer *srv, GError **errp);
void nbd_workers_stop(NbdServer *srv);
bool nbd_arm_fd(NbdServer *srv, int op, int fd, uint32_t events, NbdEvent *event);
/* Run the tick once a second until nothing needs it.  Lock held. */
void nbd_start_tick(NbdServer *srv);
/* A token allows to receive and run a request, and holds a reference to the
 * connection.  Without one the connection now waits for its turn. */
bool nbd_token_take(NbdConn *conn);
void nbd_token_release(NbdConn *conn);
/* No time to wait with one in hand. */
bool nbd_tokens_scarce(NbdServer *srv);
/* Give tokens to those in the queue who may have one now.  Lock held. */
void nbd_tokens_grant_locked(NbdServer *srv);
/* Take a connection from the queue, if it is there.  Lock held. */
void nbd_unpark_locked(NbdConn *conn);
/* Make sure that a long request does not keep the role for ever. */
void nbd_watch_start(NbdServer *srv);

NbdBuffer *nbd_buffer_get(NbdServer *srv);
void nbd_buffer_put(NbdServer *srv, NbdBuffer *buffer);

/* nbd-conn.c: one connection. */
void nbd_conn_new(NbdServer *srv, int fd); /* takes the fd, greets, arms */

void nbd_conn_unref(NbdConn *conn);
/* An event has come: the caller is the owner.  *buffer is the worker's own and
 * may be exchanged for another. */
void nbd_conn_event(NbdConn *conn, NbdBuffer **buffer);
/* Ask its owner to take it down once the requests in flight are answered; with
 * @hard the requests' answers are lost too.  Lock held. */
void nbd_conn_close_locked(NbdConn *conn, bool hard);
/* Give the role back to epoll. */
void nbd_conn_arm(NbdConn *conn);
/* Break it off: its owner will notice.  Any thread that holds a reference. */
void nbd_conn_abort(NbdConn *conn);

/* nbd-io.c: bytes between socket and memory. */
typedef enum {
    NBD_RX_REQUEST, /* conn->job is complete (its last piece) */
    NBD_RX_PIECE,   /* the buffer is full, more payload follows */
    NBD_RX_AGAIN,   /* not here yet */
    NBD_RX_GONE,    /* end of file, error, or not NBD */
} NbdRxResult;
NbdRxResult nbd_receive(NbdConn *conn, uint8_t *buf, bool wait);
/* Answers come faster than the client takes them. */
bool nbd_tx_is_congested(NbdConn *conn);
/* Send a whole reply (or chunk of one); false if the connection is broken, which
 * its owner learns by itself.  When another thread is sending, a small reply is
 * left to it. */
bool nbd_send(NbdConn *conn, struct iovec *iov, int n);
/* The same in several steps, with nothing of others in between. */
void nbd_tx_begin(NbdConn *conn);
bool nbd_tx_send(NbdConn *conn, struct iovec *iov, int n);
void nbd_tx_end(NbdConn *conn);

/* nbd-request.c: from a received request to its reply. */
void nbd_run(NbdConn *conn, const NbdJob *job, uint8_t *buf);
/* One piece of a long write that is not its last; the error, if any, goes to
 * job->error. */
void nbd_run_piece(NbdConn *conn, NbdJob *job, const uint8_t *buf);

#endif
