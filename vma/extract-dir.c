/*
 * The folder that vma extract makes.
 *
 * Everything is reached through descriptors of folders, and made with O_EXCL,
 * so that no link that somebody puts in the way is ever followed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "extract.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "util/error.h"

static mode_t get_umask(void)
{
    mode_t mask = umask(077);

    umask(mask);
    return mask;
}

/* mkdir .NAME.XXXXXX */
static bool make_temporary(ExtractDir *dir)
{
    for (int tries = 0; tries < 100; tries++) {
        g_autofree char *temp = g_strdup_printf(".%.240s.%06x", dir->base,
                                                g_random_int() & 0xffffff);

        if (mkdirat(dir->parent_fd, temp, 0700) == 0) {
            dir->temp = g_steal_pointer(&temp);
            return true;
        }
        if (errno != EEXIST) {
            break;
        }
    }
    return false;
}

static bool make(ExtractDir *dir, const char *parent, bool temporary, GError **errp)
{
    struct stat st;

    dir->parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir->parent_fd < 0) {
        error_set_errno(errp, errno, "%s: cannot open folder %s", dir->final, parent);
        return false;
    }
    if (fstatat(dir->parent_fd, dir->base, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        error_set_errno(errp, EEXIST, "%s: cannot create", dir->final);
        return false;
    }
    if (temporary ? !make_temporary(dir)
                  : mkdirat(dir->parent_fd, dir->base, 0777) < 0) {
        error_set_errno(errp, errno, "%s: cannot create", dir->final);
        return false;
    }
    /* A colon before the first slash would name a protocol to the block layer. */
    dir->path = g_build_filename(g_path_is_absolute(parent) ? "" : ".", parent,
                                 dir->temp ? dir->temp : dir->base, NULL);
    dir->fd = openat(dir->parent_fd, dir->temp ? dir->temp : dir->base,
                     O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir->fd < 0) {
        error_set_errno(errp, errno, "%s: cannot open", dir->path);
        unlinkat(dir->parent_fd, dir->temp ? dir->temp : dir->base, AT_REMOVEDIR);
        return false;
    }
    return true;
}

bool extract_dir_create(ExtractDir *dir, const char *path, bool temporary,
                        GError **errp)
{
    g_autofree char *trimmed = g_strdup(path);
    g_autofree char *parent = NULL;

    for (size_t n = strlen(trimmed); n > 1 && trimmed[n - 1] == '/'; n--) {
        trimmed[n - 1] = '\0';
    }
    dir->final = g_strdup(path);
    dir->parent_fd = dir->fd = -1;
    dir->files = g_ptr_array_new_with_free_func(g_free);
    dir->base = g_path_get_basename(trimmed);
    parent = g_path_get_dirname(trimmed);
    if (!*path) {
        error_set(errp, "the name of the target folder is empty");
        return false;
    }
    return make(dir, parent, temporary, errp);
}

void extract_dir_made(ExtractDir *dir, const char *name)
{
    g_ptr_array_add(dir->files, g_strdup(name));
}

int extract_dir_new_file(ExtractDir *dir, const char *name, GError **errp)
{
    int fd = openat(dir->fd, name,
                    O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);

    if (fd < 0) {
        error_set_errno(errp, errno, "%s/%s: cannot create", dir->final, name);
        return -1;
    }
    extract_dir_made(dir, name);
    return fd;
}

/* Never over something that exists.  Where the file system cannot promise
 * that, an empty folder of our own is what gets replaced. */
static bool rename_dir(ExtractDir *dir)
{
    int err;

    if (renameat2(dir->parent_fd, dir->temp, dir->parent_fd, dir->base,
                  RENAME_NOREPLACE) == 0) {
        return true;
    }
    if ((errno != EINVAL && errno != ENOSYS) ||
        mkdirat(dir->parent_fd, dir->base, 0700) < 0) {
        return false;
    }
    if (renameat(dir->parent_fd, dir->temp, dir->parent_fd, dir->base) == 0) {
        return true;
    }
    err = errno;
    unlinkat(dir->parent_fd, dir->base, AT_REMOVEDIR);
    errno = err;
    return false;
}

bool extract_dir_commit(ExtractDir *dir, bool sync, GError **errp)
{
    if (dir->temp && fchmod(dir->fd, 0777 & ~get_umask()) < 0) {
        error_set_errno(errp, errno, "%s: cannot set the mode", dir->final);
        return false;
    }
    if (sync && fsync(dir->fd) < 0) {
        error_set_errno(errp, errno, "%s: cannot sync", dir->final);
        return false;
    }
    if (dir->temp) {
        if (!rename_dir(dir)) {
            error_set_errno(errp, errno, "%s: cannot give the folder its name",
                            dir->final);
            return false;
        }
        g_free(dir->temp);
        dir->temp = NULL;
    }
    if (sync && fsync(dir->parent_fd) < 0) {
        error_set_errno(errp, errno, "%s: cannot sync the folder it is in",
                        dir->final);
        return false;
    }
    dir->committed = true;
    return true;
}

void extract_dir_clear(ExtractDir *dir)
{
    if (dir->fd >= 0 && !dir->committed) {
        for (unsigned i = 0; i < dir->files->len; i++) {
            unlinkat(dir->fd, g_ptr_array_index(dir->files, i), 0);
        }
        unlinkat(dir->parent_fd, dir->temp ? dir->temp : dir->base, AT_REMOVEDIR);
    }
    if (dir->fd >= 0) {
        close(dir->fd);
    }
    if (dir->parent_fd >= 0) {
        close(dir->parent_fd);
    }
    if (dir->files) {
        g_ptr_array_unref(dir->files);
    }
    g_free(dir->final);
    g_free(dir->base);
    g_free(dir->path);
    g_free(dir->temp);
}
