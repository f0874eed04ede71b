#!/usr/bin/python3
# timeout: 600
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest moves to another process and goes on there with every byte of its
memory: over each transport, to and from a plain QEMU."""

import os
import socket

from lib.migration import (arrived, ended, go_on, migrate, same_ram, source, still_runs,
                           twin)
from lib.tap import contains, equal, main, test

LONG = bool(os.environ.get("SIDECAR_TEST_LONG"))


def busy_source(t, kind="sparse", mib=16, **options):
    vm = source(t, **options)
    vm.guest.start("memory", "memory", mib, 7, kind)
    vm.guest.wait("memory", mib * 256 + 100)  # every page has been written
    return vm


def checked(vm):
    """The guest's own verdict over all of its pages."""
    still_runs(vm)
    vm.guest.stop("memory")


@test
def over_a_unix_socket(t):
    src = busy_source(t)
    path = t.path("migrate.sock")
    dst = twin(t, src, "unix:" + path)
    info = migrate(src, dst, "unix:" + path)
    equal(info["ram"]["total"], 128 << 20, "total")
    equal(info["ram"]["remaining"], 0, "remaining")
    for key in ("transferred", "duplicate", "normal", "normal-bytes", "dirty-sync-count",
                "page-size", "mbps"):
        equal(info["ram"][key] > 0, True, key)
    equal("downtime" in info and "total-time" in info and "setup-time" in info, True)
    equal(src.qmp("query-status")["status"], "postmigrate")
    text = src.hmp("info migrate")
    for line in ("Migration status: completed", "transferred ram-duplicate: ",
                 "transferred ram-normal: ", "downtime: "):
        contains(text, line)
    checked(dst)
    src.quit()
    dst.quit()


@test
def over_tcp_with_xbzrle(t):
    src = busy_source(t)
    with socket.socket() as s:  # a port that is free
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    dst = twin(t, src, f"tcp:127.0.0.1:{port}")
    src.qmp("migrate-set-capabilities", capabilities=[{"capability": "xbzrle", "state": True}])
    src.qmp("migrate_set_speed", value=24 << 20)  # a few rounds
    src.qmp("migrate-set-parameters", downtime_limit=1000)
    info = migrate(src, dst, f"tcp:127.0.0.1:{port}")
    equal(info["xbzrle-cache"]["pages"] > 0, True, "XBZRLE pages")
    contains(src.hmp("info migrate"), "transferred ram-xbzrle: ")
    checked(dst)
    src.quit()
    dst.quit()


@test
def through_commands_and_a_file(t):
    src = busy_source(t, kind="full")
    path = t.path("state")
    src.qmp("migrate", uri=f"exec:cat > {path}")
    ended(src)
    dst = twin(t, src, f"exec:cat {path}")
    arrived(dst)
    same_ram(src, dst)
    go_on(src, dst)
    checked(dst)
    src.quit()
    dst.quit()


@test
def through_passed_descriptors(t):
    src = busy_source(t)
    a, b = socket.socketpair()
    dst = twin(t, src, None)
    dst.qmp.getfd("mig", b.detach())
    dst.qmp("migrate-incoming", uri="fd:mig")
    src.qmp.getfd("mig", a.detach())
    migrate(src, dst, "fd:mig")
    checked(dst)
    src.quit()
    dst.quit()


@test
def into_a_plain_qemu(t):
    src = busy_source(t)
    path = t.path("migrate.sock")
    src.qmp("migrate-set-capabilities", capabilities=[{"capability": "xbzrle", "state": True}])
    src.qmp("migrate_set_speed", value=24 << 20)
    src.qmp("migrate_set_downtime", value=1)
    dst = twin(t, src, "unix:" + path, sidecar=False)
    migrate(src, dst, "unix:" + path)
    checked(dst)
    src.quit()
    dst.quit()


def from_plain(t, xbzrle):
    src = busy_source(t, sidecar=False)
    path = t.path("migrate.sock")
    dst = twin(t, src, "unix:" + path)
    src.qmp("migrate-set-capabilities", capabilities=[{"capability": "xbzrle", "state": xbzrle}])
    # one round and the end: QEMU 7.2 under TCG loses pages in many rounds
    src.qmp("migrate-set-parameters", max_bandwidth=0, downtime_limit=20000)
    migrate(src, dst, "unix:" + path)
    checked(dst)
    src.quit()
    dst.quit()


@test
def from_a_plain_qemu(t):
    from_plain(t, False)


@test
def from_a_plain_qemu_with_xbzrle(t):
    from_plain(t, True)


@test(limit=300)
def to_and_fro(t):
    """Between two sidecars, each time with a new one."""
    vm = busy_source(t)
    for i in range(10 if LONG else 3):
        path = t.path(f"{i}.sock")
        dst = twin(t, vm, "unix:" + path, name=f"vm{i}")
        dst.qmp("migrate-set-capabilities",
                capabilities=[{"capability": "xbzrle", "state": i % 2 == 0}])
        migrate(vm, dst, "unix:" + path)
        still_runs(dst)
        vm.quit()
        vm = dst
    checked(vm)
    vm.quit()


main()
