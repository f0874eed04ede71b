/*
 * Inside vma/: the state of the reader.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VMA_READER_H
#define VMA_READER_H

#include "clusterset.h"
#include "format.h"

/* Up to and with header_size. */
#define VMA_HEAD_SIZE 60

typedef enum {
    VMA_READ_HEAD,
    VMA_READ_HEADER,
    VMA_READ_EXTENT,
    VMA_READ_BLOCKS,
} VmaReadState;

typedef struct {
    VmaDeviceInfo info;    /* name NULL: there is none */
    VmaClusterSet *seen;
    uint64_t next_cluster; /* of a vmstate */
} VmaReaderDevice;

struct VmaReader {
    char *name;
    GError *error; /* the first; final */
    VmaReadState state;

    /* What was fed and not used yet; borrowed. */
    const uint8_t *in;
    size_t in_len;
    bool at_end;
    /* HEAD, HEADER, EXTENT: the bytes so far, and how many are needed. */
    GByteArray *acc;
    size_t want;

    /* What the header said.  Names and data point into @header. */
    uint8_t *header;
    uint8_t uuid[16];
    int64_t ctime;
    GArray *configs; /* of VmaConfigInfo */
    VmaReaderDevice devices[256];
    size_t budget;   /* memory for the sets of clusters */

    /* The current extent. */
    uint64_t extent_number, extent_pos;
    uint64_t slots[VMA_SLOTS_PER_EXTENT];
    unsigned slot, block;  /* where in it we are */
    size_t block_pos;      /* bytes of the run at @block that are gone */

    /* The last extent with data, for the digests that may follow it. */
    bool have_crcs;
    uint64_t data_extent_pos;
    uint64_t data_slots[VMA_SLOTS_PER_EXTENT];
    uint32_t crcs[VMA_SLOTS_PER_EXTENT];

    VmaReaderStats stats;
};

/* Check the first VMA_HEAD_SIZE bytes; *size: how long the header is. */
bool vma_reader_check_head(const uint8_t *head, size_t len, size_t *size,
                           GError **errp);
/* Take r->header apart, r->want bytes of it. */
bool vma_reader_parse_header(VmaReader *r, GError **errp);

#endif
