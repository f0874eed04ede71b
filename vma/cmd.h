/*
 * The vma command: what its subcommands share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VMA_CMD_H
#define VMA_CMD_H

#include <stdio.h>
#include "vma/vma.h"

/* A subcommand.  argv[0] is its name.  False and an error, or with
 * *usage set: the command line was wrong. */
typedef struct {
    const char *name;
    const char *usage;
    bool (*run)(int argc, char **argv, bool *usage, GError **errp);
} VmaCommand;

extern const VmaCommand vma_cmd_list, vma_cmd_config, vma_cmd_create,
    vma_cmd_extract, vma_cmd_verify;

/* ---- interrupt.c: SIGINT, SIGTERM and SIGHUP --------------------------- */

/* From here on these signals only ask for the end, so that what was half done
 * can be removed.  A second one ends the program at once.  Before any other
 * thread is started. */
void interrupt_init(void);
/* Readable for ever once a signal came. */
int interrupt_fd(void);
/* Sets the error if a signal came. */
bool interrupt_check(GError **errp);
/* Cancelled when a signal comes; NULL before it is freed. */
void interrupt_set_target(VmaTarget *target);
/* Wait for @fd (-1: for nothing else) at most @timeout_ms.  False and an error
 * if a signal came. */
bool interrupt_poll(int fd, short events, int timeout_ms, GError **errp);

/* ---- progress.c -------------------------------------------------------- */

/* How far we are, on stderr: a bar on a terminal, else a line for each percent
 * in the form that other tools print. */
typedef struct {
    bool enabled, bar;
    uint64_t total, done;
    int percent;     /* shown last; -1: nothing yet */
    int64_t start_us, shown_us;
} Progress;

void progress_init(Progress *p, bool enabled, uint64_t total);
void progress_update(Progress *p, uint64_t done);
/* End the line of a bar. */
void progress_end(Progress *p);

/* ---- source.c: reading an archive --------------------------------------- */

typedef struct VmaSource VmaSource;

/* @spec: a path, or "-" for standard input. */
VmaSource *vma_source_open(const char *spec, GError **errp);
void vma_source_close(VmaSource *s);
const char *vma_source_name(const VmaSource *s); /* borrowed */
/* As much as there is, up to @len; 0 at the end; -1.  Waits for a pipe, and no
 * longer than until a signal comes. */
ssize_t vma_source_read(VmaSource *s, void *buf, size_t len, GError **errp);

/* Read up to VMA_EVENT_HEADER.  @buf is what the reader borrows.  Only little
 * more than the header is read. */
VmaReader *vma_source_read_header(VmaSource *s, void *buf, size_t len,
                                  GError **errp);

/* CFG:, DEV:, VMSTATE: and at last CTIME: lines, flushed. */
bool vma_print_list(const VmaReader *r, FILE *f, GError **errp);
/* One line: how much data there was and whether checksums covered it. */
char *vma_coverage_text(const VmaReader *r);

#endif
