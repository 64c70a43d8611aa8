import io
import re
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from engine.data.status import DONE, LOADING, SCORING, ActorStatus, RunStatus
from engine.view.progress import (
    ACTOR_SECONDS,
    PLAIN_SECONDS,
    LiveProgress,
    PlainProgress,
    ProgressView,
    make_progress,
)
from engine.view.status import actor_texts, shards_text, state_text

HIDE_CURSOR, SHOW_CURSOR, ERASE_LINE = "\x1b[?25l", "\x1b[?25h", "\x1b[2K"
MIB = 2**20
HALF = RunStatus(
    state=SCORING, stage="scoring", seconds=20.0, scoring_seconds=10.0, shards=10, shards_done=5, shards_earlier=1,
    bytes=8 * MIB, bytes_done=2 * MIB, rows=12_345, rows_per_second=1234.5, seconds_left=30.0, actors_working=2,
    attempts=6,
)  # fmt: skip
WORKING = ActorStatus(0, "node-a", "working", (7, 8), "session", 3, 30_000, 20.0)
OTHERS = (
    ActorStatus(1, "node-b", "idle", (), "", 2, 20_000, 20.0),
    ActorStatus(2, "", "asked", seconds=70.0),
    ActorStatus(3, "f00", "loading", seconds=4.0),
    ActorStatus(4, "node-c", "lost", seconds=9.0, reason="ActorDiedError: killed"),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that is put forward."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_plain_lines(wait: Callable[[float], None]) -> None:
    stream = io.StringIO()
    view = PlainProgress(stream)
    view.show(RunStatus(stage="starting Ray"))
    view.show(RunStatus(stage="loading the model on 2 actors", state=LOADING, shards=10, shards_earlier=1))
    view.show(HALF)
    wait(PLAIN_SECONDS - 0.1)
    view.show(HALF)
    view.notice("an actor was lost")
    wait(PLAIN_SECONDS)
    view.show(HALF)
    view.show(HALF)
    view.close(replace(HALF, state=DONE, shards_done=10, bytes_done=8 * MIB, rows=50_000, actors_working=0))
    assert stream.getvalue().splitlines() == [
        "icefloe: starting Ray",
        "icefloe: 10 shards, 1 done by an earlier run",
        "icefloe: loading the model on 2 actors",
        "icefloe: scoring",
        "icefloe: an actor was lost",
        "icefloe: 5 of 10 shards, 2.0 MiB of 8.0 MiB, 12,345 rows, 1,234 rows/s, about 30 s left; actors: 2 working",
        "icefloe: 10 of 10 shards, 8.0 MiB of 8.0 MiB, 50,000 rows, 5,000 rows/s",
    ]


def test_a_long_stage_is_told_again(wait: Callable[[float], None]) -> None:
    stream = io.StringIO()
    view = PlainProgress(stream)
    loading = RunStatus(stage="loading the model", state=LOADING, seconds=65.0, actors_loading=3, actors_asked=1)
    view.show(loading)
    wait(PLAIN_SECONDS)
    view.show(loading)
    assert stream.getvalue().splitlines()[-1] == (
        "icefloe: loading the model, 1 min 5 s since the start; actors: 1 waiting for a place, 3 loading"
    )


def test_plain_lines_of_actors_come_now_and_then(wait: Callable[[float], None]) -> None:
    quiet, verbose = io.StringIO(), io.StringIO()
    views = PlainProgress(quiet), PlainProgress(verbose, is_verbose=True)
    assert [view.wants_actors for view in views] == [False, True]
    for _ in range(int(ACTOR_SECONDS / PLAIN_SECONDS) + 1):
        wait(PLAIN_SECONDS)
        for view in views:
            view.show(replace(HALF, stage="", actors=(WORKING, *OTHERS)))
    assert "actor 0" not in quiet.getvalue()
    assert verbose.getvalue().count("actor 0 on node-a: shards 7, 8 (in the graph); 3 shards done, 30,000 rows\n") == 1


def test_closing_a_job_that_scored_nothing_writes_nothing() -> None:
    stream = io.StringIO()
    PlainProgress(stream).close(RunStatus(shards=2, shards_done=2, shards_earlier=2, state=DONE))
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (RunStatus(shards=1), "1 shard"),
        (RunStatus(shards=12_345, shards_earlier=1000), "12,345 shards, 1,000 done by an earlier run"),
    ],
)
def test_what_there_is_to_do(status: RunStatus, text: str) -> None:
    assert shards_text(status) == text


def test_a_line_tells_of_all_troubles() -> None:
    status = replace(HALF, actors_lost=1, actors_idle=3, retries=4, second_attempts=2, rows_quarantined=17)
    text = "actors: 2 working, 3 idle, 1 lost; 17 rows quarantined; 4 retries; 2 second attempts"
    assert state_text(status).endswith(f"; {text}")


def test_no_time_left_is_told_where_none_is_known() -> None:
    assert "left" not in state_text(replace(HALF, seconds_left=None))


@pytest.mark.parametrize("wanted", [5, 40])
def test_a_line_an_actor(wanted: int) -> None:
    assert actor_texts((WORKING, *OTHERS), wanted) == [
        "actor 0 on node-a: shards 7, 8 (in the graph); 3 shards done, 30,000 rows",
        "actor 1 on node-b: idle; 2 shards done, 20,000 rows",
        "actor 2: waits for a place, for 1 min 10 s now",
        "actor 3 on f00: loads the model, asked for 4 s ago",
        "actor 4 on node-c: lost after 9 s: ActorDiedError: killed",
    ]


def test_of_many_actors_those_in_trouble_are_shown() -> None:
    many = [replace(WORKING, worker_id=i) for i in range(500)]
    texts = actor_texts((*many, *OTHERS), 6)
    assert texts[0].startswith("actor 0 on node-a")
    assert [text.split(":")[0] for text in texts[-4:-1]] == ["actor 2", "actor 3 on f00", "actor 4 on node-c"]
    assert (len(texts), texts[-1]) == (6, "and 499 more actors")


def test_lines_that_move(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    view = LiveProgress(stream, is_verbose=True)
    view.show(RunStatus(stage="starting Ray"))
    view.show(replace(HALF, actors=(WORKING, *OTHERS), retries=2))
    view.notice("an actor was lost")
    view.close(HALF)
    text = stream.getvalue()
    for shown in ("starting Ray, for 0 s now", "25% of 8.0 MiB", "12,345 rows, 1,234 rows/s, about 30 s left",
                  "actors: 2 working; 2 retries", "actor 4 on node-c: lost", "an actor was lost"):  # fmt: skip
        assert shown in text
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
    assert text.rstrip("\n").endswith((ERASE_LINE, "\x1b[1A")) or ERASE_LINE in text.rsplit("lost", 1)[1]


def test_it_is_drawn_at_most_ten_times_a_second() -> None:
    stream = Terminal()
    view = LiveProgress(stream)
    began = time.monotonic()
    while time.monotonic() - began < 1.0:
        view.show(HALF)
        time.sleep(0.002)
    view.close(HALF)
    assert 2 <= stream.getvalue().count("25% of 8.0 MiB") <= 12


@pytest.mark.parametrize("columns", ["30", "80", "200"])
def test_it_fits_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    stream = Terminal()
    view = LiveProgress(stream, is_verbose=True)
    view.show(replace(HALF, actors=(WORKING, *OTHERS)))
    view.close(HALF)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()))
    assert max(map(len, lines)) <= int(columns)


@pytest.mark.parametrize("times", [1, 2])
def test_lines_that_never_moved_can_be_closed(times: int) -> None:
    stream = Terminal()
    view = LiveProgress(stream)
    for _ in range(times):
        view.close(HALF)
    assert HIDE_CURSOR not in stream.getvalue()


@pytest.mark.parametrize("text", ["free: [0 CPU]", "see [/data/x] and [bold]", "[/]", "a :100: b"])
def test_texts_are_shown_as_they_are(text: str) -> None:
    plain, terminal = io.StringIO(), Terminal()
    for view in (PlainProgress(plain), LiveProgress(terminal)):
        view.show(RunStatus(stage=f"stage {text}"))
        view.notice(f"notice {text}")
        view.close(HALF)
    for shown in (f"notice {text}", f"stage {text}"):
        assert shown in plain.getvalue()
        assert shown in terminal.getvalue()


class Full(Terminal):
    """A log on a disk that is full."""

    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("kind", [PlainProgress, LiveProgress])
def test_a_stream_that_takes_no_more_ends_no_job(kind: type[PlainProgress | LiveProgress]) -> None:
    view = kind(Full())
    view.show(RunStatus(stage="starting Ray"))
    view.show(HALF)
    view.notice("an actor was lost")
    view.close(HALF)


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
def test_no_colours_where_none_are_wanted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, {"NO_COLOR": "1", "TERM": "dumb"}[name])
    stream = Terminal()
    view = make_progress(stream, quiet=False)
    view.show(HALF)
    view.notice("x")
    view.close(HALF)
    assert not re.search(r"\x1b\[[0-9;]*(3|4|9|10)[0-9](;[0-9]+)*m", stream.getvalue())


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_shows_nothing(stream: io.StringIO) -> None:
    view = make_progress(stream, quiet=True)
    view.show(HALF)
    view.notice("x")
    view.close(HALF)
    assert (stream.getvalue(), type(view)) == ("", ProgressView)


def test_the_view_fits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_progress(io.StringIO(), quiet=False)) is PlainProgress
    assert type(make_progress(Terminal(), quiet=False)) is LiveProgress
    monkeypatch.setenv("TERM", "dumb")
    assert type(make_progress(Terminal(), quiet=False)) is PlainProgress


def test_lines_can_move_again() -> None:
    stream = Terminal()
    view = LiveProgress(stream)
    for stage in ("looking at the model", "starting Ray"):
        view.show(RunStatus(stage=stage))
        view.close(HALF)
        assert f"{stage}, for 0 s now" in stream.getvalue()
    assert stream.getvalue().count(HIDE_CURSOR) == stream.getvalue().count(SHOW_CURSOR) == 2
