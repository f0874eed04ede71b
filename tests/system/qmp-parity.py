#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP as the installed QEMU speaks it: the same bytes go to a plain QEMU and to
one behind qemu-sidecar, and the same bytes must come back, but for time stamps.
"""

import json
import os
import random
import re

from lib.qmp import connect
from lib.tap import SCALE, SOON, equal, main, test
from lib.vm import VM

LONG = bool(os.environ.get("SIDECAR_TEST_LONG"))

# Whatever the reader was in the middle of, FF ends it; then comes this.
LAST = b'\xff{"execute":"query-name","id":"the end"}'
LAST_REPLY = b'{"return": {}, "id": "the end"}\r\n'
S = b'{"execute":"query-name"}'


class Pair:
    """Two VMs that differ in the sidecar only."""

    def __init__(self, t, options=()):
        self.vms = [VM(t, guest=False, sidecar=sidecar, name=name, options=options)
                    for sidecar, name in ((False, "plain"), (True, "sidecar"))]
        for vm in self.vms:
            vm.start(wait=False)

    @staticmethod
    def talk(vm, data, negotiate, pieces):
        """All that comes back for the data, without the greeting."""
        with connect(vm.qmp_path, vm.alive) as s:
            s.settimeout(SOON)
            got = b""

            def read(until):
                nonlocal got
                while not got.endswith(until):
                    part = s.recv(65536)
                    if not part:
                        raise EOFError(f"{vm.name} closed the connection after {got!r}")
                    got += part
            read(b"\r\n")
            got = b""
            if negotiate:
                s.sendall(b'{"execute":"qmp_capabilities"}')
                read(b"\r\n")
                got = b""
            last = LAST if negotiate else b'\xff{"execute":"qmp_capabilities"}' + LAST
            for i in range(0, len(data), pieces):
                s.sendall(data[i:i + pieces])
            s.sendall(last)
            read(LAST_REPLY)
            return re.sub(rb'"timestamp": \{[^}]*\}', b'"timestamp": {}', got)

    def both(self, data, negotiate=True, pieces=1 << 20):
        return [self.talk(vm, data, negotiate, pieces) for vm in self.vms]

    def same(self, data, **kwargs):
        plain, ours = self.both(data, **kwargs)
        equal(ours, plain, f"the answer to {data[:300]!r}")


def command(name, arguments="", after=""):
    return (f'{{"execute":"{name}"' + (f',"arguments":{arguments}' if arguments else "") +
            after + "}").encode()


# ---- text ------------------------------------------------------------------------

TEXTS = [
    b"", S, S + S, b" \r\n\t" + S + b"\r\n", S + b"[",
    # brackets, commas, colons
    b"} ", b"]", b"{]", b'{"a"}', b'{"a":}', b'{"a":1,}', b"{,}", b"[1,]", b"[1 2]", b"{1:2}",
    b'{"a" 1}', b'{"a":1 "b":2}', b'{"a":1:2}', b'{"a"::2}', b"{[1]:2}", b"{{}:2}", b"{[}]:2}",
    b'{"a":[}]}', b"[}", b"[1}", b'{"a":1]', b'{"a"]', b"[{]}", b"}}}", b'{"x":[1,2}' + S, b"]{}",
    b":", b",,", b"[[[" + S + b"]]]", b'{"execute":"query-name"\n' + S,
    b'{"execute":"query-name","execute":"query-status"}', b'{"execute":"query-name","id":{"a":1,"a":2}}',
    # words and stray bytes
    b"foo ", b"tru ", b"TRUE ", b"nullx ", b"foo bar baz\n", b"{foo bar}", b'{"a":foo, b\n}', b"a_b ",
    b"a1 ", b"[1a]", b"/* c */", b"# c\n", b"%d ", b"%(x) ", b"\x00", b"\x1b ", b"\xff", b"\xef\xbb\xbf",
    b"\x0b", b"\x0c", b"N\x01foo ", b"N\tfoo ", b"N,foo ", b"N\x7ffoo ", b"N\xfefoo ",
    # values that are no requests
    b"1 2 3 ", b'"a" "b"', b"null ", b"true ", b"[]", b"{}", b"''",
    # strings
    b'"abc\n"', b'"abc\\x"', b"{'execute':'query-name','id':'it\\'s'}",
    b"{'execute':'query-name','id':'it\"s'}", b'"\\U0041"', b'"\\' + b'\x01"', b'"a\x7fb\x01',
    b"'\\u12'", b'"\\u"', b'"\xc3(" ', b'["\xe2\x82"]', b'"\xc3(', b'{"execute":"query-na\\u006de"}',
    b'{"\\u0000":1}', b'{"a\\u0000b":2,"execute":"query-name"}',
    b'{"execute":"query-name","id":"abc}\n' + S,
]
IDS = [
    b'"\\u00e4\\ud83d\\ude00\xc3\xa4\xf0\x9f\x98\x80 \\b\\f\\n\\r\\t\\/\\\\ <\x7f>"', b'"\\u0000"',
    b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xef\xbf\xbe"',
    b'"\xef\xb7\x90"', b'"\xfc\x80\x80\x80\x80\x80"', b'"\\ud800"', b'"\\ude00"', b'"\\uffff"',
    b'"\\ufdd0"', b'"\\u12"', b'"\\ud800\\u0041"', b'"\\ud83d\\uZZ00"', b'"\\uZZZZ"', b'"\\u00"',
    b'"\\ud83dx"', b'"\x01"', b'"\t"', b'"\x00"', b'"\\\x80"',
    b"01", b"-", b"-0", b"1.", b".5", b"1.5e", b"+1", b"1-1", b"--1", b"1.5.5", b"1e5e5", b"1e+",
    b"1.0", b"123.456", b"5e-324", b"1.7976931348623157e308",
    b"[1.5,1e3,1E+2,1e-7,0.1,123456789012345678901234567890,18446744073709551615,"
    b"18446744073709551616,-9223372036854775808,-9223372036854775809,9223372036854775808,3.0,1e22,"
    b"2.5e-310,-0.0]",
    b"nul", b"null", b"NaN", b"Infinity", b"true", b"{}", b"[]", b'[[],{}]', b'{"a":[1,2.5,"x",null]}',
    b'""', b"%d",
]


@test
def any_text_is_answered_as_by_qemu(t):
    pair = Pair(t)
    for data in TEXTS:
        pair.same(data)
        pair.same(data + b" " + S)
    for value in IDS:
        pair.same(b'{"execute":"query-name","id":' + value + b"}" + S)
        pair.same(b'{"execute":"nonsense","id":' + value + b"}")


@test
def text_in_pieces_is_answered_as_by_qemu(t):
    pair = Pair(t)
    for data in TEXTS[::3] + [b'{"execute":"query-name","id":' + v + b"}" for v in IDS[::4]]:
        pair.same(data, pieces=1)


@test
def limits_are_those_of_qemu(t):
    pair = Pair(t)
    for depth in (1022, 1023, 1024, 1025, 1026):
        nested = b"[" * depth + b"]" * depth
        pair.same(nested + S)
        pair.same(b'{"execute":"query-name","id":' + nested + b"}" + S)
    pair.same(b'{"execute":"query-name","id":"' + b"x" * 100000 + b'"}')


WORDS = [b"{", b"}", b"[", b"]", b":", b",", b'"a"', b"'b'", b"1", b"-2.5e3", b"true", b"null", b"nul",
         b" ", b"\n", b'"', b"\\", b"\\u00", b'"\\ud83d\\ude00"', b"N", b"\xff", b"\xc3\xa4", b"e", b".",
         b"-", b"0", b'"execute"', b'"query-name"', b'"id"', b'"execute":"query-name"', b'{"id":', S,
         b'"arguments":{', b'"x":', b"\x00", b"\t", b"\r", b"%"]


def comparable(answer):
    """Which of several unexpected members is named depends on the order of QEMU's hash."""
    lines = [json.loads(line) for line in answer.split(b"\r\n") if line]
    for line in lines:
        desc = line.get("error", {}).get("desc")
        if desc:
            line["error"]["desc"] = re.sub(r"(?:member|Parameter) '\w*' is unexpected", "?", desc)
    return lines


@test(limit=240)
def random_text_is_answered_as_by_qemu(t):
    pair = Pair(t)
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    for _ in range(3000 if LONG else 250):
        data = b"".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 25)))
        plain, ours = pair.both(data)
        equal(comparable(ours), comparable(plain), f"seed {seed}: the answer to {data!r}")


# ---- requests --------------------------------------------------------------------------

REQUESTS = [
    b'{"id":{"a":[1,2.5,"x",null]}}', b'{"execute":3}', b'{"execute":3,"id":1}', b'{"execute":null}',
    b'{"execute":[]}', b'{"execute":"query-status","arguments":3}',
    b'{"execute":"query-status","arguments":null}', b'{"execute":"query-status","arguments":[]}',
    b'{"execute":"query-status","foo":1}', b'{"foo":1,"execute":"query-status"}',
    b'{"execute":"query-status","exec-oob":"query-status"}', b'{"exec-oob":"query-status","id":4}',
    b'{"exec-oob":"migrate-pause","id":4}', b'{"execute":""}', b'{"execute":"a\\u0001\\"\xc3\xa4"}',
    b'{"execute":"a\\u0000b"}', b'{"execute": "query-name" , "id" : "x" }',
    command("query-status"), command("query-version"), command("query-version", "{}"),
    command("query-status", '{"x":1}'), command("nosuch", '{"x":1}'), command("nosuch", "3"),
    command("qmp_capabilities"), command("qmp_capabilities", "{}"),
    command("qmp_capabilities", '{"enabl":[]}'), command("qmp_capabilities", '{"enable":"foo"}'),
    command("qmp_capabilities", '{"enable":[1]}'), command("qmp_capabilities", '{"enable":["foo"]}'),
    command("query-commands", '{"x":1}'), command("query-qmp-schema", '{"x":1}'),
    command("human-monitor-command"), command("human-monitor-command", '{"command-line":3}'),
    command("human-monitor-command", '{"command-line":"info version","cpu-index":"a"}'),
    command("human-monitor-command", '{"command-line":"info version","cpu-index":1.5}'),
    command("human-monitor-command", '{"command-line":"info version","y":2}'),
    command("human-monitor-command", '{"command-line":"info version"}'),
    command("human-monitor-command", '{"command-line":"info version","cpu-index":0}'),
    command("human-monitor-command", '{"command-line":"info version","cpu-index":99}'),
    command("human-monitor-command", '{"command-line":"foo"}'),
    command("human-monitor-command", '{"command-line":""}'),
    command("getfd"), command("getfd", '{"fdname":"x"}'), command("getfd", '{"fdname":"3"}'),
    command("getfd", '{"fdname":3}'), command("getfd", "{}"),
    command("closefd"), command("closefd", '{"fdname":"x"}'), command("closefd", '{"fdname":null}'),
    command("add-fd"), command("add-fd", '{"fdset-id":"x"}'), command("add-fd", '{"opaque":3}'),
    command("add-fd", '{"x":3}'),
    command("remove-fd"), command("remove-fd", '{"fdset-id":5}'),
    command("remove-fd", '{"fdset-id":5,"fd":6}'), command("remove-fd", '{"fdset-id":1.5}'),
    command("query-fdsets"),
    # QEMU's own, passed through
    command("balloon", '{"value":-1}'), command("balloon", '{"value":"x"}'),
    command("set_link", '{"name":"a","up":"on"}'), command("device_del", '{"id":"nope"}'),
    command("device-list-properties", '{"typename":"nosuch"}'),
    command("qom-get", '{"path":"/machine","property":"nope"}'), command("qom-list", '{"path":"/"}'),
    command("send-key", '{"keys":[{"data":"zz"}]}'),
    command("send-key", '{"keys":[{"type":"qcode","data":"zz"}]}'),
    command("blockdev-add", '{"driver":"qcow2","file":{"driver":"file"}}'),
    command("blockdev-add", '{"driver":"raw","file":{"driver":"raw","file":3}}'),
    command("query-machines", '{"a":1}'), command("query-block"), command("query-chardev", '{"a":1}'),
    command("query-memory-size-summary"), command("query-cpus-fast", '{"a":1}'),
    command("drive-backup", '{"device":"x","sync":"foo","target":"y"}'),
]


@test
def requests_are_answered_as_by_qemu(t):
    pair = Pair(t)
    for data in REQUESTS:
        pair.same(data)
        pair.same(data[:-1] + b',"id":[7]}')


@test
def before_negotiation_as_by_qemu(t):
    pair = Pair(t)
    for data in [S, command("nonsense", "", ',"id":1'), command("qmp_capabilities", '{"enabl":[]}'),
                 command("qmp_capabilities", '{"enable":"foo"}'), b"[]", b"{}", b"foo ",
                 command("qmp_capabilities", '{"enable":["foo"]}', ',"id":{}'),
                 command("quit", '{"x":1}'), b'{"exec-oob":"qmp_capabilities"}',
                 command("query-commands", "", ',"id":null')]:
        pair.same(data, negotiate=False)


@test
def changes_of_state_and_their_events_as_by_qemu(t):
    pair = Pair(t)
    pair.same(command("cont") + command("stop") + command("cont", "", ',"id":1') +
              command("query-status") + command("system_reset") + command("stop"))


def read_all(s):
    data = b""
    while part := s.recv(65536):
        data += part
    return data


@test
def pretty_output_and_the_last_words_as_by_qemu(t):
    """All of a conversation on a socket of its own, up to the end of file."""
    got = []
    for sidecar in (False, True):
        name = f"pretty{sidecar}"
        path = t.path(name + ".sock")
        vm = VM(t, guest=False, sidecar=sidecar, name=name, options=[
            "-chardev", f"socket,id=p,path={path},server=on,wait=off",
            "-mon", "chardev=p,mode=control,pretty=on"])
        vm.start(wait=False)
        with connect(path, vm.alive) as s:
            s.settimeout(60 * SCALE)
            s.sendall(command("qmp_capabilities", "", ',"id":{"a":[],"b":{}}') + command("nope") +
                      command("query-status", "", ',"id":[1,[2,{"x":"y"}]]') +
                      command("quit", "", ',"id":9'))
            answer = read_all(s)
        equal(vm.wait_exit(), 0)
        got.append(re.sub(rb'"capabilities": \[[^]]*\]', b"",
                          re.sub(rb'"((?:micro)?seconds)": \d+', rb'"\1"', answer)))
    equal(got[1], got[0])


main()
