"""Rows that were scored twice, in two ways to compute, side by side. Pure. Start at `compare`."""

from collections.abc import Sequence

import numpy as np

from engine.data.assembly import ScoredRows
from engine.data.faults import Array
from engine.run.numeric_drift import Drift, is_float, measure_drift


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
