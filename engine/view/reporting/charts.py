"""The pictures of a report, drawn by matplotlib: what it holds are numbers and texts that were worked out before.

Each is drawn once, at a size that can be read on a phone and beside a table alike. Start at `drawing`.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.view.reporting.blocks import MINUTE_SECONDS, clock, shown, tick
from engine.view.reporting.inline import COLOURS, to_inline
from engine.view.reporting.occupancy import STATES, Row, Run
from engine.view.tuning_picture import STYLE, rate_label

Array = npt.NDArray[Any]
WIDTH_INCHES = 5.0
FONT = 10.0
SMALL_FONT = 9.5
MAX_LABEL = 22
# More rows are drawn flatter, or they would not fit a screen; names so short fit below a few columns.
MAX_TALL_ROWS = 8
MAX_BELOW, MIN_COLUMNS = 3, 3
MAX_NAMED_RUNS = 6
HEADROOM = 1.12
ROW_HEIGHT = 0.82
SMALLEST_DRAWN, LARGEST_DRAWN = 1e-100, 1e100
LOOKS: dict[Any, Any] = {
    **STYLE,
    "font.size": FONT,
    "grid.color": COLOURS["grid"],
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["soft"],
    "axes.edgecolor": COLOURS["grid"],
    "xtick.color": COLOURS["grid"],
    "ytick.color": COLOURS["grid"],
    "xtick.labelcolor": COLOURS["soft"],
    "ytick.labelcolor": COLOURS["soft"],
    "xtick.labelsize": SMALL_FONT,
    "ytick.labelsize": SMALL_FONT,
    "axes.labelsize": SMALL_FONT,
}


@dataclass(slots=True)
class Drawing:
    """A picture being drawn."""

    axes: Any
    """Where to draw."""
    svg: str = ""
    """The picture, once it is done."""


@contextlib.contextmanager
def drawing(key: str, label: str, height_inches: float) -> Iterator[Drawing]:
    """Give axes to draw on, and their picture once that is done.

    Args:
        key: name of the picture, of which there is one in a page.
        label: what it shows, for those who cannot see it.
        height_inches: its height; its width is `WIDTH_INCHES`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**LOOKS, "svg.hashsalt": f"icefloe-{key}"}):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        axes.tick_params(length=3)
        drawn = Drawing(axes)
        yield drawn
        sink = io.StringIO()
        nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():  # a page's own fonts have the signs that the one measured with lacks
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(sink, format="svg", metadata=nothing)
    drawn.svg = to_inline(sink.getvalue(), key, label)


def _time_axis(axes: Any, runs: Sequence[Run], start: float, end: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(start, end)
    steps = [1, 2, 5, 10] if end < MINUTE_SECONDS else [1, 2, 3, 6, 10]
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=steps))
    axes.xaxis.set_major_formatter(lambda value, _: clock(value, end))
    axes.grid(visible=False, axis="x")
    for run in runs[1:]:
        axes.axvline(run.offset_seconds, color=COLOURS["ink"], linewidth=0.9, linestyle=(0, (3, 2)))
        if len(runs) <= MAX_NAMED_RUNS:
            axes.annotate(f" run {run.number}", (run.offset_seconds, 1), xycoords=("data", "axes fraction"),
                          va="bottom", ha="left", fontsize=SMALL_FONT, color=COLOURS["soft"],
                          annotation_clip=False)  # fmt: skip


def draw_states(key: str, edges: Array, actors: Array, runs: Sequence[Run]) -> str:
    """Draw how many actors were in which state: areas on top of each other.

    Args:
        key: name of the picture.
        edges: ends of the steps of time, in seconds.
        actors: actors by state and step.
        runs: the runs on this axis.
    """
    from matplotlib.ticker import MaxNLocator

    with drawing(key, "How many actors were in which state over time", 2.2) as drawn:
        axes = drawn.axes
        _stack(axes, edges, actors, 0.0, 1.0)
        axes.set_ylim(0, max(1.0, float(actors.sum(axis=0).max()) * 1.05))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_ylabel("actors")
        _time_axis(axes, runs, float(edges[0]), float(edges[-1]))
    return drawn.svg


def _stack(axes: Any, edges: Array, heights: Array, base: float, scale: float) -> None:
    low = np.full(len(edges), base)
    for state, height in zip(STATES, heights, strict=True):
        if height.any():
            top = low + scale * np.append(height, height[-1])
            axes.fill_between(edges, low, top, step="post", color=COLOURS[state], linewidth=0)
            low = top


def draw_rows(key: str, edges: Array, rows: Sequence[Row], runs: Sequence[Run]) -> str:
    """Draw a row for each actor, node or group: the share of each state over time."""
    height = 0.55 + len(rows) * (0.34 if len(rows) <= MAX_TALL_ROWS else 0.2)
    with drawing(key, "What each actor did over time", height) as drawn:
        axes = drawn.axes
        for position, row in enumerate(rows):
            base = len(rows) - 1 - position
            _stack(axes, edges, row.shares, base, ROW_HEIGHT)
            there = np.flatnonzero(row.shares.sum(axis=0))
            if row.num_lost and len(there):
                axes.plot([edges[there[-1] + 1]], [base + ROW_HEIGHT / 2], marker="x", markersize=6,
                          markeredgewidth=2, color=COLOURS["lost"], clip_on=False, zorder=5)  # fmt: skip
        ticks = [len(rows) - 1 - position + ROW_HEIGHT / 2 for position in range(len(rows))]
        axes.set_yticks(ticks, [shown(row.label, MAX_LABEL) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_ylim(-0.1, len(rows))
        axes.spines["left"].set_visible(False)
        _time_axis(axes, runs, float(edges[0]), float(edges[-1]))
    return drawn.svg


def draw_throughput(key: str, edges: Array, rates: Array, average: float, runs: Sequence[Run]) -> str:
    """Draw rows per second over time, and their average as a line where there is one."""
    with drawing(key, "Rows per second over time", 2.2) as drawn:
        axes = drawn.axes
        axes.fill_between(
            edges, np.append(rates, rates[-1]), step="post", color=COLOURS["score"], alpha=0.28, linewidth=0
        )
        axes.step(edges, np.append(rates, rates[-1]), where="post", color=COLOURS["score"], linewidth=1.6)
        if average:
            axes.axhline(average, color=COLOURS["ink"], linewidth=1, linestyle=(0, (4, 3)))
        axes.set_ylim(0, max(float(rates.max()), average, 1e-9) * HEADROOM)
        axes.yaxis.set_major_formatter(lambda value, _: rate_label(value))
        axes.set_ylabel("rows per second")
        _time_axis(axes, runs, float(edges[0]), float(edges[-1]))
    return drawn.svg


@dataclass(frozen=True, slots=True)
class ShardDots:
    """How long shards took, by when they began."""

    starts: Array
    """When each shard that is shown as a dot began, in seconds."""
    seconds: Array
    """How long it took."""
    are_stragglers: Array
    """Which of them are stragglers."""
    middles: Array
    """Where the band of the others stands; empty where all are dots."""
    band: Array
    """Their 5th, 50th and 95th percentile there, [steps, 3]."""
    span: tuple[float, float]
    """Ends of the axis, in seconds."""


def draw_shards(key: str, dots: ShardDots, runs: Sequence[Run]) -> str:
    """Draw how long shards took: a dot each, or a band of most of them with the stragglers as dots."""
    with drawing(key, "Seconds of each shard over time", 2.3) as drawn:
        axes = drawn.axes
        if len(dots.middles):
            axes.fill_between(dots.middles, dots.band[:, 0], dots.band[:, 2], color=COLOURS["score"], alpha=0.25,
                              linewidth=0)  # fmt: skip
            axes.plot(dots.middles, dots.band[:, 1], color=COLOURS["score"], linewidth=1.6)
        for which, colour, mark, size in (
            (~dots.are_stragglers, "score", "o", 3.5),
            (dots.are_stragglers, "lost", "D", 5),
        ):
            axes.plot(dots.starts[which], dots.seconds[which], mark, color=COLOURS[colour], markersize=size,
                      markeredgewidth=0, alpha=0.8)  # fmt: skip
        top = max([*dots.seconds.tolist(), *dots.band[:, 2].tolist(), 1e-9])
        axes.set_ylim(0, top * HEADROOM)
        axes.yaxis.set_major_formatter(lambda value, _: f"{tick(value)} s")
        axes.set_ylabel("time of a shard")
        _time_axis(axes, runs, *dots.span)
    return drawn.svg


def draw_histogram(key: str, label: str, edges: Array, counts: Array, unit: str = "", what: str = "values") -> str:
    """Draw counts of values in bins."""
    from matplotlib.ticker import MaxNLocator

    scale = _scale(edges)
    edges = edges / scale
    with drawing(key, label, 2.0) as drawn:
        axes = drawn.axes
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=COLOURS["score"], edgecolor="none",
                 linewidth=0, alpha=0.85)  # fmt: skip
        axes.set_xlim(edges[0], edges[-1])
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{tick(float(value) * scale)}{unit}")
        _counts_axis(axes.yaxis)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(what)
    return drawn.svg


def _scale(edges: Array) -> float:
    """Return what to divide numbers by that matplotlib reckons with wrongly: it squares, and adds margins."""
    largest = float(np.abs(edges).max())
    return 1.0 if SMALLEST_DRAWN <= largest <= LARGEST_DRAWN else 10.0 ** max(-300, int(np.log10(largest or 1.0)))


def _counts_axis(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(4, integer=True))
    axis.set_major_formatter(lambda value, _: rate_label(value) if value else "0")


def draw_counts(key: str, label: str, pairs: Sequence[tuple[str, int]], what: str = "rows") -> str:
    """Draw how often each value came: columns for short names, else bars with the names beside them."""
    names, counts = [shown(name, MAX_LABEL) for name, _ in pairs], [count for _, count in pairs]
    is_upright = max(map(len, names)) <= MAX_BELOW and len(names) >= MIN_COLUMNS
    height = 2.0 if is_upright else 0.55 + 0.26 * len(names)
    with drawing(key, label, height) as drawn:
        axes, places = drawn.axes, range(len(names))
        if is_upright:
            axes.bar(places, counts, 0.72, color=COLOURS["score"], linewidth=0, alpha=0.85)
            axes.set_xticks(places, names)
            axes.set_ylabel(what)
            _counts_axis(axes.yaxis)
            axes.grid(visible=False, axis="x")
            axes.tick_params(axis="x", length=0)
        else:
            axes.barh(places, counts, 0.7, color=COLOURS["score"], linewidth=0, alpha=0.85)
            axes.set_yticks(places, names)
            axes.invert_yaxis()
            axes.set_xlabel(what)
            _counts_axis(axes.xaxis)
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
    return drawn.svg
