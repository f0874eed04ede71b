#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a backup costs the guest: 4 KiB random writes a second (fio's nbd
engine) while a backup goes into a fast pipe, against the same client without
one.  The client runs all the time; how much it gets done is counted in turns,
for as long as each backup takes and for as long without one.  Prints a row of
a Markdown table for each case: what, with, without, ratio of the medians (more
is better), spread; then what the backup did.

    backup.py [--runs N] [--size MiB] [--dir DIR] [--only WORDS] [--quick] [-v]
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

MODES = [("page cache", "threads"), ("O_DIRECT", "native")]

# A reader that costs next to nothing, so that what is measured is ours.
SINK = 'import os; n = os.open("/dev/null", 1); all(iter(lambda: os.splice(0, n, 1 << 20), 0))'


class Tool:
    """The export, and who orders its backups."""

    def __init__(self, args, aio):
        self.socket = os.path.join(args.tmp, "socket")
        self.process = subprocess.Popen(
            [BUILD + "/tools/backup-export", self.socket, args.image, aio],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        until = time.monotonic() + 30
        while not os.path.exists(self.socket):
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit("backup.py: backup-export does not start")
            time.sleep(0.01)

    def order(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n").split(" ", 6)

    def idle(self, seconds):
        writes, took = self.order(f"idle {seconds}")
        return int(writes) / float(took)

    def backup(self, target):
        status, writes, took, copied, spilled, memory, message = self.order("backup " + target)
        if status != "done":
            sys.exit(f"backup.py: the backup ended as {status}: {message}")
        self.last = f"{float(took):.2f} s, {int(copied) >> 20} MiB copied before writes, " \
                    f"{int(spilled) >> 20} MiB spilled, {int(memory) >> 10} KiB of buffers"
        return int(writes) / float(took), float(took)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def client(args, socket, depth):
    return subprocess.Popen(
        ["fio", "--name=x", "--thread", "--ioengine=nbd", f"--uri=nbd+unix:///d?socket={socket}",
         "--rw=randwrite", "--bs=4k", f"--iodepth={depth}", f"--size={args.size}m",
         "--norandommap", "--time_based", "--runtime=3600", "--refill_buffers=0"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=args.tmp)


def row(args, mode, depth):
    with_backup, without = [], []
    with Tool(args, mode[1]) as tool:
        fio = client(args, tool.socket, depth)
        try:
            while tool.idle(0.2) == 0:
                if fio.poll() is not None:
                    sys.exit("backup.py: fio does not run")
            tool.idle(0.5)
            for _ in range(args.runs):
                iops, took = tool.backup(args.target)
                with_backup.append(iops)
                tool.idle(0.2)
                without.append(tool.idle(took))
        finally:
            fio.terminate()
            fio.wait()
        last = tool.last
    x, y = statistics.median(with_backup), statistics.median(without)
    spread = max((max(r) - min(r)) / statistics.median(r) for r in (with_backup, without))
    print(f"| backup, 4 KiB random guest writes meanwhile, {mode[0]}, iodepth {depth} | {x:,.0f} IOPS "
          f"| without a backup {y:,.0f} IOPS | {x / y:.2f} | ±{spread / 2:.0%} |", flush=True)
    if args.verbose:
        print(f"  (last backup: {last})", flush=True)


def make_image(path, mib):
    """Half of it holes, in pieces of 16 MiB; all in the page cache."""
    with open(path, "wb") as f:
        block = os.urandom(1 << 20)
        for i in range(mib):
            if i // 16 % 2:
                f.seek(1 << 20, os.SEEK_CUR)
            else:
                f.write(block)
        f.truncate(mib << 20)
        f.flush()
        os.fsync(f.fileno())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=4096, help="of the image, MiB")
    parser.add_argument("--dir", default=BUILD)
    parser.add_argument("--only", default="", help="rows with all these words")
    parser.add_argument("--depths", default="1,16")
    parser.add_argument("--target", default=f"exec:exec {sys.executable} -c '{SINK}'")
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("-v", "--verbose", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.runs, args.size = 1, 256
    if not shutil.which("fio"):
        sys.exit("backup.py: fio is needed")
    args.tmp = tempfile.mkdtemp(prefix="backup-bench-", dir=args.dir)
    args.image = os.path.join(args.tmp, "image")
    try:
        for mode in MODES:
            for depth in args.depths.split(","):
                words = f"{mode[0]} depth {depth}"
                if all(w in words for w in args.only.split()):
                    make_image(args.image, args.size)  # the last case filled its holes
                    row(args, mode, int(depth))
                    os.unlink(args.image)
    finally:
        shutil.rmtree(args.tmp, ignore_errors=True)


main()
