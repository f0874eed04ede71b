/*
 * Which format do the first bytes of a file ask for?
 *
 * Formats with a driver of ours are asked through drv->probe.  The others are
 * known here by their magic numbers alone, for two reasons: such an image must
 * be refused by name rather than served as raw, and a guest whose raw image
 * was opened without a format must not be able to write a header that makes
 * this program, or QEMU after it, see another format the next time (it could
 * name any file of the host as its backing file).  So the table has what QEMU
 * 7.2 recognises, and errs on the side of recognising more.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include <string.h>

static const struct {
    const char *format;
    size_t offset, len;
    const char *magic;
} magics[] = {
    { "qcow", 0, 8, "QFI\xfb\0\0\0\1" },
    { "qcow2", 0, 4, "QFI\xfb" }, /* version 2 or later */
    { "qed", 0, 4, "QED\0" },
    { "vmdk", 0, 4, "KDMV" },
    { "vmdk", 0, 4, "COWD" },
    { "vdi", 0x40, 4, "\x7f\x10\xda\xbe" },
    { "vhdx", 0, 8, "vhdxfile" },
    { "vpc", 0, 8, "conectix" },
    { "parallels", 0, 16, "WithoutFreeSpace" },
    { "parallels", 0, 16, "WithouFreSpacExt" },
    { "luks", 0, 6, "LUKS\xba\xbe" },
    { "bochs", 0, 22, "Bochs Virtual HD Image" },
    { "cloop", 0, 22, "#!/bin/sh\n#V2.0 Format" },
};

/* The rest of the text after @p's line. */
static const char *next_line(const char *p, const char *end)
{
    const char *nl = memchr(p, '\n', end - p);

    return nl ? nl + 1 : end;
}

/* A VMDK descriptor is text: comments and blank lines, then "version=N". */
static bool is_vmdk_descriptor(const char *p, const char *end)
{
    while (p < end && (*p == '#' || *p == ' ' || *p == '\r' || *p == '\n')) {
        p = next_line(p, end);
    }
    return end - p >= 9 && memcmp(p, "version=", 8) == 0 && p[8] >= '1' &&
           p[8] <= '3';
}

static const BlockDriver *best_driver(const uint8_t *buf, size_t len)
{
    const BlockDriver *best = NULL;
    int best_score = 0;

    for (size_t i = 0; bdrv_drivers[i]; i++) {
        const BlockDriver *drv = bdrv_drivers[i];
        int score = drv->probe ? drv->probe(buf, len) : 0;

        if (score > best_score) {
            best_score = score;
            best = drv;
        }
    }
    return best;
}

const char *bdrv_probe_format(const uint8_t *buf, size_t len,
                              const BlockDriver **drv)
{
    const char *text = (const char *)buf;

    *drv = best_driver(buf, len);
    if (*drv) {
        return (*drv)->format_name;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(magics); i++) {
        if (magics[i].offset + magics[i].len <= len &&
            memcmp(buf + magics[i].offset, magics[i].magic, magics[i].len) == 0) {
            return magics[i].format;
        }
    }
    if (is_vmdk_descriptor(text, text + len)) {
        return "vmdk";
    }
    *drv = &bdrv_raw;
    return "raw";
}
