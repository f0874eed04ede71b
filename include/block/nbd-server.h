/*
 * The NBD export of a VM's drives: fixed newstyle, structured replies,
 * base:allocation, FUA, flush, trim, write-zeroes (no-hole, fast-zero),
 * cache, multi-conn, block-size info.  Source of the protocol: the NBD
 * project's doc/proto.md.
 *
 * One server a VM: a listening socket, an export a drive, a bounded pool of
 * workers that all connections share.  A flush on one connection covers the
 * writes answered on all.  Whatever a client sends, other clients and the
 * images are not harmed: it gets an NBD error or is disconnected.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BLOCK_NBD_SERVER_H
#define SIDECAR_BLOCK_NBD_SERVER_H

#include "block/block.h"
#include <sys/types.h>

typedef struct NbdServer NbdServer;

/* @workers 1…256: how many requests may run at once, beside one that each
 * export always has.  64 is a good number: four drives whose sixteen requests
 * (QEMU sends no more) all wait.  Threads are made when they are needed.  Main
 * thread. */
NbdServer *nbd_server_new(unsigned workers, GError **errp);

/* Listen on a unix socket: @path starting with '@' is an abstract name, else a
 * file that is created with mode 0600 and removed by nbd_server_free.  A file
 * left by a server that died is replaced.  Once for each server. */
bool nbd_server_listen_unix(NbdServer *srv, const char *path, GError **errp);

/* Only this process may connect, whatever its uid (QEMU may have changed it);
 * 0: any process of our uid.  Checked with SO_PEERCRED at accept.  May be called
 * later. */
void nbd_server_allow_pid(NbdServer *srv, pid_t pid);

/* Offer @blk under @name (1…4095 bytes UTF-8).  The size that clients see is
 * read at connect time. */
bool nbd_server_add(NbdServer *srv, const char *name, BlockBackend *blk,
                    bool read_only, GError **errp);
/* Stop offering it and close its connections as nbd_server_drop_clients does.
 * @blk must live until nbd_server_free. */
void nbd_server_remove(NbdServer *srv, const char *name);
/* Close the connections of one export (NULL: of all) after the requests in
 * flight were answered: clients that reconnect see a new size.  Returns at
 * once, as the two functions above do; a request that is received only after
 * the return is not answered, so a client with `reconnect-delay' repeats it on
 * the next connection. */
void nbd_server_drop_clients(NbdServer *srv, const char *name);
/* How many connections an export has now. */
unsigned nbd_server_connections(NbdServer *srv, const char *name);

/* A client of export @name has ended its connection itself, by the protocol's
 * own request for that: QEMU does so when it needs the export no more.  Called on
 * a worker's thread, with the server's lock held: @fn only passes the word on and
 * calls nothing of the server.  NULL takes it off. */
typedef void NbdGoodbyeFn(void *opaque, const char *name);
void nbd_server_set_goodbye_fn(NbdServer *srv, NbdGoodbyeFn *fn, void *opaque);

/* Close everything, wait for requests in flight, end the workers.  A client
 * that does not read its answers is given two seconds; a request that waits
 * for a drained drive or in a write hook is waited for: end those first. */
void nbd_server_free(NbdServer *srv);

#endif
