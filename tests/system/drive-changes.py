#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""A drive's size and medium changed while the VM runs."""

import os
import time

from lib.guest import make_image
from lib.tap import contains, equal, main, test
from lib.vm import VM

MIB = 1 << 20


def medium(t, name, byte, size=MIB):
    with open(t.path(name), "wb") as f:
        f.write(bytes([byte]) * size)
    return t.path(name)


def block(vm, device):
    return [b for b in vm.qmp("query-block") if b["device"] == device][0]


def reads_as(vm, device, byte, offset=0):
    """Through QEMU; its words go to its stdout, so a failure is what counts."""
    text = vm.qmp.hmp(f'qemu-io {device} "read -P {byte} {offset} 512"')
    assert "failed" not in text, text
    assert "failed" not in vm.stderr(), vm.stderr()


@test
def a_running_guest_sees_its_disk_grow_and_shrink(t):
    vm = VM(t, sizes=[8 * MIB]).start()
    for size in (24 * MIB, 4 * MIB, 16 * MIB + 512):
        vm.qmp("block_resize", device="drive0", size=size)
        equal(os.path.getsize(vm.images[0]), size)
        # The guest's driver hears of it by an interrupt.
        until = time.monotonic() + 60
        while (seen := int(vm.guest.run("cat /sys/block/vda/size"))) != size // 512:
            assert time.monotonic() < until, f"the guest sees {seen} sectors"
        equal(block(vm, "drive0")["inserted"]["image"]["virtual-size"], size)
    # The new end can be written to, and what was cut off does not come back.
    vm.guest.run("dd if=/dev/zero bs=512 count=1 | tr '\\0' x | "
                 "dd of=/dev/vda bs=512 seek=32768 conv=fsync 2>/dev/null")
    with open(vm.images[0], "rb") as f:
        f.seek(16 * MIB)
        equal(f.read(), b"x" * 512)
    vm.quit()


@test
def no_request_of_the_guest_suffers_from_a_resize(t):
    """Random reads and writes, each read checked, while QEMU's connection is
    dropped again and again."""
    vm = VM(t, sizes=[8 * MIB]).start()
    vm.guest.start("w", "shadow", 5, 4, "vda")
    for i in range(20):
        count = vm.guest.status("w").done
        vm.qmp("block_resize", device="drive0", size=(9 + i) * MIB)
        vm.guest.wait("w", count + 20)
    assert vm.guest.stop("w").done > 400
    vm.quit()


@test
def a_node_name_and_a_size_within_a_sector(t):
    vm = VM(t, sizes=[MIB], guest=False).start()
    node = block(vm, "drive0")["inserted"]["node-name"]
    vm.qmp("block_resize", node_name=node, size=2 * MIB + 1)
    equal(os.path.getsize(vm.images[0]), 2 * MIB + 512)
    vm.quit()


@test
def resize_refused(t):
    vm = VM(t, sizes=[MIB], guest=False,
            drives=["if=none,id=ro,readonly=on,format=raw,file="
                    + make_image(t.path("ro"), MIB)]).start()
    contains(vm.qmp.error("block_resize", device="nix", size=MIB).desc, "nix")
    for size in (-1, 0):
        contains(vm.qmp.error("block_resize", device="drive0", size=size).desc, ">0 size")
        equal(os.path.getsize(vm.images[0]), MIB)
    vm.qmp.error("block_resize", device="ro", size=2 * MIB)
    equal(os.path.getsize(t.path("ro")), MIB)
    # No room: the image stays as it is, and the drive goes on.
    vm.qmp.error("block_resize", device="drive0", size=(1 << 63) - 512)
    equal(os.path.getsize(vm.images[0]), MIB)
    vm.qmp("block_resize", device="drive0", size=2 * MIB)
    vm.quit()


@test
def a_cd_is_changed_and_ejected(t):
    one, two = medium(t, "one", 65), medium(t, "two", 66, 2 * MIB)
    vm = VM(t, guest=False, options=["-cdrom", one]).start()
    reads_as(vm, "ide2-cd0", 65)
    vm.qmp("blockdev-change-medium", device="ide2-cd0", filename=two, format="raw")
    reads_as(vm, "ide2-cd0", 66)
    reads_as(vm, "ide2-cd0", 66, 2 * MIB - 512)
    seen = block(vm, "ide2-cd0")
    equal((seen["inserted"]["file"], seen["inserted"]["ro"], seen["tray_open"]),
          (two, True, False))
    # A mistake leaves the medium in.
    error = vm.qmp.error("blockdev-change-medium", device="ide2-cd0",
                         filename=t.path("absent"))
    contains(error.desc, "absent")
    reads_as(vm, "ide2-cd0", 66)
    vm.qmp("eject", device="ide2-cd0")
    assert "inserted" not in block(vm, "ide2-cd0")
    # Nobody holds the image any more: it can be locked for writing.
    t.run("qemu-io", "-f", "raw", "-c", "write 0 512", two)
    vm.qmp("blockdev-change-medium", device="ide2-cd0", filename=one)
    reads_as(vm, "ide2-cd0", 65)
    vm.quit()


@test
def a_drive_that_was_empty_stays_qemus_own(t):
    vm = VM(t, guest=False, options=["-drive", "if=ide,media=cdrom,index=2"]).start()
    vm.qmp("blockdev-change-medium", device="ide2-cd0", filename=medium(t, "x", 67),
           format="raw")
    reads_as(vm, "ide2-cd0", 67)
    vm.qmp("eject", device="ide2-cd0")
    vm.quit()


@test
def a_disk_cannot_be_ejected(t):
    vm = VM(t, sizes=[MIB], guest=False).start()
    contains(vm.qmp.error("eject", device="drive0").desc, "is not removable")
    vm.qmp.hmp('qemu-io drive0 "write -q 0 512"')
    equal(vm.stderr(), "")
    vm.quit()


@test
def a_floppy_that_may_be_written_to(t):
    one, two = medium(t, "one", 65, 1440 << 10), medium(t, "two", 66, 1440 << 10)
    vm = VM(t, guest=False, options=["-M", "pc", "-drive",
                                     f"if=floppy,format=raw,file={one}"]).start()
    vm.qmp("blockdev-change-medium", device="floppy0", filename=two, format="raw",
           read_only_mode="read-only")
    reads_as(vm, "floppy0", 66)
    equal(block(vm, "floppy0")["inserted"]["ro"], True)
    vm.qmp("blockdev-change-medium", device="floppy0", filename=one, format="raw",
           read_only_mode="read-write")
    equal(block(vm, "floppy0")["inserted"]["ro"], False)
    vm.qmp.hmp('qemu-io floppy0 "write -q -P 90 0 512"')
    vm.quit()
    with open(one, "rb") as f:
        equal(f.read(512), b"Z" * 512)


@test
def a_drive_that_was_emptied_takes_a_medium_like_the_one_before(t):
    """To be written to, and past the page cache, although it had none in between."""
    one, two = medium(t, "one", 65, 1440 << 10), medium(t, "two", 66, 1440 << 10)
    seen = []
    for sidecar in (True, False):
        vm = VM(t, guest=False, sidecar=sidecar, name=f"vm{sidecar}", machine="pc",
                options=["-drive",
                         f"if=floppy,format=raw,cache=none,file={one}"]).start()
        vm.qmp("eject", device="floppy0")
        vm.qmp("blockdev-change-medium", device="floppy0", filename=two, format="raw")
        equal(block(vm, "floppy0")["inserted"]["ro"], False)
        vm.qmp.hmp('qemu-io floppy0 "write -q -P 90 0 512"')
        seen.append(block(vm, "floppy0")["inserted"]["cache"])
        if sidecar:
            pid = vm.process.pid
            fd, = [fd for fd in os.listdir(f"/proc/{pid}/fd")
                   if os.readlink(f"/proc/{pid}/fd/{fd}") == two]
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as f:
                flags = int(f.read().split("flags:")[1].split()[0], 8)
            equal(flags & os.O_DIRECT, os.O_DIRECT)
        vm.quit()
        with open(two, "r+b") as f:
            equal(f.read(512), b"Z" * 512)
            f.seek(0)
            f.write(b"B" * 512)
    equal(seen[0], seen[1], "the cache that QEMU shows")


@test
def the_human_monitor_does_the_same(t):
    one, two = medium(t, "one", 65), medium(t, "two", 66)
    vm = VM(t, sizes=[MIB], guest=False, options=["-cdrom", one]).start()
    equal(vm.hmp("block_resize drive0 3M"), "")
    equal(os.path.getsize(vm.images[0]), 3 * MIB)
    equal(vm.hmp(f"change ide2-cd0 {two} raw"), "")
    reads_as(vm, "ide2-cd0", 66)
    contains(vm.hmp("change ide2-cd0 /no/such"), "Error: ")
    equal(vm.hmp("eject ide2-cd0"), "")
    assert "inserted" not in block(vm, "ide2-cd0")
    contains(vm.hmp("eject drive0"), "Error: Device 'drive0' is not removable")
    vm.quit()


@test
def resize_works_where_qemu_has_locked_itself_in(t):
    """QEMU has to connect anew: without rights, in another root."""
    ways = [["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
             "resourcecontrol=deny"]]
    if os.geteuid() == 0:
        ways += [["-runas", "nobody"], ["-runas", "nobody", "-chroot", t.dir]]
    for i, options in enumerate(ways):
        vm = VM(t, sizes=[MIB], guest=False, options=options, name=f"vm{i}").start()
        vm.qmp("block_resize", device="drive0", size=2 * MIB)
        equal(block(vm, "drive0")["inserted"]["image"]["virtual-size"], 2 * MIB)
        vm.quit()


@test
def no_resize_while_qemu_waits_for_a_migration(t):
    """QEMU 7.2 would die of it."""
    vm = VM(t, sizes=[MIB], guest=False, options=["-incoming", "defer"]).start()
    contains(vm.qmp.error("block_resize", device="drive0", size=2 * MIB).desc,
             "migration")
    equal(os.path.getsize(vm.images[0]), MIB)
    vm.quit()


main()
