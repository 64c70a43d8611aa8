"""What a run of shards tells while it goes on and once it is over. Values only."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from engine.errors import ClusterError, EngineError
from engine.run.actor import LoadReport
from engine.run.spec import ShardResult


@dataclass(slots=True)
class PoolRun:
    """What happened while shards ran."""

    results: dict[int, ShardResult] = field(default_factory=dict)
    """Results by shard."""
    attempts: dict[int, int] = field(default_factory=dict)
    """Attempts by shard, of those done."""
    reports: list[LoadReport] = field(default_factory=list)
    """A report of every actor that loaded the model."""
    devices: set[tuple[str, str]] = field(default_factory=set)
    """Kinds and names of what the actors computed on: other bytes come out of another."""
    num_attempts: int = 0
    """Attempts handed out."""
    num_backups: int = 0
    """Those of them that were second attempts of stragglers."""
    actors_lost: int = 0
    """Actors lost."""
    ready_seconds: float = 0.0
    """Seconds for which actors were held that had loaded the model, added up."""
    ray_start_seconds: float = 0.0
    """Seconds to start or join Ray."""
    load_seconds: float = 0.0
    """Seconds from the first actor asked for to the first ready."""
    scoring_seconds: float = 0.0
    """Seconds from the first shard given to a loaded actor to the last commit."""
    sessions: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Batches halved and seconds of computing so far, by worker."""
    error: EngineError | None = None
    """First cause, if the job cannot go on."""

    @property
    def batches_halved(self) -> int:
        """Batches halved because a device ran out of memory."""
        return sum(halved for halved, _ in self.sessions.values())

    @property
    def busy_seconds(self) -> float:
        """Seconds that the actors' sessions were computing, added up."""
        return sum(busy for _, busy in self.sessions.values())

    def keep(self, worker_id: int, result: ShardResult, num_attempts: int) -> None:
        """Keep the result of a shard that took so many attempts, and what it tells of its actor's session."""
        self.results[result.facts.shard_id] = result
        self.attempts[result.facts.shard_id] = num_attempts
        halved, busy = self.sessions.get(worker_id, (0, 0.0))
        self.sessions[worker_id] = max(halved, result.batches_halved), max(busy, result.busy_seconds)

    def accept(self, report: LoadReport) -> ClusterError | None:
        """Keep the report of an actor; return the reason instead where it would write another schema than the first."""
        first = (self.reports or [report])[0]
        if report.schema.equals(first.schema):
            # Each comes with a schema of its own; a run over days on nodes that come and go hears of thousands.
            self.reports.append(replace(report, schema=first.schema))
            self.devices.update((device.kind, device.name) for device in report.devices)
            return None
        return ClusterError(
            f"node {report.node} would write the schema {report.schema}, node {first.node} {first.schema}; "
            "fetch tensors of one shape"
        )


@dataclass(frozen=True, slots=True)
class Watcher:
    """What a caller wants to hear of while shards run."""

    on_loaded: Callable[[LoadReport], None]
    """The first actor is ready; raises a Mistake if the job cannot go on with what it reports."""
    on_result: Callable[[ShardResult], None]
    """A shard is done; raises an EngineError if the job must not go on."""
    on_notice: Callable[[str], None]
    """Something that a person would want to know."""
    on_tick: Callable[[], None]
    """Called at least every half second."""


Heard = TypeVar("Heard")


def refusal_of(hear: Callable[[Heard], None], value: Heard) -> EngineError | None:
    """Tell a watcher of `value`; return why the job must not go on, if it says so."""
    try:
        hear(value)
    except EngineError as error:
        return error
    return None
