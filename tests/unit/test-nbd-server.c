/*
 * The NBD server over real sockets and images: what it answers, what it does
 * with clients that misbehave, and that nobody waits for somebody else's drive.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../block/nbd-internal.h"
#include "nbd-client.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MiB (1024U * 1024)
#define IMAGE_SIZE (8 * MiB)

typedef struct {
    char *dir, *socket;
    BlockContext *block;
    NbdServer *srv;
    BlockBackend *blk[2]; /* "a" and "b" */
} Fixture;

static char *image_path(Fixture *f, unsigned i)
{
    return g_strdup_printf("%s/%u.raw", f->dir, i);
}

static void set_up_workers(Fixture *f, unsigned workers)
{
    GError *err = NULL;

    f->dir = g_dir_make_tmp("nbd-XXXXXX", &err);
    g_assert_no_error(err);
    f->socket = g_build_filename(f->dir, "socket", NULL);
    f->block = block_context_new();
    f->srv = nbd_server_new(workers, &err);
    g_assert_no_error(err);
    for (unsigned i = 0; i < 2; i++) {
        const char *name = i ? "b" : "a";
        g_autofree char *path = image_path(f, i);
        g_autoptr(BlockNode) bs = NULL;

        g_assert_true(bdrv_create(path, "raw", IMAGE_SIZE, NULL, NULL, &err));
        bs = bdrv_open(path, "raw", BDRV_O_RDWR | BDRV_O_UNMAP, &err);
        g_assert_no_error(err);
        f->blk[i] = blk_new(f->block, name, bs, &err);
        g_assert_no_error(err);
        g_assert_true(nbd_server_add(f->srv, name, f->blk[i], false, &err));
    }
    g_assert_true(nbd_server_listen_unix(f->srv, f->socket, &err));
    g_assert_no_error(err);
}

static void set_up(Fixture *f, gconstpointer data)
{
    set_up_workers(f, data ? GPOINTER_TO_UINT(data) : 16);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    nbd_server_free(f->srv);
    block_context_free(f->block);
    g_assert_cmpint(g_access(f->socket, F_OK), !=, 0);
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *path = image_path(f, i);

        g_assert_cmpint(g_remove(path), ==, 0);
    }
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_free(f->socket);
    g_free(f->dir);
}

static NbdClient *client(Fixture *f, const char *name, NbdClientMode mode)
{
    return nbd_client_open(f->socket, name, mode);
}

static void fill(uint8_t *buf, size_t len, guint32 seed)
{
    for (size_t i = 0; i < len; i++) {
        seed = seed * 1664525 + 1013904223;
        buf[i] = (uint8_t)(seed >> 24) | 1; /* never zero */
    }
}

/* Until @cond, which is something that takes milliseconds. */
#define WAIT_UNTIL(cond)                                                        \
    do {                                                                        \
        gint64 until_ = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;           \
        while (!(cond)) {                                                       \
            g_assert_cmpint(g_get_monotonic_time(), <, until_);                 \
            g_usleep(1000);                                                     \
        }                                                                       \
    } while (0)

/* ---- commands ------------------------------------------------------- */

static void test_read_write(Fixture *f, gconstpointer data)
{
    static const NbdClientMode modes[] = { NBD_CLIENT_SIMPLE, NBD_CLIENT_STRUCTURED };
    static const uint32_t lengths[] = { 1, 512, 4096, 4097, 65536, MiB,
                                        NBD_BUFFER_SIZE, NBD_BUFFER_SIZE + 1, 5 * MiB + 77 };
    g_autofree uint8_t *out = g_malloc(IMAGE_SIZE), *in = g_malloc(IMAGE_SIZE);

    for (unsigned m = 0; m < 2; m++) {
        NbdClient *c = client(f, "a", modes[m]);

        g_assert_cmpuint(c->size, ==, IMAGE_SIZE);
        for (unsigned i = 0; i < G_N_ELEMENTS(lengths); i++) {
            for (unsigned fua = 0; fua < 2; fua++) {
                uint64_t offset = 12345 * i;

                fill(out, lengths[i], i * 2 + fua + m * 100);
                g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, fua, offset,
                                                 lengths[i], out), ==, 0);
                memset(in, 0, lengths[i]);
                g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, offset,
                                                 lengths[i], in), ==, 0);
                g_assert_cmpmem(in, lengths[i], out, lengths[i]);
            }
        }
        nbd_client_close(c);
    }
}

/* The last byte of the image, its end, and what lies beyond. */
static void test_end_of_image(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *buf = g_malloc0(4 * MiB);
    NbdClient *c = client(f, "a", NBD_CLIENT_ALLOCATION);
    uint64_t end = IMAGE_SIZE;

    buf[0] = 'x';
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, end - 1, 1, buf), ==, 0);
    buf[0] = 0;
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, end - 1, 2, buf), ==,
                     NBD_ENOSPC);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, end - MiB, 4 * MiB, buf), ==,
                     NBD_ENOSPC); /* in several pieces: none is written */
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, end - 1, 1, buf), ==, 0);
    g_assert_cmpuint(buf[0], ==, 'x');
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, end - 1, 2, buf), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, UINT64_MAX, 1, buf), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, UINT64_MAX - 1, 1, buf), ==,
                     NBD_ENOSPC);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE_ZEROES, 0, end, 1, NULL), ==,
                     NBD_ENOSPC);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_TRIM, 0, end, 1, NULL), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_CACHE, 0, end, 1, NULL), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_BLOCK_STATUS, 0, end, 1, NULL), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, end, 0, buf), ==, 0);
    nbd_client_close(c);
}

static void test_no_data(Fixture *f, gconstpointer data)
{
    static const NbdClientMode modes[] = { NBD_CLIENT_SIMPLE, NBD_CLIENT_STRUCTURED };
    uint8_t buf[4];

    for (unsigned m = 0; m < 2; m++) {
        NbdClient *c = client(f, "a", modes[m]);

        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 5, 0, buf), ==, 0);
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, 5, 0, buf), ==, 0);
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_TRIM, 0, 5, 0, buf), ==, 0);
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE_ZEROES, 0, 5, 0, buf), ==, 0);
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_FLUSH, 0, 0, 0, buf), ==, 0);
        nbd_client_close(c);
    }
}

static void test_holes_in_reads(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *buf = g_malloc(IMAGE_SIZE), *want = g_malloc0(IMAGE_SIZE);
    NbdClient *c = client(f, "a", NBD_CLIENT_STRUCTURED);
    NbdReply r;

    nbd_client_request(c, NBD_CMD_READ, 0, 4096, 4096, NULL);
    g_assert_true(nbd_client_reply(c, &r, buf, 4096, 4096));
    g_assert_cmpuint(r.holes, ==, 1);
    g_assert_cmpuint(r.chunks, ==, 1);

    fill(want + 100000, 1, 7);
    fill(want + 300000, 200000, 8);
    want[3 * MiB - 1] = 9;
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, 0, 3 * MiB, want), ==, 0);
    nbd_client_request(c, NBD_CMD_READ, 0, 777, 3 * MiB, NULL);
    memset(buf, 0xee, 3 * MiB);
    g_assert_true(nbd_client_reply(c, &r, buf, 777, 3 * MiB));
    g_assert_cmpuint(r.covered, ==, 3 * MiB);
    /* 64 KiB steps: hole, data, hole, data, hole | hole, data, hole */
    g_assert_cmpuint(r.chunks, ==, 8);
    g_assert_cmpuint(r.holes, ==, 5);
    g_assert_cmpmem(buf, 3 * MiB, want + 777, 3 * MiB);

    nbd_client_request(c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 2 * MiB, NULL);
    g_assert_true(nbd_client_reply(c, &r, buf, 0, 2 * MiB));
    g_assert_cmpuint(r.chunks, ==, 1);
    g_assert_cmpuint(r.holes, ==, 0);
    g_assert_cmpmem(buf, 2 * MiB, want, 2 * MiB);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 2 * MiB + 1,
                                     buf), ==, NBD_EOVERFLOW);
    nbd_client_close(c);
}

static void test_zeroes_trim_status(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *buf = g_malloc(IMAGE_SIZE);
    NbdClient *c = client(f, "a", NBD_CLIENT_ALLOCATION);
    NbdReply r;

    fill(buf, IMAGE_SIZE, 1);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, 0, IMAGE_SIZE, buf), ==, 0);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA, MiB,
                                     MiB, NULL), ==, 0);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 3 * MiB, MiB,
                                     NULL), ==, 0);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, MiB, MiB, buf), ==, 0);
    for (unsigned i = 0; i < MiB; i++) {
        g_assert_cmpuint(buf[i], ==, 0);
    }
    nbd_client_request(c, NBD_CMD_BLOCK_STATUS, 0, 0, IMAGE_SIZE, NULL);
    g_assert_true(nbd_client_reply(c, &r, NULL, 0, 0));
    g_assert_cmpuint(r.extents, ==, 5);
    for (unsigned i = 0; i < 5; i++) {
        g_assert_cmpuint(r.extent[i][0], ==, i == 4 ? 4 * MiB : MiB);
        g_assert_cmpuint(r.extent[i][1], ==, i & 1 ? 3 : 0);
    }
    nbd_client_request(c, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, MiB + 1000,
                       IMAGE_SIZE - 2 * MiB, NULL);
    g_assert_true(nbd_client_reply(c, &r, NULL, 0, 0));
    g_assert_cmpuint(r.extents, ==, 1);
    g_assert_cmpuint(r.extent[0][0], ==, MiB - 1000);

    /* Zeros that must not become a hole stay allocated, or are written. */
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE,
                                     5 * MiB, MiB, NULL), ==, 0);
    nbd_client_request(c, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 5 * MiB, MiB,
                       NULL);
    g_assert_true(nbd_client_reply(c, &r, NULL, 0, 0));
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_CACHE, 0, 0, IMAGE_SIZE, NULL), ==, 0);
    nbd_client_close(c);
}

static void test_commands_not_agreed_on(Fixture *f, gconstpointer data)
{
    NbdClient *c = client(f, "a", NBD_CLIENT_SIMPLE);
    uint8_t buf[512] = { 0 };

    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_BLOCK_STATUS, 0, 0, 512, NULL), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512, buf), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, 8, 0, 0, 512, NULL), ==, NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, 0xffff, 0xffff, 0, UINT32_MAX, NULL), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0x8000, 0, 512, buf), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), ==, 0);
    nbd_client_close(c);
}

/* The payload of a write that is refused is read and thrown away. */
static void test_oversized_write(Fixture *f, gconstpointer data)
{
    uint32_t length = NBD_MAX_PAYLOAD + 3 * MiB + 5;
    g_autofree uint8_t *big = g_malloc0(length);
    uint8_t buf[512];
    NbdClient *c = client(f, "a", NBD_CLIENT_STRUCTURED);

    memset(big, 1, length);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, 0, length, big), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, NBD_MAX_PAYLOAD + 1, buf),
                     ==, NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), ==, 0);
    g_assert_cmpuint(buf[0], ==, 0);
    nbd_client_close(c);
}

static void test_read_only(Fixture *f, gconstpointer data)
{
    GError *err = NULL;
    uint8_t buf[512] = { 1 };
    NbdClient *c;

    g_assert_true(nbd_server_add(f->srv, "ro", f->blk[0], true, &err));
    c = client(f, "ro", NBD_CLIENT_ALLOCATION);
    g_assert_true(c->flags & NBD_FLAG_READ_ONLY);
    g_assert_false(c->flags & (NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES));
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, 0, 512, buf), ==, NBD_EPERM);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE_ZEROES, 0, 0, 512, buf), ==,
                     NBD_EPERM);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_TRIM, 0, 0, 512, buf), ==, NBD_EPERM);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_FLUSH, 0, 0, 0, buf), ==, 0);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), ==, 0);
    g_assert_cmpuint(buf[0], ==, 0);
    nbd_client_close(c);
}

/* ---- the stream in any pieces --------------------------------------- */

typedef struct {
    GByteArray *stream;
    uint8_t *image; /* what it must look like afterwards */
    unsigned requests;
} Script;

/* Writes that do not overlap, so that their order does not matter, refused
 * requests and reads between them. */
static void make_script(Script *s, GRand *rand)
{
    uint32_t at = 0;

    s->stream = g_byte_array_new();
    s->image = g_malloc0(IMAGE_SIZE);
    while (at < IMAGE_SIZE - 256 * 1024) {
        static const uint32_t sizes[] = { 0, 1, 511, 512, 4096, 65508, 65536, 200000 };
        uint32_t len = sizes[g_rand_int_range(rand, 0, G_N_ELEMENTS(sizes))];
        unsigned kind = (unsigned)g_rand_int_range(rand, 0, 6);
        uint8_t head[NBD_REQUEST_SIZE];
        uint64_t cookie = ++s->requests;

        if (kind < 4) {
            nbd_client_put_request(head, NBD_CMD_WRITE, 0, cookie, at, len);
            g_byte_array_append(s->stream, head, sizeof(head));
            fill(s->image + at, len, (guint32)cookie);
            g_byte_array_append(s->stream, s->image + at, len);
            at += len + 1;
        } else if (kind == 4) {
            nbd_client_put_request(head, 99, 0, cookie, 0, len); /* refused */
            g_byte_array_append(s->stream, head, sizeof(head));
        } else { /* refused, with its payload: image + at is as good as any */
            nbd_client_put_request(head, NBD_CMD_WRITE, 0, cookie, UINT64_MAX - 9, len);
            g_byte_array_append(s->stream, head, sizeof(head));
            g_byte_array_append(s->stream, s->image, len);
        }
    }
}

typedef struct {
    NbdClient *c;
    unsigned requests;
    gint answered[8192];
} Collector;

static gpointer collect(gpointer opaque)
{
    Collector *x = opaque;
    NbdReply r;

    for (unsigned i = 0; i < x->requests; i++) {
        g_assert_true(nbd_client_reply(x->c, &r, NULL, 0, 0));
        g_assert_cmpuint(r.cookie, <, G_N_ELEMENTS(x->answered));
        x->answered[r.cookie]++;
    }
    return NULL;
}

static void play(Fixture *f, unsigned max_piece, guint32 seed)
{
    g_autofree uint8_t *buf = g_malloc(IMAGE_SIZE);
    g_autofree Collector *x = g_new0(Collector, 1);
    GRand *rand = g_rand_new_with_seed(seed);
    uint8_t zero = 0;
    Script s = { 0 };
    GThread *t;
    guint pos = 0;

    make_script(&s, rand);
    x->c = client(f, "a", NBD_CLIENT_STRUCTURED);
    x->requests = s.requests;
    g_assert_cmpuint(s.requests, <, G_N_ELEMENTS(x->answered));
    g_assert_cmpuint(nbd_client_call(x->c, NBD_CMD_WRITE_ZEROES, 0, 0, IMAGE_SIZE,
                                     &zero), ==, 0);
    t = g_thread_new("collect", collect, x);
    while (pos < s.stream->len) {
        guint now = (guint)g_rand_int_range(rand, 1, (gint32)max_piece + 1);

        now = MIN(now, s.stream->len - pos);
        nbd_client_send(x->c, s.stream->data + pos, now);
        pos += now;
    }
    g_thread_join(t);
    for (unsigned i = 1; i <= s.requests; i++) {
        g_assert_cmpint(x->answered[i], ==, 1);
    }
    g_assert_cmpuint(nbd_client_call(x->c, NBD_CMD_READ, 0, 0, IMAGE_SIZE, buf), ==, 0);
    g_assert_cmpmem(buf, IMAGE_SIZE, s.image, IMAGE_SIZE);
    nbd_client_close(x->c);
    g_byte_array_unref(s.stream);
    g_free(s.image);
    g_rand_free(rand);
}

static void test_any_pieces(Fixture *f, gconstpointer data)
{
    play(f, 300, 1);
    play(f, 5000, 2);
    play(f, 300000, 3);
    play(f, 8 * MiB, 4);
}

/* One byte a send, header and payload: nobody waits for it with a worker. */
static void test_byte_by_byte(Fixture *f, gconstpointer data)
{
    NbdClient *slow = client(f, "a", NBD_CLIENT_SIMPLE);
    NbdClient *quick = client(f, "a", NBD_CLIENT_SIMPLE);
    uint8_t stream[NBD_REQUEST_SIZE + 100], buf[100];
    NbdReply r;

    nbd_client_put_request(stream, NBD_CMD_WRITE, 0, 5, 1000, 100);
    fill(stream + NBD_REQUEST_SIZE, 100, 5);
    for (unsigned i = 0; i < sizeof(stream); i++) {
        nbd_client_send(slow, stream + i, 1);
        g_assert_cmpuint(nbd_client_call(quick, NBD_CMD_READ, 0, 1000, 100, buf), ==, 0);
    }
    g_assert_true(nbd_client_reply(slow, &r, NULL, 0, 0));
    g_assert_cmpuint(r.error, ==, 0);
    g_assert_cmpuint(nbd_client_call(quick, NBD_CMD_READ, 0, 1000, 100, buf), ==, 0);
    g_assert_cmpmem(buf, 100, stream + NBD_REQUEST_SIZE, 100);
    nbd_client_close(slow);
    nbd_client_close(quick);
}

/* ---- ends of a connection ------------------------------------------- */

static void test_bad_magic(Fixture *f, gconstpointer data)
{
    NbdClient *c = client(f, "a", NBD_CLIENT_SIMPLE);
    uint8_t junk[NBD_REQUEST_SIZE] = "GET / HTTP/1.1\r\n\r\n";

    nbd_client_send(c, junk, sizeof(junk));
    g_assert_true(nbd_client_is_closed(c));
    nbd_client_close(c);
}

/* Hang up at every point of a write: nothing of it is written. */
static void test_hang_up_anywhere(Fixture *f, gconstpointer data)
{
    uint8_t stream[NBD_REQUEST_SIZE + 64], buf[64];
    NbdClient *c;

    nbd_client_put_request(stream, NBD_CMD_WRITE, 0, 5, 0, 64);
    memset(stream + NBD_REQUEST_SIZE, 0xaa, 64);
    for (unsigned cut = 0; cut < sizeof(stream); cut++) {
        c = client(f, "b", NBD_CLIENT_SIMPLE);
        nbd_client_send(c, stream, cut);
        nbd_client_close(c);
    }
    WAIT_UNTIL(nbd_server_connections(f->srv, "b") == 0);
    c = client(f, "b", NBD_CLIENT_SIMPLE);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 64, buf), ==, 0);
    for (unsigned i = 0; i < 64; i++) {
        g_assert_cmpuint(buf[i], ==, 0);
    }
    nbd_client_close(c);
}

static void test_disc(Fixture *f, gconstpointer data)
{
    NbdClient *c = client(f, "a", NBD_CLIENT_SIMPLE);
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

static void test_connection_count(Fixture *f, gconstpointer data)
{
    NbdClient *c[3];

    g_assert_cmpuint(nbd_server_connections(f->srv, "a"), ==, 0);
    for (unsigned i = 0; i < 3; i++) {
        c[i] = client(f, i == 2 ? "b" : "a", NBD_CLIENT_SIMPLE);
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

static void put_hook(Fixture *f, unsigned i, Holder *h)
{
    blk_drained_begin(&f->blk[i], 1);
    blk_set_write_hook(f->blk[i], h ? &holder_hook : NULL, h);
    blk_drained_end(&f->blk[i], 1);
}

/* Reads go on, on the same connection too, while writes are held. */
static void test_held_writes(Fixture *f, gconstpointer data)
{
    Holder h = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, true, 0 };
    NbdClient *c = client(f, "a", NBD_CLIENT_SIMPLE);
    uint8_t buf[512];
    NbdReply r;

    fill(buf, sizeof(buf), 1);
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

/* A drained drive with more requests than there are workers; the other drive
 * is served, with one worker in all as with many. */
static void test_drained_drive(Fixture *f, gconstpointer data)
{
    NbdClient *stuck[3], *other = client(f, "b", NBD_CLIENT_SIMPLE);
    uint8_t buf[512];
    NbdReply r;

    for (unsigned i = 0; i < 3; i++) {
        stuck[i] = client(f, "a", NBD_CLIENT_SIMPLE);
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
            NbdClient *c = client(f, "b", NBD_CLIENT_SIMPLE);

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
static void test_drop_clients(Fixture *f, gconstpointer data)
{
    Holder h = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, true, 0 };
    NbdClient *c = client(f, "a", NBD_CLIENT_SIMPLE), *idle, *b, *again;
    uint8_t buf[512] = { 3 };
    NbdReply r;

    idle = client(f, "a", NBD_CLIENT_SIMPLE);
    b = client(f, "b", NBD_CLIENT_SIMPLE);
    put_hook(f, 0, &h);
    nbd_client_request(c, NBD_CMD_WRITE, 0, 0, 512, buf);
    nbd_client_request(c, NBD_CMD_WRITE, 0, 1024, 512, buf);
    holder_wait(&h, 2);

    nbd_server_drop_clients(f->srv, "a");
    g_assert_true(nbd_client_is_closed(idle));
    WAIT_UNTIL(nbd_server_connections(f->srv, "a") == 0);
    again = client(f, "a", NBD_CLIENT_SIMPLE);
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

static void test_drop_under_load(Fixture *f, gconstpointer data)
{
    for (unsigned round = 0; round < 100; round++) {
        NbdClient *c = client(f, "a", NBD_CLIENT_STRUCTURED);
        uint8_t buf[4096];
        unsigned answered = 0;

        for (unsigned i = 0; i < 40; i++) {
            fill(buf, sizeof(buf), i);
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

static void test_remove(Fixture *f, gconstpointer data)
{
    NbdClient *a = client(f, "a", NBD_CLIENT_SIMPLE), *c;
    GError *err = NULL;

    nbd_server_remove(f->srv, "nothing");
    nbd_server_remove(f->srv, "a");
    g_assert_true(nbd_client_is_closed(a));
    nbd_client_close(a);
    c = nbd_client_connect(f->socket);
    g_assert_false(nbd_client_go(c, "a", NBD_CLIENT_SIMPLE));
    nbd_client_close(c);
    c = client(f, "", NBD_CLIENT_SIMPLE); /* the only one left is the default */
    g_assert_cmpuint(nbd_server_connections(f->srv, "b"), ==, 1);
    nbd_client_close(c);
    g_assert_true(nbd_server_add(f->srv, "a", f->blk[0], false, &err));
    c = nbd_client_connect(f->socket);
    g_assert_false(nbd_client_go(c, "", NBD_CLIENT_SIMPLE));
    nbd_client_close(c);
    nbd_client_close(client(f, "a", NBD_CLIENT_SIMPLE));
}

static void test_new_size_after_drop(Fixture *f, gconstpointer data)
{
    NbdClient *c = client(f, "a", NBD_CLIENT_SIMPLE);
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
    c = client(f, "a", NBD_CLIENT_SIMPLE);
    g_assert_cmpuint(c->size, ==, 2 * MiB);
    nbd_client_close(c);
}

static void test_empty_drive(Fixture *f, gconstpointer data)
{
    GError *err = NULL;
    uint8_t buf[512];
    NbdClient *c;

    blk_drained_begin(&f->blk[0], 1);
    blk_set_node(f->blk[0], NULL);
    blk_drained_end(&f->blk[0], 1);
    c = client(f, "a", NBD_CLIENT_ALLOCATION);
    g_assert_cmpuint(c->size, ==, 0);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), ==, NBD_EIO);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_FLUSH, 0, 0, 0, buf), ==, NBD_EIO);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_BLOCK_STATUS, 0, 0, 512, buf), ==,
                     NBD_EINVAL);
    nbd_client_close(c);
    g_assert_no_error(err);
}

/* ---- clients that do nothing ---------------------------------------- */

static void test_silent_clients(Fixture *f, gconstpointer data)
{
    NbdClient *silent[60], *c;
    uint8_t buf[512], part[5] = { 0, 0, 0, 3, 'I' };

    for (unsigned i = 0; i < 60; i++) {
        silent[i] = nbd_client_connect(f->socket);
        nbd_client_send(silent[i], part, i % 6);
    }
    c = client(f, "a", NBD_CLIENT_SIMPLE);
    for (unsigned i = 0; i < 20; i++) {
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), ==, 0);
    }
    nbd_client_close(c);
    for (unsigned i = 0; i < 60; i++) {
        nbd_client_close(silent[i]);
    }
}

/* All workers could be kept busy by clients in the middle of a request. */
static void test_clients_that_stop_in_the_middle(Fixture *f, gconstpointer data)
{
    uint8_t stream[NBD_REQUEST_SIZE + 10] = { 0 }, buf[512];
    NbdClient *stuck[20], *c;

    nbd_client_put_request(stream, NBD_CMD_WRITE, 0, 1, 0, 3 * MiB);
    for (unsigned i = 0; i < 20; i++) {
        stuck[i] = client(f, "a", NBD_CLIENT_SIMPLE);
        nbd_client_send(stuck[i], stream, i % 2 ? sizeof(stream) : 7);
    }
    c = client(f, "a", NBD_CLIENT_SIMPLE);
    for (unsigned i = 0; i < 20; i++) {
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), ==, 0);
    }
    nbd_client_close(c);
    for (unsigned i = 0; i < 20; i++) {
        nbd_client_close(stuck[i]);
    }
}

static void test_handshake_timeout(Fixture *f, gconstpointer data)
{
    NbdClient *c, *good;

    f->srv->handshake_us = 1;
    c = nbd_client_connect(f->socket);
    g_assert_true(nbd_client_is_closed(c));
    nbd_client_close(c);
    f->srv->handshake_us = 60 * G_USEC_PER_SEC;
    good = client(f, "a", NBD_CLIENT_SIMPLE);
    nbd_client_close(good);
}

static void test_too_many_connections(Fixture *f, gconstpointer data)
{
    NbdClient *c[NBD_MAX_CONNECTIONS + 1];
    uint8_t greeting[18];

    for (unsigned i = 0; i < NBD_MAX_CONNECTIONS; i++) {
        c[i] = nbd_client_connect(f->socket);
        g_assert_nonnull(c[i]);
        g_assert_true(nbd_client_recv(c[i], greeting, sizeof(greeting)));
    }
    c[NBD_MAX_CONNECTIONS] = nbd_client_connect(f->socket);
    g_assert_true(nbd_client_is_closed(c[NBD_MAX_CONNECTIONS]));
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
static void test_client_that_reads_nothing(Fixture *f, gconstpointer data)
{
    NbdClient *deaf = client(f, "a", NBD_CLIENT_SIMPLE);
    NbdClient *deaf2 = client(f, "a", NBD_CLIENT_SIMPLE);
    NbdClient *c = client(f, "b", NBD_CLIENT_SIMPLE);
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

static void test_peer(Fixture *f, gconstpointer data)
{
    NbdClient *c;

    nbd_server_allow_pid(f->srv, getpid() + 1);
    c = nbd_client_connect(f->socket);
    g_assert_true(nbd_client_is_closed(c));
    nbd_client_close(c);
    nbd_server_allow_pid(f->srv, getpid());
    nbd_client_close(client(f, "a", NBD_CLIENT_SIMPLE));
    nbd_server_allow_pid(f->srv, 0);
    nbd_client_close(client(f, "a", NBD_CLIENT_SIMPLE));
}

static void test_socket_file(Fixture *f, gconstpointer data)
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

static void test_names(Fixture *f, gconstpointer data)
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
    nbd_client_close(client(f, longest, NBD_CLIENT_SIMPLE));
    g_assert_null(nbd_server_new(0, &err));
    g_clear_error(&err);
    g_assert_null(nbd_server_new(257, &err));
    g_clear_error(&err);
}

/* ---- everything at once --------------------------------------------- */

typedef struct {
    Fixture *f;
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
            c = client(b->f, b->id % 2 ? "b" : "a", (NbdClientMode)(i % 2));
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
            fill(copy + at, len, g_rand_int(rand));
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

static void test_busy(Fixture *f, gconstpointer data)
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

#define ADD(name, fn) \
    g_test_add("/nbd/server/" name, Fixture, NULL, set_up, fn, tear_down)
#define ADD_WORKERS(name, n, fn)                                               \
    g_test_add("/nbd/server/" name "/workers-" #n, Fixture, GUINT_TO_POINTER(n), \
               set_up, fn, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("read-write", test_read_write);
    ADD("end-of-image", test_end_of_image);
    ADD("no-data", test_no_data);
    ADD("holes-in-reads", test_holes_in_reads);
    ADD("zeroes-trim-status", test_zeroes_trim_status);
    ADD("commands-not-agreed-on", test_commands_not_agreed_on);
    ADD("oversized-write", test_oversized_write);
    ADD("read-only", test_read_only);
    ADD("any-pieces", test_any_pieces);
    ADD_WORKERS("any-pieces", 1, test_any_pieces);
    ADD("byte-by-byte", test_byte_by_byte);
    ADD_WORKERS("byte-by-byte", 1, test_byte_by_byte);
    ADD("bad-magic", test_bad_magic);
    ADD("hang-up-anywhere", test_hang_up_anywhere);
    ADD("disc", test_disc);
    ADD("connection-count", test_connection_count);
    ADD("held-writes", test_held_writes);
    ADD("drained-drive", test_drained_drive);
    ADD_WORKERS("drained-drive", 1, test_drained_drive);
    ADD_WORKERS("drained-drive", 256, test_drained_drive);
    ADD("drop-clients", test_drop_clients);
    ADD("drop-under-load", test_drop_under_load);
    ADD("remove", test_remove);
    ADD("new-size-after-drop", test_new_size_after_drop);
    ADD("empty-drive", test_empty_drive);
    ADD("silent-clients", test_silent_clients);
    ADD_WORKERS("silent-clients", 1, test_silent_clients);
    ADD("stopped-in-the-middle", test_clients_that_stop_in_the_middle);
    ADD_WORKERS("stopped-in-the-middle", 1, test_clients_that_stop_in_the_middle);
    ADD("handshake-timeout", test_handshake_timeout);
    ADD("too-many-connections", test_too_many_connections);
    ADD("client-that-reads-nothing", test_client_that_reads_nothing);
    ADD_WORKERS("client-that-reads-nothing", 1, test_client_that_reads_nothing);
    ADD("peer", test_peer);
    ADD("socket-file", test_socket_file);
    g_test_add_func("/nbd/server/socket-addresses", test_socket_addresses);
    ADD("names", test_names);
    ADD("busy", test_busy);
    ADD_WORKERS("busy", 2, test_busy);
    return g_test_run();
}
