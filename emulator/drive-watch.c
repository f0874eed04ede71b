/*
 * Drives that QEMU lets go; see include/emulator/drive-watch.h.
 *
 * QEMU ends its NBD connection by itself in three cases only (7.2): the medium
 * is taken out, the drive is deleted (with the device that was unplugged, by
 * drive_del), or another image has taken its place (a mirror was completed).
 * So that is where this begins:
 *
 *     goodbye on the connection ─► nobody connected? ─► query-block: is there a
 *     drive of the name, and has it a medium? ─► claim it ─► its image is closed
 *
 *     no drive             BLK_GONE: its name is free for drives of QEMU's own
 *     one with a medium    BLK_MOVED: it is QEMU's own now; said on stderr, and a
 *                          backup of "all drives" fails, for it would lack one
 *     one without          empty, as after eject
 *
 * eject and change say goodbye too, but they have claimed the drive and see to
 * it themselves: when they release it, either it has no image or somebody is
 * connected.  The same if a backup or a stream has the drive: it is asked again
 * when that is over; until then the image stays open.
 *
 * Threads: the words come on any thread and only send query-block; the rest is
 * on the main thread, but for the closing (which waits for a disk): it has a
 * thread of its own.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/drive-watch.h"

#include <string.h>

struct DriveWatch {
    Sidecar *sc;        /* borrowed */
    GPtrArray *threads; /* GThread, joined at the end; main thread */
};

typedef struct {
    DriveWatch *watch; /* only if QEMU has answered: it may be gone otherwise */
    char *device;
} Question;

typedef struct {
    BlockBackend *blk;
    NbdServer *nbd;
    BlkUse use;
} Closing;

/* Claimed; what the guest was told is written is flushed with the last
 * reference to the image. */
static gpointer close_image(gpointer opaque)
{
    Closing *c = opaque;

    if (c->use != BLK_USED) {
        nbd_server_remove(c->nbd, blk_name(c->blk));
    }
    blk_drained_begin(&c->blk, 1);
    blk_set_node(c->blk, NULL);
    blk_drained_end(&c->blk, 1);
    blk_release(c->blk);
    g_free(c);
    return NULL;
}

static void let_go(DriveWatch *watch, BlockBackend *blk, BlkUse use)
{
    Closing *c = g_new(Closing, 1);

    if (use == BLK_MOVED) {
        g_printerr("qemu-sidecar: warning: drive '%s': QEMU runs it from another "
                   "image now: backup, block_stream and migrate don't know it any "
                   "more\n", blk_name(blk));
    }
    blk_set_use(blk, use);
    *c = (Closing){ blk, watch->sc->nbd, use };
    g_ptr_array_add(watch->threads, g_thread_new("drive-close", close_image, c));
}

static BlkUse use_in_qemu(json_object *list, const char *device)
{
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *block = json_object_array_get_idx(list, i);
        json_object *name = json_object_object_get(block, "device");

        if (!g_strcmp0(json_object_get_string(name), device)) {
            return json_object_object_get(block, "inserted") ? BLK_MOVED : BLK_USED;
        }
    }
    return BLK_GONE;
}

static bool has_image(BlockBackend *blk)
{
    g_autoptr(BlockNode) node = blk_get_node(blk);

    return node;
}

/* Nobody connects by himself to an export that he has left: QEMU does it for
 * one that is put in again, by a command that has claimed the drive. */
static bool is_left(const Sidecar *sc, BlockBackend *blk)
{
    return blk_use(blk) == BLK_USED && has_image(blk) &&
           nbd_server_connections(sc->nbd, blk_name(blk)) == 0;
}

static void on_query_block(void *opaque, json_object *reply)
{
    Question *q = opaque;
    json_object *list = json_object_object_get(reply, "return");
    BlockBackend *blk;

    if (json_object_is_type(list, json_type_array)) {
        blk = blk_by_name(q->watch->sc->block, q->device);
        if (blk && is_left(q->watch->sc, blk) && blk_claim_or_hear(blk, "unplug")) {
            /* again: who had it before may have put something in */
            if (is_left(q->watch->sc, blk)) {
                let_go(q->watch, blk, use_in_qemu(list, q->device));
            } else {
                blk_release(blk);
            }
        }
    }
    g_free(q->device);
    g_free(q);
}

/* Any thread. */
static void look_at(void *opaque, const char *device)
{
    DriveWatch *watch = opaque;
    Question *q = g_new(Question, 1);

    *q = (Question){ watch, g_strdup(device) };
    emu_qmp_send(watch->sc->emu, "query-block", NULL, NULL, 0, on_query_block, q);
}

DriveWatch *drive_watch_new(Sidecar *sc)
{
    DriveWatch *watch = g_new(DriveWatch, 1);

    watch->sc = sc;
    watch->threads = g_ptr_array_new();
    block_context_set_released_fn(sc->block, look_at, watch);
    nbd_server_set_goodbye_fn(sc->nbd, look_at, watch);
    return watch;
}

void drive_watch_free(DriveWatch *watch)
{
    if (!watch) {
        return;
    }
    nbd_server_set_goodbye_fn(watch->sc->nbd, NULL, NULL);
    block_context_set_released_fn(watch->sc->block, NULL, NULL);
    for (guint i = 0; i < watch->threads->len; i++) {
        g_thread_join(g_ptr_array_index(watch->threads, i));
    }
    g_ptr_array_unref(watch->threads);
    g_free(watch);
}
