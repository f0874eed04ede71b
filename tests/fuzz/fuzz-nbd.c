/*
 * Fuzz target: a client of the NBD server.  The input is what the client sends,
 * from the first byte of the handshake to the end; it goes to the handshake's
 * state machine alone, in pieces, and then to a real server through a socket
 * pair, with a small image behind it.  Whatever it is, the server must answer
 * or close, and a good client that comes afterwards must be served.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../block/nbd-internal.h"
#include "fuzz.h"

#include <sys/socket.h>
#include <unistd.h>

#define IMAGE_SIZE (1024 * 1024 + 77)

/* ---- seeds ---------------------------------------------------------- */

static void put(GByteArray *b, uint64_t v, unsigned bytes)
{
    uint8_t be[8];

    nbd_put64(be, v);
    g_byte_array_append(b, be + 8 - bytes, bytes);
}

static void put_name(GByteArray *b, const char *name)
{
    put(b, strlen(name), 4);
    g_byte_array_append(b, (const uint8_t *)name, (guint)strlen(name));
}

static void put_option(GByteArray *b, uint32_t option, uint32_t len)
{
    put(b, NBD_OPTION_MAGIC, 8);
    put(b, option, 4);
    put(b, len, 4);
}

static void put_request(GByteArray *b, uint16_t type, uint16_t flags, uint64_t offset,
                        uint32_t length)
{
    put(b, NBD_REQUEST_MAGIC, 4);
    put(b, flags, 2);
    put(b, type, 2);
    put(b, b->len, 8);
    put(b, offset, 8);
    put(b, length, 4);
    if (type == NBD_CMD_WRITE) {
        guint at = b->len;

        g_byte_array_set_size(b, at + length);
        memset(b->data + at, (int)offset, length);
    }
}

static void put_handshake(GByteArray *b, bool structured, bool meta)
{
    put(b, 3, 4);
    if (structured) {
        put_option(b, NBD_OPT_STRUCTURED_REPLY, 0);
    }
    if (meta) {
        put_option(b, NBD_OPT_SET_META_CONTEXT, 4 + 4 + 4 + 4 + 15);
        put_name(b, "disk");
        put(b, 1, 4);
        put_name(b, "base:allocation");
    }
    put_option(b, NBD_OPT_GO, 4 + 4 + 2 + 2);
    put_name(b, "disk");
    put(b, 1, 2);
    put(b, NBD_INFO_BLOCK_SIZE, 2);
}

static void put_requests(GByteArray *b)
{
    put_request(b, NBD_CMD_READ, 0, 0, 512);
    put_request(b, NBD_CMD_WRITE, 0, 4000, 300);
    put_request(b, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 70000, 5000);
    put_request(b, NBD_CMD_READ, 0, 0, 300000);
    put_request(b, NBD_CMD_FLUSH, 0, 0, 0);
    put_request(b, NBD_CMD_TRIM, 0, 8192, 4096);
    put_request(b, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 5, 9999);
    put_request(b, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 0, 65536);
    put_request(b, NBD_CMD_CACHE, 0, 0, IMAGE_SIZE);
    put_request(b, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 0, IMAGE_SIZE);
    put_request(b, NBD_CMD_BLOCK_STATUS, 0, 0, IMAGE_SIZE);
    put_request(b, NBD_CMD_READ, NBD_CMD_FLAG_DF, 100, IMAGE_SIZE - 100);
    put_request(b, NBD_CMD_WRITE, 0, IMAGE_SIZE - 10, 20);
    put_request(b, 4711, 0, 0, 0);
    put_request(b, NBD_CMD_DISC, 0, 0, 0);
}

static void put_chat(GByteArray *b)
{
    put(b, 1, 4);
    put_option(b, NBD_OPT_LIST, 0);
    put_option(b, NBD_OPT_STARTTLS, 0);
    put_option(b, 99, 3);
    put(b, 0, 3);
    put_option(b, NBD_OPT_STRUCTURED_REPLY, 0);
    put_option(b, NBD_OPT_LIST_META_CONTEXT, 4 + 4 + 4);
    put_name(b, "disk");
    put(b, 0, 4);
    put_option(b, NBD_OPT_INFO, 4 + 4 + 2 + 6);
    put_name(b, "disk");
    put(b, 3, 2);
    put(b, NBD_INFO_NAME, 2);
    put(b, NBD_INFO_DESCRIPTION, 2);
    put(b, NBD_INFO_EXPORT, 2);
}

GPtrArray *fuzz_seeds(void)
{
    GPtrArray *seeds = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);

    for (unsigned i = 0; i < 5; i++) {
        GByteArray *b = g_byte_array_new();

        if (i < 3) {
            put_handshake(b, i > 0, i > 1);
            put_requests(b);
        } else {
            put_chat(b);
            put_option(b, i == 3 ? NBD_OPT_ABORT : NBD_OPT_EXPORT_NAME, i == 3 ? 0 : 4);
            if (i == 4) {
                g_byte_array_append(b, (const uint8_t *)"disk", 4);
                put_requests(b);
            }
        }
        g_ptr_array_add(seeds, b);
    }
    return seeds;
}

/* ---- the state machine alone ---------------------------------------- */

static bool find(void *opaque, const char *name, NbdExportInfo *info)
{
    *info = (NbdExportInfo){ IMAGE_SIZE, NBD_FLAG_HAS_FLAGS, 1, 4096, 65536 };
    return strcmp(name, "disk") == 0;
}

static void list(void *opaque, void (*fn)(void *fn_opaque, const char *name), void *fn_opaque)
{
    fn(fn_opaque, "disk");
}

static const NbdNegotiateOps ops = { find, list };

/* Feed it @piece bytes at a time; how many it used before transmission phase. */
static size_t negotiate(const uint8_t *data, size_t size, size_t piece)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    NbdNegotiateResult r = NBD_NEGOTIATE_MORE;
    size_t pos = 0, have = 0, used;
    NbdNegotiation n;

    nbd_negotiate_init(&n, &ops, NULL, out);
    while (r == NBD_NEGOTIATE_MORE) {
        r = nbd_negotiate_feed(&n, data + pos, have, &used, out);
        if (used > have || out->len > NBD_NEGOTIATE_OUT_HIGH + 65536) {
            abort();
        }
        pos += used;
        have -= used;
        g_byte_array_set_size(out, 0);
        if (used == 0) {
            if (have > NBD_MAX_OPTION + NBD_OPTION_HEADER_SIZE) {
                abort(); /* it must always digest what a buffer can hold */
            }
            if (pos + have == size) {
                break;
            }
            have += MIN(piece, size - pos - have);
        }
    }
    if (r == NBD_NEGOTIATE_DONE && (!n.name || strcmp(n.name, "disk"))) {
        abort();
    }
    nbd_negotiate_clear(&n);
    return r == NBD_NEGOTIATE_DONE ? pos : size;
}

static void decode(const uint8_t *data, size_t size)
{
    static const NbdSession s = { true, true, false };
    NbdRequest req;

    for (; size >= NBD_REQUEST_SIZE; data++, size--) {
        if (nbd_request_decode(data, &req) &&
            nbd_request_check(&req, &s, IMAGE_SIZE) == NBD_SUCCESS &&
            req.type != NBD_CMD_FLUSH && req.type != NBD_CMD_DISC &&
            (req.offset > IMAGE_SIZE || req.length > IMAGE_SIZE - req.offset)) {
            abort();
        }
    }
}

/* ---- a real server -------------------------------------------------- */

static NbdServer *server(void)
{
    static NbdServer *srv;

    if (!srv) {
        g_autofree char *dir = g_dir_make_tmp("fuzz-nbd-XXXXXX", NULL);
        g_autofree char *path = g_build_filename(dir, "image", NULL);
        BlockContext *ctx = block_context_new();
        BlockNode *bs;

        srv = nbd_server_new(4, NULL);
        if (!srv || !bdrv_create(path, "raw", IMAGE_SIZE, NULL, NULL, NULL)) {
            abort();
        }
        bs = bdrv_open(path, "raw", BDRV_O_RDWR | BDRV_O_UNMAP | BDRV_O_NO_LOCK, NULL);
        if (!bs || !nbd_server_add(srv, "disk", blk_new(ctx, "disk", bs, NULL), false,
                                   NULL)) {
            abort();
        }
        unlink(path);
        rmdir(dir);
    }
    return srv;
}

typedef struct {
    int fd;
    const uint8_t *data;
    size_t size;
} Sender;

/* Say it all, then nothing more. */
static gpointer send_all(gpointer opaque)
{
    Sender *s = opaque;

    while (s->size > 0) {
        ssize_t n = send(s->fd, s->data, s->size, MSG_NOSIGNAL);

        if (n <= 0) {
            break;
        }
        s->data += n;
        s->size -= (size_t)n;
    }
    shutdown(s->fd, SHUT_WR);
    return NULL;
}

/* Everything that a server says to @data; it must come to an end.  A hang is
 * found by whoever runs this, with a time limit. */
static size_t converse(const uint8_t *data, size_t size)
{
    uint8_t buf[65536];
    size_t total = 0;
    Sender s;
    GThread *t;
    ssize_t n;
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        abort();
    }
    nbd_conn_new(server(), fds[0]);
    s = (Sender){ fds[1], data, size };
    t = g_thread_new("send", send_all, &s);
    while ((n = recv(fds[1], buf, sizeof(buf), 0)) > 0) {
        total += (size_t)n;
    }
    g_thread_join(t);
    close(fds[1]);
    return total;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static GByteArray *good;
    size_t used;

    used = negotiate(data, size, size + 1);
    if (negotiate(data, size, 1 + (size ? data[size / 2] : 0)) != used) {
        abort(); /* it depends on how the bytes come */
    }
    decode(data + used, size - used);
    converse(data, size);
    if (!good) {
        good = g_byte_array_new();
        put_handshake(good, false, false);
        put_request(good, NBD_CMD_READ, 0, 0, 512);
    }
    if (converse(good->data, good->len) < NBD_SIMPLE_REPLY_SIZE + 512) {
        abort();
    }
    return 0;
}
