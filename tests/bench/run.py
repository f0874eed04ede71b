#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""All benchmarks, one table (make bench).

    run.py [--write FILE] [--only WORD]... [--runs N] [--quick]

Runs every tests/bench/*.py and every program in build/bench, one after the
other.  Each measures ours and a peer in turns in the same run and prints rows

    | what | ours | peer | ratio of the medians | spread |

to which the target from TARGETS is added here; the exit status tells whether
all were met.  A program whose rows look otherwise gets a table of its own.
--write puts the tables into FILE with the machine that they came from
(docs/benchmarks.md).  --quick hands --quick on to those that know it: to see
that everything runs, not for figures; --runs N to those that take medians of N runs.
"""

import argparse
import glob
import os
import platform
import re
import subprocess
import sys
import time

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("BUILD") or os.path.join(TREE, "build"))

# (pattern in the first cell, comparison, ratio); the first that fits counts.
TARGETS = [
    (r"^vma create", "≤", 1.5),
    (r"^vma extract", "≤", 1.5),
    (r"^NBD export, qcow2", "≥", 0.9),
    (r"^NBD export.*(4 KiB random|1 MiB sequential)", "≥", 1.0),
    (r"^streaming", "≤", 1.3),
    (r"^migration downtime", "≤", 0.5),
    (r"^migration time: .*idle", "≤", 0.8),
    (r"^migration (time|bytes)", "≤", 1.0),
    (r"^(live )?backup.*(guest|write)", "≥", 0.7),
]
HEAD = ["what", "ours", "peer", "ratio", "target", "spread"]


def target(what, ratio):
    """Words for the target's cell, and whether it was met."""
    for pattern, sign, bound in TARGETS:
        if re.search(pattern, what, re.IGNORECASE):
            try:
                value = float(ratio.split()[0])
            except (ValueError, IndexError):
                return f"{sign} {bound}", False
            met = value <= bound if sign == "≤" else value >= bound
            return f"{sign} {bound}{'' if met else ' missed'}", met
    return "", True


def first_line(*command):
    try:
        text = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False).stdout
    except OSError:
        return "none"
    return text.splitlines()[0] if text else "none"


def machine():
    """What a reader needs to place the figures."""
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        model = re.search(r"^model name\s*: (.*)$", f.read(), re.M)
    with open("/proc/meminfo", encoding="utf-8") as f:
        memory = int(f.readline().split()[1]) / (1 << 20)
    fs = first_line("stat", "-f", "-c", "%T", BUILD)
    return [
        ("processor", f"{model.group(1) if model else platform.machine()}, "
                      f"{os.cpu_count()} cores"),
        ("memory", f"{memory:.0f} GiB"),
        ("kernel", platform.release()),
        ("file system", fs),
        ("QEMU", first_line("qemu-system-x86_64", "--version")),
        ("qemu-nbd, qemu-img", first_line("qemu-img", "--version")),
        ("fio", first_line("fio", "--version")),
        ("compiler", first_line("gcc", "--version")),
        ("this", first_line("git", "-C", TREE, "describe", "--always", "--dirty")),
        ("load before", " ".join(f"{x:.1f}" for x in os.getloadavg())),
        ("taken", time.strftime("%Y-%m-%d")),
    ]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def cells(line):
    return [c.strip() for c in line.strip().strip("|").split("|")]


def run(path, options):
    """The rows that a benchmark prints; None if it failed."""
    command = [path]
    if path.endswith(".py"):
        with open(path, encoding="utf-8") as f:
            text = f.read()
        for words in options:
            command += words if f'"{words[0]}"' in text else []
    print(f"# {os.path.basename(path)}", file=sys.stderr, flush=True)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               text=True, env=dict(os.environ, BUILD=BUILD))
    rows = []
    for line in process.stdout:
        print("  " + line.rstrip(), file=sys.stderr, flush=True)
        if line.startswith("|"):
            rows.append(cells(line))
    return rows if process.wait() == 0 else None


def collect(paths, options):
    """(rows of the table, {name: other tables}, names that failed)"""
    rows, others, failed = [], {}, []
    for path in paths:
        name = os.path.basename(path)
        result = run(path, options)
        if result is None:
            failed.append(name)
        elif result and re.fullmatch(r":?-+:?", result[min(1, len(result) - 1)][0]):
            others[name] = result  # has a head of its own
        else:
            for what, our, peer, ratio, spread in (r[:5] for r in result or []):
                words, met = target(what, ratio)
                if "let through" in our and "let through" in peer:
                    words, met = "none: neither converges", True
                rows.append([what, our, peer, ratio, words, spread])
                if not met:
                    failed.append(what)
    return rows, others, failed


def document(rows, others):
    lines = ["# Benchmarks", "",
             "Made by `make bench`. Every row is measured against a peer in the same run, in",
             "turns; the figures are medians, the ratio is ours to the peer's.", ""]
    lines += table(["machine", ""], [list(x) for x in machine()]) + [""]
    if rows:
        lines += table(HEAD, rows) + [""]
    for name, other in others.items():
        lines += [f"## {name}", ""] + table(other[0], other[2:]) + [""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", metavar="FILE")
    parser.add_argument("--only", action="append", default=[], metavar="WORD")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    options = [["--quick"]] if args.quick else []
    options += [["--runs", str(args.runs)]] if args.runs else []
    paths = sorted(glob.glob(os.path.join(TREE, "tests/bench/*.py")))
    paths = [p for p in paths if os.path.basename(p) != "run.py" and os.access(p, os.X_OK)]
    for source in sorted(glob.glob(os.path.join(TREE, "tests/bench/*.c"))):
        program = os.path.join(BUILD, "bench", os.path.basename(source)[:-2])
        if os.path.exists(program):
            paths.append(program)
    if args.only:
        paths = [p for p in paths if any(w in os.path.basename(p) for w in args.only)]
    rows, others, failed = collect(paths, options)
    text = document(rows, others)
    print(text)
    if args.write:
        with open(args.write, "w", encoding="utf-8") as f:
            f.write(text)
    for name in failed:
        print(f"bench: {name}: failed or target missed", file=sys.stderr)
    sys.exit(1 if failed else 0)


main()
