/*
 * The drivers there are, and how a name leads to one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include <string.h>

#include "util/error.h"

const BlockDriver *const bdrv_drivers[] = {
    &bdrv_raw,
    &bdrv_qcow2,
    &bdrv_file,
    &bdrv_fault,
    &bdrv_blklogwrites,
    NULL,
};

/* The formats among them. */
static const char *const format_names[] = { "raw", "qcow2", NULL };

/* What a file name may begin with. */
static const struct {
    const char *prefix;
    const BlockDriver *drv;
} protocols[] = {
    { "file:", &bdrv_file },
    { "fault:", &bdrv_fault },
    { "blklogwrites:", &bdrv_blklogwrites },
};

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

/* As QEMU sees it: a colon before the first slash ends a protocol's name. */
static size_t protocol_length(const char *filename)
{
    size_t n = strcspn(filename, ":/");

    return filename[n] == ':' ? n + 1 : 0;
}

const BlockDriver *bdrv_find_protocol(const char *filename, const char **path,
                                      GError **errp)
{
    size_t n = protocol_length(filename);

    *path = filename + n;
    if (n == 0) {
        return &bdrv_file;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(protocols); i++) {
        if (strlen(protocols[i].prefix) == n &&
            memcmp(protocols[i].prefix, filename, n) == 0) {
            return protocols[i].drv;
        }
    }
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                "'%s': protocol '%.*s' is not supported", filename, (int)n - 1,
                filename);
    return NULL;
}
