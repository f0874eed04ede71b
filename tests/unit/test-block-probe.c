/*
 * Probing looks at hostile bytes: it never reads behind them, and always has
 * an answer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "../../block/block-int.h"

static const struct {
    const char *format;
    size_t at, len;
    const char *bytes;
} headers[] = {
    { "qcow2", 0, 8, "QFI\xfb\0\0\0\2" },
    { "qcow2", 0, 8, "QFI\xfb\0\0\0\3" },
    { "qcow2", 0, 8, "QFI\xfb\xff\xff\xff\xff" },
    { "qcow", 0, 8, "QFI\xfb\0\0\0\1" },
    { "qed", 0, 4, "QED\0" },
    { "vmdk", 0, 4, "KDMV" },
    { "vmdk", 0, 4, "COWD" },
    { "vmdk", 0, 10, "version=1\n" },
    { "vmdk", 0, 42, "# Disk DescriptorFile\n\n# x\r\n \r\nversion=3\n" },
    { "vdi", 64, 4, "\x7f\x10\xda\xbe" },
    { "vhdx", 0, 8, "vhdxfile" },
    { "vpc", 0, 8, "conectix" },
    { "parallels", 0, 16, "WithoutFreeSpace" },
    { "parallels", 0, 16, "WithouFreSpacExt" },
    { "luks", 0, 6, "LUKS\xba\xbe" },
    { "bochs", 0, 22, "Bochs Virtual HD Image" },
    { "cloop", 0, 22, "#!/bin/sh\n#V2.0 Format" },
};

/* From memory that ends where the bytes end, for the sanitizer. */
static const char *probe(const void *bytes, size_t len)
{
    g_autofree uint8_t *exact = g_memdup2(bytes, len);
    const BlockDriver *drv = NULL;
    const char *name = bdrv_probe_format(exact, len, &drv);

    g_assert_nonnull(name);
    g_assert_true(drv || strcmp(name, "raw") != 0);
    g_assert_true(!drv || strcmp(name, drv->format_name) == 0);
    return name;
}

static void test_formats(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(headers); i++) {
        char buf[BDRV_PROBE_BYTES] = { 0 };

        memcpy(buf + headers[i].at, headers[i].bytes, headers[i].len);
        g_assert_cmpstr(probe(buf, sizeof(buf)), ==, headers[i].format);
    }
}

static void test_raw(void)
{
    char buf[BDRV_PROBE_BYTES] = { 0 };

    g_assert_cmpstr(probe(buf, sizeof(buf)), ==, "raw");
    g_assert_cmpstr(probe(buf, 0), ==, "raw");
    memset(buf, '#', sizeof(buf)); /* one comment without an end */
    g_assert_cmpstr(probe(buf, sizeof(buf)), ==, "raw");
    memset(buf, '\n', sizeof(buf));
    g_assert_cmpstr(probe(buf, sizeof(buf)), ==, "raw");
    memcpy(buf, "version=4\n", 10);
    g_assert_cmpstr(probe(buf, sizeof(buf)), ==, "raw");
    memset(buf, 0xff, sizeof(buf));
    g_assert_cmpstr(probe(buf, sizeof(buf)), ==, "raw");
}

static void test_cut_off(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(headers); i++) {
        char buf[BDRV_PROBE_BYTES] = { 0 };

        memcpy(buf + headers[i].at, headers[i].bytes, headers[i].len);
        for (size_t len = 0; len <= headers[i].at + headers[i].len; len++) {
            probe(buf, len);
        }
    }
}

static void test_random(void)
{
    for (unsigned n = 0; n < 20000; n++) {
        size_t i = g_test_rand_int_range(0, G_N_ELEMENTS(headers));
        size_t len = g_test_rand_int_range(0, BDRV_PROBE_BYTES + 1);
        char buf[BDRV_PROBE_BYTES] = { 0 };

        memcpy(buf + headers[i].at, headers[i].bytes, headers[i].len);
        for (int k = g_test_rand_int_range(0, 5); k > 0; k--) {
            buf[g_test_rand_int_range(0, 100)] = g_test_rand_int();
        }
        probe(buf, len);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/probe/formats", test_formats);
    g_test_add_func("/probe/raw", test_raw);
    g_test_add_func("/probe/cut-off", test_cut_off);
    g_test_add_func("/probe/random", test_random);
    return g_test_run();
}
