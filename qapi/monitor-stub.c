/*
 * A stand-in until the QMP server and the HMP monitor are here: everything is
 * passed on to QEMU.  To be deleted by the commit that brings them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qapi/monitor.h"

#include <string.h>

struct MonitorSet {
    Sidecar *sc;
    GPtrArray *chardevs;
    GPtrArray *qmp_clients;
};

typedef struct {
    MonitorSet *set;
    ChardevClient *client;
    json_tokener *tok;
    GString *line;
    bool hmp;
} StubClient;

typedef struct {
    ChardevClient *client;
    json_object *id;
    bool hmp;
} Call;

static void say(ChardevClient *client, json_object *obj)
{
    g_autofree char *text = g_strdup_printf(
        "%s\r\n", json_object_to_json_string_ext(obj, JSON_C_TO_STRING_PLAIN));

    chardev_client_write(client, text, strlen(text));
}

static void on_reply(void *opaque, json_object *reply)
{
    Call *call = opaque;
    json_object *value = NULL;

    if (reply && call->hmp && json_object_object_get_ex(reply, "return", &value)) {
        const char *text = json_object_get_string(value);

        chardev_client_write(call->client, text, strlen(text));
        chardev_client_write(call->client, "(qemu) ", 7);
    } else if (reply && !call->hmp) {
        json_object_object_del(reply, "id");
        if (call->id) {
            json_object_object_add(reply, "id", json_object_get(call->id));
        }
        say(call->client, reply);
    }
    json_object_put(call->id);
    chardev_client_unref(call->client);
    g_free(call);
}

static void call(StubClient *c, const char *command, json_object *args,
                 json_object *id)
{
    Call *call = g_new0(Call, 1);

    call->client = chardev_client_ref(c->client);
    call->id = json_object_get(id);
    call->hmp = c->hmp;
    emu_qmp_send(c->set->sc->emu, command, args, NULL, 0, on_reply, call);
}

static void *open_client(MonitorSet *set, ChardevClient *client, bool hmp)
{
    StubClient *c = g_new0(StubClient, 1);

    c->set = set;
    c->client = client;
    c->hmp = hmp;
    c->tok = json_tokener_new();
    c->line = g_string_new(NULL);
    return c;
}

static void *open_qmp(void *opaque, ChardevClient *client)
{
    MonitorSet *set = opaque;
    json_object *qmp = json_object_new_object(), *all = json_object_new_object();

    json_object_object_add(qmp, "version",
                           json_object_get(emu_qemu_version(set->sc->emu)));
    json_object_object_add(qmp, "capabilities", json_object_new_array());
    json_object_object_add(all, "QMP", qmp);
    say(client, all);
    json_object_put(all);
    g_ptr_array_add(set->qmp_clients, client);
    return open_client(set, client, false);
}

static void *open_hmp(void *opaque, ChardevClient *client)
{
    chardev_client_write(client, "(qemu) ", 7);
    return open_client(opaque, client, true);
}

static void input_qmp(StubClient *c, const char *buf, size_t len)
{
    while (len) {
        json_object *obj = json_tokener_parse_ex(c->tok, buf, len), *cmd = NULL,
                    *args = NULL, *id = NULL;
        size_t used = json_tokener_get_parse_end(c->tok);

        if (!obj) {
            return;
        }
        json_object_object_get_ex(obj, "execute", &cmd);
        json_object_object_get_ex(obj, "arguments", &args);
        json_object_object_get_ex(obj, "id", &id);
        if (cmd && !strcmp(json_object_get_string(cmd), "qmp_capabilities")) {
            json_object *ok = json_object_new_object();

            json_object_object_add(ok, "return", json_object_new_object());
            if (id) {
                json_object_object_add(ok, "id", json_object_get(id));
            }
            say(c->client, ok);
            json_object_put(ok);
        } else if (cmd) {
            call(c, json_object_get_string(cmd), json_object_get(args), id);
        }
        json_object_put(obj);
        buf += used;
        len -= used;
        while (len && g_ascii_isspace(*buf)) {
            buf++;
            len--;
        }
    }
}

static void input(void *opaque, const char *buf, size_t len, const int *fds,
                  size_t n_fds)
{
    StubClient *c = opaque;
    char *eol;

    if (!c->hmp) {
        input_qmp(c, buf, len);
        return;
    }
    g_string_append_len(c->line, buf, len);
    while ((eol = strpbrk(c->line->str, "\r\n"))) {
        json_object *args = json_object_new_object();

        json_object_object_add(args, "command-line",
                               json_object_new_string_len(c->line->str,
                                                          eol - c->line->str));
        call(c, "human-monitor-command", args, NULL);
        g_string_erase(c->line, 0, eol - c->line->str + 1);
    }
}

static void closed(void *opaque)
{
    StubClient *c = opaque;

    g_ptr_array_remove(c->set->qmp_clients, c->client);
    json_tokener_free(c->tok);
    g_string_free(c->line, TRUE);
    g_free(c);
}

static void on_event(void *opaque, json_object *event)
{
    MonitorSet *set = opaque;

    for (guint i = 0; set->qmp_clients && i < set->qmp_clients->len; i++) {
        say(g_ptr_array_index(set->qmp_clients, i), event);
    }
}

MonitorSet *monitor_set_new(Sidecar *sc)
{
    MonitorSet *set = g_new0(MonitorSet, 1);

    set->sc = sc;
    set->chardevs =
        g_ptr_array_new_with_free_func((GDestroyNotify)chardev_free);
    set->qmp_clients = g_ptr_array_new();
    emu_add_event_listener(sc->emu, on_event, set);
    return set;
}

void monitor_set_free(MonitorSet *set)
{
    g_ptr_array_unref(set->chardevs);
    g_ptr_array_unref(set->qmp_clients);
    g_free(set);
}

void monitor_add_qmp(MonitorSet *set, Chardev *chr, bool pretty)
{
    static const ChardevHandlers h = {
        .open = open_qmp,
        .input = input,
        .closed = closed,
    };

    g_ptr_array_add(set->chardevs, chr);
    chardev_set_handlers(chr, &h, set);
}

void monitor_add_hmp(MonitorSet *set, Chardev *chr)
{
    static const ChardevHandlers h = {
        .open = open_hmp,
        .input = input,
        .closed = closed,
    };

    g_ptr_array_add(set->chardevs, chr);
    chardev_set_handlers(chr, &h, set);
}
