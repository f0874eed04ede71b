/*
 * The NBD server over real sockets and images: what it answers, however the
 * bytes come.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../block/nbd-internal.h"
#include "nbd-fixture.h"

/* ---- commands ------------------------------------------------------- */

static void test_read_write(NbdFixture *f, gconstpointer data)
{
    static const NbdClientMode modes[] = { NBD_CLIENT_SIMPLE, NBD_CLIENT_STRUCTURED };
    static const uint32_t lengths[] = { 1, 512, 4096, 4097, 65536, MiB,
                                        NBD_BUFFER_SIZE, NBD_BUFFER_SIZE + 1, 5 * MiB + 77 };
    g_autofree uint8_t *out = g_malloc(IMAGE_SIZE), *in = g_malloc(IMAGE_SIZE);

    for (unsigned m = 0; m < 2; m++) {
        NbdClient *c = nbd_fixture_client(f, "a", modes[m]);

        g_assert_cmpuint(c->size, ==, IMAGE_SIZE);
        for (unsigned i = 0; i < G_N_ELEMENTS(lengths); i++) {
            for (unsigned fua = 0; fua < 2; fua++) {
                uint64_t offset = 12345 * i;

                nbd_fill(out, lengths[i], i * 2 + fua + m * 100);
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

/* A write that goes in pieces is made durable by one flush at its end. */
static void test_long_write_with_fua(NbdFixture *f, gconstpointer data)
{
    g_autofree uint8_t *buf = g_malloc0(5 * MiB);
    NbdClient *c = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    BlockAcctStats stats;

    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, 0, 5 * MiB, buf), ==, 0);
    blk_get_stats(f->blk[0], &stats);
    g_assert_cmpuint(stats.flush_operations, ==, 0);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, 5 * MiB,
                                     buf), ==, 0);
    blk_get_stats(f->blk[0], &stats);
    g_assert_cmpuint(stats.flush_operations, ==, 1);
    g_assert_cmpuint(stats.wr_bytes, ==, 10 * MiB);
    nbd_client_close(c);
}

/* The last byte of the image, its end, and what lies beyond. */
static void test_end_of_image(NbdFixture *f, gconstpointer data)
{
    g_autofree uint8_t *buf = g_malloc0(4 * MiB);
    NbdClient *c = nbd_fixture_client(f, "a", NBD_CLIENT_ALLOCATION);
    uint64_t end = IMAGE_SIZE;

    buf[0] = 'x';
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, end - 1, 1, buf), ==, 0);
    buf[0] = 0;
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, end - 1, 2, buf), ==,
                     NBD_ENOSPC);
    memset(buf, 'y', 4 * MiB); /* in several pieces: none is written */
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, end - 3 * MiB, 4 * MiB, buf),
                     ==, NBD_ENOSPC);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, end - 3 * MiB, 1, buf), ==, 0);
    g_assert_cmpuint(buf[0], ==, 0);
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

static void test_no_data(NbdFixture *f, gconstpointer data)
{
    static const NbdClientMode modes[] = { NBD_CLIENT_SIMPLE, NBD_CLIENT_STRUCTURED };
    uint8_t buf[4];

    for (unsigned m = 0; m < 2; m++) {
        NbdClient *c = nbd_fixture_client(f, "a", modes[m]);

        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 5, 0, buf), ==, 0);
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, 5, 0, buf), ==, 0);
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_TRIM, 0, 5, 0, buf), ==, 0);
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE_ZEROES, 0, 5, 0, buf), ==, 0);
        g_assert_cmpuint(nbd_client_call(c, NBD_CMD_FLUSH, 0, 0, 0, buf), ==, 0);
        nbd_client_close(c);
    }
}

static void test_holes_in_reads(NbdFixture *f, gconstpointer data)
{
    g_autofree uint8_t *buf = g_malloc(IMAGE_SIZE), *want = g_malloc0(IMAGE_SIZE);
    NbdClient *c = nbd_fixture_client(f, "a", NBD_CLIENT_STRUCTURED);
    NbdReply r;

    nbd_client_request(c, NBD_CMD_READ, 0, 4096, 4096, NULL);
    g_assert_true(nbd_client_reply(c, &r, buf, 4096, 4096));
    g_assert_cmpuint(r.holes, ==, 1);
    g_assert_cmpuint(r.chunks, ==, 1);

    nbd_fill(want + 100000, 1, 7);
    nbd_fill(want + 300000, 200000, 8);
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

static void test_zeroes_trim_status(NbdFixture *f, gconstpointer data)
{
    g_autofree uint8_t *buf = g_malloc(IMAGE_SIZE);
    NbdClient *c = nbd_fixture_client(f, "a", NBD_CLIENT_ALLOCATION);
    NbdReply r;

    nbd_fill(buf, IMAGE_SIZE, 1);
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

static void test_commands_not_agreed_on(NbdFixture *f, gconstpointer data)
{
    NbdClient *c = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
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
static void test_oversized_write(NbdFixture *f, gconstpointer data)
{
    uint32_t length = NBD_MAX_PAYLOAD + 3 * MiB + 5;
    g_autofree uint8_t *big = g_malloc0(length);
    uint8_t buf[512];
    NbdClient *c = nbd_fixture_client(f, "a", NBD_CLIENT_STRUCTURED);

    memset(big, 1, length);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_WRITE, 0, 0, length, big), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, NBD_MAX_PAYLOAD + 1, buf),
                     ==, NBD_EINVAL);
    g_assert_cmpuint(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, buf), ==, 0);
    g_assert_cmpuint(buf[0], ==, 0);
    nbd_client_close(c);
}

static void test_read_only(NbdFixture *f, gconstpointer data)
{
    GError *err = NULL;
    uint8_t buf[512] = { 1 };
    NbdClient *c;

    g_assert_true(nbd_server_add(f->srv, "ro", f->blk[0], true, &err));
    c = nbd_fixture_client(f, "ro", NBD_CLIENT_ALLOCATION);
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
            nbd_fill(s->image + at, len, (guint32)cookie);
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

static void play(NbdFixture *f, unsigned max_piece, guint32 seed)
{
    g_autofree uint8_t *buf = g_malloc(IMAGE_SIZE);
    g_autofree Collector *x = g_new0(Collector, 1);
    GRand *rand = g_rand_new_with_seed(seed);
    uint8_t zero = 0;
    Script s = { 0 };
    GThread *t;
    guint pos = 0;

    make_script(&s, rand);
    x->c = nbd_fixture_client(f, "a", NBD_CLIENT_STRUCTURED);
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

static void test_any_pieces(NbdFixture *f, gconstpointer data)
{
    play(f, 300, 1);
    play(f, 5000, 2);
    play(f, 300000, 3);
    play(f, 8 * MiB, 4);
}

/* One byte a send, header and payload: nobody waits for it with a worker. */
static void test_byte_by_byte(NbdFixture *f, gconstpointer data)
{
    NbdClient *slow = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    NbdClient *quick = nbd_fixture_client(f, "a", NBD_CLIENT_SIMPLE);
    uint8_t stream[NBD_REQUEST_SIZE + 100], buf[100];
    NbdReply r;

    nbd_client_put_request(stream, NBD_CMD_WRITE, 0, 5, 1000, 100);
    nbd_fill(stream + NBD_REQUEST_SIZE, 100, 5);
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

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    NBD_TEST("request/read-write", test_read_write);
    NBD_TEST("request/long-write-with-fua", test_long_write_with_fua);
    NBD_TEST("request/end-of-image", test_end_of_image);
    NBD_TEST("request/no-data", test_no_data);
    NBD_TEST("request/holes-in-reads", test_holes_in_reads);
    NBD_TEST("request/zeroes-trim-status", test_zeroes_trim_status);
    NBD_TEST("request/commands-not-agreed-on", test_commands_not_agreed_on);
    NBD_TEST("request/oversized-write", test_oversized_write);
    NBD_TEST("request/read-only", test_read_only);
    NBD_TEST("request/any-pieces", test_any_pieces);
    NBD_TEST_WORKERS("request/any-pieces", 1, test_any_pieces);
    NBD_TEST("request/byte-by-byte", test_byte_by_byte);
    NBD_TEST_WORKERS("request/byte-by-byte", 1, test_byte_by_byte);
    return g_test_run();
}
