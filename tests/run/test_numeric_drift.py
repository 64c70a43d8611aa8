import math

import numpy as np
import pytest

from engine.run.numeric_drift import Drift, is_float, measure_drift, to_json

NAN, INF = math.nan, math.inf


def test_what_is_the_same_has_none() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    assert measure_drift(rows, rows.copy()) == Drift(50, 0, 0, 0, 0, 0)


def test_differences_are_absolute_and_shares_of_the_larger_value() -> None:
    found = measure_drift(np.array([[1.0, 4.0], [0.0, 0.0]]), np.array([[2.0, 4.0], [0.0, -0.5]]))
    assert (found.rows, found.max_absolute, found.max_relative) == (2, 1.0, 1.0)
    found = measure_drift(np.array([4.0, 8.0]), np.array([3.0, 8.0]))
    assert (found.max_absolute, found.max_relative, found.argmax_changed) == (1.0, 0.25, None)


def test_opposite_signs_are_two_apart() -> None:
    assert measure_drift(np.array([1.0]), np.array([-1.0])).max_relative == 2.0


def test_the_high_quantile_leaves_out_a_thousandth() -> None:
    reference, values = np.ones(10_000), np.ones(10_000)
    values[:9] = 5.0
    found = measure_drift(reference, values)
    assert (found.max_absolute, found.p999_absolute) == (4.0, 0.0)
    values[:20] = 5.0
    assert measure_drift(reference, values).p999_absolute == 4.0


@pytest.mark.parametrize(
    ("reference", "values", "changed"),
    [
        ([[1, 2], [4, 3], [0, 1]], [[2, 1], [4, 3], [0, 1]], 1 / 3),
        ([[1], [2]], [[2], [1]], None),
        ([1, 2], [2, 1], None),
        ([[[1, 2], [1, 2]], [[1, 2], [1, 2]]], [[[1, 2], [2, 1]], [[1, 2], [1, 2]]], 1 / 2),
    ],
)
def test_rows_whose_largest_entry_is_another(reference: list[int], values: list[int], changed: float | None) -> None:
    assert measure_drift(np.array(reference, float), np.array(values, float)).argmax_changed == changed


@pytest.mark.parametrize(
    ("reference", "value", "absolute"),
    [(NAN, NAN, 0), (INF, INF, 0), (INF, -INF, INF), (NAN, 1, INF), (1, INF, INF), (1e308, -1e308, INF), (0, -0.0, 0)],
)
def test_odd_values(reference: float, value: float, absolute: float) -> None:
    assert measure_drift(np.array([reference]), np.array([value])).max_absolute == absolute


def test_no_rows() -> None:
    assert measure_drift(np.empty((0, 3), np.float32), np.empty((0, 3), np.float32)) == Drift(0, 0, 0, 0, 0, None)


def test_halves_are_compared_as_they_are() -> None:
    found = measure_drift(np.array([1 / 3], np.float32), np.array([1 / 3], np.float16))
    assert 0 < found.max_absolute < 1e-3


def test_json_has_no_infinities() -> None:
    facts = to_json({"p": Drift(3, INF, 0.5, INF, 0.25, None)})["p"]
    assert facts["max_absolute"] is None
    assert (facts["rows"], facts["p999_absolute"], facts["argmax_changed"]) == (3, 0.5, None)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float16", True), ("float64", True), ("int32", False), ("bool", False)]
)
def test_floats(dtype: str, expected: bool) -> None:
    assert is_float(np.zeros(2, dtype)) is expected
