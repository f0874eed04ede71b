#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The NBD export against qemu-nbd: the same raw or qcow2 file, the same client
(fio's nbd engine), in turns.  Prints a row of a Markdown table for each pattern:
what, ours, qemu-nbd's, ratio of the medians (more is better), spread.

    nbd.py [--runs N] [--seconds S] [--size MiB] [--dir DIR] [--only WORDS]
           [--depths N,N] [--quick]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("BUILD") or os.path.join(TREE, "build"))

PATTERNS = [  # name, fio's rw, block size, iodepth
    ("4 KiB random read", "randread", "4k"),
    ("4 KiB random write", "randwrite", "4k"),
    ("1 MiB sequential read", "read", "1m"),
    ("1 MiB sequential write", "write", "1m"),
]
CLUSTER = 64 << 10  # of the qcow2 images
ALLOCATING_SIZE = 16  # times --size is the image that allocating writes go to
ALLOCATING = ("4 KiB allocating random write", "randwrite", "4k")
MODES = [  # name, our options, qemu-nbd's, format, patterns
    ("page cache", ["--aio", "threads"], ["--cache=writeback"], "raw", PATTERNS),
    ("O_DIRECT", ["--aio", "native"], ["--cache=none", "--aio=native"], "raw", PATTERNS),
    ("qcow2, page cache", ["--aio", "threads"], ["--cache=writeback"], "qcow2",
     PATTERNS + [ALLOCATING]),
]


class Server:
    def __init__(self, command, socket):
        self.socket = socket
        # A session of its own, so that ctrl-C does not end it before us.
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL,
                                        start_new_session=True)
        until = time.monotonic() + 30
        while not os.path.exists(socket):
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit(f"nbd.py: {command[0]} does not start")
            time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def ours(args, image, fmt, options):
    socket = os.path.join(args.tmp, "ours")
    return Server([BUILD + "/tools/nbd-export", "-k", socket, "-f", fmt, "-x", "d",
                   *options, image], socket)


def peer(args, image, fmt, options):
    socket = os.path.join(args.tmp, "peer")
    return Server(["qemu-nbd", "-k", socket, "-f", fmt, "-x", "d", "-t",
                   "--discard=unmap", *options, image], socket)


def measure(args, socket, pattern, depth):
    """Requests a second."""
    _, rw, bs = pattern
    command = ["fio", "--name=x", "--ioengine=nbd", f"--uri=nbd+unix:///d?socket={socket}",
               f"--rw={rw}", f"--bs={bs}", f"--iodepth={depth}", "--randrepeat=1",
               "--refill_buffers=0", "--output-format=json"]
    if pattern is ALLOCATING:
        # Not for a time, since a cluster is new only once: so few requests into so
        # large an image that 94 % of them find none there yet.
        clusters = (args.size * ALLOCATING_SIZE << 20) // CLUSTER
        command += [f"--size={args.size * ALLOCATING_SIZE}m", "--norandommap",
                    f"--blockalign={CLUSTER}", f"--io_size={clusters // 8 * 4096}"]
    else:
        command += [f"--size={args.size}m", "--time_based", f"--runtime={int(args.seconds * 1000)}ms",
                    "--ramp_time=0.3"]
    text = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          check=True, cwd=args.tmp).stdout
    job = json.loads(text[text.index(b"{"):])["jobs"][0]
    if job["error"]:
        sys.exit(f"nbd.py: fio: error {job['error']}")
    return job["read"]["iops"] + job["write"]["iops"]


def unit(iops, bs):
    return f"{iops:,.0f} IOPS" if bs == "4k" else f"{iops:,.0f} MiB/s"


def row(args, mode, pattern, depth):
    mode_name, our_options, peer_options, fmt, _ = mode
    name, _, bs = pattern
    image = args.images[fmt]
    a, b = [], []
    for _ in range(args.runs):
        for start, options, results in ((ours, our_options, a), (peer, peer_options, b)):
            if pattern is ALLOCATING:
                image = os.path.join(args.tmp, "empty.qcow2")
                make_qcow2(image, args.size * ALLOCATING_SIZE)
            with start(args, image, fmt, options) as server:
                results.append(measure(args, server.socket, pattern, depth))
    x, y = statistics.median(a), statistics.median(b)
    spread = max((max(r) - min(r)) / statistics.median(r) for r in (a, b))
    print(f"| NBD export, {mode_name}, {name}, iodepth {depth} | {unit(x, bs)} "
          f"| qemu-nbd {unit(y, bs)} | {x / y:.2f} | ±{spread / 2:.0%} |", flush=True)


def make_image(path, mib):
    """No holes, nothing compressible, all in the page cache."""
    with open(path, "wb") as f:
        block = os.urandom(1 << 20)
        for _ in range(mib):
            f.write(block)
        f.flush()
        os.fsync(f.fileno())


def make_qcow2(path, mib, source=None):
    """Empty, or with all of a raw image in it."""
    if os.path.exists(path):
        os.remove(path)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", path, f"{mib}m"]
    if source:
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, path]
    subprocess.run(command, check=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--size", type=int, default=1024, help="of the image, MiB")
    parser.add_argument("--dir", default=BUILD)
    parser.add_argument("--only", default="", help="rows with all these words")
    parser.add_argument("--depths", default="1,16")
    parser.add_argument("--quick", action="store_true", help="no figures to be had")
    args = parser.parse_args()
    if args.quick:
        args.runs, args.seconds, args.size = 1, 0.3, 64
    if not shutil.which("fio") or not shutil.which("qemu-nbd"):
        sys.exit("nbd.py: fio and qemu-nbd are needed")
    args.tmp = tempfile.mkdtemp(prefix="nbd-bench-", dir=args.dir)
    args.images = {f: os.path.join(args.tmp, "image." + f) for f in ("raw", "qcow2")}
    try:
        make_image(args.images["raw"], args.size)
        make_qcow2(args.images["qcow2"], args.size, args.images["raw"])
        for mode in MODES:
            for pattern in mode[4]:
                for depth in args.depths.split(","):
                    words = f"{mode[0]} {pattern[0]} depth {depth}"
                    if all(w in words for w in args.only.split()):
                        row(args, mode, pattern, int(depth))
    finally:
        shutil.rmtree(args.tmp, ignore_errors=True)


main()
