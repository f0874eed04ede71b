/*
 * net SEED: frames sent and waited for, for ever.
 *
 * Each goes to whoever is at the other end of the first network card (eth0), with a
 * number and bytes that follow from it, under an EtherType for experiments (0x88b5;
 * no addresses, no ARP).  The peer sends every frame back as it is; the answer must
 * be the frame just sent, to the last byte.  Networks may lose frames: after a
 * while the frame is sent again.  Answers to earlier ones are ignored.
 *
 * One operation is one frame that came back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest.h"

#define ETHERTYPE 0x88b5
#define WORDS 184 /* 14 bytes of header and these: less than 1,514 */
#define AGAIN_MS 200

struct frame {
    struct ether_header head;
    uint64_t word[WORDS];
} __attribute__((packed));

static int open_card(struct job *job)
{
    struct ifreq req = { .ifr_name = "eth0" };
    struct sockaddr_ll addr = { .sll_family = AF_PACKET,
                                .sll_protocol = htons(ETHERTYPE) };
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETHERTYPE));

    if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &req) < 0) {
        job_error(job, "eth0: %s", strerror(errno));
        return -1;
    }
    req.ifr_flags |= IFF_UP | IFF_PROMISC;
    if (ioctl(fd, SIOCSIFFLAGS, &req) < 0 || ioctl(fd, SIOCGIFINDEX, &req) < 0) {
        job_error(job, "eth0: %s", strerror(errno));
        return -1;
    }
    addr.sll_ifindex = req.ifr_ifindex;
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        job_error(job, "eth0: bind: %s", strerror(errno));
        return -1;
    }
    return fd;
}

static void fill(struct frame *f, uint64_t seed, uint64_t n)
{
    memset(f->head.ether_dhost, 0xff, ETH_ALEN);
    memset(f->head.ether_shost, 2, ETH_ALEN);
    f->head.ether_type = htons(ETHERTYPE);
    f->word[0] = n;
    for (int i = 1; i < WORDS; i++) {
        f->word[i] = mix64(seed ^ n * WORDS ^ (uint64_t)i << 48);
    }
}

/* True when @want has come back; false after a while, or when it is wrong. */
static bool wait_for(struct job *job, int fd, const struct frame *want)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    struct frame got;

    while (!job->stop && poll(&p, 1, AGAIN_MS) > 0) {
        ssize_t n = recv(fd, &got, sizeof(got), MSG_TRUNC);

        if (n == sizeof(got) && got.word[0] != want->word[0]) {
            continue; /* sent twice, answered twice */
        }
        if (n != sizeof(got) || memcmp(got.word, want->word, sizeof(got.word))) {
            job_error(job, "frame %lu came back with %ld bytes, changed",
                      (long)want->word[0], (long)n);
            return false;
        }
        return true;
    }
    return false;
}

int net_main(struct job *job, int argc, char **argv)
{
    struct frame f;
    int fd;

    if (argc != 2) {
        job_error(job, "usage: net SEED");
        return 2;
    }
    fd = open_card(job);
    for (uint64_t n = 1; fd >= 0 && !job->stop && !job->errors; n++) {
        fill(&f, strtoull(argv[1], NULL, 0), n);
        job->started = n;
        do {
            /* what does not fit into the card's queue is lost, too */
            if (send(fd, &f, sizeof(f), 0) < 0 && errno != ENOBUFS &&
                errno != ENETDOWN) {
                job_error(job, "send: %s", strerror(errno));
            }
        } while (!wait_for(job, fd, &f) && !job->stop && !job->errors);
        job->done = n;
    }
    return job->errors ? 1 : 0;
}
