/*
 * The conversation with QEMU: replies by id whatever their order, events,
 * descriptors, and the end.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../emulator/inner-qmp.h"
#include "../../emulator/own-names.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    InnerQmp *qmp;
    int peer; /* QEMU's end */
    unsigned greetings, events, gone;
    char *why;
} Fixture;

static void on_greeting(void *opaque, json_object *qmp)
{
    ((Fixture *)opaque)->greetings++;
    g_assert_true(json_object_object_get_ex(qmp, "version", NULL));
}

static void on_event(void *opaque, json_object *event)
{
    ((Fixture *)opaque)->events++;
}

static void on_gone(void *opaque, const char *why)
{
    Fixture *f = opaque;

    f->gone++;
    f->why = g_strdup(why);
}

static void setup(Fixture *f, const void *data)
{
    static const InnerQmpHandlers handlers = {
        .greeting = on_greeting,
        .event = on_event,
        .gone = on_gone,
    };
    int sv[2];

    memset(f, 0, sizeof(*f));
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    f->peer = sv[1];
    f->qmp = inner_qmp_new(sv[0], &handlers, f);
}

static void teardown(Fixture *f, const void *data)
{
    inner_qmp_free(f->qmp);
    g_assert_cmpuint(f->gone, ==, 1);
    if (f->peer >= 0) {
        close(f->peer);
    }
    g_free(f->why);
}

static void say(Fixture *f, const char *text)
{
    g_assert_cmpint(write(f->peer, text, strlen(text)), ==, strlen(text));
}

static void iterate_until(unsigned *counter, unsigned value)
{
    while (__atomic_load_n(counter, __ATOMIC_ACQUIRE) < value) {
        g_main_context_iteration(NULL, TRUE);
    }
}

/* ---- replies -------------------------------------------------------- */

typedef struct {
    unsigned *count;
    char *text; /* of "return", or "gone" */
} Reply;

static void on_reply(void *opaque, json_object *reply)
{
    Reply *r = opaque;
    json_object *value = NULL;

    g_assert_null(r->text);
    if (reply) {
        json_object_object_get_ex(reply, "return", &value);
    }
    r->text = g_strdup(reply ? json_object_to_json_string(value) : "gone");
    __atomic_add_fetch(r->count, 1, __ATOMIC_RELEASE);
}

static void test_order(Fixture *f, const void *data)
{
    unsigned count = 0;
    Reply a = {&count}, b = {&count};
    char buf[512] = "";
    ssize_t n;

    inner_qmp_send(f->qmp, "one", NULL, NULL, 0, on_reply, &a);
    inner_qmp_send(f->qmp, "two", json_tokener_parse("{\"x\": [1]}"), NULL, 0,
                   on_reply, &b);
    say(f, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"
           "{\"return\": \"second\", \"id\": 2}\r\n"
           "{\"event\": \"STOP\"}\r\n{\"return\": 1, \"id\": \"not ours\"}\r\n"
           "{\"return\": \"first\", \"id\": 1}{\"return\": 3, \"id\": 1}");
    iterate_until(&count, 2);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    g_assert_cmpstr(a.text, ==, "\"first\"");
    g_assert_cmpstr(b.text, ==, "\"second\"");
    g_assert_cmpuint(f->greetings, ==, 1);
    g_assert_cmpuint(f->events, ==, 1);
    n = read(f->peer, buf, sizeof(buf) - 1);
    g_assert_cmpint(n, >, 0);
    g_assert_cmpstr(buf, ==, "{\"execute\":\"one\",\"id\":1}\n"
                             "{\"execute\":\"two\",\"arguments\":{\"x\":[1]},\"id\":2}\n");
    g_free(a.text);
    g_free(b.text);
}

static void test_byte_by_byte(Fixture *f, const void *data)
{
    static const char text[] =
        "{\"event\": \"A\", \"data\": {\"s\": \"}{\\\"\"}}\r\n\r\n \t{\"event\": \"B\"}\n";

    for (const char *p = text; *p; p++) {
        g_assert_cmpint(write(f->peer, p, 1), ==, 1);
        while (g_main_context_iteration(NULL, FALSE)) {
        }
    }
    g_assert_cmpuint(f->events, ==, 2);
}

static void test_gone(Fixture *f, const void *data)
{
    unsigned count = 0;
    Reply a = {&count}, b = {&count};

    inner_qmp_send(f->qmp, "one", NULL, NULL, 0, on_reply, &a);
    close(f->peer);
    f->peer = -1;
    iterate_until(&count, 1);
    g_assert_cmpstr(a.text, ==, "gone");
    g_assert_cmpuint(f->gone, ==, 1);
    g_assert_null(f->why);
    /* Later ones are answered too, from the main loop and not before. */
    inner_qmp_send(f->qmp, "two", json_object_new_object(), NULL, 0, on_reply, &b);
    g_assert_null(b.text);
    iterate_until(&count, 2);
    g_assert_cmpstr(b.text, ==, "gone");
    g_free(a.text);
    g_free(b.text);
}

static void test_rubbish(Fixture *f, const void *data)
{
    g_autofree char *deep = g_strnfill(3000, '[');
    const char *const bad[] = {"}", "{\"a\": nonsense}", deep};
    const char *text = bad[GPOINTER_TO_INT(data)];

    say(f, text);
    iterate_until(&f->gone, 1);
    g_assert_nonnull(f->why);
}

static void test_harmless(Fixture *f, const void *data)
{
    say(f, "[] 12 \"x\" null {} {\"id\": null} {\"id\": {}} {\"return\": 1} "
           "{\"QMP\": {\"version\": 1}} {\"event\": 3}\n");
    iterate_until(&f->events, 1);
    g_assert_cmpuint(f->gone, ==, 0);
}

/* ---- descriptors ---------------------------------------------------- */

static void test_descriptor(Fixture *f, const void *data)
{
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int))];
    } control;
    char buf[256];
    struct iovec iov = {buf, sizeof(buf)};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1,
                         .msg_control = &control, .msg_controllen = sizeof(control)};
    unsigned count = 0;
    Reply r = {&count};
    struct stat sent, got;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC), received;

    fstat(fd, &sent);
    inner_qmp_send(f->qmp, "getfd", NULL, &fd, 1, on_reply, &r);
    close(fd); /* the sender may */
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    g_assert_cmpint(recvmsg(f->peer, &hdr, 0), >, 0);
    g_assert_nonnull(CMSG_FIRSTHDR(&hdr));
    memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&hdr)), sizeof(received));
    g_assert_cmpint(fstat(received, &got), ==, 0);
    g_assert_cmpuint(got.st_rdev, ==, sent.st_rdev);
    close(received);
    say(f, "{\"return\": {}, \"id\": 1}");
    iterate_until(&count, 1);
    g_free(r.text);
}

/* ---- many threads, a slow reader ------------------------------------ */

#define THREADS 4
#define CALLS 200

typedef struct {
    Fixture *f;
    unsigned *count;
    Reply replies[CALLS];
} Sender;

static void *send_many(void *opaque)
{
    Sender *s = opaque;
    g_autofree char *pad = g_strnfill(3000, 'x');

    for (int i = 0; i < CALLS; i++) {
        json_object *args = json_object_new_object();

        json_object_object_add(args, "pad", json_object_new_string(pad));
        s->replies[i].count = s->count;
        inner_qmp_send(s->f->qmp, "echo", args, NULL, 0, on_reply, &s->replies[i]);
    }
    return NULL;
}

/* QEMU: reads all first (the socket fills meanwhile), answers backwards. */
static void *serve(void *opaque)
{
    Fixture *f = opaque;
    g_autoptr(GString) text = g_string_new(NULL);
    char buf[65536];
    unsigned lines = 0;

    while (lines < THREADS * CALLS) {
        ssize_t n = read(f->peer, buf, sizeof(buf));

        g_assert_cmpint(n, >, 0);
        for (ssize_t i = 0; i < n; i++) {
            lines += buf[i] == '\n';
        }
    }
    for (unsigned id = THREADS * CALLS; id > 0; id--) {
        g_string_printf(text, "{\"return\": %u, \"id\": %u}\r\n", id, id);
        say(f, text->str);
    }
    return NULL;
}

static void test_threads(Fixture *f, const void *data)
{
    static Sender senders[THREADS];
    GThread *threads[THREADS], *server = g_thread_new("qemu", serve, f);
    unsigned count = 0;
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal,
                                                       g_free, NULL);

    for (int i = 0; i < THREADS; i++) {
        senders[i] = (Sender){f, &count};
        threads[i] = g_thread_new("sender", send_many, &senders[i]);
    }
    iterate_until(&count, THREADS * CALLS);
    for (int i = 0; i < THREADS; i++) {
        g_thread_join(threads[i]);
        for (int k = 0; k < CALLS; k++) {
            g_assert_true(g_hash_table_add(seen, senders[i].replies[k].text));
        }
    }
    g_thread_join(server);
}

/* ---- names ---------------------------------------------------------- */

static char *translated(const OwnNames *names, const char *command,
                        const char *reply)
{
    json_object *obj = json_tokener_parse(reply);
    char *text;

    g_assert_nonnull(obj);
    own_names_translate(names, command, obj);
    text = g_strdup(json_object_to_json_string_ext(obj, JSON_C_TO_STRING_PLAIN |
                                                        JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(obj);
    return text;
}

#define URI "nbd+unix:///d0?socket=S/1"

static void test_names(void)
{
    static const struct {
        const char *command, *reply, *expected;
    } cases[] = {
        {"query-block",
         "{\"return\":[{\"device\":\"d0\",\"inserted\":{\"file\":\"" URI "\",\"drv\":\"raw\","
         "\"image\":{\"filename\":\"" URI "\",\"format\":\"raw\"}}},{\"device\":\"x\"}]}",
         "{\"return\":[{\"device\":\"d0\",\"inserted\":{\"file\":\"FILE\",\"drv\":\"raw\","
         "\"image\":{\"filename\":\"FILE\",\"format\":\"raw\",\"virtual-size\":0,\"actual-size\":0,"
         "\"dirty-flag\":false},\"backing_file_depth\":0}},{\"device\":\"x\"}]}"},
        {"query-named-block-nodes",
         "{\"return\":[{\"file\":\"" URI "\",\"drv\":\"nbd\"},{\"file\":\"nbd+unix:///d1?socket=S/1\"}]}",
         "{\"return\":[{\"file\":\"FILE\",\"drv\":\"file\"},{\"file\":\"nbd+unix:///d1?socket=S/1\"}]}"},
        {"query-chardev", "{\"return\":[{\"label\":\"a\"},{\"label\":\"qemu-sidecar-qmp\"}]}",
         "{\"return\":[{\"label\":\"a\"}]}"},
        {"human-monitor-command",
         "{\"return\":\"d0: " URI " (raw)\\r\\nqemu-sidecar-qmp: x\\r\\nb: nbd+unix:///d0?socket=T\"}",
         "{\"return\":\"d0: FILE (raw)\\r\\nb: nbd+unix:///d0?socket=T\"}"},
        {"query-block", "{\"error\":{\"desc\":\"" URI "\"}}", "{\"error\":{\"desc\":\"" URI "\"}}"},
        {"query-block", "{\"return\":{}}", "{\"return\":{}}"},
        {"query-status", "{\"return\":[]}", "{\"return\":[]}"},
    };
    g_autoptr(GError) error = NULL;
    g_autofree char *file = NULL;
    int fd = g_file_open_tmp("names-XXXXXX", &file, NULL);
    g_autoptr(BlockNode) node = bdrv_open(file, "raw", 0, &error);
    BlockContext *ctx = block_context_new();
    OwnNames names = {ctx, "S/1"};

    close(fd);
    g_assert_no_error(error);
    g_assert_nonnull(blk_new(ctx, "d0", node, &error));
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *got = translated(&names, cases[i].command, cases[i].reply);
        g_autoptr(GString) want = g_string_new(cases[i].expected);

        g_string_replace(want, "FILE", file, 0);
        g_assert_cmpstr(got, ==, want->str);
    }
    block_context_free(ctx);
    unlink(file);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, data, fn) g_test_add("/inner-qmp/" name, Fixture, data, setup, fn, teardown)
    ADD("order", NULL, test_order);
    ADD("byte-by-byte", NULL, test_byte_by_byte);
    ADD("gone", NULL, test_gone);
    ADD("rubbish/brace", GINT_TO_POINTER(0), test_rubbish);
    ADD("rubbish/word", GINT_TO_POINTER(1), test_rubbish);
    ADD("rubbish/deep", GINT_TO_POINTER(2), test_rubbish);
    ADD("harmless", NULL, test_harmless);
    ADD("descriptor", NULL, test_descriptor);
    ADD("threads", NULL, test_threads);
    g_test_add_func("/own-names", test_names);
    return g_test_run();
}
