/*
 * Channels of migration: each kind carries bytes both ways round, an answer
 * comes back, and whoever waits can be cancelled.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/channel.h"

#include "util/error.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    char *folder;
} Fixture;

static void set_up(Fixture *fx, gconstpointer unused)
{
    fx->folder = g_dir_make_tmp("channel-XXXXXX", NULL);
    g_assert_nonnull(fx->folder);
}

static void tear_down(Fixture *fx, gconstpointer unused)
{
    g_assert_cmpint(g_rmdir(fx->folder), ==, 0); /* nothing is left in it */
    g_free(fx->folder);
}

static MigrationChannel *channel(const char *uri, int fd)
{
    g_autoptr(GError) error = NULL;
    MigrationChannel *ch = migration_channel_new(uri, fd, &error);

    g_assert_no_error(error);
    return ch;
}

/* ---- a receiver on a thread ------------------------------------------------------ */

typedef struct {
    MigrationChannel *ch;
    const char *refusal;
    bool close_early;
    uint64_t value;
    GError *error;
} Receiver;

static void *receive(void *opaque)
{
    Receiver *r = opaque;
    QEMUFile *f = migration_channel_open(r->ch, true, &r->error);

    if (f && !r->close_early) {
        r->value = qemu_get_be64(f);
        migration_channel_close(r->ch, false, &r->error);
    }
    if (r->refusal || r->close_early) {
        return_path_refuse(migration_channel_back(r->ch),
                           r->refusal ? r->refusal : "");
    } else {
        return_path_accept(migration_channel_back(r->ch), NULL);
    }
    migration_channel_close(r->ch, true, NULL);
    return NULL;
}

/* Sends a number; what the verdict was. */
static bool send_number(MigrationChannel *ch, GError **errp)
{
    QEMUFile *f = migration_channel_open(ch, false, errp);

    g_assert_nonnull(f);
    qemu_put_be64(f, 0x1122334455667788);
    return qemu_fflush(f, errp) && migration_channel_close(ch, false, errp) &&
           return_path_verdict(migration_channel_back(ch), errp) ==
           RETURN_PATH_YES;
}

static void exchange(MigrationChannel *in, MigrationChannel *out,
                     const char *refusal)
{
    Receiver r = { .ch = in, .refusal = refusal };
    GThread *thread = g_thread_new("receiver", receive, &r);
    g_autoptr(GError) error = NULL;
    bool ok = send_number(out, &error);

    g_thread_join(thread);
    g_assert_no_error(r.error);
    g_assert_cmphex(r.value, ==, 0x1122334455667788);
    if (refusal) {
        g_assert_false(ok);
        g_assert_nonnull(strstr(error->message, refusal));
    } else {
        g_assert_no_error(error);
    }
    migration_channel_unref(in);
    migration_channel_unref(out);
}

static char *unix_uri(Fixture *fx)
{
    return g_strdup_printf("unix:%s/socket", fx->folder);
}

static MigrationChannel *listening(const char *uri)
{
    MigrationChannel *ch = channel(uri, -1);
    g_autoptr(GError) error = NULL;

    migration_channel_listen(ch, &error);
    g_assert_no_error(error);
    return ch;
}

static void unix_socket(Fixture *fx, gconstpointer refusal)
{
    g_autofree char *uri = unix_uri(fx);

    exchange(listening(uri), channel(uri, -1), refusal);
}

static void passed_fds(Fixture *fx, gconstpointer refusal)
{
    int sv[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    exchange(channel("fd:a", sv[0]), channel("fd:b", sv[1]), refusal);
    g_assert_cmpint(pipe2(sv, O_CLOEXEC), ==, 0); /* no way back */
    exchange(channel("fd:a", sv[0]), channel("fd:b", sv[1]), NULL);
}

static void commands(Fixture *fx, gconstpointer unused)
{
    g_autofree char *path = g_build_filename(fx->folder, "file", NULL);
    g_autofree char *out = g_strdup_printf("exec:cat > %s", path);
    g_autofree char *in = g_strdup_printf("exec:cat %s", path);
    MigrationChannel *ch = channel(out, -1);
    Receiver r = { 0 };
    GError *error = NULL;

    g_assert_true(send_number(ch, &error));
    migration_channel_unref(ch);
    r.ch = channel(in, -1);
    receive(&r);
    g_assert_no_error(r.error);
    g_assert_cmphex(r.value, ==, 0x1122334455667788);
    migration_channel_unref(r.ch);
    g_unlink(path);
}

static void a_command_must_succeed(Fixture *fx, gconstpointer unused)
{
    MigrationChannel *ch = channel("exec:cat > /dev/null; exit 9", -1);
    g_autoptr(GError) error = NULL;

    g_assert_false(send_number(ch, &error));
    g_assert_nonnull(strstr(error->message, "status 9"));
    migration_channel_unref(ch);
}

/* The receiver goes away with bytes unread. */
static void a_reset_is_an_error(Fixture *fx, gconstpointer unused)
{
    g_autofree char *uri = unix_uri(fx);
    Receiver r = { .ch = listening(uri), .close_early = true };
    MigrationChannel *ch = channel(uri, -1);
    g_autoptr(GError) error = NULL;
    QEMUFile *f = migration_channel_open(ch, false, &error);

    qemu_put_be64(f, 1);
    g_assert_true(qemu_fflush(f, NULL));
    receive(&r);
    if (migration_channel_close(ch, false, &error)) {
        g_assert_cmpint(return_path_verdict(migration_channel_back(ch), &error),
                        ==, RETURN_PATH_NO);
    }
    g_assert_nonnull(error);
    migration_channel_unref(ch);
    migration_channel_unref(r.ch);
}

static void last_words(Fixture *fx, gconstpointer unused)
{
    g_autofree char *uri = unix_uri(fx), *text = NULL;
    Receiver r = {
        .ch = listening(uri), .close_early = true, .refusal = "too\nbig\n",
    };
    MigrationChannel *ch = channel(uri, -1);

    g_assert_nonnull(migration_channel_open(ch, false, NULL));
    g_assert_null(return_path_last_words(migration_channel_back(ch)));
    receive(&r);
    text = return_path_last_words(migration_channel_back(ch));
    g_assert_cmpstr(text, ==, "too big");
    migration_channel_unref(ch);
    migration_channel_unref(r.ch);
}

/* ---- cancelling -------------------------------------------------------------------- */

static void *cancel_soon(void *opaque)
{
    g_usleep(20 * 1000); /* so that it is waiting in most runs; either is right */
    migration_channel_cancel(opaque);
    return NULL;
}

static void cancel_waiting(MigrationChannel *ch, bool incoming)
{
    GThread *thread = g_thread_new("cancel", cancel_soon, ch);
    g_autoptr(GError) error = NULL;
    QEMUFile *f = migration_channel_open(ch, incoming, &error);

    if (f) { /* then the first read or a full pipe waits */
        g_autofree char *buf = g_malloc0(1 << 20);

        if (incoming) {
            qemu_get_byte(f);
        }
        while (!incoming && !qemu_file_error(f)) {
            qemu_put_buffer(f, buf, 1 << 20);
        }
        qemu_file_ok(f, &error);
    }
    g_thread_join(thread);
    g_assert_error(error, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED);
    migration_channel_close(ch, true, NULL);
    migration_channel_unref(ch);
}

static void cancelled(Fixture *fx, gconstpointer unused)
{
    g_autofree char *uri = unix_uri(fx);
    int fds[2];

    cancel_waiting(listening(uri), true);
    cancel_waiting(channel("exec:sleep 100", -1), true);
    cancel_waiting(channel("exec:sleep 100", -1), false);
    g_assert_cmpint(pipe2(fds, O_CLOEXEC), ==, 0);
    cancel_waiting(channel("fd:x", fds[0]), true);
    close(fds[1]);
}

/* A command that does not end although it has got everything. */
static void cancelled_in_close(Fixture *fx, gconstpointer unused)
{
    MigrationChannel *ch = channel("exec:sleep 100", -1);
    GThread *thread = g_thread_new("cancel", cancel_soon, ch);
    g_autoptr(GError) error = NULL;

    g_assert_nonnull(migration_channel_open(ch, false, &error));
    g_assert_false(migration_channel_close(ch, false, &error));
    g_assert_nonnull(strstr(error->message, "signal 9"));
    g_thread_join(thread);
    migration_channel_unref(ch);
}

/* All has been sent: who cancels then gets a yes. */
static void cancelled_too_late(Fixture *fx, gconstpointer unused)
{
    MigrationChannel *ch;
    int sv[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    ch = channel("fd:x", sv[0]);
    g_assert_nonnull(migration_channel_open(ch, false, NULL));
    g_assert_true(migration_channel_close(ch, false, NULL));
    migration_channel_cancel(ch);
    g_assert_cmpint(return_path_verdict(migration_channel_back(ch), NULL), ==,
                    RETURN_PATH_YES);
    migration_channel_unref(ch);
    close(sv[1]);
}

static void bad_uris(Fixture *fx, gconstpointer unused)
{
    static const char *const uris[] = {
        "", "x", "tcp:", "tcp:host", "rdma:a:1", "unix:",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(uris); i++) {
        g_autoptr(GError) error = NULL;
        MigrationChannel *ch = migration_channel_new(uris[i], -1, &error);

        if (ch) {
            g_error("\"%s\" was taken", uris[i]);
        }
        g_assert_nonnull(error);
    }
}

#define ADD(name, data, fn) \
    g_test_add("/channel/" name, Fixture, data, set_up, fn, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("unix", NULL, unix_socket);
    ADD("unix/refused", "no memory for it", unix_socket);
    ADD("fd", NULL, passed_fds);
    ADD("fd/refused", "no memory for it", passed_fds);
    ADD("exec", NULL, commands);
    ADD("exec/status", NULL, a_command_must_succeed);
    ADD("reset", NULL, a_reset_is_an_error);
    ADD("last-words", NULL, last_words);
    ADD("cancel", NULL, cancelled);
    ADD("cancel/close", NULL, cancelled_in_close);
    ADD("cancel/too-late", NULL, cancelled_too_late);
    ADD("bad-uris", NULL, bad_uris);
    return g_test_run();
}
