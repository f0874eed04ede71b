/*
 * What writer and reader both need to know of the format.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "format.h"

#include <string.h>

void vma_md5(const void *buf, size_t len, size_t md5_offset, uint8_t out[16])
{
    static const uint8_t zeros[16];
    const uint8_t *p = buf;
    gsize out_len = 16;
    GChecksum *sum = g_checksum_new(G_CHECKSUM_MD5);

    g_checksum_update(sum, p, md5_offset);
    g_checksum_update(sum, zeros, sizeof(zeros));
    /* GLib takes the length as a signed type but headers are far smaller. */
    g_checksum_update(sum, p + md5_offset + 16, len - md5_offset - 16);
    g_checksum_get_digest(sum, out, &out_len);
    g_checksum_free(sum);
}

const char *vma_name_problem(const char *name, size_t len)
{
    if (len == 0) {
        return "is empty";
    }
    if (len > VMA_MAX_NAME) {
        return "is longer than 255 bytes";
    }
    for (size_t i = 0; i < len; i++) {
        if (name[i] == '/') {
            return "contains a slash";
        }
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f) {
            return "contains a control character";
        }
    }
    if (name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.'))) {
        return "is not a file name";
    }
    return NULL;
}

uint16_t vma_mask_past_end(uint64_t device_size, uint64_t cluster)
{
    uint64_t left = device_size - cluster * VMA_CLUSTER_SIZE;
    unsigned blocks;

    if (left >= VMA_CLUSTER_SIZE) {
        return 0;
    }
    blocks = (left + VMA_BLOCK_SIZE - 1) / VMA_BLOCK_SIZE;
    return (uint16_t)(0xffffu << blocks);
}
