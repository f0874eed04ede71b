#!/usr/bin/python3
# timeout: 400
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest goes to and fro while it writes to its disk, to its memory and to the
network, and checks all that it reads; nothing is lost on any of the ways."""

import os
import socket
import threading
import zlib

from lib.migration import migrate, source, still_runs, twin
from lib.tap import equal, main, test

MIB = 1 << 20
LONG = bool(os.environ.get("SIDECAR_TEST_LONG"))


class Peer:
    """The other end of the guest's cable: sends each frame back to where it came
    from, which is the QEMU that has the guest now."""

    def __init__(self, t):
        self.path = t.path("peer")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.senders = set()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        t.defer(self.close)

    def _run(self):
        while True:
            frame, sender = self.socket.recvfrom(65536)
            if not sender:  # from close
                return
            self.senders.add(sender)
            try:
                self.socket.sendto(frame, sender)
            except OSError:  # that QEMU has just ended
                pass

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(b"", self.path)
        self.thread.join()
        self.socket.close()

    def cable(self, t, name):
        """QEMU's options for a card with its end of the cable at name."""
        return ["-netdev", "dgram,id=net0,local.type=unix,local.path=" + t.path(name)
                + ",remote.type=unix,remote.path=" + self.path,
                "-device", "virtio-net-pci,netdev=net0"]


def crc32_of(path):
    crc = 0
    with open(path, "rb") as f:
        while data := f.read(MIB):
            crc = zlib.crc32(data, crc)
    return crc


@test(limit=360)
def a_guest_under_load_goes_to_and_fro(t):
    peer = Peer(t)
    vm = source(t, sizes=[8 * MIB], options=peer.cable(t, "cable"))
    image = vm.images[0]
    vm.guest.start("disk", "shadow", 3, 3, "vda")
    vm.guest.start("memory", "memory", 16, 5, "sparse")
    vm.guest.start("net", "net", 7)
    vm.guest.wait("disk", 300)
    vm.guest.wait("net", 30)
    rounds = 20 if LONG else 4
    for i in range(rounds):
        path = t.path(f"{i}.sock")
        dst = twin(t, vm, "unix:" + path, name=f"vm{i}", options=peer.cable(t, f"cable{i}"))
        dst.qmp("migrate-set-capabilities",
                capabilities=[{"capability": "xbzrle", "state": False}])
        vm.qmp("migrate-set-capabilities",
               capabilities=[{"capability": "xbzrle", "state": i % 2 == 0}])
        migrate(vm, dst, "unix:" + path, compare=i == 0)
        vm.quit()
        vm = dst
        still_runs(vm)
        still_runs(vm, "disk")
        still_runs(vm, "net")
    equal(len(peer.senders), rounds + 1, "QEMUs that sent frames")
    vm.guest.stop("net")
    vm.guest.stop("memory")
    crc = vm.guest.stop("disk").crc32
    vm.quit()
    equal(crc32_of(image), crc, "the image, as the guest read it last")


main()
