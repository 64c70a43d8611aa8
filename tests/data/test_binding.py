"""Which columns can fill which tensors, told from types alone, and what each kind of column then fills it with."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from reading import as_read

from engine.data.binding import FeedBinding, bind_feed
from engine.data.columns import InputSchema, resolve_feed
from engine.data.faults import Faults, Reason
from engine.data.feeding.conversion import FedRows, convert_rows
from engine.errors import DataError, SchemaError
from engine.model.tensor import Shape, TensorSpec, numpy_dtype

Column = pa.Array | pa.ChunkedArray


def convert_table(table: pa.Table, text: str, dtype: str, shape: Shape) -> tuple[list[FedRows], Faults]:
    source = resolve_feed(InputSchema("in.parquet", table.schema, ()), text)
    return convert_rows([bind_feed(source, TensorSpec("inputs:0", dtype, shape))], as_read(table))


def convert(column: Column, dtype: str, shape: Shape) -> tuple[list[FedRows], Faults]:
    return convert_table(pa.table({"pixels": column}), "pixels", dtype, shape)


def feed(column: Column, dtype: str, shape: Shape) -> np.ndarray:
    """The tensor of a column whose rows all have one shape and are all good."""
    groups, faults = convert(column, dtype, shape)
    assert faults.in_order() == []
    (fed,) = groups
    assert fed.rows.tolist() == list(range(len(column)))
    return fed.arrays[0]


def reasons(faults: Faults) -> dict[int, str]:
    return {bad.row_index: bad.reason for bad in faults.in_order()}


def bind(
    field_type: pa.DataType,
    dtype: str | None,
    shape: Shape,
    fills: dict[str, str] | None = None,
    unbatched: bool = False,
) -> FeedBinding:
    columns = InputSchema("in.parquet", pa.schema([("pixels", field_type)]), ())
    return bind_feed(resolve_feed(columns, "pixels"), TensorSpec("inputs:0", dtype, shape), fills, unbatched)


def stack(text: str, dtype: str, shape: Shape, **fields: pa.DataType) -> FeedBinding:
    columns = InputSchema("in.parquet", pa.schema(list(fields.items())), ())
    return bind_feed(resolve_feed(columns, text), TensorSpec("inputs:0", dtype, shape))


# --- what types alone tell


@pytest.mark.parametrize(
    ("field_type", "dtype", "shape", "words"),
    [
        (pa.list_(pa.float32(), 63), "float32", (None, 64), ["holds 63 values", "takes 64", "fixed_size_list"]),
        (pa.list_(pa.list_(pa.float32(), 3), 3), "float32", (None, 8), ["holds 9 values", "takes 8"]),
        (pa.fixed_shape_tensor(pa.float32(), [3, 3]), "float32", (None, 8), ["holds 9 values", "takes 8"]),
        (pa.float32(), "float32", (None, 2), ["holds 1 values", "takes 2"]),
        (pa.binary(3), "uint8", (None, 2, 2), ["holds 3 bytes", "takes 4"]),
        (pa.binary(4), "float32", (None, 4), ["holds 4 bytes", "takes 16"]),
        (pa.float64(), "int32", (None,), ["double", "int32", "cast"]),
        (pa.dictionary(pa.int8(), pa.float64()), "int32", (None,), ["double", "int32", "cast"]),
        (pa.list_(pa.float16()), "int32", (None, None), ["halffloat", "int32", "cast"]),
        (pa.int32(), "bool", (None,), ["int32", "bool", "cast"]),
        (pa.string(), "float32", (None,), ["text", "string", "numbers"]),
        (pa.string_view(), "float32", (None,), ["text", "string_view", "numbers"]),
        (pa.list_(pa.string()), "float32", (None, None), ["text", "string", "numbers"]),
        (pa.dictionary(pa.int8(), pa.string()), "int64", (None,), ["text", "dictionary", "numbers"]),
        (pa.float32(), "string", (None,), ["float", "strings or binary"]),
        (pa.bool_(), "string", (None,), ["bool", "strings or binary"]),
        (pa.timestamp("us"), "int64", (None,), ["timestamp[us]", "cast it to int64"]),
        (pa.timestamp("us"), "string", (None,), ["timestamp[us]", "cast it to int64"]),
        (pa.date32(), "int32", (None,), ["date32", "cast it to int32"]),
        (pa.date64(), "int64", (None,), ["date64", "cast"]),
        (pa.time32("s"), "int32", (None,), ["time32", "cast"]),
        (pa.time64("us"), "int64", (None,), ["time64", "cast"]),
        (pa.duration("s"), "int64", (None,), ["duration", "cast"]),
        (pa.month_day_nano_interval(), "int64", (None,), ["interval", "make numbers"]),
        (pa.decimal32(5, 2), "float32", (None,), ["decimal32", "cast it to double"]),
        (pa.decimal128(10, 2), "float64", (None,), ["decimal128", "cast it to double"]),
        (pa.decimal256(10, 2), "float64", (None,), ["decimal256", "cast it to double"]),
        (pa.list_(pa.decimal128(10, 2), 3), "float64", (None, 3), ["decimal128", "cast it to double"]),
        (pa.map_(pa.string(), pa.float32()), "float32", (None, None), ["map", "into columns of their own"]),
        (pa.struct([("a", pa.float32())]), "float32", (None,), ["struct", "name one of its fields, as in image.bytes"]),
        (pa.list_(pa.struct([("a", pa.float32())])), "float32", (None, None), ["struct", "fields"]),
        (pa.dense_union([pa.field("a", pa.int8())]), "int8", (None,), ["union", "split it into a column a type"]),
        (pa.sparse_union([pa.field("a", pa.int8())]), "int8", (None,), ["union", "split it"]),
        (pa.list_view(pa.float32()), "float32", (None, None), ["list_view", "cast it to list"]),
        (pa.large_list_view(pa.float32()), "float32", (None, None), ["list_view", "cast it to list"]),
        (pa.run_end_encoded(pa.int32(), pa.float32()), "float32", (None,), ["run_end_encoded", "cast"]),
        (pa.null(), "float32", (None,), ["null", "first input file has only nulls", "cast"]),
        (pa.list_(pa.null()), "string", (None, None), ["null", "cast"]),
        (pa.float32(), "resource", (None,), ["resource"]),
        (pa.float32(), "variant", (None,), ["variant"]),
        (pa.int8(), "qint8", (None,), ["qint8"]),
        (pa.binary(), "resource", (None,), ["resource"]),
        (pa.float32(), "float32", (), ["no batch axis", "--set inputs:0=VALUE", "--unbatched"]),
    ],
    ids=str,
)
def test_schema_errors_say_what_was_expected_and_found(
    field_type: pa.DataType, dtype: str, shape: Shape, words: list[str]
) -> None:
    with pytest.raises(SchemaError) as caught:
        bind(field_type, dtype, shape)
    message = str(caught.value)
    for word in ["inputs:0", *words]:
        assert word in message
    if shape and dtype not in ("resource", "variant", "qint8"):  # what no column can mend names none
        assert "'pixels'" in message


@pytest.mark.parametrize(
    ("text", "dtype", "shape", "words"),
    [
        ("a,b", "float32", (None, 3), ["--feed inputs:0=a,b names 2 columns", "takes 3"]),
        ("a,b", "float32", (None,), ["names 2 columns", "takes 1"]),
        ("[ab]", "float32", (None, 3), ["--feed inputs:0=[ab] names 2 columns", "takes 3"]),
        ("a,v", "float32", (None, 2), ["'v'", "list", "cannot be stacked", "one scalar a row"]),
        ("a,t", "float32", (None, 2), ["'t'", "text", "numbers"]),
        ("a,d", "float32", (None, 2), ["'d'", "decimal128", "cast it to double"]),
        ("a,x", "int32", (None, 2), ["'x'", "double", "int32", "cast"]),
        ("a,r", "uint8", (None, 2), ["'r'", "fixed_size_binary"]),
        ("r,s", "uint8", (None, 2), ["'r'", "fixed_size_binary"]),
        ("s,y", "uint8", (None, 2), ["binary"]),
    ],
)
def test_columns_that_cannot_be_stacked_are_named(text: str, dtype: str, shape: Shape, words: list[str]) -> None:
    kinds = {"a": pa.int8(), "b": pa.int16(), "v": pa.list_(pa.float32()), "t": pa.string(), "x": pa.float64()}
    raw = {"r": pa.binary(1), "s": pa.binary(1), "y": pa.binary(), "d": pa.decimal128(5)}
    with pytest.raises(SchemaError) as caught:
        stack(text, dtype, shape, **kinds, **raw)
    for word in ["inputs:0", *words] if "stacked" not in str(caught.value) else words:
        assert word in str(caught.value)


@pytest.mark.parametrize("shape", [(None, 2), (None, None), None, (None, 1, 2), (16, 2)])
def test_stacked_columns_become_the_last_axis(shape: Shape) -> None:
    binding = stack("b,a", "float32", shape, a=pa.int8(), b=pa.bool_())
    assert binding.column == "b,a"
    assert [str(path) for path in binding.source.columns] == ["b", "a"]
    assert not binding.is_view


@pytest.mark.parametrize("field_type", [pa.float32(), pa.string(), pa.binary(), pa.list_(pa.int8()), pa.decimal32(5)])
def test_a_dtype_that_is_known_when_loaded_is_not_judged_before(field_type: pa.DataType) -> None:
    assert bind(field_type, None, None).column == "pixels"


def test_a_graph_that_takes_one_row_at_a_time_needs_no_batch_axis() -> None:
    binding = bind(pa.float32(), "float32", (), unbatched=True)
    assert binding.row_shape == ()
    assert binding.fixed_rows is None
    assert bind(pa.list_(pa.float32()), "float32", (3, None), unbatched=True).row_shape == (3, None)
    with pytest.raises(SchemaError, match="holds 1 values a row where .* takes 3"):
        bind(pa.float32(), "float32", (3,), unbatched=True)


@pytest.mark.parametrize(
    ("dtype", "shape", "num_bytes"),
    [
        ("float32", (None, 8, 8), 256.0),
        ("float16", (None,), 2.0),
        ("bfloat16", (None, 3), 6.0),
        ("string", (None, 2), 512.0),
        ("float64", (16, 3), 24.0),
        ("float32", (None, None), None),
        ("float32", None, None),
        (None, (None, 3), None),
    ],
)
def test_bytes_of_a_row(dtype: str | None, shape: Shape, num_bytes: float | None) -> None:
    kind = pa.list_(pa.string() if dtype == "string" else pa.float32())
    assert bind(kind, dtype, shape).row_bytes() == num_bytes


@pytest.mark.parametrize(("shape", "rows"), [((16, 3), 16), ((None, 3), None), (None, None)])
def test_a_fixed_batch_axis(shape: Shape, rows: int | None) -> None:
    assert bind(pa.list_(pa.float32()), "float32", shape).fixed_rows == rows


@pytest.mark.parametrize(
    ("field_type", "dtype", "is_view"),
    [
        (pa.float32(), "float32", True),
        (pa.list_(pa.float32(), 3), "float32", True),
        (pa.fixed_shape_tensor(pa.float32(), [3]), "float32", True),
        (pa.binary(12), "float32", True),
        (pa.binary(), "float32", True),
        (pa.float64(), "float32", False),
        (pa.bool_(), "bool", False),
        (pa.binary_view(), "uint8", False),
        (pa.string(), "string", False),
        (pa.dictionary(pa.int8(), pa.float32()), "float32", False),
    ],
    ids=str,
)
def test_what_is_fed_as_it_lies(field_type: pa.DataType, dtype: str, is_view: bool) -> None:
    assert bind(field_type, dtype, None).is_view == is_view


@pytest.mark.parametrize(
    ("field_type", "dtype", "shape", "can_vary"),
    [
        (pa.list_(pa.float32()), "float32", (None, None), True),
        (pa.list_(pa.float32()), "float32", None, True),
        (pa.list_(pa.float32()), "float32", (None, 3), False),
        (pa.list_(pa.float32(), 3), "float32", (None, None), False),
        (pa.string(), "string", (None,), True),
        (pa.binary(), "uint8", (None, None), True),
        (pa.binary(3), "uint8", (None, None), False),
    ],
    ids=str,
)
def test_which_feeds_may_change_the_shape_of_rows(
    field_type: pa.DataType, dtype: str, shape: Shape, can_vary: bool
) -> None:
    assert bind(field_type, dtype, shape).can_vary() == can_vary


# --- numbers

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.mark.parametrize("dtype", ["bool", *INTEGERS, "float16", "float32", "float64"])
def test_numbers_of_the_tensors_own_dtype(dtype: str) -> None:
    values = np.array([0, 1, 1, 0]).astype(dtype)
    array = feed(pa.array(values), dtype, (None,))
    assert array.dtype == dtype
    assert array.tolist() == values.tolist()


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
        ("float32", "complex64"),
    ],
)
def test_casts_that_happen_by_themselves(source: str, target: str) -> None:
    values = np.array([1, 0, 1]).astype(source)
    array = feed(pa.array(values), target, (None,))
    assert array.dtype == target
    assert array.tolist() == values.astype(target).tolist()


@pytest.mark.parametrize("source", ["bool", "int8", "int64", "float16", "float32", "float64"])
def test_numbers_fill_bfloat16(source: str) -> None:
    array = feed(pa.array(np.array([1, 0, 1]).astype(source)), "bfloat16", (None,))
    assert array.dtype == numpy_dtype("bfloat16")
    assert array.astype(float).tolist() == [1, 0, 1]


@pytest.mark.parametrize("target", ["float16", "float32", "bfloat16"])
def test_nan_and_infinity_are_values_not_overflows(target: str) -> None:
    array = feed(pa.array([np.nan, np.inf, -np.inf], pa.float64()), target, (None,))
    np.testing.assert_array_equal(array.astype(float), [np.nan, np.inf, -np.inf])


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
        (pa.array([65_519, 65_520], pa.uint64()), "float16", 1),  # 65,520 rounds to infinity
        (pa.array([1.0, 1e300]), "complex64", 1),
        (pa.array([1.0, 1e300]), "bfloat16", 1),
        (pa.array([1.0, 3.4e38], pa.float32()), "bfloat16", 1),  # rounds to infinity as well
        (pa.array([[0, 1], [2, 2**40]], pa.list_(pa.int64(), 2)), "int32", 1),  # the row, not the value
        (pa.array([[0, 1], [2, 3], [2**40, 3]], pa.list_(pa.int64())), "int32", 2),
    ],
)
def test_an_overflow_is_a_bad_row(column: pa.Array, target: str, row: int) -> None:
    extents = () if not pa.types.is_nested(column.type) else (2,)
    groups, faults = convert(column, target, (None, *extents))
    (bad,) = faults.in_order()
    assert (bad.row_index, bad.reason) == (row, Reason.OVERFLOW)
    assert "column 'pixels': " in bad.message
    assert f" overflows {target} of inputs:0" in bad.message
    good = [i for i in range(len(column)) if i != row]
    assert [i for fed in groups for i in fed.rows.tolist()] == good
    for fed in groups:
        expected = np.array(column.take(pa.array(good)).to_pylist()).astype(numpy_dtype(target))
        np.testing.assert_array_equal(fed.arrays[0], expected)


def test_the_value_that_overflows_is_shown_where_bad_rows_went_before() -> None:
    column = pa.array([[0, None], [1, 2], [3, 2**40], [2**41, 2**42]], pa.list_(pa.int64()))
    messages = {bad.row_index: bad.message for bad in convert(column, "int32", (None, 2))[1].in_order()}
    assert sorted(messages) == [0, 2, 3]
    assert f"{2**40} overflows" in messages[2]
    assert f"{2**41} overflows" in messages[3]


def test_an_overflow_among_stacked_columns_names_its_column() -> None:
    table = pa.table({"a": [1, 2, 3], "b": [1, 2**40, 3], "c": [1, 2, -(2**40)]})
    groups, faults = convert_table(table, "a,b,c", "int32", (None, 3))
    first, second = faults.in_order()
    assert (first.row_index, second.row_index) == (1, 2)
    assert f"column 'b': {2**40} overflows" in first.message
    assert f"column 'c': {-(2**40)} overflows" in second.message
    assert groups[0].arrays[0].tolist() == [[1, 1, 1]]


# --- lists


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
def test_lists_are_reshaped_where_the_counts_agree(row_type: pa.DataType, shape: Shape) -> None:
    assert shape is not None
    values = np.arange(30, dtype=np.float32)
    is_nested = pa.types.is_nested(row_type.value_type)
    column = pa.array(values.reshape(5, 2, 3).tolist() if is_nested else values.reshape(5, 6).tolist(), row_type)
    assert feed(column, "float32", shape).tolist() == values.reshape([5, *shape[1:]]).tolist()


@pytest.mark.parametrize("outer", [pa.list_, pa.large_list])
@pytest.mark.parametrize("inner", [pa.list_(pa.float32(), 3), pa.list_(pa.float32())], ids=str)
@pytest.mark.parametrize("shape", [(None, 3, 2), (None, 1, 6), (None, 3, None)])
def test_nested_lists_are_reshaped_to_other_extents_of_one_rank(
    outer: Any, inner: pa.DataType, shape: tuple[int | None, ...]
) -> None:
    values = np.arange(30, dtype=np.float32)
    array = feed(pa.array(values.reshape(5, 2, 3).tolist(), outer(inner)), "float32", shape)
    assert array.tolist() == values.reshape(5, shape[1], -1).tolist()


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
def test_unknown_extents_come_from_the_data(row_type: pa.DataType, shape: Shape, expected: tuple[int, ...]) -> None:
    values = np.arange(24, dtype=np.int32)
    column = pa.array(values.reshape(4, 2, 3).tolist(), row_type)
    assert feed(column, "int32", shape).tolist() == values.reshape(expected).tolist()


@pytest.mark.parametrize("shape", [(None, None), None])
def test_rows_of_different_extents_come_in_groups_of_one_shape(shape: Shape) -> None:
    groups, faults = convert(pa.array([[1], [2, 3], [4], [], [5, 6]]), "int64", shape)
    assert not len(faults)
    found = {tuple(fed.rows.tolist()): fed.arrays[0].tolist() for fed in groups}
    assert found == {(0, 2): [[1], [4]], (1, 4): [[2, 3], [5, 6]], (3,): [[]]}


def test_the_groups_of_several_feeds_have_one_shape_in_each() -> None:
    table = pa.table({"a": [[1], [1, 2], [3], [3, 4]], "b": [[1], [2], [3, 3], [4]]})
    columns = InputSchema("in.parquet", table.schema, ())
    feeds = [
        bind_feed(resolve_feed(columns, name), TensorSpec(f"{name}:0", "int64", (None, None))) for name in ("a", "b")
    ]
    groups, faults = convert_rows(feeds, as_read(table))
    assert not len(faults)
    assert {tuple(fed.rows.tolist()) for fed in groups} == {(0,), (1, 3), (2,)}
    for fed in groups:
        for name, array in zip("ab", fed.arrays, strict=True):
            assert array.tolist() == table.column(name).take(pa.array(fed.rows)).to_pylist()


def test_lists_without_values_in_rows_of_other_extents() -> None:
    column = pa.array([[], [[1, 2, 3]], [[]]], pa.list_(pa.list_(pa.int64())))
    groups, faults = convert(column, "int64", (None, None, 3))
    assert not len(faults)
    assert {int(fed.rows[0]): fed.arrays[0].shape for fed in groups} == {0: (1, 0, 3), 1: (1, 1, 3), 2: (1, 0, 3)}


def test_a_scalar_column_fills_a_row_of_one() -> None:
    assert feed(pa.array([1.0, 2.0]), "float64", (None, 1)).tolist() == [[1.0], [2.0]]
    assert feed(pa.array([[1.0], [2.0]], pa.list_(pa.float64(), 1)), "float64", (None,)).tolist() == [1.0, 2.0]


def test_an_unbatched_graph_is_fed_rows_of_its_whole_shape() -> None:
    table = pa.table({"pixels": pa.array([[1.0, 2.0], [3.0], [4.0, 5.0]])})
    source = resolve_feed(InputSchema("in.parquet", table.schema, ()), "pixels")
    binding = bind_feed(source, TensorSpec("inputs:0", "float64", (2,)), is_unbatched=True)
    groups, faults = convert_rows([binding], as_read(table))
    assert groups[0].arrays[0].tolist() == [[1.0, 2.0], [4.0, 5.0]]
    assert reasons(faults) == {1: Reason.WRONG_LENGTH}


# --- strings

TEXT = ["", "a", "éß", "日本"]
BYTES = [text.encode() for text in TEXT]
STRINGS = [
    pa.array(TEXT),
    pa.array(TEXT, pa.large_string()),
    pa.array(TEXT, pa.string_view()),
    pa.array(BYTES, pa.binary()),
    pa.array(BYTES, pa.large_binary()),
    pa.array(BYTES, pa.binary_view()),
    pa.array(TEXT).dictionary_encode(),
]


@pytest.mark.parametrize("column", STRINGS, ids=lambda column: str(column.type))
@pytest.mark.parametrize("shape", [(None,), None, (None, 1)])
def test_text_and_binary_fill_string_tensors_as_bytes(column: pa.Array, shape: Shape) -> None:
    array = feed(column, "string", shape)
    assert array.dtype == object
    assert array.reshape(-1).tolist() == BYTES
    assert array.shape == ((4, 1) if shape == (None, 1) else (4,))
    assert feed(column.slice(1, 2), "string", shape).reshape(-1).tolist() == BYTES[1:3]


@pytest.mark.parametrize("kind", [pa.string(), pa.string_view(), pa.binary_view(), pa.large_binary()], ids=str)
def test_a_null_among_strings_leaves_the_others(kind: pa.DataType) -> None:
    values = ["a", None, "b"] if "string" in str(kind) else [b"a", None, b"b"]
    groups, faults = convert(pa.array(values, kind), "string", (None,))
    assert groups[0].arrays[0].tolist() == [b"a", b"b"]
    assert reasons(faults) == {1: Reason.NULL}


@pytest.mark.parametrize("kind", [pa.string(), pa.string_view(), pa.binary_view()], ids=str)
def test_lists_of_strings_come_in_groups(kind: pa.DataType) -> None:
    words = ["a", "b", "c"] if "string" in str(kind) else [b"a", b"b", b"c"]
    groups, faults = convert(pa.array([words[:1], words[1:]], pa.list_(kind)), "string", (None, None))
    assert not len(faults)
    assert [fed.arrays[0].tolist() for fed in groups] == [[[b"a"]], [[b"b", b"c"]]]


def test_bytes_of_string_tensors_keep_their_zeros() -> None:
    column = pa.array([b"a\0\0", b"\0\0\0"], pa.binary(3))
    assert feed(column, "string", (None,)).tolist() == [b"a\0\0", b"\0\0\0"]


def test_lists_of_strings_fill_string_tensors() -> None:
    rows = [["a", "b"], ["c", "d"]]
    assert feed(pa.array(rows), "string", (None, 2)).tolist() == [[b"a", b"b"], [b"c", b"d"]]
    assert feed(pa.array(rows), "string", (None, None)).tolist() == [[b"a", b"b"], [b"c", b"d"]]


def test_columns_of_strings_are_stacked() -> None:
    table = pa.table({"a": ["p", "q"], "b": pa.array([b"r", b"s"]), "c": pa.array(["t", "u"]).dictionary_encode()})
    (fed,), faults = convert_table(table, "b,a,c", "string", (None, 3))
    assert not len(faults)
    assert fed.arrays[0].tolist() == [[b"r", b"p", b"t"], [b"s", b"q", b"u"]]


# --- raw bytes

RAW_TYPES = [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(24)]


@pytest.mark.parametrize("binary", RAW_TYPES, ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("is_known", [True, False])
def test_raw_bytes_are_little_endian_values(binary: pa.DataType, dtype: str, is_known: bool) -> None:
    kind = numpy_dtype(dtype)
    rows = [bytes((i * 24 + j) % 60 for j in range(24)) for i in range(3)]
    expected = np.stack([np.frombuffer(row, kind if kind.kind == "V" else kind.newbyteorder("<")) for row in rows])
    shape = (None, expected.shape[1] // 3, 3) if is_known and kind.itemsize != 2 else (None, None)
    array = feed(pa.array(rows, binary), dtype, shape)
    assert array.dtype == kind
    np.testing.assert_array_equal(array.reshape(3, -1), expected)
    assert array.shape == ((3, *shape[1:]) if None not in shape[1:] else expected.shape)


@pytest.mark.parametrize("binary", RAW_TYPES, ids=str)
def test_raw_bytes_fill_a_tensor_of_unknown_rank(binary: pa.DataType) -> None:
    assert feed(pa.array([b"a" * 24, b"b" * 24], binary), "uint8", None).tolist() == [[97] * 24, [98] * 24]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.binary()), pa.list_(pa.binary(2), 2), pa.list_(pa.binary_view())], ids=str
)
def test_lists_of_raw_bytes(kind: pa.DataType) -> None:
    column = pa.array([[b"ab", b"cd"], [b"ef", b"gh"]], kind)
    assert feed(column, "uint8", (None, 2, 2)).tolist() == [[[97, 98], [99, 100]], [[101, 102], [103, 104]]]


def test_raw_rows_of_different_lengths_come_in_groups() -> None:
    groups, faults = convert(pa.array([b"abc", b"ab", b"def"]), "uint8", (None, None))
    assert not len(faults)
    found = {tuple(fed.rows.tolist()): fed.arrays[0].tolist() for fed in groups}
    assert found == {(0, 2): [[97, 98, 99], [100, 101, 102]], (1,): [[97, 98]]}


@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_columns_without_rows_and_rows_without_values(binary: pa.DataType) -> None:
    for empty in (pa.array([], binary), pa.chunked_array([], binary), pa.array([], pa.list_(pa.float32()))):
        groups, faults = convert(empty, "float32", (None, 3))
        assert groups == []
        assert not len(faults)
    assert feed(pa.array([b"", b""], binary), "uint8", (None, 0)).shape == (2, 0)
    assert feed(pa.array([[], []], pa.list_(pa.float32())), "float32", (None, 0)).shape == (2, 0)
    assert feed(pa.array([[], []], pa.list_(pa.float32(), 0)), "float32", (None, 0)).shape == (2, 0)


# --- tensors, dictionaries, structs


def tensors(rows: Sequence[Any], value_type: pa.DataType, shape: list[int], order: list[int] | None = None) -> pa.Array:
    kind = pa.fixed_shape_tensor(value_type, shape, permutation=order)
    return pa.ExtensionArray.from_storage(kind, pa.array(rows, pa.list_(value_type, math.prod(shape))))


def test_a_permuted_tensor_is_fed_in_its_logical_order() -> None:
    column = tensors([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]], pa.int32(), [2, 3], [1, 0])
    expected = [[[1, 4], [2, 5], [3, 6]], [[7, 10], [8, 11], [9, 12]]]
    assert feed(column, "int32", (None, 3, 2)).tolist() == expected
    assert feed(column, "int32", None).tolist() == expected
    assert feed(column.slice(1), "int32", (None, 3, 2)).tolist() == expected[1:]
    chunked = pa.chunked_array([column.slice(1), column.slice(0, 1)])
    assert feed(chunked, "int32", (None, 3, 2)).tolist() == expected[::-1]


def test_a_tensor_without_axes_is_a_number() -> None:
    assert feed(tensors([[1], [2]], pa.int32(), []), "int32", (None,)).tolist() == [1, 2]


def test_a_null_tensor_is_a_bad_row() -> None:
    groups, faults = convert(tensors([[1, 2], None, [3, 4]], pa.int32(), [2, 1]), "int32", (None, 2, 1))
    assert groups[0].arrays[0].tolist() == [[[1], [2]], [[3], [4]]]
    assert reasons(faults) == {1: Reason.NULL}


def test_dictionaries_are_fed_as_their_values() -> None:
    first, second = pa.array([5, 6, 5]).dictionary_encode(), pa.array([7, 5]).dictionary_encode()
    assert feed(pa.chunked_array([first, second]), "float32", (None,)).tolist() == [5, 6, 5, 7, 5]
    lists = pa.array([[5, 6], [6, 6]], pa.list_(pa.dictionary(pa.int8(), pa.int64()), 2))
    assert feed(lists, "int64", (None, 2)).tolist() == [[5, 6], [6, 6]]


def test_a_null_inside_a_dictionary_is_a_null() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array(["a", None]))
    groups, faults = convert(column, "string", (None,))
    assert groups[0].arrays[0].tolist() == [b"a"]
    assert reasons(faults) == {1: Reason.NULL, 2: Reason.NULL}


def test_fields_of_structs_and_the_nulls_above_them() -> None:
    column = pa.array([{"b": {"c": [1, 2]}}, None, {"b": None}, {"b": {"c": [3, 4]}}])
    table = pa.table({"a": column})
    groups, faults = convert_table(table, "a.b.c", "int64", (None, 2))
    assert groups[0].arrays[0].tolist() == [[1, 2], [3, 4]]
    assert reasons(faults) == {1: Reason.NULL, 2: Reason.NULL}
    assert "column 'a.b.c'" in faults.in_order()[0].message
    sliced = convert_table(table.slice(2), "a.b.c", "int64", (None, 2))
    assert sliced[0][0].arrays[0].tolist() == [[3, 4]]


def test_values_hidden_below_a_null_struct_are_not_fed() -> None:
    lists = pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int64(), 2))
    column = pa.StructArray.from_arrays([lists], ["x"], mask=pa.array([False, True, False]))
    groups, faults = convert_table(pa.table({"a": column}).slice(1), "a.x", "int64", (None, 2))
    assert groups[0].arrays[0].tolist() == [[5, 6]]
    assert reasons(faults) == {0: Reason.NULL}


# --- bad rows


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
        (pa.array([[], [1]], pa.list_(pa.int64())), "int64", (None, 1), 0, "list of 0 values where .* takes 1"),
        # the second list of the second row, the fourth of all
        (pa.array([[[1], [2]], [[3], [4, 5]]]), "int64", (None, 2, 1), 1, "lists of different lengths inside one row"),
        (pa.array([[[1], [2]], [[3], [4, 5]]]), "int64", None, 1, "lists of different lengths inside one row"),
        (pa.array([[1, 2, 3, 4]]), "int64", (None, None, 3), 0, "cannot fill|takes"),
        (pa.array([b"abc", b"ab"]), "uint8", (None, 3), 1, "2 bytes where .* takes 3"),
        (pa.array([b"abc", b"ab"], pa.binary_view()), "uint8", (None, 3), 1, "2 bytes where .* takes 3"),
        (pa.array([b"abcd", b"abcde"]), "float32", (None, 1), 1, "5 bytes where .* takes 4"),
        (pa.array([b"abcd", b"abcde"]), "float32", (None, None), 1, "5 bytes are no whole number of float32"),
        (pa.array([[b"ab", b"a"]]), "uint8", (None, None, None), 0, "different numbers of bytes inside one row"),
    ],
)
def test_bad_rows_are_named_and_the_others_stay(
    column: pa.Array, dtype: str, shape: Shape, row: int, words: str
) -> None:
    groups, faults = convert(column, dtype, shape)
    (bad,) = faults.in_order()
    assert bad.row_index == row
    kinds = {"null": Reason.NULL, "bytes": Reason.WRONG_BYTES}
    assert bad.reason == next((kind for word, kind in kinds.items() if word in words), Reason.WRONG_LENGTH)
    with pytest.raises(DataError, match=f"column 'pixels': .*({words})"):
        raise DataError(bad.message)
    assert "inputs:0" in bad.message or "inside one row" in bad.message
    assert sorted(i for fed in groups for i in fed.rows.tolist()) == [i for i in range(len(column)) if i != row]


def test_bad_rows_count_from_the_start_of_a_sliced_column_of_many_chunks() -> None:
    column = pa.chunked_array([pa.array([None, 1, 2]).slice(1), pa.array([3, None, None]).slice(0, 2)])
    groups, faults = convert(column, "int64", (None,))
    assert reasons(faults) == {3: Reason.NULL}
    assert groups[0].rows.tolist() == [0, 1, 2]
    assert groups[0].arrays[0].tolist() == [1, 2, 3]


def test_a_list_where_none_is_taken_is_told_so() -> None:
    _, faults = convert_table(pa.table({"x": [[], [1.0, 2.0]]}), "x", "float32", (None, 0))
    assert [bad.message for bad in faults.in_order()] == [
        "column 'x': a list of 2 values where inputs:0 (float32 [?, 0]) takes 0"
    ]


def test_strings_are_stacked_for_a_tensor_whose_dtype_is_known_when_loaded() -> None:
    columns = InputSchema("in.parquet", pa.schema([("a", pa.binary()), ("b", pa.binary())]), ())
    binding = bind_feed(resolve_feed(columns, "a,b"), TensorSpec("inputs:0", None, None))
    assert binding.source.is_stacked
