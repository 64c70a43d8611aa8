"""The picture of a sweep: rows a second over batch size, and other ways to compute beside float32. SVG.

The only room that imports matplotlib, and only when it draws. Start at `draw_tuning`.
"""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.run.tuning.choice import Tuning
    from engine.run.tuning.settings import Layout, Measurement

# Okabe and Ito's colours, which most people can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = "osD^vP*"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "icefloe",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "text.parse_math": False,
}
SIZE_INCHES = (11.0, 4.4)
HEADROOM = 1.08
MAX_UPRIGHT = 6


def draw_tuning(tuning: "Tuning") -> str:
    """Return the picture as SVG, its text as text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_batches(left, tuning)
        _draw_numbers(right, tuning)
        figure.suptitle(f"icefloe tune: {tuning.model.rpartition('/')[2]}, {tuning.sample_rows:,} rows", fontsize=12)
        sink = io.StringIO()
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()


def _draw_batches(axes: Any, tuning: "Tuning") -> None:
    """Draw a line a layout: rows per second over the batch size."""
    lines: dict[Layout, list[Measurement]] = {}
    for each in tuning.measurements:
        if each.setting.is_plain:
            lines.setdefault(each.setting.layout, []).append(each)
    for i, (layout, mine) in enumerate(lines.items()):
        mine.sort(key=lambda each: each.batch_rows)
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        sizes, rates = [each.batch_rows for each in mine], [each.rows_per_second for each in mine]
        axes.plot(sizes, rates, color=colour, marker=mark, linewidth=1.8, label=str(layout))
    best, limit = tuning.best, tuning.limit(tuning.best)
    if limit:
        axes.axhline(limit, color="#777777", linestyle=":", label="limit: the same work without waiting")
    axes.axvline(tuning.auto_rows, color="#777777", linestyle="--", linewidth=1, label=f"auto: {tuning.auto_rows:,}")
    axes.plot([best.batch_rows], [best.rows_per_second], marker="o", markersize=13, fillstyle="none", color="#222222",
              linestyle="none", label="best")  # fmt: skip
    sizes = sorted({each.batch_rows for mine in lines.values() for each in mine})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45 if len(sizes) > MAX_UPRIGHT else 0)
    axes.minorticks_off()
    axes.set_ylim(0, HEADROOM * max(limit or 0.0, *(each.rows_per_second for mine in lines.values() for each in mine)))
    axes.yaxis.set_major_formatter(lambda value, _: rate_label(value))
    axes.set(xlabel="rows per graph call", ylabel="rows per second", title="Batch size, in float32")
    axes.legend(frameon=False, fontsize=9)


def _draw_numbers(axes: Any, tuning: "Tuning") -> None:
    """Draw a bar for each way to compute, the best batch size of each, with the drift written in it."""
    bars: dict[str, Measurement] = {tuning.best.setting.numbers: tuning.best}
    for each in sorted(tuning.measurements, key=lambda each: -each.rows_per_second):
        if not each.setting.is_plain:
            bars.setdefault(each.setting.numbers, each)
    positions = range(len(bars))
    colours = [COLOURS[0], *[COLOURS[1]] * (len(bars) - 1)]
    axes.barh(positions, [each.rows_per_second for each in bars.values()], color=colours, height=0.62, alpha=0.35)
    for position, each in zip(positions, bars.values(), strict=True):
        axes.text(0, position, f" {_bar_text(each)}", va="center", fontsize=9, color="#111111")
    axes.set_yticks(positions, bars)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(lambda value, _: rate_label(value))
    axes.set(xlabel="rows per second", title="Precision and XLA, and the drift")


def _bar_text(measured: "Measurement") -> str:
    text = f"{rate_label(measured.rows_per_second)} rows/s, batch {measured.batch_rows:,}"
    drift = measured.worst_drift
    if drift is None:
        return text
    text += f"\n max. difference {drift.max_absolute:.1e}"
    return text + ("" if drift.argmax_changed is None else f", argmax {drift.argmax_changed:.2%}")


def rate_label(rate: float) -> str:
    """Write a rate in short: `1.25M`, `40k`, `12`."""
    for bound, unit in ((1e6, "M"), (1e3, "k")):
        if rate >= bound:
            return f"{rate / bound:.3g}{unit}"
    return f"{rate:.3g}"
