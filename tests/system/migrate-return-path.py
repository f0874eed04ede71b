#!/usr/bin/python3
# timeout: 600
# SPDX-License-Identifier: GPL-2.0-or-later
"""The return path: both ends of a migration agree on where the guest is, whatever
happens at its end."""

import os
import socket

from lib.migration import arrived, ended, go_on, same_ram, source, still_runs, twin
from lib.tap import equal, main, test, wait_for

IMAGE = 1 << 20


def busy(t, **options):
    vm = source(t, **{"sizes": [IMAGE], **options})
    vm.guest.start("memory", "memory", 8, 3, "sparse")
    vm.guest.wait("memory", 8 * 256 + 100)
    if not options.get("sidecar", True):
        vm.qmp("migrate-set-capabilities",
               capabilities=[{"capability": "return-path", "state": True},
                             {"capability": "events", "state": True}])
        # one round and the end: QEMU 7.2 under TCG loses pages in many rounds
        vm.qmp("migrate-set-parameters", max_bandwidth=0, downtime_limit=20000)
    return vm


@test
def a_plain_source_gets_its_answer(t):
    src = busy(t, sidecar=False)
    path = t.path("a.sock")
    dst = twin(t, src, "unix:" + path)
    src.qmp("migrate", uri="unix:" + path)
    ended(src)
    ended(dst)
    same_ram(src, dst)
    equal(src.qmp("query-status")["status"], "postmigrate")
    go_on(src, dst)
    still_runs(dst)
    equal(src.stderr(), "")
    src.quit()
    dst.quit()


main()
