/*
 * An image of ours as QEMU describes one: ImageInfo of QMP, and what HMP prints.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_IMAGE_INFO_H
#define SIDECAR_EMULATOR_IMAGE_INFO_H

#include "block/block.h"
#include <json-c/json.h>

/* Put it into @image; "virtual-size" and "filename" are there or are put there. */
void image_info_fill(json_object *image, BlockNode *node);
/* Into a BlockDeviceInfo: "backing_file", "backing_file_depth". */
void image_info_backing(json_object *inserted, BlockNode *node);
/* The line of `info block' about the backing file; none without one. */
void image_info_backing_line(GString *text, BlockNode *node);
/* `info block -v': the image and those below it. */
void image_info_text(GString *text, BlockNode *node);

#endif
