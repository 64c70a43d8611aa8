import math

import pyarrow as pa
import pytest

from engine.data.binding import bind_feed
from engine.data.columns import InputSchema, resolve_feed
from engine.data.feeding.fills import match_fills
from engine.errors import ConfigError
from engine.model.tensor import TensorSpec

SCHEMA = pa.schema(
    [
        ("f_1", pa.int64()),
        ("f_2", pa.float32()),
        ("f_3", pa.bool_()),
        ("word", pa.string()),
        ("s", pa.struct([("x", pa.int8()), ("y", pa.int8())])),
        ("other", pa.int8()),
    ]
)
COLUMNS = InputSchema("in.parquet", SCHEMA, ())


def match(fills: dict[str, str], *feeds: str) -> dict[str, str]:
    return match_fills(fills, [resolve_feed(COLUMNS, text) for text in feeds])


def fill(kind: pa.DataType, dtype: str | None, value: str) -> pa.Scalar | None:
    """The scalar that stands in for nulls of a column of this type."""
    source = resolve_feed(InputSchema("in.parquet", pa.schema([("age", kind)]), ()), "age")
    return bind_feed(source, TensorSpec("inputs:0", dtype, None), {"age": value}).fills[0]


# --- which columns


@pytest.mark.parametrize(
    ("fills", "feeds", "expected"),
    [
        ({}, ("word",), {}),
        ({"word": "a"}, ("word", "f_2"), {"word": "a"}),
        ({"s.x": "1"}, ("s.x,s.y",), {"s.x": "1"}),
        ({"f_*": "0"}, ("f_*",), {"f_1": "0", "f_2": "0", "f_3": "0"}),
        ({"f_1,f_2": "0"}, ("f_1,f_2", "f_3"), {"f_1": "0", "f_2": "0"}),  # the whole of what a --feed says
        ({"f_?": "0"}, ("f_1,f_2", "word"), {"f_1": "0", "f_2": "0"}),
        ({"s.*": "0"}, ("s.x,f_1", "s.y"), {"s.x": "0", "s.y": "0"}),
        ({"*": "0"}, ("f_2", "s.x"), {"f_2": "0", "s.x": "0"}),
        ({"f_*": "0", "f_2": "1"}, ("f_*",), {"f_1": "0", "f_2": "1", "f_3": "0"}),  # a name says more than a glob
        ({"f_2": "1", "f_*": "0"}, ("f_*",), {"f_1": "0", "f_2": "1", "f_3": "0"}),
    ],
)
def test_fills_are_meant_for_the_fed_columns(
    fills: dict[str, str], feeds: tuple[str, ...], expected: dict[str, str]
) -> None:
    assert match(fills, *feeds) == expected


@pytest.mark.parametrize("name", ["other", "g_*", "s", "F_1", "words"])
def test_a_fill_of_a_column_that_is_not_fed_is_a_mistake(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        match({name: "0"}, "f_1,word", "s.x", "word")
    assert f"--fill {name}: no fed column; expected one of f_1, word, s.x" in str(caught.value)


# --- which values


@pytest.mark.parametrize(
    ("kind", "dtype", "value", "expected"),
    [
        (pa.int64(), "int32", "7", pa.scalar(7, pa.int64())),
        (pa.int8(), "int8", "-128", pa.scalar(-128, pa.int8())),
        (pa.int64(), "float32", "-1", pa.scalar(-1, pa.int64())),
        (pa.int64(), "float32", "0.5", pa.scalar(0.5)),  # float64 where that alone can hold it
        (pa.int64(), "bfloat16", "0.5", pa.scalar(0.5)),
        (pa.int64(), "complex64", "0.5", pa.scalar(0.5)),
        (pa.int8(), "float32", "1000", pa.scalar(1000.0)),
        (pa.int64(), "float32", "nan", None),
        (pa.int64(), "float64", "-inf", pa.scalar(-math.inf)),
        (pa.float32(), "float32", "1", pa.scalar(1, pa.float32())),
        (pa.float32(), "float64", "1e3", pa.scalar(1000, pa.float32())),
        (pa.float64(), "float64", "NaN", None),
        (pa.float64(), "float32", "Infinity", pa.scalar(math.inf)),
        (pa.bool_(), "bool", "true", pa.scalar(True)),
        (pa.bool_(), "float32", "false", pa.scalar(False)),
        (pa.bool_(), "float32", "0.5", pa.scalar(0.5)),
        (pa.list_(pa.int16()), "int32", "3", pa.scalar(3, pa.int16())),
        (pa.dictionary(pa.int8(), pa.int16()), "int32", "3", pa.scalar(3, pa.int16())),
        (pa.fixed_shape_tensor(pa.float32(), [2]), "float32", "3", pa.scalar(3, pa.float32())),
        (pa.binary(), "uint8", "255", pa.scalar(255, pa.uint8())),  # raw bytes hold the tensor's values
        (pa.binary(8), "float32", "0.5", pa.scalar(0.5, pa.float32())),
    ],
    ids=str,
)
def test_numbers_are_read_in_the_columns_type(
    kind: pa.DataType, dtype: str, value: str, expected: pa.Scalar | None
) -> None:
    found = fill(kind, dtype, value)
    assert found is not None
    if expected is None:
        assert math.isnan(found.as_py())
    else:
        assert found == expected
        assert found.type == expected.type


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("unknown", "unknown"),
        ("", ""),
        ("a b", "a b"),
        ("7", "7"),
        ("true", "true"),
        ("null", "null"),
        ('"7"', "7"),  # a quoted word is a JSON string
        ('""', ""),
        ('"a\\nb"', "a\nb"),
        ('"open', '"open'),
        ("[1]", "[1]"),
        ("日本", "日本"),
    ],
)
def test_text_is_taken_as_it_is_written(kind: pa.DataType, value: str, expected: str) -> None:
    found = fill(kind, "string", value)
    assert found is not None
    assert found.as_py() == expected


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(4), pa.list_(pa.binary())], ids=str)
def test_bytes_of_string_tensors_are_filled_with_text(kind: pa.DataType) -> None:
    found = fill(kind, "string", '"é"')
    assert found is not None
    assert found.as_py() == "é".encode()


@pytest.mark.parametrize(
    ("kind", "dtype", "value", "expected"),
    [
        (pa.int64(), "int32", "0.5", "int64"),
        (pa.int64(), "int32", "nan", "int64"),
        (pa.int8(), "int32", "128", "int8"),
        (pa.uint8(), "int32", "-1", "uint8"),
        (pa.int64(), "int64", "1e30", "int64"),
        (pa.int64(), "float32", "none", "int64"),
        (pa.int64(), "float32", '"7"', "int64"),  # quoted, it is text
        (pa.int64(), "float32", "true", "int64"),
        (pa.int64(), "float32", "[1]", "int64"),
        (pa.int64(), "float32", "null", "int64"),
        (pa.int64(), "float32", "", "int64"),
        (pa.float64(), "float32", "1,5", "double"),
        (pa.float64(), "float32", "null", "double"),
        (pa.bool_(), "bool", "yes", "bool"),
        (pa.bool_(), "bool", "1", "bool"),
        (pa.binary(), "uint8", "256", "uint8"),
        (pa.binary(), "uint8", "0.5", "uint8"),
        (pa.binary(), "float32", "x", "float"),
        (pa.list_(pa.int16()), "int16", "0.5", "int16"),
    ],
    ids=str,
)
def test_values_of_another_type_are_mistakes(kind: pa.DataType, dtype: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fill(kind, dtype, value)
    assert f"--fill age={value}: expected a value of {expected}, found" in str(caught.value)


def test_a_tensor_whose_dtype_is_known_when_loaded_takes_a_value_of_the_columns_type() -> None:
    found = fill(pa.int64(), None, "7")
    assert found is not None
    assert found.as_py() == 7
    assert fill(pa.string(), None, "a") is not None


@pytest.mark.parametrize(("kind", "value"), [(pa.int64(), "0.5"), (pa.binary(), "7"), (pa.binary(), "a")], ids=str)
def test_a_fill_is_not_judged_before_the_dtype_is_known(kind: pa.DataType, value: str) -> None:
    """The driver binds by a file that may leave a dtype out; the actor binds again with the loaded graph's."""
    fill(kind, None, value)


def test_columns_without_a_fill_have_none() -> None:
    binding = bind_feed(
        resolve_feed(COLUMNS, "f_1,f_2,f_3"), TensorSpec("inputs:0", "float32", (None, 3)), {"f_2": "1", "word": "a"}
    )
    assert [None if each is None else each.as_py() for each in binding.fills] == [None, 1.0, None]
