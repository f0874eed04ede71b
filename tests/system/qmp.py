#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP in front of a real QEMU: one list of commands, several clients, events,
descriptors, and what goes wrong with them."""

import json
import os
import random
import re
import socket

from lib.backup import wait_backup
from lib.qmp import QMP, QMPError, connect
from lib.tap import SOON, contains, equal, main, program, test, wait_for
from lib.vm import VM

MIB = 1 << 20


def quiet(t, **kwargs):
    """A VM that runs nothing."""
    return VM(t, guest=False, **kwargs).start()


# ---- the lists -------------------------------------------------------------------

def names(entries):
    return [e["name"] for e in entries]


@test
def one_list_of_commands(t):
    vm = quiet(t)
    plain = VM(t, guest=False, sidecar=False, name="plain").start()
    ours = names(vm.qmp("query-commands"))
    theirs = names(plain.qmp("query-commands"))
    equal(ours[:len(theirs)], theirs)
    for name in ("backup", "query-backup", "backup-cancel", "backup_cancel"):
        equal(ours.count(name), 1, f"number of '{name}'")
    equal(len(set(ours)), len(ours))


def check_references(schema):
    """Each type that is mentioned is there."""
    known = set(names(schema))

    def need(entry, *types):
        for type_ in types:
            if type_ not in known:
                raise AssertionError(f"{entry['name']} uses {type_}, which is not described")
    for e in schema:
        need(e, *[e[k] for k in ("arg-type", "ret-type", "element-type") if k in e])
        if e["meta-type"] in ("object", "alternate"):
            need(e, *[m["type"] for m in e["members"]])
            need(e, *[v["type"] for v in e.get("variants", [])])


@test
def the_schema_describes_every_command(t):
    vm = quiet(t)
    schema = vm.qmp("query-qmp-schema")
    equal(len(set(names(schema))), len(schema), "number of names")
    commands = {e["name"] for e in schema if e["meta-type"] == "command"}
    equal(set(names(vm.qmp("query-commands"))) - commands, set())
    check_references(schema)
    for e in schema:
        if e["meta-type"] not in ("command", "event", "builtin", "array"):
            contains("0123456789s", e["name"][0])


@test
def the_schema_is_one_line_below_256_kib(t):
    vm = quiet(t)
    with connect(vm.qmp_path) as s:
        s.settimeout(SOON)
        s.sendall(b'{"execute":"qmp_capabilities"}{"execute":"query-qmp-schema"}')
        data = b""
        while data.count(b"\n") < 3:
            data += s.recv(MIB)
    line = data.split(b"\r\n")[2]
    equal(json.loads(line).keys(), {"return"})
    if len(line) + 2 >= 256 << 10:
        raise AssertionError(f"{len(line)} bytes")


# ---- drives -----------------------------------------------------------------------

def without_node_names(value):
    if isinstance(value, dict):
        return {k: without_node_names(v) for k, v in value.items() if k != "node-name"}
    if isinstance(value, list):
        return [without_node_names(v) for v in value]
    return value


@test
def images_are_described_as_qemu_describes_them(t):
    """query-block and info block, for chains that are named in every way."""
    def create(*words):
        t.run("qemu-img", "create", "-q", "-f", *words)

    base, mid, top, old = (t.path(n) for n in ("base.raw", "mid.qcow2", "top.qcow2", "old.qcow2"))
    create("raw", base, "3000001")
    create("qcow2", "-b", "base.raw", "-F", "raw", mid)
    create("qcow2", "-o", "cluster_size=4k,lazy_refcounts=on", "-b", mid, "-F", "qcow2", top, "4M")
    create("qcow2", "-o", "compat=0.10", "-b", base, "-F", "raw", old)
    t.run("qemu-io", "-f", "qcow2", "-c", "write 0 1M", old)
    drives = [f"file={path},if=virtio,id={name},{more}" for path, name, more in
              ((top, "top", "format=qcow2,cache=none"), (old, "old", "format=qcow2,readonly=on"),
               (t.path("raw"), "raw", "format=raw"))]
    create("raw", t.path("raw"), "5000000")
    seen = []
    for sidecar in (False, True):
        vm = VM(t, guest=False, sidecar=sidecar, drives=drives,
                name="ours" if sidecar else "plain").start()
        text = [re.sub(r"#block\d+", "", vm.hmp(command)) for command in
                ("info block", "info block -v", "info block top", "info block old -v")]
        seen.append((without_node_names(vm.qmp("query-block")), text))
        vm.quit()
    for theirs, ours in zip(seen[0][0], seen[1][0]):
        equal(ours, theirs)
    for theirs, ours in zip(seen[0][1], seen[1][1]):
        equal(ours, theirs)


# ---- clients ------------------------------------------------------------------------

@test
def a_greeting_with_the_version_of_qemu(t):
    vm = quiet(t)
    plain = VM(t, guest=False, sidecar=False, name="plain").start()
    equal(vm.qmp.greeting["QMP"]["version"], plain.qmp.greeting["QMP"]["version"])
    equal(vm.qmp.greeting["QMP"]["capabilities"], [])
    equal(vm.qmp("query-version"), plain.qmp("query-version"))


@test
def many_clients_at_once(t):
    vm = quiet(t)
    clients = [vm.new_qmp() for _ in range(20)]
    ids = [[c.send("query-status"), c.send("nope"), c.send("query-backup"),
            c.send("query-commands"), c.send("query-qmp-schema")] for c in clients]
    for client, (status, nope, backup, commands, schema) in zip(clients, ids):
        equal(client.receive(status)["status"], "prelaunch")
        try:
            client.receive(nope)
            raise AssertionError("nope worked")
        except QMPError as error:
            equal(error.cls, "CommandNotFound")
        equal(client.receive(backup), {})
        contains(names(client.receive(commands)), "backup")
        equal(len(client.receive(schema)) > 1000, True)


@test
def events_go_to_every_client_after_negotiation(t):
    vm = quiet(t)
    a, b = vm.new_qmp(), vm.new_qmp()
    silent = QMP(vm.qmp_path, vm.alive, negotiate=False)
    t.defer(silent.close)
    for _ in range(3):
        a("cont")
        equal(a.wait_event("RESUME")["event"], "RESUME")
        b("stop")
        equal(a.wait_event("STOP"), b.wait_event("STOP"))
    silent("qmp_capabilities")
    equal(silent.events, [])


@test
def clients_that_vanish_harm_nobody(t):
    vm = quiet(t, sizes=[4 * MIB])
    rng = random.Random(3)
    parts = [b'{"execute":"query-qmp-schema"}', b'{"execute":"query-status"}', b'{"execute":"que',
             b'{"execute":"stop"}', b'{"execute":"backup-cancel"}', b"[[[[", b'"\xff',
             b'{"execute":"query-commands"}', b'{"execute":"human-monitor-command","arguments":'
             b'{"command-line":"info status"}}']
    for i in range(150):
        s = connect(vm.qmp_path)
        if i % 3:
            s.sendall(b'{"execute":"qmp_capabilities"}')
        for _ in range(rng.randrange(8)):
            s.sendall(rng.choice(parts))
        if i % 2:
            s.recv(100)
        s.close()
    equal(vm.qmp("query-status")["status"], "prelaunch")
    vm.quit()
    equal("anitizer" in vm.stderr(), False)


@test
def a_client_that_never_reads_holds_nobody_up(t):
    vm = quiet(t)
    s = connect(vm.qmp_path)
    t.defer(s.close)
    s.setblocking(False)
    request = b'{"execute":"query-qmp-schema"}' * 1000
    sent = s.send(b'{"execute":"qmp_capabilities"}')
    try:
        while True:
            sent += s.send(request)
    except BlockingIOError:
        pass
    for _ in range(5):
        equal(vm.qmp("query-status")["running"], False)
    # It was not disconnected: the answers are there.
    s.setblocking(True)
    s.settimeout(SOON)
    data = b""
    while data.count(b"\n") < 5:
        data += s.recv(MIB)


@test
def a_long_command_holds_up_only_its_client(t):
    vm = quiet(t, sizes=[8 * MIB])
    slow, fast = vm.new_qmp(), vm.new_qmp()
    fifo = t.path("fifo")
    os.mkfifo(fifo)
    # It waits for a reader, off the main thread; the others are served.
    request = slow.send("backup", {"backup-file": fifo})
    for _ in range(5):
        equal(fast("query-status")["running"], False)
    with open(fifo, "rb") as f:
        slow.receive(request, "backup")
        equal(f.read()[:4], b"VMA\0")
    wait_backup(fast)


# ---- commands of QEMU's that are ours too ------------------------------------------------

@test
def hmp_by_qmp_knows_our_commands(t):
    vm = quiet(t, sizes=[MIB])
    equal(vm.qmp.hmp("info backup").replace("\r\n", "\n").strip(), vm.hmp("info backup").strip())
    contains(vm.qmp.hmp("help backup"), "backup [-s]")
    contains(vm.qmp.hmp("info status"), "VM status: paused")
    contains(vm.qmp.hmp("backup"), "backup: ")


@test
def arguments_of_backup(t):
    vm = quiet(t, sizes=[MIB])
    path = t.path("a.vma")
    for arguments, desc in (
            ({}, "Parameter 'backup-file' is missing"),
            ({"backup_file": path, "backupfile": path},
             "Parameters 'backup-file' and 'backupfile' are the same and can't both be given"),
            ({"backup_file": path, "format": "tar"}, "Parameter 'format' does not accept value 'tar'"),
            ({"backup_file": path, "speed": -1}, "Parameter 'speed' expects a non-negative value"),
            ({"backup_file": path, "speed": "1M"},
             "Invalid parameter type for 'speed', expected: integer"),
            ({"backup_file": path, "state": True}, "Parameter 'state' is not supported yet: only "
             "drives can be backed up, not memory and devices"),
            ({"backup_file": path, "config_file": 3},
             "Invalid parameter type for 'config-file', expected: StrOrArray"),
            ({"backup_file": path, "config_file": [path, 3]},
             "Invalid parameter type for 'config-file[1]', expected: string"),
            ({"backup_file": path, "nonsense": 3}, "Parameter 'nonsense' is unexpected"),
            ({"backup_file": "/dev/fdset/x"}, "'/dev/fdset/x' does not name a set of file descriptors"),
            ({"backup_file": "/dev/fdset/7"}, "File descriptor named 'fdset-id:7' not found"),
            ({"backup_file": "/dev/fdname/x"}, "File descriptor named 'x' not found")):
        error = vm.qmp.error("backup", **arguments)
        equal((error.cls, error.desc), ("GenericError", desc))
    equal(vm.qmp.error("backup", backup_file=path, devlist="nope").cls, "DeviceNotFound")
    contains(vm.qmp.error("backup", backup_file="-").desc, "standard output ('-') belongs to QEMU")
    equal(vm.qmp("query-backup"), {})
    equal(os.path.exists(path), False)


@test
def older_spellings_of_backup(t):
    vm = quiet(t, sizes=[MIB])
    path, config = t.path("a.vma"), t.path("vm.conf")
    with open(config, "w", encoding="ascii") as f:
        f.write("memory: 128\n")
    uuid = vm.qmp("backup", backupfile=path, config_filename=config, state=False)
    status = wait_backup(vm.qmp)
    equal((status["uuid"], status["transferred"], status["backup-file"]), (uuid, MIB, path))
    equal(vm.qmp("backup_cancel"), {})
    equal(vm.qmp("query-backup"), status)
    contains(t.run(program("vma"), "list", path), "vm.conf")


# ---- descriptors ---------------------------------------------------------------------------

def add_socket_chardev(qmp, id_, fdname):
    request = qmp.send("chardev-add", {"id": id_, "backend": {"type": "socket", "data": {
        "addr": {"type": "fd", "data": {"str": fdname}}, "server": False}}})
    return qmp.receive(request, "chardev-add")


def closed(s):
    """Have all others let go of the other end?"""
    s.setblocking(False)
    try:
        return s.recv(1) == b""
    except BlockingIOError:
        return False


@test
def named_descriptors_reach_qemu_and_are_used_up(t):
    vm = quiet(t)
    ours, theirs = socket.socketpair()
    vm.qmp.getfd("sock", theirs.detach())
    add_socket_chardev(vm.qmp, "c0", "sock")
    equal(closed(ours), False)
    equal(vm.qmp.error("closefd", fdname="sock").desc, "File descriptor named 'sock' not found")
    equal(vm.qmp.error("chardev-add", id="c1", backend={"type": "socket", "data": {
        "addr": {"type": "fd", "data": {"str": "sock"}}, "server": False}}).cls, "GenericError")
    vm.qmp("chardev-remove", id="c0")
    wait_for(lambda: closed(ours), "the socket closed by everybody")


@test
def each_client_has_names_of_its_own(t):
    vm = quiet(t)
    a, b = vm.new_qmp(), vm.new_qmp()
    pairs = [socket.socketpair(), socket.socketpair()]
    for qmp, pair in zip((a, b), pairs):
        qmp.getfd("same", pair[1].detach())
    add_socket_chardev(a, "ca", "same")
    vm.qmp("chardev-remove", id="ca")
    wait_for(lambda: closed(pairs[0][0]), "the first client's socket closed")
    equal(closed(pairs[1][0]), False)
    add_socket_chardev(b, "cb", "same")
    vm.qmp("chardev-remove", id="cb")
    wait_for(lambda: closed(pairs[1][0]), "the second client's socket closed")


@test
def descriptors_go_with_their_client(t):
    vm = quiet(t)
    keep = vm.new_qmp()
    qmp = vm.new_qmp()
    ours, theirs = socket.socketpair()
    qmp.getfd("x", theirs.detach())
    equal(closed(ours), False)
    qmp.close()
    wait_for(lambda: closed(ours), "the socket closed")
    equal(keep("query-status")["running"], False)


@test
def requests_with_descriptors_may_be_pipelined(t):
    """As with QEMU: each descriptor belongs to the command it was sent with."""
    for sidecar in (False, True):
        vm = VM(t, guest=False, sidecar=sidecar, name=f"vm{sidecar}").start()
        pairs = [socket.socketpair() for _ in range(5)]
        ids = [vm.qmp.send("getfd", {"fdname": f"x{i}"}, fds=[p[1].fileno()])
               for i, p in enumerate(pairs)]
        for pair in pairs:
            pair[1].close()
        for request in ids:
            equal(vm.qmp.receive(request), {})
        for i in (3, 0, 4, 1, 2):
            equal(closed(pairs[i][0]), False)
            vm.qmp("closefd", fdname=f"x{i}")
            wait_for(lambda n=i: closed(pairs[n][0]), f"socket {i} closed")


@test
def sets_of_descriptors_are_the_same_here_and_in_qemu(t):
    vm = quiet(t, sizes=[MIB])
    vm.qmp("cont")  # QEMU clears its sets up only while the VM runs
    path = t.path("a.vma")
    for flags in (os.O_RDONLY, os.O_WRONLY):
        fd = os.open(path, flags | os.O_CREAT, 0o600)
        info = vm.qmp("add-fd", fds=[fd], fdset_id=12, opaque=f"flags {flags}")
        os.close(fd)
        equal(info["fdset-id"], 12)
    sets = vm.qmp("query-fdsets")
    equal(len(sets), 1)
    equal(sorted(f["opaque"] for f in sets[0]["fds"]), ["flags 0", "flags 1"])
    vm.qmp("backup", backup_file="/dev/fdset/12")
    wait_backup(vm.qmp)
    with open(path, "rb") as f:
        equal(f.read(4), b"VMA\0")
    vm.qmp("remove-fd", fdset_id=12, fd=info["fd"])
    contains(vm.qmp.error("backup", backup_file="/dev/fdset/12").desc, "open for writing")
    vm.qmp("remove-fd", fdset_id=12)
    equal(vm.qmp("query-fdsets"), [])
    contains(vm.qmp.error("backup", backup_file="/dev/fdset/12").desc, "not found")


@test
def a_set_of_the_command_line_takes_a_backup(t):
    vm = VM(t, sizes=[MIB], guest=False,
            options=["-add-fd", "fd=9,set=3,opaque=rd", "-add-fd", "fd=8,set=3"])
    path = t.path("a.vma")
    vm.command = ["sh", "-c", f'exec 8>{path} 9</dev/null; exec "$@"', "sh", *vm.command]
    vm.start()
    vm.qmp("cont")
    other = vm.new_qmp()
    equal(len(other("query-fdsets")), 1)
    other.close()
    vm.qmp("backup", backup_file="/dev/fdset/3")
    wait_backup(vm.qmp)
    contains(t.run(program("vma"), "verify", path), "")
    contains(vm.qmp.error("backup", backup_file="/dev/fdset/8").desc, "not found")
    # Clients come and go, and so do their sets; this one stays.
    fd = os.open("/dev/null", os.O_RDONLY)
    vm.qmp("add-fd", fds=[fd], fdset_id=4)
    os.close(fd)
    vm.qmp.close()
    again = wait_for_sets(vm, [3])
    again("backup", backup_file="/dev/fdset/3")
    wait_backup(again)
    again("remove-fd", fdset_id=3)
    contains(again.error("backup", backup_file="/dev/fdset/3").desc, "not found")
    again.send("quit")
    equal(vm.wait_exit(), 0)


def wait_for_sets(vm, want):
    """A new client that finds these sets; before it the last one has to be gone
    for everybody."""
    def look():
        qmp = vm.new_qmp()
        if [s["fdset-id"] for s in qmp("query-fdsets")] == want:
            return qmp
        qmp.close()
        return None
    return wait_for(look, f"sets {want}")


@test
def sets_go_with_the_last_client(t):
    for sidecar in (False, True):
        vm = VM(t, guest=False, sidecar=sidecar, name=f"vm{sidecar}", options=[]).start()
        vm.qmp("cont")  # QEMU clears up only while the VM runs
        ours, theirs = socket.socketpair()
        vm.qmp("add-fd", fds=[theirs.fileno()])
        theirs.close()
        equal(len(vm.qmp("query-fdsets")), 1)
        vm.qmp.close()
        wait_for(lambda s=ours: closed(s), "the socket closed")
        equal(vm.new_qmp()("query-fdsets"), [])


@test
def a_backup_to_a_named_pipe_end(t):
    vm = quiet(t, sizes=[MIB])
    reader, writer = os.pipe()
    vm.qmp.getfd("out", writer)
    vm.qmp("backup", backup_file="/dev/fdname/out")
    with os.fdopen(reader, "rb") as f:
        data = f.read()  # to the end of file: nobody keeps the other end
    equal(data[:4], b"VMA\0")
    wait_backup(vm.qmp)
    equal(vm.qmp.error("backup", backup_file="/dev/fdname/out").desc,
          "File descriptor named 'out' not found")


# ---- the end ---------------------------------------------------------------------------------

@test
def the_end_of_qemu_ends_the_conversation(t):
    vm = quiet(t)
    others = [vm.new_qmp() for _ in range(3)]
    pid = vm.process.pid
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        child = int(f.read().split()[0])
    os.kill(child, 9)
    for qmp in others:
        try:
            while True:
                qmp.read()
        except (EOFError, ConnectionError):
            pass
    vm.wait_exit()


@test
def the_end_during_commands(t):
    for i in range(5):
        vm = quiet(t, sizes=[4 * MIB], name=f"vm{i}")
        clients = [vm.new_qmp() for _ in range(4)]
        fifo = t.path(f"fifo{i}")
        os.mkfifo(fifo)
        clients[0].send("backup", {"backup-file": fifo})
        for qmp in clients[1:]:
            for _ in range(i):
                qmp.send("query-commands")
                qmp.send("query-status")
        clients[1].send("query-qmp-schema")
        clients[-1].send("quit")
        equal(vm.wait_exit(), 0)


main()
