/*
 * The return path; see include/migration/return-path.h.
 *
 * QEMU 7.2 as the receiver: answers a PING as soon as it reads it; sends SHUT 0
 * when the guest runs already (or is paused there, as it should be); ends with
 * status 1, and so closes the connection without SHUT, when it does not like the
 * stream.  As the sender it lets its guest run again when the connection ends
 * without SHUT, or SHUT is not 0.  Therefore ours says SHUT 0 before its guest
 * runs: what can go wrong between the two then leaves a guest that runs nowhere,
 * not one that runs twice.
 *
 * A connection that ends is the receiver's own doing if the kernel says end of
 * file or reset.  Other errors (no route, no answer for too long) say nothing
 * about the receiver.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/return-path.h"

#include "migration/qemu-stream.h"
#include "util/error.h"
#include "util/socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_MS (10 * 1000) /* with whoever need not answer */

struct ReturnPath {
    int fd;             /* -1: closed */
    int cancel_fd;
    char *name;
    /* sender */
    ReturnPathReader reader;
    bool promised;      /* it will get our word */
    bool told;          /* the text is in an error already */
    bool ended;         /* end of file */
    int err;            /* …or this errno */
    /* receiver */
    bool opened;
    bool ours;          /* the sender is a sidecar */
    bool word_comes;
    bool accepted;      /* SHUT 0 has been sent */
};

/* ---- decoding ------------------------------------------------------------- */

static uint32_t get_be(const uint8_t *p, int bytes)
{
    uint32_t v = 0;

    while (bytes--) {
        v = v << 8 | *p++;
    }
    return v;
}

static void add_text(ReturnPathReader *r, const uint8_t *data, size_t len)
{
    size_t have = strlen(r->text);

    len = MIN(len, RETURN_PATH_TEXT_MAX - have);
    for (size_t i = 0; i < len; i++) {
        r->text[have + i] = g_ascii_isprint(data[i]) ? data[i] : ' ';
    }
    r->text[have + len] = '\0';
}

/* Whoever has not said anything sensible yet may not know of messages. */
static void no_message(ReturnPathReader *r)
{
    if (r->met) {
        r->bad = true;
        return;
    }
    r->is_text = true;
    add_text(r, r->head, r->have);
}

static void take_message(ReturnPathReader *r)
{
    uint32_t value = get_be(r->head + 4, 4);

    r->have = 0;
    if (get_be(r->head, 2) == MIG_RP_MSG_PONG) {
        r->met = true;
        r->waits |= value == RETURN_PATH_WAITS;
    } else {
        r->shut = true;
        r->shut_value = value;
        r->is_text = value != 0; /* perhaps why */
    }
}

static bool is_known(const ReturnPathReader *r)
{
    uint32_t type = get_be(r->head, 2), len = get_be(r->head + 2, 2);

    return (type == MIG_RP_MSG_SHUT || type == MIG_RP_MSG_PONG) && len == 4;
}

void return_path_feed(ReturnPathReader *r, const uint8_t *data, size_t len)
{
    while (len && !r->bad && !(r->shut && !r->shut_value)) {
        if (r->is_text) {
            add_text(r, data, len);
            return;
        }
        r->head[r->have++] = *data++;
        len--;
        if (r->have == 4 && !is_known(r)) {
            no_message(r);
        } else if (r->have == 8) {
            take_message(r);
        }
    }
}

void return_path_feed_end(ReturnPathReader *r)
{
    if (r->have && !r->is_text && !r->bad && !r->met) {
        no_message(r); /* a very short text */
    }
}

/* ---- both ends ------------------------------------------------------------ */

/* A host that is gone is noticed: after some 40 seconds without a sign. */
static void keep_alive(int fd)
{
    int on = 1, idle = 10, interval = 5, count = 6;

    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

ReturnPath *return_path_new(int fd, int cancel_fd, const char *name)
{
    ReturnPath *rp = g_new0(ReturnPath, 1);

    rp->fd = fd;
    rp->cancel_fd = cancel_fd;
    rp->name = g_strdup(name);
    keep_alive(fd);
    return rp;
}

static void hang_up(ReturnPath *rp)
{
    if (rp->fd >= 0) {
        close(rp->fd);
        rp->fd = -1;
    }
}

void return_path_free(ReturnPath *rp)
{
    if (rp) {
        hang_up(rp);
        g_free(rp->name);
        g_free(rp);
    }
}

typedef enum { READABLE, LATE, CANCELLED } Wait;

/* @ms: -1: for ever.  Without @cancel_fd (-1) it can't be cancelled.  READABLE also
 * if the other end was silent for too long, with rp->err. */
static Wait wait_readable(ReturnPath *rp, int ms, int cancel_fd)
{
    gint64 end = g_get_monotonic_time() + (gint64)ms * 1000;
    struct pollfd p[2] = {
        { .fd = rp->fd, .events = POLLIN },
        { .fd = cancel_fd, .events = POLLIN },
    };
    int n;

    do {
        gint64 left = (end - g_get_monotonic_time()) / 1000;

        n = socket_poll(p, 2, ms < 0 ? -1 : (int)MAX(left, 0));
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        rp->err = errno;
        return READABLE;
    }
    return p[1].revents ? CANCELLED : n ? READABLE : LATE;
}

static void say_cancelled(const ReturnPath *rp, GError **errp)
{
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_CANCELLED, "%s: cancelled",
                rp->name);
}

/* The whole of a message or nothing: the other side has room for it, as it reads
 * what we say. */
static bool say(ReturnPath *rp, const void *message, size_t len)
{
    return send(rp->fd, message, len, MSG_NOSIGNAL | MSG_DONTWAIT) ==
        (ssize_t)len;
}

/* ---- sender ----------------------------------------------------------------- */

/* What can be read now. */
static void read_some(ReturnPath *rp)
{
    uint8_t buf[512];
    ssize_t n = recv(rp->fd, buf, sizeof(buf), MSG_DONTWAIT);

    if (n > 0) {
        return_path_feed(&rp->reader, buf, n);
    } else if (n == 0) {
        return_path_feed_end(&rp->reader);
        rp->ended = true;
    } else if (errno != EAGAIN && errno != EINTR) {
        rp->err = errno;
    }
}

static bool is_over(const ReturnPath *rp)
{
    return rp->ended || rp->err || rp->reader.shut || rp->reader.bad ||
        rp->reader.is_text;
}

/* All that comes until the end, if that is soon. */
static void read_to_end(ReturnPath *rp, int cancel_fd)
{
    gint64 until = g_get_monotonic_time() + PATIENCE_MS * 1000;

    while (!rp->ended && !rp->err) {
        gint64 left = (until - g_get_monotonic_time()) / 1000;

        if (left <= 0 || wait_readable(rp, (int)left, cancel_fd) != READABLE) {
            break;
        }
        read_some(rp);
    }
}

/* Its reason comes right behind, and then the end. */
static void read_reason(ReturnPath *rp)
{
    read_to_end(rp, rp->cancel_fd);
    g_strchomp(rp->reader.text);
}

/* Why the guest is not there. */
static void describe_refusal(ReturnPath *rp, GError **errp)
{
    const ReturnPathReader *r = &rp->reader;

    if (r->text[0]) {
        rp->told = true;
        error_set(errp, "%s: the destination says: %s", rp->name, r->text);
    } else if (r->shut) {
        error_set(errp, "%s: the destination has refused the guest (%u)",
                  rp->name, r->shut_value);
    } else if (r->bad) {
        error_set(errp, "%s: the destination answers with message 0x%04x of %u "
                  "bytes", rp->name, get_be(r->head, 2), get_be(r->head + 2, 2));
    } else if (rp->err) {
        error_set_errno(errp, rp->err, "%s: the destination went away", rp->name);
    } else {
        error_set(errp, "%s: the destination went away without having taken the "
                  "guest", rp->name);
    }
}

bool return_path_meet(ReturnPath *rp, int ms, GError **errp)
{
    Wait w = READABLE;

    while (rp && w == READABLE && !is_over(rp) && !rp->reader.met) {
        w = wait_readable(rp, ms, rp->cancel_fd);
        if (w == READABLE) {
            read_some(rp);
        }
    }
    if (w == CANCELLED) {
        say_cancelled(rp, errp);
        return false;
    }
    if (rp && is_over(rp)) {
        read_reason(rp);
        describe_refusal(rp, errp);
        return false;
    }
    return true;
}

bool return_path_met(const ReturnPath *rp)
{
    return rp && rp->reader.met;
}

bool return_path_promise(ReturnPath *rp)
{
    if (rp) {
        rp->promised = rp->reader.waits;
    }
    return rp && rp->promised;
}

static ReturnPathVerdict not_known(const ReturnPath *rp, const char *why,
                                   GError **errp)
{
    error_set(errp, "%s: everything was sent, but %s: whether the guest runs at "
              "the destination is not known. It stays stopped here; if it does "
              "not run there, 'cont' takes it back", rp->name, why);
    return RETURN_PATH_UNKNOWN;
}

/* One who knows of no return path closes the connection when it is content. */
static ReturnPathVerdict verdict_unmet(ReturnPath *rp, GError **errp)
{
    if (rp->err == ECONNRESET || rp->err == EPIPE || rp->reader.is_text) {
        read_reason(rp);
        describe_refusal(rp, errp);
        return RETURN_PATH_NO;
    }
    return rp->err ? not_known(rp, g_strerror(rp->err), errp) : RETURN_PATH_YES;
}

/* It has closed its images and goes, once it sees that we do.  They are wanted
 * here; but it may be stuck. */
static void part(ReturnPath *rp)
{
    shutdown(rp->fd, SHUT_WR);
    read_to_end(rp, -1);
}

/* One of ours has said yes, and will not run the guest before we say so. */
static ReturnPathVerdict give_word(ReturnPath *rp, GError **errp)
{
    static const uint8_t word[] = {
        QEMU_VM_COMMAND, 0, MIG_CMD_PING, 0, 4, 'Q', 'S', 'C', 'G',
    };

    if (!say(rp, word, sizeof(word))) {
        error_set_errno(errp, errno, "%s: the destination went away", rp->name);
        return RETURN_PATH_NO;
    }
    return RETURN_PATH_YES;
}

static ReturnPathVerdict verdict_met(ReturnPath *rp, GError **errp)
{
    const ReturnPathReader *r = &rp->reader;
    bool gone = rp->ended || rp->err == ECONNRESET || rp->err == EPIPE;

    if (r->shut && !r->shut_value) {
        return rp->promised ? give_word(rp, errp) : RETURN_PATH_YES;
    }
    if (r->shut) {
        read_reason(rp);
    } else if (!gone && !rp->promised) {
        return not_known(rp, r->bad ? "the answer makes no sense" :
                         g_strerror(rp->err), errp);
    }
    describe_refusal(rp, errp);
    part(rp);
    return RETURN_PATH_NO;
}

static ReturnPathVerdict verdict_cancelled(ReturnPath *rp, GError **errp)
{
    if (!rp->reader.met) {
        return RETURN_PATH_YES;
    }
    if (!rp->promised) {
        return not_known(rp, "the wait for the answer was cancelled", errp);
    }
    say_cancelled(rp, errp);
    part(rp);
    return RETURN_PATH_NO;
}

ReturnPathVerdict return_path_verdict(ReturnPath *rp, GError **errp)
{
    Wait w = READABLE;

    if (!rp) {
        return RETURN_PATH_YES;
    }
    if (!rp->reader.met) {
        shutdown(rp->fd, SHUT_WR); /* which it may wait for */
    }
    while (w == READABLE && !is_over(rp)) {
        w = wait_readable(rp, rp->reader.met ? -1 : PATIENCE_MS, rp->cancel_fd);
        if (w == READABLE) {
            read_some(rp);
        }
    }
    if (w == CANCELLED) {
        return verdict_cancelled(rp, errp);
    }
    return rp->reader.met || rp->reader.shut ? verdict_met(rp, errp) :
        verdict_unmet(rp, errp);
}

char *return_path_last_words(ReturnPath *rp)
{
    for (int i = 0; rp && i < 10 && !rp->ended && !rp->err &&
         wait_readable(rp, 0, -1) == READABLE; i++) {
        read_some(rp);
    }
    if (!rp || rp->told || !rp->reader.text[0]) {
        return NULL;
    }
    g_strchomp(rp->reader.text);
    return g_strdup(rp->reader.text);
}

/* ---- receiver ------------------------------------------------------------------ */

static bool put_message(ReturnPath *rp, uint16_t type, uint32_t value)
{
    uint8_t m[8] = {
        type >> 8, type & 0xff, 0, 4,
        value >> 24, value >> 16 & 0xff, value >> 8 & 0xff, value & 0xff,
    };

    return say(rp, m, sizeof(m));
}

void return_path_opened(ReturnPath *rp)
{
    if (rp) {
        rp->opened = true;
    }
}

bool return_path_ping(ReturnPath *rp, uint32_t value, GError **errp)
{
    if (!rp) {
        return true;
    }
    if (!rp->opened) {
        error_set(errp, "%s: the source sends a PING without return path",
                  rp->name);
        return false;
    }
    rp->ours |= value == RETURN_PATH_ASK;
    rp->word_comes |= value == RETURN_PATH_WILL;
    if (!put_message(rp, MIG_RP_MSG_PONG, value == RETURN_PATH_ASK ?
                     RETURN_PATH_WAITS : value)) {
        error_set_errno(errp, errno, "%s: return path", rp->name);
        return false;
    }
    return true;
}

/* Only one of ours that got no PONG closes its direction, after the last byte. */
bool return_path_still_wanted(ReturnPath *rp, GError **errp)
{
    uint8_t byte;
    ssize_t n;

    if (!rp || !rp->opened || (rp->ours && !rp->word_comes)) {
        return true;
    }
    n = recv(rp->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    error_set(errp, n > 0 ? "%s: the source has sent more than its state" :
              "%s: the source has given up", rp->name);
    return false;
}

/* The errors of a connection that the sender did not end. */
static bool is_vague(int err)
{
    return err && err != ECONNRESET && err != EPIPE;
}

static ReturnPathVerdict wait_word(ReturnPath *rp, GError **errp)
{
    uint8_t word[9];
    size_t have = 0;
    int err = 0;

    while (have < sizeof(word)) {
        Wait w = wait_readable(rp, -1, rp->cancel_fd);
        ssize_t n = w == CANCELLED ? 0 :
            recv(rp->fd, word + have, sizeof(word) - have, MSG_DONTWAIT);

        if (w == CANCELLED) {
            say_cancelled(rp, errp);
            return RETURN_PATH_NO;
        }
        if (n > 0) {
            have += n;
        } else if (n == 0 || rp->err || (errno != EAGAIN && errno != EINTR)) {
            err = n == 0 ? 0 : rp->err ? rp->err : errno;
            break;
        }
    }
    if (have == sizeof(word) && word[0] == QEMU_VM_COMMAND &&
        get_be(word + 1, 2) == MIG_CMD_PING &&
        get_be(word + 5, 4) == RETURN_PATH_WORD) {
        return RETURN_PATH_YES;
    }
    error_set(errp, is_vague(err) ? "%s: the connection is lost (%s) and it is not "
              "known where the guest runs. It stays stopped here; if it does not "
              "run at the source, 'cont' lets it run here" :
              "%s: the source has kept the guest", rp->name, g_strerror(err));
    return is_vague(err) ? RETURN_PATH_UNKNOWN : RETURN_PATH_NO;
}

ReturnPathVerdict return_path_accept(ReturnPath *rp, GError **errp)
{
    ReturnPathVerdict v = RETURN_PATH_YES;

    if (!rp) {
        return v;
    }
    if (!return_path_still_wanted(rp, errp)) {
        return RETURN_PATH_NO;
    }
    if (rp->opened && !put_message(rp, MIG_RP_MSG_SHUT, 0)) {
        error_set_errno(errp, errno, "%s: the source has given up", rp->name);
        return RETURN_PATH_NO;
    }
    rp->accepted = true;
    if (rp->word_comes) {
        v = wait_word(rp, errp);
    }
    if (v != RETURN_PATH_NO) {
        hang_up(rp); /* else when the images are closed: see part */
    }
    return v;
}

void return_path_refuse(ReturnPath *rp, const char *why)
{
    if (!rp || rp->fd < 0) {
        return;
    }
    /* whoever does not read this sees the stream fail anyway */
    if (rp->accepted) {
        /* and who has kept the guest knows */
    } else if (!rp->opened || put_message(rp, MIG_RP_MSG_SHUT, 1)) {
        say(rp, why, MIN(strlen(why), RETURN_PATH_TEXT_MAX));
        shutdown(rp->fd, SHUT_WR);
    }
    hang_up(rp);
}
