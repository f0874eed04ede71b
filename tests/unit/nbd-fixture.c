/*
 * A running NBD server for unit tests; see nbd-fixture.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "nbd-fixture.h"

#include <glib/gstdio.h>
#include <unistd.h>

static char *image_path(NbdFixture *f, unsigned i)
{
    return g_strdup_printf("%s/%u.raw", f->dir, i);
}

static void set_up_workers(NbdFixture *f, unsigned workers)
{
    GError *err = NULL;

    f->dir = g_dir_make_tmp("nbd-XXXXXX", &err);
    g_assert_no_error(err);
    f->socket = g_build_filename(f->dir, "socket", NULL);
    f->block = block_context_new();
    f->srv = nbd_server_new(workers, &err);
    g_assert_no_error(err);
    for (unsigned i = 0; i < 2; i++) {
        const char *name = i ? "b" : "a";
        g_autofree char *path = image_path(f, i);
        g_autoptr(BlockNode) bs = NULL;

        g_assert_true(bdrv_create(path, "raw", IMAGE_SIZE, NULL, NULL, &err));
        bs = bdrv_open(path, "raw", BDRV_O_RDWR | BDRV_O_UNMAP, &err);
        g_assert_no_error(err);
        f->blk[i] = blk_new(f->block, name, bs, &err);
        g_assert_no_error(err);
        g_assert_true(nbd_server_add(f->srv, name, f->blk[i], false, &err));
    }
    g_assert_true(nbd_server_listen_unix(f->srv, f->socket, &err));
    g_assert_no_error(err);
}

void nbd_fixture_set_up(NbdFixture *f, gconstpointer data)
{
    set_up_workers(f, data ? GPOINTER_TO_UINT(data) : 16);
}

void nbd_fixture_tear_down(NbdFixture *f, gconstpointer data)
{
    nbd_server_free(f->srv);
    block_context_free(f->block);
    g_assert_cmpint(g_access(f->socket, F_OK), !=, 0);
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *path = image_path(f, i);

        g_assert_cmpint(g_remove(path), ==, 0);
    }
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_free(f->socket);
    g_free(f->dir);
}

NbdClient *nbd_fixture_client(NbdFixture *f, const char *name, NbdClientMode mode)
{
    return nbd_client_open(f->socket, name, mode);
}

void nbd_fill(uint8_t *buf, size_t len, guint32 seed)
{
    for (size_t i = 0; i < len; i++) {
        seed = seed * 1664525 + 1013904223;
        buf[i] = (uint8_t)(seed >> 24) | 1; /* never zero */
    }
}
