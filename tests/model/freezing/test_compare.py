from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from engine.errors import DataError, GraphError
from engine.model.freezing.compare import NotComparableError, compare, random_rows
from engine.model.tensor import TensorSpec

X = TensorSpec("inputs:0", "float32", (None, 3))


def double(feeds: Mapping[str, np.ndarray]) -> list[Any]:
    return [feeds["inputs:0"] * 2]


def test_the_same_is_told() -> None:
    assert compare(double, double, [X], [], None) == "compared on 4 random rows: largest difference 0"
    rows = {"inputs:0": np.ones((7, 3), np.float32), "unused:0": np.ones(1)}
    assert compare(double, double, [X], [], rows) == "compared on 7 rows of the sample: largest difference 0"


def test_what_differs_by_rounding_is_told() -> None:
    def almost(feeds: Mapping[str, np.ndarray]) -> list[Any]:
        return [feeds["inputs:0"] * np.float32(2.00001)]

    assert compare(double, almost, [X], [], None).startswith("compared on 4 random rows: largest difference 9.")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda feeds: [feeds["inputs:0"] * 2.1], r"output 0: up to 0\.\d+ apart"),
        (lambda feeds: [feeds["inputs:0"][:, :2] * 2], r"output 0: \[4, 2\] instead of \[4, 3\]"),
        (lambda feeds: [np.full((4, 3), np.nan, np.float32)], "output 0"),
    ],
)
def test_another_answer_is_refused(found: Any, message: str) -> None:
    with pytest.raises(GraphError, match=f"^the frozen graph gives other values than its source .{message}"):
        compare(double, found, [X], [], None)


def test_nan_and_infinity_are_the_same_as_themselves() -> None:
    def odd(feeds: Mapping[str, np.ndarray]) -> list[Any]:
        return [np.array([np.nan, np.inf, -np.inf, 1.0])]

    assert compare(odd, odd, [X], [], None).startswith("compared on 4")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([b"a", b"b"], object), np.array([b"a", b"c"], object)),
        (np.array([True]), np.array([False])),
        (np.array([1.0, 2.0], ml_dtypes.bfloat16), np.array([1.0, 3.0], ml_dtypes.bfloat16)),
        (np.array([1 + 1j]), np.array([1 + 2j])),
    ],
)
def test_values_of_every_kind(first: np.ndarray, second: np.ndarray) -> None:
    assert compare(lambda _: [first], lambda _: [first.copy()], [X], [], None).startswith("compared on")
    with pytest.raises(GraphError, match="gives other values"):
        compare(lambda _: [first], lambda _: [second], [X], [], None)


def test_a_model_that_rolls_dice_is_not_compared() -> None:
    generator = np.random.default_rng(0)

    def dice(feeds: Mapping[str, np.ndarray]) -> list[Any]:
        return [generator.random(3)]

    assert compare(dice, dice, [X], [], None) == (
        "not compared: the model gives other values each time it is run (random operations)"
    )


def test_a_model_that_refuses_random_numbers_is_not_compared() -> None:
    def picky(feeds: Mapping[str, np.ndarray]) -> list[Any]:
        raise DataError("no")

    told = compare(picky, picky, [X], [], None)
    assert told == "not compared: the model refuses random input (no); give rows with --sample FILE"
    rows = {"inputs:0": np.ones((2, 3), np.float32)}
    with pytest.raises(GraphError, match="^the model refuses the rows of --sample: no$"):
        compare(picky, picky, [X], [], rows)
    with pytest.raises(GraphError, match="^the frozen graph fails where its source does not: no$"):
        compare(double, picky, [X], [], rows)


def test_rows_of_another_model() -> None:
    with pytest.raises(GraphError, match=r"^the rows to compare on lack inputs:0; the model takes inputs:0 .float32"):
        compare(double, double, [X], [], {"x:0": np.ones((2, 3))})


@pytest.mark.parametrize(
    ("spec", "operations", "shape", "dtype"),
    [
        (X, ["Gather"], (4, 3), "float32"),
        (TensorSpec("x:0", "float64", (2, None, None)), [], (2, 4, 4), "float64"),
        (TensorSpec("x:0", "bfloat16", (None,)), ["GatherV2"], (4,), "bfloat16"),
        (TensorSpec("x:0", "float16", (None,)), [], (4,), "float16"),
        (TensorSpec("x:0", "complex64", (None,)), [], (4,), "complex64"),
        (TensorSpec("x:0", "uint8", (None, 2)), [], (4, 2), "uint8"),
        (TensorSpec("x:0", "int64", (None,)), ["MatMul"], (4,), "int64"),
        (TensorSpec("x:0", "bool", ()), [], (), "bool"),
    ],
)
def test_random_rows(spec: TensorSpec, operations: list[str], shape: tuple[int, ...], dtype: str) -> None:
    rows = random_rows([spec], operations)[spec.name]
    assert (rows.shape, rows.dtype.name) == (shape, dtype)
    np.testing.assert_array_equal(rows, random_rows([spec], operations)[spec.name])


@pytest.mark.parametrize("shape", [(), None])
def test_a_lone_number_keeps_all_and_a_lone_switch_predicts(shape: Any) -> None:
    assert random_rows([TensorSpec("keep_prob:0", "float32", shape)], [])["keep_prob:0"] == 1.0
    assert not random_rows([TensorSpec("is_training:0", "bool", shape)], [])["is_training:0"]


@pytest.mark.parametrize(
    ("spec", "operation", "message"),
    [
        (TensorSpec("x:0", "string", (None,)), "", r"x:0 \(string \[\?\]\) takes strings"),
        (TensorSpec("x:0", "qint8", (None,)), "", "has a dtype that numpy lacks"),
        (TensorSpec("x:0", "int64", (None,)), "GatherV2", "takes whole numbers, and the graph looks things up by such"),
        (TensorSpec("x:0", "int32", (None,)), "LookupTableFindV2", "takes whole numbers"),
        (TensorSpec("x:0", "int32", (None,)), "OneHot", "takes whole numbers"),
    ],
)
def test_random_numbers_that_mean_nothing(spec: TensorSpec, operation: str, message: str) -> None:
    with pytest.raises(NotComparableError, match=message):
        random_rows([spec], [operation])
    told = compare(double, double, [spec], [operation], None)
    assert told.startswith("not compared: ")
    assert told.endswith("; give rows with --sample FILE")
