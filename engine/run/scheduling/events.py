"""What the scheduler hears and what it says: events in, actions out. Values only.

A worker is an actor as the scheduler knows it, by a number that is never used twice; an attempt is known by worker and
shard, for a worker has a shard once at a time.
"""

from dataclasses import dataclass

from engine.errors import EngineError


@dataclass(frozen=True, slots=True)
class WorkerPlaced:
    """An actor that was asked for has got a place: its process runs on a node, and loads the model now."""

    worker_id: int
    node_id: str
    """The node, as the cluster names it."""


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
class WorkerStalled:
    """An actor is there, but has got nowhere for too long."""

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
    """An attempt has ended without a part on a living actor."""

    worker_id: int
    shard_id: int
    error: EngineError


@dataclass(frozen=True, slots=True)
class CapacityChanged:
    """Nodes have come or gone."""

    node_ids: frozenset[str]
    """The nodes that could hold actors."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The job must not go on."""

    error: EngineError
    """Why."""


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Ask for an actor, and let it load once it has a place."""

    worker_id: int
    avoid_nodes: tuple[str, ...] = ()
    """Nodes that it must not be placed on."""


@dataclass(frozen=True, slots=True)
class StopWorker:
    """End an actor, or take back that one was asked for; nothing more is heard of it."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class AssignAttempt:
    """Give a shard to an actor."""

    worker_id: int
    shard_id: int
    attempt: int
    """Number of this attempt at the shard, from 1."""


@dataclass(frozen=True, slots=True)
class CancelAttempt:
    """Tell an actor that a shard is done by another; it is still heard how its own attempt ends."""

    worker_id: int
    shard_id: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Tell a person something that they would want to know."""

    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The job is over: done, or failed with its first cause."""

    error: EngineError | None


Event = (
    WorkerPlaced
    | WorkerReady
    | WorkerLost
    | WorkerStalled
    | LoadFailed
    | ShardDone
    | ShardFailed
    | CapacityChanged
    | Tick
    | Stop
)
Action = StartWorker | StopWorker | AssignAttempt | CancelAttempt | Notice | Finish
