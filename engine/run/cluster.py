"""Runs shards on a Ray cluster: starts or joins it, holds the actors, and turns Ray's errors into ours.

The scheduler decides; this room only does what it says and reports what happened. Every wait has a deadline.
Start at `Cluster` and `run_shards`.
"""

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import ray
import ray.exceptions

from engine.errors import ClusterError, EngineError, JobFailedError, JobInterrupted, WorkerLostError
from engine.model.session import SessionOptions
from engine.run.actor import LoadReport, ScoringActor
from engine.run.address import ClusterAddress, check_address
from engine.run.interrupt import deferred_interrupts, handlers_kept
from engine.run.outcome import PoolRun, Watcher, refusal_of
from engine.run.plan import Shard
from engine.run.pool import NodeSize, PoolSize
from engine.run.schedule import (
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
from engine.run.spec import ScoringSpec

TICK_SECONDS = 0.5
# A cluster's autoscaler takes minutes to add a GPU node; ten without one ready actor is no start but a failure.
READY_SECONDS = 600.0
NOTICE_SECONDS = 15.0


class Cluster:
    """A Ray cluster that was joined, or one that lives as long as this context."""

    def __init__(self, address: str | None) -> None:
        """Remember where to connect: `address`, else RAY_ADDRESS, else a new cluster on this machine."""
        self._address = ClusterAddress.find(address)
        self._is_mine = False
        self.start_seconds = 0.0
        """Seconds that it took to start or join."""

    @property
    def is_local(self) -> bool:
        """Whether the cluster is this one machine's own, to which no node will be added."""
        return self._address.is_local

    def check_address(self) -> None:
        """Find out within seconds whether there is a cluster at all; Ray itself would try for 20 s, or for ever.

        Raises:
            ClusterError: if no Ray cluster answers there.
        """
        if not self.is_local and not ray.is_initialized():
            check_address(self._address.uri, self._address.where)

    def __enter__(self) -> Self:
        """Start or join the cluster.

        Raises:
            ClusterError: if that fails.
        """
        if ray.is_initialized():
            return self
        self.check_address()
        started = time.monotonic()
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray\.")
        options: dict[str, Any] = {"include_dashboard": False} if self.is_local else {}
        # Ray takes an exception out of a signal handler for a failure of its own and goes on.
        with deferred_interrupts() as check_interrupts:
            self._init(options)
            try:
                check_interrupts()
            except JobInterrupted:
                ray.shutdown()
                raise
        self._is_mine, self.start_seconds = True, time.monotonic() - started
        return self

    def _init(self, options: dict[str, Any]) -> None:
        try:
            with handlers_kept():
                ray.init(self._address.uri, log_to_driver=False, logging_level=logging.ERROR, **options)
        except SystemExit as error:  # what Ray's own SIGTERM handler raises
            raise JobInterrupted("interrupted while Ray was starting; rerun to resume") from error
        except ray.exceptions.AuthenticationError as error:
            raise ClusterError(
                f"{self._address.where}: the cluster asks for a token: set RAY_AUTH_MODE=token and give the "
                f"cluster's token as its operator tells ({error})"
            ) from error
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            raise ClusterError(f"{self._address.where}: cannot use this Ray cluster: {error}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the cluster; a local one ends."""
        if self._is_mine:
            ray.shutdown()

    def call(self, function: Callable[[Any], Any], argument: Any, on_tick: Callable[[], None]) -> Any:
        """Call `function` in a worker process of its own, which ends with it.

        Raises:
            WorkerLostError: if the process died, or none was free in the time that an actor may take to start.
        """
        remote: Any = ray.remote(num_cpus=1, max_retries=0, max_calls=1)(function)
        ref = remote.remote(argument)
        deadline = time.monotonic() + READY_SECONDS
        with deferred_interrupts() as check_interrupts:
            while not ray.wait([ref], timeout=TICK_SECONDS)[0]:
                on_tick()
                check_interrupts()
                if time.monotonic() > deadline:
                    ray.cancel(ref, force=True)
                    raise WorkerLostError(f"nothing came back in {READY_SECONDS:.0f} s; free: {_free_resources()}")
        try:
            return ray.get(ref)
        except ray.exceptions.RayError as error:
            raise WorkerLostError(_reason(error)) from error

    def nodes(self) -> list[NodeSize]:
        """Return what each living node offers."""
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return [NodeSize(each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in resources]


@dataclass(frozen=True, slots=True)
class _Call:
    """A call to an actor that has not returned."""

    worker_id: int
    shard_id: int | None
    """The shard, or None while the model is being loaded."""


def run_shards(spec: ScoringSpec, model: bytes, shards: Sequence[Shard], pool: PoolSize, watcher: Watcher) -> PoolRun:
    """Score `shards` on `pool`'s actors of the cluster that this process has joined.

    Returns:
        What happened; `error` holds the first cause where the job could not go on.

    Raises:
        JobInterrupted: on SIGINT or SIGTERM, where `engine.run.interrupt` is in force.
    """
    driver = _Driver(spec, model, shards, pool, watcher)
    try:
        driver.run()
    finally:
        driver.close()
    return driver.outcome


class _Driver:
    """The loop between the scheduler and Ray, for one run."""

    def __init__(
        self, spec: ScoringSpec, model: bytes, shards: Sequence[Shard], pool: PoolSize, watcher: Watcher
    ) -> None:
        self._spec = ray.put(spec)
        self._model = ray.put(np.frombuffer(model, np.uint8))
        self._shards = {shard.shard_id: shard for shard in shards}
        self._pool = pool
        self._watcher = watcher
        self._scheduler = Scheduler(self._shards, pool.num_actors)
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, _Call] = {}
        self._is_over = False
        self._first_assigned: float | None = None
        self._started = self._waiting_since = time.monotonic()
        self._was_noticed = False
        self.outcome = PoolRun()

    def run(self) -> None:
        with deferred_interrupts() as check_interrupts:
            self._do(self._scheduler.start())
            while not self._is_over:
                self._step()
                check_interrupts()
        self.outcome.num_attempts = self._scheduler.attempts
        self.outcome.actors_lost = self._scheduler.workers_lost

    def _step(self) -> None:
        ready: list[Any] = []
        if self._calls:
            ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=TICK_SECONDS)
        else:  # every shard left waits for its retry
            time.sleep(TICK_SECONDS)
        self._watcher.on_tick()
        events = [event for ref in ready if (event := self._receive(ref))] or [Tick()]
        for event in events:
            self._do(self._scheduler.handle(event, time.monotonic()))
        self._check_deadline()

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case StartWorker(worker_id):
                    self._start(worker_id)
                case AssignAttempt(worker_id, shard_id, _):
                    self._first_assigned = self._first_assigned or time.monotonic()
                    ref = self._actors[worker_id].score.remote(self._shards[shard_id])
                    self._calls[ref] = _Call(worker_id, shard_id)
                case Finish(error):
                    self._is_over = True
                    self.outcome.error = error

    def _start(self, worker_id: int) -> None:
        actor_class: Any = ray.remote(max_restarts=0, max_task_retries=0)(ScoringActor)
        options = {"num_cpus": self._pool.cpus, "num_gpus": self._pool.gpus, "max_concurrency": SHARDS_PER_WORKER}
        actor = actor_class.options(**options).remote()
        self._actors[worker_id] = actor
        ref = actor.load.remote(self._spec, self._model, SessionOptions(self._pool.threads, self._pool.gpus))
        self._calls[ref] = _Call(worker_id, None)

    def _receive(self, ref: Any) -> Event | None:
        call = self._calls.pop(ref)
        try:
            value = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            cause = JobFailedError(f"an actor failed outside its own code: {error}")
            return LoadFailed(call.worker_id, cause)
        except ray.exceptions.RayError as error:
            return self._lose(call.worker_id, error)
        if call.shard_id is None:
            return self._loaded(call.worker_id, value)
        if isinstance(value, EngineError):
            return ShardFailed(call.worker_id, call.shard_id, value)
        self.outcome.keep(call.worker_id, value)
        self.outcome.attempts[call.shard_id] = self._scheduler.attempts_of(call.shard_id)
        self.outcome.scoring_seconds = time.monotonic() - (self._first_assigned or self._started)
        refusal = refusal_of(self._watcher.on_result, value)
        if refusal is not None:
            return ShardFailed(call.worker_id, call.shard_id, refusal)
        return ShardDone(call.worker_id, call.shard_id)

    def _loaded(self, worker_id: int, value: LoadReport | EngineError) -> Event:
        if isinstance(value, EngineError):
            return self._lose(worker_id, value) if value.retryable else LoadFailed(worker_id, value)
        if not self.outcome.reports:
            self.outcome.load_seconds = time.monotonic() - self._started
            refusal = refusal_of(self._watcher.on_loaded, value)
            if refusal is not None:
                return LoadFailed(worker_id, refusal)
        odd = self.outcome.accept(value)
        return WorkerReady(worker_id) if odd is None else LoadFailed(worker_id, odd)

    def _lose(self, worker_id: int, error: Exception) -> Event:
        self._calls = {ref: call for ref, call in self._calls.items() if call.worker_id != worker_id}
        ray.kill(self._actors.pop(worker_id), no_restart=True)
        return WorkerLost(worker_id, _reason(error))

    def _check_deadline(self) -> None:
        """End a run in which no actor gets ready."""
        if any(call.shard_id is not None for call in self._calls.values()) or self._is_over:
            self._waiting_since = time.monotonic()
            return
        waited = time.monotonic() - self._waiting_since
        asked = f"asked were {self._pool}, the cluster has free"
        if waited > NOTICE_SECONDS and not self._was_noticed:
            self._was_noticed = True
            self._watcher.on_notice(f"no actor is ready after {waited:.0f} s: {asked} {_free_resources()}")
        if waited > READY_SECONDS:
            self._is_over = True
            reason = f"no actor got ready within {READY_SECONDS:.0f} s: {asked} {_free_resources()}"
            self.outcome.error = ClusterError(reason)

    def close(self) -> None:
        for actor in self._actors.values():
            with contextlib.suppress(ray.exceptions.RayError):  # must not hide the first cause
                ray.kill(actor, no_restart=True)


def _free_resources() -> str:
    free = ray.available_resources()
    return ", ".join(f"{free.get(name, 0):g} {name}" for name in ("CPU", "GPU"))


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines()]
    return f"{type(error).__name__}: {' '.join(lines)[:600]}"
