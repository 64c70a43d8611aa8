"""Binds fetches to output columns: the arrays that a session returns become Arrow columns.

Pure and in memory. `[N]` becomes a plain column, `[N, k]` a fixed-size list, `[N, a, b, ...]` an
`arrow.fixed_shape_tensor`, and what has an extent of 0 or one known only per batch nested lists.
Start at `bind_output` and `to_column`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import GraphError, SchemaError
from engine.model.tensor import TensorSpec, shape_text

Array = npt.NDArray[Any]
# Quantised integers are written as their integers, bfloat16 (which Arrow lacks) as float32.
STORED_AS = {"qint8": "int8", "quint8": "uint8", "qint16": "int16", "quint16": "uint16", "qint32": "int32"}


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """A fetch and the column that it is written as."""

    tensor: TensorSpec
    """Fetched tensor, batch axis first, with the extents that its rows were seen to have."""
    column: str
    """Name of the column."""
    type: pa.DataType
    """Arrow type of the column."""
    is_text: bool = False
    """Whether strings are written as text, which they have to be then."""


def observe_shape(tensor: TensorSpec, samples: Sequence[tuple[int, Array]], can_vary: bool = False) -> TensorSpec:
    """Return `tensor` with the extents that its graph leaves open filled from what two batches gave.

    Args:
        tensor: the fetch as the graph has it.
        samples: pairs of rows fed and array fetched; extents that differ between them stay open.
        can_vary: whether batches to come may be shaped otherwise than these; then only the rank is taken from them.

    Raises:
        GraphError: if the first axis of an array is not the batch.
    """
    shape = tensor.shape
    for num_rows, array in samples:
        check_batch_axis(tensor, array, num_rows)
    if not samples or (shape is not None and None not in shape[1:]):
        return tensor
    ranks = {array.ndim for _, array in samples}
    if len(ranks) > 1:
        raise GraphError(f"{tensor} has another rank in every batch ({sorted(ranks)}); fetch a tensor of one rank")
    seen = [{array.shape[axis] for _, array in samples} for axis in range(1, samples[0][1].ndim)]
    extents = tuple(found.pop() if len(found) == 1 and not can_vary else None for found in seen)
    if shape is not None:  # what the graph says stands
        extents = tuple(n if n is not None else m for n, m in zip(shape[1:], extents, strict=True))
    return TensorSpec(tensor.name, tensor.dtype, (None, *extents))


def bind_output(tensor: TensorSpec, column: str, is_text: bool = False) -> OutputColumn:
    """Choose the Arrow type of a fetch.

    Raises:
        SchemaError: for a dtype that has no column (complex, resource, variant), or numbers to be written as text.
        GraphError: for a tensor without a batch axis.
    """
    if tensor.shape is None or not tensor.shape:
        raise GraphError(f"--fetch {tensor} has no batch axis; fetch a tensor with one value or array a row")
    if is_text and tensor.dtype != "string":
        raise SchemaError(f"--utf8 {column}: {tensor} holds no strings; leave --utf8 out for it")
    leaf = pa.string() if is_text else _leaf_type(tensor)
    extents = tensor.shape[1:]
    known = [n for n in extents if n is not None]
    if None in extents or 0 in extents:
        nested = leaf
        for _ in extents:
            nested = pa.list_(nested)
    # pyarrow 26 cannot hand tensors of bool or bytes back to numpy.
    elif len(known) <= 1 or tensor.dtype == "string" or pa.types.is_boolean(leaf):
        nested = _nest_fixed(leaf, known)
    else:
        nested = pa.fixed_shape_tensor(leaf, known)
    return OutputColumn(tensor, column, nested, is_text)


def _nest_fixed(leaf: pa.DataType, extents: Sequence[int]) -> pa.DataType:
    for extent in reversed(extents):
        leaf = pa.list_(leaf, extent)
    return leaf


def _leaf_type(tensor: TensorSpec) -> pa.DataType:
    if tensor.dtype == "string":
        return pa.binary()
    if tensor.dtype == "bfloat16":
        return pa.float32()
    try:
        return pa.from_numpy_dtype(np.dtype(STORED_AS.get(str(tensor.dtype), str(tensor.dtype))))
    except (TypeError, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"--fetch {tensor}: no Parquet column holds {tensor.dtype}; fetch another tensor") from error


def check_output_names(names: Sequence[str]) -> None:
    """Refuse two output columns of one name.

    Raises:
        SchemaError: naming the column, and what to type.
    """
    for name in names:
        if list(names).count(name) > 1:
            raise SchemaError(
                f"two output columns are called {name!r}; rename the fetch (--fetch TENSOR=OTHER) "
                "or leave the input column out (--keep)"
            )


def check_batch_axis(tensor: TensorSpec, array: Array, num_rows: int) -> None:
    """Check that a fetched array has a row for each row fed.

    Raises:
        GraphError: showing both shapes.
    """
    if array.ndim == 0 or array.shape[0] != num_rows:
        raise GraphError(
            f"--fetch {tensor}: a batch of {num_rows} rows gave {shape_text(array.shape)} where the first axis "
            f"should be the {num_rows} rows; fetch a tensor with a value for every row"
        )


def to_column(output: OutputColumn, array: Array) -> pa.Array:
    """Return the fetched `array`, rows on its first axis, as a column of `output.type`; numbers are not copied.

    Raises:
        GraphError: if the rows have other extents than the output's schema says.
    """
    extents = (output.tensor.shape or ())[1:]
    is_fitting = array.ndim == len(extents) + 1 and all(
        n in (None, m) for n, m in zip(extents, array.shape[1:], strict=True)
    )
    if not is_fitting:
        raise GraphError(
            f"--fetch {output.tensor}: a batch gave {shape_text(array.shape)}, whose rows do not fit the output "
            f"column {output.column!r} ({output.type})"
        )
    leaves = _leaves(output, array)
    if isinstance(output.type, pa.FixedShapeTensorType):
        return pa.ExtensionArray.from_storage(
            output.type, pa.FixedSizeListArray.from_arrays(leaves, math.prod(array.shape[1:]))
        )
    column = leaves
    for axis in range(array.ndim - 1, 0, -1):
        count = math.prod(array.shape[:axis])
        if None in extents or 0 in extents:
            offsets = np.arange(count + 1, dtype=np.int32) * array.shape[axis]
            column = pa.ListArray.from_arrays(pa.array(offsets), column)
        else:
            column = pa.FixedSizeListArray.from_arrays(column, array.shape[axis])
    return column


def _leaves(output: OutputColumn, array: Array) -> pa.Array:
    flat = np.ascontiguousarray(array).reshape(-1)
    dtype = str(output.tensor.dtype)
    if dtype == "string":
        leaves = pa.array(flat.tolist(), pa.binary())
        return leaves.cast(pa.string()) if output.is_text else leaves
    if dtype == "bfloat16":
        return pa.array(flat.astype(np.float32))
    return pa.array(flat.view(STORED_AS[dtype]) if dtype in STORED_AS else flat)
