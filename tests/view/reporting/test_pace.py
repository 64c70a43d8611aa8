import numpy as np
import pytest
from told_jobs import STARTED, Timeline, big_spans

from engine.data.timeline import ATTEMPT, CANCELLED, FAILED, LOST, OK, Span
from engine.view.reporting.occupancy import axis_edges, order_runs
from engine.view.reporting.pace import count_reasons, list_events, percentiles_over_time, shard_times, throughput


def attempt(shard: int, seconds: float, outcome: str = OK, start: float = 0.0, **more: object) -> Span:
    span = Span("p", STARTED, ATTEMPT, start, start + seconds, outcome, 0, "n", shard, 1, rows=100)
    return Span(**{**{name: getattr(span, name) for name in Span.__dataclass_fields__}, **more})  # type: ignore[arg-type]


def test_every_row_is_in_the_throughput_once() -> None:
    spans = big_spans()
    runs = order_runs(spans)
    edges = axis_edges(runs, 160)
    rows = sum(span.rows for span in spans if span.kind == ATTEMPT and span.outcome == OK)
    assert (throughput(spans, runs, edges) * np.diff(edges)).sum() == pytest.approx(rows)


def test_rows_are_spread_over_their_attempt() -> None:
    spans = [attempt(0, 2.0), attempt(1, 2.0, start=2.0), attempt(2, 4.0, FAILED)]
    runs = order_runs(spans)
    assert throughput(spans, runs, axis_edges(runs, 4)).tolist() == [50.0] * 4


def test_an_attempt_of_no_length_keeps_its_rows() -> None:
    spans = [attempt(0, 0.0, start=1.0), attempt(1, 4.0)]
    runs = order_runs(spans)
    assert throughput(spans, runs, np.array([0.0, 2.0, 4.0])).sum() * 2 == pytest.approx(200)


def test_stragglers_take_twice_the_median_and_five_seconds_or_had_a_second_attempt() -> None:
    quick = [attempt(shard, 1.0) for shard in range(9)]
    spans = [*quick, attempt(9, 4.9), attempt(10, 5.1), attempt(11, 0.5),
             attempt(11, 0.4, CANCELLED, is_backup=True)]  # fmt: skip
    found = {each.span.shard_id for each in shard_times(spans, order_runs(spans)) if each.is_straggler}
    assert found == {10, 11}


def test_percentiles_are_of_the_shards_that_began_then() -> None:
    spans = [attempt(shard, shard + 1.0, start=10.0 * (shard % 2)) for shard in range(20)]
    runs = order_runs(spans)
    middles, band = percentiles_over_time(shard_times(spans, runs), np.array([0.0, 10.0, 20.0]))
    assert middles.tolist() == [5.0, 15.0]
    assert band[:, 1].tolist() == [10.0, 11.0]
    assert (band[:, 0] < band[:, 1]).all()
    assert (band[:, 1] < band[:, 2]).all()


def test_what_came_to_nothing_is_told_by_time_and_by_reason() -> None:
    spans = Timeline(4, 800, lost=(2,)).make()
    events = list_events(spans, order_runs(spans))
    assert [event.span.stop_seconds for event in events] == sorted(event.span.stop_seconds for event in events)
    assert {event.span.outcome for event in events} == {LOST, FAILED, CANCELLED}
    assert sum(event.what == "actor" for event in events) == 1
    reasons = count_reasons(events)
    assert sum(count for *_, count, _ in reasons) == len(events)
    assert [count for *_, count, _ in reasons] == sorted((count for *_, count, _ in reasons), reverse=True)
