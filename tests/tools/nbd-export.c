/*
 * nbd-export: our block layer and NBD server around images, without a VM; for
 * tests and measurements.  Ends on SIGTERM or SIGINT.  SIGUSR1 drops all
 * clients, as a resize or change of medium does.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib-unix.h>
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>

#include "block/nbd-server.h"
#include "util/error.h"

static char *opt_socket, *opt_format, *opt_aio, *opt_name;
static gboolean opt_read_only, opt_nocache, opt_no_unmap;
static gint opt_workers = 64;
static char **opt_images;

static const GOptionEntry options[] = {
    { "socket", 'k', 0, G_OPTION_ARG_STRING, &opt_socket,
      "unix socket to listen on, '@name' for an abstract one", "SOCKET" },
    { "format", 'f', 0, G_OPTION_ARG_STRING, &opt_format,
      "format of the images; probed if not given", "FORMAT" },
    { "aio", 0, 0, G_OPTION_ARG_STRING, &opt_aio,
      "threads, or native (which also means --nocache)", "MODE" },
    { "nocache", 'n', 0, G_OPTION_ARG_NONE, &opt_nocache, "open with O_DIRECT",
      NULL },
    { "read-only", 'r', 0, G_OPTION_ARG_NONE, &opt_read_only,
      "refuse to write", NULL },
    { "no-unmap", 0, 0, G_OPTION_ARG_NONE, &opt_no_unmap,
      "discards do not reach the image", NULL },
    { "export-name", 'x', 0, G_OPTION_ARG_STRING, &opt_name,
      "name of an IMAGE given without one [disk]", "NAME" },
    { "workers", 0, 0, G_OPTION_ARG_INT, &opt_workers, "requests at once [64]",
      "N" },
    { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &opt_images, "",
      "[NAME=]IMAGE..." },
    { NULL },
};

static bool parse(int *argc, char ***argv, GError **errp)
{
    g_autoptr(GOptionContext) ctx = g_option_context_new(NULL);

    g_option_context_add_main_entries(ctx, options, NULL);
    if (!g_option_context_parse(ctx, argc, argv, errp)) {
        return false;
    }
    if (!opt_socket || !opt_images) {
        error_set(errp, "a socket (-k) and an image are needed");
        return false;
    }
    if (opt_aio && strcmp(opt_aio, "native") && strcmp(opt_aio, "threads")) {
        error_set(errp, "--aio is native or threads");
        return false;
    }
    return true;
}

static int open_flags(void)
{
    int flags = opt_read_only ? 0 : BDRV_O_RDWR;

    if (opt_nocache) {
        flags |= BDRV_O_NOCACHE;
    }
    if (opt_aio && strcmp(opt_aio, "native") == 0) {
        flags |= BDRV_O_NOCACHE | BDRV_O_NATIVE_AIO;
    }
    return flags | (opt_no_unmap ? 0 : BDRV_O_UNMAP);
}

static bool export_image(BlockContext *ctx, NbdServer *srv, const char *arg,
                         GError **errp)
{
    const char *eq = strchr(arg, '=');
    g_autofree char *name = eq ? g_strndup(arg, (gsize)(eq - arg))
                               : g_strdup(opt_name ? opt_name : "disk");
    g_autoptr(BlockNode) bs = bdrv_open(eq ? eq + 1 : arg, opt_format,
                                        open_flags(), errp);
    BlockBackend *blk = bs ? blk_new(ctx, name, bs, errp) : NULL;

    return blk && nbd_server_add(srv, name, blk, opt_read_only, errp);
}

static gboolean quit(gpointer opaque)
{
    g_main_loop_quit(opaque);
    return G_SOURCE_CONTINUE;
}

static gboolean drop(gpointer opaque)
{
    nbd_server_drop_clients(opaque, NULL);
    return G_SOURCE_CONTINUE;
}

static bool run(BlockContext *ctx, NbdServer *srv, GError **errp)
{
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);

    for (char **p = opt_images; *p; p++) {
        if (!export_image(ctx, srv, *p, errp)) {
            return false;
        }
    }
    g_unix_signal_add(SIGTERM, quit, loop);
    g_unix_signal_add(SIGINT, quit, loop);
    g_unix_signal_add(SIGUSR1, drop, srv);
    if (!nbd_server_listen_unix(srv, opt_socket, errp)) {
        return false;
    }
    printf("listening\n");
    fflush(stdout);
    g_main_loop_run(loop);
    return true;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) err = NULL;
    BlockContext *ctx;
    NbdServer *srv;
    bool ok = false;

    if (parse(&argc, &argv, &err)) {
        ctx = block_context_new();
        srv = nbd_server_new((unsigned)opt_workers, &err);
        ok = srv && run(ctx, srv, &err);
        nbd_server_free(srv);
        block_context_free(ctx);
    }
    if (!ok) {
        fprintf(stderr, "nbd-export: %s\n", err->message);
    }
    g_free(opt_socket);
    g_free(opt_format);
    g_free(opt_aio);
    g_free(opt_name);
    g_strfreev(opt_images);
    return !ok;
}
