/*
 * The line editor of a monitor: bytes from a keyboard in, bytes for a screen
 * and finished lines out.  No I/O, no threads: the owner calls, the editor
 * calls back at once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_HMP_READLINE_H
#define SIDECAR_HMP_READLINE_H

#include <stdbool.h>
#include <stddef.h>

#define READLINE_MAX_LINE 4095 /* bytes; more are not taken */
#define READLINE_MAX_HISTORY 64
#define READLINE_MAX_COMPLETIONS 256

typedef struct Readline Readline;

typedef struct {
    void (*write)(void *opaque, const char *text, size_t len);
    /* A line was finished (without its end).  The editor stops to take input
     * until readline_start. */
    void (*line)(void *opaque, const char *line);
    /* Tab was pressed behind @before.  The editor stops to take input until
     * readline_completed, which may be called from here. */
    void (*complete)(void *opaque, const char *before);
} ReadlineOps;

Readline *readline_new(const ReadlineOps *ops, void *opaque);
void readline_free(Readline *rl);

/* Show @prompt and take an (empty) line.  @secret: show stars, keep the line
 * out of the history.  The history search starts over only after a line that
 * was not empty, as in QEMU. */
void readline_start(Readline *rl, const char *prompt, bool secret);
/* Is it taking input? */
bool readline_ready(const Readline *rl);
/* How many of @len bytes were taken; fewer when a line or a Tab came. */
size_t readline_feed(Readline *rl, const char *buf, size_t len);
/* Stop taking input and forget what was typed. */
void readline_stop(Readline *rl);

/* The answer to complete: @words (n of them, any order), of which the last
 * @typed bytes before the cursor are the beginning. */
void readline_completed(Readline *rl, const char *const *words, size_t n,
                        size_t typed);

/* Number @i from the oldest (0), or NULL. */
const char *readline_history(const Readline *rl, unsigned i);

#endif
