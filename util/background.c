/*
 * Threads that leave the CPU to others; see include/util/background.h.
 *
 * Being nice settles how much of a busy CPU a thread gets.  How soon a thread
 * that wakes up gets it is another matter: since Linux 6.6 a running thread,
 * however nice, may use up its time slice first (about 3 ms), which is long for
 * somebody who waits for the answer to a disk request.  Since 6.12 a thread can
 * say how long a slice it wants; one that wants a longer slice than the thread
 * that wakes up makes way at once.  Older kernels ignore that part.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/background.h"

#include <glib.h>
#include <sched.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SLICE_NS 10000000

/* As the kernel has it; the C library of Debian 12 lacks it. */
struct kernel_sched_attr {
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime; /* SCHED_OTHER: the slice */
    uint64_t deadline;
    uint64_t period;
};
_Static_assert(sizeof(struct kernel_sched_attr) == 48, "SCHED_ATTR_SIZE_VER0");

void thread_set_background(int nice_by)
{
    struct kernel_sched_attr attr = {
        .size = sizeof(attr),
        .policy = SCHED_OTHER,
        .nice = MIN(getpriority(PRIO_PROCESS, 0) + nice_by, 19),
        .runtime = SLICE_NS,
    };

    if (sched_getscheduler(0) == SCHED_OTHER) {
        (void)syscall(SYS_sched_setattr, 0, &attr, 0);
    }
}
