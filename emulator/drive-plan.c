/*
 * Which drives the sidecar serves, and what is left of their -drive for QEMU.
 *
 * What belongs to the image (file, format, aio, locking) is ours; what belongs
 * to the device or to QEMU's own layer above (if, index, bus, unit, media, id,
 * werror, rerror, throttling, copy-on-read, detect-zeroes) stays on QEMU's
 * side; cache, discard and readonly count on both: QEMU decides with them what
 * the guest sees (write cache, trim) and what it sends, we how the file is
 * used.  So a flush, discard or write-zeroes comes to us exactly when plain
 * QEMU would have passed it to the file.
 *
 * A drive is left to QEMU as it was given
 *   - with a warning, when we cannot serve it (network protocols, snapshot=on,
 *     -loadvm, formats we don't have, options of the image we don't know);
 *   - silently, when QEMU will refuse it anyway: its message is better known.
 * Empty drives are QEMU's as well.  All of them count for the names.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/block.h"
#include "cmdline-internal.h"
#include "util/size.h"

#include <stdlib.h>
#include <string.h>

/* Of EmuDrive.left: QEMU is going to refuse it. */
#define LEFT_SILENTLY ""

static const struct {
    const char *option, *drive;
} shorthands[] = {
    {"", "index=0,media=disk"},      {"hda", "index=0,media=disk"},
    {"hdb", "index=1,media=disk"},   {"hdc", "index=2,media=disk"},
    {"hdd", "index=3,media=disk"},   {"cdrom", "index=2,media=cdrom"},
    {"fda", "if=floppy,index=0"},    {"fdb", "if=floppy,index=1"},
    {"mtdblock", "if=mtd"},          {"sd", "if=sd"},
    {"pflash", "if=pflash"},
};

/* Keys of -drive that stay on QEMU's side, whatever their value. */
static const char *const device_keys[] = {
    "if", "index", "bus", "unit", "media", "id", "werror", "rerror",
    "copy-on-read", "detect-zeroes", "node-name", "stats-account-invalid",
    "stats-account-failed", "group", "bps", "bps_rd", "bps_wr", "iops",
    "iops_rd", "iops_wr", "bps_max", "bps_rd_max", "bps_wr_max", "iops_max",
    "iops_rd_max", "iops_wr_max", "iops_size", "cache", "cache.direct",
    "cache.no-flush", "cache.writeback", "discard", "readonly", "read-only",
    NULL,
};
/* Keys that only the side with the image needs. */
static const char *const image_keys[] = {
    "file", "file.filename", "file.driver", "file.locking", "format", "driver",
    "aio", "file.aio", "snapshot", NULL,
};
/* Of raw.  QEMU lets the guest see no more of the image than that; we serve it
 * if that is all of it (Proxmox says the size of its EFI disks). */
static const char *const raw_keys[] = {"size", NULL};
/* Of qcow2, and without effect on what is in the image: how QEMU would have
 * cached its tables.  Ours has its own ways. */
static const char *const qcow2_keys[] = {
    "cache-size", "l2-cache-size", "l2-cache-entry-size", "refcount-cache-size",
    "cache-clean-interval", "overlap-check", "overlap-check.template", NULL,
};
static const char *const interfaces[] = {
    "none", "ide", "scsi", "floppy", "pflash", "mtd", "sd", "virtio", "xen",
    NULL,
};

void emu_drive_free(void *opaque)
{
    EmuDrive *drive = opaque;

    g_free(drive->name);
    g_free(drive->filename);
    g_free(drive->format);
    g_free(drive->left);
    g_free(drive->rest);
    g_free(drive);
}

/* ---- the device name ------------------------------------------------ */

/* A whole number, or @missing if the key is not there; false if it is neither. */
static bool get_number(const Keyval *kv, const char *key, int missing,
                       int *number)
{
    const char *text = keyval_get(kv, key);
    char *end;
    long value;

    *number = missing;
    if (!text) {
        return true;
    }
    value = strtol(text, &end, 0);
    if (end == text || *end || value < 0 || value > G_MAXINT / 16) {
        return false;
    }
    *number = value;
    return true;
}

typedef struct {
    const char *type; /* the interface */
    bool cdrom;
    int bus, unit, max_devs;
} DriveSlot;

static char *slot_key(const DriveSlot *slot)
{
    return g_strdup_printf("%s %d %d", slot->type, slot->bus, slot->unit);
}

static bool slot_taken(GHashTable *taken, const DriveSlot *slot)
{
    g_autofree char *key = slot_key(slot);

    return g_hash_table_contains(taken, key);
}

/* Where QEMU puts the drive: its index, its bus and unit, or the first unit
 * that is free.  False: QEMU will refuse it. */
static bool find_slot(const EmuCmdline *cl, const Keyval *kv, GHashTable *taken,
                      DriveSlot *slot)
{
    int index;

    slot->type = keyval_get(kv, "if");
    if (!slot->type) {
        slot->type = emu_machine_default_if(cl);
    }
    slot->cdrom = !g_strcmp0(keyval_get(kv, "media"), "cdrom");
    slot->max_devs = emu_if_max_devs(cl, slot->type);
    if (!g_strv_contains(interfaces, slot->type) ||
        !get_number(kv, "bus", 0, &slot->bus) ||
        !get_number(kv, "unit", -1, &slot->unit) ||
        !get_number(kv, "index", -1, &index)) {
        return false;
    }
    if (index >= 0) {
        if (slot->bus || slot->unit >= 0) {
            return false;
        }
        slot->bus = slot->max_devs ? index / slot->max_devs : 0;
        slot->unit = slot->max_devs ? index % slot->max_devs : index;
    }
    if (slot->unit < 0) {
        for (slot->unit = 0; slot_taken(taken, slot);) {
            if (++slot->unit == slot->max_devs) {
                slot->unit = 0;
                slot->bus++;
            }
        }
    }
    if (slot->max_devs && slot->unit >= slot->max_devs) {
        return false;
    }
    return !slot_taken(taken, slot);
}

static char *default_name(const DriveSlot *slot)
{
    const char *media = "";

    if (!strcmp(slot->type, "ide") || !strcmp(slot->type, "scsi")) {
        media = slot->cdrom ? "-cd" : "-hd";
    }
    return slot->max_devs
               ? g_strdup_printf("%s%d%s%d", slot->type, slot->bus, media,
                                 slot->unit)
               : g_strdup_printf("%s%s%d", slot->type, media, slot->unit);
}

/* ---- what kind of image --------------------------------------------- */

/* QEMU takes everything before a ':' for a protocol, unless a '/' comes first;
 * "file:" is a local file after all, and "fault:" one that fails. */
const char *emu_local_filename(const char *file)
{
    size_t len;

    if (g_str_has_prefix(file, "file:")) {
        file += strlen("file:");
        return *file ? file : NULL;
    }
    if (g_str_has_prefix(file, "fault:")) {
        return file; /* ours, for tests: block/fault.c */
    }
    len = strcspn(file, ":/");
    return *file && file[len] != ':' ? file : NULL;
}

static char *why_not_local(const char *file)
{
    if (!*file) {
        return g_strdup(LEFT_SILENTLY);
    }
    return g_strdup_printf("the sidecar does not serve '%.*s:' images",
                           (int)strcspn(file, ":"), file);
}

/* Things behind a path that are not simply an image. */
static const char *special_file(const char *file)
{
    if (g_str_has_prefix(file, "/dev/fdset/")) {
        return "the sidecar does not open file descriptor sets for drives";
    }
    if (g_str_has_prefix(file, "/dev/cdrom") ||
        g_str_has_prefix(file, "/dev/sr")) {
        return "the sidecar does not serve the host's CD-ROM drives";
    }
    return NULL;
}

static bool is_ours(const char *key)
{
    return g_strv_contains(image_keys, key) ||
           g_strv_contains(qcow2_keys, key) || g_strv_contains(raw_keys, key);
}

static char *check_keys(const Keyval *kv, const char *format)
{
    bool qcow2 = !g_strcmp0(format, "qcow2"), raw = !g_strcmp0(format, "raw");

    for (guint i = 0; i < kv->items->len; i++) {
        const KeyvalItem *item = g_ptr_array_index(kv->items, i);

        if (!g_strv_contains(device_keys, item->key) &&
            !g_strv_contains(image_keys, item->key) &&
            !(qcow2 && g_strv_contains(qcow2_keys, item->key)) &&
            !(raw && g_strv_contains(raw_keys, item->key)) &&
            !g_str_has_prefix(item->key, "throttling.") &&
            !g_str_has_prefix(item->key, "stats-intervals.")) {
            return g_strdup_printf("the sidecar does not know its option '%s'",
                                   item->key);
        }
    }
    return NULL;
}

/* cache=MODE, each part of which cache.PART=on|off overrides. */
static bool parse_cache(const Keyval *kv, int *flags)
{
    static const struct {
        const char *name;
        int flags;
    } modes[] = {
        {"none", BDRV_O_NOCACHE},
        {"off", BDRV_O_NOCACHE},
        {"directsync", BDRV_O_NOCACHE | BDRV_O_WRITETHROUGH},
        {"writeback", 0},
        {"unsafe", BDRV_O_NO_FLUSH},
        {"writethrough", BDRV_O_WRITETHROUGH},
    };
    static const struct {
        const char *key;
        int flag;
        bool inverted;
    } parts[] = {
        {"cache.direct", BDRV_O_NOCACHE, false},
        {"cache.no-flush", BDRV_O_NO_FLUSH, false},
        {"cache.writeback", BDRV_O_WRITETHROUGH, true},
    };
    const char *mode = keyval_get(kv, "cache");
    bool known = !mode, on;

    for (size_t i = 0; mode && i < G_N_ELEMENTS(modes); i++) {
        if (!strcmp(mode, modes[i].name)) {
            *flags |= modes[i].flags;
            known = true;
        }
    }
    for (size_t i = 0; known && i < G_N_ELEMENTS(parts); i++) {
        if (keyval_get_bool(kv, parts[i].key, &on)) {
            *flags &= ~parts[i].flag;
            *flags |= on != parts[i].inverted ? parts[i].flag : 0;
        } else if (keyval_get(kv, parts[i].key)) {
            known = false;
        }
    }
    return known;
}

static bool parse_aio(const Keyval *kv, int *flags)
{
    const char *aio = keyval_get(kv, "aio");

    aio = aio ? aio : keyval_get(kv, "file.aio");
    if (!aio || !strcmp(aio, "threads") || !strcmp(aio, "io_uring")) {
        return true; /* io_uring: our worker threads do the same job */
    }
    if (!strcmp(aio, "native") && (*flags & BDRV_O_NOCACHE)) {
        *flags |= BDRV_O_NATIVE_AIO;
        return true;
    }
    return false;
}

static bool parse_discard(const Keyval *kv, int *flags)
{
    const char *discard = keyval_get(kv, "discard");

    if (!discard || !strcmp(discard, "ignore") || !strcmp(discard, "off")) {
        return true;
    }
    *flags |= BDRV_O_UNMAP;
    return !strcmp(discard, "unmap") || !strcmp(discard, "on");
}

static bool parse_read_only(const Keyval *kv, int *flags)
{
    const char *const keys[] = {"readonly", "read-only"};
    const char *media = keyval_get(kv, "media");
    bool read_only = false;

    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (keyval_get(kv, keys[i]) &&
            !keyval_get_bool(kv, keys[i], &read_only)) {
            return false;
        }
    }
    if (media && strcmp(media, "cdrom") && strcmp(media, "disk")) {
        return false;
    }
    /* A CD-ROM is read-only even with readonly=off. */
    if (!read_only && g_strcmp0(media, "cdrom")) {
        *flags |= BDRV_O_RDWR;
    }
    return true;
}

static bool parse_locking(const Keyval *kv, int *flags)
{
    const char *locking = keyval_get(kv, "file.locking");

    if (!locking || !strcmp(locking, "auto") || !strcmp(locking, "on")) {
        return true;
    }
    *flags |= BDRV_O_NO_LOCK;
    return !strcmp(locking, "off");
}

static bool parse_size(const Keyval *kv, uint64_t *size)
{
    const char *text = keyval_get(kv, "size");

    return !text || (!size_parse(text, 'B', NULL, size) && *size);
}

static bool parse_flags(const Keyval *kv, int *flags)
{
    return parse_cache(kv, flags) && parse_aio(kv, flags) &&
           parse_discard(kv, flags) && parse_read_only(kv, flags) &&
           parse_locking(kv, flags);
}

/* snapshot=on: the guest's writes go to a temporary file that QEMU makes over
 * the image, so our copy of the disk would not be the guest's. */
static bool wants_snapshot(const EmuCmdline *cl, const Keyval *kv)
{
    bool on;

    return keyval_get_bool(kv, "snapshot", &on) ? on : cl->snapshot;
}

/* -set drive.ID.key=value changes a drive behind our back. */
static bool changed_by_set(const EmuCmdline *cl, const char *id)
{
    g_autofree char *prefix = g_strdup_printf("drive.%s.", id);

    for (guint i = 0; i < cl->options->len; i++) {
        const EmuOption *opt = emu_cmdline_option(cl, i);

        if (emu_option_is(opt, "set") && opt->arg &&
            g_str_has_prefix(opt->arg, prefix)) {
            return true;
        }
    }
    return false;
}

/* What QEMU takes for an id. */
static bool is_identifier(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    for (; *id; id++) {
        if (!g_ascii_isalnum(*id) && !strchr("-._", *id)) {
            return false;
        }
    }
    return true;
}

/* Fills filename and format.  Why the drive can't be ours (g_free), or NULL. */
static char *examine(const EmuCmdline *cl, const Keyval *kv, EmuDrive *drive)
{
    const char *file = keyval_get(kv, "file"), *name, *why;
    const char *format = keyval_get(kv, "format");
    const char *driver = keyval_get(kv, "file.driver");
    char *unknown;

    format = format ? format : keyval_get(kv, "driver");
    file = file ? file : keyval_get(kv, "file.filename");
    if (!is_identifier(drive->name)) {
        return g_strdup(LEFT_SILENTLY);
    }
    if (driver && strcmp(driver, "file")) {
        return g_strdup_printf("the sidecar does not serve '%s' images", driver);
    }
    if (!file) {
        return g_strdup(LEFT_SILENTLY);
    }
    name = keyval_get(kv, "file") ? emu_local_filename(file) : file;
    if (!name) {
        return why_not_local(file);
    }
    drive->filename = g_strdup(name);
    drive->format = g_strdup(format);
    if ((why = special_file(name))) {
        return g_strdup(why);
    }
    if (format && !g_strv_contains(bdrv_format_names(), format)) {
        return g_strdup_printf("the sidecar does not serve format '%s'", format);
    }
    if ((unknown = check_keys(kv, format))) {
        return unknown;
    }
    if (wants_snapshot(cl, kv)) {
        return g_strdup("snapshot=on is done by QEMU");
    }
    if (cl->loadvm) { /* QEMU finds the snapshot in images of its own only */
        return g_strdup("-loadvm is done by QEMU");
    }
    if (changed_by_set(cl, drive->name)) {
        return g_strdup("-set changes it");
    }
    return parse_flags(kv, &drive->flags) && parse_size(kv, &drive->size)
               ? NULL : g_strdup(LEFT_SILENTLY);
}

/* ---- the drives of a line ------------------------------------------- */

/* The option as the keys of a -drive, or NULL if it is none. */
static Keyval *drive_keys(const EmuOption *opt)
{
    const char *file = *opt->name ? opt->arg : opt->word;

    if (emu_option_is(opt, "drive")) {
        return opt->arg ? keyval_parse(opt->arg, NULL) : NULL;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(shorthands); i++) {
        if (file && emu_option_is(opt, shorthands[i].option)) {
            Keyval *kv = keyval_parse(shorthands[i].drive, NULL);

            keyval_set(kv, "file", file);
            return kv;
        }
    }
    return NULL;
}

/* What QEMU has to know beside the NBD export. */
static char *remaining(const Keyval *kv)
{
    GString *out = g_string_new(NULL);

    for (guint i = 0; i < kv->items->len; i++) {
        const KeyvalItem *item = g_ptr_array_index(kv->items, i);

        if (!is_ours(item->key) && strcmp(item->key, "id")) {
            g_string_append_printf(out, ",%s=", item->key);
            keyval_append_escaped(out, item->value);
        }
    }
    return g_string_free(out, FALSE);
}

static bool is_empty(const Keyval *kv)
{
    for (guint i = 0; i < kv->items->len; i++) {
        const KeyvalItem *item = g_ptr_array_index(kv->items, i);

        if (!strcmp(item->key, "file") || !strcmp(item->key, "driver") ||
            g_str_has_prefix(item->key, "file.")) {
            return false;
        }
    }
    return true;
}

void emu_drive_leave(EmuCmdline *cl, EmuDrive *drive, const char *why)
{
    g_free(drive->left);
    drive->left = g_strdup(why);
    if (*why) {
        emu_cmdline_warn(cl, "drive '%s' (%s) stays QEMU's own: %s; backup and "
                             "block_stream will not work for it",
                         drive->name,
                         drive->filename ? drive->filename : "no file", why);
    }
}

static void plan_drive(EmuCmdline *cl, unsigned index, const Keyval *kv,
                       GHashTable *slots, GHashTable *names)
{
    const char *id = keyval_get(kv, "id");
    DriveSlot slot = {0};
    bool valid = find_slot(cl, kv, slots, &slot);
    EmuDrive *drive;
    g_autofree char *why = NULL;

    if (valid) {
        g_hash_table_add(slots, slot_key(&slot));
    }
    if (is_empty(kv)) {
        return;
    }
    drive = g_new0(EmuDrive, 1);
    drive->option = index;
    drive->name = id ? g_strdup(id) : default_name(&slot);
    drive->removable = slot.cdrom || !g_strcmp0(slot.type, "floppy");
    drive->rest = remaining(kv);
    g_ptr_array_add(cl->drives, drive);
    valid = g_hash_table_add(names, g_strdup(drive->name)) && valid;

    why = valid ? examine(cl, kv, drive) : g_strdup(LEFT_SILENTLY);
    if (why) {
        emu_drive_leave(cl, drive, why);
    }
}

static void warn_of_others(EmuCmdline *cl, const EmuOption *opt)
{
    static const char *const words[] = {"[drive", "[mon", NULL};

    if (emu_readconfig_may(opt, words)) {
        emu_cmdline_warn(cl, "drives and monitors in the file of -readconfig %s "
                             "stay QEMU's own",
                         opt->arg);
    } else if (emu_option_is(opt, "blockdev") && opt->arg &&
               (strstr(opt->arg, "filename"))) {
        emu_cmdline_warn(cl, "-blockdev %s stays QEMU's own: the sidecar serves "
                             "images given with -drive; backup and block_stream "
                             "will not work for it",
                         opt->arg);
    }
}

void emu_plan_drives(EmuCmdline *cl)
{
    g_autoptr(GHashTable) slots =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GHashTable) names =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (guint i = 0; i < cl->options->len; i++) {
        const EmuOption *opt = emu_cmdline_option(cl, i);
        g_autoptr(Keyval) kv = drive_keys(opt);

        if (kv) {
            plan_drive(cl, i, kv, slots, names);
        }
        warn_of_others(cl, opt);
    }
}

void emu_drive_take(EmuCmdline *cl, EmuDrive *drive, const char *nbd_socket)
{
    GString *arg = g_string_new("file.driver=nbd,file.server.type=unix,"
                                "file.server.path=");

    keyval_append_escaped(arg, nbd_socket);
    g_string_append(arg, ",file.server.abstract=on,file.export=");
    keyval_append_escaped(arg, drive->name);
    g_string_append_printf(arg, ",file.reconnect-delay=%d,format=raw,id=",
                           EMU_RECONNECT_DELAY);
    keyval_append_escaped(arg, drive->name);
    g_string_append(arg, drive->rest);
    emu_option_replace(emu_cmdline_option(cl, drive->option), "-drive",
                       arg->str);
    g_string_free(arg, TRUE);
}
