/*
 * Fuzz target: a migration stream, as it comes over the network and as QEMU gives
 * its device state.  Nothing may be written outside the block, and what was
 * accepted can be put together again.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../unit/stream-sample.h"
#include "fuzz.h"
#include "migration/return-path.h"

#define GUARD 64

static QemuStream *awaited; /* the one that is being read */

static bool load(void *opaque, QEMUFile *f, GError **errp)
{
    return ram_loader_load(opaque, f, errp);
}

/* Drives, of which there are none: each record is refused by name. */
static bool load_block(void *opaque, QEMUFile *f, GError **errp)
{
    BlockContext *ctx = block_context_new();
    BlockLoader *l = block_loader_new(ctx);
    bool ok = block_loader_load(l, f, errp);

    block_loader_free(l);
    block_context_free(ctx);
    return ok;
}

/* The end is then found by the description. */
static bool command(void *opaque, QEMUFile *f, uint16_t kind, const uint8_t *data,
                    size_t len, bool *keep, GError **errp)
{
    *keep = kind != MIG_CMD_OPEN_RETURN_PATH;
    awaited->awaited |= !*keep;
    return true;
}

static const QemuStreamHandler handler = {
    .ram = load, .block = load_block, .command = command,
};

static void put_again(const QemuStream *qs, RamLoader *l)
{
    GByteArray *out = g_byte_array_new();
    QEMUFile *f = sample_file(out, 0);

    qemu_stream_put_header(qs, f);
    ram_loader_put_list(l, f);
    ram_loader_put_foreign(l, NULL, f);
    qemu_stream_put_rest(qs, f);
    qemu_file_close(f, NULL);
    g_byte_array_unref(out);
}

static void as_incoming(GByteArray *bytes)
{
    g_autofree uint8_t *ram = g_malloc0(GUARD + SAMPLE_RAM + GUARD);
    RamBlock b = {
        .idstr = "pc.ram", .length = SAMPLE_RAM, .host = ram + GUARD,
    };
    RamLoader *l = ram_loader_new(&b, 1, SAMPLE_PAGE, 1 << 20, NULL);
    QEMUFile *f = sample_file(bytes, 1000);
    QemuStream qs;

    qemu_stream_init(&qs);
    awaited = &qs;
    if (qemu_stream_read(f, &qs, &handler, l, NULL)) {
        qemu_stream_whole(&qs, true);
        qemu_stream_runs(&qs);
        qemu_stream_set_running(&qs);
        put_again(&qs, l);
    }
    for (int i = 0; i < GUARD; i++) {
        g_assert_cmpint(ram[i] | ram[GUARD + SAMPLE_RAM + i], ==, 0);
    }
    qemu_stream_clear(&qs);
    qemu_file_abandon(f);
    ram_loader_free(l);
}

/* What a destination might answer. */
static void as_return_path(const uint8_t *data, size_t size)
{
    ReturnPathReader r = { 0 };

    return_path_feed(&r, data, size / 2);
    return_path_feed(&r, data + size / 2, size - size / 2);
    return_path_feed_end(&r);
    g_assert_cmpuint(strlen(r.text), <=, RETURN_PATH_TEXT_MAX);
    g_assert_cmpuint(r.have, <=, 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    GByteArray *bytes = g_byte_array_new();
    QEMUFile *f;

    as_return_path(data, size);
    g_byte_array_append(bytes, data, (guint)size);
    as_incoming(bytes);
    f = sample_file(bytes, 0);
    device_state_unref(device_state_read(f, SAMPLE_PAGE, NULL));
    qemu_file_abandon(f);
    g_byte_array_unref(bytes);
    return 0;
}

GPtrArray *fuzz_seeds(void)
{
    GPtrArray *seeds =
        g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);

    for (int i = 0; i < 64; i++) {
        const SampleOptions o = {
            .capabilities = i & 1, .footers = i & 2, .addresses = i & 4,
            .command = i & 8, .block = i & 16, .return_path = i & 32,
        };

        g_ptr_array_add(seeds, sample_stream(&o));
    }
    return seeds;
}
