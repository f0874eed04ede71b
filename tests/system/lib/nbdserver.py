"""An NBD server to test: build/tools/nbd-export around images; and a raw socket
that can say what no good client would.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import signal
import socket
import struct
import subprocess

from .tap import SOON, program

OPTION_MAGIC = 0x49484156454F5054
REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_MAGIC = 0x67446698
STRUCTURED_MAGIC = 0x668E33EF

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED = 1, 2, 3, 5, 6, 7, 8
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
ERR = 1 << 31


class NbdServer:
    """NbdServer(t, "a.raw", "--read-only"); images as nbd-export takes them."""

    def __init__(self, case, *arguments, path=None):
        self.path = path or case.path("nbd")
        self.case = case
        self.arguments = arguments
        self.process = None
        self.start()

    def start(self):
        log = self.case.log_file("nbd-export.log")
        with open(log, "ab") as f:
            self.process = self.case.spawn(
                [program("tools/nbd-export"), "-k", self.path, *self.arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=f, text=True)
        line = self.process.stdout.readline()
        if line != "listening\n":
            raise AssertionError(f"nbd-export said {line!r}")
        return self

    def drop_clients(self):
        self.process.send_signal(signal.SIGUSR1)

    def stop(self):
        """SIGTERM; it must end well, and soon."""
        self.process.terminate()
        status = self.process.wait(SOON)
        self.process.stdout.close()
        if status != 0:
            raise AssertionError(f"nbd-export: status {status} after SIGTERM")

    def uri(self, name=""):
        path = self.path
        if path.startswith("@"):
            raise AssertionError("no URI for an abstract socket")
        return f"nbd+unix:///{name}?socket={path}"

    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))


class Raw:
    """A socket to a server, in any phase."""

    def __init__(self, case, server):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SOON)
        path = server.path
        self.socket.connect("\0" + path[1:] if path.startswith("@") else path)
        case.defer(self.socket.close)

    def send(self, data):
        self.socket.sendall(data)
        return self

    def recv(self, n):
        """Exactly n bytes; EOFError if the server closes first."""
        data = b""
        while len(data) < n:
            try:
                more = self.socket.recv(n - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                raise EOFError(f"closed after {len(data)} of {n} bytes")
            data += more
        return data

    def closed(self):
        """True once the server has closed; what it still says is dropped."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True

    def hello(self, flags=3):
        magic, option, _ = struct.unpack(">8sQH", self.recv(18))
        assert magic == b"NBDMAGIC" and option == OPTION_MAGIC
        return self.send(struct.pack(">I", flags))

    def option(self, option, data=b"", length=None):
        length = len(data) if length is None else length
        return self.send(struct.pack(">QII", OPTION_MAGIC, option, length) + data)

    def reply(self):
        """(option, reply type, data)"""
        magic, option, kind, length = struct.unpack(">QIII", self.recv(20))
        assert magic == REPLY_MAGIC
        return option, kind, self.recv(length)

    def go(self, name=b""):
        self.option(GO, struct.pack(">I", len(name)) + name + b"\0\0")
        while True:
            _, kind, data = self.reply()
            if kind == 1:
                return self
            if kind & ERR:
                raise AssertionError(f"GO: {kind - ERR} {data!r}")

    def request(self, kind, offset=0, length=0, flags=0, cookie=1, data=b"",
                magic=REQUEST_MAGIC):
        return self.send(struct.pack(">IHHQQI", magic, flags, kind, cookie, offset,
                                     length) + data)

    def answer(self, length=0):
        """A simple reply: (error, cookie, data)"""
        magic, error, cookie = struct.unpack(">IIQ", self.recv(16))
        assert magic == SIMPLE_MAGIC, hex(magic)
        return error, cookie, b"" if error else self.recv(length)
