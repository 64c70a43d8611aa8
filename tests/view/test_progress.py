import io
import time

import pytest

from engine.view.progress import PLAIN_SECONDS, BarProgress, PlainProgress, ProgressView, make_progress

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def tell(view: ProgressView) -> None:
    """A job of three shards, one of them done before."""
    view.start(3, 1)
    view.stage("starting Ray")
    view.stage("scoring")
    view.tick()
    view.advance(1000)
    view.advance(234)
    view.notice("an actor was lost")
    view.close()


def test_plain_lines() -> None:
    stream = io.StringIO()
    tell(PlainProgress(stream))
    lines = stream.getvalue().splitlines()
    assert lines[:4] == [
        "icefloe: 3 shards, 1 done by an earlier run",
        "icefloe: starting Ray",
        "icefloe: scoring",
        "icefloe: an actor was lost",
    ]
    assert lines[4].startswith("icefloe: 3 of 3 shards, 1,234 rows, ")
    assert lines[4].endswith(" rows/s")
    assert len(lines) == 5


def test_a_plain_start_without_an_earlier_run() -> None:
    stream = io.StringIO()
    PlainProgress(stream).start(7, 0)
    assert stream.getvalue() == "icefloe: 7 shards\n"


def test_ticks_write_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream = io.StringIO()
    view = PlainProgress(stream)
    view.start(10, 0)
    view.stage("scoring")
    written = stream.getvalue()
    now += PLAIN_SECONDS - 0.1
    view.tick()
    assert stream.getvalue() == written
    view.advance(5000)
    now += 0.1
    view.tick()
    view.tick()
    assert stream.getvalue() == written + "icefloe: 1 of 10 shards, 5,000 rows, 1,000 rows/s, about 45 s left\n"


def test_a_tick_before_the_first_shard_tells_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream = io.StringIO()
    view = PlainProgress(stream)
    view.start(2, 0)
    view.stage("starting Ray")
    now += 9
    view.tick()
    assert stream.getvalue().splitlines()[-1] == "icefloe: starting Ray, for 9 s now"


def test_closing_a_job_that_scored_nothing_writes_nothing() -> None:
    stream = io.StringIO()
    view = PlainProgress(stream)
    view.start(2, 2)
    before = stream.getvalue()
    view.close()
    assert stream.getvalue() == before


def test_the_bar_ends_cleanly() -> None:
    stream = Terminal()
    tell(BarProgress(stream))
    text = stream.getvalue()
    assert "an actor was lost" in text
    assert "3/3" in text
    assert "1,234 rows" in text
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)


@pytest.mark.parametrize("times", [1, 2])
def test_a_bar_that_never_started_can_be_closed(times: int) -> None:
    stream = Terminal()
    view = BarProgress(stream)
    for _ in range(times):
        view.close()
    assert HIDE_CURSOR not in stream.getvalue()


def test_a_bar_takes_shards_before_any_stage() -> None:
    view = BarProgress(Terminal())
    view.start(1, 0)
    view.advance(10)
    view.close()


@pytest.mark.parametrize("text", ["free: [0 CPU]", "see [/data/x] and [bold]", "[/]", "a :100: b"])
def test_a_notice_is_shown_as_it_is(text: str) -> None:
    plain, terminal = io.StringIO(), Terminal()
    for view in (PlainProgress(plain), BarProgress(terminal)):
        view.start(1, 0)
        view.notice(text)
        view.close()
    assert text in plain.getvalue()
    assert text in terminal.getvalue()


@pytest.mark.parametrize("text", ["loading [/data/m.pb]", "[/]"])
def test_a_stage_is_shown_as_it_is(text: str) -> None:
    stream = Terminal()
    view = BarProgress(stream)
    view.start(1, 0)
    view.stage(text)
    view.close()
    assert text in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_shows_nothing(stream: io.StringIO) -> None:
    tell(make_progress(stream, quiet=True))
    assert stream.getvalue() == ""


def test_the_view_fits_the_stream() -> None:
    assert type(make_progress(io.StringIO(), quiet=False)) is PlainProgress
    assert type(make_progress(Terminal(), quiet=False)) is BarProgress
