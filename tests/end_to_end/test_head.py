"""Against a cluster of its own, as `ray start --head` makes it, with two GPUs declared on a CPU machine."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import graphs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import NUM_FEATURES, wait_for, write_rows

pytestmark = [pytest.mark.ray, pytest.mark.tf]

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60
UNAUTHORIZED = 401
NUM_SLOW_FILES = 150  # some three seconds of work


@dataclass(frozen=True)
class Head:
    address: str
    dashboard: str
    env: dict[str, str]

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        settings = {"env": self.env | env, "cwd": ROOT, "text": True}
        return subprocess.run(words, **settings, capture_output=True, timeout=240, check=False)

    def score(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "jobs.score", "--address", self.address, *words, **env)

    def job(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("ray", "job", verb, "--address", self.dashboard, "--log-color", "false", *words)

    def submit(self, *words: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return self.job("submit", "--working-dir", ".", *flags, "--", "python", "-m", "jobs.score", *words)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with started_head("2", "2") as head:
        yield head


@contextlib.contextmanager
def started_head(num_cpus: str, num_gpus: str, token: str = "") -> Iterator[Head]:
    # Ray's sockets live below its folder, and their paths are limited to 107 characters. A home of its own keeps
    # this cluster's token, if it has one, apart from the user's.
    folder = tempfile.mkdtemp(prefix="ice", dir="/tmp")
    if token:
        (Path(folder) / ".ray").mkdir()
        (Path(folder) / ".ray/auth_token").write_text(token)
    port, dashboard_port = free_port(), free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"HOME": folder, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"}
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus", num_cpus]
    command += ["--num-gpus", num_gpus, "--port", str(port)]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port)]
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
    except urllib.error.HTTPError as error:
        return error.code == UNAUTHORIZED
    except OSError:
        return False


def test_a_submitted_job_scores_and_resumes(head: Head, model: str, inputs: str, tmp_path: Path) -> None:
    words = ["--model", model, "--input", inputs, "--output", str(tmp_path / "out"), "--shard-size", "1000"]
    words += ["--gpus-per-actor", "0"]
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


def test_too_many_bad_rows_fail_the_submitted_job(head: Head, model: str, inputs: str, tmp_path: Path) -> None:
    rows = pq.read_table(f"{inputs}/f0.parquet")
    values = [*rows["inputs"].to_pylist()[:99], None]
    pq.write_table(rows.set_column(1, "inputs", pa.array(values, rows["inputs"].type)), f"{inputs}/f0.parquet")
    words = ["--model", model, "--input", inputs, "--output", str(tmp_path / "out"), "--gpus-per-actor", "0"]
    done = head.submit(*words, flags=("--submission-id", "bad-rows"))
    assert done.returncode == 1
    assert "1 bad row where --max-bad-rows allows 0" in done.stdout
    status = head.job("status", "bad-rows")
    assert "Job 'bad-rows' failed" in status.stdout + status.stderr
    again = head.submit(*words, flags=("--submission-id", "bad-rows"))
    assert again.returncode == 1
    assert "submission_id bad-rows already exists" in again.stderr


def test_a_stopped_job_resumes(head: Head, tmp_path: Path) -> None:
    for number in range(NUM_SLOW_FILES):
        write_rows(tmp_path / "in" / f"f{number:03}.parquet", number * 100, number * 100 + 100)
    model, out = graphs.write(tmp_path / "slow.pb", graphs.slow(NUM_FEATURES)), tmp_path / "out"
    words = ["--model", model, "--input", str(tmp_path / "in"), "--output", str(out), "--shard-size", "4000"]
    words += ["--gpus-per-actor", "0"]
    begun = head.submit(*words, flags=("--no-wait", "--submission-id", "stopped"))
    assert begun.returncode == 0, begun.stderr
    wait_for(lambda: bool(list(out.glob("part-*"))))
    assert head.job("stop", "stopped").returncode == 0
    status = head.job("status", "stopped")
    assert "Job 'stopped' was stopped" in status.stdout + status.stderr
    assert "interrupted by SIGTERM" in head.job("logs", "stopped").stdout
    num_before = len(list(out.glob("part-*")))
    assert num_before < NUM_SLOW_FILES
    assert not (out / "_SUCCESS").exists()
    done = head.submit(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{NUM_SLOW_FILES} ({num_before} of them by an earlier run)" in done.stdout
    parts = sorted(out.glob("part-*"))
    ids = [row for part in parts for row in pq.read_table(part)["id"].to_pylist()]
    assert ids == list(range(NUM_SLOW_FILES * 100))
    assert (out / "_SUCCESS").exists()


def test_a_cluster_with_a_token_takes_only_clients_that_have_it(model: str, inputs: str, tmp_path: Path) -> None:
    token = secrets.token_hex(32)
    words = ["--model", model, "--input", inputs, "--output", str(tmp_path / "out")]
    with started_head("1", "0", token) as head:
        stranger = head.score(*words)  # the token lies in its home, but it sends it only when it is told to
        assert stranger.returncode == 2
        assert "the cluster asks for a token: set RAY_AUTH_MODE=token" in stranger.stderr
        without = head.score(*words, HOME=str(tmp_path), RAY_AUTH_MODE="token")
        assert without.returncode == 2
        assert "the cluster asks for a token" in without.stderr
        assert not (tmp_path / "out").exists()
        done = head.score(*words, HOME=str(tmp_path), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
        assert done.returncode == 0, done.stderr
        assert "400 in, 400 out" in done.stdout


@pytest.mark.parametrize(
    ("options", "visible"),
    [
        (["--allow-cpu"], ["0", "1"]),
        (["--gpus-per-actor", "0.5", "--allow-cpu"], ["0", "0", "1", "1"]),
        (["--gpus-per-actor", "0"], ["", ""]),
    ],
)
def test_actors_share_the_declared_gpus(head: Head, tmp_path: Path, options: list[str], visible: list[str]) -> None:
    num_files = 120 * len(visible)  # work until the last actor is ready, which takes long beside other tests
    for number in range(num_files):
        write_rows(tmp_path / "in" / f"f{number:02}.parquet", number * 100, number * 100 + 100)
    model = graphs.write(tmp_path / "slow.pb", graphs.slow(NUM_FEATURES))
    words = ["--model", model, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    done = head.score("--json", "--quiet", *words, *options, "--shard-size", "4000")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert sorted(device["visible_gpus"] for device in summary["devices"]) == visible
    assert summary["rows_out"] == num_files * 100


def test_a_share_that_no_node_has_is_told(head: Head, model: str, inputs: str, tmp_path: Path) -> None:
    words = ["--model", model, "--input", inputs, "--output", str(tmp_path / "out"), "--gpus-per-actor", "8"]
    done = head.score(*words)
    assert done.returncode == 2
    assert "no node has room for one actor of 8 GPU" in done.stderr
