/*
 * The drivers there are, and which one an image asks for.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include <string.h>

#include "util/error.h"


const BlockDriver *const bdrv_drivers[] = {
    &bdrv_raw,
    &bdrv_file,
    NULL,
};

/* In the order of bdrv_drivers, without the protocols. */
static const char *const format_names[] = { "raw", NULL };

const char *const *bdrv_format_names(void)
{
    return format_names;
}

const BlockDriver *bdrv_find_format(const char *format, GError **errp)
{
    for (size_t i = 0; bdrv_drivers[i]; i++) {
        if (!bdrv_drivers[i]->is_protocol &&
            strcmp(bdrv_drivers[i]->format_name, format) == 0) {
            return bdrv_drivers[i];
        }
    }
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                "Image format '%s' is not supported", format);
    return NULL;
}

const BlockDriver *bdrv_find_protocol(const char *filename, const char **path,
                                      GError **errp)
{
    *path = filename;
    return &bdrv_file;
}

/* Headers of formats that QEMU would recognise. */
static const struct {
    const char *format;
    size_t offset, len;
    const char *magic;
} magics[] = {
    { "qcow2", 0, 8, "QFI\xfb\0\0\0\2" },
    { "qcow2", 0, 8, "QFI\xfb\0\0\0\3" },
    { "qcow", 0, 8, "QFI\xfb\0\0\0\1" },
    { "qed", 0, 4, "QED" },
    { "vmdk", 0, 4, "KDMV" },
    { "vmdk", 0, 4, "COWD" },
    { "vdi", 0x40, 4, "\x7f\x10\xda\xbe" },
    { "vhdx", 0, 8, "vhdxfile" },
    { "vpc", 0, 8, "conectix" },
    { "parallels", 0, 16, "WithoutFreeSpace" },
    { "parallels", 0, 16, "WithouFreSpacExt" },
    { "luks", 0, 6, "LUKS\xba\xbe" },
    { "bochs", 0, 22, "Bochs Virtual HD Image" },
    { "cloop", 0, 23, "#!/bin/sh\n#V2.0 Format\n" },
};

const char *bdrv_probe_format(const uint8_t *buf, size_t len,
                              const BlockDriver **drv)
{
    int best = 0;

    *drv = NULL;
    for (size_t i = 0; bdrv_drivers[i]; i++) {
        int score = bdrv_drivers[i]->probe ? bdrv_drivers[i]->probe(buf, len) : 0;

        if (score > best) {
            best = score;
            *drv = bdrv_drivers[i];
        }
    }
    if (*drv) {
        return (*drv)->format_name;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(magics); i++) {
        if (magics[i].offset + magics[i].len <= len &&
            memcmp(buf + magics[i].offset, magics[i].magic, magics[i].len) == 0) {
            return magics[i].format;
        }
    }
    *drv = &bdrv_raw;
    return "raw";
}
