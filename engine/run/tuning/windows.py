"""How many rows fall into a window of time. Pure. Start at `rows_within`."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A shard that was scored."""

    start: float
    """When it was begun, in seconds of a clock."""
    stop: float
    """When it was done."""
    rows: int
    """Its rows."""


def rows_within(spans: Iterable[Span], start: float, stop: float) -> float:
    """Return the rows done from `start` to `stop`: of a shard that lies across, the share of its time inside."""
    return sum(
        each.rows * max(0.0, min(each.stop, stop) - max(each.start, start)) / (each.stop - each.start)
        for each in spans
        if each.stop > each.start
    )
