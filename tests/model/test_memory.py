"""A session whose device really runs out of memory: TensorFlow itself raises ResourceExhaustedError here.

TensorFlow's pools, that of oneDNN on CPUs too, wait ten seconds before they give up (2.21: `AllocatorRetry`); without
oneDNN memory comes from malloc, which refuses at once. So all runs are made in one process that is started so.
"""

import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from graphs import hungry

from engine.errors import GraphError
from engine.model.session import ModelSession, SessionOptions, load_session

pytestmark = pytest.mark.tf

ROOT = Path(__file__).resolve().parents[2]
BATCHES = [(64, 64, 1), (65, 64, 1), (128, 64, 1), (1024, 64, 1), (7, 2, 1), (33, 5, 1), (1000, 1, 1), (257, 100, 2)]


def load(room_rows: int, threads: int = 1, num_rows: int | None = None) -> ModelSession:
    data = hungry(room_rows, num_rows=num_rows).SerializeToString()
    return load_session(data, ["inputs:0"], ["prediction:0"], {}, options=SessionOptions(threads))


def rows_of(num_rows: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_rows, 4)).astype(np.float32)


def one_by_one(rows: np.ndarray) -> np.ndarray:
    plain = load(room_rows=2**20)
    return np.concatenate([plain.run({"inputs:0": rows[i : i + 1]})[0] for i in range(len(rows))])


def is_same(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and np.allclose(found, expected, rtol=1e-5, atol=1e-7)


def run_twice(num_rows: int, room_rows: int, threads: int) -> dict[str, Any]:
    model, rows = load(room_rows, threads), rows_of(num_rows)
    counts = []
    for _ in range(2):
        (found,) = model.run({"inputs:0": rows})
        counts.append((model.max_rows, model.batches_halved))
    return {"is_same": is_same(found, one_by_one(rows)), "counts": counts}


def run_in_threads(num_threads: int, threads: int) -> dict[str, Any]:
    model, start = load(room_rows=10, threads=threads), Barrier(num_threads)

    def work(seed: int) -> bool:
        batches = [rows_of(num_rows, seed) for num_rows in (64, 3, 41, 10, 64)]
        expected = [one_by_one(batch) for batch in batches]
        start.wait()
        return all(
            is_same(model.run({"inputs:0": batch})[0], values) for batch, values in zip(batches, expected, strict=True)
        )

    with ThreadPoolExecutor(num_threads) as pool:
        are_same = list(pool.map(work, range(num_threads)))
    return {"are_same": are_same, "max_rows": model.max_rows, "halved": model.batches_halved}


def refusal(model: ModelSession, num_rows: int, can_halve: bool = True) -> dict[str, Any]:
    try:
        model.run({"inputs:0": rows_of(num_rows)}, can_halve)
    except GraphError as error:
        return {"message": str(error), "halved": model.batches_halved}
    return {"message": ""}


def report() -> dict[str, Any]:
    """Everything that is run out of memory, in one process."""
    started = time.perf_counter()
    return {
        **{str(batch): run_twice(*batch) for batch in BATCHES},
        "threads": run_in_threads(2, 1),
        "many threads": run_in_threads(4, 2),
        "one row": refusal(load(room_rows=0), 5),
        "fixed": refusal(load(room_rows=5, num_rows=6), 6),
        "unbatched": refusal(load(room_rows=5), 6, can_halve=False),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": time.perf_counter() - started,
    }


@pytest.fixture(scope="module")
def reported() -> dict[str, Any]:
    code = "import json, test_memory; print(json.dumps(test_memory.report()))"
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "model")))
    environment = {**os.environ, "PYTHONPATH": paths, "TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_a_batch_without_room_is_halved_and_gives_the_values_of_single_rows(
    reported: dict[str, Any], batch: tuple[int, int, int]
) -> None:
    found = reported[str(batch)]
    num_rows, room_rows, _ = batch
    assert found["is_same"]
    first, second = found["counts"]
    assert second == first, "what the device has room for was forgotten"
    if num_rows <= room_rows:
        assert first == [None, 0]
    else:
        assert room_rows / 2 <= first[0] <= room_rows
        assert 1 <= first[1] <= np.ceil(np.log2(num_rows)) + 1, "more than one halving of each size"


@pytest.mark.parametrize("case", ["threads", "many threads"])
def test_several_threads_run_out_of_memory_at_once(reported: dict[str, Any], case: str) -> None:
    found = reported[case]
    assert all(found["are_same"])
    assert 5 <= found["max_rows"] <= 10
    assert 1 <= found["halved"] <= 4 * 5


@pytest.mark.parametrize(("case", "num_rows"), [("one row", 1), ("fixed", 6), ("unbatched", 6)])
def test_what_cannot_be_halved_ends_it_with_what_tensorflow_asked_for(
    reported: dict[str, Any], case: str, num_rows: int
) -> None:
    message = reported[case]["message"]
    assert message.startswith(f"the device has no room for a batch of {num_rows} rows: OOM when allocating tensor")
    assert "70368744177665" in message, "the shape that was asked for"


def test_what_is_refused_is_never_taken(reported: dict[str, Any]) -> None:
    assert reported["peak_bytes"] < 1.5 * 2**30
