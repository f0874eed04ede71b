/*
 * The chardevs of the monitors that the sidecar takes over.
 *
 * A terminal that is shared with a front end of QEMU's:
 *
 *     stdio ── multiplexer ─┬─ monitor
 *      (base)               └─ socketpair ── QEMU's chardev serial0
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/monitors.h"
#include "cmdline-internal.h"
#include "util/error.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    EmuMonitors *all;
    EmuMonitor *monitor; /* borrowed from the command line */
    Chardev *chr;        /* NULL: left to QEMU, or given away */
    int our_fd, child_fd; /* of a shared terminal, else -1 */
} Entry;

struct EmuMonitors {
    GPtrArray *entries; /* Entry */
    GArray *child_fds;  /* int */
    int escape;
    Emulator *emu;      /* borrowed, from emu_monitors_start on */
};

static void entry_free(void *opaque)
{
    Entry *e = opaque;

    g_clear_pointer(&e->chr, chardev_free);
    if (e->our_fd >= 0) {
        close(e->our_fd);
    }
    g_free(e);
}

static bool open_chardev(EmuCmdline *cl, Entry *e, GError **errp)
{
    g_autoptr(GError) error = NULL;
    EmuMonitor *mon = e->monitor;

    e->chr = chardev_new(mon->spec, mon->option_form, &error);
    if (e->chr) {
        return chardev_wait_connected(e->chr, errp);
    }
    if (g_error_matches(error, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED)) {
        emu_monitor_leave(cl, mon, error->message);
        return true;
    }
    error_set(errp, "%s: %s", mon->source, error->message);
    return false;
}

static bool make_shared(EmuMonitors *mons, Entry *e, GError **errp)
{
    int sv[2];

    if (!e->chr || !e->monitor->shared_id) {
        return true;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv)) {
        error_set_errno(errp, errno, "cannot make a socket");
        return false;
    }
    e->our_fd = sv[0];
    e->child_fd = sv[1];
    g_array_append_val(mons->child_fds, sv[1]);
    return true;
}

EmuMonitors *emu_monitors_open(EmuCmdline *cl, GError **errp)
{
    EmuMonitors *mons = g_new0(EmuMonitors, 1);

    mons->entries = g_ptr_array_new_with_free_func(entry_free);
    mons->child_fds = g_array_new(FALSE, FALSE, sizeof(int));
    mons->escape = cl->escape;
    for (guint i = 0; i < cl->monitors->len; i++) {
        Entry *e = g_new0(Entry, 1);

        e->all = mons;
        e->our_fd = e->child_fd = -1;
        e->monitor = g_ptr_array_index(cl->monitors, i);
        g_ptr_array_add(mons->entries, e);
        if (!e->monitor->left && (!open_chardev(cl, e, errp) ||
                                  !make_shared(mons, e, errp))) {
            emu_monitors_free(mons);
            return NULL;
        }
    }
    return mons;
}

GArray *emu_monitors_child_fds(EmuMonitors *mons)
{
    return mons->child_fds;
}

int emu_monitors_shared_fd(void *opaque, const EmuMonitor *monitor)
{
    EmuMonitors *mons = opaque;

    for (guint i = 0; i < mons->entries->len; i++) {
        const Entry *e = g_ptr_array_index(mons->entries, i);

        if (e->monitor == monitor) {
            return e->child_fd;
        }
    }
    return -1;
}

/* ---- keys of a shared terminal -------------------------------------- */

static void ignore_reply(void *opaque, json_object *reply)
{
}

static void on_quit(void *opaque)
{
    Entry *e = opaque;

    emu_qmp_send(e->all->emu, "quit", NULL, NULL, 0, ignore_reply, NULL);
}

static void on_send_break(void *opaque)
{
    Entry *e = opaque;
    json_object *args = json_object_new_object();

    json_object_object_add(args, "id",
                           json_object_new_string(e->monitor->shared_id));
    emu_qmp_send(e->all->emu, "chardev-send-break", args, NULL, 0,
                 ignore_reply, NULL);
}

static void on_commit(void *opaque)
{
    Entry *e = opaque;
    json_object *args = json_object_new_object();

    json_object_object_add(args, "command-line",
                           json_object_new_string("commit all"));
    emu_qmp_send(e->all->emu, "human-monitor-command", args, NULL, 0,
                 ignore_reply, NULL);
}

static Chardev *put_multiplexer(Entry *e)
{
    static const ChardevMuxOps ops = {
        .quit = on_quit,
        .send_break = on_send_break,
        .commit = on_commit,
    };
    g_autoptr(GError) error = NULL;
    Chardev *base = g_steal_pointer(&e->chr), *mux;
    int fd = e->our_fd;

    e->our_fd = -1;
    mux = chardev_mux_new(base, fd, e->all->escape, &ops, e, &error);
    if (!mux) {
        g_printerr("qemu-sidecar: %s: %s\n", e->monitor->source,
                   error->message);
    }
    return mux;
}

/* ---- life ----------------------------------------------------------- */

void emu_monitors_start(EmuMonitors *mons, Emulator *emu,
                        void (*add)(void *opaque, const EmuMonitor *monitor,
                                    Chardev *chr),
                        void *opaque)
{
    mons->emu = emu;
    for (guint i = 0; i < mons->entries->len; i++) {
        Entry *e = g_ptr_array_index(mons->entries, i);
        Chardev *chr = NULL;

        if (e->chr) {
            chr = e->monitor->mux ? put_multiplexer(e)
                                  : g_steal_pointer(&e->chr);
        }
        if (chr) {
            add(opaque, e->monitor, chr);
        }
    }
}

void emu_monitors_free(EmuMonitors *mons)
{
    if (mons) {
        g_ptr_array_unref(mons->entries);
        g_array_unref(mons->child_fds);
        g_free(mons);
    }
}
