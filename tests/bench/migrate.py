#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Live migration on one machine, ours against the stock QEMU's, in turns: the same
guest under the same load with the same limits, into a plain QEMU in both cases.

    migrate.py [--runs N] [--patience S] [--only WORDS] [--quick]

Rows: migration time, downtime and bytes sent, for a small and a larger writer at
32 MiB/s, with and without XBZRLE, and the time for an idle guest without limit: a
large one, and one whose drive of 1 GiB (every second MiB of it a hole) is copied too.
Less is better in every row.

The limit of 32 MiB/s is that of both sources (max-bandwidth), which they do not keep while
the guest is stopped; and in the rows "over a link" that of the link as well, as it
would be between two hosts.

A guest that writes more than the limit lets through does not converge.  After some
seconds such a migration is let through with a longer downtime; the row says so.  Its
time is then those seconds, its bytes are the limit's, and its downtime is what the
receiver, or the link, takes for the rest.
"""

import argparse
import collections
import filecmp
import itertools
import os
import statistics
import sys
import time

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TREE, "tests", "system"))

from lib.migration import arrived, destination, ended, status, twin  # noqa: E402
from lib.tap import Case  # noqa: E402
from lib.vm import VM  # noqa: E402
from lib.wire import Wire  # noqa: E402

LIMIT = 32 << 20
# QEMU 7.2 never gets to its drives if the limit is 0, which else means none.
NO_LIMIT = 1 << 40
CACHE = 64 << 20
DOWNTIME = 300
# A plain QEMU 7.2 whose memory fits the limit does not wait for its first pass over the
# drives: what that has not got to is zeros at the destination.
DOWNTIME_DRIVES = 20
MIB = 1 << 20
# name, guest's job, its memory, seconds of patience without and with XBZRLE, bytes of a
# drive that is copied
Load = collections.namedtuple("Load", "name job memory plain xbzrle drive", defaults=(60, 60, 0))
LOADS = [
    Load("16 MiB, a byte in every KiB", ("memory", 16, 1, "inc"), 128, 5, 20),
    Load("128 MiB, 64 bytes in 20 % of the pages", ("memory", 128, 1, "patch"), 256, 8, 12),
]
FIGURES = [  # name, from query-migrate, unit
    ("time", lambda info: info["total-time"], "ms"),
    ("downtime", lambda info: max(info["downtime"], 1), "ms"),
    ("bytes", lambda info: info["ram"]["transferred"] / (1 << 20), "MiB"),
]


def parameters(vm, xbzrle, limit, downtime=DOWNTIME):
    vm.qmp("migrate-set-capabilities", capabilities=[{"capability": "xbzrle", "state": xbzrle}])
    vm.qmp("migrate-set-parameters", max_bandwidth=limit, downtime_limit=downtime,
           xbzrle_cache_size=CACHE)


def half_filled(path, size):
    """Every second MiB has data."""
    data = os.urandom(MIB)
    with open(path, "r+b") as f:
        for offset in range(0, size, 2 * MIB):
            f.seek(offset)
            f.write(data)
        os.fsync(f.fileno())


def two_ends(case, load, sidecar, path):
    src = VM(case, name="src", sizes=[load.drive] if load.drive else (), memory=load.memory,
             sidecar=sidecar)
    if load.drive:
        half_filled(src.images[0], load.drive)
    src.start()
    if load.job:
        src.guest.start("job", *load.job)
        src.guest.wait("job", 1000)
    return src, (destination if load.drive else twin)(case, src, "unix:" + path, sidecar=False)


def one(load, sidecar, link, xbzrle, patience):
    """One migration; query-migrate's answer and whether it converged."""
    case = Case("bench")
    try:
        path = case.path("s")
        src, dst = two_ends(case, load, sidecar, path)
        if link:
            wire = Wire(case.path("wire"), path, LIMIT)
            case.defer(wire.close)
            path = case.path("wire")
        parameters(src, xbzrle, LIMIT if load.job else NO_LIMIT,
                   DOWNTIME_DRIVES if load.drive else DOWNTIME)
        start = time.monotonic()
        src.qmp("migrate", uri="unix:" + path, blk=bool(load.drive))
        converged = True
        while status(src) not in ("completed", "failed"):
            if converged and time.monotonic() - start > patience:
                converged = False
                src.qmp("migrate-set-parameters", downtime_limit=30000)
            time.sleep(0.01)
        info = ended(src)
        arrived(dst)
        src.end()
        dst.end()
        for a, b in zip(src.images, dst.images if load.drive else ()):
            if not filecmp.cmp(a, b, shallow=False):
                raise AssertionError(f"{a} and {b} differ")
        return info, converged
    finally:
        case.close()


def spread(values):
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle * 100 if middle else 0


def title(load, link, xbzrle):
    return load.name + (", XBZRLE" if xbzrle else "") + (", over a link of 32 MiB/s" if link else "")


def rows(load, link, xbzrle, figures, args):
    patience = min(load.xbzrle if xbzrle else load.plain, args.patience)
    results = {True: [], False: []}
    converged = {True: True, False: True}
    for _ in range(args.runs):
        for sidecar in (True, False):
            info, done = one(load, sidecar, link, xbzrle, patience)
            results[sidecar].append(info)
            converged[sidecar] &= done
    for name, get, unit in figures:
        ours, peer = ([get(i) for i in results[s]] for s in (True, False))
        a, b = statistics.median(ours), statistics.median(peer)
        def cell(value, ok):
            return f"{value:.0f} {unit}" + ("" if ok else " (let through)")
        what = f"migration {name}: " + title(load, link, xbzrle)
        print(f"| {what} | {cell(a, converged[True])} | {cell(b, converged[False])} | "
              f"{a / b if b else 0:.2f} | {spread(ours):.0f} %, {spread(peer):.0f} % |",
              flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--patience", type=float, default=60)  # at most
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.runs, args.patience = 1, 4
    for load in LOADS:
        for link, xbzrle in itertools.product((False, True), repeat=2):
            if all(w in title(load, link, xbzrle) for w in args.only):
                rows(load, link, xbzrle, FIGURES, args)
    for load in (Load("2 GiB idle guest, no limit", None, 256 if args.quick else 2048),
                 Load("1 GiB drive, half holes, copied with -b", None, 128,
                      drive=(64 if args.quick else 1024) * MIB)):
        if all(w in load.name for w in args.only):
            rows(load, False, False, FIGURES[:1], args)


if __name__ == "__main__":
    main()
