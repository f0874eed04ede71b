/*
 * A small NBD client for unit tests: blocking, one thread, every wait ends
 * after a minute.  It can also send what no good client would.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_NBD_CLIENT_H
#define TESTS_NBD_CLIENT_H

#include "../../block/nbd-proto.h"

typedef struct {
    int fd;
    uint64_t size;
    uint16_t flags; /* of the export */
    uint64_t next_cookie;
} NbdClient;

/* What one reply amounted to. */
typedef struct {
    uint64_t cookie;
    uint32_t error;
    unsigned chunks, holes; /* content chunks; how many of them OFFSET_HOLE */
    uint64_t covered;       /* bytes of content */
    unsigned extents;       /* of a BLOCK_STATUS */
    uint32_t extent[8][2];  /* length, flags */
} NbdReply;

/* Connect, no more.  @path as for nbd_server_listen_unix.  NULL: refused. */
NbdClient *nbd_client_connect(const char *path);
void nbd_client_close(NbdClient *c);

/* True if the server has closed (what else it says is thrown away). */
bool nbd_client_is_closed(NbdClient *c);

void nbd_client_send(NbdClient *c, const void *buf, size_t len);
/* False at the end of file. */
bool nbd_client_recv(NbdClient *c, void *buf, size_t len);

typedef enum {
    NBD_CLIENT_SIMPLE = 0,
    NBD_CLIENT_STRUCTURED = 1,
    NBD_CLIENT_ALLOCATION = 3, /* structured, and base:allocation */
} NbdClientMode;

/* Handshake with GO.  False: the server refused or closed. */
bool nbd_client_go(NbdClient *c, const char *name, NbdClientMode mode);
/* The same up to a connection in transmission phase, or fail the test. */
NbdClient *nbd_client_open(const char *path, const char *name, NbdClientMode mode);

void nbd_client_put_request(uint8_t p[NBD_REQUEST_SIZE], uint16_t type,
                            uint16_t flags, uint64_t cookie, uint64_t offset,
                            uint32_t length);
/* Send a request, with @payload for a write; its cookie. */
uint64_t nbd_client_request(NbdClient *c, uint16_t type, uint16_t flags,
                            uint64_t offset, uint32_t length, const void *payload);
/* The next whole reply, of whichever request, as long as chunks of several do
 * not come mixed.  Content goes to @buf, which stands for offset @base and has
 * @length bytes.  False at the end of file. */
bool nbd_client_reply(NbdClient *c, NbdReply *r, uint8_t *buf, uint64_t base,
                      uint32_t length);
/* Both; the error. */
uint32_t nbd_client_call(NbdClient *c, uint16_t type, uint16_t flags,
                         uint64_t offset, uint32_t length, void *buf);

#endif
