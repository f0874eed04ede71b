# SPDX-License-Identifier: GPL-2.0-or-later
"""Schema text into expressions.

A schema file is a sequence of JSON objects in single quotes, comments from # to the end of the
line, and doc blocks: comments between two lines of `##`.  A doc block that begins with `@name:`
belongs to the expression after it; any other is text for the reference ("= Title" makes a
heading).  Nothing is interpreted here beyond that, `include` and `pragma`.
"""

import os
import re


class SchemaError(Exception):
    """What is wrong, and where: prints as file:line: message."""

    def __init__(self, where, message):
        super().__init__("%s: %s" % (where, message))


class Where:
    """A place in a file."""

    def __init__(self, path, line):
        self.path, self.line = path, line

    def __str__(self):
        return "%s:%d" % (self.path, self.line)


class Pragma:
    """Settings that a schema makes for itself: lists of names."""

    LISTS = ("command-name-exceptions", "command-returns-exceptions", "member-name-exceptions",
             "emulator-defined")

    def __init__(self):
        for name in self.LISTS:
            setattr(self, name.replace("-", "_"), set())

    def add(self, where, settings):
        if not isinstance(settings, dict):
            raise SchemaError(where, "value of 'pragma' must be an object")
        for name, value in settings.items():
            if name not in self.LISTS:
                raise SchemaError(where, "unknown pragma '%s'" % name)
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                raise SchemaError(where, "pragma '%s' must be a list of strings" % name)
            getattr(self, name.replace("-", "_")).update(value)


class Doc:
    """A doc block, taken apart.

    name      of the definition it belongs to, or None for free text
    body      list of lines
    args      {member: lines}, features {name: lines}, in order
    sections  list of (title, lines): Returns, Errors, Since, Note, Notes, Example, Examples, TODO
    """

    SECTIONS = ("Returns", "Errors", "Since", "Note", "Notes", "Example", "Examples", "TODO")

    def __init__(self, where):
        self.where = where
        self.name = None
        self.body, self.args, self.features, self.sections = [], {}, {}, []

    def section(self, title):
        """The lines of the first section of that title, or None."""
        return next((lines for t, lines in self.sections if t == title), None)


class DocParser:
    """Fills a Doc from the lines of a block, each with its number."""

    def __init__(self, path, where):
        self.path, self.doc = path, Doc(where)
        self.current = self.doc.body
        self.in_features = False

    def parse(self, lines):
        text = [(n, line) for n, line in lines if line.strip()]
        if text:
            match = re.match(r"@([^:\s]*):\s*(.*)$", text[0][1])
            if match:
                self.doc.name = match.group(1)
                if not self.doc.name or match.group(2):
                    raise SchemaError(Where(self.path, text[0][0]),
                                      "a doc block begins with '@NAME:' alone on its line")
                lines = lines[lines.index(text[0]) + 1:]
        for number, line in lines:
            if self.doc.name:
                self.line(Where(self.path, number), line)
            else:
                self.doc.body.append(line)
        for part in [self.doc.body, *self.doc.args.values(), *self.doc.features.values(),
                     *(lines for _, lines in self.doc.sections)]:
            self.trim(part)
        return self.doc

    def line(self, where, line):
        match = re.match(r"@([A-Za-z0-9_.-]+):\s*(.*)$", line)
        if match:
            self.member(where, *match.groups())
            return
        match = re.match(r"([A-Z][A-Za-z]*):\s*(.*)$", line)
        if match and match.group(1) == "Features" and not match.group(2):
            self.in_features = True
            self.current = []
        elif match and match.group(1) in Doc.SECTIONS:
            self.in_features = False
            self.current = []
            self.doc.sections.append((match.group(1), self.current))
            self.add(match.group(2))
        else:
            self.add(line)

    def member(self, where, name, rest):
        table = self.doc.features if self.in_features else self.doc.args
        if name in table:
            raise SchemaError(where, "'@%s:' is documented twice" % name)
        if self.doc.sections and not self.in_features:
            raise SchemaError(where, "'@%s:' can't follow '%s:'" % (name, self.doc.sections[-1][0]))
        self.current = table[name] = []
        self.add(rest)

    def add(self, line):
        self.current.append(line)

    @staticmethod
    def trim(lines):
        """Drop empty lines at both ends and the common indent: of all lines, or of those after
        the first if that stands beside the name of the section."""
        beside = 1 if lines and lines[0].strip() else 0
        indent = min((len(l) - len(l.lstrip()) for l in lines[beside:] if l.strip()), default=0)
        lines[beside:] = [l[indent:].rstrip() for l in lines[beside:]]
        while lines and not lines[-1]:
            lines.pop()
        while lines and not lines[0]:
            lines.pop(0)


class Expression:
    """One top-level object with its place and documentation."""

    def __init__(self, where, value, doc):
        self.where, self.value, self.doc = where, value, doc


class Tokens:
    """The text of a file as tokens; comments between two lines of ## are tokens too."""

    WORDS = {"true": True, "false": False}

    def __init__(self, path, text):
        self.path, self.text = path, text
        self.pos, self.lineno = 0, 1
        self.kind = self.value = None
        self.where = Where(path, 1)
        self.advance()

    def error(self, message, where=None):
        return SchemaError(where or self.where, message)

    def advance(self):
        """kind: a character of {}[],:, or 'string', 'word', 'doc', 'end'."""
        while self.pos < len(self.text):
            c = self.text[self.pos]
            self.where = Where(self.path, self.lineno)
            if c == "\n":
                self.lineno += 1
                self.pos += 1
            elif c in " \t\r":
                self.pos += 1
            elif c == "#":
                if self.comment():
                    return
            else:
                self.token(c)
                return
        self.where = Where(self.path, self.lineno)
        self.kind, self.value = "end", None

    def rest_of_line(self):
        end = self.text.find("\n", self.pos)
        return self.text[self.pos:] if end < 0 else self.text[self.pos:end]

    def comment(self):
        line = self.rest_of_line()
        if line.rstrip() != "##" or (self.pos and self.text[self.pos - 1] != "\n"):
            self.pos += len(line)
            return False
        self.kind, self.value = "doc", self.doc_block()
        return True

    def doc_block(self):
        lines = []
        start = self.where
        while True:
            self.pos += len(self.rest_of_line()) + 1
            self.lineno += 1
            line = self.rest_of_line()
            if line.rstrip() == "##":
                self.pos += len(line)
                return DocParser(self.path, start).parse(lines)
            if line != "#" and not line.startswith("# "):
                raise self.error("a line of a doc block begins with '# '" if line.startswith("#")
                                 else "doc block is not closed by '##'",
                                 Where(self.path, self.lineno))
            lines.append((self.lineno, line[2:]))

    def token(self, c):
        if c in "{}[],:":
            self.kind, self.value = c, c
            self.pos += 1
        elif c == "'":
            match = re.compile(r"'([^'\\\n]*)'").match(self.text, self.pos)
            if not match:
                raise self.error("string is not closed, or has a backslash")
            if not match.group(1).isascii() or not match.group(1).isprintable():
                raise self.error("string has characters other than printable ASCII")
            self.kind, self.value = "string", match.group(1)
            self.pos = match.end()
        else:
            match = re.compile(r"[^\s{}\[\],:'#]+").match(self.text, self.pos)
            word = match.group(0) if match else c
            if word not in self.WORDS:
                raise self.error("stray '%s'" % word)
            self.kind, self.value = "word", self.WORDS[word]
            self.pos += len(word)


class Parser:
    """A schema file and those it includes, each once."""

    def __init__(self, path, pragma=None, seen=None):
        self.pragma = pragma or Pragma()
        self.seen = seen if seen is not None else set()
        self.items = []  # Expression and free Doc, in order
        self.seen.add(os.path.abspath(path))
        self.path = path
        with open(path, encoding="utf-8") as file:
            self.tokens = Tokens(path, file.read())
        self.file()

    def file(self):
        tokens, doc = self.tokens, None
        while tokens.kind != "end":
            if tokens.kind == "doc":
                self.orphan(doc)
                doc = tokens.value
                if doc.name is None:
                    self.items.append(doc)
                    doc = None
                tokens.advance()
            else:
                doc = self.expression(doc)
        self.orphan(doc)

    @staticmethod
    def orphan(doc):
        if doc:
            raise SchemaError(doc.where, "documentation of '%s' is not followed by its definition"
                              % doc.name)

    def expression(self, doc):
        where = self.tokens.where
        value = self.object()
        if "include" in value or "pragma" in value:
            self.orphan(doc)
            if len(value) != 1:
                raise SchemaError(where, "an '%s' has no other keys"
                                  % ("include" if "include" in value else "pragma"))
        if "include" in value:
            self.include(where, value["include"])
        elif "pragma" in value:
            self.pragma.add(where, value["pragma"])
        else:
            self.items.append(Expression(where, value, doc))

    def include(self, where, name):
        if not isinstance(name, str):
            raise SchemaError(where, "value of 'include' must be a string")
        path = os.path.join(os.path.dirname(self.path), name)
        if os.path.abspath(path) in self.seen:
            return
        try:
            self.items += Parser(path, self.pragma, self.seen).items
        except OSError as error:
            raise SchemaError(where, "can't read include file '%s': %s"
                              % (path, error.strerror)) from None

    # The rest is JSON.

    def expect(self, *kinds):
        if self.tokens.kind not in kinds:
            names = " or ".join("'%s'" % k if len(k) == 1 else k for k in kinds)
            raise self.tokens.error("expected %s" % names)
        value = self.tokens.value
        self.tokens.advance()
        return value

    def object(self):
        self.expect("{")
        result = {}
        while self.tokens.kind != "}":
            where = self.tokens.where
            key = self.expect("string")
            self.expect(":")
            if key in result:
                raise SchemaError(where, "duplicate key '%s'" % key)
            result[key] = self.json()
            if self.tokens.kind != "}":
                self.expect(",")
                if self.tokens.kind == "}":
                    raise self.tokens.error("expected string")
        self.expect("}")
        return result

    def array(self):
        self.expect("[")
        result = []
        while self.tokens.kind != "]":
            result.append(self.json())
            if self.tokens.kind != "]":
                self.expect(",")
                if self.tokens.kind == "]":
                    raise self.tokens.error("expected a value")
        self.expect("]")
        return result

    def json(self):
        if self.tokens.kind == "{":
            return self.object()
        if self.tokens.kind == "[":
            return self.array()
        return self.expect("string", "word", "{", "[")
