"""The loop of a run: what the actors answer becomes events for the scheduler, what it says is done.

Every wait has a deadline. Start at `run_shards`.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.errors import ClusterError, EngineError, JobInterrupted
from engine.run.actor import LOADING, LoadReport
from engine.run.cluster import (
    LOAD,
    NODES,
    PLACE,
    PROGRESS,
    TICK_SECONDS,
    ActorPool,
    Answer,
)
from engine.run.interrupt import deferred_interrupts
from engine.run.outcome import PoolRun, Watcher, refusal_of
from engine.run.places import PlaceWatch
from engine.run.plan import Shard
from engine.run.pool import PoolSize, count_rooms
from engine.run.schedule import Scheduler
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
from engine.run.scheduling.staffing import PoolLimits
from engine.run.spec import ShardResult
from engine.run.stalls import StallWatch

LOG = logging.getLogger(__name__)
# A signal is seen so late at most; a local Ray takes 1.4 s to end, and all together is to take 2.
WAIT_SECONDS = 0.1
NODES_SECONDS = 5.0
# Actors are asked how far they are so often; an answer costs the driver 0.35 ms, so with many less often.
PROGRESS_SECONDS, PROGRESS_SECONDS_PER_ACTOR = 1.0, 0.01
# So many notices of a kind are told one by one.
FEW = 4


@dataclass(frozen=True, slots=True)
class RunRules:
    """How a run treats what goes wrong."""

    max_attempts: int
    """Attempts at a shard for errors that a retry may mend."""
    stall_seconds: float
    """Seconds without a batch or another phase after which an actor is replaced."""
    can_back_up: bool
    """Whether a straggler may have a second attempt beside it: its bytes must be the same."""


def run_shards(
    actors: ActorPool, shards: Sequence[Shard], size: PoolSize, rules: RunRules, watcher: Watcher
) -> PoolRun:
    """Score `shards` on the actors of a pool, which ends with them.

    Returns:
        What happened; `error` holds the first cause where the job could not go on, an interruption too.
    """
    driver = _Driver(actors, shards, size, rules, watcher)
    try:
        driver.run()
    finally:
        actors.close()
    return driver.outcome


class _Driver:
    """The loop between the scheduler and the actors, for one run."""

    def __init__(
        self, actors: ActorPool, shards: Sequence[Shard], size: PoolSize, rules: RunRules, watcher: Watcher
    ) -> None:
        self._actors, self._logbook = actors, watcher.logbook
        self._shards = {shard.shard_id: shard for shard in shards}
        self._size = size
        self._watcher = watcher
        limits = PoolLimits(size.min_actors, size.max_actors)
        self._scheduler = Scheduler(self._shards, limits, rules.max_attempts, rules.can_back_up)
        self._stalls = StallWatch(rules.stall_seconds)
        self._held: set[int] = set()
        self._asked_progress: set[int] = set()
        self._ready_since: dict[int, float] = {}
        self._is_over = False
        self._first_assigned: float | None = None
        self._started = self._next_tick = self._next_nodes = self._next_progress = time.monotonic()
        self._places = PlaceWatch(size, self._started)
        self._told: Counter[str] = Counter()
        self.outcome = PoolRun()

    def run(self) -> None:
        with deferred_interrupts() as check_interrupts:
            self._do(self._scheduler.start(self._started))
            while not self._is_over:
                for answer in self._actors.answers(WAIT_SECONDS):
                    event = self._hear(answer)
                    if event is not None:
                        self._tell(event)
                    if self._is_over:
                        break
                self._watcher.on_tick()
                self._look_around(time.monotonic())
                try:
                    check_interrupts()
                except JobInterrupted as error:
                    self._tell(Stop(error))
        self._logbook.end(time.monotonic())
        for worker_id in list(self._ready_since):
            self._leave(worker_id)
        self.outcome.num_attempts, self.outcome.num_backups = self._scheduler.attempts, self._scheduler.backups
        self.outcome.actors_lost = self._scheduler.workers_lost

    def _tell(self, event: Event) -> None:
        now = time.monotonic()
        if not isinstance(event, Tick):
            LOG.debug("heard %s", event)
        self._logbook.hear(event, now)
        self._do(self._scheduler.handle(event, now))

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            LOG.debug("to do: %s", action)
            self._logbook.note(action, time.monotonic())
            match action:
                case StartWorker(worker_id, avoid_nodes):
                    self._held.add(worker_id)
                    self._actors.start(worker_id, avoid_nodes)
                case StopWorker(worker_id):
                    self._leave(worker_id)
                case AssignAttempt(worker_id, shard_id, _):
                    now = time.monotonic()
                    self._first_assigned = self._first_assigned or now
                    self._stalls.begin(worker_id, shard_id, now)
                    self._actors.score(worker_id, self._shards[shard_id])
                case CancelAttempt(worker_id, shard_id):
                    self._actors.cancel(worker_id, shard_id)
                case Notice(text):
                    self._notice_some(text, text)
                case Finish(error):
                    self._is_over = True
                    self.outcome.error = error

    def _leave(self, worker_id: int) -> None:
        """End an actor, and forget it: what it may still answer is nobody's."""
        self._held.discard(worker_id)
        self._asked_progress.discard(worker_id)
        self._stalls.drop(worker_id)
        self._actors.stop(worker_id)
        since = self._ready_since.pop(worker_id, None)
        if since is not None:
            self.outcome.actors[worker_id].ready_seconds += time.monotonic() - since

    def _hear(self, answer: Answer) -> Event | None:
        worker_id = answer.worker_id
        if answer.call == NODES:
            nodes, free = answer.value
            self._places.see(nodes, free, time.monotonic())
            return CapacityChanged(frozenset(node.node_id for node in nodes if count_rooms(self._size, [node])))
        if worker_id not in self._held:
            return None
        if answer.lost:
            return self._lose(worker_id, answer.lost)
        if answer.call == PLACE:
            if worker_id not in self._ready_since:  # two calls, whose answers may overtake each other
                self._stalls.begin(worker_id, LOADING, time.monotonic())
            return WorkerPlaced(worker_id, answer.value)
        if answer.call == PROGRESS:
            self._asked_progress.discard(worker_id)
            self._stalls.hear(worker_id, answer.value, time.monotonic())
            self._logbook.see(worker_id, answer.value)
            return None
        if answer.call == LOAD:
            self._stalls.end(worker_id, LOADING)
            return self._loaded(worker_id, answer.value)
        self._stalls.end(worker_id, answer.shard_id)
        return self._scored(worker_id, answer.shard_id, answer.value)

    def _lose(self, worker_id: int, reason: str) -> Event:
        self._leave(worker_id)
        num_lost = self._scheduler.workers_lost + 1
        self._notice_some("lost", f"lost an actor ({num_lost} so far): {reason}; its shards are scored again")
        return WorkerLost(worker_id, reason)

    def _loaded(self, worker_id: int, value: LoadReport | EngineError) -> Event:
        if isinstance(value, EngineError) and value.retryable:
            return self._lose(worker_id, str(value))
        refusal = value if isinstance(value, EngineError) else self._accept(worker_id, value)
        if refusal is not None:
            self._leave(worker_id)
            return LoadFailed(worker_id, refusal)
        self._ready_since[worker_id] = time.monotonic()
        return WorkerReady(worker_id)

    def _accept(self, worker_id: int, report: LoadReport) -> EngineError | None:
        """Keep what an actor reports; return why it, or the job, cannot go on with that."""
        if not self.outcome.actors:
            self.outcome.load_seconds = time.monotonic() - self._started
            refusal = refusal_of(self._watcher.on_loaded, report)
            if refusal is not None:
                return refusal
        refusal = self.outcome.accept(worker_id, report)
        self._logbook.name(worker_id, report.node)
        if len(self.outcome.devices) > 1:
            self._scheduler.back_up_no_more()
        return refusal

    def _scored(self, worker_id: int, shard_id: int, value: ShardResult | EngineError) -> Event:
        if isinstance(value, EngineError):
            return ShardFailed(worker_id, shard_id, value)
        if shard_id not in self.outcome.results:  # else its twin has done it
            if value.batches_halved:
                self._scheduler.back_up_no_more()
            self.outcome.keep(worker_id, value, self._scheduler.attempts_of(shard_id))
            self._logbook.keep(worker_id, value, time.monotonic())
            self.outcome.scoring_seconds = time.monotonic() - (self._first_assigned or self._started)
            refusal = refusal_of(self._watcher.on_result, value)
            if refusal is not None:
                return ShardFailed(worker_id, shard_id, refusal)
        return ShardDone(worker_id, shard_id)

    def _look_around(self, now: float) -> None:
        """Do what is due every now and then, whether anything happens or not."""
        if now < self._next_tick or self._is_over:
            return
        self._next_tick = now + TICK_SECONDS
        self._tell(Tick())
        if now >= self._next_nodes:
            self._next_nodes = now + NODES_SECONDS
            self._actors.ask_nodes()
        if now >= self._next_progress:
            self._next_progress = now + max(PROGRESS_SECONDS, PROGRESS_SECONDS_PER_ACTOR * len(self._ready_since))
            self._ask_progress(self._logbook.working)
        self._check_stalls(now)
        self._check_places(now)

    def _check_stalls(self, now: float) -> None:
        to_ask, stalled = self._stalls.check(now)
        self._ask_progress(to_ask)
        for worker_id, reason in stalled:
            self._notice_some("stalled", f"replacing an actor: {reason}")
            self._tell(WorkerStalled(worker_id, reason))

    def _ask_progress(self, worker_ids: Iterable[int]) -> None:
        for worker_id in worker_ids:
            if worker_id not in self._asked_progress:
                self._asked_progress.add(worker_id)
                self._actors.ask_progress(worker_id)

    def _check_places(self, now: float) -> None:
        scheduler = self._scheduler
        counts = scheduler.num_asked, scheduler.num_held, scheduler.num_ready
        try:
            notice = self._places.check(now, *counts, scheduler.last_loss)
        except ClusterError as error:
            self._tell(Stop(error))
            return
        if notice:
            self._watcher.on_notice(notice)

    def _notice_some(self, kind: str, text: str) -> None:
        """Tell the first few of a kind, and then the 8th, the 16th, the 32nd..."""
        self._told[kind] += 1
        count = self._told[kind]
        if count <= FEW or count & (count - 1) == 0:
            self._watcher.on_notice(text)
