#!/usr/bin/python3
# timeout: 900
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest moves together with its drives, to images that are the destination's own:
what it wrote at any moment is there, and it goes on as if nothing had been."""

import os

from lib.guest import make_image
from lib.migration import arrived, destination, ended, go_on, gone_with, same_ram, source
from lib.tap import contains, equal, main, test, wait_for

MIB = 1 << 20
SECTOR = 512
SEED = 5


def busy(t, size=8 * MIB + 7 * SECTOR, **options):
    """A guest that writes to memory and to its first drive, and checks both."""
    src = source(t, sizes=[size], **options)
    src.guest.start("disk", "shadow", SEED, 3, "vda")
    src.guest.start("memory", "memory", 8, 3, "sparse")
    src.guest.wait("disk", 300)
    return src


def same_file(a, b):
    with open(a, "rb") as fa, open(b, "rb") as fb:
        offset = 0
        while True:
            x, y = fa.read(65536), fb.read(65536)
            if x != y:
                at = next((i for i in range(min(len(x), len(y))) if x[i] != y[i]),
                          min(len(x), len(y)))
                raise AssertionError(f"{a} and {b} differ at {offset + at:#x}")
            if not x:
                return
            offset += len(x)


def arrives(src, dst, uri, **arguments):
    """From running at src to running at dst; what query-migrate said."""
    src.qmp("migrate", uri=uri, **arguments)
    info = ended(src)
    arrived(dst)
    same_ram(src, dst)
    return info


def checked(dst):
    """The guest has found, and finds at the end, what it wrote."""
    for job in ("disk", "memory"):
        before = dst.guest.status(job)
        equal(before.errors, 0, str(before))
        dst.guest.wait(job, before.done + 200)
        dst.guest.stop(job)


def arrived_whole(src, dst):
    """What has come is what was there, and the guest goes on with it."""
    arrived(dst)
    same_file(src.images[0], dst.images[0])
    go_on(src, dst)
    checked(dst)
    src.quit()
    dst.quit()


def then_whole(t, src, name="good", **changes):
    """It moves, and nothing is lost."""
    path = t.path(name + ".sock")
    src.qmp("migrate_set_speed", value=0)
    dst = destination(t, src, "unix:" + path, name=name, **changes)
    info = arrives(src, dst, "unix:" + path, blk=True)
    arrived_whole(src, dst)
    return info


@test(limit=240)
def a_writing_guest_moves_with_its_drive(t):
    disk = then_whole(t, busy(t))["disk"]
    equal(disk["total"], 8 * MIB + 7 * SECTOR, "total")
    equal(disk["remaining"], 0, "remaining")
    equal(disk["transferred"] >= disk["normal-bytes"] > 0, True, str(disk))


def qcow2(t, name, size, base=None):
    path = t.path(name)
    more = ["-b", base, "-F", "raw"] if base else []
    t.run("qemu-img", "create", "-q", "-f", "qcow2", *more, path, str(size))
    return path


def drive(path, name="drive0", form="qcow2", more=""):
    return f"file={path},format={form},if=virtio,id={name}{more}"


@test(limit=240)
def only_what_lies_above_the_backing_file(t):
    size = 8 * MIB
    base = t.path("base.raw")
    with open(base, "wb") as f:
        f.write(os.urandom(size))
    mine, theirs = qcow2(t, "src.qcow2", size, base), qcow2(t, "dst.qcow2", size, base)
    src = source(t, drives=[drive(mine)])
    src.guest.run("dd if=/dev/urandom of=/dev/vda bs=4096 seek=600 count=8 conv=fsync")
    src.guest.start("memory", "memory", 8, 3, "sparse")
    path = t.path("migrate.sock")
    dst = destination(t, src, "unix:" + path, drives=[drive(theirs)])
    src.qmp("migrate", uri="unix:" + path, inc=True)
    info = ended(src)
    arrived(dst)
    equal(info["disk"]["normal"], 1, "chunks sent")
    equal(info["disk"]["skipped"], size // MIB - 1, "chunks left out")
    go_on(src, dst)
    dst.guest.stop("memory")
    src.quit()
    dst.quit()
    for image in (mine, theirs):
        t.run("qemu-img", "check", "-q", image)
    t.run("qemu-img", "compare", "-q", mine, theirs)
    equal(os.path.getsize(theirs) < 3 * MIB, True, "the image stayed small")


@test(limit=240)
def a_backing_file_is_needed_for_that(t):
    src = busy(t)
    src.qmp("migrate", uri="exec:cat > /dev/null", inc=True)
    contains(ended(src, "failed")["error-desc"], "backing file")
    contains(src.hmp("migrate -i exec:cat>/dev/null"), "backing file")
    src.qmp("migrate-set-capabilities", capabilities=[{"capability": "block", "state": True}])
    src.qmp("migrate-set-parameters", **{"block-incremental": True})
    src.qmp("migrate", uri="exec:cat > /dev/null")
    contains(ended(src, "failed")["error-desc"], "backing file")
    equal(src.qmp("query-migrate-parameters")["block-incremental"], True)
    equal({"capability": "block", "state": True} in
          src.qmp("query-migrate-capabilities"), True)
    checked(src)
    src.quit()


@test(limit=300)
def to_a_plain_qemu(t):
    then_whole(t, busy(t, 8 * MIB), sidecar=False)  # 7.2 takes data in whole chunks only


@test(limit=300)
def from_a_plain_qemu(t):
    src = busy(t, sidecar=False)
    path = t.path("migrate.sock")
    dst = destination(t, src, "unix:" + path)
    # its own log of memory is not to be trusted in many rounds
    src.guest.stop("memory")
    src.guest.stop("disk")
    src.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
    arrives(src, dst, "unix:" + path, blk=True)
    same_file(src.images[0], dst.images[0])
    go_on(src, dst)
    dst.guest.start("disk", "shadow", SEED, 3, "vda")
    dst.quit()
    src.quit()


@test(limit=300)
def from_a_plain_qemu_above_the_backing_file(t):
    size = 4 * MIB
    base = t.path("base.raw")
    with open(base, "wb") as f:
        f.write(os.urandom(size))
    mine, theirs = qcow2(t, "src.qcow2", size, base), qcow2(t, "dst.qcow2", size, base)
    src = source(t, drives=[drive(mine)], sidecar=False)
    src.guest.run("dd if=/dev/urandom of=/dev/vda bs=4096 seek=300 count=8 conv=fsync")
    path = t.path("migrate.sock")
    dst = destination(t, src, "unix:" + path, drives=[drive(theirs)])
    src.qmp("migrate", uri="unix:" + path, inc=True)
    ended(src)
    arrived(dst)
    go_on(src, dst)
    src.quit()
    dst.quit()
    t.run("qemu-img", "check", "-q", theirs)
    t.run("qemu-img", "compare", "-q", mine, theirs)
    equal(os.path.getsize(theirs) < 2 * MIB, True, "the image stayed small")


@test(limit=300)
def a_plain_qemu_takes_no_part_of_a_chunk(t):
    """As docs/specs/block-migration.txt says of 7.2; the source goes on."""
    src = source(t, sizes=[2 * MIB + SECTOR])
    src.guest.run(f"dd if=/dev/urandom of=/dev/vda seek={2 * MIB // SECTOR} conv=fsync", None)
    path = t.path("migrate.sock")
    dst = destination(t, src, "unix:" + path, sidecar=False)
    src.qmp("migrate", uri="unix:" + path, blk=True)
    ended(src, "failed")
    equal(dst.wait_exit(), 1, "exit status")
    src.guest.run("dd if=/dev/urandom of=/dev/vda count=1 conv=fsync")
    src.quit()


def fails(src, uri, *words, **arguments):
    """The attempt fails with these words and the guest goes on."""
    src.qmp("migrate", uri=uri, **{"blk": True, **arguments})
    info = ended(src, "failed")
    for word in words:
        contains(info["error-desc"], word)
    equal("stays stopped" in info["error-desc"], False, info["error-desc"])
    goes_on(src)


def goes_on(src):
    for job in ("disk", "memory"):
        before = src.guest.status(job)
        equal(before.errors, 0, str(before))
        src.guest.wait(job, before.done + 100)


@test(limit=300)
def cancelled_in_the_middle_and_again(t):
    src = busy(t, 12 * MIB + 7 * SECTOR)
    src.qmp("migrate_set_speed", value=2 * MIB)
    for i in range(2):
        path = t.path(f"{i}.sock")
        dst = destination(t, src, "unix:" + path, name=f"dst{i}")
        src.qmp("migrate", uri="unix:" + path, blk=True)
        wait_for(lambda: src.qmp("query-migrate").get("disk", {}).get("normal", 0) >= 2,
                 "some of the drive to be sent")
        error = src.qmp.error("block_resize", device="drive0", size=16 * MIB)
        equal(error.cls, "DeviceInUse", "class of the error")
        src.qmp("migrate_cancel")
        ended(src, "cancelled")
        equal(dst.wait_exit(), 1, "exit status")
        goes_on(src)
    then_whole(t, src)


@test(limit=300)
def a_wrong_image_is_refused(t):
    src = busy(t)
    right = src.sizes[0]
    # too small: the first chunk behind its end may come before the length does
    for name, word, changes in (
            ("small", f"{4 * MIB} here", {"sizes": [4 * MIB]}),
            ("large", "length mismatch", {"sizes": [right + SECTOR]}),
            ("none", "drive0", {"sizes": []}),
            ("other", "drive0", {"sizes": [], "drives": [
                f"file={src.images[0]}.x,format=raw,if=virtio,id=other"]})):
        if name == "other":
            with open(src.images[0] + ".x", "wb") as f:
                f.truncate(right)
        path = t.path(name + ".sock")
        dst = destination(t, src, "unix:" + path, name=name, **changes)
        fails(src, "unix:" + path)
        gone_with(dst, word)
    # what is shared need not be copied, and must not
    path = t.path("same.sock")
    dst = destination(t, src, "unix:" + path, name="same", sizes=[],
                      drives=[drive(src.images[0], form="raw")])
    fails(src, "unix:" + path)
    gone_with(dst, "lock")
    then_whole(t, src)


@test(limit=300)
def a_full_disk_over_there(t):
    src = busy(t)
    image = t.path("full.raw")
    for i, rule in enumerate(("write#4+=ENOSPC", "flush=EIO")):
        with open(image, "wb") as f:
            f.truncate(src.sizes[0])
        path = t.path(f"{i}.sock")
        dst = destination(t, src, "unix:" + path, name=f"full{i}", sizes=[],
                          drives=[drive(f"fault:{rule}:{image}", form="raw")])
        fails(src, "unix:" + path)
        equal(dst.wait_exit(), 1, "exit status")
        contains(dst.stderr(), "drive 'drive0'")
    then_whole(t, src)


@test(limit=300)
def as_a_human_does_it(t):
    src = busy(t)
    path = t.path("migrate.sock")
    dst = destination(t, src, "unix:" + path)
    equal(src.hmp(f"migrate -b unix:{path}"), "")  # waits
    text = src.hmp("info migrate")
    for line in ("Migration status: completed", "transferred disk: ", "remaining disk: 0 kbytes",
                 f"total disk: {src.sizes[0] >> 10} kbytes"):
        contains(text, line)
    arrived_whole(src, dst)


@test(limit=240)
def by_way_of_a_file(t):
    src = busy(t)
    path = t.path("stream")
    src.qmp("migrate", uri=f"exec:cat > {path}", blk=True)
    ended(src)
    dst = destination(t, src, f"exec:cat {path}")
    arrived_whole(src, dst)


@test(limit=300)
def a_guest_that_writes_faster_than_is_sent(t):
    """It is said in words; with more bandwidth it gets through, two drives at once."""
    src = busy(t, 8 * MIB, drives=[f"file={make_image(t.path('b.raw'), 2 * MIB + SECTOR)},"
                                   "format=raw,if=virtio,id=drive1,discard=unmap"])
    src.guest.start("second", "shadow", SEED + 1, 2, "vdb")
    src.guest.wait("second", 100)
    path = t.path("migrate.sock")
    theirs = make_image(t.path("b2.raw"), 2 * MIB + SECTOR)
    dst = destination(t, src, "unix:" + path,
                      drives=[f"file={theirs},format=raw,if=virtio,id=drive1,discard=unmap"])
    src.qmp("migrate_set_speed", value=24 * MIB)
    src.qmp("migrate_set_downtime", value=0.02)
    src.qmp("migrate", uri="unix:" + path, blk=True)
    contains(wait_for(lambda: src.qmp("query-migrate").get("stall"), "a stall to be said"),
             "writes to its drives faster")
    contains(src.hmp("info migrate"), "raise max-bandwidth")
    src.qmp("migrate_set_speed", value=0)
    src.qmp("migrate_set_downtime", value=2)
    equal(ended(src)["disk"]["total"], 10 * MIB + SECTOR, "total")
    arrived(dst)
    same_file(src.images[0], dst.images[0])
    same_file(t.path("b.raw"), theirs)
    go_on(src, dst)
    dst.guest.stop("second")
    checked(dst)
    src.quit()
    dst.quit()


if __name__ == "__main__":
    main()
