"""What an actor's memory grows by while it scores, beside the data in flight that `plan` tells.

One actor's scorer without Ray: one process, one session thread, as many threads scoring shards as an actor has. It is
warm once the model is loaded and one batch was scored on zeros, and what that left free was given back; growth is what
anonymous memory is more by at its peak, read every few milliseconds, until all shards are scored. Prints what the plan
says by term, and a line of JSON a workload. `python bench/memory.py [FOLDER [WORKLOAD...]]`; rows are kept in FOLDER.
"""

import contextlib
import ctypes
import gc
import json
import queue
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine import JobConfig
from engine.data.feeding.values import aligned_empty
from engine.data.ledger import Ledger
from engine.job import scoring_spec
from engine.model.session import ModelSession, SessionOptions, load_session
from engine.model.tensor import numpy_dtype
from engine.preparing.prepare import Job, prepare
from engine.preparing.resuming import claim_output
from engine.preview import measure_memory
from engine.run.attempt import Attempt
from engine.run.freezing import scored_model
from engine.run.plan import Shard
from engine.run.scheduling.fleet import SHARDS_PER_WORKER
from engine.run.shard import Scorer

MIB = 2**20
INTERVAL_SECONDS = 0.005
WORKLOADS = ("tabular", "wide", "small images, raw", "large images")


@dataclass
class Peak:
    """The most that was seen while a process was watched."""

    memory_bytes: int = 0
    """Anonymous memory of the process."""
    arrow_bytes: int = 0
    """Of it, what Arrow's pool has handed out."""

    def look(self) -> None:
        """Look at it once."""
        self.memory_bytes = max(self.memory_bytes, anonymous_bytes())
        self.arrow_bytes = max(self.arrow_bytes, pa.total_allocated_bytes())


def anonymous_bytes() -> int:
    """Return the anonymous memory of this process, which is all but mapped files and shared memory."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@contextlib.contextmanager
def watched() -> Iterator[Peak]:
    """Look at this process every few milliseconds inside."""
    peak, done = Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(INTERVAL_SECONDS):
            peak.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def load_scorer(job: Job) -> tuple[ModelSession, Scorer]:
    """Load the model and bind it, as an actor does."""
    scored = scored_model(job.model, {})
    assert scored is not None
    ledger = Ledger(job.config.output)
    ledger.folder.make()
    claim_output(job, ledger, None, scored.sha256)
    spec, threads = scoring_spec(job, scored), int(job.config.cpus_per_actor or 1)
    pa.set_cpu_count(threads)
    data = Path(job.config.model).read_bytes()
    tensors, columns = [name for name, _ in spec.feeds], [name for name, _ in spec.fetches]
    session = load_session(data, tensors, columns, spec.constants, options=SessionOptions(threads))
    scorer = Scorer(spec, session)
    gc.freeze()
    return session, scorer


def warm_up(session: ModelSession, num_rows: int) -> None:
    """Score one batch of zeros, and give back what is free then."""
    batch = {}
    for tensor in session.inputs:
        assert tensor.shape is not None
        shape = (num_rows, *(n or 1 for n in tensor.shape[1:]))
        batch[tensor.name] = aligned_empty(shape, numpy_dtype(str(tensor.dtype)))
        batch[tensor.name][:] = np.zeros(1, batch[tensor.name].dtype)
    session.run(batch)
    del batch
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)


def score_all(scorer: Scorer, shards: tuple[Shard, ...]) -> None:
    """Score all shards, as many side by side as an actor does."""
    todo: queue.SimpleQueue[Shard] = queue.SimpleQueue()
    for shard in shards:
        todo.put(shard)

    def work(_: int) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                scorer.score(todo.get_nowait(), Attempt())

    with ThreadPoolExecutor(SHARDS_PER_WORKER) as pool:
        list(pool.map(work, range(SHARDS_PER_WORKER)))


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Score a job in this process, which has to be a fresh one; return growth and plan."""
    job = prepare(JobConfig(**settings))
    memory = measure_memory(job)
    session, scorer = load_scorer(job)
    warm_up(session, job.plan.batch_rows)
    before, arrow_before = anonymous_bytes(), pa.total_allocated_bytes()
    with watched() as peak:
        score_all(scorer, job.plan.shards)
    growth = peak.memory_bytes - before
    return {
        "warm_bytes": before,
        "growth_bytes": growth,
        "arrow_bytes": peak.arrow_bytes - arrow_before,
        "left_bytes": anonymous_bytes() - before,
        "in_flight_bytes": memory.total_bytes,
        "retained_bytes": memory.retained_bytes,
        "ratio": round(growth / memory.total_bytes, 3),
        "shards": len(job.plan.shards),
        "batch_rows": job.plan.batch_rows,
        "terms": {name: size for name, size in asdict(memory).items() if name.endswith("_bytes")},
    }


def measure_fresh(settings: dict[str, Any]) -> dict[str, Any]:
    """Measure a job in a process of its own."""
    command = [sys.executable, __file__, "--job", json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(folder: Path, names: tuple[str, ...]) -> None:
    """Measure some workloads."""
    import workloads

    for name in names:
        workload = workloads.WORKLOADS[name]
        model, rows, _ = workloads.prepare(workload, folder / name.replace(" ", "-"))
        settings = {"model": str(model), "input": str(rows), "feed": f"inputs={workload.feed}"}
        with tempfile.TemporaryDirectory() as output:
            found = measure_fresh({**settings, "output": f"{output}/out", "cpus_per_actor": 1, "gpus_per_actor": 0})
        terms = ", ".join(f"{key.removesuffix('_bytes')} {size / MIB:.1f}" for key, size in found["terms"].items())
        planned = found["in_flight_bytes"]
        sys.stdout.write(
            f"{name}: {found['growth_bytes'] / MIB:.1f} MiB more, at most {found['arrow_bytes'] / MIB:.1f} in use in "
            f"Arrow's pool; planned {planned / MIB:.1f}, {found['retained_bytes'] / MIB:.1f} of it retained ({terms})\n"
            f"{json.dumps({'workload': name, **found})}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        sys.stdout.write(json.dumps(measure(json.loads(sys.argv[2]))) + "\n")
    elif len(sys.argv) > 1:
        main(Path(sys.argv[1]), tuple(sys.argv[2:]) or WORKLOADS)
    else:
        with tempfile.TemporaryDirectory() as there:
            main(Path(there), WORKLOADS)
