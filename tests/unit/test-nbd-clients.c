/*
 * The NBD server's clients: how connections begin and end, those that misbehave,
 * and that nobody waits for somebody else's drive.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../block/nbd-internal.h"
#include "nbd-fixture.h"

#include <glib/gstdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- ends of a connection ------------------------------------------- */

static void test_bad_magic(NbdFixture *f, gconstpointer data)
{
    NbdClient *c = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    uint8_t junk[NBD_REQUEST_SIZE] = "GET / HTTP/1.1\r\n\r\n";

    nbd_client_send(c, junk, sizeof(junk));
    g_assert_true(nbd_client_is_closed(c));
    nbd_client_close(c);
}

/* Hang up at every point of a write: nothing of it is written. */
static void test_hang_up_anywhere(NbdFixture *f, gconstpointer data)
{
    uint8_t stream[NBD_REQUEST_SIZE + 64], buf[64];
    NbdClient *c;

    nbd_client_put_request(stream, NBD_CMD_WRITE, 0, 5, 0, 64);
    memset(stream + NBD_REQUEST_SIZE, 0xaa, 64);
    for (unsigned cut = 0; cut < sizeof(stream); cut++) {
        c = nbd_fixture_client(f, "b", NBD_CLIENT_SIMPLE);
        nbd_client_send(c, stream, cut);
        nbd_client_close(c);
    }
    WAIT_UNTIL(nbd_server_connections(f->srv, "b") == 0);
    c = nbd_fixture_client(f, "b", NBD_CLIENT_SIMPLE);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 64, buf), ==, 0);
    for (unsigned i = 0; i < 64; i++) {
        g_assert_cmpuint(buf[i], ==, 0);
    }
    nbd_client_close(c);
}

static void test_disc(NbdFixture *f, gconstpointer data)
{
    NbdClient *c = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    NbdReply r;

    for (unsigned i = 0; i < 100; i++) { /* answered before the end */
        nbd_client_request(c, NBD_CMD_FLUSH, 0, 0, 0, NULL);
    }
    nbd_client_request(c, NBD_CMD_DISC, 0, 0, 0, NULL);
    for (unsigned i = 0; i < 100; i++) {
        g_assert_true(nbd_client_reply(c, &r, NULL, 0, 0));
    }
    g_assert_false(nbd_client_reply(c, &r, NULL, 0, 0));
    nbd_client_close(c);
}

static void test_connection_count(NbdFixture *f, gconstpointer data)
{
    NbdClient *c[3];

    g_assert_cmpuint(nbd_server_connections(f->srv, "a"), ==, 0);
    for (unsigned i = 0; i < 3; i++) {
        c[i] = nbd_fixture_client(f, i == 2 ? "b" : "a", NBD_CLIENT_SIMPLE);
    }
    g_assert_cmpuint(nbd_server_connections(f->srv, "a"), ==, 2);
    g_assert_cmpuint(nbd_server_connections(f->srv, "b"), ==, 1);
    g_assert_cmpuint(nbd_server_connections(f->srv, "c"), ==, 0);
    for (unsigned i = 0; i < 3; i++) {
        nbd_client_close(c[i]);
    }
    WAIT_UNTIL(nbd_server_connections(f->srv, "a") == 0);
}

/* ---- requests that wait --------------------------------------------- */

/* A write hook that holds writes until told otherwise. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool hold;
    unsigned held;
} Holder;

static void holder_before_write(void *opaque, int64_t offset, int64_t bytes)
{
    Holder *h = opaque;

    pthread_mutex_lock(&h->lock);
    h->held++;
    pthread_cond_broadcast(&h->cond);
    while (h->hold) {
        pthread_cond_wait(&h->cond, &h->lock);
    }
    h->held--;
    pthread_mutex_unlock(&h->lock);
}

static const BlockWriteHook holder_hook = { holder_before_write };

static void holder_set(Holder *h, bool hold)
{
    pthread_mutex_lock(&h->lock);
    h->hold = hold;
    pthread_cond_broadcast(&h->cond);
    pthread_mutex_unlock(&h->lock);
}

static void holder_wait(Holder *h, unsigned n)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    pthread_mutex_lock(&h->lock);
    while (h->held < n) {
        g_assert_cmpint(pthread_cond_timedwait(&h->cond, &h->lock, &until), ==, 0);
    }
    pthread_mutex_unlock(&h->lock);
}

static void put_hook(NbdFixture *f, unsigned i, Holder *h)
{
    blk_drained_begin(&f->blk[i], 1);
    blk_set_write_hook(f->blk[i], h ? &holder_hook : NULL, h);
    blk_drained_end(&f->blk[i], 1);
}

/* Reads go on, on the same connection too, while writes are held. */
static void test_held_writes(NbdFixture *f, gconstpointer data)
{
    Holder h = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, true, 0 };
    NbdClient *c = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    uint8_t buf[512];
    NbdReply r;

    nbd_fill(buf, sizeof(buf), 1);
    /* So that the server has learned that writes are quick. */
    for (unsigned i = 0; i < 50; i++) {
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, 0, 512, buf), ==, 0);
    }
    put_hook(f, 0, &h);
    for (unsigned i = 0; i < 4; i++) {
        nbd_client_request(c, NBD_CMD_WRITE, 0, 4096 * (i + 1), 512, buf);
    }
    holder_wait(&h, 4);
    for (unsigned i = 0; i < 50; i++) {
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), ==, 0);
    }
    holder_set(&h, false);
    for (unsigned i = 0; i < 4; i++) {
        g_assert_true(nbd_client_reply(c, &r, NULL, 0, 0));
        g_assert_cmpuint(r.error, ==, 0);
    }
    put_hook(f, 0, NULL);
    nbd_client_close(c);
}

/* A worker whose role was taken away comes back while another has it. */
static void test_late_worker(NbdFixture *f, gconstpointer data)
{
    Holder h = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0 };
    NbdClient *c = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    uint8_t buf[512];
    NbdReply r;

    put_hook(f, 0, &h);
    for (unsigned round = 0; round < 60; round++) {
        uint64_t seen = 0, held;

        holder_set(&h, true);
        held = nbd_client_request(c, NBD_CMD_WRITE, 0, 0, 512, buf);
        holder_wait(&h, 1);
        for (unsigned i = 0; i < 300; i++) {
            nbd_client_request(c, NBD_CMD_READ, 0, 4096, 512, NULL);
        }
        for (unsigned i = 0; i <= 300; i++) {
            uint8_t head[16];

            g_assert_true(nbd_client_recv(c, head, 16));
            g_assert_cmphex(nbd_get32(head), ==, NBD_SIMPLE_REPLY_MAGIC);
            g_assert_cmpuint(nbd_get32(head + 4), ==, 0);
            r.cookie = nbd_get64(head + 8);
            g_assert_cmpuint(r.cookie, >=, held);
            g_assert_cmpuint(r.cookie, <=, held + 300);
            seen += r.cookie - held;
            if (r.cookie != held) {
                g_assert_true(nbd_client_recv(c, buf, 512));
            }
            if (i == round) {
                holder_set(&h, false);
            }
        }
        g_assert_cmpuint(seen, ==, 300 * 301 / 2); /* each once */
    }
    put_hook(f, 0, NULL);
    nbd_client_close(c);
}

/* One token is given back and two connections may now run: one of the drive
 * that is stuck, which takes what it gets for good, and one of the other. */
static void test_two_waiting(NbdFixture *f, gconstpointer data)
{
    Holder h[2] = {
        { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, true, 0 },
        { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, true, 0 },
    };
    NbdClient *c[4];
    uint8_t buf[512] = { 0 };
    NbdReply r;

    for (unsigned i = 0; i < 2; i++) {
        put_hook(f, i, &h[i]);
    }
    for (unsigned i = 0; i < 4; i++) { /* a b a b */
        c[i] = nbd_fixture_client(f, i % 2 ? "b" : "a", NBD_CLIENT_SIMPLE);
    }
    nbd_client_request(c[0], NBD_CMD_WRITE, 0, 0, 512, buf);
    nbd_client_request(c[1], NBD_CMD_WRITE, 0, 0, 512, buf);
    holder_wait(&h[0], 1);
    holder_wait(&h[1], 1);
    for (unsigned i = 2; i < 4; i++) {
        nbd_client_request(c[i], NBD_CMD_WRITE, 0, 0, 512, buf);
        WAIT_UNTIL(({
            guint n;

            pthread_mutex_lock(&f->srv->lock);
            n = f->srv->waiting.length;
            pthread_mutex_unlock(&f->srv->lock);
            n == i - 1;
        }));
    }
    holder_set(&h[1], false);
    g_assert_true(nbd_client_reply(c[1], &r, NULL, 0, 0));
    g_assert_true(nbd_client_reply(c[3], &r, NULL, 0, 0));
    holder_set(&h[0], false);
    g_assert_true(nbd_client_reply(c[0], &r, NULL, 0, 0));
    g_assert_true(nbd_client_reply(c[2], &r, NULL, 0, 0));
    for (unsigned i = 0; i < 4; i++) {
        nbd_client_close(c[i]);
    }
    put_hook(f, 0, NULL);
    put_hook(f, 1, NULL);
}

/* A drained drive with more requests than there are workers; the other drive
 * is served, with one worker in all as with many. */
static void test_drained_drive(NbdFixture *f, gconstpointer data)
{
    NbdClient *stuck[3], *other = nbd_fixture_client(f, "b", NBD_CLIENT_SIMPLE);
    uint8_t buf[512];
    NbdReply r;

    for (unsigned i = 0; i < 3; i++) {
        stuck[i] = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    }
    blk_drained_begin(&f->blk[0], 1);
    for (unsigned n = 0; n < 64; n++) {
        for (unsigned i = 0; i < 3; i++) {
            nbd_client_request(stuck[i], NBD_CMD_READ, 0, 512 * n, 512, NULL);
        }
    }
    for (unsigned i = 0; i < 200; i++) {
        g_assert_cmpuint(nbd_client_call(other, NBD_CMD_READ, 0, 0, 512, buf), ==, 0);
        if (i % 20 == 0) { /* newcomers, too */
            NbdClient *c = nbd_fixture_client(f, "b", NBD_CLIENT_SIMPLE);

            g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, 0, 512, buf), ==, 0);
            nbd_client_close(c);
        }
    }
    blk_drained_end(&f->blk[0], 1);
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned n = 0; n < 64; n++) {
            g_assert_true(nbd_client_reply(stuck[i], &r, buf, 0, 512));
            g_assert_cmpuint(r.error, ==, 0);
        }
        nbd_client_close(stuck[i]);
    }
    nbd_client_close(other);
}

/* The answers of requests in flight come before the end; what came after the
 * drop is not answered; a new connection is possible at once. */
static void test_drop_clients(NbdFixture *f, gconstpointer data)
{
    Holder h = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, true, 0 };
    NbdClient *c = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE), *idle, *b, *again;
    uint8_t buf[512] = { 3 };
    NbdReply r;

    idle = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    b = nbd_fixture_client(f, "b", NBD_CLIENT_SIMPLE);
    put_hook(f, 0, &h);
    nbd_client_request(c, NBD_CMD_WRITE, 0, 0, 512, buf);
    nbd_client_request(c, NBD_CMD_WRITE, 0, 1024, 512, buf);
    holder_wait(&h, 2);

    nbd_server_drop_clients(f->srv, "a");
    g_assert_true(nbd_client_is_closed(idle));
    WAIT_UNTIL(nbd_server_connections(f->srv, "a") == 0);
    again = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    g_assert_cmpuint(nbd_client_call(again, NBD_CMD_READ, 0, 4096, 512, buf), ==, 0);
    g_assert_cmpuint(nbd_client_call(b, NBD_CMD_READ, 0, 4096, 512, buf), ==, 0);

    holder_set(&h, false);
    g_assert_true(nbd_client_reply(c, &r, NULL, 0, 0));
    g_assert_cmpuint(r.error, ==, 0);
    g_assert_true(nbd_client_reply(c, &r, NULL, 0, 0));
    g_assert_false(nbd_client_reply(c, &r, NULL, 0, 0));
    put_hook(f, 0, NULL);

    nbd_server_drop_clients(f->srv, NULL);
    g_assert_true(nbd_client_is_closed(again));
    g_assert_true(nbd_client_is_closed(b));
    nbd_client_close(c);
    nbd_client_close(idle);
    nbd_client_close(b);
    nbd_client_close(again);
}

static void test_drop_under_load(NbdFixture *f, gconstpointer data)
{
    for (unsigned round = 0; round < 100; round++) {
        NbdClient *c = nbd_fixture_client(f, "a", NBD_CLIENT_STRUCTURED);
        uint8_t buf[4096];
        unsigned answered = 0;

        for (unsigned i = 0; i < 40; i++) {
            nbd_fill(buf, sizeof(buf), i);
            nbd_client_request(c, i % 2 ? NBD_CMD_WRITE : NBD_CMD_READ, 0, i * 4096,
                               4096, buf);
            if (i == round % 40) {
                nbd_server_drop_clients(f->srv, round % 3 ? "a" : NULL);
            }
        }
        /* Whole replies, then the end. */
        while (nbd_client_recv(c, buf, 4)) {
            uint32_t len;

            answered++;
            if (nbd_get32(buf) == NBD_SIMPLE_REPLY_MAGIC) {
                g_assert_true(nbd_client_recv(c, buf, 12));
                continue;
            }
            g_assert_true(nbd_client_recv(c, buf, 16));
            len = nbd_get32(buf + 12);
            while (len > 0) {
                uint32_t now = MIN(len, sizeof(buf));

                g_assert_true(nbd_client_recv(c, buf, now));
                len -= now;
            }
        }
        g_assert_cmpuint(answered, <=, 40);
        nbd_client_close(c);
    }
}

static void test_remove(NbdFixture *f, gconstpointer data)
{
    NbdClient *a = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE), *c;
    GError *err = NULL;

    nbd_server_remove(f->srv, "nothing");
    nbd_server_remove(f->srv, "a");
    g_assert_true(nbd_client_is_closed(a));
    nbd_client_close(a);
    c = nbd_client_connect(f->socket);
    g_assert_false(nbd_client_go(c, "a", NBD_CLIENT_SIMPLE));
    nbd_client_close(c);
    c = nbd_fixture_client(f, "", NBD_CLIENT_SIMPLE); /* the only one left is the default */
    g_assert_cmpuint(nbd_server_connections(f->srv, "b"), ==, 1);
    nbd_client_close(c);
    g_assert_true(nbd_server_add(f->srv, "a", f->blk[0], false, &err));
    c = nbd_client_connect(f->socket);
    g_assert_false(nbd_client_go(c, "", NBD_CLIENT_SIMPLE));
    nbd_client_close(c);
    nbd_client_close(nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE));
}

static void test_new_size_after_drop(NbdFixture *f, gconstpointer data)
{
    NbdClient *c = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    g_autoptr(BlockNode) bs = blk_get_node(f->blk[0]);
    GError *err = NULL;
    uint8_t buf[512] = { 0 };

    blk_drained_begin(&f->blk[0], 1);
    g_assert_true(bdrv_truncate(bs, 2 * MiB, &err));
    blk_drained_end(&f->blk[0], 1);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 2 * MiB, 512, buf), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, 2 * MiB, 512, buf), ==,
                     NBD_ENOSPC);
    nbd_server_drop_clients(f->srv, "a");
    g_assert_true(nbd_client_is_closed(c));
    nbd_client_close(c);
    c = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    g_assert_cmpuint(c->size, ==, 2 * MiB);
    nbd_client_close(c);
}

static void test_empty_drive(NbdFixture *f, gconstpointer data)
{
    GError *err = NULL;
    uint8_t buf[512];
    NbdClient *c;

    blk_drained_begin(&f->blk[0], 1);
    blk_set_node(f->blk[0], NULL);
    blk_drained_end(&f->blk[0], 1);
    c = nbd_fixture_client(f, "a", NBD_CLIENT_ALLOCATION);
    g_assert_cmpuint(c->size, ==, 0);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), ==, NBD_EIO);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_FLUSH, 0, 0, 0, buf), ==, NBD_EIO);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_BLOCK_STATUS, 0, 0, 512, buf), ==,
                     NBD_EINVAL);
    nbd_client_close(c);
    g_assert_no_error(err);
}

/* ---- clients that do nothing ---------------------------------------- */

static void test_silent_clients(NbdFixture *f, gconstpointer data)
{
    NbdClient *silent[60], *c;
    uint8_t buf[512], part[5] = { 0, 0, 0, 3, 'I' };

    for (unsigned i = 0; i < 60; i++) {
        silent[i] = nbd_client_connect(f->socket);
        nbd_client_send(silent[i], part, i % 6);
    }
    c = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    for (unsigned i = 0; i < 20; i++) {
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), ==, 0);
    }
    nbd_client_close(c);
    for (unsigned i = 0; i < 60; i++) {
        nbd_client_close(silent[i]);
    }
}

/* All workers could be kept busy by clients in the middle of a request. */
static void test_clients_that_stop_in_the_middle(NbdFixture *f, gconstpointer data)
{
    uint8_t stream[NBD_REQUEST_SIZE + 10] = { 0 }, buf[512];
    NbdClient *stuck[20], *c;

    nbd_client_put_request(stream, NBD_CMD_WRITE, 0, 1, 0, 3 * MiB);
    for (unsigned i = 0; i < 20; i++) {
        stuck[i] = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
        nbd_client_send(stuck[i], stream, i % 2 ? sizeof(stream) : 7);
    }
    c = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    for (unsigned i = 0; i < 20; i++) {
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), ==, 0);
    }
    nbd_client_close(c);
    for (unsigned i = 0; i < 20; i++) {
        nbd_client_close(stuck[i]);
    }
}

static void test_handshake_timeout(NbdFixture *f, gconstpointer data)
{
    NbdClient *c, *good;

    f->srv->handshake_us = 1;
    c = nbd_client_connect(f->socket);
    g_assert_true(nbd_client_is_closed(c));
    nbd_client_close(c);
    f->srv->handshake_us = 60 * G_USEC_PER_SEC;
    good = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    nbd_client_close(good);
}

static void test_too_many_connections(NbdFixture *f, gconstpointer data)
{
    NbdClient *c[NBD_MAX_CONNECTIONS + 1];
    uint8_t greeting[18];

    for (unsigned i = 0; i < NBD_MAX_CONNECTIONS; i++) {
        c[i] = nbd_client_connect(f->socket);
        g_assert_nonnull(c[i]);
        g_assert_true(nbd_client_recv(c[i], greeting, sizeof(greeting)));
    }
    c[NBD_MAX_CONNECTIONS] = nbd_client_connect(f->socket);
    g_assert_false(nbd_client_recv(c[NBD_MAX_CONNECTIONS], greeting, 1));
    for (unsigned i = 0; i <= NBD_MAX_CONNECTIONS; i++) {
        nbd_client_close(c[i]);
    }
    WAIT_UNTIL(({
        NbdClient *x = nbd_client_connect(f->socket);
        bool ok = nbd_client_go(x, "a", NBD_CLIENT_SIMPLE);

        nbd_client_close(x);
        ok;
    }));
}

/* Ask for much, read nothing: others are served, and the end comes soon. */
static void test_client_that_reads_nothing(NbdFixture *f, gconstpointer data)
{
    NbdClient *deaf = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    NbdClient *deaf2 = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    NbdClient *c = nbd_fixture_client(f, "b", NBD_CLIENT_SIMPLE);
    uint8_t buf[512];
    gint64 start;

    for (unsigned i = 0; i < 30; i++) {
        nbd_client_request(deaf, NBD_CMD_READ, 0, 0, MiB, NULL);
        nbd_client_request(deaf2, NBD_CMD_READ, 0, 0, 4 * MiB, NULL);
    }
    for (unsigned i = 0; i < 100; i++) {
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), ==, 0);
    }
    start = g_get_monotonic_time();
    nbd_server_free(f->srv);
    f->srv = NULL;
    g_assert_cmpint(g_get_monotonic_time() - start, <, 50 * G_USEC_PER_SEC);
    nbd_client_close(deaf);
    nbd_client_close(deaf2);
    nbd_client_close(c);
}

/* ---- sockets and names ---------------------------------------------- */

static void test_peer(NbdFixture *f, gconstpointer data)
{
    NbdClient *c;

    uint8_t byte;

    nbd_server_allow_pid(f->srv, getpid() + 1);
    c = nbd_client_connect(f->socket);
    g_assert_false(nbd_client_recv(c, &byte, 1));
    nbd_client_close(c);
    nbd_server_allow_pid(f->srv, getpid());
    nbd_client_close(nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE));
    nbd_server_allow_pid(f->srv, 0);
    nbd_client_close(nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE));
}

static void test_socket_file(NbdFixture *f, gconstpointer data)
{
    struct stat st;

    g_assert_cmpint(stat(f->socket, &st), ==, 0);
    g_assert_cmpuint(st.st_mode & 07777, ==, 0600);
}

static NbdServer *listening(const char *path, GError **err)
{
    NbdServer *srv = nbd_server_new(1, NULL);

    g_assert_nonnull(srv);
    if (!nbd_server_listen_unix(srv, path, err)) {
        nbd_server_free(srv);
        return NULL;
    }
    return srv;
}

static void test_socket_addresses(void)
{
    g_autofree char *dir = g_dir_make_tmp("nbd-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    g_autofree char *abstract = g_strdup_printf("@sidecar-test-%d", getpid());
    g_autofree char *longest = g_strnfill(200, 'x');
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    GError *err = NULL;
    NbdServer *srv, *other;
    NbdClient *c;
    int fd;

    g_assert_null(listening(longest, &err));
    g_clear_error(&err);
    g_assert_null(listening("", &err));
    g_clear_error(&err);
    g_assert_null(listening("@", &err));
    g_clear_error(&err);

    srv = listening(abstract, &err);
    g_assert_no_error(err);
    c = nbd_client_connect(abstract);
    g_assert_nonnull(c);
    nbd_client_close(c);
    g_assert_null(listening(abstract, &err)); /* somebody is there */
    g_assert_nonnull(err);
    g_clear_error(&err);
    g_assert_false(nbd_server_listen_unix(srv, path, &err)); /* once each */
    g_clear_error(&err);
    nbd_server_free(srv);

    /* A file that is no socket stays; a socket that nobody serves goes. */
    g_assert_true(g_file_set_contents(path, "precious", -1, NULL));
    g_assert_null(listening(path, &err));
    g_clear_error(&err);
    g_assert_cmpint(g_remove(path), ==, 0);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    close(fd);
    srv = listening(path, &err);
    g_assert_no_error(err);
    g_assert_null(listening(path, &err));
    g_clear_error(&err);

    /* Somebody else's socket in our place is left alone. */
    g_assert_cmpint(g_remove(path), ==, 0);
    other = listening(path, &err);
    g_assert_no_error(err);
    nbd_server_free(srv);
    c = nbd_client_connect(path);
    g_assert_nonnull(c);
    nbd_client_close(c);
    nbd_server_free(other);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static void test_names(NbdFixture *f, gconstpointer data)
{
    g_autofree char *longest = g_strnfill(4095, 'n');
    g_autofree char *longer = g_strnfill(4096, 'n');
    GError *err = NULL;

    g_assert_false(nbd_server_add(f->srv, "a", f->blk[1], false, &err));
    g_assert_nonnull(err);
    g_clear_error(&err);
    g_assert_false(nbd_server_add(f->srv, "", f->blk[1], false, &err));
    g_clear_error(&err);
    g_assert_false(nbd_server_add(f->srv, longer, f->blk[1], false, &err));
    g_clear_error(&err);
    g_assert_false(nbd_server_add(f->srv, "\xff", f->blk[1], false, &err));
    g_clear_error(&err);
    g_assert_true(nbd_server_add(f->srv, longest, f->blk[1], false, &err));
    nbd_client_close(nbd_fixture_client(f, longest, NBD_CLIENT_SIMPLE));
    g_assert_null(nbd_server_new(0, &err));
    g_clear_error(&err);
    g_assert_null(nbd_server_new(257, &err));
    g_clear_error(&err);
}

/* ---- everything at once --------------------------------------------- */

typedef struct {
    NbdFixture *f;
    unsigned id;
} Busy;

/* Random requests to a region of its own, against a copy. */
static gpointer busy(gpointer opaque)
{
    Busy *b = opaque;
    const uint32_t region = MiB;
    g_autofree uint8_t *copy = g_malloc0(region), *buf = g_malloc0(region);
    GRand *rand = g_rand_new_with_seed(b->id);
    uint64_t base = (uint64_t)(b->id / 2) * region;
    NbdClient *c = NULL;

    for (unsigned i = 0; i < 400; i++) {
        uint32_t at = (uint32_t)g_rand_int_range(rand, 0, (gint32)region - 1);
        uint32_t len = (uint32_t)g_rand_int_range(rand, 1, 1 << g_rand_int_range(rand, 1, 20));

        len = MIN(len, region - at);
        if (!c) {
            c = nbd_fixture_client(b->f, b->id % 2 ? "b" : "a", (NbdClientMode)(i % 2));
        }
        switch (g_rand_int_range(rand, 0, 8)) {
        case 0:
            g_assert_cmpuint(nbd_client_call(c, NBD_CMD_FLUSH, 0, 0, 0, NULL), ==, 0);
            break;
        case 1:
            memset(copy + at, 0, len);
            g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE_ZEROES, 0, base + at, len,
                                             NULL), ==, 0);
            break;
        case 2:
            g_clear_pointer(&c, nbd_client_close);
            break;
        case 3: case 4: case 5:
            nbd_fill(copy + at, len, g_rand_int(rand));
            g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, base + at, len,
                                             copy + at), ==, 0);
            break;
        default:
            g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, base + at, len,
                                             buf + at), ==, 0);
            g_assert_cmpmem(buf + at, len, copy + at, len);
            break;
        }
    }
    g_clear_pointer(&c, nbd_client_close);
    g_rand_free(rand);
    return NULL;
}

static void test_busy(NbdFixture *f, gconstpointer data)
{
    Busy b[12];
    GThread *t[12];

    for (unsigned i = 0; i < 12; i++) {
        b[i] = (Busy){ f, i };
        t[i] = g_thread_new("busy", busy, &b[i]);
    }
    for (unsigned i = 0; i < 20; i++) { /* meanwhile */
        blk_drained_begin(f->blk, 2);
        blk_drained_end(f->blk, 2);
        g_usleep(2000);
    }
    for (unsigned i = 0; i < 12; i++) {
        g_thread_join(t[i]);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    NBD_TEST("clients/bad-magic", test_bad_magic);
    NBD_TEST("clients/hang-up-anywhere", test_hang_up_anywhere);
    NBD_TEST("clients/disc", test_disc);
    NBD_TEST("clients/connection-count", test_connection_count);
    NBD_TEST("clients/held-writes", test_held_writes);
    NBD_TEST("clients/late-worker", test_late_worker);
    NBD_TEST_WORKERS("clients/two-waiting", 1, test_two_waiting);
    NBD_TEST("clients/drained-drive", test_drained_drive);
    NBD_TEST_WORKERS("clients/drained-drive", 1, test_drained_drive);
    NBD_TEST_WORKERS("clients/drained-drive", 256, test_drained_drive);
    NBD_TEST("clients/drop-clients", test_drop_clients);
    NBD_TEST("clients/drop-under-load", test_drop_under_load);
    NBD_TEST("clients/remove", test_remove);
    NBD_TEST("clients/new-size-after-drop", test_new_size_after_drop);
    NBD_TEST("clients/empty-drive", test_empty_drive);
    NBD_TEST("clients/silent-clients", test_silent_clients);
    NBD_TEST_WORKERS("clients/silent-clients", 1, test_silent_clients);
    NBD_TEST("clients/stopped-in-the-middle", test_clients_that_stop_in_the_middle);
    NBD_TEST_WORKERS("clients/stopped-in-the-middle", 1, test_clients_that_stop_in_the_middle);
    NBD_TEST("clients/handshake-timeout", test_handshake_timeout);
    NBD_TEST("clients/too-many-connections", test_too_many_connections);
    NBD_TEST("clients/client-that-reads-nothing", test_client_that_reads_nothing);
    NBD_TEST_WORKERS("clients/client-that-reads-nothing", 1, test_client_that_reads_nothing);
    NBD_TEST("clients/peer", test_peer);
    NBD_TEST("clients/socket-file", test_socket_file);
    g_test_add_func("/nbd/clients/socket-addresses", test_socket_addresses);
    NBD_TEST("clients/names", test_names);
    NBD_TEST("clients/busy", test_busy);
    NBD_TEST_WORKERS("clients/busy", 2, test_busy);
    return g_test_run();
}
