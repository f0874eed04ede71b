/*
 * A VM as the migration manager sees it, beside a double of QEMU, and the cable
 * between two of them.
 *
 * Everything is called on the test's main thread, which is the sidecar's; the
 * vm_wait functions run the main context meanwhile.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_VM_DOUBLE_H
#define TESTS_VM_DOUBLE_H

#include "fake-qemu.h"
#include "migration/migration.h"

typedef struct {
    FakeQemu *q;
    Emulator *emu;
    EmuCmdline *cl;
    GuestRam *ram;
    BlockContext *block;
    BlockBackend *drive;
    MigrationManager *mgr;
    bool started;
    bool shown_running; /* going by the events that users see */
    bool arrived;       /* incoming: it is over */
    char *refused;      /* incoming: why it failed */
    GString *statuses;  /* of its migrations, a letter each: under lock */
    pthread_mutex_t lock;
} Vm;

/* @image: a raw one.  With @incoming it waits for its guest and keeps it paused. */
Vm *vm_new(const char *image, bool incoming, unsigned writers);
void vm_free(Vm *vm);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Vm, vm_free)

/* One turn of the main context, which waits a little. */
void vm_turn(void);
/* Runs the main context until @condition. */
typedef bool VmCondition(Vm *vm);
void vm_wait(Vm *vm, VmCondition *condition, const char *what);
/* Let @function run on another thread, and the main context here. */
void vm_on_thread(void (*function)(void *opaque), void *opaque);

/* A user's commands; true if they worked. */
bool vm_stop(Vm *vm);
bool vm_cont(Vm *vm);

/* What users were told is what is so. */
void vm_check_shown(Vm *vm);
/* The guest runs, makes progress, and has its drive. */
void vm_check_runs(Vm *vm);
/* Until its outgoing migration has ended, for better or worse. */
MigrationStatus vm_wait_outgoing(Vm *vm);
void vm_wait_incoming(Vm *vm);
/* Memory, devices and drives of two stopped guests are the same. */
void vm_check_same(Vm *a, Vm *b);

/* Carries bytes between two ends; @limit (-1: none) of them towards the second,
 * then it is cut, or with @stall nothing more is read until it is freed. */
typedef struct Cable Cable;
Cable *cable_new(int ends[2], int64_t limit, bool stall);
/* Was it cut (or did it stall)?  How many bytes passed. */
bool cable_was_cut(Cable *cable);
int64_t cable_passed(Cable *cable);
void cable_free(Cable *cable);
/* As cable_new, with nobody at the other end but a reader who is content. */
Cable *cable_to_nobody(int *end);

#endif
