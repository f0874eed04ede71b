/*
 * A small migration stream, and files in memory to read it from.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_STREAM_SAMPLE_H
#define TESTS_STREAM_SAMPLE_H

#include "migration/block-migration.h"
#include "migration/qemu-stream.h"

#include <string.h>

#define SAMPLE_PAGE 4096
#define SAMPLE_RAM (4 * SAMPLE_PAGE) /* block "pc.ram" */
#define SAMPLE_ROM SAMPLE_PAGE       /* block "rom" */

typedef struct {
    bool capabilities; /* with that part of the configuration */
    bool footers;
    bool addresses;    /* the list of blocks as with x-ignore-shared */
    bool command;      /* before the end of ram */
    bool return_path;  /* with its commands, behind the header */
    bool block;        /* with sections of drives, which say "d" is zeros */
} SampleOptions;

typedef struct {
    GByteArray *bytes;
    size_t at, step; /* step: bytes a read; 0: as many as wanted */
} SampleFile;

static inline bool sample_write(void *opaque, const void *buf, size_t len,
                                GError **errp)
{
    g_byte_array_append(((SampleFile *)opaque)->bytes, buf, (guint)len);
    return true;
}

static inline ssize_t sample_read(void *opaque, void *buf, size_t len,
                                  GError **errp)
{
    SampleFile *sf = opaque;
    size_t n = MIN(len, sf->bytes->len - sf->at);

    n = sf->step ? MIN(n, sf->step) : n;
    if (n) {
        memcpy(buf, sf->bytes->data + sf->at, n);
    }
    sf->at += n;
    return (ssize_t)n;
}

static inline bool sample_close(void *opaque, GError **errp)
{
    g_byte_array_unref(((SampleFile *)opaque)->bytes);
    g_free(opaque);
    return true;
}

/* Holds a reference to @bytes. */
static inline QEMUFile *sample_file(GByteArray *bytes, size_t step)
{
    static const QEMUFileOps ops = {
        .write = sample_write, .read = sample_read, .close = sample_close,
    };
    SampleFile *sf = g_new0(SampleFile, 1);

    sf->bytes = g_byte_array_ref(bytes);
    sf->step = step;
    return qemu_file_new(&ops, sf, "sample");
}

static inline void sample_part(QEMUFile *f, const char *name, uint32_t version,
                               const void *content, size_t len)
{
    qemu_put_byte(f, QEMU_VM_SUBSECTION);
    qemu_put_counted_string(f, name);
    qemu_put_be32(f, version);
    qemu_put_buffer(f, content, len);
}

static inline void sample_header(QEMUFile *f, const SampleOptions *o)
{
    static const char capabilities[] = "\0\0\0\2\6xbzrle\6events";

    qemu_put_be32(f, QEMU_VM_FILE_MAGIC);
    qemu_put_be32(f, QEMU_VM_FILE_VERSION);
    qemu_put_byte(f, QEMU_VM_CONFIGURATION);
    qemu_put_be32(f, 6);
    qemu_put_buffer(f, "pc-7.2", 6);
    sample_part(f, "configuration/target-page-bits", 1, "\0\0\0\x0c", 4);
    if (o->capabilities) {
        sample_part(f, "configuration/capabilities", 1, capabilities,
                    sizeof(capabilities) - 1);
    }
}

static inline void sample_live(QEMUFile *f, uint8_t type, uint32_t id,
                               const char *name, uint32_t version)
{
    qemu_put_byte(f, type);
    qemu_put_be32(f, id);
    if (type == QEMU_VM_SECTION_START) {
        qemu_put_counted_string(f, name);
        qemu_put_be32(f, 0);
        qemu_put_be32(f, version);
    }
}

static inline void sample_section(QEMUFile *f, uint8_t type)
{
    sample_live(f, type, 2, "ram", RAM_SECTION_VERSION);
}

static inline void sample_footer_of(QEMUFile *f, const SampleOptions *o,
                                    uint32_t id)
{
    if (o->footers) {
        qemu_put_byte(f, QEMU_VM_SECTION_FOOTER);
        qemu_put_be32(f, id);
    }
}

static inline void sample_footer(QEMUFile *f, const SampleOptions *o)
{
    qemu_put_be64(f, RAM_SAVE_FLAG_EOS);
    sample_footer_of(f, o, 2);
}

/* A section of drives, if there are any. */
static inline void sample_block(QEMUFile *f, const SampleOptions *o,
                                uint8_t type)
{
    if (!o->block) {
        return;
    }
    sample_live(f, type, 1, "block", BLOCK_SECTION_VERSION);
    if (type == QEMU_VM_SECTION_PART) {
        qemu_put_be64(f, BLK_MIG_FLAG_DEVICE_BLOCK | BLK_MIG_FLAG_ZERO_BLOCK);
        qemu_put_counted_string(f, "d");
    }
    qemu_put_be64(f, BLK_MIG_FLAG_EOS);
    sample_footer_of(f, o, 1);
}

static inline void sample_list(QEMUFile *f, const SampleOptions *o)
{
    static const struct {
        const char *name;
        uint64_t length;
    } blocks[] = {{"pc.ram", SAMPLE_RAM}, {"rom", SAMPLE_ROM}};

    qemu_put_be64(f, (SAMPLE_RAM + SAMPLE_ROM) | RAM_SAVE_FLAG_MEM_SIZE);
    for (int i = 0; i < 2; i++) {
        qemu_put_counted_string(f, blocks[i].name);
        qemu_put_be64(f, blocks[i].length);
        if (o->addresses) {
            qemu_put_be64(f, 0);
        }
    }
}

static inline void sample_page(QEMUFile *f, uint64_t offset, const char *block,
                               int fill)
{
    char page[SAMPLE_PAGE];

    memset(page, fill, sizeof(page));
    qemu_put_be64(f, offset | RAM_SAVE_FLAG_PAGE |
                  (block ? 0 : RAM_SAVE_FLAG_CONTINUE));
    if (block) {
        qemu_put_counted_string(f, block);
    }
    qemu_put_buffer(f, page, sizeof(page));
}

/* What is behind the end of ram: one device, the run state, the description. */
static inline void sample_rest(QEMUFile *f)
{
    static const char json[] = "{\"devices\": []}";
    char state[100] = "paused";

    qemu_put_byte(f, QEMU_VM_SECTION_FULL);
    qemu_put_be32(f, 5);
    qemu_put_counted_string(f, "globalstate");
    qemu_put_be32(f, 0);
    qemu_put_be32(f, 1);
    qemu_put_be32(f, 7);
    qemu_put_buffer(f, state, sizeof(state));
    qemu_put_byte(f, QEMU_VM_SECTION_FOOTER);
    qemu_put_be32(f, 5);
    qemu_put_byte(f, QEMU_VM_EOF);
    qemu_put_byte(f, QEMU_VM_VMDESCRIPTION);
    qemu_put_be32(f, sizeof(json) - 1);
    qemu_put_buffer(f, json, sizeof(json) - 1);
}

/* Pages 0, 1 and 2 of pc.ram hold 1, 1 with a 2 in front, and 2; page 3 zeros;
 * the ROM holds 9.  The end of ram goes on with the block of the section before,
 * as QEMU's does. */
static inline GByteArray *sample_stream(const SampleOptions *o)
{
    GByteArray *bytes = g_byte_array_new();
    QEMUFile *f = sample_file(bytes, 0);

    sample_header(f, o);
    if (o->return_path) {
        qemu_put_buffer(f, "\x08\0\1\0\0" "\x08\0\2\0\4\0\0\0\1", 14);
    }
    sample_block(f, o, QEMU_VM_SECTION_START);
    sample_section(f, QEMU_VM_SECTION_START);
    sample_list(f, o);
    sample_footer(f, o);
    sample_block(f, o, QEMU_VM_SECTION_PART);
    sample_section(f, QEMU_VM_SECTION_PART);
    if (!o->addresses) {
        sample_page(f, 0, "pc.ram", 1);
        sample_page(f, SAMPLE_PAGE, NULL, 1);
    }
    sample_footer(f, o);
    if (o->command) {
        qemu_put_buffer(f, "\x08\0\x0b\0\0", 5);
    }
    sample_block(f, o, QEMU_VM_SECTION_END);
    sample_section(f, QEMU_VM_SECTION_END);
    if (!o->addresses) {
        static const char xbzrle[] = {0, 1, 2}; /* 0 as before, 1 new: 2 */

        sample_page(f, 2 * SAMPLE_PAGE, NULL, 2);
        qemu_put_be64(f, 3 * SAMPLE_PAGE | RAM_SAVE_FLAG_ZERO |
                      RAM_SAVE_FLAG_CONTINUE);
        qemu_put_byte(f, 0);
        /* the first byte of page 1 becomes 2 */
        qemu_put_be64(f, SAMPLE_PAGE | RAM_SAVE_FLAG_XBZRLE |
                      RAM_SAVE_FLAG_CONTINUE);
        qemu_put_byte(f, RAM_XBZRLE_ENCODING);
        qemu_put_be16(f, 3);
        qemu_put_buffer(f, xbzrle, sizeof(xbzrle));
    }
    sample_page(f, 0, "rom", 9);
    sample_footer(f, o);
    sample_rest(f);
    g_assert_true(qemu_file_close(f, NULL));
    return bytes;
}

#endif
