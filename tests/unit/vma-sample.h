/*
 * Archives in memory for the tests: made by the writer from random images,
 * read back into images.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_VMA_SAMPLE_H
#define TESTS_VMA_SAMPLE_H

#include "vma/vma.h"

typedef struct {
    unsigned n_devices;
    struct {
        char name[16];
        uint64_t size;   /* as given to the writer */
        uint8_t *data;   /* a whole number of clusters, zeros past the end */
    } devices[8];
    unsigned n_configs;
    uint8_t uuid[16];
    bool digest;
} SampleVm;

/* Random images of these sizes, about half of their blocks zero. */
SampleVm *sample_vm_new(unsigned n_devices, const uint64_t *sizes, unsigned n_configs);
void sample_vm_free(SampleVm *vm);
/* What configuration @n holds, and how long it is. */
const char *sample_vm_config(unsigned n, size_t *len);
/* The archive, its clusters in random order. */
GByteArray *sample_vm_archive(const SampleVm *vm);

/* Read an archive, fed in pieces of 1…@max_piece bytes (0: in one piece).
 * Checks what must hold for any archive whatever is in it.  @vm: compare with
 * it and expect success.  True if the archive was good. */
bool sample_read(const void *data, size_t len, size_t max_piece,
                       const SampleVm *vm, GError **errp);

/* Make the MD5s of the header, and of the extent headers that can be found
 * from it, right again. */
void sample_fix_md5(uint8_t *data, size_t len);
/* Where extent @n begins. */
size_t sample_extent_pos(const uint8_t *data, size_t len, unsigned n);

#endif
