/*
 * Drives of the VM that are not ours.  Those of the command line have had their
 * warning at the start; blockdev-add and drive_add bring more while the VM runs,
 * and whoever backs up "all drives" has to hear that they are not among them.
 *
 * Nobody waits for QEMU's answer here: a backup must not either.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/drive-others.h"

static const char *text_of(json_object *object, const char *key)
{
    json_object *value = json_object_object_get(object, key);

    return value ? json_object_get_string(value) : "";
}

static bool is_ours(const Sidecar *sc, const char *name)
{
    BlockBackend *blk = blk_by_name(sc->block, name);

    return blk && blk_use(blk) == BLK_USED;
}

/* @block: an element of what query-block returns. */
static bool is_missed(const Sidecar *sc, json_object *block)
{
    json_object *inserted = json_object_object_get(block, "inserted");

    return inserted && !is_ours(sc, text_of(block, "device")) &&
           !json_object_get_boolean(json_object_object_get(inserted, "ro"));
}

static void on_query_block(void *opaque, json_object *reply)
{
    const Sidecar *sc = opaque;
    json_object *list = json_object_object_get(reply, "return");
    g_autoptr(GString) names = g_string_new(NULL);

    if (!json_object_is_type(list, json_type_array)) {
        return;
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *block = json_object_array_get_idx(list, i);

        if (is_missed(sc, block)) {
            const char *name = text_of(block, "device");

            g_string_append_printf(names, "%s%s", names->len ? ", " : "",
                                   *name ? name : text_of(block, "qdev"));
        }
    }
    if (names->len) {
        g_printerr("qemu-sidecar: warning: not in the backup, because they are "
                   "QEMU's own: %s\n", names->str);
    }
}

void emu_warn_of_others(Sidecar *sc)
{
    emu_qmp_send(sc->emu, "query-block", NULL, NULL, 0, on_query_block, sc);
}
