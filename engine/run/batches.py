"""Gives rows to the graph, a batch a call, and finds the rows that it refuses.

Pure but for the call itself: whatever runs a batch is handed in. A batch that is refused for its data is split until
the rows at fault stand alone, so that every row is either scored or refused by itself. Start at `score_batch`.
"""

from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from engine.data.assembly import ScoredRows
from engine.data.binding import FeedBinding
from engine.data.faults import Array, Faults
from engine.data.feeding.conversion import FedRows
from engine.data.output import check_batch_axis
from engine.errors import DataError
from engine.model.session import ModelSession

Call = Callable[[Sequence[Array]], list[Array]]
"""Scores one batch: an array for each feed in, an array for each fetch out, rows on the first axes."""


class BatchCaller:
    """Calls a session with one batch: pads to a size that is fixed, leaves the axis out for a graph that has none."""

    def __init__(self, session: ModelSession, feeds: Sequence[FeedBinding], num_rows: int | None = None) -> None:
        """Take the session, a binding for each of its inputs, in their order, and rows to pad each batch to, if any."""
        self._session = session
        self._is_unbatched = any(feed.is_unbatched for feed in feeds)
        self._fixed_rows = next((feed.fixed_rows for feed in feeds if feed.fixed_rows is not None), num_rows)

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Score one batch, rows on the first axis of every array that goes in and comes out.

        Raises:
            DataError: if the graph refuses these values.
            GraphError: if the graph cannot run, or gives no value for every row.
        """
        num_rows = len(arrays[0])
        names = [tensor.name for tensor in self._session.inputs]
        if self._is_unbatched:
            row = {name: array.reshape(array.shape[1:]) for name, array in zip(names, arrays, strict=True)}
            return [array[np.newaxis] for array in self._session.run(row, can_halve=False)]
        padding = (self._fixed_rows or num_rows) - num_rows
        if padding:
            arrays = [np.concatenate([a, np.repeat(a[-1:], padding, axis=0)]) for a in arrays]
        fetched = self._session.run(dict(zip(names, arrays, strict=True)))
        for tensor, array in zip(self._session.outputs, fetched, strict=True):
            check_batch_axis(tensor, array, num_rows + padding)
        return [array[:num_rows] for array in fetched] if padding else fetched


def score_batch(call: Call, fed: FedRows, span: range, faults: Faults) -> list[ScoredRows]:
    """Score a batch of rows of one shape.

    Args:
        call: scores one batch; raises DataError where the graph refuses its values.
        fed: the rows.
        span: which of them.
        faults: takes the rows that are refused when they are scored alone.

    Returns:
        The rows that were scored, in order: in one piece, or in several where the batch was split.
    """
    return list(_score_range(call, fed, span, faults))


def _score_range(
    call: Call, fed: FedRows, span: range, faults: Faults, is_refused: bool = False
) -> Generator[ScoredRows, None, bool]:
    """Score `span` of the rows in one call, or in halves where it is refused; return whether it was scored whole.

    A span that is known to hold a row at fault (its other half went through) is not tried whole; a single row is
    always tried, for rows may also be refused only for not going together.
    """
    if not is_refused or len(span) == 1:
        rows = fed.rows[span.start : span.stop]
        try:
            scored = ScoredRows(rows, call(fed.batch(span.start, span.stop)))
        except DataError as error:
            if len(span) == 1:
                faults.add(error.reason, rows, error.message)
                return False
        else:
            yield scored
            return True
    middle = len(span) // 2
    is_whole = yield from _score_range(call, fed, span[:middle], faults)
    yield from _score_range(call, fed, span[middle:], faults, is_refused=is_whole)
    return False


def join_rows(scored: Sequence[ScoredRows], max_rows: int) -> Iterator[ScoredRows]:
    """Put neighbours of one shape together, up to `max_rows`; what is that large already is passed on as it is."""
    pending: list[ScoredRows] = []
    num_pending = 0
    for each in scored:
        if pending and (num_pending + len(each.rows) > max_rows or _shape(each) != _shape(pending[0])):
            yield _concatenate(pending)
            pending, num_pending = [], 0
        pending.append(each)
        num_pending += len(each.rows)
    if pending:
        yield _concatenate(pending)


def _shape(scored: ScoredRows) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in scored.arrays]


def _concatenate(scored: Sequence[ScoredRows]) -> ScoredRows:
    if len(scored) == 1:
        return scored[0]
    columns = zip(*(each.arrays for each in scored), strict=True)
    return ScoredRows(np.concatenate([each.rows for each in scored]), [np.concatenate(arrays) for arrays in columns])
