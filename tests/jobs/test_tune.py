import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import is_below, wait_for

from engine.config import build_config
from engine.errors import ConfigError
from engine.preparing.call import job_settings
from jobs.__main__ import app
from jobs.command_line import run


@pytest.fixture
def words(model: str, inputs: str, tmp_path: Path) -> list[str]:
    return ["tune", model, "--input", inputs, "--output", str(tmp_path / "tune")]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--feed", "input:0=inputs"], "no tensor input:0"),
        (["--feed", "inputs:0=pixels"], "no column 'pixels'"),
        (["--keep", "name"], "no column 'name'"),
        (["--precision", "int8"], "--precision: expected one or more of float32, bfloat16, float16"),
        (["--xla", "maybe"], "--xla: expected one or more of off, on"),
        (["--seconds", "0"], "--seconds: expected a number"),
        (["--rows", "none"], "--rows: expected a whole number"),
        (["--batch-size", "7"], "--batch-size"),  # that is what is found out
        (["--address", "auto"], "--address"),
    ],
)
def test_mistakes_end_before_anything_is_measured(
    words: list[str], more: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, [*words, *more]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert expected in printed.err
    assert not (tmp_path / "tune").exists()


def test_the_model_may_come_from_the_job_file(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del words[1]
    assert run(app, words) == 2
    assert "--model is missing" in capsys.readouterr().err
    (tmp_path / "job.toml").write_text('model = "nowhere.pb"\noutput = "out"\nbatch_size = 3\nprecision = "bfloat16"\n')
    assert run(app, [*words, "--config", str(tmp_path / "job.toml")]) == 2
    assert "nowhere.pb: no such file" in capsys.readouterr().err


def test_files_that_are_there_are_not_replaced(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tune").mkdir()
    (tmp_path / "tune" / "job.toml").write_text("precious")
    (tmp_path / "tune" / "notes.txt").write_text("in nobody's way")
    assert run(app, words) == 2
    assert "job.toml would be replaced; name another, or type --overwrite" in capsys.readouterr().err
    words[words.index("--output") + 1] = str(tmp_path / "tune" / "notes.txt")
    assert run(app, words) == 2
    assert "expected a folder of this machine" in capsys.readouterr().err


def test_what_was_said_of_the_job_is_kept_with_whole_paths_and_without_secrets(tmp_path: Path) -> None:
    config = build_config({"model": "m.pb", "input": ["in"], "output": "out", "where": "a = 1", "overwrite": True})
    settings = job_settings(config)
    assert settings["model"] == os.path.abspath("m.pb")
    assert settings["input"] == [os.path.abspath("in")]
    assert (settings["where"], settings["overwrite"]) == (["a = 1"], True)
    assert "fill" not in settings
    with pytest.raises(ConfigError):
        job_settings(build_config({"model": "m.pb", "input": ["in"], "output": "nowhere://k:secret@b/out"}))


def children(parent: int) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if pid != parent and is_below(pid, parent)]


@pytest.mark.tf
def test_an_interrupt_ends_all_processes_at_once(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs", *words]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: bool(children(started.pid)))
    pids = children(started.pid)
    now = time.monotonic()
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=30)
    assert time.monotonic() - now < 2
    assert (started.returncode, out) == (130, "")
    assert "interrupted by SIGINT; nothing was written" in err
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert not (tmp_path / "tune").exists()
