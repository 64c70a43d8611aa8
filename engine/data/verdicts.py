"""Judges what a graph gave: predictions that are NaN or Inf, bytes that are no text.

Pure. Start at `set_bad_aside` and `count_odd_values`.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from engine.data.assembly import ScoredRows
from engine.data.faults import Array, Faults, Reason
from engine.data.output import OutputColumn


def set_bad_aside(scored: ScoredRows, outputs: Sequence[OutputColumn], faults: Faults, nan_is_bad: bool) -> ScoredRows:
    """Return the rows whose predictions can be written; the others are noted as bad.

    Args:
        scored: rows, and an array for each output.
        outputs: the output columns.
        faults: takes the bad rows.
        nan_is_bad: whether a NaN or Inf makes a row bad.
    """
    is_bad = np.zeros(len(scored.rows), bool)
    for output, array in zip(outputs, scored.arrays, strict=True):
        odd = _odd_values(array) if nan_is_bad else None
        if odd is not None:
            rows = np.flatnonzero(odd.reshape(len(odd), -1).any(axis=1))
            message = f"output column {output.column!r}: NaN or Inf in {output.tensor} (--nan-is-bad)"
            faults.add(Reason.NOT_FINITE, scored.rows[rows], message)
            is_bad[rows] = True
        rows = _not_utf8(output, array)
        faults.add(Reason.NOT_UTF8, scored.rows[rows], f"output column {output.column!r}: bytes that are no UTF-8")
        is_bad[rows] = True
    if not is_bad.any():
        return scored
    return ScoredRows(scored.rows[~is_bad], [array[~is_bad] for array in scored.arrays])


def count_odd_values(scored: Sequence[ScoredRows], outputs: Sequence[OutputColumn]) -> dict[str, tuple[int, int]]:
    """Count the NaN and Inf values of each output column that has some."""
    counts: dict[str, tuple[int, int]] = {}
    for i, output in enumerate(outputs):
        odd = [each.arrays[i][mask] for each in scored if (mask := _odd_values(each.arrays[i])) is not None]
        if odd:
            num_nan = sum(int(np.isnan(values).sum()) for values in odd)
            counts[output.column] = num_nan, sum(values.size for values in odd) - num_nan
    return counts


def _odd_values(array: Array) -> Array | None:
    """Return which values are NaN or Inf; None where all are numbers, as integers and strings always are."""
    if array.dtype.kind not in "fV":  # bfloat16 is of numpy's kind V
        return None
    is_finite = np.isfinite(array)
    return None if is_finite.all() else ~is_finite


def _not_utf8(output: OutputColumn, array: Array) -> Array:
    """Return the rows whose bytes are no text, where the column is to be text."""
    if not output.is_text:
        return np.empty(0, np.int64)
    try:
        pa.array(array.reshape(-1).tolist(), pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return np.array([i for i, row in enumerate(array) if not _is_utf8(row)], np.int64)
    return np.empty(0, np.int64)


def _is_utf8(row: Array | bytes) -> bool:
    try:
        for value in np.asarray(row, object).reshape(-1):
            value.decode()
    except UnicodeDecodeError:
        return False
    return True
