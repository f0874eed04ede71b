#!/usr/bin/python3
# timeout: 500
# SPDX-License-Identifier: GPL-2.0-or-later
"""Image streaming and live snapshots: block_stream with and without a base,
cancelled, failing, beside a writing guest; snapshots over a running image.
qemu-img is the judge of every image."""

import json
import os
import zlib

from lib.guest import make_image
from lib.tap import contains, equal, main, test, wait_for
from lib.vm import VM

MIB = 1 << 20
PIECE = 64 << 10


def pattern(path, size, pieces, byte):
    """A raw image with some pieces of 64 KiB filled."""
    with open(make_image(path, size), "r+b") as f:
        for piece in pieces:
            f.seek(piece * PIECE)
            f.write(bytes([byte]) * PIECE)
    return path


def overlay(t, name, backing, size=None, backing_format="qcow2"):
    t.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F",
          backing_format, t.path(name), *([str(size)] if size else []))
    return t.path(name)


def qemu_io(t, path, *commands):
    words = [w for c in commands for w in ("-c", c)]
    t.run("qemu-io", "-f", "qcow2", *words, path)


def chain(t, size=16 * MIB):
    """base (raw) <- mid (shorter) <- top; explicit zeros above data in both."""
    base = pattern(t.path("base.raw"), size, range(0, size // PIECE, 2), 0x11)
    mid = overlay(t, "mid.qcow2", base, size - 4 * MIB, "raw")
    qemu_io(t, mid, "write -P 0x22 1M 2M", "write -z 4M 1M",
            f"write -P 0x23 {size - 4 * MIB - PIECE} {PIECE}")
    top = overlay(t, "top.qcow2", mid, size)
    qemu_io(t, top, "write -P 0x33 2M 512k", "write -z 6M 64k",
            f"write -P 0x34 {size - PIECE} 1k")
    return base, mid, top


def flat(t, image, name="before.raw"):
    t.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, t.path(name))
    return t.path(name)


def info(t, image):
    return json.loads(t.run("qemu-img", "info", "-U", "--output=json", image))


def check(t, image, want):
    """Clean, without leaks, and with the content of the raw image."""
    t.run("qemu-img", "check", "-q", "-f", "qcow2", image)
    t.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", image, want)


def drive(image, name="disk", extra=""):
    return f"if=virtio,id={name},format=qcow2,file={image}{extra}"


def completed(vm, device="disk"):
    event = vm.qmp.wait_event("BLOCK_STREAM_COMPLETED")
    equal(event["data"]["device"], device)
    return event["data"]


@test
def a_stream_makes_an_image_independent(t):
    base, mid, top = chain(t)
    want = flat(t, top)
    before = [open(p, "rb").read() for p in (base, mid)]
    vm = VM(t, drives=[drive(top)], guest=False).start()
    equal(vm.qmp("query-block-stream"), [])
    equal(vm.qmp("block_stream", device="disk"), {})
    data = completed(vm)
    equal(data, {"device": "disk", "len": 16 * MIB, "offset": 16 * MIB})
    equal(vm.qmp("query-block-stream"), [])
    vm.quit()
    assert "backing-filename" not in info(t, top)
    equal([open(p, "rb").read() for p in (base, mid)], before)
    os.remove(base)
    os.remove(mid)
    check(t, top, want)


@test
def a_stream_with_a_base_keeps_it(t):
    """Its name as a path, or from where the image above it is, as QEMU takes it."""
    for i, name in enumerate((t.path("base.raw"), "base.raw", "./base.raw")):
        base, mid, top = chain(t)
        want = flat(t, top)
        vm = VM(t, drives=[drive(top)], guest=False, name=f"vm{i}").start()
        vm.qmp("block_stream", device="disk", base=name)
        equal(completed(vm)["offset"], 16 * MIB)
        vm.quit()
        equal(info(t, top)["full-backing-filename"], base)
        os.remove(mid)
        check(t, top, want)
        for path in (base, top):
            os.remove(path)


@test
def a_stream_to_the_image_just_below_copies_nothing(t):
    _, mid, top = chain(t)
    want = flat(t, top)
    size = os.stat(top).st_blocks
    vm = VM(t, drives=[drive(top)], guest=False).start()
    vm.qmp("block_stream", device="disk", base=mid)
    completed(vm)
    vm.quit()
    equal(info(t, top)["full-backing-filename"], mid)
    assert os.stat(top).st_blocks <= size + 8
    check(t, top, want)


@test
def a_large_image_with_little_in_it(t):
    """What nobody has is passed over, not looked at again and again."""
    base = t.path("base.qcow2")
    t.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", base, "4T")
    qemu_io(t, base, "write -P 1 3T 1M")
    top = t.path("top.qcow2")
    t.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M",
          "-b", base, "-F", "qcow2", top)
    vm = VM(t, guest=False, drives=[drive(top)]).start()
    vm.qmp("block_stream", device="disk")
    equal(completed(vm), {"device": "disk", "len": 4 << 40, "offset": 4 << 40})
    vm.quit()
    os.unlink(base)
    t.run("qemu-img", "check", "-q", "-f", "qcow2", top)
    qemu_io(t, top, "read -P 1 3T 1M", f"read -P 0 {3 * MIB * MIB + MIB} 1M")


@test
def a_guest_writes_while_its_image_is_filled(t):
    """Each read of the guest is checked against what it wrote; twice, so that
    the second stream finds what the first one copied."""
    size = 16 * MIB
    base = t.path("base.raw")
    with open(base, "wb") as f:
        f.write(bytes(size))  # zeros that are data: they have to be read
    top = overlay(t, "top.qcow2", base, size, "raw")
    vm = VM(t, drives=[drive(top)]).start()
    vm.guest.start("w", "shadow", 7, 4, "vda")
    vm.guest.wait("w", 50)
    vm.qmp("block_stream", device="disk", speed=2 * MIB)
    wait_for(lambda: vm.qmp("query-block-stream")[0]["offset"] > 2 * MIB,
             "the stream to move")
    vm.qmp("block_stream_cancel", device="disk")
    equal(vm.qmp("query-block-stream"), [])
    count = vm.guest.status("w").done
    vm.qmp("block_stream", device="disk", speed=8 * MIB)
    completed(vm)
    vm.guest.wait("w", count + 200)
    assert vm.guest.stop("w").done > 250
    vm.quit()
    assert "backing-filename" not in info(t, top)
    t.run("qemu-img", "check", "-q", "-f", "qcow2", top)


@test
def a_guest_beside_the_page_cache(t):
    """cache=none, aio=native, all sizes odd: an image over a raw file is written,
    filled, and gets a snapshot; what the guest knows is what is in it."""
    size = 8 * MIB + 512 * 3
    base = t.path("base.raw")
    with open(base, "wb") as f:
        f.write(bytes(size // 2 + 12345))  # zeros that are data
    top, over = overlay(t, "top.qcow2", base, size, "raw"), t.path("over.qcow2")
    vm = VM(t, drives=[drive(top, extra=",cache=none,aio=native,discard=unmap")]).start()
    vm.guest.start("w", "shadow", 9, 2, "vda")
    vm.guest.wait("w", 50)
    vm.qmp("block_stream", device="disk", speed=8 * MIB)
    completed(vm)
    count = vm.guest.status("w").done
    vm.qmp("blockdev-snapshot-sync", device="disk", snapshot_file=over)
    vm.guest.wait("w", count + 100)
    result = vm.guest.stop("w")
    vm.quit()
    assert "backing-filename" not in info(t, top)
    equal(info(t, over)["full-backing-filename"], top)
    for image in (top, over):
        t.run("qemu-img", "check", "-q", "-f", "qcow2", image)
    with open(flat(t, over), "rb") as f:
        equal(zlib.crc32(f.read()), result.crc32)


@test
def cancelled_at_any_time_and_begun_again(t):
    _, mid, top = chain(t)
    want = flat(t, top)
    vm = VM(t, drives=[drive(top)], guest=False).start()
    rounds = 0
    while True:
        rounds += 1
        speed = MIB if rounds < 6 else 0
        vm.qmp("block_stream", device="disk", speed=speed)
        if speed == 0:
            break
        wait_for(lambda: vm.qmp("query-block-stream")[0]["offset"] >
                 rounds * MIB // 4, "the stream to move")
        vm.qmp("block_stream_cancel", device="disk")
        equal(vm.qmp.wait_event("BLOCK_JOB_CANCELLED")["data"]["type"], "stream")
        equal(info(t, top)["full-backing-filename"], mid)
    completed(vm)
    vm.quit()
    check(t, top, want)


@test
def errors_are_those_of_the_interface(t):
    _, _, top = chain(t)
    other = chain_top2(t)
    raw = make_image(t.path("r.raw"), MIB)
    vm = VM(t, guest=False, drives=[
        drive(top), drive(other, "other"),
        f"if=virtio,id=raw,format=raw,file={raw}"]).start()
    equal(vm.qmp.error("block_stream", device="none").cls, "DeviceNotFound")
    equal(vm.qmp.error("block_stream", device="raw").cls, "NotSupported")
    equal(vm.qmp.error("block_stream_cancel", device="disk").cls,
          "DeviceNotActive")
    contains(str(vm.qmp.error("block_stream", device="disk", base="/nowhere")),
             "Base '/nowhere' not found")
    vm.qmp("block_stream", device="disk", speed=64 << 10)
    vm.qmp("block_stream", device="other", speed=64 << 10)
    equal(sorted(s["device"] for s in vm.qmp("query-block-stream")),
          ["disk", "other"])
    for command, arguments in (
            ("block_stream", {}), ("block_resize", {"size": 32 * MIB}),
            ("blockdev-snapshot-sync", {"snapshot_file": t.path("s.qcow2")})):
        equal(vm.qmp.error(command, device="disk", **arguments).cls, "DeviceInUse")
    equal(vm.qmp.error("backup", backup_file=t.path("a.vma"), devlist="disk").cls,
          "DeviceInUse")
    assert not os.path.exists(t.path("a.vma"))
    assert not os.path.exists(t.path("s.qcow2"))
    jobs = {j["device"]: j for j in vm.qmp("query-block-jobs")}
    equal(jobs["disk"]["type"], "stream")
    equal(jobs["disk"]["speed"], 64 << 10)
    vm.qmp("block-job-set-speed", device="disk", speed=0)
    completed(vm)
    vm.qmp("block-job-cancel", device="other")
    vm.qmp.wait_event("BLOCK_JOB_CANCELLED")
    contains(vm.hmp("info block-stream"), "No active stream")
    vm.quit()


@test
def qemus_own_drives_have_qemus_arguments(t):
    """Ours refuse by name what they would have to ignore."""
    _, mid, top = chain(t)
    own = overlay(t, "own.qcow2", mid)
    vm = VM(t, guest=False, drives=[drive(top)], options=[
        "-blockdev", f"driver=qcow2,node-name=own,file.driver=file,file.filename={own}",
        "-device", "virtio-blk-pci,drive=own"]).start()
    equal(vm.qmp.error("block-stream", device="disk", base_node="own").cls, "NotSupported")
    contains(vm.qmp.error("block-stream", device="disk", auto_dismiss=False).desc,
             "'auto-dismiss'")
    vm.qmp("block-stream", device="own", job_id="job", on_error="stop", auto_dismiss=False)
    wait_for(lambda: vm.qmp("query-jobs")[0]["status"] == "concluded", "QEMU's job")
    vm.qmp("job-dismiss", id="job")
    vm.qmp("block-stream", device="disk", on_error="report", auto_dismiss=True)
    completed(vm)
    vm.quit()
    for image in own, top:
        equal("backing-filename" in info(t, image), False, image)


@test
def a_backup_refuses_what_would_change_the_drive(t):
    _, mid, top = chain(t)
    vm = VM(t, drives=[drive(top)], guest=False).start()
    vm.qmp("backup", backup_file=t.path("a.vma"), devlist="disk", speed=1024)
    for command, arguments in (
            ("block_stream", {}), ("block_resize", {"size": 32 * MIB}),
            ("blockdev-snapshot-sync", {"snapshot_file": t.path("s.qcow2")})):
        equal(vm.qmp.error(command, device="disk", **arguments).cls, "DeviceInUse")
    equal(vm.qmp("query-backup")["status"], "active")
    vm.qmp("backup-cancel")
    vm.qmp("block_stream", device="disk", base=mid)
    completed(vm)
    vm.quit()


@test
def the_same_in_the_human_monitor(t):
    """Speed, base, progress, cancel, errors: as with QMP."""
    base, _, top = chain(t)
    want = flat(t, top)
    vm = VM(t, drives=[drive(top)], guest=False).start()
    contains(vm.hmp("block_stream nope"), "Device 'nope' not found")
    contains(vm.hmp("block_stream_cancel disk"), "No active block job on device 'disk'")
    equal(vm.hmp("block_stream disk 64k"), "")
    equal(vm.qmp("query-block-jobs")[0]["speed"], 65536)
    contains(vm.hmp("block_stream disk"), "in use")
    contains(vm.hmp("info block-stream"), "Streaming device disk: Completed ")
    contains(vm.hmp("info block-stream"), f" of {16 * MIB} bytes")
    contains(vm.hmp("info block-jobs"), "speed limit 65536 bytes/s")
    equal(vm.hmp("block_job_set_speed disk 1k"), "")
    contains(vm.hmp("info block-jobs"), "speed limit 1024 bytes/s")
    equal(vm.hmp("block_job_cancel disk"), "")
    vm.qmp.wait_event("BLOCK_JOB_CANCELLED")
    contains(vm.hmp("info block-jobs"), "No active jobs")
    contains(vm.hmp("block_job_cancel nope"), "Block job 'nope' not found")
    equal(vm.hmp("block_stream disk 64k"), "")
    equal(vm.hmp("block_stream_cancel disk"), "")
    vm.qmp.wait_event("BLOCK_JOB_CANCELLED")
    contains(vm.hmp("info block-stream"), "No active stream")
    equal(vm.hmp(f"block_stream disk 0 {base}"), "")
    completed(vm)
    vm.quit()
    equal(info(t, top)["full-backing-filename"], base)
    check(t, top, want)


def chain_top2(t):
    base = pattern(t.path("base2.raw"), 4 * MIB, range(64), 0x44)
    return overlay(t, "top2.qcow2", base, 4 * MIB, "raw")


@test
def a_disk_that_fills_up_fails_the_stream_and_not_the_guest(t):
    _, mid, top = chain(t)
    want = flat(t, top)
    vm = VM(t, guest=False,
            drives=[drive(f"fault:write#4+=ENOSPC:{top}")]).start()
    vm.qmp("block_stream", device="disk")
    data = completed(vm)
    contains(data["error"], "No space left on device")
    assert data["offset"] < data["len"], data
    equal(vm.qmp("query-block-stream"), [])
    equal(vm.qmp("query-status")["status"], "prelaunch")
    vm.qmp("quit")
    vm.wait_exit()  # its last writes fail too
    equal(info(t, top)["full-backing-filename"], mid)
    t.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", top, want)


def be64(path, at):
    with open(path, "rb") as f:
        f.seek(at)
        return int.from_bytes(f.read(8), "big")


@test
def a_corrupt_image_is_told_of_once_and_marked(t):
    """An L2 entry points to the header: the guest gets an error for it, and from then
    on for every write; the event is QEMU's, and so is the bit in the image."""
    image = t.path("c.qcow2")
    t.run("qemu-img", "create", "-q", "-f", "qcow2", image, "4M")
    qemu_io(t, image, "write -P 0 0 4M")
    l2 = be64(image, be64(image, 40)) & ((1 << 56) - 1)
    with open(image, "r+b") as f:
        f.seek(l2 + 8 * 20)
        f.write((1 << 63).to_bytes(8, "big")[:1] + bytes(5) + b"\x02\x00")
    vm = VM(t, drives=[drive(image, extra=",werror=report,rerror=report")]).start()
    vm.guest.start("w", "shadow", 9, 1, "vda")
    data = vm.qmp.wait_event("BLOCK_IMAGE_CORRUPTED")["data"]
    equal(data["device"], "disk")
    equal(data["fatal"], True)
    contains(data["msg"], "L2 entry")
    equal(vm.qmp("query-status")["status"], "running")
    specific = vm.qmp("query-block")[0]["inserted"]["image"]["format-specific"]
    equal(specific["data"]["corrupt"], True)
    vm.qmp("quit")
    vm.wait_exit()
    equal([e for e in vm.qmp.events if e["event"] == "BLOCK_IMAGE_CORRUPTED"], [])
    equal(info(t, image)["format-specific"]["data"]["corrupt"], True)


@test
def two_streams_at_once_one_of_which_fails(t):
    """The guest reads and writes both drives meanwhile; what fails is only the
    stream whose file must not grow."""
    size = 8 * MIB
    bases = [pattern(t.path(f"base{i}.raw"), size, range(size // PIECE), byte)
             for i, byte in enumerate((0x44, 0))]
    tops = [overlay(t, f"top{i}.qcow2", base, size, "raw")
            for i, base in enumerate(bases)]
    for top in tops:  # where the guest writes there are clusters already
        qemu_io(t, top, f"write -P 0 0 {2 * MIB}")
    vm = VM(t, drives=[
        f"if=virtio,id=full,format=qcow2,file=fault:write/8192-99999=ENOSPC:{tops[0]}",
        drive(tops[1], "other")]).start()
    vm.guest.start("w", "shadow", 5, 2, "vdb")
    vm.guest.wait("w", 20)
    for name in ("full", "other"):
        vm.qmp("block_stream", device=name, speed=8 * MIB)
    events = {}
    while len(events) < 2:
        data = vm.qmp.wait_event("BLOCK_STREAM_COMPLETED")["data"]
        events[data["device"]] = data
    contains(events["full"]["error"], "No space left on device")
    assert "error" not in events["other"], events
    equal(vm.qmp("query-status")["status"], "running")
    vm.guest.wait("w", vm.guest.status("w").done + 50)
    vm.guest.stop("w")
    equal(vm.qmp("query-block-stream"), [])
    vm.qmp("quit")
    vm.wait_exit()
    equal(info(t, tops[0])["full-backing-filename"], bases[0])
    assert "backing-filename" not in info(t, tops[1])
    for top in tops:
        t.run("qemu-img", "check", "-q", "-f", "qcow2", top)


@test
def a_live_copy_of_a_running_disk(t):
    """snapshot_blkdev over a raw image that a guest writes, then block_stream:
    the new image stands alone, the old one is as it was at that instant."""
    vm = VM(t, sizes=[8 * MIB]).start()
    vm.guest.start("w", "shadow", 3, 4, "vda")
    vm.guest.wait("w", 50)
    new = t.path("copy.qcow2")
    equal(vm.hmp(f"snapshot_blkdev drive0 {new} qcow2"), "")
    at_instant = open(vm.images[0], "rb").read()
    count = vm.guest.status("w").done
    vm.guest.wait("w", count + 50)
    equal(vm.hmp("block_stream drive0"), "")
    completed(vm, "drive0")
    count = vm.guest.status("w").done
    vm.guest.wait("w", count + 50)
    vm.guest.stop("w")
    equal(open(vm.images[0], "rb").read(), at_instant)
    block = [b for b in vm.qmp("query-block") if b["device"] == "drive0"][0]
    equal(block["inserted"]["file"], new)
    vm.quit()
    assert "backing-filename" not in info(t, new)
    t.run("qemu-img", "check", "-q", "-f", "qcow2", new)


@test
def snapshots_that_cannot_be(t):
    vm = VM(t, sizes=[MIB], guest=False).start()
    there = make_image(t.path("there"), 5)
    contains(str(vm.qmp.error("blockdev-snapshot-sync", device="drive0",
                              snapshot_file=there)), "exists")
    equal(os.path.getsize(there), 5)
    error = vm.qmp.error("blockdev-snapshot-sync", device="drive0",
                         snapshot_file=t.path("x"), format="raw")
    assert not os.path.exists(t.path("x")), error
    contains(str(vm.qmp.error("blockdev-snapshot-sync", device="drive0",
                              snapshot_file="/nowhere/x")), "No such file")
    small = t.path("small")
    t.run("qemu-img", "create", "-q", "-f", "qcow2", small, "512k")
    contains(str(vm.qmp.error("blockdev-snapshot-sync", device="drive0",
                              snapshot_file=small, mode="existing")), "bytes")
    vm.quit()


main()
