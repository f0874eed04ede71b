/*
 * help: our commands and QEMU's as one list.
 *
 * QEMU's list is text: entries "NAME PARAMS -- HELP" sorted by NAME, where
 * PARAMS and HELP may run over several lines.  Continuation lines of QEMU 7.2
 * start with a tab, a space, a bracket or nothing; to be on the safe side, a
 * line that would break the order is a continuation too.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "commands.h"
#include "util/error.h"

#include <string.h>

typedef struct {
    char *name; /* "cont|c" */
    char *text; /* all its lines */
} Entry;

static void entry_free(gpointer data)
{
    Entry *entry = data;

    g_free(entry->name);
    g_free(entry->text);
    g_free(entry);
}

static Entry *add_entry(GPtrArray *entries, char *name, char *text)
{
    Entry *entry = g_new0(Entry, 1);

    entry->name = name;
    entry->text = text;
    g_ptr_array_add(entries, entry);
    return entry;
}

/* The name of the entry that begins with this line, or NULL. */
static char *entry_name(const char *line, const char *prefix, const char *after)
{
    g_autofree char *name = NULL;

    if (!g_str_has_prefix(line, prefix)) {
        return NULL;
    }
    line += strlen(prefix);
    name = g_strndup(line, strcspn(line, " \t\n"));
    if (!(g_ascii_isalnum(name[0]) || name[0] == '?' || name[0] == '_') ||
        (after && strcmp(name, after) < 0)) {
        return NULL;
    }
    return g_steal_pointer(&name);
}

static GPtrArray *parse_entries(const char *text, const char *prefix)
{
    GPtrArray *entries = g_ptr_array_new_with_free_func(entry_free);
    Entry *last = NULL;

    while (*text) {
        size_t len = strcspn(text, "\n");
        g_autofree char *line = g_strndup(text, len + (text[len] == '\n'));
        char *name = entry_name(line, prefix, last ? last->name : NULL);

        if (name) {
            last = add_entry(entries, name, g_steal_pointer(&line));
        } else if (last) {
            char *joined = g_strconcat(last->text, line, NULL);

            g_free(last->text);
            last->text = joined;
        }
        text += len + (text[len] == '\n');
    }
    return entries;
}

static bool same_command(const char *names, const char *other)
{
    g_auto(GStrv) split = g_strsplit(other, "|", -1);

    for (char **name = split; *name; name++) {
        if (hmp_name_matches(names, *name)) {
            return true;
        }
    }
    return false;
}

static int compare_entries(gconstpointer a, gconstpointer b)
{
    const Entry *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

static char *describe(const HmpCommand *cmd, const char *prefix)
{
    return g_strdup_printf("%s%s %s -- %s\n", prefix, cmd->name, cmd->params,
                           cmd->help);
}

char *hmp_help_merge(const char *theirs, const HmpCommand *ours,
                     const char *prefix)
{
    g_autoptr(GPtrArray) entries = parse_entries(theirs, prefix);
    GString *s = g_string_new(NULL);

    for (; ours->name; ours++) {
        for (guint i = entries->len; i-- > 0;) {
            if (same_command(((Entry *)entries->pdata[i])->name, ours->name)) {
                g_ptr_array_remove_index(entries, i);
            }
        }
        add_entry(entries, g_strdup(ours->name), describe(ours, prefix));
    }
    g_ptr_array_sort(entries, compare_entries);
    for (guint i = 0; i < entries->len; i++) {
        g_string_append(s, ((Entry *)entries->pdata[i])->text);
    }
    return g_string_free(s, FALSE);
}

char **hmp_help_names(const char *text, const char *prefix)
{
    g_autoptr(GPtrArray) entries = parse_entries(text, prefix);
    GPtrArray *names = g_ptr_array_new();

    for (guint i = 0; i < entries->len; i++) {
        g_auto(GStrv) split = g_strsplit(((Entry *)entries->pdata[i])->name, "|", -1);

        for (char **name = split; *name; name++) {
            g_ptr_array_add(names, g_strdup(*name));
        }
    }
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(names, FALSE);
}

/* ---- the commands ----------------------------------------------------------- */

/* QEMU's answer to @line with ours put in. */
static void help_list(HmpContext *ctx, const char *line, const HmpCommand *ours,
                      const char *prefix)
{
    GError *err = NULL;
    g_autofree char *theirs = hmp_pass_through(ctx, line, &err);
    g_autofree char *text = hmp_help_merge(theirs ? theirs : "", ours, prefix);

    g_string_append(ctx->out, text);
    hmp_report_error(ctx, err);
}

static void help_from_qemu(HmpContext *ctx, const char *name)
{
    g_autofree char *line = g_strconcat("help ", name, NULL);
    GError *err = NULL;
    g_autofree char *text = hmp_pass_through(ctx, line, &err);

    g_string_append(ctx->out, text ? text : "");
    hmp_report_error(ctx, err);
}

void hmp_info_help(HmpContext *ctx, const HmpArgs *args)
{
    help_list(ctx, "help info", hmp_info_commands, "info ");
}

void hmp_help(HmpContext *ctx, const HmpArgs *args)
{
    const char *name = hmp_args_str(args, "name");
    g_auto(GStrv) words = name ? hmp_args_words(name) : NULL;
    const HmpCommand *cmd;
    const char *prefix = "";

    if (!name) {
        help_list(ctx, "help", hmp_commands, "");
        return;
    }
    cmd = words ? hmp_find_command(hmp_commands, words[0]) : NULL;
    if (cmd && cmd->sub_table) {
        if (!words[1]) {
            hmp_info_help(ctx, args);
            return;
        }
        cmd = hmp_find_command(cmd->sub_table, words[1]);
        prefix = "info ";
    }
    if (cmd) {
        g_autofree char *text = describe(cmd, prefix);

        g_string_append(ctx->out, text);
    } else {
        help_from_qemu(ctx, name);
    }
}
