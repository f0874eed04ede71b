"""A human at an HMP monitor, on a unix socket.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import re
import socket
import time

from .qmp import connect
from .tap import SOON

PROMPT = "(qemu) "
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class HMP:
    def __init__(self, path, alive=lambda: True):
        self.socket = connect(path, alive)
        self.buffer = b""
        self.greeting = self._until_prompt()

    def close(self):
        self.socket.close()

    def _until_prompt(self, deadline=SOON):
        until = time.monotonic() + deadline
        while True:
            text = _ESCAPES.sub("", self.buffer.decode(errors="replace"))
            if text.endswith(PROMPT) and ("\n" in text or text == PROMPT):
                self.buffer = b""
                return text[:-len(PROMPT)]
            self.socket.settimeout(max(0.01, until - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except socket.timeout:
                raise AssertionError(f"HMP silent for {deadline:.0f} s; so far: "
                                     f"{text!r}") from None
            if not data:
                raise EOFError(f"HMP connection closed after {text!r}")
            self.buffer += data

    def __call__(self, line, deadline=SOON):
        """Types a line; what is printed before the next prompt, with \\n ends."""
        self.socket.settimeout(SOON)
        self.socket.sendall(line.encode() + b"\n")
        text = self._until_prompt(deadline).replace("\r", "")
        return text.partition("\n")[2]  # the echo of what was typed goes first
