"""How the values of a prediction column are distributed: bins, counts and figures. Pure. Start at `describe_column`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.view.reporting.cells import cell_text

Array = npt.NDArray[Any]
NUM_BINS = 40
FEW_VALUES = 20
MAX_CLASSES = 1000
# A histogram leaves out the outermost values where these would take up more than half of it.
TAILS = (0.1, 99.9)
MIN_SHARE = 0.5
MIN_TAILED = 1000
QUANTILES = (5, 50, 95)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of numbers in bins of equal width."""

    edges: Array
    """Ends of the bins."""
    counts: Array
    """Values in each."""
    num_outside: int
    """Finite values left out, for they lie far off."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each of a few values came."""

    pairs: tuple[tuple[str, int], ...]
    """Value or class and its count; classes by number, other values the most frequent first."""
    num_more: int
    """Values or classes that are not among them."""
    are_classes: bool
    """Whether these are positions of the largest entry of a row."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """What the values of a column are like."""

    column: str
    """Name of the column."""
    type: str
    """Its Arrow type."""
    num_rows: int
    """Rows looked at."""
    num_values: int
    """Values in these rows."""
    num_nan: int
    """NaN values among them."""
    num_inf: int
    """Infinite values among them."""
    figures: tuple[tuple[str, float], ...]
    """Minimum, mean and so on of the finite values; none where there are no numbers."""
    histogram: Histogram | None
    """Values in bins; None for what are no numbers, or few of them."""
    counts: Counts | None
    """Counts of values or classes; None where there are too many."""


def describe_column(name: str, kind: pa.DataType, chunks: Sequence[pa.Array]) -> Distribution:
    """Return how the values in `chunks` of a column are distributed."""
    num_rows = sum(map(len, chunks))
    width, leaves = 1, list[pa.Array]()
    for chunk in chunks:
        width, flat = flatten(chunk)
        leaves.append(flat)
    joined = pa.concat_arrays(leaves) if leaves else pa.array([], pa.null())
    if pa.types.is_boolean(joined.type) or not (pa.types.is_integer(joined.type) or pa.types.is_floating(joined.type)):
        return _describe_texts(name, kind, num_rows, joined)
    values = joined.drop_null().to_numpy(zero_copy_only=False)
    has_classes = 1 < width <= MAX_CLASSES and len(values) == num_rows * width and pa.types.is_floating(joined.type)
    counts = _class_counts(values.reshape(num_rows, width)) if has_classes and num_rows else None
    if counts is None and values.dtype.kind in "iu":
        counts = _few_values(values)
    return _describe_numbers(name, kind, num_rows, values, counts)


def flatten(chunk: pa.Array) -> tuple[int, pa.Array]:
    """Return the leaf values of a column, and how many belong to a row: 0 where rows differ or nest more deeply."""
    if isinstance(chunk.type, pa.BaseExtensionType):
        return 0, flatten(chunk.storage)[1]
    if pa.types.is_fixed_size_list(chunk.type):
        inner = flatten(chunk.flatten())
        return (chunk.type.list_size if inner[0] == 1 else 0), inner[1]
    if pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type):
        return 0, flatten(chunk.flatten())[1]
    return 1, chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk


def _describe_numbers(
    name: str, kind: pa.DataType, num_rows: int, values: Array, counts: Counts | None
) -> Distribution:
    numbers = (
        values if values.dtype == np.float64 or values.dtype.kind != "f" else values.astype(np.float32, copy=False)
    )
    finite = numbers[np.isfinite(numbers)] if numbers.dtype.kind == "f" else numbers
    num_nan = int(np.isnan(numbers).sum()) if numbers.dtype.kind == "f" else 0
    figures: tuple[tuple[str, float], ...] = ()
    if len(finite):
        with np.errstate(over="ignore", invalid="ignore"):  # sums of numbers near the largest that there are
            low, middle, high = np.percentile(finite, QUANTILES)
            mean, deviation = finite.mean(dtype=np.float64), finite.std(dtype=np.float64)
        figures = (
            *(("minimum", float(finite.min())), ("5th percentile", float(low)), ("median", float(middle))),
            *(("mean", float(mean)), ("95th percentile", float(high))),
            *(("maximum", float(finite.max())), ("standard deviation", float(deviation))),
        )
    is_few = counts is not None and not counts.are_classes
    histogram = None if is_few or not len(finite) else make_histogram(finite)
    num_inf = len(values) - len(finite) - num_nan
    return Distribution(name, str(kind), num_rows, len(values), num_nan, num_inf, figures, histogram, counts)


def make_histogram(finite: Array) -> Histogram:
    """Return the bins of finite numbers; where a few lie far off the others, these are left out and counted."""
    low, high = float(finite.min()), float(finite.max())
    num_outside = 0
    if len(finite) >= MIN_TAILED:
        with np.errstate(over="ignore", invalid="ignore"):
            inner = [float(each) for each in np.percentile(finite, TAILS)]
        if inner[1] > inner[0] and inner[1] - inner[0] < MIN_SHARE * (high - low):
            (low, high), before = inner, len(finite)
            finite = finite[(finite >= low) & (finite <= high)]
            num_outside = before - len(finite)
    if finite.dtype.kind == "f":  # numpy would make bins of a float32, of which there may be no 40 between two others
        finite = finite.astype(np.float64, copy=False)
    if not np.isfinite(high - low):  # the whole range of a float64
        finite, low, high = finite / 4, low / 4, high / 4
        counts, edges = np.histogram(finite, NUM_BINS, (low, high))
        return Histogram(edges * 4, counts, num_outside)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), NUM_BINS * np.finfo(np.float64).tiny):
        margin = max(abs(low), 1.0) * 0.5
        low, high = low - margin, high + margin
    whole = finite.dtype.kind in "iu" and high - low < NUM_BINS
    bins: Any = np.arange(np.floor(low), np.floor(high) + 2) - 0.5 if whole else NUM_BINS
    counts, edges = np.histogram(finite, bins) if whole else np.histogram(finite, bins, (low, high))
    return Histogram(edges, counts, num_outside)


def _class_counts(rows: Array) -> Counts:
    """Count the position of the largest entry of each row; rows that hold a NaN have none."""
    is_good = ~np.isnan(rows).any(axis=1)
    found = np.bincount(rows[is_good].argmax(axis=1), minlength=rows.shape[1]) if is_good.any() else None
    counts = np.zeros(rows.shape[1], int) if found is None else found
    order = np.argsort(-counts, kind="stable")[:FEW_VALUES]
    pairs = tuple((str(index), int(counts[index])) for index in sorted(order.tolist()))
    return Counts(pairs, len(counts) - len(pairs), True)


def _few_values(values: Array) -> Counts | None:
    found, counts = np.unique(values, return_counts=True)
    if not 0 < len(found) <= FEW_VALUES:
        return None
    return Counts(tuple((str(value), int(count)) for value, count in zip(found, counts, strict=True)), 0, False)


def _describe_texts(name: str, kind: pa.DataType, num_rows: int, values: pa.Array) -> Distribution:
    pairs, num_more = _count_texts(values)
    counts = Counts(pairs, num_more, False) if pairs else None
    return Distribution(name, str(kind), num_rows, len(values), 0, 0, (), None, counts)


def _count_texts(values: pa.Array) -> tuple[tuple[tuple[str, int], ...], int]:
    """Return the most frequent values, and how many others there are."""
    if not len(values):
        return (), 0
    try:
        found = values.value_counts()
    except pa.ArrowNotImplementedError:  # values with fields
        texts = Counter(map(_text, values))
        return tuple(texts.most_common(FEW_VALUES)), max(0, len(texts) - FEW_VALUES)
    numbers = found.field("counts").to_numpy()
    order = np.argsort(-numbers, kind="stable")[:FEW_VALUES]
    pairs = tuple((_text(found.field("values")[index]), int(numbers[index])) for index in order.tolist())
    return pairs, len(found) - len(pairs)


def _text(value: pa.Scalar) -> str:
    return cell_text(value).lower() if pa.types.is_boolean(value.type) else cell_text(value)
