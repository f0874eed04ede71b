# SPDX-License-Identifier: GPL-2.0-or-later
"""The schema as query-qmp-schema describes it: qapi-introspect.h, qapi-introspect.c.

As in QEMU, names of types are masked by numbers, integers of all widths are "int", and only what a
command or an event reaches is listed.  QEMU numbers its own types 0, 1, …; ours are s0, s1, … so
that one list can hold both.  Commands that QEMU describes in the same words (pragma
'emulator-defined') are left out: the merged list keeps QEMU's entry.
"""

import json

from .common import c_comment, c_string, guarded
from .schema import AlternateType, Array, Builtin, EnumType, c_name


class Introspection:
    def __init__(self, schema):
        self.entries, self.names, self.queue = [], {}, []
        entities = [e for e in schema.commands + schema.events
                    if e.name not in schema.pragma.emulator_defined]
        for entity in entities:
            self.entity(entity, entity in schema.commands)
        while self.queue:
            self.type(self.queue.pop(0))

    def entity(self, entity, is_command):
        entry = {"name": entity.name}
        if is_command:
            entry["ret-type"] = self.name(entity.returns)
            if entity.allow_oob:
                entry["allow-oob"] = True
        entry["meta-type"] = "command" if is_command else "event"
        entry["arg-type"] = self.name(entity.arg_type)
        self.finish(entry, entity.features)

    def finish(self, entry, features):
        if features:
            entry["features"] = features
        self.entries.append(entry)

    def name(self, type_):
        """The name on the wire; what it stands for is described later.  None: the empty object."""
        if isinstance(type_, Array):
            key = name = "[%s]" % self.name(type_.element)
        elif isinstance(type_, Builtin):
            key = name = "int" if type_.json == "int" else type_.name
        else:
            key = type_.name if type_ else ""
            name = self.names.get(key) or "s%d" % sum(n[0] == "s" and n[1:].isdigit()
                                                      for n in self.names.values())
        if key not in self.names:
            self.names[key] = name
            self.queue.append((name, type_))
        return name

    def type(self, item):
        name, type_ = item
        entry = {"name": name}
        if type_ is None:
            entry.update({"members": [], "meta-type": "object"})
        elif isinstance(type_, Builtin):
            entry.update({"json-type": type_.json, "meta-type": "builtin"})
        elif isinstance(type_, Array):
            entry.update({"element-type": self.name(type_.element), "meta-type": "array"})
        elif isinstance(type_, EnumType):
            entry.update({"members": [{"name": v} for v in type_.values], "meta-type": "enum",
                          "values": type_.values})
        elif isinstance(type_, AlternateType):
            entry.update({"members": [{"type": self.name(b.type)} for b in type_.branches],
                          "meta-type": "alternate"})
        else:
            self.object(entry, type_)
        self.finish(entry, getattr(type_, "features", []))

    def object(self, entry, type_):
        if type_.branches:
            entry["tag"] = type_.tag.name
            entry["variants"] = [{"case": v, "type": self.name(type_.branches.get(v))}
                                 for v in type_.tag.type.values]
        entry["members"] = [
            {"name": m.name, **({"default": None} if m.optional else {}), "type": self.name(m.type)}
            for m in type_.all_members()]
        entry["meta-type"] = "object"


def generate(schema, prefix):
    """{file name: text}"""
    name = prefix + "qapi-introspect"
    symbol = c_name(prefix + "qmp_schema_json")
    lines = [json.dumps(e) for e in Introspection(schema).entries]
    text = "".join("    %s\n" % c_string(line + ("," if i < len(lines) - 1 else ""))
                   for i, line in enumerate(lines))
    emulator = "".join("    %s,\n" % c_string(n) for n in sorted(schema.pragma.emulator_defined))
    header = """/* An array of JSON: what query-qmp-schema says of our commands. */
extern const char %s[];
/* Commands and events of ours that QEMU's own entry describes; NULL at the end. */
extern const char *const %s[];
""" % (symbol, c_name(prefix + "qmp_emulator_defined"))
    source = """#include "qapi/%sqapi-introspect.h"
#include <stddef.h>

const char %s[] =
    "["
%s    "]";

const char *const %s[] = {
%s    NULL,
};
""" % (prefix, symbol, text, c_name(prefix + "qmp_emulator_defined"), emulator)
    return {
        name + ".h": c_comment("Introspection") + guarded(name + ".h", header),
        name + ".c": c_comment("Introspection") + source,
    }
