"""What a shard costs the driver: empty shards on actors without TensorFlow, on a Ray of this machine.

The real driver, scheduler and actor pool; the actors answer at once. Prints the driver's CPU milliseconds a shard for
several numbers of actors, which shows whether its waiting grows with what is in flight.

    python bench/driver.py [actors [shards]]
"""

import json
import sys
import time
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from engine.data.manifest import PartFacts, RowCounts
from engine.data.storage.folder import PublishedPart
from engine.model.devices import Device
from engine.run.actor import LoadReport, ScoringActor
from engine.run.cluster import ActorPool, Cluster
from engine.run.driver import RunRules, run_shards
from engine.run.logbook import Logbook
from engine.run.outcome import Watcher
from engine.run.plan import Shard, part_name
from engine.run.pool import PoolSize
from engine.run.spec import ShardResult

SECONDS = dict.fromkeys(("read", "bind", "session", "write", "total"), 0.0)
CPU_SHARE = 0.01


class EmptyActor(ScoringActor):
    """Answers as an actor does that has nothing to do."""

    def load(self, *_: Any) -> LoadReport:
        """Report what an actor on a CPU would."""
        return LoadReport("here", 0, (Device("CPU", "", 0),), "", 1, pa.schema([("id", pa.int64())]), 0.0, 0)

    def score(self, shard: Shard) -> ShardResult:
        """Return the result of a shard without rows."""
        facts = PartFacts("0" * 32, shard.shard_id, "[]", RowCounts(0, 0, 0, 0))
        return ShardResult(part_name(shard, 20_000), facts, PublishedPart(0, "0" * 64), (), 0, SECONDS, 0, 0.0)


def measure(num_actors: int, num_shards: int) -> dict[str, float]:
    """Run empty shards and return what they cost the driver."""
    begun: list[tuple[float, float]] = []
    notices: list[str] = []
    watcher = Watcher(
        lambda _: begun.append((time.process_time(), time.perf_counter())), lambda _: None, notices.append,
        lambda: None, Logbook("0" * 32, time.time(), time.monotonic()),
    )  # fmt: skip
    size = PoolSize(num_actors, num_actors, CPU_SHARE, 0.0)
    spec = SimpleNamespace(precision="float32", xla=False)  # all that the pool itself looks at
    actors = ActorPool(spec, b"", size, allow_cpu=True, actor_class=EmptyActor)
    shards = [Shard(i, "", ()) for i in range(num_shards)]
    started = time.perf_counter()
    run = run_shards(actors, shards, size, RunRules(4, 600.0, can_back_up=True), watcher)
    cpu, wall = time.process_time() - begun[0][0], time.perf_counter() - begun[0][1]
    assert run.error is None, run.error
    assert len(run.results) == num_shards
    return {
        "actors": len(run.actors),
        "shards": num_shards,
        "start_seconds": round(begun[0][1] - started, 1),
        "seconds": round(wall, 2),
        "cpu_ms_per_shard": round(cpu / num_shards * 1000, 3),
        "attempts": run.num_attempts,
    }


def main() -> None:
    """Print a line for each number of actors."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    num_shards = int(sys.argv[2]) if len(sys.argv) == len(("script", "actors", "shards")) else 20_000
    with Cluster("local"):
        for num_actors in sorted({min(5, most), most}):
            print(json.dumps(measure(num_actors, num_shards)), flush=True)


if __name__ == "__main__":
    main()
