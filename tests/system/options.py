#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The sidecar knows which of QEMU's options take an argument.  The list is in
emulator/options.c; the QEMU on this machine is asked about each."""

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

from lib.tap import TREE, equal, main, test

QEMU = "qemu-system-x86_64"


def listed():
    """option → takes an argument?"""
    with open(os.path.join(TREE, "emulator/options.c"), encoding="utf-8") as f:
        text = f.read()
    found = {}
    for name, has_arg in (("with_arg", True), ("without_arg", False)):
        body = re.search(name + r"\[\] = \{(.*?)\}", text, re.S).group(1)
        found.update({x: has_arg for x in re.findall(r'"([^"]+)"', body)})
    return found


def qemu_says(option, folder):
    """True or False as QEMU has it, None if it does not know the option."""
    def run(*words):
        return subprocess.run([QEMU, *words], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60,
                              cwd=folder).stderr
    # No VM may start: the last word is one that QEMU always refuses, the first
    # of two is either refused too or swallowed as the option's argument.
    text = run("-" + option, "-swallowed", "-no-such-option")
    if f"-{option}: invalid option" in text:
        return None
    return "-swallowed: invalid option" not in text


@test
def every_option_in_our_list_is_as_qemu_has_it(t):
    # -h and -version stop before QEMU reads on.
    ask = {k: v for k, v in listed().items() if k not in ("h", "help", "version",
                                                          "audio-help")}
    with ThreadPoolExecutor(2) as pool:
        answers = dict(zip(
            ask, pool.map(lambda x: qemu_says(x, t.dir), ask)))
    wrong = {k: v for k, v in answers.items() if v is not None and v != ask[k]}
    equal(wrong, {}, "options that QEMU has otherwise")
    assert sum(v is not None for v in answers.values()) > 100, answers


@test
def every_option_in_qemus_help_is_in_our_list(t):
    text = subprocess.run([QEMU, "-help"], capture_output=True, text=True,
                          check=True).stdout
    shown = set()
    for line in re.findall(r"^--?([a-zA-Z][\w-]*(?:/-\w+)*)", text, re.M):
        shown.update(x.lstrip("-") for x in line.split("/"))
    equal(sorted(shown - set(listed())), [], "options missing in our list")


main()
