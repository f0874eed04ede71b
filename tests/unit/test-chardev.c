/*
 * Chardevs: options, sockets with several clients, passed fds, telnet,
 * back-pressure, the multiplexer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/chardev.h"
#include "util/error.h"
#include "util/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A peer that remembers: everything a chardev's clients said and went through. */
typedef struct {
    GString *text;
    unsigned opened, closed, eofs, fds;
    bool keep_on_eof, focus;
    ChardevClient *client; /* the last one */
} Log;

static void *log_open(void *opaque, ChardevClient *client)
{
    Log *log = opaque;

    log->opened++;
    log->client = client;
    log->focus = chardev_client_has_focus(client);
    return log;
}

static void log_input(void *opaque, const char *buf, size_t len, const int *fds,
                      size_t n_fds)
{
    Log *log = opaque;

    g_string_append_len(log->text, buf, len);
    log->fds += n_fds;
    for (size_t i = 0; i < n_fds; i++) {
        g_assert_cmpint(fcntl(fds[i], F_GETFD), ==, FD_CLOEXEC);
        close(fds[i]);
    }
}

static void log_closed(void *opaque)
{
    ((Log *)opaque)->closed++;
}

static bool log_eof(void *opaque)
{
    Log *log = opaque;

    log->eofs++;
    return log->keep_on_eof;
}

static void log_focus(void *opaque, bool in)
{
    ((Log *)opaque)->focus = in;
}

static const ChardevHandlers log_handlers = {
    .open = log_open, .input = log_input, .closed = log_closed,
    .eof = log_eof, .focus = log_focus,
};

static void log_init(Log *log)
{
    *log = (Log) { .text = g_string_new(NULL) };
}

static void log_clear(Log *log)
{
    g_string_free(log->text, TRUE);
}

/* Run the main loop until COND holds. */
static gboolean give_up_cb(gpointer data)
{
    g_error("test-chardev: waited too long");
    return G_SOURCE_REMOVE;
}
#define run_until(cond)                                                   \
    do {                                                                  \
        guint timer_ = g_timeout_add_seconds(60, give_up_cb, NULL);       \
        while (!(cond)) {                                                 \
            g_main_context_iteration(NULL, TRUE);                         \
        }                                                                 \
        g_source_remove(timer_);                                          \
    } while (0)

/* Read until @n bytes have come, running the main loop meanwhile. */
static char *read_n(int fd, size_t n)
{
    GString *s = g_string_new(NULL);
    gint64 end = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;

    while (s->len < n && g_get_monotonic_time() < end) {
        char buf[4096];
        struct pollfd p = { .fd = fd, .events = POLLIN };
        ssize_t got;

        while (g_main_context_iteration(NULL, FALSE)) {
        }
        if (poll(&p, 1, 5) <= 0) {
            continue;
        }
        got = read(fd, buf, MIN(sizeof(buf), n - s->len));
        if (got <= 0) {
            break;
        }
        g_string_append_len(s, buf, got);
    }
    g_assert_cmpuint(s->len, ==, n);
    return g_string_free(s, FALSE);
}

#define assert_reads(fd, expected)                                        \
    do {                                                                  \
        g_autofree char *got_ = read_n(fd, strlen(expected));             \
        g_assert_cmpstr(got_, ==, expected);                              \
    } while (0)

static void send_text(int fd, const char *text)
{
    g_assert_cmpint(write(fd, text, strlen(text)), ==, (ssize_t)strlen(text));
}

static char *temp_dir(void)
{
    char *dir = g_dir_make_tmp("test-chardev-XXXXXX", NULL);

    g_assert_nonnull(dir);
    return dir;
}

static int connect_str(const char *address)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(SocketAddress) addr = socket_address_parse(address, &err);
    int fd;

    g_assert_no_error(err);
    fd = socket_connect(addr, -1, &err);
    g_assert_no_error(err);
    return fd;
}

static void test_options(void)
{
    static const struct {
        const char *spec;
        bool option_form;
        const char *error; /* NULL: accepted; "": not ours */
    } cases[] = {
        { "stdio", false, NULL },
        { "mon:stdio", false, NULL },
        { "stdio,id=x", true, NULL },
        { "socket,id=m,path=/a,,b,server=on,wait=off", true, NULL },
        { "unix:/a,server,nowait", false, NULL },
        { "tcp:127.0.0.1:4444", false, NULL },
        { "tcp::4444,server=on,to=4450,ipv4=on,ipv6=off,nodelay", false, NULL },
        { "tcp:[::1]:4444,server=on", false, NULL },
        { "telnet:localhost:4444,server=yes,wait=false", false, NULL },
        { "socket,id=m,fd=3,server=on", true, NULL },
        { "socket,id=m,path=/a,reconnect=3", true, NULL },
        { "tcp:127.0.0.1:1,websocket=off", false, NULL },
        { "vc", false, "" },
        { "pty", false, "" },
        { "", false, "" },
        { "fd:3", false, "" },
        { "file,id=x,path=/tmp/x", true, "" },
        { "tcp:127.0.0.1:1,websocket=on,server=on", false, "" },
        { "socket,id=m,path=/a,tls-creds=x", true, "" },
        { "socket,id=m,path=/a,logfile=/x", true, "" },
        { "unix:/a,server=on,foo=3", false, "Invalid parameter 'foo'" },
        { "unix:/a,server=3", false, "Parameter 'server' expects 'on' or 'off'" },
        { "unix:/a,reconnect=xx", false, "Parameter 'reconnect' expects a number" },
        { "unix:/a,wait=off", false, "'wait' option is incompatible with socket "
                                     "in client connect mode" },
        { "unix:/a,server=on,reconnect=1", false,
          "'reconnect' option is incompatible with socket in server listen mode" },
        { "tcp:127.0.0.1", false, "parse error: tcp:127.0.0.1" },
        { "tcp:127.0.0.1:,server=on", false,
          "parse error: tcp:127.0.0.1:,server=on" },
        { "socket,id=m,host=127.0.0.1", true, "chardev: socket: no port given" },
        { "socket,path=/tmp/x", true, "chardev: no id specified" },
        { "socket,id=m,fd=abc", true, "Unable to parse FD number abc" },
        { "socket,id=m,path=/tmp/x,host=1", true,
          "None or one of 'path', 'fd' or 'host' option required." },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) err = NULL;
        bool ok = chardev_parse(cases[i].spec, cases[i].option_form, NULL, NULL,
                                &err);

        g_test_message("%s", cases[i].spec);
        g_assert_cmpint(ok, ==, !cases[i].error);
        if (cases[i].error && !cases[i].error[0]) {
            g_assert_error(err, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED);
        } else if (cases[i].error) {
            g_assert_cmpstr(err->message, ==, cases[i].error);
        }
    }
}

static void test_open_errors(void)
{
    static const char *const cases[][2] = {
        { "unix:/nonexistent/x,server=on",
          "Failed to bind socket to /nonexistent/x: No such file or directory" },
        { "unix:/nonexistent/x",
          "Failed to connect to '/nonexistent/x': No such file or directory" },
        { "tcp:127.0.0.1:1", "Failed to connect to '127.0.0.1:1': Connection refused" },
        { "tcp:127.0.0.1:99999,server=on", "address resolution failed for "
          "127.0.0.1:99999: port is out of range" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) err = NULL;

        g_assert_null(chardev_new(cases[i][0], false, &err));
        g_assert_cmpstr(err->message, ==, cases[i][1]);
    }
}

static void test_unix_clients(void)
{
    g_autofree char *dir = temp_dir();
    g_autofree char *spec = g_strdup_printf("unix:%s/s,server=on,wait=off", dir);
    g_autofree char *path = g_strdup_printf("%s/s", dir);
    g_autofree char *where = g_strdup_printf("unix:%s", path);
    g_autoptr(GError) err = NULL;
    Chardev *chr;
    Log log;
    int a, b;

    log_init(&log);
    chr = chardev_new(spec, false, &err);
    g_assert_no_error(err);
    g_assert_true(chardev_wait_connected(chr, &err));
    chardev_set_handlers(chr, &log_handlers, &log);
    a = connect_str(where);
    b = connect_str(where);
    run_until(log.opened == 2);
    chardev_client_write(log.client, "hello", 5);
    assert_reads(b, "hello");
    send_text(a, "one");
    run_until(log.text->len == 3);
    send_text(b, "two");
    run_until(log.text->len == 6);
    g_assert_cmpstr(log.text->str, ==, "onetwo");
    close(a);
    run_until(log.closed == 1);
    /* The other one says no more but still reads. */
    log.keep_on_eof = true;
    shutdown(b, SHUT_WR);
    run_until(log.eofs == 2);
    chardev_client_write(log.client, "late", 4);
    assert_reads(b, "late");
    chardev_client_close(log.client);
    run_until(log.closed == 2);
    close(b);
    chardev_free(chr);
    g_assert_cmpint(g_access(path, F_OK), !=, 0);
    g_rmdir(dir);
    log_clear(&log);
}

/* A socket left over is replaced, a file is not. */
static void test_unix_path_taken(void)
{
    g_autofree char *dir = temp_dir();
    g_autofree char *path = g_strdup_printf("%s/s", dir);
    g_autofree char *spec = g_strdup_printf("unix:%s,server=on,wait=off", path);
    g_autoptr(SocketAddress) addr = socket_address_new(SOCKET_ADDRESS_UNIX);
    g_autoptr(GError) err = NULL;
    Chardev *chr;
    int fd;

    addr->path = g_strdup(path);
    fd = socket_listen(addr, 1, &err);
    g_assert_no_error(err);
    close(fd);
    chr = chardev_new(spec, false, &err);
    g_assert_no_error(err);
    chardev_free(chr);

    g_assert_true(g_file_set_contents(path, "precious", -1, NULL));
    g_assert_null(chardev_new(spec, false, &err));
    g_assert_nonnull(strstr(err->message, "Address already in use"));
    g_unlink(path);
    g_rmdir(dir);
}

static void test_abstract(void)
{
    for (int tight = 0; tight < 2; tight++) {
        g_autoptr(GError) err = NULL;
        g_autoptr(SocketAddress) addr = socket_address_new(SOCKET_ADDRESS_UNIX);
        g_autofree char *spec = NULL, *name = NULL;
        Chardev *chr;
        Log log;
        int fd;

        log_init(&log);
        addr->path = g_strdup_printf("test-chardev-%d-%d", (int)getpid(), tight);
        addr->abstract = true;
        addr->tight = tight;
        spec = g_strdup_printf("socket,id=x,path=%s,abstract=on,tight=%s,server=on,"
                               "wait=off", addr->path, tight ? "on" : "off");
        chr = chardev_new(spec, true, &err);
        g_assert_no_error(err);
        g_assert_cmpstr(chardev_id(chr), ==, "x");
        name = chardev_describe(chr);
        g_assert_nonnull(strstr(name, ",abstract=on,server=on"));
        chardev_set_handlers(chr, &log_handlers, &log);
        fd = socket_connect(addr, -1, &err);
        g_assert_no_error(err);
        run_until(log.opened == 1);
        addr->tight = !tight; /* another name */
        g_assert_cmpint(socket_connect(addr, -1, NULL), ==, -1);
        close(fd);
        run_until(log.closed == 1);
        chardev_free(chr);
        log_clear(&log);
    }
}

static void send_fds(int sock, const int *fds, size_t n, const char *text)
{
    char control[CMSG_SPACE(sizeof(int) * 4)] = { 0 };
    struct iovec iov = { (char *)(uintptr_t)text, strlen(text) };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
                          .msg_control = control,
                          .msg_controllen = CMSG_SPACE(sizeof(int) * n) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * n);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
    g_assert_cmpint(sendmsg(sock, &msg, 0), ==, (ssize_t)strlen(text));
}

static Chardev *pair(int *other)
{
    int sv[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    *other = sv[1];
    return chardev_new_fd(sv[0]);
}

static void test_passed_fds(void)
{
    int other, fds[2];
    Chardev *chr = pair(&other);
    Log log;

    log_init(&log);
    chardev_set_handlers(chr, &log_handlers, &log);
    g_assert_cmpint(pipe(fds), ==, 0);
    send_fds(other, fds, 2, "x");
    run_until(log.fds == 2);
    g_assert_cmpstr(log.text->str, ==, "x");
    close(fds[0]);
    close(fds[1]);
    close(other);
    run_until(log.closed == 1);
    chardev_free(chr);
    log_clear(&log);
}

/* Nobody reads: the queue is bounded and the client goes. */
static void test_overflow(void)
{
    int other;
    Chardev *chr = pair(&other);
    g_autofree char *mib = g_malloc0(1024 * 1024);
    Log log;

    log_init(&log);
    chardev_set_handlers(chr, &log_handlers, &log);
    run_until(log.opened == 1);
    for (int i = 0; i < 20; i++) {
        chardev_client_write(log.client, mib, 1024 * 1024);
    }
    run_until(log.closed == 1);
    close(other);
    chardev_free(chr);
    log_clear(&log);
}

static void test_slow_reader_gets_all(void)
{
    int other;
    Chardev *chr = pair(&other);
    g_autofree char *sent = g_malloc(4000000);
    g_autofree char *got = NULL;
    Log log;

    log_init(&log);
    for (size_t i = 0; i < 4000000; i++) {
        sent[i] = (char)(i * 7 + i / 1000);
    }
    chardev_set_handlers(chr, &log_handlers, &log);
    run_until(log.opened == 1);
    for (size_t i = 0; i < 4000000; i += 100000) {
        chardev_client_write(log.client, sent + i, 100000);
    }
    chardev_client_close(log.client);
    run_until(log.closed == 1);
    got = read_n(other, 4000000);
    g_assert_cmpint(memcmp(sent, got, 4000000), ==, 0);
    close(other);
    chardev_free(chr);
    log_clear(&log);
}

/* Any thread may write, and the client may go meanwhile. */
typedef struct {
    ChardevClient *client;
    gint *stop;
} Writer;

static gpointer writer_thread(gpointer data)
{
    Writer *w = data;

    for (int i = 0; i < 20000 && !g_atomic_int_get(w->stop); i++) {
        chardev_client_write(w->client, "0123456789\n", 11);
    }
    chardev_client_unref(w->client);
    return NULL;
}

static void run_writers(bool close_early)
{
    int other;
    Chardev *chr = pair(&other);
    GThread *threads[3];
    Writer writers[3];
    gint stop = 0;
    Log log;

    log_init(&log);
    chardev_set_handlers(chr, &log_handlers, &log);
    run_until(log.opened == 1);
    for (int i = 0; i < 3; i++) {
        writers[i] = (Writer) { chardev_client_ref(log.client), &stop };
        threads[i] = g_thread_new("writer", writer_thread, &writers[i]);
    }
    if (close_early) {
        g_free(read_n(other, 100000));
        chardev_free(chr);
        g_atomic_int_set(&stop, 1);
    } else {
        g_autofree char *all = read_n(other, 3 * 20000 * 11);

        for (size_t i = 0; i < 3 * 20000; i++) { /* no line is torn */
            g_assert_cmpint(memcmp(all + i * 11, "0123456789\n", 11), ==, 0);
        }
    }
    for (int i = 0; i < 3; i++) {
        g_thread_join(threads[i]);
    }
    if (!close_early) {
        chardev_free(chr);
    }
    close(other);
    log_clear(&log);
}

static void test_writers(void)
{
    run_writers(false);
    run_writers(true);
}

static void test_pause(void)
{
    int other;
    Chardev *chr = pair(&other);
    Log log;

    log_init(&log);
    chardev_set_handlers(chr, &log_handlers, &log);
    run_until(log.opened == 1);
    chardev_client_pause(log.client, true);
    send_text(other, "abc");
    for (int i = 0; i < 10; i++) {
        g_main_context_iteration(NULL, FALSE);
    }
    g_assert_cmpuint(log.text->len, ==, 0);
    chardev_client_pause(log.client, false);
    run_until(log.text->len == 3);
    close(other);
    run_until(log.closed == 1);
    chardev_free(chr);
    log_clear(&log);
}

static void test_reconnect(void)
{
    g_autofree char *dir = temp_dir();
    g_autofree char *spec = g_strdup_printf("unix:%s/s,reconnect=1", dir);
    g_autoptr(SocketAddress) addr = socket_address_new(SOCKET_ADDRESS_UNIX);
    g_autoptr(GError) err = NULL;
    Chardev *chr = chardev_new(spec, false, &err);
    Log log;
    int listener, fd;

    log_init(&log);
    g_assert_no_error(err);
    chardev_set_handlers(chr, &log_handlers, &log);
    addr->path = g_strdup_printf("%s/s", dir);
    listener = socket_listen(addr, 1, &err);
    for (unsigned i = 1; i <= 2; i++) {
        run_until(log.opened == i);
        fd = accept(listener, NULL, NULL);
        g_assert_cmpint(fd, >=, 0);
        close(fd);
        run_until(log.closed == i);
    }
    chardev_free(chr);
    socket_listen_cleanup(addr, listener);
    close(listener);
    g_rmdir(dir);
    log_clear(&log);
}

static void test_telnet(void)
{
    g_autoptr(GError) err = NULL;
    Chardev *chr = chardev_new("telnet:127.0.0.1:0,server=on,wait=off", false, &err);
    g_autofree char *name = NULL, *got = NULL, *where = NULL;
    Log log;
    int fd;

    g_assert_no_error(err);
    log_init(&log);
    chardev_set_handlers(chr, &log_handlers, &log);
    name = chardev_describe(chr);
    g_assert_true(g_str_has_prefix(name, "telnet:127.0.0.1:"));
    *strchr(name, ',') = '\0';
    where = g_strdup_printf("tcp:%s", name + strlen("telnet:"));
    fd = connect_str(where);
    got = read_n(fd, 12);
    g_assert_cmpint(memcmp(got, "\377\373\1\377\373\3\377\373\0\377\375\0", 12), ==, 0);
    /* options, a subnegotiation, CR NUL, a doubled IAC */
    g_assert_cmpint(write(fd, "\377\375\1a\377\372\30\0xterm\377\360b\r\0c\377\377d", 22), ==, 22);
    run_until(log.text->len == 6);
    g_assert_cmpstr(log.text->str, ==, "ab\rc\377d");
    chardev_client_write(log.client, "x\377y", 3);
    assert_reads(fd, "x\377\377y");
    close(fd);
    run_until(log.closed == 1);
    chardev_free(chr);
    log_clear(&log);
}

typedef struct {
    unsigned quits, commits, breaks;
} Ops;

static void ops_quit(void *opaque)
{
    ((Ops *)opaque)->quits++;
}

static void ops_commit(void *opaque)
{
    ((Ops *)opaque)->commits++;
}

static void ops_break(void *opaque)
{
    ((Ops *)opaque)->breaks++;
}

static const ChardevMuxOps mux_ops = {
    .quit = ops_quit, .commit = ops_commit, .send_break = ops_break,
};

static void test_mux(void)
{
    int screen, serial[2];
    Ops ops = { 0 };
    g_autoptr(GError) err = NULL;
    Chardev *mon;
    Log log;

    log_init(&log);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, serial), ==, 0);
    mon = chardev_mux_new(pair(&screen), serial[0], 1, &mux_ops, &ops, &err);
    g_assert_no_error(err);
    chardev_set_handlers(mon, &log_handlers, &log);
    run_until(log.opened == 1);
    g_assert_false(log.focus);
    chardev_client_write(log.client, "greeting", 8); /* kept */
    send_text(serial[1], "boot");
    assert_reads(screen, "boot");
    send_text(screen, "key");
    assert_reads(serial[1], "key");
    send_text(screen, "A\1\1B"); /* C-a C-a is one C-a */
    assert_reads(serial[1], "A\1B");
    send_text(screen, "x\1cmoni");
    assert_reads(serial[1], "x");
    assert_reads(screen, "greeting");
    run_until(log.text->len == 4);
    g_assert_true(log.focus);
    g_assert_cmpstr(log.text->str, ==, "moni");
    send_text(serial[1], "still");
    assert_reads(screen, "still");
    send_text(screen, "\1");
    send_text(screen, "b\1s");
    run_until(ops.commits == 1);
    g_assert_cmpuint(ops.breaks, ==, 0); /* not the monitor's */
    send_text(screen, "\1c\1b");
    run_until(ops.breaks == 1);
    g_assert_false(log.focus);
    send_text(screen, "\1h");
    assert_reads(screen, "\n\rC-a h    print this help\n\r"
                 "C-a x    exit emulator\n\r"
                 "C-a s    save disk data back to file (if -snapshot)\n\r"
                 "C-a t    toggle console timestamps\n\r"
                 "C-a b    send break (magic sysrq)\n\r"
                 "C-a c    switch between console and monitor\n\r"
                 "C-a C-a  sends C-a\n\r");
    send_text(screen, "\1t\1x");
    run_until(ops.quits == 1);
    assert_reads(screen, "QEMU: Terminated\n\r");
    send_text(serial[1], "a\nb");
    assert_reads(screen, "a\n[00:00:00.000] b");
    close(screen);
    run_until(log.closed == 1);
    chardev_free(mon);
    close(serial[1]);
    log_clear(&log);
}

/* Flow control: neither side's bytes are lost or pile up. */
static void test_mux_flow(void)
{
    int screen, serial[2];
    Chardev *mon;
    size_t total = 3000000, sent = 0, got = 0;
    g_autofree char *buf = g_malloc(65536);
    gint64 end = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, serial), ==, 0);
    mon = chardev_mux_new(pair(&screen), serial[0], 1, NULL, NULL, NULL);
    fd_set_nonblocking(screen, true);
    for (int direction = 0; direction < 2; direction++) {
        int from = direction ? screen : serial[1], to = direction ? serial[1] : screen;

        for (sent = got = 0; got < total;) {
            ssize_t n;

            g_assert_cmpint(g_get_monotonic_time(), <, end);
            memset(buf, 'z', 65536);
            /* first stuff it until it takes no more */
            n = sent < total ? write(from, buf, MIN(65536, total - sent)) : -1;
            sent += MAX(n, 0);
            while (g_main_context_iteration(NULL, FALSE)) {
            }
            if (n < 0) {
                g_assert_cmpuint(sent - got, <, 2000000);
                n = read(to, buf, 65536);
                got += MAX(n, 0);
            }
        }
        g_assert_cmpuint(got, ==, total);
    }
    chardev_free(mon);
    close(screen);
    close(serial[1]);
}

static void test_address(void)
{
    static const char *const good[] = {
        "unix:/a/b", "tcp:127.0.0.1:80", "tcp::80", "tcp:[::1]:80", "fd:3",
    };
    static const char *const bad[] = {
        "unix:", "tcp:", "tcp:127.0.0.1", "tcp:h:", "tcp:[::1:80", "fd:x",
        "fd:-1", "tcp:h:1,to=0", "tcp:h:1,foo", "tcp:h:1,ipv4=maybe", "",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autoptr(GError) err = NULL;
        g_autoptr(SocketAddress) addr = socket_address_parse(good[i], &err);
        g_autofree char *back = NULL;

        g_assert_no_error(err);
        back = socket_address_to_string(addr);
        g_assert_cmpstr(back, ==, good[i]);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) err = NULL;

        g_test_message("%s", bad[i]);
        g_assert_null(socket_address_parse(bad[i], &err));
        g_assert_nonnull(err);
    }
}

static void test_port_range(void)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(SocketAddress) addr = socket_address_parse("tcp:127.0.0.1:0", &err);
    g_autofree char *name = NULL, *second = NULL;
    int a = socket_listen(addr, 1, &err), b;
    guint64 port;

    g_assert_no_error(err);
    name = socket_name(a, false);
    port = g_ascii_strtoull(strrchr(name, ':') + 1, NULL, 10);
    g_free(addr->port);
    addr->port = g_strdup_printf("%" G_GUINT64_FORMAT, port);
    g_assert_cmpint(socket_listen(addr, 1, &err), ==, -1);
    g_assert_cmpstr(err->message, ==,
                    "Failed to bind socket: Address already in use");
    g_clear_error(&err);
    addr->to = MIN(port + 20, 65535);
    b = socket_listen(addr, 1, &err);
    if (port < 65535) {
        g_assert_no_error(err);
        second = socket_name(b, false);
        g_assert_cmpstr(name, !=, second);
        close(b);
    }
    close(a);
}

static void test_connect_cancelled(void)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(SocketAddress) addr = socket_address_parse("tcp:192.0.2.1:9", &err);
    int p[2], fd;

    g_assert_cmpint(pipe(p), ==, 0);
    close(p[1]); /* readable at once */
    fd = socket_connect(addr, p[0], &err);
    /* a machine without a route says so at once; both are answers */
    g_assert_cmpint(fd, ==, -1);
    g_assert_nonnull(err);
    close(p[0]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/chardev/options", test_options);
    g_test_add_func("/chardev/open-errors", test_open_errors);
    g_test_add_func("/chardev/unix-clients", test_unix_clients);
    g_test_add_func("/chardev/unix-path-taken", test_unix_path_taken);
    g_test_add_func("/chardev/abstract", test_abstract);
    g_test_add_func("/chardev/passed-fds", test_passed_fds);
    g_test_add_func("/chardev/overflow", test_overflow);
    g_test_add_func("/chardev/slow-reader-gets-all", test_slow_reader_gets_all);
    g_test_add_func("/chardev/writers", test_writers);
    g_test_add_func("/chardev/pause", test_pause);
    g_test_add_func("/chardev/reconnect", test_reconnect);
    g_test_add_func("/chardev/telnet", test_telnet);
    g_test_add_func("/chardev/mux", test_mux);
    g_test_add_func("/chardev/mux-flow", test_mux_flow);
    g_test_add_func("/socket/address", test_address);
    g_test_add_func("/socket/port-range", test_port_range);
    g_test_add_func("/socket/connect-cancelled", test_connect_cancelled);
    return g_test_run();
}
