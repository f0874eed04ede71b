/*
 * The power fails: every write to the file of a qcow2 image is logged, and the
 * log is cut at every flush, with some of the writes behind it done and others
 * not.  What is left must be sound (leaks allowed), with all that the guest had
 * flushed. And a process that writes is killed for good.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../block/blklogwrites.h"
#include "../../block/qcow2.h"
#include "block/job.h"
#include "qcow2-test.h"

#define SIZE (512 * 1024)
#define SECTOR 512
#define FLAGS (BDRV_O_RDWR | BDRV_O_UNMAP)

static char *dir;
static bool thorough;

static char *path(const char *name)
{
    return block_test_path(dir, name);
}

/* ---- what the guest does --------------------------------------------------------- */

/* A moment at which a flush of the guest had returned. */
typedef struct {
    size_t log_end;               /* so long was the log */
    uint8_t shadow[SIZE];
    bool touched[SIZE / SECTOR];  /* written after it, before the next */
} Moment;

static void random_change(BlockNode *bs, GRand *r, uint8_t *shadow,
                          bool *touched)
{
    int64_t offset = g_rand_int_range(r, 0, SIZE / SECTOR) * SECTOR;
    int64_t bytes = g_rand_int_range(r, 1, MIN(48, (SIZE - offset) / SECTOR) + 1) *
                    SECTOR;

    for (int64_t i = offset / SECTOR; i < (offset + bytes) / SECTOR; i++) {
        touched[i] = true;
    }
    switch (g_rand_int_range(r, 0, 6)) {
    case 0:
        memset(shadow + offset, 0, bytes);
        g_assert_cmpint(bdrv_pwrite_zeroes(bs, offset, bytes, g_rand_boolean(r) ?
                                           BDRV_REQ_MAY_UNMAP : 0), ==, 0);
        break;
    case 1:
        g_assert_cmpint(bdrv_pdiscard(bs, offset, bytes), ==, 0);
        g_assert_cmpint(bdrv_pread(bs, offset, bytes, shadow + offset), ==, 0);
        break;
    default:
        block_test_fill(shadow + offset, bytes, g_rand_int(r));
        g_assert_cmpint(bdrv_pwrite(bs, offset, bytes, shadow + offset, 0), ==, 0);
    }
}

static size_t file_size(const char *file)
{
    GStatBuf st;

    g_assert_cmpint(g_stat(file, &st), ==, 0);
    return st.st_size;
}

/* @img through a log, with @n flushes of the guest. */
static GPtrArray *guest_run(const char *img, const char *log, GRand *r,
                            unsigned n)
{
    g_autofree char *name = g_strdup_printf("blklogwrites:%s:%s", log, img);
    GPtrArray *moments = g_ptr_array_new_with_free_func(g_free);
    BlockNode *bs = block_test_open(name, "qcow2", FLAGS);
    g_autofree uint8_t *unflushed = NULL;
    Moment *m = g_new0(Moment, 1);

    g_assert_cmpint(bdrv_pread(bs, 0, SIZE, m->shadow), ==, 0);
    g_ptr_array_add(moments, m);
    for (unsigned i = 0; i < n; i++) {
        Moment *next = g_memdup2(m, sizeof(*m));

        for (int k = g_rand_int_range(r, 1, 8); k > 0; k--) {
            random_change(bs, r, next->shadow, m->touched);
        }
        g_assert_cmpint(bdrv_flush(bs), ==, 0);
        memset(next->touched, 0, sizeof(next->touched));
        next->log_end = file_size(log);
        g_ptr_array_add(moments, next);
        m = next;
    }
    unflushed = g_memdup2(m->shadow, SIZE);
    random_change(bs, r, unflushed, m->touched);
    bdrv_unref(bs);
    return moments;
}

/* ---- the log ------------------------------------------------------------------------ */

typedef struct {
    uint8_t *data;
    size_t size; /* of the file */
} FileImage;

#define FILE_MAX (64 << 20)

static BlkLogRecord record_at(const uint8_t *log, size_t pos)
{
    BlkLogRecord r;

    memcpy(&r, log + pos, sizeof(r));
    return r;
}

static size_t record_bytes(const BlkLogRecord *r)
{
    return sizeof(*r) + (r->type == BLKLOG_WRITE ? r->bytes : 0);
}

static void apply(FileImage *f, const BlkLogRecord *r, const uint8_t *data)
{
    if (r->type == BLKLOG_TRUNCATE) {
        if (r->offset < f->size) {
            memset(f->data + r->offset, 0, f->size - r->offset);
        }
        f->size = r->offset;
        return;
    }
    g_assert_cmpuint(r->offset + r->bytes, <=, FILE_MAX);
    if (r->type == BLKLOG_WRITE) {
        memcpy(f->data + r->offset, data, r->bytes);
    } else if (r->type == BLKLOG_ZERO || r->type == BLKLOG_DISCARD) {
        memset(f->data + r->offset, 0, r->bytes);
    }
    f->size = MAX(f->size, r->offset + r->bytes);
}

/* Apply the records of [from, to); each with probability 1 or, behind @sure, 1/2. */
static void replay(FileImage *f, const uint8_t *log, size_t from, size_t to,
                   size_t sure, GRand *r)
{
    for (size_t pos = from; pos < to;) {
        BlkLogRecord rec = record_at(log, pos);

        if (pos < sure || rec.type == BLKLOG_TRUNCATE || g_rand_boolean(r)) {
            apply(f, &rec, log + pos + sizeof(rec));
        }
        pos += record_bytes(&rec);
    }
}

static void write_file(const char *file, const FileImage *f)
{
    FILE *out = g_fopen(file, "wb");

    g_assert_nonnull(out);
    g_assert_cmpint(fwrite(f->data, 1, f->size, out), ==, f->size);
    g_assert_cmpint(fclose(out), ==, 0);
}

static void check_data(const char *img, const Moment *m)
{
    g_autoptr(BlockNode) bs = block_test_open(img, "qcow2", 0);
    g_autofree uint8_t *buf = g_malloc(SIZE);

    g_assert_cmpint(bdrv_pread(bs, 0, SIZE, buf), ==, 0);
    for (unsigned i = 0; i < SIZE / SECTOR; i++) {
        if (!m->touched[i] && memcmp(buf + i * SECTOR, m->shadow + i * SECTOR, SECTOR)) {
            g_test_message("sector %u: has %02x%02x, wants %02x%02x", i, buf[i * SECTOR],
                           buf[i * SECTOR + 1], m->shadow[i * SECTOR],
                           m->shadow[i * SECTOR + 1]);
        }
        if (!m->touched[i]) {
            g_assert_cmpint(memcmp(buf + i * SECTOR, m->shadow + i * SECTOR, SECTOR),
                            ==, 0);
        }
    }
}

/* Nobody must be worse off for going on with what the crash left. */
static void go_on(const char *img, GRand *r)
{
    BlockNode *bs = block_test_open(img, "qcow2", FLAGS);
    g_autofree uint8_t *shadow = g_malloc(SIZE);
    bool touched[SIZE / SECTOR];

    g_assert_cmpint(bdrv_pread(bs, 0, SIZE, shadow), ==, 0);
    for (unsigned i = 0; i < 20; i++) {
        random_change(bs, r, shadow, touched);
    }
    bdrv_unref(bs);
    qcow2_test_check(img, true);
    qcow2_test_compare_img(img, shadow, SIZE);
}

/* Where the next flush begins, from @pos on; @end if there is none. */
static size_t next_flush(const uint8_t *log, size_t pos, size_t end)
{
    while (pos < end) {
        BlkLogRecord rec = record_at(log, pos);

        if (rec.type == BLKLOG_FLUSH) {
            return pos;
        }
        pos += record_bytes(&rec);
    }
    return end;
}

static const Moment *last_moment(const GPtrArray *moments, size_t pos)
{
    const Moment *m = NULL;

    for (guint i = 0; i < moments->len; i++) {
        const Moment *next = g_ptr_array_index(moments, i);

        m = next->log_end <= pos ? next : m;
    }
    return m;
}

static void cut_everywhere(const char *start, const uint8_t *log, size_t end,
                           const GPtrArray *moments, GRand *r)
{
    g_autofree char *img = path("cut.qcow2");
    FileImage stable = { g_malloc0(FILE_MAX), 0 }, f = { g_malloc0(FILE_MAX), 0 };
    g_autofree char *begin = NULL;
    unsigned n = 0;

    g_assert_true(g_file_get_contents(start, &begin, &stable.size, NULL));
    memcpy(stable.data, begin, stable.size);
    for (size_t pos = 0; pos < end; n++) {
        size_t flush = next_flush(log, pos, end);
        size_t behind = MIN(flush + sizeof(BlkLogRecord), end);

        /* Durable is what is before pos; the rest up to this flush may be. */
        memcpy(f.data, stable.data, MAX(stable.size, f.size));
        f.size = stable.size;
        replay(&f, log, pos, flush, pos, r);
        write_file(img, &f);
        qcow2_test_check(img, true);
        /* Behind its last flush a checkpoint only discards: so a moment before
         * the next flush was durable at pos. */
        check_data(img, last_moment(moments, flush));
        if (n % 8 == 0) {
            go_on(img, r);
        }
        replay(&stable, log, pos, behind, behind, r);
        pos = behind;
    }
    g_test_message("%u cuts", n);
    g_free(stable.data);
    g_free(f.data);
}

static void run_cuts(const char *options, bool snapshot, unsigned flushes)
{
    g_autofree char *img = path("log.qcow2"), *start = path("start.qcow2");
    g_autofree char *log = path("log");
    GRand *r = g_rand_new_with_seed(g_test_rand_int());
    GPtrArray *moments;
    char *bytes;
    gsize end;

    g_test_message("%s", options);
    qcow2_test_create(img, options, SIZE);
    g_assert_true(!snapshot ||
                  block_test_run("qemu-io -f qcow2 -c 'write 0 256k' '%s' && "
                                 "qemu-img snapshot -c one '%s'", img, img));
    g_assert_true(block_test_run("cp '%s' '%s'", img, start));
    moments = guest_run(img, log, r, flushes);
    qcow2_test_check(img, false);
    g_assert_true(g_file_get_contents(log, &bytes, &end, NULL));
    cut_everywhere(start, (uint8_t *)bytes, end, moments, r);
    g_free(bytes);
    g_ptr_array_unref(moments);
    g_rand_free(r);
    g_unlink(img);
}

static void test_cuts(void)
{
    unsigned n = thorough ? 300 : 8;

    run_cuts("cluster_size=4k", false, n);
    run_cuts("cluster_size=512", false, n);
    run_cuts("cluster_size=512,refcount_bits=64", false, n);
    run_cuts("cluster_size=64k,compat=0.10", false, n);
    run_cuts("cluster_size=4k", true, n);
}

/* ---- killed for good ----------------------------------------------------------------------- */

/* What the child tells: the number of writes that a flush has covered. */
typedef struct {
    _Atomic unsigned flushed;
    _Atomic unsigned started;
} Progress;

#define SLOTS (SIZE / 4096)

/* Write number n goes to slot n % SLOTS, and consists of n. */
static void child(const char *img, Progress *p)
{
    BlockNode *bs = block_test_open(img, "qcow2", FLAGS);
    uint32_t buf[1024];

    for (unsigned n = p->flushed + 1;; n++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(buf); i++) {
            buf[i] = n;
        }
        p->started = MAX(p->started, n);
        if (bdrv_pwrite(bs, n * 37 % SLOTS * 4096, 4096, buf, 0) < 0) {
            _exit(1);
        }
        if (n % 5 == 0) {
            if (bdrv_flush(bs) < 0) {
                _exit(1);
            }
            p->flushed = n;
        }
    }
}

/* The last number up to @n that went to @slot; 0: none. */
static unsigned last_for(unsigned slot, unsigned n)
{
    while (n > 0 && n * 37 % SLOTS != slot) {
        n--;
    }
    return n;
}

static void check_slots(const char *img, Progress *p)
{
    g_autoptr(BlockNode) bs = block_test_open(img, "qcow2", 0);
    uint32_t buf[1024];

    for (unsigned slot = 0; slot < SLOTS; slot++) {
        g_assert_cmpint(bdrv_pread(bs, slot * 4096, 4096, buf), ==, 0);
        g_assert_cmpuint(buf[0], >=, last_for(slot, p->flushed));
        g_assert_cmpuint(buf[0], <=, p->started);
    }
}

/* Two hundred times: fifty for each kind of image. */
static void test_kill(gconstpointer options)
{
    g_autofree char *img = path("kill.qcow2");
    Progress *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    qcow2_test_create(img, options, SIZE);
    for (unsigned i = 0; i < (thorough ? 500 : 50); i++) {
        unsigned goal = p->started + g_test_rand_int_range(1, 60);
        pid_t pid = fork();

        if (pid == 0) {
            child(img, p);
            _exit(0);
        }
        while (p->started < goal && waitpid(pid, NULL, WNOHANG) == 0) {
            g_usleep(g_test_rand_int_range(10, 1000));
        }
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        g_assert_cmpuint(p->started, >=, goal);
        qcow2_test_check(img, true);
        check_slots(img, p);
    }
    munmap(p, sizeof(*p));
    g_unlink(img);
}

/* ---- killed in the middle of a stream ------------------------------------------------------ */

/*
 * A drive over a base of 0xbb bytes. The child writes as above, and beside that
 * streams, again and again cancelled, and at some time takes a snapshot, until
 * it is killed. Whatever the headers say then: flushed writes are there, and
 * where nothing was written there is the base's data.
 */
static void nothing_ended(void *opaque, const BlockJobInfo *info)
{
}

typedef struct {
    BlockBackend *blk;
    const char *over;
    unsigned until_snapshot;
} Admin;

static void *administer(void *opaque)
{
    Admin *a = opaque;
    BlockJobSet *jobs = block_job_set_new(nothing_ended, NULL);

    for (unsigned i = 0;; i++) {
        if (i == a->until_snapshot) {
            block_snapshot(&(BlockSnapshot){ a->blk, a->over, "qcow2", false }, 1,
                           NULL);
        }
        block_stream_start(jobs, a->blk, NULL, 1 << (20 + i % 4), NULL);
        g_usleep(1000 << i % 8);
        block_job_cancel(jobs, "disk", true, NULL);
    }
    return NULL;
}

static void stream_child(const char *img, const char *over, unsigned until,
                         Progress *p)
{
    BlockNode *bs = block_test_open(img, "qcow2", FLAGS);
    Admin a = { blk_new(block_context_new(), "disk", bs, NULL), over, until };
    uint32_t buf[1024];
    pthread_t t;

    pthread_create(&t, NULL, administer, &a);
    for (unsigned n = 1;; n++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(buf); i++) {
            buf[i] = n;
        }
        p->started = n;
        if (blk_pwrite(a.blk, n * 37 % SLOTS * 4096, 4096, buf, 0) < 0) {
            _exit(1);
        }
        if (n % 5 == 0) {
            if (blk_flush(a.blk) < 0) {
                _exit(1);
            }
            p->flushed = n;
        }
    }
}

/* The snapshot, if there is one by now: whoever took it may have told nobody. */
static const char *which_image(const char *img, const char *over)
{
    g_autoptr(BlockNode) bs = bdrv_open(over, "qcow2", 0, NULL);

    return bs ? over : img;
}

static void check_over_base(const char *img, Progress *p)
{
    g_autoptr(BlockNode) bs = block_test_open(img, "qcow2", 0);
    uint32_t buf[1024];

    for (unsigned slot = 0; slot < SLOTS; slot++) {
        unsigned least = last_for(slot, p->flushed);

        g_assert_cmpint(bdrv_pread(bs, slot * 4096, 4096, buf), ==, 0);
        if (least || buf[0] != 0xbbbbbbbb) {
            g_assert_cmpuint(buf[0], >=, least);
            g_assert_cmpuint(buf[0], <=, p->started);
            g_assert_cmpuint(buf[0], >, 0);
        }
        g_assert_cmpint(memcmp(buf, buf + 1, sizeof(buf) - 4), ==, 0);
    }
}

static void test_kill_stream(void)
{
    g_autofree char *base = path("base.raw"), *img = path("kill.qcow2");
    g_autofree char *over = path("over.qcow2"), *data = g_malloc(SIZE);
    unsigned alone = 0, snapshots = 0;
    Progress *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    memset(data, 0xbb, SIZE);
    g_assert_true(g_file_set_contents_full(base, data, SIZE, 0, 0600, NULL));
    for (unsigned i = 0; i < (thorough ? 500 : 50); i++) {
        unsigned goal = g_test_rand_int_range(1, 200);
        unsigned until = g_test_rand_int_range(0, 4);
        g_autoptr(BlockNode) bs = NULL;
        const char *top;
        pid_t pid;

        p->started = p->flushed = 0;
        g_assert_true(bdrv_create(img, "qcow2", SIZE, base, "raw", NULL));
        pid = fork();
        if (pid == 0) {
            stream_child(img, over, until, p);
            _exit(0);
        }
        while (p->started < goal && waitpid(pid, NULL, WNOHANG) == 0) {
            g_usleep(g_test_rand_int_range(10, 1000));
        }
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        g_assert_cmpuint(p->started, >=, goal);
        top = which_image(img, over);
        qcow2_test_check(img, true);
        qcow2_test_check(top, true);
        check_over_base(top, p);
        bs = block_test_open(top, "qcow2", 0);
        alone += !bs->backing;
        snapshots += top == over;
        g_unlink(over);
        g_unlink(img);
    }
    g_test_message("%u images stood alone, %u snapshots", alone, snapshots);
    munmap(p, sizeof(*p));
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    thorough = g_getenv("SIDECAR_TEST_LONG");
    dir = block_test_dir_new();
    g_test_add_func("/qcow2/crash/cuts", test_cuts);
    g_test_add_data_func("/qcow2/crash/kill/4k", "cluster_size=4k", test_kill);
    g_test_add_data_func("/qcow2/crash/kill/64k", "cluster_size=64k", test_kill);
    g_test_add_data_func("/qcow2/crash/kill/512",
                         "cluster_size=512,refcount_bits=64", test_kill);
    g_test_add_data_func("/qcow2/crash/kill/v2", "cluster_size=4k,compat=0.10",
                         test_kill);
    g_test_add_func("/qcow2/crash/kill/stream", test_kill_stream);
    ret = g_test_run();
    block_test_dir_remove(dir);
    return ret;
}
