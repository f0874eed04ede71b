/*
 * A new archive file.  Until commit it has no name at all (O_TMPFILE), so that
 * even a killed program leaves nothing behind; where the file system cannot do
 * that it is called .NAME.XXXXXX, in the same folder.  Commit syncs the file,
 * gives it its name in one step that never replaces anything, and syncs the
 * folder.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "util/error.h"

/* Cancel is noticed between pieces of this size. */
#define PIECE (8 * 1024 * 1024)
/* So much is left to gather in the page cache before its way to the disk is
 * started: the sync at the end has little to wait for then. */
#define FLUSH_BEHIND (8 * 1024 * 1024)

static void start_writeback(VmaTarget *t)
{
    if (!t->no_sync && t->written - t->flushing >= FLUSH_BEHIND) {
        /* Only to be early: errors come back from fsync. */
        sync_file_range(t->fd, t->flushing, t->written - t->flushing,
                        SYNC_FILE_RANGE_WRITE);
        t->flushing = t->written;
    }
}

static bool file_write(VmaTarget *t, const void *buf, size_t len, GError **errp)
{
    const char *p = buf;

    while (len) {
        ssize_t n = write(t->fd, p, MIN(len, PIECE));

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            vma_target_error(t, n < 0 ? errno : ENOSPC, errp);
            return false;
        }
        p += n;
        len -= n;
        t->written += n;
        start_writeback(t);
        if (!vma_target_check(t, errp)) {
            return false;
        }
    }
    return true;
}

/*
 * Give the temporary file t->temp the name t->base.  renameat2 is missing on
 * some network file systems, link on FAT and some others; for those we take
 * the name first with an empty file of our own and then replace that.
 */
static int rename_noreplace(VmaTarget *t)
{
    int fd;

    if (renameat2(t->dir_fd, t->temp, t->dir_fd, t->base, RENAME_NOREPLACE) == 0) {
        return 0;
    }
    if (errno != EINVAL && errno != ENOSYS) {
        return -errno;
    }
    if (linkat(t->dir_fd, t->temp, t->dir_fd, t->base, 0) == 0) {
        unlinkat(t->dir_fd, t->temp, 0);
        return 0;
    }
    if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS) {
        return -errno;
    }
    fd = openat(t->dir_fd, t->base, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) {
        return -errno;
    }
    close(fd);
    if (renameat(t->dir_fd, t->temp, t->dir_fd, t->base) == 0) {
        return 0;
    }
    fd = -errno;
    unlinkat(t->dir_fd, t->base, 0);
    return fd;
}

static int give_name(VmaTarget *t)
{
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", t->fd);
    int ret;

    if (t->temp) {
        ret = rename_noreplace(t);
        if (ret == 0) {
            g_clear_pointer(&t->temp, g_free);
        }
        return ret;
    }
    /* The first form needs a privilege on older kernels, the second /proc. */
    if (linkat(t->fd, "", t->dir_fd, t->base, AT_EMPTY_PATH) == 0 ||
        (errno != EEXIST &&
         linkat(AT_FDCWD, self, t->dir_fd, t->base, AT_SYMLINK_FOLLOW) == 0)) {
        return 0;
    }
    return -errno;
}

static bool file_commit(VmaTarget *t, GError **errp)
{
    int ret;

    if (!t->no_sync && fsync(t->fd) < 0) {
        error_set_errno(errp, errno, "%s: cannot sync", t->name);
        return false;
    }
    if (!vma_target_check(t, errp)) {
        return false;
    }
    ret = give_name(t);
    if (ret < 0) {
        error_set_errno(errp, -ret, "%s: cannot give the archive its name",
                        t->name);
        return false;
    }
    if (!t->no_sync && fsync(t->dir_fd) < 0) {
        error_set_errno(errp, errno, "%s: cannot sync its folder", t->name);
        unlinkat(t->dir_fd, t->base, 0);
        return false;
    }
    ret = close(t->fd);
    t->fd = -1;
    if (ret < 0 && errno != EINTR) {
        error_set_errno(errp, errno, "%s: cannot close", t->name);
        unlinkat(t->dir_fd, t->base, 0);
        return false;
    }
    return true;
}

static void file_release(VmaTarget *t)
{
    if (t->fd >= 0) {
        close(t->fd);
    }
    if (t->temp) {
        unlinkat(t->dir_fd, t->temp, 0);
    }
    if (t->dir_fd >= 0) {
        close(t->dir_fd);
    }
    g_free(t->temp);
    g_free(t->base);
}

static const VmaTargetOps file_ops = {
    .write = file_write,
    .commit = file_commit,
    .release = file_release,
};

/* A file of our own in t->dir_fd, named .BASE.XXXXXX. */
static int create_named(VmaTarget *t)
{
    for (int tries = 0; tries < 100; tries++) {
        g_autofree char *temp =
            g_strdup_printf(".%.240s.%06x", t->base, g_random_int() & 0xffffff);
        int fd = openat(t->dir_fd, temp,
                        O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);

        if (fd >= 0) {
            t->temp = g_steal_pointer(&temp);
            return fd;
        }
        if (errno != EEXIST) {
            break;
        }
    }
    return -1;
}

static bool file_create(VmaTarget *t, const char *path, GError **errp)
{
    g_autofree char *dir = g_path_get_dirname(path);
    struct stat st;

    t->base = g_path_get_basename(path);
    if (!*path || path[strlen(path) - 1] == '/' || strcmp(t->base, "..") == 0 ||
        strcmp(t->base, ".") == 0) {
        error_set(errp, "%s: not the name of a file", t->name);
        return false;
    }
    t->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->dir_fd < 0) {
        error_set_errno(errp, errno, "%s: cannot open folder %s", t->name, dir);
        return false;
    }
    /* Commit decides; this only says so before hours of work. */
    if (fstatat(t->dir_fd, t->base, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        error_set_errno(errp, EEXIST, "%s: cannot create", t->name);
        return false;
    }
    t->fd = openat(t->dir_fd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0644);
    if (t->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL ||
                      errno == ENOENT)) {
        t->fd = create_named(t);
    }
    if (t->fd < 0) {
        error_set_errno(errp, errno, "%s: cannot create", t->name);
        return false;
    }
    return true;
}

VmaTarget *vma_target_open_file(const char *path, GError **errp)
{
    VmaTarget *t = vma_target_new(&file_ops, path);

    if (!file_create(t, path, errp)) {
        vma_target_free(t);
        return NULL;
    }
    return t;
}
