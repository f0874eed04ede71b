/*
 * The human monitor: commands as people type them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_HMP_HMP_H
#define SIDECAR_HMP_HMP_H

#include "qapi/monitor.h"

/*
 * Serve HMP on @chr (taken over).  For each client a Monitor is made with
 * monitor_new_hmp (qapi/) and freed with it.  Main thread.
 */
typedef struct HmpServer HmpServer;
HmpServer *hmp_server_new(MonitorSet *set, Chardev *chr);
/* Ends every client; waits for commands that are being run. */
void hmp_server_free(HmpServer *server);

/*
 * Run one line as `human-monitor-command` does: a command of ours here, any
 * other in QEMU.  The output (with \r\n, as QEMU's; g_free); what went wrong
 * for the user is in it, as a person would see it.  NULL only when QEMU is gone
 * or refused human-monitor-command itself.  @cpu_index: -1, or as in QMP.
 * Blocks; any thread but the main one.
 */
char *hmp_execute(Monitor *mon, const char *line, int64_t cpu_index,
                  GError **errp);

#endif
