import pytest

from engine.run.numeric_drift import Drift
from engine.run.tuning.settings import Layout, Machine, Measurement, RowCosts, Setting, rows_limit
from engine.run.tuning.windows import Span, rows_within
from engine.run.tuning.workshop import gpu_variables, shard_size, window_seconds


def test_on_cpus_all_work_shares_the_cores() -> None:
    assert rows_limit(RowCosts(0.1, 0.2), 0.7, Machine(4)) == pytest.approx(4.0)


def test_a_gpu_scores_while_cpus_read_and_write() -> None:
    assert rows_limit(RowCosts(0.1, 0.1), 0.5, Machine(4, gpus=2)) == pytest.approx(4.0)
    assert rows_limit(RowCosts(1.0, 1.0), 0.5, Machine(4, gpus=2)) == pytest.approx(2.0)
    assert rows_limit(RowCosts(0.0, 0.0), 0.0, Machine(4)) == 0.0


def test_shards_that_lie_across_a_window_count_by_their_share() -> None:
    spans = [Span(0, 2, 100), Span(2, 3, 10), Span(3, 7, 80), Span(7, 9, 1000), Span(5, 5, 9)]
    assert rows_within(spans, 1, 4) == pytest.approx(50 + 10 + 20)
    assert rows_within([], 0, 1) == 0


def test_settings_read_well() -> None:
    assert str(Setting(Layout(1, 8))) == "1 actor x 8 threads, float32"
    assert str(Setting(Layout(8, 1, 0.25), "float16", xla=True)) == "8 actors x 1 thread, 0.25 GPU, float16 with XLA"
    assert Setting(Layout(1, 1)).is_plain
    assert not Setting(Layout(1, 1), xla=True).is_plain


def test_the_worst_of_all_columns_is_told() -> None:
    drift = {"a": Drift(9, 0.5, 0.1, 0.01, 0.2, None), "b": Drift(8, 0.2, 0.3, 0.04, 0.1, 0.25)}
    measured = Measurement(Setting(Layout(1, 1)), 1, 1.0, 1.0, 1, 1.0, 1.0, drift)
    assert measured.worst_drift == Drift(8, 0.5, 0.3, 0.04, 0.2, 0.25)
    assert Measurement(Setting(Layout(1, 1)), 1, 1.0, 1.0, 1, 1.0, 1.0).worst_drift is None


def test_shards_hold_whole_batches() -> None:
    assert shard_size(1000.0, 256) == 1024
    assert shard_size(3.0, 256) == 256


def test_a_window_is_a_share_of_the_budget() -> None:
    assert window_seconds(180) == 2.0
    assert window_seconds(90) == 1.0
    assert window_seconds(1) == 0.2


@pytest.mark.parametrize(
    ("layout", "visible", "expected"),
    [
        (Layout(4, 1), "0,1", [{}] * 4),
        (Layout(4, 1, 0.5), None, [{"CUDA_VISIBLE_DEVICES": each} for each in "0011"]),
        (Layout(2, 1, 1.0), "5,7", [{"CUDA_VISIBLE_DEVICES": each} for each in "57"]),
        (Layout(2, 1, 2.0), "a,b,c,d", [{"CUDA_VISIBLE_DEVICES": each} for each in ("a,b", "c,d")]),
    ],
)  # fmt: skip
def test_every_actor_sees_its_own_gpus(layout: Layout, visible: str | None, expected: list[dict[str, str]]) -> None:
    assert [gpu_variables(layout, i, visible) for i in range(layout.actors)] == expected
