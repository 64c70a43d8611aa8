"""Whether two outputs hold the same: every id once, and predictions that agree.

Start at `read_scores` and `compare`.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# Batches of another size are summed in another order: float32 agrees so far.
RELATIVE, ABSOLUTE = 1e-4, 1e-6


def read_scores(output: Path, num_rows: int) -> np.ndarray:
    """Return predictions [rows, classes] in order of `id`.

    Raises:
        ValueError: if an id is missing, double or foreign; they are 0 to `num_rows` - 1.
    """
    tables = [pq.read_table(path, columns=["id", "prediction"]) for path in sorted(output.glob("*.parquet"))]
    table = pa.concat_tables(tables, promote_options="permissive")
    ids = table["id"].to_numpy()
    if len(ids) != num_rows or ids.min() < 0 or ids.max() >= num_rows:
        raise ValueError(f"{output}: {len(ids):,} rows where {num_rows:,} were scored")
    counts = np.bincount(ids, minlength=num_rows)
    if counts.max() > 1:
        raise ValueError(f"{output}: {np.sum(counts == 0):,} ids are missing, others are there twice")
    values = pc.list_flatten(table["prediction"]).to_numpy().reshape(num_rows, -1)
    scores = np.empty_like(values)
    scores[ids] = values
    return scores


def compare(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Raise where predictions differ beyond float32's noise.

    Raises:
        ValueError: if any does.
    """
    if found.shape != expected.shape:
        raise ValueError(f"{name}: predictions of shape {found.shape} where {expected.shape} was expected")
    wrong = ~np.isclose(found, expected, RELATIVE, ABSOLUTE).all(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{name}: {wrong.sum():,} rows differ; id {row}: {found[row]} where {expected[row]} was expected"
        )
