from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.data.decoding import PAGE_BYTES, decoding_bytes
from engine.data.source import READ_BUFFER_BYTES, open_parquet

RNG = np.random.default_rng(0)
ROWS = 60_000


def lists(dtype: type, width: int, rows: int = ROWS) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(RNG.integers(0, 250, rows * width).astype(dtype)), width)


TABLES = {
    "numbers": lambda: {f"f{i}": pa.array(RNG.standard_normal(ROWS)) for i in range(30)},
    "small numbers": lambda: {f"f{i}": pa.array(RNG.integers(0, 99, ROWS).astype(np.int8)) for i in range(30)},
    "bools": lambda: {f"f{i}": pa.array(RNG.integers(0, 2, ROWS).astype(bool)) for i in range(30)},
    "nulls": lambda: {"f": pa.array(RNG.standard_normal(ROWS), mask=RNG.integers(0, 2, ROWS).astype(bool))},
    "lists": lambda: {"v": lists(np.float32, 64)},
    "lists of small numbers": lambda: {"v": lists(np.uint8, 200)},
    "bytes": lambda: {"b": pa.array([RNG.bytes(300) for _ in range(ROWS)])},
    "large bytes": lambda: {"b": pa.array([RNG.bytes(100_000) for _ in range(100)])},
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("cut", [2, 5])
def test_decoding_takes_no_more_than_that(tmp_path: Path, kind: str, cut: int) -> None:
    table = pa.table(TABLES[kind]())
    pq.write_table(table, tmp_path / "rows.parquet")
    pool, num_rows, slice_bytes = pa.proxy_memory_pool(pa.default_memory_pool()), len(table) // cut, 0
    before = pa.default_memory_pool()
    del table
    pa.set_memory_pool(pool)
    try:
        with open_parquet(str(tmp_path / "rows.parquet")) as file:
            bound = decoding_bytes(file.metadata, file.schema_arrow, num_rows, READ_BUFFER_BYTES)
            for batch in file.iter_batches(num_rows, [0], use_threads=False):
                slice_bytes = max(slice_bytes, batch.nbytes)
                del batch
        peak = pool.max_memory()
    finally:
        pa.set_memory_pool(before)
    assert peak <= 2 * slice_bytes + bound  # pyarrow holds each slice until it has the next one
    assert peak > (2 * slice_bytes + bound) / 3


def test_nothing_is_decoded_without_rows_or_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": np.arange(9)}), tmp_path / "rows.parquet")
    metadata = pq.read_metadata(tmp_path / "rows.parquet")
    assert decoding_bytes(metadata, pa.schema([("a", pa.int64())]), 0, 1) == 0
    assert decoding_bytes(metadata, pa.schema([]), 9, 1) == 0
    assert 0 < decoding_bytes(metadata, pa.schema([("a", pa.int64())]), 9, 1) < PAGE_BYTES
