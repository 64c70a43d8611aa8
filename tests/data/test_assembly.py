from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import as_read

from engine.data.assembly import ScoredRows, assemble, output_schema
from engine.data.columns import ColumnPath, InputSchema, resolve_column
from engine.data.output import OutputColumn, bind_output
from engine.data.source import Slice
from engine.errors import GraphError, SchemaError
from engine.model.tensor import Shape, TensorSpec

QUICK = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def output(dtype: str, shape: Shape, column: str = "score", is_text: bool = False) -> OutputColumn:
    return bind_output(TensorSpec("prediction:0", dtype, shape), column, is_text)


def keeping(table: pa.Table, *names: str) -> list[ColumnPath]:
    return [resolve_column(InputSchema("in.parquet", table.schema, ()), name, "--keep") for name in names]


def slice_of(table: pa.Table, start_row: int = 100) -> Slice:
    rows = np.arange(len(table)) * 2 + start_row  # every other row was left out by a condition
    return Slice(table, "/data/in/part.parquet", "in/part.parquet", rows, 2 * len(table))


def put_together(
    table: pa.Table,
    names: list[str],
    outputs: list[OutputColumn],
    scored: list[ScoredRows],
    has_provenance: bool = False,
) -> pa.Table:
    keep = keeping(table, *names)
    schema = output_schema(keep, outputs, has_provenance)
    made = assemble(schema, keep, outputs, slice_of(table), scored)
    assert made.schema.equals(schema)
    made.validate(full=True)
    return made


def scored(rows: list[int], *arrays: Any) -> ScoredRows:
    return ScoredRows(np.array(rows, np.int64), list(arrays))


def python_values(column: pa.ChunkedArray) -> list[Any]:
    """Rows as nested lists; a fixed-shape tensor's rows are flat in Python."""
    if isinstance(column.type, pa.FixedShapeTensorType):
        flat = [row for chunk in column.chunks for row in chunk.storage.to_pylist()]
        return [None if row is None else np.array(row).reshape(column.type.shape).tolist() for row in flat]
    return column.to_pylist()


IDS = pa.table({"id": [10, 11, 12, 13, 14]})


# --- the schema of a part


def test_kept_columns_come_first_then_fetches_then_where_rows_came_from() -> None:
    table = pa.table({"id": [1], "s": pa.array([{"x": 1}])})
    schema = output_schema(
        keeping(table, "s.x", "id"), [output("float32", (None, 2)), output("int64", (None,), "n")], True
    )
    assert schema.names == ["s.x", "id", "score", "n", "_file", "_row"]
    assert schema.types == [pa.int64()] * 2 + [pa.list_(pa.float32(), 2), pa.int64(), pa.string(), pa.int64()]


@pytest.mark.parametrize(
    ("names", "columns", "has_provenance", "twice"),
    [
        (["id"], ["id"], False, "id"),
        (["_row"], ["score"], True, "_row"),
        (["id"], ["score", "score"], False, "score"),
        ([], ["_file"], True, "_file"),
        (["s.x"], ["s.x"], False, "s.x"),
    ],
)
def test_two_output_columns_of_one_name_are_a_mistake(
    names: list[str], columns: list[str], has_provenance: bool, twice: str
) -> None:
    table = pa.table({"id": [1], "_row": [1], "s": pa.array([{"x": 1}])})
    outputs = [output("float32", (None,), column) for column in columns]
    with pytest.raises(SchemaError, match=f"two output columns are called '{twice}'; .*--fetch .*--keep"):
        output_schema(keeping(table, *names), outputs, has_provenance)


def test_a_kept_column_may_be_called_like_a_provenance_column_that_is_not_added() -> None:
    table = pa.table({"_row": [1, 2]})
    made = put_together(table, ["_row"], [output("int64", (None,))], [scored([0, 1], np.array([3, 4]))])
    assert made.to_pydict() == {"_row": [1, 2], "score": [3, 4]}


# --- rows


def test_scored_rows_stand_beside_what_was_kept_of_them() -> None:
    made = put_together(
        IDS,
        ["id"],
        [output("float32", (None,))],
        [scored([0, 1], np.array([0, 1], np.float32)), scored([4], np.array([4], np.float32))],
        has_provenance=True,
    )
    assert made.to_pydict() == {
        "id": [10, 11, 14],
        "score": [0, 1, 4],
        "_file": ["in/part.parquet"] * 3,
        "_row": [100, 102, 108],  # counted in the file
    }


@pytest.mark.parametrize("has_provenance", [True, False])
def test_a_slice_without_a_scored_row_gives_a_table_without_rows(has_provenance: bool) -> None:
    outputs = [output("float32", (None, 2, 3)), output("string", (None, None), "words")]
    made = put_together(IDS, ["id"], outputs, [], has_provenance)
    assert len(made) == 0


def test_nothing_need_be_kept() -> None:
    made = put_together(IDS, [], [output("int64", (None,))], [scored([1, 2], np.array([1, 2]))])
    assert made.to_pydict() == {"score": [1, 2]}


OUTPUTS: list[tuple[str, Shape, tuple[int, ...]]] = [
    ("float32", (None,), ()),
    ("bool", (None,), ()),
    ("string", (None,), ()),
    ("int64", (None, 3), (3,)),
    ("bool", (None, 3), (3,)),
    ("string", (None, 2), (2,)),
    ("float32", (None, 2, 3), (2, 3)),
    ("uint8", (None, 2, 1, 2), (2, 1, 2)),
    ("float64", (None, None), (2,)),
    ("float64", (None, None, 2), (3, 2)),
    ("float32", (None, 0), (0,)),
    ("string", (None, 2, None), (2, 2)),
]


def values_of(dtype: str, rows: list[int], extents: tuple[int, ...]) -> np.ndarray:
    """An array in which every row tells which one it is."""
    shape = (len(rows), *extents)
    numbers = np.array(rows, np.int64).reshape(-1, *(1 for _ in extents)) + np.zeros(shape, np.int64)
    if dtype == "string":
        array = np.empty(shape, object)
        array.reshape(-1)[:] = [str(n).encode() for n in numbers.reshape(-1)]
        return array
    return (numbers % 2 == 0) if dtype == "bool" else numbers.astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "shape", "extents", "is_text"),
    [(*each, is_text) for each in OUTPUTS for is_text in (False, True) if each[0] == "string" or not is_text],
    ids=str,
)
@pytest.mark.parametrize("parts", [[[1, 3], [0, 2, 4]], [[4], [3], [0]], [[2], [0, 1]]], ids=str)
def test_rows_out_of_order_are_put_back(
    dtype: str, shape: Shape, extents: tuple[int, ...], is_text: bool, parts: list[list[int]]
) -> None:
    batches = [scored(rows, values_of(dtype, rows, extents)) for rows in parts]
    made = put_together(IDS, ["id"], [output(dtype, shape, is_text=is_text)], batches, has_provenance=True)
    order = sorted(row for rows in parts for row in rows)
    expected = values_of(dtype, order, extents).tolist()
    if is_text:
        made = made.set_column(1, "score", made.column("score").cast(bytes_of(made.schema.field("score").type)))
    assert python_values(made.column("score")) == expected
    assert made.column("id").to_pylist() == [10 + row for row in order]
    assert made.column("_row").to_pylist() == [100 + 2 * row for row in order]


def bytes_of(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(bytes_of(kind.value_type), kind.list_size)
    return pa.list_(bytes_of(kind.value_type)) if pa.types.is_list(kind) else pa.binary()


def test_rows_of_other_extents_lie_beside_each_other_in_nested_lists() -> None:
    first, second = np.array([[1.0], [2.0]]), np.array([[3.0, 4.0]])
    made = put_together(IDS, ["id"], [output("float64", (None, None))], [scored([0, 4], first), scored([2], second)])
    assert made.to_pydict() == {"id": [10, 12, 14], "score": [[1], [3, 4], [2]]}


def test_rows_that_the_schema_did_not_foresee_are_an_error_that_shows_both() -> None:
    with pytest.raises(GraphError, match=r"\[1, 3\].*'score'.*fixed_size_list"):
        put_together(IDS, [], [output("float32", (None, 2))], [scored([0], np.zeros((1, 3), np.float32))])


# --- kept columns


def test_kept_fields_of_structs_are_columns_of_their_path() -> None:
    rows: list[Any] = [{"size": {"w": 1}, "data": b"a"}, None, {"size": None, "data": b"c"}]
    table = pa.table({"image": pa.chunked_array([pa.array(rows[:1]), pa.array(rows[1:], pa.array(rows).type)])})
    batches = [scored([2], np.array([2])), scored([0, 1], np.array([0, 1]))]
    made = put_together(table, ["image.size.w", "image.data", "image"], [output("int64", (None,))], batches)
    assert made.to_pydict() == {
        "image.size.w": [1, None, None],
        "image.data": [b"a", None, b"c"],
        "image": rows,
        "score": [0, 1, 2],
    }


def extension(kind: pa.DataType, storage: list[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(storage, kind.storage_type))


TENSORS = extension(pa.fixed_shape_tensor(pa.int32(), [1, 2]), [[1, 2], [3, 4], None])
KEPT = {
    "tensor": TENSORS,
    "struct of tensor": pa.StructArray.from_arrays([TENSORS], ["t"]),
    "list of tensor": pa.ListArray.from_arrays([0, 1, 2, 3], TENSORS),
    "uuid": extension(pa.uuid(), [b"a" * 16, None, b"c" * 16]),
    "json": extension(pa.json_(), ["1", None, "2"]),
    "bool8": extension(pa.bool8(), [1, 0, None]),
    "string view": pa.array(["a", None, "c"], pa.string_view()),
    "binary view": pa.array([b"a", None, b"c"], pa.binary_view()),
    "list of string views": pa.array([["a"], None, ["c", "d"]], pa.list_(pa.string_view())),
    "struct of string view": pa.array([{"v": "a"}, None, {"v": None}], pa.struct([("v", pa.string_view())])),
    "map": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int32())),
    "map of string views": pa.array([[("a", "b")], [], None], pa.map_(pa.string(), pa.string_view())),
    "null": pa.nulls(3),
    "decimal": pa.array([1, 2, None], pa.decimal128(5, 2)),
    "dictionary": pa.array(["a", "b", None]).dictionary_encode(),
    "list of dictionary": pa.array([["a"], ["b"], None], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    "half": pa.array([1, 2, None], pa.float16()),
    "timestamp": pa.array([1, 2, None], pa.timestamp("ns", "Europe/Berlin")),
    "duration": pa.array([1, 2, None], pa.duration("s")),
    "large list": pa.array([[1], [], None], pa.large_list(pa.int8())),
    "list of structs": pa.array([[{"a": 1}], [], None]),
}


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("parts", [[[0], [1], [2]], [[0, 2]], [[2], [0]]], ids=str)
def test_every_kind_of_column_can_be_kept(name: str, is_chunked: bool, parts: list[list[int]]) -> None:
    column = KEPT[name]
    chunks = pa.chunked_array([column.slice(0, 1), column.slice(1)])
    table = as_read(pa.table({"kept": chunks if is_chunked else column}))
    batches = [scored(rows, np.array(rows)) for rows in parts]
    made = put_together(table, ["kept"], [output("int64", (None,))], batches)
    order = sorted(row for rows in parts for row in rows)
    assert made.column("score").to_pylist() == order
    values = column.to_pylist()
    assert made.column("kept").to_pylist() == [values[row] for row in order]


# --- no copies


@pytest.mark.parametrize(
    ("dtype", "shape", "extents"),
    [
        ("float32", (None,), ()),
        ("float64", (None, 3), (3,)),
        ("float16", (None, 2, 3), (2, 3)),
        ("float32", (None, None), (4,)),
        ("int64", (None, 2, 2), (2, 2)),
        ("uint8", (None,), ()),
    ],
    ids=str,
)
def test_fetched_numbers_are_not_copied(dtype: str, shape: Shape, extents: tuple[int, ...]) -> None:
    arrays = [values_of(dtype, rows, extents) for rows in ([0, 1], [2, 3, 4])]
    batches = [scored([0, 1], arrays[0]), scored([2, 3, 4], arrays[1])]
    made = put_together(IDS, ["id"], [output(dtype, shape)], batches)
    column = made.column("score")
    assert column.num_chunks == 2
    for chunk, array in zip(column.chunks, arrays, strict=True):
        assert np.shares_memory(np.frombuffer(leaf_buffer(chunk), np.uint8), array)
    kept = made.column("id").chunk(0).buffers()[1]
    assert kept.address == IDS.column("id").chunk(0).buffers()[1].address  # all rows: kept as they are


def leaf_buffer(array: pa.Array) -> pa.Buffer:
    while True:
        if isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        elif pa.types.is_nested(array.type):
            array = array.values
        else:
            buffer = array.buffers()[1]
            assert buffer is not None
            return buffer


# --- as a loop has it


@st.composite
def groupings(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """Rows of a slice, some of them in groups that are scored one after the other, each in batches."""
    num_rows = draw(st.integers(0, 12))
    group_of = [draw(st.sampled_from([None, 0, 1, 2])) for _ in range(num_rows)]
    batches = []
    for group in range(3):
        rows = [i for i, mine in enumerate(group_of) if mine == group]
        step = draw(st.integers(1, 4))
        batches += [rows[start : start + step] for start in range(0, len(rows), step)]
    return num_rows, batches


@QUICK
@given(groupings(), st.integers(0, len(OUTPUTS) - 1), st.integers(0, 12))
def test_a_table_is_what_a_loop_over_its_rows_gives(drawn: tuple[int, list[list[int]]], which: int, cut: int) -> None:
    num_rows, batches = drawn
    dtype, shape, extents = OUTPUTS[which]
    ids = pa.array([f"row {i}" for i in range(num_rows)], pa.string())
    table = pa.table({"id": pa.chunked_array([ids.slice(0, cut), ids.slice(min(cut, num_rows))], pa.string())})
    outputs = [output(dtype, shape), output("int64", (None, None), "lengths")]
    parts = [
        scored(rows, values_of(dtype, rows, extents), values_of("int64", rows, (len(batches[0]) + i % 2,)))
        for i, rows in enumerate(batches)
    ]
    made = put_together(table, ["id"], outputs, parts, has_provenance=True)
    found = {row: i for i, rows in enumerate(batches) for row in rows}
    assert made.column("id").to_pylist() == [f"row {row}" for row in sorted(found)]
    assert made.column("_row").to_pylist() == [100 + 2 * row for row in sorted(found)]
    assert python_values(made.column("score")) == values_of(dtype, sorted(found), extents).tolist()
    lengths = {row: len(batches[0]) + i % 2 for row, i in found.items()}
    assert made.column("lengths").to_pylist() == [[row] * lengths[row] for row in sorted(found)]
