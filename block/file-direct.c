/*
 * What O_DIRECT wants on a file: three ways to find out.
 *
 *  1. statx says it (STATX_DIOALIGN, Linux 6.1, where the file system does).
 *  2. A block device has a logical sector size.
 *  3. Otherwise try: the smallest power of two, from 512, for which a read
 *     does not fail with EINVAL.  A file without a block to read gives no
 *     answer, so 4096 is assumed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/error.h"

#define FALLBACK_ALIGNMENT 4096
#define MAX_ALIGNMENT 65536

/* False: the kernel or the file system does not say.  0: not at all. */
static bool ask_statx(int fd, uint32_t *request, uint32_t *memory)
{
#ifdef STATX_DIOALIGN
    struct statx stx = { 0 };

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN)) {
        *request = stx.stx_dio_offset_align;
        *memory = stx.stx_dio_mem_align;
        return true;
    }
#endif
    return false;
}

static uint32_t try_reads(int fd)
{
    void *buf = NULL;
    uint32_t align = FALLBACK_ALIGNMENT;
    struct stat st;

    if (fstat(fd, &st) < 0 || st.st_size < FALLBACK_ALIGNMENT ||
        posix_memalign(&buf, FALLBACK_ALIGNMENT, FALLBACK_ALIGNMENT)) {
        return align;
    }
    for (uint32_t a = 512; a < FALLBACK_ALIGNMENT; a *= 2) {
        if (pread(fd, buf, a, 0) >= 0) {
            align = a;
            break;
        }
    }
    free(buf);
    return align;
}

bool file_direct_alignment(int fd, const char *filename, bool is_blockdev,
                           uint32_t *request, uint32_t *memory, GError **errp)
{
    int sector;

    if (ask_statx(fd, request, memory)) {
        ; /* it is what it is */
    } else if (is_blockdev && ioctl(fd, BLKSSZGET, &sector) == 0) {
        *request = *memory = sector;
    } else {
        *request = *memory = try_reads(fd);
    }
    if (*request == 0 || *request > MAX_ALIGNMENT ||
        (*request & (*request - 1)) || (*memory & (*memory - 1))) {
        error_set(errp, "Could not open '%s': file system does not support "
                  "O_DIRECT", filename);
        return false;
    }
    *memory = MAX(*memory, 1);
    return true;
}
