/*
 * The RAM loader: records of a `ram' section into guest memory.
 *
 * What must hold before anything is written: the block is known, the offset is
 * a page inside it, and for an XBZRLE page, that the page came before and that
 * the encoding is well formed for a page of this length.
 *
 * Blocks that QEMU keeps to itself get a lazily touched mapping of the loader's
 * own instead of the shared one; what arrived for them goes on to QEMU at the
 * end.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/ram.h"

#include "migration/xbzrle.h"
#include "util/error.h"
#include "util/holes.h"
#include "util/zero.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define BLOCKS_MAX 4096

typedef struct {
    RamBlock b;
    uint8_t *host;
    Bitmap *received; /* a bit a page */
    Bitmap *untouched; /* pages of zeros that take no memory so far; or NULL */
    bool listed;      /* in the stream's list of blocks */
} LoadBlock;

struct RamLoader {
    GArray *blocks;   /* LoadBlock */
    uint64_t unknown; /* bytes of blocks not known before that may still come */
    uint32_t page_size;
    bool started;
    guint last;   /* block of the record before, which CONTINUE means: QEMU lets
                     it reach into the next section; G_MAXUINT: none */
    uint8_t *buf; /* an XBZRLE encoding, at most a page */
};

static bool block_init(LoadBlock *lb, const RamBlock *b, uint32_t page_size)
{
    lb->b = *b;
    lb->received = bitmap_new(b->length / page_size);
    lb->host = b->host;
    if (b->fd) {
        lb->untouched = bitmap_new(b->length / page_size);
        file_find_holes(b->fd, page_size, lb->untouched);
    }
    if (!b->host && b->length) {
        void *p = mmap(NULL, b->length, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        lb->host = p == MAP_FAILED ? NULL : p;
    }
    return lb->received && (lb->host || !b->length);
}

static void block_clear(void *data)
{
    LoadBlock *lb = data;

    bitmap_free(lb->received);
    bitmap_free(lb->untouched);
    if (!lb->b.host && lb->host) {
        munmap(lb->host, lb->b.length);
    }
}

/* The new block, or NULL. */
static LoadBlock *add_block(RamLoader *l, const RamBlock *b, GError **errp)
{
    LoadBlock lb = { 0 };

    if (!block_init(&lb, b, l->page_size)) {
        error_set(errp, "no memory to receive RAM block %s of %"
                  G_GUINT64_FORMAT " bytes", b->idstr, b->length);
        block_clear(&lb);
        return NULL;
    }
    g_array_append_val(l->blocks, lb);
    return &g_array_index(l->blocks, LoadBlock, l->blocks->len - 1);
}

RamLoader *ram_loader_new(const RamBlock *blocks, size_t n, uint32_t page_size,
                          uint64_t unknown, GError **errp)
{
    RamLoader *l = g_new0(RamLoader, 1);

    l->page_size = page_size;
    l->unknown = unknown;
    l->last = G_MAXUINT;
    l->buf = g_malloc(page_size);
    l->blocks = g_array_new(FALSE, FALSE, sizeof(LoadBlock));
    g_array_set_clear_func(l->blocks, block_clear);
    for (size_t i = 0; i < n; i++) {
        if (!add_block(l, &blocks[i], errp)) {
            ram_loader_free(l);
            return NULL;
        }
    }
    return l;
}

void ram_loader_free(RamLoader *l)
{
    if (!l) {
        return;
    }
    g_array_unref(l->blocks);
    g_free(l->buf);
    g_free(l);
}

void ram_loader_skip_list(RamLoader *l)
{
    l->started = true;
}

/* False, with what is wrong and where in the stream. */
static bool G_GNUC_PRINTF(3, 4) bad(QEMUFile *f, GError **errp,
                                    const char *fmt, ...)
{
    g_autofree char *what = NULL;
    va_list ap;

    if (!qemu_file_ok(f, errp)) {
        return false; /* what was read is not what was sent */
    }
    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    error_set(errp, "%s: ram section, before byte %" G_GUINT64_FORMAT ": %s",
              qemu_file_name(f), qemu_file_position(f), what);
    return false;
}

static LoadBlock *block_by_name(const RamLoader *l, const char *name)
{
    for (guint i = 0; i < l->blocks->len; i++) {
        LoadBlock *lb = &g_array_index(l->blocks, LoadBlock, i);

        if (!strcmp(lb->b.idstr, name)) {
            return lb;
        }
    }
    return NULL;
}

/* ---- the list of blocks ----------------------------------------------------- */

static LoadBlock *add_unknown(RamLoader *l, QEMUFile *f, const char *name,
                              uint64_t length, GError **errp)
{
    RamBlock b = { .length = length };

    if (length > l->unknown || length % l->page_size ||
        l->blocks->len >= BLOCKS_MAX) {
        bad(f, errp, "RAM block \"%s\" of the source is unknown here", name);
        return NULL;
    }
    l->unknown -= length;
    g_strlcpy(b.idstr, name, sizeof(b.idstr));
    return add_block(l, &b, errp);
}

static bool load_list_entry(RamLoader *l, QEMUFile *f, uint64_t *left,
                            GError **errp)
{
    char name[256];
    uint64_t length;
    LoadBlock *lb;

    qemu_get_counted_string(f, name);
    length = qemu_get_be64(f);
    if (qemu_file_error(f)) {
        return qemu_file_ok(f, errp);
    }
    lb = block_by_name(l, name);
    if (!lb) {
        lb = add_unknown(l, f, name, length, errp);
        if (!lb) {
            return false;
        }
    }
    if (length != lb->b.length) {
        return bad(f, errp, "RAM block \"%s\" has %" G_GUINT64_FORMAT
                   " bytes at the source and %" G_GUINT64_FORMAT " here", name,
                   length, lb->b.length);
    }
    if (lb->listed || length > *left) {
        return bad(f, errp, "RAM block \"%s\" %s", name, lb->listed ?
                   "is listed twice" : "is larger than all RAM");
    }
    lb->listed = true;
    *left -= length;
    return true;
}

static bool load_list(RamLoader *l, QEMUFile *f, uint64_t total, GError **errp)
{
    if (l->started) {
        return bad(f, errp, "a second list of RAM blocks");
    }
    while (total) {
        if (!load_list_entry(l, f, &total, errp)) {
            return false;
        }
    }
    for (guint i = 0; i < l->blocks->len; i++) {
        const LoadBlock *lb = &g_array_index(l->blocks, LoadBlock, i);

        if (!lb->listed && lb->b.length) {
            return bad(f, errp, "RAM block \"%s\" is missing at the source",
                       lb->b.idstr);
        }
    }
    l->started = true;
    return true;
}

/* ---- pages -------------------------------------------------------------------- */

/* Reading such a page would take memory for it. */
static bool is_untouched(const LoadBlock *lb, uint64_t nr)
{
    return lb->untouched && bitmap_test(lb->untouched, nr);
}

static void touched(LoadBlock *lb, uint64_t nr)
{
    if (is_untouched(lb, nr)) {
        bitmap_clear(lb->untouched, nr);
    }
}

static bool load_zero(RamLoader *l, QEMUFile *f, LoadBlock *lb, uint64_t nr,
                      GError **errp)
{
    uint8_t fill = qemu_get_byte(f), *page = lb->host + nr * l->page_size;

    if (!qemu_file_ok(f, errp)) {
        return false;
    }
    if (fill || (!is_untouched(lb, nr) && !buffer_is_zero(page, l->page_size))) {
        memset(page, fill, l->page_size);
        touched(lb, nr);
    }
    return true;
}

static bool load_xbzrle(RamLoader *l, QEMUFile *f, uint8_t *page,
                        bool received, GError **errp)
{
    unsigned encoding = qemu_get_byte(f), len = qemu_get_be16(f);

    if (!received) {
        return bad(f, errp, "an XBZRLE page that was not sent before");
    }
    if (encoding != RAM_XBZRLE_ENCODING || len > l->page_size) {
        return bad(f, errp, "an XBZRLE page with encoding %u and %u bytes",
                   encoding, len);
    }
    if (!qemu_get_buffer(f, l->buf, len)) {
        return qemu_file_ok(f, errp);
    }
    if (xbzrle_decode(l->buf, len, page, l->page_size) < 0) {
        return bad(f, errp, "an XBZRLE page that is not well formed");
    }
    return true;
}

/* A cut stream must not leave half a page behind. */
static bool load_raw(RamLoader *l, QEMUFile *f, uint8_t *page, GError **errp)
{
    if (!qemu_get_buffer(f, l->buf, l->page_size)) {
        return qemu_file_ok(f, errp);
    }
    memcpy(page, l->buf, l->page_size);
    return true;
}

static bool load_page(RamLoader *l, QEMUFile *f, LoadBlock *lb, uint64_t offset,
                      unsigned flag, GError **errp)
{
    uint64_t nr = offset / l->page_size;
    uint8_t *page;
    bool ok;

    if (offset % l->page_size || offset >= lb->b.length) {
        return bad(f, errp, "offset 0x%" G_GINT64_MODIFIER "x is no page of "
                   "RAM block \"%s\" (%" G_GUINT64_FORMAT " bytes)", offset,
                   lb->b.idstr, lb->b.length);
    }
    page = lb->host + offset;
    switch (flag) {
    case RAM_SAVE_FLAG_ZERO:
        ok = load_zero(l, f, lb, nr, errp);
        break;
    case RAM_SAVE_FLAG_PAGE:
        touched(lb, nr);
        ok = load_raw(l, f, page, errp);
        break;
    default:
        touched(lb, nr);
        ok = load_xbzrle(l, f, page, bitmap_test(lb->received, nr), errp);
    }
    if (ok) {
        bitmap_set(lb->received, nr);
    }
    return ok;
}

/* The block that a record is about, by its name or as the one before. */
static LoadBlock *record_block(RamLoader *l, QEMUFile *f, bool same,
                               GError **errp)
{
    char name[256];
    LoadBlock *lb;

    if (same && l->last == G_MAXUINT) {
        bad(f, errp, "a page that names no RAM block");
        return NULL;
    }
    if (same) {
        return &g_array_index(l->blocks, LoadBlock, l->last);
    }
    if (!qemu_get_counted_string(f, name)) {
        qemu_file_ok(f, errp);
        return NULL;
    }
    lb = block_by_name(l, name);
    if (!lb) {
        bad(f, errp, "a page of the unknown RAM block \"%s\"", name);
        return NULL;
    }
    l->last = lb - (LoadBlock *)l->blocks->data;
    return lb;
}

static bool load_record(RamLoader *l, QEMUFile *f, uint64_t word, GError **errp)
{
    uint64_t offset = word & ~RAM_SAVE_FLAG_MASK;
    unsigned flag = word & RAM_SAVE_FLAG_MASK & ~RAM_SAVE_FLAG_CONTINUE;
    LoadBlock *lb;

    if (flag == RAM_SAVE_FLAG_MEM_SIZE) {
        return load_list(l, f, offset, errp);
    }
    if (flag != RAM_SAVE_FLAG_ZERO && flag != RAM_SAVE_FLAG_PAGE &&
        flag != RAM_SAVE_FLAG_XBZRLE) {
        return bad(f, errp, "a record of unknown kind 0x%x", flag);
    }
    if (!l->started) {
        return bad(f, errp, "a page before the list of RAM blocks");
    }
    lb = record_block(l, f, word & RAM_SAVE_FLAG_CONTINUE, errp);
    return lb && load_page(l, f, lb, offset, flag, errp);
}

bool ram_loader_load(RamLoader *l, QEMUFile *f, GError **errp)
{
    for (;;) {
        uint64_t word = qemu_get_be64(f);

        if (!qemu_file_ok(f, errp)) {
            return false;
        }
        if (word == RAM_SAVE_FLAG_EOS) {
            return true;
        }
        if (!load_record(l, f, word, errp)) {
            return false;
        }
    }
}

/* ---- what goes on to QEMU ------------------------------------------------------ */

static void put_foreign_page(const RamLoader *l, QEMUFile *f, const LoadBlock *lb,
                             uint64_t nr)
{
    const uint8_t *page = lb->host + nr * l->page_size;
    bool zero = buffer_is_zero(page, l->page_size);

    qemu_put_be64(f, nr * l->page_size |
                  (zero ? RAM_SAVE_FLAG_ZERO : RAM_SAVE_FLAG_PAGE));
    qemu_put_counted_string(f, lb->b.idstr);
    if (zero) {
        qemu_put_byte(f, 0);
    } else {
        qemu_put_buffer(f, page, l->page_size);
    }
}

void ram_loader_put_list(RamLoader *l, QEMUFile *f)
{
    uint64_t total = 0;

    for (guint i = 0; i < l->blocks->len; i++) {
        total += g_array_index(l->blocks, LoadBlock, i).b.length;
    }
    qemu_put_be64(f, total | RAM_SAVE_FLAG_MEM_SIZE);
    for (guint i = 0; i < l->blocks->len; i++) {
        const LoadBlock *lb = &g_array_index(l->blocks, LoadBlock, i);

        qemu_put_counted_string(f, lb->b.idstr);
        qemu_put_be64(f, lb->b.length);
    }
    qemu_put_be64(f, RAM_SAVE_FLAG_EOS);
}

/* The next page that came for a block without host; false: none. */
static bool next_foreign(const RamLoader *l, RamPosition *pos)
{
    for (; pos->block < l->blocks->len; pos->block++, pos->page = 0) {
        const LoadBlock *lb = &g_array_index(l->blocks, LoadBlock, pos->block);

        if (!lb->b.host) {
            pos->page = bitmap_next_set(lb->received, pos->page);
            if (pos->page < lb->received->size) {
                return true;
            }
        }
    }
    return false;
}

/* The block that pages of @lb are compared with, or NULL. */
static const LoadBlock *known_block(const RamLoader *known, const LoadBlock *lb)
{
    const LoadBlock *theirs = known ? block_by_name(known, lb->b.idstr) : NULL;

    return theirs && !theirs->b.host && theirs->b.length == lb->b.length ? theirs : NULL;
}

static bool same_page(const RamLoader *l, const LoadBlock *a, const LoadBlock *b,
                      uint64_t nr)
{
    uint64_t offset = nr * l->page_size;

    return bitmap_test(b->received, nr) &&
        !memcmp(a->host + offset, b->host + offset, l->page_size);
}

void ram_loader_put_foreign(const RamLoader *l, const RamLoader *known, QEMUFile *f)
{
    const LoadBlock *lb = NULL, *theirs = NULL;

    for (RamPosition pos = { 0 }; next_foreign(l, &pos); pos.page++) {
        const LoadBlock *at = &g_array_index(l->blocks, LoadBlock, pos.block);

        if (at != lb) {
            lb = at;
            theirs = known_block(known, lb);
        }
        if (!theirs || !same_page(l, lb, theirs, pos.page)) {
            put_foreign_page(l, f, lb, pos.page);
        }
    }
}

bool ram_loader_put_foreign_part(const RamLoader *l, RamPosition *pos, QEMUFile *f)
{
    while (!qemu_file_rate_exceeded(f) && !qemu_file_error(f)) {
        if (!next_foreign(l, pos)) {
            return false;
        }
        put_foreign_page(l, f, &g_array_index(l->blocks, LoadBlock, pos->block),
                         pos->page++);
    }
    return true;
}
