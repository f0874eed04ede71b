/*
 * HMP clients, over socketpairs, with a QEMU that is made up.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../hmp/commands.h"
#include "../../qapi/monitor-internal.h"
#include "qapi/qapi-commands.h"
#include "util/error.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define GREETING "QEMU 7.2.22 monitor - type 'help' for more information\r\n"

typedef struct {
    Sidecar sc;
    MonitorSet *set;
    json_object *version;
    GPtrArray *sent;     /* char *: "line" or "line @cpu", in order; main thread */
    GMutex lock;
    bool hold;           /* lock: don't answer until released */
    GPtrArray *held;     /* lock: Reply */
} Fixture;

typedef struct {
    Fixture *f;
    EmuQmpReplyFn *cb;
    void *opaque;
    json_object *reply;
    char *sent;
} Reply;

/* ---- the made-up QEMU ------------------------------------------------------- */

static const char *answer_to(const char *line)
{
    static const char *const answers[][2] = {
        { "info status", "VM status: running\r\n" },
        { "help", "boot_set bootdevice -- define\r\ncont|c  -- resume\r\n"
                  "eject [-f] device -- eject\r\n"
                  "info [subcommand] -- show\r\nquit|q  -- quit\r\n" },
        { "help info", "info cpus  -- show cpus\r\ninfo status  -- show status\r\n" },
        { "help boot_set", "boot_set bootdevice -- define\r\n" },
        { "x/2x $rip", "0000: 1 2\r\n" },
        { "cpu 9", "invalid CPU index\r\n" },
        { "cpu 1", "" }, { "quit", "" }, { "nmi", "" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(answers); i++) {
        if (g_str_equal(line, answers[i][0])) {
            return answers[i][1];
        }
    }
    return "unknown\r\n";
}

static json_object *make_reply(const char *command, json_object *args)
{
    json_object *reply = json_object_new_object(), *value = NULL;

    if (g_str_equal(command, "human-monitor-command")) {
        json_object_object_get_ex(args, "command-line", &value);
        value = json_object_new_string(answer_to(json_object_get_string(value)));
    } else if (g_str_equal(command, "query-block")) {
        value = json_tokener_parse("[{'device': 'floppy0'}, {'device': ''}, {}, 3]");
    } else {
        value = json_object_new_object();
    }
    json_object_object_add(reply, "return", value);
    return reply;
}

static void deliver(void *data)
{
    Reply *r = data;

    if (r->sent) {
        g_ptr_array_add(r->f->sent, g_steal_pointer(&r->sent));
    }
    g_mutex_lock(&r->f->lock);
    if (r->f->hold) {
        g_ptr_array_add(r->f->held, r);
        g_mutex_unlock(&r->f->lock);
        return;
    }
    g_mutex_unlock(&r->f->lock);
    r->cb(r->opaque, r->reply);
    json_object_put(r->reply);
    g_free(r);
}

static void fake_send(void *opaque, const char *command, json_object *args,
                      const int *fds, size_t n_fds, EmuQmpReplyFn *cb,
                      void *cb_opaque)
{
    Reply *r = g_new0(Reply, 1);
    json_object *line = NULL, *cpu = NULL;

    *r = (Reply) { .f = opaque, .cb = cb, .opaque = cb_opaque };
    if (args && json_object_object_get_ex(args, "command-line", &line)) {
        json_object_object_get_ex(args, "cpu-index", &cpu);
        r->sent = g_strdup_printf(cpu ? "%s @%d" : "%s",
                                  json_object_get_string(line),
                                  json_object_get_int(cpu));
    }
    /* NULL: QEMU is gone */
    if (!r->sent || (strcmp(r->sent, "die") && strcmp(r->sent, "q"))) {
        r->reply = make_reply(command, args);
    }
    json_object_put(args);
    monitor_invoke(r->f->set, deliver, r);
}

static json_object *fake_version(void *opaque)
{
    return ((Fixture *)opaque)->version;
}

static void hold(Fixture *f)
{
    g_mutex_lock(&f->lock);
    f->hold = true;
    g_mutex_unlock(&f->lock);
}

static void release(Fixture *f)
{
    g_autoptr(GPtrArray) held = NULL;

    g_mutex_lock(&f->lock);
    f->hold = false;
    held = f->held;
    f->held = g_ptr_array_new();
    g_mutex_unlock(&f->lock);
    for (guint i = 0; i < held->len; i++) {
        deliver(held->pdata[i]);
    }
}

static guint n_held(Fixture *f)
{
    guint n;

    g_mutex_lock(&f->lock);
    n = f->held->len;
    g_mutex_unlock(&f->lock);
    return n;
}

/* ---- fixture -------------------------------------------------------------------- */

static void setup(Fixture *f, gconstpointer data)
{
    MonitorEmulator emulator = { fake_send, fake_version, f };

    f->version = json_tokener_parse(
        "{'qemu': {'major': 7, 'minor': 2, 'micro': 22}, 'package': 'Debian'}");
    f->sent = g_ptr_array_new_with_free_func(g_free);
    f->held = g_ptr_array_new();
    f->sc.block = block_context_new();
    f->sc.backup = backup_manager_new(f->sc.block);
    blk_new(f->sc.block, "virtio0", NULL, NULL);
    blk_new(f->sc.block, "virtio1", NULL, NULL);
    f->set = monitor_set_new_full(&f->sc, qmp_commands, &emulator);
}

static void teardown(Fixture *f, gconstpointer data)
{
    g_clear_pointer(&f->set, monitor_set_free);
    backup_manager_free(f->sc.backup);
    block_context_free(f->sc.block);
    json_object_put(f->version);
    g_ptr_array_unref(f->sent);
    g_ptr_array_unref(f->held);
}

static gboolean give_up_cb(gpointer data)
{
    g_error("test-hmp: waited too long");
    return G_SOURCE_REMOVE;
}
#define run_until(cond)                                             \
    do {                                                            \
        guint timer_ = g_timeout_add_seconds(60, give_up_cb, NULL); \
        while (!(cond)) {                                           \
            g_main_context_iteration(NULL, TRUE);                   \
        }                                                           \
        g_source_remove(timer_);                                    \
    } while (0)

/* What comes until it ends with @end (NULL: until the connection is closed). */
static char *read_until(int fd, const char *end)
{
    GString *s = g_string_new(NULL);
    gint64 limit = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;

    while (!end || !g_str_has_suffix(s->str, end)) {
        char buf[4096];
        struct pollfd p = { .fd = fd, .events = POLLIN };
        ssize_t n;

        if (g_get_monotonic_time() > limit) {
            g_error("waited for \"%s\", have \"%s\"", end ? end : "the end", s->str);
        }
        while (g_main_context_iteration(NULL, FALSE)) {
        }
        if (poll(&p, 1, 5) <= 0) {
            continue;
        }
        n = read(fd, buf, sizeof(buf));
        if (n <= 0) {
            g_assert_null(end);
            break;
        }
        g_string_append_len(s, buf, n);
    }
    return g_string_free(s, FALSE);
}

static void type(int fd, const char *keys)
{
    g_assert_cmpint(write(fd, keys, strlen(keys)), ==, (ssize_t)strlen(keys));
}

/* A new client; its greeting is read. */
static int connect_client(Fixture *f)
{
    int sv[2];
    g_autofree char *greeting = NULL;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    monitor_add_hmp(f->set, chardev_new_fd(sv[0]));
    greeting = read_until(sv[1], "(qemu) ");
    g_assert_cmpstr(greeting, ==, GREETING "(qemu) ");
    return sv[1];
}

/* The output of a line, its echo taken off. */
static char *command(int fd, const char *line)
{
    g_autofree char *keys = g_strconcat(line, "\r", NULL);
    g_autofree char *text = NULL;
    char *start;

    type(fd, keys);
    text = read_until(fd, "\r\n(qemu) ");
    start = strstr(text, "\r\n");
    return g_strndup(start + 2, strlen(start + 2) - strlen("(qemu) "));
}

#define assert_says(fd, line, expected)               \
    do {                                              \
        g_autofree char *says_ = command(fd, line);   \
        g_assert_cmpstr(says_, ==, expected);         \
    } while (0)

/* ---- tests ------------------------------------------------------------------------ */

static void test_pass_through(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f);

    assert_says(fd, "info status", "VM status: running\r\n");
    assert_says(fd, "", "");
    assert_says(fd, "   ", "");
    /* as it was typed, whatever the syntax */
    assert_says(fd, " x/2x $rip", "0000: 1 2\r\n");
    assert_says(fd, "p \"a", "unknown\r\n");
    assert_says(fd, "foo % /x  'y' ", "unknown\r\n");
    g_assert_cmpuint(f->sent->len, ==, 4);
    g_assert_cmpstr(f->sent->pdata[2], ==, "p \"a");
    g_assert_cmpstr(f->sent->pdata[3], ==, "foo % /x  'y' ");
    assert_says(fd, "a\377b", "Error: the line is not valid UTF-8\r\n");
    assert_says(fd, "die", "Error: QEMU has ended\r\n");
    close(fd);
}

static void test_ours(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f);

    assert_says(fd, "info backup", "No backup has been started\r\n");
    assert_says(fd, "backup_cancel", "");
    assert_says(fd, "backup", "backup: filename expected\r\n"
                "Try \"help backup\" for more information\r\n");
    assert_says(fd, "info backup x", "backup: extraneous characters at the end of "
                "line\r\nTry \"help info backup\" for more information\r\n");
    assert_says(fd, "backup -s /nonexistent/x", "Error: Parameter 'state' is not "
                "supported yet: only drives can be backed up, not memory and devices\r\n");
    assert_says(fd, "backup /nonexistent/x 0 nosuch", "Error: Device 'nosuch' not found\r\n");
    assert_says(fd, "help backup_cancel",
                "backup_cancel  -- cancel the current VM backup\r\n");
    assert_says(fd, "? info backup", "info backup  -- show backup status\r\n");
    assert_says(fd, "help boot_set", "boot_set bootdevice -- define\r\n");
    assert_says(fd, "help info", "info backup  -- show backup status\r\n"
                "info block-jobs  -- show progress of ongoing block device operations\r\n"
                "info block-stream  -- show the progress of image streaming\r\n"
                "info cpus  -- show cpus\r\n"
                "info history  -- show the command line history\r\n"
                "info migrate  -- show migration status\r\n"
                "info migrate_cache_size  -- show the size of the XBZRLE cache\r\n"
                "info migrate_capabilities  -- show current migration capabilities\r\n"
                "info migrate_parameters  -- show current migration parameters\r\n"
                "info status  -- show status\r\n");
    assert_says(fd, "getfd x", "Error: No file descriptor supplied via SCM_RIGHTS\r\n");
    assert_says(fd, "closefd x", "Error: File descriptor named 'x' not found\r\n");
    close(fd);
}

static void test_lists(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f);
    g_autofree char *help = command(fd, "help");
    g_autofree char *info = command(fd, "info");
    const char *last = "";

    for (const HmpCommand *c = hmp_commands; c->name; c++) {
        g_autofree char *start = g_strdup_printf("%s %s -- %s\r\n", c->name,
                                                 c->params, c->help);

        g_assert_nonnull(strstr(help, start));
    }
    g_assert_nonnull(strstr(help, "boot_set bootdevice -- define\r\n"));
    for (const char *p = help; *p; p = strstr(p, "\r\n") + 2) {
        g_assert_cmpint(strcmp(p, last), >, 0);
        last = p;
    }
    g_assert_true(g_str_has_prefix(info, "info backup  -- "));
    close(fd);
}

static void test_history(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f), other = connect_client(f);

    assert_says(fd, "nmi", "");
    assert_says(fd, "foo", "unknown\r\n");
    assert_says(fd, "info history", "0: 'nmi'\r\n1: 'foo'\r\n2: 'info history'\r\n");
    assert_says(other, "info history", "0: 'info history'\r\n");
    close(fd);
    close(other);
}

static void test_cpu(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f), other = connect_client(f);

    assert_says(fd, "cpu 1", "");
    assert_says(fd, "info status", "VM status: running\r\n");
    assert_says(other, "info status", "VM status: running\r\n");
    assert_says(fd, "cpu 9", "invalid CPU index\r\n"); /* stays with the old one */
    assert_says(fd, "nmi", "");
    g_assert_cmpstr(f->sent->pdata[0], ==, "cpu 1");
    g_assert_cmpstr(f->sent->pdata[1], ==, "info status @1");
    g_assert_cmpstr(f->sent->pdata[2], ==, "info status");
    g_assert_cmpstr(f->sent->pdata[3], ==, "cpu 9 @1");
    g_assert_cmpstr(f->sent->pdata[4], ==, "nmi @1");
    close(fd);
    close(other);
}

/* What is typed while a command runs waits; another client does not. */
static void test_typed_ahead(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f), other = connect_client(f);
    g_autofree char *text = NULL;

    hold(f);
    type(fd, "nmi\rinfo status\rfoo\r");
    run_until(n_held(f) == 1);
    assert_says(other, "info backup", "No backup has been started\r\n");
    g_assert_cmpuint(f->sent->len, ==, 1);
    release(f);
    text = read_until(fd, "unknown\r\n(qemu) ");
    g_assert_nonnull(strstr(text, "nmi\033[K\r\n(qemu) i"));
    g_assert_nonnull(strstr(text, "info status\033[K\r\nVM status: running\r\n(qemu) f"));
    close(fd);
    close(other);
}

static void test_answers_after_eof(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f);
    g_autofree char *text = NULL;

    type(fd, "nmi\ninfo status\n");
    shutdown(fd, SHUT_WR);
    text = read_until(fd, NULL);
    g_assert_true(g_str_has_suffix(text, "VM status: running\r\n(qemu) "));
    close(fd);
}

static void test_client_goes_in_a_command(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f), other = connect_client(f);

    hold(f);
    type(fd, "nmi\rfoo\r");
    run_until(n_held(f) == 1);
    close(fd);
    release(f);
    assert_says(other, "info status", "VM status: running\r\n");
    close(other);
    run_until(f->set->monitors->len == 0 && f->set->running == 0);
}

static gboolean release_cb(gpointer data)
{
    release(data);
    return G_SOURCE_REMOVE;
}

static void test_set_ends_in_a_command(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f);
    g_autofree char *text = NULL;

    hold(f);
    type(fd, "nmi\rfoo\r");
    run_until(n_held(f) == 1);
    g_timeout_add(10, release_cb, f);
    monitor_set_free(f->set);
    f->set = NULL;
    text = read_until(fd, NULL);
    close(fd);
}

static void test_quit_shows_no_prompt(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f), other = connect_client(f);
    g_autofree char *text = NULL, *text2 = NULL;

    assert_says(fd, "quit now", "unknown\r\n");
    type(fd, "quit\r");
    type(other, "q\r"); /* QEMU ends before it answers */
    run_until(f->sent->len == 3 && f->set->running == 0);
    g_clear_pointer(&f->set, monitor_set_free);
    text = read_until(fd, NULL);
    text2 = read_until(other, NULL);
    g_assert_true(g_str_has_suffix(text, "quit\033[K\r\n"));
    g_assert_cmpstr(text2, ==, "q\033[K\r\n");
    close(fd);
    close(other);
}

static void test_password(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f);
    g_autofree char *text = NULL, *history = NULL;

    type(fd, "change vnc password\r");
    text = read_until(fd, "Password: ");
    type(fd, "s\"e c\r");
    g_free(text);
    text = read_until(fd, "\r\n(qemu) ");
    g_assert_null(strstr(text, "s\"e"));
    g_assert_nonnull(strstr(text, "*****\033[K\r\n"));
    g_assert_cmpstr(f->sent->pdata[0], ==, "change vnc password \"s\\\"e c\"");
    history = command(fd, "info history");
    g_assert_cmpstr(history, ==, "0: 'change vnc password'\r\n1: 'info history'\r\n");
    close(fd);
}

static void test_completion(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *keys, *screen; /* up to the next prompt or the inserted text */
    } cases[] = {
        { "ba\t", "backup         backup_cancel  \r\n(qemu) backup\033[K" },
        { "eje\t", "eject \033[K" },
        { "info c\t", "info cpus \033[K" },
        { "info st\t", "info status \033[K" },
        { "help backup_\t", "help backup_cancel \033[K" },
        { "help info ba\t", "help info backup \033[K" },
        { "backup /nonexist/x 1M v\t",
          "virtio0   virtio1   \r\n(qemu) backup /nonexist/x 1M virtio\033[K" },
        { "backup f 0 virtio0,f\t", "backup f 0 virtio0,floppy0 \033[K" },
        { "backup -s /et\t", "backup -s /etc/\033[K" },
        { "eject -f fl\t", "eject -f floppy0 \033[K" },
    };
    int fd = connect_client(f);

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = NULL, *after = NULL;

        g_test_message("%s", cases[i].keys);
        type(fd, cases[i].keys);
        text = read_until(fd, cases[i].screen);
        type(fd, "\1\013\r");
        after = read_until(fd, "\r\n(qemu) ");
    }
    type(fd, "nosuch \ti\"\tn\r"); /* nothing, nothing */
    g_free(read_until(fd, "nosuch i\"n\033[K\r\nunknown\r\n(qemu) "));
    close(fd);
}

/* Tab while QEMU is slow: what is typed meanwhile comes behind it. */
static void test_slow_completion(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f);

    hold(f);
    type(fd, "info ba\tx\r");
    run_until(n_held(f) == 1);
    release(f);
    g_free(read_until(fd, "info backup x\033[K\r\nbackup: extraneous characters at the "
                      "end of line\r\nTry \"help info backup\" for more "
                      "information\r\n(qemu) "));
    close(fd);
}

static void test_passed_fd(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f), p[2];
    char control[CMSG_SPACE(sizeof(int))] = { 0 }, key[] = "g";
    struct iovec iov = { key, 1 };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                          .msg_controllen = sizeof(control) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    g_assert_cmpint(pipe(p), ==, 0);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &p[1], sizeof(int));
    g_assert_cmpint(sendmsg(fd, &msg, 0), ==, 1);
    assert_says(fd, "etfd pipe", "");
    assert_says(fd, "closefd pipe", "");
    assert_says(fd, "closefd pipe", "Error: File descriptor named 'pipe' not found\r\n");
    close(fd);
    close(p[0]);
    close(p[1]);
}

/* More than anybody types, and nobody who reads. */
static void test_flood(Fixture *f, gconstpointer data)
{
    int fd = connect_client(f), other = connect_client(f);
    g_autofree char *junk = g_malloc(1 << 20);
    ssize_t n;

    for (size_t i = 0; i < 1 << 20; i++) {
        junk[i] = (char)g_test_rand_int_range(0, 256);
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 2000; i++) {
        n = write(fd, junk + g_test_rand_int_range(0, 1 << 19), 4096);
        if (n < 0 && errno != EAGAIN) {
            break; /* we were disconnected: also good */
        }
        g_main_context_iteration(NULL, FALSE);
    }
    assert_says(other, "info status", "VM status: running\r\n");
    close(fd);
    close(other);
    run_until(f->set->monitors->len == 0 && f->set->running == 0);
}

typedef struct {
    Monitor *mon;
    const char *line;
    char *text;
    GError *err;
    bool done;
} Execute;

static void execute_work(void *opaque)
{
    Execute *e = opaque;

    e->text = hmp_execute(e->mon, e->line, 3, &e->err);
}

static void execute_done(void *opaque)
{
    ((Execute *)opaque)->done = true;
}

static void test_execute(Fixture *f, gconstpointer data)
{
    static const char *const cases[][2] = {
        { "info status", "VM status: running\r\n" },
        { "info backup", "No backup has been started\r\n" },
        { "info history", "" },
        { "", "" },
        { "backup", "backup: filename expected\r\n"
                    "Try \"help backup\" for more information\r\n" },
    };
    int fd = connect_client(f);

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        Execute e = { .mon = f->set->monitors->pdata[0], .line = cases[i][0] };

        monitor_run(e.mon, execute_work, execute_done, &e);
        run_until(e.done);
        g_assert_no_error(e.err);
        g_assert_cmpstr(e.text, ==, cases[i][1]);
        g_free(e.text);
    }
    g_assert_cmpstr(f->sent->pdata[0], ==, "info status @3");
    close(fd);
}

/* Behind a multiplexer: greeting and prompt when the keyboard comes. */
static void test_mux(Fixture *f, gconstpointer data)
{
    int screen[2], serial[2];
    GError *err = NULL;
    Chardev *front;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, screen), ==, 0);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, serial), ==, 0);
    front = chardev_mux_new(chardev_new_fd(screen[0]), serial[0], 1, NULL, NULL, &err);
    g_assert_no_error(err);
    monitor_add_hmp(f->set, front);
    type(serial[1], "boot");
    g_free(read_until(screen[1], "boot"));
    type(screen[1], "\1c");
    {
        g_autofree char *text = read_until(screen[1], "(qemu) ");

        g_assert_cmpstr(text, ==, GREETING "(qemu) ");
    }
    assert_says(screen[1], "info status", "VM status: running\r\n");
    /* half a line, away, and back: a fresh line */
    type(screen[1], "inf");
    g_free(read_until(screen[1], "inf\033[K"));
    type(screen[1], "\1c");
    g_free(read_until(screen[1], "\r\n"));
    type(screen[1], "x");
    g_free(read_until(serial[1], "x"));
    type(screen[1], "\1c");
    g_free(read_until(screen[1], "(qemu) "));
    assert_says(screen[1], "nmi", "");
    /* away in the middle of a command: its output waits for the keyboard */
    hold(f);
    type(screen[1], "info status\r");
    run_until(n_held(f) == 1);
    g_free(read_until(screen[1], "\r\n"));
    type(screen[1], "\1cy");
    g_free(read_until(serial[1], "y"));
    release(f);
    run_until(f->set->running == 0);
    type(serial[1], "login:");
    {
        g_autofree char *text = read_until(screen[1], "login:");

        g_assert_cmpstr(text, ==, "login:");
    }
    type(screen[1], "\1c");
    {
        g_autofree char *text = read_until(screen[1], "(qemu) ");

        g_assert_cmpstr(text, ==, "VM status: running\r\n(qemu) ");
    }
    close(screen[1]);
    close(serial[1]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, fn) g_test_add("/hmp/" name, Fixture, NULL, setup, fn, teardown)
    ADD("pass-through", test_pass_through);
    ADD("ours", test_ours);
    ADD("lists", test_lists);
    ADD("history", test_history);
    ADD("cpu", test_cpu);
    ADD("typed-ahead", test_typed_ahead);
    ADD("answers-after-eof", test_answers_after_eof);
    ADD("client-goes-in-a-command", test_client_goes_in_a_command);
    ADD("set-ends-in-a-command", test_set_ends_in_a_command);
    ADD("quit-shows-no-prompt", test_quit_shows_no_prompt);
    ADD("password", test_password);
    ADD("completion", test_completion);
    ADD("slow-completion", test_slow_completion);
    ADD("passed-fd", test_passed_fd);
    ADD("flood", test_flood);
    ADD("execute", test_execute);
    ADD("mux", test_mux);
    return g_test_run();
}
