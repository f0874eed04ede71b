"""Backups from a test's point of view.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os

from .sequence import Sequence, check_cut
from .tap import SOON, equal, program, wait_for


def wait_backup(qmp, status="done", deadline=SOON):
    """Until no backup is active; its last status must be this one."""
    def ended():
        info = qmp("query-backup")
        return info if info.get("status") != "active" else None
    info = wait_for(ended, "the end of the backup", deadline)
    if info.get("status") != status:
        raise AssertionError(f"the backup ended as {info}")
    if status == "done":
        equal(info["transferred"], info["total"], "transferred at the end")
    return info


def backup(vm, path, deadline=SOON, **arguments):
    """A whole backup; what query-backup says at the end."""
    vm.qmp("backup", backup_file=path, **arguments)
    return wait_backup(vm.qmp, deadline=deadline)


def extract(case, archive, name="restored"):
    """The folder with the extracted images; verifies first."""
    case.run(program("vma"), "verify", archive)
    folder = case.path(name)
    case.run(program("vma"), "extract", archive, folder)
    return folder


def image(folder, device):
    return os.path.join(folder, f"disk-{device}.raw")


class Cut:
    """The proof for one backup: before() just before the command, after() just
    after its answer, check() with the archive."""

    def __init__(self, guest, seed, max_sectors, sizes, job="seq"):
        self.guest, self.job = guest, job
        self.seed, self.max, self.sizes = seed, max_sectors, sizes
        self.low = self.high = 0

    def start(self, *drives, discard=False):
        sequence = Sequence(self.seed, self.max, self.sizes)
        self.guest.start(self.job, *sequence.job(*drives, discard=discard))

    def before(self):
        self.low = self.guest.status(self.job).done

    def after(self):
        self.high = self.guest.status(self.job).started

    def check(self, paths):
        return check_cut(Sequence(self.seed, self.max, self.sizes), paths,
                         self.low, self.high)


def leftovers(folder, *expected):
    """Names in a folder that nobody expects: half archives, temporary files."""
    return sorted(set(os.listdir(folder)) - set(expected))
