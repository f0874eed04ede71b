/*
 * What Tab offers: commands, what comes behind `info' and `help', names of
 * drives, files, and a few kinds of names that only QEMU knows.
 *
 * Runs on a command's thread, because QEMU is asked for its share each time:
 * commands may come and go, devices do.  Anything that can't be had is left
 * out.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../qapi/monitor-internal.h"
#include "commands.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_FOUND 1000 /* more can't be shown */

typedef struct {
    HmpContext *ctx;
    const char *word;  /* the beginning that is there */
    GPtrArray *found;  /* char * */
} Search;

/* Arguments of QEMU's commands that can be completed: which (counted from 1,
 * flags apart) and what it is: B drive, F file, d device, c chardev, p and k
 * migration parameter and capability, n network client. */
static const struct {
    const char *command;
    unsigned arg;
    char kind;
} qemu_args[] = {
    { "block_job_cancel", 1, 'B' },   { "block_job_complete", 1, 'B' },
    { "block_job_pause", 1, 'B' },    { "block_job_resume", 1, 'B' },
    { "block_job_set_speed", 1, 'B' }, { "block_resize", 1, 'B' },
    { "block_set_io_throttle", 1, 'B' }, { "block_stream", 1, 'B' },
    { "change", 1, 'B' },             { "change", 2, 'F' },
    { "chardev-change", 1, 'c' },     { "chardev-remove", 1, 'c' },
    { "chardev-send-break", 1, 'c' }, { "commit", 1, 'B' },
    { "device_del", 1, 'd' },         { "drive_backup", 1, 'B' },
    { "drive_backup", 2, 'F' },       { "drive_del", 1, 'B' },
    { "drive_mirror", 1, 'B' },       { "drive_mirror", 2, 'F' },
    { "dump-guest-memory", 1, 'F' },  { "eject", 1, 'B' },
    { "logfile", 1, 'F' },            { "memsave", 3, 'F' },
    { "migrate_set_capability", 1, 'k' }, { "migrate_set_parameter", 1, 'p' },
    { "nbd_server_add", 1, 'B' },     { "pmemsave", 3, 'F' },
    { "qemu-io", 1, 'B' },            { "ringbuf_read", 1, 'c' },
    { "ringbuf_write", 1, 'c' },      { "screendump", 1, 'F' },
    { "set_link", 1, 'd' },           { "snapshot_blkdev", 1, 'B' },
    { "snapshot_blkdev", 2, 'F' },    { "snapshot_blkdev_internal", 1, 'B' },
    { "snapshot_delete_blkdev_internal", 1, 'B' },
};

static void offer(Search *s, const char *name)
{
    if (s->found->len < MAX_FOUND && name[0] &&
        g_str_has_prefix(name, s->word) &&
        !g_ptr_array_find_with_equal_func(s->found, name, g_str_equal, NULL)) {
        g_ptr_array_add(s->found, g_strdup(name));
    }
}

/* ---- what QEMU knows ---------------------------------------------------------- */

/* Offers the strings at @key of a list of objects that @command returns. */
static void offer_members(Search *s, const char *command, json_object *args,
                          const char *key)
{
    json_object *list = monitor_emulator_call(s->ctx->mon->set, command, args,
                                              NULL, 0, NULL), *value;

    if (json_object_is_type(list, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(list); i++) {
            if (json_object_object_get_ex(json_object_array_get_idx(list, i), key,
                                          &value) &&
                json_object_is_type(value, json_type_string)) {
                offer(s, json_object_get_string(value));
            }
        }
    }
    json_object_put(list);
}

/* Offers the keys of the object that @command returns. */
static void offer_keys(Search *s, const char *command)
{
    json_object *object = monitor_emulator_call(s->ctx->mon->set, command, NULL,
                                                NULL, 0, NULL);

    if (json_object_is_type(object, json_type_object)) {
        json_object_object_foreach(object, key, value) {
            (void)value;
            offer(s, key);
        }
    }
    json_object_put(object);
}

static void offer_devices(Search *s)
{
    json_object *args = json_object_new_object();

    json_object_object_add(args, "path",
                           json_object_new_string("/machine/peripheral"));
    offer_members(s, "qom-list", args, "name");
    for (guint i = s->found->len; i-- > 0;) {
        if (g_str_equal(s->found->pdata[i], "type")) { /* the folder's own */
            g_ptr_array_remove_index(s->found, i);
        }
    }
}

/* ---- drives, files -------------------------------------------------------------- */

static void offer_our_drives(void *opaque)
{
    Search *s = opaque;
    g_autoptr(GPtrArray) all = blk_all(monitor_sidecar(s->ctx->mon)->block);

    for (guint i = 0; i < all->len; i++) {
        offer(s, blk_name(all->pdata[i]));
    }
}

/* Names may be a list: the last one is completed. */
static void offer_drives(Search *s)
{
    for (const char *p = s->word; *p; p++) {
        if (strchr(",;:", *p)) {
            s->word = p + 1;
        }
    }
    hmp_on_main_thread(s->ctx->mon, offer_our_drives, s);
    offer_members(s, "query-block", NULL, "device");
}

static void offer_file(Search *s, const char *folder, const char *name)
{
    g_autofree char *path = g_strconcat(folder, name, NULL);
    struct stat st;

    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        g_autofree char *with_slash = g_strconcat(path, "/", NULL);

        offer(s, with_slash);
    } else {
        offer(s, path);
    }
}

static void offer_files(Search *s)
{
    const char *slash = strrchr(s->word, '/');
    g_autofree char *folder = g_strndup(s->word, slash ? slash + 1 - s->word : 0);
    DIR *dir = opendir(folder[0] ? folder : ".");
    struct dirent *d;

    while (dir && s->found->len < MAX_FOUND && (d = readdir(dir))) {
        if (!g_str_equal(d->d_name, ".") && !g_str_equal(d->d_name, "..") &&
            g_str_has_prefix(d->d_name, s->word + strlen(folder))) {
            offer_file(s, folder, d->d_name);
        }
    }
    if (dir) {
        closedir(dir);
    }
}

static void offer_kind(Search *s, char kind)
{
    switch (kind) {
    case 'B': offer_drives(s); break;
    case 'F': offer_files(s); break;
    case 'c': offer_members(s, "query-chardev", NULL, "label"); break;
    case 'd': offer_devices(s); break;
    case 'p': offer_keys(s, "query-migrate-parameters"); break;
    case 'k':
        offer_members(s, "query-migrate-capabilities", NULL, "capability");
        break;
    }
}

/* ---- by the words of the line ------------------------------------------------------ */

static void offer_commands(Search *s, const char *help, const HmpCommand *ours,
                           const char *prefix)
{
    g_autofree char *theirs = hmp_pass_through(s->ctx, help, NULL);
    g_autofree char *all = hmp_help_merge(theirs ? theirs : "", ours, prefix);
    g_auto(GStrv) names = hmp_help_names(all, prefix);

    for (char **name = names; *name; name++) {
        offer(s, *name);
    }
}

/* The type of the @n-th argument (from 1, flags apart) of an args_type. */
static char type_of_arg(const char *types, unsigned n)
{
    for (const char *p = strchr(types, ':'); p; p = strchr(p + 1, ':')) {
        if (p[1] != '-' && --n == 0) {
            return p[1];
        }
    }
    return '\0';
}

/* Which argument is the last of @words, flags apart; 0: a flag. */
static unsigned arg_number(char **words, size_t n)
{
    unsigned number = 0;

    if (words[n - 1][0] == '-') {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        number += words[i][0] != '-';
    }
    return number;
}

static void offer_argument(Search *s, char **words, size_t n)
{
    const HmpCommand *cmd = hmp_find_command(hmp_commands, words[0]);
    unsigned number = arg_number(words, n);

    if (cmd) {
        offer_kind(s, type_of_arg(cmd->args_type, number));
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(qemu_args); i++) {
        if (qemu_args[i].arg == number &&
            g_str_equal(qemu_args[i].command, words[0])) {
            offer_kind(s, qemu_args[i].kind);
        }
    }
}

/* @words: n of them, the last is being completed. */
static void offer_for(Search *s, char **words, size_t n)
{
    if (n == 1) {
        offer_commands(s, "help", hmp_commands, "");
    } else if (hmp_name_matches("help|?", words[0])) {
        if (n <= 3) {
            offer_for(s, words + 1, n - 1);
        }
    } else if (g_str_equal(words[0], "info")) {
        if (n == 2) {
            offer_commands(s, "help info", hmp_info_commands, "info ");
        } else if (n == 3 && g_str_equal(words[1], "block")) {
            offer_drives(s);
        }
    } else {
        offer_argument(s, words, n);
    }
}

char **hmp_complete(HmpContext *ctx, const char *before, size_t *typed)
{
    size_t len = strlen(before);
    bool fresh = len == 0 || g_ascii_isspace(before[len - 1]);
    g_autofree char *line = g_strconcat(before, fresh ? "\"\"" : "", NULL);
    g_auto(GStrv) words = hmp_args_words(line);
    size_t n = words ? g_strv_length(words) : 0;
    Search s = { .ctx = ctx, .found = g_ptr_array_new() };

    if (n) {
        s.word = words[n - 1];
        offer_for(&s, words, n);
        *typed = strlen(s.word);
    }
    g_ptr_array_add(s.found, NULL);
    return (char **)g_ptr_array_free(s.found, FALSE);
}
