"""How fast scoring is against what the machine could do, a plain loop and Ray Data, measured side by side.

Each round runs each workload once by each: the machine's limit (`limit.py`), the loop and Ray Data (`rivals/`), and
`icefloe score`; who begins changes with the round. Every run is a fresh process on warm files. Prints medians and
targets, writes every figure as JSON, and fails where outputs disagree.

    python bench/efficiency.py [WORKLOAD...] [--rounds 3] [--scale 1] [--data FOLDER] [--results FILE] [--quick]
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comparison import compare, read_scores
from contestants import CONTESTANTS, Place, run_contestant, run_limit
from tables import render
from workloads import WORKLOADS, Workload, prepare

RESULTS = Path(__file__).parent / "results" / "efficiency.json"
BLOCK_BYTES = 16 * 2**20
# What --quick measures, and how much of it.
QUICK = {"tabular": 0.25, "wide": 0.25, "small images, raw": 0.1}
Figures = dict[str, Any]


def warm(place: Place) -> None:
    """Read the input files, so that nobody waits for a disk."""
    for path in place.rows.glob("*.parquet"):
        with path.open("rb") as file:
            while file.read(BLOCK_BYTES):
                pass


def run_round(workload: Workload, place: Place, num_rows: int, round_index: int) -> dict[str, Figures]:
    """Run each once and compare the outputs; return figures by name.

    Raises:
        ValueError: if outputs disagree.
    """
    names = ["limit", *CONTESTANTS]
    turn = round_index % len(names)
    found, expected = dict[str, Figures](), None
    for name in names[turn:] + names[:turn]:
        warm(place)
        if name == "limit":
            found[name] = dict(run_limit(workload, place))
            continue
        run = run_contestant(name, workload, place)
        found[name] = {"rows_per_second": num_rows / run.scoring_seconds, **asdict(run)}
        scores = read_scores(place.output, num_rows)
        shutil.rmtree(place.output)
        if expected is not None:
            compare(f"{workload.name}, {name}", scores, expected)
        expected = scores
        say(f"  {name}: {num_rows / run.scoring_seconds:,.0f} rows/s, {run.total_seconds:.1f} s in all")
    return found


def median(runs: Sequence[Figures]) -> Figures:
    """Return the median of each figure; what was not measured is None."""
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    return {name: statistics.median(values) if None not in values else None for name, values in columns.items()}


def summarise(num_rows: int, rounds: list[dict[str, Figures]], cores: int) -> Figures:
    """Return medians of a workload: rates, seconds, the limit, and our efficiency."""
    found = {name: median([each[name] for each in rounds]) for name in rounds[0]}
    limit = statistics.median(
        [(each["limit"]["decode"] + each["limit"]["session"] + each["limit"]["encode"]) / cores for each in rounds]
    )
    efficiency = limit / found["icefloe"]["scoring_seconds"]
    return {"rows": num_rows, "limit_seconds": limit, "efficiency": efficiency, **found}


def describe_machine() -> Figures:
    """Return CPU, cores and memory."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_bytes": memory}


def measure(scales: Mapping[str, float], num_rounds: int, folder: Path) -> Figures:
    """Measure these workloads at these scales, round by round; return everything."""
    places: dict[str, tuple[Place, int]] = {}
    with tempfile.TemporaryDirectory() as output:
        for name, scale in scales.items():
            say(f"{name}: preparing")
            model, rows, num_rows = prepare(WORKLOADS[name], folder / name.replace(" ", "-"), scale)
            places[name] = Place(model, rows, Path(output) / "out"), num_rows
        rounds: dict[str, list[dict[str, Figures]]] = {name: [] for name in places}
        for index in range(num_rounds):
            for name, (place, num_rows) in places.items():
                say(f"round {index + 1} of {num_rounds}: {name}, {num_rows:,} rows")
                rounds[name].append(run_round(WORKLOADS[name], place, num_rows, index))
    machine = describe_machine()
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine,
        "versions": {name: importlib.metadata.version(name) for name in ("icefloe", "tensorflow", "ray", "pyarrow")},
        "rounds": num_rounds,
        "medians": {name: summarise(places[name][1], found, machine["cores"]) for name, found in rounds.items()},
        "runs": rounds,
    }


def say(line: str) -> None:
    """Tell what goes on."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main() -> None:
    """Measure, print tables, and save what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", choices=[*WORKLOADS, []], metavar="WORKLOAD")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--scale", type=float)
    parser.add_argument("--quick", action="store_true", help="one round of some workloads, scaled down")
    parser.add_argument("--data", type=Path, help="folder that keeps models and rows for the next time")
    parser.add_argument("--results", type=Path, help="file for all figures")
    options = parser.parse_args()
    scales = {name: options.scale or 1.0 for name in options.workloads or WORKLOADS}
    if options.quick:
        scales = {name: options.scale or QUICK.get(name, 0.1) for name in options.workloads or QUICK}
    with tempfile.TemporaryDirectory() as temporary:
        results = measure(scales, options.rounds or (1 if options.quick else 3), options.data or Path(temporary))
    path = options.results or (None if options.quick else RESULTS)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(render(results))


if __name__ == "__main__":
    main()
