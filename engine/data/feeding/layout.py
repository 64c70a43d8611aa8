"""How the values of a column lie: lists within rows, their extents, and the leaves one after the other.

Pure. Finds the rows that are null, or no rectangle of values, by vectorised checks. Start at `measure_layout`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.data.binding import FeedBinding
from engine.data.faults import Array, Faults, Reason
from engine.data.leaves import is_binary, is_raw, is_text
from engine.model.tensor import numpy_dtype

# Null lists up to which it is faster to look at each than to copy all others.
MAX_NULL_LISTS = 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """Extents of the rows of one feed."""

    common: tuple[int, ...]
    """Extents that all rows have; meant only where `extents` is None."""
    extents: Array | None
    """Extents row by row, int64 [rows, levels]; None where all rows have the same."""

    def of_row(self, row: int) -> tuple[int, ...]:
        """Return the extents of one row."""
        return self.common if self.extents is None else tuple(self.extents[row].tolist())

    def distinct(self, num_rows: int) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Yield each combination of extents with the rows that have it."""
        if self.extents is None:
            yield self.common, np.arange(num_rows)
        elif num_rows and (self.extents == self.extents[0]).all():
            yield self.of_row(0), np.arange(num_rows)
        elif num_rows:
            kinds, kind = np.unique(self.extents, axis=0, return_inverse=True)
            for i in range(len(kinds)):
                yield tuple(kinds[i].tolist()), np.flatnonzero(kind.reshape(-1) == i)


def plain(array: pa.Array) -> pa.Array:
    """Return `array` without its outer dictionary, extension or view type; a permuted tensor in its logical order."""
    while not pa.types.is_primitive(array.type):
        if isinstance(array.type, pa.FixedShapeTensorType):
            array = _plain_tensor(array)
        elif isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        elif pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        elif pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type):
            array = array.cast(pa.large_binary())
        else:
            break
    return array


def _plain_tensor(array: pa.FixedShapeTensorArray) -> pa.Array:
    """Return a column of tensors as nested fixed-size lists."""
    shape, order = array.type.shape, array.type.permutation or list(range(len(array.type.shape)))
    storage = array.storage
    size = storage.type.list_size
    values = storage.values.slice(storage.offset * size, len(storage) * size)
    if list(order) != sorted(order):
        positions = np.arange(len(values)).reshape(len(storage), *shape)
        values = values.take(pa.array(positions.transpose(0, *(axis + 1 for axis in order)).reshape(-1)))
    logical = [shape[axis] for axis in order]
    if not logical:
        return pc.list_element(storage, 0)
    for extent in reversed(logical[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, extent)
    mask = storage.is_null() if storage.null_count else None
    return pa.FixedSizeListArray.from_arrays(values, logical[0], mask=mask)


class _Owners:
    """The row that each element of a nested column belongs to; worked out only where something is at fault."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._steps: list[Array | int] = []

    def descend(self, lengths: Array | int) -> None:
        self._steps.append(lengths)

    @property
    def is_top(self) -> bool:
        return not self._steps

    def rows(self) -> Array:
        rows = np.arange(self._num_rows)
        for lengths in self._steps:
            rows = np.repeat(rows, lengths)
        return rows

    def extents(self, lengths: Array) -> tuple[Array, Array]:
        """Return the length that the elements of each row have, and the rows whose elements differ in it."""
        if self.is_top:
            return lengths, np.empty(0, np.int64)
        rows = self.rows()
        extents = np.zeros(self._num_rows, np.int64)  # of a row without elements nothing is known, and nothing asked
        extents[rows[::-1]] = lengths[::-1]  # the first element of a row is written last, and stays
        return extents, np.unique(rows[lengths != extents[rows]])


def measure_layout(feed: FeedBinding, name: str, array: pa.Array, faults: Faults, is_filled: bool) -> Layout:
    """Find the extents of every row of one column; null rows and rows that are no rectangle are noted as bad.

    Args:
        feed: the binding, whose tensor says whether binary leaves are raw values.
        name: the column, for messages.
        array: the column as `plain` gives it.
        faults: takes the bad rows.
        is_filled: whether null leaves have a value that stands in for them; raw bytes have it put in already.
    """
    if pa.types.is_primitive(array.type) and not array.null_count:
        return Layout((), None)
    owners, level, levels = _Owners(len(array)), plain(array), list[Array | int]()
    while is_list(level):
        _note_nulls(feed, name, level, owners, faults)
        is_fixed = pa.types.is_fixed_size_list(level.type)
        if is_fixed and not level.null_count:
            levels.append(level.type.list_size)
            owners.descend(level.type.list_size)
        else:
            lengths = pc.list_value_length(level).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
            if is_fixed:  # `flatten` leaves the values of null lists out
                lengths = np.where(level.is_null().to_numpy(zero_copy_only=False), 0, lengths)
            extents, uneven = owners.extents(lengths)
            faults.add(Reason.WRONG_LENGTH, uneven, f"column {name!r}: lists of different lengths inside one row")
            levels.append(level.type.list_size if is_fixed else extents)
            owners.descend(lengths)
        if is_fixed and level.null_count and _is_sound(level, feed.tensor.dtype):
            level = level.values.slice(0, 0)  # nothing needs to be copied to find that all is well below
            break
        level = plain(level.flatten())
    is_bytes = is_raw(level.type, feed.tensor.dtype)
    if is_bytes or not is_filled:
        _note_nulls(feed, name, level, owners, faults)
    if is_bytes:
        levels.append(_measure_raw(feed, name, level, owners, faults))
    if all(isinstance(each, int) for each in levels):
        return Layout(tuple(each for each in levels if isinstance(each, int)), None)
    full = [np.full(len(array), each, np.int64) if isinstance(each, int) else each for each in levels]
    return Layout((), np.stack(full, axis=1))


def _is_sound(level: pa.FixedSizeListArray, dtype: str | None) -> bool:
    """Whether below these lists, few of which are null, are but numbers or strings, and none is null in the others."""
    size, leaf = level.type.list_size, level.type.value_type
    is_plain = pa.types.is_primitive(leaf) or is_text(leaf) or (is_binary(leaf) and not is_raw(leaf, dtype))
    if not is_plain or level.null_count > MAX_NULL_LISTS:
        return False
    values = level.values.slice(level.offset * size, len(level) * size)
    null_rows = np.flatnonzero(level.is_null().to_numpy(zero_copy_only=False)).tolist()
    # Parquet's reader marks the elements of a null list as null as well.
    return bool(values.null_count == sum(values.slice(row * size, size).null_count for row in null_rows))


def is_list(array: pa.Array) -> bool:
    """Whether the elements of `array` are lists."""
    return isinstance(array.type, (pa.ListType, pa.LargeListType, pa.FixedSizeListType))


def _note_nulls(feed: FeedBinding, name: str, level: pa.Array, owners: _Owners, faults: Faults) -> None:
    if level.null_count:
        rows = np.unique(owners.rows()[level.is_null().to_numpy(zero_copy_only=False)])
        faults.add(Reason.NULL, rows, f"column {name!r}: a null where {feed.tensor} takes a value")


def _measure_raw(feed: FeedBinding, name: str, level: pa.Array, owners: _Owners, faults: Faults) -> Array | int:
    """Return how many values each row's leaves of raw bytes hold."""
    width = numpy_dtype(str(feed.tensor.dtype)).itemsize
    lengths = pc.binary_length(level).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if owners.is_top and not feed.has_open_shape:
        expected = width * math.prod(n for n in feed.row_shape or () if n is not None)
        odd = np.flatnonzero(lengths != expected)
        messages = [
            f"column {name!r}: {found} bytes where {feed.tensor} takes {expected}" for found in lengths[odd].tolist()
        ]
        faults.add(Reason.WRONG_BYTES, odd, messages)
        return expected // width
    extents, uneven = owners.extents(lengths)
    faults.add(Reason.WRONG_BYTES, uneven, f"column {name!r}: different numbers of bytes inside one row")
    odd = np.flatnonzero(extents % width)
    whole = f"are no whole number of {feed.tensor.dtype} for {feed.tensor}"
    faults.add(Reason.WRONG_BYTES, odd, [f"column {name!r}: {found} bytes {whole}" for found in extents[odd].tolist()])
    return extents // width


def flat_leaves(array: pa.Array, fill: pa.Scalar | None) -> pa.Array:
    """Return all leaves of a column one after the other, with `fill` where they are null."""
    while is_list(array := plain(array)):
        array = array.flatten()
    return _fill_leaves(array, fill)


def lying_leaves(array: pa.Array, fill: pa.Scalar | None) -> pa.Array:
    """Return the leaves of fixed-size lists as they lie, those of null lists among them; numbers are not null then."""
    while is_list(array := plain(array)):
        size = array.type.list_size
        array = array.values.slice(array.offset * size, len(array) * size)
    array = _fill_leaves(array, fill)
    if array.null_count and pa.types.is_primitive(array.type):
        buffers = [None, *array.buffers()[1:]]
        array = pa.Array.from_buffers(array.type, len(array), buffers, offset=array.offset)
    return array


def _fill_leaves(array: pa.Array, fill: pa.Scalar | None) -> pa.Array:
    if fill is None or not array.null_count:
        return array
    if not pa.types.is_primitive(array.type):
        is_bytes = is_binary(array.type)
        array = array.cast(pa.large_binary() if is_bytes else pa.large_string())
        fill = fill.cast(array.type)
    elif fill.type != array.type:  # a fraction among integers
        array = array.cast(fill.type, safe=False)
    return array.fill_null(fill)
