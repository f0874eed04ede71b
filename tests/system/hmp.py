#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""The human monitor: what QEMU's own shows for the same keys, ours shows too;
and what is ours alone."""

import re
import socket
import subprocess
import time

from lib.tap import SOON, contains, equal, main, program, test, wait_for
from lib.vm import VM

PROMPT = b"\r\n(qemu) "
LEFT, RIGHT, UP, DOWN = b"\x1b[D", b"\x1b[C", b"\x1b[A", b"\x1b[B"


class Keyboard:
    """A raw connection: bytes in, bytes out."""

    def __init__(self, t, address, family=socket.AF_UNIX):
        self.socket = socket.socket(family)
        t.defer(self.socket.close)
        self.socket.connect(address)
        self.data = b""

    def type(self, keys):
        self.socket.settimeout(SOON)
        self.socket.sendall(keys)

    def until(self, end):
        """What comes up to and with @end (b"": until the connection ends)."""
        limit = time.monotonic() + SOON
        while not end or end not in self.data:
            self.socket.settimeout(max(0.1, limit - time.monotonic()))
            try:
                some = self.socket.recv(65536)
            except socket.timeout:
                raise AssertionError(f"no {end!r} in {self.data!r}") from None
            if not some:
                if end:
                    raise AssertionError(f"closed, no {end!r} in {self.data!r}")
                break
            self.data += some
        cut = self.data.index(end) + len(end) if end else len(self.data)
        data, self.data = self.data[:cut], self.data[cut:]
        return data

    def run(self, line):
        """The output of a line."""
        self.type(line + b"\r")
        return self.until(PROMPT).partition(b"\r\n")[2][:-len(PROMPT) + 2]


def monitor(t, vm):
    wait_for(lambda: connectable(vm.hmp_path), "the monitor")
    keyboard = Keyboard(t, vm.hmp_path)
    keyboard.greeting = keyboard.until(b"(qemu) ")
    return keyboard


def connectable(path):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
            return True
        except OSError:
            return False


def both(t, **kwargs):
    """A plain QEMU's monitor and ours."""
    plain = VM(t, name="plain", sidecar=False, guest=False, **kwargs).start()
    ours = VM(t, name="ours", guest=False, **kwargs).start()
    return monitor(t, plain), monitor(t, ours)


# Keys that QEMU's editor knows; each ends with an empty line on the screen.
KEYS = [
    b"info name\r",
    b"ino" + LEFT + b"f" + RIGHT + b" names\b\b\x7fe\r",
    b"xyz" + LEFT * 9 + b"abc" + RIGHT * 9 + b"def\r",
    b"\x01\x05\x04\x08\x17",
    b"status\x01info \r",
    b"one two three\x17\x17info\x01\x04\x04\x04\x04\x04\x04\x04\x04\x04\x04\x04\r",
    b"help quit" + b"\x1b[1~" + b"\x1b[3~" + b"\x1b[4~" + b"t\x1bOHh\x1bOF" + b"\r",
    UP + UP + DOWN + b"\r",
    UP * 99 + b"\r",
    DOWN + UP + DOWN + DOWN + b"x\r",
    b"print 1+1\r" + UP + b"+1\r" + UP + UP + b"\r",
    b"\x03\x07\x0f\x11\x12\x13\x14\x16\x18\x19\x1a\x1c\x1d\x1e\x1f",
    b"inf\x0co name\r",
    b"\x1bxinfo\x1b\x1b name\r",
    b"   \r\r\n\n",
    b"hel\t" + b"hostfwd\r",
    b"calc_dirty_r\t\x17\x17",
    b"qui\t\x17",
    b"info vers\t\r",
    b"help migrate_star\t\r",
    b"help info tp\t\r",
    b"nosuchcommand \tx\r",
    b"eject fl\t\r",
    b"logfile /etc/pass\t\x17\x17",
    b"screendump /et\tissu\t\x17\x17",
    b"drive_del fl\t\x17\x17",
    b"x" * 300 + b"\x17",
    "Grüße".encode() + b"\r",
    b"\x9bD\x9bC",
]


@test
def the_same_keys_give_the_same_bytes(t):
    plain, ours = both(t, options=["-drive", "if=floppy,id=flop0"])
    equal(ours.greeting, plain.greeting, "greeting")
    for i, keys in enumerate(KEYS, 0x1000):
        seen = []
        for keyboard in (plain, ours):
            keyboard.type(keys + b"\x05" + b"\x17" * 8 + b"print %d\r" % i)
            seen.append(keyboard.until(b"0x%x\r\n(qemu) " % i))
        if b"\xc3" in keys:  # QEMU draws half characters
            seen = [s[s.index(b"unknown"):] for s in seen]
        equal(seen[1], seen[0], f"after {keys!r}")


LINES = [
    b"", b"   ", b"foo", b"foo/x bar", b"info foo", b"info  status", b"sendkey",
    b"sendkey ctrl-alt-f1", b"sendkey nokey", b'boot_set "abc', b"block_resize a zz",
    b"block_resize nodev 5", b"block_job_set_speed x 1.5zz", b"migrate -z",
    b"eject -x y", b"help foo", b"help info foo", b"help migrate_pause",
    b"help netdev_add c", b"? quit", b"help info version", b"info version x", b"cpu 7",
    b"cpu", b"cpu 1", b"info registers", b"cpu 0", b"x /2xw 0", b"xp/2x 0",
    b"print 1+1", b"p/x 20", b'p "a', b"print $nosuch", b"p/%d 1", b"i/x 0x92",
    b"stop", b"info status", b"set_link a", b"set_link a maybe", b"nmi x", b"getfd x", b"closefd x", b"balloon 1k",
    b"drive_del x", b"commit all", b"commit foo", b"migrate_cancel",
    b"help help", b"netdev_add", b"object_add", b"device_add nosuch,id=x",
    b"chardev-add null,id=n", b"chardev-remove n", b"log help", b"help log",
    b"qom-list /", b"info qom-tree", b"info qtree", b"ringbuf_read x 1",
    b"info history",
    # From here the firmware runs, and nothing that it changes can be compared.
    b"cont", b"info status", b"stop", b"info status",
]


@test
def the_same_lines_give_the_same_output(t):
    plain, ours = both(t, options=["-smp", "2"])
    for line in LINES:
        want, got = plain.run(line), ours.run(line)
        if line == b"info registers":
            want, got = want[:20], got[:20]
            contains(got, b"CPU#1")
        equal(got, want, f"output of {line!r}")


def entries(text):
    """The names that a help text has in its first column, as QEMU and we parse
    it."""
    return re.findall(rb"^(?:info )?([a-zA-Z0-9_?|-]+) ", text, re.M)


@test
def help_lists_ours_and_qemus_sorted(t):
    plain, ours = both(t)
    for line, more in ((b"help", [b"backup", b"backup_cancel"]),
                       (b"help info", [b"backup"]), (b"info", [b"backup"])):
        want, got = plain.run(line), ours.run(line)
        equal(entries(got), sorted(set(entries(want)) | set(entries(got))), line)
        equal(set(more) - set(entries(got)), set(), f"missing in {line!r}")
        for entry in re.split(rb"\r\n(?=[a-z])", want):
            if b"drive_add" in entry or b"drive_mirror" in entry:
                contains(got, entry)  # entries of several lines stay whole


@test
def several_clients_at_once(t):
    vm = VM(t, guest=False).start()
    clients = [monitor(t, vm) for _ in range(5)]
    for i, c in enumerate(clients):
        c.type(b"print %d" % (1000 + i))  # all of them in the middle of a line
    for i, c in enumerate(reversed(clients)):
        c.type(b"\r")
        contains(c.until(PROMPT), b"0x%x\r\n" % (1004 - i))
    clients[0].socket.close()
    contains(clients[1].run(b"info status"), b"paused")
    contains(clients[1].run(b"info history"), b"0: 'print 1001'\r\n1: 'info status'")
    equal(vm.qmp("query-status")["status"], "prelaunch")


@test
def human_monitor_command_runs_ours_and_qemus(t):
    vm = VM(t, sizes=[1 << 20], guest=False).start()

    def hmc(line):
        return vm.qmp("human-monitor-command", **{"command-line": line})
    equal(hmc("info backup"), "No backup has been started\r\n")
    contains(hmc("help"), "backup_cancel  -- ")
    contains(hmc("info status"), "VM status: paused")
    equal(hmc("backup"), 'backup: filename expected\r\n'
          'Try "help backup" for more information\r\n')
    equal(hmc(f"backup {t.path('a.vma')}"), "")
    wait_for(lambda: "Backup status: done" in hmc("info backup"), "the backup")


INFO = re.compile(r"""Backup status: done
Start time: \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}
End time: \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}
Backup file: (\S+)
Backup uuid: [0-9a-f-]{36}
Total size: (\d+)
Transferred bytes: (\d+) \((\d+)%\)
Zero bytes: (\d+) \((\d+)%\)
Kept for guest writes: 0 \(at most 0 at once in memory, 0 through a file\)
(Speed limit)?""")


@test
def backup_by_hand(t):
    vm = VM(t, sizes=[3 << 20, 1 << 20], guest=False)
    with open(vm.images[0], "wb") as f:
        f.write(b"x" * (3 << 20))  # holes do not count for the speed limit
    vm.start()
    path = t.path("with space.vma")
    equal(vm.hmp(f'backup "{path}" 0 drive1'), "")
    wait_for(lambda: "status: active" not in vm.hmp("info backup"), "the backup")
    text = vm.hmp("info backup").replace(path, "FILE")
    match = INFO.fullmatch(text)
    assert match, text
    equal(match.groups(), ("FILE", "1048576", "1048576", "100", "1048576", "100", None))
    contains(t.run(program("vma"), "list", path), "drive1")
    contains(vm.hmp(f'backup "{path}"'), "Error: ")
    contains(vm.hmp(f"backup {t.path('b')} 1M nosuch"), "Error: Device 'nosuch' not found")
    equal(vm.hmp("backup_cancel"), "")
    # slow enough to be seen and cancelled
    equal(vm.hmp(f"backup {t.path('c.vma')} 64k"), "")
    contains(vm.hmp("info backup"), "Backup status: active")
    contains(vm.hmp("info backup"), "Speed limit: 65536 bytes/s\n")
    contains(vm.hmp(f"backup {t.path('d.vma')}"), "Error: ")
    equal(vm.hmp("backup_cancel"), "")
    contains(vm.hmp("info backup"), "Backup status: cancelled")


@test
def completion_knows_our_commands_and_drives(t):
    vm = VM(t, sizes=[512, 512], guest=False).start()
    keyboard = monitor(t, vm)
    for keys, shows in (
            (b"backup_\t", b"backup_cancel "),
            (b"backup " + t.path("vm-0").encode() + b"\t", t.path("vm-0.raw ").encode()),
            (b"backup f 1M driv\t", b"\r\ndrive0    drive1    \r\n"),
            (b"backup f 1M drive0,drive1\t", b"drive0,drive1 "),
            (b"info backu\t", b"info backup "),
            (b"block_resize drive0\t", b"block_resize drive0 ")):
        keyboard.type(keys)
        keyboard.until(shows)
        keyboard.type(b"\x05" + b"\x17" * 9 + b"\r")
        keyboard.until(PROMPT)


@test
def a_pipe_gets_all_its_answers(t):
    vm = VM(t, guest=False).start()
    monitor(t, vm)
    shell = f"printf 'stop\\ninfo name\\ninfo backup\\nprint 7\\n' | " \
            f"socat - unix-connect:{vm.hmp_path}"
    text = t.run("sh", "-c", shell)
    contains(text, "No backup has been started\n(qemu) ")
    contains(text, "0x7\n(qemu) ")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def connect_port(t, port):
    def attempt():
        try:
            return Keyboard(t, ("127.0.0.1", port), socket.AF_INET)
        except ConnectionRefusedError:
            return None
    return wait_for(attempt, "the port")


@test
def telnet_and_tcp(t):
    for sidecar in (False, True):
        ports = [free_port(), free_port()]
        vm = VM(t, name=f"vm{sidecar}", sidecar=sidecar, guest=False, options=[
            "-monitor", f"telnet:127.0.0.1:{ports[0]},server,nowait",
            "-monitor", f"tcp:127.0.0.1:{ports[1]},server=on,wait=off"]).start()
        telnet = connect_port(t, ports[0])
        equal(telnet.until(b"(qemu) ")[:12],
              b"\xff\xfb\x01\xff\xfb\x03\xff\xfb\x00\xff\xfd\x00", "negotiation")
        telnet.type(b"\xff\xfd\x03\xff\xfb\x00in\xff\xfd\x01fo name\r")
        telnet.until(b"info name\x1b[K" + PROMPT)
        tcp = connect_port(t, ports[1])
        tcp.until(b"(qemu) ")
        contains(tcp.run(b"info status"), b"VM status: paused")
        vm.end()


@test
def a_real_telnet(t):
    port = free_port()
    VM(t, guest=False, options=[
        "-monitor", f"telnet:127.0.0.1:{port},server=on,wait=off"]).start()
    connect_port(t, port).socket.close()
    client = t.spawn(["telnet", "-8", "127.0.0.1", str(port)], stdin=subprocess.PIPE,
                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seen = b""
    client.stdin.write(b"info backup\r\n")
    client.stdin.flush()
    while b"No backup has been started" not in seen:
        some = client.stdout.read1(4096)
        assert some, seen
        seen += some


@test
def waits_for_the_first_client(t):
    path = t.path("mon")
    log = t.log_file("stderr")
    with open(log, "wb") as f:
        process = t.spawn([program("qemu-sidecar"), "qemu-system-x86_64", "-S",
                           "-accel", "tcg", "-display", "none", "-nodefaults",
                           "-monitor", f"unix:{path},server=on"],
                          stdin=subprocess.DEVNULL, stdout=f, stderr=f)
    def said():
        with open(log, encoding="utf-8") as f:
            return f.read()
    wait_for(lambda: f"QEMU waiting for connection on: disconnected:unix:{path},server=on"
             in said(), "its message")
    children = t.run("ps", "--ppid", str(process.pid), "-o", "pid=", status=None)[1]
    equal(children.strip(), "", "children before a client came")
    keyboard = Keyboard(t, path)
    keyboard.until(b"(qemu) ")
    keyboard.type(b"quit\r")
    equal(keyboard.until(b"")[-4:], b"[K\r\n", "last bytes")
    equal(process.wait(SOON), 0)


@test
def quit_ends_every_client(t):
    vm = VM(t, guest=False).start()
    one, two = monitor(t, vm), monitor(t, vm)
    one.type(b"quit\r")
    equal(one.until(b"")[-2:], b"\r\n")
    two.until(b"")
    equal(vm.wait_exit(), 0)


@test
def a_killed_qemu_ends_every_client(t):
    vm = VM(t, guest=False).start()
    one = monitor(t, vm)
    pid = int(t.run("ps", "--ppid", str(vm.process.pid), "-o", "pid=").split()[0])
    one.type(b"info qom-tree\r" * 50)
    t.run("kill", "-9", str(pid))
    one.until(b"")
    equal(vm.wait_exit(), -9)


@test
def sockets_passed_by_fd(t):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(t.path("l"))
        listener.listen()
        mine, theirs = socket.socketpair()
        vm = VM(t, guest=False, options=[
            "-chardev", f"socket,id=l,fd={listener.fileno()},server=on,wait=off",
            "-mon", "chardev=l",
            "-chardev", f"socket,id=c,fd={theirs.fileno()}", "-mon", "c"])
        log = t.log_file("stderr")
        with open(log, "wb") as f:
            vm.process = t.spawn(vm.command, stdin=subprocess.DEVNULL, stdout=f,
                                 stderr=f, pass_fds=[listener.fileno(),
                                                     theirs.fileno()])
        theirs.close()
        first = Keyboard(t, t.path("l"))
        second = Keyboard(t, t.path("l"))
        for k in (first, second):
            k.until(b"(qemu) ")
            contains(k.run(b"info status"), b"paused")
        connected = Keyboard.__new__(Keyboard)
        connected.socket, connected.data = mine, b""
        t.defer(mine.close)
        connected.until(b"(qemu) ")
        contains(connected.run(b"info status"), b"paused")


main()
