/*
 * ext4 SEED DRIVE: a busy writer on an ext4 file system.
 *
 * Round n writes a file of random length under a temporary name, syncs it and
 * renames it over one of 64 names in 8 folders; every few rounds one is removed,
 * a big file is cut, a folder made anew.  Then the line "n" is appended to the
 * file log and synced: what was done before it is durable.
 *
 * So a restored copy must hold, for the last complete line N of its log, at
 * least every round up to N; each file under its final name is whole: its first
 * line says which round wrote it, how long it is and the CRC-32 of the rest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

#define MOUNT "/mnt"
#define MAX_FILE (96 * 1024)

static bool write_all(struct job *job, int fd, const char *path,
                      const void *buf, size_t len, bool sync)
{
    if (write(fd, buf, len) != (ssize_t)len || (sync && fsync(fd) < 0)) {
        job_error(job, "%s: %s", path, strerror(errno));
        return false;
    }
    return true;
}

static bool write_file(struct job *job, const char *path, uint64_t seed,
                       uint64_t n, uint64_t *buf)
{
    size_t len = mix64(seed ^ n) % MAX_FILE & ~(size_t)7;
    const char *temporary = MOUNT "/temporary";
    char head[80];
    bool ok;
    int fd;

    for (size_t i = 0; i < len / 8; i++) {
        buf[i] = mix64(n) + i;
    }
    snprintf(head, sizeof(head), "%lu %zu %08x\n", (long)n, len,
             crc32_add(0, buf, len));
    fd = open(temporary, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (fd < 0) {
        job_error(job, "%s: %s", temporary, strerror(errno));
        return false;
    }
    ok = write_all(job, fd, temporary, head, strlen(head), false) &&
         write_all(job, fd, temporary, buf, len, true);
    close(fd);
    if (ok && rename(temporary, path) < 0) {
        job_error(job, "rename to %s: %s", path, strerror(errno));
        return false;
    }
    return ok;
}

/* Work for the allocator and the journal that no one looks at afterwards. */
static void churn(uint64_t n, const void *buf)
{
    char path[80];
    int fd;

    snprintf(path, sizeof(path), MOUNT "/churn%lu", (long)(n % 5));
    fd = open(path, O_CREAT | O_WRONLY, 0644);
    if (fd >= 0) {
        if (ftruncate(fd, mix64(n) % 400000) == 0 &&
            pwrite(fd, buf, 20000, mix64(n + 1) % 400000) < 0) {
            /* a full disk is not what this is about */
        }
        close(fd);
    }
    snprintf(path, sizeof(path), MOUNT "/folder%lu", (long)(n % 3));
    if (mkdir(path, 0755) < 0) {
        rmdir(path);
    }
}

static bool one_round(struct job *job, uint64_t seed, uint64_t n, int log,
                      uint64_t *buf)
{
    uint64_t r = mix64(seed + n);
    char path[80], line[32];

    snprintf(path, sizeof(path), MOUNT "/d%u", (unsigned)(r % 8));
    mkdir(path, 0755);
    snprintf(path, sizeof(path), MOUNT "/d%u/f%u", (unsigned)(r % 8),
             (unsigned)(r >> 8) % 8);
    if (r >> 60 == 0) {
        unlink(path);
    } else if (!write_file(job, path, seed, n, buf)) {
        return false;
    }
    if ((r >> 40) % 4 == 0) {
        churn(n, buf);
    }
    snprintf(line, sizeof(line), "%lu\n", (long)n);
    return write_all(job, log, "log", line, strlen(line), true);
}

int ext4_main(struct job *job, int argc, char **argv)
{
    uint64_t seed, *buf;
    char device[64];
    int log;

    if (argc != 3) {
        job_error(job, "usage: ext4 SEED DRIVE");
        return 2;
    }
    seed = strtoull(argv[1], NULL, 0);
    snprintf(device, sizeof(device), "/dev/%s", argv[2]);
    mkdir(MOUNT, 0755);
    if (mount(device, MOUNT, "ext4", 0, "") < 0) {
        job_error(job, "mount %s: %s", device, strerror(errno));
        return 1;
    }
    buf = io_buffer(MAX_FILE);
    log = open(MOUNT "/log", O_CREAT | O_APPEND | O_WRONLY, 0644);
    for (uint64_t n = 1; !job->stop; n++) {
        job->started = n;
        if (!one_round(job, seed, n, log, buf)) {
            return 1;
        }
        job->done = n;
    }
    close(log);
    if (umount(MOUNT) < 0) {
        job_error(job, "umount: %s", strerror(errno));
        return 1;
    }
    return 0;
}
