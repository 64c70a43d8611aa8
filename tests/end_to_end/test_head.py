"""Against a cluster of its own, as `ray start --head` makes it, with two GPUs declared on a CPU machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import graphs
import pyarrow.parquet as pq
import pytest
from conftest import NUM_FEATURES, write_rows

pytestmark = [pytest.mark.ray, pytest.mark.tf]

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60


@dataclass(frozen=True)
class Head:
    address: str
    dashboard: str
    env: dict[str, str]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=240, check=False)

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        job = ["ray", "job", "submit", "--address", self.dashboard, "--working-dir", ".", "--", "python", "-m"]
        return self.run(*job, "jobs.score", *words)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Ray's sockets live below its folder, and their paths are limited to 107 characters. A home of its own keeps
    # this cluster's token, if it makes one, apart from the user's.
    folder = tempfile.mkdtemp(prefix="ice", dir="/tmp")
    port, dashboard_port = free_port(), free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"HOME": folder, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"}
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus", "2", "--num-gpus", "2"]
    command += ["--port", str(port), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port)]
    command += ["--dashboard-agent-listen-port", str(free_port())]  # another Ray here has the usual one
    log = open(f"{folder}/head.log", "wb")  # noqa: SIM115 (it lives as long as the cluster)
    ray = subprocess.Popen([*command, "--temp-dir", f"{folder}/ray"], env=env, stdout=log, stderr=log)
    dashboard = f"http://127.0.0.1:{dashboard_port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{dashboard}/api/jobs/"):
            assert time.monotonic() < deadline, Path(log.name).read_text()
            assert ray.poll() is None, Path(log.name).read_text()
            time.sleep(0.5)
        yield Head(f"127.0.0.1:{port}", dashboard, env)
    finally:
        ray.send_signal(signal.SIGTERM)
        ray.wait(30)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def test_a_submitted_job_scores_and_resumes(head: Head, model: str, inputs: str, tmp_path: Path) -> None:
    words = ["--model", model, "--input", inputs, "--output", str(tmp_path / "out"), "--shard-size", "1000"]
    done = head.submit(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "400 in, 400 out" in done.stdout
    assert sum(pq.read_metadata(path).num_rows for path in (tmp_path / "out").glob("part-*")) == 400
    again = head.submit(*words)
    assert again.returncode == 0
    assert "nothing was left to score" in again.stdout


def test_a_mistake_fails_the_submitted_job(head: Head, model: str, inputs: str, tmp_path: Path) -> None:
    done = head.submit("--model", model, "--input", inputs, "--output", "relative")
    assert done.returncode != 0
    assert "--output relative: a relative path inside a Ray job" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "visible"),
    [([], ["0", "1"]), (["--gpus-per-actor", "0.5"], ["0", "0", "1", "1"]), (["--gpus-per-actor", "0"], ["", ""])],
)
def test_actors_share_the_declared_gpus(head: Head, tmp_path: Path, options: list[str], visible: list[str]) -> None:
    num_files = 120 * len(visible)  # work until the last actor is ready, which takes long beside other tests
    for number in range(num_files):
        write_rows(tmp_path / "in" / f"f{number:02}.parquet", number * 100, number * 100 + 100)
    model = graphs.write(tmp_path / "slow.pb", graphs.slow(NUM_FEATURES))
    words = ["--model", model, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    score = [sys.executable, "-m", "jobs.score", "--address", head.address, "--json", "--quiet"]
    done = head.run(*score, *words, *options, "--shard-size", "4000")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert sorted(device["visible_gpus"] for device in summary["devices"]) == visible
    assert summary["rows_out"] == num_files * 100


def test_a_share_that_no_node_has_is_told(head: Head, model: str, inputs: str, tmp_path: Path) -> None:
    words = ["--model", model, "--input", inputs, "--output", str(tmp_path / "out"), "--gpus-per-actor", "8"]
    done = head.run(sys.executable, "-m", "jobs.score", "--address", head.address, *words)
    assert done.returncode == 2
    assert "no node has room for one actor of 8 GPU" in done.stderr
