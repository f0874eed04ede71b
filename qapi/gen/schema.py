# SPDX-License-Identifier: GPL-2.0-or-later
"""Checked entities: what the schema defines.

Every mistake is a SchemaError with file and line.  After Schema(path), all names are resolved:
member.type, command.arg_type and so on are Type objects.
"""

import re

from .parser import Doc, Expression, Parser, SchemaError

C_KEYWORDS = set("""auto break case char const continue default do double else enum extern float for
goto if inline int long register restrict return short signed sizeof static struct switch typedef
union unsigned void volatile while bool true false asm typeof linux unix errno errp mon args ret
""".split())


def c_name(name):
    """A name of the schema as one of C."""
    result = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if result in C_KEYWORDS or result[0].isdigit():
        result = "q_" + result
    return result


def c_enum_const(type_name, value):
    """BackupFormat, vma -> BACKUP_FORMAT_VMA."""
    prefix = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", type_name)
    prefix = re.sub(r"([A-Z])([A-Z][a-z])", r"\1_\2", prefix)
    return (prefix + "_" + re.sub(r"[^A-Za-z0-9_]", "_", value)).upper()


class Type:
    """Any type. json: what it is on the wire, for alternates and messages."""

    json = None
    c_pointer = False  # is the C type a pointer that is NULL when absent?

    def __init__(self, name):
        self.name = name

    def ident(self):
        """What the names of its C functions end in."""
        return c_name(self.name)

    def c_type(self):
        raise NotImplementedError

    def c_const_type(self):
        return self.c_type()


class Builtin(Type):
    TABLE = {
        # name: (C type, JSON type, ident)
        "str": ("char *", "string", "str"),
        "int": ("int64_t ", "int", "int"),
        "int8": ("int8_t ", "int", "int8"),
        "int16": ("int16_t ", "int", "int16"),
        "int32": ("int32_t ", "int", "int32"),
        "int64": ("int64_t ", "int", "int"),
        "uint8": ("uint8_t ", "int", "uint8"),
        "uint16": ("uint16_t ", "int", "uint16"),
        "uint32": ("uint32_t ", "int", "uint32"),
        "uint64": ("uint64_t ", "int", "uint64"),
        "size": ("uint64_t ", "int", "uint64"),
        "number": ("double ", "number", "number"),
        "bool": ("bool ", "boolean", "bool"),
        "any": ("json_object *", "value", "any"),
        "null": ("bool ", "null", "null"),
    }

    def __init__(self, name):
        super().__init__(name)
        self.c, self.json, self._ident = self.TABLE[name]
        self.c_pointer = name in ("str", "any")

    def ident(self):
        return self._ident

    def c_type(self):
        return self.c

    def c_const_type(self):
        return "const char *" if self.name == "str" else self.c


class Array(Type):
    json = "array"

    def __init__(self, element):
        super().__init__("[%s]" % element.name)
        self.element = element

    def ident(self):
        return self.element.ident() + "List"

    def c_type(self):
        return self.ident() + " *"


class Definition(Type):
    """A type that the schema defines."""

    def __init__(self, expr, name):
        super().__init__(name)
        self.where, self.doc, self.features = expr.where, expr.doc, []


class EnumType(Definition):
    json = "string"

    def __init__(self, expr, name, values, prefix=None):
        super().__init__(expr, name)
        self.values, self.prefix = values, prefix

    def const(self, value):
        if self.prefix:
            return self.prefix + "_" + re.sub(r"[^A-Za-z0-9_]", "_", value).upper()
        return c_enum_const(self.name, value)

    def c_type(self):
        return c_name(self.name) + " "


class Member:
    """Of a struct, or an argument; or a branch of a union or an alternate."""

    def __init__(self, name, type_, optional):
        self.name, self.type, self.optional = name, type_, optional

    def needs_has(self):
        return self.optional and not self.type.c_pointer

    def c_name(self):
        return c_name(self.name)


class ObjectType(Definition):
    """A struct or a union, or the implicit type of a command's arguments."""

    json = "object"
    c_pointer = True

    def __init__(self, expr, name, implicit=False):
        super().__init__(expr, name)
        self.implicit = implicit
        self.base = None
        self.members = []        # own ones
        self.tag = None          # union: the Member that chooses
        self.branches = {}       # value -> ObjectType

    def all_members(self):
        return (self.base.all_members() if self.base else []) + self.members

    def c_type(self):
        return c_name(self.name) + " *"


class AlternateType(Definition):
    json = "alternate"
    c_pointer = True

    def __init__(self, expr, name):
        super().__init__(expr, name)
        self.branches = []

    def c_type(self):
        return c_name(self.name) + " *"


class Command:
    def __init__(self, expr, name):
        self.where, self.doc, self.name, self.features = expr.where, expr.doc, name, []
        self.arg_type = None   # ObjectType or None
        self.boxed = False
        self.returns = None    # Type or None
        self.coroutine = self.allow_oob = self.allow_preconfig = False
        self.success_response = True


class Event:
    def __init__(self, expr, name):
        self.where, self.doc, self.name, self.features = expr.where, expr.doc, name, []
        self.arg_type = None
        self.boxed = False


class Schema:
    """entities: types, commands and events, and free Doc blocks, in order of the files."""

    KEYS = {
        "enum": ({"enum", "data"}, {"prefix", "features"}),
        "struct": ({"struct", "data"}, {"base", "features"}),
        "union": ({"union", "base", "discriminator", "data"}, {"features"}),
        "alternate": ({"alternate", "data"}, {"features"}),
        "command": ({"command"}, {"data", "boxed", "returns", "coroutine", "success-response",
                                  "allow-oob", "allow-preconfig", "features"}),
        "event": ({"event"}, {"data", "boxed", "features"}),
    }

    def __init__(self, path):
        parser = Parser(path)
        self.pragma = parser.pragma
        self.types = {name: Builtin(name) for name in Builtin.TABLE}
        self.arrays = {}
        self.commands, self.events, self.entities = [], [], []
        todo = []
        for item in parser.items:
            if isinstance(item, Expression):
                meta = self.check_keys(item)
                entity = self.declare(item, meta)
                todo.append((item, meta, entity))
                self.entities.append(entity)
            else:
                self.entities.append(item)
        for item, meta, entity in todo:
            getattr(self, "define_" + meta)(item, entity)
        for item, meta, entity in todo:
            self.check_object(entity)
            self.check_doc(item, meta, entity)
        self.check_aliases()
        self.check_pragma()

    # ---- names and keys ------------------------------------------------

    def check_keys(self, expr):
        metas = [key for key in expr.value if key in self.KEYS]
        if len(metas) != 1:
            raise SchemaError(expr.where, "expression has none, or more than one, of %s"
                              % ", ".join("'%s'" % m for m in self.KEYS))
        needed, allowed = self.KEYS[metas[0]]
        name = expr.value[metas[0]]
        what = "%s '%s'" % (metas[0], name)
        for key in needed - set(expr.value):
            raise SchemaError(expr.where, "%s lacks '%s'" % (what, key))
        for key in expr.value:
            if key not in needed | allowed:
                raise SchemaError(expr.where, "%s has unknown key '%s'" % (what, key))
            if key in ("boxed", "coroutine", "allow-oob", "allow-preconfig") and \
                    expr.value[key] is not True:
                raise SchemaError(expr.where, "%s: '%s' may only be true" % (what, key))
        if expr.value.get("success-response", False) is not False:
            raise SchemaError(expr.where, "%s: 'success-response' may only be false" % what)
        return metas[0]

    def declare(self, expr, meta):
        name = expr.value[meta]
        self.check_name(expr, meta, name)
        classes = {"struct": ObjectType, "union": ObjectType, "alternate": AlternateType}
        if meta == "command":
            entity, table = Command(expr, name), self.commands
        elif meta == "event":
            entity, table = Event(expr, name), self.events
        else:
            if name in self.types:
                other = getattr(self.types[name], "where", "a built-in type")
                raise SchemaError(expr.where, "type '%s' is defined already (%s)" % (name, other))
            if meta == "enum":
                entity = EnumType(expr, name, [], expr.value.get("prefix"))
            else:
                entity = classes[meta](expr, name)
            self.types[name] = entity
            table = None
        if table is not None:
            for other in table:
                if other.name == name:
                    raise SchemaError(expr.where, "%s '%s' is defined already (%s)"
                                      % (meta, name, other.where))
            table.append(entity)
        entity.features = self.features(expr)
        return entity

    def features(self, expr):
        features = expr.value.get("features", [])
        if not isinstance(features, list) or not all(isinstance(f, str) for f in features):
            raise SchemaError(expr.where, "'features' must be a list of strings")
        return features

    def check_name(self, expr, meta, name):
        patterns = {"command": r"[a-z][a-z0-9]*(-[a-z0-9]+)*$", "event": r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$"}
        pattern = patterns.get(meta, r"[A-Z][A-Za-z0-9]*$")
        if not isinstance(name, str):
            raise SchemaError(expr.where, "name of %s must be a string" % meta)
        if meta == "command" and name in self.pragma.command_name_exceptions:
            pattern = r"[a-z][a-z0-9_-]*$"
        if not re.match(pattern, name):
            raise SchemaError(expr.where, "name of %s '%s' is not of the form %s"
                              % (meta, name, {"command": "lower-case-with-hyphens",
                                              "event": "UPPER_CASE"}.get(meta, "CamelCase")))
        if meta in ("enum", "struct", "union", "alternate") and name.endswith("List"):
            raise SchemaError(expr.where, "type name '%s' ends in 'List', which arrays use" % name)

    def check_member_name(self, where, what, name):
        if name in self.pragma.member_name_exceptions:
            return
        if not re.match(r"[a-z][a-z0-9]*(-[a-z0-9]+)*$", name) or name.startswith("has-"):
            raise SchemaError(where, "%s: name of member '%s' is not of the form "
                              "lower-case-with-hyphens, or begins with 'has-'" % (what, name))

    # ---- types ----------------------------------------------------------

    def lookup(self, expr, what, spec):
        if isinstance(spec, list):
            if len(spec) != 1 or not isinstance(spec[0], str):
                raise SchemaError(expr.where, "%s: an array type is ['NAME']" % what)
            element = self.lookup(expr, what, spec[0])
            if element.name == "null":
                raise SchemaError(expr.where, "%s: array of null" % what)
            return self.arrays.setdefault(element.name, Array(element))
        if not isinstance(spec, str):
            raise SchemaError(expr.where, "%s: a type is 'NAME' or ['NAME']" % what)
        if spec not in self.types:
            raise SchemaError(expr.where, "%s uses unknown type '%s'" % (what, spec))
        return self.types[spec]

    def members(self, expr, what, data):
        if not isinstance(data, dict):
            raise SchemaError(expr.where, "%s: 'data' must be an object" % what)
        result = []
        for key, spec in data.items():
            name = key[1:] if key.startswith("*") else key
            self.check_member_name(expr.where, what, name)
            if isinstance(spec, dict):
                if set(spec) != {"type"}:
                    raise SchemaError(expr.where, "%s: member '%s' may only have 'type'" % (what, name))
                spec = spec["type"]
            type_ = self.lookup(expr, "%s: member '%s'" % (what, name), spec)
            if type_.name == "null":
                raise SchemaError(expr.where, "%s: member '%s' is null; only an alternate may be"
                                  % (what, name))
            result.append(Member(name, type_, key != name))
        return result

    def define_enum(self, expr, enum):
        what = "enum '%s'" % enum.name
        data = expr.value["data"]
        if not isinstance(data, list) or not all(isinstance(v, str) for v in data):
            raise SchemaError(expr.where, "%s: 'data' must be a list of strings" % what)
        consts = {}
        for value in data:
            if not re.match(r"[a-z0-9][a-z0-9]*([-_][a-z0-9]+)*$", value) and \
                    value not in self.pragma.member_name_exceptions:
                raise SchemaError(expr.where, "%s: bad value '%s'" % (what, value))
            const = enum.const(value)
            if const in consts or const == enum.const("_max"):
                raise SchemaError(expr.where, "%s: value '%s' collides with '%s'"
                                  % (what, value, consts.get(const, "max")))
            consts[const] = value
        enum.values = data

    def object_base(self, expr, what, base):
        if isinstance(base, dict):
            implicit = ObjectType(expr, "q_obj_%s_base" % expr.value.get("union"), implicit=True)
            implicit.members = self.members(expr, what, base)
            return implicit
        base = self.lookup(expr, what, base)
        if not isinstance(base, ObjectType) or base.tag:
            raise SchemaError(expr.where, "%s: base '%s' is no struct" % (what, base.name))
        return base

    def define_struct(self, expr, struct):
        what = "struct '%s'" % struct.name
        struct.members = self.members(expr, what, expr.value["data"])
        if "base" in expr.value:
            if not isinstance(expr.value["base"], str):
                raise SchemaError(expr.where, "%s: 'base' must be a name" % what)
            struct.base = self.object_base(expr, what, expr.value["base"])

    def define_union(self, expr, union):
        what = "union '%s'" % union.name
        union.base = self.object_base(expr, what, expr.value["base"])
        if not isinstance(expr.value["data"], dict):
            raise SchemaError(expr.where, "%s: 'data' must be an object" % what)
        union.branch_specs = {}
        for value, spec in expr.value["data"].items():
            branch = self.lookup(expr, "%s: branch '%s'" % (what, value), spec)
            if not isinstance(branch, ObjectType):
                raise SchemaError(expr.where, "%s: branch '%s' is no struct" % (what, value))
            union.branch_specs[value] = branch
        union.tag_name = expr.value["discriminator"]
        # Marks it as a union for object_base; resolved in check_object, when bases are known.
        union.tag = Member("?", None, False)

    def define_alternate(self, expr, alternate):
        what = "alternate '%s'" % alternate.name
        taken = {}
        if not isinstance(expr.value["data"], dict) or not expr.value["data"]:
            raise SchemaError(expr.where, "%s: 'data' must be an object with branches" % what)
        for name, spec in expr.value["data"].items():
            self.check_member_name(expr.where, what, name)
            branch = self.lookup(expr, "%s: branch '%s'" % (what, name), spec)
            if branch.json in ("alternate", "value"):
                raise SchemaError(expr.where, "%s: branch '%s' can't be of type '%s'"
                                  % (what, name, branch.name))
            key = "int" if branch.json == "number" else branch.json
            if key in taken:
                raise SchemaError(expr.where, "%s: branch '%s' can't be told from '%s'"
                                  % (what, name, taken[key]))
            taken[key] = name
            alternate.branches.append(Member(name, branch, False))

    # ---- commands and events ---------------------------------------------

    def arguments(self, expr, what, boxed, suffix):
        data = expr.value.get("data")
        if data is None:
            if boxed:
                raise SchemaError(expr.where, "%s: 'boxed' needs 'data'" % what)
            return None
        if isinstance(data, dict):
            if boxed:
                raise SchemaError(expr.where, "%s: 'boxed' needs the name of a type as 'data'" % what)
            implicit = ObjectType(expr, "q_obj_%s_%s" % (c_name(expr.value.get("command")
                                  or expr.value.get("event")), suffix), implicit=True)
            implicit.members = self.members(expr, what, data)
            return implicit
        type_ = self.lookup(expr, what, data)
        if not isinstance(type_, ObjectType):
            raise SchemaError(expr.where, "%s: 'data' is no struct" % what)
        if type_.tag and not boxed:
            raise SchemaError(expr.where, "%s: 'data' is a union, so it must be 'boxed'" % what)
        return type_

    def define_command(self, expr, command):
        value, what = expr.value, "command '%s'" % command.name
        command.boxed = value.get("boxed", False)
        command.arg_type = self.arguments(expr, what, command.boxed, "arg")
        command.coroutine = value.get("coroutine", False)
        command.allow_oob = value.get("allow-oob", False)
        command.allow_preconfig = value.get("allow-preconfig", False)
        command.success_response = value.get("success-response", True)
        if command.allow_oob and command.coroutine:
            raise SchemaError(expr.where, "%s: 'coroutine' and 'allow-oob' exclude each other" % what)
        if "returns" in value:
            command.returns = self.lookup(expr, what, value["returns"])
            base = command.returns.element if isinstance(command.returns, Array) else command.returns
            if not isinstance(base, ObjectType) and \
                    command.name not in self.pragma.command_returns_exceptions:
                raise SchemaError(expr.where, "%s: 'returns' is neither an object nor a list of them "
                                  "(pragma 'command-returns-exceptions' allows it)" % what)

    def define_event(self, expr, event):
        what = "event '%s'" % event.name
        event.boxed = expr.value.get("boxed", False)
        event.arg_type = self.arguments(expr, what, event.boxed, "arg")

    # ---- after everything is known --------------------------------------

    def check_object(self, entity):
        if isinstance(entity, (Command, Event)):
            entity = entity.arg_type
        if not isinstance(entity, ObjectType):
            return
        seen, base = {entity}, entity.base
        while base:
            if base in seen:
                raise SchemaError(entity.where, "'%s' is its own base" % entity.name)
            seen.add(base)
            base = base.base
        self.check_clash(entity, entity.all_members())
        if entity.tag:
            self.check_union(entity)

    def check_clash(self, entity, members):
        names = {}
        for member in members:
            for name in [member.c_name()] + (["has_" + member.c_name()] if member.needs_has() else []):
                if name in names:
                    raise SchemaError(entity.where, "'%s': member '%s' collides with '%s'"
                                      % (entity.name, member.name, names[name]))
                names[name] = member.name

    def check_union(self, union):
        what = "union '%s'" % union.name
        union.tag = next((m for m in union.base.all_members() if m.name == union.tag_name), None)
        if not union.tag or union.tag.optional or not isinstance(union.tag.type, EnumType):
            raise SchemaError(union.where, "%s: discriminator '%s' is no mandatory enum member of "
                              "the base" % (what, union.tag_name))
        for value, branch in union.branch_specs.items():
            if value not in union.tag.type.values:
                raise SchemaError(union.where, "%s: branch '%s' is no value of enum '%s'"
                                  % (what, value, union.tag.type.name))
            if branch.tag:
                raise SchemaError(union.where, "%s: branch '%s' is itself a union" % (what, value))
            self.check_clash(union, union.base.all_members() + branch.all_members())
        union.branches = union.branch_specs

    def check_doc(self, expr, meta, entity):
        doc, what = expr.doc, "%s '%s'" % (meta, entity.name)
        if doc is None:
            raise SchemaError(expr.where, "%s is not documented" % what)
        if doc.name != entity.name:
            raise SchemaError(doc.where, "documentation is for '%s', but %s follows"
                              % (doc.name, what))
        if doc.section("Since") is None:
            raise SchemaError(doc.where, "documentation of %s lacks 'Since:'" % what)
        if meta != "command" and doc.section("Returns") is not None:
            raise SchemaError(doc.where, "only a command has 'Returns:'")
        if meta == "command" and entity.returns and doc.section("Returns") is None:
            raise SchemaError(doc.where, "documentation of %s lacks 'Returns:'" % what)
        names = self.documented_names(meta, entity)
        for name in doc.args:
            if name not in names:
                raise SchemaError(doc.where, "documentation of %s mentions '@%s:', which it does not "
                                  "have" % (what, name))
        for name in names:
            if name not in doc.args:
                raise SchemaError(doc.where, "documentation of %s lacks '@%s:'" % (what, name))
        if set(doc.features) != set(entity.features):
            raise SchemaError(doc.where, "documentation of %s has other features than its definition"
                              % what)

    @staticmethod
    def documented_names(meta, entity):
        if meta == "enum":
            return entity.values
        if meta == "alternate":
            return [b.name for b in entity.branches]
        if meta == "union":
            return [m.name for m in entity.base.members] if entity.base.implicit else []
        if meta == "struct":
            return [m.name for m in entity.members]
        return [m.name for m in entity.arg_type.members] \
            if entity.arg_type and entity.arg_type.implicit else []

    def check_aliases(self):
        """Spellings like a-b and a_b are one C function: they must agree."""
        first = {}
        for command in self.commands:
            other = first.setdefault(c_name(command.name), command)
            implicit = command.arg_type and command.arg_type.implicit
            if other is not command and (implicit or any(
                    getattr(command, key) is not getattr(other, key)
                    for key in ("arg_type", "boxed", "returns"))):
                raise SchemaError(command.where, "command '%s' is another spelling of '%s', so its "
                                  "arguments must be the same named type" % (command.name, other.name))

    def check_pragma(self):
        names = {c.name for c in self.commands} | {e.name for e in self.events}
        for name in self.pragma.emulator_defined - names:
            raise SchemaError("pragma", "'emulator-defined' names '%s', which is not defined" % name)


__all__ = ["AlternateType", "Array", "Builtin", "Command", "Doc", "EnumType", "Event", "ObjectType",
           "Schema", "SchemaError", "c_name"]
