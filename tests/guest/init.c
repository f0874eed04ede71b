/*
 * init of the test guest, and of the demo guest's initramfs.
 *
 * Loads the modules that scripts/make-test-guest put into /modules, in the
 * order of their names.  With root=DEVICE on the kernel's command line it then
 * mounts that and hands over to its /sbin/init.  Otherwise it takes commands,
 * one a line, from the second serial port:
 *
 *     ping                       ok
 *     start NAME JOB ARG...      ok            (jobs: see the table below)
 *     status NAME                ok running|ended started=N done=N errors=N TEXT
 *     wait NAME N                as status, once N are done or the job has ended
 *     stop NAME                  ok exit=N started=N done=N errors=N TEXT
 *     run COMMAND                "| " and a line of its output, any number;
 *                                then ok exit=N (a shell of busybox runs it)
 *     poweroff, reboot
 *
 * and answers "error WHY" to anything that fails.  The first line that it
 * prints there is "ready".
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "guest.h"

static const struct {
    const char *name;
    job_main *main;
} jobs[] = {
    { "seq", seq_main },
    { "seqd", seq_main },
    { "shadow", shadow_main },
    { "ext4", ext4_main },
    { "memory", memory_main },
    { "net", net_main },
    { "randwrite", randwrite_main },
};

#define MAX_RUNNING 8
#define MAX_ARGS 24

static struct running {
    char name[32];
    pid_t pid;
    int status; /* from waitpid, once ended */
    bool ended;
    struct job *job;
} running[MAX_RUNNING];

static FILE *host, *from_host;

static void say(const char *fmt, ...)
    __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vfprintf(host, fmt, ap);
    va_end(ap);
    fputc('\n', host);
    fflush(host);
}

/* ---- start-up -------------------------------------------------------- */

static void load_module(const char *name)
{
    char path[300];
    int fd;

    snprintf(path, sizeof(path), "/modules/%s", name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)) {
        printf("init: %s: %s\n", path, strerror(errno));
    }
    close(fd);
}

/* Files are named GROUP-NN-NAME.ko.  Group "virtio" is always loaded, first;
 * another one when modules=...GROUP... is on the command line. */
static void load_modules(const char *cmdline)
{
    struct dirent **names;
    const char *groups = strstr(cmdline, "modules=");
    int n = scandir("/modules", &names, NULL, alphasort);

    for (int i = 0; i < n; i++) {
        if (!strncmp(names[i]->d_name, "virtio-", 7)) {
            load_module(names[i]->d_name);
        }
    }
    for (int i = 0; groups && i < n; i++) {
        char group[32];

        if (sscanf(names[i]->d_name, "%31[a-z]-", group) == 1 &&
            strcmp(group, "virtio") && strstr(groups, group)) {
            load_module(names[i]->d_name);
        }
    }
}

static void mount_or_say(const char *what, const char *where, const char *type)
{
    mkdir(where, 0755);
    if (mount(what, where, type, 0, "") < 0) {
        printf("init: mount %s: %s\n", where, strerror(errno));
    }
}

static void read_cmdline(char *buf, size_t size)
{
    int fd = open("/proc/cmdline", O_RDONLY);
    ssize_t n = read(fd, buf, size - 1);

    buf[n < 0 ? 0 : n] = 0;
    close(fd);
}

static void hand_over(char *root)
{
    root[strcspn(root, " \n")] = 0;
    mkdir("/root", 0755);
    if (mount(root, "/root", "ext4", 0, "") < 0) {
        printf("init: mount %s: %s\n", root, strerror(errno));
        return;
    }
    mount("/dev", "/root/dev", NULL, MS_MOVE, NULL);
    mount("/proc", "/root/proc", NULL, MS_MOVE, NULL);
    mount("/sys", "/root/sys", NULL, MS_MOVE, NULL);
    if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 ||
        chroot(".") < 0) {
        printf("init: change to %s: %s\n", root, strerror(errno));
        return;
    }
    execl("/sbin/init", "init", NULL);
    printf("init: /sbin/init: %s\n", strerror(errno));
}

static void open_host(void)
{
    struct termios tio;
    int fd = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);

    if (fd < 0) {
        printf("init: /dev/ttyS1: %s\n", strerror(errno));
        reboot(RB_POWER_OFF);
    }
    tcgetattr(fd, &tio);
    cfmakeraw(&tio);
    cfsetspeed(&tio, B115200);
    tcsetattr(fd, TCSANOW, &tio);
    host = fdopen(fd, "w");
    from_host = fdopen(dup(fd), "r");
}

/* ---- commands -------------------------------------------------------- */

static struct running *find(const char *name)
{
    for (int i = 0; i < MAX_RUNNING; i++) {
        if (running[i].job && !strcmp(running[i].name, name)) {
            return &running[i];
        }
    }
    return NULL;
}

static bool has_ended(struct running *r, bool wait)
{
    if (!r->ended && waitpid(r->pid, &r->status, wait ? 0 : WNOHANG) == r->pid) {
        r->ended = true;
    }
    return r->ended;
}

static void cmd_start(int argc, char **argv)
{
    struct running *r = NULL;
    job_main *fn = NULL;

    for (size_t i = 0; argc > 2 && i < sizeof(jobs) / sizeof(jobs[0]); i++) {
        fn = strcmp(jobs[i].name, argv[2]) ? fn : jobs[i].main;
    }
    for (int i = 0; i < MAX_RUNNING; i++) {
        r = running[i].job ? r : &running[i];
    }
    if (!fn || !r || find(argv[1])) {
        say("error cannot start %s", argc > 2 ? argv[2] : "nothing");
        return;
    }
    *r = (struct running){ .job = mmap(NULL, sizeof(struct job),
                                       PROT_READ | PROT_WRITE,
                                       MAP_SHARED | MAP_ANONYMOUS, -1, 0) };
    snprintf(r->name, sizeof(r->name), "%s", argv[1]);
    r->pid = fork();
    if (r->pid == 0) {
        _exit(fn(r->job, argc - 2, argv + 2));
    }
    say("ok");
}

static void cmd_status(struct running *r)
{
    const struct job *j = r->job;

    say("ok %s started=%lu done=%lu errors=%lu %s",
        has_ended(r, false) ? "ended" : "running", (long)j->started,
        (long)j->done, (long)j->errors, j->text);
}

static void cmd_wait(struct running *r, uint64_t n)
{
    while (r->job->done < n && !has_ended(r, false)) {
        usleep(2000);
    }
    cmd_status(r);
}

static void cmd_stop(struct running *r)
{
    const struct job *j = r->job;
    int code;

    r->job->stop = 1;
    has_ended(r, true);
    code = WIFEXITED(r->status) ? WEXITSTATUS(r->status)
                                : 128 + WTERMSIG(r->status);
    say("ok exit=%d started=%lu done=%lu errors=%lu %s", code,
        (long)j->started, (long)j->done, (long)j->errors, j->text);
    munmap(r->job, sizeof(struct job));
    r->job = NULL;
}

static void cmd_run(const char *command)
{
    char line[1024];
    FILE *p;
    int status;

    fflush(NULL);
    p = popen(command, "r");
    if (!p) {
        say("error %s", strerror(errno));
        return;
    }
    while (fgets(line, sizeof(line), p)) {
        line[strcspn(line, "\n")] = 0;
        say("| %s", line);
    }
    status = pclose(p);
    say("ok exit=%d", WIFEXITED(status) ? WEXITSTATUS(status) : 255);
}

static void command(char *line)
{
    char *argv[MAX_ARGS + 1], *save;
    struct running *r;
    int argc = 0;

    if (!strncmp(line, "run ", 4)) {
        cmd_run(line + 4);
        return;
    }
    for (char *t = strtok_r(line, " ", &save); t && argc < MAX_ARGS;
         t = strtok_r(NULL, " ", &save)) {
        argv[argc++] = t;
    }
    argv[argc] = NULL;
    if (argc == 0) {
        return;
    } else if (!strcmp(argv[0], "ping")) {
        say("ok");
    } else if (!strcmp(argv[0], "start")) {
        cmd_start(argc, argv);
    } else if (!strcmp(argv[0], "poweroff") || !strcmp(argv[0], "reboot")) {
        say("ok");
        tcdrain(fileno(host));
        reboot(argv[0][0] == 'p' ? RB_POWER_OFF : RB_AUTOBOOT);
    } else if (argc < 2 || !(r = find(argv[1]))) {
        say("error no such command or job: %s", argv[0]);
    } else if (!strcmp(argv[0], "status")) {
        cmd_status(r);
    } else if (!strcmp(argv[0], "wait") && argc > 2) {
        cmd_wait(r, strtoull(argv[2], NULL, 0));
    } else if (!strcmp(argv[0], "stop")) {
        cmd_stop(r);
    } else {
        say("error no such command: %s", argv[0]);
    }
}

int main(void)
{
    char cmdline[2048], line[2048], *root;

    mkdir("/dev", 0755);
    mount("dev", "/dev", "devtmpfs", 0, "");
    mount_or_say("proc", "/proc", "proc");
    mount_or_say("sys", "/sys", "sysfs");
    read_cmdline(cmdline, sizeof(cmdline));
    load_modules(cmdline);
    root = strstr(cmdline, "root=");
    if (root) {
        hand_over(root + 5);
    }
    mount_or_say("tmp", "/tmp", "tmpfs");
    setenv("PATH", "/bin", 1);
    open_host();
    say("ready");
    while (fgets(line, sizeof(line), from_host)) {
        line[strcspn(line, "\r\n")] = 0;
        command(line);
    }
    printf("init: lost the host\n");
    for (;;) {
        pause();
    }
}
