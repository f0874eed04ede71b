/*
 * What outgoing.c, incoming.c and migration.c share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_MIGRATION_INTERNAL_H
#define SIDECAR_MIGRATION_INTERNAL_H

#include "migration/channel.h"
#include "migration/migration.h"
#include "migration/qemu-stream.h"

#include <pthread.h>

#define TARGET_PAGE_SIZE 4096

struct MigrationManager {
    MigrationConfig cfg;

    pthread_mutex_t run_lock;    /* see migration.c */
    pthread_mutex_t report_lock;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    /* under lock */
    MigrationParameters params;
    unsigned params_serial;      /* counts changes */
    bool running;                /* a thread exists */
    bool cancelled;
    bool stopping;               /* no more of them */
    MigrationStatus status;
    bool incoming;
    char *error_desc;
    char *stall;
    char *why_compare;           /* this migration does, against the rule */
    MigrationChannel *channel;   /* of the one that runs */
    RamSaver *saver;             /* readable while it exists */
    RamStats last_ram;           /* of the last one, when saver is gone */
    bool copies_drives;
    BlockSaver *drives;          /* readable while it exists */
    BlockMigStats last_drives;   /* when that is gone */
    QEMUFile *file;              /* for the bandwidth limit */
    gint64 start_us, end_us, setup_us;
    uint64_t downtime_ms, expected_downtime_ms;
    uint64_t transferred, bandwidth;
    uint64_t cache_size;
    bool xbzrle;
    bool drives_away;            /* images are closed: the guest went elsewhere */
    bool unknown;                /* nobody here knows who has the guest */
    bool finishing;              /* the guest stays stopped until this is over */
    bool stop_asked;             /* by a user, while it was stopped for that */
    bool expected;               /* a guest is on its way here, and… */
    bool autostart;              /* …shall run then: no -S, or as users said since */

    /* the migration's thread: state of a guest that has not run since */
    DeviceState *kept;
    char *kept_peripherals;

    pthread_t thread;
    bool joinable;
};

void migration_set_status(MigrationManager *m, MigrationStatus status);
bool migration_is_cancelled(MigrationManager *m);
/* Claims the manager and starts @run on a thread; @ch is taken over. */
bool migration_run(MigrationManager *m, MigrationChannel *ch, bool incoming,
                   void *(*run)(void *), void *opaque, GError **errp);
/* From now on (or no more) stop and cont are about the guest that is to come. */
void migration_expect(MigrationManager *m, bool expected);
/* At the end of the thread: the final status; @error is consumed, may be NULL. */
void migration_ended(MigrationManager *m, GError *error);
/* Fails with the reason when RAM is not shared. */
bool migration_possible(MigrationManager *m, GError **errp);

/*
 * Reads QEMU's device state from @fd (taken over, see emu_save_devices_open) in a
 * thread of its own.  _end waits for the last byte; NULL with @error if it did not
 * come or made no sense.  _abandon: when it was not asked for.
 */
typedef struct DeviceReader DeviceReader;
DeviceReader *device_reader_start(int fd, GError **errp);
int device_reader_fd(const DeviceReader *r);
DeviceState *device_reader_end(DeviceReader *r, GError **error);
void device_reader_abandon(DeviceReader *r);

#endif
