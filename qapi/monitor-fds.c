/*
 * Descriptors that clients pass: getfd's names and add-fd's sets.
 *
 * A name belongs to one client, as in QEMU, where each monitor has its own.
 * All our clients share one inner monitor, so QEMU does not get a named
 * descriptor until the client sends a command that mentions the name: then
 * getfd, the command and closefd go to QEMU together (qmp-passthrough.c).  If
 * closefd finds nothing, the command has used the descriptor up, and ours is
 * dropped too; else ours stays.
 *
 * A descriptor in a set is QEMU's as soon as it arrives; we keep a duplicate
 * under the numbers that QEMU gave, for our own /dev/fdset/N.  QEMU gives up its
 * sets when the last monitor has gone; its inner one never goes, so we say it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "monitor-internal.h"
#include "qapi/qapi-commands.h"
#include "util/error.h"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* So that a client can't use up our descriptors. */
#define MAX_NAMED_FDS 64
#define MAX_FDSET_FDS 256

static void lock(Monitor *mon)
{
    pthread_mutex_lock(&mon->set->lock);
}

static void unlock(Monitor *mon)
{
    pthread_mutex_unlock(&mon->set->lock);
}

/* ---- received, not claimed yet ----------------------------------------- */

static void close_all(GArray *fds)
{
    for (guint i = 0; i < fds->len; i++) {
        close(g_array_index(fds, int, i));
    }
    g_array_set_size(fds, 0);
}

void monitor_receive_fds(Monitor *mon, const int *fds, size_t n_fds)
{
    if (n_fds == 0) {
        return;
    }
    lock(mon);
    close_all(mon->received_fds);
    g_array_append_vals(mon->received_fds, fds, n_fds);
    unlock(mon);
}

int monitor_claim_fd(Monitor *mon, GError **errp)
{
    int fd = -1;

    lock(mon);
    if (mon->received_fds->len) {
        fd = g_array_index(mon->received_fds, int, 0);
        g_array_remove_index(mon->received_fds, 0);
        close_all(mon->received_fds);
    }
    unlock(mon);
    if (fd < 0) {
        error_set(errp, "No file descriptor supplied via SCM_RIGHTS");
    }
    return fd;
}

/* ---- names --------------------------------------------------------------- */

/* Takes the fd out of the table: -1 if there is none. */
static int steal_named(Monitor *mon, const char *name)
{
    void *value;
    int fd = -1;

    lock(mon);
    if (g_hash_table_lookup_extended(mon->named_fds, name, NULL, &value)) {
        fd = GPOINTER_TO_INT(value);
        g_hash_table_remove(mon->named_fds, name);
    }
    unlock(mon);
    return fd;
}

static bool not_found(const char *name, GError **errp)
{
    error_set(errp, "File descriptor named '%s' not found", name);
    return false;
}

/* @fd is taken over. */
static bool put_named(Monitor *mon, const char *name, int fd, GError **errp)
{
    bool room;

    monitor_forget_fd(mon, name);
    lock(mon);
    room = g_hash_table_size(mon->named_fds) < MAX_NAMED_FDS;
    if (room) {
        g_hash_table_insert(mon->named_fds, g_strdup(name), GINT_TO_POINTER(fd));
    }
    unlock(mon);
    if (!room) {
        close(fd);
        error_set(errp, "Too many file descriptors are kept already (%d)",
                  MAX_NAMED_FDS);
    }
    return room;
}

bool qmp_getfd(Monitor *mon, const char *fdname, GError **errp)
{
    int fd = monitor_claim_fd(mon, errp);

    if (fd < 0) {
        return false;
    }
    if (g_ascii_isdigit(fdname[0])) {
        close(fd);
        error_set(errp, "Parameter 'fdname' expects a name not starting with a digit");
        return false;
    }
    return put_named(mon, fdname, fd, errp);
}

void monitor_forget_fd(Monitor *mon, const char *name)
{
    int fd = steal_named(mon, name);

    if (fd >= 0) {
        close(fd);
    }
}

bool qmp_closefd(Monitor *mon, const char *fdname, GError **errp)
{
    int fd = steal_named(mon, fdname);

    if (fd < 0) {
        return not_found(fdname, errp);
    }
    close(fd);
    return true;
}

int monitor_take_fd(Monitor *mon, const char *name, GError **errp)
{
    int fd = steal_named(mon, name);

    if (fd < 0) {
        not_found(name, errp);
    }
    return fd;
}

void monitor_close_fds(Monitor *mon)
{
    GHashTableIter it;
    void *fd;

    lock(mon);
    close_all(mon->received_fds);
    g_hash_table_iter_init(&it, mon->named_fds);
    while (g_hash_table_iter_next(&it, NULL, &fd)) {
        close(GPOINTER_TO_INT(fd));
    }
    g_hash_table_remove_all(mon->named_fds);
    unlock(mon);
}

/* ---- names in a command for QEMU ------------------------------------------ */

static bool mentions(json_object *value, const char *name)
{
    switch (json_object_get_type(value)) {
    case json_type_string:
        return strstr(json_object_get_string(value), name) != NULL;
    case json_type_array:
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            if (mentions(json_object_array_get_idx(value, i), name)) {
                return true;
            }
        }
        return false;
    case json_type_object: {
        json_object_object_foreach(value, key, member) {
            (void)key;
            if (mentions(member, name)) {
                return true;
            }
        }
        return false;
    }
    default:
        return false;
    }
}

GPtrArray *monitor_mentioned_fds(Monitor *mon, json_object *args, GArray **fds)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter it;
    void *name, *value;

    *fds = g_array_new(FALSE, FALSE, sizeof(int));
    lock(mon);
    g_hash_table_iter_init(&it, mon->named_fds);
    while (g_hash_table_iter_next(&it, &name, &value)) {
        if (mentions(args, name)) {
            int fd = fcntl(GPOINTER_TO_INT(value), F_DUPFD_CLOEXEC, 0);

            if (fd >= 0) {
                g_ptr_array_add(names, g_strdup(name));
                g_array_append_val(*fds, fd);
            }
        }
    }
    unlock(mon);
    return names;
}

/* ---- sets ------------------------------------------------------------------ */

static bool remember(MonitorSet *set, const AddfdInfo *info, int fd, GError **errp)
{
    MonitorFdsetFd entry = { info->fdset_id, info->fd, fd };
    bool room;

    pthread_mutex_lock(&set->lock);
    room = set->fdset_fds->len < MAX_FDSET_FDS;
    if (room) {
        g_array_append_val(set->fdset_fds, entry);
    }
    pthread_mutex_unlock(&set->lock);
    if (!room) {
        error_set(errp, "Too many file descriptors are in sets already (%d)",
                  MAX_FDSET_FDS);
    }
    return room;
}

/* Is one of them known by the number @emulator_fd?  Lock held. */
static bool is_known(const MonitorSet *set, int64_t id, int64_t emulator_fd)
{
    for (guint i = 0; i < set->fdset_fds->len; i++) {
        const MonitorFdsetFd *f = &g_array_index(set->fdset_fds, MonitorFdsetFd, i);

        if (f->fdset_id == id && f->emulator_fd == emulator_fd) {
            return true;
        }
    }
    return false;
}

/* Forget those of set @id, or (@one) only that which QEMU calls @emulator_fd; if
 * there is none of that number it is an inherited one, and they all go. */
static void forget(MonitorSet *set, int64_t id, bool one, int64_t emulator_fd)
{
    pthread_mutex_lock(&set->lock);
    if (one && !is_known(set, id, emulator_fd)) {
        emulator_fd = INHERITED;
    }
    for (guint i = set->fdset_fds->len; i-- > 0;) {
        MonitorFdsetFd *f = &g_array_index(set->fdset_fds, MonitorFdsetFd, i);

        if (f->fdset_id == id && (!one || f->emulator_fd == emulator_fd)) {
            close(f->fd);
            g_array_remove_index(set->fdset_fds, i);
        }
    }
    pthread_mutex_unlock(&set->lock);
}

void monitor_add_inherited_fd(MonitorSet *set, int64_t id, int fd)
{
    AddfdInfo info = { .fdset_id = id, .fd = INHERITED };
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    /* QEMU says what is wrong with it, and does not start. */
    if (copy >= 0 && !remember(set, &info, copy, NULL)) {
        close(copy);
    }
}

static json_object *remove_args(int64_t id, bool has_fd, int64_t fd)
{
    json_object *args = json_object_new_object();

    json_object_object_add(args, "fdset-id", json_object_new_int64(id));
    if (has_fd) {
        json_object_object_add(args, "fd", json_object_new_int64(fd));
    }
    return args;
}

/* QEMU's answer to add-fd; @fd is taken over if it works. */
static AddfdInfo *added(Monitor *mon, json_object *answer, int fd, GError **errp)
{
    QapiInput in = { .value = answer };
    g_autoptr(AddfdInfo) info = NULL;

    if (!qapi_input_AddfdInfo(&in, &info, errp)) {
        return NULL;
    }
    if (!remember(mon->set, info, fd, errp)) {
        json_object_put(monitor_emulator_call(mon->set, "remove-fd",
                                              remove_args(info->fdset_id, true, info->fd),
                                              NULL, 0, NULL));
        return NULL;
    }
    return g_steal_pointer(&info);
}

AddfdInfo *qmp_add_fd(Monitor *mon, bool has_fdset_id, int64_t fdset_id,
                      const char *opaque, GError **errp)
{
    int fd = monitor_claim_fd(mon, errp);
    json_object *args = json_object_new_object(), *answer;
    AddfdInfo *info = NULL;

    if (has_fdset_id) {
        json_object_object_add(args, "fdset-id", json_object_new_int64(fdset_id));
    }
    if (opaque) {
        json_object_object_add(args, "opaque", json_object_new_string(opaque));
    }
    if (fd < 0) {
        json_object_put(args);
        return NULL;
    }
    answer = monitor_emulator_call(mon->set, "add-fd", args, &fd, 1, errp);
    if (answer) {
        info = added(mon, answer, fd, errp);
        json_object_put(answer);
    }
    if (!info) {
        close(fd);
    }
    return info;
}

bool qmp_remove_fd(Monitor *mon, int64_t fdset_id, bool has_fd, int64_t fd,
                   GError **errp)
{
    GError *err = NULL;
    json_object *answer = monitor_emulator_call(
        mon->set, "remove-fd", remove_args(fdset_id, has_fd, fd), NULL, 0, &err);

    json_object_put(answer);
    if (err) {
        g_propagate_error(errp, err);
        return false;
    }
    forget(mon->set, fdset_id, has_fd, fd);
    return true;
}

/* The best match: the same access mode, else read-write. */
static int find_in_set(MonitorSet *set, int64_t id, int access_mode, bool *set_exists)
{
    int best = -1;

    *set_exists = false;
    for (guint i = 0; i < set->fdset_fds->len; i++) {
        const MonitorFdsetFd *f = &g_array_index(set->fdset_fds, MonitorFdsetFd, i);
        int mode = f->fdset_id == id ? fcntl(f->fd, F_GETFL) : -1;

        if (mode < 0) {
            continue;
        }
        *set_exists = true;
        if ((mode & O_ACCMODE) == access_mode) {
            return f->fd;
        }
        if ((mode & O_ACCMODE) == O_RDWR) {
            best = f->fd;
        }
    }
    return best;
}

int monitor_fdset_dup(Monitor *mon, int64_t id, int access_mode, GError **errp)
{
    bool exists;
    int fd, result = -1, errnum = 0;

    lock(mon);
    fd = find_in_set(mon->set, id, access_mode, &exists);
    if (fd >= 0) {
        result = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        errnum = errno;
    }
    unlock(mon);
    if (result >= 0) {
        return result;
    }
    if (!exists) {
        g_autofree char *name = g_strdup_printf("fdset-id:%" G_GINT64_FORMAT, id);

        not_found(name, errp);
    } else if (fd < 0) {
        error_set(errp, "fdset %" G_GINT64_FORMAT " has no file descriptor that is "
                  "open for %s", id, access_mode == O_RDONLY ? "reading" : "writing");
    } else {
        error_set_errno(errp, errnum, "fdset %" G_GINT64_FORMAT, id);
    }
    return -1;
}

static void ignore_reply(void *opaque, json_object *reply)
{
}

/* Those of the command line stay: drives of QEMU's may be on them. */
static const MonitorFdsetFd *next_to_close(const MonitorSet *set)
{
    for (guint i = 0; i < set->fdset_fds->len; i++) {
        const MonitorFdsetFd *f = &g_array_index(set->fdset_fds, MonitorFdsetFd, i);

        if (set->closing || f->emulator_fd != INHERITED) {
            return f;
        }
    }
    return NULL;
}

void monitor_set_close_fdsets(MonitorSet *set)
{
    const MonitorFdsetFd *next;

    while ((next = next_to_close(set))) {
        MonitorFdsetFd f = *next;
        bool one = !set->closing && is_known(set, f.fdset_id, INHERITED);

        forget(set, f.fdset_id, one, f.emulator_fd);
        if (!set->closing && set->emulator.send) {
            set->emulator.send(set->emulator.opaque, "remove-fd",
                               remove_args(f.fdset_id, one, f.emulator_fd), NULL, 0,
                               ignore_reply, NULL);
        }
    }
}
