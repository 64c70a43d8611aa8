"""Binds columns to feeds: which columns can fill which tensor, told from schema and graph before a row is read.

Pure. What then happens to the values is in `engine.data.feeding.conversion`, the way back from fetches to columns in
`engine.data.output`. Start at `bind_feed`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.data.columns import ColumnPath, FeedSource
from engine.data.feeding.fills import read_fill
from engine.data.leaves import is_binary, is_list_view, is_number, is_raw, is_text, peel_type
from engine.errors import ConfigError, SchemaError
from engine.model.tensor import Shape, TensorSpec, numpy_dtype, shape_text


@dataclass(frozen=True, slots=True)
class FeedBinding:
    """Columns and the tensor that they fill; made by `bind_feed`, which checked that they can."""

    source: FeedSource
    """The column, or the scalar columns that become the last axis."""
    tensor: TensorSpec
    """Tensor, batch axis first unless `is_unbatched`."""
    is_unbatched: bool = False
    """Whether the tensor is one row's and has no batch axis."""
    fills: tuple[pa.Scalar | None, ...] = (None,)
    """For each column, what stands in for a null; None where a null is a bad row."""

    @property
    def column(self) -> str:
        """The columns as they were written."""
        return self.source.text

    @property
    def row_shape(self) -> Shape:
        """Extents of one row; None where the rank is unknown."""
        if self.tensor.shape is None or self.is_unbatched:
            return self.tensor.shape
        return self.tensor.shape[1:]

    @property
    def fixed_rows(self) -> int | None:
        """Extent of the batch axis where the graph fixes it."""
        return self.tensor.shape[0] if self.tensor.shape and not self.is_unbatched else None

    @property
    def has_open_shape(self) -> bool:
        """Whether the graph leaves open how rows are shaped."""
        return self.row_shape is None or None in self.row_shape

    def row_bytes(self) -> float | None:
        """Bytes of one row of the tensor: shape times dtype; 256 for strings; None where it is not known."""
        if self.has_open_shape or self.tensor.dtype is None:
            return None
        width = 256 if self.tensor.dtype == "string" else numpy_dtype(self.tensor.dtype).itemsize
        return float(width * math.prod(n for n in self.row_shape or () if n is not None))

    @property
    def is_view(self) -> bool:
        """Whether rows without nulls are fed as they lie in Arrow's memory."""
        kind = self.source.columns[0].type
        leaf = peel_type(kind)[1]
        if self.source.is_stacked or self.tensor.dtype in (None, "string") or "dictionary" in str(kind):
            return False
        if is_binary(leaf):
            return not pa.types.is_binary_view(leaf)
        is_bits = pa.types.is_boolean(leaf)
        return not is_bits and np.dtype(leaf.to_pandas_dtype()) == numpy_dtype(str(self.tensor.dtype))

    def can_vary(self) -> bool:
        """Whether the graph may give rows of other shapes from batch to batch: fed strings, or lists of any length."""
        extents, leaf = peel_type(self.source.columns[0].type)
        is_ragged = None in extents or (is_raw(leaf, self.tensor.dtype) and not pa.types.is_fixed_size_binary(leaf))
        return self.tensor.dtype == "string" or (is_ragged and self.has_open_shape)


def bind_feed(
    source: FeedSource, tensor: TensorSpec, fills: Mapping[str, str] | None = None, is_unbatched: bool = False
) -> FeedBinding:
    """Check that the columns of `source` can fill `tensor`, as far as dtypes and shapes tell before a row is read.

    Args:
        source: the columns.
        tensor: the tensor, batch axis first unless `is_unbatched`.
        fills: what stands in for nulls, by column path.
        is_unbatched: whether the graph takes one row at a time.

    Raises:
        SchemaError: with what the columns hold, what the tensor takes and what to do.
    """
    if tensor.shape == () and not is_unbatched:
        raise SchemaError(
            f"{tensor} has no batch axis to feed rows to; type --set {tensor.name}=VALUE for a constant, "
            "or --unbatched if the graph takes one row at a time"
        )
    for column in source.columns:
        extents, leaf = peel_type(column.type)
        if source.is_stacked and (extents or (tensor.dtype is not None and is_raw(leaf, tensor.dtype))):
            raise SchemaError(f"column {str(column)!r} ({column.type}) cannot be stacked: expected one scalar a row")
        if tensor.dtype is not None:
            _check_dtype(column, leaf, tensor)
    values = tuple(_fill_of(column, tensor, fills or {}) for column in source.columns)
    binding = FeedBinding(source, tensor, is_unbatched, values)
    _check_count(binding)
    return binding


def _fill_of(column: ColumnPath, tensor: TensorSpec, fills: Mapping[str, str]) -> pa.Scalar | None:
    if str(column) not in fills:
        return None
    try:
        return read_fill(fills[str(column)], column, peel_type(column.type)[1], tensor)
    except ConfigError:
        if tensor.dtype is None:  # what the value has to be is known once the graph is loaded
            return None
        raise


def _check_count(binding: FeedBinding) -> None:
    """Refuse rows of a fixed number of values where the tensor takes another."""
    tensor, source = binding.tensor, binding.source
    first = source.columns[0]
    extents, leaf = peel_type(first.type)
    if source.is_stacked:
        extents = (len(source.columns),)
    if binding.has_open_shape or None in extents or tensor.dtype is None:
        return
    expected = math.prod(n for n in binding.row_shape or () if n is not None)
    found = math.prod(n for n in extents if n is not None)
    what = f"{source.text!r} ({first.type})" if not source.is_stacked else f"{source.text!r}"
    if is_raw(leaf, tensor.dtype):
        if not pa.types.is_fixed_size_binary(leaf):
            return
        found, expected = found * leaf.byte_width, expected * numpy_dtype(tensor.dtype).itemsize
        if found != expected:
            raise SchemaError(
                f"column {what} holds {found} bytes a row where {tensor} takes {expected}; {_other(tensor)}"
            )
    elif source.is_stacked and found != expected:
        raise SchemaError(
            f"--feed {tensor.name}={source.text} names {found} columns where {tensor} takes {expected}; name as many"
        )
    elif found != expected:
        raise SchemaError(f"column {what} holds {found} values a row where {tensor} takes {expected}; {_other(tensor)}")


def _other(tensor: TensorSpec) -> str:
    return f"name another column, or several to stack (--feed {tensor.name}=COLUMN,COLUMN)"


def _check_dtype(column: ColumnPath, leaf: pa.DataType, tensor: TensorSpec) -> None:
    dtype, what = str(tensor.dtype), f"column {str(column)!r} ({column.type})"
    for is_kind, cure in REFUSED:
        if is_kind(leaf):
            raise SchemaError(f"{what} cannot fill {tensor}: {cure}")
    if dtype == "string":
        if not is_text(leaf) and not is_binary(leaf):
            raise SchemaError(f"{what} cannot fill {tensor}: expected strings or binary; {_other(tensor)}")
        return
    try:
        target = numpy_dtype(dtype)
    except TypeError as error:
        raise SchemaError(f"{tensor}: a column cannot fill a tensor of this dtype") from error
    if is_binary(leaf):
        return
    if is_text(leaf):
        raise SchemaError(
            f"column {str(column)!r} holds text ({column.type}) where {tensor} takes numbers; {_other(tensor)}"
        )
    if not is_number(leaf):
        raise SchemaError(f"{what} cannot fill {tensor}: cast it to numbers upstream")
    if not _can_cast(np.dtype(leaf.to_pandas_dtype()), target):
        raise SchemaError(
            f"column {str(column)!r} holds {leaf} where {tensor} takes {dtype}: "
            f"that would lose values; cast the column to {dtype} upstream"
        )


# What has no tensor, and what to make of it upstream.
REFUSED: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (pa.types.is_struct, "name one of its fields, as in image.bytes"),
    (pa.types.is_decimal, "cast it to double upstream"),
    (pa.types.is_timestamp, "cast it to int64, or make the feature that is meant of it upstream"),
    (pa.types.is_date, "cast it to int32 (days) upstream"),
    (pa.types.is_time, "cast it to int64 upstream"),
    (pa.types.is_duration, "cast it to int64 upstream"),
    (pa.types.is_interval, "make numbers of it upstream"),
    (pa.types.is_map, "take the values that are meant out of it, into columns of their own, upstream"),
    (pa.types.is_union, "split it into a column a type upstream"),
    (is_list_view, "cast it to list upstream"),
    (pa.types.is_null, "the first input file has only nulls there; cast it to the type that is meant upstream"),
)


def _can_cast(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Exact casts, narrower numbers of the same kind, and integers to floats; values are checked when they come."""
    ranks = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}  # bfloat16 is of numpy's kind V
    return bool(np.can_cast(source, target, "safe")) or (
        ranks[source.kind] <= ranks.get(target.kind, -1) and target.kind != "b"
    )


def fit_extents(row_shape: Shape, extents: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the extents to reshape a row of `extents` to: the graph's, its open ones filled; None if it cannot be."""
    if row_shape is None:
        return extents
    if len(row_shape) == len(extents) and all(n in (None, m) for n, m in zip(row_shape, extents, strict=True)):
        return extents
    count = math.prod(extents)
    known = math.prod(n for n in row_shape if n is not None)
    num_open = row_shape.count(None)
    if num_open == 0 and count == known:
        return tuple(n for n in row_shape if n is not None)
    if num_open == 1 and known and count % known == 0:
        return tuple(count // known if n is None else n for n in row_shape)
    return None


def misfit_text(binding: FeedBinding, extents: tuple[int, ...]) -> str:
    """Say that rows of `extents` cannot fill the tensor."""
    row_shape = binding.row_shape
    if len(extents) == 1 and row_shape is not None and None not in row_shape:
        expected = math.prod(n for n in row_shape if n is not None)
        return f"a list of {extents[0]} values where {binding.tensor} takes {expected}"
    return f"rows of {shape_text(extents)} cannot fill {binding.tensor}"
