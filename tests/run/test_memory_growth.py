"""An actor's memory grows by no more than `plan` says: a process of its own, measured as `bench/memory.py` does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.run.scheduling.fleet import SHARDS_PER_WORKER

pytestmark = [pytest.mark.tf, pytest.mark.measured]

ROOT = Path(__file__).resolve().parents[2]
NUM_FILES, NUM_COLUMNS = 3, 40
ROWS_PER_FILE = 400_000  # row groups of four slices and more


def vectors(rng: np.random.Generator) -> dict[str, pa.Array]:
    values = pa.array(rng.standard_normal(ROWS_PER_FILE * NUM_COLUMNS, np.float32))
    return {"inputs": pa.FixedSizeListArray.from_arrays(values, NUM_COLUMNS)}


def scalars(rng: np.random.Generator) -> dict[str, pa.Array]:
    return {f"f_{i:02}": pa.array(rng.standard_normal(ROWS_PER_FILE)) for i in range(NUM_COLUMNS)}


def growth(folder: Path, feed: str, columns: Any) -> dict[str, Any]:
    """Score files whose row groups are cut into slices; return what memory grew by, and what was planned."""
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    for i in range(NUM_FILES):
        pq.write_table(pa.table({"id": np.arange(ROWS_PER_FILE), **columns(rng)}), folder / "in" / f"{i}.parquet")
    graphs.write(folder / "model.pb", graphs.linear(NUM_COLUMNS, 10))
    settings = {"model": str(folder / "model.pb"), "input": [str(folder / "in")], "output": str(folder / "out")}
    settings |= {"feed": [f"inputs={feed}"], "cpus_per_actor": 1, "gpus_per_actor": 0}
    command = [sys.executable, str(ROOT / "bench" / "memory.py"), "--job", json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("feed", "columns"), [("inputs", vectors), ("f_*", scalars)], ids=["tabular", "wide"])
def test_memory_grows_by_no_more_than_was_planned(tmp_path: Path, feed: str, columns: Any) -> None:
    found = growth(tmp_path, feed, columns)
    assert found["shards"] >= SHARDS_PER_WORKER
    assert found["growth_bytes"] <= found["in_flight_bytes"]
    # What allocators retain is a rule of thumb, so what Arrow has handed out is held to the rest alone.
    assert found["arrow_bytes"] <= found["in_flight_bytes"] - found["retained_bytes"]
