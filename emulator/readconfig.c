/*
 * What a file of -readconfig brings.  It is not taken apart: what is in it stays
 * QEMU's.  But most such files (Proxmox names one for each VM) hold nothing but
 * devices, and then nobody has to be warned, nor be without live migration.
 *
 * The words are looked for anywhere, also in comments: one too many makes us
 * careful without need, no more.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmdline-internal.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_SIZE (256 * 1024)

/* Only of a regular file: what comes out of a pipe would be lost for QEMU. */
static char *read_regular(const char *path)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    g_autofree char *text = g_malloc(MAX_SIZE + 1);
    struct stat st;
    ssize_t n = -1;

    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
        st.st_size < MAX_SIZE) {
        n = read(fd, text, MAX_SIZE);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (n < 0) {
        return NULL;
    }
    text[n] = '\0';
    return strlen(text) == (size_t)n ? g_steal_pointer(&text) : NULL;
}

bool emu_readconfig_may(const EmuOption *opt, const char *const *words)
{
    g_autofree char *text = NULL;

    if (!emu_option_is(opt, "readconfig") || !opt->arg) {
        return false;
    }
    text = read_regular(opt->arg);
    for (; text && *words; words++) {
        if (strstr(text, *words)) {
            return true;
        }
    }
    return !text;
}
