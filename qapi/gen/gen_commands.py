# SPDX-License-Identifier: GPL-2.0-or-later
"""Prototypes of the handlers and the code that calls them: qapi-commands.h, qapi-commands.c."""

from .common import Output, c_comment, c_string, guarded
from .schema import Array, ObjectType, c_name


def parameters(command):
    """C parameters between mon and errp, as (type, name)."""
    if not command.arg_type:
        return []
    if command.boxed:
        return [("%s *" % c_name(command.arg_type.name), "arg")]
    result = []
    for member in command.arg_type.all_members():
        if member.needs_has():
            result.append(("bool ", "has_" + member.c_name()))
        result.append((member.type.c_const_type(), member.c_name()))
    return result


def prototype(command):
    params = ["Monitor *mon"] + [t + n for t, n in parameters(command)] + ["GError **errp"]
    returns = command.returns.c_type() if command.returns else "bool "
    line = "%sqmp_%s(" % (returns, c_name(command.name))
    indent = " " * len(line)
    text = line
    column = len(line)
    for i, param in enumerate(params):
        piece = param + ("," if i < len(params) - 1 else ")")
        if i and column + 1 + len(piece) > 80:
            text += "\n" + indent + piece
            column = len(indent) + len(piece)
        else:
            text += (" " if i else "") + piece
            column += len(piece) + (1 if i else 0)
    return text + ";\n"


def call(command):
    args = ["mon"]
    if command.boxed:
        args.append("arg")
    elif command.arg_type:
        args += ["arg->" + name for _, name in parameters(command)]
    return "qmp_%s(%s, &err)" % (c_name(command.name), ", ".join(args))


def free_result(type_):
    if type_.name == "str":
        return "g_free(result);"
    if type_.name == "any":
        return "json_object_put(result);"
    if isinstance(type_, Array) or isinstance(type_, ObjectType) or type_.c_pointer:
        return "qapi_free_%s(result);" % type_.ident()
    return None


def run_and_answer(command):
    """Statements from the call to the end of the marshal function."""
    if not command.returns:
        return """    if (!%s) {
        g_propagate_error(errp, err);
        return false;
    }
    *ret = json_object_new_object();
    return true;
""" % call(command)
    free = free_result(command.returns)
    return """    result = %s;
    if (err) {
        g_propagate_error(errp, err);
        return false;
    }
    *ret = qapi_output_%s(result);
%s    return true;
""" % (call(command), command.returns.ident(), "    %s\n" % free if free else "")


def marshal(out, command):
    declare = ""
    read = """    if (!qapi_input_only(&in, NULL, NULL, errp)) {
        return false;
    }
"""
    if command.arg_type:
        name = c_name(command.arg_type.name)
        declare += "    g_autoptr(%s) arg = NULL;\n" % name
        read = """    if (!qapi_input_%s(&in, &arg, errp)) {
        return false;
    }
""" % name
    declare += "    GError *err = NULL;\n"
    if command.returns:
        declare += "    %sresult;\n" % command.returns.c_type()
    out.add("""
static bool marshal_{{name}}(Monitor *mon, json_object *args, json_object **ret,
                    GError **errp)
{
    QapiInput in = { .value = args };
{{declare}}
{{read}}{{run}}}

""", name=c_name(command.name), declare=declare, read=read, run=run_and_answer(command))


def table_entry(command):
    flags = [flag for flag, on in (
        ("QMP_COROUTINE", command.coroutine),
        ("QMP_ALLOW_OOB", command.allow_oob),
        ("QMP_ALLOW_PRECONFIG", command.allow_preconfig),
        ("QMP_NO_SUCCESS_RESPONSE", not command.success_response)) if on]
    return "    { %s, marshal_%s, %s },\n" % (c_string(command.name), c_name(command.name),
                                             " | ".join(flags) or "0")


def functions(schema):
    """Without aliases, which share the function of the first spelling."""
    seen = set()
    for command in schema.commands:
        if c_name(command.name) not in seen:
            seen.add(c_name(command.name))
            yield command


def generate(schema, prefix):
    """{file name: text}"""
    name = prefix + "qapi-commands"
    symbol = c_name(prefix + "qmp_commands")
    header = Output(None, None)
    header.add("#include \"qapi/{{p}}qapi-types.h\"\n#include \"qapi/qmp-registry.h\"\n\n", p=prefix)
    for command in functions(schema):
        header.add(prototype(command))
    header.add("\nextern const QmpCommand {{s}}[]; /* name NULL at the end */\n", s=symbol)
    source = Output(None, None)
    source.add("#include \"qapi/{{p}}qapi-commands.h\"\n\n", p=prefix)
    for command in functions(schema):
        marshal(source, command)
    source.add("const QmpCommand {{s}}[] = {\n{{entries}}    { NULL },\n};\n", s=symbol,
               entries="".join(table_entry(c) for c in schema.commands))
    return {
        name + ".h": c_comment("Handlers of QMP commands") + guarded(name + ".h", header.text()),
        name + ".c": c_comment("Marshalling of QMP commands") + source.text(),
    }
