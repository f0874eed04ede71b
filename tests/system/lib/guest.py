"""The host's end of the test guest (tests/guest/init.c).

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import re
import socket
import time

from .tap import SCALE, SOON

BOOT = 180 * SCALE
_FIELDS = re.compile(r"(\w+)=(\S+)")


class JobStatus:
    """What a job said: .started .done .errors .exit .text"""

    def __init__(self, reply):
        self.reply = reply
        self.running = reply.startswith("ok running")
        fields = dict(_FIELDS.findall(reply))
        self.started = int(fields.get("started", 0))
        self.done = int(fields.get("done", 0))
        self.errors = int(fields.get("errors", 0))
        self.exit = int(fields["exit"]) if "exit" in fields else None
        self.crc32 = int(fields["crc32"], 16) if "crc32" in fields else None

    def __repr__(self):
        return self.reply


class Guest:
    """Listens on a socket that QEMU's second serial port connects to."""

    def __init__(self, path, alive=lambda: True):
        self.path = path
        self.alive = alive
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.socket = None
        self.buffer = b""

    def close(self):
        self.listener.close()
        if self.socket:
            self.socket.close()

    def qemu_options(self):
        return ["-serial", "unix:" + self.path]

    def _connected(self, until):
        while not self.socket:
            self.listener.settimeout(0.5)
            try:
                self.socket, _ = self.listener.accept()
            except socket.timeout:
                if not self.alive():
                    raise AssertionError("the VM ended before the guest was up") from None
                if time.monotonic() > until:
                    raise AssertionError("QEMU never opened the guest's serial port") from None

    def line(self, deadline=SOON):
        until = time.monotonic() + deadline
        self._connected(until)
        while b"\n" not in self.buffer:
            self.socket.settimeout(max(0.01, until - time.monotonic()))
            try:
                data = self.socket.recv(4096)
            except socket.timeout:
                raise AssertionError(f"guest silent for {deadline:.0f} s") from None
            if not data:
                raise EOFError("the guest is gone")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode(errors="replace").rstrip("\r")

    def wait_ready(self):
        while self.line(BOOT) != "ready":
            pass

    def take_over(self):
        """The guest that came here by migration: nothing is said at first."""
        self._connected(time.monotonic() + SOON)

    def ask(self, command, deadline=SOON):
        """(lines of output, the last line, which is "ok ..." )"""
        self.socket.sendall(command.encode() + b"\n")
        lines = []
        while True:
            line = self.line(deadline)
            if line.startswith("| "):
                lines.append(line[2:])
                continue
            if not line.startswith("ok"):
                raise AssertionError(f"guest: {command}: {line}")
            return lines, line

    def run(self, command, status=0, deadline=SOON):
        """A shell command in the guest; its output."""
        lines, last = self.ask("run " + command, deadline)
        if status is not None and last != f"ok exit={status}":
            raise AssertionError(f"guest: {command}: {last}\n" + "\n".join(lines))
        return "\n".join(lines)

    def start(self, name, *words):
        self.ask(" ".join(["start", name, *map(str, words)]))

    def status(self, name):
        return JobStatus(self.ask("status " + name)[1])

    def wait(self, name, count, deadline=SOON):
        """Until so many operations of the job are done."""
        status = JobStatus(self.ask(f"wait {name} {count}", deadline)[1])
        if status.done < count or status.errors:
            raise AssertionError(f"guest: {name}: {status}")
        return status

    def stop(self, name, deadline=SOON):
        status = JobStatus(self.ask("stop " + name, deadline)[1])
        if status.exit != 0 or status.errors:
            raise AssertionError(f"guest: {name}: {status}")
        return status

    def poweroff(self):
        self.ask("poweroff")


def mix64(x):
    """tests/guest/util.c"""
    mask = 0xffffffffffffffff
    x = (x + 0x9e3779b97f4a7c15) & mask
    x = ((x ^ (x >> 30)) * 0xbf58476d1ce4e5b9) & mask
    x = ((x ^ (x >> 27)) * 0x94d049bb133111eb) & mask
    return x ^ (x >> 31)


def make_image(path, size):
    """A raw image of zeros, no block of it allocated."""
    with open(path, "wb") as f:
        f.truncate(size)
    return path


def disk_usage(path):
    return os.stat(path).st_blocks * 512
