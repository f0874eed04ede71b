#!/usr/bin/python3
# timeout: 240
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the README says about restoring, done."""

import os
import zlib

from lib.backup import backup, image, wait_backup
from lib.sequence import SECTOR
from lib.tap import contains, equal, main, program, test
from lib.vm import VM

SIZES = [(3 << 20) + 3 * SECTOR, 2 << 20]


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)
    return path


def read(path):
    with open(path, "rb") as f:
        return f.read()


def vm_with_data(t, **options):
    vm = VM(t, sizes=SIZES, **options)
    for path, size in zip(vm.images, SIZES):
        write(path, os.urandom(size // 2) + bytes(size - size // 2))
    return vm.start()


@test
def a_compressed_archive_with_configurations_comes_back(t):
    vm = vm_with_data(t, guest=False)
    configs = [write(t.path("vm.conf"), b"cores: 2\n"), write(t.path("vm.fw"), b"[OPTIONS]\n")]
    archive = t.path("a.vma.gz")
    vm.qmp("backup", backup_file=f"exec:gzip -1 >{archive}", config_file=configs)
    wait_backup(vm.qmp)
    t.run("sh", "-c", f"gzip -dc {archive} | {program('vma')} extract - {t.path('r')}")
    for name in ("vm.conf", "vm.fw"):
        equal(read(t.path("r", name)), read(t.path(name)))
    for i in (0, 1):
        equal(read(image(t.path("r"), f"drive{i}")) == read(vm.images[i]), True, f"drive{i}")
    listed = t.run("sh", "-c", f"gzip -dc {archive} | {program('vma')} list -")
    for i, size in enumerate(SIZES):
        contains(listed, f"size: {size} devname: drive{i}")
    contains(listed, "vm.conf")
    vm.quit()


@test
def one_drive_alone_comes_back(t):
    vm = vm_with_data(t, guest=False)
    backup(vm, t.path("a.vma"))
    t.run(program("vma"), "extract", "-d", "drive1", t.path("a.vma"), t.path("r"))
    equal(sorted(os.listdir(t.path("r"))), ["disk-drive1.raw"])
    equal(read(image(t.path("r"), "drive1")) == read(vm.images[1]), True, "drive1")
    vm.quit()


@test
def a_folder_that_exists_is_not_touched(t):
    vm = vm_with_data(t, guest=False)
    backup(vm, t.path("a.vma"))
    os.mkdir(t.path("r"))
    write(t.path("r", "mine"), b"x")
    status, text = t.run(program("vma"), "extract", t.path("a.vma"), t.path("r"), status=None)
    equal(status != 0, True, "refused")
    contains(text, t.path("r"))
    equal(os.listdir(t.path("r")), ["mine"])
    vm.quit()


@test
def the_copy_starts_and_reads_the_same(t):
    vm = vm_with_data(t)
    backup(vm, t.path("a.vma"))
    sums = [zlib.crc32(read(path)) for path in vm.images]
    said = vm.guest.run("md5sum /dev/vda /dev/vdb")
    vm.quit()
    t.run(program("vma"), "extract", t.path("a.vma"), t.path("r"))
    copies = [image(t.path("r"), f"drive{i}") for i in (0, 1)]
    equal([zlib.crc32(read(path)) for path in copies], sums)
    copy = VM(t, name="copy", sidecar=False,
              drives=[f"file={path},format=raw,if=virtio" for path in copies]).start()
    equal(copy.guest.run("md5sum /dev/vda /dev/vdb"), said)
    copy.guest.poweroff()
    equal(copy.wait_exit(), 0)


main()
