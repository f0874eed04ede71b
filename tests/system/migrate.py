#!/usr/bin/python3
# timeout: 600
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest moves to another process and goes on there with every byte of its
memory: over each transport, to and from a plain QEMU."""

import os
import socket

from lib.guest import make_image
from lib.migration import (arrived, ended, go_on, migrate, same_ram, source, status,
                           still_runs, twin)
from lib.tap import contains, equal, main, test, wait_for, writer_of
from lib.vm import VM

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
    src.qmp("migrate-set-parameters", downtime_limit=0)  # rounds without end
    src.qmp("migrate", uri=f"tcp:127.0.0.1:{port}")
    wait_for(lambda: src.qmp("query-migrate").get("xbzrle-cache", {}).get("pages"),
             "pages sent as differences")
    src.qmp("migrate-set-parameters", downtime_limit=1000)
    ended(src)
    arrived(dst)
    same_ram(src, dst)
    go_on(src, dst)
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


@test
def the_screen_goes_along(t):
    """Video memory is QEMU's own.  What the first look has seen of it is sent while the
    guest runs, and what changes afterwards at the end."""
    screen, pages = 0xfd000000, 8
    path = t.path("s")
    src = busy_source(t, options=["-vga", "std"])

    def paint(page, value):
        src.guest.run(f"busybox devmem {screen + page * 4096 + 8 * page} 64 {value}")

    def painted(vm):
        file = t.path(vm.name + ".screen")
        vm.qmp("pmemsave", val=screen, size=pages * 4096, filename=file)
        with open(file, "rb") as f:
            return f.read()

    for page in range(3):
        paint(page, 0x1111)
    dst = twin(t, src, "unix:" + path)
    slow_rounds(src, "unix:" + path, 1)
    for page, value in ((1, 0x2222), (2, 0), (3, 0x3333)):
        paint(page, value)
    src.qmp("migrate_set_downtime", value=30)
    ended(src)
    arrived(dst)
    same = painted(src)
    equal(painted(dst) == same, True, "the same screen")
    equal([int.from_bytes(same[p * 4096 + p * 8:][:8], "little") for p in range(4)],
          [0x1111, 0x2222, 0, 0x3333])
    src.quit()
    dst.quit()


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



def slow_rounds(src, uri, count):
    """Starts a migration that cannot converge, and waits for a round."""
    src.qmp("migrate-set-parameters", downtime_limit=0)
    src.qmp("migrate_set_speed", value=60 << 20)
    src.qmp("migrate", uri=uri)
    wait_round(src, 2)
    src.qmp("migrate_set_speed", value=5 << 20)  # the guest writes faster
    wait_round(src, count)


def wait_round(src, count):
    def look():
        info = src.qmp("query-migrate")
        equal(info["status"] in ("setup", "active"), True, str(info))
        return info.get("ram", {}).get("dirty-sync-count", 0) >= count
    wait_for(look, f"round {count}")


def let_through(src, dst):
    """Now it may take as long as it likes; every page must be there."""
    src.qmp("migrate_set_downtime", value=30)
    ended(src)
    arrived(dst)
    same_ram(src, dst)
    go_on(src, dst)
    checked(dst)
    src.quit()
    dst.quit()


@test(limit=300)
def let_through_after_not_converging(t):
    """The guest writes more than is sent, for a while; then a longer downtime
    is allowed.  Stock QEMU 7.2 under TCG loses pages here."""
    for i in range(20 if LONG else 1):
        src = busy_source(t, kind="full", mib=8, name=f"src{i}")
        path = t.path(f"{i}.sock")
        dst = twin(t, src, "unix:" + path, name=f"dst{i}", sidecar=False)
        slow_rounds(src, "unix:" + path, 7)
        stall = wait_for(lambda: src.qmp("query-migrate").get("stall"), "the reason in words")
        for word in ("not converging", "XBZRLE", "downtime-limit"):
            contains(stall, word)
        contains(src.hmp("info migrate"), "not converging")
        let_through(src, dst)


@test(limit=240)
def where_the_kernel_does_not_tell_what_was_written(t):
    """Before Linux 6.7 memory is compared.  That takes a while with the guest stopped,
    which counts for the downtime."""
    compare = ["--dirty-log=compare"]
    src = busy_source(t, sidecar_options=compare)
    path = t.path("s")
    dst = twin(t, src, "unix:" + path, sidecar_options=compare)
    src.qmp("migrate-set-capabilities", capabilities=[{"capability": "xbzrle", "state": True}])
    src.qmp("migrate-set-parameters", downtime_limit=1)
    src.qmp("migrate", uri="unix:" + path)
    contains(wait_for(lambda: src.qmp("query-migrate").get("stall"), "a stall to be said"),
             "finding the written pages")
    equal(src.qmp("query-migrate")["ram"]["dirty-log"], "compare")
    contains(src.hmp("info migrate"), "dirty log: compare (--dirty-log=compare was given)")
    let_through(src, dst)


@test
def memory_that_the_balloon_took_and_gave_back(t):
    balloon = ["-device", "virtio-balloon-pci,id=balloon0"]
    src = busy_source(t, options=balloon, kernel_line="modules=balloon")
    path = t.path("migrate.sock")
    dst = twin(t, src, "unix:" + path)
    src.guest.run("dd if=/dev/urandom of=/tmp/fill bs=1M count=24")
    slow_rounds(src, "unix:" + path, 3)
    src.guest.run("rm /tmp/fill")
    small = (128 - 30) << 20
    src.qmp("balloon", value=small)
    wait_for(lambda: src.qmp("query-balloon")["actual"] == small, "the balloon")
    wait_round(src, src.qmp("query-migrate")["ram"]["dirty-sync-count"] + 1)
    src.qmp("balloon", value=128 << 20)
    wait_for(lambda: src.qmp("query-balloon")["actual"] == 128 << 20, "its memory back")
    src.guest.start("again", "memory", 16, 9, "full")
    src.guest.wait("again", 16 * 256)
    src.qmp("migrate_set_downtime", value=30)
    ended(src)
    arrived(dst)
    same_ram(src, dst)
    go_on(src, dst)
    dst.guest.stop("again")
    checked(dst)
    src.quit()
    dst.quit()


@test
def memory_backends_of_the_users(t):
    """Two NUMA nodes, a file and an anonymous one, both shared."""
    ram = t.path("ram")
    options = ["-object", f"memory-backend-file,id=m0,size=64M,mem-path={ram},share=on",
               "-object", "memory-backend-memfd,id=m1,size=64M,share=on",
               "-numa", "node,memdev=m0", "-numa", "node,memdev=m1"]
    src = busy_source(t, options=options)
    path = t.path("migrate.sock")
    # the same file for both would be the same memory
    dst = twin(t, src, "unix:" + path,
               options=[x.replace(ram, t.path("ram2")) for x in options])
    migrate(src, dst, "unix:" + path)
    checked(dst)
    src.quit()
    dst.quit()


def dimm(t, name, content):
    """-device pc-dimm whose memory is a file with that content, seen at 4 GiB."""
    with open(t.path(name), "wb") as f:
        f.write(content)
    return ["-object", f"memory-backend-file,id=m1,size=4M,share=on,mem-path={t.path(name)}",
            "-device", "pc-dimm,memdev=m1"]


@test
def memory_that_a_device_brings(t):
    """QEMU leaves shared memory out of its device state."""
    src = VM(t, guest=False, memory="32,slots=2,maxmem=1G", name="src",
             options=dimm(t, "there", os.urandom(4 << 20))).start()
    path = t.path("migrate.sock")
    dst = VM(t, guest=False, memory="32,slots=2,maxmem=1G", name="dst", sidecar=False,
             options=dimm(t, "here", bytes(4 << 20)) + ["-incoming", "unix:" + path]).start()
    src.qmp("migrate", uri="unix:" + path)
    ended(src)
    arrived(dst)
    for vm in (src, dst):
        vm.qmp("pmemsave", val=4 << 30, size=4 << 20, filename=t.path(vm.name + ".ram"))
    t.run("cmp", t.path("src.ram"), t.path("dst.ram"))
    t.run("cmp", t.path("src.ram"), t.path("there"))
    src.quit()
    dst.quit()


@test
def shared_memory_plugged_in_later_is_refused(t):
    src = VM(t, guest=False, memory="32,slots=2,maxmem=1G", name="src").start()
    src.qmp("object-add", qom_type="memory-backend-memfd", id="late", size=4 << 20)
    src.qmp("device_add", driver="pc-dimm", memdev="late")
    src.qmp("migrate", uri=f"exec:cat > {t.path('state')}")
    contains(ended(src, "failed")["error-desc"], "memory backend 'late' is shared memory")
    src.quit()


def vhost_user_disk(t):
    """A disk of qemu-storage-daemon's; it writes to guest memory by itself."""
    path = t.path("vhost.sock")
    t.run("truncate", "-s", "8M", t.path("vhost.raw"))
    t.spawn(["qemu-storage-daemon", "--blockdev",
             f"driver=file,filename={t.path('vhost.raw')},node-name=n", "--export",
             f"vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path={path},writable=on"])
    wait_for(lambda: os.path.exists(path), "the vhost-user socket")
    return f"socket,id=c,path={path}"


SHARED = ["-object", "memory-backend-memfd,id=m,size=128M", "-numa", "node,memdev=m"]


def compares(vm, *words):
    """Memory is compared, and it is said why."""
    vm.qmp("migrate", uri="exec:cat > /dev/null")
    ram = ended(vm)["ram"]
    equal(ram["dirty-log"], "compare", "log")
    if vm.qmp("query-migrate")["ram"]["dirty-log-reason"].startswith("Linux"):
        vm.case.skip("this kernel has no other log")
    for word in words:
        contains(ram["dirty-log-reason"], word)


@test
def a_vhost_user_device_makes_memory_be_compared(t):
    """It writes past the page tables that the kernel's log is about."""
    chardev = vhost_user_disk(t)
    for name, changes in (("cold", ["-device", "vhost-user-blk-pci,chardev=c"]),
                          ("hot", ["-device", "pcie-root-port,id=rp1"])):
        vm = VM(t, guest=False, name=name, options=[*SHARED, "-chardev", chardev, *changes])
        vm.start()
        if name == "hot":
            vm.qmp("device_add", driver="vhost-user-blk-pci", chardev="c", bus="rp1")
        compares(vm, "vhost-user")
        vm.quit()


@test
def direct_io_of_qemus_own_makes_memory_be_compared(t):
    """The kernel writes to pages that it has looked up before."""
    t.run("truncate", "-s", "1M", t.path("own.raw"))
    node = f"driver=file,node-name=own,filename={t.path('own.raw')}"
    vm = VM(t, guest=False, options=["-blockdev", node + ",cache.direct=on"]).start()
    compares(vm, "own.raw", "past the page cache")
    vm.quit()
    # what the sidecar serves comes through a socket
    vm = VM(t, guest=False, sizes=[1 << 20], name="ours", drive_options=",cache=none",
            options=["-blockdev", node]).start()
    vm.qmp("migrate", uri="exec:cat > /dev/null")
    equal(ended(vm)["ram"].get("dirty-log-reason", "Linux")[:5], "Linux", "reason")
    vm.quit()


@test
def memory_in_huge_pages(t):
    with open("/proc/meminfo", encoding="ascii") as f:
        info = dict(line.split(":") for line in f)
    if int(info["HugePages_Free"]) * int(info["Hugepagesize"].split()[0]) < 2 * 128 << 10:
        t.skip("no 256 MiB of huge pages are free (vm.nr_hugepages)")
    options = ["-object", "memory-backend-memfd,id=m0,size=128M,hugetlb=on,share=on",
               "-numa", "node,memdev=m0"]
    src = busy_source(t, options=options)
    path = t.path("migrate.sock")
    dst = twin(t, src, "unix:" + path, options=options)
    migrate(src, dst, "unix:" + path)
    checked(dst)
    src.quit()
    dst.quit()


@test
def private_memory_stays_and_says_so(t):
    for i, changes in enumerate((
            {"options": ["-object", "memory-backend-ram,id=m,size=128M",
                         "-numa", "node,memdev=m"]},
            {"sidecar_options": ["--private-ram"]})):
        vm = source(t, guest=False, name=f"vm{i}", **changes)
        error = vm.qmp.error("migrate", uri="exec:cat > /dev/null")
        contains(error.desc, "off")
        equal(status(vm), "none")
        vm.quit()


@test
def nobody_sees_the_first_look(t):
    """No STOP and RESUME from it; the end's STOP is seen, and MIGRATION."""
    src = busy_source(t)
    watcher = src.new_qmp()
    src.qmp("migrate_set_speed", value=1 << 20)
    src.qmp("migrate", uri="exec:cat > /dev/null")
    wait_for(lambda: status(src) == "active", "the rounds")
    contains(src.qmp.error("migrate", uri="exec:cat > /dev/null").desc, "in progress")
    src.qmp("migrate_cancel")
    ended(src, "cancelled")
    src.qmp("migrate_cancel")  # nothing to cancel: fine
    src.qmp("migrate_set_speed", value=0)
    src.qmp("migrate", uri="exec:cat > /dev/null")
    ended(src)
    src.qmp("cont")
    names = []
    while not names or names[-1] != "RESUME":
        event = watcher.wait_event("STOP", "RESUME", "MIGRATION")
        names.append(event["data"]["status"] if event["event"] == "MIGRATION" else event["event"])
    equal(names, ["setup", "active", "cancelling", "cancelled",
                  "setup", "active", "STOP", "device", "completed", "RESUME"], "events")
    still_runs(src)
    src.quit()


@test
def the_first_look_does_not_show_in_the_status(t):
    """While the guest is stopped for it, it is said to run."""
    src = source(t)
    look = src.new_qmp()
    src.qmp("migrate_set_speed", value=1 << 20)
    for _ in range(20):
        src.qmp("migrate", uri="exec:cat > /dev/null")
        while status(src) in ("none", "setup"):
            equal(look("query-status")["status"], "running", "query-status")
            equal(look("human-monitor-command", command_line="info status").strip(),
                  "VM status: running", "info status")
        src.qmp("migrate_cancel")
        ended(src, "cancelled")
    src.qmp("stop")
    equal(look("query-status")["status"], "paused")
    contains(src.hmp("info status"), "paused")
    src.quit()


@test
def slow_disks_are_flushed_while_the_guest_runs(t):
    """Before the first look, for which it is stopped, and before the end; and what it
    writes to its memory meanwhile does not make the pause longer: a round follows."""
    image, fifos = make_image(t.path("image"), 1 << 20), [t.path("1"), t.path("2")]
    for fifo in fifos:
        os.mkfifo(fifo)
    rules = ",,".join(f"flush#{i + 1}=wait({fifo})" for i, fifo in enumerate(fifos))
    src = busy_source(t, drives=[f"file=fault:{rules}:{image},format=raw,if=virtio"])

    def writes_to_disk():
        src.guest.run("dd if=/dev/urandom of=/dev/vda bs=4096 count=4")

    def runs_meanwhile(fifo):
        with open(writer_of(fifo), "wb"):
            equal(src.qmp("query-status")["status"], "running")
            src.guest.wait("memory", src.guest.status("memory").done + 5000)
            return src.qmp("query-migrate").get("ram", {}).get("dirty-sync-count")

    writes_to_disk()
    src.qmp("migrate-set-parameters", max_bandwidth=1 << 20)
    src.qmp("migrate", uri="exec:cat > /dev/null")
    runs_meanwhile(fifos[0])
    wait_for(lambda: status(src) == "active", "the rounds")
    writes_to_disk()
    src.qmp("migrate-set-parameters", max_bandwidth=0)
    rounds = runs_meanwhile(fifos[1])
    equal(ended(src)["ram"]["dirty-sync-count"] >= rounds + 2, True, "a round and the last pass")
    src.quit()


@test
def as_a_human_does_it(t):
    src = busy_source(t)
    path = t.path("migrate.sock")
    dst = twin(t, src, "unix:" + path)
    equal(src.hmp("migrate_set_speed 200m"), "")
    equal(src.hmp("migrate_set_downtime 1"), "")
    equal(src.hmp("migrate_set_cachesize 32m"), "")
    contains(src.hmp("info migrate_cache_size"), "32768 kbytes")
    equal(src.hmp("migrate_set_parameter max-bandwidth 300"), "")
    equal(src.hmp("migrate_set_parameter downtime-limit 900"), "")
    equal(src.hmp("migrate_set_parameter xbzrle-cache-size 33554432"), "")
    equal(src.hmp("migrate_set_parameter block-incremental off"), "")
    contains(src.hmp("migrate_set_parameter max-bandwidth fast"), "Invalid size")
    contains(src.hmp("migrate_set_parameter multifd-channels 3"), "not supported")
    equal(src.qmp("query-migrate-parameters")["max-bandwidth"], 300 << 20, "bandwidth")
    contains(src.hmp("info migrate_parameters"), "downtime-limit: 900 ms\n")
    equal(src.hmp("migrate_set_capability xbzrle on"), "")
    contains(src.hmp("info migrate_capabilities"), "xbzrle: on\n")
    contains(src.hmp("migrate_set_capability multifd on"), "not supported")
    contains(src.hmp("migrate_set_capability nothing on"), "invalid parameter value")
    contains(src.hmp("migrate nonsense:x"), "nonsense")
    contains(src.hmp("migrate unix:" + t.path("nobody")), "nobody")
    equal(src.hmp(f"migrate -x unix:{path}"), "")  # waits
    equal(status(src), "completed")
    arrived(dst)
    same_ram(src, dst)
    go_on(src, dst)
    checked(dst)
    src.quit()
    dst.quit()


@test
def a_paused_guest_arrives_paused(t):
    src = busy_source(t)
    src.qmp("stop")
    path = t.path("migrate.sock")
    dst = twin(t, src, "unix:" + path)
    src.qmp("migrate", uri="unix:" + path)
    ended(src)
    arrived(dst)
    equal(dst.qmp("query-status")["status"], "paused")
    same_ram(src, dst)
    go_on(src, dst)
    checked(dst)
    src.quit()
    dst.quit()


@test
def a_backup_goes_before_a_migration(t):
    """While a drive is being backed up it cannot be handed over: one of the
    two says so and the guest runs on."""
    src = busy_source(t, sizes=[4 << 20])
    with open(src.images[0], "r+b") as f:
        f.write(os.urandom(4 << 20))
    src.qmp("backup", backup_file=t.path("a.vma"), speed=100000)
    src.qmp("migrate", uri="exec:cat > /dev/null")
    info = ended(src, "failed")
    contains(info["error-desc"], "drive0")
    still_runs(src)
    src.qmp("backup-cancel")
    src.qmp("migrate", uri="exec:cat > /dev/null")
    ended(src)
    src.quit()


main()
