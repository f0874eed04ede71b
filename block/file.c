/*
 * The protocol `file': a regular file or a block device of the host.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "util/error.h"

typedef struct {
    int fd;
} FileState;

static bool file_open(BlockNode *bs, int flags, GError **errp)
{
    FileState *s = bs->opaque;
    struct stat st;
    int oflags = (flags & BDRV_O_RDWR ? O_RDWR : O_RDONLY) | O_CLOEXEC;

    if (flags & BDRV_O_CREATE_EXCL) {
        oflags |= O_CREAT | O_EXCL;
    }
    s->fd = open(bs->filename, oflags, 0644);
    if (s->fd < 0) {
        error_set_errno(errp, errno, "Could not open '%s'", bs->filename);
        return false;
    }
    if (fstat(s->fd, &st) < 0 || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))) {
        error_set(errp, "Could not open '%s': not a regular file or block device",
                  bs->filename);
        close(s->fd);
        return false;
    }
    return true;
}

static void file_close(BlockNode *bs)
{
    FileState *s = bs->opaque;

    close(s->fd);
}

static int64_t file_length(BlockNode *bs)
{
    FileState *s = bs->opaque;
    int64_t n = lseek(s->fd, 0, SEEK_END);

    return n < 0 ? -errno : n;
}

static int64_t file_allocated_size(BlockNode *bs)
{
    FileState *s = bs->opaque;
    struct stat st;

    return fstat(s->fd, &st) < 0 ? -errno : (int64_t)st.st_blocks * 512;
}

static bool file_create(const char *filename, int64_t size,
                        const char *backing_file, const char *backing_format,
                        GError **errp)
{
    int fd = open(filename, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    int err = 0;

    if (fd < 0) {
        error_set_errno(errp, errno, "Could not create '%s'", filename);
        return false;
    }
    if (ftruncate(fd, size) < 0) {
        err = errno;
        unlink(filename);
        error_set_errno(errp, err, "Could not create '%s'", filename);
    }
    close(fd);
    return !err;
}

static int file_pread(BlockNode *bs, int64_t offset, int64_t bytes, void *buf)
{
    FileState *s = bs->opaque;

    while (bytes > 0) {
        ssize_t n = pread(s->fd, buf, bytes, offset);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO; /* 0: shorter than it was */
        }
        buf = (char *)buf + n;
        offset += n;
        bytes -= n;
    }
    return 0;
}

static int file_pwrite(BlockNode *bs, int64_t offset, int64_t bytes,
                       const void *buf, int flags)
{
    FileState *s = bs->opaque;

    while (bytes > 0) {
        struct iovec iov = { (void *)buf, bytes };
        ssize_t n = flags & BDRV_REQ_FUA
                        ? pwritev2(s->fd, &iov, 1, offset, RWF_DSYNC)
                        : pwrite(s->fd, buf, bytes, offset);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -ENOSPC;
        }
        buf = (const char *)buf + n;
        offset += n;
        bytes -= n;
    }
    return 0;
}

static int do_fallocate(BlockNode *bs, int mode, int64_t offset, int64_t bytes)
{
    FileState *s = bs->opaque;

    while (fallocate(s->fd, mode, offset, bytes) < 0) {
        if (errno != EINTR) {
            return errno == EOPNOTSUPP || errno == ENODEV ? -ENOTSUP : -errno;
        }
    }
    return 0;
}

static int file_pwrite_zeroes(BlockNode *bs, int64_t offset, int64_t bytes,
                              int flags)
{
    int mode = flags & BDRV_REQ_MAY_UNMAP ? FALLOC_FL_PUNCH_HOLE
                                          : FALLOC_FL_ZERO_RANGE;

    return do_fallocate(bs, mode | FALLOC_FL_KEEP_SIZE, offset, bytes);
}

static int file_pdiscard(BlockNode *bs, int64_t offset, int64_t bytes)
{
    return do_fallocate(bs, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                        bytes);
}

static int file_flush(BlockNode *bs)
{
    FileState *s = bs->opaque;

    return fdatasync(s->fd) < 0 ? -errno : 0;
}

static int file_block_status(BlockNode *bs, int64_t offset, int64_t bytes,
                             int64_t *pnum)
{
    FileState *s = bs->opaque;
    off_t data = lseek(s->fd, offset, SEEK_DATA), hole;

    if (data < 0 && errno != ENXIO) {
        *pnum = bytes;
        return BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED;
    }
    if (data < 0 || data > offset) {
        *pnum = data < 0 ? bytes : MIN(bytes, data - offset);
        return BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED;
    }
    hole = lseek(s->fd, offset, SEEK_HOLE);
    *pnum = hole <= offset ? bytes : MIN(bytes, hole - offset);
    return BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED;
}

static bool file_truncate(BlockNode *bs, int64_t size, GError **errp)
{
    FileState *s = bs->opaque;

    if (ftruncate(s->fd, size) < 0) {
        error_set_errno(errp, errno, "Could not resize '%s'", bs->filename);
        return false;
    }
    return true;
}

const BlockDriver bdrv_file = {
    .format_name = "file",
    .is_protocol = true,
    .instance_size = sizeof(FileState),
    .open = file_open,
    .close = file_close,
    .create = file_create,
    .length = file_length,
    .allocated_size = file_allocated_size,
    .pread = file_pread,
    .pwrite = file_pwrite,
    .pwrite_zeroes = file_pwrite_zeroes,
    .pdiscard = file_pdiscard,
    .flush = file_flush,
    .block_status = file_block_status,
    .truncate = file_truncate,
    .supports_fua = true,
};
