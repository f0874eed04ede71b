#!/usr/bin/python3
# timeout: 400
# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that can go wrong with a backup gives one clear error and leaves
everything else as it was: the guest runs on, no file is left, and the next
backup succeeds."""

import os
import resource
import signal
import subprocess

from lib.backup import Cut, backup, extract, image, leftovers, wait_backup
from lib.tap import contains, equal, main, test, wait_for
from lib.vm import VM

SIZE = 4 << 20


def fill(path, size=SIZE):
    with open(path, "wb") as f:
        f.write(os.urandom(size))
    return path


def vm_with_data(t, sizes=(SIZE,), **options):
    vm = VM(t, sizes=sizes, **{"guest": False, **options})
    for path, size in zip(vm.images, sizes):
        fill(path, size)
    return vm


def still_good(t, vm, name="good.vma"):
    """The VM answers, and a backup of it is right."""
    vm.qmp("query-status")
    backup(vm, t.path(name))
    folder = extract(t, t.path(name), name + ".d")
    for i, path in enumerate(vm.images):
        same_file(path, image(folder, f"drive{i}"))


def same_file(a, b):
    with open(a, "rb") as fa, open(b, "rb") as fb:
        if fa.read() != fb.read():
            raise AssertionError(f"{a} and {b} differ")


def out_folder(t):
    out = t.path("out")
    os.mkdir(out)
    return out


def failed_backup(vm, path, *words, **arguments):
    """The backup fails, either at once or later; the message has the words."""
    try:
        vm.qmp("backup", backup_file=path, **arguments)
    except vm.qmp_error as error:
        message = error.desc
    else:
        message = wait_backup(vm.qmp, "error")["errmsg"]
    for word in words:
        contains(message.lower(), word.lower(), "message")
    return message


# ---- refused at once -----------------------------------------------------

@test
def bad_requests_are_refused_and_nothing_is_left(t):
    ro = fill(t.path("ro.raw"))
    vm = vm_with_data(t, drives=[f"file={ro},format=raw,if=virtio,id=ro,readonly=on"])
    vm.start()
    out = out_folder(t)
    path = out + "/a.vma"

    error = vm.qmp.error("backup", backup_file=path, devlist="drive0,nosuch")
    equal(error.cls, "DeviceNotFound")
    contains(error.desc, "nosuch")
    contains(vm.qmp.error("backup", backup_file=path, devlist="ro").desc, "ro")
    vm.qmp.error("backup", backup_file=path, devlist="")
    vm.qmp.error("backup", backup_file=path, devlist=",;:")
    vm.qmp.error("backup", backup_file=path, format="nosuch")
    vm.qmp.error("backup", backup_file=path, speed=-1)
    vm.qmp.error("backup", backup_file="-")
    vm.qmp.error("backup", backup_file="")
    vm.qmp.error("backup")
    contains(vm.qmp.error("backup", backup_file=path, config_file=out + "/none").desc, "none")
    contains(vm.qmp.error("backup", backup_file=out + "/no/such/folder/a.vma").desc,
             "no/such/folder")
    contains(vm.qmp.error("backup", backup_file="/dev/fdname/nosuch").desc, "nosuch")
    vm.qmp.error("backup", backup_file="/dev/fdset/77")
    vm.qmp.error("backup", backup_file=path, state=True)
    equal(leftovers(out), [])
    still_good(t, vm)
    vm.quit()


@test
def an_archive_that_exists_is_not_touched(t):
    vm = vm_with_data(t).start()
    out = out_folder(t)
    for name, make in (("a.vma", lambda p: fill(p, 1000)), ("d", os.mkdir),
                       ("link", lambda p: os.symlink(out + "/nowhere", p))):
        make(out + "/" + name)
        contains(vm.qmp.error("backup", backup_file=out + "/" + name).desc, name)
    equal(os.path.getsize(out + "/a.vma"), 1000)
    equal(leftovers(out, "a.vma", "d", "link"), [])
    still_good(t, vm)
    vm.quit()


# ---- the target fails in the middle --------------------------------------

@test
def a_full_disk_ends_the_backup_and_not_the_guest(t):
    if os.geteuid() != 0:
        t.skip("needs root for a small file system")
    out = out_folder(t)
    vm = vm_with_data(t)
    # a mount namespace of the VM's own: nothing is left to unmount
    vm.command = ["unshare", "--mount", "sh", "-c",
                  f"mount -t tmpfs -o size=2m none {out} && exec \"$@\"", "sh",
                  *vm.command]
    vm.start()
    failed_backup(vm, out + "/a.vma", "no space")
    folder = f"/proc/{vm.process.pid}/root" + out
    equal(leftovers(folder), [])
    still_good(t, vm)
    vm.quit()


@test
def a_file_size_limit_ends_the_backup_and_not_the_guest(t):
    """The same without root; the limit is larger than the images."""
    vm = vm_with_data(t, sizes=(SIZE, SIZE)).start()
    out = out_folder(t)
    limit = SIZE + 65536
    resource.prlimit(vm.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    failed_backup(vm, out + "/a.vma", "too large")
    equal(leftovers(out), [])
    for i in (0, 1):  # half as much fits
        backup(vm, f"{out}/{i}.vma", devlist=f"drive{i}")
    equal(leftovers(out, "0.vma", "1.vma"), [])
    vm.quit()


@test
def a_command_that_fails_fails_the_backup(t):
    vm = vm_with_data(t).start()
    failed_backup(vm, "exec:exit 3")
    failed_backup(vm, "exec:/no/such/command")
    failed_backup(vm, "exec:cat >/dev/null; exit 3", "3")
    failed_backup(vm, "exec:head -c 100000 >/dev/null")
    failed_backup(vm, "exec:kill -9 $$")
    still_good(t, vm)
    vm.quit()


@test
def a_reader_that_goes_away_fails_the_backup(t):
    vm = vm_with_data(t).start()
    reader, writer = os.pipe()
    vm.qmp.getfd("archive", writer)
    vm.qmp("backup", backup_file="/dev/fdname/archive")
    equal(len(os.read(reader, 4096)) > 0, True)
    os.close(reader)
    contains(wait_backup(vm.qmp, "error")["errmsg"], "reader is gone")
    still_good(t, vm)
    vm.quit()


@test
def an_archive_through_a_passed_descriptor_is_whole(t):
    vm = vm_with_data(t).start()
    vm.qmp.getfd("archive", os.open(t.path("a.vma"), os.O_CREAT | os.O_WRONLY))
    backup(vm, "/dev/fdname/archive")
    same_file(vm.images[0], image(extract(t, t.path("a.vma")), "drive0"))
    fd = os.open(t.path("b.vma"), os.O_CREAT | os.O_WRONLY)
    number = vm.qmp("add-fd", fds=[fd])["fdset-id"]
    os.close(fd)
    backup(vm, f"/dev/fdset/{number}")
    same_file(vm.images[0], image(extract(t, t.path("b.vma"), "b"), "drive0"))
    vm.quit()


# ---- the source fails in the middle --------------------------------------

@test
def an_image_cut_short_fails_the_backup_and_not_the_guest(t):
    vm = vm_with_data(t, sizes=(SIZE, SIZE)).start()
    out = out_folder(t)
    os.truncate(vm.images[1], SIZE // 2)
    failed_backup(vm, out + "/a.vma", "drive1")
    equal(leftovers(out), [])
    backup(vm, out + "/b.vma", devlist="drive0")
    vm.quit()


def faulty_vm(t, rules, size=SIZE, **options):
    """A VM with one drive "bad" whose file fails as told (block/fault.c)."""
    path = fill(t.path("bad.raw"), size)
    return VM(t, drives=[f"file=fault:{rules}:{path},format=raw,if=virtio,id=bad"],
              **options).start()


@test
def an_unreadable_sector_fails_the_backup_and_not_the_guest(t):
    vm = faulty_vm(t, "read/5000=EIO", sizes=[SIZE], guest=False)
    out = out_folder(t)
    message = failed_backup(vm, out + "/a.vma", "bad", "input/output error")
    contains(message, str(5000 * 512 // 65536 * 65536))  # where
    equal(leftovers(out), [])
    backup(vm, out + "/b.vma", devlist="drive0")
    vm.quit()


@test
def an_unreadable_sector_under_a_guests_write_fails_only_the_backup(t):
    """Copy-before-write cannot read what the guest is about to overwrite: the
    guest's write must succeed all the same."""
    vm = faulty_vm(t, "read/5000-5127=EIO", guest=True)
    out = out_folder(t)
    # nothing but the guest's write gets that far within the test
    vm.qmp("backup", backup_file=out + "/a.vma", speed=65536)
    vm.guest.run("dd if=/dev/zero of=/dev/vda bs=4096 seek=625 count=1 conv=fsync")
    contains(wait_backup(vm.qmp, "error")["errmsg"], "bad")
    equal(leftovers(out), [])
    vm.guest.run("dd if=/dev/zero of=/dev/vda bs=4096 seek=626 count=1 conv=fsync")
    vm.quit()


@test
def a_slow_disk_is_only_slow(t):
    vm = faulty_vm(t, "read=2ms,,write=2ms,,flush=10ms", guest=True)
    cut = Cut(vm.guest, 5, 200, [SIZE])
    vm.guest.run("dd if=/dev/zero of=/dev/vda bs=64k conv=fsync", status=1)
    cut.start("vda")
    vm.guest.wait("seq", 30)
    cut.before()
    vm.qmp("backup", backup_file=t.path("a.vma"))
    cut.after()
    wait_backup(vm.qmp)
    vm.guest.stop("seq")
    vm.quit()
    cut.check([image(extract(t, t.path("a.vma")), "bad")])


@test
def a_full_disk_under_the_guest_pauses_it_and_it_goes_on(t):
    """As with QEMU's own drives: no space stops the VM (werror=enospc)."""
    vm = faulty_vm(t, "write#3=ENOSPC", guest=True)
    vm.qmp("query-status")
    vm.guest.start("seq", "seq", 1, 100, "vda")
    event = vm.qmp.wait_event("BLOCK_IO_ERROR")
    equal(event["data"]["nospace"], True, "nospace")
    wait_for(lambda: vm.qmp("query-status")["status"] == "io-error", "the pause")
    # a paused VM can be backed up
    backup(vm, t.path("a.vma"))
    vm.qmp("cont")
    vm.guest.wait("seq", 50)
    vm.guest.stop("seq")
    vm.quit()


# ---- the guest reboots, powers off ---------------------------------------

@test
def a_guest_that_powers_off_ends_everything(t):
    """No zombie, no half archive, exit status 0."""
    vm = vm_with_data(t, guest=True)
    out = out_folder(t)
    vm.start()
    vm.qmp("backup", backup_file=out + "/a.vma", speed=1 << 20)
    vm.guest.poweroff()
    equal(vm.wait_exit(), 0, "status")
    equal(leftovers(out), [])


# ---- sudden deaths -------------------------------------------------------

def child_of(pid):
    """The process id of QEMU below a sidecar."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        found = f.read().split()
    for child in found:
        with open(f"/proc/{child}/comm", encoding="ascii") as f:
            if f.read().startswith("qemu-system"):
                return int(child)
    raise AssertionError(f"no QEMU among {found}")


def is_gone(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@test
def qemu_killed_in_the_middle_leaves_no_half_archive(t):
    vm = vm_with_data(t)
    before = open(vm.images[0], "rb").read()
    vm.start()
    out = out_folder(t)
    vm.qmp("backup", backup_file=out + "/a.vma", speed=1 << 20)
    os.kill(child_of(vm.process.pid), signal.SIGKILL)
    status = vm.wait_exit()
    equal(status != 0, True, "failure shown by the exit status")
    equal(leftovers(out), [])
    equal(open(vm.images[0], "rb").read() == before, True, "image as before")
    t.run("qemu-img", "check", "-f", "raw", vm.images[0], status=None)


@test
def the_sidecar_killed_in_the_middle_leaves_no_half_archive(t):
    vm = vm_with_data(t)
    before = open(vm.images[0], "rb").read()
    vm.start()
    out = out_folder(t)
    vm.qmp("backup", backup_file=out + "/a.vma", speed=1 << 20)
    wait_for(lambda: vm.qmp("query-backup")["transferred"] > 0, "progress")
    qemu = child_of(vm.process.pid)
    os.kill(vm.process.pid, signal.SIGKILL)
    vm.wait_exit()
    wait_for(lambda: is_gone(qemu), "the end of QEMU")
    equal(os.path.exists(out + "/a.vma"), False, "half archive under the final name")
    equal(open(vm.images[0], "rb").read() == before, True, "image as before")


@test
def the_sidecar_ended_politely_ends_qemu_and_cleans_up(t):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        vm = vm_with_data(t, name=f"vm{number}")
        vm.start()
        out = t.path(f"out{number}")
        os.mkdir(out)
        vm.qmp("backup", backup_file=out + "/a.vma", speed=1 << 20)
        qemu = child_of(vm.process.pid)
        os.kill(vm.process.pid, number)
        vm.wait_exit()
        wait_for(lambda qemu=qemu: is_gone(qemu), "the end of QEMU")
        equal(leftovers(out), [])


@test
def a_busy_guests_writes_survive_the_end_of_a_failed_backup(t):
    """Copy-before-write that has nowhere to go must not hurt the guest."""
    sizes = [4 << 20]
    vm = VM(t, sizes=sizes).start()
    vm.guest.start("w", "shadow", 3, 4, "vda")
    vm.guest.wait("w", 100)
    for i in range(5):
        vm.qmp("backup", backup_file="exec:head -c 300000 >/dev/null", speed=1 << 20)
        wait_backup(vm.qmp, "error")
        vm.guest.wait("w", vm.guest.status("w").done + 50)
    vm.guest.stop("w")
    vm.quit()


# ---- a VM that cannot start ----------------------------------------------

@test
def a_missing_image_is_named_and_nothing_runs(t):
    vm = VM(t, drives=[f"file={t.path('none.raw')},format=raw,if=virtio"], guest=False)
    vm.start(wait=False)
    equal(vm.wait_exit() != 0, True, "fails")
    contains(vm.stderr(), "none.raw")


@test
def qemu_that_refuses_its_options_shows_through(t):
    vm = VM(t, sizes=[SIZE], guest=False, options=["-no-such-option"])
    vm.start(wait=False)
    plain = subprocess.run(["qemu-system-x86_64", "-no-such-option"], check=False,
                           stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    equal(vm.wait_exit(), plain.returncode, "exit status")
    contains(vm.stderr(), "invalid option")


@test
def an_image_in_use_is_refused(t):
    vm = VM(t, sizes=[SIZE], guest=False).start()
    second = VM(t, drives=[f"file={vm.images[0]},format=raw,if=virtio"], guest=False,
                name="second").start(wait=False)
    equal(second.wait_exit() != 0, True, "the second VM fails")
    contains(second.stderr().lower(), "lock")
    still_good(t, vm)
    vm.quit()


main()
