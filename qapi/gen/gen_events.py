# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions that send the events of the schema: qapi-events.h, qapi-events.c."""

from .common import Output, c_comment, c_string, guarded
from .schema import c_name


def parameters(event):
    if not event.arg_type:
        return []
    if event.boxed:
        return [("const %s *" % c_name(event.arg_type.name), "arg")]
    result = []
    for member in event.arg_type.all_members():
        if member.needs_has():
            result.append(("bool ", "has_" + member.c_name()))
        result.append((member.type.c_const_type(), member.c_name()))
    return result


def declaration(event):
    params = ", ".join(["MonitorSet *set"] + [t + n for t, n in parameters(event)])
    return "void qapi_event_send_%s(%s)" % (c_name(event.name.lower()), params)


def define(out, event):
    if not event.arg_type:
        fill, data = "", "NULL"
    elif event.boxed:
        fill, data = "", "qapi_output_%s(arg)" % c_name(event.arg_type.name)
    else:
        name = c_name(event.arg_type.name)
        sets = "".join("    arg.%s = %s%s;\n" % (n, "(%s)" % t.replace("const ", "").strip()
                                                 if "const" in t else "", n)
                       for t, n in parameters(event))
        fill = "    %s arg = { 0 };\n\n%s" % (name, sets)
        data = "qapi_output_%s(&arg)" % name
    out.add("""
{{declaration}}
{
{{fill}}    monitor_emit_event(set, {{name}}, {{data}});
}

""", declaration=declaration(event), fill=fill, name=c_string(event.name), data=data)


def generate(schema, prefix):
    """{file name: text}"""
    name = prefix + "qapi-events"
    header, source = Output(None, None), Output(None, None)
    header.add("#include \"qapi/monitor.h\"\n#include \"qapi/{{p}}qapi-types.h\"\n\n", p=prefix)
    source.add("#include \"qapi/{{p}}qapi-events.h\"\n\n", p=prefix)
    for event in schema.events:
        header.add(declaration(event) + ";\n")
        define(source, event)
    return {
        name + ".h": c_comment("Events of QMP") + guarded(name + ".h", header.text()),
        name + ".c": c_comment("Events of QMP") + source.text(),
    }
