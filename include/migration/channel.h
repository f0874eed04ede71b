/*
 * Where a migration goes to or comes from: tcp:, unix:, exec:, fd:.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_MIGRATION_CHANNEL_H
#define SIDECAR_MIGRATION_CHANNEL_H

#include "migration/qemu-file.h"
#include "migration/return-path.h"

typedef struct MigrationChannel MigrationChannel;

/* Nothing is opened yet.  @uri as in QEMU's migrate; for "fd:…", @fd is the
 * descriptor it stands for (taken over), else -1.  NULL if the uri is of no
 * known form. */
MigrationChannel *migration_channel_new(const char *uri, int fd, GError **errp);
void migration_channel_unref(MigrationChannel *ch);
MigrationChannel *migration_channel_ref(MigrationChannel *ch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(MigrationChannel, migration_channel_unref)

/* Bind the listening socket of an incoming migration, so that errors show at
 * once; nothing to do for exec: and fd:. */
bool migration_channel_listen(MigrationChannel *ch, GError **errp);
/* Wait for the other side (connect, accept, start the command).  Not on the main
 * thread.  The file belongs to the channel. */
QEMUFile *migration_channel_open(MigrationChannel *ch, bool incoming,
                                 GError **errp);
/* Any thread: whoever waits in open, the file or close fails. */
void migration_channel_cancel(MigrationChannel *ch);
/* Flush, close, and wait for the command of exec:, which must succeed.  With
 * @abandon nothing is flushed, and an exec: command is ended. */
bool migration_channel_close(MigrationChannel *ch, bool abandon, GError **errp);

/* The way back, once it is open; NULL: it has none.  It stays open when the channel
 * is closed, and is freed with it. */
ReturnPath *migration_channel_back(MigrationChannel *ch);

#endif
