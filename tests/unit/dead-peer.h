/*
 * Two ends of a TCP connection, one of which may fall silent as a host without
 * power does.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_DEAD_PEER_H
#define TESTS_DEAD_PEER_H

void tcp_pair(int fds[2]);
/* Nothing that is sent to @fd arrives there any more, or is acknowledged. */
void fall_silent(int fd);

#endif
