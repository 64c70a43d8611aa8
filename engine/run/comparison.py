"""Rows that were scored in two ways, side by side.

Where a graph is computed in fewer bits or compiled with XLA, the first rows of one shard of a run are scored once more
by the graph as it is, to tell how far values drift. Start at `compare_with_plain`; `compare` is pure.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from engine.data.assembly import ScoredRows
from engine.data.binding import FeedBinding
from engine.data.faults import Array, Faults
from engine.data.feeding.conversion import convert_rows
from engine.data.output import OutputColumn
from engine.data.source import Slice
from engine.run.batches import Call, score_batch
from engine.run.numeric_drift import Drift, is_float, measure_drift

MAX_ROWS = 65_536


def compare_with_plain(
    slices: Iterable[Slice],
    feeds: Sequence[FeedBinding],
    outputs: Sequence[OutputColumn],
    calls: tuple[Call, Call],
    step: int,
    mark: Callable[[], None],
) -> dict[str, Drift]:
    """Score the first slice that has rows with both calls, and measure how far their values lie apart.

    Of rows that are shaped differently, those of the first shape are compared. Rows that one of both refuses are not.

    Args:
        slices: what to take the first of.
        feeds: the bound columns.
        outputs: the columns of the fetches.
        calls: the plain graph's, and the one of the values to compare.
        step: rows per graph call.
        mark: called after each batch.

    Returns:
        The drift of each column of floats; nothing if there is no row, or no such column.
    """
    fed = next((groups[0] for groups in (convert_rows(feeds, read.table)[0] for read in slices) if groups), None)
    if fed is None:
        return {}
    reference, values = list[ScoredRows](), list[ScoredRows]()
    for start in range(0, min(len(fed.rows), MAX_ROWS), step):
        span = range(start, min(start + step, len(fed.rows)))
        for call, kept in zip(calls, (reference, values), strict=True):
            kept.extend(score_batch(call, fed, span, Faults(int(fed.rows[-1]) + 1)))
        mark()
    return compare(reference, values, [output.column for output in outputs])


def compare(reference: Sequence[ScoredRows], values: Sequence[ScoredRows], columns: Sequence[str]) -> dict[str, Drift]:
    """Compare what was scored twice, by output column of floats; rows that only one of both has are left out."""
    found = {}
    for i, column in enumerate(columns):
        (old_rows, old), (new_rows, new) = _joined(reference, i), _joined(values, i)
        _, at_old, at_new = np.intersect1d(old_rows, new_rows, assume_unique=True, return_indices=True)
        if len(at_old) and old.shape[1:] == new.shape[1:]:
            found[column] = measure_drift(old[at_old], new[at_new])
    return found


def _joined(scored: Sequence[ScoredRows], position: int) -> tuple[Array, Array]:
    """Return the floats of one fetch, with the rows that they are of; of one shape, that of the first."""
    arrays = [(each.rows, each.arrays[position]) for each in scored if is_float(each.arrays[position])]
    alike = [(rows, array) for rows, array in arrays if array.shape[1:] == arrays[0][1].shape[1:]]
    if not alike:
        return np.empty(0, np.int64), np.empty(0)
    return np.concatenate([rows for rows, _ in alike]), np.concatenate([a.astype(np.float64) for _, a in alike])
