/*
 * A double of QEMU for tests of what the sidecar does with it: it speaks QMP on
 * the other end of the inner conversation, runs a guest (threads that write to
 * plain memory and to a drive), saves its devices into a descriptor and loads
 * them as QEMU 7.2 does, and misbehaves at one command when it is told to.
 *
 * Its guest writes only while it runs, so what a test compares after a stop is
 * what the guest had; and it counts disk requests that fail, so that a guest
 * which runs without its drives is found.
 *
 * Threads: QEMU's main loop, one that saves, and the guest's.  Called by the
 * test from any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TESTS_FAKE_QEMU_H
#define TESTS_FAKE_QEMU_H

#include "block/block.h"

typedef struct FakeQemu FakeQemu;

typedef struct {
    int fd;               /* QEMU's end of the conversation; duplicated */
    uint8_t *ram;         /* block "pc.ram", shared with the sidecar */
    uint64_t ram_size;
    BlockBackend *drive;  /* that the guest writes to; NULL: none */
    bool incoming;        /* waits for its guest: -incoming defer */
    bool paused;          /* -S */
    unsigned writers;     /* threads of the guest */
    uint32_t seed;
} FakeQemuConfig;

/* What it does at the command that was picked. */
typedef enum {
    FAKE_OBEY,
    FAKE_REFUSE,     /* an error instead */
    FAKE_LATE,       /* does it, and answers a while later */
    FAKE_DIE,        /* the conversation ends, with nothing done */
    FAKE_DIE_AFTER,  /* the same when it was done, instead of the answer */
    /* of migrate; elsewhere the same as FAKE_OBEY */
    FAKE_HOLD,       /* answers when its stream was read, as QEMU 7.2 may */
    FAKE_BREAK,      /* fails with a part of the stream written */
    FAKE_DIE_INSIDE, /* dies with a part of the stream written */
    FAKE_CONDUCTS
} FakeConduct;

FakeQemu *fake_qemu_new(const FakeQemuConfig *cfg);
/* Ends the guest, and the conversation if it has not ended. */
void fake_qemu_free(FakeQemu *q);

/* The @nth command from now on (0: the next one) meets @conduct, the others are
 * obeyed.  @part of 256: how much of a stream is written (FAKE_BREAK, …). */
void fake_qemu_arm(FakeQemu *q, FakeConduct conduct, unsigned nth, unsigned part);
/* Commands since then; the name of the one that was picked ("" : none yet). */
unsigned fake_qemu_commands(FakeQemu *q);
const char *fake_qemu_picked(FakeQemu *q);

/* Has the conversation ended by itself? */
bool fake_qemu_dead(FakeQemu *q);
void fake_qemu_die(FakeQemu *q);

bool fake_qemu_running(FakeQemu *q);
/* A device's register: counts what the guest did.  Travels with the devices. */
uint64_t fake_qemu_register(FakeQemu *q);
/* Bytes of the memory that QEMU keeps to itself, whole pages. */
const uint8_t *fake_qemu_vram(FakeQemu *q, size_t *size);
/* Until the guest has done @n things more; it must be running. */
void fake_qemu_wait_guest(FakeQemu *q, uint64_t n);
/* Requests of the guest's that its drive refused. */
unsigned fake_qemu_disk_errors(FakeQemu *q);

#endif
