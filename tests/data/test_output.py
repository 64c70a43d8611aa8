import io
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from engine.data.output import OutputColumn, bind_output, check_batch_axis, check_output_names, observe_shape, to_column
from engine.errors import GraphError, SchemaError
from engine.model.tensor import TensorSpec

QUICK = settings(max_examples=150, deadline=None, derandomize=True, database=None)
Shape = tuple[int | None, ...] | None
NUMBERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]


def bound(dtype: str, shape: Shape) -> OutputColumn:
    return bind_output(TensorSpec("prediction:0", dtype, shape), "score")


def through_parquet(column: pa.Array) -> pa.ChunkedArray:
    file = io.BytesIO()
    pq.write_table(pa.table({"score": column}), file)
    return pq.read_table(file).column("score")


def python_values(column: Any) -> list[Any]:
    """Rows as nested lists; a fixed-shape tensor's rows are flat in Python."""
    if isinstance(column.type, pa.FixedShapeTensorType):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        flat = [chunk.storage.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
        return [row for each in flat for row in each.reshape(-1, *column.type.shape).tolist()]
    return column.to_pylist()


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("float32", (None,), pa.float32()),
        ("bool", (None,), pa.bool_()),
        ("float16", (None,), pa.float16()),
        ("string", (None,), pa.binary()),
        ("bfloat16", (None,), pa.float32()),
        ("qint8", (None,), pa.int8()),
        ("quint8", (None,), pa.uint8()),
        ("qint16", (None,), pa.int16()),
        ("quint16", (None,), pa.uint16()),
        ("qint32", (None,), pa.int32()),
        ("float32", (None, 3), pa.list_(pa.float32(), 3)),
        ("float32", (8, 3), pa.list_(pa.float32(), 3)),
        ("float32", (None, 1), pa.list_(pa.float32(), 1)),
        ("bfloat16", (None, 3), pa.list_(pa.float32(), 3)),
        ("float32", (None, 2, 3), pa.fixed_shape_tensor(pa.float32(), [2, 3])),
        ("int64", (None, 2, 3, 4), pa.fixed_shape_tensor(pa.int64(), [2, 3, 4])),
        ("string", (None, 2), pa.list_(pa.binary(), 2)),
        ("string", (None, 2, 3), pa.list_(pa.list_(pa.binary(), 3), 2)),  # Arrow's tensors hold numbers only
        ("float32", (None, None), pa.list_(pa.float32())),
        ("float32", (None, 0), pa.list_(pa.float32())),
        ("float32", (None, None, 3), pa.list_(pa.list_(pa.float32()))),
        ("float32", (None, 2, 0), pa.list_(pa.list_(pa.float32()))),
        ("string", (None, None, 3), pa.list_(pa.list_(pa.binary()))),
    ],
)
def test_the_type_of_a_fetch(dtype: str, shape: Shape, expected: pa.DataType) -> None:
    assert bound(dtype, shape).type == expected


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "resource", "variant"])
@pytest.mark.parametrize("shape", [(None,), (None, 3), (None, 2, 2), (None, None)])
def test_what_no_column_holds_is_refused_by_name(dtype: str, shape: Shape) -> None:
    with pytest.raises(SchemaError, match=f"prediction:0 .*no Parquet column holds {dtype}"):
        bound(dtype, shape)


@pytest.mark.parametrize("shape", [(), None])
def test_a_fetch_needs_a_batch_axis(shape: Shape) -> None:
    with pytest.raises(GraphError, match="--fetch prediction:0 .* has no batch axis"):
        bound("float32", shape)


def check_round_trip(output: OutputColumn, array: np.ndarray, expected: list[Any]) -> None:
    column = to_column(output, array)
    column.validate(full=True)
    assert column.type == output.type
    assert python_values(column) == expected
    again = through_parquet(column)
    assert again.type == output.type
    assert python_values(again) == expected


@pytest.mark.parametrize("dtype", [*NUMBERS, "bool"])
@pytest.mark.parametrize("extents", [(), (3,), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("num_rows", [5, 0])
def test_arrays_survive_a_parquet_file(dtype: str, extents: tuple[int, ...], num_rows: int) -> None:
    array = (np.arange(num_rows * int(np.prod(extents))) % 2).astype(dtype).reshape(num_rows, *extents)
    check_round_trip(bound(dtype, (None, *extents)), array, array.tolist())


@pytest.mark.parametrize("dtype", [*NUMBERS, "bool"])
def test_a_column_of_tensors_gives_them_back_to_numpy(dtype: str) -> None:
    array = (np.arange(30) % 2).astype(dtype).reshape(5, 2, 3)
    column = to_column(bound(dtype, (None, 2, 3)), array)
    if not isinstance(column.type, pa.FixedShapeTensorType):
        assert column.to_pylist() == array.tolist()
    else:
        np.testing.assert_array_equal(column.to_numpy_ndarray(), array)


@pytest.mark.parametrize(
    ("shape", "array"),
    [
        ((None, None), np.arange(6).reshape(2, 3)),
        ((None, None), np.zeros((2, 0), int)),
        ((None, 0), np.zeros((3, 0), int)),
        ((None, None, 2), np.arange(12).reshape(2, 3, 2)),
        ((None, 2, 0), np.zeros((3, 2, 0), int)),
        ((None, 0, 2), np.zeros((3, 0, 2), int)),
        ((None, None, None, None), np.arange(24).reshape(1, 2, 3, 4)),
        ((None, None), np.zeros((0, 3), int)),
    ],
)
def test_extents_of_zero_or_unknown_become_nested_lists(shape: Shape, array: np.ndarray) -> None:
    check_round_trip(bound("int64", shape), array, array.tolist())


@pytest.mark.parametrize(
    "shape", [(None,), (None, 6), (None, 2, 3), (None, None), (None, None, 3)], ids=lambda shape: str(len(shape))
)
def test_strings_are_written_as_bytes(shape: tuple[int | None, ...]) -> None:
    values = [f"é{i}\0".encode() for i in range(12)]
    extents = {1: (12,), 2: (2, 6), 3: (2, 2, 3)}[len(shape)]
    array = np.array(values, object).reshape(extents)
    check_round_trip(bound("string", shape), array, array.tolist())


def test_bfloat16_is_written_as_float32() -> None:
    array = np.array([[1.0, -2.5], [3.0, np.inf]]).astype(ml_dtypes.bfloat16)
    check_round_trip(bound("bfloat16", (None, 2)), array, [[1.0, -2.5], [3.0, np.inf]])
    check_round_trip(bound("bfloat16", (None,)), array[:, 0], [1.0, 3.0])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
def test_quantised_integers_are_written_as_their_integers(dtype: str) -> None:
    tensorflow_dtype = np.dtype([("q" + dtype, dtype)])  # what TensorFlow gives for DT_QINT8 and so on
    array = np.array([[1, 2], [3, 100]], dtype).view(tensorflow_dtype)
    check_round_trip(bound("q" + dtype, (None, 2)), array.reshape(2, 2), [[1, 2], [3, 100]])


def test_numbers_are_not_copied() -> None:
    array = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    column = to_column(bound("float32", (None, 2, 3)), array)
    assert column.storage.values.buffers()[1].address == array.__array_interface__["data"][0]


def test_arrays_of_any_memory_order() -> None:
    array = np.arange(12).reshape(3, 4).T
    check_round_trip(bound("int64", (None, 3)), array, array.tolist())
    check_round_trip(bound("int64", (None,)), array[:, 1], array[:, 1].tolist())


@pytest.mark.parametrize(
    ("shape", "found"), [((None, 3), (2, 4)), ((None, 3), (2,)), ((None,), (2, 1)), ((None, None, 3), (2, 3, 4))]
)
def test_rows_of_other_extents_are_refused(shape: Shape, found: tuple[int, ...]) -> None:
    with pytest.raises(GraphError) as caught:
        to_column(bound("float32", shape), np.zeros(found, np.float32))
    assert "prediction:0" in str(caught.value)
    assert "'score'" in str(caught.value)
    assert str(list(found)) in str(caught.value)


@pytest.mark.parametrize("found", [(), (3,), (1, 5), (10,)])
def test_a_first_axis_that_is_not_the_batch_shows_both_shapes(found: tuple[int, ...]) -> None:
    tensor = TensorSpec("prediction:0", "float32", (None,))
    with pytest.raises(GraphError) as caught:
        check_batch_axis(tensor, np.zeros(found, np.float32), 5)
    for words in ("prediction:0 (float32 [?])", "5 rows", str(list(found))):
        assert words in str(caught.value)


def test_a_first_axis_that_is_the_batch() -> None:
    check_batch_axis(TensorSpec("prediction:0", "float32", None), np.zeros((5, 2)), 5)
    check_batch_axis(TensorSpec("prediction:0", "float32", None), np.zeros(0), 0)


@pytest.mark.parametrize(
    ("shape", "seen", "expected"),
    [
        ((None, 3), [(16, 3), (1, 3)], (None, 3)),  # known already
        ((None,), [(16,), (1,)], (None,)),
        ((None, None), [(16, 3), (1, 3)], (None, 3)),
        (None, [(16, 3), (1, 3)], (None, 3)),
        (None, [(16,), (1,)], (None,)),
        ((None, None), [(16, 3), (1, 2)], (None, None)),  # as long as the batch's longest row, say
        ((None, None, 4), [(16, 3, 4), (1, 2, 4)], (None, None, 4)),
        ((None, None), [], (None, None)),
        (None, [], None),
    ],
)
def test_open_extents_are_filled_from_what_two_batches_gave(shape: Shape, seen: list[Any], expected: Shape) -> None:
    tensor = TensorSpec("prediction:0", "float32", shape)
    assert observe_shape(tensor, [(each[0], np.zeros(each)) for each in seen]).shape == expected


def test_a_rank_that_changes_is_refused() -> None:
    tensor = TensorSpec("prediction:0", "float32", None)
    with pytest.raises(GraphError, match="another rank"):
        observe_shape(tensor, [(4, np.zeros((4, 2))), (1, np.zeros(1))])


def test_a_batch_axis_is_looked_for_in_every_sample() -> None:
    tensor = TensorSpec("prediction:0", "float32", (None, 3))
    with pytest.raises(GraphError, match="first axis"):
        observe_shape(tensor, [(1, np.zeros((1, 3))), (4, np.zeros((1, 3)))])


def test_two_columns_of_one_name() -> None:
    check_output_names(["a", "b", "A"])
    with pytest.raises(SchemaError, match="'b'.*--fetch.*--keep"):
        check_output_names(["a", "b", "b"])


@st.composite
def arrays(draw: st.DrawFn) -> tuple[Shape, np.ndarray]:
    dtype = draw(st.sampled_from([*NUMBERS, "bool"]))
    elements = {"allow_nan": False} if dtype.startswith("float") else None
    array = draw(npst.arrays(dtype, npst.array_shapes(max_dims=4, max_side=3, min_side=0), elements=elements))
    extents = [draw(st.sampled_from([n, None])) for n in array.shape[1:]]
    return (None, *extents), array


@QUICK
@given(arrays())
def test_a_column_holds_what_the_array_holds(drawn: tuple[Shape, np.ndarray]) -> None:
    shape, array = drawn
    output = bound(array.dtype.name, shape)
    column = to_column(output, array)
    assert column.type == output.type
    assert len(column) == len(array)
    assert python_values(column) == array.tolist()
