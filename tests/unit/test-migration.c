/*
 * The migration manager, both ends of it in one process, beside doubles of QEMU
 * whose guests write to memory and disk all the time.
 *
 * Whatever goes wrong, one of two things is so at the end: the guest is at the
 * destination with every byte that it had, or it goes on at the source with its
 * drives, and the next attempt succeeds.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "vm-double.h"

#include "block-test.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

#define IMAGE (256 * 1024)
#define WRITERS 2

static char *folder, *image, *copy; /* paths; copy: of the destination, with -b */
static unsigned effort = 1; /* more rounds */

typedef struct {
    Vm *src, *dst;
    bool copies;         /* -b: the destination has an image of its own */
    MigrationParameters params;
} Pair;

/* ---- two VMs ----------------------------------------------------------------------- */

static void new_destination(Pair *p)
{
    vm_free(p->dst);
    p->dst = vm_new(p->copies ? copy : image, true, WRITERS);
}

static void set_parameters(Pair *p)
{
    g_assert_true(migration_set_parameters(p->src->mgr, &p->params, NULL));
}

static void pair_open(Pair *p, bool copies)
{
    *p = (Pair) { .copies = copies };
    block_test_file_new(image, IMAGE, 1);
    block_test_file_new(copy, IMAGE, 2);
    p->src = vm_new(image, false, WRITERS);
    migration_get_parameters(p->src->mgr, &p->params);
    p->params.max_bandwidth = 0;
    set_parameters(p);
    new_destination(p);
}

static void pair_close(Pair *p)
{
    g_clear_pointer(&p->src, vm_free);
    g_clear_pointer(&p->dst, vm_free);
    g_unlink(image);
    g_unlink(copy);
}

static void on_done(void *opaque, const GError *error)
{
    Vm *vm = opaque;

    vm->refused = error ? g_strdup(error->message) : NULL;
    vm->arrived = true;
    if (error) {
        g_test_message("destination: %s", error->message);
    }
}

/* Both ends, with @limit bytes to come through. */
static Cable *start(Pair *p, int64_t limit, bool stall)
{
    g_autoptr(GError) error = NULL;
    int ends[2];
    Cable *cable = cable_new(ends, limit, stall);

    g_assert_true(migration_incoming(p->dst->mgr, "fd:in", ends[1], on_done,
                                     p->dst, &error));
    g_assert_true(migration_start(p->src->mgr, "fd:out", ends[0],
                                  p->copies ? MIGRATION_BLK : 0, &error));
    return cable;
}

static void check_image(Pair *p)
{
    g_autofree char *a = NULL, *b = NULL;
    size_t na, nb;

    if (p->copies) {
        g_assert_true(g_file_get_contents(image, &a, &na, NULL));
        g_assert_true(g_file_get_contents(copy, &b, &nb, NULL));
        g_assert_cmpmem(a, na, b, nb);
    }
}

static void check_drive_is_away(Vm *vm)
{
    char sector[512];

    g_assert_cmpint(blk_pread(vm->drive, 0, sizeof(sector), sector), ==, -ENOMEDIUM);
}

/* Everything is there; and it goes on from there, and only from there. */
static void check_arrived(Pair *p)
{
    vm_wait_incoming(p->dst);
    g_assert_cmpstr(p->dst->refused, ==, NULL);
    vm_check_same(p->src, p->dst);
    vm_check_shown(p->src);
    vm_check_shown(p->dst);
    check_drive_is_away(p->src);
    check_image(p);
    g_assert_true(vm_cont(p->dst));
    vm_check_runs(p->dst);
    if (!p->copies) { /* its image is in use elsewhere */
        g_assert_false(vm_cont(p->src));
    }
    g_assert_false(fake_qemu_running(p->src->q));
    g_assert_cmpuint(fake_qemu_disk_errors(p->src->q), ==, 0);
}

static void migrate_whole(Pair *p)
{
    Cable *cable;

    new_destination(p);
    fake_qemu_arm(p->src->q, FAKE_OBEY, 0, 0);
    fake_qemu_arm(p->dst->q, FAKE_OBEY, 0, 0);
    cable = start(p, -1, false);
    g_assert_cmpint(vm_wait_outgoing(p->src), ==, MIGRATION_STATUS_COMPLETED);
    check_arrived(p);
    cable_free(cable);
}

/* The other one is gone (with what it had), and the guest goes on at the source
 * from where it was.  Then for another attempt. */
static void back_to_the_source(Pair *p)
{
    g_clear_pointer(&p->dst, vm_free);
    g_assert_true(vm_cont(p->src));
    vm_check_runs(p->src);
}

/* ---- it works ---------------------------------------------------------------------- */

static void everything_arrives(gconstpointer copies)
{
    Pair p;

    pair_open(&p, copies != NULL);
    for (unsigned i = 0; i < 3 * effort; i++) {
        p.params.xbzrle = i % 2;
        set_parameters(&p);
        migrate_whole(&p);
        back_to_the_source(&p);
    }
    pair_close(&p);
}

/* It goes to and fro, each time into a new VM. */
static void to_and_fro(void)
{
    Pair p;

    pair_open(&p, false);
    for (unsigned i = 0; i < 6 * effort; i++) {
        migrate_whole(&p);
        vm_free(p.src);
        p.src = g_steal_pointer(&p.dst);
        set_parameters(&p);
    }
    pair_close(&p);
}

static void a_paused_guest_stays_paused(void)
{
    Pair p;
    Cable *cable;

    pair_open(&p, false);
    for (int i = 0; i < 3; i++) {
        g_assert_true(vm_stop(p.src));
        new_destination(&p);
        cable = start(&p, i == 1 ? 50 * 1000 : -1, false);
        if (i == 1) { /* its devices are known by now and still right */
            g_assert_cmpint(vm_wait_outgoing(p.src), ==, MIGRATION_STATUS_FAILED);
            g_assert_false(fake_qemu_running(p.src->q));
            vm_check_shown(p.src);
        } else {
            g_assert_cmpint(vm_wait_outgoing(p.src), ==,
                            MIGRATION_STATUS_COMPLETED);
            check_arrived(&p);
        }
        cable_free(cable);
        if (i != 1) {
            back_to_the_source(&p);
        }
    }
    pair_close(&p);
}

static bool has_rounds(Vm *vm)
{
    MigrationInfo info;

    migration_query(vm->mgr, &info);
    migration_info_clear(&info);
    return info.ram.dirty_sync_count > 3 || info.status >= MIGRATION_STATUS_DEVICE;
}

/* The cache grows and shrinks while pages go through it. */
static void a_cache_of_all_sizes(void)
{
    static const uint64_t sizes[] = { 4096, 64 << 10, 3 << 20, 64 << 20, 9000 };
    uint64_t lookups = 0;
    Pair p;

    pair_open(&p, false);
    p.params.xbzrle = true;
    /* one may be over before the guest gets to write a page twice */
    for (unsigned i = 0; i < 2 * effort || !lookups; i++) {
        Cable *cable;
        MigrationInfo info;

        new_destination(&p);
        p.params.downtime_limit = 0;
        p.params.max_bandwidth = 4 << 20; /* the first round takes a while */
        set_parameters(&p);
        cable = start(&p, -1, false);
        for (size_t k = 0; k < 60; k++) {
            p.params.xbzrle_cache_size = sizes[k % G_N_ELEMENTS(sizes)];
            set_parameters(&p);
            vm_turn();
            g_usleep(5000);
        }
        vm_wait(p.src, has_rounds, "rounds");
        p.params.downtime_limit = 2000;
        set_parameters(&p);
        g_assert_cmpint(vm_wait_outgoing(p.src), ==, MIGRATION_STATUS_COMPLETED);
        migration_query(p.src->mgr, &info);
        migration_info_clear(&info);
        lookups += info.ram.cache_lookup;
        g_assert_cmpuint(i, <, 100 * effort);
        check_arrived(&p);
        cable_free(cable);
        back_to_the_source(&p);
    }
    pair_close(&p);
}

/* ---- QEMU fails -------------------------------------------------------------------- */

/* How many commands a migration has, at the one end or the other. */
static unsigned count_commands(Pair *p, bool incoming)
{
    Vm *vm = incoming ? p->dst : p->src;
    unsigned n;

    Cable *cable = start(p, -1, false);
    fake_qemu_arm(vm->q, FAKE_OBEY, 0, 0);
    g_assert_cmpint(vm_wait_outgoing(p->src), ==, MIGRATION_STATUS_COMPLETED);
    vm_wait_incoming(p->dst);
    n = fake_qemu_commands(vm->q);
    check_arrived(p);
    cable_free(cable);
    back_to_the_source(p);
    return n;
}

static bool may_succeed(FakeConduct conduct, const char *picked)
{
    bool migrate = !strcmp(picked, "migrate");

    return conduct == FAKE_LATE || conduct == FAKE_HOLD ||
        ((conduct == FAKE_BREAK || conduct == FAKE_DIE_INSIDE) && !migrate);
}

/* The source's QEMU is there and did not do what it was told. */
static void check_source_goes_on(Pair *p, bool was_running)
{
    bool refused = !strcmp(fake_qemu_picked(p->src->q), "cont");
    bool running = fake_qemu_running(p->src->q);

    vm_check_shown(p->src);
    if (refused && !running) { /* nobody can help it but the user */
        g_assert_true(vm_cont(p->src));
        running = true;
    }
    g_assert_cmpint(running, ==, was_running);
    if (running) {
        vm_check_runs(p->src);
    }
}

static void source_fails_at(Pair *p, FakeConduct conduct, unsigned nth,
                            unsigned part)
{
    MigrationStatus status;
    Cable *cable;
    g_autofree char *picked = NULL;

    new_destination(p);
    fake_qemu_arm(p->src->q, conduct, nth, part);
    cable = start(p, -1, false);
    status = vm_wait_outgoing(p->src);
    picked = g_strdup(fake_qemu_picked(p->src->q));
    g_test_message("%s (%u) with conduct %d, %u: %s", picked, nth, conduct, part,
                   migration_status_name(status));
    vm_wait_incoming(p->dst);
    if (status == MIGRATION_STATUS_COMPLETED) {
        g_assert_true(may_succeed(conduct, picked));
        check_arrived(p);
        cable_free(cable);
        back_to_the_source(p);
        return;
    }
    g_assert_cmpint(status, ==, MIGRATION_STATUS_FAILED);
    g_assert_false(may_succeed(conduct, picked));
    g_assert_nonnull(p->dst->refused);
    g_assert_false(fake_qemu_running(p->dst->q));
    cable_free(cable);
    if (fake_qemu_dead(p->src->q)) {
        pair_close(p);
        pair_open(p, p->copies);
        return;
    }
    check_source_goes_on(p, true);
    migrate_whole(p); /* with nothing stale */
    back_to_the_source(p);
}

static void each_command_fails(gconstpointer copies)
{
    static const FakeConduct conducts[] = {
        FAKE_REFUSE, FAKE_LATE, FAKE_DIE, FAKE_DIE_AFTER,
    };
    unsigned n;
    Pair p;

    pair_open(&p, copies != NULL);
    count_commands(&p, false); /* the first has more */
    new_destination(&p);
    n = count_commands(&p, false);
    g_assert_cmpuint(n, >, 10);
    for (unsigned nth = 0; nth < n; nth++) {
        for (size_t i = 0; i < G_N_ELEMENTS(conducts); i++) {
            source_fails_at(&p, conducts[i], nth, 0);
        }
    }
    pair_close(&p);
}

/* Both times that devices are saved: none, some, nearly all of them come. */
static void the_stream_of_devices_fails(void)
{
    static const unsigned parts[] = { 0, 1, 100, 254, 256 };
    unsigned n;
    Pair p;

    pair_open(&p, false);
    n = count_commands(&p, false);
    for (unsigned nth = 0; nth < n; nth++) {
        source_fails_at(&p, FAKE_HOLD, nth, 0);
        if (strcmp(fake_qemu_picked(p.src->q), "migrate")) {
            continue;
        }
        for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
            source_fails_at(&p, FAKE_BREAK, nth, parts[i]);
            source_fails_at(&p, FAKE_DIE_INSIDE, nth, parts[i]);
        }
    }
    pair_close(&p);
}

static void destination_fails_at(Pair *p, FakeConduct conduct, unsigned nth)
{
    MigrationStatus status;
    Cable *cable;

    new_destination(p);
    fake_qemu_arm(p->dst->q, conduct, nth, 0);
    cable = start(p, -1, false);
    status = vm_wait_outgoing(p->src);
    vm_wait_incoming(p->dst);
    g_test_message("%s (%u) with conduct %d: %s", fake_qemu_picked(p->dst->q), nth,
                   conduct, migration_status_name(status));
    g_assert_cmpint(status == MIGRATION_STATUS_COMPLETED, ==,
                    p->dst->refused == NULL);
    g_assert_cmpint(status == MIGRATION_STATUS_COMPLETED, ==,
                    conduct == FAKE_LATE);
    if (status == MIGRATION_STATUS_COMPLETED) {
        check_arrived(p);
        back_to_the_source(p);
    } else {
        vm_check_runs(p->src);
    }
    cable_free(cable);
    migrate_whole(p);
    back_to_the_source(p);
}

static void the_destination_fails(void)
{
    static const FakeConduct conducts[] = {
        FAKE_REFUSE, FAKE_LATE, FAKE_DIE, FAKE_DIE_AFTER,
    };
    unsigned n;
    Pair p;

    pair_open(&p, false);
    n = count_commands(&p, true);
    g_assert_cmpuint(n, >, 3);
    for (unsigned nth = 0; nth < n; nth++) {
        for (size_t i = 0; i < G_N_ELEMENTS(conducts); i++) {
            destination_fails_at(&p, conducts[i], nth);
        }
    }
    pair_close(&p);
}

/* ---- the connection fails ----------------------------------------------------------- */

/* What is so after any break: one of the two has the guest. */
static void check_one_has_it(Pair *p, MigrationStatus status)
{
    vm_wait_incoming(p->dst);
    if (status == MIGRATION_STATUS_COMPLETED) {
        check_arrived(p);
        back_to_the_source(p);
        return;
    }
    g_assert_nonnull(p->dst->refused);
    g_assert_false(fake_qemu_running(p->dst->q));
    vm_check_runs(p->src);
}

static int64_t length_of_stream(Pair *p)
{
    Cable *cable = start(p, -1, false);
    int64_t length;

    g_assert_cmpint(vm_wait_outgoing(p->src), ==, MIGRATION_STATUS_COMPLETED);
    check_arrived(p);
    length = cable_passed(cable);
    cable_free(cable);
    back_to_the_source(p);
    return length;
}

static int64_t some_byte(int64_t length)
{
    switch (g_test_rand_int_range(0, 4)) {
    case 0:
        return g_test_rand_int_range(0, 200);
    case 1: /* devices */
        return length - g_test_rand_int_range(0, 200 * 1000);
    default:
        return g_test_rand_int_range(0, length);
    }
}

static void cut_at_any_byte(gconstpointer copies)
{
    int64_t length;
    Pair p;

    pair_open(&p, copies != NULL);
    length = length_of_stream(&p);
    for (unsigned i = 0; i < 40 * effort; i++) {
        MigrationStatus status;
        Cable *cable;

        new_destination(&p);
        cable = start(&p, some_byte(length), false);
        status = vm_wait_outgoing(p.src);
        g_assert_true(status == MIGRATION_STATUS_COMPLETED ?
                      !cable_was_cut(cable) : status == MIGRATION_STATUS_FAILED);
        check_one_has_it(&p, status);
        cable_free(cable);
    }
    migrate_whole(&p);
    pair_close(&p);
}

/* ---- users ---------------------------------------------------------------------------- */

static unsigned awaited; /* commands */

static bool has_commands(Vm *vm)
{
    return fake_qemu_commands(vm->q) >= awaited || fake_qemu_dead(vm->q);
}

static bool has_ended_or_commands(Vm *vm)
{
    MigrationInfo info;

    migration_query(vm->mgr, &info);
    migration_info_clear(&info);
    return info.status >= MIGRATION_STATUS_CANCELLED || has_commands(vm);
}

static void cancelled_anywhere(gconstpointer copies)
{
    Pair p;

    pair_open(&p, copies != NULL);
    for (unsigned i = 0; i < 50 * effort; i++) {
        bool stall = g_test_rand_int_range(0, 3) == 0;
        MigrationStatus status;
        Cable *cable;

        new_destination(&p);
        fake_qemu_arm(p.src->q, FAKE_LATE, g_test_rand_int_range(0, 16), 0);
        cable = start(&p, stall ? g_test_rand_int_range(0, 100 * 1000) : -1, true);
        awaited = stall ? 100 : g_test_rand_int_range(0, 16);
        while (!cable_was_cut(cable) && !has_ended_or_commands(p.src)) {
            g_main_context_iteration(NULL, FALSE);
            g_usleep(100);
        }
        g_usleep(g_test_rand_int_range(0, 2000)); /* any point will do */
        migration_cancel(p.src->mgr);
        status = vm_wait_outgoing(p.src);
        g_test_message("%s", migration_status_name(status));
        g_assert_true(status == MIGRATION_STATUS_CANCELLED ||
                      status == MIGRATION_STATUS_COMPLETED);
        if (status == MIGRATION_STATUS_CANCELLED) {
            vm_check_runs(p.src);
        } else if (!stall) {
            check_one_has_it(&p, status);
        } else { /* all of it was on its way */
            back_to_the_source(&p);
        }
        cable_free(cable);
    }
    migrate_whole(&p);
    pair_close(&p);
}

typedef struct {
    Vm *vm;
    uint32_t seed;
    pthread_t thread;
    GPtrArray *cables;
    bool done; /* atomic */
} User;

static void start_to_nobody(User *u)
{
    int fd;
    Cable *cable = cable_to_nobody(&fd);

    g_ptr_array_add(u->cables, cable);
    migration_start(u->vm->mgr, "fd:x", fd, 0, NULL); /* has the fd in any case */
}

static void some_command(User *u, GRand *r)
{
    MigrationManager *m = u->vm->mgr;
    MigrationParameters params;
    MigrationInfo info;

    switch (g_rand_int_range(r, 0, 8)) {
    case 0:
        migration_stop(m, NULL);
        break;
    case 1:
    case 2:
        migration_cont(m, NULL);
        break;
    case 3:
    case 4:
        start_to_nobody(u);
        break;
    case 5:
        migration_cancel(m);
        break;
    case 6:
        migration_query(m, &info);
        migration_info_clear(&info);
        break;
    default:
        migration_get_parameters(m, &params);
        params.xbzrle = g_rand_boolean(r);
        params.xbzrle_cache_size = g_rand_int_range(r, 4096, 4 << 20);
        params.max_bandwidth = g_rand_boolean(r) ? 64 << 20 : 0;
        migration_set_parameters(m, &params, NULL);
    }
}

static void *user_thread(void *opaque)
{
    User *u = opaque;
    g_autoptr(GRand) r = g_rand_new_with_seed(u->seed);

    for (unsigned i = 0; i < 60 * effort; i++) {
        some_command(u, r);
        g_usleep(g_rand_int_range(r, 0, 3000));
    }
    __atomic_store_n(&u->done, true, __ATOMIC_RELEASE);
    return NULL;
}

static User users[4];

static bool all_done(Vm *vm)
{
    bool done = true;

    for (size_t i = 0; i < G_N_ELEMENTS(users); i++) {
        done = done && __atomic_load_n(&users[i].done, __ATOMIC_ACQUIRE);
    }
    return done;
}

/* Users stop it, let it run, send it away and call it back, all at once. */
static void many_users(void)
{
    Pair p;

    pair_open(&p, false);
    for (size_t i = 0; i < G_N_ELEMENTS(users); i++) {
        users[i] = (User) {
            .vm = p.src, .seed = g_test_rand_int(),
            .cables = g_ptr_array_new_with_free_func((GDestroyNotify)cable_free),
        };
        pthread_create(&users[i].thread, NULL, user_thread, &users[i]);
    }
    vm_wait(p.src, all_done, "users");
    start_to_nobody(&users[0]); /* the last one, if there is none */
    vm_wait_outgoing(p.src);
    for (size_t i = 0; i < G_N_ELEMENTS(users); i++) {
        pthread_join(users[i].thread, NULL);
        g_ptr_array_unref(users[i].cables);
    }
    g_assert_cmpuint(fake_qemu_disk_errors(p.src->q), ==, 0);
    g_assert_true(vm_cont(p.src));
    vm_check_runs(p.src);
    migrate_whole(&p);
    pair_close(&p);
}

/* The manager goes while it has a migration. */
static void the_end_comes_first(void)
{
    for (unsigned i = 0; i < 10 * effort; i++) {
        Pair p;
        Cable *cable;

        pair_open(&p, i % 2);
        fake_qemu_arm(p.src->q, i % 3 ? FAKE_LATE : FAKE_DIE, i, 0);
        cable = start(&p, g_test_rand_int_range(0, 1 << 20), true);
        awaited = g_test_rand_int_range(0, 14);
        while (!cable_was_cut(cable) && !has_ended_or_commands(p.src)) {
            g_main_context_iteration(NULL, FALSE);
            g_usleep(100);
        }
        pair_close(&p);
        cable_free(cable);
    }
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    folder = block_test_dir_new();
    image = g_build_filename(folder, "image", NULL);
    copy = g_build_filename(folder, "copy", NULL);
    g_main_context_acquire(NULL); /* other threads wake it up at any time */
    effort = g_getenv("SIDECAR_TEST_LONG") ? 20 : 1;
    g_test_add_data_func("/migration/success", NULL, everything_arrives);
    g_test_add_data_func("/migration/success/drives", "b", everything_arrives);
    g_test_add_func("/migration/to-and-fro", to_and_fro);
    g_test_add_func("/migration/paused", a_paused_guest_stays_paused);
    g_test_add_func("/migration/cache", a_cache_of_all_sizes);
    g_test_add_data_func("/migration/commands", NULL, each_command_fails);
    g_test_add_data_func("/migration/commands/drives", "b", each_command_fails);
    g_test_add_func("/migration/devices", the_stream_of_devices_fails);
    g_test_add_func("/migration/destination", the_destination_fails);
    g_test_add_data_func("/migration/cut", NULL, cut_at_any_byte);
    g_test_add_data_func("/migration/cut/drives", "b", cut_at_any_byte);
    g_test_add_data_func("/migration/cancel", NULL, cancelled_anywhere);
    g_test_add_data_func("/migration/cancel/drives", "b", cancelled_anywhere);
    g_test_add_func("/migration/users", many_users);
    g_test_add_func("/migration/end", the_end_comes_first);
    ret = g_test_run();
    block_test_dir_remove(folder);
    g_free(image);
    g_free(copy);
    return ret;
}
