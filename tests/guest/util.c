/*
 * What the guest's jobs have in common.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "guest.h"

void job_error(struct job *job, const char *fmt, ...)
{
    va_list ap;

    if (__atomic_fetch_add(&job->errors, 1, __ATOMIC_SEQ_CST)) {
        return;
    }
    va_start(ap, fmt);
    vsnprintf(job->text, sizeof(job->text), fmt, ap);
    va_end(ap);
}

uint64_t mix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint32_t crc32_add(uint32_t crc, const void *buf, size_t len)
{
    static uint32_t table[256];
    const unsigned char *p = buf;

    if (!table[1]) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int k = 0; k < 8; k++) {
                c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
            }
            table[i] = c;
        }
    }
    crc = ~crc;
    while (len--) {
        crc = table[(crc ^ *p++) & 0xff] ^ (crc >> 8);
    }
    return ~crc;
}

int open_drive(struct job *job, const char *name, uint64_t *size)
{
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/dev/%s", name);
    fd = open(path, O_RDWR | O_DIRECT);
    if (fd < 0 || ioctl(fd, BLKGETSIZE64, size) < 0) {
        job_error(job, "%s: %s", path, strerror(errno));
        return -1;
    }
    return fd;
}

void *io_buffer(size_t len)
{
    void *p = NULL;

    if (posix_memalign(&p, 4096, len)) {
        abort();
    }
    memset(p, 0, len);
    return p;
}
