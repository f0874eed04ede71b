#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest reads is what it wrote, while backups run at full and at limited
speed, are cancelled, and start again; and the image holds it at the end."""

import zlib

from lib.backup import backup, extract, image, wait_backup
from lib.guest import mix64
from lib.sequence import SECTOR
from lib.tap import equal, main, test
from lib.vm import VM

SIZE = (6 << 20) + 7 * SECTOR
SEED = 77


def check_sectors(path):
    """Every sector of an archive is one that the guest wrote there, or zeros."""
    with open(path, "rb") as f:
        data = f.read()
    equal(len(data), SIZE, "size")
    for sector in range(SIZE // SECTOR):
        part = data[sector * SECTOR:(sector + 1) * SECTOR]
        if not part.strip(b"\0"):
            continue
        words = [int.from_bytes(part[i:i + 8], "little") for i in range(0, SECTOR, 8)]
        first = mix64(SEED ^ (sector << 24) ^ words[0])
        want = [(first + i) & 0xffffffffffffffff for i in range(64)]
        if words[1] != sector or words[2:] != want[2:]:
            raise AssertionError(f"sector {sector} of the archive holds generation "
                                 f"{words[0]:#x} of sector {words[1]}, or part of it")


def image_crc(path):
    with open(path, "rb") as f:
        return zlib.crc32(f.read())


def shadowed(t, drive_options, work):
    vm = VM(t, sizes=[SIZE], drive_options=drive_options).start()
    vm.guest.start("w", "shadow", SEED, 4, "vda")
    vm.guest.wait("w", 300)
    work(vm)
    status = vm.guest.stop("w")
    vm.quit()
    equal(image_crc(vm.images[0]), status.crc32, "CRC-32 of the image")


def full_and_limited(t, vm):
    for i, speed in enumerate([0, 3 << 20, 0]):
        before = vm.guest.status("w").done
        backup(vm, t.path(f"{i}.vma"), speed=speed)
        vm.guest.wait("w", before + 200)
        check_sectors(image(extract(t, t.path(f"{i}.vma"), f"r{i}"), "drive0"))


@test
def reads_and_writes_during_backups(t):
    shadowed(t, "", lambda vm: full_and_limited(t, vm))


@test
def reads_writes_and_discards_during_backups(t):
    shadowed(t, ",discard=unmap,cache=none", lambda vm: full_and_limited(t, vm))


@test
def reads_and_writes_with_native_aio(t):
    shadowed(t, ",discard=unmap,cache=none,aio=native",
             lambda vm: full_and_limited(t, vm))


@test
def reads_and_writes_while_backups_are_cancelled(t):
    def work(vm):
        for i in range(20):
            vm.qmp("backup", backup_file=t.path(f"{i}.vma"), speed=1 << 20)
            before = vm.guest.status("w").done
            vm.guest.wait("w", before + 20)
            vm.qmp("backup-cancel")
            wait_backup(vm.qmp, "cancelled")
    shadowed(t, "", work)


main()
