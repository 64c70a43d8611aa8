"""What `icefloe tune` has measured, as a table for people. Writes to the stream that it is given.

Start at `print_tuning`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table

from engine.view.tables import bytes_text, print_table, seconds_text

if TYPE_CHECKING:
    from engine.run.tuning.choice import Tuning
    from engine.run.tuning.settings import Measurement

COLUMNS = ("actors x threads", "batch", "rows/s", "of the limit", "peak memory", "load", "first call")
NUMBERS = ("precision", "XLA", *COLUMNS[1:], "max diff", "99.9 %", "max rel.", "99.9 %", "argmax changed")
WIDE = 10_000
# Rates from here on are told in whole rows.
WHOLE = 100


def print_tuning(tuning: "Tuning", paths: Sequence[Path], stream: TextIO) -> None:
    """Print what was measured, what to make of it, and where it lies."""
    plain = [each for each in tuning.measurements if each.setting.is_plain]
    others = [each for each in tuning.measurements if not each.setting.is_plain]
    plain.sort(key=lambda each: (-each.setting.layout.actors, each.batch_rows))
    rows = [(_layout(each), *_common(tuning, each), _mark(tuning, each)) for each in plain]
    _print_columns("float32, as the graph is", (*COLUMNS, ""), rows, stream)
    if others:
        layout = _layout(others[0])
        rows = [(each.setting.precision, "on" if each.setting.xla else "off", *_common(tuning, each), *_drift(each))
                for each in others]  # fmt: skip
        stream.write("\n")
        _print_columns(
            f"other ways to compute, {layout}, and how far values drift from float32's", NUMBERS, rows, stream
        )
    stream.write("\n")
    print_table("Tuned", _verdicts(tuning, paths), stream)


def _print_columns(title: str, names: Sequence[str], rows: Iterable[Sequence[str]], stream: TextIO) -> None:
    """Print rows below the names of their columns, numbers at the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(names):
        table.add_column(name, justify="left" if i == 0 or not name else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    width = None if stream.isatty() else WIDE
    console = Console(file=stream, highlight=False, markup=False, emoji=False, width=width)
    with console.capture() as capture:
        console.print(table)
    stream.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _layout(measured: "Measurement") -> str:
    layout = measured.setting.layout
    gpus = f", {layout.gpu_share:g} GPU each" if layout.gpu_share else ""
    return f"{layout.actors} x {layout.threads}{gpus}"


def _common(tuning: "Tuning", measured: "Measurement") -> tuple[str, ...]:
    share = tuning.efficiency(measured)
    return (
        f"{measured.batch_rows:,}",
        rate_text(measured.rows_per_second),
        "" if share is None else f"{share:.0%}",
        bytes_text(measured.peak_bytes),
        f"{measured.load_seconds:.1f} s",
        f"{measured.first_call_seconds:.3f} s",
    )


def _mark(tuning: "Tuning", measured: "Measurement") -> str:
    marks = ["auto"] * (measured.batch_rows == tuning.auto_rows) + ["<- best"] * (measured is tuning.best)
    return ", ".join(marks)


def _drift(measured: "Measurement") -> tuple[str, ...]:
    found = measured.worst_drift
    if found is None:
        return ("",) * 5
    figures = (found.max_absolute, found.p999_absolute, found.max_relative, found.p999_relative)
    changed = "" if found.argmax_changed is None else f"{found.argmax_changed:.3%}"
    return *(f"{each:.2g}" for each in figures), changed


def rate_text(rate: float) -> str:
    """Write rows per second: whole ones, or three digits of few."""
    return f"{rate:,.0f}" if rate >= WHOLE else f"{rate:.3g}"


def _verdicts(tuning: "Tuning", paths: Sequence[Path]) -> list[tuple[str, str]]:
    best = tuning.best
    return [
        ("measured", f"{tuning.sample_rows:,} rows of {tuning.sample_files} "
         f"file{'' if tuning.sample_files == 1 else 's'}, over and over, on {_machine(tuning)}, "
         f"in {seconds_text(tuning.seconds)}"),
        ("best", f"{best.setting.layout}, batches of {best.batch_rows:,}: {rate_text(best.rows_per_second)} rows/s"),
        ("default", _default(tuning)),
        *(("faster", f"{each.setting.numbers}, batches of {each.batch_rows:,}: {tuning.gain(each):+.0%}, "
           "with the drift above") for each in tuning.faster),
        *(("failed", f"{each.setting}{_batch(each.batch_rows)}: {each.reason}")
          for each in tuning.failures if not each.is_left_out),
        *(("left out", f"{each.setting.numbers}: {each.reason}") for each in tuning.failures if each.is_left_out),
        *(("left out", text) for text in tuning.left_out),
        *(("note", text) for text in tuning.notes),
        *(("written", str(path)) for path in paths),
    ]  # fmt: skip


def _batch(batch_rows: int | None) -> str:
    return "" if batch_rows is None else f", batches of {batch_rows:,}"


def _default(tuning: "Tuning") -> str:
    """Say how far a job without options is behind the best."""
    own, text = tuning.by_default, f"{tuning.default}, batches of {tuning.auto_rows:,} (auto)"
    if own is None:
        return f"{text}: not measured"
    behind = 1 - own.rows_per_second / tuning.best.rows_per_second
    return f"{text}: {'the best' if own is tuning.best else f'{behind:.0%} behind the best'}"


def _machine(tuning: "Tuning") -> str:
    cores = "1 core" if tuning.machine.cores == 1 else f"{tuning.machine.cores} cores"
    gpus = f" and {tuning.machine.gpus} GPU{'' if tuning.machine.gpus == 1 else 's'}"
    return cores + gpus * bool(tuning.machine.gpus)
