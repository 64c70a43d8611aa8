import time

import numpy as np
import pytest
from told_jobs import PLAN_ID, STARTED, Timeline, big_spans

from engine.data.timeline import ATTEMPT, LOAD, LOST, OK, READY, RUN, RUNNING, Span
from engine.view.reporting.occupancy import (
    STATES,
    Occupancy,
    axis_edges,
    choose_rows,
    coarsen,
    occupy,
    order_runs,
    spread,
)


def attempt(start: float, stop: float, outcome: str = OK, run: float = STARTED, **more: float) -> Span:
    return Span(PLAN_ID, run, ATTEMPT, start, stop, outcome, 0, "here", 0, 1, **more)  # type: ignore[arg-type]


def actor(*attempts: Span, run: float = STARTED, until: float = 12.0) -> list[Span]:
    """A run of 14 s with an actor that loads for 2 s from the second 1 on, then is there `until`."""
    return [
        Span(PLAN_ID, run, RUN, 0.0, 14.0, OK),
        Span(PLAN_ID, run, LOAD, 1.0, 3.0, OK, 0, "here"),
        Span(PLAN_ID, run, READY, 3.0, until, OK, 0, "here"),
        *attempts,
    ]


def seconds(spans: list[Span], num_steps: int = 14) -> dict[str, list[float]]:
    runs = order_runs(spans)
    total = occupy(spans, runs, axis_edges(runs, num_steps)).total
    return {state: [round(value, 6) for value in row] for state, row in zip(STATES, total.tolist(), strict=True)}


def occupied(spans: list[Span]) -> Occupancy:
    runs = order_runs(spans)
    return occupy(spans, runs, axis_edges(runs, 160))


def test_phases_are_spread_evenly_over_an_attempt_and_the_rest_is_idle() -> None:
    found = seconds(actor(attempt(4.0, 8.0, session_seconds=2.0, read_seconds=1.0)))
    assert found["load"] == [0, 1, 1, *[0] * 11]
    assert found["score"] == [*[0] * 4, *[0.5] * 4, *[0] * 6]
    assert found["read"] == [*[0] * 4, *[0.25] * 4, *[0] * 6]
    assert found["idle"] == [0, 0, 0, 1, *[0.25] * 4, *[1] * 4, 0, 0]


def test_of_what_overlaps_scoring_counts_first() -> None:
    """Two attempts at once: 0.8 of a second scored each second, and 1.2 read, for which 0.2 is left."""
    both = [attempt(4.0, 8.0, session_seconds=1.6, read_seconds=2.4) for _ in range(2)]
    found = seconds(actor(*both))
    assert found["score"][5] == pytest.approx(0.8)
    assert found["read"][5] == pytest.approx(0.2)
    assert found["idle"][5] == 0


@pytest.mark.parametrize(("outcome", "state"), [(LOST, "lost"), ("failed", "lost"), ("cancelled", "lost"),
                                                ("interrupted", "lost"), (RUNNING, "hand")])  # fmt: skip
def test_attempts_without_a_part_count_whole(outcome: str, state: str) -> None:
    found = seconds(actor(attempt(4.0, 8.0, outcome)))
    assert found[state] == [*[0] * 4, 1, 1, 1, 1, *[0] * 6]


def test_no_actor_is_in_more_than_one_place() -> None:
    found = occupied(big_spans())
    width = float(np.diff(found.edges)[0])
    for one in found.actors:
        assert (one.seconds >= -1e-9).all()
        assert (one.seconds.sum(axis=0) <= width + 1e-6).all()


def test_all_time_of_the_actors_is_accounted_for() -> None:
    spans = Timeline(5, 60, lost=(1,)).make()
    there = sum(span.stop_seconds - span.start_seconds for span in spans if span.kind in (LOAD, READY))
    assert occupied(spans).total.sum() == pytest.approx(there)


def test_runs_stand_one_after_another() -> None:
    spans = [*actor(run=STARTED + 9999), *actor(run=STARTED)]
    runs = order_runs(spans)
    assert [(run.number, run.started, run.offset_seconds, run.seconds) for run in runs] == [
        (1, STARTED, 0.0, 14.0), (2, STARTED + 9999, 14.0, 14.0),
    ]  # fmt: skip
    assert seconds(spans, 28)["load"] == [0, 1, 1, *[0] * 12, 1, 1, *[0] * 11]


def test_rows_are_actors_while_they_are_few_then_nodes_then_groups() -> None:
    what, rows = choose_rows(occupied(Timeline(5, 20).make()), 40)
    assert (what, [row.label for row in rows]) == ("actor", ["0", "1", "2", "3", "4"])
    what, rows = choose_rows(occupied(Timeline(80, 160, lost=(3, 4, 20)).make()), 40)
    assert (what, len(rows), rows[0].label, rows[0].num_lost) == ("node", 10, "node-0 (8)", 2)
    what, rows = choose_rows(occupied(big_spans()), 40)
    assert (what, len(rows), rows[0].label, rows[-1].label) == ("group", 39, "0–12", "494–506")
    for row in rows:
        assert (row.shares.sum(axis=0) <= 1 + 1e-6).all()
        assert row.shares.sum(axis=0).max() == pytest.approx(1)


def test_fewer_steps_are_averages() -> None:
    assert coarsen(np.arange(8.0).reshape(2, 4), 2).tolist() == [[0.5, 2.5], [4.5, 6.5]]


def test_a_job_without_spans_has_no_runs() -> None:
    assert order_runs([]) == ()
    assert occupied([]).total.sum() == 0


def test_spreading_is_the_sum_of_what_each_interval_has_in_each_step() -> None:
    chance = np.random.default_rng(3)
    edges = np.sort(chance.uniform(0, 10, 30))
    starts = np.concatenate([chance.uniform(-2, 12, 500), edges[:5]])  # some outside, some on an edge
    stops = starts + np.concatenate([chance.exponential(2, 250), chance.exponential(0.01, 250), [0, 1, 2, 3, 20]])
    amounts = chance.uniform(0, 5, (505, 3))
    lengths = np.maximum(stops - starts, 1e-9)
    inside = np.diff(np.clip(edges[None, :], starts[:, None], (starts + lengths)[:, None]), axis=1)
    found = spread(starts, stops, amounts, edges)
    assert found == pytest.approx((amounts / lengths[:, None]).T @ inside, rel=1e-6, abs=1e-6)


def test_where_nothing_is_spread_there_is_nothing() -> None:
    """Not 1e-17: where an actor was seen last is read off it."""
    starts = np.array([0.1, 0.2, 0.3])
    found = spread(starts, starts + 3.7, np.array([[0.1], [0.7], [1 / 3]]), np.linspace(0, 100, 161))
    assert not found[0, 8:].any()


def test_a_million_intervals_are_spread_in_no_time() -> None:
    """0.04 s; 1 s where each is compared with each step."""
    starts, edges, seconds = np.linspace(0.0, 1e5, 1_000_000), np.linspace(0.0, 1e5 + 60, 161), []
    for _ in range(3):
        began = time.process_time()
        found = spread(starts, starts + 60.0, np.ones((1_000_000, 1)), edges)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.4
    assert found.sum() == pytest.approx(1e6)
