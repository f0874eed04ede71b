/*
 * QEMU's device-only stream, as `migrate' with x-ignore-shared gives it.
 *
 * The blocks of the machine become known from its list; the pages in it (of
 * blocks that are not shared) are kept by a RamLoader, which can put them into
 * another stream.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/qemu-stream.h"

#include "util/error.h"

#include <string.h>

#define BLOCKS_MAX 4096

typedef struct {
    DeviceState *ds;
    uint32_t page_size;
} Context;

static bool list_error(QEMUFile *f, const char *what, GError **errp)
{
    if (qemu_file_ok(f, errp)) {
        error_set(errp, "%s: QEMU's device state, before byte %"
                  G_GUINT64_FORMAT ": %s", qemu_file_name(f),
                  qemu_file_position(f), what);
    }
    return false;
}

/* QEMU_VM_SECTION_START begins with the list: name, length, and with
 * x-ignore-shared, the guest address. */
static bool read_list(DeviceState *ds, QEMUFile *f, uint32_t page_size,
                      GError **errp)
{
    uint64_t word = qemu_get_be64(f);
    uint64_t total = word & ~RAM_SAVE_FLAG_MASK;

    if ((word & RAM_SAVE_FLAG_MASK) != RAM_SAVE_FLAG_MEM_SIZE) {
        return list_error(f, "no list of RAM blocks", errp);
    }
    while (total) {
        RamBlock b = { 0 };

        qemu_get_counted_string(f, b.idstr);
        b.length = qemu_get_be64(f);
        qemu_get_be64(f);
        if (qemu_file_error(f) || b.length > total || !b.length ||
            b.length % page_size || ds->blocks->len == BLOCKS_MAX) {
            return list_error(f, "a bad list of RAM blocks", errp);
        }
        total -= b.length;
        g_array_append_val(ds->blocks, b);
    }
    return true;
}

static bool read_ram(void *opaque, QEMUFile *f, GError **errp)
{
    Context *c = opaque;
    DeviceState *ds = c->ds;

    if (!ds->foreign) {
        if (!read_list(ds, f, c->page_size, errp)) {
            return false;
        }
        ds->foreign = ram_loader_new((RamBlock *)ds->blocks->data,
                                     ds->blocks->len, c->page_size, 0,
                                     errp);
        if (!ds->foreign) {
            return false;
        }
        ram_loader_skip_list(ds->foreign);
    }
    return ram_loader_load(ds->foreign, f, errp);
}

static const QemuStreamHandler handler = { .ram = read_ram };

DeviceState *device_state_read(QEMUFile *f, uint32_t page_size, GError **errp)
{
    g_autoptr(DeviceState) ds = g_new0(DeviceState, 1);
    Context c = { ds, page_size };

    ds->refs = 1;
    qemu_stream_init(&ds->stream);
    ds->blocks = g_array_new(FALSE, FALSE, sizeof(RamBlock));
    if (!qemu_stream_read(f, &ds->stream, &handler, &c, errp)) {
        return NULL;
    }
    return g_steal_pointer(&ds);
}

DeviceState *device_state_ref(DeviceState *ds)
{
    g_atomic_int_inc(&ds->refs);
    return ds;
}

void device_state_unref(DeviceState *ds)
{
    if (ds && g_atomic_int_dec_and_test(&ds->refs)) {
        qemu_stream_clear(&ds->stream);
        ram_loader_free(ds->foreign);
        g_array_unref(ds->blocks);
        g_free(ds);
    }
}
