/*
 * QEMUFile over socketpairs and pipes: what is put is got, errors stick,
 * shutdown wakes, the rate limit holds back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/qemu-file.h"

#include "dead-peer.h"
#include "util/error.h"
#include "util/socket.h"

#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    QEMUFile *out, *in;
} Pair;

static Pair make_pair(bool sockets)
{
    int fds[2];

    g_assert_cmpint(sockets ? socketpair(AF_UNIX, SOCK_STREAM, 0, fds) :
                    pipe(fds), ==, 0);
    return (Pair) { qemu_file_new_fd(fds[1], "out", NULL),
                    qemu_file_new_fd(fds[0], "in", NULL) };
}

#define BULK (5 * 1024 * 1024)

static uint8_t bulk_byte(size_t i)
{
    return i * 2654435761u >> 24;
}

static gpointer writer(gpointer data)
{
    QEMUFile *f = data;
    g_autofree uint8_t *bulk = g_malloc(BULK);
    g_autoptr(GError) err = NULL;

    for (size_t i = 0; i < BULK; i++) {
        bulk[i] = bulk_byte(i);
    }
    qemu_put_buffer(f, NULL, 0); /* nothing, from nowhere */
    qemu_put_byte(f, 0xab);
    qemu_put_be16(f, 0x1234);
    qemu_put_be32(f, 0xdeadbeef);
    qemu_put_be64(f, 0x0123456789abcdefULL);
    qemu_put_counted_string(f, "pc.ram");
    for (size_t at = 0, n = 1; at < BULK; at += n, n = MIN(n * 3, BULK - at)) {
        qemu_put_buffer(f, bulk + at, n);
    }
    memcpy(qemu_put_reserve(f, 100), "reserved", 8);
    qemu_put_reserved(f, 8);
    g_assert_cmpuint(qemu_file_position(f), ==, 15 + 7 + BULK + 8);
    qemu_file_close(f, &err);
    g_assert_no_error(err);
    return NULL;
}

static void test_round_trip(gconstpointer sockets)
{
    Pair p = make_pair(sockets != NULL);
    GThread *t = g_thread_new("writer", writer, p.out);
    g_autofree uint8_t *bulk = g_malloc(BULK);
    char s[256];

    g_assert_cmphex(qemu_get_byte(p.in), ==, 0xab);
    g_assert_cmphex(qemu_get_be16(p.in), ==, 0x1234);
    g_assert_cmphex(qemu_get_be32(p.in), ==, 0xdeadbeef);
    g_assert_cmphex(qemu_get_be64(p.in), ==, 0x0123456789abcdefULL);
    g_assert_true(qemu_get_counted_string(p.in, s));
    g_assert_cmpstr(s, ==, "pc.ram");
    g_assert_true(qemu_get_buffer(p.in, bulk, BULK));
    for (size_t i = 0; i < BULK; i++) {
        g_assert_cmphex(bulk[i], ==, bulk_byte(i));
    }
    g_assert_true(qemu_get_buffer(p.in, s, 8));
    g_assert_cmpmem(s, 8, "reserved", 8);
    g_assert_cmpuint(qemu_file_position(p.in), ==, 15 + 7 + BULK + 8);
    g_assert_cmpint(qemu_get_some(p.in, s, 1), ==, 0);
    g_assert_null(qemu_file_error(p.in));
    g_thread_join(t);
    g_assert_true(qemu_file_close(p.in, NULL));
}

static void test_early_end(void)
{
    Pair p = make_pair(true);
    g_autoptr(GError) err = NULL;

    qemu_put_be16(p.out, 7);
    g_assert_true(qemu_file_close(p.out, NULL));
    g_assert_cmpuint(qemu_get_be32(p.in), ==, 0);
    g_assert_nonnull(qemu_file_error(p.in));
    g_assert_cmpuint(qemu_get_byte(p.in), ==, 0);
    g_assert_false(qemu_file_close(p.in, &err));
    g_assert_cmpstr(err->message, ==,
                    "in: the stream ends at byte 2 in the middle of something");
}

static void test_name_with_nul(void)
{
    Pair p = make_pair(true);
    char s[256];

    qemu_put_buffer(p.out, "\3a\0b", 4);
    g_assert_true(qemu_file_close(p.out, NULL));
    g_assert_false(qemu_get_counted_string(p.in, s));
    g_assert_false(qemu_file_close(p.in, NULL));
}

static void test_reader_gone(void)
{
    Pair p = make_pair(false);
    g_autoptr(GError) err = NULL;

    qemu_file_abandon(p.in);
    qemu_put_be32(p.out, 1);
    g_assert_false(qemu_fflush(p.out, NULL));
    for (unsigned i = 0; i < 1000000; i++) {
        qemu_put_be64(p.out, i); /* goes nowhere, does no harm */
    }
    g_assert_false(qemu_file_close(p.out, &err));
    g_assert_cmpstr(err->message, ==, "out: write: Broken pipe");
}

/* Its error, or NULL at a clean end. */
static GError *end_of(QEMUFile *f)
{
    const GError *error = qemu_file_error(f);

    return error ? g_error_copy(error) : NULL;
}

static gpointer read_for_ever(gpointer data)
{
    uint8_t b[100];

    while (qemu_get_some(data, b, sizeof(b)) > 0) {
    }
    return end_of(data);
}

static gpointer write_for_ever(gpointer data)
{
    while (qemu_file_ok(data, NULL)) {
        qemu_put_be64(data, 1);
    }
    return end_of(data);
}

static void test_shutdown(gconstpointer sockets)
{
    for (unsigned writing = 0; writing < 2; writing++) {
        Pair p = make_pair(sockets != NULL);
        QEMUFile *f = writing ? p.out : p.in;
        GThread *t = g_thread_new("waits", writing ? write_for_ever :
                                  read_for_ever, f);

        qemu_file_shutdown(f);
        GError *err = g_thread_join(t);
        g_assert_nonnull(err);
        g_error_free(err);
        qemu_file_abandon(p.in);
        qemu_file_abandon(p.out);
    }
}

/* Four slices' worth of data takes at least three slices. */
static void test_rate_limit(void)
{
    Pair p = make_pair(true);
    GThread *t = g_thread_new("reader", read_for_ever, p.in);
    gint64 start = g_get_monotonic_time();
    unsigned waits = 0;
    uint8_t page[4096] = { 0 };

    qemu_file_set_rate_limit(p.out, 4096 * 1000);
    for (unsigned i = 0; i < 400; i++) {
        qemu_put_buffer(p.out, page, sizeof(page));
        if (qemu_file_rate_exceeded(p.out)) {
            g_assert_true(qemu_file_wait_slice(p.out, NULL));
            waits++;
        }
    }
    g_assert_cmpint(waits, >=, 3);
    g_assert_cmpint(g_get_monotonic_time() - start, >=, 290 * 1000);
    g_assert_true(qemu_file_close(p.out, NULL));
    qemu_file_shutdown(p.in);
    g_clear_pointer((GError **)&(GError *){ g_thread_join(t) }, g_error_free);
    qemu_file_abandon(p.in);
}

static gpointer wait_a_slice(gpointer data)
{
    return GINT_TO_POINTER(qemu_file_wait_slice(data, NULL));
}

static void test_wait_is_cancelled(void)
{
    Pair p = make_pair(true);
    GThread *t = g_thread_new("slice", wait_a_slice, p.out);

    qemu_file_shutdown(p.out);
    g_thread_join(t);
    g_assert_false(qemu_file_wait_slice(p.out, NULL));
    g_assert_error(qemu_file_error(p.out), SIDECAR_ERROR,
                   SIDECAR_ERROR_CANCELLED);
    qemu_file_abandon(p.out);
    qemu_file_abandon(p.in);
}

/* Writing to a host that has lost its power ends, in much less than the quarter of an
 * hour for which the kernel tries. */
static void test_silent_peer(void)
{
    g_autofree char *much = g_malloc0(BULK);
    g_autoptr(GError) err = NULL;
    QEMUFile *f;
    int fds[2];

    tcp_pair(fds);
    fall_silent(fds[0]);
    f = qemu_file_new_fd(fds[1], "out", NULL);
    for (int i = 0; i < 20 && !qemu_file_error(f); i++) {
        qemu_put_buffer(f, much, BULK);
        qemu_fflush(f, NULL);
    }
    g_assert_false(qemu_file_ok(f, &err));
    g_assert_nonnull(strstr(err->message, "timed out"));
    qemu_file_abandon(f);
    close(fds[0]);
}

static gpointer put_much(gpointer data)
{
    g_autofree char *much = g_malloc0(BULK);

    for (int i = 0; i < 4; i++) {
        qemu_put_buffer(data, much, BULK);
    }
    return GINT_TO_POINTER(qemu_fflush(data, NULL));
}

/* Somebody who is there and does not read for a while is waited for. */
static void test_slow_peer(void)
{
    g_autofree char *buf = g_malloc(BULK);
    QEMUFile *f;
    GThread *thread;
    size_t got = 0;
    int fds[2];

    tcp_pair(fds);
    f = qemu_file_new_fd(fds[1], "out", NULL);
    thread = g_thread_new("put", put_much, f);
    g_usleep(1500 * 1000); /* that nothing happens can't be waited for */
    while (got < 4 * BULK) {
        ssize_t n = read(fds[0], buf, BULK);

        g_assert_cmpint(n, >, 0);
        got += n;
    }
    g_assert_true(GPOINTER_TO_INT(g_thread_join(thread)));
    qemu_file_abandon(f);
    close(fds[0]);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/qemu-file/round-trip/socket", "", test_round_trip);
    g_test_add_data_func("/qemu-file/round-trip/pipe", NULL, test_round_trip);
    g_test_add_func("/qemu-file/early-end", test_early_end);
    g_test_add_func("/qemu-file/name-with-nul", test_name_with_nul);
    g_test_add_func("/qemu-file/reader-gone", test_reader_gone);
    g_test_add_data_func("/qemu-file/shutdown/socket", "", test_shutdown);
    g_test_add_data_func("/qemu-file/shutdown/pipe", NULL, test_shutdown);
    g_test_add_func("/qemu-file/rate-limit", test_rate_limit);
    g_test_add_func("/qemu-file/wait-is-cancelled", test_wait_is_cancelled);
    socket_set_silence(400);
    g_test_add_func("/qemu-file/silent-peer", test_silent_peer);
    g_test_add_func("/qemu-file/slow-peer", test_slow_peer);
    return g_test_run();
}
