/*
 * The arguments of an HMP command, taken from its line by its args_type.
 *
 * An args_type is QEMU's: "name:type,name:type…", in the order of the line;
 * '?' behind a type makes the argument optional.
 *
 *     F   file name           s   string: a word, or "…" with \n \r \\ \' \"
 *     B   block device name   S   the rest of the line
 *     i   32-bit integer      l   integer      M   integer, in MiB
 *     o   size, in MiB without a suffix: 10, 512k, 1.5G
 *     b   on or off
 *     -x  flag -x             -xs option -x with a string
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_HMP_ARGS_H
#define SIDECAR_HMP_ARGS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct HmpArgs HmpArgs;

/* Parses *line, the rest of the line behind the command's name @cmd, and moves
 * it on.  On error NULL; what QEMU would say is then appended to @out. */
HmpArgs *hmp_args_parse(const char *cmd, const char *args_type,
                        const char **line, GString *out);
void hmp_args_free(HmpArgs *args);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(HmpArgs, hmp_args_free)

bool hmp_args_has(const HmpArgs *args, const char *name);
const char *hmp_args_str(const HmpArgs *args, const char *name); /* or NULL */
int64_t hmp_args_int(const HmpArgs *args, const char *name);     /* or 0 */
bool hmp_args_bool(const HmpArgs *args, const char *name);       /* or false */

/* One word at *p as the types s, F and B take it; g_free; NULL: there is none
 * or it is malformed (then @out, unless NULL, says how). */
char *hmp_args_word(const char **p, GString *out);
/* The words of a line, NULL-terminated; g_strfreev; NULL: malformed. */
char **hmp_args_words(const char *line);

/* @command with @word, quoted if it has to be, as one more argument; g_free. */
char *hmp_add_word(const char *command, const char *word);

/* An integer expression as of the types i, l, M at *p, moved behind it:
 * + - * / % & | ^ ~ ( ) 'c', decimal, 0x… and 0… octal.  All of + - bind
 * weakest, then & | ^, then * / %, as in QEMU.  On error false and @out. */
bool hmp_expr_parse(const char **p, int64_t *value, GString *out);

#endif
