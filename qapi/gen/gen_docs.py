# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference for users of QMP, in Markdown."""

import re

from .schema import (AlternateType, Array, Command, Doc, EnumType, Event, ObjectType)

HEAD = """# QMP reference

<!-- Made by scripts/qapi-gen.py from qapi/*.json: do not edit; `make qmp-reference` makes it again. -->

The commands and events that qemu-sidecar adds to QEMU's, or answers itself. Every other command of
the installed QEMU works too: it is passed through, and QEMU's own reference describes it.
`query-commands` and `query-qmp-schema` list both together.

"""


def inline(lines):
    """A paragraph; @name becomes code."""
    text = "\n".join(lines)
    return re.sub(r"(?<![\w@])@([A-Za-z0-9_][A-Za-z0-9_.-]*[A-Za-z0-9_]|[A-Za-z0-9_])", r"`\1`", text)


def type_text(type_):
    if isinstance(type_, Array):
        return "list of " + type_text(type_.element)
    if isinstance(type_, (EnumType, ObjectType, AlternateType)):
        return "[%s](#%s)" % (type_.name, type_.name.lower())
    return type_.name


def items(rows):
    """A list of (head, lines)."""
    result = ""
    for head, lines in rows:
        body = inline(lines).strip()
        result += "- %s" % head + (": " + body.replace("\n", "\n  ") if body else "") + "\n"
    return result + "\n" if rows else ""


def member_rows(members, doc):
    return [("`%s` (%s%s)" % (m.name, type_text(m.type), ", optional" if m.optional else ""),
             doc.args.get(m.name, [])) for m in members]


def sections(doc):
    result = ""
    if doc.features:
        result += "Features:\n\n" + items([("`%s`" % f, lines) for f, lines in doc.features.items()])
    for title, lines in doc.sections:
        if title in ("Example", "Examples"):
            result += "Example:\n\n```\n%s\n```\n\n" % "\n".join(lines)
        elif title in ("Note", "Notes"):
            result += "> %s\n\n" % inline(lines).replace("\n", "\n> ")
        elif title != "TODO":
            body = inline(lines)
            gap = "\n\n" if body.startswith(("- ", "* ")) else " "
            result += "**%s:**%s%s\n\n" % (title, gap, body)
    return result


def paragraph(lines):
    return inline(lines) + "\n\n" if lines else ""


def arguments(title, entity):
    arg = entity.arg_type
    if not arg:
        return ""
    if arg.implicit:
        return "%s:\n\n" % title + items(member_rows(arg.members, entity.doc)) if arg.members else ""
    return "%s: the members of %s.\n\n" % (title, type_text(arg))


def entity_text(entity):
    doc = entity.doc
    if isinstance(entity, Command):
        returns = " → %s" % type_text(entity.returns) if entity.returns else ""
        head = "### %s\n\nCommand%s. " % (entity.name, returns)
        middle = arguments("Arguments", entity)
    elif isinstance(entity, Event):
        head = "### %s\n\nEvent. " % entity.name
        middle = arguments("Data", entity)
    elif isinstance(entity, EnumType):
        head = "### %s\n\nEnumeration. " % entity.name
        middle = items([("`%s`" % v, doc.args.get(v, [])) for v in entity.values])
    elif isinstance(entity, AlternateType):
        head = "### %s\n\nOne of several types. " % entity.name
        middle = items([(type_text(b.type), doc.args.get(b.name, [])) for b in entity.branches])
    else:
        head = "### %s\n\nObject. " % entity.name
        middle = object_text(entity)
    return head + paragraph(doc.body) + middle + sections(doc)


def object_text(type_):
    result = ""
    if type_.base and not type_.base.implicit:
        result += "All members of %s, and:\n\n" % type_text(type_.base)
    if type_.base and type_.base.implicit:
        result += items(member_rows(type_.base.members, type_.doc))
    result += items(member_rows(type_.members, type_.doc))
    for value, branch in type_.branches.items():
        result += "- when `%s` is `%s`: the members of %s\n" % (type_.tag.name, value, type_text(branch))
    return result + ("\n" if type_.branches else "")


def generate(schema):
    """The text of the reference."""
    text = HEAD
    for entity in schema.entities:
        if isinstance(entity, Doc):
            lines = [re.sub(r"^(=+) ", lambda m: "#" * (len(m.group(1)) + 1) + " ", l)
                     for l in entity.body]
            text += inline(lines) + "\n\n"
        else:
            text += entity_text(entity)
    return text.rstrip("\n") + "\n"
