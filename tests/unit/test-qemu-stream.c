/*
 * QEMU's stream taken apart and put together: byte by byte, cut everywhere, and
 * with everything changed that may not be.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "stream-sample.h"
#include "util/error.h"

static const SampleOptions usual = { .capabilities = true, .footers = true };
static const SampleOptions with_all = {
    .capabilities = true, .footers = true, .command = true,
};
static const SampleOptions old_machine = { 0 };
static const SampleOptions with_drives = { .footers = true, .block = true };
static const SampleOptions old_with_drives = { .block = true };
static const SampleOptions device_only = {
    .capabilities = true, .footers = true, .addresses = true,
};

static const SampleOptions waiting = { .footers = true, .return_path = true };
static const SampleOptions waiting_with_all = {
    .footers = true, .return_path = true, .capabilities = true, .command = true,
};

static bool load(void *opaque, QEMUFile *f, GError **errp)
{
    return ram_loader_load(opaque, f, errp);
}

/* What came of drives, a letter each: the end of a section, zeros, all. */
static char of_drives[8];

static bool load_block(void *opaque, QEMUFile *f, GError **errp)
{
    char name[256];
    uint64_t word = qemu_get_be64(f);

    if (word & BLK_MIG_FLAG_DEVICE_BLOCK) {
        qemu_get_counted_string(f, name);
        g_strlcat(of_drives, "z", sizeof(of_drives));
        word = qemu_get_be64(f);
    }
    g_strlcat(of_drives, "e", sizeof(of_drives));
    return qemu_file_ok(f, errp);
}

static bool all_of_block(void *opaque, GError **errp)
{
    g_strlcat(of_drives, ".", sizeof(of_drives));
    return true;
}

static const QemuStreamHandler handler = {
    .ram = load, .block = load_block, .block_end = all_of_block,
};

static RamLoader *loader_new(uint8_t *ram)
{
    RamBlock b = { .idstr = "pc.ram", .length = SAMPLE_RAM, .host = ram };

    return ram_loader_new(&b, 1, SAMPLE_PAGE, 1 << 20, NULL);
}

/* False with the error in @errp. */
static bool read_stream(GByteArray *bytes, size_t step, QemuStream *qs,
                        RamLoader *l, GError **errp)
{
    QEMUFile *f = sample_file(bytes, step);
    bool ok;

    of_drives[0] = '\0';
    qemu_stream_init(qs);
    ok = qemu_stream_read(f, qs, &handler, l, errp);
    qemu_file_abandon(f);
    return ok;
}

static void check_ram(const uint8_t *ram)
{
    for (int i = 0; i < SAMPLE_RAM; i++) {
        int page = i / SAMPLE_PAGE;
        int want = page == 0 || (page == 1 && i % SAMPLE_PAGE) ? 1 :
            page == 3 ? 0 : 2;

        g_assert_cmpint(ram[i], ==, want);
    }
}

static void whole(gconstpointer data)
{
    const SampleOptions *o = data;
    GByteArray *bytes = sample_stream(o);

    for (size_t step = 0; step < 4; step++) {
        g_autofree uint8_t *ram = g_malloc(SAMPLE_RAM);
        GError *error = NULL;
        RamLoader *l;
        QemuStream qs;

        memset(ram, 0x55, SAMPLE_RAM);
        l = loader_new(ram);
        g_assert_true(read_stream(bytes, step, &qs, l, &error));
        g_assert_no_error(error);
        check_ram(ram);
        g_assert_cmpstr(of_drives, ==, o->block ? "ezee." : "");
        g_assert_cmpstr(qs.machine, ==, "pc-7.2");
        g_assert_cmpuint(qs.ram_section, ==, 2);
        g_assert_cmpint(qs.footers, ==, o->footers);
        g_assert_cmpuint(qs.commands->len, ==, o->command ? 5 : 0);
        g_assert_true(qemu_stream_whole(&qs, true));
        g_assert_true(qemu_stream_set_running(&qs));
        g_assert_nonnull(memmem(qs.rest->data, qs.rest->len, "\0\0\0\x08running",
                                12));
        ram_loader_free(l);
        qemu_stream_clear(&qs);
    }
    g_byte_array_unref(bytes);
}

/* What was taken apart and put together without the shared pages is a stream
 * again, and has no capabilities. */
static void together(void)
{
    GByteArray *bytes = sample_stream(&with_all), *again = g_byte_array_new();
    g_autofree uint8_t *ram = g_malloc0(SAMPLE_RAM);
    RamLoader *l = loader_new(ram), *l2;
    QEMUFile *f = sample_file(again, 0);
    GError *error = NULL;
    QemuStream qs, qs2;

    g_assert_true(read_stream(bytes, 0, &qs, l, &error));
    qemu_stream_put_header(&qs, f);
    qemu_stream_put_ram(&qs, f, QEMU_VM_SECTION_START);
    ram_loader_put_list(l, f);
    qemu_stream_put_footer(&qs, f);
    qemu_stream_put_commands(&qs, f);
    qemu_stream_put_ram(&qs, f, QEMU_VM_SECTION_END);
    ram_loader_put_foreign(l, NULL, f);
    qemu_put_be64(f, RAM_SAVE_FLAG_EOS);
    qemu_stream_put_footer(&qs, f);
    qemu_stream_put_rest(&qs, f);
    g_assert_true(qemu_file_close(f, &error));
    g_assert_null(memmem(again->data, again->len, "capabilities", 12));

    memset(ram, 0x77, SAMPLE_RAM);
    l2 = loader_new(ram);
    g_assert_true(read_stream(again, 1, &qs2, l2, &error));
    g_assert_no_error(error);
    g_assert_cmpint(ram[0], ==, 0x77); /* no page of it came along */
    g_assert_cmpuint(qs2.rest->len, ==, qs.rest->len);
    g_assert_cmpuint(qs2.commands->len, ==, 5);
    ram_loader_free(l);
    ram_loader_free(l2);
    qemu_stream_clear(&qs);
    qemu_stream_clear(&qs2);
    g_byte_array_unref(bytes);
    g_byte_array_unref(again);
}

/* Every shorter one is an error, or is seen not to be whole. */
static void cut_everywhere(gconstpointer data)
{
    GByteArray *bytes = sample_stream(data);
    g_autofree uint8_t *ram = g_malloc0(SAMPLE_RAM);

    for (guint len = 0; len < bytes->len; len++) {
        g_autoptr(GError) error = NULL;
        GByteArray *cut = g_byte_array_new();
        RamLoader *l = loader_new(ram);
        QemuStream qs;

        g_byte_array_append(cut, bytes->data, len);
        if (read_stream(cut, 0, &qs, l, &error)) {
            g_assert_false(qemu_stream_whole(&qs, true));
        } else {
            g_assert_nonnull(error);
        }
        qemu_stream_clear(&qs);
        ram_loader_free(l);
        g_byte_array_unref(cut);
    }
    g_byte_array_unref(bytes);
}

/* The first occurrence of @what in @o becomes @with (same length); the error has
 * @word. */
static void changed_in(const SampleOptions *o, const char *what,
                       const char *with, size_t len, const char *word)
{
    GByteArray *bytes = sample_stream(o);
    g_autofree uint8_t *ram = g_malloc0(SAMPLE_RAM);
    g_autoptr(GError) error = NULL;
    RamLoader *l = loader_new(ram);
    uint8_t *at = memmem(bytes->data, bytes->len, what, len);
    QemuStream qs;

    g_assert_nonnull(at);
    memcpy(at, with, len);
    g_assert_false(read_stream(bytes, 0, &qs, l, &error));
    if (!strstr(error->message, word)) {
        g_error("\"%s\" lacks \"%s\"", error->message, word);
    }
    g_assert_nonnull(strstr(error->message, "byte"));
    qemu_stream_clear(&qs);
    ram_loader_free(l);
    g_byte_array_unref(bytes);
}

static void changed(const char *what, const char *with, size_t len,
                    const char *word)
{
    changed_in(&usual, what, with, len, word);
}

static void each_change_of_drives_is_named(void)
{
    const SampleOptions *o = &with_drives;

    changed_in(o, "\5block\0\0\0\0", "\5bl0ck\0\0\0\0", 10, "\"bl0ck\"");
    changed_in(o, "\5block\0\0\0\0\0\0\0\1", "\5block\0\0\0\0\0\0\0\2", 14,
               "block section with instance 0 and version 2");
    changed_in(o, "\x7e\0\0\0\1", "\x7e\0\0\0\2", 5,
               "the block section does not end");
    /* its end comes early: the other part belongs to nothing */
    changed_in(o, "\x02\0\0\0\1", "\x03\0\0\0\1", 5, "section 1");
    /* it never ends */
    changed_in(o, "\x03\0\0\0\1", "\x02\0\0\0\1", 5, "0x04");
    /* a second one */
    changed_in(o, "\x02\0\0\0\1", "\x01\0\0\0\1", 5, "not supported");
}

/* Where nobody takes drives, as in QEMU's device state. */
static void drives_where_none_may_be(void)
{
    static const QemuStreamHandler ram_only = { .ram = load };
    GByteArray *bytes = sample_stream(&with_drives);
    g_autofree uint8_t *ram = g_malloc0(SAMPLE_RAM);
    g_autoptr(GError) error = NULL;
    RamLoader *l = loader_new(ram);
    QEMUFile *f = sample_file(bytes, 0);
    QemuStream qs;

    qemu_stream_init(&qs);
    g_assert_false(qemu_stream_read(f, &qs, &ram_only, l, &error));
    g_assert_nonnull(strstr(error->message, "\"block\", which is not"));
    qemu_file_abandon(f);
    qemu_stream_clear(&qs);
    ram_loader_free(l);
    g_byte_array_unref(bytes);
}

/* What we put in front of drives' records is what the reader takes. */
static void drives_are_put_as_they_are_read(void)
{
    QemuStream qs = { .ram_section = 2, .footers = true };
    GByteArray *bytes = sample_stream(&with_drives);
    GByteArray *put = g_byte_array_new();
    QEMUFile *f = sample_file(put, 0);

    qemu_stream_put_block(&qs, f, QEMU_VM_SECTION_START);
    qemu_put_be64(f, BLK_MIG_FLAG_EOS);
    qemu_stream_put_block_footer(&qs, f);
    g_assert_true(qemu_file_close(f, NULL));
    g_assert_nonnull(memmem(bytes->data, bytes->len, put->data, put->len));
    g_byte_array_unref(put);
    g_byte_array_unref(bytes);
}

static void each_change_is_named(void)
{
    changed("QEVM", "QEVN", 4, "not a QEMU migration stream");
    changed("QEVM\0\0\0\3", "QEVM\0\0\0\2", 8, "version 2");
    changed("\0\0\0\6pc-7.2", "\0\0\7\6pc-7.2", 10, "machine name");
    changed("pc-7.2", "pc-7\0", 6, "NUL");
    changed("target-page-bits", "target-page-bytes", 16, "target-page-byte");
    changed("\0\0\0\2\6xbzrle", "\0\0\2\2\6xbzrle", 11, "514 capabilities");
    changed("\3ram\0\0\0\0", "\3dma\0\0\0\0", 8, "\"dma\"");
    changed("\3ram\0\0\0\0\0\0\0\4", "\3ram\0\0\0\0\0\0\0\5", 12, "version 5");
    changed("\x7e\0\0\0\2", "\x7e\0\0\0\3", 5, "does not end");
    changed("\x02\0\0\0\2", "\x02\0\0\0\4", 5, "section 4");
    changed("\x02\0\0\0\2", "\x04\0\0\0\2", 5, "0x04");
    changed("\x06pc.ram", "\x06pc.rom", 7, "missing at the source");
}

static DeviceState *read_devices(GByteArray *bytes, GError **errp)
{
    QEMUFile *f = sample_file(bytes, 0);
    DeviceState *ds = device_state_read(f, SAMPLE_PAGE, errp);

    qemu_file_abandon(f);
    return ds;
}

static void device_state(void)
{
    GByteArray *bytes = sample_stream(&device_only);
    GError *error = NULL;
    DeviceState *ds = read_devices(bytes, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(ds->blocks->len, ==, 2);
    g_assert_cmpstr(g_array_index(ds->blocks, RamBlock, 1).idstr, ==, "rom");
    g_assert_cmpuint(g_array_index(ds->blocks, RamBlock, 0).length, ==,
                     SAMPLE_RAM);
    g_assert_true(qemu_stream_whole(&ds->stream, true));
    device_state_unref(device_state_ref(ds));
    device_state_unref(ds);
    for (guint len = bytes->len; len-- > 0;) {
        g_byte_array_set_size(bytes, len);
        ds = read_devices(bytes, NULL);
        g_assert_true(!ds || !qemu_stream_whole(&ds->stream, true));
        device_state_unref(ds);
    }
    g_byte_array_unref(bytes);
}

/* ---- a sender that waits for an answer ------------------------------------------- */

/* What commands came, a letter each; which of them is taken out. */
static char of_commands[8];
static QemuStream *reading;

static bool on_command(void *opaque, QEMUFile *f, uint16_t kind, const uint8_t *data,
                       size_t len, bool *keep, GError **errp)
{
    g_strlcat(of_commands, kind == MIG_CMD_OPEN_RETURN_PATH ? "o" :
              kind == MIG_CMD_PING ? "p" : "?", sizeof(of_commands));
    *keep = kind != MIG_CMD_OPEN_RETURN_PATH && kind != MIG_CMD_PING;
    reading->awaited |= kind == MIG_CMD_OPEN_RETURN_PATH;
    if (kind == MIG_CMD_PING && (len != 4 || data[3] != 1)) {
        return qemu_file_bad(f, errp, "test", "a PING of %zu bytes", len);
    }
    return true;
}

static const QemuStreamHandler with_commands = {
    .ram = load, .block = load_block, .command = on_command,
};

/* It ends where its description ends, with nothing read behind that, and its commands
 * do not go on. */
static void awaited(gconstpointer data)
{
    const SampleOptions *o = data;
    GByteArray *bytes = sample_stream(o);
    g_autofree uint8_t *ram = g_malloc0(SAMPLE_RAM);
    RamLoader *l = loader_new(ram);
    GError *error = NULL;
    QemuStream qs;
    QEMUFile *f;

    g_byte_array_append(bytes, (const uint8_t *)"more", 4);
    f = sample_file(bytes, 1);
    of_commands[0] = '\0';
    reading = &qs;
    qemu_stream_init(&qs);
    g_assert_true(qemu_stream_read(f, &qs, &with_commands, l, &error));
    g_assert_no_error(error);
    g_assert_cmpstr(of_commands, ==, o->command ? "op?" : "op");
    g_assert_cmpuint(qs.commands->len, ==, o->command ? 5 : 0);
    g_assert_true(qemu_stream_whole(&qs, true));
    g_assert_false(qemu_stream_runs(&qs));
    g_assert_true(qemu_stream_set_running(&qs) && qemu_stream_runs(&qs));
    g_assert_cmpint(qemu_get_byte(f), ==, 'm');
    qemu_file_abandon(f);
    ram_loader_free(l);
    qemu_stream_clear(&qs);
    g_byte_array_unref(bytes);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/qemu-stream/usual", &usual, whole);
    g_test_add_data_func("/qemu-stream/command", &with_all, whole);
    g_test_add_data_func("/qemu-stream/old-machine", &old_machine, whole);
    g_test_add_func("/qemu-stream/together", together);
    g_test_add_data_func("/qemu-stream/drives", &with_drives, whole);
    g_test_add_data_func("/qemu-stream/drives-old-machine", &old_with_drives,
                         whole);
    g_test_add_data_func("/qemu-stream/cut-everywhere", &with_all,
                         cut_everywhere);
    g_test_add_data_func("/qemu-stream/cut-drives", &with_drives,
                         cut_everywhere);
    g_test_add_func("/qemu-stream/changes", each_change_is_named);
    g_test_add_func("/qemu-stream/changes-of-drives",
                    each_change_of_drives_is_named);
    g_test_add_func("/qemu-stream/drives-refused", drives_where_none_may_be);
    g_test_add_func("/qemu-stream/drives-put",
                    drives_are_put_as_they_are_read);
    g_test_add_func("/qemu-stream/device-state", device_state);
    g_test_add_data_func("/qemu-stream/awaited", &waiting, awaited);
    g_test_add_data_func("/qemu-stream/awaited/command", &waiting_with_all, awaited);
    g_test_add_data_func("/qemu-stream/cut-waiting", &waiting_with_all,
                         cut_everywhere);
    return g_test_run();
}
