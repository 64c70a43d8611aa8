"""Shows a person how far a job is: lines that move on a terminal, a plain line every few seconds elsewhere.

What is shown is a `RunStatus`, of a job that runs here or of one that is followed from another shell. Writes to the
stream that it is given and to nothing else. Start at `make_progress`.
"""

import contextlib
import time
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from engine.data.status import RunStatus
from engine.view.status import actor_texts, crew_text, is_scoring, pace_text, shards_text, share_text, state_text
from engine.view.tables import seconds_text

PLAIN_SECONDS, ACTOR_SECONDS = 5.0, 30.0
REDRAWS_PER_SECOND = 5
MAX_ACTOR_LINES = 40
# Lines of a terminal that are not for actors.
OTHER_LINES = 6


class ProgressView:
    """What a job tells while it runs; this one shows nothing (--quiet, and calls from Python)."""

    shows = False
    """Whether it shows anything."""
    wants_actors = False
    """Whether it shows each actor."""

    def show(self, status: RunStatus) -> None:
        """Show how far the job is, as of now."""

    def notice(self, text: str) -> None:
        """Show something that a person would want to know."""

    def close(self, status: RunStatus) -> None:
        """Show how the job has ended."""


class PlainProgress(ProgressView):
    """Writes a line for each stage, and one every few seconds; a stream that takes no more is put up with."""

    shows = True

    def __init__(self, stream: TextIO, is_verbose: bool = False) -> None:
        """Write to `stream`; with `is_verbose` a line for each actor now and then, too."""
        self._stream, self.wants_actors = stream, is_verbose
        self._stage = ""
        self._shards = ""
        self._last_line = self._last_actors = time.monotonic()

    def _line(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a log on a disk that is full ends no job
            self._stream.write(f"icefloe: {text}\n")
            self._stream.flush()
        self._last_line = time.monotonic()

    def show(self, status: RunStatus) -> None:
        """Write a line if there is another stage, or the last line is some seconds old."""
        if status.shards and shards_text(status) != self._shards:
            self._shards = shards_text(status)
            self._line(self._shards)
        if status.stage and status.stage != self._stage:
            self._stage = status.stage
            self._line(status.stage)
        elif time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._line(state_text(status))
            if self.wants_actors and time.monotonic() - self._last_actors >= ACTOR_SECONDS:
                self._last_actors = time.monotonic()
                for text in actor_texts(status.actors, MAX_ACTOR_LINES):
                    self._line(text)

    def notice(self, text: str) -> None:
        """Write the notice."""
        self._line(text)

    def close(self, status: RunStatus) -> None:
        """Write how far it came."""
        if status.attempts:
            self._line(state_text(status))


class LiveProgress(ProgressView):
    """Draws lines that move on a terminal; one that takes no more is put up with."""

    shows = True

    def __init__(self, stream: TextIO, is_verbose: bool = False) -> None:
        """Draw on `stream`; with `is_verbose` a line for each actor, too."""
        self.wants_actors = is_verbose
        self._status, self._since, self._stage = RunStatus(stage="starting"), time.monotonic(), ""
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live = Live(
            get_renderable=self._draw,
            console=self._console,
            refresh_per_second=REDRAWS_PER_SECOND,
            transient=True,
            redirect_stdout=False,
        )

    def show(self, status: RunStatus) -> None:
        """Draw this from now on."""
        self._status, is_new = status, status.stage != self._stage
        if is_new:
            self._stage, self._since = status.stage, time.monotonic()
        with contextlib.suppress(OSError):
            if not self._live.is_started:
                self._live.start()
            if is_new:
                self._live.refresh()

    def notice(self, text: str) -> None:
        """Write the notice above the lines that move."""
        with contextlib.suppress(OSError):
            self._console.print(text, soft_wrap=True)

    def close(self, status: RunStatus) -> None:
        """Take the lines away."""
        with contextlib.suppress(OSError):
            self._live.stop()

    def _draw(self) -> Group:
        status = self._status
        if not is_scoring(status):
            waited = seconds_text(round(time.monotonic() - self._since))
            return Group(Text(f"{status.stage or status.state}, for {waited} now", overflow="ellipsis", no_wrap=True))
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        bar.add_row(
            ProgressBar(total=max(1, status.bytes), completed=status.bytes_done), Text(share_text(status), "bold")
        )
        lines = [Text(text, overflow="fold") for text in (pace_text(status), crew_text(status))]
        if self.wants_actors:
            most = max(1, min(MAX_ACTOR_LINES, self._console.height - OTHER_LINES))
            lines += [Text(text, "dim", overflow="ellipsis", no_wrap=True) for text in actor_texts(status.actors, most)]
        return Group(bar, *lines)


def make_progress(stream: TextIO, quiet: bool, is_verbose: bool = False) -> ProgressView:
    """Return what fits the stream: nothing, lines that move, or plain lines."""
    if quiet:
        return ProgressView()
    console = Console(file=stream)
    return (
        LiveProgress(stream, is_verbose)
        if console.is_terminal and not console.is_dumb_terminal
        else PlainProgress(stream, is_verbose)
    )
