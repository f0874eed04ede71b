/*
 * qemu-sidecar: put before a QEMU command line, it serves that QEMU's drives
 * and monitors and so adds what QEMU lacks.
 *
 * The life of a VM, all on the main thread:
 *
 *     options ─► plan of the command line ─► (-daemonize: fork) ─► monitors'
 *     chardevs, images opened ─► NBD server ─► QEMU started ─► main loop
 *        ─► QEMU answers: monitors are served ─► QEMU ends: everything is
 *     flushed and closed, and we exit as QEMU did.
 *
 * Whatever fails before QEMU was started is said in one line, with exit status
 * 1 and nothing left behind.  After that QEMU's end is the only way out: when
 * we are told to end (SIGINT, SIGTERM, SIGHUP) we pass that on and wait.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/cmdline.h"
#include "emulator/daemon.h"
#include "emulator/drive-watch.h"
#include "emulator/drives.h"
#include "emulator/guest-ram.h"
#include "emulator/monitors.h"
#include "emulator/own-options.h"
#include "migration/migration.h"
#include "qapi/monitor.h"
#include "sidecar.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    Sidecar sc;            /* first: a Sidecar * is a Program * */
    OwnOptions options;
    EmuCmdline *cl;
    EmuMonitors *monitors; /* chardevs, until they are served */
    DriveWatch *watch;
    int daemon_fd;         /* of -daemonize, else -1 */
    sigset_t old_mask;
    struct rlimit old_files;
    int signal_fd;
    guint signal_source;
    bool ended;            /* QEMU has… */
    int wait_status;       /* …with this */
    bool failed;           /* exit with 1 whatever QEMU does */
    int incoming_fd;       /* of -incoming fd:N, else -1 */
    gint incoming_started; /* atomic */
} Program;

static void print_warnings(EmuCmdline *cl)
{
    for (guint i = 0; i < cl->warnings->len; i++) {
        fprintf(stderr, "qemu-sidecar: warning: %s\n",
                (const char *)g_ptr_array_index(cl->warnings, i));
    }
    g_ptr_array_set_size(cl->warnings, 0);
}

static int print_fd(void *opaque, const EmuMonitor *monitor)
{
    int *next = opaque;

    return (*next)++;
}

static int print_ram_fd(void *opaque, const EmuRam *ram)
{
    return print_fd(opaque, NULL);
}

/* What is only known at run time is shown as an example. */
static int print_command(EmuCmdline *cl, const OwnOptions *o)
{
    int next = 4;
    const EmuRuntime rt = {
        .nbd_socket = "qemu-sidecar/PID/RANDOM",
        .qmp_fd = 3,
        .shared_fd = print_fd,
        .opaque = &next,
        .ram_fd = o->private_ram ? NULL : print_ram_fd,
        .ram_opaque = &next,
    };
    g_auto(GStrv) argv = emu_cmdline_argv(cl, &rt);
    g_autofree char *line = emu_cmdline_quote(argv);

    print_warnings(cl);
    puts(line);
    return 0;
}

/* ---- while QEMU runs ------------------------------------------------ */

static void add_monitor(void *opaque, const EmuMonitor *monitor, Chardev *chr)
{
    Program *p = opaque;

    if (monitor->qmp) {
        monitor_add_qmp(p->sc.monitors, chr, monitor->pretty);
    } else {
        monitor_add_hmp(p->sc.monitors, chr);
    }
}

static void on_job_ended(void *opaque, const BlockJobInfo *info)
{
    Program *p = opaque;

    monitor_job_ended(p->sc.monitors, info);
}

/* As QEMU tells of images of its own. */
static void on_corrupt_image(void *opaque, const char *device, const char *message,
                             bool fatal)
{
    Program *p = opaque;
    json_object *data = json_object_new_object();

    json_object_object_add(data, "device", json_object_new_string(device));
    json_object_object_add(data, "msg", json_object_new_string(message));
    json_object_object_add(data, "fatal", json_object_new_boolean(fatal));
    monitor_emit_event(p->sc.monitors, "BLOCK_IMAGE_CORRUPTED", data);
}

static void on_migration_status(void *opaque, MigrationStatus status)
{
    Program *p = opaque;
    json_object *data = json_object_new_object();

    json_object_object_add(data, "status", json_object_new_string(
                               migration_status_name(status)));
    monitor_emit_event(p->sc.monitors, "MIGRATION", data);
}

static void ignore_reply(void *opaque, json_object *reply)
{
}

/* The guest has come, or never will: then there is nothing to run here.  QEMU
 * says nothing of its own when it quits, so there is one line. */
static void on_incoming(void *opaque, const GError *error)
{
    Program *p = opaque;

    if (p->ended && g_error_matches(error, SIDECAR_ERROR,
                                    SIDECAR_ERROR_CANCELLED)) {
        return; /* nobody waits for it any more */
    }
    if (error && !p->failed) {
        fprintf(stderr, "qemu-sidecar: incoming migration: %s\n",
                error->message);
        p->failed = true;
        emu_qmp_send(p->sc.emu, "quit", NULL, NULL, 0, ignore_reply, NULL);
    }
}

static bool incoming(Sidecar *sc, const char *uri, int fd, GError **errp)
{
    Program *p = (Program *)sc;

    if (!p->cl->incoming) {
        error_set(errp, "'-incoming' was not specified on the command line");
    } else if (g_atomic_int_add(&p->incoming_started, 1)) {
        error_set(errp, "The incoming migration has already been started");
    } else if (migration_incoming(sc->migration, uri, fd, on_incoming, p,
                                  errp)) {
        return true;
    } else {
        g_atomic_int_set(&p->incoming_started, 0);
        return false; /* which took the fd */
    }
    if (fd >= 0) {
        close(fd);
    }
    return false;
}

static void start_incoming(Program *p)
{
    GError *error = NULL;
    int fd = p->incoming_fd;

    if (!p->cl->incoming || !strcmp(p->cl->incoming, "defer")) {
        return;
    }
    p->incoming_fd = -1;
    if (!incoming(&p->sc, p->cl->incoming, fd, &error)) {
        on_incoming(p, error);
        g_error_free(error);
    }
}

static void on_running(void *opaque)
{
    Program *p = opaque;

    if (p->sc.ram) {
        guest_ram_attach(p->sc.ram, emu_pid(p->sc.emu));
    }
    emu_monitors_start(p->monitors, p->sc.emu, add_monitor, p);
    start_incoming(p);
    if (p->daemon_fd >= 0) {
        daemon_ready(p->daemon_fd);
        p->daemon_fd = -1;
    }
}

static void on_exited(void *opaque, int wait_status)
{
    Program *p = opaque;

    p->ended = true;
    p->wait_status = wait_status;
    g_main_loop_quit(p->sc.loop);
}

/* What the terminal sends (^C) reaches QEMU by itself. */
static gboolean on_signal(gint fd, GIOCondition cond, void *opaque)
{
    Program *p = opaque;
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof(info)) == sizeof(info) &&
        info.ssi_code != SI_KERNEL) {
        emu_signal(p->sc.emu, info.ssi_signo);
    }
    return G_SOURCE_CONTINUE;
}

/* Before any thread is started: they all inherit the mask. */
static bool catch_signals(Program *p, GError **errp)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (p->signal_fd < 0) {
        error_set_errno(errp, errno, "cannot wait for signals");
        return false;
    }
    pthread_sigmask(SIG_BLOCK, &set, &p->old_mask);
    p->signal_source = g_unix_fd_add(p->signal_fd, G_IO_IN, on_signal, p);
    return true;
}

/* ---- start ---------------------------------------------------------- */

/* An abstract socket leaves nothing in any file system, however we end; its
 * name can't be guessed, and only QEMU's process is let in. */
static char *socket_name(GError **errp)
{
    uint64_t bits[2];

    if (getrandom(bits, sizeof(bits), 0) != sizeof(bits)) {
        error_set_errno(errp, errno, "cannot get random numbers");
        return NULL;
    }
    return g_strdup_printf("qemu-sidecar/%d/%016" PRIx64 "%016" PRIx64,
                           getpid(), bits[0], bits[1]);
}

static bool start_nbd(Program *p, GError **errp)
{
    g_autofree char *path = NULL;

    p->sc.nbd_socket = socket_name(errp);
    if (!p->sc.nbd_socket) {
        return false;
    }
    path = g_strconcat("@", p->sc.nbd_socket, NULL);
    p->sc.nbd = nbd_server_new(p->options.workers, errp);
    return p->sc.nbd && nbd_server_listen_unix(p->sc.nbd, path, errp) &&
           emu_export_drives(p->cl, p->sc.block, p->sc.nbd, errp);
}

static void allow_pid(void *opaque, pid_t pid)
{
    Program *p = opaque;

    nbd_server_allow_pid(p->sc.nbd, pid);
}

static void add_inherited_fd(void *opaque, int64_t set, int fd)
{
    Program *p = opaque;

    monitor_add_inherited_fd(p->sc.monitors, set, fd);
}

static void start_migration(Program *p)
{
    const MigrationConfig cfg = {
        .emu = p->sc.emu,
        .ram = p->sc.ram,
        .ram_left = p->cl->ram_left,
        .block = p->sc.block,
        .cl = p->cl,
        .on_status = on_migration_status,
        .opaque = p,
    };

    p->sc.migration = migration_manager_new(&cfg);
    p->sc.incoming = incoming;
}

/* -incoming fd:N, which we have inherited and QEMU shall not. */
static bool claim_incoming_fd(Program *p, GError **errp)
{
    const char *uri = p->cl->incoming;
    guint64 fd;

    if (!uri || !g_str_has_prefix(uri, "fd:")) {
        return true;
    }
    if (!g_ascii_string_to_unsigned(uri + strlen("fd:"), 10, 3, INT_MAX, &fd,
                                    NULL) ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        error_set(errp, "-incoming %s: no such file descriptor", uri);
        return false;
    }
    p->incoming_fd = fd;
    return true;
}

static bool start_qemu(Program *p, GError **errp)
{
    static const EmuHandlers handlers = {
        .running = on_running,
        .exited = on_exited,
    };
    GArray *shared = emu_monitors_child_fds(p->monitors);
    EmuRuntime rt = {
        .nbd_socket = p->sc.nbd_socket,
        .shared_fd = emu_monitors_shared_fd,
        .opaque = p->monitors,
        .ram_fd = p->sc.ram ? guest_ram_child_fd : NULL,
        .ram_opaque = p->sc.ram,
    };
    EmuStart start = {
        .fds = (const int *)shared->data,
        .n_fds = shared->len,
        .mask = &p->old_mask,
        .relay_output = p->cl->daemonize,
        .guard = p->cl->runas,
        .umask = p->cl->daemonize ? 027 : -1,
        .open_files = &p->old_files,
        .before_exec = allow_pid,
        .opaque = p,
    };
    g_auto(GStrv) argv = NULL, env = NULL;

    p->sc.emu = emu_new(&handlers, p, errp);
    if (!p->sc.emu) {
        return false;
    }
    emu_set_drives(p->sc.emu, p->sc.block, p->sc.nbd_socket);
    rt.qmp_fd = emu_qmp_child_fd(p->sc.emu);
    argv = emu_cmdline_argv(p->cl, &rt);
    start.argv = argv;
    if (p->sc.ram) {
        guest_ram_child_fds(p->sc.ram, shared);
        start.fds = (const int *)shared->data;
        start.n_fds = shared->len;
        start.environ = env = guest_ram_environ(p->sc.ram);
    }
    p->sc.monitors = monitor_set_new(&p->sc);
    emu_cmdline_fdsets(p->cl, add_inherited_fd, p);
    block_context_set_corrupt_fn(p->sc.block, on_corrupt_image, p);
    p->watch = drive_watch_new(&p->sc);
    p->sc.jobs = block_job_set_new(on_job_ended, p);
    start_migration(p);
    return emu_start(p->sc.emu, &start, errp);
}

/* Without it only live migration is missing: never a reason not to start. */
static void open_ram(Program *p)
{
    g_autoptr(GError) error = NULL;
    const char *why = p->cl->ram_left;

    if (!p->options.private_ram) {
        p->sc.ram = guest_ram_open(p->cl, p->options.compare_ram, &error);
    }
    if (!p->sc.ram) {
        g_clear_pointer(&p->cl->incoming, g_free); /* stays QEMU's */
    }
    if (p->options.private_ram) {
        return;
    }
    if (error) {
        why = error->message;
    }
    if (why) {
        fprintf(stderr, "qemu-sidecar: warning: %s: live migration through the "
                "sidecar is off\n", why);
    }
}

static bool start(Program *p, GError **errp)
{
    if (p->cl->daemonize) {
        p->daemon_fd = daemon_start(errp);
        if (p->daemon_fd < 0) {
            return false;
        }
    }
    open_ram(p);
    if (!claim_incoming_fd(p, errp)) {
        return false;
    }
    p->monitors = emu_monitors_open(p->cl, errp);
    p->sc.loop = g_main_loop_new(NULL, FALSE);
    p->sc.block = block_context_new();
    if (!p->monitors || !emu_open_drives(p->cl, p->sc.block, errp)) {
        return false;
    }
    print_warnings(p->cl);
    p->sc.backup = backup_manager_new(p->sc.block);
    p->sc.backup_defaults = (BackupRequest){
        .buffer_size = p->options.backup_buffer,
        .spill_dir = p->options.backup_spill_dir,
        .spill_limit = p->options.backup_spill,
    };
    return catch_signals(p, errp) && start_nbd(p, errp) &&
           start_qemu(p, errp);
}

/* ---- end ------------------------------------------------------------ */

/* QEMU is gone; false if something could not be written. */
static bool stop(Program *p)
{
    bool ok;

    /* A backup command that waits for its instant must come back before the
     * monitors, and those before what they use. */
    if (p->sc.backup) {
        backup_cancel(p->sc.backup);
    }
    if (p->sc.jobs) {
        block_job_set_stop(p->sc.jobs);
    }
    if (p->sc.migration) {
        migration_manager_stop(p->sc.migration);
    }
    if (p->sc.block) { /* requests may still be under way */
        block_context_set_corrupt_fn(p->sc.block, NULL, NULL);
    }
    g_clear_pointer(&p->watch, drive_watch_free);
    g_clear_pointer(&p->sc.monitors, monitor_set_free);
    g_clear_pointer(&p->sc.migration, migration_manager_free);
    g_clear_pointer(&p->sc.jobs, block_job_set_free);
    g_clear_pointer(&p->monitors, emu_monitors_free);
    g_clear_pointer(&p->sc.backup, backup_manager_free);
    g_clear_pointer(&p->sc.nbd, nbd_server_free);
    ok = !p->sc.block || emu_flush_drives(p->sc.block);
    g_clear_pointer(&p->sc.block, block_context_free);
    g_clear_pointer(&p->sc.emu, emu_free);
    g_clear_pointer(&p->sc.ram, guest_ram_free);
    g_clear_handle_id(&p->signal_source, g_source_remove);
    g_clear_pointer(&p->sc.loop, g_main_loop_unref);
    g_clear_pointer(&p->sc.nbd_socket, g_free);
    g_clear_pointer(&p->cl, emu_cmdline_free);
    return ok;
}

/* End as QEMU did. */
static int exit_like(int wait_status, bool ok)
{
    if (WIFSIGNALED(wait_status)) {
        const struct rlimit no_core = {0, 0};
        int signum = WTERMSIG(wait_status);
        sigset_t set;

        chardev_stdio_restore();
        setrlimit(RLIMIT_CORE, &no_core);
        signal(signum, SIG_DFL);
        sigemptyset(&set);
        sigaddset(&set, signum);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        raise(signum);
        return 128 + signum;
    }
    return WEXITSTATUS(wait_status) || ok ? WEXITSTATUS(wait_status) : 1;
}

/* A closed stdin, stdout or stderr must not become one of our files. */
static void open_std_fds(void)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd < 3);
    if (fd >= 0) {
        close(fd);
    }
}

/* A drive, a connection, a monitor: each takes descriptors beside those that QEMU
 * takes for them, and without one QEMU would wait for its drives for ever.  So as
 * many as we may; QEMU's own limit stays what it was. */
static void raise_open_files(Program *p)
{
    struct rlimit most;

    getrlimit(RLIMIT_NOFILE, &p->old_files);
    most = p->old_files;
    most.rlim_cur = most.rlim_max;
    setrlimit(RLIMIT_NOFILE, &most);
}

static int run(Program *p, const char *const *argv)
{
    g_autoptr(GError) error = NULL;
    bool ok;

    p->cl = emu_cmdline_parse(argv);
    if (p->cl->only_information) {
        execvp(argv[0], (char **)argv);
        fprintf(stderr, "qemu-sidecar: cannot run '%s': %s\n", argv[0],
                g_strerror(errno));
        return 127;
    }
    /* A reader that goes away and a file size limit are errors of the write
     * they stop; they must not end the VM. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    raise_open_files(p);
    if (!emu_cmdline_plan(p->cl, &error)) {
        fprintf(stderr, "qemu-sidecar: %s\n", error->message);
        return 1;
    }
    if (p->options.print_command) {
        return print_command(p->cl, &p->options);
    }
    if (!start(p, &error)) {
        fprintf(stderr, "qemu-sidecar: %s\n", error->message);
        stop(p);
        return 1;
    }
    g_main_loop_run(p->sc.loop);
    ok = stop(p);
    return p->failed ? 1 : exit_like(p->wait_status, ok);
}

int main(int argc, char **argv)
{
    static Program program = {
        .daemon_fd = -1, .signal_fd = -1, .incoming_fd = -1
    };
    int status, rest;

    open_std_fds();
    /* GLib makes its lock for errors with the first one; made here, before there
     * are threads, ThreadSanitizer need not know how two of them agree on it. */
    g_error_free(g_error_new_literal(SIDECAR_ERROR, SIDECAR_ERROR_GENERIC, ""));
    status = own_options_parse(argc, argv, &program.options, &rest);
    return status >= 0 ? status
                       : run(&program, (const char *const *)argv + rest);
}
