/*
 * See fake-stream.h.
 *
 * The reader is strict, and the test's own but for the helpers that get numbers
 * out of a file: what the sidecar gives to QEMU is judged by it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fake-stream.h"

#include "stream-sample.h"

#define DEVICE "fake/register"
#define FILLING (40 * 1024) /* of a device: more than a socket takes at once */
#define RUN_STATE 100

/* ---- saving -------------------------------------------------------------------- */

static const SampleOptions plain = { .capabilities = true, .footers = true };

static void put_list(QEMUFile *f, uint64_t ram_size)
{
    qemu_put_be64(f, (ram_size + FAKE_VRAM) | RAM_SAVE_FLAG_MEM_SIZE);
    qemu_put_counted_string(f, "pc.ram");
    qemu_put_be64(f, ram_size);
    qemu_put_be64(f, 0);
    qemu_put_counted_string(f, "vga.vram");
    qemu_put_be64(f, FAKE_VRAM);
    qemu_put_be64(f, 0xfd000000);
}

static void put_vram(QEMUFile *f, const uint8_t *vram)
{
    for (uint64_t at = 0; at < FAKE_VRAM; at += SAMPLE_PAGE) {
        qemu_put_be64(f, at | RAM_SAVE_FLAG_PAGE |
                      (at ? RAM_SAVE_FLAG_CONTINUE : 0));
        if (!at) {
            qemu_put_counted_string(f, "vga.vram");
        }
        qemu_put_buffer(f, vram + at, SAMPLE_PAGE);
    }
}

static void put_full(QEMUFile *f, uint32_t id, const char *name)
{
    qemu_put_byte(f, QEMU_VM_SECTION_FULL);
    qemu_put_be32(f, id);
    qemu_put_counted_string(f, name);
    qemu_put_be32(f, 0);
    qemu_put_be32(f, 1);
}

static void put_device(QEMUFile *f, uint64_t counter)
{
    put_full(f, 3, DEVICE);
    qemu_put_be64(f, counter);
    for (uint64_t i = 0; i < FILLING / 8; i++) {
        qemu_put_be64(f, i * counter);
    }
    sample_footer_of(f, &plain, 3);
}

GByteArray *fake_stream_save(uint64_t ram_size, const uint8_t *vram,
                             uint64_t counter)
{
    GByteArray *bytes = g_byte_array_new();
    QEMUFile *f = sample_file(bytes, 0);

    qemu_put_be32(f, QEMU_VM_FILE_MAGIC);
    qemu_put_be32(f, QEMU_VM_FILE_VERSION);
    qemu_put_byte(f, QEMU_VM_CONFIGURATION);
    qemu_put_be32(f, strlen(FAKE_MACHINE));
    qemu_put_buffer(f, FAKE_MACHINE, strlen(FAKE_MACHINE));
    sample_part(f, "configuration/capabilities", 1, "\0\0\0\1\x0fx-ignore-shared",
                20);
    sample_section(f, QEMU_VM_SECTION_START);
    put_list(f, ram_size);
    sample_footer(f, &plain);
    sample_section(f, QEMU_VM_SECTION_PART);
    put_vram(f, vram);
    sample_footer(f, &plain);
    sample_section(f, QEMU_VM_SECTION_END);
    sample_footer(f, &plain);
    put_device(f, counter);
    sample_rest(f);
    g_assert_true(qemu_file_close(f, NULL));
    return bytes;
}

/* ---- loading ------------------------------------------------------------------- */

typedef struct {
    QEMUFile *f;
    uint64_t ram_size;
    uint8_t *vram;
} Loader;

static bool is_string(QEMUFile *f, const char *want)
{
    char s[256];

    return qemu_get_counted_string(f, s) && !strcmp(s, want);
}

static bool skip_configuration(QEMUFile *f)
{
    char machine[sizeof(FAKE_MACHINE)] = "";

    return qemu_get_be32(f) == QEMU_VM_FILE_MAGIC &&
        qemu_get_be32(f) == QEMU_VM_FILE_VERSION &&
        qemu_get_byte(f) == QEMU_VM_CONFIGURATION &&
        qemu_get_be32(f) == strlen(FAKE_MACHINE) &&
        qemu_get_buffer(f, machine, strlen(FAKE_MACHINE)) &&
        !strcmp(machine, FAKE_MACHINE);
}

static bool load_list(const Loader *l, uint64_t total)
{
    return total == l->ram_size + FAKE_VRAM && is_string(l->f, "pc.ram") &&
        qemu_get_be64(l->f) == l->ram_size && is_string(l->f, "vga.vram") &&
        qemu_get_be64(l->f) == FAKE_VRAM;
}

static bool load_page(const Loader *l, uint64_t word)
{
    uint64_t at = word & ~RAM_SAVE_FLAG_MASK;
    unsigned kind = word & (RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_ZERO);

    if ((!(word & RAM_SAVE_FLAG_CONTINUE) && !is_string(l->f, "vga.vram")) ||
        at >= FAKE_VRAM) {
        return false;
    }
    if (kind == RAM_SAVE_FLAG_ZERO) {
        memset(l->vram + at, 0, SAMPLE_PAGE);
        return qemu_get_byte(l->f) == 0;
    }
    return kind == RAM_SAVE_FLAG_PAGE &&
        qemu_get_buffer(l->f, l->vram + at, SAMPLE_PAGE);
}

/* Records up to the end mark, then the footer. */
static bool load_records(const Loader *l)
{
    uint64_t word;

    while ((word = qemu_get_be64(l->f)) != RAM_SAVE_FLAG_EOS) {
        if (qemu_file_error(l->f) ||
            !((word & RAM_SAVE_FLAG_MASK) == RAM_SAVE_FLAG_MEM_SIZE ?
              load_list(l, word & ~RAM_SAVE_FLAG_MASK) : load_page(l, word))) {
            return false;
        }
    }
    return qemu_get_byte(l->f) == QEMU_VM_SECTION_FOOTER &&
        qemu_get_be32(l->f) == 2;
}

static bool load_ram(const Loader *l)
{
    return qemu_get_byte(l->f) == QEMU_VM_SECTION_START &&
        qemu_get_be32(l->f) == 2 && is_string(l->f, "ram") &&
        qemu_get_be32(l->f) == 0 &&
        qemu_get_be32(l->f) == RAM_SECTION_VERSION && load_records(l) &&
        qemu_get_byte(l->f) == QEMU_VM_SECTION_END &&
        qemu_get_be32(l->f) == 2 && load_records(l);
}

static bool is_full(QEMUFile *f, uint32_t id, const char *name)
{
    return qemu_get_byte(f) == QEMU_VM_SECTION_FULL && qemu_get_be32(f) == id &&
        is_string(f, name) && qemu_get_be32(f) == 0 && qemu_get_be32(f) == 1;
}

static bool is_footer(QEMUFile *f, uint32_t id)
{
    return qemu_get_byte(f) == QEMU_VM_SECTION_FOOTER && qemu_get_be32(f) == id;
}

static bool load_device(QEMUFile *f, uint64_t *counter)
{
    if (!is_full(f, 3, DEVICE)) {
        return false;
    }
    *counter = qemu_get_be64(f);
    for (uint64_t i = 0; i < FILLING / 8; i++) {
        if (qemu_get_be64(f) != i * *counter) {
            return false;
        }
    }
    return is_footer(f, 3);
}

static bool load_run_state(QEMUFile *f, bool *running)
{
    char state[RUN_STATE + 1] = "";
    uint32_t len;

    if (!is_full(f, 5, "globalstate")) {
        return false;
    }
    len = qemu_get_be32(f);
    if (!qemu_get_buffer(f, state, RUN_STATE) || len != strlen(state) + 1) {
        return false;
    }
    *running = !strcmp(state, "running");
    return is_footer(f, 5) && qemu_get_byte(f) == QEMU_VM_EOF;
}

bool fake_stream_load(GByteArray *bytes, uint64_t ram_size, uint8_t *vram,
                      uint64_t *counter, bool *running)
{
    Loader l = { sample_file(bytes, 0), ram_size, vram };
    bool ok = skip_configuration(l.f) && load_ram(&l) &&
        load_device(l.f, counter) && load_run_state(l.f, running);

    qemu_file_abandon(l.f);
    return ok;
}
