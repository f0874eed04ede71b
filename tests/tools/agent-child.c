/*
 * A program to preload the agent into: maps what the agent waits for and does
 * with it what it is told on standard input, a line at a time, answering each
 * with "ok":
 *
 *     map FD LENGTH    w PAGE    discard PAGE COUNT    punch PAGE COUNT    env
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096L

int main(void)
{
    char line[128], *map = NULL;
    int fd = -1;
    long a, b;

    while (fgets(line, sizeof(line), stdin)) {
        int failed = 0;

        if (sscanf(line, "map %ld %ld", &a, &b) == 2) {
            fd = a;
            map = mmap(NULL, b, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            failed = map == MAP_FAILED;
        } else if (sscanf(line, "w %ld", &a) == 1) {
            map[a * PAGE + 1]++;
        } else if (sscanf(line, "discard %ld %ld", &a, &b) == 2) {
            failed = madvise(map + a * PAGE, b * PAGE, MADV_REMOVE);
        } else if (sscanf(line, "punch %ld %ld", &a, &b) == 2) {
            failed = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               a * PAGE, b * PAGE);
        } else if (!strncmp(line, "env", 3)) {
            const char *preload = getenv("LD_PRELOAD");

            failed = getenv("QEMU_SIDECAR_AGENT_FD") != NULL ||
                (preload && strstr(preload, "agent"));
        } else {
            failed = 1;
        }
        printf("%s\n", failed ? "failed" : "ok");
        fflush(stdout);
    }
    return 0;
}
