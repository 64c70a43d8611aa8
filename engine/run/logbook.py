"""What has happened in a run so far, from the events and actions of its scheduler: pure, without a clock of its own.

It answers two questions: how far the run is now (`status`), and what happened when (`spans`). Start at `Logbook`.
"""

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any

from engine.data.status import LOADING, SCORING, STARTING, ActorStatus, RunStatus
from engine.data.storage.places import shown_text
from engine.data.timeline import ATTEMPT, CANCELLED, FAILED, INTERRUPTED, LOAD, LOST, OK, READY, RUN, RUNNING, Span
from engine.run.attempt import PHASES
from engine.run.held_actor import HeldActor, HeldAttempt, rows_in_hand
from engine.run.pace import Pace
from engine.run.plan import Shard
from engine.run.scheduling.events import (
    Action,
    AssignAttempt,
    CancelAttempt,
    Event,
    LoadFailed,
    ShardFailed,
    StartWorker,
    StopWorker,
    WorkerLost,
    WorkerPlaced,
    WorkerReady,
    WorkerStalled,
)
from engine.run.spec import ShardResult
from engine.run.stalls import Progress

# Of actors that were lost so many are shown, the last ones.
MAX_LOST_SHOWN = 8


class Logbook:
    """What has happened in one run."""

    def __init__(self, plan_id: str, since_epoch: float, started: float, rows_per_byte: float = 0.0) -> None:
        """Begin a run.

        Args:
            plan_id: the plan that is run.
            since_epoch: when it began, in seconds since 1970.
            started: the same by the steady clock that all other times are of.
            rows_per_byte: a first guess, for shards in hand are known by their rows.
        """
        self._plan_id, self._epoch, self._started, self._guess = plan_id, since_epoch, started, rows_per_byte
        self._shard_bytes: dict[int, int] = {}
        self._num_shards = self._num_earlier = self._num_bytes = 0
        self._actors: dict[int, HeldActor] = {}
        self._ended: list[Span] = []
        self._lost: deque[ActorStatus] = deque(maxlen=MAX_LOST_SHOWN)
        self._running: Counter[int] = Counter()
        self._tried: set[int] = set()
        self._counts = Counter[str]()
        self._pace = Pace()
        self._first_assigned: float | None = None
        self._stopped: float | None = None

    @property
    def working(self) -> list[int]:
        """Actors that have a shard in hand."""
        return [worker_id for worker_id, actor in self._actors.items() if actor.attempts]

    def plan(self, missing: Mapping[int, Shard], num_shards: int) -> None:
        """Say what there is to do: the shards that are missing, of so many."""
        self._shard_bytes = {shard_id: shard.num_bytes for shard_id, shard in missing.items()}
        self._num_shards, self._num_earlier = num_shards, num_shards - len(missing)
        self._num_bytes = sum(self._shard_bytes.values())

    def hear(self, event: Event, now: float) -> None:
        """Note what the scheduler hears."""
        match event:
            case WorkerPlaced(worker_id, node_id) if worker_id in self._actors:
                actor = self._actors[worker_id]
                actor.is_placed, actor.node = True, actor.node or node_id
            case WorkerReady(worker_id) if worker_id in self._actors:
                actor = self._actors[worker_id]
                actor.ready = now
                self._ended.append(self._span(LOAD, worker_id, actor.asked, now, OK))
            case WorkerLost(worker_id, reason) | WorkerStalled(worker_id, reason):
                self._leave(worker_id, now, LOST, reason)
            case LoadFailed(worker_id, error):
                self._leave(worker_id, now, FAILED, str(error))
            case ShardFailed(worker_id, shard_id, error):
                self._end_attempt(worker_id, shard_id, now, FAILED, str(error))

    def note(self, action: Action, now: float) -> None:
        """Note what the scheduler says."""
        match action:
            case StartWorker(worker_id):
                self._actors[worker_id] = HeldActor(worker_id, now)
            case StopWorker(worker_id):
                self._leave(worker_id, now, OK, "")
            case AssignAttempt(worker_id, shard_id, number) if worker_id in self._actors:
                is_backup = self._running[shard_id] > 0
                self._counts["attempts"] += 1
                self._counts["backups" if is_backup else "retries"] += is_backup or shard_id in self._tried
                self._tried.add(shard_id)
                self._running[shard_id] += 1
                self._actors[worker_id].attempts[shard_id] = HeldAttempt(shard_id, now, number, is_backup)
                if self._first_assigned is None:
                    self._first_assigned = now
                    self._pace.begin(now)
            case CancelAttempt(worker_id, shard_id):
                self._end_attempt(worker_id, shard_id, now, CANCELLED)

    def name(self, worker_id: int, host: str) -> None:
        """Note the host of an actor, which is what people know it by."""
        self._actors[worker_id].node = host

    def see(self, worker_id: int, found: Mapping[int, Progress]) -> None:
        """Note how far an actor's attempts are."""
        attempts = self._actors[worker_id].attempts if worker_id in self._actors else {}
        for shard_id in attempts.keys() & found.keys():
            attempts[shard_id].see(found[shard_id])

    def keep(self, worker_id: int, result: ShardResult, now: float) -> None:
        """Note a shard that is done."""
        shard_id, counts = result.facts.shard_id, result.facts.counts
        told: dict[str, Any] = {"rows": counts.rows, "rows_quarantined": counts.rows_quarantined}
        told |= {f"{name}_seconds": result.seconds[name] for name in PHASES if name in result.seconds}
        if self._end_attempt(worker_id, shard_id, now, OK, **told):
            self._actors[worker_id].shards_done += 1
            self._actors[worker_id].rows += counts.rows
            self._counts["shards"] += 1
            self._counts["rows"] += counts.rows
            self._counts["rows_quarantined"] += counts.rows_quarantined
            self._counts["bytes"] += self._shard_bytes.get(shard_id, 0)

    def end(self, now: float) -> None:
        """Note that all actors are given back, and what was in hand with them; no row is scored any more."""
        self._stopped = now
        for worker_id in list(self._actors):
            self._leave(worker_id, now, OK, "")

    def status(self, now: float, with_actors: bool = False) -> RunStatus:
        """Return how far the run is; what is no matter of shards and actors is the caller's to add."""
        states = Counter(actor.state for actor in self._actors.values())
        rows, num_bytes = self._in_hand()
        rows, num_bytes = rows + self._counts["rows"], num_bytes + self._counts["bytes"]
        rate, byte_rate = self._pace.rates(self._stopped or now, rows, num_bytes)
        state = SCORING if self._first_assigned is not None else LOADING if self._actors else STARTING
        return RunStatus(
            plan_id=self._plan_id,
            state=state,
            started=self._epoch,
            updated=self._epoch + now - self._started,
            seconds=now - self._started,
            scoring_seconds=0.0 if self._first_assigned is None else (self._stopped or now) - self._first_assigned,
            shards=self._num_shards,
            shards_done=self._num_earlier + self._counts["shards"],
            shards_earlier=self._num_earlier,
            bytes=self._num_bytes,
            bytes_done=num_bytes,
            rows=rows,
            rows_quarantined=self._counts["rows_quarantined"],
            rows_per_second=rate,
            seconds_left=(self._num_bytes - num_bytes) / byte_rate if byte_rate else None,
            actors_asked=states["asked"],
            actors_loading=states["loading"],
            actors_working=states["working"],
            actors_idle=states["idle"],
            actors_lost=self._counts["lost"],
            attempts=self._counts["attempts"],
            retries=self._counts["retries"],
            second_attempts=self._counts["backups"],
            actors=(*(actor.status(now) for actor in self._actors.values()), *self._lost) if with_actors else (),
        )

    def spans(self, now: float, outcome: str = RUNNING, message: str = "") -> list[Span]:
        """Return what happened when, the run itself first; what goes on ends `now`.

        Args:
            now: the moment of asking.
            outcome: how the run has ended: done, failed, interrupted, or running.
            message: why, if it was not done.
        """
        going_on = [each for actor in self._actors.values() for each in self._going_on(actor, now)]
        rows = {name: self._counts[name] for name in ("rows", "rows_quarantined")}
        run = self._span(RUN, -1, self._started, now, outcome, message, **rows)
        return [run, *self._ended, *going_on]

    def _leave(self, worker_id: int, now: float, outcome: str, reason: str) -> None:
        actor = self._actors.get(worker_id)
        if actor is None:
            return
        for shard_id in list(actor.attempts):
            self._end_attempt(worker_id, shard_id, now, LOST if outcome == LOST else INTERRUPTED, reason)
        if actor.ready is not None:
            self._ended.append(self._span(READY, worker_id, actor.ready, now, outcome, reason))
        elif outcome != OK:
            self._ended.append(self._span(LOAD, worker_id, actor.asked, now, outcome, reason))
        if outcome == LOST:
            self._counts["lost"] += 1
            self._lost.append(actor.status(now, is_lost=True, reason=shown_text(reason)))
        del self._actors[worker_id]

    def _end_attempt(
        self, worker_id: int, shard_id: int, now: float, outcome: str, message: str = "", **found: Any
    ) -> bool:
        actor = self._actors.get(worker_id)
        attempt = actor.attempts.pop(shard_id, None) if actor else None
        if attempt is None:
            return False
        self._running[shard_id] -= 1
        self._ended.append(
            self._span(ATTEMPT, worker_id, attempt.started, now, outcome, message, **attempt.facts(), **found)
        )
        return True

    def _span(
        self, kind: str, worker_id: int, start: float, stop: float, outcome: str, message: str = "", **told: Any
    ) -> Span:
        return Span(
            plan_id=self._plan_id,
            run=self._epoch,
            kind=kind,
            start_seconds=start - self._started,
            stop_seconds=stop - self._started,
            outcome=outcome,
            worker_id=worker_id,
            node=self._actors[worker_id].node if worker_id in self._actors else "",
            message=shown_text(message),
            bytes=self._shard_bytes.get(told.get("shard_id", -1), 0),
            **told,
        )

    def _in_hand(self) -> tuple[int, int]:
        """Return rows and bytes of shards in hand; bytes by the rows that shards have for their bytes."""
        rows = rows_in_hand(iter(self._actors.values()))
        done = self._counts["rows"] / self._counts["bytes"] if self._counts["bytes"] else 0.0
        density = done or self._guess
        sizes = [(self._shard_bytes.get(shard_id, 0), count) for shard_id, count in rows.items()]
        num_bytes = sum(min(size, count / density) for size, count in sizes) if density else 0.0
        return sum(rows.values()), math.floor(num_bytes)

    def _going_on(self, actor: HeldActor, now: float) -> Iterator[Span]:
        kind, since = (LOAD, actor.asked) if actor.ready is None else (READY, actor.ready)
        yield self._span(kind, actor.worker_id, since, now, RUNNING)
        for attempt in actor.attempts.values():
            yield self._span(ATTEMPT, actor.worker_id, attempt.started, now, RUNNING, **attempt.facts())
