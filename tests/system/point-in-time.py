#!/usr/bin/python3
# timeout: 400
# SPDX-License-Identifier: GPL-2.0-or-later
"""All drives of a backup are from one instant: while a guest writes a running
sequence number to several drives, the images of every archive are an exact cut
of that sequence: nothing missing, nothing later, across drives too."""

import os

from lib.backup import Cut, backup, extract, image, wait_backup
from lib.tap import equal, main, test
from lib.vm import VM

# Several clusters each, ends within a cluster, no multiple of 4 KiB.
SIZES = [4 << 20, (3 << 20) + 512 * 11, (2 << 20) + 65536 + 512]
DRIVES = ["vda", "vdb", "vdc"]
ROUNDS = 40 if os.environ.get("SIDECAR_TEST_LONG") else 5


def prove(t, vm, cut, archive, name):
    folder = extract(t, archive, name)
    n = cut.check([image(folder, f"drive{i}") for i in range(len(SIZES))])
    return n


def busy_vm(t, max_sectors, **options):
    vm = VM(t, sizes=SIZES, **options).start()
    cut = Cut(vm.guest, 4242 + max_sectors, max_sectors, SIZES)
    cut.start(*DRIVES)
    vm.guest.wait("seq", 200)
    return vm, cut


@test(limit=200)
def images_are_an_exact_cut_at_full_speed(t):
    vm, cut = busy_vm(t, 300)
    for i in range(ROUNDS):
        cut.before()
        vm.qmp("backup", backup_file=t.path(f"{i}.vma"))
        cut.after()
        vm.guest.wait("seq", cut.high + 100)  # writes go on meanwhile
        wait_backup(vm.qmp)
        prove(t, vm, cut, t.path(f"{i}.vma"), f"restored{i}")
    vm.guest.stop("seq")
    vm.quit()


@test(limit=200)
def images_are_an_exact_cut_at_limited_speed(t):
    """The sweep is held back, so nearly all clusters are saved by guest writes."""
    vm, cut = busy_vm(t, 300)
    cut.before()
    vm.qmp("backup", backup_file=t.path("a.vma"), speed=2 << 20)
    cut.after()
    vm.guest.wait("seq", cut.high + 500)
    info = wait_backup(vm.qmp)
    equal((info["speed"], info["spilled"]), (2 << 20, 0))
    assert 0 < info["memory"] <= info["guest-copied"] <= info["total"] + 3 * 4096, info
    prove(t, vm, cut, t.path("a.vma"), "restored")
    vm.guest.stop("seq")
    vm.quit()


@test(limit=200)
def single_sectors_are_an_exact_cut(t):
    vm, cut = busy_vm(t, 1)
    cut.before()
    vm.qmp("backup", backup_file=t.path("a.vma"), speed=4 << 20)
    cut.after()
    wait_backup(vm.qmp)
    prove(t, vm, cut, t.path("a.vma"), "restored")
    vm.guest.stop("seq")
    vm.quit()


@test(limit=200)
def discards_come_after_the_instant_too(t):
    """A guest that discards takes nothing away from the archive."""
    vm = VM(t, sizes=SIZES, drive_options=",discard=unmap,detect-zeroes=unmap").start()
    cut = Cut(vm.guest, 9, 300, SIZES)
    cut.start(*DRIVES, discard=True)
    vm.guest.wait("seq", 200)
    for i, speed in enumerate([0, 3 << 20]):
        cut.before()
        vm.qmp("backup", backup_file=t.path(f"{i}.vma"), speed=speed)
        cut.after()
        vm.guest.wait("seq", cut.high + 200)
        wait_backup(vm.qmp)
        prove(t, vm, cut, t.path(f"{i}.vma"), f"restored{i}")
    vm.guest.stop("seq")
    vm.quit()


@test(limit=200)
def several_writers_at_once_are_each_cut_exactly(t):
    """Two processors, a sequence of its own on each drive, all of them busy
    when the instant comes."""
    vm = VM(t, sizes=SIZES, options=["-smp", "2"]).start()
    cuts = [Cut(vm.guest, 31 + i, 200, [size], job=f"seq{i}")
            for i, size in enumerate(SIZES)]
    for cut, drive in zip(cuts, DRIVES):
        cut.start(drive)
    for cut in cuts:
        vm.guest.wait(cut.job, 60)
    for i in range(ROUNDS):
        for cut in cuts:
            cut.before()
        vm.qmp("backup", backup_file=t.path(f"{i}.vma"))
        for cut in cuts:
            cut.after()
        wait_backup(vm.qmp)
        folder = extract(t, t.path(f"{i}.vma"), f"restored{i}")
        for j, cut in enumerate(cuts):
            cut.check([image(folder, f"drive{j}")])
    for cut in cuts:
        vm.guest.stop(cut.job)
    vm.quit()


@test(limit=200)
def an_archive_through_a_command_is_the_same(t):
    vm, cut = busy_vm(t, 100)
    cut.before()
    vm.qmp("backup", backup_file=f"exec:cat >{t.path('a.vma')}")
    cut.after()
    wait_backup(vm.qmp)
    prove(t, vm, cut, t.path("a.vma"), "restored")
    vm.guest.stop("seq")
    vm.quit()


@test(limit=200)
def only_the_devices_asked_for_are_in_the_archive(t):
    vm = VM(t, sizes=SIZES, guest=False).start()
    info = backup(vm, t.path("a.vma"), devlist="drive2,drive0")
    equal(info["total"], SIZES[0] + SIZES[2], "total")
    folder = extract(t, t.path("a.vma"))
    equal(sorted(f for f in os.listdir(folder) if f.endswith(".raw")),
          ["disk-drive0.raw", "disk-drive2.raw"])
    vm.quit()


main()
