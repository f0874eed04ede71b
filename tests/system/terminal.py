#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""On a terminal the sidecar behaves as QEMU does.  Each test runs on a plain
QEMU first: what it expects must be true of that."""

import os
import re
import select
import signal
import subprocess
import termios
import time

from lib.guest import Guest
from lib.tap import BUILD, SOON, contains, equal, main, program, test, wait_for
from lib.vm import KERNEL_LINE, QEMU

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|c)")
BASE = [QEMU, "-accel", "tcg", "-M", "q35", "-m", "128", "-nodefaults",
        "-no-user-config"]


class Terminal:
    """A program in a session of its own on a new terminal."""

    def __init__(self, t, command):
        # Our copy of the program's side keeps the terminal's state readable.
        self.fd, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.fd)
            os.login_tty(self.slave)
            os.execvp(command[0], command)
        self.status = None
        self.text = ""
        t.defer(self.end)

    def end(self):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)
        os.close(self.slave)

    def type(self, text):
        os.write(self.fd, text.encode())

    def expect(self, part, deadline=SOON):
        """Reads until @part was shown; what came before it and it."""
        until = time.monotonic() + deadline
        while part not in ESCAPES.sub("", self.text):
            ready, _, _ = select.select([self.fd], [], [],
                                        max(0, until - time.monotonic()))
            data = os.read(self.fd, 65536) if ready else b""
            if not data:
                raise AssertionError(f"no {part!r} in {self.text!r}")
            self.text += data.decode(errors="replace")
        plain = ESCAPES.sub("", self.text)
        end = plain.index(part) + len(part)
        self.text = plain[end:]
        return plain[:end]

    def wait(self, deadline=SOON):
        """The exit status; the terminal must be as it was found."""
        until = time.monotonic() + deadline
        pidfd = os.pidfd_open(self.pid)
        ready = []
        while pidfd not in ready:
            assert time.monotonic() < until, "it does not end"
            # Reading on keeps a last writer from blocking.
            ready, _, _ = select.select([self.fd, pidfd], [], [], 1)
            if self.fd in ready:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
        os.close(pidfd)
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        equal(termios.tcgetattr(self.slave), self.before, "terminal")
        return self.status


def on_both(limit=120):
    """Decorator: the test runs without and with the sidecar."""
    def wrap(function):
        def run(t):
            function(t, [])
            function(t, [program("qemu-sidecar")])
        run.__name__ = function.__name__
        return test(run, limit=limit)
    return wrap


@on_both()
def monitor_on_stdio(t, prefix):
    term = Terminal(t, [*prefix, *BASE, "-display", "none", "-monitor", "stdio"])
    term.expect("(qemu) ")
    term.type("info name\r")
    term.expect("(qemu) ")
    term.type("info status\r")
    contains(term.expect("(qemu) "), "VM status: running")
    term.type("quit\r")
    equal(term.wait(), 0)


@on_both()
def control_c_in_the_monitor_ends_the_vm(t, prefix):
    term = Terminal(t, [*prefix, *BASE, "-display", "none", "-monitor", "stdio"])
    term.expect("(qemu) ")
    # The prompt may be there before QEMU catches signals; an answer is not.
    term.type("info status\r")
    term.expect("running")
    term.type("\x03")
    term.expect("terminating on signal 2")
    equal(term.wait(), 0)


@on_both()
def nographic_has_the_serial_port_first_and_the_monitor_behind_it(t, prefix):
    # Without -nodefaults: it is the default devices that are tested.
    term = Terminal(t, [*prefix, QEMU, "-accel", "tcg", "-M", "pc", "-m", "32",
                        "-net", "none", "-no-user-config", "-nographic"])
    term.expect("SeaBIOS")
    term.expect("No bootable device")
    term.type("\x01h")
    term.expect("C-a x")
    term.type("\x01c")
    term.expect("(qemu) ")
    term.type("info status\r")
    contains(term.expect("(qemu) "), "VM status: running")
    term.type("info chardev\r")
    contains(term.expect("(qemu) "), "serial0")
    term.type("\x01c\x01x")
    term.expect("QEMU: Terminated")
    equal(term.wait(), 0)


@on_both()
def another_escape_key(t, prefix):
    term = Terminal(t, [*prefix, *BASE, "-nographic", "-serial", "mon:stdio",
                        "-echr", "0x14"])
    term.type("\x14c")
    term.expect("(qemu) ")
    term.type("\x14x")
    term.expect("QEMU: Terminated")
    equal(term.wait(), 0)


@on_both()
def monitor_beside_a_serial_port_elsewhere(t, prefix):
    term = Terminal(t, [*prefix, QEMU, "-accel", "tcg", "-M", "pc", "-m", "32",
                        "-net", "none", "-no-user-config", "-nographic",
                        "-serial", "null"])
    term.expect("(qemu) ")
    term.type("quit\r")
    equal(term.wait(), 0)


@on_both()
def chardev_shared_by_monitor_and_device(t, prefix):
    term = Terminal(t, [*prefix, *BASE, "-display", "none",
                        "-chardev", "stdio,id=c,mux=on,signal=off",
                        "-mon", "chardev=c,mode=readline",
                        "-device", "isa-serial,chardev=c"])
    term.type("\x01c")
    term.expect("(qemu) ")
    term.type("quit\r")
    equal(term.wait(), 0)


def booted(t, prefix, *options):
    """A terminal and a guest whose first serial port is on it."""
    name = "guest-" + ("sidecar" if prefix else "plain")
    guest = Guest(t.path(name))
    t.defer(guest.close)
    term = Terminal(t, [*prefix, *BASE, "-display", "none", "-kernel",
                        BUILD + "/guest/kernel", "-initrd",
                        BUILD + "/guest/initrd.img", "-append", KERNEL_LINE,
                        *options, *guest.qemu_options()])
    guest.wait_ready()
    guest.run("stty -F /dev/ttyS0 raw -echo")
    return term, guest


def typed(term, guest, keys, count):
    """What the guest reads from its serial port when these keys are typed."""
    guest.socket.sendall(b"run echo reading > /dev/ttyS0; "
                         b"dd if=/dev/ttyS0 bs=1 count=%d 2>/dev/null "
                         b"| hexdump -v -e '1/1 \"%%02x\"'\n" % count)
    term.expect("reading")
    term.type(keys)
    line = guest.line()
    equal(guest.line(), "ok exit=0")
    return line[2:]


@on_both(limit=240)
def keys_reach_the_guest_through_a_shared_terminal(t, prefix):
    term, guest = booted(t, prefix, "-serial", "mon:stdio")
    # C-c is for the guest here; the escape key twice is one for the guest.
    equal(typed(term, guest, "a\x03b\x01\x01\x1a", 5), "610362011a")
    term.type("\x01c")
    term.expect("(qemu) ")
    term.type("info status\r")
    contains(term.expect("(qemu) "), "running")
    term.type("\x01c")
    equal(typed(term, guest, "z", 1), "7a")
    guest.run("echo from the guest > /dev/ttyS0")
    term.expect("from the guest")
    term.type("\x01x")
    term.expect("QEMU: Terminated")
    equal(term.wait(), 0)


@on_both(limit=240)
def serial_port_on_stdio_is_qemus_own(t, prefix):
    term, guest = booted(t, prefix, "-serial", "stdio")
    equal(typed(term, guest, "a\x01b", 3), "610162")
    term.type("\x03")
    term.expect("terminating on signal 2")
    equal(term.wait(), 0)


@on_both()
def what_the_guest_says_is_shown_without_a_keyboard(t, prefix):
    """As a service manager starts it: nothing on standard input."""
    out = t.path("out" + str(len(prefix)))
    with open(out, "wb") as f:
        process = t.spawn([*prefix, QEMU, "-accel", "tcg", "-M", "pc", "-m", "32",
                           "-net", "none", "-no-user-config", "-nographic"],
                          stdin=subprocess.DEVNULL, stdout=f, stderr=f)

    def said():
        with open(out, encoding="utf-8", errors="replace") as f:
            return "No bootable device" in f.read()
    wait_for(said, "the firmware's last words")
    process.terminate()
    equal(process.wait(), 0)


main()
