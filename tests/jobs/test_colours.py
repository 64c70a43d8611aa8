"""What is printed has colours on a terminal that wants them, and nowhere else: help, tables, the bar."""

import os
import pty
import re
import subprocess
import sys

import pytest

COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-9]|4[0-9]|9[0-7]|10[0-7])(?:;\d+)*m")
CONTROL = re.compile(rb"\x1b")
SHOW = """
import sys, time
from jobs.__main__ import app
from jobs.command_line import run
from engine.data.status import RunStatus
from engine.view.progress import make_progress
assert run(app, ["--help"]) == run(app, ["score", "--help"]) == run(app, ["describe", sys.argv[1]]) == 0
view = make_progress(sys.stderr, False, True)
view.show(RunStatus(stage="starting Ray"))
status = RunStatus(stage="scoring", state="scoring", shards=3, shards_done=1, rows=10, attempts=1, scoring_seconds=1.0)
view.show(status)
view.notice("a notice [with] 12 numbers")
time.sleep(0.2)
view.close(status)
"""


def shown(model: str, environment: dict[str, str], is_terminal: bool = True) -> bytes:
    """Everything that is written, to a terminal or to a pipe."""
    known = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if name not in known}
    words, env = [sys.executable, "-c", SHOW, model], {**kept, **environment}
    if not is_terminal:
        return subprocess.run(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True).stdout
    leader, follower = pty.openpty()
    with subprocess.Popen(words, env=env, stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        found = b""
        while True:
            try:
                data = os.read(leader, 65536)
            except OSError:  # the last writer has gone
                break
            if not data:
                break
            found += data
    os.close(leader)
    assert process.returncode == 0, found
    return found


def test_a_terminal_has_colours(model: str) -> None:
    assert COLOUR.search(shown(model, {"TERM": "xterm-256color"}))


@pytest.mark.parametrize("term", ["xterm-256color", "xterm"])
def test_no_color_is_heeded(model: str, term: str) -> None:
    found = shown(model, {"TERM": term, "NO_COLOR": "1"})
    assert not COLOUR.search(found)
    assert b"What to score" in found
    assert b"starting Ray" in found


def test_a_dumb_terminal_gets_plain_lines(model: str) -> None:
    found = shown(model, {"TERM": "dumb"})
    assert not CONTROL.search(found)
    assert b"icefloe: starting Ray" in found
    assert b"icefloe: a notice [with] 12 numbers" in found


def test_a_pipe_gets_plain_lines(model: str) -> None:
    found = shown(model, {"TERM": "xterm-256color"}, is_terminal=False)
    assert not CONTROL.search(found)
    assert b"icefloe: a notice [with] 12 numbers" in found
