/*
 * The NBD server: exports, the listening socket, who may connect, start and
 * end.  The functions of nbd-server.h, none of which waits for a disk or a
 * client, but nbd_server_free.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "nbd-internal.h"
#include "util/error.h"

#include <errno.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* How long nbd_server_free lets clients fetch their last answers. */
#define LAST_ANSWERS_SECONDS 2
#define ACCEPT_BATCH 16

/* ---- exports -------------------------------------------------------- */

NbdExport *nbd_export_ref(NbdExport *exp)
{
    g_atomic_int_inc(&exp->refs);
    return exp;
}

void nbd_export_unref(NbdExport *exp)
{
    if (g_atomic_int_dec_and_test(&exp->refs)) {
        g_free(exp->name);
        g_free(exp);
    }
}

/* Lock held. */
static NbdExport *find_export(NbdServer *srv, const char *name)
{
    for (guint i = 0; i < srv->exports->len; i++) {
        NbdExport *exp = g_ptr_array_index(srv->exports, i);

        if (strcmp(exp->name, name) == 0) {
            return exp;
        }
    }
    return NULL;
}

NbdExport *nbd_export_find(NbdServer *srv, const char *name)
{
    NbdExport *exp;

    pthread_mutex_lock(&srv->lock);
    exp = find_export(srv, name);
    if (!exp && *name == '\0' && srv->exports->len == 1) {
        exp = g_ptr_array_index(srv->exports, 0); /* the default one */
    }
    if (exp) {
        nbd_export_ref(exp);
    }
    pthread_mutex_unlock(&srv->lock);
    return exp;
}

static uint32_t preferred_block(BlockBackend *blk)
{
    g_autoptr(BlockNode) bs = blk_get_node(blk);

    return bs ? MAX(bdrv_request_alignment(bs), 4096) : 4096;
}

static bool negotiate_find(void *opaque, const char *name, NbdExportInfo *info)
{
    NbdExport *exp = nbd_export_find(opaque, name);
    int64_t length;

    if (!exp) {
        return false;
    }
    length = blk_length(exp->blk); /* an empty drive has none: size 0 */
    info->size = (uint64_t)MAX(length, 0);
    info->flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
                  NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE;
    info->flags |= exp->read_only ? NBD_FLAG_READ_ONLY
                                  : NBD_FLAG_SEND_TRIM |
                                    NBD_FLAG_SEND_WRITE_ZEROES |
                                    NBD_FLAG_SEND_FAST_ZERO;
    info->min_block = 1;
    info->preferred_block = preferred_block(exp->blk);
    info->max_block = NBD_MAX_PAYLOAD;
    nbd_export_unref(exp);
    return true;
}

static void negotiate_list(void *opaque,
                           void (*fn)(void *fn_opaque, const char *name),
                           void *fn_opaque)
{
    NbdServer *srv = opaque;

    pthread_mutex_lock(&srv->lock);
    for (guint i = 0; i < srv->exports->len; i++) {
        NbdExport *exp = g_ptr_array_index(srv->exports, i);

        fn(fn_opaque, exp->name);
    }
    pthread_mutex_unlock(&srv->lock);
}

const NbdNegotiateOps nbd_server_negotiate_ops = {
    .find = negotiate_find,
    .list = negotiate_list,
};

static bool name_is_valid(const char *name)
{
    size_t len = strlen(name);

    return len >= 1 && len < NBD_MAX_NAME && g_utf8_validate(name, -1, NULL);
}

/* Lock held. */
static void add_tokens(NbdServer *srv, int n)
{
    srv->max_workers += (unsigned)n;
    g_atomic_int_add(&srv->free, n);
    g_atomic_int_add(&srv->tokens, n);
}

bool nbd_server_add(NbdServer *srv, const char *name, BlockBackend *blk,
                    bool read_only, GError **errp)
{
    NbdExport *exp;
    bool ok;

    if (!name_is_valid(name)) {
        error_set(errp, "NBD export name '%s' is empty, too long or not UTF-8",
                  name);
        return false;
    }
    pthread_mutex_lock(&srv->lock);
    ok = !find_export(srv, name);
    if (ok) {
        exp = g_new0(NbdExport, 1);
        exp->refs = 1;
        exp->name = g_strdup(name);
        exp->blk = blk;
        exp->read_only = read_only;
        g_ptr_array_add(srv->exports, exp);
        srv->idle_exports++;
        add_tokens(srv, 1); /* the one that is reserved for it */
        nbd_tokens_grant_locked(srv);
    }
    pthread_mutex_unlock(&srv->lock);
    if (!ok) {
        error_set(errp, "NBD export '%s' exists already", name);
    }
    return ok;
}

void nbd_server_set_goodbye_fn(NbdServer *srv, NbdGoodbyeFn *fn, void *opaque)
{
    pthread_mutex_lock(&srv->lock);
    srv->goodbye = fn;
    srv->goodbye_opaque = opaque;
    pthread_mutex_unlock(&srv->lock);
}

/* Lock held; @exp NULL: all. */
static void close_clients(NbdServer *srv, const NbdExport *exp, bool hard)
{
    for (GList *l = srv->conns.head; l; l = l->next) {
        NbdConn *conn = l->data;

        if (!exp || conn->exp == exp) {
            nbd_conn_close_locked(conn, hard);
        }
    }
}

void nbd_server_remove(NbdServer *srv, const char *name)
{
    NbdExport *exp;

    pthread_mutex_lock(&srv->lock);
    exp = find_export(srv, name);
    if (exp) {
        g_ptr_array_remove(srv->exports, exp);
        exp->removed = true;
        srv->idle_exports -= exp->running == 0;
        add_tokens(srv, -1);
        close_clients(srv, exp, false);
        nbd_tokens_grant_locked(srv);
    }
    pthread_mutex_unlock(&srv->lock);
    if (exp) {
        nbd_export_unref(exp);
    }
}

void nbd_server_drop_clients(NbdServer *srv, const char *name)
{
    NbdExport *exp = NULL;

    pthread_mutex_lock(&srv->lock);
    if (name) {
        exp = find_export(srv, name);
    }
    if (exp || !name) {
        close_clients(srv, exp, false);
    }
    pthread_mutex_unlock(&srv->lock);
}

unsigned nbd_server_connections(NbdServer *srv, const char *name)
{
    NbdExport *exp;
    unsigned n;

    pthread_mutex_lock(&srv->lock);
    exp = find_export(srv, name);
    n = exp ? exp->connections : 0;
    pthread_mutex_unlock(&srv->lock);
    return n;
}

/* ---- listening ------------------------------------------------------ */

static bool fill_address(const char *path, struct sockaddr_un *addr,
                         socklen_t *len, GError **errp)
{
    size_t n = strlen(path);

    *addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (n < 1 || n >= sizeof(addr->sun_path) || strcmp(path, "@") == 0) {
        error_set(errp, "NBD socket '%s': a name of 1 to %zu bytes is needed",
                  path, sizeof(addr->sun_path) - 1);
        return false;
    }
    memcpy(addr->sun_path, path, n);
    if (path[0] == '@') {
        addr->sun_path[0] = '\0';
        *len = offsetof(struct sockaddr_un, sun_path) + n;
    } else {
        *len = sizeof(*addr);
    }
    return true;
}

/* The socket of a server that did not clean up: nobody answers any more. */
static bool is_stale(const struct sockaddr_un *addr, socklen_t len)
{
    struct stat st;
    bool stale;
    int fd;

    if (addr->sun_path[0] == '\0' || lstat(addr->sun_path, &st) < 0 ||
        !S_ISSOCK(st.st_mode)) {
        return false;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    stale = fd >= 0 && connect(fd, (const struct sockaddr *)addr, len) < 0 &&
            errno == ECONNREFUSED;
    if (fd >= 0) {
        close(fd);
    }
    return stale;
}

static int bind_socket(const char *path, GError **errp)
{
    struct sockaddr_un addr;
    socklen_t len;
    int fd, ret;

    if (!fill_address(path, &addr, &len, errp)) {
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_set_errno(errp, errno, "NBD socket '%s'", path);
        return -1;
    }
    fchmod(fd, 0600); /* Linux gives the file this mode, less the umask */
    ret = bind(fd, (struct sockaddr *)&addr, len);
    if (ret < 0 && errno == EADDRINUSE && is_stale(&addr, len)) {
        unlink(path);
        ret = bind(fd, (struct sockaddr *)&addr, len);
    }
    if (ret < 0 || listen(fd, NBD_MAX_CONNECTIONS) < 0) {
        error_set_errno(errp, errno, "NBD socket '%s'", path);
        close(fd);
        return -1;
    }
    return fd;
}

bool nbd_server_listen_unix(NbdServer *srv, const char *path, GError **errp)
{
    struct stat st = { 0 };
    int fd;

    if (srv->listen_fd >= 0) {
        error_set(errp, "NBD server is listening already");
        return false;
    }
    fd = bind_socket(path, errp);
    if (fd < 0) {
        return false;
    }
    pthread_mutex_lock(&srv->lock);
    srv->listen_fd = fd;
    if (path[0] != '@' && lstat(path, &st) == 0) {
        srv->socket_path = g_strdup(path);
        srv->socket_dev = st.st_dev;
        srv->socket_ino = st.st_ino;
    }
    nbd_arm_fd(srv, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLONESHOT,
               &srv->listen_event);
    pthread_mutex_unlock(&srv->lock);
    return true;
}

static void stop_listening(NbdServer *srv)
{
    struct stat st;

    pthread_mutex_lock(&srv->lock);
    srv->stopping = true;
    if (srv->listen_fd >= 0) {
        close(srv->listen_fd);
        srv->listen_fd = -1;
    }
    pthread_mutex_unlock(&srv->lock);
    /* Only if the file is still the one that we made. */
    if (srv->socket_path && lstat(srv->socket_path, &st) == 0 &&
        st.st_dev == srv->socket_dev && st.st_ino == srv->socket_ino) {
        unlink(srv->socket_path);
    }
    g_clear_pointer(&srv->socket_path, g_free);
}

void nbd_server_allow_pid(NbdServer *srv, pid_t pid)
{
    pthread_mutex_lock(&srv->lock);
    srv->allowed_pid = pid;
    pthread_mutex_unlock(&srv->lock);
}

static bool is_allowed(int fd, pid_t pid)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len)) {
        return false;
    }
    /* QEMU may have changed its user id (-runas) before it comes again. */
    return pid ? cred.pid == pid : cred.uid == geteuid();
}

/* One client, or -1: none there, or the listening socket rests. */
static int accept_one(NbdServer *srv, pid_t *pid)
{
    int fd = -1;

    pthread_mutex_lock(&srv->lock);
    *pid = srv->allowed_pid;
    if (srv->listen_fd >= 0) {
        fd = accept4(srv->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
                       errno == ENOBUFS)) {
            srv->listen_paused = true;
            nbd_start_tick(srv);
        }
    }
    pthread_mutex_unlock(&srv->lock);
    return fd;
}

void nbd_server_accept(NbdServer *srv)
{
    pid_t pid;

    for (int i = 0; i < ACCEPT_BATCH; i++) {
        int fd = accept_one(srv, &pid);

        if (fd < 0) {
            break;
        }
        if (is_allowed(fd, pid)) {
            nbd_conn_new(srv, fd);
        } else {
            close(fd);
        }
    }
    pthread_mutex_lock(&srv->lock);
    if (srv->listen_fd >= 0 && !srv->listen_paused) {
        nbd_arm_fd(srv, EPOLL_CTL_MOD, srv->listen_fd, EPOLLIN | EPOLLONESHOT,
                   &srv->listen_event);
    }
    pthread_mutex_unlock(&srv->lock);
}

/* ---- start and end -------------------------------------------------- */

NbdServer *nbd_server_new(unsigned workers, GError **errp)
{
    NbdServer *srv;

    if (workers < 1 || workers > 256) {
        error_set(errp, "NBD server: %u workers are not between 1 and 256",
                  workers);
        return NULL;
    }
    srv = g_new0(NbdServer, 1);
    srv->max_workers = workers;
    srv->handshake_us = NBD_HANDSHAKE_SECONDS * G_USEC_PER_SEC;
    srv->free = srv->tokens = (gint)workers;
    srv->listen_fd = -1;
    srv->listen_event.kind = NBD_EVENT_LISTEN;
    srv->exports = g_ptr_array_new();
    g_queue_init(&srv->conns);
    g_queue_init(&srv->waiting);
    pthread_mutex_init(&srv->lock, NULL);
    pthread_cond_init(&srv->changed, NULL);
    if (!nbd_workers_start(srv, errp)) {
        g_ptr_array_unref(srv->exports);
        pthread_mutex_destroy(&srv->lock);
        pthread_cond_destroy(&srv->changed);
        g_free(srv);
        return NULL;
    }
    return srv;
}

static void close_all_clients(NbdServer *srv)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += LAST_ANSWERS_SECONDS;
    pthread_mutex_lock(&srv->lock);
    close_clients(srv, NULL, false);
    while (srv->conns.length > 0 &&
           pthread_cond_timedwait(&srv->changed, &srv->lock, &until) == 0) {
    }
    close_clients(srv, NULL, true); /* those who do not read */
    while (srv->conns.length > 0) {
        pthread_cond_wait(&srv->changed, &srv->lock);
    }
    pthread_mutex_unlock(&srv->lock);
}

void nbd_server_free(NbdServer *srv)
{
    if (!srv) {
        return;
    }
    stop_listening(srv);
    close_all_clients(srv);
    nbd_workers_stop(srv);
    for (guint i = 0; i < srv->exports->len; i++) {
        nbd_export_unref(g_ptr_array_index(srv->exports, i));
    }
    g_ptr_array_unref(srv->exports);
    pthread_mutex_destroy(&srv->lock);
    pthread_cond_destroy(&srv->changed);
    g_free(srv);
}
