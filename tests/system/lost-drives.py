#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""Drives that QEMU does not use any more: unplugged, deleted, moved to another
image.  Their images are closed, as QEMU's own would be, and no backup is of
something that the guest left long ago."""

import os

from lib.backup import backup, image, extract, wait_backup
from lib.guest import make_image
from lib.tap import contains, equal, main, test, wait_for
from lib.vm import VM

MIB = 1 << 20


PCI = ["-device", "pcie-root-port,id=rp,bus=pcie.0,slot=5",
       "-device", "virtio-blk-pci,drive=hp,id=dev,bus=rp"]
USB = ["-device", "qemu-xhci", "-device", "usb-storage,drive=hp,id=dev"]


def hot_plug_vm(t, options, **more):
    """Drive hp on a device that can be unplugged, beside drive0."""
    path = make_image(t.path("hp.raw"), MIB)
    vm = VM(t, sizes=[MIB], drives=[f"file={path},if=none,id=hp,format=raw"],
            options=options, **more)
    return vm.start(), path


def unplug(vm, name="dev"):
    vm.qmp("device_del", id=name)
    while vm.qmp.wait_event("DEVICE_DELETED")["data"].get("device") != name:
        pass


def is_free(t, path):
    """Can others have it for writing?"""
    status, _ = t.run("qemu-io", "-f", "raw", "-c", "write -P 7 0 512", path, status=None)
    return status == 0


def becomes_free(t, path):
    wait_for(lambda: is_free(t, path), f"{path} to be closed")


def names(vm):
    return [b["device"] for b in vm.qmp("query-block")]


def total(vm):
    return vm.qmp("query-backup")["total"]


@test
def an_unplugged_drive_is_closed_and_not_backed_up(t):
    vm, path = hot_plug_vm(t, PCI)
    backup(vm, t.path("both.vma"))
    equal(total(vm), 2 * MIB)
    vm.guest.run("echo here | dd of=/dev/vda conv=fsync 2>/dev/null")
    unplug(vm)
    becomes_free(t, path)
    equal(names(vm), ["drive0"])
    backup(vm, t.path("one.vma"))
    equal(total(vm), MIB)
    error = vm.qmp.error("backup", backup_file=t.path("x.vma"), devlist="hp")
    equal(error.cls, "DeviceNotFound")
    # The name and the image can be had again, from QEMU now.
    vm.qmp.hmp(f"drive_add 0 if=none,id=hp,format=raw,file={path}")
    vm.qmp("device_add", driver="virtio-blk-pci", id="dev2", drive="hp", bus="rp")
    equal(sorted(names(vm)), ["drive0", "hp"])
    vm.qmp("block_resize", device="hp", size=2 * MIB)
    equal(os.path.getsize(path), 2 * MIB)
    vm.quit()
    equal("qemu-sidecar:" in vm.stderr(), False, vm.stderr())


@test
def unplugged_while_it_is_backed_up(t):
    """The backup is still whole, and the image is closed when it is over."""
    data = os.urandom(MIB // 2)
    for end in ("done", "cancelled"):
        # USB devices go without asking the guest.
        vm, path = hot_plug_vm(t, USB, guest=False, name=end)
        with open(path, "r+b") as f:
            f.write(data)
        vm.qmp("backup", backup_file=t.path("a." + end), devlist="hp",
               speed=MIB // 2 if end == "done" else 4096)
        unplug(vm)
        free, info = is_free(t, path), vm.qmp("query-backup")
        if info["status"] == "active" and not info["finishing"]:
            equal(free, False, "free during the backup")
        if end == "cancelled":
            vm.qmp("backup-cancel")
        wait_backup(vm.qmp, end)
        becomes_free(t, path)
        vm.quit()
    with open(image(extract(t, t.path("a.done")), "hp"), "rb") as f:
        equal(f.read() == data + bytes(MIB // 2), True, "the archive's content")


@test
def a_mirror_that_moves_the_drive(t):
    vm = VM(t, sizes=[MIB, MIB], guest=False).start()
    vm.qmp.receive(vm.qmp.send("drive-mirror", {
        "device": "drive0", "target": t.path("new.raw"), "format": "raw",
        "sync": "full", "job-id": "m"}))
    vm.qmp.wait_event("BLOCK_JOB_READY")
    backup(vm, t.path("during.vma"))  # it is still ours
    vm.qmp("block-job-complete", device="m")
    vm.qmp.wait_event("BLOCK_JOB_COMPLETED")
    becomes_free(t, vm.images[0])
    # Nobody must take the old image for the disk.
    error = vm.qmp.error("backup", backup_file=t.path("x.vma"))
    contains(error.desc, "drive0")
    contains(error.desc, "name the drives")
    contains(vm.qmp.error("backup", backup_file=t.path("x.vma"), devlist="drive0").desc,
             "QEMU's own")
    vm.qmp("migrate", uri="exec:cat >/dev/null")
    contains(wait_for(lambda: vm.qmp("query-migrate").get("error-desc"), "an error"), "drive0")
    equal(os.path.exists(t.path("x.vma")), False)
    backup(vm, t.path("other.vma"), devlist="drive1")
    # Commands for it go to QEMU.
    vm.qmp("block_resize", device="drive0", size=2 * MIB)
    equal(os.path.getsize(t.path("new.raw")), 2 * MIB)
    equal(os.path.getsize(vm.images[0]), MIB)
    contains(vm.qmp.hmp("info block drive0"), t.path("new.raw"))
    contains(vm.stderr(), "drive 'drive0': QEMU runs it from another image")
    vm.quit()


@test
def a_mirror_that_ends_without_a_move(t):
    vm = VM(t, sizes=[MIB], guest=False).start()
    vm.qmp.receive(vm.qmp.send("drive-mirror", {
        "device": "drive0", "target": t.path("copy.raw"), "format": "raw",
        "sync": "full", "job-id": "m"}))
    vm.qmp.wait_event("BLOCK_JOB_READY")
    vm.qmp("block-job-cancel", device="m")
    vm.qmp.wait_event("BLOCK_JOB_COMPLETED")
    backup(vm, t.path("a.vma"))
    equal(is_free(t, vm.images[0]), False)
    vm.quit()
    equal("qemu-sidecar:" in vm.stderr(), False, vm.stderr())


@test
def a_deleted_drive(t):
    vm = VM(t, sizes=[MIB, MIB], guest=False).start()
    vm.qmp.hmp("drive_del drive0")
    becomes_free(t, vm.images[0])
    backup(vm, t.path("a.vma"))
    equal(total(vm), MIB)
    vm.quit()


@test
def media_taken_out_by_hand(t):
    """blockdev-remove-medium is QEMU's own; the drive can be filled again."""
    disc = make_image(t.path("disc"), MIB)
    vm = VM(t, drives=[f"if=none,id=cd,format=raw,media=cdrom,file={disc}"],
            guest=False, options=["-device", "ide-cd,drive=cd,id=dev"]).start()
    for _ in range(5):
        vm.qmp("blockdev-open-tray", id="dev")
        vm.qmp("blockdev-remove-medium", id="dev")
        becomes_free(t, disc)
        wait_for(lambda: vm.qmp.error("backup", backup_file=t.path("x"), devlist="cd")
                 .desc == "Device 'cd' has no medium", "an empty drive")
        vm.qmp("blockdev-change-medium", device="cd", filename=disc)
        equal(vm.qmp("query-block")[0]["inserted"]["file"], disc)
        contains(vm.qmp.error("backup", backup_file=t.path("x"), devlist="cd").desc,
                 "read only")
    vm.quit()
    equal("qemu-sidecar:" in vm.stderr(), False, vm.stderr())


@test
def changed_over_and_over(t):
    """Each change says goodbye too; nothing must come of it."""
    discs = [make_image(t.path(f"disc{i}"), MIB) for i in range(2)]
    vm = VM(t, drives=[f"if=none,id=cd,format=raw,media=cdrom,file={discs[0]}"],
            guest=False, options=["-device", "ide-cd,drive=cd,id=dev"]).start()
    for i in range(100):
        vm.qmp("blockdev-change-medium", device="cd", filename=discs[i % 2])
        if i % 3 == 0:
            vm.qmp("eject", device="cd")
    equal(vm.qmp("query-block")[0].get("inserted"), None)
    vm.qmp("blockdev-change-medium", device="cd", filename=discs[0])
    equal(vm.qmp("query-block")[0]["inserted"]["file"], discs[0])
    vm.quit()
    equal("qemu-sidecar:" in vm.stderr(), False, vm.stderr())


@test
def drives_of_qemus_own_are_missed_aloud(t):
    vm = VM(t, sizes=[MIB], guest=False).start()
    backup(vm, t.path("all.vma"))
    for name in ("one", "two"):
        make_image(t.path(name), MIB)
        vm.hmp(f"drive_add 0 if=none,id={name},format=raw,file={t.path(name)}")
    make_image(t.path("cd"), MIB)
    vm.hmp(f"drive_add 0 if=none,id=ro,format=raw,readonly=on,file={t.path('cd')}")
    backup(vm, t.path("named.vma"), devlist="drive0")
    vm.qmp("query-block")  # answered later than what an earlier command asked
    assert "not in the backup" not in vm.stderr(), vm.stderr()
    backup(vm, t.path("some.vma"))
    wait_for(lambda: "not in the backup, because they are QEMU's own: one, two\n"
             in vm.stderr(), "the warning")
    vm.quit()


main()
