/*
 * Our own QMP conversation with QEMU, over a socketpair.
 *
 * States: open (commands are sent, replies matched by id) → gone (QEMU closed
 * its end, or said something that is not QMP; for ever).  Every command gets
 * exactly one callback: with its reply, or with NULL when the state is gone.
 *
 * All I/O and all callbacks happen on the main thread.  Any thread may send:
 * it only queues under the lock and wakes the main loop.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "inner-qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What QEMU nests most is query-block's backing chain; its own limit for input
 * is 1024. */
#define QMP_DEPTH_LIMIT 1024
#define QMP_MAX_FDS 16

typedef struct {
    EmuQmpReplyFn *cb;
    void *opaque;
} Pending;

typedef struct {
    char *data;
    size_t len, sent;
    int fds[QMP_MAX_FDS]; /* duplicates of ours */
    size_t n_fds;
} Message;

struct InnerQmp {
    InnerQmpHandlers h;
    void *opaque;

    /* main thread */
    int fd;
    guint in_source, out_source;
    json_tokener *tok;

    pthread_mutex_t lock; /* a leaf */
    GQueue out;           /* Message * */
    GHashTable *pending;  /* id (GSIZE_TO_POINTER) → Pending * */
    size_t next_id;
    bool gone;
    bool kicked;          /* a flush is on its way to the main thread */
};

static void message_free(void *opaque)
{
    Message *msg = opaque;

    for (size_t i = 0; i < msg->n_fds; i++) {
        close(msg->fds[i]);
    }
    g_free(msg->data);
    g_free(msg);
}

/* ---- the end -------------------------------------------------------- */

static void set_gone(InnerQmp *qmp, const char *why)
{
    GList *all;

    pthread_mutex_lock(&qmp->lock);
    if (qmp->gone) {
        pthread_mutex_unlock(&qmp->lock);
        return;
    }
    qmp->gone = true;
    all = g_hash_table_get_values(qmp->pending);
    g_hash_table_steal_all(qmp->pending);
    g_queue_clear_full(&qmp->out, message_free);
    pthread_mutex_unlock(&qmp->lock);

    g_clear_handle_id(&qmp->in_source, g_source_remove);
    g_clear_handle_id(&qmp->out_source, g_source_remove);
    for (GList *l = all; l; l = l->next) {
        Pending *p = l->data;

        p->cb(p->opaque, NULL);
        g_free(p);
    }
    g_list_free(all);
    qmp->h.gone(qmp->opaque, why);
}

/* ---- receiving ------------------------------------------------------ */

static void handle_reply(InnerQmp *qmp, json_object *reply, json_object *id)
{
    void *key = GSIZE_TO_POINTER((size_t)json_object_get_int64(id));
    Pending *p = NULL;

    pthread_mutex_lock(&qmp->lock);
    g_hash_table_steal_extended(qmp->pending, key, NULL, (void **)&p);
    pthread_mutex_unlock(&qmp->lock);
    if (p) {
        p->cb(p->opaque, reply);
        g_free(p);
    }
}

static void handle_message(InnerQmp *qmp, json_object *msg)
{
    json_object *value;

    if (!json_object_is_type(msg, json_type_object)) {
        return;
    }
    if (json_object_object_get_ex(msg, "event", &value)) {
        qmp->h.event(qmp->opaque, msg);
    } else if (json_object_object_get_ex(msg, "QMP", &value)) {
        qmp->h.greeting(qmp->opaque, value);
    } else if (json_object_object_get_ex(msg, "id", &value)) {
        handle_reply(qmp, msg, value);
    }
}

/* All whole messages in @buf; what is left stays in the tokener. */
static bool parse(InnerQmp *qmp, const char *buf, size_t len)
{
    while (len) {
        json_object *msg = json_tokener_parse_ex(qmp->tok, buf, len);
        enum json_tokener_error err = json_tokener_get_error(qmp->tok);
        size_t used = json_tokener_get_parse_end(qmp->tok);

        if (err == json_tokener_continue) {
            return true;
        }
        if (err != json_tokener_success) {
            set_gone(qmp, json_tokener_error_desc(err));
            return false;
        }
        handle_message(qmp, msg);
        json_object_put(msg);
        if (qmp->gone) {
            return false;
        }
        buf += used;
        len -= used;
        /* The tokener wants a value, not the line end behind the last one. */
        while (len && g_ascii_isspace(*buf)) {
            buf++;
            len--;
        }
    }
    return true;
}

/* False: nothing more to come now. */
static bool receive(InnerQmp *qmp)
{
    char buf[16384];
    ssize_t n = recv(qmp->fd, buf, sizeof(buf), MSG_DONTWAIT);

    if (n > 0) {
        return parse(qmp, buf, n);
    }
    if (n == 0) {
        set_gone(qmp, NULL);
    } else if (errno != EAGAIN && errno != EINTR) {
        set_gone(qmp, errno == ECONNRESET ? NULL : g_strerror(errno));
    }
    return false;
}

static gboolean on_readable(gint fd, GIOCondition cond, void *opaque)
{
    InnerQmp *qmp = opaque;

    receive(qmp);
    return qmp->gone ? G_SOURCE_REMOVE : G_SOURCE_CONTINUE;
}

void inner_qmp_drain(InnerQmp *qmp)
{
    while (!qmp->gone && receive(qmp)) {
    }
}

/* ---- sending -------------------------------------------------------- */

/* True: the message is gone; false: try later, or never (then set_gone). */
static bool send_message(InnerQmp *qmp, Message *msg)
{
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int) * QMP_MAX_FDS)];
    } control = {0};
    struct iovec iov = {msg->data + msg->sent, msg->len - msg->sent};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    if (msg->n_fds && !msg->sent) {
        struct cmsghdr *cmsg;

        hdr.msg_control = &control;
        hdr.msg_controllen = CMSG_SPACE(sizeof(int) * msg->n_fds);
        cmsg = CMSG_FIRSTHDR(&hdr);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * msg->n_fds);
        memcpy(CMSG_DATA(cmsg), msg->fds, sizeof(int) * msg->n_fds);
    }
    n = sendmsg(qmp->fd, &hdr, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
        msg->sent += n;
    }
    return msg->sent == msg->len;
}

static gboolean on_writable(gint fd, GIOCondition cond, void *opaque);

/* Main thread.  A broken connection is noticed by the reading side. */
static void flush(InnerQmp *qmp)
{
    bool more;

    pthread_mutex_lock(&qmp->lock);
    qmp->kicked = false;
    while (!g_queue_is_empty(&qmp->out) &&
           send_message(qmp, g_queue_peek_head(&qmp->out))) {
        message_free(g_queue_pop_head(&qmp->out));
    }
    more = !g_queue_is_empty(&qmp->out);
    pthread_mutex_unlock(&qmp->lock);
    if (more && !qmp->out_source) {
        qmp->out_source = g_unix_fd_add(qmp->fd, G_IO_OUT | G_IO_HUP,
                                        on_writable, qmp);
    } else if (!more) {
        g_clear_handle_id(&qmp->out_source, g_source_remove);
    }
}

static gboolean on_writable(gint fd, GIOCondition cond, void *opaque)
{
    InnerQmp *qmp = opaque;

    if (cond & G_IO_HUP) {
        qmp->out_source = 0;
        return G_SOURCE_REMOVE;
    }
    flush(qmp);
    return qmp->out_source ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

static gboolean on_kick(void *opaque)
{
    flush(opaque);
    return G_SOURCE_REMOVE;
}

static Message *message_new(const char *command, json_object *args, size_t id,
                            const int *fds, size_t n_fds)
{
    Message *msg = g_new0(Message, 1);
    json_object *obj = json_object_new_object();

    json_object_object_add(obj, "execute", json_object_new_string(command));
    if (args) {
        json_object_object_add(obj, "arguments", args);
    }
    json_object_object_add(obj, "id", json_object_new_int64(id));
    msg->data = g_strdup_printf(
        "%s\n", json_object_to_json_string_ext(obj, JSON_C_TO_STRING_PLAIN));
    msg->len = strlen(msg->data);
    json_object_put(obj);
    for (size_t i = 0; i < n_fds && i < QMP_MAX_FDS; i++) {
        int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);

        if (fd >= 0) {
            msg->fds[msg->n_fds++] = fd;
        }
    }
    return msg;
}

typedef struct {
    EmuQmpReplyFn *cb;
    void *opaque;
} LateReply;

static gboolean on_late(void *opaque)
{
    LateReply *late = opaque;

    late->cb(late->opaque, NULL);
    g_free(late);
    return G_SOURCE_REMOVE;
}

/* Sent after QEMU's end: the answer still comes from the main loop. */
static void answer_later(EmuQmpReplyFn *cb, void *opaque)
{
    LateReply *late = g_new(LateReply, 1);

    late->cb = cb;
    late->opaque = opaque;
    g_idle_add_full(G_PRIORITY_DEFAULT, on_late, late, NULL);
}

void inner_qmp_send(InnerQmp *qmp, const char *command, json_object *args,
                    const int *fds, size_t n_fds, EmuQmpReplyFn *cb,
                    void *opaque)
{
    Pending *p;

    pthread_mutex_lock(&qmp->lock);
    if (qmp->gone) {
        pthread_mutex_unlock(&qmp->lock);
        json_object_put(args);
        answer_later(cb, opaque);
        return;
    }
    p = g_new(Pending, 1);
    p->cb = cb;
    p->opaque = opaque;
    g_hash_table_insert(qmp->pending, GSIZE_TO_POINTER(++qmp->next_id), p);
    g_queue_push_tail(&qmp->out, message_new(command, args, qmp->next_id, fds,
                                             n_fds));
    if (!qmp->kicked) {
        /* Within the lock: ThreadSanitizer does not see GLib's. */
        g_idle_add_full(G_PRIORITY_DEFAULT, on_kick, qmp, NULL);
        qmp->kicked = true;
    }
    pthread_mutex_unlock(&qmp->lock);
}

void inner_qmp_end(InnerQmp *qmp)
{
    set_gone(qmp, NULL);
}

/* ---- life ----------------------------------------------------------- */

InnerQmp *inner_qmp_new(int fd, const InnerQmpHandlers *h, void *opaque)
{
    InnerQmp *qmp = g_new0(InnerQmp, 1);

    qmp->h = *h;
    qmp->opaque = opaque;
    qmp->fd = fd;
    qmp->tok = json_tokener_new_ex(QMP_DEPTH_LIMIT);
    pthread_mutex_init(&qmp->lock, NULL);
    g_queue_init(&qmp->out);
    qmp->pending = g_hash_table_new(g_direct_hash, g_direct_equal);
    qmp->in_source = g_unix_fd_add(fd, G_IO_IN | G_IO_HUP, on_readable, qmp);
    return qmp;
}

void inner_qmp_free(InnerQmp *qmp)
{
    if (!qmp) {
        return;
    }
    set_gone(qmp, NULL);
    while (g_idle_remove_by_data(qmp)) {
    }
    close(qmp->fd);
    json_tokener_free(qmp->tok);
    g_hash_table_unref(qmp->pending);
    pthread_mutex_destroy(&qmp->lock);
    g_free(qmp);
}
