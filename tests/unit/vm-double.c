/*
 * See vm-double.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "vm-double.h"

#include "block-test.h"
#include "emulator/drives.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE (120 * G_USEC_PER_SEC)

/* ---- the main context ------------------------------------------------------------ */

static gboolean on_tick(void *opaque)
{
    return G_SOURCE_CONTINUE;
}

void vm_turn(void)
{
    guint tick = g_timeout_add(2, on_tick, NULL);

    g_main_context_iteration(NULL, TRUE);
    g_source_remove(tick);
}

void vm_wait(Vm *vm, VmCondition *condition, const char *what)
{
    gint64 until = g_get_monotonic_time() + PATIENCE;

    while (!condition(vm)) {
        vm_turn();
        if (g_get_monotonic_time() > until) {
            g_error("waited too long for %s", what);
        }
    }
}

typedef struct {
    void (*function)(void *opaque);
    void *opaque;
    bool done;
} Aside;

static void *aside_thread(void *opaque)
{
    Aside *aside = opaque;

    aside->function(aside->opaque);
    __atomic_store_n(&aside->done, true, __ATOMIC_RELEASE);
    return NULL;
}

void vm_on_thread(void (*function)(void *opaque), void *opaque)
{
    Aside aside = { function, opaque, false };
    gint64 until = g_get_monotonic_time() + PATIENCE;
    pthread_t thread;

    pthread_create(&thread, NULL, aside_thread, &aside);
    while (!__atomic_load_n(&aside.done, __ATOMIC_ACQUIRE)) {
        vm_turn();
        g_assert_cmpint(g_get_monotonic_time(), <, until);
    }
    pthread_join(thread, NULL);
}

/* ---- a VM --------------------------------------------------------------------------- */

static void on_running(void *opaque)
{
    ((Vm *)opaque)->started = true;
}

static void on_exited(void *opaque, int wait_status)
{
    g_assert_not_reached(); /* there is no process */
}

/* Users see a stop and a resume in turn, never two of a kind. */
static void on_event(void *opaque, json_object *event)
{
    Vm *vm = opaque;
    const char *name =
        json_object_get_string(json_object_object_get(event, "event"));
    bool resume = !strcmp(name, "RESUME");

    g_assert_true(resume || !strcmp(name, "STOP"));
    g_assert_cmpint(resume, !=, vm->shown_running);
    vm->shown_running = resume;
}

static void on_status(void *opaque, MigrationStatus status)
{
    Vm *vm = opaque;
    static const char letters[] = {
        [MIGRATION_STATUS_NONE] = '?',
        [MIGRATION_STATUS_SETUP] = 's',
        [MIGRATION_STATUS_ACTIVE] = 'a',
        [MIGRATION_STATUS_DEVICE] = 'd',
        [MIGRATION_STATUS_CANCELLING] = 'x',
        [MIGRATION_STATUS_CANCELLED] = 'X',
        [MIGRATION_STATUS_COMPLETED] = 'C',
        [MIGRATION_STATUS_FAILED] = 'F',
    };

    pthread_mutex_lock(&vm->lock);
    g_string_append_c(vm->statuses, letters[status]);
    pthread_mutex_unlock(&vm->lock);
}

static void make_machine(Vm *vm, const char *image, bool incoming)
{
    g_autofree char *drive =
        g_strdup_printf("file=%s,format=raw,if=virtio,id=d", image);
    const char *argv[] = {
        "qemu", "-nodefaults", "-m", "1", "-drive", drive,
        incoming ? "-S" : NULL, "-incoming", "defer", NULL,
    };
    g_autoptr(GError) error = NULL;

    vm->cl = emu_cmdline_parse(argv);
    emu_cmdline_plan(vm->cl, &error);
    g_assert_no_error(error);
    vm->ram = guest_ram_open(vm->cl, true, &error);
    g_assert_no_error(error);
    guest_ram_attach(vm->ram, getpid()); /* with no agent: the comparing log */
    vm->block = block_context_new();
    emu_open_drives(vm->cl, vm->block, &error);
    g_assert_no_error(error);
    vm->drive = blk_by_name(vm->block, "d");
}

static bool has_started(Vm *vm)
{
    return vm->started;
}

Vm *vm_new(const char *image, bool incoming, unsigned writers)
{
    static const EmuHandlers handlers = { on_running, on_exited };
    static uint32_t seed;
    Vm *vm = g_new0(Vm, 1);
    const GuestRamBlock *block;

    pthread_mutex_init(&vm->lock, NULL);
    vm->statuses = g_string_new(NULL);
    vm->shown_running = !incoming;
    make_machine(vm, image, incoming);
    vm->emu = emu_new(&handlers, vm, NULL);
    emu_set_drives(vm->emu, vm->block, "unused");
    emu_add_event_listener(vm->emu, on_event, vm);
    vm->mgr = migration_manager_new(&(MigrationConfig) {
        .emu = vm->emu, .ram = vm->ram, .block = vm->block, .cl = vm->cl,
        .on_status = on_status, .opaque = vm,
    });
    block = guest_ram_block(vm->ram, 0);
    if (!incoming) {
        block_test_fill(block->host, block->length, seed);
    }
    vm->q = fake_qemu_new(&(FakeQemuConfig) {
        .fd = emu_qmp_child_fd(vm->emu), .ram = block->host,
        .ram_size = block->length, .drive = vm->drive, .incoming = incoming,
        .paused = incoming, .writers = writers, .seed = seed += 100,
    });
    vm_wait(vm, has_started, "the double of QEMU");
    return vm;
}

void vm_free(Vm *vm)
{
    if (!vm) {
        return;
    }
    migration_manager_free(vm->mgr);
    fake_qemu_free(vm->q);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    emu_free(vm->emu);
    block_context_free(vm->block);
    guest_ram_free(vm->ram);
    emu_cmdline_free(vm->cl);
    pthread_mutex_destroy(&vm->lock);
    g_string_free(vm->statuses, TRUE);
    g_free(vm->refused);
    g_free(vm);
}

/* ---- users ----------------------------------------------------------------------------- */

typedef struct {
    Vm *vm;
    bool (*command)(MigrationManager *m, GError **errp);
    bool ok;
} UserCommand;

static void run_user_command(void *opaque)
{
    UserCommand *u = opaque;
    g_autoptr(GError) error = NULL;

    u->ok = u->command(u->vm->mgr, &error);
    g_assert_cmpint(u->ok, ==, error == NULL);
    if (error) {
        g_test_message("%s", error->message);
    }
}

bool vm_stop(Vm *vm)
{
    UserCommand u = { vm, migration_stop, false };

    vm_on_thread(run_user_command, &u);
    return u.ok;
}

bool vm_cont(Vm *vm)
{
    UserCommand u = { vm, migration_cont, false };

    vm_on_thread(run_user_command, &u);
    return u.ok;
}

/* ---- what must be so ---------------------------------------------------------------------- */

static bool shown_is_true(Vm *vm)
{
    return vm->shown_running == fake_qemu_running(vm->q);
}

void vm_check_shown(Vm *vm)
{
    vm_wait(vm, shown_is_true, "events that say how it is");
}

void vm_check_runs(Vm *vm)
{
    g_assert_true(fake_qemu_running(vm->q));
    vm_check_shown(vm);
    fake_qemu_wait_guest(vm->q, 20);
    g_assert_cmpuint(fake_qemu_disk_errors(vm->q), ==, 0);
}

/* It has, and that has been said. */
static bool has_ended(Vm *vm)
{
    MigrationInfo info;
    bool said;

    migration_query(vm->mgr, &info);
    migration_info_clear(&info);
    pthread_mutex_lock(&vm->lock);
    said = vm->statuses->len && strchr("XCF", vm->statuses->str[vm->statuses->len - 1]);
    pthread_mutex_unlock(&vm->lock);
    return said && info.status >= MIGRATION_STATUS_CANCELLED;
}

/* In the order that migration.c promises, whatever happened. */
static void check_statuses(Vm *vm)
{
    static GRegex *order;

    if (!order) {
        order = g_regex_new("^(s(ad?)?(x[XC]|[CF])?)*$", 0, 0, NULL);
    }
    pthread_mutex_lock(&vm->lock);
    if (!g_regex_match(order, vm->statuses->str, 0, NULL)) {
        g_error("statuses: %s", vm->statuses->str);
    }
    pthread_mutex_unlock(&vm->lock);
}

MigrationStatus vm_wait_outgoing(Vm *vm)
{
    MigrationInfo info;

    vm_wait(vm, has_ended, "the end of a migration");
    migration_query(vm->mgr, &info);
    g_assert_cmpint(info.status == MIGRATION_STATUS_FAILED, ==,
                    info.error_desc != NULL);
    if (info.error_desc) {
        g_test_message("%s", info.error_desc);
    }
    migration_info_clear(&info);
    check_statuses(vm);
    return info.status;
}

static bool has_arrived(Vm *vm)
{
    return vm->arrived;
}

void vm_wait_incoming(Vm *vm)
{
    vm_wait(vm, has_arrived, "the end of an incoming migration");
}

void vm_check_same(Vm *a, Vm *b)
{
    const GuestRamBlock *ra = guest_ram_block(a->ram, 0);
    const GuestRamBlock *rb = guest_ram_block(b->ram, 0);
    size_t size;
    const uint8_t *va = fake_qemu_vram(a->q, &size);
    const uint8_t *vb = fake_qemu_vram(b->q, &size);

    g_assert_false(fake_qemu_running(a->q));
    g_assert_false(fake_qemu_running(b->q));
    for (uint64_t at = 0; at < ra->length; at += 4096) {
        if (memcmp(ra->host + at, rb->host + at, 4096)) {
            g_error("page %#" G_GINT64_MODIFIER "x differs", at / 4096);
        }
    }
    g_assert_cmpmem(va, size, vb, size);
    g_assert_cmpuint(fake_qemu_register(a->q), ==, fake_qemu_register(b->q));
}

/* ---- cables --------------------------------------------------------------------------------- */

struct Cable {
    pthread_t thread;
    int ends[2];    /* of ours: towards the source, towards the destination */
    int64_t limit;
    bool stall;
    int quit[2];    /* a pipe */
    bool cut;       /* atomic */
    int64_t passed; /* atomic */
};

/* Until @fd is readable; false: quit. */
static bool readable(Cable *c, struct pollfd *p, nfds_t n)
{
    p[n] = (struct pollfd) { .fd = c->quit[0], .events = POLLIN };
    while (poll(p, n + 1, -1) < 0 && errno == EINTR) {
    }
    return !p[n].revents;
}

/* False: it is over for this direction. */
static bool pass(int from, int to, size_t most, size_t *passed)
{
    char buf[16384];
    ssize_t n = recv(from, buf, MIN(most, sizeof(buf)), MSG_DONTWAIT);
    ssize_t done = 0;

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    while (to >= 0 && done < n) {
        ssize_t sent = send(to, buf + done, n - done, MSG_NOSIGNAL);

        if (sent < 0 && errno != EINTR) {
            return false;
        }
        done += MAX(sent, 0);
    }
    *passed += MAX(n, 0);
    return n > 0;
}

static bool is_at_limit(const Cable *c)
{
    return c->limit >= 0 && c->passed >= c->limit;
}

static void pass_answer(Cable *c)
{
    size_t ignored = 0;

    while (c->ends[1] >= 0) {
        struct pollfd p[2] = { { .fd = c->ends[1], .events = POLLIN } };

        if (!readable(c, p, 1) ||
            !pass(c->ends[1], c->ends[0], SIZE_MAX, &ignored)) {
            break;
        }
    }
}

static void *cable_thread(void *opaque)
{
    Cable *c = opaque;
    bool more = true;

    while (more && !is_at_limit(c)) {
        struct pollfd p[3] = {
            { .fd = c->ends[0], .events = POLLIN },
            { .fd = c->ends[1], .events = POLLIN },
        };
        size_t passed = 0, ignored = 0;

        if (!readable(c, p, 2)) {
            break;
        }
        if (p[1].revents && !pass(c->ends[1], c->ends[0], SIZE_MAX, &ignored)) {
            break;
        }
        if (p[0].revents) {
            more = pass(c->ends[0], c->ends[1],
                        c->limit < 0 ? SIZE_MAX : (size_t)(c->limit - c->passed),
                        &passed);
        }
        __atomic_fetch_add(&c->passed, passed, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&c->cut, is_at_limit(c), __ATOMIC_RELEASE);
    if (!more && c->ends[1] >= 0) {
        shutdown(c->ends[1], SHUT_WR);
        pass_answer(c);
    }
    if (c->cut && c->stall) {
        struct pollfd p[1];

        readable(c, p, 0);
    }
    close(c->ends[0]);
    if (c->ends[1] >= 0) {
        close(c->ends[1]);
    }
    return NULL;
}

static int make_end(Cable *c, int i)
{
    int sv[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    c->ends[i] = sv[0];
    return sv[1];
}

static Cable *cable_start(Cable *c)
{
    g_assert_cmpint(pipe2(c->quit, O_CLOEXEC), ==, 0);
    pthread_create(&c->thread, NULL, cable_thread, c);
    return c;
}

Cable *cable_new(int ends[2], int64_t limit, bool stall)
{
    Cable *c = g_new0(Cable, 1);

    c->limit = limit;
    c->stall = stall;
    ends[0] = make_end(c, 0);
    ends[1] = make_end(c, 1);
    return cable_start(c);
}

Cable *cable_to_nobody(int *end)
{
    Cable *c = g_new0(Cable, 1);

    c->limit = c->ends[1] = -1;
    *end = make_end(c, 0);
    return cable_start(c);
}

bool cable_was_cut(Cable *c)
{
    return __atomic_load_n(&c->cut, __ATOMIC_ACQUIRE);
}

int64_t cable_passed(Cable *c)
{
    return __atomic_load_n(&c->passed, __ATOMIC_ACQUIRE);
}

void cable_free(Cable *c)
{
    if (!c) {
        return;
    }
    close(c->quit[1]);
    pthread_join(c->thread, NULL);
    close(c->quit[0]);
    g_free(c);
}
