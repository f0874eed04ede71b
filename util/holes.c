/*
 * Holes in the files that memory lies in; see include/util/holes.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/holes.h"

#include <errno.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

/* hugetlbfs calls all of a file data; of a file system on a disk one would have
 * to trust that dirty mapped pages are data before they have a block. */
static bool tells_holes(int fd)
{
    struct statfs fs;

    return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

void file_find_holes(int fd, uint32_t page_size, Bitmap *holes)
{
    uint64_t end = tells_holes(fd) ? holes->size * page_size : 0, at = 0;

    bitmap_clear_range(holes, 0, holes->size);
    while (at < end) {
        off_t data = lseek(fd, at, SEEK_DATA);
        off_t hole = data < 0 ? data : lseek(fd, data, SEEK_HOLE);
        uint64_t first = (at + page_size - 1) / page_size, last;

        if (hole < 0 && (data >= 0 || errno != ENXIO)) {
            return;
        }
        /* ENXIO: nothing but a hole from here on */
        last = data < 0 ? holes->size : MIN((uint64_t)data, end) / page_size;
        if (last > first) {
            bitmap_set_range(holes, first, last - first);
        }
        at = data < 0 ? end : (uint64_t)hole;
    }
}
