"""What a simulated run is told and tells: a cluster with its faults, and how the run went. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import EngineError


@dataclass(frozen=True, slots=True)
class World:
    """A cluster, and what goes wrong on it."""

    num_nodes: int
    """Nodes at the start."""
    actors_per_node: int = 8
    """Actors that fit on a node."""
    node_changes: tuple[tuple[float, int], ...] = ()
    """Seconds, and how many nodes come then; where it is negative, so many go, the oldest first."""
    place_seconds: float = 2.0
    """From asking for an actor for which there is room to its process."""
    load_seconds: float = 10.0
    """From the process to the loaded model."""
    cancel_seconds: float = 1.0
    """Until an attempt that is told to stop has stopped, at its next batch."""
    spread: float = 0.0
    """Seconds of shards, places and loads are drawn evenly from so much below to so much above, as a share."""
    slow_share: float = 0.0
    """Attempts that are slow, as a share of all."""
    slow_factor: float = 10.0
    """Times that they take longer."""
    failed_share: float = 0.0
    """Attempts that fail somewhere on the way, which a retry may mend, as a share of all."""
    lost_per_hour: float = 0.0
    """Actors that are lost in an hour, one by one, as a share of all."""
    seed: int = 0
    """Decides all that is drawn."""


@dataclass(slots=True)
class StepCost:
    """What one kind of event has cost the scheduler."""

    num_steps: int = 0
    """Events of this kind."""
    seconds: float = 0.0
    """Seconds of all of them; 0 without a clock."""
    worst_seconds: float = 0.0
    """Seconds of the slowest."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """How a simulated run went."""

    error: EngineError | None
    """Why it failed; None where every shard is done, or where it waits for ever."""
    num_committed: int
    """Shards that were committed."""
    wall_seconds: float
    """From the start to the last commit."""
    committed_seconds: float
    """Seconds of actors in attempts that were committed."""
    ready_seconds: float
    """Seconds in which actors were ready, added up."""
    num_ready_most: int
    """The most actors that were ready at a time."""
    attempts: int
    """Attempts handed out."""
    backups: int
    """Those of them that were second attempts of stragglers."""
    workers_lost: int
    """Actors lost."""
    steps: Mapping[str, StepCost]
    """What the scheduler's steps have cost, by kind of event."""

    @property
    def utilisation(self) -> float:
        """Share of the ready actors' time that went into committed attempts."""
        return self.committed_seconds / self.ready_seconds if self.ready_seconds else 0.0

    @property
    def num_steps(self) -> int:
        """Steps of the scheduler."""
        return sum(cost.num_steps for cost in self.steps.values())
