#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""Live snapshots of several drives at one instant, and what QEMU must not do to
a drive of the sidecar behind its back: an image that QEMU puts over it would get
the guest's writes, and no backup would see them."""

import json
import os

from lib.backup import Cut, leftovers
from lib.guest import make_image
from lib.migration import arrived, ended
from lib.tap import contains, equal, main, test, writer_of
from lib.vm import VM

MIB = 1 << 20
SIZES = [2 * MIB, MIB + 512 * 11, MIB]
DRIVES = ["vda", "vdb", "vdc"]


def action(device, path, **more):
    return {"type": "blockdev-snapshot-sync",
            "data": {"device": device, "snapshot-file": path, **more}}


def transaction(vm, *actions):
    return vm.qmp.receive(vm.qmp.send("transaction", {"actions": list(actions)}))


def refused(vm, *actions):
    try:
        transaction(vm, *actions)
    except vm.qmp_error as error:
        return error
    raise AssertionError(f"{actions} were not refused")


def info(t, path):
    return json.loads(t.run("qemu-img", "info", "-U", "--output=json", path))


def images(vm):
    return {b["device"]: b["inserted"]["file"] for b in vm.qmp("query-block")}


@test
def a_transaction_is_one_instant_of_all_drives(t):
    vm = VM(t, sizes=SIZES).start()
    cut = Cut(vm.guest, 77, 100, SIZES)
    cut.start(*DRIVES)
    below = vm.images
    for i in range(2):
        vm.guest.wait("seq", vm.guest.status("seq").done + 100)
        over = [t.path(f"over{i}-{d}.qcow2") for d in range(3)]
        cut.before()
        equal(transaction(vm, *(action(f"drive{d}", over[d]) for d in range(3))), {})
        cut.after()
        vm.guest.wait("seq", cut.high + 100)
        flat = [t.path(f"flat{i}-{d}") for d in range(3)]
        for d in range(3):
            t.run("qemu-img", "convert", "-U", "-O", "raw", "-f",
                  "qcow2" if i else "raw", below[d], flat[d])
            equal(info(t, over[d])["full-backing-filename"], below[d])
        cut.check(flat)
        below = over
    vm.guest.stop("seq")
    vm.quit()
    for path in below:
        t.run("qemu-img", "check", "-q", path)


@test
def all_drives_or_none(t):
    vm = VM(t, sizes=SIZES[:2], guest=False).start()
    before = images(vm)
    there = make_image(t.path("there"), 5)
    names = os.listdir(t.dir)
    for bad in (action("drive1", there), action("drive1", t.path("no/where")),
                action("drive1", t.path("b"), format="raw"),
                action("drive1", t.path("b"), mode="neither"),
                action("drive1", t.path("b"), colour="blue"),
                action("drive0", t.path("b")), {"type": "abort", "data": {}},
                {"type": "blockdev-snapshot-sync", "data": {"device": "drive1"}},
                {"type": "blockdev-snapshot-sync", "data": 5}, 7, {}):
        for order in (1, -1):
            error = refused(vm, *[action("drive0", t.path("a")), bad][::order])
            equal(leftovers(t.dir, *names), [], str(error))
    equal(images(vm), before)
    equal(transaction(vm, action("drive0", t.path("a")), action("drive1", t.path("b"))), {})
    equal(images(vm), {"drive0": t.path("a"), "drive1": t.path("b")})
    vm.quit()


@test
def qemus_own_drives_have_qemus_transactions(t):
    """As without the sidecar, with QEMU's words for what is wrong."""
    own = f"if=none,id=own,format=raw,snapshot=on,file={make_image(t.path('own'), MIB)}"
    replies = []
    for sidecar in (True, False):
        vm = VM(t, drives=[own], guest=False, sidecar=sidecar,
                name=f"vm{sidecar}").start()
        mine = []
        for actions in ([], [action("own", t.path(f"o{sidecar}"))],
                        [{"type": "abort", "data": {}}], [action("nix", t.path("x"))],
                        [{"type": "nix", "data": {}}]):
            try:
                mine.append(transaction(vm, *actions))
            except vm.qmp_error as error:
                mine.append((error.cls, error.desc))
        replies.append(mine)
        vm.quit()
    equal(replies[0], replies[1])


@test
def qemu_puts_no_image_over_a_drive_of_the_sidecar(t):
    vm = VM(t, sizes=[MIB], guest=False).start()
    over = t.path("over.qcow2")
    t.run("qemu-img", "create", "-q", "-f", "qcow2", over, str(MIB))
    vm.qmp("blockdev-add", driver="qcow2", node_name="over",
           file={"driver": "file", "filename": over}, backing=None)
    node = vm.qmp("query-block")[0]["inserted"]["node-name"]
    for name in ("drive0", node):
        data = {"node": name, "overlay": "over"}
        error = vm.qmp.error("blockdev-snapshot", **data)
        equal(error.cls, "NotSupported")
        contains(error.desc, "drive0")
        error = refused(vm, {"type": "blockdev-snapshot", "data": data})
        contains(error.desc, "drive0")
    equal(images(vm), {"drive0": vm.images[0]})
    vm.quit()


@test
def names_with_a_protocol_and_in_other_folders(t):
    """The chain can be opened again, from anywhere."""
    vm = VM(t, drives=[f"if=virtio,id=d,format=raw,file=file:{make_image(t.path('a'), MIB)}"],
            guest=False).start()
    vm.qmp("blockdev-snapshot-sync", device="d", snapshot_file=f"file:{t.path('b')}")
    vm.qmp("blockdev-snapshot-sync", device="d", snapshot_file=f"file:{t.path('c')}")
    vm.quit()
    equal([info(t, t.path(x))["full-backing-filename"] for x in "bc"],
          [t.path("a"), t.path("b")])
    t.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", t.path("c"), t.path("a"))


@test
def a_guest_does_not_wait_for_a_slow_disk(t):
    image, fifo = make_image(t.path("image"), MIB), t.path("fifo")
    os.mkfifo(fifo)
    vm = VM(t, drives=[f"file=fault:flush#1=wait({fifo}):{image},format=raw,if=virtio,id=d"]).start()
    vm.guest.run("dd if=/dev/urandom of=/dev/vda bs=4096 count=4")
    answer = vm.qmp.send("blockdev-snapshot-sync", {"device": "d", "snapshot-file": t.path("over")})
    with open(writer_of(fifo), "wb"):
        vm.guest.run("dd if=/dev/urandom of=/dev/vda bs=4096 count=4 seek=8")
    vm.qmp.receive(answer)
    vm.guest.run("dd if=/dev/urandom of=/dev/vda bs=4096 count=4 seek=16")
    equal(images(vm), {"d": t.path("over")})
    vm.quit()


@test
def onto_a_file_that_is_there(t):
    """An empty one is taken as it is, with its owner and mode, and is empty again
    when something fails; any other is refused and not touched."""
    vm = VM(t, sizes=[MIB, MIB], guest=False).start()
    prepared, full = t.path("prepared"), t.path("full")
    open(prepared, "x").close()
    os.chmod(prepared, 0o640)
    before = os.stat(prepared)
    with open(full, "wb") as f:
        f.write(b"precious")
    contains(str(refused(vm, action("drive0", prepared), action("drive1", full))), "File exists")
    equal((os.path.getsize(prepared), open(full, "rb").read()), (0, b"precious"))
    contains(str(refused(vm, action("drive0", prepared, format="raw"))), "raw")
    equal(os.path.getsize(prepared), 0)
    vm.qmp("blockdev-snapshot-sync", device="drive0", snapshot_file=prepared)
    equal(images(vm), {"drive0": prepared, "drive1": vm.images[1]})
    after = os.stat(prepared)
    equal((after.st_ino, after.st_mode), (before.st_ino, before.st_mode))
    vm.quit()
    equal(info(t, prepared)["full-backing-filename"], vm.images[0])


def with_lists(t, name, *options):
    """An image with internal snapshots, over one that has some too; and bitmaps,
    if it can have any."""
    path = t.path(name)
    t.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options), path, "1M")
    for i, snapshot in enumerate(("one", "zwei ü", "a name longer than its column " * 3)):
        t.run("qemu-io", "-f", "qcow2", "-c", f"write -P {i + 1} {i}k 70k", path)
        t.run("qemu-img", "snapshot", "-c", snapshot, path)
    if "compat=v2" not in options:
        for i, more in enumerate(([], ["--disable"], ["-g", "4096"])):
            t.run("qemu-img", "bitmap", "--add", *more, path, f"b{i}")
    return path


def shown(t, sidecar, images, extra):
    """What monitors say of the images, put into one form."""
    vm = VM(t, guest=False, sidecar=sidecar, name=f"vm{sidecar}",
            drives=[f"if=virtio,id=d{i},format=qcow2,file={image}{extra}"
                    for i, image in enumerate(images)]).start()
    result = []
    for block in vm.qmp("query-block"):
        image = block["inserted"]["image"]
        while image:
            image.pop("actual-size")
            image = image.get("backing-image")
        result.append(block["inserted"]["image"])
    text = "".join(line for line in vm.qmp.hmp("info block -v").splitlines(True)
                   if "(#block" not in line and not line.startswith("disk size"))
    vm.quit()
    return result, text


@test
def internal_snapshots_and_bitmaps_are_listed_as_by_qemu(t):
    base = with_lists(t, "base", "compat=v2")
    images = [base, with_lists(t, "v3", "compat=v3", "cluster_size=4k"),
              with_lists(t, "top", f"backing_file={with_lists(t, 'mid', 'compat=v3')}",
                         "backing_fmt=qcow2", "refcount_bits=64,lazy_refcounts=on")]
    for extra in (",readonly=on", ""):
        want, want_text = shown(t, False, images, extra)
        got, text = shown(t, True, images, extra)
        equal(got, want, "query-block")
        equal(text, want_text, "info block -v")
        for image, count in zip(got, (3, 3, 3)):
            equal(len(image["snapshots"]), count)
    equal([b["flags"] for b in got[1]["format-specific"]["data"]["bitmaps"]],
          [["in-use", "auto"], ["in-use"], ["in-use", "auto"]])


def qemu_io(vm, command):
    """Only mistakes come back; what it does is said on QEMU's stdout."""
    equal(vm.qmp.hmp(f'qemu-io drive0 "{command}"').strip(), "", command)


@test
def what_lies_below_is_there_when_images_come_back(t):
    """The images were given away by a migration into a file, and the guest goes
    on here."""
    vm = VM(t, sizes=[MIB], guest=False).start()
    qemu_io(vm, "write -P 7 0 128k")
    for i in range(2):
        path = t.path(f"over{i}")
        vm.qmp("blockdev-snapshot-sync", device="drive0", snapshot_file=path,
               format="qcow2")
        vm.qmp("migrate", uri="exec:cat >/dev/null")
        ended(vm)
        vm.qmp("cont")
        qemu_io(vm, f"write -P 8 {(i + 1) * 4}k 4k")
    vm.quit()
    t.run("qemu-io", "-f", "qcow2", "-c", "read -P 7 0 4k", "-c", "read -P 8 4k 8k",
          "-c", "read -P 7 12k 116k", path)


@test
def what_lies_below_is_handed_over(t):
    src = VM(t, sizes=[MIB], guest=False, name="src").start()
    qemu_io(src, "write -P 7 0 128k")
    path, uri = t.path("over"), "unix:" + t.path("socket")
    src.qmp("blockdev-snapshot-sync", device="drive0", snapshot_file=path, format="qcow2")
    dst = VM(t, drives=[f"file={path},format=qcow2,if=virtio,id=drive0"], guest=False,
             name="dst", options=["-incoming", uri]).start(wait=False)
    dst.qmp("query-status")
    src.qmp("migrate", uri=uri)
    ended(src)
    arrived(dst)
    qemu_io(dst, "write -P 8 8k 4k")
    dst.quit()
    src.quit()
    t.run("qemu-io", "-f", "qcow2", "-c", "read -P 7 0 8k", "-c", "read -P 8 8k 4k",
          "-c", "read -P 7 12k 116k", path)


main()
