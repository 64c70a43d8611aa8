"""What decoding takes beside the rows that come of it, as a footer tells: pages, dictionaries, levels, buffers.

Pure. A row group that is cut into slices is read by all its columns at once, and each keeps a page, its dictionary and
its read buffer until the end of it. Start at `decoding_bytes`.
"""

import math
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.columns import leaf_names
from engine.data.row_groups import row_width

# What writers that are not told otherwise end pages and dictionaries at; they look every 1,024 values whether they
# should (pyarrow 26), so pages of large values are larger. No footer tells it.
PAGE_BYTES, PAGE_CHECK_VALUES = 2**20, 1024
# A level is an int16; a list's values have one more each.
LEVEL_BYTES = 2
PHYSICAL_BYTES = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}


def decoding_bytes(metadata: pq.FileMetaData, columns: pa.Schema, num_rows: int, buffer_bytes: int) -> int:
    """Return what it takes to decode `num_rows` rows of `columns` at once, beside these rows.

    Args:
        metadata: a footer; its largest row group counts.
        columns: the columns to read.
        num_rows: rows of a slice.
        buffer_bytes: the read buffer of a column.
    """
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    group = max((each for each in groups if each.num_rows), key=lambda each: each.total_byte_size, default=None)
    if group is None or not num_rows:
        return 0
    widths = {name: row_width(kind) for name, kind in leaf_names(columns)}
    held, passing = 0, 0
    for i in range(group.num_columns):
        chunk = group.column(i)
        name = _column_of(chunk.path_in_schema, widths)
        if name is None or not chunk.num_values:
            continue
        values = math.ceil(num_rows * chunk.num_values / group.num_rows)
        width = widths[name]
        value_bytes = chunk.total_uncompressed_size / chunk.num_values
        page = min(chunk.total_uncompressed_size, max(PAGE_BYTES, round(PAGE_CHECK_VALUES * value_bytes)))
        dictionary = min(chunk.total_uncompressed_size, PAGE_BYTES) if chunk.has_dictionary_page else 0
        held += page + dictionary + min(buffer_bytes, chunk.total_compressed_size)
        room = _power_of_two(values + min(num_rows, round(page / value_bytes)))  # for what a page has beyond the slice
        arrow_bytes = None if width is None else width * num_rows
        kept, growing = _value_bytes(metadata.schema.column(i), values, room, arrow_bytes)
        if width is None:  # what is grown into another buffer of twice the size is there one and a half times
            growing = round(1.5 * _power_of_two(values * value_bytes) - values * value_bytes)
        held += kept
        passing = max(passing, page + growing)  # a page as it lies in the file, and its column's growing values
    return held + passing


def _column_of(path: str, names: Collection[str]) -> str | None:
    """Return which of `names` a leaf `a.list.element` is part of; names may hold dots."""
    steps = path.split(".")
    return next((name for n in range(len(steps), 0, -1) if (name := ".".join(steps[:n])) in names), None)


def _value_bytes(leaf: pq.ColumnSchema, values: int, room: int, arrow_bytes: int | None) -> tuple[int, int]:
    """Return what a column keeps beside its values where there is `room` for more, and what it takes in passing."""
    levels = room * LEVEL_BYTES * ((leaf.max_definition_level > 0) + (leaf.max_repetition_level > 0))
    decoded = PHYSICAL_BYTES.get(leaf.physical_type, 0)
    if arrow_bytes is None or (decoded * values == arrow_bytes and leaf.physical_type != "BOOLEAN"):
        return levels, (room - values) * decoded
    return levels + room * decoded, 0  # small integers and bits are decoded as larger types, then copied


def _power_of_two(number: float) -> int:
    """Return the next one; Arrow's readers round so what they allocate."""
    return 1 << max(0, math.ceil(number) - 1).bit_length()
