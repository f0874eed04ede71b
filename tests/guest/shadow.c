/*
 * shadow SEED THREADS DRIVE: random reads, writes, zero-outs and discards, each
 * read checked against a shadow of the whole drive in memory.
 *
 * The shadow is one generation number a sector; a sector's bytes follow from
 * seed, place and generation (tests/system/lib/guest.py has the same).
 * Generation 0 is the drive as it was handed over: zeros.  The drive is dealt
 * out to the threads in stripes of 40 sectors, so that they meet in the same
 * 64 KiB clusters, but no two ever touch the same sector.
 *
 * A discarded sector may read as anything: its generation is UNKNOWN until it
 * is written again.  At the end all unknown ones are written, the whole drive
 * is read back and checked, and the result line has the CRC-32 of it all.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "guest.h"

#define STRIPE 40
#define UNKNOWN UINT32_MAX

struct shadow {
    struct job *job;
    uint64_t seed, sectors;
    unsigned threads;
    int fd;
    uint32_t *gen; /* sector t's owner alone touches gen[t] */
};

struct worker {
    struct shadow *s;
    unsigned id;
    uint64_t random;
    uint32_t next_gen;
    uint64_t *buf;
    pthread_t thread;
};

static void content(const struct shadow *s, uint64_t sector, uint32_t gen,
                    uint64_t *out)
{
    uint64_t word;

    if (gen == 0) {
        memset(out, 0, SECTOR);
        return;
    }
    word = mix64(s->seed ^ (sector << 24) ^ gen);
    for (int i = 0; i < SECTOR / 8; i++) {
        out[i] = word + i;
    }
    out[0] = gen;
    out[1] = sector;
}

static bool check(struct shadow *s, uint64_t sector, unsigned count,
                  const uint64_t *buf)
{
    uint64_t want[SECTOR / 8];

    for (unsigned i = 0; i < count; i++) {
        if (s->gen[sector + i] == UNKNOWN) {
            continue;
        }
        content(s, sector + i, s->gen[sector + i], want);
        if (memcmp(want, buf + (size_t)i * SECTOR / 8, SECTOR)) {
            job_error(s->job, "sector %lu: want generation %u, found words %#lx %#lx",
                      (long)(sector + i), s->gen[sector + i],
                      (long)buf[(size_t)i * SECTOR / 8],
                      (long)buf[(size_t)i * SECTOR / 8 + 1]);
            return false;
        }
    }
    return true;
}

static bool write_sectors(struct worker *w, uint64_t sector, unsigned count)
{
    struct shadow *s = w->s;
    size_t len = (size_t)count * SECTOR;

    w->next_gen++;
    for (unsigned i = 0; i < count; i++) {
        content(s, sector + i, w->next_gen, w->buf + (size_t)i * SECTOR / 8);
        s->gen[sector + i] = w->next_gen;
    }
    if (pwrite(s->fd, w->buf, len, sector * SECTOR) != (ssize_t)len) {
        job_error(s->job, "write at sector %lu: %s", (long)sector, strerror(errno));
        return false;
    }
    return true;
}

static bool read_sectors(struct worker *w, uint64_t sector, unsigned count)
{
    size_t len = (size_t)count * SECTOR;

    memset(w->buf, 0x5a, len);
    if (pread(w->s->fd, w->buf, len, sector * SECTOR) != (ssize_t)len) {
        job_error(w->s->job, "read at sector %lu: %s", (long)sector, strerror(errno));
        return false;
    }
    return check(w->s, sector, count, w->buf);
}

static bool clear_sectors(struct worker *w, uint64_t sector, unsigned count,
                          bool discard)
{
    uint64_t range[2] = { sector * SECTOR, (uint64_t)count * SECTOR };

    if (ioctl(w->s->fd, discard ? BLKDISCARD : BLKZEROOUT, range) < 0) {
        if (discard && errno == EOPNOTSUPP) {
            return true;
        }
        job_error(w->s->job, "%s at sector %lu: %s", discard ? "discard" : "zero-out",
                  (long)sector, strerror(errno));
        return false;
    }
    for (unsigned i = 0; i < count; i++) {
        w->s->gen[sector + i] = discard ? UNKNOWN : 0;
    }
    return true;
}

static uint64_t draw(struct worker *w, uint64_t below)
{
    w->random = mix64(w->random);
    return (w->random >> 16) % below;
}

/* One operation within one stripe of ours. */
static bool step(struct worker *w)
{
    struct shadow *s = w->s;
    uint64_t stripes = (s->sectors + STRIPE - 1) / STRIPE;
    uint64_t stripe = draw(w, (stripes + s->threads - 1 - w->id) / s->threads) *
                      s->threads + w->id;
    uint64_t first = stripe * STRIPE;
    unsigned room = s->sectors - first < STRIPE ? s->sectors - first : STRIPE;
    unsigned at = draw(w, room), count = 1 + draw(w, room - at);
    unsigned what = draw(w, 100);

    if (what < 50) {
        return write_sectors(w, first + at, count);
    } else if (what < 85) {
        return read_sectors(w, first + at, count);
    } else if (what < 92) {
        return clear_sectors(w, first + at, count, false);
    } else if (what < 98) {
        return clear_sectors(w, first + at, count, true);
    }
    return fdatasync(s->fd) == 0;
}

static void *work(void *opaque)
{
    struct worker *w = opaque;
    struct job *job = w->s->job;

    while (!job->stop && !job->errors) {
        __atomic_fetch_add(&job->started, 1, __ATOMIC_SEQ_CST);
        if (step(w)) {
            __atomic_fetch_add(&job->done, 1, __ATOMIC_SEQ_CST);
        }
    }
    return NULL;
}

/* Nothing unknown left, everything read back: the CRC-32 of the drive. */
static bool finish(struct worker *w, uint32_t *crc)
{
    struct shadow *s = w->s;

    for (uint64_t i = 0; i < s->sectors; i++) {
        if (s->gen[i] == UNKNOWN && !write_sectors(w, i, 1)) {
            return false;
        }
    }
    *crc = 0;
    for (uint64_t i = 0; i < s->sectors;) {
        unsigned n = s->sectors - i < STRIPE ? s->sectors - i : STRIPE;
        if (!read_sectors(w, i, n)) {
            return false;
        }
        *crc = crc32_add(*crc, w->buf, (size_t)n * SECTOR);
        i += n;
    }
    return fdatasync(s->fd) == 0;
}

int shadow_main(struct job *job, int argc, char **argv)
{
    struct shadow s = { .job = job };
    struct worker *w;
    uint64_t size;
    uint32_t crc;

    if (argc != 4) {
        job_error(job, "usage: shadow SEED THREADS DRIVE");
        return 2;
    }
    s.seed = strtoull(argv[1], NULL, 0);
    s.threads = atoi(argv[2]);
    s.fd = open_drive(job, argv[3], &size);
    if (s.fd < 0) {
        return 1;
    }
    s.sectors = size / SECTOR;
    s.gen = calloc(s.sectors, sizeof(*s.gen));
    w = calloc(s.threads, sizeof(*w));
    for (unsigned i = 0; i < s.threads; i++) {
        /* generations of different threads never meet */
        w[i] = (struct worker){ .s = &s, .id = i, .random = mix64(s.seed + i),
                                .next_gen = i << 26,
                                .buf = io_buffer(STRIPE * SECTOR) };
        pthread_create(&w[i].thread, NULL, work, &w[i]);
    }
    for (unsigned i = 0; i < s.threads; i++) {
        pthread_join(w[i].thread, NULL);
    }
    if (job->errors || !finish(&w[0], &crc)) {
        return 1;
    }
    snprintf(job->text, sizeof(job->text), "crc32=%08x", crc);
    return 0;
}
