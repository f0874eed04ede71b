/*
 * NBD on the wire: the numbers of the protocol, and functions between bytes
 * and structures.  No I/O, no state: any thread, and the fuzzers' business.
 * Source: doc/proto.md of the NBD project.  All integers are big-endian.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_BLOCK_NBD_PROTO_H
#define SIDECAR_BLOCK_NBD_PROTO_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ---- handshake ------------------------------------------------------ */

#define NBD_MAGIC 0x4e42444d41474943ULL      /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC 0x49484156454f5054ULL /* "IHAVEOPT" */
#define NBD_OPTION_REPLY_MAGIC 0x0003e889045565a9ULL

enum { /* handshake flags, u16 */
    NBD_FLAG_FIXED_NEWSTYLE = 1 << 0,
    NBD_FLAG_NO_ZEROES = 1 << 1,
};

enum { /* client flags, u32 */
    NBD_FLAG_C_FIXED_NEWSTYLE = 1 << 0,
    NBD_FLAG_C_NO_ZEROES = 1 << 1,
};

enum {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ERROR (1U << 31)
enum {
    NBD_REP_ACK = 1,
    NBD_REP_SERVER = 2,
    NBD_REP_INFO = 3,
    NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR_UNSUP (NBD_REP_ERROR + 1)
#define NBD_REP_ERR_POLICY (NBD_REP_ERROR + 2)
#define NBD_REP_ERR_INVALID (NBD_REP_ERROR + 3)
#define NBD_REP_ERR_UNKNOWN (NBD_REP_ERROR + 6)
#define NBD_REP_ERR_TOO_BIG (NBD_REP_ERROR + 9)

enum {
    NBD_INFO_EXPORT = 0,
    NBD_INFO_NAME = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE = 3,
};

enum { /* transmission flags, u16 */
    NBD_FLAG_HAS_FLAGS = 1 << 0,
    NBD_FLAG_READ_ONLY = 1 << 1,
    NBD_FLAG_SEND_FLUSH = 1 << 2,
    NBD_FLAG_SEND_FUA = 1 << 3,
    NBD_FLAG_SEND_TRIM = 1 << 5,
    NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
    NBD_FLAG_SEND_DF = 1 << 7,
    NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
    NBD_FLAG_SEND_CACHE = 1 << 10,
    NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
};

#define NBD_MAX_NAME 4096U /* of an export or a query, as the protocol says */

/* ---- transmission --------------------------------------------------- */

#define NBD_REQUEST_MAGIC 0x25609513U
#define NBD_SIMPLE_REPLY_MAGIC 0x67446698U
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efU

enum {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

enum {
    NBD_CMD_FLAG_FUA = 1 << 0,
    NBD_CMD_FLAG_NO_HOLE = 1 << 1,
    NBD_CMD_FLAG_DF = 1 << 2,
    NBD_CMD_FLAG_REQ_ONE = 1 << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
};

enum {
    NBD_REPLY_TYPE_NONE = 0,
    NBD_REPLY_TYPE_OFFSET_DATA = 1,
    NBD_REPLY_TYPE_OFFSET_HOLE = 2,
    NBD_REPLY_TYPE_BLOCK_STATUS = 5,
    NBD_REPLY_TYPE_ERROR = (1 << 15) + 1,
};
#define NBD_REPLY_FLAG_DONE 1

/* The id we give to base:allocation. */
#define NBD_CONTEXT_ID 1U
enum { /* of base:allocation */
    NBD_STATE_HOLE = 1 << 0,
    NBD_STATE_ZERO = 1 << 1,
};

/* The protocol's error numbers. */
enum {
    NBD_SUCCESS = 0,
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

#define NBD_REQUEST_SIZE 28
#define NBD_SIMPLE_REPLY_SIZE 16
#define NBD_CHUNK_SIZE 20       /* header of a structured reply chunk */
#define NBD_DATA_CHUNK_SIZE 28  /* the same with the offset of OFFSET_DATA */
#define NBD_HOLE_CHUNK_SIZE 32  /* a whole OFFSET_HOLE */

/* What one READ or WRITE may move; offered as the maximum block size, and what
 * clients that know nothing of block sizes use as their limit. */
#define NBD_MAX_PAYLOAD (32U * 1024 * 1024)
/* A READ with the flag DF may be this long. */
#define NBD_MAX_UNFRAGMENTED (2U * 1024 * 1024)

typedef struct {
    uint16_t flags;
    uint16_t type;
    uint64_t cookie; /* the client's, in native order here and back on the wire */
    uint64_t offset;
    uint32_t length;
} NbdRequest;

/* What was agreed on in the handshake, as far as requests depend on it. */
typedef struct {
    bool structured;
    bool base_allocation;
    bool read_only;
} NbdSession;

static inline uint16_t nbd_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t nbd_get32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return GUINT32_FROM_BE(v);
}

static inline uint64_t nbd_get64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return GUINT64_FROM_BE(v);
}

static inline void nbd_put16(uint8_t *p, uint16_t v)
{
    v = GUINT16_TO_BE(v);
    memcpy(p, &v, sizeof(v));
}

static inline void nbd_put32(uint8_t *p, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    memcpy(p, &v, sizeof(v));
}

static inline void nbd_put64(uint8_t *p, uint64_t v)
{
    v = GUINT64_TO_BE(v);
    memcpy(p, &v, sizeof(v));
}

/* Take a request header apart.  False: the magic is wrong, so nobody knows
 * where the next one starts, and the connection is lost. */
bool nbd_request_decode(const uint8_t buf[NBD_REQUEST_SIZE], NbdRequest *req);

/* How many bytes follow the header on the wire: of a write, however absurd. */
uint32_t nbd_request_payload(const NbdRequest *req);

/* May this be executed, on an export of @size bytes now?  NBD_SUCCESS or the
 * error to answer with.  What passes has its range inside the export, a length
 * within the limits of its type, and only flags that its type knows. */
uint32_t nbd_request_check(const NbdRequest *req, const NbdSession *session,
                           uint64_t size);

/* The protocol's number for a positive errno; 0 stays 0. */
uint32_t nbd_errno(int errnum);

/* A few words for the message in an error chunk; static. */
const char *nbd_strerror(uint32_t error);

/* These put headers at @p and return the number of bytes put. */
size_t nbd_put_simple_reply(uint8_t *p, uint64_t cookie, uint32_t error);
size_t nbd_put_chunk(uint8_t *p, uint64_t cookie, uint16_t flags, uint16_t type,
                     uint32_t length);
size_t nbd_put_data_chunk(uint8_t *p, uint64_t cookie, uint16_t flags,
                          uint64_t offset, uint32_t bytes);
size_t nbd_put_hole_chunk(uint8_t *p, uint64_t cookie, uint16_t flags,
                          uint64_t offset, uint32_t bytes);
/* A whole error chunk with its message: at most NBD_ERROR_CHUNK_MAX bytes. */
#define NBD_ERROR_CHUNK_MAX 128
size_t nbd_put_error_chunk(uint8_t *p, uint64_t cookie, uint32_t error);

#endif
