"""Reads prediction columns of an output's parts: all rows where they are few, else row groups spread over all parts.

Which rows are read follows from the parts alone, so a report of the same output shows the same. Start at
`read_predictions`.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.parts import READERS
from engine.data.storage.folder import OutputFolder
from engine.errors import EngineError
from engine.view.reporting.bad_rows import evenly

MAX_ROWS = 200_000
MAX_BYTES = 32 * 2**20
# As many parts as an automatic shard size makes are all looked at; of more, some.
MAX_PARTS, SOME_PARTS = 512, 128
MAX_COLUMNS = 16


@dataclass(frozen=True, slots=True)
class Predictions:
    """Values of prediction columns."""

    columns: Mapping[str, Sequence[pa.Array]]
    """Chunks of values by column, in the order of the parts."""
    num_all_columns: int
    """Prediction columns that there are, those among them that were not read."""
    num_rows: int
    """Rows that were read."""
    num_parts: int
    """Parts that they are from."""
    num_all_rows: int | None
    """Rows of all parts; None where not every footer was read."""
    num_all_parts: int
    """Parts that there are."""
    notes: tuple[str, ...]
    """What could not be read."""


@dataclass(frozen=True, slots=True)
class _Group:
    """A row group of a part."""

    part: str
    """Name of the part."""
    index: int
    """Its position in the part."""
    num_rows: int
    """Its rows."""
    num_bytes: int
    """Bytes of the prediction columns in memory, before they are decoded."""


def read_predictions(folder: OutputFolder, parts: Sequence[str], columns: Sequence[str]) -> Predictions:
    """Return values of the columns `columns` of `parts`; of those columns that are there, the first few."""
    names, notes = list(columns)[:MAX_COLUMNS], list[str]()

    def look(part: str) -> list[_Group]:
        try:
            return _read_footer(folder, part, names)
        except EngineError as error:
            notes.append(str(error))
            return []

    def take(groups: Sequence[_Group]) -> pa.Table | None:
        try:
            return _read_groups(folder, groups, names)
        except EngineError as error:
            notes.append(str(error))
            return None

    chosen = parts if len(parts) <= MAX_PARTS else evenly(parts, SOME_PARTS)
    with ThreadPoolExecutor(READERS) as pool:
        groups = [group for found in pool.map(look, chosen) for group in found if group.num_rows]
        by_part: dict[str, list[_Group]] = {}
        for group in choose_groups(groups):
            by_part.setdefault(group.part, []).append(group)
        tables = [table for table in pool.map(take, by_part.values()) if table is not None]
    found = {
        name: [chunk for table in tables if name in table.column_names for chunk in table[name].chunks]
        for name in names
        if any(name in table.column_names for table in tables)
    }
    num_all = None if notes or len(parts) > MAX_PARTS else sum(group.num_rows for group in groups)
    return Predictions(found, len(columns), sum(map(len, tables)), len(tables), num_all, len(parts), tuple(notes))


def choose_groups(groups: Sequence[_Group]) -> list[_Group]:
    """Return all row groups where they are few, else some of them spread evenly; at least one."""
    rows, num_bytes = sum(group.num_rows for group in groups), sum(group.num_bytes for group in groups)
    share = min(1.0, MAX_ROWS / max(1, rows), MAX_BYTES / max(1, num_bytes))
    count = len(groups) if share == 1.0 else max(1, int(len(groups) * share))
    return [groups[(2 * index + 1) * len(groups) // (2 * count)] for index in range(count)] if groups else []


def _read_footer(folder: OutputFolder, part: str, columns: Sequence[str]) -> list[_Group]:
    with folder.open(part) as file, reading(folder.place_of(part)):
        metadata = pq.read_metadata(file)
        paths = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
        leaves = [number for number, path in enumerate(paths) if _belongs(path, columns)]
        found = []
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            size = sum(group.column(number).total_uncompressed_size for number in leaves)
            found.append(_Group(part, index, group.num_rows, size))
    return found


def _belongs(path: str, columns: Sequence[str]) -> bool:
    """Whether a leaf belongs to one of the columns; names may hold dots."""
    return path in columns or any(path.startswith(f"{name}.") for name in columns)


def _read_groups(folder: OutputFolder, groups: Sequence[_Group], columns: Sequence[str]) -> pa.Table:
    part = groups[0].part
    with folder.open(part) as file, reading(folder.place_of(part)):
        parquet = pq.ParquetFile(file, pre_buffer=True)
        schema = parquet.schema_arrow
        there = [name for name in columns if name in schema.names]
        # A row group of a size of its own may hold far more rows than are wanted.
        limit = max(1, min(MAX_ROWS, int(MAX_BYTES / max(1e-9, _row_bytes(groups)))))
        batches, rows = list[pa.RecordBatch](), 0
        for batch in parquet.iter_batches(limit, [group.index for group in groups], there, use_threads=False):
            batches.append(batch)
            rows += len(batch)
            if rows >= limit:
                break
    return pa.Table.from_batches(batches) if batches else pa.table({})


def _row_bytes(groups: Sequence[_Group]) -> float:
    return sum(group.num_bytes for group in groups) / max(1, sum(group.num_rows for group in groups))
