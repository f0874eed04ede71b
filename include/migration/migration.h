/*
 * Live migration of a VM: the outgoing and the incoming side.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_MIGRATION_MIGRATION_H
#define SIDECAR_MIGRATION_MIGRATION_H

#include "block/block.h"
#include "emulator/cmdline.h"
#include "emulator/emulator.h"
#include "emulator/guest-ram.h"
#include "migration/block-migration.h"
#include "migration/ram.h"

typedef enum {
    MIGRATION_STATUS_NONE,
    MIGRATION_STATUS_SETUP,
    MIGRATION_STATUS_ACTIVE,
    MIGRATION_STATUS_DEVICE,     /* the guest is stopped, its devices are sent */
    MIGRATION_STATUS_CANCELLING,
    MIGRATION_STATUS_CANCELLED,
    MIGRATION_STATUS_COMPLETED,
    MIGRATION_STATUS_FAILED,
} MigrationStatus;

/* As QEMU's name for it. */
const char *migration_status_name(MigrationStatus status);

typedef struct {
    uint64_t max_bandwidth;      /* bytes a second; 0: no limit */
    uint64_t downtime_limit;     /* ms */
    uint64_t xbzrle_cache_size;  /* bytes */
    bool xbzrle;
    bool block;                  /* migrate copies the drives, also if not told to… */
    bool block_incremental;      /* …what lies above their backing files only */
} MigrationParameters;

typedef struct {
    MigrationStatus status;
    bool incoming;
    char *error_desc;            /* or NULL */
    RamStats ram;
    uint64_t transferred;        /* bytes of the whole stream */
    uint32_t page_size;
    uint64_t total_time, setup_time, downtime, expected_downtime; /* ms */
    uint64_t bandwidth;          /* bytes a second, measured */
    bool xbzrle;
    uint64_t xbzrle_cache_size;
    char *stall;                 /* why it does not converge, in words; or NULL */
    char *why_compare;           /* memory, although the kernel has a log; or NULL */
    bool copies_drives;
    BlockMigStats drives;
} MigrationInfo;
void migration_info_clear(MigrationInfo *info);

/* Called on the thread of the migration at each change of status. */
typedef void MigrationStatusFn(void *opaque, MigrationStatus status);

typedef struct {
    Emulator *emu;
    GuestRam *ram;        /* NULL: live migration is off… */
    const char *ram_left; /* …because of this */
    BlockContext *block;
    const EmuCmdline *cl;
    MigrationStatusFn *on_status;
    void *opaque;
} MigrationConfig;

/* One of each a VM.  Everything in @cfg is borrowed and outlives it. */
typedef struct MigrationManager MigrationManager;
MigrationManager *migration_manager_new(const MigrationConfig *cfg);
/* Cancels what runs and waits for it, running the default main context
 * meanwhile; no other one starts.  Main thread. */
void migration_manager_stop(MigrationManager *mgr);
void migration_manager_free(MigrationManager *mgr);

/* ---- outgoing ---------------------------------------------------------- */

typedef enum {
    MIGRATION_BLK = 1 << 0, /* copy the drives too */
    MIGRATION_INC = 1 << 1, /* the same, but not what backing files have */
} MigrationFlags;

/* Returns at once; the status tells the rest.  @fd: see migration_channel_new,
 * taken over.  Any thread. */
bool migration_start(MigrationManager *mgr, const char *uri, int fd,
                     unsigned flags, GError **errp);
/* Asks it to end; the guest runs on.  Succeeds with none running.  Any thread. */
void migration_cancel(MigrationManager *mgr);
/* Until the outgoing migration has ended; its error if it did not complete.
 * Not on the main thread. */
bool migration_wait(MigrationManager *mgr, GError **errp);
void migration_query(MigrationManager *mgr, MigrationInfo *info);
/* Is one under way?  Any thread. */
bool migration_is_outgoing(MigrationManager *mgr);

void migration_get_parameters(MigrationManager *mgr, MigrationParameters *p);
/* Also while a migration runs (but xbzrle itself only takes effect with the
 * next).  Any thread. */
bool migration_set_parameters(MigrationManager *mgr,
                              const MigrationParameters *p, GError **errp);

/*
 * A user's stop and cont; they wait while a migration looks at the stopped guest.
 * After a migration went away from here the images are closed: cont opens them
 * first, which fails as long as they are in use elsewhere.  It fails, too, while a
 * migration has the guest stopped for good.  Not on the main thread.
 */
bool migration_stop(MigrationManager *mgr, GError **errp);
bool migration_cont(MigrationManager *mgr, GError **errp);

/* ---- incoming ----------------------------------------------------------- */

/* Listen at @uri and load what comes; QEMU waits with -incoming defer.  Binding
 * fails at once; later errors are given to @done, which runs on the main thread
 * (error NULL: the guest is here).  Main thread. */
typedef void MigrationIncomingFn(void *opaque, const GError *error);
bool migration_incoming(MigrationManager *mgr, const char *uri, int fd,
                        MigrationIncomingFn *done, void *opaque, GError **errp);

#endif
