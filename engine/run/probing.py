"""Looks at a few rows once a model is loaded: whether the graph takes them, and how it shapes open extents.

Every actor looks at the same rows, so that all fix the same schema. Start at `probe`.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from engine.data.assembly import ScoredRows
from engine.data.binding import FeedBinding
from engine.data.faults import Faults
from engine.data.feeding.conversion import FedRows, convert_rows
from engine.data.output import observe_shape
from engine.data.source import read_slices
from engine.errors import GraphError
from engine.model.tensor import TensorSpec
from engine.run.batches import Call, score_batch
from engine.run.spec import ScoringSpec

PROBE_ROWS = 16
# A file may begin with rows at fault; so many of its first rows are tried before the next file is.
SEARCHED_ROWS = 256
# Slices without a row for which the conditions hold that are read before the next file is tried.
SEARCHED_SLICES = 4


@dataclass(frozen=True, slots=True)
class Probe:
    """What the first rows showed."""

    outputs: tuple[TensorSpec, ...]
    """The fetches, batch axis first, with the extents that their rows were seen to have."""
    is_proven: bool
    """Whether the graph took at least one row."""


def probe(
    spec: ScoringSpec, feeds: Sequence[FeedBinding], tensors: Sequence[TensorSpec], call: Call, batch_rows: int
) -> Probe:
    """Score up to 16 rows of the first input that has some which can be scored.

    Args:
        spec: the job; its samples are looked at in their order.
        feeds: the bound columns.
        tensors: the fetches, batch axis first.
        call: scores one batch.
        batch_rows: rows per graph call.

    Raises:
        GraphError: if the shape of a fetch is open and no row shows it, or a fetch does not follow the rows.
        DataError: if a sample cannot be read.
    """
    first_fault, has_rows = "", False
    for where, fed, faults in _sample(spec, feeds, batch_rows):
        has_rows = True
        outputs = None
        if fed is not None:
            span = range(min(PROBE_ROWS, batch_rows, len(fed.rows)))
            outputs = observe(feeds, tensors, call, fed, faults, span)
        if outputs is not None:
            return Probe(outputs, is_proven=True)
        first_fault = first_fault or f"{where}: {faults.in_order()[0].message}"
    opened = next((tensor for tensor in tensors if is_open(tensor)), None)
    if opened is not None and has_rows:
        raise GraphError(
            f"--fetch {opened} has a shape that only scored rows show, and none of the first rows of "
            f"{len(spec.samples)} files can be scored; {first_fault}"
        )
    return Probe(tuple(tensors), is_proven=False)


def is_open(tensor: TensorSpec) -> bool:
    """Whether the graph leaves open how the rows of a fetch are shaped."""
    return tensor.shape is None or None in tensor.shape[1:]


def observe(
    feeds: Sequence[FeedBinding],
    tensors: Sequence[TensorSpec],
    call: Call,
    fed: FedRows,
    faults: Faults,
    span: range,
    can_vary: bool = False,
) -> tuple[TensorSpec, ...] | None:
    """Score a few rows, and return the fetches with the extents that they were seen to have; None if none goes.

    Args:
        feeds: the bound columns.
        tensors: the fetches, batch axis first.
        call: scores one batch.
        fed: rows of one shape.
        faults: takes the rows that the graph refuses.
        span: which of them to look at.
        can_vary: whether other rows may be shaped otherwise than these, whatever the columns tell.

    Raises:
        GraphError: if a fetch does not follow the rows.
    """
    scored = score_batch(call, fed, span, faults)
    if not scored:
        return None
    # A second batch of another size: an extent that follows the data or the batch shows as a difference.
    more = _score_alone(call, fed, scored, faults) if any(map(is_open, tensors)) else []
    can_vary |= len(scored[0].rows) + len(more) == 1 or any(feed.can_vary() for feed in feeds)
    seen = [[(len(each.rows), each.arrays[i]) for each in [*scored, *more]] for i in range(len(tensors))]
    return tuple(observe_shape(t, samples, can_vary) for t, samples in zip(tensors, seen, strict=True))


def _score_alone(call: Call, fed: FedRows, scored: Sequence[ScoredRows], faults: Faults) -> list[ScoredRows]:
    """Score the first rows that went through once more, one by one, until two were seen."""
    position = int((fed.rows == scored[0].rows[0]).argmax())
    return score_batch(call, fed, range(position, position + 1), faults)


def _sample(
    spec: ScoringSpec, feeds: Sequence[FeedBinding], batch_rows: int
) -> Iterator[tuple[str, FedRows | None, Faults]]:
    """Yield up to 16 rows at a time of the first slice of each sample, with where they begin and what is bad."""
    for piece in spec.samples:
        slices = itertools.islice(read_slices(piece, spec.selection, batch_rows), SEARCHED_SLICES)
        read = next((each for each in slices if len(each.table)), None)
        if read is None:
            continue
        for start in range(0, min(SEARCHED_ROWS, len(read.table)), PROBE_ROWS):
            some = replace(read, table=read.table.slice(start, PROBE_ROWS))
            groups, faults = convert_rows(feeds, some.table)
            yield f"{read.path}, row {read.rows[start]}", groups[0] if groups else None, faults
