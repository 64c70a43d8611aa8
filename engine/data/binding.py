"""Binds columns to feeds: which column can fill which tensor, told from schema and graph before a row is read.

Pure. What then happens to the values is in `engine.data.conversion`, the way back from fetches to columns in
`engine.data.output`. Start at `bind_feed`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import SchemaError
from engine.model.tensor import Shape, TensorSpec

Extents = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class FeedBinding:
    """A column and the tensor that it fills; made by `bind_feed`, which checked that it can."""

    column: str
    """Name of the column."""
    tensor: TensorSpec
    """Tensor, batch axis first."""

    @property
    def row_shape(self) -> Shape:
        """Extents of one row; None where the rank is unknown."""
        return None if self.tensor.shape is None else self.tensor.shape[1:]

    @property
    def fixed_rows(self) -> int | None:
        """Extent of the batch axis where the graph fixes it."""
        return self.tensor.shape[0] if self.tensor.shape else None

    def row_bytes(self) -> float | None:
        """Bytes of one row of the tensor: shape times dtype; 256 for strings; None where it is not known."""
        if self.row_shape is None or None in self.row_shape or self.tensor.dtype is None:
            return None
        width = 256 if self.tensor.dtype == "string" else np.dtype(self.tensor.dtype).itemsize
        return float(width * math.prod(n for n in self.row_shape if n is not None))


def bind_feed(field: pa.Field, tensor: TensorSpec) -> FeedBinding:
    """Check that the column `field` can fill `tensor`, as far as dtypes and shapes tell before a row is read.

    Raises:
        SchemaError: with what the column holds, what the tensor takes and what to do.
    """
    extents, leaf = peel_type(field.type)
    if tensor.shape == ():
        raise SchemaError(f"{tensor} has no batch axis to feed rows to; type --set {tensor.name}=VALUE for a constant")
    if tensor.dtype is not None:
        _check_dtype(field, leaf, tensor)
    row_shape = None if tensor.shape is None else tensor.shape[1:]
    is_raw = is_binary(leaf) and tensor.dtype != "string"
    if row_shape is not None and None not in row_shape and None not in extents and tensor.dtype is not None:
        expected = math.prod(n for n in row_shape if n is not None)
        found = math.prod(n for n in extents if n is not None)
        unit = "values"
        if is_raw:
            expected *= np.dtype(tensor.dtype).itemsize
            found, unit = found * leaf.byte_width if pa.types.is_fixed_size_binary(leaf) else expected, "bytes"
        if found != expected:
            raise SchemaError(
                f"column {field.name!r} ({field.type}) holds {found} {unit} a row where {tensor} takes {expected}"
            )
    return FeedBinding(field.name, tensor)


def _check_dtype(field: pa.Field, leaf: pa.DataType, tensor: TensorSpec) -> None:
    dtype = str(tensor.dtype)
    if dtype == "string":
        if not _is_text(leaf) and not is_binary(leaf):
            raise SchemaError(f"column {field.name!r} ({field.type}) cannot fill {tensor}: expected strings or binary")
        return
    try:
        target = np.dtype(dtype)
    except TypeError as error:
        raise SchemaError(f"{tensor}: a column cannot fill a tensor of this dtype") from error
    if is_binary(leaf):
        return
    if _is_text(leaf):
        raise SchemaError(f"column {field.name!r} holds text ({field.type}) where {tensor} takes numbers")
    if not _is_number(leaf):
        raise SchemaError(f"column {field.name!r} ({field.type}) cannot fill {tensor}: cast it to numbers upstream")
    source = np.dtype(leaf.to_pandas_dtype())
    if not _can_cast(source, target):
        raise SchemaError(
            f"column {field.name!r} holds {leaf} where {tensor} takes {dtype}: "
            f"that would lose values; cast the column to {dtype} upstream"
        )


def _can_cast(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Exact casts, narrower numbers of the same kind, and integers to floats; values are checked when they come."""
    ranks = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}
    return bool(np.can_cast(source, target, "safe")) or (
        ranks[source.kind] <= ranks.get(target.kind, -1) and target.kind != "b"
    )


def peel_type(field_type: pa.DataType) -> tuple[Extents, pa.DataType]:
    """Return the extents of one row (None for lists of any length) and the type of the leaves."""
    extents: Extents = ()
    while True:
        if pa.types.is_fixed_size_list(field_type):
            extents = (*extents, field_type.list_size)
        elif pa.types.is_list(field_type) or pa.types.is_large_list(field_type):
            extents = (*extents, None)
        else:
            return extents, field_type
        field_type = field_type.value_type


def _is_number(field_type: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(is_kind(field_type) for is_kind in kinds)


def _is_text(field_type: pa.DataType) -> bool:
    return any(is_kind(field_type) for is_kind in (pa.types.is_string, pa.types.is_large_string))


def is_binary(field_type: pa.DataType) -> bool:
    """Whether values of this type are bytes: raw numbers for a numeric tensor, strings for a string tensor."""
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(is_kind(field_type) for is_kind in kinds)
