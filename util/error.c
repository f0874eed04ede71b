/*
 * The error domain; see include/util/error.h for the contract.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "util/error.h"

/* Not G_DEFINE_QUARK, which is no good for threads that meet here first. */
GQuark sidecar_error_quark(void)
{
    static gsize quark;

    if (g_once_init_enter(&quark)) {
        g_once_init_leave(&quark, g_quark_from_static_string("sidecar-error-quark"));
    }
    return (GQuark)quark;
}

const char *sidecar_error_class(const GError *error)
{
    static const char *const names[] = {
        [SIDECAR_ERROR_GENERIC] = "GenericError",
        [SIDECAR_ERROR_COMMAND_NOT_FOUND] = "CommandNotFound",
        [SIDECAR_ERROR_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
        [SIDECAR_ERROR_DEVICE_NOT_FOUND] = "DeviceNotFound",
        [SIDECAR_ERROR_DEVICE_IN_USE] = "DeviceInUse",
        [SIDECAR_ERROR_NOT_SUPPORTED] = "NotSupported",
        [SIDECAR_ERROR_CANCELLED] = "GenericError",
    };

    if (error->domain != SIDECAR_ERROR || error->code < 0 ||
        (size_t)error->code >= G_N_ELEMENTS(names)) {
        return "GenericError";
    }
    return names[error->code];
}

static void G_GNUC_PRINTF(3, 0) set_va(GError **errp, int errnum,
                                       const char *fmt, va_list ap)
{
    g_autofree char *text = g_strdup_vprintf(fmt, ap);

    if (errnum) {
        g_set_error(errp, SIDECAR_ERROR, SIDECAR_ERROR_GENERIC, "%s: %s", text,
                    g_strerror(errnum));
    } else {
        g_set_error_literal(errp, SIDECAR_ERROR, SIDECAR_ERROR_GENERIC, text);
    }
}

void error_set(GError **errp, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    set_va(errp, 0, fmt, ap);
    va_end(ap);
}

void error_set_errno(GError **errp, int errnum, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    set_va(errp, errnum, fmt, ap);
    va_end(ap);
}
