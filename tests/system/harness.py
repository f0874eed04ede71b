#!/usr/bin/python3
# timeout: 240
# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests' own tools, tried on a plain QEMU: a tool that cannot fail proves
nothing."""

import os

from lib.guest import make_image
from lib.sequence import SECTOR, Sequence, check_cut
from lib.tap import contains, equal, main, test
from lib.vm import VM

SIZES = [1 << 20, (2 << 20) + 5 * SECTOR]


def written(t, upto, name="image"):
    """Images as the guest would have left them after an operation."""
    sequence = Sequence(7, 200, SIZES)
    sequence.advance(upto)
    paths = []
    for i, drive in enumerate(sequence.drives):
        paths.append(t.path(f"{name}-{i}"))
        with open(paths[-1], "wb") as f:
            for n in drive:
                f.write(n.to_bytes(8, "little") * 64)
    return paths


def refused(t, paths, low, high, why):
    try:
        n = check_cut(Sequence(7, 200, SIZES), paths, low, high)
    except AssertionError as error:
        contains(str(error), why)
    else:
        raise AssertionError(f"taken for a cut at {n}")


@test
def the_proof_finds_the_operation_of_a_cut(t):
    for n in (1, 50, 51, 52, 53, 54, 55, 333):
        found = check_cut(Sequence(7, 200, SIZES), written(t, n), n, n)
        equal(found, n)


@test
def the_proof_refuses_what_is_no_cut(t):
    old, new = written(t, 300, "old"), written(t, 340, "new")
    refused(t, [new[0], old[1]], 250, 400, "no cut")  # two instants
    refused(t, new, 250, 320, "only 320 had begun")   # something later
    refused(t, old, 330, 400, "stop at operation 300")  # something missing
    with open(new[1], "r+b") as f:                    # one sector of old data
        f.seek(sector_of(new[1], 338) * SECTOR)
        f.write((12).to_bytes(8, "little") * 64)
    refused(t, new, 250, 400, "drive 1: 1 sectors")
    with open(new[0], "r+b") as f:                    # half a sector
        f.write(b"x" * 256)
    refused(t, new, 250, 400, "torn")


def sector_of(path, at_most):
    """The sector that holds the highest number up to this."""
    with open(path, "rb") as f:
        data = f.read()
    held = [int.from_bytes(data[i:i + 8], "little") for i in range(0, len(data), SECTOR)]
    return held.index(max(n for n in held if n <= at_most))


@test
def the_guests_sequence_is_the_one_that_the_host_computes(t):
    vm = VM(t, sizes=SIZES, sidecar=False).start()
    sequence = Sequence(11, 300, SIZES)
    vm.guest.start("s", *sequence.job("vda", "vdb"))
    vm.guest.wait("s", 400)
    status = vm.guest.stop("s")
    vm.quit()
    equal(check_cut(sequence, vm.images, status.done, status.started), status.done)


@test
def the_shadow_writer_agrees_with_the_image(t):
    import zlib
    vm = VM(t, sizes=[4 << 20], sidecar=False, drive_options=",discard=unmap").start()
    vm.guest.start("w", "shadow", 5, 4, "vda")
    vm.guest.wait("w", 400)
    status = vm.guest.stop("w")
    vm.quit()
    with open(vm.images[0], "rb") as f:
        equal(zlib.crc32(f.read()), status.crc32, "CRC-32 of the image")


@test
def the_shadow_writer_notices_a_changed_image(t):
    vm = VM(t, sizes=[1 << 20], sidecar=False, drive_options=",cache=none").start()
    vm.guest.start("w", "shadow", 5, 2, "vda")
    vm.guest.wait("w", 200)
    with open(vm.images[0], "r+b") as f:
        f.write(b"\xee" * (1 << 20))
    try:
        status = vm.guest.stop("w")
    except AssertionError as error:
        contains(str(error), "want generation")
    else:
        raise AssertionError(f"noticed nothing: {status}")


@test
def monitors_answer_and_a_vm_ends(t):
    vm = VM(t, sizes=[1 << 20], sidecar=False, guest=False).start()
    equal(vm.qmp("query-status")["status"], "prelaunch")
    contains(vm.hmp("info block"), "drive0")
    equal(vm.qmp.error("no-such-command").cls, "CommandNotFound")
    vm.quit()
    equal(os.path.getsize(make_image(t.path("x"), 3)), 3)


main()
