"""Who does what next: a pure state machine of events in and actions out, with no clock of its own.

It owns every retry (Ray's own are 0). Invariants, which are its property tests: a shard is committed at most once;
a shard is on one worker at a time; attempts are bounded; a lost worker charges no shard unless that shard was alone
on it; every run ends; the first cause is the one reported. Start at `Scheduler.handle`.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.errors import EngineError, JobFailedError, WorkerLostError

# Three let one shard be read while another is scored and a third written.
SHARDS_PER_WORKER = 3
MAX_ATTEMPTS = 4
MAX_LOSSES_ALONE = 3
MAX_LOSSES_LOADING = 3
FIRST_BACKOFF_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """An actor has loaded the model."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """An actor, its process or its node is gone."""

    worker_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """An actor could not load the model, or does not see what it needs."""

    worker_id: int
    error: EngineError


@dataclass(frozen=True, slots=True)
class ShardDone:
    """An attempt has published its part."""

    worker_id: int
    shard_id: int


@dataclass(frozen=True, slots=True)
class ShardFailed:
    """An attempt has failed on a living actor."""

    worker_id: int
    shard_id: int
    error: EngineError


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Make an actor and let it load."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class AssignAttempt:
    """Give a shard to an actor."""

    worker_id: int
    shard_id: int
    attempt: int
    """Number of this attempt at the shard, from 1."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The job is over: done, or failed with its first cause."""

    error: EngineError | None


Event = WorkerReady | WorkerLost | LoadFailed | ShardDone | ShardFailed | Tick
Action = StartWorker | AssignAttempt | Finish


@dataclass(slots=True)
class _Shard:
    """What is known of one shard that has been tried."""

    attempts: int = 0
    failures: int = 0
    losses_alone: int = 0
    is_suspect: bool = False
    not_before: float = 0.0
    avoid: set[int] = field(default_factory=set)


class Scheduler:
    """State of one run; see the module's docstring for what it promises."""

    def __init__(self, shard_ids: Iterable[int], num_workers: int) -> None:
        """Take the shards that are missing, in the order they are to be tried, and the workers to hold."""
        self._waiting = deque(shard_ids)
        self._num_workers = min(num_workers, len(self._waiting))
        self._shards: dict[int, _Shard] = {}
        self._loads: dict[int, set[int]] = {}
        self._loading: set[int] = set()
        self._next_worker_id = 0
        self._left = len(self._waiting)
        self._losses_loading = 0
        self._is_over = False
        self.attempts = 0
        """Attempts handed out so far."""
        self.workers_lost = 0
        """Workers lost so far."""

    def start(self) -> list[Action]:
        """Return the first actions."""
        if not self._left:
            return self._finish(None)
        return [self._start_worker() for _ in range(self._num_workers)]

    def attempts_of(self, shard_id: int) -> int:
        """Return how many attempts a shard has had."""
        return self._shards[shard_id].attempts if shard_id in self._shards else 0

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in one event at `now` (seconds of any steady clock) and say what to do."""
        if self._is_over:
            return []
        match event:
            case WorkerReady(worker_id):
                if worker_id not in self._loading:
                    return []
                self._loading.remove(worker_id)
                self._loads[worker_id] = set()
                self._losses_loading = 0
            case WorkerLost(worker_id, reason):
                return self._lose(worker_id, reason, now)
            case LoadFailed(_, error):
                return self._finish(error)
            case ShardDone(worker_id, shard_id):
                if self._take_back(worker_id, shard_id):
                    self._left -= 1
                    if not self._left:
                        return self._finish(None)
            case ShardFailed(worker_id, shard_id, error):
                if self._take_back(worker_id, shard_id):
                    shard = self._shards[shard_id]
                    shard.failures += 1
                    if not error.retryable or shard.failures >= MAX_ATTEMPTS:
                        return self._finish(error)
                    shard.not_before = now + FIRST_BACKOFF_SECONDS * 2 ** (shard.failures - 1)
                    shard.avoid.add(worker_id)
                    self._waiting.append(shard_id)
            case Tick():
                pass
        return self._assign(now)

    def _take_back(self, worker_id: int, shard_id: int) -> bool:
        """Return whether the worker really had the shard; a report of anyone else is late and ignored."""
        mine = self._loads.get(worker_id, set())
        if shard_id not in mine:
            return False
        mine.remove(shard_id)
        return True

    def _lose(self, worker_id: int, reason: str, now: float) -> list[Action]:
        if worker_id not in self._loading and worker_id not in self._loads:
            return []
        self.workers_lost += 1
        if worker_id in self._loading:
            self._loading.discard(worker_id)
            self._losses_loading += 1
            if self._losses_loading >= MAX_LOSSES_LOADING:
                return self._finish(
                    WorkerLostError(
                        f"{self._losses_loading} actors in a row were lost while loading the model: {reason}"
                    )
                )
        in_flight = sorted(self._loads.pop(worker_id, set()))
        for shard_id in reversed(in_flight):
            shard = self._shards[shard_id]
            if len(in_flight) == 1 and shard.is_suspect:
                shard.losses_alone += 1
                if shard.losses_alone >= MAX_LOSSES_ALONE:
                    message = f"shard {shard_id} lost {MAX_LOSSES_ALONE} actors while it ran alone: {reason}"
                    return self._finish(JobFailedError(message))
            shard.is_suspect = True
            self._waiting.appendleft(shard_id)
        return [self._start_worker(), *self._assign(now)]

    def _start_worker(self) -> Action:
        worker_id = self._next_worker_id
        self._next_worker_id += 1
        self._loading.add(worker_id)
        return StartWorker(worker_id)

    def _finish(self, error: EngineError | None) -> list[Action]:
        self._is_over = True
        return [Finish(error)]

    def _assign(self, now: float) -> list[Action]:
        """Hand waiting shards to workers with room, the least loaded first; a suspect runs alone."""
        actions: list[Action] = []
        for _ in range(len(self._waiting)):
            if not any(self._has_room(worker_id) for worker_id in self._loads):
                break
            shard_id = self._waiting.popleft()
            worker_id = self._choose_worker(shard_id, now)
            if worker_id is None:
                self._waiting.append(shard_id)
                continue
            shard = self._shards.setdefault(shard_id, _Shard())
            shard.attempts += 1
            self.attempts += 1
            self._loads[worker_id].add(shard_id)
            actions.append(AssignAttempt(worker_id, shard_id, shard.attempts))
        return actions

    def _has_room(self, worker_id: int) -> bool:
        load = self._loads[worker_id]
        return len(load) < SHARDS_PER_WORKER and not any(self._is_suspect(shard_id) for shard_id in load)

    def _is_suspect(self, shard_id: int) -> bool:
        return shard_id in self._shards and self._shards[shard_id].is_suspect

    def _choose_worker(self, shard_id: int, now: float) -> int | None:
        shard = self._shards.get(shard_id, _Shard())
        if shard.not_before > now:
            return None
        open_workers = [worker_id for worker_id in self._loads if self._has_room(worker_id)]
        if shard.is_suspect:
            open_workers = [worker_id for worker_id in open_workers if not self._loads[worker_id]]
        elsewhere = [worker_id for worker_id in open_workers if worker_id not in shard.avoid]
        candidates = elsewhere or (open_workers if shard.avoid.issuperset(self._loads) else [])
        return min(candidates, key=lambda worker_id: len(self._loads[worker_id]), default=None)
