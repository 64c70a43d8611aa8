"""Kills by script: the whole job, its actors, its driver by signal. Afterwards: no row twice, none missing."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import graphs
import pyarrow.parquet as pq
import pytest
from conftest import actor_processes, wait_for, write_rows

from engine import JobConfig, score
from engine.errors import WorkerLostError

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.chaos]

NUM_FILES, ROWS = 40, 500


@pytest.fixture
def many_files(tmp_path: Path) -> str:
    for number in range(NUM_FILES):
        start = number * ROWS
        write_rows(tmp_path / "in" / f"f{number:02}.parquet", start, start + ROWS, row_group_size=50)
    return str(tmp_path / "in")


def words(model: str, inputs: str, output: Path) -> list[str]:
    options = ["--model", model, "--input", inputs, "--output", str(output), "--shard-size", "1500"]
    return [sys.executable, "-m", "jobs.score", *options, "--batch-size", "16", "--actors", "2", "--json"]


def part_hashes(output: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in output.glob("part-*")}


def ids(output: Path) -> list[int]:
    return [i for name in sorted(part_hashes(output)) for i in pq.read_table(output / name)["id"].to_pylist()]


def start_and_interrupt(command: list[str], output: Path, number: signal.Signals, group: bool) -> tuple[int, float]:
    """Run a job, signal it once some parts are there, and return its exit code and the seconds that it took to end."""
    job = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(output.glob("part-*"))) > 15)
    assert job.poll() is None
    signalled = time.monotonic()
    (os.killpg if group else os.kill)(job.pid, number)
    return job.wait(30), time.monotonic() - signalled


@pytest.fixture
def quiet_run(model: str, many_files: str, tmp_path: Path) -> dict[str, str]:
    done = subprocess.run(words(model, many_files, tmp_path / "quiet"), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["rows_out"] == NUM_FILES * ROWS
    return part_hashes(tmp_path / "quiet")


def test_a_killed_job_resumes_to_the_same_bytes(
    model: str, many_files: str, tmp_path: Path, quiet_run: dict[str, str]
) -> None:
    output = tmp_path / "out"
    command = words(model, many_files, output)
    code, _ = start_and_interrupt(command, output, signal.SIGKILL, group=True)
    assert code == -signal.SIGKILL
    found = len(part_hashes(output))
    assert 0 < found < len(quiet_run)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert found <= summary["parts_earlier"] < len(quiet_run)
    assert (summary["rows_in"], summary["rows_out"]) == (NUM_FILES * ROWS, NUM_FILES * ROWS)
    assert ids(output) == list(range(NUM_FILES * ROWS))
    assert part_hashes(output) == quiet_run
    assert not list(output.glob(".icefloe-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_says_so_and_resumes(
    model: str, many_files: str, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "out"
    command = words(model, many_files, output)
    code, seconds = start_and_interrupt(command, output, number, group=False)
    assert code == 130
    assert seconds < 5
    subprocess.run(command, capture_output=True, check=True)
    assert ids(output) == list(range(NUM_FILES * ROWS))


@pytest.mark.parametrize("stage", ["starting Ray", "loading the model"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_before_the_first_shard(
    model: str, many_files: str, tmp_path: Path, number: signal.Signals, stage: str
) -> None:
    command = words(model, many_files, tmp_path / "out")
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as job:
        assert job.stderr
        for line in job.stderr:
            if stage in line:
                break
        time.sleep(0.7)  # well inside
        job.send_signal(number)
        told = job.stderr.read()
        assert job.wait(30) == 130, told
    assert "icefloe: error: interrupted" in told
    assert "Traceback" not in told


@pytest.mark.usefixtures("local_ray")
def test_a_killed_actor_is_replaced(model: str, many_files: str, tmp_path: Path) -> None:
    output, killed = tmp_path / "out", []

    def kill_one() -> None:
        before = set(actor_processes())  # of other jobs on this machine: not ours to kill
        wait_for(lambda: len(list(output.glob("part-*"))) > 5)
        mine = [pid for pid in actor_processes() if pid not in before]
        os.kill(mine[0], signal.SIGKILL)
        killed.append(mine[0])

    killer = threading.Thread(target=kill_one)
    killer.start()
    config = JobConfig(model=model, input=(many_files,), output=str(output), shard_size=1500, batch_size=16, actors=2)
    summary = score(config)
    killer.join()
    assert killed
    assert summary.actors_lost == 1
    assert summary.rows_out == NUM_FILES * ROWS
    assert ids(output) == list(range(NUM_FILES * ROWS))


@pytest.mark.usefixtures("local_ray")
def test_an_actor_that_always_dies_fails_the_job_with_its_shard(tmp_path: Path, many_files: str) -> None:
    # No graph of ours kills its process on purpose, so the actors are killed as soon as they appear.
    stop = threading.Event()

    def kill_all() -> None:
        before = set(actor_processes())
        while not stop.wait(0.2):
            for pid in set(actor_processes()) - before:
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        with pytest.raises(WorkerLostError, match="3 actors in a row were lost while loading the model"):
            score(
                JobConfig(
                    model=graphs.write(tmp_path / "m.pb", graphs.linear()),
                    input=(many_files,),
                    output=str(tmp_path / "out"),
                )
            )
    finally:
        stop.set()
        killer.join()
