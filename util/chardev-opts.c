/*
 * What the user wrote after -monitor, -qmp, -serial or -chardev.
 *
 * The short form ("tcp:127.0.0.1:4444,server=on") is an address and options;
 * the long form ("socket,id=m,host=…") only options.  Both end in the same
 * table of options and the same checks.  Options follow QEMU's rules: separated
 * by commas, a comma inside a value is written twice, a bare word means =on,
 * and one that starts with "no" means =off.
 *
 * Anything that belongs to a chardev which the sidecar does not serve gives
 * SIDECAR_ERROR_NOT_SUPPORTED and is then QEMU's; the wording of the other
 * errors is that of QEMU 7.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "chardev-int.h"
#include "util/error.h"

#include <string.h>

typedef struct {
    GHashTable *values; /* name -> value, the last one said */
} Options;

typedef enum { OPT_STRING, OPT_BOOL, OPT_NUMBER } OptionType;

/* The chardev options of QEMU 7.2.  SERVED: by us; the others QEMU must
 * handle, so a chardev that has one is left to it. */
static const struct {
    const char *name;
    OptionType type;
    bool served;
} known_options[] = {
    { "path", OPT_STRING, true },      { "host", OPT_STRING, true },
    { "port", OPT_STRING, true },      { "fd", OPT_STRING, true },
    { "to", OPT_NUMBER, true },        { "ipv4", OPT_BOOL, true },
    { "ipv6", OPT_BOOL, true },        { "wait", OPT_BOOL, true },
    { "server", OPT_BOOL, true },      { "delay", OPT_BOOL, true },
    { "nodelay", OPT_BOOL, true },     { "reconnect", OPT_NUMBER, true },
    { "telnet", OPT_BOOL, true },      { "mux", OPT_BOOL, true },
    { "signal", OPT_BOOL, true },      { "abstract", OPT_BOOL, true },
    { "tight", OPT_BOOL, true },       { "id", OPT_STRING, true },
    { "tn3270", OPT_BOOL, false },     { "websocket", OPT_BOOL, false },
    { "tls-creds", OPT_STRING, false }, { "tls-authz", OPT_STRING, false },
    { "logfile", OPT_STRING, false },  { "logappend", OPT_BOOL, false },
    { "input-path", OPT_STRING, false }, { "localaddr", OPT_STRING, false },
    { "localport", OPT_STRING, false }, { "name", OPT_STRING, false },
    { "width", OPT_NUMBER, false },    { "height", OPT_NUMBER, false },
    { "cols", OPT_NUMBER, false },     { "rows", OPT_NUMBER, false },
    { "debug", OPT_NUMBER, false },    { "size", OPT_STRING, false },
    { "chardev", OPT_STRING, false },  { "append", OPT_BOOL, false },
    { "mouse", OPT_BOOL, false },      { "clipboard", OPT_BOOL, false },
};

static void not_supported(GError **errp, const char *what)
{
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                "chardev option '%s' is not served by qemu-sidecar", what);
}

static bool parse_bool(const char *value, bool *on)
{
    static const char *const yes[] = { "on", "yes", "true", "y", NULL };
    static const char *const no[] = { "off", "no", "false", "n", NULL };

    *on = g_strv_contains(yes, value);
    return *on || g_strv_contains(no, value);
}

static bool check_value(size_t i, const char *value, GError **errp)
{
    const char *name = known_options[i].name;
    guint64 n;
    bool on = true;

    if (known_options[i].type == OPT_BOOL && !parse_bool(value, &on)) {
        error_set(errp, "Parameter '%s' expects 'on' or 'off'", name);
        return false;
    }
    if (known_options[i].type == OPT_NUMBER &&
        !g_ascii_string_to_unsigned(value, 10, 0, G_MAXINT, &n, NULL)) {
        error_set(errp, "Parameter '%s' expects a number", name);
        return false;
    }
    if (!known_options[i].served && on) {
        not_supported(errp, name);
        return false;
    }
    return true;
}

static bool set_option(Options *o, const char *name, const char *value,
                       GError **errp)
{
    for (size_t i = 0; i < G_N_ELEMENTS(known_options); i++) {
        if (g_str_equal(name, known_options[i].name)) {
            if (!check_value(i, value, errp)) {
                return false;
            }
            g_hash_table_replace(o->values, g_strdup(name), g_strdup(value));
            return true;
        }
    }
    error_set(errp, "Invalid parameter '%s'", name);
    return false;
}

/* Up to the next single comma; *p is moved behind it.  g_free. */
static char *next_word(const char **p)
{
    GString *s = g_string_new(NULL);
    const char *c = *p;

    for (; *c && (c[0] != ',' || c[1] == ','); c++) {
        g_string_append_c(s, *c);
        c += *c == ',';
    }
    *p = *c ? c + 1 : c;
    return g_string_free(s, FALSE);
}

static bool known(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(known_options); i++) {
        if (g_str_equal(name, known_options[i].name)) {
            return true;
        }
    }
    return false;
}

/* "a=b,c,nod": the rest of a spec.  @implied: the name of a first word that
 * has none; or NULL. */
static bool parse_options(Options *o, const char *p, const char *implied,
                          GError **errp)
{
    for (; *p; implied = NULL) {
        g_autofree char *word = next_word(&p);
        char *eq = strchr(word, '=');
        bool ok;

        if (eq) {
            *eq = '\0';
            ok = set_option(o, word, eq + 1, errp);
        } else if (implied) {
            ok = set_option(o, implied, word, errp);
        } else if (!known(word) && g_str_has_prefix(word, "no")) {
            ok = set_option(o, word + 2, "off", errp);
        } else {
            ok = set_option(o, word, "on", errp);
        }
        if (!ok) {
            return false;
        }
    }
    return true;
}

static const char *get(const Options *o, const char *name)
{
    return g_hash_table_lookup(o->values, name);
}

static bool get_bool(const Options *o, const char *name, bool otherwise)
{
    const char *value = get(o, name);
    bool on = otherwise;

    if (value) {
        parse_bool(value, &on);
    }
    return on;
}

static int get_flag(const Options *o, const char *name)
{
    return get(o, name) ? get_bool(o, name, false) : -1;
}

static int get_number(const Options *o, const char *name)
{
    const char *value = get(o, name);

    return value ? (int)g_ascii_strtoull(value, NULL, 10) : 0;
}

static SocketAddress *make_inet(const Options *o, GError **errp)
{
    SocketAddress *addr;

    if (!get(o, "port")) {
        error_set(errp, "chardev: socket: no port given");
        return NULL;
    }
    addr = socket_address_new(SOCKET_ADDRESS_INET);
    addr->host = g_strdup(get(o, "host"));
    addr->port = g_strdup(get(o, "port"));
    addr->to = MIN(get_number(o, "to"), 65535);
    addr->ipv4 = get_flag(o, "ipv4");
    addr->ipv6 = get_flag(o, "ipv6");
    return addr;
}

static SocketAddress *make_address(const Options *o, GError **errp)
{
    const char *path = get(o, "path"), *host = get(o, "host");
    const char *fd = get(o, "fd");
    SocketAddress *addr;
    guint64 n;

    if (!!path + !!fd + !!host > 1) {
        error_set(errp, "None or one of 'path', 'fd' or 'host' option required.");
        return NULL;
    }
    if (path) {
        addr = socket_address_new(SOCKET_ADDRESS_UNIX);
        addr->path = g_strdup(path);
        addr->abstract = get_bool(o, "abstract", false);
        addr->tight = get_bool(o, "tight", true);
        return addr;
    }
    if (host) {
        return make_inet(o, errp);
    }
    if (!fd) {
        /* QEMU makes up an address that nobody gets to know. */
        not_supported(errp, "socket without an address");
        return NULL;
    }
    if (!g_ascii_string_to_unsigned(fd, 10, 0, G_MAXINT, &n, NULL)) {
        error_set(errp, "Unable to parse FD number %s", fd);
        return NULL;
    }
    addr = socket_address_new(SOCKET_ADDRESS_FD);
    addr->fd = (int)n;
    return addr;
}

static bool fill_socket(ChardevOptions *opts, const Options *o, GError **errp)
{
    opts->addr = make_address(o, errp);
    if (!opts->addr) {
        return false;
    }
    opts->server = get_bool(o, "server", false);
    opts->wait = opts->server && get_bool(o, "wait", true);
    opts->nodelay = get_bool(o, "nodelay", false) || !get_bool(o, "delay", true);
    opts->telnet = get_bool(o, "telnet", false);
    opts->reconnect = get_number(o, "reconnect");
    if (opts->addr->type == SOCKET_ADDRESS_FD && get(o, "reconnect")) {
        error_set(errp,
                  "'reconnect' option is incompatible with 'fd' address type");
        return false;
    }
    if (opts->server && get(o, "reconnect")) {
        error_set(errp, "'reconnect' option is incompatible with socket in "
                  "server listen mode");
        return false;
    }
    if (!opts->server && get(o, "wait")) {
        error_set(errp, "'wait' option is incompatible with socket in client "
                  "connect mode");
        return false;
    }
    return true;
}

/* "HOST:PORT[,…]" of tcp: and telnet: as QEMU cuts it up: the host may be
 * empty.  Brackets around an IPv6 address are taken as well. */
static bool parse_short_inet(Options *o, const char *spec, const char *p,
                             GError **errp)
{
    size_t len = strcspn(p, ",");
    g_autofree char *where = g_strndup(p, len);
    char *host = where, *colon;

    if (where[0] == '[' && (colon = strstr(where, "]:"))) {
        *colon++ = '\0';
        host++;
    } else {
        colon = strchr(where, ':');
    }
    if (!colon || !colon[1]) {
        error_set(errp, "parse error: %s", spec);
        return false;
    }
    *colon = '\0';
    return set_option(o, "host", host, errp) &&
           set_option(o, "port", colon + 1, errp) &&
           parse_options(o, p[len] ? p + len + 1 : "", NULL, errp);
}

static bool parse_short(ChardevOptions *opts, Options *o, const char *spec,
                        GError **errp)
{
    const char *p = spec;

    if (g_str_has_prefix(p, "mon:")) {
        p += 4;
        set_option(o, "mux", "on", NULL);
        if (g_str_equal(p, "stdio")) {
            set_option(o, "signal", "off", NULL);
        }
    }
    if (g_str_equal(p, "stdio")) {
        opts->is_stdio = true;
        return true;
    }
    if (g_str_has_prefix(p, "unix:")) {
        return parse_options(o, p + 5, "path", errp);
    }
    if (g_str_has_prefix(p, "tcp:")) {
        return parse_short_inet(o, spec, p + 4, errp);
    }
    if (g_str_has_prefix(p, "telnet:")) {
        return parse_short_inet(o, spec, p + 7, errp) &&
               set_option(o, "telnet", "on", errp);
    }
    g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                "'%s' is not a char driver of qemu-sidecar", p);
    return false;
}

static bool parse_long(ChardevOptions *opts, Options *o, const char *spec,
                       GError **errp)
{
    const char *p = spec;
    g_autofree char *word = next_word(&p);
    const char *backend = g_str_has_prefix(word, "backend=") ? word + 8 : word;

    opts->is_stdio = g_str_equal(backend, "stdio");
    if (!opts->is_stdio && !g_str_equal(backend, "socket")) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_NOT_SUPPORTED,
                    "'%s' is not a char driver of qemu-sidecar", backend);
        return false;
    }
    if (!parse_options(o, p, NULL, errp)) {
        return false;
    }
    if (!get(o, "id")) {
        error_set(errp, "chardev: no id specified");
        return false;
    }
    return true;
}

ChardevOptions *chardev_options_parse(const char *spec, bool option_form,
                                      GError **errp)
{
    g_autoptr(ChardevOptions) opts = g_new0(ChardevOptions, 1);
    g_autoptr(GHashTable) values =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    Options o = { values };

    opts->text = g_strdup(spec);
    if (!(option_form ? parse_long : parse_short)(opts, &o, spec, errp)) {
        return NULL;
    }
    opts->id = g_strdup(get(&o, "id"));
    opts->mux = get_bool(&o, "mux", false);
    opts->signal = get_bool(&o, "signal", true);
    if (!opts->is_stdio && !fill_socket(opts, &o, errp)) {
        return NULL;
    }
    return g_steal_pointer(&opts);
}

void chardev_options_free(ChardevOptions *opts)
{
    if (opts) {
        g_free(opts->id);
        g_free(opts->text);
        socket_address_free(opts->addr);
        g_free(opts);
    }
}
