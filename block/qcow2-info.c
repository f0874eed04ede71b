/*
 * What a qcow2 image lists: internal snapshots and persistent bitmaps, for the
 * monitors.  Read once, when the image has been opened, because neither list
 * changes while it is ours, and whoever asks must not wait for a disk.
 *
 * What can't be read, or makes no sense, or would take more memory than a list is
 * worth, is not listed: nothing else depends on it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <string.h>

#define SNAPSHOT_BYTES 40
#define MAX_EXTRA 1024            /* of one snapshot; QEMU's limit */
#define MAX_LIST_BYTES (4 << 20)  /* of names and ids together */

static void snapshot_free(void *opaque)
{
    BdrvSnapshotInfo *sn = opaque;

    g_free(sn->id);
    g_free(sn->name);
    g_free(sn);
}

static void bitmap_free(void *opaque)
{
    BdrvBitmapInfo *bm = opaque;

    g_free(bm->name);
    g_free(bm);
}

/* Names come from the image, and go to clients that want UTF-8. */
static char *take_string(const uint8_t *p, size_t len)
{
    return g_utf8_make_valid((const char *)p, len);
}

/* @head is the fixed part, @rest what follows: extra data, id, name. */
static BdrvSnapshotInfo *decode_snapshot(const uint8_t *head, const uint8_t *rest)
{
    BdrvSnapshotInfo *sn = g_new0(BdrvSnapshotInfo, 1);
    uint32_t id_len = qcow2_get_be(head + 12, 2), extra = qcow2_get_be(head + 36, 4);

    sn->date_sec = qcow2_get_be(head + 16, 4);
    sn->date_nsec = qcow2_get_be(head + 20, 4);
    sn->vm_clock_nsec = qcow2_get_be(head + 24, 8);
    sn->vm_state_size = extra >= 8 ? qcow2_get_be(rest, 8) : qcow2_get_be(head + 32, 4);
    sn->icount = extra >= 24 ? qcow2_get_be(rest + 16, 8) : UINT64_MAX;
    sn->id = take_string(rest + extra, id_len);
    sn->name = take_string(rest + extra + id_len, qcow2_get_be(head + 14, 2));
    return sn;
}

static GPtrArray *read_snapshots(BlockNode *bs)
{
    Qcow2State *s = bs->opaque;
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(snapshot_free);
    uint64_t pos = s->header.snapshots_offset, budget = MAX_LIST_BYTES;

    for (uint32_t i = 0; i < s->header.nb_snapshots; i++) {
        uint8_t head[SNAPSHOT_BYTES], rest[MAX_EXTRA + 2 * UINT16_MAX];
        uint32_t extra, len;

        if (qcow2_file_pread(bs, pos, sizeof(head), head) < 0) {
            return NULL;
        }
        extra = qcow2_get_be(head + 36, 4);
        len = extra + qcow2_get_be(head + 12, 2) + qcow2_get_be(head + 14, 2);
        if (extra > MAX_EXTRA || len + sizeof(BdrvSnapshotInfo) > budget ||
            qcow2_file_pread(bs, pos + sizeof(head), len, rest) < 0) {
            return NULL;
        }
        budget -= len + sizeof(BdrvSnapshotInfo);
        g_ptr_array_add(list, decode_snapshot(head, rest));
        pos = (pos + sizeof(head) + len + 7) & ~UINT64_C(7);
    }
    return list->len ? g_steal_pointer(&list) : NULL;
}

typedef struct {
    GPtrArray *list;
    uint64_t budget;
} BitmapList;

static bool add_bitmap(void *opaque, const char *name, size_t len, unsigned flags,
                       unsigned granularity_bits)
{
    BitmapList *l = opaque;
    BdrvBitmapInfo *bm;

    if (len + sizeof(*bm) > l->budget || granularity_bits > 31) {
        return false;
    }
    l->budget -= len + sizeof(*bm);
    bm = g_new0(BdrvBitmapInfo, 1);
    bm->name = take_string((const uint8_t *)name, len);
    bm->granularity = UINT64_C(1) << granularity_bits;
    bm->in_use = flags & QCOW2_BITMAP_IN_USE;
    bm->automatic = flags & QCOW2_BITMAP_AUTO;
    g_ptr_array_add(l->list, bm);
    return true;
}

void qcow2_info_load(BlockNode *bs)
{
    Qcow2State *s = bs->opaque;
    BitmapList l = { g_ptr_array_new_with_free_func(bitmap_free), MAX_LIST_BYTES };

    s->snapshots = read_snapshots(bs);
    if (qcow2_bitmaps_list(bs, add_bitmap, &l) && l.list->len) {
        s->bitmaps = l.list;
    } else {
        g_ptr_array_unref(l.list);
    }
}

void qcow2_info_free(Qcow2State *s)
{
    g_clear_pointer(&s->snapshots, g_ptr_array_unref);
    g_clear_pointer(&s->bitmaps, g_ptr_array_unref);
}
