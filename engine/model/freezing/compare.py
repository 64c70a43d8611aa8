"""Compares a frozen graph with what it was made of, on rows of the caller's or on random numbers.

Random numbers mean nothing to a graph that looks things up, decodes images or parses protos; such a graph is
compared on the caller's rows, or it is said that it was not compared. Start at `compare`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError, EngineError, GraphError
from engine.model.tensor import TensorSpec, shape_text

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Sequence[Array]]


@dataclass(frozen=True, slots=True)
class Reference:
    """Something that answers as a source of a frozen graph should, without being its graph."""

    inputs: tuple[str, ...]
    """Tensors of the source that it takes."""
    outputs: tuple[str, ...]
    """Tensors of the source that it gives."""
    answer: Callable[[Sequence[Array]], Sequence[Array]]
    """From arrays in the order of the inputs to arrays in the order of the outputs."""


NUM_ROWS = 4
SEED = 20
# The same numbers, computed in another order of additions: Grappler folds constants that it could not see before.
RTOL, ATOL = 1e-4, 1e-5
LOOKUPS = ("Gather", "LookupTable", "ParallelDynamicStitch", "OneHot", "SparseToDense", "ScatterNd")


class NotComparableError(Exception):
    """Random input means nothing to a graph; the message says why."""


def compare(
    source: Run, frozen: Run, inputs: Sequence[TensorSpec], operations: Sequence[str], rows: Mapping[str, Array] | None
) -> str:
    """Check that both give the same, and say on what it was checked.

    Args:
        source: what the graph was made of, from arrays by input to arrays in the outputs' order.
        frozen: the frozen graph, likewise.
        inputs: the inputs, batch axis first.
        operations: types of the operations in the frozen graph.
        rows: the caller's rows by input; None for random numbers.

    Returns:
        A sentence: what was compared and how far apart the values were, or why nothing was compared.

    Raises:
        GraphError: if they differ, or if the source refuses the caller's rows.
    """
    missing = [spec.name for spec in inputs if rows is not None and spec.name not in rows]
    if missing:
        known = ", ".join(map(str, inputs))
        raise GraphError(f"the rows to compare on lack {', '.join(missing)}; the model takes {known}")
    try:
        feeds = random_rows(inputs, operations) if rows is None else {spec.name: rows[spec.name] for spec in inputs}
    except NotComparableError as error:
        return f"not compared: {error}; give rows with --sample FILE"
    try:
        expected = source(feeds)
    except (DataError, GraphError) as error:
        if rows is not None:
            raise GraphError(f"the model refuses the rows of --sample: {error}") from error
        return f"not compared: the model refuses random input ({error}); give rows with --sample FILE"
    try:
        found = frozen(feeds)
        again = source(feeds)
    except EngineError as error:
        raise GraphError(f"the frozen graph fails where its source does not: {error}") from error
    if any(not _is_close(a, b) for a, b in zip(expected, again, strict=True)):
        return "not compared: the model gives other values each time it is run (random operations)"
    worst = 0.0
    for number, (a, b) in enumerate(zip(expected, found, strict=True)):
        if a.shape != b.shape or not _is_close(a, b):
            raise GraphError(
                f"the frozen graph gives other values than its source (output {number}: {_difference(a, b)}); "
                "nothing was written"
            )
        worst = max(worst, _distance(a, b))
    num_rows = max((len(array) for array in feeds.values() if array.ndim), default=1)
    kind = "random rows" if rows is None else "rows of the sample"
    return f"compared on {num_rows} {kind}: largest difference {worst:.2g}"


def random_rows(inputs: Sequence[TensorSpec], operations: Sequence[str]) -> dict[str, Array]:
    """Make rows of random numbers for `inputs`, the same ones each time.

    Raises:
        NotComparableError: if random numbers mean nothing to one of them.
    """
    generator = np.random.default_rng(SEED)
    feeds = {}
    for spec in inputs:
        if spec.dtype in ("string", None):
            raise NotComparableError(f"{spec} takes strings")
        try:
            dtype = np.dtype(spec.dtype)
        except TypeError as error:
            raise NotComparableError(f"{spec} has a dtype that numpy lacks") from error
        shape = [NUM_ROWS if extent is None else extent for extent in spec.shape or ()]
        if dtype.kind == "b":
            feeds[spec.name] = np.zeros(shape, dtype)  # is_training and its like: the form that predicts
        elif _is_float(dtype):
            # A lone number is keep_prob or its like, and so is most often what has no known rank: all is kept.
            feeds[spec.name] = np.asarray(generator.random(shape) if shape else 1.0).astype(dtype)
        elif any(operation.startswith(LOOKUPS) for operation in operations):
            raise NotComparableError(f"{spec} takes whole numbers, and the graph looks things up by such")
        else:
            feeds[spec.name] = np.asarray(generator.integers(0, 100, shape)).astype(dtype)
    return feeds


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "fc" or "float" in dtype.name


def _is_close(a: Array, b: Array) -> bool:
    if a.shape != b.shape:
        return False
    if _is_float(a.dtype):
        scale = ATOL * max(1.0, float(np.abs(_finite(a)).max(initial=0.0)))
        return bool(np.allclose(_plain(a), _plain(b), rtol=RTOL, atol=scale, equal_nan=True))
    return bool(np.array_equal(a, b))


def _plain(a: Array) -> Array:
    return a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)


def _finite(a: Array) -> Array:
    plain = _plain(a)
    return plain[np.isfinite(plain)]


def _distance(a: Array, b: Array) -> float:
    if not _is_float(a.dtype):
        return 0.0
    both = np.isfinite(_plain(a)) & np.isfinite(_plain(b))
    return float(np.abs(_plain(a)[both] - _plain(b)[both]).max(initial=0.0))


def _difference(a: Array, b: Array) -> str:
    if a.shape != b.shape:
        return f"{shape_text(b.shape)} instead of {shape_text(a.shape)}"
    return f"up to {_distance(a, b):.3g} apart"
