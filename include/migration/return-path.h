/*
 * The way back of a migration: how the receiver tells the sender that it has the
 * guest, on sockets only.
 *
 * It is QEMU's return path (docs/specs/qemu-stream.txt), and between two of ours
 * one word more, after which the receiver lets the guest run:
 *
 *     sender                               receiver
 *     OPEN_RETURN_PATH, PING  ─────────►
 *                             ◄─────────   PONG
 *     … RAM, devices …        ─────────►   all is loaded and durable; stopped
 *                             ◄─────────   SHUT 0 (or SHUT 1 and a line of text)
 *     the word (to ours only) ─────────►   the guest runs
 *
 * What is sure at each point is said at ReturnPathVerdict.  One thread uses it;
 * the channel's cancel ends every wait.  All functions take NULL: no way back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_MIGRATION_RETURN_PATH_H
#define SIDECAR_MIGRATION_RETURN_PATH_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Messages of the receiver: be16 type, be16 length, data; both have a be32. */
enum {
    MIG_RP_MSG_SHUT = 1, /* 0: it has the guest */
    MIG_RP_MSG_PONG = 2, /* the PING's value */
};

/* Values of our PINGs.  A plain QEMU repeats them and thinks nothing of it. */
#define RETURN_PATH_ASK 0x51534331   /* "QSC1": do you wait for my word? */
#define RETURN_PATH_WAITS 0x51534357 /* "QSCW": the PONG of one who does */
#define RETURN_PATH_WILL 0x51534332  /* "QSC2": then my word comes after SHUT */
#define RETURN_PATH_WORD 0x51534347  /* "QSCG": it runs at your end */

typedef enum {
    RETURN_PATH_YES,     /* the guest is there, or nobody has objected */
    RETURN_PATH_NO,      /* it is not and will not be there (or for the receiver:
                            it is not given up by the sender) */
    RETURN_PATH_UNKNOWN, /* nobody at this end can know */
} ReturnPathVerdict;

typedef struct ReturnPath ReturnPath;

/* @fd: the socket, taken over.  @cancel_fd: borrowed; readable when whoever waits
 * shall give up.  @name is for messages. */
ReturnPath *return_path_new(int fd, int cancel_fd, const char *name);
void return_path_free(ReturnPath *rp);

/* ---- sender -------------------------------------------------------------- */

/*
 * Waits at most @ms for the PONG; that none comes is no error.  False if the
 * receiver has ended, which is a refusal as long as not everything has been sent,
 * or when cancelled.
 */
bool return_path_meet(ReturnPath *rp, int ms, GError **errp);
bool return_path_met(const ReturnPath *rp);
/* If the receiver waits for our word: promises it; RETURN_PATH_WILL must be sent
 * before the end of the stream. */
bool return_path_promise(ReturnPath *rp);
/*
 * Everything has been sent.  One who has answered is waited for until it says
 * something or the connection ends; else, see the specification, for ten seconds.
 * Errors come with NO and UNKNOWN.
 */
ReturnPathVerdict return_path_verdict(ReturnPath *rp, GError **errp);
/* When sending has failed: what the receiver said last (g_free), or NULL.  Does
 * not wait. */
char *return_path_last_words(ReturnPath *rp);

/* ---- receiver ------------------------------------------------------------ */

/* The commands of that name have come. */
void return_path_opened(ReturnPath *rp);
bool return_path_ping(ReturnPath *rp, uint32_t value, GError **errp);
/* Has the sender given up?  It may still do so later. */
bool return_path_still_wanted(ReturnPath *rp, GError **errp);
/* The guest is here, stopped: may it run?  Says so to the sender, and waits for
 * its word if it has announced one. */
ReturnPathVerdict return_path_accept(ReturnPath *rp, GError **errp);
/* It is not here and will not be, because of @why.  After a NO of the function above too,
 * and with the images closed: the sender takes the end of the connection for that. */
void return_path_refuse(ReturnPath *rp, const char *why);

/* ---- decoding, for tests ------------------------------------------------- */

#define RETURN_PATH_TEXT_MAX 500

typedef struct {
    uint8_t head[8];     /* of the message that is being read */
    size_t have;
    bool met, waits;     /* a PONG came; it was RETURN_PATH_WAITS */
    bool shut;
    uint32_t shut_value;
    bool is_text;        /* what comes now is no message */
    bool bad;            /* no message, from one who knew better; head has it */
    char text[RETURN_PATH_TEXT_MAX + 1];
} ReturnPathReader;

/* What came, in pieces of any size; then, perhaps, the end. */
void return_path_feed(ReturnPathReader *r, const uint8_t *data, size_t len);
void return_path_feed_end(ReturnPathReader *r);

#endif
