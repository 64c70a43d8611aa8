"""Reads Parquet inputs in slices.

A slice is one read: consecutive row groups of about `SLICE_BYTES`, or a row range of a larger one. Slices follow
from the footer alone, so batches, which never cross a slice, follow from the plan. Start at `read_slices`;
`cut_slices` is the pure part.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.columns import ColumnPath, leaf_names
from engine.data.drift import absorb, find_drift
from engine.data.faults import Array
from engine.data.filtering.conditions import BoundCondition
from engine.data.listing import Piece, partition_values
from engine.errors import DataError

# 8 MiB stay in the caches from decoding to feeding and are reused by the allocator: 2M x 64 float32 on fresh
# processes score at 1.34M rows/s, with slices of 64 MiB at 0.87M (2.0 s of them in the kernel, handing out memory).
SLICE_BYTES = 8 * 2**20
# Reading page by page through a small buffer, instead of a whole column chunk ahead, keeps that memory small.
READ_BUFFER_BYTES = 2**20


def open_parquet(path: str) -> pq.ParquetFile:
    """Open a file and read its footer.

    Raises:
        DataError: if it is no Parquet file, or a damaged one.
        StorageError: if it cannot be read for now.
    """
    with reading(path):
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)


def row_width(field_type: pa.DataType) -> int | None:
    """Return the bytes that one value of this type takes in Arrow memory; None where it varies."""
    if isinstance(field_type, pa.BaseExtensionType):
        return row_width(field_type.storage_type)
    if pa.types.is_fixed_size_list(field_type):
        width = row_width(field_type.value_type)
        return None if width is None else width * field_type.list_size
    if pa.types.is_struct(field_type):
        widths = [row_width(field_type.field(i).type) for i in range(field_type.num_fields)]
        return None if None in widths else sum(width for width in widths if width is not None)
    if pa.types.is_boolean(field_type):
        return 1
    return field_type.bit_width // 8 if _has_bit_width(field_type) else None


def _has_bit_width(field_type: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(field_type) or pa.types.is_fixed_size_binary(field_type))


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group as a footer tells it."""

    index: int
    """Position in the file, from 0."""
    start_row: int
    """Rows of the file before it."""
    num_rows: int
    """Rows in it."""
    num_bytes: int
    """Bytes of the columns to read, in memory: exact where all are fixed-width, else as the footer says."""
    midpoint: int
    """Byte of the file that lies in its middle; the shard that holds this byte reads it."""


@dataclass(frozen=True, slots=True)
class SlicePlan:
    """One read to come."""

    row_groups: tuple[int, ...]
    """Row groups to read, consecutive."""
    start_row: int
    """First row, counted in the file."""
    num_rows: int
    """Rows in all of these row groups."""
    rows_per_read: int
    """Rows of one read; fewer than `num_rows` where one large row group is cut."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a job reads of every input file."""

    columns: pa.Schema
    """Columns of the file, with the types of the first one; structs with no more fields than are needed."""
    partitions: tuple[str, ...] = ()
    """Hive partition columns to add, as strings."""
    conditions: tuple[tuple[ColumnPath, BoundCondition], ...] = ()
    """Conditions on columns of the file, all of which a row has to hold for."""

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


def read_row_groups(metadata: pq.FileMetaData, columns: pa.Schema) -> list[RowGroup]:
    """Describe the row groups of a file, with the bytes that `columns` take in memory."""
    leaves = leaf_names(columns)
    widths = {name: row_width(kind) for name, kind in leaves}
    fixed = sum(width for width in widths.values() if width is not None)
    varying = [name for name, width in widths.items() if width is None]
    groups, start_row = [], 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        chunks = [group.column(i) for i in range(group.num_columns)]
        varying_bytes = sum(c.total_uncompressed_size for c in chunks if _belongs(c.path_in_schema, varying))
        starts = [min(c.data_page_offset, c.dictionary_page_offset or c.data_page_offset) for c in chunks]
        midpoint = min(starts, default=0) + sum(c.total_compressed_size for c in chunks) // 2
        groups.append(RowGroup(index, start_row, group.num_rows, fixed * group.num_rows + varying_bytes, midpoint))
        start_row += group.num_rows
    return groups


def _belongs(path: str, columns: Iterable[str]) -> bool:
    """Whether a leaf column `a.list.element` is part of one of `columns`, whose own names may hold dots."""
    return any(path == name or path.startswith(f"{name}.") for name in columns)


def cut_slices(groups: Iterable[RowGroup], batch_rows: int, slice_bytes: int = SLICE_BYTES) -> list[SlicePlan]:
    """Cut consecutive row groups into slices of about `slice_bytes`.

    Every row of `groups` is in exactly one slice, in order. A row group above `slice_bytes` is cut into row ranges
    of whole batches; smaller ones that follow each other share a slice up to that size.
    """
    slices: list[SlicePlan] = []
    open_groups: list[RowGroup] = []

    def close() -> None:
        if open_groups:
            rows = sum(group.num_rows for group in open_groups)
            indices = tuple(group.index for group in open_groups)
            slices.append(SlicePlan(indices, open_groups[0].start_row, rows, rows))
            open_groups.clear()

    for group in groups:
        if not group.num_rows:
            continue
        is_next = not open_groups or open_groups[-1].start_row + open_groups[-1].num_rows == group.start_row
        if not is_next or sum(g.num_bytes for g in open_groups) + group.num_bytes > slice_bytes:
            close()
        if group.num_bytes > slice_bytes:
            batch_bytes = max(1, group.num_bytes * batch_rows // group.num_rows)
            rows_per_read = batch_rows * max(1, slice_bytes // batch_bytes)
            slices.append(SlicePlan((group.index,), group.start_row, group.num_rows, rows_per_read))
        else:
            open_groups.append(group)
    close()
    return slices


def read_slices(piece: Piece, selection: Selection, batch_rows: int) -> Iterator[Slice]:
    """Read the rows of a piece, in file order.

    Row groups that by their statistics hold no row that a condition lets through are not read; what they count comes
    as a slice without rows.

    Args:
        piece: the file, and the byte range whose row groups are meant.
        selection: the columns to read, and the rows.
        batch_rows: rows per graph call; row groups are cut at multiples of it.

    Raises:
        DataError: if the file is damaged, changed since it was listed, or its columns differ from the first file's.
        StorageError: if it cannot be read for now.
    """
    _check_unchanged(piece)
    with open_parquet(piece.path) as file:
        drift = find_drift(file.schema_arrow, selection.columns)
        if drift is not None:
            raise DataError(
                f"{piece.path}: {drift}; cast it upstream, or leave the column out (--keep) where it is not fed"
            )
        groups = read_row_groups(file.metadata, selection.columns)
        # Odd writers put midpoints outside the file; the first or the last range has such a row group.
        middles = ((group, min(max(group.midpoint, 0), piece.size_bytes - 1)) for group in groups)
        mine = [group for group, middle in middles if piece.start_byte <= middle < piece.stop_byte]
        stop_row = file.metadata.num_rows if piece.stop_row is None else piece.stop_row
        read = [group for group in mine if _can_match(file.metadata, group, selection)]
        num_pruned = _count_rows(mine, stop_row) - _count_rows(read, stop_row)
        if num_pruned:
            nothing = pa.Table.from_batches([], selection.schema)  # pyarrow 26's `empty_table` lacks permuted tensors
            yield Slice(nothing, piece.path, piece.relative_path, np.empty(0, np.int64), num_pruned)
        for part in cut_slices(read, batch_rows):
            start_row = part.start_row
            if start_row >= stop_row:
                return
            for table in _read(file, piece.path, part, selection.columns):
                yield _select_rows(table.slice(0, stop_row - start_row), start_row, piece, selection)
                start_row += len(table)
                if start_row >= stop_row:
                    break


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


def _absorb(table: pa.Table, path: str, schema: pa.Schema) -> pa.Table:
    try:
        return absorb(table, schema)
    except DataError as error:
        raise DataError(f"{path}: {error.message}") from error


def _check_unchanged(piece: Piece) -> None:
    with reading(piece.path):
        status = os.stat(piece.path)
    if (status.st_size, status.st_mtime_ns) != (piece.size_bytes, piece.mtime_ns):
        how = "touched, same size" if status.st_size == piece.size_bytes else f"now {status.st_size} bytes"
        raise DataError(f"{piece.path} changed since the job was planned: {piece.size_bytes} bytes then, {how}")
