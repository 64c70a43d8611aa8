"""What a run of shards tells while it goes on and once it is over. Values only."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from engine.errors import ClusterError, EngineError
from engine.run.actor import LoadReport
from engine.run.logbook import Logbook
from engine.run.spec import ShardResult
from engine.run.summary import add_phases, share_out


@dataclass(slots=True)
class ActorTally:
    """What one actor that loaded the model has done."""

    report: LoadReport
    """What it said when it was ready."""
    ready_seconds: float = 0.0
    """Seconds for which it was held from then on; known once it is given back."""
    busy_seconds: float = 0.0
    """Seconds that its session was computing."""
    batches_halved: int = 0
    """Batches halved because a device ran out of memory."""
    shards: int = 0
    """Shards that it committed."""
    rows: int = 0
    """Rows that it wrote."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of these shards by phase."""

    def add(self, result: ShardResult) -> None:
        """Count a shard that it has done."""
        self.batches_halved = max(self.batches_halved, result.batches_halved)
        self.busy_seconds = max(self.busy_seconds, result.busy_seconds)
        self.shards += 1
        self.rows += result.facts.counts.rows
        self.seconds = add_phases([self.seconds, result.seconds])

    def facts(self) -> dict[str, Any]:
        """Return what the summary tells of it; its seconds with those in which it did nothing (`wait`)."""
        seconds = share_out(self.seconds, self.ready_seconds)
        return {**self.report.device_facts(), "shards": self.shards, "rows": self.rows, "seconds": seconds}


@dataclass(slots=True)
class PoolRun:
    """What happened while shards ran."""

    results: dict[int, ShardResult] = field(default_factory=dict)
    """Results by shard."""
    attempts: dict[int, int] = field(default_factory=dict)
    """Attempts by shard, of those done."""
    actors: dict[int, ActorTally] = field(default_factory=dict)
    """Every actor that loaded the model, by worker."""
    devices: set[tuple[str, str]] = field(default_factory=set)
    """Kinds and names of what the actors computed on: other bytes come out of another."""
    num_attempts: int = 0
    """Attempts handed out."""
    num_backups: int = 0
    """Those of them that were second attempts of stragglers."""
    actors_lost: int = 0
    """Actors lost."""
    ray_start_seconds: float = 0.0
    """Seconds to start or join Ray."""
    load_seconds: float = 0.0
    """Seconds from the first actor asked for to the first ready."""
    scoring_seconds: float = 0.0
    """Seconds from the first shard given to a loaded actor to the last commit."""
    error: EngineError | None = None
    """First cause, if the job cannot go on."""

    @property
    def batches_halved(self) -> int:
        """Batches halved because a device ran out of memory."""
        return sum(actor.batches_halved for actor in self.actors.values())

    @property
    def busy_seconds(self) -> float:
        """Seconds that the actors' sessions were computing, added up."""
        return sum(actor.busy_seconds for actor in self.actors.values())

    @property
    def ready_seconds(self) -> float:
        """Seconds for which actors were held that had loaded the model, added up."""
        return sum(actor.ready_seconds for actor in self.actors.values())

    def keep(self, worker_id: int, result: ShardResult, num_attempts: int) -> None:
        """Keep the result of a shard that took so many attempts, and count it for its actor."""
        self.results[result.facts.shard_id] = result
        self.attempts[result.facts.shard_id] = num_attempts
        if worker_id in self.actors:
            self.actors[worker_id].add(result)

    def accept(self, worker_id: int, report: LoadReport) -> ClusterError | None:
        """Keep the report of an actor; return the reason instead where it would write another schema than the first."""
        first = next((actor.report for actor in self.actors.values()), report)
        if report.schema.equals(first.schema):
            # Each comes with a schema of its own; a run over days on nodes that come and go hears of thousands.
            self.actors[worker_id] = ActorTally(replace(report, schema=first.schema))
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
    logbook: Logbook
    """Told of all that happens."""


Heard = TypeVar("Heard")


def refusal_of(hear: Callable[[Heard], None], value: Heard) -> EngineError | None:
    """Tell a watcher of `value`; return why the job must not go on, if it says so."""
    try:
        hear(value)
    except EngineError as error:
        return error
    return None
