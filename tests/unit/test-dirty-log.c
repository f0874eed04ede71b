/*
 * The kernel's dirty log: in this process, and through the agent preloaded into
 * another one.  Skips where the kernel lacks it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/agent.h"
#include "emulator/dirty-log.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES 1000

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static bool have_log(void)
{
    g_autoptr(GError) err = NULL;

    if (dirty_log_pagemap_probe(&err)) {
        return true;
    }
    g_test_skip(err->message);
    return false;
}

static void test_probe(void)
{
    if (have_log()) {
        g_assert_true(dirty_log_pagemap_probe(NULL)); /* again */
    }
}

/* ---- the agent in another process ---------------------------------------------- */

typedef struct {
    GPid pid;
    FILE *to, *from;
    int ram_fd, area_fd;
    AgentArea *area;
    size_t area_size;
    DirtyLog *log;
    Bitmap *dirty;
} Child;

static void make_area(Child *c)
{
    size_t bitmap = sizeof(AgentArea) + sizeof(AgentRange);
    struct stat st;

    c->ram_fd = memfd_create("guest-ram", 0);
    g_assert_cmpint(ftruncate(c->ram_fd, PAGES * PAGE), ==, 0);
    c->area_size = bitmap + (PAGES + 63) / 64 * 8;
    c->area_fd = memfd_create("agent", 0);
    g_assert_cmpint(ftruncate(c->area_fd, c->area_size), ==, 0);
    c->area = mmap(NULL, c->area_size, PROT_READ | PROT_WRITE, MAP_SHARED,
                   c->area_fd, 0);
    g_assert_true(c->area != MAP_FAILED);
    g_assert_cmpint(fstat(c->ram_fd, &st), ==, 0);
    c->area->magic = AGENT_MAGIC;
    c->area->version = AGENT_VERSION;
    c->area->size = c->area_size;
    c->area->n_ranges = 1;
    c->area->range[0] = (AgentRange) {
        .dev = st.st_dev, .ino = st.st_ino, .length = PAGES * PAGE,
        .page_shift = 12, .bitmap_offset = bitmap,
    };
}

static void spawn(Child *c)
{
    const char *build = g_getenv("BUILD") ? g_getenv("BUILD") : "build";
    g_autofree char *program = g_build_filename(build, "tools/agent-child", NULL);
    g_autofree char *folder = g_canonicalize_filename(build, NULL);
    g_autofree char *agent = g_build_filename(folder, "qemu-sidecar-agent.so",
                                              NULL);
    g_autofree char *number = g_strdup_printf("%d", c->area_fd);
    char *argv[] = { program, NULL };
    g_auto(GStrv) env = g_get_environ();
    g_autoptr(GError) err = NULL;
    int in, out;

    env = g_environ_setenv(env, "LD_PRELOAD", agent, TRUE);
    env = g_environ_setenv(env, AGENT_ENV_FD, number, TRUE);
    g_spawn_async_with_pipes(NULL, argv, env, G_SPAWN_LEAVE_DESCRIPTORS_OPEN |
                             G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &c->pid,
                             &in, &out, NULL, &err);
    g_assert_no_error(err);
    c->to = fdopen(in, "w");
    c->from = fdopen(out, "r");
}

static void G_GNUC_PRINTF(2, 3) tell(Child *c, const char *fmt, ...)
{
    char answer[32];
    va_list ap;

    va_start(ap, fmt);
    vfprintf(c->to, fmt, ap);
    va_end(ap);
    fputc('\n', c->to);
    fflush(c->to);
    g_assert_nonnull(fgets(answer, sizeof(answer), c->from));
    g_assert_cmpstr(answer, ==, "ok\n");
}

static void child_open(Child *c)
{
    AgentRange *r;

    *c = (Child) { 0 };
    make_area(c);
    spawn(c);
    r = &c->area->range[0];
    tell(c, "env");
    g_assert_cmpuint(r->state, ==, AGENT_WAITING);
    tell(c, "map %d %d", c->ram_fd, PAGES * PAGE);
    g_assert_cmpuint(r->state, ==, AGENT_REGISTERED);
    c->log = dirty_log_new_pagemap(c->pid, r->address, r->length, PAGE,
                                   (uint64_t *)((char *)c->area +
                                                r->bitmap_offset), NULL);
    g_assert_nonnull(c->log);
    c->dirty = bitmap_new(PAGES);
}

static void child_close(Child *c)
{
    int status;

    fclose(c->to);
    fclose(c->from);
    g_assert_cmpint(waitpid(c->pid, &status, 0), ==, c->pid);
    g_assert_cmpint(status, ==, 0);
    dirty_log_free(c->log);
    bitmap_free(c->dirty);
    munmap(c->area, c->area_size);
    close(c->ram_fd);
    close(c->area_fd);
}

/* The pages that the next sync reports, as text: "3 7-9". */
static char *dirty_pages(Child *c)
{
    GString *s = g_string_new(NULL);

    bitmap_clear_range(c->dirty, 0, PAGES);
    g_assert_true(dirty_log_sync(c->log, c->dirty, NULL));
    for (uint64_t at = bitmap_next_set(c->dirty, 0), end; at < PAGES;
         at = bitmap_next_set(c->dirty, end)) {
        end = bitmap_next_clear(c->dirty, at);
        g_string_append_printf(s, "%s%d", s->len ? " " : "", (int)at);
        if (end - at > 1) {
            g_string_append_printf(s, "-%d", (int)end - 1);
        }
    }
    return g_string_free(s, FALSE);
}

static void expect(Child *c, const char *pages)
{
    g_autofree char *got = dirty_pages(c);

    g_assert_cmpstr(got, ==, pages);
}

static void test_agent(void)
{
    Child c;

    if (SANITIZED) {
        g_test_skip("nothing can be preloaded before a sanitizer");
        return;
    }
    if (!have_log()) {
        return;
    }
    child_open(&c);
    expect(&c, "0-999"); /* the first sync: all */
    expect(&c, "");
    tell(&c, "w 3");
    tell(&c, "w 999");
    tell(&c, "w 3");
    expect(&c, "3 999");
    expect(&c, "");
    for (unsigned i = 100; i < 200; i++) {
        tell(&c, "w %u", i);
    }
    expect(&c, "100-199");
    /* discarded pages read as zeros: that is a change */
    tell(&c, "discard 100 20");
    expect(&c, "100-119");
    tell(&c, "w 110");
    expect(&c, "110");
    tell(&c, "punch 62 67");
    expect(&c, "62-128");
    tell(&c, "punch 990 100000"); /* past the end: as far as there is RAM */
    expect(&c, "990-999");
    expect(&c, "");
    child_close(&c);
}

/* A write that falls between two syncs is in exactly the next one, for ever. */
static void test_agent_many(void)
{
    Child c;

    if (SANITIZED) {
        g_test_skip("nothing can be preloaded before a sanitizer");
        return;
    }
    if (!have_log()) {
        return;
    }
    child_open(&c);
    g_free(dirty_pages(&c));
    for (unsigned i = 0; i < 500; i++) {
        unsigned page = g_test_rand_int_range(0, PAGES);
        g_autofree char *want = g_strdup_printf("%u", page);

        tell(&c, i % 5 ? "w %u" : "discard %u 1", page);
        expect(&c, want);
    }
    child_close(&c);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dirty-log/probe", test_probe);
    g_test_add_func("/dirty-log/agent", test_agent);
    g_test_add_func("/dirty-log/agent/many", test_agent_many);
    return g_test_run();
}
