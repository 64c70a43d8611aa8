import io
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.binding import bind_feed
from engine.data.conversion import FeedColumn
from engine.errors import DataError, SchemaError
from engine.model.tensor import TensorSpec

QUICK = settings(max_examples=150, deadline=None, derandomize=True, database=None)
Column = pa.Array | pa.ChunkedArray


def bind(column: Column, dtype: str, shape: tuple[int | None, ...] | None) -> FeedColumn:
    binding = bind_feed(pa.field("pixels", column.type), TensorSpec("inputs:0", dtype, shape))
    return FeedColumn(binding, column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column]))


def feed(column: Column, dtype: str, shape: tuple[int | None, ...] | None) -> np.ndarray:
    return bind(column, dtype, shape).batch(0, len(column))


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def through_parquet(column: pa.Array) -> pa.ChunkedArray:
    file = io.BytesIO()
    pq.write_table(pa.table({"pixels": column}), file)
    return pq.read_table(file).column("pixels")


INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.mark.parametrize("dtype", ["bool", *INTEGERS, "float16", "float32", "float64"])
def test_numbers_of_the_tensors_own_dtype(dtype: str) -> None:
    values = np.array([0, 1, 1, 0]).astype(dtype)
    batch = feed(pa.array(values), dtype, (None,))
    assert batch.dtype == dtype
    assert batch.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("bool", "uint8"),
        ("bool", "float32"),
        ("uint8", "int32"),
        ("uint8", "float32"),
        ("int64", "int32"),
        ("int64", "uint8"),
        ("uint64", "int64"),
        ("int64", "float16"),
        ("int64", "float32"),
        ("float16", "float32"),
        ("float32", "float64"),
        ("float64", "float32"),
        ("float64", "float16"),
    ],
)
def test_casts_that_happen_by_themselves(source: str, target: str) -> None:
    values = np.array([1, 0, 1]).astype(source)
    batch = feed(pa.array(values), target, (None,))
    assert batch.dtype == target
    assert batch.tolist() == values.astype(target).tolist()


def test_nan_and_infinity_are_values_not_overflows() -> None:
    batch = feed(pa.array([np.nan, np.inf, -np.inf], pa.float64()), "float32", (None,))
    np.testing.assert_array_equal(batch, np.array([np.nan, np.inf, -np.inf], np.float32))


@pytest.mark.parametrize(
    ("column", "target", "row"),
    [
        (pa.array([0, 2**31 - 1, 2**31]), "int32", 2),
        (pa.array([0, -(2**31), -(2**31) - 1]), "int32", 2),
        (pa.array([0, -1]), "uint8", 1),
        (pa.array([-1], pa.int8()), "uint64", 0),  # wraps to the largest uint64 and back to -1
        (pa.array([5, 2**63], pa.uint64()), "int64", 1),
        (pa.array([2**31], pa.uint32()), "int32", 0),
        (pa.array([1.0, 1e39]), "float32", 1),
        (pa.array([1.0, np.inf, -1e39]), "float32", 2),  # infinity stays, -1e39 does not
        (pa.array([1, 70_000]), "float16", 1),
        (pa.array([[0, 1], [2, 2**40]], pa.list_(pa.int64(), 2)), "int32", 1),  # the row, not the value
        (pa.array([[0, 1], [2, 3], [2**40, 3]], pa.list_(pa.int64())), "int32", 2),
    ],
)
def test_an_overflow_is_a_bad_row(column: pa.Array, target: str, row: int) -> None:
    extents = () if not pa.types.is_nested(column.type) else (2,)
    with pytest.raises(DataError, match=rf"'pixels': .* overflows {target} of inputs:0") as caught:
        feed(column, target, (None, *extents))
    assert caught.value.row_index == row


def test_an_overflow_into_complex_is_a_bad_row() -> None:
    with pytest.raises(DataError, match="overflows") as caught:
        feed(pa.array([1.0, 1e300]), "complex64", (None,))
    assert caught.value.row_index == 1


@pytest.mark.parametrize(
    "row_type",
    [
        pa.list_(pa.float32(), 6),
        pa.list_(pa.float32()),
        pa.large_list(pa.float32()),
        pa.list_(pa.list_(pa.float32(), 3), 2),
        pa.list_(pa.list_(pa.float32(), 3)),
        pa.list_(pa.list_(pa.float32()), 2),
        pa.large_list(pa.list_(pa.float32())),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(None, 2, 3), (None, 6), (5, 6), (None, 1, 2, 3)])
def test_lists_are_reshaped_where_the_counts_agree(row_type: pa.DataType, shape: tuple[int | None, ...]) -> None:
    values = np.arange(30, dtype=np.float32)
    is_nested = pa.types.is_nested(row_type.value_type)
    column = pa.array(values.reshape(5, 2, 3).tolist() if is_nested else values.reshape(5, 6).tolist(), row_type)
    assert feed(column, "float32", shape).tolist() == values.reshape(5, *shape[1:]).tolist()


@pytest.mark.parametrize("outer", [pa.list_, pa.large_list])
@pytest.mark.parametrize("inner", [pa.list_(pa.float32(), 3), pa.list_(pa.float32())], ids=str)
@pytest.mark.parametrize("shape", [(None, 3, 2), (None, 1, 6), (None, 3, None)])
def test_nested_lists_are_reshaped_to_other_extents_of_one_rank(
    outer: Any, inner: pa.DataType, shape: tuple[int | None, ...]
) -> None:
    values = np.arange(30, dtype=np.float32)
    batch = feed(pa.array(values.reshape(5, 2, 3).tolist(), outer(inner)), "float32", shape)
    assert batch.tolist() == values.reshape(5, shape[1], -1).tolist()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (None, (4, 2, 3)),
        ((None, None, None), (4, 2, 3)),
        ((None, None, 3), (4, 2, 3)),
        ((None, 2, None), (4, 2, 3)),
        ((None, None), (4, 6)),
    ],
)
@pytest.mark.parametrize("row_type", [pa.list_(pa.list_(pa.int32(), 3), 2), pa.list_(pa.list_(pa.int32()))], ids=str)
def test_unknown_extents_come_from_the_data(
    row_type: pa.DataType, shape: tuple[int | None, ...] | None, expected: tuple[int, ...]
) -> None:
    values = np.arange(24, dtype=np.int32)
    column = pa.array(values.reshape(4, 2, 3).tolist(), row_type)
    assert feed(column, "int32", shape).tolist() == values.reshape(expected).tolist()


def test_unknown_extents_may_differ_between_batches() -> None:
    column = bind(pa.array([[1], [2], [3, 4], [5, 6]]), "int64", (None, None))
    assert column.batch(0, 2).tolist() == [[1], [2]]
    assert column.batch(2, 4).tolist() == [[3, 4], [5, 6]]


def test_a_scalar_column_fills_a_row_of_one() -> None:
    assert feed(pa.array([1.0, 2.0]), "float64", (None, 1)).tolist() == [[1.0], [2.0]]
    assert feed(pa.array([[1.0], [2.0]], pa.list_(pa.float64(), 1)), "float64", (None,)).tolist() == [1.0, 2.0]


TEXT = ["", "a", "éß", "日本"]
BYTES = [text.encode() for text in TEXT]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(TEXT),
        pa.array(TEXT, pa.large_string()),
        pa.array(BYTES, pa.binary()),
        pa.array(BYTES, pa.large_binary()),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("shape", [(None,), None, (None, 1)])
def test_text_and_binary_fill_string_tensors_as_bytes(column: pa.Array, shape: tuple[int | None, ...] | None) -> None:
    batch = feed(column, "string", shape)
    assert batch.dtype == object
    assert batch.reshape(-1).tolist() == BYTES
    assert batch.shape == ((4, 1) if shape == (None, 1) else (4,))


def test_bytes_of_string_tensors_keep_their_zeros() -> None:
    column = pa.array([b"a\0\0", b"\0\0\0"], pa.binary(3))
    assert feed(column, "string", (None,)).tolist() == [b"a\0\0", b"\0\0\0"]


def test_lists_of_strings_fill_string_tensors() -> None:
    rows = [["a", "b"], ["c", "d"]]
    assert feed(pa.array(rows), "string", (None, 2)).tolist() == [[b"a", b"b"], [b"c", b"d"]]
    assert feed(pa.array(rows), "string", (None, None)).tolist() == [[b"a", b"b"], [b"c", b"d"]]


RAW_TYPES = [pa.binary(), pa.large_binary(), pa.binary(24)]


@pytest.mark.parametrize("binary", RAW_TYPES, ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("is_known", [True, False])
def test_raw_bytes_are_little_endian_values(binary: pa.DataType, dtype: str, is_known: bool) -> None:
    little = np.dtype(dtype).newbyteorder("<")
    rows = [bytes((i * 24 + j) % 200 for j in range(24)) for i in range(3)]
    expected = np.stack([np.frombuffer(row, little) for row in rows])
    shape = (None, expected.shape[1] // 3, 3) if is_known and dtype != "int16" else (None, None)
    batch = feed(pa.array(rows, binary), dtype, shape)
    assert batch.dtype == dtype
    np.testing.assert_array_equal(batch.reshape(3, -1), expected)
    assert batch.shape == ((3, *shape[1:]) if None not in shape[1:] else expected.shape)


@pytest.mark.parametrize("binary", RAW_TYPES, ids=str)
def test_raw_bytes_fill_a_tensor_of_unknown_rank(binary: pa.DataType) -> None:
    assert feed(pa.array([b"a" * 24, b"b" * 24], binary), "uint8", None).tolist() == [[97] * 24, [98] * 24]


def test_lists_of_raw_bytes() -> None:
    column = pa.array([[b"ab", b"cd"], [b"ef", b"gh"]], pa.list_(pa.binary()))
    assert feed(column, "uint8", (None, 2, 2)).tolist() == [[[97, 98], [99, 100]], [[101, 102], [103, 104]]]


def test_fixed_size_lists_of_fixed_size_bytes() -> None:
    column = pa.array([[b"ab", b"cd"], [b"ef", b"gh"]], pa.list_(pa.binary(2), 2))
    assert feed(column, "uint8", (None, 2, 2)).tolist() == [[[97, 98], [99, 100]], [[101, 102], [103, 104]]]


@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary()], ids=str)
def test_columns_without_rows_and_rows_without_values(binary: pa.DataType) -> None:
    assert feed(pa.array([], binary), "uint8", (None, 3)).shape == (0, 3)
    assert feed(pa.array([b"", b""], binary), "uint8", (None, 0)).shape == (2, 0)
    assert feed(pa.chunked_array([], binary), "uint8", (None, 3)).shape == (0, 3)
    assert feed(pa.array([], pa.list_(pa.float32())), "float32", (None, 3)).shape == (0, 3)
    assert feed(pa.array([[], []], pa.list_(pa.float32())), "float32", (None, 0)).shape == (2, 0)


@pytest.mark.parametrize(
    ("column", "dtype", "shape", "row", "words"),
    [
        (pa.array([1.0, None, 2.0]), "float64", (None,), 1, "a null"),
        (pa.array(["a", None]), "string", (None,), 1, "a null"),
        (pa.array([b"a", b"b", None]), "uint8", (None, 1), 2, "a null"),
        (pa.array([b"a", None], pa.binary(1)), "uint8", (None, 1), 1, "a null"),
        (pa.array([[1.0], None], pa.list_(pa.float32())), "float32", (None, 1), 1, "a null"),
        (pa.array([[1.0], None], pa.list_(pa.float32(), 1)), "float32", (None, 1), 1, "a null"),
        # the null is the sixth value, in the third row
        (pa.array([[1, 2], [3, 4], [5, None]], pa.list_(pa.int32(), 2)), "int32", (None, 2), 2, "a null"),
        (pa.array([[1, 2], [3, 4], [5, None]], pa.list_(pa.int32())), "int32", (None, 2), 2, "a null"),
        (pa.array([[[1], [2]], [[3], None]], pa.list_(pa.list_(pa.int32()))), "int32", (None, 2, 1), 1, "a null"),
        (pa.array([[1, 2], [3], [4, 5]]), "int64", (None, 2), 1, "list of 1 values where .* takes 2"),
        (pa.array([[1, 2], [3, 4], [4, 5, 6]]), "int64", (None, None), 2, "list of 3 values where .* takes 2"),
        (pa.array([[], [1]], pa.list_(pa.int64())), "int64", (None, 1), 0, "list of 0 values where .* takes 1"),
        # the second list of the second row, the fourth of all
        (pa.array([[[1], [2]], [[3], [4, 5]]]), "int64", (None, 2, 1), 1, "list of 2 values where .* takes 1"),
        (pa.array([[1, 2, 3, 4]]), "int64", (None, None, 3), 0, "cannot fill|takes"),
        (pa.array([b"abc", b"ab"]), "uint8", (None, 3), 1, "2 bytes where .* takes 3"),
        (pa.array([b"abc", b"ab"]), "uint8", (None, None), 1, "2 bytes where .* takes 3"),
        (pa.array([b"abcd", b"abcde"]), "float32", (None, 1), 1, "5 bytes where .* takes 4"),
        (pa.array([b"abcde", b"abcde"]), "float32", (None, None), 0, "5 bytes are no whole number of float32"),
    ],
)
def test_bad_rows_are_named(column: pa.Array, dtype: str, shape: tuple[int | None, ...], row: int, words: str) -> None:
    with pytest.raises(DataError, match=f"column 'pixels': .*({words})") as caught:
        feed(column, dtype, shape)
    assert caught.value.row_index == row
    assert "inputs:0" in str(caught.value)


def test_the_bad_row_counts_in_the_slice_not_in_the_batch() -> None:
    column = bind(pa.array([[1], [2], [3], [4], [5, 6]]), "int64", (None, None))
    assert column.batch(0, 3).tolist() == [[1], [2], [3]]
    with pytest.raises(DataError) as caught:
        column.batch(3, 5)
    assert caught.value.row_index == 4


def test_the_bad_row_counts_from_the_start_of_a_sliced_column_of_many_chunks() -> None:
    column = pa.chunked_array([pa.array([None, 1, 2]).slice(1), pa.array([3, None, None]).slice(0, 2)])
    with pytest.raises(DataError) as caught:
        feed(column, "int64", (None,))
    assert caught.value.row_index == 3


@pytest.mark.parametrize(
    ("field_type", "dtype", "shape", "words"),
    [
        (pa.list_(pa.float32(), 63), "float32", (None, 64), ["holds 63 values", "takes 64", "fixed_size_list"]),
        (pa.list_(pa.list_(pa.float32(), 3), 3), "float32", (None, 8), ["holds 9 values", "takes 8"]),
        (pa.float32(), "float32", (None, 2), ["holds 1 values", "takes 2"]),
        (pa.binary(3), "uint8", (None, 2, 2), ["holds 3 bytes", "takes 4"]),
        (pa.binary(4), "float32", (None, 4), ["holds 4 bytes", "takes 16"]),
        (pa.float64(), "int32", (None,), ["double", "int32", "cast"]),
        (pa.int32(), "bool", (None,), ["int32", "bool", "cast"]),
        (pa.string(), "float32", (None,), ["text", "string", "numbers"]),
        (pa.list_(pa.string()), "float32", (None, None), ["text", "string", "numbers"]),
        (pa.float32(), "string", (None,), ["float", "strings or binary"]),
        (pa.timestamp("us"), "int64", (None,), ["timestamp[us]", "cast"]),
        (pa.date32(), "int32", (None,), ["date32", "cast"]),
        (pa.time64("us"), "int64", (None,), ["time64", "cast"]),
        (pa.duration("s"), "int64", (None,), ["duration", "cast"]),
        (pa.decimal128(10, 2), "float64", (None,), ["decimal128", "cast"]),
        (pa.map_(pa.string(), pa.float32()), "float32", (None, None), ["map", "cast"]),
        (pa.struct([("a", pa.float32())]), "float32", (None,), ["struct", "cast"]),
        (pa.list_view(pa.float32()), "float32", (None, None), ["list_view", "cast"]),
        (pa.null(), "float32", (None,), ["null", "cast"]),
        (pa.float32(), "resource", (None,), ["resource"]),
        (pa.float32(), "variant", (None,), ["variant"]),
        (pa.int8(), "qint8", (None,), ["qint8"]),
        (pa.float32(), "float32", (), ["no batch axis", "--set inputs:0=VALUE"]),
    ],
    ids=str,
)
def test_schema_errors_say_what_was_expected_and_found(
    field_type: pa.DataType, dtype: str, shape: tuple[int | None, ...], words: list[str]
) -> None:
    with pytest.raises(SchemaError) as caught:
        bind_feed(pa.field("pixels", field_type), TensorSpec("inputs:0", dtype, shape))
    message = str(caught.value)
    for word in ["inputs:0", *words]:
        assert word in message
    if shape and dtype not in ("resource", "variant", "qint8"):  # what no column can mend names none
        assert "'pixels'" in message


@pytest.mark.parametrize("field_type", [pa.float32(), pa.string(), pa.binary(), pa.list_(pa.int8()), pa.decimal32(5)])
def test_a_dtype_that_is_known_when_loaded_is_not_judged_before(field_type: pa.DataType) -> None:
    assert bind_feed(pa.field("x", field_type), TensorSpec("inputs:0", None, None)).column == "x"


@pytest.mark.parametrize(
    ("dtype", "shape", "num_bytes"),
    [
        ("float32", (None, 8, 8), 256.0),
        ("float16", (None,), 2.0),
        ("string", (None, 2), 512.0),
        ("float64", (16, 3), 24.0),
        ("float32", (None, None), None),
        ("float32", None, None),
        (None, (None, 3), None),
    ],
)
def test_bytes_of_a_row(dtype: str | None, shape: tuple[int | None, ...] | None, num_bytes: float | None) -> None:
    assert (
        bind_feed(
            pa.field("x", pa.list_(pa.string() if dtype == "string" else pa.float32())),
            TensorSpec("inputs:0", dtype, shape),
        ).row_bytes()
        == num_bytes
    )


@pytest.mark.parametrize(("shape", "rows"), [((16, 3), 16), ((None, 3), None), (None, None)])
def test_a_fixed_batch_axis(shape: tuple[int | None, ...] | None, rows: int | None) -> None:
    binding = bind_feed(pa.field("x", pa.list_(pa.float32())), TensorSpec("inputs:0", "float32", shape))
    assert binding.fixed_rows == rows


# --- no copies


@pytest.mark.parametrize("dtype", ["float32", "uint8", "float64", "float16"])
@pytest.mark.parametrize("shape", [(None, 8, 8), (None, 64), (None, None, 8), None])
def test_a_fixed_size_list_is_fed_without_a_copy(dtype: str, shape: tuple[int | None, ...] | None) -> None:
    values = np.arange(64 * 100).astype(dtype)
    column = through_parquet(pa.FixedSizeListArray.from_arrays(pa.array(values), 64))
    bound = bind(column, dtype, shape)
    memory = column.chunk(0).values.buffers()[1]
    width = values.itemsize * 64
    for start, stop in ((0, 32), (32, 64), (96, 100)):
        batch = bound.batch(start, stop)
        assert address(batch) == memory.address + start * width
        assert batch.flags.c_contiguous
        assert address(batch) % 64 == 0  # TensorFlow copies what is not
        np.testing.assert_array_equal(batch.reshape(-1), values[start * 64 : stop * 64])
        assert np.shares_memory(batch, np.frombuffer(memory, np.uint8))


@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary(), pa.binary(256)], ids=str)
def test_raw_bytes_are_fed_without_a_copy(binary: pa.DataType) -> None:
    rows = [bytes([i]) * 256 for i in range(50)]
    column = through_parquet(pa.array(rows, binary))
    bound = bind(column, "float32", (None, 8, 8))
    memory = column.chunk(0).buffers()[-1]
    for start, stop in ((0, 16), (16, 32), (48, 50)):
        batch = bound.batch(start, stop)
        assert address(batch) == memory.address + start * 256
        assert address(batch) % 64 == 0
        assert batch.flags.c_contiguous


def test_numbers_are_fed_without_a_copy() -> None:
    column = through_parquet(pa.array(np.arange(100, dtype=np.float32)))
    batch = bind(column, "float32", (None,)).batch(16, 32)
    assert address(batch) == column.chunk(0).buffers()[1].address + 64
    assert batch.tolist() == list(range(16, 32))


def test_a_slice_of_a_column_is_a_view_as_well() -> None:
    column = through_parquet(pa.FixedSizeListArray.from_arrays(pa.array(np.arange(400, dtype=np.float32)), 4))
    batch = feed(column.slice(10, 20), "float32", (None, 4))
    assert address(batch) == column.chunk(0).values.buffers()[1].address + 10 * 16
    assert batch[0].tolist() == [40, 41, 42, 43]


def test_a_cast_happens_once_a_slice() -> None:
    bound = bind(pa.array(np.arange(100.0)), "float32", (None,))
    first, second = bound.batch(0, 50), bound.batch(25, 50)
    assert np.shares_memory(first, second)


# --- arrow -> tensor equals a plain loop over rows

LEAVES: list[tuple[pa.DataType, str]] = [
    (pa.bool_(), "bool"),
    (pa.bool_(), "float32"),
    (pa.int8(), "int8"),
    (pa.uint8(), "float32"),
    (pa.int32(), "int64"),
    (pa.int64(), "int32"),
    (pa.uint64(), "uint64"),
    (pa.float16(), "float16"),
    (pa.float32(), "float32"),
    (pa.float64(), "float32"),
    (pa.string(), "string"),
    (pa.large_string(), "string"),
    (pa.binary(), "string"),
    (pa.large_binary(), "string"),
    (pa.binary(8), "string"),
    (pa.binary(), "float32"),
    (pa.large_binary(), "int16"),
    (pa.binary(8), "float64"),
]
NEST: list[Any] = [pa.list_, pa.large_list, None]  # None: fixed-size


@st.composite
def columns(draw: st.DrawFn) -> tuple[pa.ChunkedArray, str, tuple[int | None, ...] | None, tuple[int, ...]]:
    leaf, dtype = draw(st.sampled_from(LEAVES))
    extents = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    num_rows, before, after = draw(st.integers(1, 7)), draw(st.integers(0, 3)), draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    count = (num_rows + before + after) * math.prod(extents)
    if pa.types.is_boolean(leaf) or pa.types.is_integer(leaf) or pa.types.is_floating(leaf):
        flat = rng.integers(0, 2 if leaf == pa.bool_() else 100, count).astype(leaf.to_pandas_dtype()).tolist()
    elif "string" in str(leaf):
        flat = [str(n) for n in rng.integers(0, 10**6, count)]
    else:
        flat = [rng.integers(0, 50, 8).astype(np.uint8).tobytes() for _ in range(count)]
    for extent in reversed(extents):
        make = draw(st.sampled_from(NEST))
        leaf = pa.list_(leaf, extent) if make is None else make(leaf)
        flat = [flat[i : i + extent] for i in range(0, len(flat), extent)]
    column = pa.array(flat, leaf).slice(before, num_rows)
    cut = draw(st.integers(0, num_rows))
    chunks = [column] if cut == num_rows else [column.slice(0, cut), column.slice(cut)]
    if _is_raw(leaf, dtype):
        extents = (*extents, 8 // np.dtype(dtype).itemsize)
    shape: tuple[int | None, ...] | None = (None, *extents)
    match draw(st.sampled_from(["exact", "flat", "open", "rank"])):
        case "flat" if not _is_raw(leaf, dtype):
            shape = (None, math.prod(extents))
        case "open" if extents:
            axis = draw(st.integers(0, len(extents) - 1))
            shape = (None, *(None if i == axis else n for i, n in enumerate(extents)))
        case "rank":
            shape = None
    expected = (num_rows, math.prod(extents)) if shape is not None and len(shape) != len(extents) + 1 else None
    return pa.chunked_array(chunks, leaf), dtype, shape, expected or (num_rows, *extents)


def _is_raw(leaf: pa.DataType, dtype: str) -> bool:
    while pa.types.is_nested(leaf):
        leaf = leaf.value_type
    return dtype != "string" and "binary" in str(leaf)


def python_rows(column: pa.ChunkedArray, dtype: str, expected: tuple[int, ...]) -> np.ndarray:
    def leaf_values(value: Any) -> list[Any]:
        if isinstance(value, list):
            return [leaf for each in value for leaf in leaf_values(each)]
        if dtype == "string":
            return [value.encode() if isinstance(value, str) else value]
        return np.frombuffer(value, np.dtype(dtype).newbyteorder("<")).tolist() if isinstance(value, bytes) else [value]

    values = [leaf for row in column.to_pylist() for leaf in leaf_values(row)]
    array = np.empty(len(values), object if dtype == "string" else dtype)
    array[:] = values
    return array.reshape(expected)


@QUICK
@given(columns(), st.integers(1, 4))
def test_a_column_becomes_what_a_loop_over_its_rows_gives(drawn: Any, step: int) -> None:
    column, dtype, shape, expected_shape = drawn
    expected = python_rows(column, dtype, expected_shape)
    bound = bind(column, dtype, shape)
    batches = [bound.batch(start, min(start + step, len(column))) for start in range(0, len(column), step)]
    array = np.concatenate(batches)
    assert array.dtype == expected.dtype
    assert array.shape == expected.shape
    np.testing.assert_array_equal(array, expected)
