/*
 * Reading QEMU's device state in a thread of its own: while the guest is
 * stopped QEMU then writes at its own pace, and does not wait until the last
 * pages of RAM have been sent (a socket holds less than a state).
 *
 * The thread is there before the guest is stopped, and waits.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration-internal.h"

#include "util/error.h"

struct DeviceReader {
    pthread_t thread;
    QEMUFile *f;
    int fd;            /* f's */
    DeviceState *ds;   /* once the thread has ended, or… */
    GError *error;     /* …why not */
};

static void *reader_thread(void *opaque)
{
    DeviceReader *r = opaque;

    r->ds = device_state_read(r->f, TARGET_PAGE_SIZE, &r->error);
    return NULL;
}

DeviceReader *device_reader_start(int fd, GError **errp)
{
    DeviceReader *r;
    QEMUFile *f = qemu_file_new_fd(fd, "QEMU", errp);
    int err;

    if (!f) {
        return NULL;
    }
    r = g_new0(DeviceReader, 1);
    r->f = f;
    r->fd = fd;
    err = pthread_create(&r->thread, NULL, reader_thread, r);
    if (err) {
        error_set_errno(errp, err, "cannot start a thread");
        qemu_file_abandon(f);
        g_free(r);
        return NULL;
    }
    return r;
}

int device_reader_fd(const DeviceReader *r)
{
    return r->fd;
}

DeviceState *device_reader_end(DeviceReader *r, GError **error)
{
    DeviceState *ds;

    pthread_join(r->thread, NULL);
    ds = r->ds;
    if (r->error) {
        g_propagate_error(error, r->error);
    }
    qemu_file_abandon(r->f);
    g_free(r);
    return ds;
}

void device_reader_abandon(DeviceReader *r)
{
    qemu_file_shutdown(r->f);
    device_state_unref(device_reader_end(r, NULL));
}
