#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""The vma command and archives: ours, read by a reader that shares nothing with
it; those of other tools, of every shape they come in; and bad ones, each of
which must give one clear line and leave nothing behind."""

import json
import os
import pty
import random
import re
import struct
import subprocess
import threading

from lib.tap import SOON, contains, equal, main, program, test
from lib.vmafile import (BLOCK, CLUSTER, Archive, make_archive, make_extent,
                         make_header, md5_without, split)

VMA = program("vma")
UUID = bytes(range(16))
LIST_DEV = re.compile(r"^DEV:\sdev_id=(\d+)\ssize:\s(\d+)\sdevname:\s(\S+)$")
LIST_CTIME = re.compile(r"^CTIME: \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}$")


def vma(t, *args, status=0, data=None, **kwargs):
    """(stdout, stderr), both bytes decoded; the exit status is checked."""
    p = t.spawn([VMA, *map(str, args)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)
    out, err = p.communicate(data, timeout=SOON)
    err = err.decode(errors="replace")
    if p.returncode != status:
        raise AssertionError(f"vma {args}: status {p.returncode}, want {status}: {err}")
    return out, err


def fails(t, part, *args, data=None, **kwargs):
    """One line on stderr that says @part; nothing else."""
    _, err = vma(t, *args, status=1, data=data, **kwargs)
    if not err.startswith("vma: ") or err.count("\n") != 1:
        raise AssertionError(f"not one line `vma: ...': {err!r}")
    contains(err, part)
    if "Sanitizer" in err or "runtime error" in err:
        raise AssertionError(err)
    return err


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)
    return path


def read(path):
    with open(path, "rb") as f:
        return f.read()


def make_image(t, name, size, seed=1):
    """A sparse file: random blocks, zero blocks, holes."""
    rng = random.Random(seed)
    path = t.path(name)
    with open(path, "wb") as f:
        f.truncate(size)
        for offset in range(0, size, BLOCK):
            kind = rng.randrange(4)
            n = min(BLOCK, size - offset)
            if kind < 2:
                f.seek(offset)
                f.write(rng.randbytes(n))
            elif kind == 2:
                f.seek(offset)
                f.write(bytes(n))
    return path


def random_image(size, seed=1):
    rng = random.Random(seed)
    return b"".join(rng.randbytes(BLOCK) if rng.randrange(2) else bytes(BLOCK)
                    for _ in range(-(-size // BLOCK)))[:size]


def sector(n):
    return -(-n // 512) * 512


# ---- what we write ---------------------------------------------------------

@test
def an_independent_reader_reads_what_create_writes(t):
    a = make_image(t, "a.raw", 10 * 1024 * 1024, 1)
    b = make_image(t, "b.raw", 3 * CLUSTER + 1536, 2)
    conf = write(t.path("qemu-server.conf"), b"name: x\n")
    empty = write(t.path("empty.fw"), b"")
    vma(t, "create", t.path("x.vma"), "-c", conf, "-c", empty,
        "-d", f"format=raw:drive-scsi0={a}", "-d", f"format=raw:drive-virtio1={b}")
    x = Archive(t.path("x.vma"))
    equal(x.configs, {"qemu-server.conf": b"name: x\n", "empty.fw": b""})
    equal(x.devices, {1: ("drive-scsi0", 10 * 1024 * 1024),
                      2: ("drive-virtio1", 3 * CLUSTER + 1536)})
    equal(x.by_name("drive-scsi0") == read(a), True, "image a")
    equal(x.by_name("drive-virtio1") == read(b), True, "image b")
    equal(x.digests > 0, True, "has digests")
    vma(t, "create", "--no-digest", t.path("y.vma"), f"format=raw:d={a}")
    equal(Archive(t.path("y.vma")).digests, 0)


@test
def strange_image_sizes(t):
    for size in (1, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537,
                 59 * CLUSTER, 59 * CLUSTER + 512, 60 * CLUSTER - 1):
        a = make_image(t, "a.raw", size, size)
        arc = t.path(f"{size}.vma")
        _, err = vma(t, "create", arc, f"format=raw:d={a}")
        equal("rounded up to a multiple of 512" in err, size % 512 != 0, f"{size}: {err}")
        want = read(a) + bytes(sector(size) - size)
        equal(Archive(arc).by_name("d") == want, True, f"{size} bytes")
        vma(t, "extract", arc, t.path(f"{size}.out"))
        equal(read(t.path(f"{size}.out", "disk-d.raw")) == want, True)


@test
def an_empty_or_shrinking_image(t):
    a = write(t.path("a.raw"), b"")
    fails(t, "a.raw: the image is empty", "create", t.path("x.vma"), f"format=raw:d={a}")
    equal(os.listdir(t.dir), ["a.raw"])


@test
def device_names_without_being_told(t):
    a = make_image(t, "a.raw", 4096)
    vma(t, "create", t.path("x.vma"), a, f"named={a}", a)
    equal([n for n, _ in Archive(t.path("x.vma")).devices.values()],
          ["disk0", "named", "disk2"])


@test
def the_list_has_the_form_that_scripts_parse(t):
    a = make_image(t, "a.raw", 5 * CLUSTER)
    conf = write(t.path("qemu-server.conf"), b"12345")
    vma(t, "create", t.path("x.vma"), "-c", conf, f"drive-scsi0={a}")
    out, err = vma(t, "list", t.path("x.vma"), env={**os.environ, "LC_ALL": "de_DE.UTF-8"})
    lines = out.decode().splitlines()
    equal(err, "")
    equal(lines[0], "CFG: size: 5 name: qemu-server.conf")
    equal(LIST_DEV.match(lines[1]).groups(), ("1", str(5 * CLUSTER), "drive-scsi0"))
    equal(bool(LIST_CTIME.match(lines[2])), True, lines[2])
    equal(len(lines), 3)
    out, _ = vma(t, "list", "--json", "-", data=read(t.path("x.vma")))
    doc = json.loads(out)
    equal(doc["devices"], [{"dev_id": 1, "name": "drive-scsi0", "size": 5 * CLUSTER,
                            "vmstate": False}])
    equal(doc["configs"], [{"name": "qemu-server.conf", "size": 5}])
    equal(bytes.fromhex(doc["uuid"].replace("-", "")), Archive(t.path("x.vma")).uuid)


@test
def config_prints_what_was_stored(t):
    one = write(t.path("one"), bytes(range(256)))
    two = write(t.path("qemu-server.conf"), b"a: b\n")
    vma(t, "create", t.path("x.vma"), "-c", one, "-c", two)
    equal(vma(t, "config", t.path("x.vma")), (b"a: b\n", ""))
    equal(vma(t, "config", t.path("x.vma"), "-c", "one"), (bytes(range(256)), ""))
    fails(t, "no configuration named 'three' in the archive (it has: one, qemu-server.conf)",
          "config", t.path("x.vma"), "-c", "three")
    vma(t, "create", t.path("y.vma"), "-c", one)
    equal(vma(t, "config", t.path("y.vma"))[0], bytes(range(256)))


@test
def config_does_not_wait_for_the_end_of_a_pipe(t):
    """A decompressor feeds it; only the header is wanted."""
    a = make_image(t, "a.raw", CLUSTER)
    vma(t, "create", t.path("x.vma"), "-c", write(t.path("c"), b"hello"), a)
    head = read(t.path("x.vma"))[:16384]
    p = t.spawn([VMA, "config", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    p.stdin.write(head)
    p.stdin.flush()
    equal(p.stdout.read(), b"hello")
    equal(p.wait(SOON), 0)


@test
def pipes_all_the_way(t):
    a = make_image(t, "a.raw", 100 * CLUSTER)
    make = t.spawn([VMA, "create", "-", "-c", write(t.path("c"), b"x"),
                    f"format=raw:d={a}"], stdout=subprocess.PIPE)
    take = t.spawn([VMA, "extract", "-", t.path("out")], stdin=make.stdout)
    make.stdout.close()
    equal((make.wait(SOON), take.wait(SOON)), (0, 0))
    equal(read(t.path("out", "disk-d.raw")) == read(a), True)
    vma(t, "create", f"exec:gzip -1 >'{t.path('z')}'", f"format=raw:d={a}")
    data = subprocess.run(["gzip", "-dc", t.path("z")], stdout=subprocess.PIPE, check=True)
    vma(t, "verify", "-", data=data.stdout)
    fails(t, "compressed by gzip", "verify", t.path("z"))


@test
def fifos_and_terminals(t):
    a = make_image(t, "a.raw", 30 * CLUSTER)
    fifo = t.path("fifo")
    os.mkfifo(fifo)
    take = t.spawn([VMA, "verify", fifo], stdout=subprocess.PIPE)
    make = t.spawn([VMA, "create", fifo, f"format=raw:d={a}"])
    equal((make.wait(SOON), take.wait(SOON)), (0, 0))
    contains(take.stdout.read().decode(), "good: ")
    ours, theirs = pty.openpty()
    p = t.spawn([VMA, "create", "-", f"format=raw:d={a}"], stdout=theirs,
                stderr=subprocess.PIPE)
    equal(p.wait(SOON), 1)
    contains(p.stderr.read().decode(), "standard output is a terminal")
    os.close(ours)
    os.close(theirs)


@test
def verify_says_what_was_covered(t):
    a = make_image(t, "a.raw", 100 * CLUSTER)
    vma(t, "create", t.path("x.vma"), f"d={a}")
    contains(vma(t, "verify", t.path("x.vma"))[0].decode(), "all checked by checksums")
    vma(t, "create", t.path("y.vma"), "--no-digest", f"d={a}")
    contains(vma(t, "verify", t.path("y.vma"))[0].decode(), "without checksums")
    out, err = vma(t, "extract", "-v", t.path("y.vma"), t.path("out"))
    contains(out.decode(), "without checksums")
    contains(err, "progress 100% (read ")


@test
def images_of_other_formats(t):
    """qcow2 with a backing file into an archive, out of it into qcow2; qemu-img
    says whether it is the same."""
    raw = make_image(t, "base.raw", 60 * CLUSTER, 1)
    top = t.path("top.qcow2")
    t.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", top)
    t.run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1000k 100k", "-c", "write -z 2M 300k",
          "-c", "discard 3M 64k", top)
    flat = t.path("flat.raw")
    t.run("qemu-img", "convert", "-O", "raw", top, flat)
    write(t.path("qemu-server.conf"), b"conf")
    for name in (f"format=qcow2:d={top}", f"d={top}"):  # told, and looked at
        arc = t.path("x.vma")
        vma(t, "create", arc, "-c", t.path("qemu-server.conf"), name)
        equal(Archive(arc).by_name("d") == read(flat), True)
        for zeros, filled in ((1, True), (0, False)):
            out = t.path("out.qcow2")
            t.run("qemu-img", "create", "-q", "-f", "qcow2", out, str(60 * CLUSTER))
            if filled:
                t.run("qemu-io", "-f", "qcow2", "-c", f"write -P 238 0 {60 * CLUSTER}", out)
            extract_with_map(t, arc, f"format=qcow2:{zeros}:d={out}\n")
            t.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", out, flat)
            t.run("qemu-img", "check", "-q", out)
            t.run("rm", "-r", t.path("out"), out)
        os.unlink(arc)


# ---- what other tools write ------------------------------------------------

def check_extract(t, data, images, name="x"):
    """Extract it from a file and from a pipe, and compare."""
    arc = write(t.path(name + ".vma"), data)
    vma(t, "verify", arc)
    vma(t, "extract", arc, t.path(name + ".1"))
    vma(t, "extract", "-", t.path(name + ".2"), data=data)
    for out in (t.path(name + ".1"), t.path(name + ".2")):
        for devname, image in images.values():
            equal(read(os.path.join(out, f"disk-{devname}.raw")) == image, True,
                  f"{name}: {devname}")


@test
def archives_in_any_order_with_any_number_of_slots(t):
    images = {1: ("drive-ide0", random_image(70 * CLUSTER, 1)),
              7: ("drive-virtio1", random_image(5 * CLUSTER + 512, 2)),
              254: ("efidisk", bytes(CLUSTER + 4096))}
    every = [(d, c) for d, (_, data) in images.items()
             for c in range(-(-len(data) // CLUSTER))]
    for slots in (59, 58, 1):
        order = every[:]
        random.Random(slots).shuffle(order)
        check_extract(t, make_archive(images, slots_per_extent=slots, order=order),
                      images, f"s{slots}")
    check_extract(t, make_archive(images, digests=True), images, "digests")


@test
def unused_slots_between_used_ones(t):
    image = random_image(2 * CLUSTER)
    parts = [split(image, c) for c in (0, 1)]
    slots = [0, (1, 1, parts[1][0]), 0x1234 << 48 | 0xabcdef, (1, 0, parts[0][0])]
    data = make_header(UUID, [], {1: ("d", len(image))}) + \
        make_extent(UUID, slots, parts[1][1] + parts[0][1])
    check_extract(t, data, {1: ("d", image)})


@test
def only_configurations(t):
    data = make_archive({}, [("qemu-server.conf", b"x"), ("fw.conf", b"y" * 65535)])
    arc = write(t.path("x.vma"), data)
    contains(vma(t, "verify", arc)[0].decode(), "no data")
    vma(t, "extract", arc, t.path("out"))
    equal(sorted(os.listdir(t.path("out"))), ["fw.conf", "qemu-server.conf"])
    equal(read(t.path("out", "fw.conf")), b"y" * 65535)


@test
def the_state_of_a_machine(t):
    """Its clusters come in order; its size is not what the header says."""
    state = random_image(5 * CLUSTER)
    disk = random_image(2 * CLUSTER)
    slots, data = [], b""
    for dev, image, c in ((1, state, 0), (2, disk, 1), (1, state, 1), (1, state, 2),
                          (2, disk, 0), (1, state, 3), (1, state, 4)):
        mask, blocks = split(image, c)
        slots.append((dev, c, mask))
        data += blocks
    header = make_header(UUID, [], {1: ("vmstate", 1 << 30), 2: ("d", len(disk))})
    arc = write(t.path("x.vma"), header + make_extent(UUID, slots, data))
    contains(vma(t, "list", arc)[0].decode(), "VMSTATE: dev_id=1 memory: 1073741824\n")
    vma(t, "extract", arc, t.path("out"))
    got = read(t.path("out", "vmstate.bin"))
    equal(got == state[:len(got)] and not any(state[len(got):]), True)
    equal(read(t.path("out", "disk-d.raw")) == disk, True)
    slots[0], slots[2] = slots[2], slots[0]
    write(arc, header + make_extent(UUID, slots, data))
    fails(t, "device vmstate: cluster 1 where 0 must come next", "verify", arc)


# ---- bad archives -----------------------------------------------------------

def all_commands_fail(t, part, data, header_is_good=True):
    """verify and extract, from a file and from a pipe; nothing is left."""
    arc = write(t.path("bad.vma"), data)
    before = sorted(os.listdir(t.dir))
    fails(t, part, "verify", arc)
    fails(t, part, "verify", "-", data=data)
    fails(t, part, "extract", arc, t.path("out"))
    fails(t, part, "extract", "-", t.path("out"), data=data)
    if not header_is_good:
        fails(t, part, "list", arc)
        fails(t, part, "config", arc)
    equal(sorted(os.listdir(t.dir)), before, "files")


@test
def hostile_names_of_configurations(t):
    for name, part in (("../x", "contains a slash"), ("/x", "contains a slash"),
                       ("a/b", "contains a slash"), ("", "is empty"),
                       (".", "is not a file name"), ("..", "is not a file name"),
                       ("a\nb", "contains a control character"),
                       (b"a\0b\0", "contains a control character"),
                       (b"ab", "does not end with a NUL byte"),
                       (b"", "does not end with a NUL byte"),
                       (b"x" * 256 + b"\0", "is longer than 255 bytes")):
        data = make_header(UUID, [("good", b"1"), (name, b"2")]) + make_extent(UUID, [])
        all_commands_fail(t, "header: configuration 1: name", data, False)
        contains(fails(t, part, "list", t.path("bad.vma")), part)
    data = make_header(UUID, [("a", b"1"), ("a", b"2")]) + make_extent(UUID, [])
    all_commands_fail(t, "configuration 1: name 'a' appears twice", data, False)


@test
def hostile_names_of_devices(t):
    for name in ("../x", "/x", "", "..", "a\rb"):
        data = make_header(UUID, [], {3: (name, 512)}) + make_extent(UUID, [(3, 0, 0)])
        all_commands_fail(t, "header: dev_id 3: name", data, False)
    data = make_header(UUID, [], {3: ("a", 512), 4: ("a", 512)})
    all_commands_fail(t, "dev_id 4: name 'a' appears twice", data, False)


@test
def a_configuration_in_the_place_of_an_image(t):
    image = random_image(CLUSTER)
    data = make_archive({1: ("d", image)}, [("disk-d.raw", b"x")])
    arc = write(t.path("x.vma"), data)
    fails(t, "disk-d.raw", "extract", arc, t.path("out"))
    equal(os.listdir(t.dir), ["x.vma"])


@test
def duplicate_missing_and_far_clusters(t):
    head = make_header(UUID, [], {1: ("d", 3 * CLUSTER)})
    for slots, part in (
            ([(1, 0, 0), (1, 1, 0)],
             "device d lacks 1 of 3 clusters, the first is 2"),
            ([(1, 2, 0)], "device d lacks 2 of 3 clusters, the first is 0"),
            ([(1, 0, 0), (1, 1, 0), (1, 2, 0), (1, 1, 0)],
             "extent 1 at 0x3200: device d: cluster 1 appears twice"),
            ([(1, 3, 0)], "device d: cluster 3 is past the end"),
            ([(1, 0xffffffff, 0)], "device d: cluster 4294967295 is past the end"),
            ([(2, 0, 0)], "there is no device with dev_id 2")):
        all_commands_fail(t, part, head + make_extent(UUID, slots))
    again = make_extent(UUID, [(1, 0, 0), (1, 1, 0), (1, 2, 0)])
    all_commands_fail(t, "extent 2 at 0x3400: device d: cluster 0 appears twice",
                      head + again + again)


@test
def flipped_bits_in_the_data(t):
    a = make_image(t, "a.raw", 70 * CLUSTER)
    vma(t, "create", t.path("x.vma"), f"d={a}")
    good = read(t.path("x.vma"))
    rng = random.Random(5)
    for _ in range(6):
        data = bytearray(good)
        data[rng.randrange(14000, len(data))] ^= 1 << rng.randrange(8)
        arc = write(t.path("bad.vma"), bytes(data))
        fails(t, "0x", "verify", arc)
        fails(t, "0x", "extract", arc, t.path("out"))
        equal(os.path.exists(t.path("out")), False)


@test
def truncated_at_every_boundary(t):
    images = {1: ("d", random_image(61 * CLUSTER)), 2: ("e", random_image(CLUSTER, 3))}
    data = make_archive(images, [("c", b"1")], digests=True)
    cuts = {0, 1, 59, 60, 61, 12287, 12288, 12289}
    at = struct.unpack_from(">I", data, 56)[0]
    last = None
    while at < len(data):
        blocks = struct.unpack_from(">H", data, at + 6)[0]
        cuts |= {at - 1, at, at + 1, at + 511, at + 512}
        if blocks:
            cuts |= {at + 513, at + 512 + 4096}
        last = at
        at += 512 + blocks * BLOCK
    cuts = {n for n in cuts | {len(data) - 1} if n < len(data)}
    cuts.discard(last)  # without its last digest it is whole, if unchecked
    for n in sorted(cuts):
        arc = write(t.path("bad.vma"), data[:n])
        fails(t, "archive ends", "verify", arc)
        fails(t, "archive ends", "extract", "-", t.path("out"), data=data[:n])
        equal(os.path.exists(t.path("out")), False, f"cut at {n}")
    equal(os.listdir(t.dir), ["bad.vma"])
    contains(vma(t, "verify", "-", data=data[:last])[0].decode(), "some without checksums")


def fails_in_little_memory(t, part, data):
    """verify of @data; the most memory that it ever had is measured."""
    with open(t.path("err"), "w+b") as err, open(write(t.path("x.vma"), data), "rb") as f:
        p = t.spawn([VMA, "verify", "-"], stdin=f, stderr=err)
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        text = err.read().decode()
    equal(p.returncode, 1, text)
    contains(text, part)
    equal(usage.ru_maxrss < 200 * 1024, True, f"{usage.ru_maxrss} KiB of memory is little")


@test
def a_header_that_claims_the_most(t):
    """254 devices of 256 TiB; clusters as far apart as can be."""
    head = make_header(UUID, [], {d: (f"d{d}", 1 << 48) for d in range(1, 255)})
    rng = random.Random(1)
    slots = [(rng.randrange(1, 255), rng.randrange(1 << 32), 0) for _ in range(59 * 1000)]
    body = b"".join(make_extent(UUID, slots[i:i + 59]) for i in range(0, len(slots), 59))
    fails_in_little_memory(t, "device d1 lacks", head + body)
    huge = bytearray(make_header(UUID, [("a", b"")]))
    huge[56:60] = (0x02000000).to_bytes(4, "big")
    fails_in_little_memory(t, "archive ends after", bytes(huge))


@test
def not_archives_at_all(t):
    for data, part in ((b"", "archive ends after 0 of 60 bytes"),
                       (b"VMA", "archive ends after 3"),
                       (bytes(100000), "not a VMA archive"),
                       (b"\x28\xb5\x2f\xfd" + bytes(100), "compressed by zstd")):
        all_commands_fail(t, part, data, False)
    fails(t, "no-such.vma: cannot open: No such file", "list", t.path("no-such.vma"))
    fails(t, "cannot read: Is a directory", "verify", t.dir)
    wrong = make_header(UUID, [("a", b"")], md5=bytes(16))
    all_commands_fail(t, "header: MD5 does not match", wrong, False)
    wrong = make_header(UUID, [("a", b"")], version=2)
    all_commands_fail(t, "version 2 is not known", wrong, False)
    wrong = make_header(UUID) + make_extent(UUID, [])
    all_commands_fail(t, "neither a device nor a configuration", wrong, False)


# ---- where things go ----------------------------------------------------------

@test
def extract_needs_a_new_folder(t):
    a = make_image(t, "a.raw", CLUSTER)
    vma(t, "create", t.path("x.vma"), f"d={a}")
    os.mkdir(t.path("empty"))
    write(t.path("file"), b"")
    os.symlink(t.path("elsewhere"), t.path("link"))
    for name in ("empty", "file", "link"):
        fails(t, f"{name}: cannot create: File exists", "extract", t.path("x.vma"),
              t.path(name))
    fails(t, "cannot open folder", "extract", t.path("x.vma"), t.path("no", "out"))
    equal(sorted(os.listdir(t.dir)), ["a.raw", "empty", "file", "link", "x.vma"])
    equal(os.listdir(t.path("empty")), [])
    vma(t, "extract", t.path("x.vma"), t.path("new") + "/")
    equal(os.listdir(t.path("new")), ["disk-d.raw"])
    equal(os.stat(t.path("new")).st_mode & 0o777, 0o777 & ~umask())


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@test
def extract_some_of_the_devices(t):
    a = make_image(t, "a.raw", 3 * CLUSTER, 1)
    b = make_image(t, "b.raw", 3 * CLUSTER, 2)
    c = make_image(t, "c.raw", 3 * CLUSTER, 3)
    vma(t, "create", t.path("x.vma"), f"a={a}", f"b={b}", f"c={c}")
    vma(t, "extract", "-d", "a,c", t.path("x.vma"), t.path("out"))
    equal(sorted(os.listdir(t.path("out"))), ["disk-a.raw", "disk-c.raw"])
    equal(read(t.path("out", "disk-c.raw")) == read(c), True)
    fails(t, "-d: the archive has no device 'nope'", "extract", "-d", "a,nope",
          t.path("x.vma"), t.path("out2"))
    # What is not extracted is checked all the same.
    data = bytearray(read(t.path("x.vma")))
    mask_at = data.find(b"VMAE") + 512 + 5
    data[mask_at] ^= 1
    write(t.path("x.vma"), bytes(data))
    fails(t, "data does not match", "extract", "-d", "c", t.path("x.vma"), t.path("out2"))


@test
def extracted_images_are_sparse(t):
    with open(t.path("a.raw"), "wb") as f:
        f.truncate(64 << 20)
        f.seek(10 << 20)
        f.write(b"x" * 8192)
    vma(t, "create", t.path("x.vma"), f"d={t.path('a.raw')}")
    equal(os.stat(t.path("x.vma")).st_size < 100000, True, "archive is small")
    vma(t, "extract", t.path("x.vma"), t.path("out"))
    st = os.stat(t.path("out", "disk-d.raw"))
    equal(st.st_size, 64 << 20)
    equal(st.st_blocks * 512 < 100000, True, "image is sparse")


class MapFifo:
    """Answers as the restore scripts of others do: opens the FIFO for writing
    (which waits for the reader), and only after CTIME: writes the map."""

    def __init__(self, t, lines):
        self.path = t.path("fifo")
        self.lines = lines
        os.mkfifo(self.path)
        self.listed = threading.Event()
        self.thread = threading.Thread(target=self.answer, daemon=True)
        self.thread.start()

    def answer(self):
        with open(self.path, "w", encoding="utf-8") as f:
            self.listed.wait(SOON)
            f.write(self.lines + "done\n")
            f.flush()
            self.go_on = f  # kept open: vma must not wait for the end


def extract_with_map(t, arc, lines, status=0, data=None, extra=()):
    fifo = MapFifo(t, lines)
    p = t.spawn([VMA, "extract", *extra, "-r", fifo.path, arc, t.path("out")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if data:
        feeder = threading.Thread(target=lambda: (p.stdin.write(data), p.stdin.close()),
                                  daemon=True)
        feeder.start()
    seen = []
    for line in p.stdout:
        seen.append(line.decode())
        if line.startswith(b"CTIME:"):
            # The configurations are on disk by now.
            equal(read(t.path("out", "qemu-server.conf")), b"conf")
            fifo.listed.set()
            break
    rest = p.stdout.read().decode()
    err = p.stderr.read().decode()
    equal(p.wait(SOON), status, err)
    os.unlink(fifo.path)
    return "".join(seen), rest, err


@test
def as_many_devices_and_configurations_as_there_can_be(t):
    image = random_image(5 * BLOCK)
    devices, configs = [], []
    for i in range(254):
        devices += ["-d", f"format=raw:drive{i}={write(t.path(f'{i}.raw'), image)}"]
    for i in range(256):
        configs += ["-c", write(t.path(f"{i}.conf"), b"%d" % i)]
    arc = t.path("x.vma")
    vma(t, "create", arc, *devices, *configs)
    equal(len(Archive(arc).devices), 254)
    vma(t, "extract", arc, t.path("out"))
    equal(len(os.listdir(t.path("out"))), 510)
    equal(read(t.path("out", "disk-drive253.raw")) == image, True)
    equal(read(t.path("out", "255.conf")), b"255")
    fails(t, "more than 254 devices", "create", t.path("y.vma"), *devices,
          "-d", f"format=raw:more={t.path('0.raw')}")
    fails(t, "more than 256 configurations", "create", t.path("y.vma"), *configs,
          "-c", t.path("0.raw"))


@test
def progress_on_a_terminal(t):
    a = make_image(t, "a.raw", 80 * CLUSTER)
    ours, theirs = pty.openpty()
    p = t.spawn([VMA, "create", "-v", t.path("x.vma"), f"format=raw:d={a}"], stderr=theirs)
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 4096):
            text += part
    except OSError:
        pass  # EIO: the other end is closed
    os.close(ours)
    equal(p.wait(SOON), 0)
    contains(text.decode(), "\r[########################################] 100%")
    contains(text.decode(), "image d: size=5242880 zeros=")


@test
def a_map_file_tells_where_devices_go(t):
    a = make_image(t, "a.raw", 20 * CLUSTER, 1)
    b = make_image(t, "b.raw", 3 * CLUSTER, 2)
    conf = write(t.path("qemu-server.conf"), b"conf")
    arc = t.path("x.vma")
    vma(t, "create", arc, "-c", conf, f"drive-a={a}", f"drive-b={b}", f"drive-c={b}")
    for data in (None, read(arc)):
        # a: full of other data, zeros must be written; b: known to be zero.
        write(t.path("ta"), b"\xee" * (20 * CLUSTER))
        write(t.path("tb.raw"), bytes(3 * CLUSTER))
        seen, _, _ = extract_with_map(
            t, "-" if data else arc,
            f"format=raw:1:drive-a={t.path('ta')}\n0:drive-b={t.path('tb.raw')}\n"
            "skip=drive-c\n", data=data)
        equal(len(LIST_DEV.findall(seen)) == 0 and seen.count("DEV: "), 3)
        equal(read(t.path("ta")) == read(a), True, "a")
        equal(read(t.path("tb.raw")) == read(b), True, "b")
        equal(os.listdir(t.path("out")), ["qemu-server.conf"])
        t.run("rm", "-r", t.path("out"))


@test
def zeros_are_left_alone_where_the_map_says_so(t):
    a = t.path("a.raw")
    with open(a, "wb") as f:
        f.truncate(4 * CLUSTER)
        f.write(b"x" * BLOCK)
    vma(t, "create", t.path("x.vma"), "-c", write(t.path("qemu-server.conf"), b"conf"),
        f"d={a}")
    write(t.path("ta"), b"\xee" * (4 * CLUSTER))
    extract_with_map(t, t.path("x.vma"), f"format=raw:0:d={t.path('ta')}\n")
    equal(read(t.path("ta")) == b"x" * BLOCK + b"\xee" * (4 * CLUSTER - BLOCK), True)


@test
def bad_map_files(t):
    a = make_image(t, "a.raw", 4 * CLUSTER)
    vma(t, "create", t.path("x.vma"), f"d={a}", f"e={a}")
    small = write(t.path("small"), bytes(CLUSTER))
    big = write(t.path("big"), bytes(4 * CLUSTER))
    for text, part in (
            ("", "no line for device d"),
            (f"1:d={big}\n", "no line for device e"),
            (f"1:d={big}\nskip=e\nskip=d\n", "line 3: device d is mapped twice"),
            (f"1:d={big}\nskip=e\nskip=f\n", "has no device 'f'"),
            (f"1:d={big}\n1:e={big}\n", "two devices are mapped to"),
            (f"format=raw:1:d={small}\nskip=e\n", "has 65536 bytes, but device d needs 262144"),
            (f"1:d={t.path('none')}\nskip=e\n", "none"),
            (f"format=nope:1:d={big}\nskip=e\n", "nope"),
            (f"2:d={big}\n", "line 1: '0:' or '1:' is missing"),
            ("1:d\n", "line 1: DEVICE=PATH is missing"),
            ("1:=x\n", "line 1: DEVICE=PATH is missing"),
            ("1:d=\n", "line 1: DEVICE=PATH is missing"),
            ("format=raw\n", "line 1: option format does not end"),
            (f"format=raw:format=raw:1:d={big}\n", "line 1: option format is given twice"),
            (f"throttling.bps=x:1:d={big}\n", "line 1: 'x' is not a number"),
            (f"cache=nope:1:d={big}\nskip=e\n", "there is no cache mode 'nope'")):
        m = write(t.path("map"), text.encode())
        before = sorted(os.listdir(t.dir))
        fails(t, part, "extract", "-r", m, t.path("x.vma"), t.path("out"))
        equal(sorted(os.listdir(t.dir)), before)
    fails(t, "none: cannot open", "extract", "-r", t.path("none"), t.path("x.vma"),
          t.path("out"))
    # An image that another made is not ours to remove.
    m = write(t.path("map"), f"format=raw:1:d={big}\nskip=e\n".encode())
    data = read(t.path("x.vma"))
    fails(t, "archive ends", "extract", "-r", m, "-", t.path("out"), data=data[:-2000])
    equal(os.path.exists(big) and not os.path.exists(t.path("out")), True)


@test
def a_speed_limit_in_the_map(t):
    a = make_image(t, "a.raw", 40 * CLUSTER)
    vma(t, "create", t.path("x.vma"), f"d={a}")
    write(t.path("ta"), bytes(40 * CLUSTER))
    m = write(t.path("map"), f"format=raw:throttling.bps=4000000:0:d={t.path('ta')}\n"
              .encode())
    start = os.times().elapsed
    vma(t, "extract", "-r", m, t.path("x.vma"), t.path("out"))
    # 1.3 MB at 4 MB/s, a tenth of a second of it as a burst.
    equal(os.times().elapsed - start >= 0.1, True, "it took its time")
    equal(read(t.path("ta")) == read(a), True)


# ---- create: where the archive goes ---------------------------------------------

@test
def create_replaces_nothing(t):
    a = make_image(t, "a.raw", CLUSTER)
    write(t.path("x.vma"), b"old")
    fails(t, "x.vma: cannot create: File exists", "create", t.path("x.vma"), a)
    os.symlink("nowhere", t.path("link"))
    fails(t, "link: cannot create: File exists", "create", t.path("link"), a)
    equal(read(t.path("x.vma")), b"old")
    fails(t, "cannot open folder", "create", t.path("no", "x.vma"), a)
    fails(t, "none.raw", "create", t.path("y.vma"), f"d={t.path('none.raw')}")
    fails(t, "none.conf", "create", t.path("y.vma"), "-c", t.path("none.conf"), a)
    fails(t, "two devices named d", "create", t.path("y.vma"), f"d={a}", f"d={a}")
    fails(t, "the name of device 'a/b' contains a slash", "create", t.path("y.vma"),
          f"a/b={a}")
    write(t.path("big"), bytes(65536))
    fails(t, "configuration big is larger than 65535 bytes", "create", t.path("y.vma"),
          "-c", t.path("big"), a)
    equal(sorted(os.listdir(t.dir)), ["a.raw", "big", "link", "x.vma"])


@test
def commands_that_fail(t):
    a = make_image(t, "a.raw", 40 * CLUSTER)
    for command, part in (("cat >/dev/null; exit 3", "failed with exit status 3"),
                          ("exit 1", "failed with exit status 1"),
                          ("true", "stopped reading before the end"),
                          ("head -c 100000 >/dev/null", "stopped reading before the end"),
                          ("kill -9 $$", "killed by signal 9")):
        contains(fails(t, part, "create", f"exec:{command}", a), f"exec:{command}: ")
    fails(t, "/dev/full: cannot write: No space left", "create", "/dev/full", a)


@test
def a_full_disk(t):
    """No file may become larger than 1 MB: EFBIG stands in for ENOSPC."""
    a = make_image(t, "a.raw", 80 * CLUSTER)
    vma(t, "create", t.path("x.vma"), f"d={a}")

    def limit():
        import resource
        import signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    fails(t, "y.vma: cannot write: File too large", "create", t.path("y.vma"), f"d={a}",
          preexec_fn=limit)
    fails(t, "disk-d.raw", "extract", t.path("x.vma"), t.path("out"), preexec_fn=limit)
    equal(sorted(os.listdir(t.dir)), ["a.raw", "x.vma"])


@test
def disks_that_fail(t):
    """The block layer's fault: files stand in for a bad disk."""
    a = make_image(t, "a.raw", 80 * CLUSTER)
    arc = t.path("x.vma")
    vma(t, "create", arc, f"format=raw:d={a}")
    err = fails(t, "cannot read at 0x200000: Input/output error", "create", t.path("y.vma"),
                f"format=raw:d=fault:read/4096-4099=EIO:{a}")
    contains(err, a)
    fails(t, "Input/output error", "create", t.path("y.vma"),
          f"format=raw:d=fault:status=EIO:{a}")
    big = write(t.path("big"), b"x" * (80 * CLUSTER))
    for rule, part in (("write#2=ENOSPC", "No space left"), ("write/5000=EIO", "cannot write"),
                       ("zero=EIO", "cannot write"), ("flush=EIO", "cannot sync")):
        m = write(t.path("map"), f"format=raw:1:d=fault:{rule}:{big}\n".encode())
        fails(t, part, "extract", "-r", m, arc, t.path("out"))
        equal(os.path.exists(t.path("out")), False)
    equal(sorted(os.listdir(t.dir)), ["a.raw", "big", "map", "x.vma"])


@test
def paths_with_colons_and_equal_signs(t):
    """Which mean something elsewhere on the command line."""
    os.mkdir(t.path("a:b"))
    a = make_image(t, "a:b/i=m.raw", CLUSTER)
    vma(t, "create", "a:b/x:y=z.vma", f"format=raw:d=./{os.path.relpath(a, t.dir)}",
        cwd=t.dir)
    vma(t, "extract", "a:b/x:y=z.vma", "a:b/o:u=t", cwd=t.dir)
    equal(read(t.path("a:b", "o:u=t", "disk-d.raw")) == read(a), True)


@test
def killed_and_interrupted(t):
    a = make_image(t, "a.raw", 80 * CLUSTER)
    vma(t, "create", t.path("x.vma"), f"d={a}")
    data = read(t.path("x.vma"))
    before = sorted(os.listdir(t.dir))
    for number in (15, 2, 1):
        p = t.spawn([VMA, "extract", "-", t.path("out")], stdin=subprocess.PIPE,
                    stderr=subprocess.PIPE)
        p.stdin.write(data[:2000000])
        p.stdin.flush()
        p.send_signal(number)
        equal(p.wait(SOON), 1)
        contains(p.stderr.read().decode(), "vma: interrupted: ")
        equal(sorted(os.listdir(t.dir)), before)
        # create, waiting for a command that does not read
        p = t.spawn([VMA, "create", "exec:echo started >&2; exec sleep 1000", f"d={a}"],
                    stderr=subprocess.PIPE)
        equal(p.stderr.readline(), b"started\n")
        p.send_signal(number)
        equal(p.wait(SOON), 1)
        contains(p.stderr.read().decode(), "vma: interrupted: ")
    # Killed: an archive that is not complete never had a name.
    fifo = t.path("fifo")
    os.mkfifo(fifo)
    p = t.spawn([VMA, "create", "-v", t.path("y.vma"), "-c", fifo, f"d={a}"])
    with open(fifo, "wb"):
        p.kill()
    p.wait(SOON)
    os.unlink(fifo)
    equal(sorted(os.listdir(t.dir)), before)


@test
def wrong_command_lines(t):
    for args in ([], ["nope"], ["list"], ["list", "a", "b"], ["list", "--nope", "a"],
                 ["config"], ["config", "a", "-c"], ["create"], ["create", "x.vma"],
                 ["extract", "a"], ["extract", "a", "b", "c"], ["verify"]):
        _, err = vma(t, *args, status=2, cwd=t.dir)
        contains(err, "usage: vma")
    equal(os.listdir(t.dir), [])
    contains(vma(t, "--help")[0].decode(), "vma extract ARCHIVE")


@test
def an_answer_that_cannot_be_printed(t):
    a = make_image(t, "a.raw", CLUSTER)
    vma(t, "create", t.path("x.vma"), "-c", write(t.path("c"), b"x"), f"d={a}")
    for command in ("list", "config", "verify"):
        with open("/dev/full", "wb") as full:
            p = t.spawn([VMA, command, t.path("x.vma")], stdout=full,
                        stderr=subprocess.PIPE)
            equal(p.wait(SOON), 1, command)
            contains(p.stderr.read().decode(), "No space left")


def with_closed(t, fds, *args):
    """Exit status and stderr of vma started with these descriptors closed."""
    def close():
        for fd in fds:
            os.close(fd)
    p = t.spawn([VMA, *args], stderr=subprocess.PIPE, preexec_fn=close)
    return p.wait(SOON), p.stderr.read().decode()


@test
def closed_descriptors_do_not_become_files_of_ours(t):
    a = make_image(t, "a.raw", CLUSTER)
    archive = t.path("x.vma")
    equal(with_closed(t, (0, 1, 2), "create", archive, f"d={a}")[0], 0)
    vma(t, "verify", archive)
    equal(with_closed(t, (0, 1, 2), "extract", archive, t.path("out"))[0], 0)
    equal(read(t.path("out", "disk-d.raw")), read(a))
    for command, closed, why in (
            (("list", "-"), 0, "Bad file descriptor"),
            (("list", archive), 1, "Bad file descriptor"),
            (("create", "-", f"d={a}"), 1, "not open for writing")):
        status, text = with_closed(t, (closed,), *command)
        equal(status, 1, command)
        contains(text, why)


main()
