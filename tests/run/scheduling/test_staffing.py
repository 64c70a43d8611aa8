import pytest

from engine.run.scheduling.events import Action, StartWorker, StopWorker
from engine.run.scheduling.fleet import Fleet
from engine.run.scheduling.staffing import PoolLimits, Staffing


def pool(minimum: int, maximum: int, num_left: int) -> tuple[Fleet, Staffing]:
    fleet = Fleet()
    staffing = Staffing(fleet, PoolLimits(minimum, maximum))
    staffing.adjust(num_left, True, 0)
    return fleet, staffing


def stopped(actions: list[Action]) -> list[int]:
    return [action.worker_id for action in actions if isinstance(action, StopWorker)]


@pytest.mark.parametrize(
    ("minimum", "maximum", "num_left", "wanted", "kept"),
    [
        (1, 8, 0, 0, 0),
        (1, 8, 1, 1, 2),
        (1, 8, 3, 1, 4),
        (1, 8, 4, 2, 5),
        (1, 8, 24, 8, 8),
        (1, 8, 1000, 8, 8),
        (4, 8, 3, 4, 4),
        (4, 8, 6, 4, 8),
        (5, 5, 100, 5, 5),
    ],
)
def test_how_many_workers_are_held(minimum: int, maximum: int, num_left: int, wanted: int, kept: int) -> None:
    limits = PoolLimits(minimum, maximum)
    assert limits.wanted(num_left) == wanted
    assert limits.kept(num_left) == kept
    assert len(pool(minimum, maximum, num_left)[0]) == wanted


@pytest.mark.parametrize(("losses", "delay"), [(0, 0), (1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (30, 60)])
def test_the_more_losses_in_a_row_the_later_a_worker_is_replaced(losses: int, delay: float) -> None:
    fleet, staffing = pool(1, 1, 9)
    now = 0.0
    for worker_id in range(losses + 1):
        worker = fleet.remove(worker_id)
        assert worker is not None
        staffing.lose(worker, now)
        if worker_id < losses:
            now += 60
            assert staffing.adjust(9, True, now) == [StartWorker(worker_id + 1)]
    assert delay == 0 or staffing.adjust(9, True, now + delay - 0.01) == []
    assert staffing.adjust(9, True, now + delay) == [StartWorker(losses + 1)]


def test_a_shard_done_makes_losses_forgotten() -> None:
    fleet, staffing = pool(1, 1, 9)
    for worker_id in range(5):
        worker = fleet.remove(worker_id)
        assert worker is not None
        staffing.praise(worker)
        staffing.lose(worker, 0)
        assert staffing.adjust(9, True, 0) == [StartWorker(worker_id + 1)]


def test_the_line_of_one_worker_is_not_that_of_another() -> None:
    fleet, staffing = pool(2, 2, 9)
    for worker_id in (0, 1):
        worker = fleet.remove(worker_id)
        assert worker is not None
        staffing.lose(worker, 0)
    assert staffing.adjust(9, True, 0) == [StartWorker(2), StartWorker(3)]


def test_those_without_a_place_are_given_back_first_then_those_that_load_then_the_idle() -> None:
    fleet, staffing = pool(8, 8, 8)
    for worker_id in range(6):
        fleet.place(worker_id, "node")
    for worker_id in range(4):
        fleet.make_ready(worker_id)
    fleet.give(0, 7, is_alone=False)
    assert stopped(staffing.adjust(5, True, 0)) == [7]
    assert stopped(staffing.adjust(4, True, 0)) == [6, 5]
    assert stopped(staffing.adjust(1, True, 0)) == [4]  # the others are ready, and a shard waits
    assert stopped(staffing.adjust(1, False, 0)) == [3, 2]
    assert stopped(staffing.adjust(0, False, 0)) == [1]  # not the one that has a shard


def test_planned_restarts_are_dropped_before_any_worker() -> None:
    fleet, staffing = pool(4, 4, 4)
    worker = fleet.remove(0)
    assert worker is not None
    worker.losses = 5
    staffing.lose(worker, 0)
    assert staffing.adjust(3, True, 0) == []  # 4 may be kept
    assert staffing.adjust(2, True, 0) == []  # 3 may be
    assert staffing.adjust(2, True, 1000) == []


def test_workers_without_a_place_are_asked_for_anew_when_a_node_is_barred() -> None:
    fleet, staffing = pool(3, 3, 9)
    staffing.see_nodes(frozenset("ab"))
    fleet.place(0, "a")
    fleet.place(1, "b")
    worker = fleet.remove(0)
    assert worker is not None
    staffing.bar(worker, 0)
    assert staffing.adjust(9, True, 0) == [StopWorker(2), StartWorker(3, ("a",))]
    assert staffing.adjust(9, True, 1) == [StartWorker(4, ("a",))]


def test_those_asked_for_between_two_rules_are_asked_for_anew_once_they_hold_again() -> None:
    fleet, staffing = pool(4, 4, 9)
    staffing.see_nodes(frozenset("abc"))
    for worker_id, node_id in enumerate("aab"):
        fleet.place(worker_id, node_id)
    first = fleet.remove(0)
    assert first is not None
    staffing.bar(first, 0)
    staffing.adjust(9, True, 0)  # all are asked for with a avoided
    other = fleet.remove(2)
    assert other is not None
    for _ in range(3):
        staffing.lose(other, 1)
    (asked,) = staffing.adjust(9, True, 1)[:1]
    assert asked == StartWorker(asked.worker_id, ("a", "b"))
    staffing.praise(other)
    actions = staffing.adjust(9, True, 100)
    assert asked.worker_id in stopped(actions)
