/*
 * The one error domain of qemu-sidecar.
 *
 * Every function that can fail for a reason a user should read takes a
 * GError ** as its last argument and also returns a bool or an int, so that a
 * caller may test the result without looking at the error.  The message says
 * what was being done, to what, and where ("archive.vma: extent 3 at 0x1d0200:
 * MD5 does not match"); it has no trailing full stop or newline.  The code
 * tells a monitor which QMP error class to answer with.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_UTIL_ERROR_H
#define SIDECAR_UTIL_ERROR_H

#include <glib.h>

typedef enum {
    SIDECAR_ERROR_GENERIC,            /* QMP class GenericError */
    SIDECAR_ERROR_COMMAND_NOT_FOUND,  /* CommandNotFound */
    SIDECAR_ERROR_DEVICE_NOT_ACTIVE,  /* DeviceNotActive */
    SIDECAR_ERROR_DEVICE_NOT_FOUND,   /* DeviceNotFound */
    SIDECAR_ERROR_DEVICE_IN_USE,      /* DeviceInUse */
    SIDECAR_ERROR_NOT_SUPPORTED,      /* NotSupported */
    SIDECAR_ERROR_CANCELLED,          /* GenericError; the user asked for it */
} SidecarError;

#define SIDECAR_ERROR (sidecar_error_quark())

GQuark sidecar_error_quark(void);

/* The QMP error class of an error: a static string.  Errors of other domains
 * are "GenericError".  Any thread. */
const char *sidecar_error_class(const GError *error);

/* g_set_error with SIDECAR_ERROR_GENERIC. */
void error_set(GError **errp, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* The same, followed by ": " and strerror(errnum); errnum is positive. */
void error_set_errno(GError **errp, int errnum, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

#endif
