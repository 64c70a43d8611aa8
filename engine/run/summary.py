"""What a job did, in numbers. Pure. Start at `summarise`."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.run.numeric_drift import Drift, to_json


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of `summary.json`; "this run" leaves out parts that an earlier run had scored."""

    plan_id: str
    """Plan that the output belongs to."""
    model_sha256: str
    """Hash of the frozen graph that the rows were scored with."""
    output: str
    """Output folder."""
    rows_in: int
    """Input rows of the whole job."""
    rows_out: int
    """Rows written by the whole job."""
    rows_quarantined: int
    """Rows set aside with a reason."""
    rows_filtered: int
    """Rows left out by a condition."""
    files_pruned: int
    """Input files left out because no row in their folders could hold for a condition."""
    nan_values: Mapping[str, int]
    """NaN values written, by output column, of those that have some."""
    inf_values: Mapping[str, int]
    """Infinite values written, by output column, of those that have some."""
    parts: int
    """Parts of the whole job."""
    parts_earlier: int
    """Parts that an earlier run had written."""
    seconds_total: float
    """Seconds of this run, from the call to the end."""
    seconds_ray_start: float
    """Seconds to start or join Ray."""
    seconds_load: float
    """Seconds from the first actor asked for to the first that had loaded the model."""
    scoring_seconds: float
    """Seconds from the first shard given to a loaded actor to the last commit, this run only."""
    rows_per_second: float
    """This run's rows over `scoring_seconds`; 0 where nothing was left to score."""
    rows_per_actor_second: float
    """This run's rows over the seconds for which actors were held that had loaded the model, all of them added up."""
    session_share: float
    """Share of actor time (from loaded to given back, all actors) inside the session."""
    bottleneck: str
    """What took most of the actors' time, in words, and what to try."""
    phase_seconds: Mapping[str, float]
    """Seconds of all actors by what they did: read, wait (for shards), bind, session, write."""
    attempts: int
    """Attempts handed out in this run."""
    second_attempts: int
    """Those of them that a straggler was given beside its first."""
    actors: int
    """Actors that loaded the model."""
    actors_lost: int
    """Actors lost on the way."""
    devices: tuple[Mapping[str, Any], ...]
    """For each actor: node, process id, device with name and memory in bytes, visible GPUs, threads, shards, rows and
    seconds by what it did."""
    model_load_bytes: int
    """Largest peak memory of an actor's process after loading the model."""
    batch_size: int
    """Rows per graph call."""
    precision: str
    """What the graph was computed in: float32, bfloat16 or float16."""
    xla: bool
    """Whether it was compiled with XLA."""
    drift: Mapping[str, Drift]
    """How far the values of this run's first rows lie from those of the graph in float32 without XLA, by column of
    floats; empty where neither is used or nothing could be compared."""
    batches_split: int
    """Batches of this run that the graph refused as a whole, for rows at fault or rows that do not go together."""
    batches_halved: int
    """Times that a batch was halved because a device ran out of memory."""
    bytes_stable: bool
    """Whether another run of the plan gives the same bytes."""
    bytes_stable_reason: str
    """Why not, if not."""
    versions: Mapping[str, str]
    """Versions of engine, tensorflow, pyarrow and ray."""

    @property
    def actor_time(self) -> str:
        """What the actors' time went to, most of it first, in words."""
        total = sum(self.phase_seconds.values()) or 1.0
        shares = sorted(self.phase_seconds.items(), key=lambda pair: -pair[1])
        return ", ".join(f"{PHASES[phase][0]} {seconds / total:.0%}" for phase, seconds in shares)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON takes it."""
        return asdict(self) | {"drift": to_json(self.drift)}


MIN_SECONDS = 1.0
"""Actors' seconds below which what took most of them is chance."""
PHASES = {
    "read": ("reading", "more CPUs per actor (--cpus-per-actor)"),
    "wait": ("waiting for shards", "fewer actors (--actors)"),
    "bind": ("converting columns", "columns of the tensor's own dtype, as fixed-size lists"),
    "session": ("the graph", "more actors or GPUs, or icefloe tune"),
    "write": ("writing", "fewer kept columns (--keep)"),
}
"""What an actor's time goes to: what a person calls it, and what to try where it is the limit."""


def share_out(seconds: Mapping[str, float], ready_seconds: float) -> dict[str, float]:
    """Return the seconds of actors by phase, of which `wait` is what was left of the time they were ready.

    Shards that overlap in an actor may take more seconds together than it was there.
    """
    busy = sum(seconds.get(phase, 0.0) for phase in PHASES if phase != "wait")
    return {**add_phases([seconds]), "wait": max(0.0, ready_seconds - busy)}


def find_bottleneck(phase_seconds: Mapping[str, float]) -> str:
    """Name what took most of the actors' time, with its share and what to try."""
    total = sum(phase_seconds.values())
    if not total:
        return "nothing was scored"
    if total < MIN_SECONDS:
        return f"none that {total:.2f} s could tell"
    phase = max(phase_seconds, key=lambda name: phase_seconds[name])
    name, advice = PHASES[phase]
    return f"{name} is the limit: {phase_seconds[phase] / total:.0%} of actor time; try {advice}"


def add_phases(seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Add up the seconds by phase of several shards."""
    return {phase: sum(each.get(phase, 0.0) for each in seconds) for phase in PHASES}


def add_odd_values(texts: Sequence[str], which: int) -> dict[str, int]:
    """Add up the NaN (0) or Inf (1) values of several parts, whose counts by column are JSON."""
    total: Counter[str] = Counter()
    for text in texts:
        total.update({column: counts[which] for column, counts in json.loads(text).items()})
    return {column: count for column, count in sorted(total.items()) if count}
