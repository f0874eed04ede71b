/*
 * The human monitor: commands as people type them.  monitor_add_hmp
 * (qapi/monitor.h) serves it on a chardev.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_HMP_HMP_H
#define SIDECAR_HMP_HMP_H

#include "qapi/monitor.h"

/*
 * Run one line as `human-monitor-command` does, as @mon (a client of any kind):
 * a command of ours here, any other in QEMU.  The output (lines end in \r\n, as
 * QEMU's; g_free); errors of the command are part of it, as a person would see
 * them.  NULL and an error only when the line could not be run at all.
 * @cpu_index: as in QMP, -1: not given.  On a command's thread, not the main
 * one.
 */
char *hmp_execute(Monitor *mon, const char *line, int64_t cpu_index,
                  GError **errp);

#endif
