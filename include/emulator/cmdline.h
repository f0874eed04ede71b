/*
 * QEMU's command line, taken apart, rewritten and put together again.
 *
 * Three steps, so that --print-qemu-command and the unit tests can stop after
 * the second, which opens nothing but files of -readconfig, and creates nothing:
 *
 *     emu_cmdline_parse   argv → options, each with its argument
 *     emu_cmdline_plan    which drives and monitors the sidecar takes over,
 *                         what each drive is called, what stays QEMU's and why
 *     emu_cmdline_argv    the new argv; a taken option is replaced, every
 *                         other one is passed on exactly as it was given
 *
 * Between the second and the third the caller opens what was taken over; a
 * drive or monitor that turns out not to be possible is given back with
 * emu_drive_leave or emu_monitor_leave.  An option that is wrong in itself is
 * never reported here: it goes to QEMU as it is, whose own message the user
 * knows.  The exception is what only the sidecar can see (two users of stdio,
 * one of them ours; stdio and -daemonize).
 *
 * No threads.  Facts about QEMU are those of version 7.2, checked
 * against the program.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SIDECAR_EMULATOR_CMDLINE_H
#define SIDECAR_EMULATOR_CMDLINE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    char *name;     /* without dashes; "" for a positional disk image */
    char *word;     /* as given: "-hda", "--drive", or the image's name */
    char *arg;      /* or NULL */
    bool taken;     /* emit @out instead of word and arg */
    GPtrArray *out; /* of char *, or NULL for nothing */
} EmuOption;

/* A -drive (or -hda, -cdrom, … or positional image) with a local file. */
typedef struct {
    char *name;      /* the device name, by which monitors know it */
    char *filename;
    char *format;    /* NULL: probe */
    int flags;       /* BdrvOpenFlags */
    uint64_t size;   /* that a raw image has to have (size=), or 0 */
    bool removable;  /* media=cdrom or if=floppy */
    char *left;      /* why it stays QEMU's own; NULL: it is ours */
    unsigned option; /* index in EmuCmdline.options */
    char *rest;      /* what QEMU still has to know: ",if=virtio,…" */
} EmuDrive;

typedef struct {
    char *spec;       /* for chardev_new */
    bool option_form; /* @spec follows -chardev, not -monitor */
    bool qmp, pretty;
    bool mux;         /* with the keys of a shared terminal (C-a x, …) */
    char *shared_id;  /* the terminal is shared with a serial port (or other
                         front end) of QEMU's, whose chardev has this id */
    char *left;       /* why it stays QEMU's own; NULL: it is ours */
    unsigned option;  /* that is replaced when this monitor is taken */
    char *source;     /* how the user wrote it ("-monitor stdio") */
} EmuMonitor;

/* A block of guest RAM that the sidecar maps as well. */
typedef struct {
    char *id;         /* of the memory backend */
    uint64_t size;    /* bytes */
    char *path;       /* mem-path of the user's own backend, or NULL */
    uint64_t hugetlb; /* of the user's memfd: page size; 1: the default one */
    int option;       /* the user's -object; -1: the machine's main RAM */
    bool device;      /* of a device (pc-dimm, …), which may be unplugged */
    char *rest;       /* other properties: ",prealloc=on,…" */
} EmuRam;

typedef struct {
    char *binary;
    GPtrArray *options;  /* EmuOption */
    GPtrArray *drives;   /* EmuDrive, command-line order */
    GPtrArray *monitors; /* EmuMonitor, command-line order */
    GPtrArray *ram;      /* EmuRam; empty: RAM stays QEMU's own, because… */
    char *ram_left;      /* …of this, in words */
    /* What the line says beside that. */
    char *machine;       /* type, or NULL */
    bool daemonize;      /* taken out: the sidecar does it */
    bool nographic, nodefaults, snapshot, loadvm;
    bool runas;          /* QEMU changes its user id */
    bool only_information; /* -help, -version, "-device help": run QEMU as it is */
    char *pidfile;       /* or NULL; stays QEMU's own */
    char *incoming;      /* -incoming, taken over; NULL: none, or QEMU's own */
    int escape;          /* the key before x, c, h … on a shared terminal */
    GPtrArray *warnings; /* char *, for the user */
    GPtrArray *appended; /* char *, behind the user's options */
} EmuCmdline;

/* @argv: QEMU-BINARY and its options, NULL-terminated.  Never fails on what
 * QEMU would complain about. */
EmuCmdline *emu_cmdline_parse(const char *const *argv);
void emu_cmdline_free(EmuCmdline *cl);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EmuCmdline, emu_cmdline_free)

bool emu_cmdline_plan(EmuCmdline *cl, GError **errp);

void emu_drive_leave(EmuCmdline *cl, EmuDrive *drive, const char *why);
void emu_monitor_leave(EmuCmdline *cl, EmuMonitor *monitor, const char *why);

/* What is known only when everything is open. */
typedef struct {
    const char *nbd_socket; /* abstract name without the @ */
    int qmp_fd;             /* QEMU's end of the inner QMP */
    /* QEMU's end of the terminal shared by @monitor. */
    int (*shared_fd)(void *opaque, const EmuMonitor *monitor);
    void *opaque;
    /* The descriptor, as QEMU will know it, of the file that @ram is to lie
     * in; -1: as the user has it.  NULL: leave all RAM alone. */
    int (*ram_fd)(void *ram_opaque, const EmuRam *ram);
    void *ram_opaque;
} EmuRuntime;

/* The new argv, NULL-terminated; g_strfreev. */
char **emu_cmdline_argv(EmuCmdline *cl, const EmuRuntime *rt);
/* @argv in one line, quoted for a shell; g_free. */
char *emu_cmdline_quote(char *const *argv);

/* Each -add-fd fd=FD,set=ID of the line that makes sense; QEMU takes it too. */
void emu_cmdline_fdsets(const EmuCmdline *cl,
                        void (*fn)(void *opaque, int64_t set, int fd), void *opaque);

/* For tests and messages: takes @name an argument?  -1: not a known option. */
int emu_option_has_arg(const char *name);
/* The names of all known options, NULL-terminated; g_free the array. */
const char **emu_option_names(void);

#endif
