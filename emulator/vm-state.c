/*
 * Run state and device state of the VM; see include/emulator/vm-state.h.
 *
 * A device-only stream is QEMU's own migration with the capability
 * x-ignore-shared, into one end of a socketpair.  That it is complete is known
 * from the MIGRATION event (capability "events"), which comes after the last
 * byte.  Afterwards QEMU is in `postmigrate', from which `cont' leads back; so
 * it can be repeated as often as wished (QEMU 7.2: about 2 ms in all).
 *
 * Loading goes the same way with migrate-incoming; QEMU 7.2 ends itself with
 * exit status 1 when it does not like a stream, so the end of QEMU is an answer
 * too.
 *
 * Events: on the main thread.  RESUME and STOP of our own come before the reply
 * to the command that caused them, on the same socket, so they are hidden from
 * when the command is sent until its reply has been handled.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/vm-state.h"

#include "util/error.h"
#include "vm-state-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FD_NAME "qemu-sidecar-state"

struct EmuVmState {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int hide_run_state;      /* atomic; commands of ours under way */
    bool hidden_pause;       /* main thread: nobody may see that it is stopped */
    json_object *hidden_stop; /* main thread: the event, in case it must be seen */
    bool migrating;          /* MIGRATION events are ours; lock */
    bool ready;              /* bandwidth has been set; one user at a time */
    bool gone;               /* QEMU has ended; lock */
    bool asked;              /* to save, and has not answered yet; lock */
    int asked_fd;            /* a duplicate of the end that we read; lock */
    GError *refused;         /* its answer was an error; lock */
    char status[32];         /* of the last MIGRATION event; lock */
};

EmuVmState *emu_vm_state_new(void)
{
    EmuVmState *st = g_new0(EmuVmState, 1);

    pthread_mutex_init(&st->lock, NULL);
    pthread_cond_init(&st->changed, NULL);
    return st;
}

void emu_vm_state_free(EmuVmState *st)
{
    pthread_mutex_destroy(&st->lock);
    pthread_cond_destroy(&st->changed);
    g_clear_error(&st->refused);
    json_object_put(st->hidden_stop);
    g_free(st);
}

/* ---- events, main thread -------------------------------------------------- */

static bool take_migration_event(EmuVmState *st, json_object *event)
{
    json_object *data, *status;
    bool ours;

    pthread_mutex_lock(&st->lock);
    ours = st->migrating;
    if (ours && json_object_object_get_ex(event, "data", &data) &&
        json_object_object_get_ex(data, "status", &status)) {
        g_strlcpy(st->status, json_object_get_string(status),
                  sizeof(st->status));
        pthread_cond_broadcast(&st->changed);
    }
    pthread_mutex_unlock(&st->lock);
    return ours;
}

bool emu_vm_state_hides(EmuVmState *st, json_object *event)
{
    json_object *name;
    const char *s;

    if (!json_object_object_get_ex(event, "event", &name)) {
        return false;
    }
    s = json_object_get_string(name);
    if (!strcmp(s, "MIGRATION")) {
        return take_migration_event(st, event);
    }
    if (!g_atomic_int_get(&st->hide_run_state) ||
        (strcmp(s, "STOP") && strcmp(s, "RESUME"))) {
        return false;
    }
    if (!strcmp(s, "STOP")) {
        json_object_put(st->hidden_stop);
        st->hidden_stop = json_object_get(event);
    }
    return true;
}

void emu_vm_state_hide(EmuVmState *st, bool hide)
{
    g_atomic_int_add(&st->hide_run_state, hide ? 1 : -1);
}

/* ---- replies, main thread ------------------------------------------------- */

void emu_vm_state_set_pause(EmuVmState *st, bool hidden)
{
    st->hidden_pause = hidden;
}

json_object *emu_vm_state_take_stop(EmuVmState *st)
{
    return g_steal_pointer(&st->hidden_stop);
}

bool emu_vm_state_concerns(const char *command)
{
    return !strcmp(command, "query-status") ||
        !strcmp(command, "human-monitor-command");
}

/* The states that a stop and the saving of devices lead to. */
static bool is_our_pause(const char *status)
{
    static const char *const states[] = {
        "paused", "finish-migrate", "postmigrate",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(states); i++) {
        if (!g_strcmp0(status, states[i])) {
            return true;
        }
    }
    return false;
}

/* query-status has an object, `info status' a line. */
void emu_vm_state_translate(EmuVmState *st, json_object *reply)
{
    json_object *value = json_object_object_get(reply, "return");
    const char *status;

    if (!st->hidden_pause) {
        return;
    }
    if (json_object_is_type(value, json_type_string)) {
        if (g_str_has_prefix(json_object_get_string(value), "VM status: paused")) {
            json_object_object_add(reply, "return", json_object_new_string(
                                       "VM status: running\r\n"));
        }
        return;
    }
    status = json_object_get_string(json_object_object_get(value, "status"));
    if (is_our_pause(status)) {
        json_object_object_add(value, "running", json_object_new_boolean(true));
        json_object_object_add(value, "status", json_object_new_string("running"));
    }
}

void emu_vm_state_gone(EmuVmState *st)
{
    pthread_mutex_lock(&st->lock);
    st->gone = true;
    pthread_cond_broadcast(&st->changed);
    pthread_mutex_unlock(&st->lock);
}

/* ---- run state ------------------------------------------------------------ */

bool emu_vm_running(Emulator *emu, bool *running, GError **errp)
{
    json_object *reply = emu_qmp_call(emu, "query-status", NULL, errp);
    json_object *value;

    if (!reply) {
        return false;
    }
    *running = json_object_object_get_ex(reply, "running", &value) &&
        json_object_get_boolean(value);
    json_object_put(reply);
    return true;
}

char *emu_vm_status(Emulator *emu, GError **errp)
{
    json_object *reply = emu_qmp_call(emu, "query-status", NULL, errp), *value;
    char *status = NULL;

    if (reply) {
        status = g_strdup(json_object_object_get_ex(reply, "status", &value) ?
                          json_object_get_string(value) : "");
    }
    json_object_put(reply);
    return status;
}

static json_object *ask_qom(Emulator *emu, const char *command,
                            const char *path, const char *property,
                            GError **errp)
{
    json_object *args = json_object_new_object();

    json_object_object_add(args, "path", json_object_new_string(path));
    if (property) {
        json_object_object_add(args, "property",
                               json_object_new_string(property));
    }
    return emu_qmp_call(emu, command, args, errp);
}

char *emu_vm_peripherals(Emulator *emu, GError **errp)
{
    json_object *a = ask_qom(emu, "qom-list", "/machine/peripheral", NULL, errp);
    json_object *b = a ? ask_qom(emu, "qom-list", "/machine/peripheral-anon",
                                 NULL, errp) : NULL;
    char *text = b ? g_strconcat(json_object_to_json_string(a), "\n",
                                 json_object_to_json_string(b), NULL) : NULL;

    json_object_put(a);
    json_object_put(b);
    return text;
}

char *emu_vm_machine(Emulator *emu, GError **errp)
{
    json_object *reply = ask_qom(emu, "qom-get", "/machine", "type", errp);
    const char *name = json_object_get_string(reply);
    char *result;

    if (!reply) {
        return NULL;
    }
    result = g_strdup(name ? name : "");
    if (g_str_has_suffix(result, "-machine")) {
        result[strlen(result) - strlen("-machine")] = '\0';
    }
    json_object_put(reply);
    return result;
}

bool emu_vm_describes_state(Emulator *emu, bool *described, GError **errp)
{
    json_object *reply = ask_qom(emu, "qom-get", "/machine", "suppress-vmdesc",
                                 errp);
    bool ok = reply != NULL;

    *described = !json_object_get_boolean(reply);
    json_object_put(reply);
    return ok;
}

bool emu_is_ram_block_of(const char *idstr, const char *id)
{
    static const char prefix[] = "/objects/";
    const char *slash;

    if (g_str_has_prefix(idstr, prefix)) {
        return !strcmp(idstr + strlen(prefix), id);
    }
    slash = *idstr == '/' ? NULL : strrchr(idstr, '/'); /* "/rom@…" is none */
    return !strcmp(slash ? slash + 1 : idstr, id);
}

bool emu_vm_ram_block_name(Emulator *emu, const char *id, char name[256],
                           GError **errp)
{
    g_autofree char *table = emu_hmp_call(emu, "info ramblock", errp);
    g_auto(GStrv) lines = table ? g_strsplit(table, "\n", -1) : NULL;

    for (size_t i = 0; lines && lines[i]; i++) {
        char *word = g_strchug(lines[i]);

        word[strcspn(word, " \t\r")] = '\0';
        if (emu_is_ram_block_of(word, id)) {
            g_strlcpy(name, word, 256);
            return true;
        }
    }
    if (table) {
        error_set(errp, "QEMU has no RAM block of memory backend '%s'", id);
    }
    return false;
}

char **emu_vm_shared_memory(Emulator *emu, GError **errp)
{
    json_object *reply = emu_qmp_call(emu, "query-memdev", NULL, errp);
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    size_t n = json_object_is_type(reply, json_type_array) ?
        json_object_array_length(reply) : 0;

    for (size_t i = 0; i < n; i++) {
        json_object *dev = json_object_array_get_idx(reply, i);
        const char *id = json_object_get_string(json_object_object_get(dev, "id"));

        if (id && json_object_get_boolean(json_object_object_get(dev, "share"))) {
            g_ptr_array_add(ids, g_strdup(id));
        }
    }
    json_object_put(reply);
    if (!reply) {
        return NULL;
    }
    g_ptr_array_add(ids, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&ids), FALSE);
}

/*
 * The log knows of writes through QEMU's page tables.  Not so go those of another
 * process (vhost-user), and those of a disk past the page cache: QEMU 7.2 reads
 * straight into guest memory, whose pages the kernel looked up when the request began
 * and writes when it ends; a round may come between.  (Drives of ours come through a
 * socket, which is QEMU's writing.)
 */
static bool reads_directly(json_object *node)
{
    static const char *const drivers[] = { "file", "host_device", "host_cdrom" };
    json_object *cache = json_object_object_get(node, "cache");
    const char *drv = json_object_get_string(json_object_object_get(node, "drv"));

    for (size_t i = 0; drv && i < G_N_ELEMENTS(drivers); i++) {
        if (!strcmp(drv, drivers[i])) {
            return json_object_get_boolean(json_object_object_get(cache, "direct"));
        }
    }
    return !g_strcmp0(drv, "nvme"); /* the device itself writes */
}

static bool find_direct_node(Emulator *emu, char **who, GError **errp)
{
    json_object *nodes = emu_qmp_call_as_it_is(emu, "query-named-block-nodes",
                                               errp);
    size_t n = json_object_is_type(nodes, json_type_array) ?
        json_object_array_length(nodes) : 0;

    for (size_t i = 0; i < n && !*who; i++) {
        json_object *node = json_object_array_get_idx(nodes, i);

        if (reads_directly(node)) {
            const char *file =
                json_object_get_string(json_object_object_get(node, "file"));

            *who = g_strdup_printf("QEMU reads '%s' past the page cache",
                                   file ? file : "a disk");
        }
    }
    json_object_put(nodes);
    return nodes != NULL;
}

bool emu_vm_unseen_writer(Emulator *emu, char **who, GError **errp)
{
    static const char *const devices[] = {
        "vhost-user", "vhost-vdpa", "<scsi-block>", "<scsi-generic>",
    };
    g_autofree char *names = emu_vm_peripherals(emu, errp);
    g_autofree char *nics = names ? emu_hmp_call(emu, "info network", errp) : NULL;
    g_autofree char *all = g_strconcat(names ? names : "", nics, NULL);

    *who = NULL;
    for (size_t i = 0; i < G_N_ELEMENTS(devices) && !*who; i++) {
        if (strstr(all, devices[i])) {
            *who = g_strdup_printf("a device of type %s writes to memory past QEMU",
                                   devices[i]);
        }
    }
    return nics && (*who || find_direct_node(emu, who, errp));
}

static bool call(Emulator *emu, const char *command, json_object *args,
                 bool hidden, GError **errp)
{
    json_object *reply = emu_qmp_call_full(emu, command, args, -1, hidden, errp);
    bool ok = reply != NULL;

    json_object_put(reply);
    return ok;
}

bool emu_vm_stop(Emulator *emu, bool hidden, GError **errp)
{
    return call(emu, "stop", NULL, hidden, errp);
}

bool emu_vm_cont(Emulator *emu, bool hidden, GError **errp)
{
    return call(emu, "cont", NULL, hidden, errp);
}

/* ---- device state ----------------------------------------------------------- */

static json_object *capability(const char *name, bool state)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "capability", json_object_new_string(name));
    json_object_object_add(o, "state", json_object_new_boolean(state));
    return o;
}

/* @ignore_shared holds for `savevm' too, which must not leave out the guest's memory:
 * so only while it is needed. */
static bool set_capabilities(Emulator *emu, bool ignore_shared, GError **errp)
{
    json_object *list = json_object_new_array();
    json_object *args = json_object_new_object();

    json_object_array_add(list, capability("events", true));
    json_object_array_add(list, capability("x-ignore-shared", ignore_shared));
    json_object_object_add(args, "capabilities", list);
    return call(emu, "migrate-set-capabilities", args, false, errp);
}

/* No limit: the other end is in this process. */
static bool set_bandwidth(Emulator *emu, GError **errp)
{
    json_object *args = json_object_new_object();

    json_object_object_add(args, "max-bandwidth", json_object_new_int64(0));
    return call(emu, "migrate-set-parameters", args, false, errp);
}

static void set_migrating(Emulator *emu, bool on)
{
    EmuVmState *st = emu_vm_state(emu);

    pthread_mutex_lock(&st->lock);
    st->migrating = on;
    st->status[0] = '\0';
    pthread_mutex_unlock(&st->lock);
}

static bool pass_fd(Emulator *emu, int fd, GError **errp)
{
    json_object *args = json_object_new_object(), *reply;
    bool ok;

    json_object_object_add(args, "fdname", json_object_new_string(FD_NAME));
    reply = emu_qmp_call_full(emu, "getfd", args, fd, false, errp);
    ok = reply != NULL;
    json_object_put(reply);
    return ok;
}

/* One end of a socketpair goes to QEMU; the other end, or -1.  Who does not use
 * it closes it: QEMU forgets its end when it gets the next one. */
static int open_pair(Emulator *emu, GError **errp)
{
    int sv[2];
    bool ok;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0) {
        error_set_errno(errp, errno, "cannot make a socket");
        return -1;
    }
    ok = pass_fd(emu, sv[1], errp);
    close(sv[1]);
    if (!ok) {
        close(sv[0]);
        return -1;
    }
    return sv[0];
}

static json_object *our_end(void)
{
    json_object *args = json_object_new_object();

    json_object_object_add(args, "uri", json_object_new_string("fd:" FD_NAME));
    return args;
}

/* Until a status that is final, or a refusal; into @status. */
static void wait_final(EmuVmState *st, char status[32])
{
    static const char *const final[] = {"completed", "failed", "cancelled"};
    bool found = false;

    pthread_mutex_lock(&st->lock);
    for (;;) {
        for (size_t i = 0; i < G_N_ELEMENTS(final); i++) {
            found |= !strcmp(st->status, final[i]);
        }
        if (!st->asked && (found || st->refused || st->gone)) {
            break;
        }
        pthread_cond_wait(&st->changed, &st->lock);
    }
    g_strlcpy(status, found ? st->status : "ended", 32);
    pthread_mutex_unlock(&st->lock);
}

static bool end(Emulator *emu, const char *what, GError **errp)
{
    char status[32];

    wait_final(emu_vm_state(emu), status);
    set_migrating(emu, false);
    if (strcmp(status, "completed")) {
        error_set(errp, "%s: QEMU %s", what, strcmp(status, "ended") ? status :
                  "has ended");
        return false;
    }
    return true;
}

int emu_save_devices_open(Emulator *emu, GError **errp)
{
    EmuVmState *st = emu_vm_state(emu);

    if (!st->ready) {
        if (!set_bandwidth(emu, errp)) {
            return -1;
        }
        st->ready = true;
    }
    return set_capabilities(emu, true, errp) ? open_pair(emu, errp) : -1;
}

/* The answer to `migrate', on the main thread. */
static void on_save_answer(void *opaque, json_object *reply)
{
    EmuVmState *st = opaque;

    pthread_mutex_lock(&st->lock);
    st->asked = false;
    st->refused = emu_qmp_reply_error(reply);
    if (st->asked_fd >= 0) {
        if (st->refused) {
            shutdown(st->asked_fd, SHUT_RDWR); /* nothing will come there */
        }
        close(st->asked_fd);
    }
    pthread_cond_broadcast(&st->changed);
    pthread_mutex_unlock(&st->lock);
}

/*
 * The answer is not waited for: QEMU 7.2 may hold its big lock from before it
 * answers until its last byte is written, which does not happen while nobody
 * reads.
 */
void emu_save_devices_begin(Emulator *emu, int fd)
{
    EmuVmState *st = emu_vm_state(emu);

    set_migrating(emu, true);
    pthread_mutex_lock(&st->lock);
    g_clear_error(&st->refused);
    st->asked = true;
    st->asked_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    pthread_mutex_unlock(&st->lock);
    emu_qmp_send(emu, "migrate", our_end(), NULL, 0, on_save_answer, st);
}

bool emu_save_devices_end(Emulator *emu, GError *error, GError **errp)
{
    EmuVmState *st = emu_vm_state(emu);
    bool ok = end(emu, "saving the device state", error ? NULL : &error);
    GError *refused;

    ok = set_capabilities(emu, false, error ? NULL : &error) && ok;
    pthread_mutex_lock(&st->lock);
    refused = g_steal_pointer(&st->refused);
    pthread_mutex_unlock(&st->lock);
    if (refused) {
        g_clear_error(&error);
        error = refused;
    }
    if (error) {
        g_propagate_error(errp, error);
    }
    return ok && !error;
}

int emu_load_devices_begin(Emulator *emu, GError **errp)
{
    int fd = set_capabilities(emu, false, errp) ? open_pair(emu, errp) : -1;

    if (fd < 0) {
        return -1;
    }
    set_migrating(emu, true);
    if (!call(emu, "migrate-incoming", our_end(), false, errp)) {
        set_migrating(emu, false);
        close(fd);
        return -1;
    }
    return fd;
}

bool emu_load_devices_end(Emulator *emu, GError **errp)
{
    return end(emu, "loading the device state", errp);
}
