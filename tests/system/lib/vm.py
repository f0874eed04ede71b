"""A VM under qemu-sidecar (or under plain QEMU, for comparison).

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import subprocess

from .guest import Guest, make_image
from .hmp import HMP
from .qmp import QMP, QMPError
from .tap import BUILD, SOON, end_process, program

QEMU = "qemu-system-x86_64"
ACCEL = os.environ.get("SIDECAR_TEST_ACCEL", "tcg")
# What the guest does not need and what costs an emulated CPU time.
KERNEL_LINE = ("console=ttyS0 quiet panic=-1 nokaslr mitigations=off "
               "cryptomgr.notests no_timer_check")


class VM:
    """vm = VM(t, sizes=[8 << 20]); vm.start(); vm.qmp("backup", ...)

    sizes: one raw image each, zeros, in the test's folder; drives drive0, ....
    drives: further -drive values, as they are.
    guest: whether a kernel is started (else the VM stays paused, which is
    enough, and quicker, where nobody has to write).
    """

    qmp_error = QMPError

    def __init__(self, case, sizes=(), drives=(), guest=True, sidecar=True,
                 memory=128, name="vm", options=(), sidecar_options=(),
                 drive_options="", kernel_line="", machine="q35"):
        self.case = case
        self.name = name
        # what it takes to make another one like it
        self.given = {"drives": drives, "guest": guest, "memory": memory,
                      "options": options, "drive_options": drive_options,
                      "kernel_line": kernel_line, "machine": machine}
        self.sidecar = sidecar
        self.process = None
        self.preexec = None  # runs in the child before the program
        self._qmp = self._hmp = None
        self.qmp_path = case.path(name + ".qmp")
        self.hmp_path = case.path(name + ".hmp")
        self.sizes = list(sizes)
        self.images = [make_image(case.path(f"{name}-{i}.raw"), size)
                       for i, size in enumerate(sizes)]
        command = [program("qemu-sidecar"), *sidecar_options] if sidecar else []
        command += [QEMU, "-accel", ACCEL, "-M", machine, "-m", str(memory),
                    "-nodefaults", "-no-user-config", "-display", "none"]
        for i, image in enumerate(self.images):
            command += ["-drive", f"file={image},format=raw,if=virtio,id=drive{i}"
                        + drive_options]
        for drive in drives:
            command += ["-drive", drive]
        self.guest = None
        if guest:
            self.guest = Guest(case.path(name + ".guest"), self.alive)
            case.defer(self.guest.close)
            console = case.log_file(name + ".console")
            command += ["-kernel", BUILD + "/guest/kernel",
                        "-initrd", BUILD + "/guest/initrd.img",
                        "-append", f"{KERNEL_LINE} {kernel_line}".strip(),
                        "-serial", "file:" + console, *self.guest.qemu_options()]
        else:
            command += ["-S"]
        command += ["-qmp", f"unix:{self.qmp_path},server=on,wait=off",
                    "-monitor", f"unix:{self.hmp_path},server=on,wait=off"]
        self.command = command + list(options)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def start(self, wait=True):
        """wait: until the guest is up; without one, until QMP answers."""
        self.stderr_path = self.case.log_file(self.name + ".stderr")
        with open(self.stderr_path, "wb") as log:
            self.process = self.case.spawn(self.command, stdin=subprocess.DEVNULL,
                                           stdout=log, stderr=log,
                                           preexec_fn=self.preexec)
        if wait and self.guest:
            self.guest.wait_ready()
        elif wait:
            self.qmp("query-status")
        return self

    def stderr(self):
        with open(self.stderr_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    @property
    def qmp(self):
        """The one QMP client that most tests need, connected on first use."""
        if not self._qmp:
            self._qmp = self.new_qmp()
        return self._qmp

    def new_qmp(self):
        qmp = QMP(self.qmp_path, self.alive)
        self.case.defer(qmp.close)
        return qmp

    @property
    def hmp(self):
        """The one HMP client.  The QMP client is there before it, so that no
        event of what is typed is missed."""
        if not self._hmp:
            _ = self.qmp
            self._hmp = HMP(self.hmp_path, self.alive)
            self.case.defer(self._hmp.close)
        return self._hmp

    def wait_exit(self, deadline=SOON):
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end") from None

    def quit(self):
        """Ends the VM by QMP; its exit status must be 0."""
        try:
            self.qmp("quit")
        except EOFError:
            pass
        status = self.wait_exit()
        if status != 0:
            raise AssertionError(f"{self.name}: status {status} after quit")

    def end(self):
        end_process(self.process)
