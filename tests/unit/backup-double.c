/*
 * Help for tests of backups; see backup-double.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "backup-double.h"

#include "util/error.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

/* ---- the driver ------------------------------------------------------------ */

MemBackup mem = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .cond = PTHREAD_COND_INITIALIZER,
    .fd = -1,
};

void mem_reset(void)
{
    for (unsigned i = 0; i < mem.n_streams; i++) {
        g_free(mem.streams[i].name);
        g_free(mem.streams[i].data);
        g_free(mem.streams[i].n_dumped);
    }
    g_free(mem.configs);
    mem = (MemBackup){
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .cond = PTHREAD_COND_INITIALIZER,
        .configs = g_strdup(""),
        .fd = -1,
    };
}

void mem_set(bool *what, bool value)
{
    pthread_mutex_lock(&mem.lock);
    *what = value;
    mem.held = false; /* who still has to wait says so again */
    pthread_cond_broadcast(&mem.cond);
    pthread_mutex_unlock(&mem.lock);
}

void mem_wait_held(void)
{
    pthread_mutex_lock(&mem.lock);
    while (!mem.held) {
        pthread_cond_wait(&mem.cond, &mem.lock);
    }
    pthread_mutex_unlock(&mem.lock);
}

void mem_wait_cancelled(void)
{
    pthread_mutex_lock(&mem.lock);
    while (!mem.cancelled) {
        pthread_cond_wait(&mem.cond, &mem.lock);
    }
    pthread_mutex_unlock(&mem.lock);
}

const MemStream *mem_stream(const char *name)
{
    for (unsigned i = 0; i < mem.n_streams; i++) {
        if (strcmp(mem.streams[i].name, name) == 0) {
            return &mem.streams[i];
        }
    }
    g_assert_not_reached();
}

/* Every call starts here, with the lock taken: wait while *@hold, fail when it
 * is its turn or everything was cancelled. */
static bool begin(const bool *hold, GError **errp)
{
    pthread_mutex_lock(&mem.lock);
    mem.n_calls++;
    while (hold && *hold && !mem.cancelled) {
        mem.held = true;
        pthread_cond_broadcast(&mem.cond);
        pthread_cond_wait(&mem.cond, &mem.lock);
    }
    mem.held = false;
    if (mem.cancelled) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED, "mem: cancelled");
        return false;
    }
    if (mem.n_calls == mem.fail_at) {
        error_set(errp, "mem: call %u fails", mem.n_calls);
        return false;
    }
    return true;
}

static bool end(bool ok)
{
    pthread_mutex_unlock(&mem.lock);
    return ok;
}

static void *mem_new(const char *spec, int fd, const uint8_t uuid[16], GError **errp)
{
    bool ok = begin(NULL, errp);

    mem.n_new += ok;
    mem.fd = fd;
    if (!ok && fd >= 0) {
        close(fd);
    }
    return end(ok) ? &mem : NULL;
}

static bool mem_open(void *opaque, GError **errp)
{
    bool ok = begin(&mem.hold_open, errp);

    mem.n_open += ok;
    return end(ok);
}

static bool mem_register_config(void *opaque, const char *name, const void *data,
                                size_t len, GError **errp)
{
    bool ok = begin(NULL, errp);
    char *old = mem.configs;

    mem.configs = g_strdup_printf("%s%s=%.*s;", old, name, (int)len, (const char *)data);
    mem.n_configs++;
    g_free(old);
    return end(ok);
}

static int mem_register_stream(void *opaque, const char *name, uint64_t size,
                               GError **errp)
{
    bool ok = begin(NULL, errp);
    MemStream *s = &mem.streams[mem.n_streams++];

    g_assert_cmpuint(mem.n_streams, <=, MEM_MAX_STREAMS);
    s->name = g_strdup(name);
    s->size = size;
    s->n_clusters = (size + BACKUP_CLUSTER_SIZE - 1) / BACKUP_CLUSTER_SIZE;
    s->data = g_malloc(s->n_clusters * BACKUP_CLUSTER_SIZE);
    s->n_dumped = g_new0(unsigned, s->n_clusters);
    return end(ok) ? (int)mem.n_streams : -1;
}

static size_t count_zeros(const uint8_t *buf)
{
    size_t n = 0;

    for (size_t i = 0; i < BACKUP_CLUSTER_SIZE; i += 4096) {
        if (buf[i] == 0 && memcmp(buf + i, buf + i + 1, 4095) == 0) {
            n += 4096;
        }
    }
    return n;
}

static bool mem_dump(void *opaque, int stream, uint64_t cluster, const void *buf,
                     size_t *zero_bytes, GError **errp)
{
    bool ok = begin(&mem.hold_dump, errp);
    unsigned delay = mem.dump_delay_us;
    MemStream *s = &mem.streams[stream - 1];
    uint8_t *to;

    g_assert_cmpuint(cluster, <, s->n_clusters);
    to = s->data + cluster * BACKUP_CLUSTER_SIZE;
    s->n_dumped[cluster]++;
    end(ok);
    if (buf) {
        memcpy(to, buf, BACKUP_CLUSTER_SIZE);
    } else {
        memset(to, 0, BACKUP_CLUSTER_SIZE);
    }
    *zero_bytes = count_zeros(to);
    if (delay) {
        g_usleep(delay);
    }
    return ok;
}

static bool mem_complete(void *opaque, GError **errp)
{
    bool ok = begin(&mem.hold_complete, errp);

    mem.n_complete += ok;
    return end(ok);
}

static void mem_cancel(void *opaque)
{
    pthread_mutex_lock(&mem.lock);
    g_assert_cmpuint(mem.n_close, ==, 0);
    mem.n_cancel++;
    mem.cancelled = true;
    pthread_cond_broadcast(&mem.cond);
    pthread_mutex_unlock(&mem.lock);
}

static void mem_close(void *opaque)
{
    pthread_mutex_lock(&mem.lock);
    mem.n_close++;
    if (mem.fd >= 0) {
        close(mem.fd);
    }
    pthread_mutex_unlock(&mem.lock);
}

static const BackupDriver mem_driver = {
    .format = "mem",
    .max_config_size = 1000,
    .max_configs = 3,
    .max_streams = MEM_MAX_STREAMS,
    .new = mem_new,
    .open = mem_open,
    .register_config = mem_register_config,
    .register_stream = mem_register_stream,
    .dump = mem_dump,
    .complete = mem_complete,
    .cancel = mem_cancel,
    .close = mem_close,
};

const BackupDriver *const mem_drivers[] = { &mem_driver, NULL };

void mem_assert_exactly_once(void)
{
    for (unsigned i = 0; i < mem.n_streams; i++) {
        for (uint64_t c = 0; c < mem.streams[i].n_clusters; c++) {
            g_assert_cmpuint(mem.streams[i].n_dumped[c], ==, 1);
        }
    }
}

void mem_assert_content(const char *name, const uint8_t *data, uint64_t size)
{
    const MemStream *s = mem_stream(name);
    uint64_t end = s->n_clusters * BACKUP_CLUSTER_SIZE;

    g_assert_cmpuint(s->size, ==, size);
    g_assert_cmpint(memcmp(s->data, data, size), ==, 0);
    for (uint64_t i = size; i < end; i++) {
        g_assert_cmpuint(s->data[i], ==, 0);
    }
}

/* ---- drives -------------------------------------------------------------------- */

TestVm *test_vm_new(bool real_drivers)
{
    TestVm *vm = g_new0(TestVm, 1);

    vm->dir = g_dir_make_tmp("backup-test.XXXXXX", NULL);
    g_assert_nonnull(vm->dir);
    vm->flags = BDRV_O_RDWR | BDRV_O_UNMAP;
    vm->ctx = block_context_new();
    vm->mgr = real_drivers ? backup_manager_new(vm->ctx)
                           : backup_manager_new_with_drivers(vm->ctx, mem_drivers);
    mem_reset();
    return vm;
}

void test_vm_free(TestVm *vm)
{
    const char *name;
    GDir *dir;

    backup_manager_free(vm->mgr);
    block_context_free(vm->ctx);
    dir = g_dir_open(vm->dir, 0, NULL);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(vm->dir, name, NULL);

        g_remove(path);
    }
    g_dir_close(dir);
    g_assert_cmpint(g_rmdir(vm->dir), ==, 0);
    g_free(vm->dir);
    g_free(vm);
    mem_reset();
}

char *test_vm_path(TestVm *vm, const char *file)
{
    return g_build_filename(vm->dir, file, NULL);
}

BlockBackend *test_vm_add(TestVm *vm, const char *name, uint64_t size,
                          const char *prefix)
{
    g_autofree char *path = test_vm_path(vm, name);
    g_autofree char *file = g_strconcat(prefix ? prefix : "", path, NULL);
    g_autoptr(GError) err = NULL;
    g_autoptr(BlockNode) node = NULL;
    BlockBackend *blk;

    bdrv_create(path, "raw", size, NULL, NULL, &err);
    g_assert_no_error(err);
    node = bdrv_open(file, "raw", vm->flags, &err);
    g_assert_no_error(err);
    blk = blk_new(vm->ctx, name, node, &err);
    g_assert_no_error(err);
    return blk;
}

void test_fill_buffer(uint8_t *data, int64_t size, unsigned seed)
{
    for (int64_t i = 0; i < size; i++) {
        seed = seed * 1103515245 + 12345;
        data[i] = seed >> 24 | 1;
    }
}

void test_fill(BlockBackend *blk, unsigned seed)
{
    int64_t size = blk_length(blk);
    g_autofree uint8_t *data = g_malloc(size);

    test_fill_buffer(data, size, seed);
    g_assert_cmpint(blk_pwrite(blk, 0, size, data, 0), ==, 0);
}

uint8_t *test_read_all(BlockBackend *blk)
{
    int64_t size = blk_length(blk);
    uint8_t *data = g_malloc(size);

    g_assert_cmpint(blk_pread(blk, 0, size, data), ==, 0);
    return data;
}

BackupRequest test_request(void)
{
    return (BackupRequest){ .backup_file = "somewhere", .target_fd = -1 };
}

BackupStatus test_wait_end(BackupManager *mgr)
{
    BackupStatus st;

    for (;;) {
        backup_query(mgr, &st);
        if (st.status != BACKUP_STATUS_ACTIVE) {
            return st;
        }
        backup_status_clear(&st);
        g_usleep(500); /* there is no event for it */
    }
}

void test_start(TestVm *vm, const BackupRequest *req)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *uuid = backup_start(vm->mgr, req, &err);

    g_assert_no_error(err);
    g_assert_nonnull(uuid);
}

void test_write_clusters(BlockBackend *blk, int64_t first, int64_t n)
{
    g_autofree uint8_t *buf = g_malloc(CLUSTER);
    int64_t length = blk_length(blk);

    memset(buf, 0xaa, CLUSTER);
    for (int64_t c = first; c < first + n; c++) {
        g_assert_cmpint(blk_pwrite(blk, c * CLUSTER, MIN(CLUSTER, length - c * CLUSTER), buf, 0),
                        ==, 0);
    }
}

void test_assert_ended(TestVm *vm, BackupStatusCode status, const char *words)
{
    BackupStatus st = test_wait_end(vm->mgr);

    g_assert_cmpint(st.status, ==, status);
    if (words) {
        g_assert_nonnull(st.errmsg);
        g_test_message("errmsg: %s", st.errmsg);
        g_assert_nonnull(strstr(st.errmsg, words));
    } else {
        g_assert_cmpstr(st.errmsg, ==, NULL);
    }
    backup_status_clear(&st);
}

void test_assert_drive_is_free(BlockBackend *blk)
{
    g_autoptr(GError) err = NULL;
    uint8_t byte = 1;

    blk_claim(blk, "test", &err);
    g_assert_no_error(err);
    blk_release(blk);
    g_assert_cmpint(blk_pwrite(blk, 0, 1, &byte, 0), ==, 0);
}
