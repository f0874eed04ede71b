/*
 * RAM saver into RAM loader: over memory that threads change at random, into a
 * destination filled with rubbish, through every kind of dirty log and with the
 * cache off, tiny and large; then everything a hostile stream may contain.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/ram.h"

#include "util/error.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#define PAGE 4096
#define PAGES 96
#define LENGTH (PAGE * PAGES)

static unsigned repetitions;

/* ---- a dirty log that the writers feed ------------------------------------------ */

typedef struct {
    DirtyLog log;
    Bitmap *written;
} FedLog;

static bool fed_sync(DirtyLog *log, Bitmap *dirty, GError **errp)
{
    FedLog *fl = (FedLog *)log;

    for (uint64_t i = 0; i < dirty->size; i++) {
        if (bitmap_test_and_clear(fl->written, i)) {
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

static DirtyLog *fed_log_new(void)
{
    FedLog *fl = g_new0(FedLog, 1);

    fl->log.ops = &fed_ops;
    fl->written = bitmap_new(PAGES);
    return &fl->log;
}

/* ---- a guest -------------------------------------------------------------------- */

typedef struct {
    uint8_t *ram;
    Bitmap *written; /* or NULL */
    atomic_bool stop;
} Guest;

/* Writes of all sizes, pages that become zero and back.  The saver reads
 * meanwhile, as it reads a guest's memory: that race is the subject, so
 * ThreadSanitizer must not see these writes, as it can't see a guest's. */
__attribute__((no_sanitize("thread")))
static void guest_write(Guest *g, GRand *r, unsigned page)
{
    volatile uint8_t *p = g->ram + page * PAGE;
    unsigned kind = g_rand_int_range(r, 0, 8);
    unsigned at = g_rand_int_range(r, 0, PAGE);
    unsigned n = kind < 5 ? g_rand_int_range(r, 1, 64) : PAGE;

    if (kind >= 5) {
        at = 0;
    }
    for (unsigned i = at; i < MIN(at + n, PAGE); i++) {
        p[i] = kind == 7 ? 0 : kind == 6 ? i : g_rand_int(r);
    }
}

static gpointer guest_run(gpointer data)
{
    Guest *g = data;
    g_autoptr(GRand) r = g_rand_new();

    while (!g->stop) {
        unsigned page = g_rand_int_range(r, 0, PAGES);

        guest_write(g, r, page);
        if (g->written) {
            bitmap_set(g->written, page);
        }
    }
    return NULL;
}

/* ---- both ends ------------------------------------------------------------------ */

typedef struct {
    RamBlock src[2], dst[2];
    QEMUFile *out, *in;
    RamLoader *loader;
    GThread *receiver;
} Ends;

static uint8_t *rubbish(void)
{
    uint8_t *p = g_malloc(LENGTH);

    memset(p, 0xa5, LENGTH);
    return p;
}

static gpointer receive(gpointer data)
{
    Ends *e = data;
    g_autoptr(GError) err = NULL;

    while (qemu_get_byte(e->in)) {
        g_assert_true(ram_loader_load(e->loader, e->in, &err));
    }
    g_assert_null(qemu_file_error(e->in));
    return NULL;
}

static void ends_open(Ends *e, DirtyLog *log)
{
    int fds[2];

    *e = (Ends) {
        .src = { { "pc.ram", LENGTH, g_malloc0(LENGTH), log },
                 { "vga.vram", PAGE * 4, NULL, NULL } },
        .dst = { { "vga.vram", PAGE * 4, NULL, NULL },
                 { "pc.ram", LENGTH, rubbish(), NULL } },
    };
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    e->out = qemu_file_new_fd(fds[0], "source", NULL);
    e->in = qemu_file_new_fd(fds[1], "destination", NULL);
    e->loader = ram_loader_new(e->dst, 2, PAGE, 0, NULL);
    g_assert_nonnull(e->loader);
}

static void ends_close(Ends *e)
{
    ram_loader_free(e->loader);
    qemu_file_close(e->in, NULL);
    dirty_log_free(e->src[0].log);
    g_free(e->src[0].host);
    g_free(e->dst[1].host);
}

static void section(Ends *e)
{
    qemu_put_byte(e->out, 1);
}

static void migrate_once(DirtyLog *log, Bitmap *written, bool own_view,
                         uint64_t cache, unsigned rounds)
{
    Ends e;
    Guest g = { 0 };
    GThread *guest, *receiver;
    RamSaver *s;
    RamStats st;
    bool more;

    ends_open(&e, log);
    if (own_view) {
        e.src[0].log = log = dirty_log_new_compare(e.src[0].host, 0, LENGTH,
                                                   PAGE, NULL);
    }
    g.ram = e.src[0].host;
    g.written = written;
    guest = g_thread_new("guest", guest_run, &g);
    receiver = g_thread_new("receiver", receive, &e);
    s = ram_saver_new(e.src, 2, PAGE, cache, NULL);
    section(&e);
    g_assert_true(ram_saver_setup(s, e.out, NULL));
    for (unsigned r = 0; r < rounds; r++) {
        g_assert_true(ram_saver_sync(s, NULL));
        if (cache && r == rounds / 2) {
            g_assert_true(ram_saver_set_cache_budget(s, cache * 2, NULL));
        }
        do {
            section(&e);
            g_assert_true(ram_saver_iterate(s, e.out, &more, NULL));
        } while (more && g_test_rand_bit());
    }
    g.stop = true;
    g_thread_join(guest);
    section(&e);
    g_assert_true(ram_saver_complete(s, e.out, NULL));
    qemu_put_be64(e.out, 3 * PAGE | RAM_SAVE_FLAG_ZERO);
    qemu_put_counted_string(e.out, "vga.vram");
    qemu_put_byte(e.out, 0);
    qemu_put_be64(e.out, RAM_SAVE_FLAG_EOS);
    qemu_put_byte(e.out, 0);
    g_assert_true(qemu_file_close(e.out, NULL));
    g_thread_join(receiver);
    g_assert_cmpmem(e.dst[1].host, LENGTH, e.src[0].host, LENGTH);
    ram_saver_stats(s, &st);
    g_assert_cmpuint(st.remaining, ==, 0);
    g_assert_cmpuint(st.total, ==, PAGES);
    g_assert_cmpuint(st.dirty_sync_count, ==, rounds + 1);
    g_assert_cmpuint(st.duplicate + st.normal + st.xbzrle_pages + st.skipped,
                     >=, PAGES);
    if (!cache) {
        g_assert_cmpuint(st.cache_lookup + st.xbzrle_pages, ==, 0);
    }
    ram_saver_free(s);
    ends_close(&e);
}

static void test_round_trips(gconstpointer data)
{
    uint64_t cache = GPOINTER_TO_SIZE(data);

    for (unsigned i = 0; i < repetitions; i++) {
        DirtyLog *log = fed_log_new();

        migrate_once(log, ((FedLog *)log)->written, false, cache, 1 + i % 9);
    }
}

static void test_compare_log(gconstpointer data)
{
    for (unsigned i = 0; i < repetitions; i++) {
        migrate_once(NULL, NULL, true, GPOINTER_TO_SIZE(data), 1 + i % 9);
    }
}

/* A page that came back to its old content after it was read in between: the
 * destination must not keep what it was in between. */
static void test_compare_log_there_and_back(void)
{
    g_autofree uint8_t *ram = g_malloc0(PAGE);
    g_autoptr(Bitmap) dirty = bitmap_new(1);
    DirtyLog *log = dirty_log_new_compare(ram, 0, PAGE, PAGE, NULL);

    ram[5] = 1;
    g_assert_true(dirty_log_sync(log, dirty, NULL));
    g_assert_true(bitmap_test(dirty, 0));
    ram[5] = 2;
    g_assert_cmpint(log->view[5], ==, 1); /* what is sent */
    ram[5] = 1;
    bitmap_clear(dirty, 0);
    g_assert_true(dirty_log_sync(log, dirty, NULL));
    g_assert_false(bitmap_test(dirty, 0));
    dirty_log_free(log);
}

/* ---- what the loader must refuse ---------------------------------------------------- */

typedef struct {
    const char *what, *message;
    void (*put)(QEMUFile *f);
} BadStream;

static void put_list(QEMUFile *f)
{
    qemu_put_be64(f, (LENGTH + 4 * PAGE) | RAM_SAVE_FLAG_MEM_SIZE);
    qemu_put_counted_string(f, "pc.ram");
    qemu_put_be64(f, LENGTH);
    qemu_put_counted_string(f, "vga.vram");
    qemu_put_be64(f, 4 * PAGE);
}

static void put_page(QEMUFile *f, uint64_t word, const char *name)
{
    qemu_put_be64(f, word);
    if (name) {
        qemu_put_counted_string(f, name);
    }
}

static void bad_unknown_block(QEMUFile *f)
{
    qemu_put_be64(f, PAGE | RAM_SAVE_FLAG_MEM_SIZE);
    qemu_put_counted_string(f, "other");
    qemu_put_be64(f, PAGE);
}

static void bad_length(QEMUFile *f)
{
    qemu_put_be64(f, PAGE | RAM_SAVE_FLAG_MEM_SIZE);
    qemu_put_counted_string(f, "pc.ram");
    qemu_put_be64(f, PAGE);
}

static void bad_missing(QEMUFile *f)
{
    qemu_put_be64(f, LENGTH | RAM_SAVE_FLAG_MEM_SIZE);
    qemu_put_counted_string(f, "pc.ram");
    qemu_put_be64(f, LENGTH);
    qemu_put_be64(f, RAM_SAVE_FLAG_EOS);
}

static void bad_twice(QEMUFile *f)
{
    qemu_put_be64(f, (2 * LENGTH) | RAM_SAVE_FLAG_MEM_SIZE);
    for (unsigned i = 0; i < 2; i++) {
        qemu_put_counted_string(f, "pc.ram");
        qemu_put_be64(f, LENGTH);
    }
}

static void bad_second_list(QEMUFile *f)
{
    put_list(f);
    put_list(f);
}

static void bad_page_first(QEMUFile *f)
{
    put_page(f, RAM_SAVE_FLAG_ZERO, "pc.ram");
}

static void bad_page_block(QEMUFile *f)
{
    put_list(f);
    put_page(f, RAM_SAVE_FLAG_ZERO, "nope");
}

static void bad_no_block(QEMUFile *f)
{
    put_list(f);
    put_page(f, RAM_SAVE_FLAG_ZERO | RAM_SAVE_FLAG_CONTINUE, NULL);
}

static void bad_offset(QEMUFile *f)
{
    put_list(f);
    put_page(f, LENGTH | RAM_SAVE_FLAG_PAGE, "pc.ram");
}

static void bad_far_offset(QEMUFile *f)
{
    put_list(f);
    put_page(f, ~0xfffULL | RAM_SAVE_FLAG_ZERO, "pc.ram");
}

static void bad_flag(QEMUFile *f)
{
    put_list(f);
    put_page(f, 0x100, "pc.ram");
}

static void bad_xbzrle_first(QEMUFile *f)
{
    put_list(f);
    put_page(f, RAM_SAVE_FLAG_XBZRLE, "pc.ram");
    qemu_put_byte(f, 1);
    qemu_put_be16(f, 3);
    qemu_put_buffer(f, "\0\1x", 3);
}

static void put_zero_then_xbzrle(QEMUFile *f, uint8_t encoding, uint16_t len,
                                 const char *bytes)
{
    put_list(f);
    put_page(f, RAM_SAVE_FLAG_ZERO, "pc.ram");
    qemu_put_byte(f, 0);
    put_page(f, RAM_SAVE_FLAG_XBZRLE | RAM_SAVE_FLAG_CONTINUE, NULL);
    qemu_put_byte(f, encoding);
    qemu_put_be16(f, len);
    qemu_put_buffer(f, bytes, strlen(bytes));
}

static void bad_xbzrle_encoding(QEMUFile *f)
{
    put_zero_then_xbzrle(f, 2, 3, "\1\1x");
}

static void bad_xbzrle_length(QEMUFile *f)
{
    put_zero_then_xbzrle(f, 1, PAGE + 1, "\1\1x");
}

static void bad_xbzrle_bytes(QEMUFile *f)
{
    put_zero_then_xbzrle(f, 1, 3, "\1\2x");
}

static const BadStream bad_streams[] = {
    { "unknown-block", "RAM block \"other\" of the source is unknown here",
      bad_unknown_block },
    { "length", "has 4096 bytes at the source and 393216 here", bad_length },
    { "missing-block", "\"vga.vram\" is missing at the source", bad_missing },
    { "block-twice", "is listed twice", bad_twice },
    { "second-list", "a second list", bad_second_list },
    { "page-first", "a page before the list", bad_page_first },
    { "page-block", "unknown RAM block \"nope\"", bad_page_block },
    { "no-block", "names no RAM block", bad_no_block },
    { "offset", "offset 0x60000 is no page", bad_offset },
    { "far-offset", "is no page", bad_far_offset },
    { "flag", "unknown kind 0x100", bad_flag },
    { "xbzrle-first", "not sent before", bad_xbzrle_first },
    { "xbzrle-encoding", "encoding 2", bad_xbzrle_encoding },
    { "xbzrle-length", "4097 bytes", bad_xbzrle_length },
    { "xbzrle-bytes", "not well formed", bad_xbzrle_bytes },
};

static void test_bad(gconstpointer data)
{
    const BadStream *bad = data;
    g_autoptr(GError) err = NULL;
    Ends e;

    ends_open(&e, fed_log_new());
    bad->put(e.out);
    qemu_put_be64(e.out, RAM_SAVE_FLAG_EOS);
    g_assert_true(qemu_file_close(e.out, NULL));
    g_assert_false(ram_loader_load(e.loader, e.in, &err));
    g_assert_nonnull(err);
    g_test_message("%s", err->message);
    g_assert_nonnull(strstr(err->message, bad->message));
    g_assert_true(g_str_has_prefix(err->message, "destination: "));
    ends_close(&e);
}

/* A good stream cut after each byte: an error, and pages are whole or as they
 * were. */
static void test_cut(void)
{
    for (size_t cut = 0;; cut++) {
        Ends e;
        bool ok;
        int fds[2];
        g_autofree uint8_t *bytes = g_malloc0(2 * PAGE);
        size_t have;

        ends_open(&e, fed_log_new());
        memset(e.src[0].host, 0x11, PAGE);
        put_list(e.out);
        put_page(e.out, RAM_SAVE_FLAG_ZERO, "pc.ram");
        qemu_put_byte(e.out, 0);
        put_page(e.out, RAM_SAVE_FLAG_XBZRLE | RAM_SAVE_FLAG_CONTINUE, NULL);
        qemu_put_byte(e.out, 1);
        qemu_put_be16(e.out, 4);
        qemu_put_buffer(e.out, "\5\2xy", 4);
        put_page(e.out, PAGE | RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_CONTINUE,
                 NULL);
        qemu_put_buffer(e.out, e.src[0].host, PAGE);
        qemu_put_be64(e.out, RAM_SAVE_FLAG_EOS);
        have = qemu_file_position(e.out);
        g_assert_true(qemu_file_close(e.out, NULL));
        g_assert_true(qemu_get_buffer(e.in, bytes, have));
        qemu_file_close(e.in, NULL);
        if (cut > 150 && cut < have - 10) {
            cut = have - 10; /* the inside of a raw page */
        }
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
        e.out = qemu_file_new_fd(fds[0], "source", NULL);
        e.in = qemu_file_new_fd(fds[1], "destination", NULL);
        qemu_put_buffer(e.out, bytes, cut);
        g_assert_true(qemu_file_close(e.out, NULL));
        ok = ram_loader_load(e.loader, e.in, NULL);
        g_assert_cmpint(ok, ==, cut == have);
        uint8_t second = e.dst[1].host[PAGE];
        g_assert_true(second == 0xa5 || second == 0x11);
        for (unsigned i = 0; i < PAGE; i++) {
            g_assert_cmphex(e.dst[1].host[PAGE + i], ==, second);
        }
        ends_close(&e);
        if (cut == have) {
            break;
        }
    }
}

/* ---- rounds that are cut short ---------------------------------------------------- */

/* How many of the first pages have come. */
static unsigned arrived(const Ends *e)
{
    unsigned n = 0;

    while (n < PAGES && !memcmp(e->dst[1].host + n * PAGE,
                                e->src[0].host + n * PAGE, PAGE)) {
        n++;
    }
    return n;
}

static void test_circle(void)
{
    Ends e;
    DirtyLog *log = fed_log_new();
    Bitmap *written = ((FedLog *)log)->written;
    RamSaver *s;
    GThread *receiver;
    bool more;

    ends_open(&e, log);
    memset(e.src[0].host, 0x11, LENGTH);
    receiver = g_thread_new("receiver", receive, &e);
    s = ram_saver_new(e.src, 2, PAGE, 0, NULL);
    section(&e);
    g_assert_true(ram_saver_setup(s, e.out, NULL));
    qemu_file_set_rate_limit(e.out, 10 * 10 * PAGE); /* ten pages a slice */
    for (unsigned i = 0; i < 3; i++) {
        bitmap_set_range(written, 0, PAGES); /* the guest writes all of it */
        g_assert_true(ram_saver_sync(s, NULL));
        section(&e);
        g_assert_true(ram_saver_iterate(s, e.out, &more, NULL));
        g_assert_true(more);
        g_assert_true(qemu_file_wait_slice(e.out, NULL));
    }
    qemu_put_byte(e.out, 0);
    g_assert_true(qemu_fflush(e.out, NULL));
    g_thread_join(receiver);
    g_assert_cmpuint(arrived(&e), >=, 3 * 9);
    g_assert_cmpuint(arrived(&e), <, PAGES);
    ram_saver_free(s);
    qemu_file_close(e.out, NULL);
    ends_close(&e);
}

/* ---- what the rest will take ------------------------------------------------------ */

/* All pages are written; as many are sent as the limit lets through in a slice (0: all);
 * what would it take if they were written again? */
static uint64_t expect_after_round(Ends *e, RamSaver *s, Bitmap *written,
                                   uint64_t limit)
{
    bool more;

    qemu_file_set_rate_limit(e->out, limit);
    g_assert_true(!limit || qemu_file_wait_slice(e->out, NULL));
    bitmap_set_range(written, 0, PAGES);
    g_assert_true(ram_saver_sync(s, NULL));
    section(e);
    g_assert_true(ram_saver_iterate(s, e->out, &more, NULL));
    g_assert_cmpint(more, ==, limit != 0);
    g_assert_true(qemu_fflush(e->out, NULL));
    bitmap_set_range(written, 0, PAGES);
    g_assert_true(ram_saver_sync(s, NULL));
    return ram_saver_pending(s);
}

/*
 * Whether the guest can be stopped hangs on it: pages that were zero say nothing
 * about what they are when they are written again, nor do those that a round
 * sent about those that it did not get to.
 */
static void test_pending(void)
{
    Ends e;
    DirtyLog *log = fed_log_new();
    Bitmap *written = ((FedLog *)log)->written;
    GThread *receiver;
    uint64_t pending;
    RamSaver *s;

    ends_open(&e, log);
    memset(e.src[0].host, 0x11, 16 * PAGE); /* the rest is zeros */
    receiver = g_thread_new("receiver", receive, &e);
    s = ram_saver_new(e.src, 2, PAGE, 2 * LENGTH, NULL);
    section(&e);
    g_assert_true(ram_saver_setup(s, e.out, NULL));
    g_assert_cmpuint(expect_after_round(&e, s, written, 0), >=, LENGTH);

    memset(e.src[0].host, 0x22, LENGTH);
    g_assert_cmpuint(expect_after_round(&e, s, written, 0), >=, LENGTH);
    for (unsigned i = 0; i < PAGES; i++) {
        e.src[0].host[i * PAGE + i] = 0x33;
    }
    g_assert_cmpuint(expect_after_round(&e, s, written, 0), <, PAGES * 100);

    for (unsigned i = 0; i < LENGTH; i += 2) {
        e.src[0].host[i] ^= 0xff; /* XBZRLE does not help */
    }
    pending = expect_after_round(&e, s, written, 10 * 10 * PAGE); /* ten pages a slice */
    g_assert_cmpuint(pending, >, 8 * PAGE);
    g_assert_cmpuint(pending, <, 16 * PAGE);

    qemu_put_byte(e.out, 0);
    g_assert_true(qemu_fflush(e.out, NULL));
    g_thread_join(receiver);
    ram_saver_free(s);
    qemu_file_close(e.out, NULL);
    ends_close(&e);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    repetitions = g_getenv("SIDECAR_TEST_LONG") ? 1000 : 60;
    g_test_add_data_func("/ram/round-trip/plain", NULL, test_round_trips);
    g_test_add_data_func("/ram/round-trip/tiny-cache",
                         GSIZE_TO_POINTER(3 * PAGE), test_round_trips);
    g_test_add_data_func("/ram/round-trip/large-cache",
                         GSIZE_TO_POINTER(2 * LENGTH), test_round_trips);
    g_test_add_data_func("/ram/compare-log/plain", NULL, test_compare_log);
    g_test_add_data_func("/ram/compare-log/cache", GSIZE_TO_POINTER(LENGTH),
                         test_compare_log);
    g_test_add_func("/ram/compare-log/there-and-back",
                    test_compare_log_there_and_back);
    for (size_t i = 0; i < G_N_ELEMENTS(bad_streams); i++) {
        g_autofree char *path = g_strconcat("/ram/bad/", bad_streams[i].what,
                                            NULL);

        g_test_add_data_func(path, &bad_streams[i], test_bad);
    }
    g_test_add_func("/ram/cut", test_cut);
    g_test_add_func("/ram/circle", test_circle);
    g_test_add_func("/ram/pending", test_pending);
    return g_test_run();
}
