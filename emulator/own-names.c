/*
 * What QEMU says about things that are the sidecar's, put into the words of
 * the user's own command line: a drive that we serve has the user's file name
 * and format, not those of an NBD export, and the inner QMP's chardev does not
 * show; nor is what it says about the image that of an NBD export: its size on
 * disk, its format's own, and the chain below it.
 *
 * QEMU 7.2 calls an export on a socket nbd+unix:///EXPORT?socket=SOCKET.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "own-names.h"
#include "cmdline-internal.h"
#include "image-info.h"

#include <string.h>

static void set_string(json_object *obj, const char *key, const char *value)
{
    if (json_object_object_get_ex(obj, key, NULL)) {
        json_object_object_add(obj, key, json_object_new_string(value));
    }
}

/* The drive that QEMU names so, or NULL. */
static BlockBackend *drive_of(const OwnNames *names, const char *filename)
{
    static const char prefix[] = "nbd+unix:///";
    g_autofree char *suffix = g_strconcat("?socket=", names->nbd_socket, NULL);
    g_autofree char *name = NULL;

    if (!filename || !g_str_has_prefix(filename, prefix) ||
        !g_str_has_suffix(filename, suffix)) {
        return NULL;
    }
    name = g_strdup(filename + strlen(prefix));
    name[strlen(name) - strlen(suffix)] = '\0';
    return blk_by_name(names->block, name);
}

/* What a format says is not said of the file below it. */
static void only_the_file(json_object *image)
{
    static const char *const keys[] = {
        "cluster-size", "format-specific", "backing-filename", "backing-image",
        "backing-filename-format", "full-backing-filename",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        json_object_object_del(image, keys[i]);
    }
    set_string(image, "format", "file");
}

/* A BlockDeviceInfo: "inserted" of query-block, or a named node. */
static void translate_node(const OwnNames *names, json_object *info)
{
    json_object *file = json_object_object_get(info, "file"), *image;
    BlockBackend *blk = drive_of(names, json_object_get_string(file));
    g_autoptr(BlockNode) node = blk ? blk_get_node(blk) : NULL;
    const char *drv;

    if (!node) {
        return;
    }
    set_string(info, "file", bdrv_filename(node));
    /* The upper of QEMU's two nodes is raw over nbd; the lower is the file. */
    drv = json_object_get_string(json_object_object_get(info, "drv"));
    drv = g_strcmp0(drv, "raw") ? "file" : bdrv_format_name(node);
    set_string(info, "drv", drv);
    image = json_object_object_get(info, "image");
    if (image) {
        image_info_fill(image, node);
        if (!strcmp(drv, "file")) {
            only_the_file(image);
        } else {
            image_info_backing(info, node);
        }
    }
}

static void translate_block(const OwnNames *names, json_object *reply)
{
    json_object *list = json_object_object_get(reply, "return");

    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *inserted = json_object_object_get(
            json_object_array_get_idx(list, i), "inserted");

        if (inserted) {
            translate_node(names, inserted);
        }
    }
}

static void translate_nodes(const OwnNames *names, json_object *reply)
{
    json_object *list = json_object_object_get(reply, "return");

    for (size_t i = 0; i < json_object_array_length(list); i++) {
        translate_node(names, json_object_array_get_idx(list, i));
    }
}

static void hide_chardev(const OwnNames *names, json_object *reply)
{
    json_object *list = json_object_object_get(reply, "return");

    for (size_t i = json_object_array_length(list); i-- > 0;) {
        json_object *label = json_object_object_get(
            json_object_array_get_idx(list, i), "label");

        if (!g_strcmp0(json_object_get_string(label), EMU_QMP_ID)) {
            json_object_array_del_idx(list, i, 1);
        }
    }
}

/* ---- HMP ------------------------------------------------------------ */

/* Where the first line that begins with @start begins, from @pos on; or -1. */
static gssize find_line(const GString *text, gssize pos, const char *start)
{
    const char *line = text->str + pos;

    while (line && *line) {
        if (g_str_has_prefix(line, start)) {
            return line - text->str;
        }
        line = strchr(line, '\n');
        line += line != NULL;
    }
    return -1;
}

static gssize next_line(const GString *text, gssize pos)
{
    const char *end = strchr(text->str + pos, '\n');

    return end ? end + 1 - text->str : (gssize)text->len;
}

/*
 * `info block [-v]' about one drive, of which QEMU knows @filename:
 *
 *     NAME (#NODE): FILENAME (raw[, …])
 *         Cache mode:       …
 *
 *     Images:
 *     image: FILENAME
 *     …                                  up to an empty line
 */
static void translate_info_block(GString *text, const char *filename, BlockNode *node)
{
    g_autofree char *title = g_strdup_printf(": %s (raw", filename);
    g_autofree char *image = g_strdup_printf("image: %s\r\n", filename);
    g_autoptr(GString) now = g_string_new(NULL);
    char *found = strstr(text->str, title);
    gssize pos, end;

    if (!found) {
        return;
    }
    pos = found - text->str;
    g_string_printf(now, ": %s (%s", bdrv_filename(node), bdrv_format_name(node));
    g_string_erase(text, pos, strlen(title));
    g_string_insert(text, pos, now->str);
    end = find_line(text, pos, "    Cache mode:");
    if (end >= 0) {
        g_string_truncate(now, 0);
        image_info_backing_line(now, node);
        g_string_insert(text, next_line(text, end), now->str);
    }
    pos = find_line(text, pos, image);
    if (pos >= 0) {
        end = find_line(text, pos, "\r\n");
        g_string_erase(text, pos, end < 0 ? -1 : end - pos);
        g_string_truncate(now, 0);
        image_info_text(now, node);
        g_string_insert(text, pos, now->str);
    }
}

/* Every file name of an export in @text. */
static void translate_filenames(const OwnNames *names, GString *text)
{
    g_autoptr(GPtrArray) all = blk_all(names->block);

    for (guint i = 0; i < all->len; i++) {
        BlockBackend *blk = g_ptr_array_index(all, i);
        g_autoptr(BlockNode) node = blk_get_node(blk);
        g_autofree char *filename =
            g_strdup_printf("nbd+unix:///%s?socket=%s", blk_name(blk),
                            names->nbd_socket);

        if (node) {
            translate_info_block(text, filename, node);
            g_string_replace(text, filename, bdrv_filename(node), 0);
        }
    }
}

static void hide_line(GString *text, const char *start)
{
    char *line = strstr(text->str, start);

    if (line && (line == text->str || line[-1] == '\n')) {
        g_string_erase(text, line - text->str,
                       strcspn(line, "\n") + (strchr(line, '\n') != NULL));
    }
}

static void translate_text(const OwnNames *names, json_object *reply)
{
    json_object *value = json_object_object_get(reply, "return");
    GString *text;

    if (!json_object_is_type(value, json_type_string)) {
        return;
    }
    text = g_string_new(json_object_get_string(value));
    translate_filenames(names, text);
    hide_line(text, EMU_QMP_ID ": ");
    json_object_object_add(reply, "return", json_object_new_string(text->str));
    g_string_free(text, TRUE);
}

/* --------------------------------------------------------------------- */

static const struct {
    const char *command;
    void (*translate)(const OwnNames *names, json_object *reply);
} commands[] = {
    {"query-block", translate_block},
    {"query-named-block-nodes", translate_nodes},
    {"query-chardev", hide_chardev},
    {"human-monitor-command", translate_text},
};

bool own_names_concern(const char *command)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (!strcmp(commands[i].command, command)) {
            return true;
        }
    }
    return false;
}

void own_names_translate(const OwnNames *names, const char *command,
                         json_object *reply)
{
    json_object *value = json_object_object_get(reply, "return");

    for (size_t i = 0; names->block && i < G_N_ELEMENTS(commands); i++) {
        if (!strcmp(commands[i].command, command) &&
            (json_object_is_type(value, json_type_array) ||
             json_object_is_type(value, json_type_string))) {
            commands[i].translate(names, reply);
        }
    }
}
