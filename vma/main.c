/*
 * The vma command: makes, lists, checks and takes apart VMA archives.
 *
 * A subcommand returns an error; it becomes one line on stderr here.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmd.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "config-host.h"

static const VmaCommand *const commands[] = {
    &vma_cmd_list, &vma_cmd_config, &vma_cmd_create, &vma_cmd_extract,
    &vma_cmd_verify,
};

static void print_usage(FILE *f)
{
    fprintf(f, "usage: vma COMMAND ...\n\n");
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        fprintf(f, "vma %s %s\n", commands[i]->name, commands[i]->usage);
    }
    fprintf(f, "\nARCHIVE may be -, standard input or output.  See vma(1).\n");
}

static int run(const VmaCommand *cmd, int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GError) interrupted = NULL;
    bool usage = false;

    if (cmd->run(argc, argv, &usage, &error)) {
        return 0;
    }
    if (usage) {
        fprintf(stderr, "usage: vma %s %s\n", cmd->name, cmd->usage);
        return 2;
    }
    /* Whatever a signal made fail, the signal is the reason. */
    interrupt_check(&interrupted);
    fprintf(stderr, "vma: %s\n", interrupted ? interrupted->message : error->message);
    return 1;
}

/* A closed stdin, stdout or stderr must not become one of our files: what is
 * printed would end up in an image.  What stands in for stdin and stdout
 * cannot be read or written, so that whoever needs it hears of it. */
static void open_std_fds(void)
{
    static const int modes[] = {O_WRONLY, O_RDONLY, O_WRONLY};

    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) < 0) {
            open("/dev/null", modes[fd]); /* gets the lowest number: fd */
        }
    }
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";

    open_std_fds();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    interrupt_init();
    if (strcmp(name, "--version") == 0) {
        printf("vma %s (qemu-sidecar)\n", CONFIG_VERSION);
        return 0;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        print_usage(stdout);
        return 0;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (strcmp(name, commands[i]->name) == 0) {
            return run(commands[i], argc - 1, argv + 1);
        }
    }
    print_usage(stderr);
    return 2;
}
