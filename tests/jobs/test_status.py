"""`icefloe status`, on a real job that goes on in another process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import wait_for

from engine.data.status import read_status
from engine.data.storage.local_folder import LocalFolder
from engine.data.timeline import ATTEMPT, read_timeline

ROOT = Path(__file__).resolve().parents[2]


def icefloe(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "jobs", *words],
        cwd="/", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.ray
@pytest.mark.tf
def test_a_job_is_followed_from_another_process(model: str, inputs: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = [
        "score",
        "--model",
        model,
        "--input",
        inputs,
        "--output",
        str(out),
        "--shard-size",
        "1000",
        "--batch-size",
        "8",
    ]
    with icefloe(*job, "--actors", "2", "--quiet") as scoring:
        wait_for(lambda: (out / "_icefloe/status.json").exists() or scoring.poll() is not None)
        with icefloe("status", str(out), "--json") as once:
            told = json.loads(once.communicate(timeout=60)[0])
        with icefloe("status", str(out), "--verbose") as following:
            table, progress = following.communicate(timeout=120)
        _, errors = scoring.communicate(timeout=60)
    assert (scoring.returncode, once.returncode, following.returncode) == (0, 0, 0), errors
    assert errors == ""
    assert told["pid"] == scoring.pid
    assert told["state"] in ("starting", "loading", "scoring", "done")
    assert progress.startswith("icefloe: ")
    lines = table.splitlines()
    assert lines[:2] == ["Status", "state     done"]
    summary = json.loads((out / "_icefloe/summary.json").read_text())
    folder = LocalFolder(str(out))
    status, spans = read_status(folder), read_timeline(folder)
    assert status is not None
    assert (status.rows, status.shards_done, status.attempts) == (
        summary["rows_out"], summary["parts"], summary["attempts"],
    )  # fmt: skip
    assert f"shards    {status.shards:,} done of {status.shards:,} shards" in lines
    assert sum(span.rows for span in spans if span.kind == ATTEMPT) == summary["rows_out"]
    sessions = sum(span.session_seconds for span in spans)
    assert sessions == pytest.approx(summary["phase_seconds"]["session"], rel=0.01)
    assert "<svg" in (out / "_icefloe/report.html").read_text()


def test_a_folder_without_a_job_is_a_mistake(tmp_path: Path) -> None:
    with icefloe("status", str(tmp_path)) as done:
        output, errors = done.communicate(timeout=60)
    assert (done.returncode, output) == (2, "")
    assert errors.startswith(f"icefloe: error: {tmp_path} is no output of icefloe: no _icefloe/plan.json is in it")
