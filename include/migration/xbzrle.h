/*
 * XBZRLE: a page as the difference from what was sent of it before.
 *
 * The encoded form is QEMU's: pairs of an unchanged run (its length only) and
 * a changed run (its length, then the new bytes), lengths in ULEB128 of at
 * most two bytes.  The first unchanged run may be empty, no other run may; an
 * unchanged rest of the page is not written.  docs/specs/xbzrle.txt has a
 * worked example.
 *
 * Pure functions, any thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_MIGRATION_XBZRLE_H
#define SIDECAR_MIGRATION_XBZRLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Pages are a multiple of 64 bytes and shorter than 16 KiB, because two bytes
 * of ULEB128 carry 14 bits. */
#define XBZRLE_PAGE_MULTIPLE 64
#define XBZRLE_PAGE_MAX (16 * 1024 - XBZRLE_PAGE_MULTIPLE)

/*
 * Encode what turns the @len bytes at @old_page into those at @new_page.
 * Returns the number of bytes written to @dst, 0 if the pages are equal, or
 * -1 if the result would take more than @dst_len bytes (@dst then holds
 * rubbish) or @len is not a page as above.  The buffers must not overlap.
 *
 * An unchanged gap of one or two bytes between changes is sent as changed:
 * the lengths of another pair would take as much.
 */
int xbzrle_encode(const uint8_t *old_page, const uint8_t *new_page, size_t len,
                  uint8_t *dst, size_t dst_len);

/*
 * Apply @src to the @page_len bytes at @page, which hold the page as it was.
 * Returns how many bytes of the page are covered, or -1 if @src is not a
 * well-formed encoding for a page of this length.  @page is only changed when
 * all of @src is good; nothing outside the two buffers is read or written.
 */
int xbzrle_decode(const uint8_t *src, size_t src_len, uint8_t *page,
                  size_t page_len);

/* The encoders, for tests and benchmarks; identical in output. */
typedef int XbzrleEncodeFn(const uint8_t *old_page, const uint8_t *new_page,
                           size_t len, uint8_t *dst, size_t dst_len);
typedef struct {
    const char *name; /* "scalar", "avx2", "avx512" */
    bool (*supported)(void);
    XbzrleEncodeFn *encode;
} XbzrleVariant;
/* Ends with a NULL name; fastest last. */
extern const XbzrleVariant xbzrle_variants[];

#endif
