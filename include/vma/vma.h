/*
 * VMA archives: writer and reader.  They move clusters and know nothing of the
 * block layer.  The bytes are in docs/specs/vma.txt.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_VMA_VMA_H
#define SIDECAR_VMA_VMA_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define VMA_BLOCK_SIZE 4096
#define VMA_CLUSTER_SIZE 65536     /* sixteen blocks */
#define VMA_MAX_DEVICES 254        /* dev_id 1…254 */
#define VMA_MAX_CONFIGS 256

/* ---- target of an archive -------------------------------------------- */

/*
 * Where the bytes of an archive go.  A new archive file is written under a
 * temporary name in the same folder and gets its own name (without replacing
 * anything) in vma_target_commit, after fsync; pipes, fds and exec: commands
 * are only written and closed, and an exec: command must end with status 0.
 */
typedef struct VmaTarget VmaTarget;

/* @spec: a path (must not exist), "exec:COMMAND", or "-" for standard output.
 * A path that is a FIFO or a character device is written in place; a FIFO is
 * opened at the first write, which waits for a reader. */
VmaTarget *vma_target_open(const char *spec, GError **errp);
/* @fd is taken over; @name is for messages. */
VmaTarget *vma_target_from_fd(int fd, const char *name, GError **errp);
/* Everything or an error (also EPIPE, ENOSPC); blocks; wakes up with
 * SIDECAR_ERROR_CANCELLED after vma_target_cancel. */
bool vma_target_write(VmaTarget *t, const void *buf, size_t len, GError **errp);
/* Do not sync in commit: a crash of the machine may then lose an archive that
 * has its name already.  Before the first write. */
void vma_target_no_sync(VmaTarget *t);
/* Make a blocked or later write fail.  Any thread. */
void vma_target_cancel(VmaTarget *t);
/* Sync, close, wait for the command, rename.  On failure nothing is left
 * under either name (once the target is freed).  Waiting for the command ends with vma_target_cancel. */
bool vma_target_commit(VmaTarget *t, GError **errp);
/* Without commit: what was written is removed, an exec: command is ended. */
void vma_target_free(VmaTarget *t);
const char *vma_target_name(const VmaTarget *t); /* for messages; borrowed */

/* ---- writer ---------------------------------------------------------- */

typedef struct VmaWriter VmaWriter;

/* @target is borrowed and outlives the writer.  @uuid: 16 bytes.  @digest:
 * write the digest extents.  One thread uses a writer at a time.  The writer
 * has a thread of its own that hands complete extents to the target; errors of
 * that come back from a later call, at the latest from vma_writer_finish. */
VmaWriter *vma_writer_new(VmaTarget *target, const uint8_t uuid[16],
                          int64_t ctime, bool digest, GError **errp);
/* Before the first cluster.  @name: a plain file name. */
bool vma_writer_add_config(VmaWriter *w, const char *name, const void *data,
                           size_t len, GError **errp);
/* dev_id 1…254, or 0 with an error.  @size in bytes, any value > 0.  The
 * archive has it rounded up to a multiple of 512, with zeros at the end,
 * because existing tools take no other sizes. */
unsigned vma_writer_add_device(VmaWriter *w, const char *name, uint64_t size,
                               GError **errp);
/*
 * Cluster @cluster of @dev_id: VMA_CLUSTER_SIZE bytes at @buf (what lies past
 * the end of the device is ignored), or NULL for all zeros.  Blocks that are
 * zero are found and left out.  Returns how many bytes of it were zeros and so
 * not stored, or -1.  @buf is free to be reused when it returns.
 */
int64_t vma_writer_put_cluster(VmaWriter *w, unsigned dev_id, uint64_t cluster,
                               const void *buf, GError **errp);
/* Where the data of the next cluster may be read to, so that nothing needs to
 * be copied: VMA_CLUSTER_SIZE bytes, aligned to VMA_BLOCK_SIZE.  Pass it on as
 * @buf; valid until the next call.  Or NULL and an error. */
void *vma_writer_buffer(VmaWriter *w, GError **errp);
/* Write out the last extent.  The caller commits the target afterwards.
 * Fails unless every cluster of every device was put exactly once. */
bool vma_writer_finish(VmaWriter *w, GError **errp);
/* Bytes written to the target so far.  Any thread. */
uint64_t vma_writer_bytes(const VmaWriter *w);
/* Before a successful finish: drops what is not written yet and cancels the
 * target, which can then not be committed. */
void vma_writer_free(VmaWriter *w);

/* ---- reader ---------------------------------------------------------- */

/*
 * A parser over bytes.  It does no I/O: feed it what was read, in pieces of
 * any size, and take events until it wants more.
 *
 *     for (;;) {
 *         vma_reader_next(r, &ev, errp) false: the archive is bad, stop
 *         VMA_EVENT_MORE: read; vma_reader_feed(r, buf, n), at the end n = 0
 *         VMA_EVENT_END:  all of it was good and nothing is missing
 *     }
 *
 * Everything that the archive says is checked before it is passed on, except
 * the checksums of data: the digests of an extent come after its data, so a
 * DATA event may be followed by the error that it was damaged.  Memory grows
 * with what was fed (header, set of clusters seen), never with what a header
 * claims.  One thread uses a reader at a time.
 */
typedef struct VmaReader VmaReader;

typedef enum {
    VMA_EVENT_MORE,
    VMA_EVENT_HEADER, /* the first: vma_reader_device and the like are good now */
    VMA_EVENT_DATA,   /* @len bytes at @data belong at @offset of @dev_id */
    VMA_EVENT_ZERO,   /* @len bytes at @offset of @dev_id are zeros */
    VMA_EVENT_END,
} VmaEventType;

typedef struct {
    VmaEventType type;
    unsigned dev_id;
    uint64_t offset; /* in the device, bytes */
    size_t len;      /* at most VMA_CLUSTER_SIZE */
    const uint8_t *data; /* in what was fed; borrowed until the next feed */
} VmaEvent;

typedef struct {
    const char *name; /* no slash, no control character, not empty; borrowed */
    uint64_t size;    /* bytes, 1…2^48 */
    bool is_vmstate;  /* the state of a VM: clusters come in order, and may be
                         more or fewer than @size says */
} VmaDeviceInfo;

typedef struct {
    const char *name; /* as above; unique */
    const void *data; /* borrowed */
    size_t len;
} VmaConfigInfo;

typedef struct {
    uint64_t extents;        /* of data; digest extents are not counted */
    uint64_t clusters;
    uint64_t total_clusters; /* of all devices */
    uint64_t data_bytes;     /* stored in blocks */
    uint64_t digest_bytes;   /* of these, checked against a digest */
    uint64_t position;       /* bytes of the archive used */
} VmaReaderStats;

/* @name is for messages. */
VmaReader *vma_reader_new(const char *name);
void vma_reader_free(VmaReader *r);
/* Only after VMA_EVENT_MORE.  @buf is borrowed until the next event that is
 * VMA_EVENT_MORE; @len 0: the archive ends here. */
void vma_reader_feed(VmaReader *r, const void *buf, size_t len);
bool vma_reader_next(VmaReader *r, VmaEvent *ev, GError **errp);

/* After VMA_EVENT_HEADER.  All borrowed. */
const uint8_t *vma_reader_uuid(const VmaReader *r);
int64_t vma_reader_ctime(const VmaReader *r); /* seconds since 1970 */
/* NULL: there is no such device. */
const VmaDeviceInfo *vma_reader_device(const VmaReader *r, unsigned dev_id);
size_t vma_reader_n_configs(const VmaReader *r);
const VmaConfigInfo *vma_reader_config(const VmaReader *r, size_t n);
void vma_reader_stats(const VmaReader *r, VmaReaderStats *st);

#endif
