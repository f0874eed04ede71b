/*
 * The migration streams of the double of QEMU, as QEMU 7.2 writes and reads them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_FAKE_STREAM_H
#define TESTS_FAKE_STREAM_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define FAKE_MACHINE "pc-i440fx-7.2"
#define FAKE_VRAM (16 * 4096) /* block "vga.vram", which is not shared */

/* The devices of a stopped guest, with x-ignore-shared. */
GByteArray *fake_stream_save(uint64_t ram_size, const uint8_t *vram,
                             uint64_t counter);
/* What an -incoming gets; false if it is not well formed.  *running: the guest
 * was saved while it ran. */
bool fake_stream_load(GByteArray *bytes, uint64_t ram_size, uint8_t *vram,
                      uint64_t *counter, bool *running);

#endif
