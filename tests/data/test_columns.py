import itertools
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.columns import (
    ColumnPath,
    InputSchema,
    leaf_names,
    resolve_column,
    resolve_feed,
    select_columns,
)
from engine.errors import SchemaError

QUICK = settings(max_examples=150, deadline=None, derandomize=True, database=None)
IMAGE = pa.struct([("bytes", pa.binary()), ("size", pa.struct([("w", pa.int32()), ("h", pa.int32())]))])
FIELDS = [
    ("f_2", pa.float32()),
    ("f_10", pa.int64()),
    ("f_1", pa.float64()),
    ("age", pa.int8()),
    ("image", IMAGE),
    ("a.b", pa.string()),
    ("x,y", pa.list_(pa.int8())),
    ("w*", pa.bool_()),
]
COLUMNS = InputSchema("in/part-0.parquet", pa.schema(FIELDS), ("dt",))


def named(*fields: str) -> InputSchema:
    return InputSchema("in/part-0.parquet", pa.schema([pa.field(name, pa.int8()) for name in fields]), ())


def paths(text: str, columns: InputSchema = COLUMNS) -> list[str]:
    return [str(path) for path in resolve_feed(columns, text).columns]


# --- one column


@pytest.mark.parametrize(
    ("text", "names", "kind"),
    [
        ("age", ("age",), pa.int8()),
        ("image", ("image",), IMAGE),
        ("image.bytes", ("image", "bytes"), pa.binary()),
        ("image.size.h", ("image", "size", "h"), pa.int32()),
        ("a.b", ("a.b",), pa.string()),  # a column of that whole name, no path
        ("dt", ("dt",), pa.string()),  # a partition folder
    ],
)
def test_columns_fields_and_partitions_are_found_by_name(text: str, names: tuple[str, ...], kind: pa.DataType) -> None:
    found = resolve_column(COLUMNS, text, "--keep")
    assert found == ColumnPath(names, kind)
    assert str(found) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("agee", ["did you mean age?"]),
        ("AGE", ["it has f_2, f_10, f_1, age"]),
        ("image.byte", ["did you mean image.bytes?"]),
        ("image.size.width", ["'image.size.width'"]),
        ("image.", ["'image.'"]),
        ("", ["''"]),
        ("zzz", ["it has f_2, f_10, f_1, age, image.bytes, image.size.w, image.size.h, a.b, x,y, w*, dt"]),
    ],
)
def test_a_column_that_is_not_there_is_told_with_the_nearest_name(text: str, words: list[str]) -> None:
    with pytest.raises(SchemaError) as caught:
        resolve_column(COLUMNS, text, "--keep COLUMN")
    for word in ["in/part-0.parquet has no column", "(--keep COLUMN)", *words]:
        assert word in str(caught.value)


def test_a_file_without_columns_says_so() -> None:
    with pytest.raises(SchemaError, match="has no column 'x'; it has none"):
        resolve_column(named(), "x", "--keep")


@pytest.mark.parametrize("names", [("x", "x"), ("x", "y", "x")])
def test_a_column_that_the_file_has_twice_cannot_be_meant(names: tuple[str, ...]) -> None:
    with pytest.raises(SchemaError, match=r"in/part-0\.parquet has 2 columns called 'x'; rename them upstream"):
        resolve_column(named(*names), "x", "--keep")
    with pytest.raises(SchemaError, match="has 2 columns called 'x'"):
        resolve_feed(named(*names), "x")
    if "y" in names:
        assert paths("y", named(*names)) == ["y"]  # the others stay usable


def test_a_field_that_a_struct_has_twice_cannot_be_meant() -> None:
    kind = pa.struct([pa.field("a", pa.int8()), pa.field("a", pa.float32())])
    with pytest.raises(SchemaError, match=r"s\.a"):
        resolve_column(InputSchema("in/part-0.parquet", pa.schema([("s", kind)]), ()), "s.a", "--keep")


def test_a_glob_over_columns_of_one_name_is_refused() -> None:
    with pytest.raises(SchemaError, match="has 2 columns called 'f_1'"):
        resolve_feed(named("f_1", "f_2", "f_1"), "f_*")


# --- the columns of a feed


@pytest.mark.parametrize(
    ("text", "expected", "is_stacked"),
    [
        ("age", ["age"], False),
        ("image.size.w", ["image.size.w"], False),
        ("f_1,f_2", ["f_1", "f_2"], True),  # in the order in which they are written
        (" f_2 , f_1 ,", ["f_2", "f_1"], True),
        ("f_*", ["f_2", "f_10", "f_1"], True),  # in the order of the file
        ("f_?", ["f_2", "f_1"], True),
        ("f_[12]", ["f_2", "f_1"], True),
        ("ag*", ["age"], True),  # one column that a glob matches becomes an axis of one
        ("age,f_*", ["age", "f_2", "f_10", "f_1"], True),
        ("image.size.*", ["image.size.w", "image.size.h"], True),
        ("image.size.h,age", ["image.size.h", "age"], True),
        ("x,y", ["x,y"], False),  # whole names win over what their signs mean
        ("w*", ["w*"], False),
        ("w*,age", ["w*", "age"], True),
        ("a.b", ["a.b"], False),
        ("dt", ["dt"], False),
    ],
)
def test_what_a_feed_names(text: str, expected: list[str], is_stacked: bool) -> None:
    source = resolve_feed(COLUMNS, text)
    assert [str(path) for path in source.columns] == expected
    assert source.is_stacked == is_stacked
    assert source.text == text


def test_a_glob_takes_top_level_columns_before_fields() -> None:
    columns = InputSchema("f", pa.schema([("s", pa.struct([("xs", pa.int8())])), ("s.y", pa.int8())]), ())
    assert paths("s*", columns) == ["s", "s.y"]
    assert paths("s.x*", columns) == ["s.xs"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("g_*", ["no column that matches 'g_*'", "it has f_2, f_10, f_1, age", "(--feed TENSOR=COLUMN)"]),
        ("F_*", ["no column that matches 'F_*'"]),  # as it is written
        ("age,g_?", ["no column that matches 'g_?'"]),
        ("d[t]", ["no column that matches 'd[t]'"]),  # a partition is text, the same on every row
        ("age,agee", ["no column 'agee'", "did you mean age?"]),
        ("f_1,age,f_1", ["names the column f_1 twice", "name it once"]),
        ("f_1,f_*", ["f_1,f_* names the column f_1 twice"]),
        ("image.size.w,image.size.*", ["names the column image.size.w twice"]),
    ],
)
def test_feeds_that_mean_nothing_or_a_column_twice(text: str, words: list[str]) -> None:
    with pytest.raises(SchemaError) as caught:
        resolve_feed(COLUMNS, text)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_a_feed_without_a_column_is_refused(text: str) -> None:
    with pytest.raises(SchemaError, match="column"):
        resolve_feed(COLUMNS, text)


@QUICK
@given(st.lists(st.text("ab.,*?[ ", min_size=1, max_size=4), min_size=1, max_size=6, unique=True), st.data())
def test_every_column_is_found_by_its_whole_name(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    source = resolve_feed(named(*names), name)
    assert source.columns == (ColumnPath((name,), pa.int8()),)
    assert not source.is_stacked


# --- values


def test_values_of_fields_below_null_structs_are_null() -> None:
    rows: list[Any] = [{"bytes": b"a", "size": {"w": 1, "h": 2}}, None, {"bytes": None, "size": None}]
    table = pa.table({"image": pa.chunked_array([pa.array(rows, IMAGE), pa.array(rows[:1], IMAGE)])})
    columns = InputSchema("f", table.schema, ())
    assert resolve_column(columns, "image.bytes", "").of(table).to_pylist() == [b"a", None, None, b"a"]
    assert resolve_column(columns, "image.size.h", "").of(table).to_pylist() == [2, None, None, 2]
    assert resolve_column(columns, "image.size.h", "").of(table.slice(2)).to_pylist() == [None, 2]
    assert resolve_column(columns, "image", "").of(table).to_pylist() == [*rows, rows[0]]


def test_a_column_whose_name_has_a_dot_is_taken_whole() -> None:
    table = pa.table({"a": pa.array([{"b": 1}]), "a.b": pa.array([2])})
    assert resolve_column(InputSchema("f", table.schema, ()), "a.b", "").of(table).to_pylist() == [2]


# --- what is read


def select(*texts: str) -> pa.Schema:
    return select_columns(COLUMNS.schema, [resolve_column(COLUMNS, text, "--keep") for text in texts])


def test_only_the_fields_that_are_needed_are_read() -> None:
    assert select("age", "image.size.h").equals(
        pa.schema([("age", pa.int8()), ("image", pa.struct([("size", pa.struct([("h", pa.int32())]))]))])
    )
    both = pa.struct([("bytes", pa.binary()), ("size", pa.struct([("w", pa.int32())]))])
    assert select("image.size.w", "image.bytes").field("image").type == both  # fields in the order of the file
    assert select("image.size.w", "image").field("image").type == IMAGE
    assert select("image.size", "image.size.w").field("image").type == pa.struct([IMAGE.field("size")])


def test_columns_are_read_once_in_the_order_of_their_first_use() -> None:
    assert select("age", "f_1", "age", "image.bytes", "f_2", "image.size.w").names == ["age", "f_1", "image", "f_2"]
    assert select("a.b").names == ["a.b"]


def test_a_column_without_nulls_may_have_some_in_a_later_file() -> None:
    schema = pa.schema([pa.field("x", pa.int8(), nullable=False)])
    path = resolve_column(InputSchema("f", schema, ()), "x", "")
    assert select_columns(schema, [path]).field("x").nullable


def test_readers_select_structs_by_the_names_of_their_leaves() -> None:
    schema = pa.schema([("age", pa.int8()), ("image", IMAGE), ("none", pa.struct([]))])
    names = [name for name, _ in leaf_names(schema)]
    assert names == ["age", "image.bytes", "image.size.w", "image.size.h", "none"]
    assert dict(leaf_names(schema))["image.size.w"] == pa.int32()


TREE = pa.struct([(name, pa.struct([(leaf, pa.int8()) for leaf in "pqr"])) for name in "uv"])


@QUICK
@given(st.lists(st.sampled_from(["t.u.p", "t.u.q", "t.v.r", "t.v", "t.u", "n"]), min_size=1, max_size=4))
def test_a_selection_holds_what_was_asked_for_and_no_other_leaf(texts: list[str]) -> None:
    columns = InputSchema("f", pa.schema([("n", pa.int8()), ("t", TREE), ("o", pa.int8())]), ())
    chosen = select_columns(columns.schema, [resolve_column(columns, text, "") for text in texts])
    everything = [name for name, _ in leaf_names(columns.schema)]
    wanted = {
        leaf for leaf, text in itertools.product(everything, texts) if leaf == text or leaf.startswith(f"{text}.")
    }
    assert {name for name, _ in leaf_names(chosen)} == wanted
    for text in texts:
        assert resolve_column(InputSchema("f", chosen, ()), text, "")
