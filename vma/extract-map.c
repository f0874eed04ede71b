/*
 * The map file of vma extract -r: who put the archive's devices where.
 *
 *     [format=F:][throttling.bps=N:][throttling.group=G:][cache=C:]{0|1}:DEV=PATH
 *     skip=DEV
 *     done
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "extract.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "util/error.h"

#define MAX_MAP (1024 * 1024)

static void map_entry_free(void *opaque)
{
    MapEntry *e = opaque;

    g_free(e->devname);
    g_free(e->path);
    g_free(e->format);
    g_free(e->cache);
    g_free(e->group);
    g_free(e);
}

/* "NAME=VALUE:" at *line: take it off.  1: done, 0: something else, -1. */
static int take_option(const char **line, const char *name, char **value,
                       GError **errp)
{
    size_t n = strlen(name);
    const char *colon;

    if (strncmp(*line, name, n) != 0 || (*line)[n] != '=') {
        return 0;
    }
    colon = strchr(*line + n, ':');
    if (*value || !colon) {
        error_set(errp, *value ? "option %s is given twice"
                               : "option %s does not end with a colon", name);
        return -1;
    }
    *value = g_strndup(*line + n + 1, colon - *line - n - 1);
    *line = colon + 1;
    return 1;
}

static bool take_options(const char **line, MapEntry *e, char **bps, GError **errp)
{
    const struct {
        const char *name;
        char **value;
    } options[] = {
        { "format", &e->format },
        { "throttling.bps", bps },
        { "throttling.group", &e->group },
        { "cache", &e->cache },
    };
    int taken;

    do {
        taken = 0;
        for (size_t i = 0; i < G_N_ELEMENTS(options) && !taken; i++) {
            taken = take_option(line, options[i].name, options[i].value, errp);
        }
    } while (taken > 0);
    return taken == 0;
}

static bool parse_target(const char *line, MapEntry *e, GError **errp)
{
    const char *sep;

    if ((line[0] != '0' && line[0] != '1') || line[1] != ':') {
        error_set(errp, "'0:' or '1:' is missing before the device's name");
        return false;
    }
    e->write_zeroes = line[0] == '1';
    sep = strchr(line + 2, '=');
    if (!sep || sep == line + 2 || !sep[1]) {
        error_set(errp, "DEVICE=PATH is missing");
        return false;
    }
    e->devname = g_strndup(line + 2, sep - line - 2);
    e->path = g_strdup(sep + 1);
    return true;
}

static bool parse_line(const char *line, MapEntry *e, GError **errp)
{
    g_autofree char *bps = NULL;

    if (g_str_has_prefix(line, "skip=") && line[5]) {
        e->devname = g_strdup(line + 5);
        e->skip = true;
        return true;
    }
    if (!take_options(&line, e, &bps, errp) || !parse_target(line, e, errp)) {
        return false;
    }
    if (bps && !g_ascii_string_to_unsigned(bps, 10, 0, INT64_MAX, &e->bps, NULL)) {
        error_set(errp, "'%s' is not a number of bytes a second", bps);
        return false;
    }
    return true;
}

/* One byte at a time: what comes after `done' is not ours, and the writer may
 * keep the FIFO open. */
static bool read_line(int fd, GString *line, GError **errp)
{
    g_string_truncate(line, 0);
    for (;;) {
        ssize_t n;
        char c;

        if (!interrupt_poll(fd, POLLIN, -1, errp)) {
            return false;
        }
        n = read(fd, &c, 1);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            continue;
        }
        if (n < 0) {
            error_set_errno(errp, errno, "cannot read");
            return false;
        }
        if (n == 0 || c == '\n') {
            return true;
        }
        if (c == '\0' || line->len == MAX_MAP) {
            error_set(errp, c ? "line is too long" : "NUL byte in it");
            return false;
        }
        g_string_append_c(line, c);
    }
}

static bool read_lines(int fd, GHashTable *map, GError **errp)
{
    g_autoptr(GString) line = g_string_new(NULL);

    for (unsigned number = 1; ; number++) {
        MapEntry *e;

        if (!read_line(fd, line, errp)) {
            g_prefix_error(errp, "line %u: ", number);
            return false;
        }
        if (!line->len || strcmp(line->str, "done") == 0) {
            return true;
        }
        e = g_new0(MapEntry, 1);
        if (!parse_line(line->str, e, errp)) {
            g_prefix_error(errp, "line %u: ", number);
            map_entry_free(e);
            return false;
        }
        if (g_hash_table_contains(map, e->devname)) {
            error_set(errp, "line %u: device %s is mapped twice", number, e->devname);
            map_entry_free(e);
            return false;
        }
        g_hash_table_insert(map, e->devname, e);
    }
}

GHashTable *extract_read_map(const char *path, GError **errp)
{
    /* Not blocking, for FIFOs: poll waits for the writer, and for signals. */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    GHashTable *map;

    if (fd < 0) {
        error_set_errno(errp, errno, "%s: cannot open", path);
        return NULL;
    }
    map = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, map_entry_free);
    if (!read_lines(fd, map, errp)) {
        g_prefix_error(errp, "%s: ", path);
        g_clear_pointer(&map, g_hash_table_destroy);
    }
    close(fd);
    return map;
}
