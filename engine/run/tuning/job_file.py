"""A `job.toml` of what was measured: the settings to take, the others as comments. Pure. Start at `job_file`."""

from collections.abc import Mapping
from typing import Any

from engine.job_toml import SCHEMA_LINE, setting_lines
from engine.run.tuning.choice import Tuning
from engine.run.tuning.settings import Layout, Measurement

# Decided here, or by whoever starts the job.
TUNED = ("batch_size", "actors", "cpus_per_actor", "gpus_per_actor", "precision", "xla")
FIRST = ("model", "input", "output")


def job_file(tuning: Tuning, settings: Mapping[str, Any], is_named: bool) -> str:
    """Return the text of a `job.toml`.

    The graph is computed as it is, in float32 without XLA, unless the caller has named other ways, and one of them is
    faster.

    Args:
        tuning: what was measured.
        settings: the job's own options, by their names in the file.
        is_named: whether the caller asked for particular ways to compute.
    """
    best, faster = tuning.best, tuning.faster
    chosen = faster[0] if is_named and faster else best
    lines = [
        SCHEMA_LINE,
        f"# Measured by icefloe tune: {tuning.sample_rows:,} rows on {tuning.machine.cores} cores"
        + (f" and {tuning.machine.gpus} GPUs" if tuning.machine.gpus else "")
        + ". To score with it: icefloe score --config job.toml",
        *(line for name in FIRST if name in settings for line in setting_lines(name, settings[name])),
        "",
        f"# {_figures(tuning, chosen)}",
        f"batch_size = {chosen.batch_rows}",
        *_layout_lines(chosen.setting.layout),
        *_numbers_lines(tuning, chosen, settings),
        "",
    ]
    for name, value in settings.items():
        if name not in (*FIRST, *TUNED):
            lines += setting_lines(name, value)
    return "\n".join(lines) + "\n"


def _figures(tuning: Tuning, measured: Measurement) -> str:
    share = tuning.efficiency(measured)
    of_limit = f", {share:.0%} of what its work would take without any waiting" if share else ""
    return f"{measured.setting}: {measured.rows_per_second:,.0f} rows/s{of_limit}"


def _layout_lines(layout: Layout) -> list[str]:
    """Return the lines that make a job take the layout: actors follow from their shares, on any machine."""
    lines = [f'actors = "auto"  # {layout.actors} on a machine like this one', f"cpus_per_actor = {layout.threads}"]
    return [*lines, f"gpus_per_actor = {layout.gpu_share:g}"]


def _numbers_lines(tuning: Tuning, chosen: Measurement, settings: Mapping[str, Any]) -> list[str]:
    """Return the lines of precision and XLA: those that are taken, and those that would be faster as comments."""
    lines = []
    for each in tuning.faster:
        mark = "" if each is chosen else "# "
        lines += [
            f"# {each.setting.numbers}, batches of {each.batch_rows:,}: {tuning.gain(each):+.0%} rows/s",
            f"# {drift_text(each)}",
            *[f'{mark}precision = "{each.setting.precision}"'] * (each.setting.precision != "float32"),
            *[f"{mark}xla = true"] * each.setting.xla,
            *[f"{mark}batch_size = {each.batch_rows}"] * (each.batch_rows != chosen.batch_rows),
        ]
    if chosen is tuning.best:  # what the job had been given stays
        own = [name for name in ("precision", "xla") if name in settings]
        lines = [*(line for name in own for line in setting_lines(name, settings[name])), *lines]
    return lines


def drift_text(measured: Measurement) -> str:
    """Say how far the values lie from those of float32."""
    drift = measured.worst_drift
    if drift is None:
        return "how far its values lie from float32's was not measured"
    text = f"values differ by up to {drift.max_absolute:.2g} ({drift.max_relative:.2g} of the value)"
    if drift.argmax_changed is not None:
        text += f", the largest entry is another one in {drift.argmax_changed:.2%} of rows"
    return f"{text} ({drift.rows:,} rows compared)"
