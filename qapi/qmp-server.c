/*
 * The QMP server: one QmpClient for each conversation on a chardev.
 *
 *     start ──open──► NEGOTIATING ──qmp_capabilities──► READY ──closed──► freed
 *                       no events, no other command       │ ▲
 *                                                 request ▼ │ reply
 *                                                        busy
 *
 * Input is kept in ->input and parsed one request at a time; while a request is
 * under way (busy) the chardev is paused, so at most one chunk of the chardev
 * waits here, and descriptors stay with the bytes they came with.  Hence
 * replies come in the order of requests, and a client that sends faster than it
 * is served is slowed down by its own socket.  So is one that does not read: no
 * request is begun while more than OUTPUT_MAX bytes wait for it.  (Events can't
 * be held back; a client that lets 16 MiB of them pile up is disconnected.)
 *
 * A request ends in one of three ways: at once on the main thread, on a thread
 * of its own (QMP_COROUTINE), or in QEMU (qmp-passthrough.c).  In the last two
 * cases the client is referenced until the end, and may be gone by then.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qmp-server.h"
#include "json.h"
#include "qapi/qapi-commands.h"
#include "util/error.h"

#define OUTPUT_MAX (1 << 20)

static void process(QmpClient *client);

/* ---- output ----------------------------------------------------------------- */

/* @message is borrowed. */
static void send_message(QmpClient *client, json_object *message)
{
    g_autoptr(GString) text = g_string_new(NULL);

    if (client->common.client) {
        json_write(text, message, client->pretty);
        g_string_append(text, "\r\n");
        chardev_client_write(client->common.client, text->str, text->len);
    }
}

static void send_and_put(QmpClient *client, json_object *message)
{
    send_message(client, message);
    json_object_put(message);
}

static void qmp_client_event(Monitor *mon, json_object *event)
{
    QmpClient *client = QMP_CLIENT(mon);

    if (client->negotiated) {
        send_message(client, event);
    }
}

/* ---- requests ----------------------------------------------------------------- */

static void request_free(QmpPending *pending)
{
    json_object_put(pending->message);
    json_object_put(pending->result);
    g_clear_error(&pending->error);
    g_free(pending);
}

void qmp_finish(QmpPending *pending, json_object *reply)
{
    QmpClient *client = pending->client;
    MonitorSet *set = client->common.set;

    if (reply) {
        send_and_put(client, reply);
    }
    request_free(pending);
    client->busy = false;
    process(client);
    monitor_unref(&client->common);
    monitor_set_end(set);
}

static void handler_done(void *opaque)
{
    QmpPending *pending = opaque;
    const QmpRequest *request = &pending->request;
    json_object *reply = NULL;

    if (pending->error) {
        reply = qmp_error(pending->error, request->has_id, request->id);
    } else if (!(pending->command->flags & QMP_NO_SUCCESS_RESPONSE)) {
        reply = qmp_return(g_steal_pointer(&pending->result), request->has_id,
                           request->id);
    }
    qmp_finish(pending, reply);
}

static void run_handler(void *opaque)
{
    QmpPending *pending = opaque;
    json_object *args = pending->request.args;
    json_object *empty = args ? NULL : json_object_new_object();

    if (!pending->command->marshal(&pending->client->common, args ? args : empty,
                                   &pending->result, &pending->error) &&
        !pending->error) {
        error_set(&pending->error, "%s failed", pending->command->name);
    }
    json_object_put(empty);
}

static const QmpCommand *find_command(QmpClient *client, const char *name,
                                      GError **errp)
{
    const QmpCommand *command = qmp_find_command(client->common.set->commands, name);

    if (!client->negotiated &&
        (!command || g_strcmp0(name, "qmp_capabilities") != 0)) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_COMMAND_NOT_FOUND,
                    "Expecting capabilities negotiation with 'qmp_capabilities'");
        return NULL;
    }
    if (!command && !client->common.set->emulator.send) {
        qmp_error_not_found(name, errp);
    }
    return command;
}

/* @message is consumed. */
static void begin_request(QmpClient *client, json_object *message)
{
    GError *err = NULL;
    QmpPending *pending = g_new0(QmpPending, 1);
    QmpRequest *request = &pending->request;

    pending->client = client;
    pending->message = message;
    client->busy = true;
    monitor_ref(&client->common);
    monitor_set_begin(client->common.set);

    if (qmp_parse_request(message, request, &err)) {
        pending->command = find_command(client, request->command, &err);
    }
    if (!err && !pending->command) {
        monitor_may_pass(client->common.set, request->command, &err);
    }
    if (err) {
        qmp_finish(pending, qmp_error(err, request->has_id, request->id));
        g_error_free(err);
    } else if (!pending->command) {
        qmp_pass_through(pending);
    } else if (pending->command->flags & QMP_COROUTINE) {
        monitor_run(&client->common, run_handler, handler_done, pending);
    } else {
        run_handler(pending);
        handler_done(pending);
    }
}

/* ---- input --------------------------------------------------------------------- */

static void handle_value(QmpClient *client, json_object *value, GError *err)
{
    if (err) {
        send_and_put(client, qmp_error(err, false, NULL));
        g_error_free(err);
    } else {
        begin_request(client, value);
    }
}

/* May the next request begin? */
static bool ready(const QmpClient *client)
{
    return !client->busy && client->common.client && !client->common.set->closing &&
           chardev_client_queued(client->common.client) <= OUTPUT_MAX;
}

/* Take bytes of ->input; a request or an error may come out. */
static void parse_some(QmpClient *client)
{
    json_object *value = NULL;
    GError *err = NULL;
    size_t used;
    bool complete = json_reader_next(client->reader,
                                     (const char *)client->input->data + client->parsed,
                                     client->input->len - client->parsed, &used, &value,
                                     &err);

    client->parsed += used;
    if (complete) {
        handle_value(client, value, err);
    }
}

/* A paused chardev does not see the end of input either: so what was asked
 * before it is still answered. */
static void set_listening(QmpClient *client)
{
    if (client->parsed == client->input->len) {
        g_byte_array_set_size(client->input, 0);
        client->parsed = 0;
    }
    if (client->common.client) {
        chardev_client_pause(client->common.client, !ready(client));
    }
}

/* Serve what is in ->input until a request is under way.  Never nested: a
 * request that ends at once finds ->processing set. */
static void process(QmpClient *client)
{
    if (client->processing) {
        return;
    }
    client->processing = true;
    monitor_ref(&client->common);
    while (client->parsed < client->input->len && ready(client)) {
        parse_some(client);
    }
    client->processing = false;
    set_listening(client);
    monitor_unref(&client->common);
}

static void on_input(void *opaque, const char *buf, size_t len, const int *fds,
                     size_t n_fds)
{
    QmpClient *client = opaque;

    monitor_receive_fds(&client->common, fds, n_fds);
    g_byte_array_append(client->input, (const guint8 *)buf, len);
    process(client);
}

static void on_drained(void *opaque)
{
    process(opaque);
}

/* ---- life ------------------------------------------------------------------------ */

static void qmp_client_close(Monitor *mon)
{
    if (mon->client) {
        chardev_client_close(mon->client);
    }
}

static void qmp_client_free(Monitor *mon)
{
    QmpClient *client = QMP_CLIENT(mon);

    json_reader_free(client->reader);
    g_byte_array_unref(client->input);
    g_free(client);
}

static const MonitorKind qmp_kind = {
    .name = "QMP",
    .close = qmp_client_close,
    .free = qmp_client_free,
    .event = qmp_client_event,
};

static void *on_open(void *opaque, ChardevClient *chardev_client)
{
    QmpEndpoint *endpoint = opaque;
    MonitorSet *set = endpoint->set;
    QmpClient *client = g_new0(QmpClient, 1);

    monitor_init(&client->common, set, &qmp_kind, chardev_client);
    client->pretty = endpoint->pretty;
    client->reader = json_reader_new();
    client->input = g_byte_array_new();
    send_and_put(client, qmp_greeting(set->emulator.version
                                          ? set->emulator.version(set->emulator.opaque)
                                          : NULL));
    return client;
}

static void on_closed(void *opaque)
{
    QmpClient *client = opaque;

    monitor_gone(&client->common);
}

static const ChardevHandlers qmp_handlers = {
    .open = on_open,
    .input = on_input,
    .closed = on_closed,
    .drained = on_drained,
};

void monitor_add_qmp(MonitorSet *set, Chardev *chr, bool pretty)
{
    QmpEndpoint *endpoint = g_new0(QmpEndpoint, 1);

    endpoint->set = set;
    endpoint->pretty = pretty;
    g_ptr_array_add(set->endpoints, endpoint);
    chardev_set_echo(chr, true);
    monitor_set_add_chardev(set, chr, &qmp_handlers, endpoint);
}

/* ---- the one command that is about the client --------------------------------------- */

bool qmp_qmp_capabilities(Monitor *mon, bool has_enable, QMPCapabilityList *enable,
                          GError **errp)
{
    QmpClient *client = QMP_CLIENT(mon);

    if (mon->kind != &qmp_kind || client->negotiated) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_COMMAND_NOT_FOUND,
                    "Capabilities negotiation is already complete, command ignored");
        return false;
    }
    if (has_enable && enable) {
        error_set(errp, "Capability %s not available",
                  QMPCapability_str(enable->value));
        return false;
    }
    client->negotiated = true;
    return true;
}
