"""TAP for the system tests.

A test file is

    from lib.tap import test, main

    @test
    def a_cancelled_backup_leaves_no_file(t):
        ...

    main()

Each function is one TAP line named after it.  It fails by any exception; t.skip
ends it as skipped.  t is its Case: a temporary folder, processes and clean-ups
that end with the test, whatever happens.  FILE.py NAME... runs only those;
FILE.py --list names them.  @test(limit=SECONDS) bounds one test (120 s unless
told); limits are multiplied by $SIDECAR_TIMEOUT_SCALE.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))
BUILD = os.path.abspath(os.environ.get("BUILD") or os.path.join(TREE, "build"))
SCALE = float(os.environ.get("SIDECAR_TIMEOUT_SCALE", 1))
# A deadline for things that take milliseconds: reached only when hung.
SOON = 60 * SCALE

_tests = []


class Skip(Exception):
    """Raised by Case.skip."""


class TimeIsUp(Exception):
    """A test ran into its limit."""


def program(name):
    """The path of one of our programs."""
    return os.path.join(BUILD, name)


def diag(text):
    """To stderr, which prove shows."""
    for line in str(text).splitlines():
        print("# " + line, file=sys.stderr, flush=True)


def wait_for(condition, what, deadline=SOON, interval=0.02):
    """Until condition() is true, for things that give no sign of their own;
    returns what it returned."""
    until = time.monotonic() + deadline
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > until:
            raise AssertionError(f"waited {deadline:.0f} s in vain for {what}")
        time.sleep(interval)


class Case:
    """What one test holds; everything is undone in reverse order."""

    def __init__(self, name):
        self.name = name
        self._undo = []
        self._logs = []
        self.dir = tempfile.mkdtemp(prefix="t-")
        self.defer(shutil.rmtree, self.dir, ignore_errors=True)

    def defer(self, function, *args, **kwargs):
        """Call it at the end of the test."""
        self._undo.append((function, args, kwargs))

    def close(self):
        while self._undo:
            function, args, kwargs = self._undo.pop()
            try:
                function(*args, **kwargs)
            except Exception:  # pylint: disable=broad-except
                diag(traceback.format_exc())

    def skip(self, why):
        raise Skip(why)

    def path(self, *names):
        """A path in the test's own folder."""
        return os.path.join(self.dir, *names)

    def log_file(self, name):
        """A file whose end is shown when the test fails."""
        path = self.path(name)
        self._logs.append(path)
        return path

    def show_logs(self):
        for path in self._logs:
            try:
                with open(path, encoding="utf-8", errors="replace") as f:
                    lines = f.read().splitlines()
            except OSError:
                continue
            if lines:
                diag(f"--- {os.path.basename(path)}")
                diag("\n".join(lines[-25:]))

    def spawn(self, command, **kwargs):
        """A process that is ended at the end of the test if it still runs."""
        process = subprocess.Popen(command, **kwargs)
        self.defer(end_process, process)
        return process

    def run(self, *command, status=0, timeout=SOON, **kwargs):
        """Runs to the end; text of its output, stderr with it unless told
        otherwise.  status=None: do not check, give (code, text)."""
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        kwargs.setdefault("stderr", subprocess.STDOUT)
        process = self.spawn(command, stdout=subprocess.PIPE, text=True,
                             errors="replace", **kwargs)
        try:
            text, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"not done in {timeout:.0f} s: {command}") from None
        if status is None:
            return process.returncode, text
        if process.returncode != status:
            raise AssertionError(
                f"{' '.join(map(str, command))}: status {process.returncode}, "
                f"want {status}; it said:\n{text}")
        return text


def writer_of(fifo):
    """A descriptor, as soon as somebody reads there."""
    def look():
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None
    return wait_for(look, "a reader of " + fifo)


def end_process(process, patience=10):
    """SIGTERM, then SIGKILL; collects it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()


def test(function=None, *, limit=120):
    """Decorator: this function is a test."""
    def note(f):
        _tests.append((f.__name__, f, limit * SCALE))
        return f
    return note(function) if function else note


def equal(got, want, what="value"):
    if got == want:
        return
    if isinstance(got, (str, bytes)) and isinstance(want, (str, bytes)) \
            and max(len(got), len(want)) > 300:
        at = len(os.path.commonprefix([got, want]))
        here = slice(max(0, at - 80), at + 120)
        raise AssertionError(f"{what}: at {at}: got {got[here]!r}, want {want[here]!r} "
                             f"({len(got)} and {len(want)} long)")
    raise AssertionError(f"{what}: got {got!r}, want {want!r}")


def contains(text, part, what="text"):
    if part not in text:
        raise AssertionError(f"{what} lacks {part!r}: {text!r}")


def _on_alarm(_number, _frame):
    raise TimeIsUp("the test's time is up")


def _on_term(_number, _frame):
    raise SystemExit(1)


def _run_one(number, name, function, limit):
    case = Case(name)
    good, note = True, ""
    start = time.monotonic()
    try:
        signal.alarm(max(1, int(limit)))
        function(case)
    except Skip as why:
        note = f" # SKIP {why}"
    except Exception:  # pylint: disable=broad-except
        good = False
        diag(traceback.format_exc())
    finally:
        signal.alarm(0)
        if not good:
            case.show_logs()
        case.close()
    if good and not note:
        note = f" # {time.monotonic() - start:.1f} s"
    print(f"{'ok' if good else 'not ok'} {number} - {name.replace('_', ' ')}{note}",
          flush=True)
    return good


def main():
    signal.signal(signal.SIGALRM, _on_alarm)
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(s, _on_term)
    wanted = sys.argv[1:]
    if wanted == ["--list"]:
        print("\n".join(name for name, _, _ in _tests))
        return
    chosen = [x for x in _tests if not wanted or x[0] in wanted]
    if not chosen:
        sys.exit(f"no such test: {' '.join(wanted)}")
    print(f"1..{len(chosen)}", flush=True)
    results = [_run_one(i, *x) for i, x in enumerate(chosen, 1)]
    sys.exit(0 if all(results) else 1)
