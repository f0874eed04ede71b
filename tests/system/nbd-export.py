#!/usr/bin/python3
# timeout: 400
# SPDX-License-Identifier: GPL-2.0-or-later
"""The NBD export with clients that we did not write: nbdinfo, nbdcopy, libnbd,
qemu-io, qemu-img, QEMU, fio; and with some that nobody should write."""

import errno
import filecmp
import json
import os
import random
import shutil
import subprocess
import time

from lib.guest import disk_usage, make_image
from lib.nbdserver import (ABORT, ERR, EXPORT_NAME, GO, INFO, LIST, READ, STARTTLS,
                           STRUCTURED, WRITE, NbdServer, Raw)
from lib.qmp import QMP
from lib.tap import SOON, contains, equal, main, test, wait_for

MiB = 1 << 20


def need(t, tool, package):
    if not shutil.which(tool):
        t.skip(f"{tool} (Debian package {package}) is not installed")


def libnbd(t):
    try:
        import nbd  # pylint: disable=import-outside-toplevel
    except ImportError:
        t.skip("python3-libnbd is not installed")
    return nbd


def random_image(t, name, size, hole_every=3):
    """Stretches of data and of nothing."""
    rand = random.Random(name)
    path = t.path(name)
    with open(path, "wb") as f:
        f.truncate(size)
        at, n = 0, 0
        while at < size:
            length = min(size - at, rand.choice([4096, 65536, 200000, MiB, 70001]))
            if n % hole_every:
                f.seek(at)
                f.write(rand.randbytes(length))
            at += length
            n += 1
    return path


def check_same(a, b):
    if not filecmp.cmp(a, b, shallow=False):
        raise AssertionError(f"{a} and {b} differ")


def nbd_options(server, name, **extra):
    """For qemu-io --image-opts and the like."""
    extra = "".join(f",{k.replace('_', '-')}={v}" for k, v in extra.items())
    return (f"driver=nbd,server.type=unix,server.path={server.path},export={name}"
            + extra)


# ---- what is offered ---------------------------------------------------------

@test
def nbdinfo_sees_everything_that_is_offered(t):
    need(t, "nbdinfo", "libnbd-bin")
    image = make_image(t.path("i"), 5 * MiB + 512)
    server = NbdServer(t, "-f", "raw", f"disk={image}",
                       f"other={make_image(t.path('j'), 3)}")
    info = json.loads(t.run("nbdinfo", "--json", "--no-content", server.uri("disk")))
    equal(info["protocol"], "newstyle-fixed")
    equal(info["structured"], True)
    export = info["exports"][0]
    equal(export["export-size"], 5 * MiB + 512)
    for what in ("can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua",
                 "can_multi_conn", "can_trim", "can_zero"):
        equal(export[what], True, what)
    equal(export["is_read_only"], False)
    equal(export["contexts"], ["base:allocation"])
    equal(export["block_size_minimum"], 1)
    equal(export["block_size_maximum"], 32 * MiB)
    listed = json.loads(t.run("nbdinfo", "--json", "--list", server.uri()))
    equal([e["export-name"] for e in listed["exports"]], ["disk", "other"])
    status, text = t.run("nbdinfo", server.uri("neither"), status=None)
    equal(status, 1)
    contains(text, "No such file")
    server.stop()
    equal(os.path.exists(server.path), False)


@test
def a_read_only_export_says_so_and_refuses(t):
    nbd = libnbd(t)
    image = make_image(t.path("i"), MiB)
    server = NbdServer(t, "-f", "raw", "--read-only", image)
    h = nbd.NBD()
    h.connect_uri(server.uri("disk"))
    equal(h.is_read_only(), True)
    equal(h.can_trim(), False)
    h.set_strict_mode(0)
    for call in (lambda: h.pwrite(b"x" * 512, 0), lambda: h.trim(512, 0),
                 lambda: h.zero(512, 0)):
        equal(error_of(nbd, call), errno.EPERM)
    equal(h.pread(512, 0), b"\0" * 512)
    h.shutdown()
    server.stop()


@test
def an_abstract_socket_serves(t):
    need(t, "qemu-io", "qemu-utils")
    name = f"sidecar-nbd-{os.getpid()}"
    server = NbdServer(t, "-f", "raw", make_image(t.path("i"), MiB), path="@" + name)
    Raw(t, server).hello().go(b"disk")
    text = t.run("qemu-io", "--image-opts", "driver=nbd,server.type=unix,export=disk,"
                 f"server.path={name},server.abstract=on,server.tight=on",
                 "-c", "write -P 3 0 64k", "-c", "read -P 3 0 64k")
    contains(text, "read 65536/65536")
    server.stop()


@test
def the_map_is_that_of_the_file(t):
    need(t, "nbdinfo", "libnbd-bin")
    image = t.path("i")
    with open(image, "wb") as f:
        f.truncate(4 * MiB)
        f.seek(MiB)
        f.write(b"x" * MiB)
    server = NbdServer(t, "-f", "raw", image)
    extents = json.loads(t.run("nbdinfo", "--map", "--json", server.uri("disk")))
    equal([(e["offset"], e["length"], e["type"]) for e in extents],
          [(0, MiB, 3), (MiB, MiB, 0), (2 * MiB, 2 * MiB, 3)])
    need(t, "qemu-img", "qemu-utils")
    extents = json.loads(t.run("qemu-img", "map", "--output=json", "--image-opts",
                               nbd_options(server, "disk")))
    equal([(e["start"], e["length"], e["data"], e["zero"]) for e in extents],
          [(0, MiB, False, True), (MiB, MiB, True, False),
           (2 * MiB, 2 * MiB, False, True)])
    server.stop()


# ---- copies ------------------------------------------------------------------

@test
def nbdcopy_out_and_in_over_several_connections(t):
    need(t, "nbdcopy", "libnbd-bin")
    image = random_image(t, "source", 40 * MiB + 1000)
    copy = make_image(t.path("copy"), 40 * MiB + 1000)
    server = NbdServer(t, "-f", "raw", f"source={image}", f"copy={copy}")
    for options in (["--connections=4"], ["--synchronous"], ["--request-size=33554432"],
                    ["--no-extents", "--requests=64"]):
        out = t.path("out")
        t.run("nbdcopy", *options, server.uri("source"), out)
        check_same(image, out)
        os.truncate(out, 0)
    t.run("nbdcopy", "--connections=4", "--flush", server.uri("source"),
          server.uri("copy"))
    check_same(image, copy)
    if disk_usage(copy) > disk_usage(image) + MiB:
        raise AssertionError("holes were filled")
    server.stop()


@test
def qemu_img_converts_and_compares(t):
    need(t, "qemu-img", "qemu-utils")
    image = random_image(t, "source", 30 * MiB)
    copy = make_image(t.path("copy"), 30 * MiB)
    server = NbdServer(t, "-f", "raw", f"source={image}", f"copy={copy}")
    t.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", server.uri("source"),
          server.uri("copy"))
    check_same(image, copy)
    t.run("qemu-img", "convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw",
          server.uri("source"), server.uri("copy"))
    check_same(image, copy)
    t.run("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri("source"), copy)
    qcow2 = t.path("q")
    t.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", server.uri("source"), qcow2)
    t.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, qcow2)
    server.stop()


# ---- requests ----------------------------------------------------------------

def error_of(nbd, call):
    try:
        call()
    except nbd.Error as error:
        return error.errnum
    return 0


@test
def libnbd_against_a_shadow_copy(t):
    nbd = libnbd(t)
    size = 6 * MiB + 123
    image = make_image(t.path("i"), size)
    for options in ([], ["--nocache"]):
        server = NbdServer(t, "-f", "raw", *options, image)
        shadow = bytearray(open(image, "rb").read())
        for structured in (True, False):
            h = nbd.NBD()
            h.set_request_structured_replies(structured)
            h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
            h.connect_uri(server.uri("disk"))
            equal(h.get_structured_replies_negotiated(), structured)
            shadow_ops(nbd, h, shadow, structured)
            h.shutdown()
        server.stop()
        with open(image, "rb") as f:
            equal(f.read() == shadow, True, "image is the shadow")


def shadow_ops(nbd, h, shadow, structured):
    rand = random.Random(5)
    size = len(shadow)
    for _ in range(300):
        offset = rand.randrange(size)
        length = min(size - offset, rand.choice([1, 512, 4096, 65536, 3 * MiB]))
        if rand.random() < 0.5:
            offset &= ~511
        flags = rand.choice([0, 0, nbd.CMD_FLAG_FUA])
        kind = rand.randrange(6)
        if kind == 0:
            data = rand.randbytes(length)
            h.pwrite(data, offset, flags)
            shadow[offset:offset + length] = data
        elif kind == 1:
            h.zero(length, offset, flags | rand.choice([0, nbd.CMD_FLAG_NO_HOLE]))
            shadow[offset:offset + length] = bytes(length)
        elif kind == 2 and structured:
            flags = nbd.CMD_FLAG_DF if length <= 2 * MiB else 0
            got = bytearray(length)

            def chunk(data, at, kind, _error, got=got, offset=offset):
                if kind == nbd.READ_HOLE:
                    data = bytes(len(data))
                got[at - offset:at - offset + len(data)] = data
            h.pread_structured(length, offset, chunk, flags)
            equal(got == shadow[offset:offset + length], True, "read")
        elif kind == 3 and structured:
            check_extents(nbd, h, shadow, offset, length)
        elif kind == 4:
            h.flush()
            h.cache(length, offset)
        else:
            equal(h.pread(length, offset) == shadow[offset:offset + length], True, "read")


def check_extents(nbd, h, shadow, offset, length):
    """What is said to be zero is zero."""
    seen = []

    def note(_context, at, entries, _error):
        for i in range(0, len(entries), 2):
            seen.append((at, entries[i], entries[i + 1]))
            at += entries[i]
    h.block_status(length, offset, note)
    equal(seen[0][0], offset)
    for at, count, flags in seen:
        if flags & nbd.STATE_ZERO:
            equal(any(shadow[at:at + count]), False, f"data at {at}+{count}")
    seen.clear()
    h.block_status(length, offset, note, nbd.CMD_FLAG_REQ_ONE)
    equal(len(seen), 1)


@test
def many_requests_in_flight_on_several_connections(t):
    nbd = libnbd(t)
    size = 8 * MiB
    image = make_image(t.path("i"), size)
    server = NbdServer(t, "-f", "raw", image)
    rand = random.Random(9)
    handles = []
    for _ in range(3):
        h = nbd.NBD()
        h.connect_uri(server.uri("disk"))
        handles.append(h)
    # Each block is written once, by any connection; all are in flight together.
    blocks = list(range(size // 16384))
    rand.shuffle(blocks)
    want = bytearray(size)
    for n, block in enumerate(blocks):
        data = rand.randbytes(16384)
        want[block * 16384:(block + 1) * 16384] = data
        handles[n % 3].aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)),
                                  block * 16384, lambda _: 1)
    while any(h.aio_in_flight() for h in handles):
        for h in handles:
            if h.aio_in_flight():
                h.poll(-1)
    # A flush on one connection covers the writes answered on all.
    handles[0].flush()
    equal(handles[1].pread(size, 0) == want, True, "what was written")
    for h in handles:
        h.shutdown()
    server.stop()


@test
def every_refusal_has_its_error_and_the_connection_lives_on(t):
    nbd = libnbd(t)
    size = MiB
    server = NbdServer(t, "-f", "raw", make_image(t.path("i"), size))
    h = nbd.NBD()
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.connect_uri(server.uri("disk"))
    h.set_strict_mode(0)
    nothing = lambda *_: 0
    cases = [
        (lambda: h.pread(512, size), errno.EINVAL),
        (lambda: h.pread(512, size - 511), errno.EINVAL),
        (lambda: h.pread(512, (1 << 63) + 512), errno.EINVAL),
        (lambda: h.pwrite(b"x" * 512, size - 511), errno.ENOSPC),
        (lambda: h.pwrite(b"x" * 512, 1 << 62), errno.ENOSPC),
        (lambda: h.zero(512, size), errno.ENOSPC),
        (lambda: h.trim(512, size), errno.EINVAL),
        (lambda: h.cache(512, size), errno.EINVAL),
        (lambda: h.block_status(512, size, nothing), errno.EINVAL),
        (lambda: h.block_status(0, 0, nothing), errno.EINVAL),
        (lambda: h.pwrite(b"x" * 512, 0, nbd.CMD_FLAG_NO_HOLE), errno.EINVAL),
        (lambda: h.pwrite(b"x" * 512, 0, nbd.CMD_FLAG_DF), errno.EINVAL),
        (lambda: h.zero(512, 0, nbd.CMD_FLAG_REQ_ONE), errno.EINVAL),
        (lambda: h.flush(nbd.CMD_FLAG_DF), errno.EINVAL),
        (lambda: h.trim(512, 0, 1 << 14), errno.EINVAL),
        (lambda: h.pwrite(b"x" * (33 * MiB), 0), errno.EINVAL),
    ]
    for i, (call, want) in enumerate(cases):
        equal(error_of(nbd, call), want, f"case {i}")
        equal(h.pread(512, 0), bytes(512))
    h.shutdown()
    server.stop()


@test
def qemu_io_writes_zeroes_discards_and_maps(t):
    need(t, "qemu-io", "qemu-utils")
    image = make_image(t.path("i"), 64 * MiB)
    server = NbdServer(t, "-f", "raw", image)
    text = t.run("qemu-io", "-d", "unmap", "-f", "raw",
                 "-c", "write -P 7 1M 40M", "-c", "write -z 2M 1M",
                 "-c", "write -z -u 4M 1M", "-c", "write -zn 5M 1M", "-c", "discard 6M 1M",
                 "-c", "write -f -P 8 1000 77", "-c", "write -z -f 8M 512",
                 "-c", "aio_write -P 9 50M 3M", "-c", "aio_write -P 9 53M 3M",
                 "-c", "aio_flush", "-c", "flush",
                 "-c", "read -P 7 1M 1M", "-c", "read -P 0 2M 1M", "-c", "read -P 0 4M 1M",
                 "-c", "read -P 0 6M 1M", "-c", "read -P 8 1000 77",
                 "-c", "read -P 0 8M 512", "-c", "read -P 9 50M 6M", "-c", "map",
                 server.uri("disk"))
    for bad in ("failed", "rror", "verification"):
        equal(bad in text, False, f"'{bad}' in: {text}")
    server.stop()
    if disk_usage(image) > 46 * MiB:
        raise AssertionError("discards did not reach the file")


@test(limit=240)
def fio_verifies_what_it_wrote(t):
    need(t, "fio", "fio")
    for options in ([], ["--aio=native"]):
        server = NbdServer(t, "-f", "raw", *options, make_image(t.path("i"), 32 * MiB))
        for rw, bs, depth in (("randwrite", "4k", 16), ("randwrite", "512-64k", 16),
                              ("write", "1m", 4), ("randwrite", "4k", 1)):
            t.run("fio", "--name=v", "--ioengine=nbd", f"--uri={server.uri('disk')}",
                  f"--rw={rw}", f"--bsrange={bs}" if "-" in bs else f"--bs={bs}",
                  f"--iodepth={depth}", "--size=32m", "--io_size=16m", "--verify=crc32c",
                  "--verify_fatal=1", "--fsync=64", cwd=t.dir)
        server.stop()


# ---- connections come and go -------------------------------------------------

class QemuIo:
    """An interactive qemu-io on an NBD export."""

    def __init__(self, t, server, delay=60):
        self.process = t.spawn(
            ["qemu-io", "--image-opts", nbd_options(server, "disk", reconnect_delay=delay)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, bufsize=1)

    def __call__(self, command, answer):
        """Its answer is a line with this word in it; prompts are skipped."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError("qemu-io has ended")
            if "failed" in line or "rror" in line:
                raise AssertionError(f"{command}: {line}")
            if answer in line:
                return line


@test
def qemu_reconnects_after_clients_were_dropped(t):
    need(t, "qemu-io", "qemu-utils")
    server = NbdServer(t, "-f", "raw", make_image(t.path("i"), 16 * MiB))
    client = QemuIo(t, server)
    for i in range(1, 60):
        client(f"write -P {i} {i * 64}k 64k", "wrote")
        server.drop_clients()
        client(f"read -P {i} {i * 64}k 64k", "read")
    server.stop()
    server.start()  # a new process, even
    client("read -P 59 3776k 64k", "read")
    client("write -P 60 0 4M", "wrote")
    client("flush", "")
    server.stop()


@test
def a_busy_qemu_survives_drops(t):
    need(t, "qemu-system-x86_64", "qemu-system-x86")
    server = NbdServer(t, "-f", "raw", make_image(t.path("i"), 64 * MiB))
    qmp_path = t.path("qmp")
    process = t.spawn(
        ["qemu-system-x86_64", "-S", "-M", "none", "-display", "none", "-nodefaults",
         "-qmp", f"unix:{qmp_path},server=on,wait=off", "-blockdev",
         nbd_options(server, "disk", reconnect_delay=60, node_name="n")],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    qmp = QMP(qmp_path, lambda: process.poll() is None)
    t.defer(qmp.close)
    # A mirror to a second node of the same server keeps 16 requests in flight.
    target = make_image(t.path("target"), 64 * MiB)
    qmp.send("blockdev-add", {"driver": "raw", "node-name": "target", "file": {
        "driver": "file", "filename": target}})
    qmp.receive(qmp.next_id)
    with open(t.path("i"), "r+b") as f:
        for at in range(0, 64 * MiB, MiB):
            f.seek(at)
            f.write(random.Random(at).randbytes(MiB))
    qmp("blockdev-mirror", job_id="m", device="n", target="target", sync="full",
        speed=32 * MiB)
    for _ in range(40):
        server.drop_clients()
        if qmp.events:
            break
        qmp("query-block-jobs")
    qmp.send("block-job-set-speed", {"device": "m", "speed": 0})
    qmp.receive(qmp.next_id)
    event = qmp.wait_event("BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_ERROR")
    equal(event["event"], "BLOCK_JOB_READY")
    qmp("block-job-complete", device="m")
    event = qmp.wait_event("BLOCK_JOB_COMPLETED", "BLOCK_JOB_ERROR")
    equal("error" in event["data"], False, str(event))
    try:
        qmp("quit")
    except EOFError:
        pass
    equal(process.wait(SOON), 0)
    check_same(t.path("i"), target)
    server.stop()


@test
def qemu_learns_a_new_size_when_it_reconnects(t):
    """As docs/nbd-export.md says how to resize."""
    need(t, "qemu-system-x86_64", "qemu-system-x86")
    image = make_image(t.path("i"), 16 * MiB)
    server = NbdServer(t, "-f", "raw", image)
    qmp_path = t.path("qmp")
    process = t.spawn(
        ["qemu-system-x86_64", "-S", "-M", "none", "-display", "none", "-nodefaults",
         "-qmp", f"unix:{qmp_path},server=on,wait=off", "-drive",
         "if=none,id=d,driver=raw,file.driver=nbd,file.server.type=unix,"
         f"file.server.path={server.path},file.export=disk,file.reconnect-delay=60"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    qmp = QMP(qmp_path, lambda: process.poll() is None)
    t.defer(qmp.close)
    for size in (32 * MiB, 8 * MiB):
        server.stop()
        os.truncate(image, size)
        server.start()
        qmp.hmp('qemu-io d "read 0 512"')
        qmp("block_resize", device="d", size=size)
        inserted = qmp("query-block")[0]["inserted"]
        equal(inserted["image"]["virtual-size"], size)
    try:
        qmp("quit")
    except EOFError:
        pass
    equal(process.wait(SOON), 0)
    server.stop()


# ---- clients that nobody should write ----------------------------------------

def alive(t, server):
    Raw(t, server).hello().go(b"disk").request(READ, 0, 512)


@test
def a_strange_handshake_is_refused_by_name_and_others_are_served(t):
    server = NbdServer(t, "-f", "raw", make_image(t.path("i"), MiB))
    raw = Raw(t, server).hello()
    equal(raw.option(77, b"what").reply()[:2], (77, ERR + 1))
    equal(raw.option(STARTTLS).reply()[:2], (STARTTLS, ERR + 2))
    equal(raw.option(LIST, b"x").reply()[:2], (LIST, ERR + 3))
    equal(raw.option(STRUCTURED, b"x").reply()[:2], (STRUCTURED, ERR + 3))
    equal(raw.option(INFO, b"\0\0\0\3no!\0\0").reply()[:2], (INFO, ERR + 6))
    equal(raw.option(GO, b"\0\0\0\x7f").reply()[:2], (GO, ERR + 3))
    equal(raw.option(GO, b"", length=100000).send(b"y" * 100000).reply()[:2],
          (GO, ERR + 9))
    for data in (b"", b"\0", b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\3" + b"\xff" * 16,
                 b"\xff\xff\xff\xff"):
        other = Raw(t, server).send(data)
        other.socket.shutdown(1)
        other.closed()
    Raw(t, server).hello().option(EXPORT_NAME, b"nothing").closed()
    Raw(t, server).hello().option(EXPORT_NAME, b"", length=1 << 31).closed()
    aborted = Raw(t, server).hello().option(ABORT)
    equal(aborted.reply()[:2], (ABORT, 1))
    aborted.closed()
    raw.go(b"disk").request(READ, 0, 512)
    equal(raw.answer(512), (0, 1, bytes(512)))
    server.stop()


@test
def random_bytes_in_either_phase_harm_nobody(t):
    rand = random.Random(11)
    server = NbdServer(t, "-f", "raw", "--read-only", make_image(t.path("i"), MiB))
    good = Raw(t, server).hello().go(b"disk")
    for n in range(300):
        raw = Raw(t, server)
        try:
            if n % 3 == 0:
                raw.send(rand.randbytes(rand.randrange(1, 3000)))
            elif n % 3 == 1:
                raw.hello().option(rand.randrange(12), rand.randbytes(rand.randrange(200)),
                                   rand.choice([None, None, rand.randrange(1 << 32)]))
                raw.send(rand.randbytes(100))
            else:
                raw.hello().go(b"disk")
                for _ in range(10):
                    raw.request(rand.randrange(10), rand.choice([0, rand.getrandbits(64)]),
                                rand.choice([0, 512, rand.getrandbits(32)]),
                                rand.choice([0, rand.getrandbits(16)]))
        except (BrokenPipeError, ConnectionResetError):
            pass
        raw.socket.close()
        good.request(READ, 0, 512, cookie=n)
        equal(good.answer(512), (0, n, bytes(512)))
    server.stop()


@test
def clients_that_stay_silent_cost_no_thread(t):
    server = NbdServer(t, "-f", "raw", make_image(t.path("i"), MiB))
    good = Raw(t, server).hello().go(b"disk")
    crowd = [Raw(t, server) for _ in range(200)]
    for n, raw in enumerate(crowd):
        if n % 3 == 1:
            raw.hello()
        elif n % 3 == 2:
            raw.hello().go(b"disk").request(WRITE, 0, 4096, data=b"only this")
    for n in range(200):
        good.request(READ, 0, 512, cookie=n)
        equal(good.answer(512)[1], n)
    # Some threads come when many connect at once; not one for each.
    if server.threads() > 100:
        raise AssertionError(f"{server.threads()} threads")
    server.stop()


def switches(server):
    """How often its threads have gone to sleep or been sent to."""
    total = 0
    for task in os.listdir(f"/proc/{server.process.pid}/task"):
        with open(f"/proc/{server.process.pid}/task/{task}/status", encoding="ascii") as f:
            total += sum(int(line.split()[1]) for line in f if "ctxt_switches" in line)
    return total


@test
def a_server_with_idle_clients_sleeps(t):
    server = NbdServer(t, "-f", "raw", make_image(t.path("i"), MiB))
    clients = [Raw(t, server).hello().go(b"disk") for _ in range(10)]
    for raw in clients:
        for n in range(20):
            raw.request(READ, 0, 512, cookie=n)
            raw.answer(512)

    def asleep():
        before = switches(server)
        time.sleep(0.5)  # of silence
        return switches(server) == before
    wait_for(asleep, "the server to fall asleep")
    server.stop()


@test
def a_client_that_does_not_read_holds_up_neither_others_nor_the_end(t):
    server = NbdServer(t, "-f", "raw", make_image(t.path("i"), 64 * MiB))
    for _ in range(3):
        deaf = Raw(t, server).hello().go(b"disk")
        for n in range(40):
            deaf.request(READ, 0, 4 * MiB, cookie=n)
    good = Raw(t, server).hello().go(b"disk")
    good.request(READ, 0, 512)
    equal(good.answer(512)[0], 0)
    server.stop()


@test
def a_killed_server_leaves_a_socket_that_the_next_one_replaces(t):
    server = NbdServer(t, "-f", "raw", make_image(t.path("i"), MiB))
    server.process.kill()
    server.process.wait()
    server.process.stdout.close()
    equal(os.path.exists(server.path), True)
    server.start()
    alive(t, server)
    second = subprocess.run(
        [server.process.args[0], "-k", server.path, "-f", "raw", t.path("i")],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=SOON, check=False)
    equal(second.returncode, 1)
    contains(second.stdout, "nbd-export: ")
    alive(t, server)
    server.stop()


main()
