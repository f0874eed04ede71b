#!/usr/bin/python3
# timeout: 240
# SPDX-License-Identifier: GPL-2.0-or-later
"""A monitor on a terminal gives the terminal back, however it ends or stops."""

import fcntl
import os
import select
import signal
import termios
import time

from lib.tap import SOON, contains, equal, main, program, test, wait_for

COMMAND = [program("qemu-sidecar"), "qemu-system-x86_64", "-S", "-accel", "tcg",
           "-display", "none", "-nodefaults"]


class Job:
    """The sidecar as a shell runs it: in the foreground of a session that has
    somebody else in it (so that it can be stopped)."""

    def __init__(self, t, *options, command=COMMAND):
        self.fd, self.slave = os.openpty()
        t.defer(os.close, self.fd)
        t.defer(os.close, self.slave)
        self.before = self.state()
        reader, writer = os.pipe()
        self.shell = os.fork()
        if self.shell == 0:
            self.be_a_shell([*command, *options], writer)
        os.close(writer)
        self.pid = int(os.read(reader, 20))
        os.close(reader)
        t.defer(self.end)
        self.text = b""

    def be_a_shell(self, command, writer):
        os.login_tty(os.dup(self.slave))
        # One who sets the terminal's foreground from the background is stopped.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            os.tcsetpgrp(0, os.getpid())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            os.execvp(command[0], command)
        os.write(writer, b"%d" % pid)
        os.close(writer)
        while True:
            signal.pause()

    def end(self):
        for pid in (self.pid, self.shell):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        os.waitpid(self.shell, 0)

    def state(self):
        return termios.tcgetattr(self.slave), fcntl.fcntl(self.slave, fcntl.F_GETFL)

    def raw(self):
        return not self.state()[0][3] & termios.ICANON

    def type(self, keys):
        os.write(self.fd, keys)

    def until(self, end):
        limit = time.monotonic() + SOON
        while end not in self.text:
            ready, _, _ = select.select([self.fd], [], [], 1)
            assert time.monotonic() < limit, f"no {end!r} in {self.text!r}"
            if ready:
                self.text += os.read(self.fd, 65536)
        cut = self.text.index(end) + len(end)
        text, self.text = self.text[:cut], self.text[cut:]
        return text

    def process_state(self):
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii",
                      errors="replace") as f:
                return f.read().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return "Z"

    def wait_state(self, letters):
        wait_for(lambda: self.process_state() in letters, f"state {letters}")


@test
def the_terminals_flags_are_left_alone(t):
    job = Job(t, "-monitor", "stdio")
    job.until(b"(qemu) ")
    assert job.raw()
    equal(job.state()[1], job.before[1], "O_NONBLOCK while it runs")
    job.type(b"quit\r")
    job.wait_state("Z")
    equal(job.state(), job.before, "terminal")


@test
def stopped_and_continued(t):
    job = Job(t, "-monitor", "stdio")
    job.until(b"(qemu) ")
    for _ in range(3):
        job.type(b"\x1a")
        job.wait_state("T")
        equal(job.state(), job.before, "terminal while it is stopped")
        os.killpg(job.pid, signal.SIGCONT)
        wait_for(job.raw, "the raw terminal")
        job.type(b"info status\r")
        job.until(b"VM status: paused")
        job.until(b"(qemu) ")
    job.type(b"quit\r")
    job.wait_state("Z")
    equal(job.state(), job.before, "terminal")


@test
def signals_off_means_keys(t):
    job = Job(t, "-chardev", "stdio,id=m,signal=off", "-mon", "m")
    job.until(b"(qemu) ")
    job.type(b"\x03\x1a\x1cinfo status\r")
    job.until(b"VM status: paused")
    job.type(b"quit\r")
    job.wait_state("Z")
    equal(job.state(), job.before, "terminal")


@test
def ends_that_nobody_asked_for(t):
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT,
                   signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
        job = Job(t, "-monitor", "stdio")
        job.until(b"(qemu) ")
        assert job.raw()
        os.kill(job.pid, number)
        job.wait_state("Z")
        equal(job.state(), job.before, f"terminal after {number.name}")


@test
def a_killed_qemu_gives_it_back_too(t):
    job = Job(t, "-monitor", "stdio")
    job.until(b"(qemu) ")
    qemu = int(t.run("ps", "--ppid", str(job.pid), "-o", "pid=").split()[0])
    os.kill(qemu, signal.SIGKILL)
    job.wait_state("Z")
    equal(job.state(), job.before, "terminal")


@test
def an_error_at_the_start_gives_it_back(t):
    job = Job(t, "-monitor", "stdio", "-device", "no-such-device")
    job.wait_state("Z")
    equal(job.state(), job.before, "terminal")


@test
def qmp_on_a_terminal_leaves_lines_and_echo_to_it(t):
    job = Job(t, "-qmp", "stdio")
    job.until(b"QMP")
    assert not job.raw(), "QMP reads whole lines from a terminal, as with QEMU"
    job.type(b"{'execute':'qmp_capabilities'}\n")
    job.until(b'"return"')
    job.type(b"{'execute':'quit'}\n")
    job.wait_state("Z")
    equal(job.state(), job.before, "terminal")


@test
def input_that_is_no_terminal(t):
    for feed in ("echo info status", "printf 'info status\\nquit\\n'",
                 "(echo info status; sleep 1000)"):
        command = " ".join(COMMAND)
        path = t.path("out")
        process = t.spawn(["sh", "-c", f"{feed} | {command} -monitor stdio "
                           f"| tee {path} >/dev/null"], start_new_session=True)
        def shown():
            return os.path.exists(path) and "VM status: paused" in open(path).read()
        wait_for(shown, "the answer")
        if "quit" in feed:
            equal(process.wait(SOON), 0)
        else:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(SOON)
        os.unlink(path)


@test
def a_file_as_output_is_written_in_order(t):
    path = t.path("out")
    with open(path, "wb") as f:
        f.write(b"before\n")
        f.flush()
        t.spawn(["sh", "-c", "printf 'info status\\nquit\\n' | " + " ".join(COMMAND) +
                 " -monitor stdio"], stdout=f).wait(SOON)
    with open(path, "rb") as f:
        text = f.read()
    equal(text[:12], b"before\nQEMU ")
    contains(text, b"VM status: paused")


@test
def commands_are_read_though_nobody_reads_the_answers(t):
    reader, writer = os.pipe()
    os.close(reader)
    for nowhere in (os.open("/dev/full", os.O_WRONLY), writer):
        t.defer(os.close, nowhere)
        process = t.spawn(["sh", "-c", "printf 'info status\\nquit\\n' | "
                           + " ".join(COMMAND) + " -monitor stdio"], stdout=nowhere)
        equal(process.wait(SOON), 0)


main()
