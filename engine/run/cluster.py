"""Runs shards on a Ray cluster: starts or joins it, holds the actors, and turns Ray's errors into ours.

It decides nothing: `engine.run.driver` tells it what to do and hears what happened. Start at `Cluster` and `ActorPool`.
"""

import contextlib
import logging
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import ray
import ray.exceptions

from engine.errors import ClusterError, JobFailedError, JobInterrupted, WorkerLostError
from engine.model.session import SessionOptions
from engine.run.actor import ScoringActor
from engine.run.address import ClusterAddress, check_address
from engine.run.interrupt import deferred_interrupts, handlers_kept
from engine.run.meter import Meter, Unmetered
from engine.run.plan import Shard
from engine.run.pool import NodeSize, PoolSize
from engine.run.scheduling.fleet import SHARDS_PER_WORKER
from engine.run.spec import ScoringSpec

TICK_SECONDS = 0.5
# What a worker that freezes the model may take, waiting for a free CPU included.
READY_SECONDS = 600.0
# The label that Ray gives every node by itself, and the threads of an actor that shards do not take.
NODE_LABEL, CONTROL = "ray.io/node-id", "control"
NUMBERS = re.compile(
    r"\s*\b(?:class_name|actor_id|task_id|pid|name|namespace|ip|Node Id|Worker ID): \S+|(?<=actor) [0-9a-f]{32}"
)
# Some 50 us each: the caller looks up at least every tenth of a second, however fast they come in.
ANSWERS_AT_ONCE = 1000
PLACE, LOAD, SCORE, PROGRESS, NODES = "place", "load", "score", "progress", "nodes"


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
                level = logging.getLogger("engine").level or logging.ERROR  # warnings of Ray's are no news to users
                level = logging.ERROR if level >= logging.WARNING else level
                ray.init(self._address.uri, log_to_driver=False, logging_level=level, **options)
        except SystemExit as error:  # what Ray's own SIGTERM handler raises
            raise JobInterrupted("interrupted while Ray was starting; rerun to resume") from error
        except ray.exceptions.AuthenticationError as error:
            raise ClusterError(
                f"{self._address.where}: the cluster asks for a token: set RAY_AUTH_MODE=token and give the "
                f"cluster's token as its operator tells ({error})"
            ) from error
        except Exception as error:  # a node that does not start in time is a mere Exception (Ray 2.60)
            raise self._address.refusal(error) from error

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
                    raise WorkerLostError(f"nothing came back in {READY_SECONDS:.0f} s; free: {free_resources()}")
        try:
            return ray.get(ref)
        except ray.exceptions.RayError as error:
            raise WorkerLostError(_reason(error)) from error

    def nodes(self) -> list[NodeSize]:
        """Return what each living node offers."""
        return living_nodes()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back of a call to an actor."""

    worker_id: int
    call: str
    """PLACE, LOAD, SCORE, PROGRESS or NODES."""
    shard_id: int
    """The shard of a SCORE; else -1."""
    value: Any = None
    """What the actor returned."""
    lost: str = ""
    """Why the actor is taken to be gone, if it is."""


class ActorPool:
    """The actors of one run.

    What they answer comes in by a queue: waiting costs the same for ten calls in flight and for ten thousand, where
    `ray.wait` takes 0.56 ms for 3,000 (Ray 2.60).
    """

    def __init__(
        self,
        spec: ScoringSpec,
        model: bytes,
        size: PoolSize,
        allow_cpu: bool,
        actor_class: type[ScoringActor] = ScoringActor,
        make_meter: Callable[[], Meter] = Unmetered,
    ) -> None:
        """Put the model where every node can fetch it once.

        Args:
            spec: the job.
            model: bytes of the GraphDef.
            size: the share of each actor.
            allow_cpu: whether an actor may go on whose TensorFlow does not see its GPU share.
            actor_class: what the actors are made of.
            make_meter: makes inside each of them what is told of its work.

        Raises:
            ClusterError: if the object store has no room for it.
        """
        try:
            self._spec, self._model = ray.put(spec), ray.put(np.frombuffer(model, np.uint8))
        except ray.exceptions.ObjectStoreFullError as error:
            raise ClusterError(
                f"Ray's object store has no room for the model of {len(model):,} bytes: start Ray with a larger one "
                f"(--object-store-memory), or end the jobs that fill it ({_reason(error)})"
            ) from error
        self._size, self._make_meter = size, make_meter
        self._options = SessionOptions(size.threads, size.gpus, allow_cpu, spec.precision, spec.xla)
        remote: Any = ray.remote  # its types know of no concurrency
        self._actor_class = remote(
            max_restarts=0, max_task_retries=0, num_cpus=size.cpus, num_gpus=size.gpus,
            max_concurrency=SHARDS_PER_WORKER, concurrency_groups={CONTROL: 1},
        )(actor_class)  # fmt: skip
        self._actors: dict[int, Any] = {}
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._asking: threading.Thread | None = None

    def start(self, worker_id: int, avoid_nodes: Sequence[str]) -> None:
        """Ask for an actor, which loads the model as soon as it has a place: answers PLACE with its node, then LOAD."""
        elsewhere = {"label_selector": {NODE_LABEL: f"!in({','.join(avoid_nodes)})"}} if avoid_nodes else {}
        actor = self._actors[worker_id] = self._actor_class.options(**elsewhere).remote(self._make_meter)
        self._listen(actor.__ray_call__.remote(_find_node), worker_id, PLACE)
        self._listen(actor.load.remote(self._spec, self._model, self._options), worker_id, LOAD)

    def score(self, worker_id: int, shard: Shard) -> None:
        """Give an actor a shard: answers SCORE with a result or an error of ours."""
        self._listen(self._actors[worker_id].score.remote(shard), worker_id, SCORE, shard.shard_id)

    def ask_progress(self, worker_id: int) -> None:
        """Ask an actor how far its calls are: answers PROGRESS, also while all of its threads are busy."""
        ref = self._actors[worker_id].progress.options(concurrency_group=CONTROL).remote()
        self._listen(ref, worker_id, PROGRESS)

    def cancel(self, worker_id: int, shard_id: int) -> None:
        """Tell an actor to give up a shard; nothing is answered to that."""
        self._actors[worker_id].cancel.options(concurrency_group=CONTROL).remote(shard_id)

    def stop(self, worker_id: int) -> None:
        """End an actor, whatever it does; the place that it has, or waits for, is free again."""
        actor = self._actors.pop(worker_id, None)
        if actor is not None:
            with contextlib.suppress(ray.exceptions.RayError):  # must not hide the first cause
                ray.kill(actor, no_restart=True)

    def answers(self, timeout_seconds: float) -> Iterator[Answer]:
        """Wait for the next answer, and give those that there are by then, up to so many that a signal is soon seen."""
        with contextlib.suppress(queue.Empty):
            yield self._answers.get(timeout=timeout_seconds)
            for _ in range(ANSWERS_AT_ONCE - 1):
                yield self._answers.get_nowait()

    def ask_nodes(self) -> None:
        """Ask for the cluster's nodes: answers NODES with what they offer, and with what is free in words.

        A thread asks, for `ray.nodes()` never returns where the head is gone (Ray 2.60), and no signal would be seen.
        """
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._look_at_nodes, daemon=True)
            self._asking.start()

    def _look_at_nodes(self) -> None:
        with contextlib.suppress(Exception):  # Ray has been left meanwhile, which raises this and that
            self._answers.put(Answer(-1, NODES, -1, value=(living_nodes(), free_resources())))

    def close(self) -> None:
        """End all actors."""
        for worker_id in list(self._actors):
            self.stop(worker_id)
        if self._asking is not None:
            self._asking.join(TICK_SECONDS)

    def _listen(self, ref: Any, worker_id: int, call: str, shard_id: int = -1) -> None:
        def answer(done: Any) -> None:
            error = done.exception()
            if error is None:
                self._answers.put(Answer(worker_id, call, shard_id, done.result()))
            elif call in (LOAD, SCORE) and _is_ours(error):
                cause = JobFailedError(f"an actor failed outside its own code: {error}")
                self._answers.put(Answer(worker_id, call, shard_id, cause))
            else:
                self._answers.put(Answer(worker_id, call, shard_id, lost=_reason(error)))

        ref.future().add_done_callback(answer)


def _is_ours(error: BaseException) -> bool:
    """Whether a call failed in what it did, and not because Ray could not bring it its arguments or its end."""
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    return not isinstance(cause, ray.exceptions.RayError)


def _find_node(_: ScoringActor) -> str:
    """Return the id of the node that an actor runs on."""
    return str(ray.get_runtime_context().get_node_id())


def living_nodes() -> list[NodeSize]:
    """Return what each living node of the cluster offers."""
    found = [(node["Resources"], str(node["NodeID"])) for node in ray.nodes() if node["Alive"]]
    return [
        NodeSize(has.get("CPU", 0.0), has.get("GPU", 0.0), node_id, has.get("memory", 0.0)) for has, node_id in found
    ]


def free_resources() -> str:
    """Return what of the cluster is not taken, as messages show it."""
    free = ray.available_resources()
    return ", ".join(f"{free.get(name, 0):g} {name}" for name in ("CPU", "GPU"))


def _reason(error: BaseException) -> str:
    """Say in one line what Ray says of an actor or a task that is gone, without the numbers that it knows them by."""
    text = " ".join(line.strip() for line in str(error).strip().splitlines())
    return f"{type(error).__name__}: {NUMBERS.sub('', text)[:600]}"
