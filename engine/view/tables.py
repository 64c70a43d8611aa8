"""Tables for people: a summary, a plan. Writes to the stream that it is given.

Start at `print_summary` and `print_preview`; `print_table` is what every table is printed by.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from engine.preparing.forecast import Forecast
    from engine.preview import DataInFlight, Preview
    from engine.run.summary import Summary
    from engine.run.verify import Verification

KIB = 1024
FEW = 100


def print_table(title: str, rows: Iterable[tuple[str, str]], stream: TextIO) -> None:
    """Print rows of a name and a text under a title."""
    table = Table(title=title, show_header=False, title_justify="left", box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, text)
    # Files and pipes get whole lines: a path that was folded cannot be pasted.
    console = Console(
        file=stream, highlight=False, markup=False, emoji=False, width=None if stream.isatty() else 10_000
    )
    with console.capture() as capture:
        console.print(table)
    stream.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def bytes_text(num_bytes: float) -> str:
    """Write bytes with a binary unit: `64.0 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < KIB:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= KIB
    return f"{num_bytes:.1f} TiB"


def device_texts(devices: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say what the actors computed on, a text for each kind of share; nothing where that is CPUs alone."""
    counts = Counter(
        f"{each['device_name'] or 'GPU'}, {bytes_text(each['device_memory_bytes'])} an actor"
        if each["device"] == "GPU"
        else "CPU"
        for each in devices
    )
    return [f"{count} on {text}" for text, count in counts.items()] if set(counts) != {"CPU"} else []


def print_summary(summary: "Summary", stream: TextIO) -> None:
    """Print the figures of a job."""
    earlier = f" ({summary.parts_earlier} of them by an earlier run)" if summary.parts_earlier else ""
    rows = [
        ("rows", f"{summary.rows_in:,} in, {summary.rows_out:,} out, {summary.rows_quarantined:,} quarantined"
         + (f", {summary.rows_filtered:,} filtered" if summary.rows_filtered else "")),
        ("parts", f"{summary.parts}{earlier} in {summary.output}"),
        ("plan", summary.plan_id),
    ]  # fmt: skip
    if summary.attempts:
        rows += [
            ("rows per second", f"{summary.rows_per_second:,.0f} over {summary.scoring_seconds:.2f} s of scoring"),
            ("seconds", f"{summary.seconds_total:.1f} in all, {summary.seconds_ray_start:.1f} for Ray to start, "
             f"{summary.seconds_load:.1f} to load the model"),
            ("actors", f"{summary.actors}, {summary.actors_lost} lost, {summary.attempts} attempts, "
             f"batches of {summary.batch_size}"),
            *(("device", text) for text in device_texts(summary.devices)),
            ("in the session", f"{summary.session_share:.0%} of actor time"),
            ("actor time", summary.actor_time),
            ("limit", summary.bottleneck),
        ]  # fmt: skip
    else:
        rows.append(("this run", "nothing was left to score"))
    if summary.rows_quarantined:
        rows.append(("quarantine", f"{summary.output}/_icefloe/quarantine: rows, where they came from, and why"))
    for column in sorted({*summary.nan_values, *summary.inf_values}):
        num_nan, num_inf = summary.nan_values.get(column, 0), summary.inf_values.get(column, 0)
        rows.append(
            ("not finite", f"{num_nan:,} NaN and {num_inf:,} Inf in {column} (--nan-is-bad sets such rows aside)")
        )
    if summary.batches_split > summary.rows_quarantined:
        rows.append(("batches split", f"{summary.batches_split:,}: their rows do not go together; --batch-size 1 or a "
                     "graph that brings them to one shape is faster"))  # fmt: skip
    rows += _drift_rows(summary)
    if not summary.bytes_stable:
        rows.append(("bytes not stable", summary.bytes_stable_reason))
    print_table("Scored" if summary.attempts else "Already scored", rows, stream)


def computed_text(precision: str, has_xla: bool) -> str:
    """Say how a graph is computed: `bfloat16, compiled with XLA`."""
    return precision + ", compiled with XLA" * has_xla


def _drift_rows(summary: "Summary") -> list[tuple[str, str]]:
    """Say how far values lie from the plain graph's; nothing where that is what was computed, or nothing was."""
    if not summary.attempts or (summary.precision == "float32" and not summary.xla):
        return []
    computed = computed_text(summary.precision, summary.xla)
    rows = [("computed in", computed if summary.drift else f"{computed}; no drift could be measured")]
    for column, drift in summary.drift.items():
        changed = "" if drift.argmax_changed is None else f"; another largest entry in {drift.argmax_changed:.3%}"
        rows.append(
            ("drift", f"{column}: at most {drift.max_absolute:.2g} absolute ({drift.p999_absolute:.2g} for 99.9%), "
             f"{drift.max_relative:.2g} relative ({drift.p999_relative:.2g}){changed}, of {drift.rows:,} rows")
        )  # fmt: skip
    return rows


def print_preview(preview: "Preview", stream: TextIO) -> None:
    """Print what a job would do."""
    num_left_out = f" ({preview.num_pruned:,} files left out for their folders)" if preview.num_pruned else ""
    notes = [""] * (len(preview.where) - 1) + [num_left_out] * bool(preview.where)
    state = f"; {preview.num_done:,} done already" + ", nothing is left to do" * preview.is_finished
    state = "" if preview.refusal else state
    computed = computed_text(preview.precision, preview.xla)
    number = f", generation {preview.generation}" if preview.generation else ""
    rows = [
        ("plan", preview.plan_id + number),
        ("model", preview.model),
        ("input", f"{preview.num_files:,} files, {bytes_text(preview.input_bytes)}"),
        *(("where", f"{text}{pruned}") for text, pruned in zip(preview.where, notes, strict=True)),
        ("shards", f"{preview.num_shards:,} of at most {bytes_text(preview.shard_bytes)}{state}"),
        *[("refused", preview.refusal)] * bool(preview.refusal),
        *[("then", "the files that came since, as a generation of their own")] * preview.has_more,
        ("batch", f"{preview.batch_rows} rows"),
        *[("computed in", computed)] * (computed != "float32"),
        *(("feed", f"{column} ({kind}) -> {tensor}") for column, kind, tensor in preview.feeds),
        *(("fetch", f"{tensor} -> {column}") for tensor, column in preview.fetches),
        *(("keep", f"{name} ({kind})") for name, kind in preview.kept),
        ("data in flight", _memory_text(preview.memory)),
        ("output", f"{preview.output}/"),
        *(("", name) for name in preview.parts),
        *([] if preview.simulated is None else _forecast_rows(preview.simulated)),
    ]  # fmt: skip
    print_table("Plan", rows, stream)


def _memory_text(memory: "DataInFlight") -> str:
    bound = "at most" if memory.is_exact else "by the first footer, which may understate columns of varying width"
    terms = {
        "fetched": memory.fetched_bytes,
        "slice": memory.slice_bytes,
        "decoding": memory.decoding_bytes,
        "converted": memory.converted_bytes,
        "batch": memory.batch_bytes,
        "part": memory.part_bytes,
    }
    text = " + ".join(f"{name} {bytes_text(size)}" for name, size in terms.items() if size or name != "fetched")
    total = f"{bytes_text(memory.total_bytes)} an actor, {bound}"
    holding = f"{memory.holding_at_once} of {memory.shards_at_once} shards x ({text})"
    return f"{total}: {holding} + {bytes_text(memory.retained_bytes)} that allocators retain, and the fetches' columns"


def seconds_text(seconds: float) -> str:
    """Write a length of time for people: `42 s`, `5 min 10 s`, `3 h 2 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def _forecast_rows(found: "Forecast") -> list[tuple[str, str]]:
    if not found.num_shards:
        return [("simulated", "nothing is left to do")]
    estimated = " (estimated by bytes, from the first footer)" if found.is_estimated else ""
    source = "as given" if found.is_rate_given else "as in the last summary"
    rate = f"{found.rate:,.0f}" if found.rate >= FEW else f"{found.rate:.3g}"
    load_source = "assumed" if found.is_load_assumed else "as in the last summary"
    return [
        ("simulated", f"{seconds_text(found.wall_seconds)} on {found.num_actors:,} actors, at work for "
         f"{found.utilisation:.1%} of their time: {found.num_shards:,} shards, {found.num_rows:,} rows{estimated}"),
        ("", f"{rate} rows/s an actor ({source}), {seconds_text(found.load_seconds)} to load the model "
         f"({load_source}); no faults, and Ray's start comes on top"),
        ("", f"up to {found.useful_actors:,} actors are fully used; more need more shards (a smaller --shard-size)"),
    ]  # fmt: skip


def print_verification(found: "Verification", stream: TextIO) -> None:
    """Print what a check of an output has found."""
    counts = found.counts
    rows = [
        ("output", f"{found.output}/"),
        ("parts", f"{found.parts:,}, made of {found.inputs:,} input file" + "s" * (found.inputs != 1)),
        ("rows", f"{counts.rows_in:,} in, {counts.rows:,} out, {counts.rows_quarantined:,} quarantined"
         + f", {counts.rows_filtered:,} filtered" * bool(counts.rows_filtered)),
        *[("scored again", f"{found.rows_sampled:,} rows" + ", which agree" * (not found.problems))]
        * bool(found.rows_sampled),
        *(("wrong", text) for text in found.problems),
        *(("note", text) for text in found.notes),
    ]  # fmt: skip
    print_table("Wrong" if found.problems else "Verified", rows, stream)
