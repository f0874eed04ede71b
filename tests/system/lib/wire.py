# SPDX-License-Identifier: GPL-2.0-or-later
"""A network of so many bytes a second between two unix sockets, for one connection.

What is sent to it waits in the sender's socket, as it would for a slow link; in it
are a few milliseconds' worth of data at most.  The way back has no limit.
"""

import socket
import threading
import time

CHUNK = 32 << 10


class Wire:
    """Listens at @path, goes on to @target when somebody comes."""

    def __init__(self, path, target, rate):
        self.target, self.rate = target, rate
        self.sockets = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.threads = [threading.Thread(target=self._run, daemon=True)]
        self.threads[0].start()

    def _run(self):
        try:
            near, _ = self.listener.accept()
        except OSError:
            return
        far = socket.socket(socket.AF_UNIX)
        far.connect(self.target)
        # a receiver that is behind holds the wire up, not a buffer before it
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * CHUNK)
        self.sockets = [near, far]
        back = threading.Thread(target=self._pass_on, args=(far, near, 0), daemon=True)
        self.threads.append(back)
        back.start()
        self._pass_on(near, far, self.rate)

    @staticmethod
    def _pass_on(a, b, rate):
        due = time.monotonic()
        try:
            while data := a.recv(CHUNK):
                b.sendall(data)
                if rate:
                    due = max(due, time.monotonic() - 0.002) + len(data) / rate
                    time.sleep(max(due - time.monotonic(), 0))
        except OSError:
            pass
        try:
            b.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        for s in [self.listener] + self.sockets:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self.threads:
            thread.join()
        for s in [self.listener] + self.sockets:
            s.close()
