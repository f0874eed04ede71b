/*
 * The bytes of a VMA archive; docs/specs/vma.txt explains them.
 *
 *     archive  = header extent*
 *     header   = VmaHeader, blob buffer, padding        (header_size bytes)
 *     extent   = VmaExtentHeader, block{block_count}    (512 + n × 4096 bytes)
 *     blob     = le16 length, bytes
 *
 * All integers are big-endian, except the length of a blob.  The structs are
 * only ever used for their offsets and sizes or filled with *_BE values; input
 * is checked field by field.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VMA_FORMAT_H
#define VMA_FORMAT_H

#include <stddef.h>
#include <stdint.h>
#include "vma/vma.h"

#define VMA_MAGIC 0x564d4100u        /* "VMA\0" */
#define VMA_EXTENT_MAGIC 0x564d4145u /* "VMAE" */
#define VMA_VERSION 1

#define VMA_BLOCKS_PER_CLUSTER 16
#define VMA_EXTENT_HEADER_SIZE 512
#define VMA_SLOTS_PER_EXTENT 59
#define VMA_MAX_BLOCKS_PER_EXTENT (VMA_SLOTS_PER_EXTENT * VMA_BLOCKS_PER_CLUSTER)
#define VMA_MAX_EXTENT_SIZE \
    (VMA_EXTENT_HEADER_SIZE + VMA_SLOTS_PER_EXTENT * VMA_CLUSTER_SIZE)
#define VMA_MAX_BLOB 65535
#define VMA_MAX_NAME 255

/* Cluster numbers have 32 bits. */
#define VMA_MAX_DEVICE_SIZE ((uint64_t)VMA_CLUSTER_SIZE << 32)

/* More than this no header can need: every name and every configuration as
 * large as a blob can be. */
#define VMA_MAX_HEADER_SIZE                                       \
    (sizeof(VmaHeader) + 512 +                                    \
     (2 * VMA_MAX_CONFIGS + VMA_MAX_DEVICES) * (2 + VMA_MAX_BLOB))

/* What existing tools expect of the size of a device. */
#define VMA_SECTOR_SIZE 512

typedef struct {
    uint32_t devname_ptr; /* into the blob buffer */
    uint32_t reserved0;
    uint64_t size; /* bytes */
    uint64_t reserved1;
    uint64_t reserved2;
} VmaDeviceInfoHeader;

typedef struct {
    uint32_t magic;
    uint32_t version;
    uint8_t uuid[16];
    uint64_t ctime; /* seconds since 1970 */
    uint8_t md5sum[16]; /* of header_size bytes, with this field zero */
    uint32_t blob_buffer_offset;
    uint32_t blob_buffer_size;
    uint32_t header_size;
    uint8_t reserved[1984];
    uint32_t config_names[VMA_MAX_CONFIGS]; /* into the blob buffer; 0: none */
    uint32_t config_data[VMA_MAX_CONFIGS];
    uint8_t reserved1[4];
    VmaDeviceInfoHeader dev_info[256]; /* [0] and [255] are not used */
} VmaHeader;
_Static_assert(offsetof(VmaHeader, ctime) == 24, "VMA header");
_Static_assert(offsetof(VmaHeader, md5sum) == 32, "VMA header");
_Static_assert(offsetof(VmaHeader, blob_buffer_offset) == 48, "VMA header");
_Static_assert(offsetof(VmaHeader, header_size) == 56, "VMA header");
_Static_assert(offsetof(VmaHeader, config_names) == 2044, "VMA header");
_Static_assert(offsetof(VmaHeader, config_data) == 3068, "VMA header");
_Static_assert(offsetof(VmaHeader, dev_info) == 4096, "VMA header");
_Static_assert(sizeof(VmaHeader) == 12288, "VMA header");

/*
 * A slot of an extent header, from the high bits down:
 *     16 bits mask: bit n set: block n of the cluster is stored
 *      8 bits reserved
 *      8 bits dev_id; 0: the slot is not used, whatever else it says
 *     32 bits cluster number
 */
typedef struct {
    uint32_t magic;
    uint16_t reserved1;
    uint16_t block_count; /* 4096-byte blocks that follow */
    uint8_t uuid[16];
    uint8_t md5sum[16]; /* of these 512 bytes, with this field zero */
    uint64_t blockinfo[VMA_SLOTS_PER_EXTENT];
} VmaExtentHeader;
_Static_assert(offsetof(VmaExtentHeader, md5sum) == 24, "VMA extent header");
_Static_assert(offsetof(VmaExtentHeader, blockinfo) == 40, "VMA extent header");
_Static_assert(sizeof(VmaExtentHeader) == VMA_EXTENT_HEADER_SIZE,
               "VMA extent header");

/*
 * A digest extent stores no blocks and uses no slot for data.  Slot n holds
 * this tag in the place of the mask, dev_id 0 and, in the place of the cluster
 * number, the CRC-32 of the blocks that slot n of the extent before it stored.
 */
#define VMA_DIGEST_TAG 0x5643u /* "VC" */

static inline uint64_t vma_slot(uint16_t mask, uint8_t dev_id, uint32_t cluster)
{
    return (uint64_t)mask << 48 | (uint64_t)dev_id << 32 | cluster;
}
static inline uint16_t vma_slot_mask(uint64_t slot)
{
    return slot >> 48;
}
static inline uint8_t vma_slot_dev_id(uint64_t slot)
{
    return slot >> 32;
}
static inline uint32_t vma_slot_cluster(uint64_t slot)
{
    return slot;
}

/* MD5 of @len bytes with the 16 bytes at @md5_offset taken as zero. */
void vma_md5(const void *buf, size_t len, size_t md5_offset, uint8_t out[16]);

/* NULL if @name (@len bytes) may be the name of a device or a configuration:
 * a plain file name without control characters; else what is wrong with it. */
const char *vma_name_problem(const char *name, size_t len);

/* How many clusters a device of @size bytes has. */
static inline uint64_t vma_cluster_count(uint64_t size)
{
    return size / VMA_CLUSTER_SIZE + (size % VMA_CLUSTER_SIZE != 0);
}

/* Block n of a cluster lies wholly past the end: its bit is in the result. */
uint16_t vma_mask_past_end(uint64_t device_size, uint64_t cluster);

#endif
