/*
 * From what a user asked for to a job that can be started: which drives, which
 * configuration files, which format.  Everything that can be refused without
 * opening the archive is refused here, and leaves nothing behind.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "job.h"

#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uuid/uuid.h>

/* ---- configuration files ------------------------------------------------- */

static void config_free(void *opaque)
{
    BackupConfig *cfg = opaque;

    g_free(cfg->name);
    g_free(cfg->data);
    g_free(cfg);
}

/* All of @fd, which should be @size bytes long and must not have grown. */
static bool read_all(int fd, const char *path, char *buf, size_t size, GError **errp)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = read(fd, buf + done, size - done);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            error_set_errno(errp, errno, "config file '%s': reading", path);
            return false;
        }
        if (n == 0) {
            error_set(errp, "config file '%s': it became shorter while it was read", path);
            return false;
        }
        done += n;
    }
    return true;
}

static bool config_read_fd(BackupConfig *cfg, int fd, const char *path,
                           size_t max_size, GError **errp)
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        error_set_errno(errp, errno, "config file '%s'", path);
        return false;
    }
    if (!S_ISREG(st.st_mode)) {
        error_set(errp, "config file '%s' is not a regular file", path);
        return false;
    }
    if ((uint64_t)st.st_size > max_size) {
        error_set(errp, "config file '%s' is too large (%jd bytes, at most %zu)",
                  path, (intmax_t)st.st_size, max_size);
        return false;
    }
    cfg->len = st.st_size;
    cfg->data = g_malloc(cfg->len + 1);
    return read_all(fd, path, cfg->data, cfg->len, errp);
}

static bool name_is_taken(const GPtrArray *configs, const char *name)
{
    for (unsigned i = 0; i < configs->len; i++) {
        const BackupConfig *cfg = g_ptr_array_index(configs, i);

        if (strcmp(cfg->name, name) == 0) {
            return true;
        }
    }
    return false;
}

static bool add_config(BackupJob *job, const char *path, GError **errp)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    BackupConfig *cfg;
    bool ok;
    int fd;

    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        error_set(errp, "config file '%s' has no file name", path);
        return false;
    }
    if (name_is_taken(job->configs, name)) {
        error_set(errp, "config file '%s': there is already one named '%s'", path, name);
        return false;
    }
    if (job->configs->len >= job->drv->max_configs) {
        error_set(errp, "config file '%s': more than %u of them", path, job->drv->max_configs);
        return false;
    }
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        error_set_errno(errp, errno, "config file '%s'", path);
        return false;
    }
    cfg = g_new0(BackupConfig, 1);
    cfg->name = g_strdup(name);
    g_ptr_array_add(job->configs, cfg);
    ok = config_read_fd(cfg, fd, path, job->drv->max_config_size, errp);
    close(fd);
    return ok;
}

static bool add_configs(BackupJob *job, const char *const *paths, GError **errp)
{
    for (; paths && *paths; paths++) {
        if (!add_config(job, *paths, errp)) {
            return false;
        }
    }
    return true;
}

/* ---- drives ------------------------------------------------------------------ */

static bool check_use(BlockBackend *blk, GError **errp)
{
    switch (blk_use(blk)) {
    case BLK_GONE:
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_DEVICE_NOT_FOUND,
                    "Device '%s' not found", blk_name(blk));
        return false;
    case BLK_MOVED:
        error_set(errp, "Device '%s' runs from an image of QEMU's own now, which can't "
                  "be backed up", blk_name(blk));
        return false;
    default:
        return true;
    }
}

/* A drive that can be backed up; its node, or NULL and an error. */
static BlockNode *usable_node(BlockBackend *blk, GError **errp)
{
    g_autoptr(BlockNode) node = blk_get_node(blk);

    if (!check_use(blk, errp)) {
        return NULL;
    }
    if (!node) {
        error_set(errp, "Device '%s' has no medium", blk_name(blk));
        return NULL;
    }
    if (bdrv_is_read_only(node)) {
        error_set(errp, "Device '%s' is read only", blk_name(blk));
        return NULL;
    }
    if (bdrv_length(node) == 0) {
        error_set(errp, "Device '%s' has a size of 0 bytes", blk_name(blk));
        return NULL;
    }
    return g_steal_pointer(&node);
}

static bool find_drive(BlockContext *ctx, const char *name, GPtrArray *found,
                       GError **errp)
{
    BlockBackend *blk = blk_by_name(ctx, name);
    g_autoptr(BlockNode) node = NULL;

    if (!blk) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_DEVICE_NOT_FOUND,
                    "Device '%s' not found", name);
        return false;
    }
    if (g_ptr_array_find(found, blk, NULL)) {
        error_set(errp, "Device '%s' is named twice", name);
        return false;
    }
    node = usable_node(blk, errp);
    if (!node) {
        return false;
    }
    g_ptr_array_add(found, blk);
    return true;
}

static bool find_listed(BlockContext *ctx, const char *devlist, GPtrArray *found,
                        GError **errp)
{
    g_auto(GStrv) names = g_strsplit_set(devlist, ",;:", -1);

    for (char **p = names; *p; p++) {
        g_strstrip(*p);
        if (**p && !find_drive(ctx, *p, found, errp)) {
            return false;
        }
    }
    if (!found->len) {
        error_set(errp, "empty device list");
        return false;
    }
    return true;
}

static bool find_all(BlockContext *ctx, GPtrArray *found, GError **errp)
{
    g_autoptr(GPtrArray) all = blk_all(ctx);

    for (unsigned i = 0; i < all->len; i++) {
        BlockBackend *blk = g_ptr_array_index(all, i);
        g_autoptr(BlockNode) node = usable_node(blk, NULL);

        /* "All drives" must not leave one out without a word. */
        if (blk_use(blk) == BLK_MOVED && !check_use(blk, errp)) {
            g_prefix_error(errp, "name the drives to back up: ");
            return false;
        }
        if (node) {
            g_ptr_array_add(found, blk);
        }
    }
    if (!found->len) {
        error_set(errp, "there is no drive that can be backed up "
                  "(with a medium, and not read only)");
        return false;
    }
    return true;
}

/* Claim a drive and look at it again: before the claim it could have been
 * ejected or resized. */
static bool add_drive(BackupJob *job, BlockBackend *blk, GError **errp)
{
    BackupDrive *d = &job->drives[job->n_drives];
    int64_t allocated;

    if (!blk_claim(blk, "backup", errp)) {
        return false;
    }
    job->blks[job->n_drives] = blk;
    d->job = job;
    d->index = job->n_drives++;
    d->blk = blk;
    d->node = usable_node(blk, errp);
    if (!d->node) {
        return false;
    }
    d->length = bdrv_length(d->node);
    d->n_clusters = (d->length - 1) / BACKUP_CLUSTER_SIZE + 1;
    allocated = bdrv_allocated_size(d->node);
    d->has_holes = allocated < 0 || allocated < d->length;
    if (!backup_drive_init(d, errp)) {
        return false;
    }
    job->total += d->length;
    return true;
}

static bool add_drives(BackupJob *job, const char *devlist, GError **errp)
{
    g_autoptr(GPtrArray) found = g_ptr_array_new();

    if (!(devlist ? find_listed(job->ctx, devlist, found, errp)
                  : find_all(job->ctx, found, errp))) {
        return false;
    }
    if (found->len > job->drv->max_streams) {
        error_set(errp, "%u drives are more than the %u that an archive holds",
                  found->len, job->drv->max_streams);
        return false;
    }
    job->drives = g_new0(BackupDrive, found->len);
    job->blks = g_new0(BlockBackend *, found->len);
    for (unsigned i = 0; i < found->len; i++) {
        if (!add_drive(job, g_ptr_array_index(found, i), errp)) {
            return false;
        }
    }
    return true;
}

/* ---- the whole ------------------------------------------------------------------ */

static const BackupDriver *find_driver(const BackupDriver *const *drivers,
                                       const char *format, GError **errp)
{
    for (; *drivers; drivers++) {
        if (!format || strcmp((*drivers)->format, format) == 0) {
            return *drivers;
        }
    }
    error_set(errp, "unknown backup format '%s'", format);
    return NULL;
}

static bool check_target(const BackupRequest *req, GError **errp)
{
    const char *file = req->backup_file;

    if (!file || !*file) {
        error_set(errp, "no backup file is named");
        return false;
    }
    if (req->target_fd < 0 && strcmp(file, "-") == 0) {
        error_set(errp, "backup file '-': standard output belongs to the VM");
        return false;
    }
    if (req->speed < 0) {
        error_set(errp, "backup speed %" G_GINT64_FORMAT " is negative", req->speed);
        return false;
    }
    return true;
}

BackupJob *backup_job_new(BlockContext *ctx, const BackupRequest *req,
                          const BackupDriver *const *drivers, GError **errp)
{
    BackupJob *job = g_new0(BackupJob, 1);

    job->ctx = ctx;
    job->backup_file = g_strdup(req->backup_file);
    job->configs = g_ptr_array_new_with_free_func(config_free);
    pthread_mutex_init(&job->lock, NULL);
    pthread_mutex_init(&job->stashed_lock, NULL);
    g_queue_init(&job->stashed);
    ratelimit_init(&job->limit, req->speed);
    job->speed = req->speed;
    uuid_generate(job->uuid);
    job->drv = find_driver(drivers, req->format, errp);
    if (!job->drv || !check_target(req, errp) ||
        !add_configs(job, req->config_files, errp) ||
        !add_drives(job, req->devlist, errp)) {
        backup_job_free(job);
        return NULL;
    }
    return job;
}
