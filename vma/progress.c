/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmd.h"

#include <string.h>
#include <unistd.h>

#define BAR_WIDTH 40
#define BAR_INTERVAL_US 100000

void progress_init(Progress *p, bool enabled, uint64_t total)
{
    *p = (Progress){
        .enabled = enabled,
        .bar = isatty(STDERR_FILENO),
        .total = total,
        .percent = -1,
        .start_us = g_get_monotonic_time(),
    };
}

static void show_bar(Progress *p, int percent, int64_t now)
{
    char bar[BAR_WIDTH + 1];
    int full = percent * BAR_WIDTH / 100;
    double seconds = MAX(now - p->start_us, 1) / 1e6;

    memset(bar, '#', full);
    memset(bar + full, '.', BAR_WIDTH - full);
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "\r[%s] %3d%%  %.0f MiB/s ", bar, percent,
            p->done / seconds / 1048576);
    fflush(stderr);
    p->shown_us = now;
}

void progress_update(Progress *p, uint64_t done)
{
    int64_t now;
    int percent;

    p->done = done;
    if (!p->enabled) {
        return;
    }
    percent = p->total ? (double)MIN(done, p->total) / p->total * 100 : 100;
    now = g_get_monotonic_time();
    if (p->bar) {
        if (now - p->shown_us >= BAR_INTERVAL_US || percent == 100) {
            show_bar(p, percent, now);
        }
    } else if (percent != p->percent) {
        fprintf(stderr,
                "progress %d%% (read %" G_GUINT64_FORMAT " bytes, duration %d sec)\n",
                percent, done, (int)((now - p->start_us) / 1000000));
    }
    p->percent = percent;
}

void progress_end(Progress *p)
{
    if (p->enabled && p->bar && p->percent >= 0) {
        fputc('\n', stderr);
        p->percent = -1;
    }
}
