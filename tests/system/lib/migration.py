"""Two ends of a migration, of the sidecar's or of plain QEMU's.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import socket
import threading

from .tap import SOON, equal, wait_for
from .vm import VM

MIB = 1 << 20


def source(t, name="src", **options):
    """A VM to be migrated, up and running."""
    return VM(t, name=name, **options).start()


def twin(t, vm, uri, name="dst", wait=True, paused=True, **changes):
    """A VM like vm with the same images that waits for a migration at uri
    (None: for the command migrate-incoming).  It stays paused (-S), so that
    RAM can be compared, until "cont"."""
    options = dict(vm.given, name=name, sizes=(), **{"sidecar": True, **changes})
    drives = [f"file={path},format=raw,if=virtio,id=drive{i}{options.pop('drive_options', '')}"
              for i, path in enumerate(vm.images)]
    options["drives"] = drives + list(options.get("drives", ()))
    options["options"] = [*options.get("options", ()), *["-S"][:paused],
                          "-incoming", uri or "defer"]
    dst = VM(t, **options)
    dst.images = list(vm.images)
    dst.given = vm.given
    dst.start(wait=False)
    if wait:
        dst.qmp("query-status")
    return dst


def destination(t, src, uri, name="dst", sizes=None, **changes):
    """A VM like src with images of its own that waits at uri."""
    options = dict(src.given, name=name, **{"sidecar": True, **changes})
    options["options"] = [*options.get("options", ()), "-S", "-incoming", uri]
    dst = VM(t, sizes=src.sizes if sizes is None else sizes, **options)
    dst.given = src.given
    dst.start(wait=False)
    dst.qmp("query-status")
    return dst


def status(vm):
    return vm.qmp("query-migrate").get("status", "none")


def ended(vm, want="completed", deadline=SOON):
    """Waits for the end of vm's migration; query-migrate's answer."""
    def look():
        info = vm.qmp("query-migrate")
        return info if info.get("status") in ("completed", "failed", "cancelled") else None
    info = wait_for(look, f"the end of the migration of {vm.name}", deadline)
    if info["status"] != want:
        raise AssertionError(f"migration of {vm.name}: want {want}: {info}")
    return info


def arrived(vm, deadline=SOON):
    """Until the guest is there, paused."""
    wait_for(lambda: vm.qmp("query-status")["status"] != "inmigrate",
             f"{vm.name} to have its guest", deadline)


def dump(vm, memory):
    path = vm.case.path(vm.name + ".ram")
    vm.qmp("pmemsave", val=0, size=memory * MIB, filename=path)
    return path


def same_ram(a, b, memory=128):
    """All RAM of the two stopped VMs, page by page."""
    differ = []
    first, second = dump(a, memory), dump(b, memory)
    with open(first, "rb") as fa, open(second, "rb") as fb:
        for nr in range(memory * MIB // 4096):
            if fa.read(4096) != fb.read(4096):
                differ.append(nr)
    os.unlink(first)
    os.unlink(second)
    if differ:
        raise AssertionError(f"{len(differ)} pages differ, from page {differ[0]:#x} on: "
                             f"{[hex(x) for x in differ[:20]]}")


def go_on(src, dst):
    """The guest runs at dst from here on; its serial port with it."""
    dst.qmp("cont")
    if dst.guest:
        dst.guest.take_over()
        dst.guest.ask("ping")


def migrate(src, dst, uri, memory=128, compare=True, deadline=SOON, **arguments):
    """From running at src to running at dst; what query-migrate said."""
    src.qmp("migrate", uri=uri, **arguments)
    info = ended(src, deadline=deadline)
    arrived(dst)
    if compare:
        same_ram(src, dst, memory)
    go_on(src, dst)
    return info


def ends(data):
    """Is this the end of a stream: 00 06, be32 length, so much JSON?"""
    if not data.endswith(b"}"):
        return False
    at = len(data)
    while (at := data.rfind(b'\0\6', 0, at)) >= 0:
        if int.from_bytes(data[at + 2:at + 6], "big") == len(data) - at - 6:
            return True
        at += 1
    return False


class Proxy:
    """Between the two ends: unix socket path → to.  cut: how many bytes pass;
    negative: all but so many at the end.  Then the connection is cut, or with
    stall nothing more is read until release().  What the destination says goes
    back (all of it is in .said), with keep only the first so many bytes of it."""

    def __init__(self, t, path, to, cut, stall=False, keep=None):
        self.path, self.to, self.cut, self.stall, self.keep = path, to, cut, stall, keep
        self.passed = 0
        self.said = b""
        self.reached = threading.Event()
        self.released = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.sockets = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        t.defer(self.close)

    def _run(self):
        try:
            inner, _ = self.listener.accept()
            outer = socket.socket(socket.AF_UNIX)
            self.sockets += [inner, outer]
            outer.connect(self.to)
            back = threading.Thread(target=self._back, args=(inner, outer), daemon=True)
            back.start()
            rest = self._all_but_the_end(inner, outer) if self.cut < 0 else \
                self._the_beginning(inner, outer)
            self.reached.set()
            if self.stall:
                self.released.wait()
                outer.sendall(rest)
                while data := inner.recv(65536):
                    outer.sendall(data)
            if self.cut < 0:
                outer.shutdown(socket.SHUT_WR)
                back.join()
            self._close_sockets()
        except OSError:
            self._close_sockets()

    def _the_beginning(self, inner, outer):
        while self.passed < self.cut:
            data = inner.recv(min(65536, self.cut - self.passed))
            if not data:
                break
            outer.sendall(data)
            self.passed += len(data)
        return b""

    def _all_but_the_end(self, inner, outer):
        held = tail = b""
        while not ends(tail) and (data := inner.recv(65536)):
            held += data
            tail = (tail + data)[-MIB:]
            if len(held) > -self.cut:
                outer.sendall(held[:self.cut])
                self.passed += len(held) + self.cut
                held = held[self.cut:]
        return held

    def _back(self, inner, outer):
        try:
            while data := outer.recv(65536):
                before = len(self.said)
                self.said += data
                if self.keep is not None:
                    data = data[:max(0, self.keep - before)]
                inner.sendall(data)
        except OSError:
            pass  # killed with bytes unread: a reset
        try:
            inner.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def release(self):
        self.released.set()

    def _close_sockets(self):
        for s in self.sockets:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()

    def close(self):
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        self._close_sockets()
        self.release()
        self.thread.join()
        if os.path.exists(self.path):
            os.unlink(self.path)


def still_runs(vm, job="memory"):
    """The guest goes on: its job makes progress and has found nothing wrong."""
    equal(vm.qmp("query-status")["running"], True, "running")
    before = vm.guest.status(job)
    equal(before.errors, 0, str(before))
    vm.guest.wait(job, before.done + 200)


def gone_with(vm, *words):
    """The destination has ended with status 1 and one line that has the words."""
    equal(vm.wait_exit(), 1, f"exit status of {vm.name}")
    lines = vm.stderr().splitlines()
    if len(lines) != 1 or not all(w in lines[0] for w in words):
        raise AssertionError(f"{vm.name} said {lines!r}, want one line with {words}")
