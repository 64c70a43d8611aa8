import ml_dtypes
import numpy as np
import pytest

from engine.data.assembly import ScoredRows
from engine.data.faults import Array
from engine.run.tuning.comparing import compare


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
