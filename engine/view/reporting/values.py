"""The sections of a report that tell of rows: those set aside, and how predictions are distributed.

Start at `tell_quarantine` and `tell_predictions`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa

from engine.view.reporting.bad_rows import BadRow, BadRows
from engine.view.reporting.blocks import Picture, Side, Table, capped, number, share, shown
from engine.view.reporting.charts import draw_counts, draw_histogram
from engine.view.reporting.distributions import Counts, Distribution, Histogram, describe_column
from engine.view.reporting.predictions import Predictions

MAX_DRAWN = 8
MAX_BARS = 12
MAX_REASONS = 40
MAX_BIN_ROWS = 60


def tell_quarantine(bad: BadRows, num_known: int | None) -> tuple[Side, ...]:
    """Tell of the rows that were set aside.

    Args:
        bad: what lies in quarantine.
        num_known: rows set aside by the whole job; None where that is not known yet.
    """
    if not bad.num_all_files:
        return (Side(texts=("No row was set aside.",)),)
    total = bad.num_rows if num_known is None else num_known
    texts = [f"{total:,} row{'s were' if total != 1 else ' was'} set aside with a reason, in _icefloe/quarantine."]
    if (bad.num_files, bad.num_rows) != (bad.num_all_files, total):
        texts.append(f"Counted are {bad.num_rows:,} of them, from {bad.num_files:,} of {bad.num_all_files:,} files.")
    reasons = [(shown(reason, 60), f"{count:,}", share(count, bad.num_rows)) for reason, count in bad.counts]
    cut, more = capped(reasons, MAX_REASONS, "more reasons")
    drawn = [(shown(reason), count) for reason, count in bad.counts[:MAX_BARS]]
    counts = Side(
        texts=(*texts, *(shown(note) for note in bad.notes[:3])),
        picture=Picture(draw_counts("quarantine", "Rows in quarantine by reason", drawn), "Rows by reason")
        if drawn
        else None,
        tables=(Table("By reason", ("reason", "rows", "share"), cut, numbers=(1, 2), more=more),) if cut else (),
    )
    firsts = tuple(_first_rows(reason, rows) for reason, rows in bad.firsts.items() if rows)
    return counts, *([Side(title="First rows", tables=firsts)] if firsts else [])


def _first_rows(reason: str, rows: Sequence[BadRow]) -> Table:
    columns = list(dict.fromkeys(name for row in rows for name in row.cells))
    texts = tuple(
        (shown(row.file, 80), f"{row.row:,}", shown(row.message), *(row.cells.get(name, "") for name in columns))
        for row in rows
    )
    heads = ("file", "row", "why", *(shown(name, 30) for name in columns))
    return Table(shown(reason, 60), heads, texts, numbers=(1,), is_folded=True)


def odd_values(manifest: pa.Table | None) -> dict[str, tuple[int, int]] | None:
    """Return the NaN and Inf values of the whole output by column, exactly; None where there is no manifest yet."""
    if manifest is None:
        return None
    nan, inf = Counter[str](), Counter[str]()
    for text in manifest["odd_values"].to_pylist():
        if text != "{}":
            for column, (num_nan, num_inf) in json.loads(text).items():
                nan[column] += num_nan
                inf[column] += num_inf
    return {column: (nan[column], inf[column]) for column in {**nan, **inf}}


def tell_predictions(
    found: Predictions,
    types: Mapping[str, pa.DataType],
    num_all_rows: int | None,
    odd: Mapping[str, tuple[int, int]] | None,
) -> tuple[Side, ...]:
    """Tell how the values of the prediction columns are distributed.

    Args:
        found: values that were read.
        types: type of each column.
        num_all_rows: rows of the output; None where that is not known yet.
        odd: NaN and Inf values of the whole output by column; None where that is not known yet.
    """
    notes = tuple(shown(note) for note in found.notes[:3])
    if not found.num_rows:
        return (Side(texts=("No part has a row yet.", *notes)),)
    described = [describe_column(name, types.get(name) or _type(chunks), chunks)
                 for name, chunks in found.columns.items()]  # fmt: skip
    total = found.num_all_rows if num_all_rows is None else num_all_rows
    of_all = "" if total is None else f" of {total:,}"
    looked = f"{found.num_rows:,}{of_all} rows, from {found.num_parts:,} of {found.num_all_parts:,} parts."
    if total is not None and found.num_rows >= total:
        looked = f"All {found.num_rows:,} rows."
    source = "exact, of the whole output" if odd is not None else "of the rows that were read"
    rows = tuple(_summary_row(each, odd) for each in described)
    heads = ("column", "type", "minimum", "median", "mean", "maximum", "NaN", "Inf")
    table = Table("Columns", heads, rows, numbers=tuple(range(2, 8)))
    first = Side(texts=(looked, f"NaN and Inf are {source}.", *_columns_texts(found), *notes), tables=(table,))
    sides = [side for index, each in enumerate(described[:MAX_DRAWN]) for side in _sides(each, f"column{index}")]
    return first, *sides


def _columns_texts(found: Predictions) -> list[str]:
    """Say which columns are left out."""
    texts = []
    if len(found.columns) < found.num_all_columns:
        texts.append(f"These are {len(found.columns):,} of {found.num_all_columns:,} prediction columns.")
    if len(found.columns) > MAX_DRAWN:
        texts.append(f"Pictures are of the first {MAX_DRAWN}.")
    return texts


def _type(chunks: Sequence[pa.Array]) -> pa.DataType:
    return chunks[0].type if chunks else pa.null()


def _summary_row(each: Distribution, odd: Mapping[str, tuple[int, int]] | None) -> tuple[str, ...]:
    figures = dict(each.figures)
    num_nan, num_inf = (each.num_nan, each.num_inf) if odd is None else odd.get(each.column, (0, 0))
    names = ("minimum", "median", "mean", "maximum")
    numbers = [number(figures[name]) if name in figures else "–" for name in names]
    return (shown(each.column, 60), shown(each.type, 60), *numbers, f"{num_nan:,}", f"{num_inf:,}")


def _sides(each: Distribution, key: str) -> list[Side]:
    name = shown(each.column, 60)
    sides = []
    if each.counts is not None:
        sides.append(_counts_side(each, each.counts, name, key))
    if each.histogram is not None:
        sides.append(_histogram_side(each, each.histogram, name, key))
    if not sides:
        sides.append(Side(title=name, texts=("No finite value to draw." if each.num_values else "No value to draw.",)))
    return sides


def _counts_side(each: Distribution, counts: Counts, name: str, key: str) -> Side:
    title = f"{name}: largest entry" if counts.are_classes else f"{name}: values"
    what = "classes" if counts.are_classes else "values"
    caption = "Rows by the position of their largest entry" if counts.are_classes else "Rows by value"
    more = f"and {counts.num_more:,} more {what}, less frequent" if counts.num_more else ""
    rows = tuple((shown(value, 60), f"{count:,}", share(count, each.num_rows)) for value, count in counts.pairs)
    return Side(
        title=title,
        texts=(more,) if more else (),
        picture=Picture(draw_counts(f"{key}-counts", title, counts.pairs), caption),
        tables=(Table("Counts", ("class" if counts.are_classes else "value", "rows", "share"), rows, (1, 2)),),
    )


def _histogram_side(each: Distribution, histogram: Histogram, name: str, key: str) -> Side:
    title = f"{name}: distribution"
    outside = (
        (f"{histogram.num_outside:,} values far off the others are not in the picture.",)
        if histogram.num_outside
        else ()
    )
    figures = tuple((what, number(value)) for what, value in each.figures)
    pairs = zip(histogram.edges[:-1], histogram.edges[1:], histogram.counts, strict=True)
    bins = tuple((number(float(low)), number(float(high)), f"{count:,}") for low, high, count in pairs)
    return Side(
        title=title,
        texts=(f"{each.num_values:,} values.", *outside),
        picture=Picture(draw_histogram(f"{key}-values", title, histogram.edges, histogram.counts), "Values in bins"),
        tables=(
            Table("Figures", ("", "value"), figures, numbers=(1,)),
            Table("Bins", ("from", "to", "values"), bins[:MAX_BIN_ROWS], numbers=(0, 1, 2), is_folded=True),
        ),
    )
