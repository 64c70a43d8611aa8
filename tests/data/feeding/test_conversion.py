"""Values on their way from columns to tensors: fills, what is not copied, and one long property.

Examples by kind of column are in `test_binding`. The property reads design section 6 anew, row by row in Python, and
holds the whole way from a slice to its scored table to that: `convert_rows`, `score_batch` around a pure numpy
function, `assemble`.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import as_read

from engine.data.assembly import ScoredRows, assemble, output_schema
from engine.data.binding import FeedBinding, bind_feed
from engine.data.columns import InputSchema, resolve_column, resolve_feed
from engine.data.faults import Faults, Reason
from engine.data.feeding.conversion import FedRows, convert_rows
from engine.data.feeding.values import aligned_empty
from engine.data.output import bind_output
from engine.data.source import Slice
from engine.errors import DataError, SchemaError
from engine.model.tensor import Shape, TensorSpec, numpy_dtype
from engine.run.batches import score_batch

QUICK = settings(max_examples=200, deadline=None, derandomize=True, database=None)
Column = pa.Array | pa.ChunkedArray


def convert_table(
    table: pa.Table, text: str, dtype: str, shape: Shape, fills: dict[str, str] | None = None
) -> tuple[list[FedRows], Faults]:
    source = resolve_feed(InputSchema("in.parquet", table.schema, ()), text)
    return convert_rows([bind_feed(source, TensorSpec("inputs:0", dtype, shape), fills)], as_read(table))


def convert(column: Column, dtype: str, shape: Shape, fill: str | None = None) -> tuple[list[FedRows], Faults]:
    fills = None if fill is None else {"pixels": fill}
    return convert_table(pa.table({"pixels": column}), "pixels", dtype, shape, fills)


def feed(column: Column, dtype: str, shape: Shape, fill: str | None = None) -> np.ndarray:
    """The tensor of a column whose rows all have one shape and are all good."""
    groups, faults = convert(column, dtype, shape, fill)
    assert faults.in_order() == []
    (fed,) = groups
    assert fed.rows.tolist() == list(range(len(column)))
    return fed.arrays[0]


def reasons(faults: Faults) -> dict[int, str]:
    return {bad.row_index: bad.reason for bad in faults.in_order()}


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def through_parquet(column: pa.Array) -> pa.ChunkedArray:
    file = io.BytesIO()
    pq.write_table(pa.table({"pixels": column}), file)
    return pq.read_table(file).column("pixels")


def tensors(rows: Sequence[Any], value_type: pa.DataType, shape: list[int], order: list[int] | None = None) -> pa.Array:
    kind = pa.fixed_shape_tensor(value_type, shape, permutation=order)
    return pa.ExtensionArray.from_storage(kind, pa.array(rows, pa.list_(value_type, math.prod(shape))))


# --- fills


@pytest.mark.parametrize(
    ("column", "dtype", "shape", "fill", "expected"),
    [
        (pa.array([1.5, None]), "float32", (None,), "nan", [1.5, np.nan]),
        (pa.array([1, None]), "float32", (None,), "0.5", [1, 0.5]),
        (pa.array([1, None], pa.int8()), "float32", (None,), "1000", [1, 1000]),
        (pa.array([True, None]), "bool", (None,), "true", [True, True]),
        (pa.array([True, None]), "float32", (None,), "0.5", [1, 0.5]),
        (pa.array([1, None]), "complex64", (None,), "0.5", [1, 0.5]),
        (pa.array([[1, None], None, [2, 3]]), "float32", (None, 2), "0.5", [[1, 0.5], [0.5, 0.5], [2, 3]]),
        (pa.array([[1, None], None], pa.list_(pa.int64(), 2)), "int32", (None, 2), "7", [[1, 7], [7, 7]]),
        (pa.array([[1, None], None], pa.large_list(pa.int64())), "int32", (None, 1, 2), "7", [[[1, 7]], [[7, 7]]]),
        (
            pa.array([[[1, None]], None], pa.list_(pa.list_(pa.int64(), 2))),
            "float32",
            (None, 1, 2),
            "0.5",
            [[[1, 0.5]], [[0.5, 0.5]]],
        ),
        (
            tensors([[1, 2], None], pa.int32(), [1, 2], [1, 0]),
            "float32",
            (None, 2, 1),
            "0.5",
            [[[1], [2]], [[0.5], [0.5]]],
        ),
        (pa.array([b"ab", None]), "uint8", (None, 2), "7", [[97, 98], [7, 7]]),
        (pa.array([b"ab", None], pa.binary(2)), "int16", (None,), "7", [25185, 7]),
        (pa.array([b"ab", None], pa.binary_view()), "uint8", (None, 2), "7", [[97, 98], [7, 7]]),
        (pa.array([b"ab", None]).dictionary_encode(), "uint8", (None, 2), "7", [[97, 98], [7, 7]]),
        (pa.array(["a", None]), "string", (None,), "7", [b"a", b"7"]),
        (pa.array(["a", None], pa.string_view()), "string", (None,), "é", [b"a", "é".encode()]),
        (pa.array(["a", None]).dictionary_encode(), "string", (None,), "", [b"a", b""]),
        (pa.array([b"a", None], pa.binary(1)), "string", (None,), "unknown", [b"a", b"unknown"]),
        (pa.array([["a", None], None]), "string", (None, 2), "z", [[b"a", b"z"], [b"z", b"z"]]),
    ],
)
def test_a_fill_stands_in_for_nulls(column: pa.Array, dtype: str, shape: Shape, fill: str, expected: list[Any]) -> None:
    array = feed(column, dtype, shape, fill)
    np.testing.assert_array_equal(array, np.array(expected, object if dtype == "string" else dtype))


@pytest.mark.parametrize("fill", ["a", "ab"])
def test_a_null_row_of_lists_nested_otherwise_than_the_tensor_stays_bad(fill: str) -> None:
    groups, faults = convert(pa.array([[["a"]], None]), "string", (None, 1), fill)
    assert groups[0].rows.tolist() == [0]
    assert reasons(faults) == {1: Reason.NULL}  # text is no list of its characters


def test_a_number_that_the_column_cannot_hold_stands_in_as_it_is() -> None:
    assert feed(pa.array([1, None], pa.float16()), "float32", (None,), "1e10").tolist() == [1, np.float32(1e10)]
    assert feed(pa.array([1, None], pa.float32()), "float64", (None,), "1e300").tolist() == [1, 1e300]


def test_null_rows_of_bytes_of_one_length_are_filled_as_their_values_are() -> None:
    column = pa.array([[b"a", None], None], pa.list_(pa.binary(1)))
    assert feed(column, "string", (None, 2), "unknown").tolist() == [[b"a", b"unknown"], [b"unknown", b"unknown"]]


@pytest.mark.parametrize(("dtype", "shape"), [("bfloat16", (None, 1)), ("complex64", (None,))])
def test_raw_nulls_of_dtypes_that_arrow_lacks_are_filled(dtype: str, shape: Shape) -> None:
    row = np.array([3], numpy_dtype(dtype)).tobytes()
    array = feed(pa.array([row, None]), dtype, shape, "7")
    assert array.reshape(-1).astype(complex).tolist() == [3, 7]


@pytest.mark.parametrize(
    ("column", "shape"),
    [
        (pa.array([b"ab", None]), (None, None)),  # how many values a row would have is not known
        (pa.array([b"ab", None]), None),
        (pa.array([[b"ab", b"cd"], [b"ab", None]]), (None, None, None)),
        (pa.array([[b"ab", b"cd"], None]), (None, None, None)),
        (pa.array([[1, 2], None]), (None, None)),
        (pa.array([[1, 2], None]), None),
    ],
)
def test_a_null_of_unknown_extent_stays_a_bad_row(column: pa.Array, shape: Shape) -> None:
    groups, faults = convert(column, "uint8", shape, "7")
    assert groups[0].rows.tolist() == [0]
    assert reasons(faults) == {1: Reason.NULL}


def test_each_stacked_column_has_its_own_fill() -> None:
    table = pa.table({"a": [1, None, 3], "b": [None, 5.0, None], "c": pa.array([None, None, True])})
    (fed,), faults = convert_table(table, "a,b,c", "float32", (None, 3), {"a": "0.5", "c": "false"})
    assert fed.arrays[0].tolist() == [[0.5, 5, 0]]
    assert reasons(faults) == {0: Reason.NULL, 2: Reason.NULL}
    assert all("column 'b'" in bad.message for bad in faults.in_order())


def test_a_fill_that_the_tensor_cannot_hold_makes_a_bad_row() -> None:
    groups, faults = convert(pa.array([1, None]), "uint8", (None,), "-1")
    assert groups[0].arrays[0].tolist() == [1]
    assert reasons(faults) == {1: Reason.OVERFLOW}


# --- no copies


@pytest.mark.parametrize("dtype", ["float32", "uint8", "float64", "float16"])
@pytest.mark.parametrize("shape", [(None, 8, 8), (None, 64), (None, None, 8), None])
def test_a_fixed_size_list_is_fed_without_a_copy(dtype: str, shape: Shape) -> None:
    values = np.arange(64 * 100).astype(dtype)
    column = through_parquet(pa.FixedSizeListArray.from_arrays(pa.array(values), 64))
    (fed,), _ = convert(column, dtype, shape)
    memory = column.chunk(0).values.buffers()[1]
    width = values.itemsize * 64
    assert address(fed.arrays[0]) == memory.address
    for start, stop in ((0, 32), (32, 64), (96, 100)):
        (batch,) = fed.batch(start, stop)
        assert address(batch) == memory.address + start * width
        assert batch.flags.c_contiguous
        assert address(batch) % 64 == 0  # TensorFlow copies what is not
        np.testing.assert_array_equal(batch.reshape(-1), values[start * 64 : stop * 64])
        assert np.shares_memory(batch, np.frombuffer(memory, np.uint8))


@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary(), pa.binary(256)], ids=str)
@pytest.mark.parametrize("shape", [(None, 8, 8), (None, None), None])
def test_raw_bytes_are_fed_without_a_copy(binary: pa.DataType, shape: Shape) -> None:
    rows = [bytes([i]) * 256 for i in range(50)]
    column = through_parquet(pa.array(rows, binary))
    (fed,), _ = convert(column, "float32", shape)
    memory = column.chunk(0).buffers()[-1]
    for start, stop in ((0, 16), (16, 32), (48, 50), (0, 50)):
        (batch,) = fed.batch(start, stop)
        assert address(batch) == memory.address + start * 256
        assert address(batch) % 64 == 0
        assert batch.flags.c_contiguous


def test_a_column_of_tensors_is_fed_without_a_copy() -> None:
    column = through_parquet(tensors(np.arange(600.0).reshape(100, 6).tolist(), pa.float64(), [2, 3]))
    (fed,), _ = convert(column, "float64", (None, 2, 3))
    assert address(fed.arrays[0]) == column.chunk(0).storage.values.buffers()[1].address
    assert address(fed.batch(32, 64)[0]) == address(fed.arrays[0]) + 32 * 48


def test_numbers_are_fed_without_a_copy() -> None:
    column = through_parquet(pa.array(np.arange(100, dtype=np.float32)))
    (fed,), _ = convert(column, "float32", (None,))
    (batch,) = fed.batch(16, 32)
    assert address(batch) == column.chunk(0).buffers()[1].address + 64
    assert batch.tolist() == list(range(16, 32))


@pytest.mark.parametrize(
    ("column", "dtype", "shape", "width"),
    [
        (pa.FixedSizeListArray.from_arrays(pa.array(np.arange(400, dtype=np.float32)), 4), "float32", (None, 4), 16),
        (pa.array([bytes([i]) * 64 for i in range(100)]), "float32", (None, 16), 64),
        (pa.array([bytes([i]) * 64 for i in range(100)], pa.large_binary()), "float32", (None, 16), 64),
        (pa.array([bytes([i]) * 64 for i in range(100)], pa.binary(64)), "float32", (None, 16), 64),
        (pa.array(np.arange(100, dtype=np.int64)), "int64", (None,), 8),
        (pa.array(np.arange(400.0).reshape(100, 4).tolist(), pa.list_(pa.float64())), "float64", (None, 4), 32),
    ],
    ids=lambda each: str(each.type) if isinstance(each, pa.Array) else "",
)
def test_a_slice_of_a_column_is_a_view_as_well(column: pa.Array, dtype: str, shape: Shape, width: int) -> None:
    sliced = through_parquet(column).slice(10, 20)
    array = feed(sliced, dtype, shape)
    memory = sliced.chunk(0).buffers()[-1]
    assert address(array) == memory.address + 10 * width
    assert np.shares_memory(array, np.frombuffer(memory, np.uint8))
    np.testing.assert_array_equal(array, feed(column, dtype, shape)[10:30])


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "bfloat16"])
def test_a_cast_happens_once_a_slice_in_aligned_memory(dtype: str) -> None:
    (fed,), _ = convert(pa.array(np.arange(100)), dtype, (None,))
    (whole,), (second,) = fed.batch(0, 100), fed.batch(64, 96)
    assert address(whole) % 64 == 0
    assert address(second) == address(whole) + 64 * whole.itemsize
    assert np.shares_memory(whole, second)


def test_stacks_happen_once_a_slice_in_aligned_memory() -> None:
    table = pa.table({"a": np.arange(100.0), "b": np.arange(100), "c": np.arange(100) % 2 == 0})
    (fed,), _ = convert_table(table, "a,b,c", "float32", (None, 3))
    (whole,), (second,) = fed.batch(0, 100), fed.batch(16, 32)
    assert address(whole) % 64 == 0
    assert address(second) == address(whole) + 16 * 12
    assert whole[7].tolist() == [7, 7, 0]


def test_rows_that_stay_where_others_are_bad_lie_in_aligned_memory() -> None:
    column = pa.array([None if i == 3 else float(i) for i in range(100)])
    (fed,), faults = convert(column, "float64", (None,))
    assert len(faults) == 1
    assert address(fed.arrays[0]) % 64 == 0


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 9), max_size=3), st.sampled_from(["float32", "uint8", "float16", "bfloat16", "bool"]))
def test_memory_that_is_made_is_aligned(shape: list[int], dtype: str) -> None:
    array = aligned_empty(tuple(shape), numpy_dtype(dtype))
    assert array.shape == tuple(shape)
    assert array.dtype == numpy_dtype(dtype)
    assert array.flags.writeable
    assert array.flags.c_contiguous
    assert not array.size or address(array) % 64 == 0


# --- from a slice to its scored table, as a loop over rows has it


@dataclass(frozen=True)
class DrawnColumn:
    """A column as it was drawn: the Python rows, and what was made of them."""

    rows: list[Any]
    column: pa.ChunkedArray
    leaf: pa.DataType
    levels: tuple[int | None, ...]
    fill: str | None


@dataclass(frozen=True)
class DrawnFeed:
    """Columns under the names that they have in the table, and the tensor that they fill."""

    columns: dict[str, DrawnColumn]
    dtype: str
    row_shape: tuple[int | None, ...] | None

    @property
    def is_raw(self) -> bool:
        return self.dtype != "string" and "binary" in str(next(iter(self.columns.values())).leaf)


INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64", "bfloat16"]
NUMBERS = {
    "bool": ["bool", *INTEGERS, *FLOATS],
    **{name: [*INTEGERS, *FLOATS] for name in INTEGERS},
    **{name: FLOATS for name in FLOATS[:3]},
}
EDGES = [0, 1, -1, 127, 128, 255, 256, 65_504, 65_519, 65_520, 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, 2**63]
EXTREMES = [0.0, -0.5, math.nan, math.inf, -math.inf, 65_519.9, 65_520.0, 1e39, -1e39, 3.4e38]
RAW_DTYPES = ["uint8", "int16", "float32", "float64", "bfloat16"]
SHAPINGS = ["exact", "exact", "flat", "open", "open", "all open", "all open", "rank", "longer", "other"]
FAMILIES = ["numbers", "nested", "strings", "raw", "views", "dictionaries", "tensors", "stacked"]


def leaf_of(draw: st.DrawFn, family: str) -> pa.DataType:
    number = pa.from_numpy_dtype(np.dtype(draw(st.sampled_from([*NUMBERS]))))
    match family:
        case "strings":
            return draw(st.sampled_from([pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.binary(3)]))
        case "raw":
            return draw(st.sampled_from([pa.binary(), pa.large_binary(), pa.binary(8)]))
        case "views":
            return draw(st.sampled_from([pa.string_view(), pa.binary_view()]))
        case "dictionaries":
            kinds = [pa.string(), pa.binary()] if pa.types.is_float16(number) else [number, pa.string(), pa.binary()]
            return draw(st.sampled_from(kinds))  # pyarrow makes no dictionary of halves
    return number


def draw_value(rng: np.random.Generator, leaf: pa.DataType, raw_bytes: int | None, is_wild: bool) -> Any:
    if pa.types.is_boolean(leaf):
        return bool(rng.integers(2))
    if pa.types.is_integer(leaf):
        lowest, highest = np.iinfo(leaf.to_pandas_dtype()).min, np.iinfo(leaf.to_pandas_dtype()).max
        edges = [edge for edge in EDGES if lowest <= edge <= highest]
        return edges[rng.integers(len(edges))] if is_wild else int(rng.integers(100))
    if pa.types.is_floating(leaf):
        value = EXTREMES[rng.integers(len(EXTREMES))] if is_wild else float(rng.integers(100)) / 4
        with np.errstate(over="ignore"):
            return leaf.to_pandas_dtype()(value).item()
    if raw_bytes is not None:
        return rng.integers(0, 60, raw_bytes).astype(np.uint8).tobytes()
    if pa.types.is_fixed_size_binary(leaf):
        return rng.integers(0, 256, leaf.byte_width).astype(np.uint8).tobytes()
    text = ["", "a", "éß", "日本", "x" * 20][rng.integers(5)]
    return text.encode() if "binary" in str(leaf) else text


@st.composite
def drawn_columns(draw: st.DrawFn, num_rows: int, family: str, dtype: str | None) -> tuple[DrawnColumn, str, int]:
    """A column, the dtype of a tensor for it, and how many raw values most of its leaves hold."""
    leaf = leaf_of(draw, family)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype is None:
        is_bytes = "binary" in str(leaf)
        can_be_raw = family == "raw" or (is_bytes and family in ("views", "dictionaries"))
        if can_be_raw and (family == "raw" or draw(st.booleans())):
            dtype = draw(st.sampled_from(RAW_DTYPES))
        else:
            dtype = "string" if is_bytes or "string" in str(leaf) else draw(st.sampled_from(number_targets(leaf)))
    is_raw = dtype != "string" and "binary" in str(leaf)
    num_raw = draw(st.integers(0, 3)) if is_raw else 0
    if is_raw and pa.types.is_fixed_size_binary(leaf):
        num_raw = leaf.byte_width // numpy_dtype(dtype).itemsize
    depth = {"numbers": 0, "stacked": 0, "nested": draw(st.integers(1, 2)), "tensors": draw(st.integers(1, 3))}
    kinds = draw(st.lists(st.sampled_from(["list", "large", "fixed"]), max_size=2))
    if family in depth:
        kinds = [draw(st.sampled_from(["list", "large", "fixed"])) for _ in range(depth[family])]
    if family == "tensors":
        kinds = ["fixed"] * len(kinds)
    extents = [draw(st.integers(1 if family == "tensors" else 0, 3)) for _ in kinds]
    levels = tuple(n if kind == "fixed" else None for n, kind in zip(extents, kinds, strict=True))
    flaw, is_varied, is_wild = draw(st.sampled_from([0.1, 0.0])), draw(st.integers(0, 2)) < 2, draw(st.booleans())
    fill = None
    if draw(st.integers(0, 3)) == 0 and not (is_raw and levels):
        fill = "true" if pa.types.is_boolean(leaf) else "7"
        if dtype in FLOATS and not is_raw and draw(st.booleans()):
            fill, is_wild = "0.5", False

    def make(below: tuple[int | None, ...], wanted: Sequence[int]) -> Any:
        if rng.random() < flaw and (family != "tensors" or len(below) == len(levels)):
            return None
        if not below:
            raw_bytes = None
            if is_raw and not pa.types.is_fixed_size_binary(leaf):
                odd = rng.random() < flaw
                raw_bytes = int(rng.integers(9)) if odd else num_raw * numpy_dtype(dtype).itemsize
            return draw_value(rng, leaf, raw_bytes, is_wild and rng.random() < 0.3)
        length = below[0] if below[0] is not None else int(rng.integers(4)) if rng.random() < flaw else wanted[0]
        return [make(below[1:], wanted[1:]) for _ in range(length)]

    rows = []
    for _ in range(num_rows):
        wanted = [int(rng.integers(4)) if is_varied and n is None else m for n, m in zip(levels, extents, strict=True)]
        rows.append(make(levels, wanted))
    kind = pa.dictionary(pa.int8(), leaf) if family == "dictionaries" else leaf
    for name, n in zip(reversed(kinds), reversed(extents), strict=True):
        kind = pa.list_(kind, n) if name == "fixed" else pa.large_list(kind) if name == "large" else pa.list_(kind)
    order = list(draw(st.permutations(range(len(levels))))) if family == "tensors" else []
    cuts = sorted(draw(st.lists(st.integers(0, num_rows), max_size=2)))
    chunks = []
    for start, stop in zip([0, *cuts], [*cuts, num_rows], strict=True):
        before, after = (rows[: draw(st.integers(0, 2))] for _ in range(2))
        values = [*before, *rows[start:stop], *after]
        made = stored_tensors(values, leaf, extents, order) if order else pa.array(values, kind)
        chunks.append(made.slice(len(before), stop - start))
    column = pa.chunked_array(chunks, chunks[0].type)
    return DrawnColumn(rows, column, leaf, levels, fill), dtype, num_raw


def number_targets(leaf: pa.DataType) -> list[str]:
    return NUMBERS[np.dtype(leaf.to_pandas_dtype()).name]


def stored_tensors(rows: list[Any], leaf: pa.DataType, logical: list[int], order: list[int]) -> pa.Array:
    """Rows of logical extents, stored so that axis i of what is seen is axis order[i] of what is stored."""
    shape = [0] * len(order)
    for axis, stored in enumerate(order):
        shape[stored] = logical[axis]
    flat = []
    for row in rows:
        positions = np.arange(math.prod(logical)).reshape(logical).transpose(np.argsort(order)).reshape(-1)
        leaves = None if row is None else flat_values(row)
        flat.append(None if leaves is None else [leaves[i] for i in positions])
    return tensors(flat, leaf, shape, order)


def flat_values(row: Any) -> list[Any]:
    return [leaf for each in row for leaf in flat_values(each)] if isinstance(row, list) else [row]


@st.composite
def drawn_feeds(draw: st.DrawFn, num_rows: int, family: str, prefix: str) -> DrawnFeed:
    if family == "stacked":
        dtype = draw(st.sampled_from(["string", *FLOATS, "int32"]))
        names = [f"{prefix}{i}" for i in range(draw(st.integers(2, 4)))]
        columns = {}
        for name in names:
            kind = "strings" if dtype == "string" else "numbers"
            drawn, _, _ = draw(drawn_columns(num_rows, kind, dtype))
            if drawn.levels or (dtype != "string" and dtype not in number_targets(drawn.leaf)):
                values = [None if row is None else 1 for row in drawn.rows]
                leaf = pa.int16() if dtype != "string" else pa.string()
                values = values if dtype != "string" else [None if v is None else "a" for v in values]
                drawn = DrawnColumn(values, pa.chunked_array([pa.array(values, leaf)]), leaf, (), None)
            columns[name] = drawn
        shape = draw(st.sampled_from([(len(names),), (None,), None, (1, len(names))]))
        return DrawnFeed(columns, dtype, shape)
    drawn, dtype, num_raw = draw(drawn_columns(num_rows, family, None))
    extents = [n if n is not None else draw(st.integers(0, 3)) for n in drawn.levels]
    if drawn.rows and drawn.levels:  # most rows should fit
        extents = next((seen for row in drawn.rows if (seen := first_extents(row, len(extents))) is not None), extents)
    if dtype != "string" and "binary" in str(drawn.leaf):
        extents = [*extents, num_raw]
    shape: tuple[int | None, ...] | None = tuple(extents)
    match draw(st.sampled_from(SHAPINGS)):
        case "flat":
            shape = (math.prod(extents),)
        case "open" if extents:
            axis = draw(st.integers(0, len(extents) - 1))
            shape = tuple(None if i == axis else n for i, n in enumerate(extents))
        case "all open":
            shape = (None,) * len(extents)
        case "rank":
            shape = None
        case "longer":
            shape = (1, *extents)
        case "other":
            shape = tuple(draw(st.lists(st.sampled_from([None, 0, 1, 2, 3]), max_size=3)))
    return DrawnFeed({prefix: drawn}, dtype, shape)


def first_extents(row: Any, depth: int) -> list[int] | None:
    found = []
    for _ in range(depth):
        if not isinstance(row, list):
            return None
        found.append(len(row))
        row = row[0] if row else [] if len(found) < depth else None
    return found


def tensor_of_row(feed: DrawnFeed, row: int) -> np.ndarray | set[str]:
    """The row's tensor, or what is wrong with the row: section 6 of the design, one value after the other."""
    wrong: set[str] = set()
    values: list[Any] = []
    extents: tuple[int, ...] | None = ()
    for column in feed.columns.values():
        value = filled(feed, column, column.rows[row])
        extents = walk(value, column.levels, values, wrong)
        if feed.is_raw:
            extents = raw_extents(feed, values, extents, wrong)
    if len(feed.columns) > 1:
        extents = (len(feed.columns),)
    if extents is None or wrong:
        return wrong
    count = math.prod(extents)
    shape = feed.row_shape
    if shape is None or (
        len(shape) == len(extents) and all(n in (None, m) for n, m in zip(shape, extents, strict=True))
    ):
        shape = extents
    try:
        shape = np.empty(count, bool).reshape([-1 if n is None else n for n in shape]).shape
    except ValueError:  # other counts, or more than one extent to guess
        return {Reason.WRONG_BYTES, Reason.WRONG_LENGTH} if feed.is_raw else {Reason.WRONG_LENGTH}
    if feed.dtype == "string":
        made = np.empty(count, object)
        made[:] = [value.encode() if isinstance(value, str) else value for value in values]
        return made.reshape(shape)
    if feed.is_raw:
        return np.frombuffer(b"".join(values), numpy_dtype(feed.dtype), count).reshape(shape)
    leaves = [column.leaf for column in feed.columns.values()] if len(feed.columns) > 1 else [column.leaf] * count
    numbers = [number_in(feed.dtype, value, leaf) for value, leaf in zip(values, leaves, strict=True)]
    if any(number is None for number in numbers):
        return {Reason.OVERFLOW}
    return np.array(numbers, numpy_dtype(feed.dtype)).reshape(shape)


def filled(feed: DrawnFeed, column: DrawnColumn, value: Any) -> Any:
    """Null leaves as the fill; a null row as a row of fills where it is known how many there are, and how they nest."""
    if column.fill is None:
        return value
    numeric = {"true": True, "0.5": 0.5, "7": 7}[column.fill]
    fill = numeric
    if feed.dtype == "string":
        fill = column.fill if "string" in str(column.leaf) else column.fill.encode()
    elif feed.is_raw:
        if value is not None or feed.row_shape is None or None in feed.row_shape:
            return value
        return np.full(math.prod(n or 0 for n in feed.row_shape), numeric, numpy_dtype(feed.dtype)).tobytes()
    if value is None and column.levels:
        if feed.row_shape is None or None in feed.row_shape:
            return None
        shape = [n or 0 for n in feed.row_shape]
        if len(column.levels) not in (1, len(shape)):
            return None
        if len(column.levels) == 1:
            shape = [math.prod(shape)]
        row = np.full(shape, fill, object).tolist()
        return row if nests_as(row, column.levels) else None
    return with_leaves(value, len(column.levels), fill)


def nests_as(value: Any, levels: tuple[int | None, ...]) -> bool:
    if not isinstance(value, list) or not levels:
        return not isinstance(value, list) and not levels
    return levels[0] in (None, len(value)) and all(nests_as(each, levels[1:]) for each in value)


def with_leaves(value: Any, depth: int, fill: Any) -> Any:
    if depth == 0:
        return fill if value is None else value
    return None if value is None else [with_leaves(each, depth - 1, fill) for each in value]


def walk(value: Any, levels: tuple[int | None, ...], leaves: list[Any], wrong: set[str]) -> tuple[int, ...] | None:
    """Collect the leaves below `value`; return its extents."""
    if value is None:
        wrong.add(Reason.NULL)
        return None
    if not levels:
        leaves.append(value)
        return ()
    below = [walk(each, levels[1:], leaves, wrong) for each in value]
    known = [extents for extents in below if extents is not None]
    if len(set(known)) > 1:
        wrong.add(Reason.WRONG_LENGTH)
    return (len(value), *(known[0] if known else [n or 0 for n in levels[1:]]))


def raw_extents(
    feed: DrawnFeed, leaves: list[bytes], extents: tuple[int, ...] | None, wrong: set[str]
) -> tuple[int, ...] | None:
    width = numpy_dtype(feed.dtype).itemsize
    lengths = {len(leaf) for leaf in leaves} or {0}
    if len(lengths) > 1 or any(length % width for length in lengths):
        wrong.add(Reason.WRONG_BYTES)
    return None if extents is None else (*extents, lengths.pop() // width)


def number_in(dtype: str, value: Any, leaf: pa.DataType) -> Any:
    """The value in another dtype; None if that cannot hold it."""
    target = numpy_dtype(dtype)
    if target.kind in "iu":
        return target.type(value) if np.iinfo(target).min <= int(value) <= np.iinfo(target).max else None
    source = np.float64 if isinstance(value, float) else leaf.to_pandas_dtype()
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.array(source(value)).astype(target)[()]
    return None if target.kind != "b" and np.isinf(cast) and not np.isinf(float(value)) else cast


def digest(value: Any) -> bytes:
    """All that there is to a tensor: dtype, shape and values; one NaN is like another."""
    array = np.asarray(value, object) if isinstance(value, bytes) else np.asarray(value)
    head = f"{array.dtype.name} {array.shape} ".encode()
    if array.dtype == object:
        return head + repr(array.reshape(-1).tolist()).encode()
    if array.dtype.kind in "fV":
        with np.errstate(invalid="ignore"):  # bfloat16 converts its signalling NaNs to ask
            array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    return head + array.tobytes()


def score_digests(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A graph in numpy: a digest of each row, a list as long as the row has values; refuses every seventh id."""
    ids, fed = arrays[0], arrays[1:]
    if (ids % 7 == 0).any():
        raise DataError("no sevens", "InvalidArgument")
    made = np.empty(len(ids), object)
    made[:] = [b"; ".join(digest(array[i]) for array in fed) for i in range(len(ids))]
    sizes = math.prod(fed[0].shape[1:])
    return [made, np.repeat(ids, sizes).reshape(len(ids), sizes)]


def in_struct(name: str, drawn: DrawnColumn) -> pa.ChunkedArray:
    """The column as a field of structs; where it is null the struct may be as well."""
    column = drawn.column.combine_chunks()
    mask = pa.array([row is None and i % 2 == 0 for i, row in enumerate(drawn.rows)], pa.bool_())
    return pa.chunked_array([pa.StructArray.from_arrays([mask, column], ["other", name], mask=mask)])


@st.composite
def slices(draw: st.DrawFn, family: str) -> tuple[pa.Table, list[DrawnFeed], dict[str, str]]:
    """A table, the feeds, and under which path each of their columns lies in it."""
    num_rows = draw(st.sampled_from([6, 9, 3, 1, 0]))
    feeds = [draw(drawn_feeds(num_rows, family, "a"))]
    if draw(st.booleans()):
        feeds.append(draw(drawn_feeds(num_rows, draw(st.sampled_from(["numbers", "nested"])), "b")))
    ids = draw(st.permutations(range(1, num_rows + 1)))
    columns: dict[str, Any] = {"id": pa.array(ids, pa.int64())}
    paths = {}
    for feed in feeds:
        for name, drawn in feed.columns.items():
            is_field = family != "tensors" and num_rows and draw(st.integers(0, 3)) == 0
            columns[f"s_{name}" if is_field else name] = in_struct(name, drawn) if is_field else drawn.column
            paths[name] = f"s_{name}.{name}" if is_field else name
    return pa.table(columns), feeds, paths


@pytest.mark.parametrize("family", FAMILIES)
@QUICK
@given(data=st.data(), step=st.integers(1, 5))
def test_a_slice_is_scored_as_a_loop_over_its_rows_would(family: str, data: st.DataObject, step: int) -> None:
    table, feeds, paths = data.draw(slices(family))
    ids = table.column("id").to_pylist()
    if any(always_misfits(feed) for feed in feeds):
        with pytest.raises(SchemaError, match="(holds|names) .* where .* takes"):
            bind_all(table, feeds, paths)
        return
    bindings = bind_all(table, feeds, paths)
    good: dict[int, bytes] = {}
    bad: dict[int, set[str]] = {}
    sizes: dict[int, int] = {}
    for i in range(len(table)):
        made = [tensor_of_row(feed, i) for feed in feeds]
        wrong = set().union(*(each for each in made if isinstance(each, set)))
        if any(isinstance(each, set) for each in made):
            bad[i] = wrong
        elif ids[i] % 7 == 0:
            bad[i] = {"InvalidArgument"}
        else:
            good[i] = b"; ".join(digest(each) for each in made)
            sizes[i] = made[0].size

    groups, faults = convert_rows(bindings, as_read(table))
    scored: list[ScoredRows] = []
    for fed in groups:
        assert fed.rows.tolist() == sorted(fed.rows.tolist())
        assert [len(array) for array in fed.arrays] == [len(fed.rows)] * len(bindings)
        for start in range(0, len(fed.rows), step):
            scored += score_batch(score_digests, fed, range(start, min(start + step, len(fed.rows))), faults)

    found = reasons(faults)
    assert sorted(found) == sorted(bad)
    assert [i for i in found if found[i] not in bad[i]] == []
    assert sorted(i for each in scored for i in each.rows.tolist()) == sorted(good)
    keep = [resolve_column(InputSchema("in.parquet", table.schema, ()), "id", "--keep")]
    outputs = [
        bind_output(TensorSpec("digest:0", "string", (None,)), "digest"),
        bind_output(TensorSpec("sizes:0", "int64", (None, None)), "sizes"),
    ]
    read = Slice(table, "/data/in.parquet", "in.parquet", np.arange(len(table)) + 100, len(table))
    made = assemble(output_schema(keep, outputs, has_provenance=True), keep, outputs, read, scored)
    made.validate(full=True)
    assert made.column("id").to_pylist() == [ids[i] for i in sorted(good)]
    assert made.column("digest").to_pylist() == [good[i] for i in sorted(good)]
    assert made.column("sizes").to_pylist() == [[ids[i]] * sizes[i] for i in sorted(good)]
    assert made.column("_row").to_pylist() == [i + 100 for i in sorted(good)]


def bind_all(table: pa.Table, feeds: Sequence[DrawnFeed], paths: dict[str, str]) -> list[FeedBinding]:
    columns = InputSchema("in.parquet", table.schema, ())
    bindings = [bind_feed(resolve_feed(columns, "id"), TensorSpec("id:0", "int64", (None,)))]
    for i, feed in enumerate(feeds):
        source = resolve_feed(columns, ",".join(paths[name] for name in feed.columns))
        shape = None if feed.row_shape is None else (None, *feed.row_shape)
        fills = {paths[name]: drawn.fill for name, drawn in feed.columns.items() if drawn.fill is not None}
        bindings.append(bind_feed(source, TensorSpec(f"feed{i}:0", feed.dtype, shape), fills))
    return bindings


def always_misfits(feed: DrawnFeed) -> bool:
    """Whether the column's type alone fixes a number of values that the tensor does not take."""
    if feed.row_shape is None or None in feed.row_shape:
        return False
    takes = math.prod(n or 0 for n in feed.row_shape)
    if len(feed.columns) > 1:
        return takes != len(feed.columns)
    (column,) = feed.columns.values()
    if None in column.levels:
        return False
    holds = math.prod(n or 0 for n in column.levels)
    if not feed.is_raw:
        return takes != holds
    width = numpy_dtype(feed.dtype).itemsize
    return pa.types.is_fixed_size_binary(column.leaf) and takes * width != holds * column.leaf.byte_width


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[float(i), 0.5] if i != 40 else None for i in range(100)], pa.list_(pa.float32(), 2)),
        pa.array([float(i) if i != 40 else None for i in range(100)], pa.float32()),
        pa.array([[float(i), 0.5] if i != 40 else [float(i), None] for i in range(100)], pa.list_(pa.float32(), 2)),
    ],
    ids=["null rows", "null numbers", "null elements"],
)
def test_a_bad_row_costs_a_copy_of_its_batch_alone(column: pa.Array) -> None:
    shape = (None, 2) if pa.types.is_nested(column.type) else (None,)
    (fed,), faults = convert(column, "float32", shape)
    assert reasons(faults) == {40: "Null"}
    data = np.frombuffer(column.buffers()[-1], np.uint8)
    batches = {start: fed.batch(start, min(start + 16, 99))[0] for start in range(0, 99, 16)}
    assert [start for start, batch in batches.items() if not np.shares_memory(batch, data)] == [32]
    found = np.concatenate([batch.reshape(len(batch), -1)[:, 0] for batch in batches.values()])
    assert found.tolist() == [float(i) for i in range(100) if i != 40]
