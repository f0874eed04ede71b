/*
 * Image locks, as QEMU takes them (block/file-posix.c since 2.10), so that a
 * second VM, a qemu-img or a qemu-nbd is refused an image that is in use here
 * and the other way round.
 *
 * A user of an image holds a shared lock on byte 100 + p for every permission
 * p that it uses, and on byte 200 + p for every one that it does not let others
 * use.  Having locked, it asks whether anyone else's locks contradict: an
 * exclusive lock on 200 + p must be free for every p it uses, one on 100 + p for
 * every p it denies.  All locks are shared ones, so taking them never fails
 * between well-behaved users; of two that come at once at least one sees the
 * other.
 *
 * QEMU 7.2, seen in /proc/locks: a guest's disk holds 100, 101 and 201; a
 * read-only one 100 and 201.  These are open-file-description locks: they do
 * not belong to the process, and other descriptors on the file do not drop
 * them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "util/error.h"

#define LOCK_USES 100
#define LOCK_DENIES 200

/* Bits in the order of QEMU's BLK_PERM_*; they are the offsets of the bytes. */
enum {
    PERM_CONSISTENT_READ = 1 << 0,
    PERM_WRITE = 1 << 1,
    PERM_WRITE_UNCHANGED = 1 << 2,
    PERM_RESIZE = 1 << 3,
};

static const char *const perm_names[] = {
    "consistent read",
    "write",
    "write unchanged",
    "resize",
};

static struct flock one_byte(short type, int64_t byte)
{
    return (struct flock){
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = byte,
        .l_len = 1,
    };
}

/* Lock base + p for every bit p of @perms. */
static bool lock_bytes(int fd, int64_t base, unsigned perms,
                       const char *filename, GError **errp)
{
    for (unsigned p = 0; p < G_N_ELEMENTS(perm_names); p++) {
        struct flock fl = one_byte(F_RDLCK, base + p);

        if ((perms & (1u << p)) && fcntl(fd, F_OFD_SETLK, &fl) < 0) {
            error_set_errno(errp, errno,
                            "Could not open '%s': Failed to lock byte %d",
                            filename, (int)(base + p));
            return false;
        }
    }
    return true;
}

/* Is base + p free of others' locks, for every bit p of @perms? */
static bool check_bytes(int fd, int64_t base, unsigned perms, const char *what,
                        const char *filename, GError **errp)
{
    for (unsigned p = 0; p < G_N_ELEMENTS(perm_names); p++) {
        struct flock fl = one_byte(F_WRLCK, base + p);

        if (!(perms & (1u << p))) {
            continue;
        }
        if (fcntl(fd, F_OFD_GETLK, &fl) < 0) {
            error_set_errno(errp, errno,
                            "Could not open '%s': Failed to get lock byte %d",
                            filename, (int)(base + p));
            return false;
        }
        if (fl.l_type != F_UNLCK) {
            error_set(errp,
                      "Could not open '%s': Failed to get %s\"%s\" lock: "
                      "Is another process using the image [%s]?",
                      filename, what, perm_names[p], filename);
            return false;
        }
    }
    return true;
}

bool file_lock_image(int fd, const char *filename, bool writable, GError **errp)
{
    unsigned uses = PERM_CONSISTENT_READ | (writable ? PERM_WRITE : 0);
    unsigned denies = PERM_WRITE;

    return lock_bytes(fd, LOCK_USES, uses, filename, errp) &&
           lock_bytes(fd, LOCK_DENIES, denies, filename, errp) &&
           check_bytes(fd, LOCK_DENIES, uses, "", filename, errp) &&
           check_bytes(fd, LOCK_USES, denies, "shared ", filename, errp);
}
