"""Turns the rows of bound columns into the arrays that a session takes, and tells the rows that cannot be.

Pure and in memory. A column without nulls whose values lie one after the other (fixed-size lists, raw bytes,
numbers) becomes a view of Arrow's memory; casts and stacks are done once a slice. Start at `convert_rows`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine.data.binding import FeedBinding, fit_extents, misfit_text
from engine.data.faults import Array, Faults, Reason
from engine.data.feeding.layout import Layout, flat_leaves, lying_leaves, measure_layout, plain
from engine.data.feeding.values import aligned_empty, cast_numbers, read_raw, read_strings, stack_columns
from engine.data.leaves import is_raw, peel_type, retype_leaves
from engine.model.tensor import numpy_dtype


@dataclass(frozen=True, slots=True)
class FedTensor:
    """The rows of one feed."""

    array: Array
    """Rows of the tensor, others among them."""
    index: Array
    """For each row that is meant, its position in `array`, ascending: int64 [n]."""

    def batch(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop`, without a copy where they lie one after the other."""
        index = self.index[start:stop]
        if len(index) and index[-1] - index[0] == len(index) - 1:
            return self.array[index[0] : index[-1] + 1]
        if self.array.dtype.hasobject:
            return self.array[index]
        taken = aligned_empty((len(index), *self.array.shape[1:]), self.array.dtype)
        return np.take(self.array, index, axis=0, out=taken, mode="clip")  # with `raise`, numpy would buffer it


@dataclass(frozen=True, slots=True)
class FedRows:
    """Rows of a slice whose tensors have one shape, ready to be fed."""

    rows: Array
    """Positions in the slice, ascending: int64 [n]."""
    tensors: tuple[FedTensor, ...]
    """Their tensors, one a feed."""

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All rows of every feed, [n, ...]."""
        return tuple(tensor.batch(0, len(self.rows)) for tensor in self.tensors)

    def batch(self, start: int, stop: int) -> list[Array]:
        """Return rows `start` to `stop` of every feed; what is copied is no more than these."""
        return [tensor.batch(start, stop) for tensor in self.tensors]


def convert_rows(feeds: Sequence[FeedBinding], table: pa.Table) -> tuple[list[FedRows], Faults]:
    """Convert the fed columns of a slice.

    Rows that cannot become their tensors are left out, with the reason. Rows whose tensors differ in shape, where the
    graph leaves that open, come in groups of one shape each; every other row is in exactly one group.

    Args:
        feeds: the bound columns.
        table: the slice.

    Returns:
        The rows in groups, and the bad rows of the slice.
    """
    faults = Faults(len(table))
    columns = [_fed_columns(feed, table) for feed in feeds]
    layouts = [_measure(feed, arrays, faults) for feed, arrays in zip(feeds, columns, strict=True)]
    # Values that lie one after the other, bad rows among them, are converted as they lie: no slice is copied for those.
    whole = [
        _convert(feed, arrays, layout.common, faults, is_whole=True) if _lies_whole(feed, arrays, layout) else None
        for feed, arrays, layout in zip(feeds, columns, layouts, strict=True)
    ]
    groups: list[FedRows] = []
    for rows in _group_rows(layouts, faults):
        late = Faults(len(rows))
        tensors = []
        for feed, arrays, layout, array in zip(feeds, columns, layouts, whole, strict=True):
            if array is not None:
                tensors.append(FedTensor(array, rows))
            else:
                taken = [_take(each, rows) for each in arrays]
                extents = layout.of_row(int(rows[0]))
                tensors.append(FedTensor(_convert(feed, taken, extents, late), np.arange(len(rows))))
        faults.extend(late.in_order(), rows)
        good = late.good_rows() if len(late) else slice(None)
        if len(rows[good]):
            groups.append(FedRows(rows[good], tuple(FedTensor(each.array, each.index[good]) for each in tensors)))
    return groups, faults


def _lies_whole(feed: FeedBinding, arrays: Sequence[pa.Array], layout: Layout) -> bool:
    """Whether every row, be it bad, has its place among the values: all but lists and bytes of any length."""
    leaf = peel_type(arrays[0].type)[1]
    is_varying = is_raw(leaf, feed.tensor.dtype) and not pa.types.is_fixed_size_binary(leaf)
    return layout.extents is None and not is_varying and fit_extents(feed.row_shape, layout.common) is not None


def _fed_columns(feed: FeedBinding, table: pa.Table) -> list[pa.Array]:
    """Return the columns of one feed, each in one piece, as plain lists and leaves, their null rows filled."""
    filled = []
    for path, fill in zip(feed.source.columns, feed.fills, strict=True):
        column = path.of(table)
        array = plain(column.chunk(0) if column.num_chunks == 1 else column.combine_chunks())
        filled.append(array if fill is None or not array.null_count else _fill_rows(feed, array, fill))
    return filled


def _fill_rows(feed: FeedBinding, array: pa.Array, fill: pa.Scalar) -> pa.Array:
    """Put whole rows of `fill` where rows are null; nulls inside lists are filled as leaves."""
    shape = feed.row_shape
    is_known = shape is not None and None not in shape
    if is_raw(array.type, feed.tensor.dtype):
        if not is_known or shape is None:
            return array
        dtype = numpy_dtype(str(feed.tensor.dtype))
        row = np.full([n for n in shape if n is not None], fill.as_py(), dtype).tobytes()
        return array.fill_null(pa.scalar(row, array.type))
    extents, leaf = peel_type(array.type)
    known = [n for n in shape or () if n is not None]
    if not is_known or len(extents) not in (1, len(known)) or is_raw(leaf, feed.tensor.dtype):
        return array  # a leaf is filled once it is flat; lists nested otherwise than the tensor stay null
    row = np.full([math.prod(known)] if len(extents) == 1 else known, fill.as_py(), object).tolist()
    if leaf != fill.type:  # a fraction among integers; text longer than a leaf of fixed size
        array = array.cast(retype_leaves(array.type, fill.type), safe=False)
    try:
        return array.fill_null(pa.scalar(row, array.type))
    except (pa.ArrowException, TypeError, ValueError):  # fixed-size lists of other extents than the tensor's
        return array


def _measure(feed: FeedBinding, arrays: Sequence[pa.Array], faults: Faults) -> Layout:
    """Find the extents of every row of one feed; rows that cannot have the tensor's are noted as bad."""
    layouts = [
        measure_layout(feed, str(path), array, faults, is_filled=fill is not None)
        for path, array, fill in zip(feed.source.columns, arrays, feed.fills, strict=True)
    ]
    layout = Layout((len(layouts),), None) if feed.source.is_stacked else layouts[0]
    for extents, rows in layout.distinct(len(arrays[0])):
        if fit_extents(feed.row_shape, extents) is None:
            is_bytes = is_raw(arrays[0].type, feed.tensor.dtype)
            reason = Reason.WRONG_BYTES if is_bytes else Reason.WRONG_LENGTH
            faults.add(reason, rows, f"column {feed.column!r}: {misfit_text(feed, extents)}")
    return layout


def _group_rows(layouts: Sequence[Layout], faults: Faults) -> list[Array]:
    """Return the positions of the good rows, those of one shape together, ascending within each group."""
    good = faults.good_rows()
    keys = [layout.extents[good] for layout in layouts if layout.extents is not None]
    if not len(good):
        return []
    if not keys or all((key == key[0]).all() for key in keys):
        return [good]
    _, group = np.unique(np.concatenate(keys, axis=1), axis=0, return_inverse=True)
    order = np.argsort(group.reshape(-1), kind="stable")
    return np.split(good[order], np.cumsum(np.bincount(group.reshape(-1)))[:-1])


def _take(array: pa.Array, rows: Array) -> pa.Array:
    return array if len(rows) == len(array) else array.take(pa.array(rows))


def _convert(
    feed: FeedBinding, arrays: Sequence[pa.Array], extents: tuple[int, ...], faults: Faults, is_whole: bool = False
) -> Array:
    """Convert columns whose rows all have `extents`; values out of the tensor's range are noted as bad rows.

    Where the column `is_whole`, with its null rows, what these become means nothing.
    """
    num_rows, dtype = len(arrays[0]), feed.tensor.dtype
    flatten = lying_leaves if is_whole else flat_leaves
    leaves = [flatten(array, fill) for array, fill in zip(arrays, feed.fills, strict=True)]
    if dtype == "string":
        flat = (
            np.stack([read_strings(each) for each in leaves], axis=-1) if len(leaves) > 1 else read_strings(leaves[0])
        )
    elif is_raw(leaves[0].type, dtype):
        flat = read_raw(leaves[0], numpy_dtype(str(dtype)))
    else:
        target = numpy_dtype(str(dtype))
        flat, bad = stack_columns(leaves, target) if len(leaves) > 1 else cast_numbers(leaves[0], target)
        if len(bad):
            _note_overflows(feed, leaves, bad, faults)
    shape = fit_extents(feed.row_shape, extents) or ()
    return flat.reshape(num_rows, *shape)


def _note_overflows(feed: FeedBinding, leaves: Sequence[pa.Array], bad: Array, faults: Faults) -> None:
    """Note the rows of the values at the flat positions `bad`, in rows x columns where columns are stacked."""
    num_columns, num_rows = len(leaves), faults.num_rows
    per_row = max(1, len(leaves[0]) // max(1, num_rows))
    rows = bad // (num_columns * per_row)
    first = np.unique(rows, return_index=True)[1]
    messages = []
    for position in bad[first].tolist():
        value = leaves[position % num_columns][position // num_columns].as_py()
        name = str(feed.source.columns[position % num_columns])
        messages.append(f"column {name!r}: {value} overflows {feed.tensor.dtype} of {feed.tensor}")
    faults.add(Reason.OVERFLOW, rows[first], messages)
