/*
 * The emulator behind the monitors; see monitor-internal.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/migration.h"
#include "monitor-internal.h"
#include "qapi/qapi-commands.h"
#include "util/error.h"
#include "qmp-protocol.h"
#include <string.h>

/* QEMU refuses this while it migrates; but it is not QEMU who does. */
bool monitor_may_pass(MonitorSet *set, const char *command, GError **errp)
{
    if ((strcmp(command, "device_add") && strcmp(command, "device_del")) || !set->sc ||
        !set->sc->migration || !migration_is_outgoing(set->sc->migration)) {
        return true;
    }
    error_set(errp, "%s not allowed while migrating", command);
    return false;
}

/* ---- the real one -------------------------------------------------------- */

static void real_send(void *opaque, const char *command, json_object *args,
                      const int *fds, size_t n_fds, EmuQmpReplyFn *cb,
                      void *cb_opaque)
{
    emu_qmp_send(opaque, command, args, fds, n_fds, cb, cb_opaque);
}

static json_object *real_version(void *opaque)
{
    return emu_qemu_version(opaque);
}

static void on_event(void *opaque, json_object *event)
{
    monitor_set_event(opaque, event);
}

/* No event comes after QEMU has ended, which is before the set is freed: so
 * the listener needs no removing. */
MonitorSet *monitor_set_new(Sidecar *sc)
{
    MonitorEmulator emulator = { real_send, real_version, sc->emu };
    MonitorSet *set = monitor_set_new_full(sc, qmp_commands, &emulator);

    emu_add_event_listener(sc->emu, on_event, set);
    return set;
}

/* ---- calls that wait ------------------------------------------------------- */

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool answered;
    json_object *reply;
} Call;

static void on_reply(void *opaque, json_object *reply)
{
    Call *call = opaque;

    pthread_mutex_lock(&call->lock);
    /* json-c's reference counts are not atomic, and the main thread still
     * holds this one: the waiting thread gets an object of its own. */
    if (json_object_deep_copy(reply, &call->reply, NULL)) {
        call->reply = NULL;
    }
    call->answered = true;
    pthread_cond_signal(&call->cond);
    pthread_mutex_unlock(&call->lock);
}

json_object *monitor_emulator_call(MonitorSet *set, const char *command,
                                   json_object *args, const int *fds,
                                   size_t n_fds, GError **errp)
{
    Call call = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER };
    json_object *result = NULL;

    if (!set->emulator.send) {
        json_object_put(args);
        qmp_error_not_found(command, errp);
        return NULL;
    }
    set->emulator.send(set->emulator.opaque, command, args, fds, n_fds, on_reply,
                       &call);
    pthread_mutex_lock(&call.lock);
    while (!call.answered) {
        pthread_cond_wait(&call.cond, &call.lock);
    }
    pthread_mutex_unlock(&call.lock);
    pthread_mutex_destroy(&call.lock);
    pthread_cond_destroy(&call.cond);

    if (!qmp_reply_error(call.reply, errp)) {
        result = json_object_get(json_object_object_get(call.reply, "return"));
    }
    json_object_put(call.reply);
    return result;
}

/* ---- arguments, and commands that are left to it ---------------------------- */

void monitor_add_string(json_object *args, const char *key, const char *value)
{
    if (value) {
        json_object_object_add(args, key, json_object_new_string(value));
    }
}

void monitor_add_int(json_object *args, const char *key, bool has, int64_t value)
{
    if (has) {
        json_object_object_add(args, key, json_object_new_int64(value));
    }
}

void monitor_add_bool(json_object *args, const char *key, bool has, bool value)
{
    if (has) {
        json_object_object_add(args, key, json_object_new_boolean(value));
    }
}

bool monitor_pass_on(Monitor *mon, const char *command, const char *device,
                     json_object *args, GError **errp)
{
    GError *error = NULL;
    json_object *result =
        monitor_emulator_call(mon->set, command, args, NULL, 0, &error);

    json_object_put(result);
    if (error && device && g_str_has_prefix(error->message,
                                            "Cannot find device")) {
        g_clear_error(&error);
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_DEVICE_NOT_FOUND,
                    "Device '%s' not found", device);
        return false;
    }
    if (error) {
        g_propagate_error(errp, error);
        return false;
    }
    return true;
}
