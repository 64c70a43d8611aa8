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


# Rows a call of the plain loop: the best of three tried on two cores.
LOOP_BATCH = {"tabular": 4096, "wide": 4096, "small": 64, "large": 16, "jpeg": 1024}
# RAY_DATA_SETTINGS
RAY_DATA = {
    "tabular": ("--batch", "4096"),
    "wide": ("--batch", "4096"),
    "small": ("--batch", "256"),
    "large": ("--batch", "16"),
    "jpeg": ("--batch", "256"),
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
    facts = json.loads(printed)
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
