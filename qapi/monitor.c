/*
 * Monitors in general: the set, the life of a client, threads for commands,
 * events.  See monitor-internal.h for the picture and the locks.
 *
 * Other threads hand things to the main thread in one place: a list of actions
 * under set->lock and an eventfd that wakes the main loop.  So what one thread
 * hands over (an event, then the end of its command) comes out in that order.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "monitor-internal.h"
#include "util/error.h"
#include <glib-unix.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct MonitorAction {
    void (*fn)(void *opaque);
    void *opaque;
};

/* ---- the main thread's list --------------------------------------------- */

void monitor_invoke(MonitorSet *set, void (*fn)(void *opaque), void *opaque)
{
    MonitorAction *action = g_new(MonitorAction, 1);
    uint64_t one = 1;
    bool first;

    *action = (MonitorAction){ fn, opaque };
    pthread_mutex_lock(&set->lock);
    first = g_queue_is_empty(&set->actions);
    g_queue_push_tail(&set->actions, action);
    /* Within the lock: once it is open, the set may go away. */
    if (first && write(set->wakeup_fd, &one, sizeof(one)) < 0) {
        g_warning("monitor: eventfd: %s", g_strerror(errno));
    }
    pthread_mutex_unlock(&set->lock);
}

static void run_actions(MonitorSet *set)
{
    GQueue actions;
    MonitorAction *action;

    pthread_mutex_lock(&set->lock);
    actions = set->actions;
    g_queue_init(&set->actions);
    pthread_mutex_unlock(&set->lock);

    while ((action = g_queue_pop_head(&actions))) {
        action->fn(action->opaque);
        g_free(action);
    }
}

static gboolean on_wakeup(int fd, GIOCondition condition, void *opaque)
{
    uint64_t count;

    if (read(fd, &count, sizeof(count)) == sizeof(count)) {
        run_actions(opaque);
    }
    return G_SOURCE_CONTINUE;
}

/* ---- the set -------------------------------------------------------------- */

MonitorSet *monitor_set_new_full(Sidecar *sc, const QmpCommand *commands,
                                 const MonitorEmulator *emulator)
{
    MonitorSet *set = g_new0(MonitorSet, 1);

    set->sc = sc;
    set->commands = commands;
    if (emulator) {
        set->emulator = *emulator;
    }
    set->main_thread = pthread_self();
    set->monitors = g_ptr_array_new();
    set->chardevs = g_ptr_array_new_with_free_func((GDestroyNotify)chardev_free);
    set->endpoints = g_ptr_array_new_with_free_func(g_free);
    pthread_mutex_init(&set->lock, NULL);
    g_queue_init(&set->actions);
    set->fdset_fds = g_array_new(FALSE, FALSE, sizeof(MonitorFdsetFd));
    set->wakeup_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (set->wakeup_fd < 0) {
        g_error("eventfd: %s", g_strerror(errno)); /* no descriptors at start */
    }
    set->wakeup_source = g_unix_fd_add(set->wakeup_fd, G_IO_IN, on_wakeup, set);
    return set;
}

void monitor_set_begin(MonitorSet *set)
{
    set->running++;
}

void monitor_set_end(MonitorSet *set)
{
    set->running--;
}

static void *cancel_commands(void *opaque)
{
    Sidecar *sc = opaque;

    backup_cancel(sc->backup);
    return NULL;
}

/* Commands end because QEMU is gone and because what they wait for is
 * cancelled; their ends arrive on the main context. */
static void wait_for_commands(MonitorSet *set)
{
    GThread *canceller = NULL;

    if (set->running && set->sc && set->sc->backup) {
        canceller = g_thread_new("monitor-cancel", cancel_commands, set->sc);
    }
    while (set->running) {
        g_main_context_iteration(NULL, TRUE);
    }
    if (canceller) {
        g_thread_join(canceller);
    }
}

void monitor_set_free(MonitorSet *set)
{
    if (!set) {
        return;
    }
    set->closing = true;
    for (guint i = 0; i < set->monitors->len; i++) {
        Monitor *mon = g_ptr_array_index(set->monitors, i);

        mon->kind->close(mon);
    }
    wait_for_commands(set);
    g_ptr_array_unref(set->chardevs);
    run_actions(set);
    g_source_remove(set->wakeup_source);
    close(set->wakeup_fd);
    monitor_set_close_fdsets(set);
    g_array_unref(set->fdset_fds);
    g_ptr_array_unref(set->endpoints);
    g_ptr_array_unref(set->monitors);
    pthread_mutex_destroy(&set->lock);
    g_free(set);
}

void monitor_set_add_chardev(MonitorSet *set, Chardev *chr,
                             const ChardevHandlers *h, void *opaque)
{
    g_ptr_array_add(set->chardevs, chr);
    chardev_set_handlers(chr, h, opaque);
}

/* ---- clients --------------------------------------------------------------- */

void monitor_init(Monitor *mon, MonitorSet *set, const MonitorKind *kind,
                  ChardevClient *client)
{
    mon->kind = kind;
    mon->set = set;
    mon->refs = 1;
    mon->client = client;
    mon->named_fds = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    mon->received_fds = g_array_new(FALSE, FALSE, sizeof(int));
    g_ptr_array_add(set->monitors, mon);
}

Monitor *monitor_ref(Monitor *mon)
{
    mon->refs++;
    return mon;
}

void monitor_unref(Monitor *mon)
{
    if (--mon->refs) {
        return;
    }
    monitor_close_fds(mon);
    g_hash_table_unref(mon->named_fds);
    g_array_unref(mon->received_fds);
    mon->kind->free(mon);
}

void monitor_gone(Monitor *mon)
{
    MonitorSet *set = mon->set;

    mon->client = NULL;
    g_ptr_array_remove(set->monitors, mon);
    monitor_close_fds(mon);
    if (set->monitors->len == 0 && !set->closing) {
        monitor_set_close_fdsets(set);
    }
    monitor_unref(mon);
}

Sidecar *monitor_sidecar(Monitor *mon)
{
    return mon->set->sc;
}

/* ---- commands on threads ---------------------------------------------------- */

typedef struct {
    Monitor *mon;
    GThread *thread;
    void (*work)(void *opaque);
    void (*done)(void *opaque);
    void *opaque;
} Run;

static void run_done(void *opaque)
{
    Run *run = opaque;
    MonitorSet *set = run->mon->set;

    g_thread_join(run->thread);
    run->done(run->opaque);
    monitor_unref(run->mon);
    monitor_set_end(set);
    g_free(run);
}

static void *run_thread(void *opaque)
{
    Run *run = opaque;

    run->work(run->opaque);
    monitor_invoke(run->mon->set, run_done, run);
    return NULL;
}

void monitor_run(Monitor *mon, void (*work)(void *opaque),
                 void (*done)(void *opaque), void *opaque)
{
    Run *run = g_new0(Run, 1);

    run->mon = monitor_ref(mon);
    run->work = work;
    run->done = done;
    run->opaque = opaque;
    monitor_set_begin(mon->set);
    /* run_done runs on this thread, so ->thread is set by then. */
    run->thread = g_thread_new("monitor-command", run_thread, run);
}

/* ---- events -------------------------------------------------------------------- */

void monitor_set_event(MonitorSet *set, json_object *event)
{
    for (guint i = 0; i < set->monitors->len; i++) {
        Monitor *mon = g_ptr_array_index(set->monitors, i);

        if (mon->kind->event) {
            mon->kind->event(mon, event);
        }
    }
}

typedef struct {
    MonitorSet *set;
    json_object *event;
} Emission;

static void emit(void *opaque)
{
    Emission *e = opaque;

    monitor_set_event(e->set, e->event);
    json_object_put(e->event);
    g_free(e);
}

static json_object *timestamp_now(void)
{
    json_object *stamp = json_object_new_object();
    int64_t now = g_get_real_time();

    json_object_object_add(stamp, "seconds", json_object_new_int64(now / 1000000));
    json_object_object_add(stamp, "microseconds", json_object_new_int64(now % 1000000));
    return stamp;
}

/* On the main thread it goes out at once, so that it comes before the reply of
 * the command that caused it. */
void monitor_emit_event(MonitorSet *set, const char *name, json_object *data)
{
    Emission *e = g_new(Emission, 1);

    e->set = set;
    e->event = json_object_new_object();
    json_object_object_add(e->event, "timestamp", timestamp_now());
    json_object_object_add(e->event, "event", json_object_new_string(name));
    if (data) {
        json_object_object_add(e->event, "data", data);
    }
    if (pthread_equal(pthread_self(), set->main_thread)) {
        emit(e);
    } else {
        monitor_invoke(set, emit, e);
    }
}
