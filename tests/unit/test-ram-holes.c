/*
 * Memory that nobody touched: neither end of a migration may take memory for it,
 * and what is touched or discarded meanwhile must arrive all the same.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/ram.h"
#include "util/holes.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES 4096
#define LENGTH (PAGE * PAGES)
#define FEW (64 * PAGE) /* room for what the kernel reads around */

/* ---- a block in a memfd, with a log fed by hand ---------------------------------- */

typedef struct {
    DirtyLog log;
    Bitmap *written;
} FedLog;

static bool fed_sync(DirtyLog *log, Bitmap *dirty, GError **errp)
{
    Bitmap *written = ((FedLog *)log)->written;

    for (uint64_t i = 0; i < dirty->size; i++) {
        if (bitmap_test_and_clear(written, i)) {
            bitmap_set(dirty, i);
        }
    }
    return true;
}

static void fed_free(DirtyLog *log)
{
    bitmap_free(((FedLog *)log)->written);
    g_free(log);
}

static const DirtyLogOps fed_ops = { "fed", fed_sync, fed_free };

static void block_open(RamBlock *b, bool compare)
{
    *b = (RamBlock) { .idstr = "pc.ram", .length = LENGTH };
    b->fd = memfd_create("ram", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(b->fd, LENGTH), ==, 0);
    b->host = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, 0);
    g_assert_true(b->host != MAP_FAILED);
    if (compare) {
        b->log = dirty_log_new_compare(b->host, b->fd, LENGTH, PAGE, NULL);
    } else {
        FedLog *fl = g_new0(FedLog, 1);

        fl->log.ops = &fed_ops;
        fl->written = bitmap_new(PAGES);
        b->log = &fl->log;
    }
}

static void block_close(RamBlock *b)
{
    dirty_log_free(b->log);
    munmap(b->host, LENGTH);
    close(b->fd);
}

static uint64_t memory_taken(const RamBlock *b)
{
    struct stat st;

    g_assert_cmpint(fstat(b->fd, &st), ==, 0);
    return st.st_blocks * UINT64_C(512);
}

static void written(RamBlock *b, unsigned page)
{
    if (b->log->ops == &fed_ops) {
        bitmap_set(((FedLog *)b->log)->written, page);
    }
}

static void fill(RamBlock *b, unsigned page, int c)
{
    memset(b->host + page * PAGE, c, PAGE);
    written(b, page);
}

static void discard(RamBlock *b, unsigned page)
{
    g_assert_cmpint(fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              page * PAGE, PAGE), ==, 0);
    written(b, page);
}

/* ---- a stream in memory ------------------------------------------------------------- */

static bool mem_write(void *opaque, const void *buf, size_t len, GError **errp)
{
    g_byte_array_append(opaque, buf, len);
    return true;
}

static ssize_t mem_read(void *opaque, void *buf, size_t len, GError **errp)
{
    GByteArray *bytes = opaque;

    len = MIN(len, bytes->len);
    memcpy(buf, bytes->data, len);
    g_byte_array_remove_range(bytes, 0, len);
    return len;
}

static bool mem_close(void *opaque, GError **errp)
{
    return true;
}

static const QEMUFileOps mem_ops = {
    .write = mem_write, .read = mem_read, .close = mem_close,
};

static void load(RamBlock *b, GByteArray *bytes, unsigned sections)
{
    QEMUFile *f = qemu_file_new(&mem_ops, bytes, "destination");
    RamLoader *l = ram_loader_new(b, 1, PAGE, 0, NULL);
    g_autoptr(GError) err = NULL;

    while (sections--) {
        ram_loader_load(l, f, &err);
        g_assert_no_error(err);
    }
    ram_loader_free(l);
    qemu_file_close(f, NULL);
}

/* ---- tests -------------------------------------------------------------------------- */

static void test_find(void)
{
    g_autoptr(Bitmap) holes = bitmap_new(PAGES);
    RamBlock b;

    block_open(&b, false);
    file_find_holes(b.fd, PAGE, holes);
    g_assert_true(bitmap_all_set(holes, 0, PAGES));
    fill(&b, 0, 1);
    fill(&b, 7, 1);
    fill(&b, PAGES - 1, 0); /* zeros, but there */
    file_find_holes(b.fd, PAGE, holes);
    g_assert_cmpuint(bitmap_count(holes), ==, PAGES - 3);
    g_assert_false(bitmap_test(holes, 0) || bitmap_test(holes, 7) ||
                   bitmap_test(holes, PAGES - 1));
    discard(&b, PAGES - 1);
    file_find_holes(b.fd, PAGE, holes);
    g_assert_cmpuint(bitmap_count(holes), ==, PAGES - 2);
    block_close(&b);
}

static void test_not_told(void)
{
    g_autoptr(Bitmap) holes = bitmap_new(8);
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

    file_find_holes(fd, PAGE, holes);
    g_assert_cmpuint(bitmap_count(holes), ==, 0);
    close(fd);
    file_find_holes(-1, PAGE, holes);
    g_assert_cmpuint(bitmap_count(holes), ==, 0);
}

typedef struct {
    bool compare;
    uint64_t cache;
} Case;

/* Three rounds, none of the first two to its end; between them pages are
 * touched for the first time, discarded, and used again. */
static void test_migration(gconstpointer data)
{
    const Case *c = data;
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    QEMUFile *f = qemu_file_new(&mem_ops, bytes, "source");
    RamBlock src, dst;
    RamSaver *s;
    bool more;

    block_open(&src, c->compare);
    block_open(&dst, false);
    s = ram_saver_new(&src, 1, PAGE, c->cache, NULL);
    for (unsigned i = 0; i < 20; i++) {
        fill(&src, 3 * i, i + 1);
    }
    g_assert_true(ram_saver_setup(s, f, NULL));
    g_assert_true(ram_saver_sync(s, NULL));
    qemu_file_set_rate_limit(f, 60000); /* 6000 bytes in one go */
    g_assert_true(ram_saver_iterate(s, f, &more, NULL));
    g_assert_true(more);
    fill(&src, 1, 0x55);     /* sent already, as a hole */
    fill(&src, 2000, 0x66);  /* not sent yet, was a hole */
    discard(&src, 0);        /* sent already, as data */
    discard(&src, 57);       /* not sent yet, was data */
    g_assert_true(ram_saver_sync(s, NULL));
    qemu_file_set_rate_limit(f, 0);
    g_assert_true(ram_saver_iterate(s, f, &more, NULL));
    g_assert_false(more);
    fill(&src, 0, 0x11);     /* again what it was before it was discarded */
    fill(&src, 0, 1);
    fill(&src, 2001, 0x77);
    g_assert_true(ram_saver_sync(s, NULL));
    g_assert_true(ram_saver_iterate(s, f, &more, NULL));
    src.host[2 * PAGE + 9] = 1;
    written(&src, 2);
    src.host[PAGE + 9] = 2;
    written(&src, 1);
    g_assert_true(ram_saver_complete(s, f, NULL));
    qemu_put_be64(f, RAM_SAVE_FLAG_EOS);
    ram_saver_free(s);
    qemu_file_close(f, NULL);
    load(&dst, bytes, 5);
    g_assert_cmpuint(memory_taken(&src), <, 25 * PAGE + FEW);
    g_assert_cmpuint(memory_taken(&dst), <, 25 * PAGE + FEW);
    g_assert_cmpmem(src.host, LENGTH, dst.host, LENGTH);
    block_close(&src);
    block_close(&dst);
}

/* What a destination has in its memory already is overwritten by zeros. */
static void test_rubbish(void)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    QEMUFile *f = qemu_file_new(&mem_ops, bytes, "source");
    RamBlock src, dst;
    RamSaver *s;
    bool more;

    block_open(&src, false);
    block_open(&dst, false);
    memset(dst.host, 0xa5, LENGTH / 2);
    s = ram_saver_new(&src, 1, PAGE, 0, NULL);
    g_assert_true(ram_saver_setup(s, f, NULL));
    g_assert_true(ram_saver_sync(s, NULL));
    g_assert_true(ram_saver_iterate(s, f, &more, NULL));
    ram_saver_free(s);
    qemu_file_close(f, NULL);
    load(&dst, bytes, 2);
    g_assert_cmpmem(src.host, LENGTH, dst.host, LENGTH);
    block_close(&src);
    block_close(&dst);
}

int main(int argc, char **argv)
{
    static const Case cases[] = {
        { false, 0 }, { false, 8 * PAGE }, { false, LENGTH },
        { true, 0 }, { true, LENGTH },
    };

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/holes/find", test_find);
    g_test_add_func("/holes/not-told", test_not_told);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/holes/migration/%d", (int)i);

        g_test_add_data_func(path, &cases[i], test_migration);
    }
    g_test_add_func("/holes/rubbish", test_rubbish);
    return g_test_run();
}
