#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""The sidecar starts QEMU, passes on what comes and goes, and ends with it."""

import os
import re
import resource
import signal
import socket
import subprocess

from lib.guest import make_image
from lib.qmp import QMP
from lib.tap import BUILD, TREE, contains, equal, main, program, test, wait_for
from lib.vm import VM

QEMU = "qemu-system-x86_64"
SIDECAR = program("qemu-sidecar")
BASE = [QEMU, "-accel", "tcg", "-M", "q35", "-m", "32", "-nodefaults",
        "-no-user-config", "-display", "none", "-S"]


class Run:
    """A sidecar (or, without, a plain QEMU) with a drive and a QMP socket."""

    def __init__(self, t, *options, sidecar=(SIDECAR,), drive=True, name="vm",
                 command=BASE, **kwargs):
        self.image = make_image(t.path(name + ".raw"), 4 << 20)
        self.path = t.path(name + ".qmp")
        self.log = t.log_file(name + ".stderr")
        line = [*sidecar, *command, "-qmp", f"unix:{self.path},server=on,wait=off"]
        if drive:
            line += ["-drive", f"file={self.image},format=raw,if=virtio"]
        with open(self.log, "wb") as stderr:
            self.process = t.spawn([*line, *options], stdin=subprocess.DEVNULL,
                                   stderr=stderr, **kwargs)

    def qmp(self):
        return QMP(self.path, lambda: self.process.poll() is None)

    def qemu_pid(self):
        """Of the sidecar's child."""
        pid = self.process.pid
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            children = [int(x) for x in f.read().split()]
        for child in children:
            with open(f"/proc/{child}/cmdline", "rb") as f:
                if b"qemu-system" in f.read().split(b"\0")[0]:
                    return child
        raise AssertionError(f"no QEMU among {children}")

    def stderr(self):
        with open(self.log, encoding="utf-8") as f:
            return f.read()


def gone(pid):
    """Has the process ended (a zombie nobody has fetched yet included)?"""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def quit_vm(qmp):
    try:
        qmp("quit")
    except EOFError:
        pass
    qmp.close()


@test
def few_descriptors_are_enough(t):
    """A limit that does for QEMU does with the sidecar, and is still QEMU's."""
    limit = (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    vm = VM(t, sizes=[1 << 20] * 12, guest=False)
    vm.preexec = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    vm.start()
    pid = vm.process.pid
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        qemu = int(f.read().split()[0])
    equal(resource.prlimit(qemu, resource.RLIMIT_NOFILE), limit)
    vm.quit()


@test
def quit_ends_both_with_status_0(t):
    run = Run(t)
    quit_vm(run.qmp())
    equal(run.process.wait(), 0)
    equal(run.stderr(), "")


@test
def the_exit_status_is_qemus(t):
    """QEMU ends with 1 for an option it does not know, in its own words."""
    status, text = t.run(SIDECAR, *BASE, "-no-such-option", status=None)
    equal(status, 1)
    contains(text, "-no-such-option: invalid option")
    # isa-debug-exit ends QEMU with (value << 1) | 1; no guest: through the monitor.
    run = Run(t, "-device", "isa-debug-exit,iobase=0xf4,iosize=4")
    qmp = run.qmp()
    qmp.send("human-monitor-command", {"command-line": "o /b 0xf4 21"})
    equal(run.process.wait(), 43)


@test
def a_qemu_that_is_killed_gives_its_signal(t):
    for signum in (signal.SIGKILL, signal.SIGSEGV):
        run = Run(t, name=f"vm{signum}")
        run.qmp().close()
        os.kill(run.qemu_pid(), signum)
        equal(run.process.wait(), -signum)


@test
def signals_are_passed_on(t):
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        run = Run(t, name=f"vm{signum}")
        qmp = run.qmp()
        run.process.send_signal(signum)
        qmp.wait_event("SHUTDOWN")
        qmp.close()
        equal(run.process.wait(), 0)
        contains(run.stderr(), f"terminating on signal {signum}")
        # Once.
        equal(run.stderr().count("terminating"), 1)


@test
def a_signal_while_qemu_starts_ends_it(t):
    """QEMU waits for a client of its serial port and has no monitor yet."""
    run = Run(t, "-serial", f"unix:{t.path('serial')},server=on,wait=on")
    wait_for(lambda: "waiting for connection" in run.stderr(), "QEMU's start")
    run.process.send_signal(signal.SIGTERM)
    equal(run.process.wait(), -signal.SIGTERM)


@test
def a_killed_sidecar_takes_qemu_with_it_and_leaves_nothing(t):
    as_root = ["-runas", "nobody"] if os.geteuid() == 0 else None
    for i, options in enumerate(filter(lambda x: x is not None, ([], as_root))):
        tmp = t.path(f"tmp{i}")
        os.mkdir(tmp)
        run = Run(t, *options, name=f"vm{i}", cwd=tmp,
                  env=dict(os.environ, TMPDIR=tmp))
        qmp = run.qmp()
        qmp.hmp('qemu-io virtio0 "write -q -P 77 65536 4096"')
        qmp.hmp('qemu-io virtio0 "flush"')
        pid = run.qemu_pid()
        if options:
            with open(f"/proc/{pid}/status", encoding="utf-8") as f:
                uid = re.search(r"^Uid:\s+(\d+)", f.read(), re.M).group(1)
            assert uid != "0", "-runas had no effect"
        run.process.kill()
        run.process.wait()
        wait_for(lambda p=pid: gone(p), "QEMU's end")
        equal(os.listdir(tmp), [])
        with open(run.image, "rb") as f:
            f.seek(65536)
            equal(f.read(4096), b"\x4d" * 4096)
        with open("/proc/net/unix", encoding="utf-8") as f:
            assert f"qemu-sidecar/{run.process.pid}/" not in f.read()
        # Its lock is gone as well: the next one starts.
        again = Run(t, name=f"vm{i}")
        quit_vm(again.qmp())
        equal(again.process.wait(), 0)


@test
def images_that_cannot_be_opened_end_it_before_qemu_starts(t):
    held = Run(t)
    held.qmp().close()
    os.mkdir(t.path("folder"))
    marker = t.path("pid")
    for file, why in ((t.path("absent"), "No such file or directory"),
                      (t.path("folder"), "folder"),
                      (held.image, "lock")):
        status, text = t.run(SIDECAR, *BASE, "-pidfile", marker, "-drive",
                             f"file={file},format=raw,if=virtio", status=None)
        equal(status, 1, file)
        contains(text, why)
        contains(text, "qemu-sidecar: -drive file=" + file)
        equal(text.count("\n"), 1, text)
        assert not os.path.exists(marker)


@test
def a_qemu_that_cannot_be_run_is_named(t):
    status, text = t.run(SIDECAR, "/no/such/qemu", "-S", status=None)
    equal(status, 1)
    equal(text, "qemu-sidecar: cannot run '/no/such/qemu': No such file or directory\n")


@test
def a_script_may_become_qemu(t):
    """Debian's "kvm" is one."""
    script = t.path("kvm")
    with open(script, "w", encoding="ascii") as f:
        f.write(f'#!/bin/sh\nexec {QEMU} -name "a b" "$@"\n')
    os.chmod(script, 0o755)
    run = Run(t, command=[script, *BASE[1:]])
    qmp = run.qmp()
    equal(qmp("query-name")["name"], "a b")
    equal(len(qmp("query-block")), 1)
    quit_vm(qmp)
    equal(run.process.wait(), 0)


@test
def a_qemu_that_fails_at_its_start_says_why_and_nothing_else(t):
    run = Run(t, "-device", "no-such-device")
    equal(run.process.wait(), 1)
    contains(run.stderr(), "'no-such-device' is not a valid device model name")
    equal(run.stderr().count("\n"), 1, run.stderr())
    assert not os.path.exists(run.path), "the QMP socket was left behind"


@test
def help_and_version_are_qemus_without_opening_anything(t):
    for options in (["-version"], ["-M", "help"], ["-device", "virtio-blk-pci,help"]):
        plain = t.run(QEMU, *options)
        equal(t.run(SIDECAR, QEMU, "-drive", "file=/no/such,format=raw", *options),
              plain)


@test
def print_qemu_command_opens_and_creates_nothing(t):
    os.mkdir(t.path("x"))
    text = t.run(SIDECAR, "--print-qemu-command", QEMU, "-drive",
                 "file=/no/such image,format=raw,if=virtio", "-name", "it's",
                 "-qmp", f"unix:{t.path('x', 'q')},server=on", "-daemonize",
                 "-pidfile", t.path("x", "p"), cwd=t.path("x"))
    equal(os.listdir(t.path("x")), [])
    contains(text, "-drive file.driver=nbd,")
    contains(text, r"-name 'it'\''s'")
    assert "-daemonize" not in text and "no/such" not in text, text


@test
def descriptors_of_the_caller_reach_qemu_and_none_of_ours(t):
    read, write = os.pipe()
    ours, theirs = socket.socketpair()
    run = Run(t, "-add-fd", f"fd={write},set=2,opaque=mine",
              "-chardev", f"socket,id=c,fd={theirs.fileno()}", "-serial", "chardev:c",
              pass_fds=(write, theirs.fileno()))
    qmp = run.qmp()
    equal(qmp("query-fdsets")[0]["fds"][0]["opaque"], "mine")
    pid = run.qemu_pid()
    links = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            links[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            pass
    assert write in links and theirs.fileno() in links, links
    for fd, target in links.items():
        assert target != run.image, f"fd {fd} of QEMU is the image"
        assert "signalfd" not in target or fd > 2, links
    # The monitor's listening socket is not QEMU's either.
    with open("/proc/net/unix", encoding="utf-8") as f:
        inode = [x.split()[6] for x in f if x.rstrip().endswith(run.path)][0]
    assert f"socket:[{inode}]" not in links.values(), links
    quit_vm(qmp)
    equal(run.process.wait(), 0)
    for x in (ours, theirs):
        x.close()
    os.close(read)
    os.close(write)


@test
def a_monitor_that_waits_for_its_client_holds_qemu_back(t):
    path, log = t.path("waits"), t.log_file("stderr")
    with open(log, "wb") as stderr:
        process = t.spawn([SIDECAR, *BASE, "-qmp", f"unix:{path},server=on",
                           "-pidfile", t.path("pid")], stderr=stderr,
                          stdin=subprocess.DEVNULL)

    def said():
        with open(log, encoding="utf-8") as f:
            return f.read()
    wait_for(lambda: "waiting for connection" in said(), "the wait")
    assert not os.path.exists(t.path("pid")), "QEMU was started"
    qmp = QMP(path, lambda: process.poll() is None)
    equal(qmp("query-status")["status"], "prelaunch")
    quit_vm(qmp)
    equal(process.wait(), 0)


@test
def the_wait_for_a_client_can_be_ended(t):
    path, log = t.path("waits"), t.log_file("stderr")
    with open(log, "wb") as stderr:
        process = t.spawn([SIDECAR, *BASE, "-qmp", f"unix:{path},server=on"],
                          stderr=stderr, stdin=subprocess.DEVNULL)

    def said():
        with open(log, encoding="utf-8") as f:
            return f.read()
    wait_for(lambda: "waiting for connection" in said(), "the wait")
    process.terminate()
    equal(process.wait(), -signal.SIGTERM)


@test
def all_ways_to_ask_for_a_monitor_work_at_once(t):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(t.path("m4"))
    listener.listen()
    os.set_inheritable(listener.fileno(), True)
    process = t.spawn([SIDECAR, *BASE, "-qmp", f"unix:{t.path('m1')},server=on,wait=off",
                       "-qmp-pretty", f"unix:{t.path('m2')},server=on,wait=off",
                       "-chardev", f"socket,id=c,path={t.path('m3')},server=on,wait=off",
                       "-mon", "chardev=c,mode=control",
                       "-chardev", f"socket,id=d,fd={listener.fileno()},server=on,wait=off",
                       "-mon", "d,mode=control",
                       "-chardev", "null,id=mine"],
                      pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL)
    listener.close()
    for name in ("m1", "m3", "m4"):
        qmp = QMP(t.path(name), lambda: process.poll() is None)
        equal([c["label"] for c in qmp("query-chardev")], ["mine"])
        qmp.close()
    pretty = socket.socket(socket.AF_UNIX)
    pretty.connect(t.path("m2"))
    contains(pretty.recv(4096).decode(), '{\r\n    "QMP": {')
    pretty.close()
    qmp = QMP(t.path("m1"))
    quit_vm(qmp)
    equal(process.wait(), 0)
    assert not os.path.exists(t.path("m1")) and not os.path.exists(t.path("m3"))


@test
def daemonize_returns_when_the_vm_runs(t):
    pidfile = t.path("pid")
    # pipes: the caller must see their end although the VM lives on
    text = t.run(SIDECAR, *BASE, "-daemonize", "-pidfile", pidfile, "-drive",
                 f"file={make_image(t.path('i'), 1 << 20)},format=raw,if=virtio",
                 "-serial", "pty", "-qmp", f"unix:{t.path('q')},server=on,wait=off")
    contains(text, "char device redirected to /dev/pts/")
    with open(pidfile, encoding="ascii") as f:
        pid = int(f.read())
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        sidecar = int(f.read().rpartition(")")[2].split()[1])
    t.defer(lambda: gone(sidecar) or os.kill(sidecar, signal.SIGTERM))
    with open(f"/proc/{sidecar}/cmdline", "rb") as f:
        contains(f.read().decode(), "qemu-sidecar")
    equal(os.readlink(f"/proc/{sidecar}/cwd"), "/")
    equal(os.getsid(pid), os.getsid(sidecar))
    assert os.getsid(sidecar) != os.getsid(0)
    for fd in range(3):
        equal(os.readlink(f"/proc/{sidecar}/fd/{fd}"), "/dev/null")
    quit_vm(QMP(t.path("q")))
    wait_for(lambda: gone(pid) and gone(sidecar), "their end")
    assert not os.path.exists(pidfile)


@test
def daemonize_says_what_failed(t):
    status, text = t.run(SIDECAR, *BASE, "-daemonize", "-drive",
                         "file=/no/such,format=raw", status=None)
    equal(status, 1)
    contains(text, "/no/such")
    status, text = t.run(SIDECAR, *BASE, "-daemonize", "-device", "nix", status=None)
    equal(status, 1)
    contains(text, "'nix' is not a valid device model name")


@test
def what_stays_qemus_own_is_named(t):
    status, text = t.run(SIDECAR, *BASE, "-drive",
                         f"file={make_image(t.path('i'), 1 << 20)},format=raw,"
                         "if=virtio,snapshot=on", "-monitor", "pty",
                         "-device", "nix", status=None)
    equal(status, 1)
    contains(text, "warning: drive 'virtio0' (" + t.path("i") + ") stays QEMU's own: snapshot=on")
    contains(text, "warning: monitor '-monitor pty' stays QEMU's own")


@test
def what_is_installed_runs_from_a_folder_with_blanks(t):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    t.run("make", "-C", TREE, "BUILD=" + BUILD, "DESTDIR=" + t.path("a b"),
          "PREFIX=/usr", "install", env=env)
    for name in ("qemu-sidecar", "vma"):
        contains(t.run(t.path("a b/usr/bin", name), "--version"), "qemu-sidecar")
        assert os.path.exists(t.path(f"a b/usr/share/man/man1/{name}.1"))
    assert os.path.exists(t.path("a b/usr/lib/qemu-sidecar/qemu-sidecar-agent.so"))


main()
