"""The full simulation: 10,000 actors and 1,000,000 shards of 60 s. By hand: python tests/sim/full.py [--growth]."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHARDS_PER_ACTOR = 100
SHARD_SECONDS = 60.0
ACTORS_PER_NODE = 8
# Seconds of shards are 60 on the nose where they are even; with `spread`, from 54 to 66.
SCENARIOS: dict[str, dict[str, float]] = {
    "even": {},
    "spread": {"spread": 0.1},
    # 5 % of the attempts take ten times as long, and 1 % of the actors is lost in an hour.
    "faults": {"slow_share": 0.05, "slow_factor": 10.0, "lost_per_hour": 0.01},
}


def measure(name: str, num_actors: int, has_clock: bool = False) -> dict[str, Any]:
    """Run one scenario in this process, and return its figures."""
    from engine.run.scheduling.staffing import PoolLimits
    from engine.run.simulating.simulation import simulate
    from engine.run.simulating.world import World

    num_shards = num_actors * SHARDS_PER_ACTOR
    world = World(-(-num_actors // ACTORS_PER_NODE), ACTORS_PER_NODE, **SCENARIOS[name])
    limits, clock = PoolLimits(num_actors, num_actors), time.thread_time if has_clock else None
    before = time.process_time()
    run = simulate(world, [SHARD_SECONDS] * num_shards, limits, clock)
    return {
        "is_done": run.error is None and run.num_committed == num_shards,
        "utilisation": run.utilisation,
        "wall_seconds": run.wall_seconds,
        "attempts": run.attempts,
        "backups": run.backups,
        "workers_lost": run.workers_lost,
        "num_steps": run.num_steps,
        "cpu_seconds": time.process_time() - before,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "steps": {kind: (cost.num_steps, cost.seconds, cost.worst_seconds) for kind, cost in run.steps.items()},
    }


def in_a_process(name: str, num_actors: int, has_clock: bool = False) -> dict[str, Any]:
    """Run one scenario in a process of its own, so that its memory is its own."""
    code = f"import full, json; print(json.dumps(full.measure({name!r}, {num_actors}, {has_clock})))"
    path = {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}
    done = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def table(num_actors: int) -> Iterator[str]:
    """Lines of a table of all scenarios."""
    yield f"{num_actors:,} actors, {num_actors * SHARDS_PER_ACTOR:,} shards of {SHARD_SECONDS:g} s"
    yield "scenario  utilisation   wall s   attempts  backups  lost      steps   CPU s  peak MB"
    for name in SCENARIOS:
        found = in_a_process(name, num_actors)
        yield (
            f"{name:8}{found['utilisation']:12.2%}{found['wall_seconds']:10,.0f}{found['attempts']:11,}"
            f"{found['backups']:9,}{found['workers_lost']:6,}{found['num_steps']:11,}{found['cpu_seconds']:8.1f}"
            f"{found['peak_mb']:9.0f}" + "  NOT DONE" * (not found["is_done"])
        )


def growth() -> Iterator[str]:
    """Lines that say what a step costs as the run grows; a clock for each step is in the figures."""
    yield "CPU microseconds of the scheduler's steps, mean and worst (`faults`)"
    for num_actors in (10, 100, 1_000, 10_000):
        steps = in_a_process("faults", num_actors, has_clock=True)["steps"]
        for kind, (num_steps, seconds, worst) in sorted(steps.items()):
            mean = f"{1e6 * seconds / num_steps:10.1f}"
            yield f"{num_actors:8,} actors  {kind:16}{num_steps:11,}{mean}{1e6 * worst:12,.0f}"


if __name__ == "__main__":
    for line in growth() if "--growth" in sys.argv else table(10_000):
        print(line, flush=True)
