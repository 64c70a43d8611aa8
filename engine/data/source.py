"""Reads Parquet inputs in slices.

A slice is one read: consecutive row groups of about `SLICE_BYTES`, or a row range of a larger one. Slices follow
from the footer alone, so batches, which never cross a slice, follow from the plan. Start at `read_slices`;
`cut_slices` is the pure part.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.listing import Piece
from engine.errors import DataError, SchemaError

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
class Slice:
    """Rows that were read together."""

    table: pa.Table
    """The columns asked for, in that order."""
    path: str
    """File that they came from."""
    start_row: int
    """First row, counted in the file."""


def read_row_groups(metadata: pq.FileMetaData, schema: pa.Schema, columns: Sequence[str]) -> list[RowGroup]:
    """Describe the row groups of a file, with the bytes that `columns` take in memory."""
    widths = {name: row_width(schema.field(name).type) for name in columns}
    fixed = sum(width for width in widths.values() if width is not None)
    varying = {name for name, width in widths.items() if width is None}
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


def _belongs(path: str, columns: Collection[str]) -> bool:
    """Whether a leaf column `a.list.element` is part of one of `columns`, whose own names may hold dots."""
    return any(path == name or path.startswith(f"{name}.") for name in columns)


def cut_slices(groups: Iterable[RowGroup], batch_rows: int, slice_bytes: int = SLICE_BYTES) -> list[SlicePlan]:
    """Cut consecutive row groups into slices of about `slice_bytes`.

    Every row of `groups` is in exactly one slice, in order. A row group above `slice_bytes` is cut into row ranges
    of whole batches; smaller ones share a slice up to that size.
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
        if sum(g.num_bytes for g in open_groups) + group.num_bytes > slice_bytes:
            close()
        if group.num_bytes > slice_bytes:
            batch_bytes = max(1, group.num_bytes * batch_rows // group.num_rows)
            rows_per_read = batch_rows * max(1, slice_bytes // batch_bytes)
            slices.append(SlicePlan((group.index,), group.start_row, group.num_rows, rows_per_read))
        else:
            open_groups.append(group)
    close()
    return slices


def read_slices(piece: Piece, schema: pa.Schema, batch_rows: int) -> Iterator[Slice]:
    """Read the rows of a piece, in file order.

    Args:
        piece: the file, and the byte range whose row groups are meant.
        schema: the columns to read, with the types of the first input file.
        batch_rows: rows per graph call; row groups are cut at multiples of it.

    Raises:
        DataError: if the file is damaged, changed since it was listed, or its columns differ from `schema`.
        StorageError: if it cannot be read for now.
    """
    _check_unchanged(piece)
    with open_parquet(piece.path) as file:
        _check_schema(piece.path, file.schema_arrow, schema)
        groups = read_row_groups(file.metadata, file.schema_arrow, schema.names)
        # Odd writers put midpoints outside the file; the first or the last range has such a row group.
        middles = ((group, min(max(group.midpoint, 0), piece.size_bytes - 1)) for group in groups)
        mine = [group for group, middle in middles if piece.start_byte <= middle < piece.stop_byte]
        stop_row = file.metadata.num_rows if piece.stop_row is None else piece.stop_row
        for part in cut_slices(mine, batch_rows):
            start_row = part.start_row
            if start_row >= stop_row:
                return
            for table in _read(file, piece.path, part, schema.names):
                yield Slice(table.slice(0, stop_row - start_row), piece.path, start_row)
                start_row += len(table)
                if start_row >= stop_row:
                    break


def _read(file: pq.ParquetFile, path: str, part: SlicePlan, columns: list[str]) -> Iterator[pa.Table]:
    # One thread a read: several shards are read side by side, and their threads are the actor's CPUs.
    with reading(path):
        if part.rows_per_read == part.num_rows:
            yield file.read_row_groups(list(part.row_groups), columns=columns, use_threads=False).select(columns)
        else:
            for batch in file.iter_batches(part.rows_per_read, list(part.row_groups), columns, use_threads=False):
                yield pa.Table.from_batches([batch]).select(columns)


def _check_unchanged(piece: Piece) -> None:
    with reading(piece.path):
        status = os.stat(piece.path)
    if (status.st_size, status.st_mtime_ns) != (piece.size_bytes, piece.mtime_ns):
        how = "touched, same size" if status.st_size == piece.size_bytes else f"now {status.st_size} bytes"
        raise DataError(f"{piece.path} changed since the job was planned: {piece.size_bytes} bytes then, {how}")


def _check_schema(path: str, found: pa.Schema, expected: pa.Schema) -> None:
    for field in expected:
        index = found.get_field_index(field.name)
        if index < 0:
            raise DataError(f"{path}: no column {field.name!r}, which the first input file has ({field.type})")
        if found.field(index).type != field.type:
            now = found.field(index).type
            raise DataError(f"{path}: column {field.name!r} is {now} where the first input file has {field.type}")


def select_schema(schema: pa.Schema, columns: Sequence[str], path: str) -> pa.Schema:
    """Return the fields of `columns`, in that order.

    Raises:
        SchemaError: if the file has no such column; its columns are shown.
    """
    fields: list[Any] = []
    for name in columns:
        if schema.names.count(name) > 1:
            raise SchemaError(f"{path} has {schema.names.count(name)} columns called {name!r}; rename them upstream")
        if name not in schema.names:
            known = ", ".join(schema.names) or "none"
            raise SchemaError(f"{path} has no column {name!r}; it has {known} (--feed TENSOR=COLUMN, --keep)")
        fields.append(schema.field(name).with_nullable(True))  # a later file may have nulls where the first has none
    return pa.schema(fields)
