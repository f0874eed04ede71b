#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Streaming an image against qemu-img convert of the same chain, the guest idle
(it is not started), all in page cache.  Less is better.

    stream.py [--runs N] [--size MiB] [--dir DIR] [--quick]
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TREE, "tests", "system"))

from lib.tap import Case  # noqa: E402
from lib.vm import VM  # noqa: E402

MIB = 1 << 20


def make_base(path, mib):
    with open(path, "wb") as f:
        block = os.urandom(MIB)
        for _ in range(mib):
            f.write(block)
        f.flush()
        os.fsync(f.fileno())


def overlay(args, name):
    path = os.path.join(args.tmp, name)
    if os.path.exists(path):
        os.remove(path)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", args.base, "-F",
                    "raw", path], check=True)
    return path


def stream(args):
    top = overlay(args, "top.qcow2")
    case = Case("bench")
    try:
        vm = VM(case, guest=False,
                drives=[f"if=virtio,id=disk,format=qcow2,file={top}"]).start()
        start = time.monotonic()
        vm.qmp("block_stream", device="disk")
        vm.qmp.wait_event("BLOCK_STREAM_COMPLETED")
        took = time.monotonic() - start
        vm.quit()
    finally:
        case.close()
    return took


def convert(args):
    """fsync at the end, as a stream does it."""
    top = overlay(args, "top.qcow2")
    out = os.path.join(args.tmp, "out.qcow2")
    start = time.monotonic()
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", top, out],
                   check=True)
    with open(out, "r+b") as f:
        os.fsync(f.fileno())
    took = time.monotonic() - start
    os.remove(out)
    return took


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=2048, help="MiB")
    parser.add_argument("--dir", default=os.environ.get("BUILD") or TREE + "/build")
    parser.add_argument("--quick", action="store_true", help="no figures to be had")
    args = parser.parse_args()
    if args.quick:
        args.runs, args.size = 1, 64
    args.tmp = tempfile.mkdtemp(prefix="stream-bench-", dir=args.dir)
    args.base = os.path.join(args.tmp, "base.raw")
    a, b = [], []
    try:
        make_base(args.base, args.size)
        for _ in range(args.runs):
            a.append(stream(args))
            b.append(convert(args))
    finally:
        shutil.rmtree(args.tmp, ignore_errors=True)
    x, y = statistics.median(a), statistics.median(b)
    spread = max((max(r) - min(r)) / statistics.median(r) for r in (a, b))
    print(f"| streaming {args.size} MiB from a raw backing file | {x:.2f} s "
          f"| qemu-img convert, fsync {y:.2f} s | {x / y:.2f} | ±{spread / 2:.0%} |",
          flush=True)


main()
