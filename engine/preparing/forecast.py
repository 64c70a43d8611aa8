"""How long the missing shards of a job would take, from a simulated run of them. Reads the last summary, no input.

Start at `forecast`.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from engine.data.ledger import SUMMARY, Ledger
from engine.errors import ConfigError
from engine.preparing.prepare import Job
from engine.run.scheduling.fleet import SHARDS_PER_WORKER
from engine.run.scheduling.staffing import PoolLimits
from engine.run.simulating.simulation import simulate
from engine.run.simulating.world import World

# A model of some hundred MB into a fresh process; only until there is a summary.
ASSUMED_LOAD_SECONDS = 10.0
ACTORS_PER_NODE = 8


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a simulated run of the missing shards says, on actors that all go on at one rate and are not lost."""

    num_actors: int
    """Actors asked for."""
    num_shards: int
    """Shards that are missing."""
    num_rows: int
    """Rows in them, before any condition."""
    is_estimated: bool
    """Whether these rows are worked out from bytes, by the first footer."""
    rate: float
    """Rows per second of one actor; 0 where nothing is left to do."""
    is_rate_given: bool
    """Whether the call gives it; else it is the last summary's."""
    load_seconds: float
    """From asking for an actor to the loaded model."""
    is_load_assumed: bool
    """Whether this is a guess; else it is the last summary's."""
    wall_seconds: float
    """From asking for the actors to the last commit; Ray's own start comes on top."""
    utilisation: float
    """Share of the loaded actors' time in which they are at work; 0 where nothing is left to do."""
    useful_actors: int
    """Actors up to which each has as many shards as it works on side by side; more help less and less."""


def forecast(job: Job, ledger: Ledger, done: Collection[str], num_actors: int, rate: float | None) -> Forecast:
    """Work out how long the shards would take whose parts are missing.

    Args:
        job: the job.
        ledger: its output folder, whose last summary tells what is not given.
        done: parts that are there.
        num_actors: actors to imagine.
        rate: rows per second of each; None for the last summary's.

    Raises:
        ConfigError: if there is neither.
    """
    rows = _estimate_rows(job)
    missing = [shard_id for name, shard_id in job.part_names.items() if name not in done]
    summary = _last_summary(ledger)
    found_rate = rate or _figure(summary, "rows_per_actor_second")
    if missing and not found_rate:
        raise ConfigError(
            f"--simulate {num_actors}: how fast is one actor? No earlier run in {ledger.folder.place} tells; "
            "give its rows per second with --rate R"
        )
    load_seconds = _figure(summary, "seconds_load")
    world = World(
        num_nodes=math.ceil(min(num_actors, max(1, len(missing))) / ACTORS_PER_NODE),
        actors_per_node=ACTORS_PER_NODE,
        place_seconds=0.0,
        load_seconds=load_seconds or ASSUMED_LOAD_SECONDS,
    )
    seconds = [rows[shard_id] / found_rate for shard_id in missing]
    run = simulate(world, seconds, PoolLimits(num_actors, num_actors))
    return Forecast(
        num_actors=num_actors,
        num_shards=len(missing),
        num_rows=round(sum(rows[shard_id] for shard_id in missing)),
        is_estimated=len(job.plan.files) > 1 or (0 < len(missing) < len(rows)),
        rate=found_rate,
        is_rate_given=rate is not None,
        load_seconds=world.load_seconds,
        is_load_assumed=not load_seconds,
        wall_seconds=run.wall_seconds,
        utilisation=run.utilisation,
        useful_actors=max(1, len(missing) // SHARDS_PER_WORKER),
    )


def _estimate_rows(job: Job) -> list[float]:
    """Return the rows of each shard as its bytes tell by the first footer; no more than the limit in all."""
    left, rows = float("inf") if job.config.limit is None else float(job.config.limit), []
    for shard in job.plan.shards:
        rows.append(min(left, shard.num_bytes * job.inputs.rows_per_byte))
        left -= rows[-1]
    return rows


def _last_summary(ledger: Ledger) -> Mapping[str, Any]:
    """Return the figures of the last run that came to its end; empty where there are none."""
    try:
        found = json.loads(ledger.folder.read(SUMMARY) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _figure(summary: Mapping[str, Any], name: str) -> float:
    found = summary.get(name)
    return float(found) if isinstance(found, (int, float)) else 0.0
