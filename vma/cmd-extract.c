/*
 * vma extract: configurations and images out of an archive.
 *
 *     header ──► folder, configurations ──► [list, map file] ──► images opened
 *        ──► data written and checked ──► all synced ──► final name
 *
 * Whatever fails on that way, the folder and all that was made are removed.
 * Images that a map file names are others' and stay, with what was written.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "extract.h"
#include "format.h"
#include "util/error.h"

typedef struct {
    bool verbose, sync;
    const char *archive, *target, *map_file;
    GHashTable *drives; /* names to extract; NULL: all */
    VmaReader *reader;
    ExtractDir dir;
    GHashTable *map;    /* devname → MapEntry; NULL: no map file */
    GHashTable *limits; /* group → RateLimit */
    ExtractOutput outputs[256];
} Extract;

/* ---- configurations ----------------------------------------------------- */

static bool write_config(Extract *x, const VmaConfigInfo *c, GError **errp)
{
    int fd = extract_dir_new_file(&x->dir, c->name, errp);
    size_t done = 0;
    ssize_t n = 0;

    if (fd < 0) {
        return false;
    }
    while (done < c->len && n >= 0) {
        n = write(fd, (const char *)c->data + done, c->len - done);
        done += MAX(n, 0);
    }
    if (n < 0 || (x->sync && fsync(fd) < 0)) {
        error_set_errno(errp, errno, "%s/%s: cannot write", x->target, c->name);
        close(fd);
        return false;
    }
    return close(fd) == 0 || errno == EINTR;
}

static bool write_configs(Extract *x, GError **errp)
{
    for (size_t i = 0; i < vma_reader_n_configs(x->reader); i++) {
        if (!write_config(x, vma_reader_config(x->reader, i), errp)) {
            return false;
        }
    }
    return true;
}

/* ---- images -------------------------------------------------------------- */

/* The limit of a group, or of one device alone. */
static RateLimit *get_limit(Extract *x, const MapEntry *e)
{
    const char *key = e->group ? e->group : e->path;
    RateLimit *limit;

    if (!e->bps && !e->group) {
        return NULL;
    }
    limit = g_hash_table_lookup(x->limits, key);
    if (!limit) {
        limit = g_new0(RateLimit, 1);
        ratelimit_init(limit, e->bps);
        g_hash_table_insert(x->limits, g_strdup(key), limit);
    } else if (e->bps) {
        ratelimit_set_speed(limit, e->bps);
    }
    return limit;
}

/* QEMU's cache modes; -1: no such.  `unsafe' would leave out the sync at the
 * end, which is not for this command to leave out. */
static int cache_flags(const char *mode)
{
    static const struct {
        const char *mode;
        int flags;
    } modes[] = {
        { "writeback", 0 },
        { "unsafe", 0 },
        { "none", BDRV_O_NOCACHE },
        { "writethrough", BDRV_O_WRITETHROUGH },
        { "directsync", BDRV_O_NOCACHE | BDRV_O_WRITETHROUGH },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        if (strcmp(mode, modes[i].mode) == 0) {
            return modes[i].flags;
        }
    }
    return -1;
}

/* What the map says, or what the name tells, or NULL to look into it. */
static const char *map_format(const MapEntry *e)
{
    if (e->format) {
        return e->format;
    }
    return g_str_has_suffix(e->path, ".raw") || g_str_has_prefix(e->path, "/dev/")
               ? "raw"
               : NULL;
}

static bool check_size(const ExtractOutput *out, const VmaDeviceInfo *dev,
                       GError **errp)
{
    int64_t have = bdrv_length(out->node);

    if ((uint64_t)have < dev->size) {
        error_set(errp, "%s: has %" PRId64 " bytes, but device %s needs %" PRIu64,
                  out->name, have, dev->name, dev->size);
        return false;
    }
    return true;
}

/* Two devices must not go to one place. */
static bool check_distinct(Extract *x, const char *path, GError **errp)
{
    struct stat a, b;

    if (stat(path, &a) < 0) {
        return true; /* opening it will tell */
    }
    for (unsigned id = 1; id <= VMA_MAX_DEVICES; id++) {
        const BlockNode *node = x->outputs[id].node;

        if (node && stat(bdrv_filename(node), &b) == 0 && a.st_dev == b.st_dev &&
            a.st_ino == b.st_ino) {
            error_set(errp, "%s: two devices are mapped to %s", x->map_file, path);
            return false;
        }
    }
    return true;
}

static bool open_mapped(Extract *x, const VmaDeviceInfo *dev, ExtractOutput *out,
                        const MapEntry *e, GError **errp)
{
    int flags = e->cache ? cache_flags(e->cache) : 0;

    if (flags < 0) {
        error_set(errp, "%s: there is no cache mode '%s'", e->path, e->cache);
        return false;
    }
    if (!check_distinct(x, e->path, errp)) {
        return false;
    }
    out->name = g_strdup(e->path);
    out->node = bdrv_open(e->path, map_format(e),
                          flags | BDRV_O_RDWR | BDRV_O_UNMAP |
                              (x->sync ? 0 : BDRV_O_NO_FLUSH), errp);
    if (!out->node || !check_size(out, dev, errp)) {
        return false;
    }
    out->write_zeroes = e->write_zeroes;
    out->limit = get_limit(x, e);
    return true;
}

static bool create_raw(Extract *x, const VmaDeviceInfo *dev, ExtractOutput *out,
                       GError **errp)
{
    g_autofree char *file = g_strdup_printf("disk-%s.raw", dev->name);
    g_autofree char *path = g_build_filename(x->dir.path, file, NULL);

    out->name = g_build_filename(x->target, file, NULL);
    if (!bdrv_create(path, "raw", dev->size, NULL, NULL, errp)) {
        return false;
    }
    extract_dir_made(&x->dir, file);
    out->node = bdrv_open(path, "raw", BDRV_O_RDWR | (x->sync ? 0 : BDRV_O_NO_FLUSH),
                          errp);
    if (out->node && x->sync) {
        out->writeback_fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    return out->node != NULL;
}

static bool open_vmstate(Extract *x, ExtractOutput *out, GError **errp)
{
    out->name = g_build_filename(x->target, "vmstate.bin", NULL);
    out->fd = extract_dir_new_file(&x->dir, "vmstate.bin", errp);
    return out->fd >= 0;
}

static bool open_output(Extract *x, const VmaDeviceInfo *dev, ExtractOutput *out,
                        GError **errp)
{
    const MapEntry *e = NULL;

    if (dev->is_vmstate) {
        return open_vmstate(x, out, errp);
    }
    if (x->drives && !g_hash_table_contains(x->drives, dev->name)) {
        return true;
    }
    if (!x->map) {
        return create_raw(x, dev, out, errp);
    }
    e = g_hash_table_lookup(x->map, dev->name);
    if (!e) {
        error_set(errp, "%s: no line for device %s", x->map_file, dev->name);
        return false;
    }
    return e->skip || open_mapped(x, dev, out, e, errp);
}

static bool has_device(const VmaReader *r, const char *name)
{
    for (unsigned id = 1; id <= VMA_MAX_DEVICES; id++) {
        const VmaDeviceInfo *dev = vma_reader_device(r, id);

        if (dev && strcmp(dev->name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* A name that the archive does not have is more likely a slip than meant. */
static bool check_names(Extract *x, GHashTable *names, const char *where,
                        GError **errp)
{
    GHashTableIter iter;
    void *name;

    if (!names) {
        return true;
    }
    g_hash_table_iter_init(&iter, names);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        if (!has_device(x->reader, name)) {
            error_set(errp, "%s: the archive has no device '%s'", where,
                      (const char *)name);
            return false;
        }
    }
    return true;
}

static bool open_outputs(Extract *x, GError **errp)
{
    if (!check_names(x, x->drives, "-d", errp) ||
        !check_names(x, x->map, x->map_file, errp)) {
        return false;
    }
    for (unsigned id = 1; id <= VMA_MAX_DEVICES; id++) {
        const VmaDeviceInfo *dev = vma_reader_device(x->reader, id);

        if (dev && !open_output(x, dev, &x->outputs[id], errp)) {
            return false;
        }
    }
    return true;
}

static bool sync_outputs(Extract *x, GError **errp)
{
    for (unsigned id = 1; id <= VMA_MAX_DEVICES; id++) {
        ExtractOutput *out = &x->outputs[id];
        int ret = 0;

        if (out->node) {
            ret = bdrv_flush(out->node);
        } else if (out->fd >= 0 && x->sync && fsync(out->fd) < 0) {
            ret = -errno;
        }
        if (ret < 0) {
            error_set_errno(errp, -ret, "%s: cannot sync", out->name);
            return false;
        }
    }
    return true;
}

/* ---- the whole ----------------------------------------------------------- */

/* Scripts that use a map file read the list on stdout and nothing else. */
static void print_summary(const Extract *x, const char *archive, uint64_t zero_bytes)
{
    g_autofree char *text = vma_coverage_text(x->reader);
    VmaReaderStats st;
    uint64_t total;

    vma_reader_stats(x->reader, &st);
    total = st.data_bytes + zero_bytes;
    if (x->verbose) {
        fprintf(stderr, "total bytes read %" PRIu64 ", sparse bytes %" PRIu64
                " (%.3g%%)\n", total, zero_bytes,
                total ? zero_bytes * 100.0 / total : 0);
    }
    if (!x->map || x->verbose) {
        fprintf(x->map ? stderr : stdout, "%s: extracted: %s\n", archive, text);
    }
}

static bool extract_data(Extract *x, VmaSource *source, GError **errp)
{
    uint64_t zero_bytes = 0;
    VmaReaderStats st;
    Progress progress;
    bool ok;

    vma_reader_stats(x->reader, &st);
    progress_init(&progress, x->verbose, st.total_clusters * VMA_CLUSTER_SIZE);
    ok = extract_run(source, x->reader, x->outputs, &progress, &zero_bytes, errp);
    progress_end(&progress);
    if (!ok || !sync_outputs(x, errp) ||
        !extract_dir_commit(&x->dir, x->sync, errp)) {
        return false;
    }
    print_summary(x, vma_source_name(source), zero_bytes);
    return true;
}

static bool extract(Extract *x, VmaSource *source, GError **errp)
{
    /* Who answers with the map needs the configurations under the folder's own
     * name, before the end of the list. */
    if (!extract_dir_create(&x->dir, x->target, !x->map_file, errp) ||
        !write_configs(x, errp)) {
        return false;
    }
    if (x->map_file) {
        if (!vma_print_list(x->reader, stdout, errp)) {
            return false;
        }
        x->map = extract_read_map(x->map_file, errp);
        if (!x->map) {
            return false;
        }
    }
    return open_outputs(x, errp) && extract_data(x, source, errp);
}

static void say_nothing(const char *text)
{
}

/* Closing a node syncs it once more, and says so if that fails.  When we fail
 * anyway, one line about why is enough. */
static void close_outputs(Extract *x, bool ok)
{
    if (!ok) {
        g_set_printerr_handler(say_nothing);
    }
    for (unsigned id = 0; id < G_N_ELEMENTS(x->outputs); id++) {
        ExtractOutput *out = &x->outputs[id];

        bdrv_unref(out->node);
        if (out->fd >= 0) {
            close(out->fd);
        }
        if (out->writeback_fd >= 0) {
            close(out->writeback_fd);
        }
        g_free(out->name);
    }
}

static bool run_extract(Extract *x, GError **errp)
{
    VmaSource *source = vma_source_open(x->archive, errp);
    size_t len;
    void *buf;
    bool ok;

    if (!source) {
        return false;
    }
    buf = extract_buffer_new(&len);
    x->reader = vma_source_read_header(source, buf, len, errp);
    ok = x->reader && extract(x, source, errp);
    close_outputs(x, ok);
    extract_dir_clear(&x->dir);
    vma_reader_free(x->reader);
    vma_source_close(source);
    extract_buffer_free(buf);
    return ok;
}

static void free_limit(void *opaque)
{
    ratelimit_destroy(opaque);
    g_free(opaque);
}

static void add_drives(Extract *x, const char *list)
{
    g_auto(GStrv) names = g_strsplit(list, ",", -1);

    if (!x->drives) {
        x->drives = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    }
    for (unsigned i = 0; names[i]; i++) {
        g_hash_table_add(x->drives, g_strdup(names[i]));
    }
}

static bool parse(Extract *x, int argc, char **argv)
{
    static const struct option options[] = {
        { "drives", required_argument, NULL, 'd' },
        { "map", required_argument, NULL, 'r' },
        { "no-sync", no_argument, NULL, 's' },
        { "verbose", no_argument, NULL, 'v' },
        { 0 },
    };
    int c;

    while ((c = getopt_long(argc, argv, "d:r:v", options, NULL)) != -1) {
        switch (c) {
        case 'd':
            add_drives(x, optarg);
            break;
        case 'r':
            x->map_file = optarg;
            break;
        case 's':
            x->sync = false;
            break;
        case 'v':
            x->verbose = true;
            break;
        default:
            return false;
        }
    }
    if (optind + 2 != argc) {
        return false;
    }
    x->archive = argv[optind];
    x->target = argv[optind + 1];
    return true;
}

static bool run(int argc, char **argv, bool *usage, GError **errp)
{
    Extract *x = g_new0(Extract, 1);
    bool ok = false;

    x->dir.fd = x->dir.parent_fd = -1;
    x->sync = true;
    x->limits = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_limit);
    for (unsigned id = 0; id < G_N_ELEMENTS(x->outputs); id++) {
        x->outputs[id].fd = x->outputs[id].writeback_fd = -1;
    }
    *usage = !parse(x, argc, argv);
    if (!*usage) {
        ok = run_extract(x, errp);
    }
    if (x->drives) {
        g_hash_table_destroy(x->drives);
    }
    if (x->map) {
        g_hash_table_destroy(x->map);
    }
    g_hash_table_destroy(x->limits);
    g_free(x);
    return ok;
}

const VmaCommand vma_cmd_extract = {
    .name = "extract",
    .usage = "ARCHIVE [-v] [--no-sync] [-r MAPFILE] [-d DEVNAME,...] TARGETDIR",
    .run = run,
};
