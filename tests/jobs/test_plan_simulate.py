import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.__main__ import app
from jobs.command_line import run


@pytest.fixture
def words(model: str, inputs: str, tmp_path: Path) -> list[str]:
    return ["plan", "--model", model, "--input", inputs, "--output", str(tmp_path / "out"), "--shard-size", "1000"]


def test_the_command_tells_how_long_it_would_take(words: list[str]) -> None:
    command = [sys.executable, "-m", "jobs", *words, "--simulate", "2", "--rate", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()[-3:]]
    assert lines[0].startswith("simulated")
    assert "on 2 actors, at work for" in lines[0]
    assert lines[0].endswith("rows (estimated by bytes, from the first footer)")
    assert lines[1].startswith("0.5 rows/s an actor (as given), 10 s to load the model (assumed); no faults")
    assert "--shard-size" in lines[2]


def test_a_simulation_as_json(words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(app, [*words, "--simulate", "64", "--rate", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["simulated"]["num_actors"] == 64
    assert found["simulated"]["num_shards"] == found["num_shards"]
    assert found["simulated"]["wall_seconds"] > 10
    assert not (tmp_path / "out").exists()


def test_without_a_rate_the_command_asks_for_one(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, [*words, "--simulate", "64"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "--simulate 64: how fast is one actor?" in printed.err
    assert "--rate R" in printed.err


def test_the_job_file_may_ask_for_it(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.toml").write_text("simulate = 4\nrate = 10.0\n")
    assert run(app, [*words, "--config", str(tmp_path / "job.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["simulated"]["rate"] == 10.0
