/*
 * Memory of a file that nobody has touched yet.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_UTIL_HOLES_H
#define SIDECAR_UTIL_HOLES_H

#include "util/bitmap.h"

/*
 * Make @holes (a bit a page of @page_size, from the file's first on) tell which
 * pages of @fd lie wholly in holes: they read as zeros, and reading them through
 * a shared mapping would take memory for them.  Only on tmpfs and for memfds;
 * of any other file, and after an error, no page is called a hole.
 *
 * Somebody who writes at the same time makes the answer old: of a page that is
 * called a hole it is only certain that it was one at some moment of the call.
 * The file's offset is moved.
 */
void file_find_holes(int fd, uint32_t page_size, Bitmap *holes);

#endif
