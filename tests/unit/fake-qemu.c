/*
 * See fake-qemu.h.
 *
 * Lock order: guest, then out; picked is a leaf.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fake-qemu.h"

#include "fake-stream.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LATE_US (15 * 1000)
#define PAGE 4096

typedef struct {
    FakeQemu *q;
    pthread_t thread;
    uint32_t seed;
} Writer;

struct FakeQemu {
    FakeQemuConfig cfg;
    int fd;
    pthread_t thread, saver;
    bool saving;           /* main loop: saver has to be joined */
    int passed_fd;         /* main loop: from getfd; or -1 */
    json_tokener *tok;     /* main loop */
    Writer *writers;

    pthread_mutex_t guest_lock;
    pthread_cond_t changed;
    const char *state;     /* QEMU's name of the run state; static */
    bool quit;
    bool incoming;         /* until the guest has come */
    bool paused;           /* it shall not run when it has */
    unsigned busy;         /* writers that are writing */
    uint64_t counter;      /* the device's register */
    unsigned disk_errors;
    uint8_t vram[FAKE_VRAM];

    pthread_mutex_t out_lock; /* around whole messages */
    bool dead;

    pthread_mutex_t pick_lock;
    FakeConduct conduct;
    unsigned nth, commands, part;
    char picked[64];
};

/* ---- the guest ----------------------------------------------------------------- */

static bool is_running(const FakeQemu *q)
{
    return !strcmp(q->state, "running");
}

/* The sidecar reads meanwhile, as it reads a guest's memory: that race is the
 * subject, so ThreadSanitizer must not see these writes, as it can't see a
 * guest's. */
__attribute__((no_sanitize("thread")))
static void write_memory(const FakeQemuConfig *cfg, GRand *r)
{
    volatile uint8_t *page = cfg->ram + PAGE *
        (uint64_t)g_rand_int_range(r, 0, cfg->ram_size / PAGE);
    unsigned kind = g_rand_int_range(r, 0, 8);
    unsigned at = kind < 5 ? g_rand_int_range(r, 0, PAGE) : 0;
    unsigned n = kind < 5 ? g_rand_int_range(r, 1, 64) : PAGE;

    for (unsigned i = at; i < MIN(at + n, PAGE); i++) {
        page[i] = kind == 7 ? 0 : kind == 6 ? i : g_rand_int(r);
    }
}

static bool write_disk(const FakeQemuConfig *cfg, GRand *r)
{
    uint32_t data[128];
    int64_t sectors = blk_length(cfg->drive) / sizeof(data);

    for (size_t i = 0; i < G_N_ELEMENTS(data); i++) {
        data[i] = g_rand_int(r);
    }
    return sectors > 0 &&
        blk_pwrite(cfg->drive, g_rand_int_range(r, 0, sectors) *
                   (int64_t)sizeof(data), sizeof(data), data, 0) == 0;
}

/* False: the machine is switched off. */
static bool may_write(FakeQemu *q)
{
    bool go;

    pthread_mutex_lock(&q->guest_lock);
    while (!is_running(q) && !q->quit) {
        pthread_cond_wait(&q->changed, &q->guest_lock);
    }
    go = !q->quit;
    q->busy += go;
    pthread_mutex_unlock(&q->guest_lock);
    return go;
}

static void has_written(FakeQemu *q, bool disk_ok, uint32_t noise)
{
    pthread_mutex_lock(&q->guest_lock);
    q->disk_errors += !disk_ok;
    q->counter++;
    memcpy(q->vram + noise % (FAKE_VRAM / 4) * 4, &noise, 4);
    if (--q->busy == 0) {
        pthread_cond_broadcast(&q->changed);
    }
    pthread_mutex_unlock(&q->guest_lock);
}

static void *writer_thread(void *opaque)
{
    Writer *w = opaque;
    const FakeQemuConfig *cfg = &w->q->cfg;
    g_autoptr(GRand) r = g_rand_new_with_seed(w->seed);

    while (may_write(w->q)) {
        bool disk = cfg->drive && g_rand_int_range(r, 0, 8) == 0, ok = true;

        if (disk) {
            ok = write_disk(cfg, r);
        } else {
            write_memory(cfg, r);
        }
        has_written(w->q, ok, g_rand_int(r));
        g_usleep(disk ? 200 : 20); /* there is but one processor for all */
    }
    return NULL;
}

/* Under guest_lock; when it returns nobody writes if the guest does not run. */
static void set_state(FakeQemu *q, const char *state)
{
    q->state = state;
    pthread_cond_broadcast(&q->changed);
    while (q->busy && !is_running(q)) {
        pthread_cond_wait(&q->changed, &q->guest_lock);
    }
}

/* ---- talking ------------------------------------------------------------------- */

static void say(FakeQemu *q, const char *text)
{
    size_t len = strlen(text);

    pthread_mutex_lock(&q->out_lock);
    while (len && !q->dead) {
        ssize_t n = send(q->fd, text, len, MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR) {
            break;
        }
        text += MAX(n, 0);
        len -= MAX(n, 0);
    }
    pthread_mutex_unlock(&q->out_lock);
}

static void say_event(FakeQemu *q, const char *name, const char *status)
{
    g_autofree char *text = status ?
        g_strdup_printf("{\"event\": \"%s\", \"data\": {\"status\": \"%s\"}, "
                        "\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\r\n",
                        name, status) :
        g_strdup_printf("{\"event\": \"%s\", "
                        "\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\r\n",
                        name);

    say(q, text);
}

void fake_qemu_die(FakeQemu *q)
{
    pthread_mutex_lock(&q->guest_lock);
    q->quit = true;
    set_state(q, "internal-error");
    pthread_mutex_unlock(&q->guest_lock);
    pthread_mutex_lock(&q->out_lock);
    q->dead = true;
    shutdown(q->fd, SHUT_RDWR);
    pthread_mutex_unlock(&q->out_lock);
}

/* ---- saving and loading ---------------------------------------------------------- */

typedef struct {
    FakeQemu *q;
    int fd;
    FakeConduct conduct;
    GByteArray *bytes;
    size_t limit; /* of it is written */
} Saving;

static bool write_stream(const Saving *s)
{
    size_t done = 0;

    while (done < s->limit) {
        ssize_t n = send(s->fd, s->bytes->data + done, s->limit - done,
                         MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR) {
            return false;
        }
        done += MAX(n, 0);
    }
    return s->conduct != FAKE_BREAK;
}

/* The descriptor is closed last, as QEMU does: whoever has seen the end may let
 * the guest run. */
static void *saver_thread(void *opaque)
{
    Saving *s = opaque;
    FakeQemu *q = s->q;
    bool ok;

    say_event(q, "MIGRATION", "setup");
    say_event(q, "MIGRATION", "active");
    ok = write_stream(s);
    if (s->conduct == FAKE_DIE_INSIDE) {
        fake_qemu_die(q);
    }
    if (ok) {
        say_event(q, "MIGRATION", "device");
    }
    say_event(q, "MIGRATION", ok ? "completed" : "failed");
    pthread_mutex_lock(&q->guest_lock);
    if (!strcmp(q->state, "finish-migrate")) {
        set_state(q, "postmigrate");
    }
    pthread_mutex_unlock(&q->guest_lock);
    close(s->fd);
    g_byte_array_unref(s->bytes);
    g_free(s);
    return NULL;
}

static void join_saver(FakeQemu *q)
{
    if (q->saving) {
        pthread_join(q->saver, NULL);
        q->saving = false;
    }
}

/* NULL, or why not. */
static const char *do_migrate(FakeQemu *q, FakeConduct conduct)
{
    Saving *s;
    const char *error = NULL;
    int small = 8192;

    pthread_mutex_lock(&q->guest_lock);
    if (q->incoming) {
        error = "Guest is waiting for an incoming migration";
    } else if (!strcmp(q->state, "postmigrate")) {
        error = "Can't migrate the vm that was paused due to previous migration";
    } else if (!strcmp(q->state, "finish-migrate")) {
        error = "There's a migration process in progress";
    } else if (q->passed_fd < 0) {
        error = "File descriptor named 'qemu-sidecar-state' has not been found";
    } else {
        set_state(q, "finish-migrate");
    }
    pthread_mutex_unlock(&q->guest_lock);
    if (error) {
        return error;
    }
    join_saver(q);
    s = g_new0(Saving, 1);
    *s = (Saving) { q, q->passed_fd, conduct };
    q->passed_fd = -1;
    setsockopt(s->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    s->bytes = fake_stream_save(q->cfg.ram_size, q->vram, q->counter);
    s->limit = s->bytes->len;
    if (conduct == FAKE_BREAK || conduct == FAKE_DIE_INSIDE) {
        s->limit = s->bytes->len / 256 * q->part;
    }
    pthread_create(&q->saver, NULL, saver_thread, s);
    q->saving = true;
    if (conduct == FAKE_HOLD) {
        join_saver(q);
    }
    return NULL;
}

/* All that comes on @fd (closed). */
static GByteArray *read_all(int fd)
{
    GByteArray *bytes = g_byte_array_new();
    uint8_t buf[16384];
    ssize_t n;

    while ((n = read(fd, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)) {
        g_byte_array_append(bytes, buf, MAX(n, 0));
    }
    close(fd);
    return bytes;
}

/* QEMU 7.2 answers, loads, and ends itself if it does not like the stream. */
static void load(FakeQemu *q)
{
    GByteArray *bytes = read_all(q->passed_fd);
    bool running = false, ok;

    q->passed_fd = -1;
    pthread_mutex_lock(&q->guest_lock);
    ok = fake_stream_load(bytes, q->cfg.ram_size, q->vram, &q->counter,
                          &running);
    pthread_mutex_unlock(&q->guest_lock);
    g_byte_array_unref(bytes);
    if (!ok) {
        say_event(q, "MIGRATION", "failed");
        fake_qemu_die(q);
        return;
    }
    pthread_mutex_lock(&q->guest_lock);
    running = running && !q->paused;
    q->incoming = false;
    set_state(q, running ? "running" : "paused");
    pthread_mutex_unlock(&q->guest_lock);
    say_event(q, "MIGRATION", "completed");
    if (running) {
        say_event(q, "RESUME", NULL);
    }
}

/* ---- commands ------------------------------------------------------------------- */

typedef struct {
    FakeQemu *q;
    const char *name;
    json_object *args;
    FakeConduct conduct;
    GString *result;    /* JSON; empty: {} */
    const char *error;  /* or NULL */
    bool load_after;    /* the answer */
} Command;

static const char *argument(const Command *c, const char *name)
{
    json_object *value;

    return json_object_object_get_ex(c->args, name, &value) ?
        json_object_get_string(value) : "";
}

static void query_status(Command *c)
{
    pthread_mutex_lock(&c->q->guest_lock);
    g_string_printf(c->result, "{\"running\": %s, \"status\": \"%s\"}",
                    is_running(c->q) ? "true" : "false", c->q->state);
    pthread_mutex_unlock(&c->q->guest_lock);
}

static void stop(Command *c)
{
    FakeQemu *q = c->q;
    bool was;

    pthread_mutex_lock(&q->guest_lock);
    was = is_running(q);
    q->paused |= q->incoming; /* what comes shall not run */
    if (was) {
        set_state(q, "paused");
    }
    pthread_mutex_unlock(&q->guest_lock);
    if (was) {
        say_event(q, "STOP", NULL);
    }
}

static void cont(Command *c)
{
    FakeQemu *q = c->q;
    bool was, ran = false;

    pthread_mutex_lock(&q->guest_lock);
    was = is_running(q);
    if (q->incoming) {
        q->paused = false;
    } else if (!strcmp(q->state, "finish-migrate")) {
        c->error = "Migration is not finalized yet";
    } else {
        set_state(q, "running");
        ran = !was;
    }
    pthread_mutex_unlock(&q->guest_lock);
    if (ran) {
        say_event(q, "RESUME", NULL);
    }
}

static void migrate(Command *c)
{
    c->error = do_migrate(c->q, c->conduct);
}

static void migrate_incoming(Command *c)
{
    if (!c->q->incoming) {
        c->error = "'-incoming' was not specified on the command line";
    } else if (c->q->passed_fd < 0) {
        c->error = "File descriptor has not been found";
    }
    c->load_after = !c->error;
}

static void qom_list(Command *c)
{
    g_string_assign(c->result, "[{\"name\": \"type\", \"type\": \"string\"}]");
}

static void qom_get(Command *c)
{
    g_string_assign(c->result, strcmp(argument(c, "property"), "type") ?
                    "false" : "\"" FAKE_MACHINE "-machine\"");
}

static void hmp(Command *c)
{
    g_string_assign(c->result, "\"  Block Name    PSize\\r\\n"
                    "    pc.ram    4 KiB  0x0\\r\\n  vga.vram    4 KiB\\r\\n\"");
}

static void query_memdev(Command *c)
{
    g_string_assign(c->result, "[{\"id\": \"pc.ram\", \"share\": true}]");
}

static void query_nodes(Command *c)
{
    g_string_assign(c->result, "[{\"drv\": \"nbd\", \"cache\": {\"direct\": true}}]");
}

static void nothing(Command *c)
{
}

static const struct {
    const char *name;
    void (*run)(Command *c);
} commands[] = {
    { "query-status", query_status },
    { "stop", stop },
    { "cont", cont },
    { "migrate", migrate },
    { "migrate-incoming", migrate_incoming },
    { "qom-list", qom_list },
    { "qom-get", qom_get },
    { "human-monitor-command", hmp },
    { "query-memdev", query_memdev },
    { "query-named-block-nodes", query_nodes },
    { "getfd", nothing }, /* the descriptor was taken as it came */
    { "migrate-set-capabilities", nothing },
    { "migrate-set-parameters", nothing },
    { "qmp_capabilities", nothing },
};

static void run_command(Command *c)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (!strcmp(c->name, commands[i].name)) {
            commands[i].run(c);
            return;
        }
    }
    g_error("the double of QEMU knows no \"%s\"", c->name);
}

static FakeConduct pick(FakeQemu *q, const char *name)
{
    FakeConduct conduct = FAKE_OBEY;

    pthread_mutex_lock(&q->pick_lock);
    if (q->commands++ == q->nth) {
        conduct = q->conduct;
        g_strlcpy(q->picked, name, sizeof(q->picked));
    }
    pthread_mutex_unlock(&q->pick_lock);
    return conduct;
}

static void answer(Command *c, json_object *id)
{
    g_autofree char *text = c->error ?
        g_strdup_printf("{\"id\": %s, \"error\": {\"class\": \"GenericError\", "
                        "\"desc\": \"%s\"}}\r\n",
                        json_object_to_json_string(id), c->error) :
        g_strdup_printf("{\"return\": %s, \"id\": %s}\r\n",
                        c->result->len ? c->result->str : "{}",
                        json_object_to_json_string(id));

    say(c->q, text);
}

static void handle(FakeQemu *q, json_object *msg)
{
    json_object *name = NULL, *args = NULL, *id = NULL;
    g_autoptr(GString) result = g_string_new(NULL);
    Command c = { .q = q, .result = result };

    json_object_object_get_ex(msg, "execute", &name);
    json_object_object_get_ex(msg, "arguments", &args);
    json_object_object_get_ex(msg, "id", &id);
    c.name = json_object_get_string(name);
    c.args = args;
    c.conduct = pick(q, c.name);
    if (c.conduct == FAKE_DIE) {
        fake_qemu_die(q);
        return;
    }
    if (c.conduct == FAKE_REFUSE) {
        c.error = "no, thank you";
    } else {
        run_command(&c);
    }
    if (c.conduct == FAKE_LATE) {
        g_usleep(LATE_US); /* what is tested is that nobody minds */
    }
    if (c.conduct == FAKE_DIE_AFTER) {
        fake_qemu_die(q);
        return;
    }
    answer(&c, id);
    if (c.load_after) {
        load(q);
    }
}

/* ---- the main loop ----------------------------------------------------------------- */

static ssize_t receive(FakeQemu *q, char *buf, size_t len)
{
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = { buf, len };
    struct msghdr hdr = {
        .msg_iov = &iov, .msg_iovlen = 1,
        .msg_control = &control, .msg_controllen = sizeof(control),
    };
    ssize_t n = recvmsg(q->fd, &hdr, MSG_CMSG_CLOEXEC);
    struct cmsghdr *cmsg = n > 0 ? CMSG_FIRSTHDR(&hdr) : NULL;

    if (cmsg && cmsg->cmsg_type == SCM_RIGHTS) {
        if (q->passed_fd >= 0) {
            close(q->passed_fd);
        }
        memcpy(&q->passed_fd, CMSG_DATA(cmsg), sizeof(int));
    }
    return n;
}

static void parse(FakeQemu *q, const char *buf, size_t len)
{
    while (len) {
        json_object *msg = json_tokener_parse_ex(q->tok, buf, len);
        size_t used = json_tokener_get_parse_end(q->tok);

        if (!msg) {
            g_assert_true(json_tokener_get_error(q->tok) == json_tokener_continue);
            return;
        }
        handle(q, msg);
        json_object_put(msg);
        buf += used;
        len -= used;
        while (len && g_ascii_isspace(*buf)) {
            buf++;
            len--;
        }
    }
}

static void *main_loop(void *opaque)
{
    FakeQemu *q = opaque;
    char buf[4096];
    ssize_t n;

    say(q, "{\"QMP\": {\"version\": {\"package\": \"fake\"}, "
        "\"capabilities\": []}}\r\n");
    while ((n = receive(q, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0 && !fake_qemu_dead(q)) {
            parse(q, buf, n);
        }
    }
    join_saver(q);
    if (q->passed_fd >= 0) {
        close(q->passed_fd);
    }
    return NULL;
}

/* ---- the test's side ----------------------------------------------------------------- */

FakeQemu *fake_qemu_new(const FakeQemuConfig *cfg)
{
    FakeQemu *q = g_new0(FakeQemu, 1);

    q->cfg = *cfg;
    q->fd = fcntl(cfg->fd, F_DUPFD_CLOEXEC, 3);
    q->passed_fd = -1;
    q->tok = json_tokener_new();
    q->incoming = cfg->incoming;
    q->paused = cfg->paused;
    q->state = cfg->incoming ? "inmigrate" : "running";
    pthread_mutex_init(&q->guest_lock, NULL);
    pthread_mutex_init(&q->out_lock, NULL);
    pthread_mutex_init(&q->pick_lock, NULL);
    pthread_cond_init(&q->changed, NULL);
    q->writers = g_new0(Writer, cfg->writers);
    for (unsigned i = 0; i < cfg->writers; i++) {
        q->writers[i] = (Writer) { .q = q, .seed = cfg->seed + i };
        pthread_create(&q->writers[i].thread, NULL, writer_thread, &q->writers[i]);
    }
    pthread_create(&q->thread, NULL, main_loop, q);
    return q;
}

void fake_qemu_free(FakeQemu *q)
{
    if (!q) {
        return;
    }
    fake_qemu_die(q);
    pthread_join(q->thread, NULL);
    for (unsigned i = 0; i < q->cfg.writers; i++) {
        pthread_join(q->writers[i].thread, NULL);
    }
    close(q->fd);
    json_tokener_free(q->tok);
    pthread_mutex_destroy(&q->guest_lock);
    pthread_mutex_destroy(&q->out_lock);
    pthread_mutex_destroy(&q->pick_lock);
    pthread_cond_destroy(&q->changed);
    g_free(q->writers);
    g_free(q);
}

void fake_qemu_arm(FakeQemu *q, FakeConduct conduct, unsigned nth, unsigned part)
{
    pthread_mutex_lock(&q->pick_lock);
    q->conduct = conduct;
    q->nth = nth;
    q->part = part;
    q->commands = 0;
    q->picked[0] = '\0';
    pthread_mutex_unlock(&q->pick_lock);
}

unsigned fake_qemu_commands(FakeQemu *q)
{
    unsigned n;

    pthread_mutex_lock(&q->pick_lock);
    n = q->commands;
    pthread_mutex_unlock(&q->pick_lock);
    return n;
}

const char *fake_qemu_picked(FakeQemu *q)
{
    return q->picked;
}

bool fake_qemu_dead(FakeQemu *q)
{
    bool dead;

    pthread_mutex_lock(&q->out_lock);
    dead = q->dead;
    pthread_mutex_unlock(&q->out_lock);
    return dead;
}

bool fake_qemu_running(FakeQemu *q)
{
    bool running;

    pthread_mutex_lock(&q->guest_lock);
    running = is_running(q);
    pthread_mutex_unlock(&q->guest_lock);
    return running;
}

uint64_t fake_qemu_register(FakeQemu *q)
{
    uint64_t counter;

    pthread_mutex_lock(&q->guest_lock);
    counter = q->counter;
    pthread_mutex_unlock(&q->guest_lock);
    return counter;
}

const uint8_t *fake_qemu_vram(FakeQemu *q, size_t *size)
{
    *size = FAKE_VRAM;
    return q->vram;
}

void fake_qemu_wait_guest(FakeQemu *q, uint64_t n)
{
    uint64_t goal = fake_qemu_register(q) + n;

    while (fake_qemu_register(q) < goal) {
        g_assert_true(fake_qemu_running(q));
        g_usleep(1000);
    }
}

unsigned fake_qemu_disk_errors(FakeQemu *q)
{
    unsigned n;

    pthread_mutex_lock(&q->guest_lock);
    n = q->disk_errors;
    pthread_mutex_unlock(&q->guest_lock);
    return n;
}
