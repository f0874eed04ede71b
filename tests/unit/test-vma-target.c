/*
 * Archive targets: what appears when, what is left after a failure, and that
 * everything that waits can be cancelled.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "vma/vma.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/error.h"

/*
 * File systems that can't do all that others can.  These take the place of
 * libc's in this program.
 */
static int no_tmpfile, no_renameat2, no_linkat; /* errno, or 0: works */

int openat64(int dir_fd, const char *path, int flags, ...);
int openat64(int dir_fd, const char *path, int flags, ...)
{
    mode_t mode = 0;
    va_list ap;

    va_start(ap, flags);
    if (flags & (O_CREAT | O_TMPFILE)) {
        mode = va_arg(ap, mode_t);
    }
    va_end(ap);
    if ((flags & O_TMPFILE) == O_TMPFILE && no_tmpfile) {
        errno = no_tmpfile;
        return -1;
    }
    return syscall(SYS_openat, dir_fd, path, flags | O_LARGEFILE, mode);
}

int renameat2(int old_dir, const char *old, int new_dir, const char *new,
              unsigned int flags)
{
    if (no_renameat2) {
        errno = no_renameat2;
        return -1;
    }
    return syscall(SYS_renameat2, old_dir, old, new_dir, new, flags);
}

int linkat(int old_dir, const char *old, int new_dir, const char *new, int flags)
{
    if (no_linkat) {
        errno = no_linkat;
        return -1;
    }
    return syscall(SYS_linkat, old_dir, old, new_dir, new, flags);
}

typedef struct {
    char *dir;
    char *path; /* dir/a.vma */
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("vma-target-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "a.vma", NULL);
}

/* The names in the folder, sorted, joined by spaces. */
static char *names(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    const char *name;
    char *joined;

    while ((name = g_dir_read_name(dir))) {
        g_ptr_array_add(all, (void *)name);
    }
    g_ptr_array_add(all, NULL);
    joined = g_strjoinv(" ", (char **)all->pdata);
    g_dir_close(dir);
    return joined;
}

static void assert_names(const Fixture *f, const char *want)
{
    g_autofree char *got = names(f->dir);

    g_assert_cmpstr(got, ==, want);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    GDir *dir = g_dir_open(f->dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(f->dir, name, NULL);

        g_unlink(path);
    }
    g_dir_close(dir);
    g_rmdir(f->dir);
    g_free(f->path);
    g_free(f->dir);
}

#define EXPECT_ERROR(error, part)                          \
    do {                                                   \
        g_assert_nonnull(error);                           \
        if (!strstr((error)->message, (part))) {           \
            g_test_message("said: %s", (error)->message);  \
            g_test_message("want: %s", (part));            \
            g_test_fail();                                 \
        }                                                  \
        g_clear_error(&(error));                           \
    } while (0)

static VmaTarget *must_open(const char *spec)
{
    GError *error = NULL;
    VmaTarget *t = vma_target_open(spec, &error);

    g_assert_no_error(error);
    g_assert_nonnull(t);
    return t;
}

/* ---- files ----------------------------------------------------------------- */

static void test_file_appears_when_complete(Fixture *f, gconstpointer data)
{
    VmaTarget *t = must_open(f->path);
    g_autofree char *content = NULL;
    GError *error = NULL;

    g_assert_true(vma_target_write(t, "archive", 7, &error));
    if (!no_tmpfile) {
        assert_names(f, "");
    }
    g_assert_true(vma_target_commit(t, &error));
    assert_names(f, "a.vma");
    vma_target_free(t);
    g_assert_true(g_file_get_contents(f->path, &content, NULL, NULL));
    g_assert_cmpstr(content, ==, "archive");
}

static void test_file_is_gone_without_commit(Fixture *f, gconstpointer data)
{
    VmaTarget *t = must_open(f->path);

    g_assert_true(vma_target_write(t, "archive", 7, NULL));
    vma_target_free(t);
    assert_names(f, "");
}

static void test_file_replaces_nothing(Fixture *f, gconstpointer data)
{
    g_autofree char *content = NULL;
    GError *error = NULL;
    VmaTarget *t = must_open(f->path);

    /* It comes while we write. */
    g_assert_true(vma_target_write(t, "archive", 7, NULL));
    g_assert_true(g_file_set_contents(f->path, "other", -1, NULL));
    g_assert_false(vma_target_commit(t, &error));
    EXPECT_ERROR(error, "a.vma: cannot give the archive its name: File exists");
    vma_target_free(t);
    assert_names(f, "a.vma");
    g_assert_true(g_file_get_contents(f->path, &content, NULL, NULL));
    g_assert_cmpstr(content, ==, "other");

    /* It is there before. */
    g_assert_null(vma_target_open(f->path, &error));
    EXPECT_ERROR(error, "a.vma: cannot create: File exists");
}

static void test_file_systems_that_can_do_less(Fixture *f, gconstpointer data)
{
    static const struct {
        int tmpfile, renameat2, linkat;
    } systems[] = {
        { EOPNOTSUPP, 0, 0 },
        { EISDIR, EINVAL, 0 },
        { EOPNOTSUPP, ENOSYS, EPERM },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(systems); i++) {
        no_tmpfile = systems[i].tmpfile;
        no_renameat2 = systems[i].renameat2;
        no_linkat = systems[i].linkat;
        test_file_appears_when_complete(f, data);
        assert_names(f, "a.vma");
        g_unlink(f->path);
        test_file_replaces_nothing(f, data);
        g_unlink(f->path);
        test_file_is_gone_without_commit(f, data);
        no_tmpfile = no_renameat2 = no_linkat = 0;
    }
}

/* The temporary name is hidden and begins like the final one. */
static void test_file_temporary_name(Fixture *f, gconstpointer data)
{
    g_autofree char *name = NULL;
    VmaTarget *t;

    no_tmpfile = EOPNOTSUPP;
    t = must_open(f->path);
    name = names(f->dir);
    g_assert_true(g_str_has_prefix(name, ".a.vma."));
    vma_target_free(t);
    assert_names(f, "");
    no_tmpfile = 0;
}

static void test_file_follows_no_link(Fixture *f, gconstpointer data)
{
    g_autofree char *elsewhere = g_build_filename(f->dir, "elsewhere", NULL);
    GError *error = NULL;

    g_assert_cmpint(symlink(elsewhere, f->path), ==, 0);
    g_assert_null(vma_target_open(f->path, &error));
    EXPECT_ERROR(error, "File exists");
    assert_names(f, "a.vma");
}

static void test_file_bad_paths(Fixture *f, gconstpointer data)
{
    g_autofree char *slash = g_strdup_printf("%s/", f->path);
    g_autofree char *missing = g_build_filename(f->dir, "no", "a.vma", NULL);
    const char *const paths[] = { "", "/", ".", "..", slash, missing, f->dir };

    for (size_t i = 0; i < G_N_ELEMENTS(paths); i++) {
        GError *error = NULL;

        g_assert_null(vma_target_open(paths[i], &error));
        EXPECT_ERROR(error, ": ");
    }
    assert_names(f, "");
}

static void test_write_after_cancel(Fixture *f, gconstpointer data)
{
    VmaTarget *t = must_open(f->path);
    GError *error = NULL;

    g_assert_true(vma_target_write(t, "archive", 7, NULL));
    vma_target_cancel(t);
    vma_target_cancel(t);
    g_assert_false(vma_target_write(t, "archive", 7, &error));
    g_assert_error(error, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED);
    g_clear_error(&error);
    g_assert_false(vma_target_commit(t, NULL));
    vma_target_free(t);
    assert_names(f, "");
}

static void test_commit_after_cancel(Fixture *f, gconstpointer data)
{
    VmaTarget *t = must_open(f->path);
    GError *error = NULL;

    g_assert_true(vma_target_write(t, "archive", 7, NULL));
    vma_target_cancel(t);
    g_assert_false(vma_target_commit(t, &error));
    g_assert_error(error, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED);
    g_clear_error(&error);
    vma_target_free(t);
    assert_names(f, "");
}

/* ---- commands ----------------------------------------------------------------- */

/* Enough that no pipe can hold it. */
#define LARGE (4 * 1024 * 1024)

static void test_exec_gets_everything(Fixture *f, gconstpointer data)
{
    g_autofree char *spec = g_strdup_printf("exec:cat > '%s'", f->path);
    g_autofree char *large = g_malloc(LARGE);
    g_autofree char *content = NULL;
    VmaTarget *t = must_open(spec);
    GError *error = NULL;
    gsize len;

    for (size_t i = 0; i < LARGE; i++) {
        large[i] = g_test_rand_int();
    }
    g_assert_true(vma_target_write(t, large, LARGE, &error));
    g_assert_true(vma_target_write(t, "end", 3, &error));
    g_assert_true(vma_target_commit(t, &error));
    vma_target_free(t);
    g_assert_true(g_file_get_contents(f->path, &content, &len, NULL));
    g_assert_cmpuint(len, ==, LARGE + 3);
    g_assert_true(memcmp(content, large, LARGE) == 0);
}

static void check_exec_fails(const char *command, size_t bytes, const char *why)
{
    g_autofree char *large = g_malloc0(LARGE);
    g_autofree char *spec = g_strconcat("exec:", command, NULL);
    VmaTarget *t = must_open(spec);
    GError *error = NULL;
    bool ok = vma_target_write(t, large, bytes, &error) &&
              vma_target_commit(t, &error);

    g_assert_false(ok);
    g_assert_true(g_str_has_prefix(error->message, spec));
    EXPECT_ERROR(error, why);
    vma_target_free(t);
}

static void test_exec_failures(Fixture *f, gconstpointer data)
{
    check_exec_fails("cat >/dev/null; exit 3", LARGE, "failed with exit status 3");
    check_exec_fails("exit 4", LARGE, "failed with exit status 4");
    check_exec_fails("kill -9 $$", LARGE, "killed by signal 9");
    check_exec_fails("cat >/dev/null; kill -15 $$", LARGE, "killed by signal 15");
    check_exec_fails("/nonexistent/program 2>/dev/null", LARGE, "failed with exit status 127");
    check_exec_fails("head -c 1000 >/dev/null", LARGE, "stopped reading before the end");
    check_exec_fails("exec <&-; sleep 0.2", LARGE, "stopped reading before the end");
}

/* Small enough to stay in the pipe: no write ever fails. */
static void test_exec_that_does_not_read(Fixture *f, gconstpointer data)
{
    for (int i = 0; i < 5; i++) {
        g_autofree char *spec = g_strdup("exec:exec sleep 0.1");
        VmaTarget *t = must_open(spec);
        GError *error = NULL;

        g_assert_true(vma_target_write(t, "archive", 7, &error));
        g_assert_false(vma_target_commit(t, &error));
        EXPECT_ERROR(error, "ended before it had read the whole archive");
        vma_target_free(t);
    }
}

static void test_exec_without_command(Fixture *f, gconstpointer data)
{
    GError *error = NULL;

    g_assert_null(vma_target_open("exec:", &error));
    EXPECT_ERROR(error, "exec:: no command given");
}

/* The command and what it started are ended, and never see the end of the
 * input, which they could take for a whole archive. */
static void test_exec_is_ended_without_commit(Fixture *f, gconstpointer data)
{
    g_autofree char *ready = g_build_filename(f->dir, "ready", NULL);
    g_autofree char *spec = NULL;
    VmaTarget *t;
    struct stat st;
    int fd;
    char c;

    g_assert_cmpint(mkfifo(ready, 0600), ==, 0);
    spec = g_strdup_printf("exec:exec 3<&0; (trap '' TERM; exec 4>'%s'; echo >&4; "
                           "cat <&3 >'%s/part'; mv '%s/part' '%s') & wait",
                           ready, f->dir, f->dir, f->path);
    t = must_open(spec);
    g_assert_true(vma_target_write(t, "archive", 7, NULL));
    /* Its trap is set: wait for what it says. */
    fd = open(ready, O_RDONLY);
    g_assert_cmpint(read(fd, &c, 1), ==, 1);
    vma_target_free(t);
    /* Nobody is left that has it open. */
    g_assert_cmpint(read(fd, &c, 1), ==, 0);
    close(fd);
    g_assert_cmpint(stat(f->path, &st), ==, -1);
    g_assert_cmpint(errno, ==, ENOENT);
}

static void test_exec_does_not_keep_ignored_signals(Fixture *f, gconstpointer data)
{
    /* We ignore SIGPIPE; the command must not, or `yes | head' hangs. */
    VmaTarget *t = must_open("exec:cat >/dev/null; yes | head -n 1 >/dev/null");

    g_assert_true(vma_target_write(t, "archive", 7, NULL));
    g_assert_true(vma_target_commit(t, NULL));
    vma_target_free(t);
}

/* ---- cancelling what waits ------------------------------------------------------ */

typedef struct {
    VmaTarget *t;
    bool commit;  /* else write */
    bool ok;
    GError *error;
} Waiter;

static void *waiter(void *opaque)
{
    Waiter *w = opaque;
    g_autofree char *large = g_malloc0(LARGE);

    if (w->commit) {
        w->ok = vma_target_write(w->t, "x", 1, &w->error) &&
                vma_target_commit(w->t, &w->error);
    } else {
        w->ok = vma_target_write(w->t, large, LARGE, &w->error);
    }
    return NULL;
}

/* Cancel at a moment that differs each time: before, while, or long after it
 * began to wait. */
static void cancel_a_waiter(VmaTarget *t, bool commit, int delay_us)
{
    Waiter w = { .t = t, .commit = commit };
    GThread *thread = g_thread_new("waiter", waiter, &w);

    if (delay_us) {
        g_usleep(delay_us);
    }
    vma_target_cancel(t);
    g_thread_join(thread);
    g_assert_false(w.ok);
    g_assert_error(w.error, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED);
    g_clear_error(&w.error);
    vma_target_free(t);
}

static const int delays[] = { 0, 0, 50, 200, 1000, 5000, 50000 };

static void test_cancel_full_pipe(Fixture *f, gconstpointer data)
{
    for (size_t i = 0; i < G_N_ELEMENTS(delays); i++) {
        cancel_a_waiter(must_open("exec:exec sleep 1000"), false, delays[i]);
    }
}

static void test_cancel_waiting_for_command(Fixture *f, gconstpointer data)
{
    for (size_t i = 0; i < G_N_ELEMENTS(delays); i++) {
        cancel_a_waiter(must_open("exec:cat >/dev/null; exec sleep 1000"), true,
                        delays[i]);
    }
}

static void test_cancel_fifo_without_reader(Fixture *f, gconstpointer data)
{
    g_assert_cmpint(mkfifo(f->path, 0600), ==, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(delays); i++) {
        cancel_a_waiter(must_open(f->path), false, delays[i]);
    }
}

/* Its name may go while we wait. */
static void test_cancel_fifo_that_was_removed(Fixture *f, gconstpointer data)
{
    VmaTarget *t;

    g_assert_cmpint(mkfifo(f->path, 0600), ==, 0);
    t = must_open(f->path);
    g_unlink(f->path);
    cancel_a_waiter(t, false, 10000);
}

static void test_cancel_shared_pipe(Fixture *f, gconstpointer data)
{
    for (size_t i = 0; i < G_N_ELEMENTS(delays); i++) {
        GError *error = NULL;
        int fds[2], flags;

        g_assert_cmpint(pipe2(fds, O_CLOEXEC), ==, 0);
        flags = fcntl(fds[1], F_GETFL);
        cancel_a_waiter(vma_target_from_fd(dup(fds[1]), "pipe", &error), false, delays[i]);
        /* Others use the same description: it must be as it was. */
        g_assert_cmpint(fcntl(fds[1], F_GETFL), ==, flags);
        close(fds[0]);
        close(fds[1]);
    }
}

static void test_cancel_socket(Fixture *f, gconstpointer data)
{
    for (size_t i = 0; i < G_N_ELEMENTS(delays); i++) {
        GError *error = NULL;
        int fds[2];

        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
        cancel_a_waiter(vma_target_from_fd(fds[1], "socket", &error), false, delays[i]);
        close(fds[0]);
    }
}

/* ---- other fds -------------------------------------------------------------------- */

typedef struct {
    int fd;
    const char *path; /* opened instead of fd */
    size_t len;
    guint32 sum;
} Drain;

static void *drain(void *opaque)
{
    Drain *d = opaque;
    uint8_t buf[3000];
    ssize_t n;

    if (d->path) {
        d->fd = open(d->path, O_RDONLY);
    }
    while ((n = read(d->fd, buf, sizeof(buf))) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            d->sum = d->sum * 31 + buf[i];
        }
        d->len += n;
    }
    close(d->fd);
    return NULL;
}

static void check_stream(VmaTarget *t, int read_fd, const char *path)
{
    g_autofree uint8_t *large = g_malloc(LARGE);
    Drain d = { .fd = read_fd, .path = path };
    GThread *thread = g_thread_new("drain", drain, &d);
    guint32 sum = 0;
    GError *error = NULL;

    for (size_t i = 0; i < LARGE; i++) {
        large[i] = g_test_rand_int();
        sum = sum * 31 + large[i];
    }
    g_assert_true(vma_target_write(t, large, LARGE, &error));
    g_assert_true(vma_target_commit(t, &error));
    vma_target_free(t);
    g_thread_join(thread);
    g_assert_cmpuint(d.len, ==, LARGE);
    g_assert_cmphex(d.sum, ==, sum);
}

static void test_streams_carry_everything(Fixture *f, gconstpointer data)
{
    int fds[2];

    g_assert_cmpint(pipe2(fds, O_CLOEXEC), ==, 0);
    check_stream(vma_target_from_fd(fds[1], "pipe", NULL), fds[0], NULL);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    check_stream(vma_target_from_fd(fds[1], "socket", NULL), fds[0], NULL);
}

static void test_reader_of_a_pipe_gone(Fixture *f, gconstpointer data)
{
    GError *error = NULL;
    VmaTarget *t;
    int fds[2];

    signal(SIGPIPE, SIG_DFL);
    g_assert_cmpint(pipe2(fds, O_CLOEXEC), ==, 0);
    t = vma_target_from_fd(fds[1], "the pipe", &error);
    close(fds[0]);
    g_assert_false(vma_target_write(t, "x", 1, &error));
    EXPECT_ERROR(error, "the pipe: the reader is gone");
    vma_target_free(t);

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    t = vma_target_from_fd(fds[1], "the socket", &error);
    close(fds[0]);
    g_assert_false(vma_target_write(t, "x", 1, &error));
    EXPECT_ERROR(error, "the socket: the reader is gone");
    vma_target_free(t);
    signal(SIGPIPE, SIG_IGN);
}

static void test_fd_that_cannot_be_written(Fixture *f, gconstpointer data)
{
    GError *error = NULL;

    g_assert_null(vma_target_from_fd(open("/dev/null", O_RDONLY), "ro", &error));
    EXPECT_ERROR(error, "ro: not open for writing");
    g_assert_null(vma_target_from_fd(12345, "bad", &error));
    EXPECT_ERROR(error, "bad: not open for writing");
}

static void test_character_device(Fixture *f, gconstpointer data)
{
    VmaTarget *t = must_open("/dev/null");
    GError *error = NULL;

    g_assert_true(vma_target_write(t, "archive", 7, NULL));
    g_assert_true(vma_target_commit(t, NULL));
    vma_target_free(t);
    t = must_open("/dev/full");
    g_assert_false(vma_target_write(t, "archive", 7, &error));
    EXPECT_ERROR(error, "/dev/full: cannot write: No space left on device");
    g_assert_false(vma_target_commit(t, &error));
    EXPECT_ERROR(error, "earlier write failed");
    vma_target_free(t);
}

static void test_fifo(Fixture *f, gconstpointer data)
{
    g_assert_cmpint(mkfifo(f->path, 0600), ==, 0);
    check_stream(must_open(f->path), -1, f->path);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*test)(Fixture *f, gconstpointer data);
    } tests[] = {
        { "file/appears-when-complete", test_file_appears_when_complete },
        { "file/gone-without-commit", test_file_is_gone_without_commit },
        { "file/replaces-nothing", test_file_replaces_nothing },
        { "file/systems-that-can-do-less", test_file_systems_that_can_do_less },
        { "file/temporary-name", test_file_temporary_name },
        { "file/follows-no-link", test_file_follows_no_link },
        { "file/bad-paths", test_file_bad_paths },
        { "file/write-after-cancel", test_write_after_cancel },
        { "file/commit-after-cancel", test_commit_after_cancel },
        { "exec/gets-everything", test_exec_gets_everything },
        { "exec/failures", test_exec_failures },
        { "exec/does-not-read", test_exec_that_does_not_read },
        { "exec/without-command", test_exec_without_command },
        { "exec/ended-without-commit", test_exec_is_ended_without_commit },
        { "exec/default-signals", test_exec_does_not_keep_ignored_signals },
        { "cancel/full-pipe", test_cancel_full_pipe },
        { "cancel/waiting-for-command", test_cancel_waiting_for_command },
        { "cancel/fifo-without-reader", test_cancel_fifo_without_reader },
        { "cancel/fifo-removed", test_cancel_fifo_that_was_removed },
        { "cancel/shared-pipe", test_cancel_shared_pipe },
        { "cancel/socket", test_cancel_socket },
        { "stream/carries-everything", test_streams_carry_everything },
        { "stream/reader-gone", test_reader_of_a_pipe_gone },
        { "stream/not-writable", test_fd_that_cannot_be_written },
        { "stream/character-device", test_character_device },
        { "stream/fifo", test_fifo },
    };

    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_autofree char *path = g_strconcat("/vma-target/", tests[i].name, NULL);

        g_test_add(path, Fixture, NULL, set_up, tests[i].test, tear_down);
    }
    return g_test_run();
}
