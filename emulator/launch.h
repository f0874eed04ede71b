/*
 * Starting QEMU as a child that cannot outlive us.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_LAUNCH_H
#define SIDECAR_EMULATOR_LAUNCH_H

#include <glib.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/types.h>

typedef struct {
    char *const *argv;
    const int *fds;        /* of ours, close-on-exec, that QEMU shall have too */
    size_t n_fds;
    const sigset_t *mask;  /* the signal mask to start with */
    int std_fds[3];        /* its stdin, stdout, stderr; -1: ours */
    bool guard;            /* QEMU changes its user id: see launch.c */
    int umask;             /* -1: ours */
    char *const *environ;  /* NULL: ours */
    const struct rlimit *open_files; /* NULL: ours */
    /* Runs when the pid is known, before QEMU's first instruction. */
    void (*before_exec)(void *opaque, pid_t pid);
    void *opaque;
} EmuLaunch;

typedef struct {
    pid_t pid;
    pid_t guard; /* or 0 */
} EmuChild;

/* On the main thread, whose end ends the child. */
bool emu_launch(const EmuLaunch *launch, EmuChild *child, GError **errp);
/* The child has been waited for: its guard is no longer needed. */
void emu_launch_done(EmuChild *child);

#endif
