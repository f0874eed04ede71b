/*
 * memory MIB SEED KIND: memory written for ever.
 *
 * Kinds "full" and "sparse" check themselves.  Every page holds its generation,
 * its number and, as its last word, a checksum of all the others; an array beside
 * it remembers which generation is due.  A page is checked, then given its next
 * generation: all of it anew (full) or a few words of it (sparse), and now and
 * then nothing but zeros (generation 0).  All are checked at the end.  So a page
 * that a migration lost, tore, or took from another time is found.
 *
 * The other two only load the machine, for benchmarks: "inc" increments one
 * byte in every kilobyte in turn; "patch" writes 64 bytes at random places in
 * one page in five.
 *
 * One operation is one page.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "guest.h"

#define PAGE 4096
#define WORDS (PAGE / 8)
#define CHANGES 8 /* words of a sparse update */

struct memory {
    struct job *job;
    uint64_t pages, seed, random;
    uint64_t (*page)[WORDS];
    uint64_t *due; /* generations */
};

static uint64_t checksum(const uint64_t *page)
{
    uint64_t sum = 1;

    for (int i = 0; i < WORDS - 1; i++) {
        sum = (sum ^ page[i]) * 0x9e3779b97f4a7c15u;
    }
    return sum;
}

static bool is_zero(const uint64_t *page)
{
    uint64_t any = 0;

    for (int i = 0; i < WORDS; i++) {
        any |= page[i];
    }
    return any == 0;
}

static void check(struct memory *m, uint64_t k)
{
    const uint64_t *page = m->page[k];

    if (m->due[k] == 0 ? !is_zero(page) :
        page[0] != m->due[k] || page[1] != k || page[WORDS - 1] != checksum(page)) {
        job_error(m->job, "page %lu at %p: generation %lu, due %lu, sum %s",
                  (long)k, (void *)page, (long)page[0], (long)m->due[k],
                  page[WORDS - 1] == checksum(page) ? "right" : "wrong");
    }
}

static void update(struct memory *m, uint64_t k, bool full)
{
    uint64_t *page = m->page[k], n = ++m->random;
    bool fresh = full || m->due[k] == 0;

    if (mix64(n) % 16 == 0) {
        memset(page, 0, PAGE);
        m->due[k] = 0;
        return;
    }
    if (fresh) {
        uint64_t word = mix64(n ^ m->seed << 40);
        for (int i = 2; i < WORDS - 1; i++) {
            page[i] = word += 0x9e3779b97f4a7c15u;
        }
    }
    for (int i = 0; !fresh && i < CHANGES; i++) {
        uint64_t word = mix64(n * CHANGES + i);
        page[2 + word % (WORDS - 3)] = word;
    }
    page[0] = m->due[k] = n;
    page[1] = k;
    page[WORDS - 1] = checksum(page);
}

static void checked(struct memory *m, bool full)
{
    for (uint64_t n = 0; !m->job->stop; n++) {
        uint64_t k = n < m->pages ? n : mix64(n ^ m->seed) % m->pages;

        m->job->started = n + 1;
        check(m, k);
        update(m, k, full);
        m->job->done = n + 1;
    }
    for (uint64_t k = 0; k < m->pages; k++) {
        check(m, k);
    }
}

static void increments(struct memory *m)
{
    char *bytes = (char *)m->page;

    for (uint64_t at = 0; !m->job->stop; at = (at + 1024) % (m->pages * PAGE)) {
        bytes[at]++;
        m->job->done += at % PAGE == 0;
    }
}

static void patches(struct memory *m)
{
    for (uint64_t i = 0; i < m->pages * WORDS; i++) {
        m->page[0][i] = mix64(i);
    }
    while (!m->job->stop) {
        uint64_t word = mix64(++m->random);
        uint64_t *at = m->page[word % (m->pages / 5) * 5] + (word >> 40) % (WORDS - 8);

        for (int i = 0; i < 8; i++) {
            at[i] = word + i;
        }
        m->job->done++;
    }
}

int memory_main(struct job *job, int argc, char **argv)
{
    struct memory m = { .job = job };
    const char *kind = argc == 4 ? argv[3] : "";

    if (argc != 4) {
        job_error(job, "usage: memory MIB SEED KIND");
        return 2;
    }
    m.pages = strtoull(argv[1], NULL, 0) << 8;
    m.seed = strtoull(argv[2], NULL, 0);
    m.page = mmap(NULL, m.pages * PAGE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    m.due = calloc(m.pages, sizeof(*m.due));
    if (m.page == MAP_FAILED || !m.due) {
        job_error(job, "no memory");
        return 1;
    }
    if (!strcmp(kind, "inc")) {
        increments(&m);
    } else if (!strcmp(kind, "patch")) {
        patches(&m);
    } else {
        checked(&m, !strcmp(kind, "full"));
    }
    return 0;
}
