#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest on drives that the sidecar serves: every interface, every cache mode,
whatever the size; and it can't tell the difference from QEMU's own."""

import hashlib
import os
import zlib

from lib.guest import make_image
from lib.tap import SOON, contains, equal, main, test
from lib.vm import VM

SIZE = (3 << 20) + 512 * 5


def random_file(path, size):
    with open(path, "wb") as f:
        f.write(os.urandom(size))
    return path


def digest(path):
    with open(path, "rb") as f:
        return hashlib.md5(f.read()).hexdigest()


def end(vm):
    vm.guest.poweroff()
    equal(vm.wait_exit(), 0, "exit status")


def shadowed(t, **options):
    vm = VM(t, sizes=[SIZE], **options).start()
    vm.guest.start("w", "shadow", 9, 4, "vda")
    vm.guest.wait("w", 500)
    status = vm.guest.stop("w")
    end(vm)
    with open(vm.images[0], "rb") as f:
        equal(zlib.crc32(f.read()), status.crc32, "CRC-32 of the image")
    return vm


@test
def a_guest_reads_what_it_wrote(t):
    shadowed(t)


@test
def a_guest_reads_what_it_wrote_with_direct_io_and_discards(t):
    shadowed(t, drive_options=",cache=none,aio=native,discard=unmap")


@test
def a_guest_reads_what_it_wrote_with_writethrough(t):
    shadowed(t, drive_options=",cache=writethrough")


@test
def every_kind_of_interface_shows_the_same_bytes(t):
    files = [random_file(t.path(n), SIZE) for n in ("v", "i", "s", "c")]
    vm = VM(t, options=[
        "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=third",
        "-drive", f"file={files[2]},format=raw,if=none,id=third",
        "-drive", f"file={files[0]},format=raw,if=virtio",
        "-hda", files[1], "-cdrom", files[3]],
        kernel_line="modules=ide,scsi")
    vm.command[vm.command.index("q35")] = "pc"
    vm.start()
    said = vm.guest.run("md5sum /dev/vda /dev/sda /dev/sdb; "
                        f"head -c {SIZE // 2048 * 2048} /dev/sr0 | md5sum")
    for path in files[:3]:
        contains(said, digest(path))
    with open(files[3], "rb") as f:
        contains(said, hashlib.md5(f.read()[:SIZE // 2048 * 2048]).hexdigest())
    end(vm)


@test
def a_read_only_drive_refuses_writes_in_the_guest(t):
    path = random_file(t.path("ro"), SIZE)
    before = digest(path)
    vm = VM(t, drives=[f"file={path},format=raw,if=virtio,readonly=on"]).start()
    equal(vm.guest.run("cat /sys/block/vda/ro"), "1")
    vm.guest.run("dd if=/dev/zero of=/dev/vda bs=4096 count=1", status=1)
    contains(vm.guest.run("md5sum /dev/vda"), before)
    end(vm)
    equal(digest(path), before)


@test
def what_was_written_and_synced_is_there_after_a_sudden_end(t):
    """SIGKILL to sidecar and QEMU; the image holds what the guest had synced."""
    path = make_image(t.path("fs"), 32 << 20)
    t.run("mke2fs", "-q", "-t", "ext4", "-F", path)
    vm = VM(t, drives=[f"file={path},format=raw,if=virtio"]).start()
    vm.guest.start("e", "ext4", 3, "vda")
    done = vm.guest.wait("e", 30, deadline=3 * SOON).done
    vm.process.kill()
    vm.wait_exit()
    status, text = t.run("e2fsck", "-p", path, status=None)
    equal(status <= 1, True, f"e2fsck: {text}")
    log = t.run("debugfs", "-R", "cat /log", path, stderr=None)
    equal(int(log.split()[-1]) >= done, True, f"log up to {done}")


@test
def two_vms_at_once_do_not_meet(t):
    for name in ("a", "b"):
        vm = VM(t, sizes=[SIZE], name=name)
        vm.start(wait=False)
        t.defer(vm.end)
        setattr(t, name, vm)
    for vm in (t.a, t.b):
        vm.guest.wait_ready()
        vm.guest.start("w", "shadow", 9, 2, "vda")
    for vm in (t.a, t.b):
        vm.guest.wait("w", 100)
        vm.guest.stop("w")
        end(vm)


main()
