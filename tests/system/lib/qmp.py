"""A QMP client: one request at a time, events kept, file descriptors passed.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import array
import json
import os
import socket
import time

from .tap import SOON, wait_for


class QMPError(Exception):
    """An error reply: .cls and .desc."""

    def __init__(self, command, error):
        super().__init__(f"{command}: {error['class']}: {error['desc']}")
        self.cls = error["class"]
        self.desc = error["desc"]


def connect(path, alive=lambda: True):
    """A stream socket to a listener that may not be there yet."""
    def attempt():
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(path)
            return s
        except OSError:
            s.close()
            if not alive():
                raise AssertionError(f"{path}: the server has ended") from None
            return None
    return wait_for(attempt, f"a listener at {path}", interval=0.01)


class QMP:
    def __init__(self, path, alive=lambda: True, negotiate=True):
        self.socket = connect(path, alive)
        self.buffer = b""
        self.events = []
        self.next_id = 0
        self.greeting = self.read()
        if negotiate:
            self("qmp_capabilities")

    def close(self):
        self.socket.close()

    def read(self, deadline=SOON):
        """The next object from the server, whatever it is."""
        until = time.monotonic() + deadline
        while b"\n" not in self.buffer:
            self.socket.settimeout(max(0.01, until - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except socket.timeout:
                raise AssertionError(f"QMP silent for {deadline:.0f} s") from None
            if not data:
                raise EOFError("QMP connection closed")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def send(self, command, arguments=None, fds=()):
        """Sends only; returns the id."""
        self.next_id += 1
        message = {"execute": command, "id": self.next_id}
        if arguments:
            message["arguments"] = arguments
        data = json.dumps(message).encode() + b"\n"
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                    array.array("i", fds))] if fds else []
        self.socket.settimeout(SOON)
        self.socket.sendmsg([data], control)
        return self.next_id

    def receive(self, request, command="", deadline=SOON):
        """The answer to a request sent with send()."""
        until = time.monotonic() + deadline
        while True:
            message = self.read(max(0.01, until - time.monotonic()))
            if "event" in message:
                self.events.append(message)
            elif message.get("id") == request:
                if "error" in message:
                    raise QMPError(command, message["error"])
                return message["return"]

    def __call__(self, command, deadline=SOON, fds=(), **arguments):
        """qmp("backup", backup_file=...): underscores in argument names stand
        for hyphens; arguments with real underscores go through send()."""
        arguments = {k.replace("_", "-"): v for k, v in arguments.items()}
        return self.receive(self.send(command, arguments, fds), command, deadline)

    def error(self, command, **arguments):
        """The QMPError that the command must end with."""
        try:
            result = self(command, **arguments)
        except QMPError as error:
            return error
        raise AssertionError(f"{command} {arguments} did not fail: {result!r}")

    def hmp(self, line):
        return self("human-monitor-command", command_line=line)

    def wait_event(self, *names, deadline=SOON):
        """The next event of one of these names, waiting for it if need be;
        it and the ones before it are taken off the list."""
        until = time.monotonic() + deadline
        while True:
            for i, event in enumerate(self.events):
                if event["event"] in names:
                    del self.events[:i + 1]
                    return event
            message = self.read(max(0.01, until - time.monotonic()))
            if "event" in message:
                self.events.append(message)

    def getfd(self, name, fd):
        """Passes a descriptor under a name, for /dev/fdname/NAME; closes ours."""
        try:
            self("getfd", fdname=name, fds=[fd])
        finally:
            os.close(fd)
