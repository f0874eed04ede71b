/*
 * The reader: bytes in, events out.  The contract is in vma/vma.h.
 *
 *     HEAD ──► HEADER ──► EXTENT ──► BLOCKS ──► (next extent) …
 *                           │  ▲        │
 *                           │  └────────┘
 *                           └── end of input ──► END
 *
 * HEAD, HEADER and EXTENT gather a known number of bytes in @acc (from HEAD we
 * learn how many HEADER needs); BLOCKS passes data on from where it was fed.
 *
 * Invariants
 *  1. Nothing is taken from an extent header whose MD5, uuid, magic and block
 *     count were not checked; the masks of its slots add up to its block count
 *     before the first event comes out of it.
 *  2. A cluster is announced once, inside its device.
 *  3. After an error every call fails with the same error.
 *
 * The header itself is taken apart in reader-header.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "reader.h"

#include <string.h>
#include "util/crc32.h"
#include "util/error.h"

/* ---- errors ----------------------------------------------------------- */

/* Prefixed by where: the header, or an extent and its place in the archive. */
static bool fail(VmaReader *r, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
static bool fail(VmaReader *r, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (r->state == VMA_READ_HEAD || r->state == VMA_READ_HEADER) {
        error_set(&r->error, "%s: header: %s", r->name, text);
    } else {
        error_set(&r->error, "%s: extent %" G_GUINT64_FORMAT " at 0x%" G_GINT64_MODIFIER
                  "x: %s", r->name, r->extent_number, r->extent_pos, text);
    }
    return false;
}

/* "device NAME: cluster N" for messages about slot @slot; free with g_free. */
static char *describe_slot(VmaReader *r, uint64_t slot)
{
    return g_strdup_printf("device %s: cluster %u",
                           r->devices[vma_slot_dev_id(slot)].info.name,
                           vma_slot_cluster(slot));
}

/* ---- extents ---------------------------------------------------------- */

static bool is_vmstate(const VmaReader *r, unsigned dev_id)
{
    return r->devices[dev_id].info.is_vmstate;
}

static bool is_digest_slot(uint64_t slot)
{
    return slot >> 32 == (uint32_t)VMA_DIGEST_TAG << 16;
}

/* The machine state comes in order; how much there is nobody knows before. */
static bool check_vmstate(VmaReader *r, uint64_t slot)
{
    VmaReaderDevice *dev = &r->devices[vma_slot_dev_id(slot)];

    if (vma_slot_cluster(slot) != dev->next_cluster) {
        return fail(r, "device %s: cluster %u where %" G_GUINT64_FORMAT
                    " must come next", dev->info.name, vma_slot_cluster(slot),
                    dev->next_cluster);
    }
    dev->next_cluster++;
    return true;
}

static bool check_mask(VmaReader *r, uint64_t slot)
{
    uint64_t size = r->devices[vma_slot_dev_id(slot)].info.size;
    uint16_t past = vma_mask_past_end(size, vma_slot_cluster(slot));

    if (vma_slot_mask(slot) & past) {
        g_autofree char *where = describe_slot(r, slot);

        return fail(r, "%s has blocks past the end of the device", where);
    }
    return true;
}

static bool check_cluster(VmaReader *r, uint64_t slot)
{
    VmaReaderDevice *dev = &r->devices[vma_slot_dev_id(slot)];
    uint32_t cluster = vma_slot_cluster(slot);

    if (!dev->info.name) {
        return fail(r, "there is no device with dev_id %u", vma_slot_dev_id(slot));
    }
    if (dev->info.is_vmstate) {
        return check_vmstate(r, slot);
    }
    if (cluster >= vma_cluster_count(dev->info.size)) {
        return fail(r, "device %s: cluster %u is past the end of the device",
                    dev->info.name, cluster);
    }
    switch (vma_clusterset_add(dev->seen, cluster)) {
    case VMA_CLUSTER_ADDED:
        return check_mask(r, slot);
    case VMA_CLUSTER_DUPLICATE:
        return fail(r, "device %s: cluster %u appears twice", dev->info.name,
                    cluster);
    default:
        return fail(r, "device %s: clusters are scattered too widely",
                    dev->info.name);
    }
}

/* Compare the digests in r->slots with the extent that came before. */
static bool check_digests(VmaReader *r)
{
    if (!r->have_crcs) {
        return fail(r, "checksums that belong to no data");
    }
    r->have_crcs = false;
    for (unsigned i = 0; i < VMA_SLOTS_PER_EXTENT; i++) {
        uint64_t slot = r->data_slots[i];

        if (!is_digest_slot(r->slots[i]) || !vma_slot_dev_id(slot)) {
            continue;
        }
        if ((uint32_t)r->slots[i] != r->crcs[i]) {
            g_autofree char *where = describe_slot(r, slot);

            r->extent_number--;
            r->extent_pos = r->data_extent_pos;
            return fail(r, "%s: data does not match its checksum", where);
        }
        r->stats.digest_bytes += (uint64_t)VMA_BLOCK_SIZE *
                                 __builtin_popcount(vma_slot_mask(slot));
    }
    return true;
}

static bool check_extent_header(VmaReader *r, const VmaExtentHeader *h)
{
    uint8_t md5[16];

    if (GUINT32_FROM_BE(h->magic) != VMA_EXTENT_MAGIC) {
        return fail(r, "not an extent (wrong magic)");
    }
    vma_md5(h, sizeof(*h), offsetof(VmaExtentHeader, md5sum), md5);
    if (memcmp(md5, h->md5sum, sizeof(md5)) != 0) {
        return fail(r, "MD5 of its header does not match");
    }
    if (memcmp(h->uuid, r->uuid, sizeof(h->uuid)) != 0) {
        return fail(r, "belongs to another archive (uuid differs)");
    }
    if (h->reserved1) {
        return fail(r, "reserved field is not zero");
    }
    if (GUINT16_FROM_BE(h->block_count) > VMA_MAX_BLOCKS_PER_EXTENT) {
        return fail(r, "%u blocks, but %d are the most an extent can have",
                    GUINT16_FROM_BE(h->block_count), VMA_MAX_BLOCKS_PER_EXTENT);
    }
    return true;
}

/* r->acc holds a whole extent header. */
static bool parse_extent(VmaReader *r)
{
    VmaExtentHeader h;
    unsigned blocks = 0, used = 0, tagged = 0;

    memcpy(&h, r->acc->data, sizeof(h));
    if (!check_extent_header(r, &h)) {
        return false;
    }
    for (unsigned i = 0; i < VMA_SLOTS_PER_EXTENT; i++) {
        uint64_t slot = GUINT64_FROM_BE(h.blockinfo[i]);

        r->slots[i] = slot;
        if (vma_slot_dev_id(slot)) {
            used++;
            blocks += __builtin_popcount(vma_slot_mask(slot));
        }
        tagged += is_digest_slot(slot);
    }
    if (blocks != GUINT16_FROM_BE(h.block_count)) {
        return fail(r, "has %u blocks, but its slots ask for %u",
                    GUINT16_FROM_BE(h.block_count), blocks);
    }
    if (!used && tagged) {
        if (!check_digests(r)) {
            return false;
        }
        r->extent_number++;
        return true;
    }
    for (unsigned i = 0; i < VMA_SLOTS_PER_EXTENT; i++) {
        if (vma_slot_dev_id(r->slots[i]) && !check_cluster(r, r->slots[i])) {
            return false;
        }
    }
    r->stats.extents++;
    r->stats.clusters += used;
    r->stats.data_bytes += (uint64_t)blocks * VMA_BLOCK_SIZE;
    memcpy(r->data_slots, r->slots, sizeof(r->slots));
    memset(r->crcs, 0, sizeof(r->crcs));
    r->have_crcs = true;
    r->data_extent_pos = r->extent_pos;
    r->slot = r->block = r->block_pos = 0;
    r->state = VMA_READ_BLOCKS;
    return true;
}

/* ---- blocks ----------------------------------------------------------- */

/* How many of the cluster's bytes from @offset on lie in the device. */
static size_t clip(const VmaReader *r, unsigned dev_id, uint64_t offset,
                   size_t len)
{
    uint64_t size = r->devices[dev_id].info.size;

    if (is_vmstate(r, dev_id)) {
        return len;
    }
    return offset >= size ? 0 : MIN(len, size - offset);
}

/* A run of blocks from r->block on that are all stored, or all not. */
static unsigned run_length(uint16_t mask, unsigned block)
{
    bool stored = mask >> block & 1;
    unsigned n = 1;

    while (block + n < VMA_BLOCKS_PER_CLUSTER && (mask >> (block + n) & 1) == stored) {
        n++;
    }
    return n;
}

/* Data of the run that starts at r->block, of which r->block_pos bytes are
 * gone: as much as there is.  False: there is none. */
static bool next_data(VmaReader *r, VmaEvent *ev, uint64_t slot, size_t run)
{
    size_t n = MIN(run - r->block_pos, r->in_len);

    if (n == 0) {
        return false;
    }
    r->crcs[r->slot] = crc32_update(r->crcs[r->slot], r->in, n);
    ev->type = VMA_EVENT_DATA;
    ev->offset += r->block_pos;
    ev->data = r->in;
    ev->len = clip(r, ev->dev_id, ev->offset, n);
    r->in += n;
    r->in_len -= n;
    r->stats.position += n;
    r->block_pos += n;
    if (r->block_pos == run) {
        r->block += run / VMA_BLOCK_SIZE;
        r->block_pos = 0;
    }
    return true;
}

/* The next event of the current extent; false: it needs more bytes, or is
 * over (state EXTENT). */
static bool next_block_event(VmaReader *r, VmaEvent *ev)
{
    while (r->slot < VMA_SLOTS_PER_EXTENT) {
        uint64_t slot = r->slots[r->slot];
        size_t run;

        if (!vma_slot_dev_id(slot) || r->block == VMA_BLOCKS_PER_CLUSTER) {
            r->slot++;
            r->block = 0;
            continue;
        }
        ev->dev_id = vma_slot_dev_id(slot);
        ev->offset = (uint64_t)vma_slot_cluster(slot) * VMA_CLUSTER_SIZE +
                     r->block * VMA_BLOCK_SIZE;
        run = (size_t)run_length(vma_slot_mask(slot), r->block) * VMA_BLOCK_SIZE;
        if (vma_slot_mask(slot) >> r->block & 1) {
            if (!next_data(r, ev, slot, run)) {
                return false;
            }
        } else {
            ev->type = VMA_EVENT_ZERO;
            ev->data = NULL;
            ev->len = clip(r, ev->dev_id, ev->offset, run);
            r->block += run / VMA_BLOCK_SIZE;
        }
        if (ev->len) {
            return true;
        }
    }
    r->state = VMA_READ_EXTENT;
    r->extent_number++;
    return false;
}

/* ---- gathering headers, and the end ------------------------------------ */

/* Until r->acc holds @want bytes; false: more must be fed. */
static bool gather(VmaReader *r, size_t want)
{
    size_t n = MIN(want - r->acc->len, r->in_len);

    g_byte_array_append(r->acc, r->in, n);
    r->in += n;
    r->in_len -= n;
    r->stats.position += n;
    return r->acc->len == want;
}

static bool check_complete(VmaReader *r)
{
    for (unsigned i = 1; i <= VMA_MAX_DEVICES; i++) {
        VmaReaderDevice *dev = &r->devices[i];
        uint64_t end, missing;

        if (!dev->info.name || dev->info.is_vmstate) {
            continue;
        }
        end = vma_cluster_count(dev->info.size);
        missing = vma_clusterset_first_missing(dev->seen, end);
        if (missing < end) {
            error_set(&r->error,
                      "%s: archive ends at 0x%" G_GINT64_MODIFIER "x, but device %s "
                      "lacks %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                      " clusters, the first is %" G_GUINT64_FORMAT, r->name,
                      r->stats.position, dev->info.name,
                      end - vma_clusterset_count(dev->seen), end, missing);
            return false;
        }
    }
    return true;
}

static bool end_of_input(VmaReader *r, VmaEvent *ev)
{
    if (r->state == VMA_READ_BLOCKS) {
        return fail(r, "archive ends at 0x%" G_GINT64_MODIFIER "x, within the data",
                    r->stats.position);
    }
    if (r->state != VMA_READ_EXTENT || r->acc->len) {
        return fail(r, "archive ends after %u of %" G_GSIZE_FORMAT " bytes",
                    r->acc->len, r->want);
    }
    if (!r->stats.extents) {
        return fail(r, "archive ends where the first extent must be");
    }
    if (!check_complete(r)) {
        return false;
    }
    ev->type = VMA_EVENT_END;
    return true;
}

static bool more(VmaReader *r, VmaEvent *ev)
{
    if (r->at_end) {
        return end_of_input(r, ev);
    }
    ev->type = VMA_EVENT_MORE;
    return true;
}

/* ---- the state machine ------------------------------------------------- */

static bool step_head(VmaReader *r, GError **errp)
{
    if (!vma_reader_check_head(r->acc->data, r->acc->len, &r->want, errp)) {
        return false;
    }
    r->state = VMA_READ_HEADER;
    return true;
}

static bool step_header(VmaReader *r, VmaEvent *ev, GError **errp)
{
    r->header = g_byte_array_free(g_steal_pointer(&r->acc), FALSE);
    r->acc = g_byte_array_sized_new(VMA_EXTENT_HEADER_SIZE);
    if (!vma_reader_parse_header(r, errp)) {
        return false;
    }
    r->state = VMA_READ_EXTENT;
    r->want = VMA_EXTENT_HEADER_SIZE;
    ev->type = VMA_EVENT_HEADER;
    return true;
}

static bool step_extent(VmaReader *r)
{
    bool ok = parse_extent(r);

    g_byte_array_set_size(r->acc, 0);
    return ok;
}

static bool next(VmaReader *r, VmaEvent *ev)
{
    g_autoptr(GError) why = NULL;

    for (;;) {
        if (r->state == VMA_READ_BLOCKS) {
            if (next_block_event(r, ev)) {
                return true;
            }
            if (r->state == VMA_READ_BLOCKS) {
                return more(r, ev);
            }
        }
        if (r->acc->len == 0) {
            r->extent_pos = r->stats.position; /* of the extent that begins */
        }
        if (!gather(r, r->want)) {
            return more(r, ev);
        }
        switch (r->state) {
        case VMA_READ_HEAD:
            if (!step_head(r, &why)) {
                return fail(r, "%s", why->message);
            }
            break;
        case VMA_READ_HEADER:
            return step_header(r, ev, &why) || fail(r, "%s", why->message);
        default:
            if (!step_extent(r)) {
                return false;
            }
        }
    }
}

bool vma_reader_next(VmaReader *r, VmaEvent *ev, GError **errp)
{
    memset(ev, 0, sizeof(*ev));
    if (r->error || !next(r, ev)) {
        g_propagate_error(errp, g_error_copy(r->error));
        return false;
    }
    return true;
}

void vma_reader_feed(VmaReader *r, const void *buf, size_t len)
{
    r->in = buf;
    r->in_len = len;
    r->at_end = len == 0;
}

VmaReader *vma_reader_new(const char *name)
{
    VmaReader *r = g_new0(VmaReader, 1);

    r->name = g_strdup(name);
    r->acc = g_byte_array_new();
    r->want = VMA_HEAD_SIZE;
    r->budget = VMA_CLUSTERSET_BUDGET;
    r->extent_number = 1;
    r->configs = g_array_new(FALSE, FALSE, sizeof(VmaConfigInfo));
    return r;
}

void vma_reader_free(VmaReader *r)
{
    if (!r) {
        return;
    }
    for (unsigned i = 1; i <= VMA_MAX_DEVICES; i++) {
        vma_clusterset_free(r->devices[i].seen);
    }
    g_array_unref(r->configs);
    g_byte_array_unref(r->acc);
    g_clear_error(&r->error);
    g_free(r->header);
    g_free(r->name);
    g_free(r);
}

/* ---- what the header said ---------------------------------------------- */

const uint8_t *vma_reader_uuid(const VmaReader *r)
{
    return r->uuid;
}

int64_t vma_reader_ctime(const VmaReader *r)
{
    return r->ctime;
}

const VmaDeviceInfo *vma_reader_device(const VmaReader *r, unsigned dev_id)
{
    return dev_id <= VMA_MAX_DEVICES && r->devices[dev_id].info.name
               ? &r->devices[dev_id].info
               : NULL;
}

size_t vma_reader_n_configs(const VmaReader *r)
{
    return r->configs->len;
}

const VmaConfigInfo *vma_reader_config(const VmaReader *r, size_t n)
{
    return &g_array_index(r->configs, VmaConfigInfo, n);
}

void vma_reader_stats(const VmaReader *r, VmaReaderStats *st)
{
    *st = r->stats;
}
