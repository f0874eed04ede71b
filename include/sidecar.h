/*
 * The context of one VM: what a monitor command may reach.  Made in
 * qemu-sidecar.c, borrowed by everybody else; it outlives the monitors.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_SIDECAR_H
#define SIDECAR_SIDECAR_H

#include "backup/backup.h"
#include "block/block.h"
#include "block/nbd-server.h"
#include "emulator/emulator.h"

typedef struct Sidecar {
    GMainLoop *loop;
    BlockContext *block;
    NbdServer *nbd;
    char *nbd_socket; /* its abstract name, without the @ */
    BackupManager *backup;
    struct BlockJobSet *jobs;
    BackupRequest backup_defaults; /* what a backup starts from */
    struct MigrationManager *migration;
    Emulator *emu;
    struct GuestRam *ram;        /* shared with QEMU, or NULL */
    struct MonitorSet *monitors; /* all QMP and HMP clients: events, fds */
    /* A VM started with -incoming defer starts to listen.  @fd: what fd:… stands
     * for (taken over), else -1. */
    bool (*incoming)(struct Sidecar *sc, const char *uri, int fd,
                     GError **errp);
} Sidecar;

static inline bool sidecar_incoming(Sidecar *sc, const char *uri, int fd,
                                    GError **errp)
{
    return sc->incoming(sc, uri, fd, errp);
}

#endif
