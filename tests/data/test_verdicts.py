import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.assembly import ScoredRows
from engine.data.faults import Faults, Reason
from engine.data.output import OutputColumn, bind_output
from engine.data.verdicts import count_odd_values, set_bad_aside
from engine.model.tensor import Shape, TensorSpec

QUICK = settings(max_examples=100, deadline=None, derandomize=True, database=None)
FLOATS: dict[str, Any] = {
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
    "bfloat16": ml_dtypes.bfloat16,
}
NAN, INF = float("nan"), float("inf")


def output(dtype: str, shape: Shape = (None,), column: str = "score", is_text: bool = False) -> OutputColumn:
    return bind_output(TensorSpec("prediction:0", dtype, shape), column, is_text)


def scored(*arrays: Any, rows: list[int] | None = None) -> ScoredRows:
    return ScoredRows(np.array(range(len(arrays[0])) if rows is None else rows, np.int64), list(arrays))


def strings(values: list[Any]) -> np.ndarray:
    array = np.empty(np.shape(np.array(values, object)), object)
    array[...] = values
    return array


# --- what is counted


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinity_are_counted_apart(dtype: str) -> None:
    first = np.array([[1, NAN], [INF, -INF]], FLOATS[dtype])
    second = np.array([[NAN, NAN]], FLOATS[dtype])
    column = output(dtype, (None, 2))
    assert count_odd_values([scored(first), scored(second)], [column]) == {"score": (3, 2)}


@pytest.mark.parametrize("dtype", FLOATS)
def test_finite_numbers_are_not_counted(dtype: str) -> None:
    largest = ml_dtypes.finfo(FLOATS[dtype]).max
    array = np.array([0, -1, largest], FLOATS[dtype])
    assert count_odd_values([scored(array)], [output(dtype)]) == {}
    assert count_odd_values([], [output(dtype)]) == {}


@pytest.mark.parametrize(
    ("dtype", "array"),
    [
        ("int64", np.array([2**63 - 1, -(2**63)])),
        ("uint8", np.array([255, 0], np.uint8)),
        ("bool", np.array([True, False])),
        ("string", strings([b"nan", b"\xff"])),
        ("qint8", np.array([-128, 127], np.int8)),  # quantised integers come as their integers (TensorFlow 2.21)
        ("quint16", np.array([0, 65_535], np.uint16)),
    ],
)
def test_what_is_no_float_has_no_odd_values(dtype: str, array: np.ndarray) -> None:
    assert count_odd_values([scored(array)], [output(dtype)]) == {}
    faults = Faults(2)
    before = scored(array)
    assert set_bad_aside(before, [output(dtype)], faults, nan_is_bad=True) is before
    assert not len(faults)


def test_each_output_column_is_counted_by_itself() -> None:
    outputs = [output("float32", column="a"), output("int32", column="b"), output("float64", column="c")]
    one = scored(np.array([NAN, 1], np.float32), np.array([1, 2], np.int32), np.array([1.0, 2.0]))
    two = scored(np.array([1], np.float32), np.array([3], np.int32), np.array([INF]))
    assert count_odd_values([one, two], outputs) == {"a": (1, 0), "c": (0, 1)}


@QUICK
@given(st.lists(st.lists(st.sampled_from([0.0, 1.5, NAN, INF, -INF]), min_size=3, max_size=3), max_size=8), st.data())
def test_counts_are_those_of_a_loop(rows: list[list[float]], data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(sorted(FLOATS)))
    array = np.array(rows, FLOATS[dtype]).reshape(len(rows), 3)
    cut = data.draw(st.integers(0, len(rows)))
    flat = [value for row in rows for value in row]
    num_nan, num_inf = sum(map(math.isnan, flat)), sum(abs(v) == INF for v in flat)
    found = count_odd_values([scored(array[:cut]), scored(array[cut:])], [output(dtype, (None, 3))])
    assert found == ({"score": (num_nan, num_inf)} if num_nan + num_inf else {})


# --- what makes a row bad


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_is_bad_where_that_was_asked_for(dtype: str) -> None:
    array = np.array([[1, 2], [1, NAN], [3, 4], [-INF, 1]], FLOATS[dtype])
    column, faults = output(dtype, (None, 2)), Faults(9)
    good = set_bad_aside(scored(array, rows=[1, 4, 5, 8]), [column], faults, nan_is_bad=True)
    assert good.rows.tolist() == [1, 5]
    assert good.arrays[0].astype(float).tolist() == [[1, 2], [3, 4]]
    assert [(bad.row_index, bad.reason) for bad in faults.in_order()] == [
        (4, Reason.NOT_FINITE),
        (8, Reason.NOT_FINITE),
    ]
    message = faults.in_order()[0].message
    assert "output column 'score': NaN or Inf in prediction:0" in message
    assert "--nan-is-bad" in message


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_is_kept_where_it_was_not(dtype: str) -> None:
    before, faults = scored(np.array([NAN, 1, INF], FLOATS[dtype])), Faults(3)
    assert set_bad_aside(before, [output(dtype)], faults, nan_is_bad=False) is before  # nor is anything copied
    assert not len(faults)


def test_a_bad_value_in_one_output_takes_the_row_out_of_all() -> None:
    outputs = [output("float32", column="a"), output("int32", column="b"), output("float32", (None, 2, 2), "c")]
    third = np.zeros((4, 2, 2), np.float32)
    third[2, 1, 0] = NAN
    both = scored(np.array([NAN, 1, 2, 3], np.float32), np.arange(4, dtype=np.int32), third)
    faults = Faults(4)
    good = set_bad_aside(both, outputs, faults, nan_is_bad=True)
    assert good.rows.tolist() == [1, 3]
    assert [len(array) for array in good.arrays] == [2, 2, 2]
    assert good.arrays[1].tolist() == [1, 3]
    assert ["'a'" in faults.in_order()[0].message, "'c'" in faults.in_order()[1].message] == [True, True]


def test_rows_of_no_values_are_good() -> None:
    before, faults = scored(np.empty((3, 0), np.float32)), Faults(3)
    assert set_bad_aside(before, [output("float32", (None, 0))], faults, nan_is_bad=True).rows.tolist() == [0, 1, 2]
    none = set_bad_aside(scored(np.empty((0, 2), np.float32)), [output("float32", (None, 2))], faults, nan_is_bad=True)
    assert none.rows.tolist() == []
    assert not len(faults)


def test_all_rows_may_be_bad() -> None:
    faults = Faults(2)
    good = set_bad_aside(scored(np.array([NAN, INF])), [output("float64")], faults, nan_is_bad=True)
    assert good.rows.tolist() == []
    assert good.arrays[0].shape == (0,)
    assert len(faults) == 2


# --- text

BAD_BYTES = [b"\xff", b"\xc3", b"\xed\xa0\x80", b"ok\x80"]  # the third is a surrogate, in Python's old encoding


@pytest.mark.parametrize("bad", BAD_BYTES)
def test_bytes_that_are_no_text_make_a_row_bad(bad: bytes) -> None:
    array, faults = strings([b"a", bad, "日本".encode(), b"", bad]), Faults(5)
    good = set_bad_aside(scored(array), [output("string", is_text=True)], faults, nan_is_bad=False)
    assert good.rows.tolist() == [0, 2, 3]
    assert good.arrays[0].tolist() == [b"a", "日本".encode(), b""]
    assert {(each.row_index, each.reason) for each in faults.in_order()} == {
        (1, Reason.NOT_UTF8),
        (4, Reason.NOT_UTF8),
    }
    assert "output column 'score': bytes that are no UTF-8" in faults.in_order()[0].message


@pytest.mark.parametrize("shape", [(None, 2), (None, 1, 2), (None, None)])
def test_one_bad_string_among_several_makes_the_row_bad(shape: tuple[int | None, ...]) -> None:
    values = strings([[b"a", b"b"], [b"c", b"\xff"], [b"\xff", b"\xff"], [b"", b"d"]])
    array = values.reshape(4, 1, 2) if len(shape) == 3 else values
    faults = Faults(10)
    good = set_bad_aside(scored(array, rows=[2, 3, 6, 7]), [output("string", shape, is_text=True)], faults, False)
    assert good.rows.tolist() == [2, 7]
    assert faults.rows().tolist() == [3, 6]


def test_bytes_that_stay_bytes_may_be_anything() -> None:
    before, faults = scored(strings([b"\xff", b"a"])), Faults(2)
    assert set_bad_aside(before, [output("string")], faults, nan_is_bad=True) is before
    assert not len(faults)


def test_text_is_judged_beside_numbers() -> None:
    outputs = [output("float32", column="a"), output("string", column="b", is_text=True)]
    faults = Faults(4)
    good = set_bad_aside(
        scored(np.array([NAN, 1, NAN, 2], np.float32), strings([b"\xff", b"\xff", b"a", b"b"])), outputs, faults, True
    )
    assert good.rows.tolist() == [3]
    assert [bad.reason for bad in faults.in_order()] == [Reason.NOT_FINITE, Reason.NOT_UTF8, Reason.NOT_FINITE]


@QUICK
@given(st.lists(st.lists(st.binary(max_size=3), min_size=2, max_size=2), min_size=1, max_size=8), st.booleans())
def test_rows_of_text_are_those_that_python_decodes(rows: list[list[bytes]], is_flat: bool) -> None:
    wanted = [row[:1] if is_flat else row for row in rows]

    def is_text(row: list[bytes]) -> bool:
        try:
            return b" ".join(row).decode() is not None
        except UnicodeDecodeError:
            return False

    array = strings([row[0] for row in wanted]) if is_flat else strings(wanted)
    faults = Faults(len(rows))
    column = output("string", (None,) if is_flat else (None, 2), is_text=True)
    good = set_bad_aside(scored(array), [column], faults, nan_is_bad=False)
    assert good.rows.tolist() == [i for i, row in enumerate(wanted) if is_text(row)]
    assert faults.rows().tolist() == [i for i, row in enumerate(wanted) if not is_text(row)]
