"""Who does what next: a pure state machine of events in and actions out, with no clock of its own.

It owns every retry (Ray's own are 0). Invariants, which are its property tests: a shard is committed at most once, and
has two attempts at once at most; attempts are bounded; a shard does not go back to a worker that it failed on while
another is there; a lost worker charges no shard unless that shard was alone on it; every run ends; the first cause is
the one reported. No step is worse than O(log n). Start at `Scheduler.handle`.
"""

from collections.abc import Iterable

from engine.errors import ClusterError, EngineError, JobFailedError, JobInterrupted, WorkerLostError
from engine.run.scheduling.backlog import Backlog, Trial
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
    Stop,
    StopWorker,
    Tick,
    WorkerLost,
    WorkerPlaced,
    WorkerReady,
    WorkerStalled,
)
from engine.run.scheduling.fleet import SHARDS_PER_WORKER, Fleet, backoff_seconds
from engine.run.scheduling.staffing import PoolLimits, Staffing
from engine.run.scheduling.stragglers import Stragglers

MAX_ATTEMPTS = 4
MAX_LOSSES_ALONE = 3
MAX_LOSSES_LOADING = 3
MAX_REFUSALS = 3


class Scheduler:
    """State of one run; see the module's docstring for what it promises."""

    def __init__(
        self,
        shard_ids: Iterable[int],
        limits: PoolLimits,
        max_attempts: int = MAX_ATTEMPTS,
        can_back_up: bool = True,
    ) -> None:
        """Take the shards that are missing, in the order in which they are to be tried.

        Args:
            shard_ids: the shards.
            limits: how many workers to hold.
            max_attempts: attempts at a shard for errors that a retry may mend.
            can_back_up: whether a straggler may have a second attempt beside it; its bytes must be the same.
        """
        self._backlog = Backlog(shard_ids)
        self._fleet = Fleet()
        self._staffing = Staffing(self._fleet, limits)
        self._max_attempts, self._can_back_up = max_attempts, can_back_up
        self._trials: dict[int, Trial] = {}
        self._stragglers = Stragglers(self._trials)
        self._left = self._backlog.num_fresh
        self._has_committed = self._is_over = False
        self._load_error: EngineError | None = None
        self._refusals = 0
        self._loss_reason = ""
        self.attempts = 0
        """Attempts handed out so far."""
        self.backups = 0
        """Those of them that were second attempts of stragglers."""
        self.workers_lost = 0
        """Workers lost so far, stalled ones among them."""
        self.last_loss = ""
        """Why the last of them was lost."""
        self.set_aside: dict[int, JobFailedError] = {}
        """Shards that are not tried any more, and why, in that order."""

    @property
    def num_left(self) -> int:
        """Shards that are neither done nor set aside."""
        return self._left

    @property
    def num_asked(self) -> int:
        """Workers that are asked for and have no place yet."""
        return len(self._fleet.asked)

    @property
    def num_held(self) -> int:
        """Workers that are asked for, loading or ready."""
        return len(self._fleet)

    @property
    def num_ready(self) -> int:
        """Workers that have loaded the model."""
        return self._fleet.num_ready

    def attempts_of(self, shard_id: int) -> int:
        """Return how many attempts a shard has had that is not done."""
        return self._trials[shard_id].attempts if shard_id in self._trials else 0

    def back_up_no_more(self) -> None:
        """Give no second attempts from now on, for two attempts at a shard may come to different rows."""
        self._can_back_up = False

    def start(self, now: float = 0.0) -> list[Action]:
        """Return the first actions."""
        return self._go_on(now) if self._left else self._finish(None)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in one event at `now` (seconds of any steady clock) and say what to do."""
        if self._is_over:
            return []
        actions = self._take_in(event, now)
        return actions if self._is_over else [*actions, *self._go_on(now)]

    def _take_in(self, event: Event, now: float) -> list[Action]:
        match event:
            case WorkerPlaced(worker_id, node_id):
                self._fleet.place(worker_id, node_id)
            case WorkerReady(worker_id):
                if self._fleet.make_ready(worker_id):
                    self._load_error, self._refusals, self._loss_reason = None, 0, ""
            case WorkerLost(worker_id, reason):
                return self._lose(worker_id, reason, now)
            case WorkerStalled(worker_id, reason):
                is_held = worker_id in self._fleet
                return [StopWorker(worker_id), *self._lose(worker_id, reason, now)] if is_held else []
            case LoadFailed(worker_id, error):
                return self._fail_load(worker_id, error, now)
            case ShardDone(worker_id, shard_id):
                return self._commit(worker_id, shard_id, now)
            case ShardFailed(worker_id, shard_id, error):
                return self._fail(worker_id, shard_id, error, now)
            case CapacityChanged(node_ids):
                self._staffing.see_nodes(node_ids)
            case Stop(error):
                return self._finish(error)
            case Tick():
                pass
        return []

    def _go_on(self, now: float) -> list[Action]:
        """Hold the workers that fit the work, and give them shards."""
        self._backlog.wake(now)
        self._fleet.wake(now)
        actions = [*self._assign(now), *self._back_up(now)]
        return [*actions, *self._staffing.adjust(self._left, not self._backlog.is_empty, now)]

    def _commit(self, worker_id: int, shard_id: int, now: float) -> list[Action]:
        worker = self._fleet.take_back(worker_id, shard_id)
        trial = self._trials.get(shard_id)
        if worker is None or trial is None or worker_id not in trial.runners:
            return []  # late, or of an attempt whose shard is done by another
        self._stragglers.durations.add(now - trial.runners.pop(worker_id))
        self._staffing.praise(worker)
        self._has_committed = True
        return [*(CancelAttempt(other, shard_id) for other in trial.runners), *self._put_away(shard_id)]

    def _put_away(self, shard_id: int) -> list[Action]:
        """Forget a shard that is not tried any more; the last one ends the run."""
        del self._trials[shard_id]
        self._left -= 1
        return [] if self._left else self._finish(None)

    def _fail(self, worker_id: int, shard_id: int, error: EngineError, now: float) -> list[Action]:
        worker = self._fleet.take_back(worker_id, shard_id)
        trial = self._trials.get(shard_id)
        if worker is None or trial is None or trial.runners.pop(worker_id, None) is None:
            return []
        trial.failures += 1
        trial.avoid.add(worker_id)
        self._fleet.blame(worker, now)
        if not error.retryable or (trial.failures >= self._max_attempts and not trial.runners):
            return self._finish(error)
        self._put_back(trial, now + backoff_seconds(trial.failures))
        return []

    def _put_back(self, trial: Trial, not_before: float) -> None:
        """Let a shard wait for its next attempt, unless another attempt at it goes on."""
        if trial.runners:
            self._watch(trial)
            return
        self._backlog.put(trial, not_before)

    def _lose(self, worker_id: int, reason: str, now: float) -> list[Action]:
        worker = self._fleet.remove(worker_id)
        if worker is None:
            return []
        self.workers_lost += 1
        self.last_loss = reason
        actions = self._staffing.lose(worker, now)
        if not worker.is_ready:
            self._loss_reason = self._loss_reason or reason
            losses = worker.losses_loading + 1
            if losses >= MAX_LOSSES_LOADING and not self._fleet.is_hopeful:
                message = f"{losses} actors in a row were lost while loading the model: {self._loss_reason}"
                return self._finish(WorkerLostError(message))
        for shard_id in sorted(worker.load):
            trial = self._trials.get(shard_id)
            if trial is None or trial.runners.pop(worker_id, None) is None:
                continue
            trial.losses_alone += worker.is_alone
            trial.is_suspect = True
            if trial.losses_alone >= MAX_LOSSES_ALONE and not trial.runners:
                actions += self._set_aside(trial, reason)
            else:
                self._put_back(trial, now)
        return actions

    def _set_aside(self, trial: Trial, reason: str) -> list[Action]:
        """Give up a shard that kills whatever runs it; the others go on, and the job fails at its end."""
        message = f"shard {trial.shard_id} lost {MAX_LOSSES_ALONE} actors while it ran alone: {reason}"
        self.set_aside[trial.shard_id] = JobFailedError(message)
        return [Notice(f"{message}; it is set aside, and the others go on"), *self._put_away(trial.shard_id)]

    def _fail_load(self, worker_id: int, error: EngineError, now: float) -> list[Action]:
        """Go on without a node that cannot load the model, if another may; else end with its message.

        What a node is to blame for is a ClusterError; the model and the columns are the same everywhere, so that any
        other mistake ends a run that has not got anywhere yet.
        """
        worker = self._fleet.remove(worker_id) if not self._fleet.is_ready(worker_id) else None
        if worker is None:
            return []
        self._load_error = self._load_error or error
        self._staffing.bar(worker, now)
        self._refusals += 1
        # Others may be about to get a place on nodes that have not been tried; not all of a thousand are tried, though.
        has_hope = self._staffing.has_other_nodes and self._refusals < MAX_REFUSALS
        is_hopeless = not (self._fleet.num_ready or self._fleet.loading or has_hope)
        if is_hopeless or not (self._has_committed or isinstance(error, ClusterError)):
            return self._finish(self._load_error)
        return [Notice(f"{error}; the job goes on without this node")]

    def _finish(self, error: EngineError | None) -> list[Action]:
        self._is_over = True
        first, *others = self.set_aside.values() or [None]
        if first is not None:
            more = f"; {len(others)} more shards likewise" if others else ""
            after = f"; then: {error}" if error else ""
            error = JobFailedError(f"{first}{more}{after}") if not isinstance(error, JobInterrupted) else error
        return [Finish(error)]

    def _assign(self, now: float) -> list[Action]:
        """Hand waiting shards to workers with room, the least loaded first; a suspect runs alone."""
        actions: list[Action] = []
        while True:
            self._fleet.drain(self._backlog.has_suspects)
            taken = self._backlog.take(self._choose)
            if taken is None:
                return actions
            trial, worker_id = taken
            self._trials[trial.shard_id] = trial
            actions.append(self._give(trial, worker_id, now))
            if not trial.is_suspect:
                self._watch(trial)

    def _choose(self, trial: Trial) -> int | None:
        if trial.is_suspect:
            return self._fleet.choose(trial.avoid, 1)
        most = SHARDS_PER_WORKER if trial.attempts else self._fleet.fair_share(self._left)
        return self._fleet.choose(trial.avoid, most)

    def _give(self, trial: Trial, worker_id: int, now: float) -> Action:
        trial.attempts += 1
        self.attempts += 1
        trial.runners[worker_id] = now
        self._fleet.give(worker_id, trial.shard_id, trial.is_suspect)
        return AssignAttempt(worker_id, trial.shard_id, trial.attempts)

    def _watch(self, trial: Trial) -> None:
        """Let a shard that has one attempt have a second once that one is a straggler."""
        if trial.failures < self._max_attempts and trial.losses_alone < MAX_LOSSES_ALONE:
            self._stragglers.watch(trial)

    def _back_up(self, now: float) -> list[Action]:
        """Give idle workers a second attempt of the stragglers, the oldest first."""
        actions: list[Action] = []
        if self._can_back_up and self._backlog.is_empty and self._fleet.idle:
            for trial, worker_id in self._stragglers.take(now, self._choose_idle):
                self.backups += 1
                actions.append(self._give(trial, worker_id, now))
        return actions

    def _choose_idle(self, trial: Trial) -> int | None:
        return next((each for each in self._fleet.idle if each not in trial.avoid), None)
