/*
 * NBD on the wire: requests and the handshake as functions over bytes, fed
 * whole, byte by byte, cut short and at random.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../block/nbd-negotiate.h"

#include <errno.h>

/* ---- requests ------------------------------------------------------- */

static NbdRequest request(uint16_t type, uint16_t flags, uint64_t offset,
                          uint32_t length)
{
    return (NbdRequest){ .type = type, .flags = flags, .cookie = 1,
                         .offset = offset, .length = length };
}

static uint32_t check(NbdRequest req, NbdSession s, uint64_t size)
{
    return nbd_request_check(&req, &s, size);
}

static const NbdSession all = { .structured = true, .base_allocation = true };

static void test_decode(void)
{
    static const uint8_t good[NBD_REQUEST_SIZE] = {
        0x25, 0x60, 0x95, 0x13, 0x00, 0x03, 0x00, 0x06,
        1, 2, 3, 4, 5, 6, 7, 8,
        0x80, 0, 0, 0, 0, 0, 0, 9,
        0xff, 0xff, 0xff, 0xfe,
    };
    uint8_t bad[NBD_REQUEST_SIZE];
    NbdRequest req;

    g_assert_true(nbd_request_decode(good, &req));
    g_assert_cmpuint(req.flags, ==, 3);
    g_assert_cmpuint(req.type, ==, NBD_CMD_WRITE_ZEROES);
    g_assert_cmphex(req.cookie, ==, 0x0102030405060708);
    g_assert_cmphex(req.offset, ==, 0x8000000000000009);
    g_assert_cmphex(req.length, ==, 0xfffffffe);
    for (unsigned i = 0; i < 32; i++) { /* any bit of the magic */
        memcpy(bad, good, sizeof(bad));
        bad[i / 8] ^= (uint8_t)(1 << i % 8);
        g_assert_false(nbd_request_decode(bad, &req));
    }
}

static void test_payload(void)
{
    for (unsigned type = 0; type < 70000; type += 1 + (type > 300) * 97) {
        NbdRequest req = request((uint16_t)type, 0, 0, 4242);

        g_assert_cmpuint(nbd_request_payload(&req), ==,
                         (uint16_t)type == NBD_CMD_WRITE ? 4242 : 0);
    }
}

static void test_check_range(void)
{
    static const uint16_t types[] = {
        NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_CACHE,
        NBD_CMD_WRITE_ZEROES, NBD_CMD_BLOCK_STATUS,
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
        uint16_t t = types[i];
        uint32_t beyond = t == NBD_CMD_WRITE || t == NBD_CMD_WRITE_ZEROES
                              ? NBD_ENOSPC : NBD_EINVAL;

        g_assert_cmpuint(check(request(t, 0, 0, 1000), all, 1000), ==, 0);
        g_assert_cmpuint(check(request(t, 0, 999, 1), all, 1000), ==, 0);
        g_assert_cmpuint(check(request(t, 0, 999, 2), all, 1000), ==, beyond);
        g_assert_cmpuint(check(request(t, 0, 1000, 1), all, 1000), ==, beyond);
        g_assert_cmpuint(check(request(t, 0, 1001, 1), all, 1000), ==, beyond);
        /* offset + length wraps */
        g_assert_cmpuint(check(request(t, 0, UINT64_MAX, 1), all, 1000), ==, beyond);
        g_assert_cmpuint(check(request(t, 0, UINT64_MAX - 5, 10), all, INT64_MAX),
                         ==, beyond);
        g_assert_cmpuint(check(request(t, 0, 1ULL << 63, 1), all, INT64_MAX), ==,
                         beyond);
        /* nothing at the end is allowed, but there is no status of nothing */
        g_assert_cmpuint(check(request(t, 0, 1000, 0), all, 1000), ==,
                         t == NBD_CMD_BLOCK_STATUS ? NBD_EINVAL : 0);
    }
}

static void test_check_length(void)
{
    uint64_t size = 1ULL << 40;

    g_assert_cmpuint(check(request(NBD_CMD_READ, 0, 0, NBD_MAX_PAYLOAD), all, size),
                     ==, 0);
    g_assert_cmpuint(check(request(NBD_CMD_READ, 0, 0, NBD_MAX_PAYLOAD + 1), all,
                           size), ==, NBD_EINVAL);
    g_assert_cmpuint(check(request(NBD_CMD_WRITE, 0, 0, NBD_MAX_PAYLOAD), all, size),
                     ==, 0);
    g_assert_cmpuint(check(request(NBD_CMD_WRITE, 0, 0, UINT32_MAX), all, size), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(check(request(NBD_CMD_READ, NBD_CMD_FLAG_DF, 0,
                                   NBD_MAX_UNFRAGMENTED + 1), all, size), ==,
                     NBD_EOVERFLOW);
    /* What carries no data may cover anything. */
    g_assert_cmpuint(check(request(NBD_CMD_TRIM, 0, 0, UINT32_MAX), all, size), ==, 0);
    g_assert_cmpuint(check(request(NBD_CMD_WRITE_ZEROES, 0, 0, UINT32_MAX), all,
                           size), ==, 0);
    g_assert_cmpuint(check(request(NBD_CMD_BLOCK_STATUS, 0, 0, UINT32_MAX), all,
                           size), ==, 0);
    g_assert_cmpuint(check(request(NBD_CMD_CACHE, 0, 0, UINT32_MAX), all, size), ==,
                     0);
}

static void test_check_flags(void)
{
    static const uint16_t allowed[] = {
        [NBD_CMD_READ] = NBD_CMD_FLAG_DF,
        [NBD_CMD_WRITE] = 0,
        [NBD_CMD_DISC] = 0,
        [NBD_CMD_FLUSH] = 0,
        [NBD_CMD_TRIM] = 0,
        [NBD_CMD_CACHE] = 0,
        [NBD_CMD_WRITE_ZEROES] = NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
        [NBD_CMD_BLOCK_STATUS] = NBD_CMD_FLAG_REQ_ONE,
    };

    for (uint16_t t = 0; t < G_N_ELEMENTS(allowed); t++) {
        for (unsigned bit = 0; bit < 16; bit++) {
            uint16_t flag = (uint16_t)(1U << bit);
            bool ok = flag & (allowed[t] | NBD_CMD_FLAG_FUA);

            g_assert_cmpuint(check(request(t, flag, 0, 1), all, 10), ==,
                             ok ? 0 : NBD_EINVAL);
        }
    }
}

static void test_check_session(void)
{
    NbdSession simple = { 0 }, ro = { .structured = true, .read_only = true };

    g_assert_cmpuint(check(request(NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 1), simple, 10),
                     ==, NBD_EINVAL);
    g_assert_cmpuint(check(request(NBD_CMD_BLOCK_STATUS, 0, 0, 1), ro, 10), ==,
                     NBD_EINVAL);
    g_assert_cmpuint(check(request(NBD_CMD_WRITE, 0, 0, 1), ro, 10), ==, NBD_EPERM);
    g_assert_cmpuint(check(request(NBD_CMD_WRITE, 0, 99, 1), ro, 10), ==, NBD_EPERM);
    g_assert_cmpuint(check(request(NBD_CMD_TRIM, 0, 0, 1), ro, 10), ==, NBD_EPERM);
    g_assert_cmpuint(check(request(NBD_CMD_WRITE_ZEROES, 0, 0, 1), ro, 10), ==,
                     NBD_EPERM);
    g_assert_cmpuint(check(request(NBD_CMD_READ, 0, 0, 1), ro, 10), ==, 0);
    g_assert_cmpuint(check(request(NBD_CMD_FLUSH, 0, 0, 0), ro, 10), ==, 0);
}

static void test_unknown_commands(void)
{
    for (unsigned t = 8; t < 65536; t++) {
        g_assert_cmpuint(check(request((uint16_t)t, 0, 0, 0), all, 10), ==,
                         NBD_EINVAL);
    }
}

/* The protocol knows nine error numbers; no errno may become anything else. */
static void test_errno(void)
{
    static const uint32_t known[] = { 1, 5, 12, 22, 28, 75, 95, 108 };

    for (int e = 1; e < 4096; e++) {
        uint32_t error = nbd_errno(e);
        bool found = false;

        for (unsigned i = 0; i < G_N_ELEMENTS(known); i++) {
            found |= known[i] == error;
        }
        g_assert_true(found);
    }
    g_assert_cmpuint(nbd_errno(0), ==, 0);
    g_assert_cmpuint(nbd_errno(EROFS), ==, NBD_EPERM);
    g_assert_cmpuint(nbd_errno(EDQUOT), ==, NBD_ENOSPC);
    g_assert_cmpuint(nbd_errno(ENOMEDIUM), ==, NBD_EIO);
    g_assert_cmpuint(nbd_errno(EOPNOTSUPP), ==, NBD_ENOTSUP);
}

static void test_replies(void)
{
    uint8_t b[NBD_ERROR_CHUNK_MAX];

    g_assert_cmpuint(nbd_put_simple_reply(b, 0x1122334455667788, 5), ==, 16);
    g_assert_cmphex(nbd_get32(b), ==, 0x67446698);
    g_assert_cmpuint(nbd_get32(b + 4), ==, 5);
    g_assert_cmphex(nbd_get64(b + 8), ==, 0x1122334455667788);

    g_assert_cmpuint(nbd_put_data_chunk(b, 7, 1, 4096, 512), ==, 28);
    g_assert_cmphex(nbd_get32(b), ==, 0x668e33ef);
    g_assert_cmpuint(nbd_get16(b + 4), ==, 1);
    g_assert_cmpuint(nbd_get16(b + 6), ==, NBD_REPLY_TYPE_OFFSET_DATA);
    g_assert_cmpuint(nbd_get64(b + 8), ==, 7);
    g_assert_cmpuint(nbd_get32(b + 16), ==, 520);
    g_assert_cmpuint(nbd_get64(b + 20), ==, 4096);

    g_assert_cmpuint(nbd_put_hole_chunk(b, 7, 0, 4096, 512), ==, 32);
    g_assert_cmpuint(nbd_get32(b + 16), ==, 12);
    g_assert_cmpuint(nbd_get32(b + 28), ==, 512);

    for (uint32_t e = 1; e < 200; e++) {
        size_t n = nbd_put_error_chunk(b, 7, e);

        g_assert_cmpuint(n, <=, sizeof(b));
        g_assert_cmpuint(n, ==, 20 + nbd_get32(b + 16));
        g_assert_cmpuint(nbd_get32(b + 20), ==, e);
        g_assert_cmpuint(nbd_get16(b + 24), ==, n - 26);
    }
}

/* ---- handshake ------------------------------------------------------ */

static bool fake_find(void *opaque, const char *name, NbdExportInfo *info)
{
    *info = (NbdExportInfo){ 12345, NBD_FLAG_HAS_FLAGS, 1, 4096, 65536 };
    if (strcmp(name, "ro") == 0) {
        info->flags |= NBD_FLAG_READ_ONLY;
        return true;
    }
    return strcmp(name, "disk") == 0 || *name == '\0';
}

static void fake_list(void *opaque, void (*fn)(void *o, const char *name), void *o)
{
    fn(o, "disk");
    fn(o, "ro");
}

static const NbdNegotiateOps fake_ops = { fake_find, fake_list };

typedef struct {
    NbdNegotiation n;
    GByteArray *out, *in;
    size_t pos; /* in `out': what was looked at */
    NbdNegotiateResult result;
} Hand;

static void put16(GByteArray *b, uint16_t v)
{
    uint8_t x[2];

    nbd_put16(x, v);
    g_byte_array_append(b, x, 2);
}

static void put32(GByteArray *b, uint32_t v)
{
    uint8_t x[4];

    nbd_put32(x, v);
    g_byte_array_append(b, x, 4);
}

static void put64(GByteArray *b, uint64_t v)
{
    uint8_t x[8];

    nbd_put64(x, v);
    g_byte_array_append(b, x, 8);
}

static void put_str(GByteArray *b, const char *s)
{
    put32(b, (uint32_t)strlen(s));
    g_byte_array_append(b, (const uint8_t *)s, (guint)strlen(s));
}

static Hand *hand_new_flags(uint32_t client_flags)
{
    Hand *h = g_new0(Hand, 1);

    h->in = g_byte_array_new();
    h->out = g_byte_array_new();
    nbd_negotiate_init(&h->n, &fake_ops, NULL, h->out);
    g_assert_cmpuint(h->out->len, ==, 18);
    g_assert_cmphex(nbd_get64(h->out->data), ==, NBD_MAGIC);
    g_assert_cmphex(nbd_get64(h->out->data + 8), ==, NBD_OPTION_MAGIC);
    g_assert_cmpuint(nbd_get16(h->out->data + 16), ==, 3);
    h->pos = 18;
    put32(h->in, client_flags);
    return h;
}

static Hand *hand_new(void)
{
    return hand_new_flags(3);
}

static void hand_free(Hand *h)
{
    nbd_negotiate_clear(&h->n);
    g_byte_array_unref(h->in);
    g_byte_array_unref(h->out);
    g_free(h);
}

/* Feed what has been put into `in'. */
static NbdNegotiateResult hand_feed(Hand *h)
{
    size_t used;

    h->result = nbd_negotiate_feed(&h->n, h->in->data, h->in->len, &used, h->out);
    g_byte_array_remove_range(h->in, 0, (guint)used);
    return h->result;
}

static void option_head(Hand *h, uint32_t option, uint32_t len)
{
    put64(h->in, NBD_OPTION_MAGIC);
    put32(h->in, option);
    put32(h->in, len);
}

static void option(Hand *h, uint32_t opt, GByteArray *data)
{
    option_head(h, opt, data ? data->len : 0);
    if (data) {
        g_byte_array_append(h->in, data->data, data->len);
        g_byte_array_unref(data);
    }
    hand_feed(h);
}

/* Take the next reply; its data at *data. */
static uint32_t reply(Hand *h, uint32_t opt, const uint8_t **data, uint32_t *len)
{
    const uint8_t *p = h->out->data + h->pos;
    uint32_t n;

    g_assert_cmpuint(h->out->len - h->pos, >=, 20);
    g_assert_cmphex(nbd_get64(p), ==, NBD_OPTION_REPLY_MAGIC);
    g_assert_cmpuint(nbd_get32(p + 8), ==, opt);
    n = nbd_get32(p + 16);
    g_assert_cmpuint(h->out->len - h->pos, >=, 20 + n);
    h->pos += 20 + n;
    if (data) {
        *data = p + 20;
        *len = n;
    }
    return nbd_get32(p + 12);
}

static void silent(Hand *h)
{
    g_assert_cmpuint(h->pos, ==, h->out->len);
}

static GByteArray *go_data(const char *name, unsigned n, const uint16_t *infos)
{
    GByteArray *b = g_byte_array_new();

    put_str(b, name);
    put16(b, (uint16_t)n);
    for (unsigned i = 0; i < n; i++) {
        put16(b, infos[i]);
    }
    return b;
}

static GByteArray *meta_data(const char *name, unsigned n, const char *const *q)
{
    GByteArray *b = g_byte_array_new();

    put_str(b, name);
    put32(b, n);
    for (unsigned i = 0; i < n; i++) {
        put_str(b, q[i]);
    }
    return b;
}

static void test_client_flags(void)
{
    static const uint32_t bad[] = { 0, 2, 4, 5, 7, 0x80000001, 0xffffffff };
    Hand *h;

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        h = hand_new_flags(bad[i]);
        g_assert_cmpint(hand_feed(h), ==, NBD_NEGOTIATE_CLOSE);
        silent(h);
        hand_free(h);
    }
    h = hand_new_flags(1);
    g_assert_cmpint(hand_feed(h), ==, NBD_NEGOTIATE_MORE);
    hand_free(h);
}

static void test_go(void)
{
    static const uint16_t wishes[] = { 3, 1, 2, 3, 3, 999, 0, 1 };
    const uint8_t *d;
    uint32_t len;
    Hand *h = hand_new();

    option(h, NBD_OPT_STRUCTURED_REPLY, NULL);
    g_assert_cmphex(reply(h, 8, NULL, NULL), ==, NBD_REP_ACK);
    option(h, NBD_OPT_GO, go_data("disk", G_N_ELEMENTS(wishes), wishes));
    g_assert_cmphex(reply(h, 7, &d, &len), ==, NBD_REP_INFO);
    g_assert_cmpuint(len, ==, 6); /* the name */
    g_assert_cmpuint(nbd_get16(d), ==, 1);
    g_assert_cmpmem(d + 2, 4, "disk", 4);
    g_assert_cmphex(reply(h, 7, &d, &len), ==, NBD_REP_INFO);
    g_assert_cmpuint(len, ==, 14); /* block sizes */
    g_assert_cmpuint(nbd_get16(d), ==, 3);
    g_assert_cmpuint(nbd_get32(d + 2), ==, 1);
    g_assert_cmpuint(nbd_get32(d + 6), ==, 4096);
    g_assert_cmpuint(nbd_get32(d + 10), ==, 65536);
    g_assert_cmphex(reply(h, 7, &d, &len), ==, NBD_REP_INFO);
    g_assert_cmpuint(len, ==, 12); /* the export */
    g_assert_cmpuint(nbd_get16(d), ==, 0);
    g_assert_cmpuint(nbd_get64(d + 2), ==, 12345);
    g_assert_cmphex(nbd_get16(d + 10), ==, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_DF);
    g_assert_cmphex(reply(h, 7, NULL, NULL), ==, NBD_REP_ACK);
    silent(h);
    g_assert_cmpint(h->result, ==, NBD_NEGOTIATE_DONE);
    g_assert_cmpstr(h->n.name, ==, "disk");
    g_assert_true(h->n.session.structured);
    g_assert_false(h->n.session.base_allocation);
    g_assert_false(h->n.session.read_only);
    hand_free(h);
}

static void test_info_and_go_read_only(void)
{
    Hand *h = hand_new();

    option(h, NBD_OPT_INFO, go_data("ro", 0, NULL));
    g_assert_cmphex(reply(h, 6, NULL, NULL), ==, NBD_REP_INFO);
    g_assert_cmphex(reply(h, 6, NULL, NULL), ==, NBD_REP_ACK);
    g_assert_cmpint(h->result, ==, NBD_NEGOTIATE_MORE);
    option(h, NBD_OPT_GO, go_data("nothing", 0, NULL));
    g_assert_cmphex(reply(h, 7, NULL, NULL), ==, NBD_REP_ERR_UNKNOWN);
    option(h, NBD_OPT_GO, go_data("ro", 0, NULL));
    g_assert_cmpint(h->result, ==, NBD_NEGOTIATE_DONE);
    g_assert_true(h->n.session.read_only);
    g_assert_false(h->n.session.structured);
    hand_free(h);
}

/* Every length inside INFO and GO, wrong by anything. */
static void test_go_lengths(void)
{
    for (unsigned cut = 0; cut < 20; cut++) {
        static const uint16_t wish = 3;
        GByteArray *b = go_data("disk", 1, &wish);
        Hand *h = hand_new();

        if (cut < b->len) {
            g_byte_array_set_size(b, cut);
        } else {
            put16(b, 0);
        }
        option(h, NBD_OPT_GO, b);
        g_assert_cmphex(reply(h, 7, NULL, NULL), ==, NBD_REP_ERR_INVALID);
        g_assert_cmpint(h->result, ==, NBD_NEGOTIATE_MORE);
        hand_free(h);
    }
    for (unsigned i = 0; i < 2; i++) {
        GByteArray *b = go_data("disk", 0, NULL);
        Hand *h = hand_new();

        nbd_put32(b->data, i ? 0xffffffff : 5); /* the name's length */
        option(h, NBD_OPT_INFO, b);
        g_assert_cmphex(reply(h, 6, NULL, NULL), ==, NBD_REP_ERR_INVALID);
        option(h, NBD_OPT_GO, go_data("disk", 0, NULL)); /* still in step */
        g_assert_cmpint(h->result, ==, NBD_NEGOTIATE_DONE);
        hand_free(h);
    }
}

static void test_name_with_nul(void)
{
    GByteArray *b = go_data("disk", 0, NULL);
    Hand *h = hand_new();

    b->data[6] = 0; /* "di\0k" must not pass for "di" or anything else */
    option(h, NBD_OPT_GO, b);
    g_assert_cmphex(reply(h, 7, NULL, NULL), ==, NBD_REP_ERR_INVALID);
    hand_free(h);
}

static void test_export_name(void)
{
    Hand *h = hand_new_flags(1); /* with the 124 zeroes */

    option_head(h, NBD_OPT_EXPORT_NAME, 4);
    g_byte_array_append(h->in, (const uint8_t *)"disk", 4);
    g_assert_cmpint(hand_feed(h), ==, NBD_NEGOTIATE_DONE);
    g_assert_cmpuint(h->out->len - h->pos, ==, 8 + 2 + 124);
    g_assert_cmpuint(nbd_get64(h->out->data + h->pos), ==, 12345);
    hand_free(h);

    h = hand_new();
    option_head(h, NBD_OPT_EXPORT_NAME, 0); /* the default export */
    g_assert_cmpint(hand_feed(h), ==, NBD_NEGOTIATE_DONE);
    g_assert_cmpuint(h->out->len - h->pos, ==, 8 + 2);
    hand_free(h);

    h = hand_new();
    option_head(h, NBD_OPT_EXPORT_NAME, 3);
    g_byte_array_append(h->in, (const uint8_t *)"not", 3);
    g_assert_cmpint(hand_feed(h), ==, NBD_NEGOTIATE_CLOSE);
    silent(h);
    hand_free(h);

    h = hand_new(); /* refused before the name has come */
    option_head(h, NBD_OPT_EXPORT_NAME, 4097);
    g_assert_cmpint(hand_feed(h), ==, NBD_NEGOTIATE_CLOSE);
    hand_free(h);
}

static void test_list(void)
{
    GByteArray *junk = g_byte_array_new();
    const uint8_t *d;
    uint32_t len;
    Hand *h = hand_new();

    option(h, NBD_OPT_LIST, NULL);
    g_assert_cmphex(reply(h, 3, &d, &len), ==, NBD_REP_SERVER);
    g_assert_cmpuint(len, ==, 8);
    g_assert_cmpmem(d, 8, "\0\0\0\4disk", 8);
    g_assert_cmphex(reply(h, 3, NULL, NULL), ==, NBD_REP_SERVER);
    g_assert_cmphex(reply(h, 3, NULL, NULL), ==, NBD_REP_ACK);
    put32(junk, 0);
    option(h, NBD_OPT_LIST, junk);
    g_assert_cmphex(reply(h, 3, NULL, NULL), ==, NBD_REP_ERR_INVALID);
    silent(h);
    hand_free(h);
}

static void test_unknown_tls_abort(void)
{
    GByteArray *data = g_byte_array_new();
    Hand *h = hand_new();

    put64(data, 42);
    option(h, 77, data);
    g_assert_cmphex(reply(h, 77, NULL, NULL), ==, NBD_REP_ERR_UNSUP);
    option(h, 4, NULL); /* PEEK_EXPORT was never finished */
    g_assert_cmphex(reply(h, 4, NULL, NULL), ==, NBD_REP_ERR_UNSUP);
    option(h, 11, NULL); /* EXTENDED_HEADERS */
    g_assert_cmphex(reply(h, 11, NULL, NULL), ==, NBD_REP_ERR_UNSUP);
    option(h, NBD_OPT_STARTTLS, NULL);
    g_assert_cmphex(reply(h, 5, NULL, NULL), ==, NBD_REP_ERR_POLICY);
    option(h, NBD_OPT_ABORT, NULL);
    g_assert_cmphex(reply(h, 2, NULL, NULL), ==, NBD_REP_ACK);
    g_assert_cmpint(h->result, ==, NBD_NEGOTIATE_CLOSE);
    hand_free(h);
}

static void test_bad_magic(void)
{
    Hand *h = hand_new();

    put64(h->in, NBD_OPTION_MAGIC ^ 1);
    put32(h->in, NBD_OPT_LIST);
    put32(h->in, 0);
    g_assert_cmpint(hand_feed(h), ==, NBD_NEGOTIATE_CLOSE);
    silent(h);
    hand_free(h);
}

static void test_long_options(void)
{
    static const uint32_t lengths[] = { NBD_MAX_OPTION + 1, 1000000 };
    static const uint32_t opts[] = { 3, 6, 7, 8, 9, 10, 5, 99 };

    for (unsigned i = 0; i < G_N_ELEMENTS(opts) * 2; i++) {
        uint32_t left = lengths[i % 2], opt = opts[i / 2];
        Hand *h = hand_new();

        option_head(h, opt, left);
        while (left > 0) {
            uint32_t now = MIN(left, 4000);

            g_byte_array_set_size(h->in, h->in->len + now);
            silent(h);
            g_assert_cmpint(hand_feed(h), ==, NBD_NEGOTIATE_MORE);
            g_assert_cmpuint(h->in->len, ==, 0); /* nothing is stored */
            left -= now;
        }
        g_assert_cmphex(reply(h, opt, NULL, NULL), ==,
                        opt == 5 ? NBD_REP_ERR_POLICY
                                 : opt == 99 ? NBD_REP_ERR_UNSUP
                                             : NBD_REP_ERR_TOO_BIG);
        option(h, NBD_OPT_GO, go_data("disk", 0, NULL));
        g_assert_cmpint(h->result, ==, NBD_NEGOTIATE_DONE);
        hand_free(h);
    }
}

static void test_meta_context(void)
{
    static const char *const ours[] = { "x:y", "base:allocation", "base:allocation" };
    static const char *const other[] = { "qemu:dirty-bitmap:b", "base:" };
    const uint8_t *d;
    uint32_t len;
    Hand *h = hand_new();

    option(h, NBD_OPT_SET_META_CONTEXT, meta_data("disk", 3, ours));
    g_assert_cmphex(reply(h, 10, NULL, NULL), ==, NBD_REP_ERR_INVALID);
    option(h, NBD_OPT_STRUCTURED_REPLY, NULL);
    reply(h, 8, NULL, NULL);

    option(h, NBD_OPT_LIST_META_CONTEXT, meta_data("disk", 0, NULL));
    g_assert_cmphex(reply(h, 9, &d, &len), ==, NBD_REP_META_CONTEXT);
    g_assert_cmpuint(len, ==, 4 + 15);
    g_assert_cmphex(reply(h, 9, NULL, NULL), ==, NBD_REP_ACK);
    option(h, NBD_OPT_LIST_META_CONTEXT, meta_data("disk", 2, other));
    g_assert_cmphex(reply(h, 9, NULL, NULL), ==, NBD_REP_META_CONTEXT);
    g_assert_cmphex(reply(h, 9, NULL, NULL), ==, NBD_REP_ACK);
    option(h, NBD_OPT_LIST_META_CONTEXT, meta_data("disk", 1, other));
    g_assert_cmphex(reply(h, 9, NULL, NULL), ==, NBD_REP_ACK);

    option(h, NBD_OPT_SET_META_CONTEXT, meta_data("disk", 2, other)); /* none */
    g_assert_cmphex(reply(h, 10, NULL, NULL), ==, NBD_REP_ACK);
    option(h, NBD_OPT_SET_META_CONTEXT, meta_data("nothing", 3, ours));
    g_assert_cmphex(reply(h, 10, NULL, NULL), ==, NBD_REP_ERR_UNKNOWN);
    option(h, NBD_OPT_SET_META_CONTEXT, meta_data("disk", 3, ours)); /* once */
    g_assert_cmphex(reply(h, 10, &d, &len), ==, NBD_REP_META_CONTEXT);
    g_assert_cmpuint(nbd_get32(d), ==, NBD_CONTEXT_ID);
    g_assert_cmpmem(d + 4, len - 4, "base:allocation", 15);
    g_assert_cmphex(reply(h, 10, NULL, NULL), ==, NBD_REP_ACK);
    silent(h);
    option(h, NBD_OPT_GO, go_data("disk", 0, NULL));
    g_assert_true(h->n.session.base_allocation);
    hand_free(h);
}

/* A context counts only for the export that it was asked for, and a later SET
 * undoes an earlier one even when it fails. */
static void test_meta_context_lost(void)
{
    static const char *const ours[] = { "base:allocation" };

    for (unsigned i = 0; i < 3; i++) {
        Hand *h = hand_new();
        GByteArray *bad = meta_data("disk", 1, ours);

        option(h, NBD_OPT_STRUCTURED_REPLY, NULL);
        option(h, NBD_OPT_SET_META_CONTEXT, meta_data("disk", 1, ours));
        if (i == 1) {
            g_byte_array_set_size(bad, bad->len - 1);
            option(h, NBD_OPT_SET_META_CONTEXT, bad);
        } else if (i == 2) {
            option(h, NBD_OPT_SET_META_CONTEXT, meta_data("disk", 0, NULL));
        }
        option(h, NBD_OPT_GO, go_data(i == 0 ? "ro" : "disk", 0, NULL));
        g_assert_cmpint(h->result, ==, NBD_NEGOTIATE_DONE);
        g_assert_false(h->n.session.base_allocation);
        if (i != 1) {
            g_byte_array_unref(bad);
        }
        hand_free(h);
    }
}

static void test_meta_context_lengths(void)
{
    static const char *const q[] = { "base:allocation", "other" };
    unsigned whole;

    for (unsigned cut = 0;; cut++) {
        GByteArray *b = meta_data("disk", 2, q);
        Hand *h = hand_new();

        whole = b->len;
        g_byte_array_set_size(b, cut);
        option(h, NBD_OPT_STRUCTURED_REPLY, NULL);
        reply(h, 8, NULL, NULL);
        option(h, NBD_OPT_LIST_META_CONTEXT, b);
        g_assert_cmphex(reply(h, 9, NULL, NULL), ==,
                        cut == whole ? NBD_REP_META_CONTEXT : NBD_REP_ERR_INVALID);
        hand_free(h);
        if (cut == whole) {
            break;
        }
    }
}

/* A client that asks and asks but does not read is made to wait. */
static void test_output_is_bounded(void)
{
    Hand *h = hand_new();
    unsigned rounds = 0;

    for (unsigned i = 0; i < 40000; i++) {
        option_head(h, NBD_OPT_LIST, 0);
    }
    hand_feed(h);
    while (h->in->len > 0) {
        g_assert_cmpuint(h->out->len, <=, NBD_NEGOTIATE_OUT_HIGH + 100);
        g_byte_array_set_size(h->out, 0);
        g_assert_cmpint(hand_feed(h), ==, NBD_NEGOTIATE_MORE);
        rounds++;
    }
    g_assert_cmpuint(rounds, >, 1);
    hand_free(h);
}

/* A handshake with everything in it, as bytes. */
static GByteArray *long_handshake(void)
{
    static const char *const q[] = { "base:allocation" };
    static const uint16_t wish = 3;
    Hand *h = hand_new();
    GByteArray *b;

    h->n.state = NBD_NEGOTIATE_IN_CLOSED; /* so that `in' only grows */
    option(h, 4711, go_data("x", 0, NULL));
    option(h, NBD_OPT_LIST, NULL);
    option(h, NBD_OPT_STRUCTURED_REPLY, NULL);
    option(h, NBD_OPT_INFO, go_data("nothing", 1, &wish));
    option(h, NBD_OPT_SET_META_CONTEXT, meta_data("disk", 1, q));
    option(h, NBD_OPT_GO, go_data("disk", 1, &wish));
    b = g_byte_array_ref(h->in);
    hand_free(h);
    return b;
}

/* However the bytes are cut, the answers are the same. */
static void test_any_pieces(void)
{
    g_autoptr(GByteArray) whole = long_handshake();
    g_autoptr(GByteArray) want = NULL;

    for (unsigned piece = whole->len; piece >= 1; piece--) {
        Hand *h = hand_new();
        guint fed = 0;

        g_byte_array_set_size(h->in, 0);
        while (h->result != NBD_NEGOTIATE_DONE) {
            guint now = MIN(piece, whole->len - fed);

            g_assert_cmpuint(now, >, 0);
            g_byte_array_append(h->in, whole->data + fed, now);
            fed += now;
            g_assert_cmpint(hand_feed(h), !=, NBD_NEGOTIATE_CLOSE);
        }
        g_assert_cmpuint(fed, ==, whole->len);
        g_assert_true(h->n.session.base_allocation);
        if (!want) {
            want = g_byte_array_ref(h->out);
        }
        g_assert_cmpmem(h->out->data, h->out->len, want->data, want->len);
        hand_free(h);
    }
}

/* Flip bytes at random: it ends in one of the three ways, in bounded memory. */
static void test_random(void)
{
    g_autoptr(GByteArray) whole = long_handshake();

    for (unsigned round = 0; round < 20000; round++) {
        Hand *h = hand_new();
        unsigned flips = (unsigned)g_test_rand_int_range(1, 5);

        g_byte_array_set_size(h->in, 0);
        g_byte_array_append(h->in, whole->data, whole->len);
        while (flips--) {
            gint32 at = g_test_rand_int_range(4, (gint32)whole->len);

            h->in->data[at] = (uint8_t)g_test_rand_int();
        }
        hand_feed(h);
        g_assert_cmpuint(h->out->len, <, NBD_NEGOTIATE_OUT_HIGH);
        if (h->result == NBD_NEGOTIATE_DONE) {
            g_assert_nonnull(h->n.name);
        }
        hand_free(h);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd/request/decode", test_decode);
    g_test_add_func("/nbd/request/payload", test_payload);
    g_test_add_func("/nbd/request/range", test_check_range);
    g_test_add_func("/nbd/request/length", test_check_length);
    g_test_add_func("/nbd/request/flags", test_check_flags);
    g_test_add_func("/nbd/request/session", test_check_session);
    g_test_add_func("/nbd/request/unknown-commands", test_unknown_commands);
    g_test_add_func("/nbd/reply/errno", test_errno);
    g_test_add_func("/nbd/reply/layout", test_replies);
    g_test_add_func("/nbd/handshake/client-flags", test_client_flags);
    g_test_add_func("/nbd/handshake/go", test_go);
    g_test_add_func("/nbd/handshake/info-go-read-only", test_info_and_go_read_only);
    g_test_add_func("/nbd/handshake/go-lengths", test_go_lengths);
    g_test_add_func("/nbd/handshake/name-with-nul", test_name_with_nul);
    g_test_add_func("/nbd/handshake/export-name", test_export_name);
    g_test_add_func("/nbd/handshake/list", test_list);
    g_test_add_func("/nbd/handshake/unknown-tls-abort", test_unknown_tls_abort);
    g_test_add_func("/nbd/handshake/bad-magic", test_bad_magic);
    g_test_add_func("/nbd/handshake/long-options", test_long_options);
    g_test_add_func("/nbd/handshake/meta-context", test_meta_context);
    g_test_add_func("/nbd/handshake/meta-context-lost", test_meta_context_lost);
    g_test_add_func("/nbd/handshake/meta-context-lengths", test_meta_context_lengths);
    g_test_add_func("/nbd/handshake/bounded-output", test_output_is_bounded);
    g_test_add_func("/nbd/handshake/any-pieces", test_any_pieces);
    g_test_add_func("/nbd/handshake/random", test_random);
    return g_test_run();
}
