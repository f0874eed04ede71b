/*
 * The handshake as a state machine over bytes: it is fed what the client sent
 * and appends what the server answers.  No I/O, no clock, no locks: one
 * thread at a time.
 *
 *            ┌──────────────┐ flags  ┌────────┐ header ┌────────────┐
 *  greeting ─► CLIENT_FLAGS ├───────►│ OPTION ├───────►│ DATA, SKIP │
 *            └──────────────┘        └──▲──┬──┘        └──────┬─────┘
 *                                       └──┼──── reply ───────┘
 *                          GO, EXPORT_NAME ▼     anything unintelligible, ABORT
 *                                        DONE          └──► CLOSED
 *
 * An option longer than NBD_MAX_OPTION is skipped, not stored, and refused
 * afterwards, so the memory for a handshake is bounded by what the caller
 * buffers (NBD_MAX_OPTION + NBD_OPTION_HEADER_SIZE at least).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BLOCK_NBD_NEGOTIATE_H
#define SIDECAR_BLOCK_NBD_NEGOTIATE_H

#include "nbd-proto.h"

#define NBD_OPTION_HEADER_SIZE 16
/* Name and queries together; room for a name and several queries. */
#define NBD_MAX_OPTION 16384U
/* The answers to one feed are stopped when this much waits to be sent, so that
 * a client that asks and asks without reading is no burden. */
#define NBD_NEGOTIATE_OUT_HIGH (256U * 1024)

typedef struct {
    uint64_t size;
    uint16_t flags; /* transmission flags but DF, which negotiation adds */
    uint32_t min_block, preferred_block, max_block;
} NbdExportInfo;

/* What the handshake asks of the server. */
typedef struct {
    /* Fill *info; false: there is no such export (@name "": the default). */
    bool (*find)(void *opaque, const char *name, NbdExportInfo *info);
    /* Call @fn for the name of every export. */
    void (*list)(void *opaque, void (*fn)(void *fn_opaque, const char *name),
                 void *fn_opaque);
} NbdNegotiateOps;

typedef enum {
    NBD_NEGOTIATE_MORE,  /* send @out, then feed more bytes (or the rest) */
    NBD_NEGOTIATE_DONE,  /* send @out; transmission phase with name, session */
    NBD_NEGOTIATE_CLOSE, /* send @out, then close */
} NbdNegotiateResult;

typedef enum {
    NBD_NEGOTIATE_IN_CLIENT_FLAGS,
    NBD_NEGOTIATE_IN_OPTION,
    NBD_NEGOTIATE_IN_DATA,
    NBD_NEGOTIATE_IN_SKIP,
    NBD_NEGOTIATE_IN_DONE,
    NBD_NEGOTIATE_IN_CLOSED,
} NbdNegotiateState;

typedef struct {
    const NbdNegotiateOps *ops;
    void *opaque;
    NbdNegotiateState state;
    uint32_t client_flags;
    uint32_t option;     /* in DATA and SKIP: which, */
    uint32_t left;       /* how many bytes of it are still to come, */
    uint32_t skip_reply; /* and in SKIP what to answer then */
    bool structured;
    char *meta_export;   /* that base:allocation was selected for, or NULL */
    /* Valid at DONE. */
    char *name;
    NbdSession session;
} NbdNegotiation;

/* Start, with the greeting in @out. */
void nbd_negotiate_init(NbdNegotiation *n, const NbdNegotiateOps *ops,
                        void *opaque, GByteArray *out);
void nbd_negotiate_clear(NbdNegotiation *n);

/* Digest the @len bytes at @buf; *used of them are done with, the rest must
 * come again with more behind them.  With NBD_MAX_OPTION + 16 bytes at @buf it
 * always uses some, unless @out is full. */
NbdNegotiateResult nbd_negotiate_feed(NbdNegotiation *n, const uint8_t *buf,
                                      size_t len, size_t *used,
                                      GByteArray *out);

#endif
