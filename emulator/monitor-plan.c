/*
 * Which monitors the sidecar serves.
 *
 *     -monitor stdio, -qmp unix:…        ours; gone from QEMU's line
 *     -chardev …,id=m  -mon m            both ours, if nothing else uses m
 *     -serial mon:stdio, -nographic,     ours; QEMU's serial port becomes a
 *     -chardev …,mux=on,id=m  -mon m       socketpair whose other end we share
 *       -serial chardev:m                  with the monitor
 *     vc, pty, websocket, TLS …          QEMU's own, with a warning
 *
 * QEMU gets -mon for the inner QMP in any case, and then makes no default
 * monitor.  Where it would have made one, it is asked for by name: the one of
 * -nographic is ours, the one on a virtual console stays QEMU's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmdline-internal.h"
#include "util/chardev.h"
#include "util/error.h"

#include <string.h>

void emu_monitor_free(void *opaque)
{
    EmuMonitor *mon = opaque;

    g_free(mon->spec);
    g_free(mon->shared_id);
    g_free(mon->left);
    g_free(mon->source);
    g_free(mon);
}

void emu_monitor_leave(EmuCmdline *cl, EmuMonitor *mon, const char *why)
{
    g_free(mon->left);
    mon->left = g_strdup(why);
    if (*why) {
        emu_cmdline_warn(cl, "monitor '%s' stays QEMU's own: %s; the sidecar's "
                             "commands are not found there",
                         mon->source, why);
    }
}

static EmuMonitor *add_monitor(EmuCmdline *cl, unsigned option,
                               const char *spec, char *source)
{
    EmuMonitor *mon = g_new0(EmuMonitor, 1);

    mon->option = option;
    mon->spec = g_strdup(spec);
    mon->source = source;
    g_ptr_array_add(cl->monitors, mon);
    return mon;
}

/* ---- what chardevs can do ------------------------------------------- */

/* A spec that is wrong is QEMU's to complain about, silently left. */
static void check_served(EmuCmdline *cl, EmuMonitor *mon)
{
    g_autoptr(GError) error = NULL;

    if (chardev_parse(mon->spec, mon->option_form, NULL, NULL, &error)) {
        return;
    }
    if (g_error_matches(error, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED)) {
        emu_monitor_leave(cl, mon, error->message);
    } else {
        emu_monitor_leave(cl, mon, "");
    }
}

/* How often @id is named as a chardev, other than by its own -chardev and by
 * -mon: "chardev=ID" in devices, "chardev:ID" after -serial and its like. */
static unsigned other_uses(const EmuCmdline *cl, const char *id)
{
    unsigned n = 0;

    for (guint i = 0; i < cl->options->len; i++) {
        const EmuOption *opt = emu_cmdline_option(cl, i);
        g_autoptr(Keyval) kv = NULL;

        if (!opt->arg || emu_option_is(opt, "chardev") ||
            emu_option_is(opt, "mon")) {
            continue;
        }
        if (g_str_has_prefix(opt->arg, "chardev:")) {
            n += !strcmp(opt->arg + strlen("chardev:"), id);
            continue;
        }
        kv = keyval_parse_object(opt->arg, "driver");
        for (guint k = 0; k < kv->items->len; k++) {
            const KeyvalItem *item = g_ptr_array_index(kv->items, k);

            n += g_str_has_suffix(item->key, "chardev") &&
                 !strcmp(item->value, id);
        }
    }
    return n;
}

static EmuOption *find_chardev(const EmuCmdline *cl, const char *id,
                               Keyval **keys, unsigned *index)
{
    for (guint i = 0; i < cl->options->len; i++) {
        EmuOption *opt = emu_cmdline_option(cl, i);

        if (emu_option_is(opt, "chardev") && opt->arg) {
            g_autoptr(Keyval) kv = keyval_parse(opt->arg, "backend");

            if (!g_strcmp0(keyval_get(kv, "id"), id)) {
                *keys = g_steal_pointer(&kv);
                *index = i;
                return opt;
            }
        }
    }
    return NULL;
}

/* ---- the ways to ask for a monitor ---------------------------------- */

static unsigned monitors_on(const EmuCmdline *cl, const char *id)
{
    unsigned n = 0;

    for (guint i = 0; i < cl->options->len; i++) {
        const EmuOption *opt = emu_cmdline_option(cl, i);

        if (opt->arg && emu_option_is(opt, "mon")) {
            g_autoptr(Keyval) kv = keyval_parse(opt->arg, "chardev");

            n += !g_strcmp0(keyval_get(kv, "chardev"), id);
        } else if (opt->arg && g_str_has_prefix(opt->arg, "chardev:") &&
                   (emu_option_is(opt, "monitor") ||
                    g_str_has_prefix(opt->name, "qmp"))) {
            n += !strcmp(opt->arg + strlen("chardev:"), id);
        }
    }
    return n;
}

/* -mon ID and -monitor chardev:ID */
static void plan_on_chardev(EmuCmdline *cl, unsigned index, const char *id,
                            bool qmp, bool pretty)
{
    EmuOption *opt = emu_cmdline_option(cl, index), *chr;
    g_autoptr(Keyval) kv = NULL;
    unsigned chr_index, monitors = monitors_on(cl, id), uses;
    bool mux = false;
    EmuMonitor *mon;

    chr = find_chardev(cl, id, &kv, &chr_index);
    if (!chr) {
        return; /* QEMU says that it was not found */
    }
    keyval_get_bool(kv, "mux", &mux);
    uses = other_uses(cl, id) - (emu_option_is(opt, "mon") ? 0 : 1);
    if (uses + monitors > 1 && !mux) {
        return; /* QEMU says that it is in use */
    }
    mon = add_monitor(cl, index, chr->arg, emu_option_text(opt));
    mon->option_form = true;
    mon->qmp = qmp;
    mon->pretty = pretty;
    check_served(cl, mon);
    if (mon->left) {
        return;
    }
    if (monitors > 1) {
        emu_monitor_leave(cl, mon, "several monitors share its chardev");
    } else if (uses > 1) {
        emu_monitor_leave(cl, mon, "its chardev is shared by several devices");
    } else if (mux && qmp) {
        emu_monitor_leave(cl, mon, "it is multiplexed QMP");
    } else if (mux) {
        mon->mux = true;
        mon->shared_id = uses ? g_strdup(id) : NULL;
    }
}

static void plan_mon(EmuCmdline *cl, unsigned index)
{
    EmuOption *opt = emu_cmdline_option(cl, index);
    g_autoptr(Keyval) kv = keyval_parse(opt->arg, "chardev");
    const char *mode = keyval_get(kv, "mode"), *id = keyval_get(kv, "chardev");
    bool qmp = !g_strcmp0(mode, "control"), pretty = false;

    if (!id || (mode && !qmp && strcmp(mode, "readline"))) {
        return;
    }
    if (keyval_get(kv, "pretty") && !keyval_get_bool(kv, "pretty", &pretty)) {
        return;
    }
    plan_on_chardev(cl, index, id, qmp, pretty);
}

/* -monitor, -qmp, -qmp-pretty */
static void plan_direct(EmuCmdline *cl, unsigned index)
{
    EmuOption *opt = emu_cmdline_option(cl, index);
    bool qmp = !emu_option_is(opt, "monitor");
    bool pretty = emu_option_is(opt, "qmp-pretty");
    EmuMonitor *mon;

    if (!qmp && g_str_has_prefix(opt->arg, "none")) {
        return;
    }
    if (g_str_has_prefix(opt->arg, "chardev:")) {
        plan_on_chardev(cl, index, opt->arg + strlen("chardev:"), qmp, pretty);
        return;
    }
    mon = add_monitor(cl, index, opt->arg, emu_option_text(opt));
    mon->qmp = qmp;
    mon->pretty = pretty;
    check_served(cl, mon);
}

/* -serial mon:…; @serials: how many -serial came before. */
static void plan_shared_serial(EmuCmdline *cl, unsigned index,
                               unsigned serials)
{
    EmuOption *opt = emu_cmdline_option(cl, index);
    EmuMonitor *mon = add_monitor(cl, index, opt->arg, emu_option_text(opt));

    mon->mux = true;
    /* The label that QEMU gives its chardev: monitors find it by that. */
    mon->shared_id = g_strdup_printf("serial%u", serials);
    check_served(cl, mon);
}

static void plan_option(EmuCmdline *cl, unsigned index, unsigned *serials)
{
    EmuOption *opt = emu_cmdline_option(cl, index);

    if (!opt->arg) {
        return;
    }
    if (emu_option_is(opt, "mon")) {
        plan_mon(cl, index);
    } else if (emu_option_is(opt, "monitor") || emu_option_is(opt, "qmp") ||
               emu_option_is(opt, "qmp-pretty")) {
        plan_direct(cl, index);
    } else if (emu_option_is(opt, "serial")) {
        if (g_str_has_prefix(opt->arg, "mon:")) {
            plan_shared_serial(cl, index, *serials);
        }
        ++*serials;
    } else if ((emu_option_is(opt, "parallel") ||
                emu_option_is(opt, "debugcon")) &&
               g_str_has_prefix(opt->arg, "mon:")) {
        emu_cmdline_warn(cl, "the monitor of '%s %s' stays QEMU's own; the "
                             "sidecar's commands are not found there",
                         opt->word, opt->arg);
    }
}

/* ---- monitors that nobody asked for --------------------------------- */

/* Does any option switch QEMU's default monitor off? */
static bool has_default_monitor(const EmuCmdline *cl)
{
    for (guint i = 0; i < cl->options->len; i++) {
        const EmuOption *opt = emu_cmdline_option(cl, i);

        if (emu_option_is(opt, "monitor") || emu_option_is(opt, "qmp") ||
            emu_option_is(opt, "qmp-pretty") || emu_option_is(opt, "mon") ||
            (opt->arg && g_str_has_prefix(opt->arg, "mon:"))) {
            return false;
        }
    }
    return !cl->nodefaults;
}

/* Would QEMU make a default port of the kind of -@option?  Not when there is
 * one on the line, or one of the @devices that bring their own. */
static bool has_default_port(const EmuCmdline *cl, const char *option,
                             const char *const *devices)
{
    for (guint i = 0; i < cl->options->len; i++) {
        const EmuOption *opt = emu_cmdline_option(cl, i);

        if (emu_option_is(opt, option)) {
            return false;
        }
        if (opt->arg && emu_option_is(opt, "device")) {
            g_autoptr(Keyval) kv = keyval_parse_object(opt->arg, "driver");
            const char *driver = keyval_get(kv, "driver");

            if (driver && g_strv_contains(devices, driver)) {
                return false;
            }
        }
    }
    return !cl->nodefaults;
}

static bool has_default_serial(const EmuCmdline *cl)
{
    static const char *const devices[] = {
        "isa-serial",    "spapr-vty",         "sclpconsole", "sclplmconsole",
        "virtio-serial", "virtio-serial-pci", NULL,
    };

    return has_default_port(cl, "serial", devices);
}

static bool has_default_parallel(const EmuCmdline *cl)
{
    static const char *const devices[] = {"isa-parallel", NULL};

    return has_default_port(cl, "parallel", devices);
}

static void append_words(EmuCmdline *cl, const char *first, const char *second)
{
    g_ptr_array_add(cl->appended, g_strdup(first));
    g_ptr_array_add(cl->appended, g_strdup(second));
}

static void plan_default_monitor(EmuCmdline *cl)
{
    EmuMonitor *mon;

    if (!has_default_monitor(cl)) {
        return;
    }
    if (!cl->nographic) {
        append_words(cl, "-monitor", "vc:80Cx24C");
        return;
    }
    mon = add_monitor(cl, G_MAXUINT, has_default_serial(cl) ? "mon:stdio"
                                                            : "stdio",
                      g_strdup("-nographic"));
    if (has_default_serial(cl)) {
        mon->mux = true;
        mon->shared_id = g_strdup("serial0");
    }
}

/* ---- stdio ---------------------------------------------------------- */

static bool is_stdio(const EmuMonitor *mon)
{
    g_autoptr(Keyval) kv = keyval_parse(mon->spec, "backend");

    return !strcmp(mon->spec, "stdio") || !strcmp(mon->spec, "mon:stdio") ||
           (mon->option_form && !g_strcmp0(keyval_get(kv, "backend"), "stdio"));
}

/* An option of QEMU's own that will use stdio. */
static bool option_uses_stdio(const EmuCmdline *cl, guint index)
{
    const EmuOption *opt = emu_cmdline_option(cl, index);

    if (!opt->arg) {
        return false;
    }
    if (emu_option_is(opt, "chardev")) {
        g_autoptr(Keyval) kv = keyval_parse(opt->arg, "backend");

        return !g_strcmp0(keyval_get(kv, "backend"), "stdio");
    }
    return (emu_option_is(opt, "serial") || emu_option_is(opt, "parallel") ||
            emu_option_is(opt, "debugcon") || emu_option_is(opt, "gdb")) &&
           (!strcmp(opt->arg, "stdio") || !strcmp(opt->arg, "mon:stdio"));
}

static bool is_chardev_of(const EmuCmdline *cl, guint index,
                          const EmuMonitor *mon)
{
    const EmuOption *opt = emu_cmdline_option(cl, index);

    return index == mon->option ||
           (mon->option_form && emu_option_is(opt, "chardev") &&
            !g_strcmp0(opt->arg, mon->spec));
}

static bool refuse(GError **errp, const char *source, const char *why)
{
    error_set(errp, "%s: cannot use stdio %s", source, why);
    return false;
}

/* QEMU can't see that stdio is taken when it is us who have it. */
static bool check_stdio(const EmuCmdline *cl, GError **errp)
{
    const EmuMonitor *user = NULL;

    for (guint i = 0; i < cl->monitors->len; i++) {
        const EmuMonitor *mon = g_ptr_array_index(cl->monitors, i);

        if (mon->left || !is_stdio(mon)) {
            continue;
        }
        if (cl->daemonize) {
            return refuse(errp, mon->source, "with -daemonize");
        }
        if (user) {
            return refuse(errp, mon->source, "by multiple character devices");
        }
        user = mon;
    }
    for (guint i = 0; i < cl->options->len; i++) {
        g_autofree char *text = emu_option_text(emu_cmdline_option(cl, i));

        if (!option_uses_stdio(cl, i) || (user && is_chardev_of(cl, i, user))) {
            continue;
        }
        if (cl->daemonize) {
            return refuse(errp, text, "with -daemonize");
        }
        if (user) {
            return refuse(errp, text, "by multiple character devices");
        }
    }
    return true;
}

static bool check_daemonize(const EmuCmdline *cl, GError **errp)
{
    if (!cl->daemonize) {
        return true;
    }
    if (cl->nographic &&
        (has_default_monitor(cl) || has_default_serial(cl) ||
         has_default_parallel(cl))) {
        error_set(errp, "-nographic cannot be used with -daemonize");
        return false;
    }
    return true;
}

bool emu_plan_monitors(EmuCmdline *cl, GError **errp)
{
    unsigned serials = 0;

    if (!check_daemonize(cl, errp)) {
        return false;
    }
    for (guint i = 0; i < cl->options->len; i++) {
        plan_option(cl, i, &serials);
    }
    plan_default_monitor(cl);
    return check_stdio(cl, errp);
}

/* ---- taking over ---------------------------------------------------- */

/* Take the -chardev that @mon had to itself out of the line, or put a socket
 * of the same id in its place. */
static void replace_chardev(EmuCmdline *cl, const EmuMonitor *mon,
                            const char *socket_arg)
{
    for (guint i = 0; i < cl->options->len; i++) {
        EmuOption *opt = emu_cmdline_option(cl, i);

        if (emu_option_is(opt, "chardev") && !g_strcmp0(opt->arg, mon->spec)) {
            emu_option_replace(opt, socket_arg ? "-chardev" : NULL, socket_arg);
        }
    }
}

/* -serial mon:stdio and -nographic: the chardev is ours to name. */
static void put_serial(EmuCmdline *cl, const EmuMonitor *mon,
                       const char *socket_arg)
{
    g_autofree char *serial = g_strdup_printf("chardev:%s", mon->shared_id);

    if (mon->option == G_MAXUINT) {
        append_words(cl, "-chardev", socket_arg);
        append_words(cl, "-serial", serial);
    } else {
        EmuOption *opt = emu_cmdline_option(cl, mon->option);

        emu_option_replace(opt, "-chardev", socket_arg);
        g_ptr_array_add(opt->out, g_strdup("-serial"));
        g_ptr_array_add(opt->out, g_strdup(serial));
    }
}

void emu_monitor_take(EmuCmdline *cl, EmuMonitor *mon, int shared_fd)
{
    g_autofree char *socket_arg =
        mon->shared_id
            ? g_strdup_printf("socket,id=%s,fd=%d", mon->shared_id, shared_fd)
            : NULL;

    if (mon->option_form) {
        emu_option_replace(emu_cmdline_option(cl, mon->option), NULL, NULL);
        replace_chardev(cl, mon, socket_arg);
    } else if (socket_arg) {
        put_serial(cl, mon, socket_arg);
    } else if (mon->option != G_MAXUINT) {
        emu_option_replace(emu_cmdline_option(cl, mon->option), NULL, NULL);
    }
}
