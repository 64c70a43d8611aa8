"""Who is measured, and one run of each as a fresh process: its figures, and its output left for comparison.

Start at `CONTESTANTS` and `run_process`. Seconds are wall time. Parts are timed by the change time of their
files, so that nothing has to watch them appear.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from process_tree import PeakMemory
from workloads import Workload

ROOT = Path(__file__).resolve().parent.parent
EXIT_SECONDS = 10
TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Run:
    """Figures of one run."""

    scoring_seconds: float
    """From the first batch to the last row written; for icefloe as its summary tells it."""
    total_seconds: float
    """From the start of the process to its exit."""
    first_part_seconds: float
    """From the start of the process to the first complete file of the output."""
    peak_bytes: int
    """The most memory that the process and all it started held at a time."""
    ray_seconds: float | None
    """What of it `ray.init` took."""


@dataclass(frozen=True)
class Place:
    """Where one run finds and leaves things."""

    model: Path
    """The frozen graph."""
    rows: Path
    """The folder of input files."""
    output: Path
    """The folder that is written."""


class WrongRunError(RuntimeError):
    """A run failed, or left processes behind."""


# Rows a call of the plain loop, which keeps every other default.
LOOP_BATCH = {"tabular": 4096, "wide": 4096, "small": 64, "large": 16, "jpeg": 1024}
# Ray Data's settings: of those tried the best in total seconds and memory. A read task that asks for as many CPUs as
# the actor is fused with it (Ray 2.60, operator_fusion.py): rows do not go through the object store before the graph.
# Tried on two shared cores, 2026-11-26, most once: rows/s while scoring, total seconds, peak MiB; noise is a fifth.
#   tabular, 2M: fused, whole blocks, calls of 4,096: 1.16M 10.9 s 1,979; calls of whole blocks: 1.50M 12.6 s 2,289
#     apart: batches of 2,048 0.65M 12.9 s 2,630; 4,096 0.69 to 1.06M 12.3 to 13.3 s 2,284 to 2,424; 16,384 0.87M
#     14.4 s 2,369; 65,536 0.78M 12.5 s 2,477; whole blocks 1.47M 12.4 s 2,831; 4,096 and one thread of TensorFlow
#     0.80M 12.2 s 2,696; 4,096 and 32 blocks 0.94M 12.8 s 2,523; two actors of one thread 0.62M 15.1 s 3,064
#     apart, while the machine was slower (16,384): an actor of 0.5 CPU 1.17M 15.7 s 2,445, of 1 CPU 1.25M 18.2 s
#     2,630; blocks of 32 MiB 0.81M 16.9 s 2,326; with dictionaries 0.66M 16.4 s 2,457
#     two actors of 1 CPU each, which take both cores: not done after 900 s
#   tabular, 10M: fused 1.51M 18.9 s 2,346; two of them 1.33M 20.6 s 3,296; apart, 4,096 1.00M 22.0 s 2,944
#   wide, 2M: fused 1.19M 11.9 s 2,121; apart, 4,096 1.52 to 1.56M 11.6 to 13.9 s 2,540 to 2,669; 16,384 1.11M 12.2 s
#   small images, raw: fused, calls of 64 18.1k 13.3 s 2,265; apart, 256 15.2 to 17.3k 12.5 to 14.8 s 2,443 to 2,514;
#     64 14.9k 15.8 s 2,496; two actors of one thread 10.8k 17.3 s 2,843
#   large images: fused, calls of 16 33 22.7 s 3,623; right after it apart, 32 and 12 blocks 33 23.0 s 3,929, earlier
#     43 19.1 s 3,866; 16 41 21.0 s 3,697; two actors of one thread 26 26.7 s 3,678
#   jpeg, apart: 1,024 10.0k 13.7 s 2,339; 256 8.8k 12.2 s 2,109; and 12 blocks 5.6k 18.0 s; two actors 4.9k 20.0 s
FUSED = ("--batch", "0", "--read-cpus", "0.1", "--call")
RAY_DATA = {
    "tabular": (*FUSED, "4096"),
    "wide": (*FUSED, "4096"),
    "small": (*FUSED, "64"),
    "large": (*FUSED, "16"),
    "jpeg": ("--batch", "1024"),
}


def loop_command(workload: Workload, place: Place, folder: Path) -> list[str]:
    """Return the command of the plain loop."""
    return [*rival_command("plain_loop.py", workload, place), "--batch", str(LOOP_BATCH[workload.kind])]


def ray_data_command(workload: Workload, place: Place, folder: Path) -> list[str]:
    """Return the command of Ray Data, at its best settings."""
    return [*rival_command("ray_data.py", workload, place), "--marks", str(folder), *RAY_DATA[workload.kind]]


def rival_command(script: str, workload: Workload, place: Place) -> list[str]:
    """Return what both rivals are told."""
    paths = ("--model", str(place.model), "--input", str(place.rows), "--output", str(place.output))
    return [sys.executable, str(ROOT / "bench" / "rivals" / script), *paths, "--feed", workload.feed]


def icefloe_command(workload: Workload, place: Place, folder: Path) -> list[str]:
    """Return our own command, without settings."""
    paths = ("--model", str(place.model), "--input", str(place.rows), "--output", str(place.output))
    return [sys.executable, "-m", "jobs", "score", *paths, "--feed", f"inputs:0={workload.feed}", "--quiet", "--json"]


CONTESTANTS: Mapping[str, Callable[[Workload, Place, Path], list[str]]] = {
    "loop": loop_command,
    "ray_data": ray_data_command,
    "icefloe": icefloe_command,
}


def run_contestant(name: str, workload: Workload, place: Place) -> Run:
    """Run one of `CONTESTANTS` once; its output stays."""
    with tempfile.TemporaryDirectory(dir=place.output.parent) as folder:
        return run_process(CONTESTANTS[name](workload, place, Path(folder)), place.output)


def run_limit(workload: Workload, place: Place) -> dict[str, float]:
    """Measure the machine's limit in a process of its own; return `Limit`'s fields."""
    batches = ",".join(map(str, workload.batches))
    words = (str(place.model), str(place.rows), workload.feed, batches, str(place.output.parent))
    command = [sys.executable, str(ROOT / "bench" / "limit.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=TIMEOUT_SECONDS)
    if done.returncode:
        raise WrongRunError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr[-4000:]}")
    return json.loads(done.stdout)


def run_process(command: Sequence[str], output: Path) -> Run:
    """Run a command to its end and return its figures; it prints its own as JSON.

    Raises:
        WrongRunError: if it fails, or if what it started lives on.
    """
    with tempfile.TemporaryFile() as errors:
        began, started = time.time(), time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT)
        try:
            with PeakMemory(process.pid) as memory:
                printed, _ = process.communicate(timeout=TIMEOUT_SECONDS)
            total = time.perf_counter() - started
        except subprocess.TimeoutExpired as error:
            memory.end_tree()
            raise WrongRunError(f"{' '.join(command)}: not done after {TIMEOUT_SECONDS} s") from error
        if process.returncode:
            errors.seek(0)
            raise WrongRunError(f"{' '.join(command)}: exit {process.returncode}: {errors.read().decode()[-4000:]}")
    wait_for_end(memory)
    facts = json.loads(printed[printed.rfind(b"\n{") + 1 :])  # Ray may have said something before
    changes = [path.stat().st_ctime for path in output.glob("*.parquet")]
    if not changes:
        raise WrongRunError(f"{' '.join(command)}: no part was written")
    ray_seconds = facts.get("ray_seconds", facts.get("seconds_ray_start"))
    return Run(facts["scoring_seconds"], total, min(changes) - began, memory.peak_bytes, ray_seconds)


def wait_for_end(memory: PeakMemory) -> None:
    """Wait until nothing of a tree lives, so that the next run has the machine to itself."""
    deadline = time.monotonic() + EXIT_SECONDS
    while survivors := memory.find_survivors():
        if time.monotonic() > deadline:
            raise WrongRunError(f"processes {survivors} of a run that has ended live on")
        time.sleep(0.1)
