/*
 * Threads that leave the CPU to others.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_UTIL_BACKGROUND_H
#define SIDECAR_UTIL_BACKGROUND_H

/*
 * The calling thread, and those that it starts from now on, are @nice_by
 * (1…39) nicer than they were, and let a thread that wakes up go first at once
 * rather than at the end of their time slice.  As far as the system can do
 * that; it never fails.
 */
void thread_set_background(int nice_by);

#endif
