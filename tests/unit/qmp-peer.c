/*
 * See qmp-peer.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qmp-peer.h"
#include "../../qapi/json.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE (60 * G_USEC_PER_SEC)

/* ---- the main context ---------------------------------------------------- */

static gboolean on_tick(void *opaque)
{
    return G_SOURCE_CONTINUE;
}

/* One turn of the main context; waits a little if there is nothing to do. */
static void turn(int64_t until, const char *what)
{
    guint tick = g_timeout_add(5, on_tick, NULL);

    g_main_context_iteration(NULL, TRUE);
    g_source_remove(tick);
    if (g_get_monotonic_time() > until) {
        g_error("waited too long for %s", what);
    }
}

void spin_until(const bool *flag, const char *what)
{
    int64_t until = g_get_monotonic_time() + PATIENCE;

    while (!__atomic_load_n(flag, __ATOMIC_ACQUIRE)) {
        turn(until, what);
    }
}

void spin(void)
{
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}

/* ---- the client ------------------------------------------------------------ */

void peer_open(Peer *peer, MonitorSet *set, bool pretty)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    peer->fd = fds[0];
    peer->input = g_string_new(NULL);
    monitor_add_qmp(set, chardev_new_fd(fds[1]), pretty);
}

void peer_close(Peer *peer)
{
    if (peer->fd >= 0) {
        close(peer->fd);
    }
    peer->fd = -1;
    if (peer->input) {
        g_string_free(peer->input, TRUE);
        peer->input = NULL;
    }
}

void peer_send_fds(Peer *peer, const char *text, const int *fds, size_t n_fds)
{
    union {
        char space[CMSG_SPACE(sizeof(int) * 4)];
        struct cmsghdr align;
    } control = { { 0 } };
    struct iovec iov = { (char *)text, strlen(text) };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (n_fds) {
        struct cmsghdr *c;

        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
    }
    g_assert_cmpint(sendmsg(peer->fd, &msg, MSG_NOSIGNAL), ==, strlen(text));
}

void peer_send(Peer *peer, const char *text)
{
    peer_send_fds(peer, text, NULL, 0);
}

/* False at the end of the file. */
static bool fetch(Peer *peer)
{
    char buf[65536];
    ssize_t n = recv(peer->fd, buf, sizeof(buf), MSG_DONTWAIT);

    if (n > 0) {
        g_string_append_len(peer->input, buf, n);
    }
    return n > 0 || (n < 0 && errno == EAGAIN);
}

char *peer_line(Peer *peer)
{
    int64_t until = g_get_monotonic_time() + PATIENCE;
    char *end, *line;

    while (!(end = strstr(peer->input->str, "\r\n"))) {
        if (!fetch(peer)) {
            g_error("connection closed after '%s'", peer->input->str);
        }
        if (!strstr(peer->input->str, "\r\n")) {
            turn(until, "a line");
        }
    }
    line = g_strndup(peer->input->str, end - peer->input->str);
    g_string_erase(peer->input, 0, end + 2 - peer->input->str);
    return line;
}

void peer_expect(Peer *peer, const char *want)
{
    g_autofree char *line = peer_line(peer);

    g_assert_cmpstr(line, ==, want);
}

void peer_expect_nothing(Peer *peer)
{
    spin();
    g_assert_true(fetch(peer));
    g_assert_cmpstr(peer->input->str, ==, "");
}

void peer_expect_end(Peer *peer)
{
    int64_t until = g_get_monotonic_time() + PATIENCE;

    while (fetch(peer)) {
        turn(until, "the end of the connection");
    }
    g_assert_cmpstr(peer->input->str, ==, "");
}

void peer_negotiate(Peer *peer)
{
    g_autofree char *greeting = peer_line(peer);

    g_assert_true(g_str_has_prefix(greeting, "{\"QMP\": {"));
    peer_send(peer, "{\"execute\":\"qmp_capabilities\"}");
    peer_expect(peer, "{\"return\": {}}");
}

/* ---- the emulator ------------------------------------------------------------ */

static void fake_send(void *opaque, const char *command, json_object *args, const int *fds,
                      size_t n_fds, EmuQmpReplyFn *cb, void *cb_opaque)
{
    FakeEmulator *fake = opaque;
    FakeCall *call = g_new0(FakeCall, 1);

    call->command = g_strdup(command);
    call->args = args;
    call->fd = n_fds ? fcntl(fds[0], F_DUPFD_CLOEXEC, 0) : -1;
    call->cb = cb;
    call->opaque = cb_opaque;
    pthread_mutex_lock(&fake->lock);
    g_queue_push_tail(&fake->calls, call);
    pthread_mutex_unlock(&fake->lock);
}

static json_object *fake_version(void *opaque)
{
    static json_object *version;

    if (!version) {
        version = json_object_new_string("fake");
    }
    return version;
}

void fake_init(FakeEmulator *fake, MonitorEmulator *ops)
{
    pthread_mutex_init(&fake->lock, NULL);
    g_queue_init(&fake->calls);
    *ops = (MonitorEmulator){ fake_send, fake_version, fake };
}

void fake_clear(FakeEmulator *fake)
{
    g_assert_cmpuint(fake_pending(fake), ==, 0);
    pthread_mutex_destroy(&fake->lock);
}

unsigned fake_pending(FakeEmulator *fake)
{
    unsigned n;

    pthread_mutex_lock(&fake->lock);
    n = g_queue_get_length(&fake->calls);
    pthread_mutex_unlock(&fake->lock);
    return n;
}

static FakeCall *next_call(FakeEmulator *fake)
{
    int64_t until = g_get_monotonic_time() + PATIENCE;
    FakeCall *call;

    for (;;) {
        pthread_mutex_lock(&fake->lock);
        call = g_queue_pop_head(&fake->calls);
        pthread_mutex_unlock(&fake->lock);
        if (call) {
            return call;
        }
        turn(until, "a command for QEMU");
    }
}

int fake_answer(FakeEmulator *fake, const char *command, const char *args, const char *reply)
{
    FakeCall *call = next_call(fake);
    json_object *answer = reply ? json_tokener_parse(reply) : NULL;
    g_autoptr(GString) text = g_string_new(NULL);
    int fd = call->fd;

    g_assert_cmpstr(call->command, ==, command);
    json_write(text, call->args, false);
    g_assert_cmpstr(text->str, ==, args);
    call->cb(call->opaque, answer);
    json_object_put(answer);
    json_object_put(call->args);
    g_free(call->command);
    g_free(call);
    return fd;
}
