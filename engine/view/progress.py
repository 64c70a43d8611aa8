"""Shows a person how far a job is: one line that moves on a terminal, a plain line every few seconds elsewhere.

Writes to the stream that it is given and to nothing else. Start at `make_progress`.
"""

import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 5.0


class ProgressView:
    """What a job tells while it runs; this one shows nothing (--quiet, and calls from Python)."""

    def start(self, num_shards: int, num_done: int) -> None:
        """The plan is cut: so many shards, so many of them done by an earlier run."""

    def stage(self, text: str) -> None:
        """What the job is at, until the first shard is done."""

    def advance(self, rows: int) -> None:
        """A shard of `rows` rows is done."""

    def tick(self) -> None:
        """Time has passed."""

    def notice(self, text: str) -> None:
        """Something that a person would want to know."""

    def close(self) -> None:
        """The job is over."""


class PlainProgress(ProgressView):
    """Writes a line at the start, at each stage, and every few seconds."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self._stream = stream
        self._num_shards = self._num_done = self._num_mine = self._rows = 0
        self._since: float | None = None
        self._stage = ""
        self._last_advance = 0.0
        self._last_line = time.monotonic()

    def _line(self, text: str) -> None:
        self._stream.write(f"icefloe: {text}\n")
        self._stream.flush()
        self._last_line = time.monotonic()

    def _begin(self, num_shards: int, num_done: int) -> None:
        """Count anew: a call may score one generation after another."""
        self._num_shards, self._num_done = num_shards, num_done
        self._num_mine = self._rows = 0

    def start(self, num_shards: int, num_done: int) -> None:
        """Say how much there is to do."""
        self._begin(num_shards, num_done)
        shards = f"{num_shards} shard" + "s" * (num_shards != 1)
        self._line(f"{shards}, {num_done} done by an earlier run" if num_done else shards)

    def stage(self, text: str) -> None:
        """Say what the job is at."""
        self._since, self._stage = time.monotonic(), text
        self._line(text)

    def advance(self, rows: int) -> None:
        """Count a shard."""
        self._num_done += 1
        self._num_mine += 1
        self._rows += rows
        self._last_advance = time.monotonic()

    def tick(self) -> None:
        """Write a line if the last one is some seconds old."""
        if time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._line(self._state(time.monotonic()))

    def _state(self, now: float) -> str:
        seconds = now - (self._since or now)
        if not self._num_mine:
            return f"{self._stage}, for {seconds:.0f} s now"
        rate = self._rows / seconds if seconds > 0 else 0.0
        left = (self._num_shards - self._num_done) * seconds / self._num_mine
        eta = f", about {left:.0f} s left" if left else ""
        return f"{self._num_done} of {self._num_shards} shards, {self._rows:,} rows, {rate:,.0f} rows/s{eta}"

    def notice(self, text: str) -> None:
        """Write the notice."""
        self._line(text)

    def close(self) -> None:
        """Write the last state, as of the last shard: what comes after it is no scoring."""
        if self._num_mine:
            self._line(self._state(self._last_advance))


class BarProgress(PlainProgress):
    """Draws one moving line on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        """Draw on `stream`."""
        super().__init__(stream)
        stage = TextColumn("{task.description}", markup=False)
        columns = (stage, BarColumn(), MofNCompleteColumn(), TextColumn("shards"))
        rate = TextColumn("{task.fields[state]}", markup=False)
        self._bar = Progress(*columns, rate, TimeRemainingColumn(), console=Console(file=stream), transient=True)
        self._bar_id = self._bar.add_task("starting", total=None, state="")

    def start(self, num_shards: int, num_done: int) -> None:
        """Begin to draw."""
        self._begin(num_shards, num_done)
        self._bar.update(self._bar_id, total=num_shards, completed=num_done)
        self._bar.start()

    def stage(self, text: str) -> None:
        """Show what the job is at."""
        self._since = time.monotonic()
        self._bar.start()
        self._bar.update(self._bar_id, description=text)

    def advance(self, rows: int) -> None:
        """Move on by a shard."""
        super().advance(rows)
        seconds = time.monotonic() - (self._since or 0.0)
        state = f"{self._rows:,} rows, {self._rows / max(seconds, 1e-3):,.0f} rows/s"
        self._bar.update(self._bar_id, advance=1, state=state)

    def tick(self) -> None:
        """Leave the drawing to the bar's own clock."""

    def notice(self, text: str) -> None:
        """Write the notice above the bar."""
        self._bar.console.print(text, highlight=False, markup=False, emoji=False)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def make_progress(stream: TextIO, quiet: bool) -> ProgressView:
    """Return what fits the stream: nothing, a moving line, or plain lines."""
    if quiet:
        return ProgressView()
    return BarProgress(stream) if stream.isatty() else PlainProgress(stream)
