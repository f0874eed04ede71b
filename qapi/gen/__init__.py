# SPDX-License-Identifier: GPL-2.0-or-later
"""The generator behind scripts/qapi-gen.py: a schema in QAPI's dialect in, C and Markdown out.

    parser.py      text -> expressions with their doc blocks, file and line
    schema.py      expressions -> checked entities
    gen_types.py   C types, reading them from and writing them as JSON
    gen_commands.py, gen_events.py    marshalling and prototypes
    gen_introspect.py   the data of query-qmp-schema
    gen_docs.py    docs/qmp-reference.md
"""
