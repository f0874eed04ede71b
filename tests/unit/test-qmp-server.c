/*
 * The QMP server over socketpairs, with the commands of
 * tests/qapi/test-schema.json and a QEMU that is only pretended.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qmp-peer.h"
#include "qapi/qapi-commands.h"
#include "qapi/test-qapi-commands.h"
#include "qapi/test-qapi-events.h"
#include "util/error.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qapi/test-qapi-types.c"
#include "qapi/test-qapi-commands.c"
#include "qapi/test-qapi-events.c"

/* ---- the commands ---------------------------------------------------------- */

/* The gate that `slow' waits at. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool open;
    bool waiting; /* read without the lock by spin_until */
} gate = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER };

static void set_gate(bool open)
{
    pthread_mutex_lock(&gate.lock);
    gate.open = open;
    pthread_cond_broadcast(&gate.cond);
    pthread_mutex_unlock(&gate.lock);
}

char *qmp_slow(Monitor *mon, const char *value, GError **errp)
{
    pthread_mutex_lock(&gate.lock);
    __atomic_store_n(&gate.waiting, true, __ATOMIC_RELEASE);
    while (!gate.open) {
        pthread_cond_wait(&gate.cond, &gate.lock);
    }
    __atomic_store_n(&gate.waiting, false, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&gate.lock);
    if (strcmp(value, "emit") == 0) {
        qapi_event_send_nothing_happened(mon->set);
    }
    return g_strdup(value);
}

Everything *qmp_echo(Monitor *mon, Everything *arg, GError **errp)
{
    json_object *copy = qapi_output_Everything(arg);
    QapiInput in = { .value = copy };
    Everything *result = NULL;

    qapi_input_Everything(&in, &result, errp);
    json_object_put(copy);
    return result;
}

json_object *qmp_echo_any(Monitor *mon, json_object *value, GError **errp)
{
    return json_object_get(value);
}

int64_t qmp_echo_int(Monitor *mon, int64_t value, const char *q_if, bool has_list,
                     intList *list, GError **errp)
{
    g_assert_true(q_if == NULL || *q_if);
    return has_list && list ? value + list->value : value;
}

bool qmp_nothing_now(Monitor *mon, GError **errp)
{
    return true;
}

bool qmp_fail(Monitor *mon, const char *message, bool has_class, int64_t class,
              GError **errp)
{
    g_set_error(errp, SIDECAR_ERROR, has_class ? (int)class : SIDECAR_ERROR_GENERIC, "%s",
                message);
    return false;
}

bool qmp_silent(Monitor *mon, bool has_fail, bool fail, GError **errp)
{
    if (has_fail && fail) {
        error_set(errp, "not so silent");
        return false;
    }
    return true;
}

bool qmp_emit(Monitor *mon, GError **errp)
{
    Point to = { 1, 2 };
    Dot dot = { .x = 3, .y = 4, .colour = COLOUR_RED };

    qapi_event_send_nothing_happened(mon->set);
    qapi_event_send_dot_moved(mon->set, "d", &to, true, 5);
    qapi_event_send_dot_moved(mon->set, "d", NULL, false, 0);
    qapi_event_send_dot_drawn(mon->set, &dot);
    return true;
}

/* ---- the fixture ------------------------------------------------------------ */

typedef struct {
    FakeEmulator fake;
    MonitorSet *set;
    GArray *commands;
    Peer a, b;
} Fixture;

static void add_command(GArray *table, const QmpCommand *command)
{
    g_array_append_vals(table, command, 1);
}

/* The test's commands and, of the real ones, those that are about monitors. */
static GArray *command_table(void)
{
    static const char *const real[] = { "qmp_capabilities", "getfd", "closefd", "add-fd",
                                        "remove-fd", "query-commands", "query-qmp-schema" };
    GArray *table = g_array_new(TRUE, TRUE, sizeof(QmpCommand));

    for (const QmpCommand *c = test_qmp_commands; c->name; c++) {
        add_command(table, c);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(real); i++) {
        add_command(table, qmp_find_command(qmp_commands, real[i]));
    }
    return table;
}

static void set_up_with(Fixture *f, bool emulator)
{
    MonitorEmulator ops;

    memset(f, 0, sizeof(*f));
    f->a.fd = f->b.fd = -1;
    set_gate(false);
    fake_init(&f->fake, &ops);
    f->commands = command_table();
    f->set = monitor_set_new_full(NULL, (const QmpCommand *)f->commands->data,
                                  emulator ? &ops : NULL);
}

static void set_up(Fixture *f)
{
    set_up_with(f, true);
    peer_open(&f->a, f->set, false);
    peer_negotiate(&f->a);
}

static void tear_down(Fixture *f)
{
    set_gate(true);
    monitor_set_free(f->set);
    peer_close(&f->a);
    peer_close(&f->b);
    fake_clear(&f->fake);
    g_array_unref(f->commands);
}

static unsigned open_fds(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

static void peer_ask(Peer *peer, const char *request, const char *reply)
{
    peer_send(peer, request);
    peer_expect(peer, reply);
}

#define NEGOTIATE_FIRST                                                          \
    "\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Expecting capabilities " \
    "negotiation with 'qmp_capabilities'\"}}"

/* ---- negotiation --------------------------------------------------------------- */

static void test_negotiation(void)
{
    Fixture f;

    set_up_with(&f, true);
    peer_open(&f.a, f.set, false);
    peer_expect(&f.a, "{\"QMP\": {\"version\": \"fake\", \"capabilities\": []}}");
    peer_ask(&f.a, "{\"execute\":\"nothing-now\"}", "{" NEGOTIATE_FIRST);
    peer_ask(&f.a, "{\"execute\":\"query-status\",\"id\":1}", "{\"id\": 1, " NEGOTIATE_FIRST);
    peer_ask(&f.a, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}",
             "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Capability oob not "
             "available\"}}");
    peer_ask(&f.a, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]},\"id\":2}",
             "{\"return\": {}, \"id\": 2}");
    peer_ask(&f.a, "{\"execute\":\"qmp_capabilities\"}",
             "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Capabilities "
             "negotiation is already complete, command ignored\"}}");
    peer_ask(&f.a, "{\"execute\":\"nothing-now\"}", "{\"return\": {}}");
    tear_down(&f);
}

/* ---- requests and replies ---------------------------------------------------------- */

static void test_replies(void)
{
    Fixture f;

    set_up(&f);
    peer_ask(&f.a, "{\"execute\":\"echo-int\",\"arguments\":{\"value\":7,\"if\":\"x\","
                   "\"list\":[3]},\"id\":{\"a\":[null]}}",
             "{\"return\": 10, \"id\": {\"a\": [null]}}");
    peer_ask(&f.a, "{\"execute\":\"nothing_now\",\"id\":null}", "{\"return\": {}, \"id\": null}");
    peer_ask(&f.a, "{\"execute\":\"echo\"}", "{\"return\": {}}");
    peer_ask(&f.a, "{\"execute\":\"echo\",\"arguments\":{\"flags\":[]}}",
             "{\"return\": {\"flags\": []}}");
    peer_ask(&f.a, "{\"execute\":\"echo-any\",\"arguments\":{\"value\":'\303\244'}}",
             "{\"return\": \"\\u00E4\"}");
    peer_ask(&f.a, "{\"execute\":\"echo-any\",\"arguments\":{\"value\":null}}",
             "{\"return\": null}");
    peer_ask(&f.a, "{\"execute\":\"nothing-now\",\"arguments\":{\"x\":1}}",
             "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter 'x' is "
             "unexpected\"}}");
    peer_ask(&f.a, "{\"execute\":\"echo-int\",\"id\":3}",
             "{\"id\": 3, \"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter "
             "'value' is missing\"}}");
    peer_ask(&f.a, "{\"execute\":\"fail\",\"arguments\":{\"message\":\"m\",\"class\":3}}",
             "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"m\"}}");
    peer_ask(&f.a, "{\"execute\":3,\"id\":4}",
             "{\"id\": 4, \"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input "
             "member 'execute' must be a string\"}}");
    peer_ask(&f.a, "[1}",
             "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, "
             "expected separator in list\"}}");
    tear_down(&f);
}

static void test_silence(void)
{
    Fixture f;

    set_up(&f);
    peer_send(&f.a, "{\"execute\":\"silent\"}{\"execute\":\"nothing-now\",\"id\":1}");
    peer_expect(&f.a, "{\"return\": {}, \"id\": 1}");
    peer_ask(&f.a, "{\"execute\":\"silent\",\"arguments\":{\"fail\":true}}",
             "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not so silent\"}}");
    tear_down(&f);
}

static void test_pretty(void)
{
    Fixture f;

    set_up_with(&f, true);
    peer_open(&f.a, f.set, true);
    for (const char *const *line = (const char *const[]){
             "{", "    \"QMP\": {", "        \"version\": \"fake\",",
             "        \"capabilities\": [", "        ]", "    }", "}", NULL }; *line; line++) {
        peer_expect(&f.a, *line);
    }
    tear_down(&f);
}

static void test_byte_by_byte(void)
{
    static const char text[] = "{'execute':'echo-int','arguments':{'value':123},'id':'it\\'s'}";
    Fixture f;

    set_up(&f);
    for (const char *p = text; *p; p++) {
        char one[] = { *p, 0 };

        peer_send(&f.a, one);
        spin();
    }
    peer_expect(&f.a, "{\"return\": 123, \"id\": \"it's\"}");
    tear_down(&f);
}

/* One write, no spaces; some on threads, some in QEMU. */
static void test_order(void)
{
    Fixture f;

    set_up(&f);
    peer_send(&f.a, "{'execute':'slow','arguments':{'value':'first'},'id':1}"
                    "{'execute':'nothing-now','id':2}{'execute':'theirs','id':3}"
                    "{'execute':'nothing-now','id':4}");
    spin_until(&gate.waiting, "the slow command");
    peer_expect_nothing(&f.a);
    set_gate(true);
    peer_expect(&f.a, "{\"return\": \"first\", \"id\": 1}");
    peer_expect(&f.a, "{\"return\": {}, \"id\": 2}");
    peer_expect_nothing(&f.a);
    fake_answer(&f.fake, "theirs", "null", "{\"return\": [5], \"id\": \"inner\"}");
    peer_expect(&f.a, "{\"return\": [5], \"id\": 3}");
    peer_expect(&f.a, "{\"return\": {}, \"id\": 4}");
    tear_down(&f);
}

static void test_clients_do_not_wait_for_each_other(void)
{
    Fixture f;

    set_up(&f);
    peer_open(&f.b, f.set, false);
    peer_negotiate(&f.b);
    peer_send(&f.a, "{'execute':'slow','arguments':{'value':'x'}}");
    spin_until(&gate.waiting, "the slow command");
    for (int i = 0; i < 5; i++) {
        peer_ask(&f.b, "{'execute':'echo-int','arguments':{'value':9}}", "{\"return\": 9}");
    }
    peer_send(&f.b, "{'execute':'theirs'}");
    fake_answer(&f.fake, "theirs", "null", "{\"return\": {}}");
    peer_expect(&f.b, "{\"return\": {}}");
    peer_expect_nothing(&f.a);
    set_gate(true);
    peer_expect(&f.a, "{\"return\": \"x\"}");
    tear_down(&f);
}

/* ---- QEMU's commands ------------------------------------------------------------------ */

static void test_pass_through(void)
{
    Fixture f;

    set_up(&f);
    peer_send(&f.a, "{'execute':'stop','arguments':{'a':[1,{'b':null}]},'id':[]}");
    fake_answer(&f.fake, "stop", "{\"a\": [1, {\"b\": null}]}", "{\"return\": {\"x\": 1}}");
    peer_expect(&f.a, "{\"return\": {\"x\": 1}, \"id\": []}");

    peer_send(&f.a, "{'execute':'balloon'}");
    fake_answer(&f.fake, "balloon", "null",
                "{\"id\": 77, \"error\": {\"class\": \"KVMMissingCap\", \"desc\": \"no\"}}");
    peer_expect(&f.a, "{\"error\": {\"class\": \"KVMMissingCap\", \"desc\": \"no\"}}");

    peer_send(&f.a, "{'execute':'cont','id':2}");
    fake_answer(&f.fake, "cont", "null", NULL);
    peer_expect(&f.a, "{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": "
                      "\"QEMU has ended\"}}");
    peer_send(&f.a, "{'execute':'quit','id':3}");
    fake_answer(&f.fake, "quit", "null", NULL);
    peer_expect(&f.a, "{\"return\": {}, \"id\": 3}");
    tear_down(&f);
}

static void test_without_emulator(void)
{
    Fixture f;

    set_up_with(&f, false);
    peer_open(&f.a, f.set, false);
    peer_negotiate(&f.a);
    peer_ask(&f.a, "{'execute':'stop','id':2}",
             "{\"id\": 2, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command "
             "stop has not been found\"}}");
    tear_down(&f);
}

/* ---- clients that leave ------------------------------------------------------------------ */

static void test_client_leaves_during_a_command(void)
{
    Fixture f;

    set_up(&f);
    peer_open(&f.b, f.set, false);
    peer_negotiate(&f.b);
    peer_send(&f.a, "{'execute':'slow','arguments':{'value':'x'}}{'execute':'nothing-now'}");
    spin_until(&gate.waiting, "the slow command");
    peer_close(&f.a);
    peer_ask(&f.b, "{'execute':'nothing-now'}", "{\"return\": {}}");
    set_gate(true);
    while (f.set->running) {
        g_main_context_iteration(NULL, TRUE);
    }
    peer_ask(&f.b, "{'execute':'nothing-now'}", "{\"return\": {}}");
    tear_down(&f);
}

static void test_client_leaves_while_qemu_works(void)
{
    Fixture f;

    set_up(&f);
    peer_send(&f.a, "{'execute':'theirs'}");
    while (!fake_pending(&f.fake)) {
        g_main_context_iteration(NULL, TRUE);
    }
    peer_close(&f.a);
    spin();
    fake_answer(&f.fake, "theirs", "null", "{\"return\": {}}");
    tear_down(&f);
}

/* "… | socat - unix:qmp": the end of input is not the end of the answers. */
static void test_end_of_input_waits_for_answers(void)
{
    Fixture f;

    set_up(&f);
    peer_send(&f.a, "{'execute':'slow','arguments':{'value':'x'}}{'execute':'nothing-now'}");
    shutdown(f.a.fd, SHUT_WR);
    spin_until(&gate.waiting, "the slow command");
    set_gate(true);
    peer_expect(&f.a, "{\"return\": \"x\"}");
    peer_expect(&f.a, "{\"return\": {}}");
    peer_expect_end(&f.a);
    tear_down(&f);
}

static gboolean open_gate(void *opaque)
{
    set_gate(true);
    return G_SOURCE_REMOVE;
}

static gboolean qemu_is_gone(void *opaque)
{
    fake_answer(opaque, "theirs", "null", NULL);
    return G_SOURCE_REMOVE;
}

static void test_end_with_commands_under_way(void)
{
    Fixture f;

    set_up(&f);
    peer_open(&f.b, f.set, false);
    peer_negotiate(&f.b);
    peer_send(&f.a, "{'execute':'slow','arguments':{'value':'emit'}}{'execute':'nothing-now'}");
    peer_send(&f.b, "{'execute':'theirs'}{'execute':'nothing-now'}");
    spin_until(&gate.waiting, "the slow command");
    while (!fake_pending(&f.fake)) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_timeout_add(20, open_gate, NULL);
    g_timeout_add(10, qemu_is_gone, &f.fake);
    monitor_set_free(f.set);
    peer_expect_end(&f.a); /* and no answer to a client that was told goodbye */
    f.set = monitor_set_new_full(NULL, test_qmp_commands, NULL);
    tear_down(&f);
}

/* What was answered before the end arrives: `quit'. */
static void test_last_words_arrive(void)
{
    Fixture f;

    set_up(&f);
    peer_send(&f.a, "{'execute':'quit','id':9}");
    fake_answer(&f.fake, "quit", "null", "{\"return\": {}}");
    monitor_set_free(f.set);
    peer_expect(&f.a, "{\"return\": {}, \"id\": 9}");
    peer_expect_end(&f.a);
    f.set = monitor_set_new_full(NULL, test_qmp_commands, NULL);
    tear_down(&f);
}

/* ---- back-pressure -------------------------------------------------------------------------- */

/* A client that sends and never reads gets all its answers later, and meanwhile
 * neither its requests nor our answers pile up. */
static void test_slow_reader(void)
{
    g_autofree char *big = g_strnfill(100000, 'x');
    g_autofree char *request = g_strdup_printf(
        "{'execute':'echo-any','arguments':{'value':'%s'}}", big);
    enum { N = 300 };
    size_t sent = 0;
    Fixture f;
    g_autoptr(GString) all = g_string_new(NULL);

    set_up(&f);
    for (int i = 0; i < N; i++) {
        g_string_append(all, request);
    }
    for (int idle = 0; idle < 20; idle++) { /* until nothing goes in any more */
        ssize_t n = send(f.a.fd, all->str + sent, all->len - sent,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n > 0) {
            sent += n;
            idle = 0;
        }
        spin();
    }
    g_assert_cmpuint(sent, <, 4 << 20); /* of 30 MB */
    for (int i = 0; i < N; i++) {
        g_autofree char *line = NULL;

        while (sent < all->len) {
            ssize_t n = send(f.a.fd, all->str + sent, all->len - sent,
                             MSG_DONTWAIT | MSG_NOSIGNAL);

            if (n <= 0) {
                break;
            }
            sent += n;
        }
        line = peer_line(&f.a);
        g_assert_cmpuint(strlen(line), ==, 100000 + strlen("{\"return\": \"\"}"));
    }
    peer_ask(&f.a, "{'execute':'nothing-now'}", "{\"return\": {}}");
    tear_down(&f);
}

/* ---- events ----------------------------------------------------------------------------------- */

static void expect_event(Peer *peer, const char *rest)
{
    static const char head[] = "{\"timestamp\": {\"seconds\": ";
    g_autofree char *line = peer_line(peer);
    const char *p = strstr(line, "}, \"event\": ");

    g_assert_true(g_str_has_prefix(line, head));
    g_assert_nonnull(strstr(line, ", \"microseconds\": "));
    g_assert_nonnull(p);
    g_assert_cmpstr(p + 3, ==, rest);
}

static void expect_emitted(Peer *peer)
{
    expect_event(peer, "\"event\": \"NOTHING_HAPPENED\"}");
    expect_event(peer, "\"event\": \"DOT_MOVED\", \"data\": {\"name\": \"d\", \"to\": {\"x\": 1, "
                       "\"y\": 2}, \"steps\": 5}}");
    expect_event(peer, "\"event\": \"DOT_MOVED\", \"data\": {\"name\": \"d\"}}");
    expect_event(peer, "\"event\": \"DOT_DRAWN\", \"data\": {\"x\": 3, \"y\": 4, \"colour\": "
                       "\"red\"}}");
}

static void test_events(void)
{
    Fixture f;
    json_object *event = json_tokener_parse("{\"event\": \"STOP\", \"timestamp\": {}}");

    set_up(&f);
    peer_open(&f.b, f.set, false);
    g_free(peer_line(&f.b)); /* the greeting, and no more */
    peer_send(&f.a, "{'execute':'emit'}");
    expect_emitted(&f.a); /* before the reply */
    peer_expect(&f.a, "{\"return\": {}}");
    peer_expect_nothing(&f.b);
    peer_ask(&f.b, "{'execute':'qmp_capabilities'}", "{\"return\": {}}");
    peer_send(&f.a, "{'execute':'emit'}");
    expect_emitted(&f.b);
    monitor_set_event(f.set, event); /* QEMU's */
    peer_expect(&f.b, "{\"event\": \"STOP\", \"timestamp\": {}}");
    json_object_put(event);
    tear_down(&f);
}

static void test_events_of_threads(void)
{
    Fixture f;

    set_up(&f);
    set_gate(true);
    for (int i = 0; i < 50; i++) {
        peer_send(&f.a, "{'execute':'slow','arguments':{'value':'emit'}}");
        expect_event(&f.a, "\"event\": \"NOTHING_HAPPENED\"}");
        peer_expect(&f.a, "{\"return\": \"emit\"}");
    }
    tear_down(&f);
}

static void *emit_many(void *opaque)
{
    for (int i = 0; i < 200; i++) {
        qapi_event_send_dot_moved(opaque, "t", NULL, true, i);
    }
    return NULL;
}

/* Each thread's events in its order, while clients come and go. */
static void test_events_while_clients_come_and_go(void)
{
    Fixture f;
    GThread *thread;

    set_up(&f);
    thread = g_thread_new("events", emit_many, f.set);
    for (int i = 0; i < 30; i++) {
        peer_open(&f.b, f.set, false);
        g_free(peer_line(&f.b));
        peer_send(&f.b, "{'execute':'qmp_capabilities'}");
        spin();
        peer_close(&f.b);
    }
    g_thread_join(thread);
    for (int i = 0; i < 200; i++) {
        g_autofree char *want = g_strdup_printf(
            "\"event\": \"DOT_MOVED\", \"data\": {\"name\": \"t\", \"steps\": %d}}", i);

        expect_event(&f.a, want);
    }
    tear_down(&f);
}

/* ---- descriptors --------------------------------------------------------------------------------- */

static int temp_file(int flags)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("qmp-XXXXXX", &path, NULL);
    int result = open(path, flags | O_CLOEXEC);

    g_assert_cmpint(result, >=, 0);
    unlink(path);
    close(fd);
    return result;
}

static bool same_file(int a, int b)
{
    struct stat sa, sb;

    return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 && sa.st_ino == sb.st_ino &&
           sa.st_dev == sb.st_dev;
}

#define NO_FD "{\"error\": {\"class\": \"GenericError\", \"desc\": \"No file descriptor supplied " \
              "via SCM_RIGHTS\"}}"

static void test_getfd(void)
{
    Fixture f;
    int file, other, got;
    unsigned before;
    Monitor *mon;
    GError *err = NULL;

    set_up(&f);
    file = temp_file(O_RDWR);
    other = temp_file(O_RDWR);
    before = open_fds();
    mon = g_ptr_array_index(f.set->monitors, 0);

    peer_ask(&f.a, "{'execute':'getfd','arguments':{'fdname':'x'}}", NO_FD);
    peer_send_fds(&f.a, "{'execute':'getfd','arguments':{'fdname':'1x'}}", &file, 1);
    peer_expect(&f.a, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter 'fdname' "
                      "expects a name not starting with a digit\"}}");
    peer_send_fds(&f.a, "{'execute':'getfd','arguments':{'fdname':'x'}}", &other, 1);
    peer_expect(&f.a, "{\"return\": {}}");
    /* A second one under the name replaces it; the others that come along go. */
    peer_send_fds(&f.a, "{'execute':'getfd','arguments':{'fdname':'x'}}",
                  (int[]){ file, other, other }, 3);
    peer_expect(&f.a, "{\"return\": {}}");
    g_assert_cmpuint(open_fds(), ==, before + 1);

    got = monitor_take_fd(mon, "x", &err);
    g_assert_no_error(err);
    g_assert_true(same_file(got, file));
    g_assert_cmpint(fcntl(got, F_GETFD), ==, FD_CLOEXEC);
    close(got);
    g_assert_cmpint(monitor_take_fd(mon, "x", &err), ==, -1);
    g_assert_cmpstr(err->message, ==, "File descriptor named 'x' not found");
    g_clear_error(&err);

    peer_send_fds(&f.a, "{'execute':'getfd','arguments':{'fdname':'y'}}", &file, 1);
    peer_expect(&f.a, "{\"return\": {}}");
    peer_ask(&f.a, "{'execute':'closefd','arguments':{'fdname':'y'}}", "{\"return\": {}}");
    peer_ask(&f.a, "{'execute':'closefd','arguments':{'fdname':'y'}}",
             "{\"error\": {\"class\": \"GenericError\", \"desc\": \"File descriptor named 'y' "
             "not found\"}}");
    /* Unclaimed and kept ones go with the client. */
    peer_send_fds(&f.a, "{'execute':'getfd','arguments':{'fdname':'z'}}", &file, 1);
    peer_expect(&f.a, "{\"return\": {}}");
    peer_send_fds(&f.a, " ", &file, 1);
    spin();
    g_assert_cmpuint(open_fds(), ==, before + 2);
    close(file);
    close(other);
    tear_down(&f);
}

static void test_names_belong_to_a_client(void)
{
    Fixture f;
    int file;

    set_up(&f);
    file = temp_file(O_RDWR);
    peer_open(&f.b, f.set, false);
    peer_negotiate(&f.b);
    peer_send_fds(&f.a, "{'execute':'getfd','arguments':{'fdname':'x'}}", &file, 1);
    peer_expect(&f.a, "{\"return\": {}}");
    peer_ask(&f.b, "{'execute':'closefd','arguments':{'fdname':'x'}}",
             "{\"error\": {\"class\": \"GenericError\", \"desc\": \"File descriptor named 'x' "
             "not found\"}}");
    close(file);
    tear_down(&f);
}

static void test_too_many_names(void)
{
    Fixture f;
    int file;
    unsigned before;

    set_up(&f);
    file = temp_file(O_RDWR);
    before = open_fds();
    for (int i = 0; i < 64; i++) {
        g_autofree char *text = g_strdup_printf(
            "{'execute':'getfd','arguments':{'fdname':'x%d'}}", i);

        peer_send_fds(&f.a, text, &file, 1);
        peer_expect(&f.a, "{\"return\": {}}");
    }
    peer_send_fds(&f.a, "{'execute':'getfd','arguments':{'fdname':'y'}}", &file, 1);
    peer_expect(&f.a, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Too many file "
                      "descriptors are kept already (64)\"}}");
    g_assert_cmpuint(open_fds(), ==, before + 64);
    close(file);
    tear_down(&f);
}

/* QEMU is lent a descriptor for the command that mentions it. */
static void test_lent_and_used(void)
{
    Fixture f;
    int file, got;
    unsigned before;

    set_up(&f);
    file = temp_file(O_RDWR);
    peer_send_fds(&f.a, "{'execute':'getfd','arguments':{'fdname':'mig'}}", &file, 1);
    peer_expect(&f.a, "{\"return\": {}}");
    before = open_fds();

    peer_send(&f.a, "{'execute':'migrate','arguments':{'uri':'fd:mig'},'id':5}");
    got = fake_answer(&f.fake, "getfd", "{\"fdname\": \"mig\"}", "{\"return\": {}}");
    g_assert_true(same_file(got, file));
    close(got);
    fake_answer(&f.fake, "migrate", "{\"uri\": \"fd:mig\"}", "{\"return\": {}}");
    peer_expect_nothing(&f.a); /* until it is known whether it was used */
    fake_answer(&f.fake, "closefd", "{\"fdname\": \"mig\"}",
                "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not found\"}}");
    peer_expect(&f.a, "{\"return\": {}, \"id\": 5}");
    g_assert_cmpuint(open_fds(), ==, before - 1); /* ours went too */

    peer_send(&f.a, "{'execute':'migrate','arguments':{'uri':'fd:mig'}}");
    fake_answer(&f.fake, "migrate", "{\"uri\": \"fd:mig\"}", "{\"return\": {}}");
    peer_expect(&f.a, "{\"return\": {}}");
    close(file);
    tear_down(&f);
}

static void test_lent_and_not_used(void)
{
    Fixture f;
    int file;
    unsigned before;

    set_up(&f);
    file = temp_file(O_RDWR);
    peer_send_fds(&f.a, "{'execute':'getfd','arguments':{'fdname':'d'}}", &file, 1);
    peer_expect(&f.a, "{\"return\": {}}");
    before = open_fds();
    for (int i = 0; i < 3; i++) {
        peer_send(&f.a, "{'execute':'theirs','arguments':{'a':[{'b':'d'}]}}");
        close(fake_answer(&f.fake, "getfd", "{\"fdname\": \"d\"}", "{\"return\": {}}"));
        fake_answer(&f.fake, "theirs", "{\"a\": [{\"b\": \"d\"}]}", "{\"return\": {}}");
        fake_answer(&f.fake, "closefd", "{\"fdname\": \"d\"}", "{\"return\": {}}");
        peer_expect(&f.a, "{\"return\": {}}");
    }
    g_assert_cmpuint(open_fds(), ==, before);
    close(file);
    tear_down(&f);
}

static void add_fd(Fixture *f, int fd, const char *args, int set, int number)
{
    g_autofree char *request = g_strdup_printf("{'execute':'add-fd','arguments':%s}", args);
    g_autofree char *answer = g_strdup_printf(
        "{\"return\": {\"fdset-id\": %d, \"fd\": %d}}", set, number);
    int got;

    peer_send_fds(&f->a, request, &fd, 1);
    got = fake_answer(&f->fake, "add-fd", args, answer);
    g_assert_true(same_file(got, fd));
    close(got);
    peer_expect(&f->a, answer);
}

static void test_fdsets(void)
{
    Fixture f;
    int reader, writer, got;
    Monitor *mon;
    GError *err = NULL;

    set_up(&f);
    reader = temp_file(O_RDONLY);
    writer = temp_file(O_WRONLY);
    mon = g_ptr_array_index(f.set->monitors, 0);
    peer_ask(&f.a, "{'execute':'add-fd'}", NO_FD);
    add_fd(&f, reader, "{\"fdset-id\": 4, \"opaque\": \"note\"}", 4, 20);
    g_assert_cmpint(monitor_fdset_dup(mon, 4, O_WRONLY, &err), ==, -1);
    g_assert_cmpstr(err->message, ==,
                    "fdset 4 has no file descriptor that is open for writing");
    g_clear_error(&err);
    add_fd(&f, writer, "{\"fdset-id\": 4}", 4, 21);
    for (int i = 0; i < 2; i++) { /* it is kept */
        got = monitor_fdset_dup(mon, 4, O_WRONLY, &err);
        g_assert_no_error(err);
        g_assert_true(same_file(got, writer));
        close(got);
    }
    g_assert_cmpint(monitor_fdset_dup(mon, 5, O_WRONLY, &err), ==, -1);
    g_assert_cmpstr(err->message, ==, "File descriptor named 'fdset-id:5' not found");
    g_clear_error(&err);

    peer_send(&f.a, "{'execute':'remove-fd','arguments':{'fdset-id':4,'fd':21}}");
    fake_answer(&f.fake, "remove-fd", "{\"fdset-id\": 4, \"fd\": 21}", "{\"return\": {}}");
    peer_expect(&f.a, "{\"return\": {}}");
    g_assert_cmpint(monitor_fdset_dup(mon, 4, O_WRONLY, NULL), ==, -1);
    close(monitor_fdset_dup(mon, 4, O_RDONLY, &err));
    g_assert_no_error(err);

    /* QEMU refuses: nothing changes. */
    peer_send(&f.a, "{'execute':'remove-fd','arguments':{'fdset-id':4}}");
    fake_answer(&f.fake, "remove-fd", "{\"fdset-id\": 4}",
                "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}");
    peer_expect(&f.a, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}");
    g_assert_cmpuint(f.set->fdset_fds->len, ==, 1);

    /* The last client leaves: QEMU is told to give the set up. */
    peer_close(&f.a);
    fake_answer(&f.fake, "remove-fd", "{\"fdset-id\": 4}", "{\"return\": {}}");
    g_assert_cmpuint(f.set->fdset_fds->len, ==, 0);
    close(reader);
    close(writer);
    tear_down(&f);
}

/* add-fd, then an add-fd that QEMU refuses: no descriptor stays. */
static void test_add_fd_refused(void)
{
    Fixture f;
    int file;
    unsigned before;

    set_up(&f);
    file = temp_file(O_RDWR);
    before = open_fds();
    peer_send_fds(&f.a, "{'execute':'add-fd','arguments':{'fdset-id':-1}}", &file, 1);
    close(fake_answer(&f.fake, "add-fd", "{\"fdset-id\": -1}",
                      "{\"error\": {\"class\": \"GenericError\", \"desc\": \"bad\"}}"));
    peer_expect(&f.a, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"bad\"}}");
    g_assert_cmpuint(open_fds(), ==, before);
    peer_send_fds(&f.a, "{'execute':'add-fd'}", &file, 1);
    close(fake_answer(&f.fake, "add-fd", "{}", "{\"return\": {\"x\": 1}}"));
    peer_expect(&f.a, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter "
                      "'fdset-id' is missing\"}}");
    g_assert_cmpuint(open_fds(), ==, before);
    close(file);
    tear_down(&f);
}

/* ---- lists ------------------------------------------------------------------------------------------ */

static void test_query_commands(void)
{
    Fixture f;
    g_autofree char *line = NULL;

    set_up(&f);
    peer_send(&f.a, "{'execute':'query-commands'}");
    fake_answer(&f.fake, "query-commands", "null",
                "{\"return\": [{\"name\": \"stop\"}, {\"name\": \"echo\"}]}");
    line = peer_line(&f.a);
    g_assert_true(g_str_has_prefix(
        line, "{\"return\": [{\"name\": \"stop\"}, {\"name\": \"echo\"}, {\"name\": "));
    g_assert_nonnull(strstr(line, "{\"name\": \"nothing-now\"}"));
    g_assert_nonnull(strstr(line, "{\"name\": \"nothing_now\"}"));
    g_assert_null(strstr(strstr(line, "\"echo\"") + 1, "\"echo\""));
    tear_down(&f);
}

/* The entries of the real schema, QEMU's without those that ours replace. */
static void test_query_schema(void)
{
    Fixture f;
    g_autofree char *line = NULL;

    set_up(&f);
    peer_send(&f.a, "{'execute':'query-qmp-schema'}");
    fake_answer(&f.fake, "query-qmp-schema", "null",
                "{\"return\": [{\"name\": \"backup\", \"meta-type\": \"theirs\"}, "
                "{\"name\": \"str\", \"meta-type\": \"theirs\"}, "
                "{\"name\": \"E\", \"meta-type\": \"event\", \"arg-type\": \"0\"}, "
                "{\"name\": \"0\", \"meta-type\": \"theirs\", \"members\": [{\"type\": \"[1]\"}], "
                "\"variants\": [{\"case\": \"x\", \"type\": \"2\"}]}, "
                "{\"name\": \"[1]\", \"element-type\": \"1\"}, {\"name\": \"1\"}, "
                "{\"name\": \"2\", \"members\": [{\"type\": \"0\"}]}, {\"name\": \"3\"}]}");
    line = peer_line(&f.a);
    g_assert_null(strstr(line, "{\"name\": \"str\", \"meta-type\": \"theirs\"}"));
    g_assert_true(g_str_has_suffix(line, "{\"name\": \"[1]\", \"element-type\": \"1\"}, "
                                         "{\"name\": \"1\"}, {\"name\": \"2\", \"members\": "
                                         "[{\"type\": \"0\"}]}]}")); /* but not 3 */
    g_assert_null(strstr(line, "{\"name\": \"backup\", \"meta-type\": \"theirs\"}"));
    g_assert_nonnull(strstr(line, "{\"name\": \"backup\", \"ret-type\": \"str\""));
    g_assert_nonnull(strstr(line, "{\"name\": \"0\", \"meta-type\": \"theirs\", "));

    peer_send(&f.a, "{'execute':'query-qmp-schema'}");
    fake_answer(&f.fake, "query-qmp-schema", "null", "{\"return\": 3}");
    peer_expect(&f.a, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"QEMU's answer to "
                      "'query-qmp-schema' is no list\"}}");
    tear_down(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qmp/negotiation", test_negotiation);
    g_test_add_func("/qmp/replies", test_replies);
    g_test_add_func("/qmp/no-success-response", test_silence);
    g_test_add_func("/qmp/pretty", test_pretty);
    g_test_add_func("/qmp/byte-by-byte", test_byte_by_byte);
    g_test_add_func("/qmp/replies-in-order", test_order);
    g_test_add_func("/qmp/clients-do-not-wait-for-each-other",
                    test_clients_do_not_wait_for_each_other);
    g_test_add_func("/qmp/pass-through", test_pass_through);
    g_test_add_func("/qmp/without-emulator", test_without_emulator);
    g_test_add_func("/qmp/leave/during-a-command", test_client_leaves_during_a_command);
    g_test_add_func("/qmp/leave/while-qemu-works", test_client_leaves_while_qemu_works);
    g_test_add_func("/qmp/leave/end-of-input-waits-for-answers",
                    test_end_of_input_waits_for_answers);
    g_test_add_func("/qmp/end/with-commands-under-way", test_end_with_commands_under_way);
    g_test_add_func("/qmp/end/last-words-arrive", test_last_words_arrive);
    g_test_add_func("/qmp/slow-reader-is-slowed-down", test_slow_reader);
    g_test_add_func("/qmp/events/in-order", test_events);
    g_test_add_func("/qmp/events/of-threads-before-the-reply", test_events_of_threads);
    g_test_add_func("/qmp/events/while-clients-come-and-go",
                    test_events_while_clients_come_and_go);
    g_test_add_func("/qmp/fds/getfd", test_getfd);
    g_test_add_func("/qmp/fds/names-belong-to-a-client", test_names_belong_to_a_client);
    g_test_add_func("/qmp/fds/too-many-names", test_too_many_names);
    g_test_add_func("/qmp/fds/lent-and-used", test_lent_and_used);
    g_test_add_func("/qmp/fds/lent-and-not-used", test_lent_and_not_used);
    g_test_add_func("/qmp/fds/sets", test_fdsets);
    g_test_add_func("/qmp/fds/add-fd-refused", test_add_fd_refused);
    g_test_add_func("/qmp/lists/commands", test_query_commands);
    g_test_add_func("/qmp/lists/schema", test_query_schema);
    return g_test_run();
}
