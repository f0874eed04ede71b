# SPDX-License-Identifier: GPL-2.0-or-later
"""C types with their readers and writers: qapi-types.h, qapi-types.c."""

from .common import Output, c_comment, c_string, guarded
from .schema import AlternateType, Builtin, EnumType, ObjectType, c_enum_const, c_name


def implicit_types(schema):
    """The types of arguments and bases that have no name in the schema."""
    for entity in schema.entities:
        if isinstance(entity, ObjectType) and entity.base and entity.base.implicit:
            yield entity.base
        arg_type = getattr(entity, "arg_type", None)
        if arg_type and arg_type.implicit:
            yield arg_type


def object_types(schema):
    """All, each after those whose members it embeds."""
    done, result = set(), []

    def visit(type_):
        if id(type_) in done:
            return
        done.add(id(type_))
        for branch in type_.branches.values():
            visit(branch)
        result.append(type_)

    for type_ in [*implicit_types(schema), *(e for e in schema.entities if isinstance(e, ObjectType))]:
        visit(type_)
    return result


def enums(schema):
    return [e for e in schema.entities if isinstance(e, EnumType)]


def alternates(schema):
    return [e for e in schema.entities if isinstance(e, AlternateType)]


def own_arrays(schema):
    """Those of builtin types are in qapi-visit.h."""
    seen = {}
    for array in schema.arrays.values():
        base = array.element
        if not isinstance(base, Builtin):
            seen[array.ident()] = array
    return list(seen.values())


def free_call(type_, expression):
    """The statement that frees a value, or None."""
    if isinstance(type_, Builtin):
        return {"str": "g_free(%s);", "any": "json_object_put(%s);"}.get(type_.name, "") % expression \
            if type_.name in ("str", "any") else None
    if isinstance(type_, EnumType):
        return None
    return "qapi_free_%s(%s);" % (type_.ident(), expression)


# ---- declarations -------------------------------------------------------

def declare_enum(out, enum):
    values = "".join("    %s,\n" % enum.const(v) for v in enum.values)
    out.add("""
typedef enum {{name}} {
{{values}}    {{max}},
} {{name}};
extern const QEnumLookup {{name}}_lookup;
#define {{name}}_str(value) qapi_enum_lookup(&{{name}}_lookup, (value))
bool qapi_input_{{name}}(const QapiInput *in, {{name}} *value, GError **errp);
json_object *qapi_output_{{name}}({{name}} value);

""", name=c_name(enum.name), values=values, max=enum.const("_max"))


def member_fields(members, indent="    "):
    text = ""
    for member in members:
        if member.needs_has():
            text += "%sbool has_%s;\n" % (indent, member.c_name())
        text += "%s%s%s;\n" % (indent, member.type.c_type(), member.c_name())
    return text


def declare_functions(out, type_):
    name = c_name(type_.name)
    out.add("""
void qapi_free_{{name}}({{name}} *obj);
G_DEFINE_AUTOPTR_CLEANUP_FUNC({{name}}, qapi_free_{{name}})
bool qapi_input_{{name}}(const QapiInput *in, {{name}} **obj, GError **errp);
json_object *qapi_output_{{name}}(const {{name}} *obj);

""", name=name)


def declare_object(out, type_):
    fields = member_fields(type_.all_members())
    if type_.branches:
        inner = "".join("        %s %s;\n" % (c_name(b.name), c_name(v))
                        for v, b in type_.branches.items())
        fields += "    union { /* by %s */\n%s    } u;\n" % (type_.tag.c_name(), inner)
    out.add("struct {{name}} {\n{{fields}}};\n", name=c_name(type_.name),
            fields=fields or "    char dummy_for_empty_struct;\n")
    declare_functions(out, type_)


def declare_alternate(out, type_):
    name = c_name(type_.name)
    kinds = "".join("    %s,\n" % c_enum_const(type_.name, b.name) for b in type_.branches)
    fields = "".join("        %s%s;\n" % (b.type.c_type(), b.c_name()) for b in type_.branches)
    out.add("""
typedef enum {{name}}Kind {
{{kinds}}} {{name}}Kind;
struct {{name}} {
    {{name}}Kind type;
    union {
{{fields}}    } u;
};
""", name=name, kinds=kinds, fields=fields)
    declare_functions(out, type_)


def header(schema, name):
    out = Output(None, None)
    out.add("#include \"qapi/qapi-visit.h\"\n\n")
    for enum in enums(schema):
        declare_enum(out, enum)
    for type_ in object_types(schema) + alternates(schema):
        out.add("typedef struct {{n}} {{n}};\n", n=c_name(type_.name))
    out.add("\n")
    for array in own_arrays(schema):
        out.add("QAPI_DECLARE_LIST({{list}}, {{type}})\n", list=array.ident(),
                type=array.element.c_type().strip())
    for type_ in alternates(schema):
        declare_alternate(out, type_)
    for type_ in object_types(schema):
        declare_object(out, type_)
    return guarded(name, out.text())


# ---- definitions ----------------------------------------------------------

def define_enum(out, enum):
    values = "".join("    [%s] = %s,\n" % (enum.const(v), c_string(v)) for v in enum.values)
    out.add("""
static const char *const {{name}}_names[] = {
{{values}}};

const QEnumLookup {{name}}_lookup = { {{name}}_names, {{max}} };

bool qapi_input_{{name}}(const QapiInput *in, {{name}} *value, GError **errp)
{
    int found = 0;
    bool ok = qapi_input_enum(in, &{{name}}_lookup, &found, errp);

    *value = ok ? ({{name}})found : ({{name}})0;
    return ok;
}

json_object *qapi_output_{{name}}({{name}} value)
{
    return qapi_output_enum(&{{name}}_lookup, value);
}

""", name=c_name(enum.name), values=values or "    NULL\n", max=enum.const("_max"))


def read_member(member):
    values = {"json": c_string(member.name), "c": member.c_name(), "read": member.type.ident()}
    if member.optional:
        has = "        obj->has_%(c)s = true;\n" % values if member.needs_has() else ""
        return ("""    if (qapi_input_optional(in, %(json)s, &m)) {
        if (!qapi_input_%(read)s(&m, &obj->%(c)s, errp)) {
            return false;
        }
""" % values) + has + "    }\n"
    return """    if (!qapi_input_member(in, %(json)s, &m, errp) ||
        !qapi_input_%(read)s(&m, &obj->%(c)s, errp)) {
        return false;
    }
""" % values


def write_member(member):
    put = "json_object_object_add(to, %s, qapi_output_%s(obj->%s));" % (
        c_string(member.name), member.type.ident(), member.c_name())
    if not member.optional:
        return "    %s\n" % put
    test = "has_" + member.c_name() if member.needs_has() else member.c_name()
    return "    if (obj->%s) {\n        %s\n    }\n" % (test, put)


def switch_branches(type_, statement):
    """A switch over the tag; @statement is a format of the branch's type and field."""
    cases = "".join("    case %s:\n        %s\n" % (
        type_.tag.type.const(v), statement % {"type": c_name(b.name), "field": c_name(v)})
        for v, b in type_.branches.items())
    return "    switch (obj->%s) {\n%s    default:\n        break;\n    }\n" % (
        type_.tag.c_name(), cases)


def define_object(out, type_):
    name, members = c_name(type_.name), type_.all_members()
    names = "".join(c_string(m.name) + ", " for m in members)
    frees = [free_call(m.type, "obj->" + m.c_name()) for m in members]
    clear = "".join("    %s\n" % f for f in frees if f)
    read = "".join(read_member(m) for m in members)
    write = "".join(write_member(m) for m in members)
    more = "NULL"
    if type_.branches:
        clear = switch_branches(type_, "clear_%(type)s(&obj->u.%(field)s);\n        break;") + clear
        read += switch_branches(type_, "if (!read_%(type)s(in, &obj->u.%(field)s, errp)) {\n"
                                "            return false;\n        }\n        break;")
        write += switch_branches(type_, "write_%(type)s(to, &obj->u.%(field)s);\n        break;")
        cases = switch_branches(type_, "more = names_of_%(type)s;\n        break;")
        more = "more"
    out.add("""
static const char *const names_of_{{name}}[] = { {{names}}NULL };

static void clear_{{name}}({{name}} *obj)
{
{{clear}}}

void qapi_free_{{name}}({{name}} *obj)
{
    if (obj) {
        clear_{{name}}(obj);
        g_free(obj);
    }
}

static bool read_{{name}}(const QapiInput *in, {{name}} *obj, GError **errp)
{
{{m}}{{read}}    return true;
}

static void write_{{name}}(json_object *to, const {{name}} *obj)
{
{{write}}}

bool qapi_input_{{name}}(const QapiInput *in, {{name}} **result, GError **errp)
{
    g_autoptr({{name}}) obj = g_new0({{name}}, 1);
{{more_decl}}
    if (!qapi_input_is_object(in, errp) || !read_{{name}}(in, obj, errp)) {
        return false;
    }
{{more_set}}    if (!qapi_input_only(in, names_of_{{name}}, {{more}}, errp)) {
        return false;
    }
    *result = g_steal_pointer(&obj);
    return true;
}

json_object *qapi_output_{{name}}(const {{name}} *obj)
{
    json_object *to = json_object_new_object();

    write_{{name}}(to, obj);
    return to;
}

""", name=name, names=names, clear=clear, read=read, write=write, more=more,
            m="    QapiInput m;\n\n" if members else "",
            more_decl="    const char *const *more = NULL;\n" if type_.branches else "",
            more_set=cases if type_.branches else "")


JSON_TYPES = {"string": "json_type_string", "int": "json_type_int", "boolean": "json_type_boolean",
              "object": "json_type_object", "array": "json_type_array", "null": "json_type_null",
              "number": "json_type_double"}


def define_alternate(out, type_):
    cases_read = cases_free = cases_write = ""
    kinds = {b.type.json for b in type_.branches}
    for b in type_.branches:
        const = c_enum_const(type_.name, b.name)
        labels = "    case %s:\n" % JSON_TYPES[b.type.json]
        if b.type.json == "number" and "int" not in kinds:
            labels += "    case json_type_int:\n"
        cases_read += "%s        obj->type = %s;\n        ok = qapi_input_%s(in, &obj->u.%s, errp);\n" \
            "        break;\n" % (labels, const, b.type.ident(), b.c_name())
        free = free_call(b.type, "obj->u." + b.c_name())
        if free:
            cases_free += "        case %s:\n            %s\n            break;\n" % (const, free)
        cases_write += "    case %s:\n        return qapi_output_%s(obj->u.%s);\n" % (
            const, b.type.ident(), b.c_name())
    out.add("""
void qapi_free_{{name}}({{name}} *obj)
{
    if (obj) {
        switch (obj->type) {
{{free}}        default:
            break;
        }
        g_free(obj);
    }
}

bool qapi_input_{{name}}(const QapiInput *in, {{name}} **result, GError **errp)
{
    g_autoptr({{name}}) obj = g_new0({{name}}, 1);
    bool ok;

    switch (json_object_get_type(in->value)) {
{{read}}    default:
        return qapi_input_no_branch(in, {{quoted}}, errp);
    }
    if (ok) {
        *result = g_steal_pointer(&obj);
    }
    return ok;
}

json_object *qapi_output_{{name}}(const {{name}} *obj)
{
    switch (obj->type) {
{{write}}    default:
        return NULL;
    }
}

""", name=c_name(type_.name), quoted=c_string(type_.name), free=cases_free, read=cases_read,
            write=cases_write)


def define_lists(out, schema):
    for array in own_arrays(schema):
        free = "QAPI_FREE_NOTHING" if isinstance(array.element, EnumType) \
            else "qapi_free_" + array.element.ident()
        out.add("QAPI_DEFINE_LIST({{list}}, {{element}}, {{free}})\n", list=array.ident(),
                element=array.element.ident(), free=free)


def source(schema, prefix):
    out = Output(None, None)
    out.add("#include \"qapi/{{p}}qapi-types.h\"\n\n", p=prefix)
    for enum in enums(schema):
        define_enum(out, enum)
    for type_ in object_types(schema):
        define_object(out, type_)
    for type_ in alternates(schema):
        define_alternate(out, type_)
    define_lists(out, schema)
    return out.text()


def generate(schema, prefix):
    """{file name: text}"""
    name = prefix + "qapi-types"
    return {
        name + ".h": c_comment("Types of QMP") + header(schema, name + ".h"),
        name + ".c": c_comment("Types of QMP") + source(schema, prefix),
    }
