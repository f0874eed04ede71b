/*
 * The agent: a small library preloaded into QEMU (LD_PRELOAD).
 *
 * It does two things and nothing else.  When QEMU maps a file that the sidecar
 * named as guest RAM, it registers the mapping with userfaultfd for asynchronous
 * write protection, so that the sidecar can ask the kernel from outside which
 * pages were written.  And when QEMU gives pages of it back (balloon, free page
 * reporting), it notes them in a shared bitmap, because the kernel counts a
 * discarded page as clean.
 *
 * It runs inside somebody else's process: no allocation, no output, no library
 * beyond libc, errno kept, and whatever goes wrong is reported in the shared
 * area while QEMU goes on as if the agent were not there.
 *
 * Threads: any of QEMU's.  The area is set up before main and its shape does
 * not change; states and bitmap words are atomics.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/agent.h"

#include "uffd.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define EXPORT __attribute__((visibility("default")))

static AgentArea *area; /* NULL: nothing to do */
static int uffd = -1;

/* ---- the area ------------------------------------------------------------- */

static bool area_is_sound(const AgentArea *a, uint64_t size)
{
    if (a->magic != AGENT_MAGIC || a->version != AGENT_VERSION ||
        a->size != size || a->n_ranges > AGENT_MAX_RANGES ||
        sizeof(*a) + a->n_ranges * sizeof(a->range[0]) > size) {
        return false;
    }
    for (uint32_t i = 0; i < a->n_ranges; i++) {
        const AgentRange *r = &a->range[i];
        uint64_t bytes = ((r->length >> r->page_shift) + 63) / 64 * 8;

        if (r->page_shift > 30 || r->bitmap_offset % 8 ||
            r->bitmap_offset > size || bytes > size - r->bitmap_offset) {
            return false;
        }
    }
    return true;
}

static void area_open(int fd)
{
    struct stat st;
    void *p;

    if (fstat(fd, &st) < 0 || (size_t)st.st_size < sizeof(AgentArea)) {
        return;
    }
    p = (void *)syscall(SYS_mmap, NULL, st.st_size, PROT_READ | PROT_WRITE,
                        MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        return;
    }
    if (area_is_sound(p, st.st_size)) {
        area = p;
    } else {
        munmap(p, st.st_size);
    }
}

/* Before QEMU's main: take what is meant for us out of the environment, so that
 * programs that QEMU starts see neither the agent nor its descriptor. */
__attribute__((constructor)) static void agent_init(void)
{
    const char *number = getenv(AGENT_ENV_FD);
    const char *preload = getenv(AGENT_ENV_PRELOAD);

    if (!number) {
        return;
    }
    area_open(atoi(number));
    close(atoi(number));
    if (preload && *preload) {
        setenv("LD_PRELOAD", preload, 1);
    } else {
        unsetenv("LD_PRELOAD");
    }
    unsetenv(AGENT_ENV_FD);
    unsetenv(AGENT_ENV_PRELOAD);
}

static AgentRange *range_of_file(int fd)
{
    struct stat st;

    if (!area || fd < 0 || fstat(fd, &st) < 0) {
        return NULL;
    }
    for (uint32_t i = 0; i < area->n_ranges; i++) {
        if (area->range[i].dev == st.st_dev && area->range[i].ino == st.st_ino) {
            return &area->range[i];
        }
    }
    return NULL;
}

static void set_state(AgentRange *r, uint32_t state, int error)
{
    r->error = error;
    __atomic_store_n(&r->state, state, __ATOMIC_RELEASE);
}

/* ---- discarded pages ---------------------------------------------------------- */

/* [offset, offset + len) of the block reads as zeros now. */
static void note_discard(AgentRange *r, uint64_t offset, uint64_t len)
{
    uint64_t *words = (uint64_t *)((char *)area + r->bitmap_offset);
    uint64_t first = offset >> r->page_shift, last;

    if (!len || offset >= r->length) {
        return;
    }
    if (len > r->length - offset) {
        len = r->length - offset;
    }
    last = (offset + len - 1) >> r->page_shift;
    for (uint64_t w = first / 64; w <= last / 64; w++) {
        uint64_t mask = ~0ULL;

        if (w == first / 64) {
            mask &= ~0ULL << (first % 64);
        }
        if (w == last / 64) {
            mask &= ~0ULL >> (63 - last % 64);
        }
        __atomic_fetch_or(&words[w], mask, __ATOMIC_SEQ_CST);
    }
}

/* The same for addresses of QEMU's, as far as they are in a block. */
static void note_discard_at(uintptr_t addr, size_t len)
{
    for (uint32_t i = 0; area && i < area->n_ranges; i++) {
        AgentRange *r = &area->range[i];
        uint64_t start, end;

        if (__atomic_load_n(&r->state, __ATOMIC_ACQUIRE) != AGENT_REGISTERED) {
            continue;
        }
        start = addr > r->address ? addr : r->address;
        end = addr + len < r->address + r->length ? addr + len :
            r->address + r->length;
        if (start < end) {
            note_discard(r, start - r->address, end - start);
        }
    }
}

/* ---- what QEMU calls ------------------------------------------------------------ */

static void register_mapping(AgentRange *r, void *addr, size_t len, off_t off)
{
    if (off != 0 || len < r->length) {
        return; /* some other view of the file; the guest's covers it all */
    }
    if (uffd < 0) {
        uffd = agent_uffd_open();
    }
    if (uffd < 0 || agent_uffd_register(uffd, addr, r->length) < 0) {
        set_state(r, AGENT_FAILED, errno);
        return;
    }
    r->address = (uintptr_t)addr;
    note_discard(r, 0, r->length); /* mapped anew: nothing is known of it */
    set_state(r, AGENT_REGISTERED, 0);
}

EXPORT void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
    void *p = (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);

    if (p != MAP_FAILED && area && fd >= 0 && (flags & MAP_SHARED)) {
        int err = errno;
        AgentRange *r = range_of_file(fd);

        if (r) {
            register_mapping(r, p, len, off);
        }
        errno = err;
    }
    return p;
}

EXPORT void *mmap64(void *addr, size_t len, int prot, int flags, int fd,
                    off_t off)
{
    return mmap(addr, len, prot, flags, fd, off);
}

EXPORT int madvise(void *addr, size_t len, int advice)
{
    int ret = syscall(SYS_madvise, addr, len, advice);

    if (!ret && (advice == MADV_DONTNEED || advice == MADV_REMOVE ||
                 advice == MADV_FREE)) {
        note_discard_at((uintptr_t)addr, len);
    }
    return ret;
}

/* posix_madvise is left alone: glibc's does nothing for POSIX_MADV_DONTNEED. */

EXPORT int fallocate(int fd, int mode, off_t offset, off_t len)
{
    int ret = syscall(SYS_fallocate, fd, mode, offset, len);

    if (!ret && (mode & ~FALLOC_FL_KEEP_SIZE)) {
        int err = errno;
        AgentRange *r = range_of_file(fd);

        if (r && offset >= 0) {
            note_discard(r, offset, len);
        }
        errno = err;
    }
    return ret;
}

EXPORT int fallocate64(int fd, int mode, off_t offset, off_t len)
{
    return fallocate(fd, mode, offset, len);
}
