/*
 * The protocol `file': a regular file or a block device of the host.
 *
 * Buffered (no BDRV_O_NOCACHE): pread and pwrite, any alignment.
 *
 * O_DIRECT (BDRV_O_NOCACHE): aligned requests only; io.c sees to it.  With
 * BDRV_O_NATIVE_AIO they go through libaio.  If the file's size is no multiple
 * of the alignment, its end can't be written so.  What lies behind the last
 * whole page (`tail_start') is then read and written through a second, buffered
 * descriptor:
 *
 *      0                             tail_start      length
 *      |<---------- O_DIRECT -------------->|<-- buffered -->|
 *
 * No page is reached both ways, so the kernel's page cache never holds a stale
 * copy of a block written around it.  (Its readahead is off for the same
 * reason.)
 *
 * Failure
 *  - A file that is shorter than it was when opened: reads behind its end give
 *    -EIO, and its missing end counts as data, so that nobody takes it for a
 *    hole.
 *  - After a failed fdatasync of a buffered file the kernel has dropped what
 *    it could not write, and the next fdatasync would succeed.  So the error
 *    stays: no flush succeeds until the image is opened again.
 *
 * Everything in FileState is set by open and truncate, when no request is
 * running, except what is atomic.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "util/error.h"

#define PAGE_BYTES 4096

typedef struct {
    int fd;
    int tail_fd;        /* -1: everything goes through fd */
    int64_t tail_start; /* INT64_MAX without tail_fd */
    uint32_t align;     /* of requests to fd */
    bool direct, native, is_blockdev;

    /* Found out by trying. */
    _Atomic bool no_punch, no_zero_range, no_dsync;
    _Atomic int sync_errno; /* of the first failed fdatasync */
} FileState;

/* ---- opening --------------------------------------------------------- */

static int open_flags(int flags)
{
    return (flags & BDRV_O_RDWR ? O_RDWR : O_RDONLY) | O_CLOEXEC |
           (flags & BDRV_O_NOCACHE ? O_DIRECT : 0) |
           (flags & BDRV_O_CREATE_EXCL ? O_CREAT | O_EXCL : 0);
}

/* Neither a directory nor something whose open would wait for a peer. */
static bool check_type(const char *filename, const struct stat *st,
                       GError **errp)
{
    if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode)) {
        return true;
    }
    error_set(errp, "Could not open '%s': not a regular file or block device",
              filename);
    return false;
}

static bool open_fd(FileState *s, const char *filename, int flags,
                    GError **errp)
{
    struct stat st;

    if (stat(filename, &st) == 0 && !check_type(filename, &st, errp)) {
        return false;
    }
    s->fd = open(filename, open_flags(flags), 0644);
    if (s->fd < 0) {
        int err = errno;

        if (err == EINVAL && (flags & BDRV_O_NOCACHE)) {
            error_set(errp, "Could not open '%s': file system may not support "
                      "O_DIRECT", filename);
        } else {
            error_set_errno(errp, err, "Could not open '%s'", filename);
        }
        return false;
    }
    if (fstat(s->fd, &st) < 0) {
        error_set_errno(errp, errno, "Could not stat '%s'", filename);
        return false;
    }
    s->is_blockdev = S_ISBLK(st.st_mode);
    return check_type(filename, &st, errp);
}

static int64_t fd_length(const FileState *s)
{
    struct stat st;
    uint64_t bytes;

    if (s->is_blockdev) {
        if (ioctl(s->fd, BLKGETSIZE64, &bytes) < 0) {
            return -errno;
        }
        return bytes > INT64_MAX ? -EFBIG : (int64_t)bytes;
    }
    return fstat(s->fd, &st) < 0 ? -errno : st.st_size;
}

/* A second, buffered description of the file that fd is. */
static int reopen_buffered(const FileState *s, const char *filename, int flags)
{
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", s->fd);
    int oflags = open_flags(flags & BDRV_O_RDWR);
    int fd = open(self, oflags);

    if (fd < 0) {
        fd = open(filename, oflags);
    }
    if (fd >= 0) {
        posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    }
    return fd;
}

/* Decide where the tail begins, for a file of @length bytes. */
static bool set_tail(FileState *s, const char *filename, int flags,
                     int64_t length, GError **errp)
{
    struct stat st;
    int64_t unit = PAGE_BYTES;

    s->tail_start = INT64_MAX;
    if (length % s->align == 0) {
        return true;
    }
    if (s->tail_fd < 0) {
        s->tail_fd = reopen_buffered(s, filename, flags);
        if (s->tail_fd < 0) {
            error_set_errno(errp, errno, "Could not open the end of '%s'",
                            filename);
            return false;
        }
    }
    /* Blocks of the file system may be larger than pages. */
    if (fstat(s->fd, &st) == 0 && st.st_blksize > unit &&
        (st.st_blksize & (st.st_blksize - 1)) == 0) {
        unit = st.st_blksize;
    }
    s->tail_start = length & ~(MAX(unit, (int64_t)s->align) - 1);
    return true;
}

static bool set_direct(BlockNode *bs, FileState *s, int flags, GError **errp)
{
    int64_t length = fd_length(s);

    s->align = 1;
    s->tail_start = INT64_MAX;
    s->direct = flags & BDRV_O_NOCACHE;
    s->native = flags & BDRV_O_NATIVE_AIO;
    if (!s->direct) {
        return true;
    }
    if (!file_direct_alignment(s->fd, bs->filename, s->is_blockdev, &s->align,
                               &bs->memory_alignment, errp)) {
        return false;
    }
    bs->request_alignment = s->align;
    return length < 0 || set_tail(s, bs->filename, flags, length, errp);
}

static void file_close(BlockNode *bs)
{
    FileState *s = bs->opaque;

    if (s->fd >= 0) {
        close(s->fd);
    }
    if (s->tail_fd >= 0) {
        close(s->tail_fd);
    }
    s->fd = s->tail_fd = -1;
}

static bool file_open(BlockNode *bs, int flags, GError **errp)
{
    FileState *s = bs->opaque;
    bool ok;

    s->fd = s->tail_fd = -1;
    if ((flags & BDRV_O_NATIVE_AIO) && !(flags & BDRV_O_NOCACHE)) {
        error_set(errp, "Could not open '%s': aio=native was specified, but it "
                  "requires cache.direct=on, which was not specified.",
                  bs->filename);
        return false;
    }
    ok = open_fd(s, bs->filename, flags, errp) &&
         ((flags & BDRV_O_NO_LOCK) ||
          file_lock_image(s->fd, bs->filename, flags & BDRV_O_RDWR, errp)) &&
         set_direct(bs, s, flags, errp);
    if (!ok) {
        file_close(bs);
    }
    return ok;
}

/* A new file, or one that is there and empty. */
static int open_empty(const char *filename, bool *existed)
{
    int fd = open(filename, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    struct stat st;

    *existed = fd < 0 && errno == EEXIST;
    if (!*existed) {
        return fd;
    }
    fd = open(filename, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size)) {
        close(fd);
        fd = -1;
        errno = EEXIST;
    }
    return fd;
}

static bool file_create(const char *filename, int64_t size,
                        const char *backing_file, const char *backing_format,
                        GError **errp)
{
    bool existed;
    int fd = open_empty(filename, &existed), err = 0;

    if (fd < 0) {
        error_set_errno(errp, errno, "Could not create '%s'", filename);
        return false;
    }
    if (ftruncate(fd, size) < 0) {
        err = errno;
        bdrv_undo_create(filename, existed);
        error_set_errno(errp, err, "Could not resize '%s' to %" G_GINT64_FORMAT
                        " bytes", filename, size);
    }
    close(fd);
    return !err;
}

/* ---- what can be asked ----------------------------------------------- */

static int64_t file_length(BlockNode *bs)
{
    return fd_length(bs->opaque);
}

static int64_t file_allocated_size(BlockNode *bs)
{
    FileState *s = bs->opaque;
    struct stat st;

    return fstat(s->fd, &st) < 0 ? -errno : (int64_t)st.st_blocks * 512;
}

/* Nothing but holes from @offset on: or is the file shorter than it was? */
static int status_past_data(BlockNode *bs, FileState *s)
{
    return fd_length(s) < bdrv_length(bs)
               ? BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED
               : BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED;
}

static int file_block_status(BlockNode *bs, int64_t offset, int64_t bytes,
                             int64_t *pnum)
{
    FileState *s = bs->opaque;
    off_t data, hole;

    *pnum = bytes;
    if (s->is_blockdev) {
        return BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED;
    }
    data = lseek(s->fd, offset, SEEK_DATA);
    if (data < 0 && errno == ENXIO) {
        return status_past_data(bs, s);
    }
    if (data > offset) {
        *pnum = MIN(bytes, data - offset);
        return BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED;
    }
    hole = data < 0 ? -1 : lseek(s->fd, offset, SEEK_HOLE);
    if (hole > offset) {
        *pnum = MIN(bytes, hole - offset);
    }
    return BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED;
}

static bool file_map_direct(BlockNode *bs, int64_t offset, int64_t bytes,
                            int *fd, int64_t *fd_offset)
{
    FileState *s = bs->opaque;

    *fd = s->fd;
    *fd_offset = offset;
    return s->direct && offset + bytes <= s->tail_start;
}

static void file_will_need(BlockNode *bs, int64_t offset, int64_t bytes)
{
    FileState *s = bs->opaque;

    if (!s->direct) {
        posix_fadvise(s->fd, offset, bytes, POSIX_FADV_WILLNEED);
    }
}

/* ---- reading and writing --------------------------------------------- */

/* One system call's worth; bytes moved or a negative errno. */
static ssize_t read_some(FileState *s, int fd, void *buf, size_t bytes,
                         int64_t offset)
{
    ssize_t n;

    if (s->native && fd == s->fd) {
        n = laio_pread(fd, buf, bytes, offset);
        if (n != -EAGAIN) {
            return n;
        }
    }
    n = pread(fd, buf, bytes, offset);
    return n < 0 ? -errno : n;
}

static ssize_t write_some(FileState *s, int fd, const void *buf, size_t bytes,
                          int64_t offset, bool dsync)
{
    ssize_t n;

    if (dsync) {
        struct iovec iov = { (void *)buf, bytes };

        n = pwritev2(fd, &iov, 1, offset, RWF_DSYNC);
        return n < 0 ? -errno : n;
    }
    if (s->native && fd == s->fd) {
        n = laio_pwrite(fd, buf, bytes, offset);
        if (n != -EAGAIN) {
            return n;
        }
    }
    n = pwrite(fd, buf, bytes, offset);
    return n < 0 ? -errno : n;
}

/*
 * Can the transfer go on after @n bytes of it?  With O_DIRECT it can't from
 * within a block: the file ends there.
 */
static bool may_go_on(const FileState *s, int fd, ssize_t n)
{
    return n > 0 && (fd != s->fd || n % s->align == 0);
}

static int read_full(FileState *s, int fd, int64_t offset, int64_t bytes,
                     uint8_t *buf)
{
    while (bytes > 0) {
        ssize_t n = read_some(s, fd, buf, bytes, offset);

        if (likely(n == bytes)) {
            return 0;
        }
        if (n == -EINTR) {
            continue;
        }
        if (!may_go_on(s, fd, n)) {
            return n < 0 ? n : -EIO; /* shorter than it was */
        }
        buf += n;
        offset += n;
        bytes -= n;
    }
    return 0;
}

static int write_full(FileState *s, int fd, int64_t offset, int64_t bytes,
                      const uint8_t *buf, bool dsync)
{
    while (bytes > 0) {
        ssize_t n = write_some(s, fd, buf, bytes, offset, dsync);

        if (likely(n == bytes)) {
            return 0;
        }
        if (n == -EINTR) {
            continue;
        }
        if (!may_go_on(s, fd, n)) {
            return n < 0 ? n : -EIO;
        }
        buf += n;
        offset += n;
        bytes -= n;
    }
    return 0;
}

/* How much of the range goes through fd; the rest is the tail's. */
static int64_t before_tail(const FileState *s, int64_t offset, int64_t bytes)
{
    return CLAMP(s->tail_start - offset, 0, bytes);
}

static int file_pread(BlockNode *bs, int64_t offset, int64_t bytes, void *buf)
{
    FileState *s = bs->opaque;
    int64_t n = before_tail(s, offset, bytes);
    int ret = read_full(s, s->fd, offset, n, buf);

    if (unlikely(n < bytes && ret == 0)) {
        ret = read_full(s, s->tail_fd, offset + n, bytes - n,
                        (uint8_t *)buf + n);
    }
    return ret;
}

static int pwrite_parts(FileState *s, int64_t offset, int64_t bytes,
                        const uint8_t *buf, bool dsync)
{
    int64_t n = before_tail(s, offset, bytes);
    int ret = write_full(s, s->fd, offset, n, buf, dsync);

    if (unlikely(n < bytes && ret == 0)) {
        ret = write_full(s, s->tail_fd, offset + n, bytes - n, buf + n, dsync);
    }
    return ret;
}

static int file_flush(BlockNode *bs)
{
    FileState *s = bs->opaque;
    int err = atomic_load(&s->sync_errno);

    if (err) {
        return -err;
    }
    if (fdatasync(s->fd) < 0) {
        err = errno;
        if (!s->direct || s->tail_fd >= 0) {
            atomic_store(&s->sync_errno, err);
        }
    }
    return -err;
}

static int file_pwrite(BlockNode *bs, int64_t offset, int64_t bytes,
                       const void *buf, int flags)
{
    FileState *s = bs->opaque;
    bool fua = flags & BDRV_REQ_FUA;
    bool dsync = fua && !atomic_load(&s->no_dsync);
    int ret = pwrite_parts(s, offset, bytes, buf, dsync);

    if (unlikely(dsync && (ret == -EOPNOTSUPP || ret == -ENOSYS))) {
        atomic_store(&s->no_dsync, true);
        dsync = false;
        ret = pwrite_parts(s, offset, bytes, buf, false);
    }
    return ret == 0 && fua && !dsync ? file_flush(bs) : ret;
}

/* ---- zeroes and discards --------------------------------------------- */

static bool is_unsupported(int err)
{
    return err == EOPNOTSUPP || err == ENOSYS || err == ENODEV || err == ENOTTY;
}

/* 0, -ENOTSUP or another negative errno. */
static int do_fallocate(FileState *s, int mode, int64_t offset, int64_t bytes)
{
    while (fallocate(s->fd, mode, offset, bytes) < 0) {
        if (errno != EINTR) {
            return is_unsupported(errno) ? -ENOTSUP : -errno;
        }
    }
    return 0;
}

/* At most once in vain: @unsupported remembers.  EINVAL, though, may be said of
 * this range only (a block device with larger sectors). */
static int try_fallocate(FileState *s, _Atomic bool *unsupported, int mode,
                         int64_t offset, int64_t bytes)
{
    int ret = -ENOTSUP;

    if (!atomic_load(unsupported)) {
        ret = do_fallocate(s, mode | FALLOC_FL_KEEP_SIZE, offset, bytes);
        if (ret == -ENOTSUP) {
            atomic_store(unsupported, true);
        }
    }
    return ret == -EINVAL ? -ENOTSUP : ret;
}

/* A hole to the end of the file may free its last, partial block too. */
static int punch(BlockNode *bs, FileState *s, int64_t offset, int64_t bytes)
{
    if (offset + bytes == bdrv_length(bs) && !s->is_blockdev) {
        bytes += -(offset + bytes) & (PAGE_BYTES - 1);
    }
    return try_fallocate(s, &s->no_punch, FALLOC_FL_PUNCH_HOLE, offset, bytes);
}

static int zero_regular(BlockNode *bs, FileState *s, int64_t offset,
                        int64_t bytes, int flags)
{
    int ret = -ENOTSUP;

    if (flags & BDRV_REQ_MAY_UNMAP) {
        ret = punch(bs, s, offset, bytes);
    }
    if (ret == -ENOTSUP) {
        ret = try_fallocate(s, &s->no_zero_range, FALLOC_FL_ZERO_RANGE, offset,
                            bytes);
    }
    if (ret == -ENOTSUP) {
        /* Make a hole, then fill it: tmpfs can do that. */
        ret = punch(bs, s, offset, bytes);
        if (ret == 0) {
            ret = do_fallocate(s, 0, offset, bytes);
        }
    }
    return ret;
}

static int blkdev_ioctl(FileState *s, unsigned long request, int64_t offset,
                        int64_t bytes)
{
    uint64_t range[2] = { offset, bytes };

    if ((offset | bytes) & 511) {
        return -ENOTSUP;
    }
    while (ioctl(s->fd, request, range) < 0) {
        if (errno != EINTR) {
            return is_unsupported(errno) || errno == EINVAL ? -ENOTSUP : -errno;
        }
    }
    return 0;
}

/* The kernel's BLKZEROOUT may write zeros itself; a hole is always fast. */
static int zero_blkdev(BlockNode *bs, FileState *s, int64_t offset,
                       int64_t bytes, int flags)
{
    int ret = -ENOTSUP;

    if (flags & BDRV_REQ_MAY_UNMAP) {
        ret = punch(bs, s, offset, bytes);
    }
    if (ret == -ENOTSUP && !(flags & BDRV_REQ_NO_FALLBACK)) {
        ret = blkdev_ioctl(s, BLKZEROOUT, offset, bytes);
    }
    return ret;
}

static int file_pwrite_zeroes(BlockNode *bs, int64_t offset, int64_t bytes,
                              int flags)
{
    FileState *s = bs->opaque;

    return s->is_blockdev ? zero_blkdev(bs, s, offset, bytes, flags)
                          : zero_regular(bs, s, offset, bytes, flags);
}

static int file_pdiscard(BlockNode *bs, int64_t offset, int64_t bytes)
{
    FileState *s = bs->opaque;

    return s->is_blockdev ? blkdev_ioctl(s, BLKDISCARD, offset, bytes)
                          : punch(bs, s, offset, bytes);
}

static bool file_truncate(BlockNode *bs, int64_t size, GError **errp)
{
    FileState *s = bs->opaque;
    int64_t old = bdrv_length(bs);

    if (s->is_blockdev) {
        if (size > fd_length(s)) {
            error_set(errp, "Could not resize '%s': Cannot grow device files",
                      bs->filename);
            return false;
        }
        return true;
    }
    if (!set_tail(s, bs->filename, bs->flags, size, errp)) {
        set_tail(s, bs->filename, bs->flags, old, NULL);
        return false;
    }
    if (ftruncate(s->fd, size) < 0) {
        error_set_errno(errp, errno, "Could not resize '%s'", bs->filename);
        set_tail(s, bs->filename, bs->flags, old, NULL);
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
    .map_direct = file_map_direct,
    .will_need = file_will_need,
};
