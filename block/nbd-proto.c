/*
 * NBD requests and replies between bytes and structures; see nbd-proto.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "nbd-proto.h"

#include <errno.h>

bool nbd_request_decode(const uint8_t buf[NBD_REQUEST_SIZE], NbdRequest *req)
{
    if (nbd_get32(buf) != NBD_REQUEST_MAGIC) {
        return false;
    }
    req->flags = nbd_get16(buf + 4);
    req->type = nbd_get16(buf + 6);
    req->cookie = nbd_get64(buf + 8);
    req->offset = nbd_get64(buf + 16);
    req->length = nbd_get32(buf + 24);
    return true;
}

uint32_t nbd_request_payload(const NbdRequest *req)
{
    return req->type == NBD_CMD_WRITE ? req->length : 0;
}

/* What a command is allowed and how it is limited. */
typedef struct {
    bool known;
    bool writes;        /* refused on a read-only export */
    bool has_range;     /* offset and length say something */
    bool beyond_enospc; /* past the end: ENOSPC, else EINVAL */
    uint16_t flags;     /* besides FUA, which is accepted everywhere */
    uint32_t max_length; /* 0: whatever fits into the export */
} NbdCommandInfo;

static const NbdCommandInfo commands[] = {
    [NBD_CMD_READ] = { .known = true, .has_range = true,
                       .flags = NBD_CMD_FLAG_DF,
                       .max_length = NBD_MAX_PAYLOAD },
    [NBD_CMD_WRITE] = { .known = true, .writes = true, .has_range = true,
                        .beyond_enospc = true, .max_length = NBD_MAX_PAYLOAD },
    [NBD_CMD_DISC] = { .known = true },
    [NBD_CMD_FLUSH] = { .known = true },
    [NBD_CMD_TRIM] = { .known = true, .writes = true, .has_range = true },
    [NBD_CMD_CACHE] = { .known = true, .has_range = true },
    [NBD_CMD_WRITE_ZEROES] = { .known = true, .writes = true, .has_range = true,
                               .beyond_enospc = true,
                               .flags = NBD_CMD_FLAG_NO_HOLE |
                                        NBD_CMD_FLAG_FAST_ZERO },
    [NBD_CMD_BLOCK_STATUS] = { .known = true, .has_range = true,
                               .flags = NBD_CMD_FLAG_REQ_ONE },
};

uint32_t nbd_request_check(const NbdRequest *req, const NbdSession *session,
                           uint64_t size)
{
    const NbdCommandInfo *cmd;

    if (req->type >= G_N_ELEMENTS(commands) || !commands[req->type].known) {
        return NBD_EINVAL;
    }
    cmd = &commands[req->type];
    if (req->flags & ~(cmd->flags | NBD_CMD_FLAG_FUA)) {
        return NBD_EINVAL;
    }
    if ((req->flags & NBD_CMD_FLAG_DF) && !session->structured) {
        return NBD_EINVAL;
    }
    if (req->type == NBD_CMD_BLOCK_STATUS &&
        (!session->base_allocation || req->length == 0)) {
        return NBD_EINVAL;
    }
    if (cmd->writes && session->read_only) {
        return NBD_EPERM;
    }
    if (!cmd->has_range) {
        return NBD_SUCCESS;
    }
    if (cmd->max_length && req->length > cmd->max_length) {
        return NBD_EINVAL;
    }
    if (req->offset > size || req->length > size - req->offset) {
        return cmd->beyond_enospc ? NBD_ENOSPC : NBD_EINVAL;
    }
    if ((req->flags & NBD_CMD_FLAG_DF) && req->length > NBD_MAX_UNFRAGMENTED) {
        return NBD_EOVERFLOW;
    }
    return NBD_SUCCESS;
}

uint32_t nbd_errno(int errnum)
{
    switch (errnum) {
    case 0:
        return NBD_SUCCESS;
    case EPERM:
    case EROFS:
    case EACCES:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case ENOTSUP:
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

const char *nbd_strerror(uint32_t error)
{
    switch (error) {
    case NBD_EPERM:
        return "the export is read-only";
    case NBD_ENOMEM:
        return "out of memory";
    case NBD_EINVAL:
        return "invalid request";
    case NBD_ENOSPC:
        return "no space left, or beyond the end of the export";
    case NBD_EOVERFLOW:
        return "too long to be answered in one piece";
    case NBD_ENOTSUP:
        return "not supported";
    case NBD_ESHUTDOWN:
        return "the server is shutting down";
    default:
        return "input/output error";
    }
}

size_t nbd_put_simple_reply(uint8_t *p, uint64_t cookie, uint32_t error)
{
    nbd_put32(p, NBD_SIMPLE_REPLY_MAGIC);
    nbd_put32(p + 4, error);
    nbd_put64(p + 8, cookie);
    return NBD_SIMPLE_REPLY_SIZE;
}

size_t nbd_put_chunk(uint8_t *p, uint64_t cookie, uint16_t flags, uint16_t type,
                     uint32_t length)
{
    nbd_put32(p, NBD_STRUCTURED_REPLY_MAGIC);
    nbd_put16(p + 4, flags);
    nbd_put16(p + 6, type);
    nbd_put64(p + 8, cookie);
    nbd_put32(p + 16, length);
    return NBD_CHUNK_SIZE;
}

size_t nbd_put_data_chunk(uint8_t *p, uint64_t cookie, uint16_t flags,
                          uint64_t offset, uint32_t bytes)
{
    nbd_put_chunk(p, cookie, flags, NBD_REPLY_TYPE_OFFSET_DATA, 8 + bytes);
    nbd_put64(p + NBD_CHUNK_SIZE, offset);
    return NBD_DATA_CHUNK_SIZE;
}

size_t nbd_put_hole_chunk(uint8_t *p, uint64_t cookie, uint16_t flags,
                          uint64_t offset, uint32_t bytes)
{
    nbd_put_chunk(p, cookie, flags, NBD_REPLY_TYPE_OFFSET_HOLE, 12);
    nbd_put64(p + NBD_CHUNK_SIZE, offset);
    nbd_put32(p + NBD_CHUNK_SIZE + 8, bytes);
    return NBD_HOLE_CHUNK_SIZE;
}

size_t nbd_put_error_chunk(uint8_t *p, uint64_t cookie, uint32_t error)
{
    const char *msg = nbd_strerror(error);
    uint16_t len = (uint16_t)strlen(msg);

    nbd_put_chunk(p, cookie, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, 6U + len);
    nbd_put32(p + NBD_CHUNK_SIZE, error);
    nbd_put16(p + NBD_CHUNK_SIZE + 4, len);
    memcpy(p + NBD_CHUNK_SIZE + 6, msg, len);
    return NBD_CHUNK_SIZE + 6U + len;
}
