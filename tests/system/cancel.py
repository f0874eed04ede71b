#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups cancelled at every point, and started again a hundred times."""

import os

from lib.backup import backup, extract, leftovers, wait_backup
from lib.tap import contains, equal, main, test, wait_for
from lib.vm import VM

SIZE = 4 << 20
ROUNDS = 1000 if os.environ.get("SIDECAR_TEST_LONG") else 100


def paused_vm(t, data=True):
    vm = VM(t, sizes=[SIZE], guest=False)
    if data:
        with open(vm.images[0], "wb") as f:
            f.write(os.urandom(SIZE))
    return vm.start()


@test(limit=200)
def cancelled_and_started_again_a_hundred_times(t):
    vm = paused_vm(t)
    out = t.path("out")
    os.mkdir(out)
    uuids = set()
    for i in range(ROUNDS):
        uuids.add(vm.qmp("backup", backup_file=out + "/a.vma", speed=1 << 20))
        if i % 3:  # at different points: at once, or some way in
            wait_for(lambda i=i: vm.qmp("query-backup")["transferred"] >= (i % 7) * 65536,
                     "progress", interval=0.002)
        vm.qmp("backup-cancel")
        equal(vm.qmp("query-backup")["status"], "cancelled")
        equal(leftovers(out), [], f"files after cancelling {i}")
    equal(len(uuids), ROUNDS, "different uuids")
    backup(vm, out + "/a.vma")
    extract(t, out + "/a.vma")
    vm.quit()


@test
def cancelling_nothing_succeeds(t):
    vm = paused_vm(t, data=False)
    equal(vm.qmp("query-backup"), {}, "query-backup before any")
    vm.qmp("backup-cancel")
    vm.qmp("backup_cancel")
    backup(vm, t.path("a.vma"))
    vm.qmp("backup-cancel")  # ended already
    equal(vm.qmp("query-backup")["status"], "done")
    if not os.path.exists(t.path("a.vma")):
        raise AssertionError("backup-cancel removed a complete archive")
    vm.quit()


@test
def a_second_backup_is_refused_while_one_runs(t):
    vm = paused_vm(t)
    vm.qmp("backup", backup_file=t.path("a.vma"), speed=1 << 20)
    vm.qmp.error("backup", backup_file=t.path("b.vma"))
    equal(os.path.exists(t.path("b.vma")), False, "b.vma exists")
    vm.qmp("backup-cancel")
    wait_backup(vm.qmp, "cancelled")
    backup(vm, t.path("b.vma"))
    vm.quit()


@test
def a_backup_to_a_command_that_never_reads_can_be_cancelled(t):
    vm = paused_vm(t)
    vm.qmp("backup", backup_file="exec:exec sleep 1000")
    vm.qmp("backup-cancel")
    wait_backup(vm.qmp, "cancelled")
    vm.quit()


@test
def a_backup_to_a_fifo_that_nobody_reads_can_be_cancelled(t):
    vm = paused_vm(t)
    os.mkfifo(t.path("fifo"))
    reader = os.open(t.path("fifo"), os.O_RDONLY | os.O_NONBLOCK)
    t.defer(os.close, reader)
    vm.qmp("backup", backup_file=t.path("fifo"))
    vm.qmp("backup-cancel")
    wait_backup(vm.qmp, "cancelled")
    equal(os.path.exists(t.path("fifo")), True, "the fifo is still there")
    vm.quit()


@test
def hmp_starts_shows_and_cancels_a_backup(t):
    vm = paused_vm(t)
    equal(vm.hmp(f"backup {t.path('a.vma')} 1m").strip(), "")
    contains(vm.hmp("info backup"), "active")
    equal(vm.hmp("backup_cancel").strip(), "")
    contains(vm.hmp("info backup"), "cancelled")
    equal(os.path.exists(t.path("a.vma")), False, "a.vma exists")
    equal(vm.hmp(f"backup {t.path('a.vma')}").strip(), "")
    wait_backup(vm.qmp)
    contains(vm.hmp("info backup"), "done")
    vm.quit()


main()
