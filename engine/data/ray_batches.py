"""What Ray Data hands to a function and takes back: Arrow tables, dicts of numpy arrays, data frames of pandas.

Columns become Arrow without a copy where they lie right, tensors of Ray Data's own types among them; predictions go
back as the same kind. Imports neither Ray nor pandas. Start at `read_columns` and `add_predictions`.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.data.faults import Array
from engine.data.leaves import peel_type
from engine.errors import SchemaError

FIXED = ("ray.data.arrow_tensor", "ray.data.arrow_tensor_v2")
VARIABLE = "ray.data.arrow_variable_shaped_tensor"


def column_names(batch: Any) -> list[str]:
    """Return the names of the columns of a batch.

    Raises:
        SchemaError: if it is no batch of a kind that Ray Data knows.
    """
    if isinstance(batch, pa.Table):
        return list(batch.column_names)
    if isinstance(batch, Mapping) or _is_frame(batch):
        return [str(name) for name in batch]
    raise SchemaError(
        f"a batch came as {type(batch).__name__} where a pyarrow.Table, a dict of numpy arrays or a pandas.DataFrame "
        'was expected (batch_format="pyarrow", "numpy" or "pandas")'
    )


def num_rows(batch: Any) -> int:
    """Return how many rows a batch has."""
    return len(next(iter(batch.values()), ())) if isinstance(batch, Mapping) else len(batch)


def read_columns(batch: Any, names: Sequence[str], known: Collection[str] | None = None) -> pa.Table:
    """Return columns of a batch as Arrow knows them.

    Args:
        batch: a table, dict or data frame.
        names: the columns.
        known: those of them that must have a type; others that Arrow does not know become nulls.

    Raises:
        SchemaError: for a column that is not there, or that Arrow does not know.
    """
    found = []
    there = column_names(batch)
    for name in names:
        if name not in there:
            raise SchemaError(f"a batch has no column {name!r}, which the first one had; it has {', '.join(there)}")
        try:
            found.append(_read_column(batch[name]))
        except (pa.ArrowException, TypeError, ValueError) as error:
            if known is None or name in known:
                raise SchemaError(f"column {name!r} of a batch is nothing that Arrow knows: {error}") from error
            found.append(pa.nulls(num_rows(batch)))
    return pa.Table.from_arrays(found, names=list(names))


def add_predictions(batch: Any, kept: Mapping[str, Any], predictions: Mapping[str, pa.ChunkedArray]) -> Any:
    """Return the kept columns and the predictions, as the kind of batch that came."""
    if isinstance(batch, pa.Table):
        return pa.table({**kept, **predictions})
    if isinstance(batch, Mapping):
        return {**kept, **{name: to_numpy(column) for name, column in predictions.items()}}
    frame = batch[[]].assign(**kept)
    arrays = {name: to_numpy(column) for name, column in predictions.items()}
    return frame.assign(**{name: array if array.ndim == 1 else list(array) for name, array in arrays.items()})


def _is_frame(batch: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(batch, pandas.DataFrame)


def _read_column(values: Any) -> pa.ChunkedArray | pa.Array:
    if isinstance(values, pa.ChunkedArray):
        chunks = [_plain_tensors(chunk) for chunk in values.chunks]
        return pa.chunked_array(chunks) if chunks else pa.chunked_array(chunks, values.type)
    if not isinstance(values, (np.ndarray, list)):  # a column of a data frame
        is_numpy = isinstance(values.dtype, np.dtype)
        values = values.to_numpy() if is_numpy else pa.array(values)
        if not is_numpy:
            chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
            return pa.chunked_array([_plain_tensors(chunk) for chunk in chunks])
    array = np.asarray(values)
    if array.dtype.hasobject:
        rows = [each.tolist() if isinstance(each, np.ndarray) and each.ndim > 1 else each for each in array]
        return pa.array(rows, from_pandas=True)
    leaves = pa.array(np.ascontiguousarray(array).reshape(-1))
    return _nest(leaves, len(array), array.shape[1:])


def _nest(leaves: pa.Array, num_rows: int, extents: Sequence[int], mask: pa.Array | None = None) -> pa.Array:
    """Return leaves that lie one after the other as rows of `extents`: nested fixed-size lists."""
    if 0 in extents:  # of which Arrow would not know how many there are
        return pa.array(np.empty((num_rows, *extents)).tolist(), _list_type(leaves.type, len(extents)))
    for axis, extent in reversed(list(enumerate(extents))):
        leaves = pa.FixedSizeListArray.from_arrays(leaves, extent, mask=mask if axis == 0 else None)
    return leaves


def _list_type(leaf: pa.DataType, depth: int) -> pa.DataType:
    for _ in range(depth):
        leaf = pa.list_(leaf)
    return leaf


def _plain_tensors(array: pa.Array) -> pa.Array:
    """Return a column of Ray Data's tensors as nested lists, and any other as it is."""
    name = getattr(array.type, "extension_name", "")
    if name in FIXED:
        shape, storage = tuple(array.type.shape), array.storage
        if storage.null_count:  # null rows hold no values, where a fixed-size list has room for them
            return storage.cast(pa.list_(array.type.value_type, int(np.prod(shape))))
        return _nest(storage.flatten(), len(storage), shape) if shape else storage.flatten()
    return _ragged(array) if name == VARIABLE else array


def _ragged(array: pa.ExtensionArray) -> pa.Array:
    """Return tensors of several shapes as nested lists; the leaves are not copied."""
    data, shapes = (array.storage.field(name) for name in ("data", "shape"))
    depth = array.type.ndim
    is_null = array.storage.is_null().to_numpy(zero_copy_only=False)
    extents = np.zeros((len(array), depth), np.int64)
    extents[~is_null] = shapes.filter(array.storage.is_valid()).flatten().to_numpy().reshape(-1, depth)
    nested: pa.Array = data.filter(array.storage.is_valid()).flatten() if is_null.any() else data.flatten()
    for axis in reversed(range(depth)):
        lengths = np.repeat(extents[:, axis], extents[:, :axis].prod(axis=1))
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]))
        mask = pa.array(is_null) if axis == 0 and is_null.any() else None
        nested = pa.LargeListArray.from_arrays(offsets, nested, mask=mask)
    return nested


def to_numpy(column: pa.ChunkedArray | pa.Array) -> Array:
    """Return a column of predictions as an array, rows on its first axis.

    Null rows are NaN in floats; other columns that have some, and rows of several shapes, are arrays of objects.
    """
    array = column if isinstance(column, pa.Array) else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    extents, leaf = peel_type(array.type)
    is_valid = array.is_valid().to_numpy(zero_copy_only=False)
    if None not in extents and pa.types.is_primitive(leaf) and (is_valid.all() or pa.types.is_floating(leaf)):
        values = _dense(array if is_valid.all() else array.filter(pa.array(is_valid)))
        values = values.reshape(int(is_valid.sum()), *(n for n in extents if n is not None))
        if is_valid.all():
            return values
        filled = np.full((len(array), *values.shape[1:]), np.nan, values.dtype)
        filled[is_valid] = values
        return filled
    rows = np.empty(len(array), object)
    dtype = leaf.to_pandas_dtype() if pa.types.is_primitive(leaf) else object
    for i, row in enumerate(array.to_pylist()):
        rows[i] = np.array(row, dtype) if isinstance(row, list) else row
    return rows


def _dense(array: pa.Array) -> Array:
    """Return the leaves of fixed-size lists without nulls."""
    while not pa.types.is_primitive(array.type):
        array = array.storage if isinstance(array.type, pa.BaseExtensionType) else array.flatten()
    values: Array = array.to_numpy(zero_copy_only=False)
    return values
