/*
 * The writer: clusters in, extents out.
 *
 *     put_cluster ──► extent being filled ──► queue ──► writer's thread ──► target
 *                          ▲                                 │
 *                          └────────── free extents ◄────────┘
 *
 * The caller finds zeros, copies and computes checksums; the thread only
 * writes, so that both go on at the same time.  N_EXTENTS buffers go round.
 * With vma_writer_buffer the caller reads straight into the extent and nothing
 * is copied at all.
 *
 * An error of the thread is reported by the next call that needs a buffer, or
 * by finish.  After the first error every call fails.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "clusterset.h"
#include "format.h"
#include "util/crc32.h"
#include "util/error.h"
#include "util/zero.h"

#define N_EXTENTS 3

/*
 * An extent in memory, as it will be written, and room for the digest extent
 * right behind whatever blocks there will be:
 *
 *     │ unused │ header 512 │ blocks … │ digest header 512 │
 *     0        3584         4096                            EXTENT_BUFFER
 */
#define EXTENT_DATA VMA_BLOCK_SIZE
#define EXTENT_HEADER (EXTENT_DATA - VMA_EXTENT_HEADER_SIZE)
#define EXTENT_BUFFER                                                \
    (EXTENT_DATA + VMA_MAX_BLOCKS_PER_EXTENT * VMA_BLOCK_SIZE +     \
     VMA_EXTENT_HEADER_SIZE)

typedef struct {
    uint8_t *buf;
    size_t blocks;
    unsigned used; /* slots */
    uint64_t slots[VMA_SLOTS_PER_EXTENT];
    uint64_t digests[VMA_SLOTS_PER_EXTENT];
    size_t start, len; /* what to write, once complete */
} Extent;

typedef struct {
    char *name;
    uint64_t size;        /* as the caller gave it */
    uint64_t stored_size; /* rounded up to a sector */
    VmaClusterSet *seen;
    uint32_t devname_ptr;
} Device;

struct VmaWriter {
    /* The caller's thread. */
    uint8_t uuid[16];
    int64_t ctime;
    bool digest;
    bool header_done;
    bool finished;
    Device devices[VMA_MAX_DEVICES + 1]; /* [0] is not used */
    unsigned n_devices;
    GByteArray *blobs;
    GHashTable *config_names_seen;
    uint32_t config_names[VMA_MAX_CONFIGS];
    uint32_t config_data[VMA_MAX_CONFIGS];
    unsigned n_configs;
    size_t budget;
    Extent extents[N_EXTENTS];
    Extent *cur;

    /* Set before the thread starts. */
    VmaTarget *target;
    GThread *thread;
    uint8_t *header;
    size_t header_len;

    /* Under lock. */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    GQueue filled, idle; /* of Extent */
    bool stop;           /* no more will be queued */
    GError *error;       /* the first */
    uint64_t bytes;
};

/* ---- the writer's thread ---------------------------------------------- */

static bool write_counted(VmaWriter *w, const void *buf, size_t len)
{
    GError *error = NULL;
    bool ok = vma_target_write(w->target, buf, len, &error);

    pthread_mutex_lock(&w->lock);
    if (ok) {
        w->bytes += len;
    } else if (w->error) {
        g_error_free(error);
    } else {
        w->error = error;
    }
    pthread_mutex_unlock(&w->lock);
    return ok;
}

/* The next extent to write, or NULL at the end. */
static Extent *take_filled(VmaWriter *w)
{
    Extent *e;

    pthread_mutex_lock(&w->lock);
    while (!(e = g_queue_pop_head(&w->filled)) && !w->stop) {
        pthread_cond_wait(&w->cond, &w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return e;
}

static void give_idle(VmaWriter *w, Extent *e)
{
    pthread_mutex_lock(&w->lock);
    g_queue_push_tail(&w->idle, e);
    pthread_cond_broadcast(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static void *writer_thread(void *opaque)
{
    VmaWriter *w = opaque;
    bool ok = write_counted(w, w->header, w->header_len);
    Extent *e;

    while ((e = take_filled(w))) {
        ok = ok && write_counted(w, e->buf + e->start, e->len);
        give_idle(w, e);
    }
    return NULL;
}

/* ---- the header ------------------------------------------------------- */

/* Where the blob begins in the buffer.  It starts with a byte that nothing
 * points to, because 0 means `none'. */
static uint32_t add_blob(VmaWriter *w, const void *data, size_t len)
{
    uint32_t pos = w->blobs->len;
    const uint8_t le[2] = { len & 0xff, len >> 8 };

    g_byte_array_append(w->blobs, le, 2);
    if (len) {
        g_byte_array_append(w->blobs, data, len);
    }
    return pos;
}

static void fill_device(VmaDeviceInfoHeader *dih, const Device *dev)
{
    dih->devname_ptr = GUINT32_TO_BE(dev->devname_ptr);
    dih->size = GUINT64_TO_BE(dev->stored_size);
}

static void make_header(VmaWriter *w)
{
    size_t len = sizeof(VmaHeader) + (w->blobs->len + 511) / 512 * 512;
    VmaHeader *h = g_malloc0(len);

    h->magic = GUINT32_TO_BE(VMA_MAGIC);
    h->version = GUINT32_TO_BE(VMA_VERSION);
    memcpy(h->uuid, w->uuid, sizeof(h->uuid));
    h->ctime = GUINT64_TO_BE((uint64_t)w->ctime);
    h->blob_buffer_offset = GUINT32_TO_BE((uint32_t)sizeof(VmaHeader));
    h->blob_buffer_size = GUINT32_TO_BE(w->blobs->len);
    h->header_size = GUINT32_TO_BE((uint32_t)len);
    for (unsigned i = 0; i < w->n_configs; i++) {
        h->config_names[i] = GUINT32_TO_BE(w->config_names[i]);
        h->config_data[i] = GUINT32_TO_BE(w->config_data[i]);
    }
    for (unsigned i = 1; i <= w->n_devices; i++) {
        fill_device(&h->dev_info[i], &w->devices[i]);
    }
    memcpy((uint8_t *)h + sizeof(VmaHeader), w->blobs->data, w->blobs->len);
    vma_md5(h, len, offsetof(VmaHeader, md5sum), h->md5sum);
    w->header = (uint8_t *)h;
    w->header_len = len;
}

/* From here on the set of devices and configurations is fixed. */
static void start(VmaWriter *w)
{
    w->header_done = true;
    make_header(w);
    w->thread = g_thread_new("vma-writer", writer_thread, w);
}

/* ---- extents ---------------------------------------------------------- */

static void fill_extent_header(VmaWriter *w, uint8_t *buf, size_t blocks,
                               const uint64_t *slots)
{
    VmaExtentHeader h = {
        .magic = GUINT32_TO_BE(VMA_EXTENT_MAGIC),
        .block_count = GUINT16_TO_BE((uint16_t)blocks),
    };

    memcpy(h.uuid, w->uuid, sizeof(h.uuid));
    for (unsigned i = 0; i < VMA_SLOTS_PER_EXTENT; i++) {
        h.blockinfo[i] = GUINT64_TO_BE(slots[i]);
    }
    vma_md5(&h, sizeof(h), offsetof(VmaExtentHeader, md5sum), h.md5sum);
    memcpy(buf, &h, sizeof(h));
}

/* Hand the current extent to the thread.  One without blocks needs no digest:
 * the MD5 of its header covers all there is. */
static void queue_extent(VmaWriter *w)
{
    Extent *e = g_steal_pointer(&w->cur);

    fill_extent_header(w, e->buf + EXTENT_HEADER, e->blocks, e->slots);
    e->start = EXTENT_HEADER;
    e->len = VMA_EXTENT_HEADER_SIZE + e->blocks * VMA_BLOCK_SIZE;
    if (w->digest && e->blocks) {
        fill_extent_header(w, e->buf + e->start + e->len, 0, e->digests);
        e->len += VMA_EXTENT_HEADER_SIZE;
    }
    pthread_mutex_lock(&w->lock);
    g_queue_push_tail(&w->filled, e);
    pthread_cond_broadcast(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

/* Make w->cur an empty extent, unless there is one.  Waits for the thread. */
static bool get_extent(VmaWriter *w, GError **errp)
{
    Extent *e = NULL;

    if (w->cur) {
        return true;
    }
    pthread_mutex_lock(&w->lock);
    while (!w->error && !(e = g_queue_pop_head(&w->idle))) {
        pthread_cond_wait(&w->cond, &w->lock);
    }
    if (w->error) {
        g_propagate_error(errp, g_error_copy(w->error));
    }
    pthread_mutex_unlock(&w->lock);
    if (!e) {
        return false;
    }
    if (!e->buf) {
        e->buf = aligned_alloc(VMA_BLOCK_SIZE,
                               (EXTENT_BUFFER + VMA_BLOCK_SIZE - 1) /
                                   VMA_BLOCK_SIZE * VMA_BLOCK_SIZE);
        if (!e->buf) {
            g_error("out of memory"); /* as g_malloc does */
        }
    }
    memset(e->slots, 0, sizeof(e->slots));
    memset(e->digests, 0, sizeof(e->digests));
    e->blocks = e->used = 0;
    w->cur = e;
    return true;
}

/* ---- clusters --------------------------------------------------------- */

/* Which blocks of @buf are not zero; @len bytes of it count. */
static uint16_t find_blocks(const uint8_t *buf, size_t len)
{
    uint16_t mask = 0;

    for (unsigned i = 0; i * VMA_BLOCK_SIZE < len; i++) {
        size_t n = MIN(len - i * VMA_BLOCK_SIZE, VMA_BLOCK_SIZE);

        if (!buffer_is_zero(buf + i * VMA_BLOCK_SIZE, n)) {
            mask |= 1u << i;
        }
    }
    return mask;
}

/* Move the blocks of @mask together to @dst, which may be where they are. */
static size_t store_blocks(uint8_t *dst, const uint8_t *src, uint16_t mask)
{
    uint8_t *out = dst;

    while (mask) {
        unsigned first = __builtin_ctz(mask);
        unsigned count = __builtin_ctz(~((unsigned)mask >> first));
        size_t bytes = count * VMA_BLOCK_SIZE;

        if (out != src + first * VMA_BLOCK_SIZE) {
            memmove(out, src + first * VMA_BLOCK_SIZE, bytes);
        }
        out += bytes;
        mask &= ~(((1u << count) - 1) << first);
    }
    return out - dst;
}

static uint8_t *extent_end(const Extent *e)
{
    return e->buf + EXTENT_DATA + e->blocks * VMA_BLOCK_SIZE;
}

/* @len bytes of @buf belong to the device; a last block beyond them is filled
 * up with zeros.  Returns how many of the @len bytes were stored. */
static size_t put_data(Extent *e, const uint8_t *buf, size_t len, uint64_t *slot,
                       uint64_t *digest)
{
    uint16_t mask = buf ? find_blocks(buf, len) : 0;
    uint8_t *dst = extent_end(e);
    size_t stored = store_blocks(dst, buf, mask);
    unsigned last = len / VMA_BLOCK_SIZE, tail = len % VMA_BLOCK_SIZE;

    if (tail && (mask & (1u << last))) {
        memset(dst + stored - VMA_BLOCK_SIZE + tail, 0, VMA_BLOCK_SIZE - tail);
    }
    e->blocks += stored / VMA_BLOCK_SIZE;
    *slot |= (uint64_t)mask << 48;
    *digest = vma_slot(VMA_DIGEST_TAG, 0, crc32_update(0, dst, stored));
    if (tail && (mask & (1u << last))) {
        stored -= VMA_BLOCK_SIZE - tail;
    }
    return stored;
}

static bool check_cluster(VmaWriter *w, unsigned dev_id, uint64_t cluster,
                          GError **errp)
{
    Device *dev;

    if (w->finished || dev_id < 1 || dev_id > w->n_devices) {
        error_set(errp, "%s: no device with id %u can be written now",
                  vma_target_name(w->target), dev_id);
        return false;
    }
    dev = &w->devices[dev_id];
    if (cluster >= vma_cluster_count(dev->size)) {
        error_set(errp,
                  "%s: device %s has no cluster %" G_GUINT64_FORMAT,
                  vma_target_name(w->target), dev->name, cluster);
        return false;
    }
    switch (vma_clusterset_add(dev->seen, cluster)) {
    case VMA_CLUSTER_ADDED:
        return true;
    case VMA_CLUSTER_DUPLICATE:
        error_set(errp,
                  "%s: device %s: cluster %" G_GUINT64_FORMAT
                  " was written before",
                  vma_target_name(w->target), dev->name, cluster);
        return false;
    default:
        error_set(errp, "%s: device %s: too many scattered clusters",
                  vma_target_name(w->target), dev->name);
        return false;
    }
}

void *vma_writer_buffer(VmaWriter *w, GError **errp)
{
    if (!w->header_done) {
        start(w);
    }
    return get_extent(w, errp) ? extent_end(w->cur) : NULL;
}

int64_t vma_writer_put_cluster(VmaWriter *w, unsigned dev_id, uint64_t cluster,
                               const void *buf, GError **errp)
{
    uint64_t len;
    unsigned slot;
    size_t stored;
    Extent *e;

    if (!check_cluster(w, dev_id, cluster, errp) || !vma_writer_buffer(w, errp)) {
        return -1;
    }
    len = MIN(w->devices[dev_id].size - cluster * VMA_CLUSTER_SIZE,
              VMA_CLUSTER_SIZE);
    e = w->cur;
    slot = e->used;
    e->slots[slot] = vma_slot(0, dev_id, cluster);
    stored = put_data(e, buf, len, &e->slots[slot], &e->digests[slot]);
    if (++e->used == VMA_SLOTS_PER_EXTENT) {
        queue_extent(w);
    }
    return len - stored;
}

/* ---- set-up and end ---------------------------------------------------- */

VmaWriter *vma_writer_new(VmaTarget *target, const uint8_t uuid[16],
                          int64_t ctime, bool digest, GError **errp)
{
    VmaWriter *w = g_new0(VmaWriter, 1);

    w->target = target;
    memcpy(w->uuid, uuid, sizeof(w->uuid));
    w->ctime = ctime;
    w->digest = digest;
    w->blobs = g_byte_array_new();
    g_byte_array_append(w->blobs, (const uint8_t *)"", 1);
    w->config_names_seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    w->budget = VMA_CLUSTERSET_BUDGET;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->cond, NULL);
    g_queue_init(&w->filled);
    g_queue_init(&w->idle);
    for (unsigned i = 0; i < N_EXTENTS; i++) {
        g_queue_push_tail(&w->idle, &w->extents[i]);
    }
    return w;
}

static bool check_name(VmaWriter *w, const char *what, const char *name,
                       GError **errp)
{
    const char *problem = vma_name_problem(name, strlen(name));

    if (w->header_done) {
        error_set(errp, "%s: it is too late to add %s %s",
                  vma_target_name(w->target), what, name);
        return false;
    }
    if (problem) {
        error_set(errp, "%s: the name of %s '%s' %s", vma_target_name(w->target),
                  what, name, problem);
    }
    return !problem;
}

bool vma_writer_add_config(VmaWriter *w, const char *name, const void *data,
                           size_t len, GError **errp)
{
    const char *archive = vma_target_name(w->target);

    if (!check_name(w, "configuration", name, errp)) {
        return false;
    }
    if (len > VMA_MAX_BLOB) {
        error_set(errp, "%s: configuration %s is larger than %d bytes", archive,
                  name, VMA_MAX_BLOB);
        return false;
    }
    if (w->n_configs == VMA_MAX_CONFIGS) {
        error_set(errp, "%s: more than %d configurations", archive,
                  VMA_MAX_CONFIGS);
        return false;
    }
    if (!g_hash_table_add(w->config_names_seen, g_strdup(name))) {
        error_set(errp, "%s: two configurations named %s", archive, name);
        return false;
    }
    w->config_names[w->n_configs] = add_blob(w, name, strlen(name) + 1);
    w->config_data[w->n_configs] = add_blob(w, data, len);
    w->n_configs++;
    return true;
}

unsigned vma_writer_add_device(VmaWriter *w, const char *name, uint64_t size,
                               GError **errp)
{
    const char *archive = vma_target_name(w->target);
    Device *dev;

    if (!check_name(w, "device", name, errp)) {
        return 0;
    }
    if (size == 0 || size > VMA_MAX_DEVICE_SIZE) {
        error_set(errp, "%s: device %s: no archive can hold %" G_GUINT64_FORMAT
                  " bytes", archive, name, size);
        return 0;
    }
    if (w->n_devices == VMA_MAX_DEVICES) {
        error_set(errp, "%s: more than %d devices", archive, VMA_MAX_DEVICES);
        return 0;
    }
    for (unsigned i = 1; i <= w->n_devices; i++) {
        if (strcmp(w->devices[i].name, name) == 0) {
            error_set(errp, "%s: two devices named %s", archive, name);
            return 0;
        }
    }
    dev = &w->devices[++w->n_devices];
    dev->name = g_strdup(name);
    dev->size = size;
    dev->stored_size = (size + VMA_SECTOR_SIZE - 1) / VMA_SECTOR_SIZE *
                       VMA_SECTOR_SIZE;
    dev->seen = vma_clusterset_new(&w->budget);
    dev->devname_ptr = add_blob(w, name, strlen(name) + 1);
    return w->n_devices;
}

static bool all_clusters_put(VmaWriter *w, GError **errp)
{
    for (unsigned i = 1; i <= w->n_devices; i++) {
        const Device *dev = &w->devices[i];
        uint64_t end = vma_cluster_count(dev->size);
        uint64_t missing = vma_clusterset_first_missing(dev->seen, end);

        if (missing < end) {
            error_set(errp,
                      "%s: device %s: cluster %" G_GUINT64_FORMAT
                      " was never written",
                      vma_target_name(w->target), dev->name, missing);
            return false;
        }
    }
    return true;
}

static void stop_thread(VmaWriter *w)
{
    if (w->thread) {
        pthread_mutex_lock(&w->lock);
        w->stop = true;
        pthread_cond_broadcast(&w->cond);
        pthread_mutex_unlock(&w->lock);
        g_thread_join(g_steal_pointer(&w->thread));
    }
}

bool vma_writer_finish(VmaWriter *w, GError **errp)
{
    if (w->finished) {
        error_set(errp, "%s: finished before", vma_target_name(w->target));
        return false;
    }
    w->finished = true;
    if (!all_clusters_put(w, errp)) {
        return false;
    }
    /* An archive of configurations alone has one empty extent: old readers
     * take a header with nothing behind it for a truncated file. */
    if (!w->header_done && !vma_writer_buffer(w, errp)) {
        return false;
    }
    if (w->cur) {
        queue_extent(w);
    }
    stop_thread(w);
    if (w->error) {
        g_propagate_error(errp, g_error_copy(w->error));
        return false;
    }
    return true;
}

uint64_t vma_writer_bytes(const VmaWriter *w)
{
    VmaWriter *unlocked = (VmaWriter *)w;
    uint64_t bytes;

    pthread_mutex_lock(&unlocked->lock);
    bytes = w->bytes;
    pthread_mutex_unlock(&unlocked->lock);
    return bytes;
}

void vma_writer_free(VmaWriter *w)
{
    if (!w) {
        return;
    }
    /* What is still queued would be written for nothing, and might wait for
     * ever: drop it. */
    if (w->thread) {
        Extent *e;

        pthread_mutex_lock(&w->lock);
        while ((e = g_queue_pop_head(&w->filled))) {
            g_queue_push_tail(&w->idle, e);
        }
        pthread_mutex_unlock(&w->lock);
        vma_target_cancel(w->target);
    }
    stop_thread(w);
    for (unsigned i = 1; i <= w->n_devices; i++) {
        g_free(w->devices[i].name);
        vma_clusterset_free(w->devices[i].seen);
    }
    for (unsigned i = 0; i < N_EXTENTS; i++) {
        free(w->extents[i].buf);
    }
    g_queue_clear(&w->filled);
    g_queue_clear(&w->idle);
    g_byte_array_unref(w->blobs);
    g_hash_table_destroy(w->config_names_seen);
    g_clear_error(&w->error);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->cond);
    g_free(w->header);
    g_free(w);
}
