/*
 * vma create: images and configurations into an archive.
 *
 * Images are read through the block layer, one after the other, straight into
 * the extent that will be written; what the layer knows to be zero is not read
 * at all.  The writer's own thread writes meanwhile.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmd.h"

#include <getopt.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uuid/uuid.h>
#include "block/block.h"
#include "format.h"
#include "util/error.h"

/* How far one question for holes looks. */
#define STATUS_RANGE (INT64_C(1) << 40)

typedef struct {
    char *format; /* NULL: probe */
    char *devname;
    char *path;
    BlockNode *node;
    int64_t size;
    unsigned dev_id;
    uint64_t zeros;
} Image;

typedef struct {
    bool verbose, digest, sync;
    GPtrArray *configs; /* paths; borrowed */
    GPtrArray *images;  /* of Image */
    VmaWriter *writer;
    Progress progress;
    uint64_t done; /* bytes of all images */
} Create;

static void image_free(void *opaque)
{
    Image *img = opaque;

    bdrv_unref(img->node);
    g_free(img->format);
    g_free(img->devname);
    g_free(img->path);
    g_free(img);
}

/* [format=F:][DEVNAME=]PATH */
static Image *parse_image(const char *arg, unsigned number)
{
    Image *img = g_new0(Image, 1);
    const char *sep;

    if (g_str_has_prefix(arg, "format=") && (sep = strchr(arg, ':'))) {
        img->format = g_strndup(arg + 7, sep - arg - 7);
        arg = sep + 1;
    }
    sep = strchr(arg, '=');
    if (sep) {
        img->devname = g_strndup(arg, sep - arg);
        arg = sep + 1;
    } else {
        img->devname = g_strdup_printf("disk%u", number);
    }
    img->path = g_strdup(arg);
    return img;
}

/* ---- reading ---------------------------------------------------------- */

static bool put(Create *c, Image *img, uint64_t cluster, const void *buf,
                GError **errp)
{
    int64_t zeros = vma_writer_put_cluster(c->writer, img->dev_id, cluster, buf,
                                           errp);

    if (zeros < 0) {
        return false;
    }
    img->zeros += zeros;
    c->done += MIN(img->size - cluster * VMA_CLUSTER_SIZE, VMA_CLUSTER_SIZE);
    progress_update(&c->progress, c->done);
    return true;
}

static bool put_from_image(Create *c, Image *img, uint64_t cluster, GError **errp)
{
    int64_t offset = cluster * VMA_CLUSTER_SIZE;
    void *buf = vma_writer_buffer(c->writer, errp);
    int ret;

    if (!buf) {
        return false;
    }
    ret = bdrv_pread(img->node, offset, MIN(img->size - offset, VMA_CLUSTER_SIZE),
                     buf);
    if (ret < 0) {
        error_set_errno(errp, -ret, "%s: cannot read at 0x%" PRIx64, img->path,
                        offset);
        return false;
    }
    return put(c, img, cluster, buf, errp);
}

/* Up to where from @offset on the image is known to be zero; @offset: it is
 * not.  Sets *end to where the answer ends. */
static bool known_zero(Image *img, int64_t offset, bool *zero, int64_t *end,
                       GError **errp)
{
    int64_t n;
    int ret = bdrv_block_status(img->node, offset,
                                MIN(img->size - offset, STATUS_RANGE), &n);

    if (ret < 0) {
        error_set_errno(errp, -ret, "%s: cannot see what is at 0x%" PRIx64,
                        img->path, offset);
        return false;
    }
    *zero = ret & BDRV_BLOCK_ZERO;
    *end = offset + n;
    return true;
}

static bool put_image(Create *c, Image *img, GError **errp)
{
    uint64_t count = vma_cluster_count(img->size);
    int64_t end = 0;
    bool zero = false;

    for (uint64_t cluster = 0; cluster < count; cluster++) {
        int64_t from = cluster * VMA_CLUSTER_SIZE;
        int64_t to = MIN(from + VMA_CLUSTER_SIZE, img->size);

        if (!interrupt_check(errp)) {
            return false;
        }
        if (from >= end && !known_zero(img, from, &zero, &end, errp)) {
            return false;
        }
        /* A cluster that is only partly known is read. */
        if (zero && to <= end ? !put(c, img, cluster, NULL, errp)
                              : !put_from_image(c, img, cluster, errp)) {
            return false;
        }
        if (zero && to > end) {
            end = to; /* ask again behind it */
        }
    }
    return true;
}

/* ---- set-up ------------------------------------------------------------ */

static bool add_config(Create *c, const char *path, GError **errp)
{
    g_autofree char *name = g_path_get_basename(path);
    g_autofree char *data = NULL;
    g_autoptr(GError) why = NULL;
    gsize len;

    if (!g_file_get_contents(path, &data, &len, &why)) {
        error_set(errp, "%s", why->message);
        return false;
    }
    return vma_writer_add_config(c->writer, name, data, len, errp);
}

static bool open_image(Create *c, Image *img, GError **errp)
{
    img->node = bdrv_open(img->path, img->format, 0, errp);
    if (!img->node) {
        return false;
    }
    img->size = bdrv_length(img->node);
    if (img->size == 0) {
        error_set(errp, "%s: the image is empty", img->path);
        return false;
    }
    c->progress.total += img->size;
    return true;
}

static bool add_device(Create *c, Image *img, GError **errp)
{
    img->dev_id = vma_writer_add_device(c->writer, img->devname, img->size, errp);
    if (img->dev_id && img->size % VMA_SECTOR_SIZE) {
        fprintf(stderr, "vma: %s: size %" PRId64 " is rounded up to a multiple of "
                "%d with zeros\n", img->path, img->size, VMA_SECTOR_SIZE);
    }
    return img->dev_id != 0;
}

static bool write_archive(Create *c, GError **errp)
{
    for (unsigned i = 0; i < c->configs->len; i++) {
        if (!add_config(c, g_ptr_array_index(c->configs, i), errp)) {
            return false;
        }
    }
    for (unsigned i = 0; i < c->images->len; i++) {
        if (!add_device(c, g_ptr_array_index(c->images, i), errp)) {
            return false;
        }
    }
    for (unsigned i = 0; i < c->images->len; i++) {
        if (!put_image(c, g_ptr_array_index(c->images, i), errp)) {
            return false;
        }
    }
    return vma_writer_finish(c->writer, errp);
}

static void print_summary(const Create *c)
{
    for (unsigned i = 0; i < c->images->len; i++) {
        const Image *img = g_ptr_array_index(c->images, i);

        fprintf(stderr, "image %s: size=%" PRId64 " zeros=%" PRIu64 " saved=%" PRIu64
                "\n", img->devname, img->size, img->zeros, img->size - img->zeros);
    }
}

static bool create(Create *c, const char *archive, GError **errp)
{
    VmaTarget *target;
    uuid_t uuid;
    bool ok;

    progress_init(&c->progress, c->verbose, 0);
    for (unsigned i = 0; i < c->images->len; i++) {
        if (!open_image(c, g_ptr_array_index(c->images, i), errp)) {
            return false;
        }
    }
    if (strcmp(archive, "-") == 0 && isatty(STDOUT_FILENO)) {
        error_set(errp, "standard output is a terminal, which wants no archive");
        return false;
    }
    target = vma_target_open(archive, errp);
    if (!target) {
        return false;
    }
    interrupt_set_target(target);
    if (!c->sync) {
        vma_target_no_sync(target);
    }
    uuid_generate(uuid);
    c->writer = vma_writer_new(target, uuid, time(NULL), c->digest, errp);
    ok = write_archive(c, errp) && vma_target_commit(target, errp);
    interrupt_set_target(NULL);
    vma_writer_free(c->writer);
    vma_target_free(target);
    progress_end(&c->progress);
    if (ok && c->verbose) {
        print_summary(c);
    }
    return ok;
}

static bool parse(Create *c, int argc, char **argv, const char **archive)
{
    static const struct option options[] = {
        { "config", required_argument, NULL, 'c' },
        { "device", required_argument, NULL, 'd' },
        { "no-digest", no_argument, NULL, 'n' },
        { "no-sync", no_argument, NULL, 's' },
        { "verbose", no_argument, NULL, 'v' },
        { 0 },
    };
    int opt;

    while ((opt = getopt_long(argc, argv, "c:d:v", options, NULL)) != -1) {
        switch (opt) {
        case 'c':
            g_ptr_array_add(c->configs, optarg);
            break;
        case 'd':
            g_ptr_array_add(c->images, parse_image(optarg, c->images->len));
            break;
        case 'n':
            c->digest = false;
            break;
        case 's':
            c->sync = false;
            break;
        case 'v':
            c->verbose = true;
            break;
        default:
            return false;
        }
    }
    if (optind >= argc) {
        return false;
    }
    *archive = argv[optind++];
    while (optind < argc) {
        g_ptr_array_add(c->images, parse_image(argv[optind++], c->images->len));
    }
    return c->images->len || c->configs->len;
}

static bool run(int argc, char **argv, bool *usage, GError **errp)
{
    Create c = {
        .digest = true,
        .sync = true,
        .configs = g_ptr_array_new(),
        .images = g_ptr_array_new_with_free_func(image_free),
    };
    const char *archive;
    bool ok = false;

    *usage = !parse(&c, argc, argv, &archive);
    if (!*usage) {
        ok = create(&c, archive, errp);
    }
    g_ptr_array_unref(c.configs);
    g_ptr_array_unref(c.images);
    return ok;
}

const VmaCommand vma_cmd_create = {
    .name = "create",
    .usage = "ARCHIVE [-v] [--no-digest] [--no-sync] [-c CONFIG]... "
             "[-d [format=F:]DEVNAME=IMAGE]... [[DEVNAME=]IMAGE...]",
    .run = run,
};
