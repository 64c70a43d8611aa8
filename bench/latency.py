"""What latency of storage costs: the tabular workload from local files, and from a store that answers late and at once.

The store is `bench/store.py` on this machine, input and output both in it; the store that answers at once shows what
its protocol and its server's own CPU cost, so that the late one against it is the price of latency. The variants take
turns. Prints the scoring phase's rows/s (medians), the requests of a shard by kind, and JSON.

    python bench/latency.py FOLDER [--workload tabular] [--rounds 3] [--delay-ms 50] [--variants local,store,late]
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.workloads import WORKLOADS, prepare

VARIANTS = ("local", "store", "late")
SMALL = 2**16


@contextlib.contextmanager
def served(folder: Path, delay_seconds: float, log: Path) -> Iterator[str]:
    """Serve a folder in a process of its own; gives the endpoint."""
    command = [sys.executable, "bench/store.py", str(folder), str(delay_seconds), str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.stdin.close()


def score(model: Path, source: str, output: str, environment: dict[str, str], options: list[str]) -> dict[str, Any]:
    """Score by the command line; returns the summary."""
    command = [sys.executable, "-m", "jobs.score", "--model", str(model), "--input", source, "--output", output]
    command += ["--actors", "2", "--overwrite", "--json", "--quiet", *options]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout))


def count_requests(log: Path, begin: int) -> Counter[str]:
    """Count by kind the requests for rows and parts since a line of the log; what a job asks once is left out."""
    found: Counter[str] = Counter()
    for line in log.read_text().splitlines()[begin:]:
        _, kind, path, span = line.split("\t")
        name = path.rpartition("/")[2]
        whose = next(
            (word for word, is_it in (
                ("input", "/in/" in path and name), ("quarantine", name.startswith("bad-")),
                ("plan", name == "plan.json"), ("part", name.startswith("part-")),
            ) if is_it), "other",
        )  # fmt: skip
        first, _, last = span.removeprefix("bytes=").partition("-")
        is_small = last and first and int(last) - int(first) < SMALL
        found[f"{kind} {whose}{' small' if kind == 'GET' and is_small else ''}"] += 1
    return found


def measure(name: str, folder: Path, rounds: int, delay_seconds: float, variants: list[str], options: list[str]) -> Any:
    """Run the variants in turn; returns the figures of each."""
    model, rows, _ = prepare(WORKLOADS[name], folder)
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    requests: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as temporary, contextlib.ExitStack() as servers:
        there = Path(temporary)
        (there / "data").mkdir()
        (there / "data" / "in").symlink_to(rows.resolve())
        keys = {"AWS_ACCESS_KEY_ID": "measuring", "AWS_SECRET_ACCESS_KEY": "measuring", "AWS_REGION": "us-east-1"}
        endpoints = {
            variant: servers.enter_context(served(there, seconds, there / f"{variant}.log"))
            for variant, seconds in (("store", 0.0), ("late", delay_seconds))
        }
        for _ in range(rounds):
            for variant in variants:
                for out in (there / "out", there / "data" / "out"):
                    shutil.rmtree(out, ignore_errors=True)
                if variant == "local":
                    summary = score(model, str(rows), str(there / "out"), {}, options)
                else:
                    log = there / f"{variant}.log"
                    begin = len(log.read_text().splitlines())
                    environment = keys | {"AWS_ENDPOINT_URL_S3": endpoints[variant]}
                    summary = score(model, "s3://data/in", "s3://data/out", environment, options)
                    requests[variant] = count_requests(log, begin)
                runs[variant].append(summary)
                sys.stderr.write(f"{variant}: {summary['rows_per_second']:,.0f} rows/s, {summary['phase_seconds']}\n")
    return {
        variant: {
            "rows_per_second": statistics.median(each["rows_per_second"] for each in found),
            "all": [round(each["rows_per_second"]) for each in found],
            "parts": found[0]["parts"],
            "requests": dict(sorted(requests.get(variant, Counter()).items())),
        }
        for variant, found in runs.items()
    }


def show(found: dict[str, Any], delay_seconds: float) -> str:
    """Return the table, and the requests of a shard."""
    names = {"local": "local files", "store": "a store, 0 ms", "late": f"a store, {delay_seconds * 1000:g} ms"}
    lines = ["| | rows/s | all rounds | of local | of the store, 0 ms |", "|---|---|---|---|---|"]
    for variant, each in found.items():
        bases = [found[base]["rows_per_second"] if base in found else 0 for base in ("local", "store")]
        shares = [f"{each['rows_per_second'] / base:.0%}" if base else "-" for base in bases]
        every = ", ".join(f"{rate / 1e6:.2f}M" for rate in each["all"])
        lines.append(f"| {names[variant]} | {each['rows_per_second'] / 1e6:.2f}M | {every} | {' | '.join(shares)} |")
    for variant, each in found.items():
        if each["requests"]:
            lines.append(f"{variant}, requests in all ({each['parts']} shards): {each['requests']}")
    return "\n".join(lines)


def main() -> None:
    """Measure what the call asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="where model and rows lie, or will")
    parser.add_argument("--workload", default="tabular", choices=sorted(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay-ms", type=float, default=50.0)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("options", nargs="*", help="further options of icefloe score, behind --")
    given = parser.parse_args()
    seconds = given.delay_ms / 1000
    found = measure(given.workload, given.folder, given.rounds, seconds, given.variants.split(","), given.options)
    sys.stdout.write(f"{show(found, seconds)}\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
