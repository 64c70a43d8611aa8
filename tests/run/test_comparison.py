import itertools
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest

from engine.data.assembly import ScoredRows
from engine.data.binding import FeedBinding, bind_feed
from engine.data.columns import InputSchema, resolve_feed
from engine.data.faults import Array
from engine.data.output import OutputColumn
from engine.data.source import Slice
from engine.errors import DataError
from engine.model.tensor import TensorSpec
from engine.run.comparison import compare, compare_with_plain
from engine.run.numeric_drift import Drift

SCHEMA = pa.schema([("x", pa.list_(pa.float32()))])
OUTPUTS = [
    OutputColumn(TensorSpec("y:0", "float32", (None, 2)), "score", pa.list_(pa.float32(), 2)),
    OutputColumn(TensorSpec("n:0", "int32", (None,)), "count", pa.int32()),
]


def feeds() -> list[FeedBinding]:
    columns = InputSchema("in.parquet", SCHEMA, ())
    return [bind_feed(resolve_feed(columns, "x"), TensorSpec("x:0", "float32", (None, None)))]


def slice_of(*rows: list[float] | None) -> Slice:
    table = pa.table({"x": pa.array(rows, SCHEMA.field("x").type)})
    return Slice(table, "/in/a", "a", np.arange(len(rows)), len(rows))


class Graph:
    """The sums of rows and the numbers of their values, both off by `off`; refuses batches that hold `refused`."""

    def __init__(self, off: float = 0.0, refused: float = -1.0) -> None:
        self.off, self.refused = off, refused
        self.calls: list[int] = []

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.calls.append(len(arrays[0]))
        if (arrays[0] == self.refused).any():
            raise DataError("refused", "InvalidArgument")
        sums = arrays[0].sum(axis=1, keepdims=True) * np.ones(2, np.float32)
        return [sums + self.off, np.full(len(sums), arrays[0].shape[1] + int(self.off), np.int32)]


def compare_slices(slices: list[Slice], plain: Graph, other: Graph, step: int = 2) -> tuple[dict[str, Drift], int]:
    marks = itertools.count()
    found = compare_with_plain(slices, feeds(), OUTPUTS, (plain, other), step, lambda: next(marks))
    return found, next(marks)


def test_columns_of_floats_of_the_first_slice_that_has_rows_are_compared_batch_by_batch() -> None:
    plain, other = Graph(), Graph(0.5)
    slices = [slice_of(), slice_of(None), slice_of([1], [2], [3]), slice_of([9])]
    found, num_marks = compare_slices(slices, plain, other)
    assert found.keys() == {"score"}
    assert (found["score"].rows, found["score"].max_absolute, found["score"].argmax_changed) == (3, 0.5, 0.0)
    assert plain.calls == other.calls == [2, 1]
    assert num_marks == 2


def test_rows_that_either_refuses_are_left_out() -> None:
    found, _ = compare_slices([slice_of([1], [2], [3], [4], [5])], Graph(refused=2), Graph(0.25, refused=5))
    assert (found["score"].rows, found["score"].max_absolute) == (3, 0.25)


def test_rows_of_the_first_shape_are_compared() -> None:
    found, _ = compare_slices([slice_of([1], [2, 2], [3], [4, 4, 4])], Graph(), Graph(1))
    assert found["score"].rows == 2


def test_where_there_is_nothing_to_compare_nothing_is_told() -> None:
    assert compare_slices([], Graph(), Graph()) == ({}, 0)
    assert compare_slices([slice_of(None, None)], Graph(), Graph()) == ({}, 0)
    assert compare_slices([slice_of([2], [2])], Graph(), Graph(refused=2)) == ({}, 1)


# --- rows that were scored twice


def scored(start: int, *arrays: Array) -> ScoredRows:
    return ScoredRows(np.arange(start, start + len(arrays[0])), list(arrays))


def test_rows_are_paired_by_their_positions_whatever_the_batches() -> None:
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    moved = values.copy()
    moved[4, 1] += 0.5
    reference = [scored(0, values[:4]), scored(4, values[4:])]
    others = [scored(1, moved[1:3]), scored(3, moved[3:6])]  # the first row was refused
    found = compare(reference, others, ["p"])["p"]
    assert found.rows == 5
    assert found.max_absolute == pytest.approx(0.5)
    assert found.argmax_changed == 0.0


def test_narrow_floats_are_numbers() -> None:
    values = np.array([1.0, 2.0, 3.0], np.float32)
    found = compare([scored(0, values)], [scored(0, values.astype(ml_dtypes.bfloat16))], ["p"])
    assert found["p"].max_absolute == 0.0


def test_text_is_left_out_and_so_is_what_has_another_shape() -> None:
    text, wide = np.array([b"a", b"b"], object), np.zeros((2, 3))
    assert compare([scored(0, text)], [scored(0, text)], ["p"]) == {}
    assert compare([scored(0, wide)], [scored(0, wide[:, :2])], ["p"]) == {}
    assert compare([], [], ["p"]) == {}
