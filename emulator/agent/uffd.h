/*
 * Logging the writes to a mapping by userfaultfd, as the agent does inside QEMU
 * and the sidecar's probe does in itself.  No library beyond libc.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_AGENT_UFFD_H
#define SIDECAR_EMULATOR_AGENT_UFFD_H

#include "emulator/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A userfaultfd with what the dirty log needs, or -1 and errno.  Without
 * privileges the kernel only gives one for faults in user mode; that makes no
 * difference here, because asynchronous write protection reports no fault to
 * anybody. */
static inline int agent_uffd_open(void)
{
    struct uffdio_api api = { .api = UFFD_API, .features = AGENT_UFFD_FEATURES };
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 && errno == EPERM) {
        fd = syscall(SYS_userfaultfd,
                     O_CLOEXEC | O_NONBLOCK | AGENT_UFFD_USER_MODE_ONLY);
    }
    if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
        int err = errno;

        close(fd);
        errno = err;
        return -1;
    }
    return fd;
}

/* From now on PAGEMAP_SCAN tells which pages of the mapping were written. */
static inline int agent_uffd_register(int fd, void *addr, size_t len)
{
    struct uffdio_register reg = {
        .range = { (uintptr_t)addr, len },
        .mode = UFFDIO_REGISTER_MODE_WP,
    };

    return ioctl(fd, UFFDIO_REGISTER, &reg);
}

#endif
