#!/usr/bin/python3
# timeout: 900
# SPDX-License-Identifier: GPL-2.0-or-later
"""The return path: both ends of a migration agree on where the guest is, whatever
happens at its end."""

import signal
import socket
import threading
import time

from lib.migration import (Proxy, ended, ends, go_on, gone_with, migrate, same_ram, source, status,
                           still_runs, twin)
from lib.tap import contains, equal, main, test, wait_for

IMAGE = 1 << 20
SHUT = b"\0\1\0\4\0\0\0"
# what a sidecar answers: to "do you wait for my word", to "it will come", the end
OURS = b"\0\2\0\4QSCW" b"\0\2\0\4QSC2" + SHUT + b"\0"
PLAIN = b"\0\2\0\4QSC1" + SHUT + b"\0"  # a QEMU 7.2


def busy(t, **options):
    vm = source(t, **{"sizes": [IMAGE], **options})
    vm.guest.start("memory", "memory", 8, 3, "sparse")
    vm.guest.wait("memory", 8 * 256 + 100)
    if not options.get("sidecar", True):
        asks(vm)
    return vm


def asks(vm):
    """A plain source that wants an answer."""
    vm.qmp("migrate-set-capabilities",
           capabilities=[{"capability": "return-path", "state": True},
                         {"capability": "events", "state": True}])
    # one round and the end: QEMU 7.2 under TCG loses pages in many rounds
    vm.qmp("migrate-set-parameters", max_bandwidth=0, downtime_limit=20000)


def writes(vm):
    """The guest's disk is its own again."""
    vm.guest.run("dd if=/dev/urandom of=/dev/vda bs=4096 count=4 conv=fsync")


def runs_on(vm):
    # a plain QEMU says that it has failed, and lets its guest run after that
    if vm.sidecar:
        equal(vm.qmp("query-status")["running"], True, "running")
    wait_for(lambda: vm.qmp("query-status")["running"], f"{vm.name} to run its guest")
    still_runs(vm)
    writes(vm)


def then_whole(t, vm, **changes):
    """A retry succeeds, and nothing is lost."""
    path = t.path("good.sock")
    dst = twin(t, vm, "unix:" + path, name="good", **changes)
    migrate(vm, dst, "unix:" + path)
    runs_on(dst)
    vm.quit()
    dst.quit()


class Attempt:
    """A migration whose last bytes are held back, with everything sent."""

    def __init__(self, t, src, name="dst", hold=1000, keep=None, **changes):
        self.src = src
        path = t.path(name + ".sock")
        self.dst = twin(t, src, "unix:" + path, name=name, **changes)
        self.proxy = Proxy(t, path + ".proxy", path, cut=-hold, stall=True, keep=keep)
        src.qmp("migrate", uri=f"unix:{path}.proxy")
        self.proxy.reached.wait()

    def waits(self):
        """The source is waiting for its answer."""
        wait_for(lambda: status(self.src) == "device", "all to be sent")


class Keeper:
    """Takes a stream, says that it has the guest, and puts it into a file."""

    def __init__(self, t, path, name):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.name = name
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        t.defer(self.listener.close)

    def _run(self):
        connection, _ = self.listener.accept()
        tail = b""
        with connection, open(self.name, "wb") as f:
            while not ends(tail) and (data := connection.recv(65536)):
                f.write(data)
                tail = (tail + data)[-(1 << 20):]
            f.flush()
            connection.sendall(SHUT + b"\0")


# ---- all goes well ----------------------------------------------------------------


@test
def a_plain_source_gets_its_answer(t):
    src = busy(t, sidecar=False)
    a = Attempt(t, src)
    a.proxy.release()
    ended(src)
    ended(a.dst)
    equal(a.proxy.said, b"\0\2\0\4\0\0\0\1" + SHUT + b"\0")
    same_ram(src, a.dst)
    equal(src.qmp("query-status")["status"], "postmigrate")
    go_on(src, a.dst)
    runs_on(a.dst)
    equal(src.stderr(), "")
    src.quit()
    a.dst.quit()


@test
def the_guest_runs_by_itself(t):
    """Without -S, as soon as the source knows; a stop given while it is on its way
    holds."""
    src = busy(t, sidecar=False)
    a = Attempt(t, src, paused=False)
    equal(a.dst.qmp("query-status")["status"], "inmigrate")
    a.proxy.release()
    ended(src)
    a.dst.qmp.wait_event("RESUME")
    a.dst.guest.take_over()
    runs_on(a.dst)
    src.quit()
    b = Attempt(t, a.dst, name="second", paused=False)
    b.dst.qmp("stop")
    b.proxy.release()
    ended(b.src)
    ended(b.dst)
    equal(b.dst.qmp("query-status")["status"], "paused")
    same_ram(b.src, b.dst)
    b.src.quit()
    b.dst.quit()


def moves(t, said, **changes):
    src = busy(t)
    a = Attempt(t, src, **changes)
    a.waits()
    a.proxy.release()
    ended(src)
    ended(a.dst)
    equal(a.proxy.said, said)
    same_ram(src, a.dst)
    go_on(src, a.dst)
    runs_on(a.dst)
    src.quit()
    a.dst.quit()


@test
def a_plain_destination_answers(t):
    moves(t, PLAIN, sidecar=False)


@test
def a_sidecar_answers(t):
    moves(t, OURS)


def hop(t, src, name, over, **changes):
    """To another one, over tcp or passed descriptors."""
    if over == "tcp":
        with socket.socket() as s:  # a port that is free
            s.bind(("127.0.0.1", 0))
            uri = f"tcp:127.0.0.1:{s.getsockname()[1]}"
        dst = twin(t, src, uri, name=name, **changes)
    else:
        uri = "fd:mig"
        a, b = socket.socketpair()
        dst = twin(t, src, None, name=name, **changes)
        dst.qmp("getfd", fds=[b.fileno()], fdname="mig")
        dst.qmp("migrate-incoming", uri=uri)
        src.qmp("getfd", fds=[a.fileno()], fdname="mig")
        a.close()
        b.close()
    src.qmp("migrate", uri=uri)
    ended(src)
    ended(dst)
    equal(src.qmp("query-status")["status"], "postmigrate")
    go_on(src, dst)
    runs_on(dst)
    src.quit()
    return dst


@test(limit=240)
def over_tcp_and_descriptors(t):
    vm = busy(t)
    for i, over in enumerate(("tcp", "fd")):
        vm = hop(t, vm, f"plain{i}", over, sidecar=False)
        asks(vm)
        vm = hop(t, vm, f"ours{i}", over)
    vm.quit()


@test
def a_file_with_the_commands_is_read(t):
    """What a plain source sends to somebody who answers and keeps it."""
    src = busy(t, sidecar=False)
    path, name = t.path("keeper.sock"), t.path("state")
    keeper = Keeper(t, path, name)
    src.qmp("migrate", uri="unix:" + path)
    ended(src)
    keeper.thread.join()
    dst = twin(t, src, f"exec:cat {name}")
    ended(dst)
    same_ram(src, dst)
    go_on(src, dst)
    runs_on(dst)
    src.quit()
    dst.quit()


@test
def what_management_tools_set(t):
    vm = source(t, guest=False)
    listed = {c["capability"]: c["state"] for c in vm.qmp("query-migrate-capabilities")}
    equal(listed, {"xbzrle": False, "block": False, "events": True, "return-path": True})
    for state in (False, True):
        vm.qmp("migrate-set-capabilities", capabilities=[
            {"capability": "return-path", "state": state},
            {"capability": "events", "state": state}])
    equal({c["capability"]: c["state"] for c in vm.qmp("query-migrate-capabilities")}, listed)
    # what we do not have is off
    for name in ("pause-before-switchover", "late-block-activate", "auto-converge",
                 "zero-blocks", "multifd", "postcopy-ram"):
        vm.qmp("migrate-set-capabilities",
               capabilities=[{"capability": name, "state": False}])
        contains(vm.qmp.error("migrate-set-capabilities", capabilities=[
            {"capability": "xbzrle", "state": True},
            {"capability": name, "state": True}]).desc, name)
    equal({c["capability"]: c["state"] for c in vm.qmp("query-migrate-capabilities")}, listed)
    contains(vm.qmp.error("migrate-set-capabilities", capabilities=[
        {"capability": "no-such", "state": True}]).desc, "no-such")
    contains(vm.qmp.error("migrate", uri="exec:cat >/dev/null", resume=True).desc, "resume")
    vm.qmp("migrate", uri="exec:cat >/dev/null", detach=True, resume=False)
    ended(vm)
    vm.quit()


# ---- the destination does not take it ------------------------------------------------

RNG = ("-device", "virtio-rng-pci,addr=1d")


def refused(t, here, there, *words):
    """A device is missing at the destination, which only its QEMU finds out, when
    everything has been sent."""
    src = busy(t, sidecar=here, options=RNG)
    path = t.path("a.sock")
    dst = twin(t, src, "unix:" + path, sidecar=there, options=())
    src.qmp("migrate", uri="unix:" + path)
    info = ended(src, "failed")
    for word in words:
        contains(info["error-desc"], word)
    runs_on(src)
    equal(dst.wait_exit(), 1)
    then_whole(t, src)


@test
def a_plain_destination_refuses_at_the_end(t):
    refused(t, True, False)  # it just goes, perhaps while we still write


@test
def a_sidecar_refuses_at_the_end(t):
    refused(t, True, True, "the destination says: ")


@test
def a_plain_source_is_refused_at_the_end(t):
    refused(t, False, True)


def killed(t, here, there):
    src = busy(t, sidecar=here)
    a = Attempt(t, src, sidecar=there)
    a.dst.process.kill()
    a.dst.wait_exit()
    ended(src, "failed")
    runs_on(src)
    then_whole(t, src)


@test
def a_plain_destination_is_killed_at_the_end(t):
    killed(t, True, False)


@test
def a_sidecar_is_killed_at_the_end(t):
    killed(t, True, True)


@test
def killed_at_the_end_of_a_plain_source(t):
    killed(t, False, True)


# ---- the destination is silent ------------------------------------------------------


def silent(t, here, there):
    src = busy(t, sidecar=here)
    a = Attempt(t, src, sidecar=there)
    a.dst.process.send_signal(signal.SIGSTOP)
    a.proxy.release()
    time.sleep(11)  # longer than anyone may guess
    equal(status(src) in ("device", "active"), True, status(src))
    equal(src.qmp("query-status")["running"], False, "running")
    a.dst.process.send_signal(signal.SIGCONT)
    ended(src)
    ended(a.dst)
    same_ram(src, a.dst)
    go_on(src, a.dst)
    runs_on(a.dst)
    src.quit()
    a.dst.quit()


@test
def a_plain_destination_is_waited_for(t):
    silent(t, True, False)


@test
def a_sidecar_is_waited_for(t):
    silent(t, True, True)


@test
def a_sidecar_keeps_a_plain_source_waiting(t):
    silent(t, False, True)


# ---- the source does not want it any more ---------------------------------------------


def cancelled(t, here, keep, **changes):
    """The destination has everything, or would have it; it does not run it."""
    src = busy(t, sidecar=here)
    a = Attempt(t, src, keep=keep, **changes)
    if keep is not None:  # its SHUT does not come through
        a.proxy.release()
        wait_for(lambda: SHUT in a.proxy.said, "the destination's answer")
    src.qmp("migrate_cancel")
    if not here:  # it asks nobody; ours first lets the destination close its images
        ended(src, "cancelled")
    a.proxy.release()
    ended(src, "cancelled")
    runs_on(src)
    return a


@test
def cancelled_before_the_answer(t):
    a = cancelled(t, True, None)
    gone_with(a.dst)  # the source has given up, or has the image, or keeps the guest
    then_whole(t, a.src)


@test
def cancelled_before_the_answer_came(t):
    """The destination has said yes and waits for the word of the source."""
    a = cancelled(t, True, 16, paused=False)
    gone_with(a.dst, "the source has kept the guest")
    then_whole(t, a.src)


@test
def a_plain_source_cancels_before_the_answer(t):
    a = cancelled(t, False, None)
    gone_with(a.dst)  # the source has given up, or has the image, or keeps the guest
    then_whole(t, a.src)


@test
def a_cancel_that_cannot_be_decided(t):
    """A plain destination may have it already: nobody runs it before somebody looks."""
    src = busy(t)
    a = Attempt(t, src, sidecar=False)
    a.dst.process.send_signal(signal.SIGSTOP)
    a.proxy.release()
    a.waits()
    src.qmp("migrate_cancel")
    contains(ended(src, "failed")["error-desc"], "not known")
    equal(src.qmp("query-status")["running"], False, "running")
    a.dst.process.send_signal(signal.SIGCONT)
    ended(a.dst)
    go_on(src, a.dst)
    runs_on(a.dst)
    contains(src.qmp.error("cont").desc.lower(), "lock")
    a.dst.end()
    src.qmp("cont")
    runs_on(src)
    then_whole(t, src)


main()
