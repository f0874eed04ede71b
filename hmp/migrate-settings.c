/*
 * HMP: migrate_set_parameter, migrate_set_capability and what shows them.  QEMU
 * has these commands too, but its settings are those of the streams that it
 * exchanges with the sidecar, and nobody else's business.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "commands.h"
#include "qapi/qapi-commands.h"
#include "util/error.h"
#include "util/size.h"

#include <string.h>

static const char *on_off(bool value)
{
    return value ? "on" : "off";
}

/* ---- parameters -------------------------------------------------------------- */

typedef SidecarMigrationParameters Params;

static bool parse_size(const char *name, const char *text, char unit,
                       uint64_t *value, GError **errp)
{
    if (size_parse(text, unit, NULL, value) || *value > INT64_MAX) {
        error_set(errp, "Invalid size %s of '%s'", text, name);
        return false;
    }
    return true;
}

static bool set_bandwidth(Params *p, const char *name, const char *text,
                          GError **errp)
{
    p->has_max_bandwidth = true;
    return parse_size(name, text, 'M', &p->max_bandwidth, errp);
}

static bool set_downtime(Params *p, const char *name, const char *text,
                         GError **errp)
{
    p->has_downtime_limit = true;
    return parse_size(name, text, 'B', &p->downtime_limit, errp);
}

static bool set_cache_size(Params *p, const char *name, const char *text,
                           GError **errp)
{
    p->has_xbzrle_cache_size = true;
    return parse_size(name, text, 'B', &p->xbzrle_cache_size, errp);
}

static bool set_incremental(Params *p, const char *name, const char *text,
                            GError **errp)
{
    p->has_block_incremental = true;
    p->block_incremental = !strcmp(text, "on");
    if (!p->block_incremental && strcmp(text, "off")) {
        error_set(errp, "Parameter '%s' expects 'on' or 'off'", name);
        return false;
    }
    return true;
}

static const struct {
    const char *name;
    bool (*set)(Params *p, const char *name, const char *text, GError **errp);
} parameters[] = {
    { "max-bandwidth", set_bandwidth }, /* in MiB, as QEMU's */
    { "downtime-limit", set_downtime },
    { "xbzrle-cache-size", set_cache_size },
    { "block-incremental", set_incremental },
};

static bool set_parameter(Monitor *mon, const char *name, const char *text,
                          GError **errp)
{
    for (size_t i = 0; i < G_N_ELEMENTS(parameters); i++) {
        Params p = { 0 };

        if (!strcmp(parameters[i].name, name)) {
            return parameters[i].set(&p, name, text, errp) &&
                qmp_migrate_set_parameters(mon, &p, errp);
        }
    }
    error_set(errp, "The migration parameter '%s' is not supported by "
              "qemu-sidecar", name);
    return false;
}

void hmp_migrate_set_parameter(HmpContext *ctx, const HmpArgs *args)
{
    GError *err = NULL;

    set_parameter(ctx->mon, hmp_args_str(args, "parameter"),
                  hmp_args_str(args, "value"), &err);
    hmp_report_error(ctx, err);
}

void hmp_info_migrate_parameters(HmpContext *ctx, const HmpArgs *args)
{
    g_autoptr(SidecarMigrationParameters) p =
        qmp_query_migrate_parameters(ctx->mon, NULL);

    g_string_append_printf(ctx->out,
                           "max-bandwidth: %" G_GUINT64_FORMAT " bytes/second\n"
                           "downtime-limit: %" G_GUINT64_FORMAT " ms\n"
                           "block-incremental: %s\n"
                           "xbzrle-cache-size: %" G_GUINT64_FORMAT " bytes\n"
                           "stream-format: %s\n", p->max_bandwidth,
                           p->downtime_limit, on_off(p->block_incremental),
                           p->xbzrle_cache_size,
                           SidecarStreamFormat_str(p->stream_format));
}

/* ---- capabilities ------------------------------------------------------------ */

void hmp_migrate_set_capability(HmpContext *ctx, const HmpArgs *args)
{
    const char *name = hmp_args_str(args, "capability");
    int capability = qapi_enum_find(&SidecarMigrationCapability_lookup, name);
    SidecarMigrationCapabilityStatus status = {
        .capability = capability,
        .state = hmp_args_bool(args, "state"),
    };
    SidecarMigrationCapabilityStatusList list = { .value = &status };
    GError *err = NULL;

    if (capability < 0) {
        error_set(&err, "invalid parameter value: %s", name);
    } else {
        qmp_migrate_set_capabilities(ctx->mon, &list, &err);
    }
    hmp_report_error(ctx, err);
}

void hmp_info_migrate_capabilities(HmpContext *ctx, const HmpArgs *args)
{
    g_autoptr(SidecarMigrationCapabilityStatusList) list =
        qmp_query_migrate_capabilities(ctx->mon, NULL);

    for (SidecarMigrationCapabilityStatusList *l = list; l; l = l->next) {
        g_string_append_printf(ctx->out, "%s: %s\n",
                               SidecarMigrationCapability_str(l->value->capability),
                               on_off(l->value->state));
    }
}
