/*
 * Our own QMP conversation with QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_INNER_QMP_H
#define SIDECAR_EMULATOR_INNER_QMP_H

#include "emulator/emulator.h"

typedef struct InnerQmp InnerQmp;

typedef struct {
    void (*greeting)(void *opaque, json_object *qmp); /* the value of "QMP" */
    void (*event)(void *opaque, json_object *event);
    void (*gone)(void *opaque, const char *why); /* once; why NULL: end of file */
} InnerQmpHandlers;

/* @fd is taken over.  Handlers are called on the main thread. */
InnerQmp *inner_qmp_new(int fd, const InnerQmpHandlers *h, void *opaque);
/* As emu_qmp_send.  Any thread. */
void inner_qmp_send(InnerQmp *qmp, const char *command, json_object *args,
                    const int *fds, size_t n_fds, EmuQmpReplyFn *cb,
                    void *opaque);
/* Handle all that has arrived, without waiting.  Main thread. */
void inner_qmp_drain(InnerQmp *qmp);
/* QEMU has ended: everything pending is answered with NULL, and so is what is
 * still sent from now on.  Main thread. */
void inner_qmp_end(InnerQmp *qmp);
/* No more sends after it; everything pending has been answered with NULL. */
void inner_qmp_free(InnerQmp *qmp);

#endif
