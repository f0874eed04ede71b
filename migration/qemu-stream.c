/*
 * Taking QEMU's stream apart and putting it together.
 *
 * The reader is a loop over section types.  Only `ram' and `block' may be live
 * sections; another one (VFIO) has a length that only its device knows, so it is
 * refused by name.  When ram has ended and whatever else had begun, the rest
 * begins, which is not looked into.
 *
 * A footer is taken if it is there; whether one came after the first section
 * says whether this machine type has them.
 *
 * Seen with QEMU 7.2; commands before the end of ram come from 8.1 and newer
 * (switchover start) and are passed on.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/qemu-stream.h"

#include "migration/block-migration.h"
#include "util/error.h"

#include <string.h>

#define MACHINE_NAME_MAX 1024
#define CAPABILITIES_MAX 256
#define DESCRIPTION_MAX (16 * 1024 * 1024) /* QEMU 7.2: some 10 KiB for a PC */

void qemu_stream_init(QemuStream *qs)
{
    *qs = (QemuStream) {
        .config = g_byte_array_new(),
        .commands = g_byte_array_new(),
        .rest = g_byte_array_new(),
    };
}

void qemu_stream_clear(QemuStream *qs)
{
    g_clear_pointer(&qs->machine, g_free);
    g_clear_pointer(&qs->config, g_byte_array_unref);
    g_clear_pointer(&qs->commands, g_byte_array_unref);
    g_clear_pointer(&qs->rest, g_byte_array_unref);
}

#define bad(f, errp, ...) qemu_file_bad(f, errp, "migration stream", __VA_ARGS__)

/* ---- header and configuration --------------------------------------------------- */

static bool read_magic(QEMUFile *f, GError **errp)
{
    uint32_t magic = qemu_get_be32(f), version = qemu_get_be32(f);

    if (magic != QEMU_VM_FILE_MAGIC) {
        return bad(f, errp, "not a QEMU migration stream (it begins with "
                   "0x%08x)", magic);
    }
    if (version != QEMU_VM_FILE_VERSION) {
        return bad(f, errp, "stream version %u is not supported", version);
    }
    return qemu_file_ok(f, errp);
}

static void append_be32(GByteArray *a, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    g_byte_array_append(a, (uint8_t *)&v, 4);
}

static bool read_machine(QemuStream *qs, QEMUFile *f, GError **errp)
{
    uint32_t len = qemu_get_be32(f);

    if (len > MACHINE_NAME_MAX) {
        return bad(f, errp, "a machine name of %u bytes", len);
    }
    qs->machine = g_malloc0(len + 1);
    if (!qemu_get_buffer(f, qs->machine, len)) {
        return qemu_file_ok(f, errp);
    }
    if (strlen(qs->machine) != len) {
        return bad(f, errp, "a machine name with a NUL in it");
    }
    append_be32(qs->config, len);
    g_byte_array_append(qs->config, (uint8_t *)qs->machine, len);
    return true;
}

/* The capabilities of the sender; they concern who loads the stream as a whole,
 * which is us, so they are not passed on. */
static bool skip_capabilities(QEMUFile *f, GError **errp)
{
    uint32_t n = qemu_get_be32(f);
    char name[256];

    if (n > CAPABILITIES_MAX) {
        return bad(f, errp, "%u capabilities", n);
    }
    while (n-- && qemu_get_counted_string(f, name)) {
    }
    return qemu_file_ok(f, errp);
}

/* After the type byte of a subsection of the configuration. */
static bool read_config_subsection(QemuStream *qs, QEMUFile *f, GError **errp)
{
    uint8_t content[16], kind = QEMU_VM_SUBSECTION, name_len;
    uint32_t version;
    size_t len;
    char name[256];

    qemu_get_counted_string(f, name);
    version = qemu_get_be32(f);
    if (!strcmp(name, "configuration/capabilities")) {
        return skip_capabilities(f, errp);
    }
    if (!strcmp(name, "configuration/target-page-bits")) {
        len = 4;
    } else if (!strcmp(name, "configuration/uuid")) {
        len = 16;
    } else {
        return bad(f, errp, "unknown part \"%s\" of the configuration", name);
    }
    if (!qemu_get_buffer(f, content, len)) {
        return qemu_file_ok(f, errp);
    }
    name_len = strlen(name);
    g_byte_array_append(qs->config, &kind, 1);
    g_byte_array_append(qs->config, &name_len, 1);
    g_byte_array_append(qs->config, (uint8_t *)name, name_len);
    append_be32(qs->config, version);
    g_byte_array_append(qs->config, content, len);
    return true;
}

/* ---- sections ---------------------------------------------------------------------- */

/* A live section, of which there are two. */
typedef struct {
    const char *name;
    uint32_t version;
    bool started, ended;
    uint32_t id;
} LiveSection;

/* What a read is doing. */
typedef struct {
    QEMUFile *f;
    QemuStream *qs;
    const QemuStreamHandler *handler;
    void *opaque;
    LiveSection ram, block;
    bool footers_known;
    uint8_t next; /* the type byte that has been read */
} Reader;

static bool read_type(Reader *r, GError **errp)
{
    r->next = qemu_get_byte(r->f);
    return qemu_file_ok(r->f, errp);
}

/* Leaves the section in *at. */
static bool read_start(Reader *r, LiveSection **at, GError **errp)
{
    char name[256];
    uint32_t id = qemu_get_be32(r->f), instance, version;
    LiveSection *live;

    qemu_get_counted_string(r->f, name);
    instance = qemu_get_be32(r->f);
    version = qemu_get_be32(r->f);
    if (!qemu_file_ok(r->f, errp)) {
        return false;
    }
    live = !strcmp(name, r->ram.name) ? &r->ram :
        r->handler->block && !strcmp(name, r->block.name) ? &r->block : NULL;
    if (!live) {
        return bad(r->f, errp, "live state of \"%s\", which is not supported",
                   name);
    }
    if (live->started || instance || version != live->version) {
        return bad(r->f, errp, "%s section with instance %u and version %u%s",
                   name, instance, version,
                   live->started ? ", a second one" : "");
    }
    live->started = true;
    live->id = id;
    *at = live;
    return true;
}

static bool is_open(const LiveSection *live)
{
    return live->started && !live->ended;
}

static bool read_continued(Reader *r, LiveSection **at, GError **errp)
{
    uint32_t id = qemu_get_be32(r->f);

    *at = is_open(&r->ram) && id == r->ram.id ? &r->ram :
        is_open(&r->block) && id == r->block.id ? &r->block : NULL;
    if (!*at) {
        return bad(r->f, errp, "a part of section %u, which has not begun", id);
    }
    return true;
}

/* The footer, if there is one; leaves the next type byte. */
static bool read_footer(Reader *r, const LiveSection *live, GError **errp)
{
    uint32_t id;

    if (!read_type(r, errp)) {
        return false;
    }
    if (!r->footers_known) {
        r->footers_known = true;
        r->qs->footers = r->next == QEMU_VM_SECTION_FOOTER;
    }
    if (!r->qs->footers) {
        return true;
    }
    id = qemu_get_be32(r->f);
    if (r->next != QEMU_VM_SECTION_FOOTER || id != live->id) {
        return bad(r->f, errp, "the %s section does not end where it should",
                   live->name);
    }
    return read_type(r, errp);
}

static bool end_block(Reader *r, GError **errp)
{
    return !r->handler->block_end ||
           r->handler->block_end(r->opaque, errp);
}

static bool read_section(Reader *r, GError **errp)
{
    bool first = r->next == QEMU_VM_SECTION_START;
    bool end = r->next == QEMU_VM_SECTION_END;
    LiveSection *live;

    if (!(first ? read_start : read_continued)(r, &live, errp) ||
        !(live == &r->ram ? r->handler->ram :
          r->handler->block)(r->opaque, r->f, errp)) {
        return false;
    }
    live->ended = end;
    r->qs->ram_section = r->ram.id;
    return (!end || live == &r->ram || end_block(r, errp)) &&
           read_footer(r, live, errp);
}

static bool keep_command(Reader *r, const uint8_t head[5], const uint8_t *data,
                         size_t len, GError **errp)
{
    if (r->qs->commands->len > 1024 * 1024) {
        return bad(r->f, errp, "too many commands");
    }
    g_byte_array_append(r->qs->commands, head, 5);
    g_byte_array_append(r->qs->commands, data, len);
    return true;
}

static bool read_command(Reader *r, GError **errp)
{
    const QemuStreamHandler *h = r->handler;
    uint8_t head[5] = { QEMU_VM_COMMAND };
    g_autofree uint8_t *data = NULL;
    bool keep = true;
    size_t len;

    if (!qemu_get_buffer(r->f, head + 1, 4)) {
        return qemu_file_ok(r->f, errp);
    }
    len = head[3] << 8 | head[4];
    data = g_malloc(len + 1);
    if (!qemu_get_buffer(r->f, data, len)) {
        return qemu_file_ok(r->f, errp);
    }
    if (h->command && !h->command(r->opaque, r->f, head[1] << 8 | head[2], data,
                                  len, &keep, errp)) {
        return false;
    }
    return (!keep || keep_command(r, head, data, len, errp)) &&
           read_type(r, errp);
}

static bool read_rest(Reader *r, GError **errp)
{
    g_autofree uint8_t *buf = g_malloc(256 * 1024);
    GByteArray *rest = r->qs->rest;
    ssize_t n;

    g_byte_array_append(rest, &r->next, 1);
    while ((n = qemu_get_some(r->f, buf, 256 * 1024)) > 0) {
        if (rest->len + (size_t)n > QEMU_STREAM_REST_MAX) {
            return bad(r->f, errp, "more than %d MiB of device state",
                       QEMU_STREAM_REST_MAX >> 20);
        }
        g_byte_array_append(rest, buf, n);
        if (r->qs->awaited && qemu_stream_whole(r->qs, true)) {
            break; /* nothing more will come before our answer */
        }
    }
    return qemu_file_ok(r->f, errp);
}

static bool read_sections(Reader *r, GError **errp)
{
    while (!r->ram.ended || is_open(&r->block)) {
        bool ok;

        switch (r->next) {
        case QEMU_VM_SECTION_START:
        case QEMU_VM_SECTION_PART:
        case QEMU_VM_SECTION_END:
            ok = read_section(r, errp);
            break;
        case QEMU_VM_COMMAND:
            ok = read_command(r, errp);
            break;
        default:
            ok = bad(r->f, errp, "section type 0x%02x where RAM was expected",
                     r->next);
        }
        if (!ok) {
            return false;
        }
    }
    return read_rest(r, errp);
}

bool qemu_stream_read(QEMUFile *f, QemuStream *qs, const QemuStreamHandler *h,
                      void *opaque, GError **errp)
{
    Reader r = {
        .f = f, .qs = qs, .handler = h, .opaque = opaque,
        .ram = { .name = "ram", .version = RAM_SECTION_VERSION },
        .block = { .name = "block", .version = BLOCK_SECTION_VERSION },
    };

    if (!read_magic(f, errp) || !read_type(&r, errp)) {
        return false;
    }
    if (r.next == QEMU_VM_CONFIGURATION) {
        if (!read_machine(qs, f, errp) || !read_type(&r, errp)) {
            return false;
        }
        while (r.next == QEMU_VM_SUBSECTION) {
            if (!read_config_subsection(qs, f, errp) || !read_type(&r, errp)) {
                return false;
            }
        }
    }
    if (h->header && !h->header(opaque, qs, errp)) {
        return false;
    }
    return read_sections(&r, errp);
}

/* The description: type, be32 length, JSON; the end mark is before it. */
bool qemu_stream_whole(const QemuStream *qs, bool described)
{
    const uint8_t *rest = qs->rest->data;
    size_t len = qs->rest->len;
    size_t first = len > DESCRIPTION_MAX + 6 ? len - DESCRIPTION_MAX : 6;

    if (!described || !len || rest[len - 1] != '}') {
        return !described && len && rest[len - 1] == QEMU_VM_EOF;
    }
    for (size_t json = len - 1; json >= first; json--) {
        uint32_t be;

        memcpy(&be, rest + json - 4, 4);
        if (rest[json] == '{' && GUINT32_FROM_BE(be) == len - json &&
            rest[json - 5] == QEMU_VM_VMDESCRIPTION &&
            rest[json - 6] == QEMU_VM_EOF) {
            return true;
        }
    }
    return false;
}

/* ---- writing ------------------------------------------------------------------------- */

void qemu_stream_put_header(const QemuStream *qs, QEMUFile *f)
{
    qemu_put_be32(f, QEMU_VM_FILE_MAGIC);
    qemu_put_be32(f, QEMU_VM_FILE_VERSION);
    if (qs->machine) {
        qemu_put_byte(f, QEMU_VM_CONFIGURATION);
        qemu_put_buffer(f, qs->config->data, qs->config->len);
    }
}

static void put_command(QEMUFile *f, uint16_t kind, uint16_t len)
{
    qemu_put_byte(f, QEMU_VM_COMMAND);
    qemu_put_be16(f, kind);
    qemu_put_be16(f, len);
}

void qemu_stream_put_open_return_path(QEMUFile *f)
{
    put_command(f, MIG_CMD_OPEN_RETURN_PATH, 0);
}

void qemu_stream_put_ping(QEMUFile *f, uint32_t value)
{
    put_command(f, MIG_CMD_PING, 4);
    qemu_put_be32(f, value);
}

static void put_section(QEMUFile *f, uint8_t type, uint32_t id,
                        const char *name, uint32_t version)
{
    qemu_put_byte(f, type);
    qemu_put_be32(f, id);
    if (type == QEMU_VM_SECTION_START) {
        qemu_put_counted_string(f, name);
        qemu_put_be32(f, 0);
        qemu_put_be32(f, version);
    }
}

static void put_footer(const QemuStream *qs, QEMUFile *f, uint32_t id)
{
    if (qs->footers) {
        qemu_put_byte(f, QEMU_VM_SECTION_FOOTER);
        qemu_put_be32(f, id);
    }
}

void qemu_stream_put_ram(const QemuStream *qs, QEMUFile *f, uint8_t type)
{
    put_section(f, type, qs->ram_section, "ram", RAM_SECTION_VERSION);
}

void qemu_stream_put_footer(const QemuStream *qs, QEMUFile *f)
{
    put_footer(qs, f, qs->ram_section);
}

/* QEMU 7.2 gives block 1 and ram 2; any other than ram's will do. */
static uint32_t block_section(const QemuStream *qs)
{
    return qs->ram_section == 1 ? 2 : 1;
}

void qemu_stream_put_block(const QemuStream *qs, QEMUFile *f, uint8_t type)
{
    put_section(f, type, block_section(qs), "block", BLOCK_SECTION_VERSION);
}

void qemu_stream_put_block_footer(const QemuStream *qs, QEMUFile *f)
{
    put_footer(qs, f, block_section(qs));
}

void qemu_stream_put_commands(const QemuStream *qs, QEMUFile *f)
{
    qemu_put_buffer(f, qs->commands->data, qs->commands->len);
}

void qemu_stream_put_rest(const QemuStream *qs, QEMUFile *f)
{
    qemu_put_buffer(f, qs->rest->data, qs->rest->len);
}

/*
 * The section `globalstate' (QEMU 7.2: version 1): be32 length of the name of
 * the run state with its NUL, then 100 bytes that begin with it.
 */
static uint8_t *find_run_state(const QemuStream *qs)
{
    static const uint8_t head[] = "\x0bglobalstate\0\0\0\0\0\0\0\1";
    size_t head_len = sizeof(head) - 1, need = head_len + 4 + 100;
    uint8_t *at = qs->rest->len < need ? NULL :
        memmem(qs->rest->data, qs->rest->len - need + head_len, head, head_len);

    return at ? at + head_len : NULL;
}

static const char running[100] = "running";

bool qemu_stream_set_running(QemuStream *qs)
{
    uint8_t *at = find_run_state(qs);
    uint32_t len = GUINT32_TO_BE(strlen(running) + 1);

    if (!at) {
        return false;
    }
    memcpy(at, &len, 4);
    memcpy(at + 4, running, sizeof(running));
    return true;
}

bool qemu_stream_runs(const QemuStream *qs)
{
    const uint8_t *at = find_run_state(qs);

    return !at || !memcmp(at + 4, running, strlen(running) + 1);
}
