/*
 * -daemonize: into the background once the VM runs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_DAEMON_H
#define SIDECAR_EMULATOR_DAEMON_H

#include <glib.h>
#include <stdbool.h>

/* Before any thread is started and anything is opened.  Returns in the new
 * process, with a descriptor for daemon_ready, or -1 and an error.  The process
 * that called it waits, and exits with 0 at daemon_ready or with 1 when the new
 * one ends before that. */
int daemon_start(GError **errp);
/* Leave the terminal and the folder, let the caller go on.  @fd is closed. */
void daemon_ready(int fd);

#endif
