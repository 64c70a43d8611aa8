import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.errors import DataError, EngineError, GraphError, JobFailedError, StorageError, WorkerLostError
from engine.run.schedule import (
    FIRST_BACKOFF_SECONDS,
    MAX_ATTEMPTS,
    MAX_LOSSES_ALONE,
    MAX_LOSSES_LOADING,
    SHARDS_PER_WORKER,
    Action,
    AssignAttempt,
    Event,
    Finish,
    LoadFailed,
    Scheduler,
    ShardDone,
    ShardFailed,
    StartWorker,
    Tick,
    WorkerLost,
    WorkerReady,
)


def assigned(actions: list[Action]) -> list[tuple[int, int]]:
    """Pairs of worker and shard."""
    return [(action.worker_id, action.shard_id) for action in actions if isinstance(action, AssignAttempt)]


def started(actions: list[Action]) -> list[int]:
    return [action.worker_id for action in actions if isinstance(action, StartWorker)]


def scheduler_with(num_shards: int, num_workers: int) -> tuple[Scheduler, list[tuple[int, int]]]:
    """A scheduler whose workers are all ready, and what they were given."""
    scheduler = Scheduler(range(num_shards), num_workers)
    pairs = [
        pair for worker in started(scheduler.start()) for pair in assigned(scheduler.handle(WorkerReady(worker), 0))
    ]
    return scheduler, pairs


def test_nothing_to_do_is_done_at_once() -> None:
    assert Scheduler([], 4).start() == [Finish(None)]


def test_no_more_workers_than_shards() -> None:
    assert started(Scheduler([3, 5], 8).start()) == [0, 1]


def test_shards_go_out_in_order_and_fill_a_worker() -> None:
    scheduler, pairs = scheduler_with(10, 1)
    assert pairs == [(0, shard) for shard in range(SHARDS_PER_WORKER)]
    assert assigned(scheduler.handle(ShardDone(0, 1), 1)) == [(0, SHARDS_PER_WORKER)]


def test_the_last_commit_finishes() -> None:
    scheduler, pairs = scheduler_with(2, 1)
    assert pairs == [(0, 0), (0, 1)]
    assert scheduler.handle(ShardDone(0, 0), 1) == []
    assert scheduler.handle(ShardDone(0, 1), 2) == [Finish(None)]
    assert scheduler.attempts == 2
    assert scheduler.workers_lost == 0


def test_shards_go_to_the_least_loaded_worker() -> None:
    scheduler, _ = scheduler_with(6, 2)
    scheduler.handle(ShardDone(1, 3), 1)
    assert scheduler.handle(ShardDone(1, 4), 1) == []
    scheduler.handle(ShardFailed(0, 0, StorageError("away")), 1)
    assert assigned(scheduler.handle(Tick(), 100)) == [(1, 0)]


def test_a_load_that_failed_ends_the_run_with_its_error() -> None:
    scheduler, _ = scheduler_with(3, 2)
    error = GraphError("no such tensor")
    assert scheduler.handle(LoadFailed(1, error), 1) == [Finish(error)]
    assert scheduler.handle(ShardDone(0, 0), 2) == []


def test_three_losses_in_a_row_while_loading_end_the_run() -> None:
    scheduler = Scheduler(range(9), 1)
    (worker,) = started(scheduler.start())
    for _ in range(MAX_LOSSES_LOADING - 1):
        (worker,) = started(scheduler.handle(WorkerLost(worker, "killed"), 0))
    (finish,) = scheduler.handle(WorkerLost(worker, "out of memory"), 0)
    assert isinstance(finish, Finish)
    assert isinstance(finish.error, WorkerLostError)
    assert "out of memory" in str(finish.error)
    assert scheduler.workers_lost == MAX_LOSSES_LOADING


def test_a_worker_that_gets_ready_breaks_the_row_of_losses() -> None:
    scheduler = Scheduler(range(9), 2)
    first, second = started(scheduler.start())
    (third,) = started(scheduler.handle(WorkerLost(first, "killed"), 0))
    (fourth,) = started(scheduler.handle(WorkerLost(second, "killed"), 0))
    scheduler.handle(WorkerReady(third), 0)
    assert started(scheduler.handle(WorkerLost(fourth, "killed"), 0)) == [4]


def test_a_retryable_failure_backs_off_twice_as_long_each_time_and_is_retried() -> None:
    scheduler, _ = scheduler_with(1, 1)
    now, wait = 0.0, FIRST_BACKOFF_SECONDS
    for attempt in range(2, MAX_ATTEMPTS + 1):
        assert scheduler.handle(ShardFailed(0, 0, StorageError("away")), now) == []
        assert scheduler.handle(Tick(), now + wait - 0.01) == []
        assert scheduler.handle(Tick(), now + wait) == [AssignAttempt(0, 0, attempt)]
        now, wait = now + wait, wait * 2
    last = StorageError("away for good")
    assert scheduler.handle(ShardFailed(0, 0, last), now) == [Finish(last)]
    assert scheduler.attempts_of(0) == MAX_ATTEMPTS


def test_a_shard_that_waits_does_not_hold_up_the_others() -> None:
    scheduler, _ = scheduler_with(5, 1)
    assert assigned(scheduler.handle(ShardFailed(0, 0, StorageError("away")), 0)) == [(0, 3)]
    assert assigned(scheduler.handle(ShardDone(0, 1), 0.1)) == [(0, 4)]


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


def test_a_shard_does_not_go_back_to_the_worker_it_failed_on() -> None:
    scheduler, _ = scheduler_with(6, 2)  # 0, 1, 2 on worker 0 and 3, 4, 5 on worker 1
    scheduler.handle(ShardFailed(0, 0, StorageError("away")), 0)
    assert scheduler.handle(Tick(), 10) == []  # worker 0 has room, but it failed there
    assert assigned(scheduler.handle(ShardDone(1, 3), 11)) == [(1, 0)]


def test_a_shard_goes_to_no_worker_that_it_failed_on_while_another_is_free() -> None:
    scheduler, _ = scheduler_with(9, 3)
    scheduler.handle(ShardFailed(0, 0, StorageError("away")), 0)
    assert assigned(scheduler.handle(ShardDone(1, 3), 10)) == [(1, 0)]
    scheduler.handle(ShardFailed(1, 0, StorageError("away")), 20)
    scheduler.handle(ShardDone(2, 6), 20)
    assert assigned(scheduler.handle(Tick(), 60)) == [(2, 0)]  # worker 0 has as much room, but it failed there


def test_a_shard_goes_back_where_no_other_worker_is_left() -> None:
    scheduler, _ = scheduler_with(6, 2)
    scheduler.handle(ShardFailed(0, 0, StorageError("away")), 0)
    actions = scheduler.handle(WorkerLost(1, "killed"), 10)
    assert started(actions) == [2]
    assert assigned(actions) == [(0, 0)]


def test_suspects_run_alone() -> None:
    scheduler, _ = scheduler_with(4, 1)  # 0, 1, 2 in flight, 3 waits
    (second,) = started(scheduler.handle(WorkerLost(0, "killed"), 0))
    actions, tried = scheduler.handle(WorkerReady(second), 0), []
    for _ in range(4):
        ((worker, shard),) = assigned(actions)
        assert worker == second
        tried.append(shard)
        actions = scheduler.handle(ShardDone(second, shard), 0)
    assert sorted(tried) == [0, 1, 2, 3]
    assert actions == [Finish(None)]


def test_only_losses_alone_are_charged_and_three_are_too_many() -> None:
    scheduler, _ = scheduler_with(3, 1)
    worker, victims = 0, []
    for loss in range(MAX_LOSSES_ALONE):
        (worker,) = started(scheduler.handle(WorkerLost(worker, "killed"), loss))
        ((_, shard),) = assigned(scheduler.handle(WorkerReady(worker), loss))
        victims.append(shard)
    (victim,) = set(victims)  # first in line each time; the loss in company was free
    (finish,) = scheduler.handle(WorkerLost(worker, "segmentation fault"), 9)
    assert isinstance(finish, Finish)
    assert isinstance(finish.error, JobFailedError)
    assert f"shard {victim} " in str(finish.error)
    assert "segmentation fault" in str(finish.error)
    assert [scheduler.attempts_of(shard) for shard in {0, 1, 2} - {victim}] == [1, 1]


def test_a_lost_idle_worker_charges_nothing() -> None:
    scheduler, _ = scheduler_with(4, 2)  # 0, 1, 2 on worker 0 and 3 on worker 1
    scheduler.handle(ShardDone(1, 3), 0)
    assert scheduler.handle(WorkerLost(1, "killed"), 0) == [StartWorker(2)]
    assert scheduler.workers_lost == 1


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


def test_the_dead_report_nothing() -> None:
    scheduler, _ = scheduler_with(1, 1)
    (second,) = started(scheduler.handle(WorkerLost(0, "killed"), 0))
    assert scheduler.handle(ShardDone(0, 0), 1) == []
    assert scheduler.handle(ShardFailed(0, 0, DataError("late")), 1) == []
    assert assigned(scheduler.handle(WorkerReady(second), 1)) == [(second, 0)]


def test_a_worker_is_lost_once() -> None:
    scheduler, _ = scheduler_with(1, 1)
    assert started(scheduler.handle(WorkerLost(0, "killed"), 0)) == [1]
    assert scheduler.handle(WorkerLost(0, "killed"), 0) == []
    assert scheduler.workers_lost == 1


# Outcomes that cost a shard an attempt and do not end the run: failures below the limit, one loss in company,
# losses alone below the limit; and the attempt that ends it.
MOST_ATTEMPTS = (MAX_ATTEMPTS - 1) + 1 + (MAX_LOSSES_ALONE - 1) + 1
# What ends a run happens seldom, so that most runs are long.
RARE = st.sampled_from([False] * 9 + [True])


class World(RuleBasedStateMachine):
    """Plays the cluster: workers load, score, fail and die at random, on a clock of its own."""

    @initialize(num_shards=st.integers(1, 12), num_workers=st.integers(1, 4))
    def begin(self, num_shards: int, num_workers: int) -> None:
        self.now = 0.0
        self.num_shards = num_shards
        self.scheduler = Scheduler(range(num_shards), num_workers)
        self.num_workers = min(num_shards, num_workers)
        self.loading: list[int] = []
        self.loads: dict[int, set[int]] = {}
        self.committed: set[int] = set()
        self.attempts = dict.fromkeys(range(num_shards), 0)
        self.failures = dict.fromkeys(range(num_shards), 0)
        self.suspects: set[int] = set()
        self.losses_alone = dict.fromkeys(range(num_shards), 0)
        self.losses_loading = 0
        self.failed_on: dict[int, int] = {}
        self.not_before: dict[int, float] = {}
        self.finish: Finish | None = None
        self.cause: EngineError | type[EngineError] | None = None
        self.must_finish = False
        self.play(self.scheduler.start())

    def send(self, event: Event) -> None:
        self.play(self.scheduler.handle(event, self.now))

    def play(self, actions: list[Action]) -> None:
        for action in actions:
            assert self.finish is None, "an action after the end"
            match action:
                case StartWorker(worker):
                    assert worker not in self.loads
                    assert worker not in self.loading
                    self.loading.append(worker)
                case AssignAttempt(worker, shard, attempt):
                    self.check_assignment(worker, shard)
                    self.attempts[shard] += 1
                    assert attempt == self.attempts[shard]
                    self.loads[worker].add(shard)
                case Finish():
                    self.finish = action
        assert (self.finish is not None) == self.must_finish
        if self.finish is not None:
            if isinstance(self.cause, type):  # the scheduler's own: a worker lost too often
                assert type(self.finish.error) is self.cause
            else:
                assert self.finish.error is self.cause

    def check_assignment(self, worker: int, shard: int) -> None:
        assert worker in self.loads, "a shard for a worker that is not ready"
        assert shard not in self.committed, "a shard that was committed"
        assert all(shard not in load for load in self.loads.values()), "a shard on two workers"
        assert self.now >= self.not_before.get(shard, 0.0), "a shard before its backoff is over"
        load = self.loads[worker]
        assert len(load) < SHARDS_PER_WORKER
        assert not load & self.suspects, "company for a suspect"
        assert shard not in self.suspects or not load, "a suspect in company"
        if self.failed_on.get(shard) == worker:
            assert len(self.loads) == 1, "back to the worker that it failed on"

    def over(self, cause: EngineError | type[EngineError] | None) -> None:
        self.must_finish, self.cause = True, cause

    is_running = precondition(lambda self: self.finish is None)
    is_loading = precondition(lambda self: self.finish is None and self.loading)
    is_scoring = precondition(lambda self: self.finish is None and any(self.loads.values()))

    def draw_attempt(self, data: st.DataObject) -> tuple[int, int]:
        pairs = [(worker, shard) for worker, load in self.loads.items() for shard in sorted(load)]
        return data.draw(st.sampled_from(pairs))

    @is_loading
    @rule(data=st.data())
    def get_ready(self, data: st.DataObject) -> None:
        self.become_ready(data.draw(st.sampled_from(self.loading)))

    @is_loading
    @rule()
    def get_ready_all(self) -> None:
        for worker in list(self.loading):
            self.become_ready(worker)

    def become_ready(self, worker: int) -> None:
        self.loading.remove(worker)
        self.loads[worker] = set()
        self.losses_loading = 0
        self.send(WorkerReady(worker))

    @is_loading
    @rule(data=st.data(), is_rare=RARE)
    def die_loading(self, data: st.DataObject, is_rare: bool) -> None:
        if not is_rare:
            return
        worker = data.draw(st.sampled_from(self.loading))
        self.loading.remove(worker)
        self.losses_loading += 1
        if self.losses_loading == MAX_LOSSES_LOADING:
            self.over(WorkerLostError)
        self.send(WorkerLost(worker, "killed"))

    @is_scoring
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.do_commit(*self.draw_attempt(data))

    def do_commit(self, worker: int, shard: int) -> None:
        self.loads[worker].remove(shard)
        self.committed.add(shard)
        if len(self.committed) == self.num_shards:
            self.over(None)
        self.send(ShardDone(worker, shard))

    @is_scoring
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        worker, shard = self.draw_attempt(data)
        error = StorageError(f"shard {shard}")
        self.loads[worker].remove(shard)
        self.failures[shard] += 1
        self.failed_on[shard] = worker
        self.not_before[shard] = self.now + FIRST_BACKOFF_SECONDS * 2 ** (self.failures[shard] - 1)
        if self.failures[shard] == MAX_ATTEMPTS:
            self.over(error)
        self.send(ShardFailed(worker, shard, error))

    @is_scoring
    @rule(data=st.data(), is_rare=RARE)
    def fail_for_good(self, data: st.DataObject, is_rare: bool) -> None:
        if not is_rare:
            return
        worker, shard = self.draw_attempt(data)
        error = DataError(f"shard {shard}")
        self.loads[worker].remove(shard)
        self.over(error)
        self.send(ShardFailed(worker, shard, error))

    @precondition(lambda self: self.finish is None and self.loads)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.loads)))
        in_flight = self.loads.pop(worker)
        for shard in in_flight:
            if len(in_flight) == 1 and shard in self.suspects:
                self.losses_alone[shard] += 1
                if self.losses_alone[shard] == MAX_LOSSES_ALONE:
                    self.over(JobFailedError)
        self.suspects |= in_flight
        self.send(WorkerLost(worker, "killed"))

    @is_running
    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.send(Tick())

    @is_running
    @rule(worker=st.integers(0, 9), shard=st.integers(0, 11), is_done=st.booleans())
    def report_late(self, worker: int, shard: int, is_done: bool) -> None:
        if shard not in self.loads.get(worker, set()):
            self.send(ShardDone(worker, shard) if is_done else ShardFailed(worker, shard, DataError("late")))

    @precondition(lambda self: self.finish is not None)
    @rule(worker=st.integers(0, 3))
    def nothing_moves_after_the_end(self, worker: int) -> None:
        for event in (WorkerReady(worker), WorkerLost(worker, "killed"), Tick(), ShardDone(worker, 0)):
            assert self.scheduler.handle(event, self.now) == []

    @invariant()
    def attempts_are_bounded(self) -> None:
        if hasattr(self, "attempts"):
            assert max(self.attempts.values()) <= MOST_ATTEMPTS
            assert self.scheduler.attempts == sum(self.attempts.values())
            assert [self.scheduler.attempts_of(shard) for shard in self.attempts] == list(self.attempts.values())

    @invariant()
    def workers_are_replaced(self) -> None:
        if hasattr(self, "finish") and self.finish is None:
            assert len(self.loading) + len(self.loads) == self.num_workers

    def teardown(self) -> None:
        """From here on the world behaves: whatever happened before, every shard is committed."""
        if not hasattr(self, "finish"):
            return
        for _ in range(100):
            if self.finish is not None:
                break
            self.now += 100.0
            self.send(Tick())
            for worker in list(self.loading):
                self.become_ready(worker)
            for worker, load in list(self.loads.items()):
                for shard in sorted(load):
                    if self.finish is None:
                        self.do_commit(worker, shard)
        assert self.finish is not None, "the run does not end"


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=120, stateful_step_count=50, deadline=None, derandomize=True, database=None)


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
