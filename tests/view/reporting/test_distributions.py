import numpy as np
import pyarrow as pa
import pytest

from engine.view.reporting.distributions import Distribution, describe_column


def described(values: pa.Array) -> Distribution:
    return describe_column("x", values.type, [values])


def test_scalars_have_a_histogram_of_all_finite_values() -> None:
    found = described(pa.array([0.0, 1.0, 2.0, np.nan, np.inf, -np.inf], pa.float32()))
    assert (found.num_rows, found.num_values, found.num_nan, found.num_inf) == (6, 6, 1, 2)
    assert found.histogram is not None
    assert found.histogram.counts.sum() == 3
    assert dict(found.figures)["mean"] == 1.0
    assert found.counts is None


def test_rows_of_classes_count_their_largest_entry() -> None:
    rows = [[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [np.nan, 1.0, 0.0]]
    found = described(pa.array(rows, pa.list_(pa.float32(), 3)))
    assert found.counts is not None
    assert found.counts.pairs == (("0", 1), ("1", 2), ("2", 0))
    assert found.counts.are_classes
    assert (found.num_rows, found.num_values, found.num_nan) == (4, 12, 1)


def test_of_many_classes_the_most_frequent_are_told() -> None:
    rows = np.eye(50, dtype=np.float32)[[7] * 5 + list(range(50))]
    found = described(pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 50))
    assert found.counts is not None
    assert dict(found.counts.pairs)["7"] == 6
    assert (len(found.counts.pairs), found.counts.num_more) == (20, 30)


@pytest.mark.parametrize(
    ("values", "pairs"),
    [
        (pa.array([3, 1, 3, 3], pa.int64()), (("1", 1), ("3", 3))),
        (pa.array([True, False, True]), (("true", 2), ("false", 1))),
        (pa.array([b"cat", b"\xff", b"cat"]), (("cat", 2), ("\\xff", 1))),
        (pa.array(["a", "b", "a"]).dictionary_encode(), (("a", 2), ("b", 1))),
    ],
)
def test_few_values_are_counted(values: pa.Array, pairs: tuple[tuple[str, int], ...]) -> None:
    found = described(values)
    assert found.counts is not None
    assert (found.counts.pairs, found.histogram) == (pairs, None)


def test_many_texts_are_counted_in_part() -> None:
    found = described(pa.array([f"t{i}" for i in range(100)] + ["t5"]))
    assert found.counts is not None
    assert (found.counts.pairs[0], found.counts.num_more) == (("t5", 2), 80)


def test_values_far_off_are_left_out_and_counted() -> None:
    found = described(pa.array([*np.linspace(0, 1, 10_000), 1e9]))
    assert found.histogram is not None
    assert found.histogram.edges[-1] < 2
    assert found.histogram.num_outside == 10_001 - found.histogram.counts.sum() > 0


@pytest.mark.parametrize(
    "values",
    [[], [np.nan], [5.0], [0.0, 0.0], [1e300, -1e300], [np.finfo(np.float64).max, np.finfo(np.float64).min], [1e-300]],
)
def test_odd_values_do_no_harm(values: list[float]) -> None:
    found = described(pa.array(values, pa.float64()))
    finite = [value for value in values if np.isfinite(value)]
    assert (found.histogram.counts.sum() if found.histogram else 0) == len(finite)


def test_tensors_and_lists_of_varying_length_have_a_histogram() -> None:
    tensor = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [2, 2]), pa.array([[1, 2, 3, 4]] * 3, pa.list_(pa.float32(), 4))
    )
    nested = pa.array([[[1.0], [2.0, 3.0]], []], pa.list_(pa.list_(pa.float64())))
    for values, count in ((tensor, 12), (nested, 3), (pa.array([[1.0, 2.0], [3.0]]), 3)):
        found = described(values)
        assert (found.num_values, found.counts) == (count, None)
        assert found.histogram is not None
        assert found.histogram.counts.sum() == count


def test_half_floats_and_unsigned_numbers() -> None:
    assert described(pa.array(np.array([1, 2, 3], np.float16))).figures[0] == ("minimum", 1.0)
    found = described(pa.array(np.arange(1000, dtype=np.uint64) + np.uint64(2**63)))
    assert found.histogram is not None
    assert found.histogram.counts.sum() == 1000
