"""What a footer tells of a file's row groups, and how they are cut into slices.

Pure: slices follow from the footer alone, so batches, which never cross a slice, follow from the plan. Start at
`read_row_groups` and `cut_slices`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.columns import leaf_names

# Of 8, 16 and 32 MiB, 16 were the fastest for lists of 64 float32 and for 40 columns of float64 (2 to 10 % over 8 MiB);
# 64 MiB leave the caches between decoding and feeding, and a fresh process pays for the memory.
SLICE_BYTES = 16 * 2**20


def largest_group_bytes(metadata: pq.FileMetaData) -> int:
    """Return the bytes in the file of the largest row group."""
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    sizes = (sum(g.column(i).total_compressed_size for i in range(g.num_columns)) for g in groups)
    return max(sizes, default=0)


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
        varying_bytes = sum(c.total_uncompressed_size for c in chunks if belongs(c.path_in_schema, varying))
        starts = [min(c.data_page_offset, c.dictionary_page_offset or c.data_page_offset) for c in chunks]
        midpoint = min(starts, default=0) + sum(c.total_compressed_size for c in chunks) // 2
        groups.append(RowGroup(index, start_row, group.num_rows, fixed * group.num_rows + varying_bytes, midpoint))
        start_row += group.num_rows
    return groups


def belongs(path: str, columns: Iterable[str]) -> bool:
    """Whether a leaf column `a.list.element` is part of one of `columns`, whose own names may hold dots."""
    return any(path == name or path.startswith(f"{name}.") for name in columns)


def chunk_ranges(metadata: pq.FileMetaData, groups: Iterable[int], columns: pa.Schema) -> list[tuple[int, int]]:
    """Return first byte and end of the column chunks that hold `columns` in some row groups, neighbours in one."""
    names = [name for name, _ in leaf_names(columns)]
    ranges: list[tuple[int, int]] = []
    for group in map(metadata.row_group, groups):
        for chunk in (group.column(i) for i in range(group.num_columns)):
            if not belongs(chunk.path_in_schema, names):
                continue
            start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
            stop = start + chunk.total_compressed_size
            if ranges and ranges[-1][1] == start:
                ranges[-1] = ranges[-1][0], stop
            else:
                ranges.append((start, stop))
    return ranges


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
