"""One attempt at a shard while it goes on: what it has counted, how far it is, and whether it is still wanted.

Start at `Attempt`.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from engine.data.manifest import RowCounts
from engine.data.quarantine import Quarantine
from engine.data.source import Slice
from engine.errors import JobFailedError
from engine.run.stalls import Progress

PHASES = ("read", "wait", "bind", "session", "write")
"""What an attempt is at: reading, waiting for a turn at the CPU, converting, inside the session, writing."""


@dataclass(slots=True)
class Attempt:
    """What one attempt at a shard has counted so far."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    """Seconds by phase."""
    rows_in: int = 0
    """Rows looked at."""
    rows_filtered: int = 0
    """Rows left out by a condition."""
    rows: int = 0
    """Rows written."""
    rows_tried: int = 0
    """Rows given to the graph."""
    batches_split: int = 0
    """Batches that the graph refused as a whole."""
    odd_values: dict[str, tuple[int, int]] = field(default_factory=dict)
    """NaN and Inf values written, by output column."""
    progress: Progress = Progress(0, "start")
    """How far it is; another thread reads it."""
    is_waiting: bool = False
    """Whether it waits for its turn; another thread reads it."""
    is_cancelled: bool = False
    """Whether the shard is done by another actor; another thread sets it."""
    metered: Mapping[str, float] = field(default_factory=dict)
    """What a meter has told of it so far."""
    _since: float = field(default_factory=time.perf_counter)

    def end(self, phase: str) -> None:
        """Charge the time since the last call to `phase`.

        Raises:
            JobFailedError: if the attempt was cancelled.
        """
        self.charge(phase)
        self.mark(phase)

    def charge(self, phase: str) -> None:
        """Charge the time since the last call to `phase`, whatever comes next."""
        now = time.perf_counter()
        self.seconds[phase] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for others inside: they, not this one, are to show progress."""
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False
            self.charge("wait")

    def mark(self, phase: str) -> None:
        """Note that it got somewhere: the end of a phase, or a batch that was scored.

        Raises:
            JobFailedError: if the attempt was cancelled.
        """
        self.progress = Progress(self.progress.marks + 1, phase, self.rows_tried)
        if self.is_cancelled:
            raise JobFailedError("the attempt was cancelled: another actor has done the shard")

    def counts(self, bad: Quarantine) -> RowCounts:
        """Return what became of the rows."""
        return RowCounts(self.rows_in, self.rows, bad.num_rows, self.rows_filtered)

    def count(self, read: Slice, written: pa.Table, odd_values: Mapping[str, tuple[int, int]]) -> None:
        """Add the rows of a slice, and the NaN and Inf values that were written of it."""
        self.rows_in += read.rows_in
        self.rows_filtered += read.rows_in - len(read.table)
        self.rows += len(written)
        for column, (num_nan, num_inf) in odd_values.items():
            before = self.odd_values.get(column, (0, 0))
            self.odd_values[column] = before[0] + num_nan, before[1] + num_inf
