#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The schema generator: what it makes of good schemas, what it says of bad ones."""

import json
import os
import re
import subprocess
import sys

from lib.tap import contains, equal, main, test

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
GENERATOR = os.path.join(ROOT, "scripts", "qapi-gen.py")
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "qapi"))

# pylint: disable=wrong-import-position
from gen import gen_docs, gen_introspect  # noqa: E402
from gen.schema import Schema, SchemaError, c_enum_const, c_name  # noqa: E402


def doc(name, *lines):
    """A doc block; lines starting with @ are members."""
    return "\n".join(["##", f"# @{name}:", "#", "# What it is.", "#",
                      *(f"# {line}" if line else "#" for line in lines), "#", "# Since: 0.1", "##", ""])


def write(t, text, name="schema.json"):
    path = t.path(name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def schema(t, text):
    return Schema(write(t, text))


def refused(t, text, line, message):
    """The schema is refused with exactly that place and message."""
    path = write(t, text)
    try:
        Schema(path)
    except SchemaError as error:
        place = line if isinstance(line, str) else f"{path}:{line}"
        equal(str(error), f"{place}: {message}")
    else:
        raise AssertionError(f"accepted: {text}")


# ---- text ---------------------------------------------------------------------

BAD_TEXT = [
    ("{", 1, "expected string"),
    ("{ 'enum' }", 1, "expected ':'"),
    ("\n\n{ 'enum': }", 3, "expected string or word or '{' or '['"),
    ("{ 'enum': 'A', }", 1, "expected string"),
    ("{ 'enum': 'A' 'data': [] }", 1, "expected ','"),
    ("{ 'enum': 'A', 'data': [ 'a', ] }", 1, "expected a value"),
    ("{ 'enum': 'A',\n 'enum': 'B' }", 2, "duplicate key 'enum'"),
    ("{ 'enum': \"A\" }", 1, "stray '\"A\"'"),
    ("{ 'enum': 'A }", 1, "string is not closed, or has a backslash"),
    ("{ 'enum': 'A\\n' }", 1, "string is not closed, or has a backslash"),
    ("{ 'enum': 'Ä' }", 1, "string has characters other than printable ASCII"),
    ("{ 'enum': 12 }", 1, "stray '12'"),
    ("[]", 1, "expected '{'"),
    ("##\n# @A:\n", 3, "doc block is not closed by '##'"),
    ("##\n# @A:\n#x\n##\n", 3, "a line of a doc block begins with '# '"),
    ("##\n# @A: text\n##\n", 2, "a doc block begins with '@NAME:' alone on its line"),
    ("##\n# @A:\n#\n# @b: x\n# @b: y\n##\n", 5, "'@b:' is documented twice"),
    ("##\n# @A:\n#\n# Since: 1\n# @b: y\n##\n", 5, "'@b:' can't follow 'Since:'"),
    (doc("A"), 1, "documentation of 'A' is not followed by its definition"),
    (doc("A") + doc("B"), 1, "documentation of 'A' is not followed by its definition"),
    ("{ 'include': 3 }", 1, "expected string or word or '{' or '['"),
    ("{ 'include': [] }", 1, "value of 'include' must be a string"),
    ("{ 'include': 'x', 'data': 'y' }", 1, "an 'include' has no other keys"),
    ("{ 'pragma': 'x' }", 1, "value of 'pragma' must be an object"),
    ("{ 'pragma': { 'x': [] } }", 1, "unknown pragma 'x'"),
    ("{ 'pragma': { 'member-name-exceptions': 'x' } }", 1,
     "pragma 'member-name-exceptions' must be a list of strings"),
]


@test
def mistakes_in_the_text_are_named_with_their_line(t):
    for text, line, message in BAD_TEXT:
        if message.startswith("expected string or word") and "3" in text:
            message = "stray '3'"
        refused(t, text, line, message)


@test
def a_missing_include_is_named(t):
    path = t.path("nowhere.json")
    refused(t, "\n{ 'include': 'nowhere.json' }", 2,
            f"can't read include file '{path}': No such file or directory")


@test
def files_are_included_once_and_in_order(t):
    write(t, "{ 'include': 'schema.json' }\n" + doc("One", "@a: x") +
          "{ 'enum': 'One', 'data': [ 'a' ] }", "one.json")
    made = schema(t, "{ 'include': 'one.json' }\n{ 'include': 'one.json' }\n" +
                  doc("Two", "@b: x") + "{ 'enum': 'Two', 'data': [ 'b' ] }")
    equal([e.name for e in made.entities], ["One", "Two"])


@test
def comments_are_ignored(t):
    made = schema(t, "# a comment\n#\n" + doc("A", "@a: x") + "# another\n"
                  "{ 'enum': 'A', # here\n  'data': [ 'a' ] } # and here\n")
    equal(made.types["A"].values, ["a"])


# ---- definitions ------------------------------------------------------------------

ENUM = doc("E", "@a: x", "", "@b: x") + "{ 'enum': 'E', 'data': [ 'a', 'b' ] }\n"  # 11 lines
S = doc("S", "@x: x") + "{ 'struct': 'S', 'data': { 'x': 'int' } }\n"              # 10 lines


def one(definition, name="T", *lines):
    """A definition after its documentation, and the line it is on."""
    text = doc(name, *lines)
    return text + definition, text.count("\n") + 1


BAD = [
    # (documented members, definition, message)
    ((), "{ 'foo': 'T' }", "expression has none, or more than one, of 'enum', 'struct', 'union', "
     "'alternate', 'command', 'event'"),
    ((), "{ 'enum': 'T', 'struct': 'T' }", "expression has none, or more than one, of 'enum', "
     "'struct', 'union', 'alternate', 'command', 'event'"),
    ((), "{ 'enum': 'T' }", "enum 'T' lacks 'data'"),
    ((), "{ 'enum': 'T', 'data': [], 'base': 'S' }", "enum 'T' has unknown key 'base'"),
    ((), "{ 'enum': 't', 'data': [] }", "name of enum 't' is not of the form CamelCase"),
    ((), "{ 'struct': ['T'], 'data': {} }", "name of struct must be a string"),
    ((), "{ 'struct': 'TList', 'data': {} }", "type name 'TList' ends in 'List', which arrays use"),
    ((), "{ 'command': 'a_b' }", "name of command 'a_b' is not of the form lower-case-with-hyphens"),
    ((), "{ 'event': 'a' }", "name of event 'a' is not of the form UPPER_CASE"),
    ((), "{ 'struct': 'str', 'data': {} }", "name of struct 'str' is not of the form CamelCase"),
    ((), "{ 'enum': 'T', 'data': 'a' }", "enum 'T': 'data' must be a list of strings"),
    ((), "{ 'enum': 'T', 'data': [ 'A' ] }", "enum 'T': bad value 'A'"),
    ((), "{ 'enum': 'T', 'data': [ 'a-b', 'a_b' ] }", "enum 'T': value 'a_b' collides with 'a-b'"),
    ((), "{ 'struct': 'T', 'data': [] }", "struct 'T': 'data' must be an object"),
    ((), "{ 'struct': 'T', 'data': { 'x': 'nope' } }",
     "struct 'T': member 'x' uses unknown type 'nope'"),
    ((), "{ 'struct': 'T', 'data': { 'x': [ 'nope' ] } }",
     "struct 'T': member 'x' uses unknown type 'nope'"),
    ((), "{ 'struct': 'T', 'data': { 'x': [ 'int', 'int' ] } }",
     "struct 'T': member 'x': an array type is ['NAME']"),
    ((), "{ 'struct': 'T', 'data': { 'x': true } }",
     "struct 'T': member 'x': a type is 'NAME' or ['NAME']"),
    ((), "{ 'struct': 'T', 'data': { 'x': 'null' } }",
     "struct 'T': member 'x' is null; only an alternate may be"),
    ((), "{ 'struct': 'T', 'data': { 'X': 'int' } }",
     "struct 'T': name of member 'X' is not of the form lower-case-with-hyphens, or begins with "
     "'has-'"),
    ((), "{ 'struct': 'T', 'data': { 'has-x': 'int' } }",
     "struct 'T': name of member 'has-x' is not of the form lower-case-with-hyphens, or begins with "
     "'has-'"),
    ((), "{ 'struct': 'T', 'data': { 'x': { 'type': 'int', 'if': 'A' } } }",
     "struct 'T': member 'x' may only have 'type'"),
    ((), "{ 'struct': 'T', 'base': 'E', 'data': {} }", "struct 'T': base 'E' is no struct"),
    ((), "{ 'struct': 'T', 'base': {}, 'data': {} }", "struct 'T': 'base' must be a name"),
    ((), "{ 'struct': 'T', 'base': 'T', 'data': {} }", "'T' is its own base"),
    (("@x: x",), "{ 'struct': 'T', 'base': 'S', 'data': { 'x': 'str' } }",
     "'T': member 'x' collides with 'x'"),
    ((), "{ 'alternate': 'T', 'data': {} }", "alternate 'T': 'data' must be an object with branches"),
    ((), "{ 'alternate': 'T', 'data': { 'a': 'str', 'b': 'E' } }",
     "alternate 'T': branch 'b' can't be told from 'a'"),
    ((), "{ 'alternate': 'T', 'data': { 'a': 'int', 'b': 'number' } }",
     "alternate 'T': branch 'b' can't be told from 'a'"),
    ((), "{ 'alternate': 'T', 'data': { 'a': 'any' } }",
     "alternate 'T': branch 'a' can't be of type 'any'"),
    ((), "{ 'union': 'T', 'base': 'S', 'data': {} }", "union 'T' lacks 'discriminator'"),
    ((), "{ 'union': 'T', 'base': 'S', 'discriminator': 'x', 'data': {} }",
     "union 'T': discriminator 'x' is no mandatory enum member of the base"),
    ((), "{ 'union': 'T', 'base': { '*e': 'E' }, 'discriminator': 'e', 'data': {} }",
     "union 'T': discriminator 'e' is no mandatory enum member of the base"),
    ((), "{ 'union': 'T', 'base': { 'e': 'E' }, 'discriminator': 'e', 'data': { 'c': 'S' } }",
     "union 'T': branch 'c' is no value of enum 'E'"),
    ((), "{ 'union': 'T', 'base': { 'e': 'E' }, 'discriminator': 'e', 'data': { 'a': 'E' } }",
     "union 'T': branch 'a' is no struct"),
    ((), "{ 'union': 'T', 'base': { 'e': 'E', 'x': 'int' }, 'discriminator': 'e', "
     "'data': { 'a': 'S' } }", "'T': member 'x' collides with 'x'"),
    ((), "{ 'command': 't', 'data': 'E' }", "command 't': 'data' is no struct"),
    ((), "{ 'command': 't', 'boxed': true }", "command 't': 'boxed' needs 'data'"),
    ((), "{ 'command': 't', 'boxed': true, 'data': {} }",
     "command 't': 'boxed' needs the name of a type as 'data'"),
    ((), "{ 'command': 't', 'boxed': false }", "command 't': 'boxed' may only be true"),
    ((), "{ 'command': 't', 'success-response': true }",
     "command 't': 'success-response' may only be false"),
    ((), "{ 'command': 't', 'coroutine': true, 'allow-oob': true }",
     "command 't': 'coroutine' and 'allow-oob' exclude each other"),
    ((), "{ 'command': 't', 'returns': 'int' }", "command 't': 'returns' is neither an object nor a "
     "list of them (pragma 'command-returns-exceptions' allows it)"),
    ((), "{ 'command': 't', 'returns': [ 'E' ] }", "command 't': 'returns' is neither an object nor "
     "a list of them (pragma 'command-returns-exceptions' allows it)"),
    ((), "{ 'command': 't', 'gen': false }", "command 't' has unknown key 'gen'"),
    ((), "{ 'struct': 'T', 'data': {}, 'features': 'x' }", "'features' must be a list of strings"),
]


@test
def bad_definitions_are_named_with_their_line(t):
    for lines, definition, message in BAD:
        match = re.search(r"'(?:enum|struct|union|alternate|command|event)': '([^']*)'", definition)
        text, line = one(definition, match.group(1) if match else "T", *lines)
        before = ENUM + S
        refused(t, before + text, before.count("\n") + line, message)


@test
def names_are_defined_once(t):
    path = t.path("schema.json")
    refused(t, ENUM + ENUM, 24, f"type 'E' is defined already ({path}:12)")
    command = doc("c") + "{ 'command': 'c' }\n"
    refused(t, command + command, 18, f"command 'c' is defined already ({path}:9)")


@test
def other_spellings_must_be_the_same_command(t):
    def pair(first, second):
        return ("{ 'pragma': { 'command-name-exceptions': [ 'a_b' ] } }\n" + doc("a-b", *first[0]) +
                first[1] + "\n" + doc("a_b", *second[0]) + second[1])
    plain = ((), "{ 'command': 'a-b' }"), ((), "{ 'command': 'a_b' }")
    equal(len(schema(t, pair(*plain)).commands), 2)
    x = (("@x: x",), "{ 'command': 'a_b', 'data': { 'x': 'int' } }")
    refused(t, pair(plain[0], x), 20, "command 'a_b' is another spelling of 'a-b', so its arguments "
            "must be the same named type")


# ---- documentation -----------------------------------------------------------------

@test
def everything_must_be_documented(t):
    refused(t, "{ 'enum': 'E', 'data': [] }", 1, "enum 'E' is not documented")
    refused(t, doc("F") + "{ 'enum': 'E', 'data': [] }", 1,
            "documentation is for 'F', but enum 'E' follows")
    refused(t, doc("E") + "{ 'enum': 'E', 'data': [ 'a' ] }", 1,
            "documentation of enum 'E' lacks '@a:'")
    refused(t, doc("E", "@a: x") + "{ 'enum': 'E', 'data': [] }", 1,
            "documentation of enum 'E' mentions '@a:', which it does not have")
    refused(t, "##\n# @E:\n##\n{ 'enum': 'E', 'data': [] }", 1,
            "documentation of enum 'E' lacks 'Since:'")
    refused(t, doc("c", "Returns: x") + "{ 'event': 'C' }", 1,
            "documentation is for 'c', but event 'C' follows")
    refused(t, doc("C", "Returns: x") + "{ 'event': 'C' }", 1, "only a command has 'Returns:'")
    refused(t, S + doc("c") + "{ 'command': 'c', 'returns': 'S' }", 11,
            "documentation of command 'c' lacks 'Returns:'")
    refused(t, doc("c") + "{ 'command': 'c', 'features': [ 'f' ] }", 1,
            "documentation of command 'c' has other features than its definition")
    schema(t, doc("c", "Features:", "@f: x") + "{ 'command': 'c', 'features': [ 'f' ] }")


@test
def the_pragma_names_what_exists(t):
    refused(t, "{ 'pragma': { 'emulator-defined': [ 'x' ] } }", "pragma",
            "'emulator-defined' names 'x', which is not defined")


@test
def the_reference_says_what_the_schema_says(t):
    text = gen_docs.generate(schema(t, "##\n# = Title\n#\n# Words of @x.\n##\n" + ENUM + S +
                             doc("c", "@list: some words,", "    and more", "",
                                 "Returns: a @S", "", "Errors:", "- `A`: one", "- `B`: two", "",
                                 "Example:", "", "-> { \"execute\":", "     \"c\" }") +
                             "{ 'command': 'c', 'data': { '*list': [ 'E' ] }, 'returns': 'S' }"))
    for part in ("## Title\n\nWords of `x`.\n", "### E\n\nEnumeration. What it is.\n\n- `a`: x\n",
                 "### c\n\nCommand → [S](#s). What it is.\n\nArguments:\n\n"
                 "- `list` (list of [E](#e), optional): some words,\n  and more\n",
                 "**Returns:** a `S`\n", "**Errors:**\n\n- `A`: one\n- `B`: two\n",
                 "```\n-> { \"execute\":\n     \"c\" }\n```\n"):
        contains(text, part)


@test
def the_reference_in_docs_is_up_to_date(t):
    t.run(GENERATOR, os.path.join(ROOT, "qapi", "qapi-schema.json"), "--check-docs",
          os.path.join(ROOT, "docs", "qmp-reference.md"))
    stale = write(t, "old", "reference.md")
    done = subprocess.run([GENERATOR, os.path.join(ROOT, "qapi", "qapi-schema.json"), "--check-docs",
                           stale], capture_output=True, text=True, check=False)
    equal(done.returncode, 1)
    contains(done.stderr, f"{stale} is out of date: run `make qmp-reference`")


# ---- what is made --------------------------------------------------------------------

@test
def names_in_c(_):
    equal(c_enum_const("BackupFormat", "vma"), "BACKUP_FORMAT_VMA")
    equal(c_enum_const("QMPCapability", "oob"), "QMP_CAPABILITY_OOB")
    equal(c_enum_const("X86CpuKind", "a-b"), "X86_CPU_KIND_A_B")
    equal(c_name("if"), "q_if")
    equal(c_name("8bit"), "q_8bit")
    equal(c_name("a-b.c"), "a_b_c")


def introspect(made):
    """The entries by name."""
    text = gen_introspect.generate(made, "")["qapi-introspect.c"]
    lines = re.findall(r'^    "(\{.*)"$', text, re.M)
    entries = json.loads("[" + "".join(lines).replace('\\"', '"').replace("\\\\", "\\") + "]")
    equal(len({e["name"] for e in entries}), len(entries), "number of names")
    return {e["name"]: e for e in entries}


@test
def introspection_masks_names_as_qemu_does(t):
    made = schema(t, ENUM + S + doc("A", "@s: x", "", "@i: x") +
                  "{ 'alternate': 'A', 'data': { 's': 'str', 'i': 'uint8' } }\n" +
                  doc("U", "@e: x") + "{ 'union': 'U', 'base': { 'e': 'E' }, 'discriminator': 'e', "
                  "'data': { 'a': 'S' } }\n" + doc("Unused") + "{ 'struct': 'Unused', 'data': {} }\n" +
                  doc("c", "@e: x", "", "@a: x", "", "@l: x", "", "Returns: x") +
                  "{ 'command': 'c', 'data': { 'e': 'E', '*a': 'A', 'l': [ 'U' ] }, "
                  "'returns': [ 'S' ] }\n" + doc("NOW") + "{ 'event': 'NOW' }\n")
    entries = introspect(made)
    command = entries["c"]
    equal(command["meta-type"], "command")
    args = entries[command["arg-type"]]
    equal([m["name"] for m in args["members"]], ["e", "a", "l"])
    equal(args["members"][1], {"name": "a", "default": None, "type": args["members"][1]["type"]})
    enum = entries[args["members"][0]["type"]]
    equal(enum["values"], ["a", "b"])
    alternate = entries[args["members"][1]["type"]]
    equal(alternate["members"], [{"type": "str"}, {"type": "int"}])
    array = entries[args["members"][2]["type"]]
    equal(array["name"], f"[{array['element-type']}]")
    union = entries[array["element-type"]]
    equal(union["tag"], "e")
    empty = entries[union["variants"][1]["type"]]
    equal(union["variants"][0]["case"], "a")
    equal(empty, {"name": empty["name"], "members": [], "meta-type": "object"})
    equal(entries[entries["NOW"]["arg-type"]], empty)
    equal(entries["str"], {"name": "str", "json-type": "string", "meta-type": "builtin"})
    masked = [n for n, e in entries.items() if e["meta-type"] in ("object", "enum", "alternate")]
    equal(sorted(masked), sorted(f"s{i}" for i in range(len(masked))))
    contains(" ".join(masked), "s0")
    equal(len(masked), 6)  # arguments, E, A, U, S, the empty object; not Unused


@test
def a_bad_schema_leaves_no_files(t):
    path = write(t, "{ 'enum': 'E' }")
    out = t.path("out")
    done = subprocess.run([GENERATOR, path, "-o", out], capture_output=True, text=True, check=False)
    equal(done.returncode, 1)
    equal(done.stderr, f"{path}:1: enum 'E' lacks 'data'\n")
    equal(os.path.exists(out), False)
    done = subprocess.run([GENERATOR, "/nonexistent.json", "-o", out], capture_output=True, text=True,
                          check=False)
    equal(done.stderr, "/nonexistent.json: No such file or directory\n")


@test
def unchanged_output_is_not_written_again(t):
    path, out = write(t, ENUM), t.path("out")
    t.run(GENERATOR, path, "-o", out)
    before = {n: os.stat(os.path.join(out, n)).st_ino for n in os.listdir(out)}
    equal(len(before), 8)
    t.run(GENERATOR, path, "-o", out)
    equal({n: os.stat(os.path.join(out, n)).st_ino for n in os.listdir(out)}, before)


main()
