#!/usr/bin/python3
# timeout: 900
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever goes wrong with a migration: the guest runs on where it was, the
other end goes with one line and status 1, and the next attempt is whole."""

import os
import random
import signal
import socket
import threading

from lib.migration import (Proxy, arrived, ended, gone_with, migrate, same_ram, source,
                           status, still_runs, twin)
from lib.tap import contains, equal, main, test, wait_for
from lib.vm import VM

LONG = bool(os.environ.get("SIDECAR_TEST_LONG"))
IMAGE = 1 << 20


def busy(t, **options):
    vm = source(t, **{"sizes": [IMAGE], **options})
    vm.guest.start("memory", "memory", 8, 3, "sparse")
    vm.guest.wait("memory", 8 * 256 + 100)
    return vm


def failed(vm, uri, *words):
    """The attempt fails with these words and the guest goes on."""
    vm.qmp("migrate", uri=uri)
    info = ended(vm, "failed")
    for word in words:
        contains(info["error-desc"], word)
    still_runs(vm)
    writes(vm)


def writes(vm):
    """The guest's disk is its own again."""
    vm.guest.run("dd if=/dev/urandom of=/dev/vda bs=4096 count=4 conv=fsync")


def then_whole(t, vm, name="good"):
    """A retry succeeds, and nothing is lost."""
    path = t.path(name + ".sock")
    vm.qmp("migrate_set_speed", value=0)
    dst = twin(t, vm, "unix:" + path, name=name)
    migrate(vm, dst, "unix:" + path)
    writes(dst)
    still_runs(dst)
    dst.guest.stop("memory")
    vm.quit()
    dst.quit()


class Server:
    """Takes one connection, reads a little, says something and closes."""

    def __init__(self, t, path, says):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.says = says
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        t.defer(thread.join)
        t.defer(self.listener.close)

    def _run(self):
        connection, _ = self.listener.accept()
        with connection:
            connection.recv(100000)
            connection.sendall(self.says)


@test(limit=240)
def nobody_there_or_somebody_else(t):
    src = busy(t)
    failed(src, "unix:" + t.path("nobody"), "nobody")
    with socket.socket() as s:  # a port that nobody listens at
        s.bind(("127.0.0.1", 0))
        failed(src, f"tcp:127.0.0.1:{s.getsockname()[1]}", "refused")
    Server(t, t.path("http"), b"HTTP/1.1 400 Bad Request\r\n\r\n")
    failed(src, "unix:" + t.path("http"), "400 Bad Request")
    failed(src, "exec:exit 3")
    failed(src, "exec:/no/such/command")
    failed(src, "exec:head -c 1000000 > /dev/null")
    failed(src, "exec:cat > /dev/full")
    failed(src, "exec:cat > /dev/null; exit 7", "7")
    contains(src.qmp.error("migrate", uri="fd:nosuch").desc, "nosuch")
    contains(src.qmp.error("migrate", uri="http://x").desc, "http://x")
    contains(src.qmp.error("migrate", uri="tcp:nowhere").desc, "nowhere")
    still_runs(src)
    then_whole(t, src)


@test
def a_device_that_cannot_be_saved_is_named(t):
    """QEMU refuses at once, and its words are those that the user reads."""
    t.run("truncate", "-s", "1M", t.path("n.raw"))
    src = busy(t, drives=[f"file={t.path('n.raw')},format=raw,if=none,id=n"],
               options=["-device", "nvme,drive=n,serial=1"])
    for _ in range(2):
        src.qmp("migrate", uri="exec:cat > /dev/null")
        contains(ended(src, "failed")["error-desc"], "non-migratable device")
        still_runs(src)
    src.quit()


@test
def many_attempts_one_right_after_the_other(t):
    """The one that has failed is over when it says so."""
    src = busy(t)
    for _ in range(2000 if LONG else 100):
        src.qmp("migrate", uri="exec:exit 1")
        while status(src) != "failed":
            pass
    still_runs(src)
    src.quit()


@test
def a_snapshot_of_before_can_be_loaded_after(t):
    """savevm and loadvm on a drive of QEMU's own obey its migration's settings."""
    image = t.path("own.qcow2")
    t.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on", image, "64M")
    vm = VM(t, guest=False, drives=[f"if=virtio,format=qcow2,file={image}"]).start()
    vm.qmp("cont")
    equal(vm.hmp("savevm a"), "", "savevm a")
    vm.qmp("migrate", uri="exec:false")
    ended(vm, "failed")
    equal(vm.hmp("savevm b"), "", "savevm b")
    for name in "a", "b":
        equal(vm.hmp("loadvm " + name), "", "loadvm " + name)
    equal(vm.qmp("query-status")["running"], True, "running")
    # QEMU 7.2 aborts if it is asked for its state after a loadvm that failed
    contains(vm.hmp("loadvm c"), "does not exist")
    vm.qmp("migrate", uri="exec:cat > /dev/null")
    contains(ended(vm, "failed")["error-desc"], "since a loadvm failed")
    vm.qmp("cont")
    vm.qmp("migrate", uri="exec:cat > /dev/null")
    ended(vm)
    vm.quit()


@test
def a_users_stop_holds(t):
    """Also if it comes while the migration itself has the guest stopped."""
    src = busy(t)
    other = src.new_qmp()
    for _ in range(1000 if LONG else 60):
        request = src.qmp.send("migrate", {"uri": "exec:exit 1"})
        other("stop")
        src.qmp.receive(request)
        ended(src, "failed")
        info = other("query-status")
        equal(info["running"], False, str(info))
        other("cont")
        equal(other("query-status")["running"], True)
    still_runs(src)
    src.quit()


@test(limit=240)
def another_machine_is_refused(t):
    src = busy(t)
    for name, words, changes in (
            ("small", ("pc.ram", "bytes at the source"), {"memory": 64}),
            ("large", ("pc.ram", "bytes at the source"), {"memory": 256}),
            ("other", ("pc-i440fx",), {"machine": "pc"})):
        path = t.path(name + ".sock")
        dst = twin(t, src, "unix:" + path, name=name, **changes)
        failed(src, "unix:" + path)
        gone_with(dst, *words)
    # one device more: only QEMU itself can tell
    path = t.path("more.sock")
    dst = twin(t, src, "unix:" + path, name="more",
               options=["-device", "virtio-rng-pci"])
    failed(src, "unix:" + path)
    equal(dst.wait_exit(), 1)
    then_whole(t, src)


@test
def garbage_ends_the_destination(t):
    src = source(t, guest=False)
    for i, (data, word) in enumerate((
            (b"", "ends at byte 0"),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not a QEMU migration stream"),
            (b"QEVM\0\0\0\3\7\0\0\0\4none\0", "machine"),
            (b"QEVM\0\0\0\3\7\xff\xff\xff\xff", "machine name"))):
        path = t.path(f"{i}.sock")
        dst = twin(t, src, "unix:" + path, name=f"dst{i}")
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            s.recv(1000)
        gone_with(dst, word)
    src.quit()


@test(limit=420)
def a_stream_cut_anywhere(t):
    src = busy(t)
    src.qmp("stop")
    cuts = [0, 5, 13, 40, 120, 5000, 30 << 20, -1000000, -400000, -20000, -500, -2, -1]
    if LONG:
        cuts += [random.randrange(60 << 20) for _ in range(20)]
        cuts += [-random.randrange(1 << 20) for _ in range(20)]
    for i, cut in enumerate(cuts):
        path = t.path(f"{i}.sock")
        dst = twin(t, src, "unix:" + path, name=f"dst{i}")
        Proxy(t, path + ".proxy", path, cut=cut)
        src.qmp("migrate", uri=f"unix:{path}.proxy")
        ended(src, "failed")
        gone_with(dst)
    src.qmp("cont")
    still_runs(src)
    writes(src)
    then_whole(t, src)


@test
def a_guest_that_was_taken_back_can_go_again(t):
    src = busy(t)
    src.qmp("migrate", uri=f"exec:cat > {t.path('state')}")
    ended(src)
    src.qmp("cont")
    still_runs(src)
    writes(src)
    # while paused, and without running in between, as often as wished
    src.qmp("stop")
    failed_paused(src, "exec:exit 1")
    src.qmp("migrate", uri=f"exec:cat > {t.path('state')}")
    ended(src)
    contains(src.qmp("query-status")["status"], "postmigrate")
    src.qmp("cont")
    still_runs(src)
    then_whole(t, src)


def failed_paused(vm, uri):
    vm.qmp("migrate", uri=uri)
    ended(vm, "failed")
    equal(vm.qmp("query-status")["running"], False, "running")


@test(limit=300)
def cancelled_at_any_time(t):
    src = busy(t)
    src.qmp("migrate_set_speed", value=40 << 20)
    rng = random.Random(5)
    for i in range(20 if LONG else 6):
        path = t.path(f"{i}.sock")
        dst = twin(t, src, "unix:" + path, name=f"dst{i}")
        point = rng.randrange(100 << 20) if i else 0
        src.qmp("migrate", uri="unix:" + path, xbzrle=bool(i % 2))
        wait_for(lambda: status(src) != "active" and status(src) != "setup" or
                 src.qmp("query-migrate")["ram"]["transferred"] >= point, "the point",
                 interval=0.001)
        src.qmp("migrate_cancel")
        wait_for(lambda: status(src) in ("completed", "cancelled", "failed"), "its end")
        if status(src) == "completed":  # too late: the guest is there
            arrived(dst)
            dst.end()
            src.qmp("cont")
        else:
            ended(src, "cancelled")
            gone_with(dst)
        still_runs(src)
        writes(src)
    then_whole(t, src)


@test(limit=240)
def a_stalled_network_can_be_cancelled(t):
    src = busy(t)
    for i, limit in enumerate((0, 3000000)):
        path = t.path(f"{i}.sock")
        dst = twin(t, src, "unix:" + path, name=f"dst{i}")
        proxy = Proxy(t, path + ".proxy", path, cut=limit, stall=True)
        src.qmp("migrate", uri=f"unix:{path}.proxy")
        proxy.reached.wait()
        # the first look at the devices stops the guest for some milliseconds
        wait_for(lambda: status(src) == "active", "the rounds")
        still_runs(src)
        src.qmp("migrate_cancel")
        ended(src, "cancelled")
        still_runs(src)
        proxy.close()
        gone_with(dst, "ends at byte")
    then_whole(t, src)


@test(limit=240)
def a_dead_destination_or_source(t):
    src = busy(t)
    src.qmp("migrate_set_speed", value=20 << 20)
    path = t.path("a.sock")
    dst = twin(t, src, "unix:" + path, name="dst")
    src.qmp("migrate", uri="unix:" + path)
    wait_for(lambda: src.qmp("query-migrate")["ram"]["transferred"] > 5000000, "progress")
    dst.process.send_signal(signal.SIGKILL)
    ended(src, "failed")
    still_runs(src)
    writes(src)
    dst.wait_exit()
    path = t.path("b.sock")

    dst = twin(t, src, "unix:" + path, name="dst2")
    src.qmp("migrate", uri="unix:" + path)
    wait_for(lambda: src.qmp("query-migrate")["ram"]["transferred"] > 5000000, "progress")
    src.process.send_signal(signal.SIGKILL)
    gone_with(dst)  # at the end of what came, or by a reset


@test
def no_device_is_plugged_meanwhile(t):
    """The destination would have to have it from the beginning: QEMU's words."""
    vm = VM(t, guest=False, options=["-device", "pcie-root-port,id=rp1"]).start()
    vm.qmp("migrate_set_speed", value=1024)
    vm.qmp("migrate", uri="exec:cat > /dev/null")
    wait_for(lambda: status(vm) == "active", "the rounds")
    device = {"driver": "virtio-rng-pci", "bus": "rp1", "id": "late"}
    for said in (vm.qmp.error("device_add", **device).desc,
                 vm.hmp("device_add virtio-rng-pci,bus=rp1"),
                 vm.hmp("device_del late")):
        contains(said, "not allowed while migrating")
    vm.qmp("migrate_cancel")
    ended(vm, "cancelled")
    vm.qmp("device_add", **device)
    vm.quit()


@test
def quitting_during_a_migration_ends_both(t):
    src = busy(t)
    src.qmp("migrate_set_speed", value=5 << 20)
    path = t.path("a.sock")
    dst = twin(t, src, "unix:" + path)
    src.qmp("migrate", uri="unix:" + path)
    wait_for(lambda: status(src) == "active", "the start")
    src.quit()
    gone_with(dst)
    dst = twin(t, src, "unix:" + path, name="dst2")
    dst.quit()  # while it waits


@test(limit=240)
def images_are_handed_over_and_taken_back(t):
    src = busy(t)
    path = t.path("a.sock")
    dst = twin(t, src, "unix:" + path)
    writes(src)  # the image is the source's while the destination waits
    migrate(src, dst, "unix:" + path)
    writes(dst)
    # in use there: not here
    error = src.qmp.error("cont")
    contains(error.desc.lower(), "lock")
    equal(src.qmp("query-status")["running"], False)
    still_runs(dst)
    dst.end()
    src.qmp("cont")
    still_runs(src)
    writes(src)
    then_whole(t, src)


@test
def a_destination_that_cannot_have_the_image_gives_the_guest_back(t):
    src = busy(t)
    path = t.path("a.sock")
    # its image is another file, which somebody else holds
    other = t.path("other.raw")
    with open(other, "wb") as f:
        f.truncate(IMAGE)
    holder = source(t, name="holder", guest=False,
                    drives=[f"file={other},format=raw,if=virtio,id=held"])
    images, src.images = src.images, [other]
    dst = twin(t, src, "unix:" + path)
    src.images = images
    failed(src, "unix:" + path, "lock")
    gone_with(dst, "lock")
    holder.quit()
    then_whole(t, src)


@test(limit=240)
def cont_at_the_very_end_takes_the_images_back(t):
    """A completed migration into a file, and `cont' at once, with and without -b:
    the guest's requests must find its images open."""
    src = source(t, sizes=[8 << 20])
    src.guest.start("memory", "memory", 8, 3, "sparse")
    src.guest.start("disk", "shadow", 3, 2, "vda")
    src.guest.wait("memory", 8 * 256 + 100)
    for i in range(40 if LONG else 8):
        src.qmp("migrate", uri="exec:cat > /dev/null", blk=i % 2 == 1)
        while True:
            event = src.qmp.wait_event("MIGRATION")
            if event["data"]["status"] in ("completed", "failed"):
                break
        equal(event["data"]["status"], "completed")
        src.qmp("cont")
        equal(src.qmp("query-status")["running"], True)
        done = src.guest.status("disk").done
        src.guest.wait("disk", done + 1)
        src.guest.wait("memory", src.guest.status("memory").done + 1)
    equal(src.guest.stop("disk").errors, 0)
    equal(src.guest.stop("memory").errors, 0)


main()
