/*
 * Connections whose other end has fallen silent; see include/util/socket.h.
 *
 * TCP's keep-alives find that only while nothing is on its way: what waits to be
 * acknowledged is sent again and again for about a quarter of an hour first.
 * TCP_USER_TIMEOUT would end that sooner, but also a connection to somebody who is
 * there and does not read.  So the time of the last sign is asked for: somebody who
 * does not read still acknowledges, and answers when asked for room.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/socket.h"

#include <errno.h>
#include <netinet/in.h>
/* glibc's own has not all of tcp_info */
#include <linux/tcp.h>
#include <sys/socket.h>

#define FEW_PROBES 3 /* for room, that were not answered */

static int silence_ms = 40 * 1000;

void socket_set_silence(int ms)
{
    silence_ms = ms;
}

/* No sign for so long, though it was asked for one?  Not every packet that is not
 * acknowledged means that: who has no room throws it away, but says so. */
static bool is_silent(int fd, unsigned ms)
{
    struct tcp_info info = { 0 };
    socklen_t len = sizeof(info);
    unsigned sign, sent, a_while = ms / 8;

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0) {
        return false;
    }
    sign = info.tcpi_last_ack_recv;
    sent = info.tcpi_last_data_sent; /* or sent again */
    return sign >= ms &&
        ((info.tcpi_unacked && sent >= a_while && sent + a_while <= sign) ||
         info.tcpi_probes >= FEW_PROBES);
}

int socket_poll(struct pollfd *p, nfds_t n, int ms)
{
    gint64 start = g_get_monotonic_time();
    int slice = MAX(silence_ms / 8, 1);

    for (;;) {
        gint64 waited = (g_get_monotonic_time() - start) / 1000;
        int ready = poll(p, n, ms < 0 ? slice : MIN(slice, (int)MAX(ms - waited, 0)));

        if (ready) {
            return ready;
        }
        waited = (g_get_monotonic_time() - start) / 1000;
        if (ms >= 0 && waited >= ms) {
            return 0;
        }
        /* all that it did not acknowledge was sent before we began to wait */
        if (waited >= silence_ms && is_silent(p[0].fd, silence_ms)) {
            errno = ETIMEDOUT;
            return -1;
        }
    }
}
