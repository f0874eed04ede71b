#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""An ext4 that a guest works on, backed up and restored: fsck finds nothing to
mend but the journal, and all that the guest had synced is there and whole."""

import os
import re
import zlib

from lib.backup import extract, image, wait_backup
from lib.guest import make_image
from lib.tap import SOON, contains, main, test
from lib.vm import VM

SIZE = 64 << 20


def files(t, path):
    """(name, bytes) of everything in the file system, without mounting it."""
    out = t.path("files")
    os.mkdir(out)
    t.run("debugfs", "-R", f"rdump / {out}", path)
    for folder, _, names in os.walk(out):
        for name in names:
            with open(os.path.join(folder, name), "rb") as f:
                yield os.path.relpath(os.path.join(folder, name), out), f.read()


def check_tree(t, path, low, high):
    whole = 0
    log = None
    for name, data in files(t, path):
        if name == "log":
            log = data
        elif re.fullmatch(r"d\d/f\d", name):
            head, _, body = data.partition(b"\n")
            n, length, crc = head.split()
            if int(n) > high:
                raise AssertionError(f"{name} is of round {int(n)}, after {high}")
            if len(body) != int(length) or zlib.crc32(body) != int(crc, 16):
                raise AssertionError(f"{name} of round {int(n)} is damaged")
            whole += 1
    last = int(log.rsplit(b"\n", 2)[-2])
    if log != b"".join(b"%d\n" % i for i in range(1, last + 1)):
        raise AssertionError("the log is not 1, 2, 3, ...")
    if not low <= last <= high:
        raise AssertionError(f"log ends at {last}, want {low}...{high}")
    if whole < 8:
        raise AssertionError(f"only {whole} files")


def backup_of_busy_ext4(t, **arguments):
    path = make_image(t.path("fs.raw"), SIZE)
    t.run("mke2fs", "-q", "-t", "ext4", "-F", path)
    vm = VM(t, drives=[f"file={path},format=raw,if=virtio,id=fs"]).start()
    vm.guest.start("e", "ext4", 99, "vda")
    low = vm.guest.wait("e", 60).done
    low = vm.guest.status("e").done
    vm.qmp("backup", backup_file=t.path("a.vma"), **arguments)
    high = vm.guest.status("e").started
    vm.guest.wait("e", high + 10)
    wait_backup(vm.qmp, deadline=3 * SOON)
    vm.guest.stop("e")
    vm.quit()

    restored = image(extract(t, t.path("a.vma")), "fs")
    # Replaying the journal is allowed (status 0 or 1), mending is not.
    status, text = t.run("e2fsck", "-p", restored, status=None)
    if status > 1:
        raise AssertionError(f"e2fsck -p: status {status}: {text}")
    contains(t.run("e2fsck", "-f", "-n", restored), "blocks")
    check_tree(t, restored, low, high)
    # and the guest's own disk has not suffered
    contains(t.run("e2fsck", "-f", "-n", path), "blocks")


@test
def a_busy_ext4_restores_clean_at_full_speed(t):
    backup_of_busy_ext4(t)


@test
def a_busy_ext4_restores_clean_at_limited_speed(t):
    backup_of_busy_ext4(t, speed=8 << 20)


main()
