#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a backup costs a real guest: its 4 KiB random writes a second while a
backup of its drive goes into a fast pipe, against the same guest without a
backup, in turns.  (backup.py has the same with fio for a guest, which is harder
on us: it writes several times faster than a guest under TCG.)

    guest-backup.py [--runs N] [--size MiB] [--quick]
"""

import argparse
import os
import statistics
import sys
import time

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("BUILD", os.path.join(TREE, "build"))
sys.path.insert(0, os.path.join(TREE, "tests", "system"))

from lib.tap import Case  # noqa: E402
from lib.vm import VM  # noqa: E402

# A reader that costs next to nothing, so that what is measured is ours.
SINK = 'import os; n = os.open("/dev/null", 1); all(iter(lambda: os.splice(0, n, 1 << 20), 0))'


def rate(guest, until):
    """Writes a second for as long as until() says."""
    count, start = guest.status("w").done, time.monotonic()
    until()
    return (guest.status("w").done - count) / (time.monotonic() - start)


def backup(vm):
    start = time.monotonic()

    def until():
        vm.qmp("backup", backup_file=f"exec:exec {sys.executable} -c '{SINK}'")
        while vm.qmp("query-backup")["status"] == "active":
            time.sleep(0.05)
    result = rate(vm.guest, until)
    info = vm.qmp("query-backup")
    if info["status"] != "done":
        sys.exit(f"guest-backup.py: the backup ended as {info}")
    return result, time.monotonic() - start


def make_image(path, mib):
    """Half of it holes, in pieces of 16 MiB; all in the page cache."""
    block = os.urandom(1 << 20)
    with open(path, "wb") as f:
        for i in range(mib):
            if i // 16 % 2 == 0:
                os.pwrite(f.fileno(), block, i << 20)
        f.truncate(mib << 20)
        os.fsync(f.fileno())


def row(args, threads):
    with_backup, without = [], []
    case = Case("bench")
    try:
        image = case.path("disk.raw")
        make_image(image, args.size)
        vm = VM(case, drives=[f"file={image},format=raw,if=virtio,id=d"]).start()
        vm.guest.start("w", "randwrite", threads, "vda")
        vm.guest.wait("w", 1000)
        for _ in range(args.runs):
            iops, took = backup(vm)
            with_backup.append(iops)
            without.append(rate(vm.guest, lambda: time.sleep(took)))
        vm.guest.stop("w")
        vm.quit()
    finally:
        case.close()
    x, y = statistics.median(with_backup), statistics.median(without)
    spread = max((max(r) - min(r)) / statistics.median(r) for r in (with_backup, without))
    print(f"| live backup, a real guest's 4 KiB random writes meanwhile, {threads} at a time "
          f"| {x:,.0f} IOPS | without a backup {y:,.0f} IOPS | {x / y:.2f} | ±{spread / 2:.0%} |",
          flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=4096, help="of the image, MiB")
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.runs, args.size = 1, 256
    for threads in (1, 16):
        row(args, threads)


main()
