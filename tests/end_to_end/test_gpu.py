"""Whole jobs on a real GPU, as the command runs them. Needs what tests/model/test_gpu.py needs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import NUM_FEATURES, is_below, wait_for, write_rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.ray,
    pytest.mark.tf,
    pytest.mark.skipif(
        not (Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()), reason="no GPU here"
    ),
]

NUM_FILES, ROWS = 40, 500


@pytest.fixture
def many(tmp_path: Path) -> str:
    for number in range(NUM_FILES):
        write_rows(tmp_path / "in" / f"f{number:02}.parquet", number * ROWS, (number + 1) * ROWS)
    return str(tmp_path / "in")


def words(model: str, inputs: str, output: Path, *options: str) -> list[str]:
    places = ["--model", model, "--input", inputs, "--output", str(output), "--shard-size", "5000", "--json"]
    return [sys.executable, "-m", "jobs.score", *places, *options]


def score(model: str, inputs: str, output: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run(words(model, inputs, output, *options), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    summary: dict[str, Any] = json.loads(done.stdout)
    print({name: summary[name] for name in ("devices", "batches_halved", "bytes_stable", "rows_per_second")})
    assert summary["rows_out"] == NUM_FILES * ROWS
    assert ids(output) == list(range(NUM_FILES * ROWS))
    return summary


def ids(output: Path) -> list[int]:
    return [i for part in sorted(output.glob("part-*")) for i in pq.read_table(part)["id"].to_pylist()]


def predictions(output: Path) -> np.ndarray:
    tables = [pq.read_table(part)["prediction"] for part in sorted(output.glob("part-*"))]
    return np.array([value for table in tables for value in table.to_pylist()])


def gpu_name() -> str:
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


def test_a_job_on_a_whole_gpu_agrees_with_one_on_cpus(model: str, many: str, tmp_path: Path) -> None:
    summary = score(model, many, tmp_path / "gpu", "--actors", "1", "--gpus-per-actor", "1")
    (device,) = summary["devices"]
    assert (device["device"], device["device_name"], device["visible_gpus"]) == ("GPU", gpu_name(), "0")
    assert device["device_memory_bytes"] > 2**30
    assert summary["bytes_stable"]
    cpu = score(model, many, tmp_path / "cpu", "--actors", "1", "--gpus-per-actor", "0")
    assert [each["device"] for each in cpu["devices"]] == ["CPU"]
    np.testing.assert_allclose(predictions(tmp_path / "gpu"), predictions(tmp_path / "cpu"), atol=5e-3)


def test_two_actors_share_a_gpu(many: str, tmp_path: Path) -> None:
    model = graphs.write(tmp_path / "slow.pb", graphs.slow(NUM_FEATURES))
    summary = score(model, many, tmp_path / "out", "--gpus-per-actor", "0.5", "--actors", "2", "--batch-size", "64")
    assert [each["visible_gpus"] for each in summary["devices"]] == ["0", "0"]
    assert len({each["pid"] for each in summary["devices"]}) == 2
    assert len({each["device_memory_bytes"] for each in summary["devices"]}) == 1


def test_a_full_gpu_halves_the_batches_of_a_job(many: str, tmp_path: Path) -> None:
    model = graphs.write(tmp_path / "wide.pb", graphs.wide(NUM_FEATURES, 2**22))  # 16 MiB a row
    options = ["--gpus-per-actor", "0.05", "--actors", "1", "--batch-size", "500"]
    summary = score(model, many, tmp_path / "out", *options)
    assert summary["batches_halved"] >= 1
    assert not summary["bytes_stable"]
    assert "the device ran out of memory" in summary["bytes_stable_reason"]


def test_a_killed_actor_gives_its_gpu_to_the_next(many: str, tmp_path: Path) -> None:
    model = graphs.write(tmp_path / "slow.pb", graphs.slow(NUM_FEATURES))
    options = ["--gpus-per-actor", "1", "--actors", "1", "--batch-size", "1"]
    command = words(model, many, tmp_path / "out", *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        wait_for(lambda: any((tmp_path / "out").glob("part-*")))
        for actor in actors_below(job.pid):
            os.kill(actor, signal.SIGKILL)
        out, told = job.communicate(timeout=200)
    assert job.returncode == 0, told[-4000:]
    summary = json.loads(out)
    assert (summary["actors"], summary["actors_lost"]) == (2, 1)
    assert ids(tmp_path / "out") == list(range(NUM_FILES * ROWS))


def actors_below(pid: int) -> list[int]:
    """Actors of the Ray that a process started."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and is_below(int(folder.name), pid):
            name = (folder / "cmdline").read_bytes()
            found += [int(folder.name)] if name.startswith(b"ray::ScoringActor") else []
    return found
