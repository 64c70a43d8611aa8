"""Reads Parquet inputs in slices.

A slice is one read: consecutive row groups of about 16 MiB, or a row range of a larger one (`engine.data.row_groups`).
Start at `read_slices`.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.columns import ColumnPath, leaf_names
from engine.data.drift import absorb, find_drift
from engine.data.faults import Array
from engine.data.fetching import FETCH_BUFFER_BYTES, FETCH_BYTES, Fetcher
from engine.data.filtering.conditions import BoundCondition
from engine.data.pieces import Piece, check_unchanged, partition_values
from engine.data.row_groups import RowGroup, SlicePlan, chunk_ranges, cut_slices, largest_group_bytes, read_row_groups
from engine.data.storage.places import is_local
from engine.data.storage.reading import LOCAL, Storage
from engine.errors import DataError

# Reading page by page through a small buffer, instead of a whole column chunk ahead, keeps that memory small: each
# column of each open reader has one. 40 columns decode as fast through 16 KiB as through 1 MiB (pyarrow 26).
READ_BUFFER_BYTES = 2**17


def open_parquet(place: str, storage: Storage = LOCAL) -> pq.ParquetFile:
    """Open a file and read its footer.

    Raises:
        DataError: if it is no Parquet file, or a damaged one.
        StorageError: if it cannot be read for now.
    """
    if is_local(place):
        with reading(place):
            return pq.ParquetFile(place, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)
    file = storage.open(place)
    with reading(place):
        metadata = pq.read_metadata(file)
        is_small = largest_group_bytes(metadata) <= FETCH_BYTES
        how = {"pre_buffer": True} if is_small else {"pre_buffer": False, "buffer_size": FETCH_BUFFER_BYTES}
        return pq.ParquetFile(file, metadata=metadata, **how)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a job reads of every input file."""

    columns: pa.Schema
    """Columns of the file, with the types of the first one; structs with no more fields than are needed."""
    partitions: tuple[str, ...] = ()
    """Hive partition columns to add, as strings."""
    conditions: tuple[tuple[ColumnPath, BoundCondition], ...] = ()
    """Conditions on columns of the file, all of which a row has to hold for."""
    storage: Storage = LOCAL
    """How the files are reached."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of a slice: the columns of the file, then the partitions'."""
        return pa.schema([*self.columns, *(pa.field(name, pa.string()) for name in self.partitions)])


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows that were read together."""

    table: pa.Table
    """The columns asked for, of the rows for which all conditions hold."""
    path: str
    """File that they came from."""
    relative_path: str
    """That file below its root."""
    rows: Array
    """Position of each row in the file, ascending: int64."""
    rows_in: int
    """Rows that were looked at, those left out by a condition among them."""


def read_slices(piece: Piece, selection: Selection, batch_rows: int, fetcher: Fetcher | None = None) -> Iterator[Slice]:
    """Read the rows of a piece, in file order.

    Row groups that by their statistics hold no row that a condition lets through are not read; what they count comes
    as a slice without rows.

    Args:
        piece: the file, and the byte range whose row groups are meant.
        selection: the columns to read, and the rows.
        batch_rows: rows per graph call; row groups are cut at multiples of it.
        fetcher: what opens this piece next, if it is a store's, and fetches it ahead; None reads it as it comes.

    Raises:
        DataError: if the file is damaged, changed since it was listed or while it was read, or its columns differ
            from the first file's.
        StorageError: if it cannot be read for now.
    """
    if fetcher is None or is_local(piece.path):
        _check_unchanged(piece, selection.storage)
        fetcher = None
    try:
        yield from _read_slices(piece, selection, batch_rows, fetcher)
    except DataError:
        _check_unchanged(piece, selection.storage)  # then this is the cause
        raise
    if fetcher is None:
        _check_unchanged(piece, selection.storage)


def begin_fetching(
    pieces: Sequence[Piece], selection: Selection, batch_rows: int, idle: Callable[[], AbstractContextManager[None]]
) -> Fetcher:
    """Begin to fetch, as far as they lie in stores, the slices of pieces that `read_slices` will read one by one.

    Args:
        pieces: files or ranges of them.
        selection: the columns to read, and the rows.
        batch_rows: rows per graph call.
        idle: what is entered while the reader waits for a store.
    """

    def plan(piece: Piece, metadata: pq.FileMetaData) -> list[list[tuple[int, int]]]:
        parts = _cut(metadata, piece, selection, batch_rows).parts
        return [chunk_ranges(metadata, part.row_groups, selection.columns) for part in parts]

    return Fetcher(pieces, selection.storage, plan, idle)


@dataclass(frozen=True, slots=True)
class _Cut:
    """How a piece will be read."""

    parts: list[SlicePlan]
    """Its reads, in order."""
    num_pruned: int
    """Rows of row groups that are not read, because no row in them could hold for the conditions."""
    stop_row: int
    """Rows of the file from this one on are left out."""


def _cut(metadata: pq.FileMetaData, piece: Piece, selection: Selection, batch_rows: int) -> _Cut:
    mine = own_row_groups(metadata, piece, selection)
    stop_row = metadata.num_rows if piece.stop_row is None else piece.stop_row
    read = [group for group in mine if _can_match(metadata, group, selection)]
    parts = [part for part in cut_slices(read, batch_rows) if part.start_row < stop_row]
    return _Cut(parts, _count_rows(mine, stop_row) - _count_rows(read, stop_row), stop_row)


def _read_slices(piece: Piece, selection: Selection, batch_rows: int, fetcher: Fetcher | None) -> Iterator[Slice]:
    with contextlib.ExitStack() as stack:
        remote = None if fetcher is None else stack.enter_context(fetcher.next_file())
        file = stack.enter_context(open_parquet(piece.path, selection.storage)) if remote is None else remote.parquet
        drift = find_drift(file.schema_arrow, selection.columns)
        if drift is not None:
            raise DataError(
                f"{piece.path}: {drift}; cast it upstream, or leave the column out (--keep) where it is not fed"
            )
        cut = _cut(file.metadata, piece, selection, batch_rows)
        if cut.num_pruned:
            nothing = pa.Table.from_batches([], selection.schema)  # pyarrow 26's `empty_table` lacks permuted tensors
            yield Slice(nothing, piece.path, piece.relative_path, np.empty(0, np.int64), cut.num_pruned)
        for index, part in enumerate(cut.parts):
            if fetcher is not None and remote is not None:
                fetcher.pass_by(remote, index)
            start_row = part.start_row
            for table in _read(file, piece.path, part, selection.columns):
                yield _select_rows(table.slice(0, cut.stop_row - start_row), start_row, piece, selection)
                start_row += len(table)
                del table  # nor is any of it held while the next one is decoded
                if start_row >= cut.stop_row:
                    break
        if remote is not None:
            remote.finish()


def own_row_groups(metadata: pq.FileMetaData, piece: Piece, selection: Selection) -> list[RowGroup]:
    """Return the row groups whose midpoints lie in the range of a piece."""
    groups = read_row_groups(metadata, selection.columns)
    # Odd writers put midpoints outside the file; the first or the last range has such a row group.
    middles = ((group, min(max(group.midpoint, 0), piece.size_bytes - 1)) for group in groups)
    return [group for group, middle in middles if piece.start_byte <= middle < piece.stop_byte]


def _count_rows(groups: Iterable[RowGroup], stop_row: int) -> int:
    return sum(max(0, min(group.num_rows, stop_row - group.start_row)) for group in groups)


def _can_match(metadata: pq.FileMetaData, group: RowGroup, selection: Selection) -> bool:
    """Whether a row group may hold rows for which all conditions hold, by its statistics."""
    if not selection.conditions:
        return True
    footer = metadata.row_group(group.index)
    paths = [footer.column(i).path_in_schema for i in range(footer.num_columns)]
    for path, condition in selection.conditions:
        # A list has its leaves' statistics only, and a column `a.b` beside a struct has the path of its field.
        if paths.count(str(path)) == 1:
            statistics = footer.column(paths.index(str(path))).statistics
            if not condition.can_match(statistics, group.num_rows):
                return False
    return True


def _select_rows(table: pa.Table, start_row: int, piece: Piece, selection: Selection) -> Slice:
    """Add the partition columns, and leave out the rows for which a condition does not hold."""
    rows_in, rows = len(table), np.arange(start_row, start_row + len(table))
    values = partition_values(os.path.dirname(piece.relative_path))
    for name in selection.partitions:
        table = table.append_column(name, pa.repeat(pa.scalar(values.get(name), pa.string()), rows_in))
    for path, condition in selection.conditions:
        mask = condition.mask(path.of(table))
        table, rows = table.filter(mask), rows[mask.to_numpy(zero_copy_only=False)]
    return Slice(table, piece.path, piece.relative_path, rows, rows_in)


def _read(file: pq.ParquetFile, path: str, part: SlicePlan, schema: pa.Schema) -> Iterator[pa.Table]:
    # One thread a read: several shards are read side by side, and their threads are the actor's CPUs.
    columns = [name for name, _ in leaf_names(schema)]
    with reading(path):
        if part.rows_per_read == part.num_rows:
            table = file.read_row_groups(list(part.row_groups), columns=columns, use_threads=False)
            yield _absorb(table, path, schema)
        else:
            for batch in file.iter_batches(part.rows_per_read, list(part.row_groups), columns, use_threads=False):
                yield _absorb(pa.Table.from_batches([batch]), path, schema)
                del batch


def _absorb(table: pa.Table, path: str, schema: pa.Schema) -> pa.Table:
    try:
        return absorb(table, schema)
    except DataError as error:
        raise DataError(f"{path}: {error.message}") from error


def _check_unchanged(piece: Piece, storage: Storage) -> None:
    state = storage.state(piece.path)
    check_unchanged(piece, state.size_bytes, state.mtime_ns)
