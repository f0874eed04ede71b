/*
 * Running a line: ours by the table, any other in QEMU.
 *
 * The line goes to QEMU exactly as it was typed, so that whatever syntax its
 * commands have ("x/2xw $rip", "p 1+1", quotes) is QEMU's business alone.
 * QEMU makes a fresh monitor for every human-monitor-command; the one thing
 * that it would have to remember from line to line, the CPU chosen with `cpu',
 * is remembered here.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "commands.h"
#include "util/error.h"
#include "../qapi/monitor-internal.h"

#include <string.h>

char *hmp_take_name(const char **p)
{
    const char *start;

    while (g_ascii_isspace(**p)) {
        (*p)++;
    }
    for (start = *p; **p && **p != '/' && !g_ascii_isspace(**p); (*p)++) {
    }
    return *p > start || **p ? g_strndup(start, *p - start) : NULL;
}

void hmp_report_error(HmpContext *ctx, GError *err)
{
    if (err) {
        g_string_append_printf(ctx->out, "Error: %s\n", err->message);
        g_error_free(err);
    }
}

/* ---- on the main thread -------------------------------------------------- */

typedef struct {
    void (*fn)(void *opaque);
    void *opaque;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
} MainCall;

static void main_call(void *opaque)
{
    MainCall *call = opaque;

    call->fn(call->opaque);
    pthread_mutex_lock(&call->lock);
    call->done = true;
    pthread_cond_signal(&call->cond);
    pthread_mutex_unlock(&call->lock);
}

void hmp_on_main_thread(Monitor *mon, void (*fn)(void *opaque), void *opaque)
{
    MainCall call = { .fn = fn, .opaque = opaque };

    pthread_mutex_init(&call.lock, NULL);
    pthread_cond_init(&call.cond, NULL);
    monitor_invoke(mon->set, main_call, &call);
    pthread_mutex_lock(&call.lock);
    while (!call.done) {
        pthread_cond_wait(&call.cond, &call.lock);
    }
    pthread_mutex_unlock(&call.lock);
    pthread_mutex_destroy(&call.lock);
    pthread_cond_destroy(&call.cond);
}

/* ---- QEMU's ---------------------------------------------------------------- */

static void strip_cr(char *text)
{
    char *to = text;

    for (char *from = text; *from; from++) {
        if (from[0] != '\r' || from[1] != '\n') {
            *to++ = *from;
        }
    }
    *to = '\0';
}

char *hmp_pass_through(HmpContext *ctx, const char *line, GError **errp)
{
    json_object *args, *reply;
    char *text;

    if (!g_utf8_validate(line, -1, NULL)) {
        return g_strdup("Error: the line is not valid UTF-8\n");
    }
    args = json_object_new_object();
    json_object_object_add(args, "command-line", json_object_new_string(line));
    if (ctx->cpu_index >= 0) {
        json_object_object_add(args, "cpu-index",
                               json_object_new_int64(ctx->cpu_index));
    }
    reply = monitor_emulator_call(ctx->mon->set, "human-monitor-command", args,
                                  NULL, 0, errp);
    if (!reply) {
        return NULL;
    }
    text = g_strdup(json_object_is_type(reply, json_type_string)
                        ? json_object_get_string(reply) : "");
    json_object_put(reply);
    strip_cr(text);
    return text;
}

/* `cpu N' was passed through and QEMU had nothing to say against it. */
static void remember_cpu(HmpContext *ctx, const char *p)
{
    g_autoptr(GString) ignored = g_string_new(NULL);
    int64_t index;

    if (hmp_expr_parse(&p, &index, ignored)) {
        ctx->cpu_index = index;
    }
}

static bool run_qemus(HmpContext *ctx, const char *line, const char *name,
                      const char *rest, GError **errp)
{
    g_autofree char *text = NULL;
    GError *err = NULL;

    if (!monitor_may_pass(ctx->mon->set, name, &err)) {
        hmp_report_error(ctx, err);
        return true;
    }
    text = hmp_pass_through(ctx, line, errp);
    if (!text) {
        return false;
    }
    if (!text[0] && g_str_equal(name, "cpu")) {
        remember_cpu(ctx, rest);
    }
    g_string_append(ctx->out, text);
    return true;
}

/* ---- ours -------------------------------------------------------------------- */

typedef struct {
    HmpContext *ctx;
    const HmpCommand *cmd;
    const HmpArgs *args;
} Run;

static void run_on_main(void *opaque)
{
    Run *run = opaque;

    run->cmd->run(run->ctx, run->args);
}

/* @rest: the line behind the command's name. */
static void run_ours(HmpContext *ctx, const HmpCommand *cmd, const char *line,
                     const char *rest)
{
    const char *name_end = rest;
    g_autoptr(HmpArgs) args = hmp_args_parse(cmd->name, cmd->args_type, &rest,
                                             ctx->out);
    Run run = { ctx, cmd, args };

    if (!args) {
        g_string_append_printf(ctx->out, "Try \"help %.*s\" for more information\n",
                               (int)(name_end - line), line);
    } else if (cmd->main_thread) {
        hmp_on_main_thread(ctx->mon, run_on_main, &run);
    } else {
        cmd->run(ctx, args);
    }
}

bool hmp_run_line(HmpContext *ctx, const char *line, GError **errp)
{
    const HmpCommand *cmd;
    g_autofree char *name = NULL, *sub = NULL;
    const char *rest, *behind;

    while (g_ascii_isspace(*line)) {
        line++;
    }
    rest = line;
    name = hmp_take_name(&rest);
    if (!name) {
        return true;
    }
    cmd = hmp_find_command(hmp_commands, name);
    if (!cmd || *rest == '/') {
        return run_qemus(ctx, line, name, rest, errp);
    }
    behind = rest;
    if (cmd->sub_table && (sub = hmp_take_name(&behind))) {
        cmd = hmp_find_command(cmd->sub_table, sub);
        if (!cmd) {
            return run_qemus(ctx, line, name, rest, errp);
        }
        rest = behind;
    }
    run_ours(ctx, cmd, line, rest);
    return true;
}

char *hmp_with_crlf(const GString *out)
{
    GString *s = g_string_sized_new(out->len + 64);

    for (size_t i = 0; i < out->len; i++) {
        if (out->str[i] == '\n') {
            g_string_append_c(s, '\r');
        }
        g_string_append_c(s, out->str[i]);
    }
    return g_string_free(s, FALSE);
}

char *hmp_execute(Monitor *mon, const char *line, int64_t cpu_index,
                  GError **errp)
{
    g_autoptr(GString) out = g_string_new(NULL);
    HmpContext ctx = { .mon = mon, .out = out, .cpu_index = cpu_index };

    return hmp_run_line(&ctx, line, errp) ? hmp_with_crlf(out) : NULL;
}
