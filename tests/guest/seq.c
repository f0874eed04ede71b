/*
 * seq SEED MAXSECTORS DRIVE...: the running sequence.
 *
 * Operation n (1, 2, ...) fills some sectors of one of the drives with the
 * number n; which ones follows from SEED and n alone (seq_op; the host has the
 * same function, tests/system/lib/guest.py).  Operation n + 1 begins only after
 * n is complete.  So the state of all drives at any instant is known from one
 * number: a backup is right exactly when there is an N such that its images
 * hold operations 1...N and nothing else.
 *
 * One operation in eight writes zeros with the kernel's zero-out request
 * instead (seqd: discards, on drives where that is known to leave zeros), and one
 * in sixteen is followed by a flush.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "guest.h"

#define MAX_DRIVES 16

struct op {
    unsigned drive;
    uint64_t sector;
    unsigned count;
    bool zero, flush;
};

static struct op seq_op(uint64_t seed, uint64_t n, unsigned drives,
                        const uint64_t *sectors, unsigned max)
{
    uint64_t a = mix64(seed * 1000003 + n), b = mix64(a);
    struct op op = { .drive = a % drives, .zero = (a >> 32) % 8 == 0,
                     .flush = (a >> 40) % 16 == 0 };

    op.count = 1 + (b >> 40) % max;
    op.sector = (b & 0xffffffff) % (sectors[op.drive] - op.count + 1);
    return op;
}

static void fill(uint64_t *buf, uint64_t n, size_t len)
{
    for (size_t i = 0; i < len / 8; i++) {
        buf[i] = n;
    }
}

static bool do_op(struct job *job, const int *fds, const struct op *op,
                  uint64_t n, void *buf, bool discard)
{
    size_t len = (size_t)op->count * SECTOR;

    if (op->zero) {
        uint64_t range[2] = { op->sector * SECTOR, len };
        if (ioctl(fds[op->drive], discard ? BLKDISCARD : BLKZEROOUT, range) < 0) {
            job_error(job, "zeros %lu: %s", (long)n, strerror(errno));
            return false;
        }
    } else {
        ssize_t r;
        fill(buf, n, len);
        r = pwrite(fds[op->drive], buf, len, op->sector * SECTOR);
        if (r != (ssize_t)len) {
            job_error(job, "write %lu: %s", (long)n,
                      r < 0 ? strerror(errno) : "short");
            return false;
        }
    }
    if (op->flush && fdatasync(fds[op->drive]) < 0) {
        job_error(job, "flush %lu: %s", (long)n, strerror(errno));
        return false;
    }
    return true;
}

int seq_main(struct job *job, int argc, char **argv)
{
    uint64_t seed, sectors[MAX_DRIVES];
    unsigned max, drives;
    int fds[MAX_DRIVES];
    bool discard = !strcmp(argv[0], "seqd");
    void *buf;

    if (argc < 4 || argc - 3 > MAX_DRIVES) {
        job_error(job, "usage: seq SEED MAXSECTORS DRIVE...");
        return 2;
    }
    seed = strtoull(argv[1], NULL, 0);
    max = atoi(argv[2]);
    drives = argc - 3;
    for (unsigned i = 0; i < drives; i++) {
        fds[i] = open_drive(job, argv[3 + i], &sectors[i]);
        if (fds[i] < 0) {
            return 1;
        }
        sectors[i] /= SECTOR;
    }
    buf = io_buffer((size_t)max * SECTOR);
    for (uint64_t n = 1; !job->stop; n++) {
        struct op op = seq_op(seed, n, drives, sectors, max);

        job->started = n;
        if (!do_op(job, fds, &op, n, buf, discard)) {
            return 1;
        }
        job->done = n;
    }
    for (unsigned i = 0; i < drives; i++) {
        fdatasync(fds[i]);
    }
    return 0;
}
