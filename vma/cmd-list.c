/*
 * vma list, vma config: what the header says.  No more than the header is
 * read, so both are quick on any archive and from any pipe.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmd.h"

#include <errno.h>
#include <getopt.h>
#include <json-c/json.h>
#include <string.h>
#include <time.h>
#include <uuid/uuid.h>
#include "util/error.h"

#define HEADER_READ (64 * 1024)

bool vma_print_list(const VmaReader *r, FILE *f, GError **errp)
{
    time_t ctime = vma_reader_ctime(r);
    char when[64] = "?";
    struct tm tm;

    for (size_t i = 0; i < vma_reader_n_configs(r); i++) {
        const VmaConfigInfo *c = vma_reader_config(r, i);

        fprintf(f, "CFG: size: %zu name: %s\n", c->len, c->name);
    }
    for (unsigned id = 1; id <= VMA_MAX_DEVICES; id++) {
        const VmaDeviceInfo *d = vma_reader_device(r, id);

        if (d && d->is_vmstate) {
            fprintf(f, "VMSTATE: dev_id=%u memory: %" G_GUINT64_FORMAT "\n", id,
                    d->size);
        } else if (d) {
            fprintf(f, "DEV: dev_id=%u size: %" G_GUINT64_FORMAT " devname: %s\n",
                    id, d->size, d->name);
        }
    }
    /* The form of ctime(3), in English whatever the locale.  Scripts take this
     * line for the end of the list. */
    if (localtime_r(&ctime, &tm)) {
        strftime(when, sizeof(when), "%a %b %e %H:%M:%S %Y", &tm);
    }
    fprintf(f, "CTIME: %s\n", when);
    if (fflush(f) != 0) {
        error_set_errno(errp, errno, "cannot write the list");
        return false;
    }
    return true;
}

static json_object *json_name(const char *name)
{
    g_autofree char *valid = g_utf8_make_valid(name, -1);

    return json_object_new_string(valid);
}

static json_object *json_device(unsigned id, const VmaDeviceInfo *d)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "dev_id", json_object_new_int(id));
    json_object_object_add(o, "name", json_name(d->name));
    json_object_object_add(o, "size", json_object_new_uint64(d->size));
    json_object_object_add(o, "vmstate", json_object_new_boolean(d->is_vmstate));
    return o;
}

static bool print_json(const VmaReader *r, GError **errp)
{
    json_object *top = json_object_new_object();
    json_object *configs = json_object_new_array();
    json_object *devices = json_object_new_array();
    char uuid[37];
    bool ok;

    uuid_unparse_lower(vma_reader_uuid(r), uuid);
    for (size_t i = 0; i < vma_reader_n_configs(r); i++) {
        const VmaConfigInfo *c = vma_reader_config(r, i);
        json_object *o = json_object_new_object();

        json_object_object_add(o, "name", json_name(c->name));
        json_object_object_add(o, "size", json_object_new_uint64(c->len));
        json_object_array_add(configs, o);
    }
    for (unsigned id = 1; id <= VMA_MAX_DEVICES; id++) {
        if (vma_reader_device(r, id)) {
            json_object_array_add(devices, json_device(id, vma_reader_device(r, id)));
        }
    }
    json_object_object_add(top, "uuid", json_object_new_string(uuid));
    json_object_object_add(top, "ctime", json_object_new_int64(vma_reader_ctime(r)));
    json_object_object_add(top, "configs", configs);
    json_object_object_add(top, "devices", devices);
    printf("%s\n", json_object_to_json_string_ext(top, JSON_C_TO_STRING_PRETTY));
    json_object_put(top);
    ok = fflush(stdout) == 0;
    if (!ok) {
        error_set_errno(errp, errno, "cannot write the list");
    }
    return ok;
}

/* Read the header and hand it to @use. */
static bool with_header(const char *archive,
                        bool (*use)(const VmaReader *r, const void *arg,
                                    GError **errp),
                        const void *arg, GError **errp)
{
    VmaSource *s = vma_source_open(archive, errp);
    g_autofree char *buf = g_malloc(HEADER_READ);
    VmaReader *r;
    bool ok;

    if (!s) {
        return false;
    }
    r = vma_source_read_header(s, buf, HEADER_READ, errp);
    ok = r && use(r, arg, errp);
    vma_reader_free(r);
    vma_source_close(s);
    return ok;
}

static bool use_list(const VmaReader *r, const void *json, GError **errp)
{
    return json ? print_json(r, errp) : vma_print_list(r, stdout, errp);
}

static bool run_list(int argc, char **argv, bool *usage, GError **errp)
{
    static const struct option options[] = {
        { "json", no_argument, NULL, 'j' },
        { "verbose", no_argument, NULL, 'v' },
        { 0 },
    };
    const char *json = NULL;
    int c;

    while ((c = getopt_long(argc, argv, "v", options, NULL)) != -1) {
        if (c == 'j') {
            json = "json";
        } else if (c != 'v') {
            *usage = true;
            return false;
        }
    }
    if (optind + 1 != argc) {
        *usage = true;
        return false;
    }
    return with_header(argv[optind], use_list, json, errp);
}

/* Without a name: the one that Proxmox writes, or else the only one. */
static const VmaConfigInfo *find_config(const VmaReader *r, const char *name)
{
    size_t n = vma_reader_n_configs(r);

    for (size_t i = 0; i < n; i++) {
        const VmaConfigInfo *c = vma_reader_config(r, i);

        if (strcmp(c->name, name ? name : "qemu-server.conf") == 0) {
            return c;
        }
    }
    return !name && n == 1 ? vma_reader_config(r, 0) : NULL;
}

static bool use_config(const VmaReader *r, const void *name, GError **errp)
{
    const VmaConfigInfo *c = find_config(r, name);

    if (!c) {
        g_autoptr(GString) names = g_string_new(NULL);

        for (size_t i = 0; i < vma_reader_n_configs(r); i++) {
            g_string_append_printf(names, "%s%s", i ? ", " : "",
                                   vma_reader_config(r, i)->name);
        }
        error_set(errp, "no configuration named '%s' in the archive (it has: %s)",
                  name ? (const char *)name : "qemu-server.conf",
                  names->len ? names->str : "none");
        return false;
    }
    if (fwrite(c->data, 1, c->len, stdout) != c->len || fflush(stdout) != 0) {
        error_set_errno(errp, errno, "cannot write the configuration");
        return false;
    }
    return true;
}

static bool run_config(int argc, char **argv, bool *usage, GError **errp)
{
    static const struct option options[] = {
        { "config", required_argument, NULL, 'c' },
        { 0 },
    };
    const char *name = NULL;
    int c;

    while ((c = getopt_long(argc, argv, "c:", options, NULL)) != -1) {
        if (c != 'c') {
            *usage = true;
            return false;
        }
        name = optarg;
    }
    if (optind + 1 != argc) {
        *usage = true;
        return false;
    }
    return with_header(argv[optind], use_config, name, errp);
}

const VmaCommand vma_cmd_list = {
    .name = "list",
    .usage = "ARCHIVE [--json]",
    .run = run_list,
};

const VmaCommand vma_cmd_config = {
    .name = "config",
    .usage = "ARCHIVE [-c NAME]",
    .run = run_config,
};
