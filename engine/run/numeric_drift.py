"""How far the values of a graph computed otherwise (in fewer bits, by XLA) lie from those of the graph as it is.

Pure. `engine.data.drift` is about something else: input files whose schema differs. Start at `measure_drift`.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

HIGH_QUANTILE = 0.999


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the values of one column lie from the reference; infinite where only one of two is a finite number."""

    rows: int
    """Rows compared."""
    max_absolute: float
    """Largest difference of two values."""
    p999_absolute: float
    """Difference that all but a thousandth of the values stay within."""
    max_relative: float
    """Largest difference as a share of the larger of both values, from 0 to 2 (opposite signs)."""
    p999_relative: float
    """Such a share that all but a thousandth of the values stay within."""
    argmax_changed: float | None
    """Share of rows in which the largest entry of the last axis is another one; None where there is but one entry."""


def measure_drift(reference: Array, values: Array) -> Drift:
    """Compare two arrays of one shape, rows on the first axis: floats of any width.

    Two NaN are equal, and so are two infinities of one sign.
    """
    expected, found = (array.astype(np.float64) for array in (reference, values))
    with np.errstate(invalid="ignore", over="ignore"):
        absolute = np.abs(found - expected)
        relative = absolute / np.maximum(np.maximum(np.abs(found), np.abs(expected)), np.finfo(np.float64).tiny)
    is_equal = (found == expected) | (np.isnan(found) & np.isnan(expected))
    is_odd = ~is_equal & ~(np.isfinite(found) & np.isfinite(expected))
    for difference in (absolute, relative):
        difference[is_equal], difference[is_odd] = 0.0, np.inf
    changed = None
    if expected.ndim > 1 and expected.shape[-1] > 1 and expected.size:
        moved = expected.argmax(axis=-1) != found.argmax(axis=-1)
        changed = float(moved.reshape(len(moved), -1).any(axis=1).mean())
    return Drift(len(expected), *_summit(absolute), *_summit(relative), argmax_changed=changed)


def is_float(array: Array) -> bool:
    """Whether an array holds floats, those that TensorFlow adds to numpy's among them."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def to_json(drift: Mapping[str, Drift]) -> dict[str, dict[str, float | None]]:
    """Return drifts by column as JSON takes them: what is infinite is null, for JSON has no such number."""
    return {
        column: {name: value if value is None or math.isfinite(value) else None for name, value in asdict(each).items()}
        for column, each in drift.items()
    }


def _summit(differences: Array) -> tuple[float, float]:
    """Return the largest of them and their high quantile, which is one of them."""
    if not differences.size:
        return 0.0, 0.0
    return float(differences.max()), float(np.quantile(differences, HIGH_QUANTILE, method="higher"))
