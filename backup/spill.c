/*
 * The file for old data that found no room in memory; see spill.h.
 *
 * It is made when the backup starts, so that nothing has to be opened while a
 * guest waits, and takes no space until it is needed.  Slots are reused, the
 * lowest part of the file first in practice, as the last one given back is the
 * next one handed out.  The last part of the file system is left to others: a
 * host whose /var/tmp is full has more to lose than a backup.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "spill.h"

#include "backup/backup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define KEEP_FREE_PERCENT 5
#define CHECK_EVERY 1024 /* new slots between two looks at the file system */

struct BackupSpill {
    /* constant */
    int fd; /* -1: unusable from the start */
    char *dir;
    uint64_t limit; /* slots */

    /* caller's lock */
    int broken;        /* errno, or 0 */
    bool disk_low;     /* the last take met a nearly full file system */
    uint64_t in_use;
    uint64_t n_slots;  /* that have been handed out at least once */
    GArray *free_slots;
};

/* An unlinked file; the O_TMPFILE-less way is for file systems that lack it. */
static int open_unlinked(const char *dir)
{
    g_autofree char *name = NULL;
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) {
        return fd;
    }
    name = g_build_filename(dir, "qemu-sidecar-backup.XXXXXX", NULL);
    fd = mkostemp(name, O_CLOEXEC);
    if (fd >= 0) {
        unlink(name);
    }
    return fd;
}

BackupSpill *backup_spill_new(const char *dir, int64_t limit)
{
    BackupSpill *s = g_new0(BackupSpill, 1);

    if (!dir) {
        dir = g_getenv("TMPDIR");
    }
    s->dir = g_strdup(dir && *dir ? dir : "/var/tmp");
    s->limit = MAX(limit, 0) / BACKUP_BLOCK_SIZE;
    s->free_slots = g_array_new(FALSE, FALSE, sizeof(int64_t));
    s->fd = -1;
    if (s->limit) {
        s->fd = open_unlinked(s->dir);
        s->broken = s->fd < 0 ? errno : 0;
    }
    return s;
}

void backup_spill_free(BackupSpill *s)
{
    if (!s) {
        return;
    }
    if (s->fd >= 0) {
        close(s->fd);
    }
    g_array_unref(s->free_slots);
    g_free(s->dir);
    g_free(s);
}

static bool disk_is_low(const BackupSpill *s)
{
    struct statvfs st;

    return fstatvfs(s->fd, &st) == 0 &&
           st.f_bavail < st.f_blocks / 100 * KEEP_FREE_PERCENT;
}

int64_t backup_spill_take(BackupSpill *s)
{
    int64_t slot;

    if (s->broken || s->fd < 0 || s->in_use >= s->limit) {
        return -1;
    }
    if (s->disk_low || s->in_use % CHECK_EVERY == 0) {
        s->disk_low = disk_is_low(s);
    }
    if (s->disk_low) {
        return -1;
    }
    if (s->free_slots->len) {
        slot = g_array_index(s->free_slots, int64_t, s->free_slots->len - 1);
        g_array_set_size(s->free_slots, s->free_slots->len - 1);
    } else {
        slot = s->n_slots++;
    }
    s->in_use++;
    return slot;
}

void backup_spill_give(BackupSpill *s, int64_t slot)
{
    g_array_append_val(s->free_slots, slot);
    s->in_use--;
}

void backup_spill_set_broken(BackupSpill *s, int errnum)
{
    if (!s->broken) {
        s->broken = errnum;
    }
}

bool backup_spill_is_broken(const BackupSpill *s)
{
    return s->broken || s->fd < 0;
}

char *backup_spill_why(const BackupSpill *s)
{
    if (s->broken) {
        return g_strdup_printf("temporary file in %s: %s", s->dir,
                               g_strerror(s->broken));
    }
    if (s->fd < 0) {
        return g_strdup("no temporary file is allowed");
    }
    if (s->disk_low) {
        return g_strdup_printf("temporary file: less than %d%% is free in %s",
                               KEEP_FREE_PERCENT, s->dir);
    }
    return g_strdup_printf("temporary file in %s: its limit of %" G_GUINT64_FORMAT
                           " bytes is reached",
                           s->dir, s->limit * BACKUP_BLOCK_SIZE);
}

int backup_spill_write(BackupSpill *s, int64_t slot, const void *buf)
{
    size_t done = 0;

    while (done < BACKUP_BLOCK_SIZE) {
        ssize_t n = pwrite(s->fd, (const char *)buf + done,
                           BACKUP_BLOCK_SIZE - done,
                           slot * BACKUP_BLOCK_SIZE + done);

        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        done += MAX(n, 0);
    }
    return 0;
}

int backup_spill_read(BackupSpill *s, int64_t slot, void *buf)
{
    size_t done = 0;

    while (done < BACKUP_BLOCK_SIZE) {
        ssize_t n = pread(s->fd, (char *)buf + done, BACKUP_BLOCK_SIZE - done,
                          slot * BACKUP_BLOCK_SIZE + done);

        if (n == 0) {
            return -EIO; /* the file cannot be shorter than what we wrote */
        }
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        done += MAX(n, 0);
    }
    return 0;
}
