/*
 * A small NBD client for unit tests; see nbd-client.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "nbd-client.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

NbdClient *nbd_client_connect(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct timeval minute = { 60, 0 };
    socklen_t len = sizeof(addr);
    NbdClient *c;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(fd, >=, 0);
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    if (path[0] == '@') {
        addr.sun_path[0] = '\0';
        len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    }
    if (connect(fd, (struct sockaddr *)&addr, len) < 0) {
        close(fd);
        return NULL;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &minute, sizeof(minute));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &minute, sizeof(minute));
    c = g_new0(NbdClient, 1);
    c->fd = fd;
    c->next_cookie = 1;
    return c;
}

void nbd_client_close(NbdClient *c)
{
    close(c->fd);
    g_free(c);
}

bool nbd_client_is_closed(NbdClient *c)
{
    uint8_t buf[4096];
    ssize_t n;

    do {
        n = recv(c->fd, buf, sizeof(buf), 0);
    } while (n > 0);
    return n == 0 || errno == ECONNRESET;
}

void nbd_client_send(NbdClient *c, const void *buf, size_t len)
{
    while (len > 0) {
        ssize_t n = send(c->fd, buf, len, MSG_NOSIGNAL);

        if (n < 0) {
            g_assert_true(errno == EPIPE || errno == ECONNRESET);
            return; /* the next receive will tell */
        }
        buf = (const uint8_t *)buf + n;
        len -= (size_t)n;
    }
}

bool nbd_client_recv(NbdClient *c, void *buf, size_t len)
{
    while (len > 0) {
        ssize_t n = recv(c->fd, buf, len, 0);

        if (n == 0 || (n < 0 && errno == ECONNRESET)) {
            return false;
        }
        g_assert_cmpint(n, >, 0); /* else: a minute of silence */
        buf = (uint8_t *)buf + n;
        len -= (size_t)n;
    }
    return true;
}

static void put_option(NbdClient *c, uint32_t option, const void *data, uint32_t len)
{
    uint8_t head[16];

    nbd_put64(head, NBD_OPTION_MAGIC);
    nbd_put32(head + 8, option);
    nbd_put32(head + 12, len);
    nbd_client_send(c, head, sizeof(head));
    nbd_client_send(c, data, len);
}

/* Take replies up to the ACK; false: an error, or closed. */
static bool take_replies(NbdClient *c)
{
    uint8_t head[20], data[8192];

    while (nbd_client_recv(c, head, sizeof(head))) {
        uint32_t type = nbd_get32(head + 12), len = nbd_get32(head + 16);

        g_assert_cmphex(nbd_get64(head), ==, NBD_OPTION_REPLY_MAGIC);
        g_assert_cmpuint(len, <=, sizeof(data));
        g_assert_true(nbd_client_recv(c, data, len));
        if (type == NBD_REP_INFO && nbd_get16(data) == NBD_INFO_EXPORT) {
            c->size = nbd_get64(data + 2);
            c->flags = nbd_get16(data + 10);
        }
        if (type == NBD_REP_ACK || (type & NBD_REP_ERROR)) {
            return type == NBD_REP_ACK;
        }
    }
    return false;
}

bool nbd_client_go(NbdClient *c, const char *name, NbdClientMode mode)
{
    uint32_t len = (uint32_t)strlen(name);
    uint8_t greeting[18], flags[4], data[8192];

    if (!nbd_client_recv(c, greeting, sizeof(greeting))) {
        return false;
    }
    g_assert_cmphex(nbd_get64(greeting), ==, NBD_MAGIC);
    nbd_put32(flags, 3);
    nbd_client_send(c, flags, 4);
    nbd_put32(data, len);
    memcpy(data + 4, name, len);
    if (mode & 1) {
        put_option(c, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
        g_assert_true(take_replies(c));
    }
    if (mode & 2) {
        nbd_put32(data + 4 + len, 1);
        nbd_put32(data + 8 + len, 15);
        memcpy(data + 12 + len, "base:allocation", 15);
        put_option(c, NBD_OPT_SET_META_CONTEXT, data, 12 + len + 15);
        if (!take_replies(c)) {
            return false;
        }
    }
    nbd_put16(data + 4 + len, 0);
    put_option(c, NBD_OPT_GO, data, 6 + len);
    return take_replies(c);
}

NbdClient *nbd_client_open(const char *path, const char *name, NbdClientMode mode)
{
    NbdClient *c = nbd_client_connect(path);

    g_assert_nonnull(c);
    g_assert_true(nbd_client_go(c, name, mode));
    return c;
}

void nbd_client_put_request(uint8_t p[NBD_REQUEST_SIZE], uint16_t type,
                            uint16_t flags, uint64_t cookie, uint64_t offset,
                            uint32_t length)
{
    nbd_put32(p, NBD_REQUEST_MAGIC);
    nbd_put16(p + 4, flags);
    nbd_put16(p + 6, type);
    nbd_put64(p + 8, cookie);
    nbd_put64(p + 16, offset);
    nbd_put32(p + 24, length);
}

uint64_t nbd_client_request(NbdClient *c, uint16_t type, uint16_t flags,
                            uint64_t offset, uint32_t length, const void *payload)
{
    uint8_t head[NBD_REQUEST_SIZE];
    uint64_t cookie = c->next_cookie++;

    nbd_client_put_request(head, type, flags, cookie, offset, length);
    nbd_client_send(c, head, sizeof(head));
    if (type == NBD_CMD_WRITE) {
        nbd_client_send(c, payload, length);
    }
    return cookie;
}

static void take_content(NbdClient *c, NbdReply *r, uint16_t type, uint32_t len,
                         uint8_t *buf, uint64_t base, uint32_t length)
{
    uint8_t head[12];
    uint32_t bytes = len - 8;
    uint64_t at;

    g_assert_true(nbd_client_recv(c, head, type == NBD_REPLY_TYPE_OFFSET_HOLE ? 12 : 8));
    at = nbd_get64(head);
    if (type == NBD_REPLY_TYPE_OFFSET_HOLE) {
        g_assert_cmpuint(len, ==, 12);
        bytes = nbd_get32(head + 8);
        r->holes++;
    }
    g_assert_cmpuint(bytes, >, 0);
    g_assert_cmpuint(at, >=, base);
    g_assert_cmpuint(at - base, <=, length);
    g_assert_cmpuint(bytes, <=, length - (at - base));
    if (type == NBD_REPLY_TYPE_OFFSET_HOLE) {
        memset(buf + (at - base), 0, bytes);
    } else {
        g_assert_true(nbd_client_recv(c, buf + (at - base), bytes));
    }
    r->chunks++;
    r->covered += bytes;
}

static void take_extents(NbdClient *c, NbdReply *r, uint32_t len)
{
    g_autofree uint8_t *data = g_malloc(len);

    g_assert_true(nbd_client_recv(c, data, len));
    g_assert_cmpuint(nbd_get32(data), ==, NBD_CONTEXT_ID);
    r->extents = (len - 4) / 8;
    for (unsigned i = 0; i < MIN(r->extents, 8); i++) {
        r->extent[i][0] = nbd_get32(data + 4 + 8 * i);
        r->extent[i][1] = nbd_get32(data + 8 + 8 * i);
    }
}

/* One chunk; *done if it was the last of its reply. */
static void take_chunk(NbdClient *c, NbdReply *r, bool *done, uint8_t *buf,
                       uint64_t base, uint32_t length)
{
    uint8_t head[16], data[256];
    uint16_t type;
    uint32_t len;

    g_assert_true(nbd_client_recv(c, head, 16));
    *done = nbd_get16(head) & NBD_REPLY_FLAG_DONE;
    type = nbd_get16(head + 2);
    g_assert_true(r->cookie == 0 || r->cookie == nbd_get64(head + 4));
    r->cookie = nbd_get64(head + 4);
    len = nbd_get32(head + 12);
    switch (type) {
    case NBD_REPLY_TYPE_NONE:
        g_assert_cmpuint(len, ==, 0);
        g_assert_true(*done);
        break;
    case NBD_REPLY_TYPE_OFFSET_DATA:
    case NBD_REPLY_TYPE_OFFSET_HOLE:
        take_content(c, r, type, len, buf, base, length);
        break;
    case NBD_REPLY_TYPE_BLOCK_STATUS:
        take_extents(c, r, len);
        break;
    default:
        g_assert_cmphex(type, ==, NBD_REPLY_TYPE_ERROR);
        g_assert_cmpuint(len, <=, sizeof(data));
        g_assert_true(nbd_client_recv(c, data, len));
        r->error = nbd_get32(data);
        g_assert_cmpuint(r->error, !=, 0);
        g_assert_cmpuint(nbd_get16(data + 4), ==, len - 6);
        break;
    }
}

bool nbd_client_reply(NbdClient *c, NbdReply *r, uint8_t *buf, uint64_t base,
                      uint32_t length)
{
    bool done = false;
    uint8_t head[16];

    memset(r, 0, sizeof(*r));
    while (!done) {
        if (!nbd_client_recv(c, head, 4)) {
            g_assert_cmpuint(r->cookie, ==, 0); /* not in the middle */
            return false;
        }
        if (nbd_get32(head) == NBD_STRUCTURED_REPLY_MAGIC) {
            take_chunk(c, r, &done, buf, base, length);
            continue;
        }
        g_assert_cmphex(nbd_get32(head), ==, NBD_SIMPLE_REPLY_MAGIC);
        g_assert_true(nbd_client_recv(c, head + 4, 12));
        r->error = nbd_get32(head + 4);
        r->cookie = nbd_get64(head + 8);
        if (r->error == 0 && length > 0) {
            g_assert_true(nbd_client_recv(c, buf, length));
            r->covered = length;
        }
        done = true;
    }
    return true;
}

uint32_t nbd_client_call(NbdClient *c, uint16_t type, uint16_t flags,
                         uint64_t offset, uint32_t length, void *buf)
{
    uint64_t cookie = nbd_client_request(c, type, flags, offset, length, buf);
    uint32_t content = type == NBD_CMD_READ ? length : 0;
    NbdReply r;

    g_assert_true(nbd_client_reply(c, &r, buf, offset, content));
    g_assert_cmphex(r.cookie, ==, cookie);
    g_assert_true(r.error || r.covered == content);
    return r.error;
}
