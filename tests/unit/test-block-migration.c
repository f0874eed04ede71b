/*
 * Saver of drives into loader of drives: while threads write, into images full of
 * rubbish, raw and qcow2; then what a hostile stream may contain, an end half way,
 * and that nothing stays behind.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-test.h"
#include "migration/block-migration.h"
#include "stream-sample.h"
#include "util/error.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB (1024 * 1024)
#define LENGTH (3 * MIB + 1536) /* the last chunk is not whole */

/* ---- drives ---------------------------------------------------------------------- */

typedef struct {
    char *dir;
    GPtrArray *paths; /* in it */
    BlockContext *src, *dst;
    BlockBackend *from, *to;
    BlockSaver *saver;
    BlockLoader *loader;
} Pair;

static BlockBackend *drive(BlockContext *ctx, const char *name, const char *file,
                           const char *format, int flags)
{
    BlockNode *bs = block_test_open(file, format, flags);
    BlockBackend *blk = blk_new(ctx, name, bs, NULL);

    g_assert_nonnull(blk);
    bdrv_unref(bs);
    return blk;
}

/* A file of the test; the string lives as long as @p. */
static char *at(Pair *p, const char *name)
{
    char *path = block_test_path(p->dir, name);

    g_ptr_array_add(p->paths, path);
    return path;
}

static void pair_init(Pair *p)
{
    *p = (Pair) {
        .dir = block_test_dir_new(),
        .paths = g_ptr_array_new_with_free_func(g_free),
        .src = block_context_new(),
        .dst = block_context_new(),
    };
    p->loader = block_loader_new(p->dst);
}

static void pair_clear(Pair *p)
{
    block_saver_free(p->saver);
    block_loader_free(p->loader);
    block_context_free(p->src);
    block_context_free(p->dst);
    block_test_dir_remove(p->dir);
    g_ptr_array_unref(p->paths);
}

static void create(const char *file, const char *format, int64_t length,
                   const char *backing)
{
    GError *error = NULL;

    bdrv_create(file, format, length, backing, backing ? "raw" : NULL, &error);
    g_assert_no_error(error);
}

static void fill(BlockBackend *blk, uint32_t seed)
{
    int64_t length = blk_length(blk);
    g_autofree uint8_t *buf = g_malloc(length);

    block_test_fill(buf, length, seed);
    g_assert_cmpint(blk_pwrite(blk, 0, length, buf, 0), ==, 0);
}

/* One drive "d" of @format at each end, theirs full of rubbish. */
static void pair_of_length(Pair *p, const char *format, int64_t length)
{
    char *from = at(p, "from"), *to = at(p, "to");

    create(from, format, length, NULL);
    create(to, format, length, NULL);
    p->from = drive(p->src, "d", from, format, BDRV_O_RDWR | BDRV_O_UNMAP);
    p->to = drive(p->dst, "d", to, format, BDRV_O_RDWR);
    fill(p->to, 99);
}

static void pair_of(Pair *p, const char *format)
{
    pair_of_length(p, format, LENGTH);
}

/* Ours is made of rubbish, and its file's requests fail as @faults say (NULL: they
 * do not); theirs is new. */
static void pair_with_faults(Pair *p, const char *from_faults, const char *to_faults)
{
    const char *faults[] = { from_faults, to_faults };
    char *name[] = { at(p, "from"), at(p, "to") };

    block_test_file_new(name[0], LENGTH, 4);
    create(name[1], "raw", LENGTH, NULL);
    for (int i = 0; i < 2; i++) {
        g_autofree char *file = g_strconcat(faults[i] ? faults[i] : "", name[i], NULL);
        BlockBackend *blk = drive(i ? p->dst : p->src, "d", file, "raw", BDRV_O_RDWR);

        *(i ? &p->to : &p->from) = blk;
    }
}

static void watch(Pair *p, bool inc)
{
    GError *error = NULL;

    p->saver = block_saver_new(&p->from, 1, inc, &error);
    g_assert_no_error(error);
}

/* Everything that @bytes hold of sections. */
static bool load(Pair *p, GByteArray *bytes, GError **errp)
{
    QEMUFile *f = sample_file(bytes, 0);
    bool ok = true;

    while (ok && qemu_file_position(f) < bytes->len) {
        ok = block_loader_load(p->loader, f, errp);
    }
    qemu_file_abandon(f);
    return ok;
}

/* A section over there.  False: the pass is over. */
static bool section(Pair *p)
{
    GByteArray *bytes = g_byte_array_new();
    QEMUFile *f = sample_file(bytes, 0);
    GError *error = NULL;
    bool more;

    g_assert_true(block_saver_iterate(p->saver, f, &more, &error));
    g_assert_true(qemu_file_close(f, &error));
    g_assert_true(load(p, bytes, &error));
    g_assert_no_error(error);
    g_byte_array_unref(bytes);
    return more;
}

static void pass(Pair *p)
{
    while (section(p)) {
    }
    block_saver_next_pass(p->saver);
}

static void complete(Pair *p)
{
    GByteArray *bytes = g_byte_array_new();
    QEMUFile *f = sample_file(bytes, 0);
    GError *error = NULL;

    g_assert_true(block_saver_complete(p->saver, f, &error));
    g_assert_true(qemu_file_close(f, &error));
    g_assert_true(load(p, bytes, &error));
    g_assert_true(block_loader_flush(p->loader, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(block_saver_pending(p->saver), ==, 0);
    g_byte_array_unref(bytes);
}

static void same(BlockBackend *a, BlockBackend *b)
{
    int64_t length = blk_length(a);
    g_autofree uint8_t *x = g_malloc(length), *y = g_malloc(length);

    g_assert_cmpint(blk_length(b), ==, length);
    g_assert_cmpint(blk_pread(a, 0, length, x), ==, 0);
    g_assert_cmpint(blk_pread(b, 0, length, y), ==, 0);
    for (int64_t i = 0; i < length; i++) {
        if (x[i] != y[i]) {
            g_error("they differ at byte %#" G_GINT64_MODIFIER "x", i);
        }
    }
}

static BlockMigStats stats(Pair *p)
{
    BlockMigStats st;

    block_saver_stats(p->saver, &st);
    return st;
}

/* ---- while somebody writes ---------------------------------------------------------- */

typedef struct {
    BlockBackend *blk;
    _Atomic bool stop;
    _Atomic unsigned done;
    uint32_t seed;
} Writer;

static void one_write(Writer *w, GRand *rand)
{
    int64_t offset = g_rand_int_range(rand, 0, LENGTH / 512) * 512;
    int64_t length = g_rand_int_range(rand, 1, 200) * 512;
    int64_t bytes = MIN(LENGTH - offset, length);
    g_autofree uint8_t *buf = g_malloc(bytes);

    switch (g_rand_int_range(rand, 0, 8)) {
    case 0:
        g_assert_cmpint(blk_pwrite_zeroes(w->blk, offset, bytes, 0), ==, 0);
        break;
    case 1:
        g_assert_cmpint(blk_pdiscard(w->blk, offset, bytes), ==, 0);
        break;
    default:
        block_test_fill(buf, bytes, g_rand_int(rand));
        g_assert_cmpint(blk_pwrite(w->blk, offset, bytes, buf, 0), ==, 0);
    }
}

static void *writer_thread(void *opaque)
{
    Writer *w = opaque;
    GRand *rand = g_rand_new_with_seed(w->seed);

    while (!atomic_load(&w->stop)) {
        one_write(w, rand);
        atomic_fetch_add(&w->done, 1);
    }
    g_rand_free(rand);
    return NULL;
}

/* Writers come and go; with none of them the last pass has all. */
static void under_writes(gconstpointer format)
{
    Writer w[2] = { 0 };
    pthread_t thread[2];
    Pair p;

    pair_init(&p);
    pair_of(&p, format);
    fill(p.from, 1);
    watch(&p, false);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 2; i++) {
            w[i] = (Writer) { .blk = p.from, .seed = 2 * round + i };
            pthread_create(&thread[i], NULL, writer_thread, &w[i]);
        }
        while (atomic_load(&w[0].done) < 5 || atomic_load(&w[1].done) < 5) {
            pass(&p);
        }
        for (int i = 0; i < 2; i++) {
            atomic_store(&w[i].stop, true);
            pthread_join(thread[i], NULL);
        }
        complete(&p);
        same(p.from, p.to);
    }
    pair_clear(&p);
}

/* A write is under way while its chunk is sent: that is sent again. */
static void *slow_write(void *opaque)
{
    uint8_t buf[512];

    memset(buf, 'w', sizeof(buf));
    g_assert_cmpint(blk_pwrite(opaque, MIB + 512, sizeof(buf), buf, 0), ==, 0);
    return NULL;
}

static void the_write_that_is_under_way(void)
{
    g_autofree char *name = NULL;
    pthread_t thread;
    Pair p;
    int fd;

    pair_init(&p);
    create(at(&p, "from"), "raw", LENGTH, NULL);
    create(at(&p, "to"), "raw", LENGTH, NULL);
    g_assert_cmpint(mkfifo(at(&p, "fifo"), 0600), ==, 0);
    name = g_strdup_printf("fault:write#1=wait(%s):%s",
                           at(&p, "fifo"),
                           at(&p, "from"));
    p.from = drive(p.src, "d", name, "raw", BDRV_O_RDWR);
    p.to = drive(p.dst, "d", at(&p, "to"), "raw", BDRV_O_RDWR);
    watch(&p, false);
    pthread_create(&thread, NULL, slow_write, p.from);
    /* opens when the write has come so far that it waits for it */
    fd = open(at(&p, "fifo"), O_WRONLY);
    g_assert_cmpint(fd, >=, 0);
    pass(&p);
    g_assert_cmpuint(block_saver_pending(p.saver), ==, 0);
    close(fd);
    pthread_join(thread, NULL);
    complete(&p);
    same(p.from, p.to);
    pair_clear(&p);
}

/* Whatever changes the image is sent once more, and nothing else. */
static void each_kind_of_write(void)
{
    static const uint8_t byte = 1;
    Pair p;

    pair_init(&p);
    pair_of(&p, "raw");
    watch(&p, false);
    pass(&p);
    g_assert_cmpuint(block_saver_pending(p.saver), ==, 0);
    g_assert_cmpint(blk_pwrite(p.from, 2 * MIB - 1, 1, &byte, 0), ==, 0);
    g_assert_cmpuint(block_saver_pending(p.saver), ==, MIB);
    pass(&p);
    g_assert_cmpint(blk_pwrite_zeroes(p.from, 2 * MIB - 512, 1024, 0), ==, 0);
    g_assert_cmpuint(block_saver_pending(p.saver), ==, 2 * MIB);
    pass(&p);
    g_assert_cmpint(blk_pdiscard(p.from, LENGTH - 1024, 1024), ==, 0);
    g_assert_cmpuint(block_saver_pending(p.saver), ==, MIB);
    g_assert_cmpint(blk_pwrite(p.from, LENGTH, 1, &byte, 0), <, 0);
    g_assert_cmpuint(block_saver_pending(p.saver), ==, MIB);
    complete(&p);
    same(p.from, p.to);
    pair_clear(&p);
}

/* A section ends with chunks in flight: they count as not sent, and one that is
 * written by then is sent again. */
static void written_in_flight(gconstpointer in_the_last_pass)
{
    Pair p;
    uint8_t buf[512];

    pair_init(&p);
    pair_of_length(&p, "raw", 20 * MIB);
    fill(p.from, 1);
    watch(&p, false);
    g_assert_true(section(&p));
    g_assert_cmpuint(stats(&p).normal, ==, 16);
    g_assert_cmpuint(block_saver_pending(p.saver), ==, 4 * MIB);
    g_assert_cmpuint(stats(&p).remaining, ==, 4 * MIB);
    block_test_fill(buf, sizeof(buf), 2);
    g_assert_cmpint(blk_pwrite(p.from, 17 * MIB, sizeof(buf), buf, 0), ==, 0);
    g_assert_cmpuint(block_saver_pending(p.saver), ==, 5 * MIB);
    if (!in_the_last_pass) {
        pass(&p);
        g_assert_cmpuint(block_saver_pending(p.saver), ==, MIB);
    }
    complete(&p);
    g_assert_cmpuint(stats(&p).normal, ==, 21);
    same(p.from, p.to);
    pair_clear(&p);
}

/* ---- what is sent ------------------------------------------------------------------- */

static void zeros_are_not_data(void)
{
    static const uint8_t byte = 1, zeros[MIB];
    Pair p;

    pair_init(&p);
    pair_of(&p, "raw");
    g_assert_cmpint(blk_pwrite(p.from, MIB, 1, &byte, 0), ==, 0);
    g_assert_cmpint(blk_pwrite(p.from, 2 * MIB, MIB, zeros, 0), ==, 0);
    watch(&p, false);
    pass(&p);
    g_assert_cmpuint(stats(&p).normal, ==, 1);
    g_assert_cmpuint(stats(&p).duplicate, ==, 3);
    g_assert_cmpuint(stats(&p).transferred, <, MIB + 4096);
    complete(&p);
    same(p.from, p.to);
    pair_clear(&p);
}

/* Only what lies above the backing file, and what is written meanwhile. */
static void above_the_backing_file(void)
{
    Pair p;
    uint8_t buf[512];

    pair_init(&p);
    create(at(&p, "base"), "raw", LENGTH, NULL);
    p.from = drive(p.src, "b", at(&p, "base"), "raw",
                   BDRV_O_RDWR);
    fill(p.from, 7);
    blk_drained_begin(&p.from, 1);
    blk_set_node(p.from, NULL);
    blk_drained_end(&p.from, 1);
    create(at(&p, "from"), "qcow2", LENGTH,
           at(&p, "base"));
    create(at(&p, "to"), "qcow2", LENGTH,
           at(&p, "base"));
    p.from = drive(p.src, "d", at(&p, "from"), "qcow2",
                   BDRV_O_RDWR);
    p.to = drive(p.dst, "d", at(&p, "to"), "qcow2",
                 BDRV_O_RDWR);
    block_test_fill(buf, sizeof(buf), 3);
    g_assert_cmpint(blk_pwrite(p.from, 2 * MIB, 512, buf, 0), ==, 0);
    g_assert_cmpint(blk_pwrite_zeroes(p.from, 0, MIB, 0), ==, 0);
    watch(&p, true);
    block_saver_next_pass(p.saver); /* one that was cut short */
    pass(&p);
    g_assert_cmpuint(stats(&p).normal, ==, 1);
    g_assert_cmpuint(stats(&p).duplicate, ==, 1);
    g_assert_cmpuint(stats(&p).skipped, ==, 2);
    g_assert_cmpint(blk_pwrite(p.from, LENGTH - 512, 512, buf, 0), ==, 0);
    complete(&p);
    g_assert_cmpuint(stats(&p).normal, ==, 2);
    same(p.from, p.to);
    pair_clear(&p);
}

static void no_backing_file(void)
{
    g_autoptr(GError) error = NULL;
    Pair p;

    pair_init(&p);
    pair_of(&p, "qcow2");
    g_assert_null(block_saver_new(&p.from, 1, true, &error));
    g_assert_nonnull(strstr(error->message, "backing file"));
    pair_clear(&p);
}

/* A pass of @p's saver as bytes; false with an error. */
static bool pass_to(Pair *p, GByteArray *bytes, GError **errp)
{
    QEMUFile *f = sample_file(bytes, 0);
    bool more = true, ok = true;

    while (ok && more) {
        ok = block_saver_iterate(p->saver, f, &more, errp);
    }
    g_assert_true(qemu_file_close(f, NULL));
    return ok;
}

/* The limit is kept although a record is larger than what a slice allows. */
static void as_fast_as_allowed(void)
{
    GByteArray *bytes = g_byte_array_new();
    QEMUFile *f = sample_file(bytes, 0);
    gint64 start = g_get_monotonic_time();
    bool more = true;
    Pair p;

    pair_init(&p);
    pair_of(&p, "raw");
    fill(p.from, 1);
    watch(&p, false);
    qemu_file_set_rate_limit(f, 4 * MIB);
    while (more) {
        g_assert_true(block_saver_iterate(p.saver, f, &more, NULL));
        g_assert_true(qemu_file_wait_slice(f, NULL));
    }
    g_assert_cmpint(g_get_monotonic_time() - start, >, 700 * 1000);
    g_assert_true(qemu_file_close(f, NULL));
    g_assert_true(load(&p, bytes, NULL));
    same(p.from, p.to);
    g_byte_array_unref(bytes);
    pair_clear(&p);
}

/* ---- ends ---------------------------------------------------------------------------- */

static bool cancelling_write(void *opaque, const void *buf, size_t len,
                             GError **errp)
{
    unsigned *left = opaque;

    if (!*left) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED, "cancelled");
        return false;
    }
    --*left;
    return true;
}

static bool nothing_to_close(void *opaque, GError **errp)
{
    return true;
}

/* It ends at any write to the channel; the next attempt has everything again. */
static void cancelled_and_again(void)
{
    static const QEMUFileOps ops = {
        .write = cancelling_write, .close = nothing_to_close,
    };
    unsigned limit, left;
    bool failed = true;
    Pair p;

    pair_init(&p);
    pair_of(&p, "raw");
    fill(p.from, 1);
    for (limit = 0; failed; limit++) {
        QEMUFile *f = qemu_file_new(&ops, &left, "cancelled");
        bool more = true;

        left = limit;
        watch(&p, false);
        g_assert_cmpuint(stats(&p).remaining, ==, LENGTH);
        while (more && block_saver_iterate(p.saver, f, &more, NULL)) {
        }
        failed = more;
        qemu_file_abandon(f);
        g_clear_pointer(&p.saver, block_saver_free);
        fill(p.from, limit);
    }
    g_assert_cmpuint(limit, >, 4);
    watch(&p, false);
    complete(&p);
    same(p.from, p.to);
    pair_clear(&p);
}

/* What cannot be read ends it, by the name of the drive. */
static void a_drive_that_cannot_be_read(void)
{
    g_autoptr(GError) error = NULL;
    GByteArray *bytes = g_byte_array_new();
    Pair p;

    pair_init(&p);
    pair_with_faults(&p, "fault:read/4096-4096=EIO:", NULL);
    watch(&p, false);
    g_assert_false(pass_to(&p, bytes, &error));
    g_assert_nonnull(strstr(error->message, "drive 'd'"));
    g_assert_nonnull(strstr(error->message, "2097152"));
    g_byte_array_unref(bytes);
    pair_clear(&p);
}

/* ---- hostile sections ------------------------------------------------------------------ */

typedef struct {
    const char *bytes;
    size_t len;
    const char *word; /* in the error */
} Hostile;

#define HOSTILE(bytes, word) { bytes, sizeof(bytes) - 1, word }

static const Hostile hostile[] = {
    HOSTILE("", "ends"),
    HOSTILE("\0\0\0\0\0\0\0\0", "flags 0x000"),
    HOSTILE("\0\0\0\0\0\0\0\x03\1d", "flags 0x003"),
    HOSTILE("\0\0\0\0\0\0\0\x08\1d", "flags 0x008"),
    HOSTILE("\0\0\0\0\0\0\1\x01\1d", "flags 0x101"),
    HOSTILE("\0\0\0\0\0\0\0\x05\1d", "flags 0x005"),
    HOSTILE("\0\0\0\0\0\0\0\x09\1e", "'e'"),
    HOSTILE("\0\0\0\0\0\0\0\x09\0", "''"),
    HOSTILE("\0\0\0\0\0\0\0\x09\2d\0", "NUL"),
    HOSTILE("\0\0\0\0\0\0\0\x09\3ro1", "read-only"),
    HOSTILE("\0\0\0\0\0\0\0\x09\5empty", "no medium"),
    HOSTILE("\0\0\0\0\0\0\0\x09\xff""d", "ends"),
    HOSTILE("\0\0\0\0\0\x30\x06\x09\1d", "3147264"),
    HOSTILE("\x7f\xff\xff\xff\xff\xff\xfe\x09\1d", "3147264"),
    HOSTILE("\xff\xff\xff\xff\xff\xff\xfe\x09\1d", "3147264"),
    HOSTILE("\xff\xff\xff\xff\xff\xff\xfe\x01\1d", "3147264"),
    HOSTILE("\0\0\0\0\0\0\0\x01\1dxxx", "ends"),
    HOSTILE("\0\0\0\0\0\x30\x06\x02", "without a name"),
    HOSTILE("\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x04", "ends"),
};

static void each_hostile_section_is_named(void)
{
    Pair p;

    pair_init(&p);
    pair_of(&p, "raw");
    fill(p.from, 99); /* as theirs */
    block_test_file_new(at(&p, "ro"), LENGTH, 1);
    drive(p.dst, "ro1", at(&p, "ro"), "raw", 0);
    g_assert_nonnull(blk_new(p.dst, "empty", NULL, NULL));
    for (size_t i = 0; i < G_N_ELEMENTS(hostile); i++) {
        g_autoptr(GError) error = NULL;
        GByteArray *bytes = g_byte_array_new();
        QEMUFile *f = sample_file(bytes, 1);

        g_byte_array_append(bytes, (const uint8_t *)hostile[i].bytes,
                            hostile[i].len);
        g_assert_false(block_loader_load(p.loader, f, &error));
        if (!strstr(error->message, hostile[i].word)) {
            g_error("%zu: \"%s\" lacks \"%s\"", i, error->message,
                    hostile[i].word);
        }
        g_assert_null(strchr(error->message, '\n'));
        qemu_file_abandon(f);
        g_byte_array_unref(bytes);
    }
    same(p.from, p.to); /* nothing was written */
    pair_clear(&p);
}

static void another_length_is_refused(gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    GByteArray *bytes = g_byte_array_new();
    QEMUFile *f = sample_file(bytes, 0);
    bool more;
    Pair p;

    pair_init(&p);
    create(at(&p, "from"), "raw", LENGTH, NULL);
    create(at(&p, "to"), "raw", GPOINTER_TO_INT(data), NULL);
    p.from = drive(p.src, "d", at(&p, "from"), "raw",
                   BDRV_O_RDWR);
    p.to = drive(p.dst, "d", at(&p, "to"), "raw", BDRV_O_RDWR);
    watch(&p, false);
    g_assert_true(block_saver_iterate(p.saver, f, &more, NULL));
    g_assert_true(qemu_file_close(f, NULL));
    g_assert_false(load(&p, bytes, &error));
    g_assert_nonnull(strstr(error->message, "drive 'd': length mismatch"));
    g_byte_array_unref(bytes);
    pair_clear(&p);
}

/* As a plain QEMU sends it: progress, no length, rubbish behind the end. */
static void what_qemu_sends(void)
{
    GByteArray *bytes = g_byte_array_new();
    QEMUFile *f = sample_file(bytes, 0);
    g_autofree uint8_t *chunk = g_malloc(MIB), *got = g_malloc(1536);
    GError *error = NULL;
    Pair p;

    pair_init(&p);
    pair_of(&p, "raw");
    memset(chunk, 'q', MIB);
    qemu_put_be64(f, 25 << 9 | BLK_MIG_FLAG_PROGRESS);
    qemu_put_be64(f, 3 * MIB | BLK_MIG_FLAG_DEVICE_BLOCK);
    qemu_put_counted_string(f, "d");
    qemu_put_buffer(f, chunk, MIB);
    qemu_put_be64(f, BLK_MIG_FLAG_EOS);
    g_assert_true(qemu_file_close(f, NULL));
    g_assert_true(load(&p, bytes, &error));
    g_assert_cmpint(blk_length(p.to), ==, LENGTH);
    g_assert_cmpint(blk_pread(p.to, 3 * MIB, 1536, got), ==, 0);
    g_assert_cmpmem(got, 1536, chunk, 1536);
    g_byte_array_unref(bytes);
    pair_clear(&p);
}

static void a_full_disk_is_an_error(void)
{
    g_autoptr(GError) error = NULL;
    GByteArray *bytes = g_byte_array_new();
    Pair p;

    pair_init(&p);
    pair_with_faults(&p, NULL, "fault:write#2+=ENOSPC:");
    watch(&p, false);
    g_assert_true(pass_to(&p, bytes, NULL));
    g_assert_false(load(&p, bytes, &error));
    g_assert_nonnull(strstr(error->message, "drive 'd'"));
    g_assert_nonnull(strstr(error->message, "No space left"));
    g_byte_array_unref(bytes);
    pair_clear(&p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/block-migration/under-writes/raw", "raw",
                         under_writes);
    g_test_add_data_func("/block-migration/under-writes/qcow2", "qcow2",
                         under_writes);
    g_test_add_func("/block-migration/write-under-way",
                    the_write_that_is_under_way);
    g_test_add_data_func("/block-migration/in-flight", NULL, written_in_flight);
    g_test_add_data_func("/block-migration/in-flight/last", "last", written_in_flight);
    g_test_add_func("/block-migration/kinds-of-write", each_kind_of_write);
    g_test_add_func("/block-migration/zeros", zeros_are_not_data);
    g_test_add_func("/block-migration/inc", above_the_backing_file);
    g_test_add_func("/block-migration/inc-without-base", no_backing_file);
    g_test_add_func("/block-migration/rate", as_fast_as_allowed);
    g_test_add_func("/block-migration/cancelled", cancelled_and_again);
    g_test_add_func("/block-migration/unreadable", a_drive_that_cannot_be_read);
    g_test_add_func("/block-migration/hostile", each_hostile_section_is_named);
    g_test_add_data_func("/block-migration/shorter", GINT_TO_POINTER(LENGTH - 512),
                         another_length_is_refused);
    g_test_add_data_func("/block-migration/longer", GINT_TO_POINTER(LENGTH + 512),
                         another_length_is_refused);
    g_test_add_func("/block-migration/as-qemu", what_qemu_sends);
    g_test_add_func("/block-migration/full-disk", a_full_disk_is_an_error);
    return g_test_run();
}
