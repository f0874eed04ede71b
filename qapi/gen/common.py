# SPDX-License-Identifier: GPL-2.0-or-later
"""Output files, and text with holes."""

import os


class Output:
    """A generated file; written only when it changed, so that make does not rebuild for nothing."""

    def __init__(self, path, comment):
        self.path, self.parts = path, [comment] if comment else []

    def add(self, template, **values):
        """Append @template; its first newline is dropped, {{name}} is replaced."""
        text = template[1:] if template.startswith("\n") else template
        for name, value in values.items():
            text = text.replace("{{%s}}" % name, value)
        self.parts.append(text)

    def text(self):
        return "".join(self.parts)

    def write(self):
        try:
            with open(self.path, encoding="utf-8") as file:
                if file.read() == self.text():
                    os.utime(self.path)
                    return
        except OSError:
            pass
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            file.write(self.text())
        os.replace(self.path + ".new", self.path)


def c_comment(what):
    return "/* %s; made by scripts/qapi-gen.py from the schema: do not edit. */\n" % what


def guarded(name, body):
    """@body as a header with its include guard."""
    guard = "QAPI_GENERATED_" + "".join(c if c.isalnum() else "_" for c in name).upper()
    return "#ifndef %s\n#define %s\n\n%s\n#endif\n" % (guard, guard, body)


def c_string(text):
    return '"%s"' % text.replace("\\", "\\\\").replace('"', '\\"')
