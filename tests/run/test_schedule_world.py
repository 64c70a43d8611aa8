"""The scheduler against a world that places, loads, scores, fails and dies at random, on a clock of its own."""

import math
import statistics

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
from engine.run.schedule import Scheduler
from engine.run.scheduling.events import (
    Action,
    AssignAttempt,
    CancelAttempt,
    CapacityChanged,
    Event,
    Finish,
    LoadFailed,
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
from engine.run.scheduling.staffing import PoolLimits

ROOM, MOST_ALONE, MOST_LOADING, MOST_REFUSALS, IN_A_ROW = 3, 3, 3, 3, 3
AVOIDED_SECONDS, MOVE_SECONDS = 600.0, 10.0
# What ends a run happens seldom, so that most runs are long.
RARE = st.sampled_from([False] * 9 + [True])
NODES = [f"node{index}" for index in range(12)]


def pause(times: int) -> float:
    return min(60.0, 2.0 ** (times - 1))


class World(RuleBasedStateMachine):
    @initialize(
        num_shards=st.integers(1, 12),
        limits=st.tuples(st.integers(1, 3), st.integers(0, 4)),
        max_attempts=st.sampled_from([1, 2, 4]),
        can_back_up=st.booleans(),
        num_nodes=st.integers(1, 4),
    )
    def begin(
        self, num_shards: int, limits: tuple[int, int], max_attempts: int, can_back_up: bool, num_nodes: int
    ) -> None:
        self.min_workers, self.max_workers = limits[0], sum(limits)
        self.max_attempts, self.can_back_up = max_attempts, can_back_up
        self.scheduler = Scheduler(
            range(num_shards), PoolLimits(self.min_workers, self.max_workers), max_attempts, can_back_up
        )
        self.now = 0.0
        self.finish: Finish | None = None
        self.expected: list[EngineError | type[EngineError] | None] = []
        self.may_lose = False
        # Workers.
        self.asked: dict[int, tuple[str, ...]] = {}
        self.placed: dict[int, str] = {}
        self.node_of: dict[int, str] = {}
        self.loads: dict[int, dict[int, bool]] = {}  # of ready workers: shard, and whether it is not cancelled
        self.occupied: set[int] = set()  # ready workers whose shard must have no company
        self.worker_failures: dict[int, int] = {}
        self.rests_until: dict[int, float] = {}
        self.resting: set[int] = set()
        self.gone: set[int] = set()
        self.stalled: int | None = None
        # Losses.
        self.originals: set[int] = set()
        self.last_loss: float | None = None
        self.due = 0.0  # for pools of one
        self.line_losses = self.loading_losses = self.workers_lost = 0
        self.load_error: EngineError | None = None
        # Nodes.
        self.num_nodes = num_nodes
        self.living = set(NODES[:num_nodes])
        self.node_losses: dict[str, int] = {}
        self.node_until: dict[str, float] = {}
        self.barred: set[str] = set()
        self.refusals = 0
        self.last_avoided: tuple[str, ...] = ()
        self.avoided_since = -math.inf
        # Shards.
        self.shards = list(range(num_shards))
        self.committed: set[int] = set()
        self.aside: list[int] = []
        self.attempts = dict.fromkeys(self.shards, 0)
        self.failures = dict.fromkeys(self.shards, 0)
        self.losses_alone = dict.fromkeys(self.shards, 0)
        self.failed_on: dict[int, set[int]] = {shard: set() for shard in self.shards}
        self.runners: dict[int, dict[int, float]] = {shard: {} for shard in self.shards}
        self.not_before = dict.fromkeys(self.shards, 0.0)
        self.suspects: set[int] = set()
        self.durations: list[float] = []
        self.backups = 0
        self.to_cancel: set[tuple[int, int]] = set()
        self.play(self.scheduler.start(0.0))
        self.originals = set(self.asked)
        self.send(CapacityChanged(frozenset(self.living)))

    # What the model knows.

    @property
    def held(self) -> int:
        return len(self.asked) + len(self.placed) + len(self.loads)

    @property
    def left(self) -> int:
        return len(self.shards) - len(self.committed) - len(self.aside)

    @property
    def wanted(self) -> int:
        return min(self.kept, max(self.min_workers, math.ceil(self.left / 3)))

    @property
    def kept(self) -> int:
        return min(self.max_workers, self.left + math.ceil(self.left / 4))

    def waiting(self) -> list[int]:
        return [
            shard
            for shard in self.shards
            if shard not in self.committed and shard not in self.aside
            if not self.runners[shard] and self.not_before[shard] <= self.now
        ]

    def is_open(self, worker: int) -> bool:
        has_room = len(self.loads[worker]) < ROOM and worker not in self.occupied
        return has_room and self.rests_until.get(worker, 0.0) <= self.now

    def idle(self) -> list[int]:
        return [worker for worker, load in self.loads.items() if not load and self.is_open(worker)]

    def may_take(self, worker: int, shard: int) -> bool:
        return worker not in self.failed_on[shard] or set(self.loads) <= self.failed_on[shard]

    def straggler_seconds(self) -> float:
        if len(self.durations) < 3:
            return math.inf
        return max(5.0, 2 * statistics.median_high(self.durations[-101:]))

    def avoided(self) -> tuple[str, ...]:
        avoided = {node for node in self.living if node in self.barred or self.node_until.get(node, 0.0) > self.now}
        return tuple(sorted(avoided)) if avoided != self.living else ()

    # What the scheduler says.

    def send(self, event: Event) -> None:
        actions = self.scheduler.handle(event, self.now)
        self.resting = {each for each in self.resting if self.rests_until[each] > self.now}
        if self.avoided() != self.last_avoided:
            self.last_avoided, self.avoided_since = self.avoided(), self.now
        self.play(actions)

    def play(self, actions: list[Action]) -> None:
        for action in actions:
            assert self.finish is None, "an action after the end"
            match action:
                case StartWorker(worker, avoid_nodes):
                    self.check_start(worker, avoid_nodes)
                case StopWorker(worker):
                    self.check_stop(worker)
                case AssignAttempt(worker, shard, attempt):
                    self.check_assignment(worker, shard, attempt)
                case CancelAttempt(worker, shard):
                    self.to_cancel.remove((worker, shard))
                    self.loads[worker][shard] = False
                case Finish():
                    self.finish = action
        self.check_finish()
        if self.finish is None:
            self.check_rest()

    def is_drained(self) -> bool:
        """Whether one worker may run empty, for a suspect that waits."""
        return any(each in self.suspects for each in self.waiting())

    def fair_share(self) -> int:
        """Shards that a worker may have: few are shared out among those that are ready or load."""
        left = len(self.shards) - len(self.committed) - len(self.aside)
        return min(3, max(1, math.ceil(left / max(1, len(self.loads) + len(self.placed)))))

    def check_start(self, worker: int, avoid_nodes: tuple[str, ...]) -> None:
        assert worker not in self.gone | set(self.asked) | set(self.placed) | set(self.loads), "a number used twice"
        assert self.held < self.wanted, "more workers than the work asks for"
        assert avoid_nodes == self.avoided()
        if self.max_workers == 1:
            assert self.now >= self.due, "replaced too early"
        self.asked[worker] = avoid_nodes

    def check_stop(self, worker: int) -> None:
        if worker == self.stalled:
            self.stalled = None
            return  # the model has taken it out
        if worker in self.asked:
            assert self.held > self.kept or self.asked[worker] != self.avoided(), "taken back without a reason"
            self.due = self.now if self.held <= self.kept else self.due
            del self.asked[worker]
        else:
            assert self.held > self.kept, "given back while it is needed"
            assert not self.asked, "given back before those that have no place"
            if worker in self.placed:
                del self.placed[worker]
            else:
                assert not self.placed, "given back before those that load"
                assert not self.loads[worker], "given back with a shard in flight"
                assert not self.waiting(), "given back while shards wait"
                del self.loads[worker]
        self.gone.add(worker)

    def check_assignment(self, worker: int, shard: int, attempt: int) -> None:
        assert worker in self.loads, "a shard for a worker that is not ready"
        assert shard not in self.committed, "a shard that was committed"
        assert shard not in self.aside, "a shard that was set aside"
        assert self.is_open(worker), "a worker that is full, rests, or must be left alone"
        assert self.may_take(worker, shard), "back to a worker that it failed on"
        assert self.now >= self.not_before[shard], "a shard before its backoff is over"
        assert worker not in self.runners[shard], "twice on one worker"
        load = self.loads[worker]
        assert shard not in load
        if self.runners[shard]:
            ((since),) = self.runners[shard].values()
            assert self.can_back_up
            assert not load, "a second attempt on a worker that is not idle"
            assert not self.waiting(), "a second attempt while shards wait"
            assert self.now - since >= self.straggler_seconds(), "a second attempt too early"
            assert worker not in self.failed_on[shard]
            self.backups += 1
        elif shard in self.suspects:
            assert not load, "a suspect in company"
        else:
            self.check_order(worker, shard)
        if shard in self.suspects:
            self.occupied.add(worker)
        self.attempts[shard] += 1
        assert attempt == self.attempts[shard]
        load[shard] = True
        self.runners[shard][worker] = self.now

    def check_order(self, worker: int, shard: int) -> None:
        """The least loaded worker, the first fresh shard, and no suspect that would have been before it."""
        others = [each for each in self.loads if self.is_open(each) and each not in self.failed_on[shard]]
        lower = [each for each in others if len(self.loads[each]) < len(self.loads[worker])]
        assert len(lower) <= self.is_drained(), "not the least loaded"
        fresh = [each for each in self.waiting() if not self.attempts[each]]
        assert self.attempts[shard] or shard == fresh[0], "not in the order of the plan"
        suspects = [each for each in self.waiting() if each in self.suspects and self.may_take(worker, each)]
        assert self.loads[worker] or not suspects, "before a suspect"

    def check_finish(self) -> None:
        if self.finish is None:
            assert not self.expected, "the run goes on"
            return
        error = self.finish.error
        if not self.expected:
            assert self.may_lose, "the run ends"
            self.expected = [WorkerLostError]
        (cause,) = self.expected
        if self.aside and not isinstance(cause, JobInterrupted):
            assert isinstance(error, JobFailedError)
            assert f"shard {self.aside[0]} " in str(error)
        elif isinstance(cause, type):
            assert type(error) is cause
        else:
            assert error is cause

    def check_rest(self) -> None:
        """What must be so whenever the scheduler has had its say."""
        assert not self.to_cancel
        assert self.stalled is None
        assert self.held <= self.max_workers
        if self.now >= self.avoided_since + MOVE_SECONDS:
            assert set(self.asked.values()) <= {self.avoided()}, "asked for with other nodes to avoid"
        waiting, idle = self.waiting(), self.idle()
        if self.held > self.kept:
            assert not self.asked
            assert not self.placed
            assert waiting or not idle, "more workers than there is work for"
        if self.last_loss is None or self.now >= self.last_loss + 60.0:
            assert self.held >= self.wanted, "fewer workers than there is work for"
        if self.max_workers == 1:
            assert self.held or self.now < self.due, "replaced too late"
        opened = [worker for worker in self.loads if self.is_open(worker)]
        shared = [worker for worker in opened if len(self.loads[worker]) < self.fair_share()]
        for shard in waiting:
            places = idle if shard in self.suspects else opened if self.attempts[shard] else shared
            num_takers = sum(self.may_take(worker, shard) for worker in places)
            assert num_takers <= (shard not in self.suspects and self.is_drained()), "a shard waits in vain"
        if self.can_back_up and not waiting:
            for shard in set(self.shards) - self.suspects:
                if len(self.runners[shard]) == 1 and self.failures[shard] < self.max_attempts:
                    (since,) = self.runners[shard].values()
                    if self.now - since > self.straggler_seconds():
                        assert set(idle) <= self.failed_on[shard], "a straggler without a second attempt"

    # What happens.

    is_running = precondition(lambda self: self.finish is None)
    is_asked = precondition(lambda self: self.finish is None and self.asked)
    is_loading = precondition(lambda self: self.finish is None and (self.asked or self.placed))
    is_ready = precondition(lambda self: self.finish is None and self.loads)
    is_scoring = precondition(lambda self: self.finish is None and any(any(x.values()) for x in self.loads.values()))
    is_cancelled = precondition(
        lambda self: self.finish is None and any(not all(load.values()) for load in self.loads.values())
    )

    def pairs(self, is_live: bool) -> list[tuple[int, int]]:
        return [(worker, shard) for worker, load in self.loads.items() for shard in load if load[shard] == is_live]

    @is_asked
    @rule(data=st.data())
    def place(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(list(self.asked)))
        nodes = sorted(self.living - set(self.asked[worker]))
        if nodes:
            self.do_place(worker, data.draw(st.sampled_from(nodes)))

    def do_place(self, worker: int, node: str) -> None:
        del self.asked[worker]
        self.placed[worker] = self.node_of[worker] = node
        self.send(WorkerPlaced(worker, node))

    @is_loading
    @rule(data=st.data())
    def get_ready(self, data: st.DataObject) -> None:
        self.become_ready(data.draw(st.sampled_from([*self.placed, *self.asked])))

    @is_loading
    @rule()
    def get_ready_all(self) -> None:
        for worker in [*self.asked, *self.placed]:
            if self.finish is None and (worker in self.placed or worker in self.asked):
                self.become_ready(worker)

    def become_ready(self, worker: int) -> None:
        self.asked.pop(worker, None)
        self.placed.pop(worker, None)
        self.loads[worker] = {}
        self.load_error, self.refusals = None, 0
        if self.max_workers == 1:  # elsewhere it is not known in whose place a worker is
            self.loading_losses = 0
        self.send(WorkerReady(worker))

    @is_loading
    @rule(data=st.data(), is_graph=RARE, is_rare=st.integers(0, 3).map(lambda number: not number))
    def fail_to_load(self, data: st.DataObject, is_graph: bool, is_rare: bool) -> None:
        if not is_rare:
            return
        worker = data.draw(st.sampled_from([*self.placed, *self.asked]))
        error = GraphError("no such tensor") if is_graph else ClusterError("does not see it")
        self.asked.pop(worker, None)
        self.placed.pop(worker, None)
        self.gone.add(worker)
        self.load_error = self.load_error or error
        self.last_loss = self.now
        if worker in self.node_of:
            self.barred.add(self.node_of[worker])
        self.refusals += 1
        self.line_losses += 1
        self.due = self.now + pause(self.line_losses)
        has_hope = bool(self.living - self.barred) and self.refusals < MOST_REFUSALS
        if (is_graph and not self.committed) or not (self.loads or self.placed or has_hope):
            self.expected = [self.load_error]
        self.send(LoadFailed(worker, error))

    @is_loading
    @rule(data=st.data(), is_stall=st.booleans())
    def die_loading(self, data: st.DataObject, is_stall: bool) -> None:
        worker = data.draw(st.sampled_from([*self.placed, *self.asked]))
        self.asked.pop(worker, None)
        self.placed.pop(worker, None)
        self.loading_losses += 1
        enough = self.loading_losses >= MOST_LOADING and not self.loads
        if self.max_workers == 1 and enough:
            self.expected = [WorkerLostError]
        self.may_lose = enough and not (self.originals & set(self.placed))
        self.lose(worker, is_stall)
        self.may_lose = False

    @is_ready
    @rule(data=st.data(), is_stall=st.booleans())
    def die(self, data: st.DataObject, is_stall: bool) -> None:
        self.do_die(data.draw(st.sampled_from(list(self.loads))), is_stall)

    def do_die(self, worker: int, is_stall: bool) -> None:
        load = self.loads.pop(worker)
        for shard in sorted(shard for shard, is_live in load.items() if is_live):
            del self.runners[shard][worker]
            self.not_before[shard] = self.now
            self.suspects.add(shard)
            if worker in self.occupied:
                assert len(load) == 1
                self.losses_alone[shard] += 1
                if self.losses_alone[shard] >= MOST_ALONE and not self.runners[shard]:
                    self.aside.append(shard)
        if not self.left:
            self.expected = [JobFailedError]
        self.lose(worker, is_stall)

    def lose(self, worker: int, is_stall: bool) -> None:
        self.gone.add(worker)
        self.occupied.discard(worker)
        self.workers_lost += 1
        self.last_loss = self.now
        self.line_losses += 1
        self.due = self.now + (pause(self.line_losses - 1) if self.line_losses > 1 else 0.0)
        node = self.node_of.get(worker)
        if node in self.living:
            self.node_losses[node] = self.node_losses.get(node, 0) + 1
            if self.node_losses[node] >= IN_A_ROW:
                self.node_until[node] = self.now + AVOIDED_SECONDS
        if is_stall:
            self.stalled = worker
        self.send(WorkerStalled(worker, "no rows") if is_stall else WorkerLost(worker, "killed"))
        assert self.finish is not None or self.scheduler.workers_lost == self.workers_lost

    @is_scoring
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.do_commit(*data.draw(st.sampled_from(self.pairs(True))))

    def do_commit(self, worker: int, shard: int) -> None:
        self.end_attempt(worker, shard)
        assert shard not in self.committed, "a second commit"
        self.committed.add(shard)
        self.durations.append(self.now - self.runners[shard].pop(worker))
        self.to_cancel = {(other, shard) for other in self.runners[shard]}
        self.runners[shard] = {}
        self.worker_failures[worker] = self.line_losses = 0
        node = self.node_of.get(worker)
        self.node_losses.pop(node, None)
        if node not in self.barred:
            self.node_until.pop(node, None)
        if not self.left:
            self.expected = [JobFailedError if self.aside else None]
        self.send(ShardDone(worker, shard))

    def end_attempt(self, worker: int, shard: int) -> None:
        del self.loads[worker][shard]
        self.occupied.discard(worker)

    @is_scoring
    @rule(data=st.data(), is_fatal=RARE)
    def fail(self, data: st.DataObject, is_fatal: bool) -> None:
        worker, shard = data.draw(st.sampled_from(self.pairs(True)))
        error = DataError(f"shard {shard}") if is_fatal else StorageError(f"shard {shard}")
        self.end_attempt(worker, shard)
        del self.runners[shard][worker]
        self.failures[shard] += 1
        self.failed_on[shard].add(worker)
        self.not_before[shard] = self.now + pause(self.failures[shard])
        self.worker_failures[worker] = row = self.worker_failures.get(worker, 0) + 1
        if row >= IN_A_ROW:
            awake = [each for each in self.loads if each not in self.resting]
            if worker in self.resting or len(awake) > 1:  # one always stays awake
                self.resting.add(worker)
                self.rests_until[worker] = self.now + pause(row - IN_A_ROW + 1)
        if is_fatal or (self.failures[shard] >= self.max_attempts and not self.runners[shard]):
            self.expected = [error]
        self.send(ShardFailed(worker, shard, error))

    @is_cancelled
    @rule(data=st.data(), is_done=st.booleans())
    def report_cancelled(self, data: st.DataObject, is_done: bool) -> None:
        worker, shard = data.draw(st.sampled_from(self.pairs(False)))
        self.end_attempt(worker, shard)
        self.send(ShardDone(worker, shard) if is_done else ShardFailed(worker, shard, DataError("cancelled")))

    @is_running
    @rule(worker=st.integers(0, 30), shard=st.integers(0, 11), kind=st.integers(0, 5))
    def report_late(self, worker: int, shard: int, kind: int) -> None:
        is_held = worker in self.asked or worker in self.placed or worker in self.loads
        late: list[Event] = [
            WorkerPlaced(worker, "node0"),
            WorkerReady(worker),
            WorkerLost(worker, "late"),
            WorkerStalled(worker, "late"),
            LoadFailed(worker, GraphError("late")),
            ShardFailed(worker, shard, DataError("late")),
        ]
        if not is_held:
            self.send(late[kind])
        if shard not in self.loads.get(worker, {}) and self.finish is None:
            self.send(ShardDone(worker, shard))

    @is_running
    @rule(seconds=st.sampled_from([0.01, 1.0, 7.0, 60.0, 700.0]), has_tick=st.booleans())
    def wait(self, seconds: float, has_tick: bool) -> None:
        self.now += seconds
        self.send(Tick() if has_tick else WorkerReady(10_000))

    @is_running
    @rule(data=st.data(), is_loss=st.booleans())
    def change_capacity(self, data: st.DataObject, is_loss: bool) -> None:
        """Nodes come and go; their names do not come back. Workers on a node that goes are lost later, if at all."""
        if is_loss and len(self.living) > 1:
            self.living.remove(data.draw(st.sampled_from(sorted(self.living))))
        elif self.num_nodes < len(NODES):
            self.living.add(NODES[self.num_nodes])
            self.num_nodes += 1
        self.send(CapacityChanged(frozenset(self.living)))

    @is_running
    @rule(is_rare=RARE, is_interrupt=st.booleans())
    def stop(self, is_rare: bool, is_interrupt: bool) -> None:
        if is_rare:
            error: EngineError = JobInterrupted("SIGINT") if is_interrupt else JobFailedError("too many bad rows")
            self.expected = [error]
            self.send(Stop(error))

    @precondition(lambda self: self.finish is not None)
    @rule(worker=st.integers(0, 3))
    def nothing_moves_after_the_end(self, worker: int) -> None:
        late: list[Event] = [WorkerReady(worker), WorkerLost(worker, "killed"), Tick(), Stop(DataError("late"))]
        for event in [*late, ShardDone(worker, 0), ShardFailed(worker, 0, DataError("late"))]:
            assert self.scheduler.handle(event, self.now) == []

    @invariant()
    def counts_are_right(self) -> None:
        if not hasattr(self, "attempts"):
            return
        # Failures, and one beside a second attempt; losses in company and alone; the last one, and one beside it.
        most = (self.max_attempts + 1) + 2 + (MOST_ALONE + 1) + 2
        assert max(self.attempts.values()) <= most
        assert self.scheduler.attempts == sum(self.attempts.values())
        assert self.scheduler.backups == self.backups
        assert self.scheduler.num_left == self.left
        assert list(self.scheduler.set_aside) == self.aside
        if self.finish is None:
            assert self.scheduler.num_asked == len(self.asked)
            assert self.scheduler.num_held == self.held
            assert self.scheduler.num_ready == len(self.loads)

    def teardown(self) -> None:
        """From here on the world behaves: whatever happened before, every shard that is left is committed."""
        if not hasattr(self, "finish"):
            return
        for _ in range(40):
            if self.finish is not None:
                break
            self.now += 100.0
            self.send(Tick())
            for worker in list(self.asked):
                nodes = sorted(self.living - set(self.asked.get(worker, ())))
                if worker in self.asked and nodes:
                    self.do_place(worker, nodes[0])
            self.get_ready_all()
            for worker, shard in self.pairs(False):
                self.end_attempt(worker, shard)
                self.send(ShardFailed(worker, shard, DataError("cancelled")))
            for worker, shard in self.pairs(True):
                if self.finish is None and self.loads.get(worker, {}).get(shard):
                    self.do_commit(worker, shard)
        assert self.finish is not None, "the run does not end"


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=150, stateful_step_count=50, deadline=None, derandomize=True, database=None)
