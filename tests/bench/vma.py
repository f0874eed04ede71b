#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""vma create and extract against qemu-img convert -O raw on the same image (half
of it holes, all of it in the page cache), and vma verify against only reading
the archive.  Prints rows of a Markdown table: what, ours, the peer's, ratio of
the medians (less is better), spread.

    vma.py [--runs N] [--size MiB] [--dir DIR] [--layout stripes|halves] [--quick]

vma waits until its results are on disk; qemu-img does so with -t writeback but
not by default.  So each is measured in both ways, like against like, and a last
pair of rows has both as they are by default.  Runs go in turns.  Before each,
outputs are removed, everything is synced, and as much memory as the output will
take is used and given back: on a virtual machine whose host takes back free
memory, whoever comes first would pay for getting it.
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
BUILD = os.path.abspath(os.environ.get("BUILD") or os.path.join(TREE, "build"))
VMA = os.path.join(BUILD, "vma")
MIB = 1 << 20


def make_image(path, size, layout):
    """Half data that does not repeat, half holes: a MiB each in turns, or the
    data first."""
    noise = os.urandom(MIB)
    step = 2 * MIB if layout == "stripes" else MIB
    with open(path, "wb") as f:
        f.truncate(size * MIB)
        for i in range(size // 2):
            f.seek(i * step)
            f.write(i.to_bytes(8, "big") + noise[8:])
    os.sync()


def in_cache(path):
    with open(path, "rb", buffering=0) as f:
        buf = bytearray(MIB)
        while f.readinto(buf):
            pass


def settle(folder, bytes_):
    """Take and give back that much page cache."""
    path = os.path.join(folder, "settle")
    block = bytes(MIB)
    with open(path, "wb", buffering=0) as f:
        for _ in range(bytes_ // MIB):
            f.write(block)
    os.unlink(path)


def remove(*paths):
    for path in paths:
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.unlink(path)


def clock(command):
    start = time.monotonic()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   check=True)
    return time.monotonic() - start


def spread(times):
    return (max(times) - min(times)) / statistics.median(times)


class Bench:
    def __init__(self, args, folder):
        self.args = args
        self.folder = folder
        self.image = self.path("img")
        self.archive = self.path("a.vma")
        self.data = args.size * MIB // 2
        make_image(self.image, args.size, args.layout)
        subprocess.run([VMA, "create", "--no-sync", self.archive,
                        f"format=raw:d={self.image}"], check=True)
        os.sync()
        convert = ["qemu-img", "convert", "-f", "raw", "-O", "raw"]
        image, out = self.image, self.path("o")
        drive = f"format=raw:d={image}"
        self.commands = {
            "create": [VMA, "create", out, drive],
            "create-nosync": [VMA, "create", "--no-sync", out, drive],
            "extract": [VMA, "extract", self.archive, out],
            "extract-nosync": [VMA, "extract", "--no-sync", self.archive, out],
            "convert": [*convert, "-t", "writeback", image, out],
            "convert-nosync": [*convert, image, out],
            "verify": [VMA, "verify", self.archive],
            "read": ["dd", f"if={self.archive}", "of=/dev/null", "bs=512k", "status=none"],
        }
        self.times = {name: [] for name in self.commands}

    def path(self, name):
        return os.path.join(self.folder, name)

    def run_all(self):
        names = list(self.commands)
        for turn in range(self.args.runs):
            # A different one first each time.
            for name in names[turn % len(names):] + names[:turn % len(names)]:
                remove(self.path("o"))
                os.sync()
                in_cache(self.archive if name.startswith(("extract", "verify", "read"))
                         else self.image)
                settle(self.folder, self.data + 64 * MIB)
                self.times[name].append(clock(self.commands[name]))
        remove(self.path("o"))

    def row(self, what, ours, peer):
        a, b = (statistics.median(self.times[x]) for x in (ours, peer))
        print(f"| {what} | {a:.2f} s | {b:.2f} s | {a / b:.2f} | "
              f"{spread(self.times[ours]):.0%}, {spread(self.times[peer]):.0%} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--size", type=int, default=4096, metavar="MiB")
    parser.add_argument("--dir", help="where the files go [a temporary folder]")
    parser.add_argument("--layout", choices=["stripes", "halves"], default="stripes")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.runs, args.size = 1, 64
    folder = tempfile.mkdtemp(prefix="bench-vma-", dir=args.dir)
    try:
        bench = Bench(args, folder)
        bench.run_all()
    finally:
        shutil.rmtree(folder)
    image = f"{args.size} MiB, half holes"
    bench.row(f"vma create, synced, {image}; qemu-img convert -t writeback",
              "create", "convert")
    bench.row(f"vma create --no-sync, {image}; qemu-img convert",
              "create-nosync", "convert-nosync")
    bench.row(f"vma extract, synced, {image}; qemu-img convert -t writeback",
              "extract", "convert")
    bench.row(f"vma extract --no-sync, {image}; qemu-img convert",
              "extract-nosync", "convert-nosync")
    bench.row("vma verify; dd of the archive to /dev/null", "verify", "read")
    bench.row("by default: vma create (synced); qemu-img convert (not synced)",
              "create", "convert-nosync")
    bench.row("by default: vma extract (synced); qemu-img convert (not synced)",
              "extract", "convert-nosync")


if __name__ == "__main__":
    sys.exit(main())
