/*
 * What the files of the driver `file' share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BLOCK_FILE_H
#define BLOCK_FILE_H

#include "block-int.h"

/*
 * Take the locks on @fd that QEMU would take for a guest's disk, and check
 * that nobody holds one that forbids it.  They go with the last descriptor of
 * this open file.  @writable: opened for writing.
 */
bool file_lock_image(int fd, const char *filename, bool writable,
                     GError **errp);

/*
 * What O_DIRECT demands of offset and length, and of memory, on @fd.  False
 * if it can't be used there.
 */
bool file_direct_alignment(int fd, const char *filename, bool is_blockdev,
                           uint32_t *request, uint32_t *memory, GError **errp);

/*
 * One libaio read or write, waited for: like pread and pwrite, but a negative
 * errno instead of -1.  -EAGAIN: no context or no room for it; do it otherwise.
 */
ssize_t laio_pread(int fd, void *buf, size_t bytes, int64_t offset);
ssize_t laio_pwrite(int fd, const void *buf, size_t bytes, int64_t offset);

#endif
