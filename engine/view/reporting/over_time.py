"""The sections of a report that tell what happened when: actors, throughput, shard times, retries and losses.

Start at `OverTime`.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from engine.data.timeline import Span
from engine.view.reporting.blocks import (
    Picture,
    Side,
    Table,
    capped,
    clock,
    duration,
    number,
    share,
    shown,
    told,
)
from engine.view.reporting.charts import ShardDots, draw_histogram, draw_rows, draw_shards, draw_states, draw_throughput
from engine.view.reporting.losses import MAX_NOTE, MAX_TABLE_ROWS, NOTHING, tell_events
from engine.view.reporting.occupancy import (
    STATES,
    Array,
    Occupancy,
    Run,
    axis_edges,
    choose_rows,
    coarsen,
    occupy,
    order_runs,
)
from engine.view.reporting.pace import (
    ShardTime,
    list_events,
    percentiles_over_time,
    shard_times,
    throughput,
    work_edges,
)

NUM_STEPS = 160
MAX_ROWS = 40
MANY_ROWS, SOME_ROWS = 12, 4
MAX_DOTS = 600
NUM_SLOWEST = 12
NUM_RATE_ROWS = 12
NUM_BAND_STEPS = 60
MIN_DISTRIBUTED = 8
WORDS = {
    "score": "scoring",
    "convert": "converting",
    "write": "writing",
    "read": "reading",
    "hand": "shard in hand",
    "lost": "lost",
    "load": "loading the model",
    "idle": "idle",
}


class OverTime:
    """The timeline of a job, and the sections that tell of it; what several of them need is worked out once."""

    def __init__(self, spans: Sequence[Span]) -> None:
        """Take the timeline; nothing is worked out yet."""
        self._spans = spans

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The runs of the job."""
        return order_runs(self._spans)

    @cached_property
    def occupancy(self) -> Occupancy:
        """What the actors did."""
        return occupy(self._spans, self.runs, axis_edges(self.runs, NUM_STEPS))

    def tell_actors(self) -> tuple[Side, ...]:
        """Tell what the actors did."""
        return tuple(_tell_actors(self.occupancy, self.runs))

    def tell_throughput(self, average: float) -> tuple[Side, ...]:
        """Tell how many rows a second there were.

        Args:
            average: rows per second of the last run, as the summary has it; 0 where it has none.
        """
        return (_tell_throughput(self._spans, self.runs, average),)

    def tell_shards(self) -> tuple[Side, ...]:
        """Tell how long shards took."""
        return tuple(_tell_shards(self._spans, self.runs))

    def tell_losses(self) -> tuple[Side, ...]:
        """Tell of retries and losses."""
        return (tell_events(list_events(self._spans, self.runs), self.runs),)


def _tell_actors(occupancy: Occupancy, runs: Sequence[Run]) -> list[Side]:
    if not occupancy.actors:
        return [Side(texts=(NOTHING if not runs else "No actor was asked for: nothing was left to score.",))]
    seconds = occupancy.total
    end = float(occupancy.edges[-1])
    used = [index for index in range(len(STATES)) if seconds[index].any()]
    legend = tuple((STATES[index], WORDS[STATES[index]]) for index in used)
    totals = seconds.sum(axis=1)
    states = Table(
        "Time of all actors",
        ("state", "actor time", "share"),
        tuple((WORDS[STATES[index]], duration(totals[index]), share(totals[index], totals.sum())) for index in used),
        numbers=(1, 2),
    )
    together = Side(
        title="All actors together",
        texts=(
            "How many actors were in which state. The phases of a shard are known as totals, so they are spread evenly "
            "over its time; where shards of an actor overlap, scoring counts first, then converting, writing and "
            "reading. Lost is time spent on attempts that came to nothing.",
            *_runs_text(runs),
        ),
        picture=Picture(
            draw_states("states", occupancy.edges, seconds / np.diff(occupancy.edges), runs),
            "Actors by state over time", legend,
        ),
        tables=(states, *([_runs_table(runs)] if len(runs) > 1 else [])),
    )  # fmt: skip
    what, rows = choose_rows(occupancy, MAX_ROWS)
    num_steps = NUM_STEPS // (1 if len(rows) <= SOME_ROWS else 2 if len(rows) <= MANY_ROWS else 4)
    rows = [type(row)(row.label, coarsen(row.shares, num_steps), row.num_lost) for row in rows]
    titles = {"actor": "Every actor", "node": "Every node", "group": "Groups of actors"}
    texts = {
        "actor": "A row an actor; a cross is where one was lost.",
        "node": f"{len(occupancy.actors):,} actors, a row a node, with their number; a cross is where one was lost.",
        "group": f"{len(occupancy.actors):,} actors, a row for some of them each; a cross is where one was lost.",
    }
    edges = np.linspace(0.0, end, num_steps + 1)
    each = Side(
        title=titles[what],
        texts=(texts[what],),
        picture=Picture(draw_rows("rows", edges, rows, runs), f"{titles[what]} by state over time", legend),
        tables=(_actors_table(occupancy),),
    )
    return [together, each]


def _runs_text(runs: Sequence[Run]) -> tuple[str, ...]:
    if len(runs) == 1:
        return ()
    return (f"{len(runs):,} runs stand one after another, a dashed line between them; the time between is left out.",)


def _runs_table(runs: Sequence[Run]) -> Table:
    rows = [(str(run.number), run.outcome, duration(run.seconds), f"{run.rows:,}", told(run.message)) for run in runs]
    cut, more = capped(rows, MAX_TABLE_ROWS, "more runs")
    return Table("Runs", ("run", "outcome", "time", "rows", "why"), cut, (0, 2, 3), is_folded=True, more=more)


def _actors_table(occupancy: Occupancy) -> Table:
    several = len({actor.run for actor in occupancy.actors}) > 1
    rows, marked = list[tuple[str, ...]](), set[int]()
    for actor in occupancy.actors[:MAX_TABLE_ROWS]:
        by_state = dict(zip(STATES, actor.seconds.sum(axis=1), strict=True))
        ready = sum(seconds for state, seconds in by_state.items() if state != "load")
        if actor.outcome == "lost":
            marked.add(len(rows))
        rows.append(
            (
                str(actor.worker_id) + f" · run {actor.run}" * several,
                shown(actor.node, 40) or "–",
                duration(by_state["load"]),
                duration(ready),
                *(share(by_state[state], ready) for state in ("score", "convert", "read", "write", "idle", "lost")),
                f"{actor.shards:,}",
                f"{actor.rows:,}",
                told(actor.message, MAX_NOTE) if actor.outcome != "done" else "",
            )
        )
    heads = (
        *("actor", "node", "loading", "ready", "scoring", "converting", "reading", "writing", "idle", "lost"),
        *("shards", "rows", "note"),
    )
    left = len(occupancy.actors) - len(rows)
    return Table(
        "Actors", heads, tuple(rows), numbers=(0, *range(2, 12)), marked=frozenset(marked), is_folded=True,
        more=f"and {left:,} more actors" if left > 0 else "",
    )  # fmt: skip


def _tell_throughput(spans: Sequence[Span], runs: Sequence[Run], average: float) -> Side:
    edges = work_edges(spans, runs, NUM_STEPS)
    rates = throughput(spans, runs, edges)
    if not rates.any():
        return Side(texts=("No shard was done, so there is no rate to draw." if runs else NOTHING,))
    end = float(edges[-1])
    coarse = np.linspace(float(edges[0]), end, NUM_RATE_ROWS + 1)
    per_row = throughput(spans, runs, coarse)
    rows = tuple(
        (f"{clock(coarse[index], end)} to {clock(coarse[index + 1], end)}", number(round(rate)),
         number(round(rate * (coarse[index + 1] - coarse[index]))))
        for index, rate in enumerate(per_row)
    )  # fmt: skip
    texts = ["Rows of a shard are spread evenly over the time of its attempt."]
    if average:
        texts.append(
            f"The dashed line is the average of the last run while it scored: {number(round(average))} rows/s."
        )
    return Side(
        texts=tuple(texts),
        picture=Picture(draw_throughput("throughput", edges, rates, average, runs), "Rows per second over time"),
        tables=(Table("Rows per second", ("time", "rows/s", "rows"), rows, numbers=(1, 2), is_folded=True),),
    )


def _tell_shards(spans: Sequence[Span], runs: Sequence[Run]) -> list[Side]:
    times = shard_times(spans, runs)
    if not times:
        return [Side(texts=("No shard was done." if runs else NOTHING,))]
    seconds = np.fromiter((each.seconds for each in times), float)
    dots = _choose_dots(times, seconds, work_edges(spans, runs, NUM_BAND_STEPS))
    num_late = sum(each.is_straggler for each in times)
    rule = "more than twice the median and 5 s, or given a second attempt"
    late = f"{num_late:,} of them stragglers (diamonds)" if num_late else "none of them a straggler"
    texts = [f"{len(times):,} shards, {late}: {rule}."]
    if len(dots.middles):
        texts.append("The line is the median of the shards that began at a time, the band 5% to 95% of them.")
    stops = np.percentile(seconds, (0, 5, 50, 95, 99, 100))
    names = ("fastest", "5th percentile", "median", "95th percentile", "99th percentile", "slowest")
    figures = tuple((name, duration(float(value))) for name, value in zip(names, stops, strict=True))
    over_time = Side(
        title="Over time",
        texts=tuple(texts),
        picture=Picture(
            draw_shards("shards", dots, runs), "Time of each shard, by when it began",
            (("score", "shard"), ("lost", "straggler")) if num_late else (("score", "shard"),),
        ),
        tables=(Table("Time of a shard", ("", "time"), figures, numbers=(1,)), _slowest(times, seconds)),
    )  # fmt: skip
    if len(times) < MIN_DISTRIBUTED:
        return [over_time]
    high = float(seconds.max()) or 1e-3
    counts, edges = np.histogram(seconds, 30, (0.0, high))
    filled = [(low, up, count) for low, up, count in zip(edges[:-1], edges[1:], counts, strict=True) if count]
    bins = tuple((f"{duration(float(low))} to {duration(float(up))}", f"{count:,}") for low, up, count in filled)
    spread = Side(
        title="Distribution",
        picture=Picture(
            draw_histogram("shard-times", "How many shards took how long", edges, counts, " s", "shards"),
            "Shards by the time they took",
        ),
        tables=(Table("Shards by time", ("time", "shards"), bins, numbers=(0, 1), is_folded=True),),
    )
    return [over_time, spread]


def _choose_dots(times: Sequence[ShardTime], seconds: Array, edges: Array) -> ShardDots:
    """Return a dot for each shard where they are few, else a band, with the stragglers as dots, the slowest first."""
    late = np.array([each.is_straggler for each in times])
    starts = np.array([each.start_seconds for each in times])
    span = float(edges[0]), float(edges[-1])
    if len(times) <= MAX_DOTS:
        return ShardDots(starts, seconds, late, np.array([]), np.empty((0, 3)), span)
    middles, band = percentiles_over_time(times, edges)
    kept = np.flatnonzero(late)
    kept = kept[np.argsort(-seconds[kept], kind="stable")[:MAX_DOTS]]
    return ShardDots(starts[kept], seconds[kept], late[kept], middles, band, span)


def _slowest(times: Sequence[ShardTime], seconds: Array) -> Table:
    usual, several = float(np.median(seconds)) or 1.0, len({each.run.number for each in times}) > 1
    order = np.argsort(-seconds, kind="stable")[:NUM_SLOWEST]
    rows = tuple(_slow_row(times[index], usual, several) for index in order)
    heads = (
        *("shard", "time", "x median", "actor", "node", "attempt", "rows"),
        *("reading", "converting", "scoring", "writing"),
    )
    marked = frozenset(position for position, index in enumerate(order) if times[index].is_straggler)
    return Table("Slowest shards", heads, rows, (0, 1, 2, 3, 5, 6, 7, 8, 9, 10), marked, is_folded=True)


def _slow_row(each: ShardTime, usual: float, several: bool) -> tuple[str, ...]:
    span = each.span
    phases = (span.read_seconds, span.bind_seconds, span.session_seconds, span.write_seconds)
    return (
        f"{span.shard_id:,}",
        duration(each.seconds),
        f"{each.seconds / usual:.1f}",
        str(span.worker_id) + f" · run {each.run.number}" * several,
        shown(span.node, 40) or "–",
        str(span.attempt) + ", second attempt" * span.is_backup,
        f"{span.rows:,}",
        *map(duration, phases),
    )
