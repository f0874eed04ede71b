/*
 * A stand-in until hmp/monitor.c is here (then this compiles to nothing and can
 * be deleted): every line goes to QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#if !__has_include("../hmp/monitor.c")
#include "hmp/hmp.h"
#include "monitor-internal.h"
#include <string.h>

typedef struct {
    Monitor common;
    GString *input;
    char *output;
    bool busy;
} StubClient;

char *hmp_execute(Monitor *mon, const char *line, int64_t cpu_index, GError **errp)
{
    json_object *args = json_object_new_object(), *answer;
    char *text;

    json_object_object_add(args, "command-line", json_object_new_string(line));
    if (cpu_index >= 0) {
        json_object_object_add(args, "cpu-index", json_object_new_int64(cpu_index));
    }
    answer = monitor_emulator_call(mon->set, "human-monitor-command", args, NULL, 0, errp);
    text = g_strdup(json_object_get_string(answer));
    json_object_put(answer);
    return text;
}

static void say(StubClient *c, const char *text)
{
    if (c->common.client) {
        chardev_client_write(c->common.client, text, strlen(text));
    }
}

static void work(void *opaque)
{
    StubClient *c = opaque;
    g_auto(GStrv) lines = g_strsplit(c->input->str, "\n", 2);

    c->output = hmp_execute(&c->common, g_strchomp(lines[0]), -1, NULL);
}

static void serve(StubClient *c);

static void done(void *opaque)
{
    StubClient *c = opaque;

    g_string_erase(c->input, 0, strchr(c->input->str, '\n') - c->input->str + 1);
    say(c, c->output ? c->output : "");
    say(c, "(qemu) ");
    g_clear_pointer(&c->output, g_free);
    c->busy = false;
    serve(c);
}

static void serve(StubClient *c)
{
    if (c->common.client && !c->busy && strchr(c->input->str, '\n')) {
        c->busy = true;
        monitor_run(&c->common, work, done, c);
    }
}

static void on_input(void *opaque, const char *buf, size_t len, const int *fds,
                     size_t n_fds)
{
    StubClient *c = opaque;

    monitor_receive_fds(&c->common, fds, n_fds);
    g_string_append_len(c->input, buf, len);
    serve(c);
}

static void close_client(Monitor *mon)
{
    if (mon->client) {
        chardev_client_close(mon->client);
    }
}

static void free_client(Monitor *mon)
{
    StubClient *c = (StubClient *)mon;

    g_string_free(c->input, TRUE);
    g_free(c);
}

static const MonitorKind kind = { "HMP", close_client, free_client, NULL };

static void *on_open(void *opaque, ChardevClient *client)
{
    StubClient *c = g_new0(StubClient, 1);

    c->input = g_string_new(NULL);
    monitor_init(&c->common, opaque, &kind, client);
    say(c, "(qemu) ");
    return c;
}

static void on_closed(void *opaque)
{
    monitor_gone(opaque);
}

void monitor_add_hmp(MonitorSet *set, Chardev *chr)
{
    static const ChardevHandlers h = {
        .open = on_open,
        .input = on_input,
        .closed = on_closed,
    };

    monitor_set_add_chardev(set, chr, &h, set);
}
#endif
