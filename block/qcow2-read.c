/*
 * Reading a qcow2 image, and saying what is where.
 *
 * Clusters that are not allocated come from the backing file, or are zeros
 * behind its end or without one.  A compressed cluster is a raw deflate stream;
 * it is inflated whole, whatever part of it is asked for.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <zlib.h>

#define STATUS_STEPS 256 /* lookups for one answer about a range */

int qcow2_file_pread(BlockNode *bs, uint64_t offset, int64_t bytes, void *buf)
{
    int64_t length = bdrv_length(bs->file);
    int64_t there = offset >= (uint64_t)length ? 0
                    : MIN(bytes, length - (int64_t)offset);

    if (unlikely(there < bytes)) {
        memset((uint8_t *)buf + there, 0, bytes - there);
    }
    return there ? bdrv_pread(bs->file, offset, there, buf) : 0;
}

int qcow2_read_backing(BlockNode *bs, int64_t offset, int64_t bytes, void *buf)
{
    int64_t length = bs->backing ? bdrv_length(bs->backing) : 0;
    int64_t there = CLAMP(length - offset, 0, bytes);

    memset((uint8_t *)buf + there, 0, bytes - there);
    return there ? bdrv_pread(bs->backing, offset, there, buf) : 0;
}

/* ---- compressed clusters -------------------------------------------------- */

/*
 * An entry has the offset in its low bits and above it the number of sectors of
 * 512 bytes that the data touches, without the first.
 */
uint64_t qcow2_compressed_range(const Qcow2State *s, uint64_t entry,
                                uint64_t *offset)
{
    unsigned offset_bits = 62 - (s->cluster_bits - 8);
    uint64_t sectors = ((entry & ~(QCOW2_OFLAG_COPIED | QCOW2_OFLAG_COMPRESSED))
                        >> offset_bits) + 1;

    *offset = entry & ((UINT64_C(1) << offset_bits) - 1);
    return sectors * 512 - (*offset & 511);
}

/* The stream may be followed by anything; it must give exactly one cluster. */
static int inflate_cluster(const uint8_t *in, size_t in_bytes, uint8_t *out,
                           size_t out_bytes)
{
    z_stream z = { .next_in = (uint8_t *)in, .avail_in = in_bytes,
                   .next_out = out, .avail_out = out_bytes };
    int ret;

    if (inflateInit2(&z, -MAX_WBITS) != Z_OK) {
        return -ENOMEM;
    }
    ret = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    /* QEMU takes a stream that has more to give than a cluster, too. */
    return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && z.avail_out == 0
               ? 0 : -EIO;
}

int qcow2_read_compressed(BlockNode *bs, uint64_t entry, uint8_t *out)
{
    Qcow2State *s = bs->opaque;
    uint64_t offset, bytes = qcow2_compressed_range(s, entry, &offset);
    g_autofree uint8_t *in = g_try_malloc(bytes);
    int ret;

    if (!in) {
        return -ENOMEM;
    }
    ret = qcow2_file_pread(bs, offset, bytes, in);
    return ret < 0 ? ret : inflate_cluster(in, bytes, out, s->cluster_size);
}

static int pread_compressed(BlockNode *bs, const Qcow2Mapping *m,
                            int64_t offset, void *buf)
{
    Qcow2State *s = bs->opaque;
    g_autofree uint8_t *cluster = g_try_malloc(s->cluster_size);
    int ret = cluster ? qcow2_read_compressed(bs, m->entry, cluster) : -ENOMEM;

    if (ret == 0) {
        memcpy(buf, cluster + (offset & (s->cluster_size - 1)), m->bytes);
    }
    return ret;
}

/* ---- reading ---------------------------------------------------------------- */

static int pread_run(BlockNode *bs, const Qcow2Mapping *m, int64_t offset,
                     uint8_t *buf)
{
    switch (m->type) {
    case QCOW2_NORMAL:
        return qcow2_file_pread(bs, m->host, m->bytes, buf);
    case QCOW2_COMPRESSED:
        return pread_compressed(bs, m, offset, buf);
    case QCOW2_UNALLOCATED:
        return qcow2_read_backing(bs, offset, m->bytes, buf);
    default:
        memset(buf, 0, m->bytes);
        return 0;
    }
}

int qcow2_pread(BlockNode *bs, int64_t offset, int64_t bytes, void *buf)
{
    Qcow2Mapping m;
    uint8_t *p = buf;
    int ret = 0;

    while (bytes > 0 && ret == 0) {
        ret = qcow2_map_lookup(bs, offset, bytes, true, &m);
        if (likely(ret == 0)) {
            ret = pread_run(bs, &m, offset, p);
            qcow2_io_end(bs->opaque, &m);
            p += m.bytes;
            offset += m.bytes;
            bytes -= m.bytes;
        }
    }
    return ret;
}

/* ---- block status ------------------------------------------------------------- */

static int status_of(Qcow2ClusterType type)
{
    switch (type) {
    case QCOW2_UNALLOCATED:
        return 0;
    case QCOW2_ZERO:
    case QCOW2_ZERO_ALLOC:
        return BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED;
    default:
        return BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED;
    }
}

int qcow2_block_status(BlockNode *bs, int64_t offset, int64_t bytes,
                       int64_t *pnum)
{
    unsigned steps = STATUS_STEPS;
    Qcow2Mapping m;
    int64_t done;
    int ret = qcow2_map_lookup(bs, offset, bytes, false, &m), status;

    if (ret < 0) {
        return ret;
    }
    status = status_of(m.type);
    /* Not too far: each step may have to read a slice. */
    for (done = m.bytes; done < bytes && steps-- > 0; done += m.bytes) {
        ret = qcow2_map_lookup(bs, offset + done, bytes - done, false, &m);
        if (ret < 0 || status_of(m.type) != status) {
            break;
        }
    }
    *pnum = done;
    return status;
}
