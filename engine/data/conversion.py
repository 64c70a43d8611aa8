"""Turns the rows of a bound column into the arrays that a session takes.

Pure and in memory. A column without nulls whose values lie one after the other (fixed-size lists, raw bytes,
numbers) becomes a view of Arrow's memory; casts are done once a slice, never once a batch. Start at `FeedColumn`.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine.data.binding import FeedBinding, is_binary, peel_type
from engine.errors import DataError
from engine.model.tensor import Shape, shape_text

Array = npt.NDArray[Any]


class FeedColumn:
    """The rows of one slice for one feed; `batch` gives the array of some of them."""

    def __init__(self, binding: FeedBinding, column: pa.ChunkedArray) -> None:
        """Convert the column at once where all rows have one shape, else batch by batch.

        Raises:
            DataError: for a row that cannot become the tensor's; `row_index` counts in the slice.
        """
        self._binding = binding
        self._column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        self._dense: Array | None = None
        extents, leaf = peel_type(self._column.type)
        is_shape_known = binding.row_shape is not None and None not in binding.row_shape
        if is_shape_known or (None not in extents and not is_binary(leaf)):
            self._dense = to_tensor(binding, self._column)

    def batch(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop` as the tensor's array, without a copy where the slice was converted."""
        if self._dense is not None:
            return self._dense[start:stop]
        try:
            return to_tensor(self._binding, self._column.slice(start, stop - start))
        except DataError as error:
            raise DataError(error.message, None if error.row_index is None else error.row_index + start) from error


def to_tensor(binding: FeedBinding, column: pa.Array) -> Array:
    """Convert a column to an array of the tensor's dtype and shape, rows on the first axis.

    Raises:
        DataError: for a null, a row of another length, wrong bytes or an overflow, with its row.
    """
    extents, leaves = _peel(binding, column)
    num_rows = len(column)
    per_row = math.prod(extents)
    _refuse_nulls(binding, leaves, per_row)
    dtype = str(binding.tensor.dtype)
    if dtype == "string":
        flat: Array = leaves.cast(_bytes_type(leaves.type)).to_numpy(zero_copy_only=False)
    elif is_binary(leaves.type):
        flat, per_leaf = _read_raw(binding, leaves, np.dtype(dtype), extents)
        extents = (*extents, per_leaf)
    else:
        flat = _cast(binding, leaves.to_numpy(zero_copy_only=False), np.dtype(dtype), per_row)
    return flat.reshape(num_rows, *_row_extents(binding, extents))


def _peel(binding: FeedBinding, column: pa.Array) -> tuple[tuple[int, ...], pa.Array]:
    """Take the list levels off: the extents of one row, and all leaf values one after the other."""
    row_shape = binding.row_shape
    extents: tuple[int, ...] = ()
    while True:
        _refuse_nulls(binding, column, math.prod(extents))
        if pa.types.is_fixed_size_list(column.type):
            extents = (*extents, column.type.list_size)
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
            expected = _expected_length(binding.tensor.dtype, row_shape, extents, column.type.value_type, lengths)
            odd = np.flatnonzero(lengths != expected)
            if len(odd):
                row = int(odd[0]) // max(1, math.prod(extents))
                found = int(lengths[odd[0]])
                message = f"a list of {found} values where {binding.tensor} takes {expected}"
                raise DataError(f"column {binding.column!r}: {message}", row)
            extents = (*extents, expected)
        else:
            return extents, column
        column = column.flatten()


def _expected_length(
    dtype: str | None, row_shape: Shape, extents: tuple[int, ...], inner: pa.DataType, lengths: Array
) -> int:
    """Return the length that the lists of this level should have; the first row's where the graph leaves it open."""
    inner_extents = peel_type(inner)[0]
    is_raw = is_binary(peel_type(inner)[1]) and dtype != "string"
    if row_shape is not None and None not in row_shape and None not in inner_extents and not is_raw:
        inside = math.prod(extents) * math.prod(n for n in inner_extents if n is not None)
        total = math.prod(n for n in row_shape if n is not None)
        if inside and total % inside == 0:
            return total // inside
    depth = len(extents) + 1 + len(inner_extents)
    wanted = row_shape[len(extents)] if row_shape is not None and len(row_shape) == depth else None
    if wanted is not None and (depth == 1 or not len(lengths) or (lengths == wanted).any()):
        return wanted
    return int(lengths[0]) if len(lengths) else 0  # other extents, which may hold as many values in all


def _read_raw(
    binding: FeedBinding, leaves: pa.Array, dtype: np.dtype[Any], extents: tuple[int, ...]
) -> tuple[Array, int]:
    """View binary values as little-endian numbers: the values, and how many one leaf holds."""
    per_row = math.prod(extents)
    row_shape = binding.row_shape
    if pa.types.is_fixed_size_binary(leaves.type):
        width, start, data = leaves.type.byte_width, leaves.offset * leaves.type.byte_width, leaves.buffers()[1]
        lengths = np.full(len(leaves), width)
    else:
        offset_type = np.int64 if pa.types.is_large_binary(leaves.type) else np.int32
        _, offset_buffer, data = leaves.buffers()
        offsets = np.frombuffer(offset_buffer, offset_type)[leaves.offset : leaves.offset + len(leaves) + 1]
        lengths, start = np.diff(offsets), int(offsets[0]) if len(offsets) else 0
        width = int(lengths[0]) if len(lengths) else 0
    if row_shape is not None and None not in row_shape:
        width = math.prod(n for n in row_shape if n is not None) * dtype.itemsize // max(1, per_row)
    odd = np.flatnonzero(lengths != width)
    if len(odd):
        message = f"{int(lengths[odd[0]])} bytes where {binding.tensor} takes {width}"
        raise DataError(f"column {binding.column!r}: {message}", int(odd[0]) // max(1, per_row))
    if width % dtype.itemsize:
        message = f"{width} bytes are no whole number of {dtype} for {binding.tensor}"
        raise DataError(f"column {binding.column!r}: {message}", 0)
    count = width // dtype.itemsize
    if not len(leaves) or not width:
        return np.empty(0, dtype), count
    return np.frombuffer(data, dtype.newbyteorder("<"), count * len(leaves), start), count


def _cast(binding: FeedBinding, values: Array, target: np.dtype[Any], per_row: int) -> Array:
    """Cast numbers; a value out of the target's range is a bad row."""
    if values.dtype == target:
        return values
    with np.errstate(over="ignore"):
        cast = values.astype(target)
    if values.dtype.kind in "iu" and target.kind in "iu" and not np.can_cast(values.dtype, target, "safe"):
        bad = cast.astype(values.dtype) != values
        bad |= (cast < 0) != (values < 0)
    elif target.kind in "fc" and not np.can_cast(values.dtype, target, "safe"):
        bad = np.isinf(cast) & ~np.isinf(values)
    else:
        return cast
    odd = np.flatnonzero(bad)
    if len(odd):
        message = f"{values[odd[0]]} overflows {target} of {binding.tensor}"
        raise DataError(f"column {binding.column!r}: {message}", int(odd[0]) // max(1, per_row))
    return cast


def _row_extents(binding: FeedBinding, extents: tuple[int, ...]) -> tuple[int, ...]:
    """Return the extents to reshape one row to: the graph's, its unknown ones filled from the data."""
    shape = binding.row_shape
    if shape is None:
        return extents
    if len(shape) == len(extents) and all(n in (None, m) for n, m in zip(shape, extents, strict=True)):
        return extents
    count = math.prod(extents)
    known = math.prod(n for n in shape if n is not None)
    unknown = shape.count(None)
    if unknown == 0 and count == known:
        return tuple(n for n in shape if n is not None)
    if unknown == 1 and known and count % known == 0:
        return tuple(count // known if n is None else n for n in shape)
    raise DataError(f"column {binding.column!r}: rows of {shape_text(extents)} cannot fill {binding.tensor}", 0)


def _refuse_nulls(binding: FeedBinding, column: pa.Array, per_row: int) -> None:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]) // max(1, per_row)
        raise DataError(f"column {binding.column!r}: a null where {binding.tensor} takes a value", row)


def _bytes_type(field_type: pa.DataType) -> pa.DataType:
    is_large = pa.types.is_large_string(field_type) or pa.types.is_large_binary(field_type)
    return pa.large_binary() if is_large else pa.binary()
