import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from engine.errors import (
    ClusterError,
    DataError,
    EngineError,
    GraphError,
    JobFailedError,
    JobInterrupted,
    StorageError,
    WorkerLostError,
)
from engine.run.schedule import MAX_ATTEMPTS, MAX_LOSSES_ALONE, MAX_LOSSES_LOADING, Scheduler
from engine.run.scheduling.events import (
    Action,
    AssignAttempt,
    CancelAttempt,
    CapacityChanged,
    Event,
    Finish,
    LoadFailed,
    Notice,
    ShardDone,
    ShardFailed,
    StartWorker,
    Stop,
    StopWorker,
    Tick,
    WorkerLost,
    WorkerPlaced,
    WorkerReady,
    WorkerStalled,
)
from engine.run.scheduling.fleet import SHARDS_PER_WORKER
from engine.run.scheduling.staffing import PoolLimits

AWAY = StorageError("away")


def assigned(actions: list[Action]) -> list[tuple[int, int]]:
    """Pairs of worker and shard."""
    return [(action.worker_id, action.shard_id) for action in actions if isinstance(action, AssignAttempt)]


def started(actions: list[Action]) -> list[int]:
    return [action.worker_id for action in actions if isinstance(action, StartWorker)]


def stopped(actions: list[Action]) -> list[int]:
    return [action.worker_id for action in actions if isinstance(action, StopWorker)]


def finished(actions: list[Action]) -> EngineError | None:
    (finish,) = [action for action in actions if isinstance(action, Finish)]
    return finish.error


def fixed(num_shards: int, num_workers: int, **options: Any) -> Scheduler:
    return Scheduler(range(num_shards), PoolLimits(num_workers, num_workers), **options)


def scheduler_with(num_shards: int, num_workers: int, **options: Any) -> tuple[Scheduler, list[tuple[int, int]]]:
    """A scheduler whose workers are all ready, each on a node of its own, and what they were given."""
    scheduler, pairs = fixed(num_shards, num_workers, **options), []
    for worker in started(scheduler.start()):
        scheduler.handle(WorkerPlaced(worker, f"node{worker}"), 0)
        pairs += assigned(scheduler.handle(WorkerReady(worker), 0))
    return scheduler, pairs


# Shards


def test_nothing_to_do_is_done_at_once() -> None:
    assert fixed(0, 4).start() == [Finish(None)]


def test_shards_go_out_in_order_and_fill_a_worker() -> None:
    scheduler, pairs = scheduler_with(10, 1)
    assert pairs == [(0, shard) for shard in range(SHARDS_PER_WORKER)]
    assert assigned(scheduler.handle(ShardDone(0, 1), 1)) == [(0, SHARDS_PER_WORKER)]


def test_a_worker_may_be_ready_without_having_been_placed() -> None:
    scheduler = fixed(1, 1)
    scheduler.start()
    assert assigned(scheduler.handle(WorkerReady(0), 0)) == [(0, 0)]
    assert (scheduler.num_asked, scheduler.num_held, scheduler.num_ready) == (0, 1, 1)


def test_the_last_commit_finishes() -> None:
    scheduler, pairs = scheduler_with(2, 1)
    assert pairs == [(0, 0), (0, 1)]
    assert scheduler.handle(ShardDone(0, 0), 1) == []
    assert scheduler.handle(ShardDone(0, 1), 2) == [Finish(None)]
    assert (scheduler.attempts, scheduler.workers_lost, scheduler.num_left) == (2, 0, 0)


def test_shards_go_to_the_least_loaded_worker() -> None:
    scheduler, _ = scheduler_with(6, 2)
    scheduler.handle(ShardDone(1, 3), 1)
    assert scheduler.handle(ShardDone(1, 4), 1) == []
    scheduler.handle(ShardFailed(0, 0, AWAY), 1)
    assert assigned(scheduler.handle(Tick(), 100)) == [(1, 0)]


@pytest.mark.parametrize("max_attempts", [1, 2, MAX_ATTEMPTS])
def test_a_retryable_failure_backs_off_twice_as_long_each_time(max_attempts: int) -> None:
    scheduler, _ = scheduler_with(1, 1, max_attempts=max_attempts)
    now, rest = 0.0, 0.0
    for attempt in range(2, max_attempts + 1):
        wait = 2.0 ** (attempt - 2)
        assert scheduler.handle(ShardFailed(0, 0, AWAY), now) == []
        rest = 1.0 if attempt > 3 else 0.0  # the third in a row on one worker lets it rest, for less long
        assert rest <= wait
        assert scheduler.handle(Tick(), now + wait - 0.01) == []
        assert scheduler.handle(Tick(), now + wait) == [AssignAttempt(0, 0, attempt)]
        now += wait
    last = StorageError("away for good")
    assert scheduler.attempts_of(0) == max_attempts
    assert scheduler.handle(ShardFailed(0, 0, last), now) == [Finish(last)]


@pytest.mark.parametrize("error", [DataError("row 3"), GraphError("rank"), JobFailedError("TypeError")])
def test_a_failure_that_no_retry_mends_finishes_at_once(error: EngineError) -> None:
    scheduler, _ = scheduler_with(9, 2)
    assert scheduler.handle(ShardFailed(0, 0, error), 0) == [Finish(error)]


def test_the_first_cause_is_reported_and_nothing_after_it() -> None:
    scheduler, _ = scheduler_with(9, 2)
    first = DataError("row 3")
    assert scheduler.handle(ShardFailed(0, 0, first), 0) == [Finish(first)]
    late: list[Event] = [ShardFailed(0, 1, DataError("row 4")), WorkerLost(1, "killed"), Tick(), WorkerReady(7)]
    assert [scheduler.handle(event, 1) for event in late] == [[]] * 4


def test_a_shard_that_waits_does_not_hold_up_the_others() -> None:
    scheduler, _ = scheduler_with(5, 1)
    assert assigned(scheduler.handle(ShardFailed(0, 0, AWAY), 0)) == [(0, 3)]
    assert assigned(scheduler.handle(ShardDone(0, 1), 0.1)) == [(0, 4)]


def test_a_shard_waits_for_room_on_a_worker_that_it_did_not_fail_on() -> None:
    scheduler, _ = scheduler_with(6, 2)  # 0, 1, 2 on worker 0 and 3, 4, 5 on worker 1
    scheduler.handle(ShardFailed(0, 0, AWAY), 0)
    assert scheduler.handle(Tick(), 10) == []
    assert assigned(scheduler.handle(ShardDone(1, 3), 11)) == [(1, 0)]


def test_a_shard_that_waits_for_room_does_not_hold_up_the_others() -> None:
    scheduler, _ = scheduler_with(8, 2)
    assert assigned(scheduler.handle(ShardFailed(0, 0, AWAY), 0)) == [(0, 6)]
    assert assigned(scheduler.handle(ShardDone(0, 1), 10)) == [(0, 7)]


def test_a_shard_goes_to_no_worker_that_it_failed_on() -> None:
    scheduler, _ = scheduler_with(9, 3)
    scheduler.handle(ShardFailed(0, 0, AWAY), 0)
    assert assigned(scheduler.handle(ShardDone(1, 3), 10)) == [(1, 0)]
    scheduler.handle(ShardFailed(1, 0, AWAY), 20)
    scheduler.handle(ShardDone(2, 6), 20)
    assert assigned(scheduler.handle(Tick(), 60)) == [(2, 0)]  # worker 0 has as much room


def test_a_shard_goes_back_where_no_other_worker_is_left() -> None:
    scheduler, _ = scheduler_with(3, 2)
    scheduler.handle(ShardFailed(0, 0, AWAY), 0)
    actions = scheduler.handle(WorkerLost(1, "killed"), 10)
    assert started(actions) == [2]
    assert assigned(actions) == [(0, 0)]


def test_a_worker_runs_empty_for_suspects_where_no_other_loads() -> None:
    scheduler, _ = scheduler_with(30, 2)
    scheduler.handle(WorkerLost(1, "killed"), 1)  # 3, 4 and 5 were on it
    assert [assigned(scheduler.handle(ShardDone(0, shard), 2)) for shard in range(3)] == [[], [], [(0, 3)]]
    assert [assigned(scheduler.handle(ShardDone(0, shard), 3)) for shard in (3, 4)] == [[(0, 4)], [(0, 5)]]
    assert assigned(scheduler.handle(ShardDone(0, 5), 4)) == [(0, 6), (0, 7), (0, 8)]


def test_no_worker_runs_empty_while_another_loads() -> None:
    scheduler, _ = scheduler_with(30, 2)
    scheduler.handle(WorkerLost(1, "killed"), 1)
    scheduler.handle(WorkerPlaced(2, "a"), 1)
    assert assigned(scheduler.handle(ShardDone(0, 0), 2)) == [(0, 6)]
    assert assigned(scheduler.handle(WorkerReady(2), 3)) == [(2, 3)]


def test_few_shards_are_shared_out_among_those_that_have_a_place() -> None:
    scheduler = Scheduler(range(3), PoolLimits(3, 3))
    workers = started(scheduler.start())
    for worker in workers:
        scheduler.handle(WorkerPlaced(worker, "a"), 0)
    assert [assigned(scheduler.handle(WorkerReady(worker), 1)) for worker in workers] == [[(0, 0)], [(1, 1)], [(2, 2)]]


def test_a_worker_with_three_failures_in_a_row_rests_while_another_is_awake() -> None:
    scheduler, _ = scheduler_with(30, 2)  # 0, 1, 2 on the first
    for shard, then in ((0, 6), (1, 7)):
        assert assigned(scheduler.handle(ShardFailed(0, shard, AWAY), 0)) == [(0, then)]
    assert scheduler.handle(ShardFailed(0, 2, AWAY), 0) == []
    assert scheduler.handle(Tick(), 0.99) == []
    assert assigned(scheduler.handle(Tick(), 1)) == [(0, 8)]
    assert scheduler.handle(ShardFailed(0, 8, AWAY), 1) == []
    assert scheduler.handle(Tick(), 2.99) == []
    assert assigned(scheduler.handle(Tick(), 3)) == [(0, 9)]


def test_the_last_worker_awake_does_not_rest_so_that_the_end_comes_soon() -> None:
    scheduler, pairs = scheduler_with(30, 1)
    now, given = 0.0, pairs
    for _ in range(200):
        now += 0.5
        actions = [each for worker, shard in given for each in scheduler.handle(ShardFailed(worker, shard, AWAY), now)]
        if Finish(AWAY) in actions:
            break
        given = assigned([*actions, *scheduler.handle(Tick(), now)])
    assert Finish(AWAY) in actions
    assert now < 30


def test_a_shard_done_breaks_the_row_of_failures() -> None:
    scheduler, _ = scheduler_with(10, 1)
    scheduler.handle(ShardFailed(0, 0, AWAY), 0)
    scheduler.handle(ShardFailed(0, 1, AWAY), 0)
    scheduler.handle(ShardDone(0, 2), 0)
    assert assigned(scheduler.handle(ShardFailed(0, 3, AWAY), 0)) == [(0, 6)]


# Reports that come late


def test_late_reports_of_shards_are_ignored() -> None:
    scheduler, _ = scheduler_with(2, 1)
    scheduler.handle(ShardDone(0, 0), 0)
    late: list[Event] = [
        ShardDone(0, 0),  # a second time
        ShardFailed(0, 0, DataError("late")),
        ShardDone(7, 1),  # a worker that never had it
        ShardFailed(7, 1, DataError("late")),
        ShardDone(0, 99),
    ]
    assert [scheduler.handle(event, 1) for event in late] == [[]] * 5
    assert scheduler.handle(ShardDone(0, 1), 2) == [Finish(None)]


def test_late_reports_of_workers_are_ignored() -> None:
    scheduler, _ = scheduler_with(1, 1)
    assert started(scheduler.handle(WorkerLost(0, "killed"), 0)) == [1]
    late: list[Event] = [
        WorkerLost(0, "killed"),
        WorkerStalled(0, "no rows"),
        WorkerPlaced(0, "node0"),
        WorkerReady(0),
        LoadFailed(0, GraphError("late")),
        ShardDone(0, 0),
        ShardFailed(0, 0, DataError("late")),
    ]
    assert [scheduler.handle(event, 1) for event in late] == [[]] * 7
    assert scheduler.workers_lost == 1
    assert assigned(scheduler.handle(WorkerReady(1), 1)) == [(1, 0)]


# Workers that are lost


@pytest.mark.parametrize("is_stall", [False, True])
def test_a_lost_worker_is_replaced_and_charges_no_shard(is_stall: bool) -> None:
    scheduler, _ = scheduler_with(3, 1, max_attempts=1)
    actions = scheduler.handle(WorkerStalled(0, "no rows") if is_stall else WorkerLost(0, "killed"), 0)
    assert actions == [*([StopWorker(0)] if is_stall else []), StartWorker(1)]
    assert len(assigned(scheduler.handle(WorkerReady(1), 0))) == 1


def test_suspects_run_alone_and_come_before_the_others() -> None:
    scheduler, _ = scheduler_with(4, 1)  # 0, 1, 2 in flight, 3 waits
    (second,) = started(scheduler.handle(WorkerLost(0, "killed"), 0))
    actions, tried = scheduler.handle(WorkerReady(second), 0), []
    for _ in range(4):
        ((worker, shard),) = assigned(actions)
        assert worker == second
        tried.append(shard)
        actions = scheduler.handle(ShardDone(second, shard), 0)
    assert tried == [0, 1, 2, 3]
    assert actions == [Finish(None)]


def set_aside(scheduler: Scheduler) -> list[Action]:
    """Lose every worker that shard 0 runs on, first in company and then alone, while the other suspects are done."""
    now, actions, losses = 0.0, scheduler.handle(WorkerLost(0, "killed"), 0), 0
    while losses < MAX_LOSSES_ALONE:
        now += 100
        (worker,) = started(actions) or started(scheduler.handle(Tick(), now))
        actions = scheduler.handle(WorkerReady(worker), now)
        while assigned(actions)[0][1] != 0:
            actions = scheduler.handle(ShardDone(*assigned(actions)[0]), now)
        losses += 1
        actions = scheduler.handle(WorkerLost(worker, "segmentation fault"), now)
    return actions


def test_a_shard_that_kills_three_workers_alone_is_set_aside_and_the_others_go_on() -> None:
    scheduler, _ = scheduler_with(5, 1)
    (notice,) = [each for each in set_aside(scheduler) if isinstance(each, Notice)]
    assert "shard 0 " in notice.text
    assert list(scheduler.set_aside) == [0]
    assert scheduler.num_left == 2
    (worker,) = started(scheduler.handle(Tick(), 1000))
    assert assigned(scheduler.handle(WorkerReady(worker), 1000)) == [(worker, 3), (worker, 4)]
    assert scheduler.handle(ShardDone(worker, 3), 1000) == []
    error = finished(scheduler.handle(ShardDone(worker, 4), 1000))
    assert isinstance(error, JobFailedError)
    assert "shard 0 lost 3 actors while it ran alone: segmentation fault" in str(error)


def test_the_last_shard_that_is_set_aside_ends_the_run() -> None:
    scheduler, _ = scheduler_with(1, 1)
    error = finished(set_aside(scheduler))
    assert isinstance(error, JobFailedError)
    assert "shard 0 " in str(error)


def test_a_lost_idle_worker_charges_nothing() -> None:
    scheduler, _ = scheduler_with(4, 2)  # 0, 1, 2 on worker 0 and 3 on worker 1
    scheduler.handle(ShardDone(1, 3), 0)
    assert scheduler.handle(WorkerLost(1, "killed"), 0) == [StartWorker(2)]
    assert scheduler.workers_lost == 1


def test_three_losses_in_a_row_while_loading_end_the_run_with_the_first_reason() -> None:
    scheduler, actions = fixed(9, 1), []
    (worker,) = started(scheduler.start())
    for loss in range(MAX_LOSSES_LOADING):
        actions = scheduler.handle(WorkerLost(worker, f"reason {loss}"), 10 * loss)
        if loss < MAX_LOSSES_LOADING - 1:
            (worker,) = started(actions) or started(scheduler.handle(Tick(), 10 * loss + 5))
    error = finished(actions)
    assert isinstance(error, WorkerLostError)
    assert "reason 0" in str(error)
    assert scheduler.workers_lost == MAX_LOSSES_LOADING


def test_losses_of_ready_workers_are_none_while_loading() -> None:
    scheduler, _ = scheduler_with(9, 1)
    assert started(scheduler.handle(WorkerLost(0, "killed"), 0)) == [1]
    scheduler.handle(WorkerReady(1), 0)
    scheduler.handle(WorkerLost(1, "killed"), 0)
    assert started(scheduler.handle(Tick(), 1)) == [2]
    assert scheduler.handle(WorkerLost(2, "killed"), 1) == []  # the first that had not loaded yet
    assert started(scheduler.handle(Tick(), 3)) == [3]
    assert scheduler.handle(WorkerLost(3, "killed"), 3) == []
    assert started(scheduler.handle(Tick(), 7)) == [4]
    assert isinstance(finished(scheduler.handle(WorkerLost(4, "killed"), 7)), WorkerLostError)


@pytest.mark.parametrize("hope", [WorkerReady(1), WorkerPlaced(1, "node1")])
def test_losses_while_loading_end_nothing_while_another_worker_may_do_it(hope: Event) -> None:
    scheduler = fixed(9, 2)
    worker, _ = started(scheduler.start())
    scheduler.handle(hope, 0)
    for loss in range(2 * MAX_LOSSES_LOADING):
        actions = scheduler.handle(WorkerLost(worker, "killed"), 100 * loss)
        assert not any(isinstance(action, Finish) for action in actions)
        (worker,) = started(actions) or started(scheduler.handle(Tick(), 100 * loss + 60))


# Loading


def test_a_mistake_while_loading_ends_a_run_that_has_got_nowhere() -> None:
    scheduler = fixed(9, 2)
    scheduler.start()
    scheduler.handle(WorkerReady(0), 0)
    error = GraphError("no such tensor")
    assert scheduler.handle(LoadFailed(1, error), 1) == [Finish(error)]
    assert scheduler.handle(ShardDone(0, 0), 2) == []


@pytest.mark.parametrize("other", [WorkerReady(0), WorkerPlaced(0, "node0")])
def test_a_node_that_cannot_load_is_barred_while_others_can(other: Event) -> None:
    scheduler = fixed(9, 2)
    scheduler.start()
    scheduler.handle(CapacityChanged(frozenset({"node0", "node1"})), 0)
    scheduler.handle(other, 0)
    scheduler.handle(WorkerPlaced(1, "node1"), 0)
    (notice,) = scheduler.handle(LoadFailed(1, ClusterError("node1 does not see /data")), 0)
    assert isinstance(notice, Notice)
    assert "node1 does not see /data" in notice.text
    assert scheduler.handle(Tick(), 5000) == [StartWorker(2, ("node1",))]


def test_a_node_that_cannot_load_is_barred_while_others_are_untried() -> None:
    scheduler = fixed(9, 2)
    scheduler.start()
    scheduler.handle(CapacityChanged(frozenset({"node0", "node1"})), 0)
    scheduler.handle(WorkerPlaced(0, "node0"), 0)
    notice, *_ = scheduler.handle(LoadFailed(0, ClusterError("node0 does not see /data")), 0)
    assert isinstance(notice, Notice)
    (worker, *_) = started(scheduler.handle(Tick(), 60))  # not where the first was
    scheduler.handle(WorkerPlaced(worker, "node1"), 61)
    (finish,) = scheduler.handle(LoadFailed(worker, ClusterError("node1 does not see /data")), 62)
    assert isinstance(finish, Finish)
    assert str(finish.error) == "node0 does not see /data"


def test_not_all_nodes_of_many_are_tried() -> None:
    scheduler = fixed(9, 1)
    scheduler.start()
    scheduler.handle(CapacityChanged(frozenset(f"node{i}" for i in range(100))), 0)
    for i in range(3):
        scheduler.handle(WorkerPlaced(i, f"node{i}"), 100 * i)
        actions = scheduler.handle(LoadFailed(i, ClusterError(f"node{i} does not see /data")), 100 * i)
        assert any(isinstance(action, Finish) for action in actions) == (i == 2)
        scheduler.handle(Tick(), 100 * i + 50)


def test_a_mistake_after_a_commit_is_the_nodes() -> None:
    scheduler = fixed(9, 2)
    scheduler.start()
    scheduler.handle(WorkerReady(0), 0)
    scheduler.handle(ShardDone(0, 0), 0)
    (notice,) = scheduler.handle(LoadFailed(1, GraphError("truncated file")), 0)
    assert isinstance(notice, Notice)


def test_where_no_worker_can_load_the_first_error_is_reported() -> None:
    scheduler = fixed(9, 2)
    scheduler.start()
    first, second = ClusterError("node0"), ClusterError("node1")
    scheduler.handle(WorkerPlaced(0, "node0"), 0)
    scheduler.handle(WorkerPlaced(1, "node1"), 0)
    assert not any(isinstance(action, Finish) for action in scheduler.handle(LoadFailed(0, first), 0))
    assert scheduler.handle(LoadFailed(1, second), 0) == [Finish(first)]


def test_a_worker_that_gets_ready_makes_earlier_load_errors_forgotten() -> None:
    scheduler = fixed(9, 3)
    scheduler.start()
    first, second = ClusterError("node0"), ClusterError("node2")
    scheduler.handle(WorkerPlaced(1, "node1"), 0)
    scheduler.handle(LoadFailed(0, first), 0)
    scheduler.handle(WorkerReady(1), 0)
    scheduler.handle(WorkerLost(1, "killed"), 0)
    assert scheduler.handle(LoadFailed(2, second), 0) == [Finish(second)]


# Stragglers


@pytest.mark.parametrize(("slowest", "age"), [(1.0, 5.0), (4.0, 8.0)])
def test_a_straggler_has_a_second_attempt(slowest: float, age: float) -> None:
    scheduler, pairs = scheduler_with(4, 2)
    assert pairs == [(0, 0), (0, 1), (0, 2), (1, 3)]
    for worker, shard in pairs[1:]:
        scheduler.handle(ShardDone(worker, shard), slowest)
    assert scheduler.handle(Tick(), age - 0.01) == []
    assert scheduler.handle(Tick(), age) == [AssignAttempt(1, 0, 2)]
    assert scheduler.backups == 1
    assert scheduler.handle(Tick(), 1000) == []  # never a third


def test_no_second_attempt_where_bytes_may_differ() -> None:
    scheduler, pairs = scheduler_with(4, 2, can_back_up=False)
    for worker, shard in pairs[1:]:
        scheduler.handle(ShardDone(worker, shard), 1)
    assert scheduler.handle(Tick(), 1000) == []


def test_no_second_attempt_while_little_is_known() -> None:
    scheduler, pairs = scheduler_with(3, 2)
    scheduler.handle(ShardDone(0, 1), 1)
    scheduler.handle(ShardDone(0, 2), 1)
    assert pairs == [(0, 0), (0, 1), (0, 2)]
    assert scheduler.handle(Tick(), 1000) == []


@pytest.mark.parametrize(("winner", "loser"), [(0, 1), (1, 0)])
def test_the_first_to_be_done_commits_and_the_other_is_cancelled(winner: int, loser: int) -> None:
    scheduler, pairs = scheduler_with(5, 2)
    assert pairs == [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4)]
    for shard in (1, 2):
        scheduler.handle(ShardDone(0, shard), 1)
    scheduler.handle(ShardDone(1, 3), 1)
    assert scheduler.handle(ShardDone(1, 4), 9) == [AssignAttempt(1, 0, 2)]
    assert scheduler.handle(ShardDone(winner, 0), 10)[:1] == [CancelAttempt(loser, 0)]
    assert scheduler.handle(ShardFailed(loser, 0, DataError("cancelled")), 10) == []


@pytest.mark.parametrize("report", [ShardDone(0, 0), ShardFailed(0, 0, DataError("cancelled"))])
def test_a_cancelled_attempt_keeps_its_slot_until_it_reports(report: Event) -> None:
    scheduler, pairs = scheduler_with(6, 2)
    for worker, shard in pairs:
        if shard not in {0, 5}:
            scheduler.handle(ShardDone(worker, shard), 1)
    scheduler.handle(ShardFailed(1, 5, AWAY), 1)
    assert assigned(scheduler.handle(Tick(), 2)) == [(0, 5)]
    assert assigned(scheduler.handle(Tick(), 20)) == [(1, 0)]
    assert scheduler.handle(ShardDone(1, 0), 20) == [CancelAttempt(0, 0)]
    assert scheduler.handle(Tick(), 100) == []  # 5 failed on worker 1, which is the only idle one
    assert scheduler.handle(report, 100) == []
    assert scheduler.handle(ShardDone(0, 5), 100) == [Finish(None)]


def test_a_failure_or_loss_beside_another_attempt_leaves_that_one_alone() -> None:
    for event in (ShardFailed(1, 0, AWAY), WorkerLost(1, "killed")):
        scheduler, pairs = scheduler_with(4, 2, max_attempts=1)
        for worker, shard in pairs[1:]:
            scheduler.handle(ShardDone(worker, shard), 1)
        assert assigned(scheduler.handle(Tick(), 9)) == [(1, 0)]
        assert assigned(scheduler.handle(event, 9)) == []
        assert scheduler.handle(ShardDone(0, 0), 10) == [Finish(None)]


def test_the_oldest_attempt_comes_first_after_its_second_one_has_failed_too() -> None:
    scheduler, pairs = scheduler_with(12, 4)  # 0, 1, 2 on worker 0, and so on
    for worker, shard in pairs:
        if shard not in {0, 6, 7}:
            scheduler.handle(ShardDone(worker, shard), 1)
    scheduler.handle(ShardFailed(2, 6, AWAY), 4)
    scheduler.handle(ShardFailed(2, 7, AWAY), 4)
    assert sorted(assigned(scheduler.handle(Tick(), 5))) == [(1, 6), (2, 0), (3, 7)]
    scheduler.handle(ShardFailed(2, 0, AWAY), 6)
    assert assigned(scheduler.handle(ShardDone(3, 7), 7)) == [(3, 0)]  # not 6, which is younger


def test_a_straggler_that_failed_on_all_idle_workers_holds_up_no_other() -> None:
    scheduler, pairs = scheduler_with(5, 2)
    assert pairs == [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4)]
    for worker, shard in [(0, 2), (1, 3), (1, 4)]:
        scheduler.handle(ShardDone(worker, shard), 1)
    assert assigned(scheduler.handle(Tick(), 9)) == [(1, 0)]
    assert assigned(scheduler.handle(ShardFailed(1, 0, AWAY), 9)) == [(1, 1)]


def test_a_straggler_that_has_failed_too_often_has_no_second_attempt_again() -> None:
    scheduler, pairs = scheduler_with(18, 6, max_attempts=1)
    for worker, shard in pairs:
        if shard and worker < 5:
            scheduler.handle(ShardDone(worker, shard), 1)
    given = assigned(scheduler.handle(Tick(), 9))
    assert [shard for _, shard in given] == [0, 15, 16]
    given += assigned(scheduler.handle(ShardFailed(given[0][0], 0, AWAY), 10))
    for worker, shard in given[1:3]:
        given += assigned(scheduler.handle(ShardDone(worker, shard), 11))
    assert [shard for _, shard in given] == [0, 15, 16, 17]
    assert scheduler.handle(ShardFailed(0, 0, AWAY), 12) == [Finish(AWAY)]


# The end


@pytest.mark.parametrize("error", [JobFailedError("too many bad rows"), JobInterrupted("SIGINT")])
def test_a_stop_ends_the_run_with_its_error(error: EngineError) -> None:
    scheduler, _ = scheduler_with(9, 2)
    assert scheduler.handle(Stop(error), 0) == [Finish(error)]
    assert scheduler.handle(Stop(DataError("late")), 0) == []


@pytest.mark.parametrize("event", [Stop(DataError("bad rows")), ShardFailed(0, 3, DataError("bad rows"))])
def test_a_shard_set_aside_is_the_first_cause(event: Event) -> None:
    scheduler, _ = scheduler_with(5, 1)
    set_aside(scheduler)
    (worker,) = started(scheduler.handle(Tick(), 1000))
    scheduler.handle(WorkerReady(worker), 1000)
    if isinstance(event, ShardFailed):
        event = ShardFailed(worker, 3, event.error)
    error = finished(scheduler.handle(event, 1000))
    assert isinstance(error, JobFailedError)
    assert "shard 0 " in str(error)
    assert "bad rows" in str(error)


def test_an_interrupt_is_reported_as_such() -> None:
    scheduler, _ = scheduler_with(5, 1)
    set_aside(scheduler)
    error = JobInterrupted("SIGINT")
    assert scheduler.handle(Stop(error), 1000) == [Finish(error)]


# Size


@pytest.mark.parametrize(("num_shards", "num_workers"), [(5000, 50), (5000, 1), (3, 50)])
def test_many_shards_are_each_tried_once_where_nothing_fails(num_shards: int, num_workers: int) -> None:
    scheduler, pairs = scheduler_with(num_shards, num_workers)
    seen, actions = [], []
    while pairs:
        worker, shard = pairs.pop(0)
        seen.append(shard)
        actions = scheduler.handle(ShardDone(worker, shard), 0)
        pairs += assigned(actions)
    assert actions == [Finish(None)]
    assert sorted(seen) == list(range(num_shards))
    assert scheduler.attempts == num_shards


def bytecodes(step: Callable[[], list[Action]]) -> tuple[int, list[Action]]:
    """Bytecodes that a step has run in Python, comprehensions among them, and what it returned."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        actions = step()
    finally:
        sys.settrace(before)
    return count, actions


def ready_fleet(num_workers: int, shards_each: int = 4) -> Scheduler:
    return scheduler_with(shards_each * num_workers, num_workers)[0]


def retries_blocked(size: int) -> Scheduler:
    """Two workers: the one that has room is the one that all waiting shards failed on; the other is full."""
    scheduler, now = scheduler_with(size, 2)[0], 0.0
    given = list(range(3))
    while given:
        shard = given.pop()
        now += 100
        given += [pair[1] for pair in assigned(scheduler.handle(ShardFailed(0, shard, AWAY), now)) if pair[0] == 0]
        if not given:
            given += [pair[1] for pair in assigned(scheduler.handle(Tick(), now + 90)) if pair[0] == 0]
    return scheduler


def many_suspects(size: int) -> Scheduler:
    scheduler = scheduler_with(3 * size, size)[0]
    for worker in range(1, size):
        scheduler.handle(WorkerLost(worker, "killed"), 0)
    return scheduler


def many_asked(size: int) -> Scheduler:
    scheduler = fixed(3 * size, size)
    scheduler.start()
    scheduler.handle(WorkerPlaced(0, "node0"), 0)
    return scheduler


STEPS: dict[str, tuple[Callable[[int], Scheduler], Event]] = {
    "done": (ready_fleet, ShardDone(0, 0)),
    "failed": (ready_fleet, ShardFailed(0, 0, AWAY)),
    "lost": (ready_fleet, WorkerLost(0, "killed")),
    "stalled": (ready_fleet, WorkerStalled(0, "no rows")),
    "placed": (many_asked, WorkerPlaced(1, "node1")),
    "ready": (many_asked, WorkerReady(0)),
    "lost while asked": (many_asked, WorkerLost(1, "killed")),
    "tick, many asked": (many_asked, Tick()),
    "done, many suspects": (many_suspects, ShardDone(0, 0)),
    "tick, many suspects": (many_suspects, Tick()),
    "ready, many suspects": (many_suspects, WorkerReady(10)),
    "tick, retries blocked": (retries_blocked, Tick()),
    "done, retries blocked": (retries_blocked, ShardDone(1, 3)),
}


@pytest.mark.parametrize("name", STEPS)
def test_no_step_takes_longer_with_more_shards_and_workers(name: str) -> None:
    prepare, event = STEPS[name]
    counts = []
    for size in (100, 10_000):
        scheduler = prepare(size)
        count, actions = bytecodes(lambda scheduler=scheduler: scheduler.handle(event, 1e6))
        counts.append(count / (1 + len(actions)))
    assert counts[0] > 0
    assert counts[1] <= 3 * counts[0] + 200


def test_what_is_done_is_not_kept_for_second_attempts() -> None:
    scheduler, given = scheduler_with(20_000, 2)
    now = 0.0
    for worker_id, shard_id in given:  # grows while it is gone through
        now += 0.1
        given += assigned(scheduler.handle(ShardDone(worker_id, shard_id), now))
        assert len(scheduler._stragglers._single) < 2_000
    assert not scheduler.num_left
