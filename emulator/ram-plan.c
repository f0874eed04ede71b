/*
 * Guest RAM that the sidecar can map: which memory backends there are.
 *
 * The usual case is a line with -m (or none) and no backend: the machine's main
 * RAM becomes a memory-backend-file of the name that a plain QEMU gives the
 * block ("pc.ram"), so that a plain QEMU can load our stream.  Backends that
 * the user made are taken over if they are shared; one of main RAM that is private
 * makes all RAM stay QEMU's own, because half of it is of no use.  That of a device
 * (pc-dimm, virtio-mem, …) may be private: it goes with QEMU's device state.
 *
 * It comes after drives and monitors, because it adds objects and never changes
 * what those look at.  Facts about QEMU are those of version 7.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmdline-internal.h"
#include "util/size.h"

#include <string.h>

#define RAM_DEFAULT_SIZE (UINT64_C(128) << 20)

void emu_ram_free(void *ram)
{
    EmuRam *r = ram;

    g_free(r->id);
    g_free(r->path);
    g_free(r->rest);
    g_free(r);
}

static void G_GNUC_PRINTF(2, 3) leave(EmuCmdline *cl, const char *fmt, ...)
{
    va_list ap;

    if (!cl->ram_left) {
        va_start(ap, fmt);
        cl->ram_left = g_strdup_vprintf(fmt, ap);
        va_end(ap);
    }
    g_ptr_array_set_size(cl->ram, 0);
}

/* The last @option with @key decides, as when QEMU merges them. */
static char *find_value(const EmuCmdline *cl, const char *option,
                        const char *implied, const char *key)
{
    char *value = NULL;

    for (guint i = 0; i < cl->options->len; i++) {
        EmuOption *opt = emu_cmdline_option(cl, i);

        if (emu_option_is(opt, option) && opt->arg) {
            g_autoptr(Keyval) kv = keyval_parse(opt->arg, implied);

            if (keyval_get(kv, key)) {
                g_free(value);
                value = g_strdup(keyval_get(kv, key));
            }
        }
    }
    return value;
}

static char *machine_value(const EmuCmdline *cl, const char *key)
{
    char *value = find_value(cl, "machine", "type", key);

    return value ? value : find_value(cl, "M", "type", key);
}

static bool have_option(const EmuCmdline *cl, const char *name)
{
    for (guint i = 0; i < cl->options->len; i++) {
        if (emu_option_is(emu_cmdline_option(cl, i), name)) {
            return true;
        }
    }
    return false;
}

/* ---- the user's own backends ------------------------------------------ */

static uint64_t hugetlb_size(const Keyval *kv)
{
    const char *text = keyval_get(kv, "hugetlbsize");
    uint64_t size;
    bool on;

    if (!keyval_get_bool(kv, "hugetlb", &on) || !on) {
        return 0;
    }
    return text && !size_parse(text, 'B', NULL, &size) ? size : 1;
}

/* What a memory backend has to be; why it is not, or NULL. */
static const char *why_not(const Keyval *kv, bool memfd)
{
    bool share = memfd, value;

    keyval_get_bool(kv, "share", &share);
    if (!share) {
        return "it is not shared (share=on)";
    }
    if (keyval_get(kv, "offset") ||
        (keyval_get_bool(kv, "readonly", &value) && value) ||
        (keyval_get_bool(kv, "pmem", &value) && value)) {
        return "it is a part of a file, read-only or persistent memory";
    }
    return NULL;
}

static EmuRam *plan_backend(int option, Keyval *kv, const char *id, const char **why)
{
    static const char *const ours[] = {"qom-type", "id", "size", "share",
                                       "mem-path", "hugetlb", "hugetlbsize",
                                       "seal"};
    const char *type = keyval_get(kv, "qom-type");
    bool memfd = !g_strcmp0(type, "memory-backend-memfd");
    const char *size = keyval_get(kv, "size");
    EmuRam *ram;
    uint64_t bytes;

    *why = "it is not a memory-backend-file or -memfd";
    if (memfd || !g_strcmp0(type, "memory-backend-file")) {
        *why = why_not(kv, memfd);
    }
    if (!*why && (!size || size_parse(size, 'B', NULL, &bytes) || !bytes)) {
        *why = "its size is not clear";
    }
    if (*why) {
        return NULL;
    }
    ram = g_new0(EmuRam, 1);
    ram->id = g_strdup(id);
    ram->size = bytes;
    ram->path = memfd ? NULL : g_strdup(keyval_get(kv, "mem-path"));
    ram->hugetlb = memfd ? hugetlb_size(kv) : 0;
    ram->option = option;
    for (size_t i = 0; i < G_N_ELEMENTS(ours); i++) {
        keyval_remove(kv, ours[i]);
    }
    ram->rest = keyval_to_string(kv);
    return ram;
}

/* NULL, with *why. */
static EmuRam *find_object(EmuCmdline *cl, const char *id, const char **why)
{
    for (guint i = 0; i < cl->options->len; i++) {
        EmuOption *opt = emu_cmdline_option(cl, i);

        if (emu_option_is(opt, "object") && opt->arg) {
            g_autoptr(Keyval) kv = keyval_parse_object(opt->arg, "qom-type");

            if (!g_strcmp0(keyval_get(kv, "id"), id)) {
                return plan_backend(i, kv, id, why);
            }
        }
    }
    *why = NULL;
    return NULL;
}

static void find_backend(EmuCmdline *cl, const char *id)
{
    const char *why;
    EmuRam *ram = find_object(cl, id, &why);

    if (ram) {
        g_ptr_array_add(cl->ram, ram);
    } else if (why) {
        leave(cl, "memory backend '%s': %s", id, why);
    } else {
        leave(cl, "memory backend '%s' is not one of the -object options", id);
    }
}

/* True if some -numa names a backend. */
static bool plan_numa(EmuCmdline *cl)
{
    bool found = false;

    for (guint i = 0; i < cl->options->len; i++) {
        EmuOption *opt = emu_cmdline_option(cl, i);
        g_autoptr(Keyval) kv = NULL;

        if (!emu_option_is(opt, "numa") || !opt->arg) {
            continue;
        }
        kv = keyval_parse(opt->arg, "type");
        if (keyval_get(kv, "mem")) {
            leave(cl, "-numa with mem= instead of memdev=");
        } else if (keyval_get(kv, "memdev")) {
            found = true;
            if (!cl->ram_left) {
                find_backend(cl, keyval_get(kv, "memdev"));
            }
        }
    }
    return found;
}

/* ---- devices that bring memory: pc-dimm, nvdimm, virtio-mem, … ------------- */

static bool is_planned(const EmuCmdline *cl, const char *id)
{
    for (guint i = 0; i < cl->ram->len; i++) {
        const EmuRam *ram = g_ptr_array_index(cl->ram, i);

        if (!strcmp(ram->id, id)) {
            return true;
        }
    }
    return false;
}

/* What QEMU shares it leaves out of its device state, so that must be known here. */
static void plan_devices(EmuCmdline *cl)
{
    for (guint i = 0; i < cl->options->len; i++) {
        EmuOption *opt = emu_cmdline_option(cl, i);
        g_autoptr(Keyval) kv = NULL;
        const char *id, *why;
        EmuRam *ram;

        if (!emu_option_is(opt, "device") || !opt->arg) {
            continue;
        }
        kv = keyval_parse_object(opt->arg, "driver");
        id = keyval_get(kv, "memdev");
        ram = id && !is_planned(cl, id) ? find_object(cl, id, &why) : NULL;
        if (ram) {
            ram->device = true;
            g_ptr_array_add(cl->ram, ram);
        }
    }
}

/* ---- the machine's main RAM --------------------------------------------- */

static void plan_main(EmuCmdline *cl)
{
    g_autofree char *text = find_value(cl, "m", "size", "size");
    const char *id = emu_machine_ram_id(cl);
    uint64_t size = RAM_DEFAULT_SIZE;
    EmuRam *ram;

    if (!id) {
        leave(cl, "the name of this machine's RAM block is not known");
        return;
    }
    if (!text && strcmp(id, "pc.ram") && strcmp(id, "microvm.ram")) {
        leave(cl, "how much RAM this machine has without -m is not known");
        return;
    }
    if (text && (size_parse(text, 'M', NULL, &size) || !size ||
                 size > INT64_MAX - 8192)) {
        leave(cl, "the size in -m is not clear");
        return;
    }
    ram = g_new0(EmuRam, 1);
    ram->id = g_strdup(id);
    ram->size = (size + 8191) & ~UINT64_C(8191); /* as QEMU does */
    ram->option = -1;
    /* where the kernel gives a file huge pages, they only fit a mapping that
     * begins like one; QEMU 7.2 aligns other memory by itself, but no file */
    ram->rest = g_strdup("align=2M,x-use-canonical-path-for-ramblock-id=off");
    g_ptr_array_add(cl->ram, ram);
}

/* Another machine has other names for its RAM. */
static bool readconfig_may_set_up(const EmuCmdline *cl)
{
    static const char *const words[] = {"mem", "machine", "object",
                                        "vhost-user", NULL};

    for (guint i = 0; i < cl->options->len; i++) {
        if (emu_readconfig_may(emu_cmdline_option(cl, i), words)) {
            return true;
        }
    }
    return false;
}

void emu_plan_ram(EmuCmdline *cl)
{
    g_autofree char *backend = machine_value(cl, "memory-backend");
    g_autofree char *secret = machine_value(cl, "confidential-guest-support");
    g_autofree char *secret_old = machine_value(cl, "memory-encryption");

    if (secret || secret_old) {
        leave(cl, "the guest's memory is encrypted");
    } else if (have_option(cl, "mem-path")) {
        leave(cl, "-mem-path makes private memory (use a shared "
              "memory-backend-file)");
    } else if (readconfig_may_set_up(cl)) {
        leave(cl, "-readconfig may set up memory");
    } else if (backend) {
        find_backend(cl, backend);
    } else if (!plan_numa(cl) && !cl->ram_left) {
        plan_main(cl);
    }
    if (cl->ram->len) {
        plan_devices(cl);
    }
}

/* ---- rewriting ------------------------------------------------------------- */

void emu_ram_take(EmuCmdline *cl, EmuRam *ram, int fd)
{
    g_autoptr(GString) object = g_string_new("memory-backend-file,id=");

    if (fd < 0) {
        return;
    }
    keyval_append_escaped(object, ram->id);
    g_string_append_printf(object, ",size=%" G_GUINT64_FORMAT
                           ",mem-path=/proc/self/fd/%d,share=on", ram->size, fd);
    if (ram->rest && *ram->rest) {
        g_string_append_printf(object, ",%s", ram->rest);
    }
    if (ram->option >= 0) {
        emu_option_replace(emu_cmdline_option(cl, ram->option), "-object",
                           object->str);
        return;
    }
    g_ptr_array_add(cl->appended, g_strdup("-object"));
    g_ptr_array_add(cl->appended, g_strdup(object->str));
    g_ptr_array_add(cl->appended, g_strdup("-machine"));
    g_ptr_array_add(cl->appended,
                    g_strdup_printf("memory-backend=%s", ram->id));
}
