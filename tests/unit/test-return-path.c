/*
 * The return path: what each end concludes from whatever the other one says, cut
 * anywhere.  The other end is played by the test, over a socketpair.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/return-path.h"

#include "dead-peer.h"
#include "util/error.h"
#include "util/socket.h"

#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define PONG(v) "\0\2\0\4" v
#define SHUT(v) "\0\1\0\4\0\0\0" v
#define PLAIN PONG("QSC1") /* as a QEMU answers */
#define OURS PONG("QSCW")
#define WORD "\x08\0\2\0\4QSCG"

typedef struct {
    const char *bytes;
    size_t len;
} Bytes;
#define B(s) { s, sizeof(s) - 1 }

/* ---- decoding ------------------------------------------------------------------ */

static void feed(ReturnPathReader *r, Bytes b, size_t step)
{
    memset(r, 0, sizeof(*r));
    for (size_t at = 0; at < b.len; at += step) {
        return_path_feed(r, (const uint8_t *)b.bytes + at,
                         MIN(step, b.len - at));
    }
    return_path_feed_end(r);
}

static void decoding(void)
{
    static const struct {
        Bytes in;
        bool met, waits, shut, bad;
        uint32_t value;
        const char *text;
    } cases[] = {
        { B(""), .text = "" },
        { B(PLAIN), .met = true, .text = "" },
        { B(OURS), .met = true, .waits = true, .text = "" },
        { B(OURS PONG("QSC2")), .met = true, .waits = true, .text = "" },
        { B(PLAIN SHUT("\0")), .met = true, .shut = true, .text = "" },
        { B(PLAIN SHUT("\1") "no\nroom"), .met = true, .shut = true, .value = 1,
          .text = "no room" },
        { B(SHUT("\0") "and more"), .shut = true, .text = "" },
        { B("no"), .text = "no" },
        { B("no memory for it"), .text = "no memory for it" },
        { B("\0\2\0\5QSCW."), .text = "    QSCW." },
        { B("\0\2\1\4QSCW"), .text = "    QSCW" },
        { B(PLAIN "\0\3\0\x0c............"), .met = true, .bad = true, .text = "" },
        { B(PLAIN "\0\0\0\4...."), .met = true, .bad = true, .text = "" },
        { B(PLAIN "\0\1\0\0"), .met = true, .bad = true, .text = "" },
        { B(PLAIN "\0\1\0\5....."), .met = true, .bad = true, .text = "" },
        { B(PLAIN "HTTP/1.1 400"), .met = true, .bad = true, .text = "" },
        { B(PLAIN "\0\1\0\4\0\0\0"), .met = true, .text = "" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        for (size_t step = 1; step < 40; step++) {
            ReturnPathReader r;

            feed(&r, cases[i].in, step);
            g_assert_cmpint(r.met, ==, cases[i].met);
            g_assert_cmpint(r.waits, ==, cases[i].waits);
            g_assert_cmpint(r.shut, ==, cases[i].shut);
            g_assert_cmpint(r.bad, ==, cases[i].bad);
            g_assert_cmpint(r.shut_value, ==, cases[i].value);
            g_assert_cmpstr(r.text, ==, cases[i].text);
        }
    }
}

/* Nothing is kept of an endless text, or of endless messages. */
static void endless(void)
{
    g_autofree char *much = g_strnfill(100 * 1000, 'x');
    ReturnPathReader r = { 0 };

    return_path_feed(&r, (uint8_t *)much, strlen(much));
    return_path_feed(&r, (uint8_t *)much, strlen(much));
    g_assert_cmpuint(strlen(r.text), ==, RETURN_PATH_TEXT_MAX);
    memset(&r, 0, sizeof(r));
    for (int i = 0; i < 100 * 1000; i++) {
        return_path_feed(&r, (const uint8_t *)PLAIN, 8);
    }
    g_assert_true(r.met && !r.have);
}

static void random_bytes(void)
{
    for (int i = 0; i < 20 * 1000; i++) {
        ReturnPathReader r = { 0 };
        uint8_t bytes[64];
        size_t len = g_test_rand_int_range(0, sizeof(bytes));

        for (size_t k = 0; k < len; k++) {
            bytes[k] = g_test_rand_int_range(0, 3) ?
                PLAIN[g_test_rand_int_range(0, 8)] : g_test_rand_int_range(0, 256);
        }
        return_path_feed(&r, bytes, len);
        return_path_feed_end(&r);
        g_assert_cmpuint(r.have, <, 8);
        g_assert_true(!r.waits || r.met);
    }
}

/* ---- both ends over a socket ----------------------------------------------------- */

typedef struct {
    ReturnPath *rp;
    int other;
    int cancel;
} Pair;

static Pair pair_new(void)
{
    int sv[2];
    Pair p;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    p.cancel = eventfd(0, EFD_CLOEXEC);
    p.other = sv[1];
    p.rp = return_path_new(sv[0], p.cancel, "test");
    return p;
}

static void pair_end(Pair *p)
{
    return_path_free(p->rp);
    if (p->other >= 0) {
        close(p->other);
    }
    close(p->cancel);
}

static void says(const Pair *p, Bytes b)
{
    g_assert_cmpint(send(p->other, b.bytes, b.len, MSG_NOSIGNAL), ==, b.len);
}

static void goes(Pair *p)
{
    close(p->other);
    p->other = -1;
}

/* What has come to the other end so far is this, and no more. */
static void heard(const Pair *p, Bytes want)
{
    char buf[2000];
    ssize_t n = recv(p->other, buf, sizeof(buf), MSG_DONTWAIT);

    g_assert_cmpmem(buf, MAX(n, 0), want.bytes, want.len);
}

static void check(ReturnPathVerdict got, ReturnPathVerdict want, GError **errp,
                  const char *word)
{
    GError *error = *errp;

    g_assert_cmpint(got, ==, want);
    if (want == RETURN_PATH_YES) {
        g_assert_no_error(error);
        return;
    }
    g_assert_nonnull(error);
    if (!strstr(error->message, word)) {
        g_error("\"%s\" is not in \"%s\"", word, error->message);
    }
}

/* ---- the sender ------------------------------------------------------------------- */

/* A receiver that has answered the PING with @first, if anything, and is told what
 * is due to it. */
static Pair met(Bytes first)
{
    Pair p = pair_new();

    if (first.len) {
        says(&p, first);
        g_assert_true(return_path_meet(p.rp, 0, NULL));
        g_assert_true(return_path_met(p.rp));
        return_path_promise(p.rp);
    }
    return p;
}

static void verdicts(void)
{
    static const struct {
        Bytes first, then;
        bool goes;
        ReturnPathVerdict want;
        const char *word;
    } cases[] = {
        /* who never speaks: to close is to agree */
        { B(""), B(""), true, RETURN_PATH_YES, NULL },
        { B(""), B("no memory"), true, RETURN_PATH_NO, "says: no memory" },
        { B(""), B("n"), true, RETURN_PATH_NO, "says: n" },
        { B(""), B(SHUT("\1")), true, RETURN_PATH_NO, "refused" },
        /* a QEMU */
        { B(PLAIN), B(SHUT("\0")), true, RETURN_PATH_YES, NULL },
        { B(PLAIN), B(SHUT("\0")), false, RETURN_PATH_YES, NULL },
        { B(PLAIN), B(PLAIN SHUT("\0")), false, RETURN_PATH_YES, NULL },
        { B(PLAIN), B(SHUT("\1")), true, RETURN_PATH_NO, "refused" },
        { B(PLAIN), B(""), true, RETURN_PATH_NO, "without having taken" },
        { B(PLAIN), B("\0\6\0\4\0\0\0\0"), false, RETURN_PATH_UNKNOWN, "not known" },
        { B(PLAIN), B("nonsense"), true, RETURN_PATH_UNKNOWN, "not known" },
        /* one of ours, which does nothing without our word */
        { B(OURS), B(SHUT("\0")), false, RETURN_PATH_YES, NULL },
        { B(OURS), B(SHUT("\0")), true, RETURN_PATH_NO, "went away" },
        { B(OURS), B(SHUT("\1") "the disk is full"), true, RETURN_PATH_NO,
          "says: the disk is full" },
        { B(OURS), B(""), true, RETURN_PATH_NO, "without having taken" },
        { B(OURS), B("nonsense"), true, RETURN_PATH_NO, "message 0x6e6f" },
        /* their answer to the PING comes when our direction is closed */
        { B(""), B(PLAIN SHUT("\0")), false, RETURN_PATH_YES, NULL },
        { B(""), B(OURS SHUT("\0")), false, RETURN_PATH_YES, NULL },
        { B(""), B(OURS), true, RETURN_PATH_NO, "without having taken" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        Pair p = met(cases[i].first);

        says(&p, cases[i].then);
        if (cases[i].goes) {
            goes(&p);
        }
        check(return_path_verdict(p.rp, &error), cases[i].want, &error,
              cases[i].word);
        if (!cases[i].goes) {
            heard(&p, return_path_promise(p.rp) && cases[i].first.len ?
                  (Bytes)B(WORD) : (Bytes)B(""));
        }
        pair_end(&p);
    }
}

/* The connection ends after each byte of what an accepting receiver says. */
static void cut_anywhere(void)
{
    static const Bytes first[] = { B(""), B(PLAIN), B(OURS) };
    static const Bytes then[] = {
        B(PLAIN SHUT("\0")), B(SHUT("\0")), B(SHUT("\0")),
    };

    for (size_t k = 0; k < G_N_ELEMENTS(first); k++) {
        for (size_t len = first[k].len ? 0 : 1; len < then[k].len; len++) {
            g_autoptr(GError) error = NULL;
            Pair p = met(first[k]);

            says(&p, (Bytes){ then[k].bytes, len });
            goes(&p);
            g_assert_cmpint(return_path_verdict(p.rp, &error), ==,
                            RETURN_PATH_NO);
            g_assert_nonnull(error);
            pair_end(&p);
        }
    }
}

/* Bytes of ours that nobody read: the kernel says reset, not end. */
static void gone_with_bytes_unread(void)
{
    static const Bytes said[] = { B(""), B(PLAIN), B(OURS) };

    for (size_t i = 0; i < G_N_ELEMENTS(said); i++) {
        g_autoptr(GError) error = NULL;
        int sv[2], cancel = eventfd(0, EFD_CLOEXEC);
        ReturnPath *rp;

        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv),
                        ==, 0);
        g_assert_cmpint(send(sv[0], "state", 5, 0), ==, 5);
        g_assert_cmpint(send(sv[1], said[i].bytes, said[i].len, 0), ==,
                        said[i].len);
        close(sv[1]);
        rp = return_path_new(sv[0], cancel, "test");
        check(return_path_verdict(rp, &error), RETURN_PATH_NO, &error, "went away");
        return_path_free(rp);
        close(cancel);
    }
}

static void meeting(void)
{
    static const struct {
        Bytes in;
        bool ok, met, waits;
        const char *word;
    } cases[] = {
        { B(""), true, false, false, NULL },
        { B("\0\2\0\4QSC"), true, false, false, NULL },
        { B(PLAIN), true, true, false, NULL },
        { B(OURS), true, true, true, NULL },
        { B(SHUT("\0")), false, false, false, "" },
        { B(SHUT("\1") "too early"), false, false, false, "says: too early" },
        { B("HTTP/1.1 400"), false, false, false, "says: HTTP/1.1 400" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        Pair p = pair_new();
        bool ok;

        says(&p, cases[i].in);
        if (!cases[i].ok) {
            goes(&p);
        }
        ok = return_path_meet(p.rp, 0, &error);
        check(ok ? RETURN_PATH_YES : RETURN_PATH_NO,
              cases[i].ok ? RETURN_PATH_YES : RETURN_PATH_NO, &error,
              cases[i].word);
        g_assert_cmpint(return_path_met(p.rp), ==, cases[i].met);
        g_assert_cmpint(return_path_promise(p.rp), ==, cases[i].waits);
        pair_end(&p);
    }
}

static void the_one_without_way_back(void)
{
    g_assert_true(return_path_meet(NULL, 0, NULL));
    g_assert_false(return_path_met(NULL));
    g_assert_false(return_path_promise(NULL));
    g_assert_cmpint(return_path_verdict(NULL, NULL), ==, RETURN_PATH_YES);
    g_assert_null(return_path_last_words(NULL));
    return_path_opened(NULL);
    g_assert_true(return_path_ping(NULL, 1, NULL));
    g_assert_true(return_path_still_wanted(NULL, NULL));
    g_assert_cmpint(return_path_accept(NULL, NULL), ==, RETURN_PATH_YES);
    return_path_refuse(NULL, "x");
    return_path_free(NULL);
}

static void last_words(void)
{
    static const struct {
        Bytes in;
        const char *want;
    } cases[] = {
        { B(""), NULL }, { B(OURS), NULL }, { B("too\nbig\n"), "too big" },
        { B(OURS SHUT("\1") "too big"), "too big" }, { B(PLAIN SHUT("\1")), NULL },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = NULL;
        Pair p = pair_new();

        says(&p, cases[i].in);
        text = return_path_last_words(p.rp);
        g_assert_cmpstr(text, ==, cases[i].want);
        pair_end(&p);
    }
}

/* ---- cancelling -------------------------------------------------------------------- */

typedef struct {
    Pair *p;
    GError *error;
    ReturnPathVerdict verdict;
    bool receiver;
} Waiter;

static void *wait_on(void *opaque)
{
    Waiter *w = opaque;

    w->verdict = (w->receiver ? return_path_accept : return_path_verdict)
        (w->p->rp, &w->error);
    return NULL;
}

static void cancelled_verdict(Bytes first, Bytes then, ReturnPathVerdict want,
                              const char *word)
{
    Pair p = met(first);
    Waiter w = { .p = &p };
    GThread *thread;
    char byte;

    says(&p, then);
    thread = g_thread_new("waiter", wait_on, &w);
    eventfd_write(p.cancel, 1);
    if (want == RETURN_PATH_NO) { /* it says so by closing, and waits for us */
        g_assert_cmpint(recv(p.other, &byte, 1, 0), ==, 0);
        goes(&p);
    }
    g_thread_join(thread);
    check(w.verdict, want, &w.error, word);
    g_assert_cmpint(want == RETURN_PATH_NO, ==,
                    g_error_matches(w.error, SIDECAR_ERROR,
                                    SIDECAR_ERROR_CANCELLED));
    g_clear_error(&w.error);
    pair_end(&p);
}

static void cancelled(void)
{
    static const Bytes nothing = B(""), part = B("\0\1\0\4\0\0\0");

    cancelled_verdict(nothing, nothing, RETURN_PATH_YES, NULL);
    cancelled_verdict((Bytes)B(PLAIN), nothing, RETURN_PATH_UNKNOWN, "not known");
    cancelled_verdict((Bytes)B(PLAIN), part, RETURN_PATH_UNKNOWN, "not known");
    cancelled_verdict((Bytes)B(OURS), nothing, RETURN_PATH_NO, "cancelled");
    cancelled_verdict((Bytes)B(OURS), part, RETURN_PATH_NO, "cancelled");
}

static void cancelled_while_meeting(void)
{
    g_autoptr(GError) error = NULL;
    Pair p = pair_new();

    eventfd_write(p.cancel, 1);
    g_assert_false(return_path_meet(p.rp, 1000 * 1000, &error));
    g_assert_error(error, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED);
    pair_end(&p);
}

/* ---- the receiver ------------------------------------------------------------------- */

static void pings_are_answered(void)
{
    g_autoptr(GError) error = NULL;
    Pair p = pair_new();

    g_assert_false(return_path_ping(p.rp, 1, &error));
    g_assert_nonnull(strstr(error->message, "without return path"));
    return_path_opened(p.rp);
    g_assert_true(return_path_ping(p.rp, 0x61626364, NULL));
    heard(&p, (Bytes)B(PONG("abcd")));
    g_assert_true(return_path_ping(p.rp, RETURN_PATH_ASK, NULL));
    heard(&p, (Bytes)B(OURS));
    pair_end(&p);
}

/* Whoever asks and asks and never reads is told off, not waited for. */
static void a_flood_of_pings(void)
{
    g_autoptr(GError) error = NULL;
    Pair p = pair_new();
    int n = 0;

    return_path_opened(p.rp);
    while (n < 10 * 1000 * 1000 && return_path_ping(p.rp, 7, &error)) {
        n++;
    }
    g_assert_nonnull(error);
    pair_end(&p);
}

static void a_source_of_the_old_kind(void)
{
    Pair p = pair_new();
    char byte;

    g_assert_cmpint(return_path_accept(p.rp, NULL), ==, RETURN_PATH_YES);
    g_assert_cmpint(recv(p.other, &byte, 1, 0), ==, 0); /* nothing but the end */
    pair_end(&p);
    p = pair_new();
    return_path_refuse(p.rp, "no room");
    heard(&p, (Bytes)B("no room"));
    pair_end(&p);
}

static void a_plain_source(void)
{
    Pair p = pair_new();

    return_path_opened(p.rp);
    g_assert_true(return_path_still_wanted(p.rp, NULL));
    g_assert_cmpint(return_path_accept(p.rp, NULL), ==, RETURN_PATH_YES);
    heard(&p, (Bytes)B(SHUT("\0")));
    pair_end(&p);
    p = pair_new();
    return_path_opened(p.rp);
    return_path_refuse(p.rp, "no room");
    heard(&p, (Bytes)B(SHUT("\1") "no room"));
    pair_end(&p);
}

/* It was cancelled and runs its guest again: it must not run here. */
static void a_source_that_gave_up(void)
{
    static const uint32_t pings[] = { 1, RETURN_PATH_WILL };

    for (size_t i = 0; i < G_N_ELEMENTS(pings); i++) {
        for (int how = 0; how < 3; how++) {
            g_autoptr(GError) error = NULL, later = NULL;
            Pair p = pair_new();

            return_path_opened(p.rp);
            g_assert_true(return_path_ping(p.rp, pings[i], NULL));
            if (how == 0) {
                goes(&p);
            } else if (how == 1) {
                shutdown(p.other, SHUT_RDWR);
            } else {
                says(&p, (Bytes)B("?"));
            }
            g_assert_false(return_path_still_wanted(p.rp, &error));
            g_assert_nonnull(error);
            check(return_path_accept(p.rp, &later), RETURN_PATH_NO, &later,
                  how == 2 ? "more than its state" : "given up");
            return_path_refuse(p.rp, later->message);
            pair_end(&p);
        }
    }
}

/* One of ours that never got our PONG closes its direction, and means it. */
static void a_source_that_never_heard_us(void)
{
    Pair p = pair_new();

    return_path_opened(p.rp);
    g_assert_true(return_path_ping(p.rp, RETURN_PATH_ASK, NULL));
    shutdown(p.other, SHUT_WR);
    g_assert_cmpint(return_path_accept(p.rp, NULL), ==, RETURN_PATH_YES);
    heard(&p, (Bytes)B(OURS SHUT("\0")));
    pair_end(&p);
}

static void read_exactly(int fd, Bytes want)
{
    char buf[100];

    g_assert_cmpint(recv(fd, buf, want.len, MSG_WAITALL), ==, want.len);
    g_assert_cmpmem(buf, want.len, want.bytes, want.len);
}

static void word(Bytes in, ReturnPathVerdict want, const char *why)
{
    Pair p = pair_new();
    Waiter w = { .p = &p, .receiver = true };
    GThread *thread;

    return_path_opened(p.rp);
    g_assert_true(return_path_ping(p.rp, RETURN_PATH_ASK, NULL));
    g_assert_true(return_path_ping(p.rp, RETURN_PATH_WILL, NULL));
    thread = g_thread_new("waiter", wait_on, &w);
    read_exactly(p.other, (Bytes)B(OURS PONG("QSC2") SHUT("\0")));
    if (in.bytes) {
        says(&p, in);
        shutdown(p.other, SHUT_WR);
    } else {
        eventfd_write(p.cancel, 1);
    }
    g_thread_join(thread);
    check(w.verdict, want, &w.error, why);
    g_clear_error(&w.error);
    pair_end(&p);
}

static void the_word_lets_it_run(void)
{
    static const Bytes good = B(WORD);

    word(good, RETURN_PATH_YES, NULL);
    for (size_t len = 0; len < good.len; len++) {
        word((Bytes){ good.bytes, len }, RETURN_PATH_NO, "kept the guest");
    }
    word((Bytes)B("\x08\0\2\0\4QSC1"), RETURN_PATH_NO, "kept the guest");
    word((Bytes){ NULL, 0 }, RETURN_PATH_NO, "cancelled");
}

/* ---- a dead network ------------------------------------------------------------------ */

/* *stream: another descriptor of the socket, as the stream has one. */
static Pair pair_over_tcp(int *stream)
{
    Pair p = { .cancel = eventfd(0, EFD_CLOEXEC) };
    int fds[2];

    tcp_pair(fds);
    p.other = fds[0];
    *stream = dup(fds[1]);
    p.rp = return_path_new(fds[1], p.cancel, "test");
    return p;
}

/* The last of the stream does not arrive: one of ours has not got the guest then; a
 * plain one may have. */
static void silent_receiver(gconstpointer ours)
{
    Pair p;
    g_autoptr(GError) error = NULL;
    ReturnPathVerdict v;
    int stream;

    p = pair_over_tcp(&stream);
    says(&p, ours ? (Bytes)B(OURS) : (Bytes)B(PLAIN));
    while (!return_path_met(p.rp)) {
        g_assert_true(return_path_meet(p.rp, 60000, NULL));
    }
    return_path_promise(p.rp);
    fall_silent(p.other);
    g_assert_cmpint(send(stream, "devices", 7, 0), ==, 7);
    v = return_path_verdict(p.rp, &error);
    check(v, ours ? RETURN_PATH_NO : RETURN_PATH_UNKNOWN, &error, "timed out");
    close(stream);
    pair_end(&p);
}

static void silent_source(void)
{
    Pair p;
    g_autoptr(GError) error = NULL;
    ReturnPathVerdict v;
    int stream;

    p = pair_over_tcp(&stream);
    return_path_opened(p.rp);
    g_assert_true(return_path_ping(p.rp, RETURN_PATH_ASK, NULL));
    g_assert_true(return_path_ping(p.rp, RETURN_PATH_WILL, NULL));
    fall_silent(p.other);
    v = return_path_accept(p.rp, &error);
    check(v, RETURN_PATH_UNKNOWN, &error, "timed out");
    close(stream);
    pair_end(&p);
}

/* ---- both of ours --------------------------------------------------------------------- */

static void *accept_it(void *rp)
{
    ReturnPathVerdict v = return_path_accept(rp, NULL);

    if (v == RETURN_PATH_NO) {
        return_path_refuse(rp, "no");
    }
    return GINT_TO_POINTER(v);
}

static void *cancel_it(void *fd)
{
    eventfd_write(GPOINTER_TO_INT(fd), 1);
    return NULL;
}

/* A cancel at any time: never both, never neither. */
static void a_cancel_at_any_time(void)
{
    int kept = 0, rounds = g_test_slow() ? 20000 : 2000;

    for (int i = 0; i < rounds; i++) {
        int cancel = eventfd(0, EFD_CLOEXEC), never = eventfd(0, EFD_CLOEXEC);
        ReturnPathVerdict here, there;
        ReturnPath *a, *b;
        GThread *thread, *canceller = NULL;
        int sv[2];

        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==,
                        0);
        a = return_path_new(sv[0], cancel, "sender");
        b = return_path_new(sv[1], never, "receiver");
        return_path_opened(b);
        g_assert_true(return_path_ping(b, RETURN_PATH_ASK, NULL));
        g_assert_true(return_path_meet(a, 0, NULL));
        g_assert_true(return_path_promise(a));
        g_assert_true(return_path_ping(b, RETURN_PATH_WILL, NULL));
        thread = g_thread_new("receiver", accept_it, b);
        if (i % 4 == 1) {
            eventfd_write(cancel, 1);
        } else if (i % 4 != 0) {
            canceller = g_thread_new("cancel", cancel_it, GINT_TO_POINTER(cancel));
        }
        here = return_path_verdict(a, NULL);
        if (canceller) {
            g_thread_join(canceller);
        }
        if (here == RETURN_PATH_NO) {
            return_path_free(a);
            a = NULL;
        }
        there = GPOINTER_TO_INT(g_thread_join(thread));
        g_assert_cmpint(here, ==, there);
        kept += here == RETURN_PATH_NO;
        return_path_free(a);
        return_path_free(b);
        close(cancel);
        close(never);
    }
    g_test_message("%d of %d were cancelled in time", kept, rounds * 3 / 4);
    g_assert_cmpint(kept, >, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/return-path/decoding", decoding);
    g_test_add_func("/return-path/decoding/endless", endless);
    g_test_add_func("/return-path/decoding/random", random_bytes);
    g_test_add_func("/return-path/verdicts", verdicts);
    g_test_add_func("/return-path/cut-anywhere", cut_anywhere);
    g_test_add_func("/return-path/reset", gone_with_bytes_unread);
    g_test_add_func("/return-path/meeting", meeting);
    g_test_add_func("/return-path/none", the_one_without_way_back);
    g_test_add_func("/return-path/last-words", last_words);
    g_test_add_func("/return-path/cancel", cancelled);
    g_test_add_func("/return-path/cancel/meeting", cancelled_while_meeting);
    g_test_add_func("/return-path/receiver/pings", pings_are_answered);
    g_test_add_func("/return-path/receiver/flood", a_flood_of_pings);
    g_test_add_func("/return-path/receiver/old-source", a_source_of_the_old_kind);
    g_test_add_func("/return-path/receiver/plain-source", a_plain_source);
    g_test_add_func("/return-path/receiver/gave-up", a_source_that_gave_up);
    g_test_add_func("/return-path/receiver/never-heard", a_source_that_never_heard_us);
    g_test_add_func("/return-path/receiver/word", the_word_lets_it_run);
    g_test_add_func("/return-path/cancel/any-time", a_cancel_at_any_time);
    socket_set_silence(400);
    g_test_add_data_func("/return-path/silent/ours", "", silent_receiver);
    g_test_add_data_func("/return-path/silent/plain", NULL, silent_receiver);
    g_test_add_func("/return-path/silent/source", silent_source);
    return g_test_run();
}
