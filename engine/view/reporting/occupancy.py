"""What every actor did when: spans of the timeline become seconds by state, in steps of time.

Phases of an attempt are known as totals, so they are spread evenly over its time. Attempts of an actor overlap: of what
they do at once, scoring counts first, then converting, writing and reading; what is left of an actor's time is idle.
Runs stand one after another on one axis, without the time between them. Pure. Start at `order_runs`, then `occupy`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.timeline import ATTEMPT, LOAD, OK, READY, RUN, RUNNING, Span

Array = npt.NDArray[Any]
SCORE, CONVERT, WRITE, READ, HAND, LOST, LOADING, IDLE = (
    *("score", "convert", "write", "read", "hand", "lost", "load"),
    "idle",
)
STATES = (SCORE, CONVERT, WRITE, READ, HAND, LOST, LOADING, IDLE)
"""What an actor can be at, in the order in which it counts; `hand` is an attempt that goes on, `lost` one in vain."""
_PHASES = ("session_seconds", "bind_seconds", "write_seconds", "read_seconds")
_phases = attrgetter(*_PHASES)
LONGEST_AXIS = 3.0e8


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the job on the axis of all its runs."""

    number: int
    """Its number, from 1."""
    started: float
    """When it began, in seconds since 1970."""
    offset_seconds: float
    """Where it begins on the axis."""
    seconds: float
    """How long it took."""
    outcome: str
    """How it ended, as its span says; running where it goes on or was never heard of again."""
    rows: int
    """Rows that it scored."""
    message: str
    """Why it failed, if it did."""


@dataclass(frozen=True, slots=True)
class ActorTime:
    """What one actor did."""

    run: int
    """Number of the run that it belongs to."""
    worker_id: int
    """Its number in that run."""
    node: str
    """Where it was."""
    outcome: str
    """How it ended: done, lost and so on."""
    message: str
    """Why it was lost, if it was."""
    shards: int
    """Shards that it committed."""
    rows: int
    """Rows that it wrote."""
    seconds: Array
    """Seconds by state and step, [states, steps]."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What all actors did."""

    edges: Array
    """Ends of the steps of time, in seconds on the axis of all runs."""
    actors: tuple[ActorTime, ...]
    """The actors, by run and number."""

    @property
    def total(self) -> Array:
        """Seconds of all actors by state and step, [states, steps]."""
        return sum((actor.seconds for actor in self.actors), np.zeros((len(STATES), len(self.edges) - 1)))


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the picture of actors: an actor, or several that are shown as one."""

    label: str
    """What it is called."""
    shares: Array
    """Share of these actors in each state, [states, steps]; all 0 where none was there."""
    num_lost: int
    """Actors of it that were lost."""


def order_runs(spans: Iterable[Span]) -> tuple[Run, ...]:
    """Return the runs that spans tell of, the oldest first."""
    found: dict[float, list[Span]] = {}
    for span in spans:
        found.setdefault(span.run, []).append(span)
    runs: list[Run] = []
    offset = 0.0
    for number, started in enumerate(sorted(found), 1):
        own = next((span for span in found[started] if span.kind == RUN), None)
        seconds = min(LONGEST_AXIS, max(span.stop_seconds for span in found[started]))
        rows = sum(span.rows for span in found[started] if span.kind == ATTEMPT and span.outcome == OK)
        outcome, message = (RUNNING, "") if own is None else (own.outcome, own.message)
        runs.append(Run(number, started, offset, seconds, outcome, rows, message))
        offset += max(seconds, 1e-3)
    return tuple(runs)


def axis_edges(runs: Sequence[Run], num_steps: int) -> Array:
    """Return the ends of `num_steps` steps of equal length over all runs."""
    end = runs[-1].offset_seconds + max(runs[-1].seconds, 1e-3) if runs else 1.0
    return np.linspace(0.0, end, num_steps + 1)


def spread(starts: Array, stops: Array, amounts: Array, edges: Array) -> Array:
    """Spread the amounts of intervals evenly over their time, and return the sum in each step, [kinds, steps].

    What an interval has outside of all steps is left out. Time and memory grow with intervals and steps, not with
    their product: a job may have a million shards.

    Args:
        starts: when the intervals begin, in seconds.
        stops: when they end.
        amounts: what to spread, [intervals, kinds].
        edges: ends of the steps.
    """
    num_steps = len(edges) - 1
    size = num_steps + 2  # a step before all, and one behind them
    starts, stops = np.asarray(starts, float), np.asarray(stops, float)
    lengths = np.maximum(stops - starts, 1e-9)
    first, last = np.searchsorted(edges, starts, "right"), np.searchsorted(edges, starts + lengths, "right")
    are_inside = first == last
    is_wide = last - first > 1  # has steps between its first and its last
    head = np.where(are_inside, lengths, edges[np.minimum(first, num_steps)] - starts) / lengths
    tail = np.where(are_inside, 0.0, starts + lengths - edges[np.maximum(last, 1) - 1]) / lengths
    opened, closed = first[is_wide] + 1, last[is_wide]
    # A sum of differences leaves 1e-17 where nothing is: steps that no interval covers whole are known by counting.
    is_covered = np.cumsum(np.bincount(opened, minlength=size) - np.bincount(closed, minlength=size)) > 0
    total = np.empty((amounts.shape[1], num_steps))
    for kind, amount in enumerate(np.asarray(amounts, float).T):
        found = np.bincount(first, amount * head, size) + np.bincount(last, amount * tail, size)
        rates = (amount / lengths)[is_wide]
        covering = np.cumsum(np.bincount(opened, rates, size) - np.bincount(closed, rates, size))
        whole = np.where(is_covered, np.maximum(covering, 0.0), 0.0)[1:-1] * np.diff(edges)
        total[kind] = found[1:-1] + whole
    return total


def occupy(spans: Sequence[Span], runs: Sequence[Run], edges: Array) -> Occupancy:
    """Return what every actor did in each step of time."""
    by_start = {run.started: run for run in runs}
    mine: dict[tuple[int, int], list[Span]] = {}
    for span in spans:
        if span.kind != RUN and span.run in by_start:
            mine.setdefault((by_start[span.run].number, span.worker_id), []).append(span)
    actors = [
        _actor_time(run, worker_id, found, edges - runs[run - 1].offset_seconds)
        for (run, worker_id), found in sorted(mine.items())
    ]
    return Occupancy(edges, tuple(actors))


def _actor_time(run: int, worker_id: int, spans: Sequence[Span], edges: Array) -> ActorTime:
    by_kind: dict[str, list[Span]] = {LOAD: [], READY: [], HAND: [], LOST: [], OK: []}
    for span in spans:
        outcome = {OK: OK, RUNNING: HAND}.get(span.outcome, LOST)
        by_kind.setdefault(outcome if span.kind == ATTEMPT else span.kind, []).append(span)
    done = by_kind[OK]
    seconds = np.zeros((len(STATES), len(edges) - 1))
    loading, ready, hand, lost = (_presence(by_kind[kind], edges) for kind in (LOAD, READY, HAND, LOST))
    if not by_kind[READY]:
        ready = np.minimum(np.diff(edges), _presence([span for span in spans if span.kind == ATTEMPT], edges))
    known = spread(*_times(done), np.array([_phases(span) for span in done]).reshape(-1, len(_PHASES)), edges)
    wanted = dict(zip(STATES, known, strict=False)) | {HAND: hand, LOST: lost}
    left = ready.copy()
    for state, amount in wanted.items():
        seconds[STATES.index(state)] = np.minimum(amount, left)
        left -= seconds[STATES.index(state)]
    seconds[STATES.index(LOADING)] = loading
    seconds[STATES.index(IDLE)] = left
    last = max(spans, key=lambda span: (span.kind in (LOAD, READY), span.stop_seconds))
    node = next((span.node for span in reversed(spans) if span.node), "")
    rows = sum(span.rows for span in done)
    return ActorTime(run, worker_id, node, last.outcome, last.message, len(done), rows, seconds)


def _times(spans: Sequence[Span]) -> tuple[Array, Array]:
    return np.array([span.start_seconds for span in spans]), np.array([span.stop_seconds for span in spans])


def _presence(spans: Sequence[Span], edges: Array) -> Array:
    if not spans:
        return np.zeros(len(edges) - 1)
    starts, stops = _times(spans)
    found: Array = spread(starts, stops, (stops - starts)[:, None], edges)[0]
    return found


def choose_rows(occupancy: Occupancy, most: int) -> tuple[str, list[Row]]:
    """Return what a row of the picture of actors is (`actor`, `node` or `group`), and at most `most` rows."""
    actors = occupancy.actors
    several = len({actor.run for actor in actors}) > 1
    if len(actors) <= most:
        names = [f"{actor.worker_id}" + f" · run {actor.run}" * several for actor in actors]
        return "actor", [_row(name, [actor], occupancy.edges) for name, actor in zip(names, actors, strict=True)]
    nodes: dict[str, list[ActorTime]] = {}
    groups: dict[int, list[ActorTime]] = {}
    size = -(-(1 + max(actor.worker_id for actor in actors)) // most)
    for actor in actors:
        nodes.setdefault(actor.node or "no place", []).append(actor)
        groups.setdefault(actor.worker_id // size, []).append(actor)
    if 1 < len(nodes) <= most:
        named = [(f"{name} ({_most_at_once(mine)})", mine) for name, mine in sorted(nodes.items())]
        return "node", [_row(name, mine, occupancy.edges) for name, mine in named]
    return "group", [
        _row(f"{number * size}–{(number + 1) * size - 1}", mine, occupancy.edges)
        for number, mine in sorted(groups.items())
    ]


def _most_at_once(actors: Sequence[ActorTime]) -> int:
    """Return how many actors there were in the run that had most of these."""
    return max(Counter(actor.run for actor in actors).values())


def _row(label: str, actors: Sequence[ActorTime], edges: Array) -> Row:
    seconds = sum((actor.seconds for actor in actors), np.zeros((len(STATES), len(edges) - 1)))
    lost = sum(actor.outcome == "lost" for actor in actors)
    return Row(label, seconds / (np.diff(edges) * _most_at_once(actors)), lost)


def coarsen(shares: Array, num_steps: int) -> Array:
    """Return shares in fewer steps: neighbours averaged; `num_steps` divides the number that there are."""
    states, steps = shares.shape
    found: Array = shares.reshape(states, num_steps, steps // num_steps).mean(axis=2)
    return found
