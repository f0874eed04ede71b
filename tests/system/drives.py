#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""A drive behind the sidecar looks to QEMU, and so to the guest and to
management tools, as it does without: name, place, size, modes."""

import os
import subprocess

from lib.guest import make_image
from lib.qmp import QMP
from lib.tap import contains, equal, main, program, test

QEMU = "qemu-system-x86_64"

# Every image is raw; a…h have 1 MiB, odd ones as their name says.
LINES = {
    "pc": [
        "-hda a -hdb b -cdrom c -drive file=d,format=raw",
        "-drive file=a,format=raw,index=2 -drive file=b,format=raw -drive file=c,format=raw,media=cdrom",
        "-drive file=a,format=raw,if=virtio -drive if=virtio,file=b,format=raw,index=5 "
        "-drive if=virtio,file=c,format=raw",
        "-drive file=a,format=raw,if=none -drive file=b,format=raw,if=none,id=x -drive if=none,id=e",
        "-fda a -fdb b",
        "-drive file=a,format=raw,if=floppy -drive file=b,format=raw,unit=1 -drive file=c,format=raw",
        "-drive if=ide,media=cdrom -drive file=a,format=raw",
        "-drive if=none,file=a,format=raw,id=d -device virtio-blk-pci,drive=d,id=v",
        "-device virtio-scsi-pci -drive if=none,file=a,format=raw,id=d -device scsi-cd,drive=d",
        "-drive file=a,format=raw,if=virtio,readonly=on",
        "-drive file=a,format=raw,if=virtio,cache=none",
        "-drive file=a,format=raw,if=virtio,cache=writethrough,detect-zeroes=on",
        "-drive file=a,format=raw,if=virtio,cache=unsafe,discard=unmap,detect-zeroes=unmap",
        "-drive file=a,format=raw,if=virtio,cache=directsync,aio=native",
        "-drive file=a,format=raw,if=virtio,cache=none,cache.writeback=off,aio=io_uring",
        "-drive file=a,format=raw,if=virtio,throttling.iops-total=100,werror=stop,rerror=ignore",
        "-drive file=a,format=raw,if=virtio,node-name=n,copy-on-read=on",
        "a -nodefaults",
    ],
    "q35": [
        "-hda a -hdb b -cdrom c -drive file=d,format=raw",
        "-drive file=a,format=raw,bus=1,unit=0 -drive file=b,format=raw",
        "-drive file=a,format=raw,media=cdrom -hdd b",
        "a",
    ],
    "isapc -cpu 486": ["-hda a -cdrom b -fda c"],
    "microvm": ["-drive file=a,format=raw -drive file=b,format=raw,if=none"],
    "none": ["-drive file=a,format=raw"],
}
SIZES = ["-drive file=511,format=raw,if=virtio -drive file=512,format=raw,if=virtio "
         "-drive file=513,format=raw -drive file=65537,format=raw,if=none,id=x "
         "-drive file=1000001,format=raw,if=virtio -cdrom 2049"]


def images(t):
    for name in "abcdefgh":
        make_image(t.path(name), 1 << 20)
    for size in (511, 512, 513, 2049, 65537, 1000001):
        make_image(t.path(str(size)), size)


def describe(block):
    """What of query-block must not differ."""
    text = {k: block.get(k) for k in ("device", "qdev", "removable", "locked",
                                      "tray_open", "io-status", "type")}
    inserted = block.get("inserted")
    if inserted:
        for key in ("virtual-size", "filename", "format"):
            text[key] = inserted["image"][key]
        for key in ("file", "ro", "drv", "detect_zeroes", "cache", "iops", "bps"):
            text[key] = inserted.get(key)
    return text


def drives_of(t, prefix, machine, line, name):
    """describe() of every drive of a QEMU with this line, and its stderr."""
    path = t.path(name + ".qmp")
    log = t.log_file(name + ".stderr")
    command = [*prefix, QEMU, "-accel", "tcg", "-S", "-display", "none", "-M",
               *machine.split(), "-qmp", f"unix:{path},server=on,wait=off",
               *line.split()]
    with open(log, "wb") as stderr:
        process = t.spawn(command, cwd=t.dir, stdin=subprocess.DEVNULL,
                          stdout=stderr, stderr=stderr)
    qmp = QMP(path, lambda: process.poll() is None)
    found = [describe(b) for b in qmp("query-block")]
    try:
        qmp("quit")
    except EOFError:
        pass
    qmp.close()
    equal(process.wait(), 0, "status")
    os.unlink(log)
    return found


def compare(t, machine, line):
    plain = drives_of(t, [], machine, line, "plain")
    ours = drives_of(t, [program("qemu-sidecar")], machine, line, "sidecar")
    served = t.run(program("qemu-sidecar"), "--print-qemu-command", QEMU, "-M",
                   *machine.split(), *line.split())
    assert "stays QEMU's own" not in served, served
    assert " file=" not in served, served
    for want, got in zip(plain, ours):
        equal(got, want, f"-M {machine} {line}: {want['device']}")
    equal(len(ours), len(plain), f"-M {machine} {line}: number of drives")


def add(machine):
    def run(t):
        images(t)
        for line in LINES[machine]:
            compare(t, machine, line)
    run.__name__ = f"drives_of_{machine.split()[0]}_are_as_without_us"
    test(run)


for m in LINES:
    add(m)


@test
def sizes_that_are_no_multiple_of_a_sector_look_the_same(t):
    images(t)
    for line in SIZES:
        compare(t, "pc", line)


def typed(t, text):
    """A file to be read as standard input."""
    with open(t.path("typed"), "w", encoding="ascii") as f:
        f.write(text)
    f = open(t.path("typed"), "rb")
    t.defer(f.close)
    return f


@test
def the_last_sector_can_be_written_whatever_the_size(t):
    for sidecar in ([], [program("qemu-sidecar")]):
        path = make_image(t.path("i"), 1000)
        text = t.run(*sidecar, QEMU, "-accel", "tcg", "-M", "none", "-display", "none",
                     "-drive", f"file={path},format=raw,if=none,id=d", "-monitor",
                     "stdio", stdin=typed(t, 'qemu-io d "write -P 88 512 512"\nquit\n'))
        contains(text, "wrote 512/512")
        with open(path, "rb") as f:
            equal(f.read(), bytes(512) + b"X" * 512)


@test
def guessing_raw_is_said_for_images_that_can_be_written(t):
    images(t)
    for line, times in (("-drive file=a", 1), ("-drive file=a,format=raw", 0),
                        ("-cdrom a", 0)):
        text = t.run(program("qemu-sidecar"), QEMU, "-accel", "tcg", "-M", "pc",
                     "-display", "none", "-S", *line.split(), "-monitor", "stdio",
                     cwd=t.dir, stdin=typed(t, "quit\n"))
        equal(text.count("WARNING: Image format was not specified for 'a'"), times, line)


@test
def a_part_of_an_image_stays_qemus_own(t):
    """Proxmox says the size of its EFI disks."""
    images(t)
    whole = drives_of(t, [program("qemu-sidecar")], "pc", "-drive if=none,id=d,"
                      "file=a,format=raw,size=1M", "whole")[0]
    equal((whole["file"], whole["virtual-size"]), ("a", 1 << 20))
    for line in ("-drive if=virtio,file=a,format=raw,size=512k",
                 "-drive if=virtio,file=a,format=raw,size=1M,offset=0"):
        equal(drives_of(t, [program("qemu-sidecar")], "pc", line, "sidecar"),
              drives_of(t, [], "pc", line, "plain"), line)
    for size in ("512k", "2M"):
        _, text = t.run(program("qemu-sidecar"), QEMU, "-accel", "tcg", "-M", "none",
                        "-display", "none", "-monitor", "stdio", "-drive",
                        f"if=none,id=d,file=a,format=raw,size={size}", cwd=t.dir,
                        stdin=typed(t, "quit\n"), status=None)
        contains(text, "'size' is not the size of the image")


@test
def a_snapshot_in_an_image_can_be_started_from(t):
    path = t.path("i.qcow2")
    t.run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    line = [QEMU, "-accel", "tcg", "-M", "q35", "-m", "32", "-display", "none", "-S",
            "-monitor", "stdio", "-drive", f"file={path},format=qcow2,if=virtio"]
    t.run(*line, stdin=typed(t, "savevm one\nquit\n"))
    text = t.run(program("qemu-sidecar"), *line, "-loadvm", "one",
                 stdin=typed(t, "info snapshots\nquit\n"))
    contains(text, "drive 'virtio0' (" + path + ") stays QEMU's own: -loadvm")
    contains(text, "List of snapshots present on all disks")


main()
