/*
 * An HMP client: a line editor, and the command it is running.
 *
 *             input                    line, Tab
 *     chardev ─────► pending ─► editor ─────────► thread: hmp_run_line,
 *        ▲                        ▲ │                     hmp_complete
 *        └────────────────────────┼─┴── screen              │ main loop
 *                                 └─────────────────────────┘
 *
 * One thing at a time: while a command runs, what is typed waits in `pending',
 * and beyond PENDING_MAX in the kernel.  Other clients are not concerned.
 *
 * A client that has said all it will say (end of file) stays until what it said
 * has been carried out, so that
 *     echo info status | socat - unix-connect:monitor
 * shows the answer.  A client that is gone has its command finish for nobody.
 *
 * Behind a multiplexer the prompt is shown when the keyboard comes to us; what
 * is written meanwhile the multiplexer keeps.
 *
 * Everything here is the main thread's, but for `ctx' while `busy'.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../qapi/monitor-internal.h"
#include "commands.h"
#include "readline.h"

#include <string.h>

#define PENDING_MAX 65536
#define PROMPT "(qemu) "

typedef struct {
    Monitor common;
    Readline *rl;
    GString *pending;    /* typed, not looked at yet */
    bool busy;           /* a thread works for us */
    bool focus;          /* we have the keyboard */
    bool eof;            /* nothing more will be typed */
    char *ask;           /* a password is being asked for this command; or NULL */

    /* The thread's while busy. */
    HmpContext ctx;
    char *line;          /* being run, or to be completed */
    char **words;        /* found */
    size_t typed;
    GError *error;
} HmpMonitor;

static void pump(HmpMonitor *hmp);

static void put(HmpMonitor *hmp, const char *text, size_t len)
{
    if (hmp->common.client) {
        chardev_client_write(hmp->common.client, text, len);
    }
}

static void rl_write(void *opaque, const char *text, size_t len)
{
    put(opaque, text, len);
}

static void show_prompt(HmpMonitor *hmp)
{
    if (hmp->common.client && hmp->focus && !hmp->busy) {
        readline_start(hmp->rl, hmp->ask ? "Password: " : PROMPT, hmp->ask != NULL);
    }
}

/* ---- running a line ------------------------------------------------------------ */

static void run_work(void *opaque)
{
    HmpMonitor *hmp = opaque;

    hmp_run_line(&hmp->ctx, hmp->line, &hmp->error);
}

static void put_output(HmpMonitor *hmp)
{
    g_autofree char *text = NULL;

    hmp_report_error(&hmp->ctx, g_steal_pointer(&hmp->error));
    text = hmp_with_crlf(hmp->ctx.out);
    put(hmp, text, strlen(text));
    g_string_truncate(hmp->ctx.out, 0);
}

/* `quit' that QEMU had nothing to say against (it may be gone before it
 * answers): as with QEMU, no prompt comes any more. */
static bool has_quit(HmpMonitor *hmp)
{
    g_auto(GStrv) words = hmp_args_words(hmp->line);

    if (!words || !words[0] || !hmp_name_matches("quit|q", words[0])) {
        return false;
    }
    g_clear_error(&hmp->error);
    return hmp->ctx.out->len == 0;
}

static void run_done(void *opaque)
{
    HmpMonitor *hmp = opaque;

    hmp->busy = has_quit(hmp);
    g_clear_pointer(&hmp->line, g_free);
    put_output(hmp);
    show_prompt(hmp);
    pump(hmp);
}

static void run_line(HmpMonitor *hmp, char *line)
{
    hmp->busy = true;
    hmp->line = line;
    monitor_run(&hmp->common, run_work, run_done, hmp);
}

/*
 * "change vnc password" without the password: QEMU would ask for it, which its
 * human-monitor-command can't.  So we ask, and add it to the command.
 */
static bool wants_password(const char *line)
{
    g_auto(GStrv) words = hmp_args_words(line);

    return words && g_strv_length(words) == 3 &&
           g_str_equal(words[0], "change") && g_str_equal(words[1], "vnc") &&
           (g_str_equal(words[2], "password") || g_str_equal(words[2], "passwd"));
}

static void rl_line(void *opaque, const char *line)
{
    HmpMonitor *hmp = opaque;

    if (hmp->ask) {
        g_autofree char *command = g_steal_pointer(&hmp->ask);

        run_line(hmp, hmp_add_word(command, line));
    } else if (wants_password(line)) {
        hmp->ask = g_strdup(line);
        show_prompt(hmp);
    } else if (line[strspn(line, " \t\n\v\f\r")]) {
        run_line(hmp, g_strdup(line));
    } else {
        show_prompt(hmp);
    }
}

/* ---- Tab ----------------------------------------------------------------------- */

static void complete_work(void *opaque)
{
    HmpMonitor *hmp = opaque;

    hmp->words = hmp_complete(&hmp->ctx, hmp->line, &hmp->typed);
}

static void complete_done(void *opaque)
{
    HmpMonitor *hmp = opaque;

    hmp->busy = false;
    g_clear_pointer(&hmp->line, g_free);
    readline_completed(hmp->rl, (const char *const *)hmp->words,
                       g_strv_length(hmp->words), hmp->typed);
    g_clear_pointer(&hmp->words, g_strfreev);
    if (!readline_ready(hmp->rl)) {
        show_prompt(hmp); /* the keyboard went away and came back meanwhile */
    }
    pump(hmp);
}

static void rl_complete(void *opaque, const char *before)
{
    HmpMonitor *hmp = opaque;

    if (hmp->ask) {
        readline_completed(hmp->rl, NULL, 0, 0);
        return;
    }
    hmp->busy = true;
    hmp->line = g_strdup(before);
    monitor_run(&hmp->common, complete_work, complete_done, hmp);
}

static const ReadlineOps readline_ops = {
    .write = rl_write,
    .line = rl_line,
    .complete = rl_complete,
};

/* ---- the client ---------------------------------------------------------------------- */

/* Have the editor take what it can. */
static void pump(HmpMonitor *hmp)
{
    size_t taken = 0;

    while (taken < hmp->pending->len && readline_ready(hmp->rl) && !hmp->busy) {
        taken += readline_feed(hmp->rl, hmp->pending->str + taken,
                               hmp->pending->len - taken);
    }
    g_string_erase(hmp->pending, 0, (gssize)taken);
    if (!hmp->common.client) {
        return;
    }
    chardev_client_pause(hmp->common.client, hmp->pending->len > PENDING_MAX);
    if (hmp->eof && !hmp->busy && !hmp->pending->len) {
        chardev_client_close(hmp->common.client);
    }
}

static void greet(HmpMonitor *hmp)
{
    MonitorSet *set = hmp->common.set;
    json_object *version = set->emulator.version
                               ? set->emulator.version(set->emulator.opaque) : NULL;
    json_object *qemu = NULL, *part;
    g_autoptr(GString) s = g_string_new("QEMU ");
    static const char *const parts[] = { "major", "minor", "micro" };

    if (version && json_object_object_get_ex(version, "qemu", &qemu)) {
        for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
            part = NULL;
            json_object_object_get_ex(qemu, parts[i], &part);
            g_string_append_printf(s, "%s%d", i ? "." : "",
                                   json_object_get_int(part));
        }
        g_string_append_c(s, ' ');
    }
    g_string_append(s, "monitor - type 'help' for more information\r\n");
    put(hmp, s->str, s->len);
}

static void hmp_close(Monitor *mon)
{
    if (mon->client) {
        chardev_client_close(mon->client);
    }
}

static void hmp_free(Monitor *mon)
{
    HmpMonitor *hmp = (HmpMonitor *)mon;

    readline_free(hmp->rl);
    g_string_free(hmp->pending, TRUE);
    g_string_free(hmp->ctx.out, TRUE);
    g_free(hmp->ask);
    g_free(hmp->line);
    g_strfreev(hmp->words);
    g_clear_error(&hmp->error);
    g_free(hmp);
}

static const MonitorKind hmp_kind = {
    .name = "HMP",
    .close = hmp_close,
    .free = hmp_free,
};

static void *client_open(void *opaque, ChardevClient *client)
{
    MonitorSet *set = opaque;
    HmpMonitor *hmp = g_new0(HmpMonitor, 1);

    monitor_init(&hmp->common, set, &hmp_kind, client);
    hmp->rl = readline_new(&readline_ops, hmp);
    hmp->pending = g_string_new(NULL);
    hmp->focus = chardev_client_has_focus(client);
    hmp->ctx = (HmpContext) {
        .mon = &hmp->common,
        .out = g_string_new(NULL),
        .cpu_index = -1,
        .rl = hmp->rl,
    };
    greet(hmp);
    show_prompt(hmp);
    return hmp;
}

static void client_input(void *opaque, const char *buf, size_t len,
                         const int *fds, size_t n_fds)
{
    HmpMonitor *hmp = opaque;

    if (n_fds) {
        monitor_receive_fds(&hmp->common, fds, n_fds);
    }
    g_string_append_len(hmp->pending, buf, (gssize)len);
    pump(hmp);
}

static bool client_eof(void *opaque)
{
    HmpMonitor *hmp = opaque;

    hmp->eof = true;
    return hmp->busy || hmp->pending->len;
}

static void client_focus(void *opaque, bool in)
{
    HmpMonitor *hmp = opaque;

    if (!in && !hmp->busy) {
        put(hmp, "\r\n", 2);
    }
    hmp->focus = in;
    if (in) {
        show_prompt(hmp);
        pump(hmp);
    } else {
        readline_stop(hmp->rl);
    }
}

static void client_closed(void *opaque)
{
    HmpMonitor *hmp = opaque;

    g_string_truncate(hmp->pending, 0);
    readline_stop(hmp->rl);
    monitor_gone(&hmp->common);
}

static const ChardevHandlers hmp_handlers = {
    .open = client_open,
    .input = client_input,
    .closed = client_closed,
    .eof = client_eof,
    .focus = client_focus,
};

void monitor_add_hmp(MonitorSet *set, Chardev *chr)
{
    chardev_set_echo(chr, false);
    monitor_set_add_chardev(set, chr, &hmp_handlers, set);
}
