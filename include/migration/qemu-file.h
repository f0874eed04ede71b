/*
 * QEMUFile: a buffered stream over a transport, for savevm and its handlers.
 *
 * The first error sticks: later puts do nothing, later gets return zeros, and
 * qemu_file_error says what it was.  So a handler may write a whole section and
 * look once.  One thread uses a file; qemu_file_shutdown may come from any.
 *
 * All integers are big-endian.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_MIGRATION_QEMU_FILE_H
#define SIDECAR_MIGRATION_QEMU_FILE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct QEMUFile QEMUFile;

/*
 * A transport, or something between the file and one (ft_trans).  Calls block;
 * shutdown, from any thread, makes a blocked or later one fail.  Missing
 * methods fail (writes to a file for reading) or do nothing (shutdown).
 */
typedef struct {
    /* All of @len, or false. */
    bool (*write)(void *opaque, const void *buf, size_t len, GError **errp);
    /* 1…@len bytes; 0 at the end; -1 with an error. */
    ssize_t (*read)(void *opaque, void *buf, size_t len, GError **errp);
    void (*shutdown)(void *opaque);
    /* Called once; frees @opaque.  False: what was written may not have
     * arrived (an exec: command failed). */
    bool (*close)(void *opaque, GError **errp);
} QEMUFileOps;

/* @name is for messages ("tcp:10.0.0.2:4444"). */
QEMUFile *qemu_file_new(const QEMUFileOps *ops, void *opaque, const char *name);

/* Over a file descriptor, which is taken over and made non-blocking.  Waits
 * with poll, so that shutdown wakes pipes as well. */
QEMUFile *qemu_file_new_fd(int fd, const char *name, GError **errp);

/* Flush and close; false if anything went wrong since it was opened, or does
 * now.  Frees @f. */
bool qemu_file_close(QEMUFile *f, GError **errp);
/* Close without a flush, for a stream that is given up. */
void qemu_file_abandon(QEMUFile *f);
/* Any thread: whoever waits in this file fails with SIDECAR_ERROR_CANCELLED. */
void qemu_file_shutdown(QEMUFile *f);

const char *qemu_file_name(const QEMUFile *f);
/* The first error, borrowed, or NULL. */
const GError *qemu_file_error(const QEMUFile *f);
/* Sets it, if there is none yet; consumes @err. */
void qemu_file_set_error(QEMUFile *f, GError *err);
/* A copy of it in @errp; false if there is one. */
bool qemu_file_ok(const QEMUFile *f, GError **errp);

/* Bytes put or got so far (also those still in the buffer). */
uint64_t qemu_file_position(const QEMUFile *f);

/* ---- writing ---------------------------------------------------------- */

void qemu_put_buffer(QEMUFile *f, const void *buf, size_t len);
void qemu_put_byte(QEMUFile *f, uint8_t v);
void qemu_put_be16(QEMUFile *f, uint16_t v);
void qemu_put_be32(QEMUFile *f, uint32_t v);
void qemu_put_be64(QEMUFile *f, uint64_t v);
/* A length byte and at most 255 characters. */
void qemu_put_counted_string(QEMUFile *f, const char *s);
/* Room for @len (at most 64 KiB) bytes in the buffer, to be filled in place and
 * followed by qemu_put_reserved with how many were used.  Never NULL. */
uint8_t *qemu_put_reserve(QEMUFile *f, size_t len);
void qemu_put_reserved(QEMUFile *f, size_t used);
bool qemu_fflush(QEMUFile *f, GError **errp);

#define QEMU_FILE_SLICE_US (100 * 1000)

/*
 * Bandwidth: at most @bytes_per_second (0: no limit) averaged over slices of
 * 100 ms.  May be changed from any thread at any time.
 */
void qemu_file_set_rate_limit(QEMUFile *f, uint64_t bytes_per_second);
/* Has this slice's share been put?  Cheap enough to ask after each page. */
bool qemu_file_rate_exceeded(QEMUFile *f);
/* Flush, then wait until the slice is over, the limit has changed, or
 * shutdown.  False on error. */
bool qemu_file_wait_slice(QEMUFile *f, GError **errp);

/* ---- reading ---------------------------------------------------------- */

/* False at an error; the end of the stream is one. */
bool qemu_get_buffer(QEMUFile *f, void *buf, size_t len);
uint8_t qemu_get_byte(QEMUFile *f);
uint16_t qemu_get_be16(QEMUFile *f);
uint32_t qemu_get_be32(QEMUFile *f);
uint64_t qemu_get_be64(QEMUFile *f);
/* @s has 256 bytes; terminated; a NUL inside is an error. */
bool qemu_get_counted_string(QEMUFile *f, char s[256]);
/* What is there without waiting for more than one byte: 0 at the end of the
 * stream, -1 on error. */
ssize_t qemu_get_some(QEMUFile *f, void *buf, size_t len);

/* What was read is not what it should be: an error that says in which @part of the
 * stream, where, and what; or the file's own if it has one.  Returns false. */
bool qemu_file_bad(QEMUFile *f, GError **errp, const char *part,
                   const char *fmt, ...) G_GNUC_PRINTF(4, 5);

#endif
