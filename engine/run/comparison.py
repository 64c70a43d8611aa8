"""The first rows of a shard scored once more by the graph as it is, and what that differs from.

Where a graph is computed in fewer bits or compiled with XLA, one shard of a run tells how far its values drift. Start
at `compare_with_plain`.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from engine.data.assembly import ScoredRows
from engine.data.binding import FeedBinding
from engine.data.faults import Array, Faults
from engine.data.feeding.conversion import FedRows, convert_rows
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
    reference, values = list[list[Array]](), list[list[Array]]()
    for start in range(0, min(len(fed.rows), MAX_ROWS), step):
        span = range(start, min(start + step, len(fed.rows)))
        pair = [_score(call, fed, span) for call in calls]
        mark()
        if any(each is None for each in pair):
            continue
        plain, other = (each for each in pair if each is not None)
        _, at, place = np.intersect1d(plain.rows, other.rows, assume_unique=True, return_indices=True)
        both = [array[at] for array in plain.arrays], [array[place] for array in other.arrays]
        shapes = [[array.shape[1:] for array in arrays] for arrays in (*both, *reference[:1])]
        if all(each == shapes[0] for each in shapes):
            reference.append(both[0])
            values.append(both[1])
    if not reference:
        return {}
    columns = [np.concatenate(arrays) for arrays in zip(*reference, strict=True)]
    others = [np.concatenate(arrays) for arrays in zip(*values, strict=True)]
    pairs = zip(outputs, columns, others, strict=True)
    return {output.column: measure_drift(plain, other) for output, plain, other in pairs if is_float(plain)}


def _score(call: Call, fed: FedRows, span: range) -> ScoredRows | None:
    """Score a batch, and put its pieces together where rows of it were refused; None if that cannot be."""
    scored = score_batch(call, fed, span, Faults(int(fed.rows[-1]) + 1))
    if not scored or any(_shapes(each) != _shapes(scored[0]) for each in scored):
        return None
    arrays = zip(*(each.arrays for each in scored), strict=True)
    return ScoredRows(np.concatenate([each.rows for each in scored]), [np.concatenate(pieces) for pieces in arrays])


def _shapes(scored: ScoredRows) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in scored.arrays]
