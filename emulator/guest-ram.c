/*
 * Guest RAM shared with QEMU; see include/emulator/guest-ram.h.
 *
 * A block lies in an anonymous file (memfd) that both processes map, or in the
 * file that the user's backend names.  QEMU opens ours as /proc/self/fd/N; it
 * maps it again from there, so the inherited descriptor is all it needs.
 *
 * The agent library is looked for beside this program, then where it was
 * installed.  If it can't be found, or the kernel fails the probe, or QEMU's
 * binary does not load it (static, set-uid), the comparing log takes over.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "emulator/guest-ram.h"

#include "config-host.h"
#include "emulator/agent.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PAGE_SHIFT 12 /* of the agent's bitmaps: the smallest target page */

typedef struct {
    GuestRamBlock b;
    const EmuRam *plan; /* borrowed from the command line */
    int child_fd;       /* number that QEMU will know, until it is started */
    bool own_path;      /* QEMU opens the user's file by its name */
} Block;

struct GuestRam {
    Block *blocks;
    size_t n_blocks;
    char *agent;          /* path; NULL: no page-table log */
    char *why_compare;    /* or NULL */
    int area_fd;
    int area_child_fd;
    AgentArea *area;
    size_t area_size;
    bool handed_over;     /* the child's descriptors belong to the launcher */
    pid_t pid;            /* once attached */
};

/* ---- files ------------------------------------------------------------- */

/* MFD_HUGETLB with the page size in the flags, as memfd_create wants it. */
static unsigned huge_flags(uint64_t page_size)
{
    unsigned flags = MFD_HUGETLB;

    if (page_size > 1) {
        flags |= (unsigned)__builtin_ctzll(page_size) << MAP_HUGE_SHIFT;
    }
    return flags;
}

static int open_anonymous(const EmuRam *plan, uint64_t hugetlb, GError **errp)
{
    int fd = memfd_create("guest-ram", MFD_CLOEXEC |
                          (hugetlb ? huge_flags(hugetlb) : 0));

    if (fd < 0 || ftruncate(fd, plan->size) < 0) {
        error_set_errno(errp, errno, "%" G_GUINT64_FORMAT " bytes of RAM for "
                        "memory backend '%s'", plan->size, plan->id);
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

/* The file of the user's backend, made as QEMU would make it. */
static int open_named(const EmuRam *plan, GError **errp)
{
    int fd = open(plan->path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 ||
        ((uint64_t)st.st_size < plan->size && ftruncate(fd, plan->size) < 0)) {
        error_set_errno(errp, errno, "memory backend '%s': %s", plan->id,
                        plan->path);
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

/* mem-path of a folder means a file without a name in it: what the sidecar
 * makes instead has the same pages. */
static int open_in_folder(const EmuRam *plan, GError **errp)
{
    struct statfs fs;

    if (statfs(plan->path, &fs) < 0) {
        error_set_errno(errp, errno, "memory backend '%s': %s", plan->id,
                        plan->path);
        return -1;
    }
    return open_anonymous(plan, fs.f_type == HUGETLBFS_MAGIC ? fs.f_bsize : 0,
                          errp);
}

static bool block_open(Block *b, const EmuRam *plan, GError **errp)
{
    void *host;

    b->plan = plan;
    b->b.id = plan->id;
    b->b.length = plan->size;
    b->b.device = plan->device;
    if (!plan->path) {
        b->b.fd = open_anonymous(plan, plan->hugetlb, errp);
    } else if (g_file_test(plan->path, G_FILE_TEST_IS_DIR)) {
        b->b.fd = open_in_folder(plan, errp);
    } else {
        b->b.fd = open_named(plan, errp);
        b->own_path = true;
    }
    if (b->b.fd < 0) {
        return false;
    }
    host = mmap(NULL, plan->size, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_NORESERVE, b->b.fd, 0);
    if (host == MAP_FAILED) {
        error_set_errno(errp, errno, "memory backend '%s': mmap of %"
                        G_GUINT64_FORMAT " bytes", plan->id, plan->size);
        return false;
    }
    madvise(host, plan->size, MADV_DONTDUMP);
    madvise(host, plan->size, MADV_DONTFORK);
    b->b.host = host;
    if (!b->own_path) {
        b->child_fd = fcntl(b->b.fd, F_DUPFD_CLOEXEC, 3);
    }
    return true;
}

static void block_close(Block *b)
{
    if (b->b.host) {
        munmap(b->b.host, b->b.length);
    }
    if (b->b.fd >= 0) {
        close(b->b.fd);
    }
}

/* ---- the agent ------------------------------------------------------------ */

static char *find_agent(void)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *folder = self ? g_path_get_dirname(self) : NULL;
    g_autofree char *beside = folder ?
        g_build_filename(folder, "qemu-sidecar-agent.so", NULL) : NULL;
    g_autofree char *installed = folder ?
        g_build_filename(folder, "../lib/qemu-sidecar/qemu-sidecar-agent.so",
                         NULL) : NULL;
    const char *paths[] = {beside, installed, CONFIG_PREFIX
                           "/lib/qemu-sidecar/qemu-sidecar-agent.so"};

    for (size_t i = 0; i < G_N_ELEMENTS(paths); i++) {
        if (paths[i] && !access(paths[i], R_OK)) {
            /* LD_PRELOAD separates by blanks and colons */
            return strpbrk(paths[i], " :") ? NULL : g_strdup(paths[i]);
        }
    }
    return NULL;
}

static uint64_t bitmap_bytes(const Block *b)
{
    return ((b->b.length >> PAGE_SHIFT) + 63) / 64 * 8;
}

static void fill_area(GuestRam *ram)
{
    uint64_t at = sizeof(AgentArea) + ram->n_blocks * sizeof(AgentRange);

    ram->area->magic = AGENT_MAGIC;
    ram->area->version = AGENT_VERSION;
    ram->area->size = ram->area_size;
    ram->area->n_ranges = ram->n_blocks;
    for (size_t i = 0; i < ram->n_blocks; i++) {
        const Block *b = &ram->blocks[i];
        struct stat st = { 0 };

        fstat(b->b.fd, &st);
        ram->area->range[i] = (AgentRange) {
            .dev = st.st_dev,
            .ino = st.st_ino,
            .length = b->b.length,
            .page_shift = PAGE_SHIFT,
            .bitmap_offset = at,
        };
        at += bitmap_bytes(b);
    }
}

static bool make_area(GuestRam *ram, GError **errp)
{
    void *p;

    ram->area_size = sizeof(AgentArea) + ram->n_blocks * sizeof(AgentRange);
    for (size_t i = 0; i < ram->n_blocks; i++) {
        ram->area_size += bitmap_bytes(&ram->blocks[i]);
    }
    ram->area_fd = memfd_create("qemu-sidecar-agent", MFD_CLOEXEC);
    if (ram->area_fd < 0 || ftruncate(ram->area_fd, ram->area_size) < 0) {
        error_set_errno(errp, errno, "shared memory for the agent");
        return false;
    }
    p = mmap(NULL, ram->area_size, PROT_READ | PROT_WRITE, MAP_SHARED,
             ram->area_fd, 0);
    if (p == MAP_FAILED) {
        error_set_errno(errp, errno, "shared memory for the agent");
        return false;
    }
    ram->area = p;
    ram->area_child_fd = fcntl(ram->area_fd, F_DUPFD_CLOEXEC, 3);
    fill_area(ram);
    return true;
}

/* Which log there will be; never fails, because there is always the other. */
static void choose_log(GuestRam *ram, bool compare)
{
    g_autoptr(GError) error = NULL;

    if (compare) {
        ram->why_compare = g_strdup("--dirty-log=compare was given");
    } else if (!dirty_log_pagemap_probe(&error)) {
        ram->why_compare = g_strdup(error->message);
    } else if (ram->n_blocks > AGENT_MAX_RANGES) {
        ram->why_compare = g_strdup("too many memory backends");
    } else if (!(ram->agent = find_agent())) {
        ram->why_compare = g_strdup("qemu-sidecar-agent.so is not installed");
    } else if (!make_area(ram, &error)) {
        ram->why_compare = g_strdup(error->message);
        g_clear_pointer(&ram->agent, g_free);
    }
}

/* ---- the interface ----------------------------------------------------------- */

GuestRam *guest_ram_open(const EmuCmdline *cl, bool compare, GError **errp)
{
    GuestRam *ram;

    if (!cl->ram->len) {
        return NULL;
    }
    ram = g_new0(GuestRam, 1);
    ram->area_fd = ram->area_child_fd = -1;
    ram->n_blocks = cl->ram->len;
    ram->blocks = g_new0(Block, ram->n_blocks);
    for (size_t i = 0; i < ram->n_blocks; i++) {
        ram->blocks[i].b.fd = ram->blocks[i].child_fd = -1;
    }
    for (size_t i = 0; i < ram->n_blocks; i++) {
        if (!block_open(&ram->blocks[i], g_ptr_array_index(cl->ram, i), errp)) {
            guest_ram_free(ram);
            return NULL;
        }
    }
    choose_log(ram, compare);
    return ram;
}

void guest_ram_free(GuestRam *ram)
{
    if (!ram) {
        return;
    }
    for (size_t i = 0; i < ram->n_blocks; i++) {
        block_close(&ram->blocks[i]);
        if (!ram->handed_over && ram->blocks[i].child_fd >= 0) {
            close(ram->blocks[i].child_fd);
        }
    }
    if (ram->area) {
        munmap(ram->area, ram->area_size);
    }
    if (ram->area_fd >= 0) {
        close(ram->area_fd);
    }
    if (!ram->handed_over && ram->area_child_fd >= 0) {
        close(ram->area_child_fd);
    }
    g_free(ram->agent);
    g_free(ram->why_compare);
    g_free(ram->blocks);
    g_free(ram);
}

int guest_ram_child_fd(void *ram_opaque, const EmuRam *plan)
{
    GuestRam *ram = ram_opaque;

    for (size_t i = 0; ram && i < ram->n_blocks; i++) {
        if (ram->blocks[i].plan == plan) {
            return ram->blocks[i].child_fd;
        }
    }
    return -1;
}

void guest_ram_child_fds(GuestRam *ram, GArray *fds)
{
    for (size_t i = 0; i < ram->n_blocks; i++) {
        if (ram->blocks[i].child_fd >= 0) {
            g_array_append_val(fds, ram->blocks[i].child_fd);
        }
    }
    if (ram->agent) {
        g_array_append_val(fds, ram->area_child_fd);
    }
    ram->handed_over = true;
}

char **guest_ram_environ(GuestRam *ram)
{
    g_autofree char *number = g_strdup_printf("%d", ram->area_child_fd);
    char **env = g_get_environ();
    const char *before = g_environ_getenv(env, "LD_PRELOAD");
    g_autofree char *preload = NULL;

    if (!ram->agent) {
        g_strfreev(env);
        return NULL;
    }
    preload = g_strjoin(" ", ram->agent, before, NULL);
    env = g_environ_setenv(env, AGENT_ENV_FD, number, TRUE);
    env = g_environ_setenv(env, AGENT_ENV_PRELOAD, before ? before : "", TRUE);
    return g_environ_setenv(env, "LD_PRELOAD", preload, TRUE);
}

void guest_ram_attach(GuestRam *ram, pid_t pid)
{
    ram->pid = pid;
    for (size_t i = 0; ram->agent && i < ram->n_blocks; i++) {
        AgentRange *r = &ram->area->range[i];
        uint32_t state = __atomic_load_n(&r->state, __ATOMIC_ACQUIRE);

        if (state != AGENT_REGISTERED) {
            ram->why_compare = state == AGENT_FAILED ?
                g_strdup_printf("QEMU's memory could not be registered: %s",
                                g_strerror(r->error)) :
                g_strdup("QEMU did not load qemu-sidecar-agent.so");
            g_clear_pointer(&ram->agent, g_free);
        }
    }
}

size_t guest_ram_n_blocks(const GuestRam *ram)
{
    return ram->n_blocks;
}

const GuestRamBlock *guest_ram_block(const GuestRam *ram, size_t i)
{
    return &ram->blocks[i].b;
}

DirtyLog *guest_ram_dirty_log(GuestRam *ram, size_t i, uint32_t page_size,
                              bool compare, GError **errp)
{
    const Block *b = &ram->blocks[i];
    const AgentRange *r = ram->agent && !compare ? &ram->area->range[i] : NULL;

    if (!r || page_size != 1u << PAGE_SHIFT) {
        return dirty_log_new_compare(b->b.host, b->b.fd, b->b.length,
                                     page_size, errp);
    }
    return dirty_log_new_pagemap(ram->pid, r->address, b->b.length, page_size,
                                 (uint64_t *)((char *)ram->area +
                                              r->bitmap_offset), errp);
}

const char *guest_ram_log_kind(const GuestRam *ram, const char **why)
{
    *why = ram->why_compare;
    return ram->agent ? "pagemap" : "compare";
}
