"""How far the values of a graph computed otherwise (in fewer bits, by XLA) lie from those of the graph as it is.

Pure. `engine.data.drift` is about something else: input files whose schema differs. Start at `measure_drift`.
"""

from dataclasses import dataclass

import numpy as np

from engine.data.faults import Array

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


def _summit(differences: Array) -> tuple[float, float]:
    """Return the largest of them and their high quantile, which is one of them."""
    if not differences.size:
        return 0.0, 0.0
    return float(differences.max()), float(np.quantile(differences, HIGH_QUANTILE, method="higher"))
