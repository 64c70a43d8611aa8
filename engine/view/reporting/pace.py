"""How fast a job went: rows per second over time, how long shards took, and which attempts were in vain.

Pure. Start at `throughput`, `shard_times` and `list_events`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.data.timeline import ATTEMPT, CANCELLED, FAILED, INTERRUPTED, LOAD, LOST, OK, READY, Span
from engine.view.reporting.occupancy import Array, Run, axis_edges, spread

# The scheduler's rule: twice the usual time, and no mere blink.
STRAGGLER_FACTOR, STRAGGLER_SECONDS = 2.0, 5.0
PERCENTILES = (5, 50, 95)
SHORTEST_SECONDS = 1e-3


@dataclass(frozen=True, slots=True)
class ShardTime:
    """An attempt that wrote its shard's part."""

    run: Run
    """Run that it belongs to."""
    span: Span
    """The attempt."""
    is_straggler: bool
    """Whether it took twice the median and 5 s, or its shard was given a second attempt for taking long."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.span.stop_seconds - self.span.start_seconds

    @property
    def start_seconds(self) -> float:
        """When it began, on the axis of all runs."""
        return self.run.offset_seconds + self.span.start_seconds


@dataclass(frozen=True, slots=True)
class Event:
    """An attempt or an actor that came to nothing."""

    run: Run
    """Run that it belongs to."""
    span: Span
    """What was tried."""

    @property
    def what(self) -> str:
        """What it was, in words."""
        if self.span.kind == ATTEMPT:
            return "second attempt" if self.span.is_backup else "attempt"
        return "actor, while loading" if self.span.kind == LOAD else "actor"


def work_edges(spans: Sequence[Span], runs: Sequence[Run], num_steps: int) -> Array:
    """Return the ends of `num_steps` steps: over the time in which shards were tried, or over all of several runs."""
    tried = [span for span in spans if span.kind == ATTEMPT]
    if len(runs) != 1 or not tried:
        return axis_edges(runs, num_steps)
    start, stop = min(span.start_seconds for span in tried), max(span.stop_seconds for span in tried)
    return np.linspace(start, max(stop, start + SHORTEST_SECONDS), num_steps + 1)


def throughput(spans: Sequence[Span], runs: Sequence[Run], edges: Array) -> Array:
    """Return rows per second in each step; a shard's rows are spread evenly over the time of its attempt."""
    offsets = {run.started: run.offset_seconds for run in runs}
    done = [span for span in spans if span.kind == ATTEMPT and span.outcome == OK and span.run in offsets]
    starts = _column(offsets[span.run] + span.start_seconds for span in done)
    stops = _column(offsets[span.run] + span.stop_seconds for span in done)
    rows = _column(span.rows for span in done).reshape(-1, 1)
    rates: Array = spread(starts, stops, rows, edges)[0] / np.diff(edges)
    return rates


def shard_times(spans: Sequence[Span], runs: Sequence[Run]) -> list[ShardTime]:
    """Return every attempt that wrote a part, in the order in which they began."""
    by_start = {run.started: run for run in runs}
    attempts = [span for span in spans if span.kind == ATTEMPT and span.run in by_start]
    helped = {(span.run, span.shard_id) for span in attempts if span.is_backup}
    done = [span for span in attempts if span.outcome == OK]
    seconds = _column(span.stop_seconds - span.start_seconds for span in done)
    usual = float(np.median(seconds)) if done else 0.0
    are_slow = seconds > max(STRAGGLER_SECONDS, STRAGGLER_FACTOR * usual)
    starts = _column(by_start[span.run].offset_seconds + span.start_seconds for span in done)
    order = np.lexsort((_column(span.shard_id for span in done), starts))
    return [
        ShardTime(by_start[span.run], span, bool(are_slow[index]) or (span.run, span.shard_id) in helped)
        for index, span in ((index, done[index]) for index in map(int, order))
    ]


def _column(numbers: Iterable[float]) -> Array:
    """Return numbers as an array without a list of them between, for there may be a million."""
    return np.fromiter(numbers, float)


def percentiles_over_time(times: Sequence[ShardTime], edges: Array) -> tuple[Array, Array]:
    """Return the middles of the steps in which shards began, and percentiles of how long these took, [steps, 3]."""
    starts, seconds = _column(each.start_seconds for each in times), _column(each.seconds for each in times)
    steps = np.clip(np.searchsorted(edges, starts, side="right") - 1, 0, len(edges) - 2)
    kept = np.unique(steps)
    middles = (edges[kept] + edges[kept + 1]) / 2
    return middles, np.array([np.percentile(seconds[steps == step], PERCENTILES) for step in kept])


def list_events(spans: Sequence[Span], runs: Sequence[Run]) -> list[Event]:
    """Return what was tried in vain, by time: failed, lost, cancelled and interrupted attempts, and lost actors."""
    by_start = {run.started: run for run in runs}
    vain = (FAILED, LOST, CANCELLED, INTERRUPTED)
    found = [
        Event(by_start[span.run], span)
        for span in spans
        if span.run in by_start
        and (
            (span.kind == ATTEMPT and span.outcome in vain)
            or (span.kind in (LOAD, READY) and span.outcome in (FAILED, LOST))
        )
    ]
    return sorted(found, key=lambda event: (event.run.number, event.span.stop_seconds, event.span.worker_id))


def count_reasons(events: Sequence[Event]) -> list[tuple[str, str, str, int, float]]:
    """Return kind, outcome and message of what was in vain, how often that was, and the seconds it took; most first."""
    counts: Counter[tuple[str, str, str]] = Counter()
    seconds: dict[tuple[str, str, str], float] = defaultdict(float)
    for event in events:
        key = (event.what, event.span.outcome, event.span.message)
        counts[key] += 1
        if event.span.kind == ATTEMPT:
            seconds[key] += event.span.stop_seconds - event.span.start_seconds
    return [(*key, count, seconds[key]) for key, count in counts.most_common()]
