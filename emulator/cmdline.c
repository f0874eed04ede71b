/*
 * QEMU's command line: taking it apart and putting it together again.  What
 * becomes of drives and monitors in between is in drive-plan.c and
 * monitor-plan.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmdline-internal.h"

#include <stdlib.h>
#include <string.h>

static void option_free(void *opaque)
{
    EmuOption *opt = opaque;

    g_free(opt->name);
    g_free(opt->word);
    g_free(opt->arg);
    g_clear_pointer(&opt->out, g_ptr_array_unref);
    g_free(opt);
}

EmuOption *emu_cmdline_option(const EmuCmdline *cl, unsigned index)
{
    return g_ptr_array_index(cl->options, index);
}

bool emu_option_is(const EmuOption *opt, const char *name)
{
    return !strcmp(opt->name, name);
}

char *emu_option_text(const EmuOption *opt)
{
    return opt->arg ? g_strdup_printf("%s %s", opt->word, opt->arg)
                    : g_strdup(opt->word);
}

void emu_option_replace(EmuOption *opt, const char *first, const char *second)
{
    g_clear_pointer(&opt->out, g_ptr_array_unref);
    opt->taken = true;
    opt->out = g_ptr_array_new_with_free_func(g_free);
    if (first) {
        g_ptr_array_add(opt->out, g_strdup(first));
    }
    if (second) {
        g_ptr_array_add(opt->out, g_strdup(second));
    }
}

void emu_cmdline_warn(EmuCmdline *cl, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_ptr_array_add(cl->warnings, g_strdup_vprintf(fmt, ap));
    va_end(ap);
}

/* ---- taking apart --------------------------------------------------- */

/* One option at @argv; returns how many words it took.  As in QEMU, one or two
 * dashes, and a word without any is the image of -hda. */
static size_t take_option(EmuCmdline *cl, const char *const *argv)
{
    EmuOption *opt = g_new0(EmuOption, 1);
    const char *name = argv[0];
    int has_arg;

    g_ptr_array_add(cl->options, opt);
    opt->word = g_strdup(name);
    if (*name != '-') {
        opt->name = g_strdup("");
        return 1;
    }
    name += name[1] == '-' ? 2 : 1;
    opt->name = g_strdup(name);
    has_arg = emu_option_has_arg(name);
    if (!argv[1] || has_arg == 0 || (has_arg < 0 && argv[1][0] == '-')) {
        return 1;
    }
    opt->arg = g_strdup(argv[1]);
    return 2;
}

/* Does the argument ask for a list ("help", "?", "virtio-blk-pci,help")? */
static bool asks_for_help(const EmuOption *opt)
{
    static const char *const can[] = {
        "M", "machine", "accel", "cpu", "device", "chardev", "object", "netdev",
        "nic", "net", "vga", "display", "audiodev", "audio", "d", "watchdog",
        "soundhw", "drive", "trace", "smbios", "tpmdev", "fsdev", "global",
        NULL,
    };
    g_auto(GStrv) parts = NULL;

    if (emu_option_is(opt, "h") || emu_option_is(opt, "help") ||
        emu_option_is(opt, "version") || emu_option_is(opt, "audio-help")) {
        return true;
    }
    if (!opt->arg || !g_strv_contains(can, opt->name)) {
        return false;
    }
    parts = g_strsplit(opt->arg, ",", -1);
    return g_strv_contains((const char *const *)parts, "help") ||
           g_strv_contains((const char *const *)parts, "?");
}

/* "accel=kvm,type=q35" or "q35,accel=kvm": the last type given counts. */
static void note_machine(EmuCmdline *cl, const char *arg)
{
    g_autoptr(Keyval) kv = keyval_parse(arg, "type");
    const char *type = keyval_get(kv, "type");

    if (type) {
        g_free(cl->machine);
        cl->machine = g_strdup(type);
    }
}

/* "0x02", "2", "^B" is not taken by QEMU: strtol with base 0. */
static int escape_key(const char *arg)
{
    char *end;
    long value = strtol(arg, &end, 0);

    return end == arg || value < 0 || value > 255 ? 1 : (int)value;
}

static void note_flags(EmuCmdline *cl, EmuOption *opt)
{
    if (emu_option_is(opt, "daemonize")) {
        cl->daemonize = true;
    } else if (emu_option_is(opt, "nographic")) {
        cl->nographic = true;
    } else if (emu_option_is(opt, "nodefaults")) {
        cl->nodefaults = true;
    } else if (emu_option_is(opt, "snapshot")) {
        cl->snapshot = true;
    } else if (emu_option_is(opt, "runas")) {
        cl->runas = true;
    } else if (!opt->arg) {
        return;
    } else if (emu_option_is(opt, "M") || emu_option_is(opt, "machine")) {
        note_machine(cl, opt->arg);
    } else if (emu_option_is(opt, "pidfile")) {
        g_free(cl->pidfile);
        cl->pidfile = g_strdup(opt->arg);
    } else if (emu_option_is(opt, "incoming")) {
        g_free(cl->incoming);
        cl->incoming = g_strdup(opt->arg);
    } else if (emu_option_is(opt, "loadvm")) {
        cl->loadvm = true;
    } else if (emu_option_is(opt, "echr")) {
        cl->escape = escape_key(opt->arg);
    } else if (emu_option_is(opt, "run-with")) {
        g_autoptr(Keyval) kv = keyval_parse(opt->arg, NULL);

        cl->runas |= keyval_get(kv, "user") != NULL;
    }
}

EmuCmdline *emu_cmdline_parse(const char *const *argv)
{
    EmuCmdline *cl = g_new0(EmuCmdline, 1);

    cl->binary = g_strdup(argv[0]);
    cl->escape = 1;
    cl->options = g_ptr_array_new_with_free_func(option_free);
    cl->drives = g_ptr_array_new_with_free_func(emu_drive_free);
    cl->monitors = g_ptr_array_new_with_free_func(emu_monitor_free);
    cl->ram = g_ptr_array_new_with_free_func(emu_ram_free);
    cl->warnings = g_ptr_array_new_with_free_func(g_free);
    cl->appended = g_ptr_array_new_with_free_func(g_free);
    for (size_t i = 1; argv[i];) {
        i += take_option(cl, argv + i);
    }
    for (guint i = 0; i < cl->options->len; i++) {
        EmuOption *opt = emu_cmdline_option(cl, i);

        note_flags(cl, opt);
        cl->only_information |= asks_for_help(opt);
    }
    return cl;
}

void emu_cmdline_free(EmuCmdline *cl)
{
    if (!cl) {
        return;
    }
    g_ptr_array_unref(cl->options);
    g_ptr_array_unref(cl->drives);
    g_ptr_array_unref(cl->monitors);
    g_ptr_array_unref(cl->ram);
    g_free(cl->ram_left);
    g_free(cl->incoming);
    g_ptr_array_unref(cl->warnings);
    g_ptr_array_unref(cl->appended);
    g_free(cl->binary);
    g_free(cl->machine);
    g_free(cl->pidfile);
    g_free(cl);
}

/* ---- rewriting ------------------------------------------------------ */

/* QEMU itself never daemonizes: its parent has to stay its parent. */
static void take_daemonize(EmuCmdline *cl)
{
    for (guint i = 0; i < cl->options->len; i++) {
        EmuOption *opt = emu_cmdline_option(cl, i);

        if (emu_option_is(opt, "daemonize")) {
            emu_option_replace(opt, NULL, NULL);
        }
    }
}

bool emu_cmdline_plan(EmuCmdline *cl, GError **errp)
{
    if (!emu_plan_monitors(cl, errp)) {
        return false;
    }
    emu_plan_drives(cl);
    emu_plan_ram(cl);
    take_daemonize(cl);
    return true;
}

/* ---- putting together ----------------------------------------------- */

static void append_inner_qmp(EmuCmdline *cl, int fd)
{
    g_autofree char *chardev =
        g_strdup_printf("socket,id=%s,fd=%d", EMU_QMP_ID, fd);
    const char *words[] = {"-chardev", chardev, "-mon",
                           "chardev=" EMU_QMP_ID ",mode=control"};

    for (size_t i = 0; i < G_N_ELEMENTS(words); i++) {
        g_ptr_array_add(cl->appended, g_strdup(words[i]));
    }
}

static void emit_option(GPtrArray *out, const EmuOption *opt)
{
    if (!opt->taken) {
        g_ptr_array_add(out, g_strdup(opt->word));
        if (opt->arg) {
            g_ptr_array_add(out, g_strdup(opt->arg));
        }
        return;
    }
    for (guint i = 0; opt->out && i < opt->out->len; i++) {
        g_ptr_array_add(out, g_strdup(g_ptr_array_index(opt->out, i)));
    }
}

/* The stream comes to the sidecar, which tells QEMU when. */
static void take_incoming(EmuCmdline *cl)
{
    for (guint i = 0; i < cl->options->len; i++) {
        EmuOption *opt = emu_cmdline_option(cl, i);

        if (emu_option_is(opt, "incoming")) {
            emu_option_replace(opt, "-incoming", "defer");
        }
    }
}

/* A last option that lacks its argument must not get a word of ours for it. */
static unsigned complete_options(const EmuCmdline *cl)
{
    unsigned n = cl->options->len;
    const EmuOption *last = n ? emu_cmdline_option(cl, n - 1) : NULL;

    return last && !last->arg && emu_option_has_arg(last->name) > 0 ? n - 1 : n;
}

char **emu_cmdline_argv(EmuCmdline *cl, const EmuRuntime *rt)
{
    GPtrArray *out = g_ptr_array_new();
    unsigned complete = complete_options(cl);

    for (guint i = 0; i < cl->drives->len; i++) {
        EmuDrive *drive = g_ptr_array_index(cl->drives, i);

        if (!drive->left) {
            emu_drive_take(cl, drive, rt->nbd_socket);
        }
    }
    for (guint i = 0; i < cl->monitors->len; i++) {
        EmuMonitor *mon = g_ptr_array_index(cl->monitors, i);

        if (!mon->left) {
            emu_monitor_take(cl, mon,
                             mon->shared_id ? rt->shared_fd(rt->opaque, mon)
                                            : -1);
        }
    }
    if (rt->ram_fd) {
        take_incoming(cl);
    }
    for (guint i = 0; rt->ram_fd && i < cl->ram->len; i++) {
        EmuRam *ram = g_ptr_array_index(cl->ram, i);

        emu_ram_take(cl, ram, rt->ram_fd(rt->ram_opaque, ram));
    }
    append_inner_qmp(cl, rt->qmp_fd);

    g_ptr_array_add(out, g_strdup(cl->binary));
    for (guint i = 0; i < complete; i++) {
        emit_option(out, emu_cmdline_option(cl, i));
    }
    for (guint i = 0; i < cl->appended->len; i++) {
        g_ptr_array_add(out, g_strdup(g_ptr_array_index(cl->appended, i)));
    }
    if (complete < cl->options->len) {
        emit_option(out, emu_cmdline_option(cl, complete));
    }
    g_ptr_array_add(out, NULL);
    return (char **)g_ptr_array_free(out, FALSE);
}

static bool needs_quotes(const char *word)
{
    return !*word || word[strspn(word, "abcdefghijklmnopqrstuvwxyz"
                                       "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                       "0123456789-_=+:,./@%^")];
}

/* A number as QEMU takes it for a descriptor or a set. */
static bool get_number(const Keyval *kv, const char *key, gint64 max, gint64 *n)
{
    const char *text = keyval_get(kv, key);

    return text && g_ascii_string_to_signed(text, 10, 0, max, n, NULL);
}

void emu_cmdline_fdsets(const EmuCmdline *cl,
                        void (*fn)(void *opaque, int64_t set, int fd), void *opaque)
{
    for (guint i = 0; i < cl->options->len; i++) {
        const EmuOption *opt = g_ptr_array_index(cl->options, i);
        g_autoptr(Keyval) kv = emu_option_is(opt, "add-fd") && opt->arg
                                   ? keyval_parse(opt->arg, NULL) : NULL;
        gint64 fd, set;

        if (kv && get_number(kv, "fd", INT_MAX, &fd) &&
            get_number(kv, "set", G_MAXINT64, &set)) {
            fn(opaque, set, (int)fd);
        }
    }
}

char *emu_cmdline_quote(char *const *argv)
{
    GString *out = g_string_new(NULL);

    for (size_t i = 0; argv[i]; i++) {
        g_autofree char *quoted =
            needs_quotes(argv[i]) ? g_shell_quote(argv[i]) : g_strdup(argv[i]);

        g_string_append_printf(out, "%s%s", i ? " " : "", quoted);
    }
    return g_string_free(out, FALSE);
}
