/*
 * QEMU's own migration stream, version 3: what is around the `ram' section.
 *
 * We take it apart as far as we need to (header, configuration section, ram and
 * block sections) and carry everything behind the end of ram as it is.  Byte by
 * byte: docs/specs/qemu-stream.txt.
 *
 *     header | configuration | [START block |] START ram | PART … |
 *              [END block |] END ram | rest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_MIGRATION_QEMU_STREAM_H
#define SIDECAR_MIGRATION_QEMU_STREAM_H

#include "migration/qemu-file.h"
#include "migration/ram.h"

#define QEMU_VM_FILE_MAGIC 0x5145564du /* "QEVM" */
#define QEMU_VM_FILE_VERSION 3

enum {
    QEMU_VM_EOF = 0x00,
    QEMU_VM_SECTION_START = 0x01,
    QEMU_VM_SECTION_PART = 0x02,
    QEMU_VM_SECTION_END = 0x03,
    QEMU_VM_SECTION_FULL = 0x04,
    QEMU_VM_SUBSECTION = 0x05,
    QEMU_VM_VMDESCRIPTION = 0x06,
    QEMU_VM_CONFIGURATION = 0x07,
    QEMU_VM_COMMAND = 0x08,
    QEMU_VM_SECTION_FOOTER = 0x7e,
};

/* QEMU_VM_COMMANDs: be16 kind, be16 length, data. */
enum {
    MIG_CMD_OPEN_RETURN_PATH = 1,
    MIG_CMD_PING = 2,             /* be32, which the PONG repeats */
    MIG_CMD_POSTCOPY_ADVISE = 3,
    MIG_CMD_POSTCOPY_LISTEN = 4,
    MIG_CMD_POSTCOPY_RUN = 5,
    MIG_CMD_POSTCOPY_RAM_DISCARD = 6,
    MIG_CMD_POSTCOPY_RESUME = 7,
    MIG_CMD_PACKAGED = 8,
    MIG_CMD_RECV_BITMAP = 9,
    MIG_CMD_ENABLE_COLO = 10,
};

#define RAM_SECTION_VERSION 4

/* More than any machine's device state; a bound for hostile streams. */
#define QEMU_STREAM_REST_MAX (512 * 1024 * 1024)

typedef struct {
    char *machine;          /* as in the stream ("pc-q35-7.2"); NULL: none sent */
    GByteArray *config;     /* the configuration section as it is passed on:
                               without QEMU_VM_CONFIGURATION's capabilities */
    uint32_t ram_section;   /* section id */
    bool footers;           /* sections end with a footer (machines since 2.4) */
    GByteArray *commands;   /* QEMU_VM_COMMANDs seen before the end of ram */
    GByteArray *rest;       /* everything behind the end of ram */
    bool awaited;           /* set by who reads: the sender will not close before
                               it has an answer, so the description is the end */
} QemuStream;

void qemu_stream_init(QemuStream *qs);
void qemu_stream_clear(QemuStream *qs);

/*
 * Read a whole stream up to the end of @f.  Errors say what was wrong and at which
 * byte.
 */
typedef bool QemuStreamRecordsFn(void *opaque, QEMUFile *f, GError **errp);
typedef struct {
    /* Once the configuration section is known; false (with an error) refuses the
     * stream.  May be missing. */
    bool (*header)(void *opaque, const QemuStream *qs, GError **errp);
    /* The records of each ram section (START, PART, END), up to and with their
     * end mark. */
    QemuStreamRecordsFn *ram;
    /* The same of drives; missing: such a stream is refused. */
    QemuStreamRecordsFn *block;
    /* After the last records of drives.  May be missing. */
    bool (*block_end)(void *opaque, GError **errp);
    /* A command with @len bytes of data; *keep (true at first): it goes on with
     * qemu_stream_put_commands.  Missing: all do. */
    bool (*command)(void *opaque, QEMUFile *f, uint16_t kind, const uint8_t *data,
                    size_t len, bool *keep, GError **errp);
} QemuStreamHandler;
bool qemu_stream_read(QEMUFile *f, QemuStream *qs, const QemuStreamHandler *h,
                      void *opaque, GError **errp);

/* Does what was read end as a stream ends?  @described: as senders of this
 * machine type do, with the description of the state; else only an end mark can
 * be looked for. */
bool qemu_stream_whole(const QemuStream *qs, bool described);

/* Writing one, in this order; errors stick to @f. */
void qemu_stream_put_header(const QemuStream *qs, QEMUFile *f);
/* QEMU_VM_COMMANDs of the return path, anywhere between sections. */
void qemu_stream_put_open_return_path(QEMUFile *f);
void qemu_stream_put_ping(QEMUFile *f, uint32_t value);
/* START, PART or END of ram; then its records with their end mark; then: */
void qemu_stream_put_ram(const QemuStream *qs, QEMUFile *f, uint8_t type);
void qemu_stream_put_footer(const QemuStream *qs, QEMUFile *f);
/* The same of drives; their START and END come before those of ram. */
void qemu_stream_put_block(const QemuStream *qs, QEMUFile *f, uint8_t type);
void qemu_stream_put_block_footer(const QemuStream *qs, QEMUFile *f);
/* Before the END section. */
void qemu_stream_put_commands(const QemuStream *qs, QEMUFile *f);
/* The device state was saved of a stopped guest; have the other side run it.
 * False if the stream does not say what state the guest was in. */
bool qemu_stream_set_running(QemuStream *qs);
/* Did the guest run when its state was saved?  Also true if the stream does not
 * say, as QEMU takes it. */
bool qemu_stream_runs(const QemuStream *qs);
void qemu_stream_put_rest(const QemuStream *qs, QEMUFile *f);

/*
 * QEMU's device-only stream (capability x-ignore-shared), taken apart.
 *
 * Its list of blocks has an address after each length, and its ram sections
 * carry only the pages of blocks that are not shared.
 */
typedef struct {
    gint refs;
    QemuStream stream;
    GArray *blocks;      /* RamBlock: every block of the machine; host is NULL */
    RamLoader *foreign;  /* the pages that came along */
} DeviceState;

/* Reads @f to its end. */
DeviceState *device_state_read(QEMUFile *f, uint32_t page_size, GError **errp);
DeviceState *device_state_ref(DeviceState *ds);
void device_state_unref(DeviceState *ds);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DeviceState, device_state_unref)

#endif
