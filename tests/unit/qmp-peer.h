/*
 * A QMP client for unit tests, and a QEMU that answers when the test says so.
 * Everything runs on the test's main context.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef QMP_PEER_H
#define QMP_PEER_H

#include "../../qapi/monitor-internal.h"

typedef struct {
    int fd; /* -1: closed */
    GString *input;
} Peer;

/* Connect a new client to @set. */
void peer_open(Peer *peer, MonitorSet *set, bool pretty);
void peer_close(Peer *peer);
void peer_send(Peer *peer, const char *text);
void peer_send_fds(Peer *peer, const char *text, const int *fds, size_t n_fds);
/* The next line must be @want (without its \r\n). */
void peer_expect(Peer *peer, const char *want);
char *peer_line(Peer *peer);
/* Nothing has come, and nothing comes of what is going on now. */
void peer_expect_nothing(Peer *peer);
/* The server has closed the connection. */
void peer_expect_end(Peer *peer);
/* The greeting and qmp_capabilities are behind us. */
void peer_negotiate(Peer *peer);

/* Run the main context until *@flag, or fail after a minute. */
void spin_until(const bool *flag, const char *what);
/* Run what is ready. */
void spin(void);

/* What our side has sent to QEMU, oldest first. */
typedef struct {
    char *command;
    json_object *args;
    int fd; /* the first of those sent along, or -1 */
    EmuQmpReplyFn *cb;
    void *opaque;
} FakeCall;

typedef struct {
    pthread_mutex_t lock;
    GQueue calls; /* FakeCall */
} FakeEmulator;

void fake_init(FakeEmulator *fake, MonitorEmulator *ops);
void fake_clear(FakeEmulator *fake);
/* The oldest call must be @command with @args (JSON text); answer it with
 * @reply (JSON text; NULL: QEMU is gone).  Returns the fd that came along. */
int fake_answer(FakeEmulator *fake, const char *command, const char *args,
                const char *reply);
unsigned fake_pending(FakeEmulator *fake);

#endif
