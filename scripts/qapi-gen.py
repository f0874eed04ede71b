#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Make C code, or the Markdown reference, from a QMP schema.

qapi-gen.py SCHEMA -o FOLDER [-p PREFIX]      qapi-{types,commands,events,introspect}.[ch]
qapi-gen.py SCHEMA --docs FILE                the reference
qapi-gen.py SCHEMA --check-docs FILE          fail if FILE is not what --docs would write
"""

import argparse
import os
import re
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "qapi"))

# pylint: disable=wrong-import-position
from gen import gen_commands, gen_docs, gen_events, gen_introspect, gen_types  # noqa: E402
from gen.common import Output  # noqa: E402
from gen.schema import Schema, SchemaError  # noqa: E402


def write_c(schema, folder, prefix):
    os.makedirs(folder, exist_ok=True)
    for module in (gen_types, gen_commands, gen_events, gen_introspect):
        for name, text in module.generate(schema, prefix).items():
            out = Output(os.path.join(folder, name), None)
            out.add(text)
            out.write()


def check_docs(schema, path):
    try:
        with open(path, encoding="utf-8") as file:
            same = file.read() == gen_docs.generate(schema)
    except OSError as error:
        sys.exit("%s: %s" % (path, error.strerror))
    if not same:
        sys.exit("%s is out of date: run `make qmp-reference` and commit it" % path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("schema")
    parser.add_argument("-o", "--output", metavar="FOLDER")
    parser.add_argument("-p", "--prefix", default="")
    parser.add_argument("--docs", metavar="FILE")
    parser.add_argument("--check-docs", metavar="FILE")
    args = parser.parse_args()
    if not re.match(r"([a-z][a-z0-9]*-)*$", args.prefix):
        parser.error("a prefix is lower-case words, each followed by a hyphen")
    try:
        schema = Schema(args.schema)
    except SchemaError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit("%s: %s" % (args.schema, error.strerror))
    if args.output:
        write_c(schema, args.output, args.prefix)
    if args.docs:
        out = Output(args.docs, None)
        out.add(gen_docs.generate(schema))
        out.write()
    if args.check_docs:
        check_docs(schema, args.check_docs)


if __name__ == "__main__":
    main()
