"""A cluster that is only imagined: the real scheduler on simulated actors, nodes and faults, with a clock of its own.

Pure: the same world, shards and seed give the same run. An actor shares its time evenly among its shards in flight.
What it says of wall time is as good as the seconds it is told of a shard. Start at `simulate`.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.errors import StorageError
from engine.run.schedule import Scheduler
from engine.run.scheduling.events import (
    Action,
    AssignAttempt,
    CancelAttempt,
    CapacityChanged,
    Event,
    Finish,
    ShardDone,
    ShardFailed,
    StartWorker,
    StopWorker,
    Tick,
    WorkerLost,
    WorkerPlaced,
    WorkerReady,
)
from engine.run.scheduling.staffing import PoolLimits
from engine.run.simulating.world import Simulated, StepCost, World

# Any event lets the scheduler look at its clock; where it is quiet, it is told the time so often, and the longer it
# stays quiet the more seldom: never later than by this share of the quiet.
TICK_SECONDS, TICK_SHARE = 5.0, 0.25
# A run that waits for so long, and nothing is to come, waits for ever.
PATIENCE_SECONDS = 3600.0
HOUR_SECONDS = 3600.0


def simulate(
    world: World, shard_seconds: Sequence[float], limits: PoolLimits, clock: Callable[[], float] | None = None
) -> Simulated:
    """Run shards on a simulated cluster.

    Args:
        world: the cluster.
        shard_seconds: for each shard, the seconds that it takes an actor that has nothing else to do.
        limits: how many actors to hold.
        clock: seconds of a real clock, to measure the scheduler's steps by; None measures nothing.
    """
    return _Simulation(world, shard_seconds, limits, clock).run()


@dataclass(slots=True)
class _Actor:
    """One simulated actor; its virtual time goes on by the seconds that each of its attempts has had of it."""

    worker_id: int
    """Its number, as the scheduler knows it."""
    avoid_nodes: tuple[str, ...]
    """Nodes that it must not be placed on."""
    node_id: str = ""
    """Its node; empty until it has one."""
    ready_at: float | None = None
    """When it had loaded the model."""
    virtual: float = 0.0
    """Its virtual time."""
    since: float = 0.0
    """When that was."""
    version: int = 0
    """Changes with its attempts: what was noted of an earlier version does not hold any more."""
    attempts: list[tuple[float, int, float, bool]] = field(default_factory=list)
    """A heap: virtual end, shard, virtual start, whether it fails."""

    def advance(self, now: float) -> None:
        """Let time pass."""
        if self.attempts:
            self.virtual += (now - self.since) / len(self.attempts)
        self.since = now


class _Simulation:
    """State of one run. The heap holds the time, a number that keeps the order, what to call, and with what."""

    def __init__(
        self,
        world: World,
        shard_seconds: Sequence[float],
        limits: PoolLimits,
        clock: Callable[[], float] | None,
    ) -> None:
        self._world, self._shard_seconds, self._clock = world, shard_seconds, clock
        self._scheduler = Scheduler(range(len(shard_seconds)), limits)
        self._random = random.Random(world.seed)
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = itertools.count()
        self._now = 0.0
        self._actors: dict[int, _Actor] = {}
        self._waiting: deque[_Actor] = deque()
        self._nodes: dict[str, set[int]] = {}
        self._with_room: dict[str, None] = {}
        self._node_numbers = itertools.count()
        self._is_done = bytearray(len(shard_seconds))
        self._finish: Finish | None = None
        self._num_committed = self._num_ready = self._num_ready_most = 0
        self._wall = self._committed = self._ready = 0.0
        self._steps: dict[str, StepCost] = {}

    def run(self) -> Simulated:
        for seconds, num_nodes in ((0.0, self._world.num_nodes), *self._world.node_changes):
            self._at(seconds, self._change_nodes, num_nodes)
        self._obey(self._scheduler.start(0.0))
        heard_at = 0.0
        while self._finish is None and (self._heap or self._now < heard_at + PATIENCE_SECONDS):
            tick_at = self._now + max(TICK_SECONDS, TICK_SHARE * (self._now - heard_at))
            if not self._heap or self._heap[0][0] > tick_at:
                self._now = tick_at
                heard_at = tick_at if self._tell(Tick()) else heard_at
                continue
            self._now, _, call, arguments = heapq.heappop(self._heap)
            call(*arguments)
            heard_at = self._now
        for actor in list(self._actors.values()):
            self._leave(actor)
        return self._result()

    def _result(self) -> Simulated:
        return Simulated(
            error=self._finish.error if self._finish else None,
            num_committed=self._num_committed,
            wall_seconds=self._wall,
            committed_seconds=self._committed,
            ready_seconds=self._ready,
            num_ready_most=self._num_ready_most,
            attempts=self._scheduler.attempts,
            backups=self._scheduler.backups,
            workers_lost=self._scheduler.workers_lost,
            steps=self._steps,
        )

    def _at(self, seconds: float, call: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._heap, (seconds, next(self._numbers), call, arguments))

    def _tell(self, event: Event) -> bool:
        """Let the scheduler hear of an event and do what it says; returns whether it says anything."""
        cost = self._steps.setdefault(type(event).__name__, StepCost())
        cost.num_steps += 1
        if self._clock is None:
            actions = self._scheduler.handle(event, self._now)
        else:
            before = self._clock()
            actions = self._scheduler.handle(event, self._now)
            seconds = self._clock() - before
            cost.seconds += seconds
            cost.worst_seconds = max(cost.worst_seconds, seconds)
        self._obey(actions)
        return bool(actions)

    def _obey(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case AssignAttempt(worker_id, shard_id, _):
                    self._assign(self._actors[worker_id], shard_id)
                case CancelAttempt(worker_id, shard_id):
                    self._at(self._now + self._world.cancel_seconds, self._cancelled, worker_id, shard_id)
                case StartWorker(worker_id, avoid_nodes):
                    self._actors[worker_id] = actor = _Actor(worker_id, avoid_nodes)
                    if not self._place(actor):
                        self._waiting.append(actor)
                case StopWorker(worker_id):
                    if worker_id in self._actors:
                        self._leave(self._actors[worker_id])
                        self._place_waiting()
                case Finish():
                    self._finish = action

    def _drawn(self, seconds: float) -> float:
        spread = self._world.spread
        return seconds * (1 + self._random.uniform(-spread, spread)) if spread else seconds

    def _change_nodes(self, num_nodes: int) -> None:
        """Let nodes come, and those that wait for a place have it; or let them go with all that is on them."""
        gone = list(itertools.islice(self._nodes, max(0, -num_nodes)))
        lost = [worker_id for node_id in gone for worker_id in sorted(self._nodes.pop(node_id))]
        for node_id in gone:
            self._with_room.pop(node_id, None)
        for _ in range(num_nodes):
            node_id = f"node-{next(self._node_numbers)}"
            self._nodes[node_id] = set()
            self._with_room[node_id] = None
        for worker_id in lost:
            self._lose(worker_id)
        self._tell(CapacityChanged(frozenset(self._nodes)))
        self._place_waiting()

    def _place(self, actor: _Actor) -> bool:
        """Find an actor a node, the one with room that was there first."""
        node_id = next((each for each in self._with_room if each not in actor.avoid_nodes), None)
        if node_id is None:
            return False
        actor.node_id = node_id
        self._nodes[node_id].add(actor.worker_id)
        if len(self._nodes[node_id]) == self._world.actors_per_node:
            del self._with_room[node_id]
        self._at(self._now + self._drawn(self._world.place_seconds), self._placed, actor)
        if self._world.lost_per_hour:
            seconds = self._random.expovariate(self._world.lost_per_hour / HOUR_SECONDS)
            self._at(self._now + seconds, self._lose, actor.worker_id)
        return True

    def _place_waiting(self) -> None:
        for _ in range(len(self._waiting)):
            if not self._with_room:
                return
            actor = self._waiting.popleft()
            if actor.worker_id in self._actors and not self._place(actor):
                self._waiting.append(actor)

    def _placed(self, actor: _Actor) -> None:
        if actor.worker_id in self._actors:
            self._at(self._now + self._drawn(self._world.load_seconds), self._loaded, actor)
            self._tell(WorkerPlaced(actor.worker_id, actor.node_id))

    def _loaded(self, actor: _Actor) -> None:
        if actor.worker_id in self._actors:
            actor.ready_at = self._now
            self._num_ready += 1
            self._num_ready_most = max(self._num_ready_most, self._num_ready)
            self._tell(WorkerReady(actor.worker_id))

    def _leave(self, actor: _Actor) -> None:
        """Take an actor away; its node, if it is there still, has room again."""
        del self._actors[actor.worker_id]
        actor.version += 1
        if actor.node_id in self._nodes:
            self._nodes[actor.node_id].discard(actor.worker_id)
            self._with_room[actor.node_id] = None
        if actor.ready_at is not None:
            self._num_ready -= 1
            self._ready += self._now - actor.ready_at

    def _lose(self, worker_id: int) -> None:
        if worker_id in self._actors:
            self._leave(self._actors[worker_id])
            self._tell(WorkerLost(worker_id, "lost"))
            self._place_waiting()

    def _assign(self, actor: _Actor, shard_id: int) -> None:
        world, draw = self._world, self._random.random
        seconds = self._drawn(self._shard_seconds[shard_id])
        if world.slow_share and draw() < world.slow_share:
            seconds *= world.slow_factor
        fails = bool(world.failed_share) and draw() < world.failed_share
        actor.advance(self._now)
        start = actor.virtual
        heapq.heappush(actor.attempts, (start + seconds * (draw() if fails else 1.0), shard_id, start, fails))
        self._wait_for(actor)

    def _wait_for(self, actor: _Actor) -> None:
        """Note when the next of an actor's attempts ends, if nothing changes; earlier notes are void."""
        actor.version += 1
        if actor.attempts:
            left = max(0.0, actor.attempts[0][0] - actor.virtual)
            self._at(self._now + left * len(actor.attempts), self._ended, actor, actor.version)

    def _ended(self, actor: _Actor, version: int) -> None:
        if version != actor.version:
            return
        actor.advance(self._now)
        end, shard_id, start, fails = heapq.heappop(actor.attempts)
        if fails:
            self._tell(ShardFailed(actor.worker_id, shard_id, StorageError("away")))
        else:
            if not self._is_done[shard_id]:
                self._is_done[shard_id] = 1
                self._num_committed += 1
                self._committed += end - start
                self._wall = self._now
            self._tell(ShardDone(actor.worker_id, shard_id))
        if actor.version == version:
            self._wait_for(actor)

    def _cancelled(self, worker_id: int, shard_id: int) -> None:
        """End an attempt whose shard is done by another, unless it has ended by itself."""
        actor = self._actors.get(worker_id)
        kept = [each for each in actor.attempts if each[1] != shard_id] if actor else []
        if actor is None or len(kept) == len(actor.attempts):
            return
        actor.advance(self._now)
        heapq.heapify(kept)
        actor.attempts = kept
        self._wait_for(actor)
        self._tell(ShardFailed(worker_id, shard_id, StorageError("another attempt was first")))
