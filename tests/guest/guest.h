/*
 * The guest's side of the system tests: one static program that is /init of a
 * small Linux, takes commands from the host on the second serial port and runs
 * jobs (disk writers) for it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_GUEST_H
#define TESTS_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECTOR 512

/*
 * What a running job and init share (an anonymous shared mapping: the job is a
 * process of its own).  Only the job writes started, done, errors and text;
 * only init writes stop.
 */
struct job {
    volatile uint64_t started; /* operation begun */
    volatile uint64_t done;    /* operation known to be complete */
    volatile uint64_t errors;
    volatile int stop;
    char text[200];            /* result, or what went wrong first; one line */
};

typedef int job_main(struct job *job, int argc, char **argv);
job_main seq_main, shadow_main, ext4_main, memory_main, net_main, randwrite_main;

/* Notes the first thing that went wrong and counts it. */
void job_error(struct job *job, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* splitmix64: the same few lines are in tests/system/lib/guest.py. */
uint64_t mix64(uint64_t x);
uint32_t crc32_add(uint32_t crc, const void *buf, size_t len); /* as zlib's */

/* /dev/NAME opened with O_DIRECT; its size in bytes; -1 with a job error. */
int open_drive(struct job *job, const char *name, uint64_t *size);
/* Page-aligned memory. */
void *io_buffer(size_t len);

#endif
