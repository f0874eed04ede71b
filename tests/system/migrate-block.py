#!/usr/bin/python3
# timeout: 900
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest moves together with its drives, to images that are the destination's own:
what it wrote at any moment is there, and it goes on as if nothing had been."""

import os

from lib.migration import arrived, ended, go_on, same_ram, source
from lib.tap import contains, equal, main, test, wait_for
from lib.vm import VM

MIB = 1 << 20
SECTOR = 512
SEED = 5


def destination(t, src, uri, name="dst", sizes=None, **changes):
    """A VM like src with images of its own that waits at uri."""
    options = dict(src.given, name=name, **{"sidecar": True, **changes})
    options["options"] = [*options.get("options", ()), "-S", "-incoming", uri]
    dst = VM(t, sizes=src.sizes if sizes is None else sizes, **options)
    dst.given = src.given
    dst.start(wait=False)
    dst.qmp("query-status")
    return dst


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


@test(limit=240)
def a_writing_guest_moves_with_its_drive(t):
    src = busy(t)
    path = t.path("migrate.sock")
    dst = destination(t, src, "unix:" + path)
    info = arrives(src, dst, "unix:" + path, blk=True)
    same_file(src.images[0], dst.images[0])
    disk = info["disk"]
    equal(disk["total"], 8 * MIB + 7 * SECTOR, "total")
    equal(disk["remaining"], 0, "remaining")
    equal(disk["transferred"] >= disk["normal-bytes"] > 0, True, str(disk))
    go_on(src, dst)
    checked(dst)
    src.quit()
    dst.quit()


if __name__ == "__main__":
    main()
